//! What answers of an index whose first refresh is under way: by words what was read, by meaning
//! what is embedded so far.
//!
//! Each is a generation like any other, that is in memory alone and has no number. Invariants:
//! nothing of it is ever written, or taken for what was committed; it grows in steps that double,
//! so that all of them together cost no more than a copy of the last.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{RecordBatch, UInt32Array};
use flat_hnsw::store::Store;

use crate::files::bad;
use crate::generation::{Delta, Generation, Manifest};
use crate::rows::RowStore;
use crate::segment;

/// Vectors and texts of the largest part that is shown: beyond that the copy would be felt, and the
/// first results are there long since.
const PART_BYTES_MAX: u64 = 512 << 20;
/// What is embedded after so long is shown, even if it is little.
const GROWS_AFTER: Duration = Duration::from_secs(10);
/// Of the time, one part in so many may be spent on showing.
const SHARE: u32 = 20;

/// What a refresh has so far.
#[derive(Clone, Debug, Default)]
pub struct PartialIndex {
    /// All that was read, without vectors.
    pub words: Option<Arc<Generation>>,
    /// What is embedded so far.
    pub near: Option<Arc<Generation>>,
    /// Chunks that are embedded.
    pub done: u64,
    /// Chunks that will be.
    pub of: u64,
}

impl PartialIndex {
    /// How far the refresh is, in words.
    #[must_use]
    pub fn progress(&self) -> String {
        match self.of {
            0 => "its first refresh is under way, and reads its dataset".to_owned(),
            of => {
                format!("its first refresh is under way, {} of {of} chunks are embedded", self.done)
            }
        }
    }
}

/// Everything that was read, to be found by its words.
///
/// # Errors
/// If there is not enough memory.
pub fn by_words(
    manifest: Manifest,
    rows: &RowStore,
    columns: Option<&RecordBatch>,
) -> io::Result<Option<Generation>> {
    let Some(rows) = rows.shared() else { return Ok(None) };
    let columns =
        columns.map_or_else(|| segment::no_columns(rows.len()), |columns| Ok(columns.clone()))?;
    let store = Store::new(&[], 1, &[])?;
    Generation::new(manifest, String::new(), None, Delta { store, rows, columns }, &[]).map(Some)
}

/// What is embedded so far, to be found by meaning and words: the rows of these numbers, in their
/// order, and their vectors.
///
/// # Errors
/// If a row is damaged, or there is not enough memory.
pub fn by_meaning(
    manifest: Manifest,
    rows: &RowStore,
    columns: Option<&RecordBatch>,
    numbers: Vec<u32>,
    vectors: &[f32],
) -> io::Result<Generation> {
    let mut part = RowStore::default();
    for number in &numbers {
        part.push(&rows.row(*number as usize)?);
    }
    let order: Vec<u32> = (0..numbers.len() as u32).collect();
    let store = Store::new(vectors, manifest.model.dim, &order)?;
    let columns = match columns {
        Some(columns) if columns.num_columns() > 0 => {
            arrow_select::take::take_record_batch(columns, &UInt32Array::from(numbers))
                .map_err(bad)?
        }
        _ => segment::no_columns(part.len())?,
    };
    Generation::new(manifest, String::new(), None, Delta { store, rows: part, columns }, &[])
}

/// When what is embedded is shown next.
#[derive(Debug)]
pub struct Growth {
    shown: usize,
    at: Instant,
    cost: Duration,
}

impl Default for Growth {
    fn default() -> Self {
        Self { shown: 0, at: Instant::now(), cost: Duration::ZERO }
    }
}

impl Growth {
    /// Whether so many rows, of so many bytes, are worth showing now.
    #[must_use]
    pub fn is_due(&self, rows: usize, bytes: u64) -> bool {
        let waited = self.at.elapsed();
        let is_more = rows >= self.shown.saturating_mul(2).max(1)
            || (rows > self.shown && waited >= GROWS_AFTER);
        is_more && bytes <= PART_BYTES_MAX && waited >= self.cost * SHARE
    }

    /// So many rows were shown, which took so long.
    pub fn showed(&mut self, rows: usize, cost: Duration) {
        *self = Self { shown: rows, at: Instant::now(), cost };
    }
}

#[cfg(test)]
mod tests {
    use flat_hnsw::build::Parameters;

    use super::*;
    use crate::embedder::Model;
    use crate::generation::SearchOptions;
    use crate::rows::Row;

    fn manifest() -> Manifest {
        let model = Model { name: "m".into(), fingerprint: "f".into(), dim: 2, mock: true };
        let parameters = Parameters { m: 16, ef_construction: 100, seed: 0 };
        Manifest { number: 0, ..Manifest::first(model, "flat-hnsw".into(), parameters, 64) }
    }

    fn rows() -> RowStore {
        let mut rows = RowStore::default();
        for (id, text) in [("a", "ships sail"), ("b", "trains run"), ("c", "ships sink")] {
            rows.push(&Row {
                doc_id: id,
                content_hash: &[0; 32],
                chunk: 0,
                start: 0,
                line: 1,
                context: "",
                text,
            });
        }
        rows
    }

    #[test]
    fn what_was_read_is_found_by_words_and_what_is_embedded_by_meaning() {
        let rows = rows();
        let words = by_words(manifest(), &rows, None).expect("made").expect("in memory");
        let found = words.words("ships", 10, &words.allowed(None)).expect("found").rows;
        assert_eq!(found.len(), 2);
        assert_eq!(words.row(found[0].row).expect("a row").text.split(' ').next(), Some("ships"));
        // The second and the third are embedded.
        let near =
            by_meaning(manifest(), &rows, None, vec![1, 2], &[1.0, 0.0, 0.0, 1.0]).expect("made");
        let how = SearchOptions { k: 1, ..SearchOptions::default() };
        let found = near.search(&[0.0, 1.0], &how, &near.allowed(None));
        assert_eq!(near.row(found[0].row).expect("a row").doc_id, "c");
        assert_eq!(near.words("ships", 10, &near.allowed(None)).expect("found").rows.len(), 1);
    }

    #[test]
    fn it_grows_by_doubling_and_not_beyond_its_bound() {
        let mut growth = Growth::default();
        assert!(
            !growth.is_due(0, 0) && growth.is_due(1, 0) && !growth.is_due(1, PART_BYTES_MAX + 1)
        );
        growth.showed(100, Duration::ZERO);
        assert!(!growth.is_due(199, 0) && growth.is_due(200, 0));
        growth.showed(200, Duration::from_secs(60));
        assert!(!growth.is_due(400, 0), "what takes long is done seldom");
    }
}
