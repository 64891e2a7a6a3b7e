//! CSV: types that hold for every row, at the speed of several cores.
//!
//! `dialect` tells how a file is written, `parse` puts records into columns, and [`crate::passes`]
//! reads what is there once or twice. Columns of several files meet by name.
//!
//! Invariants: memory is bounded by the pieces in flight; a bad record costs itself and is named,
//! one whose quote never closes costs its first line; a field is what stands there, or NULL if
//! nothing does; what was guessed is said. Whoever opens a file guesses by the same bytes of it,
//! and so the same.

mod dialect;
mod parse;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use brahman_card::interface::ingest::CsvDialect;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::encoding::{self, Encoding};
use crate::lattice::{ABSENT, Facts, Kind, tally};
use crate::passes::pieces::{LastRecord, Pieces};
use crate::passes::{self, Input, PIECE_BYTES, Piece, PieceRows, Table};
pub use crate::passes::{Open, Quarantine, RECORD_BYTES_MAX, Take};
use crate::source::path_text;
use dialect::Dialect;
pub use dialect::{CsvOptions, DateOrder};
use dialect::{Sniff, names, sniff};

/// How tables of text are read.
#[derive(Clone, Debug)]
pub struct TextOptions {
    /// Threads that parse, 1 at least.
    pub workers: usize,
    /// Columns of the dataset as it is: their types stay if they hold what is read.
    pub kept: Option<SchemaRef>,
    /// What is said of how CSV is written.
    pub csv: CsvOptions,
    /// Whether columns of several files meet by name, and are NULL where a file has none of them;
    /// unless said they do if the files have a column in common.
    pub union: Option<bool>,
    /// Whether the reason of every column's type is told.
    pub explain: bool,
}

impl TextOptions {
    /// By so many threads; nothing is said of the rest.
    #[must_use]
    pub fn by(workers: usize) -> Self {
        Self { workers, kept: None, csv: CsvOptions::default(), union: None, explain: false }
    }
}

/// Files whose guesses are said.
const FILES_NAMED: usize = 3;

/// A file that makes no table.
#[derive(Debug, Error)]
enum FileError {
    #[error("{}: has no header that could be read", .path.display())]
    NoHeader { path: PathBuf },
    #[error("{}: its columns changed while it was read", .path.display())]
    Changed { path: PathBuf },
    #[error("types: there is no column `{column}`, expected one of {there}")]
    NoColumn { column: String, there: String },
    #[error("{}: {flaw}", .path.display())]
    Apart { path: PathBuf, flaw: ApartError },
}

/// Columns of a file that do not go with those of the files before it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ApartError {
    /// They are to be the same.
    #[error(
        "its columns are not those of the files before it ({words}): without --union-by-name=false what a file has none of is NULL"
    )]
    Others {
        /// Which it has more, and which fewer.
        words: String,
    },
    /// It is a table of something else.
    #[error(
        "has no column in common with the files before it: give it a dataset of its own, or say --union-by-name"
    )]
    Nothing,
}

impl ApartError {
    /// Whether columns go with those of the files before, as somebody said or as is usual.
    pub(crate) fn check(before: &[&str], own: &[&str], union: Option<bool>) -> Result<(), Self> {
        let lacking = |these: &[&str], those: &[&str]| -> Vec<String> {
            these
                .iter()
                .filter(|name| !those.contains(name))
                .take(COLUMNS_NAMED)
                .map(|name| format!("`{name}`"))
                .collect()
        };
        match union {
            Some(true) => Ok(()),
            None if own.is_empty()
                || before.is_empty()
                || own.iter().any(|name| before.contains(name)) =>
            {
                Ok(())
            }
            None => Err(Self::Nothing),
            Some(false) => {
                let (more, fewer) = (lacking(own, before), lacking(before, own));
                let words = [(more, "more"), (fewer, "missing")]
                    .into_iter()
                    .filter(|(names, _)| !names.is_empty());
                let words: Vec<String> =
                    words.map(|(names, what)| format!("{what}: {}", names.join(", "))).collect();
                if words.is_empty() {
                    Ok(())
                } else {
                    Err(Self::Others { words: words.join("; ") })
                }
            }
        }
    }
}

/// Columns that an error names.
const COLUMNS_NAMED: usize = 10;

fn invalid(error: FileError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What the pieces of one file have in common.
#[derive(Debug)]
struct Layout {
    dialect: Dialect,
    /// The column of each field.
    places: Vec<usize>,
}

/// The beginning of a file: pieces that go on with its first record, how it is written, its
/// columns.
struct Beginning {
    pieces: Pieces,
    sniff: Sniff,
    names: Vec<String>,
    guesses: Vec<String>,
    encoding: Encoding,
}

impl Beginning {
    /// Opens a file; none if there is nothing in it.
    fn read(path: &Path, said: &CsvOptions, stop: &CancellationToken) -> io::Result<Option<Self>> {
        let (reader, mut encoding) = encoding::open(path, stop, said.encoding)?;
        let mut pieces = Pieces::begin(reader, PIECE_BYTES)?;
        if encoding.is_none() && encoding::is_windows(pieces.beginning()) {
            encoding = Some(Encoding::Windows1252);
            pieces = Pieces::begin(encoding::open_windows(path, stop)?, PIECE_BYTES)?;
        }
        if pieces.beginning().iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let Some(sniff) = sniff(pieces.beginning(), pieces.is_whole(), said) else {
            return Err(invalid(FileError::NoHeader { path: path.to_owned() }));
        };
        let mut guesses = sniff.guesses.clone();
        if let Some(other) =
            encoding.filter(|encoding| said.encoding.is_none() && *encoding != Encoding::Utf8)
        {
            guesses.push(format!("it is {} (--encoding)", other.name()));
        }
        let names = names(sniff.header.clone(), sniff.columns, &mut guesses);
        pieces.skip(sniff.begins);
        Ok(Some(Self {
            pieces,
            sniff,
            names,
            guesses,
            encoding: encoding.unwrap_or(Encoding::Utf8),
        }))
    }
}

/// Columns of all files, and the types of a pass.
struct CsvTable<'a> {
    said: &'a CsvOptions,
    names: &'a [String],
    kinds: Vec<Kind>,
    /// Of each column, the type that somebody said.
    said_kinds: Vec<Option<Kind>>,
    schema: SchemaRef,
}

impl<'a> CsvTable<'a> {
    fn new(said: &'a CsvOptions, names: &'a [String], kinds: Vec<Kind>) -> Self {
        let fields: Vec<Field> = names
            .iter()
            .zip(&kinds)
            .map(|(name, kind)| Field::new(name, kind.arrow(), true))
            .collect();
        let said_kinds = names.iter().map(|name| said.kinds.get(name).cloned()).collect();
        Self { said, names, kinds, said_kinds, schema: Arc::new(Schema::new(fields)) }
    }

    /// Where the fields of a file go.
    fn layout(&self, beginning: &Beginning, path: &Path) -> io::Result<Arc<Layout>> {
        let dialect = beginning.sniff.dialect;
        // Without a header they are those of the others, if there are as many.
        if beginning.sniff.header.is_none() && beginning.names.len() == self.names.len() {
            return Ok(Arc::new(Layout { dialect, places: (0..self.names.len()).collect() }));
        }
        let places: HashMap<&str, usize> =
            self.names.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
        let places = beginning
            .names
            .iter()
            .map(|name| places.get(name.as_str()).copied())
            .collect::<Option<Vec<_>>>();
        places
            .map(|places| Arc::new(Layout { dialect, places }))
            .ok_or_else(|| invalid(FileError::Changed { path: path.to_owned() }))
    }
}

impl Table for CsvTable<'_> {
    type Facts = Vec<Facts>;
    type Dialect = Arc<Layout>;

    fn cut(
        &self,
        path: &Path,
        stop: &CancellationToken,
        each: &mut dyn FnMut(&Arc<Layout>, Piece) -> bool,
    ) -> io::Result<bool> {
        let Some(mut beginning) = Beginning::read(path, self.said, stop)? else { return Ok(true) };
        let layout = self.layout(&beginning, path)?;
        let dialect = layout.dialect;
        let last: LastRecord = Box::new(move |bytes| dialect.last_record(bytes));
        while let Some(piece) = beginning.pieces.next(&last)? {
            if !each(&layout, piece) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn parse(
        &self,
        layout: &Arc<Layout>,
        bytes: &[u8],
        build: bool,
    ) -> io::Result<PieceRows<Vec<Facts>>> {
        parse::parse(bytes, layout, self, build)
    }

    fn join(&self, all: &mut Option<Vec<Facts>>, mut own: Vec<Facts>, file: usize, before: u64) {
        own.iter_mut().for_each(|facts| facts.shift(file, before));
        match all {
            None => *all = Some(own),
            Some(all) => all.iter_mut().zip(own).for_each(|(all, own)| all.join(own)),
        }
    }
}

/// Names of the columns of all files, in the order in which they are met, and what is to be said of
/// the files.
fn columns(
    paths: &[&Path],
    how: &TextOptions,
    stop: &CancellationToken,
) -> io::Result<(Vec<String>, Vec<String>)> {
    let said = &how.csv;
    let (mut names, mut notes, mut told): (Vec<String>, Vec<String>, usize) =
        (Vec::new(), Vec::new(), 0);
    let mut other = Vec::new();
    for path in paths {
        let Some(beginning) = Beginning::read(path, said, stop)? else { continue };
        let file = path.file_name().map(|name| name.display().to_string()).unwrap_or_default();
        if !beginning.guesses.is_empty() {
            told += 1;
            if told <= FILES_NAMED {
                notes.push(format!("{file}: {}", beginning.guesses.join("; ")));
            }
        }
        if names.is_empty() {
            names = beginning.names;
            continue;
        }
        if beginning.names == names
            || (beginning.sniff.header.is_none() && beginning.names.len() == names.len())
        {
            continue;
        }
        let [before, own] = [&names, &beginning.names]
            .map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
        let apart = |flaw| invalid(FileError::Apart { path: (*path).to_owned(), flaw });
        ApartError::check(&before, &own, how.union).map_err(apart)?;
        other.push(file);
        let there: std::collections::HashSet<&String> = names.iter().collect();
        let new: Vec<String> =
            beginning.names.iter().filter(|name| !there.contains(name)).cloned().collect();
        names.extend(new);
    }
    if told > FILES_NAMED {
        notes.push(format!("the same or the like of {} more files", told - FILES_NAMED));
    }
    if let Some(first) = other.first() {
        notes.push(passes::columns_differ(other.len(), first));
    }
    Ok((names, notes))
}

/// How files are written, as it was guessed or said; one that is empty is left out.
///
/// # Errors
/// If a file cannot be read, or has no header, or `stop` is cancelled.
pub fn dialects(
    paths: &[&Path],
    how: &TextOptions,
    stop: &CancellationToken,
) -> io::Result<Vec<CsvDialect>> {
    let said = &how.csv;
    let mark =
        |byte: u8| if byte == b'\t' { "tab".to_owned() } else { char::from(byte).to_string() };
    let mut all = Vec::new();
    for path in paths {
        let Some(Beginning { sniff, names, guesses, encoding, .. }) =
            Beginning::read(path, said, stop)?
        else {
            continue;
        };
        all.push(CsvDialect {
            source: path_text(path),
            encoding: encoding.name().to_owned(),
            delimiter: mark(sniff.dialect.delimiter),
            quote: sniff.dialect.quote.map(mark),
            escape: sniff.dialect.escape.map(mark),
            header: sniff.header.is_some(),
            columns: names,
            nulls: said.nulls.clone().unwrap_or_else(|| ABSENT.map(str::to_owned).to_vec()),
            guesses,
        });
    }
    Ok(all)
}

/// Reads CSV files into batches. Gives the schema first, to `open`, and at the end what a person
/// should know of what was guessed.
///
/// # Errors
/// If a file cannot be read, or has no header, or `stop` is cancelled.
pub fn read(
    paths: &[&Path],
    how: &TextOptions,
    stop: &CancellationToken,
    open: &mut Open<'_>,
    take: &mut Take<'_>,
    bad: &mut Quarantine<'_>,
) -> io::Result<Vec<String>> {
    let Some(first) = paths.first() else { return Ok(Vec::new()) };
    let said = &how.csv;
    let (names, mut notes) = columns(paths, how, stop)?;
    if names.is_empty() {
        return Err(invalid(FileError::NoHeader { path: (*first).to_owned() }));
    }
    if let Some(column) = said.kinds.keys().find(|name| !names.contains(name)) {
        let there: Vec<String> =
            names.iter().take(COLUMNS_NAMED).map(|name| format!("`{name}`")).collect();
        let more = if names.len() > there.len() { ", …" } else { "" };
        return Err(invalid(FileError::NoColumn {
            column: column.clone(),
            there: format!("{}{more}", there.join(", ")),
        }));
    }
    let kept = |name: &str| {
        how.kept
            .as_deref()
            .and_then(|schema| schema.field_with_name(name).ok())
            .map(Field::data_type)
    };
    let kinds = |facts: &[Facts]| -> Vec<Kind> {
        let kind = |(facts, name): (&Facts, &String)| match said.kinds.get(name) {
            Some(kind) => kind.clone(),
            None if said.all_text => Kind::Text,
            None => facts.kind_or(kept(name)),
        };
        facts.iter().zip(&names).map(kind).collect()
    };
    // The first piece says which types are likely.
    let blank = CsvTable::new(said, &names, vec![Kind::Null; names.len()]);
    let mut likely = blank.kinds.clone();
    for path in paths {
        let Some(mut beginning) = Beginning::read(path, said, stop)? else { continue };
        let layout = blank.layout(&beginning, path)?;
        let dialect = layout.dialect;
        let last: LastRecord = Box::new(move |bytes| dialect.last_record(bytes));
        if let Some(Piece::Records(bytes)) = beginning.pieces.next(&last)?
            && let Some(facts) = blank.parse(&layout, &bytes, false)?.facts
        {
            likely = kinds(&facts);
        }
        break;
    }
    let table = CsvTable::new(said, &names, likely);
    let schema = Arc::clone(&table.schema);
    let mut types = |_: &CsvTable<'_>, facts: &Vec<Facts>| {
        let table = CsvTable::new(said, &names, kinds(facts));
        let schema = Arc::clone(&table.schema);
        Ok((table, schema))
    };
    let input = Input { paths, workers: how.workers, stop };
    let (facts, _) = passes::read(input, table, schema, &mut types, (open, take, bad))?;
    let Some(facts) = facts else { return Ok(notes) };
    let kinds = kinds(&facts);
    let columns = || {
        names
            .iter()
            .zip(&facts)
            .zip(&kinds)
            .map(|((name, facts), kind)| (name.as_str(), facts, kind))
    };
    if how.kept.is_some() && !said.all_text {
        notes.extend(tally::kept_notes(
            columns().filter(|(name, ..)| !said.kinds.contains_key(*name)),
        ));
    }
    if how.explain {
        let why = |(name, facts, kind): (&str, &Facts, &Kind)| {
            if said.kinds.contains_key(name) {
                format!("column `{name}` is {}, as was said", kind.arrow())
            } else {
                tally::reason(name, facts, kind, paths)
            }
        };
        notes.extend(columns().map(why));
    } else if !said.all_text {
        notes.extend(tally::notes(
            columns().filter(|(name, ..)| !said.kinds.contains_key(*name)),
            paths,
            false,
        ));
    }
    Ok(notes)
}

#[cfg(test)]
mod tests;
