//! A text's way: prompt → hash → cache → join whoever computes it already → tokenise → queue →
//! inference → cache and reply.

mod counting;
mod settings;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use brahman_card::Fault;
use brahman_card::interface::embed::{Device, InfoOut, ModelRecipe, TextTokens, error};
use brahman_models::device;
use brahman_models::layout::{DimError, ModelPlan, Precision};
use brahman_models::passes::{PassBudget, PassQueue};
use brahman_models::runtime::{self as library, LoadedLibrary, RuntimeError};
use brahman_models::trial::TrialError;
use brahman_sidecar::chain;
use brahman_storage::digest::sha256;
use thiserror::Error;
use tokio::sync::oneshot;

use super::batch::{Class, INTERACTIVE_MAX};
use super::cache::{Cache, ContentHash, TokenCounts};
use super::model::{Model, ModelError};
use super::queue::{Inference, Item, TextQueue, Texts, VectorOutcome, bad_output, join, push};
use super::runtime::{self, OpenedSessions};
use super::store::WriteThrough;
use super::text::{Prompt, TextReader};
use crate::engine::{
    ChosenPrompt, Embedding, Engine, Identity, PromptRequest, TextOutcome, Treatment,
};
use crate::prompts::ModelPrompts;
use counting::counted;
use settings::{CACHE_MIB, MIB_MAX, STORE_MIB, variable};
pub use settings::{Settings, SettingsError};

/// Texts that are looked up on the I/O thread; more go to a thread of their own.
const INLINE_MAX: usize = 16;
/// Bytes of texts that are looked up on the I/O thread: hashing a megabyte takes less than a
/// millisecond.
const INLINE_BYTES_MAX: usize = 1 << 20;
/// Hexadecimal digits of a fingerprint that name a model's own cache folder.
const FOLDER_DIGITS: usize = 16;

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
    /// Its parts do not fit together.
    #[error("{}", folder.display())]
    Dim {
        /// The model's folder.
        folder: PathBuf,
        /// Which parts.
        #[source]
        source: DimError,
    },
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

/// A model that runs, and has been tried.
#[derive(Debug)]
pub struct OpenedModel {
    model: Model,
    runner: runtime::Runner,
    wide: Option<runtime::Runner>,
    device: Device,
    budget: PassBudget,
    library: String,
    dim: usize,
    /// What could not be tried.
    untried: Vec<String>,
}

impl OpenedModel {
    /// Loads library and model, opens sessions and tries them. Takes a second or so; blocks.
    ///
    /// # Errors
    /// [`OpenError`]: what is missing or wrong and how to mend it.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let LoadedLibrary { path, environment, shortfall } =
            library::load(&settings.cache, settings.device)?;
        let mut model = Model::load(&settings.model, &settings.overrides)?;
        let OpenedSessions { runner, wide, device, budget } = runtime::open(
            &environment,
            &model,
            settings.device,
            settings.allow_cpu,
            shortfall,
            settings.threads,
        )?;
        // The sessions have them now, and each once is enough.
        (model.onnx, model.weights) = (Vec::new(), Vec::new());
        let folder = || settings.model.clone();
        let dim = model
            .plan
            .dim(runner.hidden())
            .map_err(|source| OpenError::Dim { folder: folder(), source })?;
        let untried = runner
            .try_model(&model)
            .map_err(|source| OpenError::Trial { folder: folder(), source })?;
        let library = format!("ONNX Runtime {}, {}", library::version(), path.display());
        Ok(Self { model, runner, wide, device, budget, library, dim, untried })
    }

    /// What a person would want to know of it, a line each.
    #[must_use]
    pub fn description(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{}: vectors of {} numbers, on {}",
            self.model.plan.name, self.dim, self.device.active
        )];
        if self.device.active != "cpu" {
            let tokens = self.budget.tokens;
            lines.push(format!("passes of up to {tokens} tokens; {}", self.device.reason));
        }
        lines.extend(self.model.plan.description());
        lines.push(format!("fingerprint {}", self.model.fingerprint));
        lines.extend(self.untried.iter().cloned());
        lines
    }

    /// Of what kind the graph's numbers are.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.model.plan.precision
    }

    /// The vectors of texts, each by itself, without a prompt: for a test of the model.
    ///
    /// # Errors
    /// [`TrialError`] if it does not run.
    pub fn vectors(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, TrialError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for text in texts {
            let prepared = self.model.reader.prepared("", text);
            let failed = |source| TrialError::Run { doing: "a text".to_owned(), source };
            let ids = self
                .model
                .reader
                .ids(&prepared)
                .map_err(|error| failed(ort::Error::new(error.to_string())))?
                .ids;
            vectors.extend(
                self.runner.forward(&[runtime::Row { ids: &ids, skip: 0 }]).map_err(failed)?,
            );
        }
        Ok(vectors)
    }
}

/// The real engine: cache, queue and inference threads.
#[derive(Debug)]
pub struct Pipeline {
    identity: Identity,
    reader: Arc<TextReader>,
    prompts: ModelPrompts,
    recipe: ModelRecipe,
    device: Device,
    library: String,
    cache: Arc<Cache>,
    store: WriteThrough,
    queue: Arc<TextQueue>,
    /// On which tokens are counted.
    threads: usize,
}

impl Pipeline {
    /// Loads library and model, opens sessions and cache, tries the model. Takes a second or so;
    /// blocks.
    ///
    /// # Errors
    /// [`OpenError`]: what is missing or wrong and how to mend it.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let mib = |name: &str, default: u64| match variable(name) {
            Some(value) => {
                let number = value.parse::<u64>().ok().filter(|n| *n <= MIB_MAX);
                number
                    .map(|n| n << 20)
                    .ok_or_else(|| SettingsError::Size { name: name.to_owned(), value })
            }
            None => Ok(default << 20),
        };
        let (cache_bytes, store_bytes) = (
            mib("BRAHMAN_EMBED_CACHE_MIB", CACHE_MIB)?,
            mib("BRAHMAN_EMBED_STORE_MIB", STORE_MIB)?,
        );
        let opened = OpenedModel::open(settings)?;
        for line in opened.description() {
            tracing::info!("{line}");
        }
        let OpenedModel { model, runner, wide, device, budget, library, dim, untried: _ } = opened;
        let Model { plan, reader, fingerprint, .. } = model;
        let is_cpu = device.active == "cpu";
        let identity = Identity {
            model: plan.name.clone(),
            fingerprint,
            dim,
            device: device.active.clone(),
            mock: false,
            precision: plan.precision.name().to_owned(),
            normalized: plan.is_normalized(),
            similarity: plan.similarity.clone(),
            dimensions: plan.dimensions.iter().copied().filter(|n| *n < dim).collect(),
        };
        let key = sha256(identity.fingerprint.as_bytes());
        let folder = settings
            .vectors
            .clone()
            .unwrap_or_else(|| vectors_folder(&settings.cache, &identity.fingerprint));
        let cache = Arc::new(Cache::open(&folder, key, dim, identity.normalized, cache_bytes));
        // One thread feeds a GPU.
        let threads = if is_cpu { settings.threads } else { 1 };
        let queue: Arc<TextQueue> = PassQueue::new(Texts::new(budget, threads));
        let inference = Inference {
            runner,
            wide: wide.map(Mutex::new),
            cache: Arc::clone(&cache),
            is_normalized: identity.normalized,
        };
        queue
            .start(threads, move |queue, batch| inference.run(queue, &batch))
            .map_err(OpenError::Threads)?;
        let store = WriteThrough::open(&settings.cache.join("inputs"), store_bytes);
        let recipe = recipe(&plan, &identity);
        let prompts = ModelPrompts::new(&identity.model, plan.prompts);
        Ok(Self {
            identity,
            reader: Arc::new(reader),
            prompts,
            recipe,
            device,
            library,
            cache,
            store,
            queue,
            threads: settings.threads,
        })
    }

    /// How the vector cache stands, in `Info`'s words.
    #[must_use]
    pub fn cache_state(&self) -> String {
        self.cache.info().state
    }

    /// Stops the threads after their present batch and writes the cache out.
    pub fn close(&self) {
        self.queue.stop();
        self.cache.flush();
    }

    fn max_tokens(&self) -> u32 {
        u32::try_from(self.reader.max_tokens()).unwrap_or(u32::MAX)
    }

    fn too_long(&self, index: usize, tokens: u32, is_least: bool) -> Fault {
        let least = if is_least { "at least " } else { "" };
        let message = format!(
            "text {index} has {least}{tokens} tokens, {} takes {}: shorten it, or pass truncate = true",
            self.identity.model,
            self.max_tokens()
        );
        let (index, max_tokens) = (index as u64, self.max_tokens().into());
        Fault::of(&error::TextTooLong { index, tokens: tokens.into(), max_tokens }, false, message)
    }

    /// Looks every text up; what is not there stays to be computed.
    fn look_up(&self, texts: &[String], wish: &Treatment) -> Result<Plan, Fault> {
        let prompt = self.reader.prompt(&wish.prompt).map_err(|e| untokenisable("prompt", &e))?;
        let mut plan = Plan { found: vec![None; texts.len()], missing: Vec::new(), prompt };
        for (index, text) in texts.iter().enumerate() {
            let content = TextReader::content(
                &self.reader.prepared(&plan.prompt.text, text),
                plan.prompt.skip,
            );
            match self.cache.get(&content) {
                Some((_, Some(counts))) if !wish.truncate && counts.tokens > self.max_tokens() => {
                    plan.found[index] =
                        Some(Err(self.too_long(index, counts.tokens, counts.is_least)));
                }
                Some((vector, counts)) => {
                    let TokenCounts { tokens, unknown, is_least } = counts.unwrap_or_default();
                    let kept = tokens.min(self.max_tokens());
                    plan.found[index] = Some(Ok(Embedding {
                        vector,
                        cached: true,
                        tokens,
                        kept,
                        is_least,
                        unknown,
                    }));
                }
                None => plan.missing.push((index, content)),
            }
        }
        Ok(plan)
    }
}

/// Where a model's vectors are kept: in the folder that has always been there, if this model was
/// the first to take it, else in one of its own, because one process at a time can use a folder.
fn vectors_folder(cache: &Path, fingerprint: &str) -> PathBuf {
    let common = cache.join("embed");
    let mark = cache.join("embed.model");
    let claim = || -> io::Result<()> {
        fs::create_dir_all(cache)?;
        File::create_new(&mark)?.write_all(fingerprint.as_bytes())
    };
    let is_ours = match claim() {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // One that was left empty by a crash in between belongs to nobody.
            fs::read_to_string(&mark).is_ok_and(|model| model == fingerprint)
        }
        Err(error) => {
            tracing::warn!("{} cannot be written: {}", mark.display(), chain(&error));
            true
        }
    };
    if is_ours {
        common
    } else {
        cache.join(format!("embed-{}", &fingerprint[..FOLDER_DIGITS.min(fingerprint.len())]))
    }
}

fn recipe(plan: &ModelPlan, identity: &Identity) -> ModelRecipe {
    ModelRecipe {
        graph: plan.graph.clone(),
        output: plan.output.name.clone(),
        pooling: plan.pooling.as_ref().map(brahman_models::layout::Pooling::name),
        precision: identity.precision.clone(),
        normalized: identity.normalized,
        window_source: plan.window.source.clone(),
        prompts: plan.prompts.by_name.clone(),
        default_prompt: plan.prompts.default_name.clone(),
        similarity: plan.similarity.clone(),
        dimensions: identity.dimensions.iter().map(|n| *n as u64).collect(),
        alone: plan.alone.map(str::to_owned),
        overrides: plan.overrides.clone(),
    }
}

fn untokenisable(parameter: &str, error: &tokenizers::Error) -> Fault {
    Fault::invalid_parameter(parameter, format!("cannot be tokenised: {error}"))
}

/// What is known after the look-up.
struct Plan {
    found: Vec<Option<TextOutcome>>,
    /// Index and content.
    missing: Vec<(usize, ContentHash)>,
    prompt: Prompt,
}

impl Engine for Pipeline {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn prompt(&self, wanted: &PromptRequest) -> Result<ChosenPrompt, Fault> {
        self.prompts.choose(wanted)
    }

    async fn texts(
        self: Arc<Self>,
        texts: Vec<String>,
        wish: Treatment,
    ) -> Result<Vec<TextOutcome>, Fault> {
        let class = if texts.len() <= INTERACTIVE_MAX { Class::Interactive } else { Class::Bulk };
        let inline = texts.len() <= INLINE_MAX
            && texts.iter().map(String::len).sum::<usize>() <= INLINE_BYTES_MAX;
        let (texts, wish) = (Arc::new(texts), Arc::new(wish));
        let mut plan = if inline {
            self.look_up(&texts, &wish)?
        } else {
            let (this, texts, wish) = (Arc::clone(&self), Arc::clone(&texts), Arc::clone(&wish));
            blocking(move || this.look_up(&texts, &wish)).await?
        };
        if !plan.missing.is_empty() {
            let (this, shared, wish) = (Arc::clone(&self), Arc::clone(&texts), Arc::clone(&wish));
            let (missing, prompt) =
                (std::mem::take(&mut plan.missing), std::mem::take(&mut plan.prompt));
            let (waits, refused) =
                blocking(move || Ok(this.submit(&shared, &missing, &prompt, class, &wish))).await?;
            for (index, fault) in refused {
                plan.found[index] = Some(Err(fault));
            }
            // All of them, whatever became of one: the others are then in the cache for whoever
            // asks again.
            for wait in waits {
                let outcome = wait
                    .receiver
                    .await
                    .map_err(|_| Fault::internal("the inference threads have stopped"))?;
                for index in wait.indexes {
                    plan.found[index] = Some(match &outcome {
                        Ok(vector) => Ok(Embedding {
                            vector: Arc::clone(vector),
                            cached: false,
                            tokens: wait.tokens,
                            kept: wait.kept,
                            is_least: wait.is_least,
                            unknown: wait.unknown,
                        }),
                        Err(fault) => Err(placed(fault, index)),
                    });
                }
            }
        }
        plan.found
            .into_iter()
            .collect::<Option<Vec<TextOutcome>>>()
            .ok_or_else(|| Fault::internal("a text was lost on the way"))
    }

    async fn file(self: Arc<Self>, _path: &Path, seen: Vec<u8>, wish: Treatment) -> TextOutcome {
        // A character cut in two at 8 KiB, or bytes that are no text, must not stop the rest.
        let text = String::from_utf8_lossy(&seen).into_owned();
        let mut done = self.texts(vec![text], wish).await?;
        done.pop().ok_or_else(|| Fault::internal("a file gave no vector"))?
    }

    async fn tokenize(
        self: Arc<Self>,
        texts: Vec<String>,
        prompt: Arc<str>,
        offsets: bool,
    ) -> Result<Vec<TextTokens>, Fault> {
        counted(&self.reader, texts, &prompt, offsets, self.threads).await
    }

    fn warnings(&self) -> Option<Vec<String>> {
        let mut all = Vec::new();
        if let Some(why) = self.cache.absent() {
            all.push(format!("no cache: {why}"));
        }
        all.extend(device::shortfall(&self.device));
        Some(all).filter(|all| !all.is_empty())
    }

    fn info(&self) -> InfoOut {
        InfoOut {
            model: self.identity.model.clone(),
            fingerprint: self.identity.fingerprint.clone(),
            dim: self.identity.dim as u64,
            max_tokens: self.max_tokens().into(),
            mock: false,
            device: self.device.clone(),
            cache: Some(self.cache.info()),
            store: Some(self.store.info()),
            gpu: device::gpus().filter(|g| !g.is_empty()),
            runtime: Some(self.library.clone()),
            queue: self.queue.waiting() as u64,
            computed: self.queue.computed(),
            cancelled: self.queue.cancelled(),
            recipe: Some(self.recipe.clone()),
            server: None,
        }
    }
}

/// A fault with the place of its text in the call.
fn placed(fault: &Fault, index: usize) -> Fault {
    let message = format!("text {index}: {}", fault.message());
    fault.clone().with("index", index as u64).with("message", message)
}

/// One computation that this call waits for, and the texts it is for.
struct Wait {
    receiver: oneshot::Receiver<VectorOutcome>,
    indexes: Vec<usize>,
    tokens: u32,
    kept: u32,
    is_least: bool,
    unknown: u32,
}

impl Pipeline {
    /// Tokenises what is missing and queues what nobody computes yet. Gives what is waited for, and
    /// the texts that are refused.
    fn submit(
        &self,
        texts: &[String],
        missing: &[(usize, ContentHash)],
        prompt: &Prompt,
        class: Class,
        wish: &Treatment,
    ) -> (Vec<Wait>, Vec<(usize, Fault)>) {
        let (mut waits, mut refused): (Vec<Wait>, Vec<(usize, Fault)>) = (Vec::new(), Vec::new());
        let mut place: HashMap<ContentHash, usize> = HashMap::new();
        let (mut fresh, mut fresh_at) = (Vec::new(), Vec::new());
        for (index, content) in missing {
            if let Some(at) = place.get(content) {
                waits[*at].indexes.push(*index);
                continue;
            }
            let prepared = self.reader.prepared(&prompt.text, &texts[*index]);
            let text = match self.reader.ids(&prepared) {
                Ok(text) => text,
                Err(error) => {
                    refused.push((*index, untokenisable(&format!("texts[{index}]"), &error)));
                    continue;
                }
            };
            let kept = u32::try_from(text.ids.len()).unwrap_or(u32::MAX);
            if kept < text.tokens && !wish.truncate {
                refused.push((*index, self.too_long(*index, text.tokens, text.is_least)));
                continue;
            }
            if text.ids.is_empty() {
                refused.push((
                    *index,
                    placed(
                        &bad_output(
                            "it has no token for this model's tokenizer, so there is no vector",
                        ),
                        *index,
                    ),
                ));
                continue;
            }
            place.insert(*content, waits.len());
            let receiver = match join(&self.queue, content) {
                Some(receiver) => receiver,
                None => {
                    self.store.keep(texts[*index].as_bytes());
                    let counts = TokenCounts {
                        tokens: text.tokens,
                        unknown: text.unknown,
                        is_least: text.is_least,
                    };
                    let counts = (kept < text.tokens || text.unknown > 0).then_some(counts);
                    fresh.push(Item {
                        content: *content,
                        ids: text.ids,
                        skip: prompt.skip,
                        counts,
                    });
                    fresh_at.push(waits.len());
                    // Replaced below, once all are queued under one lock.
                    oneshot::channel().1
                }
            };
            let (tokens, is_least, unknown) = (text.tokens, text.is_least, text.unknown);
            waits.push(Wait { receiver, indexes: vec![*index], tokens, kept, is_least, unknown });
        }
        for (at, receiver) in
            fresh_at.into_iter().zip(push(&self.queue, class, wish.deadline, fresh))
        {
            waits[at].receiver = receiver;
        }
        (waits, refused)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    brahman_sidecar::blocking(work)
        .await
        .map_err(|e| Fault::internal(format!("a worker stopped: {e}")))?
}
