//! ONNX Runtime: finding the library, opening sessions, one forward pass.

use std::path::{Path, PathBuf};

use ort::environment::Environment;
use ort::ep;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use thiserror::Error;

use super::device::{self, Asked};
use brahman_card::interface::embed::Device;

/// Why there is no session.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The library is nowhere.
    #[error("no ONNX Runtime: looked at $ORT_DYLIB_PATH and {cache}; `brahman models pull` fetches it")]
    NoLibrary {
        /// Where a fetched one lies.
        cache: PathBuf,
    },
    /// The library does not load, or is too old.
    #[error("ONNX Runtime at {path} does not load: {why}")]
    BadLibrary {
        /// Which one.
        path: PathBuf,
        /// Cause.
        why: String,
    },
    /// A GPU was asked for and cannot be used.
    #[error("{asked} was asked for and cannot be used: {why}; set BRAHMAN_ALLOW_CPU=1 to run on the CPU instead")]
    NoDevice {
        /// What was asked.
        asked: String,
        /// Cause.
        why: String,
    },
    /// The model is refused.
    #[error("ONNX Runtime refuses the model: {0}")]
    BadModel(String),
}

/// Where `brahman models pull` puts the library.
#[must_use]
pub fn cached_library(cache: &Path) -> PathBuf {
    cache.join("onnxruntime").join("libonnxruntime.so")
}

/// Loads the library once for this process.
///
/// # Errors
/// [`RuntimeError`], which names the path.
pub fn load(cache: &Path) -> Result<(PathBuf, Environment), RuntimeError> {
    let named = std::env::var_os("ORT_DYLIB_PATH").filter(|v| !v.is_empty()).map(PathBuf::from);
    let cached = cached_library(cache);
    let path = match named {
        Some(path) => path,
        None if cached.is_file() => cached,
        None => return Err(RuntimeError::NoLibrary { cache: cached }),
    };
    let bad = |why: String| RuntimeError::BadLibrary { path: path.clone(), why };
    let environment = ort::init_from(&path).map_err(|e| bad(e.to_string()))?;
    let environment = environment.with_name("brahman").with_telemetry(false).build().map_err(|e| bad(e.to_string()))?;
    Ok((path, environment))
}

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
    onnx: &[u8],
    asked: Asked,
    allow_cpu: bool,
    threads: usize,
) -> Result<(Vec<Runner>, Option<Runner>, Device), RuntimeError> {
    let mut why_cpu = match asked {
        Asked::Cpu => "as asked".to_owned(),
        _ => match device::gpus() {
            Some(gpus) if !gpus.is_empty() => String::new(),
            _ => "NVML finds no GPU".to_owned(),
        },
    };
    if why_cpu.is_empty() {
        let index = if let Asked::Cuda(n) = asked { n } else { 0 };
        let before = device::memory_used(index);
        match Runner::open(environment, onnx, Some(index), 1) {
            Ok(runner) => {
                let grown = device::memory_used(index).zip(before).map(|(after, before)| after.saturating_sub(before));
                let reason = match grown {
                    Some(bytes) if bytes > 0 => format!("confirmed: {} MiB more in use on the GPU after loading", bytes >> 20),
                    _ => "ONNX Runtime accepted CUDA; NVML shows no growth of memory in use".to_owned(),
                };
                return Ok((vec![runner], None, device::report(asked, &format!("cuda:{index}"), reason)));
            }
            Err(error) => why_cpu = format!("CUDA was refused: {error}"),
        }
    }
    if matches!(asked, Asked::Cuda(_)) && !allow_cpu {
        return Err(RuntimeError::NoDevice { asked: asked.name(), why: why_cpu });
    }
    let mut runners = Vec::new();
    for _ in 0..threads {
        runners.push(Runner::open(environment, onnx, None, 1).map_err(|e| RuntimeError::BadModel(e.to_string()))?);
    }
    // A lone text is quicker on all cores; a second set of weights is the price.
    let wide = (threads > 1)
        .then(|| Runner::open(environment, onnx, None, threads))
        .transpose()
        .map_err(|e| RuntimeError::BadModel(e.to_string()))?;
    Ok((runners, wide, device::report(asked, "cpu", why_cpu)))
}

impl Runner {
    fn open(environment: &Environment, onnx: &[u8], cuda: Option<u32>, threads: usize) -> ort::Result<Self> {
        let mut builder = Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            // Spinning threads would take the core from the other worker.
            .with_intra_op_spinning(false)?;
        if let Some(index) = cuda {
            let provider = ep::CUDA::default().with_device_id(index.cast_signed()).build().error_on_failure();
            builder = builder.with_execution_providers([provider])?;
        }
        let session = builder.commit_from_memory(onnx)?;
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
        let dim = usize::try_from(shape.last().copied().unwrap_or(0)).unwrap_or(0);
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
