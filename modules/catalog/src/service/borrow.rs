//! Objects whose bucket is away, read from their copies in `rescue` meanwhile.
//!
//! A copy in a folder is read where it lies; one in S3 is fetched once, into
//! `buckets/.borrowed/<sha256>` of the state, which is no bucket's. Invariants: nobody is given
//! bytes that have not the recorded hash; nothing is written into a bucket that is away; what was
//! fetched goes a day after somebody last asked for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use brahman_card::interface::catalog::Object;
use brahman_card::interface::storage::RESCUE;
use brahman_sidecar::{blocking, chain};
use brahman_storage::buckets::BucketError;

use super::CatalogService;
use super::realm::Realm;
use super::rescue::{Lookup, copy_keys};
use crate::registry::Roots;
use crate::verified::{State, VerifiedFiles};

/// The folder beside the buckets' in the state; no bucket is called so.
const BORROWED: &str = ".borrowed";
/// Whoever was given a file has read it by then.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// That a file is still asked for is noted this often: its times tell whether it was verified.
const NOTED_EVERY: Duration = Duration::from_secs(3600);
/// What stays free on the state's disk for journals and commits, whatever is fetched.
const FREE_BYTES: u64 = 1 << 30;
/// Digits of a SHA-256: what else is recorded is no file's name.
const DIGITS: usize = 64;

/// Buckets that are away, and why.
pub(super) type AwayBuckets = BTreeMap<String, BucketError>;

impl CatalogService {
    /// Which of the buckets of some objects are away. A mock's lie in the state.
    pub(super) async fn away_of(&self, realm: Realm, objects: &[Object]) -> AwayBuckets {
        let mut away = AwayBuckets::new();
        if realm == Realm::Mock {
            return away;
        }
        let mut buckets: Vec<&str> = objects.iter().map(|object| object.bucket.as_str()).collect();
        buckets.sort_unstable();
        buckets.dedup();
        for bucket in buckets {
            if let Err(error) = self.buckets.mounted(bucket).await {
                away.insert(bucket.to_owned(), error);
            }
        }
        away
    }

    /// Where a copy of an object can be read while its bucket is away; none if there is no good
    /// one. Of one in S3 what lies on this machine is a copy already.
    pub(super) async fn borrow(
        &self,
        object: &Object,
        away: &AwayBuckets,
        roots: &Roots,
    ) -> Option<PathBuf> {
        let is_folder = !roots.get(&object.bucket).is_ok_and(|root| !root.is_local());
        if !is_folder || !away.contains_key(&object.bucket) || !self.buckets.rescues() {
            return None;
        }
        if let Err(error) = self.buckets.present(RESCUE).await {
            tracing::warn!(
                bucket = object.bucket,
                key = object.key,
                "no help from {RESCUE}: {}",
                chain(&error)
            );
            return None;
        }
        let rescue = self.buckets.list().into_iter().find(|bucket| bucket.name == RESCUE);
        let folder =
            rescue.and_then(|rescue| rescue.url.strip_prefix("file://").map(PathBuf::from));
        match folder {
            Some(folder) => {
                for key in
                    copy_keys(&self.node, &object.bucket, &object.key, Lookup::Recorded).all()
                {
                    let path = folder.join(&*key);
                    if self.is_whole(&path, object).await {
                        return Some(path);
                    }
                }
                None
            }
            None => self.fetch(object).await,
        }
    }

    async fn fetch(&self, object: &Object) -> Option<PathBuf> {
        let is_plain =
            object.sha256.len() == DIGITS && object.sha256.bytes().all(|b| b.is_ascii_hexdigit());
        let path = is_plain.then(|| self.borrowed().join(&object.sha256))?;
        if self.is_whole(&path, object).await {
            note_use(&path);
            return Some(path);
        }
        let free = free_bytes(&self.state);
        if free.is_some_and(|free| free < object.bytes.saturating_add(FREE_BYTES)) {
            tracing::error!(
                bucket = object.bucket,
                key = object.key,
                "not fetched from {RESCUE}: the disk of {} is full",
                self.state.display()
            );
            return None;
        }
        match self.bring_back(object, &path).await {
            Ok(()) => Some(path),
            Err(error) => {
                tracing::warn!(
                    bucket = object.bucket,
                    key = object.key,
                    "no help from {RESCUE}: {}",
                    chain(&error)
                );
                None
            }
        }
    }

    fn borrowed(&self) -> PathBuf {
        self.state.join("buckets").join(BORROWED)
    }

    pub(super) async fn is_whole(&self, path: &Path, object: &Object) -> bool {
        let (verified, path, bytes, sha256) =
            (Arc::clone(&self.verified), path.to_owned(), object.bytes, object.sha256.clone());
        let looking = blocking(move || look(&verified, &path, bytes, &sha256));
        looking.await.unwrap_or(false)
    }

    /// Removes what was fetched and nobody has asked for since yesterday.
    pub(super) async fn clear_borrowed(&self) {
        let folder = self.borrowed();
        // What cannot be removed is met again.
        let _ = blocking(move || clear(&folder)).await;
    }
}

fn look(verified: &VerifiedFiles, path: &Path, bytes: u64, sha256: &str) -> bool {
    verified.state(path, bytes, sha256) == State::Whole
}

/// What of a disk whoever has no privileges may still fill.
fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// How long ago a file was fetched, or asked for.
fn age(path: &Path) -> Option<Duration> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()?.elapsed().ok()
}

fn note_use(path: &Path) {
    if age(path).is_some_and(|age| age > NOTED_EVERY)
        && let Err(error) = File::options()
            .write(true)
            .open(path)
            .and_then(|file| file.set_modified(SystemTime::now()))
    {
        tracing::warn!("{}: {}: it may be fetched again", path.display(), chain(&error));
    }
}

fn clear(folder: &Path) {
    let found = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        found => found,
    };
    for file in found.into_iter().flatten().flatten() {
        let path = file.path();
        if age(&path).is_some_and(|age| age > KEPT)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!("{}: {}", path.display(), chain(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_fetched_goes_a_day_after_it_was_last_asked_for() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        clear(&folder.path().join("none"));
        for (name, hours) in [("new", 0), ("used", 23), ("old", 25)] {
            let file = File::create(folder.path().join(name)).expect("made");
            file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).expect("aged");
        }
        note_use(&folder.path().join("used"));
        assert!(age(&folder.path().join("used")).is_some_and(|age| age < NOTED_EVERY));
        clear(folder.path());
        assert_eq!(
            ["new", "used", "old"].map(|name| folder.path().join(name).exists()),
            [true, true, false]
        );
    }
}
