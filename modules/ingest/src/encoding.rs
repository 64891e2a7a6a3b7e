//! Text in the encodings that spreadsheets and older programs write, as UTF-8.
//!
//! Invariants: UTF-16 is told by its byte-order mark, Windows-1252 only where a table is guessed
//! and nothing in it is UTF-8 beyond ASCII; what no character stands for is a replacement
//! character, of which the lines that have one can be told; a text that was taken for Windows-1252
//! and goes on as UTF-8 is an error, for one of the two would be misread; memory is bounded.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::source::open as open_bytes;

/// Bytes that are looked at, and decoded at once.
const CHUNK: usize = 64 << 10;

/// How a text is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Nothing needs to be done.
    Utf8,
    /// UTF-16, the lower byte first.
    Utf16Le,
    /// UTF-16, the higher byte first.
    Utf16Be,
    /// What Windows writes in the west.
    Windows1252,
}

impl Encoding {
    /// The encoding that a person names so.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "utf-8" | "utf8" => Self::Utf8,
            "utf-16" | "utf-16le" | "utf16" => Self::Utf16Le,
            "utf-16be" => Self::Utf16Be,
            "windows-1252" | "cp1252" | "latin1" | "iso-8859-1" => Self::Windows1252,
            _ => return None,
        })
    }

    /// Its name, as `--encoding` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Utf16Le => "UTF-16LE",
            Self::Utf16Be => "UTF-16BE",
            Self::Windows1252 => "Windows-1252",
        }
    }
}

/// Of the bytes 0x80 to 0x9f in Windows-1252; five stand for nothing, which browsers take for
/// control characters, as is done here.
const WINDOWS: [char; 32] = [
    '\u{20ac}', '\u{81}', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}',
    '\u{2c6}', '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\u{8d}', '\u{17d}', '\u{8f}',
    '\u{90}', '\u{2018}', '\u{2019}', '\u{201c}', '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}',
    '\u{2dc}', '\u{2122}', '\u{161}', '\u{203a}', '\u{153}', '\u{9d}', '\u{17e}', '\u{178}',
];

/// A text of two encodings.
#[derive(Debug, Error)]
#[error("{}: is UTF-8 from byte {at} on and not before, where it is Windows-1252: say which it is (--encoding)", .path.display())]
struct MixedError {
    path: PathBuf,
    at: u64,
}

/// Opens a file as UTF-8, without its byte-order mark; gives how it is encoded, if that is known.
/// `said` is what somebody says of it.
///
/// # Errors
/// As the file system gives them.
pub(crate) fn open(
    path: &Path,
    stop: &CancellationToken,
    said: Option<Encoding>,
) -> io::Result<(Box<dyn Read + Send>, Option<Encoding>)> {
    let mut reader = open_bytes(path, stop)?;
    let mut beginning = Vec::new();
    reader.by_ref().take(3).read_to_end(&mut beginning)?;
    let (encoding, mark) = match beginning[..] {
        [0xef, 0xbb, 0xbf] => (Some(Encoding::Utf8), 3),
        [0xff, 0xfe, ..] => (Some(Encoding::Utf16Le), 2),
        [0xfe, 0xff, ..] => (Some(Encoding::Utf16Be), 2),
        _ => (said, 0),
    };
    beginning.drain(..mark);
    let reader: Box<dyn Read + Send> = Box::new(io::Cursor::new(beginning).chain(reader));
    Ok(match encoding {
        None | Some(Encoding::Utf8) => (reader, encoding),
        Some(other) => (Box::new(Decoder::new(reader, other)), encoding),
    })
}

/// Opens a file that [`is_windows`] by its beginning. Reading it fails if it goes on as UTF-8.
///
/// # Errors
/// As the file system gives them.
pub(crate) fn open_windows(
    path: &Path,
    stop: &CancellationToken,
) -> io::Result<Box<dyn Read + Send>> {
    let lookout = Some(Utf8Lookout::new(path));
    Ok(Box::new(Decoder {
        lookout,
        ..Decoder::new(open_bytes(path, stop)?, Encoding::Windows1252)
    }))
}

/// A whole text, and how it was written: by its byte-order mark, in UTF-8, or in Windows-1252 where
/// nothing speaks against it. None of what holds bytes that no text has.
///
/// # Errors
/// Where it is no UTF-8, if that may be anything.
pub(crate) fn whole_text(bytes: Vec<u8>) -> Result<Option<(String, Encoding)>, usize> {
    let (encoding, mark) = match bytes[..] {
        [0xff, 0xfe, ..] => (Some(Encoding::Utf16Le), 2),
        [0xfe, 0xff, ..] => (Some(Encoding::Utf16Be), 2),
        _ => (None, 0),
    };
    let decoded = |encoding: Encoding| {
        let mut text = String::new();
        let reader = Box::new(io::Cursor::new(bytes[mark..].to_vec()));
        Decoder::new(reader, encoding).read_to_string(&mut text).ok().map(|_| (text, encoding))
    };
    if let Some(encoding) = encoding {
        return Ok(decoded(encoding).filter(|(text, _)| !text.contains('\0')));
    }
    if bytes.contains(&0) {
        return Ok(None);
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Some((text.to_owned(), Encoding::Utf8))),
        // Programs and pictures have such bytes, texts of this encoding have not.
        Err(_) if is_windows(&bytes) && !bytes.iter().any(is_control) => {
            Ok(decoded(Encoding::Windows1252))
        }
        Err(error) => Err(error.valid_up_to()),
    }
}

/// Whether a byte is one that no text has: neither a blank nor a page's end.
fn is_control(byte: &u8) -> bool {
    matches!(byte, 0..=8 | 11 | 14..=31 | 127)
}

/// Whether a text that is not UTF-8 is none at all: no character beyond ASCII in it is written as
/// UTF-8 would.
pub(crate) fn is_windows(beginning: &[u8]) -> bool {
    let (mut rest, mut foreign) = (beginning, false);
    loop {
        match std::str::from_utf8(rest) {
            Ok(text) => return foreign && text.is_ascii(),
            Err(error) => {
                if !rest[..error.valid_up_to()].is_ascii() {
                    return false;
                }
                // A character that is cut by the end of what is looked at says nothing.
                let Some(length) = error.error_len() else { return foreign };
                foreign = true;
                rest = &rest[error.valid_up_to() + length..];
            }
        }
    }
}

/// Looks whether a text that was taken for Windows-1252 goes on as UTF-8: whether a line has
/// characters beyond ASCII, and all of them as UTF-8 writes them. A few bytes alone say little:
/// `ß“` in Windows-1252 is a character in UTF-8 as well.
struct Utf8Lookout {
    path: PathBuf,
    /// Bytes before those in `cut`.
    at: u64,
    /// The beginning of a character whose other bytes are to come.
    cut: Vec<u8>,
    /// Where this line has its first character beyond ASCII that UTF-8 writes so.
    found: Option<u64>,
    /// Whether this line has bytes that UTF-8 does not.
    foreign: bool,
}

impl Utf8Lookout {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), at: 0, cut: Vec::new(), found: None, foreign: false }
    }

    /// Looks at the next bytes; none are the end.
    fn look(&mut self, chunk: &[u8]) -> Result<(), MixedError> {
        if chunk.is_empty() {
            self.foreign |= !self.cut.is_empty();
            return self.end_line();
        }
        let bytes: Vec<u8> = self.cut.drain(..).chain(chunk.iter().copied()).collect();
        let mut rest = bytes.as_slice();
        while let Err(error) = std::str::from_utf8(rest) {
            let (valid, other) = rest.split_at(error.valid_up_to());
            self.lines(valid)?;
            let Some(length) = error.error_len() else {
                self.cut = other.to_vec();
                return Ok(());
            };
            self.foreign = true;
            self.at += length as u64;
            rest = &other[length..];
        }
        self.lines(rest)
    }

    /// Looks at text.
    fn lines(&mut self, text: &[u8]) -> Result<(), MixedError> {
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let place = line.iter().position(|byte| !byte.is_ascii());
            self.found = self.found.or(place.map(|place| self.at + place as u64));
            self.at += line.len() as u64;
            if line.ends_with(b"\n") {
                self.end_line()?;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), MixedError> {
        let (found, foreign) = (self.found.take(), std::mem::take(&mut self.foreign));
        found
            .filter(|_| !foreign)
            .map_or(Ok(()), |at| Err(MixedError { path: self.path.clone(), at }))
    }
}

/// A reader of UTF-8.
struct Decoder {
    reader: Box<dyn Read + Send>,
    encoding: Encoding,
    /// A byte whose other half is to come.
    rest: Vec<u8>,
    /// Half of a pair whose other half is to come.
    high: Option<u16>,
    out: Vec<u8>,
    given: usize,
    ended: bool,
    /// Where the encoding was only guessed.
    lookout: Option<Utf8Lookout>,
}

impl Decoder {
    fn new(reader: Box<dyn Read + Send>, encoding: Encoding) -> Self {
        Self {
            reader,
            encoding,
            rest: Vec::new(),
            high: None,
            out: Vec::new(),
            given: 0,
            ended: false,
            lookout: None,
        }
    }

    fn push(&mut self, c: char) {
        self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn unit(&mut self, unit: u16) {
        let before = self.high.take();
        for decoded in char::decode_utf16(before.into_iter().chain([unit])) {
            match decoded {
                Ok(c) => self.push(c),
                Err(error)
                    if error.unpaired_surrogate() == unit && (0xd800..0xdc00).contains(&unit) =>
                {
                    self.high = Some(unit);
                }
                Err(_) => self.push('\u{fffd}'),
            }
        }
    }

    fn decode(&mut self, chunk: &[u8]) {
        if self.encoding == Encoding::Windows1252 {
            for byte in chunk {
                self.push(match byte {
                    0x80..=0x9f => WINDOWS[usize::from(byte - 0x80)],
                    byte => char::from(*byte),
                });
            }
            return;
        }
        let bytes: Vec<u8> = self.rest.drain(..).chain(chunk.iter().copied()).collect();
        let pairs = bytes.chunks_exact(2);
        self.rest = pairs.remainder().to_vec();
        for pair in pairs {
            let pair = [pair[0], pair[1]];
            self.unit(if self.encoding == Encoding::Utf16Be {
                u16::from_be_bytes(pair)
            } else {
                u16::from_le_bytes(pair)
            });
        }
        if self.ended && (self.high.take().is_some() || !std::mem::take(&mut self.rest).is_empty())
        {
            self.push('\u{fffd}');
        }
    }
}

impl Read for Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.out.len() && !self.ended {
            self.given = 0;
            self.out.clear();
            let mut chunk = Vec::with_capacity(CHUNK);
            self.reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
            self.ended = chunk.is_empty();
            if let Some(lookout) = &mut self.lookout {
                lookout
                    .look(&chunk)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            self.decode(&chunk);
        }
        let some = buffer.len().min(self.out.len() - self.given);
        buffer[..some].copy_from_slice(&self.out[self.given..self.given + some]);
        self.given += some;
        Ok(some)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_text_is_read_as_it_was_written_and_what_is_none_is_not() {
        let text = |bytes: &[u8]| whole_text(bytes.to_vec());
        assert_eq!(text(b"plain \xc3\xa9"), Ok(Some(("plain \u{e9}".into(), Encoding::Utf8))));
        assert_eq!(
            text(b"R\xe9union \x85 fin"),
            Ok(Some(("R\u{e9}union \u{2026} fin".into(), Encoding::Windows1252)))
        );
        assert_eq!(text(b"\xff\xfea\0\xe9\0"), Ok(Some(("a\u{e9}".into(), Encoding::Utf16Le))));
        assert_eq!(text(b"\xfe\xff\0a"), Ok(Some(("a".into(), Encoding::Utf16Be))));
        assert_eq!(text(b"a\0b"), Ok(None));
        assert_eq!(text(b"a\xe9\x01"), Err(1));
        assert_eq!(text(b"\xc3\xa9 \xe9"), Err(3), "in part UTF-8");
        assert_eq!(text(b""), Ok(Some((String::new(), Encoding::Utf8))));
    }

    fn of(bytes: &[u8], said: Option<Encoding>) -> (String, Option<Encoding>) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), bytes).expect("written");
        let (mut reader, encoding) =
            open(file.path(), &CancellationToken::new(), said).expect("opened");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("UTF-8");
        (text, encoding)
    }

    #[test]
    fn what_windows_writes_is_read() {
        assert_eq!(
            of(b"Gr\xf6\xdfe \x80", Some(Encoding::Windows1252)).0,
            "Gr\u{f6}\u{df}e \u{20ac}"
        );
        assert_eq!(of(b"\xef\xbb\xbfa", None), ("a".to_owned(), Some(Encoding::Utf8)));
        assert_eq!(of(b"", None).0, "");
        assert_eq!(of(b"\xff\xfea\0\xd8", None).0, "a\u{fffd}", "cut in the middle of a character");
        assert!(
            is_windows(b"Gr\xf6\xdfe")
                && !is_windows("Gr\u{f6}\u{df}e".as_bytes())
                && !is_windows(b"plain")
        );
        assert!(
            !is_windows(
                "Gr\u{f6}\u{df}e \n".bytes().chain(*b"caf\xe9\n").collect::<Vec<_>>().as_slice()
            ),
            "one bad line of many"
        );
    }

    #[test]
    fn a_line_that_is_utf_8_is_found_wherever_the_text_is_cut() {
        let of = |text: &[u8], size: usize| {
            let mut lookout = Utf8Lookout::new(Path::new("x.csv"));
            text.chunks(size)
                .chain([&[][..]])
                .try_for_each(|chunk| lookout.look(chunk))
                .map_err(|error| error.at)
        };
        for size in 1..9 {
            assert_eq!(of(b"caf\xe9\nplain\nZo\xc3\xab\n", size), Err(13), "{size}");
            assert_eq!(of(b"caf\xe9\nZo\xc3\xab", size), Err(7), "the last line, {size}");
            assert_eq!(
                of(b"\x84Spa\xdf\x93\ncaf\xe9 Zo\xc3\xab\ncut \xc3", size),
                Ok(()),
                "no line is, {size}"
            );
        }
    }

    proptest! {
        #[test]
        fn utf_16_is_read_both_ways(text in "\\PC{0,40}", chunk in 1_usize..5) {
            let bytes = |big: bool| -> Vec<u8> {
                let units = std::iter::once('\u{feff}').chain(text.chars()).collect::<String>();
                units
                    .encode_utf16()
                    .flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() })
                    .collect()
            };
            prop_assert_eq!(&of(&bytes(false), None), &(text.clone(), Some(Encoding::Utf16Le)));
            prop_assert_eq!(&of(&bytes(true), None), &(text.clone(), Some(Encoding::Utf16Be)));
            // Cut anywhere.
            let mut decoder = Decoder::new(Box::new(io::empty()), Encoding::Utf16Be);
            bytes(true)[2..].chunks(chunk).for_each(|chunk| decoder.decode(chunk));
            prop_assert_eq!(String::from_utf8(decoder.out).expect("UTF-8"), text);
        }
    }
}
