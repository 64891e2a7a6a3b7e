//! Segments: rows and vectors in Parquet, for any reader; the one thing that everything else can be
//! made from again.
//!
//! Columns: source, doc_id, content_hash, chunk_idx, start, line, chunk_text, vector (fixed-size
//! list of f32), chunk_context where chunks have one (the file's metadata say so), then the columns
//! of the dataset that searches filter by.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type, UInt64Type};
use arrow_array::{
    ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, RecordBatchOptions, StringArray,
    UInt32Array, UInt64Array, new_null_array,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use brahman_storage::digest::hex;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::embedder::Model;
use crate::files::bad;
use crate::rows::{Row, RowStore};

/// Rows a batch while writing.
const BATCH_ROWS: usize = 4096;
/// Columns that every segment has.
const OWN: usize = OWN_NAMES.len() - 1;
/// Their names, and of the one that some have: no column of a dataset can be filtered by under one
/// of them.
pub const OWN_NAMES: [&str; 9] = [
    "source",
    "doc_id",
    "content_hash",
    "chunk_idx",
    "start",
    "line",
    "chunk_text",
    "vector",
    "chunk_context",
];
/// What a file's metadata have if its chunks have contexts.
const HAS_CONTEXTS: &str = "contexts";
/// Longest row group in rows: with vectors of 768 some 200 MB.
const GROUP_ROWS: usize = 65_536;

/// How many columns of a segment are its own.
fn own(schema: &Schema) -> usize {
    OWN + usize::from(schema.metadata().contains_key(HAS_CONTEXTS))
}

fn schema(model: &Model, columns: &Schema, has_contexts: bool) -> io::Result<SchemaRef> {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let dim = i32::try_from(model.dim).map_err(bad)?;
    let vector =
        DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, false)), dim);
    let [source, doc_id, content_hash, chunk_idx, start, line, chunk_text, vectors, chunk_context] =
        OWN_NAMES;
    let mut fields = vec![
        text(source),
        text(doc_id),
        text(content_hash),
        Field::new(chunk_idx, DataType::UInt32, false),
        Field::new(start, DataType::UInt64, false),
        Field::new(line, DataType::UInt64, false),
        text(chunk_text),
        Field::new(vectors, vector, false),
    ];
    fields.extend(has_contexts.then(|| text(chunk_context)));
    fields.extend(columns.fields().iter().map(|f| f.as_ref().clone()));
    let pairs = [
        ("model".to_owned(), model.name.clone()),
        ("fingerprint".to_owned(), model.fingerprint.clone()),
    ];
    let mut metadata: std::collections::HashMap<String, String> = pairs.into();
    metadata.extend(has_contexts.then(|| (HAS_CONTEXTS.to_owned(), "1".to_owned())));
    Ok(Arc::new(Schema::new(fields).with_metadata(metadata)))
}

/// A batch of no columns and `rows` rows.
///
/// # Errors
/// Never, but arrow's types say so.
pub fn no_columns(rows: usize) -> io::Result<RecordBatch> {
    RecordBatch::try_new_with_options(
        Arc::new(Schema::empty()),
        vec![],
        &RecordBatchOptions::new().with_row_count(Some(rows)),
    )
    .map_err(bad)
}

/// Writes and fsyncs a new segment. `columns` has as many rows as `rows`.
///
/// # Errors
/// As the file system gives them.
pub fn write(
    path: &Path,
    source: &str,
    model: &Model,
    rows: &RowStore,
    vectors: &[f32],
    columns: &RecordBatch,
) -> io::Result<()> {
    let has_contexts = rows.iter().any(|row| row.is_ok_and(|row| !row.context.is_empty()));
    let schema = schema(model, &columns.schema(), has_contexts)?;
    // Random mantissas do not compress: the vectors are stored as they are.
    let plain = ColumnPath::from(vec!["vector".to_owned(), "list".to_owned(), "item".to_owned()]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).map_err(bad)?))
        .set_column_compression(plain.clone(), Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(plain.clone(), false)
        .set_column_statistics_enabled(plain, parquet::file::properties::EnabledStatistics::None)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let mut writer =
        ArrowWriter::try_new(File::create_new(path)?, Arc::clone(&schema), Some(properties))
            .map_err(bad)?;
    let DataType::FixedSizeList(item, dim) = schema.field(OWN - 1).data_type() else {
        return Err(bad("schema"));
    };
    for first in (0..rows.len()).step_by(BATCH_ROWS) {
        let count = BATCH_ROWS.min(rows.len() - first);
        let batch: Vec<Row<'_>> =
            (first..first + count).map(|row| rows.row(row)).collect::<io::Result<_>>()?;
        let hashes: Vec<String> = batch.iter().map(|r| hex(r.content_hash)).collect();
        let part = &vectors[first * model.dim..(first + count) * model.dim];
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(source, count))),
            Arc::new(StringArray::from_iter_values(batch.iter().map(|r| r.doc_id))),
            Arc::new(StringArray::from_iter_values(&hashes)),
            Arc::new(batch.iter().map(|r| r.chunk).collect::<UInt32Array>()),
            Arc::new(batch.iter().map(|r| r.start).collect::<UInt64Array>()),
            Arc::new(batch.iter().map(|r| r.line).collect::<UInt64Array>()),
            Arc::new(StringArray::from_iter_values(batch.iter().map(|r| r.text))),
            Arc::new(
                FixedSizeListArray::try_new(
                    Arc::clone(item),
                    *dim,
                    Arc::new(Float32Array::from(part.to_vec())),
                    None,
                )
                .map_err(bad)?,
            ),
        ];
        if has_contexts {
            arrays.push(Arc::new(StringArray::from_iter_values(batch.iter().map(|r| r.context))));
        }
        arrays.extend(columns.slice(first, count).columns().iter().cloned());
        writer
            .write(&RecordBatch::try_new(Arc::clone(&schema), arrays).map_err(bad)?)
            .map_err(bad)?;
    }
    writer.finish().map_err(bad)?;
    writer.inner().sync_all()
}

/// What a segment holds.
#[derive(Debug)]
pub struct Contents {
    /// Documents and texts of its rows.
    pub rows: RowStore,
    /// One after the other.
    pub vectors: Vec<f32>,
    /// What searches filter by.
    pub columns: RecordBatch,
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(out)
}

/// Reads a whole segment.
///
/// # Errors
/// `InvalidData` with what is wrong; the caller names the file.
pub fn read(path: &Path, dim: usize) -> io::Result<Contents> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).map_err(bad)?;
    let (all, own) = (reader.schema().fields().len(), own(reader.schema()));
    let columns_schema = Arc::new(Schema::new(
        reader.schema().fields().iter().skip(own).cloned().collect::<Vec<_>>(),
    ));
    let (mut rows, mut vectors, mut columns) = (RowStore::default(), Vec::new(), Vec::new());
    for batch in reader.with_batch_size(BATCH_ROWS).build().map_err(bad)? {
        let batch = batch.map_err(bad)?;
        if batch.num_columns() < own {
            return Err(bad("it has too few columns to be a segment"));
        }
        let text =
            |i: usize| batch.column(i).as_string_opt::<i32>().ok_or_else(|| bad("expected text"));
        let number = |i: usize| {
            batch.column(i).as_primitive_opt::<UInt64Type>().ok_or_else(|| bad("expected numbers"))
        };
        let (ids, hashes, texts) = (text(1)?, text(2)?, text(6)?);
        let contexts = if own > OWN { Some(text(OWN)?) } else { None };
        let chunks = batch
            .column(3)
            .as_primitive_opt::<UInt32Type>()
            .ok_or_else(|| bad("expected numbers"))?;
        let (starts, lines) = (number(4)?, number(5)?);
        for i in 0..batch.num_rows() {
            let hash =
                unhex(hashes.value(i)).ok_or_else(|| bad("a content hash is not a SHA-256"))?;
            rows.push(&Row {
                doc_id: ids.value(i),
                content_hash: &hash,
                chunk: chunks.value(i),
                start: starts.value(i),
                line: lines.value(i),
                context: contexts.map_or("", |contexts| contexts.value(i)),
                text: texts.value(i),
            });
        }
        let lists = batch
            .column(OWN - 1)
            .as_fixed_size_list_opt()
            .ok_or_else(|| bad("expected vectors"))?;
        let values =
            lists.values().as_primitive_opt::<Float32Type>().ok_or_else(|| bad("expected f32"))?;
        vectors.extend_from_slice(values.values());
        if all > own {
            columns.push(batch.project(&(own..all).collect::<Vec<_>>()).map_err(bad)?);
        }
    }
    if vectors.len() != rows.len() * dim {
        return Err(bad("its vectors have a different length than the manifest says"));
    }
    let columns = join(&columns_schema, &columns, rows.len())?;
    Ok(Contents { rows, vectors, columns })
}

/// The columns that searches filter by, without their values.
///
/// # Errors
/// As [`read`].
pub fn columns_schema(path: &Path) -> io::Result<SchemaRef> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).map_err(bad)?;
    Ok(Arc::new(Schema::new(
        reader.schema().fields().iter().skip(own(reader.schema())).cloned().collect::<Vec<_>>(),
    )))
}

/// Whether columns have the same names and types, whatever they say of NULLs.
#[must_use]
pub fn same_types(a: &Schema, b: &Schema) -> bool {
    let alike =
        |(a, b): (&FieldRef, &FieldRef)| a.name() == b.name() && a.data_type() == b.data_type();
    a.fields().len() == b.fields().len() && a.fields().iter().zip(b.fields()).all(alike)
}

/// The columns of a schema, each of which may have NULLs, and nothing else of it.
fn plain(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(
        schema
            .fields()
            .iter()
            .map(|f| Field::new(f.name(), f.data_type().clone(), true))
            .collect::<Vec<_>>(),
    ))
}

/// A batch by the types of a schema. A value that a type cannot hold becomes NULL, and so does a
/// column that is not there.
///
/// # Errors
/// Never, but arrow's types say so.
pub fn conform(schema: &SchemaRef, batch: &RecordBatch) -> io::Result<RecordBatch> {
    let rows = batch.num_rows();
    if schema.fields().is_empty() {
        return no_columns(rows);
    }
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => Arc::clone(column),
        Some(column) => cast_with_options(column, field.data_type(), &CastOptions::default())
            .unwrap_or_else(|_| new_null_array(field.data_type(), rows)),
        None => new_null_array(field.data_type(), rows),
    });
    RecordBatch::try_new(plain(schema), columns.collect()).map_err(bad)
}

/// Batches as one, by the types of a schema.
///
/// # Errors
/// As [`conform`].
pub fn join(schema: &SchemaRef, batches: &[RecordBatch], rows: usize) -> io::Result<RecordBatch> {
    if schema.fields().is_empty() {
        return no_columns(rows);
    }
    let parts =
        batches.iter().map(|batch| conform(schema, batch)).collect::<io::Result<Vec<_>>>()?;
    arrow_select::concat::concat_batches(&plain(schema), &parts).map_err(bad)
}

/// Batches as one, the oldest first, by the types of the newest one that has rows.
///
/// # Errors
/// As [`conform`].
pub fn joined(batches: &[RecordBatch], rows: usize) -> io::Result<RecordBatch> {
    let with_columns = || batches.iter().rev().filter(|batch| batch.num_columns() > 0);
    match with_columns().find(|batch| batch.num_rows() > 0).or_else(|| with_columns().next()) {
        Some(newest) => join(&newest.schema(), batches, rows),
        None => no_columns(rows),
    }
}

/// Reads only the columns that searches filter by.
///
/// # Errors
/// As [`read`].
pub fn read_columns(path: &Path) -> io::Result<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).map_err(bad)?;
    let (all, own) = (reader.schema().fields().len(), own(reader.schema()));
    let schema = Arc::new(Schema::new(
        reader.schema().fields().iter().skip(own).cloned().collect::<Vec<_>>(),
    ));
    let rows = usize::try_from(reader.metadata().file_metadata().num_rows()).map_err(bad)?;
    if all <= own {
        return no_columns(rows);
    }
    let mask = ProjectionMask::roots(reader.parquet_schema(), own..all);
    let batches: Vec<RecordBatch> = reader
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(bad)?
        .collect::<Result<_, _>>()
        .map_err(bad)?;
    join(&schema, &batches, rows)
}

#[cfg(test)]
mod tests {
    use arrow_array::{Array, Float64Array, Int64Array};

    use super::*;

    fn batch(column: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([("tag", column)]).expect("a batch")
    }

    /// What made compactions fail for ever: a column that changed its type, or that got its first
    /// NULL.
    #[test]
    fn batches_of_other_types_become_one_by_the_newest() {
        let whole: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("one"), None, Some("2.5")]));
        let fraction: ArrayRef = Arc::new(Float64Array::from(vec![0.5]));
        let all = [batch(whole), batch(text), batch(fraction)];
        let one = joined(&all, 6).expect("joined");
        let tag = one["tag"].as_primitive::<arrow_array::types::Float64Type>();
        let values: Vec<Option<f64>> = tag.iter().collect();
        assert_eq!(values, [Some(1.0), Some(2.0), None, None, Some(2.5), Some(0.5)]);
        let back = joined(&all[..2], 5).expect("joined");
        assert_eq!(
            back["tag"].as_string::<i32>().iter().collect::<Vec<_>>(),
            [Some("1"), Some("2"), Some("one"), None, Some("2.5")]
        );
        // No way leads from there to a date: absent, not wrong.
        let dates = batch(new_null_array(&DataType::Date32, 1));
        let flag = batch(Arc::new(arrow_array::BooleanArray::from(vec![true])));
        let none = joined(&[flag, dates], 2).expect("joined");
        assert_eq!(none["tag"].null_count(), 2);
        assert_eq!(joined(&[], 0).expect("nothing").num_rows(), 0);
    }

    #[test]
    fn columns_outlive_a_segment_and_may_get_nulls() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut rows = RowStore::default();
        rows.push(&Row {
            doc_id: "a",
            content_hash: &[7; 32],
            chunk: 0,
            start: 0,
            line: 1,
            context: "",
            text: "t",
        });
        let model = Model { name: "m".into(), fingerprint: "f".into(), dim: 2, mock: false };
        let path = folder.path().join("one.parquet");
        let columns = batch(Arc::new(Int64Array::from(vec![7])));
        write(&path, "d", &model, &rows, &[1.0, 0.0], &columns).expect("written");
        let read = read_columns(&path).expect("read");
        let later = batch(Arc::new(Int64Array::from(vec![None, Some(8)])));
        assert_eq!(joined(&[read, later], 3).expect("joined")["tag"].null_count(), 1);
        assert_eq!(super::read(&path, 2).expect("read").rows.len(), 1);
        // Chunks with a context have a column more.
        rows.push(&Row {
            doc_id: "b",
            content_hash: &[8; 32],
            chunk: 0,
            start: 0,
            line: 1,
            context: "B > C",
            text: "u",
        });
        let path = folder.path().join("two.parquet");
        let columns = batch(Arc::new(Int64Array::from(vec![7, 9])));
        write(&path, "d", &model, &rows, &[1.0, 0.0, 0.0, 1.0], &columns).expect("written");
        let whole = super::read(&path, 2).expect("read");
        let contexts: Vec<&str> =
            whole.rows.iter().map(|row| row.expect("whole").context).collect();
        assert_eq!((contexts, whole.columns.num_columns()), (vec!["", "B > C"], 1));
        assert_eq!(
            (
                read_columns(&path).expect("read").num_columns(),
                columns_schema(&path).expect("read").fields().len()
            ),
            (1, 1)
        );
    }
}
