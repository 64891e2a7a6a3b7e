//! Datasets to searchable vectors.
//!
//! [`chunk`] cuts rows, [`embedder`] asks the mesh for vectors, [`generation`] keeps them on disk, [`exact`] searches,
//! [`refresh`] brings an index up to its dataset, [`service`] speaks `org.brahman.Index`.
//!
//! Invariants: an index holds vectors of one model, named by its fingerprint, and is searched with that model only;
//! readers hold a whole generation, so no answer mixes two; the pointer moves last.

pub mod chunk;
pub mod embedder;
pub mod exact;
pub mod generation;
pub mod refresh;
pub mod service;
