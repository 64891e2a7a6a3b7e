//! Types of columns: which searches can filter by, and what holds the values of two.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef};
use arrow_cast::cast;
use arrow_schema::{
    ArrowError, DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Field, TimeUnit,
};

use super::values::Kind;

/// The type that a column is kept by: texts and dictionaries have several that hold the same.
#[must_use]
pub fn plain_type(kind: &DataType) -> DataType {
    match kind {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Float16 => DataType::Float32,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            DataType::List(Arc::new(Field::new("item", plain_type(item.data_type()), true)))
        }
        other => other.clone(),
    }
}

/// A column by its [`plain_type`].
///
/// # Errors
/// If arrow cannot convert it.
pub fn plain(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let wanted = plain_type(column.data_type());
    if wanted == *column.data_type() { Ok(ArrayRef::clone(column)) } else { cast(column, &wanted) }
}

/// A type that holds the values of two: of parts of one dataset that differ.
#[must_use]
pub fn common_type(a: &DataType, b: &DataType) -> DataType {
    let time = |kind: &DataType| {
        matches!(kind, DataType::Date32 | DataType::Date64 | DataType::Timestamp(_, _))
    };
    let number = |kind: &DataType| kind.is_integer() || kind.is_floating() || kind.is_decimal();
    match (a, b) {
        (a, b) if a == b => a.clone(),
        (DataType::Null, other) | (other, DataType::Null) => other.clone(),
        (a, b)
            if a.is_integer()
                && b.is_integer()
                && *a != DataType::UInt64
                && *b != DataType::UInt64 =>
        {
            DataType::Int64
        }
        (a, b) if a.is_unsigned_integer() && b.is_unsigned_integer() => DataType::UInt64,
        (a, b) if number(a) && number(b) => common_decimal(a, b).unwrap_or(DataType::Float64),
        (DataType::Timestamp(unit, _), DataType::Timestamp(other, _)) if unit == other => {
            DataType::Timestamp(*unit, None)
        }
        (a, b) if time(a) && time(b) => DataType::Timestamp(TimeUnit::Microsecond, None),
        (DataType::List(a), DataType::List(b)) => DataType::List(Arc::new(Field::new(
            "item",
            common_type(a.data_type(), b.data_type()),
            true,
        ))),
        _ => DataType::Utf8,
    }
}

/// The decimal type that holds the values of two exactly, if there is one.
fn common_decimal(a: &DataType, b: &DataType) -> Option<DataType> {
    // Digits before the point, and behind it.
    let digits = |kind: &DataType| {
        Some(match kind {
            DataType::Int8 | DataType::UInt8 => (3, 0),
            DataType::Int16 | DataType::UInt16 => (5, 0),
            DataType::Int32 | DataType::UInt32 => (10, 0),
            DataType::Int64 => (19, 0),
            DataType::UInt64 => (20, 0),
            DataType::Decimal32(all, scale)
            | DataType::Decimal64(all, scale)
            | DataType::Decimal128(all, scale)
            | DataType::Decimal256(all, scale) => {
                let behind = u8::try_from(*scale).ok()?;
                (all.saturating_sub(behind), behind)
            }
            _ => return None,
        })
    };
    let (a, b) = (digits(a)?, digits(b)?);
    let (whole, behind): (u8, u8) = (a.0.max(b.0), a.1.max(b.1));
    let (all, scale) = (whole.checked_add(behind)?, i8::try_from(behind).ok()?);
    if all <= DECIMAL128_MAX_PRECISION {
        return Some(DataType::Decimal128(all, scale));
    }
    (all <= DECIMAL256_MAX_PRECISION).then_some(DataType::Decimal256(all, scale))
}

/// The type of a column in the index: one in which nothing has stood so far is of texts, until
/// something does.
#[must_use]
pub fn settled_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Null => DataType::Utf8,
        DataType::List(item) if item.data_type().is_null() => {
            DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))
        }
        other => other.clone(),
    }
}

/// Whether searches can filter by columns of this type.
#[must_use]
pub fn is_filterable(kind: &DataType) -> bool {
    match settled_type(&plain_type(kind)) {
        DataType::List(item) => is_scalar(item.data_type()),
        kind => is_scalar(&kind),
    }
}

/// Whether values of this type are single ones that can be compared, and so can name documents.
#[must_use]
pub fn is_scalar(kind: &DataType) -> bool {
    Kind::of(&plain_type(kind)).is_some()
}
