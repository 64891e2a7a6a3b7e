//! The loop: one owner of the state, every arm turns something that happened into an event.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use brahman_card::card::{answers, contexts, unknown_context};
use brahman_card::interface::init::WatchOut;
use brahman_card::interface::init::error::NoSuchSession;
use brahman_card::{Card, Fault, ModuleRecord, ModuleState, interface};
use brahman_sidecar::place::cards::{may_attach, socket_path};
use brahman_sidecar::place::socket::SocketFile;
use brahman_sidecar::place::state::{StateLock, check_place};
use brahman_sidecar::serve::{ServeOptions, serve};
use brahman_sidecar::{Deadline, chain, place};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cgroup::{Cgroups, shortfalls};
use crate::logs::Logs;
use crate::notify::{Ear, Mouth, Word};
use crate::processes::{self, ProcessRecord};
use crate::service::{InitService, Request, bad_card, no_such_module, not_supervised};
use crate::setup::{Refusal, load, mesh_group, wire_path};
use crate::sockets::{self, HeldSocket, Lock, SocketError};
use crate::spawn::{Places, Process, admits_group, orphans, spawn, tend_orphan};
use crate::state::{Effect, Entry, Event, GRACE_MS, Id, Millis, State};

pub use crate::setup::{is_configuration, sweep};

/// Requests that may wait for the loop; each is answered in microseconds.
const REQUESTS_WAITING: usize = 256;

/// What `brahman-init` was started with.
#[derive(Debug)]
pub struct Options {
    /// Where the mesh socket is, or will be.
    pub mesh: PathBuf,
    /// Folders of Cards, the first before the others.
    pub cards: Vec<PathBuf>,
    /// Directory that holds what is kept.
    pub state: PathBuf,
    /// Context that the broker starts in.
    pub context: Option<String>,
}

struct Supervisor {
    options: Options,
    state: State,
    started: Instant,
    places: Places,
    cgroups: Option<Cgroups>,
    logs: Arc<Logs>,
    lock: Lock,
    own: SocketFile,
    listeners: HashMap<Id, HeldSocket>,
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
/// If the mesh cannot be set up: another init, a socket that cannot be bound, a Card or a context that is refused.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // Before anything is started: whoever ends this process from here on leaves nothing behind.
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    let mut child = signal(SignalKind::child())?;
    let mut lock = Lock::take(&options.mesh)?;
    let group = mesh_group(&options.mesh, &lock)?;
    let cgroup = Cgroups::folder()?;
    let cards = load(&options.cards, &options.mesh).map_err(|fault| Refusal(fault.message().to_owned()))?;
    if let Some(why) = options.context.as_deref().and_then(|name| unknown_context(name, &cards)) {
        return Err(Refusal(why).into());
    }
    lock.forget_context(&options.mesh)?;
    check_place(&options.state)?;
    place::private_dir(&options.state).with_context(|| format!("cannot create the state directory {}", options.state.display()))?;
    // Held until this function returns: nothing of this mesh writes to the state after that.
    let state_lock = StateLock::take(&options.state, &options.mesh)?;
    set_child_subreaper(true).context("cannot become a subreaper")?;
    raise_file_limit();
    let former = std::mem::take(&mut lock.former);
    // Those of the mesh that had the state before, on whatever socket, write to it as well.
    let on_state = state_lock.former.as_ref().map(|holder| (holder.socket.as_path(), options.state.as_path()));
    let left = processes::left_behind(&former, &options.mesh, on_state);
    tokio::select! {
        _ = processes::end(left, Duration::from_millis(GRACE_MS)) => {}
        _ = term.recv() => return Ok(()),
        _ = int.recv() => return Ok(()),
    }
    lock.record(&[]);
    let places = Places {
        mesh: options.mesh.clone(),
        init: place::init_socket(&options.mesh),
        notify: options.mesh.with_file_name("notify.sock"),
        state: options.state.clone(),
        cache: place::cache_dir(),
        context: options.context.clone(),
        group,
    };
    let passed = sockets::passed().context("sockets passed by systemd")?;
    for held in passed.iter().filter(|held| group.is_some_and(|gid| !held.admits(gid))) {
        tracing::warn!(socket = %held.path.display(), "the group cannot connect: set SocketGroup= and SocketMode=0660 in brahman.socket");
    }
    // What lies at the mesh socket's own path concerns the mesh, not the broker alone.
    if !passed.iter().any(|held| held.is_at(&options.mesh)) {
        place::socket::examine(&options.mesh).map_err(SocketError::from)?;
    }
    let (listener, own) = place::socket::listen(&places.init, group).map_err(SocketError::from)?;
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let ear = Ear::bind(&places.notify).map_err(SocketError::from)?;
    let (requests, mut inbox) = mpsc::channel(REQUESTS_WAITING);
    let (table, watching) = watch::channel(Arc::new(WatchOut { modules: Vec::new(), generation: 0 }));
    let logs = Arc::new(Logs::default());
    let closing = CancellationToken::new();
    let service = Arc::new(InitService { requests, table: watching, logs: Arc::clone(&logs) });
    let serving = tokio::spawn(serve(listener, service, ServeOptions::named("init"), closing.clone()));

    let mut supervisor = Supervisor {
        options,
        state: State::default(),
        started: Instant::now(),
        places,
        cgroups: cgroup.and_then(Cgroups::claim),
        logs,
        lock,
        own,
        listeners: HashMap::new(),
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
    supervisor.tell_answers(&cards);
    supervisor.take(cards);
    for held in &supervisor.passed {
        tracing::warn!(socket = %held.path.display(), "a socket was passed that no Card has: whoever connects to it waits for ever");
    }

    let mut alive = Mouth::watchdog().map(tokio::time::interval);
    while !supervisor.over {
        let timer = supervisor.state.next_timer().map(|at| supervisor.started + Duration::from_millis(at));
        let timer = pin!(Deadline::from(timer).passed());
        let mut happened = tokio::select! {
            _ = term.recv() => Occurrence::Event(Event::Shutdown),
            _ = int.recv() => Occurrence::Event(Event::Shutdown),
            _ = hup.recv() => Occurrence::Reload,
            _ = child.recv() => Occurrence::Children,
            Some(Ok((id, pid))) = supervisor.ends.join_next() => Occurrence::Ended(id, pid),
            Some(Ok(session)) = supervisor.sessions.join_next() => Occurrence::Event(Event::Detached { session }),
            Some(request) = inbox.recv() => Occurrence::Asked(request),
            Ok(word) = ear.hear() => Occurrence::Heard(word),
            () = timer => Occurrence::Event(Event::Tick),
            () = tick(&mut alive) => Occurrence::Alive,
        };
        // Finished pumps leave the set here; they are never waited for.
        while supervisor.pumps.try_join_next().is_some() {}
        if let Occurrence::Ended(id, pid) = happened {
            happened = Occurrence::Event(supervisor.reap(id, pid));
        }
        supervisor.handle(happened);
    }
    supervisor.mouth.say("STOPPING=1");
    closing.cancel();
    let _ = tokio::time::timeout(Duration::from_millis(500), serving).await;
    ear.close();
    supervisor.close();
    Ok(())
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

    /// A word by sd_notify counts for the module that its sender belongs to, be it a child of a wrapper.
    fn hear(&mut self, word: Word) {
        let known: BTreeSet<u32> = self.state.running().map(|(_, pid)| pid).collect();
        match processes::owner(word.pid, &known) {
            Some(pid) => self.apply(Event::Notified { pid, ready: word.ready, stopping: word.stopping, status: word.status }),
            None => {
                tracing::warn!(pid = word.pid, ready = word.ready, "a notification came from a process of no module");
                if word.ready {
                    self.apply(Event::Stranger { pid: word.pid });
                }
            }
        }
    }

    /// Steps the state, carries out the effects (which may bring events of their own), and publishes.
    fn apply(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let now = self.now();
            for effect in self.state.step(event, now) {
                events.extend(self.carry_out(effect));
            }
        }
        self.note_processes();
        self.publish();
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
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
                        Some(Event::SpawnFailed { id, reason: format!("{error:#}"), permanent: true })
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
        // A Card with another id may have followed one of the same socket, whose module is still ending.
        let holder = self.listeners.iter().find(|(holder, held)| *holder == id || held.path == path).map(|(holder, _)| holder.clone());
        let held = match holder.and_then(|holder| self.listeners.remove(&holder)) {
            Some(held) => held,
            None => match self.passed.iter().position(|held| held.is_at(&path)) {
                Some(at) => self.passed.swap_remove(at),
                None => return Ok(HeldSocket::bind(&path, group)?),
            },
        };
        held.guard(group).with_context(|| format!("cannot set who may connect to {}", path.display()))?;
        Ok(held)
    }

    fn spawn(&mut self, id: Id) -> Event {
        let Some(card) = self.state.entry(&id).map(|e| e.card().clone()) else {
            return Event::Tick;
        };
        // A person may have moved away what was in the socket's place.
        let held = match self.listeners.remove(&id).map_or_else(|| self.bind(&id, &card), Ok) {
            Ok(held) => held,
            Err(error) => return Event::SpawnFailed { id, reason: format!("{error:#}"), permanent: true },
        };
        let started = spawn(&card, &held.listener, &self.places, self.cgroups.as_ref());
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
        let pipes = [("stdout", started.stdout.map(OwnedFd::from)), ("stderr", started.stderr.map(OwnedFd::from))];
        for (stream, pipe) in pipes {
            if let Some(pipe) = pipe {
                self.pumps.spawn(Arc::clone(&self.logs).pump(card.label.to_string(), pid, stream, pipe));
            }
        }
        #[expect(deprecated, reason = "an OwnedFd stays open as long as it is held; the replacement is unsafe code")]
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
                return Event::SpawnFailed { id, reason: format!("its end could not be watched: {}", chain(&error)), permanent: false };
            }
        }
        self.processes.insert(id.clone(), started.process);
        Event::Spawned { id, pid }
    }

    /// A process has ended: sweep its group, reap it, and deal with what it left behind.
    fn reap(&mut self, id: Id, pid: u32) -> Event {
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

    fn orphans(&self) -> Vec<u32> {
        orphans(|pid| self.processes.values().any(|p| p.pid == pid))
    }

    /// Notes for the next init which processes run, if they are others than before.
    fn note_processes(&mut self) {
        let running: Vec<u32> = self.state.running().map(|(_, pid)| pid).collect();
        if running != self.noted {
            let recorded: Vec<ProcessRecord> = self.state.running().filter_map(|(label, pid)| ProcessRecord::now(label, pid)).collect();
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
        let who: Vec<String> =
            who.map(|(interface, card)| format!("{interface} → {}{}", card.label, if card.mock { " (mock)" } else { "" })).collect();
        let known: Vec<&str> = contexts(cards).into_iter().collect();
        tracing::warn!("no context is set: {}; --context or `brahman context NAME` sets one of: {}", who.join(", "), known.join(", "));
    }

    /// The context as it is now: as it was set by hand, else as init was started.
    fn present_context(&self) -> Option<String> {
        sockets::context_by_hand(&self.options.mesh).unwrap_or_else(|| self.options.context.clone())
    }

    fn take(&mut self, cards: Vec<Card>) {
        let with_socket = |card: Card| {
            let socket = wire_path(&socket_path(&card, &self.options.mesh));
            (card, socket)
        };
        let cards = cards.into_iter().map(with_socket).collect();
        self.apply(Event::Cards(cards));
    }

    fn reload(&mut self) -> Result<brahman_card::interface::init::ReloadOut, Fault> {
        let cards = load(&self.options.cards, &self.options.mesh)?;
        for attached in self.state.cards(true) {
            may_attach(attached, &cards, &self.options.mesh).map_err(|error| {
                bad_card(&format!("`{}` is attached by itself: {}; nothing was changed", attached.label, error.expected))
            })?;
        }
        let present = self.present_context();
        if let Some(why) = present.and_then(|name| unknown_context(&name, cards.iter().chain(self.state.cards(true)))) {
            let words = format!("{why}, and it is the present one: `brahman context` sets another first; nothing was changed");
            return Err(bad_card(&words));
        }
        // The first reading is part of starting: READY is said once the broker answers, not before.
        let again = self.said_ready;
        if again {
            self.mouth.say("RELOADING=1");
        }
        self.take(cards);
        if again {
            self.mouth.say("READY=1");
        }
        Ok(self.state.last_reload.clone())
    }

    fn answer(&mut self, request: Request) {
        // An asker that has hung up needs no answer; every `send` below may fail for that reason alone.
        match request {
            Request::List { reply } => drop(reply.send(self.state.records(self.now()))),
            Request::Command { label, command, reply } => {
                let outcome = match self.state.refusal(&label, command) {
                    _ if !self.state.has_label(&label) => Err(no_such_module(&label)),
                    Some(why) => Err(not_supervised(&label, &why)),
                    None => {
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
            Request::Warnings { card, reply } => drop(reply.send(shortfalls(&card, self.cgroups.as_ref()))),
            Request::Update { update, reply } => {
                if self.state.has_session(&update.session) {
                    self.apply(Event::Updated { update });
                    let _ = reply.send(Ok(()));
                } else {
                    let _ = reply.send(Err(Fault::of(&NoSuchSession {}, false, "no such session: attach first")));
                }
            }
            Request::Attach { card, id, peer, drain, gone, reply } => {
                self.session_count += 1;
                let session = format!("s{}", self.session_count);
                let event = match (card, id) {
                    (Some(card), _) => {
                        if self.state.entry(&card.id).is_some() {
                            let why = format!("a module with label `{}` and that socket is there already", card.label);
                            let _ = reply.send(Err(bad_card(&why)));
                            return;
                        }
                        if let Err(error) = may_attach(&card, self.state.cards(false), &self.options.mesh) {
                            let _ = reply.send(Err(bad_card(&chain(&error))));
                            return;
                        }
                        let socket = wire_path(&socket_path(&card, &self.options.mesh));
                        Event::Introduced { card, socket, session: session.clone(), pid: peer.pid.cast_unsigned() }
                    }
                    // Its own process, or one of its process's, or that of a Card whose module attaches by itself.
                    (None, Some(id)) if self.state.entry(&id).is_some_and(|e| is_of(e, peer.pid)) => {
                        Event::Attached { id, session: session.clone() }
                    }
                    (None, id) => {
                        let why = format!("no module has the id `{}` and runs as process {}", id.unwrap_or_default(), peer.pid);
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

    fn publish(&mut self) {
        let modules = self.state.records(self.now());
        self.drains.retain(|session, _| self.state.has_session(session));
        let last = Arc::clone(&self.table.borrow());
        if alike(&last.modules, &modules) {
            return;
        }
        let ready = modules.iter().filter(|m| m.state == ModuleState::Ready).count();
        let failed = modules.iter().filter(|m| m.state == ModuleState::Failed).count();
        self.mouth.say(&format!("STATUS={ready} of {} modules ready, {failed} failed", modules.len()));
        // The mesh is up once its socket is answered; modules come and go behind it.
        let answering = modules
            .iter()
            .any(|m| m.state == ModuleState::Ready && m.card.offered_interfaces().any(|i| i == interface::broker::INTERFACE.name));
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

/// Whether a process may speak for a module.
fn is_of(entry: &Entry, pid: i32) -> bool {
    match entry.pid() {
        Some(own) => processes::owner(pid.cast_unsigned(), &BTreeSet::from([own])).is_some(),
        None => !entry.is_started_here() && !entry.is_attached(),
    }
}

/// Whether two tables differ only in how long things have lasted.
fn alike(a: &[ModuleRecord], b: &[ModuleRecord]) -> bool {
    let timeless = |m: &ModuleRecord| ModuleRecord { uptime_ms: 0, ..m.clone() };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| timeless(a) == timeless(b))
}

/// init and the broker hold a descriptor a module and two a client: ask for all that may be had.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
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
