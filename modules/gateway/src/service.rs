//! Requests: who may make them, how much of them is read, and what is done with each.
//!
//! Invariants: a request that names another host, or a page of another origin, is turned away
//! before its body is read; a body is bounded in bytes and time; as many requests are worked on at
//! once as memory is there for.

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::interface::WireError as _;
use brahman_card::interface::service::error::MethodNotImplemented;
use brahman_card::wire::MESSAGE_BYTES_MAX;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT, HOST, HeaderMap, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};

use crate::answer::{self, Answer};
use crate::caller::{Caller, Origin};
use crate::keys::Keys;
use crate::mesh::Mesh;
use crate::metrics::{self, Metrics};
use crate::places::{Place, Places};
use crate::refusal::Refusal;
use crate::routes::{Route, dialect, is_of_page};
use crate::sessions::{SESSION, Sessions};
use crate::settings::{Settings, is_own_origin};
use crate::{calls, mcp, ollama, openai, openapi, page, plain, rerank, score, tei, upload};

/// Longest body: with the rest of its call it has to fit a message.
const BODY_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64 * 1024;
/// How long a body may take.
const BODY_TIME_MAX: Duration = Duration::from_secs(120);
/// How long nothing of a body may come.
const BODY_STALL_MAX: Duration = Duration::from_secs(15);
/// Memory for bodies, in KiB: sixteen of the longest.
const BODIES_KIB_MAX: usize = 256 * 1024;
/// Requests that are worked on at once.
const REQUESTS_MAX: usize = 256;
/// How long a request may wait for one of those places.
const PLACE_PATIENCE: Duration = Duration::from_secs(5);

/// The gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    mesh: Mesh,
    settings: Settings,
    keys: Keys,
    pub(crate) metrics: Metrics,
    places: Places,
    /// KiB for bodies.
    memory: Places,
    /// Where files lie while they are taken in.
    uploads: PathBuf,
    /// Of clients that speak the Model Context Protocol.
    sessions: Sessions,
}

impl Gateway {
    pub(crate) fn new(mesh: Mesh, settings: Settings, keys: Keys, uploads: PathBuf) -> Self {
        let (places, memory) = (Places::new(REQUESTS_MAX), Places::new(BODIES_KIB_MAX));
        let (metrics, sessions) = (Metrics::new(), Sessions::default());
        Self { mesh, settings, keys, metrics, places, memory, uploads, sessions }
    }

    /// Answers a request.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        origin: Origin,
    ) -> Answer {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let mut answer = match self.attend(&head, body, &origin).await {
            Ok(answer) => answer,
            Err(refusal) => {
                tracing::debug!(path, status = refusal.status.as_u16(), fault = %refusal.fault, "refused");
                let told = dialect(path).refuse(&refusal);
                match is_of_page(path) && page::wants_html(&head.headers) {
                    true => page::error(&refusal, &told),
                    false => told,
                }
            }
        };
        // Nothing that comes from here is a page of this origin's but the page itself, which says
        // more.
        answer::set(&mut answer, "x-content-type-options", "nosniff");
        self.allow_origin(&head.headers, &mut answer);
        let route = Route::of(path).map_or("other", |route| route.pattern());
        self.metrics.note(route, &answer, started.elapsed());
        answer
    }

    async fn attend(
        &self,
        head: &Parts,
        body: Incoming,
        origin: &Origin,
    ) -> Result<Answer, Refusal> {
        self.check_host(head, origin)?;
        if head.method == Method::OPTIONS {
            return self.preflight(&head.headers);
        }
        let path = head.uri.path();
        let route = Route::of(path).ok_or_else(|| {
            Refusal::absent(format!("nothing is at {path}; /openapi.json tells what there is"))
        })?;
        if !route.takes(&head.method) {
            let expected = match route {
                Route::Mcp => "POST or DELETE",
                _ if route.is_post() => "POST",
                _ => "GET",
            };
            let fault = Fault::new(
                MethodNotImplemented::NAME,
                false,
                format!("{path} takes {expected}, not {}", head.method),
            );
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, fault));
        }
        self.check_origin(head, route)?;
        let caller = Caller::identify(&head.headers, origin, &self.keys, &self.settings)?;
        self.mesh.check_context(&caller).await?;
        if route == Route::Upload {
            return upload::files(&self.mesh, &caller, head, body, &self.uploads).await;
        }
        // Before it has a place among those that are worked on: who sends slowly keeps nobody from
        // one.
        let is_remote = caller.is_remote();
        let (body, _memory) = if route.is_post() {
            read(body, &self.memory, is_remote).await?
        } else {
            (Vec::new(), None)
        };
        let place = tokio::time::timeout(PLACE_PATIENCE, self.places.wait(is_remote)).await;
        let _place = match place {
            Ok(Some(place)) => place,
            _ => {
                return Err(Fault::overloaded(
                    format!("{REQUESTS_MAX} requests are being worked on"),
                    1000,
                )
                .into());
            }
        };
        self.dispatch(route, &caller, head, &body).await
    }

    async fn dispatch(
        &self,
        route: Route<'_>,
        caller: &Caller,
        head: &Parts,
        body: &[u8],
    ) -> Result<Answer, Refusal> {
        let mesh = &self.mesh;
        match route {
            Route::Page => Ok(page::home(mesh, caller, &head.headers).await),
            Route::View(name) => {
                page::view(mesh, caller, name, head.uri.query().unwrap_or_default()).await
            }
            Route::Matrix => page::matrix(mesh, caller, body).await,
            Route::Health => tei::health(mesh, caller).await,
            Route::Metrics => {
                let accept = head
                    .headers
                    .get(ACCEPT)
                    .and_then(|accept| accept.to_str().ok())
                    .unwrap_or_default();
                metrics::scrape(
                    &self.metrics,
                    mesh,
                    caller,
                    accept.contains("application/openmetrics-text"),
                )
                .await
            }
            Route::OpenApi => openapi::document(mesh, caller).await,
            Route::Mcp if head.method == Method::DELETE => {
                mcp::end(&self.sessions, caller, &head.headers)
            }
            Route::Mcp => mcp::message(mesh, &self.sessions, caller, &head.headers, body).await,
            Route::Models => openai::models(mesh, caller).await,
            Route::Model(name) => openai::model(mesh, caller, name).await,
            Route::OpenAiEmbeddings => openai::embeddings(mesh, caller, body).await,
            Route::OllamaEmbed => ollama::embed_texts(mesh, caller, body).await,
            Route::OllamaEmbeddings => ollama::embeddings(mesh, caller, body).await,
            Route::OllamaTags => ollama::tags(mesh, caller).await,
            Route::OllamaShow => ollama::show(mesh, caller, body).await,
            Route::OllamaProcesses => ollama::processes(mesh, caller).await,
            Route::OllamaVersion => Ok(ollama::version()),
            Route::TeiEmbed => tei::embed_texts(mesh, caller, body).await,
            Route::TeiInfo => tei::info(mesh, caller).await,
            Route::TeiRerank => tei::rerank_texts(mesh, caller, body).await,
            Route::Rerank => rerank::rerank(mesh, caller, body, false).await,
            Route::RerankSecond => rerank::rerank(mesh, caller, body, true).await,
            Route::Score => score::score(mesh, caller, body).await,
            Route::Call(method) => calls::call(mesh, caller, method, &head.headers, body).await,
            Route::Interfaces => calls::interfaces(mesh, caller).await,
            Route::Interface(name) => calls::interface_text(mesh, caller, name).await,
            Route::Status => plain::status(mesh, caller).await,
            Route::Events => plain::events(mesh, caller).await,
            Route::Indexes => plain::indexes(mesh, caller).await,
            Route::Index(name) => plain::index(mesh, caller, name).await,
            Route::Search(name) => plain::search(mesh, caller, name, body).await,
            // Its body is not held.
            Route::Upload => Err(Refusal::absent("nothing is read here")),
            Route::Datasets => plain::datasets(mesh, caller).await,
            Route::Dataset(name) => plain::dataset(mesh, caller, name).await,
            Route::Object(bucket, key) => plain::object(mesh, caller, bucket, key).await,
        }
    }

    /// Whether it is this gateway that is meant.
    fn check_host(&self, head: &Parts, origin: &Origin) -> Result<(), Refusal> {
        let host = host_of(head);
        let mut named = head.headers.get_all(HOST).iter();
        let first = named.next();
        // Of two names nobody can tell which one somebody before us has looked at.
        let are_alike =
            named.next().is_none() && first.is_none_or(|name| name.as_bytes() == host.as_bytes());
        if are_alike && self.settings.is_host(host, origin.at()) {
            return Ok(());
        }
        let why = format!(
            "`{}` is not a name of this gateway's: BRAHMAN_GATEWAY_HOSTS says by which it may be called",
            host.escape_debug()
        );
        Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, Fault::permission_denied(why)))
    }

    /// A browser says from where a page asks; a page of elsewhere is answered only if that is
    /// allowed.
    fn check_origin(&self, head: &Parts, route: Route<'_>) -> Result<(), Refusal> {
        let word = |name: &str| {
            head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        let Some(origin) = head.headers.get(ORIGIN) else {
            // Asked by a page for an image or the like, it has none. What a person has followed a
            // link to is another matter.
            let is_foreign = ["cross-site", "same-site"].contains(&word("sec-fetch-site"))
                && word("sec-fetch-dest") != "document";
            return match is_foreign && route != Route::Page {
                true => {
                    Err(Fault::permission_denied("pages of another origin may not ask here").into())
                }
                false => Ok(()),
            };
        };
        let origin = origin.to_str().unwrap_or_default();
        // Another port of this machine is another's page as well.
        if self.settings.is_origin(origin) || is_own_origin(origin, host_of(head)) {
            return Ok(());
        }
        let why = format!(
            "pages of `{}` may not ask here: BRAHMAN_GATEWAY_ORIGINS says which may",
            origin.escape_debug()
        );
        Err(Fault::permission_denied(why).into())
    }

    /// Answers a browser that asks whether it may ask.
    fn preflight(&self, headers: &HeaderMap) -> Result<Answer, Refusal> {
        let origin =
            headers.get(ORIGIN).and_then(|origin| origin.to_str().ok()).unwrap_or_default();
        if !self.settings.is_origin(origin) {
            return Err(Fault::permission_denied(
                "BRAHMAN_GATEWAY_ORIGINS does not name this origin",
            )
            .into());
        }
        let mut answer = answer::bytes(StatusCode::NO_CONTENT, "text/plain", "");
        answer::set(&mut answer, "access-control-allow-methods", "GET, POST, DELETE");
        answer::set(
            &mut answer,
            "access-control-allow-headers",
            "authorization, content-type, x-api-key, brahman-context, traceparent, mcp-protocol-version, mcp-session-id",
        );
        answer::set(&mut answer, "access-control-max-age", "600");
        Ok(answer)
    }

    /// Lets pages of an origin that is allowed read an answer.
    fn allow_origin(&self, headers: &HeaderMap, answer: &mut Answer) {
        let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
        if let Some(origin) = origin.filter(|origin| self.settings.is_origin(origin)) {
            answer::set(answer, "access-control-allow-origin", origin);
            answer::set(answer, "access-control-expose-headers", SESSION);
            answer::set(answer, "vary", "origin");
        }
    }
}

/// Which host a request names: in its target, or in its header.
fn host_of(head: &Parts) -> &str {
    let named = || head.headers.get(HOST).and_then(|host| host.to_str().ok());
    head.uri.authority().map(|authority| authority.as_str()).or_else(named).unwrap_or_default()
}

/// Reads a body, as far as it may go. What it takes of the memory for bodies is given back with the
/// second.
async fn read(
    mut body: Incoming,
    memory: &Places,
    is_remote: bool,
) -> Result<(Vec<u8>, Option<Place>), Refusal> {
    let too_long = || {
        let fault = Fault::overloaded(format!("the body has more than {BODY_BYTES_MAX} bytes"), 0);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, fault)
    };
    let late = || {
        Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            Fault::deadline_exceeded("the body was on its way"),
        )
    };
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_long());
    }
    let until = Instant::now() + BODY_TIME_MAX;
    let (mut bytes, mut held, mut held_kib) = (Vec::new(), None::<Place>, 0_u32);
    loop {
        let next = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let stalled = (Instant::now() + BODY_STALL_MAX).min(until);
        match tokio::time::timeout_at(stalled.into(), next).await {
            Err(_) => return Err(late()),
            Ok(None) => return Ok((bytes, held)),
            Ok(Some(Err(error))) => {
                return Err(Refusal::parameter("(body)", format!("it could not be read: {error}")));
            }
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                if bytes.len() + data.len() > BODY_BYTES_MAX {
                    return Err(too_long());
                }
                let needed_kib =
                    u32::try_from((bytes.len() + data.len()).div_ceil(1024)).unwrap_or(u32::MAX);
                if needed_kib > held_kib {
                    let more = memory.take(needed_kib - held_kib, is_remote);
                    let more = more.ok_or_else(|| {
                        Fault::overloaded("no memory is left for another body", 1000)
                    })?;
                    held_kib = needed_kib;
                    match &mut held {
                        Some(held) => held.merge(more),
                        None => held = Some(more),
                    }
                }
                bytes.extend_from_slice(&data);
            }
        }
    }
}
