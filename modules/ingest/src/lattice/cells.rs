//! Values of one type on their way into an Arrow array; what the type does not hold exactly is
//! refused.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{
    BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int64Builder, StringBuilder,
    Time64MicrosecondBuilder, TimestampMicrosecondBuilder, TimestampNanosecondBuilder,
    UInt64Builder,
};

use super::moment::{Moment, Stamp};
use super::{Kind, Value};

/// An array of scalars in the making.
#[derive(Debug)]
pub(crate) enum Cells {
    /// Of a column in which nothing was seen yet: it is written as text, so texts are welcome.
    Null(StringBuilder),
    Bool(BooleanBuilder),
    Int(Int64Builder),
    UInt(UInt64Builder),
    /// With so many digits after the point.
    Decimal(Decimal128Builder, u8, u8),
    Float(Float64Builder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    /// And whether they are instants.
    Micros(TimestampMicrosecondBuilder, bool),
    Nanos(TimestampNanosecondBuilder, bool),
    Text(StringBuilder),
}

impl Cells {
    /// None yet, of a type that is no struct and no list.
    pub(crate) fn new(kind: &Kind) -> Self {
        match kind {
            Kind::Null => Self::Null(StringBuilder::new()),
            Kind::Bool => Self::Bool(BooleanBuilder::new()),
            Kind::Int => Self::Int(Int64Builder::new()),
            Kind::UInt => Self::UInt(UInt64Builder::new()),
            Kind::Decimal(precision, scale) => Self::Decimal(
                Decimal128Builder::new().with_data_type(kind.arrow()),
                *precision,
                *scale,
            ),
            Kind::Float => Self::Float(Float64Builder::new()),
            Kind::Date => Self::Date(Date32Builder::new()),
            Kind::Time => Self::Time(Time64MicrosecondBuilder::new()),
            Kind::Stamp { zoned, fine: false } => Self::Micros(
                TimestampMicrosecondBuilder::new().with_data_type(kind.arrow()),
                *zoned,
            ),
            Kind::Stamp { zoned, fine: true } => {
                Self::Nanos(TimestampNanosecondBuilder::new().with_data_type(kind.arrow()), *zoned)
            }
            Kind::Text | Kind::Json | Kind::Struct(_) | Kind::List(_) => {
                Self::Text(StringBuilder::new())
            }
        }
    }

    /// Adds a NULL.
    pub(crate) fn push_null(&mut self) {
        match self {
            Self::Null(b) | Self::Text(b) => b.append_null(),
            Self::Bool(b) => b.append_null(),
            Self::Int(b) => b.append_null(),
            Self::UInt(b) => b.append_null(),
            Self::Decimal(b, _, _) => b.append_null(),
            Self::Float(b) => b.append_null(),
            Self::Date(b) => b.append_null(),
            Self::Time(b) => b.append_null(),
            Self::Micros(b, _) => b.append_null(),
            Self::Nanos(b, _) => b.append_null(),
        }
    }

    /// Adds a string that is one, whatever it looks like; false if the type holds none.
    pub(crate) fn push_text(&mut self, text: &str) -> bool {
        let (Self::Null(b) | Self::Text(b)) = self else { return false };
        b.append_value(text);
        true
    }

    /// Adds a value, which is told by this text; false if the type does not hold it exactly. Then
    /// nothing was added.
    #[inline]
    pub(crate) fn push(&mut self, value: &Value, text: &str) -> bool {
        match (self, value) {
            (cells, Value::Null) => cells.push_null(),
            (Self::Text(b), _) | (Self::Null(b), Value::Text) => b.append_value(text),
            (Self::Null(_), _) => return false,
            (cells, Value::Absent) => cells.push_null(),
            (Self::Bool(b), Value::Bool(value)) => b.append_value(*value),
            (Self::Int(b), Value::Number(number)) => match number.int() {
                Some(value) => b.append_value(value),
                None => return false,
            },
            (Self::UInt(b), Value::Number(number)) => match number.uint() {
                Some(value) => b.append_value(value),
                None => return false,
            },
            (Self::Decimal(b, precision, scale), Value::Number(number)) => {
                let held = number.decimal_digits().is_some_and(|(before, after)| {
                    after <= *scale && before + *scale <= *precision
                });
                match number.unscaled(*scale).filter(|_| held) {
                    Some(value) => b.append_value(value),
                    None => return false,
                }
            }
            (Self::Float(b), Value::Number(number)) if number.is_double() => {
                b.append_value(number.double());
            }
            (Self::Float(b), Value::Special(value)) => b.append_value(*value),
            (Self::Date(b), Value::Moment(Moment::Date(day))) => b.append_value(*day),
            (Self::Time(b), Value::Moment(Moment::Time(micros))) => b.append_value(*micros),
            (Self::Micros(b, zoned), Value::Moment(moment)) => {
                match stamp(*moment, *zoned).and_then(Stamp::micros) {
                    Some(value) => b.append_value(value),
                    None => return false,
                }
            }
            (Self::Nanos(b, zoned), Value::Moment(moment)) => {
                match stamp(*moment, *zoned).and_then(Stamp::nanos) {
                    Some(value) => b.append_value(value),
                    None => return false,
                }
            }
            _ => return false,
        }
        true
    }

    /// What was added, as an array; begins anew.
    pub(crate) fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Null(b) | Self::Text(b) => Arc::new(b.finish()),
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Int(b) => Arc::new(b.finish()),
            Self::UInt(b) => Arc::new(b.finish()),
            Self::Decimal(b, _, _) => Arc::new(b.finish()),
            Self::Float(b) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Time(b) => Arc::new(b.finish()),
            Self::Micros(b, _) => Arc::new(b.finish()),
            Self::Nanos(b, _) => Arc::new(b.finish()),
        }
    }
}

/// A moment as a timestamp with or without a zone; a date without one is its midnight.
pub(super) fn stamp(moment: Moment, zoned: bool) -> Option<Stamp> {
    match moment {
        Moment::Stamp(stamp) if stamp.zoned == zoned => Some(stamp),
        Moment::Date(day) if !zoned => Some(Stamp::midnight(day)),
        _ => None,
    }
}
