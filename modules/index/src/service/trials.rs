//! Trials and autotuning: graphs built beside the live one, and measured; which of them is best.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::clock::now_ms;
use brahman_card::interface::Progress;
use brahman_card::interface::index::{
    AutotuneIn, AutotuneOut, AutotuneSummary, AutotuneTrial, BestIn, BestOut, CompactTrialsIn,
    CompactTrialsOut, Config, LiveMetrics, Metrics, NameIn, TrialIn, TrialOut, TrialRecord,
    TrialSummary, TrialsOut, WidthMetrics,
};
use brahman_sidecar::{Call, Reply, blocking, chain};

use super::IndexService;
use super::evals::eval_of;
use super::parameters::{bounded, builder};
use super::refresh::{content, cores};
use super::shelf::{Index, StopOnDrop, lock};
use crate::agent::{is_recall, tried};
use crate::better::Goal;
use crate::data::is_by_files;
use crate::engine::{Engine, Work};
use crate::evals;
use crate::generation::{Manifest, SearchOptions};
use crate::plan::Grid;
use crate::refresh::{folder_fault, io_fault};
use crate::threads::on_own_thread;
use crate::trials::{self, Choice, Measure, brute_force_us, find_ef, measure, narrowest};
use flat_hnsw::SearchParameters;
use flat_hnsw::build::Parameters;

/// Most widths that are measured on one graph.
const WIDTHS_MAX: usize = 32;
/// Trials of a grid, unless said: in so many the best of a large one is found (`plan.rs`).
const TRIALS: usize = 12;
/// Recall to reach, unless said.
pub(super) const TARGET_RECALL: f64 = 0.95;
/// Rows of a sample that are asked to find themselves.
pub(super) const PROBE_ROWS: usize = 1000;
/// How often a build says how far it is.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Most trials of one grid, and most ways to build in it.
const GRID_MAX: usize = 100;

/// Name of the engine that builds unless somebody names one: what has no graph yet gets the default
/// engine's.
pub(super) fn own_engine(manifest: &Manifest) -> &str {
    if manifest.engine == "exact" { super::ENGINE_DEFAULT } else { &manifest.engine }
}

/// That a recall can be reached, if one was named.
fn named_target(asked: Option<f64>) -> Result<Option<f64>, Fault> {
    match asked.filter(|target| !is_recall(*target)) {
        Some(target) => Err(Fault::invalid_parameter(
            "target_recall",
            format!("{target}, expected above 0, at most 1"),
        )),
        None => Ok(asked),
    }
}

/// Widths in ascending order, each once.
fn widths(asked: Option<Vec<u64>>) -> Result<Vec<usize>, Fault> {
    let mut widths = asked
        .into_iter()
        .flatten()
        .map(|ef| bounded("ef_search", Some(ef), 1, 65_536, 0))
        .collect::<Result<Vec<_>, _>>()?;
    widths.sort_unstable();
    widths.dedup();
    if widths.len() > WIDTHS_MAX {
        return Err(Fault::invalid_parameter(
            "ef_search",
            format!("{} widths, expected at most {WIDTHS_MAX}", widths.len()),
        ));
    }
    Ok(widths)
}

/// What is to be built, and by which engine: a configuration over that of a generation.
pub(super) fn built_by(
    config: &Config,
    of: &Manifest,
) -> Result<(&'static dyn Engine, Parameters), Fault> {
    let m = bounded("m", config.m, 2, 256, of.parameters.m)?;
    let ef_construction =
        bounded("ef_construction", config.ef_construction, 4, 4096, of.parameters.ef_construction)?;
    let parameters =
        Parameters { m, ef_construction, seed: config.seed.unwrap_or(of.parameters.seed) };
    Ok((
        builder(config.engine.as_deref().unwrap_or_else(|| own_engine(of)), &parameters)?,
        parameters,
    ))
}

/// The configuration by which a generation answers.
fn config_of(manifest: &Manifest) -> Config {
    Config {
        engine: Some(manifest.engine.clone()),
        m: Some(manifest.parameters.m as u64),
        ef_construction: Some(manifest.parameters.ef_construction as u64),
        ef_search: Some(manifest.ef_search as u64),
        seed: Some(manifest.parameters.seed),
    }
}

impl Index {
    /// The recall that was named, here or when the index was created.
    pub(super) fn target(&self, asked: Option<f64>) -> Result<Option<f64>, Fault> {
        Ok(named_target(asked)?.or(self.parameters.target_recall))
    }
}

/// One trial to run.
pub(super) struct Attempt {
    pub(super) index: Arc<Index>,
    pub(super) config: Config,
    /// Widths to measure, in ascending order; the one of `config`, or the narrowest that is enough,
    /// if there are none.
    pub(super) widths: Vec<usize>,
    /// The set of queries; the default one if none is named.
    pub(super) eval: Option<String>,
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
    /// One that somebody waits for, on all cores.
    fn of(index: &Arc<Index>, config: Config, target: f64, by: &'static str) -> Self {
        Self {
            index: Arc::clone(index),
            config,
            widths: Vec::new(),
            eval: None,
            target,
            by,
            note: None,
            threads: cores(),
            stop: Arc::default(),
            done: Arc::default(),
            aside: None,
        }
    }

    /// Builds, measures and keeps a trial. Blocks for as long as a build takes.
    pub(super) fn run(self) -> Result<TrialRecord, Fault> {
        // Before the work, not after it.
        self.index.writable()?;
        let (generation, _) = self.index.current()?;
        self.index.trials_known()?;
        let manifest = &generation.manifest;
        let (engine, parameters) = built_by(&self.config, manifest)?;
        let named_ef = self
            .config
            .ef_search
            .map(|ef| bounded("ef_search", Some(ef), 1, 65_536, 64))
            .transpose()?;
        let aside = || self.aside.iter().for_each(|aside| aside());
        let data = self.index.data_names(&generation)?;
        let eval =
            eval_of(&self.index, &generation, &data, self.eval.as_deref(), self.threads, &aside)?;
        let content = content(&generation)
            .map_err(|e| folder_fault(&self.index.parameters.name, "reading the index", &e))?;
        let started = Instant::now();
        let progress = |n: usize| {
            self.done.store(n as u64, Ordering::Relaxed);
            aside();
            !self.stop.load(Ordering::Relaxed)
        };
        let work = Work {
            vectors: content.vectors.into(),
            dim: manifest.model.dim,
            parameters,
            threads: self.threads,
            progress: &progress,
        };
        let built = engine.build(work);
        let (flat, order) = built.map_err(|e| io_fault("building the graph", &e))?;
        let build_time_secs = started.elapsed().as_secs_f64();
        // The graph numbers rows its own way: a query's own row is found by that.
        let live: Vec<u32> = generation.live_rows().collect();
        let place: std::collections::HashMap<u32, u32> =
            order.iter().zip(0..).map(|(old, new)| (live[*old as usize], new)).collect();
        let renumber = |queries: &[trials::Query]| {
            let mut queries = queries.to_vec();
            for query in &mut queries {
                query.not = query.not.and_then(|row| place.get(&row).copied());
                query
                    .right
                    .iter_mut()
                    .flatten()
                    .for_each(|row| *row = place.get(&*row).copied().unwrap_or(u32::MAX));
            }
            queries
        };
        let (tune, holdout, k) = (renumber(&eval.tune), renumber(&eval.holdout), eval.k());
        let search = |v: &[f32], k: usize, ef: usize| {
            flat.search(v, &SearchParameters { k, ef, live: None })
        };
        let (ef, is_found) =
            match (named_ef, narrowest(&self.widths, &tune, k, self.target, &search, &aside)) {
                (Some(ef), _) => (ef, false),
                (None, Some(ef)) => (ef, true),
                (None, None) => (find_ef(&tune, k, self.target, &search, &aside), true),
            };
        let all = if self.widths.is_empty() { vec![ef] } else { self.widths.clone() };
        let mut measures: Vec<(usize, Measure)> = all
            .into_iter()
            .map(|ef| (ef, measure(&holdout, k, &[&|v, k| search(v, k, ef)], &aside).remove(0)))
            .collect();
        let widths: Vec<WidthMetrics> =
            measures.iter().map(|(ef, measure)| measure.of_width(*ef)).collect();
        let chosen = measures.iter().position(|(width, _)| *width == ef).unwrap_or_default();
        let measured = measures.swap_remove(chosen).1;
        // What answers now, on the same queries.
        let (allowed, how) = (generation.allowed(None), |k: usize| SearchOptions {
            k,
            threads: 1,
            ..SearchOptions::default()
        });
        let now =
            measure(&eval.holdout, k, &[&|v, k| generation.search(v, &how(k), &allowed)], &aside)
                .remove(0)
                .figures();
        if self.stop.load(Ordering::Relaxed) {
            return Err(Fault::internal("the trial was told to end"));
        }
        let figures = measured.figures();
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
                p95_us: figures.p95_us,
                p99_us: measured.latency(0.99),
                recall_at_k: figures.recall,
                recall_low: figures.low,
                recall_high: figures.high,
                memory_bytes: flat.memory_bytes(),
                vectors: flat.store.len() as u64,
                eval_queries: holdout.len() as u64,
                orphans: flat.orphans(ef.max(64), self.threads, PROBE_ROWS).len() as u64,
                brute_force_latency_us: brute_force_us(&holdout, &|v| {
                    flat.store.exact(v, k, None, 1)
                }),
            },
            fingerprint: data.now,
            engine_version: env!("CARGO_PKG_VERSION").into(),
            eval: eval.info.id,
            by: self.by.into(),
            note: self.note,
            set: eval.info.name,
            k: Some(eval.info.k),
            target_recall: is_found.then_some(self.target),
            widths: Some(widths).filter(|_| !self.widths.is_empty()),
            live: Some(LiveMetrics {
                generation: manifest.number,
                config: config_of(manifest),
                p95_us: now.p95_us,
                recall_at_k: now.recall,
                recall_low: now.low,
                recall_high: now.high,
            }),
        };
        lock(&self.index.journal)
            .add(trial.clone())
            .map_err(|e| io_fault("writing the journal", &e))?;
        Ok(trial)
    }
}

impl IndexService {
    /// Runs one trial while saying how far it is; ends it if the caller hangs up.
    async fn attempt(&self, call: &Call, attempt: Attempt) -> Result<TrialRecord, Fault> {
        let trying = self.trying.lock().await;
        let _stop = StopOnDrop(Arc::clone(&attempt.stop));
        let (of, done) = (
            attempt.index.generation().map_or(0, |g| g.manifest.chunks),
            Arc::clone(&attempt.done),
        );
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
        if ask.ef_search.is_some() && ask.config.ef_search.is_some() {
            return Err(Fault::invalid_parameter(
                "ef_search",
                "expected here or in `config`, not in both",
            ));
        }
        let target = index.target(ask.target_recall)?.unwrap_or(TARGET_RECALL);
        let widths = widths(ask.ef_search)?;
        let attempt = Attempt {
            widths,
            eval: ask.eval,
            note: ask.note,
            ..Attempt::of(&index, ask.config, target, "user")
        };
        let trial = self.attempt(call, attempt).await?;
        let of = trial.metrics.vectors;
        Reply::of(&TrialOut::Done(TrialSummary { done: of, of, trial }))
    }

    pub(super) async fn trials(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let index = self.index(&name)?;
        index.trials_known()?;
        let tell = move || -> Result<TrialsOut, Fault> {
            let generation = index.generation();
            let data =
                generation.as_ref().map(|generation| index.data_names(generation)).transpose()?;
            let eval =
                data.as_ref().and_then(|data| evals::current_id(index.folder.path(), data, None));
            let journal = lock(&index.journal);
            let damage = journal.damage();
            let is_known = |name: &str| data.as_ref().is_some_and(|data| data.has(name));
            let mut known_as: Vec<String> = journal
                .trials
                .iter()
                .map(|t| t.fingerprint.clone())
                .filter(|name| is_known(name))
                .collect();
            known_as.retain(|name| data.as_ref().is_some_and(|data| data.now != *name));
            known_as.sort_unstable();
            known_as.dedup();
            let is_unknown =
                |t: &&TrialRecord| is_by_files(&t.fingerprint) && !is_known(&t.fingerprint);
            let unknown: Vec<String> =
                journal.trials.iter().filter(is_unknown).map(|t| t.id.clone()).collect();
            Ok(TrialsOut {
                trials: journal.trials.clone(),
                fingerprint: data.as_ref().map(|data| data.now.clone()),
                torn: damage.torn,
                quarantined: damage.quarantined,
                missing: Some(damage.missing).filter(|missing| *missing > 0),
                shortfall: journal.shortfall(),
                known_as: Some(known_as).filter(|names| !names.is_empty()),
                unknown_data: Some(unknown).filter(|ids| !ids.is_empty()),
                eval,
                live: generation.map(|generation| config_of(&generation.manifest)),
            })
        };
        Reply::of(&blocking(tell).await.map_err(|e| Fault::internal(chain(&e)))??)
    }

    pub(super) async fn best(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: BestIn = call.parameters()?;
        let index = self.index(&ask.name)?;
        let target = index.target(ask.target_recall)?;
        let choice = match (ask.by.as_deref(), target) {
            (Some("pareto"), _) | (None, None) => Choice::Better(Goal::Pareto),
            (Some("target") | None, Some(target)) => Choice::Better(Goal::Target(target)),
            (Some("target"), None) => {
                return Err(Fault::invalid_parameter(
                    "target_recall",
                    "expected, because `by` is `target`",
                ));
            }
            (Some("recall"), _) => Choice::Recall,
            (Some("latency"), _) => Choice::Latency,
            (Some(by), _) => {
                return Err(Fault::invalid_parameter(
                    "by",
                    format!("`{by}`, expected target, pareto, recall or latency"),
                ));
            }
        };
        let (generation, _) = index.current()?;
        index.trials_known()?;
        let choose = move || -> Result<BestOut, Fault> {
            let data = index.data_names(&generation)?;
            let eval = evals::current_id(index.folder.path(), &data, ask.eval.as_deref());
            let journal = lock(&index.journal);
            let on_data = journal.trials.iter().filter(|trial| data.has(&trial.fingerprint));
            let others = on_data.filter(|trial| eval.as_ref() != Some(&trial.eval)).count() as u64;
            Ok(BestOut {
                trial: eval
                    .as_ref()
                    .and_then(|eval| trials::best(&journal.trials, &data, eval, choice)),
                eval,
                by: Some(choice.name().to_owned()),
                target_recall: target.filter(|_| matches!(choice, Choice::Better(Goal::Target(_)))),
                other_queries: Some(others).filter(|others| *others > 0),
            })
        };
        Reply::of(&blocking(choose).await.map_err(|e| Fault::internal(chain(&e)))??)
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
        let of_axis = |asked: Option<Vec<u64>>, default: [u64; 3]| {
            asked.filter(|all| !all.is_empty()).unwrap_or_else(|| default.into())
        };
        let grid =
            Grid::new(of_axis(ask.m, [8, 16, 24]), of_axis(ask.ef_construction, [64, 100, 200]));
        let (target, widths) =
            (index.target(ask.target_recall)?.unwrap_or(TARGET_RECALL), widths(ask.ef_search)?);
        if grid.len() > GRID_MAX {
            let message =
                format!("a grid of {} ways to build, expected at most {GRID_MAX}", grid.len());
            return Err(Fault::invalid_parameter("m, ef_construction", message));
        }
        let most = bounded("trials", ask.trials, 1, GRID_MAX as u64, TRIALS)?;
        let (generation, _) = index.current()?;
        index.trials_known()?;
        // What cannot be built is said before the first is.
        for (m, ef_construction) in grid.all() {
            let config =
                Config { m: Some(m), ef_construction: Some(ef_construction), ..Config::default() };
            built_by(&config, &generation.manifest)?;
        }
        drop(generation);
        let (goal, of) = (Goal::Target(target), grid.len().min(most) as u64);
        let mut own: Vec<TrialRecord> = Vec::new();
        let mut best = None;
        for done in 1..=of {
            let Some((m, ef_construction)) =
                grid.next(goal, &tried(&own.iter().collect::<Vec<_>>(), goal))
            else {
                break;
            };
            let config =
                Config { m: Some(m), ef_construction: Some(ef_construction), ..Config::default() };
            let attempt = Attempt {
                widths: widths.clone(),
                eval: ask.eval.clone(),
                ..Attempt::of(&index, config, target, "autotune")
            };
            let trial = self.attempt(call, attempt).await?;
            best = best_beside(&index, &trial, goal).await?;
            own.push(trial.clone());
            if call.more {
                call.send(&AutotuneOut::Trial(AutotuneTrial {
                    done,
                    of,
                    trial,
                    best: best.clone(),
                }))
                .await?;
            }
        }
        let done = own.len() as u64;
        Reply::of(&AutotuneOut::Done(AutotuneSummary { done, of, trial: None, best }))
    }
}

/// The best of all trials that compare with one: on the same data and the same queries.
async fn best_beside(
    index: &Arc<Index>,
    trial: &TrialRecord,
    goal: Goal,
) -> Result<Option<TrialRecord>, Fault> {
    let (index, data, eval) = (Arc::clone(index), trial.fingerprint.clone(), trial.eval.clone());
    let choose = move || -> Result<_, Fault> {
        let names = match index.generation() {
            Some(generation) => Some(index.data_names(&generation)?),
            None => None,
        };
        // Unless the data has changed since.
        let names = names.filter(|names| names.now == data);
        Ok(names.and_then(|names| {
            trials::best(&lock(&index.journal).trials, &names, &eval, Choice::Better(goal))
        }))
    };
    blocking(choose).await.map_err(|e| Fault::internal(chain(&e)))?
}
