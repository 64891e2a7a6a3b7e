//! Datasets that lie in S3: objects are put there, then a manifest under the generation's number, and only then is the
//! generation published here.
//!
//! ```text
//! datasets/<name>/<run_id>/part-0.parquet   immutable
//! manifests/<name>/<generation>.json        created once; whoever comes second builds on it or is refused
//! ```
//!
//! A manifest that a crash kept from being published here is ours: its number is passed over.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use brahman_card::Fault;
use brahman_card::interface::catalog::{CommitIn, Object};
use brahman_storage::atomic;
use serde::{Deserialize, Serialize};

use super::{CatalogService, fault};
use crate::books::BookError;

/// Manifests kept in a bucket: as many as the history has.
const MANIFESTS_KEPT: u64 = 100;
/// Numbers passed over at most: each is a commit that a crash cut off.
const PASSED_MAX: u64 = 1000;

/// What lies in the bucket for anybody to read.
#[derive(Serialize, Deserialize)]
struct Manifest {
    /// Whose it is.
    node: String,
    run_id: String,
    generation: u64,
    /// What the generation is made of; not read again.
    #[serde(default)]
    commit: serde_json::Value,
}

/// The name by which this catalog is known in buckets that others write to as well.
pub(super) fn node(state: &Path) -> io::Result<String> {
    let path = state.join("catalog/node");
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let node = ulid::Ulid::generate().to_string();
            atomic::write(&path, node.as_bytes())?;
            Ok(node)
        }
        found => found,
    }
}

fn key(name: &str, generation: u64) -> String {
    format!("manifests/{name}/{generation:020}.json")
}

fn number(key: &str) -> Option<u64> {
    key.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()
}

impl CatalogService {
    /// The buckets in S3 among those of some objects.
    fn remote(&self, objects: &[Object]) -> Result<BTreeMap<String, Vec<Object>>, Fault> {
        let mut remote = BTreeMap::<String, Vec<Object>>::new();
        let books = self.books();
        for object in objects {
            if !books.roots().get(&object.bucket).map_err(fault)?.is_local() {
                remote.entry(object.bucket.clone()).or_default().push(object.clone());
            }
        }
        Ok(remote)
    }

    /// Puts a verified commit into the buckets in S3 that it names. Gives the generation that it has there, 0 if it names none.
    pub(super) async fn put_remote(&self, commit: &CommitIn) -> Result<u64, Fault> {
        let remote = self.remote(&commit.objects)?;
        let (mut generation, known) = self.books().next(&commit.name).map_err(fault)?;
        // The same run said again: it is there.
        if remote.is_empty() || known == commit.objects {
            return Ok(0);
        }
        self.books().check_base(commit).map_err(fault)?;
        for (bucket, objects) in &remote {
            let failed = |e: &dyn std::fmt::Display| {
                let message = format!("bucket `{bucket}`: {e}; nothing was published");
                Fault::new("org.brahman.Catalog.BucketFailed", true, message).with("name", bucket.clone())
            };
            for object in objects.iter().filter(|object| !known.contains(object)) {
                let path = self.books().roots().path(object).map_err(fault)?;
                self.buckets.upload(bucket, &object.key, &path).await.map_err(|e| failed(&e))?;
            }
            let last = generation + PASSED_MAX;
            loop {
                let manifest = Manifest {
                    node: self.node.clone(),
                    run_id: commit.run_id.clone(),
                    generation,
                    commit: serde_json::to_value(commit).map_err(|e| Fault::internal(e.to_string()))?,
                };
                let bytes = serde_json::to_vec(&manifest).map_err(|e| Fault::internal(e.to_string()))?;
                let there = self.buckets.create(bucket, &key(&commit.name, generation), bytes).await.map_err(|e| failed(&e))?;
                let Some(there) = there else { break };
                match serde_json::from_slice::<Manifest>(&there) {
                    Ok(there) if there.node == self.node && there.run_id == commit.run_id => break,
                    Ok(there) if there.node == self.node && generation < last => generation += 1,
                    _ => {
                        let message = format!(
                            "bucket `{bucket}` holds generation {generation} of dataset `{}` by somebody else; nothing was published: \
                             give it another name, or another bucket",
                            commit.name
                        );
                        return Err(Fault::new("org.brahman.Catalog.Moved", false, message).with("name", commit.name.clone()));
                    }
                }
            }
        }
        Ok(generation)
    }

    /// Removes from buckets in S3 what we have put there and no generation that is kept needs. What fails is in the journal, and is tried the next time.
    pub(super) async fn tidy_remote(&self, name: &str) {
        let (buckets, newest) = {
            let books = self.books();
            // Nothing goes while anything that may say that it is needed cannot be read.
            if !books.doubts().is_empty() {
                return;
            }
            let newest = match books.get(name) {
                Ok(dataset) => dataset.generation,
                Err(BookError::NoSuchDataset(_)) => u64::MAX,
                Err(_) => return,
            };
            let remote = books.roots().all().filter(|(_, root)| !root.is_local());
            (remote.map(|(bucket, _)| bucket.to_owned()).collect::<Vec<_>>(), newest)
        };
        let oldest = newest.saturating_sub(MANIFESTS_KEPT);
        for bucket in buckets {
            let kept = |key: &str| !self.books().spent(key);
            self.buckets.keep_only(&bucket, &format!("datasets/{name}"), kept).await;
            let old = |key: &str| number(key).is_some_and(|n| n <= oldest);
            let ours = |text: &[u8]| serde_json::from_slice::<Manifest>(text).is_ok_and(|manifest| manifest.node == self.node);
            self.buckets.remove_own(&bucket, &format!("manifests/{name}"), old, ours).await;
        }
    }
}
