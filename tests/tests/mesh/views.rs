//! Datasets as things: stable paths that are always whole, copies, names, pins.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use brahman_card::ModuleState;
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::{Value, json};

async fn mesh() -> Mesh {
    let mesh = Setup::new(&["broker", "catalog", "ingest"].map(shipped)).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh.when_served_by("org.brahman.Ingest", "ingest").await;
    mesh
}

/// Ingests a table whose rows all say the same, as its next generation.
async fn ingest(mesh: &Mesh, dataset: &str, word: &str, rows: usize) -> u64 {
    let file = mesh.folder.path().join(format!("{dataset}.csv"));
    let lines: String = (0..rows).map(|row| format!("{row},{word}\n")).collect();
    std::fs::write(&file, format!("id,text\n{lines}")).expect("written");
    let ask = json!({"dataset": dataset, "paths": [file.display().to_string()], "pii": false});
    let done = mesh.call("org.brahman.Ingest.Files", ask).await.expect("ingested");
    done["generation"].as_u64().expect("a generation")
}

async fn get(mesh: &Mesh, dataset: &str) -> Value {
    mesh.call("org.brahman.Catalog.Get", json!({ "name": dataset })).await.expect("there")
}

fn current(mesh: &Mesh, dataset: &str) -> PathBuf {
    mesh.folder.path().join("state/datasets").join(dataset).join("current")
}

/// The runs to which a folder's files belong, by their names, once each could be opened.
fn runs(folder: &Path) -> std::io::Result<BTreeSet<String>> {
    let mut runs = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        std::fs::File::open(entry.path())?;
        let name = entry.file_name().into_string().expect("text");
        runs.insert(name.split('-').nth(1).expect("number-run-file").to_owned());
    }
    Ok(runs)
}

#[tokio::test]
async fn the_stable_path_is_whole_while_generation_follows_generation_and_after_a_restart() {
    let mesh = mesh().await;
    ingest(&mesh, "d", "first", 10).await;
    let path = current(&mesh, "d");
    assert_eq!(get(&mesh, "d").await["current"], path.display().to_string());
    let over = Arc::new(AtomicBool::new(false));
    let (ended, folder) = (Arc::clone(&over), path.clone());
    let reader = std::thread::spawn(move || {
        let mut read = 0;
        while !ended.load(Ordering::Relaxed) {
            // Resolved once, as a reader does that wants one generation.
            let one = std::fs::canonicalize(&folder).expect("it is always there");
            let found =
                runs(&one).expect("every file of a generation can be opened while it is kept");
            assert_eq!(found.len(), 1, "one generation: {found:?}");
            read += 1;
        }
        read
    });
    for n in 0..10 {
        ingest(&mesh, "d", &format!("word{n}"), 10).await;
        let run = get(&mesh, "d").await["dataset"]["run_id"].as_str().expect("a run").to_owned();
        assert_eq!(
            runs(&path).expect("whole"),
            BTreeSet::from([run]),
            "whoever was told of a generation finds it"
        );
    }
    over.store(true, Ordering::Relaxed);
    assert!(reader.join().expect("no reader failed") > 0);
    // What was deleted, or was left by an earlier version, is made anew.
    std::fs::remove_dir_all(mesh.folder.path().join("state/datasets")).expect("deleted");
    let pid = mesh.module("catalog").await.pid;
    mesh.signal(pid, "KILL");
    brahman_tests::gone(pid).await;
    mesh.when_module("catalog", ModuleState::Ready).await;
    let again = async { while get(&mesh, "d").await.get("current").is_none() {} };
    tokio::time::timeout(brahman_tests::PATIENCE, again).await.expect("it is shown again");
    assert_eq!(runs(&path).expect("whole").len(), 1);
    assert!(mesh.brahman(&["datasets", "delete", "d"]).status.success());
    assert!(!path.exists() && std::fs::symlink_metadata(&path).is_err());
}

#[tokio::test]
async fn a_pin_keeps_its_generation_until_it_is_taken_away() {
    let mesh = mesh().await;
    ingest(&mesh, "d", "one", 3).await;
    let pinned = mesh.brahman_json(&["datasets", "pin", "d", "--as", "mine"]);
    assert_eq!((&pinned["pin"]["generation"], &pinned["pin"]["pin"]), (&json!(1), &json!("mine")));
    let folder = PathBuf::from(pinned["pin"]["folder"].as_str().expect("a folder"));
    for word in ["two", "three", "four"] {
        ingest(&mesh, "d", word, 3).await;
    }
    assert_eq!(runs(&folder).expect("kept").len(), 1);
    assert_eq!(get(&mesh, "d").await["pins"][0]["generation"], 1);
    let refused = mesh.fault("org.brahman.Catalog.Delete", json!({"name": "d"})).await;
    assert_eq!(refused.name, "org.brahman.Catalog.Pinned");
    let gone = mesh.brahman(&["datasets", "pin", "d", "--generation", "2"]);
    assert_eq!(gone.status.code(), Some(4), "{gone:?}");
    assert_eq!(mesh.brahman_json(&["datasets", "unpin", "d"])["unpinned"], 1);
    assert!(!folder.exists());
    // Its life is over at once.
    mesh.call("org.brahman.Catalog.Pin", json!({"name": "d", "life_s": 0})).await.expect("pinned");
    assert!(get(&mesh, "d").await.get("pins").is_none());
    assert_eq!(mesh.brahman(&["datasets", "pin", "d", "--life", "soon"]).status.code(), Some(2));
}

#[tokio::test]
async fn a_copy_and_a_rename_are_one_each_however_often_they_are_said() {
    let mesh = mesh().await;
    for word in ["one", "two", "three"] {
        ingest(&mesh, "a", word, 5).await;
    }
    let copy = mesh.brahman_json(&["datasets", "copy", "a", "b"]);
    assert_eq!(
        (&copy["name"], &copy["generation"], &copy["rows"]),
        (&json!("b"), &json!(1), &json!(5))
    );
    assert_eq!(
        mesh.brahman_json(&["datasets", "copy", "a", "b"]),
        copy,
        "said again it is the same"
    );
    // Each goes its own way.
    ingest(&mesh, "a", "four", 6).await;
    let other = mesh.brahman(&["datasets", "copy", "a", "b"]);
    assert_eq!(other.status.code(), Some(1), "b is a copy of an older generation: {other:?}");
    let renamed = mesh.brahman_json(&["datasets", "rename", "a", "c"]);
    assert_eq!(
        (&renamed["generation"], &renamed["rows"]),
        (&json!(4), &json!(6)),
        "the number stays"
    );
    assert_eq!(mesh.brahman_json(&["datasets", "rename", "a", "c"]), renamed);
    assert_eq!(
        mesh.fault("org.brahman.Catalog.Get", json!({"name": "a"})).await.name,
        "org.brahman.Catalog.NoSuchDataset"
    );
    for (name, rows) in [("b", 5), ("c", 6)] {
        let there = get(&mesh, name).await;
        assert_eq!(
            (&there["dataset"]["rows"], there.get("missing")),
            (&json!(rows), None),
            "{name}"
        );
        assert!(current(&mesh, name).exists());
    }
    for (arguments, code) in [
        (&["datasets", "rename", "c", "b"][..], 1),
        (&["datasets", "rename", "nobody", "x"], 4),
        (&["datasets", "copy", "c", "../x"], 6),
        (&["datasets", "copy", "c", "c"], 1),
    ] {
        assert_eq!(mesh.brahman(arguments).status.code(), Some(code), "{arguments:?}");
    }
}

/// Whichever of the two is first: a rename that is refused has made nothing, and one that is told
/// as done has not lost what was committed.
#[tokio::test]
async fn a_rename_beside_a_commit_is_done_or_has_made_nothing() {
    let mesh = mesh().await;
    for round in 0..25 {
        let (from, to) = (format!("from{round}"), format!("to{round}"));
        ingest(&mesh, &from, "old", 3).await;
        let file = mesh.folder.path().join(format!("{from}.csv"));
        std::fs::write(&file, "id,text\n1,new\n").expect("written");
        let ask = json!({"dataset": &from, "paths": [file.display().to_string()], "pii": false});
        let commit = mesh.call("org.brahman.Ingest.Files", ask);
        let rename = async {
            // Into the middle of it, a little later each time.
            for _ in 0..round {
                mesh.call("org.brahman.Catalog.List", json!({})).await.expect("listed");
            }
            mesh.call("org.brahman.Catalog.Rename", json!({"name": &from, "to": &to})).await
        };
        let (committed, renamed) = tokio::join!(commit, rename);
        let names: BTreeSet<String> =
            mesh.call("org.brahman.Catalog.List", json!({})).await.expect("listed")["datasets"]
                .as_array()
                .expect("datasets")
                .iter()
                .filter_map(|dataset| dataset["name"].as_str().map(str::to_owned))
                .collect();
        match renamed {
            Ok(_) => {
                assert!(names.contains(&to), "{names:?}");
                let rows = &get(&mesh, &to).await["dataset"]["rows"];
                // What was committed is under the new name, or was refused, or came to a dataset
                // that was begun anew by the old one.
                assert!(
                    committed.is_err() || *rows == 1 || names.contains(&from),
                    "{committed:?} {rows} {names:?}"
                );
            }
            Err(refused) => {
                assert!(names.contains(&from) && !names.contains(&to), "{refused} {names:?}");
                assert!(!current(&mesh, &to).exists(), "{refused}");
            }
        }
    }
}

#[tokio::test]
async fn a_catalog_that_is_killed_in_the_middle_of_a_rename_leaves_one_whole_dataset_at_least() {
    let mesh = mesh().await;
    ingest(&mesh, "a", "word", 2000).await;
    let mut names = ["a", "b"];
    for _ in 0..5 {
        let [from, to] = names;
        let pid = mesh.module("catalog").await.pid;
        let renaming = mesh.call("org.brahman.Catalog.Rename", json!({"name": from, "to": to}));
        let killing = async {
            tokio::task::yield_now().await;
            mesh.signal(pid, "KILL");
        };
        let (outcome, ()) = tokio::join!(renaming, killing);
        brahman_tests::gone(pid).await;
        mesh.when_module("catalog", ModuleState::Ready).await;
        let has = async |name: &str| {
            mesh.call("org.brahman.Catalog.Get", json!({ "name": name }))
                .await
                .is_ok_and(|out| out.get("missing").is_none())
        };
        let there = (has(from).await, has(to).await);
        assert!(there.0 || there.1, "{outcome:?}");
        // Said again, it is done.
        let done = mesh
            .call("org.brahman.Catalog.Rename", json!({"name": from, "to": to}))
            .await
            .expect("renamed");
        assert_eq!(done["rows"], 2000);
        assert!(!has(from).await && has(to).await);
        names = [to, from];
    }
}

#[tokio::test]
async fn documents_keep_their_ids_when_a_folder_is_added_and_what_is_hidden_is_told() {
    let mesh = mesh().await;
    let at = |name: &str| mesh.folder.path().join(name).display().to_string();
    for (name, text) in
        [("a/x.md", "one"), ("a/.gitignore", "*.log\n"), ("a/y.log", "two"), ("b/x.md", "three")]
    {
        let path = PathBuf::from(at(name));
        std::fs::create_dir_all(path.parent().expect("a folder"))
            .and_then(|()| std::fs::write(path, text))
            .expect("written");
    }
    let ids = || {
        let out = mesh.brahman_json(&["datasets", "show", "d", "--rows", "10"]);
        let rows = out["sample"]["rows"].as_array().expect("rows").clone();
        rows.iter()
            .map(|row| {
                (
                    row["text"].as_str().unwrap_or_default().to_owned(),
                    row["id"].as_str().unwrap_or_default().to_owned(),
                )
            })
            .collect::<Vec<_>>()
    };
    let out = mesh.brahman_json(&["ingest", "files", "d", &at("a"), "--no-pii"]);
    assert_eq!(out["hidden"], 2, "{out}");
    let rules = out["hidden_by"].as_array().expect("rules");
    assert!(
        rules.iter().any(|rule| rule["rule"]
            .as_str()
            .is_some_and(|rule| rule.ends_with("a/.gitignore: *.log"))),
        "{rules:?}"
    );
    assert_eq!(ids(), [("one".to_owned(), "x.md".to_owned())]);
    mesh.brahman_json(&["ingest", "files", "d", &at("b"), &at("a"), "--no-pii"]);
    assert!(ids().contains(&("one".to_owned(), "x.md".to_owned())), "{:?}", ids());
    assert!(ids().contains(&("three".to_owned(), at("b/x.md"))), "{:?}", ids());
    let all = mesh.brahman_json(&["ingest", "files", "d", &at("a"), "--no-pii", "--no-ignore"]);
    assert_eq!((&all["rows"], all.get("hidden")), (&json!(3), None), "{all}");
}

#[tokio::test]
async fn a_mock_does_not_say_which_indexes_are_gone() {
    let mesh = Setup::new(
        &["broker", "catalog", "ingest", "embed-mock", "index", "index-mock"].map(shipped),
    )
    .up()
    .await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh.when_served_by("org.brahman.Ingest", "ingest").await;
    mesh.when_served_by("org.brahman.Index", "index").await;
    ingest(&mesh, "a", "word", 3).await;
    mesh.call(
        "org.brahman.Index.Create",
        json!({"name": "i", "dataset": "a", "id_column": "id", "text_column": "text"}),
    )
    .await
    .expect("created");
    mesh.call("org.brahman.Index.Refresh", json!({"name": "i"})).await.expect("refreshed");
    assert!(mesh.brahman(&["stop", "index"]).status.success());
    mesh.when_served_by("org.brahman.Index", "index-mock").await;
    let refused = mesh.brahman(&["datasets", "rename", "a", "b"]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("feeds i"),
        "{refused:?}"
    );
    assert_eq!(get(&mesh, "a").await["dataset"]["name"], "a");
}
