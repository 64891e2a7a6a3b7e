//! What outlives this process: which profile is active, what was defined by call, and what modules
//! have taken at most.
//!
//! Invariants: each is one small file with a checksum, replaced whole; which profile is active is
//! never guessed, so that what it hides does not become visible by a damaged file; what modules
//! have taken may be lost, and is measured again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use brahman_card::chain;
use brahman_card::interface::profiles::Profile;
use brahman_storage::checked::{self, CheckedError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Profiles that may be defined by call.
pub const DEFINED_MAX: usize = 256;
/// Modules of which is kept what they have taken: more than a mesh has, and those that were renamed
/// drop out some day.
const PEAKS_MAX: usize = 1024;

/// Why what was kept cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// The file cannot be read, or is damaged.
    #[error(transparent)]
    File(#[from] CheckedError),
    /// Its content makes no sense.
    #[error("{} is not what this program writes", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
}

/// What is active, and what rests meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActiveRecord {
    /// As it was when it was activated: a file that is changed counts from the next activation on.
    pub profile: Option<Profile>,
    /// Modules that were unloaded here, and are loaded by the next call that needs them.
    pub resting: BTreeSet<String>,
}

/// What a module has taken at most while it worked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Peak {
    /// In MiB of its slot's memory.
    pub mib: u64,
    /// Of which model: another one's figures say nothing.
    pub model: Option<String>,
}

/// The folder of these files.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The folder `profiles` of the state, which is made.
    ///
    /// # Errors
    /// As `mkdir` gives them.
    pub fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join("profiles");
        brahman_sidecar::place::private_dir(&folder)?;
        Ok(Self { folder })
    }

    /// Where files of profiles may lie as well.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn read<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, StateError> {
        let path = self.folder.join(name);
        match checked::read(&path)? {
            None => Ok(T::default()),
            Some(content) => serde_json::from_slice(&content.bytes)
                .map_err(|source| StateError::Malformed { path, source }),
        }
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        checked::write(&self.folder.join(name), &serde_json::to_vec(value)?)
    }

    /// Which profile is active.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn active(&self) -> Result<ActiveRecord, StateError> {
        self.read("active.json")
    }

    /// Writes down which profile is active.
    ///
    /// # Errors
    /// As the file system gives them; what was active then still is.
    pub fn set_active(&self, record: &ActiveRecord) -> io::Result<()> {
        self.write("active.json", record)
    }

    /// Profiles that were defined by call, by id.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn defined(&self) -> Result<BTreeMap<String, Profile>, StateError> {
        self.read("defined.json")
    }

    /// Writes them down.
    ///
    /// # Errors
    /// As the file system gives them; the former ones are then still there.
    pub fn set_defined(&self, defined: &BTreeMap<String, Profile>) -> io::Result<()> {
        self.write("defined.json", defined)
    }

    /// What modules have taken at most, by label and slot; nothing where that cannot be read.
    #[must_use]
    pub fn peaks(&self) -> BTreeMap<String, Peak> {
        self.read("peaks.json").unwrap_or_else(|error| {
            tracing::warn!("what modules take is measured anew: {}", chain(&error));
            BTreeMap::new()
        })
    }

    /// Writes down what modules have taken at most.
    pub fn set_peaks(&self, peaks: &BTreeMap<String, Peak>) {
        let some: BTreeMap<&String, &Peak> = peaks.iter().take(PEAKS_MAX).collect();
        if let Err(error) = self.write("peaks.json", &some) {
            tracing::warn!("what modules take was not written down: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_active_comes_back_and_is_never_guessed() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("made");
        assert_eq!(store.active().expect("nothing yet"), ActiveRecord::default());
        let profile =
            Profile { id: "a".to_owned(), pinned: Some(true.into()), ..Profile::default() };
        let record =
            ActiveRecord { profile: Some(profile), resting: BTreeSet::from(["m".to_owned()]) };
        store.set_active(&record).expect("written");
        assert_eq!(store.active().expect("read"), record);
        let path = store.folder().join("active.json");
        let text = std::fs::read_to_string(&path).expect("there").replace("\"a\"", "\"b\"");
        std::fs::write(&path, text).expect("written");
        assert!(matches!(store.active(), Err(StateError::File(CheckedError::Damaged { .. }))));
        std::fs::write(&path, "{\"profile\": 3}").expect("written");
        assert!(matches!(store.active(), Err(StateError::Malformed { .. })));
    }

    #[test]
    fn what_modules_take_may_be_lost() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("made");
        let peaks =
            BTreeMap::from([("m cpu".to_owned(), Peak { mib: 300, model: Some("x".to_owned()) })]);
        store.set_peaks(&peaks);
        assert_eq!(store.peaks(), peaks);
        std::fs::write(store.folder().join("peaks.json"), "no JSON").expect("written");
        assert_eq!(store.peaks(), BTreeMap::new());
    }
}
