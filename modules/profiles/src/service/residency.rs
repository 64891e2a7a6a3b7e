//! Loading and unloading, each with its memory reserved and looked at; and what is loaded, watched.
//!
//! Invariants: a module is started only with its reservation; memory that did not come back is told
//! by the process's own use, and kept from others until it does; a module that died is not waited
//! for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brahman_card::card::{Payload, Supervision};
use brahman_card::interface::broker;
use brahman_card::interface::{Empty, embed, rerank, score};
use brahman_card::{Fault, ModuleRecord, ModuleState};
use brahman_sidecar::{CallOptions, chain};

use super::{ProfilesService, lock, mesh_fault, refusal_fault};
use crate::book::Book;
use crate::gate::{Gate, Measurement, Millis, QuarantinedMemory, Request, SlotId, Stage, need};
use crate::gpu::{GpuError, GpuReading, uuid_of};
use crate::memory::{main_memory, processor_ns, resident_mib};
use crate::mesh::{has_ended, instances};
use crate::state::Peak;

/// How often is looked at what is loaded.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Less of the processors' time between two looks is what a module takes that only says that it
/// lives.
const WORK_NS_MIN: u64 = 3_000_000;
/// How long the broker may take to say how many calls there were.
const STATUS_WAIT: Duration = Duration::from_secs(1);
/// What may be left of a module on a GPU and still counts as given back: the driver's own
/// bookkeeping.
const LEFT_MIB_MAX: u64 = 32;
/// How long a driver may take to free the memory of a process that has ended, and how often it is
/// asked.
const FREED_WAIT: Duration = Duration::from_millis(1500);
const FREED_EVERY: Duration = Duration::from_millis(50);
/// How long a machine without NVML is not asked about it again, unless a person asks.
const GPU_AGAIN: Duration = Duration::from_secs(60);
/// What says on which device a module is to run, and which GPUs it sees.
const DEVICE: &str = "BRAHMAN_DEVICE";
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
/// What a module says of itself.
const ACTIVE_DEVICE: &str = "device";
const MODEL: &str = "model";
const FINGERPRINT: &str = "fingerprint";

/// What was last seen of a module's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Activity {
    processor_ns: u64,
    calls: u64,
    /// It has worked since it was loaded: what it takes is more than what an idle one does.
    has_worked: bool,
}

/// Whether init starts it, so that it can be loaded and unloaded.
pub(super) fn is_started(record: &ModuleRecord) -> bool {
    matches!(record.card.payload, Payload::Native(_))
        && record.card.supervision != Supervision::Delegate
}

/// What a module's environment says, by its Card.
fn variable<'a>(record: &'a ModuleRecord, name: &str) -> Option<&'a str> {
    let own = match &record.card.payload {
        Payload::Native(native) => native.env.get(name),
        Payload::Virtual => None,
    };
    record.card.environment.get(name).or(own).map(String::as_str)
}

/// Where a module's model is, or will be.
pub(super) fn slot_of(
    record: &ModuleRecord,
    usual: Option<&str>,
    visible: Option<&str>,
    gpus: &[GpuReading],
) -> SlotId {
    let told = record
        .attributes
        .get(ACTIVE_DEVICE)
        .filter(|_| record.state == ModuleState::Ready)
        .map(String::as_str);
    let asked = told.or_else(|| variable(record, DEVICE)).or(usual).unwrap_or("auto");
    let visible = variable(record, VISIBLE).or(visible);
    // A UUID that a Card names says more than the number that CUDA has for it.
    let named = variable(record, DEVICE).or(usual).and_then(|named| named.strip_prefix("cuda:"));
    if let Some(named) = named.filter(|_| asked.starts_with("cuda")) {
        let is_named = |gpu: &&GpuReading| gpu.uuid.eq_ignore_ascii_case(named);
        if let Some(gpu) = gpus.iter().find(is_named) {
            return SlotId::Gpu(gpu.uuid.clone());
        }
    }
    let number = match asked {
        "cpu" => return SlotId::Cpu,
        // A mock computes nothing, whatever there is.
        "auto" | "" if record.card.mock => return SlotId::Cpu,
        "auto" | "" | "cuda" => 0,
        other => match other.strip_prefix("cuda:").and_then(|number| number.parse().ok()) {
            Some(number) => number,
            None => return SlotId::Cpu,
        },
    };
    uuid_of(number, visible, gpus).map_or(SlotId::Cpu, SlotId::Gpu)
}

/// What a module's Card declares for this memory.
fn declared(record: &ModuleRecord, slot: &SlotId) -> Option<u64> {
    let limits = &record.card.limits;
    let memory = limits.memory.filter(|_| *slot == SlotId::Cpu).map(|bytes| (bytes.0 >> 20).max(1));
    limits.vram_mib.or(memory)
}

/// By which a module's model is told from another that had its label before.
pub(super) fn model_of(record: &ModuleRecord) -> Option<String> {
    record.attributes.get(FINGERPRINT).or_else(|| record.attributes.get(MODEL)).cloned()
}

/// Whether a module holds a model, or says that it takes memory.
fn is_model(record: &ModuleRecord) -> bool {
    let flows = [embed::INTERFACE.name, rerank::INTERFACE.name, score::INTERFACE.name];
    let serves = record.card.offered_interfaces().any(|name| flows.contains(&name));
    (serves && !record.card.mock) || record.card.limits.vram_mib.is_some()
}

fn peak_key(label: &str, slot: &SlotId) -> String {
    format!("{label} {slot}")
}

impl ProfilesService {
    /// Graphics processors as they are now, and why there are none.
    pub(super) async fn look_at_gpus(&self, is_asked: bool) -> (Vec<GpuReading>, Option<String>) {
        let known = lock(&self.gpu_view).clone();
        if !is_asked && known.again_at.is_some_and(|at| Instant::now() < at) {
            return (known.gpus, known.reason);
        }
        let outcome = self.gpus.read().await;
        let mut view = lock(&self.gpu_view);
        view.again_at = None;
        match outcome {
            Ok(gpus) => {
                view.reason = gpus.is_empty().then(|| "NVML finds no GPU".to_owned());
                view.gpus = gpus;
            }
            Err(error) => {
                if matches!(error, GpuError::NoLibrary(_)) {
                    view.gpus.clear();
                    view.again_at = Some(Instant::now() + GPU_AGAIN);
                }
                view.reason = Some(chain(&error));
            }
        }
        (view.gpus.clone(), view.reason.clone())
    }

    /// Measures every memory, and what each holder has of it.
    pub(super) async fn measure(
        &self,
        records: &[ModuleRecord],
        is_asked: bool,
    ) -> (Vec<GpuReading>, Option<String>) {
        let (gpus, reason) = self.look_at_gpus(is_asked).await;
        let mut gate = lock(&self.gate);
        if let Some(seen) = main_memory(self.settings.cpu_mib) {
            let holders =
                measured(&gate, &SlotId::Cpu, records, |pid| on_slot(pid, &SlotId::Cpu, &gpus));
            gate.observe(&SlotId::Cpu, seen, &holders);
        }
        // What a driver that hangs said before is not what is so now: the ledger alone counts until
        // it answers.
        let is_fresh = reason.is_none();
        for gpu in gpus.iter().filter(|_| is_fresh) {
            let slot = SlotId::Gpu(gpu.uuid.clone());
            let holders = measured(&gate, &slot, records, |pid| on_slot(pid, &slot, &gpus));
            let seen = Measurement { capacity_mib: gpu.total_mib, free_mib: Some(gpu.free_mib) };
            gate.observe(&slot, seen, &holders);
        }
        (gpus, reason)
    }

    /// What would have to be reserved for a module.
    pub(super) fn request(
        &self,
        label: &str,
        records: &[ModuleRecord],
        gpus: &[GpuReading],
        pinned: bool,
    ) -> Option<Request> {
        let usual = std::env::var(DEVICE).ok();
        let all: Vec<&ModuleRecord> = instances(records, label).collect();
        let first = *all.first()?;
        let slot = slot_of(first, usual.as_deref(), self.settings.cuda_visible.as_deref(), gpus);
        let peak = lock(&self.peaks).get(&peak_key(label, &slot)).cloned();
        let model = model_of(first);
        // Of another model its figures say nothing; before it has run once nobody knows which it
        // is.
        let peak = peak
            .filter(|peak| model.is_none() || peak.model.is_none() || peak.model == model)
            .map(|peak| peak.mib);
        // A peak is that of all replicas, what a Card declares is for each.
        let replicas = all.len() as u64;
        let declared = declared(first, &slot).map(|mib| mib.saturating_mul(replicas));
        // Of one that runs, declares nothing and was never seen at work, what it has now is known
        // at least.
        let now = || held_by(&all, |pid| on_slot(pid, &slot, gpus)).filter(|mib| *mib > 0);
        let mib = need(peak, declared.or_else(now));
        Some(Request { module: label.to_owned(), slot, mib, pinned })
    }

    /// Brings the ledger up to what runs: who has ended holds nothing, and who runs is written
    /// down, by whomever it was started. Modules that no profile names are never unloaded.
    pub(super) async fn reconcile(&self, records: &[ModuleRecord], book: &Book) -> Vec<GpuReading> {
        let (gpus, _) = self.measure(records, false).await;
        let now = self.now();
        let managed = self.managed(book);
        let pinned = self.pinned();
        let mut labels: BTreeSet<String> = managed.clone();
        labels.extend(
            records
                .iter()
                .filter(|record| is_model(record))
                .map(|record| record.card.label.base().to_owned()),
        );
        for label in &labels {
            let all: Vec<&ModuleRecord> = instances(records, label).collect();
            let runs = all.iter().any(|record| record.pid != 0);
            let is_ready =
                !all.is_empty() && all.iter().all(|record| record.state == ModuleState::Ready);
            let held = lock(&self.gate).holding(label).map(|(slot, _)| slot.clone());
            if all.iter().all(|record| has_ended(record)) {
                lock(&self.gate).ended(label, None);
                continue;
            }
            let is_pinned = pinned.contains(label) || !managed.contains(label);
            let Some(request) = self.request(label, records, &gpus, is_pinned).filter(|_| runs)
            else {
                continue;
            };
            let mut gate = lock(&self.gate);
            // It is on another device than it was to be on.
            if is_ready && held.as_ref().is_some_and(|slot| *slot != request.slot) {
                gate.ended(label, None);
            }
            gate.adopt(&request, now);
            if is_ready {
                gate.loaded(label, now);
            }
        }
        self.pin(&managed);
        self.measure(records, false).await;
        gpus
    }

    /// Labels that are loaded and unloaded here.
    pub(super) fn managed(&self, book: &Book) -> BTreeSet<String> {
        let mut managed = book.managed();
        let word = self.word();
        managed.extend(word.record.resting.iter().cloned());
        managed.extend(word.profile.into_iter().flat_map(|profile| profile.modules));
        managed
    }

    fn pinned(&self) -> BTreeSet<String> {
        self.word().profile.map(|profile| profile.pinned).unwrap_or_default()
    }

    /// Pins what the active profile pins, and what no profile names.
    pub(super) fn pin(&self, managed: &BTreeSet<String>) {
        let mut pinned = self.pinned();
        let mut gate = lock(&self.gate);
        let held: Vec<String> =
            gate.slots().values().flat_map(|slot| slot.holdings().keys().cloned()).collect();
        pinned.extend(held.into_iter().filter(|module| !managed.contains(module)));
        gate.pin(&pinned);
    }

    /// Reserves memory for these and starts them. On failure nothing is reserved for those that do
    /// not serve, and they are stopped.
    pub(super) async fn load(&self, requests: &[Request]) -> Result<(), Fault> {
        if requests.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let labels: Vec<String> = requests.iter().map(|request| request.module.clone()).collect();
        let reserved = {
            let mut gate = lock(&self.gate);
            requests.iter().try_for_each(|request| gate.reserve(request, now))
        };
        if let Err(refusal) = reserved {
            labels.iter().for_each(|label| self.give_up(label));
            return Err(refusal_fault(&refusal));
        }
        let started = self.mesh.start(&labels).await;
        let now = self.now();
        match started {
            Ok(()) => {
                let mut gate = lock(&self.gate);
                labels.iter().for_each(|label| gate.loaded(label, now));
                drop(gate);
                let mut activity = lock(&self.activity);
                activity.retain(|label, _| !labels.contains(label));
                Ok(())
            }
            Err(error) => {
                tracing::warn!("loading {} failed: {}", labels.join(", "), chain(&error));
                let fault = mesh_fault(&error);
                // Those that came up are of no use to anybody, and what is on its way is not waited
                // for.
                if let Err(error) = self.unload(&labels).await {
                    tracing::warn!("what was started is not stopped: {error}");
                }
                labels.iter().for_each(|label| self.give_up(label));
                Err(fault)
            }
        }
    }

    /// Gives back what was reserved for a module that did not come up.
    fn give_up(&self, label: &str) {
        let mut gate = lock(&self.gate);
        if gate.holding(label).is_some_and(|(_, holding)| holding.stage == Stage::Loading) {
            gate.ended(label, None);
        }
    }

    /// Stops these and looks whether their memory came back; what did not, in words.
    pub(super) async fn unload(&self, labels: &[String]) -> Result<Vec<String>, Fault> {
        if labels.is_empty() {
            return Ok(Vec::new());
        }
        let before = self.mesh.list().await.map_err(|error| mesh_fault(&error))?;
        {
            let mut gate = lock(&self.gate);
            for label in labels {
                gate.unloading(label);
            }
        }
        if let Err(error) = self.mesh.stop(labels).await {
            let now = self.now();
            let after = self.mesh.list().await.unwrap_or_default();
            let mut gate = lock(&self.gate);
            for label in labels {
                // Whoever has ended all the same holds nothing; the others go on.
                if !after.is_empty() && instances(&after, label).all(has_ended) {
                    gate.ended(label, None);
                } else {
                    gate.stays(label, now);
                }
            }
            return Err(mesh_fault(&error));
        }
        let mut notes = Vec::new();
        for label in labels {
            let pids: Vec<u32> = instances(&before, label)
                .map(|record| record.pid)
                .filter(|pid| *pid != 0)
                .collect();
            let slot = lock(&self.gate).holding(label).map(|(slot, _)| slot.clone());
            let left = match slot {
                Some(slot) => self.left_of(&slot, &pids).await,
                None => None,
            };
            if let Some(left) = &left {
                tracing::error!(
                    module = label,
                    mib = left.mib,
                    "memory did not come back: {}",
                    left.reason
                );
                notes.push(format!(
                    "`{label}`: {} MiB did not come back: {}",
                    left.mib, left.reason
                ));
                lock(&self.lost).insert(label.clone(), pids);
            }
            lock(&self.gate).ended(label, left);
        }
        Ok(notes)
    }

    /// What processes that have ended still hold of a memory, once they have had a moment to give
    /// it back.
    async fn left_of(&self, slot: &SlotId, pids: &[u32]) -> Option<QuarantinedMemory> {
        let SlotId::Gpu(uuid) = slot else {
            // init has seen the ends: the kernel has taken the main memory back with them.
            return None;
        };
        let until = Instant::now() + FREED_WAIT;
        loop {
            // Not known is not held: a driver that cannot say keeps nobody's memory from others.
            let (gpus, reason) = self.look_at_gpus(true).await;
            let gpu = gpus.iter().find(|gpu| gpu.uuid == *uuid).filter(|_| reason.is_none())?;
            let held: Vec<(u32, u64)> = pids
                .iter()
                .filter_map(|pid| Some((*pid, gpu.processes.get(pid).copied().flatten()?)))
                .collect();
            let mib: u64 = held.iter().map(|(_, mib)| mib).sum();
            if mib <= LEFT_MIB_MAX {
                return None;
            }
            if Instant::now() >= until {
                let names: Vec<String> = held
                    .iter()
                    .map(|(pid, mib)| format!("process {pid} still has {mib} MiB"))
                    .collect();
                return Some(QuarantinedMemory { mib, reason: names.join(", ") });
            }
            tokio::time::sleep(FREED_EVERY).await;
        }
    }

    /// Watches what is loaded, for ever: who works, what each takes, who has died, and who has
    /// rested long enough.
    pub async fn keep_watch(self: Arc<Self>) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let holds = lock(&self.gate)
                .slots()
                .values()
                .any(|slot| !slot.holdings().is_empty() || !slot.quarantined().is_empty());
            if !holds {
                continue;
            }
            // Whoever loads or unloads looks himself.
            if let Ok(_turn) = self.turn.try_lock()
                && let Err(fault) = self.look().await
            {
                tracing::debug!("what is loaded was not looked at: {fault}");
            }
        }
    }

    async fn look(&self) -> Result<(), Fault> {
        let records = self.mesh.list().await.map_err(|error| mesh_fault(&error))?;
        let held: Vec<String> = lock(&self.gate)
            .slots()
            .values()
            .flat_map(|slot| slot.holdings().keys().cloned())
            .collect();
        for label in held.iter().filter(|label| instances(&records, label).all(has_ended)) {
            tracing::info!(module = label, "is not loaded any more");
            lock(&self.gate).ended(label, None);
        }
        self.note_work(&held, &records).await;
        self.measure(&records, false).await;
        self.note_peaks(&records);
        self.look_at_quarantine();
        let word = self.word();
        let Some(profile) = word.profile else { return Ok(()) };
        let limits: BTreeMap<String, Millis> = match profile.idle {
            Some(idle) => profile.modules.iter().map(|label| (label.clone(), idle)).collect(),
            None => return Ok(()),
        };
        let idle = lock(&self.gate).idle(&limits, self.now());
        if idle.is_empty() {
            return Ok(());
        }
        tracing::info!("unloaded until the next call: {}", idle.join(", "));
        // Written down first: whoever dies in between leaves a module that is started by its next
        // call.
        let mut record = word.record;
        record.resting.extend(idle.iter().cloned());
        self.publish(record, &records).await?;
        self.unload(&idle).await.map(drop)
    }

    /// Notes who has worked since the last look: who was called through the broker, or has used the
    /// processors.
    async fn note_work(&self, held: &[String], records: &[ModuleRecord]) {
        let options = CallOptions { deadline: Some(STATUS_WAIT), ..CallOptions::default() };
        let status = self.client.call_method::<broker::method::Status>(&Empty {}, &options).await;
        let told = status.map(|answer| answer.value.modules).unwrap_or_default();
        let now = self.now();
        for label in held {
            let time: u64 =
                instances(records, label).filter_map(|record| processor_ns(record.pid)).sum();
            let of_this = told.iter().filter(|module| {
                instances(records, label).any(|record| record.card.label.as_str() == module.label)
            });
            let (mut calls, mut queue) = (0, 0);
            for module in of_this {
                calls += module.calls;
                queue += module.queue;
            }
            let mut activity = lock(&self.activity);
            let last = activity.get(label).copied();
            // The first look at it says nothing of what it has done: loading is no work.
            let worked = last.is_some_and(|last| {
                calls > last.calls || time >= last.processor_ns.saturating_add(WORK_NS_MIN)
            });
            let busy = worked || queue > 0;
            let has_worked = busy || last.is_some_and(|last| last.has_worked);
            activity.insert(label.clone(), Activity { processor_ns: time, calls, has_worked });
            drop(activity);
            lock(&self.gate).seen(label, busy, now);
        }
    }

    /// Notes what modules take at most, of those that have worked.
    fn note_peaks(&self, records: &[ModuleRecord]) {
        let mut is_new = false;
        let mut peaks = lock(&self.peaks);
        let activity = lock(&self.activity).clone();
        let gate = lock(&self.gate);
        for (slot, held) in gate.slots() {
            for (label, holding) in held.holdings() {
                let has_worked = activity.get(label).is_some_and(|activity| activity.has_worked);
                let Some(mib) = holding.measured_mib.filter(|mib| has_worked && *mib > 0) else {
                    continue;
                };
                let model = instances(records, label).next().and_then(model_of);
                let peak = peaks.entry(peak_key(label, slot)).or_default();
                if peak.model != model || peak.mib < mib {
                    *peak = Peak {
                        mib: if peak.model == model { peak.mib.max(mib) } else { mib },
                        model,
                    };
                    is_new = true;
                }
            }
        }
        drop(gate);
        if is_new {
            self.store.set_peaks(&peaks);
        }
    }

    /// Lifts quarantines of memory that has come back: the processes that had it have none any
    /// more.
    fn look_at_quarantine(&self) {
        let view = lock(&self.gpu_view).clone();
        if view.reason.is_some() {
            return;
        }
        let held = |pid: &u32| {
            view.gpus.iter().any(|gpu| gpu.processes.get(pid).is_some_and(|mib| *mib != Some(0)))
        };
        let mut back = Vec::new();
        lock(&self.lost).retain(|module, pids| {
            let is_held = pids.iter().any(held);
            if !is_held {
                back.push(module.clone());
            }
            is_held
        });
        for module in back {
            tracing::info!(module, "its memory has come back");
            lock(&self.gate).returned(&module);
        }
    }
}

/// What a process has of a memory.
fn on_slot(pid: u32, slot: &SlotId, gpus: &[GpuReading]) -> Option<u64> {
    match slot {
        SlotId::Cpu => resident_mib(pid),
        SlotId::Gpu(uuid) => {
            gpus.iter().find(|gpu| gpu.uuid == *uuid)?.processes.get(&pid).copied().flatten()
        }
    }
}

/// What the processes of a module's instances have, where that can be told of all of them.
fn held_by(instances: &[&ModuleRecord], of: impl Fn(u32) -> Option<u64>) -> Option<u64> {
    let mut pids = instances.iter().map(|record| record.pid).filter(|pid| *pid != 0).peekable();
    pids.peek()?;
    pids.map(of).sum()
}

/// What each holder of a memory has of it, where that can be told of all its processes.
fn measured(
    gate: &Gate,
    slot: &SlotId,
    records: &[ModuleRecord],
    of: impl Fn(u32) -> Option<u64>,
) -> BTreeMap<String, u64> {
    let Some(held) = gate.slots().get(slot) else { return BTreeMap::new() };
    let one = |label: &String| {
        let all: Vec<&ModuleRecord> = instances(records, label).collect();
        Some((label.clone(), held_by(&all, &of)?))
    };
    held.holdings().keys().filter_map(one).collect()
}

#[cfg(test)]
mod tests;
