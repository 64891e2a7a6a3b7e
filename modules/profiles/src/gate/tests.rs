//! What the gate promises, by example and by a thousand random steps.

use proptest::prelude::*;

use super::*;

const RESIDENCY: Millis = 1000;

fn gpu(number: usize) -> SlotId {
    SlotId::Gpu(format!("GPU-{number}"))
}

fn gate(capacity_mib: u64) -> Gate {
    let mut gate = Gate::new(RESIDENCY);
    gate.observe(&SlotId::Cpu, Measurement { capacity_mib, free_mib: None }, &BTreeMap::new());
    gate
}

fn request(module: &str, mib: u64) -> Request {
    Request { module: module.to_owned(), slot: SlotId::Cpu, mib, pinned: false }
}

fn names(modules: &[&str]) -> BTreeSet<String> {
    modules.iter().map(|module| (*module).to_owned()).collect()
}

fn load(gate: &mut Gate, module: &str, mib: u64, now: Millis) {
    gate.reserve(&request(module, mib), now).expect("there is room");
    gate.loaded(module, now);
}

#[test]
fn what_was_measured_counts_before_what_is_declared_and_a_margin_is_added() {
    assert_eq!(
        (need(Some(1000), Some(5000)), need(None, Some(5000)), need(Some(10), None)),
        (1100, 5500, 42)
    );
    assert_eq!(need(None, None), UNDECLARED_MIB + UNDECLARED_MIB / MARGIN_SHARE);
    assert_eq!(need(Some(u64::MAX), None), u64::MAX);
}

#[test]
fn what_is_free_counts_as_well_as_the_ledger_and_what_was_promised_is_not_given_twice() {
    let mut gate = gate(1000);
    load(&mut gate, "a", 500, 0);
    let slot = |gate: &Gate| gate.slots()[&SlotId::Cpu].clone();
    assert_eq!(slot(&gate).available_mib(), 500);
    // Somebody else has taken 300, and `a` may still grow by 200.
    let seen = Measurement { capacity_mib: 1000, free_mib: Some(400) };
    gate.observe(&SlotId::Cpu, seen, &BTreeMap::from([("a".to_owned(), 300)]));
    assert_eq!((slot(&gate).available_mib(), slot(&gate).unowned_mib()), (200, Some(300)));
    let refusal = gate.reserve(&request("b", 201), 0).expect_err("too much");
    assert_eq!((refusal.needed_mib, refusal.free_mib, refusal.unowned_mib), (201, 200, Some(300)));
    let words = refusal.to_string();
    assert!(
        words.contains("`b` needs 201 MiB of cpu")
            && words.contains("`a` holds 500 MiB")
            && words.contains("300 MiB are in use"),
        "{words}"
    );
    gate.reserve(&request("b", 200), 0).expect("there is room");
}

#[test]
fn the_one_that_was_not_used_for_the_longest_time_gives_way_and_nobody_who_need_not() {
    let mut gate = gate(1000);
    for (at, module) in ["a", "b", "c"].into_iter().enumerate() {
        load(&mut gate, module, 300, at as u64);
    }
    let now = 10_000;
    let plan = |gate: &Gate, mib, now| {
        gate.plan(&[request("new", mib)], &BTreeSet::new(), now).map(|plan| plan.unload_first)
    };
    assert_eq!(plan(&gate, 100, now), Ok(vec![]), "there is room");
    assert_eq!(plan(&gate, 400, now), Ok(vec!["a".to_owned()]));
    assert_eq!(plan(&gate, 500, now), Ok(vec!["a".to_owned(), "b".to_owned()]));
    gate.seen("a", false, now);
    gate.seen("b", true, now);
    assert_eq!(
        plan(&gate, 500, now),
        Ok(vec!["a".to_owned(), "c".to_owned()]),
        "whoever works stays"
    );
    gate.pin(&names(&["a"]));
    let refusal = plan(&gate, 500, now).expect_err("one is pinned, one works");
    let reasons: Vec<_> =
        refusal.holders.iter().map(|holder| (holder.module.as_str(), holder.reason)).collect();
    assert_eq!(reasons, [("a", Some("pinned")), ("b", Some("at work")), ("c", None)]);
    assert_eq!(
        plan(&gate, 400, RESIDENCY + 1).expect_err("all are new, pinned or at work").free_mib,
        100
    );
    assert_eq!(
        gate.holding("a").map(|(_, holding)| holding.mib),
        Some(300),
        "a plan changes nothing"
    );
}

#[test]
fn a_small_one_is_not_taken_beside_a_large_one_that_is_enough() {
    let mut gate = gate(1000);
    load(&mut gate, "small", 100, 0);
    load(&mut gate, "large", 800, 1);
    let plan = gate.plan(&[request("new", 800)], &BTreeSet::new(), 10_000).expect("a plan");
    assert_eq!(plan.unload_first, ["large"]);
}

#[test]
fn a_profile_that_is_left_ends_late_where_there_is_room_and_first_where_there_is_none() {
    let mut gate = gate(1000);
    load(&mut gate, "shared", 200, 0);
    load(&mut gate, "old", 400, 0);
    gate.pin(&names(&["old"]));
    let outgoing = names(&["shared", "old"]);
    let roomy =
        gate.plan(&[request("shared", 200), request("new", 400)], &outgoing, 1).expect("a plan");
    assert_eq!((roomy.unload_first, roomy.unload_after), (vec![], vec!["old".to_owned()]));
    assert_eq!(roomy.load, [request("new", 400)], "the shared one stays");
    let tight =
        gate.plan(&[request("shared", 200), request("new", 500)], &outgoing, 1).expect("a plan");
    assert_eq!((tight.unload_first, tight.unload_after), (vec!["old".to_owned()], vec![]));
    assert!(gate.plan(&[request("shared", 200), request("new", 801)], &outgoing, 1).is_err());
    let stays = gate.plan(&[request("new", 500)], &BTreeSet::new(), 10_000).expect("a plan");
    assert_eq!(stays.unload_first, ["shared"], "where nobody leaves a pin holds");
}

#[test]
fn what_does_not_come_back_is_kept_from_others_until_it_does() {
    let mut gate = gate(1000);
    load(&mut gate, "a", 600, 0);
    assert!(gate.unloading("a"));
    gate.ended(
        "a",
        Some(QuarantinedMemory { mib: 350, reason: "process 7 still holds it".to_owned() }),
    );
    assert_eq!(gate.slots()[&SlotId::Cpu].available_mib(), 650);
    assert!(gate.reserve(&request("b", 700), 0).is_err());
    assert!(gate.returned("a") && !gate.returned("a"));
    gate.reserve(&request("b", 700), 0).expect("there is room");
    gate.ended("b", None);
    gate.ended("b", None);
    assert_eq!(gate.slots()[&SlotId::Cpu].reserved_mib(), 0, "once is enough");
}

#[test]
fn a_measurement_that_makes_no_sense_is_not_believed() {
    let mut gate = Gate::new(RESIDENCY);
    let none = BTreeMap::new();
    let see = |gate: &mut Gate, capacity_mib, free| {
        gate.observe(&gpu(0), Measurement { capacity_mib, free_mib: Some(free) }, &none);
        let slot = &gate.slots()[&gpu(0)];
        (slot.capacity_mib(), slot.available_mib(), slot.notes().len())
    };
    assert_eq!(see(&mut gate, 1000, 1000), (1000, 1000, 0));
    gate.reserve(&Request { slot: gpu(0), ..request("a", 500) }, 0).expect("there is room");
    gate.loaded("a", 0);
    assert_eq!(see(&mut gate, 1000, 600), (1000, 500, 0));
    assert_eq!(see(&mut gate, 0, 0), (1000, 0, 1), "backwards");
    assert_eq!(see(&mut gate, 1000, u64::MAX), (1000, 500, 1), "more free than there is");
    assert_eq!(see(&mut gate, 400, 100), (1000, 100, 1), "less than is reserved");
}

#[test]
fn one_that_takes_more_than_it_reserved_has_it_reserved_as_far_as_there_is_any() {
    let mut gate = gate(1000);
    load(&mut gate, "a", 300, 0);
    load(&mut gate, "b", 300, 0);
    gate.observe(
        &SlotId::Cpu,
        Measurement { capacity_mib: 1000, free_mib: None },
        &BTreeMap::from([("a".to_owned(), 900)]),
    );
    let slot = &gate.slots()[&SlotId::Cpu];
    assert_eq!(
        (slot.reserved_mib(), slot.available_mib(), slot.holdings()["a"].mib),
        (1000, 0, 700)
    );
    assert!(
        slot.notes()[0].contains("`a` takes 900 MiB, and 300 MiB were reserved"),
        "{:?}",
        slot.notes()
    );
}

#[test]
fn one_that_ran_already_has_what_is_left_and_more_once_there_is_more() {
    let mut gate = gate(1000);
    load(&mut gate, "a", 700, 0);
    gate.adopt(&request("b", 500), 0);
    assert_eq!(gate.holding("b").map(|(_, holding)| holding.mib), Some(300));
    gate.ended("a", None);
    gate.adopt(&request("b", 500), 1);
    assert_eq!(gate.holding("b").map(|(_, holding)| holding.mib), Some(500));
    gate.adopt(&request("b", 100), 2);
    assert_eq!(
        gate.holding("b").map(|(_, holding)| holding.mib),
        Some(500),
        "what was promised stays"
    );
}

#[test]
fn whoever_rests_longer_than_its_profile_lets_it_is_idle() {
    let mut gate = gate(1000);
    for module in ["a", "b", "c"] {
        load(&mut gate, module, 100, 0);
    }
    gate.pin(&names(&["c"]));
    gate.seen("b", true, 4000);
    gate.seen("b", false, 5000);
    let limits = BTreeMap::from(["a", "b", "c"].map(|module| (module.to_owned(), 3000)));
    assert_eq!(gate.idle(&limits, 2999), Vec::<String>::new());
    assert_eq!(gate.idle(&limits, 5000), ["a"]);
    assert_eq!(gate.idle(&limits, 7000), ["a", "b"], "the pinned one stays");
    assert_eq!(gate.idle(&BTreeMap::new(), 7000), Vec::<String>::new());
}

/// Something that happens to the gate.
#[derive(Clone, Debug)]
enum Step {
    Measure {
        slot: usize,
        free: u64,
        holders: Vec<u64>,
    },
    Lie {
        slot: usize,
        capacity: u64,
        free: u64,
    },
    Load {
        module: usize,
        slot: usize,
        mib: u64,
    },
    Adopt {
        module: usize,
        slot: usize,
        mib: u64,
    },
    Activate {
        modules: Vec<usize>,
        slot: usize,
        mib: u64,
        leave: Vec<usize>,
        is_killed: Option<usize>,
    },
    Ready {
        module: usize,
    },
    Unload {
        module: usize,
        left: Option<u64>,
    },
    Die {
        module: usize,
    },
    Return {
        module: usize,
    },
    Pin {
        modules: Vec<usize>,
    },
    Work {
        module: usize,
        busy: bool,
    },
}

const MODULES: usize = 8;
const SLOTS: usize = 3;
const CAPACITY: u64 = 1000;

fn steps() -> impl Strategy<Value = Step> {
    let (module, slot, mib) = (0..MODULES, 0..SLOTS, 0..700_u64);
    let some = || prop::collection::vec(0..MODULES, 0..4);
    prop_oneof![
        2 => (0..SLOTS, 0..=CAPACITY, prop::collection::vec(0..900_u64, MODULES))
            .prop_map(|(slot, free, holders)| Step::Measure { slot, free, holders }),
        1 => (0..SLOTS, any::<u64>(), any::<u64>()).prop_map(|(slot, capacity, free)| {
            Step::Lie { slot, capacity: capacity % CAPACITY, free }
        }),
        3 => (module.clone(), slot.clone(), mib.clone())
            .prop_map(|(module, slot, mib)| Step::Load { module, slot, mib }),
        1 => (module.clone(), slot.clone(), mib.clone())
            .prop_map(|(module, slot, mib)| Step::Adopt { module, slot, mib }),
        3 => (some(), slot, mib, some(), prop::option::of(0..6_usize)).prop_map(
            |(modules, slot, mib, leave, is_killed)| {
                Step::Activate { modules, slot, mib, leave, is_killed }
            }
        ),
        3 => module.clone().prop_map(|module| Step::Ready { module }),
        2 => (module.clone(), prop::option::of(0..900_u64))
            .prop_map(|(module, left)| Step::Unload { module, left }),
        2 => module.clone().prop_map(|module| Step::Die { module }),
        1 => module.clone().prop_map(|module| Step::Return { module }),
        1 => some().prop_map(|modules| Step::Pin { modules }),
        2 => (module, any::<bool>()).prop_map(|(module, busy)| Step::Work { module, busy }),
    ]
}

fn name(module: usize) -> String {
    format!("m{module}")
}

fn slot_of(slot: usize) -> SlotId {
    if slot == 0 { SlotId::Cpu } else { gpu(slot) }
}

fn take(gate: &mut Gate, step: &Step, now: Millis) {
    match step {
        Step::Measure { slot, free, holders } => {
            let holders =
                holders.iter().enumerate().map(|(module, mib)| (name(module), *mib)).collect();
            gate.observe(
                &slot_of(*slot),
                Measurement { capacity_mib: CAPACITY, free_mib: Some(*free) },
                &holders,
            );
        }
        // One that has less than is reserved, or is free beyond itself. What is believed of it is
        // no capacity of another.
        Step::Lie { slot, capacity, free } => {
            let before = gate.slots()[&slot_of(*slot)].reserved_mib();
            if *capacity < before || *capacity == 0 {
                gate.observe(
                    &slot_of(*slot),
                    Measurement { capacity_mib: *capacity, free_mib: Some(*free) },
                    &BTreeMap::new(),
                );
            }
        }
        Step::Load { module, slot, mib } => {
            let request =
                Request { module: name(*module), slot: slot_of(*slot), mib: *mib, pinned: false };
            let before = gate.slots()[&request.slot].available_mib();
            let is_held = gate.holding(&request.module).is_some();
            assert_eq!(gate.reserve(&request, now).is_ok(), is_held || before >= *mib);
        }
        Step::Adopt { module, slot, mib } => {
            gate.adopt(
                &Request { module: name(*module), slot: slot_of(*slot), mib: *mib, pinned: false },
                now,
            );
        }
        Step::Activate { modules, slot, mib, leave, is_killed } => {
            let requests: Vec<Request> = modules
                .iter()
                .map(|module| Request {
                    module: name(*module),
                    slot: slot_of(*slot),
                    mib: *mib,
                    pinned: module % 2 == 0,
                })
                .collect();
            let leave = leave.iter().map(|module| name(*module)).collect();
            let Ok(plan) = gate.plan(&requests, &leave, now) else { return };
            // Each of its steps may be the last before this process is killed; what it had done
            // stands.
            let mut left = is_killed.unwrap_or(usize::MAX);
            let mut goes_on = || {
                left = left.saturating_sub(1);
                left > 0
            };
            for module in &plan.unload_first {
                if !goes_on() {
                    return;
                }
                gate.ended(module, None);
            }
            for request in &plan.load {
                if !goes_on() {
                    return;
                }
                if gate.holding(&request.module).is_some() {
                    gate.ended(&request.module, None);
                }
                gate.reserve(request, now).expect("the plan holds");
                gate.loaded(&request.module, now);
            }
            for module in &plan.unload_after {
                if !goes_on() {
                    return;
                }
                gate.ended(module, None);
            }
        }
        Step::Ready { module } => gate.loaded(&name(*module), now),
        Step::Unload { module, left } => {
            let module = name(*module);
            if gate.unloading(&module) {
                gate.ended(
                    &module,
                    left.map(|mib| QuarantinedMemory { mib, reason: "held".to_owned() }),
                );
            }
        }
        Step::Die { module } => gate.ended(&name(*module), None),
        Step::Return { module } => {
            gate.returned(&name(*module));
        }
        Step::Pin { modules } => gate.pin(&modules.iter().map(|module| name(*module)).collect()),
        Step::Work { module, busy } => gate.seen(&name(*module), *busy, now),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn in_a_thousand_steps_nothing_is_given_twice_and_nothing_leaks(
        steps in prop::collection::vec(steps(), 1000),
    ) {
        let mut gate = Gate::new(RESIDENCY);
        for slot in 0..SLOTS {
            gate.observe(
                &slot_of(slot),
                Measurement { capacity_mib: CAPACITY, free_mib: Some(CAPACITY) },
                &BTreeMap::new(),
            );
        }
        for (at, step) in steps.iter().enumerate() {
            take(&mut gate, step, at as u64 * 100);
            for (id, slot) in gate.slots() {
                prop_assert!(slot.reserved_mib() <= slot.capacity_mib(), "{} after {:?}", id, step);
                prop_assert_eq!(slot.capacity_mib(), CAPACITY);
                prop_assert!(slot.available_mib() <= slot.capacity_mib() - slot.reserved_mib());
            }
            let held = gate.slots().values().flat_map(|slot| slot.holdings().keys()).count();
            let distinct = gate
                .slots()
                .values()
                .flat_map(|slot| slot.holdings().keys())
                .collect::<BTreeSet<_>>()
                .len();
            prop_assert_eq!(held, distinct, "nobody is held twice");
        }
        for module in 0..MODULES {
            gate.ended(&name(module), None);
            // In each memory that it has ever been in.
            while gate.returned(&name(module)) {}
        }
        for slot in gate.slots().values() {
            prop_assert_eq!(slot.reserved_mib(), 0);
        }
    }
}
