//! One connection: read a call, run it while still reading, write what it answers.
//!
//! Invariants: a hang-up drops the call's future at once; calls on one connection are answered in
//! order; a reader that takes nothing for [`WRITE_STALL`] loses the connection, and never stalls
//! another.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use brahman_card::interface::service::{self, DescriptionIn, DescriptionOut, Info};
use brahman_card::wire::fault::Fault;
use brahman_card::wire::frame::FrameBuffer;
use brahman_card::wire::header::{CallHeader, reply_head};
use brahman_card::wire::parameters;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::call::{Continuation, encode_fault, frame_reply, method_ranges, range_in};
use super::memory::Charge;
use super::wait::{NEXT_CALL_POLL, Wait, drained};
use super::{Call, Peer, Reply, ServeOptions, Service, UpgradedStream};
use crate::{Deadline, chain};

/// A reader that takes no byte for this long is gone.
pub const WRITE_STALL: Duration = Duration::from_secs(30);
/// Half a message must become a whole one within this time of its first byte.
pub const PARTIAL_MAX: Duration = Duration::from_secs(30);
/// How often it is asked whether a peer that has finished sending is still there.
pub const GONE_EVERY: Duration = Duration::from_secs(1);
/// Long calls that are worked on at once off the I/O thread; each holds a thread, and may need
/// another for its own work.
const LONG_CALLS: usize = 4;
/// After this many bytes of a message on its way, others on the thread have their turn.
const SLICE_BYTES: usize = 256 * 1024;
/// A call longer than this is worked on off the I/O thread: reading its JSON would keep others
/// waiting.
const LONG_CALL_BYTES: usize = 256 * 1024;
/// Streamed replies that may wait for a slow reader.
const REPLIES_WAITING: usize = 8;

pub(super) struct ServerState<S> {
    service: Arc<S>,
    options: ServeOptions,
    in_flight: AtomicUsize,
    drain: CancellationToken,
    own_uid: u32,
}

impl<S> ServerState<S> {
    pub(super) fn new(service: Arc<S>, options: ServeOptions, drain: CancellationToken) -> Self {
        Self {
            service,
            options,
            in_flight: AtomicUsize::new(0),
            drain,
            own_uid: nix::unistd::geteuid().as_raw(),
        }
    }
}

/// Counts a call while it runs.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a call left behind.
enum After {
    Next,
    Close,
    Upgrade(Vec<u8>, Continuation),
}

pub(super) async fn converse<S: Service>(
    stream: UnixStream,
    peer: Peer,
    shared: Arc<ServerState<S>>,
) {
    let mut frames = FrameBuffer::default();
    frames.reserve_from(Box::new(Charge::of(peer.uid)));
    let mut read_open = true;
    let mut next = Wait::new(NEXT_CALL_POLL);
    let (mut partial_since, mut is_first) = (None::<Instant>, true);
    loop {
        let read = if read_open { frames.next_frame() } else { frames.last_frame() };
        let frame = match read {
            Ok(Some(frame)) => {
                next.over();
                partial_since = None;
                frame.to_vec()
            }
            Ok(None) if !read_open => {
                if frames.has_partial() && !hung_up(&stream) {
                    let fault = Fault::invalid_parameter(
                        "(message)",
                        "expected a whole JSON object before the end of input",
                    );
                    let _ =
                        write_all(&stream, &encode_fault(b"{", &fault, frames.delimiter())).await;
                }
                return;
            }
            Ok(None) => {
                if next.poll(&stream, &mut frames).await {
                    continue;
                }
                frames.trim();
                if frames.pending().len() >= SLICE_BYTES {
                    tokio::task::yield_now().await;
                }
                let waiting = async {
                    if frames.has_partial() {
                        let until = *partial_since.get_or_insert_with(Instant::now) + PARTIAL_MAX;
                        tokio::time::timeout_at(until.into(), stream.readable())
                            .await
                            .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
                    } else {
                        stream.readable().await
                    }
                };
                let ready = tokio::select! {
                    biased;
                    ready = waiting => ready,
                    () = shared.drain.cancelled(), if !frames.has_partial() => return,
                };
                match ready.and_then(|()| fill(&stream, &mut frames)) {
                    Ok(open) => read_open = open,
                    Err(error) => {
                        tracing::debug!(%error, pid = peer.pid, "connection ended");
                        return;
                    }
                }
                continue;
            }
            Err(error) => {
                let fault = Fault::overloaded(
                    format!("{}; send large data through a bulk method", chain(&error)),
                    0,
                );
                // The rest of the long message is still coming; the fault has to leave first.
                let _ = write_all(&stream, &encode_fault(b"{", &fault, frames.delimiter())).await;
                linger(&stream).await;
                return;
            }
        };
        match run_call(
            &stream,
            peer,
            &shared,
            &mut frames,
            &mut read_open,
            std::mem::take(&mut is_first),
            frame,
        )
        .await
        {
            Ok(After::Next) => {}
            Ok(After::Close) => return,
            Ok(After::Upgrade(confirm, then)) => {
                if write_all(&stream, &confirm).await.is_err() {
                    return;
                }
                let rest = frames.take_rest();
                if let Err(error) = then(UpgradedStream { stream, rest }).await {
                    tracing::debug!(%error, "upgraded connection ended");
                }
                return;
            }
            Err(error) => {
                tracing::debug!(%error, pid = peer.pid, "connection ended");
                return;
            }
        }
    }
}

async fn run_call<S: Service>(
    stream: &UnixStream,
    peer: Peer,
    shared: &Arc<ServerState<S>>,
    frames: &mut FrameBuffer,
    read_open: &mut bool,
    is_first: bool,
    frame: Vec<u8>,
) -> io::Result<After> {
    let delimiter = frames.delimiter();
    let header = match CallHeader::skim(&frame) {
        Ok(header) => header,
        Err(error) => {
            let fault = Fault::invalid_parameter(
                "(message)",
                format!("not a Varlink call: {}", chain(&error)),
            );
            write_all(stream, &encode_fault(b"{", &fault, delimiter)).await?;
            // Where one message is broken the next one's beginning cannot be trusted.
            return Ok(After::Close);
        }
    };
    // Whoever gave up while the call lay in the backlog does not want it done; a oneway call is
    // nobody's to wait for.
    if is_first && !header.oneway && hung_up(stream) {
        return Ok(After::Close);
    }
    let head = reply_head(&shared.options.provider, header.extras, header.call);
    let trusted = peer.uid == shared.own_uid || peer.uid == 0;
    let (replies, mut streamed) = mpsc::channel(REPLIES_WAITING);
    let call = call_of(&frame, &header, (peer, trusted), replies, (head.clone(), delimiter));
    let call = Call { frame, ..call };
    let (oneway, deadline) = (call.oneway, call.deadline);

    // What has no end of its own is bounded by the number of connections alone.
    let is_endless =
        call.more && brahman_card::interface::is_endless(call.interface(), call.method());
    let busy = if is_endless { 0 } else { shared.in_flight.fetch_add(1, Ordering::Relaxed) };
    let _count = (!is_endless).then(|| InFlight(&shared.in_flight));
    let work = async {
        if busy >= shared.options.in_flight_max {
            return Err(Fault::overloaded(
                format!(
                    "{busy} calls are in flight, the limit is {}",
                    shared.options.in_flight_max
                ),
                100,
            ));
        }
        if call.frame.len() > LONG_CALL_BYTES {
            dispatch_aside(shared, call).await
        } else {
            guarded(dispatch(shared, call)).await
        }
    };
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut work => break outcome,
            Some(message) = streamed.recv() => write_all(stream, &message).await?,
            () = deadline.passed() => break Err(Fault::deadline_exceeded("the call ran")),
            // What has no end of its own ends with the service, and whoever watches begins anew
            // with the next.
            () = shared.drain.cancelled(), if is_endless => return Ok(After::Close),
            ready = stream.readable(), if *read_open && frames.has_room() => {
                ready?;
                if !fill(stream, frames)? {
                    *read_open = false;
                }
                if !*read_open && !oneway && hung_up(stream) {
                    return Ok(After::Close);
                }
            }
            // A peer that has finished sending may still go away.
            () = tokio::time::sleep(GONE_EVERY), if !*read_open && !oneway => if hung_up(stream) {
                return Ok(After::Close);
            }
        }
    };
    while let Ok(message) = streamed.try_recv() {
        write_all(stream, &message).await?;
    }
    answer(stream, outcome, oneway, &head, delimiter).await
}

/// A call as its message's header has it; the frame itself is its own once the header is not needed
/// any more.
fn call_of(
    frame: &[u8],
    header: &CallHeader<'_>,
    (peer, trusted): (Peer, bool),
    replies: mpsc::Sender<Vec<u8>>,
    (head, delimiter): (Vec<u8>, u8),
) -> Call {
    let (interface, method) = method_ranges(frame, header);
    Call {
        interface,
        method,
        parameters: range_in(frame, header.parameters),
        // Nothing answers a oneway call, neither a stream nor an upgrade.
        more: header.more && !header.oneway,
        oneway: header.oneway,
        upgrade: header.upgrade && !header.oneway,
        deadline: Deadline::in_ms(header.deadline_ms),
        context: header.context.map(str::to_owned),
        trace: header.trace.map(str::to_owned),
        peer,
        uid: header.uid.filter(|_| trusted).unwrap_or(peer.uid),
        replies,
        delimiter,
        head,
        unknown: header.unknown.map(str::to_owned),
        frame: Vec::new(),
    }
}

/// Writes what came of a call; a oneway call is answered with nothing.
async fn answer(
    stream: &UnixStream,
    outcome: Result<Reply, Fault>,
    oneway: bool,
    head: &[u8],
    delimiter: u8,
) -> io::Result<After> {
    let framed = match outcome {
        Ok(Reply::Json(json)) => frame_reply(head, &json, false, delimiter),
        Ok(Reply::Upgrade(json, then)) => match frame_reply(head, &json, false, delimiter) {
            Ok(_) if oneway => {
                Err(Fault::invalid_parameter("oneway", "expected an upgrade to be answered"))
            }
            Ok(confirm) => return Ok(After::Upgrade(confirm, then)),
            Err(fault) => Err(fault),
        },
        Err(fault) => Err(fault),
    };
    if oneway {
        if let Err(fault) = framed {
            tracing::warn!(%fault, "a oneway call failed");
        }
        return Ok(After::Next);
    }
    let message = framed.unwrap_or_else(|fault| encode_fault(head, &fault, delimiter));
    write_all(stream, &message).await?;
    Ok(After::Next)
}

/// Makes a fault of a panic: its caller is answered, and the connection lives.
async fn guarded(work: impl Future<Output = Result<Reply, Fault>>) -> Result<Reply, Fault> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|context| {
        let polled =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work.as_mut().poll(context)));
        polled.unwrap_or_else(|_| {
            std::task::Poll::Ready(Err(Fault::internal(
                "the call panicked; the module's log has the place",
            )))
        })
    })
    .await
}

/// [`dispatch`] on a thread that nobody else waits for. A hang-up ends the work there as here.
async fn dispatch_aside<S: Service>(
    shared: &Arc<ServerState<S>>,
    call: Call,
) -> Result<Reply, Fault> {
    static PERMITS: Semaphore = Semaphore::const_new(LONG_CALLS);
    // The semaphore is never closed.
    let permit = PERMITS.acquire().await.map_err(|e| Fault::internal(chain(&e)))?;
    let (shared, stop) = (Arc::clone(shared), CancellationToken::new());
    let _given_up = stop.clone().drop_guard();
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        runtime.block_on(async {
            tokio::select! {
                outcome = dispatch(&shared, call) => outcome,
                () = stop.cancelled() => Err(Fault::internal("the caller hung up")),
            }
        })
    });
    work.await.unwrap_or_else(|error| {
        Err(Fault::internal(format!("the call panicked: {}", chain(&error))))
    })
}

/// The fault for a header key that is named like one of ours and is none.
#[must_use]
pub fn unknown_key(key: &str) -> Fault {
    use brahman_card::wire::{KEY_CALL, KEY_CONTEXT, KEY_DEADLINE, KEY_REQUIRE, KEY_TRACE};
    let known = [KEY_CONTEXT, KEY_DEADLINE, KEY_REQUIRE, KEY_TRACE, KEY_CALL];
    let meant = brahman_card::card::nearest(key, known)
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    Fault::invalid_parameter(
        key,
        format!("no such key in a call's header, there are {}{meant}", known.join(", ")),
    )
}

async fn dispatch<S: Service>(shared: &Arc<ServerState<S>>, call: Call) -> Result<Reply, Fault> {
    if let Some(key) = &call.unknown {
        return Err(unknown_key(key));
    }
    if !parameters::is_object(call.raw_parameters()) {
        return Err(Fault::invalid_parameter("parameters", "expected an object"));
    }
    if call.interface() != service::INTERFACE.name {
        let mut all = shared.service.interfaces().iter();
        let Some(interface) = all.find(|i| i.name == call.interface()) else {
            return Err(Fault::interface_not_found(call.interface()));
        };
        if interface.takes_nothing(call.method()) {
            parameters::none(call.raw_parameters())?;
        }
        // What is logged while the call runs bears its trace.
        let span = match &call.trace {
            Some(trace) => {
                tracing::error_span!("call", method = call.method(), trace = trace.as_str())
            }
            None => tracing::Span::none(),
        };
        span.in_scope(|| tracing::debug!(uid = call.uid, "called"));
        return Arc::clone(&shared.service).call(call).instrument(span).await;
    }
    match call.method() {
        "GetInfo" => parameters::none(call.raw_parameters()).and_then(|()| {
            Reply::of(&info(
                &shared.options.provider,
                shared.service.interfaces().iter().map(|i| i.name.to_owned()),
            ))
        }),
        "GetInterfaceDescription" => {
            let wanted: DescriptionIn = call.parameters()?;
            let mut all = shared.service.interfaces().iter().copied().chain([&service::INTERFACE]);
            let found = all
                .find(|i| i.name == wanted.interface)
                .ok_or_else(|| Fault::interface_not_found(&wanted.interface))?;
            Reply::of(&DescriptionOut { description: found.idl().to_owned() })
        }
        _ => Err(call.unknown()),
    }
}

/// What `org.varlink.service.GetInfo` says on any socket of the mesh.
#[must_use]
pub(crate) fn info(product: &str, interfaces: impl Iterator<Item = String>) -> Info {
    Info {
        vendor: "Brahman".into(),
        product: product.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        url: "https://varlink.org".into(),
        interfaces: interfaces.chain([service::INTERFACE.name.to_owned()]).collect(),
    }
}

/// Reads what is there into a frame buffer. False at the end of input.
///
/// # Errors
/// As the socket gives them; having nothing to read is none.
pub fn fill(stream: &UnixStream, frames: &mut FrameBuffer) -> io::Result<bool> {
    let spare = frames.spare();
    let room = spare.len();
    if room == 0 {
        // No memory is left, which the buffer says when it is asked for a message.
        return Ok(true);
    }
    match stream.try_read(spare) {
        Ok(0) => Ok(false),
        Ok(n) => {
            frames.filled(n);
            if n < room {
                drained(stream);
            }
            Ok(true)
        }
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// After an end of input: whether the peer is gone altogether, or has only finished sending.
#[must_use]
pub fn hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let asked = poll(&mut fds, PollTimeout::ZERO);
    asked.is_err()
        || fds[0]
            .revents()
            .is_none_or(|found| found.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// Whether bytes lie unread on a connection on which nothing is under way, or it has ended: then it
/// must not be used for a call, which would take them for its answer. Asks the kernel; the runtime
/// may not have heard of them yet.
#[must_use]
pub fn has_unread(stream: &UnixStream) -> bool {
    !matches!(
        recv(stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT),
        Err(Errno::AGAIN)
    )
}

/// Writes parts one after the other, in one system call where the socket takes them at once.
///
/// # Errors
/// As [`write_all`].
pub async fn write_parts(stream: &UnixStream, parts: &[&[u8]]) -> io::Result<()> {
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut skip = match stream.try_write_vectored(&slices) {
        Ok(n) => n,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            0
        }
        Err(error) => return Err(error),
    };
    for part in parts {
        let from = skip.min(part.len());
        skip -= from;
        write_all(stream, &part[from..]).await?;
    }
    Ok(())
}

/// Writes all bytes, giving up on a reader that takes none for [`WRITE_STALL`].
///
/// # Errors
/// `TimedOut` for such a reader; else as the socket gives them.
pub async fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::timeout(WRITE_STALL, stream.writable())
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads and drops what still comes, for a moment, so that closing does not discard the fault just
/// written.
pub async fn linger(stream: &UnixStream) {
    let mut sink = vec![0_u8; 64 * 1024];
    let drained = async {
        loop {
            match stream.try_read(&mut sink) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stream.readable().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), drained).await;
}
