//! What Parquet objects say of themselves, and a few of their rows.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Decimal256Type};
use arrow_array::{Array, RecordBatch, make_array};
use arrow_json::ArrayWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema};
use brahman_card::interface::catalog::{Column, Object, masked};
use brahman_sidecar::chain;
use brahman_storage::buckets::Root;
use brahman_storage::digest::sha256_file;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};
use thiserror::Error;

/// Longest value in a sample.
const VALUE_CHARS: usize = 200;

/// An object that is no Parquet file, or cannot be read to its end.
#[derive(Debug, Error)]
#[error("{path}")]
struct ObjectError {
    path: String,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

fn broken(path: &Path, source: impl Error + Send + Sync + 'static) -> io::Error {
    let error = ObjectError { path: path.display().to_string(), source: Box::new(source) };
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Why a column has no JSON.
#[derive(Debug, Error)]
enum ColumnError {
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// An object as it lies in a bucket, and its schema.
///
/// # Errors
/// If it cannot be read, or is no Parquet file.
pub fn object(bucket: &str, root: &Root, key: &str) -> io::Result<(Object, Schema)> {
    let path = root.folder.join(key);
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(&path)?).map_err(|e| broken(&path, e))?;
    let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).map_err(|e| broken(&path, e))?;
    let (sha256, bytes) = sha256_file(&path)?;
    let object = Object { bucket: bucket.to_owned(), key: key.to_owned(), url: root.url_of(key), rows, bytes, sha256, path: None };
    Ok((object, builder.schema().as_ref().clone()))
}

/// Reads every page of an object, as whoever reads it will.
///
/// # Errors
/// If one cannot be decoded.
pub fn check_pages(path: &Path) -> io::Result<()> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).map_err(|e| broken(path, e))?;
    let reader = builder.build().map_err(|e| broken(path, e))?;
    for batch in reader {
        batch.map_err(|e| broken(path, e))?;
    }
    Ok(())
}

/// Columns of a schema; what only the reader knew is kept from the columns before.
#[must_use]
pub fn columns(schema: &Schema, before: &[Column]) -> Vec<Column> {
    let of = |field: &arrow_schema::Field| {
        let old = before.iter().find(|c| c.name == *field.name());
        let said = field.metadata().get("source_type").cloned();
        Column {
            name: field.name().clone(),
            arrow_type: field.data_type().to_string(),
            source_type: said.or_else(|| old.map(|c| c.source_type.clone())).unwrap_or_else(|| "parquet".into()),
            nulls_made: old.map_or(0, |c| c.nulls_made),
        }
    };
    schema.fields().iter().map(|field| of(field)).collect()
}

/// The first rows of an object, long values cut, some columns as shapes.
///
/// # Errors
/// If it cannot be read.
pub fn sample(path: &Path, rows: usize, hidden: &BTreeSet<String>, notes: &mut Vec<String>) -> io::Result<Vec<Value>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).map_err(|e| broken(path, e))?;
    let mut reader = builder.with_batch_size(rows).with_limit(rows).build().map_err(|e| broken(path, e))?;
    let Some(batch) = reader.next().transpose().map_err(|e| broken(path, e))? else { return Ok(Vec::new()) };
    let mut all = vec![Map::new(); batch.num_rows()];
    for (i, field) in batch.schema_ref().fields().iter().enumerate() {
        // By itself: a type that JSON cannot hold costs its own column.
        let shown = batch.project(&[i]).map_err(ColumnError::from).and_then(|column| json(&column));
        match shown {
            Ok(values) => {
                for (row, mut value) in all.iter_mut().zip(values) {
                    let value = value.get_mut(field.name()).map_or(Value::Null, Value::take);
                    row.insert(field.name().clone(), short(value, hidden.contains(field.name())));
                }
            }
            Err(error) => {
                notes.push(format!("column `{}` ({}) cannot be shown: {}", field.name(), field.data_type(), chain(&error)));
            }
        }
    }
    Ok(all.into_iter().map(Value::Object).collect())
}

/// One column as JSON objects.
fn json(batch: &RecordBatch) -> Result<Vec<Value>, ColumnError> {
    // As text: JSON's readers, ours too, hold numbers as f64.
    if let DataType::Decimal128(..) | DataType::Decimal256(..) = batch.column(0).data_type() {
        let (column, name) = (batch.column(0), batch.schema_ref().field(0).name());
        let digits = |row| match column.as_primitive_opt::<Decimal128Type>() {
            Some(values) => values.value_as_string(row),
            None => column.as_primitive::<Decimal256Type>().value_as_string(row),
        };
        let value = |row| if column.is_null(row) { Value::Null } else { Value::String(digits(row)) };
        return Ok((0..column.len()).map(|row| Value::Object(Map::from_iter([(name.clone(), value(row))]))).collect());
    }
    let mut batch = batch.clone();
    // The writer knows zones by their offset only; instants are in UTC whatever their zone.
    if let DataType::Timestamp(unit, Some(_)) = batch.column(0).data_type() {
        let kind = DataType::Timestamp(*unit, Some("+00:00".into()));
        let instants = batch.column(0).to_data().into_builder().data_type(kind.clone()).build()?;
        let schema = Schema::new(vec![Field::new(batch.schema_ref().field(0).name(), kind, true)]);
        batch = RecordBatch::try_new(Arc::new(schema), vec![make_array(instants)])?;
    }
    let mut out = ArrayWriter::new(Vec::new());
    out.write(&batch)?;
    out.finish()?;
    Ok(serde_json::from_slice(&out.into_inner())?)
}

fn short(value: Value, hide: bool) -> Value {
    match value {
        Value::Null => Value::Null,
        value if hide => Value::String(masked(value.as_str().unwrap_or(&value.to_string()))),
        Value::String(text) => match text.char_indices().nth(VALUE_CHARS) {
            Some((cut, _)) => Value::String(format!("{}…", &text[..cut])),
            None => Value::String(text),
        },
        Value::Array(values) => Value::Array(values.into_iter().take(VALUE_CHARS / 10).map(|v| short(v, false)).collect()),
        value => value,
    }
}
