//! The broker itself: finds a target for each call. What it answers by itself is in `own`.

mod own;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::card::{Access, unknown_context};
use brahman_card::interface::WireError as _;
use brahman_card::interface::profiles::{self, PreloadIn};
use brahman_card::interface::service::DescriptionIn;
use brahman_card::names::base_of;
use brahman_card::wire::fault::Fault;
use brahman_card::wire::parameters;
use brahman_card::{ModuleRecord, ModuleState, interface};
use brahman_sidecar::{ClientError, Connection, Peer, chain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::health::{Outcome, RetryBudget};
use crate::matching::{Ask, Ranking, elsewhere, if_woken, leads_asleep, rank};
use crate::outgoing::Outgoing;
use crate::provider::{Backend, Provider, Providers, allows, cheaper};
use crate::quarantine::Quarantine;
use crate::table::{ContextFile, Table};

/// Answers to one (interface, context, asker) kept until the table changes.
const ROUTES_MAX: usize = 1024;

type RouteKey = (String, Option<String>, Option<BTreeMap<String, String>>, Option<String>);

/// How long init may take to say that a process has ended: it is told by the kernel at once. One
/// that runs is not waited for.
const FATE_WAIT: Duration = Duration::from_millis(100);

/// So often a call has a module loaded that was unloaded for resting: it may be so again before the
/// call gets there, and not for ever.
const WAKES_MAX: u32 = 3;
/// How long the table may be behind what the profile service has done.
const WOKEN_WAIT: Duration = Duration::from_secs(1);

/// What became of a provider that hung up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its process is there: it only hung up.
    Lives,
    /// It was stopped, restarted or replaced.
    Ordered,
    /// Its process ended by itself.
    Died,
    /// Somebody killed it, or the system did for want of memory.
    Killed,
}

/// Where a call goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) id: String,
    label: String,
    socket: PathBuf,
    incarnation: u64,
    /// Ends of its process that nobody had ordered when it was chosen, by itself and by SIGKILL.
    deaths: u64,
    kills: u64,
    /// `None` for init, which is no module.
    pub(crate) provider: Option<Arc<Provider>>,
    declared: Vec<String>,
    /// Whether it is a mock.
    pub(crate) mock: bool,
    /// Whether members of the mesh's group may call it.
    for_group: bool,
    /// Whether it is told who calls, and the other additions with it.
    pub(crate) wants_uid: bool,
}

impl Target {
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    pub(crate) fn note(&self, outcome: Outcome, took: Duration) {
        if let Some(provider) = &self.provider {
            provider.health().note(outcome, took, Instant::now());
        }
    }

    /// Whether polling for its answer pays.
    pub(crate) fn answers_at_once(&self) -> bool {
        self.provider.as_ref().is_some_and(|provider| provider.answers_at_once())
    }

    /// A connection, used before or new.
    pub(crate) async fn connect(&self, is_repeatable: bool) -> io::Result<Backend> {
        match &self.provider {
            Some(provider) => provider.connect(&self.socket, self.incarnation, is_repeatable).await,
            None => self.dial().await,
        }
    }

    /// A new connection.
    pub(crate) async fn dial(&self) -> io::Result<Backend> {
        Backend::dial(&self.socket).await
    }

    pub(crate) fn keep(&self, backend: Backend) {
        if let Some(provider) = &self.provider {
            provider.keep(backend, self.incarnation);
        }
    }

    /// Whether a method may be called again after a failure: by the shipped interface, else by the
    /// Card.
    pub(crate) fn idempotent(&self, interface: &str, method: &str) -> bool {
        interface::known(interface).is_some_and(|i| i.is_idempotent(method))
            || self.declared.iter().any(|m| m == method)
    }
}

/// A route as found in one table: replicas of the best label, and what came after them.
#[derive(Clone, Debug)]
struct FoundRoute {
    ranking: Arc<Ranking>,
    targets: Arc<[Arc<Target>]>,
    /// Whether one that may only have been unloaded would lead in the place of another model.
    is_leader_asleep: bool,
}

/// Routes found in one table: they hold as long as it does.
type RouteCache = (Option<Arc<Table>>, HashMap<RouteKey, FoundRoute>);

/// The broker.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) table: watch::Sender<Arc<Table>>,
    pub(crate) drain: CancellationToken,
    pub(crate) init: PathBuf,
    pub(crate) context_file: ContextFile,
    pub(crate) providers: Providers,
    pub(crate) quarantine: Quarantine,
    calls: AtomicU64,
    budget: Mutex<RetryBudget>,
    routes: Mutex<RouteCache>,
    own_uid: u32,
}

impl Broker {
    pub(crate) fn new(
        table: watch::Sender<Arc<Table>>,
        drain: CancellationToken,
        init: PathBuf,
        context_file: ContextFile,
    ) -> Self {
        Self {
            table,
            drain,
            init,
            context_file,
            providers: Providers::default(),
            quarantine: Quarantine::default(),
            calls: AtomicU64::new(1),
            budget: Mutex::default(),
            routes: Mutex::default(),
            own_uid: rustix::process::geteuid().as_raw(),
        }
    }

    pub(crate) fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a call to a provider, used once.
    pub(crate) fn next_number(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// The provider for a call, waiting for one that is on its way.
    pub(crate) async fn find(
        &self,
        call: &Outgoing,
        peer: Peer,
        avoid: Option<&str>,
        until: Instant,
    ) -> Result<Arc<Target>, Fault> {
        if call.interface == interface::init::INTERFACE.name {
            let socket = self.init.clone();
            let (id, label) = ("init".into(), "init".into());
            return Ok(Arc::new(Target {
                id,
                label,
                socket,
                incarnation: 0,
                deaths: 0,
                kills: 0,
                provider: None,
                declared: Vec::new(),
                mock: false,
                for_group: true,
                wants_uid: true,
            }));
        }
        let mut changes = self.table.subscribe();
        let mut wakes = 0;
        loop {
            let table = Arc::clone(&changes.borrow_and_update());
            let context = call.context.as_deref().or(table.context.as_deref());
            self.check_context(&table, call.context.as_deref())?;
            // `GetInterfaceDescription` of somebody's interface goes to whoever offers it.
            let flow = if call.interface == interface::service::INTERFACE.name {
                described(call)?
            } else {
                call.interface.clone()
            };
            let found = self.route(&table, &flow, context, call.require.as_ref(), peer);
            let require = call.require.as_ref();
            let ask = Ask { flow: &flow, context, require, asker: asker_of(&table, peer) };
            if found.is_leader_asleep && wakes < WAKES_MAX {
                wakes += 1;
                if self.wake_leading(&table, &ask, until).await? {
                    let _ = tokio::time::timeout(WOKEN_WAIT, changes.changed()).await;
                    continue;
                }
            }
            if let Some(target) = choose(&found, avoid) {
                if !target.for_group && !self.administers(peer.uid) {
                    let why = format!(
                        "`{}` is for uid {} only: its Card does not say access = \"group\"",
                        target.label, self.own_uid
                    );
                    return Err(Fault::permission_denied(format!("uid {}: {why}", peer.uid)));
                }
                return Ok(target);
            }
            if !found.ranking.candidates.iter().any(|c| c.refused.is_none()) {
                let woken = if wakes < WAKES_MAX {
                    wake(&self.init, &table, &ask, until).await
                } else {
                    Ok(false)
                };
                wakes += 1;
                match woken {
                    Ok(true) => {
                        // init's table may be ahead of ours by a moment.
                        let _ = tokio::time::timeout(WOKEN_WAIT, changes.changed()).await;
                        continue;
                    }
                    // While it was waited for another may have come, after a switch of profiles.
                    Err(_) if changes.has_changed().unwrap_or(false) => continue,
                    Err(fault) => return Err(fault),
                    Ok(false) => {}
                }
                return Err(
                    match found.ranking.candidates.is_empty() && interface::known(&flow).is_none() {
                        true => Fault::interface_not_found(&flow),
                        false => Fault::no_provider(&flow, context, &found.ranking.refusals())
                            .adding(&elsewhere(&table.modules, &ask)),
                    },
                );
            }
            let waiting = tokio::time::timeout_at(until.into(), changes.changed()).await;
            if waiting.is_err() {
                let label = found
                    .ranking
                    .eligible()
                    .first()
                    .map(|c| c.matched.label.clone())
                    .unwrap_or_default();
                return Err(Fault::deadline_exceeded(format!(
                    "waiting for `{label}` to become ready"
                )));
            }
        }
    }

    /// Who else may answer a call that a provider has declined: the next one that is ready, is of
    /// the same kind (what a real one cannot answer is not made up by a mock), and has not declined
    /// it, too.
    pub(crate) fn another(
        &self,
        call: &Outgoing,
        peer: Peer,
        from: &Target,
        declined: &[String],
    ) -> Option<Arc<Target>> {
        let table = Arc::clone(&self.table.borrow());
        let context = call.context.as_deref().or(table.context.as_deref());
        let found = self.route(&table, &call.interface, context, call.require.as_ref(), peer);
        let may = |target: &&Arc<Target>| {
            !declined.contains(&target.id)
                && target.mock == from.mock
                && (target.for_group || self.administers(peer.uid))
                && target.provider.as_ref().is_none_or(|provider| allows(provider))
        };
        let chosen = Arc::clone(found.targets.iter().find(may)?);
        if let Some(provider) = &chosen.provider {
            provider.health().begin(Instant::now());
        }
        Some(chosen)
    }

    /// What became of a provider that hung up, by init's word, which takes a moment.
    pub(crate) async fn fate(&self, target: &Target) -> Fate {
        if target.provider.is_none() {
            return Fate::Lives;
        }
        let known = |table: &Arc<Table>| match table.modules.iter().find(|m| m.card.id == target.id)
        {
            None => Some(Fate::Ordered),
            Some(m) if m.deaths.unwrap_or(0) > target.deaths => Some(Fate::Died),
            Some(m) if m.kills.unwrap_or(0) > target.kills => Some(Fate::Killed),
            Some(m) if m.incarnation != target.incarnation || m.state != ModuleState::Ready => {
                Some(Fate::Ordered)
            }
            Some(_) => None,
        };
        let mut table = self.table.subscribe();
        let now = Arc::clone(&table.borrow());
        if known(&now).is_none()
            && now.modules.iter().any(|m| m.card.id == target.id && is_running(m.pid))
        {
            return Fate::Lives;
        }
        let moved =
            tokio::time::timeout(FATE_WAIT, table.wait_for(|table| known(table).is_some())).await;
        moved.ok().and_then(Result::ok).and_then(|table| known(&table)).unwrap_or(Fate::Lives)
    }

    /// Why a target will never answer, if the table says so.
    pub(crate) fn gone(&self, target: &Target) -> Option<String> {
        target.provider.as_ref()?;
        let table = Arc::clone(&self.table.borrow());
        match table.modules.iter().find(|m| m.card.id == target.id) {
            None => Some("left the mesh".into()),
            Some(m) if matches!(m.state, ModuleState::Failed | ModuleState::Stopped) => {
                Some(format!(
                    "is {}{}",
                    m.state.as_str(),
                    m.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default()
                ))
            }
            Some(_) => None,
        }
    }

    /// Whether another life of a target's than the one that was chosen is ready.
    pub(crate) fn is_next_life(&self, target: &Target) -> bool {
        let table = Arc::clone(&self.table.borrow());
        let other = |m: &ModuleRecord| {
            m.card.id == target.id
                && m.incarnation != target.incarnation
                && m.state == ModuleState::Ready
        };
        target.provider.is_some() && table.modules.iter().any(other)
    }

    fn route(
        &self,
        table: &Arc<Table>,
        flow: &str,
        context: Option<&str>,
        require: Option<&BTreeMap<String, String>>,
        peer: Peer,
    ) -> FoundRoute {
        let ask = Ask { flow, context, require, asker: asker_of(table, peer) };
        let key = route_key(&ask);
        let mut cache = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if !cache.0.as_ref().is_some_and(|of| Arc::ptr_eq(of, table)) || cache.1.len() >= ROUTES_MAX
        {
            self.providers.retain(&table.modules);
            *cache = (Some(Arc::clone(table)), HashMap::new());
        }
        if let Some(found) = cache.1.get(&key) {
            return found.clone();
        }
        let ranking = rank(&table.modules, &ask);
        let targets = ranking
            .eligible()
            .iter()
            .filter(|c| c.matched.state == ModuleState::Ready && !ranking.waits())
            .map(|c| Arc::new(self.target(&table.modules[c.index], flow)));
        let found = FoundRoute {
            targets: targets.collect(),
            is_leader_asleep: leads_asleep(&table.modules, &ask, &ranking),
            ranking: Arc::new(ranking),
        };
        cache.1.insert(key, found.clone());
        found
    }

    /// Has the one that leads loaded, where it was unloaded until it is called. False if it was
    /// not, or cannot be: then another model answers, and says so, until the table changes.
    async fn wake_leading(
        &self,
        table: &Arc<Table>,
        ask: &Ask<'_>,
        until: Instant,
    ) -> Result<bool, Fault> {
        let is_woken = match wake(&self.init, table, ask, until).await {
            Err(fault) if fault.name == interface::broker::error::DeadlineExceeded::NAME => {
                return Err(fault);
            }
            Err(fault) => {
                tracing::info!("what leads for {} is not loaded: {fault}", ask.flow);
                false
            }
            Ok(is_woken) => is_woken,
        };
        if !is_woken {
            let mut cache = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
            if cache.0.as_ref().is_some_and(|of| Arc::ptr_eq(of, table))
                && let Some(found) = cache.1.get_mut(&route_key(ask))
            {
                found.is_leader_asleep = false;
            }
        }
        Ok(is_woken)
    }

    fn target(&self, module: &ModuleRecord, flow: &str) -> Target {
        let named = |ty: &brahman_card::card::FlowType| {
            matches!(
                ty,
                brahman_card::card::FlowType::Interface { name } if name == flow
            )
        };
        let declared = module
            .card
            .flow
            .output
            .iter()
            .find(|f| named(&f.ty))
            .map(|f| f.idempotent.clone())
            .unwrap_or_default();
        Target {
            id: module.card.id.clone(),
            label: module.card.label.to_string(),
            socket: self.init.with_file_name("").join(&module.socket),
            incarnation: module.incarnation,
            deaths: module.deaths.unwrap_or(0),
            kills: module.kills.unwrap_or(0),
            provider: Some(self.providers.of(module)),
            declared,
            mock: module.card.mock,
            for_group: module.card.access == Access::Group,
            wants_uid: module.card.wants_uid,
        }
    }

    /// Whether a user may change what is everybody's.
    pub(crate) fn administers(&self, uid: u32) -> bool {
        uid == self.own_uid || uid == 0
    }

    /// Whether a client is a module whose word on its own callers is taken, as its Card says.
    pub(crate) fn delegates(&self, peer: Peer) -> bool {
        self.administers(peer.uid)
            && asker_of(&self.table.borrow(), peer).is_some_and(|module| module.card.delegate_uid)
    }

    /// A context that is asked for by name must be one that a Card names, or mocks would answer in
    /// silence.
    fn check_context(&self, table: &Table, context: Option<&str>) -> Result<(), Fault> {
        // Before init's first word nobody knows what there is; then nothing is served either.
        let asked = context
            .filter(|_| !table.modules.is_empty())
            .filter(|name| table.context.as_deref() != Some(name));
        match asked.and_then(|name| unknown_context(name, table.modules.iter().map(|m| &m.card))) {
            Some(why) => Err(Fault::invalid_parameter("context", why)),
            None => Ok(()),
        }
    }
}

/// Of the ready providers: the first whose breaker is closed, among replicas of its label the
/// cheaper of two; never nothing while one is ready. The one just lost is taken last.
fn choose(found: &FoundRoute, avoid: Option<&str>) -> Option<Arc<Target>> {
    let open = |target: &&Arc<Target>| {
        Some(target.id.as_str()) != avoid && target.provider.as_ref().is_none_or(|p| allows(p))
    };
    let targets = &found.targets;
    let best = targets.iter().find(open).or_else(|| targets.first())?;
    let is_replica = |target: &&Arc<Target>| {
        base_of(&target.label) == base_of(&best.label) && target.id != best.id
    };
    let replicas: Vec<&Arc<Target>> = targets.iter().filter(is_replica).filter(open).collect();
    // Two at random would be the textbook's; with the load in the cost, first against any other
    // does the same.
    let pick = replicas.get(spread(replicas.len())).copied();
    let chosen = match (pick, &best.provider) {
        (Some(other), Some(own)) if other.provider.as_ref().is_some_and(|p| !cheaper(own, p)) => {
            other
        }
        _ => best,
    };
    if let Some(provider) = &chosen.provider {
        provider.health().begin(Instant::now());
    }
    Some(Arc::clone(chosen))
}

/// Whether a process runs and is not just ending: one that ends says so (`PF_EXITING`) before its
/// connections close. One that has children may be the wrapper of the one that has ended, and is
/// not known to run.
fn is_running(pid: u32) -> bool {
    const EXITING: u32 = 4;
    if std::fs::read(format!("/proc/{pid}/task/{pid}/children"))
        .map_or(true, |children| !children.is_empty())
    {
        return false;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: state, parent, group, session, terminal, its group,
    // flags.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let flags = fields.get(6).and_then(|flags| flags.parse::<u32>().ok());
    !matches!(fields.first(), None | Some(&("Z" | "X")))
        && flags.is_some_and(|flags| flags & EXITING == 0)
}

/// A number below `n` that differs from call to call.
fn spread(n: usize) -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static TURN: AtomicUsize = AtomicUsize::new(0);
    if n == 0 { 0 } else { TURN.fetch_add(1, Ordering::Relaxed) % n }
}

/// Has the profile service load a module that it has unloaded, where that alone keeps a call from
/// being answered. False if there is no such module, or nobody who would load it.
async fn wake(init: &Path, table: &Table, ask: &Ask<'_>, until: Instant) -> Result<bool, Fault> {
    let offers = |module: &&ModuleRecord| {
        module.card.offered_interfaces().any(|name| name == profiles::INTERFACE.name)
    };
    let Some(service) =
        table.modules.iter().filter(offers).find(|module| module.state == ModuleState::Ready)
    else {
        return Ok(false);
    };
    // Who would serve if those that were stopped were not.
    let Some(modules) = if_woken(&table.modules) else { return Ok(false) };
    let ranking = rank(&modules, ask);
    let Some(first) = ranking.eligible().first() else { return Ok(false) };
    let preload = PreloadIn { model: first.matched.label.clone(), on_call: Some(true) };
    let socket = init.with_file_name("").join(&service.socket);
    let asking = async {
        Connection::connect(&socket).await?.call_method::<profiles::method::Preload>(&preload).await
    };
    match tokio::time::timeout_at(until.into(), asking).await {
        Ok(Ok(_)) => Ok(true),
        // It was stopped by somebody else, or is none of a profile's.
        Ok(Err(ClientError::Fault(fault))) if fault.name == profiles::error::NoSuchModel::NAME => {
            Ok(false)
        }
        Ok(Err(ClientError::Fault(fault))) => Err(fault),
        Ok(Err(error)) => {
            tracing::warn!("the profile service does not answer: {}", chain(&error));
            Ok(false)
        }
        Err(_) => {
            Err(Fault::deadline_exceeded(format!("`{}` was being loaded", first.matched.label)))
        }
    }
}

fn route_key(ask: &Ask<'_>) -> RouteKey {
    (
        ask.flow.to_owned(),
        ask.context.map(str::to_owned),
        ask.require.cloned(),
        ask.asker.map(|asker| asker.card.id.clone()),
    )
}

/// The module that asks, if one does: one whose Card wants the flow has wishes of its own.
fn asker_of(table: &Table, peer: Peer) -> Option<&ModuleRecord> {
    table.modules.iter().find(|m| m.pid != 0 && i64::from(m.pid) == i64::from(peer.pid))
}

fn described(call: &Outgoing) -> Result<String, Fault> {
    Ok(parameters::read::<DescriptionIn>(call.parameters())?.interface)
}
