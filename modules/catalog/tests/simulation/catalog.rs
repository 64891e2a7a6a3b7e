//! One catalog: its journal, its datasets' files, and what it is at.

use std::collections::{BTreeMap, BTreeSet};

use brahman_catalog::registry::manifests::{Head, Manifest};
use brahman_catalog::registry::sweep::{
    self, Doubt, Evidence, Folder, ListedObject, RunRecord, Standing, Verdict,
};

use super::world::LAKE;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) content: u64,
}

pub(super) fn object(name: &str, run: &str, bucket: &str) -> Object {
    let content = run.bytes().fold(7, |hash: u64, b| hash.wrapping_mul(31).wrapping_add(b.into()));
    Object {
        bucket: bucket.to_owned(),
        key: format!("datasets/{name}/{run}/part-0.parquet"),
        content,
    }
}

pub(super) fn folder(key: &str) -> Folder {
    let mut parts = key.split('/').skip(1).map(str::to_owned);
    (parts.next().expect("a dataset"), parts.next().expect("a run"))
}

/// A manifest, and what it names.
#[derive(Clone, Debug)]
pub(super) struct Put {
    pub(super) manifest: Manifest,
    pub(super) objects: Vec<Object>,
}

/// A dataset's file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) generation: u64,
    pub(super) run: String,
    pub(super) objects: Vec<Object>,
    pub(super) before: Vec<Object>,
    pub(super) history: Vec<String>,
}

/// A line of a journal.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Start { name: String, run: String, bucket: Option<String>, adopts: bool },
    Complete { name: String, run: String },
    Fail { run: String, at_ms: u64 },
    Drop { name: String },
}

/// A commit on its way.
#[derive(Clone, Debug)]
pub(super) struct Commit {
    pub(super) name: String,
    pub(super) run: String,
    pub(super) bucket: String,
    pub(super) adds: bool,
    pub(super) objects: Vec<Object>,
    pub(super) base: Option<u64>,
    pub(super) number: u64,
    /// Which beginning of the run it belongs to.
    pub(super) life: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
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
pub(super) struct Catalog {
    pub(super) node: String,
    pub(super) journal: Vec<Event>,
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) ops: Vec<Op>,
    pub(super) skew_ms: u64,
}

impl Catalog {
    pub(super) fn runs(&self, now_ms: u64) -> BTreeMap<String, RunRecord> {
        let mut runs: BTreeMap<String, RunRecord> = BTreeMap::new();
        for event in &self.journal {
            match event {
                Event::Start { name, run, bucket, .. } => {
                    let new = || RunRecord {
                        dataset: name.clone(),
                        buckets: BTreeSet::new(),
                        standing: Standing::Open,
                    };
                    let record = runs.entry(run.clone()).or_insert_with(new);
                    record.standing = Standing::Open;
                    record.buckets.extend(bucket.clone());
                }
                Event::Complete { run, .. } => {
                    runs.get_mut(run).expect("it has begun").standing = Standing::Committed;
                }
                Event::Fail { run, at_ms } => {
                    runs.get_mut(run).expect("it has begun").standing =
                        Standing::Failed { for_ms: now_ms.saturating_sub(*at_ms) };
                }
                Event::Drop { .. } => {}
            }
        }
        runs
    }

    pub(super) fn open_runs(&self) -> Vec<String> {
        self.runs(0)
            .into_iter()
            .filter(|(_, run)| run.standing == Standing::Open)
            .map(|(id, _)| id)
            .collect()
    }

    /// How often a run has begun.
    pub(super) fn lives(&self, run: &str) -> usize {
        self.journal
            .iter()
            .filter(|event| matches!(event, Event::Start { run: of, .. } if of == run))
            .count()
    }

    pub(super) fn is_open(&self, run: &str) -> bool {
        self.open_runs().iter().any(|open| open == run)
    }

    /// Datasets that were committed and have no file.
    pub(super) fn gone(&self) -> BTreeSet<String> {
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

    pub(super) fn evidence(&self, now_ms: u64) -> Evidence {
        let needs = |(name, entry): (&String, &Entry)| {
            let objects = entry.objects.iter().chain(&entry.before).map(|o| folder(&o.key));
            let last = entry.history.iter().rev().take(2).map(|run| (name.clone(), run.clone()));
            (name.clone(), Ok(objects.chain(last).collect()))
        };
        let gone =
            self.gone().into_iter().map(|name| (name, Err(Doubt("its file is gone".to_owned()))));
        Evidence {
            needed: self.entries.iter().map(needs).chain(gone).collect(),
            unread: Vec::new(),
            runs: self.runs(now_ms),
        }
    }

    pub(super) fn verdict(&self, listed: &ListedObject, now_ms: u64) -> Verdict {
        let (evidence, folder) = (self.evidence(now_ms), folder(&listed.key));
        let is_needed = evidence.needed.values().flatten().any(|needed| needed.contains(&folder));
        sweep::verdict(listed, evidence.runs.get(&folder.1), is_needed)
    }

    pub(super) fn head(&self, name: &str) -> Head {
        let entry = self.entries.get(name);
        let lies_there =
            |entry: &&Entry| entry.objects.iter().chain(&entry.before).any(|o| o.bucket == LAKE);
        let ended = self
            .runs(0)
            .into_iter()
            .filter(|(_, run)| run.dataset == name && run.standing != Standing::Open);
        Head {
            node: self.node.clone(),
            newest: entry.filter(lies_there).map(|entry| entry.generation),
            published: entry
                .map(|entry| entry.history.iter().cloned().collect())
                .unwrap_or_default(),
            ended: ended.map(|(id, _)| id).collect(),
        }
    }

    /// As opening does: what was published has its line, what was being taken up is given up.
    pub(super) fn restart(&mut self, now_ms: u64) {
        self.ops.clear();
        let open = self.open_runs();
        for (name, entry) in &self.entries {
            if open.contains(&entry.run) {
                self.journal.push(Event::Complete { name: name.clone(), run: entry.run.clone() });
            }
        }
        let adopted = |event: &Event| matches!(event, Event::Start { adopts: true, .. });
        let adopting: BTreeSet<String> =
            self.journal.iter().filter(|e| adopted(e)).filter_map(run_of).collect();
        for run in self.open_runs().into_iter().filter(|run| adopting.contains(run)) {
            self.journal.push(Event::Fail { run, at_ms: now_ms });
        }
    }
}

pub(super) fn run_of(event: &Event) -> Option<String> {
    match event {
        Event::Start { run, .. } | Event::Complete { run, .. } | Event::Fail { run, .. } => {
            Some(run.clone())
        }
        Event::Drop { .. } => None,
    }
}

/// Name, run and bucket of a run that was begun by ingest.
pub(super) fn begun(event: &Event) -> Option<(String, String, String)> {
    match event {
        Event::Start { name, run, bucket: Some(bucket), adopts: false } => {
            Some((name.clone(), run.clone(), bucket.clone()))
        }
        _ => None,
    }
}
