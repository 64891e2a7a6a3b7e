//! Two catalogs, three buckets, and whatever may happen: random commits, deletions, sweeps, copies, repairs and adoptions, one step at a
//! time in any order, with crashes between any two steps, lost and late answers, buckets that are away, flipped bytes and clocks that jump.
//!
//! What is deleted, withdrawn and kept is decided by the catalog's own planners; the store, the journals and the datasets' files are
//! modelled. After every step: no object that a dataset of either catalog needs has gone, or has other bytes, by anybody's hand but the
//! disk's. At the end, once everything has recovered: nothing is left that a run of ours wrote, that has ended, and that nobody needs.
//!
//! `BRAHMAN_HISTORIES` says how many histories are tried, `BRAHMAN_SEED` which is tried alone.

use std::collections::{BTreeMap, BTreeSet};

use brahman_catalog::registry::manifests::{self, Head, Manifest};
use brahman_catalog::registry::sweep::{self, Doubt, Evidence, Folder, ListedObject, RunRecord, Standing, Verdict};
use serde_json::Value;

const HISTORIES: u64 = 10_000;
const STEPS: usize = 400;
const DISK: &str = "disk";
const LAKE: &str = "lake";
const RESCUE: &str = "rescue";
const NAMES: [&str; 2] = ["a", "b"];
const HOUR_MS: u64 = 3_600_000;

/// Xorshift: the same history for the same seed on every machine.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).expect("31 bits") % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() { None } else { all.get(self.below(all.len())) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    bucket: String,
    key: String,
    content: u64,
}

fn object(name: &str, run: &str, bucket: &str) -> Object {
    let content = run.bytes().fold(7, |hash: u64, b| hash.wrapping_mul(31).wrapping_add(b.into()));
    Object { bucket: bucket.to_owned(), key: format!("datasets/{name}/{run}/part-0.parquet"), content }
}

fn folder(key: &str) -> Folder {
    let mut parts = key.split('/').skip(1).map(str::to_owned);
    (parts.next().expect("a dataset"), parts.next().expect("a run"))
}

/// A manifest, and what it names.
#[derive(Clone, Debug)]
struct Put {
    manifest: Manifest,
    objects: Vec<Object>,
}

/// A dataset's file.
#[derive(Clone, Debug)]
struct Entry {
    generation: u64,
    run: String,
    objects: Vec<Object>,
    before: Vec<Object>,
    history: Vec<String>,
}

/// A line of a journal.
#[derive(Clone, Debug)]
enum Event {
    Start { name: String, run: String, bucket: Option<String>, adopts: bool },
    Complete { name: String, run: String },
    Fail { run: String, at_ms: u64 },
    Drop { name: String },
}

/// A commit on its way.
#[derive(Clone, Debug)]
struct Commit {
    name: String,
    run: String,
    bucket: String,
    adds: bool,
    objects: Vec<Object>,
    base: Option<u64>,
    number: u64,
    /// Which beginning of the run it belongs to.
    life: usize,
}

#[derive(Clone, Debug)]
enum Op {
    Start(Commit),
    Write(Commit),
    Check(Commit),
    Upload(Commit),
    PutManifest(Commit),
    Publish(Commit),
    Sweep { bucket: &'static str, name: String },
    List { bucket: &'static str, name: String, evidence: Evidence },
    Withdraw { name: String, spent: Vec<ListedObject>, telling: Vec<(String, u64)> },
    Remove { spent: Vec<ListedObject> },
    Copy,
    PutCopy(Object),
    Copied(ListedObject),
    Repair,
    Adopt { name: String },
    TakeUp { name: String, run: String, number: u64, theirs: Vec<Object>, ours: Vec<Object> },
    Taken { name: String, run: String, number: u64, ours: Vec<Object> },
}

#[derive(Clone, Debug, Default)]
struct Catalog {
    node: String,
    journal: Vec<Event>,
    entries: BTreeMap<String, Entry>,
    ops: Vec<Op>,
    skew_ms: u64,
}

impl Catalog {
    fn runs(&self, now_ms: u64) -> BTreeMap<String, RunRecord> {
        let mut runs: BTreeMap<String, RunRecord> = BTreeMap::new();
        for event in &self.journal {
            match event {
                Event::Start { name, run, bucket, .. } => {
                    let new = || RunRecord { dataset: name.clone(), buckets: BTreeSet::new(), standing: Standing::Open };
                    let record = runs.entry(run.clone()).or_insert_with(new);
                    record.standing = Standing::Open;
                    record.buckets.extend(bucket.clone());
                }
                Event::Complete { run, .. } => runs.get_mut(run).expect("it has begun").standing = Standing::Committed,
                Event::Fail { run, at_ms } => {
                    runs.get_mut(run).expect("it has begun").standing = Standing::Failed { for_ms: now_ms.saturating_sub(*at_ms) };
                }
                Event::Drop { .. } => {}
            }
        }
        runs
    }

    fn open_runs(&self) -> Vec<String> {
        self.runs(0).into_iter().filter(|(_, run)| run.standing == Standing::Open).map(|(id, _)| id).collect()
    }

    /// How often a run has begun.
    fn lives(&self, run: &str) -> usize {
        self.journal.iter().filter(|event| matches!(event, Event::Start { run: of, .. } if of == run)).count()
    }

    fn is_open(&self, run: &str) -> bool {
        self.open_runs().iter().any(|open| open == run)
    }

    /// Datasets that were committed and have no file.
    fn gone(&self) -> BTreeSet<String> {
        let mut committed = BTreeSet::new();
        for event in &self.journal {
            match event {
                Event::Complete { name, .. } => {
                    committed.insert(name.clone());
                }
                Event::Drop { name } => {
                    committed.remove(name);
                }
                _ => {}
            }
        }
        committed.into_iter().filter(|name| !self.entries.contains_key(name)).collect()
    }

    fn evidence(&self, now_ms: u64) -> Evidence {
        let needs = |(name, entry): (&String, &Entry)| {
            let objects = entry.objects.iter().chain(&entry.before).map(|o| folder(&o.key));
            let last = entry.history.iter().rev().take(2).map(|run| (name.clone(), run.clone()));
            (name.clone(), Ok(objects.chain(last).collect()))
        };
        let gone = self.gone().into_iter().map(|name| (name, Err(Doubt("its file is gone".to_owned()))));
        Evidence { needed: self.entries.iter().map(needs).chain(gone).collect(), unread: Vec::new(), runs: self.runs(now_ms) }
    }

    fn verdict(&self, listed: &ListedObject, now_ms: u64) -> Verdict {
        let (evidence, folder) = (self.evidence(now_ms), folder(&listed.key));
        let is_needed = evidence.needed.values().flatten().any(|needed| needed.contains(&folder));
        sweep::verdict(listed, evidence.runs.get(&folder.1), is_needed)
    }

    fn head(&self, name: &str) -> Head {
        let entry = self.entries.get(name);
        let lies_there = |entry: &&Entry| entry.objects.iter().chain(&entry.before).any(|o| o.bucket == LAKE);
        let ended = self.runs(0).into_iter().filter(|(_, run)| run.dataset == name && run.standing != Standing::Open);
        Head {
            node: self.node.clone(),
            newest: entry.filter(lies_there).map(|entry| entry.generation),
            published: entry.map(|entry| entry.history.iter().cloned().collect()).unwrap_or_default(),
            ended: ended.map(|(id, _)| id).collect(),
        }
    }

    /// As opening does: what was published has its line, what was being taken up is given up.
    fn restart(&mut self, now_ms: u64) {
        self.ops.clear();
        let open = self.open_runs();
        for (name, entry) in &self.entries {
            if open.contains(&entry.run) {
                self.journal.push(Event::Complete { name: name.clone(), run: entry.run.clone() });
            }
        }
        let adopted = |event: &Event| matches!(event, Event::Start { adopts: true, .. });
        let adopting: BTreeSet<String> = self.journal.iter().filter(|e| adopted(e)).filter_map(run_of).collect();
        for run in self.open_runs().into_iter().filter(|run| adopting.contains(run)) {
            self.journal.push(Event::Fail { run, at_ms: now_ms });
        }
    }
}

fn run_of(event: &Event) -> Option<String> {
    match event {
        Event::Start { run, .. } | Event::Complete { run, .. } | Event::Fail { run, .. } => Some(run.clone()),
        Event::Drop { .. } => None,
    }
}

#[derive(Clone, Debug)]
struct World {
    random: Random,
    objects: BTreeMap<(String, String), u64>,
    manifests: BTreeMap<String, Put>,
    /// Manifests whose request is on its way, and whose sender has given up waiting.
    late: Vec<(String, Put)>,
    away: BTreeSet<&'static str>,
    /// Objects that the disk has damaged.
    broken: BTreeSet<(String, String)>,
    catalogs: [Catalog; 2],
    now_ms: u64,
    made: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let catalogs = ["one", "two"].map(|node| Catalog { node: node.to_owned(), ..Catalog::default() });
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (objects, manifests, late) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { random, objects, manifests, late, away: BTreeSet::new(), broken: BTreeSet::new(), catalogs, now_ms: 1_000_000_000, made: 0 }
    }

    fn now(&self, who: usize) -> u64 {
        self.now_ms + self.catalogs[who].skew_ms
    }

    fn listed(&self, bucket: &str, name: &str) -> Vec<Result<ListedObject, Doubt>> {
        let prefix = format!("datasets/{name}/");
        let keys = self.objects.keys().filter(|(at, key)| at == bucket && key.starts_with(&prefix));
        keys.map(|(bucket, key)| Ok(ListedObject { bucket: bucket.clone(), key: key.clone(), resumable: bucket == DISK })).collect()
    }

    fn telling(&self, who: usize, name: &str) -> Vec<(String, u64)> {
        let head = self.catalogs[who].head(name);
        let places = self.manifests.keys().filter_map(|key| Some((key.clone(), manifests::place(key)?)));
        let of_name = places.filter(|(_, (of, _))| *of == name).map(|(key, (_, number))| (key.clone(), number)).collect::<Vec<_>>();
        of_name.into_iter().filter(|(_, number)| head.is_telling(*number)).collect()
    }

    fn put(&self, who: usize, run: &str, number: u64, objects: &[Object]) -> Put {
        let (node, run_id) = (self.catalogs[who].node.clone(), run.to_owned());
        Put {
            manifest: Manifest { node, run_id, generation: number, taken_from: None, commit: Value::Null, sha256: None },
            objects: objects.to_vec(),
        }
    }

    /// Puts a manifest that must be new, or gives the one that is there. None if nobody knows what became of it.
    fn create(&mut self, key: &str, put: &Put) -> Option<Option<Manifest>> {
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
    fn newest(&self, name: &str) -> Option<(u64, Put)> {
        let of_name = self.manifests.iter().filter_map(|(key, put)| Some((manifests::place(key)?, put)));
        of_name.filter(|((of, _), _)| *of == name).map(|((_, number), put)| (number, put.clone())).max_by_key(|(number, _)| *number)
    }

    fn fail(&mut self, who: usize, run: String) {
        let at_ms = self.now(who);
        if self.catalogs[who].is_open(&run) {
            self.catalogs[who].journal.push(Event::Fail { run, at_ms });
        }
    }

    fn publish(&mut self, who: usize, name: &str, run: &str, generation: u64, objects: Vec<Object>) {
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
            self.catalogs[who].journal.push(Event::Complete { name: name.to_owned(), run: run.to_owned() });
        }
    }

    /// One step of something that a catalog does; what is to come next, if anything.
    fn step(&mut self, who: usize, op: Op) -> Option<Op> {
        let now_ms = self.now(who);
        match op {
            Op::Start(commit) => {
                let (name, run, bucket) = (commit.name.clone(), commit.run.clone(), Some(commit.bucket.clone()));
                if !self.catalogs[who].is_open(&run) {
                    self.catalogs[who].journal.push(Event::Start { name, run, bucket, adopts: false });
                }
                Some(Op::Write(commit))
            }
            Op::Write(commit) => {
                let part = object(&commit.name, &commit.run, &commit.bucket);
                if commit.bucket == DISK {
                    self.objects.insert((part.bucket, part.key), part.content);
                }
                Some(Op::Check(commit))
            }
            Op::Check(mut commit) => {
                let part = object(&commit.name, &commit.run, &commit.bucket);
                // What it has written is verified: it may have been cleared away while it was given up.
                if commit.bucket == DISK && self.objects.get(&(part.bucket.clone(), part.key.clone())) != Some(&part.content) {
                    self.fail(who, commit.run);
                    return None;
                }
                commit.life = self.catalogs[who].lives(&commit.run);
                let entry = self.catalogs[who].entries.get(&commit.name);
                let known = entry.map(|entry| entry.objects.clone()).unwrap_or_default();
                commit.number = entry.map_or(0, |entry| entry.generation) + 1;
                commit.base = self.random.one_in(2).then_some(commit.number - 1);
                commit.objects = if commit.adds { known.clone() } else { Vec::new() };
                if !commit.objects.contains(&part) {
                    commit.objects.push(part);
                }
                if !commit.objects.iter().any(|o| o.bucket == LAKE) {
                    return Some(Op::Publish(commit));
                }
                let taken = self.newest(&commit.name).is_some_and(|(_, put)| put.manifest.node != self.catalogs[who].node);
                if self.away.contains(LAKE) || (!known.iter().any(|o| o.bucket == LAKE) && taken) {
                    self.fail(who, commit.run);
                    return None;
                }
                Some(Op::Upload(commit))
            }
            Op::Upload(commit) => {
                let part = object(&commit.name, &commit.run, &commit.bucket);
                if part.bucket == LAKE {
                    self.objects.insert((part.bucket, part.key), part.content);
                }
                Some(Op::PutManifest(commit))
            }
            Op::PutManifest(mut commit) => {
                let put = self.put(who, &commit.run, commit.number, &commit.objects);
                let node = &put.manifest.node;
                match self.create(&manifests::key(&commit.name, commit.number), &put) {
                    // Said again now, or by and by, or never.
                    None => self.random.one_in(2).then_some(Op::PutManifest(commit)),
                    Some(None) => Some(Op::Publish(commit)),
                    Some(Some(there)) if there.node == *node && there.run_id == commit.run => Some(Op::Publish(commit)),
                    Some(Some(there)) if there.node == *node => {
                        commit.number += 1;
                        Some(Op::PutManifest(commit))
                    }
                    Some(Some(_)) => {
                        self.fail(who, commit.run);
                        None
                    }
                }
            }
            Op::Publish(commit) => {
                let (name, run) = (commit.name.clone(), commit.run.clone());
                let own = (name.clone(), run.clone());
                let evidence = self.catalogs[who].evidence(now_ms);
                let needed = |folder: &Folder| evidence.needed.values().flatten().any(|needed| needed.contains(folder));
                let is = self.catalogs[who].entries.get(&name).map_or(0, |entry| entry.generation);
                let parts = commit.objects.iter().map(|o| folder(&o.key)).all(|folder| folder == own || needed(&folder));
                let known = self.catalogs[who].entries.get(&name).is_some_and(|entry| entry.history.contains(&run));
                // Given up and taken up again meanwhile, it is for the later commit to say.
                if known || !self.catalogs[who].is_open(&run) || self.catalogs[who].lives(&run) != commit.life {
                    return None;
                }
                if !parts || commit.base.is_some_and(|base| base != is) {
                    self.fail(who, run);
                    return None;
                }
                self.publish(who, &name, &run, commit.number.max(is + 1), commit.objects);
                None
            }
            Op::Sweep { bucket, name } => {
                let evidence = self.catalogs[who].evidence(now_ms);
                (!self.away.contains(bucket)).then_some(Op::List { bucket, name, evidence })
            }
            Op::List { bucket, name, evidence } => {
                let spent = sweep::plan(&evidence, &self.listed(bucket, &name)).ok()?.spent;
                if bucket != LAKE {
                    return Some(Op::Remove { spent });
                }
                let telling = self.telling(who, &name);
                Some(Op::Withdraw { name, spent, telling })
            }
            Op::Withdraw { name, spent, mut telling } => {
                let Some((key, number)) = telling.pop() else { return Some(Op::Remove { spent }) };
                let head = self.catalogs[who].head(&name);
                if self.manifests.get(&key).is_some_and(|put| head.withdraws(number, &put.manifest)) {
                    self.manifests.remove(&key);
                }
                Some(Op::Withdraw { name, spent, telling })
            }
            Op::Remove { mut spent } => {
                let listed = spent.pop()?;
                if self.catalogs[who].verdict(&listed, now_ms) == Verdict::Spent {
                    self.remove(&listed);
                }
                Some(Op::Remove { spent })
            }
            Op::Copy => {
                let live: Vec<Object> = self.catalogs[who].entries.values().flat_map(|entry| entry.objects.clone()).collect();
                let object = self.random.of(&live)?.clone();
                let read = self.objects.get(&(object.bucket.clone(), object.key.clone()));
                let is_there = [RESCUE, object.bucket.as_str()].iter().all(|bucket| !self.away.contains(*bucket));
                (is_there && read == Some(&object.content)).then_some(Op::PutCopy(object))
            }
            Op::PutCopy(object) => {
                let place = (RESCUE.to_owned(), object.key.clone());
                self.broken.remove(&place);
                self.objects.insert(place, object.content);
                Some(Op::Copied(ListedObject { bucket: RESCUE.to_owned(), key: object.key, resumable: false }))
            }
            Op::Copied(listed) => {
                if self.catalogs[who].verdict(&listed, now_ms) == Verdict::Spent {
                    self.remove(&listed);
                }
                None
            }
            Op::Repair => {
                let live: Vec<Object> = self.catalogs[who].entries.values().flat_map(|entry| entry.objects.clone()).collect();
                let object = self.random.of(&live)?.clone();
                let (own, copy) = ((object.bucket.clone(), object.key.clone()), (RESCUE.to_owned(), object.key.clone()));
                if self.objects.get(&copy) == Some(&object.content) && self.objects.get(&own) != Some(&object.content) {
                    self.objects.insert(own.clone(), object.content);
                    self.broken.remove(&own);
                }
                None
            }
            Op::Adopt { name } => {
                if self.away.contains(LAKE) || self.catalogs[who].entries.contains_key(&name) {
                    return None;
                }
                let (number, put) = self.newest(&name)?;
                self.made += 1;
                let run = format!("adopted{}", self.made);
                let event = Event::Start { name: name.clone(), run: run.clone(), bucket: Some(LAKE.to_owned()), adopts: true };
                self.catalogs[who].journal.push(event);
                Some(Op::TakeUp { name, run, number: number + 1, theirs: put.objects, ours: Vec::new() })
            }
            Op::TakeUp { name, run, number, theirs, mut ours } => {
                if let Some(object) = theirs.get(ours.len()) {
                    // Verified on its way.
                    if self.objects.get(&(object.bucket.clone(), object.key.clone())) != Some(&object.content) {
                        self.fail(who, run);
                        return None;
                    }
                    let key = format!("datasets/{name}/{run}/part-{}.parquet", ours.len());
                    self.objects.insert((LAKE.to_owned(), key.clone()), object.content);
                    ours.push(Object { bucket: LAKE.to_owned(), key, content: object.content });
                    return Some(Op::TakeUp { name, run, number, theirs, ours });
                }
                let put = self.put(who, &run, number, &ours);
                if self.create(&manifests::key(&name, number), &put) == Some(None) {
                    return Some(Op::Taken { name, run, number, ours });
                }
                self.fail(who, run);
                None
            }
            Op::Taken { name, run, number, ours } => {
                if self.catalogs[who].entries.contains_key(&name) || !self.catalogs[who].is_open(&run) {
                    self.fail(who, run);
                } else {
                    self.publish(who, &name, &run, number, ours);
                }
                None
            }
        }
    }

    fn remove(&mut self, listed: &ListedObject) {
        let place = (listed.bucket.clone(), listed.key.clone());
        self.objects.remove(&place);
        self.broken.remove(&place);
    }

    /// Something begins, or happens to everybody.
    fn happen(&mut self) {
        let who = self.random.below(2);
        let name = NAMES[usize::from(self.random.one_in(4))].to_owned();
        let bucket = [DISK, LAKE, LAKE, RESCUE][self.random.below(4)];
        let op = match self.random.below(26) {
            0..5 => {
                self.made += 1;
                let run = format!("{}{}", self.catalogs[who].node, self.made);
                let (bucket, adds) = (if self.random.one_in(2) { DISK } else { LAKE }, self.random.one_in(2));
                Op::Start(Commit { name, run, bucket: bucket.to_owned(), adds, objects: Vec::new(), base: None, number: 0, life: 0 })
            }
            // Said again, or a run that was given up and is taken up again.
            5..8 => {
                let again: Vec<(String, String, String)> = self.catalogs[who].journal.iter().filter_map(begun).collect();
                let Some((name, run, bucket)) = self.random.of(&again).cloned() else { return };
                let commit = Commit { name, run, bucket, adds: false, objects: Vec::new(), base: None, number: 0, life: 0 };
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
                // Its line in the journal follows, or a crash, after which nobody knows whether it was deleted.
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
                self.catalogs[who].skew_ms = u64::try_from(self.random.below(3)).expect("small") * 10 * HOUR_MS;
                let there: Vec<_> = self.objects.keys().filter(|(bucket, _)| bucket != LAKE).cloned().collect();
                if let Some(place) = self.random.of(&there).cloned().filter(|_| self.random.one_in(3)) {
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
    fn go_on(&mut self) {
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

    /// What is needed and has gone, or has other bytes.
    fn lost(&self) -> Option<String> {
        for catalog in &self.catalogs {
            for (name, entry) in &catalog.entries {
                for object in entry.objects.iter().chain(&entry.before) {
                    let place = (object.bucket.clone(), object.key.clone());
                    if !self.broken.contains(&place) && self.objects.get(&place) != Some(&object.content) {
                        return Some(format!("{} needs {object:?} for {name}", catalog.node));
                    }
                }
            }
        }
        None
    }

    /// Everything comes back, and is swept.
    fn recover(&mut self) {
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
        for (who, bucket) in [0, 1].into_iter().flat_map(|who| [DISK, LAKE, RESCUE].map(|bucket| (who, bucket))) {
            for name in NAMES {
                let mut op = Some(Op::Sweep { bucket, name: name.to_owned() });
                while let Some(next) = op.take() {
                    op = self.step(who, next);
                }
            }
        }
    }

    /// What is left that nobody needs and that a run of ours wrote.
    fn left(&self) -> Option<String> {
        for catalog in &self.catalogs {
            for (bucket, key) in self.objects.keys() {
                let listed = ListedObject { bucket: bucket.clone(), key: key.clone(), resumable: bucket == DISK };
                if catalog.verdict(&listed, self.now_ms) == Verdict::Spent {
                    return Some(format!("{} has left {bucket} {key}", catalog.node));
                }
            }
        }
        None
    }
}

/// Name, run and bucket of a run that was begun by ingest.
fn begun(event: &Event) -> Option<(String, String, String)> {
    match event {
        Event::Start { name, run, bucket: Some(bucket), adopts: false } => Some((name.clone(), run.clone(), bucket.clone())),
        _ => None,
    }
}

/// Figures of what was tried, so that a simulation in which nothing happens is no proof.
#[derive(Debug, Default)]
struct Figures {
    published: usize,
    adopted: usize,
    removed: usize,
}

fn history(seed: u64, figures: &mut Figures) {
    let mut world = World::new(seed);
    for step in 0..STEPS {
        let before = world.objects.len();
        match world.random.one_in(6) {
            true => world.happen(),
            false => world.go_on(),
        }
        figures.removed += before.saturating_sub(world.objects.len());
        if let Some(lost) = world.lost() {
            panic!("BRAHMAN_SEED={seed}: after step {step} {lost}\n{world:#?}");
        }
    }
    world.recover();
    if let Some(wrong) = world.lost().or_else(|| world.left()) {
        panic!("BRAHMAN_SEED={seed}: after everything has recovered {wrong}\n{world:#?}");
    }
    let published = world.catalogs.iter().flat_map(|c| &c.journal).filter(|e| matches!(e, Event::Complete { .. }));
    for event in published {
        match run_of(event) {
            Some(run) if run.starts_with("adopted") => figures.adopted += 1,
            _ => figures.published += 1,
        }
    }
}

#[test]
fn no_object_that_either_catalog_needs_is_ever_deleted_and_what_nobody_needs_is() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let mut figures = Figures::default();
    if let Some(seed) = number("BRAHMAN_SEED") {
        return history(seed, &mut figures);
    }
    let histories = number("BRAHMAN_HISTORIES").unwrap_or(HISTORIES);
    (0..histories).for_each(|seed| history(seed, &mut figures));
    let many = usize::try_from(histories).expect("a number");
    assert!(figures.published > many && figures.removed > many && figures.adopted * 50 > many, "too little happens: {figures:?}");
}
