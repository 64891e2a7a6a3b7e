//! Writing Parquet so that it is on disk, whole, before anybody is told of it.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use brahman_card::interface::catalog::Object;
use brahman_storage::{atomic, digest};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::pii::sample::{Sampler, Samples};

/// A row group is closed once it holds about this much: small enough to hold in memory, large
/// enough to compress.
const ROW_GROUP_BYTES: usize = 8 << 20;
/// A column whose first rows hold more distinct values than this share gets no dictionary: it would
/// be built and thrown away.
const DISTINCT_SHARE: f64 = 0.5;
/// Rows looked at for that.
const SAMPLED_ROWS: usize = 4096;

/// Where a run writes.
#[derive(Clone, Debug)]
pub struct Place {
    /// The run's own folder, there already.
    pub folder: PathBuf,
    /// Bucket of its objects.
    pub bucket: String,
    /// Keys of its objects begin with this.
    pub prefix: String,
    /// And their URLs with this.
    pub url_prefix: String,
    /// What is looked at for personal data, if it is.
    pub samples: Option<Arc<Samples>>,
    /// Number of the first object.
    pub first_part: usize,
}

impl Place {
    /// The same place, for rows that have been looked at already.
    #[must_use]
    pub fn unlooked(&self) -> Self {
        Self { samples: None, ..self.clone() }
    }
}

/// One Parquet object while it is written.
#[derive(Debug)]
pub struct Sink {
    /// Opened with the first rows, for they say how columns are best encoded.
    writer: Option<ArrowWriter<File>>,
    file: File,
    schema: SchemaRef,
    path: PathBuf,
    bucket: String,
    key: String,
    url: String,
    rows: u64,
    /// What is looked at for personal data, and where it goes at the end.
    sampler: Option<(Sampler, Arc<Samples>)>,
}

/// Parquet's own errors carry I/O errors as text.
fn other(error: parquet::errors::ParquetError) -> io::Error {
    io::Error::other(error)
}

impl Sink {
    /// Creates `part-<part>.parquet` in a run's folder.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn create(place: &Place, part: usize, schema: SchemaRef) -> io::Result<Self> {
        let part = place.first_part + part;
        let path = place.folder.join(format!("part-{part}.parquet"));
        let (key, url) = (
            format!("{}/part-{part}.parquet", place.prefix),
            format!("{}/part-{part}.parquet", place.url_prefix),
        );
        let sampler =
            place.samples.as_ref().map(|samples| (Sampler::default(), Arc::clone(samples)));
        Ok(Self {
            writer: None,
            file: File::create(&path)?,
            schema,
            path,
            bucket: place.bucket.clone(),
            key,
            url,
            rows: 0,
            sampler,
        })
    }

    fn writer(&mut self, first: Option<&RecordBatch>) -> io::Result<&mut ArrowWriter<File>> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let level = ZstdLevel::try_new(1).map_err(other)?;
                let mut properties =
                    WriterProperties::builder().set_compression(Compression::ZSTD(level));
                for (column, kind) in first.iter().flat_map(|batch| distinct_columns(batch)) {
                    let path = ColumnPath::from(column);
                    properties = properties.set_column_dictionary_enabled(path.clone(), false);
                    if kind.is_integer() || matches!(kind, DataType::Timestamp(..)) {
                        properties =
                            properties.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
                    }
                }
                ArrowWriter::try_new(
                    self.file.try_clone()?,
                    Arc::clone(&self.schema),
                    Some(properties.build()),
                )
                .map_err(other)?
            }
        };
        Ok(self.writer.insert(writer))
    }

    /// Adds rows.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn write(&mut self, batch: &RecordBatch) -> io::Result<()> {
        let writer = self.writer(Some(batch))?;
        writer.write(batch).map_err(other)?;
        if writer.in_progress_size() > ROW_GROUP_BYTES {
            writer.flush().map_err(other)?;
        }
        self.rows += batch.num_rows() as u64;
        if let Some((sampler, _)) = &mut self.sampler {
            sampler.look(batch);
        }
        Ok(())
    }

    /// How many rows it has taken.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Closes, makes durable, and describes the object by reading it back.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn finish(mut self) -> io::Result<Object> {
        self.writer(None)?.finish().map_err(other)?;
        let Self { file, path, bucket, key, url, rows, sampler, .. } = self;
        if let Some((sampler, samples)) = sampler {
            samples.add(sampler);
        }
        file.sync_all()?;
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        // The run's folder is new: its own name has to last as well.
        atomic::sync_dir(folder)?;
        folder.parent().map_or(Ok(()), atomic::sync_dir)?;
        let (sha256, bytes) = digest::sha256_file(&path)?;
        Ok(Object { bucket, key, url, rows, bytes, sha256, path: Some(path.display().to_string()) })
    }
}

/// Columns of numbers or text whose values are mostly distinct.
fn distinct_columns(batch: &RecordBatch) -> Vec<(Vec<String>, DataType)> {
    let rows = batch.num_rows().min(SAMPLED_ROWS);
    let mostly = |column: &ArrayRef| {
        let sample = column.slice(0, rows);
        let data = sample.to_data();
        let distinct = match (sample.data_type().primitive_width(), sample.as_string_opt::<i32>()) {
            (Some(width), _) => {
                let bytes = &data.buffers()[0].as_slice()[data.offset() * width..][..rows * width];
                bytes.chunks_exact(width).collect::<HashSet<_>>().len()
            }
            (None, Some(texts)) => texts.iter().collect::<HashSet<_>>().len(),
            _ => 0,
        };
        distinct as f64 > DISTINCT_SHARE * rows as f64
    };
    let fields = batch.schema_ref().fields().iter().zip(batch.columns());
    fields
        .filter(|(_, column)| mostly(column))
        .map(|(f, _)| (vec![f.name().clone()], f.data_type().clone()))
        .collect()
}
