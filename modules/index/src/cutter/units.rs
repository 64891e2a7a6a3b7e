//! What a text is made of that is not taken apart: sentences, lines, words where it must be; and
//! how many tokens each has at a guess.

use crate::outline::{Outline, PARAGRAPH, SENTENCE, WORD};

/// How many tokens a text has at a guess, for models of word pieces: a word of letters some, of
/// digits more, a mark one, a character of other scripts one.
pub(super) fn estimate(text: &str) -> usize {
    let (mut tokens, mut letters, mut digits) = (0, 0_usize, 0_usize);
    let end = |letters: &mut usize, digits: &mut usize| {
        let length = *letters + *digits;
        let of_word =
            if length == 0 { 0 } else { 1 + (length - 1) / if *digits > 0 { 2 } else { 6 } };
        (*letters, *digits) = (0, 0);
        of_word
    };
    for c in text.chars() {
        match c {
            c if c.is_ascii_alphabetic() || ('\u{c0}'..='\u{24f}').contains(&c) => letters += 1,
            '0'..='9' => digits += 1,
            c => {
                tokens += end(&mut letters, &mut digits);
                tokens += usize::from(!c.is_whitespace());
            }
        }
    }
    tokens + end(&mut letters, &mut digits)
}

/// A piece of a text that is not taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) cost: usize,
    pub(super) chars: usize,
    /// How good a place its beginning is to cut at.
    pub(super) level: u8,
}

/// Units of a text, each of at most `most` estimated tokens, and characters.
pub(super) fn units(
    text: &str,
    outline: &Outline,
    offset: usize,
    most: usize,
    most_chars: usize,
) -> Vec<Unit> {
    let mut out: Vec<Unit> = Vec::new();
    let first = outline.bounds.partition_point(|(at, _)| *at < offset);
    let mut bounds = outline.bounds[first..].iter().peekable();
    let (mut at, mut is_after_blank, mut is_after_end) = (0, true, true);
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        if line.trim().is_empty() {
            // Blanks belong to what is before them.
            if let Some(last) = out.last_mut() {
                last.end = at;
            }
            (is_after_blank, is_after_end) = (true, true);
            continue;
        }
        let mut level = if is_after_blank { PARAGRAPH } else { WORD };
        if level == WORD && (outline.is_code || is_after_end || is_apart(line)) {
            level = SENTENCE;
        }
        while let Some((_, own)) = bounds.next_if(|(bound, _)| *bound < offset + at) {
            level = level.max(*own);
        }
        sentences(line, start, level, most, most_chars, &mut out);
        is_after_blank = false;
        is_after_end = line.trim_end().ends_with(['.', '!', '?', ':', ';', '。', '！', '？']);
    }
    out
}

/// The sentences of a text, or its lines where they stand apart; none of more than so many
/// characters.
#[must_use]
pub fn sentences_of(text: &str, most_chars: usize) -> Vec<std::ops::Range<usize>> {
    let units = units(text, &Outline::default(), 0, usize::MAX, most_chars);
    let mut out: Vec<std::ops::Range<usize>> = Vec::new();
    for unit in units {
        match out.last_mut() {
            // A line that goes on is no sentence by itself.
            Some(last)
                if unit.level == WORD
                    && text[last.start..unit.end].chars().count() <= most_chars =>
            {
                last.end = unit.end;
            }
            _ => out.push(unit.start..unit.end),
        }
    }
    out
}

/// Whether a line of prose begins something: an item of a list, a row of a table, or what is
/// indented.
fn is_apart(line: &str) -> bool {
    line.starts_with([' ', '\t', '-', '*', '+', '|', '>', '#'])
        || line.starts_with(|c: char| c.is_ascii_digit())
}

/// Cuts a line into sentences, and those that are too long into words.
fn sentences(
    line: &str,
    start: usize,
    first: u8,
    most: usize,
    most_chars: usize,
    out: &mut Vec<Unit>,
) {
    let (mut from, mut level) = (0, first);
    let mut chars = line.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let is_end = match c {
            '.' | '!' | '?' => chars.peek().is_none_or(|(_, next)| next.is_whitespace()),
            '。' | '！' | '？' => true,
            _ => false,
        };
        let to = at + c.len_utf8();
        if is_end && to < line.len() {
            words(&line[from..to], start + from, level, most, most_chars, out);
            (from, level) = (to, SENTENCE);
        }
    }
    words(&line[from..], start + from, level, most, most_chars, out);
}

/// Puts a sentence, whole if it is small enough, else by words, and those by characters.
fn words(
    sentence: &str,
    start: usize,
    level: u8,
    most: usize,
    most_chars: usize,
    out: &mut Vec<Unit>,
) {
    let whole = Unit {
        start,
        end: start + sentence.len(),
        cost: estimate(sentence),
        chars: sentence.chars().count(),
        level,
    };
    if whole.cost <= most && whole.chars <= most_chars {
        out.push(whole);
        return;
    }
    let mut now = Unit { start, end: start, cost: 0, chars: 0, level };
    for word in sentence.split_inclusive(char::is_whitespace) {
        let (cost, chars) = (estimate(word), word.chars().count());
        if now.end > now.start && (now.cost + cost > most || now.chars + chars > most_chars) {
            out.push(now);
            now = Unit { start: now.end, end: now.end, cost: 0, chars: 0, level: WORD };
        }
        if cost <= most && chars <= most_chars {
            now = Unit {
                end: now.end + word.len(),
                cost: now.cost + cost,
                chars: now.chars + chars,
                ..now
            };
            continue;
        }
        // A word that is too long: as many characters as are sure to fit.
        let step = most.min(most_chars).max(1);
        let mut rest = word;
        while !rest.is_empty() {
            let length = rest.char_indices().nth(step).map_or(rest.len(), |(at, _)| at);
            let piece = &rest[..length];
            let (cost, chars) = (estimate(piece), piece.chars().count());
            if now.end > now.start {
                out.push(now);
                now = Unit { start: now.end, end: now.end, cost: 0, chars: 0, level: WORD };
            }
            now = Unit { end: now.end + length, cost, chars, ..now };
            rest = &rest[length..];
        }
    }
    if now.end > now.start {
        out.push(now);
    }
}
