//! Words: BM25 over the chunks' text, by tantivy.
//!
//! A base has its words in a folder beside its graph; those of a delta are in memory. Rows are found by their numbers.
//! Words are derived from the rows: if the folder is missing or damaged they are made again in memory. tantivy may panic on bytes
//! that a disk has changed: whoever opens or searches a folder compares its checksums first, and catches what comes of it.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tantivy::collector::TopDocs;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{Directory, DirectoryLock, FileHandle, Lock, MmapDirectory, WatchCallback, WatchHandle, WritePtr};
use tantivy::query::{BooleanQuery, Occur, Query, TermQuery};
use tantivy::schema::{FAST, Field, IndexRecordOption, Schema, TEXT};
use tantivy::{Index, IndexReader, ReloadPolicy, TantivyDocument, Term};

use crate::files::bad;
use crate::rows::RowStore;
use crate::threads::caught;
use flat_hnsw::store::{LiveRows, Neighbour};

/// Memory of the writer before it makes a segment: tantivy wants at least 15 MB.
const WRITER_BYTES: usize = 64 << 20;
/// Words of a query that count; more are a document, not a query.
const TERMS_MAX: usize = 256;

/// A folder of words that is only read. tantivy makes a file to lock it by, against whoever collects what is old in it: nobody does,
/// for it is written once, and it may lie where no file can be made.
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

/// An index of words.
pub struct Lexical {
    reader: IndexReader,
    index: Index,
    text: Field,
}

impl std::fmt::Debug for Lexical {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lexical").finish_non_exhaustive()
    }
}

fn schema() -> (Schema, Field, Field) {
    let mut builder = Schema::builder();
    let (row, text) = (builder.add_u64_field("row", FAST), builder.add_text_field("text", TEXT));
    (builder.build(), row, text)
}

impl Lexical {
    fn fill(index: Index, rows: &RowStore) -> io::Result<Self> {
        let (_, row_field, text_field) = schema();
        let mut writer = index.writer_with_num_threads::<TantivyDocument>(1, WRITER_BYTES).map_err(bad)?;
        for (number, row) in rows.iter().enumerate() {
            let mut document = TantivyDocument::new();
            document.add_u64(row_field, number as u64);
            document.add_text(text_field, row?.text);
            writer.add_document(document).map_err(bad)?;
        }
        writer.commit().map_err(bad)?;
        writer.wait_merging_threads().map_err(bad)?;
        Self::opened(index)
    }

    fn opened(index: Index) -> io::Result<Self> {
        let text = index.schema().get_field("text").map_err(bad)?;
        // Nothing is added later: a thread that looks for it would look for ever.
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().map_err(bad)?;
        Ok(Self { reader, index, text })
    }

    /// Makes the words of these rows in a new folder; tantivy fsyncs them. Gives the names of its files.
    ///
    /// # Errors
    /// As the file system or tantivy give them.
    pub fn write(folder: &Path, rows: &RowStore) -> io::Result<Vec<String>> {
        fs::create_dir(folder)?;
        let words = caught("writing the lexical index", || Self::fill(Index::create_in_dir(folder, schema().0).map_err(bad)?, rows));
        drop(words.map_err(bad)??);
        let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
        // Locks hold nothing.
        names.retain(|name| !name.ends_with(".lock"));
        names.sort();
        Ok(names)
    }

    /// Opens a folder.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn open(folder: &Path) -> io::Result<Self> {
        Self::opened(Index::open(WrittenOnce(MmapDirectory::open(folder).map_err(bad)?)).map_err(bad)?)
    }

    /// Makes the words of these rows in memory.
    ///
    /// # Errors
    /// If a row is damaged.
    pub fn in_memory(rows: &RowStore) -> io::Result<Self> {
        Self::fill(Index::create_in_ram(schema().0), rows)
    }

    /// The best `k` rows for the words of a text, of those that are live, with their BM25 scores.
    ///
    /// # Errors
    /// As tantivy gives them.
    pub fn search(&self, text: &str, k: usize, live: Option<&LiveRows>) -> io::Result<Vec<Neighbour>> {
        let mut tokenizer = self.index.tokenizer_for_field(self.text).map_err(bad)?;
        let mut terms: Vec<String> = Vec::new();
        tokenizer.token_stream(text).process(&mut |token| {
            if terms.len() < TERMS_MAX && !terms.contains(&token.text) {
                terms.push(token.text.clone());
            }
        });
        let clauses = terms.iter().map(|term| {
            let query: Box<dyn Query> = Box::new(TermQuery::new(Term::from_field_text(self.text, term), IndexRecordOption::WithFreqs));
            (Occur::Should, query)
        });
        let query = BooleanQuery::new(clauses.collect());
        let searcher = self.reader.searcher();
        // Dead rows are found too; ask for more until enough of the others are there.
        let rows = usize::try_from(searcher.num_docs()).unwrap_or(usize::MAX);
        let mut wanted = k.max(1);
        loop {
            let top = searcher.search(&query, &TopDocs::with_limit(wanted).order_by_score()).map_err(bad)?;
            let all = top.len();
            let mut found = Vec::new();
            for (score, address) in top {
                let column = searcher.segment_reader(address.segment_ord).fast_fields().u64("row").map_err(bad)?;
                let row =
                    column.first(address.doc_id).and_then(|row| u32::try_from(row).ok()).ok_or_else(|| bad("a term without a row"))?;
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

/// Reciprocal rank fusion (Cormack et al. 2009): a row's score is the sum over lists of 1/(60 + its place).
#[must_use]
pub fn fuse(lists: &[&[Neighbour]], k: usize) -> Vec<Neighbour> {
    let mut scores: std::collections::HashMap<u32, f32> = std::collections::HashMap::new();
    for list in lists {
        for (found, place) in list.iter().zip(1_u16..) {
            *scores.entry(found.row).or_default() += 1.0 / (60.0 + f32::from(place));
        }
    }
    let mut fused: Vec<Neighbour> = scores.into_iter().map(|(row, score)| Neighbour { row, score }).collect();
    fused.sort_unstable();
    fused.truncate(k);
    fused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Row;

    #[test]
    fn words_are_found_in_memory_and_on_disk_and_dead_rows_are_not() {
        let mut rows = RowStore::default();
        for text in ["the quick brown fox", "a lazy dog sleeps", "the fox and the dog", "nothing here"] {
            rows.push(&Row { doc_id: "d", content_hash: &[0; 32], chunk: 0, start: 0, line: 1, text });
        }
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("lexical");
        let files = Lexical::write(&path, &rows).expect("written");
        assert!(files.contains(&"meta.json".to_owned()) && !files.iter().any(|name| name.ends_with(".lock")), "{files:?}");
        let listed =
            || fs::read_dir(&path).expect("listed").flatten().map(|entry| entry.file_name()).collect::<std::collections::BTreeSet<_>>();
        listed()
            .iter()
            .filter(|name| name.to_string_lossy().ends_with(".lock"))
            .for_each(|name| fs::remove_file(path.join(name)).expect("removed"));
        let before = listed();
        drop(Lexical::open(&path).expect("opens"));
        assert_eq!(listed(), before, "nothing is made where it is only read");
        for words in [Lexical::open(&path).expect("opens"), Lexical::in_memory(&rows).expect("made")] {
            let numbers = |found: Vec<Neighbour>| found.iter().map(|f| f.row).collect::<Vec<_>>();
            assert_eq!(numbers(words.search("Dog fox!", 1, None).expect("found")), [2]);
            let live = LiveRows::of(4, |row| row != 2);
            assert_eq!(words.search("dog", 9, Some(&live)).expect("found").len(), 1);
            assert_eq!(numbers(words.search("dog", 9, Some(&live)).expect("found")), [1]);
            assert!(words.search("…", 3, None).expect("nothing").is_empty());
        }
    }

    #[test]
    fn what_stands_high_in_both_lists_wins() {
        let list = |rows: &[u32]| rows.iter().map(|row| Neighbour { row: *row, score: 1.0 }).collect::<Vec<_>>();
        let fused = fuse(&[&list(&[1, 2, 3]), &list(&[2, 4])], 3);
        assert_eq!(fused.iter().map(|f| f.row).collect::<Vec<_>>(), [2, 1, 4]);
    }
}
