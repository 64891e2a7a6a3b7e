//! What a state folder's lock file says: who holds it, or has held it.
//!
//! Invariant: it only informs; the lock itself is the kernel's.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
        [MARK, format!("{} ", self.pid).as_bytes(), self.socket.as_os_str().as_bytes(), b"\n"].concat()
    }

    /// Who has last written into a lock's file, whether he holds it or not.
    pub(super) fn noted_in(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        Self::parse(&text(&file).ok()?)
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

pub(super) fn text(mut file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(TEXT_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}
