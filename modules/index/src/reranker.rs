//! Hits in a reranker's order: the mesh is asked to read the query beside each hit, and its scores
//! take the place of the search's.
//!
//! Invariants: a hit that comes back is one that was found, and comes back once; a hit without a
//! score is named; where nobody reranks, that is the answer, unless the caller said that the
//! search's own order will do, and then the reply says why it is that.

use std::collections::BTreeMap;
use std::time::Duration;

use brahman_card::Fault;
use brahman_card::interface::broker::error::ProviderFailed;
use brahman_card::interface::index::{Hit, RerankReport, RerankStep, UnrankedHit};
use brahman_card::interface::rerank::{RerankIn, RerankOut, method};
use brahman_sidecar::{CallOptions, Client, Deadline};

/// Hits that are found and reranked unless the call says how many: what a person looks at some
/// screens of, and seconds of a small model.
const CANDIDATES_DEFAULT: u64 = 50;
/// Most hits that are reranked: minutes of a small model on a CPU.
const CANDIDATES_MAX: u64 = 1000;
/// Longest wait for a reranker: it may have to load its model, and read the most candidates.
const PATIENCE: Duration = Duration::from_secs(300);

/// How a search's hits are to be reranked.
#[derive(Clone, Debug)]
pub struct RerankPlan {
    /// What the hits are to answer.
    pub query: String,
    /// How many are found and reranked.
    pub candidates: u64,
    /// How many of them are answered.
    pub wanted: u64,
    /// Model that must rerank.
    model: Option<String>,
    /// Whether the search's own order will do.
    optional: bool,
    /// Context of the call.
    context: Option<String>,
    deadline: Deadline,
}

/// Hits as they are answered, and what became of the wish.
#[derive(Debug)]
pub struct RerankedHits {
    /// The best first, at most as many as were wanted.
    pub hits: Vec<Hit>,
    /// What the reply says of it.
    pub report: RerankReport,
}

impl RerankPlan {
    /// From a call's parameters: `query` is its text, if it has one, and `wanted` the number of
    /// hits.
    ///
    /// # Errors
    /// `InvalidParameter`, which names the one that makes no sense.
    pub fn of(
        step: RerankStep,
        query: Option<&str>,
        wanted: u64,
        context: Option<String>,
        deadline: Deadline,
    ) -> Result<Self, Fault> {
        let RerankStep { model, candidates, optional } = step;
        let Some(query) = query else {
            return Err(Fault::invalid_parameter(
                "rerank",
                "a reranker reads the query in words: pass `text`, and no vector",
            ));
        };
        if wanted > CANDIDATES_MAX {
            let why =
                format!("{wanted}, expected at most {CANDIDATES_MAX} where hits are reranked");
            return Err(Fault::invalid_parameter("k", why));
        }
        let candidates = candidates.unwrap_or(CANDIDATES_DEFAULT.max(wanted));
        if !(wanted..=CANDIDATES_MAX).contains(&candidates) {
            let why = format!("{candidates}, expected {wanted} (`k`) to {CANDIDATES_MAX}");
            return Err(Fault::invalid_parameter("rerank.candidates", why));
        }
        Ok(Self {
            query: query.to_owned(),
            candidates,
            wanted,
            model,
            optional: optional.unwrap_or(false),
            context,
            deadline,
        })
    }

    /// Has hits reranked.
    ///
    /// # Errors
    /// What the mesh or the reranker says, unless the search's own order will do.
    pub async fn run(self, client: &Client, hits: Vec<Hit>) -> Result<RerankedHits, Fault> {
        let candidates = hits.len() as u64;
        if hits.is_empty() {
            return Ok(RerankedHits {
                hits,
                report: RerankReport { done: true, ..RerankReport::default() },
            });
        }
        let ask = RerankIn {
            query: self.query,
            texts: hits.iter().map(|hit| hit.text.clone()).collect(),
            top_n: None,
            truncate: Some(true),
            partial: Some(true),
        };
        let require = self
            .model
            .map(|model| BTreeMap::from([("model".to_owned(), model)]))
            .unwrap_or_default();
        let deadline = Some(self.deadline.left().map_or(PATIENCE, |left| left.min(PATIENCE)));
        let options =
            CallOptions { deadline, context: self.context, require, ..CallOptions::default() };
        let wanted = usize::try_from(self.wanted).unwrap_or(usize::MAX);
        match client.call_method::<method::Rerank>(&ask, &options).await {
            Ok(answer) => reranked(hits, answer.value, answer.provider, wanted),
            Err(error) if self.optional => {
                let fault = Fault::from(error);
                tracing::warn!("a search is not reranked: {fault}");
                let (name, message) = (fault.name.to_string(), fault.message().to_owned());
                let report = RerankReport {
                    done: false,
                    candidates,
                    error: Some(name),
                    message: Some(message),
                    ..RerankReport::default()
                };
                let mut hits = hits;
                hits.truncate(wanted);
                Ok(RerankedHits { hits, report })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The hits in the order of a reply.
fn reranked(
    hits: Vec<Hit>,
    out: RerankOut,
    provider: Option<String>,
    wanted: usize,
) -> Result<RerankedHits, Fault> {
    let candidates = hits.len();
    let unexpected = || {
        let label = provider.clone().unwrap_or_default();
        let message = format!(
            "the reranker ({}) did not answer for each of {candidates} texts once: unexpected reply",
            out.model
        );
        Fault::of(&ProviderFailed { label }, false, message)
    };
    let mut found: Vec<Option<Hit>> = hits.into_iter().map(Some).collect();
    let mut take =
        |index: u64| usize::try_from(index).ok().and_then(|at| found.get_mut(at)?.take());
    let mut ranked = Vec::with_capacity(out.results.len());
    for one in &out.results {
        let hit = take(one.index).ok_or_else(unexpected)?;
        ranked.push(Hit { search_score: Some(hit.score), score: one.score, ..hit });
    }
    let mut failed = Vec::new();
    for one in out.failed.iter().flatten() {
        let hit = take(one.index).ok_or_else(unexpected)?;
        failed.push(UnrankedHit {
            doc_id: hit.doc_id,
            chunk: hit.chunk,
            error: one.error.clone(),
            message: one.message.clone(),
        });
    }
    if ranked.len() + failed.len() != candidates {
        return Err(unexpected());
    }
    ranked.truncate(wanted);
    let report = RerankReport {
        done: true,
        candidates: candidates as u64,
        model: Some(out.model.clone()),
        fingerprint: Some(out.fingerprint.clone()),
        provider: provider.clone(),
        sigmoid: Some(out.sigmoid),
        mock: out.mock.then_some(true),
        truncated: out.truncated.len() as u64,
        failed: Some(failed).filter(|failed| !failed.is_empty()),
        error: None,
        message: None,
    };
    Ok(RerankedHits { hits: ranked, report })
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::embed::FailedText;
    use brahman_card::interface::rerank::RankedText;

    use super::*;

    fn hits(count: usize) -> Vec<Hit> {
        (0..count).map(|n| Hit { doc_id: format!("d{n}"), score: 0.5, ..Hit::default() }).collect()
    }

    fn out(order: &[u64]) -> RerankOut {
        let results = order
            .iter()
            .enumerate()
            .map(|(at, index)| RankedText { index: *index, score: 1.0 - at as f32 })
            .collect();
        RerankOut { results, model: "m".to_owned(), ..RerankOut::default() }
    }

    #[test]
    fn hits_come_in_the_rerankers_order_with_both_scores() {
        let done = reranked(hits(3), out(&[2, 0, 1]), Some("rerank-real".to_owned()), 2)
            .expect("reranked");
        let ids: Vec<&str> = done.hits.iter().map(|hit| hit.doc_id.as_str()).collect();
        assert_eq!(
            (ids, done.hits[1].score, done.hits[1].search_score),
            (vec!["d2", "d0"], 0.0, Some(0.5))
        );
        assert!(
            done.report.done
                && done.report.candidates == 3
                && done.report.provider.as_deref() == Some("rerank-real")
        );
    }

    #[test]
    fn a_hit_without_a_score_is_named_and_a_reply_that_loses_one_is_refused() {
        let failed =
            Some(vec![FailedText { index: 1, error: "e".to_owned(), message: "why".to_owned() }]);
        let done = reranked(hits(2), RerankOut { failed, ..out(&[0]) }, None, 9).expect("reranked");
        let named = done.report.failed.expect("one");
        assert_eq!(
            (done.hits.len(), named[0].doc_id.as_str(), named[0].message.as_str()),
            (1, "d1", "why")
        );
        for wrong in [&[0][..], &[0, 0], &[0, 2], &[0, 1, 1]] {
            assert!(reranked(hits(2), out(wrong), None, 9).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_name() {
        let plan = |candidates, query, wanted| {
            let step = RerankStep { candidates, ..RerankStep::default() };
            RerankPlan::of(step, query, wanted, None, Deadline::NEVER).map(|plan| plan.candidates)
        };
        assert_eq!(
            (plan(None, Some("q"), 10), plan(None, Some("q"), 80), plan(Some(20), Some("q"), 20)),
            (Ok(50), Ok(80), Ok(20))
        );
        for (got, word) in [
            (plan(None, None, 10), "`rerank`"),
            (plan(Some(9), Some("q"), 10), "`rerank.candidates`"),
            (plan(Some(5000), Some("q"), 10), "`rerank.candidates`"),
            (plan(None, Some("q"), 5000), "`k`"),
        ] {
            let fault = got.expect_err(word);
            assert!(fault.message().contains(word), "{fault}");
        }
    }
}
