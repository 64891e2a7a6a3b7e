//! The seam between the interface and what makes the scores.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::rerank::{InfoOut, PairTruncation};

/// What all scores of an engine have in common.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Name by which callers require it.
    pub model: String,
    /// What the scores depend on.
    pub fingerprint: String,
    /// Where it runs: `cpu` or `cuda:N`.
    pub device: String,
    /// Whether the scores are synthetic.
    pub mock: bool,
    /// Whether they come from the logistic function.
    pub sigmoid: bool,
    /// Of what kind the model's numbers are; none of a mock.
    pub precision: Option<String>,
}

impl Identity {
    /// What callers may require of a provider.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let pairs =
            [("model", &self.model), ("fingerprint", &self.fingerprint), ("device", &self.device)];
        pairs.map(|(name, value)| (name.to_owned(), value.clone())).into()
    }
}

/// What became of one text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairScore {
    /// What texts are ordered by: as the score, but told apart where many scores are as good as 1.
    pub relevance: f64,
    /// What a call is answered with.
    pub score: f32,
    /// Tokens that query and text have together.
    pub tokens: u32,
    /// How many of them were read.
    pub kept: u32,
    /// Whether the query lost tokens.
    pub cuts_query: bool,
    /// Whether there are at least so many tokens, because the rest was not looked at.
    pub is_least: bool,
}

impl PairScore {
    /// The report on a pair that was cut.
    #[must_use]
    pub fn truncation(&self, index: usize) -> Option<PairTruncation> {
        let report = PairTruncation {
            index: index as u64,
            tokens: self.tokens.into(),
            kept: self.kept.into(),
            query: self.cuts_query.then_some(true),
            at_least: self.is_least.then_some(true),
        };
        (self.kept < self.tokens).then_some(report)
    }
}

/// A text's score, or why it has none.
pub type PairOutcome = Result<PairScore, Fault>;

/// What makes scores of a query and texts.
pub trait Engine: Send + Sync + 'static {
    /// What all its scores have in common.
    fn identity(&self) -> &Identity;

    /// Scores each text beside the query, in the order of the texts; what is too long is refused
    /// unless `truncate`. A text that has no score loses no other.
    fn scores(
        self: Arc<Self>,
        query: String,
        texts: Vec<String>,
        truncate: bool,
    ) -> impl Future<Output = Result<Vec<PairOutcome>, Fault>> + Send;

    /// Degradations that every reply has to mention.
    fn warnings(&self) -> Option<Vec<String>>;

    /// The reply of `Info`.
    fn info(&self) -> InfoOut;
}
