//! `brahman status`: the mesh's state, as a table or for scripts.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use brahman_card::ModuleState;
use brahman_card::interface::broker::{ModuleStatus, StatusOut};
use brahman_card::interface::{Empty, broker, init};
use brahman_sidecar::place::cards;
use brahman_sidecar::{ClientError, place};

use super::super::get;
use crate::output::{Output, Tone, bytes, counted, duration, one_line};

/// How long the supervisor may take to answer `status`: it does so in a millisecond, and within a
/// second on a machine that is busy.
const SUPERVISOR_WAIT: Duration = Duration::from_secs(2);

/// The broker's status; init's table if there is no broker.
pub(super) async fn read_status(socket: &Path) -> Result<StatusOut, ClientError> {
    let asked = tokio::time::timeout(
        Duration::from_secs(2),
        get::<broker::method::Status>(socket, &Empty {}),
    )
    .await;
    let unanswered = match asked {
        Ok(Ok(status)) => return Ok(status),
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    let listed = get::<init::method::List>(&place::init_socket(socket), &Empty {}).await;
    let list = match (listed, unanswered) {
        // Nobody is there: the socket that was given is the one to be named.
        (Err(ClientError::Connect { .. }), Some(error @ ClientError::Connect { .. })) => {
            return Err(error);
        }
        (listed, _) => listed?,
    };
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

pub(crate) async fn status(
    socket: &Path,
    wait: Option<u64>,
    output: &Output,
) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(wait.unwrap_or(0));
    let bar = output.spinner("waiting for the mesh");
    let status = loop {
        let outcome = read_status(socket).await;
        let settled =
            outcome.as_ref().is_ok_and(|s| !s.modules.iter().any(|m| m.state.is_coming()));
        if settled || Instant::now() >= until {
            break outcome?;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    bar.finish_and_clear();
    // The broker shows init's table as it last heard it, whatever has become of init since.
    let list = tokio::time::timeout(
        SUPERVISOR_WAIT,
        get::<init::method::List>(&place::init_socket(socket), &Empty {}),
    )
    .await;
    if output.json() {
        output.print_json(&scripted(&status)?);
    } else {
        show_status(&status, socket, output);
        if let Some(lost) = list.as_ref().ok().and_then(|list| list.as_ref().ok()?.log_lines_lost) {
            let words = format!(
                "{} of the mesh's log could not be written; `brahman logs` has the last ones",
                counted(lost, "line", "lines")
            );
            output.line(&output.paint(&words, Tone::Bad));
        }
        if let Some(lost) = list.as_ref().ok().and_then(|list| list.as_ref().ok()?.log_lines_unkept)
        {
            let words = format!(
                "{} of the modules' logs could not be kept on disk (is it full?)",
                counted(lost, "line", "lines")
            );
            output.line(&output.paint(&words, Tone::Bad));
        }
    }
    let silent = "the supervisor does not answer, so this table may be old: brahman-init is stopped, or it has died";
    let gone = match list {
        Err(_) => Some(ClientError::Deadline(SUPERVISOR_WAIT)),
        // Who may not ask it has to be content with the broker's word.
        Ok(Err(ClientError::Connect { source, .. }))
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            None
        }
        Ok(Err(error)) if error.is_disconnect() => Some(error),
        Ok(_) => None,
    };
    gone.map_or(Ok(()), |error| Err(anyhow::Error::from(error).context(silent)))
}

/// The status for scripts: as the broker gives it, but that a module without a process has no
/// process id either.
pub(super) fn scripted(status: &StatusOut) -> serde_json::Result<serde_json::Value> {
    let mut all = serde_json::to_value(status)?;
    for module in
        all["modules"].as_array_mut().into_iter().flatten().filter(|module| module["pid"] == 0)
    {
        module["pid"] = serde_json::Value::Null;
    }
    Ok(all)
}

/// The context, or why there is none to be told.
pub(super) fn context_words(status: &StatusOut) -> &str {
    let broker_runs = |m: &ModuleStatus| {
        m.state == ModuleState::Ready && m.flows.iter().any(|flow| flow == broker::INTERFACE.name)
    };
    let none = if status.modules.iter().any(broker_runs) {
        "(none)"
    } else {
        "(unknown: the broker does not answer)"
    };
    status.context.as_deref().unwrap_or(none)
}

/// What a module's state means to a person.
pub(super) fn tone_of(state: ModuleState) -> Tone {
    match state {
        ModuleState::Ready => Tone::Good,
        ModuleState::Failed => Tone::Bad,
        ModuleState::Stopped => Tone::Faint,
        _ => Tone::Busy,
    }
}

pub(super) fn show_status(status: &StatusOut, socket: &Path, output: &Output) {
    let context = context_words(status);
    output.line(&format!(
        "context {}   socket {}",
        output.paint(context, Tone::Strong),
        socket.display()
    ));
    let rows = status.modules.iter().map(|m| {
        let time = |us: Option<u64>| us.map_or("-".to_owned(), micros);
        let attribute = |name: &str| m.attributes.get(name).cloned().unwrap_or_else(|| "-".into());
        vec![
            format!("{}{}", m.label, if m.mock { " (mock)" } else { "" }),
            output.paint(m.state.as_str(), tone_of(m.state)),
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
    output.table(
        &[
            "MODULE", "STATE", "PID", "IN STATE", "RESTARTS", "QUEUE", "P50", "P99", "MODEL",
            "DEVICE",
        ],
        rows.collect(),
    );
    for line in origin_lines(&status.modules) {
        output.line(&output.paint(&line, Tone::Faint));
    }
    for m in &status.modules {
        if let Some(reason) = m.reason.as_ref().filter(|_| m.state != ModuleState::Ready) {
            output.line(&format!("{}: {}", m.label, one_line(reason)));
        }
        if let Some(breaker) = &m.breaker {
            output.line(&format!(
                "{}: circuit breaker {breaker}, {} of {} calls failed",
                m.label, m.failures, m.calls
            ));
        }
        for line in storage_lines(&m.attributes) {
            output.line(&output.paint(&format!("{}: {line}", m.label), Tone::Busy));
        }
        if let Some(shortfall) = m.attributes.get("device_shortfall") {
            let line = one_line(&format!("{}: {shortfall}", m.label));
            output.line(&output.paint(&line, Tone::Busy));
        }
        for shortfall in m.shortfalls.iter().flatten() {
            output.line(&output.paint(&format!("{}: {shortfall}", m.label), Tone::Faint));
        }
    }
}

/// Where the modules' Cards came from: a line for each folder.
pub(super) fn origin_lines(modules: &[ModuleStatus]) -> Vec<String> {
    let mut layers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for module in modules {
        let layer = module.origin.as_deref().map(cards::layer_of);
        layers.entry(layer.unwrap_or("brought by the module")).or_default().push(&module.label);
    }
    // One whose supervisor is of another version says nothing of it.
    if modules.iter().all(|module| module.origin.is_none()) {
        return Vec::new();
    }
    layers
        .into_iter()
        .map(|(layer, labels)| one_line(&format!("Cards {layer}: {}", labels.join(" "))))
        .collect()
}

/// What a module says of its buckets, in words: replicas that have yet to be made, and buckets that
/// are unavailable.
pub(super) fn storage_lines(attributes: &BTreeMap<String, String>) -> Vec<String> {
    let figure = |name: &str| {
        attributes
            .get(name)
            .and_then(|figure| figure.parse::<u64>().ok())
            .filter(|figure| *figure > 0)
    };
    let text = |name: &str| attributes.get(name).filter(|text| !text.is_empty());
    let mut lines = Vec::new();
    if let Some(objects) = figure("copies.objects") {
        let size = bytes(figure("copies.bytes").unwrap_or(0));
        let since = figure("copies.oldest_s")
            .map(|s| format!(", the oldest for {}", duration(s as f64)))
            .unwrap_or_default();
        let why = text("copies.why").map(|why| format!(": {why}")).unwrap_or_default();
        let have = if objects == 1 { "has" } else { "have" };
        let objects = counted(objects, "object", "objects");
        lines
            .push(format!("{objects} ({size}) {have} no replica in bucket rescue yet{since}{why}"));
    }
    lines.extend(
        text("buckets.away")
            .map(|away| format!("bucket {away} is unavailable; see `brahman buckets health`")),
    );
    lines.extend(text("damaged").cloned());
    lines.extend(text("state").map(|state| {
        format!("the state directory is {state}: existing data is served, and nothing is changed")
    }));
    lines
}

/// A time in microseconds, in the unit that has a few digits left.
pub(super) fn micros(us: u64) -> String {
    match us {
        0..1000 => format!("{us}µs"),
        1000..1_000_000 => format!("{:.1}ms", us as f64 / 1e3),
        _ => format!("{:.1}s", us as f64 / 1e6),
    }
}
