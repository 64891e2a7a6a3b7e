//! CSV: types that hold for every row, at the speed of several cores.
//!
//! `dialect` tells how a file is written, `parse` puts records into columns, and [`crate::passes`] reads what is there once or twice.
//! Columns of several files meet by name.
//!
//! Invariants: memory is bounded by the pieces in flight; a bad record costs itself and is named, one whose quote never closes costs its
//! first line; a field is what stands there, or NULL if nothing does; what was guessed is said. Whoever opens a file guesses by the same
//! bytes of it, and so the same.

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
    /// Whether columns of several files meet by name, and are NULL where a file has none of them; unless said they do if the files have
    /// a column in common.
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
    #[error("its columns are not those of the files before it ({words}): without --union-by-name=false what a file has none of is NULL")]
    Others {
        /// Which it has more, and which fewer.
        words: String,
    },
    /// It is a table of something else.
    #[error("has no column in common with the files before it: give it a dataset of its own, or say --union-by-name")]
    Nothing,
}

impl ApartError {
    /// Whether columns go with those of the files before, as somebody said or as is usual.
    pub(crate) fn check(before: &[&str], own: &[&str], union: Option<bool>) -> Result<(), Self> {
        let lacking = |these: &[&str], those: &[&str]| -> Vec<String> {
            these.iter().filter(|name| !those.contains(name)).take(COLUMNS_NAMED).map(|name| format!("`{name}`")).collect()
        };
        match union {
            Some(true) => Ok(()),
            None if own.is_empty() || before.is_empty() || own.iter().any(|name| before.contains(name)) => Ok(()),
            None => Err(Self::Nothing),
            Some(false) => {
                let (more, fewer) = (lacking(own, before), lacking(before, own));
                let words = [(more, "more"), (fewer, "missing")].into_iter().filter(|(names, _)| !names.is_empty());
                let words: Vec<String> = words.map(|(names, what)| format!("{what}: {}", names.join(", "))).collect();
                if words.is_empty() { Ok(()) } else { Err(Self::Others { words: words.join("; ") }) }
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

/// The beginning of a file: pieces that go on with its first record, how it is written, its columns.
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
        if let Some(other) = encoding.filter(|encoding| said.encoding.is_none() && *encoding != Encoding::Utf8) {
            guesses.push(format!("it is {} (--encoding)", other.name()));
        }
        let names = names(sniff.header.clone(), sniff.columns, &mut guesses);
        pieces.skip(sniff.begins);
        Ok(Some(Self { pieces, sniff, names, guesses, encoding: encoding.unwrap_or(Encoding::Utf8) }))
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
        let fields: Vec<Field> = names.iter().zip(&kinds).map(|(name, kind)| Field::new(name, kind.arrow(), true)).collect();
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
        let places: HashMap<&str, usize> = self.names.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
        let places = beginning.names.iter().map(|name| places.get(name.as_str()).copied()).collect::<Option<Vec<_>>>();
        places.map(|places| Arc::new(Layout { dialect, places })).ok_or_else(|| invalid(FileError::Changed { path: path.to_owned() }))
    }
}

impl Table for CsvTable<'_> {
    type Facts = Vec<Facts>;
    type Dialect = Arc<Layout>;

    fn cut(&self, path: &Path, stop: &CancellationToken, each: &mut dyn FnMut(&Arc<Layout>, Piece) -> bool) -> io::Result<bool> {
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

    fn parse(&self, layout: &Arc<Layout>, bytes: &[u8], build: bool) -> io::Result<PieceRows<Vec<Facts>>> {
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

/// Names of the columns of all files, in the order in which they are met, and what is to be said of the files.
fn columns(paths: &[&Path], how: &TextOptions, stop: &CancellationToken) -> io::Result<(Vec<String>, Vec<String>)> {
    let said = &how.csv;
    let (mut names, mut notes, mut told): (Vec<String>, Vec<String>, usize) = (Vec::new(), Vec::new(), 0);
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
        if beginning.names == names || (beginning.sniff.header.is_none() && beginning.names.len() == names.len()) {
            continue;
        }
        let [before, own] = [&names, &beginning.names].map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
        let apart = |flaw| invalid(FileError::Apart { path: (*path).to_owned(), flaw });
        ApartError::check(&before, &own, how.union).map_err(apart)?;
        other.push(file);
        let there: std::collections::HashSet<&String> = names.iter().collect();
        let new: Vec<String> = beginning.names.iter().filter(|name| !there.contains(name)).cloned().collect();
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
pub fn dialects(paths: &[&Path], how: &TextOptions, stop: &CancellationToken) -> io::Result<Vec<CsvDialect>> {
    let said = &how.csv;
    let mark = |byte: u8| if byte == b'\t' { "tab".to_owned() } else { char::from(byte).to_string() };
    let mut all = Vec::new();
    for path in paths {
        let Some(Beginning { sniff, names, guesses, encoding, .. }) = Beginning::read(path, said, stop)? else { continue };
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

/// Reads CSV files into batches. Gives the schema first, to `open`, and at the end what a person should know of what was guessed.
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
        let there: Vec<String> = names.iter().take(COLUMNS_NAMED).map(|name| format!("`{name}`")).collect();
        let more = if names.len() > there.len() { ", …" } else { "" };
        return Err(invalid(FileError::NoColumn { column: column.clone(), there: format!("{}{more}", there.join(", ")) }));
    }
    let kept = |name: &str| how.kept.as_deref().and_then(|schema| schema.field_with_name(name).ok()).map(Field::data_type);
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
    let columns = || names.iter().zip(&facts).zip(&kinds).map(|((name, facts), kind)| (name.as_str(), facts, kind));
    if how.kept.is_some() && !said.all_text {
        notes.extend(tally::kept_notes(columns().filter(|(name, ..)| !said.kinds.contains_key(*name))));
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
        notes.extend(tally::notes(columns().filter(|(name, ..)| !said.kinds.contains_key(*name)), paths, false));
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, Int64Type};
    use arrow_array::{Array, RecordBatch};
    use arrow_schema::DataType;
    use proptest::prelude::*;

    use super::*;

    fn of(bytes: &[u8]) -> (SchemaRef, Vec<RecordBatch>, Vec<(u64, String)>) {
        let (schema, batches, bad, _) = several(&[bytes], &CsvOptions::default());
        (schema, batches, bad)
    }

    type Outcome = (SchemaRef, Vec<RecordBatch>, Vec<(u64, String)>, Vec<String>);

    fn several(files: &[&[u8]], said: &CsvOptions) -> Outcome {
        tried(files, said).expect("read")
    }

    fn tried(files: &[&[u8]], said: &CsvOptions) -> io::Result<Outcome> {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let paths: Vec<PathBuf> = (0..files.len()).map(|i| folder.path().join(format!("{i}.csv"))).collect();
        paths.iter().zip(files).for_each(|(path, bytes)| std::fs::write(path, bytes).expect("written"));
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
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
        let how = TextOptions { csv: said.clone(), ..TextOptions::by(2) };
        let mut told = |_: &Path, row, why| bad.push((row, why));
        let notes = read(&paths, &how, &CancellationToken::new(), &mut open, &mut take, &mut told)?;
        Ok((schema.into_inner().expect("a schema"), batches.into_inner(), bad, notes))
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
        assert!(bad.len() == 1 && bad[0].0 == 3 && bad[0].1.starts_with("has 2 fields, the header has 5 (--null-padding"), "{bad:?}");
        assert_eq!(of(b"id,n\n12345678901234567890,1\n2,2\n").0.field(0).data_type(), &DataType::UInt64, "to the last digit");
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
        assert_eq!(bad, [(1, "line 2 opens a quote that is not closed before the file ends".to_owned())]);
        let long = format!("a,b\n1,{}\n2,y\n", "z".repeat(RECORD_BYTES_MAX + 10));
        let (_, batches, bad) = of(long.as_bytes());
        assert_eq!((batches[0].num_rows(), bad.len()), (1, 1), "{:?}", bad.first().map(|(_, why)| why));
    }

    fn types(schema: &SchemaRef) -> Vec<String> {
        schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
    }

    fn rows(batches: &[RecordBatch]) -> Vec<String> {
        let options = arrow_cast::display::FormatOptions::default().with_null("NULL");
        let mut rows = Vec::new();
        for batch in batches {
            let columns: Vec<_> =
                batch.columns().iter().map(|c| arrow_cast::display::ArrayFormatter::try_new(c, &options).expect("shown")).collect();
            rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|")));
        }
        rows
    }

    #[test]
    fn numbers_and_dates_are_what_stands_there_or_text_that_says_why() {
        for (text, kind, first) in [
            ("v\n9007199254740993\n0.5\n", "Decimal128(18, 1)", "9007199254740993.0"),
            ("v\n99999999999999.99\n1.5\n1234567890123456.7\n", "Decimal128(18, 2)", "99999999999999.99"),
            ("v\n0.5\n0.05123456789012345\n0.25\n", "Float64", "0.5"),
            ("v\n.5\n0.25\n-.75\n", "Float64", "0.5"),
            ("v\n34\nNA\nNULL\n\\N\n41\n", "Int64", "34"),
            ("v\n007\n8\n", "Utf8", "007"),
            ("v\n18446744073709551615\n5\n", "UInt64", "18446744073709551615"),
            ("v\n2024-01-31\n", "Date32", "2024-01-31"),
        ] {
            let (schema, batches, _, _) = several(&[text.as_bytes()], &CsvOptions::default());
            assert_eq!((schema.field(0).data_type().to_string().as_str(), rows(&batches)[0].as_str()), (kind, first), "{text}");
        }
        let notes = |text: &str| several(&[text.as_bytes()], &CsvOptions::default()).3.join("\n");
        assert!(notes("v\n007\n8\n").contains("digits after a zero, such as `007`"));
        assert!(notes("v\n34\nNA\n\\N\n").contains("2 of 3 values are words for no value, and became NULL"));
        assert!(notes("v\n1\n2\n3\nx\n").contains("1 other texts, such as `x` (0.csv row 4)"));
        assert_eq!(notes("v,w\n1,a\n2,7\n,b\n"), "", "nothing to be said");
    }

    #[test]
    fn files_are_read_as_people_write_them_and_guesses_are_said() {
        let utf_16: Vec<u8> = "\u{feff}id,name\r\n1,Zo\u{eb}\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let cases: &[(&[u8], &str, &str, &str)] = &[
            (&utf_16, "id Int64, name Utf8", "1|Zo\u{eb}", "UTF-16LE"),
            (b"id,Gr\xf6\xdfe\n1,klein\n", "id Int64, Gr\u{f6}\u{df}e Utf8", "1|klein", "Windows-1252"),
            (b"sep=;\nid;name\n1;Anna\n", "id Int64, name Utf8", "1|Anna", ""),
            (b"a,b,,\n1,2,,\n", "a Int64, b Int64, column3 Utf8, column4 Utf8", "1|2|NULL|NULL", "column 3 (``) is `column3`"),
            (b"a,a,a_2\n1,2,3\n", "a Int64, a_3 Int64, a_2 Int64", "1|2|3", "column 2 (`a`) is `a_3`"),
            (
                b"id,text\n1,\"He said \\\"hi\\\" twice\"\n2,\"x, \\\"y\\\", z\"\n",
                "id Int64, text Utf8",
                "1|He said \"hi\" twice",
                "backslash",
            ),
            (b"id, name, note\n1, \"Smith, John\", ok\n", "id Int64, name Utf8, note Utf8", "1|Smith, John|ok", "spaces"),
            (b"# exported 2024\n# by tool, v1\nid,name\n1,Anna\n", "id Int64, name Utf8", "1|Anna", "2 lines of comment"),
            (b"Report of May\n\nid,name,x\n1,Anna,2\n2,Bob,3\n", "id Int64, name Utf8, x Int64", "1|Anna|2", "1 line before the header"),
            (b"1,2\n3,4\n", "column1 Int64, column2 Int64", "1|2", "no header"),
            (b"1|Anna|2.5\n3|Bob|4.5\n", "column1 Int64, column2 Utf8, column3 Float64", "1|Anna|2.5", "no header"),
            (b"land,2019,2020\nFrance,1,2\n", "land Utf8, 2019 Int64, 2020 Int64", "France|1|2", "though it has `2019`"),
            (b"land,2019\nFrance,1\n", "land Utf8, 2019 Int64", "France|1", "though it has `2019`"),
            (b"name,2\n1,2\n", "name Int64, 2 Int64", "1|2", "though it has `2`"),
            (
                b"\"Last, first\";\"City, state\"\n\"Smith, J\";\"Rome, IT\"\n",
                "Last, first Utf8, City, state Utf8",
                "Smith, J|Rome, IT",
                "`;`",
            ),
            (b"a;b\n1,5;2,5\n3,5;4,5\n", "a Utf8, b Utf8", "1,5|2,5", "`;`"),
        ];
        for (bytes, kinds, first, words) in cases {
            let (schema, batches, bad, notes) = several(&[*bytes], &CsvOptions::default());
            let of = String::from_utf8_lossy(bytes);
            assert_eq!((types(&schema).join(", ").as_str(), rows(&batches)[0].as_str(), bad.len()), (*kinds, *first, 0), "{of}: {notes:?}");
            assert!(notes.join("\n").contains(words), "{of}: {notes:?}");
        }
    }

    #[test]
    fn all_of_a_file_is_read_as_its_first_piece_is_guessed_or_not_at_all() {
        let row = format!("1,{}\n", "x".repeat(1000));
        let filled = |text: &mut Vec<u8>, bytes: usize| {
            while text.len() <= bytes {
                text.extend(row.as_bytes());
            }
        };
        let mut text = b"id,t\n".to_vec();
        filled(&mut text, 1 << 20);
        text.extend(b"2,a \x96 b\n");
        let (_, batches, bad, notes) = several(&[&text], &CsvOptions::default());
        assert_eq!((rows(&batches).last().map(String::as_str), bad.len()), (Some("2|a \u{2013} b"), 0));
        assert!(notes.join("\n").contains("Windows-1252"), "{notes:?}");
        filled(&mut text, PIECE_BYTES);
        let at = text.len() + "3,Zo".len();
        text.extend("3,Zo\u{eb}\n".as_bytes());
        let refused = tried(&[&text], &CsvOptions::default()).expect_err("of two encodings").to_string();
        for words in ["0.csv", &format!("UTF-8 from byte {at} on"), "--encoding"] {
            assert!(refused.contains(words), "{words}: {refused}");
        }
        let said = CsvOptions { encoding: Some(Encoding::Windows1252), ..CsvOptions::default() };
        assert_eq!(rows(&several(&[&text], &said).1).last().map(String::as_str), Some("3|Zo\u{c3}\u{ab}"));
    }

    #[test]
    fn a_header_may_be_longer_than_what_a_dialect_is_told_by() {
        let name = "n".repeat(dialect::LOOKED_BYTES + 10);
        let (schema, batches, _, _) = several(&[format!("id,{name}\n1,2\n").as_bytes()], &CsvOptions::default());
        assert_eq!((schema.field(1).name(), rows(&batches)), (&name, vec!["1|2".to_owned()]));
    }

    #[test]
    fn columns_of_several_files_meet_by_name() {
        let (schema, batches, _, notes) = several(&[b"id,name\n1,Anna\n", b"name,id,new\nBob,2,0.5\n"], &CsvOptions::default());
        assert_eq!(types(&schema), ["id Int64", "name Utf8", "new Float64"]);
        assert_eq!(rows(&batches), ["1|Anna|NULL", "2|Bob|0.5"]);
        assert!(notes.iter().any(|note| note.contains("by name")), "{notes:?}");
    }

    #[test]
    fn what_is_said_is_not_guessed() {
        let said = |said: CsvOptions, text: &str| rows(&several(&[text.as_bytes()], &said).1);
        let default = CsvOptions::default;
        assert_eq!(said(CsvOptions { header: Some(true), ..default() }, "1,2\n3,4\n"), ["3|4"]);
        assert_eq!(said(CsvOptions { header: Some(false), ..default() }, "a,b\n3,4\n"), ["a|b", "3|4"]);
        assert_eq!(said(CsvOptions { delimiter: Some(b'^'), ..default() }, "a^b\n3,1^4\n"), ["3,1|4"]);
        assert_eq!(said(CsvOptions { skip: Some(1), ..default() }, "x,y\na,b\n3,4\n"), ["3|4"]);
        assert_eq!(said(CsvOptions { nulls: Some(vec!["-".into()]), ..default() }, "a,b\n-,NA\n3,x\n"), ["NULL|NA", "3|x"]);
        assert_eq!(said(CsvOptions { all_text: true, ..default() }, "a,b\n007,1e3\n"), ["007|1e3"]);
        assert_eq!(said(CsvOptions { quote: Some(None), ..default() }, "a,b\n\"x,1\n"), ["\"x|1"]);
        assert_eq!(said(CsvOptions { padded: true, ..default() }, "a,b\n1\n2,3\n"), ["1|NULL", "2|3"]);
        let comma = CsvOptions { decimal_comma: true, ..default() };
        assert_eq!(said(comma.clone(), "a;b;c\n1,5;1.234,25;1.5\n-0,25;7;x\n"), ["1.5|1234.25|1.5", "-0.25|7.0|x"]);
        assert_eq!(said(comma, "a;b\n1.234;12:00:00.5\n"), ["1234|12:00:00.500"]);
        let dates = |order| CsvOptions { dates: order, ..default() };
        assert_eq!(said(dates(DateOrder::DayFirst), "d,t\n31/01/2024,1.2.2024 12:30\n"), ["2024-01-31|2024-02-01T12:30:00"]);
        assert_eq!(said(dates(DateOrder::MonthFirst), "d,e\n01/31/2024,31/01/2024\n"), ["2024-01-31|31/01/2024"]);
    }

    #[test]
    fn columns_are_of_the_types_that_are_said_and_values_that_are_not_are_named() {
        let kinds = |said: &[(&str, &str)]| CsvOptions {
            kinds: said.iter().map(|(name, kind)| ((*name).to_owned(), Kind::named(kind).expect("a type"))).collect(),
            ..CsvOptions::default()
        };
        let text = b"zip,n,ok,price\n00123,007,1,1.5\n4,x,0,2\n5,6,2,3\n".as_slice();
        let said = kinds(&[("zip", "text"), ("n", "int64"), ("ok", "boolean"), ("price", "decimal(10,2)")]);
        let (schema, batches, bad, notes) = several(&[text], &said);
        assert_eq!(types(&schema), ["zip Utf8", "n Int64", "ok Boolean", "price Decimal128(10, 2)"]);
        assert_eq!(rows(&batches), ["00123|7|true|1.50"]);
        assert_eq!((bad.len(), bad[0].1.as_str()), (2, "column `n`: `x` is no Int64, which --types says it is"), "{bad:?}");
        assert!(bad[1].1.contains("`ok`") && notes.is_empty(), "{bad:?} {notes:?}");
        let refused = tried(&[text], &kinds(&[("id", "int64")])).expect_err("no such column").to_string();
        assert!(refused.contains("no column `id`") && refused.contains("`zip`"), "{refused}");
        assert!(Kind::named("decimal(39,2)").is_none() && Kind::named("number").is_none());
    }

    #[test]
    fn a_blank_line_of_a_table_of_one_column_is_a_row() {
        for (text, expected) in [
            ("a\n1\n\n2\n", vec!["1", "NULL", "2"]),
            ("a\r\n1\r\n\r\n2\r\n", vec!["1", "NULL", "2"]),
            ("a\n\n1\n\n\n", vec!["NULL", "1", "NULL", "NULL"]),
            ("a\n\"x\n\ny\"\n\nz", vec!["x\n\ny", "NULL", "z"]),
        ] {
            assert_eq!(rows(&of(text.as_bytes()).1), expected, "{text:?}");
        }
        assert_eq!(rows(&of(b"a,b\n1,2\n\n3,4\n").1), ["1|2", "3|4"]);
    }

    #[test]
    fn tables_that_have_nothing_in_common_are_no_dataset_unless_it_is_said() {
        let files = [b"id,name\n1,Anna\n".as_slice(), b"city,zip\nRome,7\n".as_slice()];
        let refused = tried(&files, &CsvOptions::default()).expect_err("two tables").to_string();
        assert!(refused.contains("1.csv") && refused.contains("no column in common"), "{refused}");
        let check = |own: &[&str], union| ApartError::check(&["a", "b"], own, union).map_err(|error| error.to_string());
        assert_eq!(check(&["c"], Some(true)), Ok(()));
        assert_eq!(check(&["b", "a"], Some(false)), Ok(()));
        let refused = check(&["a", "c"], Some(false)).expect_err("other columns");
        assert!(refused.contains("more: `c`; missing: `b`"), "{refused}");
    }

    proptest! {
        #[test]
        fn doubles_come_back_bit_for_bit(bits in proptest::collection::vec(any::<u64>(), 1..50)) {
            let values: Vec<f64> = bits.into_iter().map(f64::from_bits).filter(|value| value.is_finite()).collect();
            prop_assume!(!values.is_empty());
            let text: String = std::iter::once("v\n".to_owned()).chain(values.iter().map(|value| format!("{value:e}\n"))).collect();
            let batches = of(text.as_bytes()).1;
            let read: Vec<u64> = batches.iter().flat_map(|b| b.column(0).as_primitive::<Float64Type>().values().to_vec()).map(f64::to_bits).collect();
            prop_assert_eq!(read, values.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
        }

        /// Cut anywhere, a file's pieces hold the records that the csv crate finds in the whole.
        #[test]
        fn pieces_are_cut_between_records(rows in proptest::collection::vec(("[a\"\n, ;é]{0,9}", "[a\"\n, ]{0,9}", "[0-9]{0,3}"), 0..60), cut in 1_usize..400) {
            let mut writer = ::csv::Writer::from_writer(Vec::new());
            writer.write_record(["x", "y", "z"]).expect("written");
            rows.iter().for_each(|(a, b, c)| writer.write_record([a, b, c]).expect("written"));
            let bytes = writer.into_inner().expect("bytes");
            let dialect = Dialect { delimiter: b',', quote: Some(b'"'), escape: None, spaced: false };
            let (end, open) = dialect.last_record(&bytes);
            prop_assert!(!open && end == Some(bytes.len()));
            let part = &bytes[..cut.min(bytes.len())];
            let end = dialect.last_record(part).0.unwrap_or(0);
            let count = |bytes: &[u8]| dialect.records(bytes).byte_records().count();
            prop_assert_eq!(count(&bytes[..end]) + count(&bytes[end..]), count(&bytes));
        }
    }
}
