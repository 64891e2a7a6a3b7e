//! Whether a folder can be written to: a state on a read-only disk is served from, and whatever
//! would change it is refused.
//!
//! It is asked by making a file, not by looking at permissions: those do not bind root, and a mount
//! does not show in them. Nothing is left behind, not even after a kill, for the file never has a
//! name. Invariant: a full disk is not a read-only one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// That a folder cannot be written to.
#[derive(Debug, Error)]
#[error("{} cannot be written to: what is there is served, and nothing is changed; make it writable, then restart the module", .folder.display())]
pub struct ReadOnly {
    /// The folder that cannot be written to.
    pub folder: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Whether an error says that nothing can be written, rather than that something went wrong.
#[must_use]
pub fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Makes sure that files can be made in a folder, or in the one that it will be made in.
///
/// # Errors
/// [`ReadOnly`] if they cannot; any other trouble is for whoever writes to meet.
pub fn check(folder: &Path) -> Result<(), ReadOnly> {
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(folder);
    match tempfile::tempfile_in(there) {
        Err(source) if is_read_only(&source) => Err(ReadOnly { folder: folder.to_owned(), source }),
        _ => Ok(()),
    }
}

/// Makes a folder and those above it. Where nothing can be written one that is missing stays
/// missing, which is no error: false.
///
/// # Errors
/// As the file system gives them.
pub fn make_folder(folder: &Path) -> io::Result<bool> {
    match fs::create_dir_all(folder) {
        Ok(()) => Ok(true),
        Err(error) if is_read_only(&error) => Ok(folder.is_dir()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_can_be_written_to_is_told_and_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        check(folder.path()).expect("writable");
        check(&folder.path().join("not/there/yet")).expect("it can be made");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
        assert!(
            make_folder(&folder.path().join("a/b")).expect("made")
                && folder.path().join("a/b").is_dir()
        );
    }

    #[test]
    fn a_folder_of_the_kernel_s_is_read_only_for_root_as_well() {
        // Nobody makes files there, whoever he is.
        let refused = check(Path::new("/sys/kernel")).expect_err("no file can be made there");
        assert!(
            refused.to_string().contains("/sys/kernel")
                && refused.to_string().contains("nothing is changed"),
            "{refused}"
        );
    }

    #[test]
    fn a_full_disk_is_not_a_read_only_one() {
        for (kind, read_only) in [
            (io::ErrorKind::ReadOnlyFilesystem, true),
            (io::ErrorKind::PermissionDenied, true),
            (io::ErrorKind::StorageFull, false),
            (io::ErrorKind::NotFound, false),
        ] {
            assert_eq!(is_read_only(&kind.into()), read_only, "{kind:?}");
        }
    }
}
