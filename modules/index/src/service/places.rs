//! `Move`, and indexes that are made in another bucket than `primary`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, TryLockError, Weak};
use std::time::Duration;

use brahman_card::Fault;
use brahman_card::interface::index::{MoveIn, MoveOut, MoveSummary, ReplicaLag, error};
use brahman_card::interface::storage::{self, BucketsOut, RESCUE};
use brahman_card::interface::{Empty, Progress};
use brahman_sidecar::{Call, CallOptions, Reply, blocking, chain};
use brahman_storage::Steps;

use super::IndexService;
use super::shelf::{Index, StopOnDrop, lock};
use crate::home::Home;
use crate::refresh::io_fault;
use crate::rescue;
use crate::threads::on_own_thread;

/// How often a move says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// What changes without the right to change the index: trials and sets of queries.
const CHANGING: [&str; 2] = ["trials", "evals"];
/// How often it is asked whether somebody still reads in the home that was left, and how often at
/// most.
const READERS_EVERY: Duration = Duration::from_millis(5);
const READERS_ASKED: usize = 1000;

/// Longest reason why replicas are not made.
const WHY_CHARS: usize = 300;

impl IndexService {
    /// The folder of an index in a bucket. The name was checked, or is that of an index there is.
    pub(super) async fn place(&self, bucket: &str, name: &str) -> Result<PathBuf, Fault> {
        let BucketsOut { buckets, .. } = self
            .client
            .call_method::<storage::method::Buckets>(&Empty {}, &CallOptions::default())
            .await?
            .value;
        let Some(found) = buckets.iter().find(|b| b.name == bucket) else {
            let there: Vec<&str> = buckets.iter().map(|b| b.name.as_str()).collect();
            let message = format!(
                "no bucket is called `{bucket}`; there are {}; `brahman buckets add` registers one",
                there.join(", ")
            );
            return Err(Fault::of(
                &error::NoSuchBucket { name: bucket.to_owned() },
                false,
                message,
            ));
        };
        if bucket == RESCUE {
            return Err(Fault::invalid_parameter(
                "bucket",
                "`rescue` holds replicas only: expected another bucket",
            ));
        }
        let Some(folder) = found.url.strip_prefix("file://") else {
            let message = format!(
                "`{bucket}` is {}: an index is memory-mapped, expected a bucket that is a folder",
                found.url
            );
            return Err(Fault::invalid_parameter("bucket", message));
        };
        if !rescue::is_bucket(Path::new(folder)) {
            let message = format!(
                "bucket `{bucket}` is unavailable: {folder} is missing, or its marker is not in it; mount its disk"
            );
            return Err(Fault::of(
                &error::NoSuchBucket { name: bucket.to_owned() },
                false,
                message,
            ));
        }
        Ok(Path::new(folder).join("indexes").join(name))
    }

    /// Asks where copies go, and makes those that are missing, behind everything else. Only a
    /// bucket that is a folder has copies of indexes, and only once somebody has added it.
    /// A mock's indexes have none: they are named as real ones are, and would lie in their place.
    pub(super) async fn hear_of_rescue(self: &Arc<Self>) {
        if self.mock {
            return;
        }
        let asked = self
            .client
            .call_method::<storage::method::Buckets>(&Empty {}, &CallOptions::default())
            .await;
        let Ok(BucketsOut { buckets, .. }) = asked.map(|asked| asked.value) else { return };
        let wanted = buckets
            .iter()
            .find(|b| b.name == RESCUE && b.added_ms > 0)
            .and_then(|b| b.url.strip_prefix("file://"));
        let folder = wanted.map(|folder| Path::new(folder).join("indexes"));
        if let Err(error) = rescue::remember(&self.folder, folder.as_deref()) {
            tracing::warn!("where replicas go cannot be saved: {}", chain(&error));
        }
        let Some(folder) = folder else {
            lock(&self.indexes).values().for_each(|index| *lock(&index.replicas.lag) = None);
            return;
        };
        let (service, (_, again)) = (Arc::clone(self), &*self.copying);
        again.store(true, Ordering::Release);
        drop(on_own_thread("copying to rescue", true, move || service.copy_to(&folder)));
    }

    /// Copies what has no copy yet, for as long as somebody says that there is more. One thread
    /// does, whoever else comes leaves it to that one.
    fn copy_to(&self, folder: &Path) {
        let (copying, again) = &*self.copying;
        while again.load(Ordering::Acquire) {
            let _copying = match copying.try_lock() {
                Ok(turn) => turn,
                // Whoever panicked there left nothing half done: files are put into place whole.
                Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            while again.swap(false, Ordering::AcqRel) {
                let node = self.node();
                let all: Vec<Arc<Index>> = lock(&self.indexes).values().cloned().collect();
                // Where a home is not to be seen, nothing says which of its copies are wanted.
                for index in all.into_iter().filter(|index| index.home.is_there().is_ok()) {
                    let _writing = lock(&index.replicas.writing);
                    let is_wanted = || !index.replicas.is_unwanted.load(Ordering::Acquire);
                    let name = &index.parameters.name;
                    let failing = match rescue::copy(
                        &index.folder,
                        folder,
                        name,
                        node.as_deref(),
                        &is_wanted,
                    ) {
                        Ok(()) => None,
                        Err(error)
                            if error.kind() == std::io::ErrorKind::Interrupted && !is_wanted() =>
                        {
                            continue;
                        }
                        Err(error) => {
                            tracing::warn!(index = name, "replicas in rescue: {}", chain(&error));
                            Some(chain(&error).chars().take(WHY_CHARS).collect())
                        }
                    };
                    let (files, bytes) = rescue::lag(&index.folder, folder, name);
                    *lock(&index.replicas.lag) = Some(ReplicaLag { files, bytes, failing });
                }
            }
        }
    }

    /// By what this mesh is known in buckets.
    fn node(&self) -> Option<String> {
        self.folder
            .parent()
            .and_then(|state| brahman_storage::node::read(state).ok().flatten())
            .map(|node| node.name)
    }

    /// Removes the replicas of an index that is being deleted, after whoever writes there has
    /// ended; no more are made.
    ///
    /// # Errors
    /// If the work panicked. Replicas that cannot be removed keep no index from being deleted, and
    /// are said.
    pub(super) async fn remove_replicas(&self, index: &Arc<Index>) -> Result<(), Fault> {
        index.replicas.is_unwanted.store(true, Ordering::Release);
        let Some(copies) = rescue::known(&self.folder).filter(|_| !self.mock) else {
            return Ok(());
        };
        let (index, node) = (Arc::clone(index), self.node());
        let work = move || {
            let _writing = lock(&index.replicas.writing);
            let name = &index.parameters.name;
            if let Err(error) = rescue::remove(&copies, name, node.as_deref()) {
                tracing::warn!(
                    index = name,
                    "its replicas in {} are left: {}",
                    copies.display(),
                    chain(&error)
                );
            }
        };
        blocking(work).await.map_err(|e| Fault::internal(chain(&e)))
    }

    /// Takes an index to another bucket. The old home answers until the new one does.
    pub(super) async fn move_index(self: &Arc<Self>, call: &Call) -> Result<Reply, Fault> {
        let MoveIn { name, bucket } = call.parameters()?;
        let index = self.index(&name)?;
        let previous = index.home.bucket.clone();
        let ended = |moved: bool, bytes: u64| {
            MoveOut::Done(MoveSummary {
                done: bytes,
                of: bytes,
                moved,
                bucket: bucket.clone(),
                previous: previous.clone(),
                bytes,
            })
        };
        if bucket == previous {
            return Reply::of(&ended(false, 0));
        }
        index.within_reach()?;
        let path = self.place(&bucket, &name).await?;
        // One at a time, and no trial of a person's meanwhile: it would read from where nothing is
        // any more. The agent sees for itself that its index has gone.
        let trying = self.trying.lock().await;
        let claim = index.claim("move").await?;
        let _stop = StopOnDrop(Arc::clone(&claim.stop));
        let of = index.folder.generations().iter().map(|(_, m)| m.bytes()).sum();
        let done = Arc::new(AtomicU64::new(0));
        let (counted, stop, moving, stub) =
            (Arc::clone(&done), Arc::clone(&claim.stop), Arc::clone(&index), self.stub(&name)?);
        let (service, to) = (Arc::clone(self), bucket.clone());
        let work = move || -> Result<(Weak<Index>, u64), Fault> {
            let _claim = claim;
            let steps = Steps::default();
            let progress = |n| {
                counted.store(n, Ordering::Relaxed);
                !stop.load(Ordering::Relaxed)
            };
            let failed = |e: std::io::Error| match e.kind() {
                std::io::ErrorKind::AlreadyExists => Fault::of(
                    &error::IndexExists { name: moving.parameters.name.clone() },
                    false,
                    chain(&e),
                ),
                _ => io_fault("moving the index; it stays where it is", &e),
            };
            // What an earlier move could not remove, while somebody read there, goes first.
            let home = Home::open(&stub).map_err(failed)?;
            let bytes = home.copy(&stub, &path, &steps, &progress).map_err(failed)?;
            // From here on no trial is kept until the index is the new one.
            let mut journal = lock(&moving.journal);
            let home = home.flip(&stub, &to, &path, &CHANGING, &steps).map_err(failed)?;
            let moved = Index::open_moved(home, &moving, &mut journal);
            lock(&service.indexes).insert(moving.parameters.name.clone(), Arc::new(moved));
            drop(journal);
            Ok((Arc::downgrade(&moving), bytes))
        };
        let mut working = on_own_thread("moving the index", false, work);
        drop(index);
        let outcome = loop {
            match tokio::time::timeout(PROGRESS_EVERY, &mut working).await {
                Ok(outcome) => break outcome,
                Err(_) if call.more => {
                    let done = done.load(Ordering::Relaxed);
                    call.send(&MoveOut::Progress(Progress::new("copy", done, of))).await?;
                }
                Err(_) => {}
            }
        };
        let (old, bytes) = outcome??;
        // A search that began in the old home ends there. Whatever is left then goes with the next
        // opening.
        for _ in 0..READERS_ASKED {
            if old.strong_count() == 0 {
                let stub = self.stub(&name)?;
                let cleared = blocking(move || Home::open(&stub)).await;
                cleared
                    .map_err(|e| Fault::internal(chain(&e)))?
                    .map_err(|e| io_fault("clearing the old home", &e))?;
                break;
            }
            tokio::time::sleep(READERS_EVERY).await;
        }
        drop(trying);
        Reply::of(&ended(true, bytes))
    }
}
