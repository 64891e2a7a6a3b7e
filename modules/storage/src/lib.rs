//! Bytes that survive.
//!
//! * [`atomic`]: a file is the old one or the new one, whatever dies when.
//! * `bounded`: values that outlive their process, bounded in bytes, the oldest out first (feature
//!   `bounded`).
//! * `buckets`: folders and S3 by name, with a journal of every operation that failed (feature
//!   `buckets`).
//! * [`cas`]: the content-addressed store: sharded, fsynced, verified on read, bounded.
//! * [`checked`]: small files of state, with a checksum in their last line.
//! * [`digest`]: SHA-256 in hex, of bytes and of files.
//! * [`log`]: an append-only journal: whole lines or nothing, linked to one another, damage
//!   quarantined.
//! * [`node`]: by which name a catalog is known in buckets that others use as well.
//! * [`secrets`]: connection URLs and passwords by name, from a file that only its owner can read.
//! * [`writable`]: whether a folder can be written to, and what is refused where it cannot.
//! * [`BUCKET_MARKER`]: by which a folder is known to be a bucket.
//! * [`Steps`]: where tests stop a program as if it were killed.

pub mod atomic;
#[cfg(feature = "bounded")]
pub mod bounded;
#[cfg(feature = "buckets")]
pub mod buckets;
pub mod cas;
pub mod checked;
pub mod digest;
#[cfg(feature = "bounded")]
mod lock;
pub mod log;
pub mod node;
pub mod secrets;
mod steps;
pub mod writable;

pub use steps::Steps;

/// Key of the marker at a bucket's root. Here, for whoever looks for buckets and keeps none.
pub const BUCKET_MARKER: &str = ".brahman-bucket.json";
