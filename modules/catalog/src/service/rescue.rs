//! Copies in the bucket `rescue`, and objects that come back from there.
//!
//! ```text
//! datasets/<name>/<run_id>/part-0.parquet   what a run has written: no two buckets have the same
//! objects/<bucket>/<key>                    whatever else a bucket holds
//! ```
//!
//! Under any other key lies what was put into `rescue` itself, and what earlier versions have copied there: that is a copy only where a
//! dataset's file has its hash.

use std::path::Path;
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::catalog::{Dataset, GetOut, Object};
use brahman_card::interface::storage::RESCUE;
use brahman_storage::buckets::BucketError;
use brahman_storage::digest::sha256_file;

use super::realm::Realm;
use super::{CatalogService, fault};
use crate::books::folder_of;

/// Where copies of single objects lie in `rescue`, below their buckets' names.
pub(super) const COPIES: &str = "objects";

/// Key of an object's copy.
pub(super) fn copy_key(bucket: &str, key: &str) -> String {
    if folder_of(key).is_some() { key.to_owned() } else { format!("{COPIES}/{bucket}/{key}") }
}

/// Keys under which a copy of an object is looked for, one after the other. One whose hash is recorded may be an earlier version's.
pub(super) fn copy_keys(bucket: &str, key: &str, recorded: bool) -> Vec<String> {
    let mut keys = vec![copy_key(bucket, key)];
    if recorded && keys[0] != key {
        keys.push(key.to_owned());
    }
    keys
}

impl CatalogService {
    /// Brings an object back from `rescue`, if a copy there is what was recorded.
    async fn bring_back(&self, object: &Object, path: &Path) -> Result<(), BucketError> {
        let mut failed = None;
        for key in copy_keys(&object.bucket, &object.key, true) {
            match self.buckets.download(RESCUE, &key, &object.sha256, path).await {
                Ok(()) => return Ok(()),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Copies what a dataset is made of, if somebody has said where copies are to go; what is no longer wanted goes.
    pub(super) async fn copy_to_rescue(&self, dataset: Dataset) {
        if !self.buckets.rescues() {
            return;
        }
        // One after the other: an older copy must not delete what a newer one puts.
        let _copying = self.copying.lock().await;
        for object in &dataset.objects {
            // What fails is in the journal; the next commit copies again.
            let _ = self.buckets.upload(RESCUE, &copy_key(&object.bucket, &object.key), &object.local()).await;
        }
        let kept = |key: &str| !self.books().spent(key);
        self.buckets.keep_only(RESCUE, &format!("datasets/{}", dataset.name), kept).await;
    }

    /// Before a dataset's objects are read anew: those that are not what its file says come back from `rescue`, if the copies there
    /// are. Gives which.
    pub(super) async fn mend(&self, name: &str) -> Vec<String> {
        let mut mended = Vec::new();
        let dataset = self.books().get(name);
        let Some(dataset) = dataset.ok().filter(|_| self.buckets.rescues()) else { return mended };
        for object in &dataset.objects {
            let (path, checked) = (object.local(), object.local());
            let found = tokio::task::spawn_blocking(move || sha256_file(&checked)).await;
            if matches!(&found, Ok(Ok((sha256, _))) if *sha256 == object.sha256) {
                continue;
            }
            if self.bring_back(object, &path).await.is_ok() {
                mended.push(format!("{}: it was not what was committed, and came back from bucket {RESCUE}", object.key));
            }
        }
        mended
    }

    /// A dataset whose objects are all there: one that is gone or cut comes back from its own bucket in S3, or from `rescue`, if
    /// its hash is right.
    pub(super) async fn get(self: &Arc<Self>, realm: Realm, name: &str) -> Result<GetOut, Fault> {
        let (realm, dataset) = self.seen(realm, name)?;
        let (history, roots) = {
            let books = self.of(realm);
            (books.history(name).map_err(fault)?, books.roots().clone())
        };
        let (mut rescued, mut fetched, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for object in &dataset.objects {
            let path = object.local();
            let there = tokio::fs::metadata(&path).await.is_ok_and(|meta| meta.len() == object.bytes);
            if there {
                continue;
            }
            // What a mock made has no copies.
            if realm == Realm::Mock {
                missing.push(object.key.clone());
                continue;
            }
            if roots.get(&object.bucket).is_ok_and(|root| !root.is_local()) {
                if self.buckets.download(&object.bucket, &object.key, &object.sha256, &path).await.is_ok() {
                    fetched.push(object.key.clone());
                    continue;
                }
            } else {
                self.buckets.failed(&object.bucket, "get", &object.key, &"the object is gone, or is not as long as it was");
            }
            // The manifest is the truth of what there was, whatever has become of it.
            if !self.buckets.rescues() {
                missing.push(object.key.clone());
                continue;
            }
            match self.bring_back(object, &path).await {
                Ok(()) => rescued.push(object.key.clone()),
                Err(error) => {
                    tracing::error!(dataset = name, key = object.key, "gone from its bucket, and no help from rescue: {error}");
                    missing.push(object.key.clone());
                }
            }
        }
        let some = |keys: Vec<String>| Some(keys).filter(|keys| !keys.is_empty());
        Ok(GetOut { dataset, history, rescued: some(rescued), fetched: some(fetched), missing: some(missing) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_two_buckets_are_two_and_what_lies_bare_counts_only_where_its_hash_is_known() {
        assert_ne!(copy_key("primary", "n/x"), copy_key("lake", "n/x"));
        assert_eq!(copy_keys("primary", "n/x", false), ["objects/primary/n/x"]);
        assert_eq!(copy_keys("primary", "n/x", true), ["objects/primary/n/x", "n/x"]);
        let part = "datasets/d/r/part-0.parquet";
        assert_eq!(copy_keys("lake", part, true), [part]);
    }
}
