//! What the state is told, and what it wants done: two closed lists, and all that passes between it
//! and the system.

use brahman_card::Card;
use brahman_card::interface::init::UpdateIn;

use super::Id;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Code(code) => format!("exited with status {code}"),
            Self::Signal(signal) => format!("killed by signal {signal}"),
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The Cards as they are on disk now: at start, and at every reload.
    Cards(Vec<(Card, String)>),
    /// A process was started.
    Spawned { id: Id, pid: u32 },
    /// It could not be; a permanent reason is not retried.
    SpawnFailed { id: Id, reason: String, permanent: bool },
    /// A process ended; `last_line` is the last thing it wrote.
    Exited { id: Id, pid: u32, exit: Exit, last_line: Option<String> },
    /// A module opened its session.
    Attached { id: Id, session: String },
    /// A foreign module brought its own Card.
    Introduced { card: Box<Card>, socket: String, session: String, pid: u32 },
    /// A session ended.
    Detached { session: String },
    /// A module's word on itself.
    Updated { update: UpdateIn },
    /// A foreign program's word by sd_notify.
    Notified { pid: u32, ready: bool, stopping: bool, status: Option<String> },
    /// A word by sd_notify that says ready, from a process that belongs to no module.
    Stranger { pid: u32 },
    /// Somebody's command.
    Command { label: String, command: Command },
    /// Stop everything; a second time, at once.
    Shutdown,
    /// A timer may be due.
    Tick,
}

/// What a person can ask of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Run it.
    Start,
    /// End it and leave it so.
    Stop,
    /// End it if it runs, then run it.
    Restart,
}

/// What the OS layer has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Bind the module's socket, or set who may connect if it is bound.
    Bind { id: Id },
    /// Start a process.
    Spawn { id: Id },
    /// Ask the process to end.
    Terminate { id: Id },
    /// Kill its whole group.
    Kill { id: Id },
    /// Tell the module over its session to finish.
    Drain { session: String },
    /// Close the socket and forget the module.
    Forget { id: Id },
    /// Everything has ended.
    Exit,
}
