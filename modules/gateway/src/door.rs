//! Connections: who is let in, how many, and how slow they may be.
//!
//! Invariants: no failed accept ends the loop; over the Unix socket only the mesh's own user and
//! root come in, by SO_PEERCRED; whoever takes or sends nothing is cut, or next to nothing, and
//! holds up nobody else.

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
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller::Origin;
use crate::places::{Place, Places};
use crate::service::Gateway;

/// How long a request's head may take, and a connection may lie idle before it.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of a request's head; also how much of a body is read at once.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 100;
/// Whoever takes less than [`TAKEN_MIN`] of what lies ready for this long is gone, or would have us
/// keep it for ever.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// Bytes: as slow as a telephone's line once was.
const TAKEN_MIN: usize = 64 * 1024;
/// After so long in silence a peer's machine is asked whether it is still there, and then so often:
/// one that sleeps or has lost its net says nothing, and a stream with no news would be kept for it
/// for ever.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const ASKED_EVERY: Duration = Duration::from_secs(15);
/// Without an answer to so many questions it has gone.
const ASKED_MAX: u32 = 4;
/// How long the word that somebody is not let in may take.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);
/// Pause after an accept that failed: long enough to let a connection end.
const PAUSE: Duration = Duration::from_millis(20);

/// Accepts connections at one address after the other, all into the same house.
#[derive(Debug)]
pub(crate) struct Door {
    gateway: Arc<Gateway>,
    places: Places,
    drain: CancellationToken,
    tracker: TaskTracker,
}

impl Door {
    pub(crate) fn new(gateway: Arc<Gateway>, connections: usize, drain: CancellationToken) -> Self {
        Self { gateway, places: Places::new(connections), drain, tracker: TaskTracker::new() }
    }

    /// Lets connections in at all addresses until drained, and then waits for those that are
    /// answered.
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
                Ok(peer) if peer.uid() == own || peer.uid() == 0 => {
                    self.converse(stream, Origin::Socket);
                }
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid(), "another user was turned away");
                    let fault = Fault::permission_denied(format!(
                        "this mesh belongs to uid {own}, not to uid {}",
                        peer.uid()
                    ));
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
            if let Err(error) = ask_after(&stream) {
                tracing::debug!(%error, %peer, "whether it is still there is not asked");
            }
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
    fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        origin: Origin,
    ) {
        match self.places.take(1, origin.at().is_some()) {
            Some(place) => drop(self.tracker.spawn(converse(
                stream,
                origin,
                Arc::clone(&self.gateway),
                self.drain.clone(),
                place,
            ))),
            None => {
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
    place: Place,
) {
    gateway.metrics.connections.inc();
    let answering = Arc::clone(&gateway);
    let service = service_fn(move |request: Request<Incoming>| {
        let gateway = Arc::clone(&answering);
        async move { Ok::<_, Infallible>(gateway.answer(request, origin).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let connection = builder
        .serve_connection(TokioIo::new(PatientStream { inner: stream, stalled: None }), service);
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

/// Has the kernel ask a silent peer whether it is still there.
fn ask_after(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE_MAX)?;
    sockopt::set_tcp_keepintvl(stream, ASKED_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, ASKED_MAX)?;
    Ok(())
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

/// A reader that does not take what lies ready.
struct Stall {
    /// When it will have taken too long.
    until: Pin<Box<Sleep>>,
    /// Bytes that it has taken since it began.
    taken: usize,
}

/// A stream whose reader is waited for, but not for ever.
struct PatientStream<S> {
    inner: S,
    /// Since the reader last took all there was, or enough of it.
    stalled: Option<Stall>,
}

impl<S> PatientStream<S> {
    /// What writing came to: waiting becomes a failure after a while.
    fn written(
        &mut self,
        outcome: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &outcome {
            let is_enough = self.stalled.as_mut().is_some_and(|stall| {
                stall.taken = stall.taken.saturating_add(*bytes);
                stall.taken >= TAKEN_MIN
            });
            if is_enough {
                self.stalled = None;
            }
        }
        self.bounded(outcome, context)
    }

    /// The same of what is done once everything was taken.
    fn flushed(
        &mut self,
        outcome: Poll<io::Result<()>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if outcome.is_ready() {
            self.stalled = None;
        }
        self.bounded(outcome, context)
    }

    fn bounded<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            return outcome;
        }
        let begin = || Stall { until: Box::pin(tokio::time::sleep(WRITE_STALL)), taken: 0 };
        let stall = self.stalled.get_or_insert_with(begin);
        ready!(stall.until.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PatientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PatientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.written(outcome, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(context, parts);
        self.written(outcome, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(context);
        self.flushed(outcome, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(context);
        self.flushed(outcome, context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// A stream that is read so slowly that it takes some bytes and then none, by turns.
    struct SlowReader {
        takes: usize,
        is_turn: bool,
    }

    impl AsyncWrite for SlowReader {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.is_turn = !self.is_turn;
            if self.is_turn {
                return Poll::Ready(Ok(self.takes.min(bytes.len())));
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_peer_that_has_gone_in_silence_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream =
            TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        ask_after(&stream).expect("set");
        assert!(sockopt::socket_keepalive(&stream).expect("told"));
        assert_eq!(sockopt::tcp_keepidle(&stream).expect("told"), SILENCE_MAX);
    }

    #[tokio::test]
    async fn a_reader_that_takes_a_byte_now_and_then_is_still_stalled() {
        for (takes, is_patient) in [(1, false), (TAKEN_MIN, true)] {
            let mut stream =
                PatientStream { inner: SlowReader { takes, is_turn: true }, stalled: None };
            let steps = poll_fn(|context| {
                let bytes = vec![0; 2 * TAKEN_MIN];
                // The first is made to wait, the next one takes.
                assert!(Pin::new(&mut stream).poll_write(context, &bytes).is_pending());
                assert!(Pin::new(&mut stream).poll_write(context, &bytes).is_ready());
                Poll::Ready(stream.stalled.is_none())
            });
            assert_eq!(steps.await, is_patient, "{takes}");
            stream.flush().await.expect("flushed");
            assert!(stream.stalled.is_none(), "who has taken all is waited for no more");
        }
    }
}
