//! What a generation finds by meaning and by words, in base and delta as in one.

use std::collections::HashSet;
use std::io;

use flat_hnsw::SearchParameters;
use flat_hnsw::store::{LiveRows, Neighbour};

use super::{Generation, kept};
use crate::lexical::{Lexical, Statistics};
use crate::query::ParsedQuery;

/// How a search is made.
#[derive(Clone, Debug, Default)]
pub struct SearchOptions {
    /// How many rows are wanted.
    pub k: usize,
    /// Candidates on the way; the generation's own if absent.
    pub ef: Option<usize>,
    /// Compare all rows, without the graph.
    pub exact: bool,
    /// For an exact search.
    pub threads: usize,
}

/// What was found by words.
#[derive(Clone, Debug, Default)]
pub struct WordsFound {
    /// Best first, with their BM25 scores.
    pub rows: Vec<Neighbour>,
    /// What a row would score that has nothing but the query's words.
    pub ideal: f32,
    /// Words of the query that do not count: it has more than a query may.
    pub left_out: u64,
    /// The rows of the one document that has the word which is most of what the query tells.
    pub alone: Vec<u32>,
}

/// The rows that a filter lets through, in base and delta.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Rows of the base that count.
    pub base: Option<LiveRows>,
    /// Rows of the delta that count.
    pub delta: Option<LiveRows>,
}

impl Selection {
    /// The rows that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let both = |a: Option<&LiveRows>, b: Option<&LiveRows>| match (a, b) {
            (Some(a), Some(b)) => Some(a.and(b)),
            (a, b) => a.or(b).cloned(),
        };
        Self {
            base: both(self.base.as_ref(), other.base.as_ref()),
            delta: both(self.delta.as_ref(), other.delta.as_ref()),
        }
    }
}

impl Generation {
    /// What a filter and the dead leave.
    #[must_use]
    pub fn allowed(&self, filter: Option<&Selection>) -> Selection {
        let live = Selection { base: self.live_base.clone(), delta: self.live_delta.clone() };
        filter.map_or_else(|| live.clone(), |filter| live.and(filter))
    }

    /// Exact searches for many queries of length 1, which share the passes over the codes.
    #[must_use]
    pub fn exact_many(
        &self,
        queries: &[&[f32]],
        k: usize,
        threads: usize,
        allowed: &Selection,
    ) -> Vec<Vec<Neighbour>> {
        let from = self.base_rows() as u32;
        let mut all = match &self.base {
            Some(base) => base.flat.store.exact_many(queries, k, allowed.base.as_ref(), threads),
            None => vec![Vec::new(); queries.len()],
        };
        if !self.delta.rows.is_empty() {
            let appended = self.delta.store.exact_many(queries, k, allowed.delta.as_ref(), threads);
            for (found, appended) in all.iter_mut().zip(appended) {
                found.extend(appended.into_iter().map(|f| Neighbour { row: from + f.row, ..f }));
                found.sort_unstable();
                found.truncate(k);
            }
        }
        all
    }

    /// Does something with the words of all parts: of the base's words, if there is a base, of the
    /// delta's, if there are any, and of how rare words are in both.
    fn with_words<T>(
        &self,
        work: impl Fn(Option<&Lexical>, Option<&Lexical>, &Statistics) -> io::Result<T>,
    ) -> io::Result<T> {
        let all = |base: Option<&Lexical>| -> io::Result<T> {
            let analyser =
                base.map_or_else(|| self.own_analyser(), |words| words.analyser().clone());
            let delta = if self.delta.rows.is_empty() {
                None
            } else {
                let live =
                    |row: usize| self.live_delta.as_ref().is_none_or(|live| live.has(row as u32));
                Some(kept(&self.lexical_delta, || {
                    Lexical::in_memory_of(&self.delta.rows, &analyser, live)
                })?)
            };
            let gone = match (&self.base, &self.live_base) {
                (Some(base), Some(live)) => {
                    let dead = |row: usize| !live.has(row as u32);
                    Some(kept(&self.lexical_gone, || {
                        Lexical::in_memory_of(&base.rows, &analyser, dead)
                    })?)
                }
                _ => None,
            };
            let present: Vec<&Lexical> = base.into_iter().chain(delta).collect();
            let gone: Vec<&Lexical> = gone.into_iter().collect();
            work(base, delta, &Statistics::of(&present, &gone))
        };
        match &self.base {
            Some(base) => base.with_words(|words| all(Some(words))),
            None => all(None),
        }
    }

    /// Makes the words of all parts, so that no search waits for them.
    ///
    /// # Errors
    /// If words cannot be made.
    pub fn make_words(&self) -> io::Result<()> {
        self.with_words(|_, _, _| Ok(()))
    }

    /// The best rows for the words of a text, best first, by BM25 over all rows alive.
    ///
    /// # Errors
    /// If words cannot be made.
    pub fn words(&self, text: &str, k: usize, allowed: &Selection) -> io::Result<WordsFound> {
        let from = self.base_rows() as u32;
        self.with_words(|base, delta, statistics| {
            let mut out = WordsFound::default();
            let parts = [(base, allowed.base.as_ref(), 0), (delta, allowed.delta.as_ref(), from)];
            let mut deciding = Some(Vec::new());
            for (words, live, from) in
                parts.into_iter().filter_map(|(words, live, from)| Some((words?, live, from)))
            {
                let query = words.compile(text, statistics)?;
                (out.ideal, out.left_out) = (query.ideal, query.left_out);
                let found = words.search(&query, statistics, k, live)?;
                out.rows.extend(found.into_iter().map(|f| Neighbour { row: from + f.row, ..f }));
                // Too many in one part are too many in all.
                deciding = match (deciding, words.deciding(&query, statistics, live)?) {
                    (Some(mut all), Some(rows)) => {
                        all.extend(rows.into_iter().map(|row| from + row));
                        Some(all)
                    }
                    _ => None,
                };
            }
            out.rows.sort_unstable();
            out.rows.truncate(k);
            let deciding = deciding.unwrap_or_default();
            let mut documents = HashSet::new();
            for row in &deciding {
                documents.insert(self.row(*row)?.doc_id);
            }
            if documents.len() == 1 {
                out.alone = deciding;
            }
            Ok(out)
        })
    }

    /// The rows that meet a query's conditions; all if it has none.
    ///
    /// # Errors
    /// If words cannot be made.
    pub fn meeting(&self, asked: &ParsedQuery) -> io::Result<Option<Selection>> {
        if !asked.has_conditions() {
            return Ok(None);
        }
        self.with_words(|base, delta, statistics| {
            let part = |words: Option<&Lexical>, rows: usize| -> io::Result<Option<LiveRows>> {
                let Some(words) = words else { return Ok(None) };
                let met = words.meeting(asked, statistics)?;
                Ok(met.map(|met| LiveRows::of(rows, |row| met.contains(&(row as u32)))))
            };
            Ok(Some(Selection {
                base: part(base, self.base_rows())?,
                delta: part(delta, self.delta.rows.len())?,
            }))
        })
    }

    /// The cosine of a row with a query of length 1.
    #[must_use]
    pub fn cosine(&self, query: &[f32], row: u32) -> f32 {
        let vector = self.vector(row);
        // Of what is shown by words alone nothing is embedded yet.
        if vector.len() == query.len() { flat_hnsw::kernel::dot(query, vector) } else { 0.0 }
    }

    /// The best rows for a query of length 1, best first.
    #[must_use]
    pub fn search(
        &self,
        query: &[f32],
        how: &SearchOptions,
        allowed: &Selection,
    ) -> Vec<Neighbour> {
        let ef = how.ef.unwrap_or(self.manifest.ef_search);
        let mut found = match &self.base {
            Some(base) if how.exact || self.manifest.engine == "exact" => {
                base.flat.store.exact(query, how.k, allowed.base.as_ref(), how.threads.max(1))
            }
            Some(base) => base
                .flat
                .search(query, &SearchParameters { k: how.k, ef, live: allowed.base.as_ref() }),
            None => Vec::new(),
        };
        if self.delta.rows.is_empty() {
            return found;
        }
        let from = self.base_rows() as u32;
        let live = allowed.delta.as_ref();
        let appended = if how.exact {
            self.delta.store.exact(query, how.k, live, 1)
        } else {
            self.appended.search(&self.delta.store, query, &SearchParameters { k: how.k, ef, live })
        };
        found.extend(appended.into_iter().map(|f| Neighbour { row: from + f.row, ..f }));
        found.sort_unstable();
        found.truncate(how.k);
        found
    }
}
