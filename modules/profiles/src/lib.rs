//! Profiles: which models are loaded and what can be named in a mesh just now.
//!
//! [`gate`] is the ledger of memory, pure; [`book`] has the profiles and [`state`] what outlives
//! this process; [`gpu`], [`memory`] and [`ollama`] look at memory, each bounded in time; [`mesh`]
//! asks init to start and stop; [`service`] speaks `org.brahman.Profiles`.
//!
//! Invariants: nothing is started here before its memory is reserved; which profile is active is
//! one file, replaced whole, so that a death at any step leaves the former one or the new one; a
//! driver or a server that hangs holds nobody up.

pub mod book;
pub mod gate;
pub mod gpu;
pub mod memory;
pub mod mesh;
pub mod ollama;
pub mod program;
pub mod service;
pub mod settings;
pub mod state;
