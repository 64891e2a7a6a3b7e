//! Why a server is not used, or gave no vectors; what that means for whoever asked, and whether the
//! same may work later.

use std::time::Duration;

use brahman_card::Fault;
use brahman_card::chain;
use brahman_card::interface::broker::error::ProviderFailed;
use brahman_card::interface::embed::error::BadOutput;
use brahman_storage::checked::CheckedError;
use reqwest::StatusCode;
use thiserror::Error;

use super::dialect::AnswerError;

/// Bytes of an answer: a request's texts, at a vector's longest, have a tenth of it.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
/// When to come back to a server that is busy and does not say when.
const BUSY_MS: u64 = 1000;

/// Why a server gave no answer, or none that can be used.
#[derive(Debug, Error)]
pub enum ServerError {
    /// It has no time, or is broken at present.
    #[error("{url} answered {status}, {attempts} times: {shown}")]
    Busy {
        /// What was asked.
        url: String,
        /// 429, or one of its own errors.
        status: StatusCode,
        /// How often it was asked.
        attempts: u32,
        /// When it wants to be asked again, if it says so.
        after: Option<Duration>,
        /// The beginning of what it says.
        shown: String,
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
    /// Its caller does not wait as long as a server may take, which says nothing of the server.
    #[error("{url}: the caller's deadline came before {awaited}")]
    OutOfTime {
        /// What was asked, or would have been.
        url: String,
        /// What did not come in time.
        awaited: &'static str,
    },
    /// The request or its answer was lost on the way.
    #[error("{url}: the answer broke off after {bytes} bytes, {attempts} times")]
    BrokeOff {
        /// What was asked.
        url: String,
        /// What had come.
        bytes: usize,
        /// How often it was asked.
        attempts: u32,
        /// Cause.
        #[source]
        source: reqwest::Error,
    },
    /// It cannot be sent.
    #[error("{url}: the request cannot be sent")]
    Request {
        /// What was asked.
        url: String,
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
    /// It wants another key, or one at all.
    #[error("{url} answered {status}: {key}; it says: {shown}")]
    Denied {
        /// What was asked.
        url: String,
        /// 401 or 403.
        status: StatusCode,
        /// Which key was sent, and what to do.
        key: String,
        /// The beginning of what it says.
        shown: String,
    },
    /// It refuses the request: for what is in a text, for all that is known.
    #[error("{url} answered {status}: {shown}")]
    Refused {
        /// What was asked.
        url: String,
        /// 400, 413 or 422.
        status: StatusCode,
        /// The beginning of what it says.
        shown: String,
    },
    /// It is an error that has nothing to do with the texts, such as a model that is not there.
    #[error("{url} answered {status}: {shown}")]
    Status {
        /// What was asked.
        url: String,
        /// Which error.
        status: StatusCode,
        /// The beginning of what it says.
        shown: String,
    },
    /// It makes no sense.
    #[error("{url}: {shown}")]
    Answer {
        /// What was asked.
        url: String,
        /// The beginning of what it says.
        shown: String,
        /// What is wrong with it.
        #[source]
        source: AnswerError,
    },
    /// Its vectors have another length than they had.
    #[error(
        "{url} gives vectors of {got} numbers for model {model}, expected {expected}: it is another model, whatever it is called"
    )]
    Dimension {
        /// What was asked.
        url: String,
        /// The model's name.
        model: String,
        /// Length that came.
        got: usize,
        /// Length until now.
        expected: usize,
    },
    /// A known text has another vector than it had.
    #[error(
        "{url} gives a known text another vector for model {model} (cosine {cosine:.4}): it is another model, whatever it is called"
    )]
    OtherModel {
        /// What was asked.
        url: String,
        /// The model's name.
        model: String,
        /// Between the two.
        cosine: f32,
    },
}

impl ServerError {
    /// Whether the same request may go through later, so that it is tried again.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::NoConnection { .. } | Self::BrokeOff { .. })
    }

    /// Whether nobody is served at present: what others ask meanwhile would go the same way.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::NoConnection { .. } | Self::Late { .. } | Self::BrokeOff { .. } => true,
            Self::Busy { status, .. } => *status != StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }

    /// Whether it is the caller that did not wait: others, and this one with more time, may be
    /// served.
    #[must_use]
    pub fn is_out_of_time(&self) -> bool {
        matches!(self, Self::OutOfTime { .. })
    }

    /// Whether it may be one of the texts, so that the others are to be asked for without it.
    #[must_use]
    pub fn is_of_texts(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Answer { .. } | Self::TooLong { .. })
    }

    /// Whether the model is not what it was: nothing of it may be used from then on.
    #[must_use]
    pub fn is_other_model(&self) -> bool {
        matches!(self, Self::Dimension { .. } | Self::OtherModel { .. })
    }

    /// When the server wants to be asked again, if it says so.
    #[must_use]
    pub fn after(&self) -> Option<Duration> {
        match self {
            Self::Busy { after, .. } => *after,
            _ => None,
        }
    }

    /// The same, of a request that was made so often.
    #[must_use]
    pub fn attempted(mut self, times: u32) -> Self {
        if let Self::Busy { attempts, .. }
        | Self::NoConnection { attempts, .. }
        | Self::BrokeOff { attempts, .. } = &mut self
        {
            *attempts = times;
        }
        self
    }

    /// What a caller of the module of this label is told. What somebody else may be able to do is
    /// `ProviderFailed`, so that somebody else is asked.
    #[must_use]
    pub fn fault(&self, label: &str) -> Fault {
        let message = chain(self);
        match self {
            Self::Busy { status, after, .. } if *status == StatusCode::TOO_MANY_REQUESTS => {
                let ms = after
                    .map_or(BUSY_MS, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
                Fault::overloaded(message, ms)
            }
            Self::OutOfTime { url, awaited } => {
                Fault::deadline_exceeded(format!("waiting for {awaited} at {url}"))
            }
            error if error.is_of_texts() => Fault::of(&BadOutput { index: None }, false, message),
            error => {
                let retryable = error.is_passing() || error.is_outage();
                Fault::of(&ProviderFailed { label: label.to_owned() }, retryable, message)
            }
        }
    }
}

/// What is wrong with what a server answers to known texts.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// There is no answer.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A vector of nothing.
    #[error("it gives vectors without a number that counts")]
    NoNumbers,
    /// Texts of different meaning are the same to it.
    #[error("it gives two different texts the same vector")]
    Constant,
    /// The same text is not the same to it.
    #[error("it gives the same text vectors that are {distance:.3} apart, expected at most {most}")]
    Unstable {
        /// Between two of length 1.
        distance: f32,
        /// What would do.
        most: f32,
    },
    /// Which vector is whose cannot be told.
    #[error("it gives vectors in another order than the texts'")]
    Order,
}

/// Why a server is not used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no way to ask it.
    #[error("no HTTP client")]
    Client(#[source] reqwest::Error),
    /// It does not say what is needed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Nobody says which model it has.
    #[error("{base} does not name its model: set BRAHMAN_EMBED_SERVER_MODEL")]
    Unnamed {
        /// The server.
        base: String,
    },
    /// Its answers cannot be right.
    #[error("{server} cannot be used")]
    Unusable {
        /// What kind of server it is, and where.
        server: String,
        /// What it answered to known texts.
        #[source]
        source: ProbeError,
    },
    /// It answers otherwise than at first.
    #[error(
        "the model behind the name has changed since {} was written: set BRAHMAN_EMBED_REVISION to another word, so that its \
         vectors are not mixed with the former ones, and migrate the indexes",
        record.display()
    )]
    Changed {
        /// What it was like is written there.
        record: std::path::PathBuf,
        /// What is different.
        #[source]
        source: ServerError,
    },
    /// What it was like at first is not known any more.
    #[error("what the server was like at first cannot be read")]
    Record(#[from] CheckedError),
    /// Vectors cannot be cut to that.
    #[error(
        "BRAHMAN_EMBED_DIMENSIONS has {length}, expected less than the {dim} numbers of a vector"
    )]
    Dimensions {
        /// Too long a one.
        length: usize,
        /// The vectors' own.
        dim: usize,
    },
    /// A thread that opens the cache has ended.
    #[error("the vector cache cannot be opened")]
    Cache(#[source] tokio::task::JoinError),
}

impl OpenError {
    /// Whether the same may work later, without anybody's doing.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        // The deadline is this module's own there.
        let passes =
            |error: &ServerError| error.is_passing() || error.is_outage() || error.is_out_of_time();
        match self {
            Self::Server(error) => passes(error),
            Self::Unusable { source: ProbeError::Server(error), .. } => passes(error),
            Self::Cache(_) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(status: StatusCode, after: Option<Duration>) -> ServerError {
        ServerError::Busy {
            url: "http://x/embed".into(),
            status,
            attempts: 0,
            after,
            shown: "no".into(),
        }
    }

    #[test]
    fn a_fault_says_whether_somebody_else_may_be_asked() {
        let limited =
            busy(StatusCode::TOO_MANY_REQUESTS, Some(Duration::from_secs(7))).attempted(3);
        let fault = limited.fault("embed-http");
        assert_eq!(
            (&*fault.name, &fault.parameters["retry_after_ms"]),
            ("org.brahman.Broker.Overloaded", &7000.into())
        );
        assert!(
            fault.message().contains("429")
                && fault.message().contains("3 times")
                && !limited.is_outage()
                && limited.is_passing()
        );
        let broken = busy(StatusCode::BAD_GATEWAY, None);
        let fault = broken.fault("embed-http");
        assert_eq!(
            (&*fault.name, &fault.parameters["label"]),
            ("org.brahman.Broker.ProviderFailed", &"embed-http".into())
        );
        assert!(fault.retryable() && broken.is_outage());
        let refused = ServerError::Refused {
            url: "u".into(),
            status: StatusCode::PAYLOAD_TOO_LARGE,
            shown: "long".into(),
        };
        assert_eq!(refused.fault("embed-http").name, "org.brahman.Embed.BadOutput");
        let hasty = ServerError::OutOfTime { url: "u".into(), awaited: "an answer" };
        let fault = hasty.fault("embed-http");
        assert!(
            fault.name == "org.brahman.Broker.DeadlineExceeded"
                && fault.message().contains("an answer at u"),
            "{fault}"
        );
        assert!(!hasty.is_outage() && !hasty.is_passing() && !hasty.is_of_texts());
        let other =
            ServerError::Dimension { url: "u".into(), model: "m".into(), got: 8, expected: 4 };
        assert!(
            other.is_other_model()
                && !other.fault("embed-http").retryable()
                && !other.is_of_texts()
        );
    }
}
