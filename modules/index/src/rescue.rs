//! Copies of an index's files in the bucket `rescue`, and files that come back from there.
//!
//! Only what a manifest names is copied and taken back, and only if its hash is the recorded one. Copies are made behind the
//! answers, after a generation counts; where copies go is remembered on disk, so that a damaged index can be opened before the
//! mesh is up.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use brahman_storage::{atomic, digest};

use crate::folder::Folder;
use crate::generation::{FileRef, Manifest};

/// Remembers the bucket's folder.
const KEPT: &str = "rescue.json";

/// The folder for copies of indexes, as last heard.
#[must_use]
pub fn known(indexes: &Path) -> Option<PathBuf> {
    serde_json::from_slice(&fs::read(indexes.join(KEPT)).ok()?).ok()?
}

/// Remembers the folder for copies; none if nobody wants any.
///
/// # Errors
/// As the file system gives them.
pub fn remember(indexes: &Path, folder: Option<&Path>) -> io::Result<()> {
    if known(indexes).as_deref() == folder {
        return Ok(());
    }
    atomic::write(&indexes.join(KEPT), &serde_json::to_vec(&folder)?)
}

/// Copies a file into place, if it is what it should be: a file is there whole or not at all.
fn put(from: &Path, to: &Path, file: &FileRef) -> io::Result<()> {
    let folder = to.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let copy = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder)?;
    fs::copy(from, copy.path())?;
    let (sha256, _) = digest::sha256_file(copy.path())?;
    if sha256 != file.sha256 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{}: its checksum does not match the manifest", from.display())));
    }
    File::open(copy.path())?.sync_all()?;
    copy.persist(to).map_err(|e| e.error)?;
    atomic::sync_dir(folder)
}

/// Copies what the index's generations are made of and has no copy yet; copies of what is gone go.
///
/// # Errors
/// As the file systems give them; the rest is copied the next time.
pub fn copy(folder: &Folder, to: &Path) -> io::Result<()> {
    let generations = folder.generations();
    let mut wanted = HashSet::new();
    for (_, manifest) in &generations {
        for file in manifest.files() {
            let copy = to.join(&file.path);
            if !copy.metadata().is_ok_and(|meta| meta.len() == file.bytes) {
                put(&folder.path().join(&file.path), &copy, file)?;
            }
            wanted.insert(copy);
        }
    }
    for part in fs::read_dir(to).into_iter().flatten().flatten().filter(|part| part.path().is_dir()) {
        for file in fs::read_dir(part.path())?.flatten().filter(|file| !wanted.contains(&file.path())) {
            fs::remove_file(file.path())?;
        }
        // Where something is left it stays.
        let _ = fs::remove_dir(part.path());
    }
    Ok(())
}

/// Puts back the files of a generation that are missing or damaged and have a copy that is right; which.
#[must_use]
pub fn restore(folder: &Folder, manifest: &Manifest, from: &Path) -> Vec<String> {
    let wrong = manifest.files().filter(|file| folder.wrong(file).is_some());
    let back = wrong.filter(|file| match put(&from.join(&file.path), &folder.path().join(&file.path), file) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!("{} cannot be put back from rescue: {error}", file.path);
            false
        }
    });
    back.map(|file| file.path.clone()).collect()
}
