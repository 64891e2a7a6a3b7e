//! How many candidates a search must keep in a graph that was just built, for the recall that was
//! promised.
//!
//! Invariants: the questions are near the rows and none of them; the truth is exact; it is never
//! fewer than searches keep by default; the same graph gives the same.

use flat_hnsw::build::{in_parallel, mix};
use flat_hnsw::kernel::dot;
use flat_hnsw::store::Neighbour;
use flat_hnsw::{FlatIndex, SearchParameters};

use crate::generation::EF_DEFAULT;

/// Fewer rows are found at the default: recall falls as graphs grow.
pub const ROWS_MIN: usize = 50_000;
/// Questions: 1 in a hundred missed is told from none by so many, ten neighbours each.
const QUESTIONS: usize = 128;
/// Neighbours that are to be found.
const K: usize = 10;
/// Widest search that is tried: wider ones are no faster than comparing many more.
const EF_MAX: usize = 1024;
/// How far a question lies from its row, as the share of another row in it.
const OFF: f32 = 0.3;

/// Candidates, and the recall that was measured with them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Width {
    /// Candidates that a search keeps.
    pub ef: usize,
    /// Share of the true neighbours found.
    pub recall: f64,
}

/// The narrowest search that reaches a recall, to an eighth; the widest tried if none does.
#[must_use]
pub fn width(flat: &FlatIndex, wanted: f64, threads: usize) -> Option<Width> {
    let rows = flat.store.len();
    if rows < ROWS_MIN {
        return None;
    }
    let row = |n: u64| flat.store.vector((mix(n) % rows as u64) as u32);
    let questions: Vec<Vec<f32>> =
        (0..QUESTIONS as u64).map(|n| between(row(2 * n), row(2 * n + 1))).collect();
    let asked: Vec<&[f32]> = questions.iter().map(Vec::as_slice).collect();
    let truth = flat.store.exact_many(&asked, K, None, threads);
    let recall = |ef: usize| {
        let one = |(): &mut (), i: usize| {
            share(&flat.search(asked[i], &SearchParameters { k: K, ef, live: None }), &truth[i])
        };
        in_parallel(asked.len(), threads, || (), one).iter().sum::<f64>() / asked.len() as f64
    };
    let mut width = Width { ef: EF_DEFAULT, recall: recall(EF_DEFAULT) };
    while width.recall < wanted && width.ef < EF_MAX {
        width = Width { ef: width.ef * 2, recall: recall(width.ef * 2) };
    }
    if width.ef > EF_DEFAULT && width.recall >= wanted {
        width = narrowed(width, wanted, &recall);
    }
    Some(width)
}

/// The narrowest between half of what suffices and that, to an eighth of the former.
fn narrowed(enough: Width, wanted: f64, recall: &dyn Fn(usize) -> f64) -> Width {
    let (mut low, mut high) = (enough.ef / 2, enough);
    let step = enough.ef / 16;
    while high.ef - low > step {
        let ef = low.midpoint(high.ef);
        let middle = Width { ef, recall: recall(ef) };
        if middle.recall >= wanted { high = middle } else { low = ef }
    }
    high
}

/// A question between two rows, near the first.
fn between(near: &[f32], far: &[f32]) -> Vec<f32> {
    let mut out: Vec<f32> = near.iter().zip(far).map(|(a, b)| (1.0 - OFF) * a + OFF * b).collect();
    let length = dot(&out, &out).sqrt();
    if length > f32::MIN_POSITIVE {
        out.iter_mut().for_each(|x| *x /= length);
    }
    out
}

fn share(found: &[Neighbour], truth: &[Neighbour]) -> f64 {
    // Of rows that are as near as the last, each is right.
    let Some(last) = truth.last() else { return 1.0 };
    let right = found.iter().filter(|one| one.score >= last.score - 1e-6).count().min(truth.len());
    right as f64 / truth.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_suffices_is_narrowed_to_an_eighth() {
        for enough in [65, 80, 100, 127, 128] {
            let recall = |ef: usize| if ef >= enough { 0.99 } else { 0.9 };
            let width = narrowed(Width { ef: 128, recall: 0.99 }, 0.98, &recall);
            assert!(
                width.ef >= enough && width.ef < enough + 9 && width.recall >= 0.98,
                "{width:?} for {enough}"
            );
        }
    }

    #[test]
    fn a_question_lies_near_its_row_and_the_share_counts_ties() {
        let question = between(&[1.0, 0.0], &[0.0, 1.0]);
        assert!((dot(&question, &question) - 1.0).abs() < 1e-6 && question[0] > question[1]);
        let of = |scores: &[f32]| {
            scores
                .iter()
                .zip(0..)
                .map(|(score, row)| Neighbour { row, score: *score })
                .collect::<Vec<_>>()
        };
        assert!((share(&of(&[0.9, 0.5]), &of(&[0.9, 0.8])) - 0.5).abs() < 1e-9);
        assert!((share(&of(&[0.9, 0.8, 0.8]), &of(&[0.9, 0.8])) - 1.0).abs() < 1e-9);
        assert!((share(&[], &[]) - 1.0).abs() < 1e-9);
    }
}
