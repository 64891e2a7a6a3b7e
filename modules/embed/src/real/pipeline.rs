//! A text's way: hash → cache → join whoever computes it already → tokenise → queue → inference → cache and reply.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use brahman_card::Fault;
use brahman_card::interface::embed::{Device, InfoOut, error};
use brahman_models::catalogue;
use brahman_models::device::{self, DeviceChoice, DeviceError};
use brahman_models::runtime::RuntimeError;
use brahman_storage::digest::sha256;
use thiserror::Error;
use tokenizers::Tokenizer;
use tokio::sync::oneshot;

use super::batch::{Class, INTERACTIVE_MAX};
use super::cache::{Cache, ContentHash};
use super::model::{Model, ModelError};
use super::runtime;
use super::store::WriteThrough;
use super::workers::{Queue, VectorOutcome, start};
use crate::engine::{Embedding, Engine, Identity, Treatment};

/// Tokens a batch on the CPU, padding counted. The widest activations of 512 tokens are 3 MB and stay in the caches:
/// measured 8 to 13 % more tokens a second than 4,096, and less padding; below 256 the matrices get too narrow.
const BUDGET_CPU: usize = 512;
/// The same on a GPU, which wants wide batches.
const BUDGET_GPU: usize = 65_536;
/// Texts that are looked up on the I/O thread; more go to a thread of their own.
const INLINE_MAX: usize = 16;
/// Vectors kept, unless `BRAHMAN_EMBED_CACHE_MIB` says otherwise.
const CACHE_MIB: u64 = 1024;
/// Inputs kept, unless `BRAHMAN_EMBED_STORE_MIB` says otherwise.
const STORE_MIB: u64 = 256;

/// Largest size that a variable may ask for: a petabyte, so that bytes do not overflow.
const MIB_MAX: u64 = 1 << 30;
/// Bytes of a text that are always made into tokens at once: so few cost nothing.
const WINDOW_BYTES_MIN: usize = 64 * 1024;
/// Where a text is cut that has not filled the window by then: a word or blanks without end.
const TEXT_BYTES_MAX: usize = 4 << 20;
/// Tokens of a word that may be cut at the end of a part: WordPiece takes words of up to 100 characters apart.
const WORD_TOKENS: usize = 128;

/// How the engine is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the model's files.
    pub model: PathBuf,
    /// Where caches and the library lie.
    pub cache: PathBuf,
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
    #[error("BRAHMAN_EMBED_THREADS={value}: expected 1 to 256")]
    Threads {
        /// What it says.
        value: String,
    },
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
    /// The threads that it runs on.
    #[error("no inference threads")]
    Threads(#[source] io::Error),
}

impl Settings {
    /// From the environment.
    ///
    /// # Errors
    /// [`SettingsError`], which names the variable.
    pub fn from_env(cache: &Path) -> Result<Self, SettingsError> {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = match var("BRAHMAN_EMBED_THREADS") {
            Some(value) => value.parse().ok().filter(|n| (1..=256).contains(n)).ok_or(SettingsError::Threads { value })?,
            None => cores,
        };
        let (device, allow_cpu) = device::wanted()?;
        Ok(Self {
            model: var("BRAHMAN_MODEL_DIR").map_or_else(|| catalogue::folder(cache, catalogue::NAME), PathBuf::from),
            cache: cache.to_owned(),
            device,
            allow_cpu,
            threads,
        })
    }
}

/// The real engine: cache, queue and inference threads.
#[derive(Debug)]
pub struct Pipeline {
    identity: Identity,
    tokenizer: Arc<Tokenizer>,
    max_tokens: usize,
    /// Bytes of a text that are made into tokens at first; more of them only if those did not fill the window.
    window_bytes: usize,
    device: Device,
    library: PathBuf,
    cache: Arc<Cache>,
    store: WriteThrough,
    queue: Arc<Queue>,
}

impl Pipeline {
    /// Loads library and model, opens sessions and cache, warms up. Takes a second or so; blocks.
    ///
    /// # Errors
    /// [`OpenError`]: what is missing and how to mend it.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let mib = |name: &str, default: u64| match std::env::var(name) {
            Ok(value) if !value.is_empty() => {
                let number = value.parse::<u64>().ok().filter(|n| *n <= MIB_MAX);
                number.map(|n| n << 20).ok_or_else(|| SettingsError::Size { name: name.to_owned(), value })
            }
            _ => Ok(default << 20),
        };
        let (cache_bytes, store_bytes) = (mib("BRAHMAN_EMBED_CACHE_MIB", CACHE_MIB)?, mib("BRAHMAN_EMBED_STORE_MIB", STORE_MIB)?);
        let (library, environment) = brahman_models::runtime::load(&settings.cache)?;
        let model = Model::load(&settings.model)?;
        let (runners, wide, device) = runtime::open(&environment, &model, settings.device, settings.allow_cpu, settings.threads)?;
        let dim = runners.first().map_or(0, runtime::Runner::dim);
        let identity =
            Identity { model: model.name.clone(), fingerprint: model.fingerprint.clone(), dim, device: device.active.clone(), mock: false };
        let fingerprint = sha256(model.fingerprint.as_bytes());
        let cache = Arc::new(Cache::open(&settings.cache.join("embed"), fingerprint, dim, cache_bytes));
        let queue = Queue::new(if device.active == "cpu" { BUDGET_CPU } else { BUDGET_GPU });
        start(&queue, runners, wide, &cache).map_err(OpenError::Threads)?;
        let store = WriteThrough::open(&settings.cache.join("inputs"), store_bytes);
        let window_bytes = (model.max_tokens * model.token_bytes_max).max(WINDOW_BYTES_MIN);
        let (tokenizer, max_tokens) = (Arc::new(model.tokenizer), model.max_tokens);
        Ok(Self { identity, tokenizer, max_tokens, window_bytes, device, library, cache, store, queue })
    }

    /// Stops the threads after their present batch and writes the cache out.
    pub fn close(&self) {
        self.queue.stop();
        self.cache.flush();
    }

    fn too_long(&self, index: usize, tokens: u32) -> Fault {
        let message = format!(
            "text {index} has {tokens} tokens, {} takes {}: shorten it, or pass truncate = true",
            self.identity.model, self.max_tokens
        );
        let (index, max_tokens) = (index as u64, self.max_tokens as u64);
        Fault::of(&error::TextTooLong { index, tokens: tokens.into(), max_tokens }, false, message)
    }

    /// Looks every text up; what is not there stays to be computed.
    fn look_up(&self, texts: &[String], wish: Treatment) -> Result<Plan, Fault> {
        let mut plan = Plan { found: vec![None; texts.len()], missing: Vec::new() };
        let mut first_of: HashMap<ContentHash, usize> = HashMap::new();
        for (index, text) in texts.iter().enumerate() {
            let content = sha256(text.as_bytes());
            match self.cache.get(&content) {
                Some((_, Some(tokens))) if !wish.truncate => return Err(self.too_long(index, tokens)),
                Some((vector, tokens)) => {
                    let kept = self.max_tokens as u32;
                    let (tokens, kept) = tokens.map_or((0, 0), |tokens| (tokens, kept));
                    plan.found[index] = Some(Embedding { vector, cached: true, tokens, kept });
                }
                None => {
                    let first = *first_of.entry(content).or_insert(index);
                    plan.missing.push((index, content, first));
                }
            }
        }
        Ok(plan)
    }

    /// Token ids of a text cut to the window, special tokens kept, and how many there were: at least so many, where the rest of a
    /// long text was not looked at.
    fn tokenise(&self, text: &str) -> Result<(Vec<u32>, u32), Fault> {
        let encode = |text: &str| {
            self.tokenizer.encode_fast(text, true).map_err(|e| Fault::invalid_parameter("texts", format!("cannot be tokenised: {e}")))
        };
        let mut seen = self.window_bytes.min(text.len());
        let encoding = loop {
            let encoding = encode(&text[..text.floor_char_boundary(seen)])?;
            // The last word of a part may be cut, and then its tokens are others.
            if seen >= text.len() || encoding.len() > self.max_tokens + WORD_TOKENS {
                break encoding;
            }
            if seen >= TEXT_BYTES_MAX {
                // Bytes without end that are no tokens: one word, or blanks.
                let ids = encoding.get_ids();
                return Ok((ids[..ids.len().min(self.max_tokens)].to_vec(), u32::try_from(self.max_tokens + 1).unwrap_or(u32::MAX)));
            }
            seen = (seen * 4).min(text.len());
        };
        let ids = encoding.get_ids();
        let tokens = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        if ids.len() <= self.max_tokens {
            return Ok((ids.to_vec(), tokens));
        }
        // As Hugging Face truncates: the first tokens, and the closing special one.
        let mut cut = ids[..self.max_tokens - 1].to_vec();
        cut.extend(ids.last());
        Ok((cut, tokens))
    }
}

/// What is known after the look-up.
struct Plan {
    found: Vec<Option<Embedding>>,
    /// Index, content, and the first index with that content.
    missing: Vec<(usize, ContentHash, usize)>,
}

impl Engine for Pipeline {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn texts(self: Arc<Self>, texts: Vec<String>, wish: Treatment) -> Result<Vec<Embedding>, Fault> {
        let class = if texts.len() <= INTERACTIVE_MAX { Class::Interactive } else { Class::Bulk };
        let inline = texts.len() <= INLINE_MAX;
        let texts = Arc::new(texts);
        let mut plan = if inline {
            self.look_up(&texts, wish)?
        } else {
            let (this, texts) = (Arc::clone(&self), Arc::clone(&texts));
            blocking(move || this.look_up(&texts, wish)).await?
        };
        if !plan.missing.is_empty() {
            let (this, shared, missing) = (Arc::clone(&self), Arc::clone(&texts), std::mem::take(&mut plan.missing));
            let waits = blocking(move || this.submit(&shared, &missing, class, wish)).await?;
            for wait in waits {
                let vector = wait.receiver.await.map_err(|_| Fault::internal("the inference threads have stopped"))??;
                for index in wait.indexes {
                    plan.found[index] =
                        Some(Embedding { vector: Arc::clone(&vector), cached: false, tokens: wait.tokens, kept: wait.kept });
                }
            }
        }
        plan.found.into_iter().collect::<Option<Vec<Embedding>>>().ok_or_else(|| Fault::internal("a text was lost on the way"))
    }

    async fn file(self: Arc<Self>, _path: &Path, seen: Vec<u8>, wish: Treatment) -> Result<Embedding, Fault> {
        // A character cut in two at 8 KiB, or bytes that are no text, must not stop the rest.
        let text = String::from_utf8_lossy(&seen).into_owned();
        let mut done = self.texts(vec![text], wish).await?;
        done.pop().ok_or_else(|| Fault::internal("a file gave no vector"))
    }

    fn warnings(&self) -> Option<Vec<String>> {
        let mut all = Vec::new();
        if let Some(why) = self.cache.absent() {
            all.push(format!("no cache: {why}"));
        }
        if self.device.requested.starts_with("cuda") && self.device.active == "cpu" {
            all.push(format!("on the CPU instead of {}: {}", self.device.requested, self.device.reason));
        }
        Some(all).filter(|all| !all.is_empty())
    }

    fn info(&self) -> InfoOut {
        InfoOut {
            model: self.identity.model.clone(),
            fingerprint: self.identity.fingerprint.clone(),
            dim: self.identity.dim as u64,
            max_tokens: self.max_tokens as u64,
            mock: false,
            device: self.device.clone(),
            cache: Some(self.cache.info()),
            store: Some(self.store.info()),
            gpu: device::gpus().filter(|g| !g.is_empty()),
            runtime: Some(format!("ONNX Runtime, {}", self.library.display())),
            queue: self.queue.len() as u64,
            computed: self.queue.computed.load(Ordering::Relaxed),
            cancelled: self.queue.cancelled.load(Ordering::Relaxed),
        }
    }
}

/// One computation that this call waits for, and the texts it is for.
struct Wait {
    receiver: oneshot::Receiver<VectorOutcome>,
    indexes: Vec<usize>,
    tokens: u32,
    kept: u32,
}

impl Pipeline {
    /// Tokenises what is missing and queues what nobody computes yet.
    fn submit(&self, texts: &[String], missing: &[(usize, ContentHash, usize)], class: Class, wish: Treatment) -> Result<Vec<Wait>, Fault> {
        let mut waits: Vec<Wait> = Vec::new();
        let mut place: HashMap<ContentHash, usize> = HashMap::new();
        let mut fresh = Vec::new();
        let mut fresh_at = Vec::new();
        for (index, content, _) in missing {
            if let Some(at) = place.get(content) {
                waits[*at].indexes.push(*index);
                continue;
            }
            let (ids, tokens) = self.tokenise(&texts[*index])?;
            let kept = ids.len() as u32;
            if kept < tokens && !wish.truncate {
                return Err(self.too_long(*index, tokens));
            }
            place.insert(*content, waits.len());
            let receiver = match self.queue.join(content) {
                Some(receiver) => receiver,
                None => {
                    self.store.keep(texts[*index].as_bytes());
                    fresh.push((*content, ids, (kept < tokens).then_some(tokens)));
                    fresh_at.push(waits.len());
                    // Replaced below, once all are queued under one lock.
                    oneshot::channel().1
                }
            };
            waits.push(Wait { receiver, indexes: vec![*index], tokens, kept });
        }
        for (at, receiver) in fresh_at.into_iter().zip(self.queue.push(class, wish.deadline, fresh)) {
            waits[at].receiver = receiver;
        }
        Ok(waits)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Fault::internal(format!("a worker stopped: {e}")))?
}
