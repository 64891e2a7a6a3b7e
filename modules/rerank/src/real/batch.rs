//! Which pairs share a pass, purely: those of like length, up to a budget of tokens.
//!
//! A pass is padded to its longest row, and the budget counts padding; a second budget counts tokens squared, for that is how attention
//! takes memory. The longest pairs go first, so that what the threads end with is short.

/// What fits a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Tokens, padding counted; a pair with more of them goes alone.
    pub tokens: usize,
    /// Pairs of tokens (rows times width times width).
    pub attention: usize,
    /// Rows of the batch, a pair each.
    pub rows: usize,
}

impl BatchLimits {
    /// The same with fewer tokens, if `all` of them would else leave some of `threads` threads without work; never fewer than `least`.
    #[must_use]
    pub fn shared_by(self, threads: usize, all: usize, least: usize) -> Self {
        let share = all.div_ceil(threads.max(1));
        Self { tokens: self.tokens.min(share.max(least)), ..self }
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
            let (tokens, attention) = (width * rows, width.saturating_mul(width).saturating_mul(rows));
            rows <= limits.rows && tokens <= limits.tokens && attention <= limits.attention
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

    const WIDE: BatchLimits = BatchLimits { tokens: usize::MAX, attention: usize::MAX, rows: usize::MAX };

    #[test]
    fn like_lengths_share_a_pass() {
        let limits = BatchLimits { tokens: 300, ..WIDE };
        assert_eq!(batches(&[100, 10, 99, 11, 12, 101, 98], limits), [vec![5, 0], vec![2, 6, 4], vec![3, 1]]);
        assert_eq!(batches(&[900, 10], limits), [vec![0], vec![1]], "one that does not fit goes alone");
        assert_eq!(batches(&[5, 5, 5], BatchLimits { rows: 1, ..WIDE }), [vec![0], vec![1], vec![2]]);
        assert_eq!(batches(&[1000, 990, 980], BatchLimits { attention: 2_000_000, ..WIDE }), [vec![0, 1], vec![2]]);
        assert!(batches(&[], WIDE).is_empty());
    }

    #[test]
    fn a_small_call_is_shared_by_all_threads() {
        let limits = BatchLimits { tokens: 512, ..WIDE };
        assert_eq!(limits.shared_by(8, 1600, 128).tokens, 200);
        assert_eq!(limits.shared_by(8, 100, 128).tokens, 128);
        assert_eq!(limits.shared_by(2, 100_000, 128).tokens, 512);
    }

    proptest! {
        #[test]
        fn every_pair_runs_once_within_the_limits(
            lengths in prop::collection::vec(1_usize..300, 0..120), tokens in 1_usize..2000, attention in 1_usize..200_000, rows in 1_usize..20,
        ) {
            let all = batches(&lengths, BatchLimits { tokens, attention, rows });
            for batch in &all {
                let width = batch.iter().map(|at| lengths[*at]).max().unwrap_or(0);
                let fits = width * batch.len() <= tokens && width * width * batch.len() <= attention && batch.len() <= rows;
                prop_assert!(batch.len() == 1 || fits, "{:?}", batch);
            }
            let mut once: Vec<usize> = all.concat();
            once.sort_unstable();
            prop_assert_eq!(once, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
