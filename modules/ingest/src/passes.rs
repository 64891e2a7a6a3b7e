//! Tables of text: read once as a rule, by several threads, and twice if a type does not hold.
//!
//! A reader cuts the input into pieces of whole records, workers parse them, and this thread takes
//! them in order. Types are those of the first piece; every piece says what was seen in it, and if
//! all of that together has other types, the input is read once more with them. So the types are
//! those of all rows, and depend on nothing else.
//!
//! Invariants: memory is bounded by the pieces in flight; however a pass ends (done, an error of
//! any thread, a panic, `stop`), all its threads have ended; a second pass finds the types of the
//! first, or somebody writes to the files, which is said.

pub(crate) mod pieces;

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use tokio_util::sync::CancellationToken;

/// A longer record is an unclosed quote, or no record that anything can use.
pub const RECORD_BYTES_MAX: usize = 16 << 20;
/// Bytes a piece: large enough that handing it over costs nothing, small enough to keep a few.
pub(crate) const PIECE_BYTES: usize = 4 << 20;
/// Rows a batch.
pub(crate) const BATCH_ROWS: usize = 8192;
/// Pieces between reader and writer, for each worker.
const IN_FLIGHT: usize = 3;
/// Bad records of a piece whose reason is kept; the rest are counted.
const REASONS_MAX: usize = 100;
/// The first finds the types, the second holds them.
const PASSES_MAX: usize = 3;

/// Where a bad row is told: its file, its number from 1, the reason.
pub type Quarantine<'a> = dyn FnMut(&Path, u64, String) + 'a;
/// Where batches go with their bytes at the source; an error ends the reading.
pub type Take<'a> = dyn FnMut(RecordBatch, u64) -> io::Result<()> + 'a;
/// Where the schema is told, before the first batch. Told again, everything taken so far is void.
pub type Open<'a> = dyn FnMut(SchemaRef) -> io::Result<()> + 'a;

/// What is said where columns of several files met by name: how many files have others than the
/// first, and one of them.
pub(crate) fn columns_differ(count: usize, such_as: &str) -> String {
    let (files, have) = if count == 1 { ("file", "has") } else { ("files", "have") };
    format!(
        "{count} {files}, such as {such_as}, {have} other columns or another order than the first: columns meet by name, and NULL is where a file has none"
    )
}

/// Somebody writes to what is read.
#[derive(Debug, thiserror::Error)]
#[error("the files changed while they were read: read them when nobody writes to them")]
struct ChangedError;

/// Part of a file.
pub(crate) enum Piece {
    /// Whole records.
    Records(Vec<u8>),
    /// A record that cannot be read, and why.
    Bad(String),
}

/// What came of a piece.
pub(crate) struct PieceRows<F> {
    pub(crate) batches: Vec<RecordBatch>,
    /// Records, bad ones too.
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    bad: Vec<(u64, String)>,
    /// Bad ones whose reason was not kept.
    more_bad: u64,
    /// What was seen of its values.
    pub(crate) facts: Option<F>,
    /// Whether the types hold them all; if not, there are no batches.
    pub(crate) fits: bool,
}

impl<F> PieceRows<F> {
    /// Nothing yet, of so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            batches: Vec::new(),
            records: 0,
            bytes: bytes as u64,
            bad: Vec::new(),
            more_bad: 0,
            facts: None,
            fits: true,
        }
    }

    /// Leaves out the record that was counted last.
    pub(crate) fn bad(&mut self, why: String) {
        if self.bad.len() < REASONS_MAX {
            self.bad.push((self.records, why));
        } else {
            self.more_bad += 1;
        }
    }
}

/// How one kind of table is cut and parsed, with the types of a pass.
pub(crate) trait Table: Sync {
    /// What was seen of the values of some pieces.
    type Facts: Send + 'static;
    /// What the pieces of one file have in common.
    type Dialect: Clone + Send + 'static;

    /// Cuts a file into pieces until `each` says that nobody waits for more; then it is false.
    fn cut(
        &self,
        path: &Path,
        stop: &CancellationToken,
        each: &mut dyn FnMut(&Self::Dialect, Piece) -> bool,
    ) -> io::Result<bool>;

    /// Parses a piece; without `build` it only looks what is there.
    fn parse(
        &self,
        dialect: &Self::Dialect,
        bytes: &[u8],
        build: bool,
    ) -> io::Result<PieceRows<Self::Facts>>;

    /// Adds what was seen in a piece, which begins in a file after so many records, to what was
    /// seen before it.
    fn join(&self, all: &mut Option<Self::Facts>, own: Self::Facts, file: usize, before: u64);
}

/// What is read, by how many workers, until when.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) paths: &'a [&'a Path],
    pub(crate) workers: usize,
    pub(crate) stop: &'a CancellationToken,
}

/// What all rows are, and what was left out.
pub(crate) struct Pass<F> {
    /// None if there was no piece.
    pub(crate) facts: Option<F>,
    told: Vec<(usize, u64, String)>,
    fits: bool,
}

/// Gives a table with the types of what was seen, and its schema.
type Typing<'a, T> = dyn FnMut(&T, &<T as Table>::Facts) -> io::Result<(T, SchemaRef)> + 'a;

/// Reads all files until the types are those of all rows.
pub(crate) fn read<T: Table>(
    input: Input<'_>,
    mut table: T,
    mut schema: SchemaRef,
    types: &mut Typing<'_, T>,
    (open, take, bad): (&mut Open<'_>, &mut Take<'_>, &mut Quarantine<'_>),
) -> io::Result<(Option<T::Facts>, T)> {
    for _ in 0..PASSES_MAX {
        open(Arc::clone(&schema))?;
        let passed = pass(input, &table, take)?;
        let next = passed.facts.as_ref().map(|facts| types(&table, facts)).transpose()?;
        match next {
            Some((wider, its)) if !passed.fits || its != schema => (table, schema) = (wider, its),
            _ => {
                for (file, row, why) in passed.told {
                    bad(input.paths[file], row, why);
                }
                return Ok((passed.facts, table));
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, ChangedError))
}

/// A piece on its way to a worker.
struct Job<D> {
    number: usize,
    file: usize,
    dialect: D,
    piece: Piece,
}

/// A parsed piece on its way to the writer: its number, its file, what came of it.
type ParsedPiece<F> = (usize, usize, io::Result<PieceRows<F>>);

/// One pass over all files. Once a value does not fit, the rest is only looked at.
fn pass<T: Table>(input: Input<'_>, table: &T, take: &mut Take<'_>) -> io::Result<Pass<T::Facts>> {
    let workers = input.workers;
    let (jobs, waiting) = sync_channel::<Job<T::Dialect>>(workers);
    // The workers' own: once the last has gone, whoever cuts hears that nobody waits for a piece.
    let (waiting, wider) = (Arc::new(Mutex::new(waiting)), AtomicBool::new(false));
    let (results, incoming) = channel::<ParsedPiece<T::Facts>>();
    let (tokens, allowed) = channel::<()>();
    for _ in 0..IN_FLIGHT * workers {
        let _ = tokens.send(());
    }
    let wider = &wider;
    std::thread::scope(|scope| {
        // They go with this closure, however it ends: the scope waits for threads that would wait
        // for them.
        let (tokens, incoming, waiting) = (tokens, incoming, waiting);
        let failed = results.clone();
        std::thread::Builder::new()
            .name("ingest-cut".into())
            .spawn_scoped(scope, move || cut(input, table, &jobs, &allowed, &failed))?;
        for _ in 0..workers {
            let (results, waiting) = (results.clone(), Arc::clone(&waiting));
            let parse = move || work(&waiting, &results, table, wider);
            std::thread::Builder::new().name("ingest-parse".into()).spawn_scoped(scope, parse)?;
        }
        drop((results, waiting));
        gather(&incoming, &tokens, table, wider, take)
    })
}

/// What a thread does, or the error that it panicked.
fn guarded<T>(doing: &str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let panicked = |_| Err(io::Error::other(format!("{doing} panicked; the log has more")));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked)
}

/// Sends pieces to the workers, as many as are allowed.
fn cut<T: Table>(
    input: Input<'_>,
    table: &T,
    jobs: &SyncSender<Job<T::Dialect>>,
    allowed: &Receiver<()>,
    failed: &Sender<ParsedPiece<T::Facts>>,
) {
    let mut number = 0;
    for (file, path) in input.paths.iter().enumerate() {
        let mut each = |dialect: &T::Dialect, piece: Piece| {
            // Both ends are gone once the writer has given up.
            let sent = allowed.recv().is_ok()
                && jobs.send(Job { number, file, dialect: dialect.clone(), piece }).is_ok();
            number += 1;
            sent
        };
        match guarded("cutting a file into pieces", || table.cut(path, input.stop, &mut each)) {
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
fn work<T: Table>(
    waiting: &Mutex<Receiver<Job<T::Dialect>>>,
    results: &Sender<ParsedPiece<T::Facts>>,
    table: &T,
    wider: &AtomicBool,
) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { number, file, dialect, piece }) = job else { return };
        let parsed = guarded("parsing a piece", || match piece {
            Piece::Bad(why) => {
                let mut rows = PieceRows { records: 1, ..PieceRows::new(0) };
                rows.bad(why);
                Ok(rows)
            }
            Piece::Records(bytes) => table.parse(&dialect, &bytes, !wider.load(Ordering::Relaxed)),
        });
        if results.send((number, file, parsed)).is_err() {
            return;
        }
    }
}

/// Takes what the workers parsed in the order of the files.
fn gather<T: Table>(
    incoming: &Receiver<ParsedPiece<T::Facts>>,
    tokens: &Sender<()>,
    table: &T,
    wider: &AtomicBool,
    take: &mut Take<'_>,
) -> io::Result<Pass<T::Facts>> {
    let (mut early, mut next) = (BTreeMap::new(), 0);
    let mut passed = Pass { facts: None, told: Vec::new(), fits: true };
    let (mut file_now, mut before) = (0, 0);
    while let Ok((number, file, parsed)) = incoming.recv() {
        early.insert(number, (file, parsed));
        while let Some((file, parsed)) = early.remove(&next) {
            next += 1;
            let parsed = parsed?;
            let _ = tokens.send(());
            if file != file_now {
                (file_now, before) = (file, 0);
            }
            if let Some(own) = parsed.facts {
                table.join(&mut passed.facts, own, file, before);
            }
            if !parsed.fits {
                passed.fits = false;
                wider.store(true, Ordering::Relaxed);
            }
            if passed.fits {
                passed
                    .told
                    .extend(parsed.bad.into_iter().map(|(row, why)| (file, before + row, why)));
                passed.told.extend((0..parsed.more_bad).map(|_| (file, 0, String::new())));
                let rows: usize = parsed.batches.iter().map(RecordBatch::num_rows).sum();
                for batch in parsed.batches {
                    let share = parsed.bytes * batch.num_rows() as u64 / rows.max(1) as u64;
                    take(batch, share)?;
                }
            }
            before += parsed.records;
        }
    }
    Ok(passed)
}
