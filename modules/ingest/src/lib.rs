//! Sources into Parquet, committed to the catalog.
//!
//! [`source`] finds what to read; [`documents`] and [`tables`] turn it into Arrow batches; [`sink`] writes Parquet,
//! durably; [`service`] speaks `org.brahman.Ingest` and commits.
//!
//! Invariants: memory does not grow with the source; what cannot be read is counted and named; nothing is visible to
//! readers before the catalog's commit.

pub mod documents;
pub mod service;
pub mod sink;
pub mod source;
pub mod tables;
