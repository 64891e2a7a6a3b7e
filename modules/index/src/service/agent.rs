//! The agent: trials in the background, one at a time, on one thread at the lowest priority,
//! standing aside for people.
//!
//! Invariants: it holds nothing that a call waits for, least of all while it stands aside; while a
//! call of a person's works it does not go on; what it measures belongs to the data that answers,
//! or is given up.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::clock::now_ms;
use brahman_card::interface::index::{AgentEnqueueOut, AgentStatusOut, NameIn, TrialRecord, error};
use brahman_sidecar::{Call, Reply, chain};
use tokio::sync::{Notify, watch};

use super::IndexService;
use super::shelf::{Index, lock};
use super::trials::Attempt;
use crate::agent::{History, Pace, Settings, SettingsError, next};
use crate::evals;
use crate::threads::on_own_thread;

/// A search within this time means that somebody is waiting for answers.
const LIVE: Duration = Duration::from_millis(200);
/// How often it is looked whether anybody still waits.
const ASIDE: Duration = Duration::from_millis(50);
/// A build stands aside for searches at most this many times as long as it has worked: under a load
/// that never ends it has one hundredth of a core, and ends some day. Calls that work end by
/// themselves.
const ASIDE_SHARE: u32 = 99;

/// An index that waits for a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    name: String,
    /// The set of queries to measure with; the default one if none is named.
    eval: Option<&'static str>,
}

/// The agent's state.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) settings: Settings,
    /// Why it does nothing though it was to.
    reason: Option<String>,
    queue: Mutex<VecDeque<Wish>>,
    wake: Notify,
    pace: Mutex<Pace>,
    /// The index it works on.
    running: Mutex<Option<String>>,
    last: Mutex<Option<String>>,
    /// Datasets have moved on.
    pub(super) moved: Notify,
    began: Instant,
    /// Milliseconds from `began` to the last search.
    searched: AtomicU64,
    /// Calls of people's that work at this moment.
    people: watch::Sender<usize>,
}

/// A call of a person's, for as long as it works: the agent does not.
#[derive(Debug)]
pub(super) struct Person(Arc<Agent>);

impl Drop for Person {
    fn drop(&mut self) {
        self.0.people.send_modify(|people| *people -= 1);
    }
}

impl Agent {
    /// An agent as a file configures it; off if there is none. One that makes no sense turns it off
    /// too, and is said.
    pub(super) fn open(file: &Path) -> Self {
        let read = match std::fs::read_to_string(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Settings::default()),
            Err(error) => Err(SettingsError::from(error)),
            Ok(text) => Settings::parse(&text),
        };
        let (settings, mut reason) = match read {
            Ok(settings) => (settings, None),
            Err(error) => {
                let why = chain(&error);
                let why = format!(
                    "{}: {why}; the agent is off: correct the file, then `brahman restart index`",
                    file.display()
                );
                tracing::error!("{why}");
                (Settings::default(), Some(why))
            }
        };
        if settings.enabled && settings.max_trials_per_hour == 0 {
            reason = Some("agent.max_trials_per_hour is 0: it makes no trials".to_owned());
        }
        Self {
            settings,
            reason,
            queue: Mutex::default(),
            wake: Notify::new(),
            pace: Mutex::default(),
            running: Mutex::default(),
            last: Mutex::default(),
            moved: Notify::new(),
            began: Instant::now(),
            searched: AtomicU64::new(0),
            people: watch::Sender::new(0),
        }
    }

    /// Whether it makes trials.
    pub(super) fn tries(&self) -> bool {
        self.settings.enabled && self.settings.max_trials_per_hour > 0
    }

    /// Hears what the journals tell of trials before this life of the module, so that the limits
    /// hold over it.
    pub(super) fn resume(&self, ends_ms: impl Iterator<Item = u64>) {
        *lock(&self.pace) = Pace::resumed(ends_ms, now_ms(), Instant::now());
    }

    /// What it did last.
    pub(super) fn say(&self, words: String) {
        *lock(&self.last) = Some(words);
    }

    /// A search came.
    pub(super) fn searched(&self) {
        self.searched.store(
            u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// A call of a person's begins to work.
    pub(super) fn person(self: &Arc<Self>) -> Person {
        self.people.send_modify(|people| *people += 1);
        Person(Arc::clone(self))
    }

    /// Waits until no call of a person's works.
    async fn when_alone(&self) {
        let mut people = self.people.subscribe();
        // The sender lives as long as this.
        drop(people.wait_for(|people| *people == 0).await);
    }

    /// Stands aside while calls of people's work, and while searches come, these for a time bounded
    /// by the work done since the last time. As soon as what is worked on is there no more, `stop`
    /// is set.
    fn stand_aside(&self, worked: Duration, stop: &AtomicBool, is_there: &dyn Fn() -> bool) {
        let (mut stood, longest) = (Duration::ZERO, worked * ASIDE_SHARE);
        let live = || {
            self.began
                .elapsed()
                .saturating_sub(Duration::from_millis(self.searched.load(Ordering::Relaxed)))
                <= LIVE
        };
        while !stop.load(Ordering::Relaxed) {
            if !is_there() {
                stop.store(true, Ordering::Relaxed);
            } else if *self.people.borrow() > 0 {
                std::thread::sleep(ASIDE);
            } else if stood < longest && live() {
                let pause = ASIDE.min(longest - stood);
                std::thread::sleep(pause);
                stood += pause;
            } else {
                break;
            }
        }
    }

    /// Puts an index in the queue, once; whether it was not there.
    pub(super) fn enqueue(&self, name: &str) -> bool {
        self.enqueue_on(name, None)
    }

    /// The same, to be measured with a set of queries.
    pub(super) fn enqueue_on(&self, name: &str, eval: Option<&'static str>) -> bool {
        let wish = Wish { name: name.to_owned(), eval };
        let mut queue = lock(&self.queue);
        let new = !queue.contains(&wish);
        if new {
            queue.push_back(wish);
            self.wake.notify_one();
        }
        new
    }

    /// An index has other data than before: what was best on the old may not be.
    pub(super) fn has_new_data(&self, name: &str) {
        if self.tries() {
            self.enqueue(name);
        }
    }
}

/// What came of a wish.
enum TrialOutcome {
    Tried(Box<TrialRecord>),
    /// Every configuration near the best has been tried.
    Exhausted,
    /// The data changed, or the index went, while it was measured.
    GaveWay,
}

impl IndexService {
    /// Works for ever, if it is configured to.
    pub async fn run_agent(self: Arc<Self>) {
        if !self.agent.tries() {
            return;
        }
        let period = Duration::from_secs(self.agent.settings.period_s.max(1));
        loop {
            let wish = lock(&self.agent.queue).front().cloned();
            let Some(wish) = wish else {
                if tokio::time::timeout(period, self.agent.wake.notified()).await.is_err() {
                    let all: Vec<String> = lock(&self.indexes).keys().cloned().collect();
                    for name in &all {
                        self.agent.enqueue(name);
                    }
                }
                continue;
            };
            let wait = lock(&self.agent.pace).wait(&self.agent.settings, Instant::now());
            tokio::time::sleep(wait).await;
            self.agent.when_alone().await;
            lock(&self.agent.queue).retain(|waiting| *waiting != wish);
            let name = &wish.name;
            *lock(&self.agent.running) = Some(name.clone());
            let outcome = self.one_trial(&wish).await;
            *lock(&self.agent.running) = None;
            match outcome {
                Ok(TrialOutcome::Tried(trial)) => {
                    self.agent.say(format!("{name}: {}", words(&trial)));
                }
                Ok(TrialOutcome::Exhausted) => self
                    .agent
                    .say(format!("{name}: every configuration near the best has been tried")),
                Ok(TrialOutcome::GaveWay) => {
                    self.agent.say(format!(
                        "{name}: its data changed during the trial, which is made again"
                    ));
                    if self.index(name).is_ok() {
                        self.agent.enqueue_on(name, wish.eval);
                    }
                }
                Err(fault) => {
                    tracing::warn!(index = name, "the agent's trial: {fault}");
                    self.agent.say(format!("{name}: {}", fault.message()));
                }
            }
        }
    }

    async fn one_trial(self: &Arc<Self>, wish: &Wish) -> Result<TrialOutcome, Fault> {
        let index = self.index(&wish.name)?;
        index.writable()?;
        index.current()?;
        index.trials_known()?;
        let (service, eval) = (Arc::clone(self), wish.eval);
        on_own_thread("the agent's trial", true, move || service.try_next(index, eval)).await?
    }

    /// Chooses, builds and measures, on the thread that it is called on.
    fn try_next(
        self: &Arc<Self>,
        index: Arc<Index>,
        eval: Option<&'static str>,
    ) -> Result<TrialOutcome, Fault> {
        let agent = &self.agent;
        let (generation, _) = index.current()?;
        let data = index.data_names(&generation)?;
        let set = evals::current_id(index.folder.path(), &data, eval);
        let chosen = {
            let journal = lock(&index.journal);
            let engine = super::trials::own_engine(&generation.manifest);
            next(
                &agent.settings,
                &History { trials: &journal.trials, data: &data, eval: set.as_deref(), engine },
            )
        };
        let Some(config) = chosen else { return Ok(TrialOutcome::Exhausted) };
        lock(&agent.pace).begin(Instant::now());
        let stop = Arc::new(AtomicBool::new(false));
        let (service, watched, stopped) = (Arc::clone(self), Arc::clone(&index), Arc::clone(&stop));
        let (worked_from, seen) =
            (Mutex::new(Instant::now()), Mutex::new(generation.folder.clone()));
        drop(generation);
        let aside = move || {
            let worked = lock(&worked_from).elapsed();
            service
                .agent
                .stand_aside(worked, &stopped, &|| service.still_has(&watched, &data.now, &seen));
            *lock(&worked_from) = Instant::now();
        };
        let attempt = Attempt {
            index,
            config,
            widths: Vec::new(),
            eval: eval.map(str::to_owned),
            target: agent.settings.target_recall,
            by: "agent",
            note: None,
            threads: 1,
            stop: Arc::clone(&stop),
            done: Arc::default(),
            aside: Some(Box::new(aside)),
        };
        let outcome = attempt.run();
        let mut pace = lock(&agent.pace);
        pace.end(Instant::now());
        match outcome {
            Ok(trial) => Ok(TrialOutcome::Tried(Box::new(trial))),
            Err(_) if stop.load(Ordering::Relaxed) => {
                pace.take_back();
                Ok(TrialOutcome::GaveWay)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Whether an index is still there and answers from this data; `seen` is the generation of
    /// which that was known last.
    fn still_has(&self, index: &Arc<Index>, data: &str, seen: &Mutex<String>) -> bool {
        if !self.index(&index.parameters.name).is_ok_and(|now| Arc::ptr_eq(&now, index)) {
            return false;
        }
        let Some(generation) = index.generation() else { return false };
        if *lock(seen) == generation.folder {
            return true;
        }
        let has = generation.data_name().is_ok_and(|name| name == data);
        if has {
            lock(seen).clone_from(&generation.folder);
        }
        has
    }

    pub(super) fn agent_status(&self) -> Result<Reply, Fault> {
        let (agent, now) = (&self.agent, Instant::now());
        let all: Vec<Arc<Index>> = lock(&self.indexes).values().cloned().collect();
        // Of one whose CURRENT cannot be read nobody knows: it is left alone as well.
        let is_bound = |name: &String| self.scope.binds_index(name);
        let pinned = all
            .iter()
            .filter(|index| index.pinned().unwrap_or(true))
            .map(|index| index.parameters.name.clone());
        let pinned: Vec<String> = pinned.filter(is_bound).collect();
        let mut queue: Vec<String> =
            lock(&agent.queue).iter().map(|wish| wish.name.clone()).filter(is_bound).collect();
        queue.dedup();
        // It begins with the index's name, where it is of one.
        let is_of_bound = |words: &String| {
            words.split_once(": ").is_some_and(|(name, _)| self.scope.binds_index(name))
        };
        let last =
            lock(&agent.last).clone().filter(|words| self.scope.is_open() || is_of_bound(words));
        let pace = lock(&agent.pace);
        Reply::of(&AgentStatusOut {
            enabled: agent.settings.enabled,
            queue,
            running: lock(&agent.running).clone().filter(is_bound),
            last,
            trials_last_hour: pace.last_hour(now) as u64,
            max_trials_per_hour: agent.settings.max_trials_per_hour as u64,
            // Where there is no next trial `reason` says so.
            next_in_s: if agent.settings.max_trials_per_hour == 0 {
                0
            } else {
                pace.wait(&agent.settings, now).as_secs()
            },
            reason: agent.reason.clone(),
            pinned: Some(pinned).filter(|pinned| !pinned.is_empty()),
            refreshes: Some(agent.settings.refresh),
        })
    }

    pub(super) fn agent_enqueue(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        self.index(&name)?;
        if !self.agent.tries() {
            let off = "the agent is off; `[agent] enabled = true` in the index module's index.toml, then `brahman restart index`";
            let message = self.agent.reason.clone().unwrap_or_else(|| off.to_owned());
            return Err(Fault::of(&error::AgentOff { name }, false, message));
        }
        Reply::of(&AgentEnqueueOut { queued: self.agent.enqueue(&name) })
    }
}

/// A trial in a line.
fn words(trial: &TrialRecord) -> String {
    let (c, m) = (&trial.config, &trial.metrics);
    let n = |v: Option<u64>| v.unwrap_or(0);
    format!(
        "m {}, ef_construction {}, ef {}: recall {:.4}, p95 {:.0} µs",
        n(c.m),
        n(c.ef_construction),
        n(c.ef_search),
        m.recall_at_k,
        m.p95_us
    )
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn agent() -> Arc<Agent> {
        Arc::new(Agent::open(Path::new("/no/such/index.toml")))
    }

    #[test]
    fn it_stands_aside_until_the_last_call_has_ended() {
        let agent = agent();
        let (calls, asked, stop) = (
            RefCell::new(vec![agent.person(), agent.person()]),
            Cell::new(0),
            AtomicBool::new(false),
        );
        let is_there = || {
            asked.set(asked.get() + 1);
            // One call ends at the second time that it looks, the other one at the fourth.
            if asked.get() % 2 == 0 {
                drop(calls.borrow_mut().pop());
            }
            true
        };
        agent.stand_aside(Duration::ZERO, &stop, &is_there);
        assert_eq!(
            (asked.get(), calls.borrow().len(), stop.load(Ordering::Relaxed)),
            (4, 0, false)
        );
    }

    #[test]
    fn it_lets_go_of_what_is_gone_while_a_call_works() {
        let (agent, stop) = (agent(), AtomicBool::new(false));
        let _person = agent.person();
        agent.stand_aside(Duration::ZERO, &stop, &|| false);
        assert!(stop.load(Ordering::Relaxed));
    }

    #[test]
    fn new_data_is_queued_once_and_only_where_trials_are_made() {
        let agent = agent();
        agent.has_new_data("a");
        assert!(lock(&agent.queue).is_empty(), "it is off");
        assert!(
            agent.enqueue("a") && !agent.enqueue("a") && agent.enqueue_on("a", Some(evals::LIVE))
        );
    }
}
