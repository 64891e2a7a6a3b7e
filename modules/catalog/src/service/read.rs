//! Datasets as they are given to whoever reads them: with objects that are what was committed.
//!
//! Invariants: nobody is given the path of bytes that are not what was committed; what is gone or
//! damaged is looked for where it may be whole, and the reply says what came from where; nothing is
//! looked for on a disk that does not answer.

use std::path::PathBuf;
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::catalog::{GetOut, Object};
use brahman_card::interface::storage::RESCUE;
use brahman_sidecar::{blocking, chain};

use super::borrow::AwayBuckets;
use super::realm::Realm;
use super::{CatalogService, fault, unanswered};
use crate::registry::{RegistryError, Roots};
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
    /// How the files of some objects are. Each is read, unless it is the file that was read last:
    /// that may take as long as its disk. Of buckets that are away because their disks do not
    /// answer nothing is looked at: all is missing there.
    pub(super) async fn states(
        &self,
        objects: &[Object],
        away: &AwayBuckets,
    ) -> Result<Vec<State>, Fault> {
        let verified = Arc::clone(&self.verified);
        let answers = |bucket: &str| !away.contains_key(bucket) || !self.buckets.hangs(bucket);
        let file = |o: &Object| answers(&o.bucket).then(|| (o.local(), o.bytes, o.sha256.clone()));
        let files: Vec<Option<(PathBuf, u64, String)>> = objects.iter().map(file).collect();
        let state = move |file: &Option<(PathBuf, u64, String)>| match file {
            Some((path, bytes, sha256)) => verified.state(path, *bytes, sha256),
            None => State::Missing,
        };
        let look = move || files.iter().map(state).collect();
        blocking(look).await.map_err(|e| Fault::internal(chain(&e)))
    }

    /// Brings a file back to where an object lies on this machine: from its own bucket if that is
    /// in S3, else from `rescue`. None if no good copy was found; why is in the journal of
    /// failures.
    pub(super) async fn recover(&self, object: &Object, roots: &Roots) -> Option<Source> {
        let path = object.local();
        let root = roots.get(&object.bucket).ok()?;
        if !root.is_local()
            && self
                .buckets
                .download(&object.bucket, &object.key, &object.sha256, &path)
                .await
                .is_ok()
        {
            return Some(Source::Own);
        }
        // Into a folder whose disk is away nothing is put: it would lie on another. Of one in S3
        // what lies here is a copy of our own.
        if !self.buckets.rescues()
            || root.is_local() && self.buckets.mounted(&object.bucket).await.is_err()
        {
            return None;
        }
        match self.bring_back(object, &path).await {
            Ok(()) => Some(Source::Rescue),
            Err(error) => {
                tracing::error!(
                    bucket = object.bucket,
                    key = object.key,
                    "no help from {RESCUE}: {}",
                    chain(&error)
                );
                None
            }
        }
    }

    /// A dataset whose objects are what was committed: one that is gone, cut or damaged comes back
    /// from its own bucket in S3, or from `rescue`, if its hash is right. One whose bucket is away
    /// is read from its copy there.
    pub(super) async fn get(&self, realm: Realm, name: &str) -> Result<GetOut, Fault> {
        let (realm, mut dataset) = self.seen(realm, name).await?;
        let asked = name.to_owned();
        let known = self
            .consult(realm, move |registry| {
                (registry.history(&asked), registry.roots().clone(), registry.pins(&asked))
            })
            .await;
        let (history, roots, pins) = known.map_err(unanswered)?;
        let history = history.map_err(fault)?;
        let away = self.away_of(realm, &dataset.objects).await;
        let states = self.states(&dataset.objects, &away).await?;
        let (mut rescued, mut fetched, mut borrowed, mut missing) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (object, state) in dataset.objects.iter_mut().zip(states) {
            let is_own = roots.get(&object.bucket).is_ok_and(|root| root.is_local());
            let gone = "the object is gone, or is not as long as it was";
            match &state {
                State::Whole => continue,
                // Of one in S3 what lies here is a copy.
                _ if realm == Realm::Mock || !is_own => {}
                State::Missing if away.contains_key(&object.bucket) => {}
                State::Missing => self.buckets.failed(&object.bucket, "get", &object.key, &gone),
                State::Damaged(why) => {
                    self.buckets.failed(&object.bucket, "verify", &object.key, why);
                }
            }
            // What a mock made has no copies.
            let source =
                if realm == Realm::Real { self.recover(object, &roots).await } else { None };
            if source == Some(Source::Rescue) {
                self.note_repaired(&object.bucket, &object.key).await;
            }
            match (source, state) {
                (Some(Source::Own), _) => fetched.push(object.key.clone()),
                (Some(Source::Rescue), _) => rescued.push(object.key.clone()),
                (None, state) => {
                    if let Some(path) = self.borrow(object, &away, &roots).await {
                        object.path = Some(path.display().to_string());
                        borrowed.push(object.key.clone());
                        continue;
                    }
                    if let State::Damaged(why) = state {
                        return Err(fault(damaged(name, object, &why)));
                    }
                    if let Some(error) = away.get(&object.bucket) {
                        self.buckets.failed(&object.bucket, "get", &object.key, error);
                    }
                    // The manifest is the truth of what there was, whatever has become of it.
                    missing.push(object.key.clone());
                }
            }
        }
        let some = |keys: Vec<String>| Some(keys).filter(|keys| !keys.is_empty());
        let (rescued, fetched, borrowed, missing) =
            (some(rescued), some(fetched), some(borrowed), some(missing));
        // What is missing is missing there as well.
        let current = if missing.is_none() { self.current(realm, &dataset) } else { None };
        let pins: Vec<_> = pins.into_iter().map(|pin| self.with_folder(realm, name, pin)).collect();
        let pins = Some(pins).filter(|pins| !pins.is_empty());
        Ok(GetOut { dataset, history, rescued, fetched, borrowed, missing, current, pins })
    }

    /// Before a dataset's objects are read anew: those that are not what was recorded come back, if
    /// a good copy is anywhere. Says which.
    pub(super) async fn repair(&self, name: &str) -> Result<Vec<String>, Fault> {
        let asked = name.to_owned();
        let known = self
            .consult(Realm::Real, move |registry| {
                (registry.recorded(&asked), registry.roots().clone())
            })
            .await;
        let (objects, roots) = known.map_err(unanswered)?;
        let mut notes = Vec::new();
        let away = self.away_of(Realm::Real, &objects).await;
        for (object, state) in objects.iter().zip(self.states(&objects, &away).await?) {
            if state == State::Whole {
                continue;
            }
            let from = match self.recover(object, &roots).await {
                Some(Source::Own) => object.bucket.as_str(),
                Some(Source::Rescue) => RESCUE,
                None => continue,
            };
            notes.push(format!(
                "{}: it was not what was committed, and came back from bucket {from}",
                object.key
            ));
        }
        Ok(notes)
    }
}

/// An object that nobody is to read.
fn damaged(name: &str, object: &Object, why: &str) -> RegistryError {
    let why = format!(
        "{why}, and no good copy was found: put it back, ingest dataset `{name}` anew, or publish what is there by `Resync` with \
         `accept_damage`"
    );
    RegistryError::BadObject { key: object.key.clone(), why }
}
