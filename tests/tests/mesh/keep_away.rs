//! Buckets that are away, and what else is only seen by its absence: objects are read from their
//! copies meanwhile, and what has gone is said.

use std::path::{Path, PathBuf};
use std::process::Command;

use brahman_card::ModuleState;
use brahman_card::interface::storage::{decode, encode};
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::{Value, json};

use crate::buckets::{Moto, health, node};

async fn mesh(more: impl FnOnce(Setup) -> Setup) -> Mesh {
    let mesh = more(Setup::new(&["broker", "catalog", "ingest"].map(shipped))).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh
}

fn url(folder: &Path) -> String {
    format!("file://{}", folder.display())
}

/// Ingests so many rows of text into a bucket; gives the key of the first object.
fn ingest(mesh: &Mesh, name: &str, bucket: &str, rows: usize) -> String {
    let csv = mesh.folder.path().join(format!("{name}.csv"));
    let text: String = (0..rows).map(|i| format!("{i},v{i}\n")).collect();
    std::fs::write(&csv, format!("id,text\n{text}")).expect("written");
    let out = mesh.brahman_json(&[
        "ingest",
        "files",
        name,
        &csv.display().to_string(),
        "--bucket",
        bucket,
    ]);
    out["objects"][0]["key"].as_str().expect("a key").to_owned()
}

async fn get(mesh: &Mesh, name: &str) -> Value {
    mesh.call("org.brahman.Catalog.Get", json!({"name": name})).await.expect("there")
}

/// Waits until everything has a copy.
async fn when_copied(mesh: &Mesh) {
    let copied = |m: &brahman_card::ModuleRecord| {
        m.attributes.get("copies.objects").is_some_and(|n| n == "0")
    };
    mesh.when(|m| m.iter().any(|m| m.card.label.as_str() == "catalog" && copied(m))).await;
}

/// Ends the catalog, does something to its files, and starts it again.
pub(crate) async fn meanwhile(mesh: &Mesh, work: impl FnOnce()) {
    assert!(mesh.brahman(&["stop", "catalog"]).status.success());
    mesh.when_module("catalog", ModuleState::Stopped).await;
    work();
    assert!(mesh.brahman(&["start", "catalog"]).status.success());
    mesh.when_module("catalog", ModuleState::Ready).await;
    mesh.when_served_by("org.brahman.Catalog", "catalog").await;
}

#[tokio::test]
async fn while_a_disk_is_away_its_datasets_are_read_from_their_copies_and_nothing_is_put_in_its_place()
 {
    let mesh = Setup::new(&["broker", "catalog", "ingest", "index", "embed-mock"].map(shipped))
        .context("test")
        .up()
        .await;
    for (flow, label) in [("Ingest", "ingest"), ("Index", "index"), ("Embed", "embed-mock")] {
        mesh.when_served_by(&format!("org.brahman.{flow}"), label).await;
    }
    let [disk, aside, copies] =
        ["disk", "aside", "copies"].map(|name| mesh.folder.path().join(name));
    mesh.brahman_json(&["buckets", "add", "big", &url(&disk)]);
    mesh.brahman_json(&["buckets", "add", "rescue", &url(&copies)]);
    let key = ingest(&mesh, "t", "big", 20);
    mesh.brahman_json(&["index", "create", "t", "--dataset", "t"]);
    while !copies.join(&key).is_file() {}
    when_copied(&mesh).await;
    assert!(get(&mesh, "t").await["borrowed"].is_null());

    std::fs::rename(&disk, &aside).and_then(|()| std::fs::create_dir(&disk)).expect("unmounted");
    let seen = get(&mesh, "t").await;
    assert_eq!(
        (&seen["borrowed"], &seen["missing"], &seen["rescued"]),
        (&json!([key]), &Value::Null, &Value::Null),
        "{seen}"
    );
    let path = seen["dataset"]["objects"][0]["path"].as_str().expect("a path");
    assert_eq!(Path::new(path), copies.join(&key), "it is read where it lies");
    let shown = mesh.brahman(&["datasets", "show", "t"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("its own bucket is unavailable") && shown.contains("v4"), "{shown}");
    let refreshed = mesh.brahman_json(&["index", "refresh", "t"]);
    assert_eq!(
        (&refreshed["dataset_docs"], &refreshed["borrowed"]),
        (&json!(20), &json!([key])),
        "{refreshed}"
    );
    let refused = mesh.fault("org.brahman.Catalog.Resync", json!({"name": "t"})).await;
    assert!(
        refused.name.ends_with("BucketFailed") && !refused.message().contains("gone"),
        "its disk may come back: {refused}"
    );
    assert_eq!(std::fs::read_dir(&disk).expect("there").count(), 0, "nothing was written to it");

    // A copy that is not what was committed is nobody's to read.
    let whole = std::fs::read(copies.join(&key)).expect("there");
    let mut flipped = whole.clone();
    flipped[7] ^= 1;
    std::fs::write(copies.join(&key), flipped).expect("damaged");
    let seen = get(&mesh, "t").await;
    assert_eq!((&seen["borrowed"], &seen["missing"]), (&Value::Null, &json!([key])), "{seen}");
    std::fs::remove_dir(&disk).and_then(|()| std::fs::rename(&aside, &disk)).expect("mounted");
    let seen = get(&mesh, "t").await;
    assert_eq!((&seen["borrowed"], &seen["missing"]), (&Value::Null, &Value::Null), "{seen}");
}

#[tokio::test]
async fn a_disk_that_does_not_answer_holds_up_nobody_else() {
    let mesh = mesh(|setup| setup).await;
    let [disk, copies] = ["disk", "copies"].map(|name| mesh.folder.path().join(name));
    mesh.brahman_json(&["buckets", "add", "big", &url(&disk)]);
    mesh.brahman_json(&["buckets", "add", "rescue", &url(&copies)]);
    let key = ingest(&mesh, "t", "big", 20);
    ingest(&mesh, "other", "primary", 5);
    when_copied(&mesh).await;
    while !copies.join(&key).is_file() {}
    let (marker, aside) = (disk.join(".brahman-bucket.json"), disk.join("aside"));
    std::fs::rename(&marker, &aside).expect("moved");
    // Whoever opens it to read it waits, as on a server that has gone.
    assert!(Command::new("mkfifo").arg(&marker).status().is_ok_and(|status| status.success()));
    assert_eq!(get(&mesh, "t").await["borrowed"], json!([key]));
    assert_eq!(get(&mesh, "other").await["dataset"]["rows"], 5);
    ingest(&mesh, "other", "primary", 6);
    let told = health(&mesh, "big").await;
    assert!(
        told["reachable"] == false
            && told["error"].as_str().is_some_and(|why| why.contains("no answer within")),
        "{told}"
    );
    let refused = mesh.brahman(&[
        "ingest",
        "files",
        "t",
        &mesh.folder.path().join("t.csv").display().to_string(),
    ]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no answer within"), "{refused:?}");
    let every = mesh
        .call("org.brahman.Catalog.ResyncMissing", json!({}))
        .await
        .expect("the others are looked at");
    assert!(every["failed"].to_string().contains("bucket `big` is away"), "{every}");
    // What still waits is answered, and it is there again.
    drop(std::fs::File::options().write(true).open(&marker).expect("opened"));
    std::fs::rename(&aside, &marker).expect("moved back");
    while health(&mesh, "big").await["reachable"] == false {}
    assert!(get(&mesh, "t").await["borrowed"].is_null());
}

#[tokio::test]
async fn commits_go_on_while_the_disk_of_copies_has_begun_to_hang_and_are_copied_when_it_answers() {
    let mesh = mesh(|setup| setup).await;
    let copies = mesh.folder.path().join("copies");
    mesh.brahman_json(&["buckets", "add", "rescue", &url(&copies)]);
    let first = ingest(&mesh, "t", "primary", 5);
    when_copied(&mesh).await;
    assert!(copies.join(&first).is_file());
    let (marker, aside) = (copies.join(".brahman-bucket.json"), copies.join("aside"));
    std::fs::rename(&marker, &aside).expect("moved");
    assert!(Command::new("mkfifo").arg(&marker).status().is_ok_and(|status| status.success()));
    let later: Vec<String> =
        (6..9).map(|rows| ingest(&mesh, &format!("t{rows}"), "primary", rows)).collect();
    assert_eq!(get(&mesh, "t8").await["dataset"]["rows"], 8);
    let lags = |m: &brahman_card::ModuleRecord| {
        let told = |name: &str, wanted: &str| {
            m.attributes.get(name).is_some_and(|value| value.contains(wanted))
        };
        m.card.label.as_str() == "catalog"
            && told("copies.objects", "3")
            && told("copies.why", "no answer")
    };
    mesh.when(|m| m.iter().any(lags)).await;
    let told = health(&mesh, "rescue").await;
    assert!(told["reachable"] == false && told["backlog_objects"] == 3, "{told}");
    assert!(
        later.iter().all(|key| !copies.join(key).exists()),
        "nothing is written to what does not answer"
    );
    drop(std::fs::File::options().write(true).open(&marker).expect("opened"));
    std::fs::rename(&aside, &marker).expect("moved back");
    when_copied(&mesh).await;
    assert!(later.iter().all(|key| copies.join(key).is_file()));
}

fn secrets() -> tempfile::NamedTempFile {
    use std::os::unix::fs::PermissionsExt as _;
    let secrets = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(secrets.path(), "[moto]\npassword = \"wery-secret\"\n").expect("written");
    std::fs::set_permissions(secrets.path(), std::fs::Permissions::from_mode(0o600)).expect("set");
    secrets
}

#[tokio::test]
async fn copies_in_s3_are_fetched_beside_the_buckets_and_those_of_a_server_that_is_gone_come_from_rescue()
 {
    let (moto, secrets) = (Moto::start(), secrets());
    assert_eq!((moto.ask("PUT", "/copies"), moto.ask("PUT", "/lake")), (200, 200));
    let mesh = mesh(|setup| setup.env("BRAHMAN_SECRETS", secrets.path())).await;
    let add = |name: &str, place: &str| {
        let endpoint = format!("aws_endpoint=http://127.0.0.1:{}", moto.port);
        let s3 = [
            "-o",
            "aws_region=us-east-1",
            "-o",
            "aws_allow_http=true",
            "-o",
            "aws_access_key_id=me",
            "--secret",
            "moto",
        ];
        mesh.brahman_json(
            &[&["buckets", "add", name, place, "-o", &endpoint][..], &s3[..]].concat(),
        );
    };
    let disk = mesh.folder.path().join("disk");
    mesh.brahman_json(&["buckets", "add", "big", &url(&disk)]);
    add("rescue", "s3://copies/mesh");
    let key = ingest(&mesh, "t", "big", 20);
    while health(&mesh, "rescue").await["backlog_objects"] != 0 {}
    std::fs::rename(&disk, mesh.folder.path().join("aside")).expect("unmounted");
    for _ in 0..2 {
        let seen = get(&mesh, "t").await;
        assert_eq!(seen["borrowed"], json!([key]), "{seen}");
        let object = &seen["dataset"]["objects"][0];
        let expected = mesh
            .folder
            .path()
            .join("state/buckets/.borrowed")
            .join(object["sha256"].as_str().expect("a hash"));
        assert_eq!(PathBuf::from(object["path"].as_str().expect("a path")), expected);
        assert_eq!(
            std::fs::metadata(&expected).expect("fetched").len(),
            object["bytes"].as_u64().expect("a length")
        );
    }
    assert!(!disk.exists());
    std::fs::rename(mesh.folder.path().join("aside"), &disk).expect("mounted");

    // Of one in S3 a copy lies here: gone while its server is, it comes back from rescue.
    add("lake", "s3://lake/data");
    let key = ingest(&mesh, "u", "lake", 20);
    while health(&mesh, "rescue").await["backlog_objects"] != 0 {}
    let copies = mesh.folder.path().join("copies");
    mesh.brahman_json(&["buckets", "add", "rescue", &url(&copies)]);
    while !copies.join(&key).is_file() {}
    when_copied(&mesh).await;
    drop(moto);
    let here = PathBuf::from(
        get(&mesh, "u").await["dataset"]["objects"][0]["path"].as_str().expect("a path"),
    );
    std::fs::remove_file(&here).expect("removed");
    assert_eq!(get(&mesh, "u").await["rescued"], json!([key]));
    assert!(here.is_file());
}

#[tokio::test]
async fn a_lineage_that_has_gone_with_its_head_is_said_and_nothing_goes_until_somebody_has_looked()
{
    let mesh = mesh(|setup| setup).await;
    assert!(mesh.brahman_json(&["datasets"])["notes"].is_null(), "a new state has lost nothing");
    let catalog = mesh.folder.path().join("state/catalog");
    let object = |key: &str| mesh.folder.path().join("state/buckets/primary").join(key);
    let first = ingest(&mesh, "t", "primary", 1);
    ingest(&mesh, "t", "primary", 2);
    let gone = || {
        for name in ["lineage.log", "lineage.log.head"] {
            std::fs::remove_file(catalog.join(name)).expect("there");
        }
    };
    meanwhile(&mesh, gone).await;
    let third = ingest(&mesh, "t", "primary", 3);
    for rows in 4..6 {
        ingest(&mesh, "t", "primary", rows);
    }
    let notes = mesh.brahman_json(&["datasets"])["notes"].to_string();
    assert!(notes.contains("dataset `t`") && notes.contains("lineage.log.quarantine"), "{notes}");
    assert!(object(&first).is_file() && object(&third).is_file(), "nothing is tidied");
    meanwhile(&mesh, || {
        std::fs::remove_file(catalog.join("lineage.log.quarantine"))
            .expect("looked at, and moved away");
    })
    .await;
    ingest(&mesh, "t", "primary", 6);
    assert!(mesh.brahman_json(&["datasets"])["notes"].is_null());
    assert!(
        object(&first).is_file() && !object(&third).exists(),
        "what is known to be ours goes, and what is not stays"
    );
}

#[tokio::test]
async fn copies_of_two_meshes_that_share_rescue_never_meet() {
    let (one, two) = (mesh(|setup| setup).await, mesh(|setup| setup).await);
    let shared = tempfile::tempdir().expect("a temporary directory");
    let copies = shared.path().join("copies");
    for mesh in [&one, &two] {
        mesh.brahman_json(&["buckets", "add", "rescue", &url(&copies)]);
    }
    let key = "notes/a.txt";
    for (mesh, data) in [(&one, "one"), (&two, "two")] {
        let ask = json!({"bucket": "primary", "key": key, "data_base64": encode(data.as_bytes())});
        assert_eq!(
            mesh.call("org.brahman.Storage.PutObject", ask).await.expect("put")["copied"],
            true
        );
    }
    for (mesh, data) in [(&one, "one"), (&two, "two")] {
        std::fs::remove_file(mesh.folder.path().join("state/buckets/primary").join(key))
            .expect("removed");
        let got = mesh
            .call("org.brahman.Storage.GetObject", json!({"bucket": "primary", "key": key}))
            .await
            .expect("its copy");
        let bytes = decode(got["data_base64"].as_str().expect("base64")).expect("base64");
        assert_eq!((bytes.as_slice(), &got["rescue_used"]), (data.as_bytes(), &json!(true)));
        assert!(copies.join("objects").join(node(mesh)).join("primary").join(key).is_file());
    }
    // What an earlier version has copied is read where only one of them could have, and else by
    // nobody.
    let old = copies.join("objects/primary/notes/old.txt");
    std::fs::create_dir_all(old.parent().expect("a folder"))
        .and_then(|()| std::fs::write(&old, "old"))
        .expect("written");
    let ask = json!({"bucket": "primary", "key": "notes/old.txt"});
    assert_eq!(
        one.fault("org.brahman.Storage.GetObject", ask.clone()).await.name,
        "org.brahman.Storage.NoSuchObject"
    );
    std::fs::remove_file(copies.join(".brahman-catalogs").join(node(&two))).expect("it has left");
    let got = one.call("org.brahman.Storage.GetObject", ask).await.expect("ours");
    assert_eq!(
        (decode(got["data_base64"].as_str().expect("base64")), &got["rescue_used"]),
        (Some(b"old".to_vec()), &json!(true))
    );
}

#[tokio::test]
async fn a_registry_that_an_earlier_version_has_left_is_said_until_somebody_has_seen_to_it() {
    let mesh = mesh(|setup| setup).await;
    let [lake, sea] = ["lake", "sea"].map(|name| url(&mesh.folder.path().join(name)));
    mesh.brahman_json(&["buckets", "add", "lake", &lake]);
    let old = mesh.folder.path().join("state/catalog/buckets.json");
    let theirs = json!([{"name": "sea", "url": sea, "protected": false, "conditional_put": true, "added_ms": 9}]);
    meanwhile(&mesh, || std::fs::write(&old, theirs.to_string()).expect("written")).await;
    let told = health(&mesh, "registry").await;
    assert!(
        told["error"]
            .as_str()
            .is_some_and(|why| why.contains("catalog/buckets.json") && why.contains("`sea`")),
        "{told}"
    );
    assert_eq!(mesh.brahman(&["buckets", "health"]).status.code(), Some(1));
    assert!(mesh.brahman_json(&["datasets"])["notes"].to_string().contains("catalog/buckets.json"));
    mesh.brahman_json(&["buckets", "add", "sea", &sea]);
    meanwhile(&mesh, || std::fs::remove_file(&old).expect("moved away")).await;
    assert_eq!(mesh.brahman(&["buckets", "health"]).status.code(), Some(0));
    assert!(mesh.brahman_json(&["datasets"])["notes"].is_null());
}

#[tokio::test]
async fn what_the_previous_generation_is_made_of_is_verified_too_and_what_was_mended_is_counted_no_more()
 {
    let mesh = mesh(|setup| setup).await;
    let copies = mesh.folder.path().join("copies");
    mesh.brahman_json(&["buckets", "add", "rescue", &url(&copies)]);
    let before = ingest(&mesh, "t", "primary", 10);
    when_copied(&mesh).await;
    while !copies.join(&before).is_file() {}
    ingest(&mesh, "t", "primary", 20);
    when_copied(&mesh).await;
    let object = mesh.folder.path().join("state/buckets/primary").join(&before);
    let whole = std::fs::read(&object).expect("there");
    std::fs::write(&object, vec![0; whole.len()]).expect("damaged");
    let out = mesh.brahman_json(&["buckets", "scrub"]);
    assert_eq!(out["repaired"], json!([{"bucket": "primary", "key": before}]), "{out}");
    assert_eq!(std::fs::read(&object).expect("there"), whole);
    // With no good copy it is told, until it is right again.
    for path in [&object, &copies.join(&before)] {
        std::fs::write(path, vec![0; whole.len()]).expect("damaged");
    }
    assert_eq!(mesh.brahman(&["buckets", "scrub"]).status.code(), Some(1));
    assert_eq!(health(&mesh, "primary").await["damaged"], 2);
    for path in [&object, &copies.join(&before)] {
        std::fs::write(path, &whole).expect("put back");
    }
    mesh.brahman_json(&["buckets", "scrub", "--dataset", "t"]);
    assert_eq!(health(&mesh, "primary").await["damaged"], 0, "by a look at one dataset, too");
}
