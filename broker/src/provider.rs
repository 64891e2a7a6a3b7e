//! One provider as the broker uses it: its places, its health, and idle connections to it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::ModuleRecord;
use brahman_card::card::Quotas;
use brahman_card::wire::fault::Fault;
use brahman_card::wire::frame::FrameBuffer;
use brahman_sidecar::serve::has_unread;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::admission::{Admission, Admit, Ticket};
use crate::health::Health;
use crate::turn::{Turn, Turns};

/// Idle connections kept to one provider; more than this many calls at once pay a connect of 20 µs.
const IDLE_MAX: usize = 128;

/// Answers within this time are worth polling for.
const QUICK: Duration = Duration::from_micros(250);

/// A connection to a provider.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) stream: UnixStream,
    pub(crate) frames: FrameBuffer,
}

impl Backend {
    pub(crate) async fn dial(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        Ok(Self { stream, frames: FrameBuffer::nul() })
    }

    /// Whether a call's answer could not be taken for anything else: nothing lies unread, and the
    /// provider is there.
    fn is_clean(&self) -> bool {
        !self.frames.has_partial() && !has_unread(&self.stream)
    }

    /// Holds a oneway call's place until its work is over, which shows in the provider's hanging
    /// up, or until its time is up.
    pub(crate) async fn outlive(self, place: Option<Place>, until: Instant) {
        // After the call, nothing more: a server hangs up once it has done what it was asked.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
        let over = async {
            let mut sink = [0_u8; 4096];
            loop {
                match self.stream.try_read(&mut sink) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        if self.stream.readable().await.is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout_at(until.into(), over).await;
        drop(place);
    }
}

/// Locks without minding a panic elsewhere: everything behind these locks is whole between
/// statements.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One provider.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) label: String,
    admission: Mutex<(Admission, HashMap<Ticket, oneshot::Sender<()>>)>,
    health: Mutex<Health>,
    idle: Mutex<(u64, Vec<Backend>)>,
    turns: Arc<Turns>,
}

impl Provider {
    fn new(label: &str, quotas: Quotas) -> Self {
        let admission = Admission::new(quotas.in_flight as usize, quotas.queue as usize);
        Self {
            label: label.to_owned(),
            admission: Mutex::new((admission, HashMap::new())),
            health: Mutex::default(),
            idle: Mutex::default(),
            turns: Arc::default(),
        }
    }

    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        hold(&self.health)
    }

    /// Calls running and waiting.
    pub(crate) fn load(&self) -> usize {
        hold(&self.admission).0.load()
    }

    /// Whether an answer will come before a wake-up would pay: its last ones were quick and nobody
    /// else is being served.
    pub(crate) fn answers_at_once(&self) -> bool {
        self.load() == 1 && self.health().is_quick(QUICK)
    }

    /// Waits for a place.
    pub(crate) async fn admit(self: &Arc<Self>, uid: u32) -> Result<Place, Fault> {
        let (ticket, called) = {
            let mut held = hold(&self.admission);
            match held.0.ask(uid) {
                Admit::Now => return Ok(Place { provider: Arc::clone(self), uid }),
                Admit::Full => {
                    let load = held.0.load();
                    return Err(Fault::overloaded(
                        format!(
                            "`{}` has {load} calls running and waiting, its Card allows no more",
                            self.label
                        ),
                        100,
                    ));
                }
                Admit::Wait(ticket) => {
                    let (call, called) = oneshot::channel();
                    held.1.insert(ticket, call);
                    (ticket, called)
                }
            }
        };
        let mut waiting = QueuedCall { provider: self, uid, ticket: Some(ticket) };
        // The sender is only dropped unused together with the provider itself.
        let _ = called.await;
        waiting.ticket = None;
        Ok(Place { provider: Arc::clone(self), uid })
    }

    /// Waits for a call's first moments here, with others or alone.
    pub(crate) async fn turn(&self, alone: bool) -> Turn {
        self.turns.take(alone).await
    }

    fn release(&self, uid: u32) {
        let mut held = hold(&self.admission);
        while let Some(ticket) = held.0.release(uid) {
            // One that was given up in this very moment leaves its place free again.
            if held.1.remove(&ticket).is_some_and(|call| call.send(()).is_ok()) {
                return;
            }
        }
    }

    /// An idle connection to this life of the provider on which nothing lies unread, or a new one.
    ///
    /// The kernel is asked only where a call could not be repeated, for the question costs a system
    /// call: elsewhere an answer to another call shows by its number, and the call is made again.
    pub(crate) async fn connect(
        &self,
        socket: &Path,
        incarnation: u64,
        is_repeatable: bool,
    ) -> std::io::Result<Backend> {
        loop {
            let candidate = {
                let mut idle = hold(&self.idle);
                if idle.0 != incarnation {
                    *idle = (incarnation, Vec::new());
                }
                idle.1.pop()
            };
            match candidate {
                Some(backend) if is_repeatable || backend.is_clean() => return Ok(backend),
                Some(_) => {}
                None => return Backend::dial(socket).await,
            }
        }
    }

    /// A connection was lost: what lies idle led to the same process and would be lost as well.
    pub(crate) fn forget_idle(&self) {
        hold(&self.idle).1.clear();
    }

    /// Takes back a connection whose call was answered, and its answer known by its number.
    pub(crate) fn keep(&self, mut backend: Backend, incarnation: u64) {
        // What it holds was its caller's; whoever is next is not to pay for it.
        backend.frames.trim();
        drop(backend.frames.take_reservation());
        let mut idle = hold(&self.idle);
        if !backend.frames.has_partial() && idle.0 == incarnation && idle.1.len() < IDLE_MAX {
            idle.1.push(backend);
        }
    }
}

/// A call's place, given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    provider: Arc<Provider>,
    uid: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.provider.release(self.uid);
    }
}

/// A call in the queue; leaves it on drop.
struct QueuedCall<'a> {
    provider: &'a Arc<Provider>,
    uid: u32,
    ticket: Option<Ticket>,
}

impl Drop for QueuedCall<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let left = {
                let mut held = hold(&self.provider.admission);
                held.1.remove(&ticket);
                held.0.leave(self.uid, ticket)
            };
            if !left {
                self.provider.release(self.uid);
            }
        }
    }
}

/// A provider, the life of it that was last seen, and the quotas it was made with.
type KnownProvider = (Arc<Provider>, u64, Quotas);

/// All providers, by Card id; kept over changes of the table.
#[derive(Debug, Default)]
pub(crate) struct Providers {
    all: Mutex<HashMap<String, KnownProvider>>,
}

impl Providers {
    /// The provider of a record, made or renewed as the record says.
    pub(crate) fn of(&self, module: &ModuleRecord) -> Arc<Provider> {
        let mut all = hold(&self.all);
        let quotas = module.card.quotas;
        let fresh = || {
            (
                Arc::new(Provider::new(module.card.label.as_str(), quotas)),
                module.incarnation,
                quotas,
            )
        };
        let known = all.entry(module.card.id.clone()).or_insert_with(fresh);
        if known.2 != quotas {
            *known = fresh();
        }
        if known.1 != module.incarnation {
            known.1 = module.incarnation;
            known.0.health().renewed();
        }
        Arc::clone(&known.0)
    }

    /// Forgets what is not in the table any more.
    pub(crate) fn retain(&self, modules: &[ModuleRecord]) {
        hold(&self.all).retain(|id, _| modules.iter().any(|m| m.card.id == *id));
    }
}

/// Of two replicas the cheaper one by peak EWMA latency times load.
pub(crate) fn cheaper<'a>(a: &'a Arc<Provider>, b: &'a Arc<Provider>) -> bool {
    let now = Instant::now();
    a.health().cost(a.load(), now) <= b.health().cost(b.load(), now)
}

/// Whether the breaker lets a call through.
pub(crate) fn allows(provider: &Provider) -> bool {
    provider.health().allows(Instant::now())
}
