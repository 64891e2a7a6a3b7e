//! A piece of a CSV file into batches of the types that were inferred, or the types that it needs instead.

use std::io;
use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;

use super::RECORD_BYTES_MAX;
use super::kind::{Kind, plain_number};

/// Rows a batch.
const BATCH_ROWS: usize = 8192;
/// Bad records whose reason is kept; the rest are counted.
const REASONS_MAX: usize = 100;

/// The csv crate's reader, as all of this module reads.
pub(super) fn records(bytes: &[u8], delimiter: u8) -> ::csv::Reader<&[u8]> {
    ::csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).has_headers(false).from_reader(bytes)
}

/// What came of a piece.
#[derive(Default)]
pub(super) struct PieceRows {
    pub(super) batches: Vec<RecordBatch>,
    /// Records, bad ones too.
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) bad: Vec<(u64, String)>,
    /// Bad ones whose reason was not kept.
    pub(super) more_bad: u64,
    /// Of its values, if a column's type does not hold them.
    pub(super) kinds: Option<Vec<Kind>>,
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
pub(super) fn widen(bytes: &[u8], delimiter: u8, kinds: &mut [Kind]) -> io::Result<()> {
    let (mut reader, mut record) = (records(bytes, delimiter), ::csv::ByteRecord::new());
    while reader.read_byte_record(&mut record)? {
        let Ok(text) = usable(&record, kinds.len()) else { continue };
        for (kind, field) in kinds.iter_mut().zip(fields(&record, text)).filter(|(kind, _)| **kind != Kind::Text) {
            *kind = kind.join(Kind::of(field));
        }
    }
    Ok(())
}

/// Parses the records of a piece; if a type does not hold a value, gives those that would.
pub(super) fn parse(bytes: &[u8], delimiter: u8, kinds: &[Kind], schema: &SchemaRef) -> io::Result<PieceRows> {
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
