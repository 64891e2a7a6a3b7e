//! The mock: the share of words that a query and a text have in common, a pure function of both, on
//! every machine and day.

use std::collections::BTreeSet;
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::embed::Device;
use brahman_card::interface::rerank::InfoOut;

use crate::engine::{Engine, Identity, PairOutcome, PairScore};

/// Scores by shared words.
#[derive(Debug)]
pub struct Mock {
    identity: Identity,
}

impl Default for Mock {
    fn default() -> Self {
        let identity = Identity {
            model: "mock-overlap".to_owned(),
            fingerprint: "mock-overlap-v1".to_owned(),
            device: "cpu".to_owned(),
            mock: true,
            ..Identity::default()
        };
        Self { identity }
    }
}

/// The words of a text, lower case, each once.
fn words(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// How much of their words a query and a text share, between 0 (nothing) and 1 (all): twice the
/// words that both have over the words of each (Dice's coefficient).
#[must_use]
pub fn overlap(query: &str, text: &str) -> f64 {
    let (query, text) = (words(query), words(text));
    let shared = query.intersection(&text).count();
    // Of nothing and nothing there is nothing in common.
    (2 * shared) as f64 / (query.len() + text.len()).max(1) as f64
}

impl Engine for Mock {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn scores(
        self: Arc<Self>,
        query: String,
        texts: Vec<String>,
        _truncate: bool,
    ) -> Result<Vec<PairOutcome>, Fault> {
        let score = |text: &String| {
            let relevance = overlap(&query, text);
            let tokens = u32::try_from(words(&query).len() + words(text).len()).unwrap_or(u32::MAX);
            // No window: a mock reads any text whole.
            Ok(PairScore {
                relevance,
                score: relevance as f32,
                tokens,
                kept: tokens,
                cuts_query: false,
                is_least: false,
            })
        };
        Ok(texts.iter().map(score).collect())
    }

    fn warnings(&self) -> Option<Vec<String>> {
        None
    }

    fn info(&self) -> InfoOut {
        InfoOut {
            model: self.identity.model.clone(),
            fingerprint: self.identity.fingerprint.clone(),
            max_tokens: 0,
            mock: true,
            device: Device {
                requested: "cpu".into(),
                active: "cpu".into(),
                reason: "a mock computes nothing".into(),
            },
            sigmoid: false,
            precision: None,
            gpu: None,
            runtime: None,
            queue: 0,
            computed: 0,
            cancelled: 0,
            recipe: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_scores_are_the_same_for_ever() {
        let of = |text: &str| (overlap("where do backups go", text) * 1000.0).round() as u32;
        // A change here changes the order in which every test reads.
        assert_eq!(of("where do backups go"), 1000);
        assert_eq!(of("Backups go to the bucket called rescue."), 364);
        assert_eq!(of("the quarterly report"), 0);
        assert_eq!((of(""), (overlap("", "") * 1000.0) as u32), (0, 0));
    }

    proptest! {
        #[test]
        fn a_score_is_a_share_that_knows_no_order_no_capitals_and_no_marks(
            query in prop::collection::vec("[a-z]{1,6}", 0..8),
            text in prop::collection::vec("[a-z]{1,6}", 0..8),
        ) {
            let (said, heard) = (query.join(" "), text.join(" "));
            let score = overlap(&said, &heard);
            prop_assert!((0.0..=1.0).contains(&score));
            prop_assert_eq!(score, overlap(&heard, &said), "both ways");
            let shouted =
                text.iter().rev().map(|word| word.to_uppercase()).collect::<Vec<_>>().join("! ");
            prop_assert_eq!(score, overlap(&said, &shouted));
        }

        #[test]
        fn a_word_of_the_query_raises_a_score_and_a_strange_one_lowers_it(
            query in prop::collection::btree_set("[a-m]{1,6}", 1..8),
            strange in prop::collection::btree_set("[n-z]{1,6}", 1..8),
        ) {
            let said = query.iter().cloned().collect::<Vec<_>>().join(" ");
            let mut text = strange.iter().cloned().collect::<Vec<_>>().join(" ");
            let mut before = overlap(&said, &text);
            prop_assert_eq!(before, 0.0);
            for word in &query {
                text = format!("{text} {word}");
                let after = overlap(&said, &text);
                prop_assert!(after > before, "{} {} {}", said, text, after);
                before = after;
            }
            let longer = format!("{text} zzzzzzz");
            prop_assert!(overlap(&said, &longer) < before);
            prop_assert_eq!(overlap(&said, &said), 1.0);
        }
    }
}
