//! Bringing an index up to its dataset: only documents whose content is new are embedded; those that are gone are left
//! out; the rest is carried over.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use brahman_card::Fault;
use brahman_card::interface::catalog::Dataset;
use brahman_storage::digest::{hex, sha256};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::chunk::Chunker;
use crate::generation::{Generation, Row};

/// What a refresh is to do, before anything is embedded.
#[derive(Debug, Default)]
pub struct Plan {
    /// Rows carried over, and where their vectors lie in the old generation.
    pub kept: Vec<(Row, usize)>,
    /// Rows to embed.
    pub fresh: Vec<Row>,
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
}

/// Reads the dataset and compares it with the old generation. Blocks.
///
/// # Errors
/// If a column is missing or of a type that cannot be used, or an object cannot be read.
pub fn plan(dataset: &Dataset, id_column: &str, text_column: &str, chunker: &Chunker, old: Option<&Generation>) -> Result<Plan, Fault> {
    let mut known: HashMap<&str, (&str, Vec<usize>)> = HashMap::new();
    for (i, row) in old.map(|g| g.rows.as_slice()).unwrap_or_default().iter().enumerate() {
        known.entry(&row.doc_id).or_insert_with(|| (&row.content_hash, Vec::new())).1.push(i);
    }
    let mut plan = Plan { pre_existing_docs: known.len() as u64, ..Plan::default() };
    let mut seen: HashSet<String> = HashSet::new();
    for object in &dataset.objects {
        let path = PathBuf::from(object.url.strip_prefix("file://").unwrap_or(&object.url));
        let unreadable = |e: &dyn std::fmt::Display| {
            Fault::new("org.brahman.Index.Damaged", false, format!("{}: {e}", path.display())).with("name", dataset.name.clone())
        };
        let builder = File::open(&path)
            .map_err(|e| unreadable(&e))
            .and_then(|f| ParquetRecordBatchReaderBuilder::try_new(f).map_err(|e| unreadable(&e)))?;
        for column in [id_column, text_column] {
            if builder.schema().index_of(column).is_err() {
                let there: Vec<&str> = builder.schema().fields().iter().map(|f| f.name().as_str()).collect();
                return Err(Fault::invalid_parameter(
                    "id_column, text_column",
                    format!("dataset `{}` has no column `{column}`; it has {}", dataset.name, there.join(", ")),
                ));
            }
        }
        let mask = ProjectionMask::columns(builder.parquet_schema(), [id_column, text_column]);
        let reader = builder.with_projection(mask).with_batch_size(1024).build().map_err(|e| unreadable(&e))?;
        for batch in reader {
            let batch = batch.map_err(|e| unreadable(&e))?;
            for (id, text) in documents(&batch, id_column, text_column)? {
                if !seen.insert(id.clone()) {
                    return Err(Fault::invalid_parameter(
                        "id_column",
                        format!("`{id}` stands twice in column `{id_column}`: it does not name documents"),
                    ));
                }
                plan.add(&id, &text, chunker, known.get(id.as_str()), old);
            }
        }
    }
    plan.dataset_docs = seen.len() as u64;
    plan.removed_docs = known.keys().filter(|id| !seen.contains(**id)).count() as u64;
    Ok(plan)
}

impl Plan {
    fn add(&mut self, id: &str, text: &str, chunker: &Chunker, known: Option<&(&str, Vec<usize>)>, old: Option<&Generation>) {
        let hash = hex(&sha256(text.as_bytes()));
        match (known, old) {
            (Some((old_hash, rows)), Some(old)) if *old_hash == hash => {
                self.kept.extend(rows.iter().map(|i| (old.rows[*i].clone(), *i)));
                return;
            }
            (Some(_), _) => self.changed_docs += 1,
            (None, _) => self.new_docs += 1,
        }
        let (doc_id, content_hash): (Arc<str>, Arc<str>) = (id.into(), hash.into());
        let chunks = chunker.cut(id, text).into_iter().zip(0..).map(|(chunk, n)| Row {
            doc_id: Arc::clone(&doc_id),
            content_hash: Arc::clone(&content_hash),
            chunk: n,
            start: chunk.start as u64,
            line: chunk.line as u64,
            text: chunk.text.to_owned(),
        });
        self.fresh.extend(chunks);
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.new_docs + self.changed_docs + self.removed_docs == 0
    }
}

fn documents(batch: &RecordBatch, id_column: &str, text_column: &str) -> Result<Vec<(String, String)>, Fault> {
    let get = |name: &str| batch.column_by_name(name).ok_or_else(|| Fault::internal(format!("column `{name}` was lost")));
    let (ids, texts) = (get(id_column)?, get(text_column)?);
    let texts = texts.as_string_opt::<i32>().ok_or_else(|| {
        Fault::invalid_parameter("text_column", format!("column `{text_column}` is {}, expected Utf8", texts.data_type()))
    })?;
    let id = |i: usize| -> Result<String, Fault> {
        if ids.is_null(i) {
            return Err(Fault::invalid_parameter("id_column", format!("column `{id_column}` has a NULL: it does not name every document")));
        }
        Ok(match ids.data_type() {
            DataType::Utf8 => ids.as_string::<i32>().value(i).to_owned(),
            DataType::Int32 => ids.as_primitive::<Int32Type>().value(i).to_string(),
            DataType::Int64 => ids.as_primitive::<Int64Type>().value(i).to_string(),
            DataType::UInt64 => ids.as_primitive::<UInt64Type>().value(i).to_string(),
            other => {
                return Err(Fault::invalid_parameter(
                    "id_column",
                    format!("column `{id_column}` is {other}, expected Utf8, Int32, Int64 or UInt64"),
                ));
            }
        })
    };
    (0..batch.num_rows()).map(|i| Ok((id(i)?, if texts.is_null(i) { String::new() } else { texts.value(i).to_owned() }))).collect()
}

/// A disk's refusal, as a fault.
#[must_use]
pub fn io_fault(doing: &str, error: &io::Error) -> Fault {
    Fault::internal(format!("{doing}: {error}"))
}
