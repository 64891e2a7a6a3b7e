//! What the journal knows, for whoever asks: events, commits, runs. Nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet};

use brahman_card::interface::catalog::{AbandonedRun, Dataset};
use serde_json::Value;

use super::record::{Record, generation_of};
use super::{End, Journal, KnownRun, LastCommit, Open};
use crate::registry::sweep::RunRecord;

impl Journal {
    /// A dataset's events, oldest first.
    #[must_use]
    pub fn events(&self, dataset: &str, limit: usize) -> Vec<Value> {
        let mut last: Vec<Value> = self
            .records
            .iter()
            .rev()
            .filter(|r| r.dataset == dataset)
            .take(limit)
            .map(|r| r.event.clone())
            .collect();
        last.reverse();
        last
    }

    /// Records of a dataset since it was last deleted, newest first.
    fn since_dropped<'a>(&'a self, dataset: &'a str) -> impl Iterator<Item = &'a Record> {
        self.records
            .iter()
            .rev()
            .filter(move |r| r.dataset == dataset)
            .take_while(|r| !r.is("OTHER"))
    }

    /// The last generation of a dataset that was committed, unless it was deleted since.
    #[must_use]
    pub fn last_committed(&self, dataset: &str) -> Option<LastCommit> {
        let record = self.since_dropped(dataset).find(|r| r.is("COMPLETE"))?;
        let said = |pointer: &str| record.event.pointer(pointer);
        Some(LastCommit {
            run_id: record.run_id.clone(),
            generation: generation_of(record),
            rows: said("/outputs/0/outputFacets/outputStatistics/rowCount").and_then(Value::as_u64),
            files: said("/outputs/0/outputFacets/outputStatistics/fileCount")
                .and_then(Value::as_u64),
            made: record.made.clone(),
        })
    }

    /// What a run's commit has made of a dataset since it was last deleted, where that was
    /// recorded.
    #[must_use]
    pub fn made_by(&self, dataset: &str, run_id: &str) -> Option<&Dataset> {
        let mut records = self
            .records
            .iter()
            .rev()
            .filter(|r| r.dataset == dataset)
            .take_while(|r| !r.is("OTHER"));
        records.find(|r| r.run_id == run_id && r.is("COMPLETE")).and_then(|r| r.made.as_ref())
    }

    /// Datasets that were committed and not deleted since, with the generation that was last
    /// committed.
    #[must_use]
    pub fn committed(&self) -> &BTreeMap<String, u64> {
        &self.committed
    }

    /// Whether a dataset was deleted, and nothing was committed since.
    #[must_use]
    pub fn was_dropped(&self, dataset: &str) -> bool {
        let last = self
            .records
            .iter()
            .rev()
            .find(|r| r.dataset == dataset && (r.is("COMPLETE") || r.is("OTHER")));
        last.is_some_and(|r| r.is("OTHER"))
    }

    /// Whether a run of a dataset was committed since that was last deleted.
    #[must_use]
    pub fn has_committed(&self, dataset: &str, run_id: &str) -> bool {
        // What has begun once and not ended has not, without a look through all records.
        let is_new = |run: &KnownRun| run.lives == 1 && matches!(run.end, End::Open);
        if self.runs.get(run_id).is_some_and(is_new) {
            return false;
        }
        self.since_dropped(dataset).any(|r| r.is("COMPLETE") && r.run_id == run_id)
    }

    /// Runs of a dataset that were committed since it was last deleted, oldest first.
    #[must_use]
    pub fn committed_runs(&self, dataset: &str) -> Vec<String> {
        let mut runs: Vec<String> = self
            .since_dropped(dataset)
            .filter(|r| r.is("COMPLETE"))
            .map(|r| r.run_id.clone())
            .collect();
        runs.reverse();
        runs
    }

    /// Runs of a dataset that go on, or whose last end was not a commit.
    #[must_use]
    pub fn unfit_runs(&self, dataset: &str) -> BTreeSet<String> {
        let mut failed: BTreeMap<&str, bool> = BTreeMap::new();
        for record in self.records.iter().filter(|record| record.dataset == dataset) {
            failed.insert(&record.run_id, record.is("FAIL") || record.is("ABORT"));
        }
        let failed =
            failed.into_iter().filter(|(_, failed)| *failed).map(|(run, _)| run.to_owned());
        let open = self
            .open
            .iter()
            .filter(|(_, open)| open.dataset == dataset)
            .map(|(run, _)| run.clone());
        failed.chain(open).collect()
    }

    /// Whether the mock of ingest began a run.
    #[must_use]
    pub fn is_of_mock(&self, run_id: &str) -> bool {
        self.of_mock.contains(run_id)
    }

    /// Whether a run has begun and not ended.
    #[must_use]
    pub fn is_open(&self, run_id: &str) -> bool {
        self.open.contains_key(run_id)
    }

    /// What is known of a run of this catalog, at this Unix time. Of another's nothing is.
    #[must_use]
    pub fn run(&self, run_id: &str, now_ms: u64) -> Option<RunRecord> {
        self.runs.get(run_id).map(|known| known.at(now_ms))
    }

    /// How often a run has begun, as far as is known. What began before and is not over is of a
    /// life that has ended.
    #[must_use]
    pub fn lives(&self, run_id: &str) -> u64 {
        self.runs.get(run_id).map_or(0, |known| known.lives)
    }

    /// What is known of all runs of this catalog, or of those of one dataset, at this Unix time.
    #[must_use]
    pub fn runs(&self, dataset: Option<&str>, now_ms: u64) -> BTreeMap<String, RunRecord> {
        let meant =
            self.runs.iter().filter(|(_, known)| dataset.is_none_or(|name| name == known.dataset));
        meant.map(|(run_id, known)| (run_id.clone(), known.at(now_ms))).collect()
    }

    /// As if every run that was given up had been long ago.
    #[cfg(test)]
    pub(crate) fn age(&mut self) {
        for known in self.runs.values_mut() {
            if let super::End::Failed(at_ms) = &mut known.end {
                *at_ms = 0;
            }
        }
    }

    /// The runs that [`Self::abandon`] would end.
    #[must_use]
    pub fn open_runs(&self, run_id: Option<&str>, producer: Option<&str>) -> Vec<AbandonedRun> {
        let meant = |id: &str, open: &Open| {
            run_id.is_some_and(|r| r == id) || producer.is_some_and(|p| p == open.producer)
        };
        self.open
            .iter()
            .filter(|(id, open)| meant(id, open))
            .map(|(id, open)| AbandonedRun {
                run_id: id.clone(),
                dataset: open.dataset.clone(),
                started_ms: self.runs.get(id).map_or(0, |known| known.since_ms),
            })
            .collect()
    }
}
