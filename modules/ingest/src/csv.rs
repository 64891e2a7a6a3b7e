//! CSV: types that hold for every row, at the speed of several cores.
//!
//! A reader cuts the input into pieces of whole records, workers parse them, and this thread writes them in order. Types
//! are inferred from the first piece and checked on every value; one that does not fit widens its column and the input is
//! read once more, so the types are those that all rows allow, in one pass as a rule and in two at most.
//!
//! Invariants: memory is bounded by the pieces in flight; a bad record costs itself and is named, one whose quote never
//! closes costs its first line; however a pass ends (done, an error of any thread, a panic, `stop`), all its threads have ended.

mod kind;
mod parse;
mod pieces;

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};
use tokio_util::sync::CancellationToken;

use kind::Kind;
use parse::{PieceRows, parse, records, widen};
use pieces::{Piece, Pieces};

/// A longer record is an unclosed quote, or no record that anything can use.
pub const RECORD_BYTES_MAX: usize = 16 << 20;
/// Pieces between reader and writer, for each worker.
const IN_FLIGHT: usize = 3;

/// Where a bad row is told: its file, its number from 1, the reason.
pub type Quarantine<'a> = dyn FnMut(&Path, u64, String) + 'a;
/// Where batches go with their bytes at the source; an error ends the reading.
pub type Take<'a> = dyn FnMut(RecordBatch, u64) -> io::Result<()> + 'a;
/// Where the schema is told, before the first batch. Told again, everything taken so far is void.
pub type Open<'a> = dyn FnMut(SchemaRef) -> io::Result<()> + 'a;

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
    use arrow_schema::DataType;
    use proptest::prelude::*;

    use super::pieces::{PIECE_BYTES, last_record};
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
