//! A generation in memory: an immutable base with its graph, a small delta, and which rows are dead.
//!
//! Rows are numbered through base and delta. The delta is compared one by one, or walked once a graph over it was made behind, so that an
//! append costs what it adds; compaction (a new base) folds it in. Readers share a generation by `Arc` and never see another half-way.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arrow_array::{Array, RecordBatch};
use arrow_schema::SchemaRef;
use brahman_card::clock::now_ms;
use brahman_card::interface::index::Measurement;
use brahman_sidecar::chain;
use serde::{Deserialize, Serialize};

use crate::analyser::Analyser;
use crate::appended::AppendedGraph;
use crate::embedder::Model;
use crate::files::{Damage, FileRef, Files, bad, named};
use crate::filter::sorted::{IdMap, ROWS_MIN, SortedColumns};
use crate::lexical::{Lexical, Statistics, analyser_for};
use crate::query::ParsedQuery;
use crate::row_sum::RowSum;
use crate::rows::{Row, RowStore};
use crate::segment;
use crate::threads::{caught, on_own_thread};
use flat_hnsw::build::Parameters;
use flat_hnsw::store::{LiveRows, Neighbour, Store};
use flat_hnsw::{FlatIndex, SearchParameters};

/// The files of a base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRef {
    /// Rows, all of one segment, in the order of the graph's nodes.
    pub rows: u64,
    /// Parquet: what everything else can be made from again.
    pub segment: FileRef,
    /// Codes, graph and vectors.
    pub graph: FileRef,
    /// File with its documents and texts.
    pub rows_file: FileRef,
    /// Words; absent in what was written before they had checksums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lexical: Option<Vec<FileRef>>,
    /// What made those words; absent in what was written before there was a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analyser: Option<Analyser>,
}

/// A segment of the delta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// How many rows it has.
    pub rows: u64,
    /// The Parquet file itself.
    pub file: FileRef,
}

/// Candidates that a search keeps unless somebody says otherwise, or more are needed for the recall that is wanted.
pub const EF_DEFAULT: usize = 64;
/// The recall that is wanted unless the index says otherwise.
pub const RECALL_DEFAULT: f64 = 0.98;

/// What a generation is: `gen-<ulid>/manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Grows with every generation.
    pub number: u64,
    /// Folder of the one before.
    pub parent: Option<String>,
    /// `refresh`, `compaction`, `promotion` or `migration`.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// Generation of the dataset it was refreshed to.
    pub dataset_generation: u64,
    /// The run that wrote that generation of the dataset: numbers may come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_run: Option<String>,
    /// Model of the vectors.
    pub model: Model,
    /// Name of the engine that built it.
    pub engine: String,
    /// How the graph is built.
    pub parameters: Parameters,
    /// Candidates a search keeps unless it says otherwise.
    pub ef_search: usize,
    /// Absent while there is nothing.
    pub base: Option<BaseRef>,
    /// Appended since the base was made.
    pub segments: Vec<SegmentRef>,
    /// Numbers of dead rows, as little-endian u32.
    pub dead: Option<FileRef>,
    /// How many documents are alive.
    pub docs: u64,
    /// How many chunks are alive.
    pub chunks: u64,
    /// If it was measured.
    pub measured: Option<Measurement>,
    /// Recall that it was promoted for; live searches are checked against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_recall: Option<f64>,
    /// Whether it was promoted although its measure spoke against it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
    /// The language whose words it has, if one was named; else what is found in its texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The way in which its texts were cut: [`crate::refresh::CHUNKING`], or absent of what was cut by characters, and of vectors that came
    /// with the dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunking: Option<u32>,
    /// Recall for which `ef_search` is found whenever a base is built; absent if it was named, or promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall_wanted: Option<f64>,
    /// Recall of the ten nearest that `ef_search` had then; absent of few rows, which were not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall_measured: Option<f64>,
    /// Documents of the dataset without text, as of that generation of it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub empty_docs: u64,
    /// Those whose vector cannot be used.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped_docs: u64,
    /// A sum over the rows alive and their vectors; absent in what was written before there was one, and after that by appending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_sum: Option<RowSum>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Manifest {
    /// Of an index's first generation, without files or counts.
    #[must_use]
    pub fn first(model: Model, engine: String, parameters: Parameters, ef_search: usize) -> Self {
        Self {
            number: 1,
            parent: None,
            reason: "refresh".into(),
            created_ms: now_ms(),
            dataset_generation: 0,
            dataset_run: None,
            model,
            engine,
            parameters,
            ef_search,
            base: None,
            segments: Vec::new(),
            dead: None,
            docs: 0,
            chunks: 0,
            measured: None,
            target_recall: None,
            forced: false,
            language: None,
            chunking: None,
            recall_wanted: None,
            recall_measured: None,
            empty_docs: 0,
            skipped_docs: 0,
            rows_sum: None,
        }
    }

    /// Of one that follows the generation in `folder`: as it is, but for what is said.
    #[must_use]
    pub fn after(&self, folder: &str, number: u64, reason: &str) -> Self {
        Self {
            number,
            parent: Some(folder.to_owned()),
            reason: reason.to_owned(),
            created_ms: now_ms(),
            measured: None,
            target_recall: None,
            forced: false,
            ..self.clone()
        }
    }

    /// All files that it is made of.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> {
        let base = self.base.iter().flat_map(|b| [&b.segment, &b.graph, &b.rows_file].into_iter().chain(b.lexical.iter().flatten()));
        base.chain(self.segments.iter().map(|s| &s.file)).chain(&self.dead)
    }

    /// Bytes of all its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }
}

/// What is made when first needed and kept; a failure is not, so that one for want of memory or files passes.
fn kept<T>(place: &OnceLock<T>, make: impl FnOnce() -> io::Result<T>) -> io::Result<&T> {
    if let Some(there) = place.get() {
        return Ok(there);
    }
    let made = make()?;
    Ok(place.get_or_init(|| made))
}

/// The words of a base.
#[derive(Debug, Default)]
struct Words {
    open: Option<Arc<Lexical>>,
    /// They are not those of the disk.
    in_memory: bool,
}

fn unmade() -> io::Error {
    io::Error::other("the lexical index was not built")
}

/// What of a base was opened when it was first needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BaseUsage {
    /// Whether its words are open, and whether they had to be made in memory.
    pub words: Option<bool>,
    /// Bytes of its filter columns in memory.
    pub columns_bytes: u64,
    /// Times that something was at hand.
    pub hits: u64,
    /// Times that it had to be opened or made.
    pub misses: u64,
}

/// The large, never changed part; shared by the generations that build on it.
#[derive(Debug)]
pub struct Base {
    /// Graph over the base's vectors.
    pub flat: FlatIndex,
    /// Documents and texts of those vectors.
    pub rows: RowStore,
    index: Files,
    files: BaseRef,
    /// Held while they are opened or made, which may take seconds.
    words: Mutex<Words>,
    /// What is wrong with those on the disk.
    words_trouble: OnceLock<String>,
    columns: OnceLock<RecordBatch>,
    sorted: SortedColumns,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Base {
    /// A base of these parts, of the files named among an index's.
    #[must_use]
    pub fn new(flat: FlatIndex, rows: RowStore, index: Files, files: BaseRef) -> Self {
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        let (words, words_trouble, columns) = (Mutex::default(), OnceLock::new(), OnceLock::new());
        Self { flat, rows, index, files, words, words_trouble, columns, sorted: SortedColumns::default(), hits, misses }
    }

    fn looked_up(&self, at_hand: bool) {
        let counter = if at_hand { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Words> {
        // Whole between statements.
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That what rows, vectors and columns are read from is whole: nothing is made out of what is damaged.
    ///
    /// # Errors
    /// Naming the file that is not.
    pub fn whole(&self) -> Result<(), Damage> {
        [&self.files.segment, &self.files.graph, &self.files.rows_file].into_iter().try_for_each(|file| self.index.whole(file))
    }

    /// What its words are made by.
    #[must_use]
    pub fn analyser(&self) -> Analyser {
        self.files.analyser.clone().unwrap_or_else(Analyser::before_it_was_recorded)
    }

    /// Whether a file of the words is missing or damaged.
    #[must_use]
    pub fn words_are_damaged(&self) -> bool {
        self.files.lexical.iter().flatten().any(|file| self.index.whole(file).is_err())
    }

    /// Opens the words on the disk, every file of which must be whole. None if there are none, for want of texts.
    fn words_on_disk(&self) -> io::Result<Option<Lexical>> {
        let path = self.index.path().join(&self.files.graph.path).with_file_name("lexical");
        match &self.files.lexical {
            Some(files) if files.is_empty() => return Ok(None),
            Some(files) => files.iter().try_for_each(|file| self.index.whole(file))?,
            // From before they had checksums.
            None if !path.exists() => return Ok(None),
            None => {}
        }
        let analyser = self.analyser();
        if !analyser.is_known() {
            return Err(bad(format!("{}: its words were made by a later version of this program", path.display())));
        }
        let opened = caught("opening the lexical index", || Lexical::open(&path, &analyser)).map_err(io::Error::other)?;
        opened.map(Some).map_err(|e| named(path.display().to_string(), e))
    }

    /// Its words, opened when first needed; made again in memory if a file of them is missing or damaged.
    ///
    /// # Errors
    /// If the rows are damaged too.
    fn words(&self) -> io::Result<Arc<Lexical>> {
        let mut words = self.lock();
        self.looked_up(words.open.is_some());
        if let Some(open) = &words.open {
            return Ok(Arc::clone(open));
        }
        match self.words_on_disk() {
            Ok(Some(open)) => words.open = Some(Arc::new(open)),
            Ok(None) => self.make_words(&mut words, None)?,
            Err(why) => self.make_words(&mut words, Some(why))?,
        }
        words.open.clone().ok_or_else(unmade)
    }

    fn make_words(&self, words: &mut Words, trouble: Option<io::Error>) -> io::Result<()> {
        if let Some(trouble) = trouble {
            let why = chain(&trouble);
            tracing::error!("{why}; the lexical index is rebuilt in memory");
            self.words_trouble.get_or_init(|| format!("{why}; the lexical index was rebuilt in memory"));
        }
        let analyser = self.analyser();
        let analyser = if analyser.is_known() { analyser } else { analyser.renewed() };
        words.open = Some(Arc::new(Lexical::in_memory(&self.rows, &analyser)?));
        words.in_memory = true;
        Ok(())
    }

    /// What is made of its words. Where those on the disk fail they are made again, once.
    fn with_words<T>(&self, make: impl Fn(&Lexical) -> io::Result<T>) -> io::Result<T> {
        let found = |words: &Lexical| -> io::Result<T> { caught("searching the lexical index", || make(words)).map_err(io::Error::other)? };
        let words = self.words()?;
        let why = match found(&words) {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        let mut now = self.lock();
        // Unless somebody else has made them meanwhile.
        if !now.in_memory {
            let place = Path::new(&self.files.graph.path).with_file_name("lexical");
            self.make_words(&mut now, Some(named(place.display().to_string(), why)))?;
        } else if now.open.as_ref().is_some_and(|open| Arc::ptr_eq(open, &words)) {
            return Err(why);
        }
        let made = now.open.clone().ok_or_else(unmade)?;
        drop(now);
        found(&made)
    }

    /// What is wrong with the words on the disk, if anything is known to be.
    #[must_use]
    pub fn words_trouble(&self) -> Option<String> {
        self.words_trouble.get().cloned()
    }

    /// The columns that searches filter by, read when first needed, from a segment that is whole.
    ///
    /// # Errors
    /// If the segment is damaged.
    pub fn columns(&self) -> io::Result<&RecordBatch> {
        self.looked_up(self.columns.get().is_some());
        let segment = &self.files.segment;
        kept(&self.columns, || {
            self.index.whole(segment)?;
            let read = segment::read_columns(&self.index.path().join(&segment.path)).map_err(|e| named(&segment.path, e))?;
            if read.num_rows() == self.rows.len() { Ok(read) } else { Err(named(&segment.path, bad("its rows differ from the graph's"))) }
        })
    }

    /// What finds few of many rows, for these columns of the base: none for few rows, or where they are not those that the segment has.
    #[must_use]
    pub fn sorted_columns(&self, columns: &RecordBatch) -> Option<&SortedColumns> {
        let are_own = self.columns.get().is_some_and(|own| std::ptr::eq(own, columns));
        Some(&self.sorted).filter(|_| are_own && self.rows.len() >= ROWS_MIN)
    }

    /// The rows of a document.
    pub fn of_document<'a>(&'a self, id: &'a str) -> impl Iterator<Item = u32> + 'a {
        self.sorted.of_document(&self.rows, id)
    }

    /// The types of those columns, which cost less.
    ///
    /// # Errors
    /// If the segment is damaged.
    pub fn column_types(&self) -> io::Result<SchemaRef> {
        if let Some(columns) = self.columns.get() {
            return Ok(columns.schema());
        }
        let segment = &self.files.segment;
        segment::columns_schema(&self.index.path().join(&segment.path)).map_err(|e| named(&segment.path, e))
    }

    /// What was opened since the base was.
    #[must_use]
    pub fn opened(&self) -> BaseUsage {
        // While they are being opened they are not open: nobody is kept waiting for a word about it.
        let words = self.words.try_lock().ok();
        BaseUsage {
            words: words.and_then(|words| words.open.as_ref().map(|_| words.in_memory)),
            columns_bytes: self.columns.get().map_or(0, |columns| columns.get_array_memory_size() as u64),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }
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
    /// Over the first rows of the delta; that of the generation before, if this one only adds to it.
    appended: Arc<AppendedGraph>,
    /// Of one whose manifest does not say it.
    rows_sum: OnceLock<RowSum>,
}

/// How a search is made.
#[derive(Clone, Debug, Default)]
pub struct SearchOptions {
    /// How many rows are wanted.
    pub k: usize,
    /// Candidates on the way; the generation's own if absent.
    pub ef: Option<usize>,
    /// Compare all rows, without the graph.
    pub exact: bool,
    /// For an exact search.
    pub threads: usize,
}

/// What was found by words.
#[derive(Clone, Debug, Default)]
pub struct WordsFound {
    /// Best first, with their BM25 scores.
    pub rows: Vec<Neighbour>,
    /// What a row would score that has nothing but the query's words.
    pub ideal: f32,
    /// Words of the query that do not count: it has more than a query may.
    pub left_out: u64,
    /// The rows of the one document that has the word which is most of what the query tells.
    pub alone: Vec<u32>,
}

/// The rows that a filter lets through, in base and delta.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Rows of the base that count.
    pub base: Option<LiveRows>,
    /// Rows of the delta that count.
    pub delta: Option<LiveRows>,
}

impl Selection {
    /// The rows that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let both = |a: Option<&LiveRows>, b: Option<&LiveRows>| match (a, b) {
            (Some(a), Some(b)) => Some(a.and(b)),
            (a, b) => a.or(b).cloned(),
        };
        Self { base: both(self.base.as_ref(), other.base.as_ref()), delta: both(self.delta.as_ref(), other.delta.as_ref()) }
    }
}

impl Generation {
    /// Puts a generation together; `dead` are numbers of rows.
    ///
    /// # Errors
    /// If a tombstone names a row that does not exist.
    pub fn new(manifest: Manifest, folder: String, base: Option<Arc<Base>>, delta: Delta, dead: &[u32]) -> io::Result<Self> {
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
        let (base_columns, delta_ids, rows_sum) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
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

    /// This generation with the graph over what was appended of the one that it adds to: its first rows are the same.
    #[must_use]
    pub fn following(mut self, old: &Self) -> Self {
        self.appended = Arc::clone(&old.appended);
        self
    }

    /// Links what was appended, on a thread of its own, where that pays. Searches compare it one by one until then.
    pub fn link_appended(self: &Arc<Self>) {
        if self.manifest.engine == "exact" || !self.appended.is_due(self.delta.rows.len()) {
            return;
        }
        let own = Arc::clone(self);
        let link = move || {
            let linked = own.appended.link(&own.delta.store, own.manifest.parameters, 1);
            if let Err(error) = linked {
                tracing::warn!("{}: what was appended is not linked: {}", own.folder, chain(&error));
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
            Some(at) => at < self.delta.rows.len() && self.live_delta.as_ref().is_none_or(|live| live.has(at as u32)),
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
            None => self.base.as_ref().map_or_else(|| Err(io::ErrorKind::NotFound.into()), |base| base.rows.row(row as usize)),
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
        let delta = self.delta_ids.get_or_init(|| IdMap::of(&self.delta.rows)).rows(&self.delta.rows, id);
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

    /// The name of its data: of which rows there are, with which vectors. Where the manifest does not say, all rows are read once.
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

    /// What a filter and the dead leave.
    #[must_use]
    pub fn allowed(&self, filter: Option<&Selection>) -> Selection {
        let live = Selection { base: self.live_base.clone(), delta: self.live_delta.clone() };
        filter.map_or_else(|| live.clone(), |filter| live.and(filter))
    }

    /// Exact searches for many queries of length 1, which share the passes over the codes.
    #[must_use]
    pub fn exact_many(&self, queries: &[&[f32]], k: usize, threads: usize, allowed: &Selection) -> Vec<Vec<Neighbour>> {
        let from = self.base_rows() as u32;
        let mut all = match &self.base {
            Some(base) => base.flat.store.exact_many(queries, k, allowed.base.as_ref(), threads),
            None => vec![Vec::new(); queries.len()],
        };
        if !self.delta.rows.is_empty() {
            let appended = self.delta.store.exact_many(queries, k, allowed.delta.as_ref(), threads);
            for (found, appended) in all.iter_mut().zip(appended) {
                found.extend(appended.into_iter().map(|f| Neighbour { row: from + f.row, ..f }));
                found.sort_unstable();
                found.truncate(k);
            }
        }
        all
    }

    /// What its words are made by.
    #[must_use]
    pub fn analyser(&self) -> Analyser {
        match &self.base {
            Some(base) => base.analyser(),
            None => self.lexical_delta.get().map_or_else(|| self.own_analyser(), |words| words.analyser().clone()),
        }
    }

    fn own_analyser(&self) -> Analyser {
        analyser_for(self.manifest.language.as_deref(), &self.delta.rows)
    }

    /// Does something with the words of all parts: of the base's words, if there is a base, of the delta's, if there are any, and of how
    /// rare words are in both.
    fn with_words<T>(&self, work: impl Fn(Option<&Lexical>, Option<&Lexical>, &Statistics) -> io::Result<T>) -> io::Result<T> {
        let all = |base: Option<&Lexical>| -> io::Result<T> {
            let analyser = base.map_or_else(|| self.own_analyser(), |words| words.analyser().clone());
            let delta = if self.delta.rows.is_empty() {
                None
            } else {
                let live = |row: usize| self.live_delta.as_ref().is_none_or(|live| live.has(row as u32));
                Some(kept(&self.lexical_delta, || Lexical::in_memory_of(&self.delta.rows, &analyser, live))?)
            };
            let gone = match (&self.base, &self.live_base) {
                (Some(base), Some(live)) => {
                    let dead = |row: usize| !live.has(row as u32);
                    Some(kept(&self.lexical_gone, || Lexical::in_memory_of(&base.rows, &analyser, dead))?)
                }
                _ => None,
            };
            let present: Vec<&Lexical> = base.into_iter().chain(delta).collect();
            let gone: Vec<&Lexical> = gone.into_iter().collect();
            work(base, delta, &Statistics::of(&present, &gone))
        };
        match &self.base {
            Some(base) => base.with_words(|words| all(Some(words))),
            None => all(None),
        }
    }

    /// The best rows for the words of a text, best first, by BM25 over all rows alive.
    ///
    /// # Errors
    /// If words cannot be made.
    pub fn words(&self, text: &str, k: usize, allowed: &Selection) -> io::Result<WordsFound> {
        let from = self.base_rows() as u32;
        self.with_words(|base, delta, statistics| {
            let mut out = WordsFound::default();
            let parts = [(base, allowed.base.as_ref(), 0), (delta, allowed.delta.as_ref(), from)];
            let mut deciding = Some(Vec::new());
            for (words, live, from) in parts.into_iter().filter_map(|(words, live, from)| Some((words?, live, from))) {
                let query = words.compile(text, statistics)?;
                (out.ideal, out.left_out) = (query.ideal, query.left_out);
                let found = words.search(&query, statistics, k, live)?;
                out.rows.extend(found.into_iter().map(|f| Neighbour { row: from + f.row, ..f }));
                // Too many in one part are too many in all.
                deciding = match (deciding, words.deciding(&query, statistics, live)?) {
                    (Some(mut all), Some(rows)) => {
                        all.extend(rows.into_iter().map(|row| from + row));
                        Some(all)
                    }
                    _ => None,
                };
            }
            out.rows.sort_unstable();
            out.rows.truncate(k);
            let deciding = deciding.unwrap_or_default();
            let mut documents = HashSet::new();
            for row in &deciding {
                documents.insert(self.row(*row)?.doc_id);
            }
            if documents.len() == 1 {
                out.alone = deciding;
            }
            Ok(out)
        })
    }

    /// The rows that meet a query's conditions; all if it has none.
    ///
    /// # Errors
    /// If words cannot be made.
    pub fn meeting(&self, asked: &ParsedQuery) -> io::Result<Option<Selection>> {
        if !asked.has_conditions() {
            return Ok(None);
        }
        self.with_words(|base, delta, statistics| {
            let part = |words: Option<&Lexical>, rows: usize| -> io::Result<Option<LiveRows>> {
                let Some(words) = words else { return Ok(None) };
                let met = words.meeting(asked, statistics)?;
                Ok(met.map(|met| LiveRows::of(rows, |row| met.contains(&(row as u32)))))
            };
            Ok(Some(Selection { base: part(base, self.base_rows())?, delta: part(delta, self.delta.rows.len())? }))
        })
    }

    /// The cosine of a row with a query of length 1.
    #[must_use]
    pub fn cosine(&self, query: &[f32], row: u32) -> f32 {
        let vector = self.vector(row);
        // Of what is shown by words alone nothing is embedded yet.
        if vector.len() == query.len() { flat_hnsw::kernel::dot(query, vector) } else { 0.0 }
    }

    /// The base's filter columns, by the types that the delta's have: those of the dataset as it was read last.
    ///
    /// # Errors
    /// If the segment is damaged.
    pub fn base_columns(&self) -> io::Result<Option<&RecordBatch>> {
        let Some(base) = &self.base else { return Ok(None) };
        let own = base.columns()?;
        let wanted = self.delta.columns.schema();
        if self.delta.rows.is_empty() || wanted.fields().is_empty() || segment::same_types(&own.schema(), &wanted) {
            return Ok(Some(own));
        }
        kept(&self.base_columns, || segment::conform(&wanted, own)).map(Some)
    }

    /// Columns of the base whose type is not that of the delta's any more: column, type before, type now, and values of rows alive that
    /// became NULL.
    ///
    /// # Errors
    /// If the segment is damaged.
    pub fn converted(&self) -> io::Result<Vec<(String, String, String, u64)>> {
        let Some(base) = self.base.as_ref().filter(|_| !self.delta.rows.is_empty() && self.delta.columns.num_columns() > 0) else {
            return Ok(Vec::new());
        };
        if segment::same_types(base.column_types()?.as_ref(), &self.delta.columns.schema()) {
            return Ok(Vec::new());
        }
        let Some(now) = self.base_columns()? else { return Ok(Vec::new()) };
        let before = base.columns()?;
        let mut out = Vec::new();
        for field in now.schema().fields() {
            let (Some(old), Some(new)) = (before.column_by_name(field.name()), now.column_by_name(field.name())) else { continue };
            if old.data_type() == new.data_type() {
                continue;
            }
            let lost = |row: &u32| old.is_valid(*row as usize) && new.is_null(*row as usize);
            let nulls = self.live_rows().take_while(|row| (*row as usize) < old.len()).filter(lost).count() as u64;
            out.push((field.name().clone(), old.data_type().to_string(), new.data_type().to_string(), nulls));
        }
        Ok(out)
    }

    /// What is wrong with the words on the disk, if anything is known to be.
    #[must_use]
    pub fn words_trouble(&self) -> Option<String> {
        self.base.as_ref().and_then(|base| base.words_trouble())
    }

    /// The best rows for a query of length 1, best first.
    #[must_use]
    pub fn search(&self, query: &[f32], how: &SearchOptions, allowed: &Selection) -> Vec<Neighbour> {
        let ef = how.ef.unwrap_or(self.manifest.ef_search);
        let mut found = match &self.base {
            Some(base) if how.exact || self.manifest.engine == "exact" => {
                base.flat.store.exact(query, how.k, allowed.base.as_ref(), how.threads.max(1))
            }
            Some(base) => base.flat.search(query, &SearchParameters { k: how.k, ef, live: allowed.base.as_ref() }),
            None => Vec::new(),
        };
        if self.delta.rows.is_empty() {
            return found;
        }
        let from = self.base_rows() as u32;
        let live = allowed.delta.as_ref();
        let appended = if how.exact {
            self.delta.store.exact(query, how.k, live, 1)
        } else {
            self.appended.search(&self.delta.store, query, &SearchParameters { k: how.k, ef, live })
        };
        found.extend(appended.into_iter().map(|f| Neighbour { row: from + f.row, ..f }));
        found.sort_unstable();
        found.truncate(how.k);
        found
    }
}
