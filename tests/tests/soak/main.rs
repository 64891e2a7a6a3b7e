//! The long test of the first promise: a mesh under mixed calls while every process of it is killed
//! in turn, stopped and starved.
//!
//! `make soak` runs it for 15 minutes (`BRAHMAN_SOAK_S` says otherwise). Through our own clients no
//! idempotent call may fail; raw clients may lose what was in flight when the broker or init died,
//! and nothing else; no reply may be another's; what was acknowledged is there at the end; nothing
//! is left behind.

mod clients;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brahman_tests::{binary, runs, shipped, stranger};
use serde_json::Value;

use clients::{
    TEXTS, command_line, foreign_client, nuisance, own_client, poison, raw_client, word, writer,
};

/// Between two kills.
const KILL_EVERY: Duration = Duration::from_secs(2);
/// How long the disk is full.
const FULL_FOR: Duration = Duration::from_secs(10);
/// A call through our own clients is given up after this long, and counts as failed then.
const PATIENCE: Duration = Duration::from_secs(60);

const ECHO: &str = r#"
def handle(c, m):
    p = m.get("parameters") or {}
    if p.get("poison"): os._exit(9)
    if p.get("sleep"): time.sleep(p["sleep"])
    reply(c, {"parameters": {"for": p.get("who"), "text": "x" * p.get("bytes", 0)}})
"#;

/// What everybody shares.
struct Field {
    folder: PathBuf,
    stop: AtomicBool,
    /// Nothing more is written: what there is, is compared.
    written: AtomicBool,
    init: AtomicU64,
    full: AtomicBool,
    counts: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
    acknowledged: Mutex<BTreeMap<String, u64>>,
}

impl Field {
    fn socket(&self) -> PathBuf {
        self.folder.join("run/brahman.sock")
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, what: &str) {
        *self.counts.lock().expect("whole").entry(what.to_owned()).or_default() += 1;
    }

    fn wrong(&self, what: String) {
        // While it runs: a quarter of an hour is long to wait for it.
        let _ = writeln!(std::io::stderr(), "WRONG: {what}");
        self.wrong.lock().expect("whole").push(what);
    }

    fn brahman(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(binary("brahman"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("BRAHMAN_SOCKET", self.socket());
        command
            .env("HOME", &self.folder)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("brahman runs")
    }

    fn start_init(&self, log: &std::fs::File) -> Child {
        let mut command = Command::new(binary("brahman-init"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.folder);
        command.env("BRAHMAN_CACHE", self.folder.join("cache")).arg("--socket").arg(self.socket());
        command
            .arg("--state")
            .arg(self.folder.join("state"))
            .arg("--cards")
            .arg(self.folder.join("cards"));
        let log = log.try_clone().expect("cloned");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("brahman-init starts")
    }
}

/// init's launcher, as systemd is one: it starts it again.
fn launch(field: &Field) {
    let log = std::fs::File::create(field.folder.join("log")).expect("created");
    while field.goes_on() {
        let mut init = field.start_init(&log);
        field.init.store(u64::from(init.id()), Ordering::Relaxed);
        loop {
            if init.try_wait().expect("waited").is_some() {
                break;
            }
            if !field.goes_on() {
                let _ = Command::new("kill").args(["-TERM", &init.id().to_string()]).status();
                let _ = init.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Kills one process after the other, stops one now and then, fills the disk once.
fn harm(field: &Field, length: Duration) {
    let begun = Instant::now();
    let mut turn = 0;
    let labels = ["embed-mock", "t", "index", "broker", "catalog", "ingest", "init"];
    let mut filled: Option<Instant> = None;
    while begun.elapsed() < length {
        std::thread::sleep(KILL_EVERY);
        let label = labels[turn % labels.len()];
        let modules: Value = serde_json::from_slice(&field.brahman(&["status", "--json"]).stdout)
            .unwrap_or_default();
        let pid_of = |label: &str| {
            let found = modules["modules"].as_array()?.iter().find(|m| m["label"] == label)?;
            found["pid"].as_u64().filter(|pid| *pid > 0)
        };
        let pid =
            if label == "init" { Some(field.init.load(Ordering::Relaxed)) } else { pid_of(label) };
        if let Some(pid) = pid {
            let _ = Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .stderr(Stdio::null())
                .status();
            field.count(&format!("killed {label}"));
        }
        if turn % 5 == 4
            && let Some(pid) = pid_of(labels[(turn / 5) % 6])
        {
            let _ = Command::new("kill")
                .args(["-STOP", &pid.to_string()])
                .stderr(Stdio::null())
                .status();
            std::thread::sleep(Duration::from_millis(1500));
            let _ = Command::new("kill")
                .args(["-CONT", &pid.to_string()])
                .stderr(Stdio::null())
                .status();
            field.count("stopped and went on");
        }
        let filler = field.folder.join("state/filler");
        if filled.is_none() && begun.elapsed() > length / 2 {
            filled = Some(Instant::now());
            field.full.store(true, Ordering::Relaxed);
            let _ = Command::new("dd")
                .args(["if=/dev/zero", "bs=64k"])
                .arg(format!("of={}", filler.display()))
                .stderr(Stdio::null())
                .status();
            field.count("filled the disk");
        }
        if filled.is_some_and(|since| since.elapsed() > FULL_FOR) && filler.exists() {
            let _ = std::fs::remove_file(&filler);
            field.full.store(false, Ordering::Relaxed);
        }
        turn += 1;
    }
    let _ = std::fs::remove_file(field.folder.join("state/filler"));
}

/// The most memory and descriptors that a process of a name had.
fn watch_sizes(field: &Field, most: &Mutex<BTreeMap<String, (u64, u64)>>) {
    while field.goes_on() {
        for (name, pid) in processes(&field.folder) {
            let rss = brahman_tests::Mesh::resident_mib(pid);
            let files =
                std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |all| all.count() as u64);
            let mut most = most.lock().expect("whole");
            let entry = most.entry(name).or_default();
            *entry = (entry.0.max(rss), entry.1.max(files));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Every process of the mesh, by the program's name.
fn processes(folder: &Path) -> Vec<(String, u32)> {
    let mark = format!("BRAHMAN_SOCKET={}", folder.join("run/brahman.sock").display());
    let entries = std::fs::read_dir("/proc").expect("readable").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let ours = environment.split(|b| *b == 0).any(|variable| variable == mark.as_bytes());
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
        (ours && name != "brahman" && runs(pid)).then_some((name, pid))
    })
    .collect()
}

#[test]
#[ignore = "takes 15 minutes: `make soak`"]
fn the_mesh_outlives_everything() {
    let length = Duration::from_secs(
        std::env::var("BRAHMAN_SOAK_S").ok().and_then(|s| s.parse().ok()).unwrap_or(900),
    );
    let folder =
        tempfile::Builder::new().prefix("brahman-soak-").tempdir().expect("a temporary directory");
    let path = folder.path().to_owned();
    for part in ["run", "cards", "cache", "state", "docs"] {
        std::fs::create_dir(path.join(part)).expect("made");
    }
    std::fs::set_permissions(path.join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("set");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
        .arg(path.join("state"))
        .status();
    let mounted = mounted.is_ok_and(|status| status.success());
    assert!(mounted, "the soak mounts a small file system for the full disk and so needs root");
    let restart =
        "supervision.restart = { initial_ms = 20, max_ms = 500, intensity = 1000, period_s = 60 }";
    let cards = ["broker", "embed-mock", "index", "catalog", "ingest"].map(shipped);
    for (name, text) in
        cards.into_iter().chain([stranger("t", "org.example.T", &["Get"], ECHO, restart)])
    {
        std::fs::write(path.join("cards").join(format!("{name}.toml")), text).expect("written");
    }
    for i in 0..20 {
        std::fs::write(
            path.join(format!("docs/{i}.txt")),
            format!("unique{i} is the word of document {i}"),
        )
        .expect("written");
    }
    let field = Arc::new(Field {
        folder: path.clone(),
        stop: AtomicBool::new(false),
        written: AtomicBool::new(false),
        init: AtomicU64::new(0),
        full: AtomicBool::new(false),
        counts: Mutex::default(),
        wrong: Mutex::default(),
        acknowledged: Mutex::default(),
    });
    let most = Mutex::new(BTreeMap::new());
    let expected = std::sync::OnceLock::<Vec<Value>>::new();
    std::thread::scope(|scope| {
        scope.spawn(|| launch(&field));
        let ready = Instant::now();
        let is_up = || field.brahman(&["status", "--wait", "30", "--json"]).status.success();
        while !is_up() {
            assert!(
                ready.elapsed() < PATIENCE,
                "the mesh does not come up: {}",
                std::fs::read_to_string(path.join("log")).unwrap_or_default()
            );
        }
        let must = |arguments: &[&str]| {
            let out = field.brahman(arguments);
            assert!(
                out.status.success(),
                "{arguments:?}: {}",
                String::from_utf8_lossy(&out.stderr)
            );
            out.stdout
        };
        must(&["ingest", "files", "docs", &path.join("docs").display().to_string()]);
        must(&["index", "create", "docs", "--dataset", "docs"]);
        must(&["index", "refresh", "docs"]);
        let embed = |n| {
            serde_json::from_slice::<Value>(&must(&["embed", &word(n), "--json"])).expect("JSON")["vectors"].clone()
        };
        let expected = expected.get_or_init(|| (0..TEXTS).map(embed).collect());
        scope.spawn(|| own_client(&field, expected, 0));
        scope.spawn(|| own_client(&field, expected, 7));
        scope.spawn(|| command_line(&field, expected));
        scope.spawn(|| raw_client(&field));
        scope.spawn(|| foreign_client(&field));
        scope.spawn(|| nuisance(&field));
        scope.spawn(|| poison(&field));
        let writing = scope.spawn(|| writer(&field));
        scope.spawn(|| watch_sizes(&field, &most));
        harm(&field, length);
        // All is quiet: what was acknowledged is there.
        field.written.store(true, Ordering::Relaxed);
        writing.join().expect("it wrote to the end");
        for (name, rows) in field.acknowledged.lock().expect("whole").iter() {
            let out = field.brahman(&["datasets", "show", name, "--rows", "0", "--json"]);
            let value: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
            let there = value["rows"].as_u64().or_else(|| value["dataset"]["rows"].as_u64());
            if there != Some(*rows) && there.is_some() {
                field.wrong(format!(
                    "{name}: {rows} rows were acknowledged, there are {there:?}: {}",
                    String::from_utf8_lossy(&out.stderr)
                ));
            } else if there.is_none() {
                field.wrong(format!(
                    "{name} with {rows} rows is gone: {}",
                    String::from_utf8_lossy(&out.stderr)
                ));
            }
            field.count("acknowledged datasets looked at");
        }
        field.stop.store(true, Ordering::Relaxed);
    });
    let left = processes(&path);
    let sockets: Vec<_> = std::fs::read_dir(path.join("run"))
        .expect("readable")
        .flatten()
        .map(|e| e.file_name())
        .collect();
    let temporary = Command::new("find")
        .arg(path.join("state"))
        .args(["-name", "*.tmp", "-o", "-name", "*.part"])
        .output()
        .expect("find runs");
    let _ = Command::new("umount").arg("-l").arg(path.join("state")).status();
    println!("in {} s:", length.as_secs());
    for (what, n) in field.counts.lock().expect("whole").iter() {
        println!("  {n:>8}  {what}");
    }
    for (name, (rss, files)) in most.lock().expect("whole").iter() {
        println!("  {name}: at most {rss} MiB, {files} descriptors");
        assert!(*rss < 600 && *files < 1000, "{name}");
    }
    println!(
        "  left in run/: {sockets:?}; temporary files: {}",
        String::from_utf8_lossy(&temporary.stdout).lines().count()
    );
    assert!(left.is_empty(), "left behind: {left:?}");
    assert!(
        temporary.stdout.is_empty(),
        "left behind: {}",
        String::from_utf8_lossy(&temporary.stdout)
    );
    let wrong = field.wrong.lock().expect("whole");
    assert!(
        wrong.is_empty(),
        "{} things went wrong, such as {:#?}\n{}",
        wrong.len(),
        &wrong[..wrong.len().min(20)],
        path.display()
    );
}
