//! Binding: the lock that makes this init the only one, and sockets that outlive their modules.
//!
//! Invariants: nothing is removed that init or its broker did not make; what systemd passed is
//! systemd's, and is neither removed nor bound again, or nobody would reach the mesh after a
//! restart.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use brahman_sidecar::place::socket::{self, BindError, SocketFile};
use brahman_sidecar::place::{self, FolderError};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use thiserror::Error;

use crate::processes::ProcessRecord;

/// What the lock file begins with: a file that begins otherwise is somebody else's.
const MARK: &str = "brahman-init ";
/// Far above 256 modules of a line each.
const LOCK_BYTES_MAX: u64 = 64 * 1024;

/// Why the mesh has no place.
#[derive(Debug, Error)]
pub(crate) enum SocketError {
    /// Somebody holds the lock.
    #[error("another brahman-init runs on {path}; `brahman --socket {path} down` stops it")]
    Taken {
        /// The mesh socket.
        path: PathBuf,
    },
    /// Something lies at the path of one of the mesh's own files that init did not make.
    #[error(
        "{path} is {what}, which init did not create and so does not touch; move it away, or choose another --socket"
    )]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What is there, with its article.
        what: String,
    },
    /// systemd's socket can be reached by nobody.
    #[error(
        "{path} was passed by systemd, but its file is missing: no client can reach it; `systemctl restart brahman.socket` makes it again"
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
    },
    /// The run folder will not do.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The socket cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system refused.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl SocketError {
    /// Whether only a person can mend it.
    pub(crate) fn is_configuration(&self) -> bool {
        match self {
            Self::NotOurs { .. }
            | Self::Unreachable { .. }
            | Self::Folder(FolderError::Unsafe { .. }) => true,
            Self::Bind(error) => {
                matches!(error, BindError::NotOurs { .. } | BindError::TooLong { .. })
            }
            Self::Taken { .. } | Self::Folder(FolderError::Io { .. }) | Self::Io { .. } => false,
        }
    }
}

/// The lock beside the mesh socket, held as long as this lives. It keeps which processes this init
/// has started.
///
/// One that came to nothing (a start that was refused) leaves no file, and no folder that was made
/// for it: what is found there the next time is not taken for init's own.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
    /// Nothing of a mesh was in this folder before.
    pub(crate) fresh: bool,
    /// The folder itself is init's work.
    pub(crate) made_folder: bool,
    /// What the former init had started.
    pub(crate) former: Vec<ProcessRecord>,
    /// Something was noted: the mesh lives here from now on.
    used: bool,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.fresh && !self.used {
            // Both are an ordinary sight to the next init.
            let _ = std::fs::remove_file(&self.path);
            if let Some(folder) = self.path.parent().filter(|_| self.made_folder) {
                let _ = std::fs::remove_dir(folder);
            }
        }
    }
}

impl Lock {
    /// Takes the lock.
    pub(crate) fn take(mesh: &Path) -> Result<Self, SocketError> {
        let path = mesh.with_file_name("init.lock");
        let made_folder = mesh.parent().map(place::run_folder).transpose()?.unwrap_or(false);
        let failed = |source| SocketError::Io { path: path.clone(), source };
        let not_ours = |what: String| SocketError::NotOurs { path: path.clone(), what };
        let own = geteuid().as_raw();
        let strange = |found: &std::fs::Metadata| !found.is_file() || found.uid() != own;
        let found = std::fs::symlink_metadata(&path).ok();
        if let Some(found) = found.as_ref().filter(|found| strange(found)) {
            return Err(not_ours(format!("{} of uid {}", socket::described(found), found.uid())));
        }
        let flags = OFlag::O_CREAT
            | OFlag::O_RDWR
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC
            | OFlag::O_NONBLOCK;
        let mut file: File =
            open(&path, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| failed(e.into()))?.into();
        let opened = file.metadata().map_err(failed)?;
        if strange(&opened) {
            return Err(not_ours(format!(
                "{} of uid {}",
                socket::described(&opened),
                opened.uid()
            )));
        }
        let mut text = Vec::new();
        (&mut file).take(LOCK_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
        if !text.is_empty() && !text.starts_with(MARK.as_bytes()) {
            return Err(not_ours("a regular file".into()));
        }
        let taken = || SocketError::Taken { path: mesh.to_owned() };
        file.try_lock().map_err(|_| taken())?;
        // A file that an ending init has just removed locks nothing.
        if !std::fs::symlink_metadata(&path)
            .is_ok_and(|now| (now.dev(), now.ino()) == (opened.dev(), opened.ino()))
        {
            return Err(taken());
        }
        let former = String::from_utf8_lossy(&text).lines().skip(1).filter_map(recorded).collect();
        Ok(Self { file, path, fresh: found.is_none(), made_folder, former, used: false })
    }

    /// Notes which processes run, for the init after this one. A full disk costs the note, and is
    /// said.
    pub(crate) fn record(&mut self, running: &[ProcessRecord]) {
        self.used = true;
        let mut text = format!("{MARK}{}\n", std::process::id());
        for process in running {
            text.push_str(&format!("{} {} {}\n", process.label, process.pid, process.started));
        }
        let written = self
            .file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.set_len(0))
            .and_then(|()| self.file.write_all(text.as_bytes()));
        if let Err(error) = written {
            tracing::warn!(file = %self.path.display(), %error, "the list of running processes could not be saved for the next init");
        }
    }

    /// Removes the context that was set by hand under a former init.
    pub(crate) fn forget_context(&self, mesh: &Path) -> Result<(), SocketError> {
        let path = mesh.with_file_name("context");
        let found = match std::fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(SocketError::Io { path, source }),
        };
        // Where no init has ever run it cannot be one's own.
        if self.fresh || !found.is_file() || found.uid() != geteuid().as_raw() {
            return Err(SocketError::NotOurs { path, what: socket::described(&found).to_owned() });
        }
        std::fs::remove_file(&path).map_err(|source| SocketError::Io { path, source })
    }
}

fn recorded(line: &str) -> Option<ProcessRecord> {
    let mut fields = line.split(' ');
    let (label, pid, started) =
        (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(ProcessRecord { label: label.to_owned(), pid, started })
}

/// The context that was set by hand, as the broker keeps it beside the mesh socket: none if nobody
/// set one, an inner none if it was cleared.
pub(crate) fn context_by_hand(mesh: &Path) -> Option<Option<String>> {
    let path = mesh.with_file_name("context");
    let text = std::fs::symlink_metadata(&path)
        .ok()
        .filter(std::fs::Metadata::is_file)
        .and_then(|_| std::fs::read_to_string(&path).ok())?;
    let name = text.trim_end_matches('\n');
    Some((!name.is_empty()).then(|| name.to_owned()))
}

/// A module's listening socket.
#[derive(Debug)]
pub(crate) struct HeldSocket {
    pub(crate) listener: UnixListener,
    pub(crate) path: PathBuf,
    /// The file that this init bound; none for a socket of systemd's.
    file: Option<SocketFile>,
}

impl HeldSocket {
    /// Binds a socket, for a group if one is given.
    pub(crate) fn bind(path: &Path, group: Option<u32>) -> Result<Self, BindError> {
        let (listener, file) = socket::listen(path, group)?;
        listener
            .set_nonblocking(true)
            .map_err(|source| BindError::Io { path: path.to_owned(), source })?;
        Ok(Self { listener, path: path.to_owned(), file: Some(file) })
    }

    /// Gives or takes the group's right to connect. A socket of systemd's has the mode that its
    /// unit says.
    pub(crate) fn guard(&self, group: Option<u32>) -> io::Result<()> {
        if self.file.is_some() { place::guard_socket(&self.path, group) } else { Ok(()) }
    }

    /// Whether the file's mode lets a group connect.
    pub(crate) fn admits(&self, gid: u32) -> bool {
        std::fs::metadata(&self.path)
            .is_ok_and(|found| found.gid() == gid && found.mode() & 0o060 == 0o060)
    }

    /// Closes the socket and removes its file; gives back one that is systemd's.
    pub(crate) fn release(self) -> Option<Self> {
        match &self.file {
            Some(file) => {
                file.remove();
                None
            }
            None => Some(self),
        }
    }

    /// Whether this is the socket at a path, whatever way leads there.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        let identity = |path: &Path| {
            std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
        };
        self.path == path || identity(&self.path).is_some_and(|own| identity(path) == Some(own))
    }
}

/// The sockets that systemd passed (`LISTEN_FDS`).
pub(crate) fn passed() -> anyhow::Result<Vec<HeldSocket>> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut all = Vec::new();
    for i in 0..passed.len() {
        let Some(listener) = passed.take_unix_listener(i)? else { continue };
        listener.set_nonblocking(true)?;
        let Some(path) = listener.local_addr()?.as_pathname().map(Path::to_owned) else {
            tracing::warn!("a socket without a path was passed, and is not used");
            continue;
        };
        if !std::fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket()) {
            return Err(SocketError::Unreachable { path }.into());
        }
        all.push(HeldSocket { listener, path, file: None });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("brahman.sock")
    }

    #[test]
    fn the_lock_is_taken_once_and_keeps_what_runs() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let running = vec![
            ProcessRecord { label: "a".into(), pid: 7, started: 9 },
            ProcessRecord { label: "b".into(), pid: 8, started: 10 },
        ];
        let mut lock = Lock::take(&mesh(&folder)).expect("taken");
        assert!(lock.fresh && lock.former.is_empty());
        lock.record(&[running.clone(), running.clone()].concat());
        lock.record(&running);
        assert!(matches!(Lock::take(&mesh(&folder)), Err(SocketError::Taken { .. })));
        drop(lock);
        let again = Lock::take(&mesh(&folder)).expect("taken again");
        assert_eq!((again.fresh, again.former.as_slice()), (false, running.as_slice()));
    }

    #[test]
    fn a_file_that_init_did_not_make_is_neither_locked_nor_written_nor_removed() {
        let file = |path: &Path| std::fs::write(path, "work").expect("written");
        let link = |path: &Path| {
            std::os::unix::fs::symlink(path.with_file_name("thesis"), path).expect("linked");
        };
        let made = |path: &Path| std::fs::DirBuilder::new().create(path).expect("made");
        let ways = [("file", &file as &dyn Fn(&Path)), ("link", &link), ("folder", &made)];
        for (name, (way, setup)) in
            ["init.lock", "context"].into_iter().flat_map(|name| ways.map(|way| (name, way)))
        {
            let folder = tempfile::tempdir().expect("a temporary directory");
            let path = folder.path().join(name);
            std::fs::write(folder.path().join("thesis"), "work").expect("written");
            setup(&path);
            let outcome =
                Lock::take(&mesh(&folder)).and_then(|lock| lock.forget_context(&mesh(&folder)));
            let error = outcome.expect_err("refused");
            assert!(
                error.is_configuration()
                    && error.to_string().contains(name)
                    && error.to_string().contains("move it away"),
                "{error}"
            );
            assert!(std::fs::symlink_metadata(&path).is_ok(), "{name}, a {way}, is still there");
            assert_eq!(
                std::fs::read_to_string(folder.path().join("thesis")).expect("read"),
                "work"
            );
            if path.is_file() {
                assert_eq!(std::fs::read_to_string(&path).expect("read"), "work", "{name}");
            }
        }
    }

    #[test]
    fn a_start_that_came_to_nothing_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mesh = folder.path().join("run/brahman.sock");
        for _ in 0..2 {
            let lock = Lock::take(&mesh).expect("taken");
            assert!(lock.fresh && lock.made_folder);
            drop(lock);
            assert!(!folder.path().join("run").exists());
        }
        // A person's file is refused the second time as the first.
        std::fs::write(folder.path().join("context"), "work").expect("written");
        for _ in 0..2 {
            let lock = Lock::take(&folder.path().join("brahman.sock")).expect("taken");
            assert!(lock.forget_context(&folder.path().join("brahman.sock")).is_err());
        }
    }

    #[test]
    fn a_context_set_by_hand_ends_with_its_init() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        Lock::take(&mesh(&folder)).expect("taken").record(&[]);
        assert_eq!(context_by_hand(&mesh(&folder)), None);
        std::fs::write(folder.path().join("context"), "test\n").expect("written");
        assert_eq!(context_by_hand(&mesh(&folder)), Some(Some("test".into())));
        std::fs::write(folder.path().join("context"), "\n").expect("written");
        assert_eq!(context_by_hand(&mesh(&folder)), Some(None));
        let lock = Lock::take(&mesh(&folder)).expect("taken");
        lock.forget_context(&mesh(&folder)).expect("removed");
        assert!(!folder.path().join("context").exists());
    }

    #[test]
    fn a_socket_that_was_passed_stays_and_one_that_was_bound_goes() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("x.sock");
        let ours = HeldSocket::bind(&path, None).expect("bound");
        assert!(ours.is_at(&path) && ours.release().is_none() && !path.exists());
        let listener = UnixListener::bind(&path).expect("bound");
        let theirs = HeldSocket { listener, path: path.clone(), file: None };
        std::os::unix::fs::symlink(folder.path(), folder.path().join("way")).expect("linked");
        assert!(theirs.is_at(&folder.path().join("way/x.sock")));
        let back = theirs.release().expect("given back");
        assert!(path.exists() && std::os::unix::net::UnixStream::connect(&path).is_ok());
        drop(back);
        assert!(path.exists());
    }
}
