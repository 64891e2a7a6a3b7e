//! `Resync` and `ResyncMissing`: datasets whose manifest says otherwise than their objects, is
//! damaged, or is gone.
//!
//! Invariants: what has a good copy somewhere comes back before anything is read; what is read is
//! read while others go on, and is published only over what it was read of; what no journal of ours
//! knows is taken up only by name, or where nothing at all is known; a dataset is called right only
//! if all of its objects are there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use brahman_card::Fault;
use brahman_card::interface::WireError;
use brahman_card::interface::catalog::{
    Dataset, Object, PublishedDataset, ResyncFailure, ResyncMissingOut, ResyncOut, error,
};
use brahman_sidecar::{blocking, chain};

use super::realm::Realm;
use super::remote::bucket_failed;
use super::{CatalogService, held, unanswered};
use crate::registry::resync::{Findings, Resync, missing};
use crate::registry::{DatasetRegistry, RegistryError};

impl CatalogService {
    pub(super) async fn resync(
        &self,
        realm: Realm,
        name: String,
        runs: Option<Vec<String>>,
        accept_damage: bool,
    ) -> Result<ResyncOut, Fault> {
        let mut notes = if realm == Realm::Real { self.repair(&name).await? } else { Vec::new() };
        // Of a disk that is not there nothing can be told, least of all that objects are gone.
        let asked = name.clone();
        let recorded = self
            .consult(realm, move |registry| registry.recorded(&asked))
            .await
            .map_err(unanswered)?;
        if let Some((bucket, why)) = self.away_of(realm, &recorded).await.into_iter().next() {
            return Err(bucket_failed(&bucket, &why));
        }
        let asked = name.clone();
        let is_known = self
            .consult(realm, move |registry| registry.knows(&asked))
            .await
            .map_err(unanswered)?;
        let is_named = runs.is_some();
        match self.read_and_publish(realm, name.clone(), runs, accept_damage).await {
            Ok(done) => {
                notes.extend(done.notes);
                if done.dataset.pii.is_none() && done.changed {
                    notes.push(
                        "what was known of its personal data is not known any more, and nothing is masked: ingest it again".to_owned(),
                    );
                }
                Ok(ResyncOut {
                    generation: done.dataset.generation,
                    rows: done.dataset.rows,
                    changed: done.changed,
                    notes,
                })
            }
            // Nothing here knows of it: a bucket in S3 may.
            Err(fault)
                if realm == Realm::Real
                    && !is_known
                    && !is_named
                    && fault.name == error::NoSuchDataset::NAME =>
            {
                match self.adopt_unknown(&name).await? {
                    Some((PublishedDataset { generation, rows, .. }, more)) => {
                        notes.push(
                            "it was not known here, and was taken up from its manifest in a bucket"
                                .to_owned(),
                        );
                        notes.extend(more);
                        Ok(ResyncOut { generation, rows, changed: true, notes })
                    }
                    None => Err(fault),
                }
            }
            Err(fault) => Err(fault),
        }
    }

    async fn read_and_publish(
        &self,
        realm: Realm,
        name: String,
        runs: Option<Vec<String>>,
        accept_damage: bool,
    ) -> Result<Resync, Fault> {
        let asked = name.clone();
        let findings = self
            .with(realm, move |registry| {
                read_anew(registry, &asked, runs.as_deref(), accept_damage)
            })
            .await?;
        let done = {
            // What runs that had ended have left must not be going just now.
            let deleting = Arc::clone(&self.deleting).lock_owned().await;
            let settle = move |registry: &mut DatasetRegistry| {
                // Whoever asked may hang up, and this goes on.
                let _deleting = deleting;
                registry.settle(findings)
            };
            self.blocking(realm, settle).await?
        };
        self.copier.wake();
        // What was kept because this could not be read may go now.
        self.tidy(realm, Some(&name)).await;
        self.copier.look_again();
        Ok(done)
    }

    /// Every dataset whose objects are there and whose manifest is not, or is damaged. Where
    /// nothing was ever committed, as after a loss of the state, also whatever the buckets hold;
    /// else it is told what that is.
    pub(super) async fn resync_missing(&self, realm: Realm) -> Result<ResyncMissingOut, Fault> {
        // Which folders there are is asked of the disks that answer, and the registry is not held
        // meanwhile.
        let away = self.away(realm).await;
        let looking = self.with(realm, move |registry| {
            let roots = held(registry).roots().clone();
            let there = roots
                .all()
                .filter(|(bucket, _)| !away.contains(*bucket))
                .map(|(_, root)| root.folder.join("datasets"));
            let folders = there
                .flat_map(fs::read_dir)
                .flatten()
                .flatten()
                .filter(|folder| holds_anything(&folder.path()));
            let folders: Vec<String> =
                folders.filter_map(|folder| folder.file_name().into_string().ok()).collect();
            let registry = held(registry);
            let lost = registry.lost(folders.into_iter()).into_iter();
            let lost: Vec<(String, bool)> =
                lost.map(|name| (name.clone(), registry.knows(&name))).collect();
            Ok((lost, registry.is_fresh()))
        });
        let (lost, is_fresh) = looking.await?;
        let (mut resynced, mut failed) = (Vec::new(), Vec::new());
        for (name, is_known) in lost {
            if !is_known && !is_fresh {
                let reason = format!(
                    "the lineage says nothing of it: another catalog's, or an earlier one's; `brahman datasets resync {name}` takes it up"
                );
                failed.push(ResyncFailure { name, reason });
                continue;
            }
            match self.resync(realm, name.clone(), None, false).await {
                Ok(done) => resynced.push(PublishedDataset {
                    name,
                    generation: done.generation,
                    rows: done.rows,
                }),
                Err(fault) => {
                    failed.push(ResyncFailure { name, reason: fault.message().to_owned() });
                }
            }
        }
        self.look_for_gone(realm, &mut resynced, &mut failed).await?;
        if is_fresh && realm == Realm::Real {
            for (bucket, _) in self.buckets.roots().into_iter().filter(|(_, root)| !root.is_local())
            {
                match self.adopt_from(&bucket, None).await {
                    Ok(out) => {
                        resynced.extend(out.adopted);
                        failed.extend(
                            out.refused
                                .into_iter()
                                .map(|d| ResyncFailure { name: d.name, reason: d.why }),
                        );
                    }
                    Err(fault) => failed.push(ResyncFailure {
                        name: format!("bucket {bucket}"),
                        reason: fault.message().to_owned(),
                    }),
                }
            }
        }
        Ok(ResyncMissingOut { resynced, failed })
    }

    /// Brings back what is gone of datasets whose files are whole, and says what nobody has.
    async fn look_for_gone(
        &self,
        realm: Realm,
        resynced: &mut Vec<PublishedDataset>,
        failed: &mut Vec<ResyncFailure>,
    ) -> Result<(), Fault> {
        let away = self.away(realm).await;
        for dataset in self.with(realm, |registry| Ok(held(registry).whole())).await? {
            let mut found = self.found_of(realm, &dataset, &away).await?;
            if matches!(found, FoundObjects::All) {
                continue;
            }
            if realm == Realm::Real && matches!(found, FoundObjects::Gone(_)) {
                self.repair(&dataset.name).await?;
                found = self.found_of(realm, &dataset, &away).await?;
            }
            let Dataset { name, generation, rows, objects, .. } = dataset;
            match found {
                FoundObjects::All => resynced.push(PublishedDataset { name, generation, rows }),
                FoundObjects::Unknown(reason) => failed.push(ResyncFailure { name, reason }),
                FoundObjects::Gone(gone) => {
                    let reason =
                        chain(&missing(&name, &objects, &gone.iter().collect::<Vec<&Object>>()));
                    failed.push(ResyncFailure { name, reason });
                }
            }
        }
        Ok(())
    }

    /// Whether the objects of a dataset's present generation are where they belong: in folders by a
    /// look, in S3 by a list. Nothing is read.
    async fn found_of(
        &self,
        realm: Realm,
        dataset: &Dataset,
        away: &BTreeSet<String>,
    ) -> Result<FoundObjects, Fault> {
        let roots = self.with(realm, |registry| Ok(held(registry).roots().clone())).await?;
        let mut listed: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let mut local: Vec<(Object, PathBuf)> = Vec::new();
        let mut gone = Vec::new();
        for object in &dataset.objects {
            let bucket = object.bucket.as_str();
            let unknown = |why: String| {
                Ok(FoundObjects::Unknown(format!(
                    "whether its objects are there cannot be told: {why}"
                )))
            };
            let root = match roots.get(bucket) {
                Ok(root) => root,
                Err(error) => return unknown(chain(&error)),
            };
            if away.contains(bucket) {
                return unknown(format!("bucket `{bucket}` is away"));
            }
            if root.is_local() {
                local.push((object.clone(), root.folder.join(&object.key)));
                continue;
            }
            if !listed.contains_key(bucket) {
                // A deleted bucket answers like an empty one.
                let there = match self.buckets.present(bucket).await {
                    Ok(()) => {
                        self.buckets
                            .keys(bucket, &format!("datasets/{}", dataset.name), LISTED_MAX)
                            .await
                    }
                    Err(error) => Err(error),
                };
                match there {
                    Ok(keys) => {
                        drop(listed.insert(bucket, keys.into_iter().map(|(key, _)| key).collect()));
                    }
                    Err(error) => return unknown(chain(&error)),
                }
            }
            if !listed.get(bucket).is_some_and(|keys| keys.contains(&object.key)) {
                gone.push(object.clone());
            }
        }
        let looking = blocking(move || {
            local
                .into_iter()
                .filter(|(_, path)| !path.exists())
                .map(|(object, _)| object)
                .collect::<Vec<Object>>()
        });
        gone.extend(looking.await.map_err(|e| Fault::internal(chain(&e)))?);
        Ok(if gone.is_empty() { FoundObjects::All } else { FoundObjects::Gone(gone) })
    }
}

/// Whether a dataset's folder has anything in it: a run that read nothing leaves an empty one.
fn holds_anything(dataset: &Path) -> bool {
    let runs = fs::read_dir(dataset).into_iter().flatten().flatten();
    runs.map(|run| run.path()).any(|run| {
        !run.is_dir() || fs::read_dir(run).is_ok_and(|mut objects| objects.next().is_some())
    })
}

/// What was found of a dataset's objects.
enum FoundObjects {
    All,
    Gone(Vec<Object>),
    /// Why it cannot be told.
    Unknown(String),
}

/// Objects of one dataset in one bucket that are listed.
const LISTED_MAX: usize = 1_000_000;

/// Reads a dataset's objects anew. The registry is held before that, not while all of them are
/// read.
fn read_anew(
    registry: &Mutex<DatasetRegistry>,
    name: &str,
    runs: Option<&[String]>,
    accept_damage: bool,
) -> Result<Findings, RegistryError> {
    let looking = held(registry).look(name)?.accepting_damage(accept_damage);
    looking.read(runs)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use brahman_card::interface::catalog::{CommitIn, LocationOut, Object};

    use super::*;

    #[test]
    fn while_objects_are_read_anew_nobody_waits_for_the_registry() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        let LocationOut { key_prefix, path, .. } =
            registry.location("d", "r", "test", None).expect("a place");
        let pipe = Path::new(&path).join("part-0.parquet");
        // What is opened to be read waits until somebody writes.
        assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
        let object = Object {
            bucket: "primary".into(),
            key: format!("{key_prefix}/part-0.parquet"),
            url: String::new(),
            rows: 1,
            bytes: 1,
            sha256: String::new(),
            path: None,
        };
        let commit = CommitIn {
            name: "d".into(),
            run_id: "r".into(),
            objects: vec![object],
            ..CommitIn::default()
        };
        registry.commit(commit, 0).expect("committed");
        let registry = Arc::new(Mutex::new(registry));
        let shared = Arc::clone(&registry);
        let reading = std::thread::spawn(move || read_anew(&shared, "d", None, false).map(drop));
        std::thread::sleep(Duration::from_millis(200));
        let since = Instant::now();
        while registry.try_lock().is_err() {
            assert!(
                since.elapsed() < Duration::from_secs(10),
                "the registry is held while an object is read"
            );
            std::thread::yield_now();
        }
        assert!(!reading.is_finished(), "it is still being read");
        drop(std::fs::File::options().write(true).open(&pipe).expect("opened"));
        let refused = reading.join().expect("it ends").expect_err("a pipe is no Parquet file");
        assert!(matches!(refused, RegistryError::Unreadable { .. }), "{refused}");
    }
}
