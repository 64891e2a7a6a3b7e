//! Which columns of a dataset a plan reads, which it refuses by name, and what it keeps of those
//! that searches filter by.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{Array, RecordBatch, UInt32Array};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use brahman_card::Fault;
use brahman_card::interface::index::CreateIn;
use brahman_sidecar::chain;
use parquet::errors::ParquetError;

use super::{SCALAR, open};
use crate::filter;
use crate::generation::Generation;
use crate::segment;

/// Skipped rows that are named; the rest are counted.
pub(super) const SKIPPED_NAMED: usize = 20;

/// Columns that an index reads from its dataset: the id, the texts, the vector, the filters.
#[must_use]
pub fn text_columns(parameters: &CreateIn) -> Vec<String> {
    parameters
        .text_columns
        .clone()
        .or_else(|| parameters.text_column.clone().map(|c| vec![c]))
        .unwrap_or_default()
}

/// The columns of one of a dataset's objects.
///
/// # Errors
/// If it cannot be read.
pub fn schema_of(path: &Path) -> Result<SchemaRef, ParquetError> {
    Ok(Arc::clone(open(path)?.schema()))
}

/// All columns that an index reads.
pub(super) fn wanted_columns(parameters: &CreateIn) -> Vec<String> {
    let mut wanted: Vec<String> = vec![parameters.id_column.clone()];
    wanted.extend(text_columns(parameters).into_iter().chain(parameters.vector_column.clone()));
    wanted.extend(parameters.filter_columns.iter().flatten().cloned());
    wanted
}

/// Columns by the types that are kept: texts, numbers and dictionaries of one kind each.
pub(super) fn plain(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(filter::plain).collect::<Result<Vec<_>, _>>()?;
    let schema = batch.schema();
    let fields = schema
        .fields()
        .iter()
        .zip(&columns)
        .map(|(f, column)| Field::new(f.name(), column.data_type().clone(), f.is_nullable()));
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns)
}

/// The filter columns of the chunks to add, part by part.
#[derive(Debug)]
pub(super) struct FilterColumns {
    names: Vec<String>,
    parts: Vec<RecordBatch>,
    /// Types that hold the values of all objects that were met; absent before the first.
    kinds: Option<Vec<DataType>>,
}

impl FilterColumns {
    /// Columns of these names, without rows yet.
    pub(super) fn new(names: Vec<String>) -> Self {
        Self { names, parts: Vec::new(), kinds: None }
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Takes in the types of an object: those of one dataset may differ.
    pub(super) fn meet(&mut self, schema: &Schema) {
        let own = self.names.iter().filter_map(|name| schema.field_with_name(name).ok());
        let own: Vec<DataType> = own.map(|field| filter::plain_type(field.data_type())).collect();
        self.kinds = Some(match self.kinds.take() {
            Some(kinds) => kinds.iter().zip(&own).map(|(a, b)| filter::common_type(a, b)).collect(),
            None => own,
        });
    }

    /// Adds these rows of a batch.
    pub(super) fn add(&mut self, batch: &RecordBatch, rows: Vec<u32>) -> Result<(), Fault> {
        if self.names.is_empty() {
            return Ok(());
        }
        let schema = batch.schema();
        let indices: Vec<usize> =
            self.names.iter().filter_map(|name| schema.index_of(name).ok()).collect();
        let part = batch.project(&indices).and_then(|batch| {
            arrow_select::take::take_record_batch(&batch, &UInt32Array::from(rows))
        });
        self.parts.push(part.map_err(|e| Fault::internal(chain(&e)))?);
        Ok(())
    }

    /// All of them, of so many rows, by the types that are kept.
    pub(super) fn joined(
        &self,
        old: Option<&Generation>,
        rows: usize,
    ) -> Result<RecordBatch, Fault> {
        let kinds = self.names.iter().zip(self.kinds.iter().flatten());
        let fields: Vec<Field> =
            kinds.map(|(name, kind)| Field::new(name, settled(kind, name, old), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        segment::join(&schema, &self.parts, rows).map_err(|e| Fault::internal(chain(&e)))
    }
}

/// The type of a column that is kept: where nothing stands in it now, the one that it had before.
fn settled(kind: &DataType, name: &str, old: Option<&Generation>) -> DataType {
    let settled = filter::settled_type(kind);
    if settled == *kind {
        return settled;
    }
    let of =
        |schema: &Schema| schema.field_with_name(name).ok().map(|field| field.data_type().clone());
    let before = old.and_then(|old| {
        let appended = of(&old.delta.columns.schema());
        appended.or_else(|| of(old.base.as_ref()?.column_types().ok()?.as_ref()))
    });
    // A list stays a list.
    before.filter(|before| kind.is_null() || matches!(before, DataType::List(_))).unwrap_or(settled)
}

/// That the columns an index reads are there, and of types that it can use.
///
/// # Errors
/// `InvalidParameter`, which names the column, its type and what was expected.
pub fn check_columns(schema: &Schema, dataset: &str, parameters: &CreateIn) -> Result<(), Fault> {
    let field = |parameter: &str, name: &str| {
        let there = || schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>();
        schema.field_with_name(name).map_err(|_| no_column(parameter, dataset, name, &there()))
    };
    let wrong = |parameter: &str, name: &str, kind: &DataType, expected: &str| {
        Err(Fault::invalid_parameter(
            parameter,
            format!("column `{name}` is {kind}, expected {expected}"),
        ))
    };
    let id = field("id_column", &parameters.id_column)?.data_type();
    if !filter::is_scalar(id) {
        return wrong("id_column", &parameters.id_column, id, SCALAR);
    }
    for name in &text_columns(parameters) {
        let kind = field("text_column", name)?.data_type();
        if filter::plain_type(kind) != DataType::Utf8 {
            return wrong("text_column", name, kind, "text");
        }
    }
    if let Some(name) = &parameters.vector_column {
        let kind = field("vector_column", name)?.data_type();
        if !is_vector(kind) {
            return wrong("vector_column", name, kind, "a list of Float32 or Float64");
        }
    }
    for name in parameters.filter_columns.iter().flatten() {
        let kind = field("filter_columns", name)?.data_type();
        if !filter::is_filterable(kind) {
            return wrong(
                "filter_columns",
                name,
                kind,
                "text, a number, a boolean, a date or a timestamp, or a list of these",
            );
        }
    }
    Ok(())
}

fn is_vector(kind: &DataType) -> bool {
    match kind {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
            matches!(item.data_type(), DataType::Float32 | DataType::Float64)
        }
        _ => false,
    }
}

/// A column that a dataset does not have, and the parameter that names it.
#[must_use]
pub fn no_column(parameter: &str, dataset: &str, column: &str, there: &[&str]) -> Fault {
    // What is searched unless it is said.
    let hint =
        if column == "text" { ": `--text-column NAME` says which is to be searched" } else { "" };
    let message =
        format!("dataset `{dataset}` has no column `{column}`; it has {}{hint}", there.join(", "));
    Fault::invalid_parameter(parameter, message)
}
