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
    /// Name of the set, 1 to 64 of `a-z0-9._-`; `default`, which is used where none is named,
    /// unless said.
    pub set: Option<String>,
    /// Queries of one's own, 10 to 20,000, in place of some near the index's rows: by turns for
    /// choosing and for judging.
    pub given: Option<Vec<GivenQuery>>,
}

/// A query of one's own: in words, which the index's model embeds, or a vector.
#[wire(request)]
pub struct GivenQuery {
    pub text: Option<String>,
    pub vector: Option<Vec<f32>>,
    /// Ids of the documents that are the answers; what an exact search finds unless said.
    pub answers: Option<Vec<String>>,
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
    /// What it is called by; `default` of sets from before they had names.
    pub name: Option<String>,
    /// `rows`, `given`, or `live`: searches that a promotion failed.
    pub source: Option<String>,
    /// Share of the known answers that an exact search finds among its k: more than that no graph
    /// can find, and recall is of these.
    pub exact: Option<f64>,
    /// In a list: true if the index's data has changed since. Then it is made anew when it is used,
    /// or, with known answers, refused.
    pub stale: Option<bool>,
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
    /// Median time of one search in the module's own process; a caller waits for the socket, too.
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

/// What a width of searches measured on the graph of a trial.
#[wire]
pub struct WidthMetrics {
    pub ef_search: u64,
    pub p50_us: f64,
    pub p95_us: f64,
    pub p99_us: f64,
    pub recall_at_k: f64,
    pub recall_low: f64,
    pub recall_high: f64,
}

/// What the generation that answered measured beside a trial, on the same queries.
#[wire]
pub struct LiveMetrics {
    pub generation: u64,
    pub config: Config,
    pub p95_us: f64,
    pub recall_at_k: f64,
    pub recall_low: f64,
    pub recall_high: f64,
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
    /// Name of that set.
    pub set: Option<String>,
    /// Its neighbours of each query.
    pub k: Option<u64>,
    /// Recall that `ef_search` was found for; absent if it was named.
    pub target_recall: Option<f64>,
    /// Every width that was asked for, measured on the one graph; `metrics` has the one that was
    /// chosen.
    pub widths: Option<Vec<WidthMetrics>>,
    pub live: Option<LiveMetrics>,
}

#[wire]
pub struct TrialIn {
    pub name: String,
    /// What to try; what is absent is as in the index.
    pub config: Config,
    /// For finding `ef_search`, above 0 and at most 1; the index's own, if `Create` named one, else
    /// 0.95, unless said.
    pub target_recall: Option<f64>,
    /// The caller's words, kept with the trial.
    pub note: Option<String>,
    /// Name or id of the set of queries; `default` unless said.
    pub eval: Option<String>,
    /// Widths to measure on the one graph, at most 32: the narrowest that reaches the target is
    /// chosen. Not with an `ef_search`.
    pub ef_search: Option<Vec<u64>>,
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
    /// Of the data now: only its trials are compared. It is the same for the same rows with the
    /// same vectors, however they are stored.
    pub fingerprint: Option<String>,
    /// Records that a crash cut off, when the journal was opened.
    pub torn: u64,
    /// Damaged records set aside.
    pub quarantined: u64,
    /// Records that were acknowledged and are gone, when the journal was opened; absent if there
    /// are none.
    pub missing: Option<u64>,
    /// Why there may be fewer trials than were made, until what was set aside is moved away.
    pub shortfall: Option<String>,
    /// Fingerprints by which earlier versions knew the data as it is now: trials with these count,
    /// too.
    pub known_as: Option<Vec<String>>,
    /// Ids of trials of earlier versions whose data can no longer be told: they are not compared.
    pub unknown_data: Option<Vec<String>>,
    /// Id of the set of queries that is used where none is named: only its trials are compared.
    /// Absent if there is none for this data.
    pub eval: Option<String>,
    /// What answers now; absent before the first refresh.
    pub live: Option<Config>,
}

#[wire]
pub struct BestIn {
    pub name: String,
    /// `target` (the fastest that reaches the recall with the lower end of its interval; the
    /// default where there is a target), `pareto` (the fastest that is not less exact than the
    /// interval of the most exact allows; else the default), `recall` or `latency`.
    pub by: Option<String>,
    /// Recall to reach, above 0 and at most 1; the index's own, if `Create` named one, unless said.
    pub target_recall: Option<f64>,
    /// Name or id of the set of queries; `default` unless said.
    pub eval: Option<String>,
}

#[wire]
pub struct BestOut {
    /// With the best of its widths.
    pub trial: Option<TrialRecord>,
    /// Id of the set of queries whose trials were compared; absent if there is none for this data.
    pub eval: Option<String>,
    /// By what was judged: `target`, `pareto`, `recall` or `latency`.
    pub by: Option<String>,
    pub target_recall: Option<f64>,
    /// Trials on this data that were left out, because they were measured on other queries.
    pub other_queries: Option<u64>,
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
    /// Recall to reach, above 0 and at most 1; the index's own, if `Create` named one, else 0.95,
    /// unless said.
    pub target_recall: Option<f64>,
    /// Widths to measure on each graph, at most 32; the narrowest that reaches the target is looked
    /// for unless said.
    pub ef_search: Option<Vec<u64>>,
    /// Most trials, 1 to 100; 12 unless said. Of a larger grid those are made that promise most
    /// after the ones before.
    pub trials: Option<u64>,
    /// Name or id of the set of queries; `default` unless said.
    pub eval: Option<String>,
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
    /// The best so far, as `Best` says with the same target.
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
