//! Cutting documents into chunks by the model's tokens.
//!
//! A document is taken apart into units (sentences, lines, words where it must be), which are put together again to chunks: as many as fit
//! the model's window together with what stands before them there, cut where the outline says, with crumbs joined to their neighbours.
//! How many tokens a text has is estimated; what may be too long by its bytes is measured by the model's own tokenizer, and cut anew if
//! it is.
//!
//! Invariants: no chunk, with its context before it, has more tokens than the window; everything but blanks is in a chunk; chunks are in
//! the order of the text; the time is linear in it.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::collections::HashMap;

use brahman_card::Fault;

use crate::outline::{Outline, PARAGRAPH, SECTION, SENTENCE, WORD, outline};

/// Tokens of a chunk with its context, unless the index says otherwise: more say less by one vector, and it is what small models take.
pub const TOKENS_DEFAULT: u64 = 256;
/// Least and most that an index may say.
pub const TOKENS_RANGE: std::ops::RangeInclusive<u64> = 16..=8192;
/// A section that is smaller, as a share of a chunk, goes on into the next: 1 in this many.
const SECTION_SHARE: usize = 4;
/// A chunk that is smaller is a crumb, as a share of the largest: 1 in this many. A tenth is promised, by measured tokens.
const CRUMB_SHARE: usize = 8;
/// The largest unit, as a share of a chunk: 1 in this many.
const UNIT_SHARE: usize = 8;
/// But never fewer tokens than a long word has, so that small chunks are not cut within words.
const UNIT_MIN: usize = 8;
/// Of a chunk, what its context may be at most: 1 in this many.
const CONTEXT_SHARE: usize = 3;
/// Characters of a context, and labels in it.
const CONTEXT_CHARS: usize = 300;
const CONTEXT_LABELS: usize = 6;
/// Parts of a path that say something.
const PATH_PARTS: usize = 3;
/// Longest id that is taken for a name or a path.
const PATH_CHARS: usize = 200;
/// Texts measured at once, and their bytes.
const MEASURED_TEXTS: usize = 512;
const MEASURED_BYTES: usize = 4 << 20;
/// Times that what is too long is cut anew by what was measured; then by its bytes, of which a token has at least one.
const ROUNDS_MAX: usize = 6;
/// Characters that one byte may become when a text is normalised: a ligature of three bytes has eighteen.
const EXPANSION_MAX: usize = 6;
/// Of what would fit by what was measured, how much is taken: tokens are not spread evenly.
const MARGIN: f32 = 0.9;

/// What a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Tokens of one text.
    pub tokens: u64,
    /// How many of them the model adds by itself: special ones, and its prompt.
    pub added: u64,
}

/// What counts the tokens of texts as the model does, special ones and prompts included.
pub trait Measure: std::fmt::Debug {
    /// What the model takes; none if it takes texts of any length.
    ///
    /// # Errors
    /// As the provider gives them.
    fn window(&self) -> Result<Option<Window>, Fault>;

    /// One number a text; none if the provider cannot tell.
    ///
    /// # Errors
    /// As the provider gives them.
    fn tokens(&self, texts: &[String]) -> Result<Option<Vec<u64>>, Fault>;
}

/// What a chunk may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens that are aimed at, with context, special ones and prompt; fewer where the model takes fewer.
    pub tokens: u64,
    /// Characters of the text alone, if the index says so.
    pub chars: Option<usize>,
    /// Characters that neighbours share at most.
    pub overlap: usize,
}

/// A document to be cut.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its ending says what it is.
    pub id: &'a str,
    /// All of it.
    pub text: &'a str,
}

/// A chunk of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// First byte in the text.
    pub start: usize,
    /// One past the last.
    pub end: usize,
    /// Line of the first, from 1.
    pub line: usize,
    /// Where it stands: the document's name, and the headings or the items that it is in, the outermost first.
    pub context: String,
}

/// What is embedded of a chunk: where it stands, then what it says.
#[must_use]
pub fn embedded<'a>(context: &str, text: &'a str) -> Cow<'a, str> {
    if context.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(format!("{context}\n\n{text}")) }
}

/// The headings or items of a context, without the document's name.
#[must_use]
pub fn heading<'a>(id: &str, context: &'a str) -> &'a str {
    let name = name_of(id);
    match context.strip_prefix(name) {
        Some(rest) if !name.is_empty() => rest.strip_prefix(": ").unwrap_or(rest),
        _ => context,
    }
}

/// What of an id says something to a reader: the last parts of a path, or a name; nothing of a number, or of a key.
fn name_of(id: &str) -> &str {
    let letters = id.chars().filter(|c| c.is_alphabetic()).count();
    let digits = id.chars().filter(char::is_ascii_digit).count();
    let is_name = id.contains(['/', '.']) || letters >= 2 * digits + 3;
    if letters < 3 || !is_name || id.len() > PATH_CHARS {
        return "";
    }
    match id.match_indices('/').rev().nth(PATH_PARTS - 1) {
        Some((at, _)) => &id[at + 1..],
        None => id,
    }
}

/// How many tokens a text has at a guess, for models of word pieces: a word of letters some, of digits more, a mark one, a character of
/// other scripts one.
fn estimate(text: &str) -> usize {
    let (mut tokens, mut letters, mut digits) = (0, 0_usize, 0_usize);
    let end = |letters: &mut usize, digits: &mut usize| {
        let length = *letters + *digits;
        let of_word = if length == 0 { 0 } else { 1 + (length - 1) / if *digits > 0 { 2 } else { 6 } };
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
struct Unit {
    start: usize,
    end: usize,
    cost: usize,
    chars: usize,
    /// How good a place its beginning is to cut at.
    level: u8,
}

/// Units of a text, each of at most `most` estimated tokens, and characters.
fn units(text: &str, outline: &Outline, offset: usize, most: usize, most_chars: usize) -> Vec<Unit> {
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

/// The sentences of a text, or its lines where they stand apart; none of more than so many characters.
#[must_use]
pub fn sentences_of(text: &str, most_chars: usize) -> Vec<std::ops::Range<usize>> {
    let units = units(text, &Outline::default(), 0, usize::MAX, most_chars);
    let mut out: Vec<std::ops::Range<usize>> = Vec::new();
    for unit in units {
        match out.last_mut() {
            // A line that goes on is no sentence by itself.
            Some(last) if unit.level == WORD && text[last.start..unit.end].chars().count() <= most_chars => last.end = unit.end,
            _ => out.push(unit.start..unit.end),
        }
    }
    out
}

/// Whether a line of prose begins something: an item of a list, a row of a table, or what is indented.
fn is_apart(line: &str) -> bool {
    line.starts_with([' ', '\t', '-', '*', '+', '|', '>', '#']) || line.starts_with(|c: char| c.is_ascii_digit())
}

/// Cuts a line into sentences, and those that are too long into words.
fn sentences(line: &str, start: usize, first: u8, most: usize, most_chars: usize, out: &mut Vec<Unit>) {
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
fn words(sentence: &str, start: usize, level: u8, most: usize, most_chars: usize, out: &mut Vec<Unit>) {
    let whole = Unit { start, end: start + sentence.len(), cost: estimate(sentence), chars: sentence.chars().count(), level };
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
            now = Unit { end: now.end + word.len(), cost: now.cost + cost, chars: now.chars + chars, ..now };
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

/// A run of units that becomes a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: usize,
    to: usize,
    cost: usize,
    chars: usize,
}

/// What a chunk may hold, in estimated tokens and characters.
#[derive(Clone, Copy, Debug)]
struct Room {
    cost: usize,
    chars: usize,
}

impl Room {
    fn holds(self, cost: usize, chars: usize) -> bool {
        cost <= self.cost && chars <= self.chars
    }
}

/// Puts units together. `room` is that of a chunk which begins with the unit of a number.
fn pack(units: &[Unit], room: &dyn Fn(usize) -> Room) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut from = 0;
    while from < units.len() {
        let room = room(from);
        let (mut to, mut cost, mut chars) = (from, 0, 0);
        while let Some(unit) = units.get(to) {
            let is_first = to == from;
            let is_section = unit.level >= SECTION && cost * SECTION_SHARE >= room.cost;
            if !is_first && (is_section || !room.holds(cost + unit.cost, chars + unit.chars)) {
                if !is_section {
                    to = best_cut(units, from, to, cost);
                }
                break;
            }
            (cost, chars, to) = (cost + unit.cost, chars + unit.chars, to + 1);
        }
        spans.push(span(units, from, to));
        from = to;
    }
    spans
}

fn span(units: &[Unit], from: usize, to: usize) -> Span {
    let all = &units[from..to];
    Span { from, to, cost: all.iter().map(|unit| unit.cost).sum(), chars: all.iter().map(|unit| unit.chars).sum() }
}

/// The best place to cut in the second half of what fits: where most ends, and the last of those.
fn best_cut(units: &[Unit], from: usize, to: usize, cost: usize) -> usize {
    let (mut best, mut left) = ((units[to].level, to), cost);
    for at in (from + 1..to).rev() {
        left -= units[at].cost;
        if left * 2 < cost {
            break;
        }
        if units[at].level > best.0 {
            best = (units[at].level, at);
        }
    }
    best.1
}

/// Joins crumbs with their neighbours.
fn joined(units: &[Unit], spans: Vec<Span>, room: &dyn Fn(usize) -> Room) -> Vec<Span> {
    let is_crumb = |span: &Span| span.cost * CRUMB_SHARE < room(span.from).cost && span.chars * CRUMB_SHARE < room(span.from).chars;
    let mut out: Vec<Span> = Vec::with_capacity(spans.len());
    for next in spans {
        let Some(last) = out.last().copied() else {
            out.push(next);
            continue;
        };
        if !is_crumb(&last) && !is_crumb(&next) {
            out.push(next);
            continue;
        }
        let together = span(units, last.from, next.to);
        out.pop();
        if room(last.from).holds(together.cost, together.chars) {
            out.push(together);
            continue;
        }
        // Both together are too much for one: two of like size.
        let (mut left, mut best) = (Span { from: last.from, to: last.from, cost: 0, chars: 0 }, None);
        for at in last.from + 1..next.to {
            let unit = units[at - 1];
            left = Span { to: at, cost: left.cost + unit.cost, chars: left.chars + unit.chars, ..left };
            let right = Span { from: at, to: next.to, cost: together.cost - left.cost, chars: together.chars - left.chars };
            let off = (left.cost.abs_diff(right.cost), u8::MAX - units[at].level);
            let fits = [left, right].iter().all(|half| room(half.from).holds(half.cost, half.chars) && !is_crumb(half));
            if fits && best.as_ref().is_none_or(|(least, _)| off < *least) {
                best = Some((off, [left, right]));
            }
        }
        out.extend(best.map_or([last, next], |(_, halves)| halves));
    }
    out
}

/// Cuts documents.
#[derive(Debug)]
pub struct Cutter {
    limits: Limits,
    /// Asked for once, when there is something to cut.
    window: OnceCell<Option<Window>>,
    /// Tokens a guessed one, by what was measured so far.
    factor: Cell<f32>,
    /// Whether the provider could not tell how many tokens texts have.
    is_guessed: Cell<bool>,
}

/// A document under the knife.
struct Draft<'a> {
    source: Source<'a>,
    outline: Outline,
    pieces: Vec<Piece>,
}

/// A chunk, and whether it is known to fit the window.
struct Piece {
    cut: Cut,
    fits: bool,
}

/// A chunk that does not fit, and how many tokens it has.
struct TooLong {
    document: usize,
    piece: usize,
    tokens: u64,
}

impl Cutter {
    /// One for chunks of these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, window: OnceCell::new(), factor: Cell::new(1.0), is_guessed: Cell::new(false) }
    }

    /// Whether chunks were cut by guessed tokens alone, although the model has a window.
    #[must_use]
    pub fn is_guessed(&self) -> bool {
        self.is_guessed.get()
    }

    fn window(&self) -> Option<Window> {
        self.window.get().copied().flatten()
    }

    /// Tokens that the model adds by itself.
    fn added(&self) -> u64 {
        self.window().map_or(0, |window| window.added)
    }

    /// Tokens of a chunk's own, with its context.
    fn tokens(&self) -> usize {
        let most = self.window().map_or(self.limits.tokens, |window| window.tokens.min(self.limits.tokens));
        usize::try_from(most.saturating_sub(self.added())).unwrap_or(usize::MAX).max(1)
    }

    /// The chunks of each document.
    ///
    /// # Errors
    /// As `measure` gives them.
    pub fn cut(&self, sources: &[Source<'_>], measure: &dyn Measure) -> Result<Vec<Vec<Cut>>, Fault> {
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        if self.window.get().is_none() {
            let window = measure.window()?;
            self.window.get_or_init(|| window);
        }
        let guessed = (self.tokens() as f32 / self.factor.get()) as usize;
        let mut drafts: Vec<Draft<'_>> = Vec::with_capacity(sources.len());
        for source in sources {
            let outline = outline(source.id, source.text);
            let cuts = self.pieces(source, &outline, 0..source.text.len(), guessed);
            let pieces = cuts.into_iter().map(|cut| Piece { cut, fits: false }).collect();
            drafts.push(Draft { source: *source, outline, pieces });
        }
        for round in 0..=ROUNDS_MAX {
            let long = self.too_long(&mut drafts, measure)?;
            if long.is_empty() {
                break;
            }
            self.cut_again(&mut drafts, &long, round == ROUNDS_MAX);
        }
        let cuts = |draft: Draft<'_>| numbered(draft.source.text, draft.pieces.into_iter().map(|piece| piece.cut).collect());
        Ok(drafts.into_iter().map(cuts).collect())
    }

    /// Cuts a part of a text into chunks of so many guessed tokens.
    fn pieces(&self, source: &Source<'_>, outline: &Outline, part: std::ops::Range<usize>, tokens: usize) -> Vec<Cut> {
        let tokens = tokens.max(1);
        let most_chars = self.limits.chars.unwrap_or(usize::MAX);
        let text = &source.text[part.clone()];
        let units = units(text, outline, part.start, (tokens / UNIT_SHARE).max(tokens.min(UNIT_MIN)), most_chars);
        let owners = owners(outline, &units, part.start);
        let contexts = Contexts::of(outline, source.id, tokens, &owners);
        let whole = |unit: usize| {
            let taken = contexts.cost(owners[unit]);
            Room { cost: tokens.saturating_sub(taken).max(1), chars: most_chars }
        };
        // What neighbours share has its place, too.
        let shared = self.limits.overlap;
        let room = |unit: usize| {
            let Room { cost, chars } = whole(unit);
            let least = if chars == usize::MAX { chars } else { chars.saturating_sub(shared).max(1) };
            Room { cost: cost - (shared / 4).min(cost / 2), chars: least }
        };
        let spans = joined(&units, pack(&units, &room), &room);
        let mut cuts = Vec::with_capacity(spans.len());
        for (i, span) in spans.iter().enumerate() {
            let from = if i > 0 { self.shared_from(&units, span, spans[i - 1], whole(span.from)) } else { span.from };
            let (start, end) = (part.start + units[from].start, part.start + units[span.to - 1].end);
            // Blanks at its ends say nothing, but those that indent its first line.
            let piece = &source.text[start..end];
            let blank: usize = piece.split_inclusive('\n').take_while(|line| line.trim().is_empty()).map(str::len).sum();
            let (mut start, end) = (start + blank, start + piece.trim_end().len());
            if !source.text[..start].is_empty() && !source.text[..start].ends_with('\n') {
                start += source.text[start..].len() - source.text[start..].trim_start().len();
            }
            if start < end {
                cuts.push(Cut { start, end, line: 0, context: contexts.label(owners[span.from]).to_owned() });
            }
        }
        cuts
    }

    /// The unit with which a chunk begins that shares its edge with the one before.
    fn shared_from(&self, units: &[Unit], span: &Span, before: Span, room: Room) -> usize {
        let (mut from, mut cost, mut chars, mut shared) = (span.from, span.cost, span.chars, 0);
        while from > before.from + 1 && units[from].level < SECTION {
            let unit = units[from - 1];
            (cost, chars, shared) = (cost + unit.cost, chars + unit.chars, shared + unit.chars);
            if shared > self.limits.overlap || !room.holds(cost, chars) {
                break;
            }
            from -= 1;
        }
        from
    }

    /// The chunks that have more tokens than the window; the others are marked.
    fn too_long(&self, drafts: &mut [Draft<'_>], measure: &dyn Measure) -> Result<Vec<TooLong>, Fault> {
        let Some(window) = self.window() else { return Ok(Vec::new()) };
        let mut long = Vec::new();
        let (mut places, mut texts, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (document, draft) in drafts.iter().enumerate() {
            for (piece, Piece { cut, .. }) in draft.pieces.iter().enumerate().filter(|(_, piece)| !piece.fits) {
                let text = embedded(&cut.context, &draft.source.text[cut.start..cut.end]);
                // A token has at least one byte, of a text that is not made longer first.
                let longest = if text.is_ascii() { text.len() } else { text.len().saturating_mul(EXPANSION_MAX) };
                if longest as u64 + window.added < window.tokens {
                    continue;
                }
                bytes += text.len();
                places.push((document, piece));
                texts.push(text.into_owned());
                if texts.len() >= MEASURED_TEXTS || bytes >= MEASURED_BYTES {
                    self.measured(&mut places, &mut texts, measure, &mut long)?;
                    bytes = 0;
                }
            }
        }
        self.measured(&mut places, &mut texts, measure, &mut long)?;
        drafts.iter_mut().flat_map(|draft| &mut draft.pieces).for_each(|piece| piece.fits = true);
        for TooLong { document, piece, .. } in &long {
            drafts[*document].pieces[*piece].fits = false;
        }
        Ok(long)
    }

    /// Measures texts, learns from it, and notes which are too long.
    fn measured(
        &self,
        places: &mut Vec<(usize, usize)>,
        texts: &mut Vec<String>,
        measure: &dyn Measure,
        long: &mut Vec<TooLong>,
    ) -> Result<(), Fault> {
        let (places, texts) = (std::mem::take(places), std::mem::take(texts));
        if texts.is_empty() || self.is_guessed.get() {
            return Ok(());
        }
        let Some(tokens) = measure.tokens(&texts)?.filter(|tokens| tokens.len() == texts.len()) else {
            self.is_guessed.set(true);
            return Ok(());
        };
        let ratio = |text: &String, tokens: u64| tokens.saturating_sub(self.added()) as f32 / estimate(text).max(1) as f32;
        let mut ratios: Vec<f32> = texts.iter().zip(&tokens).map(|(text, tokens)| ratio(text, *tokens)).collect();
        ratios.sort_unstable_by(f32::total_cmp);
        // Nine in ten of what comes shall fit at once.
        let high = ratios[(ratios.len() * 9 / 10).min(ratios.len() - 1)].clamp(0.5, 4.0);
        self.factor.set(if high > self.factor.get() { high } else { (3.0 * self.factor.get() + high) / 4.0 });
        let window = self.window().map_or(u64::MAX, |window| window.tokens);
        let all = places.into_iter().zip(tokens).map(|((document, piece), tokens)| TooLong { document, piece, tokens });
        long.extend(all.filter(|one| one.tokens > window));
        Ok(())
    }

    /// Cuts what is too long into smaller pieces; at last into such as fit by their bytes, without context.
    fn cut_again(&self, drafts: &mut [Draft<'_>], long: &[TooLong], is_last: bool) {
        // Documents and their pieces come in order.
        for long in long.chunk_by(|one, next| one.document == next.document) {
            let Some(first) = long.first() else { continue };
            let draft = &mut drafts[first.document];
            let mut long = long.iter().peekable();
            let mut all = Vec::with_capacity(draft.pieces.len() + long.len());
            for (number, piece) in std::mem::take(&mut draft.pieces).into_iter().enumerate() {
                match long.next_if(|one| one.piece == number) {
                    None => all.push(piece),
                    Some(one) => {
                        let anew = self.anew(draft, &piece.cut, one.tokens, is_last);
                        all.extend(anew.into_iter().map(|cut| Piece { cut, fits: false }));
                    }
                }
            }
            draft.pieces = all;
        }
    }

    /// Smaller chunks in the place of one that has so many tokens.
    fn anew(&self, draft: &Draft<'_>, cut: &Cut, tokens: u64, is_last: bool) -> Vec<Cut> {
        let room = self.window().map_or(u64::MAX, |window| window.tokens.saturating_sub(window.added));
        if is_last {
            return by_bytes(draft.source.text, cut, usize::try_from(room).unwrap_or(usize::MAX));
        }
        let text = &draft.source.text[cut.start..cut.end];
        let share = room as f32 / tokens.max(1) as f32;
        let guessed = (estimate(&embedded(&cut.context, text)) as f32 * share * MARGIN) as usize;
        let anew = self.pieces(&draft.source, &draft.outline, cut.start..cut.end, guessed);
        // One that cannot be taken apart further by its units is halved.
        if anew.len() > 1 { anew } else { by_bytes(draft.source.text, cut, text.len().div_ceil(2)) }
    }
}

/// Cuts by bytes; a chunk that has room for little but itself loses its context.
fn by_bytes(text: &str, cut: &Cut, most: usize) -> Vec<Cut> {
    let mut out = Vec::new();
    let mut start = cut.start;
    while start < cut.end {
        // At least one character, however few bytes there may be.
        let mut end = cut.end.min(start.saturating_add(most.max(1)));
        end = text.floor_char_boundary(end);
        if end <= start {
            end = text[start..].chars().next().map_or(cut.end, |c| start + c.len_utf8());
        }
        out.push(Cut { start, end, line: 0, context: String::new() });
        start = end;
    }
    out.retain(|cut| !text[cut.start..cut.end].trim().is_empty());
    out
}

/// Gives chunks their lines.
fn numbered(text: &str, mut cuts: Vec<Cut>) -> Vec<Cut> {
    let (mut line, mut at) = (1, 0);
    for cut in &mut cuts {
        if cut.start > at {
            line += text[at..cut.start].bytes().filter(|b| *b == b'\n').count();
            at = cut.start;
        }
        cut.line = line;
    }
    cuts
}

/// What stands before the chunks that begin in some items.
struct Contexts {
    /// The words, and their guessed tokens, by the item's number.
    labels: HashMap<usize, (String, usize)>,
}

impl Contexts {
    /// Of these items of an outline; a number that none has is of what is in none.
    fn of(outline: &Outline, id: &str, tokens: usize, owners: &[usize]) -> Self {
        let name = Some(name_of(id)).filter(|name| !too_much(name, tokens)).unwrap_or_default();
        let mut labels: HashMap<usize, (String, usize)> = HashMap::new();
        for owner in owners {
            labels.entry(*owner).or_insert_with(|| {
                let label = context_of(outline, *owner, name, tokens);
                let cost = estimate(&label);
                (label, cost)
            });
        }
        Self { labels }
    }

    fn label(&self, item: usize) -> &str {
        self.labels.get(&item).map_or("", |(label, _)| label)
    }

    fn cost(&self, item: usize) -> usize {
        self.labels.get(&item).map_or(0, |(_, cost)| *cost)
    }
}

/// A document's name, and the headings or items that lead to one of them, as far as they fit.
fn context_of(outline: &Outline, number: usize, name: &str, tokens: usize) -> String {
    let Some(item) = outline.items.get(number) else { return name.to_owned() };
    let mut path = vec![item.label.as_str()];
    let mut above = item.parent;
    while let Some(parent) = above.filter(|parent| *parent < number && path.len() < CONTEXT_LABELS) {
        path.push(outline.items[parent].label.as_str());
        above = outline.items[parent].parent;
    }
    path.reverse();
    let full = |path: &[&str]| match (name, path.join(" > ")) {
        ("", path) => path,
        (name, path) => format!("{name}: {path}"),
    };
    // The innermost say most.
    while path.len() > 1 && too_much(&full(&path), tokens) {
        path.remove(0);
    }
    let label = full(&path);
    if too_much(&label, tokens) { name.to_owned() } else { label }
}

/// The number of the innermost item that each unit begins in; how many there are, of what is in none.
fn owners(outline: &Outline, units: &[Unit], offset: usize) -> Vec<usize> {
    let items = &outline.items;
    let of = |unit: &Unit| {
        let start = offset + unit.start;
        let mut innermost = items.partition_point(|item| item.start <= start).checked_sub(1);
        while let Some(item) = innermost.map(|number| &items[number]).filter(|item| item.end <= start) {
            innermost = item.parent;
        }
        innermost.unwrap_or(items.len())
    };
    units.iter().map(of).collect()
}

fn too_much(context: &str, tokens: usize) -> bool {
    context.chars().count() > CONTEXT_CHARS || estimate(context) * CONTEXT_SHARE > tokens
}

#[cfg(test)]
mod tests;
