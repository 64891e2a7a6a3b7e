//! The Hugging Face hub: repositories of models, read as its own client reads them.
//!
//! * [`settings`]: where the hub is, who asks it, and where its cache lies, by the variables of its
//!   own client.
//! * [`request`]: what a person asks for: a published model, or a repository.
//! * [`client`]: what a repository holds at a commit, and its files, each fetched once, resumed and
//!   checked.
//! * `store`: the layout of its cache, which every client of the hub shares.
//! * [`error`]: why there is no file, and what to do.
//!
//! Invariants: a file is called by its content (sha256, or git's id of a small one) and gets that
//! name only once its content is that; a token goes to the hub alone, never to where it redirects;
//! offline nobody is asked; two processes never write one file.

pub mod client;
pub mod error;
pub mod request;
pub mod settings;
mod store;

pub use client::{HeldRepository, Hub, HubFile, Listing};
pub use error::HubError;
pub use request::{ModelRequest, Repository, RequestError};
pub use settings::HubSettings;
