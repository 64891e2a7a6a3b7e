//! A new generation of a dataset: what it is made of is there and is newer than what it follows, or
//! it is refused.

use std::collections::BTreeSet;

use brahman_card::clock::now_ms;
use brahman_card::interface::catalog::{CommitIn, Dataset, Origin, Version};
use brahman_sidecar::chain;

use super::entry::Entry;
use super::{DatasetRegistry, MADE_UP, RegistryError, folder_of, tidy};
use crate::lineage::FIRST_MOCK;

/// Generations of history kept in a dataset's file.
const HISTORY_MAX: usize = 100;

impl DatasetRegistry {
    /// Publishes a verified commit, as the next generation or as `at_least`. Gives it and the
    /// indexes that are stale now.
    ///
    /// # Errors
    /// If the disk refuses; the old generation then stands.
    pub fn commit(
        &mut self,
        commit: CommitIn,
        at_least: u64,
    ) -> Result<(u64, Vec<String>), RegistryError> {
        self.check_parts(&commit)?;
        self.publish_commit(commit, at_least)
    }

    /// Refuses objects of runs that nothing needs any more: they may be gone, or about to go.
    fn check_parts(&self, commit: &CommitIn) -> Result<(), RegistryError> {
        let own = |folder: (&str, &str)| folder == (commit.name.as_str(), commit.run_id.as_str());
        let others = commit
            .objects
            .iter()
            .filter_map(|object| Some((object, folder_of(&object.key)?)))
            .filter(|(_, folder)| !own(*folder));
        let mut others = others.peekable();
        // Most commits are of one run, and need not be compared.
        let needed: BTreeSet<(&str, &str)> = match others.peek() {
            Some(_) => self.entries.values().flat_map(Entry::needs).collect(),
            None => BTreeSet::new(),
        };
        match others.find(|(_, folder)| !needed.contains(folder)).map(|(object, _)| object) {
            // Said again, it is answered with what was published then.
            Some(object) if !self.journal.has_committed(&commit.name, &commit.run_id) => {
                let head = self.heads().remove(&commit.name);
                let is =
                    head.map_or_else(|| "0".to_owned(), |(generation, _)| generation.to_string());
                Err(RegistryError::Moved {
                    name: commit.name.clone(),
                    is,
                    expected: format!("one that has {}", object.key),
                })
            }
            _ => Ok(()),
        }
    }

    /// Refuses to begin anew over what was committed, never deleted, and has no file: its objects
    /// would be nobody's.
    pub(super) fn refuse_lost(&self, name: &str) -> Result<(), RegistryError> {
        let is_lost = self.journal.committed().contains_key(name) && !self.has(name);
        let why = || {
            format!(
                "{}; `brahman datasets resync {name}` brings it back, deleting the dataset gives it up",
                tidy::GONE
            )
        };
        if is_lost {
            Err(RegistryError::Damaged { name: name.to_owned(), why: why() })
        } else {
            Ok(())
        }
    }

    fn publish_commit(
        &mut self,
        mut commit: CommitIn,
        at_least: u64,
    ) -> Result<(u64, Vec<String>), RegistryError> {
        self.check_name(&commit.name)?;
        self.refuse_lost(&commit.name)?;
        // Where they lie is for the catalog to say.
        commit.objects.iter_mut().for_each(|object| object.path = None);
        if !self.of_mocks && commit.inputs.iter().any(|input| input.starts_with(MADE_UP)) {
            return Err(RegistryError::MadeByMock {
                name: commit.name,
                maker: commit.maker.unwrap_or_else(|| FIRST_MOCK.to_owned()),
            });
        }
        if let Some(said) = self.said_again(&commit.name, &commit.run_id)? {
            return Ok(said);
        }
        let old = self.entries.get(&commit.name).cloned();
        self.builds_on(&commit, old.as_ref())?;
        let is = old.as_ref().map_or(0, |o| o.dataset.generation);
        if let Some(old) = old.as_ref().filter(|old| old.dataset.objects == commit.objects) {
            return self.commit_nothing_new(commit, old.clone());
        }
        let generation = at_least.max(is + 1);
        let mut history = old.as_ref().map(|o| o.history.clone()).unwrap_or_default();
        let dataset = Dataset {
            name: commit.name.clone(),
            generation,
            rows: commit.objects.iter().map(|o| o.rows).sum(),
            bytes: commit.objects.iter().map(|o| o.bytes).sum(),
            objects: commit.objects,
            columns: commit.columns,
            pii: commit.pii,
            stale: Vec::new(),
            lineage: Origin {
                run_id: commit.run_id,
                inputs: commit.inputs,
                producer: commit.producer,
            },
            watermark: commit.watermark,
            committed_ms: now_ms(),
            mock: self.of_mocks.then_some(true),
            maker: self.of_mocks.then(|| commit.maker.unwrap_or_else(|| "a mock".to_owned())),
            ..Dataset::default()
        };
        history.push(Version {
            generation,
            run_id: dataset.lineage.run_id.clone(),
            rows: dataset.rows,
            bytes: dataset.bytes,
            committed_ms: dataset.committed_ms,
        });
        history.drain(..history.len().saturating_sub(HISTORY_MAX));
        let before = old
            .as_ref()
            .map(|o| o.dataset.objects.iter().map(|o| o.key.clone()).collect())
            .unwrap_or_default();
        let now: BTreeSet<&str> = dataset.objects.iter().map(|now| now.key.as_str()).collect();
        let gone = old
            .iter()
            .flat_map(|o| &o.dataset.objects)
            .filter(|old| !now.contains(old.key.as_str()));
        let previous = gone.cloned().collect();
        let (feeds, feed_runs, pins) =
            old.map(|o| (o.feeds, o.feed_runs, o.pins)).unwrap_or_default();
        let entry = Entry { dataset, before, previous, feeds, feed_runs, pins, history };
        let step = |name| {
            self.steps
                .pass(name)
                .map_err(|source| RegistryError::Io { path: self.folder.clone(), source })
        };
        step("before the manifest")?;
        self.save(&commit.name, &entry)?;
        step("after the manifest")?;
        // It is published, whatever becomes of its line in the journal; the next opening writes
        // what is missing.
        if let Err(error) = self.journal.complete(&entry.dataset) {
            tracing::error!(
                dataset = commit.name,
                "the lineage's journal refuses: {}",
                chain(&error)
            );
        }
        self.steps
            .pass("after the journal")
            .map_err(|source| RegistryError::Io { path: self.folder.clone(), source })?;
        let stale = entry.view().stale;
        self.entries.insert(commit.name, entry);
        Ok((generation, stale))
    }

    /// What the commit of a run answers that was published before, whatever has become the present
    /// generation since; none if it has yet to be published.
    ///
    /// # Errors
    /// If the dataset's file is damaged, or the run was given up or never began.
    pub fn said_again(
        &self,
        name: &str,
        run_id: &str,
    ) -> Result<Option<(u64, Vec<String>)>, RegistryError> {
        let published = match self.entry(name) {
            Ok(entry) => {
                let version = entry.history.iter().rev().find(|version| version.run_id == run_id);
                // One that found nothing new is in the journal only.
                let noted = || {
                    let is_noted = self.journal.has_committed(name, run_id);
                    is_noted.then_some(entry.dataset.generation)
                };
                version
                    .map(|version| version.generation)
                    .or_else(noted)
                    .map(|generation| (generation, entry.view().stale))
            }
            Err(RegistryError::NoSuchDataset(_)) => None,
            Err(error) => return Err(error),
        };
        if published.is_none() {
            self.journal.known().map_err(|source| RegistryError::Io {
                path: self.folder.join("lineage.log"),
                source,
            })?;
        }
        // Whoever gave it up was told that nothing would be published.
        match published {
            None if !self.journal.is_open(run_id) => Err(RegistryError::GivenUp(run_id.to_owned())),
            published => Ok(published),
        }
    }

    /// Refuses a commit that builds on another generation than there is, on what was deleted since,
    /// or on what a mock made.
    ///
    /// # Errors
    /// [`RegistryError::Moved`], [`RegistryError::DeletedMeanwhile`],
    /// [`RegistryError::MadeByMock`].
    pub fn check_base(&self, commit: &CommitIn) -> Result<(), RegistryError> {
        self.builds_on(commit, self.entries.get(&commit.name))
    }

    fn builds_on(&self, commit: &CommitIn, old: Option<&Entry>) -> Result<(), RegistryError> {
        // What somebody has deleted does not come back by what had begun before.
        if self.journal.was_dropped_during(&commit.name, &commit.run_id) {
            return Err(RegistryError::DeletedMeanwhile(commit.name.clone()));
        }
        let is = old.map_or(0, |o| o.dataset.generation);
        let run = old.and_then(|o| o.run_id());
        let moved = match (commit.expect_run.as_deref(), run) {
            (Some(expected), Some(run)) => expected != run,
            _ => commit.expect.is_some_and(|expected| expected != is),
        };
        let word = |generation: u64, run: Option<&str>| {
            run.map_or_else(|| generation.to_string(), |run| format!("{generation} (run {run})"))
        };
        if moved {
            let expected = word(commit.expect.unwrap_or(0), commit.expect_run.as_deref());
            return Err(RegistryError::Moved {
                name: commit.name.clone(),
                is: word(is, run),
                expected,
            });
        }
        match old {
            Some(old)
                if old
                    .dataset
                    .objects
                    .iter()
                    .any(|o| commit.objects.iter().any(|new| new.key == o.key)) =>
            {
                self.refuse_mock(&commit.name, old)
            }
            _ => Ok(()),
        }
    }

    /// A run that found nothing new: how far it looked is kept, the generation stays.
    fn commit_nothing_new(
        &mut self,
        commit: CommitIn,
        mut entry: Entry,
    ) -> Result<(u64, Vec<String>), RegistryError> {
        if entry.dataset.watermark != commit.watermark {
            entry.dataset.watermark = commit.watermark;
            self.save(&commit.name, &entry)?;
        }
        let lineage =
            Origin { run_id: commit.run_id, inputs: commit.inputs, producer: commit.producer };
        if let Err(error) = self.journal.complete_as(&entry.dataset, &lineage) {
            tracing::error!(
                dataset = commit.name,
                "the lineage's journal refuses: {}",
                chain(&error)
            );
        }
        let stale = entry.view().stale;
        let generation = entry.dataset.generation;
        self.entries.insert(commit.name, entry);
        Ok((generation, stale))
    }
}
