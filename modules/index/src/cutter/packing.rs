//! Units put together: as many as fit, cut where most ends, with crumbs joined to their neighbours.

use super::units::Unit;
use crate::outline::SECTION;

/// A section that is smaller, as a share of a chunk, goes on into the next: 1 in this many.
const SECTION_SHARE: usize = 4;
/// A chunk that is smaller is a crumb, as a share of the largest: 1 in this many. A tenth is
/// promised, by measured tokens.
const CRUMB_SHARE: usize = 8;

/// A run of units that becomes a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) cost: usize,
    pub(super) chars: usize,
}

/// What a chunk may hold, in estimated tokens and characters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) cost: usize,
    pub(super) chars: usize,
}

impl Room {
    pub(super) fn holds(self, cost: usize, chars: usize) -> bool {
        cost <= self.cost && chars <= self.chars
    }
}

/// Puts units together. `room` is that of a chunk which begins with the unit of a number.
pub(super) fn pack(units: &[Unit], room: &dyn Fn(usize) -> Room) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut from = 0;
    while from < units.len() {
        let room = room(from);
        let (mut to, mut cost, mut chars) = (from, 0, 0);
        while let Some(unit) = units.get(to) {
            let is_first = to == from;
            let is_section = unit.level >= SECTION && cost * SECTION_SHARE >= room.cost;
            if !is_first && (is_section || !room.holds(cost + unit.cost, chars + unit.chars)) {
                if !is_section {
                    to = best_cut(units, from, to, cost);
                }
                break;
            }
            (cost, chars, to) = (cost + unit.cost, chars + unit.chars, to + 1);
        }
        spans.push(span(units, from, to));
        from = to;
    }
    spans
}

fn span(units: &[Unit], from: usize, to: usize) -> Span {
    let all = &units[from..to];
    Span {
        from,
        to,
        cost: all.iter().map(|unit| unit.cost).sum(),
        chars: all.iter().map(|unit| unit.chars).sum(),
    }
}

/// The best place to cut in the second half of what fits: where most ends, and the last of those.
fn best_cut(units: &[Unit], from: usize, to: usize, cost: usize) -> usize {
    let (mut best, mut left) = ((units[to].level, to), cost);
    for at in (from + 1..to).rev() {
        left -= units[at].cost;
        if left * 2 < cost {
            break;
        }
        if units[at].level > best.0 {
            best = (units[at].level, at);
        }
    }
    best.1
}

/// Joins crumbs with their neighbours.
pub(super) fn joined(units: &[Unit], spans: Vec<Span>, room: &dyn Fn(usize) -> Room) -> Vec<Span> {
    let is_crumb = |span: &Span| {
        span.cost * CRUMB_SHARE < room(span.from).cost
            && span.chars * CRUMB_SHARE < room(span.from).chars
    };
    let mut out: Vec<Span> = Vec::with_capacity(spans.len());
    for next in spans {
        let Some(last) = out.last().copied() else {
            out.push(next);
            continue;
        };
        if !is_crumb(&last) && !is_crumb(&next) {
            out.push(next);
            continue;
        }
        let together = span(units, last.from, next.to);
        out.pop();
        if room(last.from).holds(together.cost, together.chars) {
            out.push(together);
            continue;
        }
        // Both together are too much for one: two of like size.
        let (mut left, mut best) =
            (Span { from: last.from, to: last.from, cost: 0, chars: 0 }, None);
        for at in last.from + 1..next.to {
            let unit = units[at - 1];
            left = Span {
                to: at,
                cost: left.cost + unit.cost,
                chars: left.chars + unit.chars,
                ..left
            };
            let right = Span {
                from: at,
                to: next.to,
                cost: together.cost - left.cost,
                chars: together.chars - left.chars,
            };
            let off = (left.cost.abs_diff(right.cost), u8::MAX - units[at].level);
            let fits = [left, right]
                .iter()
                .all(|half| room(half.from).holds(half.cost, half.chars) && !is_crumb(half));
            if fits && best.as_ref().is_none_or(|(least, _)| off < *least) {
                best = Some((off, [left, right]));
            }
        }
        out.extend(best.map_or([last, next], |(_, halves)| halves));
    }
    out
}
