//! Trials, autotuning and promotion: graphs built beside the live one, measured on the same queries, and what follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::clock::now_ms;
use brahman_card::interface::Progress;
use brahman_card::interface::index::{
    AutotuneIn, AutotuneOut, AutotuneSummary, AutotuneTrial, BestIn, BestOut, CompactTrialsIn, CompactTrialsOut, Config, EvalAutogenIn,
    EvalListOut, EvalOut, Measurement, Metrics, NameIn, PromoteIn, PromoteOut, PromoteSummary, TrialIn, TrialOut, TrialRecord,
    TrialSummary, TrialsOut, error,
};
use brahman_sidecar::{Call, Reply, chain};

use super::IndexService;
use super::refresh::{content, cores};
use super::shelf::{Index, StopOnDrop, lock};
use crate::agent::is_recall;
use crate::engine::{Engine, Work};
use crate::generation::{Generation, Manifest, SearchOptions};
use crate::refresh::{data_fingerprint, folder_fault, io_fault};
use crate::threads::on_own_thread;
use crate::trials::{self, Eval, Measure, brute_force_us, find_ef, measure};
use flat_hnsw::SearchParameters;
use flat_hnsw::build::Parameters;

/// Queries of each half of a set, unless said.
const QUERIES: u64 = 500;
/// Most queries of each half.
const QUERIES_MAX: u64 = 10_000;
/// Recall to reach, unless said.
const TARGET_RECALL: f64 = 0.95;
/// Rows of a sample that are asked to find themselves.
const PROBE_ROWS: usize = 1000;
/// How often a build says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Most trials of one grid.
const GRID_MAX: usize = 100;

fn no_eval(name: &str) -> Fault {
    let message = format!("index `{name}` has no eval set for its vectors: `brahman index eval {name}` generates one");
    Fault::of(&error::NoEval { name: name.to_owned() }, false, message)
}

fn bounded(what: &str, value: Option<u64>, least: u64, most: u64, default: usize) -> Result<usize, Fault> {
    match value {
        None => Ok(default),
        Some(n) if (least..=most).contains(&n) => Ok(usize::try_from(n).unwrap_or(default)),
        Some(n) => Err(Fault::invalid_parameter(what, format!("{n}, expected {least} to {most}"))),
    }
}

/// What is named twice is tried once.
fn once_each(mut values: Vec<u64>) -> Vec<u64> {
    let mut seen = std::collections::HashSet::new();
    values.retain(|value| seen.insert(*value));
    values
}

/// The recall to reach, of those that can be reached.
fn target(asked: Option<f64>) -> Result<f64, Fault> {
    let target = asked.unwrap_or(TARGET_RECALL);
    if is_recall(target) {
        return Ok(target);
    }
    Err(Fault::invalid_parameter("target_recall", format!("{target}, expected above 0, at most 1")))
}

/// What is to be built, and by which engine: a configuration over that of a generation. What has no graph yet gets the
/// default engine's.
fn built_by(config: &Config, of: &Manifest) -> Result<(&'static dyn Engine, Parameters), Fault> {
    let m = bounded("m", config.m, 2, 256, of.parameters.m)?;
    let ef_construction = bounded("ef_construction", config.ef_construction, 4, 4096, of.parameters.ef_construction)?;
    let parameters = Parameters { m, ef_construction, seed: config.seed.unwrap_or(of.parameters.seed) };
    let own = if of.engine == "exact" { super::ENGINE_DEFAULT } else { &of.engine };
    Ok((super::builder(config.engine.as_deref().unwrap_or(own), &parameters)?, parameters))
}

fn measured(measure: &Measure, orphans: usize) -> Measurement {
    Measurement {
        recall: measure.recall(),
        recall_low: measure.interval().0,
        p95_us: measure.latency(0.95),
        orphans: orphans as u64,
        queries: measure.recalls.len() as u64,
    }
}

/// A set of queries for this generation; one is made if there is none.
fn eval_of(index: &Index, generation: &Generation, threads: usize, aside: &(dyn Fn() + Sync)) -> Result<Eval, Fault> {
    let path = index.folder.path();
    if let Some(eval) = trials::newest(path, generation, threads, aside) {
        return Ok(eval);
    }
    let made = trials::autogen(path, generation, &data_fingerprint(generation), usize::try_from(QUERIES).unwrap_or(500), 10, 0);
    made.map_err(|e| io_fault("generating an eval set", &e))?;
    trials::newest(path, generation, threads, aside).ok_or_else(|| no_eval(&index.parameters.name))
}

/// One trial to run.
pub(super) struct Attempt {
    pub(super) index: Arc<Index>,
    pub(super) config: Config,
    pub(super) target: f64,
    pub(super) by: &'static str,
    pub(super) note: Option<String>,
    pub(super) threads: usize,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) done: Arc<AtomicU64>,
    /// Called between two steps, to let others go first.
    pub(super) aside: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Attempt {
    /// Builds, measures and keeps a trial. Blocks for as long as a build takes.
    pub(super) fn run(self) -> Result<TrialRecord, Fault> {
        // Before the work, not after it.
        self.index.writable()?;
        let (generation, _) = self.index.current()?;
        self.index.trials_known()?;
        let manifest = &generation.manifest;
        let (engine, parameters) = built_by(&self.config, manifest)?;
        let aside = || self.aside.iter().for_each(|aside| aside());
        let eval = eval_of(&self.index, &generation, self.threads, &aside)?;
        let content = content(&generation).map_err(|e| folder_fault(&self.index.parameters.name, "reading the index", &e))?;
        let started = Instant::now();
        let progress = |n: usize| {
            self.done.store(n as u64, Ordering::Relaxed);
            aside();
            !self.stop.load(Ordering::Relaxed)
        };
        let work =
            Work { vectors: content.vectors.into(), dim: manifest.model.dim, parameters, threads: self.threads, progress: &progress };
        let built = engine.build(work);
        let (flat, order) = built.map_err(|e| io_fault("building the graph", &e))?;
        let build_time_secs = started.elapsed().as_secs_f64();
        // The graph numbers rows its own way: a query's own row is found by that.
        let live: Vec<u32> = generation.live_rows().collect();
        let place: std::collections::HashMap<u32, u32> = order.iter().zip(0..).map(|(old, new)| (live[*old as usize], new)).collect();
        let renumber = |mut queries: Vec<trials::Query>| {
            queries.iter_mut().for_each(|q| q.not = q.not.and_then(|row| place.get(&row).copied()));
            queries
        };
        let (tune, holdout) = (renumber(eval.tune), renumber(eval.holdout));
        let k = usize::try_from(eval.info.k).unwrap_or(10);
        let search = |v: &[f32], k: usize, ef: usize| flat.search(v, &SearchParameters { k, ef, live: None });
        let ef = match self.config.ef_search {
            Some(_) => bounded("ef_search", self.config.ef_search, 1, 65_536, 64)?,
            None => find_ef(&tune, k, self.target, &|v, k, ef| {
                aside();
                search(v, k, ef)
            }),
        };
        let measured = measure(&holdout, k, &[&|v, k| search(v, k, ef)]).remove(0);
        let (low, high) = measured.interval();
        let trial = TrialRecord {
            id: ulid::Ulid::generate().to_string(),
            at_ms: now_ms(),
            config: Config {
                engine: Some(engine.name().into()),
                m: Some(parameters.m as u64),
                ef_construction: Some(parameters.ef_construction as u64),
                ef_search: Some(ef as u64),
                seed: Some(parameters.seed),
            },
            metrics: Metrics {
                build_time_secs,
                p50_us: measured.latency(0.5),
                p95_us: measured.latency(0.95),
                p99_us: measured.latency(0.99),
                recall_at_k: measured.recall(),
                recall_low: low,
                recall_high: high,
                memory_bytes: flat.memory_bytes(),
                vectors: flat.store.len() as u64,
                eval_queries: holdout.len() as u64,
                orphans: flat.orphans(ef.max(64), self.threads, PROBE_ROWS).len() as u64,
                brute_force_latency_us: brute_force_us(&holdout, &|v| flat.store.exact(v, k, None, 1)),
            },
            fingerprint: data_fingerprint(&generation),
            engine_version: env!("CARGO_PKG_VERSION").into(),
            eval: eval.info.id,
            by: self.by.into(),
            note: self.note,
        };
        lock(&self.index.journal).add(trial.clone()).map_err(|e| io_fault("writing the journal", &e))?;
        Ok(trial)
    }
}

impl IndexService {
    pub(super) async fn eval_autogen(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: EvalAutogenIn = call.parameters()?;
        let index = self.index(&ask.name)?;
        index.writable()?;
        let queries = bounded("queries", ask.queries, 10, QUERIES_MAX, usize::try_from(QUERIES).unwrap_or(500))?;
        let k = bounded("k", ask.k, 1, 1000, 10)?;
        let (generation, _) = index.current()?;
        let seed = ask.seed.unwrap_or(0);
        let making = Arc::clone(&index);
        let make = move || trials::autogen(making.folder.path(), &generation, &data_fingerprint(&generation), queries, k, seed);
        let made = tokio::task::spawn_blocking(make).await.map_err(|e| Fault::internal(chain(&e)))?;
        let eval = made.map_err(|e| io_fault("generating an eval set", &e))?;
        // One that was made where the index no longer is would be lost.
        if !Arc::ptr_eq(&index, &self.index(&ask.name)?) {
            let message = format!("index `{}` was moved in the meantime: try again", ask.name);
            return Err(Fault::of(&error::Busy { name: ask.name }, true, message));
        }
        Reply::of(&EvalOut { eval })
    }

    pub(super) fn eval_list(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let (evals, damaged) = trials::list(self.index(&name)?.folder.path());
        Reply::of(&EvalListOut { evals, damaged: Some(damaged).filter(|damaged| !damaged.is_empty()) })
    }

    /// Runs one trial while saying how far it is; ends it if the caller hangs up.
    async fn attempt(
        &self,
        call: &Call,
        index: &Arc<Index>,
        config: Config,
        target: f64,
        by: &'static str,
        note: Option<String>,
    ) -> Result<TrialRecord, Fault> {
        self.agent.give_way();
        let trying = self.trying.lock().await;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let _stop = StopOnDrop(Arc::clone(&stop));
        let of = index.generation().map_or(0, |g| g.manifest.chunks);
        let attempt =
            Attempt { index: Arc::clone(index), config, target, by, note, threads: cores(), stop, done: Arc::clone(&done), aside: None };
        let mut working = on_own_thread("the trial", true, move || attempt.run());
        let outcome = loop {
            match tokio::time::timeout(PROGRESS_EVERY, &mut working).await {
                Ok(outcome) => break outcome,
                Err(_) if call.more && call.method() == "Trial" => {
                    let done = done.load(Ordering::Relaxed);
                    let phase = if done < of { "build" } else { "measure" };
                    call.send(&TrialOut::Progress(Progress::new(phase, done, of))).await?;
                }
                Err(_) => {}
            }
        };
        drop(trying);
        outcome?
    }

    pub(super) async fn trial(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: TrialIn = call.parameters()?;
        let index = self.index(&ask.name)?;
        let trial = self.attempt(call, &index, ask.config, target(ask.target_recall)?, "user", ask.note).await?;
        let of = trial.metrics.vectors;
        Reply::of(&TrialOut::Done(TrialSummary { done: of, of, trial }))
    }

    pub(super) fn trials(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let index = self.index(&name)?;
        let fingerprint = index.generation().map(|g| data_fingerprint(&g));
        index.trials_known()?;
        let journal = lock(&index.journal);
        let damage = journal.damage();
        Reply::of(&TrialsOut {
            trials: journal.trials.clone(),
            fingerprint,
            torn: damage.torn,
            quarantined: damage.quarantined,
            missing: Some(damage.missing).filter(|missing| *missing > 0),
            shortfall: journal.shortfall(),
        })
    }

    pub(super) fn best(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: BestIn = call.parameters()?;
        let index = self.index(&ask.name)?;
        let by = ask.by.as_deref().unwrap_or("pareto");
        if !["pareto", "recall", "latency"].contains(&by) {
            return Err(Fault::invalid_parameter("by", format!("`{by}`, expected pareto, recall or latency")));
        }
        let (generation, _) = index.current()?;
        index.trials_known()?;
        let trial = trials::best(&lock(&index.journal).trials, &data_fingerprint(&generation), by).cloned();
        Reply::of(&BestOut { trial })
    }

    pub(super) fn compact_trials(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: CompactTrialsIn = call.parameters()?;
        let index = self.index(&ask.name)?;
        index.writable()?;
        index.trials_known()?;
        let mut journal = lock(&index.journal);
        let keep = bounded("keep", ask.keep, 0, 1_000_000, 1000)?;
        let dropped = journal.compact(keep).map_err(|e| io_fault("compacting the journal", &e))?;
        Reply::of(&CompactTrialsOut { kept: journal.trials.len() as u64, dropped: dropped as u64 })
    }

    pub(super) async fn autotune(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: AutotuneIn = call.parameters()?;
        let index = self.index(&ask.name)?;
        index.writable()?;
        let ms = ask.m.filter(|m| !m.is_empty()).unwrap_or_else(|| vec![8, 16, 24]);
        let efs = once_each(ask.ef_construction.filter(|e| !e.is_empty()).unwrap_or_else(|| vec![64, 100, 200]));
        let target = target(ask.target_recall)?;
        let grid: Vec<(u64, u64)> = once_each(ms).iter().flat_map(|m| efs.iter().map(move |ef| (*m, *ef))).take(GRID_MAX + 1).collect();
        if grid.len() > GRID_MAX {
            return Err(Fault::invalid_parameter(
                "m, ef_construction",
                format!("a grid of more than {GRID_MAX} trials, expected at most that many"),
            ));
        }
        let of = grid.len() as u64;
        let (generation, _) = index.current()?;
        index.trials_known()?;
        // What cannot be built is said before the first is.
        for (m, ef_construction) in &grid {
            let config = Config { m: Some(*m), ef_construction: Some(*ef_construction), ..Config::default() };
            built_by(&config, &generation.manifest)?;
        }
        let fingerprint = data_fingerprint(&generation);
        drop(generation);
        let best = |index: &Index| trials::best(&lock(&index.journal).trials, &fingerprint, "pareto").cloned();
        for ((m, ef_construction), done) in grid.into_iter().zip(1..) {
            let config = Config { m: Some(m), ef_construction: Some(ef_construction), ..Config::default() };
            let trial = self.attempt(call, &index, config, target, "autotune", None).await?;
            if call.more {
                let best = best(&index);
                call.send(&AutotuneOut::Trial(AutotuneTrial { done, of, trial, best })).await?;
            }
        }
        Reply::of(&AutotuneOut::Done(AutotuneSummary { done: of, of, trial: None, best: best(&index) }))
    }

    /// The configuration that a challenger is built by: the one asked for, or of the best trial; none for a generation that is there.
    fn challenger(ask: &PromoteIn, index: &Index, champion: &Generation) -> Result<Option<Config>, Fault> {
        let config = match (&ask.trial, ask.config.clone(), ask.generation) {
            (None, None, Some(_)) => None,
            (None, Some(config), None) => Some(config),
            (Some(id), None, None) => {
                index.trials_known()?;
                let journal = lock(&index.journal);
                let found = journal.trials.iter().find(|t| t.id == *id);
                let missing = || {
                    let message = format!("index `{}` has no trial `{id}`", ask.name);
                    Fault::of(&error::NoSuchTrial { name: id.clone() }, false, message)
                };
                Some(found.ok_or_else(missing)?.config.clone())
            }
            (None, None, None) => {
                index.trials_known()?;
                let journal = lock(&index.journal);
                let found = trials::best(&journal.trials, &data_fingerprint(champion), "pareto");
                let message = format!("index `{0}` has no trial on its data yet: `brahman index trial {0}`, or `autotune`", ask.name);
                let missing = || Fault::of(&error::NoSuchTrial { name: ask.name.clone() }, false, message);
                Some(found.ok_or_else(missing)?.config.clone())
            }
            _ => return Err(Fault::invalid_parameter("generation, trial, config", "expected at most one of them")),
        };
        Ok(config)
    }

    pub(super) async fn promote(self: &Arc<Self>, call: &Call) -> Result<Reply, Fault> {
        let ask: PromoteIn = call.parameters()?;
        let index = self.index(&ask.name)?;
        let (champion, _) = index.current()?;
        let force = ask.force.unwrap_or(false);
        let target = target(ask.target_recall)?;
        let config = Self::challenger(&ask, &index, &champion)?;
        let claim = index.claim("promotion").await?;
        let _stop = StopOnDrop(Arc::clone(&claim.stop));
        let (done, of) = (Arc::new(AtomicU64::new(0)), champion.manifest.chunks);
        let (stop, counted, work_index) = (Arc::clone(&claim.stop), Arc::clone(&done), Arc::clone(&index));
        let wanted = ask.generation;
        let work = move || -> Result<PromoteSummary, Fault> {
            let _claim = claim;
            let index = work_index;
            let challenger = match (config, wanted) {
                (Some(config), _) => {
                    let mut manifest = champion.manifest.after(&champion.folder, index.next_number(), "promotion");
                    let (engine, parameters) = built_by(&config, &champion.manifest)?;
                    (manifest.engine, manifest.parameters) = (engine.name().into(), parameters);
                    manifest.ef_search = bounded("ef_search", config.ef_search, 1, 65_536, manifest.ef_search)?;
                    // What was measured on the eval set is what was promoted.
                    manifest.recall_wanted = manifest.recall_wanted.filter(|_| config.ef_search.is_none());
                    let progress = |n: usize| {
                        counted.store(n as u64, Ordering::Relaxed);
                        !stop.load(Ordering::Relaxed)
                    };
                    let content = content(&champion).map_err(|e| folder_fault(&index.parameters.name, "reading the index", &e))?;
                    let made = index.folder.prepare_base(manifest, &index.parameters.dataset, content, cores(), &progress);
                    made.map_err(|e| folder_fault(&index.parameters.name, "building the challenger", &e))?
                }
                (None, Some(number)) => super::load_generation(&index, |_, m| m.number == number, &format!("no generation {number}"))?,
                (None, None) => return Err(Fault::internal("nothing to promote")),
            };
            judge(&index, &champion, challenger, target, force)
        };
        let mut working = on_own_thread("the promotion", false, work);
        let outcome = loop {
            match tokio::time::timeout(PROGRESS_EVERY, &mut working).await {
                Ok(outcome) => break outcome,
                Err(_) if call.more => {
                    let done = done.load(Ordering::Relaxed);
                    let phase = if done < of { "build" } else { "measure" };
                    call.send(&PromoteOut::Progress(Progress::new(phase, done, of))).await?;
                }
                Err(_) => {}
            }
        };
        let out = outcome??;
        if out.promoted {
            self.hear_of_rescue().await;
        }
        Reply::of(&PromoteOut::Done(out))
    }
}

/// Measures two generations on the same queries in turn, and lets the challenger answer if it is better. One that does not, and never
/// did, is removed.
fn judge(index: &Index, champion: &Generation, challenger: Generation, target: f64, force: bool) -> Result<PromoteSummary, Fault> {
    let (champion_measured, challenger_measured, verdict) = match compare(index, champion, &challenger, target) {
        Ok(compared) => compared,
        Err(fault) => {
            index.folder.abandon(challenger);
            return Err(fault);
        }
    };
    let promoted = verdict == "better" || force;
    let of = challenger.manifest.chunks;
    let mut number = champion.manifest.number;
    if promoted {
        number = challenger.manifest.number;
        let published = index.folder.publish(challenger, challenger_measured.clone(), target, verdict != "better");
        index.answer_with(published.map_err(|e| folder_fault(&index.parameters.name, "publishing the challenger", &e))?);
    } else {
        index.folder.abandon(challenger);
        index.tidy();
    }
    Ok(PromoteSummary { done: of, of, promoted, verdict, generation: number, challenger: challenger_measured, champion: champion_measured })
}

/// What was measured of champion and challenger, and what follows from it.
fn compare(
    index: &Index,
    champion: &Generation,
    challenger: &Generation,
    target: f64,
) -> Result<(Measurement, Measurement, String), Fault> {
    let (live_one, live_two) = (champion.allowed(None), challenger.allowed(None));
    let how = |k: usize| SearchOptions { k, threads: 1, ..SearchOptions::default() };
    // Rows have other numbers in another generation, and so does each query's own row.
    let (own, other) = (eval_of(index, champion, cores(), &|| ())?, eval_of(index, challenger, cores(), &|| ())?);
    let k = usize::try_from(own.info.k).unwrap_or(10);
    let (mut ones, mut twos) = (Vec::new(), Vec::new());
    for (one, two) in own.holdout.iter().zip(&other.holdout) {
        ones.extend(measure(std::slice::from_ref(one), k, &[&|v, k| champion.search(v, &how(k), &live_one)]));
        twos.extend(measure(std::slice::from_ref(two), k, &[&|v, k| challenger.search(v, &how(k), &live_two)]));
    }
    let (one, two) = (trials::joined(ones), trials::joined(twos));
    let orphans = |g: &Generation| g.base.as_ref().map_or(0, |b| b.flat.orphans(g.manifest.ef_search.max(64), cores(), PROBE_ROWS).len());
    let (champion_measured, challenger_measured) = (measured(&one, orphans(champion)), measured(&two, orphans(challenger)));
    let verdict = if challenger_measured.orphans > 0 {
        format!("refused: {} of {PROBE_ROWS} rows are orphans: no search finds them", challenger_measured.orphans)
    } else if challenger_measured.recall_low < target {
        format!(
            "refused: recall {:.4} may be as low as {:.4}, the target is {target}",
            challenger_measured.recall, challenger_measured.recall_low
        )
    } else if champion_measured.recall_low >= target && challenger_measured.p95_us >= champion_measured.p95_us {
        format!("inconclusive: p95 {:.0} µs, the champion's is {:.0} µs", challenger_measured.p95_us, champion_measured.p95_us)
    } else {
        "better".to_owned()
    };
    Ok((champion_measured, challenger_measured, verdict))
}
