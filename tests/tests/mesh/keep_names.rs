//! Names are not paths: nothing that is called anything leads out of the folder that it is put
//! into.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use brahman_card::ModuleState;
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::json;

async fn mesh() -> Mesh {
    let mesh = Setup::new(&["broker", "embed-mock", "catalog", "ingest", "index"].map(shipped))
        .context("test")
        .up()
        .await;
    for module in ["catalog", "ingest", "index"] {
        mesh.when_module(module, ModuleState::Ready).await;
    }
    let csv = mesh.folder.path().join("t.csv");
    std::fs::write(&csv, "id,text\na,one\nb,two\n").expect("written");
    mesh.brahman_json(&["ingest", "files", "t", &csv.display().to_string()]);
    mesh.brahman_json(&["index", "create", "t", "--dataset", "t"]);
    mesh.brahman_json(&["index", "refresh", "t"]);
    mesh
}

/// Starts a module anew, and waits until it is ready.
async fn again(mesh: &Mesh, label: &str) {
    let pid = mesh.module(label).await.pid;
    assert!(mesh.brahman(&["restart", label]).status.success());
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == label && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
}

/// What lies in the catalog's folder and in those of buckets and indexes.
fn files(state: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    let mut folders = ["catalog", "buckets", "indexes"].map(|name| state.join(name)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all.insert(path);
            }
        }
    }
    all
}

#[tokio::test]
async fn names_that_lead_elsewhere_or_are_ours_are_refused_and_nothing_goes() {
    let mesh = mesh().await;
    let state = mesh.folder.path().join("state");
    let before = files(&state);
    let long = "x".repeat(129);
    for name in [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "../t",
        "/t",
        "a b",
        "a\u{1b}",
        "a.",
        &long,
        "Rescue.json",
        "index.toml",
    ] {
        let ask = json!({"name": name, "dataset": "t", "id_column": "id", "text_column": "text"});
        let fault = mesh.fault("org.brahman.Index.Create", ask).await;
        assert!(
            fault.name == "org.varlink.service.InvalidParameter"
                && fault.message().contains("expected"),
            "{name:?}: {fault}"
        );
        let gone = mesh
            .call("org.brahman.Index.Delete", json!({"name": name}))
            .await
            .expect("there is none");
        assert_eq!(gone["deleted"], false, "{name:?}");
    }
    let csv = mesh.folder.path().join("t.csv").display().to_string();
    for name in ["..", ".", "a/b", "a.", "buckets", "Buckets", "node"] {
        let refused =
            mesh.fault("org.brahman.Ingest.Files", json!({"dataset": name, "paths": [csv]})).await;
        assert!(refused.message().contains("name"), "{name:?}: {refused}");
        assert!(
            mesh.call("org.brahman.Catalog.Delete", json!({"name": name})).await.is_err(),
            "{name:?}"
        );
    }
    for name in ["..", ".", "a/b", "catalog", "Primary"] {
        let url = format!("file://{}", mesh.folder.path().join("disk").display());
        assert!(
            mesh.call("org.brahman.Storage.AddBucket", json!({"name": name, "url": url}))
                .await
                .is_err(),
            "{name:?}"
        );
        assert!(
            mesh.call("org.brahman.Storage.RemoveBucket", json!({"name": name})).await.is_err(),
            "{name:?}"
        );
    }
    assert!(
        files(&state).is_superset(&before),
        "nothing went: {:?}",
        before.difference(&files(&state)).collect::<Vec<_>>()
    );
    // And everything comes back.
    for module in ["catalog", "index"] {
        again(&mesh, module).await;
    }
    mesh.when_served_by("org.brahman.Index", "index").await;
    assert_eq!(
        mesh.brahman_json(&["search", "t", "one", "--lexical"])["results"][0][0]["doc_id"],
        "a"
    );
}

#[tokio::test]
async fn what_an_index_says_of_itself_leads_nowhere_else() {
    let mesh = mesh().await;
    let state = mesh.folder.path().join("state");
    let indexes = state.join("indexes");
    // One that says that it is called as a way out, and one that says that it lives among the
    // datasets.
    for (name, called) in [("evil", "../catalog"), ("far", "far")] {
        std::fs::create_dir(indexes.join(name)).expect("made");
        let text = std::fs::read_to_string(indexes.join("t/index.json")).expect("there");
        let mut parameters: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        parameters["name"] = json!(called);
        parameters.as_object_mut().expect("an object").remove("crc32");
        std::fs::write(indexes.join(name).join("index.json"), parameters.to_string())
            .expect("written");
    }
    let home = json!({"bucket": "big", "path": state.join("catalog")});
    std::fs::write(indexes.join("far/home.json"), home.to_string()).expect("written");
    again(&mesh, "index").await;
    mesh.when_served_by("org.brahman.Index", "index").await;
    let before = files(&state);
    let said = mesh.module("index").await.attributes["damaged"].clone();
    assert!(said.contains("evil: ") && said.contains("far: "), "{said}");
    assert_eq!(
        mesh.call("org.brahman.Index.Delete", json!({"name": "../catalog"}))
            .await
            .expect("there is none")["deleted"],
        false
    );
    let fault = mesh.fault("org.brahman.Index.Delete", json!({"name": "far"})).await;
    assert!(
        fault.name == "org.brahman.Index.Damaged" && fault.message().contains("home.json"),
        "{fault}"
    );
    assert_eq!(files(&state), before);
    assert_eq!(
        mesh.call("org.brahman.Index.Delete", json!({"name": "evil"})).await.expect("deleted")["deleted"],
        true
    );
    assert!(!indexes.join("evil").exists() && state.join("catalog/t.json").exists());
    assert_eq!(
        mesh.brahman_json(&["search", "t", "one", "--lexical"])["results"][0][0]["doc_id"],
        "a"
    );
}
