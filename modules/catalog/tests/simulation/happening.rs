//! What begins, and what happens to everybody.

use brahman_catalog::registry::sweep::Standing;

use super::catalog::{Commit, Event, Op, begun};
use super::world::{DISK, HOUR_MS, LAKE, NAMES, RESCUE, World};

impl World {
    /// Something begins, or happens to everybody.
    pub(super) fn happen(&mut self) {
        let who = self.random.below(2);
        let name = NAMES[usize::from(self.random.one_in(4))].to_owned();
        let bucket = [DISK, LAKE, LAKE, RESCUE][self.random.below(4)];
        let op = match self.random.below(26) {
            0..5 => {
                self.made += 1;
                let run = format!("{}{}", self.catalogs[who].node, self.made);
                let (bucket, adds) =
                    (if self.random.one_in(2) { DISK } else { LAKE }, self.random.one_in(2));
                Op::Start(Commit {
                    name,
                    run,
                    bucket: bucket.to_owned(),
                    adds,
                    objects: Vec::new(),
                    base: None,
                    number: 0,
                    life: 0,
                })
            }
            // Said again, or a run that was given up and is taken up again.
            5..8 => {
                let again: Vec<(String, String, String)> =
                    self.catalogs[who].journal.iter().filter_map(begun).collect();
                let Some((name, run, bucket)) = self.random.of(&again).cloned() else { return };
                let commit = Commit {
                    name,
                    run,
                    bucket,
                    adds: false,
                    objects: Vec::new(),
                    base: None,
                    number: 0,
                    life: 0,
                };
                // What was published is answered, and begins nothing.
                let runs = self.catalogs[who].runs(0);
                match runs.get(&commit.run).map(|run| run.standing) {
                    Some(Standing::Open) => Op::Check(commit),
                    Some(Standing::Failed { .. }) => Op::Start(commit),
                    _ => return,
                }
            }
            8..13 => Op::Sweep { bucket, name },
            13..15 => Op::Copy,
            15 => Op::Repair,
            16..19 => Op::Adopt { name },
            19..21 => {
                if self.catalogs[who].entries.remove(&name).is_none() {
                    return;
                }
                // Its line in the journal follows, or a crash, after which nobody knows whether it
                // was deleted.
                if self.random.one_in(8) {
                    let now_ms = self.now(who);
                    self.catalogs[who].restart(now_ms);
                } else {
                    self.catalogs[who].journal.push(Event::Drop { name });
                }
                return;
            }
            // The producer starts again: all that it had begun is given up.
            21 => {
                let adopted = |run: &String| run.starts_with("adopted");
                for run in self.catalogs[who].open_runs().into_iter().filter(|run| !adopted(run)) {
                    self.fail(who, run);
                }
                return;
            }
            22 => {
                let now_ms = self.now(who);
                self.catalogs[who].restart(now_ms);
                return;
            }
            23 => {
                if !self.away.remove(bucket) {
                    self.away.insert(bucket);
                }
                if !self.late.is_empty() {
                    let (key, put) = self.late.remove(0);
                    self.manifests.entry(key).or_insert(put);
                }
                return;
            }
            _ => {
                self.now_ms += HOUR_MS;
                self.catalogs[who].skew_ms =
                    u64::try_from(self.random.below(3)).expect("small") * 10 * HOUR_MS;
                let there: Vec<_> =
                    self.objects.keys().filter(|(bucket, _)| bucket != LAKE).cloned().collect();
                if let Some(place) =
                    self.random.of(&there).cloned().filter(|_| self.random.one_in(3))
                {
                    if let Some(content) = self.objects.get_mut(&place) {
                        *content ^= 1;
                    }
                    self.broken.insert(place);
                }
                return;
            }
        };
        self.catalogs[who].ops.push(op);
    }

    /// One step of whoever comes next.
    pub(super) fn go_on(&mut self) {
        let who = self.random.below(2);
        let count = self.catalogs[who].ops.len();
        if count == 0 {
            return self.happen();
        }
        let at = self.random.below(count);
        let op = self.catalogs[who].ops.swap_remove(at);
        if let Some(next) = self.step(who, op) {
            self.catalogs[who].ops.push(next);
        }
    }
}
