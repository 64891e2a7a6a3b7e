//! A hit's text in pieces: what stands around the passage that answers, the passage, and the
//! query's words in it. Pure.

use brahman_card::interface::index::{Hit, Passage};
use serde::Serialize;

/// Consecutive text of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Piece {
    /// `text`, `passage` or `mark`.
    kind: &'static str,
    text: String,
}

/// A hit as the page shows it.
#[derive(Debug, Serialize)]
pub(super) struct ShownHit<'a> {
    doc_id: &'a str,
    line: u64,
    heading: Option<&'a str>,
    score: f32,
    cosine: Option<f32>,
    bm25: Option<f32>,
    pieces: Vec<Piece>,
}

impl<'a> ShownHit<'a> {
    pub(super) fn of(hit: &'a Hit) -> Self {
        Self {
            doc_id: &hit.doc_id,
            line: hit.line,
            heading: hit.heading.as_deref(),
            score: hit.score,
            cosine: hit.cosine,
            bm25: hit.bm25,
            pieces: pieces(&hit.text, hit.passage.as_ref()),
        }
    }
}

/// A text with its passage in place. A passage that does not stand in it word for word is put
/// before it.
fn pieces(text: &str, passage: Option<&Passage>) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut add = |kind, text: &str| {
        if !text.is_empty() {
            out.push(Piece { kind, text: text.to_owned() });
        }
    };
    let Some(passage) = passage else {
        add("text", text);
        return out;
    };
    let found = text.split_once(passage.text.as_str()).filter(|_| !passage.text.is_empty());
    add("text", found.map_or("", |(before, _)| before));
    let mut at = 0;
    for mark in &passage.marks {
        let place = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let (start, end) = (place(mark.start), place(mark.end));
        // What is no place in it is not marked.
        let (Some(before), Some(word)) =
            (passage.text.get(at..start), passage.text.get(start..end))
        else {
            continue;
        };
        add("passage", before);
        add("mark", word);
        at = end;
    }
    add("passage", passage.text.get(at..).unwrap_or_default());
    match found {
        Some((_, after)) => add("text", after),
        None => {
            add("text", " … ");
            add("text", text);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::index::Mark;

    use super::*;

    fn shown(text: &str, passage: &str, marks: &[(u64, u64)]) -> String {
        let marks = marks.iter().map(|(start, end)| Mark { start: *start, end: *end }).collect();
        let all = pieces(text, Some(&Passage { text: passage.to_owned(), marks }));
        all.iter().map(|piece| format!("{}[{}]", &piece.kind[..1], piece.text)).collect()
    }

    #[test]
    fn words_are_marked_where_they_stand() {
        assert_eq!(
            shown("Rain. The gate is blue. Sun.", "The gate is blue.", &[(4, 8), (12, 16)]),
            "t[Rain. ]p[The ]m[gate]p[ is ]m[blue]p[.]t[ Sun.]"
        );
        assert_eq!(shown("The gate", "gate", &[(0, 4)]), "t[The ]m[gate]");
        assert_eq!(shown("one", "two", &[]), "p[two]t[ … ]t[one]", "a passage that is not in it");
        assert_eq!(
            shown("grün", "grün", &[(0, 3), (2, 1), (90, 99)]),
            "p[grün]",
            "no place in it, or within a character"
        );
        assert_eq!(pieces("one", None), [Piece { kind: "text", text: "one".to_owned() }]);
    }
}
