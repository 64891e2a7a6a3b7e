//! Bytes that survive.
//!
//! * [`atomic`]: a file is the old one or the new one, whatever dies when.
//! * [`cas`]: the content-addressed store: sharded, fsynced, verified on read, bounded.
//! * [`digest`]: SHA-256 in hex, of bytes and of files.

pub mod atomic;
pub mod cas;
pub mod digest;
