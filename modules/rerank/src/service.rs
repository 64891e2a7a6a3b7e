//! `org.brahman.Rerank` for any engine.

use std::sync::Arc;
use std::time::Instant;

use brahman_card::interface::embed::FailedText;
use brahman_card::interface::rerank::{self, RankedText, RerankIn, RerankOut};
use brahman_card::wire::parameters;
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, Reply, Service};

use crate::engine::{Engine, PairOutcome};

/// Texts in one call: minutes of a small model on a CPU, and far more than anybody reads.
const TEXTS_MAX: usize = 10_000;
/// Longest query: far more than any window holds, and little beside a message.
const QUERY_BYTES_MAX: usize = 1 << 20;

/// Answers the interface by way of an engine.
#[derive(Debug)]
pub struct RerankService<E> {
    engine: Arc<E>,
}

impl<E: Engine> RerankService<E> {
    /// A service for this engine.
    #[must_use]
    pub fn new(engine: Arc<E>) -> Self {
        Self { engine }
    }

    async fn rerank(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        let RerankIn { query, texts, top_n, truncate, partial } = call.parameters()?;
        check(&query, texts.len(), top_n)?;
        let count = texts.len();
        let partial = partial.unwrap_or(false);
        let outcomes = if texts.is_empty() {
            Vec::new()
        } else {
            Arc::clone(&self.engine).scores(query, texts, truncate.unwrap_or(true)).await?
        };
        if outcomes.len() != count {
            return Err(Fault::internal(format!(
                "{} scores came for {count} texts",
                outcomes.len()
            )));
        }
        if !partial && let Some(fault) = outcomes.iter().find_map(|one| one.as_ref().err()) {
            return Err(fault.clone());
        }
        let failed: Vec<FailedText> = outcomes
            .iter()
            .enumerate()
            .filter_map(|(i, one)| Some(failure(i, one.as_ref().err()?)))
            .collect();
        let identity = self.engine.identity();
        Reply::of(&RerankOut {
            results: ranked(&outcomes, top_n),
            model: identity.model.clone(),
            fingerprint: identity.fingerprint.clone(),
            truncated: outcomes
                .iter()
                .enumerate()
                .filter_map(|(i, one)| one.as_ref().ok()?.truncation(i))
                .collect(),
            tokens: outcomes.iter().flatten().map(|one| u64::from(one.kept)).sum(),
            device: identity.device.clone(),
            elapsed_us: started.elapsed().as_micros().try_into().unwrap_or(u64::MAX),
            mock: identity.mock,
            sigmoid: identity.sigmoid,
            precision: identity.precision.clone(),
            warnings: self.engine.warnings(),
            failed: Some(failed).filter(|failed| !failed.is_empty()),
        })
    }
}

/// What is said before anything is computed.
fn check(query: &str, texts: usize, top_n: Option<u64>) -> Result<(), Fault> {
    parameters::has_words("query", query)?;
    if query.len() > QUERY_BYTES_MAX {
        return Err(Fault::invalid_parameter(
            "query",
            format!("{} bytes, expected at most {QUERY_BYTES_MAX}", query.len()),
        ));
    }
    if texts > TEXTS_MAX {
        return Err(Fault::invalid_parameter(
            "texts",
            format!("{texts} texts, expected at most {TEXTS_MAX}"),
        ));
    }
    if top_n == Some(0) {
        return Err(Fault::invalid_parameter("top_n", "0, expected at least 1"));
    }
    Ok(())
}

/// The texts that have a score, the best first; equals stay in the order of the call.
fn ranked(outcomes: &[PairOutcome], top_n: Option<u64>) -> Vec<RankedText> {
    let mut scored: Vec<_> = outcomes
        .iter()
        .enumerate()
        .filter_map(|(index, one)| Some((index, one.as_ref().ok()?)))
        .collect();
    // Stable.
    scored.sort_by(|(_, a), (_, b)| b.relevance.total_cmp(&a.relevance));
    scored.truncate(top_n.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX)));
    scored
        .into_iter()
        .map(|(index, one)| RankedText { index: index as u64, score: one.score })
        .collect()
}

fn failure(index: usize, fault: &Fault) -> FailedText {
    FailedText {
        index: index as u64,
        error: fault.name.to_string(),
        message: fault.message().to_owned(),
    }
}

impl<E: Engine> Service for RerankService<E> {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&rerank::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        match call.method() {
            "Rerank" => self.rerank(&call).await,
            "Info" => Reply::of(&self.engine.info()),
            _ => Err(call.unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::PairScore;

    fn scored(relevance: f64) -> PairOutcome {
        Ok(PairScore {
            relevance,
            score: 1.0,
            tokens: 3,
            kept: 3,
            cuts_query: false,
            is_least: false,
        })
    }

    #[test]
    fn the_best_come_first_equals_in_the_order_of_the_call_and_failures_are_left_out() {
        let outcomes =
            [scored(1.0), Err(Fault::internal("x")), scored(3.0), scored(1.0), scored(2.0)];
        let order =
            |top_n| ranked(&outcomes, top_n).iter().map(|text| text.index).collect::<Vec<_>>();
        assert_eq!(
            order(None),
            [2, 4, 0, 3],
            "their scores are all 1, and they are told apart all the same"
        );
        assert_eq!((order(Some(2)), order(Some(u64::MAX)).len()), (vec![2, 4], 4));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_name() {
        let refused = |query: &str, texts, top_n| {
            check(query, texts, top_n).expect_err("refused").message().to_owned()
        };
        assert!(refused(" \n", 1, None).contains("`query`"));
        assert!(refused(&"x".repeat(QUERY_BYTES_MAX + 1), 1, None).contains("`query`"));
        assert!(refused("x", TEXTS_MAX + 1, None).contains("`texts`"));
        assert!(refused("x", 1, Some(0)).contains("`top_n`"));
        assert_eq!(check("x", 0, Some(1)), Ok(()));
    }

    proptest! {
        #[test]
        fn an_order_has_every_text_once(
            relevances in prop::collection::vec(-9.0_f64..9.0, 0..50),
            top_n in prop::option::of(1_u64..60),
        ) {
            let outcomes: Vec<PairOutcome> =
                relevances.iter().map(|relevance| scored(*relevance)).collect();
            let order: Vec<usize> =
                ranked(&outcomes, top_n).iter().map(|text| text.index as usize).collect();
            prop_assert_eq!(
                order.len(),
                top_n.map_or(relevances.len(), |n| relevances.len().min(n as usize))
            );
            prop_assert!(order.windows(2).all(|pair| relevances[pair[0]] >= relevances[pair[1]]));
            let mut once = order.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), order.len());
        }
    }
}
