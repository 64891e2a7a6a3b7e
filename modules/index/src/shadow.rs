//! The shadow check: after a promotion some live queries are searched exactly too, in the background, and what answers
//! goes back to the generation before if the recall that was promised is not kept.
//!
//! A promotion is judged on queries near the index's own rows; people ask others. Pure: the service samples, compares
//! and rolls back. Invariant: a verdict falls once.

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
    asked: u64,
}

impl Shadow {
    /// Begins the check of a generation.
    #[must_use]
    pub fn new(generation: &str, target: f64) -> Self {
        Self { generation: generation.to_owned(), target, measure: Measure::default(), verdict: Verdict::Open, asked: 0 }
    }

    /// Counts a live query; whether it is to be checked.
    pub fn samples(&mut self) -> bool {
        self.asked += 1;
        self.verdict == Verdict::Open && self.asked % SHARE == 1
    }

    /// Takes a checked query's recall. Gives the verdict if it falls now.
    pub fn add(&mut self, recall: f64) -> Option<Verdict> {
        if self.verdict != Verdict::Open {
            return None;
        }
        self.measure.recalls.push(recall);
        let checked = self.measure.recalls.len();
        let (low, high) = self.measure.interval();
        if checked >= CHECKED_MIN && high < self.target {
            self.verdict = Verdict::Broken;
        } else if checked >= CHECKED_MAX || (checked >= CHECKED_MIN && low >= self.target) {
            self.verdict = Verdict::Kept;
        }
        (self.verdict != Verdict::Open).then_some(self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_is_found_and_a_kept_one_is_trusted() {
        let run = |recall: &dyn Fn(usize) -> f64| {
            let mut shadow = Shadow::new("g", 0.95);
            (0..).find_map(|n| shadow.add(recall(n)).map(|verdict| (verdict, n + 1)))
        };
        assert_eq!(run(&|_| 0.4), Some((Verdict::Broken, CHECKED_MIN)));
        let (verdict, checked) = run(&|_| 1.0).expect("a verdict");
        assert!(verdict == Verdict::Kept && checked > CHECKED_MIN, "twenty perfect queries prove little");
        assert_eq!(run(&|n| if n.is_multiple_of(2) { 0.9 } else { 1.0 }), Some((Verdict::Kept, CHECKED_MAX)), "neither is proven");
    }

    #[test]
    fn one_query_in_a_hundred_is_checked_until_the_verdict() {
        let mut shadow = Shadow::new("g", 0.95);
        assert_eq!((0..1000).filter(|_| shadow.samples()).count(), 10);
        assert!((0..CHECKED_MAX).any(|_| shadow.add(0.0).is_some()));
        assert_eq!((shadow.verdict, shadow.measure.recalls.len()), (Verdict::Broken, CHECKED_MIN));
        assert_eq!((0..1000).filter(|_| shadow.samples()).count(), 0);
    }
}
