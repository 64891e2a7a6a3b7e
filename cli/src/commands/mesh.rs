//! Running a mesh and looking after it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use brahman_card::interface::broker::{ModuleStatus, StatusOut};
use brahman_card::interface::{Empty, broker, init};
use brahman_card::{Card, CardError, ModuleState};
use brahman_sidecar::module::EXIT_CONFIG;
use brahman_sidecar::place::cards::{self, CardSource, FoundCard, Mask, ReplacedCard};
use brahman_sidecar::place::state::{Holder, StateError, check_place};
use brahman_sidecar::{ClientError, chain, place};

use super::{get, is_standard, sibling, stdin_bytes};
use crate::Up;
use crate::failure::{BadInput, Refusal};
use crate::output::{Output, Tone, bytes, duration, one_line, shell_word};

/// Becomes `brahman-init`, so that signals reach it without a go-between; or starts it in the background.
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
    Err(error).with_context(|| format!("cannot start {}; it belongs beside `brahman` or in PATH", program.display()))
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

/// How long a mesh that was started in the background may take until its broker answers: a moment, or seconds on a busy machine.
const DETACH_WAIT: Duration = Duration::from_secs(60);
/// Where init's own words go then, in the state directory. Each start adds to it: another may be about to.
const DETACHED_LOG: &str = "up.log";
/// Above this it is moved aside first. init itself writes a few hundred bytes a day.
const DETACHED_LOG_BYTES_MAX: u64 = 1 << 20;
/// How much of that log is told if the mesh does not start.
const DETACHED_LINES: usize = 10;

/// Starts the mesh in the background, and returns once it answers.
fn detach(up: &Up, socket: &Path, output: &Output) -> anyhow::Result<()> {
    let socket = std::path::absolute(socket)?;
    if std::os::unix::net::UnixStream::connect(place::init_socket(&socket)).is_ok() {
        bail!("a mesh runs at {} already: `brahman status` shows it, `brahman down` stops it", socket.display());
    }
    let state = std::path::absolute(up.state.clone().unwrap_or_else(place::state_dir))?;
    // As init will: nothing is written to another mesh's state.
    check_place(&state).map_err(|error| anyhow::Error::from(error).context(Refusal("cannot use the state".to_owned())))?;
    if let Some(Holder { pid, socket }) = Holder::of(&state) {
        let taken = StateError::Taken { state, socket, pid };
        return Err(anyhow::Error::from(taken).context(Refusal("cannot use the state".to_owned())));
    }
    place::private_dir(&state).with_context(|| format!("cannot create the state directory {}", state.display()))?;
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
            Some(EndedInit(status)) if status.code() == Some(i32::from(EXIT_CONFIG)) => Refusal(words).into(),
            Some(ended) => anyhow::anyhow!("{words}\n{ended}"),
            None => error.context(words),
        }
    })?;
    if output.json() {
        output.print_json(&serde_json::json!({ "pid": child.id(), "socket": socket, "context": context, "log": log }));
        return Ok(());
    }
    let named = context.as_deref().map_or_else(|| "no context".to_owned(), |name| format!("context {name}"));
    output.line(&format!("the mesh runs as process {}, {named}, socket {}, log {}", child.id(), socket.display(), log.display()));
    let brahman = if socket == place::mesh_socket() { "brahman".to_owned() } else { format!("brahman --socket {}", shell_word(&socket)) };
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

/// Waits until the child's mesh answers, and gives its context; an error if its init has ended before.
async fn until_it_answers(child: &mut Child, socket: &Path) -> anyhow::Result<Option<String>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Err(EndedInit(status).into());
        }
        // Another mesh may have begun on this socket at the same time: then the child is about to end.
        if listener_of(&place::init_socket(socket)).await == Some(child.id()) {
            let asked = tokio::time::timeout(Duration::from_millis(500), get::<broker::method::GetContext>(socket, &Empty {})).await;
            if let Ok(Ok(now)) = asked {
                return Ok(now.context);
            }
        }
        if begun.elapsed() > DETACH_WAIT {
            bail!("the mesh has not answered within {} s; `brahman down` stops it", DETACH_WAIT.as_secs());
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
    let own = usize::try_from(begins).ok().and_then(|begins| bytes.get(begins..)).unwrap_or_default();
    let text = String::from_utf8_lossy(own);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(DETACHED_LINES)..].join("\n");
    format!("the mesh did not start; the end of its log, {}:\n{last}", log.display())
}

/// What a person does with a mesh in the background.
fn next_steps(brahman: &str, is_unit_there: bool) -> String {
    let enable = "`systemctl --user enable brahman.socket brahman.service`";
    let again = if is_unit_there { enable.to_owned() } else { format!("{enable}, once `make install` has brought the units,") };
    format!("`{brahman} status` shows it, `{brahman} down` stops it; {again} starts it at every login")
}

/// The user unit, where systemd looks for it: systemd.unit(5).
fn user_unit() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    let own = [config, data].into_iter().flatten().map(|folder| folder.join("systemd/user"));
    let system = ["/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"].map(PathBuf::from);
    own.chain(system).map(|folder| folder.join("brahman.service")).find(|unit| unit.exists())
}

/// Asks init to end, and waits until nobody answers on its socket.
pub(crate) async fn down(socket: &Path, output: &Output) -> anyhow::Result<()> {
    let init = place::init_socket(socket);
    let asked = get::<init::method::Shutdown>(&init, &Empty {}).await;
    match asked {
        // No init, but perhaps modules that a killed one left behind: they end as its next start would end them.
        Err(ClientError::Connect { .. }) if swept(socket) => {
            output.note("brahman-init had died already; the processes that it left running were stopped");
            if output.json() {
                output.print_json(&serde_json::json!({ "ended": true }));
            }
            return Ok(());
        }
        other => {
            other?;
        }
    }
    let started = Instant::now();
    let bar = output.spinner("stopping");
    // init's lock is released when its process is gone, whatever becomes of the socket file.
    while std::os::unix::net::UnixStream::connect(&init).is_ok() {
        if started.elapsed() > Duration::from_secs(20) {
            bail!("the mesh did not stop within 20 s; a second `brahman down` forces it");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bar.finish_and_clear();
    if output.json() {
        output.print_json(&serde_json::json!({ "ended": true }));
    }
    Ok(())
}

/// Whether a killed init had left anything: it is ended now. brahman-init knows how, and what it says is of no interest here.
fn swept(socket: &Path) -> bool {
    let mut command = Command::new(sibling("brahman-init"));
    command.arg("--socket").arg(socket).arg("__sweep").env("BRAHMAN_LOG", "warn").stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// How long the supervisor may take to answer `status`: it does so in a millisecond, and within a second on a machine that is busy.
const SUPERVISOR_WAIT: Duration = Duration::from_secs(2);

/// The broker's status; init's table if there is no broker.
async fn read_status(socket: &Path) -> Result<StatusOut, ClientError> {
    let asked = tokio::time::timeout(Duration::from_secs(2), get::<broker::method::Status>(socket, &Empty {})).await;
    if let Ok(Ok(status)) = asked {
        return Ok(status);
    }
    let list = get::<init::method::List>(&place::init_socket(socket), &Empty {}).await?;
    let modules = list.modules.into_iter().map(|m| ModuleStatus {
        label: m.card.label.to_string(),
        state: m.state,
        pid: m.pid,
        restarts: m.restarts,
        uptime_s: m.uptime_ms as f64 / 1000.0,
        flows: m.card.offered_interfaces().map(str::to_owned).collect(),
        mock: m.card.mock,
        reason: m.reason,
        queue: 0,
        p50_us: None,
        p99_us: None,
        calls: 0,
        failures: 0,
        breaker: None,
        attributes: m.attributes,
        shortfalls: Some(m.shortfalls).filter(|s| !s.is_empty()),
        origin: m.origin,
    });
    Ok(StatusOut { context: None, modules: modules.collect() })
}

pub(crate) async fn status(socket: &Path, wait: Option<u64>, output: &Output) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(wait.unwrap_or(0));
    let bar = output.spinner("waiting for the mesh");
    let status = loop {
        let outcome = read_status(socket).await;
        let settled = outcome.as_ref().is_ok_and(|s| !s.modules.iter().any(|m| m.state.is_coming()));
        if settled || Instant::now() >= until {
            break outcome?;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    bar.finish_and_clear();
    // The broker shows init's table as it last heard it, whatever has become of init since.
    let list = tokio::time::timeout(SUPERVISOR_WAIT, get::<init::method::List>(&place::init_socket(socket), &Empty {})).await;
    if output.json() {
        output.print_json(&scripted(&status)?);
    } else {
        show_status(&status, socket, output);
        if let Some(lost) = list.as_ref().ok().and_then(|list| list.as_ref().ok()?.log_lines_lost) {
            let words = format!("{lost} lines of the mesh's log could not be written; `brahman logs` has the last ones");
            output.line(&output.paint(&words, Tone::Bad));
        }
        if let Some(lost) = list.as_ref().ok().and_then(|list| list.as_ref().ok()?.log_lines_unkept) {
            let words = format!("{lost} lines of the modules' logs could not be kept on disk (is it full?)");
            output.line(&output.paint(&words, Tone::Bad));
        }
    }
    let silent = "the supervisor does not answer, so this table may be old: brahman-init is stopped, or it has died";
    let gone = match list {
        Err(_) => Some(ClientError::Deadline(SUPERVISOR_WAIT)),
        // Who may not ask it has to be content with the broker's word.
        Ok(Err(ClientError::Connect { source, .. })) if source.kind() == std::io::ErrorKind::PermissionDenied => None,
        Ok(Err(error)) if error.is_disconnect() => Some(error),
        Ok(_) => None,
    };
    gone.map_or(Ok(()), |error| Err(anyhow::Error::from(error).context(silent)))
}

/// What makes a terminal show another screen, and the former one again.
const SCREEN: (&[u8], &[u8]) = (b"\x1b[?1049h", b"\x1b[?1049l");
/// What makes it show nothing, from its first line on.
const EMPTY: &[u8] = b"\x1b[H\x1b[J";

/// Shows the status again and again until Ctrl-C, on a screen of its own; with --json a line each time.
pub(crate) async fn top(socket: &Path, every: u64, output: &Output) -> anyhow::Result<()> {
    let is_screen = std::io::stdout().is_terminal() && !output.json();
    let watching = async {
        let mut beats = tokio::time::interval(Duration::from_secs(every));
        loop {
            beats.tick().await;
            let status = read_status(socket).await;
            if is_screen {
                output.put(EMPTY);
            }
            match status {
                Ok(status) if output.json() => output.print_json(&scripted(&status)?),
                Ok(status) => show_status(&status, socket, output),
                // It may come back, and whoever looks on wants to see that.
                Err(error) if is_screen => output.line(&output.paint(&chain(&error), Tone::Bad)),
                Err(error) => return Err(error.into()),
            }
        }
    };
    if is_screen {
        output.put(SCREEN.0);
    }
    let outcome = tokio::select! {
        outcome = watching => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    if is_screen {
        output.put(SCREEN.1);
    }
    outcome
}

/// The status for scripts: as the broker gives it, but that a module without a process has no process id either.
fn scripted(status: &StatusOut) -> serde_json::Result<serde_json::Value> {
    let mut all = serde_json::to_value(status)?;
    for module in all["modules"].as_array_mut().into_iter().flatten().filter(|module| module["pid"] == 0) {
        module["pid"] = serde_json::Value::Null;
    }
    Ok(all)
}

fn show_status(status: &StatusOut, socket: &Path, output: &Output) {
    let broker_runs = |m: &ModuleStatus| m.state == ModuleState::Ready && m.flows.iter().any(|flow| flow == broker::INTERFACE.name);
    let none = if status.modules.iter().any(broker_runs) { "(none)" } else { "(unknown: the broker does not answer)" };
    let context = status.context.as_deref().unwrap_or(none);
    output.line(&format!("context {}   socket {}", output.paint(context, Tone::Strong), socket.display()));
    let rows = status.modules.iter().map(|m| {
        let tone = match m.state {
            ModuleState::Ready => Tone::Good,
            ModuleState::Failed => Tone::Bad,
            ModuleState::Stopped => Tone::Faint,
            _ => Tone::Busy,
        };
        let time = |us: Option<u64>| us.map_or("-".to_owned(), micros);
        let attribute = |name: &str| m.attributes.get(name).cloned().unwrap_or_else(|| "-".into());
        vec![
            format!("{}{}", m.label, if m.mock { " (mock)" } else { "" }),
            output.paint(m.state.as_str(), tone),
            if m.pid == 0 { "-".into() } else { m.pid.to_string() },
            duration(m.uptime_s),
            m.restarts.to_string(),
            m.queue.to_string(),
            time(m.p50_us),
            time(m.p99_us),
            attribute("model"),
            attribute("device"),
        ]
    });
    output.table(&["MODULE", "STATE", "PID", "IN STATE", "RESTARTS", "QUEUE", "P50", "P99", "MODEL", "DEVICE"], rows.collect());
    for line in origin_lines(&status.modules) {
        output.line(&output.paint(&line, Tone::Faint));
    }
    for m in &status.modules {
        if let Some(reason) = m.reason.as_ref().filter(|_| m.state != ModuleState::Ready) {
            output.line(&format!("{}: {}", m.label, one_line(reason)));
        }
        if let Some(breaker) = &m.breaker {
            output.line(&format!("{}: circuit breaker {breaker}, {} of {} calls failed", m.label, m.failures, m.calls));
        }
        for line in storage_lines(&m.attributes) {
            output.line(&output.paint(&format!("{}: {line}", m.label), Tone::Busy));
        }
        for shortfall in m.shortfalls.iter().flatten() {
            output.line(&output.paint(&format!("{}: {shortfall}", m.label), Tone::Faint));
        }
    }
}

/// Where the modules' Cards came from: a line for each folder.
fn origin_lines(modules: &[ModuleStatus]) -> Vec<String> {
    let mut layers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for module in modules {
        let layer = module.origin.as_deref().map(cards::layer_of);
        layers.entry(layer.unwrap_or("brought by the module")).or_default().push(&module.label);
    }
    // One whose supervisor is of another version says nothing of it.
    if modules.iter().all(|module| module.origin.is_none()) {
        return Vec::new();
    }
    layers.into_iter().map(|(layer, labels)| one_line(&format!("Cards {layer}: {}", labels.join(" ")))).collect()
}

/// What a module says of its buckets, in words: replicas that have yet to be made, and buckets that are unavailable.
fn storage_lines(attributes: &BTreeMap<String, String>) -> Vec<String> {
    let figure = |name: &str| attributes.get(name).and_then(|figure| figure.parse::<u64>().ok()).filter(|figure| *figure > 0);
    let text = |name: &str| attributes.get(name).filter(|text| !text.is_empty());
    let mut lines = Vec::new();
    if let Some(objects) = figure("copies.objects") {
        let size = bytes(figure("copies.bytes").unwrap_or(0));
        let since = figure("copies.oldest_s").map(|s| format!(", the oldest for {}", duration(s as f64))).unwrap_or_default();
        let why = text("copies.why").map(|why| format!(": {why}")).unwrap_or_default();
        lines.push(format!("{objects} objects ({size}) have no replica in bucket rescue yet{since}{why}"));
    }
    lines.extend(text("buckets.away").map(|away| format!("bucket {away} is unavailable; see `brahman buckets health`")));
    lines.extend(text("damaged").cloned());
    lines.extend(text("state").map(|state| format!("the state directory is {state}: existing data is served, and nothing is changed")));
    lines
}

fn micros(us: u64) -> String {
    match us {
        0..1000 => format!("{us}µs"),
        1000..1_000_000 => format!("{:.1}ms", us as f64 / 1e3),
        _ => format!("{:.1}s", us as f64 / 1e6),
    }
}

pub(crate) async fn reload(socket: &Path, output: &Output) -> anyhow::Result<()> {
    let out = get::<init::method::Reload>(&place::init_socket(socket), &Empty {}).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    for (word, labels) in [("added", &out.added), ("removed", &out.removed), ("changed", &out.changed), ("unchanged", &out.unchanged)] {
        if !labels.is_empty() {
            output.line(&format!("{word:<10}{}", labels.join(" ")));
        }
    }
    Ok(())
}

/// Says what is wrong with Cards, alone and beside one another. Without paths: with those that `up` would start here.
pub(crate) fn check(paths: &[PathBuf], socket: &Path, output: &Output) -> anyhow::Result<()> {
    let mesh = std::path::absolute(socket)?;
    let unreadable = |(folder, error): (PathBuf, std::io::Error)| {
        anyhow::Error::from(error).context(BadInput(format!("cannot read {}", folder.display())))
    };
    // Folders that are named are not layers of one another: each Card in them counts.
    let groups: Vec<Vec<CardSource>> = if paths.is_empty() {
        vec![cards::sources(None)]
    } else {
        paths.iter().filter(|path| path.is_dir()).map(|folder| vec![CardSource::Asked(folder.clone())]).collect()
    };
    let mut checked = CheckedCards::default();
    let mut errors: Vec<CardError> = Vec::new();
    for group in &groups {
        let reading = cards::read(group).map_err(unreadable)?;
        checked.found.extend(reading.cards);
        checked.replaced.extend(reading.replaced);
        checked.masks.extend(reading.masks);
        errors.extend(reading.errors);
    }
    if paths.iter().any(|path| is_standard(path)) {
        let origin = "standard input".to_owned();
        match Card::parse(&origin, &stdin_bytes()?) {
            Ok(card) => checked.found.push(FoundCard { origin, card }),
            Err(error) => errors.push(error),
        }
    }
    for file in paths.iter().filter(|path| !path.is_dir() && !is_standard(path)) {
        // A file that is not there is a slip of the person's, not a bad Card.
        std::fs::metadata(file).with_context(|| BadInput(file.display().to_string()))?;
        match cards::read_one(file) {
            // Named itself and by its folder.
            Ok(card) if checked.found.iter().any(|known| known.origin == card.origin) => {}
            Ok(card) => checked.found.push(card),
            Err(error) => errors.push(error),
        }
    }
    let looked: Vec<String> = groups.iter().map(|group| cards::looked_at(group)).collect();
    if checked.found.is_empty() && errors.is_empty() {
        return Err(BadInput(format!("no Cards found: expected *.toml or *.json files; looked at {}", looked.join(", "))).into());
    }
    errors.extend(cards::collisions(&checked.found, &mesh));
    let mut known = checked.found.clone();
    if !paths.is_empty() {
        // A Card that is looked at alone may require what lies beside it, or what is installed.
        let files = paths.iter().filter(|path| !path.is_dir());
        let beside = files.filter_map(|path| path.parent()).map(|folder| CardSource::Folder(Path::new(".").join(folder)));
        let around: Vec<CardSource> = beside.chain(cards::sources(None)).collect();
        // Of no interest here if it cannot be read.
        known.extend(cards::read(&around).map(|reading| reading.cards).unwrap_or_default());
    }
    let asked: BTreeSet<&str> = checked.found.iter().map(|card| card.origin.as_str()).collect();
    errors.extend(cards::unrunnable(&known).into_iter().filter(|error| asked.contains(error.origin.as_str())));
    errors.sort_by(|a, b| (&a.origin, &a.field).cmp(&(&b.origin, &b.field)));
    errors.dedup();
    if paths.is_empty() {
        output.note(&format!("looked at {}", looked.join(", ")));
    }
    report_cards(&checked, &errors, output)
}

/// What `check` looked at.
#[derive(Default)]
struct CheckedCards {
    found: Vec<FoundCard>,
    replaced: Vec<ReplacedCard>,
    masks: Vec<Mask>,
}

fn report_cards(checked: &CheckedCards, errors: &[CardError], output: &Output) -> anyhow::Result<()> {
    let refused = |origin: &str| errors.iter().any(|error| error.origin == origin);
    for card in checked.found.iter().filter(|card| !refused(&card.origin)) {
        let (label, id) = (card.card.label.to_string(), &card.card.id);
        if output.json() {
            output.print_json(&serde_json::json!({ "file": card.origin, "ok": true, "used": true, "label": label, "id": id }));
        } else {
            output.line(&format!("{} {}: {label}", output.paint("ok", Tone::Good), one_line(&card.origin)));
        }
    }
    let replaced = checked.replaced.iter().map(|replaced| (&replaced.found.origin, replaced.found.card.label.as_str(), Some(&replaced.by)));
    let masks = checked.masks.iter().map(|mask| (&mask.origin, mask.label.as_str(), None));
    for (file, label, by) in replaced.chain(masks) {
        if output.json() {
            output.print_json(&serde_json::json!({ "file": file, "ok": true, "used": false, "label": label, "by": by }));
        } else {
            let why = by.map_or_else(|| format!("masks `{label}`"), |by| format!("not used, {by} takes its place"));
            output.line(&output.paint(&one_line(&format!("-- {file}: {why}")), Tone::Faint));
        }
    }
    for e in errors {
        if output.json() {
            output.print_json(&serde_json::json!({ "file": e.origin, "ok": false, "field": e.field, "expected": e.expected }));
        } else {
            output.line(&format!("{} {}", output.paint("bad", Tone::Bad), one_line(&e.to_string())));
        }
    }
    let mut bad: Vec<&str> = errors.iter().map(|error| error.origin.as_str()).collect();
    bad.sort_unstable();
    bad.dedup();
    let all = bad.len() + checked.found.iter().filter(|card| !refused(&card.origin)).count();
    if bad.is_empty() { Ok(()) } else { Err(BadInput(format!("{} of {all} Cards cannot run", bad.len())).into()) }
}

#[cfg(test)]
mod tests;
