//! Sessions of an embedding model: token ids in, a vector a text out.

use std::sync::Arc;

use brahman_card::interface::embed::Device;
use brahman_models::device::DeviceChoice;
use brahman_models::layout::OutputStage;
use brahman_models::passes::answers;
use brahman_models::runtime::{RuntimeError, place};
use brahman_models::session::{GraphSession, PassOutput, SessionSource, TokenRow};
use brahman_models::trial::{Trial, TrialError, apart_max};
use ort::environment::Environment;

use super::head::{Head, unit};
use super::model::Model;

/// How far a vector of length 1 may be from the same text's, alone and beside others: of 32 bits,
/// and of 16 of either kind, the first of which is for weights in blocks, too.
const APART_MAX: f64 = 1e-4;
const APART_MAX_FP16: f64 = 5e-3;
const APART_MAX_BF16: f64 = 5e-2;

/// One row of a pass: a text's token ids.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// In order, special ones included.
    pub ids: &'a [u32],
    /// Tokens at the beginning that are not pooled.
    pub skip: u32,
}

/// A session, and what becomes of its output. Any number of threads may use it at once; on a GPU
/// they take turns.
pub struct Runner {
    session: GraphSession,
    head: Arc<Head>,
    output: String,
    stage: OutputStage,
    is_alone: bool,
    hidden: usize,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner")
            .field("output", &self.output)
            .field("hidden", &self.hidden)
            .finish_non_exhaustive()
    }
}

/// Opens sessions for a model: one that all threads share, and on the CPU one more that uses
/// `threads` threads for a text alone.
///
/// # Errors
/// [`RuntimeError`].
pub fn open(
    environment: &Environment,
    model: &Model,
    asked: DeviceChoice,
    allow_cpu: bool,
    threads: usize,
) -> Result<(Runner, Option<Runner>, Device), RuntimeError> {
    let (runner, device) =
        place(asked, allow_cpu, |cuda| Runner::open(environment, model, cuda, 1))?;
    if device.active != "cpu" || threads < 2 {
        return Ok((runner, None, device));
    }
    // A lone text is quicker on all cores; a second set of weights is the price.
    let wide = Runner::open(environment, model, None, threads).map_err(RuntimeError::BadModel)?;
    Ok((runner, Some(wide), device))
}

impl Runner {
    fn open(
        environment: &Environment,
        model: &Model,
        cuda: Option<u32>,
        threads: usize,
    ) -> ort::Result<Self> {
        let plan = &model.plan;
        let source =
            SessionSource { onnx: &model.onnx, weights: &model.weights, feed: &plan.feed() };
        let mut runner = Self {
            session: GraphSession::open(environment, &source, cuda, threads)?,
            head: Arc::clone(&model.head),
            output: plan.output.name.clone(),
            stage: plan.output.stage,
            is_alone: plan.alone.is_some(),
            hidden: 0,
        };
        // Warm-up, with tokens that the tokenizer itself gives: memory is laid out and kernels are
        // chosen before the first caller waits.
        runner.hidden = runner.pass(&[Row { ids: &model.sample, skip: 0 }], |hidden, _| hidden)?;
        Ok(runner)
    }

    /// Length of the vectors that the graph gives, before they are pooled.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Tries the model before it serves. Gives what could not be tried.
    ///
    /// # Errors
    /// [`TrialError`]: what it does not do.
    pub fn try_model(&self, model: &Model) -> Result<Vec<String>, TrialError> {
        let (plan, long) = (&model.plan, &model.sample);
        let trial = Trial {
            row: "text",
            // Its first tokens: a text is not needed, only ids that are the tokenizer's.
            short: TokenRow::of(&long[..long.len().div_ceil(3)]),
            long: TokenRow::of(long),
            largest_id: model.reader.largest_id(),
            window: &plan.window,
            heads: plan.heads,
            apart_max: apart_max(plan.precision, APART_MAX, APART_MAX_FP16, APART_MAX_BF16),
        };
        let forward = |rows: &[TokenRow<'_>]| {
            let rows: Vec<Row<'_>> = rows.iter().map(|row| Row { ids: row.ids, skip: 0 }).collect();
            self.forward(&rows)
        };
        trial.run(forward, |alone, beside| distance(alone, beside))
    }

    /// Embeds token sequences: in one pass padded to the longest, or each by itself if the model
    /// has to be asked so.
    ///
    /// # Errors
    /// As ONNX Runtime gives them.
    pub fn forward(&self, rows: &[Row<'_>]) -> ort::Result<Vec<Vec<f32>>> {
        answers(rows, self.is_alone, |rows| self.vectors(rows))
    }

    fn vectors(&self, rows: &[Row<'_>]) -> ort::Result<Vec<Vec<f32>>> {
        self.pass(rows, |hidden, numbers| {
            let each = numbers.chunks_exact((numbers.len() / rows.len().max(1)).max(1));
            rows.iter()
                .zip(each)
                .map(|(row, numbers)| {
                    self.head.vector(numbers, hidden, row.ids.len(), row.skip as usize)
                })
                .collect()
        })
    }

    /// Runs the graph; `take` is given the length of a vector and all numbers that came out, row by
    /// row.
    fn pass<T>(&self, rows: &[Row<'_>], take: impl FnOnce(usize, &[f32]) -> T) -> ort::Result<T> {
        let tokens: Vec<TokenRow<'_>> = rows.iter().map(|row| TokenRow::of(row.ids)).collect();
        self.session.pass(&tokens, |out| Ok(take(self.hidden_of(out, rows.len())?, &out.numbers)))
    }

    /// The length of a vector, if the output is of the shape that the plan says.
    fn hidden_of(&self, out: &PassOutput<'_>, rows: usize) -> ort::Result<usize> {
        let width = out.width;
        let hidden = match (self.stage, out.shape.as_slice()) {
            (OutputStage::Sentence, [r, hidden]) if *r == rows => *hidden,
            (OutputStage::Tokens, [r, w, hidden]) if *r == rows && *w == width => *hidden,
            _ => 0,
        };
        if hidden == 0 || (self.hidden != 0 && hidden != self.hidden) {
            let last =
                if self.hidden == 0 { "dimensions".to_owned() } else { self.hidden.to_string() };
            let expected = match self.stage {
                OutputStage::Sentence => format!("[{rows}, {last}]"),
                OutputStage::Tokens => {
                    format!("[{rows}, {width}, {last}]: a row a text and a vector a position")
                }
            };
            let message = format!(
                "the model's output `{}` has the shape {:?}, expected {expected}",
                self.output, out.shape
            );
            return Err(ort::Error::new(message));
        }
        Ok(hidden)
    }
}

/// Between two vectors scaled to length 1; none if the first is no direction.
fn distance(alone: &[f32], beside: &[f32]) -> Option<f64> {
    if alone.iter().any(|x| !x.is_finite()) || alone.iter().all(|x| *x == 0.0) {
        return None;
    }
    let (alone, beside) = (unit(alone.to_vec()), unit(beside.to_vec()));
    Some(alone.iter().zip(&beside).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt())
}
