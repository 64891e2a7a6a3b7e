//! Buckets: folders and an S3 of somebody else's making, copies that objects come back from, and
//! failures that are kept.

mod s3;

use std::path::PathBuf;
use std::process::Command;

use brahman_card::ModuleState;
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::{Value, json};

use crate::foreign::tool;
pub(crate) use s3::{Moto, request};

pub(crate) async fn mesh(more: impl FnOnce(Setup) -> Setup) -> Mesh {
    let mesh = more(Setup::new(&["broker", "catalog", "ingest"].map(shipped))).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh
}

pub(crate) fn ingest(mesh: &Mesh, rows: usize) -> PathBuf {
    let csv = mesh.folder.path().join("t.csv");
    let text: String = (0..rows).map(|i| format!("{i},v{i}\n")).collect();
    std::fs::write(&csv, format!("id,v\n{text}")).expect("written");
    let out = mesh.brahman_json(&["ingest", "files", "t", &csv.display().to_string()]);
    PathBuf::from(out["objects"][0]["url"].as_str().expect("a url").trim_start_matches("file://"))
}

pub(crate) async fn dataset(mesh: &Mesh) -> Value {
    mesh.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("there")
}

/// How a bucket is.
pub(crate) async fn health(mesh: &Mesh, bucket: &str) -> Value {
    let out = mesh.call("org.brahman.Storage.Health", json!({})).await.expect("asked");
    out["health"]
        .as_array()
        .expect("health")
        .iter()
        .find(|h| h["name"] == bucket)
        .expect("asked")
        .clone()
}

/// By which a mesh's catalog is known in buckets.
pub(crate) fn node(mesh: &Mesh) -> String {
    let text =
        std::fs::read_to_string(mesh.folder.path().join("state/catalog/node")).expect("there");
    text.lines().next().expect("a name").to_owned()
}

/// Key of an object, from its path.
fn key(object: &std::path::Path) -> String {
    object.to_string_lossy().split_once("buckets/primary/").expect("below primary").1.to_owned()
}

#[tokio::test]
async fn an_object_that_has_gone_comes_back_from_rescue_if_its_copy_is_right() {
    let mesh = mesh(|setup| setup).await;
    let copies = mesh.folder.path().join("copies");
    ingest(&mesh, 10);
    assert_eq!(mesh.brahman_json(&["buckets"])["buckets"].as_array().map(Vec::len), Some(2));
    let added =
        mesh.brahman_json(&["buckets", "add", "rescue", &format!("file://{}", copies.display())]);
    assert_eq!(
        (&added["bucket"]["protected"], &added["bucket"]["conditional_put"]),
        (&json!(true), &json!(true))
    );
    let object = ingest(&mesh, 500);
    let copy = copies.join(key(&object));
    let whole = std::fs::metadata(&object).expect("there").len();
    while std::fs::metadata(&copy).map_or(0, |m| m.len()) != whole {}

    // Gone, then cut: each time it is whole again, and the reply says so, once.
    std::fs::remove_file(&object).expect("removed");
    assert_eq!(dataset(&mesh).await["rescued"], json!([key(&object)]));
    assert!(dataset(&mesh).await["rescued"].is_null());
    std::fs::OpenOptions::new()
        .write(true)
        .open(&object)
        .and_then(|f| f.set_len(whole / 2))
        .expect("cut");
    let shown = mesh.brahman(&["datasets", "show", "t"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("restored from bucket rescue") && shown.contains("v0"), "{shown}");
    assert_eq!(std::fs::metadata(&object).expect("there").len(), whole);

    // A copy with another content is none.
    std::fs::write(&copy, "something else").expect("damaged");
    std::fs::remove_file(&object).expect("removed");
    assert!(dataset(&mesh).await["rescued"].is_null() && !object.exists());
    let errors = mesh.brahman_json(&["errors"]);
    assert_eq!(
        (&errors["errors"][0]["operation"], &errors["errors"][1]["bucket"]),
        (&json!("verify"), &json!("primary")),
        "{errors}"
    );
    assert_eq!(mesh.brahman_json(&["errors", "--compact", "1"])["kept"], 1);

    // Old copies go with the generations that they are of.
    ingest(&mesh, 600);
    let last = ingest(&mesh, 700);
    while !copies.join(key(&last)).exists() || copy.exists() {}
    for (arguments, words) in [
        (vec!["buckets", "remove", "primary"], "cannot be removed"),
        (vec!["buckets", "remove", "rescue"], "cannot be removed"),
        (vec!["buckets", "remove", "none"], "no bucket is called"),
        (vec!["buckets", "add", "x", "ftp://host/x"], "expected file:///folder or s3://"),
        (
            vec!["buckets", "add", "x", "s3://b", "-o", "aws_secret_access_key=hunter2"],
            "secrets file",
        ),
    ] {
        let out = mesh.brahman(&arguments);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            !out.status.success() && text.contains(words) && !text.contains("hunter2"),
            "{arguments:?}: {text}"
        );
    }
    // A folder that vanishes is seen.
    let more = mesh.folder.path().join("more");
    mesh.brahman_json(&["buckets", "add", "more", &format!("file://{}", more.display())]);
    std::fs::remove_dir_all(&more).expect("removed");
    let out = mesh.brahman(&["buckets", "health", "--json"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let told: Value = serde_json::from_slice(&out.stdout).expect("one document");
    let more = told["health"]
        .as_array()
        .expect("health")
        .iter()
        .find(|h| h["name"] == "more")
        .expect("asked")
        .clone();
    assert!(
        more["reachable"] == false
            && more["hint"].as_str().is_some_and(|hint| hint.contains("mount its disk")),
        "{told}"
    );
    mesh.brahman_json(&["buckets", "remove", "more"]);
}

#[tokio::test]
async fn an_object_is_got_and_put_by_key_and_what_a_dataset_is_made_of_is_never_put_over() {
    use brahman_card::interface::storage::{decode, encode};
    let mesh = mesh(|setup| setup).await;
    let copies = mesh.folder.path().join("copies");
    mesh.brahman_json(&["buckets", "add", "rescue", &format!("file://{}", copies.display())]);
    let put = async |key: &str, data: &str| {
        let ask = json!({"bucket": "primary", "key": key, "data_base64": encode(data.as_bytes())});
        mesh.call("org.brahman.Storage.PutObject", ask).await
    };
    let get =
        async |ask: Value| mesh.call("org.brahman.Storage.GetObject", ask).await.expect("read");
    let data =
        |reply: &Value| decode(reply["data_base64"].as_str().expect("base64")).expect("base64");
    let done = put("notes/a.txt", "hello world").await.expect("put");
    assert_eq!((&done["size"], &done["copied"]), (&json!(11), &json!(true)));
    let got = get(json!({"bucket": "primary", "key": "notes/a.txt"})).await;
    assert_eq!(
        (data(&got), &got["sha256"], &got["rescue_used"]),
        (b"hello world".to_vec(), &done["sha256"], &json!(false))
    );
    assert!(got["verified"].is_null(), "nothing is recorded of it: {got}");
    let part =
        get(json!({"bucket": "primary", "key": "notes/a.txt", "offset": 6, "length": 3})).await;
    assert_eq!((data(&part), &part["size"]), (b"wor".to_vec(), &json!(11)));
    std::fs::remove_file(mesh.folder.path().join("state/buckets/primary/notes/a.txt"))
        .expect("removed");
    let got = get(json!({"bucket": "primary", "key": "notes/a.txt"})).await;
    assert_eq!((data(&got), &got["rescue_used"]), (b"hello world".to_vec(), &json!(true)));

    // What a dataset is made of: with the bytes that were committed, or not at all.
    let object = ingest(&mesh, 500);
    let (whole, key) = (std::fs::read(&object).expect("there"), key(&object));
    while std::fs::metadata(copies.join(&key)).map_or(0, |m| m.len()) != whole.len() as u64 {}
    let ask = json!({"bucket": "primary", "key": key});
    let got = get(ask.clone()).await;
    assert_eq!((&got["rescue_used"], &got["verified"]), (&json!(false), &json!(true)));
    let mut flipped = whole.clone();
    flipped[7] ^= 1;
    std::fs::write(&object, &flipped).expect("damaged");
    let got = get(ask.clone()).await;
    assert_eq!((data(&got), &got["rescue_used"]), (whole.clone(), &json!(true)));
    std::fs::write(copies.join(&key), &flipped).expect("damaged as well");
    assert_eq!(
        mesh.fault("org.brahman.Storage.GetObject", ask).await.name,
        "org.brahman.Storage.DamagedObject"
    );
    for bad in [
        key.as_str(),
        "manifests/t/1.json",
        "indexes/x",
        "../catalog/t.json",
        "/etc/passwd",
        "a//b",
        "",
    ] {
        let refused = put(bad, "x").await.expect_err("refused");
        assert!(refused.to_string().contains("key"), "{bad}: {refused}");
    }
    assert_eq!(std::fs::read(&object).expect("there"), flipped, "nothing was put over it");
    for (ask, name) in [
        (json!({"bucket": "primary", "key": "none"}), "org.brahman.Storage.NoSuchObject"),
        (json!({"bucket": "none", "key": "a"}), "org.brahman.Storage.NoSuchBucket"),
        (json!({"bucket": "primary", "key": "../../log"}), "org.varlink.service.InvalidParameter"),
        (
            json!({"bucket": "primary", "key": "a", "length": 9_000_000}),
            "org.varlink.service.InvalidParameter",
        ),
    ] {
        assert_eq!(mesh.fault("org.brahman.Storage.GetObject", ask).await.name, name);
    }
    let large = mesh.folder.path().join("state/buckets/primary/large");
    std::fs::write(large, vec![0; 9 << 20]).expect("written");
    let fault = mesh
        .fault("org.brahman.Storage.GetObject", json!({"bucket": "primary", "key": "large"}))
        .await;
    assert_eq!(
        (&*fault.name, &fault.parameters["size"]),
        ("org.brahman.Storage.TooLarge", &json!(9 << 20)),
        "{fault}"
    );
}

#[tokio::test]
async fn copies_of_one_key_in_two_buckets_are_two_and_what_was_put_into_rescue_is_no_copy() {
    use brahman_card::interface::storage::{decode, encode};
    let mesh = mesh(|setup| setup).await;
    let folder = |name: &str| mesh.folder.path().join(name);
    for name in ["rescue", "lake"] {
        mesh.brahman_json(&["buckets", "add", name, &format!("file://{}", folder(name).display())]);
    }
    let put = async |bucket: &str, key: &str, data: &str| {
        let ask = json!({"bucket": bucket, "key": key, "data_base64": encode(data.as_bytes())});
        mesh.call("org.brahman.Storage.PutObject", ask).await
    };
    let get = async |bucket: &str, key: &str| {
        let got = mesh
            .call("org.brahman.Storage.GetObject", json!({"bucket": bucket, "key": key}))
            .await
            .expect("read");
        let data = decode(got["data_base64"].as_str().expect("base64")).expect("base64");
        (String::from_utf8(data).expect("text"), got["rescue_used"] == true)
    };
    for (bucket, data) in [("rescue", "its own"), ("primary", "A"), ("lake", "B")] {
        put(bucket, "n/x", data).await.expect("put");
    }
    assert_eq!(
        get("rescue", "n/x").await,
        ("its own".to_owned(), false),
        "no copy was put over it"
    );
    std::fs::remove_file(folder("lake/n/x")).expect("removed");
    std::fs::remove_file(folder("state/buckets/primary/n/x")).expect("removed");
    assert_eq!(
        (get("primary", "n/x").await, get("lake", "n/x").await),
        (("A".to_owned(), true), ("B".to_owned(), true))
    );
    put("lake", "n/y", "B").await.expect("put");
    let fault = mesh
        .fault("org.brahman.Storage.GetObject", json!({"bucket": "primary", "key": "n/y"}))
        .await;
    assert_eq!(fault.name, "org.brahman.Storage.NoSuchObject", "{fault}");
    let refused =
        put("rescue", "objects/primary/n/x", "C").await.expect_err("it is a copy's place");
    assert!(refused.to_string().contains("objects/"), "{refused}");
}

#[tokio::test]
async fn while_a_dataset_cannot_be_read_no_bucket_goes_and_nothing_is_tidied() {
    let mesh = mesh(|setup| setup).await;
    let disk = mesh.folder.path().join("disk");
    mesh.brahman_json(&["buckets", "add", "big", &format!("file://{}", disk.display())]);
    let csv = mesh.folder.path().join("u.csv");
    std::fs::write(&csv, "id\n1\n").expect("written");
    mesh.brahman_json(&["ingest", "files", "u", &csv.display().to_string(), "--bucket", "big"]);
    let first = ingest(&mesh, 1);
    std::fs::write(mesh.folder.path().join("state/catalog/u.json"), "{").expect("damaged");
    let pid = mesh.module("catalog").await.pid;
    mesh.signal(pid, "KILL");
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == "catalog" && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
    let out = mesh.brahman(&["buckets", "remove", "big"]);
    let words = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && words.contains("dataset `u`"), "{words}");
    (2..5).for_each(|rows| drop(ingest(&mesh, rows)));
    assert!(first.is_file(), "three generations on, for it may be what the damaged one needs");
    assert!(mesh.brahman_json(&["datasets"])["notes"].to_string().contains("nothing is tidied"));
    mesh.brahman_json(&["datasets", "resync"]);
    ingest(&mesh, 6);
    assert!(mesh.brahman_json(&["datasets"])["notes"].is_null());
    mesh.brahman_json(&["datasets", "u"]);
}

#[tokio::test]
async fn a_bucket_that_vanishes_is_told_and_is_begun_anew_only_by_word() {
    let mesh = mesh(|setup| setup).await;
    let object = ingest(&mesh, 10);
    let buckets = mesh.folder.path().join("state/buckets");
    std::fs::remove_dir_all(buckets.join("primary")).expect("removed");
    let gone = dataset(&mesh).await;
    assert_eq!(
        (&gone["missing"], &gone["dataset"]["rows"]),
        (&json!([key(&object)]), &json!(10)),
        "the manifest says what there was"
    );
    let shown = mesh.brahman(&["datasets", "show", "t"]);
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains("its bucket is unavailable"),
        "{shown:?}"
    );
    // Its disk may be away: nothing is written until somebody says that it is not.
    let refused = || {
        let out = mesh.brahman(&[
            "ingest",
            "files",
            "t",
            &mesh.folder.path().join("t.csv").display().to_string(),
        ]);
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && words.contains("buckets/primary"), "{words}");
    };
    let anew = || {
        mesh.brahman_json(&[
            "buckets",
            "add",
            "primary",
            &format!("file://{}", buckets.join("primary").display()),
        ])
    };
    refused();
    assert!(!buckets.join("primary").exists(), "nothing was made");
    anew();
    ingest(&mesh, 20);
    let back = dataset(&mesh).await;
    assert_eq!((&back["missing"], &back["dataset"]["rows"]), (&Value::Null, &json!(20)));
    // Where it cannot be made, the run fails by name, and what was published stands.
    std::fs::remove_dir_all(&buckets)
        .and_then(|()| std::fs::write(&buckets, "in the way"))
        .expect("in the way");
    refused();
    assert_eq!(dataset(&mesh).await["dataset"]["generation"], 2);
    std::fs::remove_file(&buckets).expect("removed");
    anew();
    ingest(&mesh, 30);
    assert_eq!(dataset(&mesh).await["dataset"]["rows"], 30);
}

#[tokio::test]
async fn a_dataset_lies_in_the_bucket_that_was_named_and_stays_there() {
    let mesh = Setup::new(&["broker", "catalog", "ingest", "index", "embed-mock"].map(shipped))
        .context("test")
        .up()
        .await;
    for (flow, label) in [("Ingest", "ingest"), ("Index", "index"), ("Embed", "embed-mock")] {
        mesh.when_served_by(&format!("org.brahman.{flow}"), label).await;
    }
    let disk = mesh.folder.path().join("disk");
    mesh.brahman_json(&["buckets", "add", "big", &format!("file://{}", disk.display())]);
    let csv = mesh.folder.path().join("t.csv");
    std::fs::write(&csv, "id,text\n1,one\n2,two\n").expect("written");
    let csv = csv.display().to_string();
    let out = mesh.brahman_json(&["ingest", "files", "t", &csv, "--bucket", "big"]);
    let object = &out["objects"][0];
    assert_eq!(
        object["url"],
        json!(format!("file://{}", disk.join(object["key"].as_str().expect("a key")).display()))
    );
    // The next run finds its place by itself, and what is read from it is read there.
    std::fs::write(&csv, "id,text\n1,one\n2,two\n3,three\n").expect("written");
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    let got = dataset(&mesh).await;
    assert_eq!(
        (&got["dataset"]["objects"][0]["bucket"], &got["dataset"]["generation"]),
        (&json!("big"), &json!(2))
    );
    mesh.brahman_json(&["index", "create", "t", "--dataset", "t"]);
    assert_eq!(mesh.brahman_json(&["index", "refresh", "t"])["dataset_docs"], 3);
    assert_eq!(mesh.brahman_json(&["datasets", "show", "t"])["sample"]["rows"][2]["text"], "three");
    assert_eq!(mesh.brahman_json(&["datasets", "resync", "t"])["changed"], false);
    // And after the catalog has died, too.
    let pid = mesh.module("catalog").await.pid;
    mesh.signal(pid, "KILL");
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == "catalog" && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
    assert_eq!(dataset(&mesh).await["dataset"]["rows"], 3);
    for (arguments, words) in [
        (vec!["buckets", "remove", "big"], "datasets lie in bucket"),
        (vec!["buckets", "add", "big", "file:///tmp/brahman-elsewhere"], "datasets lie in bucket"),
        (vec!["ingest", "files", "u", &csv, "--bucket", "none"], "there are big, primary"),
        (vec!["ingest", "files", "u", &csv, "--bucket", "rescue"], "no bucket for datasets"),
    ] {
        let out = mesh.brahman(&arguments);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains(words), "{arguments:?}: {text}");
    }
    // A manifest that is lost is made again from what lies there.
    std::fs::remove_file(mesh.folder.path().join("state/catalog/t.json")).expect("removed");
    mesh.signal(mesh.module("catalog").await.pid, "KILL");
    mesh.when(|m| {
        m.iter().any(|m| m.card.label.as_str() == "catalog" && m.state == ModuleState::Ready)
    })
    .await;
    mesh.when_served_by("org.brahman.Catalog", "catalog").await;
    while mesh.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.is_ok() {}
    mesh.brahman_json(&["datasets", "resync"]);
    assert_eq!(dataset(&mesh).await["dataset"]["objects"][0]["bucket"], "big");
    mesh.call("org.brahman.Catalog.Delete", json!({"name": "t"})).await.expect("deleted");
    assert!(!disk.join("datasets/t").exists());
    mesh.brahman_json(&["buckets", "remove", "big"]);
}

/// What pyarrow reads of an object in S3.
pub(crate) fn pyarrow(moto: &Moto, url: &str) -> String {
    pyarrow_at(moto.port, url)
}

/// The same of a server on a port.
pub(crate) fn pyarrow_at(port: u16, url: &str) -> String {
    let script = "import sys, pyarrow.parquet as pq, pyarrow.fs as fs\n\
        s3 = fs.S3FileSystem(access_key='me', secret_key='wery-secret', region='us-east-1', scheme='http', endpoint_override=sys.argv[1])\n\
        print(pq.read_table(sys.argv[2].removeprefix('s3://'), filesystem=s3).to_pylist()[0])";
    let out = Command::new(tool("python3"))
        .args(["-c", script, &format!("127.0.0.1:{port}"), url])
        .output()
        .expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}
