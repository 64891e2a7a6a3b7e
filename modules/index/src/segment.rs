//! Segments: rows and vectors in Parquet, for any reader; the one thing that everything else can be made from again.
//!
//! Columns: source, doc_id, content_hash, chunk_idx, start, line, chunk_text, vector (fixed-size list of f32), then the
//! columns of the dataset that searches filter by.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, RecordBatchOptions, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use brahman_storage::digest::hex;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::embedder::Model;
use crate::rows::{Row, RowStore};

/// Rows a batch while writing.
const BATCH_ROWS: usize = 4096;
/// Columns that every segment has.
const OWN: usize = 8;
/// Longest row group in rows: with vectors of 768 some 200 MB.
const GROUP_ROWS: usize = 65_536;

fn bad(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn schema(model: &Model, columns: &Schema) -> io::Result<SchemaRef> {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let dim = i32::try_from(model.dim).map_err(bad)?;
    let vector = DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, false)), dim);
    let mut fields = vec![
        text("source"),
        text("doc_id"),
        text("content_hash"),
        Field::new("chunk_idx", DataType::UInt32, false),
        Field::new("start", DataType::UInt64, false),
        Field::new("line", DataType::UInt64, false),
        text("chunk_text"),
        Field::new("vector", vector, false),
    ];
    fields.extend(columns.fields().iter().map(|f| f.as_ref().clone()));
    let pairs = [("model".to_owned(), model.name.clone()), ("fingerprint".to_owned(), model.fingerprint.clone())];
    let metadata: std::collections::HashMap<String, String> = pairs.into();
    Ok(Arc::new(Schema::new(fields).with_metadata(metadata)))
}

/// A batch of no columns and `rows` rows.
///
/// # Errors
/// Never, but arrow's types say so.
pub fn no_columns(rows: usize) -> io::Result<RecordBatch> {
    RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &RecordBatchOptions::new().with_row_count(Some(rows))).map_err(bad)
}

/// Writes and fsyncs a new segment. `columns` has as many rows as `rows`.
///
/// # Errors
/// As the file system gives them.
pub fn write(path: &Path, source: &str, model: &Model, rows: &RowStore, vectors: &[f32], columns: &RecordBatch) -> io::Result<()> {
    let schema = schema(model, &columns.schema())?;
    // Random mantissas do not compress: the vectors are stored as they are.
    let plain = ColumnPath::from(vec!["vector".to_owned(), "list".to_owned(), "item".to_owned()]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).map_err(bad)?))
        .set_column_compression(plain.clone(), Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(plain.clone(), false)
        .set_column_statistics_enabled(plain, parquet::file::properties::EnabledStatistics::None)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let mut writer = ArrowWriter::try_new(File::create_new(path)?, Arc::clone(&schema), Some(properties)).map_err(bad)?;
    let DataType::FixedSizeList(item, dim) = schema.field(OWN - 1).data_type() else { return Err(bad("schema")) };
    for first in (0..rows.len()).step_by(BATCH_ROWS) {
        let count = BATCH_ROWS.min(rows.len() - first);
        let batch: Vec<Row<'_>> = (first..first + count).map(|row| rows.row(row)).collect::<io::Result<_>>()?;
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
            Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *dim, Arc::new(Float32Array::from(part.to_vec())), None).map_err(bad)?),
        ];
        arrays.extend(columns.slice(first, count).columns().iter().cloned());
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), arrays).map_err(bad)?).map_err(bad)?;
    }
    writer.finish().map_err(bad)?;
    writer.inner().sync_all()
}

/// What a segment holds.
#[derive(Debug)]
pub struct Contents {
    /// Documents and texts.
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
    let all = reader.schema().fields().len();
    let columns_schema = Arc::new(Schema::new(reader.schema().fields().iter().skip(OWN).cloned().collect::<Vec<_>>()));
    let (mut rows, mut vectors, mut columns) = (RowStore::default(), Vec::new(), Vec::new());
    for batch in reader.with_batch_size(BATCH_ROWS).build().map_err(bad)? {
        let batch = batch.map_err(bad)?;
        if batch.num_columns() < OWN {
            return Err(bad("it has too few columns to be a segment"));
        }
        let text = |i: usize| batch.column(i).as_string_opt::<i32>().ok_or_else(|| bad("expected text"));
        let number = |i: usize| batch.column(i).as_primitive_opt::<UInt64Type>().ok_or_else(|| bad("expected numbers"));
        let (ids, hashes, texts) = (text(1)?, text(2)?, text(6)?);
        let chunks = batch.column(3).as_primitive_opt::<UInt32Type>().ok_or_else(|| bad("expected numbers"))?;
        let (starts, lines) = (number(4)?, number(5)?);
        for i in 0..batch.num_rows() {
            let hash = unhex(hashes.value(i)).ok_or_else(|| bad("a content hash is no sha256"))?;
            rows.push(&Row {
                doc_id: ids.value(i),
                content_hash: &hash,
                chunk: chunks.value(i),
                start: starts.value(i),
                line: lines.value(i),
                text: texts.value(i),
            });
        }
        let lists = batch.column(OWN - 1).as_fixed_size_list_opt().ok_or_else(|| bad("expected vectors"))?;
        let values = lists.values().as_primitive_opt::<Float32Type>().ok_or_else(|| bad("expected f32"))?;
        vectors.extend_from_slice(values.values());
        if all > OWN {
            columns.push(batch.project(&(OWN..all).collect::<Vec<_>>()).map_err(bad)?);
        }
    }
    if vectors.len() != rows.len() * dim {
        return Err(bad("its vectors have another length than the manifest says"));
    }
    let columns = join(&columns_schema, &columns, rows.len())?;
    Ok(Contents { rows, vectors, columns })
}

/// Batches of one schema as one.
///
/// # Errors
/// If they differ.
pub fn join(schema: &SchemaRef, batches: &[RecordBatch], rows: usize) -> io::Result<RecordBatch> {
    if schema.fields().is_empty() {
        return no_columns(rows);
    }
    arrow_select::concat::concat_batches(schema, batches).map_err(bad)
}

/// Reads only the columns that searches filter by.
///
/// # Errors
/// As [`read`].
pub fn read_columns(path: &Path) -> io::Result<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).map_err(bad)?;
    let all = reader.schema().fields().len();
    let schema = Arc::new(Schema::new(reader.schema().fields().iter().skip(OWN).cloned().collect::<Vec<_>>()));
    let rows = usize::try_from(reader.metadata().file_metadata().num_rows()).map_err(bad)?;
    if all <= OWN {
        return no_columns(rows);
    }
    let mask = ProjectionMask::roots(reader.parquet_schema(), OWN..all);
    let batches: Vec<RecordBatch> =
        reader.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(bad)?.collect::<Result<_, _>>().map_err(bad)?;
    join(&schema, &batches, rows)
}
