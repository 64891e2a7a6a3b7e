//! `org.brahman.Catalog` and, in [`storage`] and [`objects`], `org.brahman.Storage`. [`realm`] tells mocks from others, [`remote`] puts
//! datasets into S3, [`rescue`] brings objects back.

mod objects;
mod realm;
mod remote;
mod rescue;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brahman_card::interface::catalog::{
    self, AbandonIn, AbandonOut, ClearStaleIn, ClearStaleOut, CommitIn, CommitOut, DeleteOut, LineageIn, LineageOut, LocationIn,
    MarkStaleIn, NameIn, NotResynced, RealmIn, ResyncIn, ResyncMissingOut, ResyncOut, Resynced, SampleIn, SampleOut, WatchOut,
};
use brahman_card::interface::storage as storage_interface;
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, Reply, Service};
use brahman_storage::buckets::Buckets;
use tokio::sync::watch;

use crate::books::resync::Resync;
use crate::books::{BookError, Books, Head, Roots};
use crate::footers;
use realm::{Contexts, Realm};

/// Events of a dataset told unless more are asked for, and at most.
const EVENTS: u64 = 100;
const EVENTS_MAX: u64 = 10_000;
/// Rows of a sample unless more are asked for, and at most: a look, not an export.
const SAMPLE_ROWS: u64 = 5;
const SAMPLE_ROWS_MAX: u64 = 100;

/// Present generations: the real ones', the mocks'.
#[derive(Clone, Debug, Default)]
struct Heads {
    real: BTreeMap<String, Head>,
    mock: BTreeMap<String, Head>,
}

/// The service.
#[derive(Debug)]
pub struct CatalogService {
    books: Arc<Mutex<Books>>,
    /// What mocks make lies apart.
    mocks: Arc<Mutex<Books>>,
    /// Where that is.
    apart: PathBuf,
    heads: watch::Sender<Heads>,
    contexts: Contexts,
    buckets: Buckets,
    /// By which this catalog is known in buckets.
    node: String,
    /// Held while copies are made.
    copying: tokio::sync::Mutex<()>,
}

impl CatalogService {
    /// The service of a state directory.
    ///
    /// # Errors
    /// If the books or the buckets cannot be opened.
    pub fn open(state: &Path) -> io::Result<Self> {
        let apart = state.join("mock");
        let (books, buckets, node) = (Books::open(state)?, Buckets::open(state)?, remote::node(state)?);
        let mocks = Books::open(&apart)?.for_mocks();
        let (books, mocks) = (Arc::new(Mutex::new(books)), Arc::new(Mutex::new(mocks)));
        let (heads, contexts, copying) = (watch::channel(Heads::default()).0, Contexts::default(), tokio::sync::Mutex::default());
        let service = Self { books, mocks, apart, heads, contexts, buckets, node, copying };
        for (realm, roots) in service.roots() {
            service.of(realm).set_roots(roots);
        }
        service.tell();
        Ok(service)
    }

    /// The same, which asks this mesh's broker who answers in which context.
    #[must_use]
    pub fn on_mesh(self, mesh: &Path) -> Self {
        Self { contexts: Contexts::of(mesh.to_owned()), ..self }
    }

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
        Ok(())
    }

    /// Tells whoever watches what the generations are now.
    fn tell(&self) {
        let real = self.books().heads();
        let mock = self.of(Realm::Mock).heads();
        self.heads.send_replace(Heads { real, mock });
    }

    async fn commit(self: &Arc<Self>, mut commit: CommitIn) -> Result<CommitOut, Fault> {
        let (name, realm) = (commit.name.clone(), Realm::of_writer(commit.mock));
        commit.objects.iter_mut().for_each(|object| object.path = None);
        // Its answer was lost: what it would be checked against may be another by now.
        let said = self.of(realm).said_again(&name, &commit.run_id).map_err(fault)?;
        if let Some((generation, stale)) = said {
            self.put_aside(realm, name);
            return Ok(CommitOut { generation, stale });
        }
        let (roots, (_, known)) = {
            let books = self.of(realm);
            (books.roots().clone(), books.next(&name).map_err(fault)?)
        };
        // Hashing what may be gigabytes, and fsync, on threads of their own.
        let verified = tokio::task::spawn_blocking(move || roots.verify(&commit.objects, &known).map(|()| commit));
        let commit = verified.await.map_err(|e| Fault::internal(e.to_string()))?.map_err(fault)?;
        let at_least = if realm == Realm::Real { self.put_remote(&commit).await? } else { 0 };
        let (generation, stale) = self.blocking(realm, move |books| books.commit(commit, at_least)).await?;
        self.put_aside(realm, name);
        Ok(CommitOut { generation, stale })
    }

    /// Copies what a real dataset is made of now, and removes copies of what it was; nobody waits for that.
    fn put_aside(self: &Arc<Self>, realm: Realm, name: String) {
        if realm == Realm::Mock {
            return;
        }
        let dataset = self.books().get(&name);
        if let Ok(dataset) = dataset {
            let service = Arc::clone(self);
            tokio::spawn(async move {
                service.copy_to_rescue(dataset).await;
                service.tidy_remote(&name).await;
            });
        }
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
        work.await.map_err(|e| Fault::internal(e.to_string()))?.map_err(fault)
    }

    /// The same, with the books held; whoever watches is told what came of it.
    async fn blocking<T: Send + 'static>(
        &self,
        realm: Realm,
        work: impl FnOnce(&mut Books) -> Result<T, BookError> + Send + 'static,
    ) -> Result<T, Fault> {
        let done = self.with(realm, move |books| work(&mut held(books))).await?;
        self.tell();
        Ok(done)
    }

    async fn sample(&self, call: &Call) -> Result<Reply, Fault> {
        let SampleIn { name, rows, mock } = call.parameters()?;
        let (realm, dataset) = self.seen(self.realm(call, mock).await, &name)?;
        let wanted = usize::try_from(rows.unwrap_or(SAMPLE_ROWS).min(SAMPLE_ROWS_MAX)).unwrap_or(1);
        let personal = dataset.pii.iter().flat_map(|report| &report.columns).filter(|c| c.status == "found" || c.status == "possible");
        let masked: BTreeSet<String> = personal.map(|c| c.column.clone()).collect();
        let roots = self.of(realm).roots().clone();
        let work = tokio::task::spawn_blocking(move || {
            let (mut out, mut notes) = (Vec::new(), Vec::new());
            for object in &dataset.objects {
                let path = roots.path(object)?;
                let rows = footers::sample(&path, wanted - out.len(), &masked, &mut notes);
                out.extend(rows.map_err(|e| BookError::BadObject { key: object.key.clone(), why: e.to_string() })?);
                if out.len() >= wanted {
                    break;
                }
            }
            if dataset.pii.is_none() {
                notes.push("nobody has looked for personal data: nothing is masked".to_owned());
            }
            Ok::<_, BookError>(SampleOut { rows: out, masked: masked.into_iter().collect(), notes })
        });
        Reply::of(&work.await.map_err(|e| Fault::internal(e.to_string()))?.map_err(fault)?)
    }

    async fn watch(&self, call: &Call) -> Result<Reply, Fault> {
        let RealmIn { mock } = call.parameters()?;
        let mut changes = self.heads.subscribe();
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

impl Service for CatalogService {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&catalog::INTERFACE, &storage_interface::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        match call.method() {
            "List" => {
                let RealmIn { mock } = call.parameters()?;
                Reply::of(&self.list(self.realm(&call, mock).await))
            }
            "Get" => {
                let NameIn { name, mock } = call.parameters()?;
                Reply::of(&self.get(self.realm(&call, mock).await, &name).await?)
            }
            "Location" => {
                let LocationIn { name, run_id, producer, bucket, mock } = call.parameters()?;
                let place =
                    move |books: &Mutex<Books>| held(books).location(&name, &run_id, &producer.unwrap_or_default(), bucket.as_deref());
                Reply::of(&self.with(Realm::of_writer(mock), place).await?)
            }
            "Commit" => Reply::of(&self.commit(call.parameters()?).await?),
            "MarkStale" => {
                let MarkStaleIn { name, index, run_id, mock } = call.parameters()?;
                // A mock's index is not noted in a real dataset.
                let own = self.realm_to_change(&call, mock).await?;
                let (realm, _) = self.seen(own, &name)?;
                if own == realm {
                    self.with(own, move |books| held(books).mark_stale(&name, &index, run_id.as_deref())).await?;
                }
                Ok(Reply::empty())
            }
            "ClearStale" => {
                let ClearStaleIn { name, index, generation, run_id, mock } = call.parameters()?;
                let own = self.realm_to_change(&call, mock).await?;
                let (realm, dataset) = self.seen(own, &name)?;
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
                let realm = self.changed(self.realm_to_change(&call, mock).await?, &name)?;
                let deleted = name.clone();
                let notes = self.blocking(realm, move |books| books.delete(&deleted)).await?;
                if realm == Realm::Real {
                    tokio::spawn(async move { self.tidy_remote(&name).await });
                }
                Reply::of(&DeleteOut { notes: Some(notes).filter(|notes| !notes.is_empty()) })
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
                        let done = books.journal.abandon(run_id.as_deref(), producer.as_deref(), &reason, cancelled == Some(true));
                        if done.is_ok() {
                            books.tidy_orphans();
                        }
                        Ok(done)
                    };
                    let done = self.with(*realm, abandon).await?;
                    abandoned += done.map_err(|e| Fault::internal(format!("the lineage's journal: {e}")))?;
                }
                Reply::of(&AbandonOut { abandoned })
            }
            "Lineage" => {
                let LineageIn { name, limit, mock } = call.parameters()?;
                let limit = usize::try_from(limit.unwrap_or(EVENTS).min(EVENTS_MAX)).unwrap_or(0);
                let own = self.realm(&call, mock).await;
                let mut events = self.of(own).journal.events(&name, limit);
                // A mock that has made none of this name reads the real one.
                if events.is_empty() && own == Realm::Mock {
                    events = self.books().journal.events(&name, limit);
                }
                if events.is_empty() {
                    self.seen(own, &name)?;
                }
                Reply::of(&LineageOut { events })
            }
            "Sample" => self.sample(&call).await,
            "Resync" => {
                let ResyncIn { name, mock, runs } = call.parameters()?;
                let realm = self.changed(self.realm_to_change(&call, mock).await?, &name)?;
                let mut mended = if realm == Realm::Real { self.mend(&name).await } else { Vec::new() };
                let done = self.with(realm, move |books| resync(books, &name, runs.as_deref())).await?;
                self.tell();
                let (dataset, changed) = (done.dataset, done.changed);
                mended.extend(done.notes);
                Reply::of(&ResyncOut { generation: dataset.generation, rows: dataset.rows, changed, notes: mended })
            }
            "ResyncMissing" => {
                let RealmIn { mock } = call.parameters()?;
                let realm = self.realm_to_change(&call, mock).await?;
                let (resynced, failed) = self.with(realm, |books| Ok(resync_missing(books))).await?;
                self.tell();
                Reply::of(&ResyncMissingOut { resynced, failed })
            }
            "Watch" => self.watch(&call).await,
            _ => self.storage(&call).await,
        }
    }
}

fn held(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a dataset's objects anew. The books are held before and after that, not while all of them are read.
fn resync(books: &Mutex<Books>, name: &str, runs: Option<&[String]>) -> Result<Resync, BookError> {
    let looking = held(books).look(name)?;
    let findings = looking.read(runs)?;
    held(books).settle(findings)
}

fn resync_missing(books: &Mutex<Books>) -> (Vec<Resynced>, Vec<NotResynced>) {
    let (mut resynced, mut failed) = (Vec::new(), Vec::new());
    let lost = held(books).lost();
    for name in lost {
        match resync(books, &name, None) {
            Ok(done) => resynced.push(Resynced { name, generation: done.dataset.generation, rows: done.dataset.rows }),
            Err(error) => failed.push(NotResynced { name, reason: error.to_string() }),
        }
    }
    (resynced, failed)
}

fn fault(error: BookError) -> Fault {
    let message = error.to_string();
    match error {
        BookError::NoSuchDataset(name) => Fault::new("org.brahman.Catalog.NoSuchDataset", false, message).with("name", name),
        BookError::BadName(_) | BookError::Reserved(_) => Fault::invalid_parameter("name", message),
        BookError::MadeByMock { name, maker } => {
            Fault::new("org.brahman.Catalog.MadeByMock", false, message).with("name", name).with("maker", maker)
        }
        BookError::Incomplete { name, keys, rows, expected_rows, .. } => {
            let fault = Fault::new("org.brahman.Catalog.Incomplete", false, message).with("name", name).with("keys", keys);
            fault.with("rows", rows).with("expected_rows", expected_rows)
        }
        BookError::BadObject { key, .. } => Fault::new("org.brahman.Catalog.BadObject", false, message).with("key", key),
        BookError::NoSuchBucket { name, .. } => Fault::new("org.brahman.Catalog.NoSuchBucket", false, message).with("name", name),
        BookError::GivenUp(run_id) => Fault::new("org.brahman.Catalog.GivenUp", false, message).with("run_id", run_id),
        BookError::Moved { name, .. } => Fault::new("org.brahman.Catalog.Moved", true, message).with("name", name),
        BookError::Damaged { name, .. } => Fault::new("org.brahman.Catalog.Damaged", false, message).with("name", name),
        BookError::Io { .. } => Fault::internal(message),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use brahman_card::interface::catalog::{LocationOut, Object};

    use super::*;

    #[test]
    fn while_objects_are_read_anew_nobody_waits_for_the_books() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut books = Books::open(state.path()).expect("open");
        let LocationOut { key_prefix, path, .. } = books.location("d", "r", "test", None).expect("a place");
        let pipe = Path::new(&path).join("part-0.parquet");
        // What is opened to be read waits until somebody writes.
        assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
        let object = Object {
            bucket: "primary".into(),
            key: format!("{key_prefix}/part-0.parquet"),
            url: String::new(),
            rows: 1,
            bytes: 1,
            sha256: String::new(),
            path: None,
        };
        let commit = CommitIn { name: "d".into(), run_id: "r".into(), objects: vec![object], ..CommitIn::default() };
        books.commit(commit, 0).expect("committed");
        let books = Arc::new(Mutex::new(books));
        let shared = Arc::clone(&books);
        let reading = std::thread::spawn(move || resync(&shared, "d", None).map(drop));
        std::thread::sleep(Duration::from_millis(200));
        let since = Instant::now();
        while books.try_lock().is_err() {
            assert!(since.elapsed() < Duration::from_secs(10), "the books are held while an object is read");
            std::thread::yield_now();
        }
        assert!(!reading.is_finished(), "it is still being read");
        drop(std::fs::File::options().write(true).open(&pipe).expect("opened"));
        let refused = reading.join().expect("it ends").expect_err("a pipe is no Parquet file");
        assert!(matches!(refused, BookError::BadObject { .. }), "{refused}");
    }
}
