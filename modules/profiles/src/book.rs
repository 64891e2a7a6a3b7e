//! The profiles that are known: files in `profiles/`, and those that were defined by call.
//!
//! Invariants: what is given has been checked; a file that holds no profile takes nothing from the
//! others, and is named; an id is of one profile, and of two files of the same name the first
//! folder's counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use brahman_card::Label;
use brahman_card::interface::profiles::Profile;
use brahman_card::names::{BucketName, DatasetName, IndexName, NameError, ProfileName};
use thiserror::Error;

use crate::gate::Millis;

/// Modules in a profile at most: a Card's list may not be longer either.
const MODULES_MAX: usize = 64;
/// Names of indexes or datasets in a profile at most.
const NAMES_MAX: usize = 4096;
/// Files in a folder at most: as many as there may be Cards.
const FILES_MAX: usize = 256;
/// A profile is written by hand.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Longest that a module may rest and stay loaded by a number of seconds: a month; without one it
/// stays for ever.
const IDLE_S_MAX: u64 = 31 * 24 * 3600;
/// What indexes may be kept by.
const BACKENDS: [&str; 4] = ["auto", "flat", "flat-hnsw", "lance"];

/// Why there is no profile.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The disk does not give a file.
    #[error("{} cannot be read", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file is too long for a profile.
    #[error("{} has more than {FILE_BYTES_MAX} bytes, expected a profile", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file is not TOML, or has other fields than a profile.
    #[error("{} is no profile: {fault}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, on one line.
        fault: String,
    },
    /// A file says another id than its name.
    #[error("{} has the id `{id}`: expected the file's own name without .toml, or none", .path.display())]
    OfAnother {
        /// The file.
        path: PathBuf,
        /// What it says.
        id: String,
    },
    /// A field makes no sense.
    #[error("profile `{id}`, `{field}`: {expected}")]
    Field {
        /// Of which profile.
        id: String,
        /// Which one.
        field: &'static str,
        /// What was found, and what was expected.
        expected: String,
    },
    /// A name in a field is none.
    #[error("profile `{id}`, `{field}`")]
    Name {
        /// Of which profile.
        id: String,
        /// Which one.
        field: &'static str,
        /// Cause.
        #[source]
        source: NameError,
    },
}

/// A profile that makes sense by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedProfile {
    /// As it was written.
    pub profile: Profile,
    /// Labels of its modules, each once.
    pub modules: Vec<String>,
    /// Those of them that are never unloaded while it is active.
    pub pinned: BTreeSet<String>,
    /// How long a module may rest.
    pub idle: Option<Millis>,
    /// The file that it was read from.
    pub origin: Option<PathBuf>,
}

impl CheckedProfile {
    /// Checks a profile.
    ///
    /// # Errors
    /// [`ProfileError::Field`] or [`ProfileError::Name`].
    pub fn new(profile: Profile, origin: Option<PathBuf>) -> Result<Self, ProfileError> {
        let id = profile.id.clone();
        let name = |field, source| ProfileError::Name { id: id.clone(), field, source };
        let wrong =
            |field, expected: String| ProfileError::Field { id: id.clone(), field, expected };
        profile.id.parse::<ProfileName>().map_err(|source| name("id", source))?;
        let listed = profile.modules.as_deref().unwrap_or_default();
        if listed.len() > MODULES_MAX {
            return Err(wrong(
                "modules",
                format!("{} labels, expected at most {MODULES_MAX}", listed.len()),
            ));
        }
        let mut modules: Vec<String> = Vec::new();
        for label in listed {
            label.parse::<Label>().map_err(|source| name("modules", source))?;
            if !modules.contains(label) {
                modules.push(label.clone());
            }
        }
        for (field, names) in [("indexes", &profile.indexes), ("datasets", &profile.datasets)] {
            let names = names.as_deref().unwrap_or_default();
            if names.len() > NAMES_MAX {
                return Err(wrong(
                    field,
                    format!("{} names, expected at most {NAMES_MAX}", names.len()),
                ));
            }
            for one in names {
                let outcome = if field == "indexes" {
                    one.parse::<IndexName>().map(drop)
                } else {
                    one.parse::<DatasetName>().map(drop)
                };
                outcome.map_err(|source| name(field, source))?;
            }
        }
        if let Some(bucket) = &profile.bucket {
            bucket.parse::<BucketName>().map_err(|source| name("bucket", source))?;
        }
        if let Some(backend) =
            profile.backend.as_ref().filter(|backend| !BACKENDS.contains(&backend.as_str()))
        {
            return Err(wrong(
                "backend",
                format!("`{}`, expected one of {}", backend.escape_debug(), BACKENDS.join(", ")),
            ));
        }
        if let Some(seconds) = profile.idle_s.filter(|seconds| !(1..=IDLE_S_MAX).contains(seconds))
        {
            return Err(wrong(
                "idle_s",
                format!("{seconds}, expected 1 to {IDLE_S_MAX} seconds, or nothing for never"),
            ));
        }
        let pinned = match &profile.pinned {
            None | Some(serde_json::Value::Bool(false)) => BTreeSet::new(),
            Some(serde_json::Value::Bool(true)) => modules.iter().cloned().collect(),
            Some(serde_json::Value::Array(labels)) => {
                let mut pinned = BTreeSet::new();
                for label in labels {
                    let known =
                        label.as_str().filter(|label| modules.iter().any(|module| module == label));
                    let known = known.ok_or_else(|| {
                        wrong("pinned", format!("{label}, expected labels out of `modules`"))
                    })?;
                    pinned.insert(known.to_owned());
                }
                pinned
            }
            Some(other) => {
                return Err(wrong("pinned", format!("{other}, expected true or a list of labels")));
            }
        };
        let idle = profile.idle_s.map(|seconds| seconds * 1000);
        Ok(Self { profile, modules, pinned, idle, origin })
    }
}

/// The profiles that were found, and what could not be read.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Each profile by its id.
    pub profiles: BTreeMap<String, CheckedProfile>,
    /// What could not be read, in words.
    pub faults: Vec<String>,
}

impl Book {
    /// Reads the folders, the first before the others, and then takes what was defined by call.
    #[must_use]
    pub fn read(folders: &[PathBuf], defined: &BTreeMap<String, Profile>) -> Self {
        let mut book = Self::default();
        for folder in folders {
            let files = match files(folder) {
                Ok(files) => files,
                Err(error) => {
                    book.faults.push(format!("{} cannot be listed: {error}", folder.display()));
                    continue;
                }
            };
            for path in files {
                match read_file(&path) {
                    Ok(profile) => {
                        book.profiles.entry(profile.profile.id.clone()).or_insert(profile);
                    }
                    Err(error) => book.faults.push(brahman_card::chain(&error)),
                }
            }
        }
        for profile in defined.values() {
            match CheckedProfile::new(profile.clone(), None) {
                Ok(profile) => {
                    book.profiles.entry(profile.profile.id.clone()).or_insert(profile);
                }
                Err(error) => book.faults.push(brahman_card::chain(&error)),
            }
        }
        book
    }

    /// Labels that any profile names: whoever is among them is loaded and unloaded here.
    #[must_use]
    pub fn managed(&self) -> BTreeSet<String> {
        self.profiles.values().flat_map(|profile| profile.modules.iter().cloned()).collect()
    }
}

/// The files that may hold profiles; none where there is no folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error)
            if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) =>
        {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries.take(FILES_MAX) {
        let path = entry?.path();
        let is_hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if !is_hidden && path.extension().is_some_and(|ending| ending == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<CheckedProfile, ProfileError> {
    let unreadable = |source| ProfileError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ProfileError::TooLarge { path: path.to_owned() });
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    parse(&stem, &text, path)
}

/// A profile from its file's text; its id is the file's name without its ending.
fn parse(stem: &str, text: &str, path: &Path) -> Result<CheckedProfile, ProfileError> {
    let malformed = |error| {
        let fault = brahman_card::toml_words(text, &error);
        ProfileError::Malformed { path: path.to_owned(), fault }
    };
    let mut table: toml::Table = toml::from_str(text).map_err(malformed)?;
    table.entry("id").or_insert_with(|| stem.into());
    let profile: Profile = table.try_into().map_err(malformed)?;
    if profile.id != stem {
        return Err(ProfileError::OfAnother { path: path.to_owned(), id: profile.id });
    }
    CheckedProfile::new(profile, Some(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECRUITER: &str = r#"
modules = ["embed-minilm", "score-phi", "embed-minilm"]
indexes = ["cvs"]
datasets = ["cvs", "jobs"]
bucket = "staffing"
backend = "flat-hnsw"
pinned = ["embed-minilm"]
idle_s = 300
"#;

    fn parsed(text: &str) -> Result<CheckedProfile, ProfileError> {
        parse("staffing-recruiter", text, Path::new("/profiles/staffing-recruiter.toml"))
    }

    #[test]
    fn a_profile_is_read_and_called_as_its_file() {
        let profile = parsed(RECRUITER).expect("a profile");
        assert_eq!(
            (profile.profile.id.as_str(), profile.idle),
            ("staffing-recruiter", Some(300_000))
        );
        assert_eq!(profile.modules, ["embed-minilm", "score-phi"], "each once");
        assert_eq!(profile.pinned, BTreeSet::from(["embed-minilm".to_owned()]));
        let all = parsed("modules = [\"a\", \"b\"]\npinned = true").expect("a profile");
        assert_eq!(all.pinned.len(), 2);
        assert_eq!(
            (all.profile.indexes, all.idle),
            (None, None),
            "everything can be named, nothing is unloaded for resting"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_field() {
        for (line, words) in [
            ("id = \"another\"", "expected the file's own name"),
            ("modles = []", "modles"),
            ("modules = [\"No Label\"]", "a module"),
            ("indexes = [\"../up\"]", "an index"),
            ("datasets = [\"a/b\"]", "a dataset"),
            ("bucket = \".hidden\"", "a bucket"),
            ("backend = \"faiss\"", "flat-hnsw"),
            ("pinned = [\"a\"]", "out of `modules`"),
            ("pinned = 3", "true or a list"),
            ("idle_s = 0", "expected 1 to"),
            ("not toml", "is no profile"),
        ] {
            let why = brahman_card::chain(&parsed(line).expect_err(line));
            assert!(why.contains(words), "{line}: {why}");
        }
    }

    #[test]
    fn the_first_folder_counts_and_a_bad_file_takes_nothing_from_the_others() {
        let (mine, theirs) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let write = |folder: &Path, name: &str, text: &str| {
            fs::write(folder.join(name), text).expect("written");
        };
        write(mine.path(), "a.toml", "modules = [\"mine\"]");
        write(theirs.path(), "a.toml", "modules = [\"theirs\"]");
        write(theirs.path(), "b.toml", "modules = [\"b\"]");
        write(theirs.path(), "broken.toml", "modules = 3");
        write(theirs.path(), "notes.txt", "no profile");
        let defined = |id: &str| Profile {
            id: id.to_owned(),
            modules: Some(vec!["called".to_owned()]),
            ..Profile::default()
        };
        let defined = BTreeMap::from(["b", "c"].map(|id| (id.to_owned(), defined(id))));
        let folders =
            [mine.path().to_owned(), theirs.path().to_owned(), mine.path().join("not there")];
        let book = Book::read(&folders, &defined);
        let modules: Vec<_> = book
            .profiles
            .iter()
            .map(|(id, profile)| (id.as_str(), profile.modules[0].as_str()))
            .collect();
        assert_eq!(modules, [("a", "mine"), ("b", "b"), ("c", "called")]);
        assert!(
            book.faults.len() == 1
                && book.faults[0].contains("broken.toml")
                && !book.faults[0].contains('\n'),
            "{:?}",
            book.faults
        );
        assert_eq!(book.managed().len(), 3);
    }
}
