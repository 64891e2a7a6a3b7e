//! The keys of objects, in the order in which they are met, and what was seen under each.
//!
//! Invariants: keys are bounded; once there are too many none is kept, whichever came first.

use std::collections::HashMap;

use arrow_schema::Fields;

use super::{Facts, Kind};

/// What was seen of objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    /// One at least was seen; else the keys are those that are expected.
    seen: bool,
    /// There are too many keys, and none is kept.
    crowded: bool,
    most: usize,
    names: Vec<String>,
    places: HashMap<String, usize>,
    facts: Vec<Facts>,
    /// Of the object that is looked at, by key: its turn, and where its value stands.
    slots: Vec<(u64, u32)>,
    turn: u64,
}

impl Keys {
    /// None so far, and at most so many.
    pub(crate) fn at_most(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// The place of a key, which is likely the one that was expected.
    pub(crate) fn find(&self, name: &str, expected: usize) -> Option<usize> {
        match self.names.get(expected) {
            Some(likely) if likely == name => Some(expected),
            _ => self.places.get(name).copied(),
        }
    }

    /// The place of a key, which is new perhaps; none if there are too many.
    pub(crate) fn place(&mut self, name: &str, expected: usize) -> Option<usize> {
        if let Some(place) = self.find(name, expected) {
            return Some(place);
        }
        if self.crowded || self.names.len() == self.most {
            *self = Self { seen: self.seen, crowded: true, most: self.most, ..Self::default() };
            return None;
        }
        let place = self.names.len();
        self.names.push(name.to_owned());
        self.places.insert(name.to_owned(), place);
        self.facts.push(Facts::default());
        self.slots.push((0, 0));
        Some(place)
    }

    /// Whether there were too many keys.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// Notes that an object was there.
    pub(crate) fn see(&mut self) {
        self.seen = true;
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether an object was there at all.
    pub(crate) fn is_seen(&self) -> bool {
        self.seen
    }

    /// Begins with another object.
    pub(crate) fn turn(&mut self) {
        self.turn += 1;
    }

    /// Notes where a key's value stands in this object; false if it has the key already.
    pub(crate) fn set(&mut self, place: usize, at: u32) -> bool {
        let before = std::mem::replace(&mut self.slots[place], (self.turn, at));
        before.0 != self.turn
    }

    /// Where a key's value stands in this object, if it has the key.
    pub(crate) fn at(&self, place: usize) -> Option<u32> {
        self.slots.get(place).filter(|slot| slot.0 == self.turn).map(|slot| slot.1)
    }

    /// What was seen under a key.
    pub(crate) fn facts(&mut self, place: usize) -> &mut Facts {
        &mut self.facts[place]
    }

    /// Every key with what was seen under it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Facts)> {
        self.names.iter().map(String::as_str).zip(&self.facts)
    }

    /// With what was seen of others: the order is that of the first.
    pub(crate) fn join(&mut self, other: Self) {
        self.seen |= other.seen;
        if other.crowded {
            *self = Self { seen: self.seen, crowded: true, most: self.most, ..Self::default() };
        }
        for (i, (name, facts)) in other.names.into_iter().zip(other.facts).enumerate() {
            match self.place(&name, i) {
                Some(place) => self.facts[place].join(facts),
                None => return,
            }
        }
    }

    /// The types of all keys.
    pub(crate) fn kinds(&self, depth: usize) -> Vec<(String, Kind)> {
        self.iter().map(|(name, facts)| (name.to_owned(), facts.kind_at(depth))).collect()
    }

    /// The same, those that are kept first: each stays as it was if that holds what was seen, and
    /// if no object has it any more. So it does not matter where they were looked for first.
    pub(crate) fn kinds_or(&self, kept: &Fields, depth: usize) -> Vec<(String, Kind)> {
        let before = kept.iter().filter_map(|field| {
            let kind = match self.places.get(field.name()) {
                Some(place) => self.facts[*place].kind_or_at(Some(field.data_type()), depth),
                None => Kind::within(field.data_type())?,
            };
            Some((field.name().clone(), kind))
        });
        let new = self.iter().filter(|(name, _)| kept.find(name).is_none());
        before.chain(new.map(|(name, facts)| (name.to_owned(), facts.kind_at(depth)))).collect()
    }

    /// Keys of a type, of which nothing was seen yet, in its order.
    pub(crate) fn expected(fields: &[(String, Kind)], most: usize) -> Self {
        let mut keys = Self::at_most(most);
        for (i, (name, kind)) in fields.iter().enumerate() {
            if let Some(place) = keys.place(name, i) {
                keys.facts[place] = Facts::expected(kind);
            }
        }
        keys
    }

    /// Adds to where its rows are counted.
    pub(crate) fn shift(&mut self, file: usize, before: u64) {
        self.facts.iter_mut().for_each(|facts| facts.shift(file, before));
    }
}
