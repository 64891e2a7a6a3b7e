//! One client connection: each call is routed by its header and its bytes are passed through.
//!
//! Invariants: payloads are stepped over, never parsed; the whole reply is held before its first byte is passed on, so
//! a provider's death in mid-reply can still be answered; a client's hang-up closes the provider's connection and so
//! cancels the work there.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brahman_card::interface;
use brahman_card::wire::fault::Fault;
use brahman_card::wire::frame::FrameBuffer;
use brahman_card::wire::header::{CallHeader, ReplyHeader, push_text_member};
use brahman_card::wire::{KEY_PROVIDER, KEY_UID, MESSAGE_BYTES_MAX};
use brahman_sidecar::Peer;
use brahman_sidecar::serve::{NEXT_CALL_POLL, Wait, encode_fault, fill, hung_up, poll_briefly, write_all};
use tokio::net::UnixStream;

use crate::health::Outcome;
use crate::provider::Backend;
use crate::service::{Broker, Target};

/// How long a call without a deadline waits for a provider that is on its way.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// A call on which this many providers have ended is the likelier culprit, and must not take down the rest.
const DEATHS_MAX: u32 = 5;
/// Half a message must become a whole one within this time.
const PARTIAL_MAX: Duration = Duration::from_secs(30);
/// Pause before the next attempt when a provider's socket refuses or its backlog is full.
const PAUSE: Duration = Duration::from_millis(5);
/// How long an answer that usually comes at once is polled for. A wake-up costs 10 to 50 µs, most where a virtual machine
/// has let an idle core go; this much of one core, by turns with whoever else wants it, is the most that is wasted.
const POLL_MAX: Duration = Duration::from_micros(300);
/// Both directions of an upgraded connection: a bulk frame in few reads.
const UPGRADE_BUFFER: usize = 256 * 1024;

/// What is left of the connection after a call.
pub(crate) enum After {
    Next,
    Close,
    /// It has left Varlink; this is its other half.
    Upgraded(Backend),
}

/// A client connection.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) frames: FrameBuffer,
    pub(crate) peer: Peer,
    read_open: bool,
    next: Wait,
}

/// A call as it goes to the provider, owned so that reading may go on meanwhile.
pub(crate) struct Outgoing {
    pub(crate) message: Vec<u8>,
    pub(crate) interface: String,
    pub(crate) method: String,
    pub(crate) context: Option<String>,
    pub(crate) more: bool,
    pub(crate) oneway: bool,
    pub(crate) upgrade: bool,
    pub(crate) parameters: Vec<u8>,
    pub(crate) deadline: Option<Instant>,
}

/// Serves one client to its end.
pub(crate) async fn converse(stream: UnixStream, peer: Peer, broker: Arc<Broker>) {
    let mut client = Client { stream, frames: FrameBuffer::default(), peer, read_open: true, next: Wait::new(NEXT_CALL_POLL) };
    loop {
        let after = match client.next_call(&broker).await {
            Ok(Some(call)) => client.run(&broker, call).await,
            Ok(None) => return,
            Err(fault) => {
                // What follows a broken message cannot be trusted to be a message.
                let _ = client.fault(&fault).await;
                return;
            }
        };
        match after {
            Ok(After::Next) => {}
            Ok(After::Close) => return,
            Ok(After::Upgraded(backend)) => return client.splice(backend).await,
            Err(error) => {
                tracing::debug!(%error, pid = peer.pid, "client connection ended");
                return;
            }
        }
    }
}

impl Client {
    async fn next_call(&mut self, broker: &Broker) -> Result<Option<Outgoing>, Fault> {
        loop {
            let uid = self.peer.uid;
            match self.frames.next_frame() {
                Ok(Some(frame)) => {
                    self.next.over();
                    return outgoing(frame, uid).map(Some);
                }
                Ok(None) if !self.read_open => return Ok(None),
                Ok(None) => {}
                Err(error) => return Err(Fault::overloaded(format!("{error}; send large data through a bulk method"), 0)),
            }
            if self.next.poll(&self.stream, &mut self.frames).await {
                continue;
            }
            let partial = self.frames.has_partial();
            let readable = async {
                if partial {
                    tokio::time::timeout(PARTIAL_MAX, self.stream.readable()).await.is_ok_and(|r| r.is_ok())
                } else {
                    self.stream.readable().await.is_ok()
                }
            };
            let open = tokio::select! {
                biased;
                open = readable => open,
                () = broker.drain.cancelled(), if !partial => false,
            };
            if !open {
                return Ok(None);
            }
            self.read_open = fill(&self.stream, &mut self.frames).unwrap_or(false);
        }
    }

    pub(crate) async fn fault(&self, fault: &Fault) -> io::Result<()> {
        write_all(&self.stream, &encode_fault("broker", fault, self.frames.delimiter())).await
    }

    async fn run(&mut self, broker: &Arc<Broker>, call: Outgoing) -> io::Result<After> {
        if (call.interface == interface::broker::INTERFACE.name || call.interface == interface::service::INTERFACE.name)
            && let Some(after) = broker.answer(self, &call).await?
        {
            return Ok(after);
        }
        match self.forward(broker, &call).await {
            Ok(after) => Ok(after),
            Err(Stop::HungUp) => Ok(After::Close),
            Err(Stop::Io(error)) => Err(error),
            Err(Stop::Fault(fault)) if call.oneway => {
                tracing::warn!(%fault, "a oneway call failed");
                Ok(After::Next)
            }
            Err(Stop::Fault(fault)) => self.fault(&fault).await.map(|()| After::Next),
        }
    }

    /// Routes a call to a provider, again if that is safe, and passes its replies on.
    async fn forward(&mut self, broker: &Arc<Broker>, call: &Outgoing) -> Result<After, Stop> {
        let patience = || call.deadline.unwrap_or_else(|| Instant::now() + WAIT_DEFAULT);
        let mut wait_until = patience();
        let mut deaths = 0;
        broker.budget().called(Instant::now());
        let mut avoid: Option<String> = None;
        loop {
            let target = self.attend(wait_until, broker.find(call, self.peer, avoid.as_deref(), wait_until)).await??;
            let place = match &target.provider {
                Some(provider) => Some(self.attend(wait_until, provider.admit(self.peer.uid)).await??),
                None => None,
            };
            let started = Instant::now();
            let mut passed_on = false;
            let outcome = self.attempt(broker, call, &target, &mut passed_on).await;
            drop(place);
            let failed = match outcome {
                Ok((after, outcome)) => {
                    target.note(outcome, started.elapsed());
                    return Ok(after);
                }
                Err(Stop::Fault(fault)) if fault.name == LOST => {
                    target.note(Outcome::Failed, started.elapsed());
                    if let Some(provider) = &target.provider {
                        provider.forget_idle();
                    }
                    fault
                }
                Err(stop) => return Err(stop),
            };
            let label = target.label();
            let why = failed.message().to_owned();
            let unsent = why.starts_with(UNREACHED);
            if passed_on || !(unsent || target.idempotent(&call.interface, &call.method)) {
                return Err(Stop::Fault(Fault::provider_failed(
                    label,
                    format!("{why}; `{}` is not known to be safe to repeat", call.method),
                )));
            }
            if !unsent && !broker.budget().retry(Instant::now()) {
                return Err(Stop::Fault(Fault::provider_failed(label, format!("{why}; the retry budget of the mesh is spent"))));
            }
            if !unsent {
                deaths += 1;
                // However long the call had run: the wait for the next provider begins now.
                wait_until = patience();
            }
            if deaths >= DEATHS_MAX {
                let why = format!("{why}, the {deaths}th to end on this call: it is not tried again");
                return Err(Stop::Fault(Fault::provider_failed(label, why)));
            }
            if Instant::now() >= wait_until {
                return Err(Stop::Fault(Fault::deadline_exceeded(format!("`{label}` was being tried again: it {why}"))));
            }
            if unsent {
                tokio::time::sleep(PAUSE).await;
            }
            avoid = Some(target.id.clone());
        }
    }

    /// One attempt at one provider.
    async fn attempt(&mut self, broker: &Broker, call: &Outgoing, target: &Target, passed_on: &mut bool) -> Result<(After, Outcome), Stop> {
        let mut backend = match target.connect(target.idempotent(&call.interface, &call.method)).await {
            Ok(backend) => backend,
            Err(error) => return Err(lost(format!("{UNREACHED}: {error}"))),
        };
        if let Err(error) = write_all(&backend.stream, &call.message).await {
            return Err(lost(format!("hung up ({error})")));
        }
        if call.oneway {
            target.keep(backend);
            return Ok((After::Next, Outcome::Answered));
        }
        let mut table = broker.table.subscribe();
        table.mark_unchanged();
        if target.answers_at_once() {
            poll_briefly(&backend.stream, &mut backend.frames, POLL_MAX).await;
        }
        loop {
            match backend.frames.next_frame() {
                Ok(Some(frame)) => {
                    let header = match ReplyHeader::skim(frame) {
                        Ok(header) => header,
                        Err(error) => return Err(lost(format!("answered with something that is not Varlink: {error}"))),
                    };
                    let (continues, error) = (header.continues, header.error);
                    let outcome = if error == Some("org.brahman.Broker.Overloaded") { Outcome::Overloaded } else { Outcome::Answered };
                    let upgraded = call.upgrade && error.is_none() && !continues;
                    let named = header.provider.is_some();
                    *passed_on = true;
                    pass_on(&self.stream, frame, named, target.label(), self.frames.delimiter()).await.map_err(Stop::Io)?;
                    if upgraded {
                        return Ok((After::Upgraded(backend), outcome));
                    }
                    if !continues {
                        target.keep(backend);
                        return Ok((After::Next, outcome));
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => return Err(lost(error.to_string())),
            }
            tokio::select! {
                biased;
                ready = backend.stream.readable() => match ready.and_then(|()| fill(&backend.stream, &mut backend.frames)) {
                    Ok(true) => {}
                    Ok(false) => return Err(lost("hung up in mid-call".to_owned())),
                    Err(error) => return Err(lost(format!("hung up in mid-call ({error})"))),
                },
                open = self.stream.readable(), if self.read_open && self.frames.pending().len() < MESSAGE_BYTES_MAX => {
                    open.map_err(Stop::Io)?;
                    self.read_open = fill(&self.stream, &mut self.frames).map_err(Stop::Io)?;
                    if !self.read_open && hung_up(&self.stream) {
                        return Err(Stop::HungUp);
                    }
                }
                () = until(call.deadline) => {
                    return Err(Stop::Fault(Fault::deadline_exceeded(format!("`{}` worked on `{}`", target.label(), call.method))));
                }
                _ = table.changed() => {
                    // A provider that was given up never answers: its socket is held by init, not by it.
                    if let Some(why) = broker.gone(target) {
                        return Err(lost(why));
                    }
                }
            }
        }
    }

    /// Waits for something while watching the client and the clock.
    async fn attend<T>(&mut self, until_at: Instant, work: impl Future<Output = T>) -> Result<T, Stop> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                open = self.stream.readable(), if self.read_open && self.frames.pending().len() < MESSAGE_BYTES_MAX => {
                    open.map_err(Stop::Io)?;
                    self.read_open = fill(&self.stream, &mut self.frames).map_err(Stop::Io)?;
                    if !self.read_open && hung_up(&self.stream) {
                        return Err(Stop::HungUp);
                    }
                }
                () = tokio::time::sleep_until(until_at.into()) => {
                    return Err(Stop::Fault(Fault::deadline_exceeded("the call waited for its turn")));
                }
            }
        }
    }

    /// The connection has left Varlink: bytes only, both ways, until one side ends.
    async fn splice(mut self, mut backend: Backend) {
        let (up, down) = (self.frames.take_rest(), backend.frames.take_rest());
        if write_all(&backend.stream, &up).await.is_err() || write_all(&self.stream, &down).await.is_err() {
            return;
        }
        let ended = tokio::io::copy_bidirectional_with_sizes(&mut self.stream, &mut backend.stream, UPGRADE_BUFFER, UPGRADE_BUFFER).await;
        if let Err(error) = ended {
            tracing::debug!(%error, "an upgraded connection ended");
        }
    }
}

/// Marks a fault as the provider's loss, to be judged by [`Client::forward`].
const LOST: &str = "org.brahman.Broker.ProviderFailed";
/// Begins the message of a loss before anything was sent.
const UNREACHED: &str = "could not be reached";

/// Why a call is over early.
pub(crate) enum Stop {
    HungUp,
    Io(io::Error),
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

fn lost(why: String) -> Stop {
    Stop::Fault(Fault::new(LOST, true, why))
}

/// Builds the message for the provider: the client's, with the caller's uid set in front.
fn outgoing(frame: &[u8], uid: u32) -> Result<Outgoing, Fault> {
    let header = CallHeader::skim(frame).map_err(|e| Fault::invalid_parameter("(message)", format!("not a Varlink call: {e}")))?;
    if header.uid.is_some() {
        return Err(Fault::permission_denied(format!("`{KEY_UID}` is set by the broker alone")));
    }
    let (interface, method) = header.split();
    let body = frame.trim_ascii_start();
    let mut message = Vec::with_capacity(body.len() + 48);
    message.extend_from_slice(b"{\"");
    message.extend_from_slice(KEY_UID.as_bytes());
    message.extend_from_slice(format!("\":{uid},").as_bytes());
    message.extend_from_slice(&body[1..]);
    message.push(0);
    let local = interface == interface::broker::INTERFACE.name || interface == interface::service::INTERFACE.name;
    Ok(Outgoing {
        interface: interface.to_owned(),
        method: method.to_owned(),
        context: header.context.map(str::to_owned),
        more: header.more,
        oneway: header.oneway,
        upgrade: header.upgrade,
        parameters: if local { header.parameters.to_vec() } else { Vec::new() },
        deadline: header.deadline_ms.map(|ms| Instant::now() + Duration::from_millis(ms)),
        message,
    })
}

/// Writes a provider's reply to the client, naming the provider if it did not name itself.
async fn pass_on(stream: &UnixStream, frame: &[u8], named: bool, label: &str, delimiter: u8) -> io::Result<()> {
    let body = frame.trim_ascii_start();
    let mut head = Vec::new();
    let mut rest = body;
    if !named {
        head.push(b'{');
        push_text_member(&mut head, KEY_PROVIDER, label);
        rest = &body[1..];
        if rest.trim_ascii_start().first() == Some(&b'}') {
            head.pop();
        }
    }
    let tail = [delimiter];
    let total = head.len() + rest.len() + 1;
    let written = match stream.try_write_vectored(&[IoSlice::new(&head), IoSlice::new(rest), IoSlice::new(&tail)]) {
        Ok(n) => n,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    if written == total {
        return Ok(());
    }
    // The socket is full: finish at the reader's pace.
    let mut skip = written;
    for part in [head.as_slice(), rest, &tail] {
        let from = skip.min(part.len());
        skip -= from;
        write_all(stream, &part[from..]).await?;
    }
    Ok(())
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
