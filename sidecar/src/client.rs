//! Calling the mesh.
//!
//! * [`Connection`]: one socket, one call at a time, as Varlink has it.
//! * [`Client`]: asks the broker who serves a flow, talks straight to that provider, follows the
//!   broker's `Watch`, and falls back to the broker. An idempotent call survives the death of any
//!   one process, inside its deadline.

mod connection;
mod pool;
mod route;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::interface::broker::error::ProviderFailed;
use brahman_card::interface::{self, Method, WireError as _};
use brahman_card::wire::MESSAGE_BYTES_MAX;
use brahman_card::wire::fault::Fault;
use brahman_card::wire::frame::FrameError;
use brahman_card::wire::header::{HeaderError, again};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::{Backoff, chain};
pub use connection::{Connection, RawReply, encode_call, encode_method};
use pool::Pool;
use route::Route;

/// How long a call may take if its caller does not say: long enough for a provider to restart and
/// load its model.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(60);
/// How long a provider that is called straight may be silent where the call may be made again: the
/// broker knows more of what has become of it. Only for methods that take no longer by their own
/// word, and only if twice as much time is left for the broker.
const DIRECT_MAX: Duration = Duration::from_secs(15);
/// How long a route's provider is waited for before the broker is asked, which knows more of what
/// is on its way.
const ROUTE_WAIT: Duration = Duration::from_millis(250);
/// How long a socket may be away while init starts anew and binds it.
const UNBOUND: Duration = Duration::from_millis(300);
/// Pauses between attempts: a restarting broker is back in a few milliseconds.
const PAUSES: Backoff = Backoff::doubling(Duration::from_millis(2), Duration::from_millis(250));

/// Why a reply makes no sense.
#[derive(Debug, Error)]
pub enum ReplyError {
    /// It has no end.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It is no message.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Its parameters are not of the type expected.
    #[error(transparent)]
    Parameters(#[from] serde_json::Error),
}

/// Why a call cannot be a message.
#[derive(Debug, Error)]
pub enum MessageError {
    /// Its parameters or requirements are not JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is longer than a message may be.
    #[error("the message has {bytes} bytes, expected at most {MESSAGE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// Why a call gave no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot connect to {path}")]
    Connect {
        /// Socket.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The other end hung up before a whole reply had come.
    #[error("{path} hung up before answering")]
    Closed {
        /// Socket.
        path: PathBuf,
    },
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// The reply was not Varlink, or not of the type expected.
    #[error("unexpected reply")]
    Protocol(#[source] ReplyError),
    /// The call could not be written as a message.
    #[error("cannot send the call")]
    Unsendable(#[source] MessageError),
    /// The provider's own answer.
    #[error("{0}")]
    Fault(Fault),
    /// The caller's time is up.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
}

impl ClientError {
    /// Whether the process at the other end went away, which says nothing about the call itself.
    #[must_use]
    pub fn is_disconnect(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Closed { .. } | Self::Io(_))
    }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Fault(fault) => fault,
            ClientError::Deadline(_) => Fault::deadline_exceeded("another module worked"),
            other => Fault::of(&ProviderFailed { label: String::new() }, true, chain(&other)),
        }
    }
}

/// How to make a call.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// Longest wait; [`DEADLINE_DEFAULT`] unless set.
    pub deadline: Option<Duration>,
    /// Context for this call alone.
    pub context: Option<String>,
    /// Attributes that the provider must have.
    pub require: BTreeMap<String, String>,
    /// Trace id, passed on.
    pub trace: Option<String>,
    /// On whose behalf, of a module whose Card says `delegate_uid`.
    pub uid: Option<u32>,
}

/// A typed answer and who gave it.
#[derive(Clone, Debug)]
pub struct Answer<R> {
    /// The reply's parameters, typed.
    pub value: R,
    /// Label of the provider, if the reply said.
    pub provider: Option<String>,
    /// Whether it is known to be a mock: of one that the broker stood in for, nothing is known.
    pub mock: bool,
}

/// How an attempt is made.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Straight to the provider, where one is known.
    Direct {
        /// An answer that does not come soon will not come.
        is_short: bool,
    },
    /// Through the broker.
    Brokered,
}

/// What routes are kept under: interface, context and requirements.
type RouteKey = (String, Option<String>, BTreeMap<String, String>);

/// A client of the whole mesh. Clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    mesh: Arc<PathBuf>,
    routes: Arc<Mutex<HashMap<RouteKey, Arc<Route>>>>,
    brokered: Arc<Pool>,
    absence: Option<Duration>,
    goes_direct: bool,
}

impl Client {
    /// A client of the mesh at this socket. Nothing is connected yet.
    #[must_use]
    pub fn new(mesh: &Path) -> Self {
        Self {
            mesh: Arc::new(mesh.to_owned()),
            routes: Arc::default(),
            brokered: Arc::default(),
            absence: None,
            goes_direct: true,
        }
    }

    /// A client for one call or two, as a person's command makes them: single calls go through the
    /// broker, for there is nothing to gain from following it, and a mesh that nobody serves is
    /// waited for only so long, one that has no socket for a moment.
    #[must_use]
    pub fn for_command(mesh: &Path, absence: Duration) -> Self {
        Self { absence: Some(absence), goes_direct: false, ..Self::new(mesh) }
    }

    /// Whether a mesh that could not be reached for this long is taken for absent.
    fn is_absent(&self, error: &ClientError, waited: Duration) -> bool {
        match (error, self.absence) {
            (ClientError::Connect { source, .. }, Some(longest)) => {
                let longest = if source.kind() == std::io::ErrorKind::NotFound {
                    longest.min(UNBOUND)
                } else {
                    longest
                };
                waited >= longest
            }
            _ => false,
        }
    }

    /// Calls `interface.Method` and waits for its one reply.
    ///
    /// # Errors
    /// [`ClientError`]; a disconnect only if the method is not idempotent or the deadline has
    /// passed.
    pub async fn call<P, R>(
        &self,
        method: &str,
        parameters: &P,
        options: &CallOptions,
    ) -> Result<Answer<R>, ClientError>
    where
        P: Serialize + Sync,
        R: DeserializeOwned,
    {
        let (interface, short) = method.rsplit_once('.').unwrap_or(("", method));
        let mut idempotent = interface::known(interface).is_some_and(|i| i.is_idempotent(short));
        let allowed = options.deadline.unwrap_or_else(|| {
            let usual = Duration::from_secs(interface::patience_s(interface, short));
            if self.goes_direct { usual.max(DEADLINE_DEFAULT) } else { usual }
        });
        let is_short = interface::patience_s(interface, short) <= 2 * DIRECT_MAX.as_secs()
            && allowed >= 3 * DIRECT_MAX;
        let begun = Instant::now();
        let until = begun + allowed;
        let mut message = encode_call(method, parameters, options, false, false)?;
        let work = async {
            let mut pauses = PAUSES;
            let mut direct = self.goes_direct && !is_broker_s(interface);
            loop {
                let way = if !direct { Way::Brokered } else { Way::Direct { is_short } };
                let outcome =
                    self.attempt(interface, short, &message, options, way, &mut idempotent).await;
                match outcome {
                    // Not connected means not called: always safe to try again.
                    Err(error) if self.is_absent(&error, begun.elapsed()) => return Err(error),
                    Err(error)
                        if error.is_disconnect()
                            && (idempotent || matches!(error, ClientError::Connect { .. })) =>
                    {
                        tracing::debug!(error = chain(&error), method, "trying again");
                        if !direct {
                            pauses.wait().await;
                        }
                        // The broker knows who is there, and that a provider has ended on this call
                        // before.
                        if direct && !matches!(error, ClientError::Connect { .. }) {
                            message = again(&message);
                        }
                        direct = false;
                    }
                    // What this provider depends on has failed: the broker knows who else there is.
                    Err(ClientError::Fault(fault))
                        if direct && idempotent && fault.name == ProviderFailed::NAME =>
                    {
                        direct = false;
                    }
                    other => return other,
                }
            }
        };
        let reply = tokio::time::timeout_at(until.into(), work)
            .await
            .map_err(|_| ClientError::Deadline(allowed))??;
        reply.typed()
    }

    /// Calls a method of a shipped interface and waits for its one reply: its types are the
    /// method's own.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_method<M: Method>(
        &self,
        ask: &M::In,
        options: &CallOptions,
    ) -> Result<Answer<M::Out>, ClientError> {
        self.call(M::NAME, ask, options).await
    }

    /// Makes one attempt, straight to the provider or through the broker, or first so and then so.
    /// Learns whether the provider's Card declares the method idempotent.
    async fn attempt(
        &self,
        interface: &str,
        method: &str,
        message: &[u8],
        options: &CallOptions,
        way: Way,
        idempotent: &mut bool,
    ) -> Result<RawReply, ClientError> {
        let mut repeated = None;
        if let Way::Direct { is_short } = way {
            let route = self.route(interface, options);
            if let Some(target) = route.target(ROUTE_WAIT).await {
                *idempotent |= target
                    .idempotent
                    .as_ref()
                    .is_some_and(|methods| methods.iter().any(|m| m == method));
                let exchange = route.exchange(&target, message);
                if !(is_short && *idempotent) {
                    return exchange.await;
                }
                match tokio::time::timeout(DIRECT_MAX, exchange).await {
                    Ok(outcome) => return outcome,
                    // Hanging up ends the work there, if there is any.
                    Err(_) => {
                        tracing::warn!(
                            method,
                            label = target.label,
                            "no answer from the provider itself: the broker is asked"
                        );
                        repeated = Some(again(message));
                    }
                }
            }
        }
        let mut connection = match self.brokered.take(&self.mesh) {
            Some(connection) => connection,
            None => self.dial(interface).await?,
        };
        let outcome = connection.exchange(repeated.as_deref().unwrap_or(message)).await;
        self.brokered.put(connection);
        outcome
    }

    /// A connection to the broker; to init itself for what is init's, if there is no broker.
    async fn dial(&self, interface: &str) -> Result<Connection, ClientError> {
        match Connection::connect(&self.mesh).await {
            Err(ClientError::Connect { .. }) if interface == interface::init::INTERFACE.name => {
                Connection::connect(&crate::place::init_socket(&self.mesh)).await
            }
            other => other,
        }
    }

    /// The live route to an interface; the first call for one starts following the broker.
    fn route(&self, interface: &str, options: &CallOptions) -> Arc<Route> {
        let key = (interface.to_owned(), options.context.clone(), options.require.clone());
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            routes
                .entry(key)
                .or_insert_with(|| Arc::new(Route::follow(&self.mesh, interface, options))),
        )
    }

    /// Opens a connection for `more` or `upgrade`: straight to the provider where one is known,
    /// else to the broker.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if nobody could be reached in time.
    pub async fn open(
        &self,
        interface: &str,
        options: &CallOptions,
    ) -> Result<Connection, ClientError> {
        let begun = Instant::now();
        let mut pauses = PAUSES;
        loop {
            let route = self.route(interface, options);
            let target = if is_broker_s(interface) { None } else { route.target(ROUTE_WAIT).await };
            let dialled = match target {
                Some(target) => Connection::connect(&route.socket_of(&target)).await,
                None => self.dial(interface).await,
            };
            match dialled {
                Err(error)
                    if !self.is_absent(&error, begun.elapsed())
                        && begun.elapsed() < DEADLINE_DEFAULT =>
                {
                    tracing::debug!(error = chain(&error), interface, "connecting again");
                    pauses.wait().await;
                }
                other => return other,
            }
        }
    }

    /// Path of the mesh socket.
    #[must_use]
    pub fn mesh(&self) -> &Path {
        &self.mesh
    }
}

/// Whether an interface is the broker's own, or one that it splices without matching.
fn is_broker_s(interface: &str) -> bool {
    [
        interface::broker::INTERFACE.name,
        interface::init::INTERFACE.name,
        interface::service::INTERFACE.name,
    ]
    .contains(&interface)
}
