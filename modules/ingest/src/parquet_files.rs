//! Parquet files into batches of one schema, columns by name.
//!
//! Invariants: a column has its type in every file, or one that holds each value of all of them;
//! NULL is where a file has no such column; what has no common type is refused by column, file and
//! both types before the first row; every row that a footer tells of is read; no file makes a
//! reader panic.

mod int96;
mod partitions;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use tokio_util::sync::CancellationToken;

use crate::csv::ApartError;
use crate::passes::{Open, Take};
use int96::Reach;
use partitions::Partitions;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;
/// Digits of the widest decimal.
const DECIMAL_DIGITS_MAX: u8 = 38;
/// Widened columns that are told.
const NOTES_MAX: usize = 20;
/// What the format writes into a field's metadata; of several files it is nobody's.
const FIELD_ID: &str = "PARQUET:field_id";

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}", .path.display())]
struct FileError {
    path: PathBuf,
    #[source]
    flaw: Flaw,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
enum Flaw {
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    #[error(
        "two columns are called `{name}`, expected a name for each: rename one where the file is written"
    )]
    TwoColumns { name: String },
    #[error(
        "column `{name}` is {here}, and {before} in an earlier file, expected types of which one holds the values of both"
    )]
    Types { name: String, here: DataType, before: DataType },
    #[error("{read} rows could be read of the {rows} that its footer tells of")]
    Rows { read: u64, rows: u64 },
    #[error("its columns changed while it was read")]
    Changed,
    #[error(transparent)]
    Apart(#[from] ApartError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "column `{column}` has timestamps of 96 bits which neither nanoseconds nor microseconds of 64 bits hold: write it as two columns"
    )]
    TooFar { column: String },
    #[error("the reader gave up: {words}")]
    Panic { words: String },
}

/// Reads Parquet files into batches. Gives the schema first, to `open`, and at the end what a
/// person should know of how columns met.
///
/// # Errors
/// If a file cannot be read, or its columns do not go with those of the others, with its path; or
/// if `stop` is cancelled before the first row: after that whoever takes the rows ends it.
pub(crate) fn read(
    files: &[crate::source::File],
    (union, kept): (Option<bool>, Option<&Schema>),
    stop: &CancellationToken,
    open: &mut Open<'_>,
    take: &mut Take<'_>,
) -> io::Result<Vec<String>> {
    let paths: Vec<&Path> = files.iter().map(|file| file.path.as_path()).collect();
    let far = far(&paths, stop)?;
    let (schema, mut notes) = common(&paths, &far, union)?;
    let schema = keeping(schema, kept, &mut notes);
    let own: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let (partitions, words) = Partitions::of(files, &own, kept);
    notes.extend(words);
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone())
        .chain(partitions.fields())
        .collect();
    let whole = match partitions.is_empty() {
        true => Arc::clone(&schema),
        false => Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())),
    };
    notes.extend(far.iter().take(NOTES_MAX).map(|column| {
        format!("column `{column}` has timestamps outside the years 1677 to 2262, which nanoseconds do not hold: it is microseconds")
    }));
    open(Arc::clone(&whole))?;
    for (file, path) in paths.iter().enumerate() {
        let bad = |flaw| bad(path, flaw);
        let (builder, length) = opened(path, &far)?;
        // The footer's own sum may be wrong where those of its row groups are right.
        let of_groups: i64 = builder
            .metadata()
            .row_groups()
            .iter()
            .map(|group| group.num_rows().max(0))
            .fold(0, i64::saturating_add);
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows().max(of_groups))
            .unwrap_or(0);
        let mut read = 0;
        let places = places(&schema, builder.schema()).map_err(bad)?;
        let mut batches =
            caught(|| builder.with_batch_size(BATCH_ROWS).build().map_err(Flaw::Parquet))
                .map_err(bad)?;
        while let Some(batch) =
            caught(|| batches.next().transpose().map_err(Flaw::Arrow)).map_err(bad)?
        {
            read += batch.num_rows() as u64;
            let bytes = length * batch.num_rows() as u64 / rows.max(1);
            let is_placed = batch.schema_ref().fields() == schema.fields();
            let batch =
                if is_placed { batch } else { placed(&batch, &schema, &places).map_err(bad)? };
            take(
                if partitions.is_empty() {
                    batch
                } else {
                    beside(&batch, &whole, &partitions, file).map_err(bad)?
                },
                bytes,
            )?;
        }
        if read != rows {
            return Err(bad(Flaw::Rows { read, rows }));
        }
    }
    Ok(notes)
}

fn bad(path: &Path, flaw: Flaw) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, FileError { path: path.to_owned(), flaw })
}

/// A file's reader, with microseconds for the timestamps of 96 bits in the columns that are `far`,
/// and its length in bytes.
fn opened(
    path: &Path,
    far: &BTreeSet<String>,
) -> io::Result<(ParquetRecordBatchReaderBuilder<File>, u64)> {
    let file = File::open(path)?;
    let (length, again) = (file.metadata()?.len(), file.try_clone()?);
    let builder = caught(|| {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let Some(schema) = int96::coarser(builder.schema(), builder.parquet_schema(), far) else {
            return Ok(builder);
        };
        let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(builder.metadata()), options)?;
        Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(again, metadata))
    });
    Ok((builder.map_err(|flaw| bad(path, flaw))?, length))
}

/// Columns of 96 bits with timestamps that nanoseconds do not hold, in any file.
fn far(paths: &[&Path], stop: &CancellationToken) -> io::Result<BTreeSet<String>> {
    let mut all: BTreeMap<String, Reach> = BTreeMap::new();
    for path in paths {
        let file = File::open(path)?;
        for (column, seen) in caught(|| int96::look(file, stop).map_err(Flaw::Parquet))
            .map_err(|flaw| bad(path, flaw))?
        {
            let reach = all.entry(column.clone()).or_default();
            reach.join(seen);
            if reach.is_lost() {
                return Err(bad(path, Flaw::TooFar { column }));
            }
        }
    }
    Ok(all.into_iter().filter(|(_, reach)| reach.far).map(|(column, _)| column).collect())
}

/// What the library does with bytes of anybody's making: where it panics, the file is to blame and
/// not the run.
fn caught<T>(work: impl FnOnce() -> Result<T, Flaw>) -> Result<T, Flaw> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        Err(Flaw::Panic { words: words.unwrap_or_else(|| "without a word".to_owned()) })
    })
}

/// The schema of all files together, by their footers.
fn common(
    paths: &[&Path],
    far: &BTreeSet<String>,
    union: Option<bool>,
) -> io::Result<(SchemaRef, Vec<String>)> {
    let mut all: Option<SchemaRef> = None;
    let (mut fields, mut known): (Vec<Field>, HashMap<String, usize>) =
        (Vec::new(), HashMap::new());
    let (mut other, mut wider): (Vec<&Path>, Vec<String>) = (Vec::new(), Vec::new());
    for path in paths {
        let (builder, _) = opened(path, far)?;
        let own = builder.schema();
        let mut names = HashSet::new();
        if let Some(twice) = own.fields().iter().find(|field| !names.insert(field.name().as_str()))
        {
            return Err(bad(path, Flaw::TwoColumns { name: twice.name().clone() }));
        }
        let Some(first) = &all else {
            known.extend(
                own.fields().iter().enumerate().map(|(at, field)| (field.name().clone(), at)),
            );
            fields = own.fields().iter().map(|field| field.as_ref().clone()).collect();
            all = Some(Arc::clone(own));
            continue;
        };
        if first.fields() == own.fields() {
            continue;
        }
        let before: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        let here: Vec<&str> = own.fields().iter().map(|field| field.name().as_str()).collect();
        ApartError::check(&before, &here, union).map_err(|flaw| bad(path, flaw.into()))?;
        if !first
            .fields()
            .iter()
            .map(|field| field.name())
            .eq(own.fields().iter().map(|field| field.name()))
        {
            other.push(path);
        }
        for field in own.fields() {
            let Some(&at) = known.get(field.name()) else {
                // The files before have none of it.
                known.insert(field.name().clone(), fields.len());
                fields.push(field.as_ref().clone().with_nullable(true));
                continue;
            };
            let before = fields[at].data_type().clone();
            let Some(both) = joined(&before, field.data_type()) else {
                return Err(bad(
                    path,
                    Flaw::Types {
                        name: field.name().clone(),
                        here: field.data_type().clone(),
                        before,
                    },
                ));
            };
            if both != before && wider.len() < NOTES_MAX {
                wider.push(format!(
                    "column `{}` is {before} and {} in different files: it is {both}",
                    field.name(),
                    field.data_type()
                ));
            }
            fields[at] = fields[at]
                .clone()
                .with_nullable(fields[at].is_nullable() || field.is_nullable())
                .with_data_type(both);
        }
        for field in fields.iter_mut().filter(|field| !names.contains(field.name().as_str())) {
            field.set_nullable(true);
        }
    }
    let first = all.unwrap_or_else(|| Arc::new(Schema::empty()));
    let plain = |field: Field| {
        let mut metadata = field.metadata().clone();
        metadata.remove(FIELD_ID);
        field.with_metadata(metadata)
    };
    let is_one = first.fields().iter().map(AsRef::as_ref).eq(fields.iter());
    let schema = if is_one {
        first
    } else {
        Arc::new(Schema::new_with_metadata(
            fields.into_iter().map(plain).collect::<Vec<_>>(),
            first.metadata().clone(),
        ))
    };
    let mut notes = wider;
    if let Some(one) = other.first() {
        notes.insert(0, crate::passes::columns_differ(other.len(), &one.display().to_string()));
    }
    Ok((schema, notes))
}

/// The schema with the types that the dataset's columns have already, where those hold every value.
fn keeping(schema: SchemaRef, kept: Option<&Schema>, notes: &mut Vec<String>) -> SchemaRef {
    let Some(kept) = kept else { return schema };
    let mut said = Vec::new();
    let keep = |field: &Arc<Field>| {
        let before = kept.field_with_name(field.name()).ok().map(Field::data_type);
        let before = before.filter(|before| {
            *before != field.data_type()
                && joined(before, field.data_type()).as_ref() == Some(*before)
        });
        before.map_or_else(
            || field.as_ref().clone(),
            |before| {
                let name = field.name();
                said.push(format!(
                    "column `{name}` keeps its type {before}; read as a new dataset it is {}",
                    field.data_type()
                ));
                field.as_ref().clone().with_data_type(before.clone())
            },
        )
    };
    let fields: Vec<Field> = schema.fields().iter().map(keep).collect();
    if said.is_empty() {
        return schema;
    }
    notes.extend(said.into_iter().take(NOTES_MAX));
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The narrowest type that holds every value of both, bit for bit.
fn joined(left: &DataType, right: &DataType) -> Option<DataType> {
    use DataType::{
        Binary, BinaryView, Decimal128, Dictionary, Float16, Float32, Float64, Int8, Int16, Int32,
        Int64, LargeBinary, LargeUtf8, Null, Timestamp, UInt8, UInt16, UInt32, UInt64, Utf8,
        Utf8View,
    };
    // Bits of a whole number, and whether it has a sign.
    let whole = |of: &DataType| match of {
        Int8 => Some((8, true)),
        Int16 => Some((16, true)),
        Int32 => Some((32, true)),
        Int64 => Some((64, true)),
        UInt8 => Some((8, false)),
        UInt16 => Some((16, false)),
        UInt32 => Some((32, false)),
        UInt64 => Some((64, false)),
        _ => None,
    };
    // Bits of a float, and the whole numbers that it holds exactly.
    let float = |of: &DataType| match of {
        Float16 => Some((16, 11)),
        Float32 => Some((32, 24)),
        Float64 => Some((64, 53)),
        _ => None,
    };
    if left == right {
        return Some(left.clone());
    }
    match (left, right) {
        (Null, other) | (other, Null) => return Some(other.clone()),
        (Dictionary(_, value), other) | (other, Dictionary(_, value)) => {
            return joined(value, other);
        }
        _ => {}
    }
    if let (Some((a, a_signed)), Some((b, b_signed))) = (whole(left), whole(right)) {
        let signed = a_signed || b_signed;
        let bits = |bits: u32, has: bool| if signed && !has { bits * 2 } else { bits };
        return match (bits(a, a_signed).max(bits(b, b_signed)), signed) {
            (16, true) => Some(Int16),
            (32, true) => Some(Int32),
            (64, true) => Some(Int64),
            (16, false) => Some(UInt16),
            (32, false) => Some(UInt32),
            (64, false) => Some(UInt64),
            // Beyond 64 bits with a sign: all its digits.
            _ => Some(Decimal128(20, 0)),
        };
    }
    match (float(left), float(right)) {
        (Some((a, _)), Some((b, _))) => {
            return Some(if a.max(b) == 64 { Float64 } else { Float32 });
        }
        (Some(_), None) | (None, Some(_)) => {
            let bits = whole(left).or_else(|| whole(right))?.0;
            let widest = float(left).or_else(|| float(right))?.0;
            return [(32, 24, Float32), (64, 53, Float64)]
                .into_iter()
                .find(|(size, exact, _)| *size >= widest && *exact >= bits)
                .map(|(_, _, found)| found);
        }
        (None, None) => {}
    }
    match (left, right) {
        (Decimal128(a_digits, a_scale), Decimal128(b_digits, b_scale)) => {
            let scale = *a_scale.max(b_scale);
            let before = |digits: u8, of: i8| i16::from(digits) - i16::from(of);
            let digits =
                before(*a_digits, *a_scale).max(before(*b_digits, *b_scale)) + i16::from(scale);
            u8::try_from(digits)
                .ok()
                .filter(|digits| *digits <= DECIMAL_DIGITS_MAX)
                .map(|digits| Decimal128(digits, scale))
        }
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => Some(LargeUtf8),
        (Binary | LargeBinary | BinaryView, Binary | LargeBinary | BinaryView) => Some(LargeBinary),
        // The finer unit; a value that it does not hold is an error where it is met.
        (Timestamp(a, zone), Timestamp(b, other)) if zone == other => {
            Some(Timestamp(*a.max(b), zone.clone()))
        }
        _ => None,
    }
}

/// Where each column of all files together is in one.
fn places(all: &Schema, own: &Schema) -> Result<Vec<Option<usize>>, Flaw> {
    let known: HashMap<&str, usize> =
        own.fields().iter().enumerate().map(|(at, field)| (field.name().as_str(), at)).collect();
    let places: Vec<Option<usize>> =
        all.fields().iter().map(|field| known.get(field.name().as_str()).copied()).collect();
    // The footers were read before: what they do not tell of has come since.
    let is_known = places.iter().flatten().count() == own.fields().len();
    if is_known { Ok(places) } else { Err(Flaw::Changed) }
}

/// The same rows with the columns of all files together.
fn placed(
    batch: &RecordBatch,
    schema: &SchemaRef,
    places: &[Option<usize>],
) -> Result<RecordBatch, Flaw> {
    // A value that the wider type does not hold is an error and never NULL.
    let exactly = CastOptions { safe: false, ..CastOptions::default() };
    let column = |(field, place): (&Arc<Field>, &Option<usize>)| match place {
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        Some(at) if batch.column(*at).data_type() == field.data_type() => {
            Ok(Arc::clone(batch.column(*at)))
        }
        Some(at) => cast_with_options(batch.column(*at), field.data_type(), &exactly),
    };
    let columns: Vec<ArrayRef> =
        schema.fields().iter().zip(places).map(column).collect::<Result<_, _>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows)?)
}

/// The same rows with the columns that the file's folders are named after.
fn beside(
    batch: &RecordBatch,
    schema: &SchemaRef,
    partitions: &Partitions,
    file: usize,
) -> Result<RecordBatch, Flaw> {
    let columns = batch
        .columns()
        .iter()
        .cloned()
        .chain(partitions.columns(file, batch.num_rows())?)
        .collect();
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows)?)
}

#[cfg(test)]
mod tests;
