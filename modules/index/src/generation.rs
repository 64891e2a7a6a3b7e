//! A generation in memory: an immutable base with its graph, a small delta, and which rows are
//! dead.
//!
//! Rows are numbered through base and delta. The delta is compared one by one, or walked once a
//! graph over it was made behind, so that an append costs what it adds; compaction (a new base)
//! folds it in. Readers share a generation by `Arc` and never see another half-way.

mod base;
mod manifest;
mod search;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, OnceLock};

use arrow_array::{Array, RecordBatch};
use brahman_sidecar::chain;
use flat_hnsw::store::{LiveRows, Store};

use crate::analyser::Analyser;
use crate::appended::AppendedGraph;
use crate::files::bad;
use crate::filter::sorted::IdMap;
use crate::lexical::{Lexical, analyser_for};
use crate::row_sum::RowSum;
use crate::rows::{Row, RowStore};
use crate::segment;
use crate::threads::on_own_thread;
pub use base::{Base, BaseUsage};
pub use manifest::{BaseRef, EF_DEFAULT, Manifest, RECALL_DEFAULT, SegmentRef};
pub use search::{SearchOptions, Selection, WordsFound};

/// What is made when first needed and kept; a failure is not, so that one for want of memory or
/// files passes.
fn kept<T>(place: &OnceLock<T>, make: impl FnOnce() -> io::Result<T>) -> io::Result<&T> {
    if let Some(there) = place.get() {
        return Ok(there);
    }
    let made = make()?;
    Ok(place.get_or_init(|| made))
}

/// What was appended since.
#[derive(Debug)]
pub struct Delta {
    /// Vectors that were appended to the base.
    pub store: Store,
    /// Documents and texts of those vectors.
    pub rows: RowStore,
    /// The columns that searches filter by.
    pub columns: RecordBatch,
}

/// A whole generation, open for searches.
#[derive(Debug)]
pub struct Generation {
    /// What it is made of, and by whom.
    pub manifest: Manifest,
    /// Name of its folder, `gen-<ulid>`.
    pub folder: String,
    /// The large part, with a graph.
    pub base: Option<Arc<Base>>,
    /// The small part.
    pub delta: Delta,
    /// Rows alive in the base, if not all.
    pub live_base: Option<LiveRows>,
    /// Rows alive in the delta, if not all.
    pub live_delta: Option<LiveRows>,
    lexical_delta: OnceLock<Lexical>,
    /// Of the base's rows that are dead: their words do not count.
    lexical_gone: OnceLock<Lexical>,
    /// The base's filter columns, if those of the delta have other types.
    base_columns: OnceLock<RecordBatch>,
    /// Which rows of the delta each document has.
    delta_ids: OnceLock<IdMap>,
    /// Over the first rows of the delta; that of the generation before, if this one only adds to
    /// it.
    appended: Arc<AppendedGraph>,
    /// Of one whose manifest does not say it.
    rows_sum: OnceLock<RowSum>,
}

impl Generation {
    /// Puts a generation together; `dead` are numbers of rows.
    ///
    /// # Errors
    /// If a tombstone names a row that does not exist.
    pub fn new(
        manifest: Manifest,
        folder: String,
        base: Option<Arc<Base>>,
        delta: Delta,
        dead: &[u32],
    ) -> io::Result<Self> {
        let rows = base.as_ref().map_or(0, |b| b.rows.len());
        if dead.iter().any(|row| *row as usize >= rows + delta.rows.len()) {
            return Err(bad("a tombstone names a row that does not exist"));
        }
        let dead: HashSet<u32> = dead.iter().copied().collect();
        let live = |from: usize, count: usize| {
            let any = dead.iter().any(|row| (from..from + count).contains(&(*row as usize)));
            any.then(|| LiveRows::of(count, |row| !dead.contains(&((from + row) as u32))))
        };
        let (live_base, live_delta) = (live(0, rows), live(rows, delta.rows.len()));
        let (lexical_delta, lexical_gone) = (OnceLock::new(), OnceLock::new());
        let (base_columns, delta_ids, rows_sum) =
            (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let appended = Arc::default();
        Ok(Self {
            manifest,
            folder,
            base,
            delta,
            live_base,
            live_delta,
            lexical_delta,
            lexical_gone,
            base_columns,
            delta_ids,
            rows_sum,
            appended,
        })
    }

    /// This generation with the graph over what was appended of the one that it adds to: its first
    /// rows are the same.
    #[must_use]
    pub fn following(mut self, old: &Self) -> Self {
        self.appended = Arc::clone(&old.appended);
        self
    }

    /// Links what was appended, on a thread of its own, where that pays. Searches compare it one by
    /// one until then.
    pub fn link_appended(self: &Arc<Self>) {
        if self.manifest.engine == "exact" || !self.appended.is_due(self.delta.rows.len()) {
            return;
        }
        let own = Arc::clone(self);
        let link = move || {
            let linked = own.appended.link(&own.delta.store, own.manifest.parameters, 1);
            if let Err(error) = linked {
                tracing::warn!(
                    "{}: what was appended is not linked: {}",
                    own.folder,
                    chain(&error)
                );
            }
        };
        drop(on_own_thread("linking what was appended", true, link));
    }

    /// How many of the appended rows a search walks through instead of comparing them.
    #[must_use]
    pub fn linked_rows(&self) -> usize {
        self.appended.rows()
    }

    /// Rows in the base.
    #[must_use]
    pub fn base_rows(&self) -> usize {
        self.base.as_ref().map_or(0, |b| b.rows.len())
    }

    /// Rows, dead ones too.
    #[must_use]
    pub fn len(&self) -> usize {
        self.base_rows() + self.delta.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a row is alive.
    #[must_use]
    pub fn is_live(&self, row: u32) -> bool {
        let at = row as usize;
        match at.checked_sub(self.base_rows()) {
            None => self.live_base.as_ref().is_none_or(|live| live.has(row)),
            Some(at) => {
                at < self.delta.rows.len()
                    && self.live_delta.as_ref().is_none_or(|live| live.has(at as u32))
            }
        }
    }

    /// Rows that are dead.
    #[must_use]
    pub fn dead(&self) -> Vec<u32> {
        (0..self.len() as u32).filter(|row| !self.is_live(*row)).collect()
    }

    /// A row.
    ///
    /// # Errors
    /// If it is not there or damaged.
    pub fn row(&self, row: u32) -> io::Result<Row<'_>> {
        match (row as usize).checked_sub(self.base_rows()) {
            Some(at) => self.delta.rows.row(at),
            None => self.base.as_ref().map_or_else(
                || Err(io::ErrorKind::NotFound.into()),
                |base| base.rows.row(row as usize),
            ),
        }
    }

    /// Rows that lie anywhere.
    ///
    /// # Errors
    /// If one is not there or damaged.
    pub fn rows(&self, numbers: &[u32]) -> io::Result<Vec<Row<'_>>> {
        let read = || numbers.iter().map(|row| self.row(*row)).collect();
        match &self.base {
            Some(base) => base.rows.scattered(numbers.iter().map(|row| *row as usize), read),
            None => read(),
        }
    }

    /// The rows of a document that are alive.
    #[must_use]
    pub fn of_document(&self, id: &str) -> Vec<u32> {
        let base = self.base.iter().flat_map(|base| base.of_document(id));
        let delta =
            self.delta_ids.get_or_init(|| IdMap::of(&self.delta.rows)).rows(&self.delta.rows, id);
        let from = self.base_rows() as u32;
        base.chain(delta.map(|row| from + row)).filter(|row| self.is_live(*row)).collect()
    }

    /// Vector of a row, of whichever part.
    #[must_use]
    pub fn vector(&self, row: u32) -> &[f32] {
        match (row as usize).checked_sub(self.base_rows()) {
            Some(at) => self.delta.store.vector(at as u32),
            None => self.base.as_ref().map_or(&[], |base| base.flat.store.vector(row)),
        }
    }

    /// Numbers of the rows alive.
    pub fn live_rows(&self) -> impl Iterator<Item = u32> {
        (0..self.len() as u32).filter(|row| self.is_live(*row))
    }

    /// The sum over its rows, if it is at hand.
    #[must_use]
    pub fn known_rows_sum(&self) -> Option<RowSum> {
        self.manifest.rows_sum.or_else(|| self.rows_sum.get().copied())
    }

    /// Rows with their vectors, of whichever part.
    pub fn with_vectors<'a>(
        &'a self,
        numbers: impl Iterator<Item = u32> + 'a,
    ) -> impl Iterator<Item = io::Result<(Row<'a>, &'a [f32])>> + 'a {
        numbers.map(move |number| self.row(number).map(|row| (row, self.vector(number))))
    }

    /// The name of its data: of which rows there are, with which vectors. Where the manifest does
    /// not say, all rows are read once.
    ///
    /// # Errors
    /// If a row is damaged.
    pub fn data_name(&self) -> io::Result<String> {
        let sum = match self.known_rows_sum() {
            Some(sum) => sum,
            None => *kept(&self.rows_sum, || RowSum::of(self.with_vectors(self.live_rows())))?,
        };
        Ok(sum.name(&self.manifest.model.fingerprint))
    }

    /// Bytes in memory when everything has been touched.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.base.as_ref().map_or(0, |b| b.flat.memory_bytes()) + self.delta.store.memory_bytes()
    }

    /// What its words are made by.
    #[must_use]
    pub fn analyser(&self) -> Analyser {
        match &self.base {
            Some(base) => base.analyser(),
            None => self
                .lexical_delta
                .get()
                .map_or_else(|| self.own_analyser(), |words| words.analyser().clone()),
        }
    }

    fn own_analyser(&self) -> Analyser {
        analyser_for(self.manifest.language.as_deref(), &self.delta.rows)
    }

    /// The base's filter columns, by the types that the delta's have: those of the dataset as it
    /// was read last.
    ///
    /// # Errors
    /// If the segment is damaged.
    pub fn base_columns(&self) -> io::Result<Option<&RecordBatch>> {
        let Some(base) = &self.base else { return Ok(None) };
        let own = base.columns()?;
        let wanted = self.delta.columns.schema();
        if self.delta.rows.is_empty()
            || wanted.fields().is_empty()
            || segment::same_types(&own.schema(), &wanted)
        {
            return Ok(Some(own));
        }
        kept(&self.base_columns, || segment::conform(&wanted, own)).map(Some)
    }

    /// Columns of the base whose type is not that of the delta's any more: column, type before,
    /// type now, and values of rows alive that became NULL.
    ///
    /// # Errors
    /// If the segment is damaged.
    pub fn converted(&self) -> io::Result<Vec<(String, String, String, u64)>> {
        let Some(base) = self
            .base
            .as_ref()
            .filter(|_| !self.delta.rows.is_empty() && self.delta.columns.num_columns() > 0)
        else {
            return Ok(Vec::new());
        };
        if segment::same_types(base.column_types()?.as_ref(), &self.delta.columns.schema()) {
            return Ok(Vec::new());
        }
        let Some(now) = self.base_columns()? else { return Ok(Vec::new()) };
        let before = base.columns()?;
        let mut out = Vec::new();
        for field in now.schema().fields() {
            let (Some(old), Some(new)) =
                (before.column_by_name(field.name()), now.column_by_name(field.name()))
            else {
                continue;
            };
            if old.data_type() == new.data_type() {
                continue;
            }
            let lost = |row: &u32| old.is_valid(*row as usize) && new.is_null(*row as usize);
            let nulls =
                self.live_rows().take_while(|row| (*row as usize) < old.len()).filter(lost).count()
                    as u64;
            out.push((
                field.name().clone(),
                old.data_type().to_string(),
                new.data_type().to_string(),
                nulls,
            ));
        }
        Ok(out)
    }

    /// What is wrong with the words on the disk, if anything is known to be.
    #[must_use]
    pub fn words_trouble(&self) -> Option<String> {
        self.base.as_ref().and_then(|base| base.words_trouble())
    }
}
