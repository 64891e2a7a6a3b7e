//! New rows put in the place of old ones with the same key: objects that hold none of them stay as
//! they are, the others are written anew without them. Where each new row is what the old one of
//! its key is already, all stays as it is.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, Fields, SchemaRef};
use arrow_select::filter::filter_record_batch;
use arrow_select::interleave::interleave;
use brahman_card::interface::catalog::Object;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use tokio_util::sync::CancellationToken;

use crate::sink::{Place, Sink};
use crate::table::ReadError;
use crate::zones::in_utc;

/// New rows at most: their keys are held in memory, sixteen bytes each and as much again.
const KEYS_MAX: usize = 2_000_000;
/// Bytes of new rows that are held in memory to be compared with old ones, at most: some hundred
/// thousand rows. More are taken for changed ones, which is never wrong.
const COMPARED_BYTES_MAX: usize = 64 << 20;
/// Rows looked at together.
const BATCH_ROWS: usize = 8192;

/// Why rows cannot take the place of others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// The key names no column.
    #[error("key: there is no column `{column}`")]
    NoColumn {
        /// What it names.
        column: String,
    },
    /// A row without a key.
    #[error("key: {key} is NULL in some rows; expected a key that every row has")]
    NullKey {
        /// The key.
        key: String,
    },
    /// A key of two rows.
    #[error("key: {key} is the same in several rows; expected one row a key")]
    KeyTwice {
        /// The key.
        key: String,
    },
    /// More keys than memory is meant for.
    #[error("more than {KEYS_MAX} rows have changed: read the table whole, with mode full")]
    TooMany,
    /// Old and new rows have other columns.
    #[error(
        "the table's columns have changed since it was last read ({what}): read it whole, with mode full, and they are what they are now"
    )]
    ColumnsChanged {
        /// Which, and how.
        what: String,
    },
}

impl From<MergeError> for ReadError {
    fn from(error: MergeError) -> Self {
        Self::bad(error)
    }
}

/// Keys that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("key")]
struct KeyError(#[source] ArrowError);

/// An object that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}", .path.display())]
struct ObjectError {
    path: PathBuf,
    #[source]
    source: ParquetError,
}

/// What came of it.
#[derive(Debug)]
pub struct Merge {
    /// Old objects, as they are or written anew, then the new ones.
    pub objects: Vec<Object>,
    /// Old rows that new ones took the place of.
    pub replaced: u64,
    /// Old objects that were written anew.
    pub rewritten: usize,
    /// Whether each new row was there already, value for value: the objects are the old ones.
    pub unchanged: bool,
}

/// A key as sixteen bytes: of a trillion, two are not taken for one.
fn hash(values: &[String]) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(salt);
        for value in values {
            hasher.write_usize(value.len());
            hasher.write(value.as_bytes());
        }
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// Hashes of a batch's keys; of a key that has a NULL there is none.
fn keys(batch: &RecordBatch, names: &[String]) -> Result<Vec<Option<u128>>, ReadError> {
    let options = FormatOptions::default();
    let malformed = |e: ArrowError| ReadError::malformed(KeyError(e));
    let array = |name: &String| {
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| MergeError::NoColumn { column: name.clone() })?;
        in_utc(column).map_err(malformed)
    };
    let arrays = names.iter().map(array).collect::<Result<Vec<_>, ReadError>>()?;
    let columns = arrays
        .iter()
        .map(|array| ArrayFormatter::try_new(array.as_ref(), &options).map_err(malformed))
        .collect::<Result<Vec<_>, ReadError>>()?;
    let key = |row: usize| {
        if arrays.iter().any(|array| array.is_null(row)) {
            return Ok(None);
        }
        let values = columns
            .iter()
            .map(|format| format.value(row).try_to_string())
            .collect::<Result<Vec<_>, _>>();
        Ok(Some(hash(&values.map_err(malformed)?)))
    };
    (0..batch.num_rows()).map(key).collect()
}

type Batches = parquet::arrow::arrow_reader::ParquetRecordBatchReader;

/// Rows of an object, of some columns only if they are named.
fn batches(path: &Path, only: Option<&[String]>) -> Result<(SchemaRef, Batches), ReadError> {
    let broken =
        |source: ParquetError| ReadError::malformed(ObjectError { path: path.to_owned(), source });
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)
        .map_err(broken)?
        .with_batch_size(BATCH_ROWS);
    let schema = builder.schema().clone();
    let mask = match only {
        Some(names) => {
            let roots = schema
                .fields()
                .iter()
                .enumerate()
                .filter(|(_, f)| names.contains(f.name()))
                .map(|(i, _)| i);
            ProjectionMask::roots(builder.parquet_schema(), roots.collect::<Vec<_>>())
        }
        None => ProjectionMask::all(),
    };
    Ok((schema, builder.with_projection(mask).build().map_err(broken)?))
}

/// How columns differ, in words, if they do. What is only said of them (the source's own name of a
/// type) is no difference.
fn changes(old: &Fields, new: &Fields) -> Option<String> {
    if old
        .iter()
        .map(|field| (field.name(), field.data_type()))
        .eq(new.iter().map(|field| (field.name(), field.data_type())))
    {
        return None;
    }
    let of =
        |fields: &Fields, name: &str| fields.find(name).map(|(_, field)| field.data_type().clone());
    let names = old
        .iter()
        .chain(new.iter().filter(|field| of(old, field.name()).is_none()))
        .map(|field| field.name().as_str());
    let said = names.filter_map(|name| match (of(old, name), of(new, name)) {
        (Some(was), Some(now)) if was != now => Some(format!("`{name}` was {was} and is {now}")),
        (Some(_), None) => Some(format!("`{name}` is gone")),
        (None, Some(now)) => Some(format!("`{name}` ({now}) is new")),
        _ => None,
    });
    let said: Vec<String> = said.take(CHANGES_NAMED).collect();
    Some(if said.is_empty() { "their order".to_owned() } else { said.join(", ") })
}

/// Changed columns that are named.
const CHANGES_NAMED: usize = 10;

fn going_on(cancel: &CancellationToken) -> Result<(), ReadError> {
    if cancel.is_cancelled() { Err(ReadError::Cancelled) } else { Ok(()) }
}

/// New rows that may be what the old ones of their keys are already.
struct Comparison {
    batches: Vec<RecordBatch>,
    /// By key, the batch and the row of those that no old row has been compared with.
    left: HashMap<u128, (usize, usize)>,
}

impl Comparison {
    /// None without a key, without a row, or if they are more than is held in memory.
    fn of(
        new: &[Object],
        key: &[String],
        cancel: &CancellationToken,
    ) -> Result<Option<Self>, ReadError> {
        if key.is_empty() {
            return Ok(None);
        }
        let (mut held, mut left, mut bytes) = (Vec::new(), HashMap::new(), 0);
        for object in new {
            for batch in batches(&object.local(), None)?.1 {
                going_on(cancel)?;
                let batch = batch.map_err(ReadError::malformed)?;
                bytes += batch.get_array_memory_size();
                if bytes > COMPARED_BYTES_MAX {
                    return Ok(None);
                }
                for (row, hash) in keys(&batch, key)?.into_iter().enumerate() {
                    if let Some(hash) = hash {
                        left.insert(hash, (held.len(), row));
                    }
                }
                held.push(batch);
            }
        }
        Ok(Some(Self { batches: held, left }).filter(|all| !all.left.is_empty()))
    }

    /// Whether each of these old rows is the new one of its key; each key is asked about once.
    fn has(&mut self, old: &RecordBatch, key: &[String]) -> Result<bool, ReadError> {
        let mut places = Vec::with_capacity(old.num_rows());
        for hash in keys(old, key)? {
            let Some(place) = hash.and_then(|hash| self.left.remove(&hash)) else {
                return Ok(false);
            };
            places.push(place);
        }
        let same = old.columns().iter().enumerate().all(|(number, column)| {
            let new: Vec<&dyn Array> =
                self.batches.iter().map(|batch| batch.column(number).as_ref()).collect();
            // What cannot be put together is taken for changed.
            interleave(&new, &places).is_ok_and(|new| new.to_data() == column.to_data())
        });
        Ok(same)
    }
}

/// Puts new objects' rows in the place of old ones'. Without a key they are added.
///
/// # Errors
/// If the columns differ, keys are NULL or twice among the new rows, there are too many, or the
/// disk refuses.
pub fn merge(
    old: &[Object],
    new: Vec<Object>,
    key: &[String],
    place: &Place,
    cancel: &CancellationToken,
) -> Result<Merge, ReadError> {
    let mut replacing: HashSet<u128> = HashSet::new();
    let mut schema: Option<SchemaRef> = None;
    for object in &new {
        let (its, rows) = batches(&object.local(), Some(key))?;
        schema.get_or_insert(its);
        for batch in rows.take_while(|_| !key.is_empty()) {
            going_on(cancel)?;
            let batch = batch.map_err(ReadError::malformed)?;
            for hash in keys(&batch, key)? {
                let hash = hash.ok_or_else(|| MergeError::NullKey { key: key.join(", ") })?;
                if !replacing.insert(hash) {
                    return Err(MergeError::KeyTwice { key: key.join(", ") }.into());
                }
                if replacing.len() > KEYS_MAX {
                    return Err(MergeError::TooMany.into());
                }
            }
        }
    }
    let mut same = Comparison::of(&new, key, cancel)?;
    let mut merged = Merge { objects: Vec::new(), replaced: 0, rewritten: 0, unchanged: false };
    for object in old {
        going_on(cancel)?;
        let (its, mut rows) = batches(&object.local(), Some(key))?;
        if let Some(what) = schema.as_ref().and_then(|new| changes(its.fields(), new.fields())) {
            return Err(MergeError::ColumnsChanged { what }.into());
        }
        let mut hit = false;
        while let Some(batch) = rows.next().filter(|_| !hit && !replacing.is_empty()) {
            going_on(cancel)?;
            let batch = batch.map_err(ReadError::malformed)?;
            hit = keys(&batch, key)?.iter().flatten().any(|hash| replacing.contains(hash));
        }
        if !hit {
            merged.objects.push(object.clone());
            continue;
        }
        merged.rewritten += 1;
        let mut sink = Sink::create(&place.unlooked(), REWRITTEN + merged.rewritten, its)?;
        for batch in batches(&object.local(), None)?.1 {
            going_on(cancel)?;
            let batch = batch.map_err(ReadError::malformed)?;
            let stays: BooleanArray = keys(&batch, key)?
                .iter()
                .map(|hash| Some(!hash.is_some_and(|hash| replacing.contains(&hash))))
                .collect();
            let kept = filter_record_batch(&batch, &stays).map_err(ReadError::malformed)?;
            merged.replaced += (batch.num_rows() - kept.num_rows()) as u64;
            sink.write(&kept)?;
            if let Some(compared) = same.as_mut()
                && kept.num_rows() < batch.num_rows()
            {
                let goes: BooleanArray =
                    stays.iter().map(|stays| stays.map(|stays| !stays)).collect();
                let gone = filter_record_batch(&batch, &goes).map_err(ReadError::malformed)?;
                if !compared.has(&gone, key)? {
                    same = None;
                }
            }
        }
        if sink.rows() > 0 {
            merged.objects.push(sink.finish()?);
        }
    }
    if same.is_some_and(|same| same.left.is_empty()) {
        let written = merged.objects.iter().filter(|object| !old.contains(object));
        new.iter().chain(written).for_each(|object| drop(std::fs::remove_file(object.local())));
        return Ok(Merge { objects: old.to_vec(), rewritten: 0, unchanged: true, ..merged });
    }
    let (some, none): (Vec<_>, Vec<_>) = new.into_iter().partition(|object| object.rows > 0);
    none.iter().for_each(|empty| drop(std::fs::remove_file(empty.local())));
    merged.objects.extend(some);
    Ok(merged)
}

/// Parts from here on were written anew; a run's own workers are never that many.
const REWRITTEN: usize = 1000;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow_schema::{DataType, Field, Schema};

    use super::*;

    /// An object of rows, which are an `id` and a `v`.
    fn object(folder: &Path, part: usize, rows: &[(i64, Option<&str>)]) -> Object {
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("v", DataType::Utf8, true),
        ]));
        let ids: Int64Array = rows.iter().map(|(id, _)| Some(*id)).collect();
        let texts: StringArray = rows.iter().map(|(_, text)| *text).collect();
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(ids), Arc::new(texts)])
            .expect("a batch");
        let mut sink = Sink::create(&place(folder), part, schema).expect("created");
        sink.write(&batch).expect("written");
        sink.finish().expect("finished")
    }

    fn place(folder: &Path) -> Place {
        Place {
            folder: folder.to_owned(),
            bucket: "local".to_owned(),
            prefix: "datasets/t/r".to_owned(),
            url_prefix: "brahman://local/datasets/t/r".to_owned(),
            samples: None,
            first_part: 0,
        }
    }

    #[test]
    fn rows_that_are_what_they_were_change_nothing_and_any_other_value_or_row_does() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let key = ["id".to_owned()];
        let merged = |old: &[Object], rows: &[(i64, Option<&str>)]| {
            let new = object(folder.path(), 500, rows);
            let (path, cancel) = (new.local(), CancellationToken::new());
            let merged =
                merge(old, vec![new], &key, &place(folder.path()), &cancel).expect("merged");
            (merged, path)
        };
        let old = [
            object(folder.path(), 0, &[(1, Some("a")), (2, Some("b")), (3, None)]),
            object(folder.path(), 1, &[(4, Some("d")), (5, Some(""))]),
        ];
        // In another order, and of several objects.
        let (same, new) = merged(&old, &[(5, Some("")), (3, None), (2, Some("b"))]);
        assert!(same.unchanged && same.replaced == 3 && same.objects == old, "{same:?}");
        assert!(!new.exists(), "nobody needs it");
        assert!(old.iter().all(|object| object.local().exists()));
        let left: usize = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(left, old.len(), "what was written for nothing goes");
        for rows in [
            &[(2, Some("B")), (3, None)][..],
            &[(3, Some(""))],
            &[(5, None)],
            &[(4, Some("d")), (6, Some("f"))],
        ] {
            let (other, _) = merged(&old, rows);
            assert!(!other.unchanged && other.objects != old, "{rows:?}");
            assert_eq!(
                other.objects.iter().map(|object| object.rows).sum::<u64>(),
                5 + rows.len() as u64 - other.replaced
            );
        }
        // A key that old rows have twice is there once afterwards.
        let twice = [object(folder.path(), 2, &[(1, Some("a")), (1, Some("a"))])];
        let (once, _) = merged(&twice, &[(1, Some("a"))]);
        assert!(!once.unchanged && once.objects.len() == 1);
    }

    #[test]
    fn an_instant_is_a_key() {
        let at = TimestampMicrosecondArray::from(vec![0_i64, 1, 0]).with_timezone("UTC");
        let at: ArrayRef = Arc::new(at);
        let batch = RecordBatch::try_from_iter([("at", at)]).expect("a batch");
        let keys = keys(&batch, &["at".to_owned()]).expect("hashed");
        assert!(keys[0].is_some() && keys[0] == keys[2] && keys[0] != keys[1], "{keys:?}");
    }

    #[test]
    fn changed_columns_are_named() {
        let fields = |of: &[(&str, DataType)]| {
            of.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Fields>()
        };
        let old = fields(&[("id", DataType::Int32), ("v", DataType::Utf8)]);
        assert_eq!(changes(&old, &old), None);
        let said =
            old.iter().map(|field| field.as_ref().clone().with_metadata([("source_type", "x")]));
        assert_eq!(changes(&old, &said.collect()), None, "a type that only has another name");
        assert_eq!(
            changes(&old, &fields(&[("v", DataType::Utf8), ("id", DataType::Int32)])).as_deref(),
            Some("their order")
        );
        let new = fields(&[("id", DataType::Int64), ("w", DataType::Date32)]);
        assert_eq!(
            changes(&old, &new).as_deref(),
            Some("`id` was Int32 and is Int64, `v` is gone, `w` (Date32) is new")
        );
    }
}
