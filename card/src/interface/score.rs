//! `org.brahman.Score`: log-probabilities, and which memories a model's answers depend on. Here are the methods; what is scored and what
//! comes of it have a file each.

mod conversation;
mod figures;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Interface;
use super::embed::Device;
pub use conversation::{Conversation, Entry, Message, Template};
pub use figures::{Cell, Finetune, Kept, Response, Row, Scored, Token};

/// The interface.
pub const INTERFACE: Interface = Interface {
    name: "org.brahman.Score",
    // Incremental scoring is repeatable too: what was scored in the first attempt is not due in the second.
    idempotent: &["Info", "Logprobs", "ScoreMatrix", "ScoreMemory", "ScoreIncremental", "ScoreFinetune"],
    idl: "# How much a language model's answers in a conversation depend on the memories in it: the log-probability of each response
# with everything in context, less that with a memory removed. All figures are natural logarithms (nats).
interface org.brahman.Score

# A message (`user`, `assistant`, `tool`, `system`) or a `memory` with a `key`. `text` is put between the template's header and
# footer; `tokens` are taken as they are.
type Entry (role: ?string, text: ?string, tokens: ?[]int, key: ?string)

# `system`, `identity` and `journal` stay in context; only memories in `conversation` are removed.
type Conversation (system: ?[]Entry, identity: ?[]Entry, journal: ?[]Entry, conversation: []Entry)

# As chat APIs have it; `content` is a string or a list of parts with `text`. A message with `memory` is the memory of that key.
type Message (role: string, content: object, memory: ?string)

# What stands around an entry's text; `{role}` is replaced.
type Template (header: string, footer: string)

# A token of a response and its part of the cell's delta.
type Token (at: int, token: int, text: string, delta: float)

# One response without one memory. `delta` is with less without; `divergence` is the part of it above 0, `per_token` the mean.
# `below_noise`: |delta| is not above the noise floor.
type Cell (response: int, delta: float, divergence: float, per_token: float, below_noise: bool, top: ?[]Token)

# A response as it is with everything in context. `entry` counts in `conversation`.
type Response (entry: int, tokens: int, logprob: float, per_token: float, text: string)

# One removal: `key`, or several `keys` at once. `deltas` and `divergences` have a place for each response; divergences of at most
# 0.01 are 0, `cells` has the others. `cached`: it was known from an earlier call. `approximate`: see ScoreMatrix.
type Row (
  key: string,
  keys: []string,
  tokens_removed: int,
  deltas: []float,
  divergences: []float,
  cells: []Cell,
  cached: bool,
  approximate: bool,
  error: ?string
)

method Info() -> (
  model: string,
  fingerprint: string,
  vocabulary: int,
  window: int,
  mock: bool,
  device: Device,
  runtime: ?string,
  budget_bytes: ?int,
  queue: int,
  kept: ?Kept,
  dialect: ?string
)

type Device (requested: string, active: string, reason: string)

# Results on disk, so that a call that was cut off goes on where it was. `state` is open, or why there are none.
type Kept (entries: int, bytes: int, state: string)

# The log-probability of each token given those before it; null for a first token that nothing precedes.
method Logprobs(text: ?string, tokens: ?[]int, priority: ?int) -> (
  logprobs: []?float,
  tokens: []int,
  pieces: []string,
  total: float,
  tokens_forwarded: int,
  tokens_reused: int,
  model: string,
  fingerprint: string,
  device: string,
  mock: bool,
  elapsed_us: int
)

# Removes each memory in turn and tells what each response loses. With `more` a reply a memory as it is done (`phase` row), then the
# summary (`phase` done); without, one reply that has the `rows`. Exactly one of `conversation`, `messages` and `path` (a JSON file of
# the caller's own with either). `groups` adds rows without several memories at once, which shows what copies of one fact hide. `top` is
# how many tokens to name a cell. `approximate`: a cheap model screens all memories, and only so many of the foremost are scored by
# the model itself, up to the last response that the screening saw them touch; the others' rows are the cheap model's and say
# so. `groups` is a list of lists of keys. `fresh`: use nothing that is on disk. A row that failed has an `error` and does not lose the others.
method ScoreMatrix(
  conversation: ?Conversation,
  messages: ?[]Message,
  path: ?string,
  template: ?Template,
  groups: ?[]object,
  top: ?int,
  approximate: ?int,
  fresh: ?bool,
  priority: ?int
) -> (
  phase: string,
  done: int,
  of: int,
  key: ?string,
  keys: ?[]string,
  tokens_removed: ?int,
  deltas: ?[]float,
  divergences: ?[]float,
  cells: ?[]Cell,
  cached: ?bool,
  approximate: ?bool,
  error: ?string,
  rows: ?[]Row,
  scored: ?[]Response,
  memories: ?int,
  responses: ?int,
  failed: ?int,
  tokens: ?int,
  tokens_forwarded: ?int,
  tokens_reused: ?int,
  tokens_naive: ?int,
  noise_floor: ?float,
  warnings: ?[]string,
  model: ?string,
  fingerprint: ?string,
  device: ?string,
  mock: ?bool,
  elapsed_us: ?int
)

# One memory, from where it first appears to the `window`th response after it (50). `divergence` and `delta` are sums; 0 if it is not
# `present` or no response follows.
method ScoreMemory(
  conversation: ?Conversation,
  messages: ?[]Message,
  path: ?string,
  template: ?Template,
  key: string,
  window: ?int,
  top: ?int,
  fresh: ?bool,
  priority: ?int
) -> (
  key: string,
  present: bool,
  responses: int,
  delta: float,
  divergence: float,
  per_token: float,
  cells: []Cell,
  tokens: int,
  tokens_forwarded: int,
  tokens_reused: int,
  noise_floor: float,
  model: string,
  fingerprint: string,
  device: string,
  mock: bool,
  elapsed_us: int
)

# Memories within the first 60 % of the tokens that were not scored for `max_age_s`, those never scored and those longest ago first.
# `max_divergence` is the largest over the `window` responses after the memory; not to be compared with the sums of ScoreMemory. `weight`
# is its moving average over the calls. Each is on disk before it is told: after a crash nothing is scored twice.
method ScoreIncremental(
  conversation: ?Conversation,
  messages: ?[]Message,
  path: ?string,
  template: ?Template,
  max_age_s: ?int,
  window: ?int,
  limit: ?int,
  priority: ?int
) -> (
  phase: string,
  done: int,
  of: int,
  key: ?string,
  max_divergence: ?float,
  delta: ?float,
  weight: ?float,
  last_scored_ms: ?int,
  count: ?int,
  error: ?string,
  rows: ?[]Scored,
  due: ?int,
  fresh: ?int,
  late: ?int,
  failed: ?int,
  tokens: ?int,
  tokens_forwarded: ?int,
  tokens_reused: ?int,
  noise_floor: ?float,
  model: ?string,
  fingerprint: ?string,
  device: ?string,
  mock: ?bool,
  elapsed_us: ?int
)

# The state of one memory; `delta` belongs to the response of `max_divergence`.
type Scored (key: string, max_divergence: float, delta: float, weight: float, last_scored_ms: int, count: int, error: ?string)

# The assistant's entries among the last `count`, by how much they lose when all memories are removed, most first.
method ScoreFinetune(
  conversation: ?Conversation,
  messages: ?[]Message,
  path: ?string,
  template: ?Template,
  count: int,
  fresh: ?bool,
  priority: ?int
) -> (
  results: []Finetune,
  memories: int,
  tokens: int,
  tokens_forwarded: int,
  tokens_reused: int,
  noise_floor: float,
  model: string,
  fingerprint: string,
  device: string,
  mock: bool,
  elapsed_us: int
)

type Finetune (entry: int, delta: float, divergence: float, per_token: float, tokens: int, below_noise: bool)

# The conversation has more tokens than the model's window.
error ContextTooLong (message: string, retryable: bool, tokens: int, window: int)
# A token id is not in the model's vocabulary.
error NoSuchToken (message: string, retryable: bool, token: int, vocabulary: int)
# The model's output was not finite.
error BadOutput (message: string, retryable: bool)
# The budget does not hold even one pass.
error OutOfBudget (message: string, retryable: bool, needed: int, budget: int)
# The server behind this provider failed, or answered what cannot be right.
error ServerFailed (message: string, retryable: bool)
# The file cannot be read for this caller.
error FileUnreadable (message: string, retryable: bool, path: string)
",
};

/// Reply of `Info`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct InfoOut {
    /// Model name.
    pub model: String,
    /// What the figures depend on.
    pub fingerprint: String,
    /// Tokens there are.
    pub vocabulary: u64,
    /// Tokens a conversation may have.
    pub window: u64,
    /// Whether it is a mock.
    pub mock: bool,
    /// The device asked for and the one in use.
    pub device: Device,
    /// Inference library and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Memory it may take beyond the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_bytes: Option<u64>,
    /// Calls waiting.
    pub queue: u64,
    /// Results on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// Of the server behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
}

/// Parameters of `Logprobs`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogprobsIn {
    /// Either this
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// or these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<u32>>,
    /// Higher goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
}

/// Reply of `Logprobs`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct LogprobsOut {
    /// One a token.
    pub logprobs: Vec<Option<f32>>,
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Their texts.
    pub pieces: Vec<String>,
    /// The sum.
    pub total: f64,
    /// Tokens that went through the model.
    pub tokens_forwarded: u64,
    /// Tokens whose state was shared.
    pub tokens_reused: u64,
    /// Model name.
    pub model: String,
    /// What the figures depend on.
    pub fingerprint: String,
    /// `cpu`, `cuda:N`, or the server's address.
    pub device: String,
    /// Whether it is a mock.
    pub mock: bool,
    /// Time in the provider, waiting included.
    pub elapsed_us: u64,
}

/// Parameters of `ScoreMatrix`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MatrixIn {
    /// Either this,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversation>,
    /// or these,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// or a file with either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What stands around texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
    /// Memories to remove together, beside each alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Vec<String>>>,
    /// Tokens to name a cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<u64>,
    /// How many of the foremost to score exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approximate: Option<u64>,
    /// Use nothing that is on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<bool>,
    /// Higher goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
}

/// Replies of `ScoreMatrix`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct MatrixOut {
    /// `row` or `done`.
    pub phase: String,
    /// Rows done.
    pub done: u64,
    /// Rows in all.
    pub of: u64,
    /// The memory, or the group's keys joined by `+`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
    /// Tokens, headers and footers included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_removed: Option<u64>,
    /// For each response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deltas: Option<Vec<f64>>,
    /// For each response; at most 0.01 is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergences: Option<Vec<f64>>,
    /// Those above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<Vec<Cell>>,
    /// Known from an earlier call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<bool>,
    /// By the screening model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approximate: Option<bool>,
    /// It failed; the lists are empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// All rows, if the call was not made with `more`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<Row>>,
    /// The responses with everything in context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scored: Option<Vec<Response>>,
    /// Memories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memories: Option<u64>,
    /// Responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses: Option<u64>,
    /// Rows that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    /// Tokens of the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Tokens that went through the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_forwarded: Option<u64>,
    /// Tokens whose state was shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_reused: Option<u64>,
    /// What one full pass a row and one more would forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_naive: Option<u64>,
    /// Largest difference between two scorings of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_floor: Option<f64>,
    /// What was passed over, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnings: Option<Vec<String>>,
    /// Model name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What the figures depend on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// `cpu`, `cuda:N`, or the server's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Whether it is a mock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
    /// Time in the provider, waiting included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_us: Option<u64>,
}

/// Parameters of `ScoreMemory`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryIn {
    /// Either this,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversation>,
    /// or these,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// or a file with either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What stands around texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
    /// The memory.
    pub key: String,
    /// Responses after it to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Tokens to name a cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<u64>,
    /// Use nothing that is on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<bool>,
    /// Higher goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
}

/// Reply of `ScoreMemory`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct MemoryOut {
    /// The memory.
    pub key: String,
    /// Whether the conversation has it.
    pub present: bool,
    /// Responses looked at.
    pub responses: u64,
    /// Sum.
    pub delta: f64,
    /// Sum of the parts above 0.
    pub divergence: f64,
    /// Mean delta.
    pub per_token: f64,
    /// All of them.
    pub cells: Vec<Cell>,
    /// Tokens of the conversation.
    pub tokens: u64,
    /// Tokens that went through the model.
    pub tokens_forwarded: u64,
    /// Tokens whose state was shared.
    pub tokens_reused: u64,
    /// Largest difference between two scorings of the same.
    pub noise_floor: f64,
    /// Model name.
    pub model: String,
    /// What the figures depend on.
    pub fingerprint: String,
    /// `cpu`, `cuda:N`, or the server's address.
    pub device: String,
    /// Whether it is a mock.
    pub mock: bool,
    /// Time in the provider, waiting included.
    pub elapsed_us: u64,
}

/// Parameters of `ScoreIncremental`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IncrementalIn {
    /// Either this,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversation>,
    /// or these,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// or a file with either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What stands around texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
    /// Those scored within are not due; 86,400 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_s: Option<u64>,
    /// Responses after it to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Memories at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Higher goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
}

/// Replies of `ScoreIncremental`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct IncrementalOut {
    /// `row` or `done`.
    pub phase: String,
    /// Rows done.
    pub done: u64,
    /// Rows in all.
    pub of: u64,
    /// The memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Largest over the responses after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_divergence: Option<f64>,
    /// Of that response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Moving average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scored_ms: Option<u64>,
    /// How often it was scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// It failed; the state is as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// All rows, if the call was not made with `more`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<Scored>>,
    /// Memories that were due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<u64>,
    /// Memories scored within `max_age_s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<u64>,
    /// Memories behind the first 60 % of the tokens, or with no response after them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<u64>,
    /// Rows that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    /// Tokens of the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Tokens that went through the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_forwarded: Option<u64>,
    /// Tokens whose state was shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_reused: Option<u64>,
    /// Largest difference between two scorings of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_floor: Option<f64>,
    /// Model name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What the figures depend on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// `cpu`, `cuda:N`, or the server's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Whether it is a mock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
    /// Time in the provider, waiting included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_us: Option<u64>,
}

/// Parameters of `ScoreFinetune`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FinetuneIn {
    /// Either this,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversation>,
    /// or these,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// or a file with either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What stands around texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
    /// Entries from the end.
    pub count: u64,
    /// Use nothing that is on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<bool>,
    /// Higher goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
}

/// Reply of `ScoreFinetune`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct FinetuneOut {
    /// Most first.
    pub results: Vec<Finetune>,
    /// Memories removed.
    pub memories: u64,
    /// Tokens of the conversation.
    pub tokens: u64,
    /// Tokens that went through the model.
    pub tokens_forwarded: u64,
    /// Tokens whose state was shared.
    pub tokens_reused: u64,
    /// Largest difference between two scorings of the same.
    pub noise_floor: f64,
    /// Model name.
    pub model: String,
    /// What the figures depend on.
    pub fingerprint: String,
    /// `cpu`, `cuda:N`, or the server's address.
    pub device: String,
    /// Whether it is a mock.
    pub mock: bool,
    /// Time in the provider, waiting included.
    pub elapsed_us: u64,
}
