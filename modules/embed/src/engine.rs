//! The seam between the interface and what makes the vectors.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::embed::{InfoOut, TextTokens, Truncation};
use brahman_models::layout::TextRole;
use brahman_sidecar::Deadline;

/// Bytes of a file that are read, hashed and embedded.
pub const FILE_BYTES_SEEN: usize = 8 * 1024;
/// Longest prompt of a call's own: those of models have some hundred bytes.
const PROMPT_BYTES_MAX: usize = 8 * 1024;

/// What all vectors of an engine have in common.
#[derive(Clone, Debug, Default)]
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
    /// Of what kind the model's numbers are; empty for a mock.
    pub precision: String,
    /// Whether vectors have length 1.
    pub normalized: bool,
    /// How they are to be compared, as the model's folder says it.
    pub similarity: Option<String>,
    /// Lengths to which a call may have vectors cut, least first.
    pub dimensions: Vec<usize>,
}

impl Identity {
    /// What callers may require of a provider.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let pairs = [
            ("model", &self.model),
            ("fingerprint", &self.fingerprint),
            ("dim", &self.dim.to_string()),
            ("device", &self.device),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.clone())).into()
    }

    /// The length to which a call wants vectors cut, if it wants that.
    ///
    /// # Errors
    /// `InvalidParameter` unless the model was trained for that length.
    pub fn cut(&self, dimensions: Option<u64>) -> Result<Option<usize>, Fault> {
        let Some(wanted) = dimensions else { return Ok(None) };
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        if wanted == self.dim {
            return Ok(None);
        }
        if self.dimensions.contains(&wanted) && wanted < self.dim {
            return Ok(Some(wanted));
        }
        let trained: Vec<String> =
            self.dimensions.iter().filter(|n| **n < self.dim).map(usize::to_string).collect();
        let said = if trained.is_empty() {
            format!(
                "{} is not known to be trained for vectors cut short; it gives {} numbers (`dimensions` in its brahman.json may say more)",
                self.model, self.dim
            )
        } else {
            format!(
                "{} gives {} numbers, or the first {}",
                self.model,
                self.dim,
                trained.join(", ")
            )
        };
        Err(Fault::invalid_parameter("dimensions", format!("{wanted}: {said}")))
    }

    /// What the vectors of a call depend on: of vectors that are cut, their length as well.
    #[must_use]
    pub fn fingerprint_of(&self, cut: Option<usize>) -> String {
        cut.map_or_else(|| self.fingerprint.clone(), |dim| format!("{}/{dim}", self.fingerprint))
    }
}

/// Which prompt a call wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptRequest {
    /// What its texts are for.
    pub role: Option<TextRole>,
    /// One of the model's prompts.
    pub name: Option<String>,
    /// A prompt in words.
    pub text: Option<String>,
}

impl PromptRequest {
    /// From a call's parameters.
    ///
    /// # Errors
    /// `InvalidParameter`, which names the one that makes no sense.
    pub fn read(
        role: Option<&str>,
        name: Option<String>,
        text: Option<String>,
    ) -> Result<Self, Fault> {
        let role = match role {
            None => None,
            Some("query") => Some(TextRole::Query),
            Some("document") => Some(TextRole::Document),
            Some(other) => {
                return Err(Fault::invalid_parameter(
                    "role",
                    format!("`{other}`, expected query or document"),
                ));
            }
        };
        if name.is_some() && text.is_some() {
            return Err(Fault::invalid_parameter(
                "prompt",
                "expected one of `prompt` and `prompt_name`, not both",
            ));
        }
        if let Some(text) = text.as_ref().filter(|text| text.len() > PROMPT_BYTES_MAX) {
            return Err(Fault::invalid_parameter(
                "prompt",
                format!("{} bytes, expected at most {PROMPT_BYTES_MAX}", text.len()),
            ));
        }
        Ok(Self { role, name, text })
    }
}

/// The prompt that a call gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenPrompt {
    /// In words; empty for none.
    pub text: Arc<str>,
    /// What the caller should know of the choice.
    pub warning: Option<String>,
}

/// How a call wants its texts treated.
#[derive(Clone, Debug)]
pub struct Treatment {
    /// Cut what is too long instead of refusing it.
    pub truncate: bool,
    /// When nobody waits any more.
    pub deadline: Deadline,
    /// What is put before each text.
    pub prompt: Arc<str>,
}

/// What became of one text.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// Its direction, with a length of 1 if the engine's vectors have that.
    pub vector: Arc<[f32]>,
    /// Whether it was not computed for this call.
    pub cached: bool,
    /// Tokens the text has.
    pub tokens: u32,
    /// How many of them were embedded.
    pub kept: u32,
    /// Whether it has at least so many, because the rest was not looked at.
    pub is_least: bool,
    /// How many of those that were embedded the vocabulary does not have.
    pub unknown: u32,
}

impl Embedding {
    /// The report on a text that was cut.
    #[must_use]
    pub fn truncation(&self, index: usize) -> Option<Truncation> {
        let at_least = self.is_least.then_some(true);
        let report = Truncation {
            index: index as u64,
            tokens: self.tokens.into(),
            kept: self.kept.into(),
            at_least,
        };
        (self.kept < self.tokens).then_some(report)
    }
}

/// A text's vector, or why it has none.
pub type TextOutcome = Result<Embedding, Fault>;

/// What makes vectors of texts and files.
pub trait Engine: Send + Sync + 'static {
    /// What all its vectors have in common.
    fn identity(&self) -> &Identity;

    /// The prompt that a call gets.
    ///
    /// # Errors
    /// `InvalidParameter` if the model has no prompt of the name that is given.
    fn prompt(&self, wanted: &PromptRequest) -> Result<ChosenPrompt, Fault>;

    /// Embeds texts, in order. A text that has no vector loses no other.
    fn texts(
        self: Arc<Self>,
        texts: Vec<String>,
        wish: Treatment,
    ) -> impl Future<Output = Result<Vec<TextOutcome>, Fault>> + Send;

    /// Embeds a file, of which `seen` are the first bytes.
    fn file(
        self: Arc<Self>,
        path: &Path,
        seen: Vec<u8>,
        wish: Treatment,
    ) -> impl Future<Output = TextOutcome> + Send;

    /// Counts the tokens of texts, in order, and says where they lie if `offsets`.
    fn tokenize(
        self: Arc<Self>,
        texts: Vec<String>,
        prompt: Arc<str>,
        offsets: bool,
    ) -> impl Future<Output = Result<Vec<TextTokens>, Fault>> + Send;

    /// Degradations that every reply has to mention.
    fn warnings(&self) -> Option<Vec<String>>;

    /// The reply of `Info`.
    fn info(&self) -> InfoOut;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_cut_only_where_the_model_was_trained_for_it() {
        let mut identity = Identity {
            model: "m".to_owned(),
            fingerprint: "f".to_owned(),
            dim: 384,
            ..Identity::default()
        };
        assert_eq!(identity.cut(None), Ok(None));
        assert_eq!(identity.cut(Some(384)), Ok(None));
        let refused = identity.cut(Some(128)).expect_err("not trained for it");
        assert!(
            refused.message().contains("brahman.json") && refused.message().contains("128"),
            "{refused}"
        );
        identity.dimensions = vec![64, 128, 384, 512];
        assert_eq!(identity.cut(Some(128)), Ok(Some(128)));
        for wanted in [0, 65, 512, u64::MAX] {
            assert!(
                identity.cut(Some(wanted)).expect_err("refused").message().contains("64, 128"),
                "{wanted}"
            );
        }
        assert_eq!(
            (identity.fingerprint_of(None), identity.fingerprint_of(Some(64))),
            ("f".to_owned(), "f/64".to_owned())
        );
    }

    #[test]
    fn a_prompt_is_asked_for_in_one_way() {
        let read = |role, name: Option<&str>, text: Option<&str>| {
            PromptRequest::read(role, name.map(str::to_owned), text.map(str::to_owned))
        };
        assert_eq!(read(Some("query"), None, None).expect("a role").role, Some(TextRole::Query));
        assert!(
            read(Some("question"), None, None).expect_err("no role").message().contains("document")
        );
        assert!(read(None, Some("a"), Some("b")).is_err());
        assert!(read(None, None, Some(&"x".repeat(10_000))).is_err());
    }
}
