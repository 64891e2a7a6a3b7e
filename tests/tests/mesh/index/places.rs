//! Engines side by side, and indexes that live in other buckets.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{again, ids, indexed};

#[tokio::test]
async fn another_engine_makes_the_graph_and_is_tried_beside_the_first() {
    let mesh = indexed(2000).await;
    mesh.brahman_json(&[
        "index",
        "create",
        "h",
        "--dataset",
        "t",
        "--engine",
        "hnsw-rs",
        "--filter-column",
        "lang",
    ]);
    mesh.brahman_json(&["index", "refresh", "h"]);
    let ask = |index: &str| json!({"index": index, "text": "chapter 7 speaks of topic7", "k": 10, "filter": {"lang": "rust"}});
    let (one, two) = (
        mesh.call("org.brahman.Index.Search", ask("t")).await,
        mesh.call("org.brahman.Index.Search", ask("h")).await,
    );
    let (one, two) = (one.expect("found"), two.expect("found"));
    assert_eq!(
        (ids(&one), &one["engine"], &two["engine"]),
        (ids(&two), &json!("flat-hnsw"), &json!("hnsw-rs"))
    );
    let doctor = mesh.brahman_json(&["index", "doctor", "h"]);
    assert_eq!((&doctor["healthy"], &doctor["orphans"]), (&json!(true), &json!(0)), "{doctor}");
    for engine in ["flat-hnsw", "hnsw-rs"] {
        let trial = mesh.brahman_json(&["index", "trial", "t", "--engine", engine]);
        assert_eq!(trial["trial"]["config"]["engine"], engine);
        assert!(trial["trial"]["metrics"]["recall_at_k"].as_f64() >= Some(0.95), "{trial}");
    }
    for (engine, more, words) in [
        ("faiss", json!({}), "flat-hnsw, hnsw-rs, exact"),
        ("hnsw-rs", json!({"m": 64}), "more than 2 m = 128 for hnsw-rs"),
    ] {
        let mut bad = json!({"name": "bad", "dataset": "t", "id_column": "id", "text_column": "text", "engine": engine});
        bad.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        let fault = mesh.fault("org.brahman.Index.Create", bad).await;
        assert!(fault.message().contains(words), "{fault}");
    }
}

fn is_empty_but_for(folder: &Path, names: &[&str]) -> bool {
    std::fs::read_dir(folder)
        .expect("there")
        .flatten()
        .all(|e| names.iter().any(|name| e.file_name() == *name))
}

#[tokio::test]
async fn an_index_moves_under_load_with_all_that_belongs_to_it_and_no_search_fails() {
    let mesh = Arc::new(indexed(1500).await);
    let disk = mesh.folder.path().join("disk");
    mesh.brahman_json(&["buckets", "add", "big", &format!("file://{}", disk.display())]);
    mesh.brahman_json(&["index", "trial", "t", "--ef-search", "64"]);
    let trials = mesh.brahman_json(&["index", "trials", "t"])["trials"].clone();
    let evals = mesh.brahman_json(&["index", "eval", "t", "--list"]);
    let ask = json!({"index": "t", "text": "chapter 12", "k": 5, "filter": {"lang": "rust"}});
    let before =
        mesh.call("org.brahman.Index.Search", ask.clone()).await.expect("found")["results"].clone();

    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let searchers: Vec<_> = (0..4)
        .map(|_| {
            let (mesh, stop, asked, ask, before) = (
                Arc::clone(&mesh),
                Arc::clone(&stop),
                Arc::clone(&asked),
                ask.clone(),
                before.clone(),
            );
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let found = mesh
                        .call("org.brahman.Index.Search", ask.clone())
                        .await
                        .expect("no search fails");
                    assert_eq!(found["results"], before);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // By turns, so that each way is taken and the places that were left are moved into again.
    for (to, from) in [("big", "primary"), ("primary", "big"), ("big", "primary")] {
        let started = asked.load(Ordering::Relaxed);
        let moved = mesh
            .call("org.brahman.Index.Move", json!({"name": "t", "bucket": to}))
            .await
            .expect("moved");
        assert_eq!((&moved["moved"], &moved["previous"]), (&json!(true), &json!(from)), "{moved}");
        while asked.load(Ordering::Relaxed) < started + 20 {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for searcher in searchers {
        searcher.await.expect("no search failed");
    }
    let home = disk.join("indexes/t");
    let stub = mesh.folder.path().join("state/indexes/t");
    assert!(home.join("CURRENT").exists());
    while !is_empty_but_for(&stub, &["index.json", "home.json", "away.json"]) {
        tokio::task::yield_now().await;
    }
    assert_eq!(mesh.brahman_json(&["index", "trials", "t"])["trials"], trials);
    assert_eq!(mesh.brahman_json(&["index", "eval", "t", "--list"]), evals);
    assert_eq!(mesh.brahman_json(&["index", "stats", "t"])["index"]["bucket"], "big");
    assert_eq!(mesh.brahman_json(&["index", "move", "t", "big"])["moved"], false);

    // A restart finds it there; without its disk it says so, and nothing comes to be in its place.
    again(&mesh, "index").await;
    assert_eq!(
        mesh.call("org.brahman.Index.Search", ask.clone()).await.expect("found")["results"],
        before
    );
    std::fs::rename(&disk, mesh.folder.path().join("unmounted")).expect("renamed");
    again(&mesh, "index").await;
    for (method, ask) in [
        ("Search", ask.clone()),
        ("Refresh", json!({"name": "t"})),
        ("Move", json!({"name": "t", "bucket": "primary"})),
    ] {
        let fault = mesh.fault(&format!("org.brahman.Index.{method}"), ask).await;
        assert!(fault.message().contains("mount the bucket's disk"), "{method}: {fault}");
    }
    // No repair is advised where there is nothing to repair.
    let doctor = mesh.fault("org.brahman.Index.Doctor", json!({"name": "t"})).await;
    assert!(
        doctor.message().contains("mount the bucket's disk")
            && !doctor.message().contains("--repair"),
        "{doctor}"
    );
    let listed = mesh.brahman_json(&["index", "list"])["indexes"][0]["degraded"].to_string();
    assert!(listed.contains("mount the bucket's disk") && !listed.contains("--repair"), "{listed}");
    assert!(!home.exists());
    std::fs::rename(mesh.folder.path().join("unmounted"), &disk).expect("renamed");
    again(&mesh, "index").await;
    assert_eq!(mesh.call("org.brahman.Index.Search", ask).await.expect("found")["results"], before);
    mesh.brahman_json(&["index", "delete", "t"]);
    assert!(!home.exists() && !stub.exists());
}

#[tokio::test]
async fn an_index_is_made_in_another_bucket_and_killed_moves_lose_nothing() {
    let mesh = indexed(300).await;
    let disk = mesh.folder.path().join("disk");
    mesh.brahman_json(&["buckets", "add", "big", &format!("file://{}", disk.display())]);
    mesh.brahman_json(&["index", "create", "b", "--dataset", "t", "--bucket", "big"]);
    mesh.brahman_json(&["index", "refresh", "b"]);
    assert!(
        disk.join("indexes/b/CURRENT").exists()
            && !mesh.folder.path().join("state/indexes/b/CURRENT").exists()
    );
    let create = |bucket: &str| json!({"name": "c", "dataset": "t", "id_column": "id", "text_column": "text", "bucket": bucket});
    for (bucket, words) in [("none", "brahman buckets add"), ("rescue", "replicas only")] {
        let fault = mesh.fault("org.brahman.Index.Create", create(bucket)).await;
        assert!(fault.message().contains(words), "{fault}");
    }
    let refused = mesh.brahman(&["buckets", "remove", "big"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("indexes live in bucket `big`: b"),
        "{words}"
    );
    // A folder that somebody else has filled is not taken.
    std::fs::create_dir_all(disk.join("indexes/t")).expect("made");
    std::fs::write(disk.join("indexes/t/notes.txt"), "mine").expect("written");
    let fault = mesh.fault("org.brahman.Index.Move", json!({"name": "t", "bucket": "big"})).await;
    assert!(fault.message().contains("is taken"), "{fault}");
    std::fs::remove_dir_all(disk.join("indexes/t")).expect("removed");

    let ask = json!({"index": "t", "text": "chapter 12", "k": 5});
    let before =
        mesh.call("org.brahman.Index.Search", ask.clone()).await.expect("found")["results"].clone();
    for round in 0..10_u64 {
        let to = if mesh.brahman_json(&["index", "stats", "t"])["index"]["bucket"] == "big" {
            "primary"
        } else {
            "big"
        };
        let pid = mesh.module("index").await.pid;
        let moving = mesh.call("org.brahman.Index.Move", json!({"name": "t", "bucket": to}));
        let killing = async {
            // Every moment of a move that takes some 30 ms.
            tokio::time::sleep(std::time::Duration::from_millis(4 * round)).await;
            mesh.signal(pid, "KILL");
        };
        let (moved, ()) = tokio::join!(moving, killing);
        mesh.when(|m| {
            m.iter().any(|m| {
                m.card.label.as_str() == "index"
                    && m.state == brahman_card::ModuleState::Ready
                    && m.pid != pid
            })
        })
        .await;
        let stats = mesh.brahman_json(&["index", "stats", "t"]);
        if moved.is_ok() {
            assert_eq!(stats["index"]["bucket"], to, "what was acknowledged stands");
        }
        assert_eq!(stats["index"]["degraded"], Value::Null, "{stats}");
        assert_eq!(
            mesh.call("org.brahman.Index.Search", ask.clone()).await.expect("found")["results"],
            before,
            "round {round}"
        );
    }
}
