//! The supervisor: runs the modules of a mesh and holds their listening sockets.
//!
//! [`state`] decides, purely; [`supervisor`] is the loop that feeds it events and carries out its effects with the
//! help of [`cards`], [`sockets`], [`spawn`], [`cgroup`], [`logs`], [`notify`]; [`service`] is what others may ask.
//!
//! Invariants: one owner of all state; init never awaits a reply from a child and reads no byte of a request; a
//! module's listening socket is bound once and never unlinked by the module.

pub mod cards;
mod cgroup;
mod logs;
mod notify;
mod service;
pub mod shim;
mod sockets;
mod spawn;
mod state;
pub mod supervisor;
