//! A model tried before it serves: what its files promise and its graph does not keep is said at the start, and not at some text.

use brahman_models::layout::Precision;
use brahman_models::session::TokenRow;

use super::model::Model;
use super::runner::{Runner, row};

/// How far the number for a pair may be from the same pair's, alone and beside others, in parts of the larger of it and 1.
const APART_MAX: f64 = 1e-4;
/// The same where the graph computes in 16 bits: ten and seven of them are the number's digits.
const APART_MAX_FP16: f64 = 2e-2;
const APART_MAX_BF16: f64 = 2e-1;
/// Bytes of attention that trying a whole window may take: more, and only what the graph's tables say of it is known.
const WINDOW_BYTES_MAX: usize = 256 << 20;

/// What a model does not do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It does not run.
    #[error("the model does not run on {doing}")]
    Run {
        /// What was tried.
        doing: &'static str,
        /// Cause.
        #[source]
        source: ort::Error,
    },
    /// It gives no numbers.
    #[error("the model's output for an ordinary pair is not finite")]
    NoNumbers,
    /// Other pairs change a pair's score.
    #[error(
        "the model's scores depend on padding: beside a longer pair a pair has {beside:.6}, alone {alone:.6}, expected at most {most:.0e} \
         between them; is the graph's attention mask in use?"
    )]
    Padding {
        /// Beside a longer pair.
        beside: f64,
        /// By itself.
        alone: f64,
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
        source: ort::Error,
    },
    /// The graph takes fewer tokens.
    #[error("the window is {tokens} tokens by {source_said}, and the graph bears {bears}: say `max_tokens` = {bears} in brahman.json")]
    Window {
        /// As the files say it.
        tokens: usize,
        /// Which of them.
        source_said: String,
        /// As it was tried.
        bears: usize,
        /// Cause.
        #[source]
        source: ort::Error,
    },
}

/// Tries a model: two pairs of different length alone and together, its tokenizer's largest id, and a full window. Gives what could not be
/// tried.
///
/// # Errors
/// [`ProbeError`]: what it does not do.
pub fn probe(runner: &Runner, model: &Model) -> Result<Vec<String>, ProbeError> {
    let [short, long] = &model.samples;
    let failed = |doing: &'static str| move |source| ProbeError::Run { doing, source };
    let alone = runner.relevances(&[row(short)]).map_err(failed("a pair alone"))?;
    let both = runner.relevances(&[row(short), row(long)]).map_err(failed("two pairs of different length"))?;
    let (Some(alone), Some(beside)) = (alone.first().copied(), both.first().copied()) else { return Err(ProbeError::NoNumbers) };
    if !alone.is_finite() || !beside.is_finite() {
        return Err(ProbeError::NoNumbers);
    }
    let most = match model.plan.precision {
        Precision::Fp16 => APART_MAX_FP16,
        Precision::Bf16 => APART_MAX_BF16,
        _ => APART_MAX,
    };
    if (alone - beside).abs() > most * alone.abs().max(1.0) {
        return Err(ProbeError::Padding { beside, alone, most });
    }
    let largest = model.reader.largest_id();
    runner.relevances(&[TokenRow::of(&[largest])]).map_err(|source| ProbeError::Vocabulary { largest, source })?;
    window(runner, model)
}

fn window(runner: &Runner, model: &Model) -> Result<Vec<String>, ProbeError> {
    let plan = &model.plan;
    let tokens = plan.window.tokens;
    let bytes = tokens.saturating_mul(tokens).saturating_mul(plan.heads).saturating_mul(size_of::<f32>());
    if bytes > WINDOW_BYTES_MAX {
        return Ok(vec![format!("a pair of all {tokens} tokens was not tried: its attention takes {} MiB", bytes >> 20)]);
    }
    let sample = &model.samples[0].ids;
    let try_with = |tokens: usize| {
        let ids: Vec<u32> = sample.iter().copied().cycle().take(tokens).collect();
        runner.relevances(&[TokenRow::of(&ids)])
    };
    let Err(source) = try_with(tokens) else { return Ok(Vec::new()) };
    // The sample has gone through, so there is a least and a most.
    let (mut least, mut most) = (sample.len(), tokens);
    while most - least > 1 {
        let middle = least.midpoint(most);
        if try_with(middle).is_ok() {
            least = middle;
        } else {
            most = middle;
        }
    }
    Err(ProbeError::Window { tokens, source_said: plan.window.source.clone(), bears: least, source })
}
