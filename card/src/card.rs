//! The Card: one module's typed flows, priority per context, socket and limits.
//!
//! Parsing is `bytes → serde_json::Value → raw fields → Card`, whichever of TOML and JSON it came
//! from, so both dialects have one set of rules and one set of messages. Unknown keys are refused
//! unless they are reverse-domain (`"com.example.team" = …`): those land in [`Card::extensions`].

mod context;
mod names;
mod parse;
mod requires;
mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::names::{Label, REPLICAS_MAX};
pub use context::{answers, contexts, nearest, unknown_context};
pub use names::{INTERFACES_OF_INIT, SOCKET_PATH_BYTES_MAX, is_reserved};
pub use parse::{CardError, Dialect, json_schema};
pub use requires::{cycles, satisfies};
pub use units::ByteSize;

/// A Card may be at most this long; a Card is written by hand and the shipped ones are under 2 KiB.
pub const CARD_BYTES_MAX: usize = 256 * 1024;
/// Most entries any list or map of a Card may hold: generous for a person, small for a loop over
/// all Cards.
pub const ENTRIES_MAX: usize = 64;
/// Longest string a Card may hold (a path or a description, never a payload).
pub const STRING_BYTES_MAX: usize = 4096;

/// What a module says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Always 1, until a Card's shape changes.
    pub schema_version: u32,
    /// ULID. Absent: derived from label and socket, so that the same Card has the same id on every
    /// machine.
    #[serde(default)]
    pub id: String,
    /// Name of the module: 1 to 64 of `a-z0-9._-`. Equal labels are replicas of one another.
    pub label: Label,
    /// What init runs, if anything.
    pub payload: Payload,
    /// What init does when the process ends.
    #[serde(default)]
    pub supervision: Supervision,
    /// Whether the process is meant to stay.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// How many modules the Card makes: more than 1 are called `label@1`, `label@2`, …, each with a
    /// process, a socket, a state directory and logs of its own. Calls are shared among them.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub replicas: u32,
    /// Rank among providers of the same flow, before the context's offset.
    #[serde(default)]
    pub priority: Priority,
    /// Free word for people and lists, such as `embed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Socket file name (or absolute path) that init binds for the module; `<label>.sock` if
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_socket: Option<String>,
    /// Addresses at which init listens for the module: a socket's file name, in the place of
    /// `service_socket`, and TCP addresses such as `tcp:127.0.0.1:7077`. They are bound once and
    /// outlive the module's process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<String>,
    /// What it asks for and what it offers.
    #[serde(default)]
    pub flow: Flows,
    /// Changes of rank by context.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub priority_contexts: BTreeMap<String, ContextRule>,
    /// True for a provider of synthetic answers.
    #[serde(default)]
    pub mock: bool,
    /// Facts that callers may require: model, dim, device.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Labels or flows that must be ready before this module starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Resource limits, enforced or listed as a shortfall.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// How much of the module the broker may use at once.
    #[serde(default)]
    pub quotas: Quotas,
    /// How long it may take to become ready.
    #[serde(default)]
    pub readiness: Readiness,
    /// Seconds without a word from the module after which it is killed and restarted; 0 is never.
    #[serde(default)]
    pub watchdog_s: u32,
    /// Whether it is told the caller's uid (`org.brahman.uid`), and with it the other additions to
    /// a call's header. A strict peer refuses keys that it does not know, so a foreign program is
    /// spared them unless it asks; but of an interface of the mesh's own it is told the uid of
    /// whoever calls through a module with `delegate_uid`, lest it take him for the mesh's user.
    #[serde(default)]
    pub wants_uid: bool,
    /// Whether the broker takes its word on whose behalf it calls (`org.brahman.uid`): for a module
    /// through which others reach the mesh.
    #[serde(default, skip_serializing_if = "is_false")]
    pub delegate_uid: bool,
    /// Who may call it, where `BRAHMAN_GROUP` lets a group in.
    #[serde(default, skip_serializing_if = "Access::is_owner")]
    pub access: Access,
    /// Environment added to the module's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Reverse-domain keys, kept and shown, never interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, serde_json::Value>,
}

/// A Card makes one module unless it says otherwise.
fn one() -> u32 {
    1
}

/// The default, which is left out of what is written: a reader that does not know the field reads
/// such Cards as ever.
fn is_one(replicas: &u32) -> bool {
    *replicas == 1
}

/// The default, which is left out of what is written.
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What the TCP addresses among a Card's `listen` begin with.
pub const TCP: &str = "tcp:";

/// What init runs for a module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// A program of this machine.
    Native(Native),
    /// Nothing: the module attaches by itself.
    Virtual,
}

/// A program, its arguments and its environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Native {
    /// Absolute path, or a bare name looked for beside `brahman-init`, then in `PATH`.
    pub exec: String,
    /// Arguments after the program's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// Environment of the program.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// What follows a process's end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Supervision {
    /// Restart it by this policy.
    Restart(RestartPolicy),
    /// Let it end; a zero status is success.
    OneShot,
    /// Somebody else supervises it.
    Delegate,
}

impl Default for Supervision {
    fn default() -> Self {
        Self::Restart(RestartPolicy::default())
    }
}

/// Exponential backoff inside an intensity, as OTP and systemd know it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestartPolicy {
    /// First delay after an unhealthy life. The first restart after a healthy one is immediate.
    pub initial_ms: u64,
    /// Longest delay, which doubling ends at.
    pub max_ms: u64,
    /// This many restarts in `period_s` and the module is `failed` until a cool-down has passed.
    pub intensity: u32,
    /// Window in which `intensity` starts are counted.
    pub period_s: u64,
    /// A life this long resets the backoff.
    pub healthy_after_ms: u64,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        // 100 ms is systemd's RestartSec; 12 restarts in 60 s leaves room for a bad minute, not for
        // a loop.
        Self { initial_ms: 100, max_ms: 10_000, intensity: 12, period_s: 60, healthy_after_ms: 500 }
    }
}

/// Whether a clean exit is an end or a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Stays; an exit of 0 that nobody asked for is restarted inside the policy like any other.
    #[default]
    Daemon,
    /// Runs once; an exit of 0 is the end.
    Oneshot,
}

/// Who may call a module. Administration of the mesh is its owner's and root's, whatever a Card
/// says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// The mesh's own user, and root.
    #[default]
    Owner,
    /// Members of the mesh's group, too.
    Group,
}

impl Access {
    /// The default, which is left out of what is written: a reader that does not know the field
    /// reads such Cards as ever.
    fn is_owner(&self) -> bool {
        *self == Self::Owner
    }
}

/// Rank of a provider before the context's offset.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// 0
    Low,
    /// 1
    #[default]
    Normal,
    /// 2
    High,
    /// 3
    Critical,
}

impl Priority {
    /// The number that offsets are added to; offsets are never clamped.
    #[must_use]
    pub fn rank(self) -> i64 {
        self as i64
    }
}

/// What a module asks for and offers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Flows {
    /// Flows that the module calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub input: Vec<Flow>,
    /// Flows that the module serves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<Flow>,
}

/// One flow, wanted or offered, and its type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Short name, such as `embed`.
    pub name: String,
    /// What is called, such as a Varlink interface.
    #[serde(rename = "type")]
    pub ty: FlowType,
    /// On an input: the label that is to serve it, whatever the ranking says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_to: Option<Label>,
    /// On an input: attributes the provider must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub require: BTreeMap<String, String>,
    /// On an output whose interface Brahman does not ship: methods that may be called again after a
    /// failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idempotent: Vec<String>,
}

/// The type of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlowType {
    /// A plain datum.
    Primitive {
        /// Its name, such as `text`.
        name: String,
    },
    /// A Varlink interface.
    Interface {
        /// Its full name, such as `org.brahman.Embed`.
        name: String,
    },
}

/// How one context changes a module's rank, as provider or as asker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContextRule {
    /// Added to the priority when this module is a candidate; not clamped.
    pub priority_offset: i64,
    /// When this module asks in this context: the label that serves its inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_to: Option<Label>,
    /// Never a candidate in this context.
    pub exclude: bool,
}

/// Resource limits. What this machine cannot enforce is listed in `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of memory, as a number or as `"512M"`: cgroup `memory.max`, else `RLIMIT_DATA`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Processes and threads: cgroup `pids.max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Open files at most, as `RLIMIT_NOFILE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// cgroup `cpu.weight`, 1 to 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u64>,
    /// GPU memory the module may reserve. Advisory: the module is told through its environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vram_mib: Option<u64>,
}

impl Limits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the broker and the module's own server let in at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    /// Connections the module accepts.
    pub connections: u32,
    /// Calls in flight at once through the broker.
    pub in_flight: u32,
    /// Calls that may wait for one of those places.
    pub queue: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        // sd-varlink allows 4096 connections; 256 calls keep every core busy many times over.
        Self { connections: 4096, in_flight: 256, queue: 1024 }
    }
}

/// How long a module may load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Readiness {
    /// Seconds from start to ready, after which the start counts as failed.
    pub timeout_s: u32,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { timeout_s: 90 }
    }
}

impl Card {
    /// Reads a Card. `origin` is a file name for the messages; the dialect follows its ending.
    ///
    /// # Errors
    /// [`CardError`], which names the origin, the field and what was expected.
    pub fn parse(origin: &str, text: &[u8]) -> Result<Self, CardError> {
        parse::parse(origin, text, Dialect::of(origin, text))
    }

    /// The Card as JSON, which [`Self::parse`] reads again.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and JSON values only.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// File name of the socket that init binds for this module.
    #[must_use]
    pub fn socket_name(&self) -> String {
        let named = self
            .service_socket
            .as_ref()
            .or_else(|| self.listen.iter().find(|address| !address.starts_with(TCP)));
        named.cloned().unwrap_or_else(|| format!("{}.sock", self.label))
    }

    /// The TCP addresses at which init listens for this module.
    #[must_use]
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        self.listen.iter().filter_map(|address| address.strip_prefix(TCP)?.parse().ok()).collect()
    }

    /// The modules that this Card makes: itself, or its replicas, each with an id and a socket of
    /// its own.
    #[must_use]
    pub fn instances(&self) -> Vec<Self> {
        if self.replicas <= 1 {
            return vec![self.clone()];
        }
        let replica = |number| {
            let mut replica =
                Self { label: self.label.replica(number), replicas: 1, ..self.clone() };
            replica.id = parse::minted_id(&replica);
            replica
        };
        (1..=self.replicas).map(replica).collect()
    }

    /// Interfaces among the offered flows.
    pub fn offered_interfaces(&self) -> impl Iterator<Item = &str> {
        self.flow.output.iter().filter_map(|flow| match &flow.ty {
            FlowType::Interface { name } => Some(name.as_str()),
            FlowType::Primitive { .. } => None,
        })
    }
}
