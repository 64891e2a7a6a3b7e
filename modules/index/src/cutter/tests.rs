//! Chunks: that none is too long or a crumb, that nothing is lost, and what stands before them.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::context::name_of;
use super::*;

/// A tokenizer of one token a character, and two more; and what it was asked.
#[derive(Debug, Default)]
struct ByCharacters {
    window: Option<u64>,
    asked: Cell<usize>,
}

fn window_of(tokens: u64) -> Window {
    Window { tokens, added: 2 }
}

impl Measure for ByCharacters {
    fn window(&self) -> Result<Option<Window>, Fault> {
        Ok(self.window.map(window_of))
    }

    fn tokens(&self, texts: &[String]) -> Result<Option<Vec<u64>>, Fault> {
        self.asked.set(self.asked.get() + texts.len());
        Ok(Some(texts.iter().map(|text| text.chars().count() as u64 + 2).collect()))
    }
}

#[derive(Debug)]
struct Unable;

impl Measure for Unable {
    fn window(&self) -> Result<Option<Window>, Fault> {
        Ok(Some(window_of(200)))
    }

    fn tokens(&self, _: &[String]) -> Result<Option<Vec<u64>>, Fault> {
        Ok(None)
    }
}

fn limits(tokens: u64) -> Limits {
    Limits { tokens, chars: None, overlap: 0 }
}

fn cut(cutter: &Cutter, id: &str, text: &str) -> Vec<Cut> {
    cut_for(None, cutter, id, text)
}

fn cut_for(window: Option<u64>, cutter: &Cutter, id: &str, text: &str) -> Vec<Cut> {
    let measure = ByCharacters { window, ..ByCharacters::default() };
    let mut all = cutter.cut(&[Source { id, text }], &measure).expect("measured");
    all.pop().expect("one document")
}

#[test]
fn sections_are_chunks_under_their_headings_and_crumbs_join() {
    let body = "Words that say something about it, and some more of them. ".repeat(6);
    let text = format!(
        "# Guide\n\nIntro.\n\n## Backups\n\n{body}\n\n## Restore\n\n{body}\n\n## End\n\nBye.\n"
    );
    let chunks = cut(&Cutter::new(limits(128)), "docs/guide.md", &text);
    let contexts: Vec<&str> = chunks.iter().map(|chunk| chunk.context.as_str()).collect();
    assert!(
        contexts.iter().all(|context| context.starts_with("docs/guide.md: Guide")),
        "{contexts:?}"
    );
    let of = |words: &str| {
        chunks.iter().find(|chunk| text[chunk.start..chunk.end].contains(words)).expect("a chunk")
    };
    assert!(of("## Restore").context.ends_with("Restore"), "{contexts:?}");
    assert!(
        text[of("Bye.").start..of("Bye.").end].len() > 40,
        "the crumb at the end has joined another"
    );
    assert_eq!(of("## Restore").line, text[..of("## Restore").start].matches('\n').count() + 1);
    assert_eq!(heading("docs/guide.md", "docs/guide.md: Guide > Restore"), "Guide > Restore");
    assert_eq!((heading("17", "Guide"), heading("a/notes", "a/notes")), ("Guide", ""));
}

#[test]
fn source_code_is_cut_between_items_and_says_which() {
    let item = |name: &str| {
        format!(
            "    /// Does it.\n    fn {name}(&self) -> u8 {{\n{}    }}\n\n",
            "        let a = b + c;\n".repeat(12)
        )
    };
    let text = format!("use a;\n\nimpl Thing {{\n{}{}}}\n", item("first"), item("second"));
    let chunks = cut(&Cutter::new(limits(128)), "src/a.rs", &text);
    let second = chunks
        .iter()
        .find(|chunk| text[chunk.start..].starts_with("    /// Does it.\n    fn second"))
        .expect("it begins a chunk");
    assert_eq!(second.context, "src/a.rs: impl Thing > fn second(&self) -> u8");
}

#[test]
fn no_chunk_is_longer_than_the_window_whatever_the_tokenizer_does() {
    let dense = limits(200);
    for (id, text) in [
        ("a.md", format!("# Heading\n\n{}", "some words, and more. ".repeat(300))),
        ("a.txt", "x".repeat(20_000)),
        ("a.txt", "流程".repeat(3000)),
        ("a.rs", "fn f() { let a = [1, 2, 3]; }\n".repeat(200)),
        ("name-of-a-package", "- a\n- b\n\n".repeat(500)),
    ] {
        let cutter = Cutter::new(dense);
        let chunks = cut_for(Some(200), &cutter, id, &text);
        for chunk in &chunks {
            let tokens =
                embedded(&chunk.context, &text[chunk.start..chunk.end]).chars().count() + 2;
            assert!(tokens <= 200, "{id}: {tokens} tokens");
        }
        assert!(!cutter.is_guessed() && !chunks.is_empty());
    }
    // What fits by its bytes is not even measured; and who cannot be measured is guessed, and says
    // so.
    let measure = ByCharacters { window: Some(200), ..ByCharacters::default() };
    Cutter::new(dense).cut(&[Source { id: "a", text: "short" }], &measure).expect("cut");
    assert_eq!(measure.asked.get(), 0);
    let cutter = Cutter::new(dense);
    let long = "many words here. ".repeat(100);
    assert!(!cutter.cut(&[Source { id: "a", text: &long }], &Unable).expect("cut")[0].is_empty());
    assert!(cutter.is_guessed());
}

#[test]
fn crumbs_that_had_a_neighbour_are_none() {
    let section = |n: usize, words: usize| {
        format!("## Section {n}\n\n{}\n\n", "word and word. ".repeat(words))
    };
    let text: String = (0..40).map(|n| section(n, [1, 90, 2, 40, 0, 7][n % 6])).collect();
    let chunks = cut(&Cutter::new(limits(256)), "a.md", &text);
    for chunk in &chunks {
        let tokens = estimate(&text[chunk.start..chunk.end]);
        assert!(tokens * 10 >= 250, "{tokens} tokens: {:?}", &text[chunk.start..chunk.end]);
    }
}

#[test]
fn characters_and_overlap_are_kept_where_they_are_asked_for() {
    let text = "One sentence is here. Another follows it. ".repeat(40);
    let cutter = Cutter::new(Limits { chars: Some(200), overlap: 50, ..limits(1000) });
    let chunks = cut(&cutter, "a.txt", &text);
    assert!(chunks.iter().all(|chunk| text[chunk.start..chunk.end].chars().count() <= 200));
    let shared = chunks.windows(2).filter(|pair| pair[1].start < pair[0].end).count();
    assert!(
        shared > 0 && chunks.windows(2).all(|pair| pair[0].end.saturating_sub(pair[1].start) <= 50),
        "{chunks:?}"
    );
}

#[test]
fn time_is_linear_in_a_text_without_a_space_or_a_line() {
    let started = Instant::now();
    for text in [
        "x".repeat(10 << 20),
        "word ".repeat(2 << 20),
        "a.b\n".repeat(2 << 20),
        "流".repeat(3 << 20),
    ] {
        assert!(
            !Cutter::new(limits(256))
                .cut(&[Source { id: "a.txt", text: &text }], &Unable)
                .expect("cut")[0]
                .is_empty()
        );
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn time_is_linear_in_a_text_of_many_sections_that_are_all_cut_again() {
    let started = Instant::now();
    // Of one token a character all chunks are too long at first.
    let section = |n: u32| format!("# {n}\n{}\n", "Abcdefghijkl mnopqrstuvwx. ".repeat(12));
    let text: String = (0..10_000).map(section).collect();
    let chunks = cut_for(Some(128), &Cutter::new(limits(128)), "a.md", &text);
    assert!(
        chunks.len() > 20_000 && chunks.windows(2).all(|pair| pair[0].start < pair[1].start),
        "{}",
        chunks.len()
    );
    assert!(chunks.iter().all(|chunk| {
        embedded(&chunk.context, &text[chunk.start..chunk.end]).chars().count() as u64 + 2 <= 128
    }));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn numbers_and_keys_are_no_names_and_long_paths_are_shortened() {
    for (id, name) in [
        ("17", ""),
        ("01J8Z3", ""),
        ("bash", "bash"),
        ("a/b/c/d/notes.md", "c/d/notes.md"),
        ("doc-7", ""),
    ] {
        assert_eq!(name_of(id), name, "{id}");
    }
}

proptest! {
    #[test]
    fn nothing_is_lost(
        text in "[a-zé流(){}#; \n.]{0,600}",
        tokens in 16_u64..80,
        id in "a\\.(txt|md|rs|py|c|go|js)",
    ) {
        let cutter = Cutter::new(limits(tokens));
        let chunks = cut_for(Some(tokens), &cutter, &id, &text);
        for chunk in &chunks {
            prop_assert!(
                embedded(&chunk.context, &text[chunk.start..chunk.end]).chars().count() as u64 + 2
                    <= tokens
            );
        }
        for (at, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
            prop_assert!(
                chunks.iter().any(|k| k.start <= at && at < k.end),
                "{c} at {at} is in no chunk"
            );
        }
        prop_assert!(chunks.windows(2).all(|pair| pair[0].start < pair[1].start));
    }
}
