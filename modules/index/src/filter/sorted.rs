//! What finds few rows among many without looking at each: a map of ids, and columns, and what
//! lists hold, in the order of their values.
//!
//! Each is made when it is first asked for, and kept with the base: its rows never change.
//! Invariant: what is found is what looking at each row finds.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

use super::{Value, compared, order};
use crate::rows::RowStore;

/// Fewer rows are looked at one by one: that takes a millisecond.
pub const ROWS_MIN: usize = 32_768;

/// Which rows each document has.
#[derive(Debug)]
pub struct IdMap {
    /// By the hashes of their documents' ids; those that are alike are told apart by the rows
    /// themselves.
    rows: Vec<(u64, u32)>,
}

fn hashed(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

impl IdMap {
    /// Of these rows; one that is damaged is not found, as it cannot be shown.
    #[must_use]
    pub fn of(rows: &RowStore) -> Self {
        let mut map: Vec<(u64, u32)> = rows
            .iter()
            .zip(0..)
            .filter_map(|(row, number)| Some((hashed(row.ok()?.doc_id), number)))
            .collect();
        map.sort_unstable();
        Self { rows: map }
    }

    /// The rows of a document, in order.
    pub fn rows<'a>(&'a self, of: &'a RowStore, id: &'a str) -> impl Iterator<Item = u32> + 'a {
        let hash = hashed(id);
        let from = self.rows.partition_point(|(other, _)| *other < hash);
        let alike = self.rows[from..]
            .iter()
            .take_while(move |(other, _)| *other == hash)
            .map(|(_, row)| *row);
        alike.filter(move |row| of.row(*row as usize).is_ok_and(|row| row.doc_id == id))
    }
}

/// A column's rows in the order of their values.
#[derive(Debug)]
pub struct SortedColumn {
    order: Vec<u32>,
    nulls: Vec<u32>,
}

impl SortedColumn {
    fn of(column: &ArrayRef) -> Self {
        let (nulls, rest): (Vec<u32>, Vec<u32>) =
            (0..column.len() as u32).partition(|row| column.is_null(*row as usize));
        let order = if let (DataType::Utf8, Some(texts)) =
            (column.data_type(), column.as_string_opt::<i32>())
        {
            let mut rows = rest;
            rows.sort_by(|a, b| texts.value(*a as usize).cmp(texts.value(*b as usize)));
            rows
        } else {
            let mut values: Vec<(Value, u32)> =
                rest.into_iter().map(|row| (compared(column, row as usize), row)).collect();
            // What is no number is neither more nor less than any.
            values.retain(|(value, _)| order(value, value).is_some());
            values.sort_by(|a, b| order(&a.0, &b.0).unwrap_or(Ordering::Equal));
            values.into_iter().map(|(_, row)| row).collect()
        };
        Self { order, nulls }
    }

    /// The rows whose values are in one of these orders to a value of the column's type.
    pub(super) fn compared(
        &self,
        column: &ArrayRef,
        orders: &[Ordering],
        wanted: &Value,
    ) -> Vec<u32> {
        if *wanted == Value::Null {
            return if orders.contains(&Ordering::Equal) { self.nulls.clone() } else { Vec::new() };
        }
        let is = |row: &u32| order(&compared(column, *row as usize), wanted);
        let from = self.order.partition_point(|row| is(row) == Some(Ordering::Less));
        let to = from + self.order[from..].partition_point(|row| is(row) == Some(Ordering::Equal));
        let parts = [
            (Ordering::Less, 0..from),
            (Ordering::Equal, from..to),
            (Ordering::Greater, to..self.order.len()),
        ];
        let wanted = parts.into_iter().filter(|(order, _)| orders.contains(order));
        wanted.flat_map(|(_, range)| self.order[range].iter().copied()).collect()
    }
}

/// Columns in order, by name.
type ByName = Mutex<HashMap<String, Arc<SortedColumn>>>;

/// Those of a base, made one by one.
#[derive(Debug, Default)]
pub struct SortedColumns {
    ids: OnceLock<IdMap>,
    columns: ByName,
    /// Of columns of lists: what the lists hold, one after the other.
    items: ByName,
}

/// A column in order. Whoever comes while it is made waits, rather than make it as well.
fn kept(columns: &ByName, name: &str, column: &ArrayRef) -> Arc<SortedColumn> {
    let mut columns = columns.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(there) = columns.get(name) {
        return Arc::clone(there);
    }
    let made = Arc::new(SortedColumn::of(column));
    columns.insert(name.to_owned(), Arc::clone(&made));
    made
}

impl SortedColumns {
    /// The rows of a document.
    pub fn of_document<'a>(
        &'a self,
        rows: &'a RowStore,
        id: &'a str,
    ) -> impl Iterator<Item = u32> + 'a {
        self.ids.get_or_init(|| IdMap::of(rows)).rows(rows, id)
    }

    /// A column in order.
    pub(super) fn column(&self, name: &str, column: &ArrayRef) -> Arc<SortedColumn> {
        kept(&self.columns, name, column)
    }

    /// The rows of a column of lists that hold a value of the lists' type; none if they are too
    /// many to be counted in 32 bits.
    pub(super) fn containing(
        &self,
        name: &str,
        column: &ArrayRef,
        wanted: &Value,
    ) -> Option<Vec<u32>> {
        let lists = column.as_list_opt::<i32>()?;
        let (items, offsets) = (lists.values(), lists.offsets());
        u32::try_from(items.len()).ok()?;
        let found = kept(&self.items, name, items).compared(items, &[Ordering::Equal], wanted);
        let row = |item: u32| {
            let after = offsets.partition_point(|offset| {
                u32::try_from(*offset).is_ok_and(|offset| offset <= item)
            });
            // What lies before the first list, behind the last, or where a list is absent is in
            // none.
            let row =
                after.checked_sub(1).filter(|row| *row < lists.len() && lists.is_valid(*row))?;
            u32::try_from(row).ok()
        };
        Some(found.into_iter().filter_map(row).collect())
    }
}
