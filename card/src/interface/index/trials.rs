//! Trials: sets of queries, configurations tried on them, and the best.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;

/// Parameters of `EvalAutogen`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvalAutogenIn {
    /// Index name.
    pub name: String,
    /// Queries in each of the two halves; 500 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<u64>,
    /// Neighbours of each; 10 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<u64>,
    /// Of the choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// One set of queries with their true neighbours, in two disjoint halves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvalInfo {
    /// Its id.
    pub id: String,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// Of the data it was made from.
    pub fingerprint: String,
    /// Neighbours of each query.
    pub k: u64,
    /// Queries for choosing.
    pub tune: u64,
    /// Queries for judging.
    pub holdout: u64,
}

/// Reply of `EvalAutogen`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvalOut {
    /// The set.
    pub eval: EvalInfo,
}

/// Reply of `EvalList`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvalListOut {
    /// The newest first.
    pub evals: Vec<EvalInfo>,
    /// Files of sets that are damaged: they are passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<Vec<String>>,
}

/// What a trial measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metrics {
    /// Building the graph.
    pub build_time_secs: f64,
    /// Median of one search, in microseconds.
    pub p50_us: f64,
    /// 95th percentile.
    pub p95_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Mean share of the true neighbours found.
    pub recall_at_k: f64,
    /// Lower end of its 95 % interval.
    pub recall_low: f64,
    /// Upper end.
    pub recall_high: f64,
    /// Vectors, codes and graph.
    pub memory_bytes: u64,
    /// How many.
    pub vectors: u64,
    /// Queries asked.
    pub eval_queries: u64,
    /// Rows, of a sample, that did not find themselves.
    pub orphans: u64,
    /// Median of comparing all vectors.
    pub brute_force_latency_us: f64,
}

/// One trial, as the journal keeps it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrialRecord {
    /// Its id.
    pub id: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What was tried.
    pub config: Config,
    /// What was measured.
    pub metrics: Metrics,
    /// Of the data.
    pub fingerprint: String,
    /// Of the program.
    pub engine_version: String,
    /// Id of the set of queries.
    pub eval: String,
    /// `user`, `autotune` or `agent`.
    pub by: String,
    /// The caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Parameters of `Trial`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrialIn {
    /// Index name.
    pub name: String,
    /// What to try; what is absent is as in the index.
    pub config: Config,
    /// For finding `ef_search`, above 0 and at most 1; 0.95 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_recall: Option<f64>,
    /// Kept with the trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Replies of `Trial`: progress has the first three fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrialOut {
    /// `build`, `measure` or `done`.
    pub phase: String,
    /// Rows done in this phase.
    pub done: u64,
    /// Of how many.
    pub of: u64,
    /// The trial, durable by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialRecord>,
}

/// Reply of `Trials`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrialsOut {
    /// In the order in which they were made.
    pub trials: Vec<TrialRecord>,
    /// Of the data now: only its trials are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Records that a crash cut off, when the journal was opened.
    pub torn: u64,
    /// Damaged records set aside.
    pub quarantined: u64,
    /// Records that were acknowledged and are gone, when the journal was opened; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<u64>,
    /// Why there may be fewer trials than were made, until what was set aside is moved away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortfall: Option<String>,
}

/// Parameters of `Best`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BestIn {
    /// Index name.
    pub name: String,
    /// `pareto` (the default: recall − 0.2 · min(p95 / 1 ms, 1)), `recall` or `latency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Reply of `Best`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BestOut {
    /// Of the trials on the data as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialRecord>,
}

/// Parameters of `CompactTrials`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompactTrialsIn {
    /// Index name.
    pub name: String,
    /// Newest trials to keep; 1,000 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u64>,
}

/// Reply of `CompactTrials`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CompactTrialsOut {
    /// Trials kept.
    pub kept: u64,
    /// Older ones, and doubles, dropped.
    pub dropped: u64,
}

/// Parameters of `Autotune`: a grid.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AutotuneIn {
    /// Index name.
    pub name: String,
    /// Values of `m`; 8, 16, 24 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub m: Option<Vec<u64>>,
    /// Values of `ef_construction`; 64, 100, 200 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef_construction: Option<Vec<u64>>,
    /// Recall to reach, above 0 and at most 1; 0.95 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_recall: Option<f64>,
}

/// Replies of `Autotune`, one a trial and a last one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AutotuneOut {
    /// `trial` or `done`.
    pub phase: String,
    /// Trials done.
    pub done: u64,
    /// Of how many.
    pub of: u64,
    /// The one just made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialRecord>,
    /// The best so far, by `pareto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<TrialRecord>,
}

/// Reply of `AgentStatus`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentStatusOut {
    /// Whether it works at all.
    pub enabled: bool,
    /// Indexes that wait for a trial.
    pub queue: Vec<String>,
    /// The index it works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,
    /// What came of its last trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Trials begun within the last hour.
    pub trials_last_hour: u64,
    /// Most of them.
    pub max_trials_per_hour: u64,
    /// Seconds until the next may begin.
    pub next_in_s: u64,
    /// Why it does nothing though it was to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Indexes that were rolled back: it does not refresh them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Vec<String>>,
    /// Whether indexes follow their datasets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refreshes: Option<bool>,
}

/// Reply of `AgentEnqueue`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentEnqueueOut {
    /// False if it was in the queue already.
    pub queued: bool,
}
