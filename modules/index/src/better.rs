//! Which of two configurations is better: the one definition, for `best`, `Autotune`, the agent,
//! promotions and the shadow check.
//!
//! With a target: what reaches it with the lower end of its recall's interval is better than what
//! does not; of two that reach it the one with the lower 95th percentile of latency; of two that do
//! not, the one whose recall is above the other's interval. Without a target (Pareto): better is
//! what is faster and not less exact than the other's interval allows, or more exact than that and
//! not slower; everything else is a trade, which is for a person to decide.
//!
//! Invariants: only figures of the same data, the same set of queries and the same k are ever
//! compared, which is for whoever brings them to see to; if one is better than another, that one is
//! worse. This file knows neither indexes nor journals.

use std::cmp::Ordering;

/// The 97.5th percentile of the normal distribution: intervals are of 95 %.
const Z: f64 = 1.96;
/// Less than this is what sums of f64 make of equal shares; what differs at all, in one of 20,000
/// queries by one of 1,000 neighbours, varies more.
const VARIANCE_MIN: f64 = 1e-12;
/// How many halves of the interval lie between the target and the recall that a search is widened
/// to. What was chosen on one half of a set must reach the target on the other half, too: with one
/// it does so half the time, with two in nine of ten.
const MARGIN: f64 = 2.0;

/// What was measured of a configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Mean share of the true neighbours found.
    pub recall: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// 95th percentile of one search, in microseconds.
    pub p95_us: f64,
}

/// By what is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// A recall to reach; then latency counts.
    Target(f64),
    /// Neither recall nor latency may be given up.
    Pareto,
}

/// How one configuration stands against another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is better.
    Better,
    /// The other one is.
    Worse,
    /// It gains one thing and loses another.
    Trade,
    /// They cannot be told apart.
    Alike,
}

impl Goal {
    /// The goal of whoever named a recall, or none.
    #[must_use]
    pub fn of(target: Option<f64>) -> Self {
        target.map_or(Self::Pareto, Self::Target)
    }

    /// Whether a configuration does what is asked for at all.
    #[must_use]
    pub fn is_met_by(self, figures: &Figures) -> bool {
        match self {
            Self::Target(target) => figures.low >= target,
            Self::Pareto => true,
        }
    }

    /// How one configuration stands against another.
    #[must_use]
    pub fn compare(self, one: &Figures, other: &Figures) -> Standing {
        if self.prefers(one, other) {
            Standing::Better
        } else if self.prefers(other, one) {
            Standing::Worse
        } else {
            match self {
                Self::Target(_) => Standing::Alike,
                Self::Pareto if one.p95_us.total_cmp(&other.p95_us).is_eq() => Standing::Alike,
                Self::Pareto => Standing::Trade,
            }
        }
    }

    fn prefers(self, one: &Figures, other: &Figures) -> bool {
        match (self, self.is_met_by(one), self.is_met_by(other)) {
            (Self::Target(_), true, false) => true,
            (Self::Target(_), false, true) => false,
            (Self::Target(_), true, true) => one.p95_us < other.p95_us,
            (Self::Target(_), false, false) => clearly(one, other),
            (Self::Pareto, ..) => {
                (one.p95_us < other.p95_us && one.recall >= other.low)
                    || (one.p95_us <= other.p95_us && clearly(one, other))
            }
        }
    }

    /// The place of the best of all; of equals the first.
    ///
    /// With a target: the fastest of those that reach it, or, if none does, the most exact.
    /// Without: the fastest of those that are not less exact than the interval of the most exact
    /// allows.
    #[must_use]
    pub fn best(self, all: &[Figures]) -> Option<usize> {
        let floor = all.iter().map(|figures| figures.low).fold(f64::NEG_INFINITY, f64::max);
        let places =
            (0..all.len()).filter(|place| self != Self::Pareto || all[*place].recall >= floor);
        places.min_by(|a, b| self.rank(&all[*a], &all[*b]))
    }

    /// The order in which configurations are looked at, the best first. Total, and in no
    /// contradiction to [`Goal::compare`] where there is a target.
    #[must_use]
    pub fn rank(self, a: &Figures, b: &Figures) -> Ordering {
        let by_recall = b.recall.total_cmp(&a.recall);
        let by_latency = a.p95_us.total_cmp(&b.p95_us);
        match self {
            Self::Target(_) => match (self.is_met_by(a), self.is_met_by(b)) {
                (true, false) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (true, true) => by_latency.then(by_recall),
                (false, false) => by_recall.then(by_latency),
            },
            Self::Pareto => by_latency.then(by_recall),
        }
    }
}

/// Whether one recall is above all that the other's may be.
fn clearly(one: &Figures, other: &Figures) -> bool {
    one.recall > other.high
}

/// What is gained and lost, in words.
#[must_use]
pub fn change(from: &Figures, to: &Figures) -> String {
    format!(
        "p95 {:.0} µs instead of {:.0} µs, recall {:.4} instead of {:.4}",
        to.p95_us, from.p95_us, to.recall, from.recall
    )
}

/// Mean of shares; 0 of none.
#[must_use]
pub fn mean(shares: &[f64]) -> f64 {
    // The sum of nothing is -0.
    if shares.is_empty() { 0.0 } else { shares.iter().sum::<f64>() / shares.len() as f64 }
}

/// The 95 % interval of a mean of shares: Wilson's score interval (Wilson, 1927), for as many
/// trials as would vary as much as the shares do. Of none it is everything.
#[must_use]
pub fn interval(shares: &[f64]) -> (f64, f64) {
    let (n, p) = (shares.len() as f64, mean(shares));
    if shares.is_empty() {
        return (0.0, 1.0);
    }
    let variance = shares.iter().map(|share| (share - p).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    // Where all queries are alike the spread says nothing: each is one trial.
    let trials =
        if variance < VARIANCE_MIN { n } else { (p * (1.0 - p) / variance * n).max(n.min(2.0)) };
    wilson(p, trials)
}

fn wilson(p: f64, n: f64) -> (f64, f64) {
    let (square, middle) = (Z * Z, p + Z * Z / (2.0 * n));
    let half = Z * (p * (1.0 - p) / n + square / (4.0 * n * n)).max(0.0).sqrt();
    let scale = 1.0 + square / n;
    (((middle - half) / scale).clamp(0.0, p), ((middle + half) / scale).clamp(p, 1.0))
}

/// Whether a search that finds these shares is wide enough for a target, so that it will reach it
/// on other queries, too. What is perfect suffices, even where so few queries prove nothing.
#[must_use]
pub fn suffices(shares: &[f64], target: f64) -> bool {
    let p = mean(shares);
    p >= 1.0 || p - MARGIN * (p - interval(shares).0) >= target
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn figures() -> impl Strategy<Value = Figures> {
        // Few values, so that ties occur.
        (0_u32..=20, 0_u32..=5, 0_u32..=5, 1_u32..=8).prop_map(|(recall, below, above, p95)| {
            let recall = f64::from(recall) / 20.0;
            let (low, high) = (
                (recall - f64::from(below) / 40.0).max(0.0),
                (recall + f64::from(above) / 40.0).min(1.0),
            );
            Figures { recall, low, high, p95_us: f64::from(p95) * 10.0 }
        })
    }

    fn goals() -> impl Strategy<Value = Goal> {
        prop_oneof![
            Just(Goal::Pareto),
            (1_u32..=20).prop_map(|n| Goal::Target(f64::from(n) / 20.0))
        ]
    }

    proptest! {
        #[test]
        fn of_two_at_most_one_is_better(goal in goals(), a in figures(), b in figures()) {
            let mirrored = match goal.compare(&a, &b) {
                Standing::Better => Standing::Worse,
                Standing::Worse => Standing::Better,
                same => same,
            };
            prop_assert_eq!(goal.compare(&b, &a), mirrored);
            prop_assert_ne!(goal.compare(&a, &a), Standing::Better);
        }

        #[test]
        fn the_best_is_beaten_by_none(
            goal in goals(),
            all in prop::collection::vec(figures(), 1..12),
        ) {
            let best = &all[goal.best(&all).expect("there are some")];
            for other in &all {
                let dominates = other.recall >= best.recall && other.p95_us <= best.p95_us
                    && (other.recall > best.recall || other.p95_us < best.p95_us);
                match goal {
                    Goal::Target(_) => prop_assert_ne!(goal.compare(other, best), Standing::Better),
                    Goal::Pareto => prop_assert!(!dominates, "{:?} dominates {:?}", other, best),
                }
            }
            prop_assert!(goal.best(&[]).is_none());
        }

        /// What is better loses no recall that its intervals can tell, unless a target allows it.
        #[test]
        fn nothing_is_better_that_gives_up_what_was_not_given_free(
            target in 0.5_f64..1.0,
            a in figures(),
            b in figures(),
        ) {
            if Goal::Pareto.compare(&a, &b) == Standing::Better {
                prop_assert!(a.recall >= b.low && a.p95_us <= b.p95_us);
            }
            if Goal::Target(target).compare(&a, &b) == Standing::Better {
                prop_assert!(a.low >= target || a.recall > b.high);
            }
        }

        #[test]
        fn an_interval_holds_its_mean_and_narrows_with_more_queries(
            shares in prop::collection::vec(0_u32..=10, 2..60),
        ) {
            let shares: Vec<f64> = shares.into_iter().map(|n| f64::from(n) / 10.0).collect();
            let ((low, high), p) = (interval(&shares), mean(&shares));
            prop_assert!((0.0..=p).contains(&low) && (p..=1.0).contains(&high), "{low} {p} {high}");
            let many = shares.repeat(10);
            let (low_of_many, high_of_many) = interval(&many);
            prop_assert!(high_of_many - low_of_many <= high - low + 1e-9);
        }
    }

    #[test]
    fn few_perfect_queries_prove_little_and_none_prove_nothing() {
        assert!((interval(&[1.0; 20]).0 - 20.0 / (20.0 + Z * Z)).abs() < 1e-9);
        assert!(interval(&[1.0; 500]).0 > 0.99);
        assert_eq!(
            (interval(&[]), mean(&[]).to_bits()),
            ((0.0, 1.0), 0.0_f64.to_bits()),
            "nor is it minus nothing"
        );
    }

    #[test]
    fn a_recall_that_is_given_up_is_better_only_for_whoever_named_a_lower_target() {
        let exact = Figures { recall: 1.0, low: 0.992, high: 1.0, p95_us: 40.0 };
        let quick = Figures { recall: 0.9654, low: 0.958, high: 0.972, p95_us: 14.0 };
        assert_eq!(Goal::Pareto.compare(&quick, &exact), Standing::Trade);
        assert_eq!(Goal::Target(0.95).compare(&quick, &exact), Standing::Better);
        assert_eq!(Goal::Target(0.98).compare(&quick, &exact), Standing::Worse);
        assert_eq!(Goal::Pareto.best(&[quick, exact]), Some(1));
        assert_eq!(Goal::Target(0.95).best(&[exact, quick]), Some(1));
    }

    #[test]
    fn a_search_is_wide_enough_if_it_will_reach_the_target_elsewhere_too() {
        let shares = |right: usize| {
            (0..500).map(|n| if n < right { 1.0 } else { 0.8 }).collect::<Vec<f64>>()
        };
        // 0.952 and 0.98 on average.
        assert!(!suffices(&shares(380), 0.95) && suffices(&shares(450), 0.95));
        assert!(suffices(&[1.0; 3], 1.0), "nothing is wider than perfect");
        assert!(!suffices(&[0.9; 3], 1.0));
    }
}
