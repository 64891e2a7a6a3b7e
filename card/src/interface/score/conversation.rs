//! What is scored.

use brahman_card_derive::wire;
use serde_json::Value;

/// A message, or a memory with a `key`.
#[wire(request, Eq)]
pub struct Entry {
    /// `user`, `assistant`, `tool`, `system`, `developer`, `function`, `ipython`, `observation`, or
    /// `memory`; the section's name where there is none.
    pub role: Option<String>,
    /// Put where the template has a message's content.
    pub text: Option<String>,
    /// Taken as they are, in place of a text.
    pub tokens: Option<Vec<u32>>,
    /// It is the memory of this key. One whose role is `memory`, or that has none, stands as a
    /// system message.
    pub key: Option<String>,
    /// Who speaks, or which tool has answered, as the template has it.
    pub name: Option<String>,
    /// Calls of tools, as the template has them: usually
    /// `{"type": "function", "function": {"name": …, "arguments": {…}}}`.
    pub tool_calls: Option<Vec<Value>>,
    /// Which call a tool's result belongs to.
    pub tool_call_id: Option<String>,
    /// What was thought before the text.
    pub reasoning_content: Option<String>,
}

/// What is scored. `system`, `identity` and `journal` stay in context, but for the memories among
/// their entries.
#[wire(request, Eq)]
pub struct Conversation {
    pub system: Option<Vec<Entry>>,
    pub identity: Option<Vec<Entry>>,
    pub journal: Option<Vec<Entry>>,
    /// Messages and memories, in order.
    pub conversation: Vec<Entry>,
    /// What the model may call, as its template has them.
    pub tools: Option<Vec<Value>>,
}

/// A message as chat APIs have it.
#[wire(request)]
pub struct Message {
    /// As of an `Entry`.
    pub role: String,
    /// A string, a list of parts with `text`, or null beside `tool_calls`.
    #[serde(default)]
    pub content: Value,
    /// It is the memory of this key.
    pub memory: Option<String>,
    /// Who speaks, or which tool has answered.
    pub name: Option<String>,
    pub tool_calls: Option<Vec<Value>>,
    pub tool_call_id: Option<String>,
    /// What was thought before the content.
    pub reasoning_content: Option<String>,
}

/// What stands around an entry's text where no chat template is used.
#[wire(Eq)]
pub struct Template {
    /// Before it; `{role}` is replaced.
    pub header: String,
    /// What stands after a text.
    pub footer: String,
}

/// Which chat template is used, and how; the model's own unless said.
#[wire(request, Eq)]
pub struct ChatTemplate {
    /// One of several that the model has; `none`: no chat template, but `template` or `role: text`
    /// lines.
    pub name: Option<String>,
    /// A Jinja template to use in place of the model's.
    pub text: Option<String>,
    /// An object of more variables for it, as `enable_thinking` or `date_string`.
    pub variables: Option<Value>,
    /// Where memories without a role stand: `system`, as a system message in their place, or
    /// `user`, before the next user text; unless said the former where the template takes it.
    pub memories: Option<String>,
    /// Unix time in seconds that `strftime_now` tells (UTC); now unless said.
    pub now_s: Option<i64>,
}

/// Which template was used, and what had to be decided to use it.
#[wire(Eq)]
pub struct TemplateUse {
    /// `chat_template.jinja`, `tokenizer_config.json` or `chat_template.json` with the name of one
    /// of several behind a colon; `given`; or `none`: header, text and footer.
    pub source: String,
    /// SHA-256 of its text; of none, its header and footer.
    pub digest: String,
    /// Where memories without a role stand: `memory` (of none), `system`, or `user`.
    pub memories: String,
    /// What it was told the time is, if it asked.
    pub now_s: Option<i64>,
    /// What was decided, left out, or is not as the conversation has it.
    pub notes: Option<Vec<String>>,
}
