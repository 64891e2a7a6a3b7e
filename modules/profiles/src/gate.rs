//! The memory gate: what is kept for whom in each memory, and who gives way where there is not
//! enough.
//!
//! A pure ledger: no clock, no process, no driver. Whoever starts a module reserves here first,
//! tells what was measured, and releases once the module has ended.
//!
//! Invariants: the reservations and what is in quarantine never exceed a memory's capacity; what
//! was reserved is released once; nobody who is pinned, at work or new gives way, but for the
//! profile that is being left; where nobody needs to give way nobody does, and where that would not
//! be enough nobody does either.
//!
//! [`slot`] is one memory.

mod slot;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use thiserror::Error;

pub use slot::Slot;
use slot::{MARGIN_SHARE, Way};

/// Milliseconds of whatever clock the caller has, which does not go back.
pub type Millis = u64;
/// And at least this much, which is what a small process's threads and buffers come to.
const MARGIN_MIB_MIN: u64 = 32;
/// What is reserved for a module of which nothing is known: more than most embedding models take,
/// and a reason to declare it.
pub const UNDECLARED_MIB: u64 = 1024;

/// What a module needs: the peak of its earlier runs, else what its Card declares, and a margin.
#[must_use]
pub fn need(peak: Option<u64>, declared: Option<u64>) -> u64 {
    let base = peak.or(declared).unwrap_or(UNDECLARED_MIB);
    base.saturating_add((base / MARGIN_SHARE).max(MARGIN_MIB_MIN))
}

/// A memory that is shared out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotId {
    /// The main memory.
    Cpu,
    /// A graphics processor's, by its UUID: CUDA's numbers are not NVML's.
    Gpu(String),
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Gpu(uuid) => uuid,
        })
    }
}

/// What was measured of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// All that may be shared out.
    pub capacity_mib: u64,
    /// What nobody uses; none where it cannot be told.
    pub free_mib: Option<u64>,
}

/// Where a module is in its stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its memory is kept, and it is on its way.
    Loading,
    /// It serves.
    Loaded,
    /// It was asked to end.
    Unloading,
}

impl Stage {
    /// The word in a reply.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Loaded => "loaded",
            Self::Unloading => "unloading",
        }
    }
}

/// What is kept for a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// How much of the memory is reserved.
    pub mib: u64,
    /// In use by its process when that was last looked at.
    pub measured_mib: Option<u64>,
    /// Never unloaded while it is so.
    pub pinned: bool,
    /// Where it is in its stay.
    pub stage: Stage,
    /// When it was reserved.
    pub since: Millis,
    /// When it was last seen at work.
    pub used: Millis,
    /// Whether it was at work when that was last looked at.
    pub busy: bool,
}

impl Holding {
    /// What it may still take.
    fn outstanding(&self) -> u64 {
        match (self.measured_mib, self.stage) {
            (Some(measured), _) => self.mib.saturating_sub(measured),
            // Nothing is known of it: it has taken all that it will.
            (None, Stage::Loaded | Stage::Unloading) => 0,
            (None, Stage::Loading) => self.mib,
        }
    }
}

/// Memory that did not come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedMemory {
    /// How much of it is still held.
    pub mib: u64,
    /// In words, for people.
    pub reason: String,
}

/// A module that is to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// By its label in the mesh.
    pub module: String,
    /// Where it will be.
    pub slot: SlotId,
    /// What it needs, margin included.
    pub mib: u64,
    /// Once loaded, it is never unloaded for another.
    pub pinned: bool,
}

/// A holder, as a refusal names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedHolder {
    /// By its label in the mesh.
    pub module: String,
    /// How much is reserved for it.
    pub mib: u64,
    /// Whether it is pinned, and so stays.
    pub pinned: bool,
    /// Why it does not give way.
    pub reason: Option<&'static str>,
}

/// There is not enough memory, and nobody may give way who would make it enough.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Refusal {
    /// In which memory there is not enough.
    pub slot: SlotId,
    /// Label of the module that was to be loaded.
    pub module: String,
    /// How much it needs, margin included.
    pub needed_mib: u64,
    /// What is to be had.
    pub free_mib: u64,
    /// Who holds how much of it, and why that stays.
    pub holders: Vec<RefusedHolder>,
    /// In use by nobody known here, where that can be told.
    pub unowned_mib: Option<u64>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` needs {} MiB of {}, and {} MiB are free",
            self.module, self.needed_mib, self.slot, self.free_mib
        )?;
        for holder in &self.holders {
            let reason = holder.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            write!(f, "; `{}` holds {} MiB{reason}", holder.module, holder.mib)?;
        }
        match self.unowned_mib {
            Some(mib) if mib > 0 => {
                write!(f, "; {mib} MiB are in use by processes that are not of this mesh")
            }
            _ => Ok(()),
        }
    }
}

/// What an activation does, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Modules that have to end before there is room.
    pub unload_first: Vec<String>,
    /// Modules that are started.
    pub load: Vec<Request>,
    /// Modules that end once all serve.
    pub unload_after: Vec<String>,
}

/// The ledger of all memories.
#[derive(Clone, Debug)]
pub struct Gate {
    slots: BTreeMap<SlotId, Slot>,
    residency: Millis,
}

impl Gate {
    /// One without memories. A module that was loaded less than `residency` ago is not unloaded for
    /// another.
    #[must_use]
    pub fn new(residency: Millis) -> Self {
        Self { slots: BTreeMap::new(), residency }
    }

    /// The memories, and what is kept in them.
    #[must_use]
    pub fn slots(&self) -> &BTreeMap<SlotId, Slot> {
        &self.slots
    }

    /// Where a module is held, and what for.
    #[must_use]
    pub fn holding(&self, module: &str) -> Option<(&SlotId, &Holding)> {
        self.slots.iter().find_map(|(id, slot)| Some((id, slot.holdings.get(module)?)))
    }

    fn holding_mut(&mut self, module: &str) -> Option<&mut Holding> {
        self.slots.values_mut().find_map(|slot| slot.holdings.get_mut(module))
    }

    /// Takes what was measured of a memory, and of each holder in it by its label. A measurement
    /// that makes no sense is not believed, and noted. Whoever takes more than was reserved has it
    /// reserved, as far as there is anything left.
    pub fn observe(&mut self, id: &SlotId, seen: Measurement, holders: &BTreeMap<String, u64>) {
        let slot = self.slots.entry(id.clone()).or_default();
        slot.notes.clear();
        let reserved = slot.reserved_mib();
        if seen.capacity_mib >= reserved && seen.capacity_mib > 0 {
            slot.capacity_mib = seen.capacity_mib;
        } else {
            let (told, kept) = (seen.capacity_mib, slot.capacity_mib);
            slot.notes.push(format!("{told} MiB in all were measured while {reserved} MiB are reserved: {kept} MiB are gone by"));
        }
        slot.free_mib = seen.free_mib;
        if let Some(free) =
            seen.free_mib.filter(|free| *id != SlotId::Cpu && *free > slot.capacity_mib)
        {
            slot.notes.push(format!(
                "{free} MiB of {} MiB were measured as free: that is not believed",
                slot.capacity_mib
            ));
            slot.free_mib = Some(slot.capacity_mib);
        }
        for (module, holding) in &mut slot.holdings {
            holding.measured_mib = holders.get(module).copied();
        }
        let over: Vec<(String, u64)> = slot
            .holdings
            .iter()
            .filter_map(|(module, holding)| {
                Some((
                    module.clone(),
                    holding.measured_mib.filter(|measured| *measured > holding.mib)?,
                ))
            })
            .collect();
        for (module, measured) in over {
            let left = slot.capacity_mib.saturating_sub(slot.reserved_mib());
            let Some(holding) = slot.holdings.get_mut(&module) else { continue };
            slot.notes.push(format!(
                "`{module}` takes {measured} MiB, and {} MiB were reserved for it",
                holding.mib
            ));
            holding.mib = holding.mib.saturating_add(left).min(measured);
        }
    }

    /// Keeps memory for a module. Nothing changes for one that has some.
    ///
    /// # Errors
    /// [`Refusal`] if there is not enough just now, whoever might give way.
    pub fn reserve(&mut self, request: &Request, now: Millis) -> Result<(), Refusal> {
        if self.holding(&request.module).is_some() {
            return Ok(());
        }
        let none = BTreeSet::new();
        let way = Way { keep: &none, outgoing: &none, now, residency: self.residency };
        let slot = self.slots.entry(request.slot.clone()).or_default();
        if slot.available_mib() < request.mib {
            return Err(slot.refusal(&request.module, &request.slot, request.mib, &way));
        }
        let holding = Holding {
            mib: request.mib,
            measured_mib: None,
            pinned: request.pinned,
            stage: Stage::Loading,
            since: now,
            used: now,
            busy: false,
        };
        slot.holdings.insert(request.module.clone(), holding);
        Ok(())
    }

    /// Writes down a module that runs already, started by somebody else: for it what is left is
    /// kept, be it less than it needs, and more once there is more.
    pub fn adopt(&mut self, request: &Request, now: Millis) {
        let held = self.holding(&request.module).map(|(slot, _)| slot.clone());
        let slot = self.slots.entry(held.unwrap_or_else(|| request.slot.clone())).or_default();
        let left = slot.capacity_mib.saturating_sub(slot.reserved_mib());
        if let Some(holding) = slot.holdings.get_mut(&request.module) {
            holding.mib = holding.mib.max(request.mib.min(holding.mib.saturating_add(left)));
            return;
        }
        let mib = request.mib.min(left);
        let holding = Holding {
            mib,
            measured_mib: None,
            pinned: request.pinned,
            stage: Stage::Loading,
            since: now,
            used: now,
            busy: false,
        };
        slot.holdings.insert(request.module.clone(), holding);
    }

    /// What has to be done so that all of these are loaded. `outgoing` are modules of the profile
    /// that is being left: they end in any case, before the others are loaded only where there is
    /// no room otherwise.
    ///
    /// # Errors
    /// [`Refusal`] of the first for which there would be no room. Nothing was changed.
    pub fn plan(
        &self,
        requests: &[Request],
        outgoing: &BTreeSet<String>,
        now: Millis,
    ) -> Result<Plan, Refusal> {
        let keep: BTreeSet<String> =
            requests.iter().map(|request| request.module.clone()).collect();
        let outgoing: BTreeSet<String> = outgoing.difference(&keep).cloned().collect();
        let mut after = self.clone();
        let mut plan = Plan::default();
        for request in requests {
            let held = after.holding(&request.module).map(|(_, holding)| holding.stage);
            if matches!(held, Some(Stage::Loading | Stage::Loaded)) {
                continue;
            }
            // It is on its way out: what it holds is given back before it is started anew.
            if held.is_some() {
                after.slots.values_mut().for_each(|slot| slot.without(&request.module));
            }
            let slot = after.slots.entry(request.slot.clone()).or_default();
            let way = Way { keep: &keep, outgoing: &outgoing, now, residency: after.residency };
            for victim in slot.victims(&request.module, &request.slot, request.mib, &way)? {
                slot.without(&victim);
                plan.unload_first.push(victim);
            }
            after.reserve(request, now)?;
            plan.load.push(request.clone());
        }
        let ends_later = |module: &&String| {
            after.holding(module).is_some_and(|(_, holding)| holding.stage != Stage::Unloading)
        };
        plan.unload_after = outgoing.iter().filter(ends_later).cloned().collect();
        Ok(plan)
    }

    /// A module that was loading serves now.
    pub fn loaded(&mut self, module: &str, now: Millis) {
        if let Some(holding) =
            self.holding_mut(module).filter(|holding| holding.stage == Stage::Loading)
        {
            holding.stage = Stage::Loaded;
            holding.used = now;
        }
    }

    /// A module was asked to end. False if it holds nothing.
    pub fn unloading(&mut self, module: &str) -> bool {
        let Some(holding) = self.holding_mut(module) else { return false };
        holding.stage = Stage::Unloading;
        true
    }

    /// A module that was asked to end goes on.
    pub fn stays(&mut self, module: &str, now: Millis) {
        if let Some(holding) = self.holding_mut(module) {
            holding.stage = Stage::Loaded;
            holding.used = now;
        }
    }

    /// A module has ended, by itself or as asked: what was kept for it is free, but for what its
    /// process still holds there. Until the next measurement its memory counts as given back.
    pub fn ended(&mut self, module: &str, left: Option<QuarantinedMemory>) {
        let Some(slot) = self.slots.values_mut().find(|slot| slot.holdings.contains_key(module))
        else {
            return;
        };
        slot.without(module);
        let Some(left) = left else { return };
        slot.free_mib = slot.free_mib.map(|free| free.saturating_sub(left.mib));
        // Never more than there is: that is all that can be kept from others.
        let before = slot.quarantined.remove(module).map_or(0, |lost| lost.mib);
        let mib = left
            .mib
            .saturating_add(before)
            .min(slot.capacity_mib.saturating_sub(slot.reserved_mib()));
        slot.quarantined.insert(module.to_owned(), QuarantinedMemory { mib, ..left });
    }

    /// Memory that was in quarantine has come back. False if there was none of this module.
    pub fn returned(&mut self, module: &str) -> bool {
        self.slots.values_mut().any(|slot| slot.quarantined.remove(module).is_some())
    }

    /// Which modules are pinned from now on: these, and no others.
    pub fn pin(&mut self, pinned: &BTreeSet<String>) {
        for (module, holding) in self.slots.values_mut().flat_map(|slot| &mut slot.holdings) {
            holding.pinned = pinned.contains(module);
        }
    }

    /// Whether a module was at work since it was last looked at.
    pub fn seen(&mut self, module: &str, busy: bool, now: Millis) {
        if let Some(holding) = self.holding_mut(module) {
            holding.busy = busy;
            if busy {
                holding.used = now;
            }
        }
    }

    /// Modules that were not at work for as long as their profile lets them stay, the longest idle
    /// first.
    #[must_use]
    pub fn idle(&self, limits: &BTreeMap<String, Millis>, now: Millis) -> Vec<String> {
        let mut idle: Vec<(Millis, &String)> = Vec::new();
        for (module, holding) in self.slots.values().flat_map(|slot| &slot.holdings) {
            let Some(limit) = limits.get(module) else { continue };
            let rests = holding.stage == Stage::Loaded && !holding.pinned && !holding.busy;
            let is_new = now.saturating_sub(holding.since) < self.residency.min(*limit);
            if rests && !is_new && now.saturating_sub(holding.used) >= *limit {
                idle.push((holding.used, module));
            }
        }
        idle.sort();
        idle.into_iter().map(|(_, module)| module.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
