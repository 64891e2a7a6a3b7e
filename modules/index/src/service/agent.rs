//! The agent: trials in the background, one at a time, on one thread at the lowest priority, standing aside for searches.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::interface::index::{AgentEnqueueOut, AgentStatusOut, NameIn};
use brahman_sidecar::{Call, Reply};
use tokio::sync::Notify;

use super::IndexService;
use super::shelf::{lock, on_own_thread};
use super::trials::Attempt;
use crate::agent::{Pace, Settings, next};
use crate::refresh::data_fingerprint;

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
    /// An agent as a file configures it; off if there is none.
    ///
    /// # Errors
    /// In words, if the file makes no sense.
    pub(super) fn open(file: &Path) -> Result<Self, String> {
        let settings = match std::fs::read_to_string(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Settings::default(),
            Err(error) => return Err(format!("{}: {error}", file.display())),
            Ok(text) => Settings::parse(&text).map_err(|e| format!("{}: {e}", file.display()))?,
        };
        Ok(Self {
            settings,
            queue: Mutex::default(),
            wake: Notify::new(),
            pace: Mutex::default(),
            running: Mutex::default(),
            last: Mutex::default(),
            moved: Notify::new(),
            began: Instant::now(),
            searched: AtomicU64::new(0),
        })
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
        if !self.agent.settings.enabled {
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
            *lock(&self.agent.running) = None;
        }
    }

    async fn one_trial(self: &Arc<Self>, name: &str) -> Result<String, Fault> {
        let index = self.index(name)?;
        let (generation, _) = index.current()?;
        let fingerprint = data_fingerprint(&generation);
        drop(generation);
        let chosen = next(&self.agent.settings, &fingerprint, &lock(&index.journal).trials);
        let Some(config) = chosen else { return Ok("everything near the best has been tried".to_owned()) };
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
        let trial = on_own_thread(true, move || attempt.run()).await.map_err(|e| Fault::internal(e.to_string()))??;
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
        let pace = lock(&agent.pace);
        Reply::of(&AgentStatusOut {
            enabled: agent.settings.enabled,
            queue: lock(&agent.queue).iter().cloned().collect(),
            running: lock(&agent.running).as_ref().map(|(name, _)| name.clone()),
            last: lock(&agent.last).clone(),
            trials_last_hour: pace.last_hour(now) as u64,
            max_trials_per_hour: agent.settings.max_trials_per_hour as u64,
            next_in_s: pace.wait(&agent.settings, now).as_secs(),
        })
    }

    pub(super) fn agent_enqueue(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        self.index(&name)?;
        if !self.agent.settings.enabled {
            let message = "the agent is off; `[agent] enabled = true` in the index module's index.toml, then `brahman restart index`";
            return Err(Fault::new("org.brahman.Index.AgentOff", false, message).with("name", name));
        }
        Reply::of(&AgentEnqueueOut { queued: self.agent.enqueue(&name) })
    }
}
