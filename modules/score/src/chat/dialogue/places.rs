//! Where contents stand in the text that a template makes: a second text, with marks in their
//! places, tells it.
//!
//! Pure. Invariant: whatever the template does with a content, no place is told that is not in the
//! text.

use std::ops::Range;

/// What ends a mark.
pub(super) const MARK_END: char = '\u{F00FF}';

/// The text of messages, and where each one's content stands.
#[derive(Debug, Default)]
pub(super) struct ShownTurns {
    pub(super) text: String,
    /// In bytes, for each message.
    pub(super) contents: Vec<Option<Range<usize>>>,
    /// Messages whose content was found by what it says, for the template has other words around
    /// it.
    pub(super) guessed: usize,
}

/// What a text with marks has between them, and which marks those are: one part more than marks.
fn parts(skeleton: &str, mark: char, count: usize) -> (Vec<&str>, Vec<usize>) {
    let (mut literals, mut marks) = (Vec::new(), Vec::new());
    let (mut from, mut at) = (0, 0);
    while let Some(start) = skeleton[at..].find(mark).map(|start| at + start) {
        let inner = start + mark.len_utf8();
        let number = skeleton[inner..]
            .find(MARK_END)
            .map(|len| (&skeleton[inner..inner + len], inner + len + MARK_END.len_utf8()));
        match number.and_then(|(number, end)| {
            Some((number.parse::<usize>().ok().filter(|n| *n < count)?, end))
        }) {
            Some((number, end)) => {
                literals.push(&skeleton[from..start]);
                marks.push(number);
                (from, at) = (end, end);
            }
            None => at = inner,
        }
    }
    literals.push(&skeleton[from..]);
    (literals, marks)
}

/// Finds contents in a text by what stands between them.
pub(super) fn find(text: String, skeleton: &str, mark: char, contents: &[String]) -> ShownTurns {
    let (literals, marks) = parts(skeleton, mark, contents.len());
    let mut shown = ShownTurns { contents: vec![None; contents.len()], ..ShownTurns::default() };
    let mut at = if text.starts_with(literals[0]) { Some(literals[0].len()) } else { None };
    // Where the search goes on once the words between contents are not what they were.
    let mut seen = 0;
    let by_words = |content: &str, seen: usize| {
        let content = content.trim();
        (!content.is_empty())
            .then(|| {
                text[seen..].find(content).map(|start| seen + start..seen + start + content.len())
            })
            .flatten()
    };
    for (k, number) in marks.iter().enumerate() {
        let (content, next, is_last) = (&contents[*number], literals[k + 1], k + 1 == marks.len());
        let exact = at.and_then(|at| {
            let rest = &text[at..];
            let fits = |len: usize| {
                if is_last { &rest[len..] == next } else { rest[len..].starts_with(next) }
            };
            let as_given =
                [content.as_str(), content.trim(), content.trim_start(), content.trim_end()];
            let given = as_given
                .into_iter()
                .find(|said| rest.starts_with(said) && fits(said.len()))
                .map(str::len);
            let len = given.or_else(|| match (is_last, next) {
                (true, _) => rest.ends_with(next).then(|| rest.len() - next.len()),
                (false, "") => None,
                (false, next) => rest.find(next),
            })?;
            Some(at..at + len)
        });
        let range = match exact {
            Some(range) => {
                at = Some(range.end + next.len());
                Some(range)
            }
            None => {
                let found = by_words(content, seen);
                shown.guessed += usize::from(found.is_some());
                // What follows may be as it should be again.
                at = found
                    .as_ref()
                    .filter(|range| text[range.end..].starts_with(next))
                    .map(|range| range.end + next.len());
                found
            }
        };
        if let Some(range) = range {
            seen = range.end;
            shown.contents[*number].get_or_insert(range);
        }
    }
    if marks.is_empty() {
        for (number, content) in contents.iter().enumerate() {
            if let Some(range) = by_words(content, seen) {
                seen = range.end;
                shown.guessed += 1;
                shown.contents[number] = Some(range);
            }
        }
    }
    shown.text = text;
    shown
}
