//! `org.brahman.Catalog` and, in [`storage`] and [`objects`], `org.brahman.Storage`. [`realm`]
//! tells mocks from others, [`read`] gives datasets whose objects are whole, [`remote`] puts
//! datasets into S3 and [`adopt`] takes them up from there, [`rescue`] copies objects and brings
//! them back, [`borrow`] has them read there while their bucket is away, [`scrub`] looks whether
//! they still are what they were, [`sweep`] deletes what nothing needs, [`copy`] makes datasets of
//! others, [`shown`] keeps their stable paths, [`sample`] looks at rows, [`scoped`] leaves out what
//! the active profile hides. [`dispatch`] says which method does what.

mod adopt;
mod borrow;
mod copy;
mod dispatch;
mod objects;
mod read;
mod realm;
mod remote;
mod rescue;
mod resync;
mod sample;
mod scoped;
mod scrub;
mod shown;
mod storage;
mod sweep;
mod telling;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use brahman_card::Fault;
use brahman_card::clock::now_ms;
use brahman_card::interface::catalog::{
    CommitIn, CommitOut, Copies, LocationIn, LocationOut, Object, RealmIn, WatchOut, error,
};
use brahman_card::interface::storage::UnfinishedRun;
use brahman_sidecar::{Call, Reply, Scope, blocking, chain};
use brahman_storage::buckets::{BucketError, Buckets};

use crate::registry::sweep::ORPHAN_AGE;
use crate::registry::{DatasetRegistry, RegistryError, Roots};
use crate::verified::VerifiedFiles;
use realm::{Contexts, Realm};
use rescue::Copier;
use telling::{Heads, Teller};

/// How long after a commit its buckets are looked at for what nothing needs any more.
const REMOTE_AFTER: Duration = Duration::from_secs(1);

/// Answers both interfaces, over the registry and the buckets.
#[derive(Debug)]
pub struct CatalogService {
    registry: Arc<Mutex<DatasetRegistry>>,
    /// What mocks make lies apart.
    mocks: Arc<Mutex<DatasetRegistry>>,
    /// Where that is.
    apart: PathBuf,
    teller: Teller,
    contexts: Contexts,
    buckets: Buckets,
    /// By which this catalog is known in buckets.
    node: String,
    /// Where this catalog's files lie.
    state: PathBuf,
    /// Which files are what they should be.
    verified: Arc<VerifiedFiles>,
    copier: Arc<Copier>,
    /// Held while an object is asked about for the last time and deleted from a bucket, and by what
    /// would make one needed again.
    deleting: Arc<tokio::sync::Mutex<()>>,
    /// Held while folders are tidied: one at a time.
    tidying: Arc<tokio::sync::Mutex<()>>,
    /// Held while a dataset's stable path is brought up to date: one at a time.
    showing: Arc<tokio::sync::Mutex<()>>,
    /// Datasets whose buckets are to be looked at in a moment.
    followed: Mutex<BTreeSet<String>>,
    /// What could not be swept in buckets, by dataset.
    unswept: Mutex<BTreeMap<String, Vec<String>>>,
    /// Objects and copies that were damaged when they were last looked at, and could not be
    /// repaired.
    damaged: Mutex<scrub::Places>,
    /// What runs had left when their folders were last looked at, in words.
    unfinished: Mutex<Option<String>>,
    /// What the active profile lets be named.
    scope: Scope,
}

impl CatalogService {
    /// The service of a state directory.
    ///
    /// # Errors
    /// If the registry or the buckets cannot be opened.
    pub fn open(state: &Path) -> io::Result<Self> {
        let apart = state.join("mock");
        // First the buckets: they know which of their folders are there.
        let (buckets, mut registry) = (Buckets::open(state)?, DatasetRegistry::open(state)?);
        let (mut mocks, node) =
            (DatasetRegistry::open(&apart)?.for_mocks(), buckets.node().to_owned());
        // What was being taken up when this process last ended is not published, or its journal
        // says so by now.
        for (registry, producer) in [(&mut registry, adopt::PRODUCER), (&mut mocks, copy::PRODUCER)]
        {
            if let Err(error) = registry.journal.abandon(
                None,
                Some(producer),
                "the catalog ended in the middle",
                false,
            ) {
                tracing::error!("the lineage's journal refuses: {}", chain(&error));
            }
        }
        if let Err(error) = registry.journal.abandon(
            None,
            Some(copy::PRODUCER),
            "the catalog ended in the middle",
            false,
        ) {
            tracing::error!("the lineage's journal refuses: {}", chain(&error));
        }
        let (registry, mocks) = (Arc::new(Mutex::new(registry)), Arc::new(Mutex::new(mocks)));
        let teller = Teller::new(&registry, &mocks);
        let service = Self {
            registry,
            mocks,
            apart,
            teller,
            contexts: Contexts::default(),
            buckets,
            node,
            state: state.to_owned(),
            verified: Arc::default(),
            copier: Arc::default(),
            deleting: Arc::default(),
            tidying: Arc::default(),
            showing: Arc::default(),
            followed: Mutex::default(),
            unswept: Mutex::default(),
            damaged: Mutex::new(scrub::damaged_before(state)),
            unfinished: Mutex::default(),
            scope: Scope::open(),
        };
        for (realm, roots) in service.roots() {
            service.of(realm).set_roots(roots);
        }
        service.tidy_all();
        service.teller.tell();
        Ok(service)
    }

    /// The same, which asks this mesh's broker who answers in which context.
    #[must_use]
    pub fn on_mesh(self, mesh: &Path) -> Self {
        Self { contexts: Contexts::of(mesh), scope: Scope::unknown(), ..self }
    }

    /// Follows which profile is active, for ever. Whoever watches is told anew: what it may see is
    /// another.
    pub async fn keep_scope(&self, mesh: &Path) {
        let teller = self.teller.clone();
        let tell = move || {
            let teller = teller.clone();
            // It may wait for whoever holds the registry.
            drop(blocking(move || teller.tell()));
        };
        tokio::join!(self.scope.clone().follow(mesh.to_owned()), self.scope.each_change(tell));
    }

    /// The real registry, where the thread that asks may wait for whoever holds it, as that waits
    /// for a disk: never on the one that answers calls, which [`Self::consult`]s it.
    fn registry(&self) -> MutexGuard<'_, DatasetRegistry> {
        self.of(Realm::Real)
    }

    fn of(&self, realm: Realm) -> MutexGuard<'_, DatasetRegistry> {
        held(self.registry_of(realm))
    }

    fn registry_of(&self, realm: Realm) -> &Arc<Mutex<DatasetRegistry>> {
        if realm == Realm::Mock { &self.mocks } else { &self.registry }
    }

    /// Which buckets there are now, for real datasets and for the mocks'.
    fn roots(&self) -> [(Realm, Roots); 2] {
        let roots = Roots::new(self.buckets.roots()).with_unread(self.buckets.unread());
        let apart = roots.apart(&self.apart.join("buckets"));
        [(Realm::Real, roots), (Realm::Mock, apart)]
    }

    /// Tells the registry which buckets there are now.
    async fn settle_roots(&self) -> Result<(), Fault> {
        for (realm, roots) in self.roots() {
            self.with(realm, move |registry| {
                held(registry).set_roots(roots);
                Ok(())
            })
            .await?;
        }
        // There may be somewhere to copy to, or something.
        self.copier.wake();
        self.copier.look_again();
        // Whoever keeps replicas elsewhere follows the heads: the same word again lets it ask for
        // the buckets.
        self.teller.heads.send_modify(|_| ());
        Ok(())
    }

    /// Looks something up in the registry: at once if nobody holds it, and else on a thread that
    /// may wait until whoever does has written to its disk.
    async fn consult<T: Send + 'static>(
        &self,
        realm: Realm,
        look: impl FnOnce(&DatasetRegistry) -> T + Send + 'static,
    ) -> io::Result<T> {
        let registry = Arc::clone(self.registry_of(realm));
        let look = match registry.try_lock() {
            Ok(registry) => return Ok(look(&registry)),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(look(&poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => look,
        };
        let looking = blocking(move || look(&held(&registry)));
        looking.await.map_err(io::Error::other)
    }

    async fn commit(self: &Arc<Self>, commit: CommitIn) -> Result<CommitOut, Fault> {
        self.commit_at(commit, 0).await
    }

    /// The same, as the generation of this number at least, where no bucket in S3 has given it
    /// another.
    async fn commit_at(
        self: &Arc<Self>,
        mut commit: CommitIn,
        at_least: u64,
    ) -> Result<CommitOut, Fault> {
        let (name, realm) = (commit.name.clone(), Realm::of_writer(commit.mock));
        commit.objects.iter_mut().for_each(|object| object.path = None);
        // Its answer was lost: what it would be checked against may be another by now.
        let (asked, run) = (name.clone(), commit.run_id.clone());
        let said = self
            .consult(realm, move |registry| registry.said_again(&asked, &run))
            .await
            .map_err(unanswered)?
            .map_err(fault)?;
        if let Some((generation, stale)) = said {
            self.show(realm, &name).await;
            self.follow_up(realm, name);
            return Ok(CommitOut { generation, stale, copies: self.copies_of(realm).await });
        }
        let (asked, run) = (name.clone(), commit.run_id.clone());
        let known = self.consult(realm, move |registry| known_of(registry, &asked, &run)).await;
        let (roots, life, (_, known)) = known.map_err(unanswered)?.map_err(fault)?;
        // Hashing what may be gigabytes, and fsync, on threads of their own.
        let service = Arc::clone(self);
        let verified = blocking(move || {
            // A disk that went since the run began: what is read below its mount point is on
            // another.
            let buckets: BTreeSet<&String> = commit
                .objects
                .iter()
                .map(|object| &object.bucket)
                .filter(|_| realm == Realm::Real)
                .collect();
            for bucket in buckets {
                if let Err(error @ BucketError::Away { .. }) = service.buckets.mounted_now(bucket) {
                    return Err(remote::bucket_failed(bucket, &error));
                }
            }
            roots.verify(&commit.objects, &known).map_err(fault).map(|()| commit)
        });
        let commit = verified.await.map_err(|e| Fault::internal(chain(&e)))??;
        // By a task of its own: whoever hangs up now is not told, and all that comes after a commit
        // comes all the same.
        let service = Arc::clone(self);
        let publishing = tokio::spawn(async move {
            let published = service.publish(realm, commit, life, at_least).await;
            // Whoever is told of a generation finds it under the dataset's stable path.
            service.show(realm, &name).await;
            // What it leaves behind goes, and so does what a refusal left in a bucket, once its run
            // has ended.
            service.follow_up(realm, name);
            published
        });
        let (generation, stale) = publishing.await.map_err(|e| Fault::internal(chain(&e)))??;
        Ok(CommitOut { generation, stale, copies: self.copies_of(realm).await })
    }

    /// Publishes what was verified in one life of its run. Given up and taken up again since, its
    /// objects may have gone in between.
    async fn publish(
        &self,
        realm: Realm,
        commit: CommitIn,
        life: u64,
        at_least: u64,
    ) -> Result<(u64, Vec<String>), Fault> {
        let remote = if realm == Realm::Real { self.put_remote(&commit).await? } else { 0 };
        let at_least = if remote > 0 { remote } else { at_least };
        let publish =
            move |registry: &mut DatasetRegistry| match registry.journal.lives(&commit.run_id)
                == life
            {
                true => registry.commit(commit, at_least),
                false => Err(RegistryError::GivenUp(commit.run_id)),
            };
        self.blocking(realm, publish).await
    }

    /// How many objects of a dataset lie where nobody waits for their removal: in buckets in S3
    /// and, as far as is known, as copies.
    async fn removed_later(&self, name: &str) -> Result<u64, Fault> {
        let asked = name.to_owned();
        let known = self
            .consult(Realm::Real, move |registry| (registry.kept(&asked), registry.roots().clone()))
            .await;
        let (objects, roots) = known.map_err(unanswered)?;
        let remote = objects
            .iter()
            .filter(|object| roots.get(&object.bucket).is_ok_and(|root| !root.is_local()))
            .count();
        let keys: Vec<Cow<'_, str>> =
            objects.iter().map(|object| self.copy_key(&object.bucket, &object.key)).collect();
        let copies = if self.buckets.rescues() {
            self.copier.count(keys.iter().map(|key| &**key))
        } else {
            0
        };
        Ok((remote + copies) as u64)
    }

    /// What a mock made has no copies.
    async fn copies_of(&self, realm: Realm) -> Option<Copies> {
        if realm == Realm::Real { self.copies().await } else { None }
    }

    /// Has a dataset tidied and, if it is a real one, copied as it is now, and what it was removed
    /// from buckets and from among the copies; nobody waits for that.
    fn follow_up(self: &Arc<Self>, realm: Realm, name: String) {
        if realm == Realm::Real {
            self.copier.wake();
        }
        let service = Arc::clone(self);
        tokio::spawn(async move {
            service.tidy(realm, Some(&name)).await;
            // What was said of a dataset may hold no more.
            service.copier.look_again();
            // One commit follows the other: what they leave in a bucket is asked for once, and not
            // while the next one waits for it.
            if realm == Realm::Real && lock(&service.followed).insert(name.clone()) {
                tokio::time::sleep(REMOTE_AFTER).await;
                lock(&service.followed).remove(&name);
                service.tidy_remote(&name).await;
            }
        });
    }

    /// Work on the registry on a thread of its own, for it waits for the disk, or for whoever holds
    /// it: the thread that answers calls does neither.
    async fn with<T: Send + 'static>(
        &self,
        realm: Realm,
        work: impl FnOnce(&Mutex<DatasetRegistry>) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, Fault> {
        let registry = Arc::clone(self.registry_of(realm));
        let work = blocking(move || work(&registry));
        work.await.map_err(|e| Fault::internal(chain(&e)))?.map_err(fault)
    }

    /// The same, with the registry held; whoever watches is told what came of it.
    async fn blocking<T: Send + 'static>(
        &self,
        realm: Realm,
        work: impl FnOnce(&mut DatasetRegistry) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, Fault> {
        let teller = self.teller.clone();
        // Told by the thread that works: whoever asked may hang up before.
        let work = move |registry: &Mutex<DatasetRegistry>| {
            let done = work(&mut held(registry))?;
            teller.tell();
            Ok::<_, RegistryError>(done)
        };
        self.with(realm, work).await
    }

    /// Where a run writes. Into a folder whose disk is away nothing is begun: it would lie on
    /// another.
    async fn location(&self, ask: LocationIn) -> Result<LocationOut, Fault> {
        let LocationIn { name, run_id, producer, bucket, mock } = ask;
        let realm = Realm::of_writer(mock);
        let (asked, run) = (name.clone(), run_id.clone());
        let known = move |registry: &DatasetRegistry| {
            (registry.bucket_of(&asked, bucket.as_deref()), registry.journal.run(&run, 0).is_some())
        };
        let (bucket, is_known) = self.consult(realm, known).await.map_err(unanswered)?;
        if realm == Realm::Real
            && let Err(error @ BucketError::Away { .. }) = self.buckets.mounted(&bucket).await
        {
            return Err(remote::bucket_failed(&bucket, &error));
        }
        // What a run that is taken up again has put into a bucket must not be going just now.
        let deleting =
            if is_known { Some(Arc::clone(&self.deleting).lock_owned().await) } else { None };
        let place = move |registry: &Mutex<DatasetRegistry>| {
            // Whoever asked may hang up, and this goes on.
            let _deleting = deleting;
            held(registry).location(&name, &run_id, &producer.unwrap_or_default(), Some(&bucket))
        };
        self.with(realm, place).await
    }

    async fn watch(&self, call: &Call) -> Result<Reply, Fault> {
        let RealmIn { mock } = call.parameters()?;
        let mut changes = self.teller.heads.subscribe();
        loop {
            let realm = self.realm(call, mock).await;
            let Heads { real, mock } = changes.borrow_and_update().clone();
            let mut seen = real;
            if realm == Realm::Mock {
                seen.extend(mock);
            }
            seen.retain(|name, _| self.scope.binds_dataset(name));
            let runs = seen
                .iter()
                .filter_map(|(name, (_, run))| Some((name.clone(), run.clone()?)))
                .collect();
            let generations =
                seen.into_iter().map(|(name, (generation, _))| (name, generation)).collect();
            let word = WatchOut { generations, runs: Some(runs) };
            call.send(&word).await?;
            if changes.changed().await.is_err() {
                return Reply::of(&word);
            }
        }
    }
}

fn held(registry: &Mutex<DatasetRegistry>) -> MutexGuard<'_, DatasetRegistry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of a dataset's next generation, and the objects of the present one.
type NextGeneration = (u64, Vec<Object>);

/// What runs have left that were given up, or began long ago and were never committed, in words.
fn left_in_words(unfinished: &[UnfinishedRun]) -> Option<String> {
    let long_ago_ms =
        now_ms().saturating_sub(u64::try_from(ORPHAN_AGE.as_millis()).unwrap_or(u64::MAX));
    let is_left =
        |run: &&UnfinishedRun| run.given_up || run.since_ms.is_none_or(|at_ms| at_ms < long_ago_ms);
    let left: Vec<&UnfinishedRun> = unfinished.iter().filter(is_left).collect();
    let first = left.iter().min_by_key(|run| run.since_ms)?;
    let bytes: u64 = left.iter().map(|run| run.bytes).sum();
    let of = format!("run {} of dataset {}", first.run_id, first.dataset);
    let runs = if left.len() == 1 { of } else { format!("{} runs, the first is {of}", left.len()) };
    Some(format!("{bytes} bytes by {runs}; `brahman buckets scrub` lists them"))
}

/// Where buckets lie, how often a run has begun, and what a dataset's next generation follows.
fn known_of(
    registry: &DatasetRegistry,
    name: &str,
    run_id: &str,
) -> Result<(Roots, u64, NextGeneration), RegistryError> {
    Ok((registry.roots().clone(), registry.journal.lives(run_id), registry.next(name)?))
}

/// That the thread which was to look something up has ended without an answer.
fn unanswered(error: io::Error) -> Fault {
    Fault::internal(chain(&error))
}

fn fault(error: RegistryError) -> Fault {
    let message = chain(&error);
    match error {
        RegistryError::NoSuchDataset(name) | RegistryError::DeletedMeanwhile(name) => {
            Fault::of(&error::NoSuchDataset { name }, false, message)
        }
        RegistryError::BadName(_) | RegistryError::Reserved(_) => {
            Fault::invalid_parameter("name", message)
        }
        RegistryError::MadeByMock { name, maker } => {
            Fault::of(&error::MadeByMock { name, maker }, false, message)
        }
        RegistryError::Incomplete { name, keys, rows, expected_rows, .. } => {
            Fault::of(&error::Incomplete { name, keys, rows, expected_rows }, false, message)
        }
        RegistryError::BadObject { key, .. } | RegistryError::Unreadable { key, .. } => {
            Fault::of(&error::BadObject { key }, false, message)
        }
        RegistryError::NoSuchBucket { name, .. } => {
            Fault::of(&error::NoSuchBucket { name }, false, message)
        }
        RegistryError::GivenUp(run_id) => Fault::of(&error::GivenUp { run_id }, false, message),
        RegistryError::Moved { name, .. } => Fault::of(&error::Moved { name }, true, message),
        RegistryError::Exists(name) => Fault::of(&error::Exists { name }, false, message),
        RegistryError::InUse { name, indexes } => {
            Fault::of(&error::InUse { name, indexes }, false, message)
        }
        RegistryError::Pinned { name, pins } => {
            Fault::of(&error::Pinned { name, pins }, false, message)
        }
        RegistryError::TooManyPins { .. } => Fault::invalid_parameter("pin", message),
        RegistryError::NoSuchGeneration { name, generation } => {
            Fault::of(&error::NoSuchGeneration { name, generation }, false, message)
        }
        RegistryError::Damaged { name, .. } => Fault::of(&error::Damaged { name }, false, message),
        RegistryError::Io { .. } => Fault::internal(message),
    }
}
