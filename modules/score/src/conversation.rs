//! A conversation as one list of tokens that remembers where memories and responses lie.
//!
//! By the model's chat template, or another ([`crate::chat`]); of a model that has none, by a
//! header and a footer around each text. Invariant: without a chat template every entry is turned
//! into tokens by itself, so that taking one out changes no other's tokens; with one, what is left
//! is run through it again, and a response keeps its tokens.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::score::file::{FileError, MessageError};
use brahman_card::interface::score::{ChatTemplate, Conversation, Entry, Template, TemplateUse};
use brahman_storage::digest::{hex, sha256};

use crate::chat::dialogue::{Dialogue, ScoredWhole, Whole};
use crate::chat::{ChatError, Source};
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
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// All tokens, in their order.
    pub tokens: Vec<u32>,
    /// In the order in which they first appear.
    pub memories: Vec<Memory>,
    /// In the order of the conversation.
    pub responses: Vec<Response>,
    /// How many entries `conversation` has.
    pub entries: usize,
    /// Where the tokens of `conversation` begin, behind those of the other sections.
    pub own_from: usize,
    /// How it was put into tokens.
    pub used: TemplateUse,
    /// What puts it into tokens without some memories; `None` if they can be cut out.
    pub(crate) dialogue: Option<Arc<Dialogue>>,
}

impl Script {
    /// Its tokens, and what is scored of them.
    pub(crate) fn scored(&self) -> ScoredWhole<'_> {
        ScoredWhole {
            tokens: &self.tokens,
            responses: self
                .responses
                .iter()
                .map(|response| (response.entry, &response.scored))
                .collect(),
        }
    }
}

/// What a caller says of how a conversation is put into tokens.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// What stands around texts.
    pub template: Option<Template>,
    /// Which chat template.
    pub chat: ChatTemplate,
}

impl Layout {
    /// Header and footer, whatever the model has.
    #[must_use]
    pub fn plain() -> Self {
        Self { template: Some(default_template()), chat: ChatTemplate::default() }
    }
}

/// The name under which no chat template is asked for.
const NONE: &str = "none";
/// Roles that a message may have: those of chat APIs, and what models call the answer of a tool.
const ROLES: [&str; 8] =
    ["user", "assistant", "tool", "system", "developer", "function", "ipython", "observation"];

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
    /// The file is none.
    #[error(transparent)]
    File(#[from] FileError),
    /// The model cannot.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<MessageError> for ConversationError {
    fn from(MessageError { at, why }: MessageError) -> Self {
        Self::Field { at, why }
    }
}

impl From<ChatError> for ConversationError {
    fn from(error: ChatError) -> Self {
        Self::Engine(EngineError::template(error))
    }
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
            Self::File(error) => Fault::invalid_parameter("path", brahman_sidecar::chain(error)),
            Self::Engine(error) => error.fault(),
        }
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
pub fn script(
    conversation: &Conversation,
    layout: &Layout,
    engine: &dyn Engine,
) -> Result<Script, ConversationError> {
    let sections = [
        ("system", &conversation.system),
        ("identity", &conversation.identity),
        ("journal", &conversation.journal),
    ];
    let total = sections.iter().map(|(_, s)| s.as_ref().map_or(0, Vec::len)).sum::<usize>()
        + conversation.conversation.len();
    if total > ENTRIES_MAX {
        return Err(ConversationError::field(
            "conversation",
            format!("{total} entries, expected at most {ENTRIES_MAX}"),
        ));
    }
    let keys = check(conversation)?;
    let mut script = match choose(conversation, layout, engine)? {
        Choice::Chat(source) => {
            by_chat_template(conversation, &keys, &source, &layout.chat, engine)?
        }
        Choice::Plain(template, notes, bos) => plain(conversation, &template, bos, notes, engine)?,
    };
    script.entries = conversation.conversation.len();
    let window = engine.identity().window;
    if script.tokens.len() > window {
        return Err(EngineError::TooLong { tokens: script.tokens.len(), window }.into());
    }
    Ok(script)
}

/// How it is to be done.
enum Choice {
    Chat(Source),
    /// By header and footer; whether what the tokenizer puts first is put first, and what the reply
    /// says of it.
    Plain(Template, Vec<String>, bool),
}

fn choose(
    conversation: &Conversation,
    layout: &Layout,
    engine: &dyn Engine,
) -> Result<Choice, ConversationError> {
    let chat = &layout.chat;
    let both = |field: &str| {
        ConversationError::field(
            field,
            "both a chat template and header and footer: expected one of them",
        )
    };
    if let Some(text) = &chat.text {
        if layout.template.is_some() {
            return Err(both("template"));
        }
        if chat.name.is_some() {
            return Err(ConversationError::field(
                "chat_template",
                "both `name` and `text`: expected one of them",
            ));
        }
        return Ok(Choice::Chat(Source::new("given", text)?));
    }
    let around = || layout.template.clone().unwrap_or_else(default_template);
    let is_named = chat.name.as_deref().is_some_and(|name| name != NONE);
    if layout.template.is_some() || chat.name.as_deref() == Some(NONE) {
        return if is_named {
            Err(both("template"))
        } else {
            Ok(Choice::Plain(around(), Vec::new(), true))
        };
    }
    let mut entries = all(conversation).map(|(_, _, entry)| entry).peekable();
    if entries.peek().is_none() {
        return Ok(Choice::Plain(around(), Vec::new(), true));
    }
    // Who gives nothing but ids has put the template around them.
    if !is_named && entries.all(|entry| entry.tokens.is_some()) {
        let note = "all entries are token ids: nothing is put around or before them".to_owned();
        return Ok(Choice::Plain(around(), vec![note], false));
    }
    let tools = conversation.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let found = match engine.templates() {
        Some(templates) => templates.choose(chat.name.as_deref(), tools)?,
        None if is_named => {
            return Err(ChatError::NoSuch {
                name: chat.name.clone().unwrap_or_default(),
                there: Vec::new(),
            }
            .into());
        }
        None => None,
    };
    Ok(match found {
        Some(source) => Choice::Chat(source),
        None => {
            let Template { header, footer } = around();
            let note = format!(
                "the model has no chat template: each text stands between {header:?} and {footer:?}"
            );
            Choice::Plain(around(), vec![note], true)
        }
    })
}

/// All entries, with their section and their place in it.
fn all(conversation: &Conversation) -> impl Iterator<Item = (&'static str, usize, &Entry)> {
    let sections = [
        ("system", &conversation.system),
        ("identity", &conversation.identity),
        ("journal", &conversation.journal),
    ];
    let in_sections = sections.into_iter().flat_map(|(name, entries)| {
        entries.iter().flatten().enumerate().map(move |(at, e)| (name, at, e))
    });
    in_sections.chain(
        conversation.conversation.iter().enumerate().map(|(at, entry)| ("conversation", at, entry)),
    )
}

/// Whether an entry is a memory.
fn is_memory(entry: &Entry) -> bool {
    entry.key.is_some() || entry.role.as_deref() == Some("memory")
}

/// Looks at every entry; gives the memories' keys in the order in which they appear.
///
/// # Errors
/// [`ConversationError::Field`], which names the entry.
pub(crate) fn check(conversation: &Conversation) -> Result<Vec<String>, ConversationError> {
    let mut known: HashSet<&str> = HashSet::new();
    let mut keys = Vec::new();
    for (section, at, entry) in all(conversation) {
        let place = || format!("{section}[{at}]");
        let calls = entry.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
        match (&entry.text, &entry.tokens) {
            (Some(_), Some(_)) => {
                return Err(ConversationError::field(
                    place(),
                    "both `text` and `tokens`: expected one of them",
                ));
            }
            (None, None) if !calls => {
                return Err(ConversationError::field(
                    place(),
                    "neither `text` nor `tokens`: expected one of them",
                ));
            }
            (None, Some(_)) if calls || entry.reasoning_content.is_some() => {
                return Err(ConversationError::field(
                    place(),
                    "`tokens` beside `tool_calls` or `reasoning_content`: expected a text",
                ));
            }
            _ => {}
        }
        match entry.role.as_deref() {
            Some("memory") => {}
            Some(role)
                if ROLES.contains(&role) || (section != "conversation" && role == section) => {}
            None if section != "conversation" || entry.key.is_some() => {}
            None => {
                return Err(ConversationError::field(
                    place(),
                    format!("no `role`: expected {}, or memory", ROLES.join(", ")),
                ));
            }
            Some(other) => {
                let other: String = other.chars().take(SHOWN_CHARS).collect();
                let why = format!("`{other}`: expected {}, or memory", ROLES.join(", "));
                return Err(ConversationError::field(format!("{}.role", place()), why));
            }
        }
        if !is_memory(entry) {
            continue;
        }
        let key = entry.key.as_deref().filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| {
            ConversationError::field(format!("{}.key", place()), "a memory needs a key")
        })?;
        if known.insert(key) {
            if keys.len() == MEMORIES_MAX {
                return Err(ConversationError::field(
                    place(),
                    format!("more than {MEMORIES_MAX} memories: score a part of them"),
                ));
            }
            keys.push(key.to_owned());
        }
    }
    Ok(keys)
}

fn by_chat_template(
    conversation: &Conversation,
    keys: &[String],
    source: &Source,
    how: &ChatTemplate,
    engine: &dyn Engine,
) -> Result<Script, ConversationError> {
    let mut dialogue = Dialogue::open(conversation, keys, source, engine.templates(), how)?;
    let Whole { tokens, memories, responses, own_from } = dialogue.whole(engine)?;
    let response = |(entry, scored): (usize, Range<usize>)| {
        let text = conversation.conversation[entry].text.clone();
        let text = text.unwrap_or_else(|| engine.decode(&tokens[scored.clone()]));
        Response { entry, text: text.chars().take(SHOWN_CHARS).collect(), scored }
    };
    let responses = responses.into_iter().map(response).collect();
    let memories = memories.into_iter().map(|(key, spans)| Memory { key, spans }).collect();
    let used = dialogue.used();
    Ok(Script {
        memories,
        responses,
        entries: 0,
        own_from,
        used,
        dialogue: Some(Arc::new(dialogue)),
        tokens,
    })
}

fn plain(
    conversation: &Conversation,
    template: &Template,
    with_first: bool,
    notes: Vec<String>,
    engine: &dyn Engine,
) -> Result<Script, ConversationError> {
    let mut writer = Writer {
        script: Script::default(),
        headers: HashMap::new(),
        template,
        engine,
        fixed: 0,
        spelled: 0,
    };
    if with_first {
        writer.script.tokens.extend_from_slice(&engine.identity().first);
    }
    writer.fixed = writer.script.tokens.len();
    let mut own_from = None;
    for (section, at, entry) in all(conversation) {
        if section == "conversation" {
            own_from.get_or_insert(writer.script.tokens.len());
        }
        writer.entry(section, at, entry)?;
    }
    let Writer { mut script, spelled, .. } = writer;
    script.own_from = own_from.unwrap_or(script.tokens.len());
    let mut notes = notes;
    if spelled > 0 {
        notes.push(format!(
            "in {spelled} entries calls of tools, thoughts and names stand as JSON before the text, for there is no chat template"
        ));
    }
    if conversation.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
        notes.push("the tools are left out: without a chat template they have no place".to_owned());
    }
    script.used = TemplateUse {
        source: NONE.to_owned(),
        digest: hex(&sha256(format!("{}\0{}", template.header, template.footer).as_bytes())),
        memories: "memory".to_owned(),
        now_s: None,
        notes: Some(notes).filter(|notes| !notes.is_empty()),
    };
    Ok(script)
}

struct Writer<'a> {
    script: Script,
    headers: HashMap<String, (Vec<u32>, Vec<u32>)>,
    template: &'a Template,
    engine: &'a dyn Engine,
    /// Tokens so far that no removal takes away.
    fixed: usize,
    /// Entries that have more than a text.
    spelled: usize,
}

impl Writer<'_> {
    /// Appends an entry that was checked.
    fn entry(&mut self, section: &str, at: usize, entry: &Entry) -> Result<(), ConversationError> {
        let from = self.script.tokens.len();
        if let (true, Some(key)) = (is_memory(entry), &entry.key) {
            let fixed = self.fixed;
            self.write(entry, "memory")?;
            self.fixed = fixed;
            let span = from..self.script.tokens.len();
            let memories = &mut self.script.memories;
            match memories.iter_mut().find(|memory| memory.key == *key) {
                Some(known) => known.spans.push(span),
                None => memories.push(Memory { key: key.clone(), spans: vec![span] }),
            }
            return Ok(());
        }
        let role = entry.role.as_deref().unwrap_or(section);
        let before = self.fixed;
        let mut scored = self.write(entry, role)?;
        if section == "conversation" && role == "assistant" {
            // Nothing precedes a first token once all memories are gone; then it is scored in no
            // case.
            if before == 0 && scored.start == from && !scored.is_empty() {
                scored.start += 1;
            }
            let text = match &entry.text {
                Some(text) => text.chars().take(SHOWN_CHARS).collect(),
                None => self
                    .engine
                    .decode(&self.script.tokens[scored.clone()])
                    .chars()
                    .take(SHOWN_CHARS)
                    .collect(),
            };
            self.script.responses.push(Response { entry: at, scored, text });
        }
        Ok(())
    }

    /// Appends an entry and gives the place of its own text.
    fn write(&mut self, entry: &Entry, role: &str) -> Result<Range<usize>, ConversationError> {
        let from = self.script.tokens.len();
        let inner = match &entry.tokens {
            None => {
                let (header, footer) = self.around(role)?;
                let text = self.spell(entry);
                let text = self.engine.encode(&text)?;
                let tokens = &mut self.script.tokens;
                tokens.extend(header);
                let start = tokens.len();
                tokens.extend(text);
                let end = tokens.len();
                tokens.extend(footer);
                start..end
            }
            Some(ids) => {
                let vocabulary = self.engine.identity().vocabulary;
                if let Some(token) = ids.iter().find(|id| **id >= vocabulary) {
                    return Err(EngineError::NoSuchToken { token: *token, vocabulary }.into());
                }
                self.script.tokens.extend(ids);
                from..from + ids.len()
            }
        };
        self.fixed += self.script.tokens.len() - from;
        Ok(inner)
    }

    /// An entry's text, behind what it has beside it.
    fn spell(&mut self, entry: &Entry) -> String {
        let mut beside = serde_json::Map::new();
        if let Some(name) = &entry.name {
            beside.insert("name".to_owned(), name.as_str().into());
        }
        if let Some(thoughts) = &entry.reasoning_content {
            beside.insert("reasoning_content".to_owned(), thoughts.as_str().into());
        }
        if let Some(calls) = &entry.tool_calls {
            beside.insert("tool_calls".to_owned(), serde_json::Value::Array(calls.clone()));
        }
        let text = entry.text.as_deref().unwrap_or_default();
        if beside.is_empty() {
            return text.to_owned();
        }
        self.spelled += 1;
        format!(
            "{}{}{text}",
            serde_json::Value::Object(beside),
            if text.is_empty() { "" } else { "\n" }
        )
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
