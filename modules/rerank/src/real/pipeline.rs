//! A call's way: query and texts to tokens → passes → inference → scores.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::embed::Device;
use brahman_card::interface::rerank::{InfoOut, RerankRecipe, error};
use brahman_models::device::{self, DeviceChoice, DeviceError};
use brahman_models::layout::{PairPlan, Precision};
use brahman_models::passes::{PassBudget, PassQueue, ThreadsError, threads_wanted};
use brahman_models::runtime::{self as library, LoadedLibrary, RuntimeError};
use brahman_models::trial::TrialError;
use thiserror::Error;

use super::batch::{BatchLimits, batches};
use super::model::{Model, ModelError};
use super::queue::{CallQueue, Calls, push, run};
use super::reader::{PairError, PairReader, PairTokens};
use super::runner::{self, Runner, row, score};
use crate::engine::{Engine, Identity, PairOutcome, PairScore};

/// Fewest tokens to which a small call's passes are cut so that every thread has one: below that
/// the matrices get too narrow.
const BUDGET_LEAST: usize = 128;

/// How the engine is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the model's files.
    pub model: PathBuf,
    /// The ONNX file, in place of what the folder says.
    pub graph: Option<String>,
    /// Where the library lies.
    pub cache: PathBuf,
    /// Device that was asked for.
    pub device: DeviceChoice,
    /// Whether the CPU will do where a GPU was asked for.
    pub allow_cpu: bool,
    /// Threads that inference uses.
    pub threads: usize,
}

/// A variable of the environment that makes no sense, or is missing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// No folder.
    #[error(
        "no model: `brahman models add DIR` adds a cross-encoder, or BRAHMAN_RERANK_MODEL in the Card names its folder"
    )]
    NoModel,
    /// Threads.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Why a model does not run.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Nobody says how.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Its files.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The library that runs it.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// It does not do what its files promise.
    #[error("{}", folder.display())]
    Trial {
        /// The model's folder.
        folder: PathBuf,
        /// What it does not do.
        #[source]
        source: TrialError,
    },
    /// The threads that it runs on.
    #[error("no inference threads")]
    Threads(#[source] io::Error),
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Settings {
    /// From the environment; `folder` in place of the model that it names.
    ///
    /// # Errors
    /// [`SettingsError`], which names the variable.
    pub fn from_env(cache: &Path, folder: Option<PathBuf>) -> Result<Self, SettingsError> {
        let threads = threads_wanted("BRAHMAN_RERANK_THREADS")?;
        let (device, allow_cpu) = device::wanted()?;
        let model = folder
            .or_else(|| variable("BRAHMAN_RERANK_MODEL").map(PathBuf::from))
            .ok_or(SettingsError::NoModel)?;
        Ok(Self {
            model,
            graph: variable("BRAHMAN_RERANK_GRAPH"),
            cache: cache.to_owned(),
            device,
            allow_cpu,
            threads,
        })
    }
}

/// A model that runs, and has been tried.
#[derive(Debug)]
pub struct OpenedModel {
    model: Model,
    runner: Runner,
    device: Device,
    budget: PassBudget,
    library: String,
    /// What could not be tried.
    untried: Vec<String>,
}

impl OpenedModel {
    /// Loads library and model, opens a session and tries it. Takes a second or so; blocks.
    ///
    /// # Errors
    /// [`OpenError`]: what is missing or wrong and how to mend it.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let LoadedLibrary { path, environment, shortfall } =
            library::load(&settings.cache, settings.device)?;
        let mut model = Model::load(&settings.model, settings.graph.as_ref())?;
        let (runner, device, budget) =
            runner::open(&environment, &model, settings.device, settings.allow_cpu, shortfall)?;
        // The session has them now, and once is enough.
        (model.onnx, model.weights) = (Vec::new(), Vec::new());
        let untried = runner
            .try_model(&model)
            .map_err(|source| OpenError::Trial { folder: settings.model.clone(), source })?;
        let library = format!("ONNX Runtime {}, {}", library::version(), path.display());
        Ok(Self { model, runner, device, budget, library, untried })
    }

    /// What a person would want to know of it, a line each.
    #[must_use]
    pub fn description(&self) -> Vec<String> {
        let plan = &self.model.plan;
        let labels = match self.runner.labels() {
            1 => "a number a pair",
            _ => "two numbers a pair, of which the second less the first counts",
        };
        let mut lines =
            vec![format!("{}: a cross-encoder, {labels}, on {}", plan.name, self.device.active)];
        if self.device.active != "cpu" {
            let tokens = self.budget.tokens;
            lines.push(format!("passes of up to {tokens} tokens; {}", self.device.reason));
        }
        lines.extend(plan.description());
        lines.push(format!("fingerprint {}", self.model.fingerprint));
        lines.extend(self.untried.iter().cloned());
        lines
    }

    /// Of what kind the graph's numbers are.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.model.plan.precision
    }

    /// The score of a text, by itself: for a test of the model.
    ///
    /// # Errors
    /// [`TrialError`] if it does not run.
    pub fn score(&self, query: &str, text: &str) -> Result<f32, TrialError> {
        let failed = |source| TrialError::Run { doing: "a text".to_owned(), source };
        let tokens = || -> Result<PairTokens, PairError> {
            self.model.reader.pair(&self.model.reader.query(query)?, text)
        };
        let pair = tokens().map_err(|error| failed(ort::Error::new(error.to_string())))?;
        let relevance = self
            .runner
            .relevances(&[row(&pair)])
            .map_err(failed)?
            .first()
            .copied()
            .unwrap_or(f64::NAN);
        Ok(score(relevance, self.model.plan.is_sigmoid))
    }
}

/// The real engine: tokenizer, queue and inference threads.
#[derive(Debug)]
pub struct Pipeline {
    identity: Identity,
    reader: Arc<PairReader>,
    recipe: RerankRecipe,
    device: Device,
    library: String,
    limits: BatchLimits,
    threads: usize,
    queue: Arc<CallQueue>,
}

impl Pipeline {
    /// Loads library and model, opens a session, tries the model. Takes a second or so; blocks.
    ///
    /// # Errors
    /// [`OpenError`]: what is missing or wrong and how to mend it.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let opened = OpenedModel::open(settings)?;
        for line in opened.description() {
            tracing::info!("{line}");
        }
        let OpenedModel { model, runner, device, budget, library, untried: _ } = opened;
        let Model { plan, reader, fingerprint, .. } = model;
        let is_cpu = device.active == "cpu";
        let identity = Identity {
            model: plan.name.clone(),
            fingerprint,
            device: device.active.clone(),
            mock: false,
            sigmoid: plan.is_sigmoid,
            precision: Some(plan.precision.name().to_owned()),
        };
        let limits =
            BatchLimits { budget, rows: if plan.alone.is_some() { 1 } else { usize::MAX } };
        // One thread feeds a GPU.
        let threads = if is_cpu { settings.threads } else { 1 };
        let recipe = recipe(&plan, runner.labels());
        let queue: Arc<CallQueue> = PassQueue::new(Calls::default());
        queue
            .start(threads, move |queue, work| run(queue, &runner, &work))
            .map_err(OpenError::Threads)?;
        Ok(Self {
            identity,
            reader: Arc::new(reader),
            recipe,
            device,
            library,
            limits,
            threads,
            queue,
        })
    }

    /// Stops the threads after their present pass.
    pub fn close(&self) {
        self.queue.stop();
    }

    fn too_long(&self, index: usize, tokens: u32, is_least: bool, mend: &str) -> Fault {
        let least = if is_least { "at least " } else { "" };
        let max_tokens = self.reader.max_tokens();
        let message = format!(
            "the query and text {index} have {least}{tokens} tokens together, {} takes {max_tokens}: {mend}",
            self.identity.model
        );
        Fault::of(
            &error::PairTooLong {
                index: index as u64,
                tokens: tokens.into(),
                max_tokens: max_tokens as u64,
            },
            false,
            message,
        )
    }

    /// Makes tokens of all texts; one that is refused loses no other. Blocks.
    fn prepare(
        &self,
        query: &str,
        texts: &[String],
        truncate: bool,
    ) -> Result<PreparedCall, Fault> {
        let query = self.reader.query(query).map_err(|error| untokenisable("query", &error))?;
        let mut call = PreparedCall {
            pairs: Vec::with_capacity(texts.len()),
            places: Vec::with_capacity(texts.len()),
            refused: Vec::new(),
        };
        for (index, text) in texts.iter().enumerate() {
            match self.reader.pair(&query, text) {
                Ok(pair) if pair.kept() < pair.tokens && !truncate => {
                    let mend = "shorten them, or leave `truncate` as it is";
                    call.refused
                        .push((index, self.too_long(index, pair.tokens, pair.is_least, mend)));
                }
                Ok(pair) => {
                    call.pairs.push(pair);
                    call.places.push(index);
                }
                Err(PairError::NoRoom { tokens }) => {
                    let mend = "the query leaves no room for a text, which alone is cut: shorten the query";
                    call.refused.push((index, self.too_long(index, tokens, false, mend)));
                }
                Err(PairError::Tokenizer(error)) => {
                    call.refused.push((index, untokenisable(&format!("texts[{index}]"), &error)));
                }
            }
        }
        Ok(call)
    }

    fn scored(&self, pair: &PairTokens, relevance: f64) -> PairScore {
        PairScore {
            relevance,
            score: score(relevance, self.identity.sigmoid),
            tokens: pair.tokens,
            kept: pair.kept(),
            cuts_query: pair.cuts_query,
            is_least: pair.is_least,
        }
    }
}

/// A call whose texts are tokens.
struct PreparedCall {
    pairs: Vec<PairTokens>,
    /// Of each pair, the place of its text in the call.
    places: Vec<usize>,
    refused: Vec<(usize, Fault)>,
}

fn recipe(plan: &PairPlan, labels: usize) -> RerankRecipe {
    RerankRecipe {
        graph: plan.graph.clone(),
        output: plan.feed.output.clone(),
        labels: labels as u64,
        activation: format!("{} by {}", plan.activation(), plan.activation_source),
        truncation: plan.cut.name().to_owned(),
        window_source: plan.window.source.clone(),
        alone: plan.alone.map(str::to_owned),
        overrides: plan.overrides.clone(),
    }
}

fn untokenisable(parameter: &str, error: &tokenizers::Error) -> Fault {
    Fault::invalid_parameter(parameter, format!("cannot be tokenised: {error}"))
}

/// A fault with the place of its text in the call.
fn placed(fault: Fault, index: usize) -> Fault {
    let message = format!("text {index}: {}", fault.message());
    fault.with("index", index as u64).with("message", message)
}

impl Engine for Pipeline {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn scores(
        self: Arc<Self>,
        query: String,
        texts: Vec<String>,
        truncate: bool,
    ) -> Result<Vec<PairOutcome>, Fault> {
        let mut outcomes: Vec<Option<PairOutcome>> = vec![None; texts.len()];
        let this = Arc::clone(&self);
        let prepared =
            tokio::task::spawn_blocking(move || this.prepare(&query, &texts, truncate)).await;
        let PreparedCall { pairs, places, refused } =
            prepared.map_err(|e| Fault::internal(format!("a worker stopped: {e}")))??;
        for (index, fault) in refused {
            outcomes[index] = Some(Err(fault));
        }
        let lengths: Vec<usize> = pairs.iter().map(|pair| pair.ids.len()).collect();
        let limits = self.limits.shared_by(self.threads, lengths.iter().sum(), BUDGET_LEAST);
        let pairs = Arc::new(pairs);
        let mut answers = push(&self.queue, &pairs, batches(&lengths, limits))?;
        while let Some(pass) = answers.recv().await {
            for (at, outcome) in pass {
                let index = places[at];
                outcomes[index] = Some(match outcome {
                    Ok(relevance) => Ok(self.scored(&pairs[at], relevance)),
                    Err(fault) => Err(placed(fault, index)),
                });
            }
        }
        outcomes
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Fault::internal("the inference threads have stopped"))
    }

    fn warnings(&self) -> Option<Vec<String>> {
        device::shortfall(&self.device).map(|why| vec![why])
    }

    fn info(&self) -> InfoOut {
        InfoOut {
            model: self.identity.model.clone(),
            fingerprint: self.identity.fingerprint.clone(),
            max_tokens: self.reader.max_tokens() as u64,
            mock: false,
            device: self.device.clone(),
            sigmoid: self.identity.sigmoid,
            precision: self.identity.precision.clone(),
            gpu: device::gpus().filter(|gpus| !gpus.is_empty()),
            runtime: Some(self.library.clone()),
            queue: self.queue.waiting() as u64,
            computed: self.queue.computed(),
            cancelled: self.queue.cancelled(),
            recipe: Some(self.recipe.clone()),
        }
    }
}
