//! What is scored.

use brahman_card_derive::wire;

/// A message (`user`, `assistant`, `tool`, `system`) or a `memory` with a `key`.
#[wire(request, Eq)]
pub struct Entry {
    /// The section's name where there is none.
    pub role: Option<String>,
    /// Put between the template's header and footer.
    pub text: Option<String>,
    /// Taken as they are, in place of a text.
    pub tokens: Option<Vec<u32>>,
    pub key: Option<String>,
}

/// What is scored. `system`, `identity` and `journal` stay in context; only memories in `conversation` are removed.
#[wire(request, Eq)]
pub struct Conversation {
    pub system: Option<Vec<Entry>>,
    pub identity: Option<Vec<Entry>>,
    pub journal: Option<Vec<Entry>>,
    /// Messages and memories, in order.
    pub conversation: Vec<Entry>,
}

/// A message as chat APIs have it.
#[wire(request)]
pub struct Message {
    /// `user`, `assistant`, `tool` or `system`.
    pub role: String,
    /// A string, or a list of parts with `text`.
    pub content: serde_json::Value,
    /// It is the memory of this key.
    pub memory: Option<String>,
}

/// What stands around an entry's text.
#[wire(Eq)]
pub struct Template {
    /// Before it; `{role}` is replaced.
    pub header: String,
    /// What stands after a text.
    pub footer: String,
}
