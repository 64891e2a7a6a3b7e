//! Vectors from the mesh: many by `EmbedBulk`, one by `EmbedText`; always of the model asked for.
//! What is indexed is embedded as documents, what is searched for as a query, so that a model with
//! prompts gets the right one.

mod leading;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::ArrowError;
use brahman_card::Fault;
use brahman_card::interface::broker::error::{NoProvider, ProviderFailed};
use brahman_card::interface::embed::{
    self, EmbedBulkIn, EmbedBulkOut, EmbedTextIn, TokenizeIn, TokenizeOut,
};
use brahman_card::interface::index::error::ModelMismatch;
use brahman_card::interface::service::error::MethodNotFound;
use brahman_card::interface::{Empty, WireError};
use brahman_sidecar::bulk::{BulkStream, Frame};
use brahman_sidecar::client::encode_method;
use brahman_sidecar::{Backoff, CallOptions, Client, ClientError, Deadline, chain};
use tokio::runtime::Handle;

use crate::cutter::{Measure, Window};

/// Attempts at one batch; the provider may be restarting, and loads its model for a second or so.
const ATTEMPTS_MAX: u32 = 6;
/// Pauses between them: a provider that begins anew loads its model first.
const PAUSES: Backoff = Backoff::doubling(Duration::from_millis(10), Duration::from_secs(1)).by(3);
/// Longest wait for a provider to come back.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest wait for a model that is being loaded, where nobody says how long they wait: what the
/// contract gives `EmbedText`.
const LOADING: Duration = Duration::from_secs(600);

/// What texts are for, to the embedder.
const DOCUMENT: &str = "document";
const QUERY: &str = "query";
/// Words by which a model says that its vectors are compared by their inner product, whatever their
/// lengths.
const DOT: [&str; 3] = ["dot", "dot_product", "dot_score"];

/// What the mock embedder's vectors depend on; its first manifests did not say that it was a mock.
const MOCK_FINGERPRINT: &str = "mock-hash-32-v1";

/// A model, as an index is bound to it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "ModelRecord")]
pub struct Model {
    /// As its provider calls it.
    pub name: String,
    /// What its vectors depend on.
    pub fingerprint: String,
    /// Length of its vectors.
    pub dim: usize,
    /// Whether its vectors are made up.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mock: bool,
}

/// A model, as manifests have it.
#[derive(Debug, serde::Deserialize)]
struct ModelRecord {
    name: String,
    fingerprint: String,
    dim: usize,
    #[serde(default)]
    mock: bool,
}

impl From<ModelRecord> for Model {
    fn from(written: ModelRecord) -> Self {
        let ModelRecord { name, fingerprint, dim, mock } = written;
        Self { mock: mock || fingerprint == MOCK_FINGERPRINT, name, fingerprint, dim }
    }
}

impl Model {
    /// The mark that replies carry: nothing for a real model.
    #[must_use]
    pub fn mark(&self) -> Option<bool> {
        self.mock.then_some(true)
    }
}

/// Why a batch was not embedded.
#[derive(Debug, thiserror::Error)]
enum EmbedError {
    /// By the mesh, or by the provider's own word.
    #[error(transparent)]
    Mesh(#[from] ClientError),
    /// The texts cannot be sent.
    #[error("cannot send the texts")]
    Texts(#[from] ArrowError),
    /// What came back is no Arrow.
    #[error("unexpected reply")]
    Unreadable(#[source] std::io::Error),
    /// What came back is not what was agreed upon.
    #[error("unexpected reply")]
    Reply(#[from] ReplyError),
}

/// What is wrong with a reply of `EmbedBulk`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum ReplyError {
    #[error("EmbedBulk: no column `{column}`")]
    NoColumn { column: &'static str },
    #[error("EmbedBulk: `{column}` is not {expected}")]
    OtherType { column: &'static str, expected: &'static str },
    #[error("EmbedBulk: {numbers} numbers for {rows} texts of {dim}")]
    Count { numbers: usize, rows: usize, dim: usize },
    #[error("EmbedBulk: a vector is not finite")]
    NotFinite,
}

impl EmbedError {
    /// Whether the process at the other end went away, which says nothing about the texts.
    fn is_disconnect(&self) -> bool {
        matches!(self, Self::Mesh(error) if error.is_disconnect())
    }
}

impl From<std::io::Error> for EmbedError {
    fn from(error: std::io::Error) -> Self {
        Self::Mesh(error.into())
    }
}

impl From<EmbedError> for Fault {
    fn from(error: EmbedError) -> Self {
        match error {
            EmbedError::Mesh(error) => error.into(),
            other => Self::of(&ProviderFailed { label: String::new() }, true, chain(&other)),
        }
    }
}

/// Vectors of a batch of texts.
#[derive(Debug)]
pub struct Batch {
    /// One after the other.
    pub vectors: Vec<f32>,
    /// How many came from the provider's cache.
    pub cached: u64,
    /// How many texts were longer than the window.
    pub truncated: u64,
}

/// Speaks to whoever embeds.
#[derive(Debug)]
pub struct Embedder {
    client: Client,
    bulk: Option<BulkStream>,
    /// Whether vectors come in any length, and are scaled to length 1 here.
    scales: bool,
    /// The model in use; set by the first answer if the index has none yet.
    pub model: Option<Model>,
}

fn require(model: Option<&Model>) -> CallOptions {
    let require = model
        .map(|m| BTreeMap::from([("fingerprint".to_owned(), m.fingerprint.clone())]))
        .unwrap_or_default();
    CallOptions { require, deadline: Some(DEADLINE), ..CallOptions::default() }
}

/// The call that opens a stream. The broker must know, too, what is required: else another model
/// that is ready would be taken for the one that is being loaded. A stream has no deadline.
fn opening(options: CallOptions) -> Result<Vec<u8>, ClientError> {
    let ask = EmbedBulkIn {
        truncate: Some(true),
        role: Some(DOCUMENT.to_owned()),
        ..EmbedBulkIn::default()
    };
    encode_method::<embed::method::EmbedBulk>(
        &ask,
        &CallOptions { deadline: None, ..options },
        false,
        true,
    )
}

fn mismatch(wanted: &Model, got: &str) -> Fault {
    let message = format!(
        "the index holds vectors of {} ({}), the provider at hand is {got}",
        wanted.name,
        &wanted.fingerprint[..12.min(wanted.fingerprint.len())]
    );
    Fault::of(
        &ModelMismatch { wanted: wanted.fingerprint.clone(), got: got.to_owned() },
        false,
        message,
    )
}

impl Embedder {
    /// An embedder for this model, or for whichever answers first.
    #[must_use]
    pub fn new(client: Client, model: Option<Model>) -> Self {
        Self { client, bulk: None, scales: false, model }
    }

    /// Embeds a batch; tries again while the provider comes back.
    ///
    /// # Errors
    /// The provider's own fault, or what the mesh says if it does not come back.
    pub async fn batch(&mut self, texts: &[&str]) -> Result<Batch, Fault> {
        let mut pauses = PAUSES;
        for attempt in 1.. {
            let outcome = tokio::time::timeout(DEADLINE * 10, self.once(texts)).await;
            match outcome.unwrap_or_else(|_| Err(ClientError::Deadline(DEADLINE * 10).into())) {
                Ok(batch) => return Ok(batch),
                Err(error) if error.is_disconnect() && attempt < ATTEMPTS_MAX => {
                    tracing::info!(attempt, "embedding is tried again: {}", chain(&error));
                    self.bulk = None;
                    pauses.wait().await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Fault::internal("unreachable: every attempt returns"))
    }

    async fn once(&mut self, texts: &[&str]) -> Result<Batch, EmbedError> {
        let bulk = match self.bulk.take() {
            Some(bulk) => bulk,
            None => self.open().await?,
        };
        // Kept only if it is still in step after this exchange.
        let mut bulk = bulk;
        let column: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let request = RecordBatch::try_from_iter([("text", column)])?;
        bulk.send(&request).await?;
        let batches = match bulk.receive().await? {
            Frame::Batches(batches) => batches,
            Frame::Fault(fault) => return Err(ClientError::Fault(fault).into()),
            Frame::Unreadable(why) => return Err(EmbedError::Unreadable(why)),
            Frame::End => {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        };
        let dim = self.model.as_ref().map_or(0, |m| m.dim);
        let mut answer = decode(&batches, texts.len(), dim)?;
        if self.scales {
            answer.vectors.chunks_exact_mut(dim.max(1)).for_each(scale);
        }
        self.bulk = Some(bulk);
        Ok(answer)
    }

    async fn open(&mut self) -> Result<BulkStream, ClientError> {
        let options = require(self.model.as_ref());
        let mut connection = self.client.open(embed::INTERFACE.name, &options).await?;
        let confirmed: EmbedBulkOut = connection.exchange(&opening(options)?).await?.typed()?.value;
        let dim = usize::try_from(confirmed.dim).unwrap_or(0);
        self.scales = confirmed.normalized == Some(false);
        if let Some(similarity) = confirmed
            .similarity
            .filter(|similarity| self.scales && DOT.contains(&similarity.as_str()))
        {
            let message = format!(
                "{} gives vectors of any length that are compared by their inner product (`{similarity}`), and an index compares \
                 directions: use a model with a Normalize module",
                confirmed.model
            );
            return Err(ClientError::Fault(Fault::invalid_parameter("model", message)));
        }
        let got = Model {
            name: confirmed.model,
            fingerprint: confirmed.fingerprint,
            dim,
            mock: confirmed.mock,
        };
        match &self.model {
            Some(wanted) if *wanted != got => {
                return Err(ClientError::Fault(mismatch(wanted, &got.name)));
            }
            _ => self.model = Some(got),
        }
        Ok(BulkStream::new(connection.into_upgraded()))
    }
}

/// The model for an index that has none yet: this one if a name is given, else the context's
/// default. It is asked for by its name: an index is bound to it for good, and what the broker does
/// where that one declines a call, or does not come (another answers it), is no choice.
///
/// # Errors
/// `ModelMismatch` if nobody serves the model that is named; else what the mesh says.
pub async fn current_model(client: &Client, name: Option<&str>) -> Result<Model, Fault> {
    let Some(name) = name else { return leading::default_model(client).await };
    served_model(client, Some(name)).await.map_err(|fault| {
        if fault.name != NoProvider::NAME {
            return fault;
        }
        let message = format!("no module embeds with {name}: {}", fault.message());
        let error = ModelMismatch { wanted: name.to_owned(), got: String::new() };
        Fault::of(&error, false, message)
    })
}

/// The model of whoever answers a call that requires this name, or none.
async fn served_model(client: &Client, name: Option<&str>) -> Result<Model, Fault> {
    let require = name
        .map(|name| BTreeMap::from([("model".to_owned(), name.to_owned())]))
        .unwrap_or_default();
    let options = CallOptions { require, deadline: Some(LOADING), ..CallOptions::default() };
    let info = client.call_method::<embed::method::Info>(&Empty {}, &options).await?.value;
    Ok(Model {
        name: info.model,
        fingerprint: info.fingerprint,
        dim: usize::try_from(info.dim).unwrap_or(0),
        mock: info.mock,
    })
}

/// That an index may go from one model to the other: real vectors are not given up for those that a
/// mock makes up.
///
/// # Errors
/// `ModelMismatch`, naming both, unless `allow_mock`.
pub fn may_replace(index: &str, from: &Model, to: &Model, allow_mock: bool) -> Result<(), Fault> {
    if from.mock || !to.mock || allow_mock {
        return Ok(());
    }
    let message = format!(
        "index `{index}` holds vectors of {}, a real model, and {} is a mock, which makes its vectors up: name a real model, change the \
         context, or say `allow_mock`",
        from.name, to.name
    );
    Err(Fault::of(
        &ModelMismatch { wanted: from.fingerprint.clone(), got: to.fingerprint.clone() },
        false,
        message,
    ))
}

/// What the mesh says where nobody embeds by an index's model, which is asked for whatever the
/// context offers first; with what to do about it.
#[must_use]
pub fn explained(fault: Fault, model: &Model, index: &str) -> Fault {
    if fault.name != NoProvider::NAME {
        return fault;
    }
    let (name, why) = (&model.name, fault.message());
    let message = if let Some(label) = stopped(why) {
        format!(
            "the vectors of index `{index}` are of {name}, and {label}, which may embed with it, is stopped: `brahman start {label}` starts \
             it; {why}"
        )
    } else if model.mock {
        format!(
            "the vectors of index `{index}` are synthetic, made by a mock ({name}), and no mock embeds here: `brahman index migrate \
             {index}` embeds it with a real model; {why}"
        )
    } else {
        format!(
            "the vectors of index `{index}` are of {name}, and no module embeds with it here: `brahman models enable {name}` serves it, \
             if it is on this machine, `brahman index migrate {index}` embeds it with another model; {why}"
        )
    };
    fault.with("message", message)
}

/// The first module of a refusal that is only stopped, and so has not said by which model it
/// embeds.
fn stopped(why: &str) -> Option<&str> {
    why.split("; ").find_map(|part| {
        let (before, _) = part
            .split_once(": fingerprint = ")
            .filter(|(_, after)| after.contains("it is stopped"))?;
        before.rsplit(": ").next()
    })
}

/// One query: its vector, the provider's label, and whether it was longer than the window. A model
/// that is being loaded is waited for until the caller's deadline.
///
/// # Errors
/// `ModelMismatch` if only another model is to be had; else what the mesh says.
pub async fn query(
    client: &Client,
    model: &Model,
    text: &str,
    deadline: Deadline,
) -> Result<(Vec<f32>, Option<String>, bool), Fault> {
    let ask = EmbedTextIn {
        texts: vec![text.to_owned()],
        truncate: Some(true),
        role: Some(QUERY.to_owned()),
        ..EmbedTextIn::default()
    };
    let options =
        CallOptions { deadline: Some(deadline.left().unwrap_or(LOADING)), ..require(Some(model)) };
    let answer = client.call_method::<embed::method::EmbedText>(&ask, &options).await?;
    if answer.value.fingerprint != model.fingerprint || answer.value.mock != model.mock {
        return Err(mismatch(model, &answer.value.model));
    }
    let vector = answer.value.vectors.into_iter().next().unwrap_or_default();
    Ok((vector, answer.provider, !answer.value.truncated.is_empty()))
}

/// Tokens that a model adds to a text, of one that cannot be asked.
const ADDED_GUESSED: u64 = 2;

/// Counts tokens as a model does, for whoever cuts texts on a thread that may block.
#[derive(Debug)]
pub struct TokenCounter {
    client: Client,
    runtime: Handle,
    /// Name of the model, if the index has one but no vectors yet.
    name: Option<String>,
    model: Arc<OnceLock<Model>>,
}

impl TokenCounter {
    /// For the model given, or for whichever answers first, once there is something to count. Made
    /// where the runtime is.
    #[must_use]
    pub fn new(client: Client, name: Option<String>, model: Option<Model>) -> Self {
        let known = OnceLock::new();
        if let Some(model) = model {
            known.get_or_init(|| model);
        }
        Self { client, runtime: Handle::current(), name, model: Arc::new(known) }
    }

    /// The model that it has counted for: that which is to embed as well.
    #[must_use]
    pub fn model(&self) -> Arc<OnceLock<Model>> {
        Arc::clone(&self.model)
    }

    async fn bound(&self) -> Result<Model, Fault> {
        if let Some(model) = self.model.get() {
            return Ok(model.clone());
        }
        let model = current_model(&self.client, self.name.as_deref()).await?;
        Ok(self.model.get_or_init(|| model).clone())
    }

    /// None of a provider that does not count.
    async fn tokenize(&self, texts: Vec<String>) -> Result<Option<TokenizeOut>, Fault> {
        let model = self.bound().await?;
        let ask = TokenizeIn { texts, role: Some(DOCUMENT.to_owned()), ..TokenizeIn::default() };
        match self
            .client
            .call_method::<embed::method::Tokenize>(&ask, &require(Some(&model)))
            .await
            .map_err(Fault::from)
        {
            Ok(answer) if answer.value.fingerprint == model.fingerprint => Ok(Some(answer.value)),
            Ok(answer) => Err(mismatch(&model, &answer.value.model)),
            Err(fault) if fault.name == MethodNotFound::NAME => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn ask_window(&self) -> Result<Option<Window>, Fault> {
        let window = match self.tokenize(vec!["x".to_owned()]).await? {
            Some(answer) => {
                let added =
                    answer.texts.first().map_or(ADDED_GUESSED, |one| one.tokens.saturating_sub(1));
                Window { tokens: answer.max_tokens, added }
            }
            None => {
                let model = self.bound().await?;
                let info = self
                    .client
                    .call_method::<embed::method::Info>(&Empty {}, &require(Some(&model)))
                    .await?;
                Window { tokens: info.value.max_tokens, added: ADDED_GUESSED }
            }
        };
        Ok(Some(window).filter(|window| window.tokens > 0))
    }
}

impl Measure for TokenCounter {
    fn window(&self) -> Result<Option<Window>, Fault> {
        self.runtime.block_on(self.ask_window())
    }

    fn tokens(&self, texts: &[String]) -> Result<Option<Vec<u64>>, Fault> {
        let answer = self.runtime.block_on(self.tokenize(texts.to_vec()))?;
        Ok(answer.map(|answer| answer.texts.iter().map(|one| one.tokens).collect()))
    }
}

/// Scales a vector to length 1; one of zeros stays as it is.
fn scale(vector: &mut [f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
}

fn decode(batches: &[RecordBatch], rows: usize, dim: usize) -> Result<Batch, ReplyError> {
    let other = |column, expected| move || ReplyError::OtherType { column, expected };
    let mut out = Batch { vectors: Vec::with_capacity(rows * dim), cached: 0, truncated: 0 };
    for batch in batches {
        let column = |column: &'static str| {
            batch.column_by_name(column).ok_or(ReplyError::NoColumn { column })
        };
        let lists = column("vector")?
            .as_fixed_size_list_opt()
            .ok_or_else(other("vector", "a fixed-size list"))?;
        let values = lists
            .values()
            .as_primitive_opt::<Float32Type>()
            .ok_or_else(other("vector", "of f32"))?;
        out.vectors.extend_from_slice(values.values());
        out.cached += column("cached")?.as_boolean_opt().map_or(0, |b| b.true_count() as u64);
        let tokens = column("tokens")?
            .as_primitive_opt::<UInt32Type>()
            .ok_or_else(other("tokens", "of u32"))?;
        let kept =
            column("kept")?.as_primitive_opt::<UInt32Type>().ok_or_else(other("kept", "of u32"))?;
        out.truncated +=
            tokens.values().iter().zip(kept.values()).filter(|(t, k)| k < t).count() as u64;
    }
    if out.vectors.len() != rows * dim {
        return Err(ReplyError::Count { numbers: out.vectors.len(), rows, dim });
    }
    if out.vectors.iter().any(|x| !x.is_finite()) {
        return Err(ReplyError::NotFinite);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
