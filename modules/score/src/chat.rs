//! A model's chat template: where it lies, and a conversation's messages as the text that the model
//! was trained on.
//!
//! Templates are Jinja as `transformers` runs it (`trim_blocks`, `lstrip_blocks`, loop controls,
//! its own `tojson`, `raise_exception`, `strftime_now`); [`render`] runs them, [`apart`] in a
//! process of their own, [`python`] has what they expect of Python, [`dialogue`] puts a
//! conversation into messages and finds the entries in the text again.
//! <https://huggingface.co/docs/transformers/chat_templating_writing>
//!
//! Invariants: a template reads nothing but what it is given, and includes nothing; its size,
//! steps, depth, output, memory and time are bounded; what a folder has and cannot be used is
//! refused when it is asked for, by name.

pub mod apart;
pub mod dialogue;
mod python;
mod render;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use brahman_card::interface::score::ChatTemplate;
use brahman_storage::digest::{hex, sha256};
use serde_json::{Map, Value, json};
use thiserror::Error;

use apart::HelperError;
use render::{Recipe, RenderFailure, STEPS_MAX, TEXT_BYTES_MAX};

/// Bytes of a template: thirty times the longest that models come with.
const TEMPLATE_BYTES_MAX: usize = 512 << 10;
/// Templates of one model.
const TEMPLATES_MAX: usize = 64;

/// What the interpreter says of a template that it cannot run.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct TemplateFault(String);

/// Why a template gives no text.
#[derive(Clone, Debug, Error)]
pub enum ChatError {
    /// It is too long to be one.
    #[error(
        "the chat template {source_name} has {bytes} bytes, expected at most {TEMPLATE_BYTES_MAX}"
    )]
    TooLarge {
        /// Where it is from.
        source_name: String,
        /// Its length.
        bytes: usize,
    },
    /// Its file is damaged.
    #[error("the chat template {}: {why}", .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The model has none of that name.
    #[error("the model has no chat template `{name}`: expected {}", listed(there))]
    NoSuch {
        /// What was asked for.
        name: String,
        /// What there is.
        there: Vec<String>,
    },
    /// It is no template.
    #[error("the chat template {source_name} is not valid{}", at_line(line))]
    Syntax {
        /// Where it is from.
        source_name: String,
        /// Counted from 1.
        line: Option<usize>,
        /// What the parser says.
        #[source]
        source: TemplateFault,
    },
    /// It does not take this conversation.
    #[error("the chat template {source_name} refuses the conversation: {message}")]
    Refusal {
        /// Where it is from.
        source_name: String,
        /// In its own words.
        message: String,
    },
    /// It does not come to an end.
    #[error("the chat template {source_name} takes more than {STEPS_MAX} steps: does it loop?")]
    TooManySteps {
        /// Where it is from.
        source_name: String,
    },
    /// It makes too much of it.
    #[error(
        "the chat template {source_name} makes more than {TEXT_BYTES_MAX} bytes of the conversation"
    )]
    TooMuchText {
        /// Where it is from.
        source_name: String,
    },
    /// It makes too much on the way.
    #[error(
        "the chat template {source_name} takes more than {} MiB of memory, or nests too deep: does it double something again and again?",
        apart::MEMORY_BYTES_MAX >> 20
    )]
    TooMuchMemory {
        /// Where it is from.
        source_name: String,
    },
    /// Its steps are few and long.
    #[error(
        "the chat template {source_name} takes more than {} s of a processor",
        apart::SECONDS_MAX
    )]
    TooSlow {
        /// Where it is from.
        source_name: String,
    },
    /// Nobody runs it.
    #[error("the chat template {source_name} could not be run")]
    Helper {
        /// Where it is from.
        source_name: String,
        /// What became of who should.
        #[source]
        source: Arc<HelperError>,
    },
    /// It failed.
    #[error("the chat template {source_name} failed{}", at_line(line))]
    Failed {
        /// Where it is from.
        source_name: String,
        /// Counted from 1.
        line: Option<usize>,
        /// What went wrong.
        #[source]
        source: TemplateFault,
    },
    /// What is said of it is wrong.
    #[error("{field}: {why}")]
    Option {
        /// Which field.
        field: &'static str,
        /// What was expected.
        why: String,
    },
    /// A memory has no place.
    #[error(
        "memory `{key}` has no place in the conversation: the template takes no system message there, and there is no user's text"
    )]
    NoPlace {
        /// Its key.
        key: String,
    },
    /// An entry that cannot stand in a template.
    #[error("{place}: {why}")]
    Entry {
        /// Which.
        place: String,
        /// What was expected.
        why: String,
    },
    /// A response is not in the text without a memory.
    #[error("without the memory the template does not show the response of conversation[{entry}]")]
    Lost {
        /// Its place in the conversation.
        entry: usize,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "none, for it has none of its own".to_owned()
    } else {
        format!("{}, or none", names.join(", "))
    }
}

fn at_line(line: &Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line}"))
}

impl ChatError {
    /// Whether the template would fail so whatever it is given.
    fn is_of_any_messages(&self) -> bool {
        matches!(
            self,
            Self::Syntax { .. }
                | Self::TooMuchMemory { .. }
                | Self::TooSlow { .. }
                | Self::Helper { .. }
        )
    }
}

/// One template of a model.
#[derive(Clone, Debug)]
struct NamedTemplate {
    name: String,
    /// Its file, and its name there if that has several.
    source_name: String,
    text: Result<String, ChatError>,
}

/// The templates of a model's folder, and the special tokens that they may name.
#[derive(Clone, Debug, Default)]
pub struct Templates {
    templates: Vec<NamedTemplate>,
    special: Map<String, Value>,
}

/// A template that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As the reply names it.
    pub name: String,
    /// The template.
    pub text: String,
}

impl Source {
    /// A template, unless it is too long to be one.
    ///
    /// # Errors
    /// [`ChatError::TooLarge`].
    pub fn new(name: &str, text: &str) -> Result<Self, ChatError> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(ChatError::TooLarge { source_name: name.to_owned(), bytes: text.len() });
        }
        Ok(Self { name: name.to_owned(), text: text.to_owned() })
    }

    /// Its SHA-256, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&sha256(self.text.as_bytes()))
    }
}

impl Templates {
    /// Reads a folder: `chat_template.jinja` with those of `additional_chat_templates/` beside it,
    /// else `chat_template` of `tokenizer_config.json`, else `chat_template.json`. What is not
    /// there is no template; what is damaged says so when it is asked for.
    #[must_use]
    pub fn read(folder: &Path) -> Self {
        let config = json_of(&folder.join("tokenizer_config.json"));
        let special = special_tokens(
            config.as_ref().ok().and_then(Option::as_ref),
            &folder.join("special_tokens_map.json"),
        );
        let mut templates = Vec::new();
        let mut add = |name: &str, source_name: String, text: Result<String, ChatError>| {
            let text =
                text.and_then(|text| Source::new(&source_name, &text).map(|source| source.text));
            if templates.len() < TEMPLATES_MAX {
                templates.push(NamedTemplate { name: name.to_owned(), source_name, text });
            }
        };
        let own = folder.join("chat_template.jinja");
        if own.is_file() {
            add("default", "chat_template.jinja".to_owned(), text_of(&own));
            for (name, path) in additional(&folder.join("additional_chat_templates")) {
                add(&name, format!("additional_chat_templates/{name}.jinja"), text_of(&path));
            }
            return Self { templates, special };
        }
        for (file, config) in [
            ("tokenizer_config.json", config),
            ("chat_template.json", json_of(&folder.join("chat_template.json"))),
        ] {
            match config {
                Ok(None) => continue,
                Err(error) => add("default", file.to_owned(), Err(error)),
                Ok(Some(config)) => match &config["chat_template"] {
                    Value::String(text) => add("default", file.to_owned(), Ok(text.clone())),
                    Value::Array(several) => {
                        for one in several {
                            if let (Some(name), Some(text)) =
                                (one["name"].as_str(), one["template"].as_str())
                            {
                                add(name, format!("{file}:{name}"), Ok(text.to_owned()));
                            }
                        }
                    }
                    Value::Object(several) => {
                        for (name, text) in several {
                            add(
                                name,
                                format!("{file}:{name}"),
                                Ok(text.as_str().unwrap_or_default().to_owned()),
                            );
                        }
                    }
                    _ => continue,
                },
            }
            break;
        }
        Self { templates, special }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.templates.is_empty()
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.templates.iter().map(|one| one.name.clone()).collect()
    }

    /// The template of this name; without one, the one for tools if there are some, else the
    /// default; `None` if the model has none.
    ///
    /// # Errors
    /// [`ChatError`]: no such template, or one that cannot be used.
    pub fn choose(&self, name: Option<&str>, tools: bool) -> Result<Option<Source>, ChatError> {
        let of = |name: &str| self.templates.iter().find(|one| one.name == name);
        let found =
            match name {
                Some(name) => Some(of(name).ok_or_else(|| ChatError::NoSuch {
                    name: name.to_owned(),
                    there: self.names(),
                })?),
                None if tools => of("tool_use").or_else(|| of("default")),
                None => of("default"),
            };
        match found {
            Some(found) => {
                Ok(Some(Source { name: found.source_name.clone(), text: found.text.clone()? }))
            }
            // Several, and none is the default: which one it is must be said.
            None if !self.is_empty() => {
                Err(ChatError::NoSuch { name: "default".to_owned(), there: self.names() })
            }
            None => Ok(None),
        }
    }
}

/// A file's JSON; `None` if there is no such file.
fn json_of(path: &Path) -> Result<Option<Value>, ChatError> {
    let unreadable = |why: String| ChatError::Unreadable { path: path.to_owned(), why };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| unreadable(format!("not JSON: {error}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

fn text_of(path: &Path) -> Result<String, ChatError> {
    let unreadable = |why: String| ChatError::Unreadable { path: path.to_owned(), why };
    let bytes =
        std::fs::metadata(path).map(|meta| usize::try_from(meta.len()).unwrap_or(usize::MAX));
    let bytes = bytes.map_err(|error| unreadable(error.to_string()))?;
    if bytes > TEMPLATE_BYTES_MAX {
        return Err(ChatError::TooLarge { source_name: path.display().to_string(), bytes });
    }
    std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))
}

/// Names and files of a folder of templates, by name.
fn additional(folder: &Path) -> Vec<(String, PathBuf)> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = files.filter(|path| path.extension().is_some_and(|ending| ending == "jinja"));
    let mut named: Vec<(String, PathBuf)> = named
        .filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path)))
        .take(TEMPLATES_MAX)
        .collect();
    named.sort();
    named
}

/// The texts of `bos_token` and its like.
fn special_tokens(config: Option<&Value>, map: &Path) -> Map<String, Value> {
    let map = json_of(map).ok().flatten();
    let text =
        |value: &Value| value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned);
    let mut special = Map::new();
    for name in
        ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
    {
        let found = config
            .and_then(|config| text(&config[name]))
            .or_else(|| map.as_ref().and_then(|map| text(&map[name])));
        if let Some(found) = found {
            special.insert(name.to_owned(), found.into());
        }
    }
    special
}

/// A template that is ready to be run.
#[derive(Debug)]
pub struct Renderer {
    recipe: Recipe,
    source_name: String,
    asked_for_time: AtomicBool,
}

impl Renderer {
    /// A template with what every run of it is given. That it is one is seen when it is run.
    ///
    /// # Errors
    /// [`ChatError::Option`].
    pub fn new(
        source: &Source,
        templates: Option<&Templates>,
        tools: Option<&[Value]>,
        how: &ChatTemplate,
    ) -> Result<Self, ChatError> {
        let mut variables = templates.map_or_else(Map::new, |templates| templates.special.clone());
        variables.insert(
            "tools".to_owned(),
            tools.map_or(Value::Null, |tools| Value::Array(tools.to_vec())),
        );
        variables.insert("documents".to_owned(), Value::Null);
        variables.insert("add_generation_prompt".to_owned(), false.into());
        match &how.variables {
            None => {}
            Some(Value::Object(more)) => {
                variables.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            Some(_) => {
                return Err(ChatError::Option {
                    field: "chat_template.variables",
                    why: "expected an object".to_owned(),
                });
            }
        }
        let now_s = how.now_s.unwrap_or_else(|| {
            i64::try_from(brahman_card::clock::now_ms() / 1000).unwrap_or(i64::MAX)
        });
        let recipe = Recipe { text: source.text.clone(), variables, now_s };
        Ok(Self {
            recipe,
            source_name: source.name.clone(),
            asked_for_time: AtomicBool::new(false),
        })
    }

    /// The text that the template makes of messages.
    ///
    /// # Errors
    /// [`ChatError`], which names the template's line.
    pub fn render(&self, messages: Vec<Value>) -> Result<String, ChatError> {
        let rendering =
            apart::run(&self.recipe, messages).map_err(|error| self.unfinished(error))?;
        if rendering.asked_for_time {
            self.asked_for_time.store(true, Ordering::Relaxed);
        }
        rendering.outcome.map_err(|failure| self.failure(failure))
    }

    fn unfinished(&self, error: HelperError) -> ChatError {
        let source_name = self.source_name.clone();
        match error {
            HelperError::TooMuchMemory => ChatError::TooMuchMemory { source_name },
            HelperError::TooSlow => ChatError::TooSlow { source_name },
            error => ChatError::Helper { source_name, source: Arc::new(error) },
        }
    }

    fn failure(&self, failure: RenderFailure) -> ChatError {
        let source_name = self.source_name.clone();
        match failure {
            RenderFailure::Syntax { line, why } => {
                ChatError::Syntax { source_name, line, source: TemplateFault(why) }
            }
            RenderFailure::Refusal { message } => ChatError::Refusal { source_name, message },
            RenderFailure::TooManySteps => ChatError::TooManySteps { source_name },
            RenderFailure::TooMuchText => ChatError::TooMuchText { source_name },
            RenderFailure::Failed { line, why } => {
                ChatError::Failed { source_name, line, source: TemplateFault(why) }
            }
        }
    }

    /// The time that it was told, if any run so far has asked for it.
    #[must_use]
    pub fn now_s(&self) -> Option<i64> {
        self.asked_for_time.load(Ordering::Relaxed).then_some(self.recipe.now_s)
    }
}

/// A message as a template has it.
fn message(role: &str, content: Value) -> Map<String, Value> {
    let mut message = Map::new();
    message.insert("role".to_owned(), json!(role));
    message.insert("content".to_owned(), content);
    message
}

#[cfg(test)]
mod tests;
