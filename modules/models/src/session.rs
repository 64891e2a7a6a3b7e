//! Sessions of ONNX Runtime, and one forward pass: a graph of token sequences is fed with what it
//! asks for, and gives one output.
//!
//! Invariants: weights are in memory once a session, whatever the threads; a pass whose attention
//! takes much memory gives it back; what comes out is looked at by whoever knows what it means.
//! Nothing here knows a text, a pooling or a score.

mod shared;
mod sums;

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::sync::Arc;

use ort::environment::Environment;
use ort::ep;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::TensorRef;

use self::shared::SharedSession;
use self::sums::{SummedGraph, with_sums};
use crate::layout::{GraphFeed, InputPlan, InputRole};

/// Numbers of one head's attention in a pass (rows times width times width) above which ONNX
/// Runtime is asked to give memory back after it: a text of 1,024 tokens alone has so many, and
/// twelve heads of it take 50 MB.
const SHRINK_ABOVE: usize = 1 << 20;
/// The run option that has it given back.
const SHRINK: &str = "memory.enable_memory_arena_shrinkage";

/// What a session is made of.
#[derive(Clone, Copy, Debug)]
pub struct SessionSource<'a> {
    /// The ONNX file's bytes.
    pub onnx: &'a [u8],
    /// Weights that the graph names as files beside it, by the name it has for them.
    pub weights: &'a [(String, Arc<[u8]>)],
    /// What the graph is fed with, and what is taken from it.
    pub feed: &'a GraphFeed,
    /// Whether [`GraphSession::sums`] is to be had beside the output, which then is a vector a
    /// token.
    pub has_sums: bool,
}

/// One row of a pass.
#[derive(Clone, Copy, Debug)]
pub struct TokenRow<'a> {
    /// Token ids in order, special ones included.
    pub ids: &'a [u32],
    /// Of each token, which of two texts it is of; 0 for those that it does not have.
    pub types: &'a [u32],
}

impl<'a> TokenRow<'a> {
    /// What the graph is fed of one text.
    #[must_use]
    pub fn of(ids: &'a [u32]) -> Self {
        Self { ids, types: &[] }
    }
}

/// What came out of a pass.
#[derive(Debug)]
pub struct PassOutput<'a> {
    /// Tokens to which every row was padded.
    pub width: usize,
    /// Lengths of the output's axes.
    pub shape: Vec<usize>,
    /// Its numbers, row by row.
    pub numbers: Cow<'a, [f32]>,
}

/// A session, and what to feed it with. Any number of threads may use it at once; on a GPU they
/// take turns.
pub struct GraphSession {
    session: SharedSession,
    inputs: Vec<(CString, InputPlan)>,
    output: CString,
    sums: Option<SumPorts>,
    fixed_width: Option<usize>,
    pad_id: i64,
    first_position: i64,
    usual: RunOptions,
    shrinking: RunOptions,
}

impl std::fmt::Debug for GraphSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inputs: Vec<&str> = self.inputs.iter().map(|(_, input)| input.name.as_str()).collect();
        f.debug_struct("GraphSession").field("inputs", &inputs).finish_non_exhaustive()
    }
}

impl GraphSession {
    /// Opens a session on the GPU of that number, else on the CPU, where a pass uses `threads`
    /// threads.
    ///
    /// # Errors
    /// As ONNX Runtime gives them.
    pub fn open(
        environment: &Environment,
        source: &SessionSource<'_>,
        cuda: Option<u32>,
        threads: usize,
    ) -> ort::Result<Self> {
        let mut builder = Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            // Spinning threads would take the core from the other worker.
            .with_intra_op_spinning(false)?;
        if let Some(index) = cuda {
            let provider =
                ep::CUDA::default().with_device_id(index.cast_signed()).build().error_on_failure();
            builder = builder.with_execution_providers([provider])?;
        }
        for (name, bytes) in source.weights {
            builder = builder.with_external_initializer_file_in_memory(name, Arc::clone(bytes))?;
        }
        let feed = source.feed;
        let named = |name: &str| CString::new(name).map_err(ort::Error::wrap);
        let (session, sums) = if source.has_sums {
            let SummedGraph { onnx, weights, sums } =
                with_sums(source.onnx, &feed.output).map_err(ort::Error::wrap)?;
            let ports = SumPorts { weights: named(&weights)?, sums: named(&sums)? };
            (builder.commit_from_memory(&onnx)?, Some(ports))
        } else {
            (builder.commit_from_memory(source.onnx)?, None)
        };
        let mut shrinking = RunOptions::new()?;
        shrinking
            .set(SHRINK, cuda.map_or("cpu:0".to_owned(), |index| format!("cpu:0;gpu:{index}")))?;
        Ok(Self {
            session: SharedSession::new(session, cuda.is_none()),
            inputs: feed
                .inputs
                .iter()
                .map(|input| Ok((named(&input.name)?, input.clone())))
                .collect::<ort::Result<_>>()?,
            output: named(&feed.output)?,
            sums,
            fixed_width: feed.fixed_width,
            pad_id: feed.pad_id.into(),
            first_position: i64::try_from(feed.first_position).unwrap_or(i64::MAX),
            usual: RunOptions::new()?,
            shrinking,
        })
    }

    /// Runs the graph on rows padded to the longest of them; `take` is given what came out.
    ///
    /// # Errors
    /// As ONNX Runtime or `take` gives them.
    pub fn pass<T>(
        &self,
        rows: &[TokenRow<'_>],
        take: impl FnOnce(&PassOutput<'_>) -> ort::Result<T>,
    ) -> ort::Result<T> {
        // A graph with sums wants weights in any case.
        self.run(rows, &self.output, |width| vec![0.0; rows.len() * width], take)
    }

    /// Runs the graph as [`pass`](Self::pass) does; `take` is given, of each row, `count` sums of
    /// its tokens' vectors in place of them: the shape is rows, sums, numbers of a vector. `weigh`
    /// is given a row's place, the width to which it was padded, and zeros to be replaced by
    /// weights: for each sum a number a token. Padding is summed as well: a weight of 0 keeps it
    /// out if it is a number.
    ///
    /// # Errors
    /// As ONNX Runtime or `take` gives them; that the session was opened without sums.
    pub fn sums<T>(
        &self,
        rows: &[TokenRow<'_>],
        count: usize,
        weigh: impl Fn(usize, usize, &mut [f32]),
        take: impl FnOnce(&PassOutput<'_>) -> ort::Result<T>,
    ) -> ort::Result<T> {
        let Some(ports) = &self.sums else {
            return Err(ort::Error::new("the session was opened without sums"));
        };
        let weights = |width: usize| {
            let mut weights = vec![0.0; rows.len() * count * width];
            let each = weights.chunks_exact_mut((count * width).max(1));
            each.enumerate().for_each(|(row, weights)| weigh(row, width, weights));
            weights
        };
        self.run(rows, &ports.sums, weights, take)
    }

    /// Runs the graph on padded rows for one of its outputs. `weights` makes what is fed to its
    /// sums, if it has any, for rows of a width.
    fn run<T>(
        &self,
        rows: &[TokenRow<'_>],
        output: &CStr,
        weights: impl FnOnce(usize) -> Vec<f32>,
        take: impl FnOnce(&PassOutput<'_>) -> ort::Result<T>,
    ) -> ort::Result<T> {
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0).max(1);
        let width = self.fixed_width.map_or(longest, |width| width.max(longest));
        let shape = [rows.len() as i64, width as i64];
        let columns: Vec<Column> =
            self.inputs.iter().map(|(_, input)| self.column(input, rows, width)).collect();
        let weights = self.sums.as_ref().map(|ports| (ports, weights(width)));
        let mut inputs = Vec::with_capacity(columns.len() + 1);
        for ((name, _), column) in self.inputs.iter().zip(&columns) {
            let value: SessionInputValue<'_> = match column {
                Column::Wide(numbers) => {
                    TensorRef::from_array_view((shape, numbers.as_slice()))?.into()
                }
                Column::Narrow(numbers) => {
                    TensorRef::from_array_view((shape, numbers.as_slice()))?.into()
                }
            };
            inputs.push((name.as_c_str(), value));
        }
        if let Some((ports, weights)) = &weights {
            let sums = weights.len() / (rows.len() * width).max(1);
            let shape = [rows.len() as i64, sums as i64, width as i64];
            let value = TensorRef::from_array_view((shape, weights.as_slice()))?;
            inputs.push((ports.weights.as_c_str(), value.into()));
        }
        let is_large = rows.len().saturating_mul(width).saturating_mul(width) > SHRINK_ABOVE;
        let options = if is_large { &self.shrinking } else { &self.usual };
        let output = self.session.run(&inputs, output, options)?;
        let (shape, numbers) = output.numbers()?;
        take(&PassOutput { width, shape, numbers })
    }

    /// What an input is fed with, row by row.
    fn column(&self, input: &InputPlan, rows: &[TokenRow<'_>], width: usize) -> Column {
        let cell = |row: &TokenRow<'_>, at: usize| match input.role {
            InputRole::Ids => row.ids.get(at).map_or(self.pad_id, |id| i64::from(*id)),
            InputRole::Mask => i64::from(at < row.ids.len()),
            InputRole::Types => row.types.get(at).map_or(0, |kind| i64::from(*kind)),
            InputRole::Positions => self.first_position + at as i64,
        };
        let cells = rows.iter().flat_map(|row| (0..width).map(move |at| (row, at)));
        if input.is_narrow {
            Column::Narrow(
                cells.map(|(row, at)| i32::try_from(cell(row, at)).unwrap_or(i32::MAX)).collect(),
            )
        } else {
            Column::Wide(cells.map(|(row, at)| cell(row, at)).collect())
        }
    }
}

/// What was added to a graph, by its names there.
struct SumPorts {
    weights: CString,
    sums: CString,
}

/// Numbers of one input, of the width that it takes.
enum Column {
    Wide(Vec<i64>),
    Narrow(Vec<i32>),
}
