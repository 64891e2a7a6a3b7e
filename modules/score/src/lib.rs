//! Which memories a model's answers depend on.
//!
//! [`conversation`] turns entries into one list of tokens that remembers where memories and
//! responses lie, by a [`chat`] template; [`ablation`] takes memories
//! out of it and compares; [`walk`] passes many such lists through a model with every shared
//! beginning once. What gives the log-probabilities is an [`engine::Engine`]: [`mock`] over
//! [`mixing`], a model by [`onnx`], or a server over [`http`]. [`turns`] runs one call at a time on
//! a thread of its own, [`kept`] remembers, [`service`] speaks `org.brahman.Score`.
//!
//! Invariants: a response's tokens are the same with and without a memory; every figure is signed
//! until it is reported; a failed row is reported as such and never as zeros; a call whose caller
//! has gone stops at the next step.

pub mod ablation;
pub mod chat;
pub mod conversation;
pub mod engine;
pub mod http;
pub mod kept;
pub mod mixing;
pub mod mock;
pub mod onnx;
pub mod program;
pub mod service;
pub mod turns;
pub mod walk;
