//! `org.brahman.Index`.
//!
//! [`shelf`] holds one index and who may change it; [`search`] and [`bulk`] answer; [`refresh`] writes generations; [`doctor`] finds
//! and mends what is damaged; [`evals`] makes sets of queries, [`trials`] measures with them, [`agent`] does so unasked; [`promotion`] lets
//! the better answer, [`shadow`] checks what was promoted; [`places`] takes an index to another bucket; [`datasets`] knows what is stale,
//! [`marks`] has the catalog know it, too, [`snapshot`] copies all for a backup. This file opens the indexes, follows the catalog, and
//! makes, describes and deletes them.

mod agent;
mod bulk;
mod datasets;
mod doctor;
mod evals;
mod marks;
mod places;
mod promotion;
mod refresh;
mod search;
mod shadow;
mod shelf;
mod snapshot;
mod trials;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brahman_card::interface::catalog::{self, GetOut, MarkStaleIn};
use brahman_card::interface::index::{
    self, CreateIn, CreateOut, DeleteOut, Description, GenerationInfo, GenerationsOut, ListOut, NameIn, RollbackIn, RollbackOut, StatsOut,
    UnpinOut, WordsInfo, error,
};
use brahman_card::names::{IndexName, NameError};
use brahman_card::{Fault, Interface};
use brahman_sidecar::client::encode_method;
use brahman_sidecar::{Call, CallOptions, Client, ClientError, Reply, Scope, Service, chain};
use brahman_storage::{atomic, writable};
use serde::Deserialize;

use crate::agent::is_recall;
use crate::chunk::{Chunker, OVERLAP_DEFAULT, SIZE_DEFAULT};
use crate::cutter::{TOKENS_DEFAULT, TOKENS_RANGE};
use crate::engine::{self, Engine, ParameterError};
use crate::fusion::{Fusion, Method};
use crate::generation::{self, Generation};
use crate::home::{Home, finish_deletions};
use crate::refresh::{check_columns, folder_fault, io_fault, no_column, schema_of, text_columns};
use crate::threads::on_own_thread;
use crate::{analyser, memory, rescue, sealed, segment};
use datasets::{Datasets, Version};
use flat_hnsw::build::Parameters;
use shelf::{Index, ParametersError, lock, read_only};

/// What says that there is an index.
const PARAMETERS: &str = "index.json";
/// The engine of an index that names none.
const ENGINE_DEFAULT: &str = "flat-hnsw";

/// Methods that are refused where nothing can be written. `Doctor` is not, unless it is to repair.
const WRITING: [&str; 14] = [
    "Create",
    "Refresh",
    "Migrate",
    "Delete",
    "Promote",
    "Rollback",
    "Unpin",
    "Move",
    "Compact",
    "EvalAutogen",
    "Trial",
    "CompactTrials",
    "Autotune",
    "AgentEnqueue",
];
/// Methods that are answered at once, or, as searches, are told to the agent otherwise: it need not stop for them.
const BRIEF: [&str; 12] = [
    "Search",
    "SearchBulk",
    "Get",
    "List",
    "Stats",
    "Generations",
    "EvalList",
    "Trials",
    "Best",
    "CompactTrials",
    "AgentStatus",
    "AgentEnqueue",
];
/// Indexes named in one attribute: a person reads it.
const NAMED_MAX: usize = 3;

/// How long a start waits for the catalog's first word: it answers in milliseconds, or is on its way itself.
const CATALOG_WAIT: Duration = Duration::from_secs(2);

/// Answers the interface, over all indexes of a folder.
#[derive(Debug)]
pub struct IndexService {
    folder: PathBuf,
    client: Client,
    indexes: Mutex<BTreeMap<String, Arc<Index>>>,
    datasets: Datasets,
    /// One trial at a time: two would measure each other.
    trying: tokio::sync::Mutex<()>,
    /// Of an index that names none.
    engine: &'static str,
    /// Held while copies are made, and whether they are to be looked at again.
    copying: Arc<(Mutex<()>, AtomicBool)>,
    agent: Arc<agent::Agent>,
    /// Bytes that a refresh may take, where that is known.
    memory: Option<u64>,
    /// Whether this is the mock.
    mock: bool,
    /// What the active profile lets be named.
    scope: Scope,
}

/// The names in a call, of whichever method: those of indexes and of datasets.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CallNames {
    name: Option<String>,
    index: Option<String>,
    dataset: Option<String>,
}

impl IndexService {
    /// Opens every index below a folder; `settings` is the agent's file, if there is one.
    ///
    /// # Errors
    /// If the folder cannot be made or listed. A damaged index is kept apart and said when asked for; settings that make no sense
    /// turn the agent off; where nothing can be written indexes are searched and not changed.
    pub fn open(folder: &Path, settings: &Path, client: Client) -> io::Result<Self> {
        let agent = Arc::new(agent::Agent::open(settings));
        let there = writable::make_folder(folder)?;
        match writable::check(folder) {
            Ok(()) => {
                finish_deletions(folder);
                if let Err(error) = rescue::settle(folder) {
                    tracing::warn!("where replicas go is still recorded where an earlier version kept it: {}", chain(&error));
                }
            }
            Err(error) => tracing::error!("{}", chain(&error)),
        }
        let mut indexes = BTreeMap::new();
        let entries = there.then(|| fs::read_dir(folder)).transpose()?;
        for entry in entries.into_iter().flatten() {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let read = match fs::read(path.join(PARAMETERS)) {
                Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => continue,
                read => read.and_then(|text| sealed::from_slice::<CreateIn>(&text)),
            };
            // Its files are found by its name, and removed by it.
            if let Err(error) = name.parse::<IndexName>() {
                tracing::error!("{}: {error}; it is left alone", path.display());
                continue;
            }
            let index = match read {
                Ok(parameters) if parameters.name == name => Index::open(&path, parameters),
                Ok(parameters) => Index::unusable(&path, &name, ParametersError::OfAnother { name: parameters.name }),
                Err(error) => Index::unusable(&path, &name, error.into()),
            };
            indexes.insert(name, Arc::new(index));
        }
        agent.resume(indexes.values().flat_map(|index| lock(&index.journal).agent_ms().collect::<Vec<_>>()));
        let (indexes, datasets, trying) = (Mutex::new(indexes), Datasets::default(), tokio::sync::Mutex::default());
        let (folder, engine, copying, mock) = (folder.to_owned(), ENGINE_DEFAULT, Arc::default(), false);
        let memory = memory::limit(settings);
        let scope = Scope::open();
        Ok(Self { folder, client, indexes, datasets, trying, engine, copying, agent, memory, mock, scope })
    }

    /// The same as a mock: it reads what mocks have made, and marks nothing real.
    #[must_use]
    pub fn for_mock(self) -> Self {
        Self { mock: true, ..self }
    }

    /// The same where only what the active profile binds can be named.
    #[must_use]
    pub fn scoped(self, scope: Scope) -> Self {
        Self { scope, ..self }
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
        drop(on_own_thread("comparing files", true, verify));
    }

    /// What is to be said of the module as a whole: that nothing can be written, and what is damaged.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let mut attributes = BTreeMap::new();
        if let Err(error) = writable::check(&self.folder) {
            attributes.insert("state".to_owned(), format!("read-only: {error}"));
        }
        let all: Vec<Arc<Index>> = lock(&self.indexes).values().cloned().collect();
        let damage = |index: &Arc<Index>| {
            let journal = || {
                let journal = lock(&index.journal);
                journal.trouble().map(|error| chain(error)).or_else(|| journal.shortfall())
            };
            Some(format!("{}: {}", index.parameters.name, index.degraded().or_else(journal)?))
        };
        let damaged: Vec<String> = all.iter().filter_map(damage).collect();
        if !damaged.is_empty() {
            let more = damaged.len().saturating_sub(NAMED_MAX);
            let named = damaged[..damaged.len() - more].join("; ");
            attributes.insert("damaged".to_owned(), if more > 0 { format!("{named}; and {more} more") } else { named });
        }
        attributes
    }

    /// Waits a moment for the catalog's first word: before it nobody knows what is stale.
    pub async fn when_told(&self) {
        self.datasets.when_told(CATALOG_WAIT).await;
    }

    /// Follows the catalog for ever, so that a reply can say that the dataset has moved on.
    pub async fn follow_catalog(self: Arc<Self>) {
        loop {
            let following = async {
                let mut connection = self.client.open(catalog::INTERFACE.name, &CallOptions::default()).await?;
                self.hear_of_rescue().await;
                let ask = catalog::RealmIn { mock: Some(self.mock) };
                connection.send(&encode_method::<catalog::method::Watch>(&ask, &CallOptions::default(), true, false)?).await?;
                let mut first = true;
                loop {
                    let word: catalog::WatchOut = connection.receive().await?.typed()?.value;
                    if !first {
                        // The catalog also says it again when buckets come and go.
                        self.hear_of_rescue().await;
                    }
                    self.hear_of_datasets(word, std::mem::take(&mut first)).await;
                    self.agent.moved.notify_one();
                }
            };
            let ended: Result<(), ClientError> = following.await;
            tracing::debug!("the catalog's watch ended: {ended:?}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Asks the catalog for the runs behind the numbers of its word; without an answer the numbers alone are compared.
    async fn hear_of_datasets(&self, word: catalog::WatchOut, first: bool) {
        let ask = catalog::RealmIn { mock: Some(self.mock) };
        let listed = self.client.call_method::<catalog::method::List>(&ask, &CallOptions::default()).await;
        let mut marked = Vec::new();
        let all = match listed {
            Ok(answer) => {
                let datasets = answer.value.datasets;
                let all = datasets.iter().map(|dataset| (dataset.name.clone(), Version::of(dataset))).collect();
                marked.extend(datasets.into_iter().filter(|dataset| !dataset.stale.is_empty()));
                all
            }
            Err(error) => {
                tracing::warn!("the runs of datasets are not known, their numbers are compared: {}", chain(&error));
                let numbers = word.generations.into_iter();
                numbers.map(|(name, generation)| (name, Version { generation, ..Version::default() })).collect()
            }
        };
        self.datasets.replace(all, first);
        self.clear_marks(&marked).await;
    }

    fn index(&self, name: &str) -> Result<Arc<Index>, Fault> {
        let index = lock(&self.indexes).get(name).cloned().ok_or_else(|| no_such(name))?;
        index.usable()?;
        Ok(index)
    }

    /// The folder of an index: none is made of anything but a name.
    fn stub(&self, name: &str) -> Result<PathBuf, Fault> {
        let name = name.parse::<IndexName>().map_err(|error| bad_name(&error))?;
        Ok(self.folder.join(name))
    }

    /// That the active profile binds every index and dataset that a call names: through whichever door it came, all come by here.
    async fn in_scope(&self, call: &Call) -> Result<(), Fault> {
        self.scope.known(call.deadline).await?;
        if self.scope.is_open() {
            return Ok(());
        }
        // What cannot be read so cannot be read by the method itself either, which says why.
        let CallNames { name, index, dataset } = serde_json::from_slice(call.raw_parameters()).unwrap_or_default();
        name.iter().chain(&index).try_for_each(|name| self.scope.index(name))?;
        dataset.iter().try_for_each(|name| self.scope.dataset(name))
    }

    /// That what a method writes can be written.
    fn may_write(&self, method: &str) -> Result<(), Fault> {
        if WRITING.contains(&method) { writable::check(&self.folder).map_err(|error| read_only(&error)) } else { Ok(()) }
    }

    fn describe(&self, index: &Index) -> Description {
        let p = &index.parameters;
        let generation = index.generation();
        let manifest = generation.as_ref().map(|g| &g.manifest);
        let dataset_generation = manifest.map_or(0, |m| m.dataset_generation);
        let graph = manifest.map_or_else(|| refresh::graph_parameters(p), |m| m.parameters);
        let by_tokens = p.vector_column.is_none() && manifest.is_none_or(|m| m.chunks == 0 || m.chunking.is_some());
        Description {
            name: p.name.clone(),
            dataset: p.dataset.clone(),
            id_column: p.id_column.clone(),
            text_column: text_columns(p).first().cloned(),
            vector_column: p.vector_column.clone(),
            filter_columns: p.filter_columns.clone().unwrap_or_default(),
            chunk_size: p.chunk_size.unwrap_or(if by_tokens { 0 } else { SIZE_DEFAULT as u64 }),
            overlap: p.overlap.unwrap_or(if by_tokens { 0 } else { OVERLAP_DEFAULT as u64 }),
            chunk_tokens: by_tokens.then(|| p.chunk_tokens.unwrap_or(TOKENS_DEFAULT)),
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
            stale: manifest.map_or_else(|| self.datasets.has(&p.dataset), |m| self.datasets.is_stale(&p.dataset, m)),
            degraded: index.degraded().or_else(|| generation.as_ref()?.words_trouble()).map(|why| index.with_remedy(&why)),
            busy: index.busy().map(str::to_owned),
            shadow: index.shadow_info(),
            // Where CURRENT cannot be read nobody knows, and `degraded` names it.
            pinned: index.pinned().ok(),
            dataset_run: manifest.and_then(|m| m.dataset_run.clone()),
            sweep: index.swept(),
            caches: Some(index.caches()),
            mock: manifest.and_then(|m| m.model.mark()),
            words: generation.as_ref().map(|g| words_info(g)),
            fusion: p.fusion.clone(),
            target_recall: manifest.and_then(|m| m.recall_wanted),
            recall: manifest.and_then(|m| m.recall_measured),
            replicas: lock(&index.replicas.lag).clone(),
        }
    }

    async fn create(&self, call: &Call) -> Result<Reply, Fault> {
        let mut wanted: CreateIn = call.parameters()?;
        if self.engine != ENGINE_DEFAULT {
            wanted.engine.get_or_insert_with(|| self.engine.to_owned());
        }
        // What was there before its name was reserved can be asked for again.
        let is_there = lock(&self.indexes).contains_key(&wanted.name);
        let stub = match is_there {
            true => self.stub(&wanted.name)?,
            false => self.folder.join(IndexName::new(&wanted.name).map_err(|error| bad_name(&error))?),
        };
        check(&wanted)?;
        let known = lock(&self.indexes).get(&wanted.name).is_some_and(|there| there.parameters == wanted);
        if !known {
            check_filters(&wanted)?;
        }
        let options = CallOptions::default();
        let dataset = catalog::NameIn { name: wanted.dataset.clone(), mock: Some(self.mock) };
        let GetOut { dataset, .. } = self.client.call_method::<catalog::method::Get>(&dataset, &options).await?.value;
        let filters = wanted.filter_columns.clone().unwrap_or_default();
        let named = text_columns(&wanted).into_iter().chain(wanted.vector_column.clone()).chain(filters);
        for column in std::iter::once(wanted.id_column.clone()).chain(named) {
            if !dataset.columns.iter().any(|c| c.name == column) {
                let there: Vec<&str> = dataset.columns.iter().map(|c| c.name.as_str()).collect();
                return Err(no_column(&dataset.name, &column, &there));
            }
        }
        // What a refresh could not use is said now, while it can still be chosen otherwise.
        if let Some(object) = dataset.objects.first().filter(|_| !known) {
            let path = object.local();
            match tokio::task::spawn_blocking(move || schema_of(&path)).await.map_err(|e| Fault::internal(chain(&e)))? {
                Ok(schema) => check_columns(&schema, &dataset.name, &wanted)?,
                Err(error) => tracing::warn!(dataset = dataset.name, "the types of its columns are not known yet: {}", chain(&error)),
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
                there.usable()?;
                if there.parameters == wanted {
                    return Reply::of(&CreateOut { created: false });
                }
                let message = format!("index `{}` exists already with other parameters; delete it first", wanted.name);
                return Err(Fault::of(&error::IndexExists { name: wanted.name }, false, message));
            }
            let folder = stub;
            free(&folder).map_err(|e| io_fault("creating the index", &e))?;
            let text = sealed::to_vec(&wanted).map_err(|e| io_fault("creating the index", &e))?;
            let made = fs::create_dir_all(&folder)
                .and_then(|()| place.map_or(Ok(()), |(bucket, path)| Home::make(&folder, bucket, &path).map(drop)))
                .and_then(|()| atomic::write(&folder.join(PARAMETERS), &text))
                .and_then(|()| atomic::sync_dir(&self.folder));
            made.map_err(|e| io_fault("creating the index", &e))?;
            indexes.insert(wanted.name.clone(), Arc::new(Index::open(&folder, wanted.clone())));
        }
        let mark = MarkStaleIn { name: wanted.dataset, index: wanted.name, mock: Some(self.mock), ..MarkStaleIn::default() };
        self.client.call_method::<catalog::method::MarkStale>(&mark, &options).await?;
        Reply::of(&CreateOut { created: true })
    }

    async fn delete(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let Some(index) = lock(&self.indexes).get(&name).cloned() else { return Reply::of(&DeleteOut { deleted: false }) };
        // Nothing may write into a folder that is being removed.
        let claim = index.claim("deletion").await?;
        let stub = self.stub(&name)?;
        let home = Home::open(&stub).map_err(|error| {
            let why = chain(&error);
            let message =
                format!("index `{name}`: {why}; where its files are is unknown, and nothing was deleted: restore that file first");
            Fault::of(&error::Damaged { name: name.clone() }, false, message)
        })?;
        // First what nobody would find again, were it left by a crash.
        self.remove_replicas(&index).await?;
        lock(&self.indexes).remove(&name);
        home.delete(&stub).map_err(|e| io_fault("deleting the index", &e))?;
        drop(claim);
        let dataset = index.parameters.dataset.clone();
        let mark = MarkStaleIn { name: dataset, index: name, mock: Some(self.mock), gone: Some(true), ..MarkStaleIn::default() };
        let options = CallOptions::default();
        let marking = self.client.call_method::<catalog::method::MarkStale>(&mark, &options);
        // It is deleted, whether the catalog hears of it or not; a dataset that is gone feeds nothing.
        if !matches!(tokio::time::timeout(CATALOG_WAIT, marking).await, Ok(Ok(_))) {
            tracing::info!(index = mark.index, dataset = mark.name, "the catalog has not noted that the index was deleted");
        }
        Reply::of(&DeleteOut { deleted: true })
    }

    fn generations(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let index = self.index(&name)?;
        let answers = index.generation().map(|g| g.folder.clone());
        let pinned = index.pinned().ok();
        let seen = index.folder.survey();
        let info = |(folder, m): (&str, &generation::Manifest)| {
            let current = answers.as_deref() == Some(folder);
            let appended: u64 = m.segments.iter().map(|s| s.rows).sum();
            GenerationInfo {
                number: m.number,
                current,
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
                pinned: pinned.filter(|pinned| *pinned && current),
                mock: m.model.mark(),
            }
        };
        let unreadable = Some(seen.unreadable().words()).filter(|unreadable| !unreadable.is_empty());
        Reply::of(&GenerationsOut { generations: seen.generations().into_iter().map(info).collect(), pinned, unreadable })
    }

    async fn rollback(&self, call: &Call) -> Result<Reply, Fault> {
        let RollbackIn { name, generation } = call.parameters()?;
        let index = self.index(&name)?;
        let claim = index.claim("rollback").await?;
        let work = move || -> Result<RollbackOut, Fault> {
            let _claim = claim;
            let (current, _) = index.current()?;
            let wanted = match generation {
                Some(number) => load_generation(&index, |_, m| m.number == number, &format!("no generation {number}"))?,
                None => {
                    let none = format!("no generation before {}", current.manifest.number);
                    load_generation(&index, |folder, _| current.manifest.parent.as_deref() == Some(folder), &none)?
                }
            };
            let number = wanted.manifest.number;
            let moved = index.folder.point(&wanted.folder, "rollback", true);
            moved.map_err(|e| folder_fault(&index.parameters.name, "moving CURRENT", &e))?;
            index.answer_with(wanted);
            Ok(RollbackOut { generation: number, previous: current.manifest.number, pinned: Some(true) })
        };
        Reply::of(&tokio::task::spawn_blocking(work).await.map_err(|e| Fault::internal(chain(&e)))??)
    }

    /// Lets what acts by itself go on from the generation that somebody went back to.
    async fn unpin(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let index = self.index(&name)?;
        if index.pinned().is_ok_and(|pinned| !pinned) {
            // There is nothing to wait for.
            let generation = index.generation().map_or(0, |g| g.manifest.number);
            return Reply::of(&UnpinOut { unpinned: false, generation });
        }
        let claim = index.claim("unpinning").await?;
        let work = move || -> Result<UnpinOut, Fault> {
            let _claim = claim;
            let unpinned = index.folder.unpin().map_err(|e| io_fault("writing CURRENT", &e))?;
            Ok(UnpinOut { unpinned, generation: index.generation().map_or(0, |g| g.manifest.number) })
        };
        let out = tokio::task::spawn_blocking(work).await.map_err(|e| Fault::internal(chain(&e)))??;
        if out.unpinned {
            self.agent.moved.notify_one();
        }
        Reply::of(&out)
    }
}

/// The generation of an index of which something holds, whole; `none` says what there is not otherwise.
fn load_generation(index: &Index, holds: impl Fn(&str, &generation::Manifest) -> bool, none: &str) -> Result<Generation, Fault> {
    let all = index.folder.generations();
    let Some((folder, _)) = all.iter().find(|(folder, m)| holds(folder, m)) else {
        let there: Vec<String> = all.iter().map(|(_, m)| m.number.to_string()).collect();
        let message = format!("index `{}` has {none}; it has {}", index.parameters.name, there.join(", "));
        return Err(Fault::of(&error::NoSuchGeneration { name: index.parameters.name.clone() }, false, message));
    };
    index.folder.load(folder, None).map_err(|e| folder_fault(&index.parameters.name, "loading the generation", &e))
}

/// A whole number of a call within its bounds, or what stands for none.
fn bounded(what: &str, value: Option<u64>, least: u64, most: u64, default: usize) -> Result<usize, Fault> {
    match value {
        None => Ok(default),
        Some(n) if (least..=most).contains(&n) => Ok(usize::try_from(n).unwrap_or(default)),
        Some(n) => Err(Fault::invalid_parameter(what, format!("{n}, expected {least} to {most}"))),
    }
}

impl Service for IndexService {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&index::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        self.may_write(call.method())?;
        self.in_scope(&call).await?;
        // What a person waits for comes before what nobody asked for.
        let _person = (!BRIEF.contains(&call.method())).then(|| self.agent.person());
        match call.method() {
            "Create" => self.create(&call).await,
            "Refresh" => self.refresh(&call).await,
            "Migrate" => self.migrate(&call).await,
            "Search" => self.search(&call).await,
            "SearchBulk" => self.search_bulk(&call),
            "Get" => self.get(&call).await,
            "List" => {
                let all: Vec<Arc<Index>> = lock(&self.indexes).values().cloned().collect();
                let bound = all.iter().filter(|i| self.scope.binds_index(&i.parameters.name));
                Reply::of(&ListOut { indexes: bound.map(|i| self.describe(i)).collect() })
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
            "Unpin" => self.unpin(&call).await,
            "Move" => self.move_index(&call).await,
            "Compact" => self.compact(&call).await,
            "Doctor" => self.doctor(&call).await,
            "EvalAutogen" => self.eval_autogen(&call).await,
            "EvalList" => self.eval_list(&call).await,
            "Trial" => self.trial(&call).await,
            "Trials" => self.trials(&call).await,
            "Best" => self.best(&call).await,
            "CompactTrials" => self.compact_trials(&call),
            "Autotune" => self.autotune(&call).await,
            "AgentStatus" => self.agent_status(),
            "AgentEnqueue" => self.agent_enqueue(&call),
            "Snapshot" => self.snapshot(&call).await,
            _ => Err(call.unknown()),
        }
    }
}

/// The engine of a name, if it can build by these parameters.
fn builder(name: &str, parameters: &Parameters) -> Result<&'static dyn Engine, Fault> {
    let engine = engine::named(name).map_err(|error| Fault::invalid_parameter("engine", error))?;
    let refused = |e: ParameterError| Fault::invalid_parameter(e.parameter, format!("{}, expected {}", e.value, e.expected));
    engine.check(parameters).map_err(refused)?;
    Ok(engine)
}

fn engine(parameters: &CreateIn) -> String {
    parameters.engine.clone().unwrap_or_else(|| ENGINE_DEFAULT.into())
}

fn sizes(parameters: &CreateIn) -> Result<(usize, usize), Fault> {
    let number = |n: Option<u64>, default: usize| n.map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let size = number(parameters.chunk_size, SIZE_DEFAULT);
    let overlap = number(parameters.overlap, OVERLAP_DEFAULT.min(size.saturating_sub(1)));
    Chunker::new(size, overlap).map_err(|e| Fault::invalid_parameter("chunk_size", e))?;
    Ok((size, overlap))
}

/// Everything about parameters that does not depend on the dataset.
fn check(wanted: &CreateIn) -> Result<(), Fault> {
    sizes(wanted)?;
    if let Some(tokens) = wanted.chunk_tokens.filter(|tokens| !TOKENS_RANGE.contains(tokens)) {
        let expected = format!("{tokens}, expected {} to {}", TOKENS_RANGE.start(), TOKENS_RANGE.end());
        return Err(Fault::invalid_parameter("chunk_tokens", expected));
    }
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
    if let Some(target) = wanted.target_recall.filter(|target| !is_recall(*target)) {
        return Err(Fault::invalid_parameter("target_recall", format!("{target}, expected above 0, at most 1")));
    }
    if let Some(language) = &wanted.language {
        analyser::check_language(language).map_err(|e| Fault::invalid_parameter("language", e))?;
    }
    Fusion::of(None, wanted.fusion.as_ref(), Method::Weighted).map_err(|e| Fault::invalid_parameter("fusion", e))?;
    builder(&engine(wanted), &refresh::graph_parameters(wanted)).map(drop)
}

/// How a generation's words are made.
fn words_info(generation: &Generation) -> WordsInfo {
    let analyser = generation.analyser();
    WordsInfo { version: analyser.version().into(), languages: analyser.languages().to_vec() }
}

/// Names of filter columns that no segment could hold, or no filter could name.
fn check_filters(wanted: &CreateIn) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    for name in wanted.filter_columns.iter().flatten() {
        let why = if segment::OWN_NAMES.contains(&name.as_str()) {
            "is also a column of the index itself, which would hide the dataset's: rename it in the dataset"
        } else if !seen.insert(name) {
            "is named twice"
        } else if name.is_empty() || name.starts_with('$') {
            "cannot be named in a filter: rename it in the dataset"
        } else {
            continue;
        };
        return Err(Fault::invalid_parameter("filter_columns", format!("`{name}` {why}")));
    }
    Ok(())
}

/// That a folder holds nothing but what an attempt to create an index left.
fn free(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        if name != "home.json" && name != "away.json" && !name.to_string_lossy().starts_with(".tmp-") {
            let message = format!("{} holds {} of an index that was deleted: move it elsewhere", folder.display(), name.to_string_lossy());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
    }
    Ok(())
}

fn bad_name(error: &NameError) -> Fault {
    Fault::invalid_parameter("name", error.to_string())
}

fn no_such(name: &str) -> Fault {
    let message = format!("no index is called `{name}`; `brahman index list` lists them");
    Fault::of(&error::NoSuchIndex { name: name.to_owned() }, false, message)
}

#[cfg(test)]
mod tests;
