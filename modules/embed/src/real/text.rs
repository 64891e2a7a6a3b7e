//! A text's way to token ids: the prompt before it, blanks and capitals as the model wants them,
//! the tokenizer, and the cut to the window.
//!
//! Invariants: ids are those that Hugging Face's own truncation gives, special tokens at either end
//! included; a text's cost is bounded by the window and not by its length: what cannot fit is not
//! looked at, and then said to be "at least so many".

use std::borrow::Cow;

use brahman_models::layout::ModelPlan;
use brahman_models::tokens::{TextPart, TokenBound, largest_id, read_tokenizer};
use brahman_storage::digest::sha256;
use tokenizers::{PostProcessor as _, Tokenizer, TruncationDirection};

use super::cache::ContentHash;

/// What is put before every text of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// In words; empty for none.
    pub text: String,
    /// Tokens at the beginning of each text that are the prompt's and are not pooled.
    pub skip: u32,
}

/// A text's tokens, cut to the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIds {
    /// What the model is fed with.
    pub ids: Vec<u32>,
    /// How many tokens the text has, special ones included.
    pub tokens: u32,
    /// Whether it has at least so many, because the rest was not looked at.
    pub is_least: bool,
    /// How many of those that are kept the vocabulary does not have.
    pub unknown: u32,
}

/// A token's place in the text it is of, in bytes.
pub type Span = (usize, usize);

/// Makes token ids of texts.
#[derive(Debug)]
pub struct TextReader {
    tokenizer: Tokenizer,
    max_tokens: usize,
    bound: TokenBound,
    /// Special tokens that every text gets.
    specials: usize,
    unknown: Option<u32>,
    cuts_left: bool,
    lowercase: bool,
    strip: bool,
    pools_prompt: bool,
}

/// Why a tokenizer cannot be used with a model.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// It is none, or it fails.
    #[error(transparent)]
    Tokenizer(#[from] tokenizers::Error),
    /// No text fits.
    #[error(
        "the window is {max_tokens} tokens by {source_said}, of which special tokens take {specials}"
    )]
    Window {
        /// Tokens that the model takes.
        max_tokens: usize,
        /// Who says so.
        source_said: String,
        /// Tokens that every text gets.
        specials: usize,
    },
}

impl TextReader {
    /// From the tokenizer's bytes.
    ///
    /// # Errors
    /// [`TokenizerError`].
    pub fn open(bytes: &[u8], plan: &ModelPlan) -> Result<Self, TokenizerError> {
        let mut tokenizer = read_tokenizer(bytes)?;
        // Both are done here, per text and per batch, so that what is cut is known.
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        let specials =
            tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        let max_tokens = plan.window.tokens;
        if max_tokens <= specials {
            return Err(TokenizerError::Window {
                max_tokens,
                source_said: plan.window.source.clone(),
                specials,
            });
        }
        Ok(Self {
            unknown: unknown_id(bytes, &tokenizer),
            bound: TokenBound::of(&tokenizer, max_tokens, plan.cuts_left),
            tokenizer,
            max_tokens,
            specials,
            cuts_left: plan.cuts_left,
            lowercase: plan.lowercase,
            strip: plan.strip,
            pools_prompt: plan.pooling.as_ref().is_none_or(|pooling| pooling.include_prompt),
        })
    }

    /// Tokens that a text may have, special ones included.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The largest id that the tokenizer gives.
    #[must_use]
    pub fn largest_id(&self) -> u32 {
        largest_id(&self.tokenizer)
    }

    /// Whether ids are what they were when every text was cut so: the first tokens, and the last
    /// one, and blanks were left on.
    #[must_use]
    pub fn cuts_as_once_assumed(&self) -> bool {
        let closing = |text: &str| {
            let encoding = self.tokenizer.encode_fast(text, true).ok()?;
            Some(
                encoding
                    .get_special_tokens_mask()
                    .iter()
                    .rev()
                    .take_while(|mask| **mask == 1)
                    .count(),
            )
        };
        let ids = |text: &str| {
            self.tokenizer.encode_fast(text, true).ok().map(|encoding| encoding.get_ids().to_vec())
        };
        closing("a") == Some(1) && (!self.strip || ids(" \t a\n") == ids("a"))
    }

    /// A prompt, and how many of its tokens are not pooled.
    ///
    /// # Errors
    /// As the tokenizer gives them.
    pub fn prompt(&self, text: &str) -> Result<Prompt, tokenizers::Error> {
        let mut skip = 0;
        if !self.pools_prompt && !text.is_empty() {
            let encoding = self.tokenizer.encode_fast(&*self.prepared("", text), true)?;
            let closing = encoding.get_special_tokens_mask().last().is_some_and(|mask| *mask == 1);
            skip = encoding.len() - usize::from(closing);
        }
        Ok(Prompt { text: text.to_owned(), skip: u32::try_from(skip).unwrap_or(u32::MAX) })
    }

    /// The text that the tokenizer is given.
    #[must_use]
    pub fn prepared<'a>(&self, prompt: &str, text: &'a str) -> Cow<'a, str> {
        let whole = if prompt.is_empty() {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(format!("{prompt}{text}"))
        };
        let whole = if self.strip {
            match whole {
                Cow::Borrowed(text) => Cow::Borrowed(stripped(text)),
                Cow::Owned(text) => Cow::Owned(stripped(&text).to_owned()),
            }
        } else {
            whole
        };
        if self.lowercase { Cow::Owned(whole.to_lowercase()) } else { whole }
    }

    /// What a vector depends on beside the model: the text that the tokenizer is given, and how
    /// much of it is not pooled.
    #[must_use]
    pub fn content(prepared: &str, skip: u32) -> ContentHash {
        if skip == 0 {
            return sha256(prepared.as_bytes());
        }
        // A byte that no text has keeps the two apart.
        sha256(&[prepared.as_bytes(), &[0xff], &skip.to_le_bytes()].concat())
    }

    /// Token ids of a prepared text, cut to the window as Hugging Face cuts: special tokens are
    /// kept, at either end.
    ///
    /// # Errors
    /// As the tokenizer gives them.
    pub fn ids(&self, prepared: &str) -> Result<TokenIds, tokenizers::Error> {
        let room = self.max_tokens - self.specials;
        let TextPart { mut encoding, is_least, .. } =
            self.bound.encode(prepared, room, |text| self.tokenizer.encode_fast(text, false))?;
        let content = encoding.len();
        let mut tokens = content + self.specials;
        if is_least {
            // Of the rest nothing is known but that it is there.
            tokens = tokens.max(self.max_tokens + 1);
        }
        if content > room {
            encoding.truncate(
                room,
                0,
                if self.cuts_left { TruncationDirection::Left } else { TruncationDirection::Right },
            );
            // The pieces that do not fit, which would be processed, too.
            drop(encoding.take_overflowing());
        }
        let unknown = self
            .unknown
            .map_or(0, |unknown| encoding.get_ids().iter().filter(|id| **id == unknown).count());
        let ids = self.tokenizer.post_process(encoding, None, true)?.get_ids().to_vec();
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(TokenIds { ids, tokens: small(tokens), is_least, unknown: small(unknown) })
    }

    /// Where the tokens of a text lie in it, those of the prompt and special ones left out; `None`
    /// if making it lower case has moved them.
    ///
    /// # Errors
    /// As the tokenizer gives them.
    pub fn spans(&self, prompt: &str, text: &str) -> Result<Option<Vec<Span>>, tokenizers::Error> {
        let prepared = self.prepared(prompt, text);
        let whole = format!("{prompt}{text}");
        let left = if self.strip { stripped(&whole) } else { whole.as_str() };
        if prepared.len() != left.len() {
            return Ok(None);
        }
        let blanks = if left.is_empty() { 0 } else { whole.len() - self.trimmed(&whole).len() };
        let part = self
            .bound
            .encode(&prepared, self.max_tokens, |text| self.tokenizer.encode(text, false))?;
        let from_whole = |at: usize| (at + part.dropped + blanks).saturating_sub(prompt.len());
        let offsets = part.encoding.get_offsets().iter();
        let behind_prompt = offsets
            .filter(|(_, to)| prompt.is_empty() || to + part.dropped + blanks > prompt.len());
        Ok(Some(behind_prompt.map(|(from, to)| (from_whole(*from), from_whole(*to))).collect()))
    }

    /// A text without the blanks before it, where they are taken off.
    fn trimmed<'a>(&self, text: &'a str) -> &'a str {
        if self.strip { text.trim_start_matches(is_blank) } else { text }
    }
}

/// What Python's `str.strip` takes off: Unicode's white space, and ASCII's separators of records.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn stripped(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// The id of the token that stands for what is not known, by `tokenizer.json`.
fn unknown_id(bytes: &[u8], tokenizer: &Tokenizer) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Model {
        #[serde(default)]
        unk_token: Option<String>,
        #[serde(default)]
        unk_id: Option<u32>,
    }
    #[derive(serde::Deserialize)]
    struct File {
        model: Model,
    }
    let File { model } = serde_json::from_slice(bytes).ok()?;
    model.unk_id.or_else(|| tokenizer.token_to_id(&model.unk_token?))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use brahman_models::graph::Element;
    use brahman_models::layout::{
        InputPlan, InputRole, OutputPlan, OutputStage, Pooling, PoolingMode, Precision, Prompts,
        Stage, Window,
    };
    use brahman_models::tokens::{PART_BYTES_MIN, TEXT_BYTES_MAX};
    use serde_json::json;

    use super::*;

    /// A tokenizer of words, with these special tokens around a text.
    pub(crate) fn words(opening: &[&str], closing: &[&str]) -> Vec<u8> {
        let vocabulary = ["[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e", "f", "query", ":"];
        let vocab: BTreeMap<&str, usize> =
            vocabulary.iter().enumerate().map(|(id, word)| (*word, id)).collect();
        let special = |token: &&str| json!({"SpecialToken": {"id": token, "type_id": 0}});
        let mut single: Vec<_> = opening.iter().map(special).collect();
        single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
        single.extend(closing.iter().map(special));
        let tokens: serde_json::Map<_, _> = ["[CLS]", "[SEP]"]
            .iter()
            .map(|t| ((*t).to_owned(), json!({"id": t, "ids": [vocab[t]], "tokens": [t]})))
            .collect();
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "decoder": null,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": tokens},
            "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab},
        })
        .to_string()
        .into_bytes()
    }

    pub(crate) fn plan(window: usize) -> ModelPlan {
        ModelPlan {
            name: "m".to_owned(),
            graph: "model.onnx".to_owned(),
            inputs: vec![InputPlan {
                name: "input_ids".to_owned(),
                role: InputRole::Ids,
                is_narrow: false,
            }],
            first_position: 0,
            pad_id: 0,
            fixed_width: None,
            alone: None,
            output: OutputPlan {
                name: "o".to_owned(),
                stage: OutputStage::Tokens,
                element: Element::Float32,
                hidden: None,
            },
            is_first_output: true,
            pooling: Some(Pooling { modes: vec![PoolingMode::Mean], include_prompt: true }),
            stages: vec![Stage::Normalize],
            window: Window { tokens: window, source: "a test".to_owned() },
            heads: 2,
            cuts_left: false,
            lowercase: false,
            strip: false,
            prompts: Prompts::default(),
            similarity: None,
            truncate_dim: None,
            dimensions: Vec::new(),
            precision: Precision::Fp32,
            positions: None,
            dim_said: 0,
            overrides: Vec::new(),
        }
    }

    fn reader(tokenizer: &[u8], change: impl FnOnce(&mut ModelPlan)) -> TextReader {
        let mut plan = plan(5);
        change(&mut plan);
        TextReader::open(tokenizer, &plan).expect("a tokenizer")
    }

    #[test]
    fn a_text_is_cut_as_hugging_face_cuts_it() {
        let bert = words(&["[CLS]"], &["[SEP]"]);
        let ids = |reader: &TextReader, text: &str| {
            reader.ids(text).map(|t| (t.ids, t.tokens)).expect("ids")
        };
        assert_eq!(ids(&reader(&bert, |_| {}), "a b"), (vec![1, 3, 4, 2], 4));
        assert_eq!(ids(&reader(&bert, |_| {}), "a b c d e f"), (vec![1, 3, 4, 5, 2], 8));
        assert_eq!(
            ids(&reader(&bert, |plan| plan.cuts_left = true), "a b c d e f"),
            (vec![1, 6, 7, 8, 2], 8)
        );
        assert_eq!(
            ids(&reader(&words(&[], &[]), |_| {}), "a b c d e f"),
            (vec![3, 4, 5, 6, 7], 6),
            "none is closed"
        );
        assert_eq!(
            ids(&reader(&words(&[], &["[SEP]", "[SEP]"]), |_| {}), "a b c d e f"),
            (vec![3, 4, 5, 2, 2], 8)
        );
        assert_eq!(ids(&reader(&words(&[], &[]), |_| {}), ""), (vec![], 0));
        let refused = TextReader::open(&bert, &plan(2)).expect_err("no text fits").to_string();
        assert!(refused.contains("2 tokens by a test"), "{refused}");
    }

    #[test]
    fn what_was_once_assumed_of_every_tokenizer_is_told() {
        assert!(
            reader(&words(&["[CLS]"], &["[SEP]"]), |plan| plan.strip = true).cuts_as_once_assumed()
        );
        assert!(!reader(&words(&[], &[]), |_| {}).cuts_as_once_assumed());
        assert!(!reader(&words(&[], &["[SEP]", "[SEP]"]), |_| {}).cuts_as_once_assumed());
    }

    #[test]
    fn a_long_text_costs_no_more_than_the_window() {
        let reader = reader(&words(&["[CLS]"], &["[SEP]"]), |_| {});
        let long = "a b c ".repeat(200_000);
        let done = reader.ids(&long).expect("ids");
        assert!(
            done.is_least && done.tokens > 5 && (done.tokens as usize) < PART_BYTES_MIN,
            "{}",
            done.tokens
        );
        assert_eq!(done.ids, [1, 3, 4, 5, 2]);
        // No tokens at all, however far one looks.
        let blank = " ".repeat(TEXT_BYTES_MAX + 10);
        let done = reader.ids(&blank).expect("ids");
        assert_eq!((done.ids.as_slice(), done.tokens, done.is_least), (&[1, 2][..], 6, true));
        let short = reader.ids(&" ".repeat(1000)).expect("ids");
        assert_eq!((short.tokens, short.is_least), (2, false));
    }

    #[test]
    fn unknown_tokens_are_counted_among_those_that_are_kept() {
        let reader = reader(&words(&["[CLS]"], &["[SEP]"]), |_| {});
        assert_eq!(reader.ids("a zzz yyy").expect("ids").unknown, 2);
        assert_eq!(reader.ids("a b c zzz yyy").expect("ids").unknown, 0);
    }

    #[test]
    fn prompts_blanks_and_capitals_are_as_the_model_has_them() {
        let bert = words(&["[CLS]"], &["[SEP]"]);
        let plain = reader(&bert, |_| {});
        assert_eq!(plain.prepared("", " A "), " A ");
        assert!(matches!(plain.prepared("", "x"), Cow::Borrowed("x")));
        let changed = reader(&bert, |plan| (plan.strip, plan.lowercase) = (true, true));
        assert_eq!(changed.prepared("  Q: ", "A\n\u{1f} "), "q: a");
        assert_eq!(plain.prompt("query:").expect("a prompt").skip, 0);
        let apart = reader(&bert, |plan| {
            plan.pooling = Some(Pooling { modes: vec![PoolingMode::Mean], include_prompt: false });
        });
        // [CLS] query : — and not the closing one.
        assert_eq!(apart.prompt("query:").expect("a prompt").skip, 3);
        assert_eq!(apart.prompt("").expect("a prompt").skip, 0);
        assert_ne!(TextReader::content("query: a", 3), TextReader::content("query: a", 0));
        assert_eq!(TextReader::content("a", 0), sha256(b"a"));
    }

    #[test]
    fn places_are_those_in_the_callers_text() {
        let bert = words(&["[CLS]"], &["[SEP]"]);
        let stripping = reader(&bert, |plan| plan.strip = true);
        let text = "  a bb c ";
        for prompt in ["", "query: "] {
            let spans = stripping.spans(prompt, text).expect("spans").expect("none has moved");
            let pieces: Vec<&str> = spans.iter().map(|(from, to)| &text[*from..*to]).collect();
            assert_eq!(pieces, ["a", "bb", "c"], "{prompt:?}");
        }
    }
}
