//! Words: BM25 over the chunks' text, by tantivy.
//!
//! A base has its words in a folder beside its graph; those of a delta are in memory, made by the
//! same [`Analyser`]. Rows are found by their numbers. Words are derived from the rows: if the
//! folder is missing or damaged they are made again in memory. tantivy may panic on bytes that a
//! disk has changed: whoever opens or searches a folder compares its checksums first, and catches
//! what comes of it.
//!
//! Invariant: how rare a word is is counted over all rows alive, in [`Statistics`]: a row ranks the
//! same in a delta as in a base.
//!
//! [`compile`] makes queries.

mod compile;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use flat_hnsw::store::{LiveRows, Neighbour};
use tantivy::collector::{DocSetCollector, TopDocs};
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    Directory, DirectoryLock, FileHandle, Lock, MmapDirectory, WatchCallback, WatchHandle, WritePtr,
};
use tantivy::query::{AllQuery, Bm25StatisticsProvider, BooleanQuery, Occur, Query};
use tantivy::schema::{
    FAST, Field, IndexRecordOption, Schema, TEXT, TextFieldIndexing, TextOptions,
};
use tantivy::{DocAddress, Index, IndexReader, ReloadPolicy, Searcher, TantivyDocument, Term};

use crate::analyser::Analyser;
use crate::files::bad;
use crate::query::ParsedQuery;
use crate::rows::{Row, RowStore};
use crate::threads::caught;
pub use compile::CompiledQuery;

/// Memory of the writer before it makes a segment: tantivy wants at least 15 MB.
const WRITER_BYTES: usize = 64 << 20;
/// Rows looked at for the languages of an index.
const SAMPLE_ROWS: usize = 1000;
/// Rows that a word may stand in and yet tell one document: chunks of one share their edges.
const ALONE_MAX: usize = 16;
/// Rows of the rarest pair of a phrase that is looked up to tell whether it stands in one document.
const PHRASE_ROWS_MAX: u64 = 4096;
/// The most that a word adds to a score, in units of its rarity: BM25's `k1 + 1`, as tantivy has
/// it.
const SATURATED: f32 = 2.2;
/// What makes words, to tantivy: names of its own, so that nobody takes them for those of its
/// default.
const STEMS: &str = "brahman1";
const FORMS: &str = "brahman1forms";

/// A folder of words that is only read. tantivy makes a file to lock it by, against whoever
/// collects what is old in it: nobody does, for it is written once, and it may lie where no file
/// can be made.
#[derive(Clone, Debug)]
struct WrittenOnce(MmapDirectory);

impl Directory for WrittenOnce {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        self.0.get_file_handle(path)
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.0.delete(path)
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.0.exists(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        self.0.open_write(path)
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.0.atomic_read(path)
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        self.0.atomic_write(path, data)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.0.sync_directory()
    }

    fn acquire_lock(&self, _: &Lock) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::from(Box::new(())))
    }

    fn watch(&self, callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        self.0.watch(callback)
    }
}

/// The fields of a document.
#[derive(Clone, Copy, Debug)]
struct Fields {
    row: Field,
    /// Stems, with their places.
    text: Field,
    /// Words as they are written; absent before there were stems.
    forms: Option<Field>,
}

/// An index of words.
pub struct Lexical {
    reader: IndexReader,
    index: Index,
    fields: Fields,
    analyser: Analyser,
}

impl std::fmt::Debug for Lexical {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lexical").field("analyser", &self.analyser).finish_non_exhaustive()
    }
}

fn schema(analyser: &Analyser) -> (Schema, Fields) {
    let mut builder = Schema::builder();
    let row = builder.add_u64_field("row", FAST);
    if analyser.version() == 0 {
        let text = builder.add_text_field("text", TEXT);
        return (builder.build(), Fields { row, text, forms: None });
    }
    let by = |tokenizer: &str, record: IndexRecordOption| {
        TextOptions::default().set_indexing_options(
            TextFieldIndexing::default().set_tokenizer(tokenizer).set_index_option(record),
        )
    };
    let text = builder.add_text_field("text", by(STEMS, IndexRecordOption::WithFreqsAndPositions));
    let forms = builder.add_text_field("forms", by(FORMS, IndexRecordOption::WithFreqs));
    (builder.build(), Fields { row, text, forms: Some(forms) })
}

/// The analyser for rows that are to be searched: of a language that is named, or of those that
/// they are in.
#[must_use]
pub fn analyser_for(language: Option<&str>, rows: &RowStore) -> Analyser {
    let every = rows.len().div_ceil(SAMPLE_ROWS).max(1);
    // A damaged row is found when it is read for good.
    let sample: Vec<&str> = (0..rows.len())
        .step_by(every)
        .filter_map(|row| rows.row(row).ok())
        .map(|row| row.text)
        .collect();
    Analyser::of(language, sample.into_iter())
}

/// How rare words are in several collections together, of which some rows are dead.
#[derive(Debug, Default)]
pub struct Statistics {
    present: Vec<Searcher>,
    gone: Vec<Searcher>,
}

impl Statistics {
    /// Over these, less those that are gone of them. All are of one analyser.
    #[must_use]
    pub fn of(present: &[&Lexical], gone: &[&Lexical]) -> Self {
        let searchers =
            |all: &[&Lexical]| all.iter().map(|words| words.reader.searcher()).collect();
        Self { present: searchers(present), gone: searchers(gone) }
    }

    fn sum(&self, of: impl Fn(&Searcher) -> tantivy::Result<u64>) -> tantivy::Result<u64> {
        let total = |all: &[Searcher]| all.iter().map(&of).sum::<tantivy::Result<u64>>();
        Ok(total(&self.present)?.saturating_sub(total(&self.gone)?))
    }

    /// How rare a term is, as tantivy's BM25 has it.
    fn rarity(&self, term: &Term) -> tantivy::Result<f32> {
        let (rows, with) = (self.total_num_docs()? as f32, self.doc_freq(term)? as f32);
        Ok((1.0 + (rows - with + 0.5) / (with + 0.5)).ln())
    }
}

impl Bm25StatisticsProvider for Statistics {
    fn total_num_tokens(&self, field: Field) -> tantivy::Result<u64> {
        // An average of nothing would be no number.
        self.sum(|searcher| searcher.total_num_tokens(field)).map(|tokens| tokens.max(1))
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        self.sum(|searcher| searcher.total_num_docs()).map(|rows| rows.max(1))
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        // tantivy asserts that there are no more rows with a word than rows.
        Ok(self.sum(|searcher| searcher.doc_freq(term))?.min(self.total_num_docs()?))
    }
}

impl Lexical {
    fn fill<'a>(
        index: Index,
        analyser: Analyser,
        rows: impl Iterator<Item = (usize, io::Result<Row<'a>>)>,
    ) -> io::Result<Self> {
        let (_, fields) = schema(&analyser);
        register(&index, &analyser);
        let has_stems = analyser.has_stems();
        let mut writer =
            index.writer_with_num_threads::<TantivyDocument>(1, WRITER_BYTES).map_err(bad)?;
        for (number, row) in rows {
            let text = row?.text;
            let mut document = TantivyDocument::new();
            document.add_u64(fields.row, number as u64);
            document.add_text(fields.text, text);
            // Without stems the forms would say the same once more.
            if let Some(forms) = fields.forms.filter(|_| has_stems) {
                document.add_text(forms, text);
            }
            writer.add_document(document).map_err(bad)?;
        }
        writer.commit().map_err(bad)?;
        writer.wait_merging_threads().map_err(bad)?;
        Self::opened(index, analyser)
    }

    fn opened(index: Index, analyser: Analyser) -> io::Result<Self> {
        let schema = index.schema();
        let field = |name: &str| schema.get_field(name).map_err(bad);
        let forms = if analyser.version() == 0 { None } else { Some(field("forms")?) };
        let fields = Fields { row: field("row")?, text: field("text")?, forms };
        register(&index, &analyser);
        // Nothing is added later: a thread that looks for it would look for ever.
        let reader =
            index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().map_err(bad)?;
        Ok(Self { reader, index, fields, analyser })
    }

    /// Makes the words of these rows in a new folder; tantivy fsyncs them. Gives the names of its
    /// files.
    ///
    /// # Errors
    /// As the file system or tantivy give them.
    pub fn write(folder: &Path, rows: &RowStore, analyser: &Analyser) -> io::Result<Vec<String>> {
        fs::create_dir(folder)?;
        let make = || {
            Self::fill(
                Index::create_in_dir(folder, schema(analyser).0).map_err(bad)?,
                analyser.clone(),
                rows.iter().enumerate(),
            )
        };
        let words = caught("writing the lexical index", make);
        drop(words.map_err(bad)??);
        let names = fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
        // Locks hold nothing.
        names.retain(|name| !name.ends_with(".lock"));
        names.sort();
        Ok(names)
    }

    /// Opens a folder, whose words were made by this analyser.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn open(folder: &Path, analyser: &Analyser) -> io::Result<Self> {
        let index =
            Index::open(WrittenOnce(MmapDirectory::open(folder).map_err(bad)?)).map_err(bad)?;
        Self::opened(index, analyser.clone())
    }

    /// Makes the words of these rows in memory.
    ///
    /// # Errors
    /// If a row is damaged.
    pub fn in_memory(rows: &RowStore, analyser: &Analyser) -> io::Result<Self> {
        Self::in_memory_of(rows, analyser, |_| true)
    }

    /// The same of those rows for which `counts` holds.
    ///
    /// # Errors
    /// If a row is damaged.
    pub fn in_memory_of(
        rows: &RowStore,
        analyser: &Analyser,
        counts: impl Fn(usize) -> bool,
    ) -> io::Result<Self> {
        let rows = (0..rows.len()).filter(|row| counts(*row)).map(|row| (row, rows.row(row)));
        Self::fill(Index::create_in_ram(schema(analyser).0), analyser.clone(), rows)
    }

    /// What made its words.
    #[must_use]
    pub fn analyser(&self) -> &Analyser {
        &self.analyser
    }

    /// The rows that meet a query's conditions; none if it has none, or they say nothing.
    ///
    /// # Errors
    /// As tantivy gives them.
    pub fn meeting(
        &self,
        asked: &ParsedQuery,
        statistics: &Statistics,
    ) -> io::Result<Option<HashSet<u32>>> {
        let mut clauses: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        for phrase in &asked.phrases {
            clauses
                .extend(self.phrase(phrase, true, statistics)?.map(|query| (Occur::Must, query)));
        }
        let has_phrases = !clauses.is_empty();
        for word in &asked.without {
            clauses
                .extend(self.phrase(word, false, statistics)?.map(|query| (Occur::MustNot, query)));
        }
        if clauses.is_empty() {
            return Ok(None);
        }
        if !has_phrases {
            clauses.push((Occur::Must, Box::new(AllQuery)));
        }
        let searcher = self.reader.searcher();
        let found = searcher.search(&BooleanQuery::new(clauses), &DocSetCollector).map_err(bad)?;
        found
            .into_iter()
            .map(|address| self.row(&searcher, address))
            .collect::<io::Result<_>>()
            .map(Some)
    }

    fn row(&self, searcher: &Searcher, address: DocAddress) -> io::Result<u32> {
        let column =
            searcher.segment_reader(address.segment_ord).fast_fields().u64("row").map_err(bad)?;
        column
            .first(address.doc_id)
            .and_then(|row| u32::try_from(row).ok())
            .ok_or_else(|| bad("a term without a row"))
    }

    /// The best `k` rows for a query, of those that are live, with their BM25 scores.
    ///
    /// # Errors
    /// As tantivy gives them.
    pub fn search(
        &self,
        query: &CompiledQuery,
        statistics: &Statistics,
        k: usize,
        live: Option<&LiveRows>,
    ) -> io::Result<Vec<Neighbour>> {
        self.best(&query.ranking, statistics, k, live)
    }

    /// The rows, of those that are live, that have the word which is most of what the query tells;
    /// nothing if they are too many to be of one document.
    ///
    /// # Errors
    /// As tantivy gives them.
    pub fn deciding(
        &self,
        query: &CompiledQuery,
        statistics: &Statistics,
        live: Option<&LiveRows>,
    ) -> io::Result<Option<Vec<u32>>> {
        let Some(decisive) = &query.decisive else { return Ok(None) };
        let found = self.best(decisive.as_ref(), statistics, ALONE_MAX + 1, live)?;
        Ok((found.len() <= ALONE_MAX).then(|| found.iter().map(|found| found.row).collect()))
    }

    fn best(
        &self,
        query: &dyn Query,
        statistics: &Statistics,
        k: usize,
        live: Option<&LiveRows>,
    ) -> io::Result<Vec<Neighbour>> {
        let searcher = self.reader.searcher();
        // Dead rows are found too; ask for more until enough of the others are there.
        let rows = usize::try_from(searcher.num_docs()).unwrap_or(usize::MAX);
        let mut wanted = k.max(1);
        loop {
            let collector = TopDocs::with_limit(wanted).order_by_score();
            let top = searcher
                .search_with_statistics_provider(query, &collector, statistics)
                .map_err(bad)?;
            let all = top.len();
            let mut found = Vec::new();
            for (score, address) in top {
                let row = self.row(&searcher, address)?;
                if live.is_none_or(|live| live.has(row)) {
                    found.push(Neighbour { row, score });
                }
            }
            if found.len() >= k || all < wanted || wanted >= rows {
                found.sort_unstable();
                found.truncate(k);
                return Ok(found);
            }
            wanted = wanted.saturating_mul(4).min(rows);
        }
    }
}

/// Makes what cuts texts known to tantivy.
fn register(index: &Index, analyser: &Analyser) {
    if analyser.version() > 0 {
        index.tokenizers().register(STEMS, analyser.stems());
        index.tokenizers().register(FORMS, analyser.forms());
    }
}

#[cfg(test)]
mod tests;
