//! `org.brahman.Index`.
//!
//! [`shelf`] holds one index and who may change it; [`search`] and [`bulk`] answer; [`refresh`] writes generations; [`trials`]
//! measures and promotes; [`places`] takes an index to another bucket; [`agent`] does so unasked, [`shadow`] checks what was promoted. This file opens the indexes, follows the catalog, and makes, describes and deletes them.

mod agent;
mod bulk;
mod places;
mod refresh;
mod search;
mod shadow;
mod shelf;
mod trials;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brahman_card::interface::Empty;
use brahman_card::interface::catalog::{self, GetOut, MarkStaleIn};
use brahman_card::interface::index::{
    self, CreateIn, CreateOut, DeleteOut, Description, GenerationInfo, GenerationsOut, ListOut, NameIn, RollbackIn, RollbackOut, StatsOut,
};
use brahman_card::{Fault, Interface};
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{Call, CallOptions, Client, ClientError, Reply, Service};
use brahman_storage::atomic;

use crate::chunk::{Chunker, OVERLAP_DEFAULT, SIZE_DEFAULT};
use crate::engine::{self, Engine};
use crate::flat::build::Parameters;
use crate::generation::{self, Generation};
use crate::home::Home;
use crate::refresh::{io_fault, no_column, text_columns};
use crate::rescue;
use shelf::{Index, lock};

/// The engine of an index that names none.
const ENGINE_DEFAULT: &str = "flat-hnsw";

/// The service.
#[derive(Debug)]
pub struct IndexService {
    folder: PathBuf,
    client: Client,
    indexes: Mutex<BTreeMap<String, Arc<Index>>>,
    datasets: Mutex<BTreeMap<String, u64>>,
    /// One trial at a time: two would measure each other.
    trying: tokio::sync::Mutex<()>,
    /// Of an index that names none.
    engine: &'static str,
    /// Held while copies are made, and whether they are to be looked at again.
    copying: Arc<(Mutex<()>, AtomicBool)>,
    agent: agent::Agent,
}

impl IndexService {
    /// Opens every index below a folder; `settings` is the agent's file, if there is one.
    ///
    /// # Errors
    /// If the folder cannot be made or listed, or the settings make no sense. A damaged index is kept apart and said when
    /// asked for.
    pub fn open(folder: &Path, settings: &Path, client: Client) -> io::Result<Self> {
        let agent = agent::Agent::open(settings).map_err(io::Error::other)?;
        fs::create_dir_all(folder)?;
        let mut indexes = BTreeMap::new();
        for entry in fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            let Ok(text) = fs::read(path.join("index.json")) else { continue };
            let Ok(parameters) = serde_json::from_slice::<CreateIn>(&text) else {
                tracing::error!(index = %path.display(), "index.json is damaged; the index is left alone");
                continue;
            };
            indexes.insert(parameters.name.clone(), Arc::new(Index::open(&path, parameters)));
        }
        let (indexes, datasets, trying) = (Mutex::new(indexes), Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { folder: folder.to_owned(), client, indexes, datasets, trying, engine: ENGINE_DEFAULT, copying: Arc::default(), agent })
    }

    /// The same with another engine for indexes that name none.
    #[must_use]
    pub fn with_engine(self, engine: &'static str) -> Self {
        Self { engine, ..self }
    }

    /// Compares what was opened with its checksums, on a thread of its own at the lowest priority.
    pub fn verify_behind(&self) {
        let all: Vec<Arc<Index>> = lock(&self.indexes).values().cloned().collect();
        let copies = rescue::known(&self.folder);
        let verify =
            move || all.iter().for_each(|index| index.verify(copies.as_deref().map(|c| c.join(&index.parameters.name)).as_deref()));
        drop(shelf::on_own_thread(true, verify));
    }

    /// Follows the catalog for ever, so that a reply can say that the dataset has moved on.
    pub async fn follow_catalog(self: Arc<Self>) {
        loop {
            let following = async {
                let mut connection = self.client.open(catalog::INTERFACE.name, &CallOptions::default()).await?;
                self.hear_of_rescue().await;
                connection.send(&encode_call("org.brahman.Catalog.Watch", &Empty {}, &CallOptions::default(), true, false)?).await?;
                loop {
                    let word: catalog::WatchOut = connection.receive().await?.typed()?.value;
                    *lock(&self.datasets) = word.generations;
                    self.agent.moved.notify_one();
                    // New data: what was best on the old may not be.
                    if self.agent.settings.enabled {
                        let all: Vec<Arc<Index>> = lock(&self.indexes).values().cloned().collect();
                        let stale = all.iter().filter(|i| {
                            i.generation().is_some_and(|g| self.is_stale(&i.parameters.dataset, g.manifest.dataset_generation))
                        });
                        for index in stale {
                            self.agent.enqueue(&index.parameters.name);
                        }
                    }
                }
            };
            let ended: Result<(), ClientError> = following.await;
            tracing::debug!("the catalog's watch ended: {ended:?}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    fn index(&self, name: &str) -> Result<Arc<Index>, Fault> {
        lock(&self.indexes).get(name).cloned().ok_or_else(|| no_such(name))
    }

    fn is_stale(&self, dataset: &str, generation: u64) -> bool {
        lock(&self.datasets).get(dataset).is_some_and(|now| *now > generation)
    }

    fn describe(&self, index: &Index) -> Description {
        let p = &index.parameters;
        let generation = index.generation();
        let manifest = generation.as_ref().map(|g| &g.manifest);
        let dataset_generation = manifest.map_or(0, |m| m.dataset_generation);
        let graph = manifest.map_or_else(|| refresh::graph_parameters(p), |m| m.parameters);
        Description {
            name: p.name.clone(),
            dataset: p.dataset.clone(),
            id_column: p.id_column.clone(),
            text_column: text_columns(p).first().cloned(),
            vector_column: p.vector_column.clone(),
            filter_columns: p.filter_columns.clone().unwrap_or_default(),
            chunk_size: p.chunk_size.unwrap_or(SIZE_DEFAULT as u64),
            overlap: p.overlap.unwrap_or(OVERLAP_DEFAULT as u64),
            bucket: index.home.bucket.clone(),
            engine: manifest.map_or_else(|| engine(p), |m| m.engine.clone()),
            model: manifest.map(|m| m.model.name.clone()),
            fingerprint: manifest.map(|m| m.model.fingerprint.clone()),
            dim: manifest.map(|m| m.model.dim as u64),
            generation: manifest.map_or(0, |m| m.number),
            dataset_generation,
            chunks: manifest.map_or(0, |m| m.chunks),
            docs: manifest.map_or(0, |m| m.docs),
            appended: generation.as_ref().map_or(0, |g| g.delta.rows.len() as u64),
            dead: generation.as_ref().map_or(0, |g| (g.len() as u64).saturating_sub(g.manifest.chunks)),
            bytes: manifest.map_or(0, generation::Manifest::bytes),
            memory_bytes: generation.as_ref().map_or(0, |g| g.memory_bytes()),
            m: graph.m as u64,
            ef_construction: graph.ef_construction as u64,
            ef_search: manifest.map_or_else(|| refresh::ef_search(p), |m| m.ef_search) as u64,
            stale: self.is_stale(&p.dataset, dataset_generation),
            degraded: index.degraded(),
            busy: index.busy().map(str::to_owned),
            shadow: index.shadow_info(),
        }
    }

    async fn create(&self, call: &Call) -> Result<Reply, Fault> {
        let mut wanted: CreateIn = call.parameters()?;
        if self.engine != ENGINE_DEFAULT {
            wanted.engine.get_or_insert_with(|| self.engine.to_owned());
        }
        check_name(&wanted.name)?;
        check(&wanted)?;
        let options = CallOptions::default();
        let dataset = catalog::NameIn { name: wanted.dataset.clone() };
        let GetOut { dataset, .. } = self.client.call("org.brahman.Catalog.Get", &dataset, &options).await?.value;
        let filters = wanted.filter_columns.clone().unwrap_or_default();
        let named = text_columns(&wanted).into_iter().chain(wanted.vector_column.clone()).chain(filters);
        for column in std::iter::once(wanted.id_column.clone()).chain(named) {
            if !dataset.columns.iter().any(|c| c.name == column) {
                let there: Vec<&str> = dataset.columns.iter().map(|c| c.name.as_str()).collect();
                return Err(no_column(&dataset.name, &column, &there));
            }
        }
        let bucket = wanted.bucket.clone().filter(|bucket| bucket != "primary");
        let place = match &bucket {
            Some(bucket) => Some((bucket, self.place(bucket, &wanted.name).await?)),
            None => None,
        };
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
                .and_then(|()| place.map_or(Ok(()), |(bucket, path)| Home::make(&folder, bucket, &path).map(drop)))
                .and_then(|()| atomic::write(&folder.join("index.json"), &text))
                .and_then(|()| atomic::sync_dir(&self.folder));
            made.map_err(|e| io_fault("creating the index", &e))?;
            indexes.insert(wanted.name.clone(), Arc::new(Index::open(&folder, wanted.clone())));
        }
        let mark = MarkStaleIn { name: wanted.dataset, index: wanted.name };
        let _: Empty = self.client.call("org.brahman.Catalog.MarkStale", &mark, &options).await?.value;
        Reply::of(&CreateOut { created: true })
    }

    async fn delete(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let Some(index) = lock(&self.indexes).get(&name).cloned() else { return Reply::of(&DeleteOut { deleted: false }) };
        // Nothing may write into a folder that is being removed.
        let claim = index.claim("deletion").await?;
        lock(&self.indexes).remove(&name);
        let stub = self.folder.join(&name);
        let home = Home::open(&stub).unwrap_or_else(|_| index.home.clone());
        home.delete(&stub).map_err(|e| io_fault("deleting the index", &e))?;
        if let Some(copies) = rescue::known(&self.folder) {
            let _ = fs::remove_dir_all(copies.join(&name));
        }
        drop(claim);
        Reply::of(&DeleteOut { deleted: true })
    }

    fn generations(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let index = self.index(&name)?;
        let answers = index.generation().map(|g| g.folder.clone());
        let info = |(folder, m): (String, generation::Manifest)| {
            let appended: u64 = m.segments.iter().map(|s| s.rows).sum();
            GenerationInfo {
                number: m.number,
                current: answers.as_ref() == Some(&folder),
                reason: m.reason.clone(),
                created_ms: m.created_ms,
                chunks: m.chunks,
                docs: m.docs,
                appended,
                dead: (m.base.as_ref().map_or(0, |b| b.rows) + appended).saturating_sub(m.chunks),
                bytes: m.bytes(),
                engine: m.engine.clone(),
                m: m.parameters.m as u64,
                ef_construction: m.parameters.ef_construction as u64,
                ef_search: m.ef_search as u64,
                measured: m.measured.clone(),
                forced: m.forced,
            }
        };
        Reply::of(&GenerationsOut { generations: index.folder.generations().into_iter().map(info).collect() })
    }

    async fn rollback(&self, call: &Call) -> Result<Reply, Fault> {
        let RollbackIn { name, generation } = call.parameters()?;
        let index = self.index(&name)?;
        let claim = index.claim("rollback").await?;
        let work = move || -> Result<RollbackOut, Fault> {
            let _claim = claim;
            let (current, _) = index.current()?;
            let wanted = match generation {
                Some(number) => load_generation(&index, number)?,
                None => {
                    let message = format!("generation {} of index `{}` has none before it", current.manifest.number, index.parameters.name);
                    let none =
                        || Fault::new("org.brahman.Index.NoSuchGeneration", false, message).with("name", index.parameters.name.clone());
                    let parent = current.manifest.parent.clone().ok_or_else(none)?;
                    index.folder.load(&parent, None).map_err(|e| io_fault("loading the generation before", &e))?
                }
            };
            let number = wanted.manifest.number;
            index.folder.point(&wanted.folder, "rollback").map_err(|e| io_fault("moving CURRENT", &e))?;
            index.answer_with(wanted);
            Ok(RollbackOut { generation: number, previous: current.manifest.number })
        };
        Reply::of(&tokio::task::spawn_blocking(work).await.map_err(|e| Fault::internal(e.to_string()))??)
    }
}

/// A generation of an index by its number.
fn load_generation(index: &Index, number: u64) -> Result<Generation, Fault> {
    let all = index.folder.generations();
    let Some((folder, _)) = all.iter().find(|(_, m)| m.number == number) else {
        let there: Vec<String> = all.iter().map(|(_, m)| m.number.to_string()).collect();
        let message = format!("index `{}` has no generation {number}; it has {}", index.parameters.name, there.join(", "));
        return Err(Fault::new("org.brahman.Index.NoSuchGeneration", false, message).with("name", index.parameters.name.clone()));
    };
    index.folder.load(folder, None).map_err(|e| io_fault("loading the generation", &e))
}

impl Service for IndexService {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&index::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        match call.method() {
            "Create" => self.create(&call).await,
            "Refresh" => self.refresh(&call).await,
            "Migrate" => self.migrate(&call).await,
            "Search" => self.search(&call).await,
            "SearchBulk" => self.search_bulk(&call),
            "Get" => self.get(&call).await,
            "List" => {
                let all: Vec<Arc<Index>> = lock(&self.indexes).values().cloned().collect();
                Reply::of(&ListOut { indexes: all.iter().map(|i| self.describe(i)).collect() })
            }
            "Stats" => {
                let NameIn { name } = call.parameters()?;
                let index = self.index(&name)?;
                // One that cannot answer at all is an error here too, unless it is only empty.
                if index.generation().is_none() && index.degraded().is_some() {
                    index.current()?;
                }
                Reply::of(&StatsOut { index: self.describe(&index) })
            }
            "Delete" => self.delete(&call).await,
            "Generations" => self.generations(&call),
            "Promote" => self.promote(&call).await,
            "Rollback" => self.rollback(&call).await,
            "Move" => self.move_index(&call).await,
            "Compact" => self.compact(&call).await,
            "Doctor" => self.doctor(&call).await,
            "EvalAutogen" => self.eval_autogen(&call).await,
            "EvalList" => self.eval_list(&call),
            "Trial" => self.trial(&call).await,
            "Trials" => self.trials(&call),
            "Best" => self.best(&call),
            "CompactTrials" => self.compact_trials(&call),
            "Autotune" => self.autotune(&call).await,
            "AgentStatus" => self.agent_status(),
            "AgentEnqueue" => self.agent_enqueue(&call),
            _ => Err(call.unknown()),
        }
    }
}

/// The engine of a name, if it can build by these parameters.
fn builder(name: &str, parameters: &Parameters) -> Result<&'static dyn Engine, Fault> {
    let engine = engine::named(name).map_err(|why| Fault::invalid_parameter("engine", why))?;
    engine.check(parameters).map_err(|(what, why)| Fault::invalid_parameter(what, why))?;
    Ok(engine)
}

fn engine(parameters: &CreateIn) -> String {
    parameters.engine.clone().unwrap_or_else(|| ENGINE_DEFAULT.into())
}

fn sizes(parameters: &CreateIn) -> Result<(usize, usize), Fault> {
    let number = |n: Option<u64>, default: usize| n.map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let (size, overlap) = (number(parameters.chunk_size, SIZE_DEFAULT), number(parameters.overlap, OVERLAP_DEFAULT));
    Chunker::new(size, overlap).map_err(|e| Fault::invalid_parameter("chunk_size", e))?;
    Ok((size, overlap))
}

/// Everything about parameters that does not depend on the dataset.
fn check(wanted: &CreateIn) -> Result<(), Fault> {
    sizes(wanted)?;
    let texts = usize::from(wanted.text_column.is_some()) + usize::from(wanted.text_columns.is_some());
    if texts > 1 || (texts == 0 && wanted.vector_column.is_none()) {
        let message = "expected text_column, text_columns or vector_column: what is to be searched";
        return Err(Fault::invalid_parameter("text_column", message));
    }
    let bounds =
        [("m", wanted.m, 2, 256), ("ef_construction", wanted.ef_construction, 4, 4096), ("ef_search", wanted.ef_search, 1, 65_536)];
    for (name, value, least, most) in bounds {
        if value.is_some_and(|n| !(least..=most).contains(&n)) {
            return Err(Fault::invalid_parameter(name, format!("{}, expected {least} to {most}", value.unwrap_or_default())));
        }
    }
    builder(&engine(wanted), &refresh::graph_parameters(wanted)).map(drop)
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
