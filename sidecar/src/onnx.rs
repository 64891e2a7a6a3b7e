//! ONNX Runtime for modules that run models: finding the library, and the one rule for CPU or GPU.

pub mod device;

use std::path::{Path, PathBuf};

use brahman_card::interface::embed::Device;
use ort::environment::Environment;
use thiserror::Error;

use device::Asked;

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

/// Opens what `open` makes where `asked` says: on a GPU (its number is given) if there is one and it takes it, else on the CPU. A GPU that
/// was asked for and is not used is a refusal unless `allow_cpu`. The report says which it was, and why.
///
/// # Errors
/// [`RuntimeError`].
pub fn place<T>(asked: Asked, allow_cpu: bool, mut open: impl FnMut(Option<u32>) -> ort::Result<T>) -> Result<(T, Device), RuntimeError> {
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
        match open(Some(index)) {
            Ok(opened) => {
                let grown = device::memory_used(index).zip(before).map(|(after, before)| after.saturating_sub(before));
                let reason = match grown {
                    Some(bytes) if bytes > 0 => format!("confirmed: {} MiB more in use on the GPU after loading", bytes >> 20),
                    _ => "ONNX Runtime accepted CUDA; NVML shows no growth of memory in use".to_owned(),
                };
                return Ok((opened, device::report(asked, &format!("cuda:{index}"), reason)));
            }
            Err(error) => why_cpu = format!("CUDA was refused: {error}"),
        }
    }
    if matches!(asked, Asked::Cuda(_)) && !allow_cpu {
        return Err(RuntimeError::NoDevice { asked: asked.name(), why: why_cpu });
    }
    let opened = open(None).map_err(|e| RuntimeError::BadModel(e.to_string()))?;
    Ok((opened, device::report(asked, "cpu", why_cpu)))
}
