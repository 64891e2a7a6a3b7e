//! A graph over what was appended, in memory alone: comparing some thousand rows one by one takes
//! longer than a walk among a million.
//!
//! Invariants: it covers the first rows of a delta, by their own numbers, so that it holds for
//! every later generation of the same base; rows beyond are compared one by one, and so are all
//! rows of an earlier generation that has fewer than it covers; nobody waits for it, and without it
//! answers are the same, later.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flat_hnsw::build::Parameters;
use flat_hnsw::store::{Neighbour, Store};
use flat_hnsw::{FlatIndex, SearchParameters};

/// Fewer rows are compared one by one: that takes some 25 µs.
const ROWS_MIN: usize = 2048;
/// Of the rows that are linked, one in so many more is linked as well; fewer wait.
const SHARE: usize = 8;

/// The graph, once there is one; shared by the generations of a base.
#[derive(Debug, Default)]
pub struct AppendedGraph {
    linked: Mutex<Option<Arc<FlatIndex>>>,
    is_busy: AtomicBool,
}

/// The one that links; others pass by.
struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl AppendedGraph {
    fn graph(&self) -> Option<Arc<FlatIndex>> {
        self.linked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many rows it covers.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.graph().map_or(0, |graph| graph.store.len())
    }

    /// Whether so many rows are worth linking.
    #[must_use]
    pub fn is_due(&self, rows: usize) -> bool {
        let linked = self.rows();
        !self.is_busy.load(Ordering::Acquire)
            && rows.saturating_sub(linked) >= ROWS_MIN.max(linked / SHARE)
    }

    /// Links what was appended since, unless somebody is at it. Blocks for a second or so for ten
    /// thousand rows.
    ///
    /// # Errors
    /// If there is not enough memory; it then covers what it did.
    pub fn link(&self, store: &Store, parameters: Parameters, threads: usize) -> io::Result<()> {
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let _turn = Turn(&self.is_busy);
        let (graph, dim) = (self.graph(), store.dim());
        let there = graph.as_ref().map_or(0, |graph| graph.store.len());
        // A later generation, which has all these rows, came first.
        if there >= store.len() {
            return Ok(());
        }
        let rest = &store.vectors()[there * dim..];
        let linked = match graph {
            Some(graph) => graph.insert(rest, threads, &|_| true)?,
            None => FlatIndex::build_in_order(rest.to_vec(), dim, parameters, threads, &|_| true)?,
        };
        *self.linked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(linked));
        Ok(())
    }

    /// The best of the delta's rows, best first.
    #[must_use]
    pub fn search(
        &self,
        store: &Store,
        query: &[f32],
        ask: &SearchParameters<'_>,
    ) -> Vec<Neighbour> {
        // Rows that came later are none of this generation, which somebody still reads.
        let graph = self.graph().filter(|graph| graph.store.len() <= store.len());
        let Some(graph) = graph else { return store.exact(query, ask.k, ask.live, 1) };
        let mut found = graph.search(query, ask);
        if graph.store.len() < store.len() {
            found.extend(store.exact_from(graph.store.len(), query, ask.k, ask.live));
            found.sort_unstable();
            found.truncate(ask.k);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use flat_hnsw::sample::unit_vectors;
    use flat_hnsw::store::LiveRows;

    use super::*;

    #[test]
    fn what_is_linked_and_what_is_not_yet_is_found_by_the_rows_own_numbers() {
        let (dim, rows) = (16, 6000);
        let vectors = unit_vectors(3, rows, dim);
        let store = |rows: usize| {
            let order: Vec<u32> = (0..rows as u32).collect();
            Store::new(&vectors[..rows * dim], dim, &order).expect("memory")
        };
        let graph = AppendedGraph::default();
        assert!(!graph.is_due(ROWS_MIN - 1) && graph.is_due(ROWS_MIN));
        let live = LiveRows::of(rows, |row| !row.is_multiple_of(3));
        for (there, linked) in [(1000, 0), (3000, 3000), (3500, 3000), (6000, 6000)] {
            let store = store(there);
            if graph.is_due(there) {
                graph
                    .link(&store, Parameters { m: 8, ef_construction: 60, seed: 0 }, 2)
                    .expect("linked");
            }
            assert_eq!(graph.rows(), linked);
            for live in [None, Some(&live)] {
                let lost = (0..there as u32)
                    .step_by(97)
                    .filter(|row| live.is_none_or(|live| live.has(*row)))
                    .filter(|row| {
                        let ask = SearchParameters { k: 3, ef: 64, live };
                        graph
                            .search(&store, store.vector(*row), &ask)
                            .first()
                            .is_none_or(|found| found.row != *row)
                    });
                assert_eq!(lost.collect::<Vec<_>>(), Vec::<u32>::new(), "of {there}");
            }
        }
    }

    /// As when a search, or a thread that was to link, is still at the generation before.
    #[test]
    fn a_generation_before_finds_no_rows_that_came_later() {
        let (dim, rows) = (16, 6000);
        let vectors = unit_vectors(4, rows, dim);
        let store = |rows: usize| {
            let order: Vec<u32> = (0..rows as u32).collect();
            Store::new(&vectors[..rows * dim], dim, &order).expect("memory")
        };
        let (graph, parameters) =
            (AppendedGraph::default(), Parameters { m: 8, ef_construction: 60, seed: 0 });
        graph.link(&store(rows), parameters, 2).expect("linked");
        let before = store(3000);
        graph.link(&before, parameters, 2).expect("there is nothing to do");
        assert_eq!(graph.rows(), rows);
        for row in (0..rows).step_by(97) {
            let found = graph.search(
                &before,
                &vectors[row * dim..(row + 1) * dim],
                &SearchParameters { k: 3, ef: 64, live: None },
            );
            assert!(found.len() == 3 && found.iter().all(|found| found.row < 3000), "{found:?}");
        }
    }
}
