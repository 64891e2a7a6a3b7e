//! Datasets: what they are made of, which generation they are at, and which indexes they feed.
//!
//! [`books`] keeps them on disk, [`footers`] reads what objects say of themselves, [`lineage`] is what became of every run;
//! [`service`] speaks `org.brahman.Catalog`.
//!
//! Invariants: one process writes; a commit is published by one rename after every object was verified; the same run
//! committed twice is one commit; a damaged file is named and never guessed at.

pub mod books;
pub mod footers;
pub mod lineage;
pub mod service;
