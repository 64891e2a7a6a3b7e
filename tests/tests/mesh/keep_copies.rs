//! Copies: whoever has yet to be copied is, what is damaged never reaches a good copy, and what is
//! lost or damaged comes back.

use std::path::{Path, PathBuf};

use brahman_card::ModuleState;
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::{Value, json};

use crate::keep_away::meanwhile;

async fn mesh() -> Mesh {
    let mesh = Setup::new(&["broker", "catalog", "ingest"].map(shipped)).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh
}

/// Ingests so many rows; gives the reply.
fn ingest(mesh: &Mesh, name: &str, rows: usize) -> Value {
    let csv = mesh.folder.path().join(format!("{name}.csv"));
    let text: String = (0..rows).map(|i| format!("{i},v{i}\n")).collect();
    std::fs::write(&csv, format!("id,v\n{text}")).expect("written");
    mesh.brahman_json(&["ingest", "files", name, &csv.display().to_string()])
}

/// Path and key of the first object of an ingest's reply.
fn object(out: &Value) -> (PathBuf, String) {
    let text = |field: &str| out["objects"][0][field].as_str().expect("a text").to_owned();
    (PathBuf::from(text("url").trim_start_matches("file://")), text("key"))
}

fn rescue(mesh: &Mesh) -> PathBuf {
    let folder = mesh.folder.path().join("copies");
    mesh.brahman_json(&["buckets", "add", "rescue", &format!("file://{}", folder.display())]);
    folder
}

/// Waits until the catalog says so of its copies.
async fn when_copies(mesh: &Mesh, attribute: &str, wanted: impl Fn(&str) -> bool) {
    let of = |m: &brahman_card::ModuleRecord| {
        m.attributes.get(attribute).is_some_and(|value| wanted(value))
    };
    mesh.when(|m| m.iter().any(|m| m.card.label.as_str() == "catalog" && of(m))).await;
}

/// Flips a bit within the first page of an object.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("there");
    bytes[6] ^= 1;
    std::fs::write(path, bytes).expect("damaged");
}

async fn get(mesh: &Mesh, name: &str) -> Value {
    mesh.call("org.brahman.Catalog.Get", json!({"name": name})).await.expect("there")
}

async fn restart(mesh: &Mesh) {
    let pid = mesh.module("catalog").await.pid;
    mesh.signal(pid, "KILL");
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == "catalog" && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
}

/// Waits for a copy, which is made behind what was answered.
fn when_there(copy: &std::path::Path) {
    let since = std::time::Instant::now();
    while !copy.is_file() {
        assert!(since.elapsed() < brahman_tests::PATIENCE, "{} was not made", copy.display());
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn what_was_there_before_rescue_or_came_while_it_was_away_is_copied_and_the_lag_is_told() {
    let mesh = mesh().await;
    let (first, key) = object(&ingest(&mesh, "old", 50));
    let copies = rescue(&mesh);
    when_copies(&mesh, "copies.objects", |n| n == "0").await;
    assert_eq!(
        std::fs::read(copies.join(&key)).expect("copied"),
        std::fs::read(&first).expect("there")
    );

    // Its disk is away: commits go on, and say so; nothing is made in its place.
    let away = mesh.folder.path().join("unmounted");
    std::fs::rename(&copies, &away).expect("moved");
    let (_, late) = object(&ingest(&mesh, "late", 50));
    when_copies(&mesh, "copies.why", |why| !why.is_empty()).await;
    when_copies(&mesh, "copies.objects", |n| n == "1").await;
    let said = ingest(&mesh, "later", 50);
    assert!(said["notes"].to_string().contains("no replica in bucket rescue"), "{said}");
    assert!(!copies.exists(), "it is not made anew on another disk");
    std::fs::rename(&away, &copies).expect("moved back");
    when_copies(&mesh, "copies.objects", |n| n == "0").await;
    assert!(copies.join(&late).is_file() && copies.join(object(&said).1).is_file());

    // What is deleted loses its copies, too, and nothing else does.
    mesh.call("org.brahman.Catalog.Delete", json!({"name": "late"})).await.expect("deleted");
    while copies.join(&late).exists() {}
    assert!(copies.join(&key).is_file());
}

#[tokio::test]
async fn a_flipped_byte_never_reaches_a_good_copy_and_is_repaired_from_it() {
    let mesh = mesh().await;
    let copies = rescue(&mesh);
    let (path, key) = object(&ingest(&mesh, "t", 500));
    when_copies(&mesh, "copies.objects", |n| n == "0").await;
    when_there(&copies.join(&key));
    let whole = std::fs::read(&path).expect("there");

    // Copies are looked at again after a start, and at each commit.
    flip(&path);
    restart(&mesh).await;
    ingest(&mesh, "other", 5);
    when_copies(&mesh, "copies.objects", |n| n == "0").await;
    assert_eq!(std::fs::read(copies.join(&key)).expect("there"), whole);
    // Whoever wants to read it is given what was committed.
    assert_eq!(get(&mesh, "t").await["rescued"], json!([key]));
    assert_eq!(std::fs::read(&path).expect("there"), whole);
    assert!(get(&mesh, "t").await["rescued"].is_null());

    // Nor does a resync take it for the truth.
    flip(&path);
    let out = mesh.brahman_json(&["datasets", "resync", "t"]);
    assert_eq!(
        (&out["changed"], &out["generation"], &out["rows"]),
        (&json!(false), &json!(1), &json!(500)),
        "{out}"
    );
    assert!(out["notes"].to_string().contains("came back from bucket rescue"), "{out}");
    assert_eq!(std::fs::read(&path).expect("there"), whole);

    // Each side is repaired from the other.
    flip(&path);
    let out = mesh.call("org.brahman.Storage.Scrub", json!({})).await.expect("scrubbed");
    assert_eq!(
        (&out["repaired"][0]["bucket"], &out["unrepaired"]),
        (&json!("primary"), &json!([])),
        "{out}"
    );
    flip(&copies.join(&key));
    let out =
        mesh.call("org.brahman.Storage.Scrub", json!({"dataset": "t"})).await.expect("scrubbed");
    assert_eq!(
        (&out["repaired"][0]["bucket"], &out["objects"]),
        (&json!("rescue"), &json!(2)),
        "{out}"
    );
    assert!(
        [path.clone(), copies.join(&key)]
            .iter()
            .all(|side| std::fs::read(side).expect("there") == whole)
    );

    // Where no copy is left, damaged bytes are not made one: it stays behind until there is
    // something to copy.
    std::fs::remove_file(copies.join(&key)).expect("removed");
    flip(&path);
    restart(&mesh).await;
    ingest(&mesh, "third", 5);
    when_copies(&mesh, "copies.objects", |n| n == "1").await;
    assert!(!copies.join(&key).exists());
    std::fs::write(&path, &whole).expect("put back");
    ingest(&mesh, "third", 6);
    when_copies(&mesh, "copies.objects", |n| n == "0").await;
    assert_eq!(std::fs::read(copies.join(&key)).expect("there"), whole);

    // Without a good one anywhere nobody reads it, and only somebody's word makes it the truth.
    flip(&path);
    flip(&copies.join(&key));
    let fault = mesh.fault("org.brahman.Catalog.Get", json!({"name": "t"})).await;
    assert!(
        fault.name == "org.brahman.Catalog.BadObject" && fault.message().contains("no good copy"),
        "{fault}"
    );
    let out = mesh
        .call("org.brahman.Storage.Scrub", json!({"bucket": "primary"}))
        .await
        .expect("scrubbed");
    assert_eq!(
        (&out["damaged"][0]["key"], &out["unrepaired"][0]["key"], &out["repaired"]),
        (&json!(key), &json!(key), &json!([])),
        "{out}"
    );
    let fault = mesh.fault("org.brahman.Catalog.Resync", json!({"name": "t"})).await;
    assert_eq!(
        (&*fault.name, &fault.parameters["keys"]),
        ("org.brahman.Catalog.Incomplete", &json!([key])),
        "{fault}"
    );
    let taken = mesh
        .call("org.brahman.Catalog.Resync", json!({"name": "t", "accept_damage": true}))
        .await
        .expect("somebody says so");
    assert_eq!((&taken["generation"], &taken["rows"]), (&json!(2), &json!(500)));
    assert!(get(&mesh, "t").await["missing"].is_null());
}

#[tokio::test]
async fn a_dataset_whose_manifest_and_objects_are_gone_comes_back_from_rescue() {
    let mesh = mesh().await;
    let copies = rescue(&mesh);
    let (path, key) = object(&ingest(&mesh, "t", 70));
    when_there(&copies.join(&key));
    when_copies(&mesh, "copies.objects", |n| n == "0").await;
    std::fs::remove_file(mesh.folder.path().join("state/catalog/t.json")).expect("removed");
    // Its folder as well: as on a disk that took the place of another.
    std::fs::remove_dir_all(mesh.folder.path().join("state/buckets/primary/datasets/t"))
        .expect("removed");
    restart(&mesh).await;
    // Nothing here says any more that there was such a dataset, but for the lineage; its copies
    // stay.
    assert_eq!(mesh.brahman_json(&["datasets"])["datasets"][0]["state"], "lost");
    ingest(&mesh, "other", 5);
    assert!(copies.join(&key).is_file());
    // What `other` has left among the copies stays as long as nobody knows what `t` needs.
    let refused =
        |told: &Value| told["notes"].to_string().contains("dataset `other`: nothing is tidied");
    while !refused(&mesh.brahman_json(&["datasets"])) {}
    let out = mesh.brahman_json(&["datasets", "resync", "t"]);
    assert_eq!((&out["rows"], &out["generation"]), (&json!(70), &json!(1)), "{out}");
    let told = mesh.brahman_json(&["datasets"]);
    assert!(!told["notes"].to_string().contains("nothing is tidied"), "{told}");
    assert!(path.is_file() && get(&mesh, "t").await["dataset"]["rows"] == 70);
}

#[tokio::test]
async fn all_generations_that_are_kept_are_copied_and_counted() {
    let mesh = mesh().await;
    let (before, old) = object(&ingest(&mesh, "t", 50));
    let (_, new) = object(&ingest(&mesh, "t", 60));
    let copies = rescue(&mesh);
    when_copies(&mesh, "copies.objects", |n| n == "0").await;
    when_there(&copies.join(&old));
    assert!(copies.join(&new).is_file());
    // One of the generation before has no copy any more, and nothing to make one of: that is told.
    std::fs::remove_file(copies.join(&old)).expect("removed");
    std::fs::remove_file(&before).expect("removed");
    restart(&mesh).await;
    when_copies(&mesh, "copies.objects", |n| n == "1").await;
    assert_eq!(
        mesh.call("org.brahman.Storage.Scrub", json!({})).await.expect("looked at")["unrepaired"]
            [0]["key"],
        json!(old)
    );
}

#[tokio::test]
async fn a_resync_says_which_objects_are_gone_while_the_catalog_runs_and_brings_back_what_has_a_copy()
 {
    let mesh = mesh().await;
    let (path, key) = object(&ingest(&mesh, "t", 50));
    ingest(&mesh, "other", 5);
    let whole = std::fs::read(&path).expect("there");
    std::fs::remove_file(&path).expect("removed");
    let out = mesh.brahman(&["datasets", "resync", "--json"]);
    let told: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(
        (out.status.code(), &told["resynced"], &told["failed"][0]["name"]),
        (Some(1), &json!([]), &json!("t")),
        "{told}"
    );
    let reason = told["failed"][0]["reason"].as_str().expect("why");
    assert!(
        reason.contains(&key)
            && reason.contains("1 of its 1 objects")
            && reason.contains("50 of its 50 rows"),
        "{reason}"
    );
    let fault = mesh.fault("org.brahman.Catalog.Resync", json!({"name": "t"})).await;
    assert_eq!(
        (&*fault.name, &fault.parameters["keys"]),
        ("org.brahman.Catalog.Incomplete", &json!([key])),
        "{fault}"
    );
    assert_eq!(
        (&fault.parameters["rows"], &fault.parameters["expected_rows"]),
        (&json!(0), &json!(50))
    );
    // With a copy it comes back, and that is said.
    std::fs::write(&path, &whole).expect("put back");
    assert_eq!(mesh.brahman_json(&["datasets", "resync"])["resynced"], json!([]));
    rescue(&mesh);
    when_copies(&mesh, "copies.objects", |n| n == "0").await;
    std::fs::remove_file(&path).expect("removed");
    let told = mesh.brahman_json(&["datasets", "resync"]);
    assert_eq!(
        (&told["resynced"][0]["name"], &told["failed"]),
        (&json!("t"), &json!([])),
        "{told}"
    );
    assert_eq!(std::fs::read(&path).expect("there"), whole);
}

#[tokio::test]
async fn what_a_run_that_was_not_committed_has_left_is_listed_and_told() {
    let mesh = mesh().await;
    ingest(&mesh, "t", 5);
    let run = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let begun = mesh
        .call(
            "org.brahman.Catalog.Location",
            json!({"name": "t", "run_id": run, "producer": "test"}),
        )
        .await
        .expect("begun");
    std::fs::write(
        Path::new(begun["path"].as_str().expect("a path")).join("part-0.parquet"),
        "half",
    )
    .expect("written");
    let out = mesh.brahman_json(&["buckets", "scrub"]);
    let left = &out["unfinished"][0];
    assert_eq!(
        (&left["dataset"], &left["run_id"], &left["bucket"]),
        (&json!("t"), &json!(run), &json!("primary")),
        "{out}"
    );
    assert_eq!(
        (&left["objects"], &left["bytes"], &left["given_up"]),
        (&json!(1), &json!(4), &json!(false))
    );
    assert!(
        left["since_ms"].is_u64() && out["damaged"] == json!([]) && out["records"].is_null(),
        "{out}"
    );
    mesh.call("org.brahman.Catalog.Abandon", json!({"run_id": run, "reason": "it was killed"}))
        .await
        .expect("given up");
    assert_eq!(mesh.brahman_json(&["buckets", "scrub"])["unfinished"][0]["given_up"], true);
    when_copies(&mesh, "unfinished", |words| words.contains(run) && words.starts_with("4 bytes"))
        .await;
}

#[tokio::test]
async fn a_damaged_record_of_a_commit_is_named_and_makes_no_object_a_damaged_one() {
    let mesh = mesh().await;
    let first = ingest(&mesh, "t", 5);
    ingest(&mesh, "t", 6);
    let run = first["run_id"].as_str().expect("a run").to_owned();
    let log = mesh.folder.path().join("state/catalog/lineage.log");
    meanwhile(&mesh, || {
        let text = std::fs::read_to_string(&log).expect("there");
        let flip = |line: &str| {
            let is_its = line.contains("\"COMPLETE\"")
                && line.contains(&format!("\"run_id\":\"{run}\",\"made\""));
            if is_its {
                line.replacen("outputStatistics", "outputStatistigs", 1)
            } else {
                line.to_owned()
            }
        };
        let flipped: String = text.split_inclusive('\n').map(flip).collect();
        assert_ne!(flipped, text);
        std::fs::write(&log, flipped).expect("damaged");
    })
    .await;
    let out = mesh.brahman(&["buckets", "scrub", "--json"]);
    let found: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(
        (out.status.code(), &found["damaged"], &found["objects"]),
        (Some(1), &json!([]), &json!(2)),
        "{found}"
    );
    let records = found["records"].to_string();
    assert!(
        records.contains(&run)
            && records.contains("lineage.log")
            && records.contains("generation 1 of dataset"),
        "{records}"
    );
    // What is changed beneath it while it runs is written anew from what it knows, and nothing is
    // lost with its next life.
    let whole = std::fs::read_to_string(&log).expect("there");
    let events = || mesh.call("org.brahman.Catalog.Lineage", json!({"name": "t"}));
    let before = events().await.expect("told")["events"].clone();
    for damaged in [
        whole.replacen("outputStatistics", "outputStatistigs", 1),
        whole[..whole.len() / 2].to_owned(),
        String::new(),
    ] {
        std::fs::write(&log, damaged).expect("damaged");
        let found = mesh.call("org.brahman.Storage.Scrub", json!({})).await.expect("looked at");
        assert!(
            found["notes"].to_string().contains("lineage.log had") && found["damaged"] == json!([]),
            "{found}"
        );
        let again = mesh.call("org.brahman.Storage.Scrub", json!({})).await.expect("looked at");
        assert!(!again["notes"].to_string().contains("lineage.log had"), "{again}");
    }
    meanwhile(&mesh, || ()).await;
    assert_eq!(events().await.expect("told")["events"], before);
    // A dataset's own file that has gone is written anew from what is known.
    let file = mesh.folder.path().join("state/catalog/t.json");
    std::fs::write(&file, "{").expect("damaged");
    let found = mesh.call("org.brahman.Storage.Scrub", json!({})).await.expect("looked at");
    let text = std::fs::read_to_string(&file).expect("there");
    assert!(
        found["notes"].to_string().contains("written anew")
            && text.contains("sha256")
            && text.contains(&run),
        "{found}"
    );
}

/// The catalog is killed at moments that nothing chose while it copies.
#[tokio::test]
async fn killed_while_it_copies_a_catalog_goes_on_and_every_copy_is_whole() {
    let mut cards = ["broker", "catalog", "ingest"].map(shipped);
    cards[1].1.push_str("\n[supervision.restart]\ninitial_ms = 1\nmax_ms = 10\nintensity = 100000\nhealthy_after_ms = 1\n");
    let mesh = Setup::new(&cards).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let made: Vec<_> = (0..8).map(|n| object(&ingest(&mesh, &format!("d{n}"), 2000 + n))).collect();
    let copies = rescue(&mesh);
    for _ in 0..6 {
        let pid = mesh.module("catalog").await.pid;
        mesh.signal(pid, "KILL");
        mesh.when(|m| {
            m.iter().any(|m| {
                m.card.label.as_str() == "catalog" && m.state == ModuleState::Ready && m.pid != pid
            })
        })
        .await;
    }
    when_copies(&mesh, "copies.objects", |n| n == "0").await;
    for (path, key) in made {
        let copy = copies.join(key);
        when_there(&copy);
        assert_eq!(
            std::fs::read(&copy).expect("there"),
            std::fs::read(&path).expect("there"),
            "{}",
            copy.display()
        );
    }
}
