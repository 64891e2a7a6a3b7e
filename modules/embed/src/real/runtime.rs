//! Sessions of ONNX Runtime, and one forward pass.

use std::sync::Arc;

use brahman_card::interface::embed::Device;
use brahman_models::device::DeviceChoice;
use brahman_models::runtime::{RuntimeError, place};
use ort::environment::Environment;
use ort::ep;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;

use super::model::Model;

/// A session, and whether it takes token types.
pub struct Runner {
    session: Session,
    token_types: bool,
    output: String,
    dim: usize,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("dim", &self.dim).finish_non_exhaustive()
    }
}

/// Opens sessions for a model: `threads` workers of one thread on the CPU, one on a GPU.
///
/// # Errors
/// [`RuntimeError`].
pub fn open(
    environment: &Environment,
    model: &Model,
    asked: DeviceChoice,
    allow_cpu: bool,
    threads: usize,
) -> Result<(Vec<Runner>, Option<Runner>, Device), RuntimeError> {
    let (mut runners, device) = place(asked, allow_cpu, |cuda| Runner::open(environment, model, cuda, 1).map(|runner| vec![runner]))?;
    if device.active != "cpu" {
        return Ok((runners, None, device));
    }
    while runners.len() < threads {
        runners.push(Runner::open(environment, model, None, 1).map_err(RuntimeError::BadModel)?);
    }
    // A lone text is quicker on all cores; a second set of weights is the price.
    let wide = (threads > 1).then(|| Runner::open(environment, model, None, threads)).transpose().map_err(RuntimeError::BadModel)?;
    Ok((runners, wide, device))
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
        let token_types = session.inputs().iter().any(|i| i.name() == "token_type_ids");
        let output = session.outputs().first().map(|o| o.name().to_owned()).unwrap_or_default();
        let mut runner = Self { session, token_types, output, dim: 0 };
        // Warm-up: memory is laid out and kernels are chosen before the first caller waits.
        runner.dim = runner.forward(&[vec![101, 102]])?.first().map_or(0, Vec::len);
        Ok(runner)
    }

    /// Length of the vectors.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Embeds token sequences: one pass padded to the longest, mean pooling over real tokens, scaled to length 1.
    ///
    /// # Errors
    /// As ONNX Runtime gives them.
    pub fn forward(&mut self, sequences: &[Vec<u32>]) -> ort::Result<Vec<Vec<f32>>> {
        let rows = sequences.len();
        let width = sequences.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let (mut ids, mut mask) = (vec![0_i64; rows * width], vec![0_i64; rows * width]);
        for (row, sequence) in sequences.iter().enumerate() {
            for (at, id) in sequence.iter().enumerate() {
                ids[row * width + at] = i64::from(*id);
                mask[row * width + at] = 1;
            }
        }
        let types = vec![0_i64; if self.token_types { rows * width } else { 0 }];
        let shape = [rows as i64, width as i64];
        let mut inputs = ort::inputs! {
            "input_ids" => TensorRef::from_array_view((shape, ids.as_slice()))?,
            "attention_mask" => TensorRef::from_array_view((shape, mask.as_slice()))?,
        };
        if self.token_types {
            inputs.push(("token_type_ids".into(), TensorRef::from_array_view((shape, types.as_slice()))?.into()));
        }
        let outputs = self.session.run(inputs)?;
        let (shape, hidden) = outputs[self.output.as_str()].try_extract_tensor::<f32>()?;
        let sizes: Vec<usize> = shape.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect();
        let dim = match sizes.as_slice() {
            [r, dim] if *r == rows && *dim > 0 => *dim,
            [r, w, dim] if *r == rows && *w == width && *dim > 0 => *dim,
            _ => {
                let expected = format!("[{rows}, dimensions] or [{rows}, {width}, dimensions]");
                return Err(ort::Error::new(format!("the model's output `{}` has the shape {sizes:?}, expected {expected}", self.output)));
            }
        };
        if shape.len() == 2 {
            // The model pools by itself.
            return Ok(hidden.chunks_exact(dim).map(|row| unit(row.to_vec())).collect());
        }
        Ok(sequences.iter().enumerate().map(|(row, sequence)| pool(&hidden[row * width * dim..], dim, sequence.len())).collect())
    }
}

/// The mean of the first `tokens` vectors, scaled to length 1.
fn pool(hidden: &[f32], dim: usize, tokens: usize) -> Vec<f32> {
    let mut sum = vec![0_f32; dim];
    for token in hidden.chunks_exact(dim).take(tokens) {
        for (s, x) in sum.iter_mut().zip(token) {
            *s += x;
        }
    }
    unit(sum)
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    vector
}
