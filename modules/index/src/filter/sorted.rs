//! What finds few rows among many without looking at each: a map of ids, and columns in the order of their values.
//!
//! Each is made when it is first asked for, and kept with the base: its rows never change. Invariant: what is found is what looking at each
//! row finds.

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
    /// By the hashes of their documents' ids; those that are alike are told apart by the rows themselves.
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
        let mut map: Vec<(u64, u32)> = rows.iter().zip(0..).filter_map(|(row, number)| Some((hashed(row.ok()?.doc_id), number))).collect();
        map.sort_unstable();
        Self { rows: map }
    }

    /// The rows of a document, in order.
    pub fn rows<'a>(&'a self, of: &'a RowStore, id: &'a str) -> impl Iterator<Item = u32> + 'a {
        let hash = hashed(id);
        let from = self.rows.partition_point(|(other, _)| *other < hash);
        let alike = self.rows[from..].iter().take_while(move |(other, _)| *other == hash).map(|(_, row)| *row);
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
        let (nulls, rest): (Vec<u32>, Vec<u32>) = (0..column.len() as u32).partition(|row| column.is_null(*row as usize));
        let order = if let (DataType::Utf8, Some(texts)) = (column.data_type(), column.as_string_opt::<i32>()) {
            let mut rows = rest;
            rows.sort_by(|a, b| texts.value(*a as usize).cmp(texts.value(*b as usize)));
            rows
        } else {
            let mut values: Vec<(Value, u32)> = rest.into_iter().map(|row| (compared(column, row as usize), row)).collect();
            // What is no number is neither more nor less than any.
            values.retain(|(value, _)| order(value, value).is_some());
            values.sort_by(|a, b| order(&a.0, &b.0).unwrap_or(Ordering::Equal));
            values.into_iter().map(|(_, row)| row).collect()
        };
        Self { order, nulls }
    }

    /// The rows whose values are in one of these orders to a value of the column's type.
    pub(super) fn compared(&self, column: &ArrayRef, orders: &[Ordering], wanted: &Value) -> Vec<u32> {
        if *wanted == Value::Null {
            return if orders.contains(&Ordering::Equal) { self.nulls.clone() } else { Vec::new() };
        }
        let is = |row: &u32| order(&compared(column, *row as usize), wanted);
        let from = self.order.partition_point(|row| is(row) == Some(Ordering::Less));
        let to = from + self.order[from..].partition_point(|row| is(row) == Some(Ordering::Equal));
        let parts = [(Ordering::Less, 0..from), (Ordering::Equal, from..to), (Ordering::Greater, to..self.order.len())];
        let wanted = parts.into_iter().filter(|(order, _)| orders.contains(order));
        wanted.flat_map(|(_, range)| self.order[range].iter().copied()).collect()
    }
}

/// Those of a base, made one by one.
#[derive(Debug, Default)]
pub struct SortedColumns {
    ids: OnceLock<IdMap>,
    columns: Mutex<HashMap<String, Arc<SortedColumn>>>,
}

impl SortedColumns {
    /// The rows of a document.
    pub fn of_document<'a>(&'a self, rows: &'a RowStore, id: &'a str) -> impl Iterator<Item = u32> + 'a {
        self.ids.get_or_init(|| IdMap::of(rows)).rows(rows, id)
    }

    /// A column in order. Whoever comes while it is made waits, rather than make it as well.
    pub(super) fn column(&self, name: &str, column: &ArrayRef) -> Arc<SortedColumn> {
        let mut columns = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = columns.get(name) {
            return Arc::clone(there);
        }
        let made = Arc::new(SortedColumn::of(column));
        columns.insert(name.to_owned(), Arc::clone(&made));
        made
    }
}
