//! What an engine is told by its environment, and what of that is refused.

use std::path::{Path, PathBuf};

use brahman_models::catalogue;
use brahman_models::device::{self, DeviceChoice, DeviceError};
use brahman_models::layout::Overrides;
use brahman_models::passes::{ThreadsError, threads_wanted};
use thiserror::Error;

/// Vectors kept, unless `BRAHMAN_EMBED_CACHE_MIB` says otherwise.
pub(super) const CACHE_MIB: u64 = 1024;
/// Inputs kept, unless `BRAHMAN_EMBED_STORE_MIB` says otherwise.
pub(super) const STORE_MIB: u64 = 256;

/// Largest size that a variable may ask for: a petabyte, so that bytes do not overflow.
pub(super) const MIB_MAX: u64 = 1 << 30;

/// How the engine is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the model's files.
    pub model: PathBuf,
    /// What is said of the model in place of its files.
    pub overrides: Overrides,
    /// Where caches and the library lie.
    pub cache: PathBuf,
    /// Folder of the vector cache, if it is not the one that a model finds for itself.
    pub vectors: Option<PathBuf>,
    /// Device that was asked for.
    pub device: DeviceChoice,
    /// Whether the CPU will do where a GPU was asked for.
    pub allow_cpu: bool,
    /// Threads that one inference uses.
    pub threads: usize,
}

/// A variable of the environment that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// Threads.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// A size.
    #[error("{name}={value}: expected a whole number of MiB up to {MIB_MAX}")]
    Size {
        /// The variable.
        name: String,
        /// What it says.
        value: String,
    },
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Settings {
    /// From the environment.
    ///
    /// # Errors
    /// [`SettingsError`], which names the variable.
    pub fn from_env(cache: &Path) -> Result<Self, SettingsError> {
        let threads = threads_wanted("BRAHMAN_EMBED_THREADS")?;
        let (device, allow_cpu) = device::wanted()?;
        Ok(Self {
            model: variable("BRAHMAN_MODEL_DIR")
                .map_or_else(|| catalogue::folder(cache, catalogue::NAME), PathBuf::from),
            overrides: Overrides {
                pooling: variable("BRAHMAN_EMBED_POOLING"),
                graph: variable("BRAHMAN_EMBED_GRAPH"),
            },
            cache: cache.to_owned(),
            vectors: variable("BRAHMAN_EMBED_CACHE_DIR").map(PathBuf::from),
            device,
            allow_cpu,
            threads,
        })
    }
}
