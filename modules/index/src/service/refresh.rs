//! `Refresh`, `Migrate` and `Compact`: the work that writes generations.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arrow_array::{RecordBatch, UInt32Array};
use brahman_card::Fault;
use brahman_card::interface::catalog::error::NoSuchDataset;
use brahman_card::interface::catalog::{self, ClearStaleIn, GetOut};
use brahman_card::interface::index::{
    CompactOut, CompactSummary, Conversion, CreateIn, MigrateIn, NameIn, RefreshOut, RefreshSummary, error,
};
use brahman_card::interface::{Progress, WireError as _};
use brahman_sidecar::{Call, CallOptions, ClientError, Reply, chain};
use brahman_storage::digest::sha256;

use super::IndexService;
use super::datasets::Version;
use super::shelf::{Claim, FirstRefresh, Index, StopOnDrop, lock};
use crate::chunk::Chunker;
use crate::cutter::{Cutter, Limits, TOKENS_DEFAULT, embedded};
use crate::embedder::{self, Embedder, Model, TokenCounter};
use crate::files::bad;
use crate::folder::Content;
use crate::generation::{EF_DEFAULT, Generation, Manifest, RECALL_DEFAULT};
use crate::memory;
use crate::partial::{self, Growth};
use crate::pending::Pending;
use crate::refresh::{CHUNKING, Cutting, Origin, Plan, folder_fault, io_fault, plan};
use crate::rows::RowStore;
use crate::segment;
use crate::threads::{endless, on_own_thread};
use flat_hnsw::build::Parameters;

/// Most texts sent to the embedder at once, on each of two connections: enough that it never waits for us.
const EMBED_BATCH: usize = 256;
/// The first ones, before it is known how long they take.
const EMBED_BATCH_FIRST: usize = EMBED_BATCH / 4;
/// What takes longer than this is sent in smaller parts: whoever waits wants to hear more often.
const EMBED_TIME_MAX: Duration = Duration::from_secs(3);
/// Appended rows that a compaction folds in, beside a share of the base: comparing 4,096 more takes 50 µs.
const APPENDED_MAX: usize = 4096;
/// That share: 1 in this many.
const APPENDED_SHARE: usize = 20;
/// Dead rows that a compaction leaves out: 1 in this many of all.
const DEAD_SHARE: usize = 5;
/// Segments that a compaction joins.
const SEGMENTS_MAX: usize = 64;
/// Vectors of fewer bytes stay in memory after they were copied.
const RELEASED_BYTES_MIN: u64 = 256 << 20;
/// How often a build says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// How many texts to send at once after so many took so long.
fn next_size(size: usize, took: Duration) -> usize {
    if took > EMBED_TIME_MAX {
        (size / 2).max(1)
    } else if took < EMBED_TIME_MAX / 3 {
        (size * 2).min(EMBED_BATCH)
    } else {
        size
    }
}

/// How a graph is built unless the index says otherwise.
pub(super) fn graph_parameters(parameters: &CreateIn) -> Parameters {
    let number = |n: Option<u64>, default: usize| n.map_or(default, |n| usize::try_from(n).unwrap_or(default));
    Parameters { m: number(parameters.m, 16), ef_construction: number(parameters.ef_construction, 100), seed: 0 }
}

/// Candidates a search keeps unless the index says otherwise.
pub(super) fn ef_search(parameters: &CreateIn) -> usize {
    parameters.ef_search.map_or(EF_DEFAULT, |n| usize::try_from(n).unwrap_or(EF_DEFAULT))
}

/// Threads for building: all cores, for somebody waits.
pub(super) fn cores() -> usize {
    // Asked once: the answer comes from the file system (cgroups), and takes as long as a search.
    static CORES: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    *CORES
}

/// Whether a compaction would pay.
pub(super) fn wants_compaction(generation: &Generation) -> bool {
    let (base, appended) = (generation.base_rows(), generation.delta.rows.len());
    let dead = generation.len() - usize::try_from(generation.manifest.chunks).unwrap_or(0);
    appended > APPENDED_MAX.max(base / APPENDED_SHARE)
        || dead * DEAD_SHARE > generation.len()
        || generation.manifest.segments.len() > SEGMENTS_MAX
}

/// All rows alive, copied.
///
/// # Errors
/// If something is damaged.
pub(super) fn content(generation: &Generation) -> std::io::Result<Content> {
    content_without(generation, &HashSet::new())
}

/// Rows alive that are not among `gone`, copied.
fn content_without(generation: &Generation, gone: &HashSet<u32>) -> std::io::Result<Content> {
    let mut content = Content { rows: RowStore::default(), vectors: Vec::new(), columns: segment::no_columns(0)? };
    if let Some(base) = &generation.base {
        base.whole()?;
    }
    let numbers: Vec<u32> = generation.live_rows().filter(|number| !gone.contains(number)).collect();
    content.vectors.reserve_exact(numbers.len() * generation.manifest.model.dim);
    for number in &numbers {
        content.rows.push(&generation.row(*number)?);
        content.vectors.extend_from_slice(generation.vector(*number));
    }
    if let Some(base) = generation.base.as_ref().filter(|base| base.flat.store.vector_bytes() >= RELEASED_BYTES_MIN) {
        // There are two copies now; what searches need of the one in the file they read again.
        base.flat.store.release();
    }
    let mut batches: Vec<RecordBatch> = Vec::new();
    let base = generation.base_rows() as u32;
    let split = numbers.partition_point(|n| *n < base);
    let take = |columns: &RecordBatch, rows: Vec<u32>| arrow_select::take::take_record_batch(columns, &UInt32Array::from(rows));
    if let Some(own) = &generation.base {
        let columns = own.columns()?;
        if columns.num_columns() > 0 {
            batches.push(take(columns, numbers[..split].to_vec()).map_err(bad)?);
        }
    }
    if generation.delta.columns.num_columns() > 0 {
        let rows = numbers[split..].iter().map(|n| n - base).collect();
        batches.push(take(&generation.delta.columns, rows).map_err(bad)?);
    }
    content.columns = segment::joined(&batches, numbers.len())?;
    Ok(content)
}

/// Counts of how the fresh chunks got their vectors.
#[derive(Debug, Default)]
struct FreshVectors {
    vectors: Vec<f32>,
    model: Option<Model>,
    cached: u64,
    truncated: u64,
    resumed: u64,
    /// Of a refresh that was cut off, what was damaged.
    lost: u64,
    reused: u64,
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
    async fn refresh_index(self: &Arc<Self>, call: Option<&Call>, index: Arc<Index>) -> Result<RefreshSummary, Fault> {
        let claim = index.claim("refresh").await?;
        let _stop = StopOnDrop(Arc::clone(&claim.stop));
        if call.is_none() {
            unpinned(&index)?;
        }
        let (out, generation) = self.run_refresh(call, &index, claim, &Target::default()).await?;
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

    /// Refreshes, for ever and one after the other, every index whose dataset has moved on, if it is configured to.
    pub async fn run_refreshes(self: Arc<Self>) {
        if !self.agent.settings.refresh {
            return;
        }
        loop {
            let all: Vec<Arc<Index>> = lock(&self.indexes).values().cloned().collect();
            let mut failed = false;
            // One that nobody has refreshed yet waits for that: what it costs is for a person to decide.
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
                        tracing::info!(index = name, "refreshed to generation {generation}: {new} chunks embedded");
                        self.agent.say(format!("{name}: refreshed to generation {generation}, {new} chunks embedded"));
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

    /// Embeds everything by another model, or cuts everything anew, into a new generation; the old one answers until that is done.
    pub(super) async fn migrate(self: &Arc<Self>, call: &Call) -> Result<Reply, Fault> {
        let MigrateIn { name, model, allow_mock, chunks } = call.parameters()?;
        let chunks = chunks.unwrap_or(false);
        let index = self.index(&name)?;
        if index.parameters.vector_column.is_some() {
            let message = format!("index `{name}` holds its dataset's own vectors: to change them, ingest the dataset again and refresh");
            return Err(Fault::invalid_parameter("name", message));
        }
        let claim = index.claim("migration").await?;
        let _stop = StopOnDrop(Arc::clone(&claim.stop));
        if chunks {
            super::check_filters(&index.parameters)?;
        }
        let own = index.generation().filter(|g| !g.is_empty()).map(|g| g.manifest.model.clone());
        // Who only wants other chunks keeps the model.
        let to = match own.clone().filter(|_| chunks && model.is_none()) {
            Some(own) => own,
            None => embedder::current_model(&self.client, model.as_deref()).await?,
        };
        keeps_real(&index, &to, allow_mock.unwrap_or(false))?;
        let there = own.is_some_and(|own| own == to);
        let target = Target { model: Some(to).filter(|_| !there || chunks), chunks };
        let (out, _) = self.run_refresh(Some(call), &index, claim, &target).await?;
        Reply::of(&RefreshOut::Done(out))
    }

    /// Brings the index up to its dataset; to another model, or other chunks, if they are wanted, by embedding everything again.
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
        let GetOut { dataset, borrowed, .. } = self.client.call_method::<catalog::method::Get>(&ask, &options).await?.value;
        let own = Version::of(&dataset);
        self.datasets.hear(&parameters.dataset, &own);
        // Chunks of before stay what they are, until somebody wants others.
        let has_old_chunks = current.as_ref().is_some_and(|g| !g.is_empty() && g.manifest.chunking.is_none());
        let keeps_chunks = has_old_chunks && !target.chunks && parameters.vector_column.is_none();
        let bound = to.or(old.as_ref().filter(|g| !g.is_empty()).map(|g| &g.manifest.model)).cloned();
        let counter = TokenCounter::new(self.client.clone(), parameters.model.clone(), bound);
        let counted_for = counter.model();
        let cutting = cutting(parameters, keeps_chunks, counter)?;
        let named = |fault: Fault| match &old {
            Some(old) => embedder::explained(fault, &old.manifest.model, &parameters.name),
            None => fault,
        };
        let same = |g: &Arc<Generation>| g.manifest.dataset_generation == own.generation && g.manifest.dataset_run == own.run;
        // What answers in another's place is not what CURRENT names.
        let is_same = old.as_ref().is_some_and(same) && index.degraded().is_none();
        let mut plan = match old.as_ref().filter(|_| is_same).and_then(|old| nothing_new(&old.manifest, dataset.rows)) {
            // Neither the dataset nor the index is read.
            Some(plan) => plan,
            None => {
                let (reading, before, wanted) = (dataset.clone(), old.clone(), parameters.clone());
                let planned = tokio::task::spawn_blocking(move || plan(&reading, &wanted, &cutting, before.as_deref()));
                match planned.await.map_err(|e| Fault::internal(chain(&e)))? {
                    Err(fault) => return Err(self.or_gone(named(fault), &ask).await),
                    Ok(plan) => plan,
                }
            }
        };

        let of = plan.fresh.len() as u64;
        let of_model = to.or(old.as_ref().map(|g| &g.manifest.model)).or(counted_for.get());
        let dim = if plan.given_dim > 0 { plan.given_dim } else { of_model.map_or(0, |model| model.dim) };
        fits(parameters, self.memory, &plan, old.as_deref(), dim)?;
        if let Some(first) = &first {
            show_words(first, parameters, &plan, &own).map_err(|e| io_fault("showing what was read", &e))?;
        }
        let how = Embedding { index, own: &own, first: first.as_ref(), to, counted_for: counted_for.get() };
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
                    None => embedder::current_model(&self.client, None).await?,
                };
                let done = self.publish(call, index, claim, plan, embedded.vectors, model, own.clone(), to.is_some()).await?;
                let before = old.map_or(0, |g| if share_base(&g, &done) { g.manifest.bytes() } else { 0 });
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
        let (name, index_name, run_id) = (parameters.dataset.clone(), parameters.name.clone(), own.run.clone());
        let clear = ClearStaleIn { name, index: index_name, generation: own.generation, run_id, mock: Some(self.mock) };
        match self.client.call_method::<catalog::method::ClearStale>(&clear, &options).await {
            Ok(cleared) => out.stale_cleared = cleared.value.cleared,
            // Deleted since it was read: there is no mark to take away.
            Err(ClientError::Fault(fault)) if fault.name == NoSuchDataset::NAME => out.dataset_gone = Some(true),
            Err(error) => return Err(error.into()),
        }
        out.duration_s = started.elapsed().as_secs_f64();
        Ok((out, current))
    }

    /// Why a dataset could not be read: that it was deleted meanwhile, if it was.
    async fn or_gone(&self, fault: Fault, ask: &catalog::NameIn) -> Fault {
        match self.client.call_method::<catalog::method::Get>(ask, &CallOptions::default()).await {
            Err(ClientError::Fault(gone)) if gone.name == NoSuchDataset::NAME => {
                let words = format!("dataset `{}` was deleted while it was read: the index is as it was", ask.name);
                gone.with("message", words)
            }
            _ => fault,
        }
    }

    /// The vectors of the fresh chunks: given, at hand, from a refresh that was cut off, or embedded now.
    async fn vectors(
        &self,
        call: Option<&Call>,
        how: &Embedding<'_>,
        plan: &mut Plan,
        old: Option<&Generation>,
    ) -> Result<FreshVectors, Fault> {
        let (parameters, pending) = (&how.index.parameters, how.index.folder.path().join("pending.log"));
        // One of no rows has no vectors to be true to.
        let old = old.filter(|g| !g.is_empty());
        let bound = how.to.or(old.map(|g| &g.manifest.model));
        let mut out = FreshVectors { model: bound.cloned(), ..FreshVectors::default() };
        if parameters.vector_column.is_some() {
            out.vectors = std::mem::take(&mut plan.given);
            let dim = if plan.given_dim > 0 { plan.given_dim } else { old.map_or(1, |g| g.manifest.model.dim) };
            let own = || {
                let name = parameters.model.clone().unwrap_or_else(|| "dataset".into());
                Model { name, fingerprint: format!("dataset:{dim}"), dim, mock: false }
            };
            out.model.get_or_insert_with(own);
            return Ok(out);
        }
        let plan = &*plan;
        let to_embed: Vec<usize> = (0..plan.origins.len()).filter(|i| plan.origins[*i] == Origin::Embed).collect();
        let mut at_hand = AtHand::default();
        if !to_embed.is_empty() {
            let model = match &out.model {
                Some(model) => model.clone(),
                None => match how.counted_for {
                    Some(model) => model.clone(),
                    None => embedder::current_model(&self.client, parameters.model.as_deref()).await?,
                },
            };
            at_hand = AtHand::new(plan.origins.len(), model.dim);
            let mut log = Pending::open(&pending, &model.fingerprint, model.dim).map_err(|e| io_fault("opening pending.log", &e))?;
            out.lost = log.lost;
            let text = |i: usize| -> Result<Cow<'_, str>, Fault> {
                let row = plan.fresh.row(i).map_err(|e| io_fault("reading a chunk", &e))?;
                Ok(embedded(row.context, row.text))
            };
            let mut asked = Vec::new();
            for i in to_embed {
                let hash = sha256(text(i)?.as_bytes());
                match log.vector(&hash).map_err(|e| io_fault("reading pending.log", &e))? {
                    Some(vector) => {
                        at_hand.insert(i, &vector);
                        out.resumed += 1;
                    }
                    None => asked.push((i, hash)),
                }
            }
            let of = asked.len() as u64;
            let (mut done, mut growth) = (0, Growth::default());
            how.show(plan, &model, &at_hand, &mut growth).await?;
            let [mut one, mut two] = [0, 1].map(|_| Embedder::new(self.client.clone(), Some(model.clone())));
            let (mut rest, mut size) = (asked.as_slice(), EMBED_BATCH_FIRST);
            // So that what is left can be told from the first part on.
            say(call, "embed", 0, of).await?;
            while !rest.is_empty() {
                let (pair, later) = rest.split_at(rest.len().min(2 * size));
                rest = later;
                let begun = std::time::Instant::now();
                let (left, right) = pair.split_at(pair.len().min(size));
                let texts = |part: &[(usize, [u8; 32])]| part.iter().map(|(i, _)| text(*i)).collect::<Result<Vec<_>, Fault>>();
                let (left_texts, right_texts) = (texts(left)?, texts(right)?);
                let left_texts: Vec<&str> = left_texts.iter().map(AsRef::as_ref).collect();
                let right_texts: Vec<&str> = right_texts.iter().map(AsRef::as_ref).collect();
                let second = async { if right_texts.is_empty() { Ok(None) } else { two.batch(&right_texts).await.map(Some) } };
                let (first, second) = tokio::try_join!(one.batch(&left_texts), second)?;
                for (part, batch) in [(left, Some(first)), (right, second)] {
                    let Some(batch) = batch else { continue };
                    out.cached += batch.cached;
                    out.truncated += batch.truncated;
                    let vectors = batch.vectors.chunks_exact(model.dim.max(1));
                    log.add(part.iter().map(|(_, hash)| hash).zip(vectors.clone())).map_err(|e| io_fault("writing pending.log", &e))?;
                    part.iter().zip(vectors).for_each(|((i, _), vector)| at_hand.insert(*i, vector));
                }
                size = next_size(size, begun.elapsed());
                done += pair.len() as u64;
                how.show(plan, &model, &at_hand, &mut growth).await?;
                say(call, "embed", done, of).await?;
            }
            out.model = Some(model);
        }
        if at_hand.of == 0 {
            at_hand = AtHand::new(plan.origins.len(), old.map_or(0, |old| old.manifest.model.dim));
        }
        for (i, origin) in plan.origins.iter().enumerate() {
            if let (Origin::Old(row), Some(old)) = (origin, old) {
                out.reused += 1;
                at_hand.insert(i, old.vector(*row));
            }
        }
        out.vectors = at_hand.numbers;
        Ok(out)
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, which holds them all")]
    async fn publish(
        &self,
        call: Option<&Call>,
        index: &Arc<Index>,
        claim: Claim,
        plan: Plan,
        vectors: Vec<f32>,
        model: Model,
        own: Version,
        anew: bool,
    ) -> Result<Arc<Generation>, Fault> {
        let (done, of) = (Arc::new(AtomicU64::new(0)), plan.fresh.len() as u64);
        let (work_index, counted, stop) = (Arc::clone(index), Arc::clone(&done), Arc::clone(&claim.stop));
        let agent = Arc::clone(&self.agent);
        let work = move || -> std::io::Result<Arc<Generation>> {
            // Held until the disk is at rest, even if the caller is gone.
            let _claim = claim;
            let (folder, parameters) = (&work_index.folder, &work_index.parameters);
            let old = work_index.generation();
            let first = || first_manifest(parameters, model.clone());
            let migrates = old.as_ref().is_some_and(|old| !old.is_empty() && (anew || old.manifest.model != model));
            let number = work_index.next_number();
            let manifest = Manifest {
                dataset_generation: own.generation,
                dataset_run: own.run,
                docs: plan.dataset_docs - plan.empty_docs - plan.skipped_docs,
                model: model.clone(),
                chunking: plan.by_tokens.then_some(CHUNKING),
                empty_docs: plan.empty_docs,
                skipped_docs: plan.skipped_docs,
                ..match &old {
                    Some(old) => old.manifest.after(&old.folder, number, if migrates { "migration" } else { "refresh" }),
                    None => Manifest { number, ..first() },
                }
            };
            let columns = match plan.columns {
                Some(columns) => columns,
                None => segment::no_columns(plan.fresh.len())?,
            };
            let added = Content { rows: plan.fresh, vectors, columns };
            let progress = |n: usize| {
                counted.store(n as u64, Ordering::Relaxed);
                !stop.load(Ordering::Relaxed)
            };
            let generation = match &old {
                Some(_) if migrates => folder.commit_base(manifest, &parameters.dataset, added, cores(), &progress)?,
                // Appending pays while what is new is small beside what is there, and all of that is whole.
                Some(old) if old.base.as_ref().is_some_and(|base| !base.words_are_damaged()) && added.rows.len() <= old.base_rows() => {
                    let mut dead = old.dead();
                    dead.extend(&plan.dead);
                    folder.commit_delta(old, manifest, &parameters.dataset, &added, &dead)?
                }
                Some(old) => {
                    // What is there is the smaller part: it goes behind what is new.
                    let mut all = added;
                    let stays = content_without(old, &plan.dead.iter().copied().collect())?;
                    for row in stays.rows.iter() {
                        all.rows.push(&row?);
                    }
                    all.vectors.extend(stays.vectors);
                    let schema = all.columns.schema();
                    // One of no rows may have no columns either: an index that was empty.
                    let both: Vec<RecordBatch> = [all.columns, stays.columns].into_iter().filter(|c| c.num_rows() > 0).collect();
                    all.columns = segment::join(&schema, &both, all.rows.len())?;
                    folder.commit_base(manifest, &parameters.dataset, all, cores(), &progress)?
                }
                None => folder.commit_base(manifest, &parameters.dataset, added, cores(), &progress)?,
            };
            let _ = std::fs::remove_file(folder.path().join("pending.log"));
            let answers = work_index.answer_with(generation);
            // Not before: a trial is of what answers.
            agent.has_new_data(&parameters.name);
            Ok(answers)
        };
        let mut working = on_own_thread("writing the generation", false, work);
        let outcome = loop {
            match tokio::time::timeout(PROGRESS_EVERY, &mut working).await {
                Ok(outcome) => break outcome,
                Err(_) => say(call, "write", done.load(Ordering::Relaxed), of).await?,
            }
        };
        outcome?.map_err(|e| folder_fault(&index.parameters.name, "writing the generation", &e))
    }

    /// Makes a new base of everything alive. Reports rows done.
    pub(super) async fn compact_index(
        self: &Arc<Self>,
        index: &Arc<Index>,
        progress: &(dyn Fn(u64, u64) + Sync),
        asked: bool,
    ) -> Result<Option<Arc<Generation>>, Fault> {
        let claim = index.claim("compaction").await?;
        let _stop = StopOnDrop(Arc::clone(&claim.stop));
        let Some(old) = index.generation() else { return Ok(None) };
        // What answers in another's place would come to stand there for good.
        if let Some(why) = index.degraded() {
            return if asked { Err(index.damaged(&why)) } else { Ok(None) };
        }
        // Whoever asks may want its words made in the way of today.
        let has_old_words = asked && old.base.is_some() && old.analyser().version() == 0;
        if old.delta.rows.is_empty() && old.dead().is_empty() && !has_old_words {
            return Ok(None);
        }
        let of = old.manifest.chunks;
        let (done, work_index) = (Arc::new(AtomicU64::new(0)), Arc::clone(index));
        let (counted, stop) = (Arc::clone(&done), Arc::clone(&claim.stop));
        let work = move || -> std::io::Result<Arc<Generation>> {
            let _claim = claim;
            let manifest = old.manifest.after(&old.folder, work_index.next_number(), "compaction");
            let progress = |n: usize| {
                counted.store(n as u64, Ordering::Relaxed);
                !stop.load(Ordering::Relaxed)
            };
            let threads = if asked { cores() } else { 1 };
            let source = &work_index.parameters.dataset;
            let generation = work_index.folder.commit_base(manifest, source, content(&old)?, threads, &progress)?;
            Ok(work_index.answer_with(generation))
        };
        let mut working = on_own_thread("the compaction", !asked, work);
        let outcome = loop {
            match tokio::time::timeout(PROGRESS_EVERY, &mut working).await {
                Ok(outcome) => break outcome,
                Err(_) => progress(done.load(Ordering::Relaxed), of),
            }
        };
        match outcome? {
            Ok(generation) => {
                self.hear_of_rescue().await;
                Ok(Some(generation))
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(folder_fault(&index.parameters.name, "compacting", &error)),
        }
    }

    pub(super) async fn compact(self: &Arc<Self>, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let index = self.index(&name)?;
        index.current()?;
        let (sender, mut receiver) = tokio::sync::watch::channel((0, 0));
        let progress = move |done, of| {
            let _ = sender.send((done, of));
        };
        let mut working = std::pin::pin!(self.compact_index(&index, &progress, true));
        let made = loop {
            tokio::select! {
                made = &mut working => break made?,
                Ok(()) = receiver.changed() => {
                    let (done, of) = *receiver.borrow_and_update();
                    if call.more {
                        call.send(&CompactOut::Progress(Progress::new("build", done, of))).await?;
                    }
                }
            }
        };
        let number = made.as_ref().or(index.generation().as_ref()).map(|g| g.manifest.number);
        let of = index.generation().map_or(0, |g| g.manifest.chunks);
        Reply::of(&CompactOut::Done(CompactSummary { done: of, of, compacted: made.is_some(), generation: number }))
    }
}

/// What a refresh is to lead to, beside the dataset.
#[derive(Debug, Default)]
struct Target {
    /// A model by which everything is embedded again.
    model: Option<Model>,
    /// Whether everything is cut anew.
    chunks: bool,
}

/// That the memory is enough for what a refresh is to make: all there will be, for a compaction or the next start has all of it.
fn fits(parameters: &CreateIn, limit: Option<u64>, plan: &Plan, old: Option<&Generation>, dim: usize) -> Result<(), Fault> {
    let Some(limit) = limit.filter(|_| !plan.fresh.is_empty()) else { return Ok(()) };
    let base_text = old.and_then(|old| old.base.as_ref()).map_or(0, |base| base.rows.bytes());
    let there = old.map_or(0, |old| old.manifest.chunks).saturating_sub(plan.dead.len() as u64);
    let (chunks, text) = (there + plan.fresh.len() as u64, base_text + plan.fresh.bytes());
    let needed = memory::needed(chunks, dim as u64, text);
    if needed <= limit {
        return Ok(());
    }
    let (name, needed_mib, limit_mib) = (parameters.name.clone(), needed.div_ceil(1 << 20), limit >> 20);
    let message = format!(
        "index `{name}` would have {chunks} chunks of {dim} numbers, which take {needed_mib} MiB to build; a refresh may take {limit_mib} MiB: \
         use a model of fewer numbers or larger chunks, a smaller dataset, a machine with more memory, or `[memory] refresh_mib` in \
         index.toml. Nothing was embedded"
    );
    Err(Fault::of(&error::TooLarge { name, needed_mib, limit_mib }, false, message))
}

/// The plan of an index that is up to its dataset already, which has so many rows; none if a manifest of before does not say what became of
/// all of them.
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
fn cutting(parameters: &CreateIn, keeps_chunks: bool, counter: TokenCounter) -> Result<Cutting, Fault> {
    let (size, overlap) = super::sizes(parameters)?;
    if keeps_chunks || parameters.vector_column.is_some() {
        return Ok(Cutting::Characters(Chunker::new(size, overlap).map_err(|e| Fault::invalid_parameter("chunk_size", e))?));
    }
    let limits = Limits {
        tokens: parameters.chunk_tokens.unwrap_or(TOKENS_DEFAULT),
        chars: parameters.chunk_size.map(|_| size),
        overlap: parameters.overlap.map_or(0, |_| overlap),
    };
    Ok(Cutting::Tokens(Cutter::new(limits), Box::new(counter)))
}

/// The vectors of a refresh, each in its chunk's place: memory is taken once, and only for those that are there.
#[derive(Debug, Default)]
struct AtHand {
    dim: usize,
    numbers: Vec<f32>,
    is_there: Vec<bool>,
    /// How many are there.
    count: usize,
    /// How many there will be.
    of: usize,
}

impl AtHand {
    fn new(of: usize, dim: usize) -> Self {
        Self { dim, numbers: vec![0.0; of * dim], is_there: vec![false; of], count: 0, of }
    }

    fn insert(&mut self, place: usize, vector: &[f32]) {
        self.numbers[place * self.dim..][..self.dim].copy_from_slice(vector);
        self.count += usize::from(!std::mem::replace(&mut self.is_there[place], true));
    }

    fn vector(&self, place: usize) -> &[f32] {
        &self.numbers[place * self.dim..][..self.dim]
    }

    fn places(&self) -> impl Iterator<Item = usize> {
        (0..self.of).filter(|place| self.is_there[*place])
    }

    fn len(&self) -> usize {
        self.count
    }
}

/// What an embedding is for.
struct Embedding<'a> {
    index: &'a Arc<Index>,
    /// The dataset's generation.
    own: &'a Version,
    /// The refresh, if it is the index's first.
    first: Option<&'a FirstRefresh>,
    /// Another model than the one there was.
    to: Option<&'a Model>,
    /// The model whose tokens were counted.
    counted_for: Option<&'a Model>,
}

impl Embedding<'_> {
    /// Shows what is embedded of a first refresh, if there is enough more than was shown last.
    async fn show(&self, plan: &Plan, model: &Model, at_hand: &AtHand, growth: &mut Growth) -> Result<(), Fault> {
        let Some(first) = self.first else { return Ok(()) };
        first.show(|partial| partial.done = at_hand.len() as u64);
        let bytes = at_hand.len() as u64 * (model.dim as u64 * 4) + plan.fresh.bytes();
        let Some(rows) = plan.fresh.shared().filter(|_| growth.is_due(at_hand.len(), bytes)) else { return Ok(()) };
        let started = Instant::now();
        let numbers: Vec<u32> = at_hand.places().map(|place| place as u32).collect();
        let vectors: Vec<f32> = numbers.iter().flat_map(|i| at_hand.vector(*i as usize)).copied().collect();
        let (manifest, columns) = (unnumbered(&self.index.parameters, model.clone(), self.own), plan.columns.clone());
        let made = tokio::task::spawn_blocking(move || partial::by_meaning(manifest, &rows, columns.as_ref(), numbers, &vectors));
        let made = made.await.map_err(|e| Fault::internal(chain(&e)))?.map_err(|e| io_fault("showing what is embedded", &e))?;
        let made = Arc::new(made);
        first.show(|partial| partial.near = Some(made));
        growth.showed(at_hand.len(), started.elapsed());
        Ok(())
    }
}

/// The manifest of what was never committed.
fn unnumbered(parameters: &CreateIn, model: Model, own: &Version) -> Manifest {
    let first = first_manifest(parameters, model);
    Manifest { number: 0, dataset_generation: own.generation, dataset_run: own.run.clone(), ..first }
}

/// The manifest of an index's first generation.
fn first_manifest(parameters: &CreateIn, model: Model) -> Manifest {
    let first = Manifest::first(model, super::engine(parameters), graph_parameters(parameters), ef_search(parameters));
    let recall_wanted = parameters.ef_search.is_none().then(|| parameters.target_recall.unwrap_or(RECALL_DEFAULT));
    Manifest { language: parameters.language.clone(), recall_wanted, ..first }
}

/// Shows all that was read to whoever searches by words.
fn show_words(first: &FirstRefresh, parameters: &CreateIn, plan: &Plan, own: &Version) -> std::io::Result<()> {
    // Which model will embed is not known yet, and does not matter.
    let model = Model { name: parameters.model.clone().unwrap_or_default(), fingerprint: String::new(), dim: 1, mock: false };
    let words = partial::by_words(unnumbered(parameters, model, own), &plan.fresh, plan.columns.as_ref())?.map(Arc::new);
    first.show(|partial| (partial.words, partial.of) = (words, plan.fresh.len() as u64));
    Ok(())
}

/// That a migration gives up no real vectors for a mock's: neither those that answer nor those that `CURRENT` names.
fn keeps_real(index: &Index, to: &Model, allow_mock: bool) -> Result<(), Fault> {
    let answers = index.generation();
    let named = index.folder.pointer().ok().flatten().and_then(|pointer| index.folder.manifest(&pointer.generation).ok());
    let mut all = answers.iter().map(|generation| &generation.manifest).chain(&named).filter(|manifest| manifest.chunks > 0);
    all.try_for_each(|manifest| embedder::may_replace(&index.parameters.name, &manifest.model, to, allow_mock))
}

/// That nobody went back to what answers: what acts by itself leaves such an index alone.
fn unpinned(index: &Index) -> Result<(), Fault> {
    let name = &index.parameters.name;
    let why = match index.pinned() {
        Ok(false) => return Ok(()),
        Ok(true) => format!("it was rolled back and is pinned; `brahman index unpin {name}`, or a refresh, lets it follow its dataset"),
        Err(error) => chain(&error),
    };
    Err(Fault::of(&error::Busy { name: name.clone() }, false, format!("{name} is not refreshed: {why}")))
}

/// Columns whose type changed, and what that cost.
async fn converted(generation: &Arc<Generation>, name: &str) -> Result<Option<Vec<Conversion>>, Fault> {
    let reading = Arc::clone(generation);
    let read = tokio::task::spawn_blocking(move || reading.converted()).await.map_err(|e| Fault::internal(chain(&e)))?;
    let all = read.map_err(|e| Fault::of(&error::Damaged { name: name.to_owned() }, false, chain(&e)))?;
    let all: Vec<Conversion> = all.into_iter().map(|(column, from, to, nulls_made)| Conversion { column, from, to, nulls_made }).collect();
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
