//! Writing Parquet so that it is on disk, whole, before anybody is told of it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use brahman_card::interface::catalog::Object;
use brahman_storage::{atomic, digest};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

/// A row group is closed once it holds about this much: small enough to hold in memory, large enough to compress.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// One Parquet object while it is written.
#[derive(Debug)]
pub struct Sink {
    writer: ArrowWriter<File>,
    path: PathBuf,
    key: String,
    rows: u64,
}

/// Parquet's own errors carry I/O errors as text.
fn other(error: parquet::errors::ParquetError) -> io::Error {
    io::Error::other(error)
}

impl Sink {
    /// Opens `part-0.parquet` in a run's folder.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn create(folder: &Path, key_prefix: &str, schema: SchemaRef) -> io::Result<Self> {
        let level = ZstdLevel::try_new(3).map_err(other)?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let path = folder.join("part-0.parquet");
        let writer = ArrowWriter::try_new(File::create(&path)?, schema, Some(properties)).map_err(other)?;
        Ok(Self { writer, path, key: format!("{key_prefix}/part-0.parquet"), rows: 0 })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn write(&mut self, batch: &RecordBatch) -> io::Result<()> {
        self.writer.write(batch).map_err(other)?;
        self.rows += batch.num_rows() as u64;
        if self.writer.in_progress_size() > ROW_GROUP_BYTES {
            self.writer.flush().map_err(other)?;
        }
        Ok(())
    }

    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Closes, makes durable, and describes the object by reading it back.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn finish(self) -> io::Result<Object> {
        let Self { mut writer, path, key, rows } = self;
        writer.finish().map_err(other)?;
        writer.inner().sync_all()?;
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        // The run's folder is new: its own name has to last as well.
        atomic::sync_dir(folder)?;
        folder.parent().map_or(Ok(()), atomic::sync_dir)?;
        let (sha256, bytes) = digest::sha256_file(&path)?;
        Ok(Object { bucket: "primary".into(), key, url: format!("file://{}", path.display()), rows, bytes, sha256 })
    }
}
