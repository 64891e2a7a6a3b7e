//! Rows of a built graph that no search finds, and the way in that they are given.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::code::{Quantiser, QueryCode};
use crate::graph::NONE;
use crate::store::Neighbour;
use crate::{FlatIndex, Progress, build, kernel};

/// Candidates of the search by which a built graph is asked for each of its rows; narrower than a
/// usual search, so that a row which just passes is not lost to a usual one.
pub(super) const ADOPT_EF: usize = 48;
/// Rows whose lists a lost one is put into: a search that ends elsewhere by a little meets one of
/// them still.
const ADOPTERS: usize = 4;
/// Rows asked for between two looks at whether to go on: less than a millisecond of work.
const ASKED_PER_STEP: usize = 16;
/// What one round displaces is asked for in the next.
const ADOPT_ROUNDS: usize = 4;

impl FlatIndex {
    /// Gives rows that a search for their own vector does not find a way in: where that search
    /// ends, the nearest rows it did reach take the lost one into their lists, in place of one that
    /// others lead to too. The same search then finds it.
    pub(super) fn adopt(&mut self, threads: usize, progress: &Progress<'_>) -> io::Result<()> {
        let width = 2 * self.parameters.m;
        let mut asked: Vec<u32> = (0..self.store.len() as u32).collect();
        for _ in 0..ADOPT_ROUNDS {
            let lost = self
                .lost_of(&asked, ADOPT_EF, threads, progress)
                .ok_or(io::ErrorKind::Interrupted)?;
            if lost.is_empty() {
                return Ok(());
            }
            let mut ways_in = vec![0_u32; self.store.len()];
            self.base
                .as_u32()
                .iter()
                .filter(|node| **node != NONE)
                .for_each(|node| ways_in[*node as usize] += 1);
            asked.clear();
            let lists: &mut [u32] = bytemuck::cast_slice_mut(self.base.bytes_mut());
            for (row, reached) in lost {
                asked.push(row);
                for adopter in reached {
                    let list = &mut lists[adopter.row as usize * width..][..width];
                    // Room first; else the last that can be spared, for lists have what matters
                    // most in front.
                    let room = list.iter().position(|n| *n == NONE);
                    let spared = || list.iter().rposition(|n| ways_in[*n as usize] > 1);
                    let place = if list.contains(&row) { None } else { room.or_else(spared) };
                    let Some(place) = place else { continue };
                    let displaced = std::mem::replace(&mut list[place], row);
                    ways_in[row as usize] += 1;
                    if displaced != NONE {
                        ways_in[displaced as usize] -= 1;
                        asked.push(displaced);
                    }
                }
            }
            asked.sort_unstable();
            asked.dedup();
        }
        Ok(())
    }

    /// Of about `sample` rows evenly chosen, those that a walk for their own vector does not find:
    /// lost to every query.
    #[must_use]
    pub fn orphans(&self, ef: usize, threads: usize, sample: usize) -> Vec<u32> {
        let step = (self.store.len() / sample.max(1)).max(1);
        let rows: Vec<u32> = (0..self.store.len() as u32).step_by(step).collect();
        self.lost_of(&rows, ef, threads, &|_| true)
            .into_iter()
            .flatten()
            .map(|(row, _)| row)
            .collect()
    }

    /// Those of `rows` that are lost, each with the nearest that its search did reach; `None` if
    /// told to stop.
    fn lost_of(
        &self,
        rows: &[u32],
        ef: usize,
        threads: usize,
        progress: &Progress<'_>,
    ) -> Option<Vec<(u32, Vec<Neighbour>)>> {
        if self.top.is_empty() {
            return Some(Vec::new());
        }
        let stopped = AtomicBool::new(false);
        let lost = build::in_parallel(
            rows.len(),
            threads,
            || (),
            |(), i| {
                if i.is_multiple_of(ASKED_PER_STEP) && !progress(self.store.len()) {
                    stopped.store(true, Ordering::Relaxed);
                }
                if stopped.load(Ordering::Relaxed) {
                    return None;
                }
                let vector = self.store.vector(rows[i]);
                let found = self.walk(vector, ADOPTERS, ef, None).best;
                // Another row with the same vector is as good, to the codes: among near-duplicates
                // they cannot find one of many.
                let mut code = QueryCode::default();
                Quantiser::query(vector, &mut code);
                let quantiser = &self.store.quantiser;
                let own = kernel::dot(vector, vector)
                    - quantiser.resolution(&code) / (quantiser.scale * code.scale);
                found
                    .first()
                    .is_none_or(|best| best.row != rows[i] && best.score < own)
                    .then_some((rows[i], found))
            },
        );
        (!stopped.into_inner()).then(|| lost.into_iter().flatten().collect())
    }
}
