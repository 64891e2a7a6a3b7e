//! Vectors and their codes, and exact search through them.
//!
//! The search reads the codes (a quarter of the bytes), keeps every row whose estimate is within
//! twice the slack of the k-th best, and compares those by f32: a row left out is provably no
//! better. Invariant: scores are f32 inner products; of equal scores the lower row comes first.

use std::cmp::Ordering;
use std::io;

use crate::code::{Quantiser, QueryCode, stride};
use crate::kernel::{Kernels, Rows, dot, prefetch};
use crate::pages::Pages;

/// Rows whose estimates are made at once: they and their products stay in the first-level cache's
/// reach.
const BLOCK: usize = 1024;
/// Queries that share a pass over the codes: their own codes stay in the first-level cache.
const GROUP: usize = 16;
/// Fetching a row on its own costs as much as reading this many in order.
pub(crate) const SPARSE: usize = 4;
/// Rows that are worth a thread of their own.
const ROWS_PER_THREAD_MIN: usize = 20_000;

/// A row and its inner product with the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Number of the row in its store.
    pub row: u32,
    /// Inner product with the query.
    pub score: f32,
}

impl Eq for Neighbour {}

impl Ord for Neighbour {
    /// Better is less, so that sorting puts the best first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Neighbour {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The rows that may be found.
#[derive(Clone, Debug)]
pub struct LiveRows {
    words: Vec<u64>,
    count: usize,
}

impl LiveRows {
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

    /// These of so many rows; those beyond are passed over.
    #[must_use]
    pub fn from_rows(rows: usize, those: impl IntoIterator<Item = u32>) -> Self {
        let mut words = vec![0_u64; rows.div_ceil(64)];
        for row in those.into_iter().filter(|row| (*row as usize) < rows) {
            words[row as usize / 64] |= 1 << (row % 64);
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

    /// Those from `from` to before `to`.
    #[must_use]
    pub fn rows(&self, from: usize, to: usize) -> Vec<u32> {
        let words = self.words.iter().enumerate().take(to.div_ceil(64)).skip(from / 64);
        let bits = words.flat_map(|(at, word)| {
            (0..64_u32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at as u32 * 64 + bit)
        });
        bits.filter(|row| (from..to).contains(&(*row as usize))).collect()
    }

    /// How many rows are alive.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.with(other, |a, b| a & b)
    }

    /// Those that are in either; both are of as many rows.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        self.with(other, |a, b| a | b)
    }

    /// Those that are in neither: of so many rows, the others.
    #[must_use]
    pub fn others(&self, rows: usize) -> Self {
        let mut words: Vec<u64> = self.words.iter().map(|word| !word).collect();
        words.resize(rows.div_ceil(64), u64::MAX);
        if let Some(last) = words.last_mut().filter(|_| !rows.is_multiple_of(64)) {
            *last &= (1 << (rows % 64)) - 1;
        }
        let count = words.iter().map(|w| w.count_ones() as usize).sum();
        Self { words, count }
    }

    fn with(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        let words: Vec<u64> =
            self.words.iter().zip(&other.words).map(|(a, b)| combine(*a, *b)).collect();
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
    pub(crate) codes: Pages,
    pub(crate) vectors: Pages,
    /// How they are compared.
    pub kernels: Kernels,
}

impl Store {
    /// Keeps vectors of length 1, in the order of `order`.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(vectors: &[f32], dim: usize, order: &[u32]) -> io::Result<Self> {
        let (quantiser, codes) = encoded(vectors, dim, order)?;
        let mut kept = Pages::zeroed(order.len() * dim * 4)?;
        for (row, place) in order.iter().zip(kept.bytes_mut().chunks_mut((dim * 4).max(1))) {
            place.copy_from_slice(bytemuck::cast_slice(&vectors[*row as usize * dim..][..dim]));
        }
        Ok(Self::from_pages(dim, order.len(), quantiser, codes, kept))
    }

    /// Takes over vectors of length 1: row `i` is what was row `order[i]`. They are moved where
    /// they lie, not copied.
    ///
    /// # Errors
    /// With [`io::ErrorKind::InvalidInput`] if `order` does not name every row once; if there is
    /// not enough memory.
    pub fn arranged(mut vectors: Vec<f32>, dim: usize, order: &[u32]) -> io::Result<Self> {
        arrange(&mut vectors, dim, order)?;
        let rows: Vec<u32> = (0..order.len() as u32).collect();
        let (quantiser, codes) = encoded(&vectors, dim, &rows)?;
        Ok(Self::from_pages(dim, order.len(), quantiser, codes, Pages::Numbers(vectors)))
    }

    pub(crate) fn from_pages(
        dim: usize,
        rows: usize,
        quantiser: Quantiser,
        codes: Pages,
        vectors: Pages,
    ) -> Self {
        Self { dim, rows, quantiser, codes, vectors, kernels: Kernels::best() }
    }

    /// How many numbers a vector has.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many vectors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Vector of a row, as it was given.
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

    /// Gives back the memory of vectors that come from a file, until they are read again.
    pub fn release(&self) {
        self.vectors.release();
    }

    /// Bytes of the vectors, which are mapped where they come from a file.
    #[must_use]
    pub fn vector_bytes(&self) -> u64 {
        self.vectors.bytes().len() as u64
    }

    /// The f32 products of some rows with a query, the best `k` first.
    #[must_use]
    pub fn rerank(&self, query: &[f32], rows: &[u32], k: usize) -> Vec<Neighbour> {
        let fetch = |row: u32| {
            for line in self.vector(row).chunks(16) {
                prefetch(line);
            }
        };
        let bytes = self.dim * size_of::<f32>();
        let places = rows.iter().map(|row| *row as usize * bytes..(*row as usize + 1) * bytes);
        let mut found = self.vectors.scattered(places, || {
            rows.iter().take(2).for_each(|row| fetch(*row));
            let mut found = Vec::with_capacity(rows.len());
            for (i, row) in rows.iter().enumerate() {
                if let Some(next) = rows.get(i + 2) {
                    fetch(*next);
                }
                found.push(Neighbour { row: *row, score: dot(self.vector(*row), query) });
            }
            found
        });
        found.sort_unstable();
        found.truncate(k);
        found
    }

    /// The best `k` of all live rows, exactly, on up to `threads` threads.
    #[must_use]
    pub fn exact(
        &self,
        query: &[f32],
        k: usize,
        live: Option<&LiveRows>,
        threads: usize,
    ) -> Vec<Neighbour> {
        let few = live.is_some_and(|live| live.count() < ROWS_PER_THREAD_MIN);
        let parts =
            if few { 1 } else { threads.clamp(1, (self.rows / ROWS_PER_THREAD_MIN).max(1)) };
        if parts == 1 {
            return self.exact_part(&[query], 0, self.rows, k, live).pop().unwrap_or_default();
        }
        let per_part = self.rows.div_ceil(parts).max(1);
        let mut best: Vec<Neighbour> = std::thread::scope(|scope| {
            let work = |i: usize| {
                move || {
                    self.exact_part(
                        &[query],
                        i * per_part,
                        ((i + 1) * per_part).min(self.rows),
                        k,
                        live,
                    )
                }
            };
            let handles: Vec<_> = (1..parts).map(|i| scope.spawn(work(i))).collect();
            let mut all = work(0)().concat();
            all.extend(handles.into_iter().flat_map(|h| h.join().unwrap_or_default()).flatten());
            all
        });
        best.sort_unstable();
        best.truncate(k);
        best
    }

    /// The best `k` of the live rows from `from` on, exactly.
    #[must_use]
    pub fn exact_from(
        &self,
        from: usize,
        query: &[f32],
        k: usize,
        live: Option<&LiveRows>,
    ) -> Vec<Neighbour> {
        self.exact_part(&[query], from, self.rows, k, live).pop().unwrap_or_default()
    }

    /// [`Store::exact`] for many queries: those of a group share each pass over the codes.
    #[must_use]
    pub fn exact_many(
        &self,
        queries: &[&[f32]],
        k: usize,
        live: Option<&LiveRows>,
        threads: usize,
    ) -> Vec<Vec<Neighbour>> {
        let group = queries.len().div_ceil(threads.max(1)).clamp(1, GROUP);
        let groups: Vec<&[&[f32]]> = queries.chunks(group).collect();
        let work = |i: usize| self.exact_part(groups[i], 0, self.rows, k, live);
        let threads = threads.clamp(1, groups.len().max(1));
        let per_thread = groups.len().div_ceil(threads).max(1);
        let numbers: Vec<usize> = (0..groups.len()).collect();
        std::thread::scope(|scope| {
            let mut parts = numbers.chunks(per_thread);
            let own = parts.next().unwrap_or_default();
            let handles: Vec<_> = parts
                .map(|part| {
                    scope.spawn(move || part.iter().flat_map(|i| work(*i)).collect::<Vec<_>>())
                })
                .collect();
            let mut all: Vec<Vec<Neighbour>> = own.iter().flat_map(|i| work(*i)).collect();
            all.extend(handles.into_iter().flat_map(|h| h.join().unwrap_or_default()));
            all
        })
    }

    fn exact_part(
        &self,
        queries: &[&[f32]],
        from: usize,
        to: usize,
        k: usize,
        live: Option<&LiveRows>,
    ) -> Vec<Vec<Neighbour>> {
        let mut scans: Vec<Scan> =
            queries.iter().map(|query| Scan::new(query, &self.quantiser, k)).collect();
        if k > 0 && from < to {
            // Where few are live, they are fetched one by one; else it is quicker to read all in
            // order and pass over the dead.
            match live.filter(|live| live.count() * SPARSE < self.rows) {
                Some(live) => self.scan_sparse(&mut scans, &live.rows(from, to)),
                None => self.scan_all(&mut scans, from, to, live),
            }
        }
        scans
            .into_iter()
            .zip(queries)
            .map(|(scan, query)| self.rerank(query, &scan.finish(), k))
            .collect()
    }

    fn scan_all(&self, scans: &mut [Scan], from: usize, to: usize, live: Option<&LiveRows>) {
        let (rows, mut products) = (self.codes(), [0_i32; BLOCK]);
        for first in (from..to).step_by(BLOCK) {
            let block = &mut products[..BLOCK.min(to - first)];
            for scan in &mut *scans {
                self.kernels.scan(&rows, first, &scan.code.bytes, block);
                for (i, product) in block.iter().enumerate() {
                    let row = (first + i) as u32;
                    if i64::from(*product) >= scan.floor && live.is_none_or(|live| live.has(row)) {
                        scan.kept.push((*product, row));
                    }
                }
                scan.trim();
            }
        }
    }

    fn scan_sparse(&self, scans: &mut [Scan], ids: &[u32]) {
        let (rows, mut products) = (self.codes(), [0_i32; BLOCK]);
        for block in ids.chunks(BLOCK) {
            for scan in &mut *scans {
                self.kernels.gather(&rows, block, &scan.code.bytes, &mut products);
                let good = products
                    .iter()
                    .zip(block)
                    .filter(|(product, _)| i64::from(**product) >= scan.floor);
                scan.kept.extend(good.map(|(product, row)| (*product, *row)));
                scan.trim();
            }
        }
    }
}

/// The codes of rows in an order, and how they were made.
///
/// # Errors
/// If there is not enough memory.
pub(crate) fn encoded(
    vectors: &[f32],
    dim: usize,
    order: &[u32],
) -> io::Result<(Quantiser, Pages)> {
    let (mut quantiser, width) = (Quantiser::of(vectors), stride(dim));
    let mut codes = Pages::zeroed(order.len() * width)?;
    for (row, code) in order.iter().zip(codes.bytes_mut().chunks_mut(width.max(1))) {
        quantiser.encode(&vectors[*row as usize * dim..][..dim], code);
    }
    Ok((quantiser, codes))
}

/// Moves rows so that row `i` is what was row `order[i]`: each circle of moves with one row put
/// aside.
fn arrange(vectors: &mut [f32], dim: usize, order: &[u32]) -> io::Result<()> {
    let mut waits = vec![false; order.len()];
    let is_each_once = vectors.len() == order.len() * dim
        && order.iter().all(|row| {
            waits.get_mut(*row as usize).is_some_and(|named| !std::mem::replace(named, true))
        });
    if !is_each_once {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the order does not name every row once",
        ));
    }
    let mut aside = vec![0.0; dim];
    for first in 0..order.len() {
        if !waits[first] {
            continue;
        }
        aside.copy_from_slice(&vectors[first * dim..][..dim]);
        let mut place = first;
        loop {
            waits[place] = false;
            let from = order[place] as usize;
            if from == first {
                vectors[place * dim..][..dim].copy_from_slice(&aside);
                break;
            }
            vectors.copy_within(from * dim..(from + 1) * dim, place * dim);
            place = from;
        }
    }
    Ok(())
}

/// One query on its way through the codes.
struct Scan {
    code: QueryCode,
    k: usize,
    /// Twice the slack in products of codes, rounded up.
    margin: i64,
    /// What is below cannot be among the best.
    floor: i64,
    kept: Vec<(i32, u32)>,
}

impl Scan {
    fn new(query: &[f32], quantiser: &Quantiser, k: usize) -> Self {
        let mut code = QueryCode::default();
        Quantiser::query(query, &mut code);
        let margin = (2.0 * quantiser.slack(&code) * quantiser.scale * code.scale).ceil() as i64;
        Self { code, k, margin, floor: i64::MIN, kept: Vec::new() }
    }

    fn trim(&mut self) {
        if self.kept.len() >= 4 * self.k + BLOCK / 2 {
            self.floor = raise(&mut self.kept, self.k, self.margin);
        }
    }

    fn finish(mut self) -> Vec<u32> {
        raise(&mut self.kept, self.k, self.margin);
        self.kept.sort_unstable_by(|a, b| b.cmp(a));
        self.kept.into_iter().map(|(_, row)| row).collect()
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::build::mix;
    use crate::sample::unit_vectors;

    #[test]
    fn an_order_that_does_not_name_every_row_once_is_refused() {
        let vectors = unit_vectors(1, 3, 2);
        for order in [&[0, 1][..], &[0, 1, 1], &[0, 1, 3], &[0, 1, 2, 0]] {
            let refused = Store::arranged(vectors.clone(), 2, order).expect_err("refused");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{order:?}");
        }
        assert!(Store::arranged(Vec::new(), 2, &[]).expect("none").is_empty());
    }

    proptest! {
        #[test]
        fn rows_that_are_moved_are_those_that_are_copied(
            seed in any::<u64>(),
            rows in 1_usize..200,
            dim in 1_usize..9,
        ) {
            let vectors = unit_vectors(seed, rows, dim);
            let mut order: Vec<u32> = (0..rows as u32).collect();
            order.sort_by_key(|row| mix(seed ^ u64::from(*row)));
            let (copied, moved) = (
                Store::new(&vectors, dim, &order).expect("memory"),
                Store::arranged(vectors, dim, &order).expect("moved"),
            );
            prop_assert_eq!(copied.vectors(), moved.vectors());
            prop_assert_eq!(copied.codes().bytes, moved.codes().bytes);
            prop_assert_eq!(copied.quantiser, moved.quantiser);
        }

        #[test]
        fn exact_search_gives_what_a_plain_sort_gives(
            seed in any::<u64>(),
            rows in 1_usize..3000,
            dim in 2_usize..70,
            k in 1_usize..20,
            share in 1_u64..12,
        ) {
            let vectors = unit_vectors(seed, rows + 1, dim);
            let (query, vectors) = vectors.split_at(dim);
            let order: Vec<u32> = (0..rows as u32).collect();
            let store = Store::new(vectors, dim, &order).expect("memory");
            let live = LiveRows::of(rows, |row| mix(row as u64).is_multiple_of(share));
            let mut want: Vec<Neighbour> = vectors
                .chunks(dim)
                .zip(0..)
                .filter(|(_, row)| live.has(*row))
                .map(|(v, row)| Neighbour { row, score: dot(v, query) })
                .collect();
            want.sort_unstable();
            want.truncate(k);
            prop_assert_eq!(&store.exact(query, k, Some(&live), 1), &want);
            let (all, none) = (LiveRows::of(rows, |_| true), LiveRows::of(rows, |_| false));
            let many = store.exact_many(&[query, query, query], k, Some(&live), 2);
            prop_assert!(many.len() == 3 && many.iter().all(|found| *found == want));
            prop_assert_eq!(store.exact(query, k, Some(&all), 1), store.exact(query, k, None, 1));
            prop_assert!(store.exact(query, k, Some(&none), 1).is_empty());
        }
    }
}
