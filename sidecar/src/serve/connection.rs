//! One connection: read a call, run it while still reading, write what it answers.
//!
//! Invariants: a hang-up drops the call's future at once; calls on one connection are answered in order; a reader that
//! takes nothing for [`WRITE_STALL`] loses the connection, and never stalls another.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use brahman_card::interface::service::{self, DescriptionIn, DescriptionOut, Info};
use brahman_card::wire::fault::Fault;
use brahman_card::wire::frame::FrameBuffer;
use brahman_card::wire::header::CallHeader;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::call::{Then, encode_fault, frame_reply, method_ranges, range_in};
use super::wait::{NEXT_CALL_POLL, Wait};
use super::{Call, Peer, Reply, ServeOptions, Service, Upgraded};

/// A reader that takes no byte for this long is gone.
pub const WRITE_STALL: Duration = Duration::from_secs(30);
/// Half a message must become a whole one within this time.
const PARTIAL_MAX: Duration = Duration::from_secs(30);
/// Streamed replies that may wait for a slow reader.
const REPLIES_WAITING: usize = 8;

pub(super) struct Shared<S> {
    service: Arc<S>,
    options: ServeOptions,
    in_flight: AtomicUsize,
    drain: CancellationToken,
    own_uid: u32,
}

impl<S> Shared<S> {
    pub(super) fn new(service: Arc<S>, options: ServeOptions, drain: CancellationToken) -> Self {
        Self { service, options, in_flight: AtomicUsize::new(0), drain, own_uid: rustix::process::geteuid().as_raw() }
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
    Upgrade(Vec<u8>, Then),
}

pub(super) async fn converse<S: Service>(stream: UnixStream, peer: Peer, shared: Arc<Shared<S>>) {
    let mut frames = FrameBuffer::default();
    let mut read_open = true;
    let mut next = Wait::new(NEXT_CALL_POLL);
    loop {
        let frame = match frames.next_frame() {
            Ok(Some(frame)) => {
                next.over();
                frame.to_vec()
            }
            Ok(None) if !read_open => return,
            Ok(None) => {
                if next.poll(&stream, &mut frames).await {
                    continue;
                }
                let waiting = async {
                    if frames.has_partial() {
                        tokio::time::timeout(PARTIAL_MAX, stream.readable()).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
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
                let fault = Fault::overloaded(format!("{error}; send large data through a bulk method"), 0);
                // The rest of the long message is still coming; the fault has to leave first.
                let _ = write_all(&stream, &encode_fault(&shared.options.provider, &fault, frames.delimiter())).await;
                linger(&stream).await;
                return;
            }
        };
        match run_call(&stream, peer, &shared, &mut frames, &mut read_open, frame).await {
            Ok(After::Next) => {}
            Ok(After::Close) => return,
            Ok(After::Upgrade(confirm, then)) => {
                if write_all(&stream, &confirm).await.is_err() {
                    return;
                }
                let rest = frames.take_rest();
                if let Err(error) = then(Upgraded { stream, rest }).await {
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
    shared: &Arc<Shared<S>>,
    frames: &mut FrameBuffer,
    read_open: &mut bool,
    frame: Vec<u8>,
) -> io::Result<After> {
    let provider = &shared.options.provider;
    let delimiter = frames.delimiter();
    let header = match CallHeader::skim(&frame) {
        Ok(header) => header,
        Err(error) => {
            let fault = Fault::invalid_parameter("(message)", format!("not a Varlink call: {error}"));
            write_all(stream, &encode_fault(provider, &fault, delimiter)).await?;
            // Where one message is broken the next one's beginning cannot be trusted.
            return Ok(After::Close);
        }
    };
    let (interface, method) = method_ranges(&frame, &header);
    let trusted = peer.uid == shared.own_uid || peer.uid == 0;
    let (replies, mut streamed) = mpsc::channel(REPLIES_WAITING);
    let call = Call {
        interface,
        method,
        parameters: range_in(&frame, header.parameters),
        more: header.more,
        oneway: header.oneway,
        upgrade: header.upgrade,
        deadline: header.deadline_ms.map(|ms| Instant::now() + Duration::from_millis(ms)),
        context: header.context.map(str::to_owned),
        trace: header.trace.map(str::to_owned),
        peer,
        uid: header.uid.filter(|_| trusted).unwrap_or(peer.uid),
        replies,
        delimiter,
        provider: provider.clone(),
        frame: Vec::new(),
    };
    let call = Call { frame, ..call };
    let (oneway, deadline) = (call.oneway, call.deadline);

    let busy = shared.in_flight.fetch_add(1, Ordering::Relaxed);
    let _count = InFlight(&shared.in_flight);
    let work = async {
        if busy >= shared.options.in_flight_max {
            return Err(Fault::overloaded(format!("{busy} calls are in flight, the limit is {}", shared.options.in_flight_max), 100));
        }
        dispatch(shared, call).await
    };
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut work => break outcome,
            Some(message) = streamed.recv() => write_all(stream, &message).await?,
            () = until(deadline) => break Err(Fault::deadline_exceeded("the call ran")),
            ready = stream.readable(), if *read_open && frames.pending().len() < brahman_card::wire::MESSAGE_BYTES_MAX => {
                ready?;
                if !fill(stream, frames)? {
                    if hung_up(stream) {
                        return Ok(After::Close);
                    }
                    *read_open = false;
                }
            }
        }
    };
    while let Ok(message) = streamed.try_recv() {
        write_all(stream, &message).await?;
    }
    let framed = match outcome {
        Ok(Reply::Json(json)) => frame_reply(provider, &json, false, delimiter),
        Ok(Reply::Upgrade(json, then)) => match frame_reply(provider, &json, false, delimiter) {
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
    let message = framed.unwrap_or_else(|fault| encode_fault(provider, &fault, delimiter));
    write_all(stream, &message).await?;
    Ok(After::Next)
}

async fn dispatch<S: Service>(shared: &Arc<Shared<S>>, call: Call) -> Result<Reply, Fault> {
    if call.interface() != service::INTERFACE.name {
        if !shared.service.interfaces().iter().any(|i| i.name == call.interface()) {
            return Err(Fault::interface_not_found(call.interface()));
        }
        return Arc::clone(&shared.service).call(call).await;
    }
    match call.method() {
        "GetInfo" => Reply::of(&info(&shared.options.provider, shared.service.interfaces().iter().map(|i| i.name.to_owned()))),
        "GetInterfaceDescription" => {
            let wanted: DescriptionIn = call.parameters()?;
            let mut all = shared.service.interfaces().iter().copied().chain([&service::INTERFACE]);
            let found = all.find(|i| i.name == wanted.interface).ok_or_else(|| Fault::interface_not_found(&wanted.interface))?;
            Reply::of(&DescriptionOut { description: found.idl.to_owned() })
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

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Reads what is there into a frame buffer. False at the end of input.
///
/// # Errors
/// As the socket gives them; having nothing to read is none.
pub fn fill(stream: &UnixStream, frames: &mut FrameBuffer) -> io::Result<bool> {
    let spare = frames.spare();
    let room = spare.len();
    match stream.try_read(spare) {
        Ok(0) => Ok(false),
        Ok(n) => {
            frames.filled(n);
            if n < room {
                drained(stream);
            }
            Ok(true)
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Tells the runtime that a read got less than it had room for: the socket is empty, and the next wait is spared a read that
/// finds nothing. After a read that filled its room this would be wrong: the rest would never be heard of.
pub(super) fn drained(stream: &UnixStream) {
    let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
}

/// After an end of input: whether the peer is gone altogether, or has only finished sending.
#[must_use]
pub fn hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::empty())];
    let asked = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    asked.is_err() || fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
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
                tokio::time::timeout(WRITE_STALL, stream.writable()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads and drops what still comes, for a moment, so that closing does not discard the fault just written.
async fn linger(stream: &UnixStream) {
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
