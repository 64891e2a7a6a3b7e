//! Exact search: the inner product of the query with every vector, on all cores, with the widest instructions that
//! this processor has (chosen at run time).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use multiversion::multiversion;

/// Rows that are not worth a second thread: 10 k × 384 take about a millisecond.
const ROWS_PER_THREAD_MIN: usize = 10_000;
/// Independent sums, so that additions do not wait for one another: two registers of 16, or four of 8.
const LANES: usize = 32;

/// A row and its inner product with the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Row.
    pub row: usize,
    /// Inner product.
    pub score: f32,
}

impl Eq for Found {}

impl Ord for Found {
    /// Worse is greater, so that a heap's top is the worst kept; of equals the later row is worse.
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The inner product.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0_f32; LANES];
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    let tail: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + tail
}

/// The best `k` rows of `vectors` (rows of `dim` numbers) for a query, best first, on up to `threads` threads.
#[must_use]
pub fn search(vectors: &[f32], dim: usize, query: &[f32], k: usize, threads: usize) -> Vec<Found> {
    let rows = vectors.len() / dim.max(1);
    let parts = threads.clamp(1, (rows / ROWS_PER_THREAD_MIN).max(1));
    let per_part = rows.div_ceil(parts).max(1);
    let mut best: Vec<Found> = if parts == 1 {
        scan(vectors, 0, dim, query, k)
    } else {
        std::thread::scope(|scope| {
            let handles: Vec<_> = vectors
                .chunks(per_part * dim)
                .enumerate()
                .map(|(i, part)| scope.spawn(move || scan(part, i * per_part, dim, query, k)))
                .collect();
            handles.into_iter().flat_map(|h| h.join().unwrap_or_default()).collect()
        })
    };
    best.sort_unstable();
    best.truncate(k);
    best
}

fn scan(vectors: &[f32], first: usize, dim: usize, query: &[f32], k: usize) -> Vec<Found> {
    let mut heap: BinaryHeap<Found> = BinaryHeap::with_capacity(k + 1);
    for (i, vector) in vectors.chunks_exact(dim).enumerate() {
        let found = Found { row: first + i, score: dot(vector, query) };
        if heap.len() < k {
            heap.push(found);
        } else if heap.peek().is_some_and(|worst| found < *worst) {
            heap.pop();
            heap.push(found);
        }
    }
    heap.into_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_number_of_threads_gives_what_a_plain_sort_gives(
            seed in any::<u64>(), rows in 1_usize..300, dim in 1_usize..70, k in 1_usize..20, threads in 1_usize..4,
        ) {
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((state >> 40) as f32 / (1_u64 << 24) as f32) - 0.5
            };
            let vectors: Vec<f32> = (0..rows * dim).map(|_| next()).collect();
            let query: Vec<f32> = (0..dim).map(|_| next()).collect();
            let mut want: Vec<Found> = vectors.chunks_exact(dim).enumerate().map(|(row, v)| Found { row, score: dot(v, &query) }).collect();
            want.sort_unstable();
            want.truncate(k);
            prop_assert_eq!(search(&vectors, dim, &query, k, threads), want);
            let plain: f64 = vectors[..dim].iter().zip(&query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            prop_assert!((f64::from(dot(&vectors[..dim], &query)) - plain).abs() < 1e-4);
        }
    }
}
