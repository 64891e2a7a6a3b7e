//! The shadow check on the mesh: which live queries are searched again, exactly, what the
//! generation before makes of them when a promise is broken, and going back to it if it finds more.

use std::io;
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::index::ShadowInfo;
use brahman_sidecar::chain;

use super::agent::Agent;
use super::shelf::{Index, lock};
use crate::better::mean;
use crate::evals::{self, NewSet, OwnQuery};
use crate::filter::{self, Filter};
use crate::folder::Pointer;
use crate::generation::{Generation, SearchOptions, Selection};
use crate::shadow::{Sample, Shadow, Verdict, goes_back, usual_k};
use crate::threads::on_own_thread;
use crate::trials::TIE;
use flat_hnsw::store::Neighbour;

/// Fewest live queries that are a set of their own: with half of them to judge by, fewer tell
/// nothing.
const LIVE_MIN: usize = 20;

/// Why the generation before does not answer again.
#[derive(Debug, thiserror::Error)]
enum RollbackError {
    /// The index is being changed, or cannot be.
    #[error(transparent)]
    Refused(#[from] Fault),
    /// It cannot be read, or `CURRENT` not be written.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// What is to be done about a broken promise.
enum Remedy {
    /// The generation before finds this much, which is more.
    GoBack { before: Box<Generation>, recall: f64 },
    /// What answers stays: why, and what the generation before finds, if it was asked.
    Stay { why: String, recall: Option<f64> },
    /// Another generation answers by now.
    None,
}

/// A live query.
#[derive(Clone, Copy, Debug)]
pub(super) struct LiveQuery<'a> {
    /// Its direction, with a length of 1.
    pub(super) vector: &'a [f32],
    /// How many rows are wanted.
    pub(super) k: usize,
    /// The filter, and the rows that it leaves.
    pub(super) filter: Option<&'a Filter>,
    pub(super) allowed: &'a Selection,
}

impl Index {
    /// Begins the check if what answers was promoted and not by force; it begins anew with every
    /// start of the module.
    pub(super) fn watch_promotion(&self) {
        let pointer = self.folder.pointer().ok().flatten();
        let promoted = |p: &Pointer| p.reason == "promotion";
        let watched = self
            .generation()
            .filter(|g| pointer.is_some_and(|p| promoted(&p) && p.generation == g.folder));
        let target =
            watched.as_ref().and_then(|g| g.manifest.target_recall.filter(|_| !g.manifest.forced));
        *lock(&self.shadow) = watched.zip(target).map(|(g, target)| Shadow::new(&g.folder, target));
    }

    /// What the check has come to.
    pub(super) fn shadow_info(&self) -> Option<ShadowInfo> {
        lock(&self.shadow).as_ref().map(|shadow| ShadowInfo {
            verdict: match shadow.verdict {
                Verdict::Open => "open",
                Verdict::Kept => "kept",
                Verdict::Broken => "broken",
            }
            .into(),
            checked: shadow.measure.recalls.len() as u64,
            recall: shadow.measure.recall(),
            target: shadow.target,
            before: shadow.before,
            stays: shadow.stays.clone(),
        })
    }

    /// Hears of a live query and its answer; checks some, one at a time, at the lowest priority.
    pub(super) fn shadow(
        self: &Arc<Self>,
        agent: &Arc<Agent>,
        generation: &Arc<Generation>,
        asked: &LiveQuery<'_>,
        found: &[Neighbour],
    ) {
        {
            let mut shadow = lock(&self.shadow);
            let Some(shadow) = shadow.as_mut().filter(|s| s.generation == generation.folder) else {
                return;
            };
            if !shadow.samples() {
                return;
            }
        }
        let Ok(turn) = Arc::clone(&self.checking).try_lock_owned() else { return };
        let (index, agent, generation) =
            (Arc::clone(self), Arc::clone(agent), Arc::clone(generation));
        let (query, k, allowed, filter) =
            (asked.vector.to_vec(), asked.k, asked.allowed.clone(), asked.filter.cloned());
        let scores: Vec<f32> = found.iter().map(|f| f.score).collect();
        let work = move || {
            let how = SearchOptions { k, exact: true, threads: 1, ..SearchOptions::default() };
            let truth = generation.search(&query, &how, &allowed);
            let Some(floor) = truth.last().map(|f| f.score - TIE) else { return };
            let sample = Sample { vector: query, k, filter, floor, truth: truth.len() };
            let recall = sample.recall(scores.into_iter());
            let verdict = lock(&index.shadow)
                .as_mut()
                .filter(|s| s.generation == generation.folder)
                .and_then(|s| s.add(recall, sample));
            drop(turn);
            if verdict == Some(Verdict::Broken) {
                index.mend_promise(&agent, &generation);
            }
        };
        drop(on_own_thread("the shadow check", true, work));
    }

    /// Asks the generation before the same queries, and lets it answer again if it finds more; else
    /// says that what answers stays, keeps the queries as a set, and wants a trial on them.
    fn mend_promise(self: &Arc<Self>, agent: &Agent, broken: &Generation) {
        let taken =
            lock(&self.shadow).as_mut().filter(|s| s.generation == broken.folder).map(|s| {
                let samples = s.take_samples();
                (s.target, s.measure.clone(), samples)
            });
        let Some((target, measure, samples)) = taken else { return };
        let name = &self.parameters.name;
        let (recall, checked) = (measure.recall(), measure.recalls.len());
        let reason = format!(
            "shadow check: recall {recall:.4} of {checked} live queries, promised {target}"
        );
        let outcome = self
            .remedy(broken, &samples, target, &measure.recalls)
            .map_err(RollbackError::from)
            .and_then(|remedy| match remedy {
                Remedy::GoBack { before, recall } => self.go_back(
                    broken,
                    *before,
                    &format!("{reason}, {recall:.4} by the one before"),
                ),
                Remedy::Stay { why, recall } => {
                    let wish = self.wish_for_trial(agent, broken, &samples);
                    let stays = format!("{why}; {wish}");
                    tracing::warn!(
                        index = name,
                        "{reason}; generation {} keeps answering: {stays}",
                        broken.manifest.number
                    );
                    if let Some(shadow) =
                        lock(&self.shadow).as_mut().filter(|s| s.generation == broken.folder)
                    {
                        (shadow.before, shadow.stays) = (recall, Some(stays));
                    }
                    Ok(())
                }
                Remedy::None => Ok(()),
            });
        if let Err(error) = outcome {
            tracing::error!(index = name, "{reason}; going back failed: {}", chain(&error));
            // Checked anew: the next verdict tries again.
            let mut shadow = lock(&self.shadow);
            if shadow.as_ref().is_some_and(|s| s.generation == broken.folder) {
                *shadow = Some(Shadow::new(&broken.folder, target));
            }
        }
    }

    /// What the generation before finds of the same queries, and what follows.
    fn remedy(
        &self,
        broken: &Generation,
        samples: &[Sample],
        target: f64,
        now: &[f64],
    ) -> io::Result<Remedy> {
        let stay = |why: &str| Ok(Remedy::Stay { why: why.to_owned(), recall: None });
        let Some(pointer) =
            self.folder.pointer()?.filter(|pointer| pointer.generation == broken.folder)
        else {
            return Ok(Remedy::None);
        };
        if pointer.pinned {
            return stay("it is pinned");
        }
        let Some(parent) = pointer.before.or_else(|| broken.manifest.parent.clone()) else {
            return stay("there is none before it");
        };
        let before = match self.folder.load(&parent, None) {
            Ok(before) => before,
            Err(error) => {
                return stay(&format!("the one before it cannot be read: {}", chain(&error)));
            }
        };
        // Going back to other rows would lose documents, or bring back what is gone.
        if before.data_name()? != broken.data_name()? {
            return stay("the one before it has other documents");
        }
        let source = &self.parameters.dataset;
        let mut recalls = Vec::with_capacity(samples.len());
        for sample in samples {
            let filtered = sample
                .filter
                .as_ref()
                .map(|filter| filter::allowed(filter, &before, source))
                .transpose();
            let allowed = before.allowed(filtered.map_err(io::Error::other)?.as_ref());
            let how = SearchOptions { k: sample.k, threads: 1, ..SearchOptions::default() };
            recalls.push(
                sample
                    .recall(before.search(&sample.vector, &how, &allowed).iter().map(|f| f.score)),
            );
        }
        let recall = mean(&recalls);
        if goes_back(target, now, &recalls) {
            return Ok(Remedy::GoBack { before: Box::new(before), recall });
        }
        let why = format!(
            "generation {}, before it, finds no more of the same queries: {recall:.4}",
            before.manifest.number
        );
        Ok(Remedy::Stay { why, recall: Some(recall) })
    }

    /// Lets the generation before answer again.
    fn go_back(
        self: &Arc<Self>,
        broken: &Generation,
        before: Generation,
        reason: &str,
    ) -> Result<(), RollbackError> {
        let claim = self.claim_now("rollback")?;
        if self.generation().is_none_or(|g| g.folder != broken.folder) {
            return Ok(());
        }
        if self.pinned()? {
            tracing::warn!(
                index = self.parameters.name,
                "{reason}; it keeps answering, because it is pinned"
            );
            return Ok(());
        }
        self.folder.point(&before.folder, reason, false)?;
        let number = before.manifest.number;
        self.answer_with(before);
        drop(claim);
        let name = &self.parameters.name;
        tracing::warn!(
            index = name,
            "{reason}; generation {number} answers again, in place of {}",
            broken.manifest.number
        );
        Ok(())
    }

    /// Keeps the queries that were checked as the set `live`, and queues a trial on them; what came
    /// of that, in words.
    fn wish_for_trial(&self, agent: &Agent, generation: &Generation, samples: &[Sample]) -> String {
        // A set asks of all rows.
        let own: Vec<&Sample> = samples.iter().filter(|sample| sample.filter.is_none()).collect();
        let given: Vec<OwnQuery> = own
            .iter()
            .map(|sample| OwnQuery { vector: sample.vector.clone(), answers: Vec::new() })
            .collect();
        let Some(k) = usual_k(samples).filter(|_| given.len() >= LIVE_MIN) else {
            return format!("{} of the queries have no filter, too few to tune it on", given.len());
        };
        let name = &self.parameters.name;
        let kept = generation.data_name().map_err(evals::EvalError::from).and_then(|data| {
            let new = NewSet { name: evals::LIVE, data: &data, k };
            evals::given(self.folder.path(), generation, &new, &given, true)
        });
        match kept {
            Err(error) => format!("the queries cannot be kept: {}", chain(&error)),
            Ok(_) if agent.tries() => {
                agent.enqueue_on(name, Some(evals::LIVE));
                format!("a trial on {} of these queries is queued", given.len())
            }
            Ok(_) => format!(
                "`brahman index autotune {name} --set {}` tunes it on {} of these queries",
                evals::LIVE,
                given.len()
            ),
        }
    }
}
