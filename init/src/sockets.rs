//! Binding: the lock that makes this init the only one, and sockets that outlive their modules.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use brahman_sidecar::place;
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

/// Why there is no socket.
#[derive(Debug, Error)]
pub(crate) enum SocketError {
    /// Somebody holds the lock or answers on the socket.
    #[error("another brahman-init runs on {path}; `brahman --socket {path} down` ends it")]
    Taken {
        /// The socket or lock.
        path: PathBuf,
    },
    /// The path is too long for the kernel.
    #[error("{path} is {length} bytes long, a socket's path may have 107; choose a shorter --socket")]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// The system refused.
    #[error("cannot bind {path}")]
    Io {
        /// The socket or lock.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Takes the lock beside the mesh socket; held as long as the file is open.
pub(crate) fn lock(mesh: &Path) -> Result<File, SocketError> {
    let path = mesh.with_file_name("init.lock");
    let failed = |source| SocketError::Io { path: path.clone(), source };
    if let Some(folder) = mesh.parent() {
        place::private_dir(folder).map_err(failed)?;
    }
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| SocketError::Taken { path: mesh.to_owned() })?;
    Ok(file)
}

/// Binds a listening socket. One that nobody answers on is a leftover and replaced; a live one is left alone.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let length = path.as_os_str().len();
    if length > 107 {
        return Err(SocketError::TooLong { path: path.to_owned(), length });
    }
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        place::private_dir(folder).map_err(failed)?;
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(SocketError::Taken { path: path.to_owned() });
            }
            tracing::info!(socket = %path.display(), "replacing a stale socket");
            std::fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    place::guard_socket(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}
