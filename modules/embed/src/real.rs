//! The real engine: a model in ONNX Runtime.
//!
//! [`model`] loads a model's folder by its plan, [`text`] makes token ids of texts, [`runtime`]
//! opens sessions and tries the model, and [`head`] makes vectors of what a graph gives. [`batch`]
//! plans (purely) what runs next, [`queue`] holds what waits and who waits for it, [`cache`]
//! remembers, [`store`] writes new inputs through, and [`pipeline`] leads a text past all of them.
//! [`check`] says of a model's folder whether it will do. What runs batches at all is
//! `brahman_models::passes`.

pub mod batch;
pub mod cache;
pub mod check;
pub mod head;
pub mod model;
pub mod pipeline;
mod queue;
pub mod runtime;
mod store;
pub mod text;
