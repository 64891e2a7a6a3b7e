//! Where an index lives, and how it gets to another place.
//!
//! `<state>/indexes/<name>/index.json` says that there is an index. Its files lie beside it, or, if
//! it was made in another bucket or moved, in the folder that `home.json` there names:
//! `indexes/<name>` in that bucket. `away.json` says the same once more: without it nobody could
//! tell an index whose `home.json` is gone from one that lives in the state directory.
//!
//! A move copies everything, compares every copy, renames it into place, and only then replaces
//! `home.json`; what is left behind goes last, and a note says where to. Invariants: a crash at any
//! step leaves one whole home, the old or the new; whatever `home.json` says, no folder is removed
//! but a stub, or one that is called `indexes/<name>` as those are that are made here.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use brahman_card::clock::now_ms;
use brahman_sidecar::chain;
use brahman_storage::{Steps, atomic, digest};
use serde::{Deserialize, Serialize};

use crate::files::{Damage, bad, named};
use crate::folder::Folder;
use crate::sealed;
use crate::sweep::Obstacles;

/// What says where the files are.
const HOME: &str = "home.json";
/// What says that there is such a file.
const AWAY: &str = "away.json";
/// What is in a copy until it counts.
const MOVING: &str = "MOVING";
/// What stays in a place that was left.
const MOVED: &str = "MOVED.json";
/// Before the name of an index whose removal has begun; no index is called so.
const DELETED: &str = ".deleted-";

/// Where an index's files lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// Name of the bucket that it lies in.
    pub bucket: String,
    /// Folder of the index's files.
    pub path: PathBuf,
    /// A home before this one that has yet to be cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<PathBuf>,
}

/// A home that is not there; the disk that holds it may not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its folder {} in bucket `{bucket}` is missing: mount the bucket's disk, then `brahman restart index`", .path.display())]
pub struct AwayError {
    /// Where it should be.
    pub path: PathBuf,
    /// Name of the bucket that is away.
    pub bucket: String,
}

/// That an index's `home.json` is gone although it lives in another bucket.
#[derive(Debug, thiserror::Error)]
pub enum LostError {
    /// Where it lives is still known.
    #[error(
        "{home} is missing, and the index is in another bucket, `{bucket}`, in {}: restore the file, or copy {AWAY} beside it to {HOME}, \
         then `brahman restart index`",
        .path.display()
    )]
    Known {
        /// The file that is gone.
        home: String,
        /// The bucket.
        bucket: String,
        /// The folder in it.
        path: PathBuf,
    },
    /// Where it lives is not known: the note of that is damaged.
    #[error(
        "{home} is missing, and the index is in another bucket: restore the file, then `brahman restart index`; {AWAY} does not say where"
    )]
    Unknown {
        /// The file that is gone.
        home: String,
        /// What is wrong with the note.
        #[source]
        source: io::Error,
    },
}

/// Why an index is not copied: a copy would be as damaged.
#[derive(Debug, thiserror::Error)]
pub enum UnsoundError {
    /// Something of it cannot be read.
    #[error("parts of it cannot be read; run `brahman index doctor --repair` before moving it")]
    Unreadable(#[source] Obstacles),
    /// A file of it is damaged.
    #[error("one of its files is damaged; run `brahman index doctor --repair` before moving it")]
    Damaged(#[source] Damage),
}

impl Home {
    /// Reads where the index of `stub`, its folder in the state directory, lives; clears what a
    /// move left.
    ///
    /// # Errors
    /// If `home.json` is damaged, names what cannot be a home, or is gone although the index lives
    /// elsewhere.
    pub fn open(stub: &Path) -> io::Result<Self> {
        let at = stub.join(HOME);
        let bytes = match fs::read(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::without(stub),
            read => read.map_err(|e| named(at.display().to_string(), e))?,
        };
        let home =
            sealed::from_slice::<Self>(&bytes).map_err(|e| named(at.display().to_string(), e))?;
        if let Some(path) = std::iter::once(&home.path)
            .chain(&home.left)
            .find(|path| *path != stub && !is_home(path, stub))
        {
            let name = stub.file_name().unwrap_or_default().display();
            return Err(bad(format!(
                "{} names {}, expected a folder indexes/{name} of a bucket",
                at.display(),
                path.display()
            )));
        }
        note_away(stub, &bytes);
        Ok(home.cleared(stub))
    }

    /// The home of an index that has no `home.json`: here, unless there was one.
    fn without(stub: &Path) -> io::Result<Self> {
        let away = stub.join(AWAY);
        let bytes = match fs::read(&away) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { bucket: "primary".into(), path: stub.to_owned(), left: None });
            }
            read => read.map_err(|e| named(away.display().to_string(), e))?,
        };
        let home = stub.join(HOME).display().to_string();
        Err(bad(match sealed::from_slice::<Self>(&bytes) {
            Ok(Self { bucket, path, .. }) => LostError::Known { home, bucket, path },
            Err(source) => LostError::Unknown { home, source },
        }))
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
        let bytes = sealed::to_vec(self)?;
        atomic::write(&stub.join(HOME), &bytes)?;
        // Afterwards: it must not say that there is a file which was never written.
        note_away(stub, &bytes);
        Ok(())
    }

    /// Copies everything to `path` and compares it; nothing counts yet. Gives the bytes copied.
    /// What an error leaves is removed.
    ///
    /// # Errors
    /// If another index lives there, a copy is not what it should be, or `Interrupted` if
    /// `progress` says stop.
    pub fn copy(
        &self,
        stub: &Path,
        path: &Path,
        steps: &Steps,
        progress: &dyn Fn(u64) -> bool,
    ) -> io::Result<u64> {
        self.copy_whole(stub, path, steps, progress).inspect_err(|_| give_up(stub, path, steps))
    }

    fn copy_whole(
        &self,
        stub: &Path,
        path: &Path,
        steps: &Steps,
        progress: &dyn Fn(u64) -> bool,
    ) -> io::Result<u64> {
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
        let seen = folder.survey();
        let obstacles = seen.unreadable();
        if !obstacles.is_empty() {
            return Err(bad(UnsoundError::Unreadable(obstacles)));
        }
        if let Some(damage) =
            seen.generations().into_iter().flat_map(|(_, manifest)| folder.verify(manifest)).next()
        {
            return Err(bad(UnsoundError::Damaged(damage)));
        }
        steps.pass("verified")?;
        Ok(copied)
    }

    /// Lets a copy count, after what may have changed since, the folders named, has been copied
    /// anew.
    ///
    /// # Errors
    /// As the file system gives them; the old home then counts.
    pub fn flip(
        &self,
        stub: &Path,
        bucket: &str,
        path: &Path,
        anew: &[&str],
        steps: &Steps,
    ) -> io::Result<Self> {
        self.flip_whole(stub, bucket, path, anew, steps).inspect_err(|_| give_up(stub, path, steps))
    }

    fn flip_whole(
        &self,
        stub: &Path,
        bucket: &str,
        path: &Path,
        anew: &[&str],
        steps: &Steps,
    ) -> io::Result<Self> {
        let copy = moving(path)?;
        for name in anew.iter().filter(|name| self.path.join(name).is_dir()) {
            if copy.join(name).exists() {
                fs::remove_dir_all(copy.join(name))?;
            }
            fs::create_dir(copy.join(name))?;
            copy_all(&self.path.join(name), &copy.join(name), &mut 0, &|_| true)?;
        }
        atomic::sync_dir(&copy)?;
        // A note that the index once lived there makes room for it; nothing else does, not even
        // what came meanwhile.
        vacate(path, stub)?;
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        fs::rename(&copy, path)?;
        atomic::sync_dir(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        steps.pass("renamed")?;
        let home = Self {
            bucket: bucket.to_owned(),
            path: path.to_owned(),
            left: Some(self.path.clone()),
        };
        home.save(stub)?;
        steps.pass("flipped")?;
        Ok(home)
    }

    /// Removes what was left behind. What cannot be removed now is tried at the next opening.
    #[must_use]
    pub fn cleared(mut self, stub: &Path) -> Self {
        let Some(left) = &self.left else { return self };
        // Where the new home is not to be seen the old one is the only one.
        if let Err(why) = self.is_there() {
            tracing::warn!(left = %left.display(), "what a move left behind is kept: {why}");
            return self;
        }
        let _ = fs::remove_file(self.path.join(MOVING));
        match clear(left, stub, &self.bucket) {
            Ok(()) => {
                let home = Self { left: None, ..self.clone() };
                if home.save(stub).is_ok() {
                    self = home;
                }
            }
            Err(error) => {
                tracing::warn!(left = %left.display(), "what a move left behind cannot be removed yet: {}", chain(&error));
            }
        }
        self
    }

    /// Whether the folder is there; a disk may not be.
    ///
    /// # Errors
    /// [`AwayError`], which says what to do.
    pub fn is_there(&self) -> Result<(), AwayError> {
        if self.path.is_dir() {
            Ok(())
        } else {
            Err(AwayError { path: self.path.clone(), bucket: self.bucket.clone() })
        }
    }

    /// Removes the index's files, wherever they are. It is no index from the first step on; a crash
    /// leaves what [`finish_deletions`] removes.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn delete(&self, stub: &Path) -> io::Result<()> {
        let parent = stub.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let going = parent.join(format!("{DELETED}{}", ulid::Ulid::generate()));
        fs::rename(stub, &going)?;
        atomic::sync_dir(parent)?;
        if self.path != stub && is_home(&self.path, stub) && self.path.exists() {
            fs::remove_dir_all(&self.path)?;
        }
        fs::remove_dir_all(going)
    }
}

/// Whether a folder can be the home, in a bucket, of the index of a stub. It is what is read that
/// is asked about.
fn is_home(path: &Path, stub: &Path) -> bool {
    let plain =
        path.components().all(|part| !matches!(part, Component::ParentDir | Component::CurDir));
    let below_indexes =
        path.parent().and_then(Path::file_name).is_some_and(|parent| parent == "indexes");
    let named = path.file_name().is_some_and(|name| Some(name) == stub.file_name());
    path.is_absolute() && plain && below_indexes && named && !stub.starts_with(path)
}

/// Removes what deletions that were cut off left below the folder of all indexes.
pub fn finish_deletions(indexes: &Path) {
    let entries = fs::read_dir(indexes).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(DELETED)) {
        if let Ok(home) =
            fs::read(entry.path().join(HOME)).and_then(|bytes| sealed::from_slice::<Home>(&bytes))
            && home.path.exists()
        {
            tracing::warn!(
                "files of an index that was deleted are left in {}: remove them by hand",
                home.path.display()
            );
        }
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!("{}: {error}", entry.path().display());
        }
    }
}

/// Notes what `home.json` says, so that its absence is seen. What cannot be noted now is noted at
/// the next opening.
fn note_away(stub: &Path, home: &[u8]) {
    let at = stub.join(AWAY);
    if fs::read(&at).is_ok_and(|there| there == home) {
        return;
    }
    if let Err(error) = atomic::write(&at, home) {
        tracing::warn!("{}: {error}", at.display());
    }
}

/// Removes a copy that will not count, unless the stub says that it does, or cannot be read.
fn give_up(stub: &Path, path: &Path, steps: &Steps) {
    // A test that stops the program as if it were killed stops here too.
    if steps.pass("given up").is_err() {
        return;
    }
    let Ok(copy) = moving(path) else { return };
    let gone = |folder: &Path| match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{}: {error}", folder.display());
        }
        _ => {}
    };
    gone(&copy);
    let lives_there = match fs::read(stub.join(HOME)) {
        Ok(bytes) => sealed::from_slice::<Home>(&bytes).map_or(true, |home| home.path == path),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    if !lives_there && is_copy_of(path, stub) {
        gone(path);
    }
}

/// Whether a folder is a copy of this stub's index that does not count yet.
fn is_copy_of(path: &Path, stub: &Path) -> bool {
    fs::read(path.join(MOVING)).is_ok_and(|from| from == stub.as_os_str().as_encoded_bytes())
}

/// Where a copy grows.
fn moving(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(path.with_file_name(format!(".moving-{}", name.to_string_lossy())))
}

/// Makes sure that a folder is free for an index: it is not there, holds a note only, or a copy of
/// ours that never counted.
fn vacate(path: &Path, stub: &Path) -> io::Result<()> {
    let entries: Vec<_> = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?,
    };
    if is_copy_of(path, stub) || entries.iter().all(|name| name == MOVED) {
        return Ok(());
    }
    let message = format!(
        "{} is taken: it holds another index, or files that are not an index's",
        path.display()
    );
    Err(io::Error::new(io::ErrorKind::AlreadyExists, message))
}

/// Copies a folder's files, each fsynced and compared with what was read.
fn copy_all(
    from: &Path,
    to: &Path,
    copied: &mut u64,
    progress: &dyn Fn(u64) -> bool,
) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let target = to.join(&name);
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_all(&entry.path(), &target, copied, progress)?;
            continue;
        }
        if name == HOME
            || name == AWAY
            || name == MOVED
            || name == MOVING
            || name.to_string_lossy().starts_with(".tmp-")
        {
            continue;
        }
        if !progress(*copied) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        *copied += fs::copy(entry.path(), &target)?;
        File::open(&target)?.sync_all()?;
        if digest::sha256_file(&entry.path())?.0 != digest::sha256_file(&target)?.0 {
            return Err(bad(format!(
                "{}: the copy differs from the original",
                entry.path().display()
            )));
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
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let stays = if left == stub {
            name == "index.json" || name == HOME || name == AWAY
        } else {
            name == MOVED
        };
        if stays {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    atomic::sync_dir(left)
}

#[cfg(test)]
mod tests;
