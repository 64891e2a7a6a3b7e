//! The loop: one owner of the state, every arm turns something that happened into an event.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use brahman_card::interface::init::WatchOut;
use brahman_card::{Card, Fault, ModuleRecord, ModuleState, interface};
use brahman_sidecar::place;
use brahman_sidecar::serve::{ServeOptions, serve};
use rustix::process::Signal;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cgroup::{Cgroups, shortfalls};
use crate::logs::Logs;
use crate::notify::{Ear, Mouth};
use crate::service::{InitService, Request, bad_card, no_such_module};
use crate::spawn::{Places, Process, orphans, spawn, tend_orphan};
use crate::state::{Effect, Event, Id, Millis, State};
use crate::{cards, sockets};

/// Requests that may wait for the loop; each is answered in microseconds.
const REQUESTS_WAITING: usize = 256;

/// What `brahman-init` was started with.
#[derive(Debug)]
pub struct Options {
    /// Mesh socket.
    pub mesh: PathBuf,
    /// Folder of Cards.
    pub cards: PathBuf,
    /// State directory.
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
    listeners: HashMap<Id, StdListener>,
    activated: Vec<StdListener>,
    processes: HashMap<Id, Process>,
    ends: JoinSet<(Id, u32)>,
    pumps: JoinSet<()>,
    sessions: JoinSet<String>,
    drains: HashMap<String, mpsc::Sender<()>>,
    session_count: u64,
    table: watch::Sender<Arc<WatchOut>>,
    mouth: Mouth,
    said_ready: bool,
    over: bool,
}

/// Runs the mesh until it is asked to end.
///
/// # Errors
/// If the mesh cannot be set up: another init, a socket that cannot be bound, an unreadable folder of Cards.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let _lock = sockets::lock(&options.mesh)?;
    place::private_dir(&options.state).with_context(|| format!("cannot create the state directory {}", options.state.display()))?;
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)).context("cannot become a subreaper")?;
    raise_file_limit();
    let places = Places {
        mesh: options.mesh.clone(),
        init: place::init_socket(&options.mesh),
        notify: options.mesh.with_file_name("notify.sock"),
        state: options.state.clone(),
        cache: place::cache_dir(),
        context: options.context.clone(),
    };
    // A context set by hand lives as long as this init, not longer.
    let _ = std::fs::remove_file(options.mesh.with_file_name("context"));
    let own = UnixListener::from_std(sockets::bind(&places.init)?)?;
    let ear = Ear::bind(&places.notify).with_context(|| format!("cannot bind {}", places.notify.display()))?;
    let activated = inherited().context("sockets passed by systemd")?;
    let (requests, mut inbox) = mpsc::channel(REQUESTS_WAITING);
    let (table, watching) = watch::channel(Arc::new(WatchOut { modules: Vec::new(), generation: 0 }));
    let logs = Logs::new();
    let closing = CancellationToken::new();
    let service = Arc::new(InitService { requests, table: watching, logs: Arc::clone(&logs) });
    let serving = tokio::spawn(serve(own, service, ServeOptions::named("init"), closing.clone()));

    let mut supervisor = Supervisor {
        options,
        state: State::default(),
        started: Instant::now(),
        places,
        cgroups: Cgroups::claim(),
        logs,
        listeners: HashMap::new(),
        activated,
        processes: HashMap::new(),
        ends: JoinSet::new(),
        pumps: JoinSet::new(),
        sessions: JoinSet::new(),
        drains: HashMap::new(),
        session_count: 0,
        table,
        mouth: Mouth::from_env(),
        said_ready: false,
        over: false,
    };
    supervisor.reload().map_err(|fault| anyhow::anyhow!("{}", fault.message()))?;

    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    let mut child = signal(SignalKind::child())?;
    let mut alive = Mouth::watchdog().map(tokio::time::interval);
    while !supervisor.over {
        let timer = supervisor.state.next_timer().map(|at| supervisor.started + Duration::from_millis(at));
        let timer = pin!(until(timer));
        let mut happened = tokio::select! {
            _ = term.recv() => Happened::Event(Event::Shutdown),
            _ = int.recv() => Happened::Event(Event::Shutdown),
            _ = hup.recv() => Happened::Reload,
            _ = child.recv() => Happened::Children,
            Some(Ok((id, pid))) = supervisor.ends.join_next() => Happened::Ended(id, pid),
            Some(Ok(session)) = supervisor.sessions.join_next() => Happened::Event(Event::Detached { session }),
            Some(request) = inbox.recv() => Happened::Asked(request),
            Ok(word) = ear.hear() => Happened::Event(Event::Notified { pid: word.pid, ready: word.ready, stopping: word.stopping, status: word.status }),
            () = timer => Happened::Event(Event::Tick),
            () = tick(&mut alive) => Happened::Alive,
        };
        // Finished pumps leave the set here; they are never waited for.
        while supervisor.pumps.try_join_next().is_some() {}
        if let Happened::Ended(id, pid) = happened {
            happened = Happened::Event(supervisor.reap(id, pid));
        }
        supervisor.handle(happened);
    }
    supervisor.mouth.say("STOPPING=1");
    closing.cancel();
    let _ = tokio::time::timeout(Duration::from_millis(500), serving).await;
    supervisor.remove_sockets();
    Ok(())
}

/// Everything the loop wakes up for.
enum Happened {
    Event(Event),
    Asked(Request),
    Ended(Id, u32),
    Reload,
    Children,
    Alive,
}

impl Supervisor {
    fn now(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn handle(&mut self, happened: Happened) {
        match happened {
            Happened::Event(event) => self.apply(event),
            Happened::Asked(request) => self.answer(request),
            Happened::Reload => {
                if let Err(fault) = self.reload() {
                    tracing::error!("reload refused: {}", fault.message());
                }
            }
            Happened::Children => {
                for pid in self.orphans() {
                    tend_orphan(pid, None);
                }
            }
            Happened::Alive => self.mouth.say("WATCHDOG=1"),
            Happened::Ended(..) => {}
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
        self.publish();
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Bind { id } => {
                let (socket, card) = self.state.entry(&id).map(|e| (PathBuf::from(e.socket()), e.card().clone()))?;
                let short = shortfalls(&card, self.cgroups.as_ref());
                if let Some(entry) = self.state.entry_mut(&id) {
                    entry.set_shortfalls(short);
                }
                match self.bind(&socket) {
                    Ok(listener) => {
                        self.listeners.insert(id, listener);
                        None
                    }
                    Err(error) => Some(Event::SpawnFailed { id, reason: error.to_string(), permanent: true }),
                }
            }
            Effect::Spawn { id } => Some(self.spawn(id)),
            Effect::Terminate { id } => {
                if let Some(process) = self.processes.get(&id) {
                    process.signal(Signal::TERM);
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
                if let Some(listener) = self.listeners.remove(&id)
                    && let Some(path) = listener.local_addr().ok().and_then(|a| a.as_pathname().map(Path::to_owned))
                {
                    let _ = std::fs::remove_file(path);
                }
                None
            }
            Effect::Exit => {
                self.over = true;
                None
            }
        }
    }

    fn bind(&mut self, socket: &Path) -> Result<StdListener, sockets::SocketError> {
        let passed = |l: &StdListener| l.local_addr().is_ok_and(|a| a.as_pathname() == Some(socket));
        match self.activated.iter().position(passed) {
            Some(at) => Ok(self.activated.swap_remove(at)),
            None => sockets::bind(socket),
        }
    }

    fn spawn(&mut self, id: Id) -> Event {
        let Some(card) = self.state.entry(&id).map(|e| e.card().clone()) else {
            return Event::Tick;
        };
        let Some(listener) = self.listeners.get(&id) else {
            return Event::SpawnFailed { id, reason: "its socket could not be bound".into(), permanent: true };
        };
        let started = match spawn(&card, listener, &self.places, self.cgroups.as_ref()) {
            Ok(started) => started,
            Err(error) => {
                tracing::error!(label = %card.label, "{}", error.reason);
                return Event::SpawnFailed { id, reason: error.reason, permanent: error.permanent };
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
                return Event::SpawnFailed { id, reason: format!("its end could not be watched: {error}"), permanent: false };
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

    fn socket_of(&self, card: &Card) -> String {
        let path = if card.offered_interfaces().any(|i| i == interface::broker::INTERFACE.name) {
            self.options.mesh.clone()
        } else {
            self.options.mesh.with_file_name("").join(card.socket_name())
        };
        path.display().to_string()
    }

    fn reload(&mut self) -> Result<brahman_card::interface::init::ReloadOut, Fault> {
        let folder = &self.options.cards;
        let (cards, errors) = cards::read(folder).map_err(|e| bad_card(&format!("cannot read the Cards in {}: {e}", folder.display())))?;
        if let Some(first) = errors.first() {
            for error in &errors {
                tracing::error!("{error}");
            }
            let more = if errors.len() > 1 { format!(" (and {} more)", errors.len() - 1) } else { String::new() };
            return Err(bad_card(&format!("{first}{more}; nothing was changed")));
        }
        if cards.is_empty() {
            return Err(bad_card(&format!("no Cards in {}: expected *.toml or *.json files, see --cards", folder.display())));
        }
        let cards = cards.into_iter().map(|card| (card.clone(), self.socket_of(&card))).collect();
        // The first reading is part of starting: READY is said once the broker answers, not before.
        let again = self.said_ready;
        if again {
            self.mouth.say("RELOADING=1");
        }
        self.apply(Event::Cards(cards));
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
                let known = self.state.has_label(&label);
                if known {
                    self.apply(Event::Command { label: label.clone(), command });
                }
                let _ = reply.send(if known { Ok(()) } else { Err(no_such_module(&label)) });
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
                    let _ = reply.send(Err(Fault::new("org.brahman.Init.NoSuchSession", false, "no such session: attach first")));
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
                        let socket = self.socket_of(&card);
                        Event::Introduced { card, socket, session: session.clone(), pid: peer.pid.cast_unsigned() }
                    }
                    (None, Some(id)) if self.state.entry(&id).is_some_and(|e| e.pid().is_some()) => {
                        Event::Attached { id, session: session.clone() }
                    }
                    (None, id) => {
                        let why = format!("no running module has the id `{}`", id.unwrap_or_default());
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

    fn remove_sockets(&self) {
        let mut paths: Vec<PathBuf> = vec![self.places.init.clone(), self.places.notify.clone()];
        paths.extend(self.listeners.values().filter_map(|l| l.local_addr().ok()?.as_pathname().map(Path::to_owned)));
        for path in paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether two tables differ only in how long things have lasted.
fn alike(a: &[ModuleRecord], b: &[ModuleRecord]) -> bool {
    let timeless = |m: &ModuleRecord| ModuleRecord { uptime_ms: 0, ..m.clone() };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| timeless(a) == timeless(b))
}

fn inherited() -> std::io::Result<Vec<StdListener>> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut all = Vec::new();
    for i in 0..passed.len() {
        if let Some(listener) = passed.take_unix_listener(i)? {
            listener.set_nonblocking(true)?;
            all.push(listener);
        }
    }
    Ok(all)
}

/// init and the broker hold a descriptor a module and two a client: ask for all that may be had.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: now.maximum, maximum: now.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}
