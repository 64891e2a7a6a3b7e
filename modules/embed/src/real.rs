//! The real engine: a model in ONNX Runtime.
//!
//! [`model`] loads a model's folder by its plan, [`text`] makes token ids of texts, [`runtime`] opens sessions, [`head`] makes vectors of
//! what a graph gives, and [`probe`] tries all of it once. [`batch`] plans (purely) what runs next, [`workers`] run it on threads of their own, [`cache`] remembers, [`store`] writes new inputs through, and [`pipeline`]
//! leads a text past all of them. [`check`] says of a model's folder whether it will do.

pub mod batch;
pub mod cache;
pub mod check;
pub mod head;
pub mod model;
pub mod pipeline;
pub mod probe;
pub mod runtime;
mod store;
pub mod text;
mod workers;
