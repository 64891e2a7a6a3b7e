//! Making, filling, describing and mending indexes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Parameters of `Create`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateIn {
    /// Index name.
    pub name: String,
    /// Dataset to follow.
    pub dataset: String,
    /// Column whose values name documents.
    pub id_column: String,
    /// Column to chunk and embed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_column: Option<String>,
    /// Several columns, joined by `template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_columns: Option<Vec<String>>,
    /// How they are joined: `{title}\n{body}`; one a line unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Column of vectors, used as they are: nothing is embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector_column: Option<String>,
    /// Columns that searches can filter by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_columns: Option<Vec<String>>,
    /// Characters a chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_size: Option<u64>,
    /// Characters that neighbouring chunks share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<u64>,
    /// `flat-hnsw` (the default), `hnsw-rs` or `exact`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Name of the model that must embed; whichever the context has unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Neighbours a node of the graph; 16 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub m: Option<u64>,
    /// Candidates looked at for each node; 100 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef_construction: Option<u64>,
    /// Candidates a search keeps; 64 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef_search: Option<u64>,
    /// Home bucket, one that is a folder; `primary` unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
}

/// Reply of `Create`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CreateOut {
    /// False if it was there already, with the same parameters.
    pub created: bool,
}

/// Parameters of the methods that only name an index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NameIn {
    /// Index name.
    pub name: String,
}

/// A row that could not be used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Skipped {
    /// Value of the id column.
    pub doc_id: String,
    /// Why.
    pub reason: String,
}

/// Parameters of `Migrate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateIn {
    /// Index name.
    pub name: String,
    /// Model to embed with; whichever the context offers first unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Give up real vectors for those that a mock makes up: refused unless it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_mock: Option<bool>,
}

/// Replies of `Refresh`: progress has the first three fields, the last reply all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RefreshOut {
    /// `read`, `embed`, `write` or `done`.
    pub phase: String,
    /// Chunks done in this phase.
    pub done: u64,
    /// Of how many.
    pub of: u64,
    /// Documents in the index before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_existing_docs: Option<u64>,
    /// Documents in the dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_docs: Option<u64>,
    /// Documents the index did not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_docs: Option<u64>,
    /// Documents whose content changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_docs: Option<u64>,
    /// Documents that are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_docs: Option<u64>,
    /// Documents without text: they have no chunks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_docs: Option<u64>,
    /// Documents whose vector cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_docs: Option<u64>,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Vec<Skipped>>,
    /// Chunks added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_chunks: Option<u64>,
    /// Of the new chunks, those whose text the index had already embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<u64>,
    /// Of the new chunks, those that a refresh which was cut off had embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<u64>,
    /// Chunks in the index now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Of the new chunks, those the provider had in its cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<u64>,
    /// Of the new chunks, those longer than the model's window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<u64>,
    /// Whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// Bytes of the files of the new generation that are its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_written: Option<u64>,
    /// Whether the catalog's mark was cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_cleared: Option<bool>,
    /// Generation published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Model of the vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Vectors of a refresh that was cut off that were damaged, and embedded again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_lost: Option<u64>,
    /// Filter columns whose type is another than in older rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub converted: Option<Vec<Converted>>,
    /// Whether the index had been rolled back, and follows its dataset again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpinned: Option<bool>,
    /// Why old files stay: what could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<String>,
    /// Whether its vectors were made up by a mock; absent if they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
    /// Keys of the dataset's objects that were read from their copies in `rescue`, for their bucket is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrowed: Option<Vec<String>>,
}

/// A filter column whose type changed: the newest counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Converted {
    /// Its name.
    pub column: String,
    /// Arrow type in older rows.
    pub from: String,
    /// Arrow type now.
    pub to: String,
    /// Values that the new type cannot hold and that became NULL.
    pub nulls_made: u64,
}

/// What of an index is in memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Caches {
    /// Generations: what answers, and those that somebody still reads.
    pub generations: u64,
    /// Bytes of codes and graphs.
    pub graph_bytes: u64,
    /// Bytes of vectors and texts that are mapped, and in memory as far as they were touched.
    pub mapped_bytes: u64,
    /// Bytes of what was appended since the base was made.
    pub appended_bytes: u64,
    /// Bytes of filter columns that were read.
    pub columns_bytes: u64,
    /// Words: `closed`, `disk` or `memory`.
    pub words: String,
    /// Times that words or columns were at hand.
    pub hits: u64,
    /// Times that they had to be opened.
    pub misses: u64,
    /// Files that were compared with their checksums since the module began.
    pub verified_files: u64,
    /// Times that this spared a reading.
    pub verified_hits: u64,
    /// Times that it did not.
    pub verified_misses: u64,
}

/// One index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Description {
    /// Index name.
    pub name: String,
    /// Dataset it follows.
    pub dataset: String,
    /// Column whose values name documents.
    pub id_column: String,
    /// Column that is chunked and embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_column: Option<String>,
    /// Column whose vectors are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector_column: Option<String>,
    /// Columns that searches can filter by.
    pub filter_columns: Vec<String>,
    /// Characters a chunk.
    pub chunk_size: u64,
    /// Characters that neighbours share.
    pub overlap: u64,
    /// Home bucket.
    pub bucket: String,
    /// Engine.
    pub engine: String,
    /// Model of the vectors; absent before the first refresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Length of the vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim: Option<u64>,
    /// Generation that answers.
    pub generation: u64,
    /// The dataset's generation it was last refreshed to.
    pub dataset_generation: u64,
    /// Chunks.
    pub chunks: u64,
    /// Documents.
    pub docs: u64,
    /// Rows since the base was made.
    pub appended: u64,
    /// Rows that are gone and not yet removed.
    pub dead: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes in memory when everything has been touched.
    pub memory_bytes: u64,
    /// Neighbours a node.
    pub m: u64,
    /// Candidates looked at for each node.
    pub ef_construction: u64,
    /// Candidates a search keeps.
    pub ef_search: u64,
    /// Whether the dataset has moved on.
    pub stale: bool,
    /// Why another generation than the current one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// `refresh`, `compaction` or another work that is going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<String>,
    /// If what answers was promoted: whether live searches find what they should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowInfo>,
    /// Whether it was rolled back and stays there until `Unpin` or the next `Refresh`; absent if that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// The run of the dataset's generation it was last refreshed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_run: Option<String>,
    /// Why old files stay: what could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<String>,
    /// What of it is in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caches: Option<Caches>,
    /// Whether its vectors were made up by a mock; absent if they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
}

/// Reply of `List`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListOut {
    /// By name.
    pub indexes: Vec<Description>,
}

/// Reply of `Stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatsOut {
    /// The index.
    pub index: Description,
}

/// Reply of `Delete`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeleteOut {
    /// False if there was none.
    pub deleted: bool,
}

/// Parameters of `Doctor`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DoctorIn {
    /// Index name.
    pub name: String,
    /// Build what is damaged again from the segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<bool>,
}

/// Reply of `Doctor`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DoctorOut {
    /// Whether nothing is wrong, or nothing any more.
    pub healthy: bool,
    /// What was found, naming files.
    pub problems: Vec<String>,
    /// Whether a new generation was made.
    pub repaired: bool,
    /// Rows that do not find themselves.
    pub orphans: u64,
    /// Files compared with their checksums.
    pub files: u64,
    /// Generation that answers now.
    pub generation: u64,
    /// What is no damage of what answers: records that were put aside, files that stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Vec<String>>,
    /// What could not be mended and was renamed, so that it stands in nobody's way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put_aside: Option<Vec<String>>,
}

/// Replies of `Compact`: progress has the first three fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CompactOut {
    /// `build` or `done`.
    pub phase: String,
    /// Rows done.
    pub done: u64,
    /// Of how many.
    pub of: u64,
    /// False if there was nothing to fold in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compacted: Option<bool>,
    /// Generation that answers now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// Live searches compared with exact ones since a promotion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShadowInfo {
    /// `open`, `kept`, or `broken`: then the generation before answers again.
    pub verdict: String,
    /// Searches compared.
    pub checked: u64,
    /// Their mean recall.
    pub recall: f64,
    /// The recall that was promised.
    pub target: f64,
}
