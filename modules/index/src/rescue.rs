//! Copies of an index's files in the bucket `rescue`, and files that come back from there.
//!
//! Only what a manifest names is copied and taken back, and only if its hash is the recorded one.
//! Copies are made behind the answers, after a generation counts; where copies go is remembered on
//! disk, in a folder that no index can be called by, so that a damaged index can be opened before
//! the mesh is up. Invariant: among the copies nothing is removed but what is called as copies are.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use brahman_sidecar::chain;
use brahman_storage::{atomic, digest};

use crate::files::{FileRef, bad, named};
use crate::folder::Folder;
use crate::generation::Manifest;
use crate::sealed;

/// What concerns all indexes: the names of indexes begin with no dot.
const REGISTRY: &str = ".registry";
/// Remembers the bucket's folder. Earlier versions kept it among the indexes.
const KEPT: &str = "rescue.json";
/// Copied too: without it nobody knows the files.
const MANIFEST: &str = "manifest.json";
/// Whose copies these are: by which a mesh is known in buckets.
const OWNER: &str = ".owner";
/// At the root of every bucket that is there.
const MARKER: &str = ".brahman-bucket.json";
/// Folders of copies, and how the names of the others begin.
const SEGMENTS: &str = "segments";
const GENERATION: &str = "gen-";

/// Takes what an earlier version kept among the indexes into the registry. A crash leaves it in one
/// of the two places.
///
/// # Errors
/// As the file system gives them; it is then read where it is.
pub fn settle(indexes: &Path) -> io::Result<()> {
    let old = indexes.join(KEPT);
    // An index of those days may be called so.
    if !fs::symlink_metadata(&old).is_ok_and(|found| found.is_file()) {
        return Ok(());
    }
    let registry = indexes.join(REGISTRY);
    fs::create_dir_all(&registry)?;
    fs::rename(&old, registry.join(KEPT))?;
    atomic::sync_dir(&registry)?;
    atomic::sync_dir(indexes)
}

/// The folder for copies of indexes, as last heard.
#[must_use]
pub fn known(indexes: &Path) -> Option<PathBuf> {
    let read = match fs::read(indexes.join(REGISTRY).join(KEPT)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::read(indexes.join(KEPT)),
        read => read,
    };
    let read = match read {
        Err(error)
            if [io::ErrorKind::NotFound, io::ErrorKind::IsADirectory].contains(&error.kind()) =>
        {
            return None;
        }
        read => read.and_then(|bytes| {
            serde_json::from_slice::<Option<PathBuf>>(&bytes).map_err(io::Error::from)
        }),
    };
    let read = read.and_then(|folder| match folder {
        Some(folder) if !is_for_copies(&folder) => Err(bad(format!(
            "it names {}, expected an absolute folder that is called indexes",
            folder.display()
        ))),
        folder => Ok(folder),
    });
    // The mesh tells again where copies go; until then damage finds none.
    let read = read.inspect_err(|error| {
        tracing::error!(
            "{KEPT}: {}; replicas are not used until the mesh says where they are",
            chain(error)
        );
    });
    read.ok().flatten()
}

/// Whether a bucket is at a folder, and not only the folder: a disk that is not mounted leaves one
/// without a marker.
#[must_use]
pub fn is_bucket(folder: &Path) -> bool {
    folder.join(MARKER).is_file()
}

/// Whether a folder can be that of copies: files are removed below it.
fn is_for_copies(folder: &Path) -> bool {
    let plain =
        folder.components().all(|part| !matches!(part, Component::ParentDir | Component::CurDir));
    folder.is_absolute() && plain && folder.file_name().is_some_and(|name| name == "indexes")
}

/// Remembers the folder for copies; none if nobody wants any.
///
/// # Errors
/// As the file system gives them.
pub fn remember(indexes: &Path, folder: Option<&Path>) -> io::Result<()> {
    if known(indexes).as_deref() == folder {
        return Ok(());
    }
    let registry = indexes.join(REGISTRY);
    if !registry.is_dir() {
        fs::create_dir_all(&registry)?;
        atomic::sync_dir(indexes)?;
    }
    atomic::write(&registry.join(KEPT), &serde_json::to_vec(&folder)?)
}

/// Makes the folder `part` below `root`, and never `root` itself: what was unmounted, moved away or
/// deleted does not come to be again.
fn make_below(root: &Path, part: &Path) -> io::Result<PathBuf> {
    let mut folder = root.to_owned();
    for name in part.components() {
        folder.push(name);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|e| named(folder.display().to_string(), e))?,
        }
    }
    Ok(folder)
}

/// Copies a file to its place below `root`, if it is what it should be: a file is there whole or
/// not at all.
fn put(from: &Path, root: &Path, part: &Path, file: &FileRef) -> io::Result<()> {
    let to = root.join(part);
    let folder = make_below(root, part.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
    let folder = folder.as_path();
    let copy = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder)?;
    fs::copy(from, copy.path())?;
    let (sha256, _) = digest::sha256_file(copy.path())?;
    if sha256 != file.sha256 {
        return Err(named(
            from.display().to_string(),
            bad("its checksum does not match the manifest"),
        ));
    }
    File::open(copy.path())?.sync_all()?;
    copy.persist(to).map_err(|e| e.error)?;
    atomic::sync_dir(folder)
}

/// Copies what the index's generations are made of and has no copy yet; copies of what is gone go,
/// unless something of the index cannot be read: then it may need them. Where another mesh has put
/// its copies of an index of this name, nothing is copied.
///
/// `copies` is the folder for those of all indexes; whether its bucket is there, and whether the
/// index is still wanted, is asked before each file.
///
/// # Errors
/// As the file systems give them; the rest is copied the next time. `AlreadyExists` where they are
/// another's, `NotFound` if the bucket is not there, `Interrupted` once the index is not wanted.
pub fn copy(
    folder: &Folder,
    copies: &Path,
    name: &str,
    node: Option<&str>,
    is_wanted: &dyn Fn() -> bool,
) -> io::Result<()> {
    let root = copies.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let may_write = || match (is_wanted(), is_bucket(root)) {
        (false, _) => Err(io::Error::new(io::ErrorKind::Interrupted, "the index was deleted")),
        (true, false) => Err(away(root)),
        (true, true) => Ok(()),
    };
    may_write()?;
    let seen = folder.survey();
    let part = Path::new(copies.file_name().ok_or(io::ErrorKind::InvalidInput)?).join(name);
    let to = &root.join(&part);
    let is_ours = claim(root, &part, node)?;
    let mut wanted = HashSet::new();
    for (name, manifest) in seen.generations() {
        for file in manifest.files() {
            let copy = to.join(&file.path);
            if !copy.metadata().is_ok_and(|meta| meta.len() == file.bytes) {
                may_write()?;
                put(&folder.path().join(&file.path), root, &part.join(&file.path), file)?;
            }
            wanted.insert(copy);
        }
        let copy = to.join(name).join(MANIFEST);
        let bytes = fs::read(folder.path().join(name).join(MANIFEST))?;
        if fs::read(&copy).map_or(true, |there| there != bytes) {
            may_write()?;
            make_below(root, &part.join(name))?;
            atomic::write(&copy, &bytes)?;
        }
        wanted.insert(copy);
    }
    let unreadable = seen.unreadable();
    if !unreadable.is_empty() || wanted.is_empty() || !is_ours {
        if to.exists() && !unreadable.is_empty() {
            tracing::warn!(
                "old replicas in rescue are kept, because this could not be read: {unreadable}"
            );
        }
        return Ok(());
    }
    may_write()?;
    for part in fs::read_dir(to)? {
        let part = part?;
        let name = part.file_name();
        let ours = name == SEGMENTS || name.to_string_lossy().starts_with(GENERATION);
        if ours && part.file_type()?.is_dir() {
            sweep(&part.path(), &wanted)?;
        }
    }
    Ok(())
}

/// How many files that its generations name have no copy, and their bytes.
#[must_use]
pub fn lag(folder: &Folder, copies: &Path, name: &str) -> (u64, u64) {
    let (to, seen) = (copies.join(name), folder.survey());
    let (mut looked, mut files, mut bytes) = (HashSet::new(), 0, 0);
    for file in seen.generations().into_iter().flat_map(|(_, manifest)| manifest.files()) {
        let copy = to.join(&file.path);
        if looked.insert(file.path.as_str())
            && !copy.metadata().is_ok_and(|meta| meta.len() == file.bytes)
        {
            files += 1;
            bytes += file.bytes;
        }
    }
    (files, bytes)
}

/// Takes a folder for the copies of one mesh's index. Whether it is known to be this one's.
fn claim(root: &Path, part: &Path, node: Option<&str>) -> io::Result<bool> {
    let Some(node) = node else { return Ok(false) };
    let to = root.join(part);
    match fs::read_to_string(to.join(OWNER)) {
        Ok(owner) if owner == node => Ok(true),
        Ok(owner) => {
            let why = format!(
                "{} has replicas of another mesh's index with this name ({owner})",
                to.display()
            );
            Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_below(root, part)?;
            atomic::write(&to.join(OWNER), node.as_bytes()).map(|()| true)
        }
        Err(error) => Err(error),
    }
}

/// Removes the copies of an index that is being deleted, unless they are another mesh's.
///
/// # Errors
/// As the file system gives them. `NotFound` if the bucket is not there.
pub fn remove(copies: &Path, name: &str, node: Option<&str>) -> io::Result<()> {
    let root = copies.parent().ok_or(io::ErrorKind::InvalidInput)?;
    if !is_bucket(root) {
        return Err(away(root));
    }
    let to = copies.join(name);
    match fs::read_to_string(to.join(OWNER)) {
        Ok(owner) if node != Some(owner.as_str()) => return Ok(()),
        // Those of an earlier version say nothing of it.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::remove_dir_all(&to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// That the bucket is not there, or is only a folder.
fn away(root: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("bucket rescue is unavailable: {} is missing or has no marker", root.display()),
    )
}

/// Removes files that are not wanted, and folders in which nothing is left.
fn sweep(folder: &Path, wanted: &HashSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        // A link is not followed.
        if entry.file_type()?.is_dir() {
            sweep(&path, wanted)?;
        } else if !wanted.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    // Where something is left it stays.
    let _ = fs::remove_dir(folder);
    Ok(())
}

/// Puts back the manifest of the generation that `CURRENT` names, if it is missing or damaged and
/// its copy is whole.
#[must_use]
pub fn restore_manifest(folder: &Folder, from: &Path) -> Option<Manifest> {
    let name = folder.pointer().ok()??.generation;
    if folder.manifest(&name).is_ok() {
        return None;
    }
    let bytes = fs::read(from.join(&name).join(MANIFEST)).ok()?;
    let manifest = sealed::from_slice::<Manifest>(&bytes)
        .ok()
        .filter(|manifest| manifest.files().all(FileRef::is_inside))?;
    match make_below(folder.path(), Path::new(&name))
        .and_then(|path| atomic::write(&path.join(MANIFEST), &bytes))
    {
        Ok(()) => Some(manifest),
        Err(error) => {
            tracing::error!("{name}/{MANIFEST} cannot be restored from rescue: {error}");
            None
        }
    }
}

/// Puts back the files of a generation that are missing or damaged and have a copy that is right;
/// which.
#[must_use]
pub fn restore(folder: &Folder, manifest: &Manifest, from: &Path) -> Vec<String> {
    let wrong = manifest.files().filter(|file| folder.files().wrong(file).is_some());
    let back = wrong.filter(|file| {
        match put(&from.join(&file.path), folder.path(), Path::new(&file.path), file) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("{} cannot be restored from rescue: {}", file.path, chain(&error));
                false
            }
        }
    });
    back.map(|file| file.path.clone()).collect()
}

#[cfg(test)]
mod tests {
    use brahman_storage::Steps;

    use super::*;

    #[test]
    fn what_was_kept_among_the_indexes_moves_and_is_known_wherever_it_is() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let copies = PathBuf::from("/disk/indexes");
        assert_eq!(known(place.path()), None);
        fs::write(place.path().join(KEPT), serde_json::to_vec(&copies).expect("JSON"))
            .expect("written");
        // As after a crash before it was moved, or where nothing can be written.
        fs::create_dir(place.path().join(REGISTRY)).expect("made");
        assert_eq!(known(place.path()), Some(copies.clone()));
        for _ in 0..2 {
            settle(place.path()).expect("moved");
            assert!(!place.path().join(KEPT).exists());
            assert_eq!(known(place.path()), Some(copies.clone()));
        }
        // An index may be called as that file was.
        fs::create_dir(place.path().join(KEPT)).expect("made");
        settle(place.path()).expect("left");
        remember(place.path(), None).expect("kept");
        assert!(place.path().join(KEPT).is_dir() && known(place.path()).is_none());
        for bad in ["/", "/disk", "indexes", "/disk/../indexes"] {
            remember(place.path(), Some(Path::new(bad))).expect("kept");
            assert_eq!(known(place.path()), None, "{bad}");
        }
    }

    #[test]
    fn copies_stay_while_the_index_cannot_be_read() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let (home, bucket) = (place.path().join("home"), place.path().join("bucket"));
        let (all, copies) = (bucket.join("indexes"), bucket.join("indexes/x"));
        fs::create_dir_all(copies.join("gen-1")).expect("made");
        fs::write(bucket.join(MARKER), "{}").expect("written");
        fs::write(copies.join("gen-1/graph.flat"), "a copy").expect("written");
        let folder = Folder::new(&home, Steps::default());
        copy(&folder, &all, "x", Some("n"), &|| true)
            .expect("nothing to copy from a disk that is not there");
        fs::create_dir_all(home.join("gen-1")).expect("made");
        fs::write(home.join("gen-1/manifest.json"), "{").expect("written");
        copy(&folder, &all, "x", Some("n"), &|| true)
            .expect("nothing to copy from what is damaged");
        assert!(copies.join("gen-1/graph.flat").exists());
        let theirs = copy(&folder, &all, "x", Some("another"), &|| true)
            .expect_err("they are another mesh's");
        assert!(
            theirs.kind() == io::ErrorKind::AlreadyExists
                && theirs.to_string().contains("another mesh"),
            "{theirs}"
        );
        remove(&all, "x", Some("another")).expect("left alone");
        assert!(copies.join("gen-1/graph.flat").exists(), "another mesh's deletion is not ours");
        remove(&all, "x", Some("n")).expect("removed");
        assert!(!copies.exists());
    }

    #[test]
    fn nothing_is_written_where_the_bucket_has_gone_or_the_index_was_deleted() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let (home, bucket) = (place.path().join("home"), place.path().join("bucket"));
        let folder = Folder::new(&home, Steps::default());
        let all = bucket.join("indexes");
        for _ in 0..2 {
            let gone = copy(&folder, &all, "x", Some("n"), &|| true).expect_err("no bucket");
            assert!(
                gone.kind() == io::ErrorKind::NotFound && gone.to_string().contains("unavailable"),
                "{gone}"
            );
            assert!(!all.exists());
            // The second time the folder is there, and no bucket in it.
            fs::create_dir_all(&bucket).expect("made");
        }
        fs::write(bucket.join(MARKER), "{}").expect("written");
        let deleted = copy(&folder, &all, "x", Some("n"), &|| false).expect_err("deleted");
        assert!(deleted.kind() == io::ErrorKind::Interrupted && !all.exists(), "{deleted}");
        assert!(
            make_below(&home, Path::new("gen-1")).is_err() && !home.exists(),
            "a home is not made again"
        );
    }
}
