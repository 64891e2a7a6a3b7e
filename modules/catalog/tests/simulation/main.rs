//! Two catalogs, three buckets, and whatever may happen: random commits, deletions, sweeps, copies,
//! repairs and adoptions, one step at a time in any order, with crashes between any two steps, lost
//! and late answers, buckets that are away, flipped bytes and clocks that jump.
//!
//! What is deleted, withdrawn and kept is decided by the catalog's own planners; the store, the
//! journals and the datasets' files are modelled. After every step: no object that a dataset of
//! either catalog needs has gone, or has other bytes, by anybody's hand but the disk's. At the end,
//! once everything has recovered: nothing is left that a run of ours wrote, that has ended, and
//! that nobody needs.
//!
//! `BRAHMAN_HISTORIES` says how many histories are tried, `BRAHMAN_SEED` which is tried alone.

mod catalog;
mod happening;
mod step;
mod world;

use catalog::{Event, run_of};
use world::World;

const HISTORIES: u64 = 10_000;
const STEPS: usize = 400;

/// Figures of what was tried, so that a simulation in which nothing happens is no proof.
#[derive(Debug, Default)]
struct Figures {
    published: usize,
    adopted: usize,
    removed: usize,
}

fn history(seed: u64, figures: &mut Figures) {
    let mut world = World::new(seed);
    for step in 0..STEPS {
        let before = world.objects.len();
        match world.random.one_in(6) {
            true => world.happen(),
            false => world.go_on(),
        }
        figures.removed += before.saturating_sub(world.objects.len());
        if let Some(lost) = world.lost() {
            panic!("BRAHMAN_SEED={seed}: after step {step} {lost}\n{world:#?}");
        }
    }
    world.recover();
    if let Some(wrong) = world.lost().or_else(|| world.left()) {
        panic!("BRAHMAN_SEED={seed}: after everything has recovered {wrong}\n{world:#?}");
    }
    let published = world
        .catalogs
        .iter()
        .flat_map(|c| &c.journal)
        .filter(|e| matches!(e, Event::Complete { .. }));
    for event in published {
        match run_of(event) {
            Some(run) if run.starts_with("adopted") => figures.adopted += 1,
            _ => figures.published += 1,
        }
    }
}

#[test]
fn no_object_that_either_catalog_needs_is_ever_deleted_and_what_nobody_needs_is() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let mut figures = Figures::default();
    if let Some(seed) = number("BRAHMAN_SEED") {
        return history(seed, &mut figures);
    }
    let histories = number("BRAHMAN_HISTORIES").unwrap_or(HISTORIES);
    (0..histories).for_each(|seed| history(seed, &mut figures));
    let many = usize::try_from(histories).expect("a number");
    assert!(
        figures.published > many && figures.removed > many && figures.adopted * 50 > many,
        "too little happens: {figures:?}"
    );
}
