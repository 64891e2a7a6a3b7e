//! The loop: one owner of the state, every arm turns something that happened into an event.
//!
//! `effects` does what the state wants done, `requests` answers who asks.

mod effects;
mod requests;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use brahman_card::card::{answers, contexts, unknown_context};
use brahman_card::interface::init::WatchOut;
use brahman_card::{Card, ModuleRecord, ModuleState, interface};
use brahman_sidecar::logs::{FOLDER, is_journal};
use brahman_sidecar::place::cards::{CardSource, socket_path};
use brahman_sidecar::place::socket::SocketFile;
use brahman_sidecar::place::state::{StateLock, check_place};
use brahman_sidecar::serve::{ServeOptions, serve};
use brahman_sidecar::{Deadline, place};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::absence::Absence;
use crate::cgroup::Cgroups;
use crate::logs::Logs;
use crate::notify::{Ear, Mouth, Word};
use crate::processes::{self, ProcessRecord};
use crate::registry::Registration;
use crate::service::{InitService, Request};
use crate::setup::{LoadedCards, Refusal, load, mesh_group, wire_path};
use crate::sockets::{self, HeldSocket, Lock, SocketError};
use crate::spawn::{Places, Process, tend_orphan};
use crate::state::{Event, GRACE_MS, Id, Millis, State};

pub use crate::setup::{is_configuration, sweep};

/// How long the last lines may take to be kept: a disk that hangs must not hold up the end.
const LAST_LINES: Duration = Duration::from_millis(500);
/// Requests that may wait for the loop; each is answered in microseconds.
const REQUESTS_WAITING: usize = 256;

/// What `brahman-init` was started with.
#[derive(Debug)]
pub struct Options {
    /// Where the mesh socket is, or will be.
    pub mesh: PathBuf,
    /// Where Cards are looked for, the first before the others.
    pub cards: Vec<CardSource>,
    /// Directory that holds what is kept.
    pub state: PathBuf,
    /// Context that the broker starts in.
    pub context: Option<String>,
    /// Whether standard error is a file that nobody bounds: modules' lines are kept in the state's
    /// logs and not passed on to it.
    pub detached: bool,
}

struct Supervisor {
    options: Options,
    state: State,
    /// The files that the Cards were read from.
    origins: HashMap<Id, String>,
    started: Instant,
    places: Places,
    cgroups: Option<Cgroups>,
    logs: Arc<Logs>,
    lock: Lock,
    own: SocketFile,
    listeners: HashMap<Id, HeldSocket>,
    /// Where modules are reached by TCP.
    addresses: HashMap<Id, Vec<(SocketAddr, TcpListener)>>,
    /// Who answers for modules that do not run.
    absences: HashMap<Id, Absence>,
    /// Sockets of systemd's that no module has at the moment.
    passed: Vec<HeldSocket>,
    processes: HashMap<Id, Process>,
    ends: JoinSet<(Id, u32)>,
    pumps: JoinSet<()>,
    sessions: JoinSet<String>,
    drains: HashMap<String, mpsc::Sender<()>>,
    session_count: u64,
    table: watch::Sender<Arc<WatchOut>>,
    mouth: Mouth,
    said_ready: bool,
    /// Processes as they were last noted in the lock.
    noted: Vec<u32>,
    over: bool,
}

/// Runs the mesh until it is asked to end.
///
/// # Errors
/// If the mesh cannot be set up: another init, a socket that cannot be bound, a Card or a context
/// that is refused.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // Before anything is started: whoever ends this process from here on leaves nothing behind.
    let mut signals = Signals::listen()?;
    let mut lock = Lock::take(&options.mesh)?;
    let group = mesh_group(&options.mesh, &lock)?;
    let cgroup = Cgroups::folder()?;
    let loaded =
        load(&options.cards, &options.mesh).map_err(|fault| Refusal(fault.message().to_owned()))?;
    if let Some(why) =
        options.context.as_deref().and_then(|name| unknown_context(name, &loaded.cards))
    {
        return Err(Refusal(why).into());
    }
    lock.forget_context(&options.mesh)?;
    check_place(&options.state)?;
    place::private_dir(&options.state).with_context(|| {
        format!("cannot create the state directory {}", options.state.display())
    })?;
    // Held until this function returns: nothing of this mesh writes to the state after that.
    let state_lock = StateLock::take(&options.state, &options.mesh)?;
    set_child_subreaper(true).context("cannot become a subreaper")?;
    raise_file_limit();
    if !end_former(&mut lock, &state_lock, &options, &mut signals).await {
        return Ok(());
    }
    let places = places(&options, group);
    let passed = passed_sockets(&options, group)?;
    let is_systemds = passed.iter().any(|held| held.is_at(&options.mesh));
    let (listener, own) = place::socket::listen(&places.init, group).map_err(SocketError::from)?;
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let ear = Ear::bind(&places.notify).map_err(SocketError::from)?;
    let (requests, inbox) = mpsc::channel(REQUESTS_WAITING);
    let (table, watching) =
        watch::channel(Arc::new(WatchOut { modules: Vec::new(), generation: 0 }));
    // systemd keeps what is its own to keep.
    let logs = Arc::new(if is_journal() {
        Logs::default()
    } else {
        Logs::kept_in(&options.state.join(FOLDER), options.detached)
    });
    let closing = CancellationToken::new();
    let service = Arc::new(InitService { requests, table: watching, logs: Arc::clone(&logs) });
    let kept = Arc::clone(&logs);
    let serving =
        tokio::spawn(serve(listener, service, ServeOptions::named("init"), closing.clone()));

    let mut supervisor = Supervisor {
        options,
        state: State::default(),
        origins: HashMap::new(),
        started: Instant::now(),
        places,
        cgroups: cgroup.and_then(Cgroups::claim),
        logs,
        lock,
        own,
        listeners: HashMap::new(),
        addresses: HashMap::new(),
        absences: HashMap::new(),
        passed,
        processes: HashMap::new(),
        ends: JoinSet::new(),
        pumps: JoinSet::new(),
        sessions: JoinSet::new(),
        drains: HashMap::new(),
        session_count: 0,
        table,
        mouth: Mouth::from_env(),
        said_ready: false,
        noted: Vec::new(),
        over: false,
    };
    supervisor.tell_answers(&loaded.cards);
    supervisor.take(loaded);
    for held in &supervisor.passed {
        tracing::warn!(socket = %held.path.display(), "systemd passed a socket that belongs to no Card: its clients will wait for ever");
    }

    // The unit of a socket of systemd's says where it is registered.
    let registration = (!is_systemds).then(|| Registration::begin(&supervisor.options.mesh));
    supervisor.attend(signals, inbox, &ear).await;
    supervisor.mouth.say("STOPPING=1");
    registration.into_iter().for_each(Registration::end);
    closing.cancel();
    let _ = tokio::time::timeout(Duration::from_millis(500), serving).await;
    ear.close();
    supervisor.close();
    kept.flush(LAST_LINES);
    Ok(())
}

/// Ends what former inits left, and what else writes to the state; whether init itself is to go on
/// after that.
async fn end_former(
    lock: &mut Lock,
    state_lock: &StateLock,
    options: &Options,
    signals: &mut Signals,
) -> bool {
    let former = std::mem::take(&mut lock.former);
    // Those of the mesh that had the state before, on whatever socket, write to it as well.
    let on_state =
        state_lock.former.as_ref().map(|holder| (holder.socket.as_path(), options.state.as_path()));
    let left = processes::left_behind(&former, &options.mesh, on_state);
    tokio::select! {
        _ = processes::end(left, Duration::from_millis(GRACE_MS)) => {}
        _ = signals.term.recv() => return false,
        _ = signals.int.recv() => return false,
    }
    lock.record(&[]);
    true
}

fn places(options: &Options, group: Option<u32>) -> Places {
    Places {
        mesh: options.mesh.clone(),
        init: place::init_socket(&options.mesh),
        notify: options.mesh.with_file_name("notify.sock"),
        state: options.state.clone(),
        cache: place::cache_dir(),
        context: options.context.clone(),
        group,
    }
}

/// Sockets of systemd's, once nothing of somebody else's lies where the mesh's own is to be.
fn passed_sockets(options: &Options, group: Option<u32>) -> anyhow::Result<Vec<HeldSocket>> {
    let passed = sockets::passed().context("sockets passed by systemd")?;
    for held in passed.iter().filter(|held| group.is_some_and(|gid| !held.admits(gid))) {
        tracing::warn!(socket = %held.path.display(), "the group cannot connect: set SocketGroup= and SocketMode=0660 in brahman.socket");
    }
    // What lies at the mesh socket's own path concerns the mesh, not the broker alone.
    if !passed.iter().any(|held| held.is_at(&options.mesh)) {
        place::socket::examine(&options.mesh).map_err(SocketError::from)?;
    }
    Ok(passed)
}

/// The signals that concern init.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    child: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
        })
    }
}

/// Everything the loop wakes up for.
enum Occurrence {
    Event(Event),
    Asked(Request),
    Heard(Word),
    Ended(Id, u32),
    Reload,
    Children,
    Alive,
}

impl Supervisor {
    fn now(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes one occurrence after the other until all is over.
    async fn attend(
        &mut self,
        mut signals: Signals,
        mut inbox: mpsc::Receiver<Request>,
        ear: &Ear,
    ) {
        let mut alive = Mouth::watchdog().map(tokio::time::interval);
        while !self.over {
            let timer = self.state.next_timer().map(|at| self.started + Duration::from_millis(at));
            let timer = pin!(Deadline::from(timer).passed());
            let mut happened = tokio::select! {
                _ = signals.term.recv() => Occurrence::Event(Event::Shutdown),
                _ = signals.int.recv() => Occurrence::Event(Event::Shutdown),
                _ = signals.hup.recv() => Occurrence::Reload,
                _ = signals.child.recv() => Occurrence::Children,
                Some(Ok((id, pid))) = self.ends.join_next() => Occurrence::Ended(id, pid),
                Some(Ok(session)) = self.sessions.join_next() => {
                    Occurrence::Event(Event::Detached { session })
                }
                Some(request) = inbox.recv() => Occurrence::Asked(request),
                Ok(word) = ear.hear() => Occurrence::Heard(word),
                () = timer => Occurrence::Event(Event::Tick),
                () = tick(&mut alive) => Occurrence::Alive,
            };
            // Finished pumps leave the set here; they are never waited for.
            while self.pumps.try_join_next().is_some() {}
            if let Occurrence::Ended(id, pid) = happened {
                happened = Occurrence::Event(self.reap(id, pid));
            }
            self.handle(happened);
        }
    }

    fn handle(&mut self, happened: Occurrence) {
        match happened {
            Occurrence::Event(event) => self.apply(event),
            Occurrence::Asked(request) => self.answer(request),
            Occurrence::Heard(word) => self.hear(word),
            Occurrence::Reload => {
                if let Err(fault) = self.reload() {
                    tracing::error!("reload refused: {}", fault.message());
                }
            }
            Occurrence::Children => {
                for pid in self.orphans() {
                    tend_orphan(pid, None);
                }
            }
            Occurrence::Alive => self.mouth.say("WATCHDOG=1"),
            Occurrence::Ended(..) => {}
        }
    }

    /// A word by sd_notify counts for the module that its sender belongs to, be it a child of a
    /// wrapper.
    fn hear(&mut self, word: Word) {
        let known: BTreeSet<u32> = self.state.running().map(|(_, pid)| pid).collect();
        match processes::owner(word.pid, &known) {
            Some(pid) => self.apply(Event::Notified {
                pid,
                ready: word.ready,
                stopping: word.stopping,
                status: word.status,
            }),
            None => {
                tracing::warn!(
                    pid = word.pid,
                    ready = word.ready,
                    "a notification came from a process that belongs to no module"
                );
                if word.ready {
                    self.apply(Event::Stranger { pid: word.pid });
                }
            }
        }
    }

    /// Steps the state, carries out the effects (which may bring events of their own), and
    /// publishes.
    fn apply(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let now = self.now();
            for effect in self.state.step(event, now) {
                events.extend(self.carry_out(effect));
            }
        }
        self.note_processes();
        self.answer_for_absent();
        self.publish();
    }

    /// Has callers of modules that will not run by themselves answered, and of no others.
    fn answer_for_absent(&mut self) {
        let absent = self.state.absent();
        self.absences
            .retain(|id, absence| absent.get(id).is_some_and(|(_, why)| *why == absence.why));
        for (id, (label, why)) in absent {
            let Some(held) = self.listeners.get(&id).filter(|_| !self.absences.contains_key(&id))
            else {
                continue;
            };
            match Absence::answer(&held.listener, &label, why) {
                Ok(absence) => drop(self.absences.insert(id, absence)),
                Err(error) => {
                    tracing::warn!(%label, %error, "its callers wait: nobody can answer for it");
                }
            }
        }
    }

    /// Notes for the next init which processes run, if they are others than before.
    fn note_processes(&mut self) {
        let running: Vec<u32> = self.state.running().map(|(_, pid)| pid).collect();
        if running != self.noted {
            let recorded: Vec<ProcessRecord> = self
                .state
                .running()
                .filter_map(|(label, pid)| ProcessRecord::now(label, pid))
                .collect();
            self.lock.record(&recorded);
            self.noted = running;
        }
    }

    /// Says who answers while no context is set: then the first label does, and that may be a mock.
    fn tell_answers(&self, cards: &[Card]) {
        if self.options.context.is_some() {
            return;
        }
        let own = interface::broker::INTERFACE.name;
        let who = answers(cards, None).into_iter().filter(|(interface, _)| *interface != own);
        let who: Vec<String> = who
            .map(|(interface, card)| {
                format!("{interface} → {}{}", card.label, if card.mock { " (mock)" } else { "" })
            })
            .collect();
        let known: Vec<&str> = contexts(cards).into_iter().collect();
        tracing::warn!(
            "no context is set: {}; --context or `brahman context NAME` sets one of: {}",
            who.join(", "),
            known.join(", ")
        );
    }

    /// The context as it is now: as it was set by hand, else as init was started.
    fn present_context(&self) -> Option<String> {
        sockets::context_by_hand(&self.options.mesh).unwrap_or_else(|| self.options.context.clone())
    }

    fn take(&mut self, LoadedCards { cards, origins }: LoadedCards) {
        self.origins = origins;
        let with_socket = |card: Card| {
            let socket = wire_path(&socket_path(&card, &self.options.mesh));
            (card, socket)
        };
        let cards = cards.into_iter().map(with_socket).collect();
        self.apply(Event::Cards(cards));
    }

    /// The table as others see it.
    fn records(&self) -> Vec<ModuleRecord> {
        let mut records = self.state.records(self.now());
        for record in &mut records {
            record.origin = self.origins.get(&record.card.id).cloned();
        }
        records
    }

    fn publish(&mut self) {
        let modules = self.records();
        self.drains.retain(|session, _| self.state.has_session(session));
        let last = Arc::clone(&self.table.borrow());
        if alike(&last.modules, &modules) {
            return;
        }
        let ready = modules.iter().filter(|m| m.state == ModuleState::Ready).count();
        let failed = modules.iter().filter(|m| m.state == ModuleState::Failed).count();
        self.mouth
            .say(&format!("STATUS={ready} of {} modules ready, {failed} failed", modules.len()));
        // The mesh is up once its socket is answered; modules come and go behind it.
        let answering = modules.iter().any(|m| {
            m.state == ModuleState::Ready
                && m.card.offered_interfaces().any(|i| i == interface::broker::INTERFACE.name)
        });
        if answering && !self.said_ready {
            self.said_ready = true;
            self.mouth.say("READY=1");
            tracing::info!(socket = %self.options.mesh.display(), "the mesh is up");
        }
        self.table.send_replace(Arc::new(WatchOut { modules, generation: last.generation + 1 }));
    }

    /// Removes the sockets that this init bound, and no others.
    fn close(mut self) {
        self.lock.record(&[]);
        self.own.remove();
        for held in self.listeners.into_values() {
            drop(held.release());
        }
    }
}

/// Whether two tables differ only in how long things have lasted.
fn alike(a: &[ModuleRecord], b: &[ModuleRecord]) -> bool {
    let timeless = |m: &ModuleRecord| ModuleRecord { uptime_ms: 0, ..m.clone() };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| timeless(a) == timeless(b))
}

/// init and the broker hold a descriptor a module and two a client: ask for all that may be had.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}
