//! Unix sockets by path, without harm to what lies there.
//!
//! Invariants: the only file ever removed is a socket (by `lstat`, so never through a link) that
//! belongs to our uid and that nobody answers on, or the very file that this process bound.
//! Anything else is left and named.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use brahman_card::card::SOCKET_PATH_BYTES_MAX;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use thiserror::Error;

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum BindError {
    /// Something lies at the path that is not ours to remove.
    #[error(
        "{path} is {what}: only a dead socket of one's own is ever replaced; move it away, or choose another path"
    )]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What is there, with its article.
        what: String,
    },
    /// Some process holds a socket there.
    #[error("something answers on {path} already; end it, or choose another path")]
    Answered {
        /// The socket.
        path: PathBuf,
    },
    /// The path is too long for the kernel.
    #[error(
        "{path} is {length} bytes long, a socket's path may have {SOCKET_PATH_BYTES_MAX}; choose a shorter one"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// The system refused.
    #[error("cannot bind {path}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// The file of a socket that this process bound.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// The file itself, not opened for anything: while this is held its inode's number is given to
    /// no other file.
    anchor: Option<File>,
}

impl SocketFile {
    fn of(path: &Path) -> Self {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let anchor = open(path, flags, Mode::empty()).ok().map(File::from);
        Self { path: path.to_owned(), anchor }
    }

    /// Path of the socket's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, if it is still the one that was bound.
    pub fn remove(&self) {
        let own = self.anchor.as_ref().and_then(|anchor| anchor.metadata().ok());
        let found = std::fs::symlink_metadata(&self.path).ok();
        let same = found.zip(own).is_some_and(|(f, o)| {
            f.file_type().is_socket() && (f.dev(), f.ino()) == (o.dev(), o.ino())
        });
        if same && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(socket = %self.path.display(), %error, "the socket stays behind");
        }
    }
}

/// Binds a listening socket, 0600, or 0660 for a group. A dead socket of our own is replaced; a
/// live one is left alone.
///
/// # Errors
/// [`BindError`]; nothing was removed unless it was a dead socket of ours.
pub fn listen(path: &Path, group: Option<u32>) -> Result<(UnixListener, SocketFile), BindError> {
    clear(path, SocketType::STREAM)?;
    let listener = UnixListener::bind(path)
        .map_err(|source| BindError::Io { path: path.to_owned(), source })?;
    Ok((listener, guarded(path, group)?))
}

/// Binds a datagram socket, 0600, by the same rules.
///
/// # Errors
/// [`BindError`]; nothing was removed unless it was a dead socket of ours.
pub fn datagram(path: &Path) -> Result<(UnixDatagram, SocketFile), BindError> {
    clear(path, SocketType::DGRAM)?;
    let socket = UnixDatagram::bind(path)
        .map_err(|source| BindError::Io { path: path.to_owned(), source })?;
    Ok((socket, guarded(path, None)?))
}

fn guarded(path: &Path, group: Option<u32>) -> Result<SocketFile, BindError> {
    let file = SocketFile::of(path);
    match super::guard_socket(path, group) {
        Ok(()) => Ok(file),
        Err(source) => {
            file.remove();
            Err(BindError::Io { path: path.to_owned(), source })
        }
    }
}

/// Whether a listening socket could be bound at a path, without touching it.
///
/// # Errors
/// What [`listen`] would say.
pub fn examine(path: &Path) -> Result<(), BindError> {
    leftover(path, SocketType::STREAM).map(drop)
}

/// Makes room at a path: nothing is there, or a dead socket of ours was.
fn clear(path: &Path, kind: SocketType) -> Result<(), BindError> {
    if leftover(path, kind)? {
        tracing::info!(socket = %path.display(), "replacing a dead socket");
        std::fs::remove_file(path)
            .map_err(|source| BindError::Io { path: path.to_owned(), source })?;
    }
    Ok(())
}

/// Whether a dead socket of ours is in the way; an error if anything else is.
fn leftover(path: &Path, kind: SocketType) -> Result<bool, BindError> {
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_BYTES_MAX {
        return Err(BindError::TooLong { path: path.to_owned(), length });
    }
    let failed = |source: io::Error| BindError::Io { path: path.to_owned(), source };
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let not_ours = |what: String| BindError::NotOurs { path: path.to_owned(), what };
    if !found.file_type().is_socket() {
        return Err(not_ours(described(&found).to_owned()));
    }
    let own = geteuid().as_raw();
    if found.uid() != own {
        return Err(not_ours(format!("a socket of uid {}, not of uid {own}", found.uid())));
    }
    if answers(path, kind).map_err(failed)? {
        return Err(BindError::Answered { path: path.to_owned() });
    }
    Ok(true)
}

/// What a file is, with its article.
#[must_use]
pub fn described(found: &std::fs::Metadata) -> &'static str {
    let kind = found.file_type();
    if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_file() {
        "a regular file"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Whether some process holds the socket at this path. Only a refusal by the kernel says that none
/// does.
fn answers(path: &Path, kind: SocketType) -> io::Result<bool> {
    // Not blocking: the holder may be stopped, with a full queue.
    let socket =
        socket_with(AddressFamily::UNIX, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Ok(true),
        // A socket of another kind, which the kernel finds only while it is held.
        Err(Errno::PROTOTYPE) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The mode of a file, without its kind.
pub(super) fn mode(found: &std::fs::Metadata) -> u32 {
    found.permissions().mode() & 0o7777
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn what_is_no_dead_socket_of_ours_is_left_and_named() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "work").expect("written");
        std::fs::create_dir(path("directory")).expect("made");
        std::os::unix::fs::symlink(path("file"), path("link")).expect("linked");
        std::os::unix::fs::symlink(path("nowhere"), path("dangling")).expect("linked");
        // A link to a dead socket: the socket would be ours, the link is not a socket.
        drop(UnixListener::bind(path("dead")).expect("bound"));
        std::os::unix::fs::symlink(path("dead"), path("link-to-dead")).expect("linked");
        for (name, what) in [
            ("file", "a regular file"),
            ("directory", "a directory"),
            ("link", "a symbolic link"),
            ("dangling", "a symbolic link"),
            ("link-to-dead", "a symbolic link"),
        ] {
            for error in [listen(&path(name), None).err(), datagram(&path(name)).err()] {
                let words = error.map(|e| e.to_string()).unwrap_or_default();
                assert!(
                    words.contains(what) && words.contains(name) && words.contains("move it away"),
                    "{name}: {words}"
                );
            }
            assert!(std::fs::symlink_metadata(path(name)).is_ok(), "{name} is still there");
        }
        assert_eq!(std::fs::read_to_string(path("file")).expect("read"), "work");
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_of_either_kind_is_not() {
        let folder = folder();
        let path = folder.path().join("x.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        let (held, file) = listen(&path, None).expect("replaced");
        assert!(matches!(listen(&path, None), Err(BindError::Answered { .. })));
        assert!(matches!(datagram(&path), Err(BindError::Answered { .. })));
        assert_eq!(mode(&std::fs::symlink_metadata(&path).expect("there")), 0o600);
        drop(held);
        let (_datagrams, other) = datagram(&path).expect("replaced");
        assert!(matches!(listen(&path, None), Err(BindError::Answered { .. })));
        file.remove();
        assert!(path.exists(), "another's socket of the same name stays");
        other.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_put_in_place_of_our_socket_is_not_removed_with_it() {
        let folder = folder();
        let path = folder.path().join("x.sock");
        let (_held, file) = listen(&path, None).expect("bound");
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "work").expect("written");
        file.remove();
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "work");
    }

    #[test]
    fn a_path_that_the_kernel_would_cut_is_refused() {
        let path = Path::new("/tmp").join("x".repeat(120));
        assert!(matches!(listen(&path, None), Err(BindError::TooLong { length: 125, .. })));
    }
}
