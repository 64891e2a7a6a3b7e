//! The supervisor: runs the modules of a mesh and holds their listening sockets.
//!
//! [`state`] decides, purely; [`supervisor`] is the loop that feeds it events and carries out its
//! effects with the help of [`setup`], [`sockets`], [`spawn`], [`pidfd`], [`processes`],
//! [`cgroup`], [`logs`], [`notify`], [`registry`]; [`absence`] answers for modules that are
//! stopped; [`service`] is what others may ask.
//!
//! Invariants: one owner of all state; init never awaits a reply from a child and reads no byte of
//! a request to a module that runs; a module's listening socket is bound once and never unlinked by
//! the module; init removes no file that it did not make.

mod absence;
mod cgroup;
mod logs;
mod notify;
mod pidfd;
mod processes;
mod registry;
mod service;
mod setup;
pub mod shim;
mod sockets;
mod spawn;
mod state;
pub mod supervisor;
mod sys;
