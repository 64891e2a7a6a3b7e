//! What a refresh is to do, purely from the dataset and the old generation: which rows are new, which are gone, and for
//! which chunks a vector is at hand already.
//!
//! A document counts as changed if the hash of its text, its vector and its filter columns changed. Of a changed document
//! the chunks whose text the index holds already keep their vectors.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{DataType, Schema};
use brahman_card::Fault;
use brahman_card::interface::catalog::Dataset;
use brahman_card::interface::index::{CreateIn, Skipped};
use brahman_storage::digest::{hex, sha256};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::chunk::Chunker;
use crate::filter;
use crate::flat::kernel::dot;
use crate::generation::Generation;
use crate::rows::{Row, RowStore};
use crate::segment;

/// Skipped rows that are named; the rest are counted.
const SKIPPED_NAMED: usize = 20;
/// Rows of the dataset read at once.
const BATCH_ROWS: usize = 1024;

/// Where a fresh chunk's vector comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is to be embedded.
    Embed,
    /// It is that of a row of the old generation.
    Old(u32),
    /// It came with the dataset, the n-th such.
    Given(usize),
}

/// What a refresh is to do, before anything is embedded.
#[derive(Debug, Default)]
pub struct Plan {
    /// Rows of the old generation that die.
    pub dead: Vec<u32>,
    /// Chunks to add.
    pub fresh: RowStore,
    /// Where their vectors come from.
    pub origins: Vec<Origin>,
    /// Vectors that came with the dataset, of length 1.
    pub given: Vec<f32>,
    /// Their length.
    pub given_dim: usize,
    /// The filter columns of the chunks to add.
    pub columns: Option<RecordBatch>,
    /// Documents in the index before.
    pub pre_existing_docs: u64,
    /// Documents in the dataset.
    pub dataset_docs: u64,
    /// Documents the index did not know.
    pub new_docs: u64,
    /// Documents whose content changed.
    pub changed_docs: u64,
    /// Documents that are gone.
    pub removed_docs: u64,
    /// Documents without text.
    pub empty_docs: u64,
    /// Documents whose vector cannot be used.
    pub skipped_docs: u64,
    /// The first of them.
    pub skipped: Vec<Skipped>,
}

/// A document of the dataset.
struct Document<'a> {
    id: &'a str,
    text: &'a str,
    vector: Option<&'a [f32]>,
}

/// What is known of a document: its hash and its rows.
type Known = HashMap<String, ([u8; 32], Vec<u32>)>;

fn known(old: Option<&Generation>) -> io::Result<Known> {
    let mut known = Known::new();
    for number in old.into_iter().flat_map(Generation::live_rows) {
        let Some(row) = old.map(|g| g.row(number)).transpose()? else { break };
        match known.get_mut(row.doc_id) {
            Some((_, rows)) => rows.push(number),
            None => {
                known.insert(row.doc_id.to_owned(), (*row.content_hash, vec![number]));
            }
        }
    }
    Ok(known)
}

/// Columns that an index reads from its dataset: the id, the texts, the vector, the filters.
#[must_use]
pub fn text_columns(parameters: &CreateIn) -> Vec<String> {
    parameters.text_columns.clone().or_else(|| parameters.text_column.clone().map(|c| vec![c])).unwrap_or_default()
}

/// Reads the dataset and compares it with the old generation. Blocks.
///
/// # Errors
/// If a column is missing or of a type that cannot be used, or an object cannot be read.
pub fn plan(dataset: &Dataset, parameters: &CreateIn, chunker: &Chunker, old: Option<&Generation>) -> Result<Plan, Fault> {
    let known = known(old).map_err(|e| io_fault("reading the index", &e))?;
    let mut plan = Plan { pre_existing_docs: known.len() as u64, ..Plan::default() };
    let mut seen: HashSet<String> = HashSet::new();
    let texts = text_columns(parameters);
    let filters = parameters.filter_columns.clone().unwrap_or_default();
    let mut wanted: Vec<String> = vec![parameters.id_column.clone()];
    wanted.extend(texts.iter().cloned().chain(parameters.vector_column.clone()).chain(filters.iter().cloned()));
    let (mut columns, mut schema) = (Vec::new(), None);
    for object in &dataset.objects {
        let path = object.local();
        let unreadable = |e: &dyn std::fmt::Display| {
            Fault::new("org.brahman.Index.Damaged", false, format!("{}: {e}", path.display())).with("name", dataset.name.clone())
        };
        let builder = File::open(&path)
            .map_err(|e| unreadable(&e))
            .and_then(|f| ParquetRecordBatchReaderBuilder::try_new(f).map_err(|e| unreadable(&e)))?;
        for column in &wanted {
            if builder.schema().index_of(column).is_err() {
                let there: Vec<&str> = builder.schema().fields().iter().map(|f| f.name().as_str()).collect();
                return Err(no_column(&dataset.name, column, &there));
            }
        }
        let mask = ProjectionMask::columns(builder.parquet_schema(), wanted.iter().map(String::as_str));
        let mask = if parameters.vector_column.is_some() {
            let roots: Vec<usize> = wanted.iter().filter_map(|c| builder.schema().index_of(c).ok()).collect();
            ProjectionMask::roots(builder.parquet_schema(), roots)
        } else {
            mask
        };
        for batch in builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|e| unreadable(&e))? {
            let batch = batch.map_err(|e| unreadable(&e))?;
            let taken = plan.batch(&batch, parameters, &texts, &filters, chunker, &known, old, &mut seen)?;
            if !filters.is_empty() {
                let indices: Vec<usize> = filters.iter().filter_map(|f| batch.schema().index_of(f).ok()).collect();
                let own = batch.project(&indices).and_then(|b| arrow_select::take::take_record_batch(&b, &UInt32Array::from(taken)));
                let own = own.map_err(|e| Fault::internal(e.to_string()))?;
                schema.get_or_insert_with(|| own.schema());
                columns.push(own);
            }
        }
    }
    plan.dataset_docs = seen.len() as u64;
    for (_, (_, rows)) in known.iter().filter(|(id, _)| !seen.contains(id.as_str())) {
        plan.removed_docs += 1;
        plan.dead.extend(rows);
    }
    plan.dead.sort_unstable();
    let schema = schema.unwrap_or_else(|| Arc::new(Schema::empty()));
    plan.columns = Some(segment::join(&schema, &columns, plan.fresh.len()).map_err(|e| Fault::internal(e.to_string()))?);
    Ok(plan)
}

/// A column that a dataset does not have.
#[must_use]
pub fn no_column(dataset: &str, column: &str, there: &[&str]) -> Fault {
    let message = format!("dataset `{dataset}` has no column `{column}`; it has {}", there.join(", "));
    Fault::invalid_parameter("id_column, text_column, vector_column, filter_columns", message)
}

impl Plan {
    #[expect(clippy::too_many_arguments, reason = "one caller, which holds them all")]
    fn batch(
        &mut self,
        batch: &RecordBatch,
        parameters: &CreateIn,
        texts: &[String],
        filters: &[String],
        chunker: &Chunker,
        known: &Known,
        old: Option<&Generation>,
        seen: &mut HashSet<String>,
    ) -> Result<Vec<u32>, Fault> {
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| Fault::internal(format!("column `{name}` was lost")));
        let ids = column(&parameters.id_column)?;
        let text_arrays: Vec<&ArrayRef> = texts.iter().map(|c| column(c)).collect::<Result<_, _>>()?;
        let filter_arrays: Vec<&ArrayRef> = filters.iter().map(|c| column(c)).collect::<Result<_, _>>()?;
        for (name, array) in filters.iter().zip(&filter_arrays) {
            if !filter::is_filterable(array.data_type()) {
                let message =
                    format!("column `{name}` is {}, expected text, a number, a boolean, a date or a timestamp", array.data_type());
                return Err(Fault::invalid_parameter("filter_columns", message));
            }
        }
        let vectors = parameters.vector_column.as_deref().map(|name| column(name).and_then(|array| given(name, array))).transpose()?;
        let mut taken = Vec::new();
        for row in 0..batch.num_rows() {
            let id = id_of(ids, &parameters.id_column, row)?;
            if !seen.insert(id.clone()) {
                let message = format!("`{id}` stands twice in column `{}`: it does not name documents", parameters.id_column);
                return Err(Fault::invalid_parameter("id_column", message));
            }
            let text = text_of(&text_arrays, texts, parameters.template.as_deref(), row)?;
            let vector = vectors.as_ref().map(|v| v[row].as_slice());
            let mut hashed = text.clone().into_bytes();
            hashed.extend(vector.unwrap_or_default().iter().flat_map(|x| x.to_le_bytes()));
            for array in &filter_arrays {
                hashed.extend(format!("\u{1f}{:?}", filter::value(array, row)).into_bytes());
            }
            let before = self.fresh.len();
            self.document(&Document { id: &id, text: &text, vector }, &sha256(&hashed), chunker, known.get(&id), old)?;
            taken.extend(std::iter::repeat_n(row as u32, self.fresh.len() - before));
        }
        Ok(taken)
    }

    fn document(
        &mut self,
        document: &Document<'_>,
        hash: &[u8; 32],
        chunker: &Chunker,
        known: Option<&([u8; 32], Vec<u32>)>,
        old: Option<&Generation>,
    ) -> Result<(), Fault> {
        if known.is_some_and(|(old_hash, _)| old_hash == hash) {
            return Ok(());
        }
        let mut at_hand: HashMap<&str, u32> = HashMap::new();
        if let (Some((_, rows)), Some(old)) = (known, old) {
            self.dead.extend(rows);
            for number in rows {
                at_hand.insert(old.row(*number).map_err(|e| io_fault("reading the index", &e))?.text, *number);
            }
        }
        let before = self.fresh.len();
        if let Some(vector) = document.vector {
            let norm = dot(vector, vector).sqrt();
            let dim = if self.given_dim == 0 {
                old.filter(|g| !g.is_empty()).map_or(vector.len(), |g| g.manifest.model.dim)
            } else {
                self.given_dim
            };
            let wrong = if vector.len() != dim || vector.is_empty() {
                Some(format!("its vector has {} numbers, expected {dim}", vector.len()))
            } else if !norm.is_finite() {
                Some("its vector holds a number that is not finite".to_owned())
            } else if norm < f32::MIN_POSITIVE {
                Some("its vector is zero: it has no direction".to_owned())
            } else {
                None
            };
            match wrong {
                Some(reason) => {
                    self.skipped_docs += 1;
                    if self.skipped.len() < SKIPPED_NAMED {
                        self.skipped.push(Skipped { doc_id: document.id.to_owned(), reason });
                    }
                }
                None => {
                    self.given_dim = dim;
                    self.origins.push(Origin::Given(self.given.len() / dim));
                    self.given.extend(vector.iter().map(|x| x / norm));
                    self.fresh.push(&Row { doc_id: document.id, content_hash: hash, chunk: 0, start: 0, line: 1, text: document.text });
                }
            }
        } else {
            for (chunk, number) in chunker.cut(document.id, document.text).into_iter().zip(0..) {
                self.origins.push(at_hand.get(chunk.text).map_or(Origin::Embed, |row| Origin::Old(*row)));
                self.fresh.push(&Row {
                    doc_id: document.id,
                    content_hash: hash,
                    chunk: number,
                    start: chunk.start as u64,
                    line: chunk.line as u64,
                    text: chunk.text,
                });
            }
            self.empty_docs += u64::from(self.fresh.len() == before);
        }
        // One that has no chunks is not in the index, now or later.
        match (known.is_some(), self.fresh.len() > before) {
            (true, true) => self.changed_docs += 1,
            (true, false) => self.removed_docs += 1,
            (false, true) => self.new_docs += 1,
            (false, false) => {}
        }
        Ok(())
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.dead.is_empty()
    }
}

fn id_of(ids: &ArrayRef, name: &str, row: usize) -> Result<String, Fault> {
    if ids.is_null(row) {
        return Err(Fault::invalid_parameter("id_column", format!("column `{name}` has a NULL: it does not name every document")));
    }
    Ok(match ids.data_type() {
        DataType::Utf8 => ids.as_string::<i32>().value(row).to_owned(),
        DataType::Int32 => ids.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => ids.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::UInt64 => ids.as_primitive::<UInt64Type>().value(row).to_string(),
        other => {
            let message = format!("column `{name}` is {other}, expected Utf8, Int32, Int64 or UInt64");
            return Err(Fault::invalid_parameter("id_column", message));
        }
    })
}

/// One text out of several columns; `{column}` in a template stands for its value. NULL is the empty text.
fn text_of(arrays: &[&ArrayRef], names: &[String], template: Option<&str>, row: usize) -> Result<String, Fault> {
    let values = arrays.iter().zip(names).map(|(array, name)| {
        let texts = array
            .as_string_opt::<i32>()
            .ok_or_else(|| Fault::invalid_parameter("text_column", format!("column `{name}` is {}, expected Utf8", array.data_type())))?;
        Ok(if texts.is_null(row) { "" } else { texts.value(row) })
    });
    let values: Vec<&str> = values.collect::<Result<_, Fault>>()?;
    let Some(template) = template else { return Ok(values.join("\n")) };
    // From the left, so that a value that looks like a placeholder stays what it is.
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let named = names.iter().zip(&values).find_map(|(n, v)| after.strip_prefix(n.as_str())?.strip_prefix('}').map(|left| (v, left)));
        match named {
            Some((value, left)) => {
                out.push_str(value);
                rest = left;
            }
            None => {
                out.push('{');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The vectors of a column, as f32; NULL is one of no numbers.
fn given(name: &str, array: &ArrayRef) -> Result<Vec<Vec<f32>>, Fault> {
    let numbers = |values: ArrayRef| -> Option<Vec<f32>> {
        if let Some(all) = values.as_primitive_opt::<Float32Type>() {
            return Some(all.iter().map(|x| x.unwrap_or(f32::NAN)).collect());
        }
        let all = values.as_primitive_opt::<Float64Type>()?;
        Some(all.iter().map(|x| x.map_or(f32::NAN, |x| x as f32)).collect())
    };
    let row = |i: usize| -> Option<Vec<f32>> {
        if array.is_null(i) {
            return Some(Vec::new());
        }
        match array.data_type() {
            DataType::FixedSizeList(_, _) => numbers(array.as_fixed_size_list().value(i)),
            DataType::List(_) => numbers(array.as_list::<i32>().value(i)),
            DataType::LargeList(_) => numbers(array.as_list::<i64>().value(i)),
            _ => None,
        }
    };
    let wrong = || {
        Fault::invalid_parameter(
            "vector_column",
            format!("column `{name}` is {}, expected a list of Float32 or Float64", array.data_type()),
        )
    };
    (0..array.len()).map(|i| row(i).ok_or_else(wrong)).collect()
}

/// The name of the data that trials are made on: its dataset, its generation and its rows.
#[must_use]
pub fn data_fingerprint(generation: &Generation) -> String {
    let m = &generation.manifest;
    let files: Vec<&str> =
        m.base.iter().map(|b| b.segment.sha256.as_str()).chain(m.segments.iter().map(|s| s.file.sha256.as_str())).collect();
    let dead = m.dead.as_ref().map_or("", |d| d.sha256.as_str());
    hex(&sha256(format!("{} {} {dead}", m.model.fingerprint, files.join(" ")).as_bytes()))[..16].to_owned()
}

/// A disk's refusal, as a fault.
#[must_use]
pub fn io_fault(doing: &str, error: &io::Error) -> Fault {
    Fault::internal(format!("{doing}: {error}"))
}

#[cfg(test)]
mod tests {
    use arrow_array::StringArray;

    use super::*;

    #[test]
    fn a_template_is_filled_once_and_columns_without_one_are_lines() {
        let title: ArrayRef = Arc::new(StringArray::from(vec![Some("A {body}"), None]));
        let body: ArrayRef = Arc::new(StringArray::from(vec!["b", "c"]));
        let names = ["title".to_owned(), "body".to_owned()];
        let text = |template, row| text_of(&[&title, &body], &names, template, row).expect("texts");
        assert_eq!(text(Some("# {title}\n{body} {x} {"), 0), "# A {body}\nb {x} {");
        assert_eq!(text(None, 1), "\nc");
    }
}
