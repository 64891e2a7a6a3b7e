//! Datasets as they are given to whoever reads them: with objects that are what was committed.
//!
//! Invariants: nobody is given the path of bytes that are not what was committed; what is gone or damaged is looked for where it may be
//! whole, and the reply says what came from where.

use std::path::PathBuf;
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::catalog::{GetOut, Object};
use brahman_card::interface::storage::RESCUE;

use super::realm::Realm;
use super::{CatalogService, fault};
use crate::books::{BookError, Roots};
use crate::verified::State;

/// Where an object came back from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Its own bucket: what had gone was the copy on this machine.
    Own,
    /// The bucket `rescue`.
    Rescue,
}

impl CatalogService {
    /// How the files of some objects are. Each is read, unless it is the file that was read last: that may take as long as its disk.
    pub(super) async fn states(&self, objects: &[Object]) -> Result<Vec<State>, Fault> {
        let verified = Arc::clone(&self.verified);
        let files: Vec<(PathBuf, u64, String)> = objects.iter().map(|o| (o.local(), o.bytes, o.sha256.clone())).collect();
        let look = move || files.iter().map(|(path, bytes, sha256)| verified.state(path, *bytes, sha256)).collect();
        tokio::task::spawn_blocking(look).await.map_err(|e| Fault::internal(e.to_string()))
    }

    /// Brings a file back to where an object lies on this machine: from its own bucket if that is in S3, else from `rescue`. None if no
    /// good copy was found; why is in the journal of failures.
    pub(super) async fn recover(&self, object: &Object, roots: &Roots) -> Option<Source> {
        let path = object.local();
        let is_local = roots.get(&object.bucket).is_ok_and(|root| root.is_local());
        if !is_local && self.buckets.download(&object.bucket, &object.key, &object.sha256, &path).await.is_ok() {
            return Some(Source::Own);
        }
        // Into a folder whose disk is away nothing is put: it would lie on another.
        if !self.buckets.rescues() || self.buckets.mounted(&object.bucket).is_err() {
            return None;
        }
        match self.bring_back(object, &path).await {
            Ok(()) => Some(Source::Rescue),
            Err(error) => {
                tracing::error!(bucket = object.bucket, key = object.key, "no help from {RESCUE}: {error}");
                None
            }
        }
    }

    /// A dataset whose objects are what was committed: one that is gone, cut or damaged comes back from its own bucket in S3, or from
    /// `rescue`, if its hash is right.
    pub(super) async fn get(&self, realm: Realm, name: &str) -> Result<GetOut, Fault> {
        let (realm, dataset) = self.seen(realm, name)?;
        let (history, roots) = {
            let books = self.of(realm);
            (books.history(name).map_err(fault)?, books.roots().clone())
        };
        let states = self.states(&dataset.objects).await?;
        let (mut rescued, mut fetched, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for (object, state) in dataset.objects.iter().zip(states) {
            let is_own = roots.get(&object.bucket).is_ok_and(|root| root.is_local());
            let gone = "the object is gone, or is not as long as it was";
            match &state {
                State::Whole => continue,
                // Of one in S3 what lies here is a copy.
                _ if realm == Realm::Mock || !is_own => {}
                State::Missing => self.buckets.failed(&object.bucket, "get", &object.key, &gone),
                State::Damaged(why) => self.buckets.failed(&object.bucket, "verify", &object.key, why),
            }
            // What a mock made has no copies.
            let source = if realm == Realm::Real { self.recover(object, &roots).await } else { None };
            match (source, state) {
                (Some(Source::Own), _) => fetched.push(object.key.clone()),
                (Some(Source::Rescue), _) => rescued.push(object.key.clone()),
                (None, State::Damaged(why)) => return Err(fault(damaged(name, object, &why))),
                // The manifest is the truth of what there was, whatever has become of it.
                (None, _) => missing.push(object.key.clone()),
            }
        }
        let some = |keys: Vec<String>| Some(keys).filter(|keys| !keys.is_empty());
        Ok(GetOut { dataset, history, rescued: some(rescued), fetched: some(fetched), missing: some(missing) })
    }

    /// Before a dataset's objects are read anew: those that are not what was recorded come back, if a good copy is anywhere. Says which.
    pub(super) async fn repair(&self, name: &str) -> Result<Vec<String>, Fault> {
        let (objects, roots) = {
            let books = self.books();
            (books.recorded(name), books.roots().clone())
        };
        let mut notes = Vec::new();
        for (object, state) in objects.iter().zip(self.states(&objects).await?) {
            if state == State::Whole {
                continue;
            }
            let from = match self.recover(object, &roots).await {
                Some(Source::Own) => object.bucket.as_str(),
                Some(Source::Rescue) => RESCUE,
                None => continue,
            };
            notes.push(format!("{}: it was not what was committed, and came back from bucket {from}", object.key));
        }
        Ok(notes)
    }
}

/// An object that nobody is to read.
fn damaged(name: &str, object: &Object, why: &str) -> BookError {
    let why = format!(
        "{why}, and no good copy was found: put it back, ingest dataset `{name}` anew, or publish what is there by `Resync` with \
         `accept_damage`"
    );
    BookError::BadObject { key: object.key.clone(), why }
}
