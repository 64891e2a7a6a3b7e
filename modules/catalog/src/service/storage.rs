//! `org.brahman.Storage`: buckets, their health, and what failed.

use std::fs;
use std::path::Path;

use brahman_card::Fault;
use brahman_card::interface::storage::{
    AddBucketIn, AddBucketOut, BucketsOut, CompactErrorsIn, CompactErrorsOut, ErrorsIn, ErrorsOut, FlushErrorsOut, HealthOut,
    RemoveBucketIn,
};
use brahman_sidecar::{Call, Reply};
use brahman_storage::buckets::BucketError;

use super::CatalogService;
use crate::books::Roots;

/// Failures told unless more are asked for, and at most.
const ERRORS: u64 = 100;
const ERRORS_MAX: u64 = 10_000;
/// Datasets or indexes that are named where a bucket cannot be removed.
const NAMED: usize = 5;
/// Failures kept by a compaction unless another number is said.
const KEPT: u64 = 1000;

impl CatalogService {
    pub(super) async fn storage(&self, call: &Call) -> Result<Reply, Fault> {
        let buckets = &self.buckets;
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        match call.method() {
            "Buckets" => Reply::of(&BucketsOut { buckets: buckets.list() }),
            "AddBucket" => {
                // A folder, and a secret, of our own user's.
                call.allow_paths()?;
                let ask: AddBucketIn = call.parameters()?;
                let name = ask.name.clone();
                // Added again elsewhere, what lies in it would be out of reach.
                if buckets.list().iter().any(|bucket| bucket.name == name && bucket.url != ask.url) {
                    self.vacant(&name)?;
                }
                let bucket = buckets.add(ask).await.map_err(|e| refused(&name, &e))?;
                self.books().set_roots(Roots::new(buckets.roots()));
                Reply::of(&AddBucketOut { bucket })
            }
            "RemoveBucket" => {
                call.allow_paths()?;
                let RemoveBucketIn { name } = call.parameters()?;
                self.vacant(&name)?;
                let mut books = self.books();
                buckets.remove(&name).map_err(|e| refused(&name, &e))?;
                // Copies of what it holds; the objects stay where they are.
                if let Some(root) = books.roots().get(&name).ok().filter(|root| !root.is_local()) {
                    let _ = fs::remove_dir_all(&root.folder);
                }
                books.set_roots(Roots::new(buckets.roots()));
                Ok(Reply::empty())
            }
            "Health" => Reply::of(&HealthOut { health: buckets.health().await }),
            "Errors" => {
                let ErrorsIn { limit } = call.parameters()?;
                let (errors, total) = buckets.failures(number(limit.unwrap_or(ERRORS).min(ERRORS_MAX)));
                Reply::of(&ErrorsOut { errors, total: total as u64 })
            }
            // Each is on disk before anybody is told of it.
            "FlushErrors" => Reply::of(&FlushErrorsOut { total: buckets.failures(0).1 as u64 }),
            "CompactErrors" => {
                let CompactErrorsIn { keep } = call.parameters()?;
                let done = buckets.compact(number(keep.unwrap_or(KEPT)));
                let (kept, dropped) = done.map_err(|e| Fault::internal(format!("the journal of failures: {e}")))?;
                Reply::of(&CompactErrorsOut { kept: kept as u64, dropped: dropped as u64 })
            }
            _ => Err(call.unknown()),
        }
    }

    /// Refuses if datasets lie in a bucket or indexes live there. One that is protected stays in any case.
    fn vacant(&self, name: &str) -> Result<(), Fault> {
        if self.buckets.list().iter().any(|bucket| bucket.name == name && bucket.protected) {
            return Ok(());
        }
        let books = self.books();
        let local = books.roots().get(name).ok().filter(|root| root.is_local());
        in_use(name, "datasets lie", &books.lying_in(name))?;
        in_use(name, "indexes live", &local.map(|root| indexes_in(&root.folder)).unwrap_or_default())
    }
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
    let message = format!("{what} in bucket `{bucket}`: {named}{more}; delete them or take them elsewhere first");
    Err(Fault::new("org.brahman.Storage.InUse", false, message).with("name", bucket.to_owned()))
}

/// Indexes whose home is in a bucket's folder. Where one has moved away only a note is left.
fn indexes_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("indexes")).into_iter().flatten().flatten();
    let lives = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().any(|file| file.file_name() != "MOVED.json");
    let named = entries.filter(|entry| lives(&entry.path())).map(|entry| entry.file_name().to_string_lossy().into_owned());
    named.filter(|name| !name.starts_with('.')).collect()
}

fn refused(name: &str, error: &BucketError) -> Fault {
    let message = error.to_string();
    let of = |kind: &'static str, retryable| Fault::new(kind, retryable, message.clone()).with("name", name.to_owned());
    match error {
        BucketError::NoSuchBucket(_) => of("org.brahman.Storage.NoSuchBucket", false),
        BucketError::Protected(_) => of("org.brahman.Storage.Protected", false),
        BucketError::Unusable { .. } => of("org.brahman.Storage.Unusable", true),
        BucketError::Bad(_) => Fault::invalid_parameter("bucket", message),
        BucketError::Io(_) => Fault::internal(message),
    }
}
