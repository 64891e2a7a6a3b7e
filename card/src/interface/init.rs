//! `org.brahman.Init`: the supervisor's table, commands on it, and the session a module keeps with it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Interface;
use crate::{ModuleRecord, ModuleState};

/// The interface.
pub const INTERFACE: Interface = Interface {
    name: "org.brahman.Init",
    idempotent: &["List", "Check", "Watch", "Logs"],
    idl: "# Supervises the modules and holds their sockets.
interface org.brahman.Init

# Administration (everything but List, Watch and Check) is for the mesh's own user and root. To others the Cards are
# shown without their environment.

# Intent (the Card) and fact (the rest) of one module. `socket` is an absolute path; in a run folder whose path is not
# UTF-8 it is the file's name alone, beside the mesh socket.
type Record (
  card: object,
  state: string,
  socket: string,
  pid: int,
  incarnation: int,
  restarts: int,
  deaths: ?int,
  kills: ?int,
  uptime_ms: int,
  reason: ?string,
  attributes: [string]string,
  shortfalls: ?[]string
)

type Line (at_ms: int, pid: int, stream: string, text: string)

# `log_lines_lost`: lines of the log that could not be written since init started (its reader has gone, a full disk).
method List() -> (modules: []Record, log_lines_lost: ?int)

# Each acts on every module of that label, and answers as soon as the command is taken. A module that attached by
# itself is only stopped: it is asked to drain over its session.
method Start(label: string) -> ()
method Stop(label: string) -> ()
method Restart(label: string) -> ()

# Reads the Cards again and applies the difference, touching nothing else.
method Reload() -> (added: []string, removed: []string, changed: []string, unchanged: []string)

# Validates a Card without taking it.
method Check(card: object) -> (label: string, id: string, warnings: []string)

# The last lines of a module; with `follow` and `more`, then each new one.
method Logs(label: string, follow: ?bool, lines: ?int) -> (lines: []Line, dropped: int)

# A module's session, called with `more`. A module that init started sends the id of its Card; another sends a Card.
# The first reply names the session for `Update`; later ones say `drain`. Hang-up detaches.
method Attach(card: ?object, id: ?string) -> (session: string, drain: bool)

# The module's word on itself: loading, ready, draining or failed. Attributes overlay the Card's.
method Update(session: string, state: ?string, reason: ?string, attributes: ?[string]string) -> ()

# Call with `more`: the whole table now, then again whenever it changes. The latest state always arrives.
method Watch() -> (modules: []Record, generation: int)

# Stops every module in order, then init itself.
method Shutdown() -> ()

error NoSuchModule (message: string, retryable: bool, label: string)
# The Card was refused; the message names the field and what was expected.
error BadCard (message: string, retryable: bool)
error NoSuchSession (message: string, retryable: bool)
# init does not start this module: it attached by itself, or its Card says that somebody else supervises it.
error NotSupervised (message: string, retryable: bool, label: string)
",
};

/// Reply of `List`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ListOut {
    /// Every module, by label.
    pub modules: Vec<ModuleRecord>,
    /// Lines of the log that could not be written; absent if none was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_lines_lost: Option<u64>,
}

/// Parameters of `Start`, `Stop` and `Restart`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelIn {
    /// Which modules.
    pub label: String,
}

/// Reply of `Reload`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ReloadOut {
    /// Labels that are new.
    pub added: Vec<String>,
    /// Labels that are gone.
    pub removed: Vec<String>,
    /// Labels restarted because their Card changed.
    pub changed: Vec<String>,
    /// Labels left alone.
    pub unchanged: Vec<String>,
}

/// Parameters of `Check`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckIn {
    /// The Card as JSON.
    pub card: serde_json::Value,
}

/// Reply of `Check`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CheckOut {
    /// Its label.
    pub label: String,
    /// Its id, minted if it had none.
    pub id: String,
    /// What this machine will not enforce.
    pub warnings: Vec<String>,
}

/// Parameters of `Logs`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogsIn {
    /// Which module.
    pub label: String,
    /// Stay and send new lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
    /// How many of the last lines; 100 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
}

/// One line of a module's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// Unix time.
    pub at_ms: u64,
    /// Who wrote it.
    pub pid: u32,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Without the newline; invalid UTF-8 replaced.
    pub text: String,
}

/// Reply of `Logs`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LogsOut {
    /// Oldest first.
    pub lines: Vec<Line>,
    /// Lines that the ring had to give up so far.
    pub dropped: u64,
}

/// Parameters of `Attach`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachIn {
    /// A Card, from a module that init did not start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<serde_json::Value>,
    /// The Card's id, from one that it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Replies of `Attach`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AttachOut {
    /// Names the session in `Update`.
    pub session: String,
    /// The module is asked to finish and end.
    pub drain: bool,
}

/// Parameters of `Update`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateIn {
    /// From `Attach`.
    pub session: String,
    /// `loading`, `ready`, `draining` or `failed`; absent is a sign of life alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub state: Option<ModuleState>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Overlays the Card's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<BTreeMap<String, String>>,
}

/// Replies of `Watch`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WatchOut {
    /// Every module, by label.
    pub modules: Vec<ModuleRecord>,
    /// Grows with every change.
    pub generation: u64,
}
