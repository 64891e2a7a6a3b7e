//! The pure supervisor: `step(event, now) → effects`. No clock, no process, no file.
//!
//! Invariants:
//! * a module has at most one process; a new one is spawned only after the old one's end was seen;
//! * every state but `ready`, `stopped` and a permanent `failed` has a timer or an awaited event,
//!   so nothing waits for ever;
//! * a death is classified before it is retried: exit 78 never is, a healthy life's end is retried
//!   at once;
//! * what init does not start (a module that attached by itself, one that somebody else supervises)
//!   it does not restart.

mod entry;
mod event;
mod graph;
mod phase;
mod view;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use brahman_card::card::{Lifecycle, Supervision};
use brahman_card::interface::broker;
use brahman_card::interface::init::{ReloadOut, UpdateIn};
use brahman_card::{Card, ModuleState};

pub(crate) use entry::Entry;
use entry::{
    COOLDOWN_MS, become_ready, died, end, end_with_all, leaves, loads, patience, refuse, tick,
    touch,
};
pub(crate) use event::{Command, Effect, Event, Exit};
use phase::{Afterwards, Phase, Stage, Standing};

/// Milliseconds since init started.
pub(crate) type Millis = u64;

/// SIGTERM to SIGKILL for one module.
pub(crate) const GRACE_MS: Millis = 5_000;
/// SIGTERM to SIGKILL for the whole mesh: one period, whatever the number of modules.
pub(crate) const SHUTDOWN_GRACE_MS: Millis = 8_000;
/// A killed process whose end is not seen is killed again: it may sit in an uninterruptible call.
const REKILL_MS: Millis = 1_000;
/// A timer seen this much too late means that init itself stood still (SIGSTOP, a starved machine):
/// words of modules may wait unread, and they get as long again to be read.
const LATE_MS: Millis = 1_000;
/// sysexits.h `EX_CONFIG`.
const EXIT_CONFIG: i32 = 78;

/// Key of a module: its Card's id.
pub(crate) type Id = String;

/// How far the end of the whole mesh is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shutdown {
    /// It is not to end.
    #[default]
    No,
    /// Processes are asked to end, what requires others first, and whatever is left at this time is
    /// killed.
    Until(Millis),
    /// All were killed.
    Forced,
}

/// All modules and what is to become of them.
#[derive(Debug, Default)]
pub(crate) struct State {
    modules: BTreeMap<Id, Entry>,
    shutdown: Shutdown,
    /// Outcome of the last [`Event::Cards`].
    pub(crate) last_reload: ReloadOut,
}

impl State {
    /// One module.
    #[must_use]
    pub(crate) fn entry(&self, id: &str) -> Option<&Entry> {
        self.modules.get(id)
    }

    /// One module, for the OS layer's own notes on it.
    pub(crate) fn entry_mut(&mut self, id: &str) -> Option<&mut Entry> {
        self.modules.get_mut(id)
    }

    /// Takes one event and says what has to be done.
    pub(crate) fn step(&mut self, event: Event, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Cards(cards) => self.load(cards, now, &mut effects),
            Event::Spawned { id, pid } => self.spawned(&id, pid, now, &mut effects),
            Event::SpawnFailed { id, reason, permanent } => {
                self.spawn_failed(&id, reason, permanent, now, &mut effects);
            }
            Event::Exited { id, pid, exit, last_line } => {
                self.exited(&id, pid, &exit, last_line, now, &mut effects);
            }
            Event::Attached { id, session } => self.attached(&id, session, now, &mut effects),
            Event::Introduced { card, socket, session, pid } => {
                let mut entry = Entry::new(*card, socket, now);
                entry.brought = true;
                entry.session = Some(session);
                entry.attributes.insert("pid".into(), pid.to_string());
                entry.incarnation = 1;
                entry.enter(Phase::Attached(Standing::Starting), now);
                self.modules.insert(entry.card.id.clone(), entry);
            }
            Event::Detached { session } => self.detached(&session, now, &mut effects),
            Event::Updated { update } => self.updated(update, now),
            Event::Notified { pid, ready, stopping, status } => {
                let found = self.by_pid(pid).cloned();
                if let Some(entry) = found.and_then(|id| self.modules.get_mut(&id)) {
                    touch(entry, now);
                    entry.reason = status.or(entry.reason.take());
                    if ready {
                        become_ready(entry, now);
                    }
                    if stopping {
                        leaves(entry, false, now);
                    }
                }
            }
            Event::Stranger { pid } => {
                // Whose word it was cannot be told; each that it may have been keeps the reason,
                // until it is ready.
                for entry in self.modules.values_mut().filter(|e| e.runs() && e.session.is_none()) {
                    if entry.state() == ModuleState::Starting {
                        entry.reason = Some(format!(
                            "READY=1 came from process {pid}, which has exited or belongs to no module: ignored"
                        ));
                    }
                }
            }
            Event::Command { label, command } => self.command(&label, command, now, &mut effects),
            Event::Shutdown if self.shutdown == Shutdown::No => self.shut_down(now, &mut effects),
            Event::Shutdown => self.kill_all(now, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        }
        self.settle(now, &mut effects);
        effects
    }

    fn load(&mut self, cards: Vec<(Card, String)>, now: Millis, effects: &mut Vec<Effect>) {
        let mut outcome = ReloadOut::default();
        let cycles = brahman_card::card::cycles(cards.iter().map(|(card, _)| card));
        let mut fresh: BTreeMap<Id, (Card, String)> =
            cards.into_iter().map(|(card, socket)| (card.id.clone(), (card, socket))).collect();
        let mut over = Vec::new();
        for (id, entry) in &mut self.modules {
            let label = entry.card.label.to_string();
            match fresh.remove(id) {
                Some((card, socket)) if card == entry.card && socket == entry.socket => {
                    outcome.unchanged.push(label);
                    // It was taken away, or changed, a moment ago, and is back while its process
                    // still drains.
                    if let Some(order @ (Afterwards::Remove | Afterwards::Replace(_))) =
                        entry.phase.order_mut()
                    {
                        *order = Afterwards::Start;
                    }
                }
                Some(pair) => {
                    outcome.changed.push(label);
                    let order = end(entry, id, Afterwards::Replace(Box::new(pair)), now, effects);
                    over.extend(order.map(|order| (id.clone(), order)));
                }
                // One that attached by itself is not in the folder and not ours to remove.
                None if entry.brought => outcome.unchanged.push(label),
                None => {
                    outcome.removed.push(label);
                    let order = end(entry, id, Afterwards::Remove, now, effects);
                    over.extend(order.map(|order| (id.clone(), order)));
                }
            }
        }
        for (id, (card, socket)) in fresh {
            outcome.added.push(card.label.to_string());
            let entry = Entry::new(card, socket, now);
            if entry.is_started_here() {
                effects.push(Effect::Bind { id: id.clone() });
            }
            self.modules.insert(id, entry);
        }
        for (id, order) in over {
            self.finish(&id, order, now, effects);
        }
        for (id, path) in cycles {
            if let Some(entry) = self.modules.get_mut(&id) {
                entry.reason = Some(format!("requires itself: {path}"));
                refuse(entry, now);
            }
        }
        self.last_reload = outcome;
    }

    fn spawned(&mut self, id: &str, pid: u32, now: Millis, effects: &mut Vec<Effect>) {
        let Some(entry) = self.modules.get_mut(id) else { return };
        let order = entry.phase.take_order();
        entry.enter(
            Phase::Running(pid, Stage::Starting { ready_by: patience(&entry.card, now) }),
            now,
        );
        if let Some(order) = order {
            // Not over at once: there is a process now.
            let _ = end(entry, id, order, now, effects);
        }
    }

    fn spawn_failed(
        &mut self,
        id: &str,
        reason: String,
        permanent: bool,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.modules.get_mut(id) else { return };
        entry.reason = Some(reason);
        if entry.pid().is_some() {
            // Its socket could not be bound, and then it could: the process is there, and is judged
            // by what it does.
            return;
        }
        let order = entry.phase.take_order();
        entry.unhealthy_row += 1;
        died(entry, permanent, now);
        if let Some(order) = order {
            self.finish(id, order, now, effects);
        }
    }

    fn attached(&mut self, id: &str, session: String, now: Millis, effects: &mut Vec<Effect>) {
        let Some(entry) = self.modules.get_mut(id) else { return };
        if !entry.is_started_here() {
            entry.incarnation += 1;
            entry.reason = None;
            entry.enter(Phase::Attached(Standing::Starting), now);
        } else if !entry.runs() {
            // Of a process whose end was seen: nothing that it says counts any more.
            return;
        }
        entry.session = Some(session.clone());
        touch(entry, now);
        if entry.phase.order_mut().is_some() {
            effects.push(Effect::Drain { session });
        }
    }

    fn exited(
        &mut self,
        id: &str,
        pid: u32,
        exit: &Exit,
        last_line: Option<String>,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) {
        let shutting_down = self.shutdown != Shutdown::No;
        let Some(entry) = self.modules.get_mut(id).filter(|entry| entry.pid() == Some(pid)) else {
            return;
        };
        let lived = now.saturating_sub(entry.since);
        let was = entry.state();
        entry.session = None;
        // What it said of itself holds until its next life says otherwise: calls that require it
        // wait for that.
        entry.is_former = true;
        if let Some(order) = entry.phase.take_order() {
            self.finish(id, order, now, effects);
            return;
        }
        if shutting_down {
            entry.enter(Phase::Stopped, now);
            return;
        }
        if *exit == Exit::Signal(9) {
            entry.kills += 1;
        } else {
            entry.deaths += 1;
        }
        let one_shot = entry.card.lifecycle == Lifecycle::Oneshot
            || entry.card.supervision == Supervision::OneShot;
        if *exit == Exit::Code(0) && one_shot {
            entry.reason = Some("done".into());
            entry.enter(Phase::Stopped, now);
            return;
        }
        let healthy = was == ModuleState::Ready && lived >= entry.policy().healthy_after_ms;
        if healthy {
            entry.unhealthy_row = 0;
            entry.cooldown_ms = COOLDOWN_MS.0;
            entry.half_open = false;
        } else {
            entry.unhealthy_row += 1;
        }
        // What the module itself said before it ended says more than its status.
        let said = entry.reason.take().filter(|_| was == ModuleState::Failed);
        let ended = exit.describe();
        entry.reason = Some(match (said, last_line) {
            (Some(reason), _) => reason,
            (None, Some(line)) if !healthy => format!("{ended}: {line}"),
            _ => ended,
        });
        died(entry, *exit == Exit::Code(EXIT_CONFIG) || one_shot, now);
    }

    /// A process ended as asked.
    fn finish(&mut self, id: &str, afterwards: Afterwards, now: Millis, effects: &mut Vec<Effect>) {
        let Some(entry) = self.modules.get_mut(id) else { return };
        match afterwards {
            Afterwards::Stay => {
                entry.reason = Some(match entry.stopped_by.take() {
                    Some(label) => format!("stopped by module `{label}`"),
                    None => "stopped by command".into(),
                });
                entry.enter(Phase::Stopped, now);
            }
            Afterwards::Start => {
                entry.restarts += 1;
                entry.reason = None;
                entry.enter(Phase::Waiting, now);
            }
            Afterwards::Remove => {
                self.modules.remove(id);
                effects.push(Effect::Forget { id: id.to_owned() });
            }
            Afterwards::Replace(pair) => {
                let (card, socket) = *pair;
                let (was_bound, moved) = (entry.is_started_here(), socket != entry.socket);
                let restarts = entry.restarts + 1;
                let mut next = Entry::new(card, socket, now);
                next.restarts = restarts;
                (next.deaths, next.kills) = (entry.deaths, entry.kills);
                next.incarnation = entry.incarnation;
                *entry = next;
                let bound = entry.is_started_here();
                if was_bound && (moved || !bound) {
                    effects.push(Effect::Forget { id: id.to_owned() });
                }
                if bound {
                    effects.push(Effect::Bind { id: id.to_owned() });
                }
            }
        }
    }

    fn detached(&mut self, session: &str, now: Millis, effects: &mut Vec<Effect>) {
        let Some((id, entry)) =
            self.modules.iter_mut().find(|(_, e)| e.session.as_deref() == Some(session))
        else {
            return;
        };
        entry.session = None;
        if entry.brought {
            let id = id.clone();
            self.modules.remove(&id);
            effects.push(Effect::Forget { id });
        } else if !entry.is_started_here() {
            entry.attributes.clear();
            entry.enter(Phase::Waiting, now);
        } else {
            // The process is judged by its end; a session lost alone is taken up again by the
            // module.
            touch(entry, now);
        }
    }

    fn updated(&mut self, update: UpdateIn, now: Millis) {
        let Some(entry) = self
            .modules
            .values_mut()
            .find(|e| e.session.as_deref() == Some(update.session.as_str()))
        else {
            return;
        };
        if let Some(attributes) = update.attributes {
            if std::mem::take(&mut entry.is_former) {
                entry.attributes.clear();
            }
            entry.attributes.extend(attributes);
        }
        match update.state {
            Some(ModuleState::Ready) => become_ready(entry, now),
            Some(ModuleState::Loading) => {
                entry.reason = update.reason;
                loads(entry, now);
            }
            Some(state @ (ModuleState::Failed | ModuleState::Draining)) => {
                entry.reason = update.reason.or(entry.reason.take());
                leaves(entry, state == ModuleState::Failed, now);
            }
            _ => {}
        }
        touch(entry, now);
    }

    /// Notes, before a command, whose it is if it is to stop something: that of the module whose
    /// process this is, or a person's. What comes by the broker or the gateway is said for others,
    /// and taken for a person's.
    pub(crate) fn note_commander(&mut self, label: &str, command: Command, pid: i32) {
        let is_its =
            |entry: &&Entry| entry.pid().is_some_and(|own| i64::from(own) == i64::from(pid));
        let passes_on = |card: &Card| {
            card.delegate_uid
                || card.offered_interfaces().any(|name| name == broker::INTERFACE.name)
        };
        let its = self
            .modules
            .values()
            .find(is_its)
            .filter(|entry| command == Command::Stop && !passes_on(&entry.card));
        let by = its.map(|entry| entry.card.label.to_string());
        for entry in self.modules.values_mut().filter(|e| e.card.label.answers_to(label)) {
            entry.stopped_by.clone_from(&by);
        }
    }

    fn command(&mut self, label: &str, command: Command, now: Millis, effects: &mut Vec<Effect>) {
        let mut over = Vec::new();
        for (id, entry) in self.modules.iter_mut().filter(|(_, e)| e.card.label.answers_to(label)) {
            if !entry.is_started_here() {
                // Its end is its own doing; all that can be done is to ask.
                if let Some(session) = entry.session.clone().filter(|_| command == Command::Stop) {
                    entry.enter(Phase::Attached(Standing::Draining), now);
                    effects.push(Effect::Drain { session });
                }
                continue;
            }
            match command {
                Command::Stop => {
                    let order = end(entry, id, Afterwards::Stay, now, effects);
                    over.extend(order.map(|order| (id.clone(), order)));
                }
                Command::Restart if entry.runs() => {
                    // Not over at once: there is a process.
                    let _ = end(entry, id, Afterwards::Start, now, effects);
                }
                Command::Start if entry.runs() => {
                    if let Some(order @ Afterwards::Stay) = entry.phase.order_mut() {
                        *order = Afterwards::Start;
                    }
                }
                Command::Start | Command::Restart => {
                    entry.half_open = false;
                    entry.unhealthy_row = 0;
                    entry.recent.clear();
                    entry.reason = None;
                    entry.enter(Phase::Waiting, now);
                }
            }
        }
        for (id, order) in over {
            self.finish(&id, order, now, effects);
        }
    }

    /// Begins to end everything: the processes in turn, and who attached by himself is asked to go.
    fn shut_down(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let until = now + SHUTDOWN_GRACE_MS;
        self.shutdown = Shutdown::Until(until);
        for entry in self.modules.values_mut() {
            match &mut entry.phase {
                Phase::Spawning { .. } => {}
                Phase::Running(_, stage) => {
                    // One grace for all, whatever each was given before.
                    if let Some(kill_at) = stage.kill_at_mut() {
                        *kill_at = until;
                    }
                }
                _ => match entry.session.clone() {
                    Some(session) => effects.push(Effect::Drain { session }),
                    None => entry.enter(Phase::Stopped, now),
                },
            }
        }
    }

    /// Ends every process that is left, now.
    fn kill_all(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        self.shutdown = Shutdown::Forced;
        for (id, entry) in self.modules.iter_mut().filter(|(_, entry)| entry.runs()) {
            end_with_all(entry, now + REKILL_MS, now);
            effects.push(Effect::Kill { id: id.clone() });
        }
    }

    fn tick(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if let Shutdown::Until(at) = self.shutdown
            && at <= now
        {
            self.kill_all(now, effects);
        }
        for (id, entry) in &mut self.modules {
            tick(entry, id, now, effects);
        }
    }

    /// Starts what can start, ends what may end, and notices that all is over.
    fn settle(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let kill_at = match self.shutdown {
            Shutdown::No => None,
            Shutdown::Until(at) => Some(at),
            Shutdown::Forced => Some(now + REKILL_MS),
        };
        if let Some(kill_at) = kill_at {
            let needed: Vec<Id> = graph::needed_by_running(
                self.modules.iter().map(|(id, e)| (id, &e.card, e.runs())),
            );
            for (id, entry) in &mut self.modules {
                if entry.pid().is_some()
                    && entry.phase.order_mut().is_none()
                    && !needed.contains(id)
                {
                    end_with_all(entry, kill_at, now);
                    effects.push(Effect::Terminate { id: id.clone() });
                }
            }
            if !self.modules.values().any(Entry::runs) {
                effects.push(Effect::Exit);
            }
            return;
        }
        let met = graph::MetRequirements::of(self.modules.values().map(|e| (&e.card, e.state())));
        for (id, entry) in &mut self.modules {
            if entry.phase != Phase::Waiting {
                continue;
            }
            if !entry.is_started_here() {
                entry.reason =
                    Some("waits for its module to attach: init does not start it".into());
                continue;
            }
            if let Some(missing) = met.missing(&entry.card) {
                entry.reason = Some(format!("waits for `{missing}`"));
                continue;
            }
            entry.reason = None;
            entry.incarnation += 1;
            entry.enter(Phase::Spawning { order: None }, now);
            effects.push(Effect::Spawn { id: id.clone() });
        }
    }
}
