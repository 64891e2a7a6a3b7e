//! Whether a server's answers can be right: known texts are scored, whole, in part, changed and
//! again.
//!
//! What every model's figures have in common is asked for: they are of the tokens that were sent,
//! no probability is above 1, what follows a token does not change its figure, what precedes it
//! does, and a sentence that has just been read is no surprise. Each failure has a name. Where the
//! tokenizer's folder has a `score_reference.json` (`text`, and the `logprobs` of its tokens), the
//! weights are tried as well.

use brahman_card::interface::score::{Conversation, Entry};
use serde::Deserialize;

use super::dialect::Dialect;
use super::{ProbeError, PromptOptions, Server, TEMPERATURE};
use crate::conversation::{Layout, script};
use crate::engine::{Scores, Sequence, Stop};

/// Two answers for the same tokens may differ by so much: half precision, and batches of other
/// sizes.
const TOLERANCE: f64 = 0.1;
/// The same for what was computed in the same way.
const TOLERANCE_TWICE: f64 = 0.05;
/// A sentence. Its tokens are not equally likely under any model.
const SENTENCE: &str = "The quick brown fox jumps over the lazy dog.";
/// Another one of about its length.
const OTHER: &str = "Sphinx of black quartz, judge my vow, said he.";
/// What stands between the first words and the last.
const BETWEEN: &str = " Then it rained for a while, and nobody came by.";
/// Tokens of the longest prompt: a server that cuts cuts here, or says its window.
const LONG_TOKENS: usize = 4096;
/// A repeated sentence is likelier than this part of mere chance's nats.
const CHANCE_SHARE: f64 = 0.8;

/// Figures that are known to be right.
#[derive(Deserialize)]
struct Reference {
    text: String,
    logprobs: Vec<f64>,
}

fn total(scores: &[f32]) -> f64 {
    scores.iter().map(|x| f64::from(*x)).sum()
}

impl Server {
    /// Scores known texts, and looks whether the answers can be right.
    pub(super) fn probe(&self) -> Result<(), ProbeError> {
        if self.settings.dialect == Dialect::Brahman {
            return self.probe_responses();
        }
        let first = self.identity.first.clone();
        let encode = |text: &str| self.tokens.encode(text);
        let sentence = encode(&format!("{SENTENCE} "))?;
        let tokens: Vec<u32> = [&first[..], &sentence, &sentence].concat();
        let half = tokens.len() / 2;
        let mut other_end = tokens.clone();
        if let Some(last) = other_end.last_mut() {
            *last = sentence[0];
        }
        let prompts = [&tokens[..], &tokens[..half], &tokens[..], &other_end[..]].map(whole);
        let [full, part, again, changed] = self.figures(prompts, TEMPERATURE)?;
        if full.iter().any(|x| *x > 1e-3) {
            return Err(ProbeError::AboveZero);
        }
        if full.len() > 2 && full.iter().all(|x| (x - full[0]).abs() < 1e-6) {
            return Err(ProbeError::Constant);
        }
        let (once, twice) = (total(&full), total(&again));
        if (once - twice).abs() > TOLERANCE_TWICE * full.len() as f64 {
            return Err(ProbeError::Unsteady { first: once, second: twice });
        }
        // Of the two that differ in their last token all other figures are the same.
        let before = full.len() - 1;
        let differs = |place: usize| {
            f64::from((full[place] - changed[place]).abs())
                > TOLERANCE.max(f64::from((full[place] - again[place]).abs()) * 2.0)
        };
        if before > 1 && differs(before - 1) && !(0..before - 1).any(differs) {
            return Err(ProbeError::OffByOne { place: before });
        }
        let (within, alone) = (total(&full[..half - 1]), total(&part));
        if (within - alone).abs() > TOLERANCE * half as f64 || (0..before).any(differs) {
            return Err(ProbeError::Inconsistent { tokens: half, within, alone });
        }
        if alone < once - TOLERANCE {
            return Err(ProbeError::Growing);
        }
        let [hot] = self.figures([whole(&tokens)], TEMPERATURE * 2.0)?;
        if (total(&hot) - once).abs() > TOLERANCE * full.len() as f64 {
            return Err(ProbeError::Temperature);
        }
        let repeated = &full[full.len() - (sentence.len() - 1).max(1)..];
        let (mean, chance) =
            (total(repeated) / repeated.len() as f64, -f64::from(self.identity.vocabulary).ln());
        if mean < chance * CHANCE_SHARE {
            return Err(ProbeError::Chance {
                mean,
                chance,
                model: self.settings.tokenizer.display().to_string(),
            });
        }
        self.probe_reach(&first)?;
        self.probe_reference(&first)
    }

    /// Whether the last words of a long prompt depend on the first.
    fn probe_reach(&self, first: &[u32]) -> Result<(), ProbeError> {
        let encode = |text: &str| self.tokens.encode(text);
        let (sentence, other, between) = (encode(SENTENCE)?, encode(OTHER)?, encode(BETWEEN)?);
        let long = LONG_TOKENS.min(self.identity.window);
        let length = sentence.len().min(other.len());
        let room = long.saturating_sub(first.len() + 2 * length);
        if between.is_empty() || room < between.len() {
            return Ok(());
        }
        let filler: Vec<u32> = between.iter().copied().cycle().take(room).collect();
        let prompt =
            |begin: &[u32]| [first, &begin[..length], &filler, &sentence[..length]].concat();
        let tail = |tokens: Vec<u32>| {
            let end = tokens.len();
            Sequence {
                wanted: std::iter::once(end - length..end).collect(),
                tokens,
                ..Sequence::default()
            }
        };
        let [told, untold] =
            self.figures([tail(prompt(&sentence)), tail(prompt(&other))], TEMPERATURE)?;
        if told == untold { Err(ProbeError::CutContext { tokens: long }) } else { Ok(()) }
    }

    /// Whether the figures are those of the reference, if there is one.
    fn probe_reference(&self, first: &[u32]) -> Result<(), ProbeError> {
        let unfit = |why: String| ProbeError::Reference { why };
        let text = match std::fs::read(self.settings.tokenizer.join("score_reference.json")) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(unfit(error.to_string())),
        };
        let Reference { text, logprobs } =
            serde_json::from_slice(&text).map_err(|error| unfit(error.to_string()))?;
        let tokens: Vec<u32> = [first, &self.tokens.encode(&text)?].concat();
        let [found] = self.figures([whole(&tokens)], TEMPERATURE)?;
        // Without a token that stands first the first one of the text has none.
        let expected = &logprobs[logprobs.len().saturating_sub(found.len())..];
        if expected.len() != found.len() {
            return Err(unfit(format!("{} logprobs for {} tokens", logprobs.len(), found.len())));
        }
        match found
            .iter()
            .zip(expected)
            .position(|(found, expected)| (f64::from(*found) - expected).abs() > 3.0 * TOLERANCE)
        {
            Some(place) => Err(ProbeError::OtherWeights {
                place,
                found: f64::from(found[place]),
                expected: expected[place],
            }),
            None => Ok(()),
        }
    }

    /// For a server that tells one figure a response.
    fn probe_responses(&self) -> Result<(), ProbeError> {
        let entry = |role: &str, text: &str| Entry {
            role: Some(role.to_owned()),
            text: Some(text.to_owned()),
            ..Entry::default()
        };
        let read = |begin: &str, turns: usize| {
            let mut entries = vec![entry("user", begin), entry("assistant", SENTENCE)];
            entries.extend([entry("user", BETWEEN.trim()), entry("assistant", OTHER)]);
            entries.truncate(2 * turns);
            let conversation = Conversation { conversation: entries, ..Conversation::default() };
            let script = script(&conversation, &Layout::default(), self)
                .map_err(|error| ProbeError::NoConversation { why: error.to_string() })?;
            let responses: Vec<usize> = (0..script.responses.len()).collect();
            Ok::<_, ProbeError>(crate::ablation::whole(&script, &responses).sequence)
        };
        let (whole, begin) = (read(SENTENCE, 2)?, read(SENTENCE, 1)?);
        // A template may show a last turn otherwise than an earlier one.
        let is_begin = whole.tokens.starts_with(&begin.tokens);
        let length = whole.wanted.first().map_or(0, ExactSizeIterator::len);
        let [full, part, again, other] =
            self.figures([whole.clone(), begin, whole, read(OTHER, 2)?], TEMPERATURE)?;
        if full.iter().any(|x| *x > 1e-3) {
            return Err(ProbeError::AboveZero);
        }
        // A token's figure is the mean of its response: no model finds two sentences as likely to
        // the last digit.
        if full.first().is_some_and(|first| full.iter().all(|x| (x - first).abs() < 1e-6)) {
            return Err(ProbeError::Constant);
        }
        let (once, twice) = (total(&full), total(&again));
        if (once - twice).abs() > TOLERANCE_TWICE * full.len() as f64 {
            return Err(ProbeError::Unsteady { first: once, second: twice });
        }
        let (within, alone) = (total(&full[..length]), total(&part));
        if is_begin && (within - alone).abs() > TOLERANCE * length as f64 {
            return Err(ProbeError::Inconsistent { tokens: length, within, alone });
        }
        // The first response says what the user has just said.
        let (mean, chance) =
            (within / length.max(1) as f64, -f64::from(self.identity.vocabulary).ln());
        if mean < chance * CHANCE_SHARE {
            return Err(ProbeError::Chance {
                mean,
                chance,
                model: self.settings.tokenizer.display().to_string(),
            });
        }
        if full == other {
            return Err(ProbeError::CutContext { tokens: full.len() });
        }
        Ok(())
    }

    /// The figures of some prompts, in their order.
    fn figures<const N: usize>(
        &self,
        prompts: [Sequence; N],
        temperature: f64,
    ) -> Result<[Vec<f32>; N], ProbeError> {
        let mut found: [Vec<f32>; N] = std::array::from_fn(|_| Vec::new());
        let mut wrong = None;
        let mut done = |i: usize, scores: Scores| match scores {
            Ok(scores) => found[i] = scores,
            Err(error) => wrong = Some(error),
        };
        self.ask(
            &prompts,
            PromptOptions { temperature, priority: None },
            &Stop::default(),
            &mut done,
        )?;
        match wrong {
            Some(error) => Err(error.into()),
            None => Ok(found),
        }
    }
}

/// All of a prompt but its first token.
fn whole(tokens: &[u32]) -> Sequence {
    Sequence {
        tokens: tokens.to_vec(),
        wanted: std::iter::once(1..tokens.len()).collect(),
        ..Sequence::default()
    }
}
