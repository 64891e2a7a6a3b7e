//! The interfaces of the mesh: one file each, the Rust types beside the IDL text that foreign clients read.
//!
//! Invariant, held by a test: each method's types and its IDL name the same fields with the same shapes. Interfaces
//! have no versions: fields are only ever added, and only as optional ones.

pub mod broker;
pub mod catalog;
pub mod embed;
pub mod index;
pub mod ingest;
pub mod init;
pub mod score;
pub mod service;
pub mod storage;

#[cfg(test)]
mod agreement;

use serde::{Deserialize, Serialize};

/// One Varlink interface.
#[derive(Debug)]
pub struct Interface {
    /// Full name.
    pub name: &'static str,
    /// IDL text, as `GetInterfaceDescription` gives it.
    pub idl: &'static str,
    /// Methods that may be called again after a failure, because a second run changes nothing.
    pub idempotent: &'static [&'static str],
}

/// Every interface that Brahman ships.
pub const ALL: &[&Interface] = &[
    &service::INTERFACE,
    &broker::INTERFACE,
    &init::INTERFACE,
    &embed::INTERFACE,
    &index::INTERFACE,
    &ingest::INTERFACE,
    &catalog::INTERFACE,
    &storage::INTERFACE,
    &score::INTERFACE,
];

/// The shipped interface of this name.
#[must_use]
pub fn known(name: &str) -> Option<&'static Interface> {
    ALL.iter().copied().find(|interface| interface.name == name)
}

/// `embed` for `org.brahman.Embed`: a name without a dot is looked for among the shipped ones, by last element.
#[must_use]
pub fn full_name(short: &str) -> String {
    let hit = |interface: &&&Interface| interface.name.rsplit_once('.').is_some_and(|(_, last)| last.eq_ignore_ascii_case(short));
    if short.contains('.') {
        return short.to_owned();
    }
    ALL.iter().find(hit).map_or_else(|| short.to_owned(), |interface| interface.name.to_owned())
}

/// Parameters or reply without fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Empty {}
