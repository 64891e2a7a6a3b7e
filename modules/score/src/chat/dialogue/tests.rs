//! Conversations with and without their memories, by templates of several kinds.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::conversation::{ConversationError, Layout, Script, script};
use crate::mock::Mock;

const CHATML: &str = include_str!("../../../../../tests/assets/templates/chatml.jinja");
const LLAMA3: &str = include_str!("../../../../../tests/assets/templates/llama3.jinja");
const MISTRAL: &str = include_str!("../../../../../tests/assets/templates/mistral.jinja");
const GEMMA: &str = include_str!("../../../../../tests/assets/templates/gemma.jinja");
const QWEN: &str = include_str!("../../../../../tests/assets/templates/qwen.jinja");
const FAMILIES: [&str; 5] = [CHATML, LLAMA3, MISTRAL, GEMMA, QWEN];

fn layout(template: &str) -> Layout {
    let variables = Some(json!({ "bos_token": "<s>", "eos_token": "</s>" }));
    Layout {
        template: None,
        chat: ChatTemplate {
            text: Some(template.to_owned()),
            variables,
            ..ChatTemplate::default()
        },
    }
}

fn read(template: &str, conversation: &Value) -> Result<Script, ConversationError> {
    let conversation: Conversation =
        serde_json::from_value(conversation.clone()).expect("a conversation");
    script(&conversation, &layout(template), &Mock::default())
}

fn text(tokens: &[u32]) -> String {
    Mock::default().decode(tokens)
}

fn entry(role: &str, text: &str) -> Value {
    json!({ "role": role, "text": text })
}

fn memory(key: &str, text: &str) -> Value {
    json!({ "role": "memory", "key": key, "text": text })
}

/// A conversation with memories before, between and behind.
fn example() -> Value {
    json!({ "system": [{ "text": "Be brief." }, { "key": "home", "text": "Home is Kolva." }], "conversation": [
        memory("gate", "The gate is blue."), entry("user", "Which colour?"), entry("assistant", "Blue."),
        memory("boat", "The boat is Zarnip."), entry("user", "And the boat?"), entry("assistant", "Zarnip."),
        entry("user", "Thanks."), entry("assistant", "Gladly."),
    ]})
}

fn remove(conversation: &Value, key: &str) -> Value {
    let mut less = conversation.clone();
    for section in ["system", "conversation"] {
        less[section].as_array_mut().expect("a list").retain(|entry| entry["key"] != key);
    }
    less
}

#[test]
fn what_is_left_is_what_the_template_makes_without_the_memory() {
    for (family, template) in FAMILIES.into_iter().enumerate() {
        let whole = read(template, &example()).unwrap_or_else(|e| panic!("{family}: {e}"));
        let said: Vec<String> =
            whole.responses.iter().map(|r| text(&whole.tokens[r.scored.clone()])).collect();
        assert_eq!(said, ["Blue.", "Zarnip.", "Gladly."], "{family}");
        let keys: Vec<&str> = whole.memories.iter().map(|memory| memory.key.as_str()).collect();
        assert_eq!(keys, ["home", "gate", "boat"], "{family}");
        for (m, memory) in whole.memories.iter().enumerate() {
            assert_eq!(memory.spans.len(), 1, "{family}");
            let dialogue = whole.dialogue.as_ref().expect("by a template");
            let gone = dialogue
                .without(&whole.scored(), &[m], &[0, 1, 2], &Mock::default())
                .unwrap_or_else(|e| panic!("{family}: {e}"));
            let less = read(template, &remove(&example(), &memory.key))
                .unwrap_or_else(|e| panic!("{family}: {e}"));
            assert_eq!(
                text(&gone.sequence.tokens),
                text(&less.tokens[..gone.sequence.tokens.len()]),
                "{family} {}",
                memory.key
            );
            let behind: Vec<usize> = if memory.key == "boat" { vec![1, 2] } else { vec![0, 1, 2] };
            assert_eq!(gone.responses, behind, "{family} {}", memory.key);
            for (r, wanted) in gone.responses.iter().zip(&gone.sequence.wanted) {
                assert_eq!(
                    text(&gone.sequence.tokens[wanted.clone()]),
                    said[*r],
                    "{family} {}",
                    memory.key
                );
            }
            assert_eq!(gone.respelled, 0, "{family}");
        }
        let all = whole.dialogue.as_ref().expect("by a template").without(
            &whole.scored(),
            &[0, 1, 2],
            &[0, 1, 2],
            &Mock::default(),
        );
        assert_eq!(all.expect("left").responses.len(), 3, "{family}");
    }
}

#[test]
fn where_memories_stand_is_told() {
    let used = |template: &str| read(template, &example()).expect("read").used;
    for (template, memories, system_notes) in [
        (CHATML, "system", 0),
        (LLAMA3, "system", 0),
        (QWEN, "system", 0),
        (MISTRAL, "user", 0),
        (GEMMA, "user", 1),
    ] {
        let used = used(template);
        assert_eq!((used.memories.as_str(), used.source.as_str()), (memories, "given"));
        let notes = used.notes.unwrap_or_default();
        let of_system = notes
            .iter()
            .filter(|note| note.contains("takes no system message") && note.contains("journal"))
            .count();
        assert_eq!(of_system, system_notes, "{notes:?}");
    }
    assert_eq!(
        read(MISTRAL, &example()).map(|script| text(&script.tokens)).expect("read"),
        concat!(
            "<s>[INST] Be brief.\n\nHome is Kolva.\n\nThe gate is blue.\n\nWhich colour?[/INST] Blue.</s>",
            "[INST] The boat is Zarnip.\n\nAnd the boat?[/INST] Zarnip.</s>[INST] Thanks.[/INST] Gladly.</s>",
        )
    );
    // What was asked for is done, or refused.
    let conversation: Conversation = serde_json::from_value(example()).expect("a conversation");
    let ask = |template: &str, memories: &str| {
        let mut layout = layout(template);
        layout.chat.memories = Some(memories.to_owned());
        script(&conversation, &layout, &Mock::default())
    };
    assert_eq!(ask(CHATML, "user").expect("read").used.memories, "user");
    let refused = ask(MISTRAL, "system").expect_err("refused");
    assert!(refused.to_string().contains("must alternate"), "{refused}");
    assert!(ask(CHATML, "elsewhere").is_err());
    // A memory in a message's role stands in that role.
    let own = json!({ "conversation": [{ "role": "user", "key": "k", "text": "I live in Kolva." }, entry("assistant", "Noted.")] });
    assert_eq!(
        text(&read(CHATML, &own).expect("read").tokens),
        "<|im_start|>user\nI live in Kolva.<|im_end|>\n<|im_start|>assistant\nNoted.<|im_end|>\n"
    );
}

#[test]
fn a_memory_that_is_a_part_of_another_is_itself() {
    let (short, long) = ("The key", "The key hangs in the shed. The key is red.");
    for (first, second) in [(short, long), (long, short)] {
        let entries = json!([
            memory("1", first),
            memory("2", second),
            entry("user", "The key?"),
            entry("assistant", "The key is red.")
        ]);
        for template in FAMILIES {
            let whole = read(template, &json!({ "conversation": entries })).expect("read");
            let said: Vec<String> = whole
                .memories
                .iter()
                .map(|memory| text(&whole.tokens[memory.spans[0].clone()]))
                .collect();
            assert_eq!(said, [first, second]);
            for (m, rest) in [(0, second), (1, first)] {
                let gone = whole.dialogue.as_ref().expect("by a template").without(
                    &whole.scored(),
                    &[m],
                    &[0],
                    &Mock::default(),
                );
                let gone = text(&gone.expect("left").sequence.tokens);
                let count = |words: &str| gone.matches(words).count();
                // That of the user, that of the response, and those of the memory that is left.
                assert_eq!(
                    (count("The key"), count(rest) > 0),
                    (2 + rest.matches("The key").count(), true),
                    "{gone}"
                );
            }
        }
    }
}

#[test]
fn calls_of_tools_and_thoughts_are_part_of_a_response() {
    let call = json!({ "type": "function", "function": { "name": "weather", "arguments": { "place": "Kolva" } } });
    let conversation = json!({
        "tools": [{ "type": "function", "function": { "name": "weather" } }],
        "conversation": [
            entry("user", "Is it warm?"),
            { "role": "assistant", "tool_calls": [call], "reasoning_content": "I must look." },
            { "role": "tool", "text": "20 degrees", "name": "weather" },
            { "role": "assistant", "text": "It is 20 degrees.", "reasoning_content": "That is warm." },
        ]
    });
    let whole = read(QWEN, &conversation).expect("read");
    let said: Vec<String> =
        whole.responses.iter().map(|r| text(&whole.tokens[r.scored.clone()])).collect();
    assert_eq!(
        said[0],
        "I must look.\n</think>\n\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": \"Kolva\"}}\n</tool_call>"
    );
    assert_eq!(said[1], "That is warm.\n</think>\n\nIt is 20 degrees.");
    assert!(
        text(&whole.tokens)
            .contains("<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"weather\"}}")
    );
}

#[test]
fn ids_stay_what_they_are_and_what_is_not_shown_is_named() {
    let ids: Vec<u32> = vec![200, 7, 201];
    let conversation = json!({ "conversation": [entry("user", "Say it."), { "role": "assistant", "tokens": ids }, memory("late", "x")] });
    let whole = read(CHATML, &conversation).expect("read");
    assert_eq!(whole.tokens[whole.responses[0].scored.clone()], ids);
    let only_user = "{% for m in messages if m.role == 'user' %}<{{ m.content }}>{% endfor %}";
    let hidden =
        read(only_user, &json!({ "conversation": [entry("user", "a"), entry("assistant", "b")] }))
            .expect("read");
    assert!(hidden.responses[0].scored.is_empty());
    assert!(
        hidden.used.notes.is_some_and(|notes| notes
            .iter()
            .any(|note| note.contains("1 responses are not shown")))
    );
    // A template that passes over system messages is no place for a memory.
    let placed = read(
        only_user,
        &json!({ "conversation": [memory("k", "m"), entry("user", "a"), entry("assistant", "b")] }),
    )
    .expect("read");
    assert_eq!(
        (text(&placed.tokens).as_str(), placed.used.memories.as_str()),
        ("<m\n\na>", "user")
    );
    // A template may refuse what is left: that is one row's end.
    let wants_two = "{% if messages|length < 2 %}{{ raise_exception('too few') }}{% endif %}{% for m in messages %}[{{ m.content }}]{% endfor %}";
    let whole =
        read(wants_two, &json!({ "conversation": [memory("k", "m"), entry("assistant", "b")] }))
            .expect("read");
    let left = whole.dialogue.as_ref().expect("by a template").without(
        &whole.scored(),
        &[0],
        &[0],
        &Mock::default(),
    );
    assert!(left.is_err_and(|error| error.to_string().contains("too few")));
}

proptest! {
    #[test]
    fn contents_are_found_whatever_they_say(
        turns in prop::collection::vec(("[ab<|im_endst>\n]{0,12}", "[ab<|im_endst>\n]{1,12}"), 1..5),
        key in "[a-z \n<>|_]{0,30}",
    ) {
        let mut entries = vec![memory("k", &key)];
        for (user, assistant) in &turns {
            entries.extend([entry("user", user), entry("assistant", assistant)]);
        }
        for template in [CHATML, QWEN] {
            let conversation = json!({ "conversation": entries });
            let Ok(whole) = read(template, &conversation) else { continue };
            let gone = whole.dialogue.as_ref().expect("by a template").without(
                &whole.scored(),
                &[0],
                &(0..turns.len()).collect::<Vec<_>>(),
                &Mock::default(),
            );
            let less =
                read(template, &json!({ "conversation": entries[1..].to_vec() })).expect("read");
            let gone = gone.expect("left");
            for (r, wanted) in gone.responses.iter().zip(&gone.sequence.wanted) {
                prop_assert_eq!(
                    &gone.sequence.tokens[wanted.clone()],
                    &whole.tokens[whole.responses[*r].scored.clone()]
                );
            }
            prop_assert!(
                gone.respelled > 0
                    || gone.sequence.tokens[..] == less.tokens[..gone.sequence.tokens.len()]
            );
        }
    }
}

#[test]
fn a_long_conversation_is_read_in_steps_that_are_there() {
    let entries: Vec<Value> = (0..10_000)
        .map(|n| entry(if n % 2 == 0 { "user" } else { "assistant" }, &format!("{n} and on")))
        .collect();
    let whole = read(QWEN, &json!({ "conversation": entries })).expect("read");
    assert_eq!(whole.responses.len(), 5000);
    assert_eq!(text(&whole.tokens[whole.responses[4999].scored.clone()]), "9999 and on");
}
