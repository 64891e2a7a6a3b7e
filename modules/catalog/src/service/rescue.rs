//! Copies in the bucket `rescue`, and objects that come back from there.
//!
//! ```text
//! datasets/<name>/<run_id>/part-0.parquet   what a run has written: no two buckets have the same
//! objects/<catalog>/<bucket>/<key>          whatever else a bucket holds, by the catalog that
//!                                           calls the bucket so
//! objects/<bucket>/<key>                    the same by an earlier version: whose it is cannot be
//!                                           told where several catalogs copy
//! ```
//!
//! Under any other key lies what was put into `rescue` itself, and what the first versions have
//! copied there: that is a copy only where a dataset's file has its hash.
//!
//! One task copies, woken by commits, by a start and by a bucket that is added; nobody waits for
//! it. Invariants: no copy is published that has not the hash that was recorded; a copy that is
//! right is never written again; one that fails is tried ever more rarely, and a bucket that does
//! not answer is not asked for each of its objects; how far the copies are behind is a figure, and
//! why is told.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::clock::now_ms;
use brahman_card::interface::catalog::{Copies, Object};
use brahman_card::interface::storage::RESCUE;
use brahman_sidecar::chain;
use brahman_storage::buckets::BucketError;
use tokio::sync::{Notify, watch};

use super::CatalogService;
use super::realm::Realm;
use crate::registry::sweep::{ListedObject, Verdict};
use crate::registry::{DatasetRegistry, folder_of};

/// Where copies of single objects lie in `rescue`, below their buckets' names.
pub(super) const COPIES: &str = "objects";
/// Copies that are listed at once; of more each is looked at by itself.
const LISTED_MAX: usize = 1_000_000;
/// How long after a failure copying is tried again: soon, for a restart; not more often than this,
/// for a bucket that is away.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Objects of one bucket that may fail in one pass, for all that is known by the bucket's own
/// fault, before the others wait.
const FAILURES_MAX: u32 = 3;
/// While it copies, how far it is is told this often.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Longest reason.
const WHY_CHARS: usize = 300;

/// What is known of an object whose copy is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// It is looked for where this catalog puts it, and nowhere else.
    Own,
    /// Its hash is recorded: whatever has that hash is a copy, an earlier version's as well.
    Recorded,
    /// Nothing is recorded: an earlier version's copy is ours for certain only if no other catalog
    /// copies there.
    Unrecorded {
        /// Another one does, or that cannot be told.
        shared: bool,
    },
}

/// Keys of an object's copies in `rescue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CopyKeys<'a> {
    /// Where this catalog puts it.
    pub(super) own: Cow<'a, str>,
    /// Where earlier versions have put it, as far as that tells whose it is.
    earlier: Vec<Cow<'a, str>>,
}

impl<'a> CopyKeys<'a> {
    /// In the order in which they are looked at.
    pub(super) fn all(self) -> impl Iterator<Item = Cow<'a, str>> {
        std::iter::once(self.own).chain(self.earlier)
    }
}

/// Where an earlier version has put the copy of an object that is no dataset's.
pub(super) fn earlier_place(bucket: &str, key: &str) -> String {
    format!("{COPIES}/{bucket}/{key}")
}

/// Keys of the copies of an object, which the catalog `node` calls so: that of an object of a
/// dataset is its own, for no two buckets have the same.
pub(super) fn copy_keys<'a>(
    node: &str,
    bucket: &str,
    key: &'a str,
    lookup: Lookup,
) -> CopyKeys<'a> {
    if folder_of(key).is_some() {
        return CopyKeys { own: Cow::Borrowed(key), earlier: Vec::new() };
    }
    let own = Cow::Owned(format!("{COPIES}/{node}/{bucket}/{key}"));
    let old = || Cow::Owned(earlier_place(bucket, key));
    let earlier = match lookup {
        Lookup::Own | Lookup::Unrecorded { shared: true } => Vec::new(),
        Lookup::Unrecorded { shared: false } => vec![old()],
        Lookup::Recorded => vec![old(), Cow::Borrowed(key)],
    };
    CopyKeys { own, earlier }
}

/// How long after so many failures a copy is tried again.
fn back_off(tries: u32) -> Duration {
    PAUSE.0.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1))).min(PAUSE.1)
}

/// How far the copies are behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lag {
    /// Objects of all generations that are kept, and have no copy.
    pub(super) objects: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Since the oldest of them was committed.
    pub(super) oldest_s: u64,
}

/// What is known of the copies in one place.
#[derive(Debug, Default)]
struct KnownCopies {
    /// Where `rescue` is, and since when; none before anybody has looked there.
    place: Option<(String, u64)>,
    /// Hashes of the copies that are there, by key.
    saved: BTreeMap<String, String>,
    /// Copies that failed when they were last tried, or wait for a bucket, by key.
    failing: BTreeMap<String, FailingCopy>,
}

/// A copy that could not be made.
#[derive(Debug)]
struct FailingCopy {
    why: String,
    /// How often it failed by itself.
    tries: u32,
    /// It was the bucket that was not there, and not the copy that failed.
    is_away: bool,
    /// When it is tried again; with the next pass if it has only waited for its bucket.
    again: Option<Instant>,
}

/// How the copies stand.
#[derive(Debug, Default)]
struct Standing {
    lag: Lag,
    /// Of those that have no copy, how many could not be made.
    failed: u64,
    /// Why the first of them could not.
    why: Option<String>,
}

/// Who copies, and what is known of that.
#[derive(Debug)]
pub(super) struct Copier {
    wake: Notify,
    known: Mutex<KnownCopies>,
    lag: watch::Sender<Lag>,
}

impl Default for Copier {
    fn default() -> Self {
        Self { wake: Notify::new(), known: Mutex::default(), lag: watch::channel(Lag::default()).0 }
    }
}

impl Copier {
    fn known(&self) -> MutexGuard<'_, KnownCopies> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to copy, or somewhere to copy it to.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Buckets are there again: what failed for want of one is tried at once, whenever it was to be
    /// tried.
    pub(super) fn buckets_are_back(&self) {
        self.known()
            .failing
            .values_mut()
            .filter(|failing| failing.is_away)
            .for_each(|failing| failing.again = None);
        self.wake();
    }

    /// What is told of the module may have changed: it is looked at again, soon.
    pub(super) fn look_again(&self) {
        self.lag.send_modify(|_| ());
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

    /// A copy failed: it is tried again after a while, longer each time.
    fn note_failing(&self, key: &str, error: &BucketError) {
        let mut known = self.known();
        let tries = known.failing.get(key).map_or(0, |failing| failing.tries).saturating_add(1);
        let (is_away, again) = (is_away(error), Some(Instant::now() + back_off(tries)));
        known
            .failing
            .insert(key.to_owned(), FailingCopy { why: words(error), tries, is_away, again });
    }

    /// A copy was not tried, for its bucket, or `rescue`, does not answer.
    fn note_waiting(&self, key: &str, error: &BucketError) {
        let mut known = self.known();
        let tries = known.failing.get(key).map_or(0, |failing| failing.tries);
        known.failing.insert(
            key.to_owned(),
            FailingCopy { why: words(error), tries, is_away: true, again: None },
        );
    }

    /// How often a copy has failed; none if it is not to be tried yet.
    fn tries(&self, key: &str) -> Option<u32> {
        match self.known().failing.get(key) {
            None => Some(0),
            Some(FailingCopy { again: Some(again), .. }) if *again > Instant::now() => None,
            Some(failing) => Some(failing.tries),
        }
    }

    /// Until the first of those that failed is to be tried again.
    fn next_try(&self) -> Option<Duration> {
        let first = self.known().failing.values().filter_map(|failing| failing.again).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    /// Whether a copy is known to be there, of these bytes.
    pub(super) fn has(&self, key: &str, sha256: &str) -> bool {
        self.known().saved.get(key).is_some_and(|saved| saved == sha256)
    }

    /// How many of these copies are there, as far as is known.
    pub(super) fn count<'a>(&self, keys: impl Iterator<Item = &'a str>) -> usize {
        let known = self.known();
        keys.filter(|key| known.saved.contains_key(*key)).count()
    }

    /// How far copies are behind whenever that may have changed.
    pub(super) fn watch(&self) -> watch::Receiver<Lag> {
        self.lag.subscribe()
    }
}

fn is_away(error: &BucketError) -> bool {
    matches!(error, BucketError::Away { .. } | BucketError::Unusable { .. })
}

fn words(error: &BucketError) -> String {
    chain(error).chars().take(WHY_CHARS).collect()
}

/// How the copies stand. Whoever looks at both holds the registry first.
fn standing(registry: &DatasetRegistry, copier: &Copier, node: &str) -> Standing {
    let (mut standing, mut oldest_ms, known) = (Standing::default(), u64::MAX, copier.known());
    registry.for_each_kept(|_, committed_ms, object| {
        let key = copy_keys(node, &object.bucket, &object.key, Lookup::Own).own;
        if known.saved.get(&*key) == Some(&object.sha256) {
            return;
        }
        standing.lag.objects += 1;
        standing.lag.bytes += object.bytes;
        oldest_ms = oldest_ms.min(committed_ms);
        // What was deleted, or copied since, fails no more.
        if let Some(failing) = known.failing.get(&*key) {
            standing.failed += 1;
            standing.why.get_or_insert_with(|| failing.why.clone());
        }
    });
    drop(known);
    standing.lag.oldest_s =
        if standing.lag.objects == 0 { 0 } else { now_ms().saturating_sub(oldest_ms) / 1000 };
    standing
}

/// Objects that have no copy.
fn uncopied(registry: &DatasetRegistry, copier: &Copier, node: &str) -> Vec<Object> {
    let (mut uncopied, known) = (Vec::new(), copier.known());
    registry.for_each_kept(|_, _, object| {
        if known.saved.get(&*copy_keys(node, &object.bucket, &object.key, Lookup::Own).own)
            != Some(&object.sha256)
        {
            uncopied.push(object.clone());
        }
    });
    uncopied
}

impl CatalogService {
    /// Where this catalog puts the copy of an object.
    pub(super) fn copy_key<'a>(&self, bucket: &str, key: &'a str) -> Cow<'a, str> {
        copy_keys(&self.node, bucket, key, Lookup::Own).own
    }

    /// Whether an object is known to have its copy.
    pub(super) fn has_copy(&self, object: &Object) -> bool {
        self.copier.has(&self.copy_key(&object.bucket, &object.key), &object.sha256)
    }

    /// How the copies stand; nothing where nobody has said where they are to go.
    async fn standing(&self) -> Standing {
        if !self.buckets.rescues() {
            return Standing::default();
        }
        let (copier, node) = (Arc::clone(&self.copier), self.node.clone());
        let found =
            self.consult(Realm::Real, move |registry| standing(registry, &copier, &node)).await;
        found.unwrap_or_else(|error| {
            tracing::error!("how the copies stand is not known: {}", chain(&error));
            Standing::default()
        })
    }

    /// How far the copies are behind, and why the first of those that fail does, where the thread
    /// that asks may wait.
    pub(super) fn lag_now(&self) -> (Lag, Option<String>) {
        let Standing { lag, why, .. } = if self.buckets.rescues() {
            standing(&self.registry(), &self.copier, &self.node)
        } else {
            Standing::default()
        };
        (lag, why)
    }

    /// How far the copies are behind.
    pub(super) async fn lag(&self) -> Lag {
        self.standing().await.lag
    }

    /// The same, in the words of a commit's reply; none where there are to be no copies.
    pub(super) async fn copies(&self) -> Option<Copies> {
        if !self.buckets.rescues() {
            return None;
        }
        let Standing { lag, failed, why } = self.standing().await;
        Some(Copies { pending: lag.objects, failed, why })
    }

    /// Copies whatever has no copy, again and again; ends with its task.
    pub async fn keep_copies(&self) {
        let mut pause = PAUSE.0;
        loop {
            let is_done = self.copy_pending().await;
            self.copier.lag.send_replace(self.lag().await);
            if is_done {
                pause = PAUSE.0;
                // A word may be lost with whoever was to say it.
                let _ = tokio::time::timeout(PAUSE.1, self.copier.wake.notified()).await;
            } else {
                let wait = self.copier.next_try().unwrap_or(pause).min(pause).max(PAUSE.0);
                tokio::select! {
                    () = self.copier.wake.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }

    /// Copies what has no copy, once. Whether all of it has one now.
    async fn copy_pending(&self) -> bool {
        if !self.buckets.rescues() {
            *self.copier.known() = KnownCopies::default();
            return true;
        }
        if let Err(error) = self.look_at_copies().await {
            self.uncopied().await.iter().for_each(|object| {
                self.copier.note_waiting(&self.copy_key(&object.bucket, &object.key), &error);
            });
            return false;
        }
        let pending = self.uncopied().await;
        // What is wanted no more fails no more.
        let wanted: BTreeSet<Cow<'_, str>> =
            pending.iter().map(|object| self.copy_key(&object.bucket, &object.key)).collect();
        self.copier.known().failing.retain(|key, _| wanted.contains(key.as_str()));
        // Those that have failed most often come last: they must not keep the others waiting.
        let mut due: Vec<(u32, &Object)> = Vec::new();
        due.extend(pending.iter().filter_map(|object| {
            Some((self.copier.tries(&self.copy_key(&object.bucket, &object.key))?, object))
        }));
        due.sort_by_key(|(tries, _)| *tries);
        let (mut is_done, mut told) = (due.len() == pending.len(), Instant::now());
        // Buckets that do not answer, by how many of their objects have failed, and why the last
        // did.
        let mut silent: BTreeMap<String, (u32, BucketError)> = BTreeMap::new();
        for (_, object) in due {
            let key = self.copy_key(&object.bucket, &object.key);
            let is_silent =
                |bucket: &str| silent.get(bucket).filter(|(failed, _)| *failed >= FAILURES_MAX);
            if let Some((_, error)) = is_silent(&object.bucket).or_else(|| is_silent(RESCUE)) {
                self.copier.note_waiting(&key, error);
                is_done = false;
                continue;
            }
            if let Err(error) = self.replicate(object).await {
                if !self.is_kept(object).await {
                    continue;
                }
                self.copier.note_failing(&key, &error);
                is_done = false;
                let (bucket, weight) = match &error {
                    BucketError::Away { name, .. } => (Some(name.clone()), FAILURES_MAX),
                    // The server's fault, or the object's own.
                    BucketError::Unusable { name, .. } => (Some(name.clone()), 1),
                    _ => (None, 0),
                };
                if let Some(bucket) = bucket {
                    let failed = silent.get(&bucket).map_or(0, |(failed, _)| *failed) + weight;
                    silent.insert(bucket, (failed, error));
                }
            }
            if told.elapsed() > TELL_EVERY {
                self.copier.lag.send_replace(self.lag().await);
                told = Instant::now();
            }
        }
        is_done
    }

    /// Whether an object is kept still: what was deleted while it was copied fails nothing. What is
    /// not known is tried again.
    async fn is_kept(&self, object: &Object) -> bool {
        let (bucket, key) = (object.bucket.clone(), object.key.clone());
        let found = self.consult(Realm::Real, move |registry| {
            let mut is_kept = false;
            registry
                .for_each_kept(|_, _, kept| is_kept |= kept.bucket == bucket && kept.key == key);
            is_kept
        });
        found.await.unwrap_or(true)
    }

    /// Objects that have no copy, of all generations that are kept.
    async fn uncopied(&self) -> Vec<Object> {
        let (copier, node) = (Arc::clone(&self.copier), self.node.clone());
        let found =
            self.consult(Realm::Real, move |registry| uncopied(registry, &copier, &node)).await;
        found.unwrap_or_else(|error| {
            tracing::error!("what has no copy is not known: {}", chain(&error));
            Vec::new()
        })
    }

    /// Whether `rescue` is there, and which copies are, by their keys and lengths: their bytes are
    /// for whoever uses them, and the scrub.
    async fn look_at_copies(&self) -> Result<(), BucketError> {
        self.buckets.present(RESCUE).await?;
        let place = self
            .buckets
            .list()
            .into_iter()
            .find(|bucket| bucket.name == RESCUE)
            .map(|bucket| (bucket.url, bucket.added_ms));
        if self.copier.known().place == place {
            return Ok(());
        }
        let mut listed: BTreeMap<String, u64> = BTreeMap::new();
        for prefix in ["datasets", COPIES] {
            listed.extend(self.buckets.keys(RESCUE, prefix, LISTED_MAX).await?);
        }
        let node = self.node.clone();
        let there = move |registry: &DatasetRegistry| {
            let mut saved = BTreeMap::new();
            registry.for_each_kept(|_, _, object| {
                let key = copy_keys(&node, &object.bucket, &object.key, Lookup::Own).own;
                if listed.get(&*key) == Some(&object.bytes) {
                    saved.insert(key.into_owned(), object.sha256.clone());
                }
            });
            saved
        };
        let saved = self.consult(Realm::Real, there).await?;
        *self.copier.known() = KnownCopies { place, saved, failing: BTreeMap::new() };
        Ok(())
    }

    /// Copies one object, verified on its way. What is there with other bytes is no copy, and goes.
    async fn replicate(&self, object: &Object) -> Result<(), BucketError> {
        let key = self.copy_key(&object.bucket, &object.key);
        self.buckets.copy(&object.bucket, RESCUE, &object.key, &key, &object.sha256, true).await?;
        self.copier.note_saved(&key, &object.sha256);
        self.note_repaired(RESCUE, &key).await;
        // Deleted while it was copied: whoever tidied did not see the copy.
        let listed =
            ListedObject { bucket: RESCUE.to_owned(), key: key.into_owned(), resumable: false };
        if let Err(error) = self.remove_spent(&listed).await {
            self.buckets.failed(RESCUE, "delete", &listed.key, &error);
        }
        Ok(())
    }

    /// Removes an object from a bucket if nothing needs it by now. Nothing is begun or put together
    /// again meanwhile that might.
    pub(super) async fn remove_spent(&self, listed: &ListedObject) -> Result<(), BucketError> {
        let _deleting = self.deleting.lock().await;
        let asked = listed.clone();
        let verdict = self.consult(Realm::Real, move |registry| registry.verdict(&asked)).await?;
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
        for key in copy_keys(&self.node, &object.bucket, &object.key, Lookup::Recorded).all() {
            match self.buckets.download(RESCUE, &key, &object.sha256, path).await {
                Ok(()) => return Ok(()),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
