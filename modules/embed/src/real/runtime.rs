//! Sessions of an embedding model: token ids in, a vector a text out.

use std::sync::Arc;

use brahman_card::interface::embed::Device;
use brahman_models::device::DeviceChoice;
use brahman_models::layout::OutputStage;
use brahman_models::runtime::{RuntimeError, place};
use brahman_models::session::{GraphSession, PassOutput, SessionSource, TokenRow};
use ort::environment::Environment;

use super::head::Head;
use super::model::Model;

/// One row of a pass: a text's token ids.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// In order, special ones included.
    pub ids: &'a [u32],
    /// Tokens at the beginning that are not pooled.
    pub skip: u32,
}

/// A session, and what becomes of its output. Any number of threads may use it at once; on a GPU they take turns.
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
        f.debug_struct("Runner").field("output", &self.output).field("hidden", &self.hidden).finish_non_exhaustive()
    }
}

/// Opens sessions for a model: one that all threads share, and on the CPU one more that uses `threads` threads for a text alone.
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
    let (runner, device) = place(asked, allow_cpu, |cuda| Runner::open(environment, model, cuda, 1))?;
    if device.active != "cpu" || threads < 2 {
        return Ok((runner, None, device));
    }
    // A lone text is quicker on all cores; a second set of weights is the price.
    let wide = Runner::open(environment, model, None, threads).map_err(RuntimeError::BadModel)?;
    Ok((runner, Some(wide), device))
}

impl Runner {
    fn open(environment: &Environment, model: &Model, cuda: Option<u32>, threads: usize) -> ort::Result<Self> {
        let plan = &model.plan;
        let source = SessionSource { onnx: &model.onnx, weights: &model.weights, feed: &plan.feed() };
        let mut runner = Self {
            session: GraphSession::open(environment, &source, cuda, threads)?,
            head: Arc::clone(&model.head),
            output: plan.output.name.clone(),
            stage: plan.output.stage,
            is_alone: plan.alone.is_some(),
            hidden: 0,
        };
        // Warm-up, with tokens that the tokenizer itself gives: memory is laid out and kernels are chosen before the first caller waits.
        runner.hidden = runner.pass(&[Row { ids: &model.sample, skip: 0 }], |hidden, _| hidden)?;
        Ok(runner)
    }

    /// Length of the vectors that the graph gives, before they are pooled.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Embeds token sequences: in one pass padded to the longest, or each by itself if the model has to be asked so.
    ///
    /// # Errors
    /// As ONNX Runtime gives them.
    pub fn forward(&self, rows: &[Row<'_>]) -> ort::Result<Vec<Vec<f32>>> {
        if !self.is_alone {
            return self.vectors(rows);
        }
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            all.extend(self.vectors(std::slice::from_ref(row))?);
        }
        Ok(all)
    }

    fn vectors(&self, rows: &[Row<'_>]) -> ort::Result<Vec<Vec<f32>>> {
        self.pass(rows, |hidden, numbers| {
            let each = numbers.chunks_exact((numbers.len() / rows.len().max(1)).max(1));
            rows.iter().zip(each).map(|(row, numbers)| self.head.vector(numbers, hidden, row.ids.len(), row.skip as usize)).collect()
        })
    }

    /// Runs the graph; `take` is given the length of a vector and all numbers that came out, row by row.
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
            let last = if self.hidden == 0 { "dimensions".to_owned() } else { self.hidden.to_string() };
            let expected = match self.stage {
                OutputStage::Sentence => format!("[{rows}, {last}]"),
                OutputStage::Tokens => format!("[{rows}, {width}, {last}]: a row a text and a vector a position"),
            };
            let message = format!("the model's output `{}` has the shape {:?}, expected {expected}", self.output, out.shape);
            return Err(ort::Error::new(message));
        }
        Ok(hidden)
    }
}
