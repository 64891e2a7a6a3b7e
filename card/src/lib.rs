//! Brahman's contract as pure values: nothing here opens a file or a socket, and [`clock`] alone
//! asks the time.
//!
//! * [`card`]: what a module says of itself, parsed and validated ([`Card`]).
//! * [`names`]: of datasets, indexes, buckets, models, profiles and modules, checked once.
//! * [`state`]: the life of a module as init publishes it ([`ModuleState`], [`ModuleRecord`]).
//! * [`wire`]: the Varlink message codec, sans I/O (frames, headers, faults).
//! * [`chain()`]: an error with its causes, as people read it.
//! * [`counted`]: a count in words.
//! * [`clock`]: the time, as records tell it; for all crates, which parse and compare it as a
//!   value.
//! * [`interface`]: one file per interface: its types and the declaration of its methods, from
//!   which its IDL text is made.
//!
//! Invariants: every input is bounded before it is looked at; a parse error names the field and
//! what was expected; no type here knows who supervises or who routes.

pub mod card;
pub mod chain;
pub mod clock;
mod count;
mod idl;
pub mod interface;
pub mod names;
pub mod state;
pub mod wire;

pub use card::{Card, CardError, Label};
pub use chain::{chain, toml_words};
pub use count::counted;
pub use interface::Interface;
pub use state::{ModuleRecord, ModuleState};
pub use wire::fault::Fault;
