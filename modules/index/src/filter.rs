//! Filters: which rows a search may find, by document, source and the dataset's typed columns.
//!
//! The language is that of Chroma and MongoDB: `{"lang": "rust"}`, `{"year": {"$gte": 2020, "$lt": 2024}}`,
//! `{"$or": [{…}, {…}]}`, with `$eq $ne $gt $gte $lt $lte $in $nin $contains $exists $and $or $not`. A NULL matches only `null`, `$ne`
//! and `{"$exists": false}`. Depth and size are bounded by the wire.
//!
//! Rows are chosen by [`sorted`] columns and by a map of ids where there are many of them, else by looking at each.
//!
//! A value is compared as the column's type has it: with a column of f32 the number is rounded as the column's were, with dates and
//! timestamps a text is read as ISO 8601 (UTC where it names no offset), with decimals a text as digits. Invariant: what cannot be compared with the column is an
//! error that names both, never a filter that lets nothing through.

pub mod sorted;

use std::cmp::Ordering;
use std::io;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::timezone::Tz;
use arrow_array::types::{
    Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::cast;
use arrow_cast::parse::{Parser, string_to_datetime};
use arrow_schema::{ArrowError, DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Field, TimeUnit};
use brahman_card::Fault;
use brahman_card::interface::index::error::Damaged;
use brahman_sidecar::chain;
use serde_json::Value as Json;

use crate::generation::{Generation, Selection};
use crate::rows::RowStore;
use flat_hnsw::store::LiveRows;

/// Nanoseconds a day.
const DAY: i128 = 86_400_000_000_000;
/// Digits of a decimal number that 64 bits keep, whichever they are.
const DIGITS_KEPT: usize = 15;
/// Longest text that can be a date alone.
const DATE_CHARS: usize = 10;

/// A typed value of a column. Dates and timestamps are numbers in their own unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Absent.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number.
    Float(f64),
    /// A decimal number, as it is written.
    Decimal(String),
    /// A text.
    Text(String),
    /// Several.
    List(Vec<Value>),
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It is no object.
    #[error("a filter is an object such as {{\"lang\": \"rust\"}} or {{\"year\": {{\"$gte\": 2020}}}}")]
    NoObject,
    /// A filter within it has no members.
    #[error("`{operator}` has an empty filter, which matches nothing in particular")]
    EmptyFilter {
        /// What it is a part of.
        operator: String,
    },
    /// There are no filters to choose from.
    #[error("`{operator}` has an empty list: it says nothing")]
    EmptyList {
        /// Whose list.
        operator: String,
    },
    /// Something else stands where filters are expected.
    #[error("`{operator}` expects a list of filters")]
    NoFilters {
        /// Whose list.
        operator: String,
    },
    /// An operator without a column.
    #[error("`{operator}`: a column's name is expected here")]
    NoColumnName {
        /// The operator.
        operator: String,
    },
    /// A column cannot be compared with a list or an object.
    #[error("`{field}` is compared with a list or an object, expected a text, a number, true, false or null")]
    NoScalar {
        /// The column.
        field: String,
    },
    /// A column is compared by no operator.
    #[error("`{field}` is compared with an empty object: it says nothing; expected such as {{\"$gte\": 2020}}")]
    EmptyObject {
        /// The column.
        field: String,
    },
    /// NULL has no order.
    #[error("`{operator}` of `{field}` is null, which is neither more nor less: expected a value")]
    NullOrder {
        /// The operator.
        operator: String,
        /// The column.
        field: String,
    },
    /// Something else stands where values are expected.
    #[error("`{operator}` of `{field}` expects a list")]
    NoValues {
        /// The operator.
        operator: String,
        /// The column.
        field: String,
    },
    /// Something else stands where a truth is expected.
    #[error("`$exists` of `{field}` expects true or false")]
    NoTruth {
        /// The column.
        field: String,
    },
    /// A list is compared as a whole.
    #[error("column `{field}` is {kind}, a list: ask for one of its values by {{\"$contains\": …}}")]
    List {
        /// The column.
        field: String,
        /// Its type.
        kind: DataType,
    },
    /// A column that is no list is asked for what it contains.
    #[error("column `{field}` is {kind}, which contains nothing: `$contains` is for lists")]
    NoList {
        /// The column.
        field: String,
        /// Its type.
        kind: DataType,
    },
    /// There is no such operator.
    #[error("`{operator}` of `{field}`: expected $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $contains or $exists")]
    UnknownOperator {
        /// The operator.
        operator: String,
        /// The column.
        field: String,
    },
    /// There is no such column.
    #[error("the index has no column `{field}` to filter by; it has {}", .there.join(", "))]
    NoColumn {
        /// The column.
        field: String,
        /// Those that there are.
        there: Vec<String>,
    },
    /// Nothing can be compared with a column of this type.
    #[error("column `{field}` is {kind}: searches cannot filter by it")]
    Unfilterable {
        /// The column.
        field: String,
        /// Its type.
        kind: DataType,
    },
    /// A value is of another type than the column.
    #[error("column `{field}` is {kind} and is compared with {value}: expected {expected}, or null")]
    OtherType {
        /// The column.
        field: String,
        /// Its type.
        kind: DataType,
        /// The value, in words.
        value: String,
        /// What would do.
        expected: &'static str,
    },
}

/// Why rows cannot be chosen.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// The filter does not fit the index's columns.
    #[error(transparent)]
    Unfit(#[from] FilterError),
    /// The columns cannot be read.
    #[error(transparent)]
    Damaged(#[from] io::Error),
}

impl SelectionError {
    /// As an answer of this index.
    #[must_use]
    pub fn fault(self, index: &str) -> Fault {
        match self {
            Self::Unfit(error) => Fault::invalid_parameter("filter", error),
            Self::Damaged(error) => {
                let why = chain(&error);
                let message = format!("index `{index}` cannot filter: {why}; `brahman index doctor {index}` says what else is damaged");
                Fault::of(&Damaged { name: index.to_owned() }, false, message)
            }
        }
    }
}

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
    let time = |kind: &DataType| matches!(kind, DataType::Date32 | DataType::Date64 | DataType::Timestamp(_, _));
    let number = |kind: &DataType| kind.is_integer() || kind.is_floating() || kind.is_decimal();
    match (a, b) {
        (a, b) if a == b => a.clone(),
        (DataType::Null, other) | (other, DataType::Null) => other.clone(),
        (a, b) if a.is_integer() && b.is_integer() && *a != DataType::UInt64 && *b != DataType::UInt64 => DataType::Int64,
        (a, b) if a.is_unsigned_integer() && b.is_unsigned_integer() => DataType::UInt64,
        (a, b) if number(a) && number(b) => common_decimal(a, b).unwrap_or(DataType::Float64),
        (DataType::Timestamp(unit, _), DataType::Timestamp(other, _)) if unit == other => DataType::Timestamp(*unit, None),
        (a, b) if time(a) && time(b) => DataType::Timestamp(TimeUnit::Microsecond, None),
        (DataType::List(a), DataType::List(b)) => {
            DataType::List(Arc::new(Field::new("item", common_type(a.data_type(), b.data_type()), true)))
        }
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

/// The type of a column in the index: one in which nothing has stood so far is of texts, until something does.
#[must_use]
pub fn settled_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Null => DataType::Utf8,
        DataType::List(item) if item.data_type().is_null() => DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))),
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

/// What may be compared with a column.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Text,
    Bool,
    Number,
    /// A number of 32 bits.
    Narrow,
    /// A decimal number.
    Decimal,
    /// A date or a timestamp, whose unit has so many nanoseconds.
    Time(i128),
}

impl Kind {
    fn of(kind: &DataType) -> Option<Self> {
        Some(match kind {
            DataType::Utf8 => Self::Text,
            DataType::Boolean => Self::Bool,
            DataType::Float32 => Self::Narrow,
            DataType::Date32 => Self::Time(DAY),
            DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => Self::Time(1_000_000),
            DataType::Timestamp(TimeUnit::Second, _) => Self::Time(1_000_000_000),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Self::Time(1000),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => Self::Time(1),
            DataType::Float64 => Self::Number,
            kind if kind.is_decimal() => Self::Decimal,
            kind if kind.is_integer() => Self::Number,
            _ => return None,
        })
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Bool => "true or false",
            Self::Number | Self::Narrow => "a number",
            Self::Decimal => "a number of at most 15 digits, or its digits as a text such as \"12.30\"",
            Self::Time(_) => "a date such as \"2024-01-31\" or \"2024-01-31T12:00:00Z\"",
        }
    }

    /// A value from a filter as the column's are compared; none if it cannot be.
    fn of_filter(self, wanted: &Value) -> Option<Value> {
        Some(match (self, wanted) {
            (_, Value::Null) => Value::Null,
            (Self::Text, Value::Text(_)) | (Self::Bool, Value::Bool(_)) | (Self::Number, Value::Int(_) | Value::Float(_)) => wanted.clone(),
            (Self::Decimal, Value::Int(n)) => Value::Decimal(n.to_string()),
            // As it was written: the shortest text that is this number. With more digits another may have been written.
            (Self::Decimal, Value::Float(x)) if x.is_finite() => Value::Decimal(Some(x.to_string()).filter(|text| is_short(text))?),
            // What has more digits than a number of JSON keeps.
            (Self::Decimal, Value::Text(text)) => Value::Decimal(digits(text)?.to_owned()),
            (Self::Narrow, Value::Int(n)) => Value::Float(f64::from(*n as f32)),
            (Self::Narrow, Value::Float(x)) => Value::Float(f64::from(*x as f32)),
            (Self::Time(unit), Value::Int(n)) => Value::Int(n.checked_mul(unit)?),
            (Self::Time(_), Value::Text(text)) => Value::Int(moment(text)?),
            _ => return None,
        })
    }

    /// A column's value as it is compared.
    fn of_column(self, column: &ArrayRef, row: usize) -> Value {
        match (self, value(column, row)) {
            (Self::Time(unit), Value::Int(n)) => Value::Int(n * unit),
            (_, value) => value,
        }
    }
}

/// Whether a decimal number has few enough digits that a number of JSON keeps them all.
fn is_short(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').len() <= DIGITS_KEPT
}

/// A text that is a decimal number: digits, with a sign and a point at most.
fn digits(text: &str) -> Option<&str> {
    let text = text.trim();
    let text = text.strip_prefix('+').unwrap_or(text);
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let are_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    (are_digits(whole) && are_digits(fraction) && whole.len() + fraction.len() > 0).then_some(text)
}

/// Nanoseconds since 1970 of an ISO date or time; UTC unless it says otherwise.
fn moment(text: &str) -> Option<i128> {
    let text = text.trim();
    if text.len() <= DATE_CHARS {
        return Some(i128::from(Date32Type::parse(text)?) * DAY);
    }
    let utc: Tz = "+00:00".parse().ok()?;
    let at = string_to_datetime(&utc, text).ok()?;
    Some(i128::from(at.timestamp()) * 1_000_000_000 + i128::from(at.timestamp_subsec_nanos()))
}

/// A value of a column of a filterable type.
#[must_use]
pub fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    macro_rules! int {
        ($t:ty) => {
            Value::Int(i128::from(column.as_primitive::<$t>().value(row)))
        };
    }
    macro_rules! decimal {
        ($t:ty) => {
            Value::Decimal(column.as_primitive::<$t>().value_as_string(row))
        };
    }
    match column.data_type() {
        DataType::Utf8 => Value::Text(column.as_string::<i32>().value(row).to_owned()),
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Float32 => Value::Float(column.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => Value::Float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Int8 => int!(Int8Type),
        DataType::Int16 => int!(Int16Type),
        DataType::Int32 => int!(Int32Type),
        DataType::Int64 => int!(Int64Type),
        DataType::UInt8 => int!(UInt8Type),
        DataType::UInt16 => int!(UInt16Type),
        DataType::UInt32 => int!(UInt32Type),
        DataType::UInt64 => int!(UInt64Type),
        DataType::Date32 => int!(Date32Type),
        DataType::Date64 => int!(Date64Type),
        DataType::Timestamp(TimeUnit::Second, _) => int!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => int!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => int!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => int!(TimestampNanosecondType),
        DataType::Decimal32(_, _) => decimal!(Decimal32Type),
        DataType::Decimal64(_, _) => decimal!(Decimal64Type),
        DataType::Decimal128(_, _) => decimal!(Decimal128Type),
        DataType::Decimal256(_, _) => decimal!(Decimal256Type),
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            Value::List((0..items.len()).map(|item| value(&items, item)).collect())
        }
        _ => Value::Null,
    }
}

/// A filter that was parsed, by column and value.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// All of them.
    All(Vec<Filter>),
    /// One of them.
    Any(Vec<Filter>),
    /// Not that one.
    Not(Box<Filter>),
    /// A field compared with a value, in one of these orders.
    Compare(String, Vec<Ordering>, Value),
    /// A field that is one of these.
    OneOf(String, Vec<Value>),
    /// A field of several values, one of which is this.
    Contains(String, Value),
}

fn scalar(json: &Json, field: &str) -> Result<Value, FilterError> {
    match json {
        Json::Null => Ok(Value::Null),
        Json::Bool(b) => Ok(Value::Bool(*b)),
        Json::String(s) => Ok(Value::Text(s.clone())),
        Json::Number(n) => {
            let whole = n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from));
            Ok(whole.map_or_else(|| Value::Float(n.as_f64().unwrap_or(f64::NAN)), Value::Int))
        }
        _ => Err(FilterError::NoScalar { field: field.to_owned() }),
    }
}

/// A value of a filter, for people.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(n) => format!("the number {n}"),
        Value::Float(x) => format!("the number {x}"),
        Value::Decimal(text) => format!("the number {text}"),
        Value::Text(text) => format!("the text {text:?}"),
        Value::List(_) => "a list".to_owned(),
    }
}

impl Filter {
    /// A filter within another: one that lets everything through is a mistake there.
    fn part(json: &Json, of: &str) -> Result<Self, FilterError> {
        match json {
            Json::Object(members) if members.is_empty() => Err(FilterError::EmptyFilter { operator: of.to_owned() }),
            _ => Self::parse(json),
        }
    }

    /// Reads a filter.
    ///
    /// # Errors
    /// [`FilterError`], naming the part that is wrong.
    pub fn parse(json: &Json) -> Result<Self, FilterError> {
        let Json::Object(members) = json else { return Err(FilterError::NoObject) };
        let mut all = Vec::new();
        for (name, wanted) in members {
            let list = || match wanted {
                Json::Array(parts) if parts.is_empty() => Err(FilterError::EmptyList { operator: name.clone() }),
                Json::Array(parts) => parts.iter().map(|part| Self::part(part, name)).collect::<Result<Vec<_>, _>>(),
                _ => Err(FilterError::NoFilters { operator: name.clone() }),
            };
            all.push(match name.as_str() {
                "$and" => Self::All(list()?),
                "$or" => Self::Any(list()?),
                "$not" => Self::Not(Box::new(Self::part(wanted, name)?)),
                operator if operator.starts_with('$') => return Err(FilterError::NoColumnName { operator: operator.to_owned() }),
                field => Self::field(field, wanted)?,
            });
        }
        Ok(Self::All(all))
    }

    fn field(field: &str, wanted: &Json) -> Result<Self, FilterError> {
        use Ordering::{Equal, Greater, Less};
        let Json::Object(operators) = wanted else {
            return Ok(Self::Compare(field.to_owned(), vec![Equal], scalar(wanted, field)?));
        };
        if operators.is_empty() {
            return Err(FilterError::EmptyObject { field: field.to_owned() });
        }
        let mut all = Vec::new();
        for (operator, wanted) in operators {
            if wanted.is_null() && !["$eq", "$ne"].contains(&operator.as_str()) {
                return Err(FilterError::NullOrder { operator: operator.clone(), field: field.to_owned() });
            }
            let compare =
                |orders: &[Ordering]| Ok::<_, FilterError>(Self::Compare(field.to_owned(), orders.to_vec(), scalar(wanted, field)?));
            let list = || match wanted {
                Json::Array(values) => values.iter().map(|v| scalar(v, field)).collect::<Result<Vec<_>, _>>(),
                _ => Err(FilterError::NoValues { operator: operator.clone(), field: field.to_owned() }),
            };
            all.push(match operator.as_str() {
                "$eq" => compare(&[Equal])?,
                "$ne" => Self::Not(Box::new(compare(&[Equal])?)),
                "$gt" => compare(&[Greater])?,
                "$gte" => compare(&[Greater, Equal])?,
                "$lt" => compare(&[Less])?,
                "$lte" => compare(&[Less, Equal])?,
                "$in" => Self::OneOf(field.to_owned(), list()?),
                "$nin" => Self::Not(Box::new(Self::OneOf(field.to_owned(), list()?))),
                "$contains" => Self::Contains(field.to_owned(), scalar(wanted, field)?),
                "$exists" => {
                    let is_null = Self::Compare(field.to_owned(), vec![Equal], Value::Null);
                    match wanted {
                        Json::Bool(true) => Self::Not(Box::new(is_null)),
                        Json::Bool(false) => is_null,
                        _ => return Err(FilterError::NoTruth { field: field.to_owned() }),
                    }
                }
                other => return Err(FilterError::UnknownOperator { operator: other.to_owned(), field: field.to_owned() }),
            });
        }
        Ok(Self::All(all))
    }

    /// Fields that it names.
    #[must_use]
    pub fn fields(&self) -> Vec<&str> {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::fields).collect(),
            Self::Not(part) => part.fields(),
            Self::Compare(field, _, _) | Self::OneOf(field, _) | Self::Contains(field, _) => vec![field],
        }
    }

    /// The same with values as columns of these types have them.
    fn typed(&self, of: &dyn Fn(&str) -> Result<DataType, FilterError>) -> Result<Self, FilterError> {
        let typed = |field: &str, wanted: &Value| -> Result<Value, FilterError> {
            let (data_type, field) = (of(field)?, field.to_owned());
            // Whether there is a list at all can be asked of lists as well.
            if matches!(data_type, DataType::List(_)) {
                return if *wanted == Value::Null { Ok(Value::Null) } else { Err(FilterError::List { field, kind: data_type }) };
            }
            let Some(kind) = Kind::of(&data_type) else { return Err(FilterError::Unfilterable { field, kind: data_type }) };
            let fits = kind.of_filter(wanted);
            fits.ok_or_else(|| FilterError::OtherType { field, kind: data_type, value: shown(wanted), expected: kind.expected() })
        };
        let parts = |parts: &[Self]| parts.iter().map(|part| part.typed(of)).collect::<Result<Vec<_>, FilterError>>();
        Ok(match self {
            Self::All(all) => Self::All(parts(all)?),
            Self::Any(any) => Self::Any(parts(any)?),
            Self::Not(part) => Self::Not(Box::new(part.typed(of)?)),
            Self::Compare(field, orders, wanted) => Self::Compare(field.clone(), orders.clone(), typed(field, wanted)?),
            Self::OneOf(field, values) => {
                Self::OneOf(field.clone(), values.iter().map(|wanted| typed(field, wanted)).collect::<Result<_, _>>()?)
            }
            Self::Contains(field, wanted) => {
                let data_type = of(field)?;
                let DataType::List(item) = &data_type else {
                    return Err(FilterError::NoList { field: field.clone(), kind: data_type.clone() });
                };
                let unfit = |expected: &'static str| {
                    let (field, kind, value) = (field.clone(), data_type.clone(), shown(wanted));
                    FilterError::OtherType { field, kind, value, expected }
                };
                let kind = Kind::of(item.data_type()).ok_or_else(|| unfit("nothing that can be compared"))?;
                Self::Contains(field.clone(), kind.of_filter(wanted).ok_or_else(|| unfit(kind.expected()))?)
            }
        })
    }

    /// Whether it holds for a row with these values.
    pub fn holds(&self, of: &dyn Fn(&str) -> Value) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(of)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(of)),
            Self::Not(part) => !part.holds(of),
            Self::Compare(field, orders, wanted) => order(&of(field), wanted).is_some_and(|o| orders.contains(&o)),
            Self::OneOf(field, values) => {
                let found = of(field);
                values.iter().any(|wanted| order(&found, wanted) == Some(Ordering::Equal))
            }
            Self::Contains(field, wanted) => match of(field) {
                Value::List(values) => values.iter().any(|value| order(value, wanted) == Some(Ordering::Equal)),
                _ => false,
            },
        }
    }
}

/// The order of two values, if they can be compared.
fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Float(b)) => whole_and_fraction(*a, *b),
        (Value::Float(a), Value::Int(b)) => whole_and_fraction(*b, *a).map(Ordering::reverse),
        (Value::Decimal(a), Value::Decimal(b)) => Some(decimals(a, b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// The order of a whole number and one that may have a fraction, exactly: no whole number is rounded.
fn whole_and_fraction(a: i128, b: f64) -> Option<Ordering> {
    /// 2 to the power of 127: the first that is too large.
    const BOUND: f64 = (1_u128 << 127) as f64;
    if b.is_nan() {
        return None;
    }
    if b >= BOUND {
        return Some(Ordering::Less);
    }
    if b < -BOUND {
        return Some(Ordering::Greater);
    }
    let whole = b.trunc();
    Some(a.cmp(&(whole as i128)).then_with(|| 0.0_f64.total_cmp(&(b - whole + 0.0))))
}

/// The order of two decimal numbers by their digits, exactly.
fn decimals(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| {
        let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let (whole, fraction) = (whole.trim_start_matches('0').to_owned(), fraction.trim_end_matches('0').to_owned());
        // There is one zero.
        (is_negative && !(whole.is_empty() && fraction.is_empty()), whole, fraction)
    };
    let ((a_is_negative, a_whole, a_fraction), (b_is_negative, b_whole, b_fraction)) = (parts(a), parts(b));
    let size = a_whole.len().cmp(&b_whole.len()).then_with(|| a_whole.cmp(&b_whole)).then_with(|| a_fraction.cmp(&b_fraction));
    match (a_is_negative, b_is_negative) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, false) => size,
        (true, true) => size.reverse(),
    }
}

/// Part of a generation, to a filter.
struct Part<'a> {
    columns: &'a RecordBatch,
    rows: &'a RowStore,
    /// What the dataset is called.
    source: &'a str,
    /// Which rows a document has, and columns in order; absent of few rows.
    sorted: Option<&'a sorted::SortedColumns>,
}

impl Part<'_> {
    fn type_of(&self, field: &str) -> Result<DataType, FilterError> {
        match self.columns.column_by_name(field) {
            // The index's own hide those of the dataset, which `Create` refuses.
            _ if field == "doc_id" || field == "source" => Ok(DataType::Utf8),
            Some(column) => Ok(column.data_type().clone()),
            None => {
                let own = ["doc_id", "source"].map(str::to_owned);
                let there = own.into_iter().chain(self.columns.schema().fields().iter().map(|f| f.name().clone())).collect();
                Err(FilterError::NoColumn { field: field.to_owned(), there })
            }
        }
    }

    fn value(&self, field: &str, row: usize) -> Value {
        match field {
            "doc_id" => Value::Text(self.rows.row(row).map(|row| row.doc_id.to_owned()).unwrap_or_default()),
            "source" => Value::Text(self.source.to_owned()),
            _ => self.columns.column_by_name(field).map_or(Value::Null, |column| compared(column, row)),
        }
    }

    fn allowed(&self, filter: &Filter) -> Result<LiveRows, FilterError> {
        let filter = filter.typed(&|field| self.type_of(field))?;
        Ok(self.chosen(&filter))
    }

    /// The rows for which a filter holds, whose values are of the columns' types.
    fn chosen(&self, filter: &Filter) -> LiveRows {
        let rows = self.rows.len();
        let all = || LiveRows::of(rows, |_| true);
        let Some(sorted) = self.sorted else { return self.looked_at(filter) };
        match filter {
            Filter::All(parts) => parts.iter().map(|part| self.chosen(part)).reduce(|a, b| a.and(&b)).unwrap_or_else(all),
            Filter::Any(parts) => parts.iter().map(|part| self.chosen(part)).reduce(|a, b| a.or(&b)).unwrap_or_else(|| all().others(rows)),
            Filter::Not(part) => self.chosen(part).others(rows),
            Filter::Compare(field, orders, Value::Text(id)) if field == "doc_id" && orders.as_slice() == [Ordering::Equal] => {
                LiveRows::from_rows(rows, sorted.of_document(self.rows, id))
            }
            Filter::OneOf(field, ids) if field == "doc_id" => {
                let ids = ids.iter().filter_map(|id| if let Value::Text(id) = id { Some(id) } else { None });
                LiveRows::from_rows(rows, ids.flat_map(|id| sorted.of_document(self.rows, id)))
            }
            Filter::Compare(field, orders, wanted) => match self.columns.column_by_name(field).filter(|_| field != "source") {
                Some(column) => {
                    let found = sorted.column(field, column).compared(column, orders, wanted);
                    LiveRows::from_rows(rows, found)
                }
                None => self.looked_at(filter),
            },
            Filter::OneOf(field, values) => match self.columns.column_by_name(field).filter(|_| field != "source") {
                Some(column) => {
                    let order = sorted.column(field, column);
                    LiveRows::from_rows(rows, values.iter().flat_map(|wanted| order.compared(column, &[Ordering::Equal], wanted)))
                }
                None => self.looked_at(filter),
            },
            Filter::Contains(field, wanted) => {
                let column = self.columns.column_by_name(field);
                match column.and_then(|column| sorted.containing(field, column, wanted)) {
                    Some(found) => LiveRows::from_rows(rows, found),
                    None => self.looked_at(filter),
                }
            }
        }
    }

    fn looked_at(&self, filter: &Filter) -> LiveRows {
        LiveRows::of(self.rows.len(), |row| filter.holds(&|field| self.value(field, row)))
    }
}

/// A column's value as it is compared.
fn compared(column: &ArrayRef, row: usize) -> Value {
    match column.data_type() {
        DataType::List(item) if column.is_valid(row) => {
            let items = column.as_list::<i32>().value(row);
            let kind = Kind::of(item.data_type());
            Value::List((0..items.len()).map(|item| kind.map_or(Value::Null, |kind| kind.of_column(&items, item))).collect())
        }
        kind => Kind::of(kind).map_or(Value::Null, |kind| kind.of_column(column, row)),
    }
}

/// The rows of a generation that a filter lets through.
///
/// # Errors
/// [`SelectionError`].
pub fn allowed(filter: &Filter, generation: &Generation, source: &str) -> Result<Selection, SelectionError> {
    let base = match (&generation.base, generation.base_columns()?) {
        (Some(base), Some(columns)) => {
            let sorted = base.sorted_columns(columns);
            Some(Part { columns, rows: &base.rows, source, sorted }.allowed(filter)?)
        }
        _ => None,
    };
    let delta = &generation.delta;
    let part = Part { columns: &delta.columns, rows: &delta.rows, source, sorted: None };
    let delta = if delta.rows.is_empty() { None } else { Some(part.allowed(filter)?) };
    Ok(Selection { base, delta })
}

#[cfg(test)]
mod tests;
