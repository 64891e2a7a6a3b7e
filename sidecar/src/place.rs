//! Where the mesh lives on this machine: one rule for every program.

use std::env;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The mesh socket: `$BRAHMAN_SOCKET`, else `$XDG_RUNTIME_DIR/brahman/brahman.sock`, else `/run/brahman/brahman.sock`.
#[must_use]
pub fn mesh_socket() -> PathBuf {
    match (path_of("BRAHMAN_SOCKET"), path_of("XDG_RUNTIME_DIR")) {
        (Some(socket), _) => socket,
        (None, Some(runtime)) => runtime.join("brahman/brahman.sock"),
        (None, None) => PathBuf::from("/run/brahman/brahman.sock"),
    }
}

/// init's own socket, beside the mesh socket.
#[must_use]
pub fn init_socket(mesh: &Path) -> PathBuf {
    mesh.with_file_name("init.sock")
}

/// State that must survive: `$BRAHMAN_STATE`, else `$XDG_STATE_HOME/brahman`, else `~/.local/state/brahman` for a
/// user with a home, else `/var/lib/brahman`.
#[must_use]
pub fn state_dir() -> PathBuf {
    path_of("BRAHMAN_STATE").unwrap_or_else(|| home_dir("XDG_STATE_HOME", ".local/state", "/var/lib/brahman"))
}

/// What may be deleted at any time: `$BRAHMAN_CACHE`, else `$XDG_CACHE_HOME/brahman`, else `~/.cache/brahman`, else
/// `/var/cache/brahman`.
#[must_use]
pub fn cache_dir() -> PathBuf {
    path_of("BRAHMAN_CACHE").unwrap_or_else(|| home_dir("XDG_CACHE_HOME", ".cache", "/var/cache/brahman"))
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

/// Makes a socket 0600, or 0660 where a group was configured: the kernel then lets that group in.
///
/// # Errors
/// As `chmod` gives them.
pub fn guard_socket(path: &Path) -> io::Result<()> {
    let mode = if group_allowed() { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Whether `$BRAHMAN_GROUP` opens the sockets to a group.
#[must_use]
pub fn group_allowed() -> bool {
    env::var_os("BRAHMAN_GROUP").is_some_and(|group| !group.is_empty())
}
