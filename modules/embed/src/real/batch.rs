//! What to run next, purely: the most urgent text, and with it others of like length, up to a
//! budget of tokens.
//!
//! Texts of like length share a batch because a batch is padded to its longest; the budget counts
//! padding. Small calls (somebody waits at a prompt) go before large ones (a refresh), but every
//! eighth batch is the other way round, so that neither starves.

use std::collections::{BTreeMap, HashMap};

use brahman_models::passes::PassBudget;
use brahman_sidecar::Deadline;

/// A call of at most this many texts is somebody waiting.
pub const INTERACTIVE_MAX: usize = 8;
/// Every this many batches, the bulk goes first.
const BULK_TURN: u64 = 8;

/// How urgent a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Of a small call.
    Interactive,
    /// Of a large one.
    Bulk,
}

/// Order within a class: by deadline, then by arrival.
type Urgency = (Deadline, u64);

/// Texts of one class, by urgency and by length.
#[derive(Debug, Default)]
struct Lane {
    urgent: BTreeMap<Urgency, usize>,
    by_length: BTreeMap<(usize, u64), Urgency>,
}

/// Texts that wait, and the order in which batches take them.
#[derive(Debug)]
pub struct Planner<T> {
    lanes: [Lane; 2],
    items: HashMap<u64, T>,
    arrivals: u64,
    batches: u64,
    budget: PassBudget,
}

impl<T> Planner<T> {
    /// A planner whose batches fit `budget`; a longer single text runs alone.
    #[must_use]
    pub fn new(budget: PassBudget) -> Self {
        Self { lanes: Default::default(), items: HashMap::new(), arrivals: 0, batches: 0, budget }
    }

    /// How many texts are waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether no text is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds a text of `tokens` tokens.
    pub fn push(&mut self, class: Class, deadline: Deadline, tokens: usize, item: T) {
        self.arrivals += 1;
        let urgency = (deadline, self.arrivals);
        let lane = &mut self.lanes[class as usize];
        lane.urgent.insert(urgency, tokens);
        lane.by_length.insert((tokens, self.arrivals), urgency);
        self.items.insert(self.arrivals, item);
    }

    /// Takes the next batch.
    pub fn next_batch(&mut self) -> Vec<T> {
        self.batches += 1;
        let mut order = [0, 1];
        if self.batches.is_multiple_of(BULK_TURN) {
            order.reverse();
        }
        let Some(lane) = order
            .into_iter()
            .find(|i| !self.lanes[*i].urgent.is_empty())
            .map(|i| &mut self.lanes[i])
        else {
            return Vec::new();
        };
        let Some((first, tokens)) = lane.urgent.first_key_value().map(|(u, t)| (*u, *t)) else {
            return Vec::new();
        };
        lane.urgent.remove(&first);
        lane.by_length.remove(&(tokens, first.1));
        let mut chosen = vec![first.1];
        let mut longest = tokens;
        loop {
            let shorter =
                lane.by_length.range(..(tokens, u64::MAX)).next_back().map(|(k, u)| (*k, *u));
            let longer = lane.by_length.range((tokens, u64::MAX)..).next().map(|(k, u)| (*k, *u));
            // The nearer in length; a shorter one on a tie, for it pads nobody else.
            let pick = match (shorter, longer) {
                (Some(s), Some(l)) if l.0.0 - tokens < tokens - s.0.0 => l,
                (Some(s), _) => s,
                (None, Some(l)) => l,
                (None, None) => break,
            };
            let width = longest.max(pick.0.0);
            if !self.budget.holds(chosen.len() + 1, width) {
                break;
            }
            longest = width;
            lane.by_length.remove(&pick.0);
            lane.urgent.remove(&pick.1);
            chosen.push(pick.0.1);
        }
        chosen.iter().filter_map(|arrival| self.items.remove(arrival)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn planner<T>(tokens: usize, attention: usize) -> Planner<T> {
        Planner::new(PassBudget { tokens, attention })
    }

    #[test]
    fn a_small_call_overtakes_a_large_one_but_not_for_ever() {
        let mut planner = planner(10, usize::MAX);
        for i in 0..100 {
            planner.push(Class::Bulk, Deadline::NEVER, 10, ("bulk", i));
        }
        for i in 0..20 {
            planner.push(Class::Interactive, Deadline::NEVER, 10, ("small", i));
        }
        let order: Vec<&str> = (0..16).map(|_| planner.next_batch()[0].0).collect();
        assert_eq!(order.iter().filter(|kind| **kind == "bulk").count(), 2);
        assert_eq!(order[0], "small");
    }

    #[test]
    fn like_lengths_share_a_batch() {
        let mut planner = planner(400, usize::MAX);
        for tokens in [100, 10, 99, 11, 12, 101, 98] {
            planner.push(Class::Bulk, Deadline::NEVER, tokens, tokens);
        }
        let mut first = planner.next_batch();
        first.sort_unstable();
        assert_eq!(first, [99, 100, 101], "a fourth row would be padded past the budget");
    }

    #[test]
    fn long_texts_do_not_share_a_batch_whose_attention_would_not_fit() {
        let mut planner = planner(usize::MAX, 2 * 1000 * 1000);
        for tokens in [1000, 990, 980, 10, 9] {
            planner.push(Class::Bulk, Deadline::NEVER, tokens, tokens);
        }
        assert_eq!(planner.next_batch(), [1000, 990]);
        assert_eq!(planner.next_batch(), [980, 10], "padded to the longer");
    }

    proptest! {
        #[test]
        fn every_text_runs_once_within_the_budget_and_the_most_urgent_first(
            texts in prop::collection::vec((1_usize..300, any::<bool>()), 1..120),
            budget in 100_usize..2000,
        ) {
            let mut planner = planner(budget, usize::MAX);
            for (i, (tokens, small)) in texts.iter().enumerate() {
                let class = if *small { Class::Interactive } else { Class::Bulk };
                planner.push(class, Deadline::NEVER, *tokens, i);
            }
            let mut done = Vec::new();
            while !planner.is_empty() {
                let batch = planner.next_batch();
                prop_assert!(!batch.is_empty());
                let widest = batch.iter().map(|i| texts[*i].0).max().unwrap_or(0);
                prop_assert!(batch.len() == 1 || widest * batch.len() <= budget);
                let oldest = (0..texts.len())
                    .find(|i| !done.contains(i) && texts[*i].1 == texts[batch[0]].1);
                prop_assert_eq!(Some(batch[0]), oldest, "the oldest of the class leads its batch");
                done.extend(batch);
            }
            done.sort_unstable();
            prop_assert_eq!(done, (0..texts.len()).collect::<Vec<_>>());
        }
    }
}
