//! What a refresh is to do, purely from the dataset and the old generation: which rows are new,
//! which are gone, and for which chunks a vector is at hand already.
//!
//! A document counts as changed if the hash of its text, its vector and its filter columns changed.
//! Of a changed document the chunks whose text the index holds already keep their vectors.

mod columns;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::cast;
use arrow_cast::display::array_value_to_string;
use arrow_schema::DataType;
use brahman_card::Fault;
use brahman_card::interface::catalog::Dataset;
use brahman_card::interface::index::{CreateIn, SkippedRow, error};
use brahman_sidecar::chain;
use brahman_storage::digest::sha256;
use flat_hnsw::kernel::dot;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;

use crate::chunk::Chunker;
use crate::cutter::{Cut, Cutter, Measure, NoMeasure, Source};
use crate::files::Damage;
use crate::filter::{self, Value};
use crate::generation::Generation;
use crate::rows::{Row, RowStore};
use columns::{FilterColumns, SKIPPED_NAMED, plain, wanted_columns};
pub use columns::{check_columns, no_column, schema_of, text_columns};

/// The way in which texts are cut now: by tokens, each chunk with its context before it.
pub const CHUNKING: u32 = 2;
/// What can name a document.
const SCALAR: &str = "text, a number, a boolean, a date or a timestamp";
/// Rows of the dataset read at once, where nobody waits for the first of them.
pub const BATCH_ROWS: usize = 1024;

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

/// How texts become chunks.
#[derive(Debug)]
pub enum Cutting {
    /// By characters, with nothing before them: of indexes from before chunks were counted in
    /// tokens.
    Characters(Chunker),
    /// By the tokens of a model.
    Tokens(Cutter, Box<dyn Measure + Send>),
}

impl Cutting {
    /// The chunks of each text.
    fn cut(&self, sources: &[Source<'_>]) -> Result<Vec<Vec<Cut>>, Fault> {
        match self {
            Self::Characters(chunker) => {
                let of = |chunk: crate::chunk::Chunk<'_>| Cut {
                    start: chunk.start,
                    end: chunk.start + chunk.text.len(),
                    line: chunk.line,
                    context: String::new(),
                };
                Ok(sources
                    .iter()
                    .map(|source| chunker.cut(source.id, source.text).into_iter().map(of).collect())
                    .collect())
            }
            Self::Tokens(cutter, measure) => cutter.cut(sources, measure.as_ref()),
        }
    }

    /// The same by guessed tokens, which takes no model and little time; none of one that counts
    /// no tokens.
    #[must_use]
    pub fn guessing(&self) -> Option<Self> {
        match self {
            Self::Characters(_) => None,
            Self::Tokens(cutter, _) => {
                Some(Self::Tokens(Cutter::new(cutter.limits()), Box::new(NoMeasure)))
            }
        }
    }

    /// Whether the tokens of what was cut could only be guessed.
    #[must_use]
    pub fn is_guessed(&self) -> bool {
        matches!(self, Self::Tokens(cutter, _) if cutter.is_guessed())
    }
}

/// What a refresh is to do, before anything is embedded.
#[derive(Debug, Default)]
pub struct Plan {
    /// Rows of the old generation that die.
    pub dead: Vec<u32>,
    /// Chunks that are to be added.
    pub fresh: RowStore,
    /// Where their vectors come from.
    pub origins: Vec<Origin>,
    /// Vectors that came with the dataset, of length 1.
    pub given: Vec<f32>,
    /// How many numbers each of them has.
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
    /// How many documents have no text.
    pub empty_docs: u64,
    /// Documents whose vector cannot be used.
    pub skipped_docs: u64,
    /// The first of them.
    pub skipped: Vec<SkippedRow>,
    /// Whether its chunks were cut by tokens.
    pub by_tokens: bool,
    /// Whether those could only be guessed.
    pub is_guessed: bool,
}

/// A document of the dataset that is new, or that changed.
struct Document<'a> {
    id: String,
    text: String,
    vector: Option<&'a [f32]>,
    hash: [u8; 32],
    /// Its row of the batch.
    row: u32,
}

/// What is known of a document: its hash and its rows.
type KnownDocuments = HashMap<String, ([u8; 32], Vec<u32>)>;

fn known(old: Option<&Generation>) -> io::Result<KnownDocuments> {
    let mut known = KnownDocuments::new();
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

/// How far a dataset is read.
#[derive(Debug)]
pub struct PlanSoFar<'a> {
    /// What is to be done of what was read.
    pub plan: &'a Plan,
    /// Documents that were read.
    pub documents: u64,
    columns: &'a FilterColumns,
    old: Option<&'a Generation>,
}

impl PlanSoFar<'_> {
    /// The filter columns of the chunks to add, by the types of what was read.
    ///
    /// # Errors
    /// If a column has values that its type does not hold.
    pub fn columns(&self) -> Result<RecordBatch, Fault> {
        self.columns.joined(self.old, self.plan.fresh.len())
    }
}

/// Reads the dataset, so many rows at once, and compares it with the old generation. `hear` hears
/// after each of them how far it is, and says whether the rest is wanted: none if it is not.
/// Blocks.
///
/// # Errors
/// If a column is missing or of a type that cannot be used, or an object cannot be read; as `hear`
/// gives them.
pub fn plan(
    dataset: &Dataset,
    parameters: &CreateIn,
    cutting: &Cutting,
    old: Option<&Generation>,
    rows_at_once: usize,
    hear: &mut dyn FnMut(&PlanSoFar<'_>) -> Result<bool, Fault>,
) -> Result<Option<Plan>, Fault> {
    let known = known(old).map_err(|e| io_fault("reading the index", &e))?;
    let mut plan = Plan { pre_existing_docs: known.len() as u64, ..Plan::default() };
    let mut seen: HashSet<String> = HashSet::new();
    let texts = text_columns(parameters);
    let wanted = wanted_columns(parameters);
    let mut columns = FilterColumns::new(parameters.filter_columns.clone().unwrap_or_default());
    for object in &dataset.objects {
        let path = object.local();
        let unreadable = |e: &dyn std::error::Error| {
            let message = format!("{}: {}", path.display(), chain(e));
            Fault::of(&error::Damaged { name: dataset.name.clone() }, false, message)
        };
        let builder = open(&path).map_err(|e| unreadable(&e))?;
        check_columns(builder.schema(), &dataset.name, parameters)?;
        columns.meet(builder.schema());
        let roots: Vec<usize> =
            wanted.iter().filter_map(|c| builder.schema().index_of(c).ok()).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        for batch in builder
            .with_projection(mask)
            .with_batch_size(rows_at_once)
            .build()
            .map_err(|e| unreadable(&e))?
        {
            let batch = plain(&batch.map_err(|e| unreadable(&e))?).map_err(|e| unreadable(&e))?;
            let filters = columns.names();
            let taken =
                plan.batch(&batch, parameters, &texts, filters, cutting, &known, old, &mut seen)?;
            columns.add(&batch, taken)?;
            let documents = seen.len() as u64;
            if !hear(&PlanSoFar { plan: &plan, documents, columns: &columns, old })? {
                return Ok(None);
            }
        }
    }
    plan.dataset_docs = seen.len() as u64;
    (plan.by_tokens, plan.is_guessed) =
        (matches!(cutting, Cutting::Tokens(_, _)), cutting.is_guessed());
    for (_, (_, rows)) in known.iter().filter(|(id, _)| !seen.contains(id.as_str())) {
        plan.removed_docs += 1;
        plan.dead.extend(rows);
    }
    plan.dead.sort_unstable();
    plan.columns = Some(columns.joined(old, plan.fresh.len())?);
    Ok(Some(plan))
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, ParquetError> {
    ParquetRecordBatchReaderBuilder::try_new(
        File::open(path).map_err(|e| ParquetError::External(Box::new(e)))?,
    )
}

impl Plan {
    #[expect(clippy::too_many_arguments, reason = "one caller, which holds them all")]
    fn batch(
        &mut self,
        batch: &RecordBatch,
        parameters: &CreateIn,
        texts: &[String],
        filters: &[String],
        cutting: &Cutting,
        known: &KnownDocuments,
        old: Option<&Generation>,
        seen: &mut HashSet<String>,
    ) -> Result<Vec<u32>, Fault> {
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .ok_or_else(|| Fault::internal(format!("column `{name}` was lost")))
        };
        let ids = column(&parameters.id_column)?;
        let text_arrays: Vec<&ArrayRef> =
            texts.iter().map(|c| column(c)).collect::<Result<_, _>>()?;
        let filter_arrays: Vec<&ArrayRef> =
            filters.iter().map(|c| column(c)).collect::<Result<_, _>>()?;
        let vectors = parameters
            .vector_column
            .as_deref()
            .map(|name| column(name).and_then(|array| given(name, array)))
            .transpose()?;
        let mut changed: Vec<Document<'_>> = Vec::new();
        for row in 0..batch.num_rows() {
            let id = id_of(ids, &parameters.id_column, row)?;
            if !seen.insert(id.clone()) {
                let message = format!(
                    "`{id}` occurs twice in column `{}`, which so does not identify documents",
                    parameters.id_column
                );
                return Err(Fault::invalid_parameter("id_column", message));
            }
            let text = text_of(&text_arrays, texts, parameters.template.as_deref(), row)?;
            let vector = vectors.as_ref().map(|v| v[row].as_slice());
            let mut hashed = text.clone().into_bytes();
            hashed.extend(vector.unwrap_or_default().iter().flat_map(|x| x.to_le_bytes()));
            for array in &filter_arrays {
                hashed.extend(format!("\u{1f}{:?}", filter::value(array, row)).into_bytes());
            }
            let hash = sha256(&hashed);
            if known.get(&id).is_none_or(|(old_hash, _)| *old_hash != hash) {
                changed.push(Document { id, text, vector, hash, row: row as u32 });
            }
        }
        let to_cut = changed.iter().filter(|document| document.vector.is_none());
        let sources: Vec<Source<'_>> =
            to_cut.map(|document| Source { id: &document.id, text: &document.text }).collect();
        let mut cuts = cutting.cut(&sources)?.into_iter();
        let mut taken = Vec::new();
        for document in &changed {
            let before = self.fresh.len();
            let cuts = if document.vector.is_none() {
                cuts.next().unwrap_or_default()
            } else {
                Vec::new()
            };
            self.document(document, &cuts, known.get(&document.id), old)?;
            taken.extend(std::iter::repeat_n(document.row, self.fresh.len() - before));
        }
        Ok(taken)
    }

    fn document(
        &mut self,
        document: &Document<'_>,
        cuts: &[Cut],
        known: Option<&([u8; 32], Vec<u32>)>,
        old: Option<&Generation>,
    ) -> Result<(), Fault> {
        let Document { id, text, hash, .. } = document;
        let mut at_hand: HashMap<(&str, &str), u32> = HashMap::new();
        if let (Some((_, rows)), Some(old)) = (known, old) {
            self.dead.extend(rows);
            for number in rows {
                let row = old.row(*number).map_err(|e| io_fault("reading the index", &e))?;
                at_hand.insert((row.context, row.text), *number);
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
                Some("its vector has a number that is not finite".to_owned())
            } else if norm < f32::MIN_POSITIVE {
                Some("its vector is zero: it has no direction".to_owned())
            } else {
                None
            };
            match wrong {
                Some(reason) => {
                    self.skipped_docs += 1;
                    if self.skipped.len() < SKIPPED_NAMED {
                        self.skipped.push(SkippedRow { doc_id: id.clone(), reason });
                    }
                }
                None => {
                    self.given_dim = dim;
                    self.origins.push(Origin::Given(self.given.len() / dim));
                    self.given.extend(vector.iter().map(|x| x / norm));
                    self.fresh.push(&Row {
                        doc_id: id,
                        content_hash: hash,
                        chunk: 0,
                        start: 0,
                        line: 1,
                        context: "",
                        text,
                    });
                }
            }
        } else {
            for (cut, number) in cuts.iter().zip(0..) {
                let (context, chunk) = (cut.context.as_str(), &text[cut.start..cut.end]);
                self.origins.push(
                    at_hand.get(&(context, chunk)).map_or(Origin::Embed, |row| Origin::Old(*row)),
                );
                self.fresh.push(&Row {
                    doc_id: id,
                    content_hash: hash,
                    chunk: number,
                    start: cut.start as u64,
                    line: cut.line as u64,
                    context,
                    text: chunk,
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
        return Err(Fault::invalid_parameter(
            "id_column",
            format!("column `{name}` has a NULL, so it does not identify every document"),
        ));
    }
    match filter::value(ids, row) {
        Value::Text(id) => Ok(id),
        Value::Bool(id) => Ok(id.to_string()),
        Value::Decimal(id) => Ok(id),
        // Whole numbers as they are, dates and times by ISO 8601.
        Value::Int(_) | Value::Float(_) => {
            let printed = match ids.data_type() {
                // A zone's name cannot be printed; the instant is the same in UTC.
                DataType::Timestamp(unit, Some(zone)) if !zone.starts_with(['+', '-']) => {
                    cast(&ids.slice(row, 1), &DataType::Timestamp(*unit, Some("+00:00".into())))
                        .and_then(|one| array_value_to_string(&one, 0))
                }
                _ => array_value_to_string(ids, row),
            };
            printed.map_err(|e| Fault::internal(chain(&e)))
        }
        Value::Null | Value::List(_) => {
            let message = format!("column `{name}` is {}, expected {SCALAR}", ids.data_type());
            Err(Fault::invalid_parameter("id_column", message))
        }
    }
}

/// One text out of several columns; `{column}` in a template stands for its value. NULL is the
/// empty text.
fn text_of(
    arrays: &[&ArrayRef],
    names: &[String],
    template: Option<&str>,
    row: usize,
) -> Result<String, Fault> {
    let values = arrays.iter().zip(names).map(|(array, name)| {
        let texts = array.as_string_opt::<i32>().ok_or_else(|| {
            Fault::invalid_parameter(
                "text_column",
                format!("column `{name}` is {}, expected Utf8", array.data_type()),
            )
        })?;
        Ok(if texts.is_null(row) { "" } else { texts.value(row) })
    });
    let values: Vec<&str> = values.collect::<Result<_, Fault>>()?;
    let Some(template) = template else { return Ok(values.join("\n")) };
    // From the left, so that a value that looks like a placeholder stays what it is.
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let named = names.iter().zip(&values).find_map(|(n, v)| {
            after.strip_prefix(n.as_str())?.strip_prefix('}').map(|left| (v, left))
        });
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
            format!(
                "column `{name}` is {}, expected a list of Float32 or Float64",
                array.data_type()
            ),
        )
    };
    (0..array.len()).map(|i| row(i).ok_or_else(wrong)).collect()
}

/// A disk's refusal, as a fault.
#[must_use]
pub fn io_fault(doing: &str, error: &io::Error) -> Fault {
    Fault::internal(format!("{doing}: {}", chain(error)))
}

/// The same where a file of an index may turn out to be missing or damaged: then it is `Damaged`,
/// and says what to do.
#[must_use]
pub fn folder_fault(index: &str, doing: &str, error: &io::Error) -> Fault {
    if Damage::of(error).is_none() {
        return io_fault(doing, error);
    }
    let why = chain(error);
    let message = format!(
        "index `{index}`: {doing}: {why}; nothing was changed. `brahman index doctor {index} --repair` repairs it"
    );
    Fault::of(&error::Damaged { name: index.to_owned() }, false, message)
}

#[cfg(test)]
mod tests;
