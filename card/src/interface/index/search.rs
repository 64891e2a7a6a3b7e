//! Searching.

use brahman_card_derive::wire;

use crate::wire::fault::Fault;
use crate::wire::numbers::take_vector;
use crate::wire::parameters;

#[wire]
pub struct SearchIn {
    pub index: String,
    /// A query in words.
    pub text: Option<String>,
    pub vector: Option<Vec<f32>>,
    pub vectors: Option<Vec<Vec<f32>>>,
    /// Hits a query; 10 unless said.
    pub k: Option<u64>,
    /// Candidates kept on the way; the index's own unless said.
    pub ef: Option<u64>,
    /// Which rows may be found, as in MongoDB: `{"lang": "rust", "year": {"$gte": 2020}}`.
    pub filter: Option<serde_json::Value>,
    /// `semantic` (the default), `lexical` (BM25) or `hybrid` (both, by reciprocal rank).
    pub mode: Option<String>,
    /// Compare with all vectors, without the graph.
    pub exact: Option<bool>,
    /// One a query, up to all cores, unless said.
    pub threads: Option<u64>,
    /// Model that the index's vectors must be of, by name or fingerprint: of another it is `ModelMismatch`.
    pub model: Option<String>,
    /// Have a reranker read the query, which must be in words, beside the foremost hits, and order them by what it says.
    pub rerank: Option<RerankStep>,
}

/// How the hits of a search are ordered anew.
#[wire(request, Eq)]
pub struct RerankStep {
    /// Model that must rerank; whichever the context offers first unless said.
    pub model: Option<String>,
    /// How many hits are found and reranked, of which the best `k` are answered; 50 unless said, and never fewer than `k`.
    pub candidates: Option<u64>,
    /// Answer in the search's own order, and say why, where nobody reranks; else that is an error.
    pub optional: Option<bool>,
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

/// A chunk that was found, and where it stands.
#[wire]
pub struct Hit {
    pub doc_id: String,
    /// Its number in the document, from 0.
    pub chunk: u64,
    /// Its first byte in the row's text, as `end` is one past its last.
    pub start: u64,
    pub end: u64,
    /// Its first line there, from 1.
    pub line: u64,
    pub text: String,
    /// What the hits are ordered by: the cosine, BM25, the sum of reciprocal ranks, or what the reranker says.
    pub score: f32,
    /// The score by which a hit was found that was then reranked.
    pub search_score: Option<f32>,
}

/// A hit that the reranker gave no score, and that is therefore not among the hits.
#[wire(Eq)]
pub struct UnrankedHit {
    pub doc_id: String,
    pub chunk: u64,
    /// Name of the error.
    pub error: String,
    pub message: String,
}

/// What became of the wish to have hits reranked.
#[wire(Eq)]
pub struct RerankReport {
    /// Whether the hits are in the reranker's order.
    pub done: bool,
    /// How many hits it was given.
    pub candidates: u64,
    /// Absent if nothing was reranked, as `fingerprint` and `sigmoid` are.
    pub model: Option<String>,
    pub fingerprint: Option<String>,
    /// Label of the module that reranked.
    pub provider: Option<String>,
    /// Whether scores are between 0 and 1.
    pub sigmoid: Option<bool>,
    /// Whether the scores were made up by a mock; absent if they were not.
    pub mock: Option<bool>,
    /// How many hits were not read whole.
    pub truncated: u64,
    /// Absent if every candidate has a score.
    pub failed: Option<Vec<UnrankedHit>>,
    /// Name of the error because of which nothing was reranked, and its message.
    pub error: Option<String>,
    pub message: Option<String>,
}

/// Where the time went, in microseconds.
#[wire]
pub struct Elapsed {
    /// Embedding the query's text, in microseconds.
    pub embed: u64,
    /// Finding the rows that the filter lets through.
    pub filter: u64,
    /// Searching and ranking, in microseconds.
    pub search: u64,
    /// Fetching the hits' texts.
    pub fetch: u64,
    /// The whole call in the module.
    pub total: u64,
    /// Waiting for the reranker; absent if nobody asked for one.
    pub rerank: Option<u64>,
}

#[wire]
pub struct SearchOut {
    /// One list a query, best first.
    pub results: Vec<Vec<Hit>>,
    pub generation: u64,
    /// The engine that made the graph, or `exact` if all vectors were compared.
    pub engine: String,
    pub mode: String,
    pub model: String,
    /// Label of the module that embedded the query.
    pub provider: Option<String>,
    /// The dataset has moved on.
    pub stale: bool,
    /// Whether the query text was longer than the model's window.
    pub truncated: Option<bool>,
    /// Why another generation than the current one answers.
    pub degraded: Option<String>,
    /// Whether files of the generation that answers had to be put back from the bucket `rescue`.
    pub rescue: bool,
    pub elapsed_us: Elapsed,
    pub mock: Option<bool>,
    /// True while the first refresh is under way: by meaning what is embedded so far is found, by words what was read. `generation` is
    /// 0 then.
    pub partial: Option<bool>,
    /// Of a partial answer: chunks that are embedded, of so many.
    pub embedded: Option<u64>,
    /// Of a partial answer: all chunks that the refresh embeds.
    pub to_embed: Option<u64>,
    /// Absent if nobody asked for it.
    pub reranked: Option<RerankReport>,
}

#[wire]
pub struct GetIn {
    pub index: String,
    pub doc_id: String,
}

#[wire]
pub struct GetOut {
    /// In order; `score` is 0.
    pub chunks: Vec<Hit>,
    pub generation: u64,
}

#[wire]
pub struct SearchBulkIn {
    pub index: String,
    /// As in `Search`, as all that follow.
    pub k: Option<u64>,
    pub ef: Option<u64>,
    pub filter: Option<serde_json::Value>,
    pub exact: Option<bool>,
}

#[wire]
pub struct SearchBulkOut {
    pub model: String,
    pub fingerprint: String,
    pub dim: u64,
    /// Generation that answers at this moment; each batch of hits names its own.
    pub generation: u64,
    pub mock: Option<bool>,
}
