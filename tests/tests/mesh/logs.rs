//! What modules write outlives them, init, and the mesh.

use std::process::{Command, Output};

use brahman_card::ModuleState;
use brahman_card::interface::Empty;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_tests::{PATIENCE, Setup, binary, script, shipped};
use serde_json::{Value, json};

fn lines(out: &Output) -> Vec<Value> {
    assert!(out.status.success(), "{out:?}");
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect()
}

fn texts(lines: &[Value], label: &str) -> Vec<String> {
    let of_label = lines.iter().filter(|line| line["label"] == label);
    of_label.map(|line| line["text"].as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn logs_survive_init_and_are_read_without_a_mesh() {
    let speaker = script("speaker", "echo one; echo two >&2; exit 78", "");
    let mesh = Setup::new(&[shipped("broker"), speaker]).up().await;
    mesh.when_module("speaker", ModuleState::Failed).await;
    let state = mesh.folder.path().join("state").display().to_string();
    assert!(mesh.brahman(&["down"]).status.success());
    let read = |arguments: &[&str]| {
        let mut command = Command::new(binary("brahman"));
        command
            .env_clear()
            .env("HOME", mesh.folder.path())
            .env("BRAHMAN_SOCKET", mesh.socket())
            .env("BRAHMAN_STATE", &state);
        command.arg("logs").args(arguments).output().expect("it runs")
    };
    let all = lines(&read(&["--since", "1h", "--json"]));
    let mut said = texts(&all, "speaker");
    said.sort_unstable();
    assert_eq!(said, ["one", "two"], "{all:?}");
    assert!(
        texts(&all, "init").iter().any(|text| text.contains("the mesh is up")),
        "init's own lines are kept: {all:?}"
    );
    assert!(all.windows(2).all(|two| two[0]["at_ms"].as_u64() <= two[1]["at_ms"].as_u64()));
    // Without a time, too: the last lines of a module that no longer runs.
    assert_eq!(lines(&read(&["speaker", "--json", "-n", "1"])).len(), 1);
    assert!(lines(&read(&["--since", "2100-01-01", "--json"])).is_empty());
    assert_eq!(read(&["nobody", "--since", "1h"]).status.code(), Some(4));
    assert_eq!(read(&["--since", "some time ago"]).status.code(), Some(2));
}

#[tokio::test]
async fn a_trace_is_found_in_the_lines_of_its_call() {
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")])
        .context("test")
        .env("BRAHMAN_LOG", "debug")
        .up()
        .await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let list = mesh.call("org.brahman.Init.List", json!({})).await.expect("a list");
    let folder = mesh.folder.path().join("state/logs");
    assert_eq!(list["logs"], folder.display().to_string());
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connected");
    let options = CallOptions { trace: Some("4f 1".into()), ..CallOptions::default() };
    let call =
        encode_call("org.brahman.Embed.Info", &Empty {}, &options, false, false).expect("a call");
    connection.send(&call).await.expect("sent");
    connection.receive().await.expect("answered");
    let found = async {
        loop {
            let found = lines(&mesh.brahman(&["logs", "--trace", "4f 1", "--json"]));
            if let Some(line) = found.iter().find(|line| line["label"] == "embed-mock") {
                return line["text"].as_str().expect("text").to_owned();
            }
        }
    };
    let text = tokio::time::timeout(PATIENCE, found).await.expect("it is logged");
    assert!(text.contains("method=\"Info\""), "{text}");
    assert!(lines(&mesh.brahman(&["logs", "--trace", "another", "--json"])).is_empty());
}

#[tokio::test]
async fn under_systemd_the_journal_has_them_and_logs_says_so() {
    let mesh = Setup::new(&[shipped("broker")]).logged_as_a_journal().up().await;
    assert!(!mesh.folder.path().join("state/logs").exists(), "no files beside the journal");
    let out = mesh.brahman(&["logs", "--since", "1h"]);
    assert_eq!(out.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&out.stderr).contains("journalctl"), "{out:?}");
    assert!(
        mesh.brahman(&["logs", "broker"]).status.success(),
        "what is in memory is printed all the same"
    );
}

#[tokio::test]
async fn a_disk_that_is_full_costs_lines_and_nothing_else() {
    let chatter = script("chatter", "echo begun; exit 78", "");
    let setup = Setup::new(&[shipped("broker"), chatter]);
    let logs = setup.state().join("logs");
    std::fs::create_dir_all(&logs).expect("made");
    std::os::unix::fs::symlink("/dev/full", logs.join("chatter.log")).expect("linked");
    let mesh = setup.up().await;
    mesh.when_module("chatter", ModuleState::Failed).await;
    // In memory they are, and how many are not on disk is said.
    let shown = mesh.brahman(&["logs", "chatter"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("begun"), "{shown:?}");
    let waited = async {
        loop {
            let list = mesh.call("org.brahman.Init.List", json!({})).await.expect("a list");
            if list["log_lines_unkept"].as_u64().is_some_and(|lost| lost > 0) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("counted");
    assert!(
        String::from_utf8_lossy(&mesh.brahman(&["status"]).stdout)
            .contains("could not be kept on disk")
    );
}
