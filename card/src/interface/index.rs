//! `org.brahman.Index`: datasets to searchable vectors.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Interface;

/// The interface.
pub const INTERFACE: Interface = Interface {
    name: "org.brahman.Index",
    idempotent: &["Create", "Search", "List", "Stats", "Delete"],
    idl: "# Chunks a dataset's rows, embeds them through the mesh, and searches the vectors.
interface org.brahman.Index

# One chunk. `start` and `end` are its byte range in the row's text, `line` its first line, from 1.
type Hit (doc_id: string, chunk: int, start: int, end: int, line: int, text: string, score: float)

type Elapsed (embed: int, search: int, total: int)

type Description (
  name: string,
  dataset: string,
  id_column: string,
  text_column: string,
  chunk_size: int,
  overlap: int,
  model: ?string,
  fingerprint: ?string,
  dim: ?int,
  generation: int,
  dataset_generation: int,
  chunks: int,
  docs: int,
  bytes: int,
  stale: bool
)

# `chunk_size` and `overlap` are in characters. The same parameters again change nothing; others are refused.
method Create(
  name: string,
  dataset: string,
  id_column: string,
  text_column: string,
  chunk_size: ?int,
  overlap: ?int
) -> (created: bool)

# Brings the index up to its dataset. Only rows whose content is new are embedded. With `more` it reports progress.
method Refresh(name: string) -> (
  phase: string,
  done: int,
  of: int,
  pre_existing_docs: ?int,
  dataset_docs: ?int,
  new_docs: ?int,
  changed_docs: ?int,
  removed_docs: ?int,
  new_chunks: ?int,
  total: ?int,
  cached: ?int,
  truncated: ?int,
  duration_s: ?float,
  stale_cleared: ?bool,
  generation: ?int,
  model: ?string
)

# Exact search by text (embedded by the index's own model, whatever the context), or by one or many vectors.
method Search(index: string, text: ?string, vector: ?[]float, vectors: ?[][]float, k: ?int, threads: ?int) -> (
  results: [][]Hit,
  generation: int,
  engine: string,
  model: string,
  provider: ?string,
  stale: bool,
  truncated: ?bool,
  elapsed_us: Elapsed
)

method List() -> (indexes: []Description)
method Stats(name: string) -> (index: Description)
method Delete(name: string) -> (deleted: bool)

error NoSuchIndex (message: string, retryable: bool, name: string)
error IndexExists (message: string, retryable: bool, name: string)
# The vectors at hand come from another model than the index's.
error ModelMismatch (message: string, retryable: bool, wanted: string, got: string)
error NotReady (message: string, retryable: bool, name: string)
error Damaged (message: string, retryable: bool, name: string)
error Busy (message: string, retryable: bool, name: string)
",
};

/// Parameters of `Create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreateIn {
    /// Index name.
    pub name: String,
    /// Dataset to follow.
    pub dataset: String,
    /// Column whose values name documents.
    pub id_column: String,
    /// Column to chunk and embed.
    pub text_column: String,
    /// Characters a chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_size: Option<u64>,
    /// Characters that neighbouring chunks share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<u64>,
}

/// Reply of `Create`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CreateOut {
    /// False if it was there already, with the same parameters.
    pub created: bool,
}

/// Parameters of `Refresh`, `Stats` and `Delete`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NameIn {
    /// Index name.
    pub name: String,
}

/// Replies of `Refresh`: progress has the first three fields, the last reply all.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
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
    /// Chunks embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_chunks: Option<u64>,
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
    /// Whether the catalog's mark was cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_cleared: Option<bool>,
    /// Generation published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Model of the vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// Parameters of `Search`; exactly one of `text`, `vector` and `vectors`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SearchIn {
    /// Index name.
    pub index: String,
    /// A query in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A query vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<Vec<f32>>,
    /// Many query vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<Vec<Vec<f32>>>,
    /// Hits a query; 10 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<u64>,
    /// Threads for this search; all cores unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
}

/// One chunk found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hit {
    /// Value of the id column.
    pub doc_id: String,
    /// Number of the chunk in its document, from 0.
    pub chunk: u64,
    /// First byte in the row's text.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// First line in the row's text, from 1.
    pub line: u64,
    /// The chunk.
    pub text: String,
    /// Inner product of unit vectors: the cosine.
    pub score: f32,
}

/// Where the time went, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Elapsed {
    /// Embedding the query.
    pub embed: u64,
    /// Scanning and ranking.
    pub search: u64,
    /// The whole call in the module.
    pub total: u64,
}

/// Reply of `Search`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SearchOut {
    /// One list a query, best first.
    pub results: Vec<Vec<Hit>>,
    /// Generation that answered.
    pub generation: u64,
    /// `exact`
    pub engine: String,
    /// Model of the vectors.
    pub model: String,
    /// Label of the module that embedded the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Whether the dataset has moved on.
    pub stale: bool,
    /// Whether the query text was longer than the model's window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<bool>,
    /// Where the time went.
    pub elapsed_us: Elapsed,
}

/// One index.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Description {
    /// Index name.
    pub name: String,
    /// Dataset it follows.
    pub dataset: String,
    /// Column whose values name documents.
    pub id_column: String,
    /// Column that is chunked and embedded.
    pub text_column: String,
    /// Characters a chunk.
    pub chunk_size: u64,
    /// Characters that neighbours share.
    pub overlap: u64,
    /// Model of the vectors; absent before the first refresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Length of the vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim: Option<u64>,
    /// Grows with every refresh that changed something.
    pub generation: u64,
    /// The dataset's generation it was last refreshed to.
    pub dataset_generation: u64,
    /// Chunks.
    pub chunks: u64,
    /// Documents.
    pub docs: u64,
    /// Bytes of the segments.
    pub bytes: u64,
    /// Whether the dataset has moved on.
    pub stale: bool,
}

/// Reply of `List`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ListOut {
    /// By name.
    pub indexes: Vec<Description>,
}

/// Reply of `Stats`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StatsOut {
    /// The index.
    pub index: Description,
}

/// Reply of `Delete`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DeleteOut {
    /// False if there was none.
    pub deleted: bool,
}
