//! A file cut into pieces of whole records, in bounded memory.

use std::io::{self, Read};

use memchr::{memchr, memchr_iter};

use super::{PIECE_BYTES, Piece, RECORD_BYTES_MAX};

/// Where the last whole record ends, and whether one stays open behind it. The bytes begin with a
/// record.
pub(crate) type LastRecord = Box<dyn Fn(&[u8]) -> (Option<usize>, bool) + Send>;

/// Cuts one file into pieces.
pub(crate) struct Pieces {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    ended: bool,
    /// Lines of the file before what is in the buffer.
    lines: u64,
}

impl Pieces {
    /// Reads the beginning of a file: so many bytes, or all that there are.
    pub(crate) fn begin(reader: Box<dyn Read + Send>, bytes: usize) -> io::Result<Self> {
        let mut pieces = Self { reader, buffer: Vec::new(), ended: false, lines: 0 };
        pieces.fill(bytes)?;
        Ok(pieces)
    }

    /// What has been read and not given yet.
    pub(crate) fn beginning(&self) -> &[u8] {
        &self.buffer
    }

    /// Whether that is all that there is.
    pub(crate) fn is_whole(&self) -> bool {
        self.ended
    }

    /// Leaves out so many bytes of it.
    pub(crate) fn skip(&mut self, bytes: usize) {
        let left_out: Vec<u8> = self.buffer.drain(..bytes.min(self.buffer.len())).collect();
        self.pass(&left_out);
    }

    /// Counts the lines of what goes.
    fn pass(&mut self, bytes: &[u8]) {
        self.lines += memchr_iter(b'\n', bytes).count() as u64;
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
                    self.lines += 1;
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

    /// The next whole records.
    pub(crate) fn next(&mut self, last_record: &LastRecord) -> io::Result<Option<Piece>> {
        let mut wanted = PIECE_BYTES;
        loop {
            if !self.ended {
                self.fill(wanted)?;
            }
            if self.buffer.is_empty() {
                return Ok(None);
            }
            let (end, open) = last_record(&self.buffer);
            match end {
                // The last record of a file need not end in a newline.
                _ if self.ended && !open => {
                    return Ok(Some(Piece::Records(std::mem::take(&mut self.buffer))));
                }
                Some(end) => {
                    let rest = self.buffer.split_off(end);
                    let records = std::mem::replace(&mut self.buffer, rest);
                    self.pass(&records);
                    return Ok(Some(Piece::Records(records)));
                }
                None if !self.ended && self.buffer.len() < RECORD_BYTES_MAX => {
                    wanted = RECORD_BYTES_MAX;
                }
                None => {
                    let (line, is_end) = (self.lines + 1, self.ended);
                    self.skip_line()?;
                    return Ok(Some(Piece::Bad(match (open, is_end) {
                        (true, true) => format!(
                            "line {line} opens a quote that is not closed before the file ends"
                        ),
                        (true, false) => {
                            format!("line {line} opens a quote that is not closed within 16 MiB")
                        }
                        (false, _) => format!("line {line} is longer than 16 MiB"),
                    })));
                }
            }
        }
    }
}
