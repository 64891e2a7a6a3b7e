//! `Refresh` and `Migrate`: the work that writes generations.
//!
//! What is to be done is found by `reading`. What is new gets its vectors by `embedding` and is
//! written by `publishing`, which takes what stays from `copies`; `compaction` folds it in.

mod compaction;
mod copies;
mod embedding;
mod publishing;
mod reading;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::interface::catalog::error::NoSuchDataset;
use brahman_card::interface::catalog::{self, ClearStaleIn, GetOut};
use brahman_card::interface::index::{
    Conversion, CreateIn, MigrateIn, NameIn, RefreshOut, RefreshSummary, error,
};
use brahman_card::interface::profiles::error::Forbidden;
use brahman_card::interface::{Progress, WireError as _};
use brahman_sidecar::{Call, CallOptions, ClientError, Reply, blocking, chain};

use super::IndexService;
use super::datasets::Version;
use super::parameters::{check_filters, sizes};
use super::shelf::{Claim, FirstRefresh, Index, StopOnDrop, lock};
use crate::chunk::Chunker;
use crate::cutter::{Cutter, Limits, TOKENS_DEFAULT};
use crate::embedder::{self, Model, TokenCounter};
use crate::generation::{Generation, Manifest};
use crate::memory;
use crate::refresh::{Cutting, Plan, io_fault};
use crate::threads::endless;
use compaction::wants_compaction;
pub(super) use copies::content;
use embedding::{Embedding, FreshVectors};
use reading::{Reading, show_words};

/// How often a build says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Threads for building: all cores, for somebody waits.
pub(super) fn cores() -> usize {
    // Asked once: the answer comes from the file system (cgroups), and takes as long as a search.
    static CORES: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    *CORES
}

/// Before a refresh that failed is tried again.
const REFRESH_RETRY: Duration = Duration::from_secs(30);

impl IndexService {
    pub(super) async fn refresh(self: &Arc<Self>, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let index = self.index(&name)?;
        Reply::of(&RefreshOut::Done(self.refresh_index(Some(call), index).await?))
    }

    /// Brings an index up to its dataset, and compacts it behind if that is due.
    async fn refresh_index(
        self: &Arc<Self>,
        call: Option<&Call>,
        index: Arc<Index>,
    ) -> Result<RefreshSummary, Fault> {
        let admitted = match call {
            Some(_) if index.busy().is_some() => self.admitted(&index).await,
            _ => None,
        };
        let claim = index.claim("refresh").await?;
        let _stop = StopOnDrop(Arc::clone(&claim.stop));
        if call.is_none() {
            unpinned(&index)?;
        }
        let target = Target { admitted, ..Target::default() };
        let (out, generation) = self.run_refresh(call, &index, claim, &target).await?;
        self.hear_of_rescue().await;
        if wants_compaction(&generation) {
            let service = Arc::clone(self);
            tokio::task::spawn(endless("the compaction", async move {
                if let Err(fault) = service.compact_index(&index, &|_, _| {}, false).await {
                    tracing::warn!(index = index.parameters.name, "compaction: {fault}");
                }
            }));
        }
        Ok(out)
    }

    /// Refreshes, for ever and one after the other, every index whose dataset has moved on, if it
    /// is configured to.
    pub async fn run_refreshes(self: Arc<Self>) {
        if !self.agent.settings.refresh {
            return;
        }
        loop {
            let all: Vec<Arc<Index>> = lock(&self.indexes).values().cloned().collect();
            let mut failed = false;
            // One that nobody has refreshed yet waits for that: what it costs is for a person to
            // decide.
            for (index, of) in all.into_iter().filter_map(|i| i.generation().map(|g| (i, g))) {
                if !self.datasets.is_stale(&index.parameters.dataset, &of.manifest) {
                    continue;
                }
                drop(of);
                let name = index.parameters.name.clone();
                if let Err(fault) = unpinned(&index) {
                    self.agent.say(fault.message().to_owned());
                    continue;
                }
                match self.refresh_index(None, index).await {
                    Ok(RefreshSummary { new_chunks: new, generation, .. }) => {
                        tracing::info!(
                            index = name,
                            "refreshed to generation {generation}: {new} chunks embedded"
                        );
                        self.agent.say(format!(
                            "{name}: refreshed to generation {generation}, {new} chunks embedded"
                        ));
                    }
                    Err(fault) => {
                        failed = true;
                        tracing::warn!(index = name, "the agent's refresh: {fault}");
                        self.agent.say(format!("{name}: {}", fault.message()));
                    }
                }
            }
            let again = if failed { REFRESH_RETRY } else { Duration::MAX };
            let _ = tokio::time::timeout(again, self.agent.moved.notified()).await;
        }
    }

    /// Embeds everything by another model, or cuts everything anew, into a new generation; the old
    /// one answers until that is done.
    pub(super) async fn migrate(self: &Arc<Self>, call: &Call) -> Result<Reply, Fault> {
        let MigrateIn { name, model, allow_mock, chunks } = call.parameters()?;
        let chunks = chunks.unwrap_or(false);
        let index = self.index(&name)?;
        if index.parameters.vector_column.is_some() {
            let message = format!(
                "index `{name}` holds its dataset's own vectors: to change them, ingest the dataset again and refresh"
            );
            return Err(Fault::invalid_parameter("name", message));
        }
        // A model may have to be loaded first.
        let admitted = self.admitted(&index).await;
        let claim = index.claim("migration").await?;
        let _stop = StopOnDrop(Arc::clone(&claim.stop));
        if chunks {
            check_filters(&index.parameters)?;
        }
        let own = index.generation().filter(|g| !g.is_empty()).map(|g| g.manifest.model.clone());
        // Who only wants other chunks keeps the model.
        let to = match own.clone().filter(|_| chunks && model.is_none()) {
            Some(own) => own,
            None => embedder::current_model(&self.client, model.as_deref()).await?,
        };
        keeps_real(&index, &to, allow_mock.unwrap_or(false))?;
        let there = own.is_some_and(|own| own == to);
        let target = Target { model: Some(to).filter(|_| !there || chunks), chunks, admitted };
        let (out, _) = self.run_refresh(Some(call), &index, claim, &target).await?;
        Reply::of(&RefreshOut::Done(out))
    }

    /// What the catalog says of an index's dataset when a call comes that may have to wait: it is
    /// judged by what can be named then, and ends so. None if it says nothing.
    async fn admitted(&self, index: &Index) -> Option<GetOut> {
        let name = index.parameters.dataset.clone();
        let ask = catalog::NameIn { name, mock: Some(self.mock) };
        let options = CallOptions::default();
        let told = self.client.call_method::<catalog::method::Get>(&ask, &options).await;
        told.ok().map(|told| told.value)
    }

    /// Brings the index up to its dataset; to another model, or other chunks, if they are wanted,
    /// by embedding everything again.
    async fn run_refresh(
        &self,
        call: Option<&Call>,
        index: &Arc<Index>,
        claim: Claim,
        target: &Target,
    ) -> Result<(RefreshSummary, Arc<Generation>), Fault> {
        index.within_reach()?;
        let started = Instant::now();
        let options = CallOptions::default();
        let parameters = &index.parameters;
        // For a migration nothing of what is there can be used.
        let current = index.generation();
        let to = target.model.as_ref();
        let old = current.clone().filter(|_| to.is_none());
        let first = FirstRefresh::begin(index);
        say(call, "read", 0, 0).await?;
        let ask = catalog::NameIn { name: parameters.dataset.clone(), mock: Some(self.mock) };
        let told = self.client.call_method::<catalog::method::Get>(&ask, &options).await;
        let GetOut { dataset, borrowed, .. } = match (told, &target.admitted) {
            // Hidden by a profile while the call waited.
            (Err(ClientError::Fault(fault)), Some(then)) if fault.name == Forbidden::NAME => {
                then.clone()
            }
            (told, _) => told?.value,
        };
        let own = Version::of(&dataset);
        self.datasets.hear(&parameters.dataset, &own);
        // Chunks of before stay what they are, until somebody wants others.
        let has_old_chunks =
            current.as_ref().is_some_and(|g| !g.is_empty() && g.manifest.chunking.is_none());
        let keeps_chunks = has_old_chunks && !target.chunks && parameters.vector_column.is_none();
        let bound =
            to.or(old.as_ref().filter(|g| !g.is_empty()).map(|g| &g.manifest.model)).cloned();
        let counter = TokenCounter::new(self.client.clone(), parameters.model.clone(), bound);
        let counted_for = counter.model();
        let cutting = cutting(parameters, keeps_chunks, counter)?;
        let named = |fault: Fault| match &old {
            Some(old) => embedder::explained(fault, &old.manifest.model, &parameters.name),
            None => fault,
        };
        let same = |g: &Arc<Generation>| {
            g.manifest.dataset_generation == own.generation && g.manifest.dataset_run == own.run
        };
        // What answers in another's place is not what CURRENT names.
        let is_same = old.as_ref().is_some_and(same) && index.degraded().is_none();
        let mut plan = match old
            .as_ref()
            .filter(|_| is_same)
            .and_then(|old| nothing_new(&old.manifest, dataset.rows))
        {
            // Neither the dataset nor the index is read.
            Some(plan) => plan,
            None => {
                let reading = Reading {
                    index,
                    dataset: &dataset,
                    own: &own,
                    cutting,
                    old: old.clone(),
                    first: first.as_ref(),
                    memory: self.memory,
                    stop: Arc::clone(&claim.stop),
                };
                match reading.plan(call).await {
                    Err(fault) => return Err(self.or_gone(named(fault), &ask).await),
                    Ok(plan) => plan,
                }
            }
        };

        let of = plan.fresh.len() as u64;
        let of_model = to.or(old.as_ref().map(|g| &g.manifest.model)).or(counted_for.get());
        let dim =
            if plan.given_dim > 0 { plan.given_dim } else { of_model.map_or(0, |model| model.dim) };
        fits(parameters, self.memory, &plan, old.as_deref(), dim)?;
        if let Some(first) = &first {
            show_words(first, parameters, &plan, &own)
                .map_err(|e| io_fault("showing what was read", &e))?;
        }
        let how = Embedding {
            index,
            own: &own,
            first: first.as_ref(),
            to,
            counted_for: counted_for.get(),
        };
        let embedded = self.vectors(call, &how, &mut plan, old.as_deref()).await.map_err(named)?;
        let unchanged = plan.is_empty() && is_same;
        let mut out = counted(&plan, &embedded);
        if to.is_some() {
            out.pre_existing_docs = current.as_ref().map_or(0, |g| g.manifest.docs);
        }
        // Nothing was embedded where the vectors came with the dataset.
        out.cached = parameters.vector_column.is_none().then_some(embedded.cached);
        out.borrowed = borrowed;
        out.old_chunks = keeps_chunks.then_some(true);
        out.guessed = plan.is_guessed.then_some(true);
        let was_pinned = index.pinned().unwrap_or(false);
        let current = match old.clone().filter(|_| unchanged) {
            Some(old) => {
                // Somebody wants it as new as its dataset.
                if call.is_some() {
                    index.folder.unpin().map_err(|e| io_fault("writing CURRENT", &e))?;
                }
                old
            }
            None => {
                say(call, "write", 0, of).await?;
                let model = match embedded.model {
                    Some(model) => model,
                    None => {
                        let name = parameters.model.as_deref();
                        embedder::current_model(&self.client, name).await?
                    }
                };
                let done = self
                    .publish(
                        call,
                        index,
                        claim,
                        plan,
                        embedded.vectors,
                        model,
                        own.clone(),
                        to.is_some(),
                    )
                    .await?;
                let before =
                    old.map_or(0, |g| if share_base(&g, &done) { g.manifest.bytes() } else { 0 });
                let dead = done.manifest.dead.as_ref().map_or(0, |d| d.bytes);
                out.bytes_written = done.manifest.bytes().saturating_sub(before).max(dead);
                done
            }
        };
        out.total = current.manifest.chunks;
        out.generation = current.manifest.number;
        out.model.clone_from(&current.manifest.model.name);
        out.mock = current.manifest.model.mark();
        out.unpinned = was_pinned.then_some(true);
        out.sweep = index.swept();
        out.converted = converted(&current, &parameters.name).await?;
        let (name, index_name, run_id) =
            (parameters.dataset.clone(), parameters.name.clone(), own.run.clone());
        let clear = ClearStaleIn {
            name,
            index: index_name,
            generation: own.generation,
            run_id,
            mock: Some(self.mock),
        };
        match self.client.call_method::<catalog::method::ClearStale>(&clear, &options).await {
            Ok(cleared) => out.stale_cleared = cleared.value.cleared,
            // Deleted since it was read: there is no mark to take away.
            Err(ClientError::Fault(fault)) if fault.name == NoSuchDataset::NAME => {
                out.dataset_gone = Some(true);
            }
            // Hidden since then by a profile: what began ends as it began, and its mark is taken
            // away once it can be named.
            Err(ClientError::Fault(fault)) if fault.name == Forbidden::NAME => {}
            Err(error) => return Err(error.into()),
        }
        out.duration_s = started.elapsed().as_secs_f64();
        Ok((out, current))
    }

    /// Why a dataset could not be read: that it was deleted meanwhile, if it was.
    async fn or_gone(&self, fault: Fault, ask: &catalog::NameIn) -> Fault {
        match self.client.call_method::<catalog::method::Get>(ask, &CallOptions::default()).await {
            Err(ClientError::Fault(gone)) if gone.name == NoSuchDataset::NAME => {
                let words = format!(
                    "dataset `{}` was deleted while it was read: the index is as it was",
                    ask.name
                );
                gone.with("message", words)
            }
            _ => fault,
        }
    }
}

/// What a refresh is to lead to, beside the dataset.
#[derive(Debug, Default)]
struct Target {
    /// A model by which everything is embedded again.
    model: Option<Model>,
    /// Whether everything is cut anew.
    chunks: bool,
    /// The dataset as it was when the call came, if it had to wait: what is read if a profile hides
    /// it meanwhile.
    admitted: Option<GetOut>,
}

/// That the memory is enough for what a refresh is to make: all there will be, for a compaction or
/// the next start has all of it.
fn fits(
    parameters: &CreateIn,
    limit: Option<u64>,
    plan: &Plan,
    old: Option<&Generation>,
    dim: usize,
) -> Result<(), Fault> {
    let Some(limit) = limit.filter(|_| !plan.fresh.is_empty()) else { return Ok(()) };
    let base_text = old.and_then(|old| old.base.as_ref()).map_or(0, |base| base.rows.bytes());
    let there = old.map_or(0, |old| old.manifest.chunks).saturating_sub(plan.dead.len() as u64);
    let (chunks, text) = (there + plan.fresh.len() as u64, base_text + plan.fresh.bytes());
    let needed = memory::needed(chunks, dim as u64, text);
    if needed <= limit {
        return Ok(());
    }
    let (name, needed_mib, limit_mib) =
        (parameters.name.clone(), needed.div_ceil(1 << 20), limit >> 20);
    let message = format!(
        "index `{name}` would have {chunks} chunks of {dim} numbers, which take {needed_mib} MiB to build; a refresh may take {limit_mib} MiB: \
         use a model of fewer numbers or larger chunks, a smaller dataset, a machine with more memory, or `[memory] refresh_mib` in \
         index.toml. Nothing was embedded"
    );
    Err(Fault::of(&error::TooLarge { name, needed_mib, limit_mib }, false, message))
}

/// The plan of an index that is up to its dataset already, which has so many rows; none if a
/// manifest of before does not say what became of all of them.
fn nothing_new(manifest: &Manifest, rows: u64) -> Option<Plan> {
    let Manifest { docs, empty_docs, skipped_docs, .. } = *manifest;
    (docs + empty_docs + skipped_docs == rows).then(|| Plan {
        pre_existing_docs: docs,
        dataset_docs: rows,
        empty_docs,
        skipped_docs,
        ..Plan::default()
    })
}

/// How texts are cut: by tokens, or as those that are there were.
fn cutting(
    parameters: &CreateIn,
    keeps_chunks: bool,
    counter: TokenCounter,
) -> Result<Cutting, Fault> {
    let (size, overlap) = sizes(parameters)?;
    if keeps_chunks || parameters.vector_column.is_some() {
        return Ok(Cutting::Characters(
            Chunker::new(size, overlap).map_err(|e| Fault::invalid_parameter("chunk_size", e))?,
        ));
    }
    let limits = Limits {
        tokens: parameters.chunk_tokens.unwrap_or(TOKENS_DEFAULT),
        chars: parameters.chunk_size.map(|_| size),
        overlap: parameters.overlap.map_or(0, |_| overlap),
    };
    Ok(Cutting::Tokens(Cutter::new(limits), Box::new(counter)))
}

/// That a migration gives up no real vectors for a mock's: neither those that answer nor those that
/// `CURRENT` names.
fn keeps_real(index: &Index, to: &Model, allow_mock: bool) -> Result<(), Fault> {
    let answers = index.generation();
    let named = index
        .folder
        .pointer()
        .ok()
        .flatten()
        .and_then(|pointer| index.folder.manifest(&pointer.generation).ok());
    let mut all = answers
        .iter()
        .map(|generation| &generation.manifest)
        .chain(&named)
        .filter(|manifest| manifest.chunks > 0);
    all.try_for_each(|manifest| {
        embedder::may_replace(&index.parameters.name, &manifest.model, to, allow_mock)
    })
}

/// That nobody went back to what answers: what acts by itself leaves such an index alone.
fn unpinned(index: &Index) -> Result<(), Fault> {
    let name = &index.parameters.name;
    let why = match index.pinned() {
        Ok(false) => return Ok(()),
        Ok(true) => format!(
            "it was rolled back and is pinned; `brahman index unpin {name}`, or a refresh, lets it follow its dataset"
        ),
        Err(error) => chain(&error),
    };
    Err(Fault::of(
        &error::Busy { name: name.clone() },
        false,
        format!("{name} is not refreshed: {why}"),
    ))
}

/// Columns whose type changed, and what that cost.
async fn converted(
    generation: &Arc<Generation>,
    name: &str,
) -> Result<Option<Vec<Conversion>>, Fault> {
    let reading = Arc::clone(generation);
    let read =
        blocking(move || reading.converted()).await.map_err(|e| Fault::internal(chain(&e)))?;
    let all =
        read.map_err(|e| Fault::of(&error::Damaged { name: name.to_owned() }, false, chain(&e)))?;
    let all: Vec<Conversion> = all
        .into_iter()
        .map(|(column, from, to, nulls_made)| Conversion { column, from, to, nulls_made })
        .collect();
    for one in all.iter().filter(|one| one.nulls_made > 0) {
        tracing::warn!(
            index = name,
            "column {}: {} values became NULL in the conversion from {} to {}",
            one.column,
            one.nulls_made,
            one.from,
            one.to
        );
    }
    Ok(Some(all).filter(|all| !all.is_empty()))
}

/// What is known of a refresh before anything of it is written.
fn counted(plan: &Plan, embedded: &FreshVectors) -> RefreshSummary {
    let of = plan.fresh.len() as u64;
    RefreshSummary {
        done: of,
        of,
        pre_existing_docs: plan.pre_existing_docs,
        dataset_docs: plan.dataset_docs,
        new_docs: plan.new_docs,
        changed_docs: plan.changed_docs,
        removed_docs: plan.removed_docs,
        empty_docs: plan.empty_docs,
        skipped_docs: plan.skipped_docs,
        skipped: plan.skipped.clone(),
        new_chunks: of,
        reused: embedded.reused,
        resumed: embedded.resumed,
        truncated: embedded.truncated,
        resume_lost: Some(embedded.lost).filter(|lost| *lost > 0),
        ..RefreshSummary::default()
    }
}

async fn say(call: Option<&Call>, phase: &str, done: u64, of: u64) -> Result<(), Fault> {
    match call.filter(|call| call.more) {
        Some(call) => call.send(&RefreshOut::Progress(Progress::new(phase, done, of))).await,
        None => Ok(()),
    }
}

/// Whether two generations share their base.
fn share_base(a: &Generation, b: &Generation) -> bool {
    matches!((&a.base, &b.base), (Some(a), Some(b)) if Arc::ptr_eq(a, b))
}
