//! What answers of an index whose first refresh is under way: by words what is read, by meaning
//! what is embedded so far.
//!
//! Each is a generation like any other, that is in memory alone and has no number. Invariants:
//! nothing of it is ever written, or taken for what was committed; it grows in steps, each of them
//! a multiple of the one before, so that all of them together cost little more than the last. What
//! was read ahead gives way to what was cut by the model's tokens, and never the other way.

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

/// Documents whose words are shown first: they are read, cut and made to words within a tenth of a
/// second.
const FIRST_DOCUMENTS: u64 = 256;
/// Documents of a step of words over those of the one before: each makes all its words anew, and
/// all steps together so cost a third more than the last.
const STEP: u64 = 4;

/// What a refresh has so far.
#[derive(Clone, Debug, Default)]
pub struct PartialIndex {
    /// What was read, without vectors.
    pub words: Option<Arc<Generation>>,
    /// Documents whose words those are, as long as not all are cut.
    pub read: u64,
    /// Documents of the dataset.
    pub documents: u64,
    /// Whether all documents are cut to the chunks that the index will have.
    pub is_cut: bool,
    /// Whether somebody searched by words since they were shown.
    pub is_asked: bool,
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
        let Self { done, of, read, documents, .. } = self;
        if self.is_cut {
            format!("its first refresh is under way, {done} of {of} chunks are embedded")
        } else if self.words.is_some() {
            format!("its first refresh is under way, {read} of {documents} documents are read")
        } else {
            "its first refresh is under way, and reads its dataset".to_owned()
        }
    }

    /// What can be searched meanwhile, in words.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match (&self.near, &self.words) {
            (Some(_), _) => "what there is so far can be searched",
            (None, Some(_)) => {
                "nothing is embedded yet, what is read can be searched by words (mode `lexical`)"
            }
            (None, None) => "what there is can be searched in a moment",
        }
    }

    /// Shows the words of so many documents that were read ahead, unless all are cut by now.
    pub fn show_read(&mut self, words: Arc<Generation>, read: u64) {
        if !self.is_cut {
            (self.words, self.read, self.is_asked) = (Some(words), read, false);
        }
    }

    /// All documents are cut, to so many chunks; from here on nothing that was read ahead is shown.
    /// Their words are shown at once, but where somebody searches those that were read ahead, which
    /// stay until the new ones are made: gives them back then.
    pub fn show_cut(&mut self, words: Option<Arc<Generation>>, of: u64) -> Option<Arc<Generation>> {
        (self.is_cut, self.of) = (true, of);
        if self.is_asked && self.words.is_some() && words.is_some() {
            return words;
        }
        self.words = words;
        None
    }
}

/// What was read, to be found by its words.
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

/// When what is read is shown next.
#[derive(Clone, Copy, Debug, Default)]
pub struct WordsGrowth {
    shown: u64,
}

impl WordsGrowth {
    /// Whether so many documents are worth showing now.
    #[must_use]
    pub fn is_due(self, documents: u64) -> bool {
        documents >= self.shown.saturating_mul(STEP).max(FIRST_DOCUMENTS)
    }

    /// Whether there are more than were shown.
    #[must_use]
    pub fn is_behind(self, documents: u64) -> bool {
        documents > self.shown
    }

    /// So many documents were shown.
    pub fn showed(&mut self, documents: u64) {
        self.shown = documents;
    }
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
    fn words_that_were_read_ahead_give_way_to_those_that_were_cut_and_never_come_back() {
        let words = || Arc::new(by_words(manifest(), &rows(), None).expect("made").expect("some"));
        let mut partial = PartialIndex { documents: 9, ..PartialIndex::default() };
        assert!(partial.progress().contains("reads its dataset"));
        let (ahead, cut) = (words(), words());
        partial.show_read(Arc::clone(&ahead), 3);
        assert!(partial.progress().contains("3 of 9 documents are read"), "{}", partial.progress());
        assert!(partial.remedy().contains("lexical"));
        // Nobody has searched: what is new is shown as it is.
        let mut quiet = partial.clone();
        assert!(quiet.show_cut(Some(Arc::clone(&cut)), 7).is_none());
        assert!(quiet.words.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, &cut)));
        quiet.show_read(Arc::clone(&ahead), 9);
        assert!(quiet.words.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, &cut)));
        assert!(quiet.progress().contains("0 of 7 chunks are embedded"), "{}", quiet.progress());
        // Somebody does: what he searches stays until the new words are made.
        partial.is_asked = true;
        let waits = partial.show_cut(Some(Arc::clone(&cut)), 7).expect("to be made first");
        assert!(Arc::ptr_eq(&waits, &cut) && partial.is_cut);
        assert!(partial.words.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, &ahead)));
    }

    #[test]
    fn words_are_shown_soon_and_then_by_steps() {
        let mut growth = WordsGrowth::default();
        assert!(!growth.is_due(FIRST_DOCUMENTS - 1) && growth.is_due(FIRST_DOCUMENTS));
        // Fewer in all are shown at the end.
        assert!(growth.is_behind(1) && !growth.is_behind(0));
        let (mut shown, mut cost) = (0, 0);
        for documents in (0..=100_000).step_by(128) {
            if growth.is_due(documents) {
                growth.showed(documents);
                (shown, cost) = (shown + 1, cost + documents);
            }
        }
        assert!(shown == 5 && cost < 100_000 * 4 / 3, "{shown} steps of {cost} documents");
        assert!(growth.is_behind(100_000) && !growth.is_due(100_000));
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
