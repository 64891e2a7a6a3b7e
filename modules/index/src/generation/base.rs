//! The large, never changed part of a generation: its graph, and what is opened of its files when
//! it is first needed.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use brahman_sidecar::chain;
use flat_hnsw::FlatIndex;

use super::kept;
use super::manifest::BaseRef;
use crate::analyser::Analyser;
use crate::files::{Damage, Files, bad, named};
use crate::filter::sorted::{ROWS_MIN, SortedColumns};
use crate::lexical::Lexical;
use crate::rows::RowStore;
use crate::segment;
use crate::threads::caught;

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
        Self {
            flat,
            rows,
            index,
            files,
            words,
            words_trouble,
            columns,
            sorted: SortedColumns::default(),
            hits,
            misses,
        }
    }

    fn looked_up(&self, at_hand: bool) {
        let counter = if at_hand { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Words> {
        // Whole between statements.
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That what rows, vectors and columns are read from is whole: nothing is made out of what is
    /// damaged.
    ///
    /// # Errors
    /// Naming the file that is not.
    pub fn whole(&self) -> Result<(), Damage> {
        [&self.files.segment, &self.files.graph, &self.files.rows_file]
            .into_iter()
            .try_for_each(|file| self.index.whole(file))
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

    /// Opens the words on the disk, every file of which must be whole. None if there are none, for
    /// want of texts.
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
            return Err(bad(format!(
                "{}: its words were made by a later version of this program",
                path.display()
            )));
        }
        let opened = caught("opening the lexical index", || Lexical::open(&path, &analyser))
            .map_err(io::Error::other)?;
        opened.map(Some).map_err(|e| named(path.display().to_string(), e))
    }

    /// Its words, opened when first needed; made again in memory if a file of them is missing or
    /// damaged.
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
            self.words_trouble
                .get_or_init(|| format!("{why}; the lexical index was rebuilt in memory"));
        }
        let analyser = self.analyser();
        let analyser = if analyser.is_known() { analyser } else { analyser.renewed() };
        words.open = Some(Arc::new(Lexical::in_memory(&self.rows, &analyser)?));
        words.in_memory = true;
        Ok(())
    }

    /// What is made of its words. Where those on the disk fail they are made again, once.
    pub(super) fn with_words<T>(&self, make: impl Fn(&Lexical) -> io::Result<T>) -> io::Result<T> {
        let found = |words: &Lexical| -> io::Result<T> {
            caught("searching the lexical index", || make(words)).map_err(io::Error::other)?
        };
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
            let read = segment::read_columns(&self.index.path().join(&segment.path))
                .map_err(|e| named(&segment.path, e))?;
            if read.num_rows() == self.rows.len() {
                Ok(read)
            } else {
                Err(named(&segment.path, bad("its rows differ from the graph's")))
            }
        })
    }

    /// What finds few of many rows, for these columns of the base: none for few rows, or where they
    /// are not those that the segment has.
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
        segment::columns_schema(&self.index.path().join(&segment.path))
            .map_err(|e| named(&segment.path, e))
    }

    /// What was opened since the base was.
    #[must_use]
    pub fn opened(&self) -> BaseUsage {
        // While they are being opened they are not open: nobody is kept waiting for a word about
        // it.
        let words = self.words.try_lock().ok();
        BaseUsage {
            words: words.and_then(|words| words.open.as_ref().map(|_| words.in_memory)),
            columns_bytes: self
                .columns
                .get()
                .map_or(0, |columns| columns.get_array_memory_size() as u64),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }
}
