//! Datasets to searchable vectors.
//!
//! From the outside in: [`service`] speaks `org.brahman.Index`; [`refresh`] plans what changes, [`chunk`] cuts rows,
//! [`embedder`] asks the mesh for vectors, [`pending`] remembers them until they are committed; [`generation`] is what
//! answers, [`folder`] how it is kept on disk, in [`segment`]s, [`rows`] and other [`files`]; [`flat_hnsw`] is the engine, [`lexical`] the full-text side,
//! [`filter`] the language of filters, [`reranker`] has hits ordered anew; [`trials`] measures, [`shadow`] goes on
//! measuring what was promoted. [`sweep`] decides what may be removed, [`sealed`] are files of JSON with a checksum, [`threads`]
//! says what becomes of a panic.
//!
//! Invariants: an index holds vectors of one model, named by its fingerprint, and is searched with that model only;
//! readers hold a whole generation, so no answer mixes two; the pointer moves last.

pub mod agent;
pub mod chunk;
pub mod embedder;
pub mod engine;
pub mod files;
pub mod filter;
pub mod folder;
pub mod generation;
pub mod home;
pub mod lexical;
pub mod partial;
pub mod pending;
pub mod program;
pub mod refresh;
pub mod reranker;
pub mod rescue;
pub mod rows;
pub mod sealed;
pub mod segment;
pub mod service;
pub mod shadow;
pub mod sweep;
pub mod threads;
pub mod trials;
