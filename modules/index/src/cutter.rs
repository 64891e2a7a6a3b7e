//! Cutting documents into chunks by the model's tokens.
//!
//! A document is taken apart into units (sentences, lines, words where it must be), which are put
//! together again to chunks: as many as fit the model's window together with what stands before
//! them there, cut where the outline says, with crumbs joined to their neighbours. How many tokens
//! a text has is estimated; what may be too long by its bytes is measured by the model's own
//! tokenizer, and cut anew if it is.
//!
//! Invariants: no chunk, with its context before it, has more tokens than the window; everything
//! but blanks is in a chunk; chunks are in the order of the text; the time is linear in it.

mod context;
mod packing;
mod units;

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};

use brahman_card::Fault;

use crate::outline::{Outline, SECTION, outline};
pub use context::heading;
use context::{Contexts, owners};
use packing::{Room, Span, joined, pack};
pub use units::sentences_of;
use units::{Unit, estimate, units};

/// Tokens of a chunk with its context, unless the index says otherwise: more say less by one
/// vector, and it is what small models take.
pub const TOKENS_DEFAULT: u64 = 256;
/// Least and most that an index may say.
pub const TOKENS_RANGE: std::ops::RangeInclusive<u64> = 16..=8192;
/// The largest unit, as a share of a chunk: 1 in this many.
const UNIT_SHARE: usize = 8;
/// But never fewer tokens than a long word has, so that small chunks are not cut within words.
const UNIT_MIN: usize = 8;
/// Texts measured at once, and their bytes.
const MEASURED_TEXTS: usize = 512;
const MEASURED_BYTES: usize = 4 << 20;
/// Times that what is too long is cut anew by what was measured; then by its bytes, of which a
/// token has at least one.
const ROUNDS_MAX: usize = 6;
/// Characters that one byte may become when a text is normalised: a ligature of three bytes has
/// eighteen.
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

/// Counts nothing: what is cut beside it is as long as is guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoMeasure;

impl Measure for NoMeasure {
    fn window(&self) -> Result<Option<Window>, Fault> {
        Ok(None)
    }

    fn tokens(&self, _: &[String]) -> Result<Option<Vec<u64>>, Fault> {
        Ok(None)
    }
}

/// What a chunk may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens that are aimed at, with context, special ones and prompt; fewer where the model takes
    /// fewer.
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
    /// Where it stands: the document's name, and the headings or the items that it is in, the
    /// outermost first.
    pub context: String,
}

/// What is embedded of a chunk: where it stands, then what it says.
#[must_use]
pub fn embedded<'a>(context: &str, text: &'a str) -> Cow<'a, str> {
    if context.is_empty() {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("{context}\n\n{text}"))
    }
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
        Self {
            limits,
            window: OnceCell::new(),
            factor: Cell::new(1.0),
            is_guessed: Cell::new(false),
        }
    }

    /// What its chunks may be.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
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
        let most = self
            .window()
            .map_or(self.limits.tokens, |window| window.tokens.min(self.limits.tokens));
        usize::try_from(most.saturating_sub(self.added())).unwrap_or(usize::MAX).max(1)
    }

    /// The chunks of each document.
    ///
    /// # Errors
    /// As `measure` gives them.
    pub fn cut(
        &self,
        sources: &[Source<'_>],
        measure: &dyn Measure,
    ) -> Result<Vec<Vec<Cut>>, Fault> {
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
        let cuts = |draft: Draft<'_>| {
            numbered(draft.source.text, draft.pieces.into_iter().map(|piece| piece.cut).collect())
        };
        Ok(drafts.into_iter().map(cuts).collect())
    }

    /// Cuts a part of a text into chunks of so many guessed tokens.
    fn pieces(
        &self,
        source: &Source<'_>,
        outline: &Outline,
        part: std::ops::Range<usize>,
        tokens: usize,
    ) -> Vec<Cut> {
        let tokens = tokens.max(1);
        let most_chars = self.limits.chars.unwrap_or(usize::MAX);
        let text = &source.text[part.clone()];
        let units = units(
            text,
            outline,
            part.start,
            (tokens / UNIT_SHARE).max(tokens.min(UNIT_MIN)),
            most_chars,
        );
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
            let least =
                if chars == usize::MAX { chars } else { chars.saturating_sub(shared).max(1) };
            Room { cost: cost - (shared / 4).min(cost / 2), chars: least }
        };
        let spans = joined(&units, pack(&units, &room), &room);
        let mut cuts = Vec::with_capacity(spans.len());
        for (i, span) in spans.iter().enumerate() {
            let from = if i > 0 {
                self.shared_from(&units, span, spans[i - 1], whole(span.from))
            } else {
                span.from
            };
            let (start, end) =
                (part.start + units[from].start, part.start + units[span.to - 1].end);
            // Blanks at its ends say nothing, but those that indent its first line.
            let piece = &source.text[start..end];
            let blank: usize = piece
                .split_inclusive('\n')
                .take_while(|line| line.trim().is_empty())
                .map(str::len)
                .sum();
            let (mut start, end) = (start + blank, start + piece.trim_end().len());
            if !source.text[..start].is_empty() && !source.text[..start].ends_with('\n') {
                start += source.text[start..].len() - source.text[start..].trim_start().len();
            }
            if start < end {
                cuts.push(Cut {
                    start,
                    end,
                    line: 0,
                    context: contexts.label(owners[span.from]).to_owned(),
                });
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
    fn too_long(
        &self,
        drafts: &mut [Draft<'_>],
        measure: &dyn Measure,
    ) -> Result<Vec<TooLong>, Fault> {
        let Some(window) = self.window() else { return Ok(Vec::new()) };
        let mut long = Vec::new();
        let (mut places, mut texts, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (document, draft) in drafts.iter().enumerate() {
            for (piece, Piece { cut, .. }) in
                draft.pieces.iter().enumerate().filter(|(_, piece)| !piece.fits)
            {
                let text = embedded(&cut.context, &draft.source.text[cut.start..cut.end]);
                // A token has at least one byte, of a text that is not made longer first.
                let longest = if text.is_ascii() {
                    text.len()
                } else {
                    text.len().saturating_mul(EXPANSION_MAX)
                };
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
        let Some(tokens) = measure.tokens(&texts)?.filter(|tokens| tokens.len() == texts.len())
        else {
            self.is_guessed.set(true);
            return Ok(());
        };
        let ratio = |text: &String, tokens: u64| {
            tokens.saturating_sub(self.added()) as f32 / estimate(text).max(1) as f32
        };
        let mut ratios: Vec<f32> =
            texts.iter().zip(&tokens).map(|(text, tokens)| ratio(text, *tokens)).collect();
        ratios.sort_unstable_by(f32::total_cmp);
        // Nine in ten of what comes shall fit at once.
        let high = ratios[(ratios.len() * 9 / 10).min(ratios.len() - 1)].clamp(0.5, 4.0);
        self.factor.set(if high > self.factor.get() {
            high
        } else {
            (3.0 * self.factor.get() + high) / 4.0
        });
        let window = self.window().map_or(u64::MAX, |window| window.tokens);
        let all = places.into_iter().zip(tokens).map(|((document, piece), tokens)| TooLong {
            document,
            piece,
            tokens,
        });
        long.extend(all.filter(|one| one.tokens > window));
        Ok(())
    }

    /// Cuts what is too long into smaller pieces; at last into such as fit by their bytes, without
    /// context.
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
        let room =
            self.window().map_or(u64::MAX, |window| window.tokens.saturating_sub(window.added));
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

#[cfg(test)]
mod tests;
