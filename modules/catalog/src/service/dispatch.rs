//! Which method does what: parameters in, the dataset's own registry found, the work done, and
//! whoever watches told.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use brahman_card::clock::now_ms;
use brahman_card::interface::catalog::{
    self, AbandonIn, AbandonOut, ClearStaleIn, ClearStaleOut, CopyIn, DeleteOut, LineageIn,
    LineageOut, MarkStaleIn, NameIn, PinIn, PinOut, RealmIn, ResyncIn, SnapshotIn, SnapshotOut,
    UnpinIn, UnpinOut, error,
};
use brahman_card::interface::storage as storage_interface;
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, Reply, Service, chain};
use brahman_storage::writable;

use super::realm::Realm;
use super::{CatalogService, held, unanswered};
use crate::registry::DatasetRegistry;

/// Events of a dataset told unless more are asked for, and at most.
const EVENTS: u64 = 100;
const EVENTS_MAX: u64 = 10_000;
/// How long what a backup copies is kept if whoever makes it ends in the middle.
const SNAPSHOT_LIFE_S: u64 = 24 * 3600;
/// What changes the state.
const CHANGES: [&str; 19] = [
    "Location",
    "Commit",
    "MarkStale",
    "ClearStale",
    "Delete",
    "Abandon",
    "Resync",
    "ResyncMissing",
    "Adopt",
    "Copy",
    "Rename",
    "Pin",
    "Unpin",
    "Snapshot",
    "AddBucket",
    "RemoveBucket",
    "PutObject",
    "FlushErrors",
    "CompactErrors",
];

impl Service for CatalogService {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&catalog::INTERFACE, &storage_interface::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        if CHANGES.contains(&call.method()) {
            writable::check(&self.state).map_err(|error| {
                let message = format!("the catalog's state {}", chain(&error));
                let path = error.folder.display().to_string();
                if call.interface() == storage_interface::INTERFACE.name {
                    return Fault::of(&storage_interface::error::ReadOnly { path }, false, message);
                }
                Fault::of(&error::ReadOnly { path }, false, message)
            })?;
        }
        self.in_scope(&call).await?;
        match call.method() {
            "List" => {
                let RealmIn { mock } = call.parameters()?;
                let mut out = self.list(self.realm(&call, mock).await).await?;
                self.list_in_scope(&mut out);
                Reply::of(&out)
            }
            "Get" => {
                let NameIn { name, mock } = call.parameters()?;
                let mut out = self.get(self.realm(&call, mock).await, &name).await?;
                self.seen_in_scope(&mut out.dataset);
                Reply::of(&out)
            }
            "Location" => Reply::of(&self.location(call.parameters()?).await?),
            "Commit" => Reply::of(&self.commit(call.parameters()?).await?),
            "MarkStale" => {
                let MarkStaleIn { name, index, run_id, mock, gone } = call.parameters()?;
                // A mock's index is not noted in a real dataset.
                let own = self.realm_to_change(&call, mock).await?;
                let (realm, _) = self.seen(own, &name).await?;
                if own == realm {
                    let mark = move |registry: &Mutex<DatasetRegistry>| match gone {
                        Some(true) => held(registry).forget_feed(&name, &index),
                        _ => held(registry).mark_stale(&name, &index, run_id.as_deref()),
                    };
                    self.with(own, mark).await?;
                }
                Ok(Reply::empty())
            }
            "ClearStale" => {
                let ClearStaleIn { name, index, generation, run_id, mock } = call.parameters()?;
                let own = self.realm_to_change(&call, mock).await?;
                let (realm, dataset) = self.seen(own, &name).await?;
                let cleared = match own == realm {
                    true => {
                        self.with(own, move |registry| {
                            held(registry).clear_stale(&name, &index, generation, run_id.as_deref())
                        })
                        .await?
                    }
                    false => match (run_id, dataset.run_id) {
                        (Some(theirs), Some(ours)) => theirs == ours,
                        _ => dataset.generation == generation,
                    },
                };
                Reply::of(&ClearStaleOut { cleared })
            }
            "Delete" => {
                let NameIn { name, mock } = call.parameters()?;
                let realm = self.changed(self.realm_to_change(&call, mock).await?, &name).await?;
                let deleted = name.clone();
                let later = if realm == Realm::Real { self.removed_later(&name).await? } else { 0 };
                self.blocking(realm, move |registry| registry.delete(&deleted)).await?;
                let notes = self.tidy(realm, Some(&name)).await;
                self.show(realm, &name).await;
                self.follow_up(realm, name);
                Reply::of(&DeleteOut {
                    notes: Some(notes).filter(|notes| !notes.is_empty()),
                    later: Some(later).filter(|later| *later > 0),
                })
            }
            "Copy" => {
                let ask: CopyIn = call.parameters()?;
                let realm = self.realm_to_change(&call, ask.mock).await?;
                Reply::of(&self.copy(realm, ask).await?)
            }
            "Rename" => {
                let ask: CopyIn = call.parameters()?;
                let realm =
                    self.changed(self.realm_to_change(&call, ask.mock).await?, &ask.name).await?;
                Reply::of(&self.rename(realm, ask).await?)
            }
            "Pin" => {
                let PinIn { name, generation, life_s, pin, mock } = call.parameters()?;
                let realm = self.changed(self.realm_to_change(&call, mock).await?, &name).await?;
                let until_ms =
                    life_s.map(|life_s| now_ms().saturating_add(life_s.saturating_mul(1000)));
                let pinned = name.clone();
                let pin = self
                    .with(realm, move |registry| {
                        held(registry).pin(&pinned, generation, pin, until_ms)
                    })
                    .await?;
                self.show(realm, &name).await;
                Reply::of(&PinOut { pin: self.with_folder(realm, &name, pin) })
            }
            "Snapshot" => {
                call.allow_paths()?;
                let SnapshotIn { folder, indexes, life_s } = call.parameters()?;
                let to = PathBuf::from(folder);
                if !to.is_absolute() || !to.is_dir() {
                    return Err(Fault::invalid_parameter(
                        "folder",
                        "expected the absolute path of a folder that is there",
                    ));
                }
                let pin = format!("backup-{}", ulid::Ulid::generate());
                let until_ms =
                    now_ms().saturating_add(life_s.unwrap_or(SNAPSHOT_LIFE_S).saturating_mul(1000));
                let name = pin.clone();
                let written = self
                    .with(Realm::Real, move |registry| {
                        held(registry).snapshot(&to, indexes.as_deref(), &name, until_ms)
                    })
                    .await?;
                let (datasets, notes) = written;
                Reply::of(&SnapshotOut {
                    pin,
                    datasets,
                    notes: Some(notes).filter(|notes| !notes.is_empty()),
                })
            }
            "Unpin" => {
                let UnpinIn { name, generation, pin, mock } = call.parameters()?;
                let realm = self.changed(self.realm_to_change(&call, mock).await?, &name).await?;
                let asked = name.clone();
                let unpinned = self
                    .with(realm, move |registry| {
                        held(registry).unpin(&asked, generation, pin.as_deref())
                    })
                    .await?;
                if unpinned > 0 {
                    self.tidy(realm, Some(&name)).await;
                    self.show(realm, &name).await;
                    self.follow_up(realm, name);
                }
                Reply::of(&UnpinOut { unpinned })
            }
            "Abandon" => {
                let AbandonIn { run_id, producer, reason, cancelled, mock } = call.parameters()?;
                if run_id.is_some() == producer.is_some() {
                    return Err(Fault::invalid_parameter(
                        "run_id, producer",
                        "expected exactly one of them",
                    ));
                }
                let realms: &[Realm] = match mock {
                    Some(true) => &[Realm::Mock],
                    Some(false) => &[Realm::Real],
                    None => &[Realm::Mock, Realm::Real],
                };
                let (mut abandoned, mut runs) = (0, Vec::new());
                for realm in realms {
                    let (run_id, producer, reason) =
                        (run_id.clone(), producer.clone(), reason.clone());
                    let abandon = move |registry: &Mutex<DatasetRegistry>| {
                        let mut registry = held(registry);
                        let ended =
                            registry.journal.open_runs(run_id.as_deref(), producer.as_deref());
                        let done = registry.journal.abandon(
                            run_id.as_deref(),
                            producer.as_deref(),
                            &reason,
                            cancelled == Some(true),
                        );
                        Ok(done.map(|count| (count, ended)))
                    };
                    let done = self.with(*realm, abandon).await?;
                    let (count, ended) = done.map_err(|e| {
                        Fault::internal(format!("the lineage's journal: {}", chain(&e)))
                    })?;
                    abandoned += count;
                    let names: BTreeSet<&String> = ended.iter().map(|run| &run.dataset).collect();
                    for name in names {
                        self.tidy(*realm, Some(name)).await;
                        self.follow_up(*realm, name.clone());
                    }
                    // All are ended; of what a profile hides nobody is told.
                    runs.extend(
                        ended.into_iter().filter(|run| self.scope.binds_dataset(&run.dataset)),
                    );
                }
                let runs = Some(runs).filter(|runs| !runs.is_empty());
                Reply::of(&AbandonOut { abandoned, runs })
            }
            "Lineage" => {
                let LineageIn { name, limit, mock } = call.parameters()?;
                let limit = usize::try_from(limit.unwrap_or(EVENTS).min(EVENTS_MAX)).unwrap_or(0);
                let own = self.realm(&call, mock).await;
                let asked = name.clone();
                let events_of =
                    move |registry: &DatasetRegistry| registry.journal.events(&asked, limit);
                let mut events = self.consult(own, events_of.clone()).await.map_err(unanswered)?;
                // A mock that has made none of this name reads the real one.
                if events.is_empty() && own == Realm::Mock {
                    events = self.consult(Realm::Real, events_of).await.map_err(unanswered)?;
                }
                if events.is_empty() {
                    self.seen(own, &name).await?;
                }
                Reply::of(&LineageOut { events })
            }
            "Sample" => self.sample(&call).await,
            "Resync" => {
                let ResyncIn { name, mock, runs, accept_damage } = call.parameters()?;
                let realm = self.changed(self.realm_to_change(&call, mock).await?, &name).await?;
                let out =
                    self.resync(realm, name.clone(), runs, accept_damage == Some(true)).await?;
                self.show(realm, &name).await;
                self.sweep_again().await;
                Reply::of(&out)
            }
            "ResyncMissing" => {
                let RealmIn { mock } = call.parameters()?;
                let realm = self.realm_to_change(&call, mock).await?;
                let out = self.resync_missing(realm).await?;
                for dataset in &out.resynced {
                    self.show(realm, &dataset.name).await;
                }
                self.sweep_again().await;
                Reply::of(&out)
            }
            "Adopt" => self.adopt(&call).await,
            "Watch" => self.watch(&call).await,
            _ => self.storage(&call).await,
        }
    }
}
