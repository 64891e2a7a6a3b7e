//! `org.brahman.Catalog` and, in [`storage`] and [`objects`], `org.brahman.Storage`. [`realm`] tells mocks from others, [`read`] gives
//! datasets whose objects are whole, [`remote`] puts datasets into S3 and [`adopt`] takes them up from there, [`rescue`] copies objects
//! and brings them back, [`borrow`] has them read there while their bucket is away, [`scrub`] looks whether they still are what they
//! were, [`sweep`] deletes what nothing needs, [`copy`] makes datasets of others, [`shown`] keeps their stable paths.

mod adopt;
mod borrow;
mod copy;
mod objects;
mod read;
mod realm;
mod remote;
mod rescue;
mod resync;
mod scrub;
mod shown;
mod storage;
mod sweep;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use brahman_card::clock::now_ms;
use brahman_card::interface::catalog::{
    self, AbandonIn, AbandonOut, ClearStaleIn, ClearStaleOut, CommitIn, CommitOut, Copies, CopyIn, DeleteOut, LineageIn, LineageOut,
    LocationIn, LocationOut, MarkStaleIn, NameIn, Object, PinIn, PinOut, RealmIn, ResyncIn, SampleIn, SampleOut, SnapshotIn, SnapshotOut,
    UnpinIn, UnpinOut, WatchOut, error,
};
use brahman_card::interface::storage::{self as storage_interface, UnfinishedRun};
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, Reply, Service, chain};
use brahman_storage::buckets::{BucketError, Buckets};
use brahman_storage::writable;
use tokio::sync::watch;

use crate::books::sweep::ORPHAN_AGE;
use crate::books::{BookError, Books, Head, Roots};
use crate::footers;
use crate::verified::VerifiedFiles;
use realm::{Contexts, Realm};
use rescue::Copier;

/// Events of a dataset told unless more are asked for, and at most.
const EVENTS: u64 = 100;
const EVENTS_MAX: u64 = 10_000;
/// Rows of a sample unless more are asked for, and at most: a look, not an export.
const SAMPLE_ROWS: u64 = 5;
const SAMPLE_ROWS_MAX: u64 = 100;

/// How often `status` hears how far copies are behind at most, and how often of how long they are.
const TELL_EVERY: Duration = Duration::from_secs(1);
const TELL_AGE_EVERY: Duration = Duration::from_secs(30);
/// How long after a commit its buckets are looked at for what nothing needs any more.
const REMOTE_AFTER: Duration = Duration::from_secs(1);
/// How long what a backup copies is kept if whoever makes it ends in the middle.
const SNAPSHOT_LIFE_S: u64 = 24 * 3600;
/// What changes the state.
const CHANGES: [&str; 19] = [
    "Location",
    "Commit",
    "MarkStale",
    "ClearStale",
    "Delete",
    "Abandon",
    "Resync",
    "ResyncMissing",
    "Adopt",
    "Copy",
    "Rename",
    "Pin",
    "Unpin",
    "Snapshot",
    "AddBucket",
    "RemoveBucket",
    "PutObject",
    "FlushErrors",
    "CompactErrors",
];

/// Present generations: the real ones', the mocks'.
#[derive(Clone, Debug, Default)]
struct Heads {
    real: BTreeMap<String, Head>,
    mock: BTreeMap<String, Head>,
}

/// Tells whoever watches what the generations are.
#[derive(Clone, Debug)]
struct Teller {
    real: Arc<Mutex<Books>>,
    mocks: Arc<Mutex<Books>>,
    heads: Arc<watch::Sender<Heads>>,
    /// Held from the reading to the telling: what is told last was read last.
    turn: Arc<Mutex<()>>,
}

impl Teller {
    fn new(real: &Arc<Mutex<Books>>, mocks: &Arc<Mutex<Books>>) -> Self {
        let heads = Arc::new(watch::channel(Heads::default()).0);
        Self { real: Arc::clone(real), mocks: Arc::clone(mocks), heads, turn: Arc::default() }
    }

    /// It waits for whoever holds the books.
    fn tell(&self) {
        let _turn = lock(&self.turn);
        let real = held(&self.real).heads();
        let mock = held(&self.mocks).heads();
        self.heads.send_replace(Heads { real, mock });
    }
}

/// Answers both interfaces, over the books and the buckets.
#[derive(Debug)]
pub struct CatalogService {
    books: Arc<Mutex<Books>>,
    /// What mocks make lies apart.
    mocks: Arc<Mutex<Books>>,
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
    /// Held while an object is asked about for the last time and deleted from a bucket, and by what would make one needed again.
    deleting: Arc<tokio::sync::Mutex<()>>,
    /// Held while folders are tidied: one at a time.
    tidying: Arc<tokio::sync::Mutex<()>>,
    /// Held while a dataset's stable path is brought up to date: one at a time.
    showing: Arc<tokio::sync::Mutex<()>>,
    /// Datasets whose buckets are to be looked at in a moment.
    followed: Mutex<BTreeSet<String>>,
    /// What could not be swept in buckets, by dataset.
    unswept: Mutex<BTreeMap<String, Vec<String>>>,
    /// Objects and copies that were damaged when they were last looked at, and could not be repaired.
    damaged: Mutex<scrub::Places>,
    /// What runs had left when their folders were last looked at, in words.
    unfinished: Mutex<Option<String>>,
}

impl CatalogService {
    /// The service of a state directory.
    ///
    /// # Errors
    /// If the books or the buckets cannot be opened.
    pub fn open(state: &Path) -> io::Result<Self> {
        let apart = state.join("mock");
        // First the buckets: they know which of their folders are there.
        let (buckets, mut books) = (Buckets::open(state)?, Books::open(state)?);
        let (mut mocks, node) = (Books::open(&apart)?.for_mocks(), buckets.node().to_owned());
        // What was being taken up when this process last ended is not published, or its journal says so by now.
        for (books, producer) in [(&mut books, adopt::PRODUCER), (&mut mocks, copy::PRODUCER)] {
            if let Err(error) = books.journal.abandon(None, Some(producer), "the catalog ended in the middle", false) {
                tracing::error!("the lineage's journal refuses: {}", chain(&error));
            }
        }
        if let Err(error) = books.journal.abandon(None, Some(copy::PRODUCER), "the catalog ended in the middle", false) {
            tracing::error!("the lineage's journal refuses: {}", chain(&error));
        }
        let (books, mocks) = (Arc::new(Mutex::new(books)), Arc::new(Mutex::new(mocks)));
        let teller = Teller::new(&books, &mocks);
        let service = Self {
            books,
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
        };
        for (realm, roots) in service.roots() {
            service.of(realm).set_roots(roots);
        }
        service.tidy_all();
        service.teller.tell();
        Ok(service)
    }

    /// What `status` shows of this module: that nothing can be written, which buckets are away, and, where there are to be copies, how
    /// far they are behind, and why. It looks at disks, and may wait for them.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        if writable::check(&self.state).is_err() {
            all.insert("state".to_owned(), "read-only".to_owned());
        }
        let away: Vec<String> = self.buckets.absent().into_iter().map(|(name, _)| name).collect();
        if !away.is_empty() {
            all.insert("buckets.away".to_owned(), away.join(", "));
        }
        let lineage = self.books().journal.unread().into_iter();
        let damaged: Vec<String> = lineage.chain(self.buckets.shortfall()).chain(self.buckets.nameless().map(str::to_owned)).collect();
        if !damaged.is_empty() {
            all.insert("damaged".to_owned(), damaged.join("; "));
        }
        all.extend(lock(&self.unfinished).clone().map(|words| ("unfinished".to_owned(), words)));
        if !self.buckets.rescues() {
            return all;
        }
        let (lag, why) = self.lag_now();
        let figures = [("copies.objects", lag.objects), ("copies.bytes", lag.bytes), ("copies.oldest_s", lag.oldest_s)];
        let why = why.unwrap_or_default();
        all.extend(figures.map(|(name, figure)| (name.to_owned(), figure.to_string())));
        all.insert("copies.why".to_owned(), why);
        all
    }

    /// Says [`Self::attributes`] now and whenever they have changed; ends with its task.
    pub async fn keep_telling(self: &Arc<Self>, say: impl AsyncFn(BTreeMap<String, String>)) {
        let (mut lag, mut told) = (self.copier.watch(), None);
        loop {
            // Before it is looked at: what changes meanwhile is told next.
            lag.borrow_and_update();
            let service = Arc::clone(self);
            let attributes = tokio::task::spawn_blocking(move || service.attributes()).await.unwrap_or_default();
            if told.as_ref() != Some(&attributes) {
                say(attributes.clone()).await;
                told = Some(attributes);
            }
            tokio::time::sleep(TELL_EVERY).await;
            // How old the oldest is grows by itself, and disks come and go.
            tokio::select! {
                _ = lag.changed() => {}
                () = tokio::time::sleep(TELL_AGE_EVERY) => {}
            }
        }
    }

    /// The same, which asks this mesh's broker who answers in which context.
    #[must_use]
    pub fn on_mesh(self, mesh: &Path) -> Self {
        Self { contexts: Contexts::of(mesh.to_owned()), ..self }
    }

    /// The real books, where the thread that asks may wait for whoever holds them, as that waits for a disk: never on the one that answers
    /// calls, which [`Self::consult`]s them.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.of(Realm::Real)
    }

    fn of(&self, realm: Realm) -> MutexGuard<'_, Books> {
        held(self.shelf(realm))
    }

    fn shelf(&self, realm: Realm) -> &Arc<Mutex<Books>> {
        if realm == Realm::Mock { &self.mocks } else { &self.books }
    }

    /// Which buckets there are now, for real datasets and for the mocks'.
    fn roots(&self) -> [(Realm, Roots); 2] {
        let roots = Roots::new(self.buckets.roots()).with_unread(self.buckets.unread());
        let apart = roots.apart(&self.apart.join("buckets"));
        [(Realm::Real, roots), (Realm::Mock, apart)]
    }

    /// Tells the books which buckets there are now.
    async fn settle_roots(&self) -> Result<(), Fault> {
        for (realm, roots) in self.roots() {
            self.with(realm, move |books| {
                held(books).set_roots(roots);
                Ok(())
            })
            .await?;
        }
        // There may be somewhere to copy to, or something.
        self.copier.wake();
        Ok(())
    }

    /// Looks something up in the books: at once if nobody holds them, and else on a thread that may wait until whoever does has written to
    /// its disk.
    async fn consult<T: Send + 'static>(&self, realm: Realm, look: impl FnOnce(&Books) -> T + Send + 'static) -> io::Result<T> {
        let books = Arc::clone(self.shelf(realm));
        let look = match books.try_lock() {
            Ok(books) => return Ok(look(&books)),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(look(&poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => look,
        };
        let looking = tokio::task::spawn_blocking(move || look(&held(&books)));
        looking.await.map_err(io::Error::other)
    }

    async fn commit(self: &Arc<Self>, commit: CommitIn) -> Result<CommitOut, Fault> {
        self.commit_at(commit, 0).await
    }

    /// The same, as the generation of this number at least, where no bucket in S3 has given it another.
    async fn commit_at(self: &Arc<Self>, mut commit: CommitIn, at_least: u64) -> Result<CommitOut, Fault> {
        let (name, realm) = (commit.name.clone(), Realm::of_writer(commit.mock));
        commit.objects.iter_mut().for_each(|object| object.path = None);
        // Its answer was lost: what it would be checked against may be another by now.
        let (asked, run) = (name.clone(), commit.run_id.clone());
        let said = self.consult(realm, move |books| books.said_again(&asked, &run)).await.map_err(unanswered)?.map_err(fault)?;
        if let Some((generation, stale)) = said {
            self.show(realm, &name).await;
            self.follow_up(realm, name);
            return Ok(CommitOut { generation, stale, copies: self.copies_of(realm).await });
        }
        let (asked, run) = (name.clone(), commit.run_id.clone());
        let known = self.consult(realm, move |books| known_of(books, &asked, &run)).await;
        let (roots, life, (_, known)) = known.map_err(unanswered)?.map_err(fault)?;
        // Hashing what may be gigabytes, and fsync, on threads of their own.
        let service = Arc::clone(self);
        let verified = tokio::task::spawn_blocking(move || {
            // A disk that went since the run began: what is read below its mount point is on another.
            let buckets: BTreeSet<&String> = commit.objects.iter().map(|object| &object.bucket).filter(|_| realm == Realm::Real).collect();
            for bucket in buckets {
                if let Err(error @ BucketError::Away { .. }) = service.buckets.mounted_now(bucket) {
                    return Err(remote::bucket_failed(bucket, &error));
                }
            }
            roots.verify(&commit.objects, &known).map_err(fault).map(|()| commit)
        });
        let commit = verified.await.map_err(|e| Fault::internal(chain(&e)))??;
        // By a task of its own: whoever hangs up now is not told, and all that comes after a commit comes all the same.
        let service = Arc::clone(self);
        let publishing = tokio::spawn(async move {
            let published = service.publish(realm, commit, life, at_least).await;
            // Whoever is told of a generation finds it under the dataset's stable path.
            service.show(realm, &name).await;
            // What it leaves behind goes, and so does what a refusal left in a bucket, once its run has ended.
            service.follow_up(realm, name);
            published
        });
        let (generation, stale) = publishing.await.map_err(|e| Fault::internal(chain(&e)))??;
        Ok(CommitOut { generation, stale, copies: self.copies_of(realm).await })
    }

    /// Publishes what was verified in one life of its run. Given up and taken up again since, its objects may have gone in between.
    async fn publish(&self, realm: Realm, commit: CommitIn, life: u64, at_least: u64) -> Result<(u64, Vec<String>), Fault> {
        let remote = if realm == Realm::Real { self.put_remote(&commit).await? } else { 0 };
        let at_least = if remote > 0 { remote } else { at_least };
        let publish = move |books: &mut Books| match books.journal.lives(&commit.run_id) == life {
            true => books.commit(commit, at_least),
            false => Err(BookError::GivenUp(commit.run_id)),
        };
        self.blocking(realm, publish).await
    }

    /// How many objects of a dataset lie where nobody waits for their removal: in buckets in S3 and, as far as is known, as copies.
    async fn removed_later(&self, name: &str) -> Result<u64, Fault> {
        let asked = name.to_owned();
        let known = self.consult(Realm::Real, move |books| (books.kept(&asked), books.roots().clone())).await;
        let (objects, roots) = known.map_err(unanswered)?;
        let remote = objects.iter().filter(|object| roots.get(&object.bucket).is_ok_and(|root| !root.is_local())).count();
        let keys: Vec<Cow<'_, str>> = objects.iter().map(|object| self.copy_key(&object.bucket, &object.key)).collect();
        let copies = if self.buckets.rescues() { self.copier.count(keys.iter().map(|key| &**key)) } else { 0 };
        Ok((remote + copies) as u64)
    }

    /// What a mock made has no copies.
    async fn copies_of(&self, realm: Realm) -> Option<Copies> {
        if realm == Realm::Real { self.copies().await } else { None }
    }

    /// Has a dataset tidied and, if it is a real one, copied as it is now, and what it was removed from buckets and from among the
    /// copies; nobody waits for that.
    fn follow_up(self: &Arc<Self>, realm: Realm, name: String) {
        if realm == Realm::Real {
            self.copier.wake();
        }
        let service = Arc::clone(self);
        tokio::spawn(async move {
            service.tidy(realm, Some(&name)).await;
            // One commit follows the other: what they leave in a bucket is asked for once, and not while the next one waits for it.
            if realm == Realm::Real && lock(&service.followed).insert(name.clone()) {
                tokio::time::sleep(REMOTE_AFTER).await;
                lock(&service.followed).remove(&name);
                service.tidy_remote(&name).await;
            }
        });
    }

    /// Work on the books on a thread of its own, for it waits for the disk, or for whoever holds them: the thread that answers calls
    /// does neither.
    async fn with<T: Send + 'static>(
        &self,
        realm: Realm,
        work: impl FnOnce(&Mutex<Books>) -> Result<T, BookError> + Send + 'static,
    ) -> Result<T, Fault> {
        let books = Arc::clone(self.shelf(realm));
        let work = tokio::task::spawn_blocking(move || work(&books));
        work.await.map_err(|e| Fault::internal(chain(&e)))?.map_err(fault)
    }

    /// The same, with the books held; whoever watches is told what came of it.
    async fn blocking<T: Send + 'static>(
        &self,
        realm: Realm,
        work: impl FnOnce(&mut Books) -> Result<T, BookError> + Send + 'static,
    ) -> Result<T, Fault> {
        let teller = self.teller.clone();
        // Told by the thread that works: whoever asked may hang up before.
        let work = move |books: &Mutex<Books>| {
            let done = work(&mut held(books))?;
            teller.tell();
            Ok::<_, BookError>(done)
        };
        self.with(realm, work).await
    }

    /// Where a run writes. Into a folder whose disk is away nothing is begun: it would lie on another.
    async fn location(&self, ask: LocationIn) -> Result<LocationOut, Fault> {
        let LocationIn { name, run_id, producer, bucket, mock } = ask;
        let realm = Realm::of_writer(mock);
        let (asked, run) = (name.clone(), run_id.clone());
        let known = move |books: &Books| (books.bucket_of(&asked, bucket.as_deref()), books.journal.run(&run, 0).is_some());
        let (bucket, is_known) = self.consult(realm, known).await.map_err(unanswered)?;
        if realm == Realm::Real
            && let Err(error @ BucketError::Away { .. }) = self.buckets.mounted(&bucket).await
        {
            return Err(remote::bucket_failed(&bucket, &error));
        }
        // What a run that is taken up again has put into a bucket must not be going just now.
        let deleting = if is_known { Some(Arc::clone(&self.deleting).lock_owned().await) } else { None };
        let place = move |books: &Mutex<Books>| {
            // Whoever asked may hang up, and this goes on.
            let _deleting = deleting;
            held(books).location(&name, &run_id, &producer.unwrap_or_default(), Some(&bucket))
        };
        self.with(realm, place).await
    }

    async fn sample(&self, call: &Call) -> Result<Reply, Fault> {
        let SampleIn { name, rows, mock } = call.parameters()?;
        let (realm, mut dataset) = self.seen(self.realm(call, mock).await, &name).await?;
        let wanted = usize::try_from(rows.unwrap_or(SAMPLE_ROWS).min(SAMPLE_ROWS_MAX)).unwrap_or(1);
        let personal = dataset.pii.iter().flat_map(|report| &report.columns).filter(|c| c.status == "found" || c.status == "possible");
        let personal: BTreeSet<String> = personal.map(|c| c.column.clone()).collect();
        // Where something within a column is personal, all of it is masked.
        let holds = |name: &String| personal.iter().any(|place| is_within(place, name));
        let masked: BTreeSet<String> =
            dataset.columns.iter().map(|c| c.name.clone()).filter(holds).chain(personal.iter().cloned()).collect();
        let roots = self.consult(realm, |books| books.roots().clone()).await.map_err(unanswered)?;
        let away = self.away_of(realm, &dataset.objects).await;
        let (mut notes, mut rows) = (Vec::new(), 0);
        for object in &mut dataset.objects {
            if rows >= wanted as u64 {
                break;
            }
            rows += object.rows;
            match self.borrow(object, &away, &roots).await {
                Some(path) => {
                    object.path = Some(path.display().to_string());
                    notes.push(format!("{} was read from its copy in bucket rescue: bucket `{}` is away", object.key, object.bucket));
                }
                // To read what lies on a disk that does not answer would take for ever.
                None if away.contains_key(&object.bucket) && self.buckets.hangs(&object.bucket) => {
                    let why = format!("bucket `{}` does not answer, and no copy was found", object.bucket);
                    return Err(fault(BookError::BadObject { key: object.key.clone(), why }));
                }
                None => {}
            }
        }
        let work = tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            for object in &dataset.objects {
                let path = object.path.as_ref().map_or_else(|| roots.path(object), |path| Ok(PathBuf::from(path)))?;
                let rows = footers::sample(&path, wanted - out.len(), &masked, &mut notes);
                out.extend(rows.map_err(|source| BookError::Unreadable { key: object.key.clone(), source })?);
                if out.len() >= wanted {
                    break;
                }
            }
            if dataset.pii.is_none() {
                notes.push("nobody has looked for personal data: nothing is masked".to_owned());
            }
            Ok::<_, BookError>(SampleOut { rows: out, masked: masked.into_iter().collect(), notes })
        });
        Reply::of(&work.await.map_err(|e| Fault::internal(chain(&e)))?.map_err(fault)?)
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
            let runs = seen.iter().filter_map(|(name, (_, run))| Some((name.clone(), run.clone()?))).collect();
            let generations = seen.into_iter().map(|(name, (generation, _))| (name, generation)).collect();
            let word = WatchOut { generations, runs: Some(runs) };
            call.send(&word).await?;
            if changes.changed().await.is_err() {
                return Reply::of(&word);
            }
        }
    }
}

/// Whether a place is a column, or lies within it.
fn is_within(place: &str, column: &str) -> bool {
    place.strip_prefix(column).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

impl Service for CatalogService {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&catalog::INTERFACE, &storage_interface::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        if CHANGES.contains(&call.method()) {
            writable::check(&self.state).map_err(|error| {
                let message = format!("the catalog's state {}", chain(&error));
                let path = error.folder.display().to_string();
                if call.interface() == storage_interface::INTERFACE.name {
                    return Fault::of(&storage_interface::error::ReadOnly { path }, false, message);
                }
                Fault::of(&error::ReadOnly { path }, false, message)
            })?;
        }
        match call.method() {
            "List" => {
                let RealmIn { mock } = call.parameters()?;
                Reply::of(&self.list(self.realm(&call, mock).await).await?)
            }
            "Get" => {
                let NameIn { name, mock } = call.parameters()?;
                Reply::of(&self.get(self.realm(&call, mock).await, &name).await?)
            }
            "Location" => Reply::of(&self.location(call.parameters()?).await?),
            "Commit" => Reply::of(&self.commit(call.parameters()?).await?),
            "MarkStale" => {
                let MarkStaleIn { name, index, run_id, mock, gone } = call.parameters()?;
                // A mock's index is not noted in a real dataset.
                let own = self.realm_to_change(&call, mock).await?;
                let (realm, _) = self.seen(own, &name).await?;
                if own == realm {
                    let mark = move |books: &Mutex<Books>| match gone {
                        Some(true) => held(books).forget_feed(&name, &index),
                        _ => held(books).mark_stale(&name, &index, run_id.as_deref()),
                    };
                    self.with(own, mark).await?;
                }
                Ok(Reply::empty())
            }
            "ClearStale" => {
                let ClearStaleIn { name, index, generation, run_id, mock } = call.parameters()?;
                let own = self.realm_to_change(&call, mock).await?;
                let (realm, dataset) = self.seen(own, &name).await?;
                let cleared = match own == realm {
                    true => self.with(own, move |books| held(books).clear_stale(&name, &index, generation, run_id.as_deref())).await?,
                    false => match (run_id, dataset.run_id) {
                        (Some(theirs), Some(ours)) => theirs == ours,
                        _ => dataset.generation == generation,
                    },
                };
                Reply::of(&ClearStaleOut { cleared })
            }
            "Delete" => {
                let NameIn { name, mock } = call.parameters()?;
                let realm = self.changed(self.realm_to_change(&call, mock).await?, &name).await?;
                let deleted = name.clone();
                let later = if realm == Realm::Real { self.removed_later(&name).await? } else { 0 };
                self.blocking(realm, move |books| books.delete(&deleted)).await?;
                let notes = self.tidy(realm, Some(&name)).await;
                self.show(realm, &name).await;
                self.follow_up(realm, name);
                Reply::of(&DeleteOut {
                    notes: Some(notes).filter(|notes| !notes.is_empty()),
                    later: Some(later).filter(|later| *later > 0),
                })
            }
            "Copy" => {
                let ask: CopyIn = call.parameters()?;
                let realm = self.realm_to_change(&call, ask.mock).await?;
                Reply::of(&self.copy(realm, ask).await?)
            }
            "Rename" => {
                let ask: CopyIn = call.parameters()?;
                let realm = self.changed(self.realm_to_change(&call, ask.mock).await?, &ask.name).await?;
                Reply::of(&self.rename(realm, ask).await?)
            }
            "Pin" => {
                let PinIn { name, generation, life_s, pin, mock } = call.parameters()?;
                let realm = self.changed(self.realm_to_change(&call, mock).await?, &name).await?;
                let until_ms = life_s.map(|life_s| now_ms().saturating_add(life_s.saturating_mul(1000)));
                let pinned = name.clone();
                let pin = self.with(realm, move |books| held(books).pin(&pinned, generation, pin, until_ms)).await?;
                self.show(realm, &name).await;
                Reply::of(&PinOut { pin: self.with_folder(realm, &name, pin) })
            }
            "Snapshot" => {
                call.allow_paths()?;
                let SnapshotIn { folder, indexes, life_s } = call.parameters()?;
                let to = PathBuf::from(folder);
                if !to.is_absolute() || !to.is_dir() {
                    return Err(Fault::invalid_parameter("folder", "expected the absolute path of a folder that is there"));
                }
                let pin = format!("backup-{}", ulid::Ulid::generate());
                let until_ms = now_ms().saturating_add(life_s.unwrap_or(SNAPSHOT_LIFE_S).saturating_mul(1000));
                let name = pin.clone();
                let written = self.with(Realm::Real, move |books| held(books).snapshot(&to, indexes.as_deref(), &name, until_ms)).await?;
                let (datasets, notes) = written;
                Reply::of(&SnapshotOut { pin, datasets, notes: Some(notes).filter(|notes| !notes.is_empty()) })
            }
            "Unpin" => {
                let UnpinIn { name, generation, pin, mock } = call.parameters()?;
                let realm = self.changed(self.realm_to_change(&call, mock).await?, &name).await?;
                let asked = name.clone();
                let unpinned = self.with(realm, move |books| held(books).unpin(&asked, generation, pin.as_deref())).await?;
                if unpinned > 0 {
                    self.tidy(realm, Some(&name)).await;
                    self.show(realm, &name).await;
                    self.follow_up(realm, name);
                }
                Reply::of(&UnpinOut { unpinned })
            }
            "Abandon" => {
                let AbandonIn { run_id, producer, reason, cancelled, mock } = call.parameters()?;
                if run_id.is_some() == producer.is_some() {
                    return Err(Fault::invalid_parameter("run_id, producer", "expected exactly one of them"));
                }
                let realms: &[Realm] = match mock {
                    Some(true) => &[Realm::Mock],
                    Some(false) => &[Realm::Real],
                    None => &[Realm::Mock, Realm::Real],
                };
                let mut abandoned = 0;
                for realm in realms {
                    let (run_id, producer, reason) = (run_id.clone(), producer.clone(), reason.clone());
                    let abandon = move |books: &Mutex<Books>| {
                        let mut books = held(books);
                        let names = books.journal.open_datasets(run_id.as_deref(), producer.as_deref());
                        let done = books.journal.abandon(run_id.as_deref(), producer.as_deref(), &reason, cancelled == Some(true));
                        Ok(done.map(|count| (count, names)))
                    };
                    let done = self.with(*realm, abandon).await?;
                    let (count, names) = done.map_err(|e| Fault::internal(format!("the lineage's journal: {}", chain(&e))))?;
                    abandoned += count;
                    for name in names {
                        self.tidy(*realm, Some(&name)).await;
                        self.follow_up(*realm, name);
                    }
                }
                Reply::of(&AbandonOut { abandoned })
            }
            "Lineage" => {
                let LineageIn { name, limit, mock } = call.parameters()?;
                let limit = usize::try_from(limit.unwrap_or(EVENTS).min(EVENTS_MAX)).unwrap_or(0);
                let own = self.realm(&call, mock).await;
                let asked = name.clone();
                let events_of = move |books: &Books| books.journal.events(&asked, limit);
                let mut events = self.consult(own, events_of.clone()).await.map_err(unanswered)?;
                // A mock that has made none of this name reads the real one.
                if events.is_empty() && own == Realm::Mock {
                    events = self.consult(Realm::Real, events_of).await.map_err(unanswered)?;
                }
                if events.is_empty() {
                    self.seen(own, &name).await?;
                }
                Reply::of(&LineageOut { events })
            }
            "Sample" => self.sample(&call).await,
            "Resync" => {
                let ResyncIn { name, mock, runs, accept_damage } = call.parameters()?;
                let realm = self.changed(self.realm_to_change(&call, mock).await?, &name).await?;
                let out = self.resync(realm, name.clone(), runs, accept_damage == Some(true)).await?;
                self.show(realm, &name).await;
                Reply::of(&out)
            }
            "ResyncMissing" => {
                let RealmIn { mock } = call.parameters()?;
                let realm = self.realm_to_change(&call, mock).await?;
                let out = self.resync_missing(realm).await?;
                for dataset in &out.resynced {
                    self.show(realm, &dataset.name).await;
                }
                Reply::of(&out)
            }
            "Adopt" => self.adopt(&call).await,
            "Watch" => self.watch(&call).await,
            _ => self.storage(&call).await,
        }
    }
}

fn held(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of a dataset's next generation, and the objects of the present one.
type NextGeneration = (u64, Vec<Object>);

/// What runs have left that were given up, or began long ago and were never committed, in words.
fn left_in_words(unfinished: &[UnfinishedRun]) -> Option<String> {
    let long_ago_ms = brahman_card::clock::now_ms().saturating_sub(u64::try_from(ORPHAN_AGE.as_millis()).unwrap_or(u64::MAX));
    let is_left = |run: &&UnfinishedRun| run.given_up || run.since_ms.is_none_or(|at_ms| at_ms < long_ago_ms);
    let left: Vec<&UnfinishedRun> = unfinished.iter().filter(is_left).collect();
    let first = left.iter().min_by_key(|run| run.since_ms)?;
    let bytes: u64 = left.iter().map(|run| run.bytes).sum();
    let of = format!("run {} of dataset {}", first.run_id, first.dataset);
    let runs = if left.len() == 1 { of } else { format!("{} runs, the first is {of}", left.len()) };
    Some(format!("{bytes} bytes by {runs}; `brahman buckets scrub` lists them"))
}

/// Where buckets lie, how often a run has begun, and what a dataset's next generation follows.
fn known_of(books: &Books, name: &str, run_id: &str) -> Result<(Roots, u64, NextGeneration), BookError> {
    Ok((books.roots().clone(), books.journal.lives(run_id), books.next(name)?))
}

/// That the thread which was to look something up has ended without an answer.
fn unanswered(error: io::Error) -> Fault {
    Fault::internal(chain(&error))
}

fn fault(error: BookError) -> Fault {
    let message = chain(&error);
    match error {
        BookError::NoSuchDataset(name) => Fault::of(&error::NoSuchDataset { name }, false, message),
        BookError::BadName(_) | BookError::Reserved(_) => Fault::invalid_parameter("name", message),
        BookError::MadeByMock { name, maker } => Fault::of(&error::MadeByMock { name, maker }, false, message),
        BookError::Incomplete { name, keys, rows, expected_rows, .. } => {
            Fault::of(&error::Incomplete { name, keys, rows, expected_rows }, false, message)
        }
        BookError::BadObject { key, .. } | BookError::Unreadable { key, .. } => Fault::of(&error::BadObject { key }, false, message),
        BookError::NoSuchBucket { name, .. } => Fault::of(&error::NoSuchBucket { name }, false, message),
        BookError::GivenUp(run_id) => Fault::of(&error::GivenUp { run_id }, false, message),
        BookError::Moved { name, .. } => Fault::of(&error::Moved { name }, true, message),
        BookError::Exists(name) => Fault::of(&error::Exists { name }, false, message),
        BookError::InUse { name, indexes } => Fault::of(&error::InUse { name, indexes }, false, message),
        BookError::Pinned { name, pins } => Fault::of(&error::Pinned { name, pins }, false, message),
        BookError::TooManyPins { .. } => Fault::invalid_parameter("pin", message),
        BookError::NoSuchGeneration { name, generation } => Fault::of(&error::NoSuchGeneration { name, generation }, false, message),
        BookError::Damaged { name, .. } => Fault::of(&error::Damaged { name }, false, message),
        BookError::Io { .. } => Fault::internal(message),
    }
}
