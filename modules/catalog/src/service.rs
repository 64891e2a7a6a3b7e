//! `org.brahman.Catalog`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brahman_card::interface::catalog::{
    self, ClearStaleIn, ClearStaleOut, CommitIn, CommitOut, GetOut, ListOut, LocationIn, LocationOut, MarkStaleIn, NameIn, WatchOut,
};
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, Reply, Service};
use tokio::sync::watch;

use crate::books::{BookError, Books};

/// The service.
#[derive(Debug)]
pub struct CatalogService {
    books: Arc<Mutex<Books>>,
    generations: watch::Sender<BTreeMap<String, u64>>,
}

impl CatalogService {
    /// A service for these books.
    #[must_use]
    pub fn new(books: Books) -> Self {
        let generations = watch::channel(books.generations()).0;
        Self { books: Arc::new(Mutex::new(books)), generations }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn commit(&self, commit: CommitIn) -> Result<CommitOut, Fault> {
        let books = Arc::clone(&self.books);
        // Hashing what may be gigabytes, and fsync, on a thread of their own.
        let work = tokio::task::spawn_blocking(move || {
            let bucket = books.lock().unwrap_or_else(PoisonError::into_inner).bucket().to_owned();
            Books::verify(&bucket, &commit.objects)?;
            let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
            let done = books.commit(commit)?;
            Ok::<_, BookError>((done, books.generations()))
        });
        let ((generation, stale), generations) = work.await.map_err(|e| Fault::internal(e.to_string()))?.map_err(fault)?;
        self.generations.send_replace(generations);
        Ok(CommitOut { generation, stale })
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
        &[&catalog::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        match call.method() {
            "List" => Reply::of(&ListOut { datasets: self.books().list() }),
            "Get" => {
                let NameIn { name } = call.parameters()?;
                Reply::of(&GetOut { dataset: self.books().get(&name).map_err(fault)? })
            }
            "Location" => {
                let LocationIn { name, run_id } = call.parameters()?;
                let (key_prefix, path) = self.books().location(&name, &run_id).map_err(fault)?;
                Reply::of(&LocationOut { bucket: "primary".into(), key_prefix, path: path.display().to_string() })
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
                Ok(Reply::empty())
            }
            "Watch" => self.watch(&call).await,
            _ => Err(call.unknown()),
        }
    }
}

fn fault(error: BookError) -> Fault {
    let message = error.to_string();
    match error {
        BookError::NoSuchDataset(name) => Fault::new("org.brahman.Catalog.NoSuchDataset", false, message).with("name", name),
        BookError::BadName(_) => Fault::invalid_parameter("name", message),
        BookError::BadObject { key, .. } => Fault::new("org.brahman.Catalog.BadObject", false, message).with("key", key),
        BookError::Damaged { name, .. } => Fault::new("org.brahman.Catalog.Damaged", false, message).with("name", name),
        BookError::Io { .. } => Fault::internal(message),
    }
}
