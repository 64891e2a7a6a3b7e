//! JSON lines: an object a line. The schema is that of all lines, so the input is read twice.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use arrow_json::ReaderBuilder;
use arrow_json::reader::infer_json_schema_from_iterator;
use arrow_schema::{Schema, SchemaRef};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::csv::{Open, Quarantine, RECORD_BYTES_MAX, Take};
use crate::source::open;

/// Rows a batch.
const BATCH_ROWS: usize = 8192;

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
    let invalid = |error: arrow_schema::ArrowError| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut merged = Schema::empty();
    for path in paths {
        let mut values = Vec::new();
        let mut infer = |values: &mut Vec<Value>| -> io::Result<()> {
            let own = infer_json_schema_from_iterator(values.drain(..).map(Ok)).map_err(invalid)?;
            merged = Schema::try_merge([merged.clone(), own]).map_err(invalid)?;
            Ok(())
        };
        lines(path, stop, &mut |_, _, _| {}, &mut |_, _, value| {
            values.push(value);
            if values.len() == BATCH_ROWS { infer(&mut values) } else { Ok(()) }
        })?;
        infer(&mut values)?;
    }
    let schema: SchemaRef = Arc::new(merged);
    open_sink(Arc::clone(&schema))?;
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
        lines(path, stop, bad, &mut |_, n, value| {
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

    use super::*;

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
