//! CSV: types that hold for every row, at the speed of several cores.
//!
//! A reader cuts the input into pieces of whole records, workers parse them, and this thread writes them in order. Types
//! are inferred from the first piece and checked on every value; one that does not fit widens its column and the input is
//! read once more, so the types are those that all rows allow, in one pass as a rule and in two at most.
//!
//! Invariants: memory is bounded by the pieces in flight; a bad record costs itself and is named, one whose quote never
//! closes costs its first line; however a pass ends (done, an error of any thread, a panic, `stop`), all its threads have ended.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use memchr::{memchr, memrchr};
use tokio_util::sync::CancellationToken;

use crate::source::open;

/// Rows a batch.
const BATCH_ROWS: usize = 8192;
/// A longer record is an unclosed quote, or no record that anything can use.
pub const RECORD_BYTES_MAX: usize = 16 << 20;
/// Bytes a piece: large enough that handing it over costs nothing, small enough to keep a few.
const PIECE_BYTES: usize = 4 << 20;
/// Pieces between reader and writer, for each worker.
const IN_FLIGHT: usize = 3;
/// Bad records whose reason is kept; the rest are counted.
const REASONS_MAX: usize = 100;

/// Where a bad row is told: its file, its number from 1, the reason.
pub type Quarantine<'a> = dyn FnMut(&Path, u64, String) + 'a;
/// Where batches go with their bytes at the source; an error ends the reading.
pub type Take<'a> = dyn FnMut(RecordBatch, u64) -> io::Result<()> + 'a;
/// Where the schema is told, before the first batch. Told again, everything taken so far is void.
pub type Open<'a> = dyn FnMut(SchemaRef) -> io::Result<()> + 'a;

/// Type of a column, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Empty,
    Boolean,
    Integer,
    Float,
    Text,
}

impl Kind {
    fn of(text: &str) -> Self {
        match text {
            "" => Self::Empty,
            "true" | "false" | "True" | "False" | "TRUE" | "FALSE" => Self::Boolean,
            // A leading zero or plus is part of a code or a telephone number, not of a number.
            _ if plain_number(text) && text.parse::<i64>().is_ok() => Self::Integer,
            _ if plain_number(text) && text.parse::<f64>().is_ok_and(f64::is_finite) && exact(text) => Self::Float,
            _ => Self::Text,
        }
    }

    /// The narrowest type that holds both.
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Empty, k) | (k, Self::Empty) => k,
            (a, b) if a == b => a,
            (Self::Integer, Self::Float) | (Self::Float, Self::Integer) => Self::Float,
            _ => Self::Text,
        }
    }

    fn arrow(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Empty | Self::Text => DataType::Utf8,
        }
    }
}

fn plain_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let zero_led = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    digits.starts_with(|c: char| c.is_ascii_digit()) && !zero_led
}

/// Whether a float holds the text's digits: more than 17 significant ones are an identifier, not a measurement.
fn exact(text: &str) -> bool {
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    mantissa.bytes().filter(u8::is_ascii_digit).count() <= 17
}

/// A delimiter by the first line: the one of `, ; tab |` that stands there most often.
fn delimiter(beginning: &[u8]) -> u8 {
    let line = &beginning[..memchr(b'\n', beginning).unwrap_or(beginning.len())];
    let count = |d: u8| line.iter().filter(|b| **b == d).count();
    *b",;\t|".iter().rev().max_by_key(|d| count(**d)).unwrap_or(&b',')
}

/// The end of the last whole record, and whether a quote stays open behind it. The bytes begin with a record.
fn last_record(bytes: &[u8], delimiter: u8) -> (Option<usize>, bool) {
    let (mut at, mut end) = (0, None);
    loop {
        let quote = memchr(b'"', &bytes[at..]).map(|q| at + q);
        let plain = &bytes[at..quote.unwrap_or(bytes.len())];
        end = memrchr(b'\n', plain).map(|n| at + n + 1).or(end);
        let Some(quote) = quote else { return (end, false) };
        // Elsewhere than at a field's beginning a quote is a character like any other.
        if quote > 0 && ![delimiter, b'\n', b'\r'].contains(&bytes[quote - 1]) {
            at = quote + 1;
            continue;
        }
        let mut inside = quote + 1;
        at = loop {
            match memchr(b'"', &bytes[inside..]).map(|q| inside + q) {
                None => return (end, true),
                Some(close) if bytes.get(close + 1) == Some(&b'"') => inside = close + 2,
                Some(close) => break close + 1,
            }
        };
    }
}

/// Part of a file.
enum Piece {
    /// Whole records.
    Records(Vec<u8>),
    /// A line that cannot be read, and why.
    Bad(&'static str),
}

/// Cuts one file into pieces.
struct Pieces {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    delimiter: u8,
    ended: bool,
}

impl Pieces {
    /// Opens a file, skips a byte-order mark, tells the delimiter.
    fn open(path: &Path, stop: &CancellationToken) -> io::Result<Self> {
        let mut pieces = Self { reader: open(path, stop)?, buffer: Vec::new(), delimiter: b',', ended: false };
        pieces.fill(PIECE_BYTES)?;
        if pieces.buffer.starts_with(b"\xef\xbb\xbf") {
            pieces.buffer.drain(..3);
        }
        pieces.delimiter = delimiter(&pieces.buffer);
        Ok(pieces)
    }

    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        let missing = wanted.saturating_sub(self.buffer.len()) as u64;
        let read = self.reader.by_ref().take(missing).read_to_end(&mut self.buffer)?;
        self.ended = (read as u64) < missing;
        Ok(())
    }

    /// Drops everything up to the next line.
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            match memchr(b'\n', &self.buffer) {
                Some(end) => {
                    self.buffer.drain(..=end);
                    return Ok(());
                }
                None => self.buffer.clear(),
            }
            if self.ended {
                return Ok(());
            }
            self.fill(PIECE_BYTES)?;
        }
    }

    fn next(&mut self) -> io::Result<Option<Piece>> {
        let mut wanted = PIECE_BYTES;
        loop {
            if !self.ended {
                self.fill(wanted)?;
            }
            if self.buffer.is_empty() {
                return Ok(None);
            }
            let (end, open) = last_record(&self.buffer, self.delimiter);
            match end {
                // The last record of a file need not end in a newline.
                _ if self.ended && !open => return Ok(Some(Piece::Records(std::mem::take(&mut self.buffer)))),
                Some(end) => {
                    let rest = self.buffer.split_off(end);
                    return Ok(Some(Piece::Records(std::mem::replace(&mut self.buffer, rest))));
                }
                None if !self.ended && self.buffer.len() < RECORD_BYTES_MAX => wanted = RECORD_BYTES_MAX,
                None => {
                    self.skip_line()?;
                    let why = if open { "opens a quote that is not closed within 16 MiB" } else { "is longer than 16 MiB" };
                    return Ok(Some(Piece::Bad(why)));
                }
            }
        }
    }
}

fn records(bytes: &[u8], delimiter: u8) -> ::csv::Reader<&[u8]> {
    ::csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).has_headers(false).from_reader(bytes)
}

/// What came of a piece.
#[derive(Default)]
struct PieceRows {
    batches: Vec<RecordBatch>,
    /// Records, bad ones too.
    records: u64,
    bytes: u64,
    bad: Vec<(u64, String)>,
    /// Bad ones whose reason was not kept.
    more_bad: u64,
    /// Of its values, if a column's type does not hold them.
    kinds: Option<Vec<Kind>>,
}

impl PieceRows {
    fn bad(&mut self, why: String) {
        if self.bad.len() < REASONS_MAX {
            self.bad.push((self.records, why));
        } else {
            self.more_bad += 1;
        }
    }
}

/// Why a record is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum RecordError {
    #[error("has {fields} fields, the header has {columns}")]
    Fields { fields: usize, columns: usize },
    #[error("has {bytes} bytes, a record at most {RECORD_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("is not UTF-8")]
    NotUtf8,
}

fn usable(record: &::csv::ByteRecord, columns: usize) -> Result<&str, RecordError> {
    if record.len() != columns {
        return Err(RecordError::Fields { fields: record.len(), columns });
    }
    if record.as_slice().len() > RECORD_BYTES_MAX {
        return Err(RecordError::TooLong { bytes: record.as_slice().len() });
    }
    std::str::from_utf8(record.as_slice()).map_err(|_| RecordError::NotUtf8)
}

/// The fields of a record whose bytes are known to be text.
fn fields<'a>(record: &'a ::csv::ByteRecord, text: &'a str) -> impl Iterator<Item = &'a str> {
    (0..record.len()).map(move |i| record.range(i).and_then(|range| text.get(range)).unwrap_or_default())
}

/// Widens types to what the records of a piece need.
fn widen(bytes: &[u8], delimiter: u8, kinds: &mut [Kind]) -> io::Result<()> {
    let (mut reader, mut record) = (records(bytes, delimiter), ::csv::ByteRecord::new());
    while reader.read_byte_record(&mut record)? {
        let Ok(text) = usable(&record, kinds.len()) else { continue };
        for (kind, field) in kinds.iter_mut().zip(fields(&record, text)).filter(|(kind, _)| **kind != Kind::Text) {
            *kind = kind.join(Kind::of(field));
        }
    }
    Ok(())
}

fn parse(bytes: &[u8], delimiter: u8, kinds: &[Kind], schema: &SchemaRef) -> io::Result<PieceRows> {
    let mut out = PieceRows { bytes: bytes.len() as u64, ..PieceRows::default() };
    let mut columns: Vec<Column> = kinds.iter().map(|k| Column::new(*k)).collect();
    let (mut reader, mut record, mut held) = (records(bytes, delimiter), ::csv::ByteRecord::new(), 0);
    while reader.read_byte_record(&mut record)? {
        out.records += 1;
        match usable(&record, kinds.len()) {
            Ok(text) => {
                let mut fits = true;
                for (field, column) in fields(&record, text).zip(&mut columns) {
                    fits &= column.push(field);
                }
                if !fits {
                    let mut wider = kinds.to_vec();
                    widen(bytes, delimiter, &mut wider)?;
                    return Ok(PieceRows { kinds: Some(wider), ..PieceRows::default() });
                }
                held += 1;
            }
            Err(error) => out.bad(error.to_string()),
        }
        if held == BATCH_ROWS {
            out.batches.push(batch(schema, &mut columns)?);
            held = 0;
        }
    }
    if held > 0 {
        out.batches.push(batch(schema, &mut columns)?);
    }
    Ok(out)
}

enum Column {
    Empty(StringBuilder),
    Boolean(BooleanBuilder),
    Integer(Int64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
}

impl Column {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Empty => Self::Empty(StringBuilder::new()),
            Kind::Boolean => Self::Boolean(BooleanBuilder::new()),
            Kind::Integer => Self::Integer(Int64Builder::new()),
            Kind::Float => Self::Float(Float64Builder::new()),
            Kind::Text => Self::Text(StringBuilder::new()),
        }
    }

    /// Adds a field; false if the type does not hold it. An empty field is NULL.
    fn push(&mut self, field: &str) -> bool {
        match self {
            Self::Text(b) if !field.is_empty() => b.append_value(field),
            Self::Text(b) | Self::Empty(b) => {
                b.append_null();
                return field.is_empty();
            }
            Self::Boolean(b) if field.is_empty() => b.append_null(),
            Self::Integer(b) if field.is_empty() => b.append_null(),
            Self::Float(b) if field.is_empty() => b.append_null(),
            Self::Boolean(b) => {
                b.append_value(matches!(field, "true" | "True" | "TRUE"));
                return Kind::of(field) == Kind::Boolean;
            }
            Self::Integer(b) => match field.parse() {
                Ok(value) if plain_number(field) => b.append_value(value),
                _ => return false,
            },
            Self::Float(b) => match field.parse::<f64>() {
                Ok(value) if matches!(Kind::of(field), Kind::Integer | Kind::Float) => b.append_value(value),
                _ => return false,
            },
        }
        true
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(b) => Arc::new(b.finish()),
            Self::Integer(b) => Arc::new(b.finish()),
            Self::Float(b) => Arc::new(b.finish()),
            Self::Text(b) | Self::Empty(b) => Arc::new(b.finish()),
        }
    }
}

fn batch(schema: &SchemaRef, columns: &mut [Column]) -> io::Result<RecordBatch> {
    RecordBatch::try_new(Arc::clone(schema), columns.iter_mut().map(Column::finish).collect()).map_err(io::Error::other)
}

/// A piece on its way to a worker.
struct Job {
    number: usize,
    file: usize,
    delimiter: u8,
    piece: Piece,
}

/// Reads CSV files with one header into batches.
///
/// # Errors
/// If a file cannot be read, or has another header than the first, or `stop` is cancelled.
pub fn read(
    paths: &[&Path],
    workers: usize,
    stop: &CancellationToken,
    open: &mut Open<'_>,
    take: &mut Take<'_>,
    bad: &mut Quarantine<'_>,
) -> io::Result<()> {
    let Some(first) = paths.first() else { return Ok(()) };
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", first.display()));
    let mut pieces = Pieces::open(first, stop)?;
    let delimiter = pieces.delimiter;
    let Some(Piece::Records(beginning)) = pieces.next()? else { return Err(invalid("has no header that could be read".into())) };
    let (header, rest) = header(&beginning, delimiter)?;
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = header.iter().find(|name| !seen.insert(name.as_str())) {
        return Err(invalid(format!("has two columns `{twice}`")));
    }
    let mut kinds = vec![Kind::Empty; header.len()];
    widen(&beginning[rest..], delimiter, &mut kinds)?;
    drop((pieces, beginning));
    loop {
        let fields: Vec<Field> = header.iter().zip(&kinds).map(|(name, kind)| Field::new(name, kind.arrow(), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        open(Arc::clone(&schema))?;
        match pass(paths, (workers, stop), &header, &kinds, &schema, take)? {
            Outcome::Done(told) => {
                for (file, row, why) in told {
                    bad(paths[file], row, why);
                }
                return Ok(());
            }
            Outcome::Wider(wider) => kinds = wider,
        }
    }
}

/// The names of the columns, and where the records begin.
fn header(bytes: &[u8], delimiter: u8) -> io::Result<(Vec<String>, usize)> {
    let (mut reader, mut record) = (records(bytes, delimiter), ::csv::ByteRecord::new());
    reader.read_byte_record(&mut record)?;
    let names = record.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    Ok((names, usize::try_from(reader.position().byte()).unwrap_or(bytes.len())))
}

enum Outcome {
    /// Bad records: file, number, reason.
    Done(Vec<(usize, u64, String)>),
    /// Types that all records allow.
    Wider(Vec<Kind>),
}

/// One pass over all files. Once a value does not fit, the rest is only looked at.
fn pass(
    paths: &[&Path],
    (workers, stop): (usize, &CancellationToken),
    header: &[String],
    kinds: &[Kind],
    schema: &SchemaRef,
    take: &mut Take<'_>,
) -> io::Result<Outcome> {
    let (jobs, waiting) = sync_channel::<Job>(workers);
    // The workers' own: once the last has gone, whoever cuts hears that nobody waits for a piece.
    let (waiting, wider) = (Arc::new(Mutex::new(waiting)), AtomicBool::new(false));
    let (results, incoming) = channel::<(usize, usize, io::Result<PieceRows>)>();
    let (tokens, allowed) = channel::<()>();
    for _ in 0..IN_FLIGHT * workers {
        let _ = tokens.send(());
    }
    let wider = &wider;
    std::thread::scope(|scope| {
        // They go with this closure, however it ends: the scope waits for threads that would wait for them.
        let (tokens, incoming, waiting) = (tokens, incoming, waiting);
        let failed = results.clone();
        std::thread::Builder::new()
            .name("ingest-cut".into())
            .spawn_scoped(scope, move || cut(paths, stop, header, &jobs, &allowed, &failed))?;
        for _ in 0..workers {
            let (results, waiting) = (results.clone(), Arc::clone(&waiting));
            let parse = move || work(&waiting, &results, kinds, schema, wider);
            std::thread::Builder::new().name("ingest-parse".into()).spawn_scoped(scope, parse)?;
        }
        drop((results, waiting));
        gather(&incoming, &tokens, kinds, wider, take)
    })
}

/// What a thread does, or the error that it panicked.
fn guarded<T>(doing: &str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let panicked = |_| Err(io::Error::other(format!("{doing} panicked; the log has more")));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked)
}

/// Sends pieces to the workers, as many as are allowed.
fn cut(
    paths: &[&Path],
    stop: &CancellationToken,
    header: &[String],
    jobs: &SyncSender<Job>,
    allowed: &Receiver<()>,
    failed: &Sender<(usize, usize, io::Result<PieceRows>)>,
) {
    let mut number = 0;
    for (file, path) in paths.iter().enumerate() {
        let mut each = || -> io::Result<bool> {
            let mut pieces = Pieces::open(path, stop)?;
            let mut first = true;
            while let Some(mut piece) = pieces.next()? {
                if let Piece::Records(bytes) = &mut piece
                    && std::mem::take(&mut first)
                {
                    let (own, rest) = self::header(bytes, pieces.delimiter)?;
                    if own != header {
                        let why = format!("{}: has the columns {own:?}, the first file has {header:?}", path.display());
                        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                    }
                    bytes.drain(..rest);
                }
                // Both ends are gone once the writer has given up.
                if allowed.recv().is_err() || jobs.send(Job { number, file, delimiter: pieces.delimiter, piece }).is_err() {
                    return Ok(false);
                }
                number += 1;
            }
            Ok(true)
        };
        match guarded("cutting a file into pieces", &mut each) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                let _ = failed.send((number, file, Err(error)));
                return;
            }
        }
    }
}

/// Parses pieces until there are no more.
fn work(
    waiting: &Mutex<Receiver<Job>>,
    results: &Sender<(usize, usize, io::Result<PieceRows>)>,
    kinds: &[Kind],
    schema: &SchemaRef,
    wider: &AtomicBool,
) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { number, file, delimiter, piece }) = job else { return };
        let parsed = guarded("parsing a piece", || match piece {
            Piece::Bad(why) => Ok(PieceRows { records: 1, bad: vec![(1, why.to_owned())], ..PieceRows::default() }),
            Piece::Records(bytes) if wider.load(Ordering::Relaxed) => {
                let mut own = kinds.to_vec();
                widen(&bytes, delimiter, &mut own).map(|()| PieceRows { kinds: Some(own), ..PieceRows::default() })
            }
            Piece::Records(bytes) => parse(&bytes, delimiter, kinds, schema),
        });
        if results.send((number, file, parsed)).is_err() {
            return;
        }
    }
}

/// Takes what the workers parsed in the order of the files.
fn gather(
    incoming: &Receiver<(usize, usize, io::Result<PieceRows>)>,
    tokens: &Sender<()>,
    kinds: &[Kind],
    wider: &AtomicBool,
    take: &mut Take<'_>,
) -> io::Result<Outcome> {
    let (mut early, mut next) = (BTreeMap::new(), 0);
    let (mut all_kinds, mut told): (Vec<Kind>, Vec<(usize, u64, String)>) = (kinds.to_vec(), Vec::new());
    let (mut file_now, mut before) = (0, 0);
    while let Ok((number, file, parsed)) = incoming.recv() {
        early.insert(number, (file, parsed));
        while let Some((file, parsed)) = early.remove(&next) {
            next += 1;
            let parsed = parsed?;
            let _ = tokens.send(());
            if let Some(own) = &parsed.kinds {
                wider.store(true, Ordering::Relaxed);
                all_kinds.iter_mut().zip(own).for_each(|(all, own)| *all = all.join(*own));
            }
            if file != file_now {
                (file_now, before) = (file, 0);
            }
            if wider.load(Ordering::Relaxed) {
                continue;
            }
            told.extend(parsed.bad.into_iter().map(|(row, why)| (file, before + row, why)));
            told.extend((0..parsed.more_bad).map(|_| (file, 0, String::new())));
            before += parsed.records;
            let rows: usize = parsed.batches.iter().map(RecordBatch::num_rows).sum();
            for batch in parsed.batches {
                let share = parsed.bytes * batch.num_rows() as u64 / rows.max(1) as u64;
                take(batch, share)?;
            }
        }
    }
    Ok(if wider.load(Ordering::Relaxed) { Outcome::Wider(all_kinds) } else { Outcome::Done(told) })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, Int64Type};
    use proptest::prelude::*;

    use super::*;

    fn of(bytes: &[u8]) -> (SchemaRef, Vec<RecordBatch>, Vec<(u64, String)>) {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(bytes).expect("written");
        let (schema, batches, mut bad) = (std::cell::RefCell::new(None), std::cell::RefCell::new(Vec::new()), Vec::new());
        let mut open = |s| {
            *schema.borrow_mut() = Some(s);
            batches.borrow_mut().clear();
            Ok(())
        };
        let mut take = |b, _| {
            batches.borrow_mut().push(b);
            Ok(())
        };
        read(&[file.path()], 2, &CancellationToken::new(), &mut open, &mut take, &mut |_, row, why| bad.push((row, why))).expect("read");
        (schema.into_inner().expect("a schema"), batches.into_inner(), bad)
    }

    #[test]
    fn types_hold_for_every_row_and_bad_rows_are_named() {
        let (schema, batches, bad) =
            of(b"\xef\xbb\xbfid;zip;price;ok;note\n1;00123;1.5;true;x\n2;4;2;false;\n3;only three\n-4;5;1e3;true;\"a;\"\"b\"\n");
        let types: Vec<&DataType> = schema.fields().iter().map(|f| f.data_type()).collect();
        assert_eq!(types, [&DataType::Int64, &DataType::Utf8, &DataType::Float64, &DataType::Boolean, &DataType::Utf8]);
        assert_eq!(schema.field(0).name(), "id", "without the byte-order mark");
        let batch = &batches[0];
        assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[1, 2, -4]);
        assert_eq!(batch.column(2).as_primitive::<Float64Type>().values(), &[1.5, 2.0, 1000.0]);
        assert!(batch.column(4).is_null(1));
        assert_eq!(batch.column(4).as_string::<i32>().value(2), "a;\"b");
        assert_eq!(bad, [(3, "has 2 fields, the header has 5".to_owned())]);
        assert_eq!(of(b"id,n\n12345678901234567890,1\n2,2\n").0.field(0).data_type(), &DataType::Utf8, "long identifiers stay text");
    }

    #[test]
    fn a_value_far_behind_widens_its_column_for_all_rows() {
        let mut text = String::from("id,n,e\n");
        (0..600_000).for_each(|i| text.push_str(&format!("{i},{},\n", i % 100)));
        text.push_str("last,0.5,late\n");
        assert!(text.len() > PIECE_BYTES, "{} bytes are one piece", text.len());
        let (schema, batches, bad) = of(text.as_bytes());
        let types: Vec<&DataType> = schema.fields().iter().map(|f| f.data_type()).collect();
        assert_eq!(types, [&DataType::Utf8, &DataType::Float64, &DataType::Utf8]);
        assert_eq!((batches.iter().map(RecordBatch::num_rows).sum::<usize>(), bad.len()), (600_001, 0));
        let ids: Vec<&str> = batches.iter().flat_map(|b| b.column(0).as_string::<i32>().iter().flatten()).collect();
        assert!(ids[..600_000].iter().enumerate().all(|(i, id)| *id == i.to_string()) && ids[600_000] == "last", "in order");
    }

    #[test]
    fn a_quote_that_never_closes_costs_its_line() {
        let mut text = String::from("a,b\n1,\"open\n");
        (0..10).for_each(|i| text.push_str(&format!("{i},x\n")));
        let (_, batches, bad) = of(text.as_bytes());
        assert_eq!(batches[0].num_rows(), 10);
        assert!(bad.len() == 1 && bad[0].0 == 1 && bad[0].1.contains("not closed"), "{bad:?}");
        let long = format!("a,b\n1,{}\n2,y\n", "z".repeat(RECORD_BYTES_MAX + 10));
        let (_, batches, bad) = of(long.as_bytes());
        assert_eq!((batches[0].num_rows(), bad.len()), (1, 1), "{:?}", bad.first().map(|(_, why)| why));
    }

    proptest! {
        /// Cut anywhere, a file's pieces hold the records that the csv crate finds in the whole.
        #[test]
        fn pieces_are_cut_between_records(rows in proptest::collection::vec(("[a\"\n, ;é]{0,9}", "[a\"\n, ]{0,9}", "[0-9]{0,3}"), 0..60), cut in 1_usize..400) {
            let mut writer = ::csv::Writer::from_writer(Vec::new());
            writer.write_record(["x", "y", "z"]).expect("written");
            rows.iter().for_each(|(a, b, c)| writer.write_record([a, b, c]).expect("written"));
            let bytes = writer.into_inner().expect("bytes");
            let (end, open) = last_record(&bytes, b',');
            prop_assert!(!open && end == Some(bytes.len()));
            let part = &bytes[..cut.min(bytes.len())];
            let end = last_record(part, b',').0.unwrap_or(0);
            let count = |bytes: &[u8]| records(bytes, b',').byte_records().count();
            prop_assert_eq!(count(&bytes[..end]) + count(&bytes[end..]), count(&bytes));
        }
    }
}
