//! Small files of state, with a checksum in their last line.
//!
//! ```text
//! …                                            the content, as without a checksum; ends its line
//! brahman-file 1 sha256 <hex of the content>   this line's format, and what the content hashes to
//! ```
//!
//! Invariants: a file is replaced whole or not at all; content that is not what was written is an
//! error and never given; a file without such a line is one of an earlier version, or one that
//! somebody has written by hand: its reader judges whether it makes sense, and its next writing
//! gives it one. Nothing here knows what is in a file, nor what must stop because it cannot be
//! read.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::atomic;
use crate::digest::{hex, sha256};

/// How the last line begins.
const MARK: &str = "brahman-file ";
/// The format of that line which is written.
const FORMAT: u32 = 1;
/// Far more than any of these files has: whoever has another in its place is not read into memory.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What was read of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedContent {
    /// Its content, without the line of the checksum.
    pub bytes: Vec<u8>,
    /// Whether it had a checksum, which was right. Otherwise it is to be written anew, once it was
    /// found to make sense.
    pub has_sum: bool,
}

/// Why a file cannot be used. It was left as it is.
#[derive(Debug, Error)]
pub enum CheckedError {
    /// The disk does not give it.
    #[error("{} cannot be read", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Its content is not what was written.
    #[error(
        "{} is damaged, for its checksum does not match; if somebody has changed it by hand and it is right, remove its last line",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A later version of this program has written it.
    #[error("{} is of file format {format}, expected at most {max}: a newer brahman has written it", .path.display(), max = FORMAT)]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// It is not one of these files.
    #[error("{} has {bytes} bytes, expected at most {max}", .path.display(), max = FILE_BYTES_MAX)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
}

/// Reads a file; none if it is not there.
///
/// # Errors
/// [`CheckedError`], which names the file.
pub fn read(path: &Path) -> Result<Option<CheckedContent>, CheckedError> {
    let unreadable = |source: io::Error| CheckedError::Unreadable { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unreadable)?,
    };
    let length = file.metadata().map_err(unreadable)?.len();
    if length > FILE_BYTES_MAX {
        return Err(CheckedError::TooLarge { path: path.to_owned(), bytes: length });
    }
    let mut bytes = Vec::new();
    file.by_ref().take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    open(path, bytes).map(Some)
}

/// Writes a file whole, with its checksum.
///
/// # Errors
/// As the file system gives them; the old content is then still there.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    atomic::write(path, &seal(content))
}

/// Content with its checksum behind it.
fn seal(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    if bytes.last() != Some(&b'\n') {
        bytes.push(b'\n');
    }
    let sum = hex(&sha256(&bytes));
    bytes.extend_from_slice(format!("{MARK}{FORMAT} sha256 {sum}\n").as_bytes());
    bytes
}

/// Takes the checksum off, if there is one, and compares.
fn open(path: &Path, mut bytes: Vec<u8>) -> Result<CheckedContent, CheckedError> {
    // What was cut off in its last line is not whole either.
    let end = if bytes.last() == Some(&b'\n') { bytes.len() - 1 } else { bytes.len() };
    let start = memchr::memrchr(b'\n', &bytes[..end]).map_or(0, |at| at + 1);
    let Some(line) = bytes[start..end].strip_prefix(MARK.as_bytes()) else {
        return Ok(CheckedContent { bytes, has_sum: false });
    };
    let damaged = || CheckedError::Damaged { path: path.to_owned() };
    let line = std::str::from_utf8(line).map_err(|_| damaged())?;
    let (format, sum) = line.split_once(' ').ok_or_else(damaged)?;
    let format: u32 = format.parse().map_err(|_| damaged())?;
    if format > FORMAT {
        return Err(CheckedError::Newer { path: path.to_owned(), format });
    }
    if format != FORMAT
        || sum.strip_prefix("sha256 ") != Some(hex(&sha256(&bytes[..start])).as_str())
    {
        return Err(damaged());
    }
    bytes.truncate(start);
    Ok(CheckedContent { bytes, has_sum: true })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_written_is_read_and_any_flipped_bit_or_cut_is_noticed() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("x.json");
        assert_eq!(read(&path).expect("none yet"), None);
        write(&path, b"{\"a\": 1}").expect("written");
        let whole = fs::read(&path).expect("there");
        assert_eq!(
            read(&path).expect("read"),
            Some(CheckedContent { bytes: b"{\"a\": 1}\n".to_vec(), has_sum: true })
        );
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            // What is no checksum any more is content that its reader refuses.
            let taken = open(&path, flipped.clone());
            assert!(!matches!(&taken, Ok(CheckedContent { has_sum: true, .. })), "{at}");
            if let Ok(CheckedContent { bytes, .. }) = taken {
                assert!(
                    serde_json::from_slice::<serde_json::Value>(&bytes).is_err(),
                    "{at}: {}",
                    String::from_utf8_lossy(&bytes)
                );
            }
        }
        for length in 0..whole.len() {
            let taken = open(&path, whole[..length].to_vec());
            let value = taken.ok().and_then(|checked| {
                serde_json::from_slice::<serde_json::Value>(&checked.bytes).ok()
            });
            assert!(
                value.is_none_or(|value| value == serde_json::json!({"a": 1})),
                "{length}: it is all there, or it is refused"
            );
        }
    }

    #[test]
    fn what_has_no_checksum_is_read_as_it_is_and_a_newer_format_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("x.json");
        for old in ["", "[1]", "[1]\n", "[\n1]\n\n"] {
            fs::write(&path, old).expect("written");
            assert_eq!(
                read(&path).expect("read"),
                Some(CheckedContent { bytes: old.as_bytes().to_vec(), has_sum: false }),
                "{old:?}"
            );
        }
        fs::write(&path, "[1]\nbrahman-file 2 blake3 0\n").expect("written");
        let refused = read(&path).expect_err("it is newer").to_string();
        assert!(
            refused.contains("x.json")
                && refused.contains("format 2")
                && refused.contains("newer brahman"),
            "{refused}"
        );
        fs::write(&path, "[1]\nbrahman-file 1 sha256 0\n").expect("written");
        let refused = read(&path).expect_err("it is damaged").to_string();
        assert!(
            refused.contains("x.json") && refused.contains("remove its last line"),
            "{refused}"
        );
    }
}
