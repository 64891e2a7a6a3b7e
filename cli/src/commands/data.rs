//! Ingesting sources into datasets, and looking after datasets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use brahman_card::interface::catalog::{
    self, Dataset, GetOut, LineageIn, LineageOut, NameIn, PiiColumn, PublishedDataset, RealmIn, ResyncIn, ResyncMissingOut, ResyncOut,
    SampleIn, SampleOut,
};
use brahman_card::interface::ingest::method;
use brahman_card::interface::ingest::{
    CsvFormat, Drift, ExplainOut, FilesIn, IngestOut, IngestSummary, Quarantine, RunsOut, TableIn, UnwatchIn, UnwatchOut, WatchIn,
    WatchOut, WatchesOut,
};
use brahman_card::interface::{Empty, Method};
use clap::Args;

use super::{StdinFile, absolute, get, is_standard, stream, text_or_stdin, unfinished};
use crate::failure::{NotFound, Unsound};
use crate::output::{Output, Tone, bytes, counted, duration, one_line, shortened};

/// Reads files into a dataset; or, with `explain`, says what would come of it.
pub(crate) async fn ingest_files(socket: &Path, ask: FilesIn, paths: &[PathBuf], explain: bool, output: &Output) -> anyhow::Result<()> {
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
    out.dialects.iter_mut().filter(|dialect| Some(dialect.source.as_str()) == stdin.as_deref()).for_each(|d| d.source = STDIN.to_owned());
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
        let quote = dialect.quote.as_ref().map_or_else(|| "no quotes".to_owned(), |quote| format!("quote `{quote}`"));
        let escape = dialect.escape.as_ref().map_or_else(|| "doubled within a field".to_owned(), |escape| format!("escape `{escape}`"));
        let header = if dialect.header { "a header" } else { "no header" };
        let words = format!("{}, delimiter `{}`, {quote}, {escape}, {header}", dialect.encoding, dialect.delimiter);
        output.line(&format!("  {}: {words}", dialect.source));
        output.line(&format!("    NULL is an empty field and {}", dialect.nulls.join(", ")));
        dialect.guesses.iter().for_each(|guess| output.line(&format!("    {guess}")));
    }
    out.notes.iter().for_each(|note| output.line(&format!("  {note}")));
    let names: Vec<&str> = out.columns.iter().map(|column| column.name.as_str()).collect();
    let cells =
        |row: &Vec<Option<String>>| row.iter().map(|cell| cell.clone().unwrap_or_else(|| "NULL".to_owned())).collect::<Vec<String>>();
    output.table(&names, out.sample.iter().map(cells).collect());
    left_out(out.quarantined, &out.quarantine, "would be left out", output);
}

/// What a person calls standard input, which a module read from a file that is gone by now.
const STDIN: &str = "standard input";

fn name_stdin(left_out: &mut [Quarantine], file: Option<&str>) {
    left_out.iter_mut().filter(|one| Some(one.source.as_str()) == file).for_each(|one| one.source = STDIN.to_owned());
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

pub(crate) async fn watch(socket: &Path, ask: WatchIn, paths: &[PathBuf], output: &Output) -> anyhow::Result<()> {
    let paths = paths.iter().map(|path| absolute(path)).collect::<anyhow::Result<_>>()?;
    let out: WatchOut = get::<method::Watch>(socket, &WatchIn { paths, ..ask }).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        let w = out.watching;
        let made = match w.format.as_deref() {
            Some("documents") => "a row a file".to_owned(),
            Some(format) => format!("a table of {format} files; --format documents makes a row a file"),
            None => "what it is made of is decided by its first files".to_owned(),
        };
        output.line(&format!("{} follows {} ({made}); `brahman ingest watches` shows how it stands", w.dataset, w.paths.join(", ")));
    }
    Ok(())
}

pub(crate) async fn unwatch(socket: &Path, dataset: String, output: &Output) -> anyhow::Result<()> {
    let out: UnwatchOut = get::<method::Unwatch>(socket, &UnwatchIn { dataset: dataset.clone() }).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        output.line(&format!("{dataset} {}", if out.stopped { "is no longer watched" } else { "was not watched" }));
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

fn show_watches(out: &WatchesOut, output: &Output) {
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let rows = out.watches.iter().map(|w| {
        let why = w.error.clone().or_else(|| w.reason.clone()).unwrap_or_default();
        let (format, paths) = (w.format.clone().unwrap_or_else(|| "-".to_owned()), w.paths.join(" "));
        vec![w.dataset.clone(), w.state.clone(), format, w.files.to_string(), number(w.generation), number(w.rows), paths, why]
    });
    output.table(&["DATASET", "STATE", "FORMAT", "FILES", "GENERATION", "ROWS", "FOLDERS", "WHY"], rows.collect());
    for w in &out.watches {
        let changed = w.drift.iter().flatten().map(|drift| (changed_column(drift), Tone::Busy));
        for (words, tone) in changed.chain(w.notes.iter().flatten().map(|note| (note.clone(), Tone::Faint))) {
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

/// How CSV is written; what is not said is guessed, and the reply says what was.
#[derive(Args, Debug)]
pub(crate) struct Csv {
    /// CSV: what separates fields, one character or tab [default: guessed]
    #[arg(long, value_name = "CHAR")]
    delimiter: Option<String>,
    /// CSV: what surrounds fields; none if nothing does [default: "]
    #[arg(long, value_name = "CHAR")]
    quote: Option<String>,
    /// CSV: what stands before a quote within a field; none if it is doubled [default: guessed]
    #[arg(long, value_name = "CHAR")]
    escape: Option<String>,
    /// CSV: whether the first record names the columns [default: guessed]
    #[arg(long, value_name = "BOOL")]
    header: Option<bool>,
    /// CSV: lines left out before the header [default: guessed]
    #[arg(long, value_name = "LINES")]
    skip: Option<u64>,
    /// CSV: a word for a missing value; may be repeated [default: NA, N/A, #N/A, NULL and \N, except in columns of text]
    #[arg(long, value_name = "WORD")]
    null: Vec<String>,
    /// CSV: utf-8, utf-16le, utf-16be or windows-1252 [default: guessed]
    #[arg(long)]
    encoding: Option<String>,
    /// CSV: guess, or text for every column, or NAME=TYPE,… for some [default: guess]
    #[arg(long, value_name = "TYPES")]
    types: Vec<String>,
    /// CSV: what stands before a number's fraction, point or comma [default: point]
    #[arg(long, value_parser = ["point", "comma"])]
    decimal: Option<String>,
    /// CSV: how dates are written besides 2024-12-31: day-first or month-first [default: iso]
    #[arg(long, value_parser = ["iso", "day-first", "month-first"])]
    dates: Option<String>,
    /// CSV: read what a record has too few of as NULL [default: leave such records out]
    #[arg(long)]
    null_padding: bool,
}

impl Csv {
    /// As it goes to the mesh; none if nothing is said.
    ///
    /// # Errors
    /// If a type is said of no column.
    pub(crate) fn format(self) -> anyhow::Result<Option<CsvFormat>> {
        let Self { delimiter, quote, escape, header, skip, null, encoding, types, decimal, dates, null_padding } = self;
        let nulls = Some(null).filter(|null| !null.is_empty());
        let (mut all, mut of_columns) = (None, BTreeMap::new());
        for types in types {
            match types.as_str() {
                "guess" | "text" => all = Some(types),
                _ => of_columns.extend(column_types(&types)?),
            }
        }
        let column_types = Some(of_columns).filter(|types| !types.is_empty());
        let null_padding = null_padding.then_some(true);
        let said =
            CsvFormat { delimiter, quote, escape, header, skip, nulls, encoding, types: all, column_types, decimal, dates, null_padding };
        Ok((said != CsvFormat::default()).then_some(said))
    }
}

/// `id=int64,price=decimal(10,2)`: types by the names of columns. A comma within a name or a type's digits separates nothing.
fn column_types(said: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let (mut types, mut part, mut depth) = (BTreeMap::new(), String::new(), 0_usize);
    for c in said.chars().chain([',']) {
        match c {
            ',' if depth == 0 && part.contains('=') => {
                let (name, kind) = part.rsplit_once('=').unwrap_or_default();
                types.insert(name.to_owned(), kind.to_owned());
                part.clear();
                continue;
            }
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        part.push(c);
    }
    let rest = part.trim_end_matches(',');
    anyhow::ensure!(rest.is_empty(), "--types: `{rest}` says no type: expected guess, text, or NAME=TYPE,… such as id=int64");
    Ok(types)
}

/// Where a table is and how it is read.
#[derive(Args, Debug)]
pub(crate) struct Table {
    /// URL of the database, or secret:NAME; prefer a secret, since a password on the command line is visible to other users
    #[arg(long, env = "BRAHMAN_DSN", hide_env_values = true)]
    dsn: String,
    /// A table or view, as SQL names it; may be repeated, then each becomes a dataset DATASET.TABLE
    #[arg(long, required_unless_present_any = ["query", "schema"], conflicts_with_all = ["query", "schema"])]
    table: Vec<String>,
    /// A SELECT, instead of a table; - reads it from standard input
    #[arg(long, conflicts_with = "schema")]
    query: Option<String>,
    /// All tables of a schema instead, each a dataset DATASET.TABLE
    #[arg(long)]
    schema: Option<String>,
    /// full: one snapshot; incremental: rows above the last --cursor; keyset: in parts by --key, resumable, not one snapshot
    #[arg(long, default_value = "full", value_parser = ["full", "incremental", "keyset"])]
    mode: String,
    /// Column whose values only grow, such as updated_at (incremental)
    #[arg(long, value_name = "COLUMN")]
    cursor: Option<String>,
    /// Column that identifies a row; may be repeated (incremental), once (keyset)
    #[arg(long, value_name = "COLUMN")]
    key: Vec<String>,
    /// Read again this many seconds or units below the last cursor, for late commits (incremental)
    #[arg(long)]
    lag: Option<u64>,
    /// Rows per part (keyset) [default: 500000]
    #[arg(long, value_name = "ROWS")]
    chunk: Option<u64>,
    /// Maximum number of workers [default: one per core]
    #[arg(long)]
    parallel: Option<u64>,
    /// Seconds for which the snapshot may be held [default: 3600]
    #[arg(long, value_name = "S")]
    deadline: Option<u64>,
    /// Seconds for which the server may send nothing [default: 300]
    #[arg(long, value_name = "S")]
    stall: Option<u64>,
    /// Do not look for personal data
    #[arg(long)]
    no_pii: bool,
    /// Bucket to write to [default: where the dataset is already stored, at first primary]
    #[arg(long)]
    bucket: Option<String>,
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
            let words = format!("{} rows, {}, {:.0} rows/s", p.rows, bytes(p.bytes), p.rows_per_s);
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

fn ingested(dataset: &str, out: &IngestSummary, output: &Output) {
    if let Some(made) = &out.datasets {
        let rows = made.iter().map(|m| vec![m.dataset.clone(), m.generation.to_string(), m.rows.to_string(), bytes(m.bytes)]);
        output.table(&["DATASET", "GENERATION", "ROWS", "READ"], rows.collect());
        out.notes.iter().for_each(|note| output.line(note));
        return;
    }
    let workers = out.parallel.filter(|n| *n > 1).map(|n| format!(" by {n} workers")).unwrap_or_default();
    output.line(&format!(
        "{dataset} generation {}: {} from {} in {}{workers}",
        out.generation.unwrap_or(0),
        counted(out.rows, "row", "rows"),
        bytes(out.bytes),
        duration(out.seconds)
    ));
    for object in out.objects.iter().flatten() {
        output.line(&format!("  {}, {}  {}", counted(object.rows, "row", "rows"), bytes(object.bytes), object.url));
    }
    out.notes.iter().for_each(|note| output.line(&format!("  {note}")));
    for column in out.columns.iter().flatten().filter(|c| c.nulls_made > 0) {
        let words = format!(
            "{} values of `{}` ({}) cannot be represented as {} and became NULL",
            column.nulls_made, column.name, column.source_type, column.arrow_type
        );
        output.line(&output.paint(&words, Tone::Busy));
    }
    for drift in out.drift.iter().flatten() {
        output.line(&output.paint(&changed_column(drift), Tone::Busy));
    }
    for column in out.pii.iter().flat_map(|report| &report.columns).filter(|c| c.status == "found" || c.status == "possible") {
        output.line(&output.paint(&format!("column `{}` contains {}", column.column, personal(column)), Tone::Busy));
    }
    left_out(out.quarantined.unwrap_or(0), out.quarantine.as_deref().unwrap_or_default(), "left out", output);
    let hidden = out.hidden.unwrap_or(0);
    if hidden > 0 {
        let hidden = counted(hidden, "file or folder", "files and folders");
        output.line(&format!("{hidden} hidden by rules; --no-ignore reads them:"));
        for rule in out.hidden_by.iter().flatten().take(10) {
            output.line(&format!("  {} by {}, first {}", rule.count, rule.rule, rule.first));
        }
    }
}

/// Widest type in a table: the fields of a struct are for `--json`.
const TYPE_COLUMNS: usize = 33;

/// What a column holds, in words.
fn personal(column: &PiiColumn) -> String {
    let findings = column.findings.iter().map(|f| {
        let certain = match (column.status.as_str(), f.matched) {
            ("found", _) => String::new(),
            (_, 0) => " possibly, by its name".to_owned(),
            (_, matched) => format!(" in {matched} of {} values", column.distinct),
        };
        let proof = if f.checksum { ", check digits right" } else { "" };
        format!("{}{certain} ({:.2}{proof})", f.entity, f.confidence)
    });
    let prose = column.free_text.iter().map(|d| format!("{} in {} of 1000 texts", d.entity, d.per_1000));
    findings.chain(prose).collect::<Vec<_>>().join(", ")
}

/// What a person should know of a dataset at a glance: whether a mock made it, and what is wrong with it.
fn standing(dataset: &Dataset, apart: bool, output: &Output) -> String {
    let maker = dataset.maker.as_ref().map(|maker| format!("synthetic, made by {maker}"));
    let hidden = (apart && dataset.maker.is_none()).then(|| "hidden by a mock's dataset of the same name".to_owned());
    let state = dataset.state.as_ref().map(|state| output.paint(state, Tone::Bad));
    [state, maker, hidden].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

pub(crate) async fn datasets(socket: &Path, output: &Output) -> anyhow::Result<()> {
    let out: catalog::ListOut = get::<catalog::method::List>(socket, &RealmIn::default()).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        show_datasets(&out, output);
    }
    Ok(())
}

fn show_datasets(out: &catalog::ListOut, output: &Output) {
    let all = out.datasets.iter().map(|d| (d, false)).chain(out.apart.iter().flatten().map(|d| (d, true)));
    let rows = all.clone().map(|(d, apart)| {
        let (columns, stale) = (d.columns.len().to_string(), d.stale.join(" "));
        vec![d.name.clone(), d.generation.to_string(), d.rows.to_string(), bytes(d.bytes), columns, stale, standing(d, apart, output)]
    });
    output.table(&["DATASET", "GENERATION", "ROWS", "SIZE", "COLUMNS", "STALE INDEXES", ""], rows.collect());
    for (dataset, reason) in all.filter_map(|(d, _)| Some((d, d.reason.as_ref()?))) {
        output.line(&output.paint(&format!("{}: {reason}", dataset.name), Tone::Bad));
    }
    out.notes.iter().flatten().for_each(|note| output.line(&output.paint(note, Tone::Busy)));
    let strangers = out.strangers.as_deref().unwrap_or_default();
    if !strangers.is_empty() {
        output.line(&output.paint("foreign runs in the buckets, which this catalog did not write (never deleted):", Tone::Busy));
        strangers.iter().take(STRANGERS_SHOWN).for_each(|run| output.line(&format!("  {run}")));
        if strangers.len() > STRANGERS_SHOWN {
            output.line(&format!("  and {} more: --json has all", strangers.len() - STRANGERS_SHOWN));
        }
    }
}

/// Runs of others in our buckets that are shown.
const STRANGERS_SHOWN: usize = 10;
/// Generations of history that are shown.
const VERSIONS_SHOWN: usize = 5;

pub(crate) async fn show(socket: &Path, name: &str, rows: u64, output: &Output) -> anyhow::Result<()> {
    let out: GetOut = get::<catalog::method::Get>(socket, &NameIn { name: name.to_owned(), mock: None }).await?;
    let sample: Option<SampleOut> = match rows {
        0 => None,
        // There is nothing to look at, which is said below.
        _ if out.missing.is_some() => None,
        rows => Some(get::<catalog::method::Sample>(socket, &SampleIn { name: name.to_owned(), rows: Some(rows), mock: None }).await?),
    };
    if output.json() {
        let mut all = serde_json::to_value(&out)?;
        all["sample"] = serde_json::to_value(&sample)?;
        output.print_json(&all);
        return Ok(());
    }
    let d = out.dataset;
    for key in out.rescued.iter().flatten() {
        output.line(&output.paint(&format!("{key} was missing or damaged, and was restored from bucket rescue"), Tone::Busy));
    }
    for key in out.borrowed.iter().flatten() {
        let words = format!("{key} is read from its replica in bucket rescue: its own bucket is unavailable (`brahman buckets health`)");
        output.line(&output.paint(&words, Tone::Busy));
    }
    for key in out.missing.iter().flatten() {
        let why = "its bucket is unavailable (`brahman buckets health`), or it is missing and has no replica (`brahman errors`)";
        output.line(&output.paint(&format!("{key} cannot be read: {why}"), Tone::Bad));
    }
    let (name, rows) = (output.paint(&d.name, Tone::Strong), counted(d.rows, "row", "rows"));
    output.line(&format!("{name} generation {}: {rows}, {}", d.generation, bytes(d.bytes)));
    if let Some(maker) = &d.maker {
        output.line(&output.paint(&format!("synthetic rows, made by the mock {maker}"), Tone::Busy));
    }
    let holds = |name: &str| {
        let said = |c: &PiiColumn| if c.findings.is_empty() && c.free_text.is_empty() { c.status.clone() } else { personal(c) };
        let all = || d.pii.iter().flat_map(|report| &report.columns);
        let is_within = |c: &&PiiColumn| c.column.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', '[']));
        let within = all().filter(is_within).filter(|c| c.status == "found" || c.status == "possible");
        let within = within.map(|c| format!("`{}` {}", c.column, said(c)));
        all().find(|c| c.column == name).map(said).into_iter().chain(within).collect::<Vec<_>>().join(", ")
    };
    let columns = d.columns.iter();
    let columns = columns.map(|c| {
        vec![
            c.name.clone(),
            shortened(&c.arrow_type, TYPE_COLUMNS),
            shortened(&c.source_type, TYPE_COLUMNS),
            c.nulls_made.to_string(),
            holds(&c.name),
        ]
    });
    output.table(&["COLUMN", "TYPE", "SOURCE", "NULLS MADE", "PERSONAL DATA"], columns.collect());
    // Several runs may have read the same.
    let inputs: BTreeSet<String> = d.lineage.inputs.iter().map(|input| format!("from {input}")).collect();
    inputs.iter().for_each(|input| output.line(input));
    d.objects.iter().for_each(|o| output.line(&o.url));
    out.current.iter().for_each(|current| output.line(&format!("{current}/*.parquet has these objects under a stable path")));
    out.pins.iter().flatten().for_each(|pin| output.line(&super::datasets::pinned(pin)));
    if !d.stale.is_empty() {
        output.line(&output.paint(&format!("stale indexes: {}", d.stale.join(", ")), Tone::Busy));
    }
    let Some(sample) = sample else { return Ok(()) };
    let versions = out.history.iter().take(VERSIONS_SHOWN);
    let versions = versions.map(|v| vec![v.generation.to_string(), v.rows.to_string(), bytes(v.bytes), v.run_id.clone()]);
    output.table(&["GENERATION", "ROWS", "SIZE", "RUN"], versions.collect());
    for (row, n) in sample.rows.iter().zip(1..) {
        output.line(&output.paint(&format!("row {n}"), Tone::Strong));
        for (column, value) in row.as_object().into_iter().flatten() {
            output.line(&format!("  {column}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
        }
    }
    if !sample.masked.is_empty() {
        output.line(&format!("masked: {}", sample.masked.join(", ")));
    }
    sample.notes.iter().for_each(|note| output.line(&output.paint(note, Tone::Busy)));
    Ok(())
}

pub(crate) async fn resync(
    socket: &Path,
    name: Option<&str>,
    runs: Vec<String>,
    accept_damage: bool,
    output: &Output,
) -> anyhow::Result<()> {
    let Some(name) = name else {
        let out: ResyncMissingOut = get::<catalog::method::ResyncMissing>(socket, &RealmIn::default()).await?;
        if output.json() {
            output.print_json(&out);
        } else {
            if out.resynced.is_empty() && out.failed.is_empty() {
                output.line("every dataset has its manifest and its objects");
            }
            let rows = |d: &PublishedDataset| counted(d.rows, "row", "rows");
            let back = |d: &PublishedDataset| format!("{} rebuilt: generation {}, {}", d.name, d.generation, rows(d));
            out.resynced.iter().for_each(|d| output.line(&back(d)));
            out.failed.iter().for_each(|d| output.line(&output.paint(&format!("{}: {}", d.name, d.reason), Tone::Bad)));
        }
        return match out.failed.len() {
            0 => Ok(()),
            1 => Err(Unsound("1 dataset is not whole".to_owned()).into()),
            failed => Err(Unsound(format!("{failed} datasets are not whole")).into()),
        };
    };
    let runs = Some(runs).filter(|runs| !runs.is_empty());
    let ask = ResyncIn { name: name.to_owned(), mock: None, runs, accept_damage: accept_damage.then_some(true) };
    let out: ResyncOut = get::<catalog::method::Resync>(socket, &ask).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    let what = if out.changed { "published again" } else { "its manifest was right" };
    output.line(&format!("{name} generation {}: {}, {what}", out.generation, counted(out.rows, "row", "rows")));
    out.notes.iter().for_each(|note| output.line(&format!("  {note}")));
    Ok(())
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

fn show_runs(out: &RunsOut, output: &Output) {
    let rows = out.runs.iter().map(|r| {
        let error = r.error.clone().unwrap_or_default();
        vec![r.run_id.clone(), r.dataset.clone(), r.state.clone(), r.rows.to_string(), bytes(r.bytes), duration(r.seconds), error]
    });
    output.table(&["RUN", "DATASET", "STATE", "ROWS", "READ", "TIME", "ERROR"], rows.collect());
}

pub(crate) async fn lineage(socket: &Path, dataset: String, limit: u64, output: &Output) -> anyhow::Result<()> {
    let ask = LineageIn { name: dataset.clone(), limit: Some(limit), mock: None };
    let out: LineageOut = get::<catalog::method::Lineage>(socket, &ask).await?;
    if out.events.is_empty() && limit > 0 {
        return Err(NotFound(format!("dataset `{dataset}` has no runs in the lineage; `brahman datasets` lists the datasets")).into());
    }
    if output.json() {
        out.events.iter().for_each(|event| output.line(&event.to_string()));
        return Ok(());
    }
    let text = |event: &serde_json::Value, pointer: &str| {
        let value = event.pointer(pointer);
        value.map_or_else(String::new, |v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
    };
    let rows = out.events.iter().map(|event| {
        let inputs = event["inputs"].as_array().into_iter().flatten();
        let inputs: Vec<String> = inputs.map(|i| format!("{} {}", text(i, "/namespace"), text(i, "/name"))).collect();
        let why = text(event, "/run/facets/errorMessage/message");
        vec![
            text(event, "/eventTime"),
            text(event, "/eventType"),
            text(event, "/outputs/0/facets/version/datasetVersion"),
            text(event, "/outputs/0/outputFacets/outputStatistics/rowCount"),
            text(event, "/run/runId"),
            if why.is_empty() { inputs.join(", ") } else { why },
        ]
    });
    output.table(&["TIME", "EVENT", "GENERATION", "ROWS", "RUN", "FROM / WHY"], rows.collect());
    Ok(())
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::ingest::{Run, WatchStatus};

    use super::*;

    #[test]
    fn datasets_watches_and_runs_are_tables() {
        let dataset = |name: &str| Dataset { name: name.into(), generation: 3, rows: 128, bytes: 271_360, ..Dataset::default() };
        let datasets = vec![
            Dataset { stale: vec!["notes".into()], ..dataset("notes") },
            Dataset { state: Some("damaged".into()), reason: Some("notes.json: expected value".into()), ..dataset("ノート") },
        ];
        let apart = Some(vec![Dataset { maker: Some("ingest-mock".into()), ..dataset("orders") }]);
        let strangers = Some(vec!["lake/datasets/x/01H".to_owned()]);
        let output = Output::kept();
        show_datasets(&catalog::ListOut { datasets, apart, strangers, ..catalog::ListOut::default() }, &output);
        insta::assert_snapshot!("datasets", output.printed());

        let watch = WatchStatus {
            dataset: "notes".into(),
            paths: vec!["/home/you/notes".into()],
            state: "watching".into(),
            format: Some("csv".into()),
            files: 128,
            drift: Some(vec![Drift { column: "price".into(), was: Some("Int64".into()), now: Some("Float64".into()) }]),
            generation: Some(1),
            rows: Some(128),
            ..WatchStatus::default()
        };
        let output = Output::kept();
        show_watches(&WatchesOut { watches: vec![watch] }, &output);
        insta::assert_snapshot!("watches", output.printed());

        let run = Run {
            run_id: "01HZY0000000000000000000000".into(),
            dataset: "notes".into(),
            state: "failed".into(),
            rows: 7,
            bytes: 4096,
            started_ms: 1,
            seconds: 1.5,
            error: Some("no rows".into()),
        };
        let output = Output::kept();
        show_runs(&RunsOut { runs: vec![run] }, &output);
        insta::assert_snapshot!("runs", output.printed());
    }

    #[test]
    fn types_are_said_by_column_whatever_a_name_holds() {
        let of =
            |said: &str| column_types(said).map(|types| types.into_iter().map(|(name, kind)| format!("{name}:{kind}")).collect::<Vec<_>>());
        assert_eq!(of("id=int64,price=decimal(10,2)").expect("types"), ["id:int64", "price:decimal(10,2)"]);
        assert_eq!(of("Last, first=text,a=b=date").expect("types"), ["Last, first:text", "a=b:date"]);
        assert!(of("id").is_err() && of("id=int64,price").is_err());
    }

    #[test]
    fn what_an_ingest_made_is_said_with_what_it_left_out() {
        let out = IngestSummary {
            rows: 3,
            bytes: 210,
            dataset: "notes".into(),
            generation: Some(1),
            quarantined: Some(1),
            quarantine: Some(vec![Quarantine { source: "/n/a.png".into(), row: None, reason: "is binary".into() }]),
            seconds: 0.5,
            ..IngestSummary::default()
        };
        let output = Output::kept();
        ingested("notes", &out, &output);
        insta::assert_snapshot!("ingested", output.printed());
    }
}
