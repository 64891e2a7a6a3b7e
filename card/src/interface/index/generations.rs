//! Generations: what answers, what could, and how that changes.

use brahman_card_derive::wire;

use crate::interface::Progress;

/// What was measured, on how many queries.
#[wire]
pub struct Measurement {
    /// Share of the true neighbours found.
    pub recall: f64,
    /// Lower end of its 95 % interval.
    pub recall_low: f64,
    /// 95th percentile of one search, in microseconds, in the module's own process.
    pub p95_us: f64,
    /// Rows that did not find themselves.
    pub orphans: u64,
    pub queries: u64,
}

/// One generation of an index, and who answers.
#[wire]
pub struct GenerationInfo {
    pub number: u64,
    pub current: bool,
    /// `refresh`, `compaction`, `promotion`, `repair`.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// Those alive, as of `docs`.
    pub chunks: u64,
    pub docs: u64,
    /// Rows since its base was made.
    pub appended: u64,
    /// Rows that are gone and not yet removed.
    pub dead: u64,
    /// Bytes of its files.
    pub bytes: u64,
    pub engine: String,
    pub m: u64,
    pub ef_construction: u64,
    pub ef_search: u64,
    pub measured: Option<Measurement>,
    /// Whether it was promoted against its measure.
    pub forced: bool,
    /// Somebody went back to it, and it stays.
    pub pinned: Option<bool>,
    pub mock: Option<bool>,
}

#[wire]
pub struct GenerationsOut {
    /// All that can answer, the newest first.
    pub generations: Vec<GenerationInfo>,
    /// Whether the current one stays until `Unpin` or the next `Refresh`; absent if that cannot be
    /// read.
    pub pinned: Option<bool>,
    /// What could not be read, generations among it.
    pub unreadable: Option<Vec<String>>,
}

/// How a graph is built and searched.
#[wire]
pub struct Config {
    /// `flat-hnsw`, `hnsw-rs` or `exact`.
    pub engine: Option<String>,
    pub m: Option<u64>,
    pub ef_construction: Option<u64>,
    /// Candidates a search keeps; found by bisection for the target recall if absent.
    pub ef_search: Option<u64>,
    /// Of levels and order.
    pub seed: Option<u64>,
}

#[wire]
pub struct PromoteIn {
    pub name: String,
    pub generation: Option<u64>,
    /// Its id.
    pub trial: Option<String>,
    pub config: Option<Config>,
    /// Recall that the lower end of the interval must reach; the index's own, if `Create` named
    /// one, unless said. Without any the challenger may give up neither recall nor latency.
    pub target_recall: Option<f64>,
    /// Promote whatever is measured, and whatever documents are lost; it is recorded.
    pub force: Option<bool>,
    /// Name or id of the set of queries; `default` unless said.
    pub eval: Option<String>,
}

#[wire(phase)]
pub enum PromoteOut {
    /// The last.
    Done(PromoteSummary),
    /// `build` or `measure`.
    Progress(Progress),
}

/// What was measured, and what followed from it.
#[wire]
pub struct PromoteSummary {
    /// Rows in this phase.
    pub done: u64,
    pub of: u64,
    /// Of the last reply alone, as all that follow: whether the new generation answers now.
    pub promoted: bool,
    /// `better`, `inconclusive: …` or `refused: …`.
    pub verdict: String,
    pub generation: u64,
    /// The new one.
    pub challenger: Measurement,
    /// The one before, in the same run.
    pub champion: Measurement,
    /// What is gained and lost, in words; absent if nothing was measured.
    pub change: Option<String>,
    /// Documents that the challenger does not have as they are now.
    pub lost_docs: Option<u64>,
    /// Id of the set of queries; absent if nothing was measured.
    pub eval: Option<String>,
}

#[wire]
pub struct RollbackIn {
    pub name: String,
    /// Where to; the parent of the current one unless said.
    pub generation: Option<u64>,
}

#[wire]
pub struct RollbackOut {
    pub generation: u64,
    /// The one that did.
    pub previous: u64,
    /// It stays until `Unpin` or the next `Refresh`.
    pub pinned: Option<bool>,
}

#[wire]
pub struct UnpinOut {
    /// False if it was not pinned.
    pub unpinned: bool,
    pub generation: u64,
}

#[wire]
pub struct MoveIn {
    pub name: String,
    pub bucket: String,
}

#[wire(phase)]
pub enum MoveOut {
    /// The last.
    Done(MoveSummary),
    /// `copy`.
    Progress(Progress),
}

/// Where an index lives now.
#[wire]
pub struct MoveSummary {
    /// Bytes.
    pub done: u64,
    pub of: u64,
    /// Of the last reply alone, as all that follow: false if it lived there already.
    pub moved: bool,
    /// Where it lives now.
    pub bucket: String,
    /// Where it lived.
    pub previous: String,
    /// Copied in all.
    pub bytes: u64,
}
