//! Running a mesh and looking after it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use brahman_card::interface::broker::{ModuleStatus, StatusOut};
use brahman_card::interface::init::{LabelIn, LogsIn, LogsOut};
use brahman_card::interface::{Empty, Method, broker, init};
use brahman_card::{Card, CardError, ModuleState};
use brahman_sidecar::place::cards::{self, FoundCard};
use brahman_sidecar::{ClientError, place};

use super::{get, is_standard, sibling, stdin_bytes, stream};
use crate::Up;
use crate::failure::BadInput;
use crate::output::{Output, Tone, bytes, duration, one_line};

/// Becomes `brahman-init`, so that signals reach it without a go-between.
pub(crate) fn up(up: &Up, socket: &Path) -> anyhow::Result<()> {
    let program = sibling("brahman-init");
    let mut command = Command::new(&program);
    command.arg("--socket").arg(socket);
    for (flag, value) in [("--cards", &up.cards), ("--state", &up.state)] {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    if let Some(context) = &up.context {
        command.arg("--context").arg(context);
    }
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}; it belongs beside `brahman` or in PATH", program.display()))
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

pub(crate) async fn logs(socket: &Path, label: &str, follow: bool, lines: u64, output: &Output) -> anyhow::Result<()> {
    let ask = LogsIn { label: label.to_owned(), follow: Some(follow), lines: Some(lines) };
    let init = place::init_socket(socket);
    let show = |logs: &LogsOut| {
        for line in &logs.lines {
            if output.json() {
                output.print_json(line);
            } else {
                output.line(&line.text);
            }
        }
    };
    if follow {
        stream::<init::method::Logs>(&init, &ask, show).await?;
    } else {
        let logs = get::<init::method::Logs>(&init, &ask).await?;
        show(&logs);
        if logs.dropped > 0 {
            output.note(&format!("{} earlier lines are no longer kept", logs.dropped));
        }
    }
    Ok(())
}

/// Has init start, stop or restart what is called so.
pub(crate) async fn command<M: Method<In = LabelIn>>(socket: &Path, label: &str, output: &Output) -> anyhow::Result<()> {
    get::<M>(&place::init_socket(socket), &LabelIn { label: label.to_owned() }).await?;
    if output.json() {
        let (_, method) = M::NAME.rsplit_once('.').unwrap_or(("", M::NAME));
        output.print_json(&serde_json::json!({ "label": label, "command": method.to_lowercase() }));
    }
    Ok(())
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
    let groups: Vec<Vec<PathBuf>> = if paths.is_empty() {
        vec![cards::folders(None)]
    } else {
        paths.iter().filter(|path| path.is_dir()).map(|folder| vec![folder.clone()]).collect()
    };
    let mut found: Vec<FoundCard> = Vec::new();
    let mut errors: Vec<CardError> = Vec::new();
    for group in groups {
        let reading = cards::read(&group).map_err(unreadable)?;
        found.extend(reading.cards);
        errors.extend(reading.errors);
    }
    if paths.iter().any(|path| is_standard(path)) {
        let origin = "standard input".to_owned();
        match Card::parse(&origin, &stdin_bytes()?) {
            Ok(card) => found.push(FoundCard { origin, card }),
            Err(error) => errors.push(error),
        }
    }
    for file in paths.iter().filter(|path| !path.is_dir() && !is_standard(path)) {
        // A file that is not there is a slip of the person's, not a bad Card.
        std::fs::metadata(file).with_context(|| BadInput(file.display().to_string()))?;
        match cards::read_one(file) {
            // Named itself and by its folder.
            Ok(card) if found.iter().any(|known| known.origin == card.origin) => {}
            Ok(card) => found.push(card),
            Err(error) => errors.push(error),
        }
    }
    if found.is_empty() && errors.is_empty() {
        return Err(BadInput("no Cards found: expected *.toml or *.json files".into()).into());
    }
    errors.extend(cards::collisions(&found, &mesh));
    // A Card that is looked at alone may require what lies beside it, or what is installed.
    let mut known = found.clone();
    let beside = paths.iter().filter(|path| !path.is_dir()).filter_map(|path| path.parent()).map(|folder| Path::new(".").join(folder));
    for folder in beside.chain(cards::folders(None)) {
        // Of no interest here if it cannot be read.
        known.extend(cards::read(&[folder]).map(|reading| reading.cards).unwrap_or_default());
    }
    let asked: BTreeSet<&str> = found.iter().map(|card| card.origin.as_str()).collect();
    errors.extend(cards::unrunnable(&known).into_iter().filter(|error| asked.contains(error.origin.as_str())));
    errors.sort_by(|a, b| (&a.origin, &a.field).cmp(&(&b.origin, &b.field)));
    errors.dedup();
    report_cards(&found, &errors, output)
}

fn report_cards(found: &[FoundCard], errors: &[CardError], output: &Output) -> anyhow::Result<()> {
    let refused = |origin: &str| errors.iter().any(|error| error.origin == origin);
    for card in found.iter().filter(|card| !refused(&card.origin)) {
        let (label, id) = (card.card.label.to_string(), &card.card.id);
        if output.json() {
            output.print_json(&serde_json::json!({ "file": card.origin, "ok": true, "label": label, "id": id }));
        } else {
            output.line(&format!("{} {}: {label}", output.paint("ok", Tone::Good), card.origin));
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
    let all = bad.len() + found.iter().filter(|card| !refused(&card.origin)).count();
    if bad.is_empty() { Ok(()) } else { Err(BadInput(format!("{} of {all} Cards are invalid", bad.len())).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_a_table_with_what_is_wrong_below_it() {
        let module = |label: &str, state, pid| ModuleStatus { label: label.into(), state, pid, uptime_s: 75.0, ..ModuleStatus::default() };
        let status = StatusOut {
            context: Some("prod".into()),
            modules: vec![
                ModuleStatus {
                    p50_us: Some(840),
                    p99_us: Some(12_500),
                    attributes: BTreeMap::from([("model".into(), "all-MiniLM-L6-v2".into()), ("device".into(), "cpu".into())]),
                    ..module("embed-real", ModuleState::Ready, 4711)
                },
                ModuleStatus { mock: true, ..module("embed-mock", ModuleState::Ready, 4712) },
                ModuleStatus { reason: Some("exited with status 78: no model".into()), ..module("score-real", ModuleState::Failed, 0) },
            ],
        };
        let output = Output::kept();
        show_status(&status, Path::new("/run/brahman/brahman.sock"), &output);
        insta::assert_snapshot!("status", output.printed());
        let pids: Vec<_> =
            scripted(&status).expect("JSON")["modules"].as_array().expect("modules").iter().map(|m| m["pid"].clone()).collect();
        assert_eq!(pids, [serde_json::json!(4711), serde_json::json!(4712), serde_json::Value::Null], "no process has no number");
    }

    #[test]
    fn replicas_that_are_behind_and_unavailable_buckets_are_reported() {
        let lines =
            |all: &[(&str, &str)]| storage_lines(&all.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect());
        let behind = [("copies.objects", "3"), ("copies.bytes", "2048"), ("copies.oldest_s", "90"), ("copies.why", "no space")];
        assert_eq!(lines(&behind), ["3 objects (2.00 KiB) have no replica in bucket rescue yet, the oldest for 1m30s: no space"]);
        assert_eq!(lines(&[("buckets.away", "disk")]), ["bucket disk is unavailable; see `brahman buckets health`"]);
        assert_eq!(lines(&[("damaged", "errors.log had damaged records"), ("state", "read-only")]).len(), 2);
        assert!(lines(&[("copies.objects", "0"), ("copies.why", ""), ("buckets.away", ""), ("model", "m")]).is_empty());
    }
}
