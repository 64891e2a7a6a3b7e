//! `org.brahman.Storage`: buckets, their health, and what failed.

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
                let bucket = buckets.add(ask).await.map_err(|e| refused(&name, &e))?;
                self.books().set_roots(Roots::new(buckets.roots()));
                Reply::of(&AddBucketOut { bucket })
            }
            "RemoveBucket" => {
                call.allow_paths()?;
                let RemoveBucketIn { name } = call.parameters()?;
                let mut books = self.books();
                let protected = buckets.list().iter().any(|bucket| bucket.name == name && bucket.protected);
                let lying = if protected { Vec::new() } else { books.lying_in(&name) };
                if let Some(first) = lying.first() {
                    let message = format!(
                        "{} datasets lie in bucket `{name}`, `{first}` for one: delete them or ingest them elsewhere first",
                        lying.len()
                    );
                    return Err(Fault::new("org.brahman.Storage.InUse", false, message).with("name", name));
                }
                buckets.remove(&name).map_err(|e| refused(&name, &e))?;
                // Copies of what it holds; the objects stay where they are.
                if let Some(root) = books.roots().get(&name).ok().filter(|root| !root.is_local()) {
                    let _ = std::fs::remove_dir_all(&root.folder);
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
