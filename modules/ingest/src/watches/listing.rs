//! What lies below some paths: a digest of names, sizes and times.

use std::os::unix::fs::MetadataExt;

use brahman_storage::digest::{hex, sha256};
use tokio_util::sync::CancellationToken;

use super::folders::in_mesh;
use crate::source::{self, Flaw, SourceError, Walk, WalkRules};

/// What a look saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In hex; equal if no path, size, time or inode has changed.
    pub digest: String,
    /// How many files there were.
    pub files: u64,
}

impl Listing {
    /// Looks.
    ///
    /// # Errors
    /// If a path is not there, or a mesh writes what is there: it may have become a bucket since.
    pub fn of(paths: &[String], no_ignore: bool) -> Result<Self, SourceError> {
        if let Some(own) = in_mesh(paths) {
            return Err(SourceError { given: own.to_owned(), flaw: Flaw::OfMesh });
        }
        let rules = WalkRules { no_ignore, ..WalkRules::default() };
        let Walk { files, unread, .. } = source::walk(paths, &rules, &CancellationToken::new())?;
        let mut lines = Vec::new();
        for file in &files {
            // Gone since the walk: the next look will not see it.
            let Ok(meta) = file.path.metadata() else { continue };
            lines.extend_from_slice(file.path.as_os_str().as_encoded_bytes());
            lines.push(0);
            for n in [
                meta.size(),
                meta.ino(),
                meta.mtime().cast_unsigned(),
                meta.mtime_nsec().cast_unsigned(),
            ] {
                lines.extend_from_slice(&n.to_le_bytes());
            }
        }
        // What can be read again is a change.
        unread.iter().for_each(|error| lines.extend_from_slice(error.to_string().as_bytes()));
        Ok(Self { digest: hex(&sha256(&lines)), files: files.len() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_has_become_a_bucket_is_not_listed_any_more_nor_one_below_another() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let below = folder.path().join("below");
        std::fs::create_dir(&below).expect("made");
        std::fs::write(folder.path().join("a.md"), "a").expect("written");
        let look = || Listing::of(&[folder.path().display().to_string()], false);
        let before = look().expect("looked");
        std::fs::write(below.join(".brahman-bucket.json"), "{}").expect("written");
        std::fs::write(below.join("part.parquet"), "p").expect("written");
        assert_eq!(look().expect("looked"), before);
        std::fs::write(folder.path().join(".brahman-bucket.json"), "{}").expect("written");
        assert!(matches!(look(), Err(SourceError { flaw: Flaw::OfMesh, .. })));
    }

    #[test]
    fn a_listing_changes_with_what_lies_there() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let look = || Listing::of(&[folder.path().display().to_string()], false).expect("looked");
        let empty = look();
        std::fs::write(folder.path().join("a.md"), "a").expect("written");
        let one = look();
        assert!(one != empty && one.files == 1 && one == look());
        std::fs::write(folder.path().join("a.md~"), "a").expect("written");
        std::fs::write(folder.path().join(".a.md.swp"), "a").expect("written");
        assert_eq!(look(), one, "backups and swap files are passed over");
        // Another file of the same size under the same name.
        std::fs::write(folder.path().join("b.part"), "b").expect("written");
        std::fs::rename(folder.path().join("b.part"), folder.path().join("a.md")).expect("renamed");
        assert_ne!(look(), one);
    }
}
