//! Starting a module's process and watching for its end, through a pidfd and never a bare pid.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Command, Stdio};

use brahman_card::Card;
use brahman_card::card::{Access, Native, Payload};
use brahman_sidecar::place;
use brahman_sidecar::place::cards::{ProgramError, program};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::io::dup;
use thiserror::Error;

use crate::cgroup::Cgroups;
use crate::pidfd::Pidfd;
use crate::state::{Exit, GRACE_MS};

/// Where everything is, as every module is told.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) mesh: PathBuf,
    pub(crate) init: PathBuf,
    pub(crate) notify: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) cache: PathBuf,
    pub(crate) context: Option<String>,
    /// The group that may call what Cards allow.
    pub(crate) group: Option<u32>,
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pidfd: Pidfd,
}

/// A started process and its output.
pub(crate) struct StartedProcess {
    pub(crate) process: Process,
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
}

/// Why there is no process.
#[derive(Debug, Error)]
pub(crate) enum SpawnError {
    #[error("a virtual module is not started by init")]
    Virtual,
    #[error("payload.native.exec")]
    Program(#[source] ProgramError),
    #[error("cannot start {exec}")]
    Start { exec: String, source: io::Error },
}

impl SpawnError {
    /// Whether it would be the same the next time, for it is the Card's doing.
    pub(crate) fn is_permanent(&self) -> bool {
        !matches!(self, Self::Start { .. })
    }
}

impl Process {
    /// A descriptor that becomes readable when the process has ended.
    pub(crate) fn watch(&self) -> io::Result<OwnedFd> {
        self.pidfd.watch()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = self.pidfd.send(signal) {
            tracing::debug!(pid = self.pid, %error, "signal not delivered");
        }
    }

    /// Kills the whole group. Safe against reuse of the number: the leader is not reaped yet while
    /// `self` lives.
    pub(crate) fn kill_group(&self) {
        self.signal(Signal::SIGKILL);
        self.sweep_group();
    }

    fn sweep_group(&self) {
        // A child's number, which is never 0: that would be our own group. An empty group is the
        // usual case.
        let _ = killpg(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
    }

    /// Sweeps what the process left in its group, then reaps it. Call once it has ended.
    pub(crate) fn reap(self) -> Exit {
        self.sweep_group();
        self.pidfd.reap()
    }
}

/// Starts a module's process in a group of its own, with its listener as descriptor 3 and those for
/// TCP as the ones after it.
pub(crate) fn spawn(
    card: &Card,
    listener: &UnixListener,
    tcp: &[TcpListener],
    places: &Places,
    cgroups: Option<&Cgroups>,
) -> Result<StartedProcess, SpawnError> {
    let Payload::Native(native) = &card.payload else {
        return Err(SpawnError::Virtual);
    };
    let program = program(native).map_err(SpawnError::Program)?;
    let passing = |source: io::Error| SpawnError::Start { exec: native.exec.clone(), source };
    let state = state_of(card, places);
    if card.label.is_replica() {
        place::private_dir(&state).map_err(passing)?;
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg("__exec").arg(format!("--parent={}", std::process::id()));
    if let Some(files) = card.limits.files {
        command.arg(format!("--files={files}"));
    }
    match (cgroups, card.limits.memory) {
        (Some(cgroups), _) => {
            let folder = cgroups.prepare(card).map_err(passing)?;
            command.arg("--cgroup").arg(folder);
        }
        (None, Some(memory)) => {
            command.arg(format!("--data={}", memory.0));
        }
        (None, None) => {}
    }
    // Open in whatever is started as long as these are held, which is the shim alone.
    let also: Vec<OwnedFd> =
        tcp.iter().map(dup).collect::<Result<_, _>>().map_err(|error| passing(error.into()))?;
    command.args(also.iter().map(|descriptor| format!("--also={}", descriptor.as_raw_fd())));
    command.arg("--").arg(&program).args(&native.argv);
    for (key, value) in environment(card, native, places, &state) {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command
        .stdin(OwnedFd::from(listener.try_clone().map_err(passing)?))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn().map_err(passing)?;
    let pid = child.id();
    match Pidfd::open(pid) {
        Ok(pidfd) => Ok(StartedProcess {
            process: Process { pid, pidfd },
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
        }),
        Err(error) => {
            // Still our unreaped child, so the number is safe for this one last use.
            let _ = child.kill();
            let _ = child.wait();
            Err(passing(error))
        }
    }
}

/// Folder of the state directory in which the replicas of Cards have theirs.
const REPLICAS: &str = "replicas";

/// Where a module's lasting state is: the mesh's, or a replica's own.
fn state_of(card: &Card, places: &Places) -> PathBuf {
    if card.label.is_replica() {
        places.state.join(REPLICAS).join(card.label.as_str())
    } else {
        places.state.clone()
    }
}

/// Paths as they are, UTF-8 or not. A value of none removes what init itself was started with.
fn environment(
    card: &Card,
    native: &Native,
    places: &Places,
    state: &Path,
) -> BTreeMap<String, Option<OsString>> {
    let path = |path: &Path| Some(path.as_os_str().to_owned());
    let text = |text: String| Some(OsString::from(text));
    let mut all: BTreeMap<String, Option<OsString>> = [
        ("BRAHMAN_LABEL", text(card.label.to_string())),
        ("BRAHMAN_CARD_ID", text(card.id.clone())),
        ("BRAHMAN_INIT", path(&places.init)),
        ("BRAHMAN_SOCKET", path(&places.mesh)),
        ("BRAHMAN_STATE", path(state)),
        ("BRAHMAN_CACHE", path(&places.cache)),
        // Calls are to finish before the SIGKILL, not at it.
        ("BRAHMAN_GRACE_MS", text((GRACE_MS - 500).to_string())),
        ("BRAHMAN_QUOTA_CONNECTIONS", text(card.quotas.connections.to_string())),
        // As a number, and only for what a member may call: a module without it turns others away.
        (
            "BRAHMAN_GROUP",
            places.group.filter(|_| admits_group(card)).and_then(|gid| text(gid.to_string())),
        ),
        ("NOTIFY_SOCKET", path(&places.notify)),
        (
            "WATCHDOG_USEC",
            (card.watchdog_s > 0)
                .then(|| (u64::from(card.watchdog_s) * 1_000_000).to_string().into()),
        ),
        ("WATCHDOG_PID", None),
        ("LISTEN_PID", None),
        ("LISTEN_FDS", None),
        ("LISTEN_FDNAMES", None),
        (place::DETACHED, None),
        ("BRAHMAN_VRAM_MIB", card.limits.vram_mib.map(|v| v.to_string().into())),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    if let Some(context) = &places.context {
        all.insert("BRAHMAN_BROKER_CONTEXT".into(), text(context.clone()));
    }
    all.extend(
        native.env.iter().chain(&card.environment).map(|(k, v)| (k.clone(), text(v.clone()))),
    );
    all
}

/// Whether members of the mesh's group may connect to a module. The broker lets them in and looks
/// at each module's Card.
pub(crate) fn admits_group(card: &Card) -> bool {
    card.access == Access::Group
        || card.offered_interfaces().any(|i| i == brahman_card::interface::broker::INTERFACE.name)
}

/// Children of this process that are no module's main process: what modules left behind.
pub(crate) fn orphans(known: impl Fn(u32) -> bool) -> Vec<u32> {
    let own = std::process::id();
    let listed =
        std::fs::read_to_string(format!("/proc/self/task/{own}/children")).unwrap_or_default();
    listed
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .filter(|pid| !known(*pid))
        .collect()
}

/// Reaps an orphan if it has ended; kills it first if it belongs to a life of `card_id` that is
/// over.
pub(crate) fn tend_orphan(pid: u32, over: Option<&str>) {
    // 0 would be whatever is in our own group.
    if pid == 0 {
        return;
    }
    let raw = Pid::from_raw(pid.cast_signed());
    if let Some(id) = over {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mark = format!("BRAHMAN_CARD_ID={id}");
        if environ.split(|b| *b == 0).any(|variable| variable == mark.as_bytes()) {
            tracing::info!(pid, "killing what a module left behind");
            // Our own unreaped child: the number is its own until we reap it.
            let _ = kill(raw, Signal::SIGKILL);
        }
    }
    let _ = waitpid(raw, Some(WaitPidFlag::WNOHANG));
}
