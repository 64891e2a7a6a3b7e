//! The content-addressed store: `objects/ab/cdef…`, named by the SHA-256 of the content.
//!
//! Invariants: an object is visible only once whole and on disk (unique temporary name, fsync, rename, fsync of the
//! shard); what is read is hashed again, and a damaged object is moved aside and counts as absent; collection keeps
//! the store under its bound, oldest use first.

use std::fs::{self, File, FileTimes};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;

use crate::atomic::sync_dir;
use crate::digest::{hex, sha256};

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
        let (shard, rest) = key.split_at(2.min(key.len()));
        self.root.join("objects").join(shard).join(rest)
    }

    /// Stores content and gives its key. Content that is there already costs one `stat`.
    ///
    /// # Errors
    /// If the disk refuses; nothing is then visible.
    pub fn put(&self, content: &[u8]) -> Result<String, CasError> {
        let key = hex(&sha256(content));
        let path = self.path(&key);
        let failed = |source| CasError::Io { path: path.clone(), source };
        if fs::metadata(&path).is_ok_and(|m| m.len() == content.len() as u64) {
            return Ok(key);
        }
        let shard = path.parent().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        if !shard.is_dir() {
            fs::create_dir_all(shard).map_err(failed)?;
            sync_dir(&self.root.join("objects")).map_err(failed)?;
        }
        let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(shard).map_err(failed)?;
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
        if key.len() != 64 || !key.bytes().all(|b| b.is_ascii_hexdigit()) {
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
            fs::create_dir_all(&aside).and_then(|()| fs::rename(&path, aside.join(key))).map_err(failed)?;
            return Err(CasError::Damaged { key: key.to_owned() });
        }
        // The time of last use orders collection; a read-only store is still readable.
        let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
        Ok(Some(content))
    }

    /// Deletes the objects longest unused until the rest fits `bytes_max`. Gives what is left and how many went.
    /// Temporary files of writers that died more than an hour ago go too.
    ///
    /// # Errors
    /// If a directory cannot be listed.
    pub fn collect(&self, bytes_max: u64) -> Result<(u64, usize), CasError> {
        let objects = self.root.join("objects");
        let failed = |source| CasError::Io { path: objects.clone(), source };
        let mut all = Vec::new();
        let mut gone = 0;
        for shard in fs::read_dir(&objects).map_err(failed)?.flatten() {
            for object in fs::read_dir(shard.path()).into_iter().flatten().flatten() {
                let Ok(meta) = object.metadata() else { continue };
                let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                if object.file_name().to_string_lossy().starts_with(".tmp-") {
                    let old = used.elapsed().is_ok_and(|age| age.as_secs() > 3600);
                    gone += usize::from(old && fs::remove_file(object.path()).is_ok());
                } else {
                    all.push((used, meta.len(), object.path()));
                }
            }
        }
        let mut left: u64 = all.iter().map(|(_, len, _)| len).sum();
        all.sort();
        for (_, len, path) in all {
            if left <= bytes_max {
                break;
            }
            if fs::remove_file(path).is_ok() {
                left -= len;
                gone += 1;
            }
        }
        Ok((left, gone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(store.get(&key).expect("mended").is_some());
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
