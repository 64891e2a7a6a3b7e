//! Where the mesh lives on this machine: one rule for every program.

pub mod cards;
mod group;
mod holder;
pub mod meshes;
pub mod socket;
pub mod state;

use std::env;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, chown};
use thiserror::Error;

pub use group::{GroupError, is_member, mesh_group};

/// The variable by which `brahman up --detach` tells init that its standard error is a file that
/// nobody bounds.
pub const DETACHED: &str = "BRAHMAN_DETACHED";

/// The mesh socket: `$BRAHMAN_SOCKET`, else `$XDG_RUNTIME_DIR/brahman/brahman.sock`, else
/// `/run/brahman/brahman.sock`.
#[must_use]
pub fn mesh_socket() -> PathBuf {
    match (path_of("BRAHMAN_SOCKET"), path_of("XDG_RUNTIME_DIR")) {
        (Some(socket), _) => socket,
        (None, Some(runtime)) => runtime.join("brahman/brahman.sock"),
        (None, None) => PathBuf::from("/run/brahman/brahman.sock"),
    }
}

/// Every place where the mesh socket may be by the rule of [`mesh_socket`], the one that counts
/// first.
#[must_use]
pub fn mesh_sockets() -> Vec<PathBuf> {
    let runtime = path_of("XDG_RUNTIME_DIR").map(|runtime| runtime.join("brahman/brahman.sock"));
    [path_of("BRAHMAN_SOCKET"), runtime, Some(PathBuf::from("/run/brahman/brahman.sock"))]
        .into_iter()
        .flatten()
        .collect()
}

/// init's own socket, beside the mesh socket.
#[must_use]
pub fn init_socket(mesh: &Path) -> PathBuf {
    mesh.with_file_name("init.sock")
}

/// State that must survive: `$BRAHMAN_STATE`, else `$XDG_STATE_HOME/brahman`, else
/// `~/.local/state/brahman` for a user with a home, else `/var/lib/brahman`.
#[must_use]
pub fn state_dir() -> PathBuf {
    path_of("BRAHMAN_STATE")
        .unwrap_or_else(|| home_dir("XDG_STATE_HOME", ".local/state", "/var/lib/brahman"))
}

/// What may be deleted at any time: `$BRAHMAN_CACHE`, else `$XDG_CACHE_HOME/brahman`, else
/// `~/.cache/brahman`, else `/var/cache/brahman`.
#[must_use]
pub fn cache_dir() -> PathBuf {
    path_of("BRAHMAN_CACHE")
        .unwrap_or_else(|| home_dir("XDG_CACHE_HOME", ".cache", "/var/cache/brahman"))
}

fn home_dir(variable: &str, under_home: &str, system: &str) -> PathBuf {
    match (path_of(variable), path_of("HOME")) {
        (Some(base), _) => base.join("brahman"),
        (None, Some(home)) if home != Path::new("/") => home.join(under_home).join("brahman"),
        _ => PathBuf::from(system),
    }
}

fn path_of(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Creates a directory that only its owner enters. One that exists is left as it is.
///
/// # Errors
/// As `mkdir` gives them.
pub fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Why a folder will not hold the mesh's sockets.
#[derive(Debug, Error)]
pub enum FolderError {
    /// Somebody else could put files of their own in the place of ours.
    #[error("the run folder {path} {why}: {mend}")]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// Who could.
        why: String,
        /// What to do.
        mend: String,
    },
    /// It could not be made or looked at.
    #[error("cannot use the run folder {path}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Makes sure of the folder that holds the sockets: it is made, 0700, or it is there and nobody but
/// its owner (us, or root) can replace what lies in it. True if it was made.
///
/// # Errors
/// [`FolderError`].
pub fn run_folder(path: &Path) -> Result<bool, FolderError> {
    let failed = |source| FolderError::Io { path: path.to_owned(), source };
    let made = !path.exists();
    private_dir(path).map_err(failed)?;
    let found = std::fs::metadata(path).map_err(failed)?;
    let refuse = |why: String, mend: &str| {
        Err(FolderError::Unsafe { path: path.to_owned(), why, mend: mend.to_owned() })
    };
    let own = nix::unistd::geteuid().as_raw();
    if !found.is_dir() {
        return refuse(format!("is {}", socket::described(&found)), "choose another --socket");
    }
    if found.uid() != own && found.uid() != 0 {
        return refuse(
            format!("belongs to uid {}, not to uid {own}", found.uid()),
            "choose another --socket",
        );
    }
    let mode = socket::mode(&found);
    // In a sticky folder, such as /tmp, others can add files but not replace ours.
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return refuse(
            format!("has mode {mode:04o}, so that others may write to it"),
            "`chmod go-w` it, or choose another --socket",
        );
    }
    Ok(made)
}

/// Whether a group may enter a folder as it is.
#[must_use]
pub fn enters(folder: &Path, gid: u32) -> bool {
    std::fs::metadata(folder).is_ok_and(|found| {
        let mode = socket::mode(&found);
        mode & 0o001 != 0 || (found.gid() == gid && mode & 0o010 != 0)
    })
}

/// Lets a group enter the run folder, without listing it.
///
/// # Errors
/// As `chown` and `chmod` give them.
pub fn open_to_group(folder: &Path, gid: u32) -> io::Result<()> {
    if enters(folder, gid) {
        return Ok(());
    }
    let found = std::fs::metadata(folder)?;
    let mode = socket::mode(&found);
    if found.gid() != gid {
        // What the former group was allowed is not the new one's.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode & !0o070))?;
        chown(folder, None, Some(Gid::from_raw(gid)))?;
        return std::fs::set_permissions(
            folder,
            std::fs::Permissions::from_mode((mode & !0o070) | 0o010),
        );
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode | 0o010))
}

/// Makes a socket 0600, or 0660 and the group's: the kernel then lets that group in.
///
/// # Errors
/// As `chown` and `chmod` give them.
pub fn guard_socket(path: &Path, group: Option<u32>) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    if let Some(gid) = group {
        chown(path, None, Some(Gid::from_raw(gid)))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    }
    Ok(())
}

/// Whether `$BRAHMAN_GROUP` opens this process's socket to a group.
#[must_use]
pub fn group_allowed() -> bool {
    matches!(mesh_group(), Ok(Some(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_that_others_may_write_is_refused_and_a_sticky_one_is_not() {
        let outer = tempfile::tempdir().expect("a temporary directory");
        let folder = outer.path().join("run");
        assert!(run_folder(&folder).expect("made"));
        assert!(!run_folder(&folder).expect("there"));
        for (mode, fine) in [
            (0o700, true),
            (0o755, true),
            (0o770, false),
            (0o702, false),
            (0o777, false),
            (0o1777, true),
        ] {
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode))
                .expect("changed");
            let outcome = run_folder(&folder);
            assert_eq!(outcome.is_ok(), fine, "{mode:o}: {outcome:?}");
            if let Err(error) = outcome {
                assert!(error.to_string().contains("others may write"), "{error}");
            }
        }
        std::fs::write(outer.path().join("file"), "").expect("written");
        assert!(run_folder(&outer.path().join("file")).is_err());
    }

    #[test]
    fn a_group_may_enter_the_run_folder_and_not_list_it() {
        let outer = tempfile::tempdir().expect("a temporary directory");
        let own = nix::unistd::getegid().as_raw();
        std::fs::set_permissions(outer.path(), std::fs::Permissions::from_mode(0o700))
            .expect("changed");
        open_to_group(outer.path(), own).expect("opened");
        assert_eq!(socket::mode(&std::fs::metadata(outer.path()).expect("there")), 0o710);
    }
}
