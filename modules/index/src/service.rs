//! `org.brahman.Index`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::interface::Empty;
use brahman_card::interface::catalog::{self, ClearStaleIn, ClearStaleOut, GetOut, MarkStaleIn};
use brahman_card::interface::index::{
    self, CreateIn, CreateOut, DeleteOut, Description, Elapsed, Hit, ListOut, NameIn, RefreshOut, SearchIn, SearchOut, StatsOut,
};
use brahman_card::{Fault, Interface};
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{Call, CallOptions, Client, ClientError, Reply, Service};
use brahman_storage::atomic;

use crate::chunk::{Chunker, OVERLAP_DEFAULT, SIZE_DEFAULT};
use crate::embedder::{self, Embedder};
use crate::exact;
use crate::generation::{self, Generation, Manifest};
use crate::refresh::{io_fault, plan};

/// Texts sent to the embedder at once: a few batches of its own.
const EMBED_BATCH: usize = 256;
/// Most hits one query may ask for.
const K_MAX: u64 = 10_000;
/// Most queries in one call.
const QUERIES_MAX: usize = 10_000;

/// One index.
#[derive(Debug)]
struct Index {
    parameters: CreateIn,
    folder: PathBuf,
    /// Readers clone the `Arc` and keep a whole generation.
    current: Option<Arc<Generation>>,
    /// Why it could not be loaded.
    damaged: Option<String>,
    refreshing: bool,
}

/// The service.
#[derive(Debug)]
pub struct IndexService {
    folder: PathBuf,
    client: Client,
    indexes: Mutex<BTreeMap<String, Index>>,
    datasets: Mutex<BTreeMap<String, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl IndexService {
    /// Opens every index below a folder.
    ///
    /// # Errors
    /// If the folder cannot be made or listed. A damaged index is kept apart and said when asked for.
    pub fn open(folder: &Path, client: Client) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut indexes = BTreeMap::new();
        for entry in fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            let Ok(text) = fs::read(path.join("index.json")) else { continue };
            let Ok(parameters) = serde_json::from_slice::<CreateIn>(&text) else {
                tracing::error!(index = %path.display(), "index.json is damaged; the index is left alone");
                continue;
            };
            let (current, damaged) = match generation::load(&path) {
                Ok(loaded) => (loaded.map(Arc::new), None),
                Err(error) => {
                    tracing::error!(index = parameters.name, "{error}");
                    (None, Some(error.to_string()))
                }
            };
            indexes.insert(parameters.name.clone(), Index { parameters, folder: path, current, damaged, refreshing: false });
        }
        Ok(Self { folder: folder.to_owned(), client, indexes: Mutex::new(indexes), datasets: Mutex::default() })
    }

    /// Follows the catalog for ever, so that a reply can say that the dataset has moved on.
    pub async fn follow_catalog(self: Arc<Self>) {
        loop {
            let following = async {
                let mut connection = self.client.open(catalog::INTERFACE.name, &CallOptions::default()).await?;
                connection.send(&encode_call("org.brahman.Catalog.Watch", &Empty {}, &CallOptions::default(), true, false)?).await?;
                loop {
                    let word: catalog::WatchOut = connection.receive().await?.typed()?.value;
                    *lock(&self.datasets) = word.generations;
                }
            };
            let ended: Result<(), ClientError> = following.await;
            tracing::debug!("the catalog's watch ended: {ended:?}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    fn generation(&self, name: &str) -> Result<Arc<Generation>, Fault> {
        let indexes = lock(&self.indexes);
        let index = indexes.get(name).ok_or_else(|| no_such(name))?;
        if let Some(why) = &index.damaged {
            return Err(damaged(name, why));
        }
        let empty =
            || Fault::new("org.brahman.Index.NotReady", true, format!("index `{name}` has not been refreshed yet")).with("name", name);
        index.current.clone().ok_or_else(empty)
    }

    fn describe(&self, index: &Index) -> Description {
        let p = &index.parameters;
        let manifest = index.current.as_ref().map(|g| &g.manifest);
        let dataset_generation = manifest.map_or(0, |m| m.dataset_generation);
        Description {
            name: p.name.clone(),
            dataset: p.dataset.clone(),
            id_column: p.id_column.clone(),
            text_column: p.text_column.clone(),
            chunk_size: p.chunk_size.unwrap_or(SIZE_DEFAULT as u64),
            overlap: p.overlap.unwrap_or(OVERLAP_DEFAULT as u64),
            model: manifest.map(|m| m.model.name.clone()),
            fingerprint: manifest.map(|m| m.model.fingerprint.clone()),
            dim: manifest.map(|m| m.model.dim as u64),
            generation: manifest.map_or(0, |m| m.number),
            dataset_generation,
            chunks: manifest.map_or(0, |m| m.chunks),
            docs: manifest.map_or(0, |m| m.docs),
            bytes: manifest.map_or(0, |m| m.bytes),
            stale: self.is_stale(&p.dataset, dataset_generation),
        }
    }

    fn is_stale(&self, dataset: &str, generation: u64) -> bool {
        lock(&self.datasets).get(dataset).is_some_and(|now| *now > generation)
    }

    async fn create(&self, call: &Call) -> Result<Reply, Fault> {
        let wanted: CreateIn = call.parameters()?;
        check_name(&wanted.name)?;
        sizes(&wanted)?;
        let options = CallOptions::default();
        let dataset = catalog::NameIn { name: wanted.dataset.clone() };
        let GetOut { dataset } = self.client.call("org.brahman.Catalog.Get", &dataset, &options).await?.value;
        for column in [&wanted.id_column, &wanted.text_column] {
            if !dataset.columns.iter().any(|c| c.name == *column) {
                let there: Vec<&str> = dataset.columns.iter().map(|c| c.name.as_str()).collect();
                return Err(Fault::invalid_parameter(
                    "id_column, text_column",
                    format!("dataset `{}` has no column `{column}`; it has {}", dataset.name, there.join(", ")),
                ));
            }
        }
        {
            let mut indexes = lock(&self.indexes);
            if let Some(there) = indexes.get(&wanted.name) {
                if there.parameters == wanted {
                    return Reply::of(&CreateOut { created: false });
                }
                let message = format!("index `{}` is there already with other parameters; delete it first", wanted.name);
                return Err(Fault::new("org.brahman.Index.IndexExists", false, message).with("name", wanted.name));
            }
            let folder = self.folder.join(&wanted.name);
            let text = serde_json::to_vec_pretty(&wanted).map_err(|e| Fault::internal(e.to_string()))?;
            let made = fs::create_dir_all(&folder)
                .and_then(|()| atomic::write(&folder.join("index.json"), &text))
                .and_then(|()| atomic::sync_dir(&self.folder));
            made.map_err(|e| io_fault("creating the index", &e))?;
            indexes
                .insert(wanted.name.clone(), Index { parameters: wanted.clone(), folder, current: None, damaged: None, refreshing: false });
        }
        let mark = MarkStaleIn { name: wanted.dataset, index: wanted.name };
        let _: Empty = self.client.call("org.brahman.Catalog.MarkStale", &mark, &options).await?.value;
        Reply::of(&CreateOut { created: true })
    }

    async fn refresh(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let (parameters, folder, old) = {
            let mut indexes = lock(&self.indexes);
            let index = indexes.get_mut(&name).ok_or_else(|| no_such(&name))?;
            if index.refreshing {
                return Err(
                    Fault::new("org.brahman.Index.Busy", true, format!("index `{name}` is being refreshed already")).with("name", name)
                );
            }
            index.refreshing = true;
            (index.parameters.clone(), index.folder.clone(), index.current.clone())
        };
        // Also when this future is dropped, because the caller hung up.
        let _free = Refreshing { service: self, name: &name };
        let out = self.run_refresh(call, &parameters, &folder, old).await?;
        Reply::of(&out)
    }

    async fn run_refresh(
        &self,
        call: &Call,
        parameters: &CreateIn,
        folder: &Path,
        old: Option<Arc<Generation>>,
    ) -> Result<RefreshOut, Fault> {
        let started = Instant::now();
        let options = CallOptions::default();
        let say = async |phase: &str, done: u64, of: u64| -> Result<(), Fault> {
            if call.more { call.send(&RefreshOut { phase: phase.into(), done, of, ..RefreshOut::default() }).await } else { Ok(()) }
        };
        say("read", 0, 0).await?;
        let ask = catalog::NameIn { name: parameters.dataset.clone() };
        let GetOut { dataset } = self.client.call("org.brahman.Catalog.Get", &ask, &options).await?.value;
        let (size, overlap) = sizes(parameters)?;
        let (id_column, text_column) = (parameters.id_column.clone(), parameters.text_column.clone());
        let (reading, before, own) = (dataset.clone(), old.clone(), dataset.generation);
        let planned = tokio::task::spawn_blocking(move || {
            let chunker = Chunker::new(size, overlap).map_err(|e| Fault::invalid_parameter("chunk_size", e))?;
            plan(&reading, &id_column, &text_column, &chunker, before.as_deref())
        });
        let plan = planned.await.map_err(|e| Fault::internal(e.to_string()))??;

        let mut embedder = Embedder::new(self.client.clone(), old.as_ref().map(|g| g.manifest.model.clone()));
        let of = plan.fresh.len() as u64;
        let (mut vectors, mut cached, mut truncated) = (Vec::new(), 0, 0);
        for batch in plan.fresh.chunks(EMBED_BATCH) {
            let texts: Vec<&str> = batch.iter().map(|row| row.text.as_str()).collect();
            let done = embedder.batch(&texts).await?;
            vectors.extend(done.vectors);
            cached += done.cached;
            truncated += done.truncated;
            let dim = embedder.model.as_ref().map_or(1, |m| m.dim.max(1));
            say("embed", (vectors.len() / dim) as u64, of).await?;
        }
        let unchanged = plan.is_empty() && old.as_ref().is_some_and(|g| g.manifest.dataset_generation == own);
        let mut out = RefreshOut {
            phase: "done".into(),
            done: of,
            of,
            pre_existing_docs: Some(plan.pre_existing_docs),
            dataset_docs: Some(plan.dataset_docs),
            new_docs: Some(plan.new_docs),
            changed_docs: Some(plan.changed_docs),
            removed_docs: Some(plan.removed_docs),
            new_chunks: Some(of),
            cached: Some(cached),
            truncated: Some(truncated),
            ..RefreshOut::default()
        };
        let current = match old.filter(|_| unchanged) {
            Some(old) => old,
            None => {
                say("write", 0, of).await?;
                let model = match embedder.model {
                    Some(model) => model,
                    None => embedder::current_model(&self.client).await?,
                };
                self.publish(parameters, folder, plan, vectors, model, own).await?
            }
        };
        out.total = Some(current.manifest.chunks);
        out.generation = Some(current.manifest.number);
        out.model = Some(current.manifest.model.name.clone());
        let clear = ClearStaleIn { name: parameters.dataset.clone(), index: parameters.name.clone(), generation: own };
        let cleared: ClearStaleOut = self.client.call("org.brahman.Catalog.ClearStale", &clear, &options).await?.value;
        out.stale_cleared = Some(cleared.cleared);
        out.duration_s = Some(started.elapsed().as_secs_f64());
        Ok(out)
    }

    async fn publish(
        &self,
        parameters: &CreateIn,
        folder: &Path,
        plan: crate::refresh::Plan,
        fresh: Vec<f32>,
        model: embedder::Model,
        own: u64,
    ) -> Result<Arc<Generation>, Fault> {
        let old = lock(&self.indexes).get(&parameters.name).and_then(|i| i.current.clone());
        let folder = folder.to_owned();
        let work = move || {
            let mut rows = Vec::with_capacity(plan.kept.len() + plan.fresh.len());
            let mut vectors = Vec::with_capacity(rows.capacity() * model.dim);
            for (row, at) in plan.kept {
                if let Some(old) = &old {
                    vectors.extend_from_slice(old.vector(at));
                }
                rows.push(row);
            }
            rows.extend(plan.fresh);
            vectors.extend(fresh);
            let manifest = Manifest {
                number: old.as_ref().map_or(0, |g| g.manifest.number) + 1,
                dataset_generation: own,
                model,
                chunks: rows.len() as u64,
                docs: plan.dataset_docs,
                bytes: 0,
                sha256: String::new(),
                parent: old.as_ref().map(|g| g.folder().to_owned()),
            };
            generation::publish(&folder, manifest, rows, vectors)
        };
        let done = tokio::task::spawn_blocking(work).await.map_err(|e| Fault::internal(e.to_string()))?;
        let done = Arc::new(done.map_err(|e| io_fault("writing the generation", &e))?);
        if let Some(index) = lock(&self.indexes).get_mut(&parameters.name) {
            index.current = Some(Arc::clone(&done));
            index.damaged = None;
        }
        Ok(done)
    }

    async fn search(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        let ask: SearchIn = call.parameters()?;
        let current = self.generation(&ask.index)?;
        let model = current.manifest.model.clone();
        let k = ask.k.unwrap_or(10);
        if !(1..=K_MAX).contains(&k) {
            return Err(Fault::invalid_parameter("k", format!("{k}, expected 1 to {K_MAX}")));
        }
        let (mut provider, mut truncated) = (None, None);
        let queries = match (ask.text, ask.vector, ask.vectors) {
            (Some(text), None, None) => {
                let (vector, by, cut) = embedder::query(&self.client, &model, &text).await?;
                (provider, truncated) = (by, Some(cut));
                vec![vector]
            }
            (None, Some(vector), None) => vec![vector],
            (None, None, Some(vectors)) => vectors,
            _ => return Err(Fault::invalid_parameter("text", "expected exactly one of `text`, `vector` and `vectors`")),
        };
        if queries.len() > QUERIES_MAX {
            return Err(Fault::invalid_parameter("vectors", format!("{} queries, expected at most {QUERIES_MAX}", queries.len())));
        }
        for query in &queries {
            if query.len() != model.dim {
                let got = format!("a vector of {} numbers", query.len());
                let message = format!("index `{}` holds vectors of {} ({} numbers), got {got}", ask.index, model.name, model.dim);
                return Err(Fault::new("org.brahman.Index.ModelMismatch", false, message)
                    .with("wanted", model.fingerprint)
                    .with("got", got));
            }
            if query.iter().any(|x| !x.is_finite()) {
                return Err(Fault::invalid_parameter("vector", "holds a number that is not finite"));
            }
        }
        let embedded = started.elapsed();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = usize::try_from(ask.threads.unwrap_or(cores as u64)).unwrap_or(cores).clamp(1, 64);
        let snapshot = Arc::clone(&current);
        let scan = move || -> Vec<Vec<Hit>> {
            let k = usize::try_from(k).unwrap_or(usize::MAX);
            let one = |query: &Vec<f32>| exact::search(&snapshot.vectors, snapshot.manifest.model.dim, query, k, threads);
            queries.iter().map(|query| one(query).into_iter().map(|found| hit(&snapshot, found)).collect()).collect()
        };
        let results = tokio::task::spawn_blocking(scan).await.map_err(|e| Fault::internal(e.to_string()))?;
        let total = started.elapsed();
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let dataset = lock(&self.indexes).get(&ask.index).map(|i| i.parameters.dataset.clone()).unwrap_or_default();
        Reply::of(&SearchOut {
            results,
            generation: current.manifest.number,
            engine: "exact".into(),
            model: model.name,
            provider,
            stale: self.is_stale(&dataset, current.manifest.dataset_generation),
            truncated,
            elapsed_us: Elapsed { embed: us(embedded), search: us(total - embedded), total: us(total) },
        })
    }

    fn delete(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let removed = lock(&self.indexes).remove(&name);
        if let Some(index) = &removed {
            // The parameters go first: without them the rest is not an index any more.
            let gone = fs::remove_file(index.folder.join("index.json")).and_then(|()| fs::remove_dir_all(&index.folder));
            gone.map_err(|e| io_fault("deleting the index", &e))?;
        }
        Reply::of(&DeleteOut { deleted: removed.is_some() })
    }
}

/// Marks an index free again when its refresh ends, however it ends.
struct Refreshing<'a> {
    service: &'a IndexService,
    name: &'a str,
}

impl Drop for Refreshing<'_> {
    fn drop(&mut self) {
        if let Some(index) = lock(&self.service.indexes).get_mut(self.name) {
            index.refreshing = false;
        }
    }
}

impl Service for IndexService {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&index::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        match call.method() {
            "Create" => self.create(&call).await,
            "Refresh" => self.refresh(&call).await,
            "Search" => self.search(&call).await,
            "List" => Reply::of(&ListOut { indexes: lock(&self.indexes).values().map(|i| self.describe(i)).collect() }),
            "Stats" => {
                let NameIn { name } = call.parameters()?;
                let indexes = lock(&self.indexes);
                let index = indexes.get(&name).ok_or_else(|| no_such(&name))?;
                if let Some(why) = &index.damaged {
                    return Err(damaged(&name, why));
                }
                Reply::of(&StatsOut { index: self.describe(index) })
            }
            "Delete" => self.delete(&call),
            _ => Err(call.unknown()),
        }
    }
}

fn hit(generation: &Generation, found: exact::Found) -> Hit {
    let row = &generation.rows[found.row];
    Hit {
        doc_id: row.doc_id.to_string(),
        chunk: row.chunk.into(),
        start: row.start,
        end: row.start + row.text.len() as u64,
        line: row.line,
        text: row.text.clone(),
        score: found.score,
    }
}

fn sizes(parameters: &CreateIn) -> Result<(usize, usize), Fault> {
    let number = |n: Option<u64>, default: usize| n.map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let (size, overlap) = (number(parameters.chunk_size, SIZE_DEFAULT), number(parameters.overlap, OVERLAP_DEFAULT));
    Chunker::new(size, overlap).map_err(|e| Fault::invalid_parameter("chunk_size", e))?;
    Ok((size, overlap))
}

fn check_name(name: &str) -> Result<(), Fault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=128).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.') {
        return Ok(());
    }
    Err(Fault::invalid_parameter("name", format!("`{name}`: expected 1 to 128 of a-z A-Z 0-9 . _ - not starting with a dot")))
}

fn no_such(name: &str) -> Fault {
    Fault::new("org.brahman.Index.NoSuchIndex", false, format!("no index is called `{name}`; `brahman index list` lists them"))
        .with("name", name)
}

fn damaged(name: &str, why: &str) -> Fault {
    Fault::new("org.brahman.Index.Damaged", false, format!("index `{name}` is damaged: {why}; a refresh builds it again"))
        .with("name", name)
}
