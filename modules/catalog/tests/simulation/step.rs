//! One step of something that a catalog does, by the catalog's own planners.

use brahman_catalog::registry::manifests;
use brahman_catalog::registry::sweep::{self, Folder, ListedObject, Verdict};

use super::catalog::{Event, Object, Op, folder, object};
use super::world::{DISK, LAKE, RESCUE, World};

impl World {
    /// One step of something that a catalog does; what is to come next, if anything.
    pub(super) fn step(&mut self, who: usize, op: Op) -> Option<Op> {
        let now_ms = self.now(who);
        match op {
            Op::Start(commit) => {
                let (name, run, bucket) =
                    (commit.name.clone(), commit.run.clone(), Some(commit.bucket.clone()));
                if !self.catalogs[who].is_open(&run) {
                    self.catalogs[who].journal.push(Event::Start {
                        name,
                        run,
                        bucket,
                        adopts: false,
                    });
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
                // What it has written is verified: it may have been cleared away while it was given
                // up.
                if commit.bucket == DISK
                    && self.objects.get(&(part.bucket.clone(), part.key.clone()))
                        != Some(&part.content)
                {
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
                let taken = self
                    .newest(&commit.name)
                    .is_some_and(|(_, put)| put.manifest.node != self.catalogs[who].node);
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
                    Some(Some(there)) if there.node == *node && there.run_id == commit.run => {
                        Some(Op::Publish(commit))
                    }
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
                let needed = |folder: &Folder| {
                    evidence.needed.values().flatten().any(|needed| needed.contains(folder))
                };
                let is = self.catalogs[who].entries.get(&name).map_or(0, |entry| entry.generation);
                let parts = commit
                    .objects
                    .iter()
                    .map(|o| folder(&o.key))
                    .all(|folder| folder == own || needed(&folder));
                let known = self.catalogs[who]
                    .entries
                    .get(&name)
                    .is_some_and(|entry| entry.history.contains(&run));
                // Given up and taken up again meanwhile, it is for the later commit to say.
                if known
                    || !self.catalogs[who].is_open(&run)
                    || self.catalogs[who].lives(&run) != commit.life
                {
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
                if self.manifests.get(&key).is_some_and(|put| head.withdraws(number, &put.manifest))
                {
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
                let live: Vec<Object> = self.catalogs[who]
                    .entries
                    .values()
                    .flat_map(|entry| entry.objects.clone())
                    .collect();
                let object = self.random.of(&live)?.clone();
                let read = self.objects.get(&(object.bucket.clone(), object.key.clone()));
                let is_there = [RESCUE, object.bucket.as_str()]
                    .iter()
                    .all(|bucket| !self.away.contains(*bucket));
                (is_there && read == Some(&object.content)).then_some(Op::PutCopy(object))
            }
            Op::PutCopy(object) => {
                let place = (RESCUE.to_owned(), object.key.clone());
                self.broken.remove(&place);
                self.objects.insert(place, object.content);
                Some(Op::Copied(ListedObject {
                    bucket: RESCUE.to_owned(),
                    key: object.key,
                    resumable: false,
                }))
            }
            Op::Copied(listed) => {
                if self.catalogs[who].verdict(&listed, now_ms) == Verdict::Spent {
                    self.remove(&listed);
                }
                None
            }
            Op::Repair => {
                let live: Vec<Object> = self.catalogs[who]
                    .entries
                    .values()
                    .flat_map(|entry| entry.objects.clone())
                    .collect();
                let object = self.random.of(&live)?.clone();
                let (own, copy) = (
                    (object.bucket.clone(), object.key.clone()),
                    (RESCUE.to_owned(), object.key.clone()),
                );
                if self.objects.get(&copy) == Some(&object.content)
                    && self.objects.get(&own) != Some(&object.content)
                {
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
                let event = Event::Start {
                    name: name.clone(),
                    run: run.clone(),
                    bucket: Some(LAKE.to_owned()),
                    adopts: true,
                };
                self.catalogs[who].journal.push(event);
                Some(Op::TakeUp {
                    name,
                    run,
                    number: number + 1,
                    theirs: put.objects,
                    ours: Vec::new(),
                })
            }
            Op::TakeUp { name, run, number, theirs, mut ours } => {
                if let Some(object) = theirs.get(ours.len()) {
                    // Verified on its way.
                    if self.objects.get(&(object.bucket.clone(), object.key.clone()))
                        != Some(&object.content)
                    {
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
                if self.catalogs[who].entries.contains_key(&name)
                    || !self.catalogs[who].is_open(&run)
                {
                    self.fail(who, run);
                } else {
                    self.publish(who, &name, &run, number, ours);
                }
                None
            }
        }
    }
}
