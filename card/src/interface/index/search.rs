//! Searching.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::fault::Fault;
use crate::wire::numbers::take_vector;
use crate::wire::parameters;

/// Parameters of `Search`; exactly one of `text`, `vector` and `vectors`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
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
    /// Candidates kept on the way; the index's own unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef: Option<u64>,
    /// Which rows may be found, as in MongoDB: `{"lang": "rust", "year": {"$gte": 2020}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<serde_json::Value>,
    /// `semantic` (the default), `lexical` (BM25) or `hybrid` (both, by reciprocal rank).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Compare all vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// Threads for this search; one a query, up to all cores, unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
}

impl SearchIn {
    /// Reads the parameters of a call: a single vector, their longest part, without a general parser.
    ///
    /// # Errors
    /// As [`parameters::read`].
    pub fn read(json: &[u8]) -> Result<Self, Fault> {
        if let Some((vector, rest)) = take_vector(json, "vector")
            && let Ok(ask) = serde_json::from_slice(&rest)
        {
            return Ok(Self { vector: Some(vector), ..ask });
        }
        parameters::read(json)
    }
}

/// One chunk found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// What the hits are ordered by: the cosine, BM25, or the sum of reciprocal ranks.
    pub score: f32,
}

/// Where the time went, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Elapsed {
    /// Embedding the query.
    pub embed: u64,
    /// Finding the rows that the filter lets through.
    pub filter: u64,
    /// Searching and ranking.
    pub search: u64,
    /// Fetching the hits' texts.
    pub fetch: u64,
    /// The whole call in the module.
    pub total: u64,
}

/// Reply of `Search`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SearchOut {
    /// One list a query, best first.
    pub results: Vec<Vec<Hit>>,
    /// Generation that answered.
    pub generation: u64,
    /// The engine that made the graph, or `exact` if all vectors were compared.
    pub engine: String,
    /// `semantic`, `lexical` or `hybrid`.
    pub mode: String,
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
    /// Why another generation than the current one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// Whether files of the generation that answers had to be put back from the bucket `rescue`.
    pub rescue: bool,
    /// Where the time went.
    pub elapsed_us: Elapsed,
    /// Whether its vectors were made up by a mock; absent if they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
}

/// Parameters of `Get`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetIn {
    /// Index name.
    pub index: String,
    /// Value of the id column.
    pub doc_id: String,
}

/// Reply of `Get`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GetOut {
    /// The document's chunks in order; `score` is 0.
    pub chunks: Vec<Hit>,
    /// Generation that answered.
    pub generation: u64,
}

/// Parameters of `SearchBulk`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchBulkIn {
    /// Index name.
    pub index: String,
    /// Hits a query; 10 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<u64>,
    /// Candidates kept on the way; the index's own unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef: Option<u64>,
    /// Which rows may be found, as in `Search`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<serde_json::Value>,
    /// Compare all vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
}

/// Confirming reply of `SearchBulk`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SearchBulkOut {
    /// Model of the vectors.
    pub model: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Length of the vectors.
    pub dim: u64,
    /// Generation that answers at this moment; each batch of hits names its own.
    pub generation: u64,
    /// Whether its vectors were made up by a mock; absent if they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
}
