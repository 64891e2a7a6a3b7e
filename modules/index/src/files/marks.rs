//! Files whose checksum was compared since the module began, so that a commit need not read again
//! what it has read.
//!
//! A mark holds for a file as it lay then: of that inode, length and times. What somebody writes
//! into a file ends its mark; what a disk changes behind everybody's back does not, which is why
//! `Doctor` and the check behind the answers read everything.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::FileRef;

/// Which file it was, and when it was last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp([i64; 6]);

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        let (inode, bytes) = (meta.ino().cast_signed(), meta.len().cast_signed());
        Self([inode, bytes, meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()])
    }
}

/// The marks of one index.
#[derive(Debug, Default)]
pub struct Marks {
    by_path: Mutex<HashMap<String, (String, Stamp)>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Marks {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (String, Stamp)>> {
        // Every change is one insertion or removal.
        self.by_path.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the file was compared and has not been written to since.
    pub(super) fn knows(&self, file: &FileRef, stamp: Stamp) -> bool {
        let known = self
            .lock()
            .get(&file.path)
            .is_some_and(|(sha256, then)| *sha256 == file.sha256 && *then == stamp);
        let counter = if known { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        known
    }

    pub(super) fn put(&self, file: &FileRef, stamp: Stamp) {
        self.lock().insert(file.path.clone(), (file.sha256.clone(), stamp));
    }

    pub(super) fn forget(&self, path: &str) {
        self.lock().remove(path);
    }

    /// How many files have one, how often one spared a reading, and how often there was none.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        (
            self.lock().len() as u64,
            self.hits.load(Ordering::Relaxed),
            self.misses.load(Ordering::Relaxed),
        )
    }
}
