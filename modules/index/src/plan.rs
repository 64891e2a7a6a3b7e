//! Which configuration of a grid is tried next, purely: few builds find the best of many.
//!
//! All widths of a search are measured on one graph, so only the ways to build it are chosen among.
//! A graph that is built with more candidates is no worse to walk, so every number of neighbours is
//! tried with the most candidates first; then, from the best one found, towards fewer candidates
//! and neighbours that were passed over. Invariants: nothing is proposed twice; the same trials
//! give the same proposal; sooner or later the whole grid is.

use crate::better::{Figures, Goal};

/// Numbers of neighbours that are tried at first: of more, those that lie evenly among them.
const FIRST_MAX: usize = 6;

/// Values to choose among, in ascending order, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    ms: Vec<u64>,
    ef_constructions: Vec<u64>,
}

/// How a graph was built, and what was measured of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GridPoint {
    /// Neighbours a node.
    pub m: u64,
    /// Candidates looked at for each node.
    pub ef_construction: u64,
    /// By the best of its widths.
    pub figures: Figures,
}

fn ascending(mut values: Vec<u64>) -> Vec<u64> {
    values.sort_unstable();
    values.dedup();
    values
}

/// Up to `most` places that lie evenly below `count`, both ends among them, the middle first.
fn evenly(count: usize, most: usize) -> Vec<usize> {
    let taken = count.min(most);
    let mut places: Vec<usize> =
        (0..taken).map(|i| if taken < 2 { 0 } else { i * (count - 1) / (taken - 1) }).collect();
    let middle = count / 2;
    places.sort_by_key(|place| (place.abs_diff(middle), *place));
    places
}

impl Grid {
    /// A grid of these values.
    #[must_use]
    pub fn new(ms: Vec<u64>, ef_constructions: Vec<u64>) -> Self {
        Self { ms: ascending(ms), ef_constructions: ascending(ef_constructions) }
    }

    /// Values within bounds, each as many times the one before.
    #[must_use]
    pub fn between(ms: [u64; 2], ef_constructions: [u64; 2], steps: u32) -> Self {
        let axis = |[least, most]: [u64; 2]| {
            let (least_f, most_f) = (least.max(1) as f64, most.max(1) as f64);
            let at = |step: u32| {
                (least_f * (most_f / least_f).powf(f64::from(step) / f64::from(steps.max(2) - 1)))
                    .round() as u64
            };
            (0..steps.max(2)).map(|step| at(step).clamp(least, most)).collect()
        };
        Self::new(axis(ms), axis(ef_constructions))
    }

    /// How many ways to build there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ms.len() * self.ef_constructions.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All ways to build: `m` and `ef_construction`.
    pub fn all(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ms.iter().flat_map(|m| self.ef_constructions.iter().map(move |ef| (*m, *ef)))
    }

    /// What to try next after these trials; none if all was tried.
    #[must_use]
    pub fn next(&self, goal: Goal, tried: &[GridPoint]) -> Option<(u64, u64)> {
        let top = self.ef_constructions.len().checked_sub(1)?;
        let is_new = |m: usize, ef: usize| {
            let (m, ef) = (self.ms[m], self.ef_constructions[ef]);
            !tried.iter().any(|t| (t.m, t.ef_construction) == (m, ef))
        };
        let at = |(m, ef): (usize, usize)| (self.ms[m], self.ef_constructions[ef]);
        if let Some(m) = evenly(self.ms.len(), FIRST_MAX).into_iter().find(|m| is_new(*m, top)) {
            return Some(at((m, top)));
        }
        let mut ranked: Vec<&GridPoint> = tried.iter().collect();
        ranked.sort_by(|a, b| goal.rank(&a.figures, &b.figures));
        let near = ranked.into_iter().find_map(|tried| {
            let m = self.ms.binary_search(&tried.m).ok()?;
            let ef = self.ef_constructions.binary_search(&tried.ef_construction).ok()?;
            let fewer_candidates = ef.checked_sub(1).map(|below| (m, below));
            let beside = [m.checked_sub(1), m.checked_add(1).filter(|m| *m < self.ms.len())];
            let beside = beside.into_iter().flatten().map(|m| (m, ef));
            fewer_candidates.into_iter().chain(beside).find(|(m, ef)| is_new(*m, *ef))
        });
        near.map(at).or_else(|| {
            self.all().find(|(m, ef)| !tried.iter().any(|t| (t.m, t.ef_construction) == (*m, *ef)))
        })
    }
}

#[cfg(test)]
mod tests {
    use flat_hnsw::build::mix;
    use proptest::prelude::*;

    use super::*;

    const MS: [u64; 6] = [4, 8, 12, 16, 24, 32];
    const EF_CONSTRUCTIONS: [u64; 6] = [32, 64, 100, 150, 200, 400];
    const EF_SEARCHES: [f64; 6] = [10.0, 20.0, 40.0, 80.0, 160.0, 320.0];
    const TARGET: f64 = 0.95;

    /// A made-up index: how hard its data is, and how much the parts of a search cost.
    struct Made {
        seed: u64,
        hard: f64,
        fill: f64,
        power: f64,
        each: f64,
        neighbour: f64,
    }

    impl Made {
        fn new(seed: u64) -> Self {
            let share = |n: u64| (mix(seed ^ mix(n)) >> 11) as f64 / (1_u64 << 53) as f64;
            let between = |n: u64, low: f64, high: f64| low + (high - low) * share(n);
            Self {
                seed,
                hard: between(1, 8.0, 40.0),
                fill: between(2, 2.0, 8.0),
                power: between(3, 0.3, 0.9),
                each: between(4, 0.05, 0.4),
                neighbour: between(5, 0.01, 0.06),
            }
        }

        /// The best of all widths on one graph, its latency a little off as on a machine that does
        /// other things too.
        fn figures(&self, m: u64, ef_construction: u64) -> Figures {
            let filled = 1.0 - (-(ef_construction as f64) / (self.fill * m as f64)).exp();
            let quality = filled * (m as f64).powf(self.power);
            let widths: Vec<Figures> = EF_SEARCHES
                .iter()
                .zip(0_u64..)
                .map(|(ef, n)| {
                    let off = (mix(self.seed ^ mix(m << 32 | ef_construction << 8 | n)) % 2001)
                        as f64
                        / 100_000.0
                        - 0.01;
                    let recall = 1.0 - (-ef.powf(0.8) * quality / self.hard).exp();
                    let p95_us =
                        (2.0 + ef * (self.each + self.neighbour * m as f64 * filled)) * (1.0 + off);
                    Figures { recall, low: recall, high: recall, p95_us }
                })
                .collect();
            widths[Goal::Target(TARGET).best(&widths).expect("there are six")]
        }
    }

    #[test]
    fn the_best_of_a_grid_of_six_by_six_by_six_is_found_within_twelve_trials_on_average() {
        let (goal, grid) =
            (Goal::Target(TARGET), Grid::new(MS.to_vec(), EF_CONSTRUCTIONS.to_vec()));
        let (mut indexes, mut trials) = (0, 0);
        for made in (0..40).map(Made::new) {
            let all: Vec<Figures> = grid.all().map(|(m, ef)| made.figures(m, ef)).collect();
            let best = all[goal.best(&all).expect("36")];
            // One in which nothing reaches the target has no best p95 there.
            if !goal.is_met_by(&best) {
                continue;
            }
            let mut tried: Vec<GridPoint> = Vec::new();
            while !tried
                .iter()
                .any(|t| goal.is_met_by(&t.figures) && t.figures.p95_us <= best.p95_us * 1.02)
            {
                let (m, ef_construction) =
                    grid.next(goal, &tried).expect("the best is not among those tried");
                tried.push(GridPoint {
                    m,
                    ef_construction,
                    figures: made.figures(m, ef_construction),
                });
            }
            (indexes, trials) = (indexes + 1, trials + tried.len());
        }
        assert!(indexes >= 20 && trials <= 12 * indexes, "{trials} trials for {indexes} indexes");
    }

    proptest! {
        #[test]
        fn nothing_is_tried_twice_and_in_the_end_everything_was(
            ms in prop::collection::vec(2_u64..40, 1..9),
            efs in prop::collection::vec(4_u64..60, 1..7),
            seed in any::<u64>(),
        ) {
            let (grid, made, goal) = (Grid::new(ms, efs), Made::new(seed), Goal::Target(TARGET));
            let mut tried: Vec<GridPoint> = Vec::new();
            while let Some((m, ef_construction)) = grid.next(goal, &tried) {
                prop_assert!(grid.all().any(|one| one == (m, ef_construction)));
                prop_assert!(
                    !tried.iter().any(|t| (t.m, t.ef_construction) == (m, ef_construction))
                );
                prop_assert_eq!(grid.next(goal, &tried), Some((m, ef_construction)));
                tried.push(GridPoint {
                    m,
                    ef_construction,
                    figures: made.figures(m, ef_construction),
                });
            }
            prop_assert_eq!(tried.len(), grid.len());
        }
    }

    #[test]
    fn values_between_bounds_have_both_ends_and_stay_within() {
        let grid = Grid::between([4, 8], [16, 16], 6);
        assert!(grid.all().any(|one| one == (4, 16)) && grid.all().any(|one| one == (8, 16)));
        assert!(grid.all().all(|(m, ef)| (4..=8).contains(&m) && ef == 16));
        assert_eq!(Grid::between([6, 48], [32, 400], 6).len(), 36);
        assert!(
            Grid::new(Vec::new(), vec![1]).next(Goal::Pareto, &[]).is_none()
                && Grid::new(Vec::new(), vec![1]).is_empty()
        );
    }
}
