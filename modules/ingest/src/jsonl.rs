//! JSON into columns: an object a line, or a list of objects, or objects one after the other.
//!
//! `scan` takes an object apart, `rows` puts its values into the columns of their keys, `layout`
//! makes lines of what is not written in lines. Types are those of `lattice` and hold for all rows
//! of all files, wherever a type is met first.
//!
//! Invariants: numbers and texts are what stands there; a line that is no object costs itself and
//! is named by file and line; of a key that an object has twice the last value is read, which is
//! counted; memory is bounded by the pieces in flight.

mod layout;
mod rows;
mod scan;

use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use memchr::{memchr, memrchr};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::csv::TextOptions;
use crate::lattice::{Keys, Kind, tally};
use crate::passes::pieces::{LastRecord, Pieces};
use crate::passes::{
    self, BATCH_ROWS, Input, Open, PIECE_BYTES, Piece, PieceRows, Quarantine, Table, Take,
};
use rows::{Column, Notice, Reading};
use scan::{Scanner, Sort};

/// Most columns of a table.
const COLUMNS_MAX: usize = 10_000;

/// Why JSON makes no table.
#[derive(Debug, Error)]
enum TableError {
    #[error("{}: its objects have more than {COLUMNS_MAX} different keys, so they are data: expected keys that name columns", .path.display())]
    Keys { path: std::path::PathBuf },
    #[error("{}: no object has a key", .path.display())]
    NoKeys { path: std::path::PathBuf },
}

fn invalid(error: TableError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What was seen in some pieces.
#[derive(Debug)]
struct Observation {
    keys: Keys,
    /// Objects with a key more than once.
    twice: u64,
    /// The first such key, its file and its row.
    twice_first: Option<(String, usize, u64)>,
}

/// The columns of a pass.
struct JsonTable {
    kinds: Vec<(String, Kind)>,
    schema: SchemaRef,
}

impl JsonTable {
    fn new(kinds: Vec<(String, Kind)>) -> Self {
        let schema = Arc::new(Schema::new(Kind::fields(&kinds)));
        Self { kinds, schema }
    }

    fn flush(&self, columns: &mut [Column], rows: &mut PieceRows<Observation>) -> io::Result<()> {
        // Objects without any key make no row that Parquet could keep.
        if columns.is_empty() {
            return Ok(());
        }
        let arrays = columns
            .iter_mut()
            .map(Column::finish)
            .collect::<Result<_, _>>()
            .map_err(io::Error::other)?;
        rows.batches.push(
            RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(io::Error::other)?,
        );
        Ok(())
    }
}

/// Where the last whole line ends.
fn last_line() -> LastRecord {
    Box::new(|bytes| (memrchr(b'\n', bytes).map(|end| end + 1), false))
}

/// The lines of a piece, without their ends.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr(b'\n', rest);
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = match end {
            Some(end) => &rest[end + 1..],
            None => &[],
        };
        Some(line)
    })
}

impl Table for JsonTable {
    type Facts = Observation;
    type Dialect = ();

    fn cut(
        &self,
        path: &Path,
        stop: &CancellationToken,
        each: &mut dyn FnMut(&(), Piece) -> bool,
    ) -> io::Result<bool> {
        let mut pieces = Pieces::begin(layout::open(path, stop)?, PIECE_BYTES)?;
        let last = last_line();
        while let Some(piece) = pieces.next(&last)? {
            if !each(&(), piece) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn parse(&self, (): &(), bytes: &[u8], build: bool) -> io::Result<PieceRows<Observation>> {
        let mut out = PieceRows::new(bytes.len());
        let mut keys = Keys::expected(&self.kinds, COLUMNS_MAX);
        let mut columns: Vec<Column> = if build {
            self.kinds.iter().map(|(_, kind)| Column::new(kind)).collect()
        } else {
            Vec::new()
        };
        let (mut scanner, mut notice, mut held) = (Scanner::default(), Notice::default(), 0);
        for line in lines(bytes) {
            out.records += 1;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let Ok(text) = std::str::from_utf8(line) else {
                out.bad(scan::ScanError::NotUtf8.to_string());
                continue;
            };
            let parts = match scanner.scan(line) {
                Ok(parts) if parts[0].sort == Sort::Object => parts,
                Ok(_) => {
                    out.bad("is JSON, but not an object".to_owned());
                    continue;
                }
                Err(error) => {
                    out.bad(error.to_string());
                    continue;
                }
            };
            let building = build && !notice.misfit;
            let mut reading = Reading { text, parts, row: out.records, notice: &mut notice };
            reading.object(building.then_some(columns.as_mut_slice()), &mut keys, 0, 0);
            held += 1;
            if held == BATCH_ROWS && build && !notice.misfit {
                self.flush(&mut columns, &mut out)?;
                held = 0;
            }
        }
        out.fits = !notice.misfit;
        if held > 0 && build && out.fits {
            self.flush(&mut columns, &mut out)?;
        }
        if !out.fits {
            out.batches.clear();
        }
        let twice_first = notice.twice_first.take().map(|(key, row)| (key, 0, row));
        out.facts = Some(Observation { keys, twice: notice.twice, twice_first });
        Ok(out)
    }

    fn join(&self, all: &mut Option<Observation>, mut own: Observation, file: usize, before: u64) {
        own.keys.shift(file, before);
        own.twice_first = own.twice_first.map(|(key, _, row)| (key, file, before + row));
        match all {
            None => *all = Some(own),
            Some(all) => {
                all.keys.join(own.keys);
                all.twice += own.twice;
                all.twice_first = all.twice_first.take().or(own.twice_first);
            }
        }
    }
}

/// The types of all keys; those that the dataset has already are kept if they hold what was seen.
fn kinds(keys: &Keys, kept: Option<&Schema>) -> Vec<(String, Kind)> {
    let kept = |name: &str| {
        kept.and_then(|schema| schema.field_with_name(name).ok())
            .map(arrow_schema::Field::data_type)
    };
    keys.iter().map(|(name, facts)| (name.to_owned(), facts.kind_or(kept(name)))).collect()
}

/// Reads JSON files into batches. Gives the schema first, to `open`, and at the end what a person
/// should know of what was chosen.
///
/// # Errors
/// If a file cannot be read, or its objects make no table, or `stop` is cancelled.
pub fn read(
    paths: &[&Path],
    how: &TextOptions,
    stop: &CancellationToken,
    open: &mut Open<'_>,
    take: &mut Take<'_>,
    bad: &mut Quarantine<'_>,
) -> io::Result<Vec<String>> {
    let Some(first) = paths.first() else { return Ok(Vec::new()) };
    let (workers, kept) = (how.workers, how.kept.as_deref());
    let crowded = || invalid(TableError::Keys { path: (*first).to_owned() });
    // The first piece says which types are likely.
    let blank = JsonTable::new(Vec::new());
    let likely = match Pieces::begin(layout::open(first, stop)?, PIECE_BYTES)?.next(&last_line())? {
        Some(Piece::Records(bytes)) => blank.parse(&(), &bytes, false)?.facts,
        _ => None,
    };
    let table = likely.map_or(blank, |seen| JsonTable::new(kinds(&seen.keys, kept)));
    let mut types = |_: &JsonTable, seen: &Observation| {
        if seen.keys.is_crowded() {
            return Err(crowded());
        }
        let table = JsonTable::new(kinds(&seen.keys, kept));
        let schema = Arc::clone(&table.schema);
        Ok((table, schema))
    };
    let schema = Arc::clone(&table.schema);
    let (seen, _) =
        passes::read(Input { paths, workers, stop }, table, schema, &mut types, (open, take, bad))?;
    // Nothing could be read: each line was named.
    let Some(seen) = seen else { return Ok(Vec::new()) };
    let kinds = kinds(&seen.keys, kept);
    if seen.keys.len() == 0 && seen.keys.is_seen() {
        return Err(invalid(TableError::NoKeys { path: (*first).to_owned() }));
    }
    let columns =
        seen.keys.iter().zip(&kinds).map(|((name, facts), (_, kind))| (name, facts, kind));
    let mut notes = match how.explain {
        true => {
            columns.map(|(name, facts, kind)| tally::reason(name, facts, kind, paths)).collect()
        }
        false => tally::notes(columns, paths, true),
    };
    notes.extend(tally::kept_notes(
        seen.keys.iter().zip(&kinds).map(|((name, facts), (_, kind))| (name, facts, kind)),
    ));
    if let Some((key, file, row)) = seen.twice_first {
        let file = paths.get(file).map(|path| path.display().to_string()).unwrap_or_default();
        notes.push(format!("{} objects have a key twice, such as `{key}` ({file} row {row}): its last value was read", seen.twice));
    }
    Ok(notes)
}

#[cfg(test)]
mod tests;
