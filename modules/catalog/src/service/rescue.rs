//! Copies in the bucket `rescue`, and objects that come back from there.
//!
//! ```text
//! datasets/<name>/<run_id>/part-0.parquet   what a run has written: no two buckets have the same
//! objects/<bucket>/<key>                    whatever else a bucket holds
//! ```
//!
//! Under any other key lies what was put into `rescue` itself, and what earlier versions have copied there: that is a copy only where a
//! dataset's file has its hash.
//!
//! One task copies, woken by commits, by a start and by a bucket that is added; nobody waits for it. Invariants: no copy is published
//! that has not the hash that was recorded; a copy that is right is never written again; how far the copies are behind is a figure, and
//! why is told.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use brahman_card::interface::catalog::{Copies, Object};
use brahman_card::interface::storage::RESCUE;
use brahman_storage::buckets::BucketError;
use tokio::sync::{Notify, watch};

use super::CatalogService;
use crate::books::folder_of;
use crate::books::sweep::{Listed, Verdict};

/// Where copies of single objects lie in `rescue`, below their buckets' names.
pub(super) const COPIES: &str = "objects";
/// Copies that are listed at once; of more each is looked at by itself.
const LISTED_MAX: usize = 1_000_000;
/// How long after a failure copying is tried again: soon, for a restart; not more often than this, for a bucket that is away.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// While it copies, how far it is is told this often.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Longest reason.
const WHY_CHARS: usize = 300;

/// Key of an object's copy.
pub(super) fn copy_key(bucket: &str, key: &str) -> String {
    if folder_of(key).is_some() { key.to_owned() } else { format!("{COPIES}/{bucket}/{key}") }
}

/// The same, of an object of a dataset, whose key is its copy's as a rule.
fn copy_of(object: &Object) -> Cow<'_, str> {
    if folder_of(&object.key).is_some() { Cow::Borrowed(&object.key) } else { Cow::Owned(copy_key(&object.bucket, &object.key)) }
}

/// Keys under which a copy of an object is looked for, one after the other. One whose hash is recorded may be an earlier version's.
pub(super) fn copy_keys(bucket: &str, key: &str, recorded: bool) -> Vec<String> {
    let mut keys = vec![copy_key(bucket, key)];
    if recorded && keys[0] != key {
        keys.push(key.to_owned());
    }
    keys
}

/// How far the copies are behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lag {
    /// Objects of present generations that have no copy.
    pub(super) objects: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Since the oldest of them was committed.
    pub(super) oldest_s: u64,
}

/// What is known of the copies in one place.
#[derive(Debug, Default)]
struct Known {
    /// Where `rescue` is, and since when; none before anybody has looked there.
    place: Option<(String, u64)>,
    /// Hashes of the copies that are there, by key.
    saved: BTreeMap<String, String>,
    /// Why a copy failed when it was last tried, by key.
    failing: BTreeMap<String, String>,
}

/// Who copies, and what is known of that.
#[derive(Debug)]
pub(super) struct Copier {
    wake: Notify,
    known: Mutex<Known>,
    lag: watch::Sender<Lag>,
}

impl Default for Copier {
    fn default() -> Self {
        Self { wake: Notify::new(), known: Mutex::default(), lag: watch::channel(Lag::default()).0 }
    }
}

impl Copier {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to copy, or somewhere to copy it to.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// A copy is there no more, or is not what it was.
    pub(super) fn forget(&self, key: &str) {
        let mut known = self.known();
        known.saved.remove(key);
        known.failing.remove(key);
    }

    /// A copy was found right, or was made right.
    pub(super) fn note_saved(&self, key: &str, sha256: &str) {
        let mut known = self.known();
        known.failing.remove(key);
        known.saved.insert(key.to_owned(), sha256.to_owned());
    }

    fn note_failing(&self, key: &str, error: &BucketError) {
        let why = error.to_string().chars().take(WHY_CHARS).collect();
        self.known().failing.insert(key.to_owned(), why);
    }

    /// Whether an object is known to have its copy.
    pub(super) fn has(&self, object: &Object) -> bool {
        self.known().saved.get(&*copy_of(object)) == Some(&object.sha256)
    }

    /// How far copies are behind whenever that may have changed.
    pub(super) fn watch(&self) -> watch::Receiver<Lag> {
        self.lag.subscribe()
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

impl CatalogService {
    /// How far the copies are behind; nothing where nobody has said where they are to go.
    pub(super) fn lag(&self) -> Lag {
        let mut lag = Lag::default();
        if !self.buckets.rescues() {
            return lag;
        }
        let (mut oldest_ms, known) = (u64::MAX, self.copier.known());
        self.books().for_each_live(|_, committed_ms, object| {
            if known.saved.get(&*copy_of(object)) != Some(&object.sha256) {
                lag.objects += 1;
                lag.bytes += object.bytes;
                oldest_ms = oldest_ms.min(committed_ms);
            }
        });
        drop(known);
        lag.oldest_s = if lag.objects == 0 { 0 } else { now_ms().saturating_sub(oldest_ms) / 1000 };
        lag
    }

    /// The same, in the words of a commit's reply; none where there are to be no copies.
    pub(super) fn copies(&self) -> Option<Copies> {
        let lag = self.buckets.rescues().then(|| self.lag())?;
        let known = self.copier.known();
        Some(Copies { pending: lag.objects, failed: known.failing.len() as u64, why: known.failing.values().next().cloned() })
    }

    /// Why the first of those that fail does.
    pub(super) fn copies_why(&self) -> Option<String> {
        self.copier.known().failing.values().next().cloned()
    }

    /// Copies whatever has no copy, again and again; ends with its task.
    pub async fn keep_copies(&self) {
        let mut pause = PAUSE.0;
        loop {
            let is_done = self.copy_pending().await;
            self.copier.lag.send_replace(self.lag());
            if is_done {
                pause = PAUSE.0;
                // A word may be lost with whoever was to say it.
                let _ = tokio::time::timeout(PAUSE.1, self.copier.wake.notified()).await;
            } else {
                tokio::select! {
                    () = self.copier.wake.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }

    /// Copies what has no copy, once. Whether all of it has one now.
    async fn copy_pending(&self) -> bool {
        if !self.buckets.rescues() {
            *self.copier.known() = Known::default();
            return true;
        }
        if let Err(error) = self.look_at_copies().await {
            self.uncopied().iter().for_each(|object| self.copier.note_failing(&copy_of(object), &error));
            return false;
        }
        let pending = self.uncopied();
        // What is wanted no more fails no more.
        let wanted: BTreeSet<Cow<'_, str>> = pending.iter().map(copy_of).collect();
        self.copier.known().failing.retain(|key, _| wanted.contains(key.as_str()));
        let (mut is_done, mut told) = (true, Instant::now());
        for object in &pending {
            is_done &= self.copy(object).await;
            if told.elapsed() > TELL_EVERY {
                self.copier.lag.send_replace(self.lag());
                told = Instant::now();
            }
        }
        is_done
    }

    /// Objects of present generations that have no copy.
    fn uncopied(&self) -> Vec<Object> {
        let mut uncopied = Vec::new();
        let known = self.copier.known();
        self.books().for_each_live(|_, _, object| {
            if known.saved.get(&*copy_of(object)) != Some(&object.sha256) {
                uncopied.push(object.clone());
            }
        });
        uncopied
    }

    /// Whether `rescue` is there, and which copies are, by their keys and lengths: their bytes are for whoever uses them, and the scrub.
    async fn look_at_copies(&self) -> Result<(), BucketError> {
        self.buckets.present(RESCUE).await?;
        let place = self.buckets.list().into_iter().find(|bucket| bucket.name == RESCUE).map(|bucket| (bucket.url, bucket.added_ms));
        if self.copier.known().place == place {
            return Ok(());
        }
        let mut listed: BTreeMap<String, u64> = BTreeMap::new();
        for prefix in ["datasets", COPIES] {
            listed.extend(self.buckets.keys(RESCUE, prefix, LISTED_MAX).await?);
        }
        let mut saved = BTreeMap::new();
        self.books().for_each_live(|_, _, object| {
            let key = copy_of(object);
            if listed.get(&*key) == Some(&object.bytes) {
                saved.insert(key.into_owned(), object.sha256.clone());
            }
        });
        *self.copier.known() = Known { place, saved, failing: BTreeMap::new() };
        Ok(())
    }

    /// Copies one object, verified on its way. What is there with other bytes is no copy, and goes.
    async fn copy(&self, object: &Object) -> bool {
        let key = copy_of(object);
        match self.buckets.copy(&object.bucket, RESCUE, &object.key, &key, &object.sha256, true).await {
            Ok(_) => {
                self.copier.note_saved(&key, &object.sha256);
                // Deleted while it was copied: whoever tidied did not see the copy.
                let listed = Listed { bucket: RESCUE.to_owned(), key: key.into_owned(), resumable: false };
                if let Err(error) = self.remove_spent(&listed).await {
                    self.buckets.failed(RESCUE, "delete", &listed.key, &error);
                }
                true
            }
            Err(error) => {
                self.copier.note_failing(&key, &error);
                false
            }
        }
    }

    /// Removes an object from a bucket if nothing needs it by now. Nothing is begun or put together again meanwhile that might.
    pub(super) async fn remove_spent(&self, listed: &Listed) -> Result<(), BucketError> {
        let _deleting = self.deleting.lock().await;
        let verdict = self.books().verdict(listed);
        if verdict != Verdict::Spent {
            return Ok(());
        }
        self.buckets.remove_object(&listed.bucket, &listed.key).await?;
        if listed.bucket == RESCUE {
            self.copier.forget(&listed.key);
        }
        Ok(())
    }

    /// Brings an object back from `rescue`, if a copy there is what was recorded.
    pub(super) async fn bring_back(&self, object: &Object, path: &Path) -> Result<(), BucketError> {
        let mut failed = None;
        for key in copy_keys(&object.bucket, &object.key, true) {
            match self.buckets.download(RESCUE, &key, &object.sha256, path).await {
                Ok(()) => return Ok(()),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
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

    #[test]
    fn a_copy_counts_for_the_bytes_that_it_was_made_of() {
        let copier = Copier::default();
        let (bucket, key) = ("primary".to_owned(), "datasets/d/r/part-0.parquet".to_owned());
        let object = Object { bucket, key, url: String::new(), rows: 1, bytes: 1, sha256: "a".into(), path: None };
        assert!(!copier.has(&object));
        copier.note_failing(&object.key, &BucketError::NoSuchBucket("x".repeat(1000)));
        assert!(copier.known().failing[&object.key].chars().count() <= WHY_CHARS);
        copier.note_saved(&object.key, "a");
        assert!(copier.has(&object) && copier.known().failing.is_empty());
        assert!(!copier.has(&Object { sha256: "b".into(), ..object.clone() }), "other bytes have none");
        copier.forget(&object.key);
        assert!(!copier.has(&object));
    }
}
