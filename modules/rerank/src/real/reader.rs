//! A query's and a text's way to token ids: the tokenizer, the cut to the window, special tokens,
//! and which of the two a token is of.
//!
//! Invariants: ids are those that Hugging Face's own truncation of pairs gives; a text's cost is
//! bounded by the window and not by its length. The query is made into tokens once a call.

use brahman_models::layout::{PairCut, PairPlan};
use brahman_models::tokens::{TextPart, TokenBound, largest_id, read_tokenizer};
use tokenizers::{Encoding, PostProcessor as _, Tokenizer, TruncationDirection};

/// A query's tokens, as many as can ever be kept.
#[derive(Clone, Debug)]
pub struct QueryTokens {
    encoding: Encoding,
    /// How many it has.
    count: usize,
    /// Whether it has at least so many.
    is_least: bool,
}

/// The tokens of a query and a text, cut to the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairTokens {
    /// What the model is fed with.
    pub ids: Vec<u32>,
    /// Of each token, whether it is the query's (0) or the text's (1), where the model tells them
    /// apart.
    pub types: Vec<u32>,
    /// How many tokens query and text have together, special ones included.
    pub tokens: u32,
    /// Whether there are at least so many, because the rest was not looked at.
    pub is_least: bool,
    /// Whether the query lost tokens.
    pub cuts_query: bool,
}

impl PairTokens {
    /// How many tokens are kept.
    #[must_use]
    pub fn kept(&self) -> u32 {
        small(self.ids.len())
    }
}

/// Why there are no ids.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The tokenizer fails.
    #[error(transparent)]
    Tokenizer(#[from] tokenizers::Error),
    /// The query is too long for a model that cuts texts alone.
    #[error("the query leaves no room for a text: they have {tokens} tokens together")]
    NoRoom {
        /// How many, special ones included.
        tokens: u32,
    },
}

/// Why a tokenizer cannot be used with a model.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// It is none, or it fails.
    #[error(transparent)]
    Tokenizer(#[from] tokenizers::Error),
    /// It knows no pairs.
    #[error(
        "its post-processor makes {found} tokens of a pair that should have {expected}: it does not know pairs of texts"
    )]
    NoPairs {
        /// What it makes.
        found: usize,
        /// Of both texts and its special tokens.
        expected: usize,
    },
    /// No pair fits.
    #[error(
        "the window is {max_tokens} tokens by {source_said}, of which special tokens take {specials}"
    )]
    Window {
        /// Tokens that the model takes.
        max_tokens: usize,
        /// Who says so.
        source_said: String,
        /// Tokens that every pair gets.
        specials: usize,
    },
}

/// Makes token ids of pairs.
#[derive(Debug)]
pub struct PairReader {
    tokenizer: Tokenizer,
    bound: TokenBound,
    max_tokens: usize,
    /// Special tokens that every pair gets.
    specials: usize,
    cut: PairCut,
    direction: TruncationDirection,
}

impl PairReader {
    /// From the tokenizer's bytes.
    ///
    /// # Errors
    /// [`TokenizerError`].
    pub fn open(bytes: &[u8], plan: &PairPlan) -> Result<Self, TokenizerError> {
        let mut tokenizer = read_tokenizer(bytes)?;
        // Both are done here, per pair and per batch, so that what is cut is known.
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        let specials =
            tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        let max_tokens = plan.window.tokens;
        if max_tokens < specials + 2 {
            return Err(TokenizerError::Window {
                max_tokens,
                source_said: plan.window.source.clone(),
                specials,
            });
        }
        let bound = TokenBound::of(&tokenizer, max_tokens, plan.cuts_left);
        let direction =
            if plan.cuts_left { TruncationDirection::Left } else { TruncationDirection::Right };
        let reader = Self { tokenizer, bound, max_tokens, specials, cut: plan.cut, direction };
        let (first, second) =
            (reader.tokenizer.encode_fast("a", false)?, reader.tokenizer.encode_fast("b", false)?);
        let expected = first.len() + second.len() + specials;
        let found = reader.joined(first, second)?.len();
        if found == expected {
            Ok(reader)
        } else {
            Err(TokenizerError::NoPairs { found, expected })
        }
    }

    /// Tokens that query and text may have together, special ones included.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The largest id that the tokenizer gives.
    #[must_use]
    pub fn largest_id(&self) -> u32 {
        largest_id(&self.tokenizer)
    }

    /// A query's tokens.
    ///
    /// # Errors
    /// As the tokenizer gives them.
    pub fn query(&self, text: &str) -> Result<QueryTokens, tokenizers::Error> {
        let room = self.max_tokens - self.specials;
        let TextPart { mut encoding, is_least, .. } =
            self.bound.encode(text, room, |text| self.tokenizer.encode_fast(text, false))?;
        let count = encoding.len();
        // More than that are never kept, and every text gets a copy.
        self.cut(&mut encoding, room);
        Ok(QueryTokens { encoding, count, is_least })
    }

    /// The tokens of a query and a text, cut to the window as Hugging Face cuts: special tokens are
    /// kept.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn pair(&self, query: &QueryTokens, text: &str) -> Result<PairTokens, PairError> {
        let room = self.max_tokens - self.specials;
        let part = self.bound.encode(text, room, |text| self.tokenizer.encode_fast(text, false))?;
        let mut second = part.encoding;
        let is_least = part.is_least || query.is_least;
        let mut tokens = query.count + second.len() + self.specials;
        if is_least {
            // Of the rest nothing is known but that it is there.
            tokens = tokens.max(self.max_tokens + 1);
        }
        let (first_kept, second_kept) = self
            .cut
            .kept(query.count, second.len(), room)
            .ok_or_else(|| PairError::NoRoom { tokens: small(tokens) })?;
        let mut first = query.encoding.clone();
        self.cut(&mut first, first_kept);
        self.cut(&mut second, second_kept);
        let joined = self.joined(first, second)?;
        Ok(PairTokens {
            ids: joined.get_ids().to_vec(),
            types: joined.get_type_ids().to_vec(),
            tokens: small(tokens),
            is_least,
            cuts_query: first_kept < query.count || query.is_least,
        })
    }

    fn cut(&self, encoding: &mut Encoding, kept: usize) {
        if kept < encoding.len() {
            encoding.truncate(kept, 0, self.direction);
            // The pieces that do not fit, which would be processed, too.
            drop(encoding.take_overflowing());
        }
    }

    fn joined(&self, first: Encoding, mut second: Encoding) -> Result<Encoding, tokenizers::Error> {
        // As when both are made into tokens at once; BERT's own post-processor leaves them as they
        // are.
        second.set_type_ids(vec![1; second.len()]);
        self.tokenizer.post_process(first, Some(second), true)
    }
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use brahman_models::layout::{GraphFeed, InputPlan, InputRole, Precision, Window};
    use serde_json::{Value, json};

    use super::*;

    const WORDS: [&str; 12] =
        ["[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e", "f", "g", "h", "i"];

    /// A tokenizer of words with this post-processor.
    fn words(post_processor: &Value) -> Vec<u8> {
        let vocab: BTreeMap<&str, usize> =
            WORDS.iter().enumerate().map(|(id, word)| (*word, id)).collect();
        json!({
            "version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "OnlyFirst", "stride": 0},
            "padding": null, "added_tokens": [], "normalizer": null, "decoder": null, "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": post_processor,
            "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab},
        })
        .to_string()
        .into_bytes()
    }

    fn bert() -> Value {
        json!({"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]})
    }

    fn template() -> Value {
        let special =
            |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
        let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
        json!({
            "type": "TemplateProcessing",
            "single": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0)],
            "pair": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0), text("B", 1), special("[SEP]", 1)],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}, "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]},
            },
        })
    }

    fn roberta() -> Value {
        json!({"type": "RobertaProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1], "trim_offsets": true, "add_prefix_space": false})
    }

    fn plan(window: usize) -> PairPlan {
        let inputs = vec![InputPlan {
            name: "input_ids".to_owned(),
            role: InputRole::Ids,
            is_narrow: false,
        }];
        PairPlan {
            name: "m".to_owned(),
            graph: "model.onnx".to_owned(),
            feed: GraphFeed { inputs, output: "logits".to_owned(), ..GraphFeed::default() },
            alone: None,
            labels: Some(1),
            is_sigmoid: false,
            activation_source: "a test".to_owned(),
            window: Window { tokens: window, source: "a test".to_owned() },
            heads: 2,
            cut: PairCut::LongestFirst,
            cuts_left: false,
            precision: Precision::Fp32,
            overrides: Vec::new(),
        }
    }

    fn pair(
        tokenizer: &[u8],
        plan: &PairPlan,
        query: &str,
        text: &str,
    ) -> Result<PairTokens, PairError> {
        let reader = PairReader::open(tokenizer, plan).expect("a tokenizer");
        reader.pair(&reader.query(query).expect("tokens"), text)
    }

    #[test]
    fn pairs_are_joined_as_each_kind_of_model_wants_them() {
        for processor in [bert(), template()] {
            let got = pair(&words(&processor), &plan(16), "a b", "c d e").expect("tokens");
            assert_eq!(
                (got.ids, got.types),
                (vec![1, 3, 4, 2, 5, 6, 7, 2], vec![0, 0, 0, 0, 1, 1, 1, 1]),
                "{processor}"
            );
            assert!(got.tokens == 8 && !got.cuts_query && !got.is_least);
        }
        let got = pair(&words(&roberta()), &plan(16), "a b", "c d e").expect("tokens");
        assert_eq!((got.ids, got.types), (vec![1, 3, 4, 2, 2, 5, 6, 7, 2], vec![0; 9]));
        let single = json!({
            "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {},
        });
        let refused = PairReader::open(&words(&single), &plan(16))
            .map(drop)
            .expect_err("no pairs")
            .to_string();
        assert!(refused.contains("pairs of texts") || refused.contains("pair"), "{refused}");
        let refused = PairReader::open(&words(&bert()), &plan(4))
            .map(drop)
            .expect_err("no pair fits")
            .to_string();
        assert!(refused.contains("4 tokens by a test"), "{refused}");
    }

    #[test]
    fn what_is_too_long_is_cut_and_said() {
        let tokenizer = words(&bert());
        let got = pair(&tokenizer, &plan(8), "a b", "c d e f g h").expect("tokens");
        assert_eq!(
            (got.ids.as_slice(), got.tokens, got.cuts_query),
            (&[1, 3, 4, 2, 5, 6, 7, 2][..], 11, false)
        );
        let both = pair(&tokenizer, &plan(8), "a b c d", "e f g h i").expect("tokens");
        assert_eq!(
            (both.ids.as_slice(), both.tokens, both.cuts_query),
            (&[1, 3, 4, 2, 7, 8, 9, 2][..], 12, true)
        );
        let left = PairPlan { cuts_left: true, ..plan(8) };
        assert_eq!(
            pair(&tokenizer, &left, "a b c d", "e f g h i").expect("tokens").ids,
            [1, 5, 6, 2, 9, 10, 11, 2]
        );
        let only = PairPlan { cut: PairCut::OnlySecond, ..plan(8) };
        assert_eq!(
            pair(&tokenizer, &only, "a b c d", "e f g h i").expect("tokens").ids,
            [1, 3, 4, 5, 6, 2, 7, 2]
        );
        let refused = pair(&tokenizer, &only, "a b c d e", "f").expect_err("no room");
        assert!(matches!(refused, PairError::NoRoom { tokens: 9 }), "{refused}");
        // A text without an end costs no more than the window, and nothing of it is lost unsaid.
        let long = pair(&tokenizer, &plan(8), "a b", &"c d ".repeat(200_000)).expect("tokens");
        assert!(
            long.is_least && long.kept() == 8 && long.tokens > 8 && long.tokens < 100_000,
            "{}",
            long.tokens
        );
        let endless = pair(&tokenizer, &plan(8), &"a b ".repeat(200_000), "c").expect("tokens");
        assert_eq!(
            (endless.ids.as_slice(), endless.cuts_query),
            (&[1, 3, 4, 3, 4, 2, 5, 2][..], true)
        );
        let empty = pair(&tokenizer, &plan(8), "a", "").expect("tokens");
        assert_eq!(
            (empty.ids.as_slice(), empty.types.as_slice()),
            (&[1, 3, 2, 2][..], &[0, 0, 0, 1][..])
        );
    }
}
