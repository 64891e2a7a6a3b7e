//! `Promote`: a challenger built beside the champion, measured on the same queries, and let answer
//! if it is better.
//!
//! Invariants: what is better [`crate::better`] says; generations of other data are never compared,
//! and answer only by force; one that was refused leaves nothing.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use brahman_card::Fault;
use brahman_card::interface::Progress;
use brahman_card::interface::index::{
    Config, Measurement, PromoteIn, PromoteOut, PromoteSummary, error,
};
use brahman_sidecar::{Call, Reply, blocking, chain};

use super::IndexService;
use super::evals::eval_of;
use super::history::load_generation;
use super::parameters::bounded;
use super::refresh::{content, cores};
use super::shelf::{Index, StopOnDrop, lock};
use super::trials::{PROBE_ROWS, PROGRESS_EVERY, TARGET_RECALL, built_by};
use crate::better::{self, Goal, Standing};
use crate::evals;
use crate::generation::{Generation, SearchOptions};
use crate::refresh::folder_fault;
use crate::threads::on_own_thread;
use crate::trials::{self, Choice, Measure, measure};

fn measured(measure: &Measure, orphans: usize) -> Measurement {
    Measurement {
        recall: measure.recall(),
        recall_low: measure.interval().0,
        p95_us: measure.latency(0.95),
        orphans: orphans as u64,
        queries: measure.recalls.len() as u64,
    }
}

impl IndexService {
    /// The configuration that a challenger is built by: the one asked for, or of the best trial;
    /// none for a generation that is there.
    fn challenger(
        ask: &PromoteIn,
        index: &Index,
        champion: &Generation,
        goal: Goal,
    ) -> Result<Option<Config>, Fault> {
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
                let chosen =
                    trials::with_best_width(found.ok_or_else(missing)?, Choice::Better(goal));
                Some(chosen.config)
            }
            (None, None, None) => {
                index.trials_known()?;
                let data = index.data_names(champion)?;
                let eval = evals::current_id(index.folder.path(), &data, ask.eval.as_deref());
                let journal = lock(&index.journal);
                let found = eval.and_then(|eval| {
                    trials::best(&journal.trials, &data, &eval, Choice::Better(goal))
                });
                let message = format!(
                    "index `{0}` has no trial on its data and these queries yet: `brahman index trial {0}`, or `autotune`",
                    ask.name
                );
                let missing =
                    || Fault::of(&error::NoSuchTrial { name: ask.name.clone() }, false, message);
                Some(found.ok_or_else(missing)?.config)
            }
            _ => {
                return Err(Fault::invalid_parameter(
                    "generation, trial, config",
                    "expected at most one of them",
                ));
            }
        };
        Ok(config)
    }

    pub(super) async fn promote(self: &Arc<Self>, call: &Call) -> Result<Reply, Fault> {
        let ask: PromoteIn = call.parameters()?;
        let index = self.index(&ask.name)?;
        let (champion, _) = index.current()?;
        let terms = Terms {
            target: index.target(ask.target_recall)?,
            force: ask.force.unwrap_or(false),
            eval: ask.eval.clone(),
        };
        let (looking, of, goal) =
            (Arc::clone(&index), Arc::clone(&champion), Goal::of(terms.target));
        let wanted = ask.generation;
        let find = move || Self::challenger(&ask, &looking, &of, goal);
        let config = blocking(find).await.map_err(|e| Fault::internal(chain(&e)))??;
        let claim = index.claim("promotion").await?;
        // What was refreshed until now is in the challenger, too.
        let (champion, _) = index.current()?;
        let _stop = StopOnDrop(Arc::clone(&claim.stop));
        let (done, of) = (Arc::new(AtomicU64::new(0)), champion.manifest.chunks);
        let (stop, counted, work_index) =
            (Arc::clone(&claim.stop), Arc::clone(&done), Arc::clone(&index));
        let work = move || -> Result<PromoteSummary, Fault> {
            let _claim = claim;
            let index = work_index;
            let challenger = match (config, wanted) {
                (Some(config), _) => {
                    let mut manifest =
                        champion.manifest.after(&champion.folder, index.next_number(), "promotion");
                    let (engine, parameters) = built_by(&config, &champion.manifest)?;
                    (manifest.engine, manifest.parameters) = (engine.name().into(), parameters);
                    manifest.ef_search =
                        bounded("ef_search", config.ef_search, 1, 65_536, manifest.ef_search)?;
                    // What was measured on the eval set is what was promoted.
                    manifest.recall_wanted =
                        manifest.recall_wanted.filter(|_| config.ef_search.is_none());
                    let progress = |n: usize| {
                        counted.store(n as u64, Ordering::Relaxed);
                        !stop.load(Ordering::Relaxed)
                    };
                    let content = content(&champion).map_err(|e| {
                        folder_fault(&index.parameters.name, "reading the index", &e)
                    })?;
                    let made = index.folder.prepare_base(
                        manifest,
                        &index.parameters.dataset,
                        content,
                        cores(),
                        &progress,
                    );
                    made.map_err(|e| {
                        folder_fault(&index.parameters.name, "building the challenger", &e)
                    })?
                }
                (None, Some(number)) => load_generation(
                    &index,
                    |_, m| m.number == number,
                    &format!("no generation {number}"),
                )?,
                (None, None) => return Err(Fault::internal("nothing to promote")),
            };
            judge(&index, &champion, challenger, &terms)
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

/// By what a challenger is judged.
struct Terms {
    target: Option<f64>,
    force: bool,
    /// The set of queries; the default one if none is named.
    eval: Option<String>,
}

/// What came of comparing two generations.
struct Comparison {
    champion: Measurement,
    challenger: Measurement,
    verdict: String,
    change: Option<String>,
    eval: Option<String>,
    lost_docs: u64,
}

/// Measures two generations on the same queries in turn, and lets the challenger answer if it is
/// better. One that does not, and never did, is removed.
fn judge(
    index: &Index,
    champion: &Generation,
    challenger: Generation,
    terms: &Terms,
) -> Result<PromoteSummary, Fault> {
    let compared = match compare(index, champion, &challenger, terms) {
        Ok(compared) => compared,
        Err(fault) => {
            index.folder.abandon(challenger);
            return Err(fault);
        }
    };
    let is_better = compared.verdict == "better";
    let promoted = is_better || terms.force;
    let of = challenger.manifest.chunks;
    let mut number = champion.manifest.number;
    if promoted {
        number = challenger.manifest.number;
        // Where nobody named a recall no more is promised than was measured.
        let target =
            terms.target.unwrap_or_else(|| TARGET_RECALL.min(compared.challenger.recall_low));
        let measured = compared.eval.is_some().then(|| compared.challenger.clone());
        let published = index.folder.publish(challenger, measured, target, !is_better);
        index.answer_with(
            published.map_err(|e| {
                folder_fault(&index.parameters.name, "publishing the challenger", &e)
            })?,
        );
    } else {
        index.folder.abandon(challenger);
        index.tidy();
    }
    let Comparison { champion, challenger, verdict, change, eval, lost_docs } = compared;
    let lost_docs = Some(lost_docs).filter(|lost| *lost > 0);
    Ok(PromoteSummary {
        done: of,
        of,
        promoted,
        verdict,
        generation: number,
        challenger,
        champion,
        change,
        lost_docs,
        eval,
    })
}

/// Documents, as they are in one generation, that another does not have so: how many.
fn lost(from: &Generation, to: &Generation) -> io::Result<u64> {
    let documents = |generation: &Generation| -> io::Result<HashSet<(String, [u8; 32])>> {
        generation
            .live_rows()
            .map(|row| generation.row(row).map(|row| (row.doc_id.to_owned(), *row.content_hash)))
            .collect()
    };
    Ok(documents(from)?.difference(&documents(to)?).count() as u64)
}

/// What was measured of champion and challenger, and what follows from it.
fn compare(
    index: &Index,
    champion: &Generation,
    challenger: &Generation,
    terms: &Terms,
) -> Result<Comparison, Fault> {
    let unread = |e: io::Error| folder_fault(&index.parameters.name, "reading the generations", &e);
    let (own_data, other_data) = (index.data_names(champion)?, index.data_names(challenger)?);
    // Other data is other questions and answers: no figure compares.
    if own_data.now != other_data.now {
        let (lost_docs, back) = (
            lost(champion, challenger).map_err(unread)?,
            lost(challenger, champion).map_err(unread)?,
        );
        let number = challenger.manifest.number;
        let verdict = format!(
            "refused: generation {number} has other data: {lost_docs} documents as they are now would be lost, and {back} of before would be \
             back, so there is nothing to compare; `brahman index rollback` goes back to it"
        );
        let none = Measurement::default;
        return Ok(Comparison {
            champion: none(),
            challenger: none(),
            verdict,
            change: None,
            eval: None,
            lost_docs,
        });
    }
    let (live_one, live_two) = (champion.allowed(None), challenger.allowed(None));
    let how = |k: usize| SearchOptions { k, threads: 1, ..SearchOptions::default() };
    // Rows have other numbers in another generation, and so does each query's own row.
    let own = eval_of(index, champion, &own_data, terms.eval.as_deref(), cores(), &|| ())?;
    let other = eval_of(index, challenger, &own_data, Some(&own.info.id), cores(), &|| ())?;
    let k = own.k();
    let (mut ones, mut twos) = (Vec::new(), Vec::new());
    for (one, two) in own.holdout.iter().zip(&other.holdout) {
        ones.extend(measure(
            std::slice::from_ref(one),
            k,
            &[&|v, k| champion.search(v, &how(k), &live_one)],
            &|| (),
        ));
        twos.extend(measure(
            std::slice::from_ref(two),
            k,
            &[&|v, k| challenger.search(v, &how(k), &live_two)],
            &|| (),
        ));
    }
    let (one, two) = (trials::joined(ones), trials::joined(twos));
    let orphans = |g: &Generation| {
        g.base
            .as_ref()
            .map_or(0, |b| b.flat.orphans(g.manifest.ef_search.max(64), cores(), PROBE_ROWS).len())
    };
    let (champion_measured, challenger_measured) =
        (measured(&one, orphans(champion)), measured(&two, orphans(challenger)));
    let verdict = verdict(Goal::of(terms.target), &challenger_measured, &one, &two);
    Ok(Comparison {
        champion: champion_measured,
        challenger: challenger_measured,
        verdict,
        change: Some(better::change(&one.figures(), &two.figures())),
        eval: Some(own.info.id),
        lost_docs: 0,
    })
}

/// `better`, or why it is not, of what the champion and the challenger measured.
fn verdict(goal: Goal, challenger: &Measurement, one: &Measure, two: &Measure) -> String {
    let (from, to) = (one.figures(), two.figures());
    if challenger.orphans > 0 {
        return format!(
            "refused: {} of {PROBE_ROWS} rows are orphans: no search finds them",
            challenger.orphans
        );
    }
    if let Goal::Target(target) = goal
        && !goal.is_met_by(&to)
    {
        return format!(
            "refused: recall {:.4} may be as low as {:.4}, the target is {target}",
            to.recall, to.low
        );
    }
    let change = better::change(&from, &to);
    match goal.compare(&to, &from) {
        Standing::Better => "better".to_owned(),
        Standing::Trade => {
            format!("inconclusive: {change}: one for the other; a target recall says which counts")
        }
        Standing::Worse | Standing::Alike => format!("inconclusive: {change}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_says_what_is_given_up_and_follows_the_target() {
        let of = |recall: f64, us: f64| Measure { recalls: vec![recall; 500], us: vec![us; 500] };
        let (exact, quick) = (of(1.0, 40.0), of(0.9654, 14.0));
        let said = |target: Option<f64>, orphans| {
            verdict(Goal::of(target), &measured(&quick, orphans), &exact, &quick)
        };
        assert_eq!(said(Some(0.94), 0), "better");
        assert!(said(Some(0.97), 0).starts_with("refused: recall 0.9654 may be as low as"));
        let trade = said(None, 0);
        assert!(
            trade.starts_with(
                "inconclusive: p95 14 µs instead of 40 µs, recall 0.9654 instead of 1.0000"
            ),
            "{trade}"
        );
        assert!(said(Some(0.94), 3).starts_with("refused: 3 of 1000 rows"));
        let slower = verdict(Goal::Target(0.94), &measured(&exact, 0), &quick, &exact);
        assert!(slower.starts_with("inconclusive: p95 40 µs instead of 14 µs"), "{slower}");
    }
}
