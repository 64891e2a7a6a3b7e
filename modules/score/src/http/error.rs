//! Why a server is not used, or gave no answer; and whether the same may work later.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use thiserror::Error;

use super::ANSWER_BYTES_MAX;
use super::dialect::AnswerError;
use crate::engine::EngineError;
use crate::onnx::folder::FolderError;

/// Why a server is not used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The tokens of its model are not known.
    #[error(transparent)]
    Tokens(#[from] FolderError),
    /// There is no way to ask it.
    #[error("no HTTP client")]
    Client(#[source] reqwest::Error),
    /// There is nothing to ask it on.
    #[error("no runtime for its answers")]
    Runtime(#[source] std::io::Error),
    /// It does not say which model it has.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Its answers cannot be right.
    #[error("{dialect} at {base} cannot be used")]
    Unusable {
        /// What kind of server it is.
        dialect: &'static str,
        /// Where.
        base: String,
        /// What it answered to a known text.
        #[source]
        source: ProbeError,
    },
}

/// What is wrong with the answers to a known text.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// There is none.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No probability is above 1.
    #[error("it gives log-probabilities above 0")]
    AboveZero,
    /// No model finds all words as likely.
    #[error("it gives every token the same log-probability")]
    Constant,
    /// What follows a token does not change its probability.
    #[error(
        "the same {tokens} tokens have the log-probability {within:.2} in a longer prompt and {alone:.2} alone"
    )]
    Inconsistent {
        /// So many.
        tokens: usize,
        /// Their log-probability in the longer one.
        within: f64,
        /// That without the rest.
        alone: f64,
    },
    /// Nor does it become likelier by that.
    #[error("a longer prompt is likelier than its beginning")]
    Growing,
    /// The same question has two answers.
    #[error("the same prompt has the log-probability {first:.3} and, asked again, {second:.3}")]
    Unsteady {
        /// At first.
        first: f64,
        /// Then.
        second: f64,
    },
    /// A figure is that of the next token.
    #[error(
        "token {place}'s log-probability changes with the token after it: the figures are off by one place"
    )]
    OffByOne {
        /// The token's place.
        place: usize,
    },
    /// The figures are those of sampling.
    #[error(
        "log-probabilities of a prompt change with the temperature: the server gives those of its sampling"
    )]
    Temperature,
    /// It does not read all of a prompt.
    #[error(
        "of {tokens} tokens the last do not depend on the first at all: the server cuts prompts without saying so; BRAHMAN_SCORE_WINDOW bounds them"
    )]
    CutContext {
        /// So long was it.
        tokens: usize,
    },
    /// It does not know these tokens.
    #[error(
        "a sentence that is repeated has {mean:.2} nats a token, mere chance {chance:.2}: the server has other weights, or another tokenizer, than {model}"
    )]
    Chance {
        /// Mean log-probability.
        mean: f64,
        /// That of all tokens alike.
        chance: f64,
        /// The folder of its tokenizer.
        model: String,
    },
    /// It is another model than the one whose figures are known.
    #[error(
        "token {place} of the reference has {found:.3} nats, expected {expected:.3}: the server has other weights than score_reference.json was made with"
    )]
    OtherWeights {
        /// The token's place.
        place: usize,
        /// What the server says.
        found: f64,
        /// What the reference says.
        expected: f64,
    },
    /// The reference is none.
    #[error("score_reference.json: {why}")]
    Reference {
        /// What was expected.
        why: String,
    },
    /// There is no conversation to try it with.
    #[error("no conversation could be put into tokens to try it: {why}")]
    NoConversation {
        /// Why.
        why: String,
    },
}

/// Why a server gave no answer, or none that can be used.
#[derive(Debug, Error)]
pub enum ServerError {
    /// It has no time.
    #[error("{url} answered {status}, {attempts} times")]
    Busy {
        /// What was asked.
        url: String,
        /// 429 or 503.
        status: StatusCode,
        /// How often it was asked.
        attempts: u32,
    },
    /// Nobody is there.
    #[error("{url}: no connection, {attempts} times")]
    NoConnection {
        /// What was asked.
        url: String,
        /// How often that was tried.
        attempts: u32,
        /// Cause.
        #[source]
        source: reqwest::Error,
    },
    /// It takes too long.
    #[error("{url} did not answer within {timeout:?}")]
    Late {
        /// What was asked.
        url: String,
        /// A request's time.
        timeout: Duration,
    },
    /// It began an answer and takes too long.
    #[error("{url} did not finish its answer within {timeout:?}")]
    Unfinished {
        /// What was asked.
        url: String,
        /// A request's time.
        timeout: Duration,
    },
    /// The request failed on its way.
    #[error("{url}")]
    Request {
        /// What was asked.
        url: String,
        /// Cause.
        #[source]
        source: reqwest::Error,
    },
    /// The answer failed on its way.
    #[error("{url} closed the connection after {bytes} bytes")]
    BrokeOff {
        /// What was asked.
        url: String,
        /// What had come.
        bytes: usize,
        /// Cause.
        #[source]
        source: reqwest::Error,
    },
    /// It never ends.
    #[error("{url} answered more than {ANSWER_BYTES_MAX} bytes")]
    TooLong {
        /// What was asked.
        url: String,
    },
    /// It is an error.
    #[error("{url} answered {status}: {shown}{hint}")]
    Status {
        /// What was asked.
        url: String,
        /// Which error.
        status: StatusCode,
        /// The beginning of what it says.
        shown: String,
        /// What to do.
        hint: &'static str,
    },
    /// It is no JSON.
    #[error("{url} answered what is not JSON: {shown}")]
    NotJson {
        /// What was asked.
        url: String,
        /// The beginning of what it says.
        shown: String,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// Nobody says which model it has.
    #[error("{base} does not name its model: set BRAHMAN_SCORE_SERVER_MODEL")]
    Unnamed {
        /// The server.
        base: String,
    },
    /// It lacks what was asked for.
    #[error("{base}")]
    Answer {
        /// The server.
        base: String,
        /// What it lacks.
        #[source]
        source: AnswerError,
    },
}

impl ServerError {
    /// Whether the same may work later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::NoConnection { .. }
            | Self::Late { .. }
            | Self::Unfinished { .. }
            | Self::Request { .. }
            | Self::BrokeOff { .. } => true,
            Self::Status { status, .. } => status.is_server_error(),
            Self::TooLong { .. }
            | Self::NotJson { .. }
            | Self::Unnamed { .. }
            | Self::Answer { .. } => false,
        }
    }
}

impl From<ServerError> for EngineError {
    fn from(error: ServerError) -> Self {
        Self::Server { retryable: error.is_retryable(), source: Arc::new(error) }
    }
}
