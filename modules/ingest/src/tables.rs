//! Tables in text: CSV and JSONL. Types are inferred over the whole input before a row is written, so that no value is
//! ever forced into a type that an earlier row suggested.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_json::ReaderBuilder;
use arrow_json::reader::infer_json_schema_from_iterator;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde_json::Value;

/// Rows a batch.
const BATCH_ROWS: usize = 8192;
/// Longest line of JSONL and longest CSV record.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// Where a bad row is told.
pub type Quarantine<'a> = dyn FnMut(&Path, u64, String) + 'a;
/// Where batches go; an error ends the reading.
pub type Take<'a> = dyn FnMut(RecordBatch, u64) -> io::Result<()> + 'a;

/// Type of a CSV column, narrowest first.
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
fn delimiter(path: &Path) -> io::Result<u8> {
    let mut line = String::new();
    io::Read::take(BufReader::new(File::open(path)?), 64 * 1024).read_line(&mut line)?;
    let count = |d: u8| line.bytes().filter(|b| *b == d).count();
    Ok(*b",;\t|".iter().rev().max_by_key(|d| count(**d)).unwrap_or(&b','))
}

fn csv_reader(path: &Path) -> io::Result<csv::Reader<File>> {
    Ok(csv::ReaderBuilder::new().delimiter(delimiter(path)?).flexible(true).from_path(path)?)
}

/// Reads CSV files with one header into batches. Gives the schema first, to `open`.
///
/// # Errors
/// If a file cannot be read, or has another header than the first.
pub fn csv(
    paths: &[&Path],
    open: &mut dyn FnMut(SchemaRef) -> io::Result<()>,
    take: &mut Take<'_>,
    bad: &mut Quarantine<'_>,
) -> io::Result<()> {
    let mut header: Vec<String> = Vec::new();
    let mut kinds: Vec<Kind> = Vec::new();
    let mut nulls: Vec<bool> = Vec::new();
    let invalid = |path: &Path, why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()));
    for path in paths {
        let mut reader = csv_reader(path)?;
        let own: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        if header.is_empty() {
            header.clone_from(&own);
            kinds = vec![Kind::Empty; own.len()];
            nulls = vec![false; own.len()];
        } else if header != own {
            return Err(invalid(path, format!("has the columns {own:?}, the first file has {header:?}")));
        }
        let mut record = csv::ByteRecord::new();
        while reader.read_byte_record(&mut record)? {
            let Some(fields) = usable(&record, header.len()).ok() else { continue };
            for (i, field) in fields.iter().enumerate() {
                nulls[i] |= field.is_empty();
                kinds[i] = kinds[i].join(Kind::of(field));
            }
        }
    }
    let fields: Vec<Field> = header.iter().zip(&kinds).map(|(name, kind)| Field::new(name, kind.arrow(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    open(Arc::clone(&schema))?;
    for path in paths {
        let mut reader = csv_reader(path)?;
        let mut record = csv::ByteRecord::new();
        let mut rows = 0_u64;
        let mut columns: Vec<Column> = kinds.iter().map(|k| Column::new(*k)).collect();
        let mut held = 0;
        let mut last = 0;
        while reader.read_byte_record(&mut record)? {
            rows += 1;
            match usable(&record, header.len()) {
                Ok(fields) => {
                    fields.iter().zip(&mut columns).for_each(|(field, column)| column.push(field));
                    held += 1;
                }
                Err(why) => bad(path, rows, why),
            }
            if held == BATCH_ROWS {
                let at = reader.position().byte();
                take(batch(&schema, &mut columns)?, at - last)?;
                (held, last) = (0, at);
            }
        }
        if held > 0 {
            take(batch(&schema, &mut columns)?, reader.position().byte() - last)?;
        }
    }
    Ok(())
}

fn usable(record: &csv::ByteRecord, columns: usize) -> Result<Vec<&str>, String> {
    if record.len() != columns {
        return Err(format!("has {} fields, the header has {columns}", record.len()));
    }
    if record.as_slice().len() > RECORD_BYTES_MAX {
        return Err(format!("has {} bytes, a record at most {RECORD_BYTES_MAX}", record.as_slice().len()));
    }
    record.iter().map(|field| std::str::from_utf8(field).map_err(|_| "is not UTF-8".to_owned())).collect()
}

enum Column {
    Boolean(BooleanBuilder),
    Integer(Int64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
}

impl Column {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Boolean => Self::Boolean(BooleanBuilder::new()),
            Kind::Integer => Self::Integer(Int64Builder::new()),
            Kind::Float => Self::Float(Float64Builder::new()),
            Kind::Empty | Kind::Text => Self::Text(StringBuilder::new()),
        }
    }

    /// The whole input was looked at before: what does not parse here is an empty field, and NULL.
    fn push(&mut self, field: &str) {
        match self {
            Self::Boolean(b) => b.append_option(field.to_ascii_lowercase().parse().ok()),
            Self::Integer(b) => b.append_option(field.parse().ok()),
            Self::Float(b) => b.append_option(field.parse().ok()),
            Self::Text(b) if field.is_empty() => b.append_null(),
            Self::Text(b) => b.append_value(field),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(b) => Arc::new(b.finish()),
            Self::Integer(b) => Arc::new(b.finish()),
            Self::Float(b) => Arc::new(b.finish()),
            Self::Text(b) => Arc::new(b.finish()),
        }
    }
}

fn batch(schema: &SchemaRef, columns: &mut [Column]) -> io::Result<RecordBatch> {
    RecordBatch::try_new(Arc::clone(schema), columns.iter_mut().map(Column::finish).collect()).map_err(io::Error::other)
}

/// The good lines of a JSONL file as objects, with their number and length.
fn lines(path: &Path, bad: &mut Quarantine<'_>, each: &mut dyn FnMut(u64, usize, Value) -> io::Result<()>) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let n = io::Read::take(&mut reader, RECORD_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
        if n == 0 {
            break;
        }
        if n == RECORD_BYTES_MAX && line.last() != Some(&b'\n') {
            bad(path, number, format!("is longer than {RECORD_BYTES_MAX} bytes"));
            reader.skip_until(b'\n')?;
            continue;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice::<Value>(&line) {
            Ok(value @ Value::Object(_)) => each(number, n, value)?,
            Ok(_) => bad(path, number, "is JSON but no object".into()),
            Err(error) => bad(path, number, format!("is not JSON: {error}")),
        }
    }
    Ok(())
}

/// Reads JSONL files into batches. Gives the schema first, to `open`.
///
/// # Errors
/// If a file cannot be read, or one key has values that no single type holds.
pub fn jsonl(
    paths: &[&Path],
    open: &mut dyn FnMut(SchemaRef) -> io::Result<()>,
    take: &mut Take<'_>,
    bad: &mut Quarantine<'_>,
) -> io::Result<()> {
    let invalid = |error: arrow_schema::ArrowError| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let mut merged = Schema::empty();
    for path in paths {
        let mut values = Vec::new();
        let mut infer = |values: &mut Vec<Value>| -> io::Result<()> {
            let own = infer_json_schema_from_iterator(values.drain(..).map(Ok)).map_err(invalid)?;
            merged = Schema::try_merge([merged.clone(), own]).map_err(invalid)?;
            Ok(())
        };
        lines(path, &mut |_, _, _| {}, &mut |_, _, value| {
            values.push(value);
            if values.len() == BATCH_ROWS { infer(&mut values) } else { Ok(()) }
        })?;
        infer(&mut values)?;
    }
    let schema: SchemaRef = Arc::new(merged);
    open(Arc::clone(&schema))?;
    for path in paths {
        let mut decoder = ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(BATCH_ROWS).build_decoder().map_err(invalid)?;
        let (mut held, mut bytes) = (Vec::new(), 0_u64);
        let mut flush = |held: &mut Vec<Value>, bytes: &mut u64| -> io::Result<()> {
            decoder.serialize(held).map_err(invalid)?;
            held.clear();
            if let Some(batch) = decoder.flush().map_err(invalid)? {
                take(batch, std::mem::take(bytes))?;
            }
            Ok(())
        };
        lines(path, bad, &mut |_, n, value| {
            bytes += n as u64;
            held.push(value);
            if held.len() == BATCH_ROWS { flush(&mut held, &mut bytes) } else { Ok(()) }
        })?;
        flush(&mut held, &mut bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, Int64Type};

    use super::*;

    type Read = fn(&[&Path], &mut dyn FnMut(SchemaRef) -> io::Result<()>, &mut Take<'_>, &mut Quarantine<'_>) -> io::Result<()>;

    fn read(how: Read, text: &str) -> (SchemaRef, RecordBatch, Vec<(u64, String)>) {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        let (mut schema, mut batches, mut bad) = (None, Vec::new(), Vec::new());
        how(
            &[file.path()],
            &mut |s| {
                schema = Some(s);
                Ok(())
            },
            &mut |b, _| {
                batches.push(b);
                Ok(())
            },
            &mut |_, row, why| bad.push((row, why)),
        )
        .expect("read");
        (schema.expect("a schema"), batches.remove(0), bad)
    }

    #[test]
    fn csv_types_hold_for_every_row_and_bad_rows_are_named() {
        let (schema, batch, bad) =
            read(csv, "id;zip;price;ok;note\n1;00123;1.5;true;x\n2;4;2;false;\n3;only three\n-4;5;1e3;true;\"a;b\"\n");
        let types: Vec<&DataType> = schema.fields().iter().map(|f| f.data_type()).collect();
        assert_eq!(types, [&DataType::Int64, &DataType::Utf8, &DataType::Float64, &DataType::Boolean, &DataType::Utf8]);
        assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[1, 2, -4]);
        assert_eq!(batch.column(2).as_primitive::<Float64Type>().values(), &[1.5, 2.0, 1000.0]);
        assert!(batch.column(4).is_null(1));
        assert_eq!(bad, [(3, "has 2 fields, the header has 5".to_owned())]);
    }

    #[test]
    fn long_identifiers_stay_text() {
        let (schema, ..) = read(csv, "id,n\n12345678901234567890,1\n2,2\n");
        assert_eq!(schema.field(0).data_type(), &DataType::Utf8);
    }

    #[test]
    fn jsonl_reads_objects_and_names_the_rest() {
        let (schema, batch, bad) = read(jsonl, "{\"a\":1}\nnot json\n\n[1]\n{\"a\":2,\"b\":{\"c\":[\"x\"]}}\n");
        assert_eq!(schema.fields().len(), 2);
        assert_eq!(batch.num_rows(), 2);
        assert_eq!(bad.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [2, 4]);
    }
}
