//! What others ask of init, each answered inside the loop and without waiting for anybody.

use std::collections::BTreeSet;

use brahman_card::Fault;
use brahman_card::card::unknown_context;
use brahman_card::interface::init::ReloadOut;
use brahman_card::interface::init::error::NoSuchSession;
use brahman_sidecar::chain;
use brahman_sidecar::place::cards::{may_attach, socket_path};

use super::Supervisor;
use crate::cgroup::shortfalls;
use crate::processes;
use crate::service::{Request, bad_card, no_such_module, not_supervised};
use crate::setup::{load, wire_path};
use crate::state::{Entry, Event};

impl Supervisor {
    /// Reads the Cards again and applies the difference.
    pub(super) fn reload(&mut self) -> Result<ReloadOut, Fault> {
        let loaded = load(&self.options.cards, &self.options.mesh)?;
        for attached in self.state.cards(true) {
            may_attach(attached, &loaded.cards, &self.options.mesh).map_err(|error| {
                bad_card(&format!(
                    "`{}` attached by itself: {}; nothing was changed",
                    attached.label, error.expected
                ))
            })?;
        }
        let present = self.present_context();
        if let Some(why) = present.and_then(|name| {
            unknown_context(&name, loaded.cards.iter().chain(self.state.cards(true)))
        }) {
            let words = format!(
                "{why}, and it is the current one: `brahman context NAME` switches to another; nothing was changed"
            );
            return Err(bad_card(&words));
        }
        // The first reading is part of starting: READY is said once the broker answers, not before.
        let again = self.said_ready;
        if again {
            self.mouth.say("RELOADING=1");
        }
        self.take(loaded);
        if again {
            self.mouth.say("READY=1");
        }
        Ok(self.state.last_reload.clone())
    }

    /// Does what somebody asked for, and answers.
    pub(super) fn answer(&mut self, request: Request) {
        // An asker that has hung up needs no answer; every `send` below may fail for that reason
        // alone.
        match request {
            Request::List { reply } => drop(reply.send(self.records())),
            Request::Command { label, command, pid, reply } => {
                let outcome = match self.state.refusal(&label, command) {
                    _ if !self.state.has_label(&label) => Err(no_such_module(&label)),
                    Some(why) => Err(not_supervised(&label, &why)),
                    None => {
                        self.state.note_commander(&label, command, pid);
                        self.apply(Event::Command { label: label.clone(), command });
                        Ok(())
                    }
                };
                let _ = reply.send(outcome);
            }
            Request::Reload { reply } => {
                let outcome = self.reload();
                let _ = reply.send(outcome);
            }
            Request::Warnings { card, reply } => {
                drop(reply.send(shortfalls(&card, self.cgroups.as_ref())));
            }
            Request::Update { update, reply } => {
                if self.state.has_session(&update.session) {
                    self.apply(Event::Updated { update });
                    let _ = reply.send(Ok(()));
                } else {
                    let _ = reply.send(Err(Fault::of(
                        &NoSuchSession {},
                        false,
                        "no such session: attach first",
                    )));
                }
            }
            Request::Attach { card, id, peer, drain, gone, reply } => {
                self.session_count += 1;
                let session = format!("s{}", self.session_count);
                let event = match (card, id) {
                    (Some(card), _) => {
                        if self.state.entry(&card.id).is_some() {
                            let why = format!(
                                "a module with label `{}` and this socket exists already",
                                card.label
                            );
                            let _ = reply.send(Err(bad_card(&why)));
                            return;
                        }
                        if let Err(error) =
                            may_attach(&card, self.state.cards(false), &self.options.mesh)
                        {
                            let _ = reply.send(Err(bad_card(&chain(&error))));
                            return;
                        }
                        let socket = wire_path(&socket_path(&card, &self.options.mesh));
                        Event::Introduced {
                            card,
                            socket,
                            session: session.clone(),
                            pid: peer.pid.cast_unsigned(),
                        }
                    }
                    // Its own process, or one of its process's, or that of a Card whose module
                    // attaches by itself.
                    (None, Some(id))
                        if self.state.entry(&id).is_some_and(|e| is_of(e, peer.pid)) =>
                    {
                        Event::Attached { id, session: session.clone() }
                    }
                    (None, id) => {
                        let why = format!(
                            "no module has the id `{}` and runs as process {}",
                            id.unwrap_or_default(),
                            peer.pid
                        );
                        let _ = reply.send(Err(bad_card(&why)));
                        return;
                    }
                };
                self.drains.insert(session.clone(), drain);
                let name = session.clone();
                self.sessions.spawn(async move {
                    // Resolves when the module's call is dropped, that is, when it hangs up.
                    let _ = gone.await;
                    name
                });
                self.apply(event);
                let _ = reply.send(Ok(session));
            }
            Request::Shutdown => self.apply(Event::Shutdown),
        }
    }
}

/// Whether a process may speak for a module.
fn is_of(entry: &Entry, pid: i32) -> bool {
    match entry.pid() {
        Some(own) => processes::owner(pid.cast_unsigned(), &BTreeSet::from([own])).is_some(),
        None => !entry.is_started_here() && !entry.is_attached(),
    }
}
