//! The remote engine: a server that somebody else runs, asked over HTTP for the vectors of texts.
//!
//! [`dialect`] knows what each kind of server is asked and how it answers, purely; [`settings`]
//! says which server that is, [`error`] why there is no answer, [`server`] asks, [`probe`] tries
//! it, [`record`] remembers what it was like. This file leads a text past all of them: prompt →
//! hash → cache → batches → the server → cache and reply.
//!
//! Which model the server runs is its own word, so the fingerprint is of its name and says so.
//! Invariants: nothing that came from a server whose vectors have changed (another length, another
//! vector of a known text) is kept or given once that is noticed, which takes a minute at most;
//! what is cached is given whatever the server does; during an outage callers are refused at once,
//! so that they can ask somebody else; a caller that does not wait makes none; a text that the
//! server refuses loses no other.
//!
//! [`batches`] asks for what no cache knows.

mod batches;
pub mod dialect;
pub mod error;
pub mod probe;
pub mod record;
pub mod server;
pub mod settings;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::interface::Method as _;
use brahman_card::interface::WireError as _;
use brahman_card::interface::embed::error::{BadOutput, TextTooLong};
use brahman_card::interface::embed::{self, Device, InfoOut, ModelRecipe, ServerProbe, TextTokens};
use brahman_card::interface::service::error::MethodNotImplemented;
use brahman_card::{Fault, chain};
use brahman_sidecar::Deadline;
use brahman_storage::digest::sha256;

use crate::engine::{
    ChosenPrompt, Embedding, Engine, Identity, PromptRequest, TextOutcome, Treatment,
};
use crate::prompts::ModelPrompts;
use crate::real::cache::{Cache, ContentHash, TokenCounts};
use batches::{OUTAGE_PAUSE, Outage, outage_of};
pub use error::{OpenError, ProbeError, ServerError};
use probe::{LongTexts, compare, is_same};
use record::{ServerRecord, examine};
use server::{ATTEMPTS, Server};
pub use settings::{AddressError, Settings, SettingsError};

/// Bytes of one text: far more than any window holds.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Bytes of a request's texts together, of which a longer one has a request for itself.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Bytes of texts that are looked up on the I/O thread: hashing a megabyte takes less than a
/// millisecond.
const INLINE_BYTES_MAX: usize = 1 << 20;
/// Texts that are looked up there; more go to a thread of their own.
const INLINE_MAX: usize = 16;
/// Longest wait for it to say so.
const OUTAGE_WAIT: Duration = Duration::from_secs(5);

/// An engine that asks a server.
#[derive(Debug)]
pub struct HttpEngine {
    identity: Identity,
    label: String,
    server: Server,
    record: ServerRecord,
    prompts: ModelPrompts,
    cache: Cache,
    outage: Mutex<Option<Outage>>,
    /// When the server was last found to be what the record says. Held by the one call that asks
    /// whether it still is.
    checked: tokio::sync::Mutex<Instant>,
    /// Whether the server has been found to be what the record says since this process started.
    is_verified: AtomicBool,
    /// That it is another model by now.
    changed: OnceLock<Fault>,
    waiting: AtomicU64,
    computed: AtomicU64,
}

/// A text that is not in the cache, and where it stands in the call.
#[derive(Debug)]
struct MissingText {
    content: ContentHash,
    /// With its prompt.
    text: String,
    indexes: Vec<usize>,
}

/// What became of a text at the server.
type RemoteOutcome = Result<(Arc<[f32]>, Option<TokenCounts>), Fault>;

impl HttpEngine {
    /// Asks the server what it is, tries it, and opens the cache. A server that is away is taken
    /// for what it was when it was first asked, if that is known; then only what is cached is given
    /// until it is back.
    ///
    /// # Errors
    /// [`OpenError`]: what the server answered, and what was expected.
    pub async fn open(settings: Settings, state: &Path, label: &str) -> Result<Self, OpenError> {
        let file = state.join(format!("{label}.server.json"));
        let before = ServerRecord::read(&file, &settings)?;
        let mut server = Server::new(settings)?;
        let (record, outage) = match examine(&mut server, before.as_ref()).await {
            Ok(record) => {
                match &before {
                    Some(before) if before.model == record.model => {
                        is_same(&server, &before.vector, &record.vector).map_err(|source| {
                            OpenError::Changed { record: file.clone(), source }
                        })?;
                    }
                    _ => {}
                }
                if before.as_ref().is_none_or(|before| {
                    before.model != record.model || before.long_texts != record.long_texts
                }) {
                    record.write(&file);
                }
                (record, None)
            }
            Err(error) => match before {
                Some(before) if error.is_passing() => {
                    server.introduce(&before.model, before.batch);
                    tracing::warn!("only cached vectors are given for now: {}", chain(&error));
                    let fault = outage_of(&error, label);
                    (before, Some(Outage { fault, asked: Instant::now() }))
                }
                _ => return Err(error),
            },
        };
        Self::assemble(server, record, outage, label).await
    }

    async fn assemble(
        server: Server,
        record: ServerRecord,
        outage: Option<Outage>,
        label: &str,
    ) -> Result<Self, OpenError> {
        let settings = server.settings();
        let dim = record.vector.len();
        if let Some(length) = settings.dimensions.iter().find(|length| **length >= dim) {
            return Err(OpenError::Dimensions { length: *length, dim });
        }
        let identity = Identity {
            model: record.model.clone(),
            fingerprint: record.fingerprint(),
            dim,
            device: settings.base.clone(),
            mock: false,
            normalized: true,
            dimensions: settings.dimensions.clone(),
            ..Identity::default()
        };
        let (folder, bytes, key) = (
            settings.vectors.clone(),
            settings.vectors_bytes,
            sha256(identity.fingerprint.as_bytes()),
        );
        // Opening takes a moment where there is much to be read.
        let cache =
            tokio::task::spawn_blocking(move || Cache::open(&folder, key, dim, true, bytes))
                .await
                .map_err(OpenError::Cache)?;
        let prompts = ModelPrompts::new(&identity.model, settings.prompts.clone());
        Ok(Self {
            identity,
            label: label.to_owned(),
            is_verified: outage.is_none().into(),
            server,
            record,
            prompts,
            cache,
            outage: Mutex::new(outage),
            checked: tokio::sync::Mutex::new(Instant::now()),
            changed: OnceLock::new(),
            waiting: 0.into(),
            computed: 0.into(),
        })
    }

    /// What callers may require of it, and what a person would want to see in a table.
    #[must_use]
    pub fn attributes(&self) -> std::collections::BTreeMap<String, String> {
        let mut attributes = self.identity.attributes();
        let said = [
            ("dialect", self.server.settings().dialect.name().to_owned()),
            ("determinism", self.determinism()),
            ("long_texts", self.record.long_texts.name().to_owned()),
            ("trust", "the server's own word for its model".to_owned()),
            ("cache", self.cache.info().state),
        ];
        attributes.extend(said.map(|(name, value)| (name.to_owned(), value)));
        attributes
    }

    fn determinism(&self) -> String {
        if self.record.distance == 0.0 {
            "same bits".to_owned()
        } else {
            format!("{:.1e} apart", self.record.distance)
        }
    }

    /// Writes the cache out.
    pub fn close(&self) {
        self.cache.flush();
    }

    /// Looks every text up; gives what was found, and what was not, each once.
    fn look_up(
        &self,
        texts: &[String],
        wish: &Treatment,
    ) -> (Vec<Option<TextOutcome>>, Vec<MissingText>) {
        let mut found = Vec::with_capacity(texts.len());
        let (mut missing, mut places): (Vec<MissingText>, HashMap<ContentHash, usize>) =
            (Vec::new(), HashMap::new());
        for (index, text) in texts.iter().enumerate() {
            if text.len() > TEXT_BYTES_MAX {
                let why = format!(
                    "{} bytes, expected at most {TEXT_BYTES_MAX}: cut it into parts",
                    text.len()
                );
                found.push(Some(Err(Fault::invalid_parameter(&format!("texts[{index}]"), why))));
                continue;
            }
            let whole = format!("{}{text}", wish.prompt);
            let content = sha256(whole.as_bytes());
            if let Some((vector, counts)) = self.cache.get(&content) {
                found.push(Some(self.outcome(index, vector, counts, true, wish.truncate)));
                continue;
            }
            found.push(None);
            match places.get(&content) {
                Some(at) => missing[*at].indexes.push(index),
                None => {
                    places.insert(content, missing.len());
                    missing.push(MissingText { content, text: whole, indexes: vec![index] });
                }
            }
        }
        (found, missing)
    }

    /// A vector as the call gets it: of a text that was cut only if the call chose that.
    fn outcome(
        &self,
        index: usize,
        vector: Arc<[f32]>,
        counts: Option<TokenCounts>,
        cached: bool,
        truncate: bool,
    ) -> TextOutcome {
        let TokenCounts { tokens, is_least, .. } = counts.unwrap_or_default();
        let kept = if is_least { tokens.saturating_sub(1) } else { tokens };
        if is_least && !truncate {
            let message = format!(
                "text {index} has at least {tokens} tokens, {} takes {kept}: shorten it, or pass truncate = true",
                self.identity.model
            );
            let error =
                TextTooLong { index: index as u64, tokens: tokens.into(), max_tokens: kept.into() };
            return Err(Fault::of(&error, false, message));
        }
        Ok(Embedding { vector, cached, tokens, kept, is_least, unknown: 0 })
    }

    /// Whether the server may be asked. After an outage, and once in a while, it is asked for a
    /// known text first: it may be another model by now.
    async fn admit(&self, deadline: Deadline) -> Result<(), Fault> {
        if let Some(fault) = self.changed.get() {
            return Err(fault.clone());
        }
        let former = {
            let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
            match outage.as_mut() {
                None => None,
                Some(outage) if outage.asked.elapsed() < OUTAGE_PAUSE => {
                    return Err(outage.fault.clone());
                }
                Some(outage) => Some((
                    std::mem::replace(&mut outage.asked, Instant::now()),
                    outage.fault.clone(),
                )),
            }
        };
        let Some((asked, fault)) = former else { return self.check_again(deadline).await };
        let longest = Deadline::within(OUTAGE_WAIT);
        let is_hasty = deadline < longest;
        match compare(&self.server, &self.record.vector, 1, deadline.min(longest)).await {
            Ok(()) => {
                tracing::info!("{} answers, as it did", self.server.url());
                *self.outage.lock().unwrap_or_else(PoisonError::into_inner) = None;
                if let Ok(mut checked) = self.checked.try_lock() {
                    *checked = Instant::now();
                }
                self.is_verified.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.is_out_of_time() && is_hasty => {
                // Nothing is known that was not before: whoever comes next, and may have more time,
                // asks at once.
                if let Some(outage) =
                    self.outage.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
                {
                    outage.asked = asked;
                }
                Err(error.fault(&self.label))
            }
            // It is away as it was.
            Err(error) if error.is_out_of_time() => Err(fault),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Asks a server for a known text that has not been asked for one in a while. One call at a
    /// time does that; the others go on.
    async fn check_again(&self, deadline: Deadline) -> Result<(), Fault> {
        let Ok(mut checked) = self.checked.try_lock() else { return Ok(()) };
        if checked.elapsed() < self.server.settings().check_pause {
            return Ok(());
        }
        match compare(&self.server, &self.record.vector, ATTEMPTS, deadline).await {
            Ok(()) => {
                *checked = Instant::now();
                Ok(())
            }
            // The next call asks.
            Err(error) => Err(self.failed(&error)),
        }
    }
}

fn no_vector() -> RemoteOutcome {
    Err(Fault::of(
        &BadOutput { index: None },
        false,
        "the server's vector for this text is not finite, or zero",
    ))
}

/// A fault of one text with its place in the call.
fn placed(fault: Fault, index: usize) -> Fault {
    if fault.name != BadOutput::NAME {
        return fault;
    }
    let message = format!("text {index}: {}", fault.message());
    fault.with("index", index as u64).with("message", message)
}

/// Texts that the server is asked for, as long as this lives.
struct WaitingTexts<'a> {
    count: &'a AtomicU64,
    texts: u64,
}

impl<'a> WaitingTexts<'a> {
    fn begin(count: &'a AtomicU64, texts: usize) -> Self {
        let texts = texts as u64;
        count.fetch_add(texts, Ordering::Relaxed);
        Self { count, texts }
    }
}

impl Drop for WaitingTexts<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(self.texts, Ordering::Relaxed);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    brahman_sidecar::blocking(work)
        .await
        .map_err(|e| Fault::internal(format!("a worker stopped: {e}")))
}

impl Engine for HttpEngine {
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
        let is_inline = texts.len() <= INLINE_MAX
            && texts.iter().map(String::len).sum::<usize>() <= INLINE_BYTES_MAX;
        let (mut found, missing) = if is_inline {
            self.look_up(&texts, &wish)
        } else {
            let (this, wish) = (Arc::clone(&self), wish.clone());
            blocking(move || this.look_up(&texts, &wish)).await?
        };
        let outcomes = self.fetch(&missing, &wish).await?;
        for (one, outcome) in missing.into_iter().zip(outcomes) {
            // Kept before it is answered, so that whoever asks next finds it.
            if let Ok((vector, counts)) = &outcome {
                self.cache.put(&one.content, vector, *counts);
            }
            for index in one.indexes {
                found[index] = Some(match &outcome {
                    Ok((vector, counts)) => {
                        self.outcome(index, Arc::clone(vector), *counts, false, wish.truncate)
                    }
                    Err(fault) => Err(placed(fault.clone(), index)),
                });
            }
        }
        found
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

    /// The tokenizer is the server's.
    async fn tokenize(
        self: Arc<Self>,
        _texts: Vec<String>,
        _prompt: Arc<str>,
        _offsets: bool,
    ) -> Result<Vec<TextTokens>, Fault> {
        let method = embed::method::Tokenize::NAME;
        let message = format!(
            "{} does not tell tokens: its tokenizer is the server's own affair",
            self.identity.model
        );
        Err(Fault::of(&MethodNotImplemented { method: method.to_owned() }, false, message))
    }

    fn warnings(&self) -> Option<Vec<String>> {
        let mut all = Vec::new();
        if let Some(why) = self.cache.absent() {
            all.push(format!("no cache: {why}"));
        }
        if self.record.long_texts == LongTexts::Cut {
            all.push(format!(
                "{} cuts what is longer than its window and does not say so: a text may have been",
                self.server.url()
            ));
        }
        if let Some(why) = self.outage() {
            all.push(format!("only cached vectors are given: {why}"));
        }
        Some(all).filter(|all| !all.is_empty())
    }

    fn info(&self) -> InfoOut {
        let settings = self.server.settings();
        let mut overrides = Vec::new();
        if !settings.revision.is_empty() {
            overrides.push(format!("revision {} by BRAHMAN_EMBED_REVISION", settings.revision));
        }
        if !self.record.is_unit {
            overrides.push("vectors are scaled to length 1 here".to_owned());
        }
        let recipe = ModelRecipe {
            graph: self.server.url(),
            output: "embedding".to_owned(),
            pooling: None,
            precision: "the server's own affair".to_owned(),
            normalized: true,
            window_source: self.record.window.map_or("nobody", |_| "the server").to_owned(),
            prompts: settings.prompts.by_name.clone(),
            default_prompt: settings.prompts.default_name.clone(),
            similarity: None,
            dimensions: self.identity.dimensions.iter().map(|n| *n as u64).collect(),
            alone: None,
            overrides,
        };
        InfoOut {
            model: self.identity.model.clone(),
            fingerprint: self.identity.fingerprint.clone(),
            dim: self.identity.dim as u64,
            // 0 where the server does not tell.
            max_tokens: self.record.window.unwrap_or(0).into(),
            mock: false,
            device: Device {
                requested: settings.base.clone(),
                active: settings.base.clone(),
                reason: "the server's own affair".to_owned(),
            },
            cache: Some(self.cache.info()),
            store: None,
            gpu: None,
            runtime: Some(format!("{} at {}", settings.dialect.name(), settings.base)),
            queue: self.waiting.load(Ordering::Relaxed),
            computed: self.computed.load(Ordering::Relaxed),
            cancelled: 0,
            recipe: Some(recipe),
            server: Some(ServerProbe {
                url: settings.base.clone(),
                dialect: settings.dialect.name().to_owned(),
                distance: self.record.distance.into(),
                long_texts: self.record.long_texts.name().to_owned(),
                verified: self.is_verified.load(Ordering::Relaxed),
                outage: self.outage(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
