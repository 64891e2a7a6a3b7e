//! The life of a module as init publishes it, and the broker and `status` read it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Card;

/// Where a module is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModuleState {
    /// Waits for what it requires.
    #[default]
    Waiting,
    /// Spawned, has said nothing yet.
    Starting,
    /// Has said that it loads (a model, a cache).
    Loading,
    /// Has said that it serves.
    Ready,
    /// Finishes what it has; takes nothing new.
    Draining,
    /// Ended as asked, or a one-shot that is done.
    Stopped,
    /// Died; starts again after a delay.
    Backoff,
    /// Will not start by itself, or only after a cool-down; `reason` says why.
    Failed,
}

impl ModuleState {
    /// The word on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
        }
    }

    /// Whether the module is on its way to ready without anybody's help, so that a call may wait
    /// for it.
    #[must_use]
    pub fn is_coming(self) -> bool {
        matches!(
            self,
            Self::Waiting | Self::Starting | Self::Loading | Self::Backoff | Self::Draining
        )
    }
}

/// One module: intent (its Card) and fact (its state).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleRecord {
    /// What it said of itself.
    #[schemars(with = "serde_json::Value")]
    pub card: Card,
    /// Where it is in its life.
    pub state: ModuleState,
    /// Absolute path of its socket; in a run folder whose path is not UTF-8 the file's name alone,
    /// beside the mesh socket.
    pub socket: String,
    /// Process id, 0 if none runs.
    pub pid: u32,
    /// Which life this is; grows with every start.
    pub incarnation: u64,
    /// Restarts since init started.
    pub restarts: u64,
    /// Ends of its process that nobody ordered, but for those by SIGKILL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deaths: Option<u64>,
    /// Ends of its process by SIGKILL: from outside, or for want of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kills: Option<u64>,
    /// Milliseconds since it became ready, or since its state changed.
    pub uptime_ms: u64,
    /// Why it failed or waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The Card's attributes overlaid with what the module reported.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// Limits of the Card that this machine does not enforce.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortfalls: Vec<String>,
    /// The file that its Card was read from, or that it is built in; absent if the module brought
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}
