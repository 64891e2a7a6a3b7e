//! Texts in the order in which they answer a query.
//!
//! [`service`] speaks `org.brahman.Rerank` for any [`engine::Engine`]; [`mock`] is the pure one,
//! [`real`] runs a cross-encoder in ONNX Runtime: a model that reads the query and a text together,
//! and gives one score.
//!
//! Invariants: a score that leaves is finite; what was cut or could not be scored is in the reply;
//! a mock says that it is one.

pub mod engine;
pub mod mock;
pub mod program;
pub mod real;
pub mod service;
