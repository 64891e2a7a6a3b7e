//! Who requires whom, as far as the Cards alone can tell.

use std::collections::{BTreeMap, BTreeSet};

use super::Card;

/// Whether `card` is what `requirement` names: a label, be it that of the Card whose replica it is,
/// or an interface it offers.
#[must_use]
pub fn satisfies(card: &Card, requirement: &str) -> bool {
    card.label.answers_to(requirement)
        || card.offered_interfaces().any(|interface| interface == requirement)
}

/// Every Card on a cycle of requirements, by id, with the path in labels.
pub fn cycles<'a>(cards: impl IntoIterator<Item = &'a Card>) -> Vec<(String, String)> {
    let cards: Vec<&Card> = cards.into_iter().collect();
    let needs: BTreeMap<&str, Vec<&Card>> = cards
        .iter()
        .map(|card| {
            (
                card.id.as_str(),
                cards
                    .iter()
                    .copied()
                    .filter(|other| card.requires.iter().any(|r| satisfies(other, r)))
                    .collect(),
            )
        })
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
                    let labels: Vec<&str> =
                        path.iter().chain([card]).map(|c| c.label.as_str()).collect();
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
