//! `org.brahman.Broker`: who serves what, why, and in which context.

use std::collections::BTreeMap;

use brahman_card_derive::wire;

use crate::ModuleState;

interface! {
    /// Matches flows to providers by context. Any other interface called on the mesh socket is
    /// resolved here and spliced through to its provider.
    "org.brahman.Broker"
    methods {
        /// The provider a call to `flow` (an interface name) would go to now.
        Resolve(FlowIn) -> ResolveOut: idempotent, reads;
        /// Call with `more`: the match now, then again whenever it changes. `match` is null while
        /// nothing serves the flow. The latest state always arrives; states in between may be
        /// skipped.
        Watch(FlowIn) -> WatchOut: idempotent, endless, reads;
        /// Every provider of `flow`, ranked, or with the reason it was refused.
        Explain(FlowIn) -> ExplainOut: idempotent, reads;
        GetContext() -> Context: idempotent, reads;
        /// New calls follow at once; running ones finish where they are.
        SetContext(SetContextIn) -> SetContextOut: idempotent;
        Status() -> StatusOut: idempotent, reads;
    }
    errors {
        /// Nothing eligible serves the flow; `refused` has one reason a candidate.
        NoProvider { flow: String, context: Option<String>, refused: Vec<String> }
        /// A bound was reached: connections, calls in flight, or a queue.
        Overloaded { retry_after_ms: u64 }
        DeadlineExceeded {}
        /// The provider ended in mid-call, and the call was not safe to repeat or the retry budget
        /// was spent.
        ProviderFailed { label: String }
    }
}

/// Parameters of `Resolve`, `Watch` and `Explain`.
#[wire]
pub struct FlowIn {
    /// Full name of the interface.
    pub flow: String,
    /// For this question alone.
    pub context: Option<String>,
    /// Attributes that the provider must have.
    pub require: Option<BTreeMap<String, String>>,
}

/// A provider chosen for a flow.
#[wire(Eq)]
pub struct Match {
    pub flow: String,
    /// Of the provider, as in its Card.
    pub label: String,
    /// Of the provider's Card, a ULID.
    pub id: String,
    /// Absolute path of the provider's socket.
    pub socket: String,
    /// How it matched: `exact` or `structural`.
    pub via: String,
    /// Whether a pin chose it.
    pub pinned: bool,
    /// Effective priority: the Card's plus the context's offset.
    pub priority: i64,
    /// Whether its answers are synthetic.
    pub mock: bool,
    pub state: ModuleState,
    /// The Card's, overlaid with what the module reported.
    pub attributes: BTreeMap<String, String>,
    /// Methods that its Card declares safe to repeat.
    pub idempotent: Option<Vec<String>>,
}

#[wire]
pub struct ResolveOut {
    #[serde(rename = "match")]
    pub matched: Match,
    /// Grows with every change of modules or context.
    pub generation: u64,
}

#[wire]
pub struct WatchOut {
    #[serde(rename = "match")]
    #[wire(null)]
    pub matched: Option<Match>,
    /// Grows with every change, as in `Resolve`.
    pub generation: u64,
}

/// One provider as the matcher saw it.
#[wire]
pub struct Candidate {
    /// What it would be as a match.
    #[serde(rename = "match")]
    pub matched: Match,
    /// Whether a call may go there.
    pub eligible: bool,
    /// Why no call may go there.
    pub reason: Option<String>,
    /// Place among the eligible, from 0.
    pub rank: Option<u64>,
}

#[wire]
pub struct ExplainOut {
    /// For which the answer holds.
    #[wire(null)]
    pub context: Option<String>,
    /// Eligible ones first, in rank order.
    pub candidates: Vec<Candidate>,
    /// What else the asker should know, such as a pin that fell through.
    pub note: Option<String>,
}

#[wire]
pub struct SetContextIn {
    /// None if it is null.
    #[wire(null)]
    pub context: Option<String>,
}

/// Reply of `GetContext`: what new calls are matched under.
#[wire]
pub struct Context {
    #[wire(null)]
    pub context: Option<String>,
}

#[wire]
pub struct SetContextOut {
    /// The context until now.
    #[wire(null)]
    pub previous: Option<String>,
}

/// A module in `Status`.
#[wire]
pub struct ModuleStatus {
    pub label: String,
    pub state: ModuleState,
    /// 0 if no process runs.
    pub pid: u32,
    /// Starts again since init itself started.
    pub restarts: u64,
    /// Seconds in the present state.
    pub uptime_s: f64,
    /// Names of the interfaces that it offers.
    pub flows: Vec<String>,
    pub mock: bool,
    /// Why it failed or waits.
    pub reason: Option<String>,
    /// Calls of the broker that it has not answered yet.
    pub queue: u64,
    /// Latency of recent brokered calls; absent before the first, as `p99_us`.
    pub p50_us: Option<u64>,
    pub p99_us: Option<u64>,
    /// Brokered calls so far.
    pub calls: u64,
    /// Of those, how many the provider failed (hang-ups, not error replies).
    pub failures: u64,
    /// `open` or `half-open` while the breaker holds it back.
    pub breaker: Option<String>,
    pub attributes: BTreeMap<String, String>,
    /// Limits of the Card that this machine does not enforce.
    pub shortfalls: Option<Vec<String>>,
    /// The file that its Card was read from, or that it is built in; absent if the module brought
    /// it.
    pub origin: Option<String>,
}

#[wire]
pub struct StatusOut {
    #[wire(null)]
    pub context: Option<String>,
    pub modules: Vec<ModuleStatus>,
}
