//! Message framing: one JSON object ended by NUL; or by newline, if the first message on the connection was.
//!
//! The buffer grows with what arrives and never past the bound; the caller reads into [`FrameBuffer::spare`] and
//! takes frames out as index ranges, so nothing is copied twice.

use std::ops::Range;

use thiserror::Error;

use super::MESSAGE_BYTES_MAX;

/// First allocation on a connection that speaks: a typical call fits twice.
const FIRST_BYTES: usize = 4096;
/// A buffer that once held a large message is given back above this size when it runs empty.
const KEEP_BYTES: usize = 256 * 1024;

/// The stream cannot be framed any further; the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// No end of message within the bound.
    #[error("message longer than {max} bytes")]
    TooLong {
        /// The bound that was passed.
        max: usize,
    },
}

/// Bytes read so far, and where messages end in them.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    scanned: usize,
    delimiter: Option<u8>,
    max: usize,
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self::with_max(MESSAGE_BYTES_MAX)
    }
}

impl FrameBuffer {
    /// A buffer for messages of at most `max` bytes, delimiter included.
    #[must_use]
    pub fn with_max(max: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, end: 0, scanned: 0, delimiter: None, max }
    }

    /// A buffer that speaks NUL from the start, as a client does.
    #[must_use]
    pub fn nul() -> Self {
        Self { delimiter: Some(0), ..Self::default() }
    }

    /// Room to read into; never empty.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start > 0 && (self.start == self.end || self.bytes.len() - self.end < FIRST_BYTES) {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.scanned -= self.start;
            self.start = 0;
        }
        if self.end == 0 && self.bytes.len() > KEEP_BYTES {
            self.bytes = Vec::new();
        }
        if self.end == self.bytes.len() {
            let grown = (self.bytes.len() * 2).max(FIRST_BYTES);
            self.bytes.resize(grown.min(self.max.max(self.end) + FIRST_BYTES), 0);
        }
        &mut self.bytes[self.end..]
    }

    /// `n` bytes were read into [`Self::spare`].
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.bytes.len());
    }

    /// Appends bytes that came from elsewhere (tests, fuzzing).
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let spare = self.spare();
            let n = spare.len().min(bytes.len());
            spare[..n].copy_from_slice(&bytes[..n]);
            self.filled(n);
            bytes = &bytes[n..];
        }
    }

    /// The next whole message, without its delimiter.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] once more than the bound has come without an end.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let range = self.next_range()?;
        Ok(range.map(|range| &self.bytes[range]))
    }

    fn next_range(&mut self) -> Result<Option<Range<usize>>, FrameError> {
        loop {
            let fresh = &self.bytes[self.scanned..self.end];
            let found = match self.delimiter {
                Some(delimiter) => memchr::memchr(delimiter, fresh),
                None => memchr::memchr2(0, b'\n', fresh),
            };
            let Some(offset) = found else {
                self.scanned = self.end;
                return if self.end - self.start > self.max { Err(FrameError::TooLong { max: self.max }) } else { Ok(None) };
            };
            let at = self.scanned + offset;
            let byte = self.bytes[at];
            if at - self.start >= self.max {
                return Err(FrameError::TooLong { max: self.max });
            }
            let frame = self.start..at;
            self.scanned = at + 1;
            if self.delimiter.is_none() {
                // A newline ends the first message only if what stands before it is whole; else it is white space.
                if byte == b'\n' && !is_balanced(&self.bytes[frame.clone()]) {
                    continue;
                }
                self.delimiter = Some(byte);
            }
            self.start = self.scanned;
            let blank = self.bytes[frame.clone()].iter().all(u8::is_ascii_whitespace);
            if blank && self.delimiter == Some(b'\n') {
                continue;
            }
            return Ok(Some(frame));
        }
    }

    /// What ends a message on this connection: NUL until a first message said otherwise.
    #[must_use]
    pub fn delimiter(&self) -> u8 {
        self.delimiter.unwrap_or(0)
    }

    /// Whether a part of a message has arrived.
    #[must_use]
    pub fn has_partial(&self) -> bool {
        self.end > self.start
    }

    /// Bytes not yet taken as frames.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Takes the bytes after the last frame, when the connection leaves Varlink.
    #[must_use]
    pub fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.pending().to_vec();
        self.start = self.end;
        self.scanned = self.end;
        rest
    }
}

/// Whether every bracket outside a string is closed, and there was one.
fn is_balanced(bytes: &[u8]) -> bool {
    let (mut depth, mut seen, mut in_string, mut escaped) = (0_i64, false, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                seen = true;
            }
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    // Text that is not even an object counts as whole, so that `hello\n` gets an answer.
    depth <= 0 && !in_string && (seen || bytes.iter().any(|b| !b.is_ascii_whitespace()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(buffer: &mut FrameBuffer) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| buffer.next_frame().expect("within the bound").map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn a_first_message_in_newlines_switches_the_connection() {
        let mut buffer = FrameBuffer::default();
        buffer.push(b"{\"a\":\n1}\n{\"b\":2}\n\n");
        assert_eq!(frames(&mut buffer), [b"{\"a\":\n1}".to_vec(), b"{\"b\":2}".to_vec()]);
        assert_eq!(buffer.delimiter(), b'\n');
    }

    #[test]
    fn pretty_printed_json_ended_by_nul_stays_in_nul() {
        let mut buffer = FrameBuffer::default();
        buffer.push(b"{\n \"a\": \"\\\"{\"\n}\0{}\0");
        assert_eq!(frames(&mut buffer).len(), 2);
        assert_eq!(buffer.delimiter(), 0);
    }

    #[test]
    fn the_bound_is_exact() {
        let mut buffer = FrameBuffer::with_max(8);
        buffer.push(b"1234567\0");
        assert_eq!(frames(&mut buffer), [b"1234567".to_vec()]);
        buffer.push(b"12345678\0");
        assert_eq!(buffer.next_frame(), Err(FrameError::TooLong { max: 8 }));
        let mut endless = FrameBuffer::with_max(8);
        endless.push(b"123456789");
        assert_eq!(endless.next_frame(), Err(FrameError::TooLong { max: 8 }));
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_frames_are_the_same(
            messages in prop::collection::vec("[^\u{0}\n]{0,40}", 0..12),
            cuts in prop::collection::vec(1_usize..9, 1..40),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|m| m.bytes().chain([0])).collect();
            let mut buffer = FrameBuffer::default();
            let mut got = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                buffer.push(now);
                got.extend(frames(&mut buffer));
                rest = later;
            }
            let want: Vec<Vec<u8>> = messages.iter().map(|m| m.as_bytes().to_vec()).collect();
            prop_assert_eq!(got, want);
            prop_assert!(!buffer.has_partial());
        }
    }
}
