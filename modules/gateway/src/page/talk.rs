//! A conversation as somebody pastes it: JSON in any of the shapes that the command line reads, or
//! lines that begin with who speaks. Pure.

use brahman_card::chain;
use brahman_card::interface::score::{Conversation, Entry, file};

use crate::refusal::Refusal;

/// Longest conversation that the page scores, in bytes; the method itself takes longer ones.
const TALK_BYTES_MAX: usize = 1024 * 1024;
/// Who may speak.
const ROLES: [&str; 5] = ["user", "assistant", "system", "developer", "tool"];

/// What is there before anybody has pasted anything.
pub(super) const EXAMPLE: &str = "system: You are a sailor's assistant, and brief.
memory boat: The boat is called Kolva, and lies in Umag.
memory tea: The sailor takes tea without milk.
user: What is my boat called?
assistant: Your boat is called Kolva.
user: And where does it lie?
assistant: The Kolva lies in Umag.";

/// Reads a conversation.
///
/// # Errors
/// 400, which says what was expected, and in which line.
pub(super) fn read(text: &str) -> Result<Conversation, Refusal> {
    if text.len() > TALK_BYTES_MAX {
        let expected = format!(
            "{} bytes: expected at most {TALK_BYTES_MAX}; `brahman score matrix` takes longer ones",
            text.len()
        );
        return Err(Refusal::parameter("talk", expected));
    }
    if text.trim_start().starts_with(['{', '[']) {
        return file::read(text.as_bytes(), None)
            .map_err(|error| Refusal::parameter("talk", chain(&error)));
    }
    pasted(text)
}

/// A line that begins with who speaks begins an entry; any other goes on with the one before.
fn pasted(text: &str) -> Result<Conversation, Refusal> {
    let mut entries: Vec<Entry> = Vec::new();
    for (number, line) in (1_usize..).zip(text.lines()) {
        let speaker =
            line.split_once(':').and_then(|(who, said)| Some((speaker(who)?, said.trim())));
        if let Some(((role, key), said)) = speaker {
            let key = (role == "memory")
                .then(|| key.map_or_else(|| format!("line {number}"), str::to_owned));
            entries.push(Entry {
                role: Some(role.to_owned()),
                text: Some(said.to_owned()),
                key,
                ..Entry::default()
            });
        } else if let Some(entry) = entries.last_mut() {
            let words = entry.text.get_or_insert_default();
            words.push('\n');
            words.push_str(line);
        } else if !line.trim().is_empty() {
            let expected = format!(
                "line {number}: expected JSON, or a line that begins with `user:`, `assistant:` or `memory KEY:`"
            );
            return Err(Refusal::parameter("talk", expected));
        }
    }
    for text in entries.iter_mut().filter_map(|entry| entry.text.as_mut()) {
        text.truncate(text.trim_end().len());
    }
    if !entries.iter().any(|entry| entry.role.as_deref() == Some("assistant")) {
        return Err(Refusal::parameter(
            "talk",
            "expected a response: a line that begins with `assistant:`",
        ));
    }
    Ok(Conversation { conversation: entries, ..Conversation::default() })
}

/// Who speaks, and a memory's key.
fn speaker(who: &str) -> Option<(&'static str, Option<&str>)> {
    let who = who.trim();
    if let Some(role) = ROLES.into_iter().find(|role| role.eq_ignore_ascii_case(who)) {
        return Some((role, None));
    }
    let (first, key) =
        who.split_once(' ').map_or((who, None), |(first, key)| (first, Some(key.trim())));
    first.eq_ignore_ascii_case("memory").then_some(("memory", key.filter(|key| !key.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pasted_conversation_is_read_line_by_line() {
        let read = read("\nsystem: Be brief.\nmemory boat: It is\ncalled: Kolva.\nMemory: Tea.\n\nuser: Hi\nassistant: Yes").expect("read");
        let entries: Vec<(Option<&str>, Option<&str>, Option<&str>)> = read
            .conversation
            .iter()
            .map(|entry| (entry.role.as_deref(), entry.key.as_deref(), entry.text.as_deref()))
            .collect();
        assert_eq!(
            entries,
            [
                (Some("system"), None, Some("Be brief.")),
                (Some("memory"), Some("boat"), Some("It is\ncalled: Kolva.")),
                (Some("memory"), Some("line 5"), Some("Tea.")),
                (Some("user"), None, Some("Hi")),
                (Some("assistant"), None, Some("Yes")),
            ]
        );
        assert_eq!(super::read(EXAMPLE).expect("the example").conversation.len(), 7);
        let json = super::read(
            " {\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Yes\"}]}",
        );
        assert_eq!(json.expect("JSON").conversation.len(), 2);
    }

    #[test]
    fn what_is_no_conversation_is_refused_with_its_line() {
        for (text, names) in [
            ("hello", "line 1"),
            ("\n\nhello: x", "line 3"),
            ("user: x", "assistant"),
            ("{\"x\": 1", "JSON"),
            ("", "assistant"),
        ] {
            let refusal = read(text).expect_err(text);
            assert!(refusal.fault.message().contains(names), "{text}: {}", refusal.fault.message());
        }
        assert!(read(&"user: x\n".repeat(200_000)).is_err());
    }
}
