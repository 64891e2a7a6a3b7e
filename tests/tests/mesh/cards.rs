//! One Card, several modules: each replica lives by itself, and calls are shared among them.

use brahman_card::ModuleState;
use brahman_tests::{Mesh, Setup, shipped, stranger};
use serde_json::json;

/// Says who it is: in a log of its own when it starts, and in every answer.
fn replicated(replicas: u32) -> (String, String) {
    let handle = "sys.stderr.write('I am ' + os.environ['BRAHMAN_LABEL'] + '\\n'); sys.stderr.flush()\n\
                  def handle(c, m): reply(c, {'parameters': {n: os.environ['BRAHMAN_' + n.upper()] for n in ('label', 'state')}})";
    stranger("w", "org.example.W", &["Who"], handle, &format!("replicas = {replicas}"))
}

async fn who(mesh: &Mesh) -> (String, String) {
    let answer = mesh.call("org.example.W.Who", json!({})).await.expect("answered");
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    (text("label"), text("state"))
}

#[tokio::test]
async fn replicas_have_state_logs_and_lives_of_their_own() {
    let mesh = Setup::new(&[shipped("broker"), replicated(2)]).up().await;
    for label in ["w@1", "w@2"] {
        mesh.when_module(label, ModuleState::Ready).await;
    }
    let status = mesh.brahman_json(&["status"]);
    let labels: Vec<_> =
        status["modules"].as_array().expect("modules").iter().map(|m| m["label"].clone()).collect();
    assert_eq!(labels, [json!("broker"), json!("w@1"), json!("w@2")]);
    for (stopped, left) in [("w@1", "w@2"), ("w@2", "w@1")] {
        assert!(mesh.brahman(&["stop", stopped]).status.success());
        mesh.when_module(stopped, ModuleState::Stopped).await;
        mesh.when_served_by("org.example.W", left).await;
        let (label, state) = who(&mesh).await;
        assert_eq!(
            (label.as_str(), state),
            (left, mesh.folder.path().join("state/replicas").join(left).display().to_string())
        );
        let logs = String::from_utf8_lossy(&mesh.brahman(&["logs", left]).stdout).into_owned();
        assert!(logs.contains(&format!("I am {left}")) && !logs.contains(stopped), "{logs}");
        assert!(mesh.brahman(&["start", stopped]).status.success());
        mesh.when_module(stopped, ModuleState::Ready).await;
    }
    let (first, second) = (mesh.module("w@1").await.pid, mesh.module("w@2").await.pid);
    mesh.signal(first, "KILL");
    mesh.when(|modules| {
        modules.iter().any(|m| {
            m.card.label.as_str() == "w@1" && m.state == ModuleState::Ready && m.pid != first
        })
    })
    .await;
    assert_eq!(mesh.module("w@2").await.pid, second, "another one's death is not its own");
    let logs = String::from_utf8_lossy(&mesh.brahman(&["logs", "w"]).stdout).into_owned();
    assert!(logs.contains("I am w@1") && logs.contains("I am w@2"), "of all of them: {logs}");
    assert!(mesh.brahman(&["stop", "w"]).status.success(), "all of them");
    for label in ["w@1", "w@2"] {
        mesh.when_module(label, ModuleState::Stopped).await;
    }
}

#[tokio::test]
async fn a_card_may_get_more_or_fewer_replicas_while_the_mesh_runs() {
    let mesh = Setup::new(&[shipped("broker"), replicated(2)]).up().await;
    mesh.when_module("w@2", ModuleState::Ready).await;
    let second = mesh.module("w@2").await.pid;
    mesh.write_card(&replicated(3));
    let out = mesh.brahman_json(&["reload"]);
    assert_eq!((&out["added"], &out["changed"]), (&json!(["w@3"]), &json!([])), "{out}");
    mesh.when_module("w@3", ModuleState::Ready).await;
    assert_eq!(mesh.module("w@2").await.pid, second, "who was there stays");
    mesh.write_card(&replicated(1));
    mesh.brahman_json(&["reload"]);
    mesh.when(|modules| {
        modules.iter().map(|m| m.card.label.as_str()).collect::<Vec<_>>() == ["broker", "w"]
    })
    .await;
    mesh.when_served_by("org.example.W", "w").await;
    assert_eq!(
        who(&mesh).await.1,
        mesh.folder.path().join("state").display().to_string(),
        "the only one has the mesh's state"
    );
}
