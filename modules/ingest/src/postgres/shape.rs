//! How a PostgreSQL type becomes an Arrow type.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, TimeUnit};
use tokio_postgres::types::{Kind, Type};

/// Depth of arrays of composites of arrays …
const DEPTH_MAX: usize = 16;

/// How values of a type are read from binary COPY.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// `bool`
    Bool,
    /// `int2`
    Int2,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `oid`
    Oid,
    /// `float4`
    Float4,
    /// `float8`
    Float8,
    /// `numeric(precision, scale)`
    Decimal(u8, i8),
    /// `numeric` of any size
    NumericText,
    /// Text, `json`, and whatever the server casts to text
    Text,
    /// `jsonb`
    Jsonb,
    /// `uuid`
    Uuid,
    /// `bytea`
    Bytes,
    /// An enumerated type
    Enum,
    /// `date`
    Date,
    /// `time`
    Time,
    /// `timestamp`, or `timestamptz` if true
    Timestamp(bool),
    /// `interval`
    Interval,
    /// `T[]`
    List(Box<Shape>),
    /// A composite type
    Struct(Vec<(String, Shape)>),
    /// A range type
    Range(Box<Shape>),
    /// `hstore`
    Hstore,
    /// pgvector's `vector(n)`
    Vector(i32),
}

impl Shape {
    /// The shape of a column; `None` if the server is to cast it to text.
    #[must_use]
    pub fn of(of: &Type, modifier: i32) -> Option<Self> {
        Self::inside(of, modifier, 0)
    }

    fn inside(of: &Type, modifier: i32, depth: usize) -> Option<Self> {
        if depth > DEPTH_MAX {
            return None;
        }
        let simple = match *of {
            Type::BOOL => Self::Bool,
            Type::INT2 => Self::Int2,
            Type::INT4 => Self::Int4,
            Type::INT8 => Self::Int8,
            Type::OID => Self::Oid,
            Type::FLOAT4 => Self::Float4,
            Type::FLOAT8 => Self::Float8,
            Type::NUMERIC => Self::numeric(modifier),
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::JSON | Type::XML => {
                Self::Text
            }
            Type::JSONB => Self::Jsonb,
            Type::UUID => Self::Uuid,
            Type::BYTEA => Self::Bytes,
            Type::DATE => Self::Date,
            Type::TIME => Self::Time,
            Type::TIMESTAMP => Self::Timestamp(false),
            Type::TIMESTAMPTZ => Self::Timestamp(true),
            Type::INTERVAL => Self::Interval,
            _ => return Self::of_kind(of, modifier, depth),
        };
        Some(simple)
    }

    fn of_kind(of: &Type, modifier: i32, depth: usize) -> Option<Self> {
        match of.kind() {
            Kind::Enum(_) => Some(Self::Enum),
            // The modifier is of the elements; that of a domain is not sent.
            Kind::Array(item) => {
                Self::inside(item, modifier, depth + 1).map(|item| Self::List(Box::new(item)))
            }
            Kind::Domain(base) => Self::inside(base, -1, depth + 1),
            Kind::Range(bound) => {
                Self::inside(bound, -1, depth + 1).map(|bound| Self::Range(Box::new(bound)))
            }
            Kind::Composite(fields) => {
                let field = |f: &tokio_postgres::types::Field| {
                    Some((f.name().to_owned(), Self::inside(f.type_(), -1, depth + 1)?))
                };
                fields
                    .iter()
                    .map(field)
                    .collect::<Option<Vec<_>>>()
                    .filter(|f| !f.is_empty())
                    .map(Self::Struct)
            }
            Kind::Simple if of.name() == "hstore" => Some(Self::Hstore),
            Kind::Simple if of.name() == "vector" && modifier > 0 => Some(Self::Vector(modifier)),
            _ => None,
        }
    }

    /// `numeric` by its modifier: Arrow's decimals hold up to 76 digits, with a scale between 0 and
    /// the precision.
    fn numeric(modifier: i32) -> Self {
        let packed = modifier - 4;
        let (precision, scale) = ((packed >> 16) & 0xffff, ((packed & 0x7ff) ^ 1024) - 1024);
        match (u8::try_from(precision), i8::try_from(scale)) {
            (Ok(precision @ 1..=76), Ok(scale))
                if modifier >= 4 && scale >= 0 && i32::from(precision) >= i32::from(scale) =>
            {
                Self::Decimal(precision, scale)
            }
            _ => Self::NumericText,
        }
    }

    /// The Arrow type that holds it.
    #[must_use]
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 => DataType::Int64,
            Self::Oid => DataType::UInt32,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Decimal(precision @ ..=38, scale) => DataType::Decimal128(*precision, *scale),
            Self::Decimal(precision, scale) => DataType::Decimal256(*precision, *scale),
            Self::NumericText | Self::Text | Self::Jsonb | Self::Uuid => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Enum => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp(utc) => {
                DataType::Timestamp(TimeUnit::Microsecond, utc.then(|| "UTC".into()))
            }
            Self::Interval => DataType::Struct(interval_fields()),
            Self::List(item) => DataType::List(Arc::new(item_field(item))),
            Self::Struct(fields) => DataType::Struct(
                fields.iter().map(|(name, shape)| Field::new(name, shape.arrow(), true)).collect(),
            ),
            Self::Range(bound) => DataType::Struct(range_fields(bound)),
            Self::Hstore => DataType::Map(Arc::new(entries_field()), false),
            Self::Vector(dim) => DataType::FixedSizeList(
                Arc::new(Field::new("item", DataType::Float32, false)),
                *dim,
            ),
        }
    }
}

/// Not Arrow's own interval, which Parquet cannot hold.
pub(super) fn interval_fields() -> Fields {
    [("months", DataType::Int32), ("days", DataType::Int32), ("microseconds", DataType::Int64)]
        .into_iter()
        .map(|(name, kind)| Field::new(name, kind, false))
        .collect()
}

pub(super) fn item_field(item: &Shape) -> Field {
    Field::new("item", item.arrow(), true)
}

pub(super) fn range_fields(bound: &Shape) -> Fields {
    let flag = |name: &str| Field::new(name, DataType::Boolean, false);
    let bound = |name: &str| Field::new(name, bound.arrow(), true);
    [
        bound("lower"),
        bound("upper"),
        flag("lower_inclusive"),
        flag("upper_inclusive"),
        flag("empty"),
    ]
    .into_iter()
    .collect()
}

pub(super) fn entries_field() -> Field {
    let fields: Fields =
        [Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Utf8, true)]
            .into_iter()
            .collect();
    Field::new("entries", DataType::Struct(fields), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numeric_is_a_decimal_only_where_a_decimal_holds_it() {
        let packed = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        for (modifier, wanted) in [
            (packed(12, 2), Shape::Decimal(12, 2)),
            (packed(38, 38), Shape::Decimal(38, 38)),
            (packed(76, 0), Shape::Decimal(76, 0)),
            (packed(77, 0), Shape::NumericText),
            (packed(5, -2), Shape::NumericText),
            (packed(3, 5), Shape::NumericText),
            (-1, Shape::NumericText),
        ] {
            assert_eq!(Shape::numeric(modifier), wanted, "{modifier}");
        }
    }
}
