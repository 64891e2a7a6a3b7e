//! Manifests in S3, looked at as part of a scrub: each is whole, and that of the present generation
//! is there.
//!
//! Invariants: only what is certainly this catalog's own is written, from the dataset's file, and a
//! new one over nobody's; by which catalog a dataset was taken over is known from its manifest
//! alone, so one that said it is reported and not made up.

use brahman_card::interface::catalog::Dataset;
use brahman_card::interface::storage::{ScrubDamage, ScrubOut, ScrubRepair};
use brahman_sidecar::chain;
use brahman_storage::buckets::BucketError;

use super::super::adopt::PRODUCER;
use super::super::realm::Realm;
use super::super::remote::MANIFESTS_MAX;
use super::super::{CatalogService, lock};
use super::{DAMAGED_MAX, commit_of, is_missed, miss, push};
use crate::registry::manifests::{self, Manifest};

impl CatalogService {
    /// Reads every manifest in S3 of the datasets that are here, and writes that of a present
    /// generation anew which is ours and damaged.
    pub(super) async fn look_at_manifests(
        &self,
        bucket: Option<&str>,
        dataset: Option<&str>,
        found: &mut ScrubOut,
    ) {
        let remote: Vec<String> = self
            .buckets
            .roots()
            .into_iter()
            .filter(|(_, root)| !root.is_local())
            .map(|(name, _)| name)
            .collect();
        for within in remote.iter().filter(|name| bucket.is_none_or(|bucket| bucket == *name)) {
            let asked = within.clone();
            let names = self
                .consult(Realm::Real, move |registry| registry.recorded_in(&asked))
                .await
                .unwrap_or_default();
            if !names.is_empty()
                && let Err(error) = self.buckets.present(within).await
            {
                miss(found, within, &error);
            }
            for name in names.iter().filter(|name| dataset.is_none_or(|dataset| dataset == *name)) {
                if is_missed(found, within) {
                    break;
                }
                let keys = match self
                    .buckets
                    .keys(within, &format!("manifests/{name}"), MANIFESTS_MAX)
                    .await
                {
                    Ok(keys) => keys,
                    Err(error) => {
                        miss(found, within, &error);
                        continue;
                    }
                };
                self.look_for_missing_manifest(within, name, &keys, found).await;
                for (key, _) in keys {
                    let Some((_, number)) = manifests::place(&key).filter(|(of, _)| of == name)
                    else {
                        continue;
                    };
                    self.look_at_manifest(within, name, &key, number, found).await;
                }
            }
        }
    }

    /// Whether the manifest of a dataset's present generation is among those of its bucket: without
    /// it, whoever takes the dataset up gets an older one, and nobody is kept from publishing
    /// another of its number.
    async fn look_for_missing_manifest(
        &self,
        bucket: &str,
        name: &str,
        keys: &[(String, u64)],
        found: &mut ScrubOut,
    ) {
        let asked = name.to_owned();
        let present = self.consult(Realm::Real, move |registry| {
            let dataset = registry.get(&asked).ok()?;
            let producer = registry.journal.begun_by(&dataset.lineage.run_id).map(str::to_owned);
            Some((dataset, producer))
        });
        let present = present.await.ok().flatten();
        let number = present.as_ref().map(|(dataset, _)| dataset.generation);
        let is_there = |key: &str| keys.iter().any(|(there, _)| there == key);
        // Of those that were withdrawn since nothing is damaged any more.
        let mine = |key: &str| {
            manifests::place(key).is_some_and(|(of, n)| of == name && Some(n) != number)
        };
        lock(&self.damaged).retain(|(within, key)| within != bucket || !mine(key) || is_there(key));
        let Some((dataset, producer)) = present else { return };
        let (number, key) = (dataset.generation, manifests::key(name, dataset.generation));
        if is_there(&key) || !dataset.objects.iter().any(|object| object.bucket == bucket) {
            return;
        }
        let place = (bucket.to_owned(), key.clone());
        let why = format!("the manifest of generation {number} of dataset `{name}` is gone");
        let finding = ScrubDamage { bucket: bucket.to_owned(), key: key.clone(), why };
        push(&mut found.damaged, finding.clone());
        // One by which a dataset was taken up says from whom, which is not known here.
        let is_a_commit = producer.is_some_and(|producer| producer != PRODUCER);
        let written = if is_a_commit {
            self.write_manifest(bucket, &key, dataset, true).await
        } else {
            Ok(false)
        };
        match written {
            Ok(true) => {
                lock(&self.damaged).remove(&place);
                tracing::warn!(
                    bucket,
                    key,
                    "written anew from the dataset's file: {}",
                    finding.why
                );
                push(&mut found.repaired, ScrubRepair { bucket: finding.bucket, key });
            }
            written => {
                if let Err(error) = written {
                    self.buckets.failed(bucket, "put", &key, &error);
                }
                let mut damaged = lock(&self.damaged);
                if damaged.len() < DAMAGED_MAX {
                    damaged.insert(place);
                }
                drop(damaged);
                self.buckets.failed(bucket, "verify", &key, &finding.why);
                push(&mut found.unrepaired, finding);
            }
        }
    }

    async fn look_at_manifest(
        &self,
        bucket: &str,
        name: &str,
        key: &str,
        number: u64,
        found: &mut ScrubOut,
    ) {
        let text = match self.manifest_text(bucket, key).await {
            Ok(Some(text)) => text,
            // Withdrawn since it was listed.
            Ok(None) => return,
            Err(error) => return miss(found, bucket, &error),
        };
        found.manifests = Some(found.manifests.unwrap_or(0) + 1);
        let place = (bucket.to_owned(), key.to_owned());
        let Err(error) = Manifest::open(&text, number) else {
            lock(&self.damaged).remove(&place);
            return;
        };
        let why = format!(
            "{}: what generation {number} of dataset `{name}` was made of is not to be learnt from here",
            chain(&error)
        );
        let finding = ScrubDamage { bucket: bucket.to_owned(), key: key.to_owned(), why };
        push(&mut found.damaged, finding.clone());
        match self.restore_manifest(bucket, name, key, number, &text).await {
            Ok(true) => {
                lock(&self.damaged).remove(&place);
                tracing::warn!(
                    bucket,
                    key,
                    "damaged, and written anew from the dataset's file: {}",
                    finding.why
                );
                push(&mut found.repaired, ScrubRepair { bucket: finding.bucket, key: finding.key });
            }
            mended => {
                if let Err(error) = mended {
                    self.buckets.failed(bucket, "put", key, &error);
                }
                let mut damaged = lock(&self.damaged);
                if damaged.len() < DAMAGED_MAX {
                    damaged.insert(place);
                }
                drop(damaged);
                self.buckets.failed(bucket, "verify", key, &finding.why);
                push(&mut found.unrepaired, finding);
            }
        }
    }

    /// Writes a damaged manifest anew, if it is that of the present generation and certainly ours:
    /// a catalog that has taken the dataset up may have put another there. Whether it did.
    async fn restore_manifest(
        &self,
        bucket: &str,
        name: &str,
        key: &str,
        number: u64,
        text: &[u8],
    ) -> Result<bool, BucketError> {
        let node = self.buckets.known_node()?;
        // Nothing is withdrawn meanwhile.
        let _deleting = self.deleting.lock().await;
        let asked = name.to_owned();
        let dataset = self.consult(Realm::Real, move |registry| registry.get(&asked)).await?.ok();
        let ours = |dataset: &Dataset| {
            dataset.generation == number
                && Manifest::was_commit_of(text, node, &dataset.lineage.run_id, number)
        };
        let Some(dataset) = dataset.filter(ours) else { return Ok(false) };
        self.write_manifest(bucket, key, dataset, false).await
    }

    /// Puts the manifest of a commit of this catalog. Whether it did: a new one is not put over
    /// another's.
    async fn write_manifest(
        &self,
        bucket: &str,
        key: &str,
        dataset: Dataset,
        only_new: bool,
    ) -> Result<bool, BucketError> {
        let manifest = Manifest {
            node: self.buckets.known_node()?.to_owned(),
            run_id: dataset.lineage.run_id.clone(),
            generation: dataset.generation,
            taken_from: None,
            commit: serde_json::to_value(commit_of(dataset)).map_err(std::io::Error::from)?,
            sha256: None,
        };
        self.buckets
            .put(bucket, key, manifest.seal().map_err(std::io::Error::from)?, only_new)
            .await
    }
}
