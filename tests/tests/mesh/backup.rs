//! A backup that is made under load is a state, elsewhere.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use brahman_card::ModuleState;
use brahman_tests::{Mesh, Setup, binary, shipped};
use serde_json::{Value, json};

const MODULES: [&str; 5] = ["broker", "catalog", "ingest", "embed-mock", "index"];

async fn ready(mesh: &Mesh) {
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh.when_served_by("org.brahman.Ingest", "ingest").await;
    mesh.when_served_by("org.brahman.Index", "index").await;
}

async fn ingest(mesh: &Mesh, dataset: &str, word: &str) {
    let file = mesh.folder.path().join(format!("{dataset}-{word}.csv"));
    let lines: String = (0..50).map(|row| format!("{row},{word} {row}\n")).collect();
    std::fs::write(&file, format!("id,text\n{lines}")).expect("written");
    let ask = json!({"dataset": dataset, "paths": [file.display().to_string()], "pii": false});
    mesh.call("org.brahman.Ingest.Files", ask).await.expect("ingested");
}

/// Restores a backup into what a new mesh will have as its state, and starts that.
async fn restored(file: &str) -> Mesh {
    let setup = Setup::new(&MODULES.map(shipped));
    let mut command = Command::new(binary("brahman"));
    command.env_clear().args(["restore", file, "--state"]).arg(setup.state());
    let out = command.output().expect("it runs");
    assert!(out.status.success(), "{out:?}");
    let mesh = setup.up().await;
    ready(&mesh).await;
    mesh
}

/// How many backups are taken at moments of their own; $BRAHMAN_TEST_BACKUPS asks for more.
fn backups() -> usize {
    std::env::var("BRAHMAN_TEST_BACKUPS").ok().and_then(|count| count.parse().ok()).unwrap_or(3)
}

#[tokio::test]
async fn a_backup_under_load_is_a_whole_mesh_at_another_path() {
    let mesh = Setup::new(&MODULES.map(shipped)).up().await;
    ready(&mesh).await;
    for name in ["still", "busy"] {
        ingest(&mesh, name, "first").await;
        mesh.call(
            "org.brahman.Index.Create",
            json!({"name": name, "dataset": name, "id_column": "id", "text_column": "text"}),
        )
        .await
        .expect("created");
        mesh.call("org.brahman.Index.Refresh", json!({ "name": name })).await.expect("refreshed");
    }
    let ask = json!({"index": "still", "text": "first 7", "mode": "lexical", "k": 3});
    let before = mesh.call("org.brahman.Index.Search", ask.clone()).await.expect("found");
    let over = Arc::new(AtomicBool::new(false));
    let load = async {
        let mut n = 0;
        while !over.load(Ordering::Relaxed) {
            n += 1;
            ingest(&mesh, "busy", &format!("word{n}")).await;
            if n % 3 == 0 {
                mesh.call("org.brahman.Index.Refresh", json!({"name": "busy"}))
                    .await
                    .expect("refreshed");
            }
        }
    };
    // The mesh's own folder goes with it.
    let kept = tempfile::tempdir().expect("a temporary directory");
    let files: Vec<String> = (0..backups())
        .map(|n| kept.path().join(format!("{n}.tar")).display().to_string())
        .collect();
    let (done, wanted, socket) = (Arc::clone(&over), files.clone(), mesh.socket());
    let taking = tokio::task::spawn_blocking(move || {
        for file in &wanted {
            let mut command = Command::new(binary("brahman"));
            let out = command
                .env_clear()
                .env("BRAHMAN_SOCKET", &socket)
                .args(["backup", file, "--json"])
                .output()
                .expect("it runs");
            assert!(out.status.success(), "{out:?}");
            let told: Value = serde_json::from_slice(&out.stdout).expect("JSON");
            assert_eq!(
                (&told["left_out"], told["datasets"].as_array().map(Vec::len)),
                (&json!([]), Some(2)),
                "{told}"
            );
        }
        done.store(true, Ordering::Relaxed);
    });
    let (taken, ()) = tokio::join!(taking, load);
    taken.expect("every backup");
    let refused = mesh.brahman(&["backup", &files[0]]);
    assert_eq!(refused.status.code(), Some(6), "what is there is not written over: {refused:?}");
    let left: Vec<String> = std::fs::read_dir(mesh.folder.path().join("state"))
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".backup-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let pins = mesh.call("org.brahman.Catalog.Get", json!({"name": "busy"})).await.expect("there");
    assert!(pins.get("pins").is_none(), "the backups' pins were taken away");
    mesh.down();

    for file in &files {
        let mesh = restored(file).await;
        for name in ["still", "busy"] {
            let got =
                mesh.call("org.brahman.Catalog.Get", json!({ "name": name })).await.expect("there");
            assert_eq!((&got["dataset"]["rows"], got.get("missing")), (&json!(50), None), "{got}");
            let url = got["dataset"]["objects"][0]["url"]
                .as_str()
                .expect("a url")
                .trim_start_matches("file://")
                .to_owned();
            assert!(
                std::path::Path::new(&url).exists()
                    && url.starts_with(&mesh.folder.path().display().to_string()),
                "{url}"
            );
            let stats =
                mesh.call("org.brahman.Index.Stats", json!({ "name": name })).await.expect("there");
            let same = stats["index"]["dataset_run"] == got["dataset"]["run_id"];
            assert_eq!(
                stats["index"]["stale"], !same,
                "stale wherever the content differs: {stats}"
            );
            let stale = got["dataset"]["stale"].as_array().expect("a list");
            assert_eq!(stale.contains(&json!(name)), !same, "and the catalog says the same: {got}");
            // Everything in the index is whole.
            let doctor = mesh.brahman(&["index", "doctor", name]);
            assert!(doctor.status.success(), "{doctor:?}");
        }
        let now = mesh.call("org.brahman.Index.Search", ask.clone()).await.expect("found");
        assert_eq!(now["results"], before["results"], "the same answer");
        let list = mesh.call("org.brahman.Catalog.List", json!({})).await.expect("listed");
        assert!(list.get("notes").is_none(), "nothing is in doubt: {list}");
        // And it goes on.
        ingest(&mesh, "busy", "after").await;
        mesh.call("org.brahman.Index.Refresh", json!({"name": "busy"})).await.expect("refreshed");
        assert_eq!(
            mesh.call("org.brahman.Index.Stats", json!({"name": "busy"})).await.expect("there")["index"]
                ["stale"],
            false
        );
        mesh.down();
    }
}

#[tokio::test]
async fn a_backup_needs_a_mesh_and_a_restore_an_empty_place() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary("brahman"));
        command
            .env_clear()
            .env("BRAHMAN_SOCKET", home.path().join("none.sock"))
            .args(arguments)
            .output()
            .expect("it runs")
            .status
            .code()
    };
    let (file, state) =
        (home.path().join("x.tar").display().to_string(), home.path().display().to_string());
    assert_eq!(run(&["backup", &file]), Some(3));
    assert_eq!(run(&["restore", &file, "--state", &format!("{state}/new")]), Some(6));
    std::fs::write(&file, "no archive").expect("written");
    assert_eq!(run(&["restore", &file, "--state", &format!("{state}/new")]), Some(6));
    assert_eq!(run(&["restore", &file, "--state", &state]), Some(6), "it is not empty");
}

#[tokio::test]
async fn a_backup_needs_no_index_module_and_tells_what_it_leaves_out() {
    let mesh = Setup::new(&MODULES.map(shipped)).up().await;
    ready(&mesh).await;
    ingest(&mesh, "d", "word").await;
    mesh.call(
        "org.brahman.Index.Create",
        json!({"name": "i", "dataset": "d", "id_column": "id", "text_column": "text"}),
    )
    .await
    .expect("created");
    mesh.call("org.brahman.Index.Refresh", json!({"name": "i"})).await.expect("refreshed");
    assert!(mesh.brahman(&["stop", "index"]).status.success());
    mesh.when_module("index", ModuleState::Stopped).await;
    // A part of the state that lies elsewhere, and a link in it.
    let (state, elsewhere) =
        (mesh.folder.path().join("state"), mesh.folder.path().join("elsewhere"));
    std::fs::create_dir(&elsewhere)
        .and_then(|()| std::fs::write(elsewhere.join("x"), "x"))
        .expect("written");
    std::os::unix::fs::symlink(elsewhere.join("x"), elsewhere.join("inner")).expect("linked");
    std::os::unix::fs::symlink(&elsewhere, state.join("extra")).expect("linked");
    let kept = tempfile::tempdir().expect("a temporary directory");
    let file = kept.path().join("b.tar").display().to_string();
    let told = mesh.brahman_json(&["backup", &file]);
    let left_out: Vec<&str> =
        told["left_out"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(matches!(left_out[..], [one] if one.contains("extra/inner")), "{told}");
    assert_eq!(told["indexes"], json!(["i"]));
    // On standard output there is the backup alone; what is said of it is beside it.
    let piped = mesh.brahman(&["backup", "-"]);
    assert!(
        piped.status.success() && String::from_utf8_lossy(&piped.stderr).contains("extra/inner"),
        "{:?}",
        piped.status
    );
    mesh.down();
    let mesh = restored(&file).await;
    assert_eq!(std::fs::read(mesh.folder.path().join("state/extra/x")).expect("there"), b"x");
    let got = mesh.call("org.brahman.Catalog.Get", json!({"name": "d"})).await.expect("there");
    assert_eq!(got["dataset"]["stale"], json!([]), "{got}");
    let refused = mesh.fault("org.brahman.Catalog.Rename", json!({"name": "d", "to": "e"})).await;
    assert_eq!(refused.name, "org.brahman.Catalog.InUse", "it still feeds its index");
    assert_eq!(
        mesh.call("org.brahman.Index.Stats", json!({"name": "i"})).await.expect("there")["index"]["stale"],
        false
    );
}

#[tokio::test]
async fn what_a_mesh_on_another_state_may_use_is_not_freed() {
    let mesh = Setup::new(&["broker"].map(shipped)).up().await;
    let (other, cache) = (mesh.folder.path().join("other"), mesh.folder.path().join("cache"));
    let caches = ["embed", "embed-0123", "vectors/label", "inputs"].map(|name| cache.join(name));
    for folder in caches.iter().chain([&other.join("mock")]) {
        std::fs::create_dir_all(folder).expect("made");
    }
    let state = other.display().to_string();
    let told = mesh.brahman_json(&["gc", "--state", &state, "--cache", "--mocks"]);
    assert!(!other.join("mock").exists() && caches.iter().all(|cache| cache.is_dir()), "{told}");
    assert_eq!(told["kept"].as_array().map(Vec::len), Some(4), "each says why: {told}");
}
