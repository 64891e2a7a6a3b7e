//! What both catalogs share: buckets, manifests, clocks and chance; and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};

use brahman_catalog::registry::manifests::{self, Manifest};
use brahman_catalog::registry::sweep::{Doubt, ListedObject, Verdict};
use serde_json::Value;

use super::catalog::{Catalog, Entry, Event, Object, Op, Put};

pub(super) const DISK: &str = "disk";
pub(super) const LAKE: &str = "lake";
pub(super) const RESCUE: &str = "rescue";
pub(super) const NAMES: [&str; 2] = ["a", "b"];
pub(super) const HOUR_MS: u64 = 3_600_000;

/// Xorshift: the same history for the same seed on every machine.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).expect("31 bits") % n
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() { None } else { all.get(self.below(all.len())) }
    }
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) random: Random,
    pub(super) objects: BTreeMap<(String, String), u64>,
    pub(super) manifests: BTreeMap<String, Put>,
    /// Manifests whose request is on its way, and whose sender has given up waiting.
    pub(super) late: Vec<(String, Put)>,
    pub(super) away: BTreeSet<&'static str>,
    /// Objects that the disk has damaged.
    pub(super) broken: BTreeSet<(String, String)>,
    pub(super) catalogs: [Catalog; 2],
    pub(super) now_ms: u64,
    pub(super) made: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let catalogs =
            ["one", "two"].map(|node| Catalog { node: node.to_owned(), ..Catalog::default() });
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (objects, manifests, late) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self {
            random,
            objects,
            manifests,
            late,
            away: BTreeSet::new(),
            broken: BTreeSet::new(),
            catalogs,
            now_ms: 1_000_000_000,
            made: 0,
        }
    }

    pub(super) fn now(&self, who: usize) -> u64 {
        self.now_ms + self.catalogs[who].skew_ms
    }

    pub(super) fn listed(&self, bucket: &str, name: &str) -> Vec<Result<ListedObject, Doubt>> {
        let prefix = format!("datasets/{name}/");
        let keys = self.objects.keys().filter(|(at, key)| at == bucket && key.starts_with(&prefix));
        keys.map(|(bucket, key)| {
            Ok(ListedObject { bucket: bucket.clone(), key: key.clone(), resumable: bucket == DISK })
        })
        .collect()
    }

    pub(super) fn telling(&self, who: usize, name: &str) -> Vec<(String, u64)> {
        let head = self.catalogs[who].head(name);
        let places =
            self.manifests.keys().filter_map(|key| Some((key.clone(), manifests::place(key)?)));
        let of_name = places
            .filter(|(_, (of, _))| *of == name)
            .map(|(key, (_, number))| (key.clone(), number))
            .collect::<Vec<_>>();
        of_name.into_iter().filter(|(_, number)| head.is_telling(*number)).collect()
    }

    pub(super) fn put(&self, who: usize, run: &str, number: u64, objects: &[Object]) -> Put {
        let (node, run_id) = (self.catalogs[who].node.clone(), run.to_owned());
        Put {
            manifest: Manifest {
                node,
                run_id,
                generation: number,
                taken_from: None,
                commit: Value::Null,
                sha256: None,
            },
            objects: objects.to_vec(),
        }
    }

    /// Puts a manifest that must be new, or gives the one that is there. None if nobody knows what
    /// became of it.
    pub(super) fn create(&mut self, key: &str, put: &Put) -> Option<Option<Manifest>> {
        if self.random.one_in(8) {
            match self.random.below(3) {
                0 => {
                    self.manifests.entry(key.to_owned()).or_insert_with(|| put.clone());
                }
                1 => self.late.push((key.to_owned(), put.clone())),
                _ => {}
            }
            return None;
        }
        let there = self.manifests.get(key).map(|there| there.manifest.clone());
        if there.is_none() {
            self.manifests.insert(key.to_owned(), put.clone());
        }
        Some(there)
    }

    /// A dataset's newest manifest, with its number.
    pub(super) fn newest(&self, name: &str) -> Option<(u64, Put)> {
        let of_name =
            self.manifests.iter().filter_map(|(key, put)| Some((manifests::place(key)?, put)));
        of_name
            .filter(|((of, _), _)| *of == name)
            .map(|((_, number), put)| (number, put.clone()))
            .max_by_key(|(number, _)| *number)
    }

    pub(super) fn fail(&mut self, who: usize, run: String) {
        let at_ms = self.now(who);
        if self.catalogs[who].is_open(&run) {
            self.catalogs[who].journal.push(Event::Fail { run, at_ms });
        }
    }

    pub(super) fn publish(
        &mut self,
        who: usize,
        name: &str,
        run: &str,
        generation: u64,
        objects: Vec<Object>,
    ) {
        let old = self.catalogs[who].entries.get(name);
        let before = old.map(|old| old.objects.clone()).unwrap_or_default();
        let mut history = old.map(|old| old.history.clone()).unwrap_or_default();
        history.push(run.to_owned());
        let entry = Entry { generation, run: run.to_owned(), objects, before, history };
        self.catalogs[who].entries.insert(name.to_owned(), entry);
        // Its line in the journal follows, or a crash, after which opening writes it.
        if self.random.one_in(8) {
            let now_ms = self.now(who);
            self.catalogs[who].restart(now_ms);
        } else {
            self.catalogs[who]
                .journal
                .push(Event::Complete { name: name.to_owned(), run: run.to_owned() });
        }
    }

    pub(super) fn remove(&mut self, listed: &ListedObject) {
        let place = (listed.bucket.clone(), listed.key.clone());
        self.objects.remove(&place);
        self.broken.remove(&place);
    }

    /// What is needed and has gone, or has other bytes.
    pub(super) fn lost(&self) -> Option<String> {
        for catalog in &self.catalogs {
            for (name, entry) in &catalog.entries {
                for object in entry.objects.iter().chain(&entry.before) {
                    let place = (object.bucket.clone(), object.key.clone());
                    if !self.broken.contains(&place)
                        && self.objects.get(&place) != Some(&object.content)
                    {
                        return Some(format!("{} needs {object:?} for {name}", catalog.node));
                    }
                }
            }
        }
        None
    }

    /// Everything comes back, and is swept.
    pub(super) fn recover(&mut self) {
        self.away.clear();
        for (key, put) in std::mem::take(&mut self.late) {
            self.manifests.entry(key).or_insert(put);
        }
        for who in 0..2 {
            let now_ms = self.now(who);
            self.catalogs[who].restart(now_ms);
            for run in self.catalogs[who].open_runs() {
                self.fail(who, run);
            }
            for name in self.catalogs[who].gone() {
                self.catalogs[who].journal.push(Event::Drop { name });
            }
        }
        self.now_ms += 100 * HOUR_MS;
        for (who, bucket) in
            [0, 1].into_iter().flat_map(|who| [DISK, LAKE, RESCUE].map(|bucket| (who, bucket)))
        {
            for name in NAMES {
                let mut op = Some(Op::Sweep { bucket, name: name.to_owned() });
                while let Some(next) = op.take() {
                    op = self.step(who, next);
                }
            }
        }
    }

    /// What is left that nobody needs and that a run of ours wrote.
    pub(super) fn left(&self) -> Option<String> {
        for catalog in &self.catalogs {
            for (bucket, key) in self.objects.keys() {
                let listed = ListedObject {
                    bucket: bucket.clone(),
                    key: key.clone(),
                    resumable: bucket == DISK,
                };
                if catalog.verdict(&listed, self.now_ms) == Verdict::Spent {
                    return Some(format!("{} has left {bucket} {key}", catalog.node));
                }
            }
        }
        None
    }
}
