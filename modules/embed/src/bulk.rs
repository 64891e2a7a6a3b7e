//! `EmbedBulk`: Arrow batches of texts in, Arrow batches of vectors out.

use std::io;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, RecordBatch, StringArray, UInt32Array,
};
use arrow_schema::{DataType, Field};
use brahman_card::Fault;
use brahman_sidecar::bulk::BulkStream;
use brahman_sidecar::chain;
use brahman_sidecar::serve::UpgradedStream;

use crate::engine::{Embedding, Engine, TextOutcome, Treatment};
use crate::real::head::cut;

/// What a stream wants of every frame.
#[derive(Clone, Debug)]
pub(crate) struct BulkTerms {
    pub(crate) treatment: Treatment,
    /// Numbers to which vectors are cut.
    pub(crate) cut: Option<usize>,
    /// Whether a text without a vector loses its frame.
    pub(crate) partial: bool,
}

pub(crate) async fn converse<E: Engine>(
    upgraded: UpgradedStream,
    uid: u32,
    engine: Arc<E>,
    terms: BulkTerms,
) -> io::Result<()> {
    let work = |batch: RecordBatch| {
        let engine = Arc::clone(&engine);
        let terms = terms.clone();
        async move {
            let texts = texts_of(&batch)?;
            let mut done = Arc::clone(&engine).texts(texts, terms.treatment).await?;
            if !terms.partial
                && let Some(fault) = done.iter().find_map(|one| one.as_ref().err())
            {
                return Err(fault.clone());
            }
            let identity = engine.identity();
            if let Some(dim) = terms.cut {
                for one in done.iter_mut().flatten() {
                    one.vector = cut(&one.vector, dim, identity.normalized).into();
                }
            }
            encode(&done, terms.cut.unwrap_or(identity.dim), terms.partial)
                .map_err(|e| Fault::internal(chain(&e)))
        }
    };
    BulkStream::of(upgraded, uid).answer(work).await
}

fn texts_of(batch: &RecordBatch) -> Result<Vec<String>, Fault> {
    let expected =
        || Fault::invalid_parameter("text", "expected a column `text` of type Utf8 without nulls");
    let column = batch.column_by_name("text").ok_or_else(expected)?;
    if column.null_count() > 0 {
        return Err(expected());
    }
    match column.data_type() {
        DataType::Utf8 => {
            Ok(column.as_string::<i32>().iter().flatten().map(str::to_owned).collect())
        }
        DataType::LargeUtf8 => {
            Ok(column.as_string::<i64>().iter().flatten().map(str::to_owned).collect())
        }
        _ => Err(expected()),
    }
}

fn encode(
    done: &[TextOutcome],
    dim: usize,
    partial: bool,
) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let mut flat = Vec::with_capacity(done.len() * dim);
    for one in done {
        match one {
            Ok(one) => flat.extend_from_slice(&one.vector),
            Err(_) => flat.resize(flat.len() + dim, 0.0),
        }
    }
    let counts = |count: fn(&Embedding) -> u32| {
        done.iter().map(|one| one.as_ref().map_or(0, count)).collect::<UInt32Array>()
    };
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let vectors = FixedSizeListArray::try_new(
        item,
        i32::try_from(dim).unwrap_or(i32::MAX),
        Arc::new(Float32Array::from(flat)),
        None,
    )?;
    let cached = done
        .iter()
        .map(|one| Some(one.as_ref().is_ok_and(|one| one.cached)))
        .collect::<BooleanArray>();
    let mut columns = vec![
        ("vector", Arc::new(vectors) as ArrayRef),
        ("tokens", Arc::new(counts(|one| one.tokens)) as ArrayRef),
        ("kept", Arc::new(counts(|one| one.kept)) as ArrayRef),
        ("cached", Arc::new(cached) as ArrayRef),
    ];
    if partial {
        let failed = done
            .iter()
            .map(|one| one.as_ref().err().map(|fault| fault.message().to_owned()))
            .collect::<StringArray>();
        columns.push(("failed", Arc::new(failed) as ArrayRef));
    }
    RecordBatch::try_from_iter(columns)
}
