//! Binary COPY into Arrow columns.
//!
//! The stream is a header, then rows: a count of fields, and each field as a length (−1 is NULL) and big-endian bytes.
//! A value that the Arrow type cannot hold becomes NULL and is counted; a value that is not what its type says ends the
//! reading. Pure.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder, Float32Builder, Float64Builder, Int16Builder,
    Int32Builder, Int64Builder, MapBuilder, MapFieldNames, StringBuilder, StringDictionaryBuilder, Time64MicrosecondBuilder,
    TimestampMicrosecondBuilder, UInt32Builder,
};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, ListArray, RecordBatch, StructArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer, i256};
use arrow_schema::{ArrowError, Field, SchemaRef};
use thiserror::Error;

use super::shape::{Shape, interval_fields, item_field, range_fields};

/// What a binary COPY begins with.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Days from 1970-01-01 to 2000-01-01, PostgreSQL's day 0.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
const EPOCH_US: i64 = EPOCH_DAYS as i64 * 86_400_000_000;
/// 24:00:00, which PostgreSQL has and Arrow's time of day has not.
const MIDNIGHT_US: i64 = 86_400_000_000;
/// Rows a batch.
const BATCH_ROWS: usize = 8192;
/// Bytes of the source a batch.
const BATCH_BYTES: usize = 4 << 20;

/// Bytes that are not what they should be.
#[derive(Debug, Error)]
pub enum Malformed {
    /// They are no binary COPY of these columns.
    #[error("the server's binary COPY is not understood: {what}")]
    Copy {
        /// What is wrong with them.
        what: String,
    },
    /// They cannot be put into columns.
    #[error("the server's binary COPY does not fit its columns")]
    Columns(#[from] ArrowError),
}

impl From<Malformed> for crate::table::ReadError {
    fn from(error: Malformed) -> Self {
        Self::malformed(error)
    }
}

fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed::Copy { what: what.into() })
}

/// Reads a value from the front of bytes.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        match self.0.split_at_checked(n) {
            Some((bytes, rest)) => {
                self.0 = rest;
                Ok(bytes)
            }
            None => malformed(format!("{} bytes where {n} were announced", self.0.len())),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        match self.0.split_first_chunk::<N>() {
            Some((bytes, rest)) => {
                self.0 = rest;
                Ok(*bytes)
            }
            None => malformed(format!("{} bytes, expected {N}", self.0.len())),
        }
    }

    fn i16(&mut self) -> Result<i16, Malformed> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// A length and that many bytes; `None` for NULL.
    fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.i32()? {
            -1 => Ok(None),
            n => match usize::try_from(n) {
                Ok(n) => self.bytes(n).map(Some),
                Err(_) => malformed(format!("a length of {n}")),
            },
        }
    }
}

fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes.try_into().or_else(|_| malformed(format!("{} bytes for a type of {N}", bytes.len())))
}

/// A column while it is read.
enum Column {
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
    fn of(shape: &Shape) -> Self {
        match shape {
            Shape::Bool => Self::Bool(BooleanBuilder::new()),
            Shape::Int2 => Self::Int2(Int16Builder::new()),
            Shape::Int4 => Self::Int4(Int32Builder::new()),
            Shape::Int8 => Self::Int8(Int64Builder::new()),
            Shape::Oid => Self::Oid(UInt32Builder::new()),
            Shape::Float4 => Self::Float4(Float32Builder::new()),
            Shape::Float8 => Self::Float8(Float64Builder::new()),
            Shape::Decimal(..=38, scale) => Self::Decimal128(Decimal128Builder::new().with_data_type(shape.arrow()), *scale),
            Shape::Decimal(_, scale) => Self::Decimal256(Decimal256Builder::new().with_data_type(shape.arrow()), *scale),
            Shape::NumericText => Self::NumericText(StringBuilder::new()),
            Shape::Text => Self::Text(StringBuilder::new()),
            Shape::Jsonb => Self::Jsonb(StringBuilder::new()),
            Shape::Uuid => Self::Uuid(StringBuilder::new()),
            Shape::Bytes => Self::Bytes(BinaryBuilder::new()),
            Shape::Enum => Self::Enum(StringDictionaryBuilder::new()),
            Shape::Date => Self::Date(Date32Builder::new()),
            Shape::Time => Self::Time(Time64MicrosecondBuilder::new()),
            Shape::Timestamp(_) => Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(shape.arrow())),
            Shape::Interval => Self::Interval(Int32Builder::new(), Int32Builder::new(), Int64Builder::new(), NullBufferBuilder::new(0)),
            Shape::List(item) => Self::List(Box::new(Self::of(item)), vec![0], NullBufferBuilder::new(0), (**item).clone()),
            Shape::Struct(fields) => {
                Self::Struct(fields.iter().map(|(_, f)| Self::of(f)).collect(), NullBufferBuilder::new(0), shape.clone())
            }
            Shape::Range(bound) => {
                let bounds = Box::new([Self::of(bound), Self::of(bound)]);
                Self::Range(bounds, [Vec::new(), Vec::new(), Vec::new()], NullBufferBuilder::new(0), (**bound).clone())
            }
            Shape::Hstore => {
                let names = MapFieldNames { entry: "entries".into(), key: "keys".into(), value: "values".into() };
                Self::Hstore(MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new()))
            }
            Shape::Vector(dim) => Self::Vector(Vec::new(), usize::try_from(*dim).unwrap_or(0), NullBufferBuilder::new(0)),
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
            Self::NumericText(b) | Self::Text(b) | Self::Jsonb(b) | Self::Uuid(b) => b.append_null(),
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
    fn add(&mut self, value: Option<&[u8]>) -> Result<u64, Malformed> {
        let Some(bytes) = value else {
            self.null()?;
            return Ok(0);
        };
        let held = match self {
            Self::Bool(b) => {
                b.append_value(exact::<1>(bytes)?[0] != 0);
                true
            }
            Self::Int2(b) => {
                b.append_value(i16::from_be_bytes(exact(bytes)?));
                true
            }
            Self::Int4(b) => {
                b.append_value(i32::from_be_bytes(exact(bytes)?));
                true
            }
            Self::Int8(b) => {
                b.append_value(i64::from_be_bytes(exact(bytes)?));
                true
            }
            Self::Oid(b) => {
                b.append_value(u32::from_be_bytes(exact(bytes)?));
                true
            }
            Self::Float4(b) => {
                b.append_value(f32::from_be_bytes(exact(bytes)?));
                true
            }
            Self::Float8(b) => {
                b.append_value(f64::from_be_bytes(exact(bytes)?));
                true
            }
            Self::Decimal128(b, scale) => put(decimal128(bytes, *scale)?, |v| b.append_value(v)),
            Self::Decimal256(b, scale) => put(decimal256(bytes, *scale)?, |v| b.append_value(v)),
            Self::NumericText(b) => {
                b.append_value(numeric_text(bytes)?);
                true
            }
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
            Self::Bytes(b) => {
                b.append_value(bytes);
                true
            }
            Self::Enum(b) => match std::str::from_utf8(bytes) {
                Ok(text) => {
                    b.append(text).or_else(|e| malformed(e.to_string()))?;
                    true
                }
                Err(_) => false,
            },
            Self::Date(b) => {
                let day = i32::from_be_bytes(exact(bytes)?);
                let finite = (day != i32::MAX && day != i32::MIN).then(|| day.checked_add(EPOCH_DAYS)).flatten();
                put(finite, |v| b.append_value(v))
            }
            Self::Time(b) => {
                let us = i64::from_be_bytes(exact(bytes)?);
                put((0..MIDNIGHT_US).contains(&us).then_some(us), |v| b.append_value(v))
            }
            Self::Timestamp(b) => {
                let us = i64::from_be_bytes(exact(bytes)?);
                let finite = (us != i64::MAX && us != i64::MIN).then(|| us.checked_add(EPOCH_US)).flatten();
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
            Self::Struct(fields, valid, _) => {
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
                return Ok(made);
            }
            Self::Range(bounds, flags, valid, _) => {
                let mut cursor = Cursor(bytes);
                let [bits] = cursor.array::<1>()?;
                let [lower, upper] = &mut **bounds;
                let mut made = 0;
                for (bound, infinite) in [(lower, 0x08), (upper, 0x10)] {
                    let value = if bits & (infinite | 0x01) == 0 { cursor.value()? } else { None };
                    made += bound.add(value)?;
                }
                for (flag, bit) in flags.iter_mut().zip([0x02, 0x04, 0x01]) {
                    flag.push(bits & bit != 0);
                }
                valid.append_non_null();
                return Ok(made);
            }
            Self::Hstore(b) => {
                let mut cursor = Cursor(bytes);
                let text = |bytes: &'_ [u8]| std::str::from_utf8(bytes).map(str::to_owned);
                let mut pairs = Vec::new();
                for _ in 0..cursor.i32()? {
                    let (key, value) = (cursor.value()?.unwrap_or_default(), cursor.value()?);
                    pairs.push(text(key).and_then(|key| Ok((key, value.map(text).transpose()?))));
                }
                match pairs.into_iter().collect::<Result<Vec<_>, _>>() {
                    Err(_) => false,
                    Ok(pairs) => {
                        for (key, value) in pairs {
                            b.keys().append_value(key);
                            b.values().append_option(value);
                        }
                        b.append(true).or_else(|e| malformed(e.to_string()))?;
                        true
                    }
                }
            }
            Self::Vector(values, dim, valid) => {
                let mut cursor = Cursor(bytes);
                let there = usize::try_from(cursor.i16()?);
                cursor.i16()?;
                let numbers = cursor.0.as_chunks::<4>().0;
                let fits = there == Ok(*dim) && numbers.len() == *dim;
                if fits {
                    values.extend(numbers.iter().map(|b| f32::from_be_bytes(*b)));
                    valid.append_non_null();
                }
                fits
            }
        };
        if !held {
            self.null()?;
        }
        Ok(u64::from(!held))
    }

    fn finish(&mut self) -> Result<ArrayRef, Malformed> {
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
            Self::NumericText(b) | Self::Text(b) | Self::Jsonb(b) | Self::Uuid(b) => Arc::new(b.finish()),
            Self::Bytes(b) => Arc::new(b.finish()),
            Self::Enum(b) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Time(b) => Arc::new(b.finish()),
            Self::Timestamp(b) => Arc::new(b.finish()),
            Self::Interval(months, days, us, valid) => {
                let parts: Vec<ArrayRef> = vec![Arc::new(months.finish()), Arc::new(days.finish()), Arc::new(us.finish())];
                Arc::new(StructArray::try_new(interval_fields(), parts, valid.finish())?)
            }
            Self::List(item, offsets, valid, shape) => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                Arc::new(ListArray::try_new(Arc::new(item_field(shape)), offsets, item.finish()?, valid.finish())?)
            }
            Self::Struct(columns, valid, shape) => {
                let arrow_schema::DataType::Struct(fields) = shape.arrow() else { return malformed("a struct is not a struct") };
                let columns = columns.iter_mut().map(Self::finish).collect::<Result<_, _>>()?;
                Arc::new(StructArray::try_new(fields, columns, valid.finish())?)
            }
            Self::Range(bounds, flags, valid, shape) => {
                let mut columns = bounds.iter_mut().map(Self::finish).collect::<Result<Vec<_>, _>>()?;
                columns.extend(flags.iter_mut().map(|f| Arc::new(BooleanArray::from(std::mem::take(f))) as ArrayRef));
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

/// Adds what could be held; whether it could.
pub(crate) fn put<T>(value: Option<T>, append: impl FnOnce(T)) -> bool {
    value.map(append).is_some()
}

fn add_list(item: &mut Column, offsets: &mut Vec<i32>, valid: &mut NullBufferBuilder, bytes: &[u8]) -> Result<u64, Malformed> {
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
    let Some(end) = at.checked_add(count).filter(|_| count >= 0) else { return malformed(format!("an array of {count} elements")) };
    let mut made = 0;
    for _ in 0..count {
        made += item.add(cursor.value()?)?;
    }
    offsets.push(end);
    valid.append_non_null();
    Ok(made)
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

/// A numeric as it is sent: base-10000 digits, the first worth 10000^weight.
struct Numeric<'a> {
    digits: &'a [[u8; 2]],
    weight: i32,
    negative: bool,
    scale: usize,
}

impl<'a> Numeric<'a> {
    /// `Err` with the word for what is no number.
    fn parse(bytes: &'a [u8]) -> Result<Result<Self, &'static str>, Malformed> {
        let mut cursor = Cursor(bytes);
        let (count, weight, sign, scale) = (cursor.i16()?, cursor.i16()?, cursor.array::<2>()?, cursor.i16()?);
        let digits = cursor.0.as_chunks::<2>().0;
        if usize::try_from(count) != Ok(digits.len()) || scale < 0 || digits.iter().any(|d| !(0..10_000).contains(&i16::from_be_bytes(*d)))
        {
            return malformed("a numeric with digits beyond its count");
        }
        Ok(match u16::from_be_bytes(sign) {
            sign @ (0 | 0x4000) => {
                Ok(Self { digits, weight: weight.into(), negative: sign != 0, scale: usize::try_from(scale).unwrap_or(0) })
            }
            0xC000 => Err("NaN"),
            0xD000 => Err("Infinity"),
            0xF000 => Err("-Infinity"),
            other => return malformed(format!("a numeric of sign {other:#06x}")),
        })
    }

    fn digit(&self, at: i32) -> i16 {
        usize::try_from(at).ok().and_then(|at| self.digits.get(at)).map_or(0, |d| i16::from_be_bytes(*d))
    }

    /// As PostgreSQL prints it.
    fn text(&self) -> String {
        let mut out = String::from(if self.negative { "-" } else { "" });
        if self.weight < 0 {
            out.push('0');
        }
        for at in 0..=self.weight {
            out.push_str(&if at == 0 { self.digit(at).to_string() } else { format!("{:04}", self.digit(at)) });
        }
        if self.scale > 0 {
            out.push('.');
            let point = out.len();
            let mut at = self.weight + 1;
            while out.len() - point < self.scale {
                out.push_str(&format!("{:04}", self.digit(at)));
                at += 1;
            }
            out.truncate(point + self.scale);
        }
        out
    }
}

fn numeric_text(bytes: &[u8]) -> Result<String, Malformed> {
    Ok(Numeric::parse(bytes)?.map_or_else(str::to_owned, |n| n.text()))
}

/// The unscaled value at this scale; `None` for NaN, infinity and what the scale would round.
fn decimal128(bytes: &[u8], scale: i8) -> Result<Option<i128>, Malformed> {
    let Ok(n) = Numeric::parse(bytes)? else { return Ok(None) };
    // 36 digits fit; more may not before the last group is cut.
    if n.digits.len() > 9 {
        return Ok(decimal256(bytes, scale)?.and_then(i256::to_i128));
    }
    let whole = n.digits.iter().fold(0_i128, |sum, d| sum * 10_000 + i128::from(i16::from_be_bytes(*d)));
    let shift = i32::from(scale) + 4 * (n.weight + 1 - i32::try_from(n.digits.len()).unwrap_or(0));
    let power = 10_i128.checked_pow(shift.unsigned_abs());
    let value = match (power, shift >= 0) {
        _ if whole == 0 => Some(0),
        (Some(power), true) => whole.checked_mul(power),
        (Some(power), false) => (whole % power == 0).then_some(whole / power),
        (None, _) => None,
    };
    Ok(value.map(|v| if n.negative { -v } else { v }))
}

/// The same in 256 bits, by way of the digits as text: such numbers are rare.
fn decimal256(bytes: &[u8], scale: i8) -> Result<Option<i256>, Malformed> {
    let Ok(n) = Numeric::parse(bytes)? else { return Ok(None) };
    let text = n.text();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let scale = usize::try_from(scale).unwrap_or(0);
    let (kept, cut) = fraction.split_at(fraction.len().min(scale));
    if cut.bytes().any(|b| b != b'0') {
        return Ok(None);
    }
    Ok(i256::from_string(&format!("{whole}{kept:0<scale$}")))
}

/// Rows while they are read.
pub struct Rows {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// NULLs put for what Arrow cannot hold, by column.
    pub nulls_made: Vec<u64>,
    rows: usize,
    bytes: usize,
    carry: Vec<u8>,
    begun: bool,
    ended: bool,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// The end of the row that begins here, if it is whole.
fn row_end(bytes: &[u8]) -> Option<usize> {
    let fields = i16::from_be_bytes(*bytes.first_chunk()?);
    let mut at = 2;
    for _ in 0..fields.max(0) {
        let length = i32::from_be_bytes(*bytes.get(at..)?.first_chunk()?);
        at += 4 + usize::try_from(length).unwrap_or(0);
    }
    (at <= bytes.len()).then_some(at)
}

impl Rows {
    /// An empty batch of this schema, whose columns have these shapes.
    #[must_use]
    pub fn new(schema: SchemaRef, shapes: &[Shape]) -> Self {
        Self {
            schema,
            columns: shapes.iter().map(Column::of).collect(),
            nulls_made: vec![0; shapes.len()],
            rows: 0,
            bytes: 0,
            carry: Vec::new(),
            begun: false,
            ended: false,
        }
    }

    /// A new COPY begins.
    pub fn begin(&mut self) {
        (self.begun, self.ended) = (false, false);
        self.carry.clear();
    }

    /// Takes a piece of the stream; the server sends a row at a time, but need not.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn take(&mut self, piece: &[u8]) -> Result<(), Malformed> {
        if self.carry.is_empty() {
            let rest = self.whole_rows(piece)?;
            self.carry.extend_from_slice(rest);
        } else {
            let mut all = std::mem::take(&mut self.carry);
            all.extend_from_slice(piece);
            let rest = self.whole_rows(&all)?.len();
            all.drain(..all.len() - rest);
            self.carry = all;
        }
        Ok(())
    }

    fn whole_rows<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        if !self.begun {
            let Some(head) = bytes.get(..SIGNATURE.len() + 8) else { return Ok(bytes) };
            if !head.starts_with(SIGNATURE) {
                return malformed("it does not begin with PGCOPY");
            }
            let extension = i32::from_be_bytes(exact(&head[SIGNATURE.len() + 4..])?);
            let Some(rest) = bytes.get(head.len() + usize::try_from(extension).unwrap_or(0)..) else { return Ok(bytes) };
            (self.begun, bytes) = (true, rest);
        }
        while let Some(end) = row_end(bytes) {
            let (row, rest) = bytes.split_at(end);
            bytes = rest;
            self.row(row)?;
        }
        Ok(bytes)
    }

    fn row(&mut self, row: &[u8]) -> Result<(), Malformed> {
        let mut cursor = Cursor(row);
        let fields = cursor.i16()?;
        if fields == -1 {
            self.ended = true;
            return Ok(());
        }
        if usize::try_from(fields) != Ok(self.columns.len()) || self.ended {
            return malformed(format!("a row of {fields} fields, expected {}", self.columns.len()));
        }
        for (column, made) in self.columns.iter_mut().zip(&mut self.nulls_made) {
            *made += column.add(cursor.value()?)?;
        }
        self.rows += 1;
        self.bytes += row.len();
        Ok(())
    }

    /// Whether the batch is large enough to be written.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// Whether the stream ended where a stream ends.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.ended && self.carry.is_empty()
    }

    /// The rows so far and their bytes at the source, if there are any; the next batch is empty.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn batch(&mut self) -> Result<Option<(RecordBatch, u64)>, Malformed> {
        if self.rows == 0 {
            return Ok(None);
        }
        let columns = self.columns.iter_mut().map(Column::finish).collect::<Result<Vec<_>, _>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let bytes = self.bytes as u64;
        (self.rows, self.bytes) = (0, 0);
        Ok(Some((batch, bytes)))
    }
}
