//! One connection: read a call, run it while still reading, write what it answers.
//!
//! Invariants: a hang-up drops the call's future at once; calls on one connection are answered in order; a reader that
//! takes nothing for [`WRITE_STALL`] loses the connection, and never stalls another.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use brahman_card::interface::service::{self, DescriptionIn, DescriptionOut, Info};
use brahman_card::wire::fault::Fault;
use brahman_card::wire::frame::FrameBuffer;
use brahman_card::wire::header::CallHeader;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::call::{Then, encode_fault, frame_reply, method_ranges, range_in};
use super::{Call, Peer, Reply, ServeOptions, Service, Upgraded};

/// A reader that takes no byte for this long is gone.
pub const WRITE_STALL: Duration = Duration::from_secs(30);
/// Half a message must become a whole one within this time.
const PARTIAL_MAX: Duration = Duration::from_secs(30);
/// How long the next call of one who calls quickly is polled for: a wake-up costs 10 to 50 µs, most where a virtual machine
/// has let an idle core go.
pub const NEXT_CALL_POLL: Duration = Duration::from_micros(200);
/// Questions to a polled socket between two turns of this thread's other tasks: a turn takes as long as a few of them.
const ASKED_PER_TURN: u32 = 8;
/// Who had to wait longer than this for another turn shares its core with somebody who works, not with others that poll.
const TURN_MAX: Duration = Duration::from_micros(500);
/// How long nobody in this process polls after that: the first time, at most, and less for each poll that was answered.
const PAUSE_MIN_US: u64 = 2_000;
const PAUSE_MAX_US: u64 = 1_000_000;
const PAUSE_LESS_US: u64 = 1_000;
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
                // A short read has drained the socket. Saying so spares the next wait a read that finds nothing.
                let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            }
            Ok(true)
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Waiting for the next message on a connection: polled for if the last one came soon, else slept for.
///
/// Whoever calls now and then costs nothing; whoever calls again and again spares a wake-up a message.
#[derive(Debug)]
pub struct Wait {
    soon: Duration,
    pays: bool,
    since: Option<Instant>,
}

impl Wait {
    /// Polls for up to `soon`, once a message has come within that time.
    #[must_use]
    pub fn new(soon: Duration) -> Self {
        Self { soon, pays: false, since: None }
    }

    /// Begins to wait, by [`poll_briefly`] where that pays. Says whether something came; the rest of the wait is the caller's.
    pub async fn poll(&mut self, stream: &UnixStream, frames: &mut FrameBuffer) -> bool {
        if self.since.is_some() {
            return false;
        }
        self.since = Some(Instant::now());
        self.pays && poll_briefly(stream, frames, self.soon).await
    }

    /// The message is here.
    pub fn over(&mut self) {
        if let Some(since) = self.since.take() {
            self.pays = since.elapsed() < self.soon;
        }
    }
}

/// Asks a socket again and again, for `longest` at most, and reads what comes into the buffer.
///
/// A wake-up costs more than a short answer takes. Other tasks run between two questions, so only one that is alone on
/// its thread loses nothing by waiting this way. Where somebody else works on the core, nobody in this process polls for a
/// while: whoever sleeps is served first when he is woken, whoever polls is served in turn. Says whether something came; an
/// end or an error is left to [`fill`].
pub async fn poll_briefly(stream: &UnixStream, frames: &mut FrameBuffer, longest: Duration) -> bool {
    if CROWD.is_here() {
        return false;
    }
    let started = Instant::now();
    let (mut asked, mut before) = (0_u32, Duration::ZERO);
    loop {
        let waited = started.elapsed();
        if waited - before > TURN_MAX {
            CROWD.came();
            return false;
        }
        if waited >= longest {
            return false;
        }
        (asked, before) = (asked + 1, waited);
        match recv(stream, frames.spare(), RecvFlags::DONTWAIT) {
            Ok((_, n)) if n > 0 => {
                CROWD.was_not_here();
                frames.filled(n);
                let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                // First to whoever else wants this core, perhaps the one that is to answer; then to this thread's tasks.
                std::thread::yield_now();
                if asked.is_multiple_of(ASKED_PER_TURN) {
                    tokio::task::yield_now().await;
                }
            }
            _ => return false,
        }
    }
}

/// When to poll again after others wanted the core: twice as late each time, and sooner with every poll that was answered.
///
/// A single long turn is a hiccup (a virtual machine has some every second); only where one follows the other does
/// polling cost.
struct Crowd {
    until_us: AtomicU64,
    pause_us: AtomicU64,
}

static CROWD: Crowd = Crowd { until_us: AtomicU64::new(0), pause_us: AtomicU64::new(0) };

impl Crowd {
    fn now_us() -> u64 {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn is_here(&self) -> bool {
        match self.until_us.load(Ordering::Relaxed) {
            0 => false,
            until => Self::now_us() < until,
        }
    }

    fn came(&self) {
        let pause = (2 * self.pause_us.load(Ordering::Relaxed)).clamp(PAUSE_MIN_US, PAUSE_MAX_US);
        self.pause_us.store(pause, Ordering::Relaxed);
        self.until_us.store(Self::now_us() + pause, Ordering::Relaxed);
    }

    fn was_not_here(&self) {
        let pause = self.pause_us.load(Ordering::Relaxed);
        if pause > 0 {
            self.pause_us.store(pause.saturating_sub(PAUSE_LESS_US), Ordering::Relaxed);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_is_polled_for_only_after_one_that_came_soon() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut frames = FrameBuffer::nul();
        let say = || theirs.try_write(b"{}\0").expect("written");
        let mut patient = Wait::new(Duration::from_secs(60));
        say();
        assert!(!patient.poll(&ours, &mut frames).await, "nothing is known of this caller yet");
        assert!(!patient.poll(&ours, &mut frames).await, "one wait is polled for once");
        patient.over();
        assert!(patient.poll(&ours, &mut frames).await, "the last one came within the time");
        assert!(frames.next_frame().expect("whole").is_some());

        let mut hasty = Wait::new(Duration::ZERO);
        say();
        assert!(!hasty.poll(&ours, &mut frames).await);
        hasty.over();
        assert!(!hasty.poll(&ours, &mut frames).await, "the last one took longer than that");
    }

    #[tokio::test]
    async fn other_tasks_have_their_turn_while_a_message_is_polled_for() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut frames = FrameBuffer::nul();
        let mut wait = Wait::new(Duration::from_secs(60));
        assert!(!wait.poll(&ours, &mut frames).await);
        wait.over();
        // On this one thread the caller can only speak if it is let.
        let caller = tokio::spawn(async move { theirs.try_write(b"{}\0").map(|_| theirs) });
        assert!(wait.poll(&ours, &mut frames).await);
        caller.await.expect("no panic").expect("written");
    }
}
