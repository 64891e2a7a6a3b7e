//! What a state folder's lock file says: who holds it, or has held it.
//!
//! Invariant: it only informs; the lock itself is the kernel's.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// The file's name.
pub(super) const LOCK: &str = ".lock";
/// How its text begins: a file that begins otherwise is somebody else's.
pub(super) const MARK: &[u8] = b"brahman-state ";
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
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let line = text.strip_prefix(MARK)?.strip_suffix(b"\n")?;
        let at = line.iter().position(|b| *b == b' ')?;
        let pid = std::str::from_utf8(&line[..at]).ok()?.parse().ok()?;
        Some(Self { pid, socket: PathBuf::from(OsStr::from_bytes(&line[at + 1..])) })
    }

    pub(super) fn text(&self) -> Vec<u8> {
        [MARK, format!("{} ", self.pid).as_bytes(), self.socket.as_os_str().as_bytes(), b"\n"]
            .concat()
    }

    /// Who has last written into a lock's file, whether he holds it or not.
    pub(super) fn noted_in(path: &Path) -> Option<Self> {
        Self::parse(&text(&regular(path)?).ok()?)
    }

    /// Who holds a state folder now; none if nobody does, or nobody can tell.
    #[must_use]
    pub fn of(state: &Path) -> Option<Self> {
        let file = regular(&state.join(LOCK))?;
        let inode = file.metadata().ok()?.ino();
        let holder = Self::parse(&text(&file).ok()?)?;
        // To ask the lock itself would hold it for a moment, and might turn a mesh away that is
        // just starting.
        held_locks().contains(&(holder.pid, inode)).then_some(holder)
    }
}

/// A regular file, opened to be read; nothing else is waited for, and no link is followed.
pub(super) fn regular(path: &Path) -> Option<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_RDONLY;
    let file = open(path, flags, Mode::empty()).map(File::from).ok()?;
    file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file)
}

/// Locks that processes hold, by their processes and files: an inode alone, for file systems tell
/// devices in several ways.
pub(super) fn held_locks() -> BTreeSet<(u32, u64)> {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let held = locks.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, "WRITE", pid, place, ..] => {
                Some((pid.parse::<u32>().ok()?, place.rsplit(':').next()?.parse::<u64>().ok()?))
            }
            _ => None,
        }
    });
    held.collect()
}

/// Who holds the lock of a file of this inode, by process id.
pub(super) fn holder_of(inode: u64) -> Option<u32> {
    held_locks().into_iter().find(|(_, held)| *held == inode).map(|(pid, _)| pid)
}

pub(super) fn text(mut file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(TEXT_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}
