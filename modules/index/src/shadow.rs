//! The shadow check: after a promotion some live queries are searched exactly too, in the
//! background, and where the recall that was promised is not kept, the generation before is asked
//! the same queries. It answers again if it finds more, by the one definition of better
//! ([`crate::better`]); else what was promoted stays.
//!
//! A promotion is judged on the queries of a set; people ask others. Pure: the service samples,
//! compares and rolls back. Invariants: a verdict falls once; nothing is gone back to that was not
//! measured on the same queries and found to be better.

use crate::better::{Figures, Goal, Standing, interval, mean};
use crate::filter::Filter;
use crate::trials::Measure;

/// One query in this many is checked: exact search may cost a hundred times as much as a walk.
const SHARE: u64 = 100;
/// Fewer checked queries are no ground for a verdict.
const CHECKED_MIN: usize = 20;
/// After so many the promotion is trusted.
const CHECKED_MAX: usize = 500;

/// What the check has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// More queries are to be checked.
    Open,
    /// The recall is kept.
    Kept,
    /// Even the upper end of the recall's interval is below what was promised.
    Broken,
}

/// A live query that was checked, and what is right: enough to ask another generation of the same
/// data.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its direction, with a length of 1.
    pub vector: Vec<f32>,
    /// How many rows were wanted.
    pub k: usize,
    /// The rows that might be found, if not all.
    pub filter: Option<Filter>,
    /// The least score that is right.
    pub floor: f32,
    /// How many rows are right, above 0.
    pub truth: usize,
}

impl Sample {
    /// The share of what is right among these scores.
    #[must_use]
    pub fn recall(&self, scores: impl Iterator<Item = f32>) -> f64 {
        scores.filter(|score| *score >= self.floor).count().min(self.truth) as f64
            / self.truth.max(1) as f64
    }
}

/// The check of one generation.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// Folder of the generation.
    pub generation: String,
    /// Recall that was promised.
    pub target: f64,
    /// What was found so far.
    pub measure: Measure,
    /// What is said of them by now.
    pub verdict: Verdict,
    /// Recall of the generation before on the same queries, where it was asked.
    pub before: Option<f64>,
    /// Why it stays although the promise is broken.
    pub stays: Option<String>,
    samples: Vec<Sample>,
    asked: u64,
}

impl Shadow {
    /// Begins the check of a generation.
    #[must_use]
    pub fn new(generation: &str, target: f64) -> Self {
        Self {
            generation: generation.to_owned(),
            target,
            measure: Measure::default(),
            verdict: Verdict::Open,
            before: None,
            stays: None,
            samples: Vec::new(),
            asked: 0,
        }
    }

    /// Counts a live query; whether it is to be checked.
    pub fn samples(&mut self) -> bool {
        self.asked += 1;
        self.verdict == Verdict::Open && self.asked % SHARE == 1
    }

    /// Takes a checked query and its recall. Gives the verdict if it falls now.
    pub fn add(&mut self, recall: f64, sample: Sample) -> Option<Verdict> {
        if self.verdict != Verdict::Open {
            return None;
        }
        self.measure.recalls.push(recall);
        self.samples.push(sample);
        let checked = self.measure.recalls.len();
        let (low, high) = self.measure.interval();
        if checked >= CHECKED_MIN && high < self.target {
            self.verdict = Verdict::Broken;
        } else if checked >= CHECKED_MAX || (checked >= CHECKED_MIN && low >= self.target) {
            self.verdict = Verdict::Kept;
            // Nobody will ask for them.
            self.samples = Vec::new();
        }
        (self.verdict != Verdict::Open).then_some(self.verdict)
    }

    /// The queries that were checked, once the promise is broken; they are not kept here any
    /// longer.
    pub fn take_samples(&mut self) -> Vec<Sample> {
        std::mem::take(&mut self.samples)
    }
}

/// Whether the generation before finds more: recalls of what answers and of the one before, query
/// by query, on the same queries.
#[must_use]
pub fn goes_back(target: f64, now: &[f64], before: &[f64]) -> bool {
    // Latencies were not measured on them, and a promise of recall is what is at stake.
    let figures = |recalls: &[f64]| {
        let (low, high) = interval(recalls);
        Figures { recall: mean(recalls), low, high, p95_us: 0.0 }
    };
    !before.is_empty()
        && Goal::Target(target).compare(&figures(before), &figures(now)) == Standing::Better
}

/// The number of hits that was wanted most often; of equals the smaller.
#[must_use]
pub fn usual_k(samples: &[Sample]) -> Option<usize> {
    let count = |k: usize| samples.iter().filter(|sample| sample.k == k).count();
    samples.iter().map(|sample| sample.k).max_by_key(|k| (count(*k), std::cmp::Reverse(*k)))
}

#[cfg(test)]
mod tests {
    use flat_hnsw::build::mix;
    use proptest::prelude::*;

    use super::*;

    fn sample(k: usize) -> Sample {
        Sample { vector: vec![1.0], k, filter: None, floor: 0.5, truth: 2 }
    }

    #[test]
    fn a_broken_promise_is_found_and_a_kept_one_is_trusted() {
        let run = |recall: &dyn Fn(usize) -> f64| {
            let mut shadow = Shadow::new("g", 0.95);
            let verdict = (0..)
                .find_map(|n| shadow.add(recall(n), sample(10)).map(|verdict| (verdict, n + 1)));
            (verdict, shadow.take_samples().len())
        };
        assert_eq!(run(&|_| 0.4), (Some((Verdict::Broken, CHECKED_MIN)), CHECKED_MIN));
        let (verdict, samples) = run(&|_| 1.0);
        let (verdict, checked) = verdict.expect("a verdict");
        assert!(
            verdict == Verdict::Kept && checked > CHECKED_MIN && samples == 0,
            "twenty perfect queries prove little"
        );
        assert_eq!(
            run(&|n| if n.is_multiple_of(2) { 0.9 } else { 1.0 }).0,
            Some((Verdict::Kept, CHECKED_MAX)),
            "neither is proven"
        );
    }

    #[test]
    fn one_query_in_a_hundred_is_checked_until_the_verdict() {
        let mut shadow = Shadow::new("g", 0.95);
        assert_eq!((0..1000).filter(|_| shadow.samples()).count(), 10);
        assert!((0..CHECKED_MAX).any(|_| shadow.add(0.0, sample(10)).is_some()));
        assert_eq!((shadow.verdict, shadow.measure.recalls.len()), (Verdict::Broken, CHECKED_MIN));
        assert_eq!((0..1000).filter(|_| shadow.samples()).count(), 0);
    }

    #[test]
    fn nothing_is_gone_back_to_that_finds_less_or_about_as_much() {
        let of = |recall: f64| vec![recall; 40];
        assert!(!goes_back(0.95, &of(0.73), &of(0.27)), "what was found to happen");
        assert!(goes_back(0.95, &of(0.27), &of(0.73)));
        assert!(!goes_back(0.95, &of(0.73), &of(0.75)), "that is no difference");
        assert!(!goes_back(0.95, &of(0.73), &[]), "nor is what was not measured");
    }

    #[test]
    fn a_sample_counts_what_is_right_and_ties_count_once() {
        let one = sample(10);
        assert_eq!(
            [vec![0.9, 0.1], vec![0.9, 0.8, 0.7], vec![]]
                .map(|scores| one.recall(scores.into_iter())),
            [0.5, 1.0, 0.0]
        );
        assert_eq!(usual_k(&[sample(3), sample(10), sample(10), sample(5)]), Some(10));
        assert_eq!((usual_k(&[sample(7), sample(3)]), usual_k(&[])), (Some(3), None));
    }

    proptest! {
        #[test]
        fn what_answers_afterwards_never_found_less(
            target in 0.5_f64..1.0,
            pairs in prop::collection::vec((0_u32..=10, 0_u32..=10), 20..120),
        ) {
            let share = |n: u32| f64::from(n) / 10.0;
            let (now, before): (Vec<f64>, Vec<f64>) =
                pairs.into_iter().map(|(a, b)| (share(a), share(b))).unzip();
            // Only where the promise is broken is anybody asked.
            if interval(&now).1 < target && goes_back(target, &now, &before) {
                prop_assert!(mean(&before) > mean(&now));
            }
        }
    }

    /// A generation, as live queries see it: how much it finds of what people ask at first, and how
    /// much that changes as they ask for other things.
    #[derive(Clone, Copy)]
    struct Made {
        near: f64,
        away: f64,
    }

    impl Made {
        /// What a query finds: the same of two generations depends on the query alike.
        fn recall(self, away: f64, query: u64) -> f64 {
            let mean = self.near * (1.0 - away) + self.away * away;
            let found = (0..10)
                .filter(|n| ((mix(query ^ mix(*n)) >> 11) as f64 / (1_u64 << 53) as f64) < mean)
                .count();
            found as f64 / 10.0
        }

        fn live(self, away: f64, seed: u64) -> f64 {
            mean(
                &(0..2000)
                    .map(|n| self.recall(away, mix(seed ^ mix(n + 1_000_000))))
                    .collect::<Vec<_>>(),
            )
        }
    }

    /// 200 histories of promotions that were judged on queries near the rows, rollbacks by hand,
    /// refreshes, and people who ask for what is ever farther away: what happens by itself never
    /// makes answers worse.
    #[test]
    fn live_recall_never_falls_by_what_happens_by_itself() {
        let (mut back, mut stayed) = (0, 0);
        for history in 0..200_u64 {
            let share = |n: u64| (mix(mix(history) ^ n) >> 11) as f64 / (1_u64 << 53) as f64;
            let (mut draws, mut away) = (0_u64, 0.0_f64);
            let mut draw = || {
                draws += 1;
                share(draws)
            };
            let mut generations = vec![Made { near: 0.95 + 0.05 * draw(), away: draw() }];
            for step in 0..12 {
                away = (away + 0.3 * draw() - 0.05).clamp(0.0, 1.0);
                match (draw() * 4.0) as u32 {
                    // A promotion: better near the rows, whatever it is elsewhere.
                    0 | 1 => generations.push(Made { near: 0.96 + 0.04 * draw(), away: draw() }),
                    2 if generations.len() > 1 => drop(generations.pop()),
                    // A refresh: other data, and nothing to go back to.
                    _ => generations = generations.split_off(generations.len() - 1),
                }
                let Some((now, before)) =
                    generations.split_last().and_then(|(now, older)| Some((*now, *older.last()?)))
                else {
                    continue;
                };
                let mut shadow = Shadow::new("g", 0.95);
                let query = |n: usize| mix(history << 32 | step << 16 | n as u64);
                let verdict = (0..CHECKED_MAX)
                    .find_map(|n| shadow.add(now.recall(away, query(n)), sample(10)));
                if verdict != Some(Verdict::Broken) {
                    continue;
                }
                let asked: Vec<f64> = (0..shadow.take_samples().len())
                    .map(|n| before.recall(away, query(n)))
                    .collect();
                if !goes_back(0.95, &shadow.measure.recalls, &asked) {
                    stayed += 1;
                    continue;
                }
                let (low, high) = shadow.measure.interval();
                let (was, is) = (now.live(away, history), before.live(away, history));
                assert!(
                    is >= was - (high - low),
                    "history {history}, step {step}: {was:.3} before, {is:.3} after"
                );
                generations.pop();
                back += 1;
            }
        }
        assert!(
            back >= 50 && stayed >= 50,
            "{back} times it went back, {stayed} times it stayed: both are to be seen"
        );
    }
}
