//! A piece of a CSV file into batches of the types that were inferred, and what was seen in it.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use arrow_array::RecordBatch;

use super::{CsvTable, Layout, RECORD_BYTES_MAX};
use crate::lattice::cells::Cells;
use crate::lattice::{Facts, Value};
use crate::passes::{BATCH_ROWS, PieceRows};

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

impl CsvTable<'_> {
    /// What a field says.
    fn value(&self, field: &str) -> Value {
        match (Value::of_field(field), &self.said.nulls) {
            (Value::Null, _) => Value::Null,
            (_, Some(nulls)) if nulls.iter().any(|null| null == field) => Value::Null,
            _ if self.said.all_text => Value::Text,
            // Only what was said is no value.
            (Value::Absent, Some(_)) => Value::Text,
            (value, _) => value,
        }
    }

    fn batch(&self, columns: &mut [Cells]) -> io::Result<RecordBatch> {
        RecordBatch::try_new(Arc::clone(&self.schema), columns.iter_mut().map(Cells::finish).collect()).map_err(io::Error::other)
    }
}

/// Parses the records of a piece; if a type does not hold a value, only looks at the rest.
pub(super) fn parse(bytes: &[u8], layout: &Layout, table: &CsvTable<'_>, build: bool) -> io::Result<PieceRows<Vec<Facts>>> {
    let mut out = PieceRows::new(bytes.len());
    let mut facts = vec![Facts::default(); table.kinds.len()];
    let mut columns: Vec<Cells> = if build { table.kinds.iter().map(Cells::new).collect() } else { Vec::new() };
    let mut absent = vec![true; table.kinds.len()];
    layout.places.iter().for_each(|place| absent[*place] = false);
    let absent: Vec<usize> = (0..absent.len()).filter(|place| absent[*place]).collect();
    let unspaced = if layout.dialect.spaced { Cow::Owned(layout.dialect.unspaced(bytes.to_vec())) } else { Cow::Borrowed(bytes) };
    let (mut reader, mut record, mut held) = (layout.dialect.records(&unspaced), ::csv::ByteRecord::new(), 0);
    while reader.read_byte_record(&mut record)? {
        out.records += 1;
        let text = match usable(&record, layout.places.len()) {
            Ok(text) => text,
            Err(error) => {
                out.bad(error.to_string());
                continue;
            }
        };
        let building = build && out.fits;
        for (field, place) in fields(&record, text).zip(&layout.places) {
            let value = table.value(field);
            facts[*place].add(&value, field, out.records);
            if building {
                out.fits &= columns[*place].push(&value, field);
            }
        }
        if !build || !out.fits {
            continue;
        }
        absent.iter().for_each(|place| columns[*place].push_null());
        held += 1;
        if held == BATCH_ROWS {
            out.batches.push(table.batch(&mut columns)?);
            held = 0;
        }
    }
    if !out.fits {
        out.batches.clear();
    } else if held > 0 {
        out.batches.push(table.batch(&mut columns)?);
    }
    out.facts = Some(facts);
    Ok(out)
}
