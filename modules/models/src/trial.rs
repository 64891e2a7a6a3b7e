//! A model tried before it serves: what its files promise and its graph does not keep is said at
//! the start, and not at some text.
//!
//! Invariant: what goes in are rows of tokens; what a graph's answer is, and how far two of them
//! are apart, whoever tries it says.

use std::error::Error;

use crate::layout::{Precision, Window};
use crate::session::TokenRow;

/// Bytes of attention that trying a whole window may take: more, and only what the graph's tables
/// say of it is known.
const WINDOW_BYTES_MAX: usize = 256 << 20;

/// What a model does not do.
#[derive(Debug, thiserror::Error)]
pub enum TrialError<E: Error + 'static = ort::Error> {
    /// It does not run.
    #[error("the model does not run on {doing}")]
    Run {
        /// What was tried.
        doing: String,
        /// Cause.
        #[source]
        source: E,
    },
    /// It gives no numbers.
    #[error("the model's output for an ordinary {row} is not finite, or zero")]
    NoNumbers {
        /// What a row is, for people.
        row: &'static str,
    },
    /// Other rows change a row's answer.
    #[error(
        "the model's output depends on padding: that for a {row} beside a longer one is {distance:.1e} from that for the {row} alone, \
         expected at most {most:.0e}; is the graph's attention mask in use?"
    )]
    Padding {
        /// What a row is, for people.
        row: &'static str,
        /// Between the two.
        distance: f64,
        /// What would do.
        most: f64,
    },
    /// The tokenizer has tokens that the graph does not know.
    #[error(
        "tokenizer.json has a vocabulary with token ids up to {largest}, and the graph does not take that one: they are of different models"
    )]
    Vocabulary {
        /// The largest of them.
        largest: u32,
        /// Cause.
        #[source]
        source: E,
    },
    /// The graph takes fewer tokens.
    #[error(
        "the window is {tokens} tokens by {source_said}, and the graph bears {bears}: say `max_tokens` = {bears} in brahman.json"
    )]
    Window {
        /// As the files say it.
        tokens: usize,
        /// Which of them.
        source_said: String,
        /// As it was tried.
        bears: usize,
        /// Cause.
        #[source]
        source: E,
    },
}

/// What a model is tried with, and what its files promise.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// What a row is, for people: `text`, or `pair`.
    pub row: &'static str,
    /// An ordinary row, as the tokenizer gives it.
    pub short: TokenRow<'a>,
    /// A longer one, which the graph has to pad the short one to.
    pub long: TokenRow<'a>,
    /// The largest id that the tokenizer gives.
    pub largest_id: u32,
    /// How many tokens the model takes.
    pub window: &'a Window,
    /// Heads of its attention, for its memory.
    pub heads: usize,
    /// How far the answers for the short row, alone and beside the long one, may be apart.
    pub apart_max: f64,
}

impl Trial<'_> {
    /// Tries a model: two rows of different length alone and together, its tokenizer's largest id,
    /// and a full window. `forward` runs it; `distance` is of two answers for one row, or `None` if
    /// an answer is none. Gives what could not be tried.
    ///
    /// # Errors
    /// [`TrialError`]: what it does not do.
    pub fn run<A, E: Error + 'static>(
        &self,
        forward: impl Fn(&[TokenRow<'_>]) -> Result<Vec<A>, E>,
        distance: impl FnOnce(&A, &A) -> Option<f64>,
    ) -> Result<Vec<String>, TrialError<E>> {
        let row = self.row;
        let failed = |doing: String| move |source: E| TrialError::Run { doing, source };
        let alone = forward(&[self.short]).map_err(failed(format!("a {row} alone")))?;
        let both = forward(&[self.short, self.long])
            .map_err(failed(format!("two {row}s of different length")))?;
        let apart =
            alone.first().zip(both.first()).and_then(|(alone, beside)| distance(alone, beside));
        let Some(distance) = apart else { return Err(TrialError::NoNumbers { row }) };
        let most = self.apart_max;
        if distance.is_nan() || distance > most {
            return Err(TrialError::Padding { row, distance, most });
        }
        let largest = self.largest_id;
        forward(&[TokenRow::of(&[largest])])
            .map_err(|source| TrialError::Vocabulary { largest, source })?;
        self.try_window(forward)
    }

    fn try_window<A, E: Error + 'static>(
        &self,
        forward: impl Fn(&[TokenRow<'_>]) -> Result<Vec<A>, E>,
    ) -> Result<Vec<String>, TrialError<E>> {
        let tokens = self.window.tokens;
        let bytes = tokens
            .saturating_mul(tokens)
            .saturating_mul(self.heads)
            .saturating_mul(size_of::<f32>());
        if bytes > WINDOW_BYTES_MAX {
            return Ok(vec![format!(
                "a {} of all {tokens} tokens was not tried: its attention takes {} MiB",
                self.row,
                bytes >> 20
            )]);
        }
        let sample = self.long.ids;
        let try_with = |tokens: usize| {
            let ids: Vec<u32> = sample.iter().copied().cycle().take(tokens).collect();
            forward(&[TokenRow::of(&ids)])
        };
        let Err(source) = try_with(tokens) else { return Ok(Vec::new()) };
        // The sample has gone through, so there is a least and a most.
        let (mut least, mut most) = (sample.len(), tokens);
        while most.saturating_sub(least) > 1 {
            let middle = least.midpoint(most);
            if try_with(middle).is_ok() {
                least = middle;
            } else {
                most = middle;
            }
        }
        Err(TrialError::Window {
            tokens,
            source_said: self.window.source.clone(),
            bears: least,
            source,
        })
    }
}

/// Of three bounds the one for what a graph computes in: 32 bits, or 16, of which ten (`fp16`) or
/// seven (`bf16`) are the number's digits. Where weights lie in blocks, what is computed at the time
/// is rounded to 8 bits, so that a difference in the last of 32 bits may become a step of those:
/// less than `fp16` bears.
#[must_use]
pub fn apart_max(precision: Precision, full: f64, fp16: f64, bf16: f64) -> f64 {
    match precision {
        Precision::Fp16 | Precision::Int8Blocks | Precision::Blocks => fp16,
        Precision::Bf16 => bf16,
        _ => full,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A model that adds up ids, and takes at most so many tokens and ids below so much.
    fn sums(rows: &[TokenRow<'_>], tokens: usize, ids: u32) -> io::Result<Vec<f64>> {
        if rows.iter().any(|row| row.ids.len() > tokens || row.ids.iter().any(|id| *id >= ids)) {
            return Err(io::Error::other("out of range"));
        }
        Ok(rows.iter().map(|row| f64::from(row.ids.iter().sum::<u32>())).collect())
    }

    fn apart(alone: &f64, beside: &f64) -> Option<f64> {
        (alone.is_finite() && beside.is_finite()).then(|| (alone - beside).abs())
    }

    fn window(tokens: usize) -> Window {
        Window { tokens, source: "a test".to_owned() }
    }

    fn trial(window: &Window) -> Trial<'_> {
        let (short, long) = (TokenRow::of(&[1, 2]), TokenRow::of(&[1, 2, 3, 4]));
        Trial { row: "text", short, long, largest_id: 9, window, heads: 12, apart_max: 1e-4 }
    }

    #[test]
    fn a_model_that_keeps_its_promises_is_taken_and_what_was_not_tried_is_said() {
        let window = window(100);
        assert!(
            trial(&window)
                .run(|rows| sums(rows, 100, 10), apart)
                .is_ok_and(|untried| untried.is_empty())
        );
        let wide = self::window(8192);
        let untried = trial(&wide).run(|rows| sums(rows, 100, 10), apart).expect("it will do");
        assert!(
            untried.len() == 1 && untried[0].contains("a text of all 8192 tokens was not tried"),
            "{untried:?}"
        );
    }

    #[test]
    fn what_a_model_does_not_keep_is_named() {
        let window = window(100);
        let trial = trial(&window);
        let run = |forward: &dyn Fn(&[TokenRow<'_>]) -> io::Result<Vec<f64>>| {
            trial.run(forward, apart).expect_err("it will not do")
        };
        assert!(matches!(run(&|rows| sums(rows, 1, 10)), TrialError::Run { .. }));
        assert!(matches!(run(&|_| Ok(vec![f64::NAN])), TrialError::NoNumbers { row: "text" }));
        assert!(
            matches!(run(&|rows| Ok(vec![rows.len() as f64])), TrialError::Padding { distance, .. } if distance > 0.9)
        );
        assert!(matches!(
            run(&|rows| sums(rows, 100, 9)),
            TrialError::Vocabulary { largest: 9, .. }
        ));
        let refused = run(&|rows| sums(rows, 77, 10));
        assert!(matches!(refused, TrialError::Window { bears: 77, tokens: 100, .. }), "{refused}");
        assert!(refused.to_string().contains("`max_tokens` = 77"), "{refused}");
    }
}
