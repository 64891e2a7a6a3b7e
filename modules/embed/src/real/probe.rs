//! A model tried before it serves: what its files promise and its graph does not keep is said at the start, and not at some text.

use brahman_models::layout::Precision;

use super::head::unit;
use super::model::Model;
use super::runtime::{Row, Runner};

/// How far a vector of length 1 may be from the same text's, alone and beside others.
const APART_MAX: f32 = 1e-4;
/// The same where the graph computes in 16 bits: ten and seven of them are the number's digits.
const APART_MAX_FP16: f32 = 5e-3;
const APART_MAX_BF16: f32 = 5e-2;
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
    #[error("the model's output for an ordinary text is not finite, or zero")]
    NoNumbers,
    /// Other texts change a text's vector.
    #[error(
        "the model's vectors depend on padding: that of a text beside a longer one is {distance:.1e} from that of the text alone, expected \
         at most {most:.0e}; is the graph's attention mask in use?"
    )]
    Padding {
        /// Between the two, scaled to length 1.
        distance: f32,
        /// What would do.
        most: f32,
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

/// Tries a model: two texts of different length alone and together, its tokenizer's largest id, and a full window. Gives what could not
/// be tried.
///
/// # Errors
/// [`ProbeError`]: what it does not do.
pub fn probe(runner: &Runner, model: &Model) -> Result<Vec<String>, ProbeError> {
    let long = &model.sample;
    // Its first tokens: a text is not needed, only ids that are the tokenizer's.
    let short = &long[..long.len().div_ceil(3)];
    let failed = |doing: &'static str| move |source| ProbeError::Run { doing, source };
    let alone = runner.forward(&[row(short)]).map_err(failed("a text alone"))?;
    let both = runner.forward(&[row(short), row(long)]).map_err(failed("two texts of different length"))?;
    let (Some(alone), Some(beside)) = (alone.into_iter().next(), both.into_iter().next()) else { return Err(ProbeError::NoNumbers) };
    if alone.iter().any(|x| !x.is_finite()) || alone.iter().all(|x| *x == 0.0) {
        return Err(ProbeError::NoNumbers);
    }
    let (alone, beside) = (unit(alone), unit(beside));
    let distance = alone.iter().zip(&beside).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    let most = match model.plan.precision {
        Precision::Fp16 => APART_MAX_FP16,
        Precision::Bf16 => APART_MAX_BF16,
        _ => APART_MAX,
    };
    if distance.is_nan() || distance > most {
        return Err(ProbeError::Padding { distance, most });
    }
    let largest = model.reader.largest_id();
    runner.forward(&[row(&[largest])]).map_err(|source| ProbeError::Vocabulary { largest, source })?;
    window(runner, model)
}

fn row(ids: &[u32]) -> Row<'_> {
    Row { ids, skip: 0 }
}

fn window(runner: &Runner, model: &Model) -> Result<Vec<String>, ProbeError> {
    let plan = &model.plan;
    let tokens = plan.window.tokens;
    let bytes = tokens.saturating_mul(tokens).saturating_mul(plan.heads).saturating_mul(size_of::<f32>());
    if bytes > WINDOW_BYTES_MAX {
        return Ok(vec![format!("a text of all {tokens} tokens was not tried: its attention takes {} MiB", bytes >> 20)]);
    }
    let try_with = |tokens: usize| {
        let ids: Vec<u32> = model.sample.iter().copied().cycle().take(tokens).collect();
        runner.forward(&[row(&ids)])
    };
    let Err(source) = try_with(tokens) else { return Ok(Vec::new()) };
    // The sample has gone through, so there is a least and a most.
    let (mut least, mut most) = (model.sample.len(), tokens);
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
