//! Lives that end early: when the next begins, and when there is none.

use super::*;

#[test]
fn the_first_restart_after_a_healthy_life_is_immediate() {
    let mut bench = Bench::new(vec![card("a", "")]);
    bench.ready("a");
    bench.now += 10_000;
    let effects = bench.exit("a", Exit::Signal(9));
    assert!(effects.iter().any(|e| matches!(e, Effect::Spawn { .. })), "{effects:?}");
    assert_eq!(bench.entry("a").restarts, 1);
}

#[test]
fn unhealthy_lives_back_off_then_fail_then_are_tried_half_open_for_ever() {
    let mut bench =
        Bench::new(vec![card("a", "[supervision.restart]\nintensity = 3\nperiod_s = 600")]);
    let mut delays = Vec::new();
    for _ in 0..3 {
        bench.exit("a", Exit::Code(1));
        assert_eq!(bench.entry("a").state(), ModuleState::Backoff);
        let before = bench.now;
        bench.wait();
        delays.push(bench.now - before);
    }
    assert!(delays.windows(2).all(|w| w[1] > w[0]), "{delays:?}");
    bench.exit("a", Exit::Code(1));
    assert_eq!(bench.entry("a").state(), ModuleState::Failed);
    assert!(
        bench.entry("a").reason.as_deref().is_some_and(|r| r.contains("bye")),
        "{:?}",
        bench.entry("a").reason
    );
    for _ in 0..3 {
        let before = bench.now;
        bench.wait();
        assert!(bench.now - before >= COOLDOWN_MS.0);
        assert_eq!(bench.entry("a").state(), ModuleState::Starting, "one half-open try");
        bench.exit("a", Exit::Code(1));
        assert_eq!(bench.entry("a").state(), ModuleState::Failed);
    }
    // One healthy life and all is forgotten.
    bench.wait();
    bench.ready("a");
    bench.now += 700_000;
    assert!(bench.exit("a", Exit::Code(1)).iter().any(|e| matches!(e, Effect::Spawn { .. })));
}

#[test]
fn exit_78_is_never_retried_but_a_person_may() {
    let mut bench = Bench::new(vec![card("a", "")]);
    let effects = bench.exit("a", Exit::Code(78));
    assert!(effects.is_empty() && bench.state.next_timer().is_none());
    assert_eq!(bench.entry("a").state(), ModuleState::Failed);
    bench.event(Event::Command { label: "a".into(), command: Command::Start });
    assert_eq!(bench.entry("a").state(), ModuleState::Starting);
}

#[test]
fn what_a_module_said_of_its_failure_outlives_its_process() {
    let mut bench = Bench::new(vec![card("a", "")]);
    let id = bench.id("a");
    bench.event(Event::Attached { id, session: "s".into() });
    let failed = UpdateIn {
        session: "s".into(),
        state: Some(ModuleState::Failed),
        reason: Some("no model".into()),
        attributes: None,
    };
    bench.event(Event::Updated { update: failed });
    bench.exit("a", Exit::Code(78));
    assert_eq!(bench.entry("a").reason.as_deref(), Some("no model"));
}

#[test]
fn a_module_that_never_becomes_ready_is_killed_and_counted_as_a_death() {
    let mut bench = Bench::new(vec![card("a", "readiness.timeout_s = 2")]);
    let effects = bench.wait();
    assert_eq!(bench.now, 2000);
    assert!(effects.iter().any(|e| matches!(e, Effect::Kill { .. })));
    bench.exit("a", Exit::Signal(9));
    assert_eq!(bench.entry("a").state(), ModuleState::Backoff);
    assert!(bench.entry("a").reason.as_deref().is_some_and(|r| r.contains("not ready within 2 s")));
}

#[test]
fn deaths_after_ready_count_until_a_healthy_life_whatever_the_delays() {
    // Delays grow beyond the period, so that never more than a few deaths lie in one.
    let more = "[supervision.restart]\nintensity = 5\nperiod_s = 2\ninitial_ms = 1000\nmax_ms = 60000\nhealthy_after_ms = 500";
    let mut bench = Bench::new(vec![card("a", more)]);
    for death in 1..=6 {
        bench.ready("a");
        bench.now += 300;
        bench.exit("a", Exit::Code(1));
        assert_eq!(
            bench.entry("a").state(),
            if death <= 5 { ModuleState::Backoff } else { ModuleState::Failed },
            "death {death}"
        );
        if death <= 5 {
            bench.wait();
        }
    }
    let reason = bench.entry("a").reason.clone().unwrap_or_default();
    assert!(
        reason.contains("6 deaths without a healthy run")
            && reason.contains("next attempt in 10 s"),
        "{reason}"
    );
    // One half-open try after the cool-down, and a life that is too short fails it.
    bench.wait();
    assert_eq!(bench.entry("a").state(), ModuleState::Starting);
    bench.ready("a");
    bench.now += 300;
    bench.exit("a", Exit::Code(1));
    assert_eq!(bench.entry("a").state(), ModuleState::Failed);
    // A healthy one is a new beginning.
    bench.wait();
    bench.ready("a");
    bench.now += 5_000;
    bench.exit("a", Exit::Code(1));
    assert_eq!(bench.entry("a").state(), ModuleState::Starting);
}

#[test]
fn a_process_that_cannot_be_started_backs_off_too() {
    let mut bench = Bench::new(vec![card("a", "")]);
    bench.exit("a", Exit::Code(1));
    let id = bench.id("a");
    let effects = bench
        .state
        .step(Event::SpawnFailed { id, reason: "no memory".into(), permanent: false }, bench.now);
    assert!(effects.is_empty(), "not at once: {effects:?}");
    assert_eq!(bench.entry("a").state(), ModuleState::Backoff);
}
