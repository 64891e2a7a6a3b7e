//! Tar archives (POSIX.1-2001, pax), as `tar` writes and reads them: regular files alone.
//!
//! Invariants: what is written has the length that its header says, or it is an error; what is read
//! is of plain relative paths, and nothing else than files is taken out of an archive.

use std::fmt::Write as _;
use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

/// Everything in an archive comes in blocks of this length.
const BLOCK: usize = 512;
/// Longest name in a header; a longer one has a header of its own.
const NAME_BYTES: usize = 100;
/// Largest number in eleven octal digits; a larger size has a header of its own.
const SIZE_MAX: u64 = 0o777_7777_7777;
/// Longest header of a header: a path and a number.
const PAX_BYTES_MAX: u64 = 64 * 1024;
/// Bytes copied at once.
const BUFFER: usize = 256 * 1024;

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// Copies exactly `size` bytes; gives their SHA-256 in hex.
fn copy(from: &mut dyn Read, to: &mut dyn Write, size: u64) -> io::Result<String> {
    let (mut left, mut hasher, mut buffer) = (size, Sha256::new(), vec![0_u8; BUFFER]);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
        let n = from.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it ends {left} bytes early"),
            ));
        }
        hasher.update(&buffer[..n]);
        to.write_all(&buffer[..n])?;
        left -= n as u64;
    }
    let sum: [u8; 32] = hasher.finalize().into();
    let mut hex = String::with_capacity(64);
    for byte in sum {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(hex)
}

/// Writes an archive.
#[derive(Debug)]
pub(crate) struct TarWriter<W> {
    out: W,
    at_s: u64,
}

impl<W: Write> TarWriter<W> {
    /// Whose files are of this Unix time, in seconds.
    pub(crate) fn new(out: W, at_s: u64) -> Self {
        Self { out, at_s }
    }

    /// Adds a file of a known length; gives its SHA-256 in hex.
    pub(crate) fn append(
        &mut self,
        path: &str,
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<String> {
        let mut extended = String::new();
        if path.len() > NAME_BYTES {
            extended.push_str(&record("path", path));
        }
        if size > SIZE_MAX {
            extended.push_str(&record("size", &size.to_string()));
        }
        if !extended.is_empty() {
            self.out.write_all(&header("pax", extended.len() as u64, b'x', self.at_s))?;
            self.out.write_all(extended.as_bytes())?;
            self.pad(extended.len() as u64)?;
        }
        self.out.write_all(&header(path, size, b'0', self.at_s))?;
        let sha256 = copy(content, &mut self.out, size)?;
        self.pad(size)?;
        Ok(sha256)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let zeros = [0_u8; BLOCK];
        self.out.write_all(&zeros[..usize::try_from(padding(size)).unwrap_or(0)])
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// A record of a pax header, whose length counts itself.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

fn header(path: &str, size: u64, kind: u8, at_s: u64) -> [u8; BLOCK] {
    let mut block = [0_u8; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    // What is cut here stands in a header of its own.
    put(0, &path.as_bytes()[..path.len().min(NAME_BYTES)]);
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", size.min(SIZE_MAX)).as_bytes());
    put(136, format!("{:011o}\0", at_s.min(SIZE_MAX)).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// One file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TarEntry {
    /// Relative, of plain parts.
    pub(crate) path: String,
    pub(crate) size: u64,
}

/// Reads an archive.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    input: R,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input }
    }

    /// The next file; none at the archive's end. Its content is to be taken before the next is
    /// asked for.
    pub(crate) fn next_entry(&mut self) -> io::Result<Option<TarEntry>> {
        let (mut path, mut size) = (None, None);
        loop {
            let mut block = [0_u8; BLOCK];
            self.input.read_exact(&mut block).map_err(|_| bad("the archive ends early"))?;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let mut blank = block;
            blank[148..156].copy_from_slice(b"        ");
            let sum: u64 = blank.iter().map(|byte| u64::from(*byte)).sum();
            if octal(&block[148..156]) != Some(sum) {
                return Err(bad("a header of the archive is damaged"));
            }
            let own_size = octal(&block[124..136])
                .ok_or_else(|| bad("a header of the archive has no size"))?;
            match block[156] {
                b'x' | b'g' => {
                    if own_size > PAX_BYTES_MAX {
                        return Err(bad("a header of the archive is too long"));
                    }
                    let mut text = Vec::new();
                    self.take(own_size, &mut text)?;
                    for (key, value) in records(&text) {
                        match key {
                            "path" => path = Some(value.to_owned()),
                            "size" => {
                                size = Some(
                                    value
                                        .parse()
                                        .map_err(|_| bad("a size in the archive is no number"))?,
                                );
                            }
                            _ => {}
                        }
                    }
                }
                b'0' | 0 => {
                    let path = path.unwrap_or_else(|| name(&block));
                    if !is_plain(&path) {
                        return Err(bad(format!(
                            "the archive has `{}`, expected plain relative paths",
                            path.escape_debug()
                        )));
                    }
                    return Ok(Some(TarEntry { path, size: size.unwrap_or(own_size) }));
                }
                // A folder is made with what is in it.
                b'5' => (path, size) = (None, None),
                kind => {
                    return Err(bad(format!(
                        "the archive has an entry of kind `{}`, expected files alone",
                        kind.escape_ascii()
                    )));
                }
            }
        }
    }

    /// Writes the content of the file that was met last; gives its SHA-256 in hex.
    pub(crate) fn take(&mut self, size: u64, to: &mut dyn Write) -> io::Result<String> {
        let sha256 = copy(&mut self.input, to, size)?;
        copy(&mut self.input, &mut io::sink(), padding(size))?;
        Ok(sha256)
    }
}

fn text_until_zero(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn name(block: &[u8; BLOCK]) -> String {
    let (name, prefix) = (text_until_zero(&block[..NAME_BYTES]), text_until_zero(&block[345..500]));
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = text_until_zero(field);
    u64::from_str_radix(text.trim(), 8).ok()
}

fn records(text: &[u8]) -> Vec<(&str, &str)> {
    let (mut all, mut rest) = (Vec::new(), text);
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let length: Option<usize> =
            std::str::from_utf8(&rest[..space]).ok().and_then(|length| length.parse().ok());
        let Some(length) = length.filter(|length| *length > space && *length <= rest.len()) else {
            break;
        };
        let record = std::str::from_utf8(&rest[space + 1..length])
            .ok()
            .and_then(|record| record.strip_suffix('\n')?.split_once('='));
        all.extend(record);
        rest = &rest[length..];
    }
    all
}

fn is_plain(path: &str) -> bool {
    !path.contains('\0')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_whatever_its_name_and_length() {
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(200));
        let files = [
            ("a", vec![]),
            ("b/c.bin", vec![7_u8; 512]),
            (long.as_str(), vec![1, 2, 3]),
            ("ü", vec![9; 1000]),
        ];
        let mut archive = TarWriter::new(Vec::new(), 1);
        let sums: Vec<String> = files
            .iter()
            .map(|(path, bytes)| {
                archive.append(path, bytes.len() as u64, &mut bytes.as_slice()).expect("written")
            })
            .collect();
        let bytes = archive.finish().expect("ended");
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut reader = TarReader::new(bytes.as_slice());
        for ((path, content), sum) in files.iter().zip(&sums) {
            let entry = reader.next_entry().expect("read").expect("a file");
            let mut found = Vec::new();
            assert_eq!(reader.take(entry.size, &mut found).expect("taken"), *sum);
            assert_eq!((entry.path.as_str(), &found), (*path, content));
        }
        assert_eq!(reader.next_entry().expect("read"), None);
        // Any cut is noticed, and so is a header that was changed.
        for length in [bytes.len() - 1024, 700, 100] {
            let mut reader = TarReader::new(&bytes[..length]);
            let outcome = loop {
                match reader.next_entry() {
                    Ok(Some(entry)) => match reader.take(entry.size, &mut io::sink()) {
                        Ok(_) => {}
                        Err(error) => break Err(error),
                    },
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            assert!(outcome.is_err(), "{length}");
        }
        let mut changed = bytes.clone();
        changed[0] ^= 1;
        assert!(TarReader::new(changed.as_slice()).next_entry().is_err());
    }

    #[test]
    fn the_real_tar_reads_it_and_what_leads_elsewhere_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(120));
        let mut archive = TarWriter::new(Vec::new(), 1);
        archive.append(&long, 5, &mut &b"hello"[..]).expect("written");
        std::fs::write(folder.path().join("x.tar"), archive.finish().expect("ended"))
            .expect("written");
        let done = std::process::Command::new("tar")
            .args(["xf", "x.tar"])
            .current_dir(folder.path())
            .status()
            .expect("tar runs");
        assert!(done.success());
        assert_eq!(std::fs::read(folder.path().join(long)).expect("there"), b"hello");
        for path in ["../x", "/etc/x", "a//b", "a/./b"] {
            let mut archive = TarWriter::new(Vec::new(), 1);
            archive.append(path, 0, &mut io::empty()).expect("written");
            let bytes = archive.finish().expect("ended");
            assert!(TarReader::new(bytes.as_slice()).next_entry().is_err(), "{path}");
        }
    }

    #[test]
    fn a_file_that_is_shorter_than_was_said_is_an_error() {
        assert!(TarWriter::new(Vec::new(), 1).append("a", 5, &mut &b"abc"[..]).is_err());
        assert_eq!(record("path", "x"), "9 path=x\n");
        assert_eq!(records(b"9 path=x\n11 size=12\n"), [("path", "x"), ("size", "12")]);
    }
}
