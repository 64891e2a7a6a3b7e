//! An Ollama server beside the mesh: what it holds, and to load and unload by `keep_alive`.
//!
//! Invariants: it is asked where a person has said that it is, and nowhere else; what it says is
//! bounded in bytes, time and number, and checked against itself; that it is down, slow or lies is
//! a reason in an answer.

use std::time::{Duration, Instant};

use brahman_card::interface::profiles::ExternalModel;
use reqwest::header::CONTENT_TYPE;
use reqwest::{RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

/// How long it may take to say what it holds: it looks at a table.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long it may load: a large model from a slow disk.
const LOAD_MAX: Duration = Duration::from_secs(300);
/// Longest answer: a thousand models come to less.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Models of an answer that are looked at.
const MODELS_MAX: usize = 1024;
/// Longest name of a model.
const NAME_BYTES_MAX: usize = 512;
/// How long a model stays after it was preloaded, as Ollama's own default.
const KEEP: &str = "5m";
const MIB: u64 = 1 << 20;

/// Why it gives no answer.
#[derive(Debug, Error)]
pub enum OllamaError {
    /// There is no client for it.
    #[error("no HTTP client")]
    Client(#[source] reqwest::Error),
    /// It does not answer.
    #[error("{url} does not answer")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Cause.
        #[source]
        source: reqwest::Error,
    },
    /// It answers with an error.
    #[error("{url} answered {status}: {words}")]
    Refused {
        /// What was asked.
        url: String,
        /// HTTP's.
        status: StatusCode,
        /// What it said, shortened.
        words: String,
    },
    /// Its answer is too long.
    #[error("{url} answered with more than {ANSWER_BYTES_MAX} bytes")]
    TooLong {
        /// What was asked.
        url: String,
    },
    /// Its answer is not what Ollama says.
    #[error("{url} did not answer as Ollama does")]
    Malformed {
        /// What was asked.
        url: String,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
}

/// A model in an answer. What else it says is not looked at.
#[derive(Clone, Debug, Deserialize)]
struct ListedModel {
    name: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    size_vram: u64,
    #[serde(default)]
    expires_at: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct ModelList {
    models: Option<Vec<ListedModel>>,
}

/// An Ollama server, and how it is asked.
#[derive(Clone, Debug)]
pub struct Ollama {
    base: String,
    client: reqwest::Client,
}

impl Ollama {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// [`OllamaError::Client`].
    pub fn new(base: &str) -> Result<Self, OllamaError> {
        // Another part of the process may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(OllamaError::Client)?;
        Ok(Self { base: base.to_owned(), client })
    }

    /// The address that a person has said.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// What it holds.
    ///
    /// # Errors
    /// [`OllamaError`].
    pub async fn held(&self) -> Result<Vec<ExternalModel>, OllamaError> {
        let url = format!("{}/api/ps", self.base);
        let list: ModelList = self.exchange(&url, self.client.get(&url), PATIENCE).await?;
        Ok(list.models.unwrap_or_default().into_iter().take(MODELS_MAX).map(plausible).collect())
    }

    /// Whether it has a model of this name, loaded or not.
    ///
    /// # Errors
    /// [`OllamaError`].
    pub async fn has(&self, model: &str) -> Result<bool, OllamaError> {
        let url = format!("{}/api/tags", self.base);
        let list: ModelList = self.exchange(&url, self.client.get(&url), PATIENCE).await?;
        Ok(list
            .models
            .unwrap_or_default()
            .iter()
            .take(MODELS_MAX)
            .any(|listed| is_same(&listed.name, model)))
    }

    /// Loads a model, and gives how long that took.
    ///
    /// # Errors
    /// [`OllamaError`].
    pub async fn load(&self, model: &str) -> Result<Duration, OllamaError> {
        self.keep(model, KEEP.into()).await
    }

    /// Unloads a model. True if the server does not list it any more, which is looked at, for its
    /// word alone is none.
    ///
    /// # Errors
    /// [`OllamaError`].
    pub async fn unload(&self, model: &str) -> Result<bool, OllamaError> {
        self.keep(model, 0.into()).await?;
        Ok(!self.held().await?.iter().any(|held| is_same(&held.name, model)))
    }

    /// An empty prompt, which only loads or unloads.
    async fn keep(&self, model: &str, keep_alive: Value) -> Result<Duration, OllamaError> {
        let begun = Instant::now();
        let post = |path: &str, body: Value| {
            let url = format!("{}{path}", self.base);
            (
                self.client
                    .post(&url)
                    .header(CONTENT_TYPE, "application/json")
                    .body(body.to_string()),
                url,
            )
        };
        let (request, url) = post(
            "/api/generate",
            json!({ "model": model, "prompt": "", "keep_alive": keep_alive.clone(), "stream": false }),
        );
        match self.exchange::<Value>(&url, request, LOAD_MAX).await {
            // One that only embeds has no prompt.
            Err(OllamaError::Refused { status: StatusCode::BAD_REQUEST, .. }) => {
                let (request, url) = post(
                    "/api/embed",
                    json!({ "model": model, "input": "", "keep_alive": keep_alive }),
                );
                self.exchange::<Value>(&url, request, LOAD_MAX).await?;
            }
            other => drop(other?),
        }
        Ok(begun.elapsed())
    }

    async fn exchange<T: serde::de::DeserializeOwned>(
        &self,
        url: &str,
        request: RequestBuilder,
        longest: Duration,
    ) -> Result<T, OllamaError> {
        let unreachable = |source| OllamaError::Unreachable { url: url.to_owned(), source };
        let mut response = request.timeout(longest).send().await.map_err(unreachable)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(OllamaError::TooLong { url: url.to_owned() });
            }
            bytes.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let words: String = String::from_utf8_lossy(&bytes)
                .chars()
                .take(160)
                .flat_map(char::escape_debug)
                .collect();
            return Err(OllamaError::Refused { url: url.to_owned(), status, words });
        }
        serde_json::from_slice(&bytes)
            .map_err(|source| OllamaError::Malformed { url: url.to_owned(), source })
    }
}

/// What can be true of what a server says: no part is larger than the whole, no name longer than a
/// line.
fn plausible(listed: ListedModel) -> ExternalModel {
    let mut name = listed.name;
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    let expires = listed.expires_at.map(|at| at.chars().take(64).collect());
    let mib = listed.size / MIB;
    ExternalModel { name, mib, vram_mib: (listed.size_vram / MIB).min(mib), expires }
}

/// Whether two names are of one model: without a tag it is the latest.
fn is_same(listed: &str, asked: &str) -> bool {
    let whole =
        |name: &str| if name.contains(':') { name.to_owned() } else { format!("{name}:latest") };
    whole(listed) == whole(asked)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// A server that answers each request with the next of these, and gives what it was asked.
    fn server(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let serving = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a caller");
                let mut text = Vec::new();
                let mut buffer = [0; 4096];
                while !is_whole(&text) {
                    let read = stream.read(&mut buffer).expect("readable");
                    text.extend_from_slice(&buffer[..read]);
                }
                asked.push(String::from_utf8_lossy(&text).into_owned());
                stream.write_all(answer.as_bytes()).expect("written");
            }
            asked
        });
        (base, serving)
    }

    fn is_whole(request: &[u8]) -> bool {
        let text = String::from_utf8_lossy(request).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        body.len() >= length.unwrap_or(0)
    }

    fn answer(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    const HELD: &str = r#"{"models":[{"name":"phi:latest","model":"phi:latest","size":2147483648,"size_vram":4294967296,"expires_at":"2026-01-01T00:00:00Z"}]}"#;

    #[tokio::test]
    async fn what_it_holds_is_told_and_a_part_is_never_larger_than_the_whole() {
        let (base, serving) =
            server(vec![answer("200 OK", HELD), answer("200 OK", r#"{"models":null}"#)]);
        let ollama = Ollama::new(&base).expect("a client");
        let held = ollama.held().await.expect("told");
        assert_eq!(
            (held[0].name.as_str(), held[0].mib, held[0].vram_mib),
            ("phi:latest", 2048, 2048)
        );
        assert!(ollama.held().await.expect("told").is_empty());
        assert!(serving.join().expect("ended")[0].starts_with("GET /api/ps "));
    }

    #[tokio::test]
    async fn an_unload_is_looked_at_and_one_that_only_embeds_is_asked_so() {
        let (base, serving) = server(vec![
            answer("200 OK", r#"{"done":true}"#),
            answer("200 OK", HELD),
            answer("400 Bad Request", r#"{"error":"\"e\" does not support generate"}"#),
            answer("200 OK", r#"{"embeddings":[]}"#),
        ]);
        let ollama = Ollama::new(&base).expect("a client");
        assert!(
            !ollama.unload("phi").await.expect("told"),
            "it says that it has unloaded it, and still lists it"
        );
        ollama.load("e").await.expect("loaded");
        let asked = serving.join().expect("ended");
        assert!(
            asked[0].contains(r#""keep_alive":0"#) && asked[0].contains(r#""prompt":"""#),
            "{}",
            asked[0]
        );
        assert!(
            asked[3].starts_with("POST /api/embed ") && asked[3].contains(r#""keep_alive":"5m""#),
            "{}",
            asked[3]
        );
    }

    #[tokio::test]
    async fn one_that_is_down_or_lies_is_a_reason() {
        let nobody = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port");
        let down = Ollama::new(&format!("http://{nobody}")).expect("a client");
        assert!(matches!(down.held().await, Err(OllamaError::Unreachable { .. })));
        let (base, _serving) = server(vec![
            answer("200 OK", "<html>"),
            answer("500 Internal Server Error", "no\u{1b}[2J"),
        ]);
        let lies = Ollama::new(&base).expect("a client");
        assert!(matches!(lies.held().await, Err(OllamaError::Malformed { .. })));
        let words = lies.held().await.expect_err("an error").to_string();
        assert!(words.contains("500") && !words.contains('\u{1b}'), "{words}");
    }

    #[test]
    fn a_name_without_a_tag_is_the_latest() {
        assert!(
            is_same("phi:latest", "phi")
                && is_same("phi", "phi:latest")
                && !is_same("phi:3b", "phi")
        );
    }
}
