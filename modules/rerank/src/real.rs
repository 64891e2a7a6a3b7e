//! The real engine: a cross-encoder in ONNX Runtime.
//!
//! [`model`] loads a model's folder by its plan, [`reader`] makes token ids of pairs, [`runner`] runs them and makes scores of what comes
//! out, [`probe`] tries all of it once. [`batch`] plans (purely) which pairs share a pass, [`workers`] run the passes on threads of their
//! own, and [`pipeline`] leads a call past all of them. [`check`] says of a model's folder whether it will do.

pub mod batch;
pub mod check;
pub mod model;
pub mod pipeline;
pub mod probe;
pub mod reader;
pub mod runner;
mod workers;
