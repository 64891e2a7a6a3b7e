//! A server that somebody else runs, asked over HTTP for log-probabilities of a prompt's tokens.
//!
//! [`dialect`] knows what each kind of server is asked and how it answers, purely; this file asks. Tokens are made here, by the tokenizer
//! of the server's model, so that a response has the same ones with and without a memory. Before anything is offered a probe
//! scores a known text and refuses a server whose answer cannot be right.
//!
//! Invariants: a request is sent again only if the server scored nothing for it (no connection, 429, 503); what comes back is
//! bounded in bytes and time; a caller that hangs up ends the requests.

pub mod dialect;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use brahman_card::interface::embed::Device;
use brahman_card::interface::score::InfoOut;
use brahman_storage::digest::{hex, sha256};
use brahman_storage::secrets;
use futures_util::StreamExt;
use serde_json::Value;

use crate::engine::{Engine, EngineError, Identity, Scores, Sequence, Stop, Work, number, var};
use crate::onnx::folder::Tokens;
use dialect::{Ask, Dialect};

/// The seed's own: a long prompt on a slow machine.
const TIMEOUT_S: u64 = 300;
/// Requests at once, unless said: servers batch what comes together.
const CONCURRENCY: u64 = 4;
/// Bytes of an answer: a hundred a token of a window of half a million.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Times that a request is sent, and the first pause between.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);
/// How often a caller's hang-up is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What is said of an answer that was not understood.
const SHOWN_CHARS: usize = 120;
/// Two answers for the same tokens may differ by so much: half precision, and batches of other sizes.
const PROBE_TOLERANCE: f64 = 0.1;
/// The probe's text. Its tokens are not equally likely under any model.
const PROBE: &str = "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the lazy dog.";

/// Which server, and how.
#[derive(Clone)]
pub struct Settings {
    /// What kind.
    pub dialect: Dialect,
    /// Where, without a path.
    pub base: String,
    /// Directory with tokenizer.json and config.json of its model.
    pub tokenizer: PathBuf,
    /// The model's name there; asked of the server if it can tell.
    pub model: Option<String>,
    /// Sent as a bearer token.
    pub token: Option<String>,
    /// A request's time.
    pub timeout: Duration,
    /// Requests at once.
    pub concurrency: usize,
    /// Tokens a conversation may have, if not as server or configuration say.
    pub window: Option<usize>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("dialect", &self.dialect).field("base", &self.base).finish_non_exhaustive()
    }
}

impl Settings {
    /// From the environment; `None` if no server is named.
    ///
    /// # Errors
    /// Which variable, and what was expected.
    pub fn from_env() -> Result<Option<Self>, String> {
        let Some(server) = var("BRAHMAN_SCORE_SERVER") else { return Ok(None) };
        let (dialect, base) = Self::address(&server).map_err(|why| format!("BRAHMAN_SCORE_SERVER={server}: {why}"))?;
        let tokenizer = var("BRAHMAN_SCORE_MODEL").map(PathBuf::from).ok_or(
            "BRAHMAN_SCORE_MODEL is not set: beside BRAHMAN_SCORE_SERVER it names a folder with tokenizer.json and config.json of the server's model",
        )?;
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
    fn address(server: &str) -> Result<(Dialect, String), String> {
        let expected = "expected vllm+http://HOST:PORT, sglang+http://HOST:PORT or brahman+http://HOST:PORT (or https)";
        let (dialect, base) = server.split_once('+').ok_or(expected)?;
        let dialect = match dialect {
            "vllm" => Dialect::Vllm,
            "sglang" => Dialect::Sglang,
            "brahman" => Dialect::Brahman,
            "llamacpp" | "llama.cpp" => return Err("llama.cpp's server gives no log-probabilities of a prompt: use vllm or sglang".into()),
            _ => return Err(expected.into()),
        };
        let rest = base.strip_prefix("http://").or_else(|| base.strip_prefix("https://")).ok_or(expected)?;
        if rest.contains('@') {
            return Err("no user or password here: BRAHMAN_SCORE_TOKEN names a secret".into());
        }
        Ok((dialect, base.trim_end_matches('/').to_owned()))
    }
}

/// The password of `secret:NAME`.
fn token(name: &str) -> Result<String, String> {
    let name = name.strip_prefix("secret:").ok_or("BRAHMAN_SCORE_TOKEN: expected secret:NAME, an entry of the secrets file")?;
    let found = secrets::read(&secrets::file(), name).map_err(|e| e.to_string())?;
    found.password.ok_or_else(|| format!("secret [{name}] has no password"))
}

/// The engine.
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
        f.debug_struct("Server").field("settings", &self.settings).field("model", &self.model).finish_non_exhaustive()
    }
}

fn failed(why: impl Into<String>, retryable: bool) -> EngineError {
    EngineError::Server { why: why.into(), retryable }
}

impl Server {
    /// Reads the tokenizer, asks the server for its model, and tries it. Blocks; not to be called from a runtime's thread.
    ///
    /// # Errors
    /// A sentence for `status`: what the server answered, and what was expected.
    pub fn open(settings: Settings) -> Result<Self, String> {
        let tokens = Tokens::read(&settings.tokenizer)?;
        // Another part of the process may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A connection a request: nothing looks after idle ones between calls, and a score takes far longer than a handshake.
        let client = reqwest::Client::builder()
            .timeout(settings.timeout)
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|e| format!("no HTTP client: {e}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let device = settings.base.clone();
        let identity = Identity {
            model: String::new(),
            fingerprint: String::new(),
            vocabulary: tokens.vocabulary(),
            window: tokens.window,
            bos: tokens.bos,
            device,
            mock: false,
        };
        let mut server = Self { identity, settings, tokens, client, runtime: Some(runtime), model: String::new() };
        let (model, window) = server.introduce().map_err(|e| e.to_string())?;
        let name = server.settings.dialect.name();
        server.identity.fingerprint = hex(&sha256([name, &server.settings.base, &model, &server.tokens.fingerprint].join("\0").as_bytes()));
        let window = window.map_or(server.identity.window, |w| w.min(server.identity.window));
        server.identity.window = server.settings.window.map_or(window, |w| w.min(window));
        server.identity.model.clone_from(&model);
        server.model = model;
        server.probe().map_err(|why| format!("{} at {} cannot be used: {why}", name, server.settings.base))?;
        Ok(server)
    }

    fn wait<F: Future>(&self, work: F) -> F::Output {
        self.runtime.as_ref().expect("it is taken by the end only").block_on(work)
    }

    /// The model's name, and its window if the server tells it.
    fn introduce(&self) -> Result<(String, Option<usize>), EngineError> {
        let told = match self.settings.dialect.about() {
            Some(path) => self.wait(self.exchange(path, None)).map(|answer| self.settings.dialect.introduced(&answer)),
            None => Ok((None, None)),
        };
        match (self.settings.model.clone(), told) {
            (Some(model), Ok((_, window))) => Ok((model, window)),
            (Some(model), Err(_)) => Ok((model, None)),
            (None, Ok((Some(model), window))) => Ok((model, window)),
            (None, Ok((None, _))) => {
                Err(failed(format!("{} does not name its model: set BRAHMAN_SCORE_SERVER_MODEL", self.settings.base), false))
            }
            (None, Err(error)) => Err(error),
        }
    }

    /// Scores a known text, whole and in part, and looks whether the answers can be right.
    fn probe(&self) -> Result<(), String> {
        let tokens: Vec<u32> = self.identity.bos.into_iter().chain(self.tokens.encode(PROBE).map_err(|e| e.to_string())?).collect();
        let all = |len: usize| Sequence { tokens: tokens[..len].to_vec(), wanted: std::iter::once(1..len).collect() };
        let half = tokens.len() / 2;
        let mut found = vec![Vec::new(); 2];
        let mut wrong = None;
        self.score(&[all(tokens.len()), all(half)], &Stop::default(), &mut |i, scores| match scores {
            Ok(scores) => found[i] = scores,
            Err(error) => wrong = Some(error.to_string()),
        })
        .map_err(|e| e.to_string())?;
        if let Some(why) = wrong {
            return Err(why);
        }
        let whole = &found[0];
        if whole.iter().any(|x| *x > 1e-3) {
            return Err("it gives log-probabilities above 0".into());
        }
        if whole.iter().all(|x| (x - whole[0]).abs() < 1e-6) && whole.len() > 2 && self.settings.dialect != Dialect::Brahman {
            return Err("it gives every token the same log-probability".into());
        }
        let total = |scores: &[f32]| scores.iter().map(|x| f64::from(*x)).sum::<f64>();
        let part = if self.settings.dialect == Dialect::Brahman { None } else { Some(total(&whole[..half - 1])) };
        if let Some(part) = part
            && (part - total(&found[1])).abs() > PROBE_TOLERANCE * half as f64
        {
            return Err(format!(
                "the same {half} tokens have the log-probability {part:.2} in a longer prompt and {:.2} alone",
                total(&found[1])
            ));
        }
        if total(&found[1]) < total(whole) - PROBE_TOLERANCE {
            return Err("a longer prompt is likelier than its beginning".into());
        }
        Ok(())
    }

    /// One request. It is sent again only if nothing was scored for it.
    async fn exchange(&self, path: &str, body: Option<&Value>) -> Result<Value, EngineError> {
        let url = format!("{}{path}", self.settings.base);
        let mut pause = PAUSE;
        for attempt in 1.. {
            let mut request = match body {
                Some(body) => self.client.post(&url).header("content-type", "application/json").body(body.to_string()),
                None => self.client.get(&url),
            };
            if let Some(token) = &self.settings.token {
                request = request.bearer_auth(token);
            }
            let refusal = match request.send().await {
                Ok(answer) if !matches!(answer.status().as_u16(), 429 | 503) => return self.answer(&url, answer).await,
                Ok(answer) => format!("{url} answered {}", answer.status()),
                // Also while connecting: who has waited that long does not wait four times.
                Err(error) if error.is_timeout() => {
                    return Err(failed(format!("{url} did not answer within {:?}", self.settings.timeout), true));
                }
                Err(error) if error.is_connect() => format!("{url}: no connection ({})", root(&error)),
                Err(error) => return Err(failed(format!("{url}: {}", root(&error)), true)),
            };
            if attempt >= ATTEMPTS {
                return Err(failed(format!("{refusal}, {attempt} times"), true));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(failed("no attempt was made", true))
    }

    async fn answer(&self, url: &str, mut answer: reqwest::Response) -> Result<Value, EngineError> {
        let status = answer.status();
        let mut bytes = Vec::new();
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() > ANSWER_BYTES_MAX => {
                    return Err(failed(format!("{url} answered more than {ANSWER_BYTES_MAX} bytes"), false));
                }
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) if error.is_timeout() => {
                    return Err(failed(format!("{url} did not finish its answer within {:?}", self.settings.timeout), true));
                }
                Err(error) => return Err(failed(format!("{url} broke off after {} bytes ({})", bytes.len(), root(&error)), true)),
            }
        }
        let shown: String =
            String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN_CHARS).collect();
        if !status.is_success() {
            let hint = if matches!(status.as_u16(), 401 | 403) { "; BRAHMAN_SCORE_TOKEN names the secret to send" } else { "" };
            return Err(failed(format!("{url} answered {status}: {shown}{hint}"), status.is_server_error()));
        }
        serde_json::from_slice(&bytes).map_err(|e| failed(format!("{url} answered what is not JSON ({e}): {shown}"), false))
    }

    /// Scores one sequence.
    async fn sequence(&self, sequence: &Sequence) -> Result<(Vec<f32>, Work), EngineError> {
        let mut work = Work::default();
        let Some(first) = sequence.wanted.first() else { return Ok((Vec::new(), work)) };
        let end = sequence.wanted.last().map_or(0, |last| last.end);
        let tokens = &sequence.tokens[..end];
        if self.settings.dialect == Dialect::Brahman {
            return self.sums(sequence).await;
        }
        let ask = Ask { model: &self.model, tokens, from: first.start };
        let answer = self.exchange(self.settings.dialect.path(), Some(&self.settings.dialect.body(&ask))).await?;
        let told = self.settings.dialect.scores(&ask, &answer).map_err(|why| failed(format!("{}: {why}", self.settings.base), false))?;
        work.reused = told.reused.min(end as u64);
        work.forwarded = end as u64 - work.reused;
        let at = |place: usize| told.logprobs[place - first.start];
        Ok((sequence.wanted.iter().flat_map(Clone::clone).map(at).collect(), work))
    }

    /// For a server that tells only the sum over a prompt: a part's is the difference of two, and each of its tokens gets the mean.
    async fn sums(&self, sequence: &Sequence) -> Result<(Vec<f32>, Work), EngineError> {
        let mut known: HashMap<usize, f64> = HashMap::new();
        let (mut scores, mut work) = (Vec::new(), Work::default());
        for wanted in &sequence.wanted {
            for end in [wanted.start, wanted.end] {
                if known.contains_key(&end) {
                    continue;
                }
                let ask = Ask { model: &self.model, tokens: &sequence.tokens[..end], from: 1 };
                let answer = self.exchange(self.settings.dialect.path(), Some(&self.settings.dialect.body(&ask))).await?;
                let told = self.settings.dialect.scores(&ask, &answer);
                let total = told.map_err(|why| failed(format!("{}: {why}", self.settings.base), false))?.total;
                known.insert(end, total);
                work.forwarded += end as u64;
            }
            let mean = (known[&wanted.end] - known[&wanted.start]) / wanted.len().max(1) as f64;
            scores.extend(std::iter::repeat_n(mean as f32, wanted.len()));
        }
        Ok((scores, work))
    }
}

/// The innermost cause: what a person can act on. reqwest's own text repeats the address.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl Engine for Server {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.tokens.encode(text)
    }

    fn decode(&self, tokens: &[u32]) -> String {
        self.tokens.decode(tokens)
    }

    fn score(&self, sequences: &[Sequence], stop: &Stop, done: &mut dyn FnMut(usize, Scores)) -> Result<Work, EngineError> {
        let mut work = Work::default();
        let ask = async |i: usize| (i, self.sequence(&sequences[i]).await);
        let mut answers = futures_util::stream::iter((0..sequences.len()).map(ask)).buffer_unordered(self.settings.concurrency);
        loop {
            if let Err(stopped) = stop.check() {
                drop(answers);
                // Connections are tasks of this runtime: they see that they are dropped, and hang up, only while it runs.
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
