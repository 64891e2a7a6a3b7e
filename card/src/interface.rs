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

use std::collections::HashSet;
use std::sync::LazyLock;

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

impl Interface {
    /// The methods that are declared without parameters.
    fn bare_methods(&self) -> impl Iterator<Item = &'static str> {
        let declared = self.idl.lines().filter_map(|line| line.strip_prefix("method ")?.split_once('('));
        declared.filter(|(_, rest)| rest.trim_start().starts_with(')')).map(|(name, _)| name)
    }

    /// Whether a method is declared without parameters; of a shipped interface by the shipped declaration, whose text is read once.
    #[must_use]
    pub fn takes_nothing(&self, method: &str) -> bool {
        static BARE: LazyLock<HashSet<(&str, &str)>> =
            LazyLock::new(|| ALL.iter().flat_map(|i| i.bare_methods().map(|method| (i.name, method))).collect());
        match known(self.name) {
            Some(shipped) => BARE.contains(&(shipped.name, method)),
            None => self.bare_methods().any(|name| name == method),
        }
    }
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

/// How long a call takes at most, in seconds, if its caller does not say and wants one answer: as long as a provider may take
/// to restart and load its model, or, where the work itself is long, as long as that may take.
#[must_use]
pub fn patience_s(interface: &str, method: &str) -> u64 {
    const USUAL: u64 = 30;
    const LONG: u64 = 600;
    const WHOLE_DATASET: u64 = 24 * 3600;
    match (interface.strip_prefix("org.brahman."), method) {
        (Some("Embed"), "EmbedText") | (Some("Catalog"), "Get" | "Commit" | "Delete" | "Resync") => LONG,
        (Some("Catalog"), "ResyncMissing" | "Adopt") => WHOLE_DATASET,
        (Some("Storage"), "Scrub") => WHOLE_DATASET,
        (Some("Score"), method) if method != "Info" => WHOLE_DATASET,
        (Some("Ingest"), "Files" | "Postgres" | "Mysql") => WHOLE_DATASET,
        (
            Some("Index"),
            "Refresh" | "Migrate" | "Promote" | "Rollback" | "Move" | "Compact" | "Doctor" | "EvalAutogen" | "Trial" | "Autotune"
            | "Delete",
        ) => WHOLE_DATASET,
        (Some("Index"), "Search") => LONG,
        _ => USUAL,
    }
}

/// Whether a method's stream goes on until its caller hangs up.
#[must_use]
pub fn is_endless(interface: &str, method: &str) -> bool {
    matches!(
        (interface.strip_prefix("org.brahman."), method),
        (Some("Broker" | "Init" | "Catalog"), "Watch") | (Some("Init"), "Attach" | "Logs")
    )
}

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
