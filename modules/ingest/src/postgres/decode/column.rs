//! One column of a binary COPY on its way to Arrow: values are added as they are sent, and NULLs
//! for what Arrow cannot hold.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder,
    Float32Builder, Float64Builder, Int16Builder, Int32Builder, Int64Builder, MapBuilder,
    MapFieldNames, StringBuilder, StringDictionaryBuilder, Time64MicrosecondBuilder,
    TimestampMicrosecondBuilder, UInt32Builder,
};
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, ListArray, StructArray,
};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::Field;

use super::numeric::{decimal128, decimal256, numeric_text};
use super::{Cursor, Malformed, exact, malformed, put};
use crate::postgres::shape::{Shape, interval_fields, item_field, range_fields};

/// Days from 1970-01-01 to 2000-01-01, PostgreSQL's day 0.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
const EPOCH_US: i64 = EPOCH_DAYS as i64 * 86_400_000_000;
/// 24:00:00, which PostgreSQL has and Arrow's time of day has not.
const MIDNIGHT_US: i64 = 86_400_000_000;

/// A column while it is read.
pub(super) enum Column {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Oid(UInt32Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Decimal128(Decimal128Builder, i8),
    Decimal256(Decimal256Builder, i8),
    NumericText(StringBuilder),
    Text(StringBuilder),
    Jsonb(StringBuilder),
    Uuid(StringBuilder),
    Bytes(BinaryBuilder),
    Enum(StringDictionaryBuilder<Int32Type>),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Interval(Int32Builder, Int32Builder, Int64Builder, NullBufferBuilder),
    List(Box<Column>, Vec<i32>, NullBufferBuilder, Shape),
    Struct(Vec<Column>, NullBufferBuilder, Shape),
    Range(Box<[Column; 2]>, [Vec<bool>; 3], NullBufferBuilder, Shape),
    Hstore(MapBuilder<StringBuilder, StringBuilder>),
    Vector(Vec<f32>, usize, NullBufferBuilder),
}

impl Column {
    pub(super) fn of(shape: &Shape) -> Self {
        match shape {
            Shape::Bool => Self::Bool(BooleanBuilder::new()),
            Shape::Int2 => Self::Int2(Int16Builder::new()),
            Shape::Int4 => Self::Int4(Int32Builder::new()),
            Shape::Int8 => Self::Int8(Int64Builder::new()),
            Shape::Oid => Self::Oid(UInt32Builder::new()),
            Shape::Float4 => Self::Float4(Float32Builder::new()),
            Shape::Float8 => Self::Float8(Float64Builder::new()),
            Shape::Decimal(..=38, scale) => {
                Self::Decimal128(Decimal128Builder::new().with_data_type(shape.arrow()), *scale)
            }
            Shape::Decimal(_, scale) => {
                Self::Decimal256(Decimal256Builder::new().with_data_type(shape.arrow()), *scale)
            }
            Shape::NumericText => Self::NumericText(StringBuilder::new()),
            Shape::Text => Self::Text(StringBuilder::new()),
            Shape::Jsonb => Self::Jsonb(StringBuilder::new()),
            Shape::Uuid => Self::Uuid(StringBuilder::new()),
            Shape::Bytes => Self::Bytes(BinaryBuilder::new()),
            Shape::Enum => Self::Enum(StringDictionaryBuilder::new()),
            Shape::Date => Self::Date(Date32Builder::new()),
            Shape::Time => Self::Time(Time64MicrosecondBuilder::new()),
            Shape::Timestamp(_) => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(shape.arrow()))
            }
            Shape::Interval => Self::Interval(
                Int32Builder::new(),
                Int32Builder::new(),
                Int64Builder::new(),
                NullBufferBuilder::new(0),
            ),
            Shape::List(item) => Self::List(
                Box::new(Self::of(item)),
                vec![0],
                NullBufferBuilder::new(0),
                (**item).clone(),
            ),
            Shape::Struct(fields) => Self::Struct(
                fields.iter().map(|(_, f)| Self::of(f)).collect(),
                NullBufferBuilder::new(0),
                shape.clone(),
            ),
            Shape::Range(bound) => {
                let bounds = Box::new([Self::of(bound), Self::of(bound)]);
                Self::Range(
                    bounds,
                    [Vec::new(), Vec::new(), Vec::new()],
                    NullBufferBuilder::new(0),
                    (**bound).clone(),
                )
            }
            Shape::Hstore => {
                let names = MapFieldNames {
                    entry: "entries".into(),
                    key: "keys".into(),
                    value: "values".into(),
                };
                Self::Hstore(MapBuilder::new(
                    Some(names),
                    StringBuilder::new(),
                    StringBuilder::new(),
                ))
            }
            Shape::Vector(dim) => Self::Vector(
                Vec::new(),
                usize::try_from(*dim).unwrap_or(0),
                NullBufferBuilder::new(0),
            ),
        }
    }

    fn null(&mut self) -> Result<(), Malformed> {
        match self {
            Self::Bool(b) => b.append_null(),
            Self::Int2(b) => b.append_null(),
            Self::Int4(b) => b.append_null(),
            Self::Int8(b) => b.append_null(),
            Self::Oid(b) => b.append_null(),
            Self::Float4(b) => b.append_null(),
            Self::Float8(b) => b.append_null(),
            Self::Decimal128(b, _) => b.append_null(),
            Self::Decimal256(b, _) => b.append_null(),
            Self::NumericText(b) | Self::Text(b) | Self::Jsonb(b) | Self::Uuid(b) => {
                b.append_null();
            }
            Self::Bytes(b) => b.append_null(),
            Self::Enum(b) => b.append_null(),
            Self::Date(b) => b.append_null(),
            Self::Time(b) => b.append_null(),
            Self::Timestamp(b) => b.append_null(),
            Self::Interval(months, days, us, valid) => {
                months.append_value(0);
                days.append_value(0);
                us.append_value(0);
                valid.append_null();
            }
            Self::List(_, offsets, valid, _) => {
                offsets.push(offsets.last().copied().unwrap_or(0));
                valid.append_null();
            }
            Self::Struct(fields, valid, _) => {
                fields.iter_mut().try_for_each(Self::null)?;
                valid.append_null();
            }
            Self::Range(bounds, flags, valid, _) => {
                bounds.iter_mut().try_for_each(Self::null)?;
                flags.iter_mut().for_each(|f| f.push(false));
                valid.append_null();
            }
            Self::Hstore(b) => b.append(false).or_else(|e| malformed(e.to_string()))?,
            Self::Vector(values, dim, valid) => {
                values.resize(values.len() + *dim, 0.0);
                valid.append_null();
            }
        }
        Ok(())
    }

    /// Adds a value; gives how many NULLs had to be put for what Arrow cannot hold.
    pub(super) fn add(&mut self, value: Option<&[u8]>) -> Result<u64, Malformed> {
        let Some(bytes) = value else {
            self.null()?;
            return Ok(0);
        };
        let held = match self {
            Self::Bool(b) => put(Some(exact::<1>(bytes)?[0] != 0), |v| b.append_value(v)),
            Self::Int2(b) => put(Some(i16::from_be_bytes(exact(bytes)?)), |v| b.append_value(v)),
            Self::Int4(b) => put(Some(i32::from_be_bytes(exact(bytes)?)), |v| b.append_value(v)),
            Self::Int8(b) => put(Some(i64::from_be_bytes(exact(bytes)?)), |v| b.append_value(v)),
            Self::Oid(b) => put(Some(u32::from_be_bytes(exact(bytes)?)), |v| b.append_value(v)),
            Self::Float4(b) => put(Some(f32::from_be_bytes(exact(bytes)?)), |v| b.append_value(v)),
            Self::Float8(b) => put(Some(f64::from_be_bytes(exact(bytes)?)), |v| b.append_value(v)),
            Self::Decimal128(b, scale) => put(decimal128(bytes, *scale)?, |v| b.append_value(v)),
            Self::Decimal256(b, scale) => put(decimal256(bytes, *scale)?, |v| b.append_value(v)),
            Self::NumericText(b) => put(Some(numeric_text(bytes)?), |v| b.append_value(v)),
            Self::Text(b) => put(std::str::from_utf8(bytes).ok(), |v| b.append_value(v)),
            Self::Jsonb(b) => match bytes.split_first() {
                Some((1, text)) => put(std::str::from_utf8(text).ok(), |v| b.append_value(v)),
                _ => return malformed("a jsonb of a version other than 1"),
            },
            Self::Uuid(b) => {
                let mut text = [0; 36];
                uuid(&exact(bytes)?, &mut text);
                put(std::str::from_utf8(&text).ok(), |v| b.append_value(v))
            }
            Self::Bytes(b) => put(Some(bytes), |v| b.append_value(v)),
            Self::Enum(b) => match std::str::from_utf8(bytes) {
                Ok(text) => b.append(text).map(|_| true).or_else(|e| malformed(e.to_string()))?,
                Err(_) => false,
            },
            Self::Date(b) => {
                let day = i32::from_be_bytes(exact(bytes)?);
                let finite = (day != i32::MAX && day != i32::MIN)
                    .then(|| day.checked_add(EPOCH_DAYS))
                    .flatten();
                put(finite, |v| b.append_value(v))
            }
            Self::Time(b) => {
                let us = i64::from_be_bytes(exact(bytes)?);
                put((0..MIDNIGHT_US).contains(&us).then_some(us), |v| b.append_value(v))
            }
            Self::Timestamp(b) => {
                let us = i64::from_be_bytes(exact(bytes)?);
                let finite =
                    (us != i64::MAX && us != i64::MIN).then(|| us.checked_add(EPOCH_US)).flatten();
                put(finite, |v| b.append_value(v))
            }
            Self::Interval(months, days, us, valid) => {
                let mut cursor = Cursor(bytes);
                us.append_value(i64::from_be_bytes(cursor.array()?));
                days.append_value(cursor.i32()?);
                months.append_value(cursor.i32()?);
                valid.append_non_null();
                true
            }
            Self::List(item, offsets, valid, _) => return add_list(item, offsets, valid, bytes),
            Self::Struct(fields, valid, _) => return add_struct(fields, valid, bytes),
            Self::Range(bounds, flags, valid, _) => return add_range(bounds, flags, valid, bytes),
            Self::Hstore(b) => add_pairs(b, bytes)?,
            Self::Vector(values, dim, valid) => add_vector(values, *dim, valid, bytes)?,
        };
        if !held {
            self.null()?;
        }
        Ok(u64::from(!held))
    }

    pub(super) fn finish(&mut self) -> Result<ArrayRef, Malformed> {
        Ok(match self {
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Int2(b) => Arc::new(b.finish()),
            Self::Int4(b) => Arc::new(b.finish()),
            Self::Int8(b) => Arc::new(b.finish()),
            Self::Oid(b) => Arc::new(b.finish()),
            Self::Float4(b) => Arc::new(b.finish()),
            Self::Float8(b) => Arc::new(b.finish()),
            Self::Decimal128(b, _) => Arc::new(b.finish()),
            Self::Decimal256(b, _) => Arc::new(b.finish()),
            Self::NumericText(b) | Self::Text(b) | Self::Jsonb(b) | Self::Uuid(b) => {
                Arc::new(b.finish())
            }
            Self::Bytes(b) => Arc::new(b.finish()),
            Self::Enum(b) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Time(b) => Arc::new(b.finish()),
            Self::Timestamp(b) => Arc::new(b.finish()),
            Self::Interval(months, days, us, valid) => {
                let parts: Vec<ArrayRef> =
                    vec![Arc::new(months.finish()), Arc::new(days.finish()), Arc::new(us.finish())];
                Arc::new(StructArray::try_new(interval_fields(), parts, valid.finish())?)
            }
            Self::List(item, offsets, valid, shape) => {
                let offsets =
                    OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                Arc::new(ListArray::try_new(
                    Arc::new(item_field(shape)),
                    offsets,
                    item.finish()?,
                    valid.finish(),
                )?)
            }
            Self::Struct(columns, valid, shape) => {
                let arrow_schema::DataType::Struct(fields) = shape.arrow() else {
                    return malformed("a struct is not a struct");
                };
                let columns = columns.iter_mut().map(Self::finish).collect::<Result<_, _>>()?;
                Arc::new(StructArray::try_new(fields, columns, valid.finish())?)
            }
            Self::Range(bounds, flags, valid, shape) => {
                let mut columns =
                    bounds.iter_mut().map(Self::finish).collect::<Result<Vec<_>, _>>()?;
                columns.extend(
                    flags
                        .iter_mut()
                        .map(|f| Arc::new(BooleanArray::from(std::mem::take(f))) as ArrayRef),
                );
                Arc::new(StructArray::try_new(range_fields(shape), columns, valid.finish())?)
            }
            Self::Hstore(b) => Arc::new(b.finish()),
            Self::Vector(values, dim, valid) => {
                let item = Arc::new(Field::new("item", arrow_schema::DataType::Float32, false));
                let values = Arc::new(Float32Array::from(std::mem::take(values)));
                let dim = i32::try_from(*dim).unwrap_or(i32::MAX);
                Arc::new(FixedSizeListArray::try_new(item, dim, values, valid.finish())?)
            }
        })
    }
}

fn add_list(
    item: &mut Column,
    offsets: &mut Vec<i32>,
    valid: &mut NullBufferBuilder,
    bytes: &[u8],
) -> Result<u64, Malformed> {
    let mut cursor = Cursor(bytes);
    let dimensions = cursor.i32()?;
    cursor.bytes(8)?;
    let at = offsets.last().copied().unwrap_or(0);
    let count = match dimensions {
        0 => 0,
        1 => {
            let count = cursor.i32()?;
            cursor.i32()?;
            count
        }
        // A list is of one dimension; which shape a value has is its own affair in PostgreSQL.
        _ => {
            offsets.push(at);
            valid.append_null();
            return Ok(1);
        }
    };
    let Some(end) = at.checked_add(count).filter(|_| count >= 0) else {
        return malformed(format!("an array of {count} elements"));
    };
    let mut made = 0;
    for _ in 0..count {
        made += item.add(cursor.value()?)?;
    }
    offsets.push(end);
    valid.append_non_null();
    Ok(made)
}

fn add_struct(
    fields: &mut [Column],
    valid: &mut NullBufferBuilder,
    bytes: &[u8],
) -> Result<u64, Malformed> {
    let mut cursor = Cursor(bytes);
    if usize::try_from(cursor.i32()?) != Ok(fields.len()) {
        return malformed("a composite value with another number of fields than its type");
    }
    let mut made = 0;
    for field in fields {
        cursor.i32()?;
        made += field.add(cursor.value()?)?;
    }
    valid.append_non_null();
    Ok(made)
}

/// Bits of the first byte, as rangetypes.h has them: empty 0x01, bounds inclusive 0x02 and 0x04,
/// bounds infinite 0x08 and 0x10.
fn add_range(
    [lower, upper]: &mut [Column; 2],
    flags: &mut [Vec<bool>; 3],
    valid: &mut NullBufferBuilder,
    bytes: &[u8],
) -> Result<u64, Malformed> {
    let mut cursor = Cursor(bytes);
    let [bits] = cursor.array::<1>()?;
    let mut made = 0;
    for (bound, infinite) in [(lower, 0x08), (upper, 0x10)] {
        let value = if bits & (infinite | 0x01) == 0 { cursor.value()? } else { None };
        made += bound.add(value)?;
    }
    for (flag, bit) in flags.iter_mut().zip([0x02, 0x04, 0x01]) {
        flag.push(bits & bit != 0);
    }
    valid.append_non_null();
    Ok(made)
}

/// Adds an hstore; whether all of it is text.
fn add_pairs(
    map: &mut MapBuilder<StringBuilder, StringBuilder>,
    bytes: &[u8],
) -> Result<bool, Malformed> {
    let mut cursor = Cursor(bytes);
    let text = |bytes: &'_ [u8]| std::str::from_utf8(bytes).map(str::to_owned);
    let mut pairs = Vec::new();
    for _ in 0..cursor.i32()? {
        let (key, value) = (cursor.value()?.unwrap_or_default(), cursor.value()?);
        pairs.push(text(key).and_then(|key| Ok((key, value.map(text).transpose()?))));
    }
    let Ok(pairs) = pairs.into_iter().collect::<Result<Vec<_>, _>>() else { return Ok(false) };
    for (key, value) in pairs {
        map.keys().append_value(key);
        map.values().append_option(value);
    }
    map.append(true).map(|()| true).or_else(|e| malformed(e.to_string()))
}

/// Adds a vector; whether it has as many numbers as its type.
fn add_vector(
    values: &mut Vec<f32>,
    dim: usize,
    valid: &mut NullBufferBuilder,
    bytes: &[u8],
) -> Result<bool, Malformed> {
    let mut cursor = Cursor(bytes);
    let there = usize::try_from(cursor.i16()?);
    cursor.i16()?;
    let numbers = cursor.0.as_chunks::<4>().0;
    let fits = there == Ok(dim) && numbers.len() == dim;
    if fits {
        values.extend(numbers.iter().map(|b| f32::from_be_bytes(*b)));
        valid.append_non_null();
    }
    Ok(fits)
}

/// As PostgreSQL prints it, by table: a tenth of a read's time went into formatting.
fn uuid(bytes: &[u8; 16], out: &mut [u8; 36]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut at = 0;
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out[at] = b'-';
            at += 1;
        }
        out[at] = HEX[usize::from(byte >> 4)];
        out[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
}
