//! What of a chunk a person reads first: the sentence with most of the query's words, and where
//! they stand in it.
//!
//! Invariant: the words are those that a search by words finds, stems and all; a chunk with none of
//! them is shown from its first sentence.

use std::collections::HashSet;
use std::ops::Range;

use crate::analyser::{Analyser, Kind, LinkingWords, Reducer, segment};
use crate::cutter::sentences_of;

/// Characters that a passage has if there is more to read: a line or two.
const CHARS_WANTED: usize = 160;
/// Longest piece that is taken for a sentence.
const SENTENCE_CHARS_MAX: usize = 320;

/// A part of a text, and what is marked in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage<'a> {
    /// As it stands there, without blanks at its ends.
    pub text: &'a str,
    /// Bytes of it, in order, none within another.
    pub marks: Vec<Range<usize>>,
}

/// Finds the words of a query in texts.
#[derive(Debug)]
pub struct Marker {
    reducer: Reducer,
    linking: LinkingWords,
    stems: HashSet<String>,
}

impl Marker {
    /// For the words of this query, in an index's languages.
    #[must_use]
    pub fn of(query: &str, analyser: &Analyser) -> Self {
        let analyser = analyser.renewed();
        let mut marker = Self {
            reducer: analyser.reducer(),
            linking: analyser.linking_words(),
            stems: HashSet::new(),
        };
        let found = marker.words(query);
        marker.stems = found.into_iter().map(|(_, stem)| stem).collect();
        marker
    }

    /// The words of a text that say something, and where they stand.
    fn words(&mut self, text: &str) -> Vec<(Range<usize>, String)> {
        let mut out = Vec::new();
        segment(text, &mut |piece| {
            let range = piece.from..piece.to;
            let is_linking = piece.kind == Kind::Word && self.linking.has(&text[range.clone()]);
            match piece.kind {
                Kind::Last => {}
                Kind::Pair | Kind::Single => out.push((range, piece.text.to_owned())),
                Kind::Word if is_linking => {}
                Kind::Word | Kind::Whole | Kind::Part => {
                    out.push((range, self.reducer.stem(piece.text)));
                }
            }
        });
        out
    }

    /// The sentence of a text that has most of the words, and what follows it if it is short.
    pub fn passage<'a>(&mut self, text: &'a str) -> Passage<'a> {
        let found: Vec<(Range<usize>, String)> =
            self.words(text).into_iter().filter(|(_, stem)| self.stems.contains(stem)).collect();
        let sentences = sentences_of(text, SENTENCE_CHARS_MAX);
        let (mut best, mut most, mut next) = (0, 0, 0);
        for (number, sentence) in sentences.iter().enumerate() {
            let from = next;
            while found.get(next).is_some_and(|(range, _)| range.start < sentence.end) {
                next += 1;
            }
            let distinct: HashSet<&str> =
                found[from..next].iter().map(|(_, stem)| stem.as_str()).collect();
            if distinct.len() > most {
                (best, most) = (number, distinct.len());
            }
        }
        // A heading alone says little: what follows is shown with it.
        let start = sentences.get(best).map_or(0, |sentence| sentence.start);
        let mut end = sentences.get(best).map_or(text.len(), |sentence| sentence.end);
        for sentence in sentences.iter().skip(best + 1) {
            if text[start..end].chars().count() >= CHARS_WANTED
                || text[start..sentence.end].chars().count() > 2 * CHARS_WANTED
            {
                break;
            }
            end = sentence.end;
        }
        let shown = text[start..end].trim_start();
        let start = end - shown.len();
        let shown = shown.trim_end();
        let mut marks: Vec<Range<usize>> = Vec::new();
        for (range, _) in found
            .iter()
            .filter(|(range, _)| range.start >= start && range.end <= start + shown.len())
        {
            let (from, to) = (range.start - start, range.end - start);
            match marks.last_mut() {
                // Parts of what is marked already, and pairs that overlap.
                Some(last) if from < last.end => last.end = last.end.max(to),
                _ => marks.push(from..to),
            }
        }
        Passage { text: shown, marks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(query: &str, text: &str) -> String {
        let analyser = Analyser::of(Some("english"), std::iter::empty());
        let mut marker = Marker::of(query, &analyser);
        let passage = marker.passage(text);
        let mut out = String::new();
        let mut at = 0;
        for mark in &passage.marks {
            out.push_str(&passage.text[at..mark.start]);
            out.push_str(&format!("[{}]", &passage.text[mark.clone()]));
            at = mark.end;
        }
        out + &passage.text[at..]
    }

    #[test]
    fn the_sentence_that_answers_is_shown_with_its_words_marked() {
        let filler = "Nothing of the kind is said here, and it goes on for a while so that it is enough to be a passage by itself. ";
        let text = format!(
            "{filler}We keep nightly backups for ninety days, whatever happens to the disks. {filler}"
        );
        let answer = shown("for how many days is a backup kept", &text);
        assert!(
            answer.starts_with("We keep nightly [backups] for ninety [days], whatever"),
            "{answer}"
        );
        assert!(
            shown("zebra", &text).starts_with("Nothing of the kind"),
            "without a word of the query it is the beginning"
        );
        assert!(shown("審批", "訂單審批流程。").contains("訂單[審批]流程"));
        assert_eq!(shown("parse header", "fn parse_header() {}"), "fn [parse]_[header]() {}");
        assert_eq!(shown("x", ""), "");
    }
}
