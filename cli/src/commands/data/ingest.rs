//! `brahman ingest …`: files and tables read into datasets, folders that are followed, and runs.

use std::path::{Path, PathBuf};

use brahman_card::interface::ingest::method;
use brahman_card::interface::ingest::{
    Drift, ExplainOut, FilesIn, IngestOut, IngestSummary, Quarantine, RunsOut, TableIn, UnwatchIn,
    UnwatchOut, WatchIn, WatchOut, WatchesOut,
};
use brahman_card::interface::{Empty, Method};

use super::super::{StdinFile, absolute, get, is_standard, stream, text_or_stdin, unfinished};
use super::arguments::Table;
use super::personal;
use crate::output::{Output, Tone, bytes, counted, duration, one_line};

/// Reads files into a dataset; or, with `explain`, says what would come of it.
pub(crate) async fn ingest_files(
    socket: &Path,
    ask: FilesIn,
    paths: &[PathBuf],
    explain: bool,
    output: &Output,
) -> anyhow::Result<()> {
    // Held until the answer has come.
    let stdin = paths.iter().any(|path| is_standard(path)).then(StdinFile::read).transpose()?;
    let given = |path: &PathBuf| match &stdin {
        Some(stdin) if is_standard(path) => absolute(&stdin.path()),
        _ => absolute(path),
    };
    let paths = paths.iter().map(given).collect::<anyhow::Result<_>>()?;
    let dataset = ask.dataset.clone();
    let ask = FilesIn { paths, ..ask };
    let stdin = stdin.as_ref().map(|stdin| stdin.path().display().to_string());
    if !explain {
        return ingest::<method::Files>(socket, &ask, &dataset, stdin.as_deref(), output).await;
    }
    let mut out: ExplainOut = get::<method::Explain>(socket, &ask).await?;
    name_stdin(&mut out.quarantine, stdin.as_deref());
    out.dialects
        .iter_mut()
        .filter(|dialect| Some(dialect.source.as_str()) == stdin.as_deref())
        .for_each(|d| d.source = STDIN.to_owned());
    if output.json() {
        output.print_json(&out);
    } else {
        explained(&out, output);
    }
    Ok(())
}

fn explained(out: &ExplainOut, output: &Output) {
    let (rows, files) = (counted(out.rows, "row", "rows"), counted(out.files, "file", "files"));
    output.line(&format!("{rows} from {files} as {}; nothing was written", out.format));
    for dialect in &out.dialects {
        let quote = dialect
            .quote
            .as_ref()
            .map_or_else(|| "no quotes".to_owned(), |quote| format!("quote `{quote}`"));
        let escape = dialect.escape.as_ref().map_or_else(
            || "doubled within a field".to_owned(),
            |escape| format!("escape `{escape}`"),
        );
        let header = if dialect.header { "a header" } else { "no header" };
        let words = format!(
            "{}, delimiter `{}`, {quote}, {escape}, {header}",
            dialect.encoding, dialect.delimiter
        );
        output.line(&format!("  {}: {words}", dialect.source));
        output.line(&format!("    NULL is an empty field and {}", dialect.nulls.join(", ")));
        dialect.guesses.iter().for_each(|guess| output.line(&format!("    {guess}")));
    }
    out.notes.iter().for_each(|note| output.line(&format!("  {note}")));
    let names: Vec<&str> = out.columns.iter().map(|column| column.name.as_str()).collect();
    let cells = |row: &Vec<Option<String>>| {
        row.iter()
            .map(|cell| cell.clone().unwrap_or_else(|| "NULL".to_owned()))
            .collect::<Vec<String>>()
    };
    output.table(&names, out.sample.iter().map(cells).collect());
    left_out(out.quarantined, &out.quarantine, "would be left out", output);
}

/// What a person calls standard input, which a module read from a file that is gone by now.
const STDIN: &str = "standard input";

fn name_stdin(left_out: &mut [Quarantine], file: Option<&str>) {
    left_out
        .iter_mut()
        .filter(|one| Some(one.source.as_str()) == file)
        .for_each(|one| one.source = STDIN.to_owned());
}

/// What is left out, and why.
fn left_out(count: u64, named: &[Quarantine], words: &str, output: &Output) {
    if count > 0 {
        output.line(&format!("{} {words}:", counted(count, "row or file", "rows or files")));
        for q in named.iter().take(10) {
            let row = q.row.map(|r| format!(" row {r}")).unwrap_or_default();
            output.line(&format!("  {}{row}: {}", q.source, q.reason));
        }
    }
}

pub(crate) async fn watch(
    socket: &Path,
    ask: WatchIn,
    paths: &[PathBuf],
    output: &Output,
) -> anyhow::Result<()> {
    let paths = paths.iter().map(|path| absolute(path)).collect::<anyhow::Result<_>>()?;
    let out: WatchOut = get::<method::Watch>(socket, &WatchIn { paths, ..ask }).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        let w = out.watching;
        let made = match w.format.as_deref() {
            Some("documents") => "one row per file".to_owned(),
            Some(format) => {
                format!("a table of {format} files; --format documents makes one row per file")
            }
            None => "what it is made of is decided by its first files".to_owned(),
        };
        output.line(&format!(
            "{} follows {} ({made}); `brahman ingest watches` shows how it stands",
            w.dataset,
            w.paths.join(", ")
        ));
    }
    Ok(())
}

pub(crate) async fn unwatch(socket: &Path, dataset: String, output: &Output) -> anyhow::Result<()> {
    let out: UnwatchOut =
        get::<method::Unwatch>(socket, &UnwatchIn { dataset: dataset.clone() }).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        output.line(&format!(
            "{dataset} {}",
            if out.stopped { "is no longer watched" } else { "was not watched" }
        ));
    }
    Ok(())
}

pub(crate) async fn watches(socket: &Path, output: &Output) -> anyhow::Result<()> {
    let out: WatchesOut = get::<method::Watches>(socket, &Empty {}).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        show_watches(&out, output);
    }
    Ok(())
}

pub(super) fn show_watches(out: &WatchesOut, output: &Output) {
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let rows = out.watches.iter().map(|w| {
        let why = w.error.clone().or_else(|| w.reason.clone()).unwrap_or_default();
        let (format, paths) =
            (w.format.clone().unwrap_or_else(|| "-".to_owned()), w.paths.join(" "));
        vec![
            w.dataset.clone(),
            w.state.clone(),
            format,
            w.files.to_string(),
            number(w.generation),
            number(w.rows),
            paths,
            why,
        ]
    });
    output.table(
        &["DATASET", "STATE", "FORMAT", "FILES", "GENERATION", "ROWS", "FOLDERS", "WHY"],
        rows.collect(),
    );
    for w in &out.watches {
        let changed = w.drift.iter().flatten().map(|drift| (changed_column(drift), Tone::Busy));
        for (words, tone) in
            changed.chain(w.notes.iter().flatten().map(|note| (note.clone(), Tone::Faint)))
        {
            output.line(&output.paint(&format!("{}: {words}", w.dataset), tone));
        }
    }
}

/// How a column differs from what it was.
fn changed_column(drift: &Drift) -> String {
    match (&drift.was, &drift.now) {
        (Some(was), Some(now)) => format!("column `{}` was {was} and is {now}", drift.column),
        (None, Some(now)) => format!("column `{}` ({now}) is new", drift.column),
        (_, None) => format!("column `{}` was removed", drift.column),
    }
}

pub(crate) async fn ingest_table<M: Method<In = TableIn, Out = IngestOut>>(
    socket: &Path,
    dataset: String,
    table: Table,
    output: &Output,
) -> anyhow::Result<()> {
    let mut t = table;
    let several = t.table.len() > 1;
    let tables = several.then(|| t.table.clone());
    let table = t.table.pop().filter(|_| !several);
    let ask = TableIn {
        dataset: dataset.clone(),
        dsn: t.dsn,
        table,
        query: t.query.map(text_or_stdin).transpose()?,
        tables,
        schema: t.schema,
        mode: Some(t.mode),
        cursor: t.cursor,
        key: Some(t.key).filter(|key| !key.is_empty()),
        lag: t.lag,
        chunk_rows: t.chunk,
        parallel: t.parallel,
        deadline_s: t.deadline,
        stall_s: t.stall,
        pii: t.no_pii.then_some(false),
        bucket: t.bucket,
    };
    ingest::<M>(socket, &ask, &dataset, None, output).await
}

/// Ingests; `stdin` is the file that stands for standard input.
async fn ingest<M: Method<Out = IngestOut>>(
    socket: &Path,
    ask: &M::In,
    dataset: &str,
    stdin: Option<&str>,
    output: &Output,
) -> anyhow::Result<()> {
    let bar = output.spinner("reading");
    let mut lines = output.progress_lines();
    let mut last: IngestOut = stream::<M>(socket, ask, |reply: &IngestOut| {
        if let IngestOut::Progress(p) = reply {
            let rows = counted(p.rows, "row", "rows");
            let words = format!("{rows}, {}, {:.0} rows/s", bytes(p.bytes), p.rows_per_s);
            bar.set_message(one_line(&format!("{}: {words}", p.phase)));
            lines.take(reply, &p.phase, (p.rows, 0), || words);
        }
    })
    .await?;
    bar.finish_and_clear();
    if let IngestOut::Done(out) = &mut last {
        name_stdin(out.quarantine.as_deref_mut().unwrap_or_default(), stdin);
    }
    let IngestOut::Done(out) = &last else { return Err(unfinished(M::NAME)) };
    if output.json() {
        output.print_json(&last);
    } else {
        ingested(dataset, out, output);
    }
    Ok(())
}

pub(super) fn ingested(dataset: &str, out: &IngestSummary, output: &Output) {
    if let Some(made) = &out.datasets {
        let rows = made.iter().map(|m| {
            vec![m.dataset.clone(), m.generation.to_string(), m.rows.to_string(), bytes(m.bytes)]
        });
        output.table(&["DATASET", "GENERATION", "ROWS", "READ"], rows.collect());
        out.notes.iter().for_each(|note| output.line(note));
        return;
    }
    let workers =
        out.parallel.filter(|n| *n > 1).map(|n| format!(" by {n} workers")).unwrap_or_default();
    output.line(&format!(
        "{dataset} generation {}: {} from {} in {}{workers}",
        out.generation.unwrap_or(0),
        counted(out.rows, "row", "rows"),
        bytes(out.bytes),
        duration(out.seconds)
    ));
    for object in out.objects.iter().flatten() {
        output.line(&format!(
            "  {}, {}  {}",
            counted(object.rows, "row", "rows"),
            bytes(object.bytes),
            object.url
        ));
    }
    out.notes.iter().for_each(|note| output.line(&format!("  {note}")));
    for column in out.columns.iter().flatten().filter(|c| c.nulls_made > 0) {
        let words = format!(
            "{} of `{}` ({}) cannot be represented as {} and became NULL",
            counted(column.nulls_made, "value", "values"),
            column.name,
            column.source_type,
            column.arrow_type
        );
        output.line(&output.paint(&words, Tone::Busy));
    }
    for drift in out.drift.iter().flatten() {
        output.line(&output.paint(&changed_column(drift), Tone::Busy));
    }
    for column in out
        .pii
        .iter()
        .flat_map(|report| &report.columns)
        .filter(|c| c.status == "found" || c.status == "possible")
    {
        output.line(&output.paint(
            &format!("column `{}` contains {}", column.column, personal(column)),
            Tone::Busy,
        ));
    }
    left_out(
        out.quarantined.unwrap_or(0),
        out.quarantine.as_deref().unwrap_or_default(),
        "left out",
        output,
    );
    let hidden = out.hidden.unwrap_or(0);
    if hidden > 0 {
        let hidden = counted(hidden, "file or folder", "files and folders");
        output.line(&format!("{hidden} hidden by rules; --no-ignore reads them:"));
        for rule in out.hidden_by.iter().flatten().take(10) {
            output.line(&format!("  {} by {}, first {}", rule.count, rule.rule, rule.first));
        }
    }
}

pub(crate) async fn runs(socket: &Path, output: &Output) -> anyhow::Result<()> {
    let out: RunsOut = get::<method::Runs>(socket, &Empty {}).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        show_runs(&out, output);
    }
    Ok(())
}

pub(super) fn show_runs(out: &RunsOut, output: &Output) {
    let rows = out.runs.iter().map(|r| {
        let error = r.error.clone().unwrap_or_default();
        vec![
            r.run_id.clone(),
            r.dataset.clone(),
            r.state.clone(),
            r.rows.to_string(),
            bytes(r.bytes),
            duration(r.seconds),
            error,
        ]
    });
    output.table(&["RUN", "DATASET", "STATE", "ROWS", "READ", "TIME", "ERROR"], rows.collect());
}
