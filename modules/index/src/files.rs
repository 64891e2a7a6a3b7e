//! The files of an index: what manifests name, whether each is there and whole, and what is wrong
//! with one that is not.
//!
//! Invariants: a file counts as whole only if it was compared with its checksum since it was last
//! written to; an error names its file, and keeps the kind and the cause that it came with. What a
//! file is for is not known here.

mod marks;

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use brahman_storage::digest;
use serde::{Deserialize, Serialize};

pub use marks::Marks;
use marks::Stamp;

/// A file of an index, by its path from the index's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Path below the index's folder.
    pub path: String,
    /// Length of the whole file.
    pub bytes: u64,
    /// SHA-256 of all bytes in hex.
    pub sha256: String,
}

impl FileRef {
    /// Whether the path stays in the index's folder. It is read from a file.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        !self.path.is_empty()
            && Path::new(&self.path).components().all(|part| matches!(part, Component::Normal(_)))
    }
}

/// A file that is missing, or not what its manifest says.
#[derive(Debug, thiserror::Error)]
#[error("{path}")]
pub struct Damage {
    /// The file, from the index's folder.
    pub path: String,
    /// What is wrong with it.
    #[source]
    pub mismatch: Mismatch,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Mismatch {
    /// It is missing, or cannot be read.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// It is longer or shorter than it was.
    #[error("it has {bytes} bytes, the manifest says {expected}")]
    Length {
        /// Its length.
        bytes: u64,
        /// What that was.
        expected: u64,
    },
    /// Its bytes are others than they were.
    #[error("its checksum does not match the manifest")]
    Checksum,
}

impl Damage {
    /// The damage that an error tells of, itself or as what caused it.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        let mut next = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
        while let Some(cause) = next {
            if let Some(damage) = cause.downcast_ref::<Self>() {
                return Some(damage);
            }
            // Its source is that of what it holds, not what it holds.
            if let Some(error) = cause.downcast_ref::<io::Error>() {
                return Self::of(error);
            }
            next = cause.source();
        }
        None
    }
}

impl From<Damage> for io::Error {
    fn from(damage: Damage) -> Self {
        Self::new(io::ErrorKind::InvalidData, damage)
    }
}

/// Which file an error is of.
#[derive(Debug, thiserror::Error)]
#[error("{path}")]
struct FileError {
    path: String,
    #[source]
    source: io::Error,
}

/// An error with the file that it is of; its kind stays.
pub(crate) fn named(path: impl Into<String>, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), FileError { path: path.into(), source })
}

/// What makes no sense, with its cause.
pub(crate) fn bad(error: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The files in one index's folder. Clones share what is known of them.
#[derive(Clone, Debug)]
pub struct Files {
    path: PathBuf,
    marks: Arc<Marks>,
}

impl Files {
    /// Those in this folder.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), marks: Arc::default() }
    }

    /// The folder that all paths are below.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Files that were compared with their checksums.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// A file as a manifest names it, by what it is now.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn describe(&self, path: &str) -> io::Result<FileRef> {
        let at = self.path.join(path);
        let stamp = Stamp::of(&fs::metadata(&at)?);
        let (sha256, bytes) = digest::sha256_file(&at)?;
        let file = FileRef { path: path.to_owned(), bytes, sha256 };
        self.marks.put(&file, stamp);
        Ok(file)
    }

    /// Forgets that a file was compared: it goes, or is to be read again.
    pub fn forget(&self, path: &str) {
        self.marks.forget(path);
    }

    /// That a file is there and whole. It is read only if that has not been done since it was last
    /// written to.
    ///
    /// # Errors
    /// [`Damage`], naming the file.
    pub fn whole(&self, file: &FileRef) -> Result<(), Damage> {
        self.compare(file).map_err(|mismatch| Damage { path: file.path.clone(), mismatch })
    }

    fn compare(&self, file: &FileRef) -> Result<(), Mismatch> {
        let at = self.path.join(&file.path);
        let meta = fs::metadata(&at)?;
        if meta.len() != file.bytes {
            return Err(Mismatch::Length { bytes: meta.len(), expected: file.bytes });
        }
        let stamp = Stamp::of(&meta);
        if self.marks.knows(file, stamp) {
            return Ok(());
        }
        if digest::sha256_file(&at)?.0 != file.sha256 {
            return Err(Mismatch::Checksum);
        }
        self.marks.put(file, stamp);
        Ok(())
    }

    /// What is wrong with a file, if anything. What was read once is read again.
    #[must_use]
    pub fn wrong(&self, file: &FileRef) -> Option<Damage> {
        self.forget(&file.path);
        self.whole(file).err()
    }
}
