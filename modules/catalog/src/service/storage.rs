//! `org.brahman.Storage`: buckets, their health, and what failed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::storage::{
    AddBucketIn, AddBucketOut, BucketsOut, CompactErrorsIn, CompactErrorsOut, ErrorsIn, ErrorsOut,
    FlushErrorsOut, HealthOut, OBJECT_BYTES_MAX, PRIMARY, RESCUE, RemoveBucketIn, error,
};
use brahman_sidecar::place::meshes::{self, LiveMesh};
use brahman_sidecar::{Call, Reply, blocking, chain};
use brahman_storage::buckets::{Addition, BucketError, FailureJournal, MARKER, OtherState};

use super::realm::Realm;
use super::{CatalogService, lock, unanswered};

/// Failures told unless more are asked for, and at most.
const ERRORS: u64 = 100;
const ERRORS_MAX: u64 = 10_000;
/// Datasets or indexes that are named where a bucket cannot be removed.
const NAMED: usize = 5;
/// Does what must not end half-way: both registries, of buckets and of datasets, say the same of
/// which buckets there are, also to who has hung up.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<T, Fault> {
    tokio::spawn(work).await.map_err(|error| Fault::internal(chain(&error)))?
}

/// Failures kept by a compaction unless another number is said.
const KEPT: u64 = 1000;

impl CatalogService {
    pub(super) async fn storage(self: &Arc<Self>, call: &Call) -> Result<Reply, Fault> {
        let buckets = &self.buckets;
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        match call.method() {
            "Buckets" => {
                Reply::of(&BucketsOut { buckets: buckets.list(), shortfall: buckets.shortfall() })
            }
            "AddBucket" => {
                // A folder, and a secret, of our own user's.
                call.allow_paths()?;
                let ask: AddBucketIn = call.parameters()?;
                let service = Arc::clone(self);
                Reply::of(&to_its_end(async move { service.add_bucket(ask).await }).await?)
            }
            "RemoveBucket" => {
                call.allow_paths()?;
                let RemoveBucketIn { name } = call.parameters()?;
                let service = Arc::clone(self);
                to_its_end(async move { service.remove_bucket(&name).await }).await?;
                Ok(Reply::empty())
            }
            "Health" => Reply::of(&self.health().await),
            "Scrub" => self.scrub(call).await,
            "Errors" => {
                let ErrorsIn { limit } = call.parameters()?;
                let limit = number(limit.unwrap_or(ERRORS).min(ERRORS_MAX));
                let told = move |journal: &FailureJournal| {
                    let (errors, total) = journal.newest(limit);
                    ErrorsOut { errors, total: total as u64, shortfall: journal.shortfall() }
                };
                let mut out = self.in_journal(told).await?;
                out.errors.retain(|failure| self.key_in_scope(&failure.key));
                Reply::of(&out)
            }
            "FlushErrors" => {
                let flushed = |journal: &FailureJournal| {
                    journal.flush();
                    FlushErrorsOut { total: journal.newest(0).1 as u64 }
                };
                Reply::of(&self.in_journal(flushed).await?)
            }
            "CompactErrors" => {
                let CompactErrorsIn { keep } = call.parameters()?;
                let keep = number(keep.unwrap_or(KEPT));
                let done = self.in_journal(move |journal| journal.compact(keep)).await?;
                let (kept, dropped) = done.map_err(|e| {
                    Fault::internal(format!("the journal of failures: {}", chain(&e)))
                })?;
                Reply::of(&CompactErrorsOut { kept: kept as u64, dropped: dropped as u64 })
            }
            "GetObject" => self.get_object(call).await,
            "PutObject" => self.put_object(call).await,
            _ => Err(call.unknown()),
        }
    }

    /// Does something with the journal of failures, on a thread that may wait for the disk.
    async fn in_journal<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FailureJournal) -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let journal = Arc::clone(self.buckets.journal());
        let work = blocking(move || work(&journal));
        work.await.map_err(|error| Fault::internal(chain(&error)))
    }

    async fn add_bucket(&self, ask: AddBucketIn) -> Result<AddBucketOut, Fault> {
        let name = ask.name.clone();
        // Added again elsewhere, what lies in it would be out of reach. The same place with other
        // credentials is fine.
        if self.buckets.moves(&ask) {
            self.vacant(&name).await?;
        }
        let state = self.state.clone();
        let added = self.buckets.add_apart_from(ask, move || other_states(&state)).await;
        let Addition { bucket, notes } = added.map_err(|e| refused(&name, &e))?;
        self.settle_roots().await?;
        Ok(AddBucketOut { bucket, notes: Some(notes).filter(|notes| !notes.is_empty()) })
    }

    async fn remove_bucket(&self, name: &str) -> Result<(), Fault> {
        let buckets = &self.buckets;
        self.vacant(name).await?;
        // Copies of datasets' objects; the objects stay where they are, and so does what is a
        // bucket itself.
        let roots = self
            .consult(Realm::Real, |registry| registry.roots().clone())
            .await
            .map_err(unanswered)?;
        let copies =
            roots.get(name).ok().filter(|root| !root.is_local()).map(|root| root.folder.clone());
        buckets.remove(name).await.map_err(|e| refused(name, &e))?;
        let is_bucket = |folder: &PathBuf| folder.join(MARKER).exists();
        if let Some(copies) = copies.filter(|copies| buckets.is_ours(copies) && !is_bucket(copies))
        {
            match tokio::fs::remove_dir_all(copies.join("datasets")).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    buckets.failed(name, "delete", &copies.display().to_string(), &error);
                }
                // If anything else is there it stays.
                _ => drop(tokio::fs::remove_dir(&copies).await),
            }
        }
        self.settle_roots().await
    }

    /// How the buckets are, with how far the copies are behind, and what the last scrub of all of
    /// them found.
    async fn health(&self) -> HealthOut {
        let mut health = self.buckets.health().await;
        let (lag, (last_scrub_ms, damaged)) = (self.lag().await, self.scrubbed().await);
        for of in &mut health {
            if of.name == RESCUE && self.buckets.rescues() {
                (of.backlog_objects, of.backlog_bytes) = (Some(lag.objects), Some(lag.bytes));
                of.oldest_unsaved_s = (lag.objects > 0).then_some(lag.oldest_s);
            }
            if of.name == PRIMARY && last_scrub_ms.is_some() {
                (of.last_scrub_ms, of.damaged) = (last_scrub_ms, Some(damaged));
            }
        }
        // Which buckets are away is known anew.
        self.copier.look_again();
        if lag.objects > 0 && health.iter().any(|of| of.name == RESCUE && of.reachable) {
            // It may have come back just now.
            self.copier.buckets_are_back();
        }
        HealthOut { health }
    }

    /// Refuses if datasets lie in a bucket or indexes live there. One that is protected stays in
    /// any case.
    async fn vacant(&self, name: &str) -> Result<(), Fault> {
        if self.buckets.list().iter().any(|bucket| bucket.name == name && bucket.protected) {
            return Ok(());
        }
        // A disk that hangs is not looked at again: what it holds cannot be told. That a bucket is
        // merely away is no reason to keep it.
        if self.buckets.mounted(name).await.is_err() && self.buckets.hangs(name) {
            let message = format!(
                "whether bucket `{name}` is in use cannot be told, for its disk does not answer: try again when it does"
            );
            return Err(Fault::of(&error::InUse { name: name.to_owned() }, false, message));
        }
        let (registry, bucket) = (Arc::clone(self.registry_of(Realm::Real)), name.to_owned());
        let looking = blocking(move || {
            let registry = lock(&registry);
            let local = registry
                .roots()
                .get(&bucket)
                .ok()
                .filter(|root| root.is_local())
                .map(|root| root.folder.clone());
            // A dataset that cannot be read may lie in it.
            let (lying, doubts) = (registry.lying_in(&bucket), registry.unread_datasets());
            drop(registry);
            (lying, doubts, local.map_or_else(|| Ok(Vec::new()), |folder| indexes_in(&folder)))
        });
        let (lying, mut doubts, indexes) = looking.await.map_err(|e| Fault::internal(chain(&e)))?;
        in_use(name, "datasets lie", &lying)?;
        in_use(name, "indexes live", indexes.as_deref().unwrap_or_default())?;
        doubts.extend(indexes.err().map(|error| chain(&error)));
        match doubts.is_empty() {
            true => Ok(()),
            false => {
                let message = format!(
                    "whether bucket `{name}` is in use cannot be told, for this could not be read: {}",
                    doubts.join("; ")
                );
                Err(Fault::of(&error::InUse { name: name.to_owned() }, false, message))
            }
        }
    }
}

/// States of the other meshes that run here.
fn other_states(own: &Path) -> Vec<OtherState> {
    let of = |LiveMesh { state, holder }: LiveMesh| {
        let words = format!(
            "{}, the state of the mesh on {} (process {})",
            state.display(),
            holder.socket.display(),
            holder.pid
        );
        OtherState { folder: state, words }
    };
    meshes::others(own).into_iter().map(of).collect()
}

/// Refuses to remove a bucket while something is in it.
fn in_use(bucket: &str, what: &str, names: &[String]) -> Result<(), Fault> {
    if names.is_empty() {
        return Ok(());
    }
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = names[..names.len().min(NAMED)].join(", ");
    let message = format!(
        "{what} in bucket `{bucket}`: {named}{more}; delete them or take them elsewhere first"
    );
    Err(Fault::of(&error::InUse { name: bucket.to_owned() }, false, message))
}

/// Indexes whose home is in a bucket's folder. Where one has moved away only a note is left.
fn indexes_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for path in listed(&folder.join("indexes"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with('.')
            && listed(&path)?
                .iter()
                .any(|file| file.file_name().is_some_and(|name| name != "MOVED.json"))
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// What lies in a folder; nothing if it is not there.
fn listed(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(found) => found.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

pub(super) fn refused(name: &str, error: &BucketError) -> Fault {
    fault_of(name, error, chain(error))
}

/// The same, with what else one should know.
pub(super) fn refused_with(name: &str, error: &BucketError, hint: &str) -> Fault {
    fault_of(name, error, format!("{}; {hint}", chain(error)))
}

fn fault_of(name: &str, error: &BucketError, message: String) -> Fault {
    let name = name.to_owned();
    match error {
        BucketError::NoSuchBucket(_) => Fault::of(&error::NoSuchBucket { name }, false, message),
        BucketError::Protected(_) => Fault::of(&error::Protected { name }, false, message),
        // What is away may come back.
        BucketError::Unusable { .. } | BucketError::Away { .. } => {
            Fault::of(&error::Unusable { name }, true, message)
        }
        BucketError::NoNode(_) => Fault::of(&error::Unusable { name }, false, message),
        BucketError::InTheWay { key, .. } => {
            Fault::of(&error::Taken { name, key: key.clone() }, false, message)
        }
        BucketError::Bad(_) => Fault::invalid_parameter("bucket", message),
        BucketError::NoSuchObject { key, .. } => {
            Fault::of(&error::NoSuchObject { name, key: key.clone() }, false, message)
        }
        BucketError::Damaged { key, .. } => {
            Fault::of(&error::DamagedObject { name, key: key.clone() }, false, message)
        }
        BucketError::TooLarge { size, .. } => Fault::of(
            &error::TooLarge { name: Some(name), size: *size, max: OBJECT_BYTES_MAX },
            false,
            message,
        ),
        BucketError::Io(_) => Fault::internal(message),
    }
}
