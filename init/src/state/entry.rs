//! One module as the supervisor sees it, and what its steps are: ready, asked to end, dead.
//!
//! Knows nothing of other modules.

use std::collections::{BTreeMap, VecDeque};

use brahman_card::card::{Payload, RestartPolicy, Supervision};
use brahman_card::{Card, ModuleRecord, ModuleState};

use super::{Effect, GRACE_MS, Millis};

/// First cool-down after too many restarts, doubled after each failed half-open try up to the maximum.
pub(super) const COOLDOWN_MS: (Millis, Millis) = (10_000, 600_000);

/// What becomes of a module once its process has ended as asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Afterwards {
    Stay,
    Start,
    Remove,
    Replace(Box<(Card, String)>),
}

/// One module.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(super) card: Card,
    pub(super) socket: String,
    pub(super) state: ModuleState,
    pub(super) since: Millis,
    pub(super) pid: Option<u32>,
    pub(super) session: Option<String>,
    pub(super) incarnation: u64,
    pub(super) restarts: u64,
    /// Ends of its process that nobody ordered, but for those by SIGKILL.
    pub(super) deaths: u64,
    /// Ends of its process by SIGKILL.
    pub(super) kills: u64,
    pub(super) reason: Option<String>,
    pub(super) attributes: BTreeMap<String, String>,
    /// Whether those are of its former life: they hold until it says others, or is ready without any.
    pub(super) is_former: bool,
    pub(super) shortfalls: Vec<String>,
    /// Its module brought the Card over its session: no file has it.
    pub(super) brought: bool,
    pub(super) afterwards: Option<Afterwards>,
    pub(super) spawning: bool,
    pub(super) unhealthy_row: u32,
    pub(super) recent: VecDeque<Millis>,
    pub(super) cooldown_ms: Millis,
    pub(super) half_open: bool,
    pub(super) permanent: bool,
    pub(super) ready_by: Option<Millis>,
    pub(super) alive_by: Option<Millis>,
    pub(super) start_at: Option<Millis>,
    pub(super) kill_at: Option<Millis>,
}

impl Entry {
    pub(super) fn new(card: Card, socket: String, now: Millis) -> Self {
        Self {
            card,
            socket,
            state: ModuleState::Waiting,
            since: now,
            pid: None,
            session: None,
            incarnation: 0,
            restarts: 0,
            deaths: 0,
            kills: 0,
            reason: None,
            attributes: BTreeMap::new(),
            is_former: false,
            shortfalls: Vec::new(),
            brought: false,
            afterwards: None,
            spawning: false,
            unhealthy_row: 0,
            recent: VecDeque::new(),
            cooldown_ms: COOLDOWN_MS.0,
            half_open: false,
            permanent: false,
            ready_by: None,
            alive_by: None,
            start_at: None,
            kill_at: None,
        }
    }

    /// The Card.
    #[must_use]
    pub(crate) fn card(&self) -> &Card {
        &self.card
    }

    /// The process, if one runs.
    #[must_use]
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// What this machine does not enforce of the Card.
    pub(crate) fn set_shortfalls(&mut self, shortfalls: Vec<String>) {
        self.shortfalls = shortfalls;
    }

    pub(super) fn enter(&mut self, state: ModuleState, now: Millis) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.pid.is_some() || self.spawning
    }

    /// Whether init starts it, and so binds its socket and restarts it.
    pub(crate) fn is_started_here(&self) -> bool {
        matches!(self.card.payload, Payload::Native(_)) && self.card.supervision != Supervision::Delegate
    }

    /// Whether a session is open.
    #[must_use]
    pub(crate) fn is_attached(&self) -> bool {
        self.session.is_some()
    }

    pub(super) fn policy(&self) -> RestartPolicy {
        match &self.card.supervision {
            Supervision::Restart(policy) => *policy,
            Supervision::OneShot | Supervision::Delegate => RestartPolicy::default(),
        }
    }

    pub(super) fn clear_timers(&mut self) {
        self.ready_by = None;
        self.alive_by = None;
        self.start_at = None;
        self.kill_at = None;
    }

    pub(super) fn record(&self, now: Millis) -> ModuleRecord {
        let mut attributes = self.card.attributes.clone();
        attributes.extend(self.attributes.clone());
        // One that is to run again is on its way, and calls may wait for it, though its former process still ends.
        let again = matches!(self.afterwards, Some(Afterwards::Start | Afterwards::Replace(_)));
        let (state, reason) = match self.state {
            ModuleState::Draining if again && self.is_started_here() => {
                (ModuleState::Waiting, Some("its previous process has not exited yet".to_owned()))
            }
            // Killed for its silence, it is not gone for good: what follows is known once its process has ended.
            ModuleState::Failed if self.runs() && self.kill_at.is_some() => (ModuleState::Backoff, self.reason.clone()),
            state => (state, self.reason.clone()),
        };
        ModuleRecord {
            card: self.card.clone(),
            state,
            socket: self.socket.clone(),
            pid: self.pid.unwrap_or(0),
            incarnation: self.incarnation,
            restarts: self.restarts,
            deaths: Some(self.deaths),
            kills: Some(self.kills),
            uptime_ms: now.saturating_sub(self.since),
            reason,
            attributes,
            shortfalls: self.shortfalls.clone(),
        }
    }
}

/// When the next word of a module is due. Before it is ready the time for that is what counts.
pub(super) fn watchdog(entry: &Entry, now: Millis) -> Option<Millis> {
    let watched = entry.card.watchdog_s > 0 && entry.state == ModuleState::Ready;
    watched.then(|| now + Millis::from(entry.card.watchdog_s) * 1000)
}

pub(super) fn become_ready(entry: &mut Entry, now: Millis) {
    if std::mem::take(&mut entry.is_former) {
        entry.attributes.clear();
    }
    if entry.afterwards.is_some() {
        return;
    }
    entry.ready_by = None;
    entry.reason = None;
    entry.enter(ModuleState::Ready, now);
    entry.alive_by = watchdog(entry, now);
}

/// Asks a module to end, and notes what is to follow.
pub(super) fn end(entry: &mut Entry, id: &str, afterwards: Afterwards, now: Millis, effects: &mut Vec<Effect>) {
    entry.start_at = None;
    let first = entry.afterwards.replace(afterwards).is_none();
    if let Some(session) = entry.session.clone().filter(|_| !entry.runs()) {
        effects.push(Effect::Drain { session });
    }
    if entry.pid.is_some() && first {
        entry.kill_at = Some(now + GRACE_MS);
        entry.enter(ModuleState::Draining, now);
        effects.push(Effect::Terminate { id: id.to_owned() });
    }
}

/// A process is gone unasked: restart it, now or later, or give it up.
pub(super) fn died(entry: &mut Entry, permanent: bool, now: Millis) {
    if permanent {
        entry.permanent = true;
        entry.enter(ModuleState::Failed, now);
        return;
    }
    let policy = entry.policy();
    entry.recent.push_back(now);
    while entry.recent.front().is_some_and(|at| at + policy.period_s * 1000 < now) {
        entry.recent.pop_front();
    }
    // The growing delay would keep any module under its intensity for ever: deaths without a healthy life between them
    // count whatever the period, whether they came before the module was ready or after.
    let in_a_row = entry.unhealthy_row > policy.intensity;
    if entry.recent.len() > policy.intensity as usize || in_a_row || (entry.half_open && entry.unhealthy_row > 0) {
        let why = entry.reason.take().unwrap_or_default();
        let cooldown = entry.cooldown_ms;
        let often = if in_a_row {
            format!("{} deaths without a healthy run", entry.unhealthy_row)
        } else {
            format!("{} restarts in {} s", entry.recent.len(), policy.period_s)
        };
        entry.reason = Some(format!("{often}, next attempt in {} s; last: {why}", cooldown / 1000));
        entry.start_at = Some(now + cooldown);
        entry.cooldown_ms = (cooldown * 2).min(COOLDOWN_MS.1);
        entry.half_open = true;
        entry.enter(ModuleState::Failed, now);
        return;
    }
    let delay = match entry.unhealthy_row {
        0 => 0,
        row => {
            let doubled = policy.initial_ms.saturating_mul(1 << (row - 1).min(20)).min(policy.max_ms);
            // Up to a quarter more, spread by who and which life it is, so that siblings do not return in step.
            let spread: u64 = entry.card.id.bytes().map(u64::from).sum::<u64>() * 31 + entry.incarnation * 17;
            doubled + (doubled / 4) * (spread % 16) / 16
        }
    };
    entry.start_at = Some(now + delay);
    entry.enter(ModuleState::Backoff, now);
    if delay == 0 {
        entry.start_at = None;
        entry.restarts += 1;
        entry.enter(ModuleState::Waiting, now);
    }
}
