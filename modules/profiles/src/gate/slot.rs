//! One memory: what is in it, what is left, and who would have to go for something else.

use std::collections::{BTreeMap, BTreeSet};

use super::{Holding, Millis, QuarantinedMemory, Refusal, RefusedHolder, SlotId, Stage};

/// Kept beside what a module is known to take: allocators round up, and a batch may be longer than
/// those before it.
pub(super) const MARGIN_SHARE: u64 = 10;

/// One memory, and who has how much of it.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    pub(super) capacity_mib: u64,
    pub(super) free_mib: Option<u64>,
    pub(super) holdings: BTreeMap<String, Holding>,
    pub(super) quarantined: BTreeMap<String, QuarantinedMemory>,
    pub(super) notes: Vec<String>,
}

impl Slot {
    /// All that may be shared out.
    #[must_use]
    pub fn capacity_mib(&self) -> u64 {
        self.capacity_mib
    }

    /// Who holds what, by label.
    #[must_use]
    pub fn holdings(&self) -> &BTreeMap<String, Holding> {
        &self.holdings
    }

    /// What did not come back, by the label of whoever had it.
    #[must_use]
    pub fn quarantined(&self) -> &BTreeMap<String, QuarantinedMemory> {
        &self.quarantined
    }

    /// What of the last measurement makes no sense, in words.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All that is kept for somebody, or for nobody any more.
    #[must_use]
    pub fn reserved_mib(&self) -> u64 {
        let held: u64 = self.holdings.values().map(|holding| holding.mib).sum();
        held + self.quarantined.values().map(|lost| lost.mib).sum::<u64>()
    }

    /// What can be reserved now: no more than the ledger has left, and no more than is free once
    /// every holder has taken what was promised.
    #[must_use]
    pub fn available_mib(&self) -> u64 {
        let by_ledger = self.capacity_mib.saturating_sub(self.reserved_mib());
        let outstanding: u64 = self.holdings.values().map(Holding::outstanding).sum();
        self.free_mib.map_or(by_ledger, |free| free.saturating_sub(outstanding).min(by_ledger))
    }

    /// In use by nobody that is known here; none where that cannot be told.
    #[must_use]
    pub fn unowned_mib(&self) -> Option<u64> {
        let used = self.capacity_mib.saturating_sub(self.free_mib?);
        let measured: Option<u64> =
            self.holdings.values().map(|holding| holding.measured_mib).sum();
        Some(used.saturating_sub(measured?))
    }

    /// As if this holder had ended and given everything back.
    pub(super) fn without(&mut self, module: &str) {
        let Some(holding) = self.holdings.remove(module) else { return };
        let measured = holding.measured_mib.unwrap_or(if holding.stage == Stage::Loading {
            0
        } else {
            holding.mib
        });
        self.free_mib = self
            .free_mib
            .map(|free| free.saturating_add(measured).min(self.capacity_mib.max(free)));
    }

    /// Why a holder does not give way, if it does not.
    fn objection(&self, module: &str, way: &Way<'_>) -> Option<&'static str> {
        let holding = self.holdings.get(module)?;
        if way.keep.contains(module) {
            return Some("needed as well");
        }
        // A profile that is being left gives up its pins, too.
        if way.outgoing.contains(module) {
            return None;
        }
        match holding.stage {
            _ if holding.pinned => Some("pinned"),
            Stage::Loading => Some("loading"),
            Stage::Unloading => Some("ending"),
            Stage::Loaded if holding.busy => Some("at work"),
            Stage::Loaded if way.now.saturating_sub(holding.since) < way.residency => {
                Some("loaded a moment ago")
            }
            Stage::Loaded => None,
        }
    }

    /// Who has to end so that so much can be reserved: as few as will do, the one that was not used
    /// for the longest time first.
    pub(super) fn victims(
        &self,
        module: &str,
        slot: &SlotId,
        mib: u64,
        way: &Way<'_>,
    ) -> Result<Vec<String>, Refusal> {
        let mut left = self.clone();
        let mut order: Vec<(&String, &Holding)> =
            self.holdings.iter().filter(|(name, _)| self.objection(name, way).is_none()).collect();
        order.sort_by_key(|(name, holding)| (!way.outgoing.contains(*name), holding.used, *name));
        let mut victims = Vec::new();
        for (name, _) in order {
            if left.available_mib() >= mib {
                break;
            }
            left.without(name);
            victims.push(name.clone());
        }
        if left.available_mib() < mib {
            return Err(self.refusal(module, slot, mib, way));
        }
        // One that was taken early may not have been needed beside a larger one that was taken
        // late.
        for at in (0..victims.len()).rev() {
            let mut fewer = self.clone();
            victims
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != at)
                .for_each(|(_, name)| fewer.without(name));
            if fewer.available_mib() >= mib {
                victims.remove(at);
            }
        }
        Ok(victims)
    }

    pub(super) fn refusal(&self, module: &str, slot: &SlotId, mib: u64, way: &Way<'_>) -> Refusal {
        let holder = |(name, holding): (&String, &Holding)| RefusedHolder {
            module: name.clone(),
            mib: holding.mib,
            pinned: holding.pinned,
            reason: self.objection(name, way),
        };
        Refusal {
            slot: slot.clone(),
            module: module.to_owned(),
            needed_mib: mib,
            free_mib: self.available_mib(),
            holders: self.holdings.iter().map(holder).collect(),
            unowned_mib: self.unowned_mib(),
        }
    }
}

/// Who may be asked to give way.
pub(super) struct Way<'a> {
    /// Nobody of these.
    pub(super) keep: &'a BTreeSet<String>,
    /// These first, and whatever they do.
    pub(super) outgoing: &'a BTreeSet<String>,
    pub(super) now: Millis,
    pub(super) residency: Millis,
}
