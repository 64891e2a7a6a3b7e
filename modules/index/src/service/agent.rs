//! The agent: trials in the background, one at a time, on one thread at the lowest priority, standing aside for searches.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::clock::now_ms;
use brahman_card::interface::index::{AgentEnqueueOut, AgentStatusOut, NameIn, error};
use brahman_sidecar::{Call, Reply, chain};
use tokio::sync::Notify;

use super::IndexService;
use super::shelf::{Index, lock};
use super::trials::Attempt;
use crate::agent::{Pace, Settings, SettingsError, next};
use crate::refresh::data_fingerprint;
use crate::threads::on_own_thread;

/// A search within this time means that somebody is waiting for answers.
const LIVE: Duration = Duration::from_millis(200);
/// How often it is looked whether searches still come.
const ASIDE: Duration = Duration::from_millis(50);
/// A build stands aside for at most this many times as long as it has worked: under a load that never ends it has one
/// hundredth of a core, and ends some day.
const ASIDE_SHARE: u32 = 99;

/// The agent's state.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) settings: Settings,
    /// Why it does nothing though it was to.
    reason: Option<String>,
    queue: Mutex<VecDeque<String>>,
    wake: Notify,
    pace: Mutex<Pace>,
    /// The index it works on, and how that work is told to stop.
    running: Mutex<Option<(String, Arc<AtomicBool>)>>,
    last: Mutex<Option<String>>,
    /// Datasets have moved on.
    pub(super) moved: Notify,
    began: Instant,
    /// Milliseconds from `began` to the last search.
    searched: AtomicU64,
}

impl Agent {
    /// An agent as a file configures it; off if there is none. One that makes no sense turns it off too, and is said.
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
                let why = format!("{}: {why}; the agent is off: correct the file, then `brahman restart index`", file.display());
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
        }
    }

    /// Whether it makes trials.
    pub(super) fn tries(&self) -> bool {
        self.settings.enabled && self.settings.max_trials_per_hour > 0
    }

    /// Hears what the journals tell of trials before this life of the module, so that the limits hold over it.
    pub(super) fn resume(&self, ends_ms: impl Iterator<Item = u64>) {
        *lock(&self.pace) = Pace::resumed(ends_ms, now_ms(), Instant::now());
    }

    /// What it did last.
    pub(super) fn say(&self, words: String) {
        *lock(&self.last) = Some(words);
    }

    /// A search came.
    pub(super) fn searched(&self) {
        self.searched.store(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Stands aside while searches come, for a time bounded by the work done since the last time.
    fn stand_aside(&self, worked: Duration, stop: &AtomicBool) {
        let (began, longest) = (Instant::now(), worked * ASIDE_SHARE);
        let live = || self.began.elapsed().saturating_sub(Duration::from_millis(self.searched.load(Ordering::Relaxed))) <= LIVE;
        while began.elapsed() < longest && live() && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(ASIDE.min(longest));
        }
    }

    /// Ends the trial that runs, if one does: somebody waits for another. Its index goes back into the queue.
    pub(super) fn give_way(&self) {
        let running = lock(&self.running).clone();
        if let Some((name, stop)) = running {
            stop.store(true, Ordering::Relaxed);
            self.enqueue(&name);
        }
    }

    /// Puts an index in the queue, once; whether it was not there.
    pub(super) fn enqueue(&self, name: &str) -> bool {
        let mut queue = lock(&self.queue);
        let new = !queue.iter().any(|n| n == name);
        if new {
            queue.push_back(name.to_owned());
            self.wake.notify_one();
        }
        new
    }
}

impl IndexService {
    /// Works for ever, if it is configured to.
    pub async fn run_agent(self: Arc<Self>) {
        if !self.agent.tries() {
            return;
        }
        let period = Duration::from_secs(self.agent.settings.period_s.max(1));
        loop {
            let name = lock(&self.agent.queue).front().cloned();
            let Some(name) = name else {
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
            lock(&self.agent.queue).retain(|waiting| *waiting != name);
            match self.one_trial(&name).await {
                Ok(said) => self.agent.say(format!("{name}: {said}")),
                Err(fault) => {
                    tracing::warn!(index = name, "the agent's trial: {fault}");
                    self.agent.say(format!("{name}: {}", fault.message()));
                }
            }
            lock(&self.agent.pace).end(Instant::now());
            *lock(&self.agent.running) = None;
        }
    }

    async fn one_trial(self: &Arc<Self>, name: &str) -> Result<String, Fault> {
        let index = self.index(name)?;
        index.writable()?;
        let (generation, _) = index.current()?;
        index.trials_known()?;
        let fingerprint = data_fingerprint(&generation);
        drop(generation);
        let chosen = next(&self.agent.settings, &fingerprint, &lock(&index.journal).trials);
        let Some(config) = chosen else { return Ok("every configuration near the best has been tried".to_owned()) };
        let _trying = self.trying.lock().await;
        lock(&self.agent.pace).begin(Instant::now());
        let stop = Arc::new(AtomicBool::new(false));
        *lock(&self.agent.running) = Some((name.to_owned(), Arc::clone(&stop)));
        let (service, worked_from, stopped) = (Arc::clone(self), Mutex::new(Instant::now()), Arc::clone(&stop));
        let aside = move || {
            let mut from = lock(&worked_from);
            service.agent.stand_aside(from.elapsed(), &stopped);
            *from = Instant::now();
        };
        let attempt = Attempt {
            index,
            config,
            target: self.agent.settings.target_recall,
            by: "agent",
            note: None,
            threads: 1,
            stop,
            done: Arc::default(),
            aside: Some(Box::new(aside)),
        };
        let trial = on_own_thread("the agent's trial", true, move || attempt.run()).await??;
        let (c, m) = (&trial.config, &trial.metrics);
        let n = |v: Option<u64>| v.unwrap_or(0);
        Ok(format!(
            "m {}, ef_construction {}, ef {}: recall {:.4}, p95 {:.0} µs",
            n(c.m),
            n(c.ef_construction),
            n(c.ef_search),
            m.recall_at_k,
            m.p95_us
        ))
    }

    pub(super) fn agent_status(&self) -> Result<Reply, Fault> {
        let (agent, now) = (&self.agent, Instant::now());
        let all: Vec<Arc<Index>> = lock(&self.indexes).values().cloned().collect();
        // Of one whose CURRENT cannot be read nobody knows: it is left alone as well.
        let pinned = all.iter().filter(|index| index.pinned().unwrap_or(true)).map(|index| index.parameters.name.clone());
        let pinned: Vec<String> = pinned.collect();
        let pace = lock(&agent.pace);
        Reply::of(&AgentStatusOut {
            enabled: agent.settings.enabled,
            queue: lock(&agent.queue).iter().cloned().collect(),
            running: lock(&agent.running).as_ref().map(|(name, _)| name.clone()),
            last: lock(&agent.last).clone(),
            trials_last_hour: pace.last_hour(now) as u64,
            max_trials_per_hour: agent.settings.max_trials_per_hour as u64,
            // Where there is no next trial `reason` says so.
            next_in_s: if agent.settings.max_trials_per_hour == 0 { 0 } else { pace.wait(&agent.settings, now).as_secs() },
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
