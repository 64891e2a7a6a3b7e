//! One module as the supervisor sees it, and what its steps are: loading, ready, asked to end,
//! dead.
//!
//! Knows nothing of other modules. What it is doing is its [`Phase`]; here is what outlives that.

use std::collections::{BTreeMap, VecDeque};

use brahman_card::card::{Payload, RestartPolicy, Supervision};
use brahman_card::{Card, ModuleRecord, ModuleState};

use super::phase::{Afterwards, Phase, Stage, Standing};
use super::{Effect, GRACE_MS, LATE_MS, Millis, REKILL_MS};

/// First cool-down after too many restarts, doubled after each failed half-open try up to the
/// maximum.
pub(super) const COOLDOWN_MS: (Millis, Millis) = (10_000, 600_000);

/// One module.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(super) card: Card,
    pub(super) socket: String,
    pub(super) phase: Phase,
    /// When its state last became another.
    pub(super) since: Millis,
    pub(super) session: Option<String>,
    pub(super) incarnation: u64,
    pub(super) restarts: u64,
    /// Ends of its process that nobody ordered, but for those by SIGKILL.
    pub(super) deaths: u64,
    /// Ends of its process by SIGKILL.
    pub(super) kills: u64,
    pub(super) reason: Option<String>,
    /// Label of the module that has had it stopped, until it has: a person's command has none.
    pub(super) stopped_by: Option<String>,
    pub(super) attributes: BTreeMap<String, String>,
    /// Whether those are of its former life: they hold until it says others, or is ready without
    /// any.
    pub(super) is_former: bool,
    pub(super) shortfalls: Vec<String>,
    /// Its module brought the Card over its session: no file has it.
    pub(super) brought: bool,
    pub(super) unhealthy_row: u32,
    pub(super) recent: VecDeque<Millis>,
    pub(super) cooldown_ms: Millis,
    pub(super) half_open: bool,
}

impl Entry {
    pub(super) fn new(card: Card, socket: String, now: Millis) -> Self {
        Self {
            card,
            socket,
            phase: Phase::Waiting,
            since: now,
            session: None,
            incarnation: 0,
            restarts: 0,
            deaths: 0,
            kills: 0,
            reason: None,
            stopped_by: None,
            attributes: BTreeMap::new(),
            is_former: false,
            shortfalls: Vec::new(),
            brought: false,
            unhealthy_row: 0,
            recent: VecDeque::new(),
            cooldown_ms: COOLDOWN_MS.0,
            half_open: false,
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
        self.phase.pid()
    }

    /// What this machine does not enforce of the Card.
    pub(crate) fn set_shortfalls(&mut self, shortfalls: Vec<String>) {
        self.shortfalls = shortfalls;
    }

    pub(super) fn enter(&mut self, phase: Phase, now: Millis) {
        if self.state() != phase.state() {
            self.since = now;
        }
        self.phase = phase;
    }

    pub(super) fn state(&self) -> ModuleState {
        self.phase.state()
    }

    pub(super) fn runs(&self) -> bool {
        self.phase.runs()
    }

    /// Whether init starts it, and so binds its socket and restarts it.
    pub(crate) fn is_started_here(&self) -> bool {
        matches!(self.card.payload, Payload::Native(_))
            && self.card.supervision != Supervision::Delegate
    }

    /// Why it does not run, if it does not and will not by itself, and what to do.
    pub(super) fn absence(&self) -> Option<String> {
        if !self.is_started_here() || self.session.is_some() {
            return None;
        }
        let label = &self.card.label;
        match self.phase {
            Phase::Stopped => Some(format!("is stopped; `brahman start {label}` starts it")),
            Phase::Failed { start_at: None } => {
                let why = self.reason.as_deref().unwrap_or("no reason is known");
                Some(format!("has failed ({why}); `brahman start {label}` tries again"))
            }
            _ => None,
        }
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

    pub(super) fn record(&self, now: Millis) -> ModuleRecord {
        let mut attributes = self.card.attributes.clone();
        attributes.extend(self.attributes.clone());
        let (state, reason) = match &self.phase {
            // One that is to run again is on its way, and calls may wait for it, though its former
            // process still ends.
            Phase::Running(
                _,
                Stage::Draining { order: Some(Afterwards::Start | Afterwards::Replace(_)), .. },
            ) if self.is_started_here() => {
                (ModuleState::Waiting, Some("its previous process has not exited yet".to_owned()))
            }
            // Killed for its silence, it is not gone for good: what follows is known once its
            // process has ended.
            Phase::Running(_, Stage::Failed { kill_at: Some(_) }) => {
                (ModuleState::Backoff, self.reason.clone())
            }
            phase => (phase.state(), self.reason.clone()),
        };
        ModuleRecord {
            card: self.card.clone(),
            state,
            socket: self.socket.clone(),
            pid: self.pid().unwrap_or(0),
            incarnation: self.incarnation,
            restarts: self.restarts,
            deaths: Some(self.deaths),
            kills: Some(self.kills),
            uptime_ms: now.saturating_sub(self.since),
            reason,
            attributes,
            shortfalls: self.shortfalls.clone(),
            origin: None,
        }
    }
}

/// When the next word of a module that is ready is due.
fn watchdog(card: &Card, now: Millis) -> Option<Millis> {
    (card.watchdog_s > 0).then(|| now + Millis::from(card.watchdog_s) * 1000)
}

/// By when a process has to be ready that begins to load now.
pub(super) fn patience(card: &Card, now: Millis) -> Millis {
    now + Millis::from(card.readiness.timeout_s) * 1000
}

/// A module gave a sign of life. Before it is ready the time for that is what counts, and while it
/// ends the time for that.
pub(super) fn touch(entry: &mut Entry, now: Millis) {
    if let Phase::Running(_, Stage::Ready { alive_by }) = &mut entry.phase {
        *alive_by = watchdog(&entry.card, now);
    }
}

/// A module says that it loads.
pub(super) fn loads(entry: &mut Entry, now: Millis) {
    let phase = match &entry.phase {
        Phase::Running(pid, Stage::Starting { ready_by } | Stage::Loading { ready_by }) => {
            Phase::Running(*pid, Stage::Loading { ready_by: *ready_by })
        }
        // One that was ready and loads again has the time of a start for it.
        Phase::Running(pid, stage) if !stage.is_ending() => {
            Phase::Running(*pid, Stage::Loading { ready_by: patience(&entry.card, now) })
        }
        Phase::Attached(_) => Phase::Attached(Standing::Loading),
        _ => return,
    };
    entry.enter(phase, now);
}

/// A module says that it is ready.
pub(super) fn become_ready(entry: &mut Entry, now: Millis) {
    if std::mem::take(&mut entry.is_former) {
        entry.attributes.clear();
    }
    let phase = match &entry.phase {
        Phase::Running(pid, stage) if !stage.is_ending() => {
            Phase::Running(*pid, Stage::Ready { alive_by: watchdog(&entry.card, now) })
        }
        Phase::Attached(_) => Phase::Attached(Standing::Ready),
        _ => return,
    };
    entry.reason = None;
    entry.enter(phase, now);
}

/// A module says that it ends, or that it has failed: it is given the grace, and then killed like
/// any other that was to end.
pub(super) fn leaves(entry: &mut Entry, has_failed: bool, now: Millis) {
    let phase = match &mut entry.phase {
        // It was asked to, and what follows is known.
        Phase::Running(_, Stage::Draining { order: Some(_), .. }) => return,
        Phase::Running(pid, stage) => {
            let kill_at = stage.kill_at_mut().map_or(now + GRACE_MS, |at| *at);
            let stage = if has_failed {
                Stage::Failed { kill_at: Some(kill_at) }
            } else {
                Stage::Draining { kill_at, order: None }
            };
            Phase::Running(*pid, stage)
        }
        Phase::Attached(_) => {
            Phase::Attached(if has_failed { Standing::Failed } else { Standing::Draining })
        }
        _ => return,
    };
    entry.enter(phase, now);
}

/// A module's Card has come to require itself: it is not started any more, and what runs of it
/// offers nothing.
pub(super) fn refuse(entry: &mut Entry, now: Millis) {
    let phase = match &entry.phase {
        Phase::Spawning { .. } => return,
        Phase::Running(_, stage) if stage.is_ending() => return,
        Phase::Running(pid, _) => Phase::Running(*pid, Stage::Failed { kill_at: None }),
        Phase::Attached(_) => Phase::Attached(Standing::Failed),
        _ => Phase::Failed { start_at: None },
    };
    entry.enter(phase, now);
}

/// Asks a module to end, and notes what is to follow. Where there is no process that is at once,
/// and given back.
pub(super) fn end(
    entry: &mut Entry,
    id: &str,
    order: Afterwards,
    now: Millis,
    effects: &mut Vec<Effect>,
) -> Option<Afterwards> {
    match &mut entry.phase {
        Phase::Spawning { order: of }
        | Phase::Running(_, Stage::Draining { order: of @ Some(_), .. }) => *of = Some(order),
        Phase::Running(pid, _) => {
            let phase = Phase::Running(
                *pid,
                Stage::Draining { kill_at: now + GRACE_MS, order: Some(order) },
            );
            entry.enter(phase, now);
            effects.push(Effect::Terminate { id: id.to_owned() });
        }
        _ => {
            effects.extend(entry.session.clone().map(|session| Effect::Drain { session }));
            return Some(order);
        }
    }
    None
}

/// Has a process end by this time, with the whole mesh; what was ordered of it before still
/// follows.
pub(super) fn end_with_all(entry: &mut Entry, kill_at: Millis, now: Millis) {
    match &mut entry.phase {
        Phase::Spawning { order } => {
            order.get_or_insert(Afterwards::Stay);
        }
        Phase::Running(pid, stage) => {
            let earlier =
                if let Stage::Draining { order, .. } = stage { order.take() } else { None };
            let phase = Phase::Running(
                *pid,
                Stage::Draining { kill_at, order: earlier.or(Some(Afterwards::Stay)) },
            );
            entry.enter(phase, now);
        }
        _ => {}
    }
}

/// What a module's own timer brings, if it is due.
pub(super) fn tick(entry: &mut Entry, id: &str, now: Millis, effects: &mut Vec<Effect>) {
    if let Phase::Running(_, stage) = &mut entry.phase
        && let Some(at) = stage.word_by_mut().filter(|at| **at + LATE_MS < now)
    {
        *at = now + LATE_MS;
    }
    if entry.phase.timer().is_none_or(|at| at > now) {
        return;
    }
    let silence = match &mut entry.phase {
        Phase::Running(pid, stage) => match stage.kill_at_mut() {
            Some(kill_at) => {
                *kill_at = now + REKILL_MS;
                None
            }
            None => Some((*pid, matches!(stage, Stage::Ready { .. }))),
        },
        _ => {
            entry.restarts += 1;
            entry.enter(Phase::Waiting, now);
            return;
        }
    };
    if let Some((pid, was_ready)) = silence {
        entry.reason = Some(if was_ready {
            format!("no sign of life for {} s", entry.card.watchdog_s)
        } else {
            let last =
                entry.reason.take().map(|reason| format!("; last: {reason}")).unwrap_or_default();
            format!("not ready within {} s{last}", entry.card.readiness.timeout_s)
        });
        entry.enter(Phase::Running(pid, Stage::Failed { kill_at: Some(now + REKILL_MS) }), now);
    }
    effects.push(Effect::Kill { id: id.to_owned() });
}

/// A process is gone unasked: restart it, now or later, or give it up.
pub(super) fn died(entry: &mut Entry, permanent: bool, now: Millis) {
    if permanent {
        entry.enter(Phase::Failed { start_at: None }, now);
        return;
    }
    let policy = entry.policy();
    entry.recent.push_back(now);
    while entry.recent.front().is_some_and(|at| at + policy.period_s * 1000 < now) {
        entry.recent.pop_front();
    }
    // The growing delay would keep any module under its intensity for ever: deaths without a
    // healthy life between them count whatever the period, whether they came before the module was
    // ready or after.
    let in_a_row = entry.unhealthy_row > policy.intensity;
    if entry.recent.len() > policy.intensity as usize
        || in_a_row
        || (entry.half_open && entry.unhealthy_row > 0)
    {
        let why = entry.reason.take().unwrap_or_default();
        let cooldown = entry.cooldown_ms;
        let often = if in_a_row {
            format!("{} deaths without a healthy run", entry.unhealthy_row)
        } else {
            format!("{} restarts in {} s", entry.recent.len(), policy.period_s)
        };
        entry.reason = Some(format!("{often}, next attempt in {} s; last: {why}", cooldown / 1000));
        entry.cooldown_ms = (cooldown * 2).min(COOLDOWN_MS.1);
        entry.half_open = true;
        entry.enter(Phase::Failed { start_at: Some(now + cooldown) }, now);
        return;
    }
    let delay = match entry.unhealthy_row {
        0 => 0,
        row => {
            let doubled =
                policy.initial_ms.saturating_mul(1 << (row - 1).min(20)).min(policy.max_ms);
            // Up to a quarter more, spread by who and which life it is, so that siblings do not
            // return in step.
            let spread: u64 =
                entry.card.id.bytes().map(u64::from).sum::<u64>() * 31 + entry.incarnation * 17;
            doubled + (doubled / 4) * (spread % 16) / 16
        }
    };
    if delay == 0 {
        entry.restarts += 1;
        entry.enter(Phase::Waiting, now);
    } else {
        entry.enter(Phase::Backoff { start_at: now + delay }, now);
    }
}
