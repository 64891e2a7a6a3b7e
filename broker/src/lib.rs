//! One socket for the whole mesh.
//!
//! Pure parts: [`matching`] (who serves a flow), [`admission`] (who may call now), [`health`] (who
//! is well). Around them: [`table`] follows init, [`provider`] keeps connections, [`turn`] finds
//! out what ends providers and [`quarantine`] remembers it, [`splice`] carries the calls
//! ([`outgoing`]) of a [`client`] and their replies ([`answer`]), [`service`] answers
//! `org.brahman.Broker`.
//!
//! Invariants: keeps nothing that cannot be rebuilt from init's `Watch` (the context set by hand
//! lies in a file beside the socket); payloads are never parsed; a call is repeated only if its
//! method is declared idempotent and nothing of an answer has been passed on.

mod admission;
#[cfg(feature = "alone")]
pub mod alone;
mod answer;
mod client;
mod health;
pub mod matching;
mod outgoing;
mod provider;
mod quarantine;
pub mod run;
mod service;
mod splice;
mod table;
mod turn;
