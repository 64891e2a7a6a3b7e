//! A conversation as one list of tokens that remembers where memories and responses lie.
//!
//! Invariant: every entry is turned into tokens by itself, so that taking one out changes no other's tokens.

use std::collections::HashMap;
use std::ops::Range;

use brahman_card::Fault;
use brahman_card::interface::score::{Conversation, Entry, Message, Template};
use serde::Deserialize;

use crate::engine::{Engine, EngineError};

/// Entries of one conversation: far beyond any window, and a bound on what is held.
const ENTRIES_MAX: usize = 65_536;
/// Memories of one conversation: each is a row, and a pass.
const MEMORIES_MAX: usize = 4096;
/// Characters of a response that are shown.
const SHOWN_CHARS: usize = 400;

/// A memory, and where its tokens stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Its key in the conversation.
    pub key: String,
    /// Where it stands, headers and footers included; in order.
    pub spans: Vec<Range<usize>>,
}

/// A response, and where its tokens stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its place in `conversation`.
    pub entry: usize,
    /// The tokens that are scored: its text's.
    pub scored: Range<usize>,
    /// The beginning of its text.
    pub text: String,
}

/// A conversation as tokens, ready to be scored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// All tokens, in their order.
    pub tokens: Vec<u32>,
    /// In the order in which they first appear.
    pub memories: Vec<Memory>,
    /// In the order of the conversation.
    pub responses: Vec<Response>,
    /// How many entries `conversation` has.
    pub entries: usize,
}

/// Why a conversation cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// A field is not as it should be.
    #[error("{at}: {why}")]
    Field {
        /// Which.
        at: String,
        /// What was found and what was expected.
        why: String,
    },
    /// The model cannot.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ConversationError {
    fn field(at: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Field { at: at.into(), why: why.into() }
    }

    /// The error as it travels.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Field { at, why } => Fault::invalid_parameter(at, why),
            Self::Engine(error) => error.fault(),
        }
    }
}

/// What a file may hold.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Wrapped { conversation: Box<Conversation> },
    Bare(Box<Conversation>),
    Chat { messages: Vec<Message> },
    Messages(Vec<Message>),
}

/// Reads a file's JSON: a conversation, `{"conversation": {…}}`, `{"messages": […]}`, or a list of messages.
///
/// # Errors
/// [`ConversationError::Field`], which says what was expected.
pub fn parse(json: &[u8]) -> Result<Conversation, ConversationError> {
    let value: serde_json::Value =
        serde_json::from_slice(json).map_err(|e| ConversationError::field("path", format!("the file is not JSON: {e}")))?;
    let expected = "expected {\"conversation\": […]} with entries of role, text or tokens, and key, or {\"messages\": […]}";
    match Content::deserialize(value).map_err(|_| ConversationError::field("path", format!("it is not a conversation: {expected}")))? {
        Content::Wrapped { conversation } | Content::Bare(conversation) => Ok(*conversation),
        Content::Chat { messages } | Content::Messages(messages) => from_messages(messages),
    }
}

/// Messages of a chat as a conversation.
///
/// # Errors
/// [`ConversationError::Field`], which names the message.
pub fn from_messages(messages: Vec<Message>) -> Result<Conversation, ConversationError> {
    let entry = |(at, message): (usize, Message)| {
        let text = text_of(&message.content).ok_or_else(|| {
            ConversationError::field(format!("messages[{at}].content"), "expected a string, or a list of parts with `text`")
        })?;
        let role = if message.memory.is_some() { "memory".to_owned() } else { message.role };
        Ok(Entry { role: Some(role), text: Some(text), tokens: None, key: message.memory })
    };
    let conversation = messages.into_iter().enumerate().map(entry).collect::<Result<_, ConversationError>>()?;
    Ok(Conversation { conversation, ..Conversation::default() })
}

fn text_of(content: &serde_json::Value) -> Option<String> {
    match content {
        serde_json::Value::String(text) => Some(text.clone()),
        // What a tool's call leaves.
        serde_json::Value::Null => Some(String::new()),
        serde_json::Value::Array(parts) => parts.iter().map(|part| part.get("text")?.as_str()).collect(),
        _ => None,
    }
}

/// What stands around a text where nothing else is said.
#[must_use]
pub fn default_template() -> Template {
    Template { header: "{role}: ".to_owned(), footer: "\n".to_owned() }
}

/// Turns a conversation into tokens.
///
/// # Errors
/// [`ConversationError`], which names the entry, or says how many tokens there are.
pub fn script(conversation: &Conversation, template: &Template, engine: &dyn Engine) -> Result<Script, ConversationError> {
    let identity = engine.identity();
    let mut writer = Writer { script: Script::default(), headers: HashMap::new(), template, engine, fixed: 0 };
    writer.script.tokens.extend(identity.bos);
    writer.fixed = writer.script.tokens.len();
    let sections = [("system", &conversation.system), ("identity", &conversation.identity), ("journal", &conversation.journal)];
    let total = sections.iter().map(|(_, s)| s.as_ref().map_or(0, Vec::len)).sum::<usize>() + conversation.conversation.len();
    if total > ENTRIES_MAX {
        return Err(ConversationError::field("conversation", format!("{total} entries, expected at most {ENTRIES_MAX}")));
    }
    for (section, entries) in sections {
        for (at, entry) in entries.iter().flatten().enumerate() {
            let role = entry.role.as_deref().unwrap_or(section);
            writer.write(entry, role, &format!("{section}[{at}]"))?;
        }
    }
    for (at, entry) in conversation.conversation.iter().enumerate() {
        writer.entry(at, entry)?;
    }
    let mut script = writer.script;
    script.entries = conversation.conversation.len();
    if script.tokens.len() > identity.window {
        return Err(EngineError::TooLong { tokens: script.tokens.len(), window: identity.window }.into());
    }
    Ok(script)
}

struct Writer<'a> {
    script: Script,
    headers: HashMap<String, (Vec<u32>, Vec<u32>)>,
    template: &'a Template,
    engine: &'a dyn Engine,
    /// Tokens so far that no removal takes away.
    fixed: usize,
}

impl Writer<'_> {
    fn entry(&mut self, at: usize, entry: &Entry) -> Result<(), ConversationError> {
        let place = format!("conversation[{at}]");
        let role = match (entry.role.as_deref(), &entry.key) {
            (Some(role), _) => role,
            (None, Some(_)) => "memory",
            (None, None) => {
                return Err(ConversationError::field(place, "no `role`: expected user, assistant, tool, system, developer or memory"));
            }
        };
        let from = self.script.tokens.len();
        match role {
            "memory" => {
                let key = entry.key.as_deref().filter(|key| !key.is_empty());
                let key = key.ok_or_else(|| ConversationError::field(format!("{place}.key"), "a memory needs a key"))?;
                let fixed = self.fixed;
                self.write(entry, role, &place)?;
                self.fixed = fixed;
                let span = from..self.script.tokens.len();
                let memories = &mut self.script.memories;
                match memories.iter().position(|memory| memory.key == key) {
                    Some(known) => memories[known].spans.push(span),
                    None if memories.len() == MEMORIES_MAX => {
                        return Err(ConversationError::field(place, format!("more than {MEMORIES_MAX} memories: score a part of them")));
                    }
                    None => memories.push(Memory { key: key.to_owned(), spans: vec![span] }),
                }
            }
            "user" | "assistant" | "tool" | "system" | "developer" => {
                let before = self.fixed;
                let mut scored = self.write(entry, role, &place)?;
                if role == "assistant" {
                    // Nothing precedes a first token once all memories are gone; then it is scored in no case.
                    if before == 0 && scored.start == from && !scored.is_empty() {
                        scored.start += 1;
                    }
                    let text = match &entry.text {
                        Some(text) => text.chars().take(SHOWN_CHARS).collect(),
                        None => self.engine.decode(&self.script.tokens[scored.clone()]).chars().take(SHOWN_CHARS).collect(),
                    };
                    self.script.responses.push(Response { entry: at, scored, text });
                }
            }
            other => {
                let why = format!("`{other}`: expected user, assistant, tool, system, developer or memory");
                return Err(ConversationError::field(format!("{place}.role"), why));
            }
        }
        Ok(())
    }

    /// Appends an entry and gives the place of its own text.
    fn write(&mut self, entry: &Entry, role: &str, place: &str) -> Result<Range<usize>, ConversationError> {
        let from = self.script.tokens.len();
        let inner = match (&entry.text, &entry.tokens) {
            (Some(text), None) => {
                let (header, footer) = self.around(role)?;
                let text = self.engine.encode(text)?;
                let tokens = &mut self.script.tokens;
                tokens.extend(header);
                let start = tokens.len();
                tokens.extend(text);
                let end = tokens.len();
                tokens.extend(footer);
                start..end
            }
            (None, Some(ids)) => {
                let vocabulary = self.engine.identity().vocabulary;
                if let Some(token) = ids.iter().find(|id| **id >= vocabulary) {
                    return Err(EngineError::NoSuchToken { token: *token, vocabulary }.into());
                }
                self.script.tokens.extend(ids);
                from..from + ids.len()
            }
            (Some(_), Some(_)) => return Err(ConversationError::field(place, "both `text` and `tokens`: expected one of them")),
            (None, None) => return Err(ConversationError::field(place, "neither `text` nor `tokens`: expected one of them")),
        };
        self.fixed += self.script.tokens.len() - from;
        Ok(inner)
    }

    fn around(&mut self, role: &str) -> Result<(Vec<u32>, Vec<u32>), EngineError> {
        if let Some(known) = self.headers.get(role) {
            return Ok(known.clone());
        }
        let encode = |text: &str| self.engine.encode(&text.replace("{role}", role));
        let around = (encode(&self.template.header)?, encode(&self.template.footer)?);
        self.headers.insert(role.to_owned(), around.clone());
        Ok(around)
    }
}
