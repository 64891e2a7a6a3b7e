//! Manifests from objects: when a manifest says something else than the objects, is damaged, or is
//! gone.
//!
//! What the last generation was made of, of all its runs, is in the lineage's journal; of earlier
//! versions' journals the number of rows and of objects is. Objects that do not make that up are
//! refused and named. Where nothing is recorded, and there is one run only whose objects are whole
//! and that did not fail, that one is taken, and the reply says so.
//!
//! [`reading`] reads what is there, without holding the registry. Invariant: bytes that are not
//! those that were committed become a generation only where somebody has said that they may.

mod reading;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use brahman_card::clock::now_ms;
use brahman_card::interface::catalog::{Column, Dataset, Object, Version};
use brahman_sidecar::chain;

use super::entry::Entry;
use super::{DatasetRegistry, Head, RegistryError, Roots, names};
use crate::lineage::LastCommit;

/// Objects that are named in an error's text; its parameters have all of them.
const NAMED_MAX: usize = 20;

/// What was done, and what was found.
#[derive(Debug)]
pub struct Resync {
    /// As it is now.
    pub dataset: Dataset,
    /// Whether the manifest said otherwise.
    pub changed: bool,
    /// What was found on the way, in words.
    pub notes: Vec<String>,
}

/// What there was of a dataset when somebody began to read it.
#[derive(Clone, Debug, PartialEq)]
struct Base {
    /// Its generation, and what that is made of, if its file is whole.
    head: Option<(Head, Vec<Object>)>,
    /// Else whether its file is damaged, which run was committed last, and whether it was deleted
    /// since.
    damaged: bool,
    committed: Option<String>,
    dropped: bool,
}

impl Base {
    fn word(&self) -> String {
        match &self.head {
            Some(((generation, Some(run)), _)) => format!("{generation} (run {run})"),
            Some(((generation, None), _)) => generation.to_string(),
            None => "none that can be read".to_owned(),
        }
    }
}

/// What the registry knows of a dataset whose objects are to be read. They are read without holding
/// it: that may be hours of work.
#[derive(Debug)]
pub struct ResyncReading {
    name: String,
    base: Base,
    /// Where datasets' files lie.
    folder: PathBuf,
    roots: Roots,
    of_mocks: bool,
    /// What its file says, if it is whole.
    entry: Option<Entry>,
    /// What was committed last.
    committed: Option<LastCommit>,
    /// Runs that were committed, oldest first.
    runs: Vec<String>,
    /// Runs that go on, or have failed.
    unfit: BTreeSet<String>,
    /// Runs that this catalog began; what others have written it never deletes, but they may.
    own: BTreeSet<String>,
    /// Whether bytes may be taken that are not what was committed.
    accept_damage: bool,
}

/// What was found, and is to be published if there is still what it was found of.
#[derive(Debug)]
pub struct Findings {
    name: String,
    base: Base,
    what: Condition,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Condition {
    /// Its file says so already.
    Known,
    /// Other objects or columns than its file says.
    Drifted(Vec<Object>, Vec<Column>),
    /// What takes the place of a file that is damaged or gone, and whether it is what was recorded,
    /// byte for byte.
    Lost(Box<Entry>, bool),
}

impl DatasetRegistry {
    /// Reads a dataset's objects anew and publishes what is there, if the manifest does not say so.
    /// `runs` are those that it is made of, where nothing recorded says so. Where others wait for
    /// the registry: [`Self::look`], [`ResyncReading::read`], [`Self::settle`].
    ///
    /// # Errors
    /// If there are no objects, one is missing or is no Parquet file, or they do not make up what
    /// was recorded.
    pub fn resync(&mut self, name: &str, runs: Option<&[String]>) -> Result<Resync, RegistryError> {
        let findings = self.look(name)?.read(runs)?;
        self.settle(findings)
    }

    /// What is known of a dataset before its objects are read.
    ///
    /// # Errors
    /// If the name will not do, or a mock made it and this is not the mocks' registry.
    pub fn look(&self, name: &str) -> Result<ResyncReading, RegistryError> {
        names::check(name)?;
        let entry = match self.entry(name) {
            Ok(entry) => Some(entry.clone()),
            Err(RegistryError::Damaged { .. } | RegistryError::NoSuchDataset(_)) => None,
            Err(error) => return Err(error),
        };
        if let Some(entry) = &entry {
            self.refuse_mock(name, entry)?;
        }
        Ok(ResyncReading {
            name: name.to_owned(),
            base: self.base(name),
            folder: self.folder.clone(),
            roots: self.roots.clone(),
            of_mocks: self.of_mocks,
            entry,
            committed: self.journal.last_committed(name),
            runs: self.journal.committed_runs(name),
            unfit: self.journal.unfit_runs(name),
            own: self.journal.runs(Some(name), 0).into_keys().collect(),
            accept_damage: false,
        })
    }

    fn base(&self, name: &str) -> Base {
        let head = |entry: &Entry| {
            (
                (entry.dataset.generation, entry.run_id().map(str::to_owned)),
                entry.dataset.objects.clone(),
            )
        };
        match self.entries.get(name).map(head) {
            // A run that finds nothing new is committed, and changes nothing of this.
            Some(head) => {
                Base { head: Some(head), damaged: false, committed: None, dropped: false }
            }
            None => Base {
                head: None,
                damaged: self.damaged.contains_key(name),
                committed: self.journal.last_committed(name).map(|committed| committed.run_id),
                dropped: self.journal.was_dropped(name),
            },
        }
    }

    /// Publishes what was found.
    ///
    /// # Errors
    /// [`RegistryError::Moved`] if something else is there by now than was read; if the disk
    /// refuses.
    pub fn settle(&mut self, findings: Findings) -> Result<Resync, RegistryError> {
        let Findings { name, base, what, mut notes } = findings;
        let is = self.base(&name);
        if is != base {
            if !self.has(&name) {
                return Err(RegistryError::DeletedMeanwhile(name));
            }
            return Err(RegistryError::Moved { name, is: is.word(), expected: base.word() });
        }
        match what {
            Condition::Known => {
                let dataset = self.roots.told(self.entry(&name)?.view());
                Ok(Resync { dataset, changed: false, notes })
            }
            Condition::Drifted(objects, columns) => {
                let mut entry = self.entry(&name)?.clone();
                entry.dataset.objects = objects;
                entry.dataset.columns = columns;
                // What was said of personal data was said of other values.
                entry.dataset.pii = None;
                let dataset = self.publish_anew(&name, entry)?;
                Ok(Resync { dataset, changed: true, notes })
            }
            Condition::Lost(entry, same) => {
                for object in &entry.dataset.objects {
                    if !self.roots.path(object)?.is_file() {
                        let why = "it has gone since it was read; nothing was published".to_owned();
                        return Err(RegistryError::BadObject { key: object.key.clone(), why });
                    }
                }
                let damaged = self.folder.join(format!("{name}.json"));
                if damaged.exists() {
                    let aside = self.folder.join(format!("{name}.json.damaged-{}", now_ms()));
                    fs::rename(&damaged, &aside)
                        .map_err(|source| RegistryError::Io { path: damaged.clone(), source })?;
                    notes
                        .push(format!("the damaged manifest was put aside as {}", aside.display()));
                }
                let dataset = if same {
                    self.publish_again(&name, *entry)?
                } else {
                    self.publish_anew(&name, *entry)?
                };
                self.damaged.remove(&name);
                Ok(Resync { dataset, changed: true, notes })
            }
        }
    }

    /// Publishes an entry whose content is another, as its dataset's next generation, of a run of
    /// its own.
    fn publish_anew(&mut self, name: &str, mut entry: Entry) -> Result<Dataset, RegistryError> {
        let dataset = &mut entry.dataset;
        dataset.generation += 1;
        dataset.rows = dataset.objects.iter().map(|o| o.rows).sum();
        dataset.bytes = dataset.objects.iter().map(|o| o.bytes).sum();
        dataset.lineage.run_id = ulid::Ulid::generate().to_string();
        dataset.committed_ms = now_ms();
        let run_id = dataset.lineage.run_id.clone();
        let view = self.publish(name, entry)?;
        let noted =
            self.journal.start(name, &run_id, "resync").and_then(|()| self.journal.complete(&view));
        if let Err(error) = noted {
            tracing::error!(dataset = name, "the lineage's journal refuses: {}", chain(&error));
        }
        Ok(view)
    }

    /// Publishes what was there before, as the generation that it was.
    fn publish_again(&mut self, name: &str, mut entry: Entry) -> Result<Dataset, RegistryError> {
        let dataset = &mut entry.dataset;
        dataset.generation = dataset.generation.max(1);
        if dataset.committed_ms == 0 {
            dataset.committed_ms = now_ms();
        }
        let view = self.publish(name, entry)?;
        // A run of nobody's that is known: that nothing is recorded of it is no loss.
        if let Err(error) = self.journal.take_up(&view) {
            tracing::error!(dataset = name, "the lineage's journal refuses: {}", chain(&error));
        }
        Ok(view)
    }

    fn publish(&mut self, name: &str, mut entry: Entry) -> Result<Dataset, RegistryError> {
        let dataset = &entry.dataset;
        let version = Version {
            generation: dataset.generation,
            run_id: dataset.lineage.run_id.clone(),
            rows: dataset.rows,
            bytes: dataset.bytes,
            committed_ms: dataset.committed_ms,
        };
        match entry.history.last_mut() {
            Some(last) if last.run_id == version.run_id => *last = version,
            _ => entry.history.push(version),
        }
        entry.dataset.objects.iter_mut().for_each(|object| object.path = None);
        entry.settle_urls(&self.roots);
        self.save(name, &entry)?;
        let view = entry.view();
        self.entries.insert(name.to_owned(), entry);
        Ok(view)
    }

    /// Whether nothing was ever committed here, as after a loss of the whole state.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.entries.is_empty() && self.damaged.is_empty() && self.journal.runs(None, 0).is_empty()
    }

    /// Datasets whose files are whole, with the paths of their objects.
    #[must_use]
    pub fn whole(&self) -> Vec<Dataset> {
        let whole =
            self.entries.iter().filter(|(name, entry)| self.refuse_mock(name, entry).is_ok());
        whole.map(|(_, entry)| self.roots.told(entry.view())).collect()
    }

    /// Datasets that have objects and no whole manifest; `folders` are the names in the buckets'
    /// folders.
    #[must_use]
    pub fn lost(&self, folders: impl Iterator<Item = String>) -> Vec<String> {
        // What lies in S3 or has copies alone has no folder here.
        let names = folders
            .chain(self.damaged.keys().cloned())
            .chain(self.journal.committed().keys().cloned());
        let lost = |name: &String| names::check(name).is_ok() && !self.entries.contains_key(name);
        let dropped =
            |name: &String| !self.damaged.contains_key(name) && self.journal.was_dropped(name);
        let lost: BTreeSet<String> = names.filter(|name| lost(name) && !dropped(name)).collect();
        lost.into_iter().collect()
    }
}

/// That objects of a dataset are gone whose file is whole.
pub(crate) fn missing(name: &str, all: &[Object], gone: &[&Object]) -> RegistryError {
    let (expected_rows, lost): (u64, u64) =
        (all.iter().map(|o| o.rows).sum(), gone.iter().map(|o| o.rows).sum());
    let keys: Vec<String> = gone.iter().map(|object| object.key.clone()).collect();
    let named = keys.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    let more = match keys.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let why = format!(
        "{} of its {} objects are gone, with {lost} of its {expected_rows} rows, and no good copy was found: {named}{more}; put them back, or \
         ingest it anew",
        gone.len(),
        all.len()
    );
    RegistryError::Incomplete {
        name: name.to_owned(),
        why,
        keys,
        rows: expected_rows.saturating_sub(lost),
        expected_rows,
    }
}

#[cfg(test)]
mod tests;
