//! JSON that is not an object a line, made lines: the items of a list, or objects that go over
//! several lines.
//!
//! Invariants: what is in a string is not touched; outside of strings a line's end is white space
//! like any other; a list that is not closed is an error, for the file was cut off.

use std::io::{self, Read};
use std::path::Path;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::encoding;

/// Bytes that are looked at to tell how a file is laid out, and that are remade at once.
const CHUNK: usize = 64 << 10;

/// A list without its end.
#[derive(Debug, Error)]
#[error("its list is not closed: the file was cut off")]
struct UnclosedError;

/// Opens a file as lines of JSON.
///
/// # Errors
/// As the file system gives them.
pub(super) fn open(path: &Path, stop: &CancellationToken) -> io::Result<Box<dyn Read + Send>> {
    let (mut reader, _) = encoding::open(path, stop, None)?;
    let mut beginning = Vec::new();
    reader.by_ref().take(CHUNK as u64).read_to_end(&mut beginning)?;
    let base = base(&beginning);
    let reader: Box<dyn Read + Send> = Box::new(io::Cursor::new(beginning).chain(reader));
    Ok(match base {
        None => reader,
        Some(base) => Box::new(Remade { reader, base, ..Remade::default() }),
    })
}

/// How many brackets are around each object; none if an object is a line already.
fn base(beginning: &[u8]) -> Option<usize> {
    let text = beginning.trim_ascii_start();
    match text.first()? {
        b'[' => Some(1),
        b'{' => {
            let line = text.split(|b| *b == b'\n').next()?;
            // `{` or `{"a": 1,` and no more: people write so, and programs that indent.
            let goes_on = line.len() < text.len()
                && matches!(line.trim_ascii_end().last(), Some(b'{' | b',' | b'['));
            goes_on.then_some(0)
        }
        _ => None,
    }
}

/// A reader of lines.
struct Remade {
    reader: Box<dyn Read + Send>,
    /// Brackets around each object.
    base: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Remade, and how much of it has been read.
    out: Vec<u8>,
    given: usize,
    ended: bool,
}

impl Default for Remade {
    fn default() -> Self {
        let reader = Box::new(io::empty());
        Self {
            reader,
            base: 0,
            depth: 0,
            in_string: false,
            escaped: false,
            out: Vec::new(),
            given: 0,
            ended: false,
        }
    }
}

impl Remade {
    fn remake(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                // No JSON has one there: the line ends here, so that it costs no more than itself.
                b'\n' => self.in_string = false,
                _ => {}
            }
            self.out.push(byte);
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'[' | b'{' => {
                self.depth += 1;
                if self.depth == 1 && self.base == 1 {
                    return;
                }
            }
            b']' | b'}' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 && self.base == 1 {
                    self.out.push(b'\n');
                    return;
                }
                self.out.push(byte);
                if self.depth == self.base && self.base == 0 {
                    self.out.push(b'\n');
                }
                return;
            }
            b',' if self.depth == 1 && self.base == 1 => {
                self.out.push(b'\n');
                return;
            }
            b'\n' | b'\r' => {
                self.out.push(b' ');
                return;
            }
            _ => {}
        }
        self.out.push(byte);
    }
}

impl Read for Remade {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.out.len() && !self.ended {
            (self.given, self.out) = (0, Vec::with_capacity(CHUNK));
            let mut chunk = Vec::with_capacity(CHUNK);
            self.reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
            self.ended = chunk.is_empty();
            chunk.iter().for_each(|byte| self.remake(*byte));
            if self.ended && self.depth > 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, UnclosedError));
            }
        }
        let some = buffer.len().min(self.out.len() - self.given);
        buffer[..some].copy_from_slice(&self.out[self.given..self.given + some]);
        self.given += some;
        Ok(some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> io::Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        let mut lines = String::new();
        open(file.path(), &CancellationToken::new())?.read_to_string(&mut lines)?;
        Ok(lines
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("|"))
    }

    #[test]
    fn items_and_objects_become_lines() {
        assert_eq!(
            of("{\"a\":1}\n{\"a\":\n2}\n").ok().as_deref(),
            Some("{\"a\":1}|{\"a\":|2}"),
            "lines are left as they are"
        );
        assert_eq!(
            of("[{\"a\":1},{\"a\":[1,2]}]").ok().as_deref(),
            Some("{\"a\":1}|{\"a\":[1,2]}")
        );
        assert_eq!(
            of("\u{feff} [\n {\n\"a\": \"],\\\"}\"\n},\n 3 ]\n").ok().as_deref(),
            Some("{ \"a\": \"],\\\"}\" }|3")
        );
        assert_eq!(
            of("{\n \"a\": 1\n}\n{\n \"a\": 2\n}").ok().as_deref(),
            Some("{  \"a\": 1 }|{  \"a\": 2 }")
        );
        assert_eq!(of("[]").ok().as_deref(), Some(""));
        assert!(of("[{\"a\":1},").is_err_and(|error| error.to_string().contains("not closed")));
    }
}
