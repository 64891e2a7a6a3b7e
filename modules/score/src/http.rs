//! A server that somebody else runs, asked over HTTP for log-probabilities of a prompt's tokens.
//!
//! [`dialect`] knows what each kind of server is asked and how it answers, purely; [`settings`]
//! says which server that is, [`error`] why there is no answer, [`probe`] whether its answers can
//! be right; this file asks. Tokens are made here, by the tokenizer of the server's model, so that
//! a response has the same ones with and without a memory. Before anything is offered a probe
//! scores a known text and refuses a server whose answer cannot be right.
//!
//! Invariants: a request is sent again only if the server scored nothing for it (no connection,
//! 429, 503); what comes back is bounded in bytes and time; a caller that hangs up ends the
//! requests.

pub mod dialect;
pub mod error;
mod probe;
pub mod settings;

use std::ops::Range;
use std::time::Duration;

use brahman_card::interface::embed::Device;
use brahman_card::interface::score::InfoOut;
use brahman_sidecar::Backoff;
use brahman_storage::digest::{hex, sha256};
use futures_util::StreamExt;
use serde_json::Value;

use crate::chat::Templates;
use crate::engine::{Engine, EngineError, Identity, Scores, Sequence, Stop, Work};
use crate::onnx::folder::Tokens;
use dialect::{Answer, AnswerError, Ask, Dialect};
pub use error::{OpenError, ProbeError, ServerError};
pub use settings::{AddressError, Settings, SettingsError};

/// Bytes of an answer: a hundred a token of a window of half a million.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Times that a request is sent, and the pauses between.
const ATTEMPTS: u32 = 4;
const PAUSES: Backoff = Backoff::doubling(Duration::from_millis(200), Duration::from_millis(800));
/// How often a caller's hang-up is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What is said of an answer that was not understood.
const SHOWN_CHARS: usize = 120;
/// At which sampling changes no log-probability.
const TEMPERATURE: f64 = 1.0;

/// An engine that asks a server over HTTP.
pub struct Server {
    identity: Identity,
    settings: Settings,
    tokens: Tokens,
    client: reqwest::Client,
    /// Only taken by the end.
    runtime: Option<tokio::runtime::Runtime>,
    model: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not by itself: that waits, which a thread of another runtime must not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("settings", &self.settings)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Reads the tokenizer, asks the server for its model, and tries it. Blocks; not to be called
    /// from a runtime's thread.
    ///
    /// # Errors
    /// [`OpenError`]: what the server answered, and what was expected.
    pub fn open(settings: Settings) -> Result<Self, OpenError> {
        let tokens = Tokens::read(&settings.tokenizer)?;
        // Another part of the process may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A connection a request: nothing looks after idle ones between calls, and a score takes
        // far longer than a handshake.
        let client = reqwest::Client::builder()
            .timeout(settings.timeout)
            .pool_max_idle_per_host(0)
            .build()
            .map_err(OpenError::Client)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(OpenError::Runtime)?;
        let device = settings.base.clone();
        let identity = Identity {
            model: String::new(),
            fingerprint: String::new(),
            vocabulary: tokens.vocabulary(),
            window: tokens.window,
            first: tokens.first.clone(),
            device,
            mock: false,
        };
        let mut server = Self {
            identity,
            settings,
            tokens,
            client,
            runtime: Some(runtime),
            model: String::new(),
        };
        let (model, window) = server.introduce()?;
        let name = server.settings.dialect.name();
        server.identity.fingerprint = hex(&sha256(
            [name, &server.settings.base, &model, &server.tokens.fingerprint].join("\0").as_bytes(),
        ));
        let window = window.map_or(server.identity.window, |w| w.min(server.identity.window));
        server.identity.window = server.settings.window.map_or(window, |w| w.min(window));
        server.identity.model.clone_from(&model);
        server.model = model;
        match server.probe() {
            Ok(()) => Ok(server),
            Err(source) => Err(OpenError::Unusable {
                dialect: name,
                base: server.settings.base.clone(),
                source,
            }),
        }
    }

    fn wait<F: Future>(&self, work: F) -> F::Output {
        self.runtime.as_ref().expect("it is taken by the end only").block_on(work)
    }

    /// The model's name, and its window if the server tells it.
    fn introduce(&self) -> Result<(String, Option<usize>), ServerError> {
        let told = match self.settings.dialect.about() {
            Some(path) => self
                .wait(self.exchange(path, None))
                .map(|answer| self.settings.dialect.introduced(&answer)),
            None => Ok((None, None)),
        };
        match (self.settings.model.clone(), told) {
            (Some(model), Ok((_, window))) => Ok((model, window)),
            (Some(model), Err(_)) => Ok((model, None)),
            (None, Ok((Some(model), window))) => Ok((model, window)),
            (None, Ok((None, _))) => Err(ServerError::Unnamed { base: self.settings.base.clone() }),
            (None, Err(error)) => Err(error),
        }
    }

    /// One request. It is sent again only if nothing was scored for it.
    async fn exchange(&self, path: &str, body: Option<&Value>) -> Result<Value, ServerError> {
        let url = format!("{}{path}", self.settings.base);
        let (mut pauses, mut attempts) = (PAUSES, 0);
        loop {
            attempts += 1;
            let mut request = match body {
                Some(body) => self
                    .client
                    .post(&url)
                    .header("content-type", "application/json")
                    .body(body.to_string()),
                None => self.client.get(&url),
            };
            if let Some(token) = &self.settings.token {
                request = request.bearer_auth(token);
            }
            let refusal = match request.send().await {
                Ok(answer) if !matches!(answer.status().as_u16(), 429 | 503) => {
                    return self.answer(&url, answer).await;
                }
                Ok(answer) => {
                    ServerError::Busy { url: url.clone(), status: answer.status(), attempts }
                }
                // Also while connecting: who has waited that long does not wait four times.
                Err(error) if error.is_timeout() => {
                    return Err(ServerError::Late { url, timeout: self.settings.timeout });
                }
                Err(error) if error.is_connect() => ServerError::NoConnection {
                    url: url.clone(),
                    attempts,
                    source: error.without_url(),
                },
                Err(error) => {
                    return Err(ServerError::Request { url, source: error.without_url() });
                }
            };
            if attempts >= ATTEMPTS {
                return Err(refusal);
            }
            pauses.wait().await;
        }
    }

    async fn answer(&self, url: &str, mut answer: reqwest::Response) -> Result<Value, ServerError> {
        let (status, url) = (answer.status(), url.to_owned());
        let mut bytes = Vec::new();
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() > ANSWER_BYTES_MAX => {
                    return Err(ServerError::TooLong { url });
                }
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) if error.is_timeout() => {
                    return Err(ServerError::Unfinished { url, timeout: self.settings.timeout });
                }
                Err(error) => {
                    return Err(ServerError::BrokeOff {
                        url,
                        bytes: bytes.len(),
                        source: error.without_url(),
                    });
                }
            }
        }
        let shown: String = String::from_utf8_lossy(&bytes)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .take(SHOWN_CHARS)
            .collect();
        if !status.is_success() {
            let hint = if matches!(status.as_u16(), 401 | 403) {
                "; BRAHMAN_SCORE_TOKEN names the secret to send"
            } else {
                ""
            };
            return Err(ServerError::Status { url, status, shown, hint });
        }
        serde_json::from_slice(&bytes).map_err(|source| ServerError::NotJson { url, shown, source })
    }

    fn understood(&self, ask: &Ask<'_>, answer: &Value) -> Result<Answer, ServerError> {
        let scores = self.settings.dialect.scores(ask, answer);
        scores.map_err(|source| ServerError::Answer { base: self.settings.base.clone(), source })
    }

    /// Scores one sequence.
    async fn sequence(
        &self,
        sequence: &Sequence,
        how: PromptOptions,
    ) -> Result<(Vec<f32>, Work), EngineError> {
        let mut work = Work::default();
        let mut wanted = sequence.wanted.iter().filter(|wanted| !wanted.is_empty()).peekable();
        let Some(first) = wanted.peek().map(|first| first.start) else {
            return Ok((Vec::new(), work));
        };
        let end = sequence.wanted.iter().map(|wanted| wanted.end).max().unwrap_or(0);
        let tokens = &sequence.tokens[..end];
        let responses: Vec<&Range<usize>> =
            sequence.responses.iter().filter(|response| response.end <= end).collect();
        let PromptOptions { temperature, priority } = how;
        let ask = Ask {
            model: &self.model,
            tokens,
            from: first,
            responses: responses.len(),
            temperature,
            priority,
        };
        if self.settings.dialect == Dialect::Brahman && responses.is_empty() {
            let source = AnswerError::Absent(
                "figures but those of an assistant's responses, and this is no conversation",
            );
            return Err(ServerError::Answer { base: self.settings.base.clone(), source }.into());
        }
        let answer = self
            .exchange(self.settings.dialect.path(), Some(&self.settings.dialect.body(&ask)))
            .await?;
        let answer = self.understood(&ask, &answer)?;
        work.reused = answer.reused.min(end as u64);
        work.forwarded = end as u64 - work.reused;
        if self.settings.dialect != Dialect::Brahman {
            let at = |place: usize| answer.logprobs[place - first];
            return Ok((wanted.flat_map(Clone::clone).map(at).collect(), work));
        }
        // One figure a response: each of its tokens gets the mean.
        let mut scores = Vec::new();
        for wanted in wanted {
            let total = responses
                .iter()
                .position(|response| **response == *wanted)
                .map(|place| answer.totals[place]);
            let source = AnswerError::Absent("figure for a part of a response");
            let total = total
                .ok_or_else(|| ServerError::Answer { base: self.settings.base.clone(), source })?;
            scores.extend(std::iter::repeat_n((total / wanted.len() as f64) as f32, wanted.len()));
        }
        Ok((scores, work))
    }

    /// Scores sequences as they are asked for.
    fn ask(
        &self,
        sequences: &[Sequence],
        how: PromptOptions,
        stop: &Stop,
        done: &mut dyn FnMut(usize, Scores),
    ) -> Result<Work, EngineError> {
        let mut work = Work::default();
        let ask = async |i: usize| (i, self.sequence(&sequences[i], how).await);
        let mut answers = futures_util::stream::iter((0..sequences.len()).map(ask))
            .buffer_unordered(self.settings.concurrency);
        loop {
            if let Err(stopped) = stop.check() {
                drop(answers);
                // Connections are tasks of this runtime: they see that they are dropped, and hang
                // up, only while it runs.
                self.wait(async { tokio::time::sleep(LOOK_EVERY).await });
                return Err(stopped);
            }
            // `done` may block, so it is told outside of the runtime.
            let next = self.wait(async { tokio::time::timeout(LOOK_EVERY, answers.next()).await });
            match next {
                Err(_) => {}
                Ok(None) => return Ok(work),
                Ok(Some((i, Ok((scores, spent))))) => {
                    work.add(spent);
                    done(i, Ok(scores));
                }
                Ok(Some((i, Err(error)))) => done(i, Err(error)),
            }
        }
    }
}

/// What a request says beside its prompt.
#[derive(Clone, Copy, Debug)]
struct PromptOptions {
    temperature: f64,
    priority: Option<i64>,
}

impl Engine for Server {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.tokens.encode(text)
    }

    fn encode_placed(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError> {
        self.tokens.encode_placed(text)
    }

    fn templates(&self) -> Option<&Templates> {
        Some(&self.tokens.templates)
    }

    fn decode(&self, tokens: &[u32]) -> String {
        self.tokens.decode(tokens)
    }

    fn score(
        &self,
        sequences: &[Sequence],
        stop: &Stop,
        done: &mut dyn FnMut(usize, Scores),
    ) -> Result<Work, EngineError> {
        self.ask(
            sequences,
            PromptOptions { temperature: TEMPERATURE, priority: stop.priority() },
            stop,
            done,
        )
    }

    fn info(&self) -> InfoOut {
        InfoOut {
            model: self.identity.model.clone(),
            fingerprint: self.identity.fingerprint.clone(),
            vocabulary: self.identity.vocabulary.into(),
            window: self.identity.window as u64,
            mock: false,
            device: Device {
                requested: self.settings.base.clone(),
                active: self.settings.base.clone(),
                reason: "the server's own affair".to_owned(),
            },
            runtime: Some(format!("{} at {}", self.settings.dialect.name(), self.settings.base)),
            budget_bytes: None,
            queue: 0,
            kept: None,
            dialect: Some(self.settings.dialect.describe().to_owned()),
        }
    }
}
