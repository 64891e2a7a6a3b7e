//! Sessions of ONNX Runtime, and one forward pass: the graph is fed with what it asks for, and gives what the plan takes of it.

use std::ffi::CString;
use std::sync::Arc;

use brahman_card::interface::embed::Device;
use brahman_models::device::DeviceChoice;
use brahman_models::layout::{InputPlan, InputRole, OutputStage};
use brahman_models::runtime::{RuntimeError, place};
use ort::environment::Environment;
use ort::ep;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::TensorRef;

use super::head::Head;
use super::model::Model;
use super::shared::SharedSession;

/// Numbers of one head's attention in a pass (rows times width times width) above which ONNX Runtime is asked to give memory back after
/// it: a text of 1,024 tokens alone has so many, and twelve heads of it take 50 MB.
const SHRINK_ABOVE: usize = 1 << 20;
/// The run option that has it given back.
const SHRINK: &str = "memory.enable_memory_arena_shrinkage";

/// One row of a pass: a text's token ids.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// In order, special ones included.
    pub ids: &'a [u32],
    /// Tokens at the beginning that are not pooled.
    pub skip: u32,
}

/// A session, and what to feed it with. Any number of threads may use it at once; on a GPU they take turns.
pub struct Runner {
    session: SharedSession,
    inputs: Vec<(CString, InputPlan)>,
    head: Arc<Head>,
    output: String,
    stage: OutputStage,
    fixed_width: Option<usize>,
    is_alone: bool,
    pad_id: i64,
    first_position: i64,
    hidden: usize,
    usual: RunOptions,
    shrinking: RunOptions,
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
        let mut builder = Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            // Spinning threads would take the core from the other worker.
            .with_intra_op_spinning(false)?;
        if let Some(index) = cuda {
            let provider = ep::CUDA::default().with_device_id(index.cast_signed()).build().error_on_failure();
            builder = builder.with_execution_providers([provider])?;
        }
        for (name, bytes) in &model.weights {
            builder = builder.with_external_initializer_file_in_memory(name, Arc::clone(bytes))?;
        }
        let session = builder.commit_from_memory(&model.onnx)?;
        let plan = &model.plan;
        let named = |name: &str| CString::new(name).map_err(ort::Error::wrap);
        let mut shrinking = RunOptions::new()?;
        shrinking.set(SHRINK, cuda.map_or("cpu:0".to_owned(), |index| format!("cpu:0;gpu:{index}")))?;
        let mut runner = Self {
            session: SharedSession::new(session, named(&plan.output.name)?, cuda.is_none()),
            inputs: plan.inputs.iter().map(|input| Ok((named(&input.name)?, input.clone()))).collect::<ort::Result<_>>()?,
            head: Arc::clone(&model.head),
            output: plan.output.name.clone(),
            stage: plan.output.stage,
            fixed_width: plan.fixed_width,
            is_alone: plan.alone.is_some(),
            pad_id: plan.pad_id.into(),
            first_position: i64::try_from(plan.first_position).unwrap_or(i64::MAX),
            hidden: 0,
            usual: RunOptions::new()?,
            shrinking,
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
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0).max(1);
        let width = self.fixed_width.map_or(longest, |width| width.max(longest));
        let shape = [rows.len() as i64, width as i64];
        let columns: Vec<Column> = self.inputs.iter().map(|(_, input)| self.column(input, rows, width)).collect();
        let mut inputs = Vec::with_capacity(columns.len());
        for ((name, _), column) in self.inputs.iter().zip(&columns) {
            let value: SessionInputValue<'_> = match column {
                Column::Wide(numbers) => TensorRef::from_array_view((shape, numbers.as_slice()))?.into(),
                Column::Narrow(numbers) => TensorRef::from_array_view((shape, numbers.as_slice()))?.into(),
            };
            inputs.push((name.as_c_str(), value));
        }
        let is_large = rows.len().saturating_mul(width).saturating_mul(width) > SHRINK_ABOVE;
        let output = self.session.run(&inputs, if is_large { &self.shrinking } else { &self.usual })?;
        let (lengths, numbers) = output.numbers()?;
        let hidden = match (self.stage, lengths.as_slice()) {
            (OutputStage::Sentence, [r, hidden]) if *r == rows.len() => *hidden,
            (OutputStage::Tokens, [r, w, hidden]) if *r == rows.len() && *w == width => *hidden,
            _ => 0,
        };
        if hidden == 0 || (self.hidden != 0 && hidden != self.hidden) {
            let (rows, last) = (rows.len(), if self.hidden == 0 { "dimensions".to_owned() } else { self.hidden.to_string() });
            let expected = match self.stage {
                OutputStage::Sentence => format!("[{rows}, {last}]"),
                OutputStage::Tokens => format!("[{rows}, {width}, {last}]: a row a text and a vector a position"),
            };
            return Err(ort::Error::new(format!("the model's output `{}` has the shape {lengths:?}, expected {expected}", self.output)));
        }
        Ok(take(hidden, &numbers))
    }

    /// What an input is fed with, row by row.
    fn column(&self, input: &InputPlan, rows: &[Row<'_>], width: usize) -> Column {
        let cell = |row: &Row<'_>, at: usize| match input.role {
            InputRole::Ids => row.ids.get(at).map_or(self.pad_id, |id| i64::from(*id)),
            InputRole::Mask => i64::from(at < row.ids.len()),
            InputRole::Types => 0,
            InputRole::Positions => self.first_position + at as i64,
        };
        let cells = rows.iter().flat_map(|row| (0..width).map(move |at| (row, at)));
        if input.is_narrow {
            Column::Narrow(cells.map(|(row, at)| i32::try_from(cell(row, at)).unwrap_or(i32::MAX)).collect())
        } else {
            Column::Wide(cells.map(|(row, at)| cell(row, at)).collect())
        }
    }
}

/// Numbers of one input, of the width that it takes.
enum Column {
    Wide(Vec<i64>),
    Narrow(Vec<i32>),
}
