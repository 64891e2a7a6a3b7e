//! The reference that a model's folder may bring, `reference.json`: what whoever trained or
//! converted the model got from it.
//!
//! Invariant: no reference is no error, and one that cannot be read is never taken for none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::layout::Precision;

/// The reference's file in a model's folder.
pub const REFERENCE: &str = "reference.json";

/// Why there is no telling what the model ought to give.
#[derive(Debug, Error)]
pub enum ReferenceError {
    /// The file cannot be read.
    #[error("{}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It is no reference.
    #[error("{}", file.display())]
    Malformed {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// The reference in a folder and its file, if there is one.
///
/// # Errors
/// [`ReferenceError`], which names the file.
pub fn read<T: DeserializeOwned>(
    folder: &Path,
) -> Result<Option<(PathBuf, Vec<T>)>, ReferenceError> {
    let file = folder.join(REFERENCE);
    match fs::read(&file) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(all) => Ok(Some((file, all))),
            Err(source) => Err(ReferenceError::Malformed { file, source }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReferenceError::Unreadable { file, source }),
    }
}

/// Of three bounds the one for a model's precision: 32 bits; 16 bits, or 8 or fewer in blocks; 8
/// bits.
#[must_use]
pub fn bound(precision: Precision, full: f32, half: f32, int8: f32) -> f32 {
    match precision {
        Precision::Fp32 => full,
        Precision::Fp16 | Precision::Bf16 | Precision::Int8Blocks | Precision::Blocks => half,
        Precision::Int8 | Precision::Int8Dynamic => int8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_none_and_a_broken_one_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read::<u32>(folder.path()).expect("none").is_none());
        fs::write(folder.path().join(REFERENCE), "[1, 2]").expect("written");
        assert_eq!(read::<u32>(folder.path()).expect("readable").expect("there").1, [1, 2]);
        fs::write(folder.path().join(REFERENCE), "{").expect("written");
        let error = read::<u32>(folder.path()).expect_err("broken");
        assert!(
            matches!(error, ReferenceError::Malformed { .. })
                && error.to_string().contains(REFERENCE),
            "{error}"
        );
    }
}
