//! Running a mesh and looking after it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use brahman_card::interface::Empty;
use brahman_card::interface::broker::{ModuleStatus, StatusOut};
use brahman_card::interface::init::{LabelIn, ListOut, LogsIn, LogsOut, ReloadOut};
use brahman_card::{Card, ModuleState};
use brahman_sidecar::{ClientError, place};

use super::{get, sibling, stream};
use crate::Up;
use crate::failure::BadInput;
use crate::output::{Output, Tone, duration};

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
    let _: Empty = get(&init, "org.brahman.Init.Shutdown", &Empty {}).await?;
    let started = Instant::now();
    let bar = output.spinner("ending");
    // init's lock is released when its process is gone, whatever becomes of the socket file.
    while std::os::unix::net::UnixStream::connect(&init).is_ok() {
        if started.elapsed() > Duration::from_secs(20) {
            bail!("the mesh has not ended within 20 s; a second `brahman down` forces it");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bar.finish_and_clear();
    if output.json() {
        output.print_json(&serde_json::json!({ "ended": true }));
    }
    Ok(())
}

/// The broker's status; init's table if there is no broker.
async fn read_status(socket: &Path) -> Result<StatusOut, ClientError> {
    let asked = tokio::time::timeout(Duration::from_secs(2), get(socket, "org.brahman.Broker.Status", &Empty {})).await;
    if let Ok(Ok(status)) = asked {
        return Ok(status);
    }
    let list: ListOut = get(&place::init_socket(socket), "org.brahman.Init.List", &Empty {}).await?;
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
    if output.json() {
        output.print_json(&status);
        return Ok(());
    }
    let context = status.context.as_deref().unwrap_or("(none)");
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
    output.table(&["MODULE", "STATE", "PID", "SINCE", "RESTARTS", "QUEUE", "P50", "P99", "MODEL", "DEVICE"], rows.collect());
    for m in &status.modules {
        if let Some(reason) = m.reason.as_ref().filter(|_| m.state != ModuleState::Ready) {
            output.line(&format!("{}: {reason}", m.label));
        }
        if let Some(breaker) = &m.breaker {
            output.line(&format!("{}: breaker {breaker}, {} of {} calls failed", m.label, m.failures, m.calls));
        }
        for shortfall in m.shortfalls.iter().flatten() {
            output.line(&output.paint(&format!("{}: {shortfall}", m.label), Tone::Faint));
        }
    }
    Ok(())
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
        let _: LogsOut = stream(&init, "org.brahman.Init.Logs", &ask, show).await?;
    } else {
        let logs: LogsOut = get(&init, "org.brahman.Init.Logs", &ask).await?;
        show(&logs);
        if logs.dropped > 0 {
            output.note(&format!("{} earlier lines are no longer kept", logs.dropped));
        }
    }
    Ok(())
}

pub(crate) async fn command(socket: &Path, method: &str, label: &str, output: &Output) -> anyhow::Result<()> {
    let _: Empty = get(&place::init_socket(socket), &format!("org.brahman.Init.{method}"), &LabelIn { label: label.to_owned() }).await?;
    if output.json() {
        output.print_json(&serde_json::json!({ "label": label, "command": method.to_lowercase() }));
    }
    Ok(())
}

pub(crate) async fn reload(socket: &Path, output: &Output) -> anyhow::Result<()> {
    let out: ReloadOut = get(&place::init_socket(socket), "org.brahman.Init.Reload", &Empty {}).await?;
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

pub(crate) fn check(paths: &[PathBuf], output: &Output) -> anyhow::Result<()> {
    let folders = if paths.is_empty() { vec![default_cards()] } else { paths.to_vec() };
    let mut files = Vec::new();
    for path in folders {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.extend(entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "toml" || e == "json")));
        } else {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(BadInput("no Cards there: expected *.toml or *.json".into()).into());
    }
    let mut results = Vec::new();
    for file in &files {
        let origin = file.display().to_string();
        let text = std::fs::read(file).map_err(|e| BadInput(format!("{origin}: {e}")))?;
        results.push((origin.clone(), Card::parse(&origin, &text)));
    }
    let bad = results.iter().filter(|(_, r)| r.is_err()).count();
    for (origin, result) in &results {
        match result {
            Ok(card) if output.json() => {
                output.print_json(&serde_json::json!({ "file": origin, "ok": true, "label": card.label, "id": card.id }));
            }
            Ok(card) => output.line(&format!("{} {origin}: {}", output.paint("ok", Tone::Good), card.label)),
            Err(e) if output.json() => {
                output.print_json(&serde_json::json!({ "file": origin, "ok": false, "field": e.field, "expected": e.expected }));
            }
            Err(e) => output.line(&format!("{} {e}", output.paint("bad", Tone::Bad))),
        }
    }
    if bad > 0 { Err(BadInput(format!("{bad} of {} Cards are refused", results.len())).into()) } else { Ok(()) }
}

/// The folder `up` would use, as far as it can be told without init.
fn default_cards() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|h| h.join(".config"))).map(|c| c.join("brahman/cards"));
    set("BRAHMAN_CARDS").or_else(|| config.filter(|c| c.is_dir())).unwrap_or_else(|| PathBuf::from("/etc/brahman/cards"))
}
