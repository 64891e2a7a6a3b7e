//! Datasets: what they are made of, which generation they are at, and which indexes they feed.
//!
//! [`registry`] keeps them on disk, [`footers`] reads what objects say of themselves, [`lineage`]
//! is what became of every run, [`verified`] remembers which files are what they should be,
//! [`views`] shows datasets under stable paths; [`service`] speaks `org.brahman.Catalog`.
//!
//! Invariants: one process writes; a commit is published by one rename after every object was
//! verified; the same run committed twice is one commit; a damaged file is named and never guessed
//! at; nothing is deleted but what the journal of this catalog says that it made, that has ended,
//! and that nothing needs.

pub mod footers;
pub mod lineage;
pub mod program;
pub mod registry;
pub mod service;
pub mod verified;
pub mod views;
