//! Who requires whom: cycles, what is met, and what must outlive what.

use std::collections::{BTreeMap, BTreeSet};

use brahman_card::{Card, ModuleState};

use super::Id;

/// Whether `card` is what `requirement` names: a label, or an interface it offers.
fn satisfies(card: &Card, requirement: &str) -> bool {
    card.label.as_str() == requirement || card.offered_interfaces().any(|interface| interface == requirement)
}

/// Every module on a cycle of requirements, with the path in labels.
pub(super) fn cycles<'a>(cards: impl Iterator<Item = &'a Card>) -> Vec<(Id, String)> {
    let cards: Vec<&Card> = cards.collect();
    let needs: BTreeMap<&str, Vec<&Card>> = cards
        .iter()
        .map(|card| (card.id.as_str(), cards.iter().copied().filter(|other| card.requires.iter().any(|r| satisfies(other, r))).collect()))
        .collect();
    let mut found = Vec::new();
    for card in &cards {
        // A walk that comes back to where it began; the Cards are few, so each is tried in turn.
        let mut paths = vec![vec![*card]];
        let mut seen = BTreeSet::new();
        while let Some(path) = paths.pop() {
            let Some(last) = path.last() else { continue };
            for next in &needs[last.id.as_str()] {
                if next.id == card.id {
                    let labels: Vec<&str> = path.iter().chain([card]).map(|c| c.label.as_str()).collect();
                    found.push((card.id.clone(), labels.join(" → ")));
                    paths.clear();
                    break;
                }
                if seen.insert(&next.id) {
                    paths.push(path.iter().copied().chain([*next]).collect());
                }
            }
        }
    }
    found
}

/// Labels and interfaces that are ready now.
pub(super) struct Met(BTreeSet<String>);

impl Met {
    pub(super) fn of<'a>(modules: impl Iterator<Item = (&'a Card, ModuleState)>) -> Self {
        let mut met = BTreeSet::new();
        for (card, state) in modules {
            if state == ModuleState::Ready {
                met.insert(card.label.to_string());
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
pub(super) fn needed_by_running<'a>(modules: impl Iterator<Item = (&'a Id, &'a Card, bool)>) -> Vec<Id> {
    let modules: Vec<_> = modules.collect();
    let running = modules.iter().filter(|(_, _, runs)| *runs);
    let wanted: BTreeSet<&str> = running.flat_map(|(_, card, _)| card.requires.iter().map(String::as_str)).collect();
    modules.iter().filter(|(_, card, _)| wanted.iter().any(|r| satisfies(card, r))).map(|(id, ..)| (*id).clone()).collect()
}
