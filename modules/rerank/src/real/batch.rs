//! Which pairs share a pass, purely: those of like length, up to a budget of tokens.
//!
//! A pass is padded to its longest row, and the budget counts padding. The longest pairs go first,
//! so that what the threads end with is short.

use brahman_models::passes::PassBudget;

/// What fits a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Tokens, and what their attention takes.
    pub budget: PassBudget,
    /// Rows of the batch, a pair each.
    pub rows: usize,
}

impl BatchLimits {
    /// The same with fewer tokens, if `all` of them would else leave some of `threads` threads
    /// without work; never fewer than `least`.
    #[must_use]
    pub fn shared_by(self, threads: usize, all: usize, least: usize) -> Self {
        let share = all.div_ceil(threads.max(1));
        Self {
            budget: PassBudget { tokens: self.budget.tokens.min(share.max(least)), ..self.budget },
            ..self
        }
    }
}

/// Places of the pairs of these lengths, pass by pass.
#[must_use]
pub fn batches(lengths: &[usize], limits: BatchLimits) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(lengths[*at]));
    let mut all: Vec<Vec<usize>> = Vec::new();
    // Of the pass that is being filled: the width of its first and longest row.
    let mut width = 0;
    for at in order {
        let fits = all.last().is_some_and(|batch| {
            let rows = batch.len() + 1;
            rows <= limits.rows && limits.budget.holds(rows, width)
        });
        match all.last_mut() {
            Some(batch) if fits => batch.push(at),
            _ => {
                width = lengths[at];
                all.push(vec![at]);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(tokens: usize, attention: usize, rows: usize) -> BatchLimits {
        BatchLimits { budget: PassBudget { tokens, attention }, rows }
    }

    #[test]
    fn like_lengths_share_a_pass() {
        let narrow = limits(300, usize::MAX, usize::MAX);
        assert_eq!(
            batches(&[100, 10, 99, 11, 12, 101, 98], narrow),
            [vec![5, 0], vec![2, 6, 4], vec![3, 1]]
        );
        assert_eq!(
            batches(&[900, 10], narrow),
            [vec![0], vec![1]],
            "one that does not fit goes alone"
        );
        assert_eq!(
            batches(&[5, 5, 5], limits(usize::MAX, usize::MAX, 1)),
            [vec![0], vec![1], vec![2]]
        );
        assert_eq!(
            batches(&[1000, 990, 980], limits(usize::MAX, 2_000_000, usize::MAX)),
            [vec![0, 1], vec![2]]
        );
        assert!(batches(&[], narrow).is_empty());
    }

    #[test]
    fn a_small_call_is_shared_by_all_threads() {
        let shared = |threads, all| {
            limits(512, usize::MAX, usize::MAX).shared_by(threads, all, 128).budget.tokens
        };
        assert_eq!((shared(8, 1600), shared(8, 100), shared(2, 100_000)), (200, 128, 512));
    }

    proptest! {
        #[test]
        fn every_pair_runs_once_within_the_limits(
            lengths in prop::collection::vec(1_usize..300, 0..120),
            tokens in 1_usize..2000,
            attention in 1_usize..200_000,
            rows in 1_usize..20,
        ) {
            let all = batches(&lengths, limits(tokens, attention, rows));
            for batch in &all {
                let width = batch.iter().map(|at| lengths[*at]).max().unwrap_or(0);
                let fits = width * batch.len() <= tokens
                    && width * width * batch.len() <= attention
                    && batch.len() <= rows;
                prop_assert!(batch.len() == 1 || fits, "{:?}", batch);
            }
            let mut once: Vec<usize> = all.concat();
            once.sort_unstable();
            prop_assert_eq!(once, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
