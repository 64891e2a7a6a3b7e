//! Words: what is found, in which order, and that it is the same wherever rows lie.

use std::collections::BTreeSet;

use super::compile::TERMS_MAX;
use super::*;

fn rows(texts: &[&str]) -> RowStore {
    let mut rows = RowStore::default();
    for text in texts {
        rows.push(&Row {
            doc_id: "d",
            content_hash: &[0; 32],
            chunk: 0,
            start: 0,
            line: 1,
            context: "",
            text,
        });
    }
    rows
}

fn english() -> Analyser {
    Analyser::of(Some("english"), std::iter::empty())
}

fn made(texts: &[&str], analyser: &Analyser) -> Lexical {
    Lexical::in_memory(&rows(texts), analyser).expect("made")
}

fn ask(words: &Lexical, text: &str, k: usize, live: Option<&LiveRows>) -> Vec<u32> {
    let statistics = Statistics::of(&[words], &[]);
    let query = words.compile(text, &statistics).expect("compiled");
    words
        .search(&query, &statistics, k, live)
        .expect("found")
        .iter()
        .map(|found| found.row)
        .collect()
}

#[test]
fn what_a_query_has_too_many_of_is_counted() {
    let text = |words: usize| (0..words).map(|n| format!("word{n}x ")).collect::<String>();
    for (analyser, terms) in [
        (english(), 2),
        (Analyser::of(Some("none"), std::iter::empty()), 1),
        (Analyser::before_it_was_recorded(), 1),
    ] {
        let words = made(&["word0x"], &analyser);
        let statistics = Statistics::of(&[&words], &[]);
        let left_out =
            |count: usize| words.compile(&text(count), &statistics).expect("compiled").left_out;
        let most = TERMS_MAX / terms;
        assert_eq!((left_out(1), left_out(most), left_out(most + 5)), (0, 0, 5), "{analyser:?}");
        assert_eq!(ask(&words, &text(2 * TERMS_MAX), 1, None), [0]);
    }
}

#[test]
fn words_are_found_in_memory_and_on_disk_and_dead_rows_are_not() {
    let rows =
        rows(&["the quick brown fox", "a lazy dog sleeps", "the fox and the dog", "nothing here"]);
    for analyser in [Analyser::before_it_was_recorded(), english()] {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("lexical");
        let files = Lexical::write(&path, &rows, &analyser).expect("written");
        assert!(
            files.contains(&"meta.json".to_owned())
                && !files.iter().any(|name| name.ends_with(".lock")),
            "{files:?}"
        );
        let listed = || {
            fs::read_dir(&path)
                .expect("listed")
                .flatten()
                .map(|entry| entry.file_name())
                .collect::<BTreeSet<_>>()
        };
        listed()
            .iter()
            .filter(|name| name.to_string_lossy().ends_with(".lock"))
            .for_each(|name| fs::remove_file(path.join(name)).expect("removed"));
        let before = listed();
        drop(Lexical::open(&path, &analyser).expect("opens"));
        assert_eq!(listed(), before, "nothing is made where it is only read");
        for words in [
            Lexical::open(&path, &analyser).expect("opens"),
            Lexical::in_memory(&rows, &analyser).expect("made"),
        ] {
            assert_eq!(ask(&words, "Dog fox!", 1, None), [2]);
            let live = LiveRows::of(4, |row| row != 2);
            assert_eq!(ask(&words, "dog", 9, Some(&live)), [1]);
            assert!(ask(&words, "…", 3, None).is_empty());
        }
    }
}

#[test]
fn a_singular_finds_its_plural_and_the_word_as_written_comes_first() {
    let texts = [
        "nightly backups and backups of backups",
        "the menu is soup",
        "one backup",
        "no such thing",
    ];
    let words = made(&texts, &english());
    assert_eq!(ask(&words, "backup", 9, None), [2, 0]);
    assert_eq!(ask(&words, "réunion", 9, None), Vec::<u32>::new());
    let old = made(&texts, &Analyser::before_it_was_recorded());
    assert_eq!(ask(&old, "backup", 9, None), [2], "as it answered before");
}

#[test]
fn identifiers_accents_long_words_and_other_scripts_are_found() {
    let (long, longer) = ("q".repeat(200), "z".repeat(4000));
    let (long, longer) = (long.as_str(), longer.as_str());
    let texts = [
        "fn parse_http_header()",
        "a Réunion du comité",
        "getHTTPResponse code",
        "訂單審批流程自動通知",
        "今天天氣很好",
        long,
        longer,
    ];
    let words = made(&texts, &english());
    for (text, row) in [
        ("parse_http_header", 0),
        ("header", 0),
        ("reunion", 1),
        ("RÉUNION", 1),
        ("response", 2),
        ("gethttpresponse", 2),
        ("審批流程", 3),
        ("氣", 4),
        ("好", 4),
        (long, 5),
        (longer, 6),
    ] {
        assert_eq!(ask(&words, text, 1, None), [row], "{text}");
    }
}

#[test]
fn question_words_do_not_decide_unless_there_is_nothing_else() {
    let words = made(
        &["how do i do what i do", "copy a file", "to be or not to be", "cp copies files"],
        &english(),
    );
    assert_eq!(ask(&words, "how do I copy a file", 1, None), [1]);
    assert_eq!(ask(&words, "to be or not to be", 1, None), [2]);
}

#[test]
fn phrases_must_stand_there_and_exclusions_must_not() {
    let texts = [
        "The connection pool is full.",
        "A pool beside the house, no connection there.",
        "connection",
        "訂單審批流程",
        "審批和流程",
    ];
    for (analyser, is_old) in [(Analyser::before_it_was_recorded(), true), (english(), false)] {
        let words = made(&texts, &analyser);
        let statistics = Statistics::of(&[&words], &[]);
        let meeting = |text: &str| {
            let asked = ParsedQuery::read(text).expect("read");
            words
                .meeting(&asked, &statistics)
                .expect("found")
                .map(|rows| rows.into_iter().collect::<BTreeSet<u32>>())
        };
        let some = |rows: &[u32]| Some(rows.iter().copied().collect::<BTreeSet<u32>>());
        assert_eq!(meeting("connection pool"), None);
        assert_eq!(meeting("\"connection pool\""), some(&[0]));
        assert_eq!(meeting("connection -house"), some(&[0, 2, 3, 4]));
        assert_eq!(meeting("\"connection\" -\"connection pool\""), some(&[1, 2]));
        if !is_old {
            assert_eq!(meeting("\"審批流程\""), some(&[3]));
            assert_eq!(meeting("\"和\""), some(&[4]));
            assert_eq!(meeting("x -connections"), some(&[3, 4]), "an exclusion takes all forms");
            assert_eq!(
                meeting("\"connections\""),
                some(&[]),
                "a word in quotation marks is as it is written"
            );
        }
    }
}

/// The kind of `fresh-is-buried`: what was appended ranked by the statistics of what was appended.
#[test]
fn a_row_scores_the_same_in_a_delta_as_in_one_collection() {
    let old: Vec<String> =
        (0..200).map(|n| format!("the mesh has cards and flows {}", n % 7)).collect();
    let old: Vec<&str> = old.iter().map(String::as_str).collect();
    let new = ["the newest of cards names a zebra", "a flow of water"];
    let analyser = english();
    let together = made(&[&old[..], &new[..]].concat(), &analyser);
    let (base, delta) = (made(&old, &analyser), made(&new, &analyser));
    let whole = Statistics::of(&[&together], &[]);
    let both = Statistics::of(&[&base, &delta], &[]);
    let query = "flow of newest cards zebra";
    let scores = |words: &Lexical, statistics: &Statistics, from: u32| -> Vec<(u32, f32)> {
        let compiled = words.compile(query, statistics).expect("compiled");
        let found = words.search(&compiled, statistics, 500, None).expect("found");
        found.into_iter().map(|found| (found.row + from, found.score)).collect()
    };
    // Sums of another order differ in their last digit.
    let same = |mut a: Vec<(u32, f32)>, mut b: Vec<(u32, f32)>| {
        a.sort_unstable_by_key(|(row, _)| *row);
        b.sort_unstable_by_key(|(row, _)| *row);
        assert_eq!(a.len(), b.len());
        assert!(
            a.iter().zip(&b).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-4),
            "{a:?} {b:?}"
        );
    };
    same(
        [scores(&base, &both, 0), scores(&delta, &both, 200)].concat(),
        scores(&together, &whole, 0),
    );
    // Rows that are dead do not count: as if they had never been.
    let dead = made(&old[100..], &analyser);
    let rest = made(&[&old[..100], &new[..]].concat(), &analyser);
    let without = Statistics::of(&[&base, &delta], &[&dead]);
    let mut alone = scores(&rest, &Statistics::of(&[&rest], &[]), 0);
    alone.retain(|(row, _)| *row >= 100);
    same(scores(&delta, &without, 100), alone);
}

#[test]
fn what_a_query_would_score_at_best_bounds_what_it_scores() {
    let words = made(&["zebra zebra zebra zebra", "a zebra", "horses"], &english());
    let statistics = Statistics::of(&[&words], &[]);
    let query = words.compile("zebra horse", &statistics).expect("compiled");
    let found = words.search(&query, &statistics, 9, None).expect("found");
    assert!(
        found.iter().all(|found| found.score > 0.0 && found.score <= query.ideal),
        "{found:?} {query:?}"
    );
}

#[test]
fn the_word_that_decides_is_told_and_a_common_one_is_not() {
    let mut texts = vec!["all have cards"; 40];
    texts.push("zq1xanthic cards");
    let words = made(&texts, &english());
    let statistics = Statistics::of(&[&words], &[]);
    let deciding = |text: &str| {
        let query = words.compile(text, &statistics).expect("compiled");
        words.deciding(&query, &statistics, None).expect("found")
    };
    assert_eq!(deciding("zq1xanthic"), Some(vec![40]));
    assert_eq!(deciding("zq1xanthic cards"), Some(vec![40]));
    assert_eq!(deciding("cards"), None, "it stands in too many rows");
    assert_eq!(deciding("nowhere"), None);
    assert_eq!(deciding(""), None);
}
