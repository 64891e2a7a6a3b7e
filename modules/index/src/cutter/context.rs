//! What stands before a chunk where it is embedded: the document's name, and the headings or items
//! that it is in.

use std::collections::HashMap;

use super::units::{Unit, estimate};
use crate::outline::Outline;

/// Of a chunk, what its context may be at most: 1 in this many.
const CONTEXT_SHARE: usize = 3;
/// Characters of a context, and labels in it.
const CONTEXT_CHARS: usize = 300;
const CONTEXT_LABELS: usize = 6;
/// Parts of a path that say something.
const PATH_PARTS: usize = 3;
/// Longest id that is taken for a name or a path.
const PATH_CHARS: usize = 200;

/// The headings or items of a context, without the document's name.
#[must_use]
pub fn heading<'a>(id: &str, context: &'a str) -> &'a str {
    let name = name_of(id);
    match context.strip_prefix(name) {
        Some(rest) if !name.is_empty() => rest.strip_prefix(": ").unwrap_or(rest),
        _ => context,
    }
}

/// What of an id says something to a reader: the last parts of a path, or a name; nothing of a
/// number, or of a key.
pub(super) fn name_of(id: &str) -> &str {
    let letters = id.chars().filter(|c| c.is_alphabetic()).count();
    let digits = id.chars().filter(char::is_ascii_digit).count();
    let is_name = id.contains(['/', '.']) || letters >= 2 * digits + 3;
    if letters < 3 || !is_name || id.len() > PATH_CHARS {
        return "";
    }
    match id.match_indices('/').rev().nth(PATH_PARTS - 1) {
        Some((at, _)) => &id[at + 1..],
        None => id,
    }
}

/// What stands before the chunks that begin in some items.
pub(super) struct Contexts {
    /// The words, and their guessed tokens, by the item's number.
    labels: HashMap<usize, (String, usize)>,
}

impl Contexts {
    /// Of these items of an outline; a number that none has is of what is in none.
    pub(super) fn of(outline: &Outline, id: &str, tokens: usize, owners: &[usize]) -> Self {
        let name = Some(name_of(id)).filter(|name| !too_much(name, tokens)).unwrap_or_default();
        let mut labels: HashMap<usize, (String, usize)> = HashMap::new();
        for owner in owners {
            labels.entry(*owner).or_insert_with(|| {
                let label = context_of(outline, *owner, name, tokens);
                let cost = estimate(&label);
                (label, cost)
            });
        }
        Self { labels }
    }

    pub(super) fn label(&self, item: usize) -> &str {
        self.labels.get(&item).map_or("", |(label, _)| label)
    }

    pub(super) fn cost(&self, item: usize) -> usize {
        self.labels.get(&item).map_or(0, |(_, cost)| *cost)
    }
}

/// A document's name, and the headings or items that lead to one of them, as far as they fit.
fn context_of(outline: &Outline, number: usize, name: &str, tokens: usize) -> String {
    let Some(item) = outline.items.get(number) else { return name.to_owned() };
    let mut path = vec![item.label.as_str()];
    let mut above = item.parent;
    while let Some(parent) = above.filter(|parent| *parent < number && path.len() < CONTEXT_LABELS)
    {
        path.push(outline.items[parent].label.as_str());
        above = outline.items[parent].parent;
    }
    path.reverse();
    let full = |path: &[&str]| match (name, path.join(" > ")) {
        ("", path) => path,
        (name, path) => format!("{name}: {path}"),
    };
    // The innermost say most.
    while path.len() > 1 && too_much(&full(&path), tokens) {
        path.remove(0);
    }
    let label = full(&path);
    if too_much(&label, tokens) { name.to_owned() } else { label }
}

/// The number of the innermost item that each unit begins in; how many there are, of what is in
/// none.
pub(super) fn owners(outline: &Outline, units: &[Unit], offset: usize) -> Vec<usize> {
    let items = &outline.items;
    let of = |unit: &Unit| {
        let start = offset + unit.start;
        let mut innermost = items.partition_point(|item| item.start <= start).checked_sub(1);
        while let Some(item) =
            innermost.map(|number| &items[number]).filter(|item| item.end <= start)
        {
            innermost = item.parent;
        }
        innermost.unwrap_or(items.len())
    };
    units.iter().map(of).collect()
}

fn too_much(context: &str, tokens: usize) -> bool {
    context.chars().count() > CONTEXT_CHARS || estimate(context) * CONTEXT_SHARE > tokens
}
