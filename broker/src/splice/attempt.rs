//! One attempt at one provider: the call is sent, and its answer passed on while the client, the
//! clock and the provider are watched.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brahman_card::interface::WireError;
use brahman_card::interface::broker::error::{Overloaded, ProviderFailed};
use brahman_card::wire::KEY_MOCK;
use brahman_card::wire::fault::Fault;
use brahman_sidecar::chain;
use brahman_sidecar::serve::{
    Charge, GONE_EVERY, WRITE_STALL, fill, hung_up, poll_briefly, write_parts,
};
use tokio::sync::watch;

use super::{LONG_BYTES, Stop, aside_if};
use crate::answer::Answer;
use crate::client::{After, Client};
use crate::health::Outcome;
use crate::outgoing::Outgoing;
use crate::provider::{Backend, Place};
use crate::service::{Broker, Target};
use crate::table::Table;
use crate::turn::Turn;

/// How long an answer that usually comes at once is polled for. A wake-up costs 10 to 50 µs, most
/// where a virtual machine has let an idle core go; this much of one core, by turns with whoever
/// else wants it, is the most that is wasted.
const POLL_MAX: Duration = Duration::from_micros(300);

/// What a call holds while it is tried.
pub(super) struct Attempt {
    pub(super) place: Option<Place>,
    /// Its first moments, until something of an answer is here.
    pub(super) turn: Option<Turn>,
    /// Whether something of an answer has gone to the client.
    pub(super) passed_on: bool,
}

/// Why an attempt gave no answer.
pub(super) enum AttemptFailure {
    /// Nothing was sent: it can be tried again whatever it is.
    Unreached(String),
    /// The provider ended before it had read all of it: it can be tried again whatever it is.
    Unread(String),
    /// The provider ended with the call in its hands, or answered what cannot be passed on.
    Lost(String),
    /// It answered that it cannot, and somebody else may.
    Declined(Answer),
    /// It is over.
    Stop(Stop),
}

impl Client {
    /// One attempt at one provider.
    pub(super) async fn attempt(
        &mut self,
        broker: &Broker,
        call: &Outgoing,
        target: &Target,
        held: &mut Attempt,
    ) -> Result<After, AttemptFailure> {
        let started = Instant::now();
        let (mut backend, number) = self.send(broker, call, target, started).await?;
        if call.oneway {
            target.note(Outcome::Answered, started.elapsed());
            let until = call.deadline.or(started + Duration::from_secs(call.patience_s()));
            self.oneway = Some(tokio::spawn(backend.outlive(held.place.take(), until)));
            return Ok(After::Next);
        }
        if target.answers_at_once() {
            poll_briefly(&backend.stream, &mut backend.frames, POLL_MAX).await;
        }
        // Followed only if the answer is waited for.
        let mut table: Option<watch::Receiver<Arc<Table>>> = None;
        loop {
            match backend.frames.next_frame() {
                Ok(Some(frame)) => {
                    let (frame, delimiter) = (frame.to_vec(), self.frames.delimiter());
                    let answer =
                        aside_if(frame.len() >= LONG_BYTES, move || Answer::read(frame, delimiter))
                            .await;
                    let answer = match answer {
                        Ok(Ok(answer)) => answer,
                        Ok(Err(error)) => {
                            let why = format!(
                                "answered with something that is not Varlink: {}",
                                chain(&error)
                            );
                            return Err(AttemptFailure::Lost(why));
                        }
                        Err(fault) => return Err(AttemptFailure::Stop(Stop::Fault(fault))),
                    };
                    // Whoever was told no number can give none back.
                    if answer.number.is_some_and(|of| of != number || !target.wants_uid)
                        || answer.continues && !call.more
                    {
                        return Err(AttemptFailure::Lost(
                            "answered a call that was not made".into(),
                        ));
                    }
                    if declines(call, target, held, &answer) {
                        if answer.number.is_some() {
                            target.keep(backend);
                        }
                        return Err(AttemptFailure::Declined(answer));
                    }
                    self.pass_on(call, target, held, &answer, started)
                        .await
                        .map_err(|e| AttemptFailure::Stop(Stop::Io(e)))?;
                    if call.upgrade && answer.error.is_none() && !answer.continues {
                        return Ok(After::Upgraded(backend));
                    }
                    if !answer.continues {
                        if answer.number.is_some() {
                            target.keep(backend);
                        }
                        return Ok(After::Next);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    let why = format!(
                        "`{}` answered `{}` with too large a message: {error}",
                        target.label(),
                        call.method
                    );
                    return Err(AttemptFailure::Stop(Stop::Fault(Fault::overloaded(why, 100))));
                }
            }
            if backend.frames.pending().len() >= LONG_BYTES {
                tokio::task::yield_now().await;
            }
            let Some(table) = &mut table else {
                let mut follow = broker.table.subscribe();
                follow.mark_unchanged();
                table = Some(follow);
                if let Some(why) = broker.gone(target) {
                    return Err(AttemptFailure::Lost(why));
                }
                continue;
            };
            self.listen(broker, call, target, held, (&mut backend, table)).await?;
        }
    }

    /// Sends a call to a provider; gives the connection, and the number that its answer is to have.
    async fn send(
        &mut self,
        broker: &Broker,
        call: &Outgoing,
        target: &Target,
        started: Instant,
    ) -> Result<(Backend, u64), AttemptFailure> {
        let connecting = if call.oneway {
            target.dial().await
        } else {
            target.connect(target.idempotent(&call.interface, &call.method)).await
        };
        let mut backend = connecting.map_err(|error| {
            AttemptFailure::Unreached(format!("could not be reached: {}", chain(&error)))
        })?;
        backend.frames.reserve_from(Box::new(Charge::of(self.peer.uid)));
        let number = broker.next_number();
        let head = call.head(target.wants_uid, self.peer.uid, number);
        let parts = [head.as_slice(), call.parameters(), b"}\0"];
        let until_at = call.deadline.or(started + 2 * WRITE_STALL);
        // It may have been given up while the call waited for its place.
        if let Some(why) = broker.gone(target) {
            return Err(AttemptFailure::Unreached(why));
        }
        if backend.frames.is_denied() {
            let why = format!(
                "no memory is left for an answer of `{}` while others are in flight",
                target.label()
            );
            return Err(AttemptFailure::Stop(Stop::Fault(Fault::overloaded(why, 100))));
        }
        let written = self.attend(until_at, write_parts(&backend.stream, &parts)).await;
        match written {
            Ok(Ok(())) => Ok((backend, number)),
            Ok(Err(error)) => Err(AttemptFailure::Unread(format!("hung up ({error})"))),
            Err(Stop::Fault(_)) => Err(late(call, target)),
            Err(stop) => Err(AttemptFailure::Stop(stop)),
        }
    }

    /// Passes an answer, or a part of one, on to the client. With its end the provider is free.
    pub(super) async fn pass_on(
        &mut self,
        call: &Outgoing,
        target: &Target,
        held: &mut Attempt,
        answer: &Answer,
        started: Instant,
    ) -> io::Result<()> {
        held.passed_on = true;
        // Its first moments are over, however slowly its reader takes the answer.
        held.turn = None;
        if !answer.continues {
            drop(held.place.take());
            let is_overload = answer.error.as_deref() == Some(Overloaded::NAME);
            target.note(
                if is_overload { Outcome::Overloaded } else { Outcome::Answered },
                started.elapsed(),
            );
        }
        let mut head = call.reply_head(target.label());
        if call.extras && target.mock {
            head.extend_from_slice(format!("\"{KEY_MOCK}\":true,").as_bytes());
        }
        answer.pass_on(&self.stream, head, self.frames.delimiter()).await
    }

    /// Waits for more of an answer, while watching the client, the clock, and whether the provider
    /// is still there.
    async fn listen(
        &mut self,
        broker: &Broker,
        call: &Outgoing,
        target: &Target,
        held: &mut Attempt,
        (backend, table): (&mut Backend, &mut watch::Receiver<Arc<Table>>),
    ) -> Result<(), AttemptFailure> {
        tokio::select! {
            biased;
            ready = backend.stream.readable() => match ready
                .and_then(|()| fill(&backend.stream, &mut backend.frames))
            {
                Ok(true) => {}
                Ok(false) => return Err(AttemptFailure::Lost("hung up during the call".to_owned())),
                // So the kernel says that something was left unread: the end of the call at least,
                // without which there is none.
                Err(error)
                    if error.kind() == io::ErrorKind::ConnectionReset
                        && backend.frames.pending().is_empty() =>
                {
                    let why = format!("hung up before it had read the call ({error})");
                    return Err(AttemptFailure::Unread(why));
                }
                Err(error) => {
                    let why = format!("hung up during the call ({error})");
                    return Err(AttemptFailure::Lost(why));
                }
            },
            open = self.stream.readable(), if self.read_open && self.frames.has_room() => {
                open.map_err(|e| AttemptFailure::Stop(Stop::Io(e)))?;
                self.read_open = fill(&self.stream, &mut self.frames)
                    .map_err(|e| AttemptFailure::Stop(Stop::Io(e)))?;
                if !self.read_open && hung_up(&self.stream) {
                    return Err(AttemptFailure::Stop(Stop::HungUp));
                }
            }
            // A client that has finished sending may still go away.
            () = tokio::time::sleep(GONE_EVERY), if !self.read_open => if hung_up(&self.stream) {
                return Err(AttemptFailure::Stop(Stop::HungUp));
            },
            () = call.deadline.passed() => return Err(late(call, target)),
            _ = table.changed() => {
                // A provider that was given up never answers: its socket is held by init, not by
                // it.
                if let Some(why) = broker.gone(target) {
                    return Err(AttemptFailure::Lost(why));
                }
                // Calls that waited in the socket's backlog are read by the next life.
                if let Some(turn) = &mut held.turn && broker.is_next_life(target) {
                    turn.begin_anew();
                }
            }
        }
        Ok(())
    }
}

/// Whether a provider says that what it depends on has failed, of a call that may be made again:
/// then another provider is asked.
fn declines(call: &Outgoing, target: &Target, held: &Attempt, answer: &Answer) -> bool {
    answer.error.as_deref() == Some(ProviderFailed::NAME)
        && !held.passed_on
        && !call.upgrade
        && target.idempotent(&call.interface, &call.method)
}

fn late(call: &Outgoing, target: &Target) -> AttemptFailure {
    AttemptFailure::Stop(Stop::Fault(Fault::deadline_exceeded(format!(
        "`{}` worked on `{}`",
        target.label(),
        call.method
    ))))
}
