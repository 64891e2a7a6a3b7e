//! `org.brahman.Catalog` and, in [`storage`], `org.brahman.Storage`. [`remote`] puts datasets into S3, [`rescue`] brings objects back.

mod remote;
mod rescue;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brahman_card::interface::catalog::{
    self, AbandonIn, AbandonOut, ClearStaleIn, ClearStaleOut, CommitIn, CommitOut, LineageIn, LineageOut, ListOut, LocationIn, MarkStaleIn,
    NameIn, NotResynced, ResyncMissingOut, ResyncOut, Resynced, SampleIn, SampleOut, WatchOut,
};
use brahman_card::interface::storage as storage_interface;
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, Reply, Service};
use brahman_storage::buckets::Buckets;
use tokio::sync::watch;

use crate::books::{BookError, Books, Roots};
use crate::footers;

/// Events of a dataset told unless more are asked for, and at most.
const EVENTS: u64 = 100;
const EVENTS_MAX: u64 = 10_000;
/// Rows of a sample unless more are asked for, and at most: a look, not an export.
const SAMPLE_ROWS: u64 = 5;
const SAMPLE_ROWS_MAX: u64 = 100;

/// The service.
#[derive(Debug)]
pub struct CatalogService {
    books: Arc<Mutex<Books>>,
    generations: watch::Sender<BTreeMap<String, u64>>,
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
        let (mut books, buckets, node) = (Books::open(state)?, Buckets::open(state)?, remote::node(state)?);
        books.set_roots(Roots::new(buckets.roots()));
        let generations = watch::channel(books.generations()).0;
        Ok(Self { books: Arc::new(Mutex::new(books)), generations, buckets, node, copying: tokio::sync::Mutex::default() })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn commit(self: &Arc<Self>, mut commit: CommitIn) -> Result<CommitOut, Fault> {
        let name = commit.name.clone();
        commit.objects.iter_mut().for_each(|object| object.path = None);
        let (roots, (_, known)) = {
            let books = self.books();
            (books.roots().clone(), books.next(&name).map_err(fault)?)
        };
        // Hashing what may be gigabytes, and fsync, on threads of their own.
        let verified = tokio::task::spawn_blocking(move || roots.verify(&commit.objects, &known).map(|()| commit));
        let commit = verified.await.map_err(|e| Fault::internal(e.to_string()))?.map_err(fault)?;
        let at_least = self.put_remote(&commit).await?;
        let (generation, stale) = self.blocking(move |books| books.commit(commit, at_least)).await?;
        if let Ok(dataset) = self.books().get(&name) {
            let service = Arc::clone(self);
            tokio::spawn(async move {
                service.copy_to_rescue(dataset).await;
                service.tidy_remote(&name).await;
            });
        }
        Ok(CommitOut { generation, stale })
    }

    /// Long work on the books, on a thread of its own; whoever watches is told what came of it.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Books) -> Result<T, BookError> + Send + 'static,
    ) -> Result<T, Fault> {
        let books = Arc::clone(&self.books);
        let work = tokio::task::spawn_blocking(move || {
            let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
            let done = work(&mut books)?;
            Ok::<_, BookError>((done, books.generations()))
        });
        let (done, generations) = work.await.map_err(|e| Fault::internal(e.to_string()))?.map_err(fault)?;
        self.generations.send_replace(generations);
        Ok(done)
    }

    async fn sample(&self, ask: SampleIn) -> Result<Reply, Fault> {
        let SampleIn { name, rows } = ask;
        let dataset = self.books().get(&name).map_err(fault)?;
        let wanted = usize::try_from(rows.unwrap_or(SAMPLE_ROWS).min(SAMPLE_ROWS_MAX)).unwrap_or(1);
        let personal = dataset.pii.iter().flat_map(|report| &report.columns).filter(|c| c.status == "found" || c.status == "possible");
        let masked: BTreeSet<String> = personal.map(|c| c.column.clone()).collect();
        let roots = self.books().roots().clone();
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
        let mut changes = self.generations.subscribe();
        loop {
            let word = WatchOut { generations: changes.borrow_and_update().clone() };
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
            "List" => Reply::of(&ListOut { datasets: self.books().list() }),
            "Get" => {
                let NameIn { name } = call.parameters()?;
                Reply::of(&self.get(&name).await?)
            }
            "Location" => {
                let LocationIn { name, run_id, producer, bucket } = call.parameters()?;
                let place = self.books().location(&name, &run_id, &producer.unwrap_or_default(), bucket.as_deref());
                Reply::of(&place.map_err(fault)?)
            }
            "Commit" => Reply::of(&self.commit(call.parameters()?).await?),
            "MarkStale" => {
                let MarkStaleIn { name, index } = call.parameters()?;
                self.books().mark_stale(&name, &index).map_err(fault)?;
                Ok(Reply::empty())
            }
            "ClearStale" => {
                let ClearStaleIn { name, index, generation } = call.parameters()?;
                let cleared = self.books().clear_stale(&name, &index, generation).map_err(fault)?;
                Reply::of(&ClearStaleOut { cleared })
            }
            "Delete" => {
                let NameIn { name } = call.parameters()?;
                let generations = {
                    let mut books = self.books();
                    books.delete(&name).map_err(fault)?;
                    books.generations()
                };
                self.generations.send_replace(generations);
                tokio::spawn(async move { self.tidy_remote(&name).await });
                Ok(Reply::empty())
            }
            "Abandon" => {
                let AbandonIn { run_id, producer, reason, cancelled } = call.parameters()?;
                if run_id.is_some() == producer.is_some() {
                    return Err(Fault::invalid_parameter("run_id, producer", "expected exactly one of them"));
                }
                let mut books = self.books();
                let done = books.journal.abandon(run_id.as_deref(), producer.as_deref(), &reason, cancelled == Some(true));
                Reply::of(&AbandonOut { abandoned: done.map_err(|e| Fault::internal(format!("the lineage's journal: {e}")))? })
            }
            "Lineage" => {
                let LineageIn { name, limit } = call.parameters()?;
                let limit = limit.unwrap_or(EVENTS).min(EVENTS_MAX);
                let events = self.books().journal.events(&name, usize::try_from(limit).unwrap_or(0));
                if events.is_empty() {
                    self.books().get(&name).map_err(fault)?;
                }
                Reply::of(&LineageOut { events })
            }
            "Sample" => self.sample(call.parameters()?).await,
            "Resync" => {
                let NameIn { name } = call.parameters()?;
                let done = self.blocking(move |books| books.resync(&name)).await?;
                let dataset = done.dataset;
                Reply::of(&ResyncOut { generation: dataset.generation, rows: dataset.rows, changed: done.changed, notes: done.notes })
            }
            "ResyncMissing" => {
                let (resynced, failed) = self.blocking(|books| Ok(resync_missing(books))).await?;
                Reply::of(&ResyncMissingOut { resynced, failed })
            }
            "Watch" => self.watch(&call).await,
            _ => self.storage(&call).await,
        }
    }
}

fn resync_missing(books: &mut Books) -> (Vec<Resynced>, Vec<NotResynced>) {
    let (mut resynced, mut failed) = (Vec::new(), Vec::new());
    for name in books.lost() {
        match books.resync(&name) {
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
        BookError::BadName(_) => Fault::invalid_parameter("name", message),
        BookError::BadObject { key, .. } => Fault::new("org.brahman.Catalog.BadObject", false, message).with("key", key),
        BookError::NoSuchBucket { name, .. } => Fault::new("org.brahman.Catalog.NoSuchBucket", false, message).with("name", name),
        BookError::GivenUp(run_id) => Fault::new("org.brahman.Catalog.GivenUp", false, message).with("run_id", run_id),
        BookError::Moved { name, .. } => Fault::new("org.brahman.Catalog.Moved", true, message).with("name", name),
        BookError::Damaged { name, .. } => Fault::new("org.brahman.Catalog.Damaged", false, message).with("name", name),
        BookError::Io { .. } => Fault::internal(message),
    }
}
