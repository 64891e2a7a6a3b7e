//! Datasets to searchable vectors.
//!
//! From the outside in: [`service`] speaks `org.brahman.Index`; [`refresh`] plans what changes,
//! [`cutter`] cuts rows along their [`outline`] ([`chunk`] those of older indexes), [`embedder`]
//! asks the mesh for vectors, [`pending`] remembers them until they are committed; [`generation`]
//! is what answers, with a graph over what was [`appended`], [`folder`] how it is kept on disk, in
//! [`segment`]s, [`rows`] and other [`files`]; [`flat_hnsw`] is the engine, [`lexical`] the
//! full-text side, whose words the [`analyser`] makes, [`query`] what a query's text asks for,
//! [`passage`] what of a chunk is read first, [`reranker`] has hits ordered anew, [`fusion`] how
//! meaning and words become one list, [`filter`] the language of filters; [`evals`] are the queries
//! that [`trials`] measure with, [`data`] names what they were measured on, by a [`row_sum`],
//! [`better`] says which is, [`plan`] and [`agent`] what to try next; [`shadow`] goes on measuring
//! what was promoted. [`sweep`] decides what may be removed, [`calibrate`] finds how wide searches
//! must be, [`memory`] says what a refresh takes of it, [`sealed`] are files of JSON with a
//! checksum, [`threads`] says what becomes of a panic.
//!
//! Invariants: an index holds vectors of one model, named by its fingerprint, and is searched with
//! that model only; readers hold a whole generation, so no answer mixes two; the pointer moves
//! last.

pub mod agent;
pub mod analyser;
pub mod appended;
pub mod better;
pub mod calibrate;
pub mod chunk;
pub mod cutter;
pub mod data;
pub mod embedder;
pub mod engine;
pub mod evals;
pub mod files;
pub mod filter;
pub mod folder;
pub mod fusion;
pub mod generation;
pub mod home;
pub mod lexical;
pub mod memory;
pub mod outline;
pub mod partial;
pub mod passage;
pub mod pending;
pub mod plan;
pub mod program;
pub mod query;
pub mod refresh;
pub mod reranker;
pub mod rescue;
pub mod row_sum;
pub mod rows;
pub mod sealed;
pub mod segment;
pub mod service;
pub mod shadow;
pub mod sweep;
pub mod threads;
pub mod trials;
