//! What reaches a terminal, how wide it is shown, and how much is left.

use super::*;

#[test]
fn a_path_is_one_word_for_a_shell() {
    for (path, word) in
        [("/a/b-1.tar", "/a/b-1.tar"), ("/a b", "'/a b'"), ("it's", "'it'\\''s'"), ("", "''")]
    {
        assert_eq!(shell_word(Path::new(path)), word);
    }
    assert_eq!(
        (counted(1, "row", "rows"), counted(0, "row", "rows")),
        ("1 row".to_owned(), "0 rows".to_owned())
    );
}

fn coloured() -> Output {
    Output { colour: true, ..Output::kept() }
}

#[test]
fn colours_are_ours_and_nothing_else_reaches_the_terminal() {
    let output = coloured();
    let evil = "\x1b]0;title\x07\x1b[8m\r\u{9b}2J\u{202e}\u{2066}\x7f";
    for text in [
        evil.to_owned(),
        output.paint(evil, Tone::Bad),
        format!("{}: {evil}", output.paint("x", Tone::Strong)),
    ] {
        for newlines in [false, true] {
            let shown = shown(&text, true, newlines);
            let rest = shown.replace("\x1b[31m", "").replace("\x1b[1m", "").replace("\x1b[0m", "");
            assert!(!rest.contains(telemetry::is_unsafe), "{rest:?}");
            assert!(
                rest.contains("\\u{1b}]0;title\\u{7}") && rest.contains("\\u{202e}"),
                "{rest:?}"
            );
        }
    }
    assert_eq!(shown(&output.paint("up", Tone::Good), true, false), "\x1b[32mup\x1b[0m");
    assert_eq!(shown(&output.paint("up", Tone::Good), false, false), "up");
    assert_eq!(shown(&output.shade(1.0, 1.0), true, false), "\x1b[48;5;196m  \x1b[0m");
}

#[test]
fn a_line_is_one_line_and_a_text_may_be_many() {
    assert_eq!(shown("a\nb\tc", false, false), "a\\u{a}b\tc");
    assert_eq!(shown("a\nb\tc", false, true), "a\nb\tc");
    assert_eq!(one_line("a\nb\tc – ü"), "a\\u{a}b\\u{9}c – ü");
    assert_eq!((one_line("said so\r\n"), one_line("\n")), ("said so".to_owned(), String::new()));
}

#[test]
fn a_cell_is_as_wide_as_it_is_shown() {
    let output = coloured();
    assert_eq!(visible(&one_line(&output.paint("a\x1bb", Tone::Good))), "a\\u{1b}b".len());
}

#[test]
fn east_asian_text_takes_two_columns_and_accents_none() {
    let output = coloured();
    assert_eq!((visible("notes"), visible("ノート"), visible("e\u{301}")), (5, 6, 1));
    assert_eq!(visible(&output.paint("東京", Tone::Strong)), 4);
    assert_eq!(
        (shortened("ノートブック", 7).as_str(), shortened("short", 7).as_str()),
        ("ノート…", "short")
    );
    assert_eq!(
        [bytes(12), bytes(2048), duration(0.3), duration(90.0)],
        ["12 B", "2.00 KiB", "0.3s", "1m30s"]
    );
}

#[test]
fn columns_stand_below_one_another_whatever_the_script() {
    let output = Output::kept();
    output.table(
        &["名前", "ROWS", ""],
        vec![
            vec!["ノート".into(), "3".into(), String::new()],
            vec!["b".into(), "128".into(), "x\ny".into()],
        ],
    );
    insta::assert_snapshot!(output.printed(), @r"
        名前    ROWS
        ノート  3
        b       128   x\u{a}y
        ");
}

#[test]
fn what_is_left_is_as_it_went_so_far() {
    let minute = Duration::from_secs(60);
    assert_eq!(
        (left(minute, 100, 300), left(minute, 0, 300), left(minute, 100, 0)),
        (Some(180.0), None, None)
    );
}

#[test]
fn pretty_json_is_the_same_value_without_what_a_terminal_acts_on() {
    let value = serde_json::json!({"x\u{9b}": "\u{202e}\u{7f}\u{1b} ü \n"});
    let text = safe_json(&serde_json::to_string_pretty(&value).expect("JSON"));
    assert!(!text.contains(telemetry::is_unsafe), "{text:?}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), value);
}
