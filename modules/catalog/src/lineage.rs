//! What became of every run: OpenLineage run events (spec 2-0-2) in a journal,
//! `catalog/lineage.log`.
//!
//! A COMPLETE also keeps what the generation was made of, so that a dataset whose file is lost can
//! be put together again. OTHER marks a deletion: runs before it say nothing of what came after.
//!
//! START when a run is told where to write, and into which bucket: what may be deleted later is
//! decided by that. COMPLETE with its commit, FAIL or ABORT when it is given up. A commit and its
//! event are two writes: what a crash between them left out is written at the next opening. Names
//! of inputs come from readers that never put a user or a password into them. A journal that cannot
//! be read stops what needs it, runs and the removal of what they leave, and nothing else. One that
//! knows nothing of a run that a dataset's file names has lost records, whatever its own checksums
//! say: that is told as damage is. RUNNING marks such a run, once it was told.
//!
//! [`record`] is a line of it, [`known`] answers what it knows.
//!
//! [`events`] writes of runs.

mod events;
mod known;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use brahman_card::interface::catalog::Dataset;
use brahman_sidecar::chain;
use brahman_storage::atomic;
use brahman_storage::log::{Damage, Log};
use serde_json::{Value, json};
use thiserror::Error;

use crate::registry::entry::folder_of;
use crate::registry::sweep::{RunRecord, Standing};
use record::{Record, UNRECORDED, generation_of, time_ms, unrecorded};

/// Events after which the older half is dropped.
const EVENTS_MAX: usize = 20_000;
/// Commits of each dataset that outlive a compaction: the present and the previous generation are
/// needed still.
const COMMITS_KEPT: usize = 2;
const COLUMNS_MAX: usize = 500;

/// Beside the journal from the first opening on by a version that records each dataset's run.
const SINCE: &str = "lineage.log.since";
/// Runs that are missed, by name.
const MISSED_NAMED: usize = 3;
/// Longest word of a damaged record that is told.
const WORD_CHARS: usize = 128;
/// The label under which the mock of ingest began its runs among real ones before mocks were told
/// apart.
pub(crate) const FIRST_MOCK: &str = "ingest-mock";

/// The last generation of a dataset that was committed.
#[derive(Clone, Debug)]
pub struct LastCommit {
    /// ULID of the run that made it.
    pub run_id: String,
    /// Number of the generation that it made.
    pub generation: u64,
    /// Rows, where they were recorded.
    pub rows: Option<u64>,
    /// How many objects it had, where that was recorded.
    pub files: Option<u64>,
    /// All of it, but for what personal data it holds; absent in journals of earlier versions, and
    /// of very many objects.
    pub made: Option<Dataset>,
}

/// A run that has begun and not ended.
#[derive(Clone, Debug)]
struct Open {
    dataset: String,
    producer: String,
}

/// That nobody knows which runs there were.
#[derive(Clone, Debug, Error)]
#[error(
    "the lineage's journal {} cannot be read ({why}): datasets are served, no run begins and nothing is tidied; put it back, or move it \
     away to begin anew, then `brahman restart catalog`",
    .path.display()
)]
pub struct Unreadable {
    path: PathBuf,
    why: String,
}

/// How a run ended, if it has.
#[derive(Clone, Copy, Debug)]
enum End {
    Open,
    Committed,
    /// Given up, at this Unix time.
    Failed(u64),
}

/// What is known of a run of this catalog.
#[derive(Clone, Debug)]
struct KnownRun {
    dataset: String,
    /// Where it wrote; anywhere, if that was not recorded.
    buckets: BTreeSet<String>,
    end: End,
    /// How often it has begun: one that was given up may be taken up again.
    lives: u64,
    /// Unix time at which it last began; 0 if that is not known.
    since_ms: u64,
}

impl KnownRun {
    fn at(&self, now_ms: u64) -> RunRecord {
        let standing = match self.end {
            End::Open => Standing::Open,
            End::Committed => Standing::Committed,
            End::Failed(at_ms) => Standing::Failed { for_ms: now_ms.saturating_sub(at_ms) },
        };
        RunRecord { dataset: self.dataset.clone(), buckets: self.buckets.clone(), standing }
    }
}

/// The journal of all runs, open for more.
#[derive(Debug)]
pub struct Journal {
    log: Result<Log, Unreadable>,
    records: Vec<Record>,
    open: BTreeMap<String, Open>,
    /// Datasets that were committed and not deleted since, with the generation that was last
    /// committed.
    committed: BTreeMap<String, u64>,
    /// Every run that the records name.
    runs: BTreeMap<String, KnownRun>,
    /// Records at which the older ones are dropped.
    compact_at: usize,
    /// Runs that a mock began before mocks were told apart.
    of_mock: BTreeSet<String>,
    /// Runs of which it was told already that nothing else is recorded.
    unrecorded: BTreeSet<String>,
    /// What was missed when this was opened, and whether that is noted for good.
    missed: Option<(String, bool)>,
    /// Records of commits that are damaged or missing, by what the datasets' files say.
    lost_commits: Vec<String>,
}

impl Journal {
    /// Opens the journal in a folder, and ends runs whose commit was the last thing before a crash.
    ///
    /// What is wrong with it says [`Self::unread`].
    ///
    /// # Errors
    /// None so far.
    pub fn open<'a>(
        folder: &Path,
        datasets: impl Iterator<Item = &'a Dataset>,
    ) -> io::Result<Self> {
        let path = folder.join("lineage.log");
        let (log, records) = match Log::open::<Record>(&path) {
            Ok((log, records)) => (Ok(log), records),
            Err(error) => (Err(Unreadable { path, why: chain(&error) }), Vec::new()),
        };
        let (open, committed, runs, of_mock) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let (records_kept, unrecorded, missed, lost_commits) =
            (Vec::new(), BTreeSet::new(), None, Vec::new());
        let compact_at = EVENTS_MAX;
        let mut journal = Self {
            log,
            records: records_kept,
            open,
            committed,
            runs,
            compact_at,
            of_mock,
            unrecorded,
            missed,
            lost_commits,
        };
        if let Some(why) = journal.unread() {
            tracing::error!("{why}");
        }
        for record in records {
            journal.note(record);
        }
        let datasets: Vec<&Dataset> = datasets.collect();
        let since = folder.join(SINCE);
        let is_first = !since.exists();
        journal.miss(&datasets, is_first);
        if is_first
            && journal.log.is_ok()
            && let Err(error) = atomic::write(
                &since,
                b"Each dataset's run is in lineage.log since this file is here.\n",
            )
        {
            tracing::warn!(
                "what the lineage's journal may miss is not said: {}: {}",
                since.display(),
                chain(&error)
            );
        }
        for dataset in datasets {
            if journal.open.contains_key(&dataset.lineage.run_id)
                && let Err(error) = journal.complete(dataset)
            {
                tracing::warn!(
                    dataset = dataset.name,
                    "its last commit is written into the journal at the next opening: {}",
                    chain(&error)
                );
            }
        }
        Ok(journal)
    }

    /// Misses runs that datasets' files name: the journal, or its end, has gone, and its head with
    /// it. Not at the first opening by a version that misses any: earlier ones have published what
    /// others made, and dropped events, without a word in the journal.
    fn miss(&mut self, datasets: &[&Dataset], is_first: bool) {
        let missed: Vec<&Dataset> = datasets
            .iter()
            .copied()
            .filter(|dataset| self.is_unheard_of(&dataset.lineage.run_id))
            .collect();
        let Ok(log) = &self.log else { return };
        if missed.is_empty() {
            return;
        }
        if is_first {
            if let Err(error) = self.append(missed.into_iter().map(unrecorded).collect()) {
                tracing::warn!(
                    "runs of an earlier version are noted at the next opening: {}",
                    chain(&error)
                );
            }
            return;
        }
        let named = missed
            .iter()
            .take(MISSED_NAMED)
            .map(|d| format!("run {} of dataset `{}`", d.lineage.run_id, d.name));
        let more = match missed.len().saturating_sub(MISSED_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let words = format!(
            "it says nothing of {}{more}, which the datasets' files name: it was lost, cut, or put back from before them; if you have it, \
             end the catalog, put it and its .head back, and start",
            named.collect::<Vec<_>>().join(", ")
        );
        tracing::error!("the lineage's journal: {words}");
        let runs: Vec<Value> =
            missed.iter().map(|d| json!({"dataset": d.name, "run_id": d.lineage.run_id})).collect();
        // First what stays until somebody has looked at it: a crash before the second says it
        // twice.
        let noted = log.note_missing(&json!({"missing_runs": runs}));
        let is_noted = noted.is_ok();
        let noted = noted.and_then(|()| self.append(missed.into_iter().map(unrecorded).collect()));
        if let Err(error) = noted {
            tracing::warn!(
                "what the lineage's journal misses is noted at the next opening: {}",
                chain(&error)
            );
        }
        self.missed = Some((words, is_noted));
    }

    /// Compares the journal on the disk with what is known here, and writes it anew where it is not
    /// that. What was wrong with it, in words.
    ///
    /// # Errors
    /// If it cannot be read, or not be written anew.
    pub fn restore_file(&mut self) -> io::Result<Option<String>> {
        let Ok(log) = &mut self.log else { return Ok(None) };
        let Damage { quarantined, missing, misplaced, .. } = log.verify()?;
        if quarantined + missing + misplaced == 0 {
            return Ok(None);
        }
        log.compact(&self.records)?;
        Ok(Some(format!(
            "{quarantined} damaged, {missing} missing and {misplaced} misplaced records"
        )))
    }

    /// Who began a run; none if its beginning is not known any more.
    #[must_use]
    pub fn begun_by(&self, run_id: &str) -> Option<&str> {
        let start =
            self.records.iter().rev().find(|record| record.run_id == run_id && record.is("START"));
        start.and_then(|record| record.producer.as_deref())
    }

    /// Whether a dataset was deleted since a run last began.
    #[must_use]
    pub fn was_dropped_during(&self, dataset: &str, run_id: &str) -> bool {
        let begun =
            self.records.iter().rposition(|record| record.run_id == run_id && record.is("START"));
        begun.is_some_and(|begun| {
            self.records[begun..]
                .iter()
                .any(|record| record.dataset == dataset && record.is("OTHER"))
        })
    }

    /// Records that are damaged or missing, by name as far as that can be told. Reads what was set
    /// aside.
    #[must_use]
    pub fn damaged_records(&self) -> Vec<String> {
        let aside = self.log.as_ref().map(Log::lines_aside).unwrap_or_default();
        let of = |line: &String| {
            let part = |name: &str| {
                let (_, rest) = line.split_once(&format!("\"{name}\":\""))?;
                Some(
                    rest.split('"')
                        .next()
                        .unwrap_or_default()
                        .chars()
                        .filter(|c| !c.is_control())
                        .take(WORD_CHARS)
                        .collect::<String>(),
                )
            };
            let said = [("dataset", "dataset "), ("run_id", "run "), ("eventType", "")];
            let said: Vec<String> = said
                .iter()
                .filter_map(|(name, words)| Some(format!("{words}{}", part(name)?)))
                .collect();
            format!(
                "a damaged record of lineage.log, now in lineage.log.quarantine: {}",
                said.join(", ")
            )
        };
        aside
            .iter()
            .filter(|line| line.contains("\"payload\""))
            .map(of)
            .chain(self.lost_commits.iter().cloned())
            .collect()
    }

    /// Unix time at which a run last began, if it is known.
    #[must_use]
    pub fn since_ms(&self, run_id: &str) -> Option<u64> {
        self.runs.get(run_id).map(|known| known.since_ms).filter(|at_ms| *at_ms > 0)
    }

    /// Whether nothing was ever recorded of a run, nor said of that.
    fn is_unheard_of(&self, run_id: &str) -> bool {
        !run_id.is_empty() && !self.runs.contains_key(run_id) && !self.unrecorded.contains(run_id)
    }

    /// A dataset is published that a run has made of which nothing is recorded, and somebody wanted
    /// it so: that is not missed.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn take_up(&mut self, dataset: &Dataset) -> io::Result<()> {
        if self.is_unheard_of(&dataset.lineage.run_id) {
            self.append(vec![unrecorded(dataset)])
        } else {
            Ok(())
        }
    }

    /// That it is known which runs there are.
    ///
    /// # Errors
    /// Why it is not, as a file system's error.
    pub fn known(&self) -> io::Result<()> {
        self.log
            .as_ref()
            .map(|_| ())
            .map_err(|unreadable| io::Error::new(io::ErrorKind::InvalidData, unreadable.clone()))
    }

    fn note(&mut self, record: Record) {
        self.note_run(&record);
        if record.event["eventType"] == "START" {
            if record.producer.as_deref() == Some(FIRST_MOCK) {
                self.of_mock.insert(record.run_id.clone());
            }
            let open = Open {
                dataset: record.dataset.clone(),
                producer: record.producer.clone().unwrap_or_default(),
            };
            self.open.insert(record.run_id.clone(), open);
        } else if record.is(UNRECORDED) {
            self.unrecorded.insert(record.run_id.clone());
        } else {
            self.open.remove(&record.run_id);
        }
        self.records.push(record);
    }

    /// A deletion is of a dataset, and of no run.
    fn note_run(&mut self, record: &Record) {
        if record.is("COMPLETE") {
            self.committed.insert(record.dataset.clone(), generation_of(record));
        } else if record.is("OTHER") {
            self.committed.remove(&record.dataset);
        }
        let end = match record.event["eventType"].as_str() {
            Some("START") => End::Open,
            Some("COMPLETE") => End::Committed,
            Some("FAIL" | "ABORT") => End::Failed(time_ms(&record.event)),
            _ => return,
        };
        let unknown = || KnownRun {
            dataset: record.dataset.clone(),
            buckets: BTreeSet::new(),
            end,
            lives: 0,
            since_ms: 0,
        };
        let known = self.runs.entry(record.run_id.clone()).or_insert_with(unknown);
        known.end = end;
        if matches!(end, End::Open) {
            known.lives += 1;
            known.since_ms = time_ms(&record.event);
        }
        known.buckets.extend(record.bucket.clone());
    }

    fn append(&mut self, records: Vec<Record>) -> io::Result<()> {
        self.known()?;
        if let Ok(log) = &mut self.log {
            log.append(&records)?;
        }
        records.into_iter().for_each(|record| self.note(record));
        if self.records.len() > self.compact_at {
            let kept = self.worth_keeping();
            match self.log.as_mut().map(|log| log.compact(&kept)) {
                Ok(Ok(())) => {
                    self.compact_at = EVENTS_MAX.max(kept.len() * 2);
                    self.records = kept;
                    let named: BTreeSet<&String> =
                        self.records.iter().map(|record| &record.run_id).collect();
                    self.runs.retain(|run_id, _| named.contains(run_id));
                }
                // What was appended is there all the same.
                Ok(Err(error)) => {
                    tracing::warn!(
                        "the lineage's journal stays as long as it is for now: {}",
                        chain(&error)
                    );
                    self.compact_at = self.records.len() + EVENTS_MAX / 10;
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// The newer half and, of the older, what is still needed: runs that have not ended, each
    /// dataset's last states, and which runs made what those are made of: only a run that is known
    /// to be ours is ever cleared away.
    fn worth_keeping(&self) -> Vec<Record> {
        let newer_from = self.records.len() - EVENTS_MAX / 2;
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        // The runs that made the generations that are kept, the present one last: those after one
        // may have found nothing new.
        let mut makers: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
        for record in &self.records {
            if record.is("COMPLETE") {
                let (generation, run) = (generation_of(record), record.run_id.as_str());
                let of = makers.entry(&record.dataset).or_default();
                if of.last().is_none_or(|(last, _)| *last != generation) {
                    of.push((generation, run));
                    of.drain(..of.len().saturating_sub(COMMITS_KEPT));
                }
            } else if record.is("OTHER") {
                makers.remove(record.dataset.as_str());
            }
        }
        let mut held: BTreeSet<&str> = makers.values().flatten().map(|(_, run)| *run).collect();
        let mut kept: Vec<Record> = Vec::new();
        for (at, record) in self.records.iter().enumerate().rev() {
            let state = record.is("COMPLETE") || record.is("OTHER");
            let last = state && {
                let seen = known.entry(&record.dataset).or_default();
                *seen += 1;
                *seen <= COMMITS_KEPT
            };
            let of = makers.get(record.dataset.as_str());
            let made_one = record.is("COMPLETE")
                && of.is_some_and(|of| of.iter().any(|(_, run)| *run == record.run_id));
            if last || made_one || (at >= newer_from && state) {
                let objects = record.made.iter().flat_map(|made| &made.objects);
                held.extend(
                    objects.filter_map(|object| folder_of(&object.key)).map(|(_, run)| run),
                );
                held.insert(&record.run_id);
            }
            let run = record.run_id.as_str();
            if at >= newer_from
                || last
                || made_one
                || record.is(UNRECORDED)
                || (record.is("START") && self.open.contains_key(run))
            {
                kept.push(record.clone());
            } else if held.contains(run) && (record.is("START") || state) {
                kept.push(Record { made: None, ..record.clone() });
            }
        }
        kept.reverse();
        kept
    }

    /// Why what is here may be less than what was written.
    #[must_use]
    pub fn unread(&self) -> Option<String> {
        match &self.log {
            Ok(log) => {
                let words = match (log.shortfall(), &self.missed) {
                    (Some(why), Some((missed, _))) => Some(format!("{missed}; {why}")),
                    // What could not be noted is said while this process lives.
                    (None, Some((missed, false))) => Some(missed.clone()),
                    (why, _) => why,
                };
                words.map(|words| format!("the lineage's journal: {words}"))
            }
            Err(unreadable) => Some(unreadable.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
