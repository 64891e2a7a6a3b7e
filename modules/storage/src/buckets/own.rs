//! The two buckets that lie in the state itself, and the markers of folders that were registered
//! before there were markers.
//!
//! Invariant: where the registry, or this catalog's name, cannot be read, nothing is made that may
//! have been somewhere else.

use std::collections::BTreeMap;
use std::path::Path;

use brahman_card::chain;
use brahman_card::interface::storage::{Bucket, PRIMARY, RESCUE};

use super::entry::Absence;
use super::marker::{self, MARKER, Marker};
use super::open::Location;
use super::{Buckets, is_name, is_own, look};
use crate::node::NodeError;
use crate::writable;

/// Why this catalog's name among others is not known, and what to do.
pub(super) fn nameless(error: &NodeError, home: &Path) -> String {
    // Nobody but this catalog has made the marker of its own `primary`.
    let named = marker::read_folder(&home.join(PRIMARY)).ok().flatten().map(|marker| marker.node);
    let put_back = named.map_or_else(
        || "put it back from a backup".to_owned(),
        |node| format!("write {node} into it, which the marker of bucket {PRIMARY} names, or put it back from a backup"),
    );
    format!(
        "the name of this catalog among others: {}; {put_back}, then `brahman restart catalog`; until then nothing is put into or withdrawn \
         from buckets in S3 in its name, and no bucket is added",
        chain(error)
    )
}

impl Buckets {
    /// What is registered, and the two that lie in the state itself, wherever the state lies now.
    pub(super) fn with_own(&self, registered: Vec<Bucket>) -> Vec<Bucket> {
        let (own, others): (Vec<Bucket>, Vec<Bucket>) = registered.into_iter().partition(is_own);
        let of = |name: &str| Bucket {
            name: name.to_owned(),
            url: format!("file://{}", self.home.join(name).display()),
            options: BTreeMap::new(),
            secret: None,
            protected: true,
            conditional_put: true,
            added_ms: 0,
            id: own.iter().find(|bucket| bucket.name == name).and_then(|bucket| bucket.id.clone()),
        };
        // One that somebody has added takes the place of our own.
        [of(PRIMARY), of(RESCUE)].into_iter().chain(others).collect()
    }

    /// Takes up the marker of a folder that has none on record: of our own, which are made if need
    /// be, and of one that an earlier version has registered, if it holds what such a one would.
    /// Whether it did.
    pub(super) fn recognise(&self, bucket: &mut Bucket) -> bool {
        let Ok(Location::Folder(folder)) = Location::parse(&bucket.name, &bucket.url) else {
            return false;
        };
        if bucket.id.is_some() || !is_name(&bucket.name) {
            return false;
        }
        // Where the registry cannot be read it may have known another: what is not there is then
        // not made.
        let makes = self.unreadable.is_none() && self.nameless.is_none();
        let (own, new) = (is_own(bucket), Marker::new(&bucket.name, &self.node));
        let found = look::in_time(move || match marker::read_folder(&folder) {
            Ok(None) if !makes => Ok(None),
            Ok(None) if own || marker::is_used(&folder) => {
                let made = if own { writable::make_folder(&folder).map(drop) } else { Ok(()) };
                made.map_err(Into::into).and_then(|()| marker::make_in(&folder, &new)).map(Some)
            }
            found => found,
        });
        match found {
            Some(Ok(found)) => bucket.id = found.map(|marker| marker.id),
            Some(Err(error)) => self.failed(&bucket.name, "open", MARKER, &chain(&error)),
            None => self.failed(&bucket.name, "open", MARKER, &Absence::silent().0),
        }
        bucket.id.is_some()
    }
}
