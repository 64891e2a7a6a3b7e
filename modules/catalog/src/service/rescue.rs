//! Copies in the bucket `rescue`, and objects that come back from there.

use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::catalog::{Dataset, GetOut};
use brahman_card::interface::storage::RESCUE;
use brahman_storage::digest::sha256_file;

use super::realm::Realm;
use super::{CatalogService, fault};

impl CatalogService {
    /// Copies what a dataset is made of, if somebody has said where copies are to go; what is no longer wanted goes.
    pub(super) async fn copy_to_rescue(&self, dataset: Dataset) {
        if !self.buckets.rescues() {
            return;
        }
        // One after the other: an older copy must not delete what a newer one puts.
        let _copying = self.copying.lock().await;
        for object in &dataset.objects {
            // What fails is in the journal; the next commit copies again.
            let _ = self.buckets.upload(RESCUE, &object.key, &object.local()).await;
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
            if self.buckets.download(RESCUE, &object.key, &object.sha256, &path).await.is_ok() {
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
            match self.buckets.download(RESCUE, &object.key, &object.sha256, &path).await {
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
