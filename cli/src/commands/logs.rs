//! `brahman logs`: modules' output, from init's memory as long as it runs, or from the files in
//! which it is kept.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use brahman_card::clock::now_ms;
use brahman_card::interface::init::error::NoSuchModule;
use brahman_card::interface::init::{Line, LogsIn, LogsOut, method};
use brahman_card::interface::{Empty, WireError as _};
use brahman_card::names::base_of;
use brahman_sidecar::logs::{FOLDER, INIT_LABEL, JOURNAL, LogQuery, labels, read};
use brahman_sidecar::{ClientError, place};
use chrono::{DateTime, Local, NaiveDate, NaiveDateTime, TimeZone as _};
use clap::Args;

use super::{get, stream};
use crate::failure::{BadInput, NotFound};
use crate::output::{Output, Tone, counted};

/// Lines that are printed unless it is said how many, or since when.
const LINES_USUAL: u64 = 50;
/// Lines of init's memory that are asked for where others from the files come before them: all that
/// it has.
const RING_LINES: u64 = 1000;

#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// Label of the module, or of a Card with replicas, or init for the supervisor's own lines
    /// [default: all that are kept on disk]
    label: Option<String>,
    /// Keep printing new lines as they come, of the module LABEL
    #[arg(short, long, requires = "label")]
    follow: bool,
    /// How many of the last lines to print [default: 50; with --since all]
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u64>,
    /// Print what was written since then, also in earlier lives of the mesh: 90s, 10m, 2h, 3d, or
    /// 2026-01-31, "2026-01-31 14:30"
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<u64>,
    /// Print lines of calls that were made with this trace id
    #[arg(long, value_name = "ID")]
    trace: Option<String>,
    /// State directory whose logs to read where no mesh runs
    #[arg(long, env = "BRAHMAN_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
}

/// Unix time in milliseconds of `10m` before now, of a date, or of a date and a time; local unless
/// it has a zone.
fn parse_since(text: &str) -> Result<u64, BadInput> {
    since_from(text, now_ms())
}

fn since_from(text: &str, now_ms: u64) -> Result<u64, BadInput> {
    let bad = || {
        BadInput(format!(
            "`{text}`: expected how long ago (90s, 10m, 2h, 3d), a date (2026-01-31), or a time (2026-01-31 14:30)"
        ))
    };
    let units = [
        ("s", 1_000_u64),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
        ("w", 7 * 86_400_000),
    ];
    for (unit, ms) in units {
        if let Some(count) = text.strip_suffix(unit).and_then(|count| count.parse::<u64>().ok()) {
            return Ok(now_ms.saturating_sub(count.saturating_mul(ms)));
        }
    }
    if let Ok(exact) = DateTime::parse_from_rfc3339(text) {
        return u64::try_from(exact.timestamp_millis()).map_err(|_| bad());
    }
    let plain = text.replace('T', " ");
    let forms = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"];
    let local = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(&plain, form).ok());
    let local =
        local.or_else(|| NaiveDate::parse_from_str(&plain, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0));
    // Where a clock is put back an hour comes twice: the first is meant.
    let exact =
        local.and_then(|local| Local.from_local_datetime(&local).earliest()).ok_or_else(bad)?;
    u64::try_from(exact.timestamp_millis()).map_err(|_| bad())
}

/// Where the logs of a mesh are.
enum LogPlace {
    Folder(PathBuf),
    Journal,
}

/// Prints a module's lines, or all modules'.
pub(crate) async fn logs(socket: &Path, logs: Logs, output: &Output) -> anyhow::Result<()> {
    let asks_files = logs.label.as_ref().is_none_or(|label| label == INIT_LABEL)
        || logs.since.is_some()
        || logs.trace.is_some();
    let Some(label) = logs.label.clone().filter(|_| !asks_files) else {
        return from_files(socket, &logs, output).await;
    };
    match from_memory(socket, &label, &logs, output).await {
        Err(error) if is_unknown(&error) => {
            from_replicas(socket, &label, &logs, error, output).await
        }
        // Where no mesh runs its last lines are on disk.
        Err(error) if is_down(&error) => match from_files(socket, &logs, output).await {
            Err(none) if none.is::<NotFound>() => Err(error),
            outcome => outcome,
        },
        outcome => outcome,
    }
}

fn is_down(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<ClientError>(),
        Some(ClientError::Connect { source, .. })
            if source.kind() != std::io::ErrorKind::PermissionDenied
    )
}

fn is_unknown(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<ClientError>(),
        Some(ClientError::Fault(fault)) if fault.name == NoSuchModule::NAME
    )
}

/// The last lines of all replicas of a Card; or, if the label is of no such Card, the error that
/// there is no such module.
async fn from_replicas(
    socket: &Path,
    label: &str,
    logs: &Logs,
    unknown: anyhow::Error,
    output: &Output,
) -> anyhow::Result<()> {
    let init = place::init_socket(socket);
    let modules = get::<method::List>(&init, &Empty {}).await?.modules;
    let labels = modules.iter().map(|module| module.card.label.to_string());
    let replicas: Vec<String> = labels.filter(|replica| base_of(replica) == label).collect();
    if replicas.is_empty() {
        return Err(unknown);
    }
    if logs.follow {
        let words = format!(
            "{label} has replicas, of which one can be followed: expected one of {}",
            replicas.join(", ")
        );
        return Err(BadInput(words).into());
    }
    let most = logs.lines.unwrap_or(LINES_USUAL);
    let mut lines = Vec::new();
    for replica in replicas {
        let ask = LogsIn { label: replica.clone(), follow: Some(false), lines: Some(most) };
        let of_one = get::<method::Logs>(&init, &ask).await?.lines.into_iter();
        lines.extend(of_one.map(|line| Line { label: Some(replica.clone()), ..line }));
    }
    lines.sort_by_key(|line| line.at_ms);
    let first = lines.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
    lines[first..].iter().for_each(|line| print(line, true, output));
    Ok(())
}

async fn from_memory(
    socket: &Path,
    label: &str,
    logs: &Logs,
    output: &Output,
) -> anyhow::Result<()> {
    let lines = logs.lines.unwrap_or(LINES_USUAL);
    let ask = LogsIn { label: label.to_owned(), follow: Some(logs.follow), lines: Some(lines) };
    let init = place::init_socket(socket);
    let show = |logs: &LogsOut| logs.lines.iter().for_each(|line| print(line, false, output));
    if logs.follow {
        stream::<method::Logs>(&init, &ask, show).await?;
    } else {
        let logs = get::<method::Logs>(&init, &ask).await?;
        show(&logs);
        if logs.dropped > 0 {
            output.note(&format!(
                "{} earlier lines are not in memory any more; --since prints what is kept on disk",
                logs.dropped
            ));
        }
    }
    Ok(())
}

async fn from_files(socket: &Path, logs: &Logs, output: &Output) -> anyhow::Result<()> {
    let folder = match log_place(socket, logs).await? {
        LogPlace::Folder(folder) => folder,
        LogPlace::Journal => {
            let words = "the logs of this mesh are kept by systemd's journal: `journalctl --unit brahman.service` prints them, or \
                         `journalctl --user --unit brahman.service` those of your own user's";
            return Err(NotFound(words.into()).into());
        }
    };
    let known = labels(&folder)?;
    if known.is_empty() {
        let hint = "a mesh keeps them in its state (--state), or under systemd in the journal (`journalctl --unit brahman.service`)";
        return Err(NotFound(format!("no logs are kept in {}: {hint}", folder.display())).into());
    }
    if let Some(label) = logs.label.as_ref().filter(|label| !known.contains(label.as_str())) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        return Err(NotFound(format!(
            "no logs of `{label}` are kept in {}, but of {}",
            folder.display(),
            known.join(", ")
        ))
        .into());
    }
    let most = logs.lines.or_else(|| logs.since.is_none().then_some(LINES_USUAL));
    let query = LogQuery {
        label: logs.label.clone(),
        since_ms: logs.since.unwrap_or(0),
        lines: most.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
        contains: logs.trace.as_ref().map(|id| format!("trace={id:?}")),
    };
    let reading = read(&folder, &query)?;
    reading.lines.iter().for_each(|line| print(line, true, output));
    if reading.torn > 0 {
        output.note(&format!(
            "{} left out that a full disk or a kill had cut off, in {}",
            counted(reading.torn, "line was", "lines were"),
            folder.display()
        ));
    }
    match &logs.label {
        Some(label) if logs.follow => {
            follow(socket, label, reading.lines, query.contains, output).await
        }
        _ => Ok(()),
    }
}

/// Goes on with what init has in memory behind the lines that were printed, and with what comes.
async fn follow(
    socket: &Path,
    label: &str,
    printed: Vec<Line>,
    contains: Option<String>,
    output: &Output,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        label != INIT_LABEL,
        "the supervisor's own lines cannot be followed; `brahman logs {INIT_LABEL}` prints them"
    );
    let last_ms = printed.last().map_or(0, |line| line.at_ms);
    let last: Vec<Line> = printed.into_iter().filter(|line| line.at_ms == last_ms).collect();
    let is_first = Cell::new(true);
    let ask = LogsIn { label: label.to_owned(), follow: Some(true), lines: Some(RING_LINES) };
    let is_new = |line: &Line| {
        line.at_ms > last_ms
            || (line.at_ms == last_ms
                && !last.iter().any(|old| (old.pid, &old.text) == (line.pid, &line.text)))
    };
    let show = |logs: &LogsOut| {
        let begins = is_first.replace(false);
        let lines = logs.lines.iter().filter(|line| !begins || is_new(line));
        let lines = lines
            .filter(|line| contains.as_ref().is_none_or(|part| line.text.contains(part.as_str())));
        lines.for_each(|line| print(line, true, output));
    };
    stream::<method::Logs>(&place::init_socket(socket), &ask, show).await?;
    Ok(())
}

/// Where the running mesh keeps its logs; where none runs, they are in the state that `up` would
/// use.
async fn log_place(socket: &Path, logs: &Logs) -> anyhow::Result<LogPlace> {
    let by_default =
        || LogPlace::Folder(logs.state.clone().unwrap_or_else(place::state_dir).join(FOLDER));
    match get::<method::List>(&place::init_socket(socket), &Empty {}).await {
        Ok(list) => Ok(match list.logs {
            Some(journal) if journal == JOURNAL => LogPlace::Journal,
            Some(folder) => LogPlace::Folder(folder.into()),
            None => by_default(),
        }),
        // No mesh, or one that says nothing: the files are there all the same.
        Err(ClientError::Connect { .. } | ClientError::Deadline(_)) => Ok(by_default()),
        Err(error) => Err(error.into()),
    }
}

/// One line: as it was written or, among lines of other modules and lives, with its time and label.
fn print(line: &Line, with_origin: bool, output: &Output) {
    if output.json() {
        output.print_json(line);
    } else if with_origin {
        let label = line.label.as_deref().map(|label| format!("[{label}] ")).unwrap_or_default();
        output.line(&format!(
            "{} {label}{}",
            output.paint(&local_time(line.at_ms), Tone::Faint),
            line.text
        ));
    } else {
        output.line(&line.text);
    }
}

fn local_time(at_ms: u64) -> String {
    let exact = i64::try_from(at_ms).ok().and_then(DateTime::from_timestamp_millis);
    exact.map_or_else(
        || "?".into(),
        |exact| exact.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_how_long_ago_a_date_or_an_instant() {
        let now = 1_800_000_000_000;
        let since = |text: &str| since_from(text, now).map_err(|error| error.0);
        assert_eq!(since("90s"), Ok(now - 90_000));
        assert_eq!(since("2h"), Ok(now - 7_200_000));
        assert_eq!(since("3d"), Ok(now - 3 * 86_400_000));
        assert_eq!(since("2026-01-31T14:30:00Z"), Ok(1_769_869_800_000));
        assert_eq!(since("2026-01-31T15:30:00+01:00"), Ok(1_769_869_800_000));
        assert_eq!(since("2026-01-31 00:00"), since("2026-01-31"));
        assert_eq!(since("2026-01-31 14:30:00"), since("2026-01-31T14:30"));
        assert_eq!(since("99999999999999999w"), Ok(0));
        for bad in ["", "m", "-3m", "yesterday", "2026-13-01", "14:30"] {
            assert!(since(bad).expect_err(bad).contains("expected how long ago"), "{bad}");
        }
    }
}
