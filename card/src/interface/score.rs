//! `org.brahman.Score`: log-probabilities, and which memories a model's answers depend on. Here are
//! the methods; what is scored and what comes of it have a file each.

mod conversation;
mod figures;
pub mod file;

use brahman_card_derive::wire;
use serde_json::Value;

use super::Progress;
use super::embed::Device;
pub use conversation::{ChatTemplate, Conversation, Entry, Message, Template, TemplateUse};
pub use figures::{Cell, Finetune, MemoryScore, Response, ResultStore, Row, Token, Weight};

interface! {
    /// How much a language model's answers in a conversation depend on the memories in it: the
    /// log-probability of each response with everything in context, less that with a memory
    /// removed. All figures are natural logarithms (nats).
    ///
    /// What is scored is exactly one of `conversation`, `messages` and `path` (a JSON or JSONL file
    /// of the caller's own with either). It is put into tokens by the model's own chat template, or
    /// another (`chat_template`); of a model that has none, or with a `template`, by a header and a
    /// footer around each text. A call with a higher `priority` goes first. `fresh`: use nothing
    /// that is on disk.
    ///
    /// Of every answer: `fingerprint` is what figures depend on, `device` cpu, cuda:N, or the
    /// server's address; `tokens` are those of the conversation, `tokens_forwarded` went through
    /// the model, `tokens_reused` had their state shared; `noise_floor` is the largest difference
    /// between two scorings of the same; `elapsed_us` is the time in the provider, waiting
    /// included.
    "org.brahman.Score"
    methods {
        Info() -> InfoOut: idempotent, reads;
        /// The log-probability of each token given those before it; null for a first token that
        /// nothing precedes. Of a text or of tokens.
        Logprobs(LogprobsIn) -> LogprobsOut: idempotent, whole_dataset, reads;
        /// Removes each memory in turn and tells what each response loses. With `more` a reply a
        /// memory as it is done (`phase` row), then the summary (`phase` done); without, one reply
        /// that has the `rows`. `groups` adds rows without several memories at once, which shows
        /// what copies of one fact hide. `approximate`: a cheap model screens all memories, and
        /// only so many of the foremost are scored by the model itself, up to the last response
        /// that the screening saw them touch; the others' rows are the cheap model's and say so. A
        /// row that failed has an `error` and does not lose the others.
        ScoreMatrix(MatrixIn) -> MatrixOut: idempotent, whole_dataset, reads;
        /// One memory, from where it first appears to the `window`th response after it.
        /// `divergence` and `delta` are sums; 0 if it is not `present` or no response follows.
        ScoreMemory(MemoryIn) -> MemoryOut: idempotent, whole_dataset, reads;
        /// Memories that end within the first 60 % of the tokens of `conversation` itself and were
        /// not scored for `max_age_s`, or whose text has changed since: those never scored and
        /// those longest ago first. Each is on disk before it is told: after a crash nothing is
        /// scored twice. A memory's weight belongs to a `namespace`, an agent's; another uid's is
        /// refused.
        ScoreIncremental(IncrementalIn) -> IncrementalOut: idempotent, whole_dataset;
        /// The last `count` entries behind system, identity and journal; of them the assistant's,
        /// by how much they lose when all memories among them are removed. `whole`: what stands
        /// before them stays, and its memories are removed too.
        ScoreFinetune(FinetuneIn) -> FinetuneOut: idempotent, whole_dataset, reads;
        /// The weights of a namespace's memories, by key.
        Weights(WeightsIn) -> WeightsOut: idempotent, reads;
        /// Forgets weights: of these keys, or all. The memories are due again.
        ResetWeights(ResetWeightsIn) -> ResetWeightsOut: idempotent;
    }
    errors {
        /// The conversation has more tokens than the model's window.
        ContextTooLong { tokens: u64, window: u64 }
        /// A token id is not in the model's vocabulary.
        NoSuchToken { token: u64, vocabulary: u64 }
        /// The model's output was not finite.
        BadOutput {}
        /// The budget does not hold even one pass.
        OutOfBudget { needed: u64, budget: u64 }
        /// The device's memory does not hold the conversation's tokens, of which there are so many.
        OutOfMemory { tokens: u64 }
        /// The server behind this provider failed, or answered what cannot be right.
        ServerFailed {}
        /// The file cannot be read for this caller.
        FileUnreadable { path: String }
    }
}

#[wire]
pub struct InfoOut {
    pub model: String,
    pub fingerprint: String,
    /// How many tokens there are.
    pub vocabulary: u64,
    /// How many of them a conversation may have.
    pub window: u64,
    pub mock: bool,
    pub device: Device,
    /// Inference library and version.
    pub runtime: Option<String>,
    /// Memory it may take beyond the weights.
    pub budget_bytes: Option<u64>,
    /// How many calls wait for their turn.
    pub queue: u64,
    pub kept: Option<ResultStore>,
    /// Of the server behind it.
    pub dialect: Option<String>,
}

#[wire]
pub struct LogprobsIn {
    pub text: Option<String>,
    pub tokens: Option<Vec<u32>>,
    pub priority: Option<i64>,
}

#[wire]
pub struct LogprobsOut {
    pub logprobs: Vec<Option<f32>>,
    pub tokens: Vec<u32>,
    /// Text of each of the tokens.
    pub pieces: Vec<String>,
    /// Sum of all but the nulls.
    pub total: f64,
    pub tokens_forwarded: u64,
    pub tokens_reused: u64,
    pub model: String,
    pub fingerprint: String,
    pub device: String,
    pub mock: bool,
    pub elapsed_us: u64,
}

/// Parameters of `ScoreMatrix`: what to score, and how exactly.
#[wire]
pub struct MatrixIn {
    pub conversation: Option<Conversation>,
    pub messages: Option<Vec<Message>>,
    pub path: Option<String>,
    /// Which of several conversations in the file, a JSON object a line; counted from 1.
    pub line: Option<u64>,
    /// What the model may call, beside `messages`.
    pub tools: Option<Vec<Value>>,
    pub template: Option<Template>,
    pub chat_template: Option<ChatTemplate>,
    /// Keys of memories to remove together, beside each alone.
    pub groups: Option<Vec<Vec<String>>>,
    /// How many tokens to name a cell.
    pub top: Option<u64>,
    /// How many of the foremost to score exactly.
    pub approximate: Option<u64>,
    pub fresh: Option<bool>,
    pub priority: Option<i64>,
}

/// Replies of `ScoreMatrix`.
#[wire(phase)]
pub enum MatrixOut {
    /// One memory, or group, is done.
    Row(MatrixRow),
    /// The last.
    Done(MatrixSummary),
    /// None that is known.
    Progress(Progress),
}

/// One row of a matrix.
#[wire]
pub struct MatrixRow {
    /// Rows.
    pub done: u64,
    pub of: u64,
    #[serde(flatten)]
    pub row: Row,
}

/// What a matrix is of, and what it took.
#[wire]
pub struct MatrixSummary {
    /// Rows.
    pub done: u64,
    pub of: u64,
    /// The last one, of a provider that has no reply of its own for it: ours have.
    #[serde(flatten)]
    pub row: Option<Row>,
    /// All of them, if the call was not made with `more`.
    pub rows: Option<Vec<Row>>,
    /// The responses with everything in context.
    pub scored: Vec<Response>,
    pub memories: u64,
    pub responses: u64,
    /// Rows that did.
    pub failed: u64,
    pub tokens: u64,
    pub tokens_forwarded: u64,
    pub tokens_reused: u64,
    /// What one full pass a row and one more would forward.
    pub tokens_naive: u64,
    pub noise_floor: f64,
    /// What was passed over, and why.
    pub warnings: Option<Vec<String>>,
    /// How the conversation was put into tokens.
    pub chat_template: Option<TemplateUse>,
    pub model: String,
    pub fingerprint: String,
    pub device: String,
    pub mock: bool,
    pub elapsed_us: u64,
}

/// Parameters of `ScoreMemory`: a conversation and one key in it.
#[wire]
pub struct MemoryIn {
    pub conversation: Option<Conversation>,
    pub messages: Option<Vec<Message>>,
    pub path: Option<String>,
    /// Which of several conversations in the file, a JSON object a line; counted from 1.
    pub line: Option<u64>,
    /// What the model may call, beside `messages`.
    pub tools: Option<Vec<Value>>,
    pub template: Option<Template>,
    pub chat_template: Option<ChatTemplate>,
    pub key: String,
    /// Responses after it to look at; 50 unless said.
    pub window: Option<u64>,
    /// How many tokens to name a cell.
    pub top: Option<u64>,
    pub fresh: Option<bool>,
    pub priority: Option<i64>,
}

/// Reply of `ScoreMemory`: what the responses lose without it.
#[wire]
pub struct MemoryOut {
    pub key: String,
    /// Whether the conversation has it.
    pub present: bool,
    /// How many responses were looked at.
    pub responses: u64,
    pub delta: f64,
    /// Of the parts above 0.
    pub divergence: f64,
    /// Mean delta of a token.
    pub per_token: f64,
    /// One for each response that was looked at.
    pub cells: Vec<Cell>,
    pub tokens: u64,
    pub tokens_forwarded: u64,
    pub tokens_reused: u64,
    pub noise_floor: f64,
    pub chat_template: Option<TemplateUse>,
    pub model: String,
    pub fingerprint: String,
    pub device: String,
    pub mock: bool,
    pub elapsed_us: u64,
}

/// Parameters of `ScoreIncremental`: a conversation, and what is due.
#[wire]
pub struct IncrementalIn {
    pub conversation: Option<Conversation>,
    pub messages: Option<Vec<Message>>,
    pub path: Option<String>,
    /// Which of several conversations in the file, a JSON object a line; counted from 1.
    pub line: Option<u64>,
    /// What the model may call, beside `messages`.
    pub tools: Option<Vec<Value>>,
    pub template: Option<Template>,
    pub chat_template: Option<ChatTemplate>,
    /// Those scored within are not due; 86,400 unless said.
    pub max_age_s: Option<u64>,
    /// Responses after it to look at.
    pub window: Option<u64>,
    /// How many memories are scored at most.
    pub limit: Option<u64>,
    /// Whose weights; the caller's own unless said: `default` for the mesh's own uid and root,
    /// `uid-N` for another.
    pub namespace: Option<String>,
    pub priority: Option<i64>,
}

/// Replies of `ScoreIncremental`.
#[wire(phase)]
pub enum IncrementalOut {
    /// One memory is done, and on disk.
    Row(IncrementalRow),
    /// The last.
    Done(IncrementalSummary),
    /// None that is known.
    Progress(Progress),
}

/// One memory that was due.
#[wire]
pub struct IncrementalRow {
    /// Memories, as `of`.
    pub done: u64,
    pub of: u64,
    #[serde(flatten)]
    pub row: MemoryScore,
}

/// What was due, and what it took.
#[wire]
pub struct IncrementalSummary {
    pub done: u64,
    pub of: u64,
    /// The last one, of a provider that has no reply of its own for it: ours have.
    #[serde(flatten)]
    pub row: Option<MemoryScore>,
    /// All of them, if the call was not made with `more`.
    pub rows: Option<Vec<MemoryScore>>,
    /// Memories.
    pub due: u64,
    /// Those scored within `max_age_s`.
    pub fresh: u64,
    /// Those that end behind the first 60 % of the conversation's own tokens, or have no response
    /// after them.
    pub late: u64,
    pub failed: u64,
    /// Whose weights they are.
    pub namespace: Option<String>,
    pub tokens: u64,
    pub tokens_forwarded: u64,
    pub tokens_reused: u64,
    pub noise_floor: f64,
    pub chat_template: Option<TemplateUse>,
    pub model: String,
    pub fingerprint: String,
    pub device: String,
    pub mock: bool,
    pub elapsed_us: u64,
}

/// Parameters of `ScoreFinetune`: a conversation, and how far back.
#[wire]
pub struct FinetuneIn {
    pub conversation: Option<Conversation>,
    pub messages: Option<Vec<Message>>,
    pub path: Option<String>,
    /// Which of several conversations in the file, a JSON object a line; counted from 1.
    pub line: Option<u64>,
    /// What the model may call, beside `messages`.
    pub tools: Option<Vec<Value>>,
    pub template: Option<Template>,
    pub chat_template: Option<ChatTemplate>,
    pub count: u64,
    /// Whether what stands before the last `count` entries is read, too.
    pub whole: Option<bool>,
    pub fresh: Option<bool>,
    pub priority: Option<i64>,
}

/// Reply of `ScoreFinetune`: entries by what they lose.
#[wire]
pub struct FinetuneOut {
    /// What loses most comes first.
    pub results: Vec<Finetune>,
    /// Memories that were removed.
    pub memories: u64,
    /// Entries of `conversation` that were read: the last ones.
    pub entries: Option<u64>,
    pub tokens: u64,
    pub tokens_forwarded: u64,
    pub tokens_reused: u64,
    pub noise_floor: f64,
    pub chat_template: Option<TemplateUse>,
    pub model: String,
    pub fingerprint: String,
    pub device: String,
    pub mock: bool,
    pub elapsed_us: u64,
}

/// Parameters of `Weights`: whose, and by which model.
#[wire]
pub struct WeightsIn {
    /// As of ScoreIncremental.
    pub namespace: Option<String>,
    /// By every model that has scored, not only the one that is served now.
    pub all_models: Option<bool>,
}

/// Reply of `Weights`.
#[wire]
pub struct WeightsOut {
    pub namespace: String,
    /// Fingerprint of the model that is served now.
    pub fingerprint: String,
    pub weights: Vec<Weight>,
}

/// Parameters of `ResetWeights`: whose, by which model, and which.
#[wire]
pub struct ResetWeightsIn {
    /// As of ScoreIncremental.
    pub namespace: Option<String>,
    /// By every model that has scored, not only the one that is served now.
    pub all_models: Option<bool>,
    /// All unless said.
    pub keys: Option<Vec<String>>,
}

/// Reply of `ResetWeights`.
#[wire]
pub struct ResetWeightsOut {
    pub namespace: String,
    /// How many were forgotten.
    pub removed: u64,
}
