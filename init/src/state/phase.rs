//! What a module is doing, and the one timer that goes with it.
//!
//! A timer lives in the phase that it ends, and an order in the process that it was given to, so
//! that none outlives what it was for: a process that is to end has no watchdog, one that does not
//! run has nothing to be killed, and what waits to be started has no order.

use brahman_card::{Card, ModuleState};

use super::Millis;

/// What becomes of a module once its process has ended as asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Afterwards {
    Stay,
    Start,
    Remove,
    Replace(Box<(Card, String)>),
}

/// What a module is doing.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    /// No process: one is started once all that it requires is ready. What init does not start
    /// waits for its module to attach.
    Waiting,
    /// No process: the next is tried at this time.
    Backoff { start_at: Millis },
    /// No process, after too many deaths: one more is tried at this time. Without a time, only a
    /// person or another Card has it tried.
    Failed { start_at: Option<Millis> },
    /// No process, because somebody wanted that, or its work is done.
    Stopped,
    /// A process is being started; an order meanwhile is carried out once it is there.
    Spawning { order: Option<Afterwards> },
    /// A process of this number runs.
    Running(u32, Stage),
    /// Its module attached by itself, and init has no process of it.
    Attached(Standing),
}

/// How far a process is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stage {
    /// It was started, and has until then to be ready.
    Starting { ready_by: Millis },
    /// It loads, and has until then to be ready.
    Loading { ready_by: Millis },
    /// It serves. With a watchdog its next word is due by then.
    Ready { alive_by: Option<Millis> },
    /// It is to end, by order or by its own word, and is killed at this time.
    Draining { kill_at: Millis, order: Option<Afterwards> },
    /// It cannot serve, and is killed at this time. One whose Card has come to require itself runs
    /// on for what it still does.
    Failed { kill_at: Option<Millis> },
}

/// How a module that attached by itself stands, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Starting,
    Loading,
    Ready,
    Draining,
    Failed,
}

impl Phase {
    pub(super) fn state(&self) -> ModuleState {
        match self {
            Self::Waiting => ModuleState::Waiting,
            Self::Backoff { .. } => ModuleState::Backoff,
            Self::Stopped => ModuleState::Stopped,
            Self::Spawning { .. }
            | Self::Running(_, Stage::Starting { .. })
            | Self::Attached(Standing::Starting) => ModuleState::Starting,
            Self::Running(_, Stage::Loading { .. }) | Self::Attached(Standing::Loading) => {
                ModuleState::Loading
            }
            Self::Running(_, Stage::Ready { .. }) | Self::Attached(Standing::Ready) => {
                ModuleState::Ready
            }
            Self::Running(_, Stage::Draining { .. }) | Self::Attached(Standing::Draining) => {
                ModuleState::Draining
            }
            Self::Failed { .. }
            | Self::Running(_, Stage::Failed { .. })
            | Self::Attached(Standing::Failed) => ModuleState::Failed,
        }
    }

    /// The process, if one runs.
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Running(pid, _) => Some(*pid),
            _ => None,
        }
    }

    /// Whether there is a process, or will be in a moment.
    pub(super) fn runs(&self) -> bool {
        matches!(self, Self::Spawning { .. } | Self::Running(..))
    }

    /// When something is to be done if nothing happens before.
    pub(super) fn timer(&self) -> Option<Millis> {
        match self {
            Self::Waiting | Self::Stopped | Self::Spawning { .. } | Self::Attached(_) => None,
            Self::Backoff { start_at } => Some(*start_at),
            Self::Failed { start_at } => *start_at,
            Self::Running(_, stage) => stage.timer(),
        }
    }

    /// What was ordered of its process.
    pub(super) fn order_mut(&mut self) -> Option<&mut Afterwards> {
        match self {
            Self::Spawning { order } | Self::Running(_, Stage::Draining { order, .. }) => {
                order.as_mut()
            }
            _ => None,
        }
    }

    /// The same, which is carried out now.
    pub(super) fn take_order(&mut self) -> Option<Afterwards> {
        match self {
            Self::Spawning { order } | Self::Running(_, Stage::Draining { order, .. }) => {
                order.take()
            }
            _ => None,
        }
    }
}

impl Stage {
    fn timer(&self) -> Option<Millis> {
        match self {
            Self::Starting { ready_by } | Self::Loading { ready_by } => Some(*ready_by),
            Self::Ready { alive_by } => *alive_by,
            Self::Draining { kill_at, .. } => Some(*kill_at),
            Self::Failed { kill_at } => *kill_at,
        }
    }

    /// When it is killed, if it is to end.
    pub(super) fn kill_at_mut(&mut self) -> Option<&mut Millis> {
        match self {
            Self::Draining { kill_at, .. } | Self::Failed { kill_at: Some(kill_at) } => {
                Some(kill_at)
            }
            _ => None,
        }
    }

    /// By when the module itself has to say something.
    pub(super) fn word_by_mut(&mut self) -> Option<&mut Millis> {
        match self {
            Self::Starting { ready_by } | Self::Loading { ready_by } => Some(ready_by),
            Self::Ready { alive_by } => alive_by.as_mut(),
            Self::Draining { .. } | Self::Failed { .. } => None,
        }
    }

    /// Whether it is to end: no word of its own changes that.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self, Self::Draining { .. } | Self::Failed { kill_at: Some(_) })
    }
}
