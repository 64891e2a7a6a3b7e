//! Generations that are kept although others follow, and which generations a dataset has.
//!
//! A pin lies in the dataset's own file and names its objects: whoever reads that file knows that
//! they are needed. Invariants: only what is kept at that moment can be pinned, so that nothing
//! comes to be needed that may be going; a pin whose life is over is taken out of the file first,
//! and only then may its objects go.

use std::io;

use brahman_card::clock::now_ms;
use brahman_card::interface::catalog::{Object, PinnedGeneration};
use brahman_sidecar::chain;

use super::entry::Entry;
use super::{DatasetRegistry, RegistryError, check};

/// Pins of one dataset: each names its objects in the dataset's file.
const PINS_MAX: usize = 100;

/// A generation that is kept, with what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptGeneration {
    /// Number of the generation that was asked for.
    pub generation: u64,
    /// The run that made it; empty in files of the first versions.
    pub run_id: String,
    /// In the order of their rows.
    pub objects: Vec<Object>,
}

impl Entry {
    fn present(&self) -> KeptGeneration {
        let (generation, run_id) = (self.dataset.generation, self.dataset.lineage.run_id.clone());
        KeptGeneration { generation, run_id, objects: self.dataset.objects.clone() }
    }

    /// The generation before the present one, if its file still says what that was made of.
    fn last(&self) -> Option<KeptGeneration> {
        let version = self.history.iter().rev().nth(1)?;
        let object = |key: &String| {
            self.dataset
                .objects
                .iter()
                .chain(&self.previous)
                .find(|object| object.key == *key)
                .cloned()
        };
        let objects: Vec<Object> = self.before.iter().map(object).collect::<Option<_>>()?;
        let is_whole = objects.iter().map(|object| object.rows).sum::<u64>() == version.rows
            && (!objects.is_empty() || version.rows == 0);
        is_whole.then(|| KeptGeneration {
            generation: version.generation,
            run_id: version.run_id.clone(),
            objects,
        })
    }

    /// Every generation that is kept, the present one first, each once.
    fn generations(&self) -> Vec<KeptGeneration> {
        let pinned = self.pins.iter().map(|pin| KeptGeneration {
            generation: pin.generation,
            run_id: pin.run_id.clone(),
            objects: pin.objects.clone(),
        });
        let mut all: Vec<KeptGeneration> = Vec::new();
        for one in [self.present()].into_iter().chain(self.last()).chain(pinned) {
            if !all
                .iter()
                .any(|known| (known.generation, &known.run_id) == (one.generation, &one.run_id))
            {
                all.push(one);
            }
        }
        all
    }
}

impl DatasetRegistry {
    /// Keeps a generation, the present one unless another is named, until `until_ms` or without an
    /// end. Of a pin that is there already the end is set anew.
    ///
    /// # Errors
    /// If there is no such dataset or generation, the name will not do, there are too many pins, or
    /// the disk refuses.
    pub fn pin(
        &mut self,
        name: &str,
        generation: Option<u64>,
        pin: Option<String>,
        until_ms: Option<u64>,
    ) -> Result<PinnedGeneration, RegistryError> {
        let mut entry = self.entry(name)?.clone();
        self.refuse_mock(name, &entry)?;
        let number = generation.unwrap_or(entry.dataset.generation);
        let kept = entry.generations().into_iter().find(|kept| kept.generation == number);
        let kept = kept.ok_or_else(|| RegistryError::NoSuchGeneration {
            name: name.to_owned(),
            generation: number,
        })?;
        let pin = pin.unwrap_or_else(|| {
            if kept.run_id.is_empty() {
                format!("generation-{number}")
            } else {
                kept.run_id.clone()
            }
        });
        check(&pin)?;
        let pin = PinnedGeneration {
            pin,
            generation: number,
            run_id: kept.run_id,
            objects: kept.objects,
            until_ms,
            folder: None,
        };
        match entry.pins.iter().position(|known| known.pin == pin.pin) {
            // The same pin of another generation moves there.
            Some(at) => entry.pins[at] = pin.clone(),
            None if entry.pins.len() >= PINS_MAX => {
                return Err(RegistryError::TooManyPins {
                    name: name.to_owned(),
                    count: entry.pins.len(),
                });
            }
            None => entry.pins.push(pin.clone()),
        }
        entry.pins.sort_by(|a, b| (a.generation, &a.pin).cmp(&(b.generation, &b.pin)));
        self.steps
            .pass("before the pin")
            .map_err(|source| RegistryError::Io { path: self.folder.clone(), source })?;
        self.save(name, &entry)?;
        self.entries.insert(name.to_owned(), entry);
        Ok(self.pin_with_paths(pin))
    }

    /// Takes pins away: the one of this name, those of this generation, or all. Says how many there
    /// were.
    ///
    /// # Errors
    /// If there is no such dataset, or the disk refuses: then all stay.
    pub fn unpin(
        &mut self,
        name: &str,
        generation: Option<u64>,
        pin: Option<&str>,
    ) -> Result<u64, RegistryError> {
        let is_meant = |one: &PinnedGeneration| {
            generation.is_none_or(|generation| one.generation == generation)
                && pin.is_none_or(|pin| one.pin == pin)
        };
        self.entry(name).and_then(|entry| self.refuse_mock(name, entry))?;
        self.remove_pins(name, is_meant)
    }

    /// Takes away the pins whose life is over. What failed is tried again the next time: until then
    /// they keep what they name.
    pub fn expire_pins(&mut self, now_ms: u64) {
        let is_over = |pin: &PinnedGeneration| pin.until_ms.is_some_and(|until| until <= now_ms);
        let names: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.pins.iter().any(is_over))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            match self.remove_pins(&name, is_over) {
                Ok(count) => {
                    tracing::info!(
                        dataset = name,
                        count,
                        "pins whose life is over were taken away"
                    );
                }
                Err(error) => tracing::error!(
                    dataset = name,
                    "pins whose life is over stay: {}",
                    chain(&error)
                ),
            }
        }
    }

    fn remove_pins(
        &mut self,
        name: &str,
        is_meant: impl Fn(&PinnedGeneration) -> bool,
    ) -> Result<u64, RegistryError> {
        let mut entry = self.entry(name)?.clone();
        let there = entry.pins.len();
        entry.pins.retain(|pin| !is_meant(pin));
        let count = there - entry.pins.len();
        if count > 0 {
            self.save(name, &entry)?;
            self.entries.insert(name.to_owned(), entry);
        }
        Ok(count as u64)
    }

    /// The pins of a dataset that are not over, with the paths of their objects.
    #[must_use]
    pub fn pins(&self, name: &str) -> Vec<PinnedGeneration> {
        let now_ms = now_ms();
        let pins = self.entries.get(name).into_iter().flat_map(|entry| &entry.pins);
        pins.filter(|pin| pin.until_ms.is_none_or(|until| until > now_ms))
            .map(|pin| self.pin_with_paths(pin.clone()))
            .collect()
    }

    fn pin_with_paths(&self, mut pin: PinnedGeneration) -> PinnedGeneration {
        for object in &mut pin.objects {
            object.path = self.roots.path(object).ok().map(|path| path.display().to_string());
        }
        pin
    }

    /// Refuses to do away with what somebody has pinned.
    pub(super) fn refuse_pinned(&self, name: &str) -> Result<(), RegistryError> {
        let pins: Vec<String> = self.pins(name).into_iter().map(|pin| pin.pin).collect();
        if pins.is_empty() {
            Ok(())
        } else {
            Err(RegistryError::Pinned { name: name.to_owned(), pins })
        }
    }

    /// Every generation of a dataset that is kept, the present one first; none of a dataset that is
    /// not whole.
    #[must_use]
    pub fn generations(&self, name: &str) -> Vec<KeptGeneration> {
        self.entries.get(name).map(Entry::generations).unwrap_or_default()
    }

    /// Names of all datasets whose files are whole.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// Whether it is certain that there is no dataset of this name, whole or not.
    #[must_use]
    pub fn is_known_absent(&self, name: &str) -> bool {
        !self.has(name) && self.doubts().is_empty()
    }

    /// Refuses a new name that will not do, or that a dataset has.
    ///
    /// # Errors
    /// [`RegistryError::BadName`], [`RegistryError::Reserved`], [`RegistryError::Exists`], and
    /// [`RegistryError::Damaged`] of one that is lost.
    pub fn check_vacant(&self, name: &str) -> Result<(), RegistryError> {
        super::names::check_new(name)?;
        self.refuse_lost(name)?;
        if self.has(name) { Err(RegistryError::Exists(name.to_owned())) } else { Ok(()) }
    }

    /// Refuses a new name for what is known by its old one: indexes are fed by it, or it is pinned.
    ///
    /// # Errors
    /// [`RegistryError::InUse`], [`RegistryError::Pinned`], or that there is no such dataset.
    pub fn check_movable(&self, name: &str) -> Result<(), RegistryError> {
        let entry = self.entry(name)?;
        if !entry.feeds.is_empty() {
            return Err(RegistryError::InUse {
                name: name.to_owned(),
                indexes: entry.feeds.keys().cloned().collect(),
            });
        }
        self.refuse_pinned(name)
    }

    /// Deletes a dataset if its present generation is still of this run, and nothing has come to
    /// need its name.
    ///
    /// # Errors
    /// [`RegistryError::Moved`] if it has gone on, and as [`DatasetRegistry::check_movable`] and
    /// [`DatasetRegistry::delete`].
    pub fn delete_at(&mut self, name: &str, run_id: &str) -> Result<(), RegistryError> {
        self.check_movable(name)?;
        let entry = self.entry(name)?;
        if entry.run_id() != Some(run_id) {
            let is = entry.dataset.generation.to_string();
            return Err(RegistryError::Moved {
                name: name.to_owned(),
                is,
                expected: format!("the one of run {run_id}"),
            });
        }
        self.steps
            .pass("before the deletion")
            .map_err(|source: io::Error| RegistryError::Io { path: self.folder.clone(), source })?;
        self.delete(name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use brahman_card::interface::catalog::CommitIn;
    use brahman_storage::Steps;
    use brahman_storage::digest::{hex, sha256};

    use super::*;

    /// Commits one object of a run, and deletes what may go. Gives the object's path.
    fn commit(registry: &mut DatasetRegistry, run: &str) -> std::path::PathBuf {
        let place = registry.location("d", run, "test", None).expect("a place");
        let path = Path::new(&place.path).join("part-0.parquet");
        fs::write(&path, run).expect("written");
        let object = Object {
            bucket: place.bucket,
            key: format!("{}/part-0.parquet", place.key_prefix),
            rows: 3,
            bytes: run.len() as u64,
            sha256: hex(&sha256(run.as_bytes())),
            ..Object::default()
        };
        let commit = CommitIn {
            name: "d".into(),
            run_id: run.into(),
            objects: vec![object],
            producer: "test".into(),
            ..CommitIn::default()
        };
        registry.commit(commit, 0).expect("committed");
        registry.tidy(None, &BTreeSet::new());
        path
    }

    #[test]
    fn a_pinned_generation_outlives_those_that_follow_and_a_restart_until_it_is_unpinned() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        let one = commit(&mut registry, "r1");
        let pin = registry.pin("d", None, None, None).expect("pinned");
        assert_eq!((pin.pin.as_str(), pin.generation, pin.objects.len()), ("r1", 1, 1));
        assert_eq!(registry.pin("d", Some(1), None, None).expect("said again"), pin);
        let two = commit(&mut registry, "r2");
        // The previous one can be pinned as well, and one that is gone cannot.
        let three = commit(&mut registry, "r3");
        assert_eq!(
            registry.pin("d", Some(2), Some("mine".into()), None).expect("pinned").run_id,
            "r2"
        );
        assert!(matches!(
            registry.pin("d", Some(9), None, None),
            Err(RegistryError::NoSuchGeneration { generation: 9, .. })
        ));
        let four = commit(&mut registry, "r4");
        let five = commit(&mut registry, "r5");
        drop(registry);
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        registry.tidy(None, &BTreeSet::new());
        assert_eq!(
            [&one, &two, &three, &four, &five].map(|path| path.exists()),
            [true, true, false, true, true]
        );
        let numbers: Vec<u64> =
            registry.generations("d").iter().map(|kept| kept.generation).collect();
        assert_eq!(numbers, [5, 4, 1, 2]);
        assert!(matches!(registry.delete("d"), Err(RegistryError::Pinned { .. })));
        assert_eq!(
            (
                registry.unpin("d", None, Some("mine")).expect("unpinned"),
                registry.unpin("d", Some(2), None).expect("none")
            ),
            (1, 0)
        );
        registry.tidy(None, &BTreeSet::new());
        assert_eq!([&one, &two].map(|path| path.exists()), [true, false]);
        assert_eq!(registry.unpin("d", None, None).expect("unpinned"), 1);
        registry.tidy(None, &BTreeSet::new());
        assert!(!one.exists() && five.exists());
        registry.delete("d").expect("deleted");
    }

    #[test]
    fn a_pin_ends_with_its_life_and_is_counted_anew_when_it_is_said_again() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        let one = commit(&mut registry, "r1");
        let now = now_ms();
        registry.pin("d", None, None, Some(now + 60_000)).expect("pinned");
        registry.pin("d", None, None, Some(now + 120_000)).expect("pinned for longer");
        commit(&mut registry, "r2");
        commit(&mut registry, "r3");
        registry.expire_pins(now + 60_000);
        registry.tidy(None, &BTreeSet::new());
        assert!(one.exists(), "its life has been counted anew");
        registry.expire_pins(now + 120_000);
        registry.tidy(None, &BTreeSet::new());
        assert!(!one.exists() && registry.pins("d").is_empty());
    }

    #[test]
    fn a_pin_that_could_not_be_saved_is_none_and_one_that_was_is_found_after_a_crash() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        let one = commit(&mut registry, "r1");
        registry.steps = Steps::stopping_at(0);
        registry.pin("d", None, None, None).expect_err("stopped");
        assert!(registry.pins("d").is_empty());
        registry.steps = Steps::default();
        registry.pin("d", None, None, None).expect("pinned");
        drop(registry);
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        commit(&mut registry, "r2");
        commit(&mut registry, "r3");
        assert!(one.exists() && registry.pins("d").len() == 1);
        for number in 0..PINS_MAX - 1 {
            registry.pin("d", None, Some(format!("p{number}")), None).expect("pinned");
        }
        assert!(matches!(
            registry.pin("d", None, Some("one-more".into()), None),
            Err(RegistryError::TooManyPins { .. })
        ));
        assert!(matches!(
            registry.pin("d", None, Some("../x".into()), None),
            Err(RegistryError::BadName(_))
        ));
    }

    #[test]
    fn what_has_gone_on_or_is_needed_by_its_name_is_not_deleted_behind_a_copy() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        commit(&mut registry, "r1");
        commit(&mut registry, "r2");
        assert!(matches!(registry.delete_at("d", "r1"), Err(RegistryError::Moved { .. })));
        registry.mark_stale("d", "i", None).expect("marked");
        assert!(matches!(registry.delete_at("d", "r2"), Err(RegistryError::InUse { .. })));
        assert!(matches!(registry.check_vacant("d"), Err(RegistryError::Exists(_))));
        registry.check_vacant("e").expect("nobody has it");
    }
}
