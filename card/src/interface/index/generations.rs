//! Generations: what answers, what could, and how that changes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was measured, on how many queries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measured {
    /// Share of the true neighbours found.
    pub recall: f64,
    /// Lower end of its 95 % interval.
    pub recall_low: f64,
    /// 95th percentile of one search, in microseconds.
    pub p95_us: f64,
    /// Rows that did not find themselves.
    pub orphans: u64,
    /// Queries asked.
    pub queries: u64,
}

/// One generation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GenerationInfo {
    /// Its number.
    pub number: u64,
    /// Whether it answers.
    pub current: bool,
    /// `refresh`, `compaction`, `promotion`, `repair`.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// Chunks alive.
    pub chunks: u64,
    /// Documents alive.
    pub docs: u64,
    /// Rows since its base was made.
    pub appended: u64,
    /// Rows that are gone and not yet removed.
    pub dead: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Engine.
    pub engine: String,
    /// Neighbours a node.
    pub m: u64,
    /// Candidates looked at for each node.
    pub ef_construction: u64,
    /// Candidates a search keeps.
    pub ef_search: u64,
    /// If it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// Whether it was promoted against its measure.
    pub forced: bool,
    /// Somebody went back to it, and it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// Whether its vectors were made up by a mock; absent if they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
}

/// Reply of `Generations`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GenerationsOut {
    /// The newest first.
    pub generations: Vec<GenerationInfo>,
    /// Whether the current one stays until `Unpin` or the next `Refresh`; absent if that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// What could not be read, generations among it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<Vec<String>>,
}

/// How a graph is built and searched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// `flat-hnsw`, `hnsw-rs` or `exact`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Neighbours a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub m: Option<u64>,
    /// Candidates looked at for each node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef_construction: Option<u64>,
    /// Candidates a search keeps; found by bisection for the target recall if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef_search: Option<u64>,
    /// Of levels and order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// Parameters of `Promote`; a generation that is there, or the configuration of a trial, of `config`, or of the best trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromoteIn {
    /// Index name.
    pub name: String,
    /// A generation that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Id of a trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<String>,
    /// A configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Config>,
    /// Recall that the lower end of the interval must reach; 0.95 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_recall: Option<f64>,
    /// Promote whatever is measured; it is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}

/// Replies of `Promote`: progress has the first three fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PromoteOut {
    /// `build`, `measure` or `done`.
    pub phase: String,
    /// Rows done in this phase.
    pub done: u64,
    /// Of how many.
    pub of: u64,
    /// Whether the generation answers now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<bool>,
    /// `better`, `inconclusive: …` or `refused: …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Generation that answers now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What was measured of the new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenger: Option<Measured>,
    /// Of the one before, in the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub champion: Option<Measured>,
}

/// Parameters of `Rollback`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackIn {
    /// Index name.
    pub name: String,
    /// Where to; the parent of the current one unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// Reply of `Rollback`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RollbackOut {
    /// Generation that answers now.
    pub generation: u64,
    /// The one that did.
    pub previous: u64,
    /// It stays until `Unpin` or the next `Refresh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
}

/// Reply of `Unpin`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnpinOut {
    /// False if it was not pinned.
    pub unpinned: bool,
    /// Generation that answers.
    pub generation: u64,
}

/// Parameters of `Move`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveIn {
    /// Index name.
    pub name: String,
    /// Bucket to live in.
    pub bucket: String,
}

/// Replies of `Move`: progress has the first three fields, the last reply all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MoveOut {
    /// `copy` or `done`.
    pub phase: String,
    /// Bytes copied.
    pub done: u64,
    /// Bytes of the generations.
    pub of: u64,
    /// False if it lived there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<bool>,
    /// Where it lives now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Where it lived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Bytes copied in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}
