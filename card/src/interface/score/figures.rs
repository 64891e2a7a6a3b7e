//! What comes of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A token of a response and its part of the cell's delta.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Its place in the response.
    pub at: u64,
    /// Its id.
    pub token: u32,
    /// Its text.
    pub text: String,
    /// With less without.
    pub delta: f64,
}

/// One response without one memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// Which, in order.
    pub response: u64,
    /// Log-probability with less without.
    pub delta: f64,
    /// The part above 0.
    pub divergence: f64,
    /// Mean delta.
    pub per_token: f64,
    /// |delta| is not above the noise floor.
    pub below_noise: bool,
    /// The tokens that count most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<Vec<Token>>,
}

/// A response with everything in context.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Response {
    /// Its place in the conversation.
    pub entry: u64,
    /// Tokens scored.
    pub tokens: u64,
    /// Their sum.
    pub logprob: f64,
    /// Their mean.
    pub per_token: f64,
    /// The beginning of its text.
    pub text: String,
}

/// One removal.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    /// The memory, or the group's keys joined by `+`.
    pub key: String,
    /// What was removed.
    pub keys: Vec<String>,
    /// Tokens, headers and footers included.
    pub tokens_removed: u64,
    /// For each response.
    pub deltas: Vec<f64>,
    /// For each response; at most 0.01 is 0.
    pub divergences: Vec<f64>,
    /// Those above.
    pub cells: Vec<Cell>,
    /// Known from an earlier call.
    pub cached: bool,
    /// By the screening model.
    pub approximate: bool,
    /// It failed; the lists are empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Results on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// Results.
    pub entries: u64,
    /// Payload and bookkeeping; about three times as much on disk.
    pub bytes: u64,
    /// `open`, or why there are none.
    pub state: String,
}

/// The state of one memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Scored {
    /// The memory.
    pub key: String,
    /// Largest over the responses after it.
    pub max_divergence: f64,
    /// Of that response.
    pub delta: f64,
    /// Moving average.
    pub weight: f64,
    /// Unix time.
    pub last_scored_ms: u64,
    /// How often it was scored.
    pub count: u64,
    /// It failed; the state is as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One entry of the assistant.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Finetune {
    /// Its place in the conversation.
    pub entry: u64,
    /// Log-probability with less without all memories.
    pub delta: f64,
    /// The part above 0.
    pub divergence: f64,
    /// Mean delta.
    pub per_token: f64,
    /// Tokens scored.
    pub tokens: u64,
    /// |delta| is not above the noise floor.
    pub below_noise: bool,
}
