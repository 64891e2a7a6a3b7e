//! Copies in the bucket `rescue`, and objects that come back from there.

use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::catalog::{Dataset, GetOut};
use brahman_card::interface::storage::RESCUE;

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
        let kept = |key: &str| !self.books().spent(&dataset.name, key);
        self.buckets.keep_only(RESCUE, &format!("datasets/{}", dataset.name), kept).await;
    }

    /// A dataset whose objects are all there: one that is gone or cut comes back from its own bucket in S3, or from `rescue`, if
    /// its hash is right.
    pub(super) async fn get(self: &Arc<Self>, name: &str) -> Result<GetOut, Fault> {
        let (dataset, history, roots) = {
            let books = self.books();
            (books.get(name).map_err(fault)?, books.history(name).map_err(fault)?, books.roots().clone())
        };
        let (mut rescued, mut fetched, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for object in &dataset.objects {
            let path = object.local();
            let there = tokio::fs::metadata(&path).await.is_ok_and(|meta| meta.len() == object.bytes);
            if there {
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
