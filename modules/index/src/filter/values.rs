//! Values: those of columns, those that filters name, and their order.

use std::cmp::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::timezone::Tz;
use arrow_array::types::{
    Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_cast::parse::{Parser, string_to_datetime};
use arrow_schema::{DataType, TimeUnit};

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

/// What may be compared with a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
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
    pub(super) fn of(kind: &DataType) -> Option<Self> {
        Some(match kind {
            DataType::Utf8 => Self::Text,
            DataType::Boolean => Self::Bool,
            DataType::Float32 => Self::Narrow,
            DataType::Date32 => Self::Time(DAY),
            DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => {
                Self::Time(1_000_000)
            }
            DataType::Timestamp(TimeUnit::Second, _) => Self::Time(1_000_000_000),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Self::Time(1000),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => Self::Time(1),
            DataType::Float64 => Self::Number,
            kind if kind.is_decimal() => Self::Decimal,
            kind if kind.is_integer() => Self::Number,
            _ => return None,
        })
    }

    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Bool => "true or false",
            Self::Number | Self::Narrow => "a number",
            Self::Decimal => {
                "a number of at most 15 digits, or its digits as a text such as \"12.30\""
            }
            Self::Time(_) => "a date such as \"2024-01-31\" or \"2024-01-31T12:00:00Z\"",
        }
    }

    /// A value from a filter as the column's are compared; none if it cannot be.
    pub(super) fn of_filter(self, wanted: &Value) -> Option<Value> {
        Some(match (self, wanted) {
            (_, Value::Null) => Value::Null,
            (Self::Text, Value::Text(_))
            | (Self::Bool, Value::Bool(_))
            | (Self::Number, Value::Int(_) | Value::Float(_)) => wanted.clone(),
            (Self::Decimal, Value::Int(n)) => Value::Decimal(n.to_string()),
            // As it was written: the shortest text that is this number. With more digits another
            // may have been written.
            (Self::Decimal, Value::Float(x)) if x.is_finite() => {
                Value::Decimal(Some(x.to_string()).filter(|text| is_short(text))?)
            }
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
    pub(super) fn of_column(self, column: &ArrayRef, row: usize) -> Value {
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

/// A value of a filter, for people.
pub(super) fn shown(value: &Value) -> String {
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

/// The order of two values, if they can be compared.
pub(super) fn order(a: &Value, b: &Value) -> Option<Ordering> {
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

/// The order of a whole number and one that may have a fraction, exactly: no whole number is
/// rounded.
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
pub(super) fn decimals(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| {
        let (is_negative, digits) =
            text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let (whole, fraction) =
            (whole.trim_start_matches('0').to_owned(), fraction.trim_end_matches('0').to_owned());
        // There is one zero.
        (is_negative && !(whole.is_empty() && fraction.is_empty()), whole, fraction)
    };
    let ((a_is_negative, a_whole, a_fraction), (b_is_negative, b_whole, b_fraction)) =
        (parts(a), parts(b));
    let size = a_whole
        .len()
        .cmp(&b_whole.len())
        .then_with(|| a_whole.cmp(&b_whole))
        .then_with(|| a_fraction.cmp(&b_fraction));
    match (a_is_negative, b_is_negative) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, false) => size,
        (true, true) => size.reverse(),
    }
}

/// A column's value as it is compared.
pub(super) fn compared(column: &ArrayRef, row: usize) -> Value {
    match column.data_type() {
        DataType::List(item) if column.is_valid(row) => {
            let items = column.as_list::<i32>().value(row);
            let kind = Kind::of(item.data_type());
            Value::List(
                (0..items.len())
                    .map(|item| kind.map_or(Value::Null, |kind| kind.of_column(&items, item)))
                    .collect(),
            )
        }
        kind => Kind::of(kind).map_or(Value::Null, |kind| kind.of_column(column, row)),
    }
}
