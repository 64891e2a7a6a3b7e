//! Who requires whom: what is met, and what must outlive what.

use std::collections::BTreeSet;

use brahman_card::card::satisfies;
use brahman_card::{Card, ModuleState};

use super::Id;

/// Labels and interfaces that are ready now.
pub(super) struct MetRequirements(BTreeSet<String>);

impl MetRequirements {
    pub(super) fn of<'a>(modules: impl Iterator<Item = (&'a Card, ModuleState)>) -> Self {
        let mut met = BTreeSet::new();
        for (card, state) in modules {
            if state == ModuleState::Ready {
                met.insert(card.label.to_string());
                met.insert(card.label.base().to_owned());
                met.extend(card.offered_interfaces().map(str::to_owned));
            }
        }
        Self(met)
    }

    /// The first requirement of a Card that is not ready.
    pub(super) fn missing<'c>(&self, card: &'c Card) -> Option<&'c str> {
        card.requires.iter().map(String::as_str).find(|requirement| !self.0.contains(*requirement))
    }
}

/// Modules that something running still requires, and that therefore must not be stopped yet.
pub(super) fn needed_by_running<'a>(
    modules: impl Iterator<Item = (&'a Id, &'a Card, bool)>,
) -> Vec<Id> {
    let modules: Vec<_> = modules.collect();
    let running = modules.iter().filter(|(_, _, runs)| *runs);
    let wanted: BTreeSet<&str> =
        running.flat_map(|(_, card, _)| card.requires.iter().map(String::as_str)).collect();
    modules
        .iter()
        .filter(|(_, card, _)| wanted.iter().any(|r| satisfies(card, r)))
        .map(|(id, ..)| (*id).clone())
        .collect()
}
