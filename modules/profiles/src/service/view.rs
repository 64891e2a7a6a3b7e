//! What is held where, and single models loaded and unloaded: modules of this mesh, and models of
//! an Ollama server beside it.
//!
//! Invariant: a driver or a server that does not answer is a reason in the answer, and the rest is
//! told.

use std::collections::BTreeSet;
use std::time::Instant;

use brahman_card::interface::profiles::{
    External, GpuUse, LoadedModel, LoadedOut, PreloadIn, PreloadOut, Quarantine, Reservation,
    SlotUse, UnloadIn, UnloadOut, VramOut, error,
};
use brahman_card::{Fault, ModuleRecord, ModuleState};
use brahman_sidecar::chain;

use super::residency::is_started;
use super::{ProfilesService, lock, mesh_fault, refusal_fault};
use crate::gate::{Holding, Millis, Slot, SlotId};
use crate::gpu::GpuReading;
use crate::mesh::instances;
use crate::ollama::{Ollama, OllamaError};

/// Longest name of a model that is looked for.
const NAME_BYTES_MAX: usize = 512;
/// What a module says that its model is called.
const MODEL: &str = "model";

impl ProfilesService {
    /// Every memory, and who holds what.
    pub(super) async fn vram(&self) -> Result<VramOut, Fault> {
        let records = self.mesh.list().await.map_err(|error| mesh_fault(&error))?;
        let measuring = async {
            self.bring_up_to_date(&records).await;
            self.measure(&records, true).await
        };
        // One after the other each may take two seconds; side by side both do.
        let ((gpus, reason), external) = tokio::join!(measuring, self.external());
        let now = self.now();
        let gate = lock(&self.gate);
        let slots = gate.slots().iter().map(|(id, slot)| slot_use(id, slot, now)).collect();
        Ok(VramOut { gpus: gpus.iter().map(gpu_use).collect(), reason, slots, external })
    }

    /// Modules that hold memory.
    pub(super) async fn loaded(&self) -> Result<LoadedOut, Fault> {
        let records = self.mesh.list().await.map_err(|error| mesh_fault(&error))?;
        self.bring_up_to_date(&records).await;
        let now = self.now();
        let gate = lock(&self.gate);
        let mut models = Vec::new();
        for (id, slot) in gate.slots() {
            models.extend(slot.holdings().iter().map(|(module, holding)| {
                LoadedModel {
                    module: module.clone(),
                    model: instances(&records, module)
                        .find_map(|record| record.attributes.get(MODEL).cloned()),
                    slot: id.to_string(),
                    mib: holding.mib,
                    measured_mib: holding.measured_mib,
                    pinned: holding.pinned,
                    idle_s: idle_s(holding, now),
                }
            }));
        }
        models.sort_by(|a, b| a.module.cmp(&b.module));
        Ok(LoadedOut { models })
    }

    /// Whoever loads or unloads keeps the ledger meanwhile: then it is told as it is.
    async fn bring_up_to_date(&self, records: &[ModuleRecord]) {
        if let Ok(_turn) = self.turn.try_lock() {
            let book = self.book(records);
            self.reconcile(records, &book).await;
        }
    }

    async fn external(&self) -> Option<External> {
        let ollama = self.ollama.as_ref()?;
        let (models, reason) = match ollama.held().await {
            Ok(models) => (models, None),
            Err(error) => (Vec::new(), Some(chain(&error))),
        };
        Some(External { url: ollama.base().to_owned(), models, reason })
    }

    /// Loads a model.
    pub(super) async fn preload(&self, ask: PreloadIn) -> Result<PreloadOut, Fault> {
        let PreloadIn { model, on_call } = ask;
        check(&model)?;
        let is_on_call = on_call == Some(true);
        let begun = Instant::now();
        let turn = self.turn.lock().await;
        let records = self.mesh.list().await.map_err(|error| mesh_fault(&error))?;
        let labels = labels_of(&model, &records);
        let Some(first) = labels.iter().next() else {
            // Nothing of the mesh is loaded: a server that takes minutes holds up nobody's switch.
            drop(turn);
            return match &self.ollama {
                Some(ollama) if !is_on_call => self.preload_external(ollama, model).await,
                _ => Err(no_such(&model)),
            };
        };
        let word = self.word();
        if let Some(profile) = word
            .profile
            .as_ref()
            .filter(|profile| !labels.iter().any(|label| profile.modules.contains(label)))
        {
            let id = profile.profile.id.clone();
            let message = format!(
                "profile `{id}` is active and does not name the module `{first}`: activate one that does, or deactivate it"
            );
            return Err(Fault::of(
                &error::Forbidden { profile: id, name: first.clone() },
                false,
                message,
            ));
        }
        // What a person has stopped stays so; and one that loads or serves needs nothing.
        let is_down = |label: &&String| instances(&records, label).any(|record| !is_up(record));
        let may = |label: &&String| {
            let is_bound =
                word.profile.as_ref().is_none_or(|profile| profile.modules.contains(*label));
            is_bound && (!is_on_call || word.record.resting.contains(*label))
        };
        let wanted: Vec<String> = labels.iter().filter(is_down).filter(may).cloned().collect();
        if wanted.is_empty() {
            let is_there = labels.iter().any(|label| instances(&records, label).any(is_up));
            let out = PreloadOut {
                model: model.clone(),
                elapsed_ms: elapsed_ms(begun),
                ..PreloadOut::default()
            };
            return if is_there { Ok(out) } else { Err(no_such(&model)) };
        }
        let book = self.book(&records);
        let gpus = self.reconcile(&records, &book).await;
        let pinned = word.profile.map(|profile| profile.pinned).unwrap_or_default();
        let requests: Vec<_> = wanted
            .iter()
            .filter_map(|label| self.request(label, &records, &gpus, pinned.contains(label)))
            .collect();
        let plan = lock(&self.gate)
            .plan(&requests, &BTreeSet::new(), self.now())
            .map_err(|refusal| refusal_fault(&refusal))?;
        self.make_room(&plan).await?;
        let loaded: Vec<String> = plan.load.iter().map(|request| request.module.clone()).collect();
        let mut record = word.record;
        record.resting.retain(|label| !loaded.contains(label));
        record.resting.extend(plan.unload_first.iter().cloned());
        self.publish(record, &records).await?;
        self.pin(&self.managed(&book));
        Ok(PreloadOut { model, loaded, elapsed_ms: elapsed_ms(begun), external: None })
    }

    async fn preload_external(&self, ollama: &Ollama, model: String) -> Result<PreloadOut, Fault> {
        if !ollama.has(&model).await.map_err(|error| ollama_fault(&model, &error))? {
            return Err(no_such(&model));
        }
        let took = ollama.load(&model).await.map_err(|error| ollama_fault(&model, &error))?;
        let elapsed_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Ok(PreloadOut { model, loaded: Vec::new(), elapsed_ms, external: Some(true) })
    }

    /// Unloads a model, until it is loaded again or called.
    pub(super) async fn unload_model(&self, ask: UnloadIn) -> Result<UnloadOut, Fault> {
        let UnloadIn { model } = ask;
        check(&model)?;
        let begun = Instant::now();
        let turn = self.turn.lock().await;
        let records = self.mesh.list().await.map_err(|error| mesh_fault(&error))?;
        let labels = labels_of(&model, &records);
        if labels.is_empty() {
            drop(turn);
            let Some(ollama) = &self.ollama else { return Err(no_such(&model)) };
            if !ollama.has(&model).await.map_err(|error| ollama_fault(&model, &error))? {
                return Err(no_such(&model));
            }
            let is_gone =
                ollama.unload(&model).await.map_err(|error| ollama_fault(&model, &error))?;
            let notes = (!is_gone).then(|| {
                vec![format!("{} took the command and still lists the model", ollama.base())]
            });
            return Ok(UnloadOut {
                model,
                unloaded: Vec::new(),
                elapsed_ms: elapsed_ms(begun),
                external: Some(true),
                notes,
            });
        }
        let word = self.word();
        let pinned =
            word.profile.as_ref().map(|profile| profile.pinned.clone()).unwrap_or_default();
        if let Some(module) = labels.iter().find(|label| pinned.contains(*label)).cloned() {
            let message = format!(
                "`{module}` is pinned by the active profile: activate another, or take the pin out of it"
            );
            return Err(Fault::of(&error::Pinned { module }, false, message));
        }
        let book = self.book(&records);
        self.reconcile(&records, &book).await;
        let unloaded: Vec<String> = labels
            .iter()
            .filter(|label| instances(&records, label).any(|record| record.pid != 0))
            .cloned()
            .collect();
        let mut record = word.record;
        record.resting.extend(unloaded.iter().cloned());
        self.publish(record, &records).await?;
        let lost = self.unload(&unloaded).await?;
        let notes = Some(lost).filter(|lost| !lost.is_empty());
        Ok(UnloadOut { model, unloaded, elapsed_ms: elapsed_ms(begun), external: None, notes })
    }
}

/// Whether a module serves, or will without anybody's help.
fn is_up(record: &ModuleRecord) -> bool {
    record.state == ModuleState::Ready
        || (record.state.is_coming() && record.state != ModuleState::Draining)
}

/// Labels of the modules that somebody means who says this: by their own label, else by their
/// model.
fn labels_of(model: &str, records: &[ModuleRecord]) -> BTreeSet<String> {
    let started = || records.iter().filter(|record| is_started(record));
    let by_label: BTreeSet<String> = started()
        .filter(|record| record.card.label.answers_to(model))
        .map(|record| record.card.label.base().to_owned())
        .collect();
    if !by_label.is_empty() {
        return by_label;
    }
    let is_of =
        |record: &&ModuleRecord| record.attributes.get(MODEL).is_some_and(|name| name == model);
    started().filter(is_of).map(|record| record.card.label.base().to_owned()).collect()
}

fn check(model: &str) -> Result<(), Fault> {
    if (1..=NAME_BYTES_MAX).contains(&model.len()) {
        return Ok(());
    }
    Err(Fault::invalid_parameter(
        "model",
        format!("{} bytes, expected 1 to {NAME_BYTES_MAX}", model.len()),
    ))
}

fn no_such(model: &str) -> Fault {
    let message = format!(
        "no module is called `{0}` or has the model `{0}`; `brahman status` lists them",
        model.escape_debug()
    );
    Fault::of(&error::NoSuchModel { model: model.to_owned() }, false, message)
}

fn ollama_fault(model: &str, error: &OllamaError) -> Fault {
    Fault::of(&error::LoadFailed { module: model.to_owned() }, true, chain(error))
}

fn elapsed_ms(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn idle_s(holding: &Holding, now: Millis) -> Option<u64> {
    (!holding.busy).then(|| now.saturating_sub(holding.used) / 1000)
}

fn gpu_use(gpu: &GpuReading) -> GpuUse {
    GpuUse {
        index: gpu.index.into(),
        uuid: gpu.uuid.clone(),
        name: gpu.name.clone(),
        total_mib: gpu.total_mib,
        used_mib: gpu.used_mib,
        free_mib: gpu.free_mib,
        utilisation: gpu.utilisation.into(),
    }
}

fn slot_use(id: &SlotId, slot: &Slot, now: Millis) -> SlotUse {
    let reservation = |(module, holding): (&String, &Holding)| Reservation {
        module: module.clone(),
        mib: holding.mib,
        measured_mib: holding.measured_mib,
        pinned: holding.pinned,
        state: holding.stage.as_str().to_owned(),
        idle_s: idle_s(holding, now),
    };
    let quarantined: Vec<Quarantine> = slot
        .quarantined()
        .iter()
        .map(|(module, lost)| Quarantine {
            module: module.clone(),
            mib: lost.mib,
            reason: lost.reason.clone(),
        })
        .collect();
    SlotUse {
        slot: id.to_string(),
        capacity_mib: slot.capacity_mib(),
        available_mib: slot.available_mib(),
        reservations: slot.holdings().iter().map(reservation).collect(),
        unowned_mib: slot.unowned_mib(),
        quarantined: Some(quarantined).filter(|quarantined| !quarantined.is_empty()),
        notes: Some(slot.notes().to_vec()).filter(|notes| !notes.is_empty()),
    }
}
