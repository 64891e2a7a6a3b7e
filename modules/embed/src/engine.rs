//! The seam between the interface and what makes the vectors.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::embed::{InfoOut, Truncation};
use brahman_sidecar::Deadline;

/// Bytes of a file that are read, hashed and embedded.
pub const FILE_BYTES_SEEN: usize = 8 * 1024;

/// What all vectors of an engine have in common.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name by which callers require it.
    pub model: String,
    /// What the vectors depend on.
    pub fingerprint: String,
    /// Length of each vector.
    pub dim: usize,
    /// Where it runs: `cpu` or `cuda:N`.
    pub device: String,
    /// Whether the vectors are synthetic.
    pub mock: bool,
}

impl Identity {
    /// What callers may require of a provider.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let pairs = [("model", &self.model), ("fingerprint", &self.fingerprint), ("dim", &self.dim.to_string()), ("device", &self.device)];
        pairs.map(|(name, value)| (name.to_owned(), value.clone())).into()
    }
}

/// How a call wants its texts treated.
#[derive(Clone, Copy, Debug)]
pub struct Treatment {
    /// Cut what is too long instead of refusing it.
    pub truncate: bool,
    /// When nobody waits any more.
    pub deadline: Deadline,
}

/// What became of one text.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// Its direction, with a length of 1.
    pub vector: Arc<[f32]>,
    /// Whether it was not computed for this call.
    pub cached: bool,
    /// Tokens the text has.
    pub tokens: u32,
    /// How many of them were embedded.
    pub kept: u32,
}

impl Embedding {
    /// The report on a text that was cut.
    #[must_use]
    pub fn truncation(&self, index: usize) -> Option<Truncation> {
        (self.kept < self.tokens).then_some(Truncation { index: index as u64, tokens: self.tokens.into(), kept: self.kept.into() })
    }
}

/// What makes vectors of texts and files.
pub trait Engine: Send + Sync + 'static {
    /// What all its vectors have in common.
    fn identity(&self) -> &Identity;

    /// Embeds texts, in order.
    fn texts(self: Arc<Self>, texts: Vec<String>, wish: Treatment) -> impl Future<Output = Result<Vec<Embedding>, Fault>> + Send;

    /// Embeds a file, of which `seen` are the first bytes.
    fn file(self: Arc<Self>, path: &Path, seen: Vec<u8>, wish: Treatment) -> impl Future<Output = Result<Embedding, Fault>> + Send;

    /// Degradations that every reply has to mention.
    fn warnings(&self) -> Option<Vec<String>>;

    /// The reply of `Info`.
    fn info(&self) -> InfoOut;
}
