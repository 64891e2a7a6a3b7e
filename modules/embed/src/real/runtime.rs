//! Sessions of an embedding model: token ids in, a vector a text out.
//!
//! On a GPU tokens are pooled there, if their pooling is a weighted sum and the runtime takes it
//! into the graph: a vector a text is copied back, and not one for each token. Padding then counts
//! with a weight of 0, which keeps out all but what is no number; so whatever comes out as none is
//! computed once more from the tokens' own vectors, of which padding is left out.

use std::sync::Arc;

use brahman_card::interface::embed::Device;
use brahman_models::device::DeviceChoice;
use brahman_models::layout::OutputStage;
use brahman_models::passes::{PROBE_ROWS, PROBE_WIDTH, PassBudget, answers};
use brahman_models::runtime::{GpuLibraryError, RuntimeError, gpu_budget, place};
use brahman_models::session::{GraphSession, PassOutput, SessionSource, TokenRow};
use brahman_models::trial::{Trial, TrialError, apart_max};
use brahman_sidecar::chain;
use ort::environment::Environment;

use super::head::{Head, unit};
use super::model::Model;

/// How far a vector of length 1 may be from the same text's, alone and beside others: of 32 bits,
/// and of 16 of either kind, the first of which is for weights in blocks, too.
const APART_MAX: f64 = 1e-4;
const APART_MAX_FP16: f64 = 5e-3;
const APART_MAX_BF16: f64 = 5e-2;
/// How far a vector that was pooled in the graph may be from the same one pooled here: CUDA may
/// multiply with ten digits of a number, as `fp16` has them.
const POOLED_APART_MAX: f64 = APART_MAX_FP16;
/// What a device's reason says where tokens are pooled on it, and where they are not.
const POOLED_THERE: &str = "pooled there";
const COPIED_BACK: &str = "hidden states are copied back";

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
    /// How many sums the graph makes of a text's tokens; none if it gives the tokens' own vectors.
    sums: Option<usize>,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner")
            .field("output", &self.output)
            .field("hidden", &self.hidden)
            .field("sums", &self.sums)
            .finish_non_exhaustive()
    }
}

/// A model's sessions.
#[derive(Debug)]
pub struct OpenedSessions {
    /// The one that all threads share.
    pub runner: Runner,
    /// One more for a text alone, on the CPU.
    pub wide: Option<Runner>,
    /// Where the first one runs, and why there.
    pub device: Device,
    /// What fits a pass there.
    pub budget: PassBudget,
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
    shortfall: Option<GpuLibraryError>,
    threads: usize,
) -> Result<OpenedSessions, RuntimeError> {
    let open = |cuda: Option<u32>| -> ort::Result<_> {
        let Some(index) = cuda else {
            let runner = Runner::open(environment, model, None, 1, None)?;
            return Ok((runner, None, PassBudget::cpu()));
        };
        let (runner, pooling) = open_pooling(environment, model, cuda)?;
        let budget = runner.budget_on(index, model);
        Ok((runner, pooling, budget))
    };
    let ((runner, pooling, budget), mut device) = place(asked, allow_cpu, shortfall, open)?;
    if let Some(pooling) = pooling {
        device.reason = format!("{}; {pooling}", device.reason);
    }
    if device.active != "cpu" || threads < 2 {
        return Ok(OpenedSessions { runner, wide: None, device, budget });
    }
    // A lone text is quicker on all cores; a second set of weights is the price.
    let wide =
        Runner::open(environment, model, None, threads, None).map_err(RuntimeError::BadModel)?;
    Ok(OpenedSessions { runner, wide: Some(wide), device, budget })
}

/// Opens a session that pools where it runs, if the pooling is a weighted sum and the runtime takes
/// it into the graph; else one whose hidden states are pooled here. Says which; nothing where the
/// graph pools by itself.
fn open_pooling(
    environment: &Environment,
    model: &Model,
    cuda: Option<u32>,
) -> ort::Result<(Runner, Option<String>)> {
    let open = |sums| Runner::open(environment, model, cuda, 1, sums);
    let Some(pooling) = &model.plan.pooling else { return Ok((open(None)?, None)) };
    let why = match model.head.sums() {
        None => format!("pooling by {} is no weighted sum", pooling.name()),
        Some(sums) => match open(Some(sums)) {
            Ok(runner) => return Ok((runner, Some(POOLED_THERE.to_owned()))),
            Err(error) => {
                let why = format!("the graph was refused with a pooling in it: {}", chain(&error));
                tracing::warn!("{COPIED_BACK}: {why}");
                why
            }
        },
    };
    Ok((open(None)?, Some(format!("{COPIED_BACK}: {why}"))))
}

impl Runner {
    fn open(
        environment: &Environment,
        model: &Model,
        cuda: Option<u32>,
        threads: usize,
        sums: Option<usize>,
    ) -> ort::Result<Self> {
        let plan = &model.plan;
        let source = SessionSource {
            onnx: &model.onnx,
            weights: &model.weights,
            feed: &plan.feed(),
            has_sums: sums.is_some(),
        };
        let mut runner = Self {
            session: GraphSession::open(environment, &source, cuda, threads)?,
            head: Arc::clone(&model.head),
            output: plan.output.name.clone(),
            stage: plan.output.stage,
            is_alone: plan.alone.is_some(),
            hidden: 0,
            sums,
        };
        // Warm-up, with tokens that the tokenizer itself gives: memory is laid out and kernels are
        // chosen before the first caller waits.
        let sample = [Row { ids: &model.sample, skip: 0 }];
        runner.hidden = runner.pass(&sample, |hidden, _| hidden)?;
        runner.compare_sums(&sample)?;
        Ok(runner)
    }

    /// What fits a pass on the GPU of CUDA's number, on which this session is.
    fn budget_on(&self, index: u32, model: &Model) -> PassBudget {
        let plan = &model.plan;
        let length = PROBE_WIDTH.min(plan.window.tokens);
        let ids: Vec<u32> = model.sample.iter().copied().cycle().take(length).collect();
        let rows = vec![Row { ids: &ids, skip: 0 }; PROBE_ROWS];
        let width = plan.fixed_width.map_or(length, |width| width.max(length));
        gpu_budget(index, width, plan.heads, || self.forward(&rows).map(drop))
    }

    /// Refuses a graph that pools otherwise than it is done here.
    fn compare_sums(&self, rows: &[Row<'_>]) -> ort::Result<()> {
        let Some(count) = self.sums else { return Ok(()) };
        let (there, here) = (self.pool_there(rows, count)?, self.pool_here(rows)?);
        for (there, here) in there.into_iter().zip(here) {
            let there = self.head.after_pooling(there);
            // Of what is no vector here, the trial that follows says so.
            let apart = distance(&here, &there).unwrap_or(0.0);
            if apart.is_nan() || apart > POOLED_APART_MAX {
                let message = format!(
                    "a vector that was pooled in the graph is {apart:.1e} from the one that is pooled here, expected at most {POOLED_APART_MAX:.0e}"
                );
                return Err(ort::Error::new(message));
            }
        }
        Ok(())
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
        if let Some(count) = self.sums {
            let pooled = self.pool_there(rows, count)?;
            if pooled.iter().flatten().all(|x| x.is_finite()) {
                return Ok(pooled.into_iter().map(|v| self.head.after_pooling(v)).collect());
            }
        }
        self.pool_here(rows)
    }

    /// What the graph gives where it pools: `count` vectors a row, one after the other.
    fn pool_there(&self, rows: &[Row<'_>], count: usize) -> ort::Result<Vec<Vec<f32>>> {
        let tokens: Vec<TokenRow<'_>> = rows.iter().map(|row| TokenRow::of(row.ids)).collect();
        let weigh = |at: usize, width: usize, weights: &mut [f32]| {
            if let Some(row) = rows.get(at) {
                self.head.weigh(row.ids.len(), row.skip as usize, width, weights);
            }
        };
        self.session.sums(&tokens, count, weigh, |out| {
            let hidden = self.hidden_of(out, rows.len(), Some(count))?;
            Ok(out.numbers.chunks_exact(hidden * count).map(<[f32]>::to_vec).collect())
        })
    }

    /// Vectors that are pooled here, of what the graph gives each token.
    fn pool_here(&self, rows: &[Row<'_>]) -> ort::Result<Vec<Vec<f32>>> {
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
        self.session
            .pass(&tokens, |out| Ok(take(self.hidden_of(out, rows.len(), None)?, &out.numbers)))
    }

    /// The length of a vector, if the output is of the shape that the plan says, or holds so many
    /// sums a row.
    fn hidden_of(
        &self,
        out: &PassOutput<'_>,
        rows: usize,
        sums: Option<usize>,
    ) -> ort::Result<usize> {
        let width = sums.unwrap_or(out.width);
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

#[cfg(test)]
mod tests;
