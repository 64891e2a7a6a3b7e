//! A piece of a CSV file into batches of the types that were inferred, and what was seen in it.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::DataType;

use super::dialect::blank_lines;
use super::{CsvTable, Layout, RECORD_BYTES_MAX};
use crate::lattice::cells::Cells;
use crate::lattice::{Facts, Value};
use crate::passes::{BATCH_ROWS, PieceRows};

/// Characters of a value that is shown.
const SHOWN_CHARS: usize = 40;

/// Why a record is left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum RecordError {
    #[error(
        "has {fields} fields, the header has {columns} (--null-padding reads what is missing as NULL)"
    )]
    TooFew { fields: usize, columns: usize },
    #[error("has {fields} fields, the header has {columns}")]
    TooMany { fields: usize, columns: usize },
    #[error("has {bytes} bytes, a record at most {RECORD_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("is not UTF-8")]
    NotUtf8,
    #[error("column `{column}`: `{text}` is no {kind}, which --types says it is")]
    Unfit { column: String, text: String, kind: DataType },
}

fn usable(record: &::csv::ByteRecord, columns: usize, padded: bool) -> Result<&str, RecordError> {
    let fields = record.len();
    if fields > columns {
        return Err(RecordError::TooMany { fields, columns });
    }
    if fields < columns && !padded {
        return Err(RecordError::TooFew { fields, columns });
    }
    if record.as_slice().len() > RECORD_BYTES_MAX {
        return Err(RecordError::TooLong { bytes: record.as_slice().len() });
    }
    std::str::from_utf8(record.as_slice()).map_err(|_| RecordError::NotUtf8)
}

/// A field of a record whose bytes are known to be text; of one that is missing, nothing.
fn field<'a>(record: &::csv::ByteRecord, text: &'a str, at: usize) -> &'a str {
    record.range(at).and_then(|range| text.get(range)).unwrap_or_default()
}

impl CsvTable<'_> {
    /// What a field of a column says.
    fn value(&self, field: &str, place: usize) -> Value {
        let value = match (self.said.value(field), &self.said.nulls) {
            (Value::Null, _) => return Value::Null,
            (_, Some(nulls)) if nulls.iter().any(|null| null == field) => return Value::Null,
            // Only what was said is no value.
            (Value::Absent, Some(_)) => Value::Text,
            (value, _) => value,
        };
        match &self.said_kinds[place] {
            Some(kind) => kind.meant(value, field),
            None if self.said.all_text => Value::Text,
            None => value,
        }
    }

    fn batch(&self, columns: &mut [Cells]) -> io::Result<RecordBatch> {
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            columns.iter_mut().map(Cells::finish).collect(),
        )
        .map_err(io::Error::other)
    }
}

/// A piece on its way into batches.
struct PieceParser<'a> {
    table: &'a CsvTable<'a>,
    layout: &'a Layout,
    out: PieceRows<Vec<Facts>>,
    facts: Vec<Facts>,
    columns: Vec<Cells>,
    /// Columns of the table that the file does not have.
    absent: Vec<usize>,
    build: bool,
    held: usize,
}

impl PieceParser<'_> {
    /// Adds a record; what it has too few of is NULL.
    fn add(&mut self, record: &::csv::ByteRecord, text: &str) -> io::Result<()> {
        if let Some(error) = self.unfit(record, text) {
            self.out.bad(error.to_string());
            return Ok(());
        }
        let building = self.build && self.out.fits;
        for (at, place) in self.layout.places.iter().enumerate() {
            let field = field(record, text, at);
            let value = self.table.value(field, *place);
            self.facts[*place].add(&value, field, self.out.records);
            if building {
                self.out.fits &= self.columns[*place].push(&value, field);
            }
        }
        if !self.build || !self.out.fits {
            return Ok(());
        }
        for place in &self.absent {
            self.columns[*place].push_null();
        }
        self.held += 1;
        if self.held == BATCH_ROWS {
            self.out.batches.push(self.table.batch(&mut self.columns)?);
            self.held = 0;
        }
        Ok(())
    }

    /// Adds records that have nothing in them: of a table of one column, blank lines.
    fn add_blank(&mut self, lines: u64) -> io::Result<()> {
        for _ in 0..lines {
            self.out.records += 1;
            self.add(&::csv::ByteRecord::new(), "")?;
        }
        Ok(())
    }

    /// Why a record's values are not of the types that somebody said, if they are not.
    fn unfit(&self, record: &::csv::ByteRecord, text: &str) -> Option<RecordError> {
        if self.table.said.kinds.is_empty() {
            return None;
        }
        self.layout.places.iter().enumerate().find_map(|(at, place)| {
            let kind = self.table.said_kinds[*place].as_ref()?;
            let field = field(record, text, at);
            let column = || self.table.names[*place].clone();
            let unfit = || RecordError::Unfit {
                column: column(),
                text: field.chars().take(SHOWN_CHARS).collect(),
                kind: kind.arrow(),
            };
            (!kind.holds(&self.table.value(field, *place))).then(unfit)
        })
    }

    fn finish(mut self) -> io::Result<PieceRows<Vec<Facts>>> {
        if !self.out.fits {
            self.out.batches.clear();
        } else if self.held > 0 {
            self.out.batches.push(self.table.batch(&mut self.columns)?);
        }
        self.out.facts = Some(self.facts);
        Ok(self.out)
    }
}

/// Parses the records of a piece; if a type does not hold a value, only looks at the rest.
pub(super) fn parse(
    bytes: &[u8],
    layout: &Layout,
    table: &CsvTable<'_>,
    build: bool,
) -> io::Result<PieceRows<Vec<Facts>>> {
    let columns: Vec<Cells> =
        if build { table.kinds.iter().map(Cells::new).collect() } else { Vec::new() };
    let mut absent = vec![true; table.kinds.len()];
    layout.places.iter().for_each(|place| absent[*place] = false);
    let absent: Vec<usize> = (0..absent.len()).filter(|place| absent[*place]).collect();
    let unspaced = if layout.dialect.spaced {
        Cow::Owned(layout.dialect.unspaced(bytes.to_vec()))
    } else {
        Cow::Borrowed(bytes)
    };
    let facts = vec![Facts::default(); table.kinds.len()];
    let mut parser = PieceParser {
        table,
        layout,
        out: PieceRows::new(bytes.len()),
        facts,
        columns,
        absent,
        build,
        held: 0,
    };
    let (mut reader, mut record) = (layout.dialect.records(&unspaced), ::csv::ByteRecord::new());
    let is_single = layout.places.len() == 1;
    loop {
        let before = usize::try_from(reader.position().byte()).unwrap_or(usize::MAX);
        let is_there = reader.read_byte_record(&mut record)?;
        if is_single {
            parser.add_blank(blank_lines(&unspaced, before))?;
        }
        if !is_there {
            return parser.finish();
        }
        parser.out.records += 1;
        match usable(&record, layout.places.len(), table.said.padded) {
            Ok(text) => parser.add(&record, text)?,
            Err(error) => parser.out.bad(error.to_string()),
        }
    }
}
