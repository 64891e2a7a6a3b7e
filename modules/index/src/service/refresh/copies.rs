//! Rows alive of a generation with their vectors and columns, copied.

use std::collections::HashSet;

use arrow_array::{RecordBatch, UInt32Array};

use crate::files::bad;
use crate::folder::Content;
use crate::generation::Generation;
use crate::rows::RowStore;
use crate::segment;

/// Vectors of fewer bytes stay in memory after they were copied.
const RELEASED_BYTES_MIN: u64 = 256 << 20;

/// All rows alive, copied.
///
/// # Errors
/// If something is damaged.
pub(in crate::service) fn content(generation: &Generation) -> std::io::Result<Content> {
    content_without(generation, &HashSet::new())
}

/// Rows alive that are not among `gone`, copied.
pub(super) fn content_without(
    generation: &Generation,
    gone: &HashSet<u32>,
) -> std::io::Result<Content> {
    let mut content = Content {
        rows: RowStore::default(),
        vectors: Vec::new(),
        columns: segment::no_columns(0)?,
    };
    if let Some(base) = &generation.base {
        base.whole()?;
    }
    let numbers: Vec<u32> =
        generation.live_rows().filter(|number| !gone.contains(number)).collect();
    content.vectors.reserve_exact(numbers.len() * generation.manifest.model.dim);
    for number in &numbers {
        content.rows.push(&generation.row(*number)?);
        content.vectors.extend_from_slice(generation.vector(*number));
    }
    if let Some(base) =
        generation.base.as_ref().filter(|base| base.flat.store.vector_bytes() >= RELEASED_BYTES_MIN)
    {
        // There are two copies now; what searches need of the one in the file they read again.
        base.flat.store.release();
    }
    let mut batches: Vec<RecordBatch> = Vec::new();
    let base = generation.base_rows() as u32;
    let split = numbers.partition_point(|n| *n < base);
    let take = |columns: &RecordBatch, rows: Vec<u32>| {
        arrow_select::take::take_record_batch(columns, &UInt32Array::from(rows))
    };
    if let Some(own) = &generation.base {
        let columns = own.columns()?;
        if columns.num_columns() > 0 {
            batches.push(take(columns, numbers[..split].to_vec()).map_err(bad)?);
        }
    }
    if generation.delta.columns.num_columns() > 0 {
        let rows = numbers[split..].iter().map(|n| n - base).collect();
        batches.push(take(&generation.delta.columns, rows).map_err(bad)?);
    }
    content.columns = segment::joined(&batches, numbers.len())?;
    Ok(content)
}
