//! `org.brahman.Rerank`: texts in the order in which they answer a query.

use brahman_card_derive::wire;

use super::embed::{Device, FailedText, Gpu};

interface! {
    /// Texts in the order in which they answer a query.
    ///
    /// Of every answer: `fingerprint` is what scores depend on (files, window, cutting, activation,
    /// precision), `device` cpu or cuda:N, `mock` whether the scores are synthetic, `elapsed_us`
    /// the time in the provider, `precision` of the model's numbers, `sigmoid` whether scores are
    /// between 0 and 1, made so by the logistic function, as the model's own files want it.
    ///
    /// Scores of two models cannot be compared.
    "org.brahman.Rerank"
    methods {
        /// Reads the query together with each text, and gives a score a text, the best first;
        /// equals stay in the order of the call. A query and a text that are longer together than
        /// the model's window lose tokens, which the reply reports, unless `truncate` is false:
        /// then they are refused.
        Rerank(RerankIn) -> RerankOut: idempotent, long, reads;
        Info() -> InfoOut: idempotent, reads;
    }
    errors {
        /// A text and the query have more tokens together than the model's window, and the call
        /// says `truncate` = false; or the query leaves no room for a text, in a model that cuts
        /// texts only.
        PairTooLong { index: u64, tokens: u64, max_tokens: u64 }
        /// The model's output for a text was not finite, or inference failed.
        BadOutput { #[serde(skip_serializing_if = "Option::is_none")] index: Option<u64> }
        /// The device's memory does not hold a text and the query of so many tokens together, not
        /// even alone in their pass.
        OutOfMemory {
            #[serde(skip_serializing_if = "Option::is_none")] index: Option<u64>,
            tokens: u64
        }
    }
}

#[wire]
pub struct RerankIn {
    /// At least a word.
    pub query: String,
    /// Of none there is nothing to order, and nothing is answered. A model gives a score to an
    /// empty one, too.
    pub texts: Vec<String>,
    /// How many of the best are wanted; all unless said.
    pub top_n: Option<u64>,
    /// Cut what is too long instead of refusing it; true unless said, since a text's beginning
    /// mostly tells what it is about.
    pub truncate: Option<bool>,
    /// Answer although a text has no score: it is then not among the results, and `failed` says
    /// why. Else the call fails.
    pub partial: Option<bool>,
}

/// A text and how well it answers the query.
#[wire(Copy)]
pub struct RankedText {
    /// Place of the text in the call, from 0.
    pub index: u64,
    /// The higher the better.
    pub score: f32,
}

/// A text that was not read whole beside the query.
#[wire(Copy, Eq)]
pub struct PairTruncation {
    /// Place of the text in the call, from 0.
    pub index: u64,
    /// How many tokens query and text have together, special ones included.
    pub tokens: u64,
    /// How many of them were read.
    pub kept: u64,
    /// True where the query lost tokens, too.
    pub query: Option<bool>,
    /// True where the rest of a long text was not looked at: there are at least so many tokens.
    pub at_least: Option<bool>,
}

#[wire]
pub struct RerankOut {
    /// The best first.
    pub results: Vec<RankedText>,
    pub model: String,
    pub fingerprint: String,
    pub truncated: Vec<PairTruncation>,
    /// How many tokens went through the model, padding not counted.
    pub tokens: u64,
    pub device: String,
    pub elapsed_us: u64,
    pub mock: bool,
    pub sigmoid: bool,
    /// Absent of a mock.
    pub precision: Option<String>,
    /// Degradations, such as the CPU in place of a GPU.
    pub warnings: Option<Vec<String>>,
    /// With `partial`: absent if every text has a score.
    pub failed: Option<Vec<FailedText>>,
}

/// How a model makes scores, as its folder and its settings have it.
#[wire(Eq)]
pub struct RerankRecipe {
    /// The ONNX file, from the model's folder on.
    pub graph: String,
    /// The graph's output that is taken.
    pub output: String,
    /// Numbers that the graph gives a pair: one, or two, of which the score is the second less the
    /// first.
    pub labels: u64,
    /// What is applied to that, and which file says so.
    pub activation: String,
    /// What is cut where a pair is too long: `longest_first` or `only_second`.
    pub truncation: String,
    /// Which file says how many tokens a pair may have.
    pub window_source: String,
    /// Why each pair goes through the model by itself; absent if pairs share a pass.
    pub alone: Option<String>,
    /// What was said of the model outside its own files.
    pub overrides: Vec<String>,
}

#[wire]
pub struct InfoOut {
    pub model: String,
    pub fingerprint: String,
    /// Tokens that query and text may have together, special ones included; 0 of a provider without
    /// a window.
    pub max_tokens: u64,
    pub mock: bool,
    pub device: Device,
    pub sigmoid: bool,
    /// Absent of a mock, as `recipe` is.
    pub precision: Option<String>,
    /// Absent where there is no NVML.
    pub gpu: Option<Vec<Gpu>>,
    /// Inference library and version.
    pub runtime: Option<String>,
    /// Pairs waiting for inference.
    pub queue: u64,
    /// Pairs that went through the model since start.
    pub computed: u64,
    /// Pairs dropped from the queue because their caller hung up.
    pub cancelled: u64,
    pub recipe: Option<RerankRecipe>,
}
