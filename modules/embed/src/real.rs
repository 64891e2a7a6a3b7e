//! The real engine: a model in ONNX Runtime.
//!
//! [`model`] loads and checks files, [`runtime`] finds the library and opens sessions, [`batch`] plans
//! (purely) what runs next, [`workers`] run it on threads of their own, [`cache`] remembers, [`store`] writes new
//! inputs through, and [`pipeline`] leads a text past all of them.

pub mod batch;
pub mod cache;
pub mod model;
pub mod pipeline;
pub mod runtime;
mod store;
mod workers;
