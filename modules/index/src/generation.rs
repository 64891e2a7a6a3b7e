//! Generations on disk: `indexes/<name>/gen-<ulid>/{segment.parquet, manifest.json}` and the pointer `CURRENT`.
//!
//! Commit: write both files, fsync them and their folder, read the segment back, then replace `CURRENT`. A reader or a
//! crash sees the old generation or the new one. Generations that are neither current nor previous are collected.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use brahman_storage::{atomic, digest};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use crate::embedder::Model;

/// Rows a batch while writing.
const BATCH_ROWS: usize = 4096;

/// One chunk, vector aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Value of the id column.
    pub doc_id: Arc<str>,
    /// Hash of the whole document.
    pub content_hash: Arc<str>,
    /// Number in its document, from 0.
    pub chunk: u32,
    /// First byte in the text.
    pub start: u64,
    /// First line in the text, from 1.
    pub line: u64,
    /// The chunk.
    pub text: String,
}

/// What a generation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Grows with every refresh that changed something.
    pub number: u64,
    /// Generation of the dataset it was refreshed to.
    pub dataset_generation: u64,
    /// Model of the vectors.
    pub model: Model,
    /// Chunks.
    pub chunks: u64,
    /// Documents.
    pub docs: u64,
    /// Length of the segment.
    pub bytes: u64,
    /// Of the segment, in hex.
    pub sha256: String,
    /// Folder of the generation before.
    pub parent: Option<String>,
}

/// A generation in memory: immutable, shared by its readers.
#[derive(Debug)]
pub struct Generation {
    /// What it is.
    pub manifest: Manifest,
    /// Chunks.
    pub rows: Vec<Row>,
    /// Their vectors, one after the other.
    pub vectors: Vec<f32>,
    folder: String,
}

fn bad(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn schema(model: &Model) -> io::Result<SchemaRef> {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let dim = i32::try_from(model.dim).map_err(bad)?;
    let vector = DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, false)), dim);
    let fields = vec![
        text("doc_id"),
        text("content_hash"),
        Field::new("chunk_idx", DataType::UInt32, false),
        Field::new("start", DataType::UInt64, false),
        Field::new("line", DataType::UInt64, false),
        text("chunk_text"),
        Field::new("vector", vector, false),
    ];
    let pairs = [("model".to_owned(), model.name.clone()), ("fingerprint".to_owned(), model.fingerprint.clone())];
    let metadata: std::collections::HashMap<String, String> = pairs.into();
    Ok(Arc::new(Schema::new(fields).with_metadata(metadata)))
}

/// Writes and publishes a generation; the one before stays until the next.
///
/// # Errors
/// As the file system gives them; the old generation then stands.
pub fn publish(index: &Path, mut manifest: Manifest, rows: Vec<Row>, vectors: Vec<f32>) -> io::Result<Generation> {
    let name = format!("gen-{}", ulid::Ulid::generate());
    let folder = index.join(&name);
    fs::create_dir(&folder)?;
    let path = folder.join("segment.parquet");
    write_segment(&path, &manifest.model, &rows, &vectors)?;
    (manifest.sha256, manifest.bytes) = digest::sha256_file(&path)?;
    atomic::write(&folder.join("manifest.json"), &serde_json::to_vec_pretty(&manifest)?)?;
    atomic::sync_dir(index)?;
    // What will be read after a restart is read once before it counts.
    let loaded = load_folder(index, &name)?;
    if loaded.rows != rows || loaded.vectors != vectors {
        return Err(bad("the segment read back differs from what was written"));
    }
    atomic::write(&index.join("CURRENT"), name.as_bytes())?;
    collect(index, &name, manifest.parent.as_deref());
    Ok(loaded)
}

/// Removes generations that nothing points to, and what crashes left.
fn collect(index: &Path, current: &str, parent: Option<&str>) {
    for entry in fs::read_dir(index).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("gen-") && name != current && Some(name.as_str()) != parent {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn write_segment(path: &Path, model: &Model, rows: &[Row], vectors: &[f32]) -> io::Result<()> {
    let schema = schema(model)?;
    let level = ZstdLevel::try_new(1).map_err(bad)?;
    // Random mantissas do not compress: the vectors are stored as they are.
    let plain = parquet::schema::types::ColumnPath::from(vec!["vector".to_owned(), "list".to_owned(), "item".to_owned()]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_column_compression(plain.clone(), Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(plain, false)
        .build();
    let file = File::create(path)?;
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).map_err(bad)?;
    let DataType::FixedSizeList(item, dim) = schema.field(6).data_type() else { return Err(bad("schema")) };
    for (rows, vectors) in rows.chunks(BATCH_ROWS).zip(vectors.chunks(BATCH_ROWS * model.dim.max(1))) {
        let text = |f: fn(&Row) -> &str| Arc::new(StringArray::from_iter_values(rows.iter().map(f))) as ArrayRef;
        let columns = vec![
            text(|r| &r.doc_id),
            text(|r| &r.content_hash),
            Arc::new(rows.iter().map(|r| r.chunk).collect::<UInt32Array>()),
            Arc::new(rows.iter().map(|r| r.start).collect::<UInt64Array>()),
            Arc::new(rows.iter().map(|r| r.line).collect::<UInt64Array>()),
            text(|r| &r.text),
            Arc::new(
                FixedSizeListArray::try_new(Arc::clone(item), *dim, Arc::new(Float32Array::from(vectors.to_vec())), None).map_err(bad)?,
            ),
        ];
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns).map_err(bad)?).map_err(bad)?;
    }
    writer.finish().map_err(bad)?;
    writer.inner().sync_all()
}

/// Loads the current generation; `None` before the first.
///
/// # Errors
/// `InvalidData` if a file is damaged: the message names it.
pub fn load(index: &Path) -> io::Result<Option<Generation>> {
    let name = match fs::read_to_string(index.join("CURRENT")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    load_folder(index, name.trim()).map(Some)
}

fn load_folder(index: &Path, name: &str) -> io::Result<Generation> {
    if !name.starts_with("gen-") || name.contains('/') {
        return Err(bad(format!("CURRENT holds `{name}`, expected gen-<ulid>")));
    }
    let folder = index.join(name);
    let manifest: Manifest =
        serde_json::from_slice(&fs::read(folder.join("manifest.json"))?).map_err(|e| bad(format!("{name}/manifest.json: {e}")))?;
    let path = folder.join("segment.parquet");
    let (found, bytes) = digest::sha256_file(&path)?;
    if found != manifest.sha256 || bytes != manifest.bytes {
        return Err(bad(format!("{}: its checksum does not match the manifest", path.display())));
    }
    let (rows, vectors) = read_segment(&path, manifest.model.dim)?;
    Ok(Generation { manifest, rows, vectors, folder: name.to_owned() })
}

fn read_segment(path: &PathBuf, dim: usize) -> io::Result<(Vec<Row>, Vec<f32>)> {
    let wrong = |what: &str| bad(format!("{}: {what}", path.display()));
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).map_err(bad)?.build().map_err(bad)?;
    let (mut rows, mut vectors): (Vec<Row>, Vec<f32>) = (Vec::new(), Vec::new());
    for batch in reader {
        let batch = batch.map_err(bad)?;
        let text = |i: usize| batch.column(i).as_string_opt::<i32>().ok_or_else(|| wrong("expected text"));
        let number = |i: usize| batch.column(i).as_primitive_opt::<UInt64Type>().ok_or_else(|| wrong("expected numbers"));
        let (ids, hashes, texts) = (text(0)?, text(1)?, text(5)?);
        let chunks = batch.column(2).as_primitive_opt::<UInt32Type>().ok_or_else(|| wrong("expected numbers"))?;
        let (starts, lines) = (number(3)?, number(4)?);
        for i in 0..batch.num_rows() {
            // Neighbouring chunks are of one document: its id and hash are kept once.
            let last = rows.last();
            let share = |text: &str, old: Option<&Arc<str>>| old.filter(|o| ***o == *text).map_or_else(|| Arc::from(text), Arc::clone);
            rows.push(Row {
                doc_id: share(ids.value(i), last.map(|r| &r.doc_id)),
                content_hash: share(hashes.value(i), last.map(|r| &r.content_hash)),
                chunk: chunks.value(i),
                start: starts.value(i),
                line: lines.value(i),
                text: texts.value(i).to_owned(),
            });
        }
        let lists = batch.column(6).as_fixed_size_list_opt().ok_or_else(|| wrong("expected vectors"))?;
        let values = lists.values().as_primitive_opt::<Float32Type>().ok_or_else(|| wrong("expected f32"))?;
        vectors.extend_from_slice(values.values());
    }
    if vectors.len() != rows.len() * dim {
        return Err(wrong("its vectors have another length than the manifest says"));
    }
    Ok((rows, vectors))
}

impl Generation {
    /// Name of its folder.
    #[must_use]
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// The vector of a row.
    #[must_use]
    pub fn vector(&self, row: usize) -> &[f32] {
        let dim = self.manifest.model.dim;
        &self.vectors[row * dim..(row + 1) * dim]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(folder: &Path, number: u64, parent: Option<&str>) -> Generation {
        let model = Model { name: "m".into(), fingerprint: "f".into(), dim: 2 };
        let row = |chunk| Row { doc_id: "d".into(), content_hash: "h".into(), chunk, start: 0, line: 1, text: format!("text {chunk}") };
        let manifest = Manifest {
            number,
            dataset_generation: 1,
            model,
            chunks: 2,
            docs: 1,
            bytes: 0,
            sha256: String::new(),
            parent: parent.map(str::to_owned),
        };
        publish(folder, manifest, vec![row(0), row(1)], vec![1.0, 0.0, 0.0, 1.0]).expect("published")
    }

    #[test]
    fn what_is_published_is_loaded_and_two_generations_stay() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        assert!(load(folder.path()).expect("nothing yet").is_none());
        let first = generation(folder.path(), 1, None);
        let second = generation(folder.path(), 2, Some(first.folder()));
        let third = generation(folder.path(), 3, Some(second.folder()));
        let loaded = load(folder.path()).expect("loads").expect("there");
        assert_eq!((loaded.manifest.number, loaded.rows.len(), loaded.vector(1)), (3, 2, &[0.0, 1.0][..]));
        assert!(!folder.path().join(first.folder()).exists());
        assert!(folder.path().join(second.folder()).exists() && folder.path().join(third.folder()).exists());
    }

    #[test]
    fn a_flipped_byte_is_named() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let made = generation(folder.path(), 1, None);
        let path = folder.path().join(made.folder()).join("segment.parquet");
        let mut bytes = fs::read(&path).expect("there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("damaged");
        let error = load(folder.path()).expect_err("damage");
        assert!(error.to_string().contains("segment.parquet"), "{error}");
        fs::write(folder.path().join("CURRENT"), "../evil").expect("damaged");
        assert!(load(folder.path()).is_err());
    }
}
