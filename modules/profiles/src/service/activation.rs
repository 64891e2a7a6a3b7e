//! From one profile to another, and back to none.
//!
//! A switch is: plan, load what is new, write down what is active, tell everybody, unload what is
//! not needed any more. Where there is no room for both, what is not needed ends first. Invariants:
//! until the new profile is written down the former one is active, whatever dies; if loading fails
//! what had ended is loaded again; two switches never run at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use brahman_card::card::FlowType;
use brahman_card::interface::profiles::{ActivateOut, DeactivateOut, error};
use brahman_card::interface::storage::{self, AddBucketIn};
use brahman_card::interface::{Empty, catalog, index};
use brahman_card::{Fault, ModuleRecord, ModuleState};
use brahman_sidecar::{Backoff, CallOptions, chain};

use super::residency::is_started;
use super::{ProfilesService, lock, mesh_fault, refusal_fault};
use crate::book::CheckedProfile;
use crate::gate::{Plan, Request};
use crate::mesh::{MeshError, has_ended, instances};
use crate::state::ActiveRecord;

/// How long others may take to say which names there are, after the switch itself.
const NAMES_WAIT: Duration = Duration::from_secs(2);
/// How long a bucket may take to be made.
const BUCKET_WAIT: Duration = Duration::from_secs(20);
/// The backend that wants a module of its own.
const LANCE: &str = "lance";
/// What that module offers: it is no interface that is shipped here, and told by its last element.
const BACKEND_FLOW: &str = "IndexBackend";
/// Pauses between attempts to reach init at the start.
const PAUSES: Backoff = Backoff::doubling(Duration::from_millis(5), Duration::from_millis(500));

fn elapsed_ms(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl ProfilesService {
    /// Makes a profile the active one.
    pub(super) async fn activate(&self, id: &str) -> Result<ActivateOut, Fault> {
        let _turn = self.turn.lock().await;
        let begun = Instant::now();
        let records = self.mesh.list().await.map_err(|error| mesh_fault(&error))?;
        let book = self.book(&records);
        let Some(profile) = book.profiles.get(id).cloned() else {
            let faults = if book.faults.is_empty() {
                String::new()
            } else {
                format!("; {}", book.faults.join("; "))
            };
            let message = format!(
                "no profile is called `{}`; `brahman profile list` lists them{faults}",
                id.escape_debug()
            );
            return Err(Fault::of(&error::NoSuchProfile { id: id.to_owned() }, false, message));
        };
        check(&profile, &records)?;
        let former = self.word();
        let gpus = self.reconcile(&records, &book).await;
        let is_same = former.record.profile.as_ref() == Some(&profile.profile);
        // What rests in the profile that is active already is loaded by its next call.
        let rests = |label: &String| is_same && former.record.resting.contains(label);
        let mut requests: Vec<Request> = Vec::new();
        for label in profile
            .modules
            .iter()
            .filter(|label| !rests(label) && instances(&records, label).any(is_started))
        {
            requests.extend(self.request(label, &records, &gpus, profile.pinned.contains(label)));
        }
        // What no profile names is left alone; the others make room, and end.
        let managed = self.managed(&book);
        let outgoing: BTreeSet<String> =
            managed.into_iter().filter(|label| !profile.modules.contains(label)).collect();
        let outgoing: BTreeSet<String> = outgoing
            .into_iter()
            .filter(|label| {
                instances(&records, label).any(|record| is_started(record) && !has_ended(record))
            })
            .collect();
        let plan = lock(&self.gate)
            .plan(&requests, &outgoing, self.now())
            .map_err(|refusal| refusal_fault(&refusal))?;
        if is_same && plan.load.is_empty() && plan.unload_after.is_empty() {
            return Ok(ActivateOut {
                active: id.to_owned(),
                elapsed_ms: elapsed_ms(begun),
                ..ActivateOut::default()
            });
        }
        if let Some(bucket) = &profile.profile.bucket {
            self.ensure_bucket(bucket, id).await?;
        }
        self.make_room(&plan).await?;
        let loaded: Vec<String> = plan.load.iter().map(|request| request.module.clone()).collect();
        let mut resting = former.record.resting.clone();
        resting.retain(|label| !loaded.contains(label));
        resting.extend(plan.unload_first.iter().chain(&plan.unload_after).cloned());
        let mut notes = Vec::new();
        match self
            .publish(ActiveRecord { profile: Some(profile.profile.clone()), resting }, &records)
            .await
        {
            Ok(unheard) => notes.extend(unheard),
            Err(fault) => {
                self.go_back(&plan).await;
                return Err(fault);
            }
        }
        self.pin(&self.managed(&book));
        // The switch is done: what will not end now is told, and ended at the next look or start.
        match self.unload(&plan.unload_after).await {
            Ok(lost) => notes.extend(lost),
            Err(fault) => {
                notes.push(format!("not all that is not needed has ended: {}", fault.message()));
            }
        }
        notes.extend(self.missing_names(&profile).await);
        let unloaded: Vec<String> =
            plan.unload_first.iter().chain(&plan.unload_after).cloned().collect();
        let notes = Some(notes).filter(|notes| !notes.is_empty());
        tracing::info!(
            profile = id,
            loaded = loaded.join(", "),
            unloaded = unloaded.join(", "),
            "is active"
        );
        Ok(ActivateOut {
            active: id.to_owned(),
            loaded,
            unloaded,
            elapsed_ms: elapsed_ms(begun),
            notes,
        })
    }

    /// Unloads what has to end first and loads what is new; on failure what had ended is loaded
    /// again.
    pub(super) async fn make_room(&self, plan: &Plan) -> Result<(), Fault> {
        if !plan.unload_first.is_empty() {
            if let Err(fault) = self.unload(&plan.unload_first).await {
                self.go_back(plan).await;
                return Err(fault);
            }
            // What came back is measured, not hoped for.
            if let Ok(records) = self.mesh.list().await {
                self.measure(&records, false).await;
            }
        }
        if let Err(fault) = self.load(&plan.load).await {
            self.go_back(plan).await;
            return Err(fault);
        }
        Ok(())
    }

    /// Undoes as much of a plan as was done: what is new ends, and what had ended is loaded.
    async fn go_back(&self, plan: &Plan) {
        let held: Vec<String> = plan
            .load
            .iter()
            .map(|request| request.module.clone())
            .filter(|label| lock(&self.gate).holding(label).is_some())
            .collect();
        if let Err(fault) = self.unload(&held).await {
            tracing::error!("what was loaded for nothing has not ended: {}", fault.message());
        }
        let Ok(records) = self.mesh.list().await else { return };
        let (gpus, _) = self.measure(&records, false).await;
        let ended =
            plan.unload_first.iter().filter(|label| instances(&records, label).all(has_ended));
        let again: Vec<Request> =
            ended.filter_map(|label| self.request(label, &records, &gpus, false)).collect();
        for request in again {
            if let Err(fault) = self.load(std::slice::from_ref(&request)).await {
                tracing::error!(
                    module = request.module,
                    "is not loaded again: {}",
                    fault.message()
                );
            }
        }
    }

    /// Goes back to no profile.
    pub(super) async fn deactivate(&self) -> Result<DeactivateOut, Fault> {
        let _turn = self.turn.lock().await;
        let begun = Instant::now();
        let former = self.word();
        let Some(profile) = former.profile else {
            return Ok(DeactivateOut {
                previous: None,
                unloaded: Vec::new(),
                elapsed_ms: elapsed_ms(begun),
            });
        };
        let records = self.mesh.list().await.map_err(|error| mesh_fault(&error))?;
        let book = self.book(&records);
        self.reconcile(&records, &book).await;
        let ends = |label: &&String| {
            !profile.pinned.contains(*label)
                && instances(&records, label).any(|record| is_started(record) && !has_ended(record))
        };
        let unloaded: Vec<String> = profile.modules.iter().filter(ends).cloned().collect();
        let mut resting = former.record.resting;
        resting.extend(unloaded.iter().cloned());
        // Whoever has not heard of it hides more than he should, and no less.
        self.publish(ActiveRecord { profile: None, resting }, &records).await?;
        self.unload(&unloaded).await?;
        Ok(DeactivateOut {
            previous: Some(profile.profile.id),
            unloaded,
            elapsed_ms: elapsed_ms(begun),
        })
    }

    /// Makes the bucket of a profile, if there is none of that name.
    async fn ensure_bucket(&self, bucket: &str, id: &str) -> Result<(), Fault> {
        let bad = |why: &str| {
            let message = format!("profile `{id}`, `bucket`: `{bucket}` cannot be made: {why}");
            Fault::of(&error::BadProfile { id: id.to_owned() }, false, message)
        };
        let options = CallOptions { deadline: Some(BUCKET_WAIT), ..CallOptions::default() };
        let told = self.client.call_method::<storage::method::Buckets>(&Empty {}, &options).await;
        let buckets = told.map_err(|error| bad(&chain(&error)))?.value.buckets;
        if buckets.iter().any(|known| known.name == bucket) {
            return Ok(());
        }
        let folder = self.state.join("buckets").join(bucket);
        let folder = std::path::absolute(&folder).map_err(|error| bad(&error.to_string()))?;
        brahman_sidecar::place::private_dir(&folder)
            .map_err(|error| bad(&format!("{}: {error}", folder.display())))?;
        let ask = AddBucketIn {
            name: bucket.to_owned(),
            url: format!("file://{}", folder.display()),
            ..AddBucketIn::default()
        };
        let added = self.client.call_method::<storage::method::AddBucket>(&ask, &options).await;
        added.map(drop).map_err(|error| bad(&chain(&error)))
    }

    /// What the profile binds and is not there, in words. It may be made later, so that is no
    /// error.
    async fn missing_names(&self, profile: &CheckedProfile) -> Vec<String> {
        let options = CallOptions { deadline: Some(NAMES_WAIT), ..CallOptions::default() };
        let mut notes = Vec::new();
        if let Some(indexes) = profile.profile.indexes.as_ref().filter(|names| !names.is_empty()) {
            match self.client.call_method::<index::method::List>(&Empty {}, &options).await {
                Ok(answer) => {
                    let there: BTreeSet<&str> =
                        answer.value.indexes.iter().map(|index| index.name.as_str()).collect();
                    let missing = indexes.iter().filter(|name| !there.contains(name.as_str()));
                    notes.extend(missing.map(|name| format!("there is no index `{name}` yet")));
                }
                Err(error) => notes
                    .push(format!("whether its indexes are there is not known: {}", chain(&error))),
            }
        }
        if let Some(datasets) = profile.profile.datasets.as_ref().filter(|names| !names.is_empty())
        {
            match self
                .client
                .call_method::<catalog::method::List>(&catalog::RealmIn::default(), &options)
                .await
            {
                Ok(answer) => {
                    let there: BTreeSet<&str> =
                        answer.value.datasets.iter().map(|dataset| dataset.name.as_str()).collect();
                    let missing = datasets.iter().filter(|name| !there.contains(name.as_str()));
                    notes.extend(missing.map(|name| format!("there is no dataset `{name}` yet")));
                }
                Err(error) => notes.push(format!(
                    "whether its datasets are there is not known: {}",
                    chain(&error)
                )),
            }
        }
        notes
    }

    /// At the start: modules that the active profile does not need are stopped and those that it
    /// needs are started, whatever an earlier life of this process, or init's, has left. Nothing is
    /// waited for. Where no profile was ever active everything is left as it is.
    ///
    /// # Errors
    /// If init goes away meanwhile.
    pub async fn take_up(&self) -> Result<(), MeshError> {
        let _turn = self.turn.lock().await;
        let mut pauses = PAUSES;
        let records = loop {
            match self.mesh.list().await {
                Ok(records) => break records,
                Err(error) => tracing::debug!("init does not answer yet: {}", chain(&error)),
            }
            pauses.wait().await;
        };
        let word = self.word();
        let book = self.book(&records);
        let ours = |label: &&String| instances(&records, label).any(is_started);
        let needed: Vec<String> =
            word.profile.iter().flat_map(|profile| profile.modules.iter()).cloned().collect();
        // With init itself those that rest were started as well.
        let mut end: BTreeSet<String> = word.record.resting.clone();
        if word.profile.is_some() {
            end.extend(self.managed(&book).into_iter().filter(|label| !needed.contains(label)));
        }
        let end: Vec<String> = end
            .iter()
            .filter(ours)
            .filter(|label| !instances(&records, label).all(has_ended))
            .cloned()
            .collect();
        self.mesh.end(&end).await?;
        let begin: Vec<String> = needed
            .iter()
            .filter(ours)
            .filter(|label| !word.record.resting.contains(*label))
            .cloned()
            .collect();
        let begin: Vec<String> =
            begin.into_iter().filter(|label| instances(&records, label).any(has_ended)).collect();
        self.mesh.begin(&begin).await?;
        self.reconcile(&self.mesh.list().await?, &book).await;
        Ok(())
    }
}

/// That this mesh can serve a profile.
fn check(profile: &CheckedProfile, records: &[ModuleRecord]) -> Result<(), Fault> {
    let id = &profile.profile.id;
    for label in &profile.modules {
        if instances(records, label).next().is_none() {
            let message = format!(
                "profile `{id}`: there is no module `{label}`; `brahman models enable` makes one for a model"
            );
            return Err(Fault::of(&error::NoSuchModel { model: label.clone() }, false, message));
        }
        let foreign = instances(records, label)
            .find(|record| !is_started(record) && record.state != ModuleState::Ready);
        if let Some(record) = foreign {
            let message = format!(
                "`{label}` is {}, and init does not start it: start it yourself",
                record.state.as_str()
            );
            return Err(Fault::of(&error::LoadFailed { module: label.clone() }, true, message));
        }
    }
    if profile.profile.backend.as_deref() == Some(LANCE) && !records.iter().any(offers_lance) {
        let message = format!(
            "profile `{id}`, `backend`: lance is not there, for no module offers it; expected flat-hnsw or auto"
        );
        return Err(Fault::of(&error::BadProfile { id: id.clone() }, false, message));
    }
    Ok(())
}

fn offers_lance(record: &ModuleRecord) -> bool {
    record.card.flow.output.iter().any(|flow| match &flow.ty {
        FlowType::Interface { name } => name.rsplit('.').next() == Some(BACKEND_FLOW),
        FlowType::Primitive { .. } => false,
    })
}
