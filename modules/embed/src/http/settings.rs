//! Which server is asked, and how: from the environment, which may name a password only as a
//! secret.

use std::path::{Path, PathBuf};
use std::time::Duration;

use brahman_models::layout::Prompts;
use brahman_storage::secrets::{self, SecretError};
use thiserror::Error;

use super::dialect::Dialect;

/// A batch of long texts on a slow machine.
const TIMEOUT_S: u64 = 30;
/// Requests at once, unless said: servers batch what comes together.
const CONCURRENCY: u64 = 4;
/// Texts of a request, unless said: what TEI takes as it is shipped.
const BATCH: u64 = 32;
/// More of either than any server bears.
const CONCURRENCY_MAX: u64 = 256;
const BATCH_MAX: u64 = 2048;
/// The longest that one request may take.
const TIMEOUT_MAX_S: u64 = 3600;
/// How long a server is taken for what it was: what another model gives meanwhile is not told
/// apart, so it is short; one known text costs next to nothing.
const CHECK_PAUSE: Duration = Duration::from_secs(60);
/// Vectors kept, unless `BRAHMAN_EMBED_CACHE_MIB` says otherwise; the most that it may say.
const CACHE_MIB: u64 = 1024;
const CACHE_MIB_MAX: u64 = 1 << 30;
/// Longest prompt: those of models have some hundred bytes.
const PROMPT_BYTES_MAX: usize = 8 * 1024;
/// Lengths to which vectors may be cut.
const DIMENSIONS_MAX: usize = 64;

/// A key, and where it stands.
#[derive(Clone)]
pub struct ServerKey {
    /// Entry of the secrets file.
    pub secret: String,
    /// Sent as a bearer token.
    pub value: String,
}

impl std::fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerKey([{}])", self.secret)
    }
}

/// Which server, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How it is spoken to.
    pub dialect: Dialect,
    /// Where, without the path that the dialect has.
    pub base: String,
    /// The model's name there; asked of the server if it can tell.
    pub model: Option<String>,
    /// The key that it wants.
    pub key: Option<ServerKey>,
    /// Longest time of one request.
    pub timeout: Duration,
    /// After so long the server is asked for a known text again, before it is asked for anything
    /// else.
    pub check_pause: Duration,
    /// How many requests at once.
    pub concurrency: usize,
    /// How many texts a request has at most.
    pub batch: usize,
    /// What is put before texts.
    pub prompts: Prompts,
    /// Lengths to which vectors may be cut, because the model was trained for it; least first.
    pub dimensions: Vec<usize>,
    /// A word that tells the model apart from an earlier one of its name; empty if none was needed
    /// yet.
    pub revision: String,
    /// Folder of the vector cache.
    pub vectors: PathBuf,
    /// Bytes that it may have.
    pub vectors_bytes: u64,
}

/// Why the environment names no server that can be asked.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// There is none.
    #[error(
        "BRAHMAN_EMBED_SERVER is not set: expected openai+http://HOST:PORT, ollama+… or tei+… (or https)"
    )]
    NoServer,
    /// The address.
    #[error("BRAHMAN_EMBED_SERVER={server}")]
    Server {
        /// What it says, unless there may be a password in it.
        server: String,
        /// What is wrong with it.
        #[source]
        source: AddressError,
    },
    /// Nobody says which model it is.
    #[error("BRAHMAN_EMBED_SERVER_MODEL is not set: {dialect} wants the name of a model")]
    NoModel {
        /// What kind of server it is.
        dialect: &'static str,
    },
    /// A number.
    #[error("{name}={value}: expected a whole number from 1 to {most}")]
    Number {
        /// The variable.
        name: &'static str,
        /// What it says.
        value: String,
        /// The most that it may say.
        most: u64,
    },
    /// Lengths of vectors.
    #[error(
        "BRAHMAN_EMBED_DIMENSIONS={value}: expected up to {DIMENSIONS_MAX} lengths with commas between them, such as 256,512"
    )]
    Dimensions {
        /// What it says.
        value: String,
    },
    /// A prompt.
    #[error("{name}: {bytes} bytes, expected at most {PROMPT_BYTES_MAX}")]
    Prompt {
        /// The variable.
        name: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// What is to be sent is written out, or is no name.
    #[error("BRAHMAN_EMBED_TOKEN: expected secret:NAME, an entry of the secrets file")]
    NoSecret,
    /// The secret cannot be had.
    #[error("BRAHMAN_EMBED_TOKEN")]
    Secret(#[from] SecretError),
    /// The secret has nothing to send.
    #[error("BRAHMAN_EMBED_TOKEN: secret [{name}] has no password")]
    NoPassword {
        /// Its name.
        name: String,
    },
}

/// What is wrong with a server's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// It does not say what kind of server that is, or where.
    #[error(
        "expected openai+http://HOST:PORT, ollama+http://HOST:PORT or tei+http://HOST:PORT (or https)"
    )]
    Shape,
    /// A password among what everybody may read.
    #[error("no user or password here: BRAHMAN_EMBED_TOKEN names a secret")]
    Password,
    /// What stands behind a path.
    #[error("no query or fragment here")]
    Query,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number(name: &'static str, otherwise: u64, most: u64) -> Result<u64, SettingsError> {
    let Some(value) = variable(name) else { return Ok(otherwise) };
    value.parse().ok().filter(|n| (1..=most).contains(n)).ok_or(SettingsError::Number {
        name,
        value,
        most,
    })
}

impl Settings {
    /// From the environment, for the module of this label.
    ///
    /// # Errors
    /// [`SettingsError`], which names the variable.
    pub fn from_env(cache: &Path, label: &str) -> Result<Self, SettingsError> {
        let server = variable("BRAHMAN_EMBED_SERVER").ok_or(SettingsError::NoServer)?;
        let (dialect, base) = address(&server).map_err(|source| {
            // Somebody may have written a password there.
            let server = if server.contains('@') { "…".to_owned() } else { server.clone() };
            SettingsError::Server { server, source }
        })?;
        let model = variable("BRAHMAN_EMBED_SERVER_MODEL");
        if model.is_none() && dialect.about().is_none() {
            return Err(SettingsError::NoModel { dialect: dialect.name() });
        }
        let small = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Ok(Self {
            dialect,
            base,
            model,
            key: variable("BRAHMAN_EMBED_TOKEN").map(|name| key(&name)).transpose()?,
            timeout: Duration::from_secs(number(
                "BRAHMAN_EMBED_TIMEOUT_S",
                TIMEOUT_S,
                TIMEOUT_MAX_S,
            )?),
            check_pause: CHECK_PAUSE,
            concurrency: small(number("BRAHMAN_EMBED_CONCURRENCY", CONCURRENCY, CONCURRENCY_MAX)?),
            batch: small(number("BRAHMAN_EMBED_BATCH", BATCH, BATCH_MAX)?),
            prompts: prompts()?,
            dimensions: variable("BRAHMAN_EMBED_DIMENSIONS")
                .map(|value| dimensions(&value))
                .transpose()?
                .unwrap_or_default(),
            revision: variable("BRAHMAN_EMBED_REVISION").unwrap_or_default(),
            vectors: variable("BRAHMAN_EMBED_CACHE_DIR")
                .map_or_else(|| cache.join("vectors").join(label), PathBuf::from),
            vectors_bytes: number("BRAHMAN_EMBED_CACHE_MIB", CACHE_MIB, CACHE_MIB_MAX)? << 20,
        })
    }
}

/// `openai+http://host:port`. A base that ends in the `/v1` of OpenAI's own clients is the same
/// without it.
fn address(server: &str) -> Result<(Dialect, String), AddressError> {
    let (dialect, base) = server.split_once('+').ok_or(AddressError::Shape)?;
    let dialect = Dialect::named(dialect).ok_or(AddressError::Shape)?;
    let rest = base
        .strip_prefix("http://")
        .or_else(|| base.strip_prefix("https://"))
        .ok_or(AddressError::Shape)?;
    if rest.contains('@') {
        return Err(AddressError::Password);
    }
    if rest.contains(['?', '#']) {
        return Err(AddressError::Query);
    }
    if rest.is_empty() || rest.starts_with('/') || rest.contains(char::is_whitespace) {
        return Err(AddressError::Shape);
    }
    let base = base.trim_end_matches('/');
    let base =
        if dialect == Dialect::OpenAi { base.strip_suffix("/v1").unwrap_or(base) } else { base };
    Ok((dialect, base.to_owned()))
}

/// The password of `secret:NAME`.
fn key(name: &str) -> Result<ServerKey, SettingsError> {
    let name = name.strip_prefix("secret:").ok_or(SettingsError::NoSecret)?;
    let found = secrets::read(&secrets::file(), name)?;
    let value = found
        .password
        .filter(|value| !value.is_empty())
        .ok_or_else(|| SettingsError::NoPassword { name: name.to_owned() })?;
    Ok(ServerKey { secret: name.to_owned(), value })
}

fn prompts() -> Result<Prompts, SettingsError> {
    let mut prompts = Prompts::default();
    for (name, variable_name) in
        [("query", "BRAHMAN_EMBED_PROMPT_QUERY"), ("document", "BRAHMAN_EMBED_PROMPT_DOCUMENT")]
    {
        let Some(text) = variable(variable_name) else { continue };
        if text.len() > PROMPT_BYTES_MAX {
            return Err(SettingsError::Prompt { name: variable_name, bytes: text.len() });
        }
        prompts.by_name.insert(name.to_owned(), text);
    }
    Ok(prompts)
}

fn dimensions(value: &str) -> Result<Vec<usize>, SettingsError> {
    let read = |part: &str| part.trim().parse::<usize>().ok().filter(|n| *n > 0);
    let lengths: Option<Vec<usize>> = value.split(',').map(read).collect();
    let mut lengths = lengths
        .filter(|lengths| lengths.len() <= DIMENSIONS_MAX)
        .ok_or_else(|| SettingsError::Dimensions { value: value.to_owned() })?;
    lengths.sort_unstable();
    lengths.dedup();
    Ok(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_what_kind_of_server_it_is() {
        let at = |text: &str| address(text).map(|(dialect, base)| (dialect.name(), base));
        assert_eq!(
            at("openai+https://api.openai.com/v1/"),
            Ok(("openai", "https://api.openai.com".to_owned()))
        );
        assert_eq!(
            at("ollama+http://127.0.0.1:11434/"),
            Ok(("ollama", "http://127.0.0.1:11434".to_owned()))
        );
        assert_eq!(
            at("tei+http://gpu/embeddings"),
            Ok(("tei", "http://gpu/embeddings".to_owned()))
        );
        for (bad, error) in [
            ("http://x", AddressError::Shape),
            ("cohere+http://x", AddressError::Shape),
            ("openai+ftp://x", AddressError::Shape),
            ("openai+http://", AddressError::Shape),
            ("openai+http:///v1", AddressError::Shape),
            ("openai+http://me:hunter2@x", AddressError::Password),
            ("openai+http://x/v1?key=hunter2", AddressError::Query),
        ] {
            assert_eq!(at(bad), Err(error), "{bad}");
        }
    }

    #[test]
    fn lengths_are_numbers() {
        assert_eq!(dimensions("512, 256,256").expect("lengths"), [256, 512]);
        for bad in ["", "0", "a", "256,", "-1"] {
            assert!(dimensions(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = ServerKey { secret: "openai".into(), value: "hunter2".into() };
        assert_eq!(format!("{key:?}"), "ServerKey([openai])");
    }
}
