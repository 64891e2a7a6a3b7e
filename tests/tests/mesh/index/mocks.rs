//! Vectors that a mock made up: every reply says so, and no real model reads them. Runs without a
//! real model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use brahman_card::ModuleState;
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::{Value, json};

use super::{filled, ids, table};

/// Every file below a folder: its length, and when it was written.
fn files(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let (path, meta) =
            entry.and_then(|entry| Ok((entry.path(), entry.metadata()?))).expect("there");
        if meta.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path, (meta.len(), meta.modified().expect("a time")));
        }
    }
    found
}

/// Waits until every dataset and the index have their replicas.
fn replicated(mesh: &Mesh, copies: &Path) {
    let behind = || {
        let health = mesh.brahman_json(&["buckets", "health"])["health"].clone();
        let rescue = health
            .as_array()
            .and_then(|all| all.iter().find(|bucket| bucket["name"] == "rescue"))
            .cloned();
        rescue.is_none_or(|rescue| rescue["backlog_objects"] != 0)
    };
    while behind() {}
    let is_whole = |entry: std::fs::DirEntry| entry.path().join("manifest.json").exists();
    while !std::fs::read_dir(copies.join("indexes/t")).is_ok_and(|all| all.flatten().any(is_whole))
    {
    }
    while mesh.brahman_json(&["index", "stats", "t"])["index"]["replicas"]
        != json!({"files": 0, "bytes": 0})
    {}
}

#[tokio::test]
async fn what_a_mock_makes_and_deletes_never_touches_the_replicas_of_what_is_real() {
    let labels =
        ["broker", "embed-mock", "catalog", "ingest", "ingest-mock", "index", "index-mock"];
    let mesh = Setup::new(&labels.map(shipped)).up().await;
    mesh.when(|m| {
        labels[1..]
            .iter()
            .all(|l| m.iter().any(|m| m.card.label.as_str() == *l && m.state == ModuleState::Ready))
    })
    .await;
    let copies = mesh.folder.path().join("copies");
    mesh.brahman_json(&["buckets", "add", "rescue", &format!("file://{}", copies.display())]);
    let mesh = filled(mesh, 30);
    replicated(&mesh, &copies);
    let find = || ids(&mesh.brahman_json(&["search", "t", "topic7", "--lexical"]));
    let (before, found) = (files(&copies), find());
    assert!(before.keys().any(|path| path.starts_with(copies.join("indexes/t"))), "{before:?}");
    assert!(before.keys().any(|path| path.starts_with(copies.join("datasets/t"))), "{before:?}");

    mesh.brahman_json(&["context", "test"]);
    for (flow, label) in
        [("org.brahman.Ingest", "ingest-mock"), ("org.brahman.Index", "index-mock")]
    {
        mesh.when_served_by(flow, label).await;
    }
    for rows in [5, 6, 7] {
        mesh.brahman_json(&["ingest", "files", "t", &table(mesh.folder.path(), rows)]);
    }
    mesh.brahman_json(&["index", "create", "t", "--dataset", "t"]);
    assert_eq!(mesh.brahman_json(&["index", "refresh", "t"])["total"], 7);
    assert!(
        mesh.brahman_json(&["index", "stats", "t"])["index"]["replicas"].is_null(),
        "a mock's have none"
    );
    mesh.brahman_json(&["datasets", "resync", "t"]);
    mesh.brahman_json(&["index", "delete", "t"]);
    mesh.brahman_json(&["datasets", "delete", "t"]);
    mesh.brahman_json(&["buckets", "scrub"]);

    mesh.brahman_json(&["context", "--clear"]);
    mesh.when_served_by("org.brahman.Index", "index").await;
    // What was to be copied or removed for the mock would have been by the time that something else
    // has its replica.
    let later = table(mesh.folder.path(), 9);
    mesh.brahman_json(&["ingest", "files", "later", &later]);
    replicated(&mesh, &copies);
    let after: BTreeMap<_, _> = files(&copies)
        .into_iter()
        .filter(|(path, _)| !path.starts_with(copies.join("datasets/later")))
        .collect();
    assert_eq!((after, find()), (before, found));
}

#[tokio::test]
async fn what_a_mock_embedded_says_so_and_is_not_read_without_it() {
    let labels = ["broker", "embed-mock", "catalog", "ingest", "index"];
    let mesh = Setup::new(&labels.map(shipped)).context("test").up().await;
    mesh.when(|m| {
        labels[1..]
            .iter()
            .all(|l| m.iter().any(|m| m.card.label.as_str() == *l && m.state == ModuleState::Ready))
    })
    .await;
    let mesh = filled(mesh, 30);
    let refreshed = mesh.brahman_json(&["index", "refresh", "t"]);
    let found = mesh.brahman_json(&["search", "t", "chapter 7"]);
    let stats = mesh.brahman_json(&["index", "stats", "t"])["index"].clone();
    let listed = mesh.brahman_json(&["index", "list"])["indexes"][0].clone();
    let generation = mesh.brahman_json(&["index", "generations", "t"])["generations"][0].clone();
    for reply in [&refreshed, &found, &stats, &listed, &generation] {
        assert_eq!(reply["mock"], json!(true), "{reply}");
    }
    let note = "its vectors are synthetic, made by a mock";
    for arguments in [
        &["index", "refresh", "t"] as &[&str],
        &["search", "t", "chapter 7"],
        &["index", "stats", "t"],
    ] {
        let said = String::from_utf8_lossy(&mesh.brahman(arguments).stderr).into_owned();
        assert!(said.contains(note), "{arguments:?}: {said}");
    }
    let list = String::from_utf8_lossy(&mesh.brahman(&["index", "list"]).stdout).into_owned();
    assert!(list.contains("mock-hash-32 (mock)"), "{list}");
    // What is a mock's already may be made again by one.
    assert_eq!(mesh.brahman_json(&["index", "migrate", "t"])["mock"], json!(true));

    // No mock embeds here: the query has no vector, and its words are enough for the rest.
    mesh.brahman_json(&["context", "prod"]);
    let fault =
        mesh.fault("org.brahman.Index.Search", json!({"index": "t", "text": "chapter 7"})).await;
    assert_eq!(fault.name, "org.brahman.Broker.NoProvider");
    assert!(
        fault.message().contains("brahman index migrate t") && fault.message().contains("mock"),
        "{fault}"
    );
    let words: Value = mesh.brahman_json(&["search", "t", "topic7", "--lexical"]);
    assert_eq!((ids(&words), &words["mock"]), (vec!["doc-7".to_owned()], &json!(true)));
}
