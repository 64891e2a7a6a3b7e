//! The content-addressed store: `objects/ab/cdef…`, named by the SHA-256 of the content.
//!
//! Invariants: an object is visible only once whole and on disk (unique temporary name, fsync,
//! rename, fsync of the shard); what is read is hashed again, and a damaged object is moved aside
//! and counts as absent; what is put is there, whole, on return, whatever was there before;
//! collection keeps the store under its bound, oldest use first, deletes nothing while any of it
//! could not be listed, and touches no file that is not called as the store calls its own.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::atomic::sync_dir;
use crate::digest::{hex, sha256};

/// A temporary file this old is of a writer that died: none writes for so long.
const TEMPORARY_AGE: Duration = Duration::from_secs(3600);
/// How the names of temporary files begin.
const TEMPORARY: &str = ".tmp-";
/// Digits of a key, a SHA-256 in hex, and of those that name the shard: 256 folders, however many
/// objects.
const KEY_DIGITS: usize = 64;
const SHARD_DIGITS: usize = 2;

/// Why an object cannot be had.
#[derive(Debug, Error)]
pub enum CasError {
    /// The disk refused.
    #[error("content store {path}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The content no longer has the hash it is named by; it was moved to `damaged/`.
    #[error("object {key} is damaged and was moved aside")]
    Damaged {
        /// Its name.
        key: String,
    },
}

/// Whether a name is so many digits of a hash, as the store writes them.
fn is_hex(name: &OsStr, digits: usize) -> bool {
    name.len() == digits
        && name.as_encoded_bytes().iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
}

/// A store in one directory.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens, or creates, a store.
    ///
    /// # Errors
    /// If the directory cannot be created.
    pub fn open(root: &Path) -> Result<Self, CasError> {
        let objects = root.join("objects");
        fs::create_dir_all(&objects).map_err(|source| CasError::Io { path: objects, source })?;
        Ok(Self { root: root.to_owned() })
    }

    fn path(&self, key: &str) -> PathBuf {
        let (shard, rest) = key.split_at(SHARD_DIGITS.min(key.len()));
        self.root.join("objects").join(shard).join(rest)
    }

    /// Stores content and gives its key. Content that is there already costs reading it: a damaged
    /// object of the same length must not be taken for it, and is replaced.
    ///
    /// # Errors
    /// If the disk refuses; nothing is then visible.
    pub fn put(&self, content: &[u8]) -> Result<String, CasError> {
        let key = hex(&sha256(content));
        let path = self.path(&key);
        let failed = |source| CasError::Io { path: path.clone(), source };
        // What cannot be read is written anew as well.
        let same = || fs::read(&path).is_ok_and(|there| there == content);
        if fs::metadata(&path).is_ok_and(|m| m.len() == content.len() as u64) && same() {
            return Ok(key);
        }
        let shard = path.parent().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        if !shard.is_dir() {
            fs::create_dir_all(shard).map_err(failed)?;
            sync_dir(&self.root.join("objects")).map_err(failed)?;
        }
        let mut file =
            tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(shard).map_err(failed)?;
        file.write_all(content).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        sync_dir(shard).map_err(failed)?;
        Ok(key)
    }

    /// Reads an object, verified; `None` if there is none.
    ///
    /// # Errors
    /// [`CasError::Damaged`] if its bytes are not what its name says.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, CasError> {
        if !is_hex(OsStr::new(key), KEY_DIGITS) {
            return Ok(None);
        }
        let path = self.path(key);
        let failed = |source| CasError::Io { path: path.clone(), source };
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(failed)?;
        if hex(&sha256(&content)) != key {
            let aside = self.root.join("damaged");
            fs::create_dir_all(&aside)
                .and_then(|()| fs::rename(&path, aside.join(key)))
                .map_err(failed)?;
            return Err(CasError::Damaged { key: key.to_owned() });
        }
        // The time of last use orders collection; a read-only store is still readable.
        let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
        Ok(Some(content))
    }

    /// Deletes the objects longest unused until the rest fits `bytes_max`. Gives what is left and
    /// how many went. Temporary files of writers that died more than an hour ago go too.
    ///
    /// # Errors
    /// If a directory cannot be listed.
    pub fn collect(&self, bytes_max: u64) -> Result<(u64, usize), CasError> {
        let objects = self.root.join("objects");
        let failed = |source| CasError::Io { path: objects.clone(), source };
        let mut all: Vec<StoredObject> = Vec::new();
        for shard in fs::read_dir(&objects).map_err(failed)? {
            let shard = shard.map_err(failed)?;
            // Nor is a link followed: what it leads to is not ours.
            if !is_hex(&shard.file_name(), SHARD_DIGITS)
                || !shard.file_type().map_err(failed)?.is_dir()
            {
                continue;
            }
            let shard = shard.path();
            let failed = |source| CasError::Io { path: shard.clone(), source };
            for object in fs::read_dir(&shard).map_err(failed)? {
                let object = object.map_err(failed)?;
                let temporary = object.file_name().to_string_lossy().starts_with(TEMPORARY);
                if !temporary && !is_hex(&object.file_name(), KEY_DIGITS - SHARD_DIGITS) {
                    continue;
                }
                let meta = match object.metadata() {
                    // Gone since it was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    meta => meta.map_err(failed)?,
                };
                if !meta.is_file() {
                    continue;
                }
                let used = meta.modified().map_err(failed)?;
                all.push(StoredObject { used, bytes: meta.len(), temporary, path: object.path() });
            }
        }
        let mut left: u64 = all.iter().filter(|seen| !seen.temporary).map(|seen| seen.bytes).sum();
        let mut gone = 0;
        for seen in surplus(all, bytes_max, SystemTime::now()) {
            if fs::remove_file(&seen.path).is_ok() {
                left -= if seen.temporary { 0 } else { seen.bytes };
                gone += 1;
            }
        }
        Ok((left, gone))
    }
}

/// What a listing saw.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct StoredObject {
    used: SystemTime,
    bytes: u64,
    /// Of a writer that has not finished, or died.
    temporary: bool,
    path: PathBuf,
}

/// What of a whole listing goes: old temporary files, and the objects longest unused until the rest
/// fits.
fn surplus(mut all: Vec<StoredObject>, bytes_max: u64, now: SystemTime) -> Vec<StoredObject> {
    all.sort();
    let mut left: u64 = all.iter().filter(|seen| !seen.temporary).map(|seen| seen.bytes).sum();
    all.retain(|seen| {
        if seen.temporary {
            return now.duration_since(seen.used).is_ok_and(|age| age > TEMPORARY_AGE);
        }
        let goes = left > bytes_max;
        left -= if goes { seen.bytes } else { 0 };
        goes
    });
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_bound_is_kept_and_nothing_used_since_goes_before_what_was_not(
            seen in prop::collection::vec((0_u64..10_000, 0_u64..100, any::<bool>()), 0..20),
            bytes_max in 0_u64..600,
        ) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
            let of = |(n, (at, bytes, temporary)): (usize, (u64, u64, bool))| StoredObject {
                used: SystemTime::UNIX_EPOCH + Duration::from_secs(at),
                bytes,
                temporary,
                path: n.to_string().into(),
            };
            let all: Vec<StoredObject> = seen.into_iter().enumerate().map(of).collect();
            let gone = surplus(all.clone(), bytes_max, now);
            let stay: Vec<&StoredObject> = all.iter().filter(|seen| !gone.contains(seen)).collect();
            let kept: u64 = stay.iter().filter(|seen| !seen.temporary).map(|seen| seen.bytes).sum();
            prop_assert!(kept <= bytes_max);
            let last = gone.iter().filter(|seen| !seen.temporary).max();
            if let Some(last) = last {
                prop_assert!(kept + last.bytes > bytes_max, "no more than must");
                prop_assert!(
                    stay.iter().all(|seen| seen.temporary || *seen > last),
                    "the longest unused first"
                );
            }
            prop_assert!(gone.iter().all(|seen| !seen.temporary
                || now.duration_since(seen.used).expect("before") > TEMPORARY_AGE));
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(folder.path()).expect("a store");
        (folder, store)
    }

    #[test]
    fn what_is_put_is_got_and_twice_is_once() {
        let (_folder, store) = store();
        let key = store.put(b"hello").expect("put");
        assert_eq!(store.put(b"hello").expect("again"), key);
        assert_eq!(store.get(&key).expect("got").as_deref(), Some(&b"hello"[..]));
        assert!(store.get(&"0".repeat(64)).expect("absent").is_none());
        assert!(store.get("../../etc/passwd").expect("no key").is_none());
    }

    #[test]
    fn a_flipped_byte_is_noticed_and_moved_aside() {
        let (folder, store) = store();
        let key = store.put(b"hello").expect("put");
        fs::write(store.path(&key), b"hellp").expect("damage");
        assert!(matches!(store.get(&key), Err(CasError::Damaged { .. })));
        assert!(store.get(&key).expect("absent").is_none());
        assert!(folder.path().join("damaged").join(&key).exists());
        store.put(b"hello").expect("put again");
        assert!(store.get(&key).expect("repaired").is_some());
    }

    #[test]
    fn what_was_put_is_there_though_something_damaged_of_its_length_was() {
        let (_folder, store) = store();
        let key = store.put(b"hello").expect("put");
        for damaged in [&b"hellp"[..], b"hell", b"hello and more", b""] {
            fs::write(store.path(&key), damaged).expect("damage");
            assert_eq!(store.put(b"hello").expect("put again"), key);
            assert_eq!(
                store.get(&key).expect("whole").as_deref(),
                Some(&b"hello"[..]),
                "{damaged:?}"
            );
        }
    }

    #[test]
    fn collection_touches_nothing_that_the_store_did_not_make() {
        let (folder, store) = store();
        let key = store.put(b"hello").expect("put");
        let (objects, shard) = (folder.path().join("objects"), store.path(&key));
        let elsewhere = tempfile::tempdir().expect("a temporary directory");
        let theirs = [
            objects.join("ab"),
            objects.join("notes/x"),
            shard.with_file_name("README"),
            elsewhere.path().join(&key[2..]),
        ];
        for path in &theirs {
            fs::create_dir_all(path.parent().expect("a folder"))
                .and_then(|()| fs::write(path, "work"))
                .expect("written");
        }
        std::os::unix::fs::symlink(elsewhere.path(), objects.join("cd")).expect("linked");
        fs::create_dir(shard.with_file_name("0".repeat(62))).expect("made");
        assert_eq!(store.collect(0).expect("collected"), (0, 1));
        assert!(
            theirs.iter().all(|path| path.exists())
                && shard.with_file_name("0".repeat(62)).is_dir()
                && !shard.exists()
        );
    }

    #[test]
    fn collection_keeps_the_bound_and_the_most_recently_used() {
        let (_folder, store) = store();
        let keys: Vec<String> = (0..10_u8).map(|i| store.put(&[i; 100]).expect("put")).collect();
        for (age, key) in keys.iter().enumerate() {
            let used = SystemTime::now() - std::time::Duration::from_secs(1000 - age as u64);
            let file = File::options().write(true).open(store.path(key)).expect("there");
            file.set_times(FileTimes::new().set_modified(used)).expect("set");
        }
        store.get(&keys[0]).expect("used");
        assert_eq!(store.collect(300).expect("collected"), (300, 7));
        assert!(store.get(&keys[0]).expect("kept").is_some());
        assert!(store.get(&keys[1]).expect("gone").is_none());
    }
}
