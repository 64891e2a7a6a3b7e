//! The datasets as the catalog told of them last, and whether a generation is of what they are now.
//!
//! A generation of a dataset is told by the run that wrote it: after a restore, or when a dataset
//! was deleted and made again, numbers come a second time. Where one side knows no run, the numbers
//! are compared.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use brahman_card::interface::catalog::Dataset;

use super::shelf::lock;
use crate::generation::Manifest;

/// A dataset's generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) generation: u64,
    /// The run that wrote it, if that is known.
    pub(super) run: Option<String>,
    /// Unix time of the commit; 0 if that is not known.
    pub(super) committed_ms: u64,
}

impl Version {
    pub(super) fn of(dataset: &Dataset) -> Self {
        let run = Some(dataset.lineage.run_id.clone()).filter(|run| !run.is_empty());
        Self { generation: dataset.generation, run, committed_ms: dataset.committed_ms }
    }

    /// Whether a generation of an index was made from another than this.
    pub(super) fn differs(&self, manifest: &Manifest) -> bool {
        match (&self.run, &manifest.dataset_run) {
            (Some(now), Some(then)) => now != then,
            _ => self.generation != manifest.dataset_generation,
        }
    }
}

/// All of them, once the catalog has said which there are.
#[derive(Debug, Default)]
pub(super) struct Datasets {
    known: Mutex<BTreeMap<String, Version>>,
    /// Whether the last list had all there are: what is not in it is gone.
    is_whole: AtomicBool,
    is_told: tokio::sync::watch::Sender<bool>,
}

impl Datasets {
    /// Waits until the catalog has said which there are, but not longer than this.
    pub(super) async fn when_told(&self, longest: std::time::Duration) {
        let mut told = self.is_told.subscribe();
        // Where nobody says so, everything counts as stale.
        let _ = tokio::time::timeout(longest, told.wait_for(|told| *told)).await;
    }

    /// Whether the dataset has moved on, or nobody has said yet that it has not; one that is gone
    /// has not.
    pub(super) fn is_stale(&self, dataset: &str, manifest: &Manifest) -> bool {
        if !*self.is_told.borrow() {
            return true;
        }
        lock(&self.known).get(dataset).is_some_and(|now| now.differs(manifest))
    }

    /// Whether there is one of this name.
    pub(super) fn has(&self, dataset: &str) -> bool {
        lock(&self.known).contains_key(dataset)
    }

    /// Whether there was one of this name, which was deleted or is called otherwise now. False as
    /// long as that is not known.
    pub(super) fn is_gone(&self, dataset: &str) -> bool {
        self.is_whole.load(Ordering::Relaxed) && !self.has(dataset)
    }

    /// What the catalog lists: all there are, if it `is_whole`. A list may be older than what it
    /// said of one dataset meanwhile, unless it is the `first` of a catalog's life: that one may
    /// have gone back to a backup.
    pub(super) fn replace(&self, mut all: BTreeMap<String, Version>, first: bool, is_whole: bool) {
        let mut known = lock(&self.known);
        if !first {
            for (name, listed) in &mut all {
                if let Some(later) = known.get(name).filter(|known| {
                    known.committed_ms > listed.committed_ms && listed.committed_ms > 0
                }) {
                    listed.clone_from(later);
                }
            }
        }
        *known = all;
        self.is_whole.store(is_whole, Ordering::Relaxed);
        drop(known);
        self.is_told.send_replace(true);
    }

    /// What the catalog says of one, unless something later is known.
    pub(super) fn hear(&self, name: &str, version: &Version) {
        let mut all = lock(&self.known);
        if all.get(name).is_none_or(|known| known.committed_ms <= version.committed_ms) {
            all.insert(name.to_owned(), version.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedder::Model;
    use flat_hnsw::build::Parameters;

    fn manifest(generation: u64, run: Option<&str>) -> Manifest {
        let model = Model { name: "m".into(), fingerprint: "f".into(), dim: 1, mock: false };
        let first = Manifest::first(
            model,
            "exact".into(),
            Parameters { m: 8, ef_construction: 32, seed: 0 },
            64,
        );
        Manifest { dataset_generation: generation, dataset_run: run.map(str::to_owned), ..first }
    }

    #[test]
    fn a_number_that_came_again_is_told_by_its_run_and_old_manifests_by_their_number() {
        let version = |generation, run: Option<&str>, committed_ms| Version {
            generation,
            run: run.map(str::to_owned),
            committed_ms,
        };
        let datasets = Datasets::default();
        assert!(
            datasets.is_stale("d", &manifest(3, Some("a"))),
            "nobody has said yet that it has not moved on"
        );
        assert!(!datasets.is_gone("d"), "nobody has said so");
        datasets.replace(BTreeMap::new(), true, false);
        assert!(!datasets.is_gone("d"), "a list from which some are left out says nothing of it");
        datasets.replace(BTreeMap::new(), true, true);
        assert!(datasets.is_gone("d"));
        assert!(
            !datasets.is_stale("d", &manifest(3, Some("a"))),
            "one that is gone has not moved on"
        );
        let now = BTreeMap::from([("d".to_owned(), version(3, Some("b"), 10))]);
        datasets.replace(now, true, true);
        assert!(!datasets.is_gone("d"));
        for (generation, run, stale) in [
            (3, Some("b"), false),
            (3, Some("a"), true),
            (7, Some("b"), false),
            (3, None, false),
            (2, None, true),
            (4, None, true),
        ] {
            assert_eq!(
                datasets.is_stale("d", &manifest(generation, run)),
                stale,
                "{generation} {run:?}"
            );
        }
        datasets.hear("d", &version(1, Some("c"), 9));
        assert!(
            !datasets.is_stale("d", &manifest(3, Some("b"))),
            "what was heard before is no news"
        );
        datasets.hear("d", &version(1, Some("c"), 11));
        assert!(datasets.is_stale("d", &manifest(3, Some("b"))));
        let old = || BTreeMap::from([("d".to_owned(), version(3, Some("b"), 10))]);
        datasets.replace(old(), false, true);
        assert!(
            datasets.is_stale("d", &manifest(3, Some("b"))),
            "a list that was on its way is no news"
        );
        datasets.replace(old(), true, true);
        assert!(!datasets.is_stale("d", &manifest(3, Some("b"))), "a backup is");
    }
}
