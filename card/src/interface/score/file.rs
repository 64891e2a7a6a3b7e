//! A file with a conversation, in the shapes that people have: our own, a chat API's, ShareGPT's;
//! JSON, or JSON a line.
//!
//! Invariants: what a shape does not have is refused by its place in the file, never passed over;
//! nothing is guessed from a text's content but which of the shapes it has. Pure: who calls opens
//! files.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use thiserror::Error;

use super::{Conversation, Entry, Message};

/// What is expected where nothing fits.
const EXPECTED: &str = "expected {\"conversation\": […]} with entries of role, text or tokens, and key, {\"messages\": […]}, \
                        {\"conversations\": [{\"from\", \"value\"}]}, a list of messages, or one of these or a message a line";
/// Longest place and word of a file that an error shows.
const SHOWN_CHARS: usize = 120;

/// Why a file is not read.
#[derive(Debug, Error)]
pub enum FileError {
    /// It is no text.
    #[error("the file is not UTF-8: byte {byte} begins no character")]
    NotText {
        /// Its place, counted from 0.
        byte: usize,
    },
    /// It is UTF-16 that is cut or damaged.
    #[error("the file begins as UTF-16 and is not: save it as UTF-8")]
    NotUtf16,
    /// It has nothing in it.
    #[error("the file is empty: {EXPECTED}")]
    Empty,
    /// It is no JSON.
    #[error("the file is not JSON, line {line}")]
    Json {
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        #[source]
        source: serde_json::Error,
    },
    /// It has several conversations.
    #[error("the file has {count} conversations, one a line: say which by `line`, 1 to {count}")]
    Several {
        /// So many.
        count: usize,
    },
    /// It does not have the one that was named.
    #[error("the file has {count} conversations, and no {line}: expected `line` from 1 on")]
    NoSuchLine {
        /// Which was named.
        line: u64,
        /// How many it has.
        count: usize,
    },
    /// A part of it is not as it should be.
    #[error("{at} (line {line}, column {column}): {why}")]
    Place {
        /// Path of names and places.
        at: String,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What was found, and what was expected.
        why: String,
    },
    /// A message is not as it should be.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// A message that cannot be scored.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{at}: {why}")]
pub struct MessageError {
    /// Which, and which of its fields.
    pub at: String,
    /// What was found, and what was expected.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrappedConversation {
    conversation: Conversation,
}

/// A chat API's request, or a line of a file to train on. What has no part in the tokens is let be,
/// by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chat {
    messages: Vec<Message>,
    tools: Option<Vec<Value>>,
    #[serde(rename = "model")]
    _model: Option<IgnoredAny>,
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    #[serde(rename = "parallel_tool_calls")]
    _parallel: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShareGpt {
    conversations: Vec<TurnText>,
    system: Option<String>,
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
}

/// A turn of ShareGPT.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TurnText {
    from: String,
    value: String,
    #[serde(rename = "weight")]
    _weight: Option<IgnoredAny>,
}

/// Which shape a text has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Wrapped,
    Bare,
    Chat,
    ShareGpt,
    Messages,
    Entries,
    Turns,
}

impl Shape {
    /// Of a JSON value.
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Object(object) if object.contains_key("messages") => Some(Self::Chat),
            Value::Object(object) if object.contains_key("conversations") => Some(Self::ShareGpt),
            Value::Object(object) if object.get("conversation").is_some_and(Value::is_object) => {
                Some(Self::Wrapped)
            }
            Value::Object(object) if object.contains_key("conversation") => Some(Self::Bare),
            Value::Array(list) => list.first().map_or(Some(Self::Messages), Self::of_one),
            _ => None,
        }
    }

    /// Of one message, entry or turn: what a list of such is.
    fn of_one(value: &Value) -> Option<Self> {
        let object = value.as_object()?;
        let has = |names: &[&str]| names.iter().any(|name| object.contains_key(*name));
        match () {
            () if has(&["from", "value"]) => Some(Self::Turns),
            () if has(&["text", "tokens", "key"]) => Some(Self::Entries),
            () if has(&["role", "content"]) => Some(Self::Messages),
            () => None,
        }
    }
}

/// Reads a file's bytes.
///
/// # Errors
/// [`FileError`], which names the line and what was expected.
pub fn read(bytes: &[u8], line: Option<u64>) -> Result<Conversation, FileError> {
    let text = text(bytes)?;
    let lines: Vec<(usize, &str)> =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
    let Some((_, first)) = lines.first() else { return Err(FileError::Empty) };
    // A text of several lines whose first is a whole object is one a line; what is laid out for
    // people breaks off there.
    if lines.len() > 1
        && first.trim_start().starts_with('{')
        && serde_json::from_str::<IgnoredAny>(first).is_ok()
    {
        return read_lines(&lines, line);
    }
    pick(line, 1)?;
    read_one(&text, 0)
}

/// One JSON value; `before` lines stand above it in the file.
fn read_one(text: &str, before: usize) -> Result<Conversation, FileError> {
    let value: Value = serde_json::from_str(text)
        .map_err(|source| FileError::Json { line: before + source.line(), source })?;
    let unfit = || FileError::Place {
        at: "the file".to_owned(),
        line: before + 1,
        column: 1,
        why: EXPECTED.to_owned(),
    };
    match Shape::of(&value).ok_or_else(unfit)? {
        Shape::Wrapped => {
            typed::<WrappedConversation>(text, before).map(|wrapped| wrapped.conversation)
        }
        Shape::Bare => typed(text, before),
        Shape::Chat => {
            let Chat { messages, tools, .. } = typed(text, before)?;
            Ok(from_messages(messages, tools)?)
        }
        Shape::ShareGpt => {
            let ShareGpt { conversations, system, .. } = typed(text, before)?;
            from_turns(conversations, system)
        }
        Shape::Messages => Ok(from_messages(typed(text, before)?, None)?),
        Shape::Entries => {
            Ok(Conversation { conversation: typed(text, before)?, ..Conversation::default() })
        }
        Shape::Turns => from_turns(typed(text, before)?, None),
    }
}

/// A JSON value a line: the messages of one conversation, or several conversations.
fn read_lines(lines: &[(usize, &str)], line: Option<u64>) -> Result<Conversation, FileError> {
    let (at, text) = lines[0];
    let value: Value =
        serde_json::from_str(text).map_err(|source| FileError::Json { line: at + 1, source })?;
    if Shape::of(&value).is_some() {
        let chosen = pick(line, lines.len())?;
        let (at, text) = lines[chosen];
        return read_one(text, at);
    }
    pick(line, 1)?;
    match Shape::of_one(&value) {
        Some(Shape::Turns) => from_turns(each(lines)?, None),
        Some(Shape::Entries) => {
            Ok(Conversation { conversation: each(lines)?, ..Conversation::default() })
        }
        Some(_) => Ok(from_messages(each(lines)?, None)?),
        None => Err(FileError::Place {
            at: "the line".to_owned(),
            line: at + 1,
            column: 1,
            why: EXPECTED.to_owned(),
        }),
    }
}

fn each<T: DeserializeOwned>(lines: &[(usize, &str)]) -> Result<Vec<T>, FileError> {
    lines.iter().map(|(at, text)| typed(text, *at)).collect()
}

/// Which of so many conversations; its place, counted from 0.
fn pick(line: Option<u64>, count: usize) -> Result<usize, FileError> {
    match line {
        None if count > 1 => Err(FileError::Several { count }),
        None => Ok(0),
        Some(line) => {
            let place =
                usize::try_from(line).ok().and_then(|n| n.checked_sub(1)).filter(|n| *n < count);
            place.ok_or(FileError::NoSuchLine { line, count })
        }
    }
}

fn typed<T: DeserializeOwned>(text: &str, before: usize) -> Result<T, FileError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let at: String = error.path().to_string().chars().take(SHOWN_CHARS).collect();
        let inner = error.into_inner();
        let (line, column) = (before + inner.line(), inner.column());
        // Its own place counts from the line's beginning, and ours is said already.
        let why = inner.to_string();
        let why = why
            .rsplit_once(" at line ")
            .map_or(why.as_str(), |(why, _)| why)
            .chars()
            .take(4 * SHOWN_CHARS)
            .collect();
        FileError::Place { at, line, column, why }
    })
}

/// A file's text, without the mark that editors put first.
fn text(bytes: &[u8]) -> Result<Cow<'_, str>, FileError> {
    let units = |pair: fn([u8; 2]) -> u16| {
        bytes[2..].chunks_exact(2).map(move |two| pair([two[0], two[1]]))
    };
    let wide: Option<Vec<u16>> = match bytes {
        [0xFF, 0xFE, ..] => Some(units(u16::from_le_bytes).collect()),
        [0xFE, 0xFF, ..] => Some(units(u16::from_be_bytes).collect()),
        _ => None,
    };
    if let Some(wide) = wide {
        let whole = bytes.len().is_multiple_of(2);
        return String::from_utf16(&wide)
            .ok()
            .filter(|_| whole)
            .map(Cow::Owned)
            .ok_or(FileError::NotUtf16);
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    std::str::from_utf8(bytes)
        .map(Cow::Borrowed)
        .map_err(|error| FileError::NotText { byte: error.valid_up_to() })
}

/// Messages of a chat as a conversation.
///
/// # Errors
/// [`MessageError`], which names the message.
pub fn from_messages(
    messages: Vec<Message>,
    tools: Option<Vec<Value>>,
) -> Result<Conversation, MessageError> {
    let entry = |(at, message): (usize, Message)| {
        let has_calls = message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
        let text = match text_of(&message.content, at)? {
            Some(text) => Some(text),
            // What the call of a tool leaves.
            None if has_calls => None,
            None => Some(String::new()),
        };
        Ok(Entry {
            role: Some(message.role),
            text,
            tokens: None,
            key: message.memory,
            name: message.name,
            tool_calls: message.tool_calls,
            tool_call_id: message.tool_call_id,
            reasoning_content: message.reasoning_content,
        })
    };
    let conversation =
        messages.into_iter().enumerate().map(entry).collect::<Result<_, MessageError>>()?;
    Ok(Conversation { conversation, tools, ..Conversation::default() })
}

/// A content's text; `None` if it is null.
fn text_of(content: &Value, at: usize) -> Result<Option<String>, MessageError> {
    let unfit = |place: String, why: String| MessageError {
        at: format!("messages[{at}].content{place}"),
        why,
    };
    match content {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Array(parts) => {
            let text = |(n, part): (usize, &Value)| {
                let kind = part["type"].as_str().unwrap_or("text");
                if !matches!(kind, "text" | "input_text" | "output_text") {
                    let kind: String = kind.chars().take(SHOWN_CHARS).collect();
                    return Err(unfit(
                        format!("[{n}]"),
                        format!("a part of type `{kind}`: only text is scored, leave it out"),
                    ));
                }
                part["text"]
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| unfit(format!("[{n}].text"), "expected a string".to_owned()))
            };
            Ok(Some(parts.iter().enumerate().map(text).collect::<Result<String, _>>()?))
        }
        _ => Err(unfit(
            String::new(),
            "expected a string, a list of parts with `text`, or null".to_owned(),
        )),
    }
}

fn from_turns(turns: Vec<TurnText>, system: Option<String>) -> Result<Conversation, FileError> {
    let entry = |(at, turn): (usize, TurnText)| {
        let role = match turn.from.as_str() {
            "human" | "user" => "user",
            "gpt" | "chatgpt" | "assistant" | "model" | "function_call" => "assistant",
            "system" => "system",
            "tool" | "observation" | "function_response" => "tool",
            other => {
                let other: String = other.chars().take(SHOWN_CHARS).collect();
                let why = format!(
                    "`{other}`: expected human, gpt, system, tool, function_call or observation"
                );
                return Err(MessageError { at: format!("conversations[{at}].from"), why });
            }
        };
        Ok(Entry { role: Some(role.to_owned()), text: Some(turn.value), ..Entry::default() })
    };
    let conversation =
        turns.into_iter().enumerate().map(entry).collect::<Result<_, MessageError>>()?;
    let system = system.map(|text| vec![Entry { text: Some(text), ..Entry::default() }]);
    Ok(Conversation { system, conversation, ..Conversation::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Role and text of each entry.
    fn entries(file: &str, line: Option<u64>) -> Vec<(String, String)> {
        let conversation = read(file.as_bytes(), line).unwrap_or_else(|e| panic!("{file}: {e}"));
        let pair = |entry: Entry| (entry.role.unwrap_or_default(), entry.text.unwrap_or_default());
        conversation
            .system
            .into_iter()
            .flatten()
            .chain(conversation.conversation)
            .map(pair)
            .collect()
    }

    #[test]
    fn a_conversation_is_the_same_in_every_shape() {
        let turns = vec![
            ("user".to_owned(), "Hello.".to_owned()),
            ("assistant".to_owned(), "Hi.".to_owned()),
        ];
        for file in [
            r#"{"conversation":[{"role":"user","text":"Hello."},{"role":"assistant","text":"Hi."}]}"#,
            r#"{"conversation":{"conversation":[{"role":"user","text":"Hello."},{"role":"assistant","text":"Hi."}]}}"#,
            r#"{"messages":[{"role":"user","content":"Hello."},{"role":"assistant","content":"Hi."}],"model":"m"}"#,
            r#"[{"role":"user","content":[{"type":"text","text":"Hel"},{"type":"text","text":"lo."}]},{"role":"assistant","content":"Hi."}]"#,
            r#"[{"role":"user","text":"Hello."},{"role":"assistant","text":"Hi."}]"#,
            r#"{"conversations":[{"from":"human","value":"Hello."},{"from":"gpt","value":"Hi."}],"id":"7"}"#,
            "{\"role\":\"user\",\"content\":\"Hello.\"}\n\n{\"role\":\"assistant\",\"content\":\"Hi.\"}\n",
            "{\"from\":\"human\",\"value\":\"Hello.\"}\r\n{\"from\":\"gpt\",\"value\":\"Hi.\"}\r\n",
            "\u{feff}{\n \"messages\": [\n {\"role\":\"user\",\"content\":\"Hello.\"},\n {\"role\":\"assistant\",\"content\":\"Hi.\"}]\n}",
        ] {
            assert_eq!(entries(file, None), turns, "{file}");
        }
        let wide: Vec<u8> = "\u{feff}[{\"role\":\"user\",\"content\":\"ü\"}]"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(read(&wide, None).expect("UTF-16").conversation[0].text.as_deref(), Some("ü"));
    }

    #[test]
    fn of_several_conversations_one_is_named() {
        let file = "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n{\"messages\":[{\"role\":\"user\",\"content\":\"b\"}]}\n";
        assert_eq!(entries(file, Some(2))[0].1, "b");
        assert!(matches!(read(file.as_bytes(), None), Err(FileError::Several { count: 2 })));
        assert!(matches!(
            read(file.as_bytes(), Some(3)),
            Err(FileError::NoSuchLine { line: 3, count: 2 })
        ));
        assert!(matches!(read(file.as_bytes(), Some(0)), Err(FileError::NoSuchLine { .. })));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place() {
        for (file, words) in [
            ("", "empty"),
            ("nothing", "line 1"),
            ("{\"conversation\":[\n{\"role\":\"user\",\"txt\":\"a\"}]}", "(line 2, column"),
            ("{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"weight\":0}]}", "weight"),
            (
                "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
                "messages[0].content[0]: a part of type `image_url`",
            ),
            (
                "{\"messages\":[{\"role\":\"user\",\"content\":7}]}",
                "messages[0].content: expected a string",
            ),
            (
                "{\"conversations\":[{\"from\":\"cat\",\"value\":\"a\"}]}",
                "conversations[0].from: `cat`",
            ),
            ("{\"conversation\":[],\"sytem\":[]}", "sytem"),
            (
                "{\"role\":\"user\",\"content\":\"a\"}\n{\"role\":\"user\",\"contnt\":\"a\"}",
                "(line 2, column",
            ),
            ("{\"role\":\"user\",\"content\":\"a\"}\n{\"role\":", "line 2"),
            ("7", "expected"),
        ] {
            let error = read(file.as_bytes(), None).expect_err(file);
            assert!(error.to_string().contains(words), "{file}: {error}");
        }
        assert!(matches!(read(b"{\"a\": \"\xff\"}", None), Err(FileError::NotText { byte: 7 })));
    }

    #[test]
    fn a_call_of_a_tool_stays_what_it_is() {
        let file = r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{"b":1,"a":2}}}]},
            {"role":"tool","content":"3","name":"f","tool_call_id":"x","memory":"k"}],"tools":[{"type":"function"}]}"#;
        let conversation = read(file.as_bytes(), None).expect("read");
        let [call, result] = &conversation.conversation[..] else { panic!("{conversation:?}") };
        assert_eq!((call.text.as_deref(), call.tool_calls.as_ref().map(Vec::len)), (None, Some(1)));
        let said = call.tool_calls.as_ref().map(|calls| calls[0].to_string());
        assert_eq!(
            said.as_deref(),
            Some(r#"{"function":{"name":"f","arguments":{"b":1,"a":2}}}"#),
            "in its own order"
        );
        assert_eq!(
            (result.key.as_deref(), result.name.as_deref(), result.tool_call_id.as_deref()),
            (Some("k"), Some("f"), Some("x"))
        );
        assert_eq!(conversation.tools.map(|tools| tools.len()), Some(1));
    }
}
