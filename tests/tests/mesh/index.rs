//! The index on the mesh: filters and words, refresh and migration, trials and promotion.

mod faults;
mod finds;
mod follows;
mod mocks;
mod models;
mod places;
mod tunes;
mod whole;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{Array, ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use brahman_card::ModuleState;
use brahman_sidecar::bulk::{BulkStream, Frame};
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::{Value, json};

async fn mesh(context: &str) -> Mesh {
    mesh_with(context, |setup| setup).await
}

async fn mesh_with(context: &str, more: impl FnOnce(Setup) -> Setup) -> Mesh {
    mesh_of(&[], context, more).await
}

async fn mesh_of(others: &[&str], context: &str, more: impl FnOnce(Setup) -> Setup) -> Mesh {
    let mut cards: Vec<_> =
        ["broker", "embed-mock", "embed-real", "catalog", "ingest", "index"].map(shipped).into();
    // These tests kill it often: its lives are short, and that is not its fault.
    cards[5].1.push_str("\n[supervision.restart]\ninitial_ms = 1\nmax_ms = 10\nintensity = 100000\nhealthy_after_ms = 1\n");
    cards.extend(others.iter().map(|name| shipped(name)));
    let setup = Setup::new(&cards).context(context);
    let mesh = more(setup).real_model().up().await;
    let needed = ["ingest", "index", if context == "test" { "embed-mock" } else { "embed-real" }];
    mesh.when(|m| {
        needed
            .iter()
            .all(|l| m.iter().any(|m| m.card.label.as_str() == *l && m.state == ModuleState::Ready))
    })
    .await;
    mesh
}

/// A table of documents about numbers, a language and a year each.
fn table(folder: &Path, rows: u32) -> String {
    let mut text = String::from("id,text,lang,year\n");
    for n in 0..rows {
        let lang = ["rust", "python", "go"][n as usize % 3];
        let _ = writeln!(
            text,
            "doc-{n},chapter {n} speaks of topic{} and of {lang} things,{lang},{}",
            n % 97,
            2000 + n % 25
        );
    }
    let path = folder.join("table.csv");
    std::fs::write(&path, text).expect("written");
    path.display().to_string()
}

async fn indexed(rows: u32) -> Mesh {
    filled(mesh("test").await, rows)
}

fn filled(mesh: Mesh, rows: u32) -> Mesh {
    let csv = table(mesh.folder.path(), rows);
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    mesh.brahman_json(&["index", "create", "t", "--dataset", "t", "--filter-column", "lang,year"]);
    mesh.brahman_json(&["index", "refresh", "t"]);
    mesh
}

fn ids(reply: &Value) -> Vec<String> {
    reply["results"][0]
        .as_array()
        .expect("hits")
        .iter()
        .map(|h| h["doc_id"].as_str().expect("an id").to_owned())
        .collect()
}

async fn again(mesh: &Mesh, label: &str) {
    let pid = mesh.module(label).await.pid;
    mesh.signal(pid, "KILL");
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == label && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
}

#[tokio::test]
async fn filters_words_and_meaning_find_what_they_say() {
    let mesh = indexed(300).await;
    for mode in ["semantic", "lexical", "hybrid"] {
        let ask = json!({"index": "t", "text": " ", "mode": mode});
        let refused = mesh.fault("org.brahman.Index.Search", ask).await;
        assert_eq!(refused.parameters["parameter"], "text", "{mode}: {refused}");
    }
    let found = mesh.brahman_json(&[
        "search",
        "t",
        "topic7",
        "-k",
        "50",
        "--filter",
        r#"{"lang": "rust", "year": {"$gte": 2010}}"#,
    ]);
    assert!(!ids(&found).is_empty());
    for id in ids(&found) {
        let n: u32 = id[4..].parse().expect("a number");
        assert!(n.is_multiple_of(3) && n % 25 >= 10, "{id} does not match the filter");
    }
    let words = mesh.brahman_json(&["search", "t", "topic7", "--lexical", "-k", "9"]);
    let mut by_words = ids(&words);
    by_words.sort();
    assert_eq!(
        (by_words, &words["mode"], words["provider"].is_null()),
        (
            ["doc-104", "doc-201", "doc-298", "doc-7"].map(String::from).into(),
            &json!("lexical"),
            true
        )
    );
    let both = mesh.brahman_json(&["search", "t", "chapter 7 topic7", "--hybrid", "-k", "3"]);
    assert_eq!((ids(&both)[0].as_str(), &both["mode"]), ("doc-7", &json!("hybrid")));
    let exact = mesh.brahman_json(&["search", "t", "chapter 12", "--exact"]);
    assert_eq!(
        (&exact["engine"], exact["results"].clone()),
        (&json!("exact"), mesh.brahman_json(&["search", "t", "chapter 12"])["results"].clone())
    );
    assert_eq!(mesh.brahman_json(&["index", "get", "t", "doc-5"])["chunks"][0]["doc_id"], "doc-5");
    for (filter, words) in [
        (json!({"colour": 1}), "it has doc_id, source, lang, year"),
        (json!({"lang": {"$like": "r"}}), "$like"),
        (json!(3), "an object"),
    ] {
        let fault = mesh
            .fault("org.brahman.Index.Search", json!({"index": "t", "text": "x", "filter": filter}))
            .await;
        assert!(fault.message().contains(words), "{fault}");
    }
    for bad in [
        json!({"vector": vec![0.0; 32]}),
        json!({"vector": vec![1.0; 31]}),
        json!({"vector": vec![1.0; 32], "mode": "hybrid"}),
        json!({"text": "x", "k": 0}),
        json!({"text": "x", "ef": 70_000}),
    ] {
        let mut ask = bad.clone();
        ask["index"] = json!("t");
        mesh.fault("org.brahman.Index.Search", ask).await;
    }
    assert_eq!(
        ids(&mesh.brahman_json(&["search", "t", "topic1", "-k", "10000"])).len(),
        300,
        "k beyond all rows gives all rows"
    );
}

#[tokio::test]
async fn many_vectors_are_searched_in_arrow_frames() {
    let mesh = indexed(1200).await;
    let texts: Vec<String> = (0..40).map(|n| format!("chapter {n} speaks")).collect();
    let embedded =
        mesh.call("org.brahman.Embed.EmbedText", json!({"texts": texts})).await.expect("vectors");
    let vectors: Vec<Vec<f32>> =
        serde_json::from_value(embedded["vectors"].clone()).expect("vectors");
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connects");
    let upgrade = |model: &Value| {
        let ask = json!({"index": "t", "k": 5, "filter": {"lang": "go"}, "model": model});
        encode_call("org.brahman.Index.SearchBulk", &ask, &CallOptions::default(), false, true)
            .expect("encodes")
    };
    let refused = connection
        .exchange(&upgrade(&json!("another")))
        .await
        .expect_err("the index is of another model");
    assert!(refused.to_string().contains("not of another"), "{refused}");
    connection.exchange(&upgrade(&embedded["model"])).await.expect("upgraded");
    let mut bulk = BulkStream::new(connection.into_upgraded());
    let batch = |vectors: &[Vec<f32>], dim: i32| {
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let lists = FixedSizeListArray::try_new(
            item,
            dim,
            Arc::new(Float32Array::from(vectors.concat())),
            None,
        )
        .expect("lists");
        RecordBatch::try_from_iter([("vector", Arc::new(lists) as ArrayRef)]).expect("a batch")
    };
    bulk.send(&batch(&[vec![1.0; 3]], 3)).await.expect("sent");
    let Frame::Fault(fault) = bulk.receive().await.expect("an answer") else {
        panic!("vectors of 3 numbers were taken")
    };
    assert!(fault.message().contains("32 numbers"), "{fault}");
    bulk.send(&batch(&vectors, 32)).await.expect("sent");
    let Frame::Batches(batches) = bulk.receive().await.expect("an answer") else {
        panic!("no hits")
    };
    let (ids, scores) = (
        batches[0]["doc_id"].as_string::<i32>(),
        batches[0]["score"].as_primitive::<Float32Type>(),
    );
    assert_eq!(ids.len(), 40 * 5);
    let one = mesh
        .call(
            "org.brahman.Index.Search",
            json!({"index": "t", "k": 5, "filter": {"lang": "go"}, "vector": vectors[7]}),
        )
        .await
        .expect("hits");
    let wanted: Vec<&str> = one["results"][0]
        .as_array()
        .expect("hits")
        .iter()
        .map(|h| h["doc_id"].as_str().expect("an id"))
        .collect();
    assert_eq!((35..40).map(|i| ids.value(i)).collect::<Vec<_>>(), wanted);
    assert!(
        (f64::from(scores.value(35)) - one["results"][0][0]["score"].as_f64().expect("a score"))
            .abs()
            < 1e-6
    );

    // By words and by meaning as well: each as `Search` answers it.
    let how = json!({"index": "t", "k": 3, "mode": "hybrid", "fusion": {"weight": 0.25}, "per_document": 1});
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connects");
    let call =
        encode_call("org.brahman.Index.SearchBulk", &how, &CallOptions::default(), false, true)
            .expect("encodes");
    let said: Value =
        connection.exchange(&call).await.expect("upgraded").typed().expect("no error").value;
    assert_eq!(
        (&said["mode"], &said["fusion"]["weight"], &said["stale"]),
        (&json!("hybrid"), &json!(0.25), &json!(false)),
        "{said}"
    );
    let mut bulk = BulkStream::new(connection.into_upgraded());
    bulk.send(&batch(&vectors, 32)).await.expect("sent");
    let Frame::Fault(fault) = bulk.receive().await.expect("an answer") else {
        panic!("a hybrid search without words was answered")
    };
    assert!(fault.message().contains("column `text`"), "{fault}");
    let hybrid = |vectors: &[Vec<f32>], texts: &[String]| {
        let words: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let vector = Arc::clone(batch(vectors, 32).column(0));
        RecordBatch::try_from_iter([("vector", vector), ("text", words)]).expect("a batch")
    };
    let mut blank = texts.clone();
    " \n".clone_into(&mut blank[3]);
    bulk.send(&hybrid(&vectors, &blank)).await.expect("sent");
    let Frame::Fault(fault) = bulk.receive().await.expect("an answer") else {
        panic!("a search for nothing was answered")
    };
    assert_eq!(fault.parameters["parameter"], "text[3]", "{fault}");
    bulk.send(&hybrid(&[], &[])).await.expect("sent");
    let Frame::Batches(batches) = bulk.receive().await.expect("an answer") else {
        panic!("no queries were refused")
    };
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    bulk.send(&hybrid(&vectors, &texts)).await.expect("sent");
    let Frame::Batches(batches) = bulk.receive().await.expect("an answer") else {
        panic!("no hits")
    };
    let (queries, ids) =
        (batches[0]["query"].as_primitive::<UInt32Type>(), batches[0]["doc_id"].as_string::<i32>());
    let of: Vec<&str> =
        (0..ids.len()).filter(|hit| queries.value(*hit) == 7).map(|hit| ids.value(hit)).collect();
    let mut ask = how;
    (ask["text"], ask["vector"]) = (json!(texts[7]), json!(vectors[7]));
    let one = mesh.call("org.brahman.Index.Search", ask).await.expect("hits");
    let wanted: Vec<&str> = one["results"][0]
        .as_array()
        .expect("hits")
        .iter()
        .map(|h| h["doc_id"].as_str().expect("an id"))
        .collect();
    assert_eq!((of.len(), of), (3, wanted));
    assert!(batches[0]["bm25"].null_count() < ids.len() && batches[0]["cosine"].null_count() == 0);
}

#[tokio::test]
async fn a_refresh_costs_what_changed_and_a_shrunken_dataset_is_followed_to_nothing() {
    let mesh = indexed(1500).await;
    let csv = table(mesh.folder.path(), 1500);
    let text = std::fs::read_to_string(&csv)
        .expect("there")
        .replace("chapter 3 speaks", "chapter 3 shouts");
    std::fs::write(&csv, format!("{text}new-1,a new one,rust,2024\n")).expect("written");
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    let out = mesh.brahman_json(&["index", "refresh", "t"]);
    assert_eq!(
        ["new_docs", "changed_docs", "removed_docs", "new_chunks", "total"]
            .map(|k| out[k].as_u64()),
        [Some(1), Some(1), Some(0), Some(2), Some(1501)]
    );
    assert!(
        out["bytes_written"].as_u64().is_some_and(|n| n < 16_384),
        "an append of two rows wrote {} bytes",
        out["bytes_written"]
    );
    assert_eq!(ids(&mesh.brahman_json(&["search", "t", "shouts", "--lexical"])), ["doc-3"]);
    let stats = mesh.brahman_json(&["index", "stats", "t"])["index"].clone();
    assert_eq!((&stats["appended"], &stats["dead"]), (&json!(2), &json!(1)));
    let before =
        mesh.brahman_json(&["search", "t", "chapter 3 shouts", "-k", "20"])["results"].clone();
    assert_eq!(mesh.brahman_json(&["index", "compact", "t"])["compacted"], true);
    let stats = mesh.brahman_json(&["index", "stats", "t"])["index"].clone();
    assert_eq!(
        (&stats["appended"], &stats["dead"], &stats["chunks"]),
        (&json!(0), &json!(0), &json!(1501))
    );
    assert_eq!(
        mesh.brahman_json(&["search", "t", "chapter 3 shouts", "-k", "20"])["results"],
        before
    );
    // Two refreshes at once: one of them says that the other runs, or both find nothing to do.
    let (one, two) = tokio::join!(
        mesh.call("org.brahman.Index.Refresh", json!({"name": "t"})),
        mesh.call("org.brahman.Index.Refresh", json!({"name": "t"}))
    );
    assert!(one.is_ok() || two.is_ok());
    for error in [one, two].into_iter().filter_map(Result::err) {
        assert!(error.to_string().contains("busy"), "{error}");
    }
    std::fs::write(&csv, "id,text,lang,year\nlast,,rust,2000\n").expect("written");
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    let out = mesh.brahman_json(&["index", "refresh", "t"]);
    assert_eq!(
        ["removed_docs", "empty_docs", "total"].map(|k| out[k].as_u64()),
        [Some(1501), Some(1), Some(0)]
    );
    assert!(ids(&mesh.brahman_json(&["search", "t", "chapter"])).is_empty());
}

#[tokio::test]
async fn an_index_that_was_empty_fills() {
    let mesh = mesh("test").await;
    let csv = mesh.folder.path().join("table.csv");
    std::fs::write(&csv, "id,text,lang,year\nnone,,go,2000\n").expect("written");
    mesh.brahman_json(&["ingest", "files", "t", &csv.display().to_string()]);
    mesh.brahman_json(&["index", "create", "t", "--dataset", "t", "--filter-column", "lang,year"]);
    assert_eq!(mesh.brahman_json(&["index", "refresh", "t"])["total"], 0);
    // Nor is it bound to the model that had nothing to embed.
    mesh.brahman_json(&["context", "prod"]);
    mesh.when_module("embed-real", ModuleState::Ready).await;
    let csv = table(mesh.folder.path(), 30);
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    let filled = mesh.brahman_json(&["index", "refresh", "t"]);
    assert_eq!((&filled["total"], &filled["model"]), (&json!(30), &json!("all-MiniLM-L6-v2")));
    let found = mesh.brahman_json(&["search", "t", "chapter 6", "--filter", r#"{"year": 2006}"#]);
    assert_eq!(ids(&found), ["doc-6"]);
}

#[tokio::test]
async fn a_trial_is_kept_a_challenger_is_judged_and_a_rollback_goes_back() {
    let mesh = indexed(1300).await;
    let eval = mesh.brahman_json(&["index", "eval", "t", "--queries", "200"])["eval"].clone();
    assert_eq!((&eval["tune"], &eval["holdout"]), (&json!(200), &json!(200)));
    let trial = mesh.brahman_json(&[
        "index",
        "trial",
        "t",
        "--m",
        "8",
        "--ef-construction",
        "40",
        "--note",
        "small",
    ])["trial"]
        .clone();
    assert!(trial["metrics"]["recall_at_k"].as_f64() >= Some(0.9), "{trial}");
    assert_eq!(
        (&trial["metrics"]["orphans"], &trial["metrics"]["eval_queries"]),
        (&json!(0), &json!(200))
    );
    again(&mesh, "index").await;
    let trials = mesh.brahman_json(&["index", "trials", "t"]);
    assert_eq!(
        (trials["trials"][0]["id"].clone(), &trials["trials"][0]["note"]),
        (trial["id"].clone(), &json!("small"))
    );
    assert_eq!(mesh.brahman_json(&["index", "best", "t"])["trial"]["id"], trial["id"]);
    let svg = mesh.folder.path().join("trials.svg").display().to_string();
    assert!(mesh.brahman(&["index", "trials", "t", "--plot", &svg]).status.success());
    assert!(std::fs::read_to_string(svg).expect("drawn").contains("<svg"));

    // What nobody could reach is refused, and by force it is recorded.
    let out = mesh.brahman(&["index", "promote", "t", "--target-recall", "1.0", "--json"]);
    assert_eq!(out.status.code(), Some(1), "what was refused is no success");
    let refused: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!((&refused["promoted"], &refused["generation"]), (&json!(false), &json!(1)));
    assert!(
        refused["verdict"].as_str().is_some_and(|v| v.starts_with("refused: recall")),
        "{refused}"
    );
    let forced = mesh.brahman_json(&["index", "promote", "t", "--target-recall", "1.0", "--force"]);
    assert_eq!(forced["promoted"], true);
    let now = forced["generation"].as_u64().expect("a number");
    let generations = mesh.brahman_json(&["index", "generations", "t"])["generations"].clone();
    assert_eq!(
        (&generations[0]["current"], &generations[0]["forced"], &generations[0]["m"]),
        (&json!(true), &json!(true), &json!(8))
    );
    assert!(generations[0]["measured"]["recall"].as_f64() >= Some(0.9));
    let back = mesh.brahman_json(&["index", "rollback", "t"]);
    assert_eq!((&back["generation"], &back["previous"]), (&json!(1), &json!(now)));
    again(&mesh, "index").await;
    assert_eq!(
        mesh.brahman_json(&["search", "t", "chapter 9"])["generation"],
        1,
        "a rollback survives a kill"
    );
    assert_eq!(
        mesh.fault("org.brahman.Index.Rollback", json!({"name": "t", "generation": 99})).await.name,
        "org.brahman.Index.NoSuchGeneration"
    );
    assert_eq!(
        mesh.fault("org.brahman.Index.Promote", json!({"name": "t", "trial": "x"})).await.name,
        "org.brahman.Index.NoSuchTrial"
    );
    // A recall that nothing has, or that everything has, is no target.
    for target in [-1.0, 0.0, 1.01, 1e308] {
        for (method, mut ask) in [
            ("Trial", json!({"name": "t", "config": {}})),
            ("Autotune", json!({"name": "t"})),
            ("Promote", json!({"name": "t"})),
        ] {
            ask["target_recall"] = json!(target);
            let fault = mesh.fault(&format!("org.brahman.Index.{method}"), ask).await;
            assert!(
                fault.name.ends_with("InvalidParameter")
                    && fault.message().contains("target_recall"),
                "{method} {target}: {fault}"
            );
        }
    }
}

#[tokio::test]
async fn the_agent_tries_what_it_is_asked_to_and_is_off_unless_configured() {
    let off = indexed(300).await;
    assert_eq!(
        off.fault("org.brahman.Index.AgentEnqueue", json!({"name": "t"})).await.name,
        "org.brahman.Index.AgentOff"
    );
    assert_eq!(off.brahman_json(&["index", "agent"])["enabled"], false);
    drop(off);
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let settings = "[agent]\nenabled = true\ncooldown_s = 0\nmax_trials_per_hour = 2\nm = [4, 8]\nef_construction = [16, 32]\n";
    std::fs::write(file.path(), settings).expect("written");
    let mesh = filled(
        mesh_with("test", |setup| setup.env("BRAHMAN_INDEX_CONFIG", file.path())).await,
        1300,
    );
    // The first refresh has queued it already, unless the trial has begun.
    assert!(mesh.brahman_json(&["index", "agent", "t"])["queued"].is_boolean());
    let tried = loop {
        let trials = mesh.brahman_json(&["index", "trials", "t"])["trials"].clone();
        if let Some(trial) = trials.as_array().expect("trials").first() {
            break trial.clone();
        }
        // The command itself takes its time; nothing is slept through.
        mesh.brahman_json(&["index", "agent"]);
    };
    assert_eq!(tried["by"], "agent");
    assert!((4..=8).contains(&tried["config"]["m"].as_u64().expect("m")), "{tried}");
    let status = mesh.brahman_json(&["index", "agent"]);
    assert!(status["trials_last_hour"].as_u64() >= Some(1), "{status}");
}

#[tokio::test]
async fn the_mock_answers_in_test_keeps_to_itself_and_never_answers_in_prod() {
    let mesh = mesh_of(&["index-mock"], "test", |setup| setup).await;
    mesh.when_served_by("org.brahman.Index", "index-mock").await;
    let mesh = filled(mesh, 300);
    let found = mesh
        .call("org.brahman.Index.Search", json!({"index": "t", "text": "chapter 7"}))
        .await
        .expect("hits");
    assert_eq!((&found["engine"], ids(&found)[0].as_str()), (&json!("exact"), "doc-7"));
    again(&mesh, "index-mock").await;
    mesh.when_served_by("org.brahman.Index", "index-mock").await;
    let after = mesh
        .call("org.brahman.Index.Search", json!({"index": "t", "text": "chapter 7"}))
        .await
        .expect("hits");
    assert_eq!(after["results"], found["results"], "the same after its death");
    mesh.brahman_json(&["context", "prod"]);
    let fault =
        mesh.fault("org.brahman.Index.Search", json!({"index": "t", "text": "chapter 7"})).await;
    assert_eq!(fault.name, "org.brahman.Index.NoSuchIndex");
    assert!(!mesh.folder.path().join("state/indexes/t").exists());
}

/// Vectors around one direction, as JSON lines; and queries that point the other way.
fn cone(folder: &Path, rows: usize) -> (String, Vec<Vec<f32>>) {
    let mut random = 7_u64;
    let mut noise = || -> Vec<f32> {
        (0..32)
            .map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (random >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
            })
            .collect()
    };
    let mut text = String::new();
    for n in 0..rows {
        let mut vector = noise();
        vector[0] += 6.0;
        let _ = writeln!(text, "{}", json!({"id": n.to_string(), "vector": vector}));
    }
    let path = folder.join("cone.jsonl");
    std::fs::write(&path, text).expect("written");
    let away = |mut vector: Vec<f32>| {
        vector[0] -= 6.0;
        vector
    };
    (path.display().to_string(), (0..2500).map(|_| away(noise())).collect())
}

#[tokio::test]
async fn a_promotion_that_fails_live_searches_is_rolled_back() {
    let mesh = mesh("test").await;
    let (file, queries) = cone(mesh.folder.path(), 6000);
    mesh.brahman_json(&["ingest", "files", "c", &file]);
    // Wide, and slow: on the same queries it finds nearly all.
    mesh.brahman_json(&[
        "index",
        "create",
        "c",
        "--dataset",
        "c",
        "--vector-column",
        "vector",
        "--ef-search",
        "1000",
    ]);
    mesh.brahman_json(&["index", "refresh", "c"]);
    let thin = json!({"name": "c", "config": {"m": 12, "ef_construction": 60, "ef_search": 10}, "target_recall": 0.6});
    let promoted = mesh.call("org.brahman.Index.Promote", thin).await.expect("judged");
    assert_eq!(promoted["promoted"], true, "{promoted}");
    let stats = mesh.brahman_json(&["index", "stats", "c"])["index"].clone();
    assert_eq!(
        (&stats["generation"], &stats["shadow"]["verdict"], &stats["shadow"]["target"]),
        (&json!(2), &json!("open"), &json!(0.6))
    );
    // Nobody asks near the rows: the walk ends far from what is nearest.
    loop {
        let asked = mesh
            .call("org.brahman.Index.Search", json!({"index": "c", "vectors": queries}))
            .await
            .expect("hits");
        if asked["generation"] == 1 {
            break;
        }
        let stats = mesh.brahman_json(&["index", "stats", "c"])["index"].clone();
        assert_ne!(stats["shadow"]["verdict"], "kept", "{stats}");
    }
    let log = mesh.log();
    assert!(
        log.contains("shadow check: recall") && log.contains("by the one before"),
        "it is in the log, with what both found"
    );
    again(&mesh, "index").await;
    assert_eq!(
        mesh.brahman_json(&["index", "stats", "c"])["index"]["generation"],
        1,
        "and on disk"
    );
}
