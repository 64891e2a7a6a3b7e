//! Searching.

use brahman_card_derive::wire;

use crate::wire::fault::Fault;
use crate::wire::numbers::take_vector;
use crate::wire::parameters;

#[wire]
pub struct SearchIn {
    pub index: String,
    /// A query in words, of at least one. By words and in `hybrid`, `"a phrase"` must stand in what
    /// is found and `-word` must not, unless `literal`.
    pub text: Option<String>,
    /// Of an index of its dataset's own vectors `hybrid` takes it beside `text`.
    pub vector: Option<Vec<f32>>,
    pub vectors: Option<Vec<Vec<f32>>>,
    /// Hits a query; 10 unless said.
    pub k: Option<u64>,
    /// Candidates kept on the way; the index's own unless said.
    pub ef: Option<u64>,
    /// Which rows may be found, as in MongoDB: `{"lang": "rust", "year": {"$gte": 2020}}`.
    pub filter: Option<serde_json::Value>,
    /// `semantic` (the default), `lexical` (BM25) or `hybrid` (both, by `fusion`).
    pub mode: Option<String>,
    /// Compare with all vectors, without the graph.
    pub exact: Option<bool>,
    /// One a query, up to all cores, unless said.
    pub threads: Option<u64>,
    /// Model that the index's vectors must be of, by name or fingerprint: of another it is
    /// `ModelMismatch`.
    pub model: Option<String>,
    /// Have a reranker read the query, which must be in words, beside the foremost hits, and order
    /// them by what it says.
    pub rerank: Option<RerankStep>,
    /// How meaning and words become one list in `hybrid`; the index's own way unless said.
    pub fusion: Option<FusionChoice>,
    /// Take quotation marks and minus signs in `text` as they are; false unless said.
    pub literal: Option<bool>,
    /// Most hits of one document; as many as there are unless said.
    pub per_document: Option<u64>,
    /// Give the sentence of each hit that answers `text`; false unless said.
    pub passages: Option<bool>,
}

/// How the hits of a search are ordered anew.
#[wire(request, Eq)]
pub struct RerankStep {
    /// Model that must rerank; whichever the context offers first unless said.
    pub model: Option<String>,
    /// How many hits are found and reranked, of which the best `k` are answered; 50 unless said,
    /// and never fewer than `k`.
    pub candidates: Option<u64>,
    /// Answer in the search's own order, and say why, where nobody reranks; else that is an error.
    pub optional: Option<bool>,
}

/// How two lists are to be fused.
#[wire(request)]
pub struct FusionChoice {
    /// `weighted` (the default: by scores, each list's brought to between 0 and 1) or `rrf` (by
    /// places, reciprocal rank fusion).
    pub method: Option<String>,
    /// The share of meaning, from 0 (words alone) to 1 (meaning alone); 0.5 unless said.
    pub weight: Option<f64>,
}

/// How two lists were fused.
#[wire]
pub struct FusionUsed {
    pub method: String,
    /// The share of meaning.
    pub weight: f64,
}

impl SearchIn {
    /// Reads the parameters of a call: a single vector, their longest part, without a general
    /// parser.
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
    /// What the hits are ordered by, 1 at best: the cosine; by words the share of what a row would
    /// score that is nothing but the query's words; in `hybrid` where the hit stands in both lists,
    /// 1 if it is first in each. Of a reranked hit it is what the reranker says.
    pub score: f32,
    /// With the query, where it was compared by meaning.
    pub cosine: Option<f32>,
    /// Of the query's words, where it was found by them.
    pub bm25: Option<f32>,
    /// The headings that it stands under, or the items of source code that it is in, the outermost
    /// first.
    pub heading: Option<String>,
    /// With `passages`.
    pub passage: Option<Passage>,
    /// The score by which a hit was found that was then reranked.
    pub search_score: Option<f32>,
}

/// The sentence of a hit that has most of the query's words, and what follows it if it is short.
#[wire]
pub struct Passage {
    pub text: String,
    /// Where the query's words stand in it, in order.
    pub marks: Vec<Mark>,
}

/// Bytes of a passage.
#[wire(Copy, Eq)]
pub struct Mark {
    pub start: u64,
    /// One past the last.
    pub end: u64,
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
    /// Candidates that were kept on the way; absent where all vectors were compared, or none.
    pub ef: Option<u64>,
    /// Recall of the ten nearest that the index's own `ef` had when its graph was built; absent of
    /// few chunks, which are not measured.
    pub recall: Option<f64>,
    /// In `hybrid`.
    pub fusion: Option<FusionUsed>,
    /// What was taken for phrases, which must stand in every hit.
    pub phrases: Option<Vec<String>>,
    /// What was taken for exclusions, which stand in no hit.
    pub without: Option<Vec<String>>,
    /// Words at the end of a long query that do not count by words: the first 256 terms do. Absent
    /// if all count.
    pub words_left_out: Option<u64>,
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
    /// True while the first refresh is under way: by meaning what is embedded so far is found, by
    /// words what was read. `generation` is 0 then.
    pub partial: Option<bool>,
    /// Of a partial answer by words: documents that are searched, of `to_read`. Their chunks are
    /// cut by guessed tokens. Absent once all are cut by the model's.
    pub read: Option<u64>,
    /// Of such an answer: documents of the dataset.
    pub to_read: Option<u64>,
    /// Of a partial answer once all documents are cut: chunks that are embedded, of so many.
    pub embedded: Option<u64>,
    /// Of such an answer: all chunks that the refresh embeds.
    pub to_embed: Option<u64>,
    /// Absent if nobody asked for it.
    pub reranked: Option<RerankReport>,
    /// The dataset was deleted or renamed: what is found is of its last day, and nothing refreshes
    /// it. Absent if it is there.
    pub dataset_gone: Option<bool>,
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
    pub model: Option<String>,
    /// `lexical` and `hybrid` take the queries' words from a column `text`, of which none may be
    /// blank; `hybrid` beside the column `vector`.
    pub mode: Option<String>,
    pub fusion: Option<FusionChoice>,
    pub literal: Option<bool>,
    pub per_document: Option<u64>,
}

#[wire]
pub struct SearchBulkOut {
    pub model: String,
    pub fingerprint: String,
    pub dim: u64,
    /// Generation that answers at this moment; each batch of hits names its own.
    pub generation: u64,
    pub mock: Option<bool>,
    /// As `Search` says them at this moment, as all that follow.
    pub engine: Option<String>,
    pub mode: Option<String>,
    pub ef: Option<u64>,
    pub recall: Option<f64>,
    pub fusion: Option<FusionUsed>,
    pub stale: Option<bool>,
    pub degraded: Option<String>,
    pub rescue: Option<bool>,
    pub partial: Option<bool>,
    pub dataset_gone: Option<bool>,
}
