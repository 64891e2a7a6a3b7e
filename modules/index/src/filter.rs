//! Filters: which rows a search may find, by document, source and the dataset's typed columns.
//!
//! The language is that of Chroma and MongoDB: `{"lang": "rust"}`, `{"year": {"$gte": 2020, "$lt": 2024}}`,
//! `{"$or": [{…}, {…}]}`, with `$eq $ne $gt $gte $lt $lte $in $nin $and $or $not`. A NULL matches only `null` and `$ne`.
//! Depth and size are bounded by the wire.

use std::cmp::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use serde_json::Value as Json;

use crate::flat::store::Live;
use crate::generation::{Allowed, Generation};

/// A typed value of a column. Dates and timestamps are numbers in their own unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Absent.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(String),
}

/// Whether searches can filter by columns of this type.
#[must_use]
pub fn is_filterable(kind: &DataType) -> bool {
    kind.is_integer()
        || matches!(kind, DataType::Utf8 | DataType::Boolean | DataType::Float32 | DataType::Float64)
        || matches!(kind, DataType::Date32 | DataType::Date64 | DataType::Timestamp(_, _))
}

/// A value of a column of a filterable type.
#[must_use]
pub fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    macro_rules! int {
        ($t:ty) => {
            Value::Int(i64::try_from(column.as_primitive::<$t>().value(row)).unwrap_or(i64::MAX))
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
        _ => Value::Null,
    }
}

/// A parsed filter.
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
}

fn scalar(json: &Json, field: &str) -> Result<Value, String> {
    match json {
        Json::Null => Ok(Value::Null),
        Json::Bool(b) => Ok(Value::Bool(*b)),
        Json::String(s) => Ok(Value::Text(s.clone())),
        Json::Number(n) => Ok(n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or(f64::NAN)), Value::Int)),
        _ => Err(format!("`{field}` is compared with a list or an object, expected a text, a number, true, false or null")),
    }
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// In words, naming the part that is wrong.
    pub fn parse(json: &Json) -> Result<Self, String> {
        let Json::Object(members) = json else {
            return Err("a filter is an object such as {\"lang\": \"rust\"} or {\"year\": {\"$gte\": 2020}}".to_owned());
        };
        let mut all = Vec::new();
        for (name, wanted) in members {
            let list = || match wanted {
                Json::Array(parts) => parts.iter().map(Self::parse).collect::<Result<Vec<_>, _>>(),
                _ => Err(format!("`{name}` expects a list of filters")),
            };
            all.push(match name.as_str() {
                "$and" => Self::All(list()?),
                "$or" => Self::Any(list()?),
                "$not" => Self::Not(Box::new(Self::parse(wanted)?)),
                operator if operator.starts_with('$') => return Err(format!("`{operator}` stands where a column's name is expected")),
                field => Self::field(field, wanted)?,
            });
        }
        Ok(Self::All(all))
    }

    fn field(field: &str, wanted: &Json) -> Result<Self, String> {
        use Ordering::{Equal, Greater, Less};
        let Json::Object(operators) = wanted else {
            return Ok(Self::Compare(field.to_owned(), vec![Equal], scalar(wanted, field)?));
        };
        let mut all = Vec::new();
        for (operator, wanted) in operators {
            let compare = |orders: &[Ordering]| Ok::<_, String>(Self::Compare(field.to_owned(), orders.to_vec(), scalar(wanted, field)?));
            let list = || match wanted {
                Json::Array(values) => values.iter().map(|v| scalar(v, field)).collect::<Result<Vec<_>, _>>(),
                _ => Err(format!("`{operator}` of `{field}` expects a list")),
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
                other => return Err(format!("`{other}` of `{field}`: expected $eq, $ne, $gt, $gte, $lt, $lte, $in or $nin")),
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
            Self::Compare(field, _, _) | Self::OneOf(field, _) => vec![field],
        }
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
        }
    }
}

/// The order of two values, if they can be compared.
fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Float(b)) => (*a as f64).partial_cmp(b),
        (Value::Float(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// The rows of a generation that a filter lets through.
///
/// # Errors
/// In words, if a field is no column of the index, or columns cannot be read.
pub fn allowed(filter: &Filter, generation: &Generation, source: &str) -> Result<Allowed, String> {
    let part = |columns: &RecordBatch, rows: usize, id: &dyn Fn(usize) -> String| -> Result<Live, String> {
        for field in filter.fields() {
            if field != "doc_id" && field != "source" && columns.column_by_name(field).is_none() {
                let schema = columns.schema();
                let there: Vec<&str> = ["doc_id", "source"].into_iter().chain(schema.fields().iter().map(|f| f.name().as_str())).collect();
                return Err(format!("the index has no column `{field}` to filter by; it has {}", there.join(", ")));
            }
        }
        Ok(Live::of(rows, |row| {
            filter.holds(&|field| match field {
                "doc_id" => Value::Text(id(row)),
                "source" => Value::Text(source.to_owned()),
                _ => columns.column_by_name(field).map_or(Value::Null, |column| value(column, row)),
            })
        }))
    };
    let id = |row: std::io::Result<crate::rows::Row<'_>>| row.map(|r| r.doc_id.to_owned()).unwrap_or_default();
    let base = match &generation.base {
        Some(base) => Some(part(base.columns()?, base.rows.len(), &|row| id(base.rows.row(row)))?),
        None => None,
    };
    let delta = &generation.delta;
    let delta = if delta.rows.is_empty() { None } else { Some(part(&delta.columns, delta.rows.len(), &|row| id(delta.rows.row(row)))?) };
    Ok(Allowed { base, delta })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_means_what_mongodb_means_by_it() {
        let of = |field: &str| match field {
            "lang" => Value::Text("rust".into()),
            "year" => Value::Int(2021),
            "score" => Value::Float(0.5),
            "draft" => Value::Bool(false),
            _ => Value::Null,
        };
        for (filter, holds) in [
            (json!({}), true),
            (json!({"lang": "rust"}), true),
            (json!({"lang": "rust", "year": 2020}), false),
            (json!({"year": {"$gte": 2020, "$lt": 2022}}), true),
            (json!({"year": {"$gt": 2021}}), false),
            (json!({"score": {"$lte": 0.5}}), true),
            (json!({"score": {"$gt": 0}}), true),
            (json!({"lang": {"$in": ["go", "rust"]}}), true),
            (json!({"lang": {"$nin": ["go", "rust"]}}), false),
            (json!({"$or": [{"lang": "go"}, {"draft": false}]}), true),
            (json!({"$not": {"lang": "go"}}), true),
            (json!({"gone": null}), true),
            (json!({"gone": "x"}), false),
            (json!({"gone": {"$ne": "x"}}), true),
            (json!({"year": "2021"}), false),
        ] {
            assert_eq!(Filter::parse(&filter).expect("parses").holds(&of), holds, "{filter}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_by_name() {
        for (filter, words) in [
            (json!("x"), "is an object"),
            (json!({"$xor": []}), "$xor"),
            (json!({"year": {"$near": 3}}), "$near"),
            (json!({"$or": {}}), "list of filters"),
            (json!({"year": [1]}), "list or an object"),
            (json!({"year": {"$in": 3}}), "expects a list"),
        ] {
            assert!(Filter::parse(&filter).expect_err("refused").contains(words), "{filter}");
        }
    }
}
