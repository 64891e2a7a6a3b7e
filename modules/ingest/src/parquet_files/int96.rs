//! Timestamps of 96 bits, as Spark and Impala write them: a day and its nanoseconds, which reach
//! further than 64 bits of nanoseconds.
//!
//! The library takes them for nanoseconds, and what those do not hold becomes another time without
//! a word. So such columns are looked at first. Invariant: a column is nanoseconds if they hold
//! each of its values, else microseconds; what neither holds is refused by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema, TimeUnit};
use parquet::basic::Type;
use parquet::column::reader::ColumnReader;
use parquet::data_type::Int96;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use tokio_util::sync::CancellationToken;

/// Values that are looked at together.
const LOOKED_VALUES: usize = 8192;
/// Nanoseconds of a day.
const DAY_NANOS: i128 = 86_400_000_000_000;
/// The Julian day of 1970-01-01.
const EPOCH_DAY: i128 = 2_440_588;

/// How far the values of a column go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// One is outside what 64 bits of nanoseconds hold: the years 1677 to 2262.
    pub(super) far: bool,
    /// One is outside what 64 bits of microseconds hold.
    pub(super) beyond: bool,
    /// One has a part of a microsecond.
    pub(super) fine: bool,
}

impl Reach {
    fn add(&mut self, value: &Int96) {
        let &[low, high, day] = value.data() else { return };
        let nanos = (u64::from(high) << 32 | u64::from(low)).cast_signed();
        let all = (i128::from(day.cast_signed()) - EPOCH_DAY) * DAY_NANOS + i128::from(nanos);
        self.far |= i64::try_from(all).is_err();
        self.beyond |= i64::try_from(all.div_euclid(1000)).is_err();
        self.fine |= all.rem_euclid(1000) != 0;
    }

    /// With what was seen in another file.
    pub(super) fn join(&mut self, other: Self) {
        self.far |= other.far;
        self.beyond |= other.beyond;
        self.fine |= other.fine;
    }

    /// Whether neither unit holds every value.
    pub(super) fn is_lost(self) -> bool {
        self.beyond || (self.far && self.fine)
    }
}

/// How far the columns of 96 bits of a file go, by their dotted paths. All their values are read,
/// unless `stop` is cancelled.
pub(super) fn look(
    file: File,
    stop: &CancellationToken,
) -> Result<BTreeMap<String, Reach>, ParquetError> {
    let reader = SerializedFileReader::new(file)?;
    let columns = places(reader.metadata().file_metadata().schema_descr());
    let mut seen: BTreeMap<String, Reach> = BTreeMap::new();
    if columns.is_empty() {
        return Ok(seen);
    }
    for at in 0..reader.num_row_groups() {
        let group = reader.get_row_group(at)?;
        for (column, path) in &columns {
            let ColumnReader::Int96ColumnReader(mut cells) = group.get_column_reader(*column)?
            else {
                continue;
            };
            let reach = seen.entry(path.clone()).or_default();
            let (mut defined, mut repeated, mut values) = (Vec::new(), Vec::new(), Vec::new());
            while cells
                .read_records(LOOKED_VALUES, Some(&mut defined), Some(&mut repeated), &mut values)?
                .0
                > 0
            {
                if stop.is_cancelled() {
                    return Err(ParquetError::General("the read was stopped".to_owned()));
                }
                values.iter().for_each(|value| reach.add(value));
                defined.clear();
                repeated.clear();
                values.clear();
            }
        }
    }
    Ok(seen)
}

/// Where columns of 96 bits are among all, and their dotted paths.
fn places(schema: &SchemaDescriptor) -> Vec<(usize, String)> {
    let columns = schema.columns().iter().enumerate();
    columns
        .filter(|(_, column)| column.physical_type() == Type::INT96)
        .map(|(at, column)| (at, column.path().string()))
        .collect()
}

/// A file's schema with microseconds in the columns of 96 bits that are named; none if it has none
/// of them.
pub(super) fn coarser(
    schema: &Schema,
    own: &SchemaDescriptor,
    named: &BTreeSet<String>,
) -> Option<Schema> {
    let leaves: BTreeSet<usize> = places(own)
        .into_iter()
        .filter(|(_, path)| named.contains(path))
        .map(|(at, _)| at)
        .collect();
    if leaves.is_empty() {
        return None;
    }
    let mut at = 0;
    let fields: Fields = schema
        .fields()
        .iter()
        .map(|field| Arc::new(coarser_field(field, &leaves, &mut at)))
        .collect();
    Some(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn coarser_field(field: &Field, leaves: &BTreeSet<usize>, at: &mut usize) -> Field {
    let mut item = |inner: &Arc<Field>| Arc::new(coarser_field(inner, leaves, at));
    let kind = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(item).collect()),
        DataType::List(inner) => DataType::List(item(inner)),
        DataType::LargeList(inner) => DataType::LargeList(item(inner)),
        DataType::ListView(inner) => DataType::ListView(item(inner)),
        DataType::LargeListView(inner) => DataType::LargeListView(item(inner)),
        DataType::FixedSizeList(inner, length) => DataType::FixedSizeList(item(inner), *length),
        DataType::Map(entries, sorted) => DataType::Map(item(entries), *sorted),
        leaf => {
            let here = *at;
            *at += 1;
            match leaf {
                DataType::Timestamp(TimeUnit::Nanosecond, zone) if leaves.contains(&here) => {
                    DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
                }
                other => other.clone(),
            }
        }
    };
    field.clone().with_data_type(kind)
}
