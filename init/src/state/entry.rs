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
    pub(super) reason: Option<String>,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) shortfalls: Vec<String>,
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
            reason: None,
            attributes: BTreeMap::new(),
            shortfalls: Vec::new(),
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

    /// Socket path.
    #[must_use]
    pub(crate) fn socket(&self) -> &str {
        &self.socket
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

    pub(super) fn is_virtual(&self) -> bool {
        matches!(self.card.payload, Payload::Virtual)
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
        ModuleRecord {
            card: self.card.clone(),
            state: self.state,
            socket: self.socket.clone(),
            pid: self.pid.unwrap_or(0),
            incarnation: self.incarnation,
            restarts: self.restarts,
            uptime_ms: now.saturating_sub(self.since),
            reason: self.reason.clone(),
            attributes,
            shortfalls: self.shortfalls.clone(),
        }
    }
}

pub(super) fn watchdog(entry: &Entry, now: Millis) -> Option<Millis> {
    (entry.card.watchdog_s > 0).then(|| now + Millis::from(entry.card.watchdog_s) * 1000)
}

pub(super) fn become_ready(entry: &mut Entry, now: Millis) {
    if entry.afterwards.is_some() {
        return;
    }
    entry.ready_by = None;
    entry.reason = None;
    entry.enter(ModuleState::Ready, now);
}

/// Asks a module to end, and notes what is to follow.
pub(super) fn end(entry: &mut Entry, id: &str, afterwards: Afterwards, now: Millis, effects: &mut Vec<Effect>) {
    entry.start_at = None;
    let first = entry.afterwards.replace(afterwards).is_none();
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
    if entry.recent.len() > policy.intensity as usize || (entry.half_open && entry.unhealthy_row > 0) {
        let why = entry.reason.take().unwrap_or_default();
        let cooldown = entry.cooldown_ms;
        entry.reason =
            Some(format!("{} restarts in {} s, next try in {} s; last: {why}", entry.recent.len(), policy.period_s, cooldown / 1000));
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
