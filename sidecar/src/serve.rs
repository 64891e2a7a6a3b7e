//! Serving Varlink: a listener, a [`Service`], one bounded task a connection.

mod accept;
mod call;
mod connection;
mod memory;
mod wait;

use std::future::Future;
use std::sync::Arc;

use brahman_card::interface::Interface;
use brahman_card::wire::fault::Fault;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use accept::{AcceptLimits, Peer, accept};
pub use call::{Call, Reply, UpgradedStream, encode_fault, encode_reply};
pub use connection::{
    GONE_EVERY, PARTIAL_MAX, WRITE_STALL, fill, has_unread, hung_up, linger, unknown_key,
    write_all, write_parts,
};
pub use memory::{Charge, PROCESS_BYTES_MAX};
pub use wait::{NEXT_CALL_POLL, Wait, poll_briefly};

/// What a module author implements: the interfaces it serves and what a call does.
///
/// A call's future is dropped when the caller hangs up or its deadline passes; work that runs
/// elsewhere (a thread, a queue) has to notice that by itself, for example through a closed
/// channel.
pub trait Service: Send + Sync + 'static {
    /// Interfaces served, `org.varlink.service` aside.
    fn interfaces(&self) -> &'static [&'static Interface];

    /// Answers one call. Unknown methods are [`Call::unknown`].
    fn call(self: Arc<Self>, call: Call) -> impl Future<Output = Result<Reply, Fault>> + Send;
}

/// How a server is known and how much it lets in.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Put as `org.brahman.provider` into replies to calls that have additions of ours.
    pub provider: String,
    /// Connections.
    pub limits: AcceptLimits,
    /// Calls being worked on at once, over all connections.
    pub in_flight_max: usize,
}

impl ServeOptions {
    /// Defaults for a provider of this name.
    #[must_use]
    pub fn named(provider: impl Into<String>) -> Self {
        Self { provider: provider.into(), limits: AcceptLimits::default(), in_flight_max: 1024 }
    }
}

/// Serves until `drain` is cancelled, then lets running calls finish and returns.
pub async fn serve<S: Service>(
    listener: UnixListener,
    service: Arc<S>,
    options: ServeOptions,
    drain: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let limits = options.limits;
    let shared = Arc::new(connection::ServerState::new(service, options, drain.clone()));
    accept(listener, limits, &drain, &tracker, move |stream, peer| {
        connection::converse(stream, peer, Arc::clone(&shared))
    })
    .await;
    tracker.close();
    tracker.wait().await;
}
