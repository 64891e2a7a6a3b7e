//! What comes of it.

use brahman_card_derive::wire;

/// A token of a response and its part of the cell's delta.
#[wire]
pub struct Token {
    /// Its place in the response.
    pub at: u64,
    pub token: u32,
    pub text: String,
    pub delta: f64,
}

/// One response without one memory.
#[wire]
pub struct Cell {
    /// Which response, counted from 0.
    pub response: u64,
    /// Log-probability with the memory, less that without.
    pub delta: f64,
    /// The part of it above 0.
    pub divergence: f64,
    /// The mean of it.
    pub per_token: f64,
    /// |delta| is not above the noise floor.
    pub below_noise: bool,
    /// The tokens that count most.
    pub top: Option<Vec<Token>>,
}

/// A response with everything in context.
#[wire]
pub struct Response {
    /// Its place in `conversation`.
    pub entry: u64,
    /// How many tokens were scored.
    pub tokens: u64,
    /// Sum of their log-probabilities.
    pub logprob: f64,
    /// Mean of their log-probabilities.
    pub per_token: f64,
    /// The beginning of its text.
    pub text: String,
}

/// One removal, of `key` or of several `keys` at once.
#[wire]
pub struct Row {
    /// The memory, or the group's keys joined by `+`.
    pub key: String,
    pub keys: Vec<String>,
    /// Tokens, headers and footers included.
    pub tokens_removed: u64,
    /// What each response loses, in nats.
    pub deltas: Vec<f64>,
    /// For each response; at most 0.01 is 0.
    pub divergences: Vec<f64>,
    /// Responses whose divergence is above 0.
    pub cells: Vec<Cell>,
    /// Known from an earlier call.
    pub cached: bool,
    /// By the screening model.
    pub approximate: bool,
    /// It failed; the lists are empty.
    pub error: Option<String>,
}

/// Results on disk, so that a call that was cut off goes on where it was.
#[wire]
pub struct ResultStore {
    pub entries: u64,
    /// Payload and bookkeeping; about three times as much on disk.
    pub bytes: u64,
    /// `open`, or why there are none.
    pub state: String,
}

/// The state of one memory.
#[wire]
pub struct MemoryScore {
    pub key: String,
    /// The largest over the `window` responses after it; not to be compared with the sums of
    /// `ScoreMemory`.
    pub max_divergence: f64,
    /// What that response loses, in nats.
    pub delta: f64,
    /// Moving average of `max_divergence` over the calls.
    pub weight: f64,
    /// Unix time of the last scoring in milliseconds.
    pub last_scored_ms: u64,
    /// How often it was scored.
    pub count: u64,
    /// It failed; the state is as before.
    pub error: Option<String>,
}

/// What a namespace keeps of a memory.
#[wire]
pub struct Weight {
    pub key: String,
    /// Moving average of its largest divergences.
    pub weight: f64,
    /// Unix time of the last scoring in milliseconds.
    pub last_scored_ms: u64,
    /// How often it was scored.
    pub count: u64,
    /// Fingerprint of the model that has scored it.
    pub fingerprint: String,
    /// SHA-256 of its text as it was then, in hex; absent if it was scored before that was kept.
    pub text_sha256: Option<String>,
}

/// One entry of the assistant.
#[wire]
pub struct Finetune {
    /// As in a `Response`, and the figures as in a `Cell`, but without all memories.
    pub entry: u64,
    pub delta: f64,
    pub divergence: f64,
    pub per_token: f64,
    pub tokens: u64,
    pub below_noise: bool,
}
