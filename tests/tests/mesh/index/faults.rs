//! The index when things go wrong: damage, kills, a full disk, a row of ten megabytes.

use std::fmt::Write as _;
use std::io::Write as _;

use brahman_card::ModuleState;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_tests::{Setup, shipped};
use serde_json::{Value, json};

use super::{again, filled, ids, indexed, mesh, table};
use crate::faults::Tiny;

/// Kills of the random test, unless the environment asks for more.
fn kills() -> u64 {
    std::env::var("BRAHMAN_TORTURE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

#[tokio::test]
async fn a_row_of_ten_megabytes_is_cut_and_found() {
    let mesh = mesh("test").await;
    let mut text = String::new();
    for n in 0..90_000 {
        let _ = write!(
            text,
            "{}sentence {n} of a very long row that goes on about many things. ",
            if n == 70_000 { "needle " } else { "" }
        );
        if n % 9 == 0 {
            text.push('\n');
        }
    }
    text.truncate(10 << 20);
    let file = mesh.folder.path().join("big.jsonl");
    std::fs::write(
        &file,
        format!(
            "{}\n{}\n",
            json!({"id": "big", "text": text}),
            json!({"id": "small", "text": "a few words"})
        ),
    )
    .expect("written");
    mesh.brahman_json(&["ingest", "files", "big", &file.display().to_string()]);
    mesh.brahman_json(&["index", "create", "big", "--dataset", "big"]);
    let out = mesh.brahman_json(&["index", "refresh", "big"]);
    assert_eq!((&out["dataset_docs"], &out["skipped_docs"]), (&json!(2), &json!(0)));
    let found = mesh.brahman_json(&["search", "big", "needle", "--lexical"]);
    let hit = &found["results"][0][0];
    let at = usize::try_from(hit["start"].as_u64().expect("a place")).expect("small");
    assert!(
        text[at..].starts_with(hit["text"].as_str().expect("text"))
            && hit["text"].as_str().is_some_and(|t| t.contains("needle"))
    );
}

#[tokio::test]
async fn on_a_full_disk_the_old_generation_answers_and_a_later_refresh_succeeds() {
    let setup = Setup::new(&["broker", "embed-mock", "catalog", "ingest", "index"].map(shipped))
        .context("test");
    let state = setup.cache().with_file_name("state");
    let Some(_tiny) = Tiny::mount(&state, "size=3m") else {
        eprintln!("this test mounts a small file system and so needs root");
        return;
    };
    let mesh = setup.up().await;
    mesh.when_module("index", ModuleState::Ready).await;
    mesh.when_module("ingest", ModuleState::Ready).await;
    let mesh = filled(mesh, 400);
    let before = mesh.brahman_json(&["search", "t", "chapter 9"])["results"].clone();
    let csv = table(mesh.folder.path(), 3000);
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    // What is left of the disk is taken.
    let filler = state.join("filler");
    let mut left = std::fs::File::create(&filler).expect("created");
    while left.write_all(&[0; 4096]).is_ok() {}
    let segments = || std::fs::read_dir(state.join("indexes/t/segments")).expect("listed").count();
    let before_it = segments();
    let fault = mesh.fault("org.brahman.Index.Refresh", json!({"name": "t"})).await;
    assert!(fault.message().contains("No space left"), "{fault}");
    assert_eq!(segments(), before_it, "what was half written is gone");
    let found = mesh.brahman_json(&["search", "t", "chapter 9"]);
    assert_eq!(
        (&found["results"], &found["generation"], &found["stale"]),
        (&before, &json!(1), &json!(true))
    );
    assert!(
        mesh.brahman(&["index", "trial", "t"]).status.code() != Some(0),
        "a trial that cannot be kept is not acknowledged"
    );
    drop(left);
    std::fs::remove_file(&filler).expect("removed");
    let csv = table(mesh.folder.path(), 500);
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    assert_eq!(mesh.brahman_json(&["index", "refresh", "t"])["total"], 500);
    assert!(mesh.brahman(&["index", "doctor", "t"]).status.success());
}

#[tokio::test]
async fn damage_is_said_and_mended() {
    let mesh = indexed(1300).await;
    let wanted = mesh.brahman_json(&["search", "t", "chapter 9"])["results"].clone();
    assert!(mesh.brahman(&["stop", "index"]).status.success());
    mesh.when_module("index", ModuleState::Stopped).await;
    let folder = mesh.folder.path().join("state/indexes/t");
    let generation = std::fs::read_dir(&folder)
        .expect("there")
        .flatten()
        .map(|e| e.path())
        .find(|p| p.join("graph.flat").exists())
        .expect("a graph");
    let mut bytes = std::fs::read(generation.join("graph.flat")).expect("there");
    bytes[5000] ^= 1;
    std::fs::write(generation.join("graph.flat"), bytes).expect("damaged");
    assert!(mesh.brahman(&["start", "index"]).status.success());
    mesh.when_module("index", ModuleState::Ready).await;
    let fault =
        mesh.fault("org.brahman.Index.Search", json!({"index": "t", "text": "chapter 9"})).await;
    assert!(
        fault.name == "org.brahman.Index.Damaged"
            && fault.message().contains("graph.flat")
            && fault.message().contains("doctor"),
        "{fault}"
    );
    assert!(!mesh.brahman(&["index", "doctor", "t"]).status.success());
    let mended = mesh.brahman_json(&["index", "doctor", "t", "--repair"]);
    assert_eq!((&mended["healthy"], &mended["repaired"]), (&json!(true), &json!(true)));
    assert_eq!(mesh.brahman_json(&["search", "t", "chapter 9"])["results"], wanted);
    assert!(mesh.brahman(&["index", "doctor", "t"]).status.success());
}

#[tokio::test]
async fn a_flipped_byte_among_the_vectors_is_said_in_every_reply_until_it_is_mended() {
    let mesh = indexed(1300).await;
    assert!(mesh.brahman(&["stop", "index"]).status.success());
    mesh.when_module("index", ModuleState::Stopped).await;
    let folder = mesh.folder.path().join("state/indexes/t");
    let generation = std::fs::read_dir(&folder)
        .expect("there")
        .flatten()
        .map(|e| e.path())
        .find(|p| p.join("graph.flat").exists())
        .expect("a graph");
    let mut bytes = std::fs::read(generation.join("graph.flat")).expect("there");
    // The last section is the vectors, which are mapped and not read when the index is opened.
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    std::fs::write(generation.join("graph.flat"), bytes).expect("damaged");
    assert!(mesh.brahman(&["start", "index"]).status.success());
    mesh.when_module("index", ModuleState::Ready).await;
    // It is found behind the answers, by a thread that nothing waits for.
    let said = loop {
        let found = mesh.brahman_json(&["search", "t", "chapter 9"]);
        if let Some(said) = found["degraded"].as_str() {
            break said.to_owned();
        }
    };
    assert!(said.contains("graph.flat"), "{said}");
    assert_eq!(mesh.brahman_json(&["index", "doctor", "t", "--repair"])["repaired"], true);
    assert!(mesh.brahman_json(&["search", "t", "chapter 9"])["degraded"].is_null());
}

#[tokio::test]
async fn what_is_lost_or_damaged_comes_back_from_rescue_and_every_reply_says_so() {
    let mesh = indexed(1300).await;
    let copies = mesh.folder.path().join("copies");
    mesh.brahman_json(&["buckets", "add", "rescue", &format!("file://{}", copies.display())]);
    mesh.brahman_json(&["index", "refresh", "t"]);
    let wanted = mesh.brahman_json(&["search", "t", "chapter 9"]);
    assert_eq!(wanted["rescue"], false);
    let folder = mesh.folder.path().join("state/indexes/t");
    let graph = std::fs::read_dir(&folder)
        .expect("there")
        .flatten()
        .map(|e| e.path().join("graph.flat"))
        .find(|p| p.exists())
        .expect("a graph");
    let copy = copies.join("indexes/t").join(graph.strip_prefix(&folder).expect("below"));
    let whole = std::fs::read(&graph).expect("there");
    while std::fs::metadata(&copy).map_or(0, |meta| meta.len()) < whole.len() as u64 {}
    // The last section is the vectors, which are mapped and not read when the index is opened.
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    for damage in [None, Some(flipped(5000)), Some(flipped(whole.len() - 5))] {
        assert!(mesh.brahman(&["stop", "index"]).status.success());
        mesh.when_module("index", ModuleState::Stopped).await;
        match &damage {
            Some(bytes) => std::fs::write(&graph, bytes).expect("damaged"),
            None => std::fs::remove_file(&graph).expect("removed"),
        }
        assert!(mesh.brahman(&["start", "index"]).status.success());
        mesh.when_module("index", ModuleState::Ready).await;
        // What is not read at once is found behind the answers.
        let found = loop {
            let found = mesh.brahman_json(&["search", "t", "chapter 9"]);
            if found["rescue"] == true {
                break found;
            }
        };
        assert_eq!((&found["results"], &found["degraded"]), (&wanted["results"], &Value::Null));
        assert!(
            std::fs::read(&graph).expect("there") == whole
                && mesh.brahman(&["index", "doctor", "t"]).status.success()
        );
        let doctor = mesh.brahman_json(&["index", "doctor", "t"]);
        assert!(doctor["notes"].to_string().contains("came back from bucket rescue"), "{doctor}");
    }
    // A copy with another content is none; the next generation is its own.
    std::fs::write(&copy, "something else").expect("damaged");
    assert!(mesh.brahman(&["stop", "index"]).status.success());
    mesh.when_module("index", ModuleState::Stopped).await;
    std::fs::write(&graph, flipped(5000)).expect("damaged");
    assert!(mesh.brahman(&["start", "index"]).status.success());
    mesh.when_module("index", ModuleState::Ready).await;
    mesh.fault("org.brahman.Index.Search", json!({"index": "t", "text": "chapter 9"})).await;
    mesh.brahman_json(&["index", "doctor", "t", "--repair"]);
    let mended = mesh.brahman_json(&["search", "t", "chapter 9"]);
    assert_eq!((&mended["results"], &mended["rescue"]), (&wanted["results"], &json!(false)));
}

#[tokio::test]
async fn a_repair_takes_a_damaged_segment_from_rescue_without_a_restart() {
    let mesh = indexed(1300).await;
    let copies = mesh.folder.path().join("copies");
    mesh.brahman_json(&["buckets", "add", "rescue", &format!("file://{}", copies.display())]);
    mesh.brahman_json(&["index", "refresh", "t"]);
    let wanted = mesh.brahman_json(&["search", "t", "chapter 9"]);
    let folder = mesh.folder.path().join("state/indexes/t");
    let segment = std::fs::read_dir(folder.join("segments"))
        .expect("there")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|kind| kind == "parquet"))
        .expect("a segment");
    let copy = copies.join("indexes/t").join(segment.strip_prefix(&folder).expect("below"));
    let whole = std::fs::read(&segment).expect("there");
    while std::fs::metadata(&copy).map_or(0, |meta| meta.len()) < whole.len() as u64 {}
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(&segment, damaged).expect("damaged");
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    let mended = mesh.brahman_json(&["index", "doctor", "t", "--repair"]);
    assert_eq!((&mended["healthy"], &mended["repaired"]), (&json!(true), &json!(true)), "{mended}");
    let notes = mended["notes"].to_string();
    assert!(notes.contains("put back from bucket rescue") && notes.contains(&name), "{mended}");
    assert_eq!(std::fs::read(&segment).expect("there"), whole);
    let found = mesh.brahman_json(&["search", "t", "chapter 9"]);
    assert_eq!((&found["results"], &found["rescue"]), (&wanted["results"], &json!(true)));
}

#[tokio::test]
async fn an_index_that_was_there_before_rescue_is_replicated_at_once_and_its_deletion_takes_its_replicas_alone()
 {
    let mesh = indexed(300).await;
    let copies = mesh.folder.path().join("copies");
    let theirs = copies.join("indexes/other");
    mesh.brahman_json(&["buckets", "add", "rescue", &format!("file://{}", copies.display())]);
    let copied = copies.join("indexes/t");
    let is_copied = || {
        std::fs::read_dir(&copied)
            .is_ok_and(|all| all.flatten().any(|e| e.path().join("manifest.json").exists()))
    };
    // No refresh and no restart: only the word that there is such a bucket.
    while !is_copied() {
        tokio::task::yield_now().await;
    }
    let replicas = || mesh.brahman_json(&["index", "stats", "t"])["index"]["replicas"].clone();
    while replicas() != json!({"files": 0, "bytes": 0}) {}
    // A disk that goes: what is new has none, and it is said where one looks for that.
    let away = mesh.folder.path().join("away");
    std::fs::rename(&copies, &away).expect("moved");
    mesh.brahman_json(&["ingest", "files", "t", &table(mesh.folder.path(), 320)]);
    mesh.brahman_json(&["index", "refresh", "t"]);
    while replicas()["files"].as_u64().is_none_or(|files| files == 0) {}
    assert!(
        replicas()["failing"].as_str().is_some_and(|why| why.contains("unavailable")),
        "{}",
        replicas()
    );
    let health = String::from_utf8_lossy(&mesh.brahman(&["buckets", "health"]).stdout).into_owned();
    assert!(
        health.contains("index `t`") && health.contains("no replica in bucket rescue"),
        "{health}"
    );
    std::fs::rename(&away, &copies).expect("moved back");
    mesh.brahman_json(&["index", "refresh", "t"]);
    while replicas() != json!({"files": 0, "bytes": 0}) {}
    std::fs::create_dir_all(&theirs).expect("made");
    std::fs::write(theirs.join(".owner"), "another mesh").expect("written");
    mesh.brahman_json(&["index", "create", "other", "--dataset", "t"]);
    for name in ["other", "t"] {
        mesh.brahman_json(&["index", "delete", name]);
    }
    assert!(theirs.join(".owner").exists() && !copied.exists());
    mesh.brahman_json(&["index", "create", "t", "--dataset", "t"]);
}

#[tokio::test]
async fn a_refresh_that_was_killed_embeds_nothing_twice() {
    let mesh = mesh("prod").await;
    let csv = table(mesh.folder.path(), 1300);
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    mesh.brahman_json(&["index", "create", "t", "--dataset", "t"]);
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connects");
    let ask = encode_call(
        "org.brahman.Index.Refresh",
        &json!({"name": "t"}),
        &CallOptions::default(),
        true,
        false,
    )
    .expect("encodes");
    connection.send(&ask).await.expect("sent");
    // After the first batch is on disk and before the last.
    loop {
        let word: Value =
            connection.receive().await.expect("a reply").typed().expect("progress").value;
        assert_ne!(word["phase"], "done", "it was quicker than the kill");
        if word["phase"] == "embed" && word["done"].as_u64() >= Some(512) {
            break;
        }
    }
    again(&mesh, "index").await;
    let out = mesh.brahman_json(&["index", "refresh", "t"]);
    assert!(out["resumed"].as_u64() >= Some(512), "{out}");
    assert_eq!((&out["total"], &out["new_docs"]), (&json!(1300), &json!(1300)));
    assert!(mesh.brahman(&["index", "doctor", "t"]).status.success());
    assert!(!mesh.folder.path().join("state/indexes/t/pending.log").exists());
}

/// Kills at moments that nothing chose, while a refresh, a compaction, a trial or a promotion runs.
#[tokio::test]
async fn random_kills_lose_no_acknowledged_trial_and_leave_a_whole_index() {
    let mesh = indexed(1200).await;
    let csv = mesh.folder.path().join("table.csv").display().to_string();
    let (mut acknowledged, mut random) = (Vec::new(), 0x9e37_79b9_7f4a_7c15_u64);
    mesh.brahman_json(&["index", "eval", "t", "--queries", "20"]);
    for n in 0..kills() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n | 1);
        let line = format!("kill-{n},text of kill {n},go,{}\n", 2000 + n % 25);
        let mut text = std::fs::read_to_string(&csv).expect("there");
        text.push_str(&line);
        std::fs::write(&csv, text).expect("written");
        mesh.brahman_json(&["ingest", "files", "t", &csv]);
        let work = match n % 4 {
            0 | 1 => ("Refresh", json!({"name": "t"})),
            2 => (
                "Trial",
                json!({"name": "t", "config": {"m": 4, "ef_construction": 16, "ef_search": 20}}),
            ),
            _ => (
                "Promote",
                json!({"name": "t", "config": {"m": 4 + n % 5, "ef_construction": 16}, "force": true}),
            ),
        };
        let mut connection =
            Connection::connect(&mesh.beside("index.sock")).await.expect("connects");
        let ask = encode_call(
            &format!("org.brahman.Index.{}", work.0),
            &work.1,
            &CallOptions::default(),
            false,
            false,
        )
        .expect("encodes");
        connection.send(&ask).await.expect("sent");
        let moment = std::time::Duration::from_micros(random >> 33 & 0x1_ffff);
        let answer = tokio::time::timeout(moment, connection.receive()).await;
        let pid = mesh.module("index").await.pid;
        mesh.signal(pid, "KILL");
        if let Ok(Ok(reply)) = answer
            && let Ok(value) = reply.typed::<Value>()
            && let Some(id) = value.value["trial"]["id"].as_str()
        {
            acknowledged.push(id.to_owned());
        }
        mesh.when(|m| {
            m.iter().any(|m| {
                m.card.label.as_str() == "index" && m.state == ModuleState::Ready && m.pid != pid
            })
        })
        .await;
        let found = mesh.brahman_json(&["search", "t", "chapter 11 speaks", "-k", "3"]);
        assert!(found["degraded"].is_null(), "{found}");
        assert_eq!(ids(&found).len(), 3);
    }
    mesh.brahman_json(&["index", "refresh", "t"]);
    assert_eq!(mesh.brahman_json(&["index", "stats", "t"])["index"]["chunks"], 1200 + kills());
    let trials = mesh.brahman_json(&["index", "trials", "t"]);
    let kept: Vec<&str> = trials["trials"]
        .as_array()
        .expect("trials")
        .iter()
        .filter_map(|t| t["id"].as_str())
        .collect();
    assert!(
        acknowledged.iter().all(|id| kept.contains(&id.as_str())),
        "{acknowledged:?} in {kept:?}"
    );
    assert_eq!(trials["quarantined"], 0);
    assert!(mesh.brahman(&["index", "doctor", "t"]).status.success());
}
