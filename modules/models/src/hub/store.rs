//! The hub's cache on this machine, in the layout that every client of the hub shares:
//!
//! ```text
//! .locks/models--OWNER--NAME/ID.lock      held while ID is written
//! models--OWNER--NAME/blobs/ID            a file by its content; ID.incomplete while it comes
//! models--OWNER--NAME/snapshots/COMMIT/…  links to blobs, by the files' names
//! models--OWNER--NAME/refs/REVISION       the commit that a branch or a tag was at
//! ```
//!
//! Invariants: a blob is there whole or not at all; names that would lead out of the cache make no
//! path here (the caller has checked them).

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use brahman_storage::atomic;
use brahman_storage::digest::{hex, sha256, sha256_file};
use sha1::{Digest as _, Sha1};

use super::error::HubError;
use super::request::{Repository, is_commit, is_hex};
use crate::fetch::{Listener, Progress};

/// Largest file that is named by git's id: larger ones have a sha256. The hub's own bound is 10 MB.
pub(super) const GIT_BYTES_MAX: u64 = 64 << 20;
/// Most files of a snapshot that are listed.
pub(super) const FILES_MAX: usize = 10_000;
/// Folders in folders that are gone into.
const DEPTH_MAX: usize = 8;

/// What a file's content is called by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ContentId {
    /// Of a large file.
    Sha256(String),
    /// Of a small one, as git has it: the SHA-1 of `blob LENGTH`, a NUL and the content.
    Git(String),
}

impl ContentId {
    /// From an ETag, with or without its quotes.
    pub(super) fn of(etag: &str) -> Option<Self> {
        let text = etag.trim().trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
        match text.len() {
            64 if is_hex(&text) => Some(Self::Sha256(text)),
            40 if is_hex(&text) => Some(Self::Git(text)),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::Git(text) => text,
        }
    }

    /// What kind of name it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Git(_) => "git's id",
        }
    }
}

/// A file's content, as it was found.
pub(super) struct Content {
    /// Its name, of the kind that was asked for.
    pub(super) found: String,
    /// Its sha256.
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

/// Reads a file's content and names it as `id` is named.
pub(super) fn content(path: &Path, id: &ContentId) -> io::Result<Content> {
    match id {
        ContentId::Sha256(_) => {
            let (found, bytes) = sha256_file(path)?;
            Ok(Content { sha256: found.clone(), found, bytes })
        }
        ContentId::Git(_) => {
            let mut text = Vec::new();
            File::open(path)?.take(GIT_BYTES_MAX + 1).read_to_end(&mut text)?;
            let digest = Sha1::new()
                .chain_update(format!("blob {}\0", text.len()))
                .chain_update(&text)
                .finalize();
            Ok(Content {
                found: hex(&digest),
                sha256: hex(&sha256(&text)),
                bytes: text.len() as u64,
            })
        }
    }
}

/// One repository's part of the cache.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
    locks: PathBuf,
}

/// Held while a file is written; let go with the value, or with the process.
#[derive(Debug)]
pub(super) struct FileLock {
    _file: File,
}

impl Store {
    pub(super) fn of(cache: &Path, repository: &Repository) -> Self {
        let name = format!("models--{}--{}", repository.owner, repository.name);
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The repository's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn blob(&self, id: &ContentId) -> PathBuf {
        self.folder.join("blobs").join(id.text())
    }

    /// Where a file is while it comes; whoever goes on with it finds it there.
    pub(super) fn partial(&self, id: &ContentId) -> PathBuf {
        self.folder.join("blobs").join(format!("{}.incomplete", id.text()))
    }

    /// The commit that a revision was at when somebody last asked.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return self
                .folder
                .join("snapshots")
                .join(revision)
                .is_dir()
                .then(|| revision.to_owned());
        }
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Notes which commit a revision is at.
    pub(super) fn note_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| atomic::write(&path, commit.as_bytes()));
        written.map_err(|source| HubError::Cache { path, source })
    }

    /// Where a snapshot has a file: a link to its blob, or the file itself where somebody could
    /// make no links.
    pub(super) fn snapshot(&self, commit: &str, name: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit).join(name)
    }

    /// What a file of a snapshot is called by, if a blob is behind it.
    pub(super) fn linked(&self, commit: &str, name: &str) -> Option<ContentId> {
        let target = fs::read_link(self.snapshot(commit, name)).ok()?;
        ContentId::of(target.file_name()?.to_str()?)
    }

    /// Files of a snapshot, by name.
    pub(super) fn files(&self, commit: &str) -> Vec<String> {
        let mut names = Vec::new();
        gather(&self.folder.join("snapshots").join(commit), "", DEPTH_MAX, &mut names);
        names.sort();
        names
    }

    /// Links a blob into a snapshot by a file's name.
    pub(super) fn link(&self, commit: &str, name: &str, id: &ContentId) -> Result<(), HubError> {
        let path = self.snapshot(commit, name);
        let target =
            format!("{}../../blobs/{}", "../".repeat(name.matches('/').count()), id.text());
        if fs::read_link(&path).is_ok_and(|found| found == Path::new(&target)) {
            return Ok(());
        }
        let linked = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            match symlink(&target, &path) {
                // Another process was first, with the same.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                linked => linked,
            }
        });
        linked.map_err(|source| HubError::Cache { path, source })
    }

    /// Takes the lock of a file that is about to be written, which the hub's own client takes, too.
    /// Waits while another has it.
    pub(super) fn lock(
        &self,
        id: &ContentId,
        name: &str,
        tell: &mut Listener<'_>,
    ) -> Result<FileLock, HubError> {
        let path = self.locks.join(format!("{}.lock", id.text()));
        let failed = |source| HubError::Cache { path: path.clone(), source };
        fs::create_dir_all(&self.locks).map_err(failed)?;
        fs::create_dir_all(self.folder.join("blobs")).map_err(failed)?;
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                tell(Progress::Note(&format!(
                    "{name} is being fetched by another process: waiting for it"
                )));
                file.lock().map_err(failed)?;
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        Ok(FileLock { _file: file })
    }

    /// Takes the locks of all files that are here or are being fetched, and waits for none.
    pub(super) fn lock_all(&self) -> Result<Vec<FileLock>, HubError> {
        let mut ids = BTreeSet::new();
        for (folder, end) in
            [(self.folder.join("blobs"), ".incomplete"), (self.locks.clone(), ".lock")]
        {
            let names = fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok());
            ids.extend(
                names
                    .filter_map(|name| ContentId::of(name.strip_suffix(end).unwrap_or(&name)))
                    .map(|id| id.text().to_owned()),
            );
        }
        let lock = |id: String| {
            let path = self.locks.join(format!("{id}.lock"));
            let taken = fs::create_dir_all(&self.locks)
                .and_then(|()| File::options().create(true).truncate(false).write(true).open(&path))
                .map_err(TryLockError::Error)
                .and_then(|file| file.try_lock().map(|()| FileLock { _file: file }));
            taken.map_err(|error| match error {
                TryLockError::WouldBlock => {
                    HubError::InUse { folder: self.folder.clone(), lock: path.clone() }
                }
                TryLockError::Error(source) => HubError::Cache { path: path.clone(), source },
            })
        };
        ids.into_iter().map(lock).collect()
    }

    /// Takes the whole repository away.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

fn gather(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && depth > 0 {
            gather(&entry.path(), &name, depth - 1, names);
        } else if !is_folder && names.len() < FILES_MAX && entry.path().is_file() {
            names.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn store(cache: &Path) -> Store {
        Store::of(cache, &"owner/name".parse().expect("a repository"))
    }

    #[test]
    fn a_small_file_has_gits_id_and_a_large_one_its_sha256() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("x");
        fs::write(&path, "hello\n").expect("written");
        // As `git hash-object` gives it.
        let git = ContentId::of("W/\"ce013625030ba8dba906f756967f9e9ca394464a\"").expect("an id");
        let found = content(&path, &git).expect("read");
        assert_eq!((found.found.as_str(), found.bytes), (git.text(), 6));
        let large = ContentId::of(&format!("\"{}\"", found.sha256)).expect("an id");
        assert!(matches!(large, ContentId::Sha256(_)));
        assert_eq!(content(&path, &large).expect("read").found, found.sha256);
        for etag in ["", "\"5d41402abc4b2a76b9719d911017c592\"", "\"../x\""] {
            assert_eq!(ContentId::of(etag), None, "{etag}");
        }
    }

    #[test]
    fn files_lie_where_the_hubs_own_client_looks_for_them() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let store = store(cache.path());
        let id = ContentId::of("ce013625030ba8dba906f756967f9e9ca394464a").expect("an id");
        fs::create_dir_all(store.folder().join("blobs"))
            .and_then(|()| fs::write(store.blob(&id), "hello\n"))
            .expect("written");
        for name in ["config.json", "onnx/model.onnx"] {
            store.link(COMMIT, name, &id).expect("linked");
            store.link(COMMIT, name, &id).expect("linked already");
            let path = cache.path().join("models--owner--name/snapshots").join(COMMIT).join(name);
            assert_eq!(fs::read_to_string(path).expect("it leads to the blob"), "hello\n");
            assert_eq!(store.linked(COMMIT, name), Some(id.clone()));
        }
        assert_eq!(store.files(COMMIT), ["config.json", "onnx/model.onnx"]);
        assert_eq!(store.commit("main"), None);
        store.note_commit("main", COMMIT).expect("noted");
        store.note_commit("refs/pr/1", COMMIT).expect("noted");
        assert_eq!(
            (store.commit("main").as_deref(), store.commit(COMMIT).as_deref()),
            (Some(COMMIT), Some(COMMIT))
        );
        store.remove().expect("removed");
        store.remove().expect("nothing is there");
    }

    #[test]
    fn what_is_being_written_is_not_held_for_removal() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let store = store(cache.path());
        assert!(store.lock_all().expect("nothing is there").is_empty());
        let id = ContentId::of("ce013625030ba8dba906f756967f9e9ca394464a").expect("an id");
        let writer = store.lock(&id, "x", &mut |_| panic!("nobody else has it")).expect("taken");
        // Before a byte has come, and after.
        for _ in 0..2 {
            let refused = store.lock_all().expect_err("in use");
            assert!(
                matches!(&refused, HubError::InUse { lock, .. } if lock.ends_with(format!("{}.lock", id.text()))),
                "{refused}"
            );
            fs::write(store.partial(&id), "hel").expect("written");
        }
        drop(writer);
        assert_eq!(store.lock_all().expect("free").len(), 1);
    }

    #[test]
    fn one_at_a_time_writes_a_file() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let store = store(cache.path());
        let id = ContentId::of("ce013625030ba8dba906f756967f9e9ca394464a").expect("an id");
        let lock = store.lock(&id, "x", &mut |_| panic!("nobody else has it")).expect("taken");
        let (told, heard) = std::sync::mpsc::channel();
        let other = std::thread::spawn({
            let (store, id) = (store.clone(), id.clone());
            move || {
                let mut tell = |progress: Progress<'_>| {
                    if let Progress::Note(text) = progress {
                        told.send(text.to_owned()).expect("somebody listens");
                    }
                };
                store.lock(&id, "x", &mut tell).map(drop)
            }
        });
        assert!(heard.recv().expect("told").contains("another process"));
        drop(lock);
        other.join().expect("it ends").expect("taken then");
    }
}
