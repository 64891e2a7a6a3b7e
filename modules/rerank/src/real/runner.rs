//! A session of a cross-encoder: pairs in, a number a pair out. What becomes of the graph's numbers
//! is pure.

use brahman_card::interface::embed::Device;
use brahman_models::device::DeviceChoice;
use brahman_models::passes::{PROBE_ROWS, PROBE_WIDTH, PassBudget, answers};
use brahman_models::runtime::{GpuLibraryError, RuntimeError, gpu_budget, place};
use brahman_models::session::{GraphSession, PassOutput, SessionSource, TokenRow};
use brahman_models::trial::{Trial, TrialError, apart_max};
use ort::environment::Environment;

use super::model::Model;
use super::reader::PairTokens;

/// How far the number for a pair may be from the same pair's, alone and beside others, in parts of
/// the larger of it and 1: of 32 bits, and of 16 of either kind, the first of which is for weights
/// in blocks, too.
const APART_MAX: f64 = 1e-4;
const APART_MAX_FP16: f64 = 2e-2;
const APART_MAX_BF16: f64 = 2e-1;

/// A session, and how its output is read. Any number of threads may use it at once; on a GPU they
/// take turns.
#[derive(Debug)]
pub struct Runner {
    session: GraphSession,
    output: String,
    is_alone: bool,
    /// Numbers a pair, as the warm-up gave them.
    labels: usize,
}

/// Opens the one session that all threads share. Gives what fits a pass as well.
///
/// # Errors
/// [`RuntimeError`].
pub fn open(
    environment: &Environment,
    model: &Model,
    asked: DeviceChoice,
    allow_cpu: bool,
    shortfall: Option<GpuLibraryError>,
) -> Result<(Runner, Device, PassBudget), RuntimeError> {
    let open = |cuda: Option<u32>| -> ort::Result<_> {
        let runner = Runner::open(environment, model, cuda)?;
        let budget = cuda.map_or_else(PassBudget::cpu, |index| runner.budget_on(index, model));
        Ok((runner, budget))
    };
    let ((runner, budget), device) = place(asked, allow_cpu, shortfall, open)?;
    Ok((runner, device, budget))
}

/// How relevant a text is by what the graph gives for its pair: the number itself, or of two (not
/// relevant, relevant) the second less the first, which is the logarithm of the odds.
#[must_use]
pub fn relevance(logits: &[f32]) -> f64 {
    match logits {
        [one] => f64::from(*one),
        [no, yes] => f64::from(*yes) - f64::from(*no),
        _ => f64::NAN,
    }
}

/// What is answered: the relevance itself, or its logistic function, which of two numbers is their
/// softmax.
#[must_use]
pub fn score(relevance: f64, is_sigmoid: bool) -> f32 {
    if is_sigmoid { (1.0 / (1.0 + (-relevance).exp())) as f32 } else { relevance as f32 }
}

/// A row of a pass.
#[must_use]
pub fn row(pair: &PairTokens) -> TokenRow<'_> {
    TokenRow { ids: &pair.ids, types: &pair.types }
}

impl Runner {
    fn open(environment: &Environment, model: &Model, cuda: Option<u32>) -> ort::Result<Self> {
        let source = SessionSource {
            onnx: &model.onnx,
            weights: &model.weights,
            feed: &model.plan.feed,
            has_sums: false,
        };
        // One thread a pass: passes run side by side.
        let session = GraphSession::open(environment, &source, cuda, 1)?;
        let output = model.plan.feed.output.clone();
        let mut runner = Self { session, output, is_alone: model.plan.alone.is_some(), labels: 0 };
        // Warm-up, with tokens that the tokenizer itself gives: memory is laid out and kernels are
        // chosen before the first caller waits.
        let sample = row(&model.samples[0]);
        runner.labels = runner.session.pass(&[sample], |out| runner.labels_of(out, 1))?;
        Ok(runner)
    }

    /// What fits a pass on the GPU of CUDA's number, on which this session is.
    fn budget_on(&self, index: u32, model: &Model) -> PassBudget {
        let (plan, [_, sample]) = (&model.plan, &model.samples);
        let length = PROBE_WIDTH.min(plan.window.tokens);
        let filled = |numbers: &[u32]| -> Vec<u32> {
            numbers.iter().copied().cycle().take(length).collect()
        };
        let (ids, types) = (filled(&sample.ids), filled(&sample.types));
        let rows = vec![TokenRow { ids: &ids, types: &types }; PROBE_ROWS];
        let width = plan.feed.fixed_width.map_or(length, |width| width.max(length));
        gpu_budget(index, width, plan.heads, || self.relevances(&rows).map(drop))
    }

    /// Numbers that the graph gives a pair: one or two.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// Tries the model before it serves. Gives what could not be tried.
    ///
    /// # Errors
    /// [`TrialError`]: what it does not do.
    pub fn try_model(&self, model: &Model) -> Result<Vec<String>, TrialError> {
        let (plan, [short, long]) = (&model.plan, &model.samples);
        let trial = Trial {
            row: "pair",
            short: row(short),
            long: row(long),
            largest_id: model.reader.largest_id(),
            window: &plan.window,
            heads: plan.heads,
            apart_max: apart_max(plan.precision, APART_MAX, APART_MAX_FP16, APART_MAX_BF16),
        };
        let distance = |alone: &f64, beside: &f64| {
            let are_numbers = alone.is_finite() && beside.is_finite();
            are_numbers.then(|| (alone - beside).abs() / alone.abs().max(1.0))
        };
        trial.run(|rows| self.relevances(rows), distance)
    }

    /// How relevant each pair's text is: in one pass padded to the longest, or each by itself if
    /// the model has to be asked so.
    ///
    /// # Errors
    /// As ONNX Runtime gives them.
    pub fn relevances(&self, rows: &[TokenRow<'_>]) -> ort::Result<Vec<f64>> {
        answers(rows, self.is_alone, |rows| self.together(rows))
    }

    fn together(&self, rows: &[TokenRow<'_>]) -> ort::Result<Vec<f64>> {
        self.session.pass(rows, |out| {
            let labels = self.labels_of(out, rows.len())?;
            Ok(out.numbers.chunks_exact(labels).map(relevance).collect())
        })
    }

    /// The output's last axis, if it is one of a number or two a pair.
    fn labels_of(&self, out: &PassOutput<'_>, rows: usize) -> ort::Result<usize> {
        let labels = match out.shape.as_slice() {
            [r] if *r == rows => 1,
            [r, labels @ (1 | 2)] if *r == rows => *labels,
            _ => 0,
        };
        if labels == 0 || (self.labels != 0 && labels != self.labels) {
            let expected =
                if self.labels == 0 { "1 or 2".to_owned() } else { self.labels.to_string() };
            let message = format!(
                "the model's output `{}` has the shape {:?}, expected [{rows}, {expected}]",
                self.output, out.shape
            );
            return Err(ort::Error::new(message));
        }
        Ok(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_are_a_softmax_and_one_a_logistic_function() {
        let softmax = |no: f64, yes: f64| yes.exp() / (no.exp() + yes.exp());
        for (no, yes) in [(0.5_f32, -1.25_f32), (-3.0, 4.0), (0.0, 0.0)] {
            let relevance = relevance(&[no, yes]);
            assert!(
                (f64::from(score(relevance, true)) - softmax(no.into(), yes.into())).abs() < 1e-7
            );
            assert_eq!(score(relevance, false), yes - no);
        }
        assert!((score(relevance(&[2.0]), true) - 0.880_797).abs() < 1e-6);
        // Scores that are the same in 32 bits, told apart before that.
        let (high, higher) = (relevance(&[20.0]), relevance(&[30.0]));
        assert!(score(high, true) == 1.0 && score(higher, true) == 1.0 && higher > high);
        assert!(relevance(&[]).is_nan() && !score(f64::NAN, true).is_finite());
    }
}
