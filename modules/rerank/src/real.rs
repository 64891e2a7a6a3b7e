//! The real engine: a cross-encoder in ONNX Runtime.
//!
//! [`model`] loads a model's folder by its plan, [`reader`] makes token ids of pairs, [`runner`]
//! runs them and makes scores of what comes out, and tries all of it once. [`batch`] plans (purely)
//! which pairs share a pass, [`queue`] in which order calls have theirs, and [`pipeline`] leads a
//! call past all of them. [`check`] says of a model's folder whether it will do. What runs passes
//! at all is `brahman_models::passes`.

pub mod batch;
pub mod check;
pub mod model;
pub mod pipeline;
mod queue;
pub mod reader;
pub mod runner;
