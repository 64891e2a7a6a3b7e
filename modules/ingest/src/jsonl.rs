//! JSON lines: one object per line. The schema is that of all lines, so the input is read twice. What no schema holds is named by file and
//! line.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_json::ReaderBuilder;
use arrow_json::reader::infer_json_schema_from_iterator;
use arrow_schema::{ArrowError, Schema, SchemaRef};
use serde_json::Value;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::csv::{Open, Quarantine, RECORD_BYTES_MAX, Take};
use crate::source::open;

/// Rows per batch.
const BATCH_ROWS: usize = 8192;

/// A line whose types do not fit those of the lines before it.
#[derive(Debug, Error)]
#[error("{} line {line}", .path.display())]
struct LineError {
    path: PathBuf,
    /// From 1.
    line: u64,
    #[source]
    source: ArrowError,
}

impl LineError {
    fn of(path: &Path, line: u64, source: ArrowError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, Self { path: path.to_owned(), line, source })
    }
}

/// Lines that are looked at together: their values, and their numbers beside them.
#[derive(Debug, Default)]
struct Lines {
    numbers: Vec<u64>,
    values: Vec<Value>,
}

impl Lines {
    fn push(&mut self, number: u64, value: Value) {
        self.numbers.push(number);
        self.values.push(value);
    }

    fn clear(&mut self) {
        self.numbers.clear();
        self.values.clear();
    }

    /// That the lines do not fit the schema so far: the first of them that makes the difference.
    fn mistyped(&self, path: &Path, merged: &Schema, error: ArrowError) -> io::Error {
        // As many fit, and as many do not.
        let (mut low, mut high, mut source) = (0, self.values.len(), error);
        while high - low > 1 {
            let middle = low.midpoint(high);
            match extended(merged, &self.values[..middle]) {
                Ok(_) => low = middle,
                Err(error) => (high, source) = (middle, error),
            }
        }
        LineError::of(path, self.numbers.get(high.saturating_sub(1)).copied().unwrap_or(0), source)
    }

    /// That the lines cannot be made into a batch: the first that cannot by itself.
    fn undecodable(&self, path: &Path, schema: &SchemaRef, error: ArrowError) -> io::Error {
        let mut each = self.numbers.iter().zip(&self.values);
        let found = each.find_map(|(number, value)| Some((*number, decoded(schema, std::slice::from_ref(value)).err()?)));
        let (line, source) = found.unwrap_or_else(|| (self.numbers.first().copied().unwrap_or(0), error));
        LineError::of(path, line, source)
    }
}

/// A schema with what more values need.
fn extended(merged: &Schema, values: &[Value]) -> Result<Schema, ArrowError> {
    let own = infer_json_schema_from_iterator(values.iter().map(Ok))?;
    Schema::try_merge([merged.clone(), own])
}

/// Values as a batch; none if there are no values.
fn decoded(schema: &SchemaRef, values: &[Value]) -> Result<Option<RecordBatch>, ArrowError> {
    let mut decoder = ReaderBuilder::new(Arc::clone(schema)).with_batch_size(BATCH_ROWS).build_decoder()?;
    decoder.serialize(values)?;
    decoder.flush()
}

/// The good lines of a JSONL file as objects, with their number and length.
fn lines(
    path: &Path,
    stop: &CancellationToken,
    bad: &mut Quarantine<'_>,
    each: &mut dyn FnMut(u64, usize, Value) -> io::Result<()>,
) -> io::Result<()> {
    let mut reader = BufReader::new(open(path, stop)?);
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
            Ok(_) => bad(path, number, "is JSON, but not an object".into()),
            Err(error) => bad(path, number, format!("is not JSON: {error}")),
        }
    }
    Ok(())
}

/// Reads JSONL files into batches. Gives the schema first, to `open`.
///
/// # Errors
/// If a file cannot be read, or one key has values that no single type holds, or `stop` is cancelled.
pub fn read(
    paths: &[&Path],
    stop: &CancellationToken,
    open_sink: &mut Open<'_>,
    take: &mut Take<'_>,
    bad: &mut Quarantine<'_>,
) -> io::Result<()> {
    let mut merged = Schema::empty();
    for path in paths {
        let mut held = Lines::default();
        let mut infer = |held: &mut Lines| -> io::Result<()> {
            merged = extended(&merged, &held.values).map_err(|error| held.mistyped(path, &merged, error))?;
            held.clear();
            Ok(())
        };
        lines(path, stop, &mut |_, _, _| {}, &mut |number, _, value| {
            held.push(number, value);
            if held.values.len() == BATCH_ROWS { infer(&mut held) } else { Ok(()) }
        })?;
        infer(&mut held)?;
    }
    let schema: SchemaRef = Arc::new(merged);
    open_sink(Arc::clone(&schema))?;
    for path in paths {
        let (mut held, mut bytes) = (Lines::default(), 0_u64);
        let mut flush = |held: &mut Lines, bytes: &mut u64| -> io::Result<()> {
            let batch = decoded(&schema, &held.values).map_err(|error| held.undecodable(path, &schema, error))?;
            held.clear();
            if let Some(batch) = batch {
                take(batch, std::mem::take(bytes))?;
            }
            Ok(())
        };
        lines(path, stop, bad, &mut |number, n, value| {
            bytes += n as u64;
            held.push(number, value);
            if held.values.len() == BATCH_ROWS { flush(&mut held, &mut bytes) } else { Ok(()) }
        })?;
        flush(&mut held, &mut bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_line_of_another_type_is_named_by_file_and_line() {
        for (lines, number) in
            [("{\"a\":1}\n\n{\"a\":{\"b\":2}}\n{\"a\":3}\n", 3), ("{\"a\":{\"b\":2}}\n{\"a\":{\"b\":3}}\n{\"a\":[1]}\n", 3)]
        {
            let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
            file.write_all(lines.as_bytes()).expect("written");
            let mut open = |_: SchemaRef| Ok(());
            let mut take = |_: RecordBatch, _: u64| Ok(());
            let error = read(&[file.path()], &CancellationToken::new(), &mut open, &mut take, &mut |_, _, _| {}).expect_err("refused");
            let words = error.to_string();
            assert!(words.contains(&format!("{} line {number}", file.path().display())), "{words}");
        }
    }

    #[test]
    fn objects_are_read_and_the_rest_is_named() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(b"{\"a\":1}\nnot json\n\n[1]\n{\"a\":2,\"b\":{\"c\":[\"x\"]}}\n").expect("written");
        let (mut fields, mut rows, mut bad) = (0, 0, Vec::new());
        let mut open = |schema: SchemaRef| {
            fields = schema.fields().len();
            Ok(())
        };
        let mut take = |batch: arrow_array::RecordBatch, _| {
            rows += batch.num_rows();
            Ok(())
        };
        read(&[file.path()], &CancellationToken::new(), &mut open, &mut take, &mut |_, row, _| bad.push(row)).expect("read");
        assert_eq!((fields, rows, bad), (2, 2, vec![2, 4]));
    }
}
