//! Which files of this machine were found to be what they should be, so that each is read once and
//! not at every look.
//!
//! A file is told by device, inode, length and the times of its last change. Invariants: what was
//! remembered of a file that has changed since is not used; a file that changed a moment before it
//! was read is not remembered, for it may change again within one tick of its clock. What changes
//! without the file system's knowledge, as a disk does that rots, is for the scrub, which remembers
//! nothing.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use brahman_sidecar::chain;
use brahman_storage::digest::sha256_file;

/// Files that are remembered; of more all are read again.
const KNOWN_MAX: usize = 100_000;
/// Longer than a tick of any file system's clock.
const TICK_NS: i128 = 100_000_000;

/// A file at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

fn nanoseconds(seconds: i64, rest: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(rest)
}

impl Identity {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            changed_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether it has been as it is for longer than a tick.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|d| i128::try_from(d.as_nanos()).ok());
        now.is_some_and(|now| now - self.modified_ns.max(self.changed_ns) > TICK_NS)
    }
}

/// How an object's file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Whole,
    /// Gone, or of another length.
    Missing,
    /// Of the right length, and not what it should be.
    Damaged(String),
}

/// What was found of files.
#[derive(Debug, Default)]
pub struct VerifiedFiles {
    known: Mutex<HashMap<PathBuf, (Identity, String)>>,
}

impl VerifiedFiles {
    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, (Identity, String)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file against its length and its SHA-256. It is read if it is not the file that was read
    /// last.
    pub fn state(&self, path: &Path, bytes: u64, sha256: &str) -> State {
        match self.sha256(path, bytes) {
            Ok(Some(found)) if found == sha256 => State::Whole,
            Ok(Some(found)) => State::Damaged(format!("its sha256 is {found}, expected {sha256}")),
            Ok(None) => State::Missing,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                State::Missing
            }
            Err(error) => State::Damaged(chain(&error)),
        }
    }

    /// None of a file of another length.
    fn sha256(&self, path: &Path, bytes: u64) -> io::Result<Option<String>> {
        let before = Identity::of(&fs::metadata(path)?);
        if before.bytes != bytes {
            return Ok(None);
        }
        let remembered = self
            .known()
            .get(path)
            .filter(|(seen, _)| *seen == before)
            .map(|(_, sha256)| sha256.clone());
        if remembered.is_some() {
            return Ok(remembered);
        }
        let settled = before.is_settled();
        let (sha256, read) = sha256_file(path)?;
        if settled && read == bytes && Identity::of(&fs::metadata(path)?) == before {
            let mut known = self.known();
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(path.to_owned(), (before, sha256.clone()));
        }
        Ok(Some(sha256))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use brahman_storage::digest::{hex, sha256};

    use super::*;

    #[test]
    fn a_file_is_read_again_whenever_it_has_changed() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("x");
        let (verified, whole) = (VerifiedFiles::default(), hex(&sha256(b"whole")));
        assert_eq!(verified.state(&path, 5, &whole), State::Missing);
        fs::write(&path, "whole").expect("written");
        assert_eq!(verified.state(&path, 5, &whole), State::Whole);
        assert!(verified.known().is_empty(), "it may change again within this tick");
        fs::write(&path, "Whole").expect("damaged");
        assert!(
            matches!(verified.state(&path, 5, &whole), State::Damaged(why) if why.contains("sha256"))
        );
        fs::write(&path, "who").expect("cut");
        assert_eq!(verified.state(&path, 5, &whole), State::Missing);
    }

    #[test]
    fn a_file_that_has_not_changed_is_not_read_again_and_one_whose_times_were_set_back_is() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("x");
        let (verified, whole) = (VerifiedFiles::default(), hex(&sha256(b"whole")));
        fs::write(&path, "whole").expect("written");
        let identity = || Identity::of(&fs::metadata(&path).expect("there"));
        let since = SystemTime::now();
        while !identity().is_settled() {
            assert!(
                since.elapsed().is_ok_and(|waited| waited < Duration::from_secs(10)),
                "a tick is short"
            );
            std::thread::yield_now();
        }
        assert_eq!(verified.state(&path, 5, &whole), State::Whole);
        // What it remembers is what it says.
        verified.known().insert(path.clone(), (identity(), "other".into()));
        assert!(matches!(verified.state(&path, 5, &whole), State::Damaged(_)));
        let modified = fs::metadata(&path).and_then(|meta| meta.modified()).expect("a time");
        fs::write(&path, "Whole").expect("damaged");
        fs::File::open(&path).and_then(|file| file.set_modified(modified)).expect("set back");
        verified
            .known()
            .insert(path.clone(), (Identity { changed_ns: 0, ..identity() }, whole.clone()));
        assert!(
            matches!(verified.state(&path, 5, &whole), State::Damaged(_)),
            "its inode has changed since"
        );
    }
}
