//! Trials: what a graph measures on a set's queries, the journal, and which trial is best.
//!
//! A row as near as the k-th true one counts, so ties are no misses. Invariants: only trials on the
//! same data and the same set of queries are compared; which of them is better [`crate::better`]
//! says. Latencies are those of the search in this process: a caller waits for the socket, too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use brahman_card::interface::index::{TrialRecord, WidthMetrics};
use brahman_sidecar::chain;
use brahman_storage::log::{Damage, Log};
use brahman_storage::writable::is_read_only;

use crate::better::{self, Figures, Goal};
use crate::data::DataNames;
use flat_hnsw::store::Neighbour;

/// How much lower than the k-th true score still counts as equal: the rounding of f32 sums.
pub const TIE: f32 = 1e-6;
/// Widest search tried when looking for a recall.
const EF_MAX: usize = 1024;
/// Exact searches timed.
const BRUTE_FORCE_TIMED: usize = 20;

/// One query, and its true neighbours.
#[derive(Clone, Debug)]
pub struct Query {
    /// Its direction, with a length of 1.
    pub vector: Vec<f32>,
    /// The row that it was made from, which is no answer, if it is still there.
    pub not: Option<u32>,
    /// Score of the k-th true neighbour; what is as near is right.
    pub floor: f32,
    /// True neighbours there are, at most k.
    pub truth: usize,
    /// The rows that are right, where somebody has named the answers.
    pub right: Option<Vec<u32>>,
}

/// What a way of searching measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measure {
    /// Share of the true neighbours found, query by query.
    pub recalls: Vec<f64>,
    /// Microseconds a search, sorted.
    pub us: Vec<f64>,
}

impl Measure {
    /// Mean recall of all queries; 0 of none.
    #[must_use]
    pub fn recall(&self) -> f64 {
        better::mean(&self.recalls)
    }

    /// The 95 % interval of the mean.
    #[must_use]
    pub fn interval(&self) -> (f64, f64) {
        better::interval(&self.recalls)
    }

    /// What counts of it where it is compared.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let (low, high) = self.interval();
        Figures { recall: self.recall(), low, high, p95_us: self.latency(0.95) }
    }

    /// The same as a record has it.
    #[must_use]
    pub fn of_width(&self, ef: usize) -> WidthMetrics {
        let figures = self.figures();
        WidthMetrics {
            ef_search: ef as u64,
            p50_us: self.latency(0.5),
            p95_us: figures.p95_us,
            p99_us: self.latency(0.99),
            recall_at_k: figures.recall,
            recall_low: figures.low,
            recall_high: figures.high,
        }
    }

    /// A percentile of the latency, `share` of 1.
    #[must_use]
    pub fn latency(&self, share: f64) -> f64 {
        let at = ((self.us.len() as f64 * share) as usize).min(self.us.len().saturating_sub(1));
        self.us.get(at).copied().unwrap_or(0.0)
    }

    fn take(&mut self, query: &Query, k: usize, mut found: Vec<Neighbour>, us: f64) {
        found.retain(|f| Some(f.row) != query.not);
        let is_right = |f: &&Neighbour| match &query.right {
            Some(rows) => rows.contains(&f.row),
            None => f.score >= query.floor - TIE,
        };
        let right = found.iter().take(k).filter(is_right).count();
        self.recalls.push(if query.truth == 0 { 1.0 } else { right as f64 / query.truth as f64 });
        self.us.push(us);
    }

    fn finish(mut self) -> Self {
        self.us.sort_by(f64::total_cmp);
        self
    }
}

/// A way of searching: a vector and how many rows to find.
pub type Way<'a> = dyn Fn(&[f32], usize) -> Vec<Neighbour> + 'a;

/// The same with the candidates to keep on the way.
pub type WayWithEf<'a> = dyn Fn(&[f32], usize, usize) -> Vec<Neighbour> + 'a;

/// Asks every query of several ways of searching in turn, so that whatever disturbs the machine
/// disturbs all alike. Between two queries `aside` is called, whose time does not count.
pub fn measure(queries: &[Query], k: usize, ways: &[&Way<'_>], aside: &dyn Fn()) -> Vec<Measure> {
    let mut measures = vec![Measure::default(); ways.len()];
    for query in queries {
        aside();
        for (way, measure) in ways.iter().zip(&mut measures) {
            let started = Instant::now();
            let found = way(&query.vector, k + 1);
            measure.take(query, k, found, started.elapsed().as_nanos() as f64 / 1e3);
        }
    }
    measures.into_iter().map(Measure::finish).collect()
}

/// Measures of single queries as one.
#[must_use]
pub fn joined(measures: Vec<Measure>) -> Measure {
    let mut all = Measure::default();
    for one in measures {
        all.recalls.extend(one.recalls);
        all.us.extend(one.us);
    }
    all.finish()
}

/// The narrowest search that reaches a recall on these queries, and will on others
/// ([`better::suffices`]), by bisection; no graph is built for it.
pub fn find_ef(
    queries: &[Query],
    k: usize,
    target: f64,
    search: &WayWithEf<'_>,
    aside: &dyn Fn(),
) -> usize {
    let reaches = |ef: usize| suffices(queries, k, target, ef, search, aside);
    let (mut low, mut high) = (k, EF_MAX.max(k));
    while low < high {
        let middle = low.midpoint(high);
        if reaches(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    high
}

/// The first of these widths that is enough, in ascending order; the last if none is.
pub fn narrowest(
    widths: &[usize],
    queries: &[Query],
    k: usize,
    target: f64,
    search: &WayWithEf<'_>,
    aside: &dyn Fn(),
) -> Option<usize> {
    let enough = widths.iter().copied().find(|ef| suffices(queries, k, target, *ef, search, aside));
    enough.or_else(|| widths.last().copied())
}

fn suffices(
    queries: &[Query],
    k: usize,
    target: f64,
    ef: usize,
    search: &WayWithEf<'_>,
    aside: &dyn Fn(),
) -> bool {
    better::suffices(&measure(queries, k, &[&|v, k| search(v, k, ef)], aside)[0].recalls, target)
}

/// Median time of an exact search.
#[must_use]
pub fn brute_force_us(queries: &[Query], exact: &dyn Fn(&[f32]) -> Vec<Neighbour>) -> f64 {
    let mut us: Vec<f64> = queries
        .iter()
        .take(BRUTE_FORCE_TIMED)
        .map(|query| {
            let started = Instant::now();
            std::hint::black_box(exact(&query.vector));
            started.elapsed().as_nanos() as f64 / 1e3
        })
        .collect();
    us.sort_by(f64::total_cmp);
    us.get(us.len() / 2).copied().unwrap_or(0.0)
}

/// By what the best trial is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// By the one definition of better.
    Better(Goal),
    /// By recall alone.
    Recall,
    /// By the 95th percentile of latency alone.
    Latency,
}

impl Choice {
    /// What it is called in `Best`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Better(Goal::Target(_)) => "target",
            Self::Better(Goal::Pareto) => "pareto",
            Self::Recall => "recall",
            Self::Latency => "latency",
        }
    }

    fn best(self, all: &[Figures]) -> Option<usize> {
        match self {
            Self::Better(goal) => goal.best(all),
            Self::Recall => {
                (0..all.len()).min_by(|a, b| Goal::Target(f64::INFINITY).rank(&all[*a], &all[*b]))
            }
            Self::Latency => (0..all.len()).min_by(|a, b| Goal::Pareto.rank(&all[*a], &all[*b])),
        }
    }
}

/// What counts of a trial where it is compared.
#[must_use]
pub fn figures(trial: &TrialRecord) -> Figures {
    let m = &trial.metrics;
    Figures { recall: m.recall_at_k, low: m.recall_low, high: m.recall_high, p95_us: m.p95_us }
}

/// A trial once for every width that was measured in it; as it is if none was.
fn by_width(trial: &TrialRecord) -> Vec<TrialRecord> {
    let of = |width: &WidthMetrics| {
        let mut one = trial.clone();
        one.config.ef_search = Some(width.ef_search);
        let m = &mut one.metrics;
        (m.p50_us, m.p95_us, m.p99_us) = (width.p50_us, width.p95_us, width.p99_us);
        (m.recall_at_k, m.recall_low, m.recall_high) =
            (width.recall_at_k, width.recall_low, width.recall_high);
        one
    };
    match trial.widths.as_deref() {
        None | Some([]) => vec![trial.clone()],
        Some(widths) => widths.iter().map(of).collect(),
    }
}

/// A trial with the best of its widths.
#[must_use]
pub fn with_best_width(trial: &TrialRecord, choice: Choice) -> TrialRecord {
    let mut all = by_width(trial);
    let best = choice.best(&all.iter().map(figures).collect::<Vec<_>>()).unwrap_or_default();
    all.swap_remove(best)
}

/// Trials of one data and one set of queries.
#[must_use]
pub fn alike<'a>(trials: &'a [TrialRecord], data: &DataNames, eval: &str) -> Vec<&'a TrialRecord> {
    trials.iter().filter(|trial| data.has(&trial.fingerprint) && trial.eval == eval).collect()
}

/// The best trial of this data and this set of queries, with the best of its widths; of equals the
/// older. One that leaves rows that no search finds is never the best.
#[must_use]
pub fn best(
    trials: &[TrialRecord],
    data: &DataNames,
    eval: &str,
    choice: Choice,
) -> Option<TrialRecord> {
    let whole = alike(trials, data, eval).into_iter().filter(|trial| trial.metrics.orphans == 0);
    let mut all: Vec<TrialRecord> = whole.flat_map(by_width).collect();
    let best = choice.best(&all.iter().map(figures).collect::<Vec<_>>())?;
    Some(all.swap_remove(best))
}

/// Why there is no journal to write to.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is one, or may be, and it cannot be read.
    #[error("{}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// There is none, and none can be made.
    #[error("{}", .path.display())]
    ReadOnly {
        /// The file that there would be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The journal of trials.
#[derive(Debug)]
pub struct Journal {
    /// Or why it cannot be used: the index answers all the same.
    log: Result<Log, Arc<JournalError>>,
    /// In the order in which they were made.
    pub trials: Vec<TrialRecord>,
}

impl Journal {
    /// Opens an index's journal.
    #[must_use]
    pub fn open(index: &Path) -> Self {
        let folder = index.join("trials");
        let path = folder.join("journal.log");
        // Not its parents: an index whose disk is not there must not come to be beside it.
        let made = match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        let error = match made {
            Ok(()) => match Log::open(&path) {
                Ok((log, trials)) => {
                    let journal = Self { log: Ok(log), trials };
                    if let Some(why) = journal.shortfall() {
                        tracing::error!("{why}");
                    }
                    return journal;
                }
                Err(source) => JournalError::Unreadable { path, source },
            },
            Err(source) if is_read_only(&source) => JournalError::ReadOnly { path, source },
            Err(source) => JournalError::Unreadable { path, source },
        };
        if matches!(error, JournalError::Unreadable { .. }) {
            tracing::error!("{}", chain(&error));
        }
        Self { log: Err(Arc::new(error)), trials: Vec::new() }
    }

    fn log(&mut self) -> io::Result<&mut Log> {
        self.log.as_mut().map_err(|error| io::Error::other(Arc::clone(error)))
    }

    /// What opening found wrong.
    #[must_use]
    pub fn damage(&self) -> Damage {
        self.log.as_ref().map_or_else(|_| Damage::default(), |log| log.damage)
    }

    /// When the agent's trials ended, in milliseconds since 1970.
    pub fn agent_ms(&self) -> impl Iterator<Item = u64> {
        self.trials.iter().filter(|trial| trial.by == "agent").map(|trial| trial.at_ms)
    }

    /// Why nobody knows which trials there were: whatever is chosen by them stops, the index
    /// answers.
    #[must_use]
    pub fn trouble(&self) -> Option<&JournalError> {
        self.log
            .as_ref()
            .err()
            .map(|error| &**error)
            .filter(|error| matches!(error, JournalError::Unreadable { .. }))
    }

    /// Why it may hold fewer trials than were made, until somebody has looked at what was set
    /// aside.
    #[must_use]
    pub fn shortfall(&self) -> Option<String> {
        self.log.as_ref().ok()?.shortfall()
    }

    /// Adds a trial; on return it is durable.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn add(&mut self, trial: TrialRecord) -> io::Result<()> {
        self.log()?.append(std::slice::from_ref(&trial))?;
        self.trials.push(trial);
        Ok(())
    }

    /// Keeps the newest `keep`, once each; how many were dropped.
    ///
    /// # Errors
    /// As the file system gives them; nothing is then dropped.
    pub fn compact(&mut self, keep: usize) -> io::Result<usize> {
        let mut seen = std::collections::HashSet::new();
        let mut kept: Vec<TrialRecord> = self
            .trials
            .iter()
            .rev()
            .filter(|t| seen.insert(t.id.clone()))
            .take(keep)
            .cloned()
            .collect();
        kept.reverse();
        self.log()?.compact(&kept)?;
        let dropped = self.trials.len() - kept.len();
        self.trials = kept;
        Ok(dropped)
    }
}

#[cfg(test)]
mod tests;
