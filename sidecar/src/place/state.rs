//! The lock on a state folder: one mesh at a time writes what is in it.
//!
//! init locks (`flock`) the file `.lock` in it for as long as it lives, and writes down who it is. Invariants: the kernel lets go of
//! the lock with the process, however that ends, and no module inherits it; the file stays, for one that is removed locks nothing; a
//! file that no mesh made is neither written nor removed. Where nothing can be written there is nothing to guard.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use thiserror::Error;

use super::socket::described;

/// The file's name.
const LOCK: &str = ".lock";
/// How its text begins: a file that begins otherwise is somebody else's.
const MARK: &[u8] = b"brahman-state ";
/// A mark, a number and a path.
const TEXT_BYTES_MAX: u64 = 8192;

/// Who holds a state folder, or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id of the mesh's init.
    pub pid: u32,
    /// Path of its mesh socket.
    pub socket: PathBuf,
}

impl Holder {
    fn parse(text: &[u8]) -> Option<Self> {
        let line = text.strip_prefix(MARK)?.strip_suffix(b"\n")?;
        let at = line.iter().position(|b| *b == b' ')?;
        let pid = std::str::from_utf8(&line[..at]).ok()?.parse().ok()?;
        Some(Self { pid, socket: PathBuf::from(OsStr::from_bytes(&line[at + 1..])) })
    }

    fn text(&self) -> Vec<u8> {
        [MARK, format!("{} ", self.pid).as_bytes(), self.socket.as_os_str().as_bytes(), b"\n"].concat()
    }

    /// Who holds a state folder now; none if nobody does, or nobody can tell.
    #[must_use]
    pub fn of(state: &Path) -> Option<Self> {
        let file = File::open(state.join(LOCK)).ok()?;
        let inode = file.metadata().ok()?.ino().to_string();
        let holder = Self::parse(&text(&file).ok()?)?;
        // To ask the lock itself would hold it for a moment, and might turn a mesh away that is just starting.
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        let pid = holder.pid.to_string();
        let held = locks.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            matches!(fields[..], [_, "FLOCK", _, "WRITE", holder, place, ..] if holder == pid && place.rsplit(':').next() == Some(inode.as_str()))
        });
        held.then_some(holder)
    }
}

fn text(mut file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(TEXT_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Why a state folder cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another mesh has it.
    #[error(
        "the state {state} is that of the mesh on {socket}, whose brahman-init is process {pid}; `brahman --socket {socket} down` ends it, or choose another --state"
    )]
    Taken {
        /// The folder.
        state: PathBuf,
        /// That mesh's socket.
        socket: PathBuf,
        /// Its init's process id.
        pid: u32,
    },
    /// Another mesh has it, which is just starting.
    #[error("the state {state} is that of another mesh, which is just starting; choose another --state")]
    TakenBySomebody {
        /// The folder.
        state: PathBuf,
    },
    /// It lies in another mesh's.
    #[error(
        "the state {state} lies inside that of another mesh, {outer}, which keeps and clears what is in there; choose a --state outside of it"
    )]
    Inside {
        /// The folder.
        state: PathBuf,
        /// That mesh's.
        outer: PathBuf,
    },
    /// Something lies in the lock's place that no mesh made.
    #[error("{path} is {what}, which no mesh made and so none touches; move it away, or choose another --state")]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What is there, with its article.
        what: String,
    },
    /// The system refused.
    #[error("cannot lock the state by {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl StateError {
    /// Whether only a person can change it.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

/// A lock on a state folder, held as long as this lives.
#[derive(Debug)]
pub struct StateLock {
    /// None where nothing can be written, and nobody has.
    file: Option<File>,
    /// Who held it before.
    pub former: Option<Holder>,
}

/// Refuses a state folder, before it is made, that would lie inside another mesh's: whether that one runs or not, what is in there is its
/// own.
///
/// # Errors
/// [`StateError::Inside`].
pub fn check_place(state: &Path) -> Result<(), StateError> {
    let absolute = std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
    // Of a folder that is yet to be made the real path is that of the first one above it that is there, and what is missing.
    let there = absolute.ancestors().find_map(|folder| Some((folder, folder.canonicalize().ok()?)));
    let real =
        there.map_or_else(|| absolute.clone(), |(folder, real)| absolute.strip_prefix(folder).map_or(real.clone(), |rest| real.join(rest)));
    match real.ancestors().skip(1).find(|folder| is_locked_by_a_mesh(folder)) {
        Some(outer) => Err(StateError::Inside { state: state.to_owned(), outer: outer.to_owned() }),
        None => Ok(()),
    }
}

/// Whether a mesh has left its lock in a folder.
fn is_locked_by_a_mesh(folder: &Path) -> bool {
    // Anything may lie in a folder above: nothing is followed, nothing is waited for.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_RDONLY;
    let Ok(file) = open(&folder.join(LOCK), flags, Mode::empty()).map(File::from) else { return false };
    file.metadata().is_ok_and(|meta| meta.is_file()) && text(&file).is_ok_and(|text| text.starts_with(MARK))
}

impl StateLock {
    /// Takes the lock for the mesh on a socket.
    ///
    /// # Errors
    /// [`StateError`]; nothing was changed then.
    pub fn take(state: &Path, mesh: &Path) -> Result<Self, StateError> {
        let path = state.join(LOCK);
        let failed = |source: io::Error| StateError::Io { path: path.clone(), source };
        let not_ours = |what: &str| StateError::NotOurs { path: path.clone(), what: what.to_owned() };
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let (file, read_only) = match open(&path, flags | OFlag::O_CREAT | OFlag::O_RDWR, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => (File::from(file), false),
            Err(Errno::EROFS | Errno::EACCES | Errno::EPERM) => match open(&path, flags | OFlag::O_RDONLY, Mode::empty()) {
                Ok(file) => (File::from(file), true),
                Err(Errno::ENOENT) => {
                    tracing::warn!("{} cannot be written to: what is there is served, and nothing is changed", state.display());
                    return Ok(Self { file: None, former: None });
                }
                Err(error) => return Err(failed(error.into())),
            },
            Err(Errno::ELOOP) => return Err(not_ours("a symbolic link")),
            Err(Errno::EISDIR) => return Err(not_ours("a folder")),
            Err(error) => return Err(failed(error.into())),
        };
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() {
            return Err(not_ours(described(&found)));
        }
        let taken = match file.try_lock() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(error)) => {
                tracing::warn!(%error, "{} cannot be locked: nothing keeps another mesh from the state", path.display());
                false
            }
        };
        let text = text(&file).map_err(failed)?;
        let former = Holder::parse(&text);
        match (taken, &former) {
            (true, Some(Holder { pid, socket })) => {
                return Err(StateError::Taken { state: state.to_owned(), socket: socket.clone(), pid: *pid });
            }
            (true, None) => return Err(StateError::TakenBySomebody { state: state.to_owned() }),
            // What was cut off while it was written is a mark's beginning, or begins with one.
            (false, _) if !text.starts_with(MARK) && !MARK.starts_with(&text) => return Err(not_ours("a regular file")),
            (false, _) => {}
        }
        if !read_only {
            let own = Holder { pid: std::process::id(), socket: mesh.to_owned() };
            let mut writing = &file;
            let written = file.set_len(0).and_then(|()| writing.seek(SeekFrom::Start(0))).and_then(|_| writing.write_all(&own.text()));
            if let Err(error) = written {
                tracing::warn!(%error, "who holds the state could not be noted in {}", path.display());
            }
        }
        Ok(Self { file: Some(file), former })
    }

    /// Whether another mesh is kept from the state: it is not where nothing can be written.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.file.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_one_mesh_s_and_says_whose() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let (one, two) = (Path::new("/run/one/brahman.sock"), Path::new("/run/t w\u{f6}/brahman.sock"));
        let lock = StateLock::take(state.path(), one).expect("taken");
        assert!(lock.is_held() && lock.former.is_none());
        let own = Holder { pid: std::process::id(), socket: one.to_owned() };
        assert_eq!(Holder::of(state.path()), Some(own.clone()));
        let refused = StateLock::take(state.path(), two).expect_err("it is taken");
        let words = refused.to_string();
        assert!(refused.is_configuration() && words.contains("/run/one/brahman.sock") && words.contains(&own.pid.to_string()), "{words}");
        drop(lock);
        assert_eq!(Holder::of(state.path()), None);
        let lock = StateLock::take(state.path(), two).expect("taken");
        assert_eq!(lock.former, Some(own));
        assert_eq!(Holder::of(state.path()).expect("held").socket, two);
    }

    #[test]
    fn a_state_inside_another_mesh_s_is_refused_by_name_and_one_beside_it_is_not() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let (outer, beside) = (home.path().join("outer"), home.path().join("beside"));
        std::fs::create_dir_all(&outer).and_then(|()| std::fs::create_dir(&beside)).expect("made");
        drop(StateLock::take(&outer, Path::new("/run/x.sock")).expect("taken"));
        std::os::unix::fs::symlink(&outer, home.path().join("link")).expect("linked");
        for inside in [outer.join("buckets/primary"), outer.join("not/yet"), home.path().join("link/x")] {
            let refused = check_place(&inside).expect_err("it is another's").to_string();
            assert!(refused.contains(&outer.canonicalize().expect("there").display().to_string()), "{refused}");
        }
        for fine in [&outer, &beside, &beside.join("not/yet")] {
            check_place(fine).expect("it is nobody else's");
        }
        std::fs::write(home.path().join(LOCK), "somebody's own").expect("written");
        check_place(&beside).expect("no mesh has made that");
    }

    #[test]
    fn what_no_mesh_made_is_neither_written_nor_removed() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let (path, mesh) = (state.path().join(LOCK), Path::new("/run/x.sock"));
        std::fs::write(&path, "work").expect("written");
        assert!(matches!(StateLock::take(state.path(), mesh), Err(StateError::NotOurs { .. })));
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "work");
        std::fs::rename(&path, state.path().join("thesis")).expect("moved away");
        std::os::unix::fs::symlink(state.path().join("thesis"), &path).expect("linked");
        assert!(matches!(StateLock::take(state.path(), mesh), Err(StateError::NotOurs { .. })));
        assert_eq!(std::fs::read_to_string(state.path().join("thesis")).expect("there"), "work");
        std::fs::remove_file(&path).and_then(|()| std::fs::create_dir(&path)).expect("made");
        assert!(matches!(StateLock::take(state.path(), mesh), Err(StateError::NotOurs { .. })));
    }

    #[test]
    fn a_note_that_a_crash_cut_off_keeps_nobody_out() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let whole = Holder { pid: 7, socket: "/run/x.sock".into() }.text();
        for length in 0..=whole.len() {
            std::fs::write(state.path().join(LOCK), &whole[..length]).expect("written");
            let lock = StateLock::take(state.path(), Path::new("/run/y.sock")).expect("taken");
            assert_eq!(lock.former.is_some(), length == whole.len(), "{length}");
        }
    }
}
