//! The rows of an index beside their vectors: which document, which part of it, what text.
//!
//! One format in memory and on disk (`rows.bin`, see `docs/FORMAT.md`): offsets, then records. A
//! file is mapped, so that opening an index reads no text. Files of the first format, whose records
//! have no context, are read as ever. Invariant: records are read with every length checked; a
//! damaged one is an error that says so, never a panic.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use flat_hnsw::kernel::{LINE, prefetch};
use flat_hnsw::pages::Pages;

const MAGIC: &[u8; 8] = b"BRROWS\x00\x02";
/// Of files from before chunks had a context.
const MAGIC_FIRST: &[u8; 8] = b"BRROWS\x00\x01";
const PAGE: usize = 4096;
/// Bytes of a record before its texts, in the first format: now the length of the context follows.
const FIXED: usize = 4 + 8 + 8 + 32 + 4;
/// Bytes of that length.
const CONTEXT_LENGTH: usize = 4;

/// One chunk, and the document it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Value of the id column.
    pub doc_id: &'a str,
    /// sha256 of the whole document.
    pub content_hash: &'a [u8; 32],
    /// Number in its document, from 0.
    pub chunk: u32,
    /// First byte in the text.
    pub start: u64,
    /// First line in the text, from 1.
    pub line: u64,
    /// Where it stands: the document's name, headings or items. Empty if nothing is known of it.
    pub context: &'a str,
    /// Text of the chunk itself.
    pub text: &'a str,
}

/// Many rows, column by column.
#[derive(Debug)]
pub struct RowStore {
    /// Where each record ends.
    ends: Arc<Vec<u64>>,
    data: Data,
    /// Whether records have a context.
    has_contexts: bool,
}

#[derive(Debug)]
enum Data {
    Memory(Arc<Vec<u8>>),
    File(Pages),
}

impl Default for RowStore {
    fn default() -> Self {
        Self { ends: Arc::default(), data: Data::Memory(Arc::default()), has_contexts: true }
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl RowStore {
    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The same rows, without a copy; none of rows that were read from a file.
    #[must_use]
    pub fn shared(&self) -> Option<Self> {
        let Data::Memory(data) = &self.data else { return None };
        let (ends, data) = (Arc::clone(&self.ends), Data::Memory(Arc::clone(data)));
        Some(Self { ends, data, has_contexts: self.has_contexts })
    }

    /// Bytes of the records.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.data().len() as u64
    }

    fn data(&self) -> &[u8] {
        match &self.data {
            Data::Memory(bytes) => bytes,
            Data::File(pages) => pages.bytes(),
        }
    }

    /// Adds a row; to one that was read from a file nothing can be added.
    pub fn push(&mut self, row: &Row<'_>) {
        let Data::Memory(data) = &mut self.data else { return };
        // A copy is made only of what somebody else reads as well.
        let data = Arc::make_mut(data);
        data.extend_from_slice(&row.chunk.to_le_bytes());
        data.extend_from_slice(&row.start.to_le_bytes());
        data.extend_from_slice(&row.line.to_le_bytes());
        data.extend_from_slice(row.content_hash);
        data.extend_from_slice(&(row.doc_id.len() as u32).to_le_bytes());
        data.extend_from_slice(&(row.context.len() as u32).to_le_bytes());
        data.extend_from_slice(row.doc_id.as_bytes());
        data.extend_from_slice(row.context.as_bytes());
        data.extend_from_slice(row.text.as_bytes());
        Arc::make_mut(&mut self.ends).push(data.len() as u64);
    }

    /// Where a row's record lies; nowhere if there is no such row.
    fn place(&self, row: usize) -> Range<usize> {
        let end = |row: usize| self.ends.get(row).and_then(|end| usize::try_from(*end).ok());
        let from = if row == 0 { Some(0) } else { end(row - 1) };
        from.zip(end(row)).map_or(0..0, |(from, to)| from..to)
    }

    /// Reads rows that lie anywhere: all are asked for, from the disk and from memory, before the
    /// first is waited for. Those that are not there are passed over.
    pub fn scattered<T>(
        &self,
        rows: impl ExactSizeIterator<Item = usize> + Clone,
        read: impl FnOnce() -> T,
    ) -> T {
        let places = rows.map(|row| self.place(row));
        let read = || {
            for record in places.clone().filter_map(|place| self.data().get(place)) {
                record.chunks(LINE).take(2).for_each(prefetch);
            }
            read()
        };
        match &self.data {
            Data::Memory(_) => read(),
            Data::File(pages) => pages.scattered(places.clone(), read),
        }
    }

    /// A row.
    ///
    /// # Errors
    /// If it is not there or damaged.
    pub fn row(&self, row: usize) -> io::Result<Row<'_>> {
        let from = if row == 0 {
            0
        } else {
            self.ends.get(row - 1).copied().ok_or_else(|| bad("no such row"))?
        };
        let to = *self.ends.get(row).ok_or_else(|| bad("no such row"))?;
        let range =
            usize::try_from(from).unwrap_or(usize::MAX)..usize::try_from(to).unwrap_or(usize::MAX);
        let record = self.data().get(range).ok_or_else(|| bad("a row is outside rows.bin"))?;
        let (fixed, texts) = record
            .split_first_chunk::<FIXED>()
            .ok_or_else(|| bad("a row is shorter than its fields"))?;
        let number =
            |at: usize| fixed[at..at + 8].iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        let word =
            |at: usize| fixed[at..at + 4].iter().rev().fold(0_u32, |n, b| n << 8 | u32::from(*b));
        let hash = fixed[20..]
            .first_chunk::<32>()
            .ok_or_else(|| bad("a row is shorter than its fields"))?;
        let (context, texts) = if self.has_contexts {
            let (length, texts) = texts
                .split_first_chunk::<CONTEXT_LENGTH>()
                .ok_or_else(|| bad("a row is shorter than its fields"))?;
            (u32::from_le_bytes(*length) as usize, texts)
        } else {
            (0, texts)
        };
        let (id, texts) = texts
            .split_at_checked(word(52) as usize)
            .ok_or_else(|| bad("a row's id is longer than the row"))?;
        let (context, text) = texts
            .split_at_checked(context)
            .ok_or_else(|| bad("a row's context is longer than the row"))?;
        let utf8 = |bytes| std::str::from_utf8(bytes).map_err(|_| bad("a row is not UTF-8"));
        let (doc_id, context, text) = (utf8(id)?, utf8(context)?, utf8(text)?);
        Ok(Row {
            doc_id,
            content_hash: hash,
            chunk: word(0),
            start: number(4),
            line: number(12),
            context,
            text,
        })
    }

    /// All rows in order.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<Row<'_>>> {
        (0..self.len()).map(|row| self.row(row))
    }

    /// Writes and fsyncs a new file.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let ends: &[u8] = bytemuck::cast_slice(self.ends.as_slice());
        let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
        file.write_all(if self.has_contexts { MAGIC } else { MAGIC_FIRST })?;
        file.write_all(&(self.len() as u64).to_le_bytes())?;
        file.write_all(&(self.data().len() as u64).to_le_bytes())?;
        file.write_all(&crc32fast::hash(ends).to_le_bytes())?;
        file.write_all(&crc32fast::hash(self.data()).to_le_bytes())?;
        file.write_all(ends)?;
        let head = 32 + ends.len();
        file.write_all(&vec![0; head.next_multiple_of(PAGE) - head])?;
        file.write_all(self.data())?;
        file.flush()?;
        file.get_ref().sync_all()
    }

    /// Opens a file: reads the offsets, maps the records. With `whole`, also compares the checksum
    /// of the records.
    ///
    /// # Errors
    /// `InvalidData` with what is wrong; the caller names the file.
    pub fn open(path: &Path, whole: bool) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut head = [0_u8; 32];
        file.read_exact(&mut head).map_err(|_| bad("it is shorter than its header"))?;
        let has_contexts = &head[..8] == MAGIC;
        if !has_contexts && &head[..8] != MAGIC_FIRST {
            return Err(bad("it is not a rows.bin file of this version"));
        }
        let number =
            |at: usize| head[at..at + 8].iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        let word =
            |at: usize| head[at..at + 4].iter().rev().fold(0_u32, |n, b| n << 8 | u32::from(*b));
        let (rows, bytes) = (number(8), number(16));
        let length = file.metadata()?.len();
        let fits = rows
            .checked_mul(8)
            .and_then(|ends| ends.checked_add(32)?.checked_next_multiple_of(PAGE as u64));
        let at = fits
            .filter(|at| at.checked_add(bytes) == Some(length))
            .ok_or_else(|| bad("its length is not what its header says"))?;
        let mut ends = vec![0_u64; usize::try_from(rows).map_err(|_| bad("too many rows"))?];
        file.read_exact(bytemuck::cast_slice_mut(&mut ends))?;
        if crc32fast::hash(bytemuck::cast_slice(&ends)) != word(24) {
            return Err(bad("the checksum of its offsets does not match"));
        }
        let pages = Pages::map(&file, at, usize::try_from(bytes).map_err(|_| bad("too long"))?)?;
        if whole && crc32fast::hash(pages.bytes()) != word(28) {
            return Err(bad("the checksum of its records does not match"));
        }
        Ok(Self { ends: Arc::new(ends), data: Data::File(pages), has_contexts })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_what_is_damaged_is_said(
            texts in prop::collection::vec((".{0,12}", ".{0,40}", any::<u64>(), ".{0,9}"), 0..20),
            flip in any::<usize>(),
        ) {
            let folder = tempfile::tempdir().expect("a temporary directory");
            let path = folder.path().join("rows.bin");
            let hash = [7; 32];
            let rows: Vec<Row<'_>> = texts
                .iter()
                .zip(0..)
                .map(|((id, text, n, context), chunk)| Row {
                    doc_id: id,
                    content_hash: &hash,
                    chunk,
                    start: *n,
                    line: !n,
                    context,
                    text,
                })
                .collect();
            let mut store = RowStore::default();
            rows.iter().for_each(|row| store.push(row));
            store.write(&path).expect("written");
            let read = RowStore::open(&path, true).expect("opens");
            let back: Vec<Row<'_>> = read.iter().map(|row| row.expect("whole")).collect();
            prop_assert_eq!(&back, &rows);
            let mut bytes = std::fs::read(&path).expect("there");
            let at = flip % bytes.len();
            let pad = 32 + rows.len() * 8..(32 + rows.len() * 8).next_multiple_of(PAGE);
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).expect("damaged");
            prop_assert_eq!(RowStore::open(&path, true).is_err(), !pad.contains(&at));
        }
    }

    /// A file as it was written before rows had a context.
    #[test]
    fn files_of_the_first_format_are_read() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("rows.bin");
        let mut record = Vec::new();
        record.extend_from_slice(&3_u32.to_le_bytes());
        record.extend_from_slice(&40_u64.to_le_bytes());
        record.extend_from_slice(&5_u64.to_le_bytes());
        record.extend_from_slice(&[7; 32]);
        record.extend_from_slice(&4_u32.to_le_bytes());
        record.extend_from_slice(b"a.mdwords");
        let ends = (record.len() as u64).to_le_bytes();
        let mut file = MAGIC_FIRST.to_vec();
        file.extend_from_slice(&1_u64.to_le_bytes());
        file.extend_from_slice(&(record.len() as u64).to_le_bytes());
        file.extend_from_slice(&crc32fast::hash(&ends).to_le_bytes());
        file.extend_from_slice(&crc32fast::hash(&record).to_le_bytes());
        file.extend_from_slice(&ends);
        file.resize(PAGE, 0);
        file.extend_from_slice(&record);
        std::fs::write(&path, file).expect("written");
        let store = RowStore::open(&path, true).expect("opens");
        let row = store.row(0).expect("whole");
        assert_eq!(
            row,
            Row {
                doc_id: "a.md",
                content_hash: &[7; 32],
                chunk: 3,
                start: 40,
                line: 5,
                context: "",
                text: "words"
            }
        );
    }
}
