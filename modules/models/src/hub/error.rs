//! Why there is no file of the hub, and what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::settings::Token;

/// Why there is no file of the hub.
#[derive(Debug, Error)]
pub enum HubError {
    /// The hub cannot be reached.
    #[error(
        "{url} cannot be reached; HF_ENDPOINT names another hub, HF_HUB_OFFLINE=1 takes what the hub's cache has"
    )]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Cause; in a box because it is large.
        #[source]
        source: Box<ureq::Error>,
    },
    /// It lets this caller read nothing.
    #[error("{repository} cannot be read (HTTP {status}): {}", denial(.is_gated, .token.as_deref(), .page))]
    Denied {
        /// `OWNER/NAME`.
        repository: String,
        /// 401 or 403.
        status: u16,
        /// Whether its conditions have to be accepted first.
        is_gated: bool,
        /// Where the token was found that was sent, if one was.
        token: Option<String>,
        /// The repository's page.
        page: String,
    },
    /// There is no such thing.
    #[error("{url} does not exist (HTTP 404): expected {what}")]
    NotFound {
        /// What was asked for.
        url: String,
        /// What should be there.
        what: &'static str,
    },
    /// Too much was asked for.
    #[error("{url} wants fewer requests (HTTP 429){}; with a token in HF_TOKEN the hub allows more", patience(.after))]
    Limited {
        /// What was asked for.
        url: String,
        /// When to come again, if it says so.
        after: Option<Duration>,
    },
    /// Where the hub has led is not open any more, as after some hours.
    #[error("{url} has closed (HTTP {status}), where the hub had led")]
    Expired {
        /// Where, without the signature.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// Another status.
    #[error("{url} answers with HTTP {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// The connection ended, or stood still, in the middle.
    #[error("{file} was cut off after {bytes} of {expected} bytes")]
    Cut {
        /// Which file.
        file: String,
        /// What is there.
        bytes: u64,
        /// What there should be.
        expected: u64,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The server of the file has one of another length than the hub says.
    #[error(
        "{file} has {found} bytes where the hub says {expected}: it is not what was announced and was not used"
    )]
    Length {
        /// Which file.
        file: String,
        /// What came, or was announced.
        found: u64,
        /// What the hub says.
        expected: u64,
    },
    /// Another content.
    #[error(
        "{file} has {kind} {found} where the hub says {expected}: it is not what was announced and was removed"
    )]
    Content {
        /// Which file.
        file: String,
        /// `sha256` or git's id.
        kind: &'static str,
        /// What it is.
        found: String,
        /// What the hub says.
        expected: String,
    },
    /// The hub does not say what a file should be.
    #[error(
        "{url} names no sha256 and no git id of the file (ETag `{etag}`), or no length: it cannot be checked and was not fetched"
    )]
    Unchecked {
        /// What was asked for.
        url: String,
        /// What it says.
        etag: String,
    },
    /// A reply that is no JSON, or not the right one.
    #[error("{url} answers with something that is no description of a repository")]
    Unparsed {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A reply that makes no sense.
    #[error("{url} answers with something that is no description of a repository: {why}")]
    Reply {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no room.
    #[error(
        "{} has no room: {needed} more bytes are needed, {free} are free; HF_HUB_CACHE names another folder, and the pull goes on where it \
         stopped",
        .folder.display()
    )]
    DiskFull {
        /// Where.
        folder: PathBuf,
        /// Bytes that are yet to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The cache cannot be used.
    #[error("{}", .path.display())]
    Cache {
        /// Which file or folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// What is to be removed is being written.
    #[error(
        "{} is being written by another process, which holds {}: nothing was removed; wait for it to end",
        .folder.display(),
        .lock.display()
    )]
    InUse {
        /// The repository's folder.
        folder: PathBuf,
        /// The file's lock.
        lock: PathBuf,
    },
    /// Nobody may be asked.
    #[error("{what} is not in the hub's cache ({}), and HF_HUB_OFFLINE forbids asking for it", .cache.display())]
    Offline {
        /// What is wanted.
        what: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
}

impl HubError {
    pub(super) fn denied(
        repository: String,
        status: u16,
        is_gated: bool,
        token: Option<&Token>,
        page: String,
    ) -> Self {
        Self::Denied {
            repository,
            status,
            is_gated,
            token: token.map(|token| token.origin.clone()),
            page,
        }
    }

    /// Whether the same may go well in a while.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Limited { .. } | Self::Expired { .. } | Self::Cut { .. } | Self::InUse { .. } => {
                true
            }
            // Where nobody listens nobody will in a second.
            Self::Unreachable { source, .. } => match &**source {
                ureq::Error::Timeout(_) => true,
                ureq::Error::Io(error) => error.kind() != io::ErrorKind::ConnectionRefused,
                _ => false,
            },
            Self::Status { status, .. } => *status >= 500 || *status == 408,
            _ => false,
        }
    }

    /// How long the hub wants to be left alone, if it says so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited { after, .. } => *after,
            _ => None,
        }
    }

    /// Whether there is no such thing.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Offline { .. })
    }
}

fn denial(is_gated: &bool, token: Option<&str>, page: &str) -> String {
    let conditions = if *is_gated {
        format!("its conditions have to be accepted at {page} first, and ")
    } else {
        String::new()
    };
    match token {
        None if *is_gated => {
            format!("{conditions}HF_TOKEN has to hold a token of whoever accepted them")
        }
        None => format!(
            "it is private, gated or not there ({page}): set HF_TOKEN to a token that may read it"
        ),
        Some(origin) => {
            format!(
                "{conditions}the token of {origin} may not read it ({page}), or it is not there: set HF_TOKEN to one that may"
            )
        }
    }
}

fn patience(after: &Option<Duration>) -> String {
    after.map(|after| format!(", in {} s", after.as_secs())).unwrap_or_default()
}
