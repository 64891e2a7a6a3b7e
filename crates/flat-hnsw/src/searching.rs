//! How a search goes: a walk through the graph, or all rows compared where that is cheaper or
//! surer.

use std::sync::PoisonError;

use crate::FlatIndex;
use crate::code::{Quantiser, QueryCode};
use crate::graph::{Scratch, node_of, product_of};
use crate::store::{self, LiveRows, Neighbour};

/// Rows beyond the k-th that are compared by f32 after a walk: the codes' error moves a row by a
/// few places at most.
const RERANK_EXTRA: usize = 8;
/// What a walk compares beside `ef` times [`COMPARED_PER_EF`], in codes.
const COMPARED_FLOOR: usize = 600;
/// Codes that a walk compares for each of `ef`, as measured at M = 16.
const COMPARED_PER_EF: usize = 20;
/// Scores closer than this are those of equal vectors: the rounding of f32 sums.
const EQUAL: f32 = 1e-6;
/// Candidates kept for each hit that is wanted and each row that a filter passes over before it: a
/// hit's neighbours are found as surely as among all rows by `ef`.
const FILTERED_PER_HIT: usize = 6;
/// Of filtered rows, all are compared unless a walk is so many times quicker: a walk may miss some.
const EXACT_WORTH: usize = 2;
/// A code compared in a walk costs as much as this many in a scan, which reads memory in order.
const WALK_COST: usize = 4;

/// What is asked of a search.
#[derive(Clone, Copy, Debug)]
pub struct SearchParameters<'a> {
    /// How many rows are wanted.
    pub k: usize,
    /// Candidates kept on the way.
    pub ef: usize,
    /// Rows that may be found, if not all.
    pub live: Option<&'a LiveRows>,
}

/// Memory that a search needs.
#[derive(Debug, Default)]
pub(super) struct Walker {
    scratch: Scratch,
    query: QueryCode,
    rows: Vec<u32>,
}

/// What a walk came to.
pub(super) struct WalkOutcome {
    pub(super) best: Vec<Neighbour>,
    /// Live rows among the candidates.
    pub(super) reached: usize,
    /// The candidates are alike to the codes and not to f32: there may be better ones among many
    /// more.
    pub(super) near_duplicates: bool,
}

impl FlatIndex {
    /// The best `k` rows for a query, best first, by a walk; by comparing all live rows where that
    /// is cheaper or where the walk found too few of them.
    #[must_use]
    pub fn search(&self, query: &[f32], ask: &SearchParameters<'_>) -> Vec<Neighbour> {
        let rows = self.store.len();
        let live = ask.live.map_or(rows, LiveRows::count);
        if ask.k == 0 || live == 0 {
            return Vec::new();
        }
        let ef = ask.ef.max(ask.k);
        // Of the nodes a walk keeps only the live ones count: so many more are kept, or as many as
        // the wanted ones lie among.
        let (wide, scan) = match ask.live {
            None => (ef, rows),
            Some(_) => {
                let among = ask.k.saturating_mul(FILTERED_PER_HIT).saturating_mul(rows) / live;
                let wide = (ef.saturating_mul(rows) / live + ef / 8).min(ef.saturating_add(among));
                (wide, live.saturating_mul(store::SPARSE / EXACT_WORTH).min(rows))
            }
        };
        let walk = COMPARED_FLOOR + COMPARED_PER_EF.saturating_mul(wide);
        if self.top.is_empty() || scan <= WALK_COST.saturating_mul(walk) {
            return self.store.exact(query, ask.k, ask.live, 1);
        }
        let found = self.walk(query, ask.k, wide, ask.live);
        // Where the live rows lie apart from the query's neighbourhood, a walk ends among rows that
        // do not count.
        let expected = if ask.live.is_some() { wide.saturating_mul(live) / rows } else { ef };
        if found.near_duplicates
            || found.reached < expected.min(live) / 2
            || found.reached < ask.k.min(live)
        {
            return self.store.exact(query, ask.k, ask.live, 1);
        }
        found.best
    }

    /// Walks the graph, keeping `wide` candidates; of those that are live it ranks the best by f32.
    pub(super) fn walk(
        &self,
        query: &[f32],
        k: usize,
        wide: usize,
        live: Option<&LiveRows>,
    ) -> WalkOutcome {
        let mut walker =
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Quantiser::query(query, &mut walker.query);
        self.graph().walk(&walker.query.bytes, 0, wide, &mut walker.scratch);
        let pool = &walker.scratch.pool;
        let span = pool
            .first()
            .zip(pool.last())
            .map_or(0.0, |(best, worst)| (product_of(*best) - product_of(*worst)) as f32);
        let alike = pool.len() == wide && span <= self.store.quantiser.resolution(&walker.query);
        walker.rows.clear();
        let nodes = walker
            .scratch
            .pool
            .iter()
            .map(|key| node_of(*key))
            .filter(|node| live.is_none_or(|live| live.has(*node)));
        walker.rows.extend(nodes);
        let reached = walker.rows.len();
        walker.rows.truncate(2 * k + RERANK_EXTRA);
        let best = self.store.rerank(query, &walker.rows, k);
        // Equal vectors are no near-duplicates: one is as good as the other.
        let near_duplicates = alike
            && best
                .first()
                .zip(best.last())
                .is_some_and(|(first, last)| first.score - last.score > EQUAL);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(walker);
        WalkOutcome { best, reached, near_duplicates }
    }
}
