//! The seam between what is asked and what gives log-probabilities.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use brahman_card::Fault;
use brahman_card::interface::score::{InfoOut, error};
use brahman_sidecar::{Deadline, chain};
use thiserror::Error;

use crate::chat::{ChatError, Templates};

/// A variable of the environment that is set to something.
#[must_use]
pub fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// A variable of the environment that is no number.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{name}={value}: expected a whole number above 0")]
pub struct NumberError {
    /// Name of the environment's variable.
    pub name: String,
    /// What it is set to.
    pub value: String,
}

/// A variable that is a whole number above 0.
///
/// # Errors
/// [`NumberError`].
pub fn number(name: &str) -> Result<Option<u64>, NumberError> {
    let read = |value: String| {
        let number = value.parse().ok().filter(|n| *n > 0);
        number.ok_or_else(|| NumberError { name: name.to_owned(), value })
    };
    var(name).map(read).transpose()
}

/// What all figures of an engine have in common.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name by which callers require it.
    pub model: String,
    /// What the figures depend on.
    pub fingerprint: String,
    /// How many tokens there are.
    pub vocabulary: u32,
    /// Tokens a conversation may have.
    pub window: usize,
    /// Tokens that its tokenizer puts before a text.
    pub first: Vec<u32>,
    /// `cpu`, `cuda:N`, or a server's address.
    pub device: String,
    /// Whether it is a mock.
    pub mock: bool,
}

impl Identity {
    /// What callers may require of a provider.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let window = self.window.to_string();
        let pairs = [
            ("model", &self.model),
            ("fingerprint", &self.fingerprint),
            ("window", &window),
            ("device", &self.device),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.clone())).into()
    }
}

/// Tokens, and the places whose log-probabilities are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// All its tokens, in their order.
    pub tokens: Vec<u32>,
    /// In order, apart, never place 0: nothing precedes it.
    pub wanted: Vec<Range<usize>>,
    /// Every response in it, in order, for servers that tell one figure a response; none of what is
    /// no conversation.
    pub responses: Vec<Range<usize>>,
}

/// Log-probabilities at the wanted places, one after the other.
pub type Scores = Result<Vec<f32>, EngineError>;

/// What a call has cost the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Tokens that went through the model.
    pub forwarded: u64,
    /// Tokens whose state was shared.
    pub reused: u64,
}

impl Work {
    /// Adds the figures of other work.
    pub fn add(&mut self, other: Work) {
        self.forwarded += other.forwarded;
        self.reused += other.reused;
    }
}

/// Why there are no figures.
#[derive(Clone, Debug, Error)]
pub enum EngineError {
    /// Nobody waits for them any more.
    #[error("the caller hung up")]
    Cancelled,
    /// Time is up.
    #[error("the deadline passed while scoring")]
    Deadline,
    /// Longer than the window.
    #[error(
        "the conversation has {tokens} tokens, the model's window is {window}: leave out entries, or score a part"
    )]
    TooLong {
        /// Tokens it has.
        tokens: usize,
        /// Tokens it may have.
        window: usize,
    },
    /// More passes than are held at once.
    #[error(
        "{rows} rows over {cells} cells would read {tokens} tokens: score one memory (ScoreMemory), a part of the conversation, or fewer memories"
    )]
    TooMuch {
        /// Removals.
        rows: usize,
        /// Of all passes.
        tokens: usize,
        /// Rows times responses.
        cells: usize,
    },
    /// A token that the model does not have.
    #[error("token {token} is not in the vocabulary, which has {vocabulary} (ids 0 to {}): were these ids made by this model's tokenizer?", vocabulary.saturating_sub(1))]
    NoSuchToken {
        /// Its id.
        token: u32,
        /// Tokens there are.
        vocabulary: u32,
    },
    /// The conversation does not go through its chat template.
    #[error(transparent)]
    Template(Arc<ChatError>),
    /// NaN or infinite.
    #[error("the model's output is not finite at token {at}")]
    BadOutput {
        /// Where.
        at: usize,
    },
    /// One pass does not fit.
    #[error(
        "one pass over {tokens} tokens needs {needed} bytes beyond the weights, the budget is {budget}; BRAHMAN_SCORE_BUDGET_MIB sets it"
    )]
    OutOfBudget {
        /// Of the conversation.
        tokens: usize,
        /// Bytes.
        needed: u64,
        /// Bytes.
        budget: u64,
    },
    /// The device's memory does not hold it.
    #[error(
        "{tokens} tokens take more memory than the device has free: free some (`brahman gpu` says who holds it), or score a part"
    )]
    OutOfMemory {
        /// Of the conversation, up to where it did not go on.
        tokens: usize,
    },
    /// The server behind the engine.
    #[error("the server failed")]
    Server {
        /// Address, what was asked, and what came back.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
        /// The same may work later.
        retryable: bool,
    },
    /// The library that runs the model.
    #[error("the model failed")]
    Failed(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// An engine that forgot a sequence.
    #[error("nothing was scored")]
    Nothing,
}

impl EngineError {
    /// What the library said.
    #[must_use]
    pub fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed(Arc::new(error))
    }

    /// What the chat template said.
    #[must_use]
    pub fn template(error: ChatError) -> Self {
        Self::Template(Arc::new(error))
    }

    /// Whether every other row would fail in the same way, so that going on is of no use.
    #[must_use]
    pub fn ends_the_call(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Deadline)
    }

    /// The error as it travels.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let message = chain(self);
        match self {
            Self::Cancelled => Fault::internal(message),
            Self::Deadline => Fault::deadline_exceeded("scoring"),
            Self::TooLong { tokens, window } => Fault::of(
                &error::ContextTooLong { tokens: *tokens as u64, window: *window as u64 },
                false,
                message,
            ),
            Self::NoSuchToken { token, vocabulary } => Fault::of(
                &error::NoSuchToken { token: (*token).into(), vocabulary: (*vocabulary).into() },
                false,
                message,
            ),
            Self::TooMuch { .. } => Fault::invalid_parameter("conversation", message),
            Self::Template(error) => match &**error {
                ChatError::Entry { place, .. } => Fault::invalid_parameter(place, message),
                ChatError::Option { field, .. } => Fault::invalid_parameter(field, message),
                ChatError::Helper { .. } => Fault::internal(message),
                _ => Fault::invalid_parameter("chat_template", message),
            },
            Self::BadOutput { .. } => Fault::of(&error::BadOutput {}, false, message),
            Self::OutOfBudget { needed, budget, .. } => {
                Fault::of(&error::OutOfBudget { needed: *needed, budget: *budget }, false, message)
            }
            Self::OutOfMemory { tokens } => {
                Fault::of(&error::OutOfMemory { tokens: *tokens as u64 }, false, message)
            }
            Self::Server { retryable, .. } => {
                Fault::of(&error::ServerFailed {}, *retryable, message)
            }
            Self::Failed(_) | Self::Nothing => Fault::internal(message),
        }
    }
}

/// Lets calls that go first go first, and comes back when they are done.
pub type Way = Arc<dyn Fn() + Send + Sync>;

/// When to stop: the caller has gone, or its deadline has passed. Between two looks no more than
/// one step of work is done, so this is also where another call may go first.
#[derive(Default)]
pub struct Stop {
    cancelled: AtomicBool,
    deadline: Deadline,
    way: OnceLock<Way>,
    priority: Option<i64>,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop")
            .field("cancelled", &self.cancelled)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Stop {
    /// At this time, if not before.
    #[must_use]
    pub fn at(deadline: Deadline) -> Self {
        Self { cancelled: AtomicBool::new(false), deadline, way: OnceLock::new(), priority: None }
    }

    /// The same for a call of this priority, for servers that have a queue of their own.
    #[must_use]
    pub fn of_priority(self, priority: Option<i64>) -> Self {
        Self { priority, ..self }
    }

    /// The caller's priority, if he has said one.
    #[must_use]
    pub fn priority(&self) -> Option<i64> {
        self.priority
    }

    /// From now on, has each look let others go first in this way. Only the first one counts.
    pub fn give_way(&self, way: &Way) {
        let _ = self.way.set(Arc::clone(way));
    }

    /// Has the work stop as soon as it can.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] or [`EngineError::Deadline`].
    pub fn check(&self) -> Result<(), EngineError> {
        if let Some(way) = self.way.get() {
            way();
        }
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(EngineError::Cancelled);
        }
        if self.deadline.has_passed() {
            return Err(EngineError::Deadline);
        }
        Ok(())
    }
}

/// What gives log-probabilities. Its methods block; they are called from one thread at a time.
pub trait Engine: Send + Sync + 'static {
    /// What all its figures have in common.
    fn identity(&self) -> &Identity;

    /// Text to tokens, without special ones.
    ///
    /// # Errors
    /// As the tokenizer gives them.
    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError>;

    /// Text to tokens as `encode` gives them, and where in the text each stands, in bytes.
    ///
    /// # Errors
    /// As the tokenizer gives them.
    fn encode_placed(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError>;

    /// The model's chat templates, if it may have some.
    fn templates(&self) -> Option<&Templates> {
        None
    }

    /// Tokens to text, as near as it gets.
    fn decode(&self, tokens: &[u32]) -> String;

    /// Scores sequences; `done` is told of each as soon as it is. A sequence that fails does not
    /// keep the others from being scored.
    ///
    /// # Errors
    /// Only what [ends the call](EngineError::ends_the_call).
    fn score(
        &self,
        sequences: &[Sequence],
        stop: &Stop,
        done: &mut dyn FnMut(usize, Scores),
    ) -> Result<Work, EngineError>;

    /// What `Info` says of it; queue and kept results aside.
    fn info(&self) -> InfoOut;
}
