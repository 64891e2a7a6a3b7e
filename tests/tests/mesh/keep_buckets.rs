//! Buckets that are to be kept: disks that are away, S3 that is deleted or loses answers,
//! registries and secrets.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::mpsc;

use brahman_card::ModuleState;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_tests::proxy::{Fate, Proxy, in_turn};
use brahman_tests::{Mesh, PATIENCE};
use serde_json::{Value, json};

use crate::buckets::{Moto, dataset, health, ingest, mesh, pyarrow};

const SECRET: &str = "wery-secret";

fn secrets() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    write_secrets(file.path());
    file
}

fn write_secrets(path: &Path) {
    std::fs::write(path, format!("[moto]\npassword = \"{SECRET}\"\n")).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set");
}

fn add(mesh: &Mesh, name: &str, url: &str, port: u16) -> std::process::Output {
    let endpoint = format!("aws_endpoint=http://127.0.0.1:{port}");
    let s3 = [
        "-o",
        &endpoint,
        "-o",
        "aws_region=us-east-1",
        "-o",
        "aws_allow_http=true",
        "-o",
        "aws_access_key_id=me",
        "--secret",
        "moto",
    ];
    mesh.brahman(&[&["buckets", "add", name, url, "--json"], &s3[..]].concat())
}

fn csv(mesh: &Mesh, rows: usize) -> String {
    let csv = mesh.folder.path().join("t.csv");
    std::fs::write(
        &csv,
        format!("id,v\n{}", (0..rows).map(|i| format!("{i},v{i}\n")).collect::<String>()),
    )
    .expect("written");
    csv.display().to_string()
}

fn refused(out: &std::process::Output, words: &str) {
    let text =
        String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(
        !out.status.success()
            && text.contains(words)
            && !text.contains(SECRET)
            && !text.contains("hunter2"),
        "{words}: {text}"
    );
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

#[tokio::test]
async fn a_disk_that_is_away_at_the_start_is_not_made_again_and_takes_nothing() {
    let mesh = mesh(|setup| setup).await;
    let (disk, aside) = (mesh.folder.path().join("disk"), mesh.folder.path().join("aside"));
    mesh.brahman_json(&["buckets", "add", "disk", &format!("file://{}", disk.display())]);
    let csv = csv(&mesh, 5);
    mesh.brahman_json(&["ingest", "files", "t", &csv, "--bucket", "disk"]);
    std::fs::rename(&disk, &aside).expect("unmounted");
    for mounted_over in [false, true] {
        if mounted_over {
            std::fs::create_dir(&disk).expect("an empty folder is left");
        }
        restart(&mesh).await;
        let told = health(&mesh, "disk").await;
        assert!(told["reachable"] == false && told["hint"].is_string(), "{told}");
        assert_eq!(mesh.brahman(&["buckets", "health"]).status.code(), Some(1));
        // What cannot be looked at is not called sound.
        let out = mesh.brahman(&["buckets", "scrub", "--json"]);
        let found: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        assert_eq!(
            (out.status.code(), &found["unread"][0]["bucket"], &found["unread"][0]["objects"]),
            (Some(1), &json!("disk"), &json!(1))
        );
        assert!(health(&mesh, "primary").await["last_scrub_ms"].is_null());
        refused(&mesh.brahman(&["ingest", "files", "t", &csv, "--bucket", "disk"]), "disk");
        assert_eq!(
            dataset(&mesh).await["dataset"]["rows"],
            5,
            "the dataset is listed all the same"
        );
        assert_eq!(disk.exists(), mounted_over, "nothing was made");
    }
    assert_eq!(std::fs::read_dir(&disk).expect("there").count(), 0, "nothing was written to it");
    std::fs::remove_dir(&disk).and_then(|()| std::fs::rename(&aside, &disk)).expect("mounted");
    assert_eq!(health(&mesh, "disk").await["reachable"], true, "without a restart");
    assert!(mesh.brahman_json(&["buckets", "scrub"])["unread"].is_null());
    assert!(health(&mesh, "primary").await["last_scrub_ms"].is_number());
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    assert_eq!(dataset(&mesh).await["dataset"]["generation"], 2);
}

#[tokio::test]
async fn a_registry_that_has_gone_is_missed_by_the_datasets_that_lie_in_its_buckets() {
    let mesh = mesh(|setup| setup).await;
    let disk = mesh.folder.path().join("disk");
    mesh.brahman_json(&["buckets", "add", "disk", &format!("file://{}", disk.display())]);
    let out = mesh.brahman(&["ingest", "files", "t", &csv(&mesh, 3), "--bucket", "disk"]);
    assert!(out.status.success(), "{out:?}");
    std::fs::remove_file(mesh.folder.path().join("state/catalog/.registry/buckets.json"))
        .expect("there");
    restart(&mesh).await;
    let notes = mesh.brahman_json(&["datasets"])["notes"].to_string();
    assert!(notes.contains("`t`") && notes.contains("buckets add disk"), "{notes}");
    mesh.brahman_json(&["buckets", "add", "disk", &format!("file://{}", disk.display())]);
    assert_eq!(dataset(&mesh).await["dataset"]["rows"], 3);
}

#[tokio::test]
async fn copies_never_lie_in_what_they_are_copies_of() {
    let mesh = mesh(|setup| setup).await;
    let at = |name: &str| mesh.folder.path().join(name);
    let url = |name: &str| format!("file://{}", at(name).display());
    mesh.brahman_json(&["buckets", "add", "lake", &url("lake")]);
    std::os::unix::fs::symlink(at("lake"), at("link")).expect("linked");
    for (place, words) in [
        ("state/buckets/primary", "mesh's state"),
        ("link", "`lake`"),
        ("lake/copies", "`lake`"),
        ("", "state"),
    ] {
        refused(&mesh.brahman(&["buckets", "add", "rescue", &url(place)]), words);
    }
    let added = mesh.brahman_json(&["buckets", "add", "rescue", &url("copies")]);
    assert!(
        added["notes"][0].as_str().is_some_and(|note| note.contains("same disk as lake, primary")),
        "{added}"
    );
    for option in [
        "aws_sse_customer_key_base64=hunter2",
        "aws_session_token=hunter2",
        "aws_endpoint=http://me:hunter2@host",
        "speed=hunter2",
    ] {
        refused(
            &mesh.brahman(&["buckets", "add", "x", "s3://b", "-o", option]),
            option.split('=').next().expect("a name"),
        );
    }
}

#[tokio::test]
async fn an_s3_bucket_that_is_deleted_moved_or_locked_is_said_and_stays_registered() {
    let (moto, secrets) = (Moto::start(), secrets());
    assert_eq!(moto.ask("PUT", "/lake"), 200);
    let mesh = mesh(|setup| setup.env("BRAHMAN_SECRETS", secrets.path())).await;
    assert!(add(&mesh, "lake", "s3://lake/data", moto.port).status.success());
    let csv = csv(&mesh, 5);
    mesh.brahman_json(&["ingest", "files", "t", &csv, "--bucket", "lake"]);
    assert_eq!(health(&mesh, "lake").await["reachable"], true);
    // While datasets lie there: not elsewhere, and the same again is fine.
    refused(&add(&mesh, "lake", "s3://lake/other", moto.port), "datasets lie in bucket");
    refused(&add(&mesh, "lake", "s3://lake/data", 1), "datasets lie in bucket");
    assert!(add(&mesh, "lake", "s3://lake/data/", moto.port).status.success());
    refused(&add(&mesh, "twin", "s3://lake/data", moto.port), "`lake`");
    // Without its secrets it stays where it is, and says why; what lies in it is listed.
    std::fs::remove_file(secrets.path()).expect("removed");
    restart(&mesh).await;
    assert!(
        health(&mesh, "lake").await["error"]
            .as_str()
            .is_some_and(|why| why.contains("secrets file"))
    );
    mesh.brahman_json(&[
        "buckets",
        "add",
        "more",
        &format!("file://{}", mesh.folder.path().join("more").display()),
    ]);
    let listed = mesh.brahman_json(&["buckets"]);
    assert!(
        listed["buckets"].as_array().expect("buckets").iter().any(|b| b["name"] == "lake"),
        "{listed}"
    );
    assert_eq!(mesh.brahman_json(&["datasets"])["datasets"][0]["name"], "t");
    restart(&mesh).await;
    write_secrets(secrets.path());
    assert_eq!(
        health(&mesh, "lake").await["reachable"],
        true,
        "with them it is there again, without a restart"
    );
    // Deleted with all that was in it.
    assert_eq!(moto.ask("POST", "/moto-api/reset"), 200);
    let told = health(&mesh, "lake").await;
    assert!(told["reachable"] == false && told["error"].is_string(), "{told}");
    refused(&mesh.brahman(&["ingest", "files", "t", &csv, "--bucket", "lake"]), "lake");
    // Made again and empty, it is not what it was.
    assert_eq!(moto.ask("PUT", "/lake"), 200);
    assert_eq!(health(&mesh, "lake").await["reachable"], false);
}

/// Whoever asks for a bucket may go away, and so may the catalog, while it is being probed.
#[tokio::test]
async fn a_bucket_whose_caller_hangs_up_is_added_whole_and_one_whose_catalog_dies_can_be_added_again()
 {
    let (moto, secrets) = (Moto::start(), secrets());
    assert_eq!(moto.ask("PUT", "/lake"), 200);
    let proxy = Proxy::before(moto.port);
    let mesh = mesh(|setup| setup.env("BRAHMAN_SECRETS", secrets.path())).await;
    let endpoint = format!("http://127.0.0.1:{}", proxy.port());
    let options = json!({"aws_endpoint": endpoint, "aws_region": "us-east-1", "aws_allow_http": "true", "aws_access_key_id": "me"});
    let ask =
        json!({"name": "lake", "url": "s3://lake/data", "options": options, "secret": "moto"});
    let names = async || {
        let listed =
            mesh.call("org.brahman.Storage.Buckets", json!({})).await.expect("listed")["buckets"]
                .clone();
        listed
            .as_array()
            .expect("buckets")
            .iter()
            .map(|bucket| bucket["name"].as_str().expect("a name").to_owned())
            .collect::<Vec<_>>()
    };
    for is_killed in [true, false] {
        // Its first request waits until whoever is to go has gone.
        let ((tell, begun), (release, held)) = (mpsc::channel(), mpsc::channel::<()>());
        let mut is_first = true;
        proxy.when(move |_, _| {
            if std::mem::take(&mut is_first) {
                let _ = (tell.send(()), held.recv());
            }
            Fate::Answered
        });
        let call = encode_call(
            "org.brahman.Storage.AddBucket",
            &ask,
            &CallOptions::default(),
            false,
            false,
        )
        .expect("encoded");
        // The broker would make the call again once the catalog is back.
        let socket = if is_killed { mesh.beside("catalog.sock") } else { mesh.socket() };
        let mut caller = Connection::connect(&socket).await.expect("connected");
        caller.send(&call).await.expect("sent");
        let begun = tokio::task::spawn_blocking(move || begun.recv_timeout(PATIENCE))
            .await
            .expect("waited");
        begun.expect("it is probed");
        assert_eq!(names().await, ["primary", "rescue"], "it is none before it was probed");
        refused(&add(&mesh, "lake", "s3://lake/elsewhere", moto.port), "being added just now");
        if is_killed {
            restart(&mesh).await;
            drop(caller);
            release.send(()).expect("it waits");
            assert_eq!(names().await, ["primary", "rescue"], "nothing is half added");
        } else {
            drop(caller);
            release.send(()).expect("it waits");
            // Nobody hears of it; it is done all the same.
            let added = async { while names().await.len() < 3 {} };
            tokio::time::timeout(PATIENCE, added).await.expect("it is added");
        }
    }
    assert_eq!(health(&mesh, "lake").await["reachable"], true);
    // Both registries know it: of buckets, and of where datasets lie.
    mesh.brahman_json(&["ingest", "files", "t", &csv(&mesh, 5), "--bucket", "lake"]);
    restart(&mesh).await;
    assert_eq!((names().await.len(), &dataset(&mesh).await["dataset"]["rows"]), (3, &json!(5)));
}

#[tokio::test]
async fn keys_below_a_prefix_of_any_kind_are_where_the_recorded_url_says() {
    let (moto, secrets) = (Moto::start(), secrets());
    assert_eq!(moto.ask("PUT", "/lake"), 200);
    let mesh = mesh(|setup| setup.env("BRAHMAN_SECRETS", secrets.path())).await;
    let added = add(&mesh, "lake", "s3://lake/ü+1 %/x", moto.port);
    assert!(added.status.success(), "{added:?}");
    mesh.brahman_json(&["ingest", "files", "t", &csv(&mesh, 5), "--bucket", "lake"]);
    let object = dataset(&mesh).await["dataset"]["objects"][0].clone();
    let url = object["url"].as_str().expect("a url");
    assert_eq!(url, format!("s3://lake/ü+1 %/x/{}", object["key"].as_str().expect("a key")));
    assert_eq!(pyarrow(&moto, url), "{'id': 0, 'v': 'v0'}");
}

#[tokio::test]
async fn a_commit_whose_answers_are_lost_is_one_commit() {
    let (moto, secrets) = (Moto::start(), secrets());
    assert_eq!(moto.ask("PUT", "/lake"), 200);
    let proxy = Proxy::before(moto.port);
    let mesh = mesh(|setup| setup.env("BRAHMAN_SECRETS", secrets.path())).await;
    assert!(add(&mesh, "lake", "s3://lake/data", proxy.port()).status.success());
    let manifest = |method: &str, target: &str| method == "PUT" && target.contains("/manifests/");
    for (generation, fates) in (1..).zip([
        &[Fate::Unheard][..],
        &[Fate::Dropped, Fate::Unheard],
        &[Fate::Refused(409)],
        &[Fate::Refused(503); 5],
    ]) {
        proxy.when(in_turn(fates.to_vec(), manifest));
        let out = mesh.brahman(&[
            "ingest",
            "files",
            "t",
            &csv(&mesh, 5 + generation),
            "--bucket",
            "lake",
        ]);
        assert!(out.status.success(), "{fates:?}: {out:?}");
        let now = dataset(&mesh).await["dataset"].clone();
        assert_eq!(
            (&now["generation"], &now["rows"]),
            (&json!(generation), &json!(5 + generation)),
            "{fates:?}"
        );
    }
    // What carries the object is lost as well as what names it.
    proxy.when(in_turn(vec![Fate::Unheard], |method, target| {
        method == "PUT" && target.contains("/datasets/")
    }));
    mesh.brahman_json(&["ingest", "files", "t", &csv(&mesh, 50)]);
    let last = dataset(&mesh).await["dataset"].clone();
    assert_eq!(
        (
            &last["rows"],
            pyarrow(&moto, last["objects"][0]["url"].as_str().expect("a url")).as_str()
        ),
        (&json!(50), "{'id': 0, 'v': 'v0'}")
    );
    assert!(
        proxy.seen().iter().any(|request| request.starts_with("PUT /lake/data/manifests/t/")),
        "{:?}",
        proxy.seen()
    );
    ingest(&mesh, 1);
    let errors: Value = mesh.brahman_json(&["errors"]);
    assert!(!errors.to_string().contains(SECRET), "{errors}");
}
