//! A file cut into pieces of whole records, quotes minded, in bounded memory.

use std::io::{self, Read};
use std::path::Path;

use memchr::{memchr, memrchr};
use tokio_util::sync::CancellationToken;

use super::RECORD_BYTES_MAX;
use crate::source::open;

/// Bytes a piece: large enough that handing it over costs nothing, small enough to keep a few.
pub(super) const PIECE_BYTES: usize = 4 << 20;

/// A delimiter by the first line: the one of `, ; tab |` that stands there most often.
fn delimiter(beginning: &[u8]) -> u8 {
    let line = &beginning[..memchr(b'\n', beginning).unwrap_or(beginning.len())];
    let count = |d: u8| line.iter().filter(|b| **b == d).count();
    *b",;\t|".iter().rev().max_by_key(|d| count(**d)).unwrap_or(&b',')
}

/// The end of the last whole record, and whether a quote stays open behind it. The bytes begin with a record.
pub(super) fn last_record(bytes: &[u8], delimiter: u8) -> (Option<usize>, bool) {
    let (mut at, mut end) = (0, None);
    loop {
        let quote = memchr(b'"', &bytes[at..]).map(|q| at + q);
        let plain = &bytes[at..quote.unwrap_or(bytes.len())];
        end = memrchr(b'\n', plain).map(|n| at + n + 1).or(end);
        let Some(quote) = quote else { return (end, false) };
        // Elsewhere than at a field's beginning a quote is a character like any other.
        if quote > 0 && ![delimiter, b'\n', b'\r'].contains(&bytes[quote - 1]) {
            at = quote + 1;
            continue;
        }
        let mut inside = quote + 1;
        at = loop {
            match memchr(b'"', &bytes[inside..]).map(|q| inside + q) {
                None => return (end, true),
                Some(close) if bytes.get(close + 1) == Some(&b'"') => inside = close + 2,
                Some(close) => break close + 1,
            }
        };
    }
}

/// Part of a file.
pub(super) enum Piece {
    /// Whole records.
    Records(Vec<u8>),
    /// A line that cannot be read, and why.
    Bad(&'static str),
}

/// Cuts one file into pieces.
pub(super) struct Pieces {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    pub(super) delimiter: u8,
    ended: bool,
}

impl Pieces {
    /// Opens a file, skips a byte-order mark, tells the delimiter.
    pub(super) fn open(path: &Path, stop: &CancellationToken) -> io::Result<Self> {
        let mut pieces = Self { reader: open(path, stop)?, buffer: Vec::new(), delimiter: b',', ended: false };
        pieces.fill(PIECE_BYTES)?;
        if pieces.buffer.starts_with(b"\xef\xbb\xbf") {
            pieces.buffer.drain(..3);
        }
        pieces.delimiter = delimiter(&pieces.buffer);
        Ok(pieces)
    }

    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        let missing = wanted.saturating_sub(self.buffer.len()) as u64;
        let read = self.reader.by_ref().take(missing).read_to_end(&mut self.buffer)?;
        self.ended = (read as u64) < missing;
        Ok(())
    }

    /// Drops everything up to the next line.
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            match memchr(b'\n', &self.buffer) {
                Some(end) => {
                    self.buffer.drain(..=end);
                    return Ok(());
                }
                None => self.buffer.clear(),
            }
            if self.ended {
                return Ok(());
            }
            self.fill(PIECE_BYTES)?;
        }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Piece>> {
        let mut wanted = PIECE_BYTES;
        loop {
            if !self.ended {
                self.fill(wanted)?;
            }
            if self.buffer.is_empty() {
                return Ok(None);
            }
            let (end, open) = last_record(&self.buffer, self.delimiter);
            match end {
                // The last record of a file need not end in a newline.
                _ if self.ended && !open => return Ok(Some(Piece::Records(std::mem::take(&mut self.buffer)))),
                Some(end) => {
                    let rest = self.buffer.split_off(end);
                    return Ok(Some(Piece::Records(std::mem::replace(&mut self.buffer, rest))));
                }
                None if !self.ended && self.buffer.len() < RECORD_BYTES_MAX => wanted = RECORD_BYTES_MAX,
                None => {
                    self.skip_line()?;
                    let why = if open { "opens a quote that is not closed within 16 MiB" } else { "is longer than 16 MiB" };
                    return Ok(Some(Piece::Bad(why)));
                }
            }
        }
    }
}
