//! Deleting what no generation needs any more: here, in buckets in S3, and in `rescue`.
//!
//! What may go is decided in [`crate::registry::sweep`] and [`crate::registry::manifests`]; here it
//! is read, asked once more, and removed one by one. Invariants: a bucket that is away is not
//! swept; a manifest goes before the objects that it stands for; what failed is told, and tried
//! again with the next commit, after an hour, and at the next start.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use brahman_card::clock::now_ms;
use brahman_card::interface::storage::RESCUE;
use brahman_sidecar::{blocking, chain};
use brahman_storage::buckets::BucketError;
use thiserror::Error;

use super::remote::MANIFESTS_MAX;
use super::{CatalogService, Realm, held, left_in_words, lock};
use crate::registry::sweep::{self, Evidence, ListedObject, Refusal};
use crate::registry::{DatasetRegistry, manifests, tidy_shared};

/// Objects of one dataset in one bucket that are listed.
const LISTED_MAX: usize = 1_000_000;

/// Why a bucket was not swept, or not all of it.
#[derive(Debug, Error)]
enum SweepError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("nothing is tidied there")]
    Bucket(#[from] BucketError),
}

impl CatalogService {
    /// Buckets whose folders are not there just now.
    pub(super) async fn away(&self, realm: Realm) -> BTreeSet<String> {
        let mut away = BTreeSet::new();
        // Mocks write below the state.
        if realm == Realm::Mock {
            return away;
        }
        for name in self.buckets.roots().into_keys() {
            if self.buckets.mounted(&name).await.is_err() {
                away.insert(name);
            }
        }
        away
    }

    /// The same, where the thread that asks may wait.
    fn away_now(&self, realm: Realm) -> BTreeSet<String> {
        if realm == Realm::Mock {
            return BTreeSet::new();
        }
        self.buckets
            .roots()
            .into_keys()
            .filter(|name| self.buckets.mounted_now(name).is_err())
            .collect()
    }

    /// Deletes what may go of one dataset, or of all, from this machine. Gives what stays because
    /// something could not be read, and why.
    pub(super) async fn tidy(&self, realm: Realm, name: Option<&str>) -> Vec<String> {
        let turn = Arc::clone(&self.tidying).lock_owned().await;
        let (away, name) = (self.away(realm).await, name.map(str::to_owned));
        let tidied = self.with(realm, move |registry| {
            let _turn = turn;
            held(registry).expire_pins(now_ms());
            Ok(tidy_shared(registry, name.as_deref(), &away))
        });
        tidied.await.unwrap_or_else(|fault| vec![fault.message().to_owned()])
    }

    /// The same of the mocks' and of real datasets, at once, before anybody is served.
    pub(super) fn tidy_all(&self) {
        for realm in [Realm::Real, Realm::Mock] {
            let away = self.away_now(realm);
            let mut registry = self.of(realm);
            registry.expire_pins(now_ms());
            registry.tidy(None, &away);
        }
    }

    /// Deletes what earlier lives of this process have left, and what was left alone because it was
    /// too soon; ends with its task.
    pub async fn keep_sweeping(self: &Arc<Self>) {
        loop {
            self.look_for_unfinished().await;
            self.show_all().await;
            self.clear_borrowed().await;
            for path in self.buckets.clear_leftovers().await {
                tracing::info!(path = %path.display(), "removed what a killed upload had left");
            }
            let names = self
                .consult(Realm::Real, DatasetRegistry::with_spent_runs)
                .await
                .unwrap_or_default();
            for name in names {
                self.tidy_remote(&name).await;
            }
            tokio::time::sleep(sweep::ORPHAN_AGE).await;
            for realm in [Realm::Real, Realm::Mock] {
                self.tidy(realm, None).await;
            }
        }
    }

    /// Notes what runs have left, for whoever asks how this module is.
    async fn look_for_unfinished(self: &Arc<Self>) {
        let service = Arc::clone(self);
        let looking =
            blocking(move || *lock(&service.unfinished) = left_in_words(&service.unfinished()));
        if let Err(error) = looking.await {
            tracing::warn!(%error, "what runs have left was not looked at");
        }
    }

    /// Deletes from buckets in S3, and from `rescue`, what we have put there of a dataset and no
    /// generation needs.
    pub(super) async fn tidy_remote(&self, name: &str) {
        let asked = name.to_owned();
        let evidence =
            self.with(Realm::Real, move |registry| Ok(held(registry).evidence(Some(&asked)))).await;
        let evidence = match evidence {
            Ok(evidence) => evidence,
            Err(fault) => return self.note_unswept(name, vec![fault.message().to_owned()]),
        };
        let mut notes = Vec::new();
        for bucket in self.written_by(&evidence) {
            if let Err(error) = self.sweep_bucket(&bucket, name, &evidence).await {
                let note = format!("bucket `{bucket}`, dataset `{name}`: {}", chain(&error));
                tracing::warn!("{note}");
                notes.push(note);
            }
        }
        self.note_unswept(name, notes);
    }

    /// Sweeps once more where it was refused or failed, if by now all can be read: what was said of
    /// it holds no more.
    pub(super) async fn sweep_again(&self) {
        let names: Vec<String> = super::lock(&self.unswept).keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let asked = |registry: &DatasetRegistry| registry.doubts().is_empty();
        if self.consult(Realm::Real, asked).await.unwrap_or(false) {
            for name in names {
                self.tidy_remote(&name).await;
            }
        }
    }

    /// The buckets, other than folders of datasets, into which some runs may have put something, or
    /// that have copies.
    fn written_by(&self, evidence: &Evidence) -> Vec<String> {
        let anywhere = evidence.runs.values().any(|run| run.buckets.is_empty());
        let wrote = |name: &String| {
            anywhere || evidence.runs.values().any(|run| run.buckets.contains(name))
        };
        let roots = self
            .buckets
            .roots()
            .into_iter()
            .filter(|(_, root)| !root.is_local())
            .map(|(name, _)| name);
        let copies = self.buckets.rescues().then(|| RESCUE.to_owned());
        roots.filter(wrote).chain(copies).collect()
    }

    fn note_unswept(&self, name: &str, notes: Vec<String>) {
        let mut unswept = super::lock(&self.unswept);
        if notes.is_empty() {
            unswept.remove(name);
        } else {
            unswept.insert(name.to_owned(), notes);
        }
    }

    /// What could not be swept in buckets, and why.
    pub(super) fn unswept(&self) -> Vec<String> {
        super::lock(&self.unswept).values().flatten().cloned().collect()
    }

    async fn sweep_bucket(
        &self,
        bucket: &str,
        name: &str,
        evidence: &Evidence,
    ) -> Result<(), SweepError> {
        // A manifest goes before the objects that it stands for, and whose it is could not be told.
        if bucket != RESCUE {
            self.buckets.known_node()?;
        }
        self.buckets.present(bucket).await?;
        let listed = self.buckets.keys(bucket, &format!("datasets/{name}"), LISTED_MAX).await?;
        let object =
            |(key, _)| Ok(ListedObject { bucket: bucket.to_owned(), key, resumable: false });
        let listing: Vec<_> = listed.into_iter().map(object).collect();
        let plan = sweep::plan(evidence, &listing)?;
        let (within, of, strangers) = (bucket.to_owned(), name.to_owned(), plan.strangers);
        let noting = self.with(Realm::Real, move |registry| {
            held(registry).note_strangers(&within, Some(&of), strangers);
            Ok(())
        });
        if let Err(fault) = noting.await {
            tracing::error!(bucket, "whose objects lie there is not noted: {fault}");
        }
        // No manifest stands for copies.
        if bucket != RESCUE {
            self.withdraw(bucket, name).await?;
        }
        let mut failed = None;
        for listed in &plan.spent {
            if let Err(error) = self.remove_spent(listed).await {
                self.buckets.failed(bucket, "delete", &listed.key, &error);
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Withdraws our manifests that stand for nothing any more.
    async fn withdraw(&self, bucket: &str, name: &str) -> Result<(), SweepError> {
        for (key, number) in self.telling(bucket, name).await? {
            let manifest = match self.manifest(bucket, &key).await {
                Ok(Some(manifest)) => manifest,
                // Gone since it was listed, or whose it is cannot be told.
                Ok(None) | Err(BucketError::Damaged { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            // Nothing is begun, and so nothing published of a run that has ended, until it has
            // gone.
            let _deleting = self.deleting.lock().await;
            let head = self.head_in(bucket, name).await?;
            if head.withdraws(number, &manifest) {
                self.buckets.remove_object(bucket, &key).await?;
            }
        }
        Ok(())
    }

    /// Against what a dataset's manifests in a bucket are held. It may look at a disk.
    async fn head_in(&self, bucket: &str, name: &str) -> Result<manifests::Head, BucketError> {
        let (bucket, name, node, registry) = (
            bucket.to_owned(),
            name.to_owned(),
            self.node.clone(),
            Arc::clone(self.registry_of(Realm::Real)),
        );
        let looking = blocking(move || held(&registry).head_in(&name, &bucket, &node));
        looking.await.map_err(|error| io::Error::other(error).into())
    }

    /// Keys and numbers of a dataset's manifests in a bucket that have to be read.
    async fn telling(&self, bucket: &str, name: &str) -> Result<Vec<(String, u64)>, BucketError> {
        let listed = self.buckets.keys(bucket, &format!("manifests/{name}"), MANIFESTS_MAX).await?;
        let head = self.head_in(bucket, name).await?;
        let number = |key: &str| {
            manifests::place(key).filter(|(of, _)| *of == name).map(|(_, number)| number)
        };
        let numbered =
            listed.into_iter().filter_map(|(key, _)| number(&key).map(|number| (key, number)));
        Ok(numbered.filter(|(_, number)| head.is_telling(*number)).collect())
    }
}
