//! `org.brahman.Init`: the supervisor's table, commands on it, and the session a module keeps with
//! it.

use std::collections::BTreeMap;

use brahman_card_derive::wire;

use crate::{ModuleRecord, ModuleState};

interface! {
    /// Supervises the modules and holds their sockets.
    ///
    /// Administration (everything but List, Watch and Check) is for the mesh's own user and root.
    /// To others the Cards are shown without their environment.
    "org.brahman.Init"
    methods {
        List() -> ListOut: idempotent, reads;
        /// Starts every module of that label, and answers as soon as the command is taken, as
        /// `Stop` and `Restart` do.
        Start(LabelIn);
        /// A module that attached by itself is only stopped: it is asked to drain over its session.
        Stop(LabelIn);
        Restart(LabelIn);
        /// Reads the Cards again and applies the difference, touching nothing else: labels come
        /// back.
        Reload() -> ReloadOut;
        /// Validates a Card without taking it.
        Check(CheckIn) -> CheckOut: idempotent, reads;
        /// The last lines of a module; with `follow` and `more`, then each new one.
        Logs(LogsIn) -> LogsOut: idempotent, endless, reads;
        /// A module's session, called with `more`. A module that init started sends the id of its
        /// Card; another sends a Card. The first reply names the session for `Update`; later ones
        /// say `drain`. Hang-up detaches.
        Attach(AttachIn) -> AttachOut: endless;
        /// The module's word on itself. Attributes overlay the Card's.
        Update(UpdateIn);
        /// Call with `more`: the whole table now, then again whenever it changes. The latest state
        /// always arrives.
        Watch() -> WatchOut: idempotent, endless, reads;
        /// Stops every module in order, then init itself.
        Shutdown();
    }
    errors {
        NoSuchModule { label: String }
        /// The Card was refused; the message names the field and what was expected.
        BadCard {}
        NoSuchSession {}
        /// init does not start this module: it attached by itself, or its Card says that somebody
        /// else supervises it.
        NotSupervised { label: String }
    }
}

#[wire]
pub struct ListOut {
    /// In the order of their labels.
    pub modules: Vec<ModuleRecord>,
    /// Lines of the log that could not be written since init started (its reader has gone, a full
    /// disk); absent if none was lost.
    pub log_lines_lost: Option<u64>,
    /// Where the modules' output is kept: a folder of log files, or `journal` for systemd's.
    pub logs: Option<String>,
    /// Lines that could not be kept there since init started (a full disk); absent if none was.
    pub log_lines_unkept: Option<u64>,
}

/// Parameters of `Start`, `Stop` and `Restart`.
#[wire]
pub struct LabelIn {
    pub label: String,
}

#[wire]
pub struct ReloadOut {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    /// Restarted, because their Cards changed.
    pub changed: Vec<String>,
    pub unchanged: Vec<String>,
}

#[wire]
pub struct CheckIn {
    pub card: serde_json::Value,
}

#[wire]
pub struct CheckOut {
    pub label: String,
    /// Minted if it had none.
    pub id: String,
    /// What this machine will not enforce.
    pub warnings: Vec<String>,
}

#[wire]
pub struct LogsIn {
    pub label: String,
    pub follow: Option<bool>,
    /// How many of the last lines; 100 unless said.
    pub lines: Option<u64>,
}

/// One line of a module's output.
#[wire(Eq)]
pub struct Line {
    /// Unix time of the line in milliseconds.
    pub at_ms: u64,
    pub pid: u32,
    /// Whence it came: `stdout` or `stderr`.
    pub stream: String,
    /// Without the newline; invalid UTF-8 replaced.
    pub text: String,
    /// Label of the module, where lines of several stand side by side.
    pub label: Option<String>,
}

#[wire]
pub struct LogsOut {
    /// The lines asked for, the oldest first.
    pub lines: Vec<Line>,
    /// Lines that the ring had to give up so far.
    pub dropped: u64,
}

#[wire]
pub struct AttachIn {
    pub card: Option<serde_json::Value>,
    pub id: Option<String>,
}

#[wire]
pub struct AttachOut {
    /// Names the session in `Update`.
    pub session: String,
    /// The module is asked to finish and end.
    pub drain: bool,
}

#[wire]
pub struct UpdateIn {
    /// As the first reply of `Attach` names it.
    pub session: String,
    /// `loading`, `ready`, `draining` or `failed`; absent is a sign of life alone.
    pub state: Option<ModuleState>,
    /// Why it failed, for `status` to say.
    pub reason: Option<String>,
    pub attributes: Option<BTreeMap<String, String>>,
}

#[wire]
pub struct WatchOut {
    /// In the order of their labels.
    pub modules: Vec<ModuleRecord>,
    /// Grows with every change.
    pub generation: u64,
}
