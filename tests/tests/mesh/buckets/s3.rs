//! An S3 of somebody else's making: copies that come back from it, datasets that lie in it, and two
//! catalogs that share it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use brahman_card::ModuleState;
use brahman_tests::Mesh;
use serde_json::json;

use super::{dataset, health, ingest, key, mesh, node, pyarrow};
use crate::foreign::tool;

/// Moto, an S3 for tests, from PyPI.
pub(crate) struct Moto {
    process: Child,
    pub(crate) port: u16,
}

impl Moto {
    pub(crate) fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a free port")
            .port();
        let mut process = Command::new(tool("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut lines =
            BufReader::new(process.stderr.take().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Running on")), "moto ended");
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, port }
    }

    /// Status of a request without a body.
    pub(crate) fn ask(&self, method: &str, path: &str) -> u16 {
        self.send(method, path, "")
    }

    fn put(&self, path: &str, body: &str) {
        assert_eq!(self.send("PUT", path, body), 200);
    }

    fn send(&self, method: &str, path: &str, body: &str) -> u16 {
        request(self.port, method, path, body).expect("answered")
    }
}

/// Status of a request to a server on this machine; none if it does not answer.
pub(crate) fn request(port: u16, method: &str, path: &str, body: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn an_s3_of_somebody_elses_making_keeps_copies_and_gives_them_back() {
    let moto = Moto::start();
    assert_eq!(moto.ask("PUT", "/backup"), 200);
    let secrets = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(secrets.path(), "[moto]\npassword = \"wery-secret\"\n").expect("written");
    std::fs::set_permissions(secrets.path(), std::fs::Permissions::from_mode(0o600)).expect("set");
    let mesh = mesh(|setup| setup.env("BRAHMAN_SECRETS", secrets.path())).await;
    let endpoint = format!("aws_endpoint=http://127.0.0.1:{}", moto.port);
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
    let added = mesh
        .brahman_json(&[&["buckets", "add", "rescue", "s3://backup/mesh/one"], &s3[..]].concat());
    assert_eq!(added["bucket"]["conditional_put"], true, "it refuses to put a key twice: {added}");
    let object = ingest(&mesh, 1000);
    while health(&mesh, "rescue").await["backlog_objects"] != 0 {}
    std::fs::remove_file(&object).expect("removed");
    assert_eq!(dataset(&mesh).await["rescued"], json!([key(&object)]));
    assert_eq!(mesh.brahman_json(&["datasets", "show", "t"])["sample"]["rows"][0]["v"], "v0");

    // What is not there is refused, and told in words without the key.
    let out = mesh.brahman(&[&["buckets", "add", "none", "s3://no-such-bucket"], &s3[..]].concat());
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        !out.status.success()
            && text.contains("was not registered")
            && !text.contains("wery-secret"),
        "{text}"
    );
    drop(moto);
    let rescue = health(&mesh, "rescue").await;
    assert_eq!(rescue["reachable"], false, "{rescue}");
    // Without its copies the mesh goes on, and says what failed.
    ingest(&mesh, 20);
    while mesh.brahman_json(&["errors"])["errors"][0]["bucket"] != "rescue" {}
    assert_eq!(dataset(&mesh).await["dataset"]["rows"], 20);
    let registry =
        std::fs::read_to_string(mesh.folder.path().join("state/catalog/.registry/buckets.json"))
            .expect("there");
    let errors = mesh.brahman_json(&["errors"]).to_string();
    assert!(!registry.contains("wery-secret") && !errors.contains("wery-secret"));
}

#[tokio::test]
async fn a_dataset_in_s3_is_put_there_before_it_counts_and_two_catalogs_do_not_overwrite_each_other()
 {
    let moto = Moto::start();
    assert_eq!(moto.ask("PUT", "/lake"), 200);
    let secrets = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(secrets.path(), "[moto]\npassword = \"wery-secret\"\n").expect("written");
    std::fs::set_permissions(secrets.path(), std::fs::Permissions::from_mode(0o600)).expect("set");
    let one = mesh(|setup| setup.env("BRAHMAN_SECRETS", secrets.path())).await;
    let two = mesh(|setup| setup.env("BRAHMAN_SECRETS", secrets.path())).await;
    let endpoint = format!("aws_endpoint=http://127.0.0.1:{}", moto.port);
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
    for mesh in [&one, &two] {
        mesh.brahman_json(&[&["buckets", "add", "lake", "s3://lake/data"], &s3[..]].concat());
    }
    let put = |mesh: &Mesh, rows: usize| {
        let csv = mesh.folder.path().join("t.csv");
        std::fs::write(
            &csv,
            format!("id,v\n{}", (0..rows).map(|i| format!("{i},v{i}\n")).collect::<String>()),
        )
        .expect("written");
        mesh.brahman(&["ingest", "files", "t", &csv.display().to_string(), "--bucket", "lake"])
    };
    assert!(put(&one, 5).status.success());
    let object = dataset(&one).await["dataset"]["objects"][0].clone();
    let (url, key) =
        (object["url"].as_str().expect("a url"), object["key"].as_str().expect("a key"));
    assert_eq!(
        (url, pyarrow(&moto, url).as_str()),
        (format!("s3://lake/data/{key}").as_str(), "{'id': 0, 'v': 'v0'}")
    );
    // There, and nobody's business without a key.
    assert_eq!(moto.ask("HEAD", &format!("/lake/data/manifests/t/{:020}.json", 1)), 403);

    // The other catalog knows nothing of that generation, and must not put its own in its place.
    let refused = put(&two, 7);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("by somebody else"), "{words}");
    two.fault("org.brahman.Catalog.Get", json!({"name": "t"})).await;
    assert_eq!(pyarrow(&moto, url), "{'id': 0, 'v': 'v0'}");

    // Nor does it remove what it has not put there, when it tidies after datasets of the same name.
    let csv = two.folder.path().join("t.csv").display().to_string();
    two.brahman_json(&["ingest", "files", "t", &csv]);
    two.brahman_json(&["ingest", "files", "u", &csv, "--bucket", "lake"]);
    let other = two.call("org.brahman.Catalog.Get", json!({"name": "u"})).await.expect("there");
    let other =
        other["dataset"]["objects"][0]["url"].as_str().expect("a url").replace("s3://", "/");
    for name in ["t", "u"] {
        two.call("org.brahman.Catalog.Delete", json!({"name": name})).await.expect("deleted");
    }
    while moto.ask("HEAD", &other) != 404
        || moto.ask("HEAD", &format!("/lake/data/manifests/u/{:020}.json", 1)) != 404
    {}
    assert_eq!(pyarrow(&moto, url), "{'id': 0, 'v': 'v0'}");
    assert_eq!(moto.ask("HEAD", &format!("/lake/data/manifests/t/{:020}.json", 1)), 403);

    // What lies here is a copy: gone, it is fetched.
    let copy = PathBuf::from(object["path"].as_str().expect("a path"));
    std::fs::remove_file(&copy).expect("removed");
    assert_eq!((&dataset(&one).await["fetched"], copy.exists()), (&json!([key]), true));
    assert_eq!(one.brahman_json(&["datasets", "show", "t"])["sample"]["rows"][4]["v"], "v4");

    // A manifest that a crash kept from being published here: its number is passed over.
    moto.put(
        &format!("/lake/data/manifests/t/{:020}.json", 2),
        &json!({"node": node(&one), "run_id": "dead", "generation": 2}).to_string(),
    );
    assert!(put(&one, 6).status.success());
    assert_eq!(dataset(&one).await["dataset"]["generation"], 3);
    // Killed in the middle of whatever it does, it leaves the old dataset or the new, and the next
    // run succeeds.
    for round in 0..6_u64 {
        let before = dataset(&one).await["dataset"]["rows"].clone();
        let rows = usize::try_from(10 + round).expect("small");
        let pid = one.module("catalog").await.pid;
        let killing = std::thread::scope(|scope| {
            let running = scope.spawn(|| put(&one, rows));
            // Every moment of a commit that takes some 60 ms.
            std::thread::sleep(std::time::Duration::from_millis(40 + 12 * round));
            one.signal(pid, "KILL");
            running.join().expect("it ran")
        });
        one.when(|m| {
            m.iter().any(|m| {
                m.card.label.as_str() == "catalog" && m.state == ModuleState::Ready && m.pid != pid
            })
        })
        .await;
        let after = dataset(&one).await;
        let now = after["dataset"]["rows"].clone();
        assert!(
            now == before && !killing.status.success() || now == json!(rows),
            "{before} {now} {killing:?}"
        );
        assert!(after["missing"].is_null(), "{after}");
    }
    let last = put(&one, 30);
    assert!(last.status.success(), "{last:?}");
    let url =
        dataset(&one).await["dataset"]["objects"][0]["url"].as_str().expect("a url").to_owned();
    assert_eq!(pyarrow(&moto, &url), "{'id': 0, 'v': 'v0'}");

    // What is deleted goes there as well; a bucket that does not answer publishes nothing.
    one.call("org.brahman.Catalog.Delete", json!({"name": "t"})).await.expect("deleted");
    while moto.ask("HEAD", &url.replace("s3://", "/")) != 404 {}
    drop(moto);
    let refused = put(&one, 7);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success()
            && words.contains("nothing was published")
            && !words.contains("wery-secret"),
        "{words}"
    );
    one.fault("org.brahman.Catalog.Get", json!({"name": "t"})).await;
}
