//! Runs: where they write, what they commit, and what became of them.

use brahman_card_derive::wire;

use super::{Column, Object, PiiReport, Watermark};

#[wire]
pub struct CommitIn {
    pub name: String,
    /// ULID of the run.
    pub run_id: String,
    /// All of the new generation.
    pub objects: Vec<Object>,
    pub columns: Vec<Column>,
    /// What was read; never a user name or a password.
    pub inputs: Vec<String>,
    pub producer: String,
    /// Absent if it was not looked for.
    pub pii: Option<PiiReport>,
    /// Of a table that is read by and by.
    pub watermark: Option<Watermark>,
    /// The generation that this builds on, 0 for none: another is refused.
    pub expect: Option<u64>,
    /// Its run; where both are known, this decides.
    pub expect_run: Option<String>,
    pub mock: Option<bool>,
    /// Label of the mock that made it.
    pub maker: Option<String>,
}

#[wire]
pub struct CommitOut {
    pub generation: u64,
    /// Indexes that are older now.
    pub stale: Vec<String>,
    /// Absent where there is no bucket `rescue`.
    pub copies: Option<Copies>,
}

/// How the copies in `rescue` stand.
#[wire(Eq)]
pub struct Copies {
    /// Objects, of all datasets, that have yet to be copied.
    pub pending: u64,
    /// Those of them that failed when last tried.
    pub failed: u64,
    /// Why the first of them failed.
    pub why: Option<String>,
}

#[wire]
pub struct LocationIn {
    pub name: String,
    /// ULID of the run.
    pub run_id: String,
    /// Who asks, so that its unfinished runs can be told.
    pub producer: Option<String>,
    /// Where the dataset lies, `primary` at first, unless said.
    pub bucket: Option<String>,
    pub mock: Option<bool>,
}

#[wire]
pub struct LocationOut {
    pub bucket: String,
    /// Keys start with this.
    pub key_prefix: String,
    /// URLs start with this.
    pub url_prefix: String,
    /// Absolute path of the directory, which is made.
    pub path: String,
}

/// Parameters of `Abandon`: one of the first two.
#[wire]
pub struct AbandonIn {
    pub run_id: Option<String>,
    /// Or all unfinished runs of a producer.
    pub producer: Option<String>,
    /// Why; never a password.
    pub reason: String,
    /// Somebody wanted it so.
    pub cancelled: Option<bool>,
    /// Runs of mocks, or of others; of both unless said.
    pub mock: Option<bool>,
}

#[wire]
pub struct AbandonOut {
    pub abandoned: u64,
    /// Which they were, without those of datasets that a profile hides; absent where there is none.
    pub runs: Option<Vec<AbandonedRun>>,
}

/// A run that was given up.
#[wire(Eq)]
pub struct AbandonedRun {
    pub run_id: String,
    pub dataset: String,
    /// Unix time at which it last began, in milliseconds; 0 if that is not known.
    pub started_ms: u64,
}

#[wire]
pub struct LineageIn {
    pub name: String,
    /// The last so many; 100 unless said.
    pub limit: Option<u64>,
    pub mock: Option<bool>,
}

#[wire]
pub struct LineageOut {
    /// OpenLineage run events, the oldest first.
    pub events: Vec<serde_json::Value>,
}
