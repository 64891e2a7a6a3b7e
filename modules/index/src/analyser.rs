//! How texts become the words that are searched for.
//!
//! A word is folded (small letters, without accents, its compatible forms made one), then reduced
//! to its stem by the languages of the index. Identifiers are also cut at underscores and at
//! changes of case, and kept whole. Scripts that put no spaces between words are cut into
//! overlapping pairs of characters. Nothing is dropped: of what is longer than [`TOKEN_BYTES`] the
//! beginning counts.
//!
//! Invariant: the words of a text and those of a query come from [`segment`] and the same
//! [`Analyser`], which is recorded with the words that it made. One that was recorded is never
//! changed: what is to be done otherwise is another version.
//!
//! [`languages`] are those that are known.

mod languages;

use std::fmt;

use serde::{Deserialize, Serialize};
use tantivy::tokenizer::{
    Language, RawTokenizer, Stemmer, StopWordFilter, TextAnalyzer, Token, TokenStream, Tokenizer,
};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use languages::{ASKING, LANGUAGE_COUNT, LANGUAGES};
pub use languages::{UnknownLanguage, check_language};

/// Bytes of a word that count; what is longer are no words but data, and is found by its beginning.
pub const TOKEN_BYTES: usize = 255;
/// The analyser that words are made with now. 0 is tantivy's own, of indexes from before there was
/// another.
const CURRENT: u32 = 1;
/// Texts of an index that are looked at for its languages, spread over all.
const SAMPLED_TEXTS: usize = 1000;
/// Bytes that are looked at of each.
const SAMPLED_BYTES: usize = 1024;
/// Of a sample's words, in per cent, those that only link others, in a language that counts as its
/// own: prose has a third of them, and chance finds fewer.
const LINKING_PERCENT: usize = 3;
/// Of a sample's letters, those of a script whose language counts.
const SCRIPT_PERCENT: usize = 2;

/// What makes words of texts, as a generation's manifest records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Analyser {
    version: u32,
    /// Languages whose stems are taken; at most one of Latin script.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    languages: Vec<String>,
}

impl Analyser {
    /// That of indexes in which none is recorded.
    #[must_use]
    pub fn before_it_was_recorded() -> Self {
        Self { version: 0, languages: Vec::new() }
    }

    /// The present one: of a language that is named, of none, or (`auto`, or not said) of those
    /// that a sample of the texts is in.
    pub fn of<'a>(language: Option<&str>, texts: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let languages = match language {
            None | Some("auto") => detected(texts),
            Some("none") => Vec::new(),
            Some(name) => vec![name.to_owned()],
        };
        Self { version: CURRENT, languages }
    }

    /// Whether this program makes words so: a later one may have recorded another.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.version <= CURRENT
    }

    /// The present one, in the same languages.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self { version: CURRENT, languages: self.languages.clone() }
    }

    /// Number of the way.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Names of the languages whose stems are taken.
    #[must_use]
    pub fn languages(&self) -> &[String] {
        &self.languages
    }

    /// Whether a word may differ from its stem.
    #[must_use]
    pub fn has_stems(&self) -> bool {
        !self.languages.is_empty()
    }

    fn known(&self) -> impl Iterator<Item = Language> {
        LANGUAGES
            .iter()
            .filter(|(name, _, _)| self.languages.iter().any(|own| own == name))
            .map(|(_, language, _)| *language)
    }

    fn with_stems<T: Tokenizer>(&self, tokenizer: T) -> TextAnalyzer {
        let start = TextAnalyzer::builder(tokenizer).dynamic();
        self.known()
            .fold(start, |builder, language| builder.filter_dynamic(Stemmer::new(language)))
            .build()
    }

    /// Stems of a whole text.
    #[must_use]
    pub fn stems(&self) -> TextAnalyzer {
        self.with_stems(Words { forms: false })
    }

    /// Words of a whole text as they are written, folded; none of scripts without spaces, which
    /// have no stems.
    #[must_use]
    pub fn forms(&self) -> TextAnalyzer {
        TextAnalyzer::from(Words { forms: true })
    }

    /// What reduces one folded word.
    #[must_use]
    pub fn reducer(&self) -> Reducer {
        Reducer(self.with_stems(RawTokenizer::default()))
    }

    /// What knows the words that say little.
    #[must_use]
    pub fn linking_words(&self) -> LinkingWords {
        let lists = self.known().filter_map(StopWordFilter::new);
        let english = self.languages.iter().any(|name| name == "english");
        LinkingWords {
            lists: lists
                .map(|list| TextAnalyzer::builder(RawTokenizer::default()).filter(list).build())
                .collect(),
            asking: if english { &ASKING } else { &[] },
        }
    }
}

/// Reduces words to their stems.
pub struct Reducer(TextAnalyzer);

impl fmt::Debug for Reducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reducer").finish_non_exhaustive()
    }
}

impl Reducer {
    /// The stem of a folded word.
    pub fn stem(&mut self, word: &str) -> String {
        let mut stream = self.0.token_stream(word);
        if stream.advance() { stream.token().text.clone() } else { word.to_owned() }
    }
}

/// Knows articles, prepositions and the like.
pub struct LinkingWords {
    lists: Vec<TextAnalyzer>,
    asking: &'static [&'static str],
}

impl fmt::Debug for LinkingWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkingWords").finish_non_exhaustive()
    }
}

impl LinkingWords {
    /// Whether a word, as it was written, is one of them.
    pub fn has(&mut self, word: &str) -> bool {
        let small = word.to_lowercase();
        self.asking.contains(&small.as_str())
            || self.lists.iter_mut().any(|list| !list.token_stream(&small).advance())
    }
}

/// The languages that a sample of texts is in.
fn detected<'a>(texts: impl ExactSizeIterator<Item = &'a str>) -> Vec<String> {
    let every = texts.len().div_ceil(SAMPLED_TEXTS).max(1);
    let (mut words, mut linking) = (0, [0_usize; LANGUAGE_COUNT]);
    let (mut letters, mut scripts) = (0, [0_usize; LANGUAGE_COUNT]);
    for text in texts.step_by(every) {
        let text = &text[..text.floor_char_boundary(SAMPLED_BYTES)];
        for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
            words += 1;
            let small = word.to_lowercase();
            for (count, (_, _, linkers)) in linking.iter_mut().zip(&LANGUAGES) {
                *count += usize::from(linkers.contains(&small.as_str()));
            }
        }
        for c in text.chars().filter(|c| c.is_alphabetic()) {
            letters += 1;
            let language = match c as u32 {
                0x370..=0x3ff | 0x1f00..=0x1fff => Language::Greek,
                0x400..=0x52f => Language::Russian,
                0x600..=0x6ff | 0x750..=0x77f => Language::Arabic,
                0xb80..=0xbff => Language::Tamil,
                _ => continue,
            };
            if let Some(at) = LANGUAGES.iter().position(|(_, known, _)| *known == language) {
                scripts[at] += 1;
            }
        }
    }
    // Of two that have as many, the first.
    let latin = (0..LANGUAGE_COUNT).rev().max_by_key(|at| linking[*at]);
    let latin =
        latin.filter(|at| linking[*at] > 0 && linking[*at] * 100 >= words * LINKING_PERCENT);
    let others = (0..LANGUAGE_COUNT)
        .filter(|at| scripts[*at] > 0 && scripts[*at] * 100 >= letters * SCRIPT_PERCENT);
    latin.into_iter().chain(others).map(|at| LANGUAGES[at].0.to_owned()).collect()
}

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A word of one part.
    Word,
    /// A part of an identifier.
    Part,
    /// An identifier as a whole; it stands where its first part stands.
    Whole,
    /// Two characters of a script without spaces.
    Pair,
    /// The last character of a run of such, of which a pair has told already.
    Last,
    /// A run of one such character.
    Single,
}

/// A piece of a text that can be searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// What it is.
    pub kind: Kind,
    /// Folded.
    pub text: &'a str,
    /// Its first byte in the text.
    pub from: usize,
    /// One past its last.
    pub to: usize,
    /// Its place, in words.
    pub position: usize,
    /// The number of its word or run: an identifier and its parts have one, as all pairs of a run.
    pub group: usize,
}

/// What a character belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Word,
    Unspaced,
    Other,
}

impl Class {
    fn of(c: char) -> Self {
        if c.is_ascii() {
            return if c.is_ascii_alphanumeric() || c == '_' { Self::Word } else { Self::Other };
        }
        match c as u32 {
            // Han, kana, Hangul; Thai, Lao, Burmese and Khmer.
            0x3005..=0x3007
            | 0x3040..=0x30ff
            | 0x31f0..=0x31ff
            | 0x3400..=0x4dbf
            | 0x4e00..=0x9fff
            | 0xac00..=0xd7af
            | 0x1100..=0x11ff
            | 0xf900..=0xfaff
            | 0xff66..=0xff9f
            | 0x20000..=0x3ffff
            | 0xe01..=0xe4e
            | 0xe80..=0xeff
            | 0x1000..=0x103f
            | 0x1780..=0x17d3 => {
                // Marks of sentences lie among them.
                if c.is_alphanumeric() || is_combining_mark(c) {
                    Self::Unspaced
                } else {
                    Self::Other
                }
            }
            _ if c.is_alphanumeric() => Self::Word,
            _ => Self::Other,
        }
    }

    fn goes_on(self, c: char) -> bool {
        Self::of(c) == self || (!c.is_ascii() && (is_combining_mark(c) || is_invisible(c)))
    }
}

/// Hyphens and joiners that are not seen.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

/// Folds a word: small letters, without accents, its compatible forms made one.
fn fold(word: &str, out: &mut String) {
    out.clear();
    if word.is_ascii() {
        out.extend(word.bytes().map(|b| char::from(b.to_ascii_lowercase())));
        return;
    }
    // Whose accents are ornament: elsewhere marks make other letters.
    let mut is_accented = false;
    for c in word.chars().flat_map(char::to_lowercase).nfkd().flat_map(char::to_lowercase) {
        match c {
            c if is_invisible(c) => {}
            '\u{300}'..='\u{36f}' if is_accented => {}
            // Vowel points of Hebrew and Arabic, and what stretches words.
            '\u{591}'..='\u{5bd}'
            | '\u{5bf}'..='\u{5c7}'
            | '\u{640}'
            | '\u{64b}'..='\u{65f}'
            | '\u{670}' => {}
            'ß' => out.push_str("ss"),
            'æ' => out.push_str("ae"),
            'œ' => out.push_str("oe"),
            'þ' => out.push_str("th"),
            'ø' => out.push('o'),
            'đ' | 'ð' => out.push('d'),
            'ł' => out.push('l'),
            'ı' => out.push('i'),
            'ς' => out.push('σ'),
            c => {
                is_accented = matches!(c as u32, 0x41..=0x24f | 0x370..=0x3ff | 0x1e00..=0x1fff);
                out.push(c);
            }
        }
    }
    if !out.is_ascii() {
        // The Russian letter is often written without its dots.
        *out = out.as_str().nfc().map(|c| if c == 'ё' { 'е' } else { c }).collect();
    }
}

/// Where the parts of an identifier lie: at underscores and changes of case.
fn parts(word: &str) -> Vec<(usize, usize)> {
    let chars: Vec<(usize, char)> = word.char_indices().collect();
    let (mut parts, mut start) = (Vec::new(), None);
    for (i, (at, c)) in chars.iter().enumerate() {
        if *c == '_' {
            parts.extend(start.take().map(|from| (from, *at)));
            continue;
        }
        let Some(from) = start else {
            start = Some(*at);
            continue;
        };
        let (before, after) = (chars[i - 1].1, chars.get(i + 1).map(|(_, c)| *c));
        let is_small_next = after.is_some_and(char::is_lowercase);
        // `URLs` are several of one.
        let is_plural = after == Some('s') && i + 2 == chars.len() && before.is_uppercase();
        let ends_a_run =
            is_small_next && !is_plural && (before.is_uppercase() || before.is_numeric());
        let is_hump = c.is_uppercase() && (before.is_lowercase() || ends_a_run);
        if is_hump {
            parts.push((from, *at));
            start = Some(*at);
        }
    }
    parts.extend(start.map(|from| (from, word.len())));
    parts
}

/// Cuts a text into pieces, in order. Its time is linear in the text.
pub fn segment(text: &str, emit: &mut dyn FnMut(Piece<'_>)) {
    let mut chars = text.char_indices().peekable();
    let (mut position, mut group, mut folded) = (0, 0, String::new());
    while let Some((from, first)) = chars.next() {
        let class = Class::of(first);
        if class == Class::Other {
            continue;
        }
        let mut to = from + first.len_utf8();
        while let Some((at, c)) = chars.next_if(|(_, c)| class.goes_on(*c)) {
            to = at + c.len_utf8();
        }
        let mut put = |kind, text: &str, from, to, position| {
            let text = &text[..text.floor_char_boundary(TOKEN_BYTES)];
            if !text.is_empty() {
                emit(Piece { kind, text, from, to, position, group });
            }
        };
        position += match class {
            Class::Unspaced => run(&text[from..to], from, position, &mut put),
            _ => word(&text[from..to], from, position, &mut folded, &mut put),
        };
        group += 1;
    }
}

/// Puts the pieces of a word; how many places it takes.
fn word(
    word: &str,
    start: usize,
    position: usize,
    folded: &mut String,
    put: &mut dyn FnMut(Kind, &str, usize, usize, usize),
) -> usize {
    if word.bytes().all(|b| b == b'_') {
        return 0;
    }
    let end = start + word.len();
    // What is longer is cut, and is no identifier.
    let may_have_parts = word.len() <= TOKEN_BYTES
        && (word.starts_with('_') || word.chars().skip(1).any(|c| c == '_' || c.is_uppercase()));
    let parts = if may_have_parts { parts(word) } else { Vec::new() };
    let is_one = match parts.as_slice() {
        [] => true,
        [(from, to)] => (*from, *to) == (0, word.len()),
        _ => false,
    };
    // Of data that goes on for megabytes only the beginning is folded, of which at least as much is
    // left as counts.
    let kept = &word[..word.floor_char_boundary(8 * TOKEN_BYTES)];
    fold(kept, folded);
    put(if is_one { Kind::Word } else { Kind::Whole }, folded, start, end, position);
    if is_one {
        return 1;
    }
    for (place, (from, to)) in parts.iter().enumerate() {
        fold(&word[*from..*to], folded);
        put(Kind::Part, folded, start + from, start + to, position + place);
    }
    parts.len()
}

/// Puts the pieces of a run without spaces; how many places it takes.
fn run(
    run: &str,
    start: usize,
    position: usize,
    put: &mut dyn FnMut(Kind, &str, usize, usize, usize),
) -> usize {
    let chars: Vec<char> =
        run.nfkc().flat_map(char::to_lowercase).filter(|c| !is_invisible(*c)).collect();
    let mut ends: Vec<usize> = run.char_indices().map(|(at, _)| start + at).skip(1).collect();
    ends.push(start + run.len());
    // Where normalising has changed how many there are, each lies in the run as a whole.
    let is_plain = ends.len() == chars.len();
    let from = |i: usize| if is_plain && i > 0 { ends[i - 1] } else { start };
    let to = |i: usize| if is_plain { ends[i] } else { start + run.len() };
    let mut pair = String::new();
    for (i, two) in chars.windows(2).enumerate() {
        pair.clear();
        pair.extend(two);
        put(Kind::Pair, &pair, from(i), to(i + 1), position + i);
    }
    if let Some(last) = chars.last() {
        let (kind, at) = (if chars.len() > 1 { Kind::Last } else { Kind::Single }, chars.len() - 1);
        put(kind, last.encode_utf8(&mut [0; 4]), from(at), to(at), position + at);
    }
    chars.len()
}

/// The pieces of a text, for tantivy.
#[derive(Clone, Copy, Debug)]
struct Words {
    /// Only those of words.
    forms: bool,
}

/// Those of one text.
struct Pieces {
    rest: std::vec::IntoIter<Token>,
    token: Token,
}

impl Tokenizer for Words {
    type TokenStream<'a> = Pieces;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Pieces {
        let mut tokens = Vec::new();
        segment(text, &mut |piece| {
            if self.forms && matches!(piece.kind, Kind::Pair | Kind::Last | Kind::Single) {
                return;
            }
            let Piece { text, from, to, position, .. } = piece;
            tokens.push(Token {
                offset_from: from,
                offset_to: to,
                position,
                text: text.to_owned(),
                position_length: 1,
            });
        });
        Pieces { rest: tokens.into_iter(), token: Token::default() }
    }
}

impl TokenStream for Pieces {
    fn advance(&mut self) -> bool {
        let Some(next) = self.rest.next() else { return false };
        self.token = next;
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

#[cfg(test)]
mod tests;
