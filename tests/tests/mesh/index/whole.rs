//! What is damaged takes nothing else with it, is named in every reply, and is mended from what is
//! whole.

use std::path::{Path, PathBuf};

use brahman_card::ModuleState;
use brahman_tests::Mesh;
use serde_json::{Value, json};

use super::{again, ids, indexed};

async fn stopped(mesh: &Mesh) {
    assert!(mesh.brahman(&["stop", "index"]).status.success());
    mesh.when_module("index", ModuleState::Stopped).await;
}

async fn started(mesh: &Mesh) {
    assert!(mesh.brahman(&["start", "index"]).status.success());
    mesh.when_module("index", ModuleState::Ready).await;
}

/// Every file below a folder, and how long it is; what only a running module has is left out.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.extension().is_none_or(|extension| extension != "lock") {
            let bytes = path.metadata().expect("there").len();
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}

fn flip(path: &Path, at: usize) -> Vec<u8> {
    let good = std::fs::read(path).expect("there");
    let mut bytes = good.clone();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("damaged");
    good
}

/// Folders of generations with their numbers, the oldest first.
fn generations(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(folder).expect("listed").flatten().map(|e| e.path());
    let manifests = entries.filter_map(|path| {
        let text = std::fs::read(path.join("manifest.json")).ok()?;
        let manifest: Value = serde_json::from_slice(&text).expect("a manifest is JSON");
        Some((manifest["number"].as_u64().expect("a number"), path))
    });
    let mut all: Vec<(u64, PathBuf)> = manifests.collect();
    all.sort();
    all
}

fn added(mesh: &Mesh, name: &str) {
    let csv = mesh.folder.path().join("table.csv");
    let text = std::fs::read_to_string(&csv).expect("there");
    std::fs::write(&csv, format!("{text}{name},a new one called {name},rust,2024\n"))
        .expect("written");
    mesh.brahman_json(&["ingest", "files", "t", &csv.display().to_string()]);
}

#[tokio::test]
async fn a_damaged_byte_in_a_manifest_deletes_nothing_and_is_in_every_reply() {
    let mesh = indexed(1300).await;
    added(&mesh, "zebra");
    mesh.brahman_json(&["index", "refresh", "t"]);
    stopped(&mesh).await;
    let folder = mesh.folder.path().join("state/indexes/t");
    let manifest = generations(&folder).pop().expect("the newest").1.join("manifest.json");
    let middle = std::fs::metadata(&manifest).expect("there").len() / 2;
    let good = flip(&manifest, usize::try_from(middle).expect("small"));
    let before = files(&folder);
    started(&mesh).await;
    let found = mesh.brahman_json(&["search", "t", "chapter 9"]);
    assert_eq!(found["generation"], 1);
    assert!(
        found["degraded"].as_str().is_some_and(
            |why| why.contains("manifest.json") && why.contains("generation 1 answers")
        ),
        "{found}"
    );
    let stats = mesh.brahman_json(&["index", "stats", "t"])["index"].clone();
    assert!(stats["sweep"].as_str().is_some_and(|why| why.contains("manifest.json")), "{stats}");
    let listed = mesh.brahman_json(&["index", "generations", "t"]);
    assert!(
        listed["unreadable"][0].as_str().is_some_and(|why| why.contains("manifest.json")),
        "{listed}"
    );
    let doctor =
        mesh.call("org.brahman.Index.Doctor", json!({"name": "t"})).await.expect("examined");
    assert_eq!(doctor["healthy"], false);
    assert!(doctor["problems"].to_string().contains("manifest.json"), "{doctor}");
    assert!(mesh.log().contains("old files stay"), "it is in the log");
    again(&mesh, "index").await;
    assert_eq!(files(&folder), before, "nothing was removed");
    stopped(&mesh).await;
    std::fs::write(&manifest, good).expect("restored");
    started(&mesh).await;
    let found = mesh.brahman_json(&["search", "t", "zebra", "--lexical"]);
    assert_eq!(
        (&found["generation"], &found["degraded"], ids(&found)),
        (&json!(2), &Value::Null, vec!["zebra".to_owned()])
    );
    assert!(mesh.brahman(&["index", "doctor", "t"]).status.success());
}

#[tokio::test]
async fn a_damaged_generation_stands_in_nobodys_way_once_it_is_put_aside() {
    let mesh = indexed(1300).await;
    added(&mesh, "zebra");
    mesh.brahman_json(&["index", "refresh", "t"]);
    stopped(&mesh).await;
    let folder = mesh.folder.path().join("state/indexes/t");
    flip(&generations(&folder).pop().expect("the newest").1.join("manifest.json"), 40);
    started(&mesh).await;
    let mended = mesh.brahman_json(&["index", "doctor", "t", "--repair"]);
    assert_eq!(
        (&mended["healthy"], mended["put_aside"].as_array().map(Vec::len)),
        (&json!(true), Some(1)),
        "{mended}"
    );
    let out = mesh.brahman_json(&["index", "refresh", "t"]);
    assert_eq!((&out["total"], &out["sweep"]), (&json!(1301), &Value::Null));
    assert!(
        out["generation"].as_u64() > Some(2),
        "the damaged one's number is not used again: {out}"
    );
    assert!(mesh.brahman_json(&["search", "t", "zebra"])["degraded"].is_null());
}

#[tokio::test]
async fn a_flipped_bit_among_the_words_is_named_answered_rightly_and_mended() {
    let mesh = indexed(1300).await;
    let ask = json!({"index": "t", "text": "1234", "mode": "lexical"});
    let wanted =
        mesh.call("org.brahman.Index.Search", ask.clone()).await.expect("hits")["results"].clone();
    let folder = mesh.folder.path().join("state/indexes/t");
    for extension in ["term", "idx", "fast", "json"] {
        stopped(&mesh).await;
        let lexical = generations(&folder).pop().expect("a generation").1.join("lexical");
        let file = files(&lexical)
            .into_iter()
            .find(|(path, _)| path.extension().is_some_and(|e| e == extension))
            .expect("a file")
            .0;
        flip(
            &file,
            std::fs::metadata(&file)
                .map(|meta| usize::try_from(meta.len()).expect("small") / 2)
                .expect("there"),
        );
        started(&mesh).await;
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let found = mesh.call("org.brahman.Index.Search", ask.clone()).await.expect("hits");
        assert_eq!(found["results"], wanted, "{name}");
        assert!(found["degraded"].as_str().is_some_and(|why| why.contains("lexical/")), "{found}");
        let doctor =
            mesh.call("org.brahman.Index.Doctor", json!({"name": "t"})).await.expect("examined");
        assert!(
            doctor["healthy"] == false && doctor["problems"].to_string().contains(&name),
            "{doctor}"
        );
        assert_eq!(mesh.brahman_json(&["index", "doctor", "t", "--repair"])["healthy"], true);
        let found = mesh.call("org.brahman.Index.Search", ask.clone()).await.expect("hits");
        assert_eq!((&found["results"], &found["degraded"]), (&wanted, &Value::Null), "{name}");
    }
}

#[tokio::test]
async fn every_other_file_is_compared_too() {
    let mesh = indexed(1300).await;
    mesh.brahman_json(&["index", "eval", "t", "--queries", "20"]);
    let folder = mesh.folder.path().join("state/indexes/t");
    let evals: Vec<PathBuf> =
        files(&folder.join("evals")).into_iter().map(|(path, _)| path).collect();
    for file in evals.iter().chain([&folder.join("index.json"), &folder.join("CURRENT")]) {
        let good = flip(file, 12);
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let doctor =
            mesh.call("org.brahman.Index.Doctor", json!({"name": "t"})).await.expect("examined");
        assert!(
            doctor["healthy"] == false && doctor["problems"].to_string().contains(&name),
            "{name}: {doctor}"
        );
        std::fs::write(file, good).expect("restored");
        assert!(mesh.brahman(&["index", "doctor", "t"]).status.success(), "{name}");
    }
    // Without its parameters it is no index to search, and keeps its name and its files.
    let before = files(&folder.join("segments"));
    stopped(&mesh).await;
    let good = flip(&folder.join("index.json"), 12);
    started(&mesh).await;
    for (method, ask) in [
        ("Search", json!({"index": "t", "text": "x"})),
        ("Refresh", json!({"name": "t"})),
        ("Stats", json!({"name": "t"})),
        ("Create", json!({"name": "t", "dataset": "t", "id_column": "id", "text_column": "text"})),
    ] {
        let fault = mesh.fault(&format!("org.brahman.Index.{method}"), ask).await;
        assert!(
            fault.name == "org.brahman.Index.Damaged" && fault.message().contains("index.json"),
            "{method}: {fault}"
        );
    }
    assert_eq!(files(&folder.join("segments")), before);
    stopped(&mesh).await;
    std::fs::write(folder.join("index.json"), good).expect("restored");
    started(&mesh).await;
    assert_eq!(
        ids(&mesh.brahman_json(&["search", "t", "topic7", "--lexical", "-k", "1"])).len(),
        1
    );
}

#[tokio::test]
async fn a_refresh_that_would_name_a_segment_which_is_gone_changes_nothing() {
    let mesh = indexed(1300).await;
    added(&mesh, "zebra");
    mesh.brahman_json(&["index", "refresh", "t"]);
    let folder = mesh.folder.path().join("state/indexes/t");
    let segment = files(&folder.join("segments"))
        .into_iter()
        .max_by_key(|(_, bytes)| *bytes)
        .expect("the base's")
        .0;
    let good = std::fs::read(&segment).expect("there");
    added(&mesh, "okapi");
    std::fs::remove_file(&segment).expect("removed");
    let fault = mesh.fault("org.brahman.Index.Refresh", json!({"name": "t"})).await;
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(
        fault.name == "org.brahman.Index.Damaged" && fault.message().contains(&name),
        "{fault}"
    );
    let found = mesh.brahman_json(&["search", "t", "chapter 9"]);
    assert_eq!((&found["generation"], &found["stale"]), (&json!(2), &json!(true)));
    std::fs::write(&segment, good).expect("restored");
    assert_eq!(mesh.brahman_json(&["index", "refresh", "t"])["total"], 1302);
    assert!(mesh.brahman(&["index", "doctor", "t"]).status.success());
}
