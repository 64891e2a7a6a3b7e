//! Values of the binary protocol into Arrow columns. A value that the Arrow type cannot hold (a
//! zero date, text that is no UTF-8) becomes NULL and is counted. Pure.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder,
    DurationMicrosecondBuilder, Float32Builder, Float64Builder, Int8Builder, Int16Builder,
    Int32Builder, Int64Builder, ListBuilder, StringBuilder, StringDictionaryBuilder,
    TimestampMicrosecondBuilder, UInt8Builder, UInt16Builder, UInt32Builder, UInt64Builder,
};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::i256;
use arrow_schema::{ArrowError, DataType, SchemaRef, TimeUnit};
use mysql_async::Value;
use mysql_async::consts::{ColumnFlags, ColumnType};

use crate::postgres::decode::put;

/// The character set of bytes that are no text.
const BINARY: u16 = 63;
/// Rows a batch.
const BATCH_ROWS: usize = 8192;
/// Bytes of the source a batch.
const BATCH_BYTES: usize = 4 << 20;
const DAY_US: i64 = 86_400_000_000;

/// The Arrow type of a column of a result.
#[must_use]
pub fn arrow_type(column: &mysql_async::Column) -> DataType {
    let (flags, decimals) = (column.flags(), column.decimals());
    let unsigned = flags.contains(ColumnFlags::UNSIGNED_FLAG);
    let either = |signed: DataType, other: DataType| if unsigned { other } else { signed };
    let text = || if column.character_set() == BINARY { DataType::Binary } else { DataType::Utf8 };
    match column.column_type() {
        ColumnType::MYSQL_TYPE_TINY => either(DataType::Int8, DataType::UInt8),
        ColumnType::MYSQL_TYPE_SHORT => either(DataType::Int16, DataType::UInt16),
        ColumnType::MYSQL_TYPE_YEAR => DataType::Int16,
        ColumnType::MYSQL_TYPE_INT24 | ColumnType::MYSQL_TYPE_LONG => {
            either(DataType::Int32, DataType::UInt32)
        }
        ColumnType::MYSQL_TYPE_LONGLONG => either(DataType::Int64, DataType::UInt64),
        ColumnType::MYSQL_TYPE_FLOAT => DataType::Float32,
        ColumnType::MYSQL_TYPE_DOUBLE => DataType::Float64,
        ColumnType::MYSQL_TYPE_DECIMAL | ColumnType::MYSQL_TYPE_NEWDECIMAL => {
            // The length is that of the longest text: digits, a sign unless unsigned, a point if
            // there are decimals.
            let digits = column
                .column_length()
                .saturating_sub(u32::from(!unsigned) + u32::from(decimals > 0));
            let (precision, scale) = (
                u8::try_from(digits).unwrap_or(u8::MAX).max(decimals).max(1),
                decimals.cast_signed(),
            );
            match precision {
                ..=38 => DataType::Decimal128(precision, scale),
                39..=76 => DataType::Decimal256(precision, scale),
                _ => DataType::Utf8,
            }
        }
        ColumnType::MYSQL_TYPE_BIT if column.column_length() == 1 => DataType::Boolean,
        ColumnType::MYSQL_TYPE_BIT => DataType::UInt64,
        ColumnType::MYSQL_TYPE_DATE | ColumnType::MYSQL_TYPE_NEWDATE => DataType::Date32,
        ColumnType::MYSQL_TYPE_DATETIME | ColumnType::MYSQL_TYPE_DATETIME2 => {
            DataType::Timestamp(TimeUnit::Microsecond, None)
        }
        ColumnType::MYSQL_TYPE_TIMESTAMP | ColumnType::MYSQL_TYPE_TIMESTAMP2 => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        ColumnType::MYSQL_TYPE_TIME | ColumnType::MYSQL_TYPE_TIME2 => {
            DataType::Duration(TimeUnit::Microsecond)
        }
        ColumnType::MYSQL_TYPE_JSON => DataType::Utf8,
        ColumnType::MYSQL_TYPE_GEOMETRY => DataType::Binary,
        _ if flags.contains(ColumnFlags::ENUM_FLAG) => {
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
        }
        _ if flags.contains(ColumnFlags::SET_FLAG) => {
            DataType::List(Arc::new(arrow_schema::Field::new("item", DataType::Utf8, true)))
        }
        _ => text(),
    }
}

enum Column {
    Bool(BooleanBuilder),
    I8(Int8Builder),
    I16(Int16Builder),
    I32(Int32Builder),
    I64(Int64Builder),
    U8(UInt8Builder),
    U16(UInt16Builder),
    U32(UInt32Builder),
    U64(UInt64Builder),
    F32(Float32Builder),
    F64(Float64Builder),
    Decimal128(Decimal128Builder, usize),
    Decimal256(Decimal256Builder, usize),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Time(DurationMicrosecondBuilder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Enum(StringDictionaryBuilder<Int32Type>),
    Set(ListBuilder<StringBuilder>),
}

impl Column {
    fn of(kind: &DataType) -> Self {
        let scale = |scale: i8| usize::try_from(scale).unwrap_or(0);
        match kind {
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Int8 => Self::I8(Int8Builder::new()),
            DataType::Int16 => Self::I16(Int16Builder::new()),
            DataType::Int32 => Self::I32(Int32Builder::new()),
            DataType::Int64 => Self::I64(Int64Builder::new()),
            DataType::UInt8 => Self::U8(UInt8Builder::new()),
            DataType::UInt16 => Self::U16(UInt16Builder::new()),
            DataType::UInt32 => Self::U32(UInt32Builder::new()),
            DataType::UInt64 => Self::U64(UInt64Builder::new()),
            DataType::Float32 => Self::F32(Float32Builder::new()),
            DataType::Float64 => Self::F64(Float64Builder::new()),
            DataType::Decimal128(_, s) => {
                Self::Decimal128(Decimal128Builder::new().with_data_type(kind.clone()), scale(*s))
            }
            DataType::Decimal256(_, s) => {
                Self::Decimal256(Decimal256Builder::new().with_data_type(kind.clone()), scale(*s))
            }
            DataType::Date32 => Self::Date(Date32Builder::new()),
            DataType::Timestamp(..) => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(kind.clone()))
            }
            DataType::Duration(_) => Self::Time(DurationMicrosecondBuilder::new()),
            DataType::Binary => Self::Bytes(BinaryBuilder::new()),
            DataType::Dictionary(..) => Self::Enum(StringDictionaryBuilder::new()),
            DataType::List(_) => Self::Set(ListBuilder::new(StringBuilder::new())),
            _ => Self::Text(StringBuilder::new()),
        }
    }

    fn null(&mut self) {
        match self {
            Self::Bool(b) => b.append_null(),
            Self::I8(b) => b.append_null(),
            Self::I16(b) => b.append_null(),
            Self::I32(b) => b.append_null(),
            Self::I64(b) => b.append_null(),
            Self::U8(b) => b.append_null(),
            Self::U16(b) => b.append_null(),
            Self::U32(b) => b.append_null(),
            Self::U64(b) => b.append_null(),
            Self::F32(b) => b.append_null(),
            Self::F64(b) => b.append_null(),
            Self::Decimal128(b, _) => b.append_null(),
            Self::Decimal256(b, _) => b.append_null(),
            Self::Date(b) => b.append_null(),
            Self::Timestamp(b) => b.append_null(),
            Self::Time(b) => b.append_null(),
            Self::Text(b) => b.append_null(),
            Self::Bytes(b) => b.append_null(),
            Self::Enum(b) => b.append_null(),
            Self::Set(b) => b.append_null(),
        }
    }

    /// Adds a value; whether it could be held.
    fn add(&mut self, value: &Value) -> bool {
        let held = match self {
            Self::Bool(b) => put(bits(value), |v| b.append_value(v != 0)),
            Self::I8(b) => put(integer(value), |v| b.append_value(v)),
            Self::I16(b) => put(integer(value), |v| b.append_value(v)),
            Self::I32(b) => put(integer(value), |v| b.append_value(v)),
            Self::I64(b) => put(integer(value), |v| b.append_value(v)),
            Self::U8(b) => put(integer(value), |v| b.append_value(v)),
            Self::U16(b) => put(integer(value), |v| b.append_value(v)),
            Self::U32(b) => put(integer(value), |v| b.append_value(v)),
            Self::U64(b) => put(bits(value), |v| b.append_value(v)),
            Self::F32(b) => match value {
                Value::Float(v) => put(Some(*v), |v| b.append_value(v)),
                _ => false,
            },
            Self::F64(b) => match value {
                Value::Double(v) => put(Some(*v), |v| b.append_value(v)),
                Value::Float(v) => put(Some(f64::from(*v)), |v| b.append_value(v)),
                _ => false,
            },
            Self::Decimal128(b, scale) => put(number(value, *scale), |v| b.append_value(v)),
            Self::Decimal256(b, scale) => {
                put(digits(value, *scale).and_then(|d| i256::from_string(&d)), |v| {
                    b.append_value(v);
                })
            }
            Self::Date(b) => put(day(value), |v| b.append_value(v)),
            Self::Timestamp(b) => put(instant(value), |v| b.append_value(v)),
            Self::Time(b) => put(span(value), |v| b.append_value(v)),
            Self::Text(b) => put(text(value), |v| b.append_value(v)),
            Self::Bytes(b) => match value {
                Value::Bytes(v) => put(Some(v), |v| b.append_value(v)),
                _ => false,
            },
            Self::Enum(b) => text(value).is_some_and(|v| b.append(v).is_ok()),
            Self::Set(b) => put(text(value), |v| {
                v.split(',')
                    .filter(|part| !part.is_empty())
                    .for_each(|part| b.values().append_value(part));
                b.append(true);
            }),
        };
        if !held {
            self.null();
        }
        held
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(b) => Arc::new(b.finish()),
            Self::I8(b) => Arc::new(b.finish()),
            Self::I16(b) => Arc::new(b.finish()),
            Self::I32(b) => Arc::new(b.finish()),
            Self::I64(b) => Arc::new(b.finish()),
            Self::U8(b) => Arc::new(b.finish()),
            Self::U16(b) => Arc::new(b.finish()),
            Self::U32(b) => Arc::new(b.finish()),
            Self::U64(b) => Arc::new(b.finish()),
            Self::F32(b) => Arc::new(b.finish()),
            Self::F64(b) => Arc::new(b.finish()),
            Self::Decimal128(b, _) => Arc::new(b.finish()),
            Self::Decimal256(b, _) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Timestamp(b) => Arc::new(b.finish()),
            Self::Time(b) => Arc::new(b.finish()),
            Self::Text(b) => Arc::new(b.finish()),
            Self::Bytes(b) => Arc::new(b.finish()),
            Self::Enum(b) => Arc::new(b.finish()),
            Self::Set(b) => Arc::new(b.finish()),
        }
    }
}

fn integer<T: TryFrom<i64> + TryFrom<u64>>(value: &Value) -> Option<T> {
    match value {
        Value::Int(v) => T::try_from(*v).ok(),
        Value::UInt(v) => T::try_from(*v).ok(),
        _ => None,
    }
}

/// BIT comes as bytes, the most significant first; BIGINT UNSIGNED as a number.
fn bits(value: &Value) -> Option<u64> {
    match value {
        Value::Bytes(bytes) if bytes.len() <= 8 => {
            Some(bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b)))
        }
        other => integer(other),
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// A decimal at a scale, of at most 38 digits.
fn number(value: &Value, scale: usize) -> Option<i128> {
    let Value::Bytes(text) = value else { return None };
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, text.as_slice()),
    };
    let (mut sum, mut point, mut count) = (0_i128, None, 0);
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                sum = sum.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
                count += 1;
            }
            b'.' if point.is_none() => point = Some(count),
            _ => return None,
        }
    }
    let missing = scale.checked_sub(point.map_or(0, |point| count - point))?;
    let sum = (count > 0)
        .then_some(sum)?
        .checked_mul(10_i128.checked_pow(u32::try_from(missing).ok()?)?)?;
    Some(if negative { -sum } else { sum })
}

/// The digits of a decimal at a scale, without a point.
fn digits(value: &Value, scale: usize) -> Option<String> {
    let (whole, fraction) = text(value)?.split_once('.').unwrap_or((text(value)?, ""));
    (fraction.len() <= scale).then(|| format!("{whole}{fraction:0<scale$}"))
}

/// Days since 1970 of a date that exists (Howard Hinnant's `days_from_civil`); the calendar goes on
/// before 1582 as MySQL's does.
fn days(year: u16, month: u8, day: u8) -> Option<i32> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let longest = match month {
        2 => 28 + u8::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) || year == 0 {
        return None;
    }
    let (month, day) = (i32::from(month), i32::from(day));
    let year = i32::from(year) - i32::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

fn day(value: &Value) -> Option<i32> {
    match value {
        Value::Date(year, month, day, ..) => days(*year, *month, *day),
        _ => None,
    }
}

fn instant(value: &Value) -> Option<i64> {
    match value {
        Value::Date(year, month, day, hour, minute, second, us) => {
            let seconds = i64::from(*hour) * 3600 + i64::from(*minute) * 60 + i64::from(*second);
            Some(
                i64::from(days(*year, *month, *day)?) * DAY_US
                    + seconds * 1_000_000
                    + i64::from(*us),
            )
        }
        _ => None,
    }
}

fn span(value: &Value) -> Option<i64> {
    match value {
        Value::Time(negative, days, hours, minutes, seconds, us) => {
            let seconds = i64::from(*hours) * 3600 + i64::from(*minutes) * 60 + i64::from(*seconds);
            let all = i64::from(*days) * DAY_US + seconds * 1_000_000 + i64::from(*us);
            Some(if *negative { -all } else { all })
        }
        _ => None,
    }
}

/// Rows while they are read.
pub struct Rows {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// NULLs put for what Arrow cannot hold, by column.
    pub nulls_made: Vec<u64>,
    rows: usize,
    bytes: usize,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Rows {
    /// An empty batch of this schema.
    #[must_use]
    pub fn new(schema: SchemaRef) -> Self {
        let columns: Vec<Column> =
            schema.fields().iter().map(|f| Column::of(f.data_type())).collect();
        Self { nulls_made: vec![0; columns.len()], schema, columns, rows: 0, bytes: 0 }
    }

    /// Takes a row, which has as many values as the schema.
    pub fn take(&mut self, row: &mysql_async::Row) {
        for (i, (column, made)) in self.columns.iter_mut().zip(&mut self.nulls_made).enumerate() {
            match row.as_ref(i) {
                None | Some(Value::NULL) => column.null(),
                Some(value) => {
                    self.bytes += match value {
                        Value::Bytes(bytes) => bytes.len(),
                        _ => 8,
                    };
                    *made += u64::from(!column.add(value));
                }
            }
        }
        self.rows += 1;
    }

    /// Whether the batch is large enough to be written.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// The rows so far and about how many bytes they came in, if there are any; the next batch is
    /// empty.
    ///
    /// # Errors
    /// If the columns do not fit the schema.
    pub fn batch(&mut self) -> Result<Option<(RecordBatch, u64)>, ArrowError> {
        if self.rows == 0 {
            return Ok(None);
        }
        let columns = self.columns.iter_mut().map(Column::finish).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let bytes = self.bytes as u64;
        (self.rows, self.bytes) = (0, 0);
        Ok(Some((batch, bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_that_does_not_exist_is_no_date() {
        let of = |y, m, d| days(y, m, d);
        assert_eq!(
            (of(1970, 1, 1), of(2000, 2, 29), of(1969, 12, 31), of(9999, 12, 31)),
            (Some(0), Some(11_016), Some(-1), Some(2_932_896))
        );
        assert_eq!(of(1000, 1, 1), Some(-354_285));
        for (y, m, d) in [
            (0, 0, 0),
            (2024, 0, 5),
            (2024, 5, 0),
            (2023, 2, 29),
            (1900, 2, 29),
            (0, 1, 1),
            (2024, 13, 1),
            (2024, 4, 31),
        ] {
            assert_eq!(of(y, m, d), None, "{y}-{m}-{d}");
        }
    }

    #[test]
    fn decimals_and_bits_keep_every_digit() {
        let of = |text: &str, scale| digits(&Value::Bytes(text.into()), scale);
        assert_eq!(
            (of("-12.50", 2), of("7", 3), of("-0.001", 3)),
            (Some("-1250".into()), Some("7000".into()), Some("-0001".into()))
        );
        assert_eq!(of("1.234", 2), None, "nothing is rounded");
        for text in [
            "0",
            "-0.001",
            "12.50",
            "7",
            "-99999999999999999999999999999999999.999",
            "99999999999999999999999999999999999.999",
            ".5",
        ] {
            let longhand = digits(&Value::Bytes(text.into()), 3).and_then(|d| d.parse().ok());
            assert_eq!(number(&Value::Bytes(text.into()), 3), longhand, "{text}");
        }
        for text in ["", "-", "1.2345", "1e5", "1.2.3", " 1"] {
            assert_eq!(number(&Value::Bytes(text.into()), 3), None, "{text}");
        }
        assert_eq!(bits(&Value::Bytes(vec![1, 0, 255])), Some(0x1_00ff));
        assert_eq!(
            span(&Value::Time(true, 34, 22, 59, 59, 1)),
            Some(-(34 * DAY_US + 82_799 * 1_000_000 + 1))
        );
    }
}
