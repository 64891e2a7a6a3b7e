//! `org.brahman.Index`.
//!
//! [`shelf`] holds one index and who may change it; [`search`] and [`bulk`] answer; [`refresh`]
//! writes generations; [`doctor`] finds and mends what is damaged; [`evals`] makes sets of queries,
//! [`trials`] measures with them, [`agent`] does so unasked; [`promotion`] lets the better answer,
//! [`shadow`] checks what was promoted; [`places`] takes an index to another bucket; [`datasets`]
//! knows what is stale, [`marks`] has the catalog know it, too, [`snapshot`] copies all for a
//! backup; [`create`] makes and deletes indexes, within what [`parameters`] allow, and [`history`]
//! goes back to what they were. This file opens the indexes, follows the catalog, and describes
//! them.

mod agent;
mod bulk;
mod create;
mod datasets;
mod doctor;
mod evals;
mod history;
mod marks;
mod parameters;
mod places;
mod promotion;
mod refresh;
mod search;
mod shadow;
mod shelf;
mod snapshot;
mod trials;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brahman_card::interface::catalog;
use brahman_card::interface::index::{
    self, CreateIn, Description, ListOut, NameIn, StatsOut, WordsInfo, error,
};
use brahman_card::names::{IndexName, NameError};
use brahman_card::{Fault, Interface};
use brahman_sidecar::client::encode_method;
use brahman_sidecar::{Call, CallOptions, Client, ClientError, Reply, Scope, Service, chain};
use brahman_storage::writable;
use serde::Deserialize;

use crate::chunk::{OVERLAP_DEFAULT, SIZE_DEFAULT};
use crate::cutter::TOKENS_DEFAULT;
use crate::generation::{self, Generation};
use crate::home::finish_deletions;
use crate::refresh::text_columns;
use crate::threads::on_own_thread;
use crate::{memory, rescue, sealed};
use datasets::{Datasets, Version};
use parameters::{ef_search, engine, graph_parameters};
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
/// Methods that are answered at once, or, as searches, are told to the agent otherwise: it need not
/// stop for them.
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

/// How long a start waits for the catalog's first word: it answers in milliseconds, or is on its
/// way itself.
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
    /// If the folder cannot be made or listed. A damaged index is kept apart and said when asked
    /// for; settings that make no sense turn the agent off; where nothing can be written indexes
    /// are searched and not changed.
    pub fn open(folder: &Path, settings: &Path, client: Client) -> io::Result<Self> {
        let agent = Arc::new(agent::Agent::open(settings));
        let there = writable::make_folder(folder)?;
        match writable::check(folder) {
            Ok(()) => {
                finish_deletions(folder);
                if let Err(error) = rescue::settle(folder) {
                    tracing::warn!(
                        "where replicas go is still recorded where an earlier version kept it: {}",
                        chain(&error)
                    );
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
                Err(error)
                    if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory]
                        .contains(&error.kind()) =>
                {
                    continue;
                }
                read => read.and_then(|text| sealed::from_slice::<CreateIn>(&text)),
            };
            // Its files are found by its name, and removed by it.
            if let Err(error) = name.parse::<IndexName>() {
                tracing::error!("{}: {error}; it is left alone", path.display());
                continue;
            }
            let index = match read {
                Ok(parameters) if parameters.name == name => Index::open(&path, parameters),
                Ok(parameters) => Index::unusable(
                    &path,
                    &name,
                    ParametersError::OfAnother { name: parameters.name },
                ),
                Err(error) => Index::unusable(&path, &name, error.into()),
            };
            indexes.insert(name, Arc::new(index));
        }
        agent.resume(
            indexes.values().flat_map(|index| lock(&index.journal).agent_ms().collect::<Vec<_>>()),
        );
        let (indexes, datasets, trying) =
            (Mutex::new(indexes), Datasets::default(), tokio::sync::Mutex::default());
        let (folder, engine, copying, mock) =
            (folder.to_owned(), ENGINE_DEFAULT, Arc::default(), false);
        let memory = memory::limit(settings);
        let scope = Scope::open();
        Ok(Self {
            folder,
            client,
            indexes,
            datasets,
            trying,
            engine,
            copying,
            agent,
            memory,
            mock,
            scope,
        })
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
        let verify = move || {
            all.iter().for_each(|index| {
                index.verify(copies.as_deref().map(|c| c.join(&index.parameters.name)).as_deref());
            });
        };
        drop(on_own_thread("comparing files", true, verify));
    }

    /// What is to be said of the module as a whole: that nothing can be written, and what is
    /// damaged.
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
            attributes.insert(
                "damaged".to_owned(),
                if more > 0 { format!("{named}; and {more} more") } else { named },
            );
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
                let mut connection =
                    self.client.open(catalog::INTERFACE.name, &CallOptions::default()).await?;
                self.hear_of_rescue().await;
                let ask = catalog::RealmIn { mock: Some(self.mock) };
                connection
                    .send(&encode_method::<catalog::method::Watch>(
                        &ask,
                        &CallOptions::default(),
                        true,
                        false,
                    )?)
                    .await?;
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

    /// Asks the catalog for the runs behind the numbers of its word; without an answer the numbers
    /// alone are compared.
    async fn hear_of_datasets(&self, word: catalog::WatchOut, first: bool) {
        let ask = catalog::RealmIn { mock: Some(self.mock) };
        let is_open = !self.scope.hides_datasets();
        let listed =
            self.client.call_method::<catalog::method::List>(&ask, &CallOptions::default()).await;
        // What a profile hides is not gone.
        let is_whole = is_open && listed.is_ok() && !self.scope.hides_datasets();
        let mut marked = Vec::new();
        let all = match listed {
            Ok(answer) => {
                let datasets = answer.value.datasets;
                let all = datasets
                    .iter()
                    .map(|dataset| (dataset.name.clone(), Version::of(dataset)))
                    .collect();
                marked.extend(datasets.into_iter().filter(|dataset| !dataset.stale.is_empty()));
                all
            }
            Err(error) => {
                tracing::warn!(
                    "the runs of datasets are not known, their numbers are compared: {}",
                    chain(&error)
                );
                let numbers = word.generations.into_iter();
                numbers
                    .map(|(name, generation)| (name, Version { generation, ..Version::default() }))
                    .collect()
            }
        };
        self.datasets.replace(all, first, is_whole);
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

    /// That the active profile binds every index and dataset that a call names: through whichever
    /// door it came, all come by here.
    async fn in_scope(&self, call: &Call) -> Result<(), Fault> {
        self.scope.known(call.deadline).await?;
        if self.scope.is_open() {
            return Ok(());
        }
        // Parameters in which names cannot be found are refused, and not taken for parameters
        // without names.
        let CallNames { name, index, dataset } = call.parameters()?;
        name.iter().chain(&index).try_for_each(|name| self.scope.index(name))?;
        dataset.iter().try_for_each(|name| self.scope.dataset(name))
    }

    /// That what a method writes can be written.
    fn may_write(&self, method: &str) -> Result<(), Fault> {
        if WRITING.contains(&method) {
            writable::check(&self.folder).map_err(|error| read_only(&error))
        } else {
            Ok(())
        }
    }

    fn describe(&self, index: &Index) -> Description {
        let p = &index.parameters;
        let generation = index.generation();
        let manifest = generation.as_ref().map(|g| &g.manifest);
        let dataset_generation = manifest.map_or(0, |m| m.dataset_generation);
        let graph = manifest.map_or_else(|| graph_parameters(p), |m| m.parameters);
        let by_tokens = p.vector_column.is_none()
            && manifest.is_none_or(|m| m.chunks == 0 || m.chunking.is_some());
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
            dead: generation
                .as_ref()
                .map_or(0, |g| (g.len() as u64).saturating_sub(g.manifest.chunks)),
            bytes: manifest.map_or(0, generation::Manifest::bytes),
            memory_bytes: generation.as_ref().map_or(0, |g| g.memory_bytes()),
            m: graph.m as u64,
            ef_construction: graph.ef_construction as u64,
            ef_search: manifest.map_or_else(|| ef_search(p), |m| m.ef_search) as u64,
            stale: manifest.map_or_else(
                || self.datasets.has(&p.dataset),
                |m| self.datasets.is_stale(&p.dataset, m),
            ),
            degraded: index
                .degraded()
                .or_else(|| generation.as_ref()?.words_trouble())
                .map(|why| index.with_remedy(&why)),
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
            dataset_gone: self.datasets.is_gone(&p.dataset).then_some(true),
        }
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

/// How a generation's words are made.
fn words_info(generation: &Generation) -> WordsInfo {
    let analyser = generation.analyser();
    WordsInfo { version: analyser.version().into(), languages: analyser.languages().to_vec() }
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
