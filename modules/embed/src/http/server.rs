//! Asking the server: one request, and again where that may help, inside its caller's deadline.
//!
//! Invariants: what comes back is bounded in bytes and time; a caller that waits less long than a
//! server may take learns nothing about the server; a key goes to the address that it is for, which
//! redirects do not change; no message holds it.

use std::time::{Duration, Instant};

use brahman_sidecar::{Backoff, Deadline};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use tokio::sync::Semaphore;

use super::dialect::VectorsAnswer;
use super::error::{ANSWER_BYTES_MAX, OpenError, ServerError};
use super::settings::Settings;

/// Times that a request is sent, and the pauses between, unless the server says when it wants to be
/// asked again.
pub const ATTEMPTS: u32 = 4;
const PAUSES: Backoff = Backoff::doubling(Duration::from_millis(200), Duration::from_secs(5));
/// How long a caller without a deadline waits for a server that wants to be asked again.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a connection may take: who is there says so at once.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Least time that is given to a request; where less is left, none is sent.
const TIMEOUT_MIN: Duration = Duration::from_millis(50);
/// Longest pause that a server is taken at its word for.
const AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// What is said of an answer that was not understood.
const SHOWN_CHARS: usize = 160;
/// Bytes of that which are looked at.
const SHOWN_BYTES: usize = 4096;
/// An answer longer than this is read off the I/O thread.
const LONG_BYTES: usize = 64 * 1024;

/// A server, and how it is asked.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    client: reqwest::Client,
    /// The model's name there.
    model: String,
    permits: Semaphore,
}

impl Server {
    /// Asks nobody yet. Without a name of its model it can only be asked for that.
    ///
    /// # Errors
    /// [`OpenError::Client`].
    pub fn new(settings: Settings) -> Result<Self, OpenError> {
        // Another part of the process may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(OpenError::Client)?;
        let model = settings.model.clone().unwrap_or_default();
        Ok(Self { permits: Semaphore::new(settings.concurrency), settings, client, model })
    }

    /// How it is asked.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The model's name there.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// From now on of the model of this name, and with no more texts in a request than it takes.
    pub fn introduce(&mut self, model: &str, batch: Option<usize>) {
        model.clone_into(&mut self.model);
        self.settings.batch =
            batch.map_or(self.settings.batch, |most| self.settings.batch.min(most));
    }

    /// Where vectors are asked for.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}{}", self.settings.base, self.settings.dialect.path())
    }

    /// Vectors of texts.
    ///
    /// # Errors
    /// [`ServerError`]; [`ServerError::is_of_texts`] where they may go through one by one.
    pub async fn vectors(
        &self,
        texts: &[String],
        truncate: bool,
        deadline: Deadline,
        attempts: u32,
    ) -> Result<VectorsAnswer, ServerError> {
        let (dialect, count) = (self.settings.dialect, texts.len());
        let body = dialect.body(&self.model, texts, truncate).to_string();
        let url = self.url();
        let bytes = self.exchange(&url, Some(body), deadline, attempts).await?;
        let read = move |bytes: &[u8]| {
            dialect.vectors(bytes, count).map_err(|source| (shown(bytes), source))
        };
        let outcome = if bytes.len() < LONG_BYTES {
            read(bytes.as_slice())
        } else {
            // One that panics is a fault of this program's, and ends it.
            tokio::task::spawn_blocking(move || read(bytes.as_slice()))
                .await
                .expect("reading an answer does not panic")
        };
        outcome.map_err(|(shown, source)| ServerError::Answer { url, shown, source })
    }

    /// What the server says at this path.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn page(&self, path: &str, deadline: Deadline) -> Result<Vec<u8>, ServerError> {
        self.exchange(&format!("{}{path}", self.settings.base), None, deadline, ATTEMPTS).await
    }

    /// A request, and again up to `attempts` times where that may help.
    async fn exchange(
        &self,
        url: &str,
        body: Option<String>,
        deadline: Deadline,
        attempts: u32,
    ) -> Result<Vec<u8>, ServerError> {
        let give_up = deadline.or(Instant::now() + PATIENCE);
        let (mut pauses, mut times) = (PAUSES, 0);
        let mut former: Option<ServerError> = None;
        loop {
            times += 1;
            let error = match self.once(url, body.clone(), deadline).await {
                Ok(bytes) => return Ok(bytes),
                // What came of it before says more.
                Err(error) if error.is_out_of_time() => return Err(former.unwrap_or(error)),
                Err(error) => error.attempted(times),
            };
            let pause = error.after().unwrap_or_else(|| pauses.advance_spread());
            let is_in_time = Instant::now().checked_add(pause).is_some_and(|then| then < give_up);
            if !error.is_passing() || times >= attempts || !is_in_time {
                return Err(error);
            }
            tracing::debug!(times, ?pause, "asked again: {}", brahman_sidecar::chain(&error));
            former = Some(error);
            tokio::time::sleep(pause).await;
        }
    }

    /// One request, as soon as fewer than the most are under way.
    async fn once(
        &self,
        url: &str,
        body: Option<String>,
        deadline: Deadline,
    ) -> Result<Vec<u8>, ServerError> {
        let out_of_time = |awaited| ServerError::OutOfTime { url: url.to_owned(), awaited };
        let _permit = tokio::select! {
            // Never closed.
            permit = self.permits.acquire() => permit.ok(),
            () = deadline.passed() => return Err(out_of_time("a turn")),
        };
        // A quarter of the time is left to whoever is asked next.
        let granted = deadline.left().map(|left| left * 3 / 4);
        if granted.is_some_and(|granted| granted < TIMEOUT_MIN) {
            return Err(out_of_time("a turn"));
        }
        let timeout =
            granted.map_or(self.settings.timeout, |granted| self.settings.timeout.min(granted));
        let request = match body {
            Some(body) => self.client.post(url).header(CONTENT_TYPE, "application/json").body(body),
            None => self.client.get(url),
        };
        let request = match &self.settings.key {
            Some(key) => request.bearer_auth(&key.value),
            None => request,
        };
        let url = || url.to_owned();
        let broke_off = |bytes: usize, error: reqwest::Error| match error {
            // A connection has a time of its own, which is the same for all.
            error if error.is_timeout() && error.is_connect() => {
                ServerError::Late { url: url(), timeout: timeout.min(CONNECT_MAX) }
            }
            error if error.is_timeout() && timeout < self.settings.timeout => {
                out_of_time("an answer")
            }
            error if error.is_timeout() => ServerError::Late { url: url(), timeout },
            error if error.is_connect() => {
                ServerError::NoConnection { url: url(), attempts: 1, source: error.without_url() }
            }
            error if error.is_builder() => {
                ServerError::Request { url: url(), source: error.without_url() }
            }
            error => ServerError::BrokeOff {
                url: url(),
                bytes,
                attempts: 1,
                source: error.without_url(),
            },
        };
        let mut answer =
            request.timeout(timeout).send().await.map_err(|error| broke_off(0, error))?;
        let status = answer.status();
        let after = answer
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(seconds);
        let mut bytes = Vec::new();
        while let Some(part) =
            answer.chunk().await.map_err(|error| broke_off(bytes.len(), error))?
        {
            if bytes.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(ServerError::TooLong { url: url() });
            }
            bytes.extend_from_slice(&part);
        }
        if status.is_success() {
            return Ok(bytes);
        }
        let (url, shown) = (url(), shown(&bytes));
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS => {
                ServerError::Busy { url, status, attempts: 1, after, shown }
            }
            status if status.is_server_error() => {
                ServerError::Busy { url, status, attempts: 1, after, shown }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                ServerError::Denied { url, status, key: self.key(), shown }
            }
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY => ServerError::Refused { url, status, shown },
            status => ServerError::Status { url, status, shown },
        })
    }

    /// Which key is sent, and what to do if it is not the right one.
    fn key(&self) -> String {
        match &self.settings.key {
            Some(key) => format!(
                "it refuses the password of [{}] in {}, which BRAHMAN_EMBED_TOKEN names",
                key.secret,
                brahman_storage::secrets::file().display()
            ),
            None => "it wants a key, and none is sent: BRAHMAN_EMBED_TOKEN = \"secret:NAME\" names an entry of the secrets file".to_owned(),
        }
    }
}

/// `Retry-After` in seconds; a date is as if nothing were said.
fn seconds(value: &str) -> Option<Duration> {
    value.trim().parse::<u64>().ok().map(|seconds| Duration::from_secs(seconds).min(AFTER_MAX))
}

/// The beginning of an answer, on one line.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]);
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::http::record::tests::settings;

    /// Who connects is not refused, and hears nothing.
    fn silent() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        (listener, base)
    }

    #[tokio::test]
    async fn a_deadline_before_the_servers_own_time_says_nothing_of_the_server() {
        let (_listener, base) = silent();
        let patient =
            Settings { base: base.clone(), timeout: Duration::from_secs(600), ..settings() };
        let server = Server::new(patient).expect("a client");
        let error = server
            .page("/info", Deadline::within(Duration::from_millis(300)))
            .await
            .expect_err("silence");
        assert!(matches!(error, ServerError::OutOfTime { awaited: "an answer", .. }), "{error}");
        let error = server
            .page("/info", Deadline::within(TIMEOUT_MIN))
            .await
            .expect_err("too little is left");
        assert!(matches!(error, ServerError::OutOfTime { awaited: "a turn", .. }), "{error}");

        let server =
            Server::new(Settings { base, timeout: Duration::from_millis(100), ..settings() })
                .expect("a client");
        for deadline in [Deadline::NEVER, Deadline::within(Duration::from_secs(600))] {
            let error = server.page("/info", deadline).await.expect_err("silence");
            assert!(matches!(error, ServerError::Late { .. }) && error.is_outage(), "{error}");
        }
    }

    #[tokio::test]
    async fn a_turn_is_waited_for_no_longer_than_the_caller_waits() {
        let (_listener, base) = silent();
        let server =
            Server::new(Settings { base, concurrency: 1, ..settings() }).expect("a client");
        let _other = server.permits.acquire().await.expect("free");
        let error = server
            .page("/info", Deadline::within(Duration::from_millis(300)))
            .await
            .expect_err("no turn");
        assert!(matches!(error, ServerError::OutOfTime { awaited: "a turn", .. }), "{error}");
    }

    #[test]
    fn a_pause_is_taken_in_seconds_and_within_reason() {
        assert_eq!(seconds(" 3 "), Some(Duration::from_secs(3)));
        assert_eq!(seconds("18446744073709551615"), Some(AFTER_MAX));
        assert_eq!(seconds("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }

    #[test]
    fn what_is_shown_of_an_answer_is_short() {
        assert_eq!(shown(b"<html>\n\n  no\x1b[31m"), "<html> no[31m");
        assert!(
            shown(&[b'x'; 10_000]).len() <= SHOWN_CHARS && shown(&[0xff; 9]).chars().count() == 9
        );
    }
}
