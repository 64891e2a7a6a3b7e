//! The harness: a private mesh of real processes, with a cleared environment and temporary
//! directories.
//!
//! Waits are on events (init's `Watch`, a process's end), bounded by [`PATIENCE`]. Dropping a
//! [`Mesh`] ends it.

pub mod embed_server;
pub mod hub;
pub mod made_models;
pub mod made_pairs;
pub mod planted;
pub mod proxy;
pub mod servers;

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use brahman_card::interface::Empty;
use brahman_card::interface::init::{ListOut, WatchOut};
use brahman_card::{Fault, ModuleRecord, ModuleState};
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, ClientError, Connection};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for anything: far above what is normal, so that a failure is a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The shipped Card of this name.
#[must_use]
pub fn shipped(name: &str) -> (String, String) {
    let path = repository().join("packaging/cards").join(format!("{name}.toml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (name.to_owned(), text)
}

/// A Card for a shell script.
#[must_use]
pub fn script(label: &str, script: &str, more: &str) -> (String, String) {
    let script = serde_json::to_string(script).expect("a string is JSON");
    (
        label.to_owned(),
        format!(
            "schema_version = 1\nlabel = \"{label}\"\n{more}\n[payload.native]\nexec = \"/bin/sh\"\nargv = [\"-c\", {script}]\n"
        ),
    )
}

/// A Card for a provider in Python's standard library alone, as a stranger would write one.
/// `handle(c, m)` is given a connection and a message, and answers by `reply(c, {…})`; `more` is
/// put into the Card before its payload.
#[must_use]
pub fn stranger(
    label: &str,
    interface: &str,
    idempotent: &[&str],
    handle: &str,
    more: &str,
) -> (String, String) {
    const SERVER: &str = r#"
import json, os, socket, sys, threading, time
listener = socket.socket(fileno=3)
listener.setblocking(True)
def reply(c, o): c.sendall(json.dumps(o).encode() + b"\0")
def converse(c):
    b = b""
    while True:
        while b"\0" not in b:
            d = c.recv(1 << 16)
            if not d: return c.close()
            b += d
        m, b = b.split(b"\0", 1)
        handle(c, json.loads(m))
def serve():
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    while True:
        threading.Thread(target=converse, args=(listener.accept()[0],), daemon=True).start()
"#;
    let script =
        serde_json::to_string(&format!("{SERVER}\n{handle}\nserve()\n")).expect("a string is JSON");
    let idempotent = serde_json::to_string(idempotent).expect("strings are JSON");
    let card = format!(
        "schema_version = 1\nlabel = \"{label}\"\n{more}\n[payload.native]\nexec = \"python3\"\nargv = [\"-u\", \"-c\", {script}]\n\
         [[flow.output]]\nname = \"it\"\ntype.interface.name = \"{interface}\"\nidempotent = {idempotent}\n"
    );
    (label.to_owned(), card)
}

/// The checkout.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout").to_owned()
}

/// Where the binaries under test lie.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test has a program");
    let folder = own.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not built: run `make test`", path.display());
    path
}

/// The cache that `brahman models pull` fills; tests share its model and library, and nothing else.
///
/// # Panics
/// If the library is not there.
#[must_use]
pub fn shared_cache() -> PathBuf {
    let cache = brahman_sidecar::place::cache_dir();
    let library = std::env::var_os("ORT_DYLIB_PATH")
        .map_or_else(|| cache.join("onnxruntime/libonnxruntime.so"), PathBuf::from);
    assert!(
        library.is_file(),
        "no ONNX Runtime at {}: run `make test`, or `brahman models pull`",
        library.display()
    );
    cache
}

/// A private mesh.
#[derive(Debug)]
pub struct Mesh {
    /// Everything it writes.
    pub folder: TempDir,
    init: Child,
    context: Option<String>,
}

/// A mesh that is about to be started.
#[derive(Debug)]
pub struct Setup {
    folder: TempDir,
    context: Option<String>,
    env: Vec<(String, String)>,
    is_journal: bool,
}

impl Setup {
    /// With these Cards.
    #[must_use]
    pub fn new(cards: &[(String, String)]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("brahman-test-")
            .tempdir()
            .expect("a temporary directory");
        let setup = Self { folder, context: None, env: Vec::new(), is_journal: false };
        std::fs::create_dir_all(setup.cache()).expect("made");
        std::fs::create_dir_all(setup.cards()).expect("made");
        for (name, text) in cards {
            std::fs::write(setup.cards().join(format!("{name}.toml")), text).expect("written");
        }
        setup
    }

    fn cards(&self) -> PathBuf {
        self.folder.path().join("cards")
    }

    /// The mesh's private cache.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// The folder that will hold its state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Tells init, as systemd would, that its standard error is the journal's.
    #[must_use]
    pub fn logged_as_a_journal(mut self) -> Self {
        self.is_journal = true;
        self
    }

    /// With these Cards, too.
    #[must_use]
    pub fn with_cards(self, cards: &[(String, String)]) -> Self {
        for (name, text) in cards {
            std::fs::write(self.cards().join(format!("{name}.toml")), text).expect("written");
        }
        self
    }

    /// Starts in this context.
    #[must_use]
    pub fn context(mut self, context: &str) -> Self {
        self.context = Some(context.to_owned());
        self
    }

    /// Sets a variable for every module.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        self.env.push((name.to_owned(), value.as_ref().display().to_string()));
        self
    }

    /// Gives the mesh the model and the library that `brahman models pull` fetched.
    #[must_use]
    pub fn real_model(self) -> Self {
        let shared = shared_cache();
        for part in ["models", "onnxruntime"] {
            std::os::unix::fs::symlink(shared.join(part), self.cache().join(part)).expect("linked");
        }
        self
    }

    /// Gives the mesh the library that `brahman models pull` fetched, and no model: those are its
    /// own.
    #[must_use]
    pub fn library(self) -> Self {
        std::os::unix::fs::symlink(
            shared_cache().join("onnxruntime"),
            self.cache().join("onnxruntime"),
        )
        .expect("linked");
        self
    }

    /// Starts init and waits until the broker answers.
    pub async fn up(self) -> Mesh {
        let mut mesh = self.spawn();
        mesh.when(|modules| {
            modules
                .iter()
                .any(|m| m.card.label.as_str() == "broker" && m.state == ModuleState::Ready)
        })
        .await;
        mesh.assert_alive();
        mesh
    }

    /// Starts init and waits for nothing.
    #[must_use]
    pub fn spawn(self) -> Mesh {
        // A test run that is killed leaves nothing behind.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(binary("brahman-init"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .env("HOME", self.folder.path())
            .env("BRAHMAN_CACHE", self.cache())
            .env("BRAHMAN_EMBED_THREADS", "2");
        if let Some(library) = std::env::var_os("ORT_DYLIB_PATH") {
            command.env("ORT_DYLIB_PATH", library);
        }
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        command.arg("--socket").arg(self.folder.path().join("run/brahman.sock"));
        command
            .arg("--state")
            .arg(self.folder.path().join("state"))
            .arg("--cards")
            .arg(self.cards());
        if let Some(context) = &self.context {
            command.arg("--context").arg(context);
        }
        let log = std::fs::File::create(self.folder.path().join("log")).expect("created");
        if self.is_journal {
            let meta = log.metadata().expect("there");
            command.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()));
        }
        let init = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("brahman-init starts");
        Mesh { folder: self.folder, init, context: self.context }
    }
}

impl Mesh {
    /// The mesh socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("run/brahman.sock")
    }

    /// A socket beside it.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.socket().with_file_name(name)
    }

    /// The context it was started in.
    #[must_use]
    pub fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// init's process.
    #[must_use]
    pub fn init_pid(&self) -> u32 {
        self.init.id()
    }

    /// Everything written to stderr so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn assert_alive(&mut self) {
        if let Ok(Some(status)) = self.init.try_wait() {
            panic!("brahman-init ended with {status}:\n{}", self.log());
        }
    }

    /// Waits until init's table is as wanted, and gives it.
    pub async fn when(&self, wanted: impl Fn(&[ModuleRecord]) -> bool) -> Vec<ModuleRecord> {
        let init = self.beside("init.sock");
        let last = std::cell::RefCell::new(Vec::new());
        let watching = async {
            loop {
                let outcome: Result<Vec<ModuleRecord>, ClientError> = async {
                    let mut connection = Connection::connect(&init).await?;
                    connection
                        .send(&encode_call(
                            "org.brahman.Init.Watch",
                            &Empty {},
                            &CallOptions::default(),
                            true,
                            false,
                        )?)
                        .await?;
                    loop {
                        let word: WatchOut = connection.receive().await?.typed()?.value;
                        last.borrow_mut().clone_from(&word.modules);
                        if wanted(&word.modules) {
                            return Ok(word.modules);
                        }
                    }
                }
                .await;
                if let Ok(modules) = outcome {
                    return modules;
                }
                // init is not there yet; there is no event to wait on before there is a socket.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, watching).await {
            Ok(modules) => modules,
            Err(_) => {
                let table: Vec<String> = last
                    .borrow()
                    .iter()
                    .map(|m| format!("{} {} {:?}", m.card.label, m.state.as_str(), m.reason))
                    .collect();
                panic!(
                    "the mesh did not become as wanted; last:\n{}\nlog:\n{}",
                    table.join("\n"),
                    self.log()
                )
            }
        }
    }

    /// How much memory a process holds, in MiB.
    #[must_use]
    pub fn resident_mib(pid: u32) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = status.lines().find_map(|l| {
            l.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        kib.unwrap_or(0) / 1024
    }

    /// Waits until one module is in a state.
    pub async fn when_module(&self, label: &str, state: ModuleState) -> ModuleRecord {
        let is = |m: &ModuleRecord| m.card.label.as_str() == label && m.state == state;
        let modules = self.when(|modules| modules.iter().any(is)).await;
        modules.into_iter().find(is).expect("it was just there")
    }

    /// Waits until the broker leads calls of a flow to this module. init's table may be ahead of
    /// the broker's by a moment.
    pub async fn when_served_by(&self, flow: &str, label: &str) {
        let watching = async {
            let mut connection = Connection::connect(&self.socket()).await?;
            let ask = serde_json::json!({ "flow": flow });
            connection
                .send(&encode_call(
                    "org.brahman.Broker.Watch",
                    &ask,
                    &CallOptions::default(),
                    true,
                    false,
                )?)
                .await?;
            loop {
                let word: brahman_card::interface::broker::WatchOut =
                    connection.receive().await?.typed()?.value;
                if word.matched.is_some_and(|m| m.label == label) {
                    return Ok::<_, ClientError>(());
                }
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, watching).await;
        assert!(
            matches!(outcome, Ok(Ok(()))),
            "{flow} is not led to {label}: {outcome:?}\n{}",
            self.log()
        );
    }

    /// One module now.
    pub async fn module(&self, label: &str) -> ModuleRecord {
        let mut connection =
            Connection::connect(&self.beside("init.sock")).await.expect("init answers");
        let list: ListOut =
            connection.call("org.brahman.Init.List", &Empty {}).await.expect("a list");
        list.modules
            .into_iter()
            .find(|m| m.card.label.as_str() == label)
            .unwrap_or_else(|| panic!("no module {label}"))
    }

    /// A call on a connection of its own.
    ///
    /// # Errors
    /// As the mesh gives them.
    pub async fn call(&self, method: &str, parameters: Value) -> Result<Value, ClientError> {
        let mut connection = Connection::connect(&self.socket()).await?;
        tokio::time::timeout(PATIENCE, connection.call(method, &parameters))
            .await
            .unwrap_or(Err(ClientError::Deadline(PATIENCE)))
    }

    /// A call that must answer with an error.
    pub async fn fault(&self, method: &str, parameters: Value) -> Fault {
        match self.call(method, parameters).await {
            Err(ClientError::Fault(fault)) => fault,
            other => panic!("{method}: expected an error reply, got {other:?}"),
        }
    }

    /// The `brahman` command against this mesh.
    #[must_use]
    pub fn brahman(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary("brahman"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("BRAHMAN_SOCKET", self.socket());
        command
            .env("HOME", self.folder.path())
            .env("BRAHMAN_CACHE", self.folder.path().join("cache"));
        if let Some(library) = std::env::var_os("ORT_DYLIB_PATH") {
            command.env("ORT_DYLIB_PATH", library);
        }
        command.args(arguments).stdin(Stdio::null()).output().expect("brahman runs")
    }

    /// [`Self::brahman`] with something on standard input.
    #[must_use]
    pub fn brahman_with(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut command = Command::new(binary("brahman"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("BRAHMAN_SOCKET", self.socket());
        command
            .env("HOME", self.folder.path())
            .env("BRAHMAN_CACHE", self.folder.path().join("cache"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("brahman runs");
        // It may end without having read everything, as for bad arguments.
        let _ = child.stdin.take().expect("a pipe").write_all(stdin);
        child.wait_with_output().expect("brahman ends")
    }

    /// [`Self::brahman`] with `--json`, which must succeed.
    pub fn brahman_json(&self, arguments: &[&str]) -> Value {
        let out = self.brahman(&[arguments, &["--json"]].concat());
        assert!(
            out.status.success(),
            "{arguments:?}: {}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| {
            panic!("{arguments:?}: {e}: {}", String::from_utf8_lossy(&out.stdout))
        })
    }

    /// Writes a Card into the folder.
    pub fn write_card(&self, (name, text): &(String, String)) {
        std::fs::write(self.folder.path().join("cards").join(format!("{name}.toml")), text)
            .expect("written");
    }

    /// Sends a signal to a process by name of the signal.
    pub fn signal(&self, pid: u32, signal: &str) {
        let done = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(pid.to_string())
            .status()
            .expect("kill runs");
        assert!(done.success(), "kill -{signal} {pid}");
    }

    /// Ends the mesh by SIGTERM and gives how long that took.
    pub fn down(mut self) -> Duration {
        let started = Instant::now();
        self.signal(self.init.id(), "TERM");
        let status = wait(&mut self.init, PATIENCE)
            .unwrap_or_else(|| panic!("init did not end:\n{}", self.log()));
        assert!(status.success(), "init ended with {status}:\n{}", self.log());
        started.elapsed()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Ok(None) = self.init.try_wait() {
            let _ = Command::new("kill").args(["-TERM", &self.init.id().to_string()]).status();
            if wait(&mut self.init, Duration::from_secs(15)).is_none() {
                let _ = self.init.kill();
                let _ = self.init.wait();
            }
        }
        if std::thread::panicking() {
            let _ = std::io::stderr()
                .write_all(format!("--- log of the mesh\n{}", self.log()).as_bytes());
        }
    }
}

/// A descriptor that can be read when the process has ended, zombie or not.
fn end_of(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits for such a descriptor; false if the process is still there afterwards.
fn ended(end: &OwnedFd, patience: Duration) -> bool {
    let limit =
        Timespec { tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&limit))
        .is_ok_and(|ready| ready > 0)
}

fn wait(child: &mut Child, patience: Duration) -> Option<std::process::ExitStatus> {
    if let Some(end) = end_of(child.id()) {
        ended(&end, patience);
    }
    child.try_wait().ok().flatten()
}

/// Whether a process of this number runs (zombies do not).
#[must_use]
pub fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

/// Waits until a process is gone.
pub async fn gone(pid: u32) {
    let Some(end) = end_of(pid) else { return };
    let gone = tokio::task::spawn_blocking(move || ended(&end, PATIENCE)).await;
    assert!(gone.is_ok_and(|gone| gone), "process {pid} is still there");
}
