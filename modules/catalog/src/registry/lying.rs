//! What lies where: which objects are a dataset's, which datasets lie in a bucket, and what a
//! dataset is to be made of.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use brahman_card::clock::now_ms;
use brahman_card::interface::catalog::{Dataset, Object};
use brahman_card::interface::storage::UnfinishedRun;

use super::entry::{Entry, folder_of};
use super::sweep::Standing;
use super::{DatasetRegistry, manifests};

impl DatasetRegistry {
    /// The dataset that needs an object, if one does; an error where that cannot be known.
    ///
    /// # Errors
    /// What could not be read.
    pub fn owner(&self, bucket: &str, key: &str) -> Result<Option<String>, Vec<String>> {
        let is = |o: &Object| o.bucket == bucket && o.key == key;
        let names = |e: &Entry| {
            e.dataset.objects.iter().any(is)
                || e.before.iter().any(|k| k == key)
                || e.pins.iter().flat_map(|pin| &pin.objects).any(is)
        };
        match self.entries.iter().find(|(_, entry)| names(entry)) {
            Some((name, _)) => Ok(Some(name.clone())),
            None => Some(self.doubts()).filter(|doubts| !doubts.is_empty()).map_or(Ok(None), Err),
        }
    }

    /// What a dataset's file says of an object, or what the lineage does of one of a previous
    /// generation.
    #[must_use]
    pub fn object(&self, bucket: &str, key: &str) -> Option<Object> {
        let is = |o: &&Object| o.bucket == bucket && o.key == key;
        let kept = |entry: &Entry| {
            entry
                .dataset
                .objects
                .iter()
                .chain(entry.pins.iter().flat_map(|pin| &pin.objects))
                .find(is)
                .cloned()
        };
        let present = self.entries.values().find_map(kept);
        let of_key = || {
            self.entries.iter().filter(|(_, entry)| entry.before.iter().any(|before| before == key))
        };
        present.or_else(|| {
            of_key().flat_map(|(name, entry)| self.previous(name, entry)).find(is).cloned()
        })
    }

    /// Objects of a dataset's previous generation that the present one does not have, as far as
    /// they were recorded: by its file or, of one that an earlier version has written, by the
    /// lineage.
    fn previous<'a>(
        &'a self,
        name: &str,
        entry: &'a Entry,
    ) -> impl Iterator<Item = &'a Object> + use<'a> {
        let run = entry.history.iter().rev().nth(1).map(|version| version.run_id.as_str());
        let made = || {
            run.and_then(|run| self.journal.made_by(name, run)).map(|made| made.objects.as_slice())
        };
        let recorded = if entry.previous.is_empty() {
            made().unwrap_or_default()
        } else {
            entry.previous.as_slice()
        };
        let (before, now) =
            (entry.before.iter().collect::<HashSet<_>>(), entry.dataset.objects.iter());
        let now: HashSet<&String> = now.map(|now| &now.key).collect();
        recorded.iter().filter(move |o| before.contains(&o.key) && !now.contains(&o.key))
    }

    /// What is kept of previous generations and cannot be compared, for nothing recorded says what
    /// it was, in words.
    #[must_use]
    pub fn uncompared(&self) -> Vec<String> {
        let unknown = |name: &str, entry: &Entry| {
            let known: HashSet<&String> = entry
                .dataset
                .objects
                .iter()
                .chain(self.previous(name, entry))
                .map(|o| &o.key)
                .collect();
            entry.before.iter().filter(|key| !known.contains(key)).count()
        };
        let all = self.entries.iter().map(|(name, entry)| (name, unknown(name, entry)));
        let words = |(name, count): (&String, usize)| {
            format!(
                "{count} objects of the previous generation of dataset `{name}` stay, and nothing that is left records what they were: they \
                 can be neither compared nor copied, and go with its next commit"
            )
        };
        all.filter(|(_, count)| *count > 0).map(words).collect()
    }

    /// Objects of pinned generations that neither the present one has nor the previous, each once.
    fn pinned<'a>(&'a self, name: &str, entry: &'a Entry) -> Vec<&'a Object> {
        if entry.pins.is_empty() {
            return Vec::new();
        }
        let mut known: HashSet<&String> = entry
            .dataset
            .objects
            .iter()
            .chain(self.previous(name, entry))
            .map(|o| &o.key)
            .collect();
        entry
            .pins
            .iter()
            .flat_map(|pin| &pin.objects)
            .filter(|object| known.insert(&object.key))
            .collect()
    }

    /// Objects of the present, the previous and the pinned generations of one dataset.
    #[must_use]
    pub fn kept(&self, name: &str) -> Vec<Object> {
        let Some(entry) = self.entries.get(name) else { return Vec::new() };
        entry
            .dataset
            .objects
            .iter()
            .chain(self.previous(name, entry))
            .chain(self.pinned(name, entry))
            .cloned()
            .collect()
    }

    /// Looks at every object of all generations that are kept, the present and the previous ones,
    /// with its dataset's name and when its generation was committed.
    pub fn for_each_kept(&self, mut each: impl FnMut(&str, u64, &Object)) {
        for (name, entry) in
            self.entries.iter().filter(|(name, entry)| self.refuse_mock(name, entry).is_ok())
        {
            let now_ms = entry.dataset.committed_ms;
            // The first manifests did not say when.
            let before_ms = entry
                .history
                .iter()
                .rev()
                .nth(1)
                .map(|version| version.committed_ms)
                .filter(|at_ms| *at_ms > 0);
            entry.dataset.objects.iter().for_each(|object| each(name, now_ms, object));
            self.previous(name, entry)
                .for_each(|object| each(name, before_ms.unwrap_or(now_ms), object));
            self.pinned(name, entry)
                .into_iter()
                .for_each(|object| each(name, before_ms.unwrap_or(now_ms), object));
        }
    }

    /// What a dataset is to be made of: by its file or, where that is damaged or gone, by what was
    /// committed last.
    #[must_use]
    pub fn recorded(&self, name: &str) -> Vec<Object> {
        let committed = || {
            self.journal
                .last_committed(name)
                .and_then(|committed| committed.made)
                .map(|made| made.objects)
        };
        let objects =
            self.entries.get(name).map(|entry| entry.dataset.objects.clone()).or_else(committed);
        self.roots
            .told(Dataset { objects: objects.unwrap_or_default(), ..Dataset::default() })
            .objects
    }

    /// Against what a dataset's manifests in a bucket are held.
    #[must_use]
    pub fn head_in(&self, name: &str, bucket: &str, node: &str) -> manifests::Head {
        let entry = self.entries.get(name);
        // Of the generation before only keys are kept; its runs say where they wrote or, of earlier
        // versions, its files do.
        let lay_there =
            |key: &String| match folder_of(key).and_then(|(_, run)| self.journal.run(run, 0)) {
                Some(run) if !run.buckets.is_empty() => run.buckets.contains(bucket),
                _ => self.roots.get(bucket).is_ok_and(|root| root.folder.join(key).exists()),
            };
        let lies_there = |entry: &&Entry| {
            entry.dataset.objects.iter().any(|o| o.bucket == bucket)
                || entry.before.iter().any(lay_there)
        };
        let published = entry
            .into_iter()
            .flat_map(|e| &e.history)
            .map(|version| version.run_id.clone())
            .collect();
        let runs = self.journal.runs(Some(name), 0).into_iter();
        let ended =
            runs.filter(|(_, run)| run.standing != Standing::Open).map(|(id, _)| id).collect();
        let newest = entry.filter(lies_there).map(|entry| entry.dataset.generation);
        manifests::Head { node: node.to_owned(), newest, published, ended }
    }

    /// Runs that were not committed, and the folders of this machine where they may have left
    /// something; without figures.
    #[must_use]
    pub fn uncommitted(&self) -> Vec<(UnfinishedRun, PathBuf)> {
        let mut all = Vec::new();
        let needed: BTreeSet<(&str, &str)> =
            self.entries.values().flat_map(|entry| entry.needs()).collect();
        for (run_id, run) in self.journal.runs(None, now_ms()) {
            let given_up = match run.standing {
                Standing::Committed => continue,
                Standing::Failed { .. } => true,
                Standing::Open => false,
            };
            // A commit that was taken for a failure, by an earlier version, is needed all the same.
            if needed.contains(&(run.dataset.as_str(), run_id.as_str())) {
                continue;
            }
            let wrote = |bucket: &str| run.buckets.is_empty() || run.buckets.contains(bucket);
            for (bucket, root) in self.roots.all().filter(|(bucket, _)| wrote(bucket)) {
                let folder = root.folder.join("datasets").join(&run.dataset).join(&run_id);
                let (dataset, run_id, since_ms) =
                    (run.dataset.clone(), run_id.clone(), self.journal.since_ms(&run_id));
                let bucket = bucket.to_owned();
                all.push((
                    UnfinishedRun {
                        dataset,
                        run_id,
                        bucket,
                        objects: 0,
                        bytes: 0,
                        since_ms,
                        given_up,
                    },
                    folder,
                ));
            }
        }
        all
    }

    /// Datasets with an object, of the present or the previous generation, in a bucket, by what is
    /// recorded: nothing is looked at.
    #[must_use]
    pub fn recorded_in(&self, bucket: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        self.for_each_kept(|name, _, object| {
            if object.bucket == bucket && !names.contains(name) {
                names.insert(name.to_owned());
            }
        });
        names
    }

    /// Datasets with runs that have ended and that nothing needs: of those something may lie in a
    /// bucket still.
    #[must_use]
    pub fn with_spent_runs(&self) -> BTreeSet<String> {
        let needed: BTreeSet<(&str, &str)> =
            self.entries.values().flat_map(|entry| entry.needs()).collect();
        let runs = self.journal.runs(None, now_ms()).into_iter();
        let spent = runs.filter(|(id, run)| {
            run.standing != Standing::Open && !needed.contains(&(run.dataset.as_str(), id.as_str()))
        });
        spent.map(|(_, run)| run.dataset).collect()
    }

    /// Datasets with objects, of the present or the previous generation, in a bucket.
    #[must_use]
    pub fn lying_in(&self, bucket: &str) -> Vec<String> {
        let folder = self.roots.get(bucket).ok().map(|root| &root.folder);
        let before = |key: &String| folder.is_some_and(|folder| folder.join(key).exists());
        let there = |e: &Entry| {
            e.dataset.objects.iter().any(|o| o.bucket == bucket) || e.before.iter().any(before)
        };
        self.entries
            .iter()
            .filter(|(_, entry)| there(entry))
            .map(|(name, _)| name.clone())
            .collect()
    }
}
