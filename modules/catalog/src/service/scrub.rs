//! Looking whether objects and copies still are what was committed, and repairing one side from the
//! other: of the present generations and of those before, to which readers may go back. And whether
//! what says so still is what was written: manifests in S3, datasets' files, and the records of
//! runs, of which a damaged one is named and makes no object a damaged one.
//!
//! On demand (`Scrub`), and in the background: slowly, from where the last life of this process
//! stopped. Invariants: what is looked at is read whole, whatever was remembered of it; nothing is
//! replaced but by bytes that have the recorded hash; what was deleted or replaced meanwhile is no
//! damage; a bucket that is away is no damage either, and is said.
//!
//! [`mod@position`] says where it goes on.

mod manifests;
mod position;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::clock::now_ms;
use brahman_card::interface::catalog::{CommitIn, Dataset, Object};
use brahman_card::interface::storage::{
    RESCUE, ScrubDamage, ScrubIn, ScrubOut, ScrubRepair, UnfinishedRun, UnreadBucket,
};
use brahman_sidecar::{Call, Reply, blocking, chain};
use brahman_storage::buckets::BucketError;
use brahman_storage::checked;
use brahman_storage::digest::sha256_file;

use super::realm::Realm;
use super::rescue::{Lookup, copy_keys};
use super::storage::refused;
use super::{CatalogService, held, left_in_words, lock, unanswered};
use crate::registry;
use crate::registry::manifests::place;
pub(super) use position::damaged_before;
use position::{Position, position};

/// Bytes that are read in a second at most by the one in the background: a tenth of what a disk
/// gives.
const BYTES_PER_S: u64 = 20 << 20;
/// After everything was looked at, how long until it is looked at again; and how long after a start
/// before the first is.
const EVERY: Duration = Duration::from_secs(24 * 3600);
const AFTER_START: Duration = Duration::from_secs(60);
/// Where it stands is written down this often: what was looked at since is looked at again after a
/// kill.
const NOTED_EVERY: Duration = Duration::from_secs(60);
/// Objects of each kind that are named in a reply; more are counted only in the journal of
/// failures.
const NAMED_MAX: usize = 1000;
/// Objects that are remembered as damaged until they are right again; more than these are no work
/// of a scrub.
const DAMAGED_MAX: usize = 10_000;
/// Folders below a run's that are counted; ingest makes none.
const DEPTH_MAX: usize = 8;
/// How often a caller hears how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(500);

/// Objects by bucket and key.
pub(super) type Places = BTreeSet<(String, String)>;

/// One thing to look at: an object in its own bucket, or its copy in `rescue`.
#[derive(Clone, Debug)]
struct Target {
    bucket: String,
    key: String,
    object: Object,
}

impl CatalogService {
    /// `org.brahman.Storage.Scrub`: looks at everything, or at one bucket or dataset, as fast as it
    /// can be read.
    pub(super) async fn scrub(&self, call: &Call) -> Result<Reply, Fault> {
        let ScrubIn { bucket, dataset } = call.parameters()?;
        if let Some(name) = &bucket {
            self.buckets.present(name).await.map_err(|e| refused(name, &e))?;
        }
        if let Some(name) = &dataset {
            let asked = name.clone();
            let there =
                self.consult(Realm::Real, move |registry| registry.get(&asked).map(drop)).await;
            there.map_err(unanswered)?.map_err(super::fault)?;
        }
        let (started, mut told) = (Instant::now(), Instant::now());
        let mut found = ScrubOut::default();
        for target in self.targets(bucket.as_deref(), dataset.as_deref()).await {
            // What did not answer a moment ago is not asked about each object.
            if is_missed(&found, &target.bucket) {
                continue;
            }
            self.look(&target, &mut found).await;
            found.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            if call.more && told.elapsed() > TOLD_EVERY {
                call.send(&self.scrub_in_scope(&found)).await?;
                told = Instant::now();
            }
        }
        self.look_at_manifests(bucket.as_deref(), dataset.as_deref(), &mut found).await;
        self.look_at_records(bucket.as_deref(), dataset.as_deref(), &mut found).await?;
        found.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let is_all = bucket.is_none() && dataset.is_none() && found.unread.is_none();
        self.note_position(&if is_all {
            Position::end()
        } else {
            Position::read(&self.position())
        })
        .await;
        Reply::of(&self.scrub_in_scope(&found))
    }

    /// When everything was last looked at, as Unix time, and how many objects are damaged since
    /// they were looked at.
    pub(super) async fn scrubbed(&self) -> (Option<u64>, u64) {
        let finished_ms = Position::read(&self.position()).finished_ms;
        let damaged = lock(&self.damaged).clone();
        if damaged.is_empty() {
            return (finished_ms, 0);
        }
        // What was deleted since is damaged no more.
        let targets = self.targets(None, None).await;
        let kept = targets
            .iter()
            .filter(|target| damaged.contains(&(target.bucket.clone(), target.key.clone())))
            .count();
        let manifests = self.consult(Realm::Real, move |registry| {
            let of_here = |(_, key): &&(String, String)| {
                place(key).is_some_and(|(name, _)| registry.has(name))
            };
            damaged.iter().filter(of_here).count()
        });
        (finished_ms, (kept + manifests.await.unwrap_or_default()) as u64)
    }

    /// An object, or a copy, is what it should be again.
    pub(super) async fn note_repaired(&self, bucket: &str, key: &str) {
        let was_damaged = lock(&self.damaged).remove(&(bucket.to_owned(), key.to_owned()));
        if was_damaged {
            self.note_position(&Position::read(&self.position())).await;
        }
    }

    /// Looks at everything again and again, slowly; ends with its task.
    pub async fn keep_scrubbing(&self) {
        // Where it cannot be written down it is known here all the same.
        let mut finished: Option<Instant> = None;
        loop {
            tokio::time::sleep(AFTER_START).await;
            let noted = Position::read(&self.position())
                .finished_ms
                .map(|ms| Duration::from_millis(now_ms().saturating_sub(ms)));
            let since = finished.map(|finished| finished.elapsed()).into_iter().chain(noted).min();
            let (position, is_due) =
                (Position::read(&self.position()), since.is_none_or(|since| since >= EVERY));
            if position.after.is_none() && !is_due {
                tokio::time::sleep(
                    EVERY.saturating_sub(since.unwrap_or_default()).max(AFTER_START),
                )
                .await;
                continue;
            }
            match self.scrub_from(position).await {
                true => tokio::time::sleep(EVERY / 24).await,
                false => finished = Some(Instant::now()),
            }
        }
    }

    /// Looks at what comes after a position, to the end. Whether something could not be looked at.
    async fn scrub_from(&self, mut position: Position) -> bool {
        let (mut noted, finished_ms, mut silent) =
            (Instant::now(), position.finished_ms, BTreeSet::new());
        for target in self.targets(None, None).await {
            let place = (target.bucket.clone(), target.key.clone());
            if position.after.as_ref().is_some_and(|after| place <= *after) {
                continue;
            }
            if silent.contains(&target.bucket) {
                continue;
            }
            let (mut found, started) = (ScrubOut::default(), Instant::now());
            self.look(&target, &mut found).await;
            silent.extend(found.unread.into_iter().flatten().map(|unread| unread.bucket));
            position.after = Some(place);
            if noted.elapsed() > NOTED_EVERY {
                self.note_position(&position).await;
                noted = Instant::now();
            }
            // A millisecond for each object at least, so that many small ones leave the disk to
            // others, too.
            let owed = Duration::from_millis(1 + found.bytes.saturating_mul(1000) / BYTES_PER_S);
            tokio::time::sleep(owed.saturating_sub(started.elapsed())).await;
        }
        let mut found = ScrubOut::default();
        self.look_at_manifests(None, None, &mut found).await;
        if let Err(fault) = self.look_at_records(None, None, &mut found).await {
            tracing::warn!("datasets' files were not looked at: {fault}");
        }
        found.records.iter().flatten().for_each(|record| tracing::warn!("{record}"));
        let missed = !silent.is_empty() || found.unread.is_some();
        // What was not to be read was not looked at: it is tried again, and until then the last
        // time counts at which all was.
        self.note_position(&if missed {
            Position { finished_ms, ..Position::default() }
        } else {
            Position::end()
        })
        .await;
        missed
    }

    fn position(&self) -> PathBuf {
        position(&self.state)
    }

    /// Writes down where it stands, with what is damaged by now.
    async fn note_position(&self, position: &Position) {
        let position = Position { damaged: lock(&self.damaged).clone(), ..position.clone() };
        let file = self.position();
        let path = file.clone();
        // It waits for a disk, which the thread that answers calls does not.
        let writing = blocking(move || {
            let text = serde_json::to_vec(&position).map_err(io::Error::from)?;
            checked::write(&path, &text)
        });
        if let Err(error) = writing.await.map_err(io::Error::other).flatten() {
            tracing::warn!(
                "{}: {}: after a restart objects are looked at from the beginning",
                file.display(),
                chain(&error)
            );
        }
    }

    /// What there is to look at, by bucket and key.
    async fn targets(&self, bucket: Option<&str>, dataset: Option<&str>) -> Vec<Target> {
        let (bucket, dataset, node, copies) = (
            bucket.map(str::to_owned),
            dataset.map(str::to_owned),
            self.node.clone(),
            self.buckets.rescues(),
        );
        let listing = self.consult(Realm::Real, move |registry| {
            let (mut targets, mut seen) = (Vec::new(), BTreeSet::new());
            registry.for_each_kept(|name, _, object| {
                if dataset.as_ref().is_some_and(|dataset| dataset != name) {
                    return;
                }
                let own = (object.bucket.clone(), object.key.clone());
                let copy =
                    || copy_keys(&node, &object.bucket, &object.key, Lookup::Own).own.into_owned();
                let copy = copies.then(|| (RESCUE.to_owned(), copy()));
                for (at, key) in std::iter::once(own).chain(copy) {
                    // Two datasets may be made of one object.
                    if bucket.as_ref().is_none_or(|bucket| *bucket == at)
                        && seen.insert((at.clone(), key.clone()))
                    {
                        targets.push(Target { bucket: at, key, object: object.clone() });
                    }
                }
            });
            targets.sort_by(|a, b| (&a.bucket, &a.key).cmp(&(&b.bucket, &b.key)));
            targets
        });
        listing.await.unwrap_or_else(|error| {
            tracing::error!("what there is to look at is not known: {}", chain(&error));
            Vec::new()
        })
    }

    /// Looks at datasets' files, which are written anew where they are not what is known here, and
    /// names the records that are damaged; and says which runs have left something without a
    /// commit.
    async fn look_at_records(
        &self,
        bucket: Option<&str>,
        dataset: Option<&str>,
        found: &mut ScrubOut,
    ) -> Result<(), Fault> {
        let (only, away) = (dataset.map(str::to_owned), self.away(Realm::Real).await);
        let looking = self.with(Realm::Real, move |shared| {
            let (mut records, mut notes) = (Vec::new(), Vec::new());
            let (files, uncommitted) = {
                let mut registry = held(shared);
                match registry.journal.restore_file() {
                    Ok(None) => {}
                    Ok(Some(wrong)) => {
                        notes.push(format!("lineage.log had {wrong} on the disk, and was written anew from what is known here"));
                    }
                    Err(error) => records.push(format!("lineage.log cannot be compared, or not be written anew: {}", chain(&error))),
                }
                let damaged = registry.journal.damaged_records();
                let lineage = if damaged.is_empty() { registry.journal.unread() } else { None };
                records
                    .extend(registry.unread_datasets().into_iter().chain(damaged).chain(lineage));
                notes.extend(registry.uncompared());
                (registry.files(only.as_deref()), registry.uncommitted())
            };
            let count = files.len() as u64;
            for (name, path) in files {
                let Some(why) = registry::flaw(&path) else { continue };
                let repaired = held(shared).mend_file(&name);
                let file = path.display();
                match repaired {
                    Ok(true) => {
                        notes.push(format!("the file of dataset `{name}`, {file}, was damaged or gone ({why}), and was written anew"));
                    }
                    // Deleted, or published anew, since.
                    Ok(false) => {}
                    Err(error) => {
                        records.push(format!("the file of dataset `{name}`, {file}, is damaged or gone ({why}): {}", chain(&error)));
                    }
                }
            }
            let meant = |run: &UnfinishedRun| {
                only.as_ref().is_none_or(|only| *only == run.dataset) && !away.contains(&run.bucket)
            };
            let unfinished = uncommitted
                .into_iter()
                .filter(|(run, _)| meant(run))
                .filter_map(|(run, folder)| measured(run, &folder));
            if let Some(only) = &only {
                let named = format!("dataset `{only}`");
                records.retain(|record| record.contains(&named) || record.contains(&format!("dataset {only},")));
                notes.retain(|note| note.contains(&named));
            }
            Ok((count, records, notes, unfinished.collect::<Vec<UnfinishedRun>>()))
        });
        let (count, mut records, mut notes, mut unfinished) = looking.await?;
        if bucket.is_none() && dataset.is_none() {
            *lock(&self.unfinished) = left_in_words(&unfinished);
        }
        if let Some(bucket) = bucket {
            unfinished.retain(|run| run.bucket == bucket);
        }
        records.truncate(NAMED_MAX);
        notes.truncate(NAMED_MAX);
        unfinished.truncate(NAMED_MAX);
        found.manifests = Some(found.manifests.unwrap_or(0) + count);
        found.records = Some(records).filter(|records| !records.is_empty());
        found.notes = Some(notes).filter(|notes| !notes.is_empty());
        found.unfinished = Some(unfinished).filter(|unfinished| !unfinished.is_empty());
        Ok(())
    }

    /// Runs that have left something without a commit, but for those in buckets that are away. It
    /// walks through folders, and may wait for their disks for as long as they take.
    pub(super) fn unfinished(&self) -> Vec<UnfinishedRun> {
        let away: BTreeSet<String> =
            self.buckets.absent().into_iter().map(|(name, _)| name).collect();
        let uncommitted = self.registry().uncommitted();
        let there = uncommitted.into_iter().filter(|(run, _)| !away.contains(&run.bucket));
        there.filter_map(|(run, folder)| measured(run, &folder)).collect()
    }

    /// Looks at one thing, and repairs it if it can.
    async fn look(&self, target: &Target, found: &mut ScrubOut) {
        if let Err(error) = self.buckets.present(&target.bucket).await {
            return miss(found, &target.bucket, &error);
        }
        let is_copy = target.bucket == RESCUE;
        let place = (target.bucket.clone(), target.key.clone());
        // What has yet to be copied is behind, and not damaged.
        if is_copy && !self.has_copy(&target.object) && !lock(&self.damaged).contains(&place) {
            return;
        }
        let why = match self.examine(target).await {
            Ok(bytes) => {
                (found.objects, found.bytes) = (found.objects + 1, found.bytes + bytes);
                if is_copy {
                    self.copier.note_saved(&target.key, &target.object.sha256);
                }
                lock(&self.damaged).remove(&place);
                return;
            }
            Err(error) => error,
        };
        // Deleted or replaced since it was listed.
        let listed = target.object.clone();
        let is_live = self.consult(Realm::Real, move |registry| {
            registry
                .object(&listed.bucket, &listed.key)
                .is_some_and(|object| object.sha256 == listed.sha256)
        });
        if !is_live.await.unwrap_or(false) {
            return;
        }
        if matches!(why, BucketError::Away { .. }) {
            miss(found, &target.bucket, &why);
            return;
        }
        found.objects += 1;
        let finding = ScrubDamage {
            bucket: target.bucket.clone(),
            key: target.key.clone(),
            why: chain(&why),
        };
        let is_local = self.buckets.roots().get(&target.bucket).is_some_and(|root| root.is_local());
        // A sector that cannot be read is damage; a server that does not answer is none.
        let is_damage = matches!(
            why,
            BucketError::Damaged { .. } | BucketError::NoSuchObject { .. } | BucketError::Io(_)
        ) || is_local && matches!(why, BucketError::Unusable { .. });
        if !is_damage {
            self.buckets.failed(&target.bucket, "verify", &target.key, &finding.why);
            found.objects -= 1;
            miss(found, &target.bucket, &why);
            return;
        }
        if is_damage && is_copy {
            self.copier.forget(&target.key);
        }
        let repaired = is_damage && self.restore(target).await;
        if is_damage {
            push(&mut found.damaged, finding.clone());
        }
        if repaired {
            lock(&self.damaged).remove(&place);
            tracing::warn!(
                bucket = target.bucket,
                key = target.key,
                "damaged, and repaired from its other copy: {}",
                finding.why
            );
            push(&mut found.repaired, ScrubRepair { bucket: finding.bucket, key: finding.key });
        } else {
            let mut damaged = lock(&self.damaged);
            if damaged.len() < DAMAGED_MAX {
                damaged.insert(place);
            }
            drop(damaged);
            self.buckets.failed(&target.bucket, "verify", &target.key, &finding.why);
            push(&mut found.unrepaired, finding);
        }
    }

    /// Reads an object whole; of one in S3 also the copy on this machine, which is fetched again if
    /// it is not right.
    async fn examine(&self, target: &Target) -> Result<u64, BucketError> {
        let Target { bucket, key, object } = target;
        let bytes = self.buckets.verify(bucket, key, &object.sha256).await?;
        let remote = self.buckets.roots().remove(bucket).filter(|root| !root.is_local());
        if let Some(root) = remote {
            let path = root.folder.join(&object.key);
            let looked = path.clone();
            let here = blocking(move || sha256_file(&looked)).await;
            // One that is not here is fetched when somebody wants it.
            let is_other = matches!(here, Ok(Ok((sha256, _))) if sha256 != object.sha256);
            if is_other {
                self.buckets.download(bucket, key, &object.sha256, &path).await?;
            }
        }
        Ok(bytes)
    }

    /// Puts an object right from its other copy.
    async fn restore(&self, target: &Target) -> bool {
        let Target { bucket, key, object } = target;
        // Of what lies in S3 a third copy is on this machine, and the nearest.
        let root = self.buckets.roots().remove(&object.bucket).filter(|root| !root.is_local());
        let here = root.map(|root| root.folder.join(&object.key));
        if let Some(here) = here
            && self.is_whole(&here, object).await
        {
            let put = self.buckets.upload(bucket, key, &here, &object.sha256, true).await;
            if put.is_ok() {
                if bucket == RESCUE {
                    self.copier.note_saved(key, &object.sha256);
                }
                return true;
            }
        }
        if !self.buckets.rescues() {
            return false;
        }
        // From where the other copy is or, of one that an earlier version has made, may be.
        let sources: Vec<(&str, String)> = match bucket == RESCUE {
            true => vec![(&object.bucket, object.key.clone())],
            false => copy_keys(&self.node, &object.bucket, &object.key, Lookup::Recorded)
                .all()
                .map(|copy| (RESCUE, copy.into_owned()))
                .collect(),
        };
        for (from, at) in sources {
            match self.buckets.copy(from, bucket, &at, key, &object.sha256, true).await {
                Ok(_) => {
                    if bucket == RESCUE {
                        self.copier.note_saved(key, &object.sha256);
                    }
                    return true;
                }
                Err(error) => tracing::error!(
                    bucket,
                    key,
                    "its copy {at} in {from} does not help: {}",
                    chain(&error)
                ),
            }
        }
        // Whatever is wrong, the copier tries again, and says how far it is behind.
        self.copier.wake();
        false
    }
}

/// The commit by which a dataset's present generation was published, as far as its file has it.
fn commit_of(dataset: Dataset) -> CommitIn {
    let Dataset { name, mut objects, columns, pii, lineage, watermark, .. } = dataset;
    // Where they lie on this machine is nobody else's affair.
    objects.iter_mut().for_each(|object| object.path = None);
    let (run_id, inputs, producer) = (lineage.run_id, lineage.inputs, lineage.producer);
    CommitIn {
        name,
        run_id,
        objects,
        columns,
        inputs,
        producer,
        pii,
        watermark,
        ..CommitIn::default()
    }
}

/// What a run has left in a folder; none if that is nothing.
fn measured(run: UnfinishedRun, folder: &Path) -> Option<UnfinishedRun> {
    let (objects, bytes) = measure(folder, 0);
    (objects > 0).then_some(UnfinishedRun { objects, bytes, ..run })
}

/// How many files lie below a folder, and their bytes; no link is followed.
fn measure(folder: &Path, depth: usize) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = file.metadata() else { continue };
        let (more, its) = match meta.is_dir() {
            true if depth < DEPTH_MAX => measure(&file.path(), depth + 1),
            true => (0, 0),
            false => (1, meta.len()),
        };
        (files, bytes) = (files + more, bytes + its);
    }
    (files, bytes)
}

/// Notes that an object of a bucket was not looked at.
fn miss(found: &mut ScrubOut, bucket: &str, why: &BucketError) {
    let unread = found.unread.get_or_insert_default();
    match unread.iter_mut().find(|of| of.bucket == bucket) {
        Some(of) => of.objects += 1,
        None => {
            unread.push(UnreadBucket { bucket: bucket.to_owned(), objects: 1, why: chain(why) });
        }
    }
}

fn is_missed(found: &ScrubOut, bucket: &str) -> bool {
    found.unread.iter().flatten().any(|unread| unread.bucket == bucket)
}

/// Adds one, of so many that a reply holds them.
fn push<T>(list: &mut Vec<T>, one: T) {
    if list.len() < NAMED_MAX {
        list.push(one);
    }
}

#[cfg(test)]
mod tests;
