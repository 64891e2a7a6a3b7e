//! Vectors that a mock made up: every reply says so, and no real model reads them. Runs without a real model.

use brahman_card::ModuleState;
use brahman_tests::{Setup, shipped};
use serde_json::{Value, json};

use super::{filled, ids};

#[tokio::test]
async fn what_a_mock_embedded_says_so_and_is_not_read_without_it() {
    let labels = ["broker", "embed-mock", "catalog", "ingest", "index"];
    let mesh = Setup::new(&labels.map(shipped)).context("test").up().await;
    mesh.when(|m| labels[1..].iter().all(|l| m.iter().any(|m| m.card.label.as_str() == *l && m.state == ModuleState::Ready))).await;
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
    for arguments in [&["index", "refresh", "t"] as &[&str], &["search", "t", "chapter 7"], &["index", "stats", "t"]] {
        let said = String::from_utf8_lossy(&mesh.brahman(arguments).stderr).into_owned();
        assert!(said.contains(note), "{arguments:?}: {said}");
    }
    let list = String::from_utf8_lossy(&mesh.brahman(&["index", "list"]).stdout).into_owned();
    assert!(list.contains("mock-hash-32 (mock)"), "{list}");
    // What is a mock's already may be made again by one.
    assert_eq!(mesh.brahman_json(&["index", "migrate", "t"])["mock"], json!(true));

    // No mock embeds here: the query has no vector, and its words are enough for the rest.
    mesh.brahman_json(&["context", "prod"]);
    let fault = mesh.fault("org.brahman.Index.Search", json!({"index": "t", "text": "chapter 7"})).await;
    assert_eq!(fault.name, "org.brahman.Broker.NoProvider");
    assert!(fault.message().contains("brahman index migrate t") && fault.message().contains("mock"), "{fault}");
    let words: Value = mesh.brahman_json(&["search", "t", "topic7", "--lexical"]);
    assert_eq!((ids(&words), &words["mock"]), (vec!["doc-7".to_owned()], &json!(true)));
}
