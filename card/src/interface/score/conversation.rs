//! What is scored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A message or a memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `user`, `assistant`, `tool`, `system` or `memory`; the section's name where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Put between the template's header and footer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Taken as they are, in place of a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<u32>>,
    /// Of a memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What is scored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Conversation {
    /// Stays in context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<Vec<Entry>>,
    /// Stays in context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Vec<Entry>>,
    /// Stays in context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Vec<Entry>>,
    /// Messages and memories, in order.
    pub conversation: Vec<Entry>,
}

/// A message as chat APIs have it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `user`, `assistant`, `tool` or `system`.
    pub role: String,
    /// A string, or a list of parts with `text`.
    pub content: serde_json::Value,
    /// It is the memory of this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

/// What stands around an entry's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Template {
    /// Before it; `{role}` is replaced.
    pub header: String,
    /// After it.
    pub footer: String,
}
