//! ONNX Runtime for modules that run models: finding the library, and the one rule for CPU or GPU.

use std::path::{Path, PathBuf};

use brahman_card::chain;
use brahman_card::interface::embed::Device;
use ort::environment::Environment;
use thiserror::Error;

use crate::catalogue;
use crate::device::uuid::UuidError;
use crate::device::{self, DeviceChoice};
use crate::passes::{GpuMemory, PROBE_ROWS, PassBudget};

/// Why there is no session.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The library is nowhere.
    #[error(
        "no ONNX Runtime: looked at $ORT_DYLIB_PATH and {cache}; `brahman models pull` fetches it"
    )]
    NoLibrary {
        /// Where a fetched one lies.
        cache: PathBuf,
    },
    /// The library does not load, or is too old.
    #[error("ONNX Runtime at {path} does not load")]
    BadLibrary {
        /// Which one.
        path: PathBuf,
        /// Cause.
        #[source]
        source: LibraryError,
    },
    /// A GPU was asked for and cannot be used.
    #[error(
        "{asked} was asked for and cannot be used; set BRAHMAN_ALLOW_CPU=1 to run on the CPU instead"
    )]
    NoDevice {
        /// What was asked.
        asked: String,
        /// Cause.
        #[source]
        source: CpuReason,
    },
    /// The model is refused.
    #[error("ONNX Runtime refuses the model")]
    BadModel(#[source] ort::Error),
}

/// Why a library is none that can be used.
#[derive(Debug, Error)]
pub enum LibraryError {
    /// It cannot be loaded, or is of another version.
    #[error(transparent)]
    Load(#[from] ort::LoadDynamicError),
    /// It does not begin to work.
    #[error(transparent)]
    Environment(#[from] ort::Error),
}

/// Why a model runs on the CPU.
#[derive(Debug, Error)]
pub enum CpuReason {
    /// That is what was asked for.
    #[error("as asked")]
    Chosen,
    /// There is nothing else.
    #[error("NVML finds no GPU")]
    NoGpu,
    /// There is a GPU, and not the one that was asked for.
    #[error(transparent)]
    Unnumbered(#[from] UuidError),
    /// There is a GPU, which will not have the model.
    #[error("CUDA was refused")]
    Refused(#[source] ort::Error),
}

/// Loads the library once for this process.
///
/// # Errors
/// [`RuntimeError`], which names the path.
pub fn load(cache: &Path) -> Result<(PathBuf, Environment), RuntimeError> {
    let named = std::env::var_os("ORT_DYLIB_PATH").filter(|v| !v.is_empty()).map(PathBuf::from);
    let cached = catalogue::library(cache);
    let path = match named {
        Some(path) => path,
        None if cached.is_file() => cached,
        None => return Err(RuntimeError::NoLibrary { cache: cached }),
    };
    let bad = |source: LibraryError| RuntimeError::BadLibrary { path: path.clone(), source };
    let environment = ort::init_from(&path).map_err(|e| bad(e.into()))?;
    let environment = environment
        .with_name("brahman")
        .with_telemetry(false)
        .build()
        .map_err(|e| bad(e.into()))?;
    Ok((path, environment))
}

/// The version of the library that is loaded, such as `1.31.1`: by its own build's branch, else the
/// oldest that is accepted.
#[must_use]
pub fn version() -> String {
    version_in(ort::info()).unwrap_or_else(|| format!("1.{}.x or newer", ort::MINOR_VERSION))
}

/// The version that a build's description names: `… git-branch=rel-1.31.1, …`.
fn version_in(description: &str) -> Option<String> {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let numbers = description
        .split(|c: char| !is_part(c))
        .filter(|word| word.starts_with("1.") && word.matches('.').count() == 2);
    numbers
        .map(|word| word.trim_end_matches('.').to_owned())
        .find(|word| word.matches('.').count() == 2)
}

/// Opens what `open` makes where `asked` says: on a GPU (its number is given) if there is one and
/// it takes it, else on the CPU. A GPU that was asked for and is not used is a refusal unless
/// `allow_cpu`. The report says which it was, and why.
///
/// # Errors
/// [`RuntimeError`].
pub fn place<T>(
    asked: DeviceChoice,
    allow_cpu: bool,
    mut open: impl FnMut(Option<u32>) -> ort::Result<T>,
) -> Result<(T, Device), RuntimeError> {
    let why_cpu = match number(asked) {
        Err(reason) => reason,
        Ok(index) => {
            let (before, own_before) =
                (device::memory_used(index), device::own_memory(index).unwrap_or(0));
            match open(Some(index)) {
                Ok(opened) => {
                    let grown = device::memory_used(index)
                        .zip(before)
                        .map(|(after, before)| after.saturating_sub(before));
                    let own = device::own_memory(index).filter(|bytes| *bytes > own_before);
                    let reason = match (own, grown) {
                        (Some(bytes), _) => {
                            format!("confirmed: this process has {} MiB on the GPU", bytes >> 20)
                        }
                        (None, Some(bytes)) if bytes > 0 => format!(
                            "confirmed: {} MiB more in use on the GPU after loading",
                            bytes >> 20
                        ),
                        _ => "ONNX Runtime accepted CUDA; NVML shows no growth of memory in use"
                            .to_owned(),
                    };
                    return Ok((opened, device::report(asked, &format!("cuda:{index}"), reason)));
                }
                Err(error) => CpuReason::Refused(error),
            }
        }
    };
    if asked.names_gpu() && !allow_cpu {
        return Err(RuntimeError::NoDevice { asked: asked.name(), source: why_cpu });
    }
    let opened = open(None).map_err(RuntimeError::BadModel)?;
    Ok((opened, device::report(asked, "cpu", chain(&why_cpu))))
}

/// What fits a pass on the GPU of CUDA's number, by what one takes there: `pass` runs one of
/// [`PROBE_ROWS`] rows, each padded to `width` tokens, through a model of so many heads.
pub fn gpu_budget(
    index: u32,
    width: usize,
    heads: usize,
    pass: impl FnOnce() -> ort::Result<()>,
) -> PassBudget {
    let (ran, growth) = device::measured(index, pass);
    if let Err(error) = ran {
        tracing::warn!("passes are kept small, for one to measure memory by failed: {error}");
        return PassBudget::cpu();
    }
    let tokens = PROBE_ROWS.saturating_mul(width);
    let memory =
        growth.map(|growth| GpuMemory { free: growth.free, taken: growth.taken, tokens, heads });
    let budget = PassBudget::gpu(memory);
    tracing::info!(
        tokens = budget.tokens,
        pairs = budget.attention,
        "what fits a pass: {memory:?}"
    );
    budget
}

/// CUDA's number of the GPU that is asked for, or why there is none.
fn number(asked: DeviceChoice) -> Result<u32, CpuReason> {
    if asked == DeviceChoice::Cpu {
        return Err(CpuReason::Chosen);
    }
    if device::gpus().is_none_or(|gpus| gpus.is_empty()) {
        return Err(CpuReason::NoGpu);
    }
    match asked {
        DeviceChoice::Cuda(number) => Ok(number),
        DeviceChoice::CudaUuid(uuid) => Ok(device::number_of(uuid)?),
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn the_version_is_read_from_the_builds_description() {
        let said = "ORT Build Info: git-branch=rel-1.31.1, git-commit-id=26250ae, build type=Release, cmake cxx flags: -O2 -std=c++20";
        assert_eq!(version_in(said).as_deref(), Some("1.31.1"));
        assert_eq!(version_in("ORT Build Info: git-branch=main, git-commit-id=1.2"), None);
    }
}
