//! `EmbedBulk`: Arrow batches of texts in, Arrow batches of vectors out.

use std::io;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, RecordBatch, UInt32Array};
use arrow_schema::{DataType, Field};
use brahman_card::Fault;
use brahman_sidecar::bulk::BulkStream;
use brahman_sidecar::serve::UpgradedStream;
use brahman_sidecar::{Deadline, chain};

use crate::engine::{Embedding, Engine, Treatment};

pub(crate) async fn converse<E: Engine>(upgraded: UpgradedStream, uid: u32, engine: Arc<E>, truncate: bool) -> io::Result<()> {
    let work = |batch: RecordBatch| {
        let engine = Arc::clone(&engine);
        async move {
            let texts = texts_of(&batch)?;
            let done = Arc::clone(&engine).texts(texts, Treatment { truncate, deadline: Deadline::NEVER }).await?;
            encode(&done, engine.identity().dim).map_err(|e| Fault::internal(chain(&e)))
        }
    };
    BulkStream::of(upgraded, uid).answer(work).await
}

fn texts_of(batch: &RecordBatch) -> Result<Vec<String>, Fault> {
    let expected = || Fault::invalid_parameter("text", "expected a column `text` of type Utf8 without nulls");
    let column = batch.column_by_name("text").ok_or_else(expected)?;
    if column.null_count() > 0 {
        return Err(expected());
    }
    match column.data_type() {
        DataType::Utf8 => Ok(column.as_string::<i32>().iter().flatten().map(str::to_owned).collect()),
        DataType::LargeUtf8 => Ok(column.as_string::<i64>().iter().flatten().map(str::to_owned).collect()),
        _ => Err(expected()),
    }
}

fn encode(done: &[Embedding], dim: usize) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let mut flat = Vec::with_capacity(done.len() * dim);
    for one in done {
        flat.extend_from_slice(&one.vector);
    }
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let vectors = FixedSizeListArray::try_new(item, i32::try_from(dim).unwrap_or(i32::MAX), Arc::new(Float32Array::from(flat)), None)?;
    RecordBatch::try_from_iter([
        ("vector", Arc::new(vectors) as ArrayRef),
        ("tokens", Arc::new(done.iter().map(|e| e.tokens).collect::<UInt32Array>()) as ArrayRef),
        ("kept", Arc::new(done.iter().map(|e| e.kept).collect::<UInt32Array>()) as ArrayRef),
        ("cached", Arc::new(done.iter().map(|e| Some(e.cached)).collect::<BooleanArray>()) as ArrayRef),
    ])
}
