//! Files into one Parquet object: which reader, what is left out, and why.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{RecordBatch, StringArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, SchemaRef};
use brahman_card::Fault;
use brahman_card::interface::catalog::{Column, Dataset};
use brahman_card::interface::ingest::error::{BadSource, NothingToRead};
use brahman_card::interface::ingest::{CsvFormat, ExplainOut, HiddenFiles, Quarantine};
use brahman_sidecar::chain;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::csv::{CsvOptions, DateOrder, TextOptions};
use crate::documents::{self, Batcher};
use crate::encoding::Encoding;
use crate::lattice::Kind;
use crate::run::{Progress, ReadOutcome};
use crate::sink::{Place, Sink};
use crate::source::{self, File, Format, HiddenEntries, HidingRule, SourceError, Walk, WalkRules};
use crate::zones::in_utc;
use crate::{csv, jsonl, parquet_files};

/// Quarantined rows and files that are named, and inputs; all are counted.
const NAMED_MAX: usize = 100;

/// What columns of documents come from.
const DOCUMENT_SOURCE: &str = "file";

/// What is wrong with a path.
#[must_use]
pub fn bad_source(error: SourceError) -> Fault {
    let words = chain(&error);
    Fault::of(&BadSource { source: error.given }, false, words)
}

/// Reasons that are told where nothing could be read.
const REASONS_MAX: usize = 5;

fn failed(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::Interrupted => crate::run::cancelled(),
        _ => Fault::of(
            &BadSource { source: String::new() },
            false,
            format!("{}; nothing was published", chain(error)),
        ),
    }
}

/// The ids that documents have in a dataset, by the paths of their files; none of a dataset of
/// anything else.
///
/// # Errors
/// If its objects cannot be read.
pub fn known_ids(before: &Dataset) -> io::Result<HashMap<PathBuf, String>> {
    let mut known = HashMap::new();
    let is_text = |name: &str| {
        before
            .columns
            .iter()
            .any(|column| column.name == name && column.source_type == DOCUMENT_SOURCE)
    };
    if !is_text("id") || !is_text("path") {
        return Ok(known);
    }
    for object in &before.objects {
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(object.local())?)
                .map_err(io::Error::other)?;
        let columns = ProjectionMask::columns(builder.parquet_schema(), ["id", "path"]);
        for batch in builder.with_projection(columns).build().map_err(io::Error::other)? {
            let batch = batch.map_err(io::Error::other)?;
            let texts = |name: &str| {
                batch
                    .column_by_name(name)
                    .and_then(|column| column.as_any().downcast_ref::<StringArray>())
            };
            let (Some(ids), Some(paths)) = (texts("id"), texts("path")) else { return Ok(known) };
            let rows = ids
                .iter()
                .zip(paths.iter())
                .filter_map(|(id, path)| Some((PathBuf::from(path?), id?.to_owned())));
            known.extend(rows);
        }
    }
    Ok(known)
}

/// Rows and files that are left out.
#[derive(Debug, Default)]
struct LeftOut {
    count: u64,
    /// The first of them.
    named: Vec<Quarantine>,
}

impl LeftOut {
    fn add(&mut self, path: &Path, row: Option<u64>, reason: String) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(Quarantine { source: source::path_text(path), row, reason });
        }
    }
}

/// What of a walk is read as this format; the rest is told.
fn wanted(
    walk: Walk,
    (paths, of_kind): (&[String], bool),
    format: Format,
    left_out: &mut LeftOut,
    notes: &mut Vec<String>,
) -> (Vec<File>, HiddenEntries) {
    let Walk { mut files, unread, skipped, hidden, twice } = walk;
    for error in unread {
        let why = chain(&error);
        tracing::warn!("left out: {why}");
        let place = place_of(&error).unwrap_or(Path::new(paths.first().map_or("", String::as_str)));
        left_out.add(place, None, why);
    }
    for (path, flaw) in skipped {
        left_out.add(&path, None, flaw.to_string());
    }
    if let Some(first) = twice.first() {
        let (count, first) = (twice.len(), source::path_text(first));
        notes.push(if count == 1 {
            format!("1 file was given twice and read once: {first}")
        } else {
            format!("{count} files were given twice and read once, such as {first}")
        });
    }
    if format != Format::Documents {
        files.retain(|file| {
            let is_named = paths.iter().any(|path| Path::new(path) == file.path);
            let is_kept = is_named || !source::is_of_writer(&file.path);
            if !is_kept {
                left_out.add(
                    &file.path,
                    None,
                    "has a name that begins with _, as what writers of tables keep for themselves"
                        .to_owned(),
                );
            }
            is_kept
        });
    }
    if format != Format::Documents && of_kind {
        files.retain(|file| {
            let its = Format::of_file(&file.path.to_string_lossy());
            if its != format {
                let other = format!(
                    "is read as {}, and this dataset is made of {}: watch it anew to decide again",
                    its.name(),
                    format.name()
                );
                left_out.add(&file.path, None, other);
            }
            its == format
        });
    }
    (files, hidden)
}

/// Which path an error of a walk is about.
fn place_of(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => {
            place_of(err)
        }
        ignore::Error::Partial(errors) => errors.iter().find_map(place_of),
        ignore::Error::Loop { child, .. } => Some(child),
        _ => None,
    }
}

/// That no row could be read, and why.
fn nothing(files: &[File], left_out: &LeftOut, hidden: &HiddenEntries) -> Fault {
    let reasons: Vec<String> = left_out
        .named
        .iter()
        .take(REASONS_MAX)
        .map(|of| format!("{}: {}", of.source, of.reason))
        .collect();
    let more = if left_out.count > REASONS_MAX as u64 { "; and more" } else { "" };
    let why =
        if reasons.is_empty() { String::new() } else { format!(" ({}{more})", reasons.join("; ")) };
    let rules: u64 = hidden.rules().iter().map(|rule| rule.count).sum();
    let verb = if rules == 1 { "is" } else { "are" };
    let unseen = if rules > 0 {
        format!(" ({rules} {verb} hidden by rules: `no_ignore` reads them)")
    } else {
        String::new()
    };
    let counted =
        if files.len() == 1 { "the file".to_owned() } else { format!("{} files", files.len()) };
    let message =
        format!("no rows could be read from {counted}{unseen}; nothing was published{why}");
    Fault::of(&NothingToRead {}, false, message)
}

/// Where the rows of tables go.
type Sinking<'a> = (&'a mut csv::Open<'a>, &'a mut csv::Take<'a>);

/// Reads tables of a format; gives what a person should know.
fn read_tables(
    files: &[File],
    format: Format,
    how: &TextOptions,
    cancel: &CancellationToken,
    (open, take): Sinking<'_>,
    left_out: &mut LeftOut,
) -> io::Result<Vec<String>> {
    let paths: Vec<&Path> = files.iter().map(|f| f.path.as_path()).collect();
    let mut named = |path: &Path, row, why| left_out.add(path, Some(row), why);
    match format {
        Format::Csv => csv::read(&paths, how, cancel, open, take, &mut named),
        Format::Jsonl => jsonl::read(&paths, how, cancel, open, take, &mut named),
        _ => parquet_files::read(files, (how.union, how.kept.as_deref()), cancel, open, take),
    }
}

/// Reads everything, writes nothing, and tells what would come of it. Blocks.
///
/// # Errors
/// If nothing can be read.
pub fn explain(
    paths: &[String],
    rules: &WalkRules,
    format: Format,
    how: &TextOptions,
    cancel: &CancellationToken,
) -> Result<ExplainOut, Fault> {
    let ended = |fault: Fault| if cancel.is_cancelled() { crate::run::cancelled() } else { fault };
    let walk = source::walk(paths, rules, cancel).map_err(bad_source).map_err(ended)?;
    let (mut left_out, mut notes) = (LeftOut::default(), Vec::new());
    let (files, hidden) = wanted(walk, (paths, rules.of_kind), format, &mut left_out, &mut notes);
    let (schema, sample, rows) = (RefCell::new(None), RefCell::new(Vec::new()), Cell::new(0_u64));
    let mut open = |its: SchemaRef| {
        *schema.borrow_mut() = Some(its);
        sample.borrow_mut().clear();
        rows.set(0);
        Ok(())
    };
    let mut take = |batch: RecordBatch, _: u64| {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        rows.set(rows.get() + batch.num_rows() as u64);
        let mut sample = sample.borrow_mut();
        let missing = SAMPLE_ROWS.saturating_sub(sample.len());
        sample.extend(shown(&batch, missing).map_err(io::Error::other)?);
        Ok(())
    };
    let outcome = match format {
        Format::Documents => explain_documents(&files, &mut left_out, &mut open, &mut take),
        _ => read_tables(&files, format, how, cancel, (&mut open, &mut take), &mut left_out),
    };
    notes.extend(outcome.map_err(|error| ended(failed(&error)))?);
    let dialects = match format {
        Format::Csv => {
            let first: Vec<&Path> =
                files.iter().take(FILES_NAMED).map(|file| file.path.as_path()).collect();
            csv::dialects(&first, how, cancel).map_err(|error| ended(failed(&error)))?
        }
        _ => Vec::new(),
    };
    if rows.get() == 0 {
        return Err(nothing(&files, &left_out, &hidden));
    }
    let schema = schema.into_inner().unwrap_or_else(documents::schema);
    Ok(ExplainOut {
        format: format.name().to_owned(),
        files: files.len() as u64,
        dialects,
        columns: columns(&schema, format),
        rows: rows.get(),
        sample: sample.into_inner(),
        quarantined: left_out.count,
        quarantine: left_out.named,
        notes,
    })
}

/// Looks at documents, one after the other; what is to be said of them.
fn explain_documents(
    files: &[File],
    left_out: &mut LeftOut,
    open: &mut csv::Open<'_>,
    take: &mut csv::Take<'_>,
) -> io::Result<Vec<String>> {
    let mut batcher = Batcher::default();
    open(documents::schema())?;
    for file in files {
        match documents::read(file) {
            Ok(document) => {
                if let Some(batch) = batcher.push(document).map_err(io::Error::other)? {
                    take(batch, 0)?;
                }
            }
            Err(error) => left_out.add(&file.path, None, chain(&error)),
        }
    }
    batcher.finish().map_err(io::Error::other)?.map_or(Ok(()), |batch| take(batch, 0))?;
    Ok(batcher.notes())
}

/// Files whose dialect is told.
const FILES_NAMED: usize = 20;
/// Rows that are shown, and characters of a value.
const SAMPLE_ROWS: usize = 10;
const SAMPLE_CHARS: usize = 200;

/// The first rows of a batch as text.
fn shown(batch: &RecordBatch, rows: usize) -> Result<Vec<Vec<Option<String>>>, ArrowError> {
    let options = FormatOptions::default();
    let batch = batch.slice(0, batch.num_rows().min(rows));
    let arrays = batch.columns().iter().map(in_utc).collect::<Result<Vec<_>, _>>()?;
    let columns = arrays
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options))
        .collect::<Result<Vec<_>, _>>()?;
    let cell = |column: &ArrayFormatter<'_>, row: usize| {
        let text = column.value(row).try_to_string()?;
        let short: String = text.chars().take(SAMPLE_CHARS).collect();
        Ok::<_, ArrowError>(if short.len() < text.len() { format!("{short}…") } else { short })
    };
    let cells = |row: usize| {
        let of_row = arrays.iter().zip(&columns);
        of_row
            .map(
                |(array, column)| {
                    if array.is_null(row) { Ok(None) } else { cell(column, row).map(Some) }
                },
            )
            .collect::<Result<Vec<_>, _>>()
    };
    (0..batch.num_rows()).map(cells).collect()
}

/// Reads everything into one Parquet object. Blocks.
///
/// # Errors
/// If nothing can be read, or the disk refuses.
pub fn read(
    paths: &[String],
    rules: &WalkRules,
    format: Format,
    how: &TextOptions,
    place: &Place,
    progress: &watch::Sender<Progress>,
    cancel: &CancellationToken,
) -> Result<ReadOutcome, Fault> {
    let ended = |fault: Fault| if cancel.is_cancelled() { crate::run::cancelled() } else { fault };
    let walk = source::walk(paths, rules, cancel).map_err(bad_source).map_err(ended)?;
    let (mut left_out, mut notes) = (LeftOut::default(), Vec::new());
    let (files, hidden) = wanted(walk, (paths, rules.of_kind), format, &mut left_out, &mut notes);
    progress.send_modify(|p| p.phase = "read");
    let mut sink: Option<Sink> = None;
    let mut schema: Option<SchemaRef> = None;
    let outcome = match format {
        Format::Documents => {
            let mut bad = |path: &Path, why| left_out.add(path, None, why);
            read_documents(&files, place, progress, cancel, &mut sink, &mut bad)
        }
        Format::Csv | Format::Jsonl | Format::Parquet => {
            let slot = RefCell::new(&mut sink);
            let mut open = |s: SchemaRef| {
                // Before the next is created: what it still holds would be written into that one's
                // file.
                drop(slot.borrow_mut().take());
                progress.send_modify(|p| (p.rows, p.bytes) = (0, 0));
                **slot.borrow_mut() = Some(Sink::create(place, 0, Arc::clone(&s))?);
                schema = Some(s);
                Ok(())
            };
            let mut take = |batch: RecordBatch, bytes: u64| {
                if cancel.is_cancelled() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                if let Some(sink) = slot.borrow_mut().as_mut() {
                    sink.write(&batch)?;
                    progress.send_modify(|p| (p.rows, p.bytes) = (sink.rows(), p.bytes + bytes));
                }
                Ok(())
            };
            read_tables(&files, format, how, cancel, (&mut open, &mut take), &mut left_out)
        }
    };
    notes.extend(outcome.map_err(|e| ended(failed(&e)))?);
    let sink = sink.filter(|s| s.rows() > 0).ok_or_else(|| nothing(&files, &left_out, &hidden))?;
    let schema = schema.unwrap_or_else(documents::schema);
    progress.send_modify(|p| p.phase = "commit");
    if cancel.is_cancelled() {
        return Err(crate::run::cancelled());
    }
    let object = sink.finish().map_err(|e| ended(failed(&e)))?;
    let inputs = paths.iter().take(NAMED_MAX).map(|p| format!("file://{p}")).collect();
    let told = |rule: HidingRule| HiddenFiles {
        rule: rule.rule,
        count: rule.count,
        first: rule.first.display().to_string(),
    };
    let hidden = hidden.rules().into_iter().map(told).collect();
    let columns = columns(&schema, format);
    let LeftOut { count: quarantined, named: quarantine } = left_out;
    Ok(ReadOutcome {
        objects: vec![object],
        columns,
        inputs,
        quarantined,
        quarantine,
        hidden,
        notes,
        ..ReadOutcome::default()
    })
}

fn columns(schema: &SchemaRef, format: Format) -> Vec<Column> {
    let source_type = match format {
        Format::Documents => DOCUMENT_SOURCE,
        Format::Csv => "csv",
        Format::Jsonl => "json",
        Format::Parquet => "parquet",
    };
    let column = |name: &str, arrow_type: String| Column {
        name: name.to_owned(),
        arrow_type,
        source_type: source_type.into(),
        nulls_made: 0,
    };
    schema.fields().iter().map(|f| column(f.name(), f.data_type().to_string())).collect()
}

fn read_documents(
    files: &[File],
    place: &Place,
    progress: &watch::Sender<Progress>,
    cancel: &CancellationToken,
    slot: &mut Option<Sink>,
    bad: &mut dyn FnMut(&Path, String),
) -> io::Result<Vec<String>> {
    let mut sink = Sink::create(place, 0, documents::schema())?;
    let mut batcher = Batcher::default();
    for file in files {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match documents::read(file) {
            Ok(document) => {
                progress
                    .send_modify(|p| (p.rows, p.bytes) = (p.rows + 1, p.bytes + document.len()));
                if let Some(batch) = batcher.push(document).map_err(io::Error::other)? {
                    sink.write(&batch)?;
                }
            }
            Err(error) => bad(&file.path, chain(&error)),
        }
    }
    if let Some(batch) = batcher.finish().map_err(io::Error::other)? {
        sink.write(&batch)?;
    }
    *slot = Some(sink);
    Ok(batcher.notes())
}

/// Types that a column can be said to have.
const TYPE_NAMES: &str = "text, int64, uint64, float64, decimal(digits,after the point), boolean, date, time, timestamp, timestamptz or \
                          timestamp_ns";

/// How tables of text are read by all cores, if nothing is said of it.
#[must_use]
pub fn by_all_cores() -> TextOptions {
    TextOptions::by(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// The columns that a dataset has now, by the first of its objects; none if it has no object.
///
/// # Errors
/// If that cannot be read.
pub fn columns_of(dataset: &Dataset) -> io::Result<Option<SchemaRef>> {
    let Some(object) = dataset.objects.first() else { return Ok(None) };
    let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(object.local())?)
        .map_err(io::Error::other)?;
    Ok(Some(Arc::clone(builder.schema())))
}

/// What a call says of how CSV is written, checked.
///
/// # Errors
/// If a word of it means nothing.
pub fn csv_options(said: &CsvFormat) -> Result<CsvOptions, Fault> {
    let byte = |name: &str, said: &str| match said.as_bytes() {
        [byte] if byte.is_ascii() => Ok(*byte),
        b"\\t" | b"tab" => Ok(b'\t'),
        _ => Err(Fault::invalid_parameter(
            name,
            format!("`{said}`, expected one ASCII character, or tab"),
        )),
    };
    let or_none = |name: &str, said: &Option<String>| match said.as_deref() {
        None => Ok(None),
        Some("" | "none") => Ok(Some(None)),
        Some(said) => byte(name, said).map(|byte| Some(Some(byte))),
    };
    let encoding = |said: &String| {
        let unknown = || format!("`{said}`, expected utf-8, utf-16le, utf-16be or windows-1252");
        Encoding::of(said).ok_or_else(|| Fault::invalid_parameter("encoding", unknown()))
    };
    let decimal_comma = match said.decimal.as_deref() {
        None | Some("point" | ".") => false,
        Some("comma" | ",") => true,
        Some(other) => {
            return Err(Fault::invalid_parameter(
                "decimal",
                format!("`{other}`, expected point or comma"),
            ));
        }
    };
    let dates = match said.dates.as_deref() {
        None | Some("iso") => DateOrder::Iso,
        Some("day-first") => DateOrder::DayFirst,
        Some("month-first") => DateOrder::MonthFirst,
        Some(other) => {
            return Err(Fault::invalid_parameter(
                "dates",
                format!("`{other}`, expected iso, day-first or month-first"),
            ));
        }
    };
    let kind = |(name, kind): (&String, &String)| {
        let unknown = || format!("column `{name}`: `{kind}` is no type, expected {TYPE_NAMES}");
        let kind =
            Kind::named(kind).ok_or_else(|| Fault::invalid_parameter("column_types", unknown()))?;
        Ok::<_, Fault>((name.clone(), kind))
    };
    let all_text = match said.types.as_deref() {
        None | Some("guess") => false,
        Some("text") => true,
        Some(other) => {
            return Err(Fault::invalid_parameter(
                "types",
                format!("`{other}`, expected guess or text"),
            ));
        }
    };
    Ok(CsvOptions {
        delimiter: said.delimiter.as_deref().map(|said| byte("delimiter", said)).transpose()?,
        quote: or_none("quote", &said.quote)?,
        escape: or_none("escape", &said.escape)?,
        header: said.header,
        skip: said.skip,
        nulls: said.nulls.clone(),
        encoding: said.encoding.as_ref().map(encoding).transpose()?,
        all_text,
        padded: said.null_padding == Some(true),
        decimal_comma,
        dates,
        kinds: said.column_types.iter().flatten().map(kind).collect::<Result<_, _>>()?,
    })
}
