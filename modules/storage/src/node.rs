//! By which name a catalog is known in buckets that others use as well: a ULID in the file
//! `catalog/node` of its state.
//!
//! What a catalog has put into such a bucket says so by that name. Invariant: one that cannot be
//! read is an error, and never replaced by another: what was put there before would be a
//! stranger's.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::checked::{self, CheckedContent, CheckedError};

/// The file in a state.
pub const NODE: &str = "catalog/node";
/// Length of a name.
const NODE_CHARS: usize = 26;

/// A catalog's name, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// ULID.
    pub name: String,
    /// Whether its file has a checksum: one of an earlier version has none.
    pub has_sum: bool,
}

/// The name by which the catalog of a state is known in buckets that others use as well; none if it
/// has none yet.
///
/// # Errors
/// [`NodeError`]: what is there is no such name, and none may be put in its place.
pub fn read(state: &Path) -> Result<Option<Node>, NodeError> {
    let path = state.join(NODE);
    let Some(CheckedContent { bytes, has_sum }) = checked::read(&path)? else { return Ok(None) };
    let name = String::from_utf8_lossy(&bytes).trim().to_owned();
    // A ULID: 26 digits of Crockford's base 32.
    let is_plain = name.len() == NODE_CHARS
        && name.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    if is_plain { Ok(Some(Node { name, has_sum })) } else { Err(NodeError::NoName { path }) }
}

/// Why it is not known by which name a catalog goes.
#[derive(Debug, Error)]
pub enum NodeError {
    /// Its file cannot be used.
    #[error(transparent)]
    File(#[from] CheckedError),
    /// Its file holds something else.
    #[error("{} is damaged: it holds no catalog's name, which has {chars} digits and capital letters", .path.display(), chars = NODE_CHARS)]
    NoName {
        /// The file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_catalog_s_name_is_a_name_or_nothing() {
        let state = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(state.path().join("catalog")).expect("made");
        assert_eq!(read(state.path()).expect("none yet"), None);
        let (path, name) = (state.path().join(NODE), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        for (text, has_sum) in [(name.to_owned(), false), (format!("{name}\n"), false)] {
            fs::write(&path, text).expect("written");
            assert_eq!(
                read(state.path()).expect("read"),
                Some(Node { name: name.to_owned(), has_sum })
            );
        }
        checked::write(&path, name.as_bytes()).expect("written");
        assert_eq!(
            read(state.path()).expect("read"),
            Some(Node { name: name.to_owned(), has_sum: true })
        );
        for bad in [
            "zz",
            "",
            "01ARZ3NDEKTSV4RRFFQ69G5FA",
            "01ARZ3NDEKTSV4RRFFQ69G5FA/",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV more",
        ] {
            fs::write(&path, bad).expect("written");
            let refused = read(state.path()).expect_err(bad).to_string();
            assert!(refused.contains("catalog/node"), "{refused}");
        }
    }
}
