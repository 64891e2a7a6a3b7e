//! `brahman models pull`: the library and the default model brought into the cache, each file whole
//! or not at all.
//!
//! What the environment names (`ORT_DYLIB_PATH`, `BRAHMAN_MODEL_DIR`) is taken as it is and never
//! written to. The library for GPUs is `gpu`.

mod gpu;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use brahman_storage::atomic;
use brahman_storage::digest::{hex, sha256};
use thiserror::Error;

use crate::catalogue::{self, DIM, FILES, MAX_TOKENS, NAME, ONNX_SHA256, ORT_WHEELS, WEIGHTS};
use crate::convert::{self, ConvertError};
use crate::fetch::{self, FetchError, Listener, Progress};
use crate::manifest::{self, Manifest};
use crate::wheel::WheelError;

pub use self::gpu::{GpuPull, gpu_library};

/// Why there is no library, or no model.
#[derive(Debug, Error)]
pub enum PullError {
    /// The environment names a library that is none.
    #[error("ORT_DYLIB_PATH names {}, which is not a file; unset it to have the library fetched", .path.display())]
    NamedLibrary {
        /// What it names.
        path: PathBuf,
    },
    /// No library is known for this machine.
    #[error("no pinned ONNX Runtime for {arch}: set ORT_DYLIB_PATH to one ≥ 1.24")]
    NoLibrary {
        /// The machine's processor.
        arch: &'static str,
    },
    /// The environment names a model that is none.
    #[error("BRAHMAN_MODEL_DIR names {}, which has no {file}; unset it to have {NAME} fetched", .folder.display())]
    NamedModel {
        /// What it names.
        folder: PathBuf,
        /// What that lacks.
        file: &'static str,
    },
    /// A file was not fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A large file was not fetched.
    #[error(transparent)]
    Wheel(#[from] WheelError),
    /// A Python that does not say where its packages are.
    #[error("{} does not say where its packages are: {said}; expected a Python, as `--python` names it", .program.display())]
    Python {
        /// What was asked.
        program: PathBuf,
        /// What it said last.
        said: String,
    },
    /// A Python that does not start.
    #[error("{} cannot be started; expected a Python, as `--python` names it", .program.display())]
    NoPython {
        /// What was asked.
        program: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The weights were not among the files.
    #[error("the weights were not fetched")]
    NoWeights,
    /// The weights are of no use.
    #[error("{WEIGHTS}")]
    Convert(#[from] ConvertError),
    /// The same weights have given another graph.
    #[error(
        "the conversion gave a model with sha256 {found}, expected {ONNX_SHA256}: please report this as a defect"
    )]
    OtherGraph {
        /// What it is.
        found: String,
    },
    /// The manifest is no JSON, which cannot be.
    #[error("the manifest")]
    Manifest(#[from] serde_json::Error),
    /// A file was not written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where the library is, fetched if need be, or again if `force`.
///
/// # Errors
/// [`PullError`].
pub fn library(cache: &Path, force: bool, tell: &mut Listener<'_>) -> Result<PathBuf, PullError> {
    if let Some(path) = named("ORT_DYLIB_PATH") {
        return if path.is_file() { Ok(path) } else { Err(PullError::NamedLibrary { path }) };
    }
    let target = catalogue::library(cache);
    let arch = env::consts::ARCH;
    let wheel = ORT_WHEELS.iter().find(|w| w.arch == arch).ok_or(PullError::NoLibrary { arch })?;
    // The mark beside it says which wheel it came from, so that a new pin replaces it.
    let mark = target.with_extension("so.from");
    if !force && target.is_file() && fs::read_to_string(&mark).is_ok_and(|m| m == wheel.sha256) {
        return Ok(target);
    }
    let archive = fetch::wheel(wheel, tell)?;
    let bytes = archive.member("libonnxruntime.so", |name| {
        name.starts_with("onnxruntime/capi/libonnxruntime.so.")
    })?;
    place(&target, &bytes)?;
    place(&mark, wheel.sha256.as_bytes())?;
    Ok(target)
}

/// Where the default model is, fetched and converted if need be, or again if `force`.
///
/// # Errors
/// [`PullError`].
pub fn model(cache: &Path, force: bool, tell: &mut Listener<'_>) -> Result<PathBuf, PullError> {
    if let Some(folder) = named("BRAHMAN_MODEL_DIR") {
        return match ["model.onnx", "tokenizer.json"]
            .into_iter()
            .find(|file| !folder.join(file).is_file())
        {
            Some(file) => Err(PullError::NamedModel { folder, file }),
            None => Ok(folder),
        };
    }
    let target = catalogue::folder(cache, NAME);
    if !force && is_complete(&target) {
        return Ok(target);
    }
    let files = fetch::model_files(&FILES, tell)?;
    tell(Progress::Begin { what: "converting to ONNX", bytes: None });
    let made = make(&target, &files);
    tell(Progress::End);
    made.map(|()| target)
}

/// Converts the weights and writes all that belongs to the model.
fn make(target: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<(), PullError> {
    let onnx = convert::bert(files.get(WEIGHTS).ok_or(PullError::NoWeights)?)?;
    let found = hex(&sha256(&onnx));
    if found != ONNX_SHA256 {
        return Err(PullError::OtherGraph { found });
    }
    let mut pins = BTreeMap::from([("model.onnx".to_owned(), found)]);
    place(&target.join("model.onnx"), &onnx)?;
    for (name, bytes) in files.iter().filter(|(name, _)| *name != WEIGHTS) {
        place(&target.join(name), bytes)?;
        pins.insert(name.clone(), hex(&sha256(bytes)));
    }
    let source = format!("safetensors sha256 {}", FILES[0].1);
    let manifest = Manifest {
        name: NAME.to_owned(),
        dim: DIM,
        max_tokens: MAX_TOKENS,
        sha256: pins,
        source,
        ..Manifest::default()
    };
    // Last: a folder without it is not taken for a model.
    place(&target.join(manifest::FILE), serde_json::to_string_pretty(&manifest)?.as_bytes())
}

/// Whether a folder has a manifest and every file that it pins, unchanged.
fn is_complete(folder: &Path) -> bool {
    let manifest =
        fs::read(folder.join(manifest::FILE)).ok().and_then(|bytes| Manifest::parse(&bytes).ok());
    manifest.is_some_and(|manifest| manifest.holds(folder))
}

/// Writes a file whole or not at all, in a folder that is made if need be.
fn place(path: &Path, bytes: &[u8]) -> Result<(), PullError> {
    let written =
        path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| atomic::write(path, bytes));
    written.map_err(|source| PullError::Write { path: path.to_owned(), source })
}
