//! Files into one Parquet object: which reader, what is left out, and why.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{RecordBatch, StringArray};
use arrow_schema::SchemaRef;
use brahman_card::Fault;
use brahman_card::interface::catalog::{Column, Dataset};
use brahman_card::interface::ingest::error::{BadSource, NothingToRead};
use brahman_card::interface::ingest::{CsvFormat, HiddenFiles, Quarantine};
use brahman_sidecar::chain;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::csv::{CsvOptions, TextOptions};
use crate::documents::{self, Batcher};
use crate::encoding::Encoding;
use crate::run::{Progress, ReadOutcome};
use crate::sink::{Place, Sink};
use crate::source::{self, File, Format, HidingRule, SourceError, Walk, WalkRules};
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
        _ => Fault::of(&BadSource { source: String::new() }, false, format!("{}; nothing was published", chain(error))),
    }
}

/// The ids that documents have in a dataset, by the paths of their files; none of a dataset of anything else.
///
/// # Errors
/// If its objects cannot be read.
pub fn known_ids(before: &Dataset) -> io::Result<HashMap<PathBuf, String>> {
    let mut known = HashMap::new();
    let is_text = |name: &str| before.columns.iter().any(|column| column.name == name && column.source_type == DOCUMENT_SOURCE);
    if !is_text("id") || !is_text("path") {
        return Ok(known);
    }
    for object in &before.objects {
        let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(object.local())?).map_err(io::Error::other)?;
        let columns = ProjectionMask::columns(builder.parquet_schema(), ["id", "path"]);
        for batch in builder.with_projection(columns).build().map_err(io::Error::other)? {
            let batch = batch.map_err(io::Error::other)?;
            let texts = |name: &str| batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref::<StringArray>());
            let (Some(ids), Some(paths)) = (texts("id"), texts("path")) else { return Ok(known) };
            let rows = ids.iter().zip(paths.iter()).filter_map(|(id, path)| Some((PathBuf::from(path?), id?.to_owned())));
            known.extend(rows);
        }
    }
    Ok(known)
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
    let Walk { files, unread, skipped, hidden } = source::walk(paths, rules, cancel).map_err(bad_source).map_err(ended)?;
    let mut quarantined = 0;
    let mut quarantine = Vec::new();
    let mut bad = |path: &Path, row: Option<u64>, reason: String| {
        quarantined += 1;
        if quarantine.len() < NAMED_MAX {
            quarantine.push(Quarantine { source: path.display().to_string(), row, reason });
        }
    };
    for error in unread {
        let why = chain(&error);
        tracing::warn!("left out: {why}");
        bad(Path::new(paths.first().map_or("", String::as_str)), None, why);
    }
    for (path, flaw) in skipped {
        bad(&path, None, flaw.to_string());
    }
    progress.send_modify(|p| p.phase = "read");
    let mut sink: Option<Sink> = None;
    let mut schema: Option<SchemaRef> = None;
    let outcome = match format {
        Format::Documents => {
            read_documents(&files, place, progress, cancel, &mut sink, &mut |path, why| bad(path, None, why)).map(|()| Vec::new())
        }
        Format::Csv | Format::Jsonl | Format::Parquet => {
            let paths: Vec<&Path> = files.iter().map(|f| f.path.as_path()).collect();
            let slot = std::cell::RefCell::new(&mut sink);
            let mut open = |s: SchemaRef| {
                // Before the next is created: what it still holds would be written into that one's file.
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
            let mut named = |path: &Path, row, why| bad(path, Some(row), why);
            match format {
                Format::Csv => csv::read(&paths, how, cancel, &mut open, &mut take, &mut named),
                Format::Jsonl => jsonl::read(&paths, how, cancel, &mut open, &mut take, &mut named),
                _ => parquet_files::read(&paths, &mut open, &mut take),
            }
        }
    };
    let notes = outcome.map_err(|e| ended(failed(&e)))?;
    let nothing = || {
        let reasons: Vec<String> = quarantine.iter().take(REASONS_MAX).map(|of| format!("{}: {}", of.source, of.reason)).collect();
        let more = if quarantined > REASONS_MAX as u64 { "; and more" } else { "" };
        let why = if reasons.is_empty() { String::new() } else { format!(" ({}{more})", reasons.join("; ")) };
        let rules: u64 = hidden.rules().iter().map(|rule| rule.count).sum();
        let unseen = if rules > 0 { format!(" ({rules} are hidden by rules: `no_ignore` reads them)") } else { String::new() };
        let counted = if files.len() == 1 { "the file".to_owned() } else { format!("{} files", files.len()) };
        let message = format!("no rows could be read from {}{unseen}; nothing was published{why}", counted);
        Fault::of(&NothingToRead {}, false, message)
    };
    let sink = sink.filter(|s| s.rows() > 0).ok_or_else(nothing)?;
    let schema = schema.unwrap_or_else(documents::schema);
    progress.send_modify(|p| p.phase = "commit");
    if cancel.is_cancelled() {
        return Err(crate::run::cancelled());
    }
    let object = sink.finish().map_err(|e| ended(failed(&e)))?;
    let inputs = paths.iter().take(NAMED_MAX).map(|p| format!("file://{p}")).collect();
    let told = |rule: HidingRule| HiddenFiles { rule: rule.rule, count: rule.count, first: rule.first.display().to_string() };
    let hidden = hidden.rules().into_iter().map(told).collect();
    let columns = columns(&schema, format);
    Ok(ReadOutcome { objects: vec![object], columns, inputs, quarantined, quarantine, hidden, notes, ..ReadOutcome::default() })
}

fn columns(schema: &SchemaRef, format: Format) -> Vec<Column> {
    let source_type = match format {
        Format::Documents => DOCUMENT_SOURCE,
        Format::Csv => "csv",
        Format::Jsonl => "json",
        Format::Parquet => "parquet",
    };
    let column =
        |name: &str, arrow_type: String| Column { name: name.to_owned(), arrow_type, source_type: source_type.into(), nulls_made: 0 };
    schema.fields().iter().map(|f| column(f.name(), f.data_type().to_string())).collect()
}

fn read_documents(
    files: &[File],
    place: &Place,
    progress: &watch::Sender<Progress>,
    cancel: &CancellationToken,
    slot: &mut Option<Sink>,
    bad: &mut dyn FnMut(&Path, String),
) -> io::Result<()> {
    let mut sink = Sink::create(place, 0, documents::schema())?;
    let mut batcher = Batcher::default();
    for file in files {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match documents::read(file) {
            Ok(document) => {
                progress.send_modify(|p| (p.rows, p.bytes) = (p.rows + 1, p.bytes + document.len()));
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
    Ok(())
}

/// How tables of text are read by all cores, if nothing is said of it.
#[must_use]
pub fn by_all_cores() -> TextOptions {
    TextOptions::by(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// The columns that a dataset has now, by the first of its objects; none if that cannot be read.
#[must_use]
pub fn columns_of(dataset: &Dataset) -> Option<SchemaRef> {
    let object = dataset.objects.first()?;
    let file = std::fs::File::open(object.local()).ok()?;
    Some(Arc::clone(ParquetRecordBatchReaderBuilder::try_new(file).ok()?.schema()))
}

/// What a call says of how CSV is written, checked.
///
/// # Errors
/// If a word of it means nothing.
pub fn csv_options(said: &CsvFormat) -> Result<CsvOptions, Fault> {
    let byte = |name: &str, said: &str| match said.as_bytes() {
        [byte] if byte.is_ascii() => Ok(*byte),
        b"\\t" | b"tab" => Ok(b'\t'),
        _ => Err(Fault::invalid_parameter(name, format!("`{said}`, expected one ASCII character, or tab"))),
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
    let all_text = match said.types.as_deref() {
        None | Some("guess") => false,
        Some("text") => true,
        Some(other) => return Err(Fault::invalid_parameter("types", format!("`{other}`, expected guess or text"))),
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
    })
}
