//! Runs that earlier lives of this module were in the middle of: the newest first, in a file with a
//! checksum.
//!
//! Invariants: as many as are remembered, and no more; it is a list for people, so that a file that
//! cannot be read or written costs the list and nothing else.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use brahman_card::interface::ingest::Run;
use brahman_sidecar::chain;
use brahman_storage::checked;

use super::RUNS_MAX;

/// The list, and the file that keeps it.
#[derive(Debug, Default)]
pub(super) struct EarlierRuns {
    /// None of a mock: what it is asked to do is forgotten with it.
    file: Option<PathBuf>,
    runs: Vec<Run>,
}

impl EarlierRuns {
    /// Those that a file has; it need not be there.
    pub(super) fn open(file: PathBuf) -> Self {
        Self { runs: read(&file), file: Some(file) }
    }

    /// The newest first.
    pub(super) fn all(&self) -> &[Run] {
        &self.runs
    }

    /// Adds those of the last life.
    pub(super) fn add(&mut self, runs: impl IntoIterator<Item = Run>) {
        let runs: Vec<Run> = runs.into_iter().collect();
        if runs.is_empty() {
            return;
        }
        // One that went on has been cut off again.
        self.runs.retain(|old| !runs.iter().any(|run| run.run_id == old.run_id));
        self.runs.extend(runs);
        self.runs.sort_by_key(|run| Reverse(run.started_ms));
        self.runs.truncate(RUNS_MAX);
        self.save();
    }

    /// Takes off one that goes on: how it ends is this life's affair.
    pub(super) fn take_off(&mut self, run_id: &str) {
        let before = self.runs.len();
        self.runs.retain(|run| run.run_id != run_id);
        if self.runs.len() < before {
            self.save();
        }
    }

    /// Writes some kilobytes, once a life and once for a run that goes on.
    fn save(&self) {
        let Some(file) = &self.file else { return };
        let written = serde_json::to_vec_pretty(&self.runs)
            .map_err(std::io::Error::from)
            .and_then(|json| checked::write(file, &json));
        if let Err(error) = written {
            tracing::warn!("{}: {error}: runs that were cut off are not kept", file.display());
        }
    }
}

fn read(file: &Path) -> Vec<Run> {
    let lost = |why: String| {
        tracing::warn!("runs that were cut off earlier are not listed: {}: {why}", file.display());
        Vec::new()
    };
    match checked::read(file) {
        Ok(None) => Vec::new(),
        Ok(Some(content)) => {
            serde_json::from_slice(&content.bytes).unwrap_or_else(|error| lost(chain(&error)))
        }
        Err(error) => lost(chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(run_id: &str, started_ms: u64) -> Run {
        Run {
            run_id: run_id.to_owned(),
            dataset: "d".to_owned(),
            state: "failed".to_owned(),
            rows: 0,
            bytes: 0,
            started_ms,
            seconds: 0.0,
            error: Some("it stopped".to_owned()),
        }
    }

    fn ids(earlier: &EarlierRuns) -> Vec<&str> {
        earlier.all().iter().map(|run| run.run_id.as_str()).collect()
    }

    #[test]
    fn runs_of_many_lives_are_kept_newest_first_and_no_more_than_are_remembered() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("runs.json");
        EarlierRuns::open(file.clone()).add([run("first", 10)]);
        EarlierRuns::open(file.clone()).add([run("second", 20), run("third", 30)]);
        let mut earlier = EarlierRuns::open(file.clone());
        assert_eq!(ids(&earlier), ["third", "second", "first"]);
        earlier.take_off("second");
        let mut earlier = EarlierRuns::open(file.clone());
        assert_eq!(ids(&earlier), ["third", "first"]);
        earlier.add((100..).take(RUNS_MAX).map(|at| run("new", at)));
        assert_eq!(EarlierRuns::open(file).all().len(), RUNS_MAX);
        assert!(!ids(&earlier).contains(&"third"), "the oldest go first");
    }

    #[test]
    fn a_damaged_file_costs_the_list_alone() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("runs.json");
        std::fs::write(&file, "no JSON").expect("written");
        let mut earlier = EarlierRuns::open(file.clone());
        assert!(earlier.all().is_empty());
        earlier.add([run("a", 1)]);
        assert_eq!(ids(&EarlierRuns::open(file)), ["a"]);
    }
}
