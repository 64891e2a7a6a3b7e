//! `org.brahman.Broker`: who serves what, why, and in which context.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Interface;
use crate::ModuleState;

/// The interface.
pub const INTERFACE: Interface = Interface {
    name: "org.brahman.Broker",
    idempotent: &["Resolve", "Watch", "Explain", "GetContext", "SetContext", "Status"],
    idl: "# Matches flows to providers by context. Any other interface called on the mesh socket is
# resolved here and spliced through to its provider.
interface org.brahman.Broker

# A provider chosen for a flow. `via` is exact or structural.
type Match (
  flow: string,
  label: string,
  id: string,
  socket: string,
  via: string,
  pinned: bool,
  priority: int,
  mock: bool,
  state: string,
  attributes: [string]string,
  idempotent: ?[]string
)

# One provider as the matcher saw it. `rank` is its place among the eligible, from 0.
type Candidate (match: Match, eligible: bool, reason: ?string, rank: ?int)

type Module (
  label: string,
  state: string,
  pid: int,
  restarts: int,
  uptime_s: float,
  flows: []string,
  mock: bool,
  reason: ?string,
  queue: int,
  p50_us: ?int,
  p99_us: ?int,
  calls: int,
  failures: int,
  breaker: ?string,
  attributes: [string]string,
  shortfalls: ?[]string
)

# The provider a call to `flow` (an interface name) would go to now.
method Resolve(flow: string, context: ?string, require: ?[string]string) -> (match: Match, generation: int)

# Call with `more`: the match now, then again whenever it changes. `match` is null while nothing serves the flow.
# The latest state always arrives; states in between may be skipped.
method Watch(flow: string, context: ?string, require: ?[string]string) -> (match: ?Match, generation: int)

# Every provider of `flow`, ranked, or with the reason it was refused.
method Explain(flow: string, context: ?string, require: ?[string]string) -> (context: ?string, candidates: []Candidate, note: ?string)

method GetContext() -> (context: ?string)

# New calls follow at once; running ones finish where they are.
method SetContext(context: ?string) -> (previous: ?string)

method Status() -> (context: ?string, modules: []Module)

# Nothing eligible serves the flow; `refused` has one reason a candidate.
error NoProvider (message: string, retryable: bool, flow: string, context: ?string, refused: []string)
# A bound was reached: connections, calls in flight, or a queue.
error Overloaded (message: string, retryable: bool, retry_after_ms: int)
error DeadlineExceeded (message: string, retryable: bool)
# The provider ended in mid-call, and the call was not safe to repeat or the retry budget was spent.
error ProviderFailed (message: string, retryable: bool, label: string)
",
};

/// Parameters of `Resolve`, `Watch` and `Explain`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowIn {
    /// Interface name.
    pub flow: String,
    /// Context for this question alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Attributes that the provider must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<BTreeMap<String, String>>,
}

/// A provider chosen for a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Match {
    /// Interface name.
    pub flow: String,
    /// Label of the provider.
    pub label: String,
    /// Id of its Card.
    pub id: String,
    /// Absolute path of its socket.
    pub socket: String,
    /// `exact` or `structural`.
    pub via: String,
    /// Whether a pin chose it.
    pub pinned: bool,
    /// Effective priority: the Card's plus the context's offset.
    pub priority: i64,
    /// Whether its answers are synthetic.
    pub mock: bool,
    /// Where it is in its life.
    #[schemars(with = "String")]
    pub state: ModuleState,
    /// Card attributes overlaid with what it reported.
    pub attributes: BTreeMap<String, String>,
    /// Methods that its Card declares safe to repeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<Vec<String>>,
}

/// Reply of `Resolve`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResolveOut {
    /// The provider.
    #[serde(rename = "match")]
    pub matched: Match,
    /// Grows with every change of modules or context.
    pub generation: u64,
}

/// Reply of `Watch`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WatchOut {
    /// The provider, or null.
    #[serde(rename = "match")]
    pub matched: Option<Match>,
    /// Grows with every change of modules or context.
    pub generation: u64,
}

/// One provider as the matcher saw it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
    /// What it would be as a match.
    #[serde(rename = "match")]
    pub matched: Match,
    /// Whether a call may go there.
    pub eligible: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Place among the eligible, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u64>,
}

/// Reply of `Explain`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ExplainOut {
    /// The context the answer holds for.
    pub context: Option<String>,
    /// Eligible ones first, in rank order.
    pub candidates: Vec<Candidate>,
    /// What else the asker should know, such as a pin that fell through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Parameters of `SetContext`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetContextIn {
    /// The context, or none.
    #[serde(default)]
    pub context: Option<String>,
}

/// Reply of `GetContext`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Context {
    /// The context, or none.
    #[serde(default)]
    pub context: Option<String>,
}

/// Reply of `SetContext`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SetContextOut {
    /// The context until now.
    pub previous: Option<String>,
}

/// One module in `Status`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ModuleStatus {
    /// Its label.
    pub label: String,
    /// Where it is in its life.
    #[schemars(with = "String")]
    pub state: ModuleState,
    /// Process id, 0 if none runs.
    pub pid: u32,
    /// Restarts since init started.
    pub restarts: u64,
    /// Seconds in the present state.
    pub uptime_s: f64,
    /// Interfaces it offers.
    pub flows: Vec<String>,
    /// Whether its answers are synthetic.
    pub mock: bool,
    /// Why it failed or waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Calls of the broker that it has not answered yet.
    pub queue: u64,
    /// Median latency of recent brokered calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<u64>,
    /// 99th percentile of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<u64>,
    /// Brokered calls so far.
    pub calls: u64,
    /// Of those, how many the provider failed (hang-ups, not error replies).
    pub failures: u64,
    /// `open` or `half-open` while the breaker holds it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// Card attributes overlaid with what it reported.
    pub attributes: BTreeMap<String, String>,
    /// Limits of the Card that this machine does not enforce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortfalls: Option<Vec<String>>,
}

/// Reply of `Status`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StatusOut {
    /// The context now.
    pub context: Option<String>,
    /// Every module, by label.
    pub modules: Vec<ModuleStatus>,
}
