//! The page of a conversation, and keys on a terminal.

use super::matrix::heat_map;
use super::*;

fn entry(role: Option<&str>, key: Option<&str>, text: &str) -> Entry {
    Entry {
        role: role.map(str::to_owned),
        key: key.map(str::to_owned),
        text: Some(text.to_owned()),
        ..Entry::default()
    }
}

#[test]
fn the_page_has_the_conversation_and_nothing_in_it_is_more_than_text() {
    let evil = "</script><script>alert(1)</script><!--<script>\u{1b}]0;title\u{7}";
    let conversation = Conversation {
        system: Some(vec![entry(None, None, "Be brief.")]),
        conversation: vec![
            entry(None, Some(evil), evil),
            entry(Some("user"), None, "Where?"),
            Entry { tokens: Some(vec![1, 2]), ..entry(Some("assistant"), None, "") },
        ],
        ..Conversation::default()
    };
    let talk = talk(&conversation);
    let said: Vec<_> = talk
        .iter()
        .map(|one| (one["role"].as_str().expect("a role"), one["entry"].as_u64()))
        .collect();
    assert_eq!(
        said,
        [("system", None), ("memory", Some(0)), ("user", Some(1)), ("assistant", Some(2))]
    );
    assert_eq!(
        (talk[1]["key"].as_str(), talk[3]["text"].as_str()),
        (Some(evil), Some("(2 token ids)"))
    );
    let rows = [Row { key: evil.to_owned(), keys: vec![evil.to_owned()], ..Row::default() }];
    let page = page(&rows, &MatrixSummary::default(), &talk).expect("made");
    let (before, data) = page.split_once("const data = ").expect("data");
    let (data, after) = data.split_once(";\n").expect("a line");
    assert!(
        !data.contains('<') && !data.contains('\u{1b}') && before.matches("<script>").count() == 1,
        "{data}"
    );
    assert_eq!(after.matches("</script>").count(), 1);
    let read: Value = serde_json::from_str(data).expect("it is JSON still");
    assert_eq!(read["talk"][1]["text"], evil);
    for part in ["prefers-color-scheme: dark", "position: sticky", "legend", "data.talk"] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn a_key_does_nothing_to_a_terminal() {
    let evil = "\u{1b}[2Jkey\u{9b}1m\r";
    let row = Row {
        key: evil.to_owned(),
        keys: vec![evil.to_owned()],
        divergences: vec![1.0],
        deltas: vec![1.0],
        ..Row::default()
    };
    let output = Output::kept();
    heat_map(
        &[row],
        &MatrixSummary { responses: 1, memories: 1, ..MatrixSummary::default() },
        &output,
    );
    let mut out = MemoryOut { key: evil.to_owned(), present: true, ..MemoryOut::default() };
    out.cells.push(brahman_card::interface::score::Cell::default());
    memory(&out, &output).expect("printed");
    let printed = output.printed();
    assert!(
        printed.contains("MEMORY") && printed.contains("TOKENS") && printed.contains("key"),
        "{printed}"
    );
    assert!(!printed.contains(['\u{1b}', '\u{9b}', '\r']), "{printed:?}");
}
