//! Which server is asked, and how: from the environment, which may name a password only as a
//! secret.

use std::path::PathBuf;
use std::time::Duration;

use brahman_storage::secrets::{self, SecretError};
use thiserror::Error;

use super::dialect::Dialect;
use crate::engine::{NumberError, number, var};

/// The seed's own: a long prompt on a slow machine.
const TIMEOUT_S: u64 = 300;
/// Requests at once, unless said: servers batch what comes together.
const CONCURRENCY: u64 = 4;

/// Which server, and how.
#[derive(Clone)]
pub struct Settings {
    /// What kind of server it is.
    pub dialect: Dialect,
    /// Where, without a path.
    pub base: String,
    /// Directory with tokenizer.json and config.json of its model.
    pub tokenizer: PathBuf,
    /// The model's name there; asked of the server if it can tell.
    pub model: Option<String>,
    /// Sent as a bearer token.
    pub token: Option<String>,
    /// Longest time of one request.
    pub timeout: Duration,
    /// How many requests at once.
    pub concurrency: usize,
    /// Tokens a conversation may have, if not as server or configuration say.
    pub window: Option<usize>,
}

/// Why the environment names no server that can be asked.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The address.
    #[error("BRAHMAN_SCORE_SERVER={server}")]
    Server {
        /// What it says, unless there may be a password in it.
        server: String,
        /// What is wrong with it.
        #[source]
        source: AddressError,
    },
    /// Nobody says which tokens the server's model has.
    #[error(
        "BRAHMAN_SCORE_MODEL is not set: beside BRAHMAN_SCORE_SERVER it names a folder with tokenizer.json and config.json of the server's model"
    )]
    NoTokenizer,
    /// What is to be sent is written out, or is no name.
    #[error("BRAHMAN_SCORE_TOKEN: expected secret:NAME, an entry of the secrets file")]
    NoSecret,
    /// The secret cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The secret has nothing to send.
    #[error("secret [{name}] has no password")]
    NoPassword {
        /// Its name.
        name: String,
    },
    /// A number.
    #[error(transparent)]
    Number(#[from] NumberError),
}

/// What is wrong with a server's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// It does not say what kind of server that is, or where.
    #[error(
        "expected vllm+http://HOST:PORT, sglang+…, completions+… (llamacpp+… is the same) or brahman+… (or https)"
    )]
    Shape,
    /// A password among what everybody may read.
    #[error("no user or password here: BRAHMAN_SCORE_TOKEN names a secret")]
    Password,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("dialect", &self.dialect)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// From the environment; `None` if no server is named.
    ///
    /// # Errors
    /// [`SettingsError`], which names the variable.
    pub fn from_env() -> Result<Option<Self>, SettingsError> {
        let Some(server) = var("BRAHMAN_SCORE_SERVER") else { return Ok(None) };
        let (dialect, base) = Self::address(&server).map_err(|source| {
            // Somebody may have written a password there.
            let server = if server.contains('@') { "…".to_owned() } else { server.clone() };
            SettingsError::Server { server, source }
        })?;
        let tokenizer =
            var("BRAHMAN_SCORE_MODEL").map(PathBuf::from).ok_or(SettingsError::NoTokenizer)?;
        let token = var("BRAHMAN_SCORE_TOKEN").map(|name| token(&name)).transpose()?;
        let small = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Ok(Some(Self {
            dialect,
            base,
            tokenizer,
            model: var("BRAHMAN_SCORE_SERVER_MODEL"),
            token,
            timeout: Duration::from_secs(number("BRAHMAN_SCORE_TIMEOUT_S")?.unwrap_or(TIMEOUT_S)),
            concurrency: small(number("BRAHMAN_SCORE_CONCURRENCY")?.unwrap_or(CONCURRENCY)),
            window: number("BRAHMAN_SCORE_WINDOW")?.map(small),
        }))
    }

    /// `vllm+http://host:port`.
    fn address(server: &str) -> Result<(Dialect, String), AddressError> {
        let (dialect, base) = server.split_once('+').ok_or(AddressError::Shape)?;
        let dialect = match dialect {
            "vllm" => Dialect::Vllm,
            "sglang" => Dialect::Sglang,
            "brahman" => Dialect::Brahman,
            "completions" | "llamacpp" | "llama.cpp" => Dialect::Completions,
            _ => return Err(AddressError::Shape),
        };
        let rest = base
            .strip_prefix("http://")
            .or_else(|| base.strip_prefix("https://"))
            .ok_or(AddressError::Shape)?;
        if rest.contains('@') {
            return Err(AddressError::Password);
        }
        Ok((dialect, base.trim_end_matches('/').to_owned()))
    }
}

/// The password of `secret:NAME`.
fn token(name: &str) -> Result<String, SettingsError> {
    let name = name.strip_prefix("secret:").ok_or(SettingsError::NoSecret)?;
    let found = secrets::read(&secrets::file(), name)?;
    found.password.ok_or_else(|| SettingsError::NoPassword { name: name.to_owned() })
}
