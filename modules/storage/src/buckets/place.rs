//! Where buckets lie beside one another: no two may overlap, nor a bucket and the state.
//!
//! Folders are compared by their real paths and by device and inode of each of them and of all
//! folders above it, so that neither a link nor a mount of one folder in two places makes one
//! folder look like two. Pure but for looking at the file system.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A folder as it is, or would be once it is made.
#[derive(Debug)]
pub(super) struct Spot {
    path: PathBuf,
    /// Device and inode of the folder, if it is there.
    own: Option<(u64, u64)>,
    /// The same of every folder above it that is there.
    above: Vec<(u64, u64)>,
}

/// How two folders lie to one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overlap {
    Same,
    /// The first lies inside the second.
    Inside,
    /// The second lies inside the first.
    Around,
}

impl Overlap {
    /// In the middle of a sentence: the first … the second.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Same => "is",
            Self::Inside => "lies inside",
            Self::Around => "holds",
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

impl Spot {
    /// Looks at a folder.
    ///
    /// # Errors
    /// As the file system gives them, but for a folder that is not there.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let (mut missing, mut at) = (Vec::new(), folder);
        let mut path = loop {
            match at.canonicalize() {
                Ok(real) => break real,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
                        return Err(error);
                    };
                    missing.push(name);
                    at = parent;
                }
                Err(error) => return Err(error),
            }
        };
        path.extend(missing.iter().rev());
        let above = path.ancestors().skip(1).filter_map(identity).collect();
        Ok(Self { own: identity(&path), above, path })
    }

    /// How this folder lies to another.
    pub(super) fn overlap(&self, other: &Self) -> Option<Overlap> {
        let is =
            |one: Option<(u64, u64)>, all: &[(u64, u64)]| one.is_some_and(|one| all.contains(&one));
        if self.path == other.path || self.own.is_some() && self.own == other.own {
            return Some(Overlap::Same);
        }
        if self.path.starts_with(&other.path) || is(other.own, &self.above) {
            return Some(Overlap::Inside);
        }
        (other.path.starts_with(&self.path) || is(self.own, &other.above))
            .then_some(Overlap::Around)
    }

    /// The device that it lies on, or would.
    pub(super) fn device(&self) -> Option<u64> {
        self.own.or_else(|| self.above.first().copied()).map(|(device, _)| device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_one_by_whatever_path_they_are_named_and_neighbours_are_two() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| home.path().join(name);
        fs::create_dir_all(at("a/deep")).expect("made");
        fs::create_dir_all(at("ab")).expect("made");
        std::os::unix::fs::symlink(at("a"), at("link")).expect("linked");
        let overlap = |one: &str, two: &str| {
            Spot::of(&at(one)).expect("seen").overlap(&Spot::of(&at(two)).expect("seen"))
        };
        for (one, two, expected) in [
            ("a", "a", Some(Overlap::Same)),
            ("a", "link", Some(Overlap::Same)),
            ("link/deep", "a", Some(Overlap::Inside)),
            ("link/not/yet", "a", Some(Overlap::Inside)),
            ("a", "link/not/yet", Some(Overlap::Around)),
            ("not", "not/yet", Some(Overlap::Around)),
            ("a", "ab", None),
            ("a/x", "a/y", None),
        ] {
            assert_eq!(overlap(one, two), expected, "{one} {two}");
        }
        assert_eq!(
            Spot::of(&at("not/yet")).expect("seen").device(),
            Spot::of(&at("a")).expect("seen").device()
        );
    }
}
