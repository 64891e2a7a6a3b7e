//! The registry of datasets, on disk: `catalog/<name>.json`, each `{sha256, dataset}`, replaced
//! whole.
//!
//! Objects lie in their bucket as `datasets/<name>/<run_id>/…`. The objects of the present and the
//! previous generation are kept, so that a reader that has just asked can still read. What mocks
//! make is in a registry of its own, below `mock/`.
//!
//! Nothing here deletes by itself: [`DatasetRegistry::tidy`] does, when whoever knows which buckets
//! are there says so.
//!
//! [`commit`] makes a generation.

mod commit;
pub(crate) mod entry;
mod error;
mod lying;
pub mod manifests;
pub mod names;
pub mod pins;
pub mod resync;
mod roots;
mod snapshot;
pub mod sweep;
mod tidy;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use brahman_card::interface::catalog::{Dataset, LocationOut, Object, Version};
use brahman_card::interface::storage::PRIMARY;
use brahman_sidecar::chain;
use brahman_storage::{Steps, atomic};

use crate::lineage::{FIRST_MOCK, Journal};
pub(crate) use entry::folder_of;
use entry::{Entry, salvage, seal, unseal};
pub use error::RegistryError;
use names::check;
pub use roots::Roots;
use sweep::Folder;
pub use tidy::tidy_shared;

/// The file beside the datasets' that is the registry of buckets.
const REGISTRY: &str = "buckets.json";
/// How inputs that are made up begin.
const MADE_UP: &str = "mock://";

/// What is wrong with a dataset's file, if anything is.
#[must_use]
pub fn flaw(path: &Path) -> Option<String> {
    unseal(path).err().map(|error| chain(&error))
}

/// All datasets of one realm, and what is known of their runs.
#[derive(Debug)]
pub struct DatasetRegistry {
    folder: PathBuf,
    roots: Roots,
    entries: BTreeMap<String, Entry>,
    damaged: BTreeMap<String, String>,
    /// What of the folder could not be read.
    unread: Vec<String>,
    /// Whether this is the mocks' registry.
    of_mocks: bool,
    /// What became of every run.
    pub(crate) journal: Journal,
    /// What was last kept from being tidied, and why.
    untidied: Vec<String>,
    /// What was last found in the buckets of which the journal says nothing.
    strangers: BTreeSet<(String, Folder)>,
    /// Where tests stop a commit.
    steps: Steps,
}

/// The number and the run of a dataset's present generation.
pub type Head = (u64, Option<String>);

impl DatasetRegistry {
    /// Opens the registry under a state directory.
    ///
    /// # Errors
    /// If the directories cannot be made or listed.
    pub fn open(state: &Path) -> io::Result<Self> {
        let (folder, roots) = (state.join("catalog"), Roots::primary(state));
        let (mut entries, mut damaged, mut unread) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        // On a state that nothing was ever written to, and nothing can be, there is none.
        let is_there = brahman_storage::writable::make_folder(&folder)?;
        for file in is_there.then(|| fs::read_dir(&folder)).transpose()?.into_iter().flatten() {
            let file = match file {
                Ok(file) => file,
                Err(error) => {
                    unread.push(format!("{}: {}", folder.display(), chain(&error)));
                    continue;
                }
            };
            let path = file.path();
            if file.file_name().to_string_lossy().starts_with(".tmp-") {
                // A manifest that a crash kept from its place.
                let _ = fs::remove_file(&path);
                continue;
            }
            let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
            let json =
                path.extension().is_some_and(|e| e == "json") && file.file_name() != REGISTRY;
            let Some(name) = stem.filter(|_| json) else { continue };
            match unseal(&path) {
                Ok(entry) => drop(entries.insert(name, entry)),
                Err(error) => {
                    let why = chain(&error);
                    tracing::error!(dataset = name, "damaged: {why}");
                    damaged.insert(name, why);
                }
            }
        }
        let mut journal = Journal::open(&folder, entries.values().map(|e: &Entry| &e.dataset))?;
        // What became of a run of which the record is damaged, its dataset's file says.
        for (name, entry) in &entries {
            entry.history.iter().for_each(|version| journal.note_published(name, version));
        }
        let (of_mocks, untidied, strangers, steps) =
            (false, Vec::new(), BTreeSet::new(), Steps::default());
        Ok(Self {
            folder,
            roots,
            entries,
            damaged,
            unread,
            of_mocks,
            journal,
            untidied,
            strangers,
            steps,
        })
    }

    /// The same, as the mocks' registry: what is committed is marked.
    #[must_use]
    pub fn for_mocks(self) -> Self {
        Self { of_mocks: true, ..self }
    }

    /// The mock that made an entry, if one did; earlier versions did not say so themselves.
    fn maker(&self, entry: &Entry) -> Option<String> {
        let dataset = &entry.dataset;
        let made_up = || dataset.lineage.inputs.iter().any(|input| input.starts_with(MADE_UP));
        let marked = dataset.mock == Some(true)
            || made_up()
            || self.journal.is_of_mock(&dataset.lineage.run_id);
        marked.then(|| dataset.maker.clone().unwrap_or_else(|| FIRST_MOCK.to_owned()))
    }

    /// Refuses what a mock made where only what is real belongs.
    fn refuse_mock(&self, name: &str, entry: &Entry) -> Result<(), RegistryError> {
        match self.maker(entry).filter(|_| !self.of_mocks) {
            Some(maker) => Err(RegistryError::MadeByMock { name: name.to_owned(), maker }),
            None => Ok(()),
        }
    }

    /// All datasets, by name; those whose file is damaged or gone too, with their state.
    #[must_use]
    pub fn list(&self) -> Vec<Dataset> {
        let whole = self.entries.iter().map(|(name, entry)| match self.refuse_mock(name, entry) {
            Ok(()) => self.roots.told(entry.view()),
            Err(error) => {
                let (state, reason, maker) =
                    (Some("refused".to_owned()), Some(error.to_string()), self.maker(entry));
                Dataset {
                    name: name.clone(),
                    state,
                    reason,
                    maker,
                    mock: Some(true),
                    ..self.roots.told(entry.view())
                }
            }
        });
        let damaged = self.damaged.iter().map(|(name, why)| self.wreck(name, "damaged", why));
        let lost = self.gone().into_iter().map(|name| self.wreck(&name, "lost", tidy::GONE));
        let mut all: Vec<Dataset> = whole.chain(damaged).chain(lost).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// What can be said of a dataset whose file cannot be used.
    fn wreck(&self, name: &str, state: &str, why: &str) -> Dataset {
        let left = salvage(&self.folder.join(format!("{name}.json")))
            .map(|entry| self.roots.told(entry.view()));
        let reason =
            format!("{why}: `brahman datasets resync {name}` makes it anew from its objects");
        Dataset {
            name: name.to_owned(),
            state: Some(state.to_owned()),
            reason: Some(reason),
            ..left.unwrap_or_default()
        }
    }

    /// Generations and their runs, by dataset.
    #[must_use]
    pub fn heads(&self) -> BTreeMap<String, Head> {
        let real =
            self.entries.iter().filter(|(name, entry)| self.refuse_mock(name, entry).is_ok());
        real.map(|(name, e)| (name.clone(), (e.dataset.generation, e.run_id().map(str::to_owned))))
            .collect()
    }

    /// Whether there is a dataset of this name, whole or not.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name) || self.damaged.contains_key(name)
    }

    /// Whether runs of a dataset of this name are known.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.has(name) || !self.journal.events(name, 1).is_empty()
    }

    fn entry(&self, name: &str) -> Result<&Entry, RegistryError> {
        if let Some(why) = self.damaged.get(name) {
            return Err(RegistryError::Damaged { name: name.to_owned(), why: why.clone() });
        }
        self.entries.get(name).ok_or_else(|| RegistryError::NoSuchDataset(name.to_owned()))
    }

    /// One dataset.
    ///
    /// # Errors
    /// If there is none, its file is damaged, or a mock made it and this is not the mocks'
    /// registry.
    pub fn get(&self, name: &str) -> Result<Dataset, RegistryError> {
        let entry = self.entry(name)?;
        self.refuse_mock(name, entry)?;
        Ok(self.roots.told(entry.view()))
    }

    /// One dataset for a mock, which may read what another made.
    ///
    /// # Errors
    /// If there is none, or its file is damaged.
    pub fn get_for_mock(&self, name: &str) -> Result<Dataset, RegistryError> {
        let entry = self.entry(name)?;
        let maker = self.maker(entry);
        Ok(Dataset {
            mock: maker.is_some().then_some(true),
            maker,
            ..self.roots.told(entry.view())
        })
    }

    /// Generations of a dataset, newest first.
    ///
    /// # Errors
    /// If there is none, or its file is damaged.
    pub fn history(&self, name: &str) -> Result<Vec<Version>, RegistryError> {
        Ok(self.entry(name)?.history.iter().rev().cloned().collect())
    }

    /// A run begins: where it writes, created. Without a bucket it is the one that the dataset lies
    /// in.
    ///
    /// # Errors
    /// If the name will not do, there is no such bucket, or the directory cannot be made.
    pub fn location(
        &mut self,
        name: &str,
        run_id: &str,
        producer: &str,
        bucket: Option<&str>,
    ) -> Result<LocationOut, RegistryError> {
        self.check_name(name)?;
        check(run_id)?;
        // Its commit would be refused, after all the work.
        if let Err(error @ RegistryError::Damaged { .. }) = self.entry(name) {
            return Err(error);
        }
        self.refuse_lost(name)?;
        let bucket = self.bucket_of(name, bucket);
        let root = self.roots.get(&bucket)?;
        let key_prefix = format!("datasets/{name}/{run_id}");
        let (url_prefix, path) = (root.url_of(&key_prefix), root.folder.join(&key_prefix));
        // Said before it writes anything: what no journal knows is never cleared away.
        let made = self
            .journal
            .start_in(name, run_id, producer, Some(&bucket))
            .and_then(|()| fs::create_dir_all(&path));
        made.map_err(|source| RegistryError::Io { path: path.clone(), source })?;
        Ok(LocationOut { bucket, key_prefix, url_prefix, path: path.display().to_string() })
    }

    /// The bucket that a run of a dataset writes into: the one that was asked for, or where the
    /// dataset lies.
    #[must_use]
    pub fn bucket_of(&self, name: &str, asked: Option<&str>) -> String {
        let own = || {
            self.entries
                .get(name)
                .and_then(|e| e.dataset.objects.last())
                .map_or(PRIMARY, |o| &o.bucket)
        };
        asked.unwrap_or_else(own).to_owned()
    }

    fn check_name(&self, name: &str) -> Result<(), RegistryError> {
        // What was there before a name was reserved stays usable.
        if self.entries.contains_key(name) { check(name) } else { names::check_new(name) }
    }

    /// Where the buckets' objects lie.
    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Says what buckets there are.
    pub fn set_roots(&mut self, roots: Roots) {
        self.roots = roots;
        // The files of a state that was moved, or put back elsewhere, still say where it was.
        self.entries.values_mut().for_each(|entry| entry.settle_urls(&self.roots));
    }

    /// The generation that a commit of this dataset would be, and the objects of the present one.
    ///
    /// # Errors
    /// If the dataset's file is damaged.
    pub fn next(&self, name: &str) -> Result<(u64, Vec<Object>), RegistryError> {
        match self.entry(name) {
            Ok(entry) => Ok((entry.dataset.generation + 1, entry.dataset.objects.clone())),
            Err(RegistryError::NoSuchDataset(_)) => Ok((1, Vec::new())),
            Err(error) => Err(error),
        }
    }

    /// Notes that an index is fed by a dataset, and the run whose generation it has, if it has one.
    ///
    /// # Errors
    /// If there is no such dataset.
    pub fn mark_stale(
        &mut self,
        name: &str,
        index: &str,
        run_id: Option<&str>,
    ) -> Result<(), RegistryError> {
        self.note_feed(name, index, 0, run_id)?;
        Ok(())
    }

    /// Notes that an index has caught up with a generation. False if the dataset has moved on.
    ///
    /// # Errors
    /// If there is no such dataset.
    pub fn clear_stale(
        &mut self,
        name: &str,
        index: &str,
        generation: u64,
        run_id: Option<&str>,
    ) -> Result<bool, RegistryError> {
        let entry = self.note_feed(name, index, generation, run_id)?;
        Ok(match (run_id, entry.run_id()) {
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => entry.dataset.generation == generation,
        })
    }

    /// Notes that an index is fed no longer, for it was deleted.
    ///
    /// # Errors
    /// If there is no such dataset, or the disk refuses.
    pub fn forget_feed(&mut self, name: &str, index: &str) -> Result<(), RegistryError> {
        let mut entry = self.entry(name)?.clone();
        entry.feed_runs.remove(index);
        if entry.feeds.remove(index).is_some() {
            self.save(name, &entry)?;
            self.entries.insert(name.to_owned(), entry);
        }
        Ok(())
    }

    fn note_feed(
        &mut self,
        name: &str,
        index: &str,
        generation: u64,
        run_id: Option<&str>,
    ) -> Result<&Entry, RegistryError> {
        let mut entry = self.entry(name)?.clone();
        self.refuse_mock(name, &entry)?;
        entry.feeds.insert(index.to_owned(), generation);
        match run_id {
            Some(run_id) => drop(entry.feed_runs.insert(index.to_owned(), run_id.to_owned())),
            None => drop(entry.feed_runs.remove(index)),
        }
        self.save(name, &entry)?;
        self.entries.insert(name.to_owned(), entry);
        self.entry(name)
    }

    /// Deletes a dataset, also one whose file is gone: its objects are needed no more.
    ///
    /// # Errors
    /// If there is none.
    pub fn delete(&mut self, name: &str) -> Result<(), RegistryError> {
        check(name)?;
        if !self.has(name) && !self.gone().iter().any(|gone| gone == name) {
            return Err(RegistryError::NoSuchDataset(name.to_owned()));
        }
        self.refuse_pinned(name)?;
        let path = self.folder.join(format!("{name}.json"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RegistryError::Io { path, source: error });
            }
            _ => {}
        }
        // Its file is gone: whatever else fails, nothing may write it anew.
        self.entries.remove(name);
        self.damaged.remove(name);
        atomic::sync_dir(&self.folder).map_err(|source| RegistryError::Io { path, source })?;
        if let Err(error) = self.journal.dropped(name) {
            tracing::error!(dataset = name, "the lineage's journal refuses: {}", chain(&error));
        }
        Ok(())
    }

    /// The datasets' files, by their names, that are known to be whole.
    #[must_use]
    pub fn files(&self, only: Option<&str>) -> Vec<(String, PathBuf)> {
        let meant = self.entries.keys().filter(|name| only.is_none_or(|only| only == *name));
        meant.map(|name| (name.clone(), self.folder.join(format!("{name}.json")))).collect()
    }

    /// Writes a dataset's file anew that was damaged, or has gone, since it was read or written:
    /// what it is to say is known here. False if it is right by now, or the dataset was deleted.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn mend_file(&self, name: &str) -> Result<bool, RegistryError> {
        let Some(entry) = self.entries.get(name) else { return Ok(false) };
        if unseal(&self.folder.join(format!("{name}.json"))).is_ok() {
            return Ok(false);
        }
        self.save(name, entry).map(|()| true)
    }

    fn save(&self, name: &str, entry: &Entry) -> Result<(), RegistryError> {
        let path = self.folder.join(format!("{name}.json"));
        let sealed = seal(entry)
            .map_err(io::Error::from)
            .and_then(|text| atomic::write(&path, text.as_bytes()));
        sealed.map_err(|source| RegistryError::Io { path, source })
    }
}

#[cfg(test)]
mod tests;
