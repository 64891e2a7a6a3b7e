//! Trials: sets of queries, configurations tried on them, and the best.

use brahman_card_derive::wire;

use super::Config;
use crate::interface::Progress;

#[wire]
pub struct EvalAutogenIn {
    pub name: String,
    /// Queries in each of the two halves; 500 unless said.
    pub queries: Option<u64>,
    /// Neighbours of each; 10 unless said.
    pub k: Option<u64>,
    /// Of the choice of queries.
    pub seed: Option<u64>,
}

/// A set of queries with their true neighbours, in two disjoint halves.
#[wire]
pub struct EvalInfo {
    pub id: String,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// Of the data it was made from.
    pub fingerprint: String,
    /// Neighbours of each query.
    pub k: u64,
    /// How many queries are for choosing.
    pub tune: u64,
    /// How many queries are for judging.
    pub holdout: u64,
}

/// Reply of `EvalAutogen`: the set that was made.
#[wire]
pub struct EvalOut {
    pub eval: EvalInfo,
}

#[wire]
pub struct EvalListOut {
    /// All sets of queries, the newest first.
    pub evals: Vec<EvalInfo>,
    /// Files of sets that are damaged: they are passed over.
    pub damaged: Option<Vec<String>>,
}

/// What a trial measured.
#[wire]
pub struct Metrics {
    /// Time to build the graph.
    pub build_time_secs: f64,
    /// Median time of one search.
    pub p50_us: f64,
    pub p95_us: f64,
    pub p99_us: f64,
    /// Mean share of the true neighbours found.
    pub recall_at_k: f64,
    /// Lower end of its 95 % interval.
    pub recall_low: f64,
    pub recall_high: f64,
    /// Vectors, codes and graph.
    pub memory_bytes: u64,
    pub vectors: u64,
    pub eval_queries: u64,
    /// Rows, of a sample, that did not find themselves.
    pub orphans: u64,
    /// Median of comparing all vectors.
    pub brute_force_latency_us: f64,
}

/// A trial, as the journal keeps it.
#[wire]
pub struct TrialRecord {
    pub id: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    pub config: Config,
    pub metrics: Metrics,
    /// Of the data that it was measured on.
    pub fingerprint: String,
    /// Version of the program that measured.
    pub engine_version: String,
    /// Id of the set of queries.
    pub eval: String,
    /// `user`, `autotune` or `agent`.
    pub by: String,
    pub note: Option<String>,
}

#[wire]
pub struct TrialIn {
    pub name: String,
    /// What to try; what is absent is as in the index.
    pub config: Config,
    /// For finding `ef_search`, above 0 and at most 1; 0.95 unless said.
    pub target_recall: Option<f64>,
    /// The caller's words, kept with the trial.
    pub note: Option<String>,
}

#[wire(phase)]
pub enum TrialOut {
    /// The last.
    Done(TrialSummary),
    /// `build` or `measure`.
    Progress(Progress),
}

/// What came of a trial.
#[wire]
pub struct TrialSummary {
    /// Rows in this phase.
    pub done: u64,
    pub of: u64,
    /// Of the last reply alone; on disk by then.
    pub trial: TrialRecord,
}

#[wire]
pub struct TrialsOut {
    /// In the order in which they were made.
    pub trials: Vec<TrialRecord>,
    /// Of the data now: only its trials are compared.
    pub fingerprint: Option<String>,
    /// Records that a crash cut off, when the journal was opened.
    pub torn: u64,
    /// Damaged records set aside.
    pub quarantined: u64,
    /// Records that were acknowledged and are gone, when the journal was opened; absent if there are none.
    pub missing: Option<u64>,
    /// Why there may be fewer trials than were made, until what was set aside is moved away.
    pub shortfall: Option<String>,
}

#[wire]
pub struct BestIn {
    pub name: String,
    /// `pareto` (the default: recall − 0.2 · min(p95 / 1 ms, 1)), `recall` or `latency`.
    pub by: Option<String>,
}

#[wire]
pub struct BestOut {
    pub trial: Option<TrialRecord>,
}

#[wire]
pub struct CompactTrialsIn {
    pub name: String,
    /// Newest trials to keep; 1,000 unless said.
    pub keep: Option<u64>,
}

#[wire]
pub struct CompactTrialsOut {
    pub kept: u64,
    /// Older ones, and doubles.
    pub dropped: u64,
}

#[wire]
pub struct AutotuneIn {
    pub name: String,
    /// 8, 16, 24 unless said.
    pub m: Option<Vec<u64>>,
    /// 64, 100, 200 unless said.
    pub ef_construction: Option<Vec<u64>>,
    /// Recall to reach, above 0 and at most 1; 0.95 unless said.
    pub target_recall: Option<f64>,
}

#[wire(phase)]
pub enum AutotuneOut {
    /// One trial is made.
    Trial(AutotuneTrial),
    /// The last.
    Done(AutotuneSummary),
    /// None that is known.
    Progress(Progress),
}

/// One trial of a grid.
#[wire]
pub struct AutotuneTrial {
    /// Trials.
    pub done: u64,
    pub of: u64,
    /// The one just made.
    pub trial: TrialRecord,
    /// The best so far, by `pareto`.
    pub best: Option<TrialRecord>,
}

/// What came of a grid.
#[wire]
pub struct AutotuneSummary {
    pub done: u64,
    pub of: u64,
    /// The last one, of a provider that has no reply of its own for it: ours have.
    pub trial: Option<TrialRecord>,
    pub best: Option<TrialRecord>,
}

#[wire]
pub struct AgentStatusOut {
    /// Whether it works at all.
    pub enabled: bool,
    /// Indexes that wait for a trial.
    pub queue: Vec<String>,
    /// The index it works on.
    pub running: Option<String>,
    /// What came of its last trial.
    pub last: Option<String>,
    pub trials_last_hour: u64,
    pub max_trials_per_hour: u64,
    /// Until the next trial may begin.
    pub next_in_s: u64,
    /// Why it does nothing though it was to.
    pub reason: Option<String>,
    /// Indexes that were rolled back: it does not refresh them.
    pub pinned: Option<Vec<String>>,
    /// Whether indexes follow their datasets.
    pub refreshes: Option<bool>,
}

#[wire]
pub struct AgentEnqueueOut {
    /// False if it was in the queue already.
    pub queued: bool,
}
