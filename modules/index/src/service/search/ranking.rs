//! Which rows answer each query, and in which order: by meaning, by words or by both, with a share
//! for each document where one is wanted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use brahman_card::Fault;
use brahman_card::interface::index::error;
use brahman_sidecar::chain;
use flat_hnsw::build::in_parallel;
use flat_hnsw::store::Neighbour;

use super::super::shelf::Index;
use super::{Mode, QUERIES_INLINE};
use crate::fusion::{Fusion, Lists, Method, ScoredRow, fuse};
use crate::generation::{Generation, SearchOptions, Selection, WordsFound};
use crate::query::ParsedQuery;
use crate::refresh::io_fault;

/// Hits of each list that are fused, for each hit wanted.
const FUSED_PER_HIT: usize = 4;
/// And at least: what stands deep in one list may be first in both.
const FUSED_MIN: usize = 100;
/// By how much more is looked for where one document has had its share.
const DEEPER: usize = 4;

/// What is searched, and how: all that the ranking needs.
pub(in crate::service) struct Ranking {
    pub(in crate::service) index: Arc<Index>,
    pub(in crate::service) generation: Arc<Generation>,
    /// Of length 1; none by words alone, one beside a text.
    pub(in crate::service) queries: Vec<Vec<f32>>,
    pub(in crate::service) asked: Option<ParsedQuery>,
    pub(in crate::service) mode: Mode,
    pub(in crate::service) fusion: Fusion,
    /// Most hits of one document.
    pub(in crate::service) per_document: Option<usize>,
    pub(in crate::service) how: SearchOptions,
    pub(in crate::service) threads: usize,
    /// Words of the query for which there was no place.
    pub(in crate::service) left_out: AtomicU64,
}

/// What an order is made of where only meaning counts.
fn by_cosine(found: &[Neighbour]) -> Vec<ScoredRow> {
    found
        .iter()
        .map(|f| ScoredRow { row: f.row, score: f.score, cosine: Some(f.score), bm25: None })
        .collect()
}

impl Ranking {
    /// The rows that a filter, the dead and the query's own conditions leave.
    pub(in crate::service) fn allowed(
        &self,
        filtered: Option<&Selection>,
    ) -> Result<Selection, Fault> {
        let allowed = self.generation.allowed(filtered);
        let met = match self.asked.as_ref().filter(|_| self.mode != Mode::Semantic) {
            Some(asked) => self.generation.meeting(asked).map_err(|e| self.damaged(&e))?,
            None => None,
        };
        Ok(match met {
            Some(met) => allowed.and(&met),
            None => allowed,
        })
    }

    /// The best rows of every query.
    pub(in crate::service) fn ranked(
        &self,
        allowed: &Selection,
    ) -> Result<Vec<Vec<ScoredRow>>, Fault> {
        match self.per_document {
            None => self.found(&self.queries, allowed, self.how.k),
            Some(most) => self.spread(allowed, most),
        }
    }

    /// What is found by a query's words; how many did not count is kept.
    fn words(&self, text: &str, k: usize, allowed: &Selection) -> Result<WordsFound, Fault> {
        let words = self.generation.words(text, k, allowed).map_err(|e| self.damaged(&e))?;
        self.left_out.store(words.left_out, Ordering::Relaxed);
        Ok(words)
    }

    fn damaged(&self, error: &std::io::Error) -> Fault {
        Fault::of(&error::Damaged { name: self.index.parameters.name.clone() }, false, chain(error))
    }

    /// The best `wanted` rows of each of these queries; by words alone there is one, of no vector.
    fn found(
        &self,
        queries: &[Vec<f32>],
        allowed: &Selection,
        wanted: usize,
    ) -> Result<Vec<Vec<ScoredRow>>, Fault> {
        let generation = &*self.generation;
        let wide = |k: usize| SearchOptions { k, ..self.how.clone() };
        Ok(match (self.mode, &self.asked) {
            (Mode::Lexical, Some(asked)) => {
                let words = self.words(&asked.text, wanted, allowed)?;
                let share =
                    |bm25: f32| if words.ideal > 0.0 { (bm25 / words.ideal).min(1.0) } else { 0.0 };
                let scored = |f: &Neighbour| ScoredRow {
                    row: f.row,
                    score: share(f.score),
                    cosine: None,
                    bm25: Some(f.score),
                };
                vec![words.rows.iter().map(scored).collect()]
            }
            (Mode::Hybrid, Some(asked)) => {
                let depth = wanted.saturating_mul(FUSED_PER_HIT);
                // What answered before there was a choice answers as it did.
                let depth = if self.fusion.method == Method::Weighted {
                    depth.max(FUSED_MIN)
                } else {
                    depth
                };
                let words = self.words(&asked.text, depth, allowed)?;
                let fused = |query: &Vec<f32>| {
                    let near = generation.search(query, &wide(depth), allowed);
                    let lists =
                        Lists { near: &near, words: &words.rows, alone: &words.alone, depth };
                    fuse(&lists, self.fusion, |row| generation.cosine(query, row), wanted)
                };
                queries.iter().map(fused).collect()
            }
            _ if queries.len() <= QUERIES_INLINE => queries
                .iter()
                .map(|query| by_cosine(&generation.search(query, &wide(wanted), allowed)))
                .collect(),
            _ if self.how.exact => {
                let queries: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
                let found = generation.exact_many(&queries, wanted, self.threads, allowed);
                found.iter().map(|found| by_cosine(found)).collect()
            }
            _ => in_parallel(
                queries.len(),
                self.threads,
                || (),
                |(), i| by_cosine(&generation.search(&queries[i], &wide(wanted), allowed)),
            ),
        })
    }

    /// The best rows of which no document has more than `most`: looked for ever deeper until there
    /// are enough, or no more.
    fn spread(&self, allowed: &Selection, most: usize) -> Result<Vec<Vec<ScoredRow>>, Fault> {
        let wanted = self.how.k.saturating_mul(DEEPER).min(self.generation.len().max(1));
        let found = self.found(&self.queries, allowed, wanted)?;
        // Those that need more rows by themselves: all rows of all queries would be too many to
        // hold.
        let deeper = |(): &mut (), at: usize| {
            let own = self.queries.get(at..=at).unwrap_or_default();
            self.deepened(own, &found[at], (allowed, most, wanted))
        };
        in_parallel(found.len(), self.threads, || (), deeper).into_iter().collect()
    }

    /// The same for one query, of which the best `wanted` rows are found.
    fn deepened(
        &self,
        own: &[Vec<f32>],
        found: &[ScoredRow],
        (allowed, most, mut wanted): (&Selection, usize, usize),
    ) -> Result<Vec<ScoredRow>, Fault> {
        let rows = self.generation.len().max(1);
        let (mut spread, mut count) = (self.shared_out(found, most)?, found.len());
        while spread.len() < self.how.k && wanted < rows && count >= wanted {
            wanted = wanted.saturating_mul(DEEPER).min(rows);
            let found = self.found(own, allowed, wanted)?.pop().unwrap_or_default();
            (spread, count) = (self.shared_out(&found, most)?, found.len());
        }
        Ok(spread)
    }

    fn shared_out(&self, found: &[ScoredRow], most: usize) -> Result<Vec<ScoredRow>, Fault> {
        let mut of: HashMap<&str, usize> = HashMap::new();
        let mut out = Vec::new();
        for scored in found {
            let row = self.generation.row(scored.row).map_err(|e| io_fault("reading a hit", &e))?;
            let count = of.entry(row.doc_id).or_default();
            *count += 1;
            if *count <= most && out.len() < self.how.k {
                out.push(*scored);
            }
        }
        Ok(out)
    }
}
