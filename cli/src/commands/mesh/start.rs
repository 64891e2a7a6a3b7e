//! `brahman up`: this process becomes brahman-init, or starts it in the background and waits until
//! its mesh answers.

use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use brahman_card::interface::{Empty, broker};
use brahman_sidecar::module::EXIT_CONFIG;
use brahman_sidecar::place;
use brahman_sidecar::place::state::{Holder, StateError, check_place};

use super::super::{get, sibling};
use crate::Up;
use crate::failure::Refusal;
use crate::output::{Output, shell_word};

/// Becomes `brahman-init`, so that signals reach it without a go-between; or starts it in the
/// background.
pub(crate) fn up(up: &Up, socket: &Path, output: &Output) -> anyhow::Result<()> {
    if up.detach {
        return detach(up, socket, output);
    }
    if std::env::var_os(place::DETACHED).is_some_and(|value| !value.is_empty()) {
        // `up --detach` has called this. Of a session of its own, nobody's terminal ends it.
        nix::unistd::setsid().context("no session of its own")?;
    }
    let program = sibling("brahman-init");
    let mut command = Command::new(&program);
    pass_on(&mut command, up, socket);
    let error = command.exec();
    Err(error).with_context(|| {
        format!("cannot start {}; it belongs beside `brahman` or in PATH", program.display())
    })
}

/// The arguments that `up` and `brahman-init` share.
fn pass_on(command: &mut Command, up: &Up, socket: &Path) {
    command.arg("--socket").arg(socket);
    for (flag, value) in [("--cards", &up.cards), ("--state", &up.state)] {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    if let Some(context) = &up.context {
        command.arg("--context").arg(context);
    }
}

/// How long a mesh that was started in the background may take until its broker answers: a moment,
/// or seconds on a busy machine.
const DETACH_WAIT: Duration = Duration::from_secs(60);
/// Where init's own words go then, in the state directory. Each start adds to it: another may be
/// about to.
const DETACHED_LOG: &str = "up.log";
/// Above this it is moved aside first. init itself writes a few hundred bytes a day.
const DETACHED_LOG_BYTES_MAX: u64 = 1 << 20;
/// How much of that log is told if the mesh does not start.
const DETACHED_LINES: usize = 10;

/// Starts the mesh in the background, and returns once it answers.
fn detach(up: &Up, socket: &Path, output: &Output) -> anyhow::Result<()> {
    let socket = std::path::absolute(socket)?;
    if std::os::unix::net::UnixStream::connect(place::init_socket(&socket)).is_ok() {
        bail!(
            "a mesh runs at {} already: `brahman status` shows it, `brahman down` stops it",
            socket.display()
        );
    }
    let state = std::path::absolute(up.state.clone().unwrap_or_else(place::state_dir))?;
    // As init will: nothing is written to another mesh's state.
    check_place(&state).map_err(|error| {
        anyhow::Error::from(error).context(Refusal("cannot use the state".to_owned()))
    })?;
    if let Some(Holder { pid, socket }) = Holder::of(&state) {
        let taken = StateError::Taken { state, socket, pid };
        return Err(anyhow::Error::from(taken).context(Refusal("cannot use the state".to_owned())));
    }
    place::private_dir(&state)
        .with_context(|| format!("cannot create the state directory {}", state.display()))?;
    let log = state.join(DETACHED_LOG);
    if std::fs::metadata(&log).is_ok_and(|found| found.len() > DETACHED_LOG_BYTES_MAX) {
        let moved = std::fs::rename(&log, state.join(format!("{DETACHED_LOG}.1")));
        moved.with_context(|| format!("cannot move {} aside", log.display()))?;
    }
    let written = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&log);
    let written = written.with_context(|| format!("cannot write {}", log.display()))?;
    let begins = written.metadata().map_or(0, |found| found.len());
    let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
    command.arg("up");
    pass_on(&mut command, up, &socket);
    command.env(place::DETACHED, "1");
    command.stdin(Stdio::null()).stdout(written.try_clone()?).stderr(written);
    let mut child = command.spawn().context("cannot start `brahman up`")?;
    let bar = output.spinner("starting");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(until_it_answers(&mut child, &socket));
    bar.finish_and_clear();
    let context = outcome.map_err(|error| {
        let words = last_words(&log, begins);
        match error.downcast_ref::<EndedInit>() {
            // It has said why.
            Some(EndedInit(status)) if status.code() == Some(i32::from(EXIT_CONFIG)) => {
                Refusal(words).into()
            }
            Some(ended) => anyhow::anyhow!("{words}\n{ended}"),
            None => error.context(words),
        }
    })?;
    if output.json() {
        output.print_json(&serde_json::json!({ "pid": child.id(), "socket": socket, "context": context, "log": log }));
        return Ok(());
    }
    let named = context
        .as_deref()
        .map_or_else(|| "no context".to_owned(), |name| format!("context {name}"));
    output.line(&format!(
        "the mesh runs as process {}, {named}, socket {}, log {}",
        child.id(),
        socket.display(),
        log.display()
    ));
    let brahman = if socket == place::mesh_socket() {
        "brahman".to_owned()
    } else {
        format!("brahman --socket {}", shell_word(&socket))
    };
    output.line(&next_steps(&brahman, user_unit().is_some()));
    Ok(())
}

/// That init ended before its mesh answered.
#[derive(Debug)]
struct EndedInit(std::process::ExitStatus);

impl std::fmt::Display for EndedInit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "brahman-init ended with {}", self.0)
    }
}

impl std::error::Error for EndedInit {}

/// Waits until the child's mesh answers, and gives its context; an error if its init has ended
/// before.
async fn until_it_answers(child: &mut Child, socket: &Path) -> anyhow::Result<Option<String>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Err(EndedInit(status).into());
        }
        // Another mesh may have begun on this socket at the same time: then the child is about to
        // end.
        if listener_of(&place::init_socket(socket)).await == Some(child.id()) {
            let asked = tokio::time::timeout(
                Duration::from_millis(500),
                get::<broker::method::GetContext>(socket, &Empty {}),
            )
            .await;
            if let Ok(Ok(now)) = asked {
                return Ok(now.context);
            }
        }
        if begun.elapsed() > DETACH_WAIT {
            bail!(
                "the mesh has not answered within {} s; `brahman down` stops it",
                DETACH_WAIT.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The process that listens on a socket, unix(7).
async fn listener_of(socket: &Path) -> Option<u32> {
    let stream = tokio::net::UnixStream::connect(socket).await.ok()?;
    stream.peer_cred().ok()?.pid()?.try_into().ok()
}

/// The end of a log from its byte `begins` on, for a person whose mesh did not start.
fn last_words(log: &Path, begins: u64) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let own =
        usize::try_from(begins).ok().and_then(|begins| bytes.get(begins..)).unwrap_or_default();
    let text = String::from_utf8_lossy(own);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(DETACHED_LINES)..].join("\n");
    format!("the mesh did not start; the end of its log, {}:\n{last}", log.display())
}

/// What a person does with a mesh in the background.
pub(super) fn next_steps(brahman: &str, is_unit_there: bool) -> String {
    let enable = "`systemctl --user enable brahman.socket brahman.service`";
    let again = if is_unit_there {
        enable.to_owned()
    } else {
        format!("{enable}, once `make install` has brought the units,")
    };
    format!(
        "`{brahman} status` shows it, `{brahman} down` stops it; {again} starts it at every login"
    )
}

/// The user unit, where systemd looks for it: systemd.unit(5).
fn user_unit() -> Option<PathBuf> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    let own = [config, data].into_iter().flatten().map(|folder| folder.join("systemd/user"));
    let system = ["/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"]
        .map(PathBuf::from);
    own.chain(system).map(|folder| folder.join("brahman.service")).find(|unit| unit.exists())
}
