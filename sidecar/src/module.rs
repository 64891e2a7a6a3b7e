//! The life of a module's process: take the inherited socket, attach to init, report, serve, drain.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use brahman_sidecar::{Call, Module, ModuleError, Reply, Service, run};
//! # use brahman_card::{Fault, Interface};
//! # struct Echo;
//! # impl Service for Echo {
//! #     fn interfaces(&self) -> &'static [&'static Interface] { &[] }
//! #     async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> { Err(call.unknown()) }
//! # }
//! fn main() -> std::process::ExitCode {
//!     run("echo", async |module: Module| module.serve(Arc::new(Echo)).await)
//! }
//! ```

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use brahman_card::ModuleState;
use brahman_card::interface::init::{AttachIn, AttachOut, UpdateIn, method};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::client::{CallOptions, Connection, encode_method};
use crate::place;
use crate::place::state::Holder;
use crate::serve::{AcceptLimits, ServeOptions, Service, serve};

/// sysexits.h `EX_CONFIG`: init never retries it.
pub const EXIT_CONFIG: u8 = 78;
/// How long running calls may finish after SIGTERM, unless init says otherwise in
/// `BRAHMAN_GRACE_MS`.
const GRACE_DEFAULT: Duration = Duration::from_secs(5);
/// Updates that may wait for init: a handful a life.
const UPDATES_WAITING: usize = 16;

/// Why a module could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Something that no restart mends, in words that say all of it. Exit 78.
    #[error("{0}")]
    Config(String),
    /// Something that no restart mends: settings that make no sense, a model that is missing.
    /// Exit 78.
    #[error(transparent)]
    Refused(Box<dyn Error + Send + Sync>),
    /// What could not be done, and why no restart mends that. Exit 78.
    #[error("cannot {doing}")]
    Cannot {
        /// In the words that follow "cannot".
        doing: String,
        /// Cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Anything else. Exit 1, and init tries again.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

impl ModuleError {
    /// Something that no restart mends, which says so itself.
    #[must_use]
    pub fn refused(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(error.into())
    }

    /// What could not be done, in the words that follow "cannot", and why no restart mends that.
    #[must_use]
    pub fn cannot(
        doing: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Cannot { doing: doing.into(), source: source.into() }
    }
}

/// A process on the mesh.
#[derive(Debug)]
pub struct Module {
    label: String,
    listener: Option<UnixListener>,
    tcp: Vec<TcpListener>,
    updates: Option<mpsc::Sender<UpdateIn>>,
    /// Cancelled when the module is asked to finish.
    pub drain: CancellationToken,
    /// The mesh socket, for calling other modules.
    pub mesh: PathBuf,
    /// Directory for the module's own lasting state.
    pub state: PathBuf,
    /// Directory for what may be lost.
    pub cache: PathBuf,
}

/// Tells attributes of a module that is ready.
#[derive(Clone, Debug)]
pub struct Reporter {
    updates: Option<mpsc::Sender<UpdateIn>>,
    drain: CancellationToken,
}

impl Reporter {
    /// Tells all attributes anew, unless the module is to finish.
    pub async fn tell(&self, attributes: BTreeMap<String, String>) {
        if let Some(updates) = self.updates.as_ref().filter(|_| !self.drain.is_cancelled()) {
            let (state, attributes) = (Some(ModuleState::Ready), Some(attributes));
            // As in [`Module::report`].
            let _ = updates
                .send(UpdateIn { session: String::new(), state, reason: None, attributes })
                .await;
        }
    }
}

impl Module {
    /// Name of this module on the mesh.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What tells attributes that change while the module serves.
    #[must_use]
    pub fn reporter(&self) -> Reporter {
        Reporter { updates: self.updates.clone(), drain: self.drain.clone() }
    }

    /// Reports a state, with attributes that overlay the Card's.
    pub async fn report(
        &self,
        state: ModuleState,
        reason: Option<String>,
        attributes: BTreeMap<String, String>,
    ) {
        if let Some(updates) = &self.updates {
            let update = UpdateIn {
                session: String::new(),
                state: Some(state),
                reason,
                attributes: Some(attributes).filter(|a| !a.is_empty()),
            };
            // The receiver lives as long as the process; a full queue means init is busy, and
            // waiting is right.
            let _ = updates.send(update).await;
        }
    }

    /// Takes the listening socket, for a module that serves by itself.
    ///
    /// # Errors
    /// If it was taken before.
    pub fn take_listener(&mut self) -> Result<UnixListener, ModuleError> {
        self.listener
            .take()
            .ok_or_else(|| ModuleError::Config("the listening socket was taken already".into()))
    }

    /// Takes the listeners of the TCP addresses of its Card's `listen`, which a module serves by
    /// itself.
    pub fn take_tcp_listeners(&mut self) -> Vec<TcpListener> {
        std::mem::take(&mut self.tcp)
    }

    /// Reports ready and serves until drained.
    ///
    /// # Errors
    /// If the listening socket was taken before.
    pub async fn serve<S: Service>(self, service: Arc<S>) -> Result<(), ModuleError> {
        self.serve_with(service, BTreeMap::new()).await
    }

    /// [`Self::serve`], with attributes that overlay the Card's.
    ///
    /// # Errors
    /// If the listening socket was taken before.
    pub async fn serve_with<S: Service>(
        mut self,
        service: Arc<S>,
        attributes: BTreeMap<String, String>,
    ) -> Result<(), ModuleError> {
        let listener = self.take_listener()?;
        let mut options = ServeOptions::named(self.label.clone());
        if let Some(connections) = env_number("BRAHMAN_QUOTA_CONNECTIONS") {
            options.limits = AcceptLimits { connections };
        }
        self.report(ModuleState::Ready, None, attributes).await;
        serve(listener, service, options, self.drain.clone()).await;
        Ok(())
    }
}

/// Runs a module: sets up logs, socket, session and signals, hands over, and turns the outcome into
/// an exit code.
pub fn run<F>(name: &str, main: F) -> ExitCode
where
    F: AsyncFnOnce(Module) -> Result<(), ModuleError>,
{
    crate::telemetry::init();
    // One thread for I/O: a call costs no hand-over between threads. Work that takes long has
    // threads of its own.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(live(name, main));
    // Blocking work that cannot be interrupted must not hold the process up.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

async fn live<F>(name: &str, main: F) -> ExitCode
where
    F: AsyncFnOnce(Module) -> Result<(), ModuleError>,
{
    let label = env::var("BRAHMAN_LABEL").unwrap_or_else(|_| name.to_owned());
    let drain = CancellationToken::new();
    let (module, session) = match join(&label, &drain) {
        Ok(parts) => parts,
        Err(error) => {
            tracing::error!("{}", chain(&error));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let updates = module.updates.clone();
    let session = session.map(|session| tokio::spawn(session.keep(drain.clone())));
    let signals = tokio::spawn(drain_on_signal(drain.clone()));
    let grace =
        env_number("BRAHMAN_GRACE_MS").map_or(GRACE_DEFAULT, |ms| Duration::from_millis(ms as u64));
    let work = main(module);
    tokio::pin!(work);
    let outcome = tokio::select! {
        outcome = &mut work => outcome,
        () = async { drain.cancelled().await; tokio::time::sleep(grace).await } => {
            tracing::warn!("calls were still running after {grace:?}; ending without them");
            Ok(())
        }
    };
    let code = match &outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(ModuleError::Config(_) | ModuleError::Refused(_) | ModuleError::Cannot { .. }) => {
            ExitCode::from(EXIT_CONFIG)
        }
        Err(ModuleError::Failed(_)) => ExitCode::FAILURE,
    };
    if let Err(error) = outcome {
        let reason = chain(&error);
        tracing::error!("{reason}");
        if let Some(updates) = &updates {
            let failed = UpdateIn {
                state: Some(ModuleState::Failed),
                reason: Some(reason),
                ..UpdateIn::default()
            };
            let _ = updates.send(failed).await;
        }
    }
    drain.cancel();
    drop(updates);
    if let Some(session) = session {
        // The session ends by itself once its last update has left.
        let _ = tokio::time::timeout(Duration::from_secs(1), session).await;
    }
    signals.abort();
    code
}

async fn drain_on_signal(drain: CancellationToken) {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be handled; SIGTERM will end this process at once");
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    drain.cancel();
}

/// Takes what init passed on, or binds a socket of its own when run by hand.
fn join(label: &str, drain: &CancellationToken) -> Result<(Module, Option<Session>), ModuleError> {
    let mesh = place::mesh_socket();
    if env::var_os("BRAHMAN_INIT").is_none() {
        keep_off(&place::state_dir(), &mesh)?;
    }
    let mut inherited = listenfd::ListenFd::from_env();
    let mut tcp = Vec::new();
    for place in 1..inherited.len() {
        if let Some(listener) = inherited.take_tcp_listener(place)? {
            listener.set_nonblocking(true)?;
            tcp.push(TcpListener::from_std(listener)?);
        }
    }
    let listener = match inherited.take_unix_listener(0)? {
        Some(listener) => listener,
        None => bind_own(label)?,
    };
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let session = match (env::var_os("BRAHMAN_INIT"), env::var("BRAHMAN_CARD_ID")) {
        (Some(init), Ok(id)) => {
            let (sender, updates) = mpsc::channel(UPDATES_WAITING);
            Some((Session { init: init.into(), id, updates }, sender))
        }
        _ => None,
    };
    let (session, updates) =
        session.map_or((None, None), |(session, sender)| (Some(session), Some(sender)));
    let module = Module {
        label: label.to_owned(),
        listener: Some(listener),
        tcp,
        updates,
        drain: drain.clone(),
        mesh,
        state: place::state_dir(),
        cache: place::cache_dir(),
    };
    Ok((module, session))
}

/// Refuses to work by hand on the state of another mesh than the one that is called: both would
/// write to it.
fn keep_off(state: &Path, mesh: &Path) -> Result<(), ModuleError> {
    let own = std::path::absolute(mesh).unwrap_or_else(|_| mesh.to_owned());
    match Holder::of(state) {
        Some(Holder { pid, socket }) if socket != own => Err(ModuleError::Config(format!(
            "the state {} is that of the mesh on {}, whose brahman-init is process {pid}: set BRAHMAN_SOCKET to that, or BRAHMAN_STATE to \
             another folder",
            state.display(),
            socket.display()
        ))),
        _ => Ok(()),
    }
}

fn bind_own(label: &str) -> Result<StdListener, ModuleError> {
    let path = place::mesh_socket().with_file_name(format!("{label}.sock"));
    if let Some(folder) = path.parent() {
        place::run_folder(folder).map_err(ModuleError::refused)?;
    }
    // No Card was read, so nobody but the owner is let in.
    let (listener, _file) = place::socket::listen(&path, None).map_err(ModuleError::refused)?;
    tracing::info!(socket = %path.display(), "not started by brahman-init: serving alone");
    Ok(listener)
}

fn env_number(name: &str) -> Option<usize> {
    env::var(name).ok()?.parse().ok()
}

/// The module's side of `Attach` and `Update`.
struct Session {
    init: PathBuf,
    id: String,
    updates: mpsc::Receiver<UpdateIn>,
}

impl Session {
    /// Keeps a session with init: attaches, forwards updates, obeys a drain. If init dies, its
    /// children are told by a signal; if init only lost the session, it is taken up again with the
    /// last state repeated.
    async fn keep(mut self, drain: CancellationToken) {
        let mut last: Option<UpdateIn> = None;
        loop {
            match self.once(&drain, &mut last).await {
                Ok(()) => return,
                Err(error) => tracing::warn!("the session with init ended: {}", chain(&error)),
            }
            if drain.is_cancelled() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn once(
        &mut self,
        drain: &CancellationToken,
        last: &mut Option<UpdateIn>,
    ) -> Result<(), crate::ClientError> {
        let options = CallOptions::default();
        let mut session = Connection::connect(&self.init).await?;
        let attach = AttachIn { card: None, id: Some(self.id.clone()) };
        session.send(&encode_method::<method::Attach>(&attach, &options, true, false)?).await?;
        let hello: AttachOut = session.receive().await?.typed()?.value;
        let mut speak = Connection::connect(&self.init).await?;
        if let Some(update) = last.as_ref() {
            let update = UpdateIn { session: hello.session.clone(), ..update.clone() };
            speak.call_method::<method::Update>(&update).await?;
        }
        // The beat comes from the one thread that does the module's I/O, so it proves that calls
        // are still taken. Three a period: one may be late and one may be lost.
        let mut beats = env_number("WATCHDOG_USEC")
            .filter(|us| *us >= 3)
            .map(|us| tokio::time::interval(Duration::from_micros(us as u64 / 3)));
        loop {
            let update = tokio::select! {
                biased;
                update = self.updates.recv() => match update {
                    Some(update) => { *last = Some(update.clone()); update }
                    None => return Ok(()),
                },
                word = session.receive() => {
                    if word?.typed::<AttachOut>()?.value.drain {
                        drain.cancel();
                    }
                    continue;
                }
                () = beat(&mut beats) => UpdateIn::default(),
            };
            let update = UpdateIn { session: hello.session.clone(), ..update };
            speak.call_method::<method::Update>(&update).await?;
        }
    }
}

async fn beat(beats: &mut Option<tokio::time::Interval>) {
    match beats {
        Some(beats) => drop(beats.tick().await),
        None => std::future::pending().await,
    }
}
