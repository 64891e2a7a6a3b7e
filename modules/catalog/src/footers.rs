//! What Parquet objects say of themselves, and a few of their rows.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::File;
use std::io;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, make_array};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType, Schema};
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

/// An object as it lies in a bucket, and its schema.
///
/// # Errors
/// If it cannot be read, or is no Parquet file.
pub fn object(bucket: &str, root: &Root, key: &str) -> io::Result<(Object, Schema)> {
    let path = root.folder.join(key);
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(&path)?)
        .map_err(|e| broken(&path, e))?;
    let rows = u64::try_from(builder.metadata().file_metadata().num_rows())
        .map_err(|e| broken(&path, e))?;
    let (sha256, bytes) = sha256_file(&path)?;
    let object = Object {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        url: root.url_of(key),
        rows,
        bytes,
        sha256,
        path: None,
    };
    Ok((object, builder.schema().as_ref().clone()))
}

/// Reads every page of an object, as whoever reads it will.
///
/// # Errors
/// If one cannot be decoded.
pub fn check_pages(path: &Path) -> io::Result<()> {
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).map_err(|e| broken(path, e))?;
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
            source_type: said
                .or_else(|| old.map(|c| c.source_type.clone()))
                .unwrap_or_else(|| "parquet".into()),
            nulls_made: old.map_or(0, |c| c.nulls_made),
        }
    };
    schema.fields().iter().map(|field| of(field)).collect()
}

/// The first rows of an object, long values cut, some columns as shapes.
///
/// # Errors
/// If it cannot be read.
pub fn sample(
    path: &Path,
    rows: usize,
    hidden: &BTreeSet<String>,
    notes: &mut Vec<String>,
) -> io::Result<Vec<Value>> {
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).map_err(|e| broken(path, e))?;
    let mut reader =
        builder.with_batch_size(rows).with_limit(rows).build().map_err(|e| broken(path, e))?;
    let Some(batch) = reader.next().transpose().map_err(|e| broken(path, e))? else {
        return Ok(Vec::new());
    };
    let mut all = vec![Map::new(); batch.num_rows()];
    for (i, field) in batch.schema_ref().fields().iter().enumerate() {
        // By itself: a type that JSON cannot hold costs its own column.
        match json(batch.column(i)) {
            Ok(values) => {
                for (row, value) in all.iter_mut().zip(values) {
                    row.insert(field.name().clone(), short(value, hidden.contains(field.name())));
                }
            }
            Err(error) => {
                notes.push(format!(
                    "column `{}` ({}) cannot be shown: {}",
                    field.name(),
                    field.data_type(),
                    chain(&error)
                ));
            }
        }
    }
    Ok(all.into_iter().map(Value::Object).collect())
}

/// The values of a column as JSON. What JSON's readers, ours too, would change is text: decimals,
/// and whatever is no number at all.
fn json(column: &ArrayRef) -> Result<Vec<Value>, ArrowError> {
    let each = |value: &dyn Fn(usize) -> Result<Value, ArrowError>| {
        let or_null = |row| if column.is_null(row) { Ok(Value::Null) } else { value(row) };
        (0..column.len()).map(or_null).collect::<Result<Vec<_>, _>>()
    };
    macro_rules! number {
        ($t:ty) => {{
            let numbers = column.as_primitive::<$t>();
            each(&|row| Ok(Value::from(numbers.value(row))))
        }};
    }
    let items = |items: ArrayRef| json(&items).map(Value::Array);
    match column.data_type() {
        DataType::Null => Ok(vec![Value::Null; column.len()]),
        DataType::Boolean => each(&|row| Ok(Value::Bool(column.as_boolean().value(row)))),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        // Not as the double of the same value, which has digits that nobody wrote.
        DataType::Float16 => each(&|row| {
            Ok(shortest(&column.as_primitive::<Float16Type>().value(row).to_f32().to_string()))
        }),
        DataType::Float32 => {
            each(&|row| Ok(shortest(&column.as_primitive::<Float32Type>().value(row).to_string())))
        }
        DataType::Float64 => number!(Float64Type),
        DataType::Utf8 => each(&|row| Ok(Value::from(column.as_string::<i32>().value(row)))),
        DataType::LargeUtf8 => each(&|row| Ok(Value::from(column.as_string::<i64>().value(row)))),
        DataType::Utf8View => each(&|row| Ok(Value::from(column.as_string_view().value(row)))),
        DataType::List(_) => each(&|row| items(column.as_list::<i32>().value(row))),
        DataType::LargeList(_) => each(&|row| items(column.as_list::<i64>().value(row))),
        DataType::FixedSizeList(_, _) => each(&|row| items(column.as_fixed_size_list().value(row))),
        DataType::Struct(fields) => {
            let columns =
                column.as_struct().columns().iter().map(json).collect::<Result<Vec<_>, _>>()?;
            let there = |row: usize| {
                fields
                    .iter()
                    .zip(&columns)
                    .map(move |(field, values)| (field.name().clone(), values[row].clone()))
            };
            each(&|row| {
                Ok(Value::Object(there(row).filter(|(_, value)| !value.is_null()).collect()))
            })
        }
        DataType::Map(_, _) => each(&|row| {
            let entries = column.as_map().value(row);
            let (keys, values) = (json(entries.column(0))?, json(entries.column(1))?);
            let name = |key: Value| key.as_str().map_or_else(|| key.to_string(), str::to_owned);
            Ok(Value::Object(keys.into_iter().map(name).zip(values).collect()))
        }),
        DataType::Dictionary(_, _) => {
            let dictionary = column.as_any_dictionary();
            let values = json(dictionary.values())?;
            let keys = if values.is_empty() { Vec::new() } else { dictionary.normalized_keys() };
            each(&|row| {
                Ok(keys.get(row).and_then(|key| values.get(*key)).cloned().unwrap_or(Value::Null))
            })
        }
        // The formatter knows zones by their offset only; instants are in UTC whatever their zone.
        DataType::Timestamp(unit, Some(zone)) if zone.as_ref() != UTC => json(&make_array(
            column
                .to_data()
                .into_builder()
                .data_type(DataType::Timestamp(*unit, Some(UTC.into())))
                .build()?,
        )),
        _ => {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
            each(&|row| formatter.value(row).try_to_string().map(Value::String))
        }
    }
}

/// UTC as the formatter knows it.
const UTC: &str = "+00:00";

/// A number by its digits; null for NaN and the infinities, which JSON does not have.
fn shortest(digits: &str) -> Value {
    digits.parse::<f64>().map_or(Value::Null, Value::from)
}

fn short(value: Value, hide: bool) -> Value {
    match value {
        Value::Null => Value::Null,
        value if hide => Value::String(masked(value.as_str().unwrap_or(&value.to_string()))),
        Value::String(text) => match text.char_indices().nth(VALUE_CHARS) {
            Some((cut, _)) => Value::String(format!("{}…", &text[..cut])),
            None => Value::String(text),
        },
        Value::Array(values) => Value::Array(
            values.into_iter().take(VALUE_CHARS / 10).map(|v| short(v, false)).collect(),
        ),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::types::{Int32Type, TimestampMicrosecondType};
    use arrow_array::{
        BinaryArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array, Float64Array,
        Int64Array, ListArray, NullArray, PrimitiveArray, StructArray, UInt64Array,
    };
    use arrow_schema::Field;
    use serde_json::json as value;

    use super::*;

    #[test]
    fn values_are_shown_as_json_that_loses_nothing() {
        let of = |array: ArrayRef| Value::Array(json(&array).expect("JSON"));
        assert_eq!(
            of(Arc::new(Int64Array::from(vec![Some(i64::MIN), None]))),
            value!([i64::MIN, null])
        );
        assert_eq!(of(Arc::new(UInt64Array::from(vec![u64::MAX]))), value!([u64::MAX]));
        assert_eq!(of(Arc::new(Float32Array::from(vec![0.1_f32, f32::NAN]))), value!([0.1, null]));
        assert_eq!(of(Arc::new(Float64Array::from(vec![0.1, f64::INFINITY]))), value!([0.1, null]));
        assert_eq!(of(Arc::new(NullArray::new(2))), value!([null, null]));
        let decimals = Decimal128Array::from(vec![9_999_999_999_999_999])
            .with_precision_and_scale(18, 2)
            .expect("a decimal");
        assert_eq!(of(Arc::new(decimals)), value!(["99999999999999.99"]));
        assert_eq!(of(Arc::new(Date32Array::from(vec![19_782]))), value!(["2024-02-29"]));
        assert_eq!(of(Arc::new(BinaryArray::from(vec![&b"\x01\xff"[..]]))), value!(["01ff"]));
        let instants = PrimitiveArray::<TimestampMicrosecondType>::from(vec![0])
            .with_timezone("Europe/Berlin");
        assert_eq!(of(Arc::new(instants)), value!(["1970-01-01T00:00:00Z"]));
        let words: DictionaryArray<Int32Type> = [Some("a"), None, Some("a")].into_iter().collect();
        assert_eq!(of(Arc::new(words)), value!(["a", null, "a"]));
        let lists =
            ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        assert_eq!(of(Arc::new(lists)), value!([[1, null], null]));
        let inner: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let objects =
            StructArray::from(vec![(Arc::new(Field::new("a", DataType::Int64, true)), inner)]);
        assert_eq!(of(Arc::new(objects)), value!([{"a": 1}, {}]));
    }
}
