//! A causal language model in ONNX Runtime, with its key/value cache.
//!
//! [`folder`] reads a model's directory and finds out what its inputs and outputs are; [`reader`]
//! reads tokens piece by piece inside a budget of memory. The cache is not copied where sequences
//! part: a branch's first step reads the common beginning's tensors and makes its own.

pub mod folder;
pub mod reader;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use brahman_card::interface::embed::Device;
use brahman_card::interface::score::InfoOut;
use brahman_models::device::{self, DeviceChoice, DeviceError};
use brahman_models::runtime::{self, LoadedLibrary, RuntimeError};
use ort::environment::Environment;
use ort::ep;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use thiserror::Error;

use crate::chat::Templates;
use crate::engine::{
    Engine, EngineError, Identity, NumberError, Scores, Sequence, Stop, Work, number, var,
};
use crate::walk::walk;
use folder::{Folder, FolderError, Wiring, WiringError};
use reader::{Plan, Reader};

/// Memory beyond the weights, unless said.
const BUDGET_MIB: u64 = 1024;

/// Why the environment names no model that can be run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// It names none.
    #[error(
        "BRAHMAN_SCORE_MODEL is not set: it names the folder of a causal language model with model.onnx, tokenizer.json and config.json \
         (`brahman models check DIR` says if one will do), or BRAHMAN_SCORE_SERVER a server"
    )]
    NoModel,
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A number.
    #[error(transparent)]
    Number(#[from] NumberError),
}

/// Why a model is not run.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Nobody says which, or how.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Its files.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The library that would run it.
    #[error(transparent)]
    Library(#[from] RuntimeError),
    /// The library does not take it.
    #[error("{}", .onnx.display())]
    Session {
        /// The graph.
        onnx: PathBuf,
        /// Cause.
        #[source]
        source: RuntimeError,
    },
    /// It is another kind of model.
    #[error("{}", .onnx.display())]
    Wiring {
        /// The graph.
        onnx: PathBuf,
        /// What is missing, or unknown.
        #[source]
        source: WiringError,
    },
    /// It does not work.
    #[error("{}: two tokens were read to try it", .onnx.display())]
    Trial {
        /// The graph.
        onnx: PathBuf,
        /// What came of that.
        #[source]
        source: EngineError,
    },
}

/// How a model is to be run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the model.
    pub model: PathBuf,
    /// Where a fetched library lies.
    pub cache: PathBuf,
    /// Which device it is to run on.
    pub device: DeviceChoice,
    /// Whether the CPU will do where a GPU was asked for.
    pub allow_cpu: bool,
    /// Threads of one pass.
    pub threads: usize,
    /// Memory beyond the weights.
    pub budget_bytes: u64,
    /// Tokens a conversation may have, if not as the model says.
    pub window: Option<usize>,
}

impl Settings {
    /// From the environment.
    ///
    /// # Errors
    /// [`SettingsError`], which names the variable.
    pub fn from_env(cache: &Path) -> Result<Self, SettingsError> {
        Self::with(
            cache,
            var("BRAHMAN_SCORE_MODEL").map(PathBuf::from).ok_or(SettingsError::NoModel)?,
        )
    }

    /// For this model, otherwise from the environment.
    ///
    /// # Errors
    /// [`SettingsError`], which names the variable.
    pub fn with(cache: &Path, model: PathBuf) -> Result<Self, SettingsError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let small = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let (device, allow_cpu) = device::wanted()?;
        Ok(Self {
            model,
            cache: cache.to_owned(),
            device,
            allow_cpu,
            threads: number("BRAHMAN_SCORE_THREADS")?.map_or(cores, small),
            budget_bytes: number("BRAHMAN_SCORE_BUDGET_MIB")?
                .unwrap_or(BUDGET_MIB)
                .saturating_mul(1 << 20),
            window: number("BRAHMAN_SCORE_WINDOW")?.map(small),
        })
    }
}

/// An engine over a model of ONNX Runtime.
#[derive(Debug)]
pub struct Model {
    identity: Identity,
    folder: Folder,
    wiring: Wiring,
    session: Mutex<Session>,
    device: Device,
    library: PathBuf,
    budget_bytes: u64,
    /// Bytes of all states that are alive, whichever call they are of.
    alive: Arc<AtomicU64>,
}

fn open_session(
    environment: &Environment,
    model: &Path,
    threads: usize,
    cuda: Option<u32>,
) -> ort::Result<Session> {
    let mut builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_intra_op_spinning(false)?
        // Pieces differ in size: what was laid out for one is of no use to the next.
        .with_memory_pattern(false)?;
    builder = match cuda {
        Some(index) => builder.with_execution_providers([ep::CUDA::default()
            .with_device_id(index.cast_signed())
            .build()
            .error_on_failure()])?,
        // An arena never gives back what one long conversation took.
        None => builder
            .with_execution_providers([ep::CPU::default().with_arena_allocator(false).build()])?,
    };
    builder.commit_from_file(model)
}

impl Model {
    /// Loads library and model, and reads two tokens to see that it works. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]: what is missing and how to mend it.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let folder = Folder::read(&settings.model)?;
        let LoadedLibrary { path: library, environment, shortfall } =
            runtime::load(&settings.cache, settings.device)?;
        let open = |cuda| open_session(&environment, &folder.onnx, settings.threads, cuda);
        let (session, device) =
            runtime::place(settings.device, settings.allow_cpu, shortfall, open)
                .map_err(|source| OpenError::Session { onnx: folder.onnx.clone(), source })?;
        let wiring = Wiring::find(&session)
            .map_err(|source| OpenError::Wiring { onnx: folder.onnx.clone(), source })?;
        folder.fits(&wiring)?;
        let identity = Identity {
            model: folder.name.clone(),
            fingerprint: folder.fingerprint.clone(),
            vocabulary: wiring.vocabulary,
            window: settings
                .window
                .map_or(folder.tokens.window, |window| window.min(folder.tokens.window)),
            first: folder.tokens.first.clone(),
            device: device.active.clone(),
            mock: false,
        };
        let model = Self {
            identity,
            folder,
            wiring,
            session: Mutex::new(session),
            device,
            library,
            budget_bytes: settings.budget_bytes,
            alive: Arc::default(),
        };
        let token = model.identity.first.first().copied().unwrap_or(0);
        let two = Sequence {
            tokens: vec![token; 2],
            wanted: std::iter::once(1..2).collect(),
            responses: Vec::new(),
        };
        let mut outcome = Ok(Vec::new());
        let read = model.score(&[two], &Stop::default(), &mut |_, scores| outcome = scores);
        match read.and(outcome) {
            Ok(_) => Ok(model),
            Err(source) => Err(OpenError::Trial { onnx: model.folder.onnx.clone(), source }),
        }
    }

    /// Inputs, outputs and sizes, for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let w = &self.wiring;
        format!(
            "{}: {} tokens, window {}, {} cached tensors of {} bytes a token in all, first token {}, chat template {}, on {} ({})",
            self.identity.model,
            w.vocabulary,
            self.identity.window,
            w.past.len(),
            w.bytes_per_token(),
            self.identity
                .first
                .iter()
                .map(u32::to_string)
                .reduce(|all, one| format!("{all} {one}"))
                .unwrap_or_else(|| "none".to_owned()),
            self.folder
                .tokens
                .templates
                .names()
                .into_iter()
                .reduce(|all, one| format!("{all}, {one}"))
                .unwrap_or_else(|| "none".to_owned()),
            self.device.active,
            self.device.reason
        )
    }
}

impl Engine for Model {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.folder.tokens.encode(text)
    }

    fn encode_placed(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError> {
        self.folder.tokens.encode_placed(text)
    }

    fn templates(&self) -> Option<&Templates> {
        Some(&self.folder.tokens.templates)
    }

    fn decode(&self, tokens: &[u32]) -> String {
        self.folder.tokens.decode(tokens)
    }

    fn score(
        &self,
        sequences: &[Sequence],
        stop: &Stop,
        done: &mut dyn FnMut(usize, Scores),
    ) -> Result<Work, EngineError> {
        let plan = Plan {
            budget_bytes: self.budget_bytes,
            heads: self.folder.tokens.heads,
            hidden: self.folder.tokens.hidden,
        };
        let mut reader = Reader::new(&self.session, &self.wiring, plan, &self.alive);
        // What does not fit is said before the first pass, and does not keep the others from being
        // scored.
        let mut fitting = Vec::with_capacity(sequences.len());
        for (i, sequence) in sequences.iter().enumerate() {
            match reader.fits(sequence.tokens.len()) {
                Ok(()) => fitting.push(i),
                Err(error) => done(i, Err(error)),
            }
        }
        if fitting.len() == sequences.len() {
            return walk(&mut reader, sequences, stop, done);
        }
        let rest: Vec<Sequence> = fitting.iter().map(|i| sequences[*i].clone()).collect();
        walk(&mut reader, &rest, stop, &mut |i, scores| done(fitting[i], scores))
    }

    fn info(&self) -> InfoOut {
        InfoOut {
            model: self.identity.model.clone(),
            fingerprint: self.identity.fingerprint.clone(),
            vocabulary: self.identity.vocabulary.into(),
            window: self.identity.window as u64,
            mock: false,
            device: self.device.clone(),
            runtime: Some(format!("ONNX Runtime at {}", self.library.display())),
            budget_bytes: Some(self.budget_bytes),
            queue: 0,
            kept: None,
            dialect: None,
        }
    }
}
