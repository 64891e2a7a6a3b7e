//! One socket for the whole mesh.
//!
//! Pure parts: [`matching`] (who serves a flow), [`admission`] (who may call now), [`health`] (who is well). Around
//! them: [`table`] follows init, [`provider`] keeps connections, [`quarantine`] what ends providers, [`splice`] carries calls, [`service`] answers
//! `org.brahman.Broker`.
//!
//! Invariants: keeps nothing that cannot be rebuilt from init's `Watch` (the context set by hand lies in a file beside
//! the socket); payloads are never parsed; a call is repeated only if its method is declared idempotent and nothing of
//! an answer has been passed on.

mod admission;
mod health;
pub mod matching;
mod provider;
mod quarantine;
pub mod run;
mod service;
mod splice;
mod table;
