//! Vectors and their codes, and exact search through them.
//!
//! The search reads the codes (a quarter of the bytes), keeps every row whose estimate is within twice the slack of the
//! k-th best, and compares those by f32: a row left out is provably no better. Invariant: scores are f32 inner products;
//! of equal scores the lower row comes first.

use std::cmp::Ordering;
use std::io;

use super::build::in_parallel;
use super::code::{Quantiser, QueryCode, stride};
use super::kernel::{Kernels, Rows, dot, prefetch};
use super::pages::Pages;

/// Rows whose estimates are made at once: they and their products stay in the first-level cache's reach.
const BLOCK: usize = 1024;
/// Rows that are worth a thread of their own.
const ROWS_PER_THREAD_MIN: usize = 20_000;

/// A row and its inner product with the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Row.
    pub row: u32,
    /// Inner product.
    pub score: f32,
}

impl Eq for Found {}

impl Ord for Found {
    /// Better is less, so that sorting puts the best first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The rows that may be found.
#[derive(Clone, Debug)]
pub struct Live {
    words: Vec<u64>,
    count: usize,
}

impl Live {
    /// The rows below `rows` for which `test` holds.
    #[must_use]
    pub fn of(rows: usize, test: impl Fn(usize) -> bool) -> Self {
        let mut words = vec![0_u64; rows.div_ceil(64)];
        for row in (0..rows).filter(|row| test(*row)) {
            words[row / 64] |= 1 << (row % 64);
        }
        let count = words.iter().map(|w| w.count_ones() as usize).sum();
        Self { words, count }
    }

    /// Whether a row is among them.
    #[inline]
    #[must_use]
    pub fn has(&self, row: u32) -> bool {
        self.words.get(row as usize / 64).is_some_and(|w| w >> (row % 64) & 1 == 1)
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let words: Vec<u64> = self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect();
        let count = words.iter().map(|w| w.count_ones() as usize).sum();
        Self { words, count }
    }
}

/// Rows of numbers and their codes.
#[derive(Debug)]
pub struct Store {
    dim: usize,
    rows: usize,
    /// How codes were made.
    pub quantiser: Quantiser,
    pub(super) codes: Pages,
    pub(super) vectors: Pages,
    /// How they are compared.
    pub kernels: Kernels,
}

impl Store {
    /// Keeps vectors of length 1, in the order of `order`.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(vectors: &[f32], dim: usize, order: &[u32]) -> io::Result<Self> {
        let mut quantiser = Quantiser::of(vectors);
        let width = stride(dim);
        let (mut codes, mut kept) = (Pages::zeroed(order.len() * width)?, Pages::zeroed(order.len() * dim * 4)?);
        let places = codes.bytes_mut().chunks_mut(width.max(1)).zip(kept.bytes_mut().chunks_mut((dim * 4).max(1)));
        for (row, (code, place)) in order.iter().zip(places) {
            let vector = &vectors[*row as usize * dim..][..dim];
            quantiser.encode(vector, code);
            place.copy_from_slice(bytemuck::cast_slice(vector));
        }
        Ok(Self { dim, rows: order.len(), quantiser, codes, vectors: kept, kernels: Kernels::best() })
    }

    pub(super) fn from_pages(dim: usize, rows: usize, quantiser: Quantiser, codes: Pages, vectors: Pages) -> Self {
        Self { dim, rows, quantiser, codes, vectors, kernels: Kernels::best() }
    }

    /// Numbers a vector.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// A vector.
    #[must_use]
    pub fn vector(&self, row: u32) -> &[f32] {
        &self.vectors.as_f32()[row as usize * self.dim..][..self.dim]
    }

    /// All vectors, one after the other.
    #[must_use]
    pub fn vectors(&self) -> &[f32] {
        self.vectors.as_f32()
    }

    /// Codes as the kernels want them.
    #[must_use]
    pub fn codes(&self) -> Rows<'_> {
        Rows { bytes: self.codes.bytes(), stride: stride(self.dim) }
    }

    /// Bytes of codes and vectors.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        (self.codes.bytes().len() + self.vectors.bytes().len()) as u64
    }

    /// The f32 products of some rows with a query, the best `k` first.
    #[must_use]
    pub fn rerank(&self, query: &[f32], rows: &[u32], k: usize) -> Vec<Found> {
        let fetch = |row: u32| {
            for line in self.vector(row).chunks(16) {
                prefetch(line);
            }
        };
        rows.iter().take(2).for_each(|row| fetch(*row));
        let mut found = Vec::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            if let Some(next) = rows.get(i + 2) {
                fetch(*next);
            }
            found.push(Found { row: *row, score: dot(self.vector(*row), query) });
        }
        found.sort_unstable();
        found.truncate(k);
        found
    }

    /// The best `k` of all live rows, exactly, on up to `threads` threads.
    #[must_use]
    pub fn exact(&self, query: &[f32], k: usize, live: Option<&Live>, threads: usize) -> Vec<Found> {
        let mut code = QueryCode::default();
        Quantiser::query(query, &mut code);
        let parts = threads.clamp(1, (self.rows / ROWS_PER_THREAD_MIN).max(1));
        let per_part = self.rows.div_ceil(parts).max(1);
        if parts == 1 {
            return self.exact_part(query, &code, 0, self.rows, k, live);
        }
        let mut best: Vec<Found> = std::thread::scope(|scope| {
            let code = &code;
            let work = |i: usize| move || self.exact_part(query, code, i * per_part, ((i + 1) * per_part).min(self.rows), k, live);
            let handles: Vec<_> = (1..parts).map(|i| scope.spawn(work(i))).collect();
            let mut all = work(0)();
            all.extend(handles.into_iter().flat_map(|h| h.join().unwrap_or_default()));
            all
        });
        best.sort_unstable();
        best.truncate(k);
        best
    }

    /// [`Store::exact`] for many queries, a query a thread at a time.
    #[must_use]
    pub fn exact_many(&self, queries: &[&[f32]], k: usize, live: Option<&Live>, threads: usize) -> Vec<Vec<Found>> {
        in_parallel(queries.len(), threads, || (), |(), i| self.exact(queries[i], k, live, 1))
    }

    fn exact_part(&self, query: &[f32], code: &QueryCode, from: usize, to: usize, k: usize, live: Option<&Live>) -> Vec<Found> {
        if k == 0 || from >= to {
            return Vec::new();
        }
        let rows = self.codes();
        // Twice the slack in products of codes; rounded up.
        let margin = (2.0 * self.quantiser.slack(code) * self.quantiser.scale * code.scale).ceil() as i64;
        let mut kept: Vec<(i32, u32)> = Vec::with_capacity(4 * k + BLOCK);
        let mut floor = i64::MIN;
        let mut products = [0_i32; BLOCK];
        for first in (from..to).step_by(BLOCK) {
            let block = &mut products[..BLOCK.min(to - first)];
            self.kernels.scan(&rows, first, &code.bytes, block);
            for (i, product) in block.iter().enumerate() {
                let row = (first + i) as u32;
                if i64::from(*product) >= floor && live.is_none_or(|live| live.has(row)) {
                    kept.push((*product, row));
                }
            }
            if kept.len() >= 4 * k + BLOCK / 2 {
                floor = raise(&mut kept, k, margin);
            }
        }
        raise(&mut kept, k, margin);
        kept.sort_unstable_by(|a, b| b.cmp(a));
        let rows: Vec<u32> = kept.into_iter().map(|(_, row)| row).collect();
        self.rerank(query, &rows, k)
    }
}

/// Drops what is more than `margin` below the k-th best; the new floor.
fn raise(kept: &mut Vec<(i32, u32)>, k: usize, margin: i64) -> i64 {
    if kept.len() <= k {
        return i64::MIN;
    }
    let (_, kth, _) = kept.select_nth_unstable_by(k - 1, |a, b| b.0.cmp(&a.0));
    let floor = i64::from(kth.0) - margin;
    kept.retain(|(product, _)| i64::from(*product) >= floor);
    floor
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flat::build::mix;

    /// Vectors of length 1 that look random.
    pub(crate) fn unit_vectors(seed: u64, rows: usize, dim: usize) -> Vec<f32> {
        let mut out: Vec<f32> = (0..(rows * dim) as u64).map(|i| (mix(seed ^ mix(i)) >> 40) as f32 / (1_u64 << 24) as f32 - 0.5).collect();
        for vector in out.chunks_mut(dim) {
            let norm = dot(vector, vector).sqrt();
            vector.iter_mut().for_each(|x| *x /= norm);
        }
        out
    }

    proptest! {
        #[test]
        fn exact_search_gives_what_a_plain_sort_gives(
            seed in any::<u64>(), rows in 1_usize..3000, dim in 2_usize..70, k in 1_usize..20, share in 1_u64..4,
        ) {
            let vectors = unit_vectors(seed, rows + 1, dim);
            let (query, vectors) = vectors.split_at(dim);
            let order: Vec<u32> = (0..rows as u32).collect();
            let store = Store::new(vectors, dim, &order).expect("memory");
            let live = Live::of(rows, |row| mix(row as u64).is_multiple_of(share));
            let mut want: Vec<Found> = vectors.chunks(dim).zip(0..).filter(|(_, row)| live.has(*row)).map(|(v, row)| Found { row, score: dot(v, query) }).collect();
            want.sort_unstable();
            want.truncate(k);
            prop_assert_eq!(&store.exact(query, k, Some(&live), 1), &want);
            prop_assert_eq!(&store.exact_part(query, &{ let mut c = QueryCode::default(); Quantiser::query(query, &mut c); c }, 0, rows, k, Some(&live)), &want);
        }
    }
}
