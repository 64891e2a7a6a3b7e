//! Message framing: one JSON object ended by NUL; or by newline, if the first message on the
//! connection was.
//!
//! The buffer grows with what arrives and never past the bound; the caller reads into
//! [`FrameBuffer::spare`] and takes frames out as index ranges, so nothing is copied twice.

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
    /// The process, or this peer's share of it, has no memory left for so long a message.
    #[error(
        "no memory is left for so long a message while others are on their way ({held} bytes had come)"
    )]
    NoMemory {
        /// What has come so far.
        held: usize,
    },
}

/// Memory is asked for here before it is taken; given back on drop.
pub trait Reservation: Send + Sync + std::fmt::Debug {
    /// Holds this many bytes from now on, in place of what was held. False if there are not so
    /// many; then what was held stays.
    fn resize(&mut self, bytes: usize) -> bool;
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
    /// How far the first message was looked through for its end, while nobody knows yet what ends
    /// it.
    shape: Shape,
    reservation: Option<Box<dyn Reservation>>,
    denied: bool,
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
        Self {
            bytes: Vec::new(),
            start: 0,
            end: 0,
            scanned: 0,
            delimiter: None,
            max,
            shape: Shape::default(),
            reservation: None,
            denied: false,
        }
    }

    /// Asks for memory here from now on.
    pub fn reserve_from(&mut self, mut reservation: Box<dyn Reservation>) {
        self.denied |= !reservation.resize(self.bytes.len());
        self.reservation = Some(reservation);
    }

    /// Takes back what memory was asked from; what it holds goes with it.
    pub fn take_reservation(&mut self) -> Option<Box<dyn Reservation>> {
        self.reservation.take()
    }

    /// A buffer that speaks NUL from the start, as a client does.
    #[must_use]
    pub fn nul() -> Self {
        Self { delimiter: Some(0), ..Self::default() }
    }

    /// Room to read into; empty only if no memory is left, which [`Self::next_frame`] then says.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start > 0 && (self.start == self.end || self.bytes.len() - self.end < FIRST_BYTES) {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.scanned -= self.start;
            self.shape.looked = self.shape.looked.saturating_sub(self.start);
            self.start = 0;
        }
        if self.end == 0 && self.bytes.len() > KEEP_BYTES {
            self.bytes = Vec::new();
        }
        if self.end == self.bytes.len() {
            let grown =
                (self.bytes.len() * 2).max(FIRST_BYTES).min(self.max.max(self.end) + FIRST_BYTES);
            if self.reservation.as_mut().is_some_and(|r| !r.resize(grown)) {
                self.denied = true;
            } else {
                self.bytes.resize(grown, 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// Gives back what a long message took, once nothing of one is here: a connection that waits
    /// holds little.
    pub fn trim(&mut self) {
        if self.end == self.start && self.bytes.len() > KEEP_BYTES {
            self.bytes = Vec::new();
            (self.start, self.end, self.scanned, self.shape.looked) = (0, 0, 0, 0);
            if let Some(reservation) = &mut self.reservation {
                // Less is always granted.
                reservation.resize(0);
            }
        }
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
        if self.denied {
            return Err(FrameError::NoMemory { held: self.end - self.start });
        }
        loop {
            let fresh = &self.bytes[self.scanned..self.end];
            let found = match self.delimiter {
                Some(delimiter) => memchr::memchr(delimiter, fresh),
                None => memchr::memchr2(0, b'\n', fresh),
            };
            let Some(offset) = found else {
                self.scanned = self.end;
                return if self.end - self.start > self.max {
                    Err(FrameError::TooLong { max: self.max })
                } else {
                    Ok(None)
                };
            };
            let at = self.scanned + offset;
            let byte = self.bytes[at];
            if at - self.start >= self.max {
                return Err(FrameError::TooLong { max: self.max });
            }
            let frame = self.start..at;
            self.scanned = at + 1;
            if self.delimiter.is_none() {
                // A newline ends the first message only if what stands before it is whole; else it
                // is white space.
                if byte == b'\n' && !self.shape.is_whole_at(&self.bytes, frame.clone()) {
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

    /// After the end of input: the last message, if it is whole but for its delimiter, as
    /// `printf '{…}' | nc -N` sends it. What is not whole stays [`Self::pending`].
    ///
    /// # Errors
    /// As [`Self::next_frame`].
    pub fn last_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        if self.denied || self.end == self.start {
            return self.next_frame();
        }
        let frame = self.start..self.end;
        let mut shape = if self.delimiter.is_none() {
            self.shape
        } else {
            Shape { looked: self.start, ..Shape::default() }
        };
        if !shape.is_whole_at(&self.bytes, frame.clone()) {
            return Ok(None);
        }
        if self.delimiter.is_none() {
            self.delimiter = Some(b'\n');
        }
        self.start = self.end;
        self.scanned = self.end;
        Ok(Some(&self.bytes[frame]))
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

    /// Whether memory was denied: what is on its way here cannot be taken in.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.denied
    }

    /// Whether more can be taken in: less than the longest message waits, and no memory was denied.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.denied && self.end - self.start < self.max
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

/// Whether every bracket outside a string is closed, as far as was looked. Each byte is looked at
/// once, however many lines a message has.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    /// Up to here.
    looked: usize,
    depth: i64,
    is_in_string: bool,
    is_escaped: bool,
    has_text: bool,
}

impl Shape {
    /// Whether the message is whole if it ends here. Text that is not even an object counts as
    /// whole, so that `hello\n` gets an answer.
    fn is_whole_at(&mut self, bytes: &[u8], frame: Range<usize>) -> bool {
        for byte in &bytes[self.looked.max(frame.start)..frame.end] {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.is_in_string => self.is_escaped = true,
                b'"' => self.is_in_string = !self.is_in_string,
                _ if self.is_in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
            self.has_text |= !byte.is_ascii_whitespace();
        }
        self.looked = frame.end;
        self.depth <= 0 && !self.is_in_string && self.has_text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(buffer: &mut FrameBuffer) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| buffer.next_frame().expect("within the bound").map(<[u8]>::to_vec))
            .collect()
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

    #[test]
    fn a_last_message_needs_no_delimiter_but_must_be_whole() {
        let mut buffer = FrameBuffer::default();
        buffer.push(b"{\"a\":\n1}");
        assert_eq!(buffer.next_frame(), Ok(None));
        assert_eq!(buffer.last_frame(), Ok(Some(&b"{\"a\":\n1}"[..])));
        assert_eq!(buffer.delimiter(), b'\n');
        buffer.push(b"{\"a\":\"}");
        assert_eq!(buffer.next_frame(), Ok(None));
        assert_eq!(buffer.last_frame(), Ok(None));
        assert!(buffer.has_partial());
        let mut nul = FrameBuffer::nul();
        nul.push(b"{}\0{\"b\":2}");
        assert_eq!(frames(&mut nul).len(), 1);
        assert_eq!(nul.last_frame(), Ok(Some(&b"{\"b\":2}"[..])));
        assert_eq!(nul.last_frame(), Ok(None));
    }

    #[test]
    fn a_pretty_printed_message_is_looked_through_once() {
        let mut buffer = FrameBuffer::default();
        let text = format!("{{\n{}\"z\": 0}}", "\"a\": 1,\n".repeat(100_000));
        let begun = std::time::Instant::now();
        for piece in text.as_bytes().chunks(8192) {
            buffer.push(piece);
            assert_eq!(buffer.next_frame(), Ok(None));
        }
        buffer.push(b"\n");
        assert_eq!(frames(&mut buffer), [text.into_bytes()]);
        // 40 s when every line was looked through from the message's beginning; 10 ms now.
        assert!(begun.elapsed().as_secs() < 5);
    }

    #[derive(Debug)]
    struct Little(usize);

    impl Reservation for Little {
        fn resize(&mut self, bytes: usize) -> bool {
            bytes <= self.0
        }
    }

    #[test]
    fn memory_is_asked_for_before_it_is_taken() {
        let mut buffer = FrameBuffer::default();
        buffer.reserve_from(Box::new(Little(3 * FIRST_BYTES)));
        let room = |buffer: &mut FrameBuffer| {
            let spare = buffer.spare();
            spare.fill(b'x');
            let n = spare.len();
            buffer.filled(n);
            n
        };
        assert!((room(&mut buffer), room(&mut buffer)) == (FIRST_BYTES, FIRST_BYTES));
        assert_eq!(buffer.next_frame(), Ok(None));
        assert_eq!(buffer.spare().len(), 0);
        assert_eq!(buffer.next_frame(), Err(FrameError::NoMemory { held: 2 * FIRST_BYTES }));
    }

    #[test]
    fn what_a_long_message_took_is_given_back_while_nothing_comes() {
        let mut buffer = FrameBuffer::default();
        buffer.reserve_from(Box::new(Little(1 << 20)));
        for _ in 0..3 {
            let long = vec![b'x'; 2 * KEEP_BYTES];
            buffer.push(&long);
            buffer.push(b"\0{");
            assert_eq!(frames(&mut buffer), [long]);
            buffer.trim();
            assert!(buffer.bytes.len() > KEEP_BYTES, "half a message is here");
            buffer.push(b"}\0");
            assert_eq!(frames(&mut buffer), [b"{}".to_vec()]);
            buffer.trim();
            assert!(buffer.bytes.is_empty());
        }
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
