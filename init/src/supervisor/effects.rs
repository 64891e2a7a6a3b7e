//! What the state wants done: sockets bound, processes started, signalled and reaped.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context as _;
use brahman_card::Card;
use brahman_sidecar::chain;
use brahman_sidecar::place::cards::socket_path;
use nix::sys::signal::Signal;
use tokio::io::unix::AsyncFd;

use super::Supervisor;
use crate::cgroup::shortfalls;
use crate::sockets::HeldSocket;
use crate::spawn::{SpawnError, admits_group, orphans, spawn, tend_orphan};
use crate::state::{Effect, Event, Id};

impl Supervisor {
    pub(super) fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Bind { id } => {
                let card = self.state.entry(&id)?.card().clone();
                let short = shortfalls(&card, self.cgroups.as_ref());
                if let Some(entry) = self.state.entry_mut(&id) {
                    entry.set_shortfalls(short);
                }
                match self.bind(&id, &card) {
                    Ok(held) => {
                        self.listeners.insert(id, held);
                        None
                    }
                    Err(error) => {
                        tracing::error!(label = %card.label, "{error:#}");
                        Some(Event::SpawnFailed {
                            id,
                            reason: format!("{error:#}"),
                            permanent: true,
                        })
                    }
                }
            }
            Effect::Spawn { id } => Some(self.spawn(id)),
            Effect::Terminate { id } => {
                if let Some(process) = self.processes.get(&id) {
                    process.signal(Signal::SIGTERM);
                }
                None
            }
            Effect::Kill { id } => {
                if let Some(process) = self.processes.get(&id) {
                    process.kill_group();
                }
                if let (Some(cgroups), Some(entry)) = (&self.cgroups, self.state.entry(&id)) {
                    cgroups.kill(entry.card());
                }
                None
            }
            Effect::Drain { session } => {
                if let Some(drain) = self.drains.get(&session) {
                    // One is enough, and one fits.
                    let _ = drain.try_send(());
                }
                None
            }
            Effect::Forget { id } => {
                self.absences.remove(&id);
                self.addresses.remove(&id);
                // What is systemd's is kept for a Card that has it again.
                let back = self.listeners.remove(&id).and_then(HeldSocket::release);
                self.passed.extend(back);
                None
            }
            Effect::Exit => {
                self.over = true;
                None
            }
        }
    }

    /// The module's socket: the one that it has, one of systemd's, or a new one.
    fn bind(&mut self, id: &str, card: &Card) -> anyhow::Result<HeldSocket> {
        let path = socket_path(card, &self.options.mesh);
        let group = self.places.group.filter(|_| admits_group(card));
        // A Card with another id may have followed one of the same socket, whose module is still
        // ending.
        let holder = self
            .listeners
            .iter()
            .find(|(holder, held)| *holder == id || held.path == path)
            .map(|(holder, _)| holder.clone());
        let held = match holder.and_then(|holder| self.listeners.remove(&holder)) {
            Some(held) => held,
            None => match self.passed.iter().position(|held| held.is_at(&path)) {
                Some(at) => self.passed.swap_remove(at),
                None => return Ok(HeldSocket::bind(&path, group)?),
            },
        };
        held.guard(group)
            .with_context(|| format!("cannot set who may connect to {}", path.display()))?;
        Ok(held)
    }

    /// Listens at the TCP addresses of a module's Card: what is held already stays, what it has no
    /// more goes.
    fn listen(&mut self, id: &str, card: &Card) -> anyhow::Result<()> {
        let wanted = card.tcp_addresses();
        let mut held = self.addresses.remove(id).unwrap_or_default();
        held.retain(|(address, _)| wanted.contains(address));
        for address in wanted {
            if held.iter().any(|(known, _)| *known == address) {
                continue;
            }
            let listener = TcpListener::bind(address)
                .with_context(|| format!("cannot listen on tcp:{address}"))?;
            listener
                .set_nonblocking(true)
                .with_context(|| format!("cannot listen on tcp:{address}"))?;
            held.push((address, listener));
        }
        if !held.is_empty() {
            self.addresses.insert(id.to_owned(), held);
        }
        Ok(())
    }

    fn spawn(&mut self, id: Id) -> Event {
        let Some(card) = self.state.entry(&id).map(|e| e.card().clone()) else {
            return Event::Tick;
        };
        // From here on whoever connects is the module's.
        self.absences.remove(&id);
        // A person may have moved away what was in the socket's place.
        let held = match self.listeners.remove(&id).map_or_else(|| self.bind(&id, &card), Ok) {
            Ok(held) => held,
            Err(error) => {
                return Event::SpawnFailed { id, reason: format!("{error:#}"), permanent: true };
            }
        };
        if let Err(error) = self.listen(&id, &card) {
            self.listeners.insert(id.clone(), held);
            tracing::error!(label = %card.label, "{error:#}");
            return Event::SpawnFailed { id, reason: format!("{error:#}"), permanent: true };
        }
        let tcp: std::io::Result<Vec<TcpListener>> = self
            .addresses
            .get(&id)
            .into_iter()
            .flatten()
            .map(|(_, listener)| listener.try_clone())
            .collect();
        let started = tcp
            .map_err(|source| SpawnError::Start { exec: card.label.to_string(), source })
            .and_then(|tcp| {
                spawn(&card, &held.listener, &tcp, &self.places, self.cgroups.as_ref())
            });
        self.listeners.insert(id.clone(), held);
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                let (reason, permanent) = (chain(&error), error.is_permanent());
                tracing::error!(label = %card.label, "{reason}");
                return Event::SpawnFailed { id, reason, permanent };
            }
        };
        let pid = started.process.pid;
        tracing::debug!(label = %card.label, pid, "started");
        let pipes = [
            ("stdout", started.stdout.map(OwnedFd::from)),
            ("stderr", started.stderr.map(OwnedFd::from)),
        ];
        for (stream, pipe) in pipes {
            if let Some(pipe) = pipe {
                self.pumps.spawn(Arc::clone(&self.logs).pump(
                    card.label.to_string(),
                    pid,
                    stream,
                    pipe,
                ));
            }
        }
        #[expect(
            deprecated,
            reason = "an OwnedFd stays open as long as it is held; the replacement is unsafe code"
        )]
        let watched = started.process.watch().and_then(AsyncFd::new);
        match watched {
            Ok(pidfd) => {
                let key = id.clone();
                self.ends.spawn(async move {
                    // A pidfd only ever becomes readable once, at the end.
                    let _ = pidfd.readable().await;
                    (key, pid)
                });
            }
            Err(error) => {
                started.process.kill_group();
                let _ = started.process.reap();
                return Event::SpawnFailed {
                    id,
                    reason: format!("its process could not be watched: {}", chain(&error)),
                    permanent: false,
                };
            }
        }
        self.processes.insert(id.clone(), started.process);
        Event::Spawned { id, pid }
    }

    /// A process has ended: sweep its group, reap it, and deal with what it left behind.
    pub(super) fn reap(&mut self, id: Id, pid: u32) -> Event {
        let Some(process) = self.processes.remove(&id) else { return Event::Tick };
        let label = self.state.entry(&id).map(|e| e.card().label.to_string()).unwrap_or_default();
        let exit = process.reap();
        tracing::info!(%label, pid, ?exit, "ended");
        if let (Some(cgroups), Some(entry)) = (&self.cgroups, self.state.entry(&id)) {
            cgroups.kill(entry.card());
        }
        for orphan in self.orphans() {
            tend_orphan(orphan, Some(&id));
        }
        let last_line = self.logs.last_line(&label, pid);
        Event::Exited { id, pid, exit, last_line }
    }

    pub(super) fn orphans(&self) -> Vec<u32> {
        orphans(|pid| self.processes.values().any(|p| p.pid == pid))
    }
}
