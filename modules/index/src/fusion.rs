//! Two lists made one: what was found by meaning, and what was found by words.
//!
//! Invariants: a fused score is from 0 to 1, whatever the method; what stands in one document
//! alone, and is most of what a query's words tell, puts that document first; every row carries
//! what it scored in either list.

use std::collections::HashMap;

use brahman_card::interface::index::FusionChoice;
use flat_hnsw::store::Neighbour;

/// The share of meaning, unless the index or the search says otherwise.
pub const WEIGHT_DEFAULT: f32 = 0.5;
/// Places that stand before the first in reciprocal rank fusion (Cormack et al. 2009).
const RANK_OFFSET: f32 = 60.0;

/// How lists are fused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// By scores, each list's brought to between 0 and 1.
    Weighted,
    /// By places.
    Reciprocal,
}

/// A method, and the share of meaning in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fusion {
    /// By scores or by places.
    pub method: Method,
    /// From 0, words alone, to 1, meaning alone.
    pub weight: f32,
}

/// What is wrong with a wish.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FusionError {
    /// There is no such method.
    #[error("method `{name}`, expected weighted or rrf")]
    UnknownMethod {
        /// What was asked for.
        name: String,
    },
    /// The share is no share.
    #[error("weight {weight}, expected 0 (words alone) to 1 (meaning alone)")]
    Weight {
        /// What was asked for.
        weight: f64,
    },
}

impl Method {
    /// As callers name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Weighted => "weighted",
            Self::Reciprocal => "rrf",
        }
    }
}

impl Fusion {
    /// What a search wishes for, else the index, else `otherwise`.
    ///
    /// # Errors
    /// [`FusionError`].
    pub fn of(
        search: Option<&FusionChoice>,
        index: Option<&FusionChoice>,
        otherwise: Method,
    ) -> Result<Self, FusionError> {
        let wishes = || search.into_iter().chain(index);
        let method = match wishes().find_map(|wish| wish.method.as_deref()) {
            None => otherwise,
            Some("weighted") => Method::Weighted,
            Some("rrf") => Method::Reciprocal,
            Some(name) => return Err(FusionError::UnknownMethod { name: name.to_owned() }),
        };
        let weight = match wishes().find_map(|wish| wish.weight) {
            None => WEIGHT_DEFAULT,
            Some(weight) if (0.0..=1.0).contains(&weight) => weight as f32,
            Some(weight) => return Err(FusionError::Weight { weight }),
        };
        Ok(Self { method, weight })
    }
}

/// A row that was found, and by what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredRow {
    /// Number of the row.
    pub row: u32,
    /// What rows are ordered by.
    pub score: f32,
    /// Its cosine with the query, where that is known.
    pub cosine: Option<f32>,
    /// BM25 of the query's words, where it was found by them.
    pub bm25: Option<f32>,
}

/// Lists to fuse.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a> {
    /// By meaning, best first.
    pub near: &'a [Neighbour],
    /// By words, best first.
    pub words: &'a [Neighbour],
    /// Of those found by words, the rows of a document that alone has the word that decides.
    pub alone: &'a [u32],
    /// How many each list could have had.
    pub depth: usize,
}

/// Where a list's scores lie: its worst candidate to its best. A list that is not full ends where
/// nothing is found.
#[derive(Clone, Copy, Debug)]
struct Range {
    low: f32,
    high: f32,
}

impl Range {
    fn of(list: &[Neighbour], depth: usize, nothing: f32) -> Self {
        let score = |found: Option<&Neighbour>| found.map_or(nothing, |found| found.score);
        let low = if list.len() < depth { nothing } else { score(list.last()) };
        Self { low, high: score(list.first()) }
    }

    fn place(self, score: f32) -> f32 {
        let width = self.high - self.low;
        if width > f32::EPSILON {
            ((score - self.low) / width).clamp(0.0, 1.0)
        } else if score >= self.high {
            1.0
        } else {
            0.0
        }
    }
}

/// The best `k` of both lists. `cosine` is of any row: a row that was found by words alone has its
/// share of meaning, too.
pub fn fuse(
    lists: &Lists<'_>,
    fusion: Fusion,
    cosine: impl Fn(u32) -> f32,
    k: usize,
) -> Vec<ScoredRow> {
    let mut all: HashMap<u32, ScoredRow> =
        HashMap::with_capacity(lists.near.len() + lists.words.len());
    let new = |row| ScoredRow { row, score: 0.0, cosine: None, bm25: None };
    for found in lists.near {
        all.entry(found.row).or_insert_with(|| new(found.row)).cosine = Some(found.score);
    }
    for found in lists.words {
        let scored = all.entry(found.row).or_insert_with(|| new(found.row));
        scored.bm25 = Some(found.score);
        scored.cosine.get_or_insert_with(|| cosine(found.row));
    }
    match fusion.method {
        Method::Weighted => {
            // Of few rows the worst is not nothing: it is the worst there is.
            let worst =
                all.values().filter_map(|scored| scored.cosine).fold(f32::INFINITY, f32::min);
            let (meaning, words) = (
                Range::of(lists.near, lists.depth, worst),
                Range::of(lists.words, lists.depth, 0.0),
            );
            for scored in all.values_mut() {
                let near = scored.cosine.map_or(0.0, |cosine| meaning.place(cosine));
                let told = scored.bm25.map_or(0.0, |bm25| words.place(bm25));
                scored.score = fusion.weight * near + (1.0 - fusion.weight) * told;
            }
        }
        Method::Reciprocal => {
            for (list, weight) in [(lists.near, fusion.weight), (lists.words, 1.0 - fusion.weight)]
            {
                for (place, found) in list.iter().enumerate() {
                    if let Some(scored) = all.get_mut(&found.row) {
                        // The first of both lists has 1.
                        scored.score +=
                            weight * (RANK_OFFSET + 1.0) / (RANK_OFFSET + 1.0 + place as f32);
                    }
                }
            }
        }
    }
    let best = all.values().map(|scored| scored.score).fold(0.0, f32::max);
    for row in lists.alone {
        if let Some(scored) = all.get_mut(row) {
            scored.score = best;
        }
    }
    let mut all: Vec<ScoredRow> = all.into_values().collect();
    let by_words = |scored: &ScoredRow| scored.bm25.unwrap_or(0.0);
    let is_alone = |scored: &ScoredRow| lists.alone.contains(&scored.row);
    all.sort_unstable_by(|a, b| {
        let order = b.score.total_cmp(&a.score).then_with(|| is_alone(b).cmp(&is_alone(a)));
        order.then_with(|| by_words(b).total_cmp(&by_words(a))).then(a.row.cmp(&b.row))
    });
    all.truncate(k);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rows: &[(u32, f32)]) -> Vec<Neighbour> {
        rows.iter().map(|(row, score)| Neighbour { row: *row, score: *score }).collect()
    }

    fn fused(
        near: &[(u32, f32)],
        words: &[(u32, f32)],
        alone: &[u32],
        fusion: Fusion,
    ) -> Vec<(u32, f32)> {
        let (near, words) = (list(near), list(words));
        let lists = Lists { near: &near, words: &words, alone, depth: 100 };
        fuse(&lists, fusion, |_| 0.0, 10)
            .into_iter()
            .map(|scored| (scored.row, scored.score))
            .collect()
    }

    fn by(method: Method, weight: f32) -> Fusion {
        Fusion { method, weight }
    }

    #[test]
    fn what_stands_high_in_both_lists_wins_and_scores_are_from_0_to_1() {
        let (near, words) = ([(1, 0.9), (2, 0.8), (3, 0.1)], [(2, 12.0), (4, 6.0)]);
        for method in [Method::Weighted, Method::Reciprocal] {
            let all = fused(&near, &words, &[], by(method, 0.5));
            assert_eq!((all[0].0, all.len()), (2, 4), "{method:?}: {all:?}");
            assert!(all.iter().all(|(_, score)| (0.0..=1.0).contains(score)), "{all:?}");
        }
        let meaning: Vec<u32> = fused(&near, &words, &[], by(Method::Weighted, 1.0))
            .iter()
            .map(|(row, _)| *row)
            .collect();
        assert_eq!(meaning, [1, 2, 3, 4]);
        let telling = fused(&near, &words, &[], by(Method::Weighted, 0.0));
        assert_eq!((telling[0], telling[1]), ((2, 1.0), (4, 0.5)));
    }

    #[test]
    fn the_one_document_that_has_the_word_is_first_whatever_meaning_says() {
        for weight in [0.0, 0.5, 0.9, 1.0] {
            for method in [Method::Weighted, Method::Reciprocal] {
                let all =
                    fused(&[(1, 0.9), (2, 0.8)], &[(7, 5.0), (1, 4.9)], &[7], by(method, weight));
                assert_eq!(all[0].0, 7, "{weight} {method:?} {all:?}");
            }
        }
    }

    #[test]
    fn what_stands_far_behind_in_a_long_list_counts_little() {
        let long: Vec<(u32, f32)> =
            (0..70_000_u32).map(|row| (row, 1.0 / (row as f32 + 1.0))).collect();
        let all = fused(&long, &[], &[], by(Method::Reciprocal, 1.0));
        assert_eq!(
            all.iter().map(|(row, _)| *row).collect::<Vec<_>>(),
            (0..10).collect::<Vec<_>>()
        );
    }

    #[test]
    fn one_list_alone_and_none_at_all_are_fused_too() {
        assert_eq!(fused(&[], &[(3, 2.0)], &[], by(Method::Weighted, 0.5)), [(3, 1.0)]);
        assert_eq!(fused(&[(3, 0.5)], &[], &[], by(Method::Weighted, 0.5)), [(3, 0.5)]);
        assert!(fused(&[], &[], &[], by(Method::Reciprocal, 0.5)).is_empty());
    }

    #[test]
    fn a_search_overrules_its_index_and_nonsense_is_refused() {
        let wish = |method: Option<&str>, weight| FusionChoice {
            method: method.map(str::to_owned),
            weight,
        };
        let (search, index) = (wish(None, Some(0.25)), wish(Some("rrf"), Some(0.75)));
        assert_eq!(
            Fusion::of(Some(&search), Some(&index), Method::Weighted),
            Ok(by(Method::Reciprocal, 0.25))
        );
        assert_eq!(
            Fusion::of(None, None, Method::Weighted),
            Ok(by(Method::Weighted, WEIGHT_DEFAULT))
        );
        assert!(Fusion::of(Some(&wish(Some("sum"), None)), None, Method::Weighted).is_err());
        assert!(Fusion::of(Some(&wish(None, Some(1.5))), None, Method::Weighted).is_err());
        assert!(Fusion::of(Some(&wish(None, Some(f64::NAN))), None, Method::Weighted).is_err());
    }
}
