//! One client connection: each call is routed by its header and its bytes are passed through.
//!
//! Invariants: payloads are stepped over, never parsed; the whole reply is held before its first
//! byte is passed on, so a provider's death in mid-reply can still be answered; a client's hang-up
//! closes the provider's connection and so cancels the work there. A reply goes to a client only
//! from a connection on which nothing but its call was under way, and carries additions of ours
//! only if the call had some.
//!
//! [`attempt`] is one try at one provider; this file says when there is another.

mod attempt;

use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use brahman_card::interface;
use brahman_card::wire::KEY_UID;
use brahman_card::wire::fault::Fault;
use brahman_sidecar::serve::{GONE_EVERY, PARTIAL_MAX, fill, hung_up, linger, write_all};
use brahman_sidecar::{Peer, chain};
use tokio::net::UnixStream;

use crate::client::{After, Client};
use crate::health::Outcome;
use crate::outgoing::Outgoing;
use crate::provider::Backend;
use crate::service::{Broker, Fate, Target};
use crate::turn::Turn;
use attempt::{Attempt, AttemptFailure};

/// How long a call without a deadline waits for a provider that is on its way.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// A call that was lost this often is given up, whosever doing it was.
const LOSSES_MAX: u32 = 5;
/// So often a call is tried again beside others after its provider was killed.
const KILLS_SHARED: u32 = 2;
/// A message longer than this is looked through off the I/O thread.
const LONG_BYTES: usize = 256 * 1024;
/// A call of up to this length is read at once, or not at all.
const SHORT_BYTES: usize = 4096;
/// Pause before the next attempt when a provider's socket refuses or its backlog is full.
const PAUSE: Duration = Duration::from_millis(5);
/// Both directions of an upgraded connection: a bulk frame in few reads.
const UPGRADE_BUFFER: usize = 256 * 1024;

/// Serves one client to its end.
pub(crate) async fn converse(stream: UnixStream, peer: Peer, broker: Arc<Broker>) {
    let mut client = Client::new(stream, peer);
    loop {
        let after = match client.next_call(&broker).await {
            Ok(Some(call)) => client.run(&broker, call).await,
            Ok(None) => return,
            Err(fault) => {
                // What follows a broken message cannot be trusted to be a message.
                let _ = client.fault(b"{", &fault).await;
                // The rest of it may still be coming; the fault has to leave first.
                linger(&client.stream).await;
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
        let mut partial_since: Option<Instant> = None;
        loop {
            let read =
                if self.read_open { self.frames.next_frame() } else { self.frames.last_frame() };
            match read {
                Ok(Some(frame)) => {
                    let frame = frame.to_vec();
                    self.next.over();
                    let call = aside_if(frame.len() >= LONG_BYTES, move || Outgoing::read(frame))
                        .await
                        .flatten()?;
                    if call.uid.is_some() && !broker.delegates(self.peer) {
                        return Err(Fault::permission_denied(format!(
                            "`{KEY_UID}` is set by the broker alone"
                        )));
                    }
                    return Ok(Some(call));
                }
                Ok(None) if !self.read_open => {
                    let is_cut = self.frames.has_partial() && !hung_up(&self.stream);
                    let cut = || {
                        Fault::invalid_parameter(
                            "(message)",
                            "expected a whole JSON object before the end of input",
                        )
                    };
                    return if is_cut { Err(cut()) } else { Ok(None) };
                }
                Ok(None) => {}
                Err(error) => {
                    return Err(Fault::overloaded(
                        format!("{}; send large data through a bulk method", chain(&error)),
                        0,
                    ));
                }
            }
            if self.next.poll(&self.stream, &mut self.frames).await {
                continue;
            }
            self.frames.trim();
            let partial = self.frames.has_partial();
            if self.frames.pending().len() >= LONG_BYTES {
                // Others on this thread have their turn while a long message comes.
                tokio::task::yield_now().await;
            }
            let readable = async {
                if partial {
                    let until = *partial_since.get_or_insert_with(Instant::now) + PARTIAL_MAX;
                    tokio::time::timeout_at(until.into(), self.stream.readable())
                        .await
                        .is_ok_and(|r| r.is_ok())
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

    async fn run(&mut self, broker: &Arc<Broker>, call: Outgoing) -> io::Result<After> {
        if let Some(flaw) = &call.flaw {
            return self.refuse(&call, flaw).await;
        }
        if let Some(mut before) = self.oneway.take() {
            let until_at = call.deadline.or(Instant::now() + WAIT_DEFAULT);
            match self.attend(until_at, &mut before).await {
                Ok(_) => {}
                Err(Stop::Fault(fault)) => {
                    self.oneway = Some(before);
                    return self.refuse(&call, &fault).await;
                }
                Err(_) => return Ok(After::Close),
            }
        }
        if (call.interface == interface::broker::INTERFACE.name
            || call.interface == interface::service::INTERFACE.name)
            && let Some(after) = broker.answer(self, &call).await?
        {
            return Ok(after);
        }
        match self.forward(broker, &call).await {
            Ok(after) => Ok(after),
            Err(Stop::HungUp) => Ok(After::Close),
            Err(Stop::Io(error)) => Err(error),
            Err(Stop::Fault(fault)) => self.refuse(&call, &fault).await,
        }
    }

    /// Answers a call with a fault; a oneway call with nothing.
    async fn refuse(&mut self, call: &Outgoing, fault: &Fault) -> io::Result<After> {
        if call.oneway {
            tracing::warn!(%fault, "a oneway call failed");
            return Ok(After::Next);
        }
        self.fault(&call.reply_head("broker"), fault).await.map(|()| After::Next)
    }

    /// Routes a call to a provider, again if that is safe, and passes its replies on.
    async fn forward(&mut self, broker: &Arc<Broker>, call: &Outgoing) -> Result<After, Stop> {
        let patience = || call.deadline.or(Instant::now() + WAIT_DEFAULT);
        let mut wait_until = patience();
        // Whoever may stop a provider may also say that one has ended on this call.
        let mut deaths = u32::from(call.again && broker.administers(self.peer.uid));
        let (mut losses, mut kills) = (deaths, 0);
        broker.budget().called(Instant::now());
        broker.quarantine.check(|| call.fingerprint())?;
        let mut avoid: Option<String> = None;
        // Those that have said that they cannot, and who is asked in their place.
        let (mut declined, mut next): (Vec<String>, Option<Arc<Target>>) = (Vec::new(), None);
        loop {
            let alone = deaths > 0 || kills >= KILLS_SHARED;
            let (target, mut held) =
                self.reach(broker, call, avoid.as_deref(), next.take(), wait_until, alone).await?;
            let is_alone = target.provider.as_ref().is_some_and(|provider| provider.load() == 1);
            let started = Instant::now();
            let outcome = match self.attempt(broker, call, &target, &mut held).await {
                Err(AttemptFailure::Declined(answer)) => {
                    declined.push(target.id.clone());
                    // None of the budget for retries: nothing was done, and each is asked once.
                    next = broker.another(call, self.peer, &target, &declined);
                    if next.is_some() {
                        // It is well itself.
                        target.note(Outcome::Answered, started.elapsed());
                        continue;
                    }
                    let passed_on = self.pass_on(call, &target, &mut held, &answer, started).await;
                    passed_on
                        .map(|()| After::Next)
                        .map_err(|error| AttemptFailure::Stop(Stop::Io(error)))
                }
                other => other,
            };
            let was_alone = held.turn.as_ref().is_some_and(Turn::is_alone);
            // What kills does so in a call's first moments; whoever ends later may have ended for
            // any reason.
            let at_once = held.turn.as_ref().is_some_and(Turn::lasts);
            let passed_on = held.passed_on;
            drop(held);
            let (is_unsent, is_unread, why) = match outcome {
                Ok(after) => {
                    broker.quarantine.survived(|| call.fingerprint());
                    return Ok(after);
                }
                Err(AttemptFailure::Stop(stop)) => return Err(stop),
                Err(AttemptFailure::Unreached(why)) => (true, true, why),
                Err(AttemptFailure::Unread(why)) => (false, true, why),
                Err(AttemptFailure::Lost(why)) => (false, false, why),
                Err(AttemptFailure::Declined(_)) => {
                    unreachable!("its answer was passed on, or another provider is asked")
                }
            };
            // The beginning of a long one may have been read, and have done the harm.
            let is_innocent = is_unread && call.len() <= SHORT_BYTES;
            target.note(Outcome::Failed, started.elapsed());
            if let Some(provider) = &target.provider {
                provider.forget_idle();
            }
            let label = target.label();
            let fate = if is_unsent { Fate::Lives } else { broker.fate(&target).await };
            let has_died = fate == Fate::Died && !is_innocent;
            losses += u32::from(!is_innocent && fate != Fate::Ordered);
            // Whoever was killed was so by somebody, most likely; only where it goes on is it this
            // call's doing.
            kills += u32::from(fate == Fate::Killed && !is_innocent);
            let is_guilty = was_alone
                && (has_died && deaths > 0 || fate == Fate::Killed && kills > KILLS_SHARED);
            deaths += u32::from(has_died);
            if is_guilty || has_died && at_once && is_alone {
                broker.quarantine.ended_on(
                    call.fingerprint(),
                    label,
                    if is_guilty { deaths.max(2) } else { deaths },
                );
            }
            if passed_on && call.is_endless() {
                // Whoever watches begins anew; there was no answer to be owed.
                return Ok(After::Close);
            }
            if passed_on || !(is_unread || target.idempotent(&call.interface, &call.method)) {
                return Err(Stop::Fault(Fault::provider_failed(
                    label,
                    format!("{why}; `{}` is not known to be safe to repeat", call.method),
                )));
            }
            if is_guilty || losses >= LOSSES_MAX {
                let why = format!(
                    "{why}; {losses} attempts at this call failed in this way: it is not tried again"
                );
                return Err(Stop::Fault(Fault::provider_failed(label, why)));
            }
            if !is_unsent && !broker.budget().retry(Instant::now()) {
                return Err(Stop::Fault(Fault::provider_failed(
                    label,
                    format!("{why}; the retry budget of the mesh is spent"),
                )));
            }
            if !is_unsent {
                // However long the call had run: the wait for the next provider begins now.
                wait_until = patience();
            }
            if Instant::now() >= wait_until {
                return Err(Stop::Fault(Fault::deadline_exceeded(format!(
                    "`{label}` was being tried again: it {why}"
                ))));
            }
            if is_unsent {
                tokio::time::sleep(PAUSE).await;
            }
            avoid = Some(target.id.clone());
        }
    }

    /// Waits for a provider, unless it is known who comes next, for a place with it, and for the
    /// call's first moments there.
    async fn reach(
        &mut self,
        broker: &Arc<Broker>,
        call: &Outgoing,
        avoid: Option<&str>,
        next: Option<Arc<Target>>,
        until: Instant,
        alone: bool,
    ) -> Result<(Arc<Target>, Attempt), Stop> {
        let target = match next {
            Some(target) => target,
            None => self.attend(until, broker.find(call, self.peer, avoid, until)).await??,
        };
        let place = match &target.provider {
            Some(provider) if !call.is_endless() => {
                Some(self.attend(until, provider.admit(self.peer.uid)).await??)
            }
            _ => None,
        };
        let turn = match &target.provider {
            Some(provider) => Some(self.attend(until, provider.turn(alone)).await?),
            None => None,
        };
        Ok((target, Attempt { place, turn, passed_on: false }))
    }

    /// Waits for something while watching the client and the clock.
    async fn attend<T>(
        &mut self,
        until_at: Instant,
        work: impl Future<Output = T>,
    ) -> Result<T, Stop> {
        let mut work = std::pin::pin!(work);
        // What is there at once needs no timers.
        if let Poll::Ready(done) =
            std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await
        {
            return Ok(done);
        }
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                open = self.stream.readable(), if self.read_open && self.frames.has_room() => {
                    open.map_err(Stop::Io)?;
                    self.read_open = fill(&self.stream, &mut self.frames).map_err(Stop::Io)?;
                    if !self.read_open && hung_up(&self.stream) {
                        return Err(Stop::HungUp);
                    }
                }
                () = tokio::time::sleep(GONE_EVERY), if !self.read_open => {
                    if hung_up(&self.stream) {
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
        if write_all(&backend.stream, &up).await.is_err()
            || write_all(&self.stream, &down).await.is_err()
        {
            return;
        }
        let ended = tokio::io::copy_bidirectional_with_sizes(
            &mut self.stream,
            &mut backend.stream,
            UPGRADE_BUFFER,
            UPGRADE_BUFFER,
        )
        .await;
        if let Err(error) = ended {
            tracing::debug!(%error, "an upgraded connection ended");
        }
    }
}

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

/// Work that may take long, on a thread of its own if it will.
async fn aside_if<T: Send + 'static>(
    is_long: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    if !is_long {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Fault::internal(format!("reading a message panicked: {}", chain(&error))))
}
