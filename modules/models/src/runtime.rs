//! ONNX Runtime for modules that run models: finding the library, and the one rule for CPU or GPU.
//!
//! The library for GPUs is taken where there is a GPU, one may be used, and CUDA's libraries load;
//! else the one for the CPU, with the reason in the device's report. What `ORT_DYLIB_PATH` names is
//! taken as it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use brahman_card::chain;
use brahman_card::interface::embed::Device;
use ort::environment::{Environment, EnvironmentBuilder};
use thiserror::Error;

use crate::device::uuid::UuidError;
use crate::device::{self, DeviceChoice};
use crate::passes::{GpuMemory, PROBE_ROWS, PassBudget};
use crate::{catalogue, cuda};

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

/// Why the library for GPUs is not in use where there is one.
#[derive(Clone, Debug, Error)]
pub enum GpuLibraryError {
    /// It is not here.
    #[error("ONNX Runtime for GPUs is not here: `brahman models pull --gpu` fetches it")]
    Absent,
    /// The driver is of another time.
    #[error(
        "the driver bears CUDA {major}.{minor}, and ONNX Runtime for GPUs is built for {}: a newer driver is wanted",
        catalogue::CUDA_MAJOR
    )]
    Driver {
        /// By NVML's word.
        major: u32,
        /// By NVML's word.
        minor: u32,
    },
    /// CUDA's libraries are not here.
    #[error(
        "CUDA's libraries do not load ({names}): `{mend}`, then `brahman models pull --gpu --python PYTHON`"
    )]
    Cuda {
        /// Those that do not load.
        names: String,
        /// What brings them.
        mend: String,
    },
    /// It does not load.
    #[error("ONNX Runtime for GPUs at {} does not load", .path.display())]
    Broken {
        /// Which one.
        path: PathBuf,
        /// Cause.
        #[source]
        source: Arc<ort::LoadDynamicError>,
    },
}

/// The library, loaded.
pub struct LoadedLibrary {
    /// Which file it was loaded from.
    pub path: PathBuf,
    /// What sessions are opened in.
    pub environment: Environment,
    /// Why it is the one for the CPU, where there is a GPU.
    pub shortfall: Option<GpuLibraryError>,
}

impl std::fmt::Debug for LoadedLibrary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedLibrary")
            .field("path", &self.path)
            .field("shortfall", &self.shortfall)
            .finish_non_exhaustive()
    }
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
    /// There is a GPU, and no library for it.
    #[error("the library in use is for the CPU")]
    Library(#[source] GpuLibraryError),
    /// There is a GPU, which will not have the model.
    #[error("CUDA was refused")]
    Refused(#[source] ort::Error),
}

/// Loads the library once for this process, for the device that is asked for.
///
/// # Errors
/// [`RuntimeError`], which names the path.
pub fn load(cache: &Path, asked: DeviceChoice) -> Result<LoadedLibrary, RuntimeError> {
    let named = std::env::var_os("ORT_DYLIB_PATH").filter(|v| !v.is_empty()).map(PathBuf::from);
    let is_gpu_wanted = named.is_none()
        && asked != DeviceChoice::Cpu
        && device::gpus().is_some_and(|gpus| !gpus.is_empty());
    let mut shortfall = None;
    if is_gpu_wanted {
        let opened = gpu_library(cache, device::cuda_version(), preload).and_then(|path| {
            let broken =
                |source| GpuLibraryError::Broken { path: path.clone(), source: Arc::new(source) };
            ort::init_from(&path).map_err(broken).map(|environment| (path, environment))
        });
        match opened {
            Ok((path, environment)) => return begun(path, environment, None),
            Err(error) => {
                tracing::warn!("the library for the CPU is used: {}", chain(&error));
                shortfall = Some(error);
            }
        }
    }
    let cached = catalogue::library(cache);
    let path = match named {
        Some(path) => path,
        None if cached.is_file() => cached,
        None => return Err(RuntimeError::NoLibrary { cache: cached }),
    };
    match ort::init_from(&path) {
        Ok(environment) => begun(path, environment, shortfall),
        Err(error) => Err(RuntimeError::BadLibrary { path, source: error.into() }),
    }
}

fn begun(
    path: PathBuf,
    environment: EnvironmentBuilder,
    shortfall: Option<GpuLibraryError>,
) -> Result<LoadedLibrary, RuntimeError> {
    match environment.with_name("brahman").with_telemetry(false).build() {
        Ok(environment) => Ok(LoadedLibrary { path, environment, shortfall }),
        Err(error) => Err(RuntimeError::BadLibrary { path, source: error.into() }),
    }
}

/// The fetched library for GPUs, once CUDA's own libraries are loaded by `preload`, which is given
/// each one's name and where it was found, if it was. `version` is CUDA's that the driver bears.
fn gpu_library(
    cache: &Path,
    version: Option<(u32, u32)>,
    preload: impl Fn(&str, Option<PathBuf>) -> bool,
) -> Result<PathBuf, GpuLibraryError> {
    let path = catalogue::gpu_library(cache);
    if !path.is_file() {
        return Err(GpuLibraryError::Absent);
    }
    if let Some((major, minor)) = version.filter(|(major, _)| *major < catalogue::CUDA_MAJOR) {
        return Err(GpuLibraryError::Driver { major, minor });
    }
    let folders = cuda::recorded(cache);
    // All of them, so that what is missing is named at once.
    let absent: Vec<_> = cuda::LIBRARIES
        .iter()
        .filter(|library| !preload(library.name, cuda::find(library, &folders)))
        .filter(|library| library.is_required)
        .collect();
    if absent.is_empty() {
        return Ok(path);
    }
    let names: Vec<&str> = absent.iter().map(|library| library.name).collect();
    Err(GpuLibraryError::Cuda { names: names.join(", "), mend: cuda::pip_line(&absent) })
}

/// Loads a library of CUDA's for this process: from where it was found, else from where the system
/// looks. One that is linked to it takes this one.
fn preload(name: &str, found: Option<PathBuf>) -> bool {
    let loaded = match found {
        Some(path) => ort::util::preload_dylib(path),
        None => ort::util::preload_dylib(name),
    };
    loaded.inspect_err(|error| tracing::debug!("{name} does not load: {error}")).is_ok()
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
/// `allow_cpu`. The report says which it was, and why. `shortfall` is the library's.
///
/// # Errors
/// [`RuntimeError`].
pub fn place<T>(
    asked: DeviceChoice,
    allow_cpu: bool,
    shortfall: Option<GpuLibraryError>,
    mut open: impl FnMut(Option<u32>) -> ort::Result<T>,
) -> Result<(T, Device), RuntimeError> {
    let why_cpu = match (number(asked), shortfall) {
        (Err(reason), _) => reason,
        (Ok(_), Some(shortfall)) => CpuReason::Library(shortfall),
        (Ok(index), None) => {
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
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn the_library_for_gpus_is_used_where_cuda_s_libraries_load_and_what_is_missing_is_named() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let said = |version, loads: fn(&str) -> bool| {
            gpu_library(cache.path(), version, |name, _| loads(name)).map_err(|e| e.to_string())
        };
        let refused = |version: Option<(u32, u32)>, loads: fn(&str) -> bool| {
            said(version, loads).expect_err("refused")
        };
        assert!(refused(None, |_| true).contains("models pull --gpu"));
        let path = catalogue::gpu_library(cache.path());
        std::fs::create_dir_all(catalogue::gpu_folder(cache.path())).expect("made");
        std::fs::write(&path, b"").expect("written");
        assert_eq!(
            (said(None, |_| true), said(Some((13, 1)), |_| true)),
            (Ok(path.clone()), Ok(path.clone()))
        );
        assert!(refused(Some((12, 8)), |_| true).contains("CUDA 12.8"));
        // What few models need may be absent.
        assert_eq!(said(None, |name| !name.starts_with("libcufft")), Ok(path));
        let words = refused(None, |name| !name.starts_with("libcublas"));
        assert!(words.contains("libcublasLt.so.13, libcublas.so.13"), "{words}");
        assert!(words.contains("pip install 'nvidia-cublas~=13.0'"), "{words}");

        // Each is looked for where it was found when the library was fetched.
        let found = cache.path().join("libcudart.so.13");
        std::fs::write(&found, b"").expect("written");
        cuda::record(cache.path(), &[cache.path().to_owned()]).expect("written");
        let asked = RefCell::new(Vec::new());
        let keep = |name: &str, place| {
            asked.borrow_mut().push((name.to_owned(), place));
            true
        };
        gpu_library(cache.path(), None, keep).expect("found");
        let asked = asked.into_inner();
        assert_eq!(asked.len(), cuda::LIBRARIES.len());
        assert_eq!(asked[0], ("libcudart.so.13".to_owned(), Some(found)));
        assert!(asked[1..].iter().all(|(_, place)| place.is_none()));
    }

    #[test]
    fn a_gpu_without_its_library_is_a_reason_and_a_refusal_where_it_was_asked_for() {
        assert!(!preload("libbrahman-is-not-there.so.1", None));
        assert!(!preload("x", Some(PathBuf::from("/nonexistent/libcudart.so.13"))));
        let reason = chain(&CpuReason::Library(GpuLibraryError::Absent));
        assert!(reason.contains("for the CPU") && reason.contains("models pull --gpu"), "{reason}");
    }

    #[test]
    fn the_version_is_read_from_the_builds_description() {
        let said = "ORT Build Info: git-branch=rel-1.31.1, git-commit-id=26250ae, build type=Release, cmake cxx flags: -O2 -std=c++20";
        assert_eq!(version_in(said).as_deref(), Some("1.31.1"));
        assert_eq!(version_in("ORT Build Info: git-branch=main, git-commit-id=1.2"), None);
    }
}
