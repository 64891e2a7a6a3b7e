//! The lock on a state folder: one mesh at a time writes what is in it.
//!
//! init locks (`flock`) the file `.lock` in it for as long as it lives, and writes down who it is.
//! Invariants: the kernel lets go of the lock with the process, however that ends, and no module
//! inherits it; the lock is the truth, and what the file says only informs, so that one which is
//! left behind keeps nobody out; the file stays, for one that is removed locks nothing; a file that
//! no mesh made is neither written nor removed. No state lies within another's that is in use,
//! around one, nor so to one of its buckets. Where nothing can be written there is nothing to
//! guard.

use std::fs::{File, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use thiserror::Error;

pub use super::holder::Holder;
use super::holder::{self, LOCK, MARK, text};
use super::meshes::{self, LiveMesh};
use super::socket::described;

/// Whoever looks whether a lock is held holds it for a moment: longer than that nobody is mistaken
/// for a mesh.
const LOOKED_AT: Duration = Duration::from_millis(200);
/// How long other meshes' buckets are compared.
const COMPARED_WITHIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

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
    /// Another process has it, which has not said who it is.
    #[error(
        "the state {state} is in use by {holder}, which has not yet said on which socket its mesh is: wait until it has started, and \
         `brahman down` it, or end that process; or choose another --state"
    )]
    TakenBySomebody {
        /// The folder.
        state: PathBuf,
        /// Its process, in words.
        holder: String,
    },
    /// It lies in another mesh's, or around it.
    #[error(
        "the state {state} {lies} that of another mesh, {other}{holder}: each would keep and clear what is the other's; choose a --state \
         beside it, or end that mesh"
    )]
    Overlaps {
        /// The folder.
        state: PathBuf,
        /// How it lies to the other.
        lies: &'static str,
        /// That mesh's state.
        other: PathBuf,
        /// Who that mesh is, in words; empty if it has not said.
        holder: String,
    },
    /// It lies in a bucket of another mesh, or around one.
    #[error(
        "the state {state} {lies} bucket `{bucket}` of another mesh, {folder}{holder}: what lies there is that mesh's; choose a --state \
         beside it, or end that mesh"
    )]
    InBucket {
        /// The folder.
        state: PathBuf,
        /// How it lies to the bucket.
        lies: &'static str,
        /// The bucket's name.
        bucket: String,
        /// The bucket's folder.
        folder: PathBuf,
        /// Who that mesh is, in words.
        holder: String,
    },
    /// Something lies in the lock's place that no mesh made.
    #[error(
        "{path} is {what}, which no mesh made and so none touches; move it away, or choose another --state"
    )]
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

/// Refuses a state folder, before it is made, that would lie inside the state of another mesh that
/// runs, around one, or so to one of its buckets. Of what a mesh that has ended left behind nothing
/// keeps anybody out.
///
/// # Errors
/// [`StateError::Overlaps`], [`StateError::InBucket`].
pub fn check_place(state: &Path) -> Result<(), StateError> {
    let real = real(state);
    // By the locks themselves, which other users' meshes have as well.
    if let Some(outer) = real.ancestors().skip(1).find(|folder| is_held_by_a_mesh(folder)) {
        let holder = Holder::of(outer).map(|holder| of_holder(&holder)).unwrap_or_default();
        return Err(StateError::Overlaps {
            state: state.to_owned(),
            lies: INSIDE,
            other: outer.to_owned(),
            holder,
        });
    }
    // A neighbour's bucket may lie on a disk that does not answer: what is compared by then counts,
    // and nobody waits for the rest.
    let (said, heard) = mpsc::channel();
    let (asked, place) = (state.to_owned(), real.clone());
    std::thread::spawn(move || {
        said.send(meshes::others(&place).iter().try_for_each(|mesh| apart(&asked, &place, mesh)))
    });
    heard.recv_timeout(COMPARED_WITHIN).unwrap_or_else(|_| {
        tracing::warn!("whether {} lies in or around a bucket of another mesh cannot be told: a disk does not answer", state.display());
        Ok(())
    })
}

const INSIDE: &str = "lies inside";
const AROUND: &str = "holds";

/// How one folder lies to another, by their real paths.
fn lies(real: &Path, other: &Path) -> Option<&'static str> {
    if real.starts_with(other) { Some(INSIDE) } else { other.starts_with(real).then_some(AROUND) }
}

/// Refuses a state that overlaps another mesh's, or one of its buckets. The same folder is refused
/// by its lock, which says more.
fn apart(state: &Path, real: &Path, mesh: &LiveMesh) -> Result<(), StateError> {
    let holder = || of_holder(&mesh.holder);
    if let Some(lies) = lies(real, &mesh.state).filter(|_| *real != mesh.state) {
        return Err(StateError::Overlaps {
            state: state.to_owned(),
            lies,
            other: mesh.state.clone(),
            holder: holder(),
        });
    }
    for (bucket, folder) in mesh.buckets() {
        if let Some(lies) = lies(real, &self::real(&folder)) {
            return Err(StateError::InBucket {
                state: state.to_owned(),
                lies,
                bucket,
                folder,
                holder: holder(),
            });
        }
    }
    Ok(())
}

/// Who a mesh is, behind what is its.
fn of_holder(Holder { pid, socket }: &Holder) -> String {
    format!(" (on {}, whose brahman-init is process {pid})", socket.display())
}

/// The real path of a folder that may have yet to be made: that of the first one above it that is
/// there, and what is missing.
fn real(folder: &Path) -> PathBuf {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let there = absolute.ancestors().find_map(|folder| Some((folder, folder.canonicalize().ok()?)));
    there.map_or_else(
        || absolute.clone(),
        |(folder, real)| absolute.strip_prefix(folder).map_or(real.clone(), |rest| real.join(rest)),
    )
}

/// Whether a mesh that runs has its lock in a folder.
fn is_held_by_a_mesh(folder: &Path) -> bool {
    // Anything may lie in a folder above.
    let Some(file) = holder::regular(&folder.join(LOCK)) else { return false };
    let is_mesh_s = text(&file).is_ok_and(|text| text.starts_with(MARK));
    // Let go again with the file: whoever takes it meanwhile tries for longer than this.
    is_mesh_s && matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Takes a lock. False if another has it for longer than somebody who looks.
fn lock(file: &File) -> io::Result<bool> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOOKED_AT => {
                std::thread::sleep(PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

impl StateLock {
    /// Takes the lock for the mesh on a socket.
    ///
    /// # Errors
    /// [`StateError`]; nothing was changed then.
    pub fn take(state: &Path, mesh: &Path) -> Result<Self, StateError> {
        Self::take_for(state, mesh, false)
    }

    /// Takes the lock for work on a state that no mesh has, so that none starts on it meanwhile.
    /// Whose it was before stays noted, so that the next mesh still ends what that one may have
    /// left running; `mesh` is noted where it was nobody's.
    ///
    /// # Errors
    /// [`StateError`]; nothing was changed then.
    pub fn take_at_rest(state: &Path, mesh: &Path) -> Result<Self, StateError> {
        Self::take_for(state, mesh, true)
    }

    fn take_for(state: &Path, mesh: &Path, keeps_former: bool) -> Result<Self, StateError> {
        let path = state.join(LOCK);
        let failed = |source: io::Error| StateError::Io { path: path.clone(), source };
        let not_ours =
            |what: &str| StateError::NotOurs { path: path.clone(), what: what.to_owned() };
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let (file, read_only) = match open(
            &path,
            flags | OFlag::O_CREAT | OFlag::O_RDWR,
            Mode::S_IRUSR | Mode::S_IWUSR,
        ) {
            Ok(file) => (File::from(file), false),
            Err(Errno::EROFS | Errno::EACCES | Errno::EPERM) => {
                match open(&path, flags | OFlag::O_RDONLY, Mode::empty()) {
                    Ok(file) => (File::from(file), true),
                    Err(Errno::ENOENT) => {
                        tracing::warn!(
                            "{} cannot be written to: what is there is served, and nothing is changed",
                            state.display()
                        );
                        return Ok(Self { file: None, former: None });
                    }
                    Err(error) => return Err(failed(error.into())),
                }
            }
            Err(Errno::ELOOP) => return Err(not_ours("a symbolic link")),
            Err(Errno::EISDIR) => return Err(not_ours("a folder")),
            Err(error) => return Err(failed(error.into())),
        };
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() {
            return Err(not_ours(described(&found)));
        }
        let taken = match lock(&file) {
            Ok(is_ours) => !is_ours,
            Err(error) => {
                tracing::warn!(%error, "{} cannot be locked: nothing keeps another mesh from the state", path.display());
                false
            }
        };
        let text = text(&file).map_err(failed)?;
        let former = Holder::parse(&text);
        match (taken, &former) {
            (true, Some(Holder { pid, socket })) => {
                return Err(StateError::Taken {
                    state: state.to_owned(),
                    socket: socket.clone(),
                    pid: *pid,
                });
            }
            (true, None) => {
                let holder = holder::holder_of(found.ino())
                    .map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                return Err(StateError::TakenBySomebody { state: state.to_owned(), holder });
            }
            // What was cut off while it was written is a mark's beginning, or begins with one.
            (false, _) if !text.starts_with(MARK) && !MARK.starts_with(&text) => {
                return Err(not_ours("a regular file"));
            }
            (false, _) => {}
        }
        if !read_only {
            let socket = former
                .as_ref()
                .filter(|_| keeps_former)
                .map_or(mesh, |former| former.socket.as_path());
            let own = Holder { pid: std::process::id(), socket: socket.to_owned() };
            let mut writing = &file;
            let written = file
                .set_len(0)
                .and_then(|()| writing.seek(SeekFrom::Start(0)))
                .and_then(|_| writing.write_all(&own.text()));
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
    fn who_works_on_a_state_at_rest_keeps_meshes_out_and_leaves_noted_whose_it_was() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let (one, two) = (Path::new("/run/one.sock"), Path::new("/run/two.sock"));
        drop(StateLock::take(state.path(), one).expect("taken"));
        let lock = StateLock::take_at_rest(state.path(), two).expect("taken");
        assert!(matches!(StateLock::take(state.path(), two), Err(StateError::Taken { .. })));
        drop(lock);
        let former =
            StateLock::take(state.path(), two).expect("taken").former.expect("it was somebody's");
        assert_eq!(former.socket, one);
    }

    #[test]
    fn a_state_is_one_mesh_s_and_says_whose() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let (one, two) =
            (Path::new("/run/one/brahman.sock"), Path::new("/run/t w\u{f6}/brahman.sock"));
        let lock = StateLock::take(state.path(), one).expect("taken");
        assert!(lock.is_held() && lock.former.is_none());
        let own = Holder { pid: std::process::id(), socket: one.to_owned() };
        assert_eq!(Holder::of(state.path()), Some(own.clone()));
        let refused = StateLock::take(state.path(), two).expect_err("it is taken");
        let words = refused.to_string();
        assert!(
            refused.is_configuration()
                && words.contains("/run/one/brahman.sock")
                && words.contains(&own.pid.to_string()),
            "{words}"
        );
        drop(lock);
        assert_eq!(Holder::of(state.path()), None);
        let lock = StateLock::take(state.path(), two).expect("taken");
        assert_eq!(lock.former, Some(own));
        assert_eq!(Holder::of(state.path()).expect("held").socket, two);
    }

    #[test]
    fn a_state_in_or_around_another_mesh_s_is_refused_by_name_while_that_runs_and_one_beside_it_is_not()
     {
        let home = tempfile::tempdir().expect("a temporary directory");
        let (outer, beside) = (home.path().join("outer"), home.path().join("beside"));
        std::fs::create_dir_all(outer.join("catalog/.registry"))
            .and_then(|()| std::fs::create_dir(&beside))
            .expect("made");
        let bucket = format!(
            r#"{{"version": 2, "buckets": [{{"name": "lake", "url": "file://{}"}}]}}"#,
            home.path().join("lake/x").display()
        );
        std::fs::write(outer.join("catalog/.registry/buckets.json"), bucket).expect("written");
        let mesh = StateLock::take(&outer, Path::new("/run/x.sock")).expect("taken");
        std::os::unix::fs::symlink(&outer, home.path().join("link")).expect("linked");
        let real = outer.canonicalize().expect("there").display().to_string();
        let pid = std::process::id().to_string();
        let inside =
            [outer.join("buckets/primary"), outer.join("not/yet"), home.path().join("link/x")];
        for (state, lies) in
            inside.iter().map(|state| (state.as_path(), INSIDE)).chain([(home.path(), AROUND)])
        {
            let refused = check_place(state).expect_err("it is another's");
            let words = refused.to_string();
            for expected in [real.as_str(), lies, "/run/x.sock", &pid, "--state"] {
                assert!(
                    words.contains(expected) && refused.is_configuration(),
                    "{expected}: {words}"
                );
            }
        }
        for (state, lies) in [("lake/x/y", INSIDE), ("lake/x", INSIDE), ("lake", AROUND)] {
            let refused =
                check_place(&home.path().join(state)).expect_err("its bucket").to_string();
            assert!(
                refused.contains("bucket `lake`")
                    && refused.contains(lies)
                    && refused.contains("/run/x.sock"),
                "{refused}"
            );
        }
        let fine = [&outer, &beside, &beside.join("not/yet"), &home.path().join("lakes")];
        fine.iter().for_each(|state| check_place(state).expect("it is nobody else's"));
        // What it leaves behind keeps nobody out.
        drop(mesh);
        assert!(outer.join(LOCK).exists());
        for state in inside {
            check_place(&state).expect("nobody has it");
        }
        check_place(home.path()).expect("nobody has it");
        std::fs::write(home.path().join(LOCK), "somebody's own").expect("written");
        check_place(&beside).expect("no mesh has made that");
    }

    #[test]
    fn whoever_only_looks_at_a_lock_keeps_nobody_from_taking_it_and_who_holds_one_in_silence_is_told_by_process()
     {
        let state = tempfile::tempdir().expect("a temporary directory");
        drop(StateLock::take(state.path(), Path::new("/run/x.sock")).expect("taken"));
        let looking = File::open(state.path().join(LOCK)).expect("there");
        looking.try_lock_shared().expect("looked at");
        let other = std::thread::spawn(move || drop(looking));
        let lock = StateLock::take(state.path(), Path::new("/run/y.sock")).expect("taken");
        other.join().expect("it ends");
        File::options()
            .write(true)
            .open(state.path().join(LOCK))
            .and_then(|file| file.set_len(0))
            .expect("it has yet to say who it is");
        let refused = StateLock::take(state.path(), Path::new("/run/z.sock"))
            .expect_err("it is held")
            .to_string();
        assert!(
            refused.contains(&format!("process {}", std::process::id()))
                && refused.contains("--state"),
            "{refused}"
        );
        drop(lock);
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
