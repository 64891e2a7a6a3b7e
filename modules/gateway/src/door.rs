//! Connections: who is let in, how many, and how slow they may be.
//!
//! Invariants: no failed accept ends the loop; over the Unix socket only the mesh's own user and root come in, by SO_PEERCRED; whoever
//! takes or sends nothing is cut, and holds up nobody else.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use brahman_card::Fault;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller::Origin;
use crate::service::Gateway;

/// How long a request's head may take, and a connection may lie idle before it.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of a request's head; also how much of a body is read at once.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 100;
/// Whoever takes no byte for this long is gone.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// How long the word that somebody is not let in may take.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);
/// Pause after an accept that failed: long enough to let a connection end.
const PAUSE: Duration = Duration::from_millis(20);

/// Accepts connections at one address after the other, all into the same house.
#[derive(Debug)]
pub(crate) struct Door {
    gateway: Arc<Gateway>,
    places: Arc<Semaphore>,
    drain: CancellationToken,
    tracker: TaskTracker,
}

impl Door {
    pub(crate) fn new(gateway: Arc<Gateway>, connections: usize, drain: CancellationToken) -> Self {
        Self { gateway, places: Arc::new(Semaphore::new(connections)), drain, tracker: TaskTracker::new() }
    }

    /// Lets connections in at all addresses until drained, and then waits for those that are answered.
    pub(crate) async fn serve(self, socket: UnixListener, addresses: Vec<TcpListener>) {
        let door = Arc::new(self);
        for listener in addresses {
            let door = Arc::clone(&door);
            let tracker = door.tracker.clone();
            tracker.spawn(async move { door.serve_tcp(listener).await });
        }
        door.serve_socket(socket).await;
        door.tracker.close();
        door.tracker.wait().await;
    }

    async fn serve_socket(&self, listener: UnixListener) {
        let own = rustix::process::geteuid().as_raw();
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.drain.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Some((stream, _)) = self.taken(accepted).await else { continue };
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == own || peer.uid() == 0 => self.converse(stream, Origin::Socket),
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid(), "another user was turned away");
                    let fault = Fault::permission_denied(format!("this mesh belongs to uid {own}, not to uid {}", peer.uid()));
                    self.tracker.spawn(turn_away(stream, StatusCode::FORBIDDEN, fault));
                }
                Err(error) => tracing::warn!(%error, "a peer without credentials was turned away"),
            }
        }
    }

    async fn serve_tcp(&self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.drain.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Some((stream, peer)) = self.taken(accepted).await else { continue };
            // Whether small answers are held back is a question of speed alone.
            let _ = stream.set_nodelay(true);
            match stream.local_addr() {
                Ok(at) => {
                    tracing::debug!(%peer, %at, "connected");
                    self.converse(stream, Origin::Tcp { at });
                }
                Err(error) => tracing::debug!(%error, %peer, "it has gone already"),
            }
        }
    }

    /// What was accepted; after a failure nothing, a moment later.
    async fn taken<T>(&self, accepted: io::Result<T>) -> Option<T> {
        match accepted {
            Ok(taken) => Some(taken),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(PAUSE).await;
                None
            }
        }
    }

    /// Answers a connection's requests, if there is a place.
    fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S, origin: Origin) {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => drop(self.tracker.spawn(converse(stream, origin, Arc::clone(&self.gateway), self.drain.clone(), place))),
            Err(_) => {
                tracing::warn!(?origin, "no place is left for another connection");
                let fault = Fault::overloaded("too many connections are open here", 1000);
                self.tracker.spawn(turn_away(stream, StatusCode::SERVICE_UNAVAILABLE, fault));
            }
        }
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    origin: Origin,
    gateway: Arc<Gateway>,
    drain: CancellationToken,
    place: OwnedSemaphorePermit,
) {
    gateway.metrics.connections.inc();
    let answering = Arc::clone(&gateway);
    let service = service_fn(move |request: Request<Incoming>| {
        let gateway = Arc::clone(&answering);
        async move { Ok::<_, Infallible>(gateway.answer(request, origin).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let connection = builder.serve_connection(TokioIo::new(PatientStream { inner: stream, stalled: None }), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, ?origin, "connection ended");
    }
    gateway.metrics.connections.dec();
    drop(place);
}

/// Tells somebody why he is not let in, as far as he takes it, and hangs up.
async fn turn_away<S: AsyncWrite + Unpin>(mut stream: S, status: StatusCode, fault: Fault) {
    let body = serde_json::to_string(&fault).unwrap_or_default();
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: 1\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let told = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    };
    // Whoever does not take it has gone, or will not be told.
    let _ = tokio::time::timeout(REFUSAL_PATIENCE, told).await;
}

/// A stream whose reader is waited for, but not for ever.
struct PatientStream<S> {
    inner: S,
    /// Runs while the reader takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> PatientStream<S> {
    /// What writing came to: waiting becomes a failure after a while.
    fn bounded<T>(&mut self, outcome: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Ready(done) => {
                self.stalled = None;
                Poll::Ready(done)
            }
            Poll::Pending => {
                let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL)));
                ready!(stalled.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PatientStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PatientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.bounded(outcome, context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(context, parts);
        self.bounded(outcome, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(context);
        self.bounded(outcome, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(context);
        self.bounded(outcome, context)
    }
}
