//! Texts and files to unit vectors.
//!
//! [`service`] speaks `org.brahman.Embed` for any [`engine::Engine`]; [`mock`] is the pure one,
//! [`real`] runs a model in ONNX Runtime, [`http`] asks a server that somebody else runs.
//!
//! Invariants: a vector that leaves is finite and of length 1; what was cut, cached or degraded is
//! in the reply; a mock says that it is one.

mod bulk;
pub mod engine;
pub mod http;
pub mod mock;
pub mod program;
pub mod prompts;
pub mod real;
pub mod service;
