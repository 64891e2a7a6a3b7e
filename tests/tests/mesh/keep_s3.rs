//! The same promises on two makes of S3, moto and SeaweedFS: one commit, one winner of two, lost
//! answers, scrub, adoption, and kills at each of its steps.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use brahman_card::ModuleState;
use brahman_tests::proxy::{Fate, Proxy, in_turn};
use brahman_tests::{Mesh, PATIENCE, Setup, shipped};
use serde_json::{Value, json};

use crate::buckets::{Moto, health, node, pyarrow_at, request};
use crate::foreign::tool;

const SECRET: &str = "wery-secret";

/// SeaweedFS, all of it in one process, from PyPI.
struct Weed {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

/// Ports that are free, all different.
fn ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("bound").port())
}

impl Weed {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let all = ["Admin", "Read", "List", "Write", "Tagging"];
        // Whoever signs must sign rightly; the tests' own questions are not signed.
        let identities = json!({"identities": [
            {"name": "me", "credentials": [{"accessKey": "me", "secretKey": SECRET}], "actions": all},
            {"name": "anonymous", "actions": all},
        ]});
        let config = folder.path().join("s3.json");
        std::fs::write(&config, identities.to_string()).expect("written");
        let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc] = ports();
        let mut command = Command::new(tool("weed"));
        command.current_dir(folder.path()).env("HOME", folder.path()).env("TMPDIR", folder.path());
        command.args([
            "server",
            "-s3",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-volume.max=300",
            "-master.telemetry=false",
        ]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"]);
        command
            .arg(format!("-dir={}", folder.path().display()))
            .arg(format!("-s3.config={}", config.display()));
        for (service, port) in [
            ("master.port", master),
            ("master.port.grpc", master_grpc),
            ("volume.port", volume),
            ("volume.port.grpc", volume_grpc),
            ("filer.port", filer),
            ("filer.port.grpc", filer_grpc),
            ("s3.port", s3),
            ("s3.port.grpc", s3_grpc),
        ] {
            command.arg(format!("-{service}={port}"));
        }
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut lines =
            BufReader::new(process.stderr.take().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Start Seaweed S3 API Server")), "SeaweedFS ended");
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, port: s3, _folder: folder }
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Either.
enum S3 {
    Moto(Moto),
    Weed(Weed),
}

impl S3 {
    /// Both, one after the other, each with an empty bucket `lake`.
    fn each() -> impl Iterator<Item = Self> {
        [(|| Self::Moto(Moto::start())) as fn() -> Self, || Self::Weed(Weed::start())]
            .into_iter()
            .map(|start| {
                let s3 = start();
                // Its parts find one another in a moment, and tell nobody when.
                let since = Instant::now();
                while s3.ask("PUT", "/lake") != Some(200) {
                    assert!(since.elapsed() < PATIENCE, "{} makes no bucket", s3.name());
                }
                s3
            })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Moto(_) => "moto",
            Self::Weed(_) => "SeaweedFS",
        }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Moto(moto) => moto.port,
            Self::Weed(weed) => weed.port,
        }
    }

    /// Status of a request without a body.
    fn ask(&self, method: &str, path: &str) -> Option<u16> {
        request(self.port(), method, path, "")
    }

    /// Whether there is such an object, whoever may read it.
    fn has(&self, path: &str) -> bool {
        self.ask("HEAD", path).expect("answered") != 404
    }
}

fn secrets() -> tempfile::NamedTempFile {
    let secrets = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(secrets.path(), format!("[moto]\npassword = \"{SECRET}\"\n")).expect("written");
    std::fs::set_permissions(secrets.path(), std::fs::Permissions::from_mode(0o600)).expect("set");
    secrets
}

fn add(mesh: &Mesh, name: &str, url: &str, port: u16) {
    let endpoint = format!("aws_endpoint=http://127.0.0.1:{port}");
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
    let added =
        mesh.brahman_json(&[&["buckets", "add", name, url, "-o", &endpoint][..], &s3[..]].concat());
    assert_eq!(added["bucket"]["conditional_put"], true, "{added}");
}

/// A mesh with a bucket `lake` on a port.
async fn mesh_on(port: u16, secrets: &Path) -> Mesh {
    let mut cards = ["broker", "catalog", "ingest"].map(shipped);
    cards[1].1.push_str("\n[supervision.restart]\ninitial_ms = 1\nmax_ms = 10\nintensity = 100000\nhealthy_after_ms = 1\n");
    let mesh = Setup::new(&cards).env("BRAHMAN_SECRETS", secrets).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    add(&mesh, "lake", "s3://lake/data", port);
    mesh
}

fn csv(mesh: &Mesh, rows: usize) -> String {
    let csv = mesh.folder.path().join("t.csv");
    let text: String = (0..rows).map(|i| format!("{i},v{i}\n")).collect();
    std::fs::write(&csv, format!("id,v\n{text}")).expect("written");
    csv.display().to_string()
}

fn ingest(mesh: &Mesh, rows: usize) -> std::process::Output {
    mesh.brahman(&["ingest", "files", "t", &csv(mesh, rows), "--bucket", "lake"])
}

fn words(out: &std::process::Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

async fn get(mesh: &Mesh) -> Value {
    mesh.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("there")
}

fn url(seen: &Value) -> String {
    seen["dataset"]["objects"][0]["url"].as_str().expect("a url").to_owned()
}

/// What the server calls an object.
fn path(url: &str) -> String {
    url.replace("s3://", "/")
}

#[tokio::test]
async fn a_commit_counts_once_and_of_two_catalogs_one_wins() {
    for s3 in S3::each() {
        let secrets = secrets();
        let (one, two) =
            (mesh_on(s3.port(), secrets.path()).await, mesh_on(s3.port(), secrets.path()).await);
        let out = ingest(&one, 5);
        assert!(out.status.success(), "{}: {}", s3.name(), words(&out));
        let url = url(&get(&one).await);
        assert_eq!(pyarrow_at(s3.port(), &url), "{'id': 0, 'v': 'v0'}", "{}", s3.name());
        let refused = ingest(&two, 7);
        assert!(
            !refused.status.success() && words(&refused).contains("by somebody else"),
            "{}: {}",
            s3.name(),
            words(&refused)
        );
        two.fault("org.brahman.Catalog.Get", json!({"name": "t"})).await;
        for rows in 6..9 {
            assert!(ingest(&one, rows).status.success());
        }
        let seen = get(&one).await["dataset"].clone();
        assert_eq!((&seen["generation"], &seen["rows"]), (&json!(4), &json!(8)), "{}", s3.name());
        // Two generations are kept.
        while s3.has(&path(&url)) {}
        one.call("org.brahman.Catalog.Delete", json!({"name": "t"})).await.expect("deleted");
        let manifest = format!("/lake/data/manifests/t/{:020}.json", 4);
        while s3.has(&manifest) {}
    }
}

#[tokio::test]
async fn answers_that_are_lost_leave_one_commit() {
    for s3 in S3::each() {
        let secrets = secrets();
        let proxy = Proxy::before(s3.port());
        let mesh = mesh_on(proxy.port(), secrets.path()).await;
        let manifest =
            |method: &str, target: &str| method == "PUT" && target.contains("/manifests/");
        for (generation, fates) in (1..).zip([
            &[Fate::Unheard][..],
            &[Fate::Dropped, Fate::Unheard],
            &[Fate::Refused(409)],
        ]) {
            proxy.when(in_turn(fates.to_vec(), manifest));
            let out = ingest(&mesh, 5 + generation);
            assert!(out.status.success(), "{} {fates:?}: {}", s3.name(), words(&out));
            let now = get(&mesh).await["dataset"].clone();
            assert_eq!(
                (&now["generation"], &now["rows"]),
                (&json!(generation), &json!(5 + generation)),
                "{} {fates:?}",
                s3.name()
            );
        }
        let url = url(&get(&mesh).await);
        assert_eq!(pyarrow_at(s3.port(), &url), "{'id': 0, 'v': 'v0'}");
    }
}

#[tokio::test]
async fn what_is_damaged_in_s3_is_found_and_repaired() {
    for s3 in S3::each() {
        let secrets = secrets();
        let mesh = mesh_on(s3.port(), secrets.path()).await;
        let copies = mesh.folder.path().join("copies");
        mesh.brahman_json(&["buckets", "add", "rescue", &format!("file://{}", copies.display())]);
        assert!(ingest(&mesh, 50).status.success());
        while health(&mesh, "rescue").await["backlog_objects"] != 0 {}
        let object = get(&mesh).await["dataset"]["objects"][0].clone();
        let (key, url) =
            (object["key"].as_str().expect("a key"), object["url"].as_str().expect("a url"));
        // By somebody else's hand, whom moto lets in by his signature alone.
        put(s3.port(), url, "something else");
        let out = mesh.brahman_json(&["buckets", "scrub"]);
        assert_eq!(
            out["repaired"],
            json!([{"bucket": "lake", "key": key}]),
            "{}: {out}",
            s3.name()
        );
        assert_eq!(pyarrow_at(s3.port(), url), "{'id': 0, 'v': 'v0'}");
        assert_eq!(mesh.brahman_json(&["buckets", "scrub"])["damaged"], json!([]));
    }
}

#[tokio::test]
async fn a_damaged_manifest_is_found_and_written_anew_if_it_is_certainly_ours() {
    for s3 in S3::each() {
        let secrets = secrets();
        let mesh = mesh_on(s3.port(), secrets.path()).await;
        assert!(ingest(&mesh, 5).status.success() && ingest(&mesh, 6).status.success());
        let run = get(&mesh).await["dataset"]["run_id"].as_str().expect("a run").to_owned();
        let manifest = |number: u64| format!("s3://lake/data/manifests/t/{number:020}.json");
        let clean = mesh.brahman_json(&["buckets", "scrub"]);
        assert_eq!(
            (&clean["damaged"], &clean["manifests"], &clean["objects"]),
            (&json!([]), &json!(3), &json!(2)),
            "{}: {clean}",
            s3.name()
        );
        // What stands before its commit says whose it is.
        let ours = format!(
            r#"{{"node":"{}","run_id":"{run}","generation":2,"commit":{{}},"sha256":"0"}}"#,
            node(&mesh)
        );
        put(s3.port(), &manifest(2), &ours);
        let out = mesh.brahman_json(&["buckets", "scrub"]);
        let key = |number: u64| format!("manifests/t/{number:020}.json");
        assert_eq!(
            out["repaired"],
            json!([{"bucket": "lake", "key": key(2)}]),
            "{}: {out}",
            s3.name()
        );
        assert_eq!(mesh.brahman_json(&["buckets", "scrub"])["damaged"], json!([]), "{}", s3.name());
        // Gone, it would let an older generation pass for the present one.
        delete(s3.port(), &manifest(2));
        let out = mesh.brahman_json(&["buckets", "scrub"]);
        assert_eq!(
            out["repaired"],
            json!([{"bucket": "lake", "key": key(2)}]),
            "{}: {out}",
            s3.name()
        );
        assert_eq!(mesh.brahman_json(&["buckets", "scrub"])["damaged"], json!([]), "{}", s3.name());
        // Of an earlier generation nothing here has all of it; and what nothing says is ours stays
        // as it is.
        put(s3.port(), &manifest(1), "{");
        let out = mesh.brahman(&["buckets", "scrub", "--json"]);
        let found: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        assert_eq!(
            (out.status.code(), &found["unrepaired"][0]["key"]),
            (Some(1), &json!(key(1))),
            "{}: {found}",
            s3.name()
        );
        // Taken up elsewhere it is what it was.
        let other = mesh_on(s3.port(), secrets.path()).await;
        let taken = other
            .call("org.brahman.Catalog.Adopt", json!({"bucket": "lake"}))
            .await
            .expect("adopted");
        assert_eq!(
            (&taken["adopted"][0]["rows"], &taken["refused"]),
            (&json!(6), &json!([])),
            "{}: {taken}",
            s3.name()
        );
        // And what is not there is not taken up.
        let refused = other.brahman(&["datasets", "adopt", "lake", "tt"]);
        assert!(
            !refused.status.success() && words(&refused).contains("did you mean `t`"),
            "{}",
            words(&refused)
        );
        let fault = other
            .fault("org.brahman.Catalog.Adopt", json!({"bucket": "lake", "name": "nope"}))
            .await;
        assert!(
            fault.name == "org.brahman.Catalog.NoSuchDataset" && fault.message().contains("`nope`"),
            "{fault}"
        );
    }
}

/// Deletes an object, signed.
fn delete(port: u16, url: &str) {
    let script = "import sys, pyarrow.fs as fs\n\
        s3 = fs.S3FileSystem(access_key='me', secret_key='wery-secret', region='us-east-1', scheme='http', endpoint_override=sys.argv[1])\n\
        s3.delete_file(sys.argv[2].removeprefix('s3://'))";
    let out = Command::new(tool("python3"))
        .args(["-c", script, &format!("127.0.0.1:{port}"), url])
        .output()
        .expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Puts an object, signed.
fn put(port: u16, url: &str, text: &str) {
    let script = "import sys, pyarrow.fs as fs\n\
        s3 = fs.S3FileSystem(access_key='me', secret_key='wery-secret', region='us-east-1', scheme='http', endpoint_override=sys.argv[1])\n\
        with s3.open_output_stream(sys.argv[2].removeprefix('s3://')) as out: out.write(sys.argv[3].encode())";
    let out = Command::new(tool("python3"))
        .args(["-c", script, &format!("127.0.0.1:{port}"), url, text])
        .output()
        .expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test]
async fn a_commit_of_which_every_answer_is_lost_is_unknown_and_said_again_it_is_one() {
    let s3 = S3::each().next().expect("moto");
    let (secrets, proxy) = (secrets(), Proxy::before(s3.port()));
    let mesh = mesh_on(proxy.port(), secrets.path()).await;
    let place = json!({"name": "t", "run_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "producer": "test", "bucket": "lake"});
    let place = mesh.call("org.brahman.Catalog.Location", place).await.expect("begun");
    let text = |field: &str| place[field].as_str().expect("a text").to_owned();
    std::fs::write(Path::new(&text("path")).join("part-0.parquet"), "rows").expect("written");
    let key = format!("{}/part-0.parquet", text("key_prefix"));
    let digest = brahman_storage::digest::hex(&brahman_storage::digest::sha256(b"rows"));
    let commit = json!({
        "name": "t", "run_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "columns": [], "inputs": [], "producer": "test",
        "objects": [{"bucket": "lake", "key": key, "url": format!("s3://lake/data/{key}"), "rows": 1, "bytes": 4, "sha256": digest}],
    });
    // What is put is there, and nobody hears of it; nor can it be looked for.
    proxy.when(|method, target| match (method, target.contains("/manifests/")) {
        ("PUT", true) => Fate::Unheard,
        ("GET" | "HEAD", true) => Fate::Refused(403),
        _ => Fate::Answered,
    });
    let fault = mesh.fault("org.brahman.Catalog.Commit", commit.clone()).await;
    assert_eq!(
        (&*fault.name, &fault.parameters["run_id"]),
        ("org.brahman.Catalog.Unknown", &commit["run_id"]),
        "{fault}"
    );
    assert!(fault.retryable() && !fault.message().contains("nothing was published"), "{fault}");
    // Neither published nor given up: it is not there yet, its objects stay, and nobody else's
    // number is taken.
    mesh.fault("org.brahman.Catalog.Get", json!({"name": "t"})).await;
    let object = format!("/lake/data/{key}");
    assert!(s3.has(&object) && s3.has(&format!("/lake/data/manifests/t/{:020}.json", 1)));
    let pid = mesh.module("catalog").await.pid;
    mesh.signal(pid, "KILL");
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == "catalog" && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
    proxy.when(|_, _| Fate::Answered);
    let said = mesh.call("org.brahman.Catalog.Commit", commit.clone()).await.expect("said again");
    assert_eq!(said["generation"], 1);
    assert_eq!(
        mesh.call("org.brahman.Catalog.Commit", commit).await.expect("and again")["generation"],
        1
    );
    assert_eq!(get(&mesh).await["dataset"]["generation"], 1);
    assert!(s3.has(&object) && !s3.has(&format!("/lake/data/manifests/t/{:020}.json", 2)));
}

/// The catalog is killed at the n-th request of an adoption, for every n.
#[tokio::test]
async fn an_adoption_that_is_killed_at_any_step_can_be_said_again() {
    for s3 in S3::each() {
        let secrets = secrets();
        let lost = mesh_on(s3.port(), secrets.path()).await;
        assert!(ingest(&lost, 5).status.success());
        let theirs = url(&get(&lost).await);
        drop(lost);
        let proxy = Proxy::before(s3.port());
        let mesh = mesh_on(proxy.port(), secrets.path()).await;
        for step in 0_usize.. {
            let pid = mesh.module("catalog").await.pid;
            let mut left = Some(step);
            proxy.when(move |_, _| {
                let is_last = left == Some(0);
                left = left.and_then(|n| n.checked_sub(1));
                if !is_last {
                    return Fate::Answered;
                }
                let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
                // The request arrives or not: both have happened to somebody.
                if step % 2 == 0 { Fate::Unheard } else { Fate::Dropped }
            });
            let out = mesh.brahman(&["datasets", "adopt", "lake", "t"]);
            let killed = mesh.module("catalog").await.pid != pid || !out.status.success();
            proxy.when(|_, _| Fate::Answered);
            mesh.when_module("catalog", ModuleState::Ready).await;
            mesh.when_served_by("org.brahman.Catalog", "catalog").await;
            // Whatever it came to: it is here once it is said again, whole, with what the other one
            // put there untouched.
            while mesh.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.is_err() {
                let _ = mesh.brahman(&["datasets", "adopt", "lake", "t"]);
            }
            let seen = get(&mesh).await;
            assert_eq!(
                (&seen["dataset"]["rows"], &seen["missing"]),
                (&json!(5), &Value::Null),
                "{} step {step}",
                s3.name()
            );
            let ours = url(&seen);
            assert!(ours != theirs && s3.has(&path(&theirs)), "{} step {step}", s3.name());
            assert_eq!(
                pyarrow_at(s3.port(), &ours),
                "{'id': 0, 'v': 'v0'}",
                "{} step {step}",
                s3.name()
            );
            // Given up again, nothing of ours is left but what nobody has finished clearing.
            mesh.call("org.brahman.Catalog.Delete", json!({"name": "t"})).await.expect("deleted");
            while s3.has(&path(&ours)) {}
            if !killed {
                assert!(
                    step > 5,
                    "{}: each of its requests was one at which it was killed",
                    s3.name()
                );
                break;
            }
        }
        let notes = mesh.brahman_json(&["datasets"])["notes"].clone();
        assert!(notes.is_null(), "{}: {notes}", s3.name());
    }
}
