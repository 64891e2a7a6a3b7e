//! What a process links to live on the mesh.
//!
//! * [`serve`]: a listener, a [`Service`], one bounded task a connection, always reading.
//! * [`client`]: [`Connection`] speaks to one socket; [`Client`] resolves, goes direct, follows
//!   changes, falls back.
//! * [`module`]: the life of a supervised process: attach, report, drain on SIGTERM and SIGINT.
//! * [`place`]: where sockets, state and caches live.
//! * [`logs`]: the files in which modules' output is kept.
//! * [`scope`]: what the active profile lets be named, for modules that own what has a name.
//! * [`mod@blocking`]: work that waits for a disk or a lock, beside the thread that answers calls.
//! * [`deadline`], [`backoff`]: how long a caller waits, and how long to pause between attempts.
//! * [`chain()`]: an error with its causes, as people read it; it is the contract's.
//!
//! Invariants: a hang-up cancels the work it asked for; every buffer, queue and wait is bounded;
//! nothing here but [`scope`] knows what a flow means.

pub mod backoff;
pub mod blocking;
#[cfg(feature = "bulk")]
pub mod bulk;
pub mod client;
pub mod deadline;
pub mod logs;
pub mod module;
pub mod place;
pub mod scope;
pub mod serve;
pub mod telemetry;

pub use backoff::Backoff;
pub use blocking::blocking;
pub use brahman_card::chain;
pub use client::{CallOptions, Client, ClientError, Connection};
pub use deadline::Deadline;
pub use module::{Module, ModuleError, Reporter, run};
pub use scope::Scope;
pub use serve::{Call, Peer, Reply, Service};
