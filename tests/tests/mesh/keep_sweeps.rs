//! What is deleted, by whom; and datasets that are taken up from a bucket after their catalog is
//! lost.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use brahman_card::ModuleState;
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::{Value, json};

use crate::buckets::{Moto, node};

async fn mesh(more: impl FnOnce(Setup) -> Setup) -> Mesh {
    let mesh = more(Setup::new(&["broker", "catalog", "ingest"].map(shipped))).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh
}

fn ingest(mesh: &Mesh, name: &str, bucket: &str, rows: usize) -> Value {
    let csv = mesh.folder.path().join(format!("{name}.csv"));
    let text: String = (0..rows).map(|i| format!("{i},v{i}\n")).collect();
    std::fs::write(&csv, format!("id,v\n{text}")).expect("written");
    mesh.brahman_json(&["ingest", "files", name, &csv.display().to_string(), "--bucket", bucket])
}

fn path(out: &Value) -> PathBuf {
    PathBuf::from(out["objects"][0]["url"].as_str().expect("a url").trim_start_matches("file://"))
}

async fn restart(mesh: &Mesh, label: &str) {
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
async fn two_catalogs_in_one_folder_leave_each_other_alone() {
    let (one, two) = (mesh(|setup| setup).await, mesh(|setup| setup).await);
    let shared = tempfile::tempdir().expect("a temporary directory");
    let url = format!("file://{}", shared.path().join("lake").display());
    for mesh in [&one, &two] {
        mesh.brahman_json(&["buckets", "add", "lake", &url]);
    }
    let theirs: Vec<PathBuf> = (1..4).map(|rows| path(&ingest(&one, "t", "lake", rows))).collect();
    // A run of the first one goes on: it has begun, and written something, long ago.
    let begun = json!({"name": "t", "run_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "producer": "test", "bucket": "lake"});
    let begun = one.call("org.brahman.Catalog.Location", begun).await.expect("begun");
    let unfinished = Path::new(begun["path"].as_str().expect("a path")).join("part-0.parquet");
    std::fs::write(&unfinished, "half").expect("written");
    let folders =
        theirs.iter().chain([&unfinished]).map(|file| file.parent().expect("a folder").to_owned());
    for folder in folders.filter(|folder| folder.exists()) {
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7 * 24 * 3600);
        std::fs::File::open(&folder).and_then(|f| f.set_modified(long_ago)).expect("aged");
    }
    let ours: Vec<PathBuf> = (1..5).map(|rows| path(&ingest(&two, "t", "lake", rows))).collect();
    for mesh in [&one, &two] {
        restart(mesh, "catalog").await;
    }
    assert_eq!(
        theirs.iter().map(|p| p.exists()).collect::<Vec<_>>(),
        [false, true, true],
        "the last two generations"
    );
    assert_eq!(ours.iter().map(|p| p.exists()).collect::<Vec<_>>(), [false, false, true, true]);
    assert!(unfinished.exists(), "of an unfinished run nothing is known to be spent");
    let strangers = two.brahman_json(&["datasets"])["strangers"].to_string();
    assert!(strangers.contains("lake/t/01ARZ3NDEKTSV4RRFFQ69G5FAV"), "{strangers}");
    // By name, too, only one's own goes.
    two.call("org.brahman.Catalog.Delete", json!({"name": "t"})).await.expect("deleted");
    assert!(theirs[1..].iter().all(|p| p.exists()) && unfinished.exists() && !ours[3].exists());
    let seen = one.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("there");
    assert_eq!((&seen["dataset"]["rows"], &seen["missing"]), (&json!(3), &Value::Null));
    // Nor is what lies there taken for the second one's by a resync of everything.
    assert_eq!(two.brahman_json(&["datasets", "resync"])["resynced"], json!([]));
}

/// A moto that has a bucket.
fn lake() -> Moto {
    let moto = Moto::start();
    assert_eq!(moto.ask("PUT", "/lake"), 200);
    moto
}

/// A mesh that has it as a bucket.
async fn mesh_on(lake: &Moto, secrets: &Path) -> Mesh {
    let mesh = mesh(|setup| setup.env("BRAHMAN_SECRETS", secrets)).await;
    let endpoint = format!("aws_endpoint=http://127.0.0.1:{}", lake.port);
    let options = [
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
        &[&["buckets", "add", "lake", "s3://lake/data", "-o", &endpoint][..], &options[..]]
            .concat(),
    );
    mesh
}

fn secrets() -> tempfile::NamedTempFile {
    let secrets = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(secrets.path(), "[moto]\npassword = \"wery-secret\"\n").expect("written");
    std::fs::set_permissions(secrets.path(), std::fs::Permissions::from_mode(0o600)).expect("set");
    secrets
}

#[tokio::test]
async fn a_catalog_that_has_lost_everything_takes_up_what_lies_in_s3() {
    let (lake, secrets) = (lake(), secrets());
    let lost = mesh_on(&lake, secrets.path()).await;
    for (name, rows) in [("t", 5), ("t", 7), ("u", 3)] {
        ingest(&lost, name, "lake", rows);
    }
    let before = lost.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("there");
    let object = before["dataset"]["objects"][0].clone();
    drop(lost);

    // By name, by resync, or all of them: with their rows, columns and objects, as a generation of
    // their own.
    let new = mesh_on(&lake, secrets.path()).await;
    let out = new
        .call("org.brahman.Catalog.Adopt", json!({"bucket": "lake", "name": "t"}))
        .await
        .expect("adopted");
    assert_eq!(
        (&out["adopted"], &out["refused"]),
        (&json!([{"name": "t", "generation": 3, "rows": 7}]), &json!([]))
    );
    let seen = new.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("there");
    let own = seen["dataset"]["objects"][0].clone();
    assert_eq!(seen["fetched"], json!([own["key"]]), "its copy here is fetched");
    assert_eq!(
        (&seen["dataset"]["columns"], &own["sha256"]),
        (&before["dataset"]["columns"], &object["sha256"])
    );
    assert_ne!(
        own["url"], object["url"],
        "it is copied: whoever put it there may live, and delete it"
    );
    assert_eq!(new.brahman_json(&["datasets", "show", "t"])["sample"]["rows"][4]["v"], "v4");
    let again = new
        .call("org.brahman.Catalog.Adopt", json!({"bucket": "lake", "name": "t"}))
        .await
        .expect("answered");
    assert!(
        again["refused"][0]["why"].as_str().is_some_and(|why| why.contains("here already")),
        "{again}"
    );
    let out = new.brahman_json(&["datasets", "resync", "u"]);
    assert_eq!((&out["rows"], &out["changed"]), (&json!(3), &json!(true)), "{out}");
    // It goes on, and deletes what it has put there alone: nothing here says whose the other is.
    for rows in 8..12 {
        ingest(&new, "t", "lake", rows);
    }
    assert_eq!(
        new.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("there")["dataset"]
            ["generation"],
        7
    );
    let path = |object: &Value| object["url"].as_str().expect("a url").replace("s3://", "/");
    while lake.ask("HEAD", &path(&own)) != 404 {}
    assert_ne!(lake.ask("HEAD", &path(&object)), 404);
    drop(new);

    // Fresh, and told to make everything anew, a catalog takes up all that adds up and says what
    // does not.
    let newest = mesh_on(&lake, secrets.path()).await;
    let out = newest.brahman_json(&["datasets", "resync"]);
    let names: Vec<&str> = out["resynced"]
        .as_array()
        .expect("datasets")
        .iter()
        .filter_map(|d| d["name"].as_str())
        .collect();
    assert_eq!((names, &out["resynced"][0]["rows"]), (vec!["t", "u"], &json!(11)), "{out}");
    for (ask, name) in [
        (json!({"bucket": "none"}), "org.brahman.Catalog.NoSuchBucket"),
        (json!({"bucket": "primary"}), "org.varlink.service.InvalidParameter"),
        (json!({"bucket": "lake", "name": "../x"}), "org.varlink.service.InvalidParameter"),
    ] {
        assert_eq!(newest.fault("org.brahman.Catalog.Adopt", ask).await.name, name);
    }
}

#[tokio::test]
async fn whoever_goes_on_with_a_dataset_that_was_taken_up_elsewhere_is_told_and_loses_nothing() {
    let (lake, secrets) = (lake(), secrets());
    let (one, two) = (mesh_on(&lake, secrets.path()).await, mesh_on(&lake, secrets.path()).await);
    let object = ingest(&one, "t", "lake", 5)["objects"][0].clone();
    let taken =
        two.call("org.brahman.Catalog.Adopt", json!({"bucket": "lake"})).await.expect("adopted");
    assert_eq!(taken["adopted"][0]["generation"], 2);
    let noted = taken["notes"][0].as_str().expect("whom that locks out");
    assert!(noted.contains(&node(&one)) && noted.contains("no further generation"), "{noted}");
    // The first one can put nothing further there, says why, and reads what it has.
    let csv = one.folder.path().join("t.csv").display().to_string();
    let refused = one.brahman(&["ingest", "files", "t", &csv]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("was taken up") && words.contains(&node(&two)),
        "{words}"
    );
    assert_eq!(
        one.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("there")["dataset"]
            ["rows"],
        5
    );
    // What it deletes is its own: its manifest, then its objects, and nothing of the second one's.
    let deleted =
        one.call("org.brahman.Catalog.Delete", json!({"name": "t"})).await.expect("deleted");
    assert_eq!(deleted["later"], 1, "what lies in S3 goes after this answer: {deleted}");
    let manifest = |number: u64| format!("/lake/data/manifests/t/{number:020}.json");
    while lake.ask("HEAD", &object["url"].as_str().expect("a url").replace("s3://", "/")) != 404 {}
    assert_eq!(
        (lake.ask("HEAD", &manifest(1)), lake.ask("HEAD", &manifest(2)) == 404),
        (404, false)
    );
    let seen = two.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("there");
    assert_eq!((&seen["dataset"]["rows"], &seen["missing"]), (&json!(5), &Value::Null));
}
