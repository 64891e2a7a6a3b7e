//! Where an index lives, and how it gets to another place.
//!
//! `<state>/indexes/<name>/index.json` says that there is an index. Its files lie beside it, or, if it was made in another
//! bucket or moved, in the folder that `home.json` there names: `indexes/<name>` in that bucket.
//!
//! A move copies everything, compares every copy, renames it into place, and only then replaces `home.json`; what is left
//! behind goes last, and a note says where to. Invariant: a crash at any step leaves one whole home, the old or the new.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use brahman_storage::{Steps, atomic, digest};
use serde::{Deserialize, Serialize};

use crate::folder::{Folder, now_ms};

/// What says where the files are.
const HOME: &str = "home.json";
/// What is in a copy until it counts.
const MOVING: &str = "MOVING";
/// What stays in a place that was left.
const MOVED: &str = "MOVED.json";

/// A home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// Bucket.
    pub bucket: String,
    /// Folder of the index's files.
    pub path: PathBuf,
    /// A home before this one that has yet to be cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<PathBuf>,
}

fn bad(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl Home {
    /// Reads where the index of `stub`, its folder in the state directory, lives; clears what a move left.
    ///
    /// # Errors
    /// If `home.json` is damaged.
    pub fn open(stub: &Path) -> io::Result<Self> {
        let home = match fs::read(stub.join(HOME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { bucket: "primary".into(), path: stub.to_owned(), left: None });
            }
            other => serde_json::from_slice::<Self>(&other?).map_err(|e| bad(format!("{}: {e}", stub.join(HOME).display())))?,
        };
        Ok(home.cleared(stub))
    }

    /// A home in a bucket's folder, for an index that is made there.
    ///
    /// # Errors
    /// If another index lives there, or as the file system gives them.
    pub fn make(stub: &Path, bucket: &str, path: &Path) -> io::Result<Self> {
        vacate(path, stub)?;
        fs::create_dir_all(path)?;
        atomic::sync_dir(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        let home = Self { bucket: bucket.to_owned(), path: path.to_owned(), left: None };
        home.save(stub)?;
        Ok(home)
    }

    fn save(&self, stub: &Path) -> io::Result<()> {
        atomic::write(&stub.join(HOME), &serde_json::to_vec_pretty(self)?)
    }

    /// Copies everything to `path` and compares it; nothing counts yet. Gives the bytes copied.
    ///
    /// # Errors
    /// If another index lives there, a copy is not what it should be, or `Interrupted` if `progress` says stop.
    pub fn copy(&self, stub: &Path, path: &Path, steps: &Steps, progress: &dyn Fn(u64) -> bool) -> io::Result<u64> {
        vacate(path, stub)?;
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(parent)?;
        let copy = moving(path)?;
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        fs::create_dir(&copy)?;
        atomic::write(&copy.join(MOVING), stub.as_os_str().as_encoded_bytes())?;
        let mut copied = 0;
        copy_all(&self.path, &copy, &mut copied, progress)?;
        steps.pass("copied")?;
        let folder = Folder::new(&copy, Steps::default());
        let wrong = folder.generations().into_iter().find_map(|(_, manifest)| folder.verify(&manifest).into_iter().next());
        if let Some(wrong) = wrong {
            return Err(bad(format!("{wrong}; `brahman index doctor --repair` before it is moved")));
        }
        steps.pass("verified")?;
        Ok(copied)
    }

    /// Lets a copy count, after what may have changed since, the folders named, has been copied anew.
    ///
    /// # Errors
    /// As the file system gives them; the old home then counts.
    pub fn flip(&self, stub: &Path, bucket: &str, path: &Path, anew: &[&str], steps: &Steps) -> io::Result<Self> {
        let copy = moving(path)?;
        for name in anew.iter().filter(|name| self.path.join(name).is_dir()) {
            if copy.join(name).exists() {
                fs::remove_dir_all(copy.join(name))?;
            }
            fs::create_dir(copy.join(name))?;
            copy_all(&self.path.join(name), &copy.join(name), &mut 0, &|_| true)?;
        }
        atomic::sync_dir(&copy)?;
        // A note that the index once lived there makes room for it.
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        fs::rename(&copy, path)?;
        atomic::sync_dir(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        steps.pass("renamed")?;
        let home = Self { bucket: bucket.to_owned(), path: path.to_owned(), left: Some(self.path.clone()) };
        home.save(stub)?;
        steps.pass("flipped")?;
        Ok(home)
    }

    /// Removes what was left behind. What cannot be removed now is tried at the next opening.
    #[must_use]
    pub fn cleared(mut self, stub: &Path) -> Self {
        let Some(left) = &self.left else { return self };
        let _ = fs::remove_file(self.path.join(MOVING));
        match clear(left, stub, &self.bucket) {
            Ok(()) => {
                let home = Self { left: None, ..self.clone() };
                if home.save(stub).is_ok() {
                    self = home;
                }
            }
            Err(error) => tracing::warn!(left = %left.display(), "what a move left cannot be removed yet: {error}"),
        }
        self
    }

    /// Whether the folder is there; a disk may not be.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub fn is_there(&self) -> Result<(), String> {
        if self.path.is_dir() {
            return Ok(());
        }
        Err(format!(
            "its home {} in bucket `{}` is not there: mount what holds it, then `brahman restart index`",
            self.path.display(),
            self.bucket
        ))
    }

    /// Removes the index's files, wherever they are; the stub last.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn delete(&self, stub: &Path) -> io::Result<()> {
        // The parameters go first: without them the rest is not an index any more.
        fs::remove_file(stub.join("index.json"))?;
        if self.path != stub && self.path.exists() {
            fs::remove_dir_all(&self.path)?;
        }
        fs::remove_dir_all(stub)
    }
}

/// Where a copy grows.
fn moving(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(path.with_file_name(format!(".moving-{}", name.to_string_lossy())))
}

/// Makes sure that a folder is free for an index: it is not there, holds a note only, or a copy of ours that never counted.
fn vacate(path: &Path, stub: &Path) -> io::Result<()> {
    let entries: Vec<_> = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?.flatten().map(|e| e.file_name()).collect(),
    };
    let ours = fs::read(path.join(MOVING)).is_ok_and(|from| from == stub.as_os_str().as_encoded_bytes());
    if ours || entries.iter().all(|name| name == MOVED) {
        return Ok(());
    }
    let message = format!("{} is taken: it holds another index, or files of somebody else", path.display());
    Err(io::Error::new(io::ErrorKind::AlreadyExists, message))
}

/// Copies a folder's files, each fsynced and compared with what was read.
fn copy_all(from: &Path, to: &Path, copied: &mut u64, progress: &dyn Fn(u64) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let target = to.join(&name);
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_all(&entry.path(), &target, copied, progress)?;
            continue;
        }
        if name == HOME || name == MOVED || name == MOVING || name.to_string_lossy().starts_with(".tmp-") {
            continue;
        }
        if !progress(*copied) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        *copied += fs::copy(entry.path(), &target)?;
        File::open(&target)?.sync_all()?;
        if digest::sha256_file(&entry.path())?.0 != digest::sha256_file(&target)?.0 {
            return Err(bad(format!("{}: the copy is not what was read", entry.path().display())));
        }
    }
    atomic::sync_dir(to)
}

/// Empties a home that was left. In the state directory the stub stays, elsewhere a note.
fn clear(left: &Path, stub: &Path, bucket: &str) -> io::Result<()> {
    let entries = match fs::read_dir(left) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    if left != stub {
        let note = serde_json::json!({"bucket": bucket, "at_ms": now_ms()});
        atomic::write(&left.join(MOVED), &serde_json::to_vec(&note)?)?;
    }
    for entry in entries.flatten() {
        let name = entry.file_name();
        let stays = if left == stub { name == "index.json" || name == HOME } else { name == MOVED };
        if stays {
            continue;
        }
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    atomic::sync_dir(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stub with some files; nothing in it is a generation.
    fn made(folder: &Path) -> (PathBuf, Home) {
        let stub = folder.join("indexes/x");
        fs::create_dir_all(stub.join("trials")).expect("made");
        for (name, text) in [("index.json", "{}"), ("CURRENT", "c"), ("trials/journal.log", "one")] {
            fs::write(stub.join(name), text).expect("written");
        }
        let home = Home::open(&stub).expect("opens");
        (stub, home)
    }

    fn moved(home: &Home, stub: &Path, path: &Path, steps: &Steps) -> io::Result<Home> {
        home.copy(stub, path, steps, &|_| true)?;
        // A trial that ended while the rest was copied.
        fs::write(home.path.join("trials/journal.log"), "one two")?;
        let home = home.flip(stub, "big", path, &["trials", "evals"], steps)?.cleared(stub);
        steps.pass("cleared")?;
        Ok(home)
    }

    #[test]
    fn a_move_that_stops_anywhere_leaves_one_whole_home_and_can_be_done_again() {
        for stop in 0..5 {
            let folder = tempfile::tempdir().expect("a temporary directory");
            let (stub, home) = made(folder.path());
            let path = folder.path().join("disk/indexes/x");
            assert!(moved(&home, &stub, &path, &Steps::stopping_at(stop)).is_err(), "{stop}");
            // What a restart finds.
            let home = Home::open(&stub).expect("opens");
            assert_eq!(home.bucket == "big", stop >= 3, "{stop}");
            let there = |home: &Home| fs::read_to_string(home.path.join("CURRENT")).expect("there");
            assert_eq!((there(&home).as_str(), home.is_there(), stub.join("index.json").exists()), ("c", Ok(()), true));
            let home = if home.bucket == "big" { home } else { moved(&home, &stub, &path, &Steps::default()).expect("moved") };
            assert_eq!((there(&home).as_str(), home.left.clone()), ("c", None));
            assert_eq!(fs::read_to_string(path.join("trials/journal.log")).expect("there"), "one two");
            assert!(!stub.join("CURRENT").exists() && !path.join(MOVING).exists());
            // And on: the place that is left keeps a note, and can be moved into again.
            let other = folder.path().join("other/indexes/x");
            let home = moved(&home, &stub, &other, &Steps::default()).expect("moved");
            assert_eq!(fs::read_dir(&path).expect("there").count(), 1);
            let home = moved(&home, &stub, &path, &Steps::default()).expect("moved back");
            assert_eq!(there(&home), "c");
            home.delete(&stub).expect("deleted");
            assert!(!stub.exists() && !path.exists());
        }
    }

    #[test]
    fn a_place_that_is_taken_stays_as_it_is() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (stub, home) = made(folder.path());
        let path = folder.path().join("disk/indexes/x");
        fs::create_dir_all(&path).expect("made");
        fs::write(path.join("index.json"), "another's").expect("written");
        let error = home.copy(&stub, &path, &Steps::default(), &|_| true).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        Home::make(&stub, "big", &path).expect_err("taken");
        assert_eq!(fs::read_to_string(path.join("index.json")).expect("there"), "another's");
    }
}
