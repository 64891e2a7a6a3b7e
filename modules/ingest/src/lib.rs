//! Sources into Parquet, committed to the catalog.
//!
//! [`service`] speaks `org.brahman.Ingest`; a [`run`] has progress, can be cancelled, and commits
//! at its end. [`files`] are found by [`source`], by [`rules`] that keep documents' ids, and turned
//! into Arrow batches by [`documents`] (of [`html`] the text), [`csv`] and [`jsonl`] (Parquet by
//! `parquet_files`), in [`passes`] over them; a [`table`] is read by [`postgres`] or [`mysql`] from
//! a server that a [`dsn`] names, by [`tls`] if asked; [`mock`] makes tables up; [`watches`] are
//! folders that are read again when they change; [`sink`] writes Parquet, durably, and lets [`pii`]
//! see what goes by.
//!
//! Invariants: memory does not grow with the source; what cannot be read is counted and named;
//! nothing is visible to readers before the catalog's commit; no password is in a log, an error or
//! a manifest.

pub mod csv;
pub mod documents;
pub mod dsn;
pub mod encoding;
pub mod files;
pub mod html;
pub mod jsonl;
pub mod keyset;
mod lattice;
pub mod merge;
pub mod mock;
pub mod mysql;
mod parquet_files;
pub mod passes;
pub mod pii;
pub mod postgres;
pub mod program;
pub mod rules;
pub mod run;
pub mod service;
pub mod sink;
pub mod source;
pub mod table;
pub mod tls;
pub mod watches;
pub mod window;
mod zones;
