//! Filters: which rows a search may find, by document, source and the dataset's typed columns.
//!
//! The language is that of Chroma and MongoDB: `{"lang": "rust"}`,
//! `{"year": {"$gte": 2020, "$lt": 2024}}`, `{"$or": [{…}, {…}]}`, with
//! `$eq $ne $gt $gte $lt $lte $in $nin $contains $exists $and $or $not`. A NULL matches only
//! `null`, `$ne` and `{"$exists": false}`. Depth and size are bounded by the wire.
//!
//! Rows are chosen by [`sorted`] columns and by a map of ids where there are many of them, else by
//! looking at each.
//!
//! A value is compared as the column's type has it: with a column of f32 the number is rounded as
//! the column's were, with dates and timestamps a text is read as ISO 8601 (UTC where it names no
//! offset), with decimals a text as digits. Invariant: what cannot be compared with the column is
//! an error that names both, never a filter that lets nothing through.

mod columns;
mod errors;
pub mod sorted;
mod values;

use std::cmp::Ordering;

use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use flat_hnsw::store::LiveRows;
use serde_json::Value as Json;

use crate::generation::{Generation, Selection};
use crate::rows::RowStore;
pub use columns::{common_type, is_filterable, is_scalar, plain, plain_type, settled_type};
pub use errors::{FilterError, SelectionError};
use values::{Kind, compared, order, shown};
pub use values::{Value, value};

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

impl Filter {
    /// A filter within another: one that lets everything through is a mistake there.
    fn part(json: &Json, of: &str) -> Result<Self, FilterError> {
        match json {
            Json::Object(members) if members.is_empty() => {
                Err(FilterError::EmptyFilter { operator: of.to_owned() })
            }
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
                Json::Array(parts) if parts.is_empty() => {
                    Err(FilterError::EmptyList { operator: name.clone() })
                }
                Json::Array(parts) => {
                    parts.iter().map(|part| Self::part(part, name)).collect::<Result<Vec<_>, _>>()
                }
                _ => Err(FilterError::NoFilters { operator: name.clone() }),
            };
            all.push(match name.as_str() {
                "$and" => Self::All(list()?),
                "$or" => Self::Any(list()?),
                "$not" => Self::Not(Box::new(Self::part(wanted, name)?)),
                operator if operator.starts_with('$') => {
                    return Err(FilterError::NoColumnName { operator: operator.to_owned() });
                }
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
                return Err(FilterError::NullOrder {
                    operator: operator.clone(),
                    field: field.to_owned(),
                });
            }
            let compare = |orders: &[Ordering]| {
                Ok::<_, FilterError>(Self::Compare(
                    field.to_owned(),
                    orders.to_vec(),
                    scalar(wanted, field)?,
                ))
            };
            let list = || match wanted {
                Json::Array(values) => {
                    values.iter().map(|v| scalar(v, field)).collect::<Result<Vec<_>, _>>()
                }
                _ => Err(FilterError::NoValues {
                    operator: operator.clone(),
                    field: field.to_owned(),
                }),
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
                other => {
                    return Err(FilterError::UnknownOperator {
                        operator: other.to_owned(),
                        field: field.to_owned(),
                    });
                }
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
            Self::Compare(field, _, _) | Self::OneOf(field, _) | Self::Contains(field, _) => {
                vec![field]
            }
        }
    }

    /// The same with values as columns of these types have them.
    fn typed(
        &self,
        of: &dyn Fn(&str) -> Result<DataType, FilterError>,
    ) -> Result<Self, FilterError> {
        let typed = |field: &str, wanted: &Value| -> Result<Value, FilterError> {
            let (data_type, field) = (of(field)?, field.to_owned());
            // Whether there is a list at all can be asked of lists as well.
            if matches!(data_type, DataType::List(_)) {
                return if *wanted == Value::Null {
                    Ok(Value::Null)
                } else {
                    Err(FilterError::List { field, kind: data_type })
                };
            }
            let Some(kind) = Kind::of(&data_type) else {
                return Err(FilterError::Unfilterable { field, kind: data_type });
            };
            let fits = kind.of_filter(wanted);
            fits.ok_or_else(|| FilterError::OtherType {
                field,
                kind: data_type,
                value: shown(wanted),
                expected: kind.expected(),
            })
        };
        let parts = |parts: &[Self]| {
            parts.iter().map(|part| part.typed(of)).collect::<Result<Vec<_>, FilterError>>()
        };
        Ok(match self {
            Self::All(all) => Self::All(parts(all)?),
            Self::Any(any) => Self::Any(parts(any)?),
            Self::Not(part) => Self::Not(Box::new(part.typed(of)?)),
            Self::Compare(field, orders, wanted) => {
                Self::Compare(field.clone(), orders.clone(), typed(field, wanted)?)
            }
            Self::OneOf(field, values) => Self::OneOf(
                field.clone(),
                values.iter().map(|wanted| typed(field, wanted)).collect::<Result<_, _>>()?,
            ),
            Self::Contains(field, wanted) => {
                let data_type = of(field)?;
                let DataType::List(item) = &data_type else {
                    return Err(FilterError::NoList {
                        field: field.clone(),
                        kind: data_type.clone(),
                    });
                };
                let unfit = |expected: &'static str| {
                    let (field, kind, value) = (field.clone(), data_type.clone(), shown(wanted));
                    FilterError::OtherType { field, kind, value, expected }
                };
                let kind = Kind::of(item.data_type())
                    .ok_or_else(|| unfit("nothing that can be compared"))?;
                Self::Contains(
                    field.clone(),
                    kind.of_filter(wanted).ok_or_else(|| unfit(kind.expected()))?,
                )
            }
        })
    }

    /// Whether it holds for a row with these values.
    pub fn holds(&self, of: &dyn Fn(&str) -> Value) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(of)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(of)),
            Self::Not(part) => !part.holds(of),
            Self::Compare(field, orders, wanted) => {
                order(&of(field), wanted).is_some_and(|o| orders.contains(&o))
            }
            Self::OneOf(field, values) => {
                let found = of(field);
                values.iter().any(|wanted| order(&found, wanted) == Some(Ordering::Equal))
            }
            Self::Contains(field, wanted) => match of(field) {
                Value::List(values) => {
                    values.iter().any(|value| order(value, wanted) == Some(Ordering::Equal))
                }
                _ => false,
            },
        }
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
                let there = own
                    .into_iter()
                    .chain(self.columns.schema().fields().iter().map(|f| f.name().clone()))
                    .collect();
                Err(FilterError::NoColumn { field: field.to_owned(), there })
            }
        }
    }

    fn value(&self, field: &str, row: usize) -> Value {
        match field {
            "doc_id" => {
                Value::Text(self.rows.row(row).map(|row| row.doc_id.to_owned()).unwrap_or_default())
            }
            "source" => Value::Text(self.source.to_owned()),
            _ => self
                .columns
                .column_by_name(field)
                .map_or(Value::Null, |column| compared(column, row)),
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
            Filter::All(parts) => parts
                .iter()
                .map(|part| self.chosen(part))
                .reduce(|a, b| a.and(&b))
                .unwrap_or_else(all),
            Filter::Any(parts) => parts
                .iter()
                .map(|part| self.chosen(part))
                .reduce(|a, b| a.or(&b))
                .unwrap_or_else(|| all().others(rows)),
            Filter::Not(part) => self.chosen(part).others(rows),
            Filter::Compare(field, orders, Value::Text(id))
                if field == "doc_id" && orders.as_slice() == [Ordering::Equal] =>
            {
                LiveRows::from_rows(rows, sorted.of_document(self.rows, id))
            }
            Filter::OneOf(field, ids) if field == "doc_id" => {
                let ids = ids
                    .iter()
                    .filter_map(|id| if let Value::Text(id) = id { Some(id) } else { None });
                LiveRows::from_rows(rows, ids.flat_map(|id| sorted.of_document(self.rows, id)))
            }
            Filter::Compare(field, orders, wanted) => {
                match self.columns.column_by_name(field).filter(|_| field != "source") {
                    Some(column) => {
                        let found = sorted.column(field, column).compared(column, orders, wanted);
                        LiveRows::from_rows(rows, found)
                    }
                    None => self.looked_at(filter),
                }
            }
            Filter::OneOf(field, values) => {
                match self.columns.column_by_name(field).filter(|_| field != "source") {
                    Some(column) => {
                        let order = sorted.column(field, column);
                        LiveRows::from_rows(
                            rows,
                            values.iter().flat_map(|wanted| {
                                order.compared(column, &[Ordering::Equal], wanted)
                            }),
                        )
                    }
                    None => self.looked_at(filter),
                }
            }
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

/// The rows of a generation that a filter lets through.
///
/// # Errors
/// [`SelectionError`].
pub fn allowed(
    filter: &Filter,
    generation: &Generation,
    source: &str,
) -> Result<Selection, SelectionError> {
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
