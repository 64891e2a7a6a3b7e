//! The failure matrix, on a fake clock: each way a module can end, and what must follow.

mod deaths;

use brahman_card::ModuleRecord;
use proptest::prelude::*;

use super::*;

fn card(label: &str, more: &str) -> Card {
    let text = format!(
        "schema_version = 1\nlabel = \"{label}\"\n{more}\n[payload.native]\nexec = \"x\"\n"
    );
    Card::parse("test.toml", text.as_bytes()).expect("a good Card")
}

/// A mesh of Cards, already loaded, with every process that was asked for started.
struct Bench {
    state: State,
    now: Millis,
    pids: u32,
    log: Vec<Effect>,
}

impl Bench {
    fn new(cards: Vec<Card>) -> Self {
        let mut bench = Self { state: State::default(), now: 0, pids: 100, log: Vec::new() };
        bench.cards(cards);
        bench
    }

    fn cards(&mut self, cards: Vec<Card>) {
        let cards =
            cards.into_iter().map(|c| (c.clone(), format!("/run/{}", c.socket_name()))).collect();
        self.event(Event::Cards(cards));
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.state.step(event, self.now);
        self.log.extend(effects.clone());
        for effect in &effects {
            if let Effect::Spawn { id } = effect {
                self.pids += 1;
                let pid = self.pids;
                self.event(Event::Spawned { id: id.clone(), pid });
            }
        }
        effects
    }

    fn id(&self, label: &str) -> Id {
        self.state
            .modules
            .values()
            .find(|e| e.card.label.as_str() == label)
            .expect("a module")
            .card
            .id
            .clone()
    }

    fn entry(&self, label: &str) -> &Entry {
        &self.state.modules[&self.id(label)]
    }

    fn ready(&mut self, label: &str) {
        let (id, session) = (self.id(label), format!("s-{label}-{}", self.pids));
        self.event(Event::Attached { id, session: session.clone() });
        self.event(Event::Updated {
            update: UpdateIn { session, state: Some(ModuleState::Ready), ..UpdateIn::default() },
        });
    }

    fn exit(&mut self, label: &str, exit: Exit) -> Vec<Effect> {
        let (id, pid) = (self.id(label), self.entry(label).pid().expect("a process"));
        self.event(Event::Exited { id, pid, exit, last_line: Some("bye".into()) })
    }

    /// Lets the clock run to the next timer.
    fn wait(&mut self) -> Vec<Effect> {
        self.now = self.state.next_timer().expect("something is awaited").max(self.now);
        self.event(Event::Tick)
    }
}

#[test]
fn a_silent_module_with_a_watchdog_is_killed() {
    let mut bench = Bench::new(vec![card("a", "watchdog_s = 3")]);
    bench.ready("a");
    assert!(bench.wait().iter().any(|e| matches!(e, Effect::Kill { .. })));
    // A call waits for its next life, as for that of one that died.
    let said = bench.published("a");
    assert!(
        said.state.is_coming()
            && said.reason.is_some_and(|reason| reason.contains("no sign of life"))
    );
}

#[test]
fn sigterm_is_followed_by_sigkill_after_the_grace() {
    let mut bench = Bench::new(vec![card("a", "")]);
    bench.ready("a");
    let effects = bench.event(Event::Command { label: "a".into(), command: Command::Stop });
    assert!(matches!(effects[..], [Effect::Terminate { .. }]));
    let before = bench.now;
    assert!(bench.wait().iter().any(|e| matches!(e, Effect::Kill { .. })));
    assert_eq!(bench.now - before, GRACE_MS);
    bench.exit("a", Exit::Signal(9));
    assert_eq!(bench.entry("a").state(), ModuleState::Stopped);
}

#[test]
fn requirements_start_in_order_and_stop_in_reverse() {
    let mut bench = Bench::new(vec![card("low", ""), card("top", "requires = [\"low\"]")]);
    assert_eq!(bench.entry("top").state(), ModuleState::Waiting);
    bench.ready("low");
    assert_eq!(bench.entry("top").state(), ModuleState::Starting);
    bench.ready("top");
    let (low, top) = (bench.id("low"), bench.id("top"));
    assert_eq!(bench.event(Event::Shutdown), [Effect::Terminate { id: top }]);
    assert_eq!(bench.exit("top", Exit::Code(0)), [Effect::Terminate { id: low }]);
    assert_eq!(bench.exit("low", Exit::Code(0)), [Effect::Exit]);
}

#[test]
fn a_second_shutdown_kills_everything() {
    let mut bench = Bench::new(vec![card("a", ""), card("b", "requires = [\"a\"]")]);
    bench.ready("a");
    bench.event(Event::Shutdown);
    assert_eq!(
        bench.event(Event::Shutdown).iter().filter(|e| matches!(e, Effect::Kill { .. })).count(),
        2
    );
}

#[test]
fn the_grace_of_a_shutdown_ends_for_what_is_still_required_too() {
    let mut bench =
        Bench::new(vec![card("low", ""), card("top", "requires = [\"low\"]\nwatchdog_s = 1")]);
    bench.ready("low");
    bench.ready("top");
    bench.event(Event::Shutdown);
    assert_eq!(
        (bench.entry("low").state(), bench.entry("top").state()),
        (ModuleState::Ready, ModuleState::Draining)
    );
    let killed: Vec<Effect> =
        bench.wait().into_iter().filter(|e| matches!(e, Effect::Kill { .. })).collect();
    assert_eq!((bench.now, killed.len()), (SHUTDOWN_GRACE_MS, 2), "no watchdog ends what drains");
    bench.exit("top", Exit::Signal(9));
    assert_eq!(bench.exit("low", Exit::Signal(9)), [Effect::Exit]);
}

#[test]
fn the_word_of_a_module_that_is_to_end_does_not_keep_it() {
    for state in [ModuleState::Ready, ModuleState::Loading, ModuleState::Failed] {
        let mut bench = Bench::new(vec![card("a", "")]);
        bench.ready("a");
        bench.command("a", Command::Stop);
        let session = bench.entry("a").session.clone().expect("a session");
        bench.event(Event::Updated {
            update: UpdateIn { session, state: Some(state), ..UpdateIn::default() },
        });
        assert_eq!(bench.published("a").state, ModuleState::Draining, "{state:?}");
        assert_eq!(bench.state.next_timer(), Some(GRACE_MS));
        bench.exit("a", Exit::Code(0));
        assert_eq!(bench.entry("a").state(), ModuleState::Stopped);
    }
}

#[test]
fn a_cycle_of_requirements_is_refused_with_its_path() {
    let bench = Bench::new(vec![
        card("a", "requires = [\"b\"]"),
        card("b", "requires = [\"a\"]"),
        card("c", ""),
    ]);
    assert_eq!(bench.entry("a").reason.as_deref(), Some("requires itself: a → b → a"));
    assert_eq!(bench.entry("c").state(), ModuleState::Starting);
}

#[test]
fn a_reload_touches_only_the_difference() {
    let mut bench = Bench::new(vec![card("keep", ""), card("change", ""), card("drop", "")]);
    for label in ["keep", "change", "drop"] {
        bench.ready(label);
    }
    let pid = bench.entry("keep").pid();
    bench.cards(vec![card("keep", ""), card("change", "mock = true"), card("new", "")]);
    let out = bench.state.last_reload.clone();
    assert_eq!(
        (out.unchanged, out.changed, out.removed, out.added),
        (vec!["keep".into()], vec!["change".into()], vec!["drop".into()], vec!["new".into()])
    );
    bench.exit("change", Exit::Code(0));
    bench.exit("drop", Exit::Code(0));
    assert!(
        bench.entry("change").card.mock && bench.entry("change").state() == ModuleState::Starting
    );
    assert!(!bench.state.has_label("drop"));
    assert_eq!(bench.entry("keep").pid(), pid);
}

#[test]
fn what_a_module_has_stopped_says_which_and_what_a_person_has_stopped_does_not() {
    let mut bench = Bench::new(vec![card("a", ""), card("profiles", "")]);
    bench.ready("a");
    bench.ready("profiles");
    let profiles = bench.entry("profiles").pid().expect("a process");
    for (pid, words) in [
        (i32::try_from(profiles).expect("a number"), "stopped by module `profiles`"),
        (1, "stopped by command"),
    ] {
        bench.state.note_commander("a", Command::Stop, pid);
        bench.command("a", Command::Stop);
        bench.exit("a", Exit::Code(0));
        assert_eq!(bench.published("a").reason.as_deref(), Some(words));
        bench.command("a", Command::Start);
        bench.ready("a");
    }
}

#[test]
fn racing_commands_leave_one_process() {
    let mut bench = Bench::new(vec![card("a", "")]);
    bench.ready("a");
    for command in [Command::Restart, Command::Stop, Command::Start, Command::Restart] {
        bench.event(Event::Command { label: "a".into(), command });
    }
    let kills = bench.log.iter().filter(|e| matches!(e, Effect::Terminate { .. })).count();
    assert_eq!(kills, 1);
    bench.exit("a", Exit::Code(0));
    assert_eq!(bench.entry("a").state(), ModuleState::Starting);
    assert_eq!(bench.log.iter().filter(|e| matches!(e, Effect::Spawn { .. })).count(), 2);
}

/// A Card of a module that attaches by itself.
fn virtual_card(label: &str, more: &str) -> Card {
    let text = format!("schema_version = 1\nlabel = \"{label}\"\npayload = \"virtual\"\n{more}\n");
    Card::parse("test.toml", text.as_bytes()).expect("a good Card")
}

impl Bench {
    fn introduce(&mut self, label: &str) -> String {
        let session = format!("s-{label}");
        let (card, socket) = (Box::new(virtual_card(label, "")), format!("/run/{label}.sock"));
        self.event(Event::Introduced { card, socket, session: session.clone(), pid: 7 });
        session
    }

    fn command(&mut self, label: &str, command: Command) -> Vec<Effect> {
        self.event(Event::Command { label: label.into(), command })
    }

    fn published(&self, label: &str) -> ModuleRecord {
        self.state
            .records(self.now)
            .into_iter()
            .find(|r| r.card.label.as_str() == label)
            .expect("a module")
    }
}

#[test]
fn a_failure_that_is_told_after_the_start_loses_no_process() {
    let mut bench = Bench::new(vec![card("a", "")]);
    let (id, pid) = (bench.id("a"), bench.entry("a").pid());
    bench.event(Event::SpawnFailed { id, reason: "the socket".into(), permanent: true });
    assert_eq!(bench.entry("a").pid(), pid);
    bench.command("a", Command::Restart);
    assert_eq!(
        bench.log.iter().filter(|e| matches!(e, Effect::Spawn { .. })).count(),
        1,
        "one at a time"
    );
}

#[test]
fn the_watchdog_waits_while_a_module_loads_and_counts_from_ready() {
    let mut bench = Bench::new(vec![card("a", "watchdog_s = 3\nreadiness.timeout_s = 60")]);
    let id = bench.id("a");
    bench.event(Event::Attached { id, session: "s".into() });
    let word = |state| UpdateIn { session: "s".into(), state, ..UpdateIn::default() };
    bench.event(Event::Updated { update: word(Some(ModuleState::Loading)) });
    assert_eq!(bench.state.next_timer(), Some(60_000), "loading may take its time");
    bench.event(Event::Updated { update: word(Some(ModuleState::Ready)) });
    assert_eq!(bench.state.next_timer(), Some(3_000));
    bench.now = 2_000;
    bench.event(Event::Updated { update: word(None) });
    assert_eq!(bench.state.next_timer(), Some(5_000), "a beat is a word");
    // What loads again is given the time of a start, not for ever.
    bench.event(Event::Updated { update: word(Some(ModuleState::Loading)) });
    assert_eq!(bench.state.next_timer(), Some(62_000));
}

#[test]
fn an_init_that_stood_still_kills_nobody_for_its_own_absence() {
    let mut bench = Bench::new(vec![card("a", "watchdog_s = 3")]);
    bench.ready("a");
    bench.now = 60_000;
    assert!(bench.event(Event::Tick).is_empty(), "its words may wait unread");
    assert!(bench.wait().iter().any(|e| matches!(e, Effect::Kill { .. })), "there were none");
}

#[test]
fn a_module_that_attached_itself_is_drained_and_never_restarted() {
    let mut bench = Bench::new(vec![card("a", "")]);
    let session = bench.introduce("v");
    for command in [Command::Restart, Command::Start] {
        let why = bench.state.refusal("v", command).expect("refused");
        assert!(why.contains("attached by itself") && why.contains("brahman stop v"), "{why}");
        assert!(bench.command("v", command).is_empty());
        assert_eq!(bench.entry("v").state(), ModuleState::Starting, "left as it was");
    }
    assert_eq!(bench.state.refusal("v", Command::Stop), None);
    assert_eq!(bench.command("v", Command::Stop), [Effect::Drain { session: session.clone() }]);
    bench.event(Event::Detached { session });
    assert!(!bench.state.has_label("v"));
    for command in [Command::Start, Command::Stop, Command::Restart] {
        assert_eq!(
            (bench.state.refusal("a", command), bench.state.refusal("nobody", command)),
            (None, None)
        );
    }
}

#[test]
fn a_virtual_card_from_a_file_waits_for_its_module_and_outlives_it() {
    let mut bench =
        Bench::new(vec![virtual_card("v", ""), card("d", "supervision = \"delegate\"")]);
    assert!(
        !bench.log.iter().any(|e| matches!(e, Effect::Bind { .. } | Effect::Spawn { .. })),
        "{:?}",
        bench.log
    );
    for label in ["v", "d"] {
        assert!(
            bench
                .entry(label)
                .reason
                .as_deref()
                .is_some_and(|r| r.contains("waits for its module to attach"))
        );
        assert!(
            bench.state.refusal(label, Command::Start).is_some()
                && bench.state.refusal(label, Command::Stop).is_some()
        );
        bench.ready(label);
        assert_eq!(bench.entry(label).state(), ModuleState::Ready);
        let session = bench.entry(label).session.clone().expect("a session");
        bench.event(Event::Detached { session });
        assert_eq!(bench.entry(label).state(), ModuleState::Waiting);
    }
}

#[test]
fn a_ready_from_nobody_is_kept_as_a_reason() {
    let mut bench = Bench::new(vec![card("a", "readiness.timeout_s = 2"), card("b", "")]);
    bench.ready("b");
    bench.event(Event::Stranger { pid: 4711 });
    assert_eq!(bench.entry("b").reason, None);
    bench.wait();
    let reason = bench.entry("a").reason.clone().unwrap_or_default();
    assert!(
        reason.contains("not ready within 2 s")
            && reason.contains("READY=1 came from process 4711"),
        "{reason}"
    );
}

#[test]
fn what_is_to_run_again_is_on_its_way_while_its_former_process_ends() {
    let mut bench = Bench::new(vec![card("a", "")]);
    bench.ready("a");
    bench.command("a", Command::Stop);
    assert_eq!(bench.published("a").state, ModuleState::Draining);
    bench.command("a", Command::Start);
    let record = bench.published("a");
    assert!(
        record.state.is_coming()
            && record.reason.as_deref() == Some("its previous process has not exited yet"),
        "{record:?}"
    );
    bench.command("a", Command::Stop);
    assert_eq!(bench.published("a").state, ModuleState::Draining);
}

#[test]
fn replicas_live_by_themselves_and_are_commanded_together_or_one_by_one() {
    let mut bench = Bench::new(
        [card("a", "replicas = 2").instances(), vec![card("b", "requires = [\"a\"]")]].concat(),
    );
    assert_eq!(bench.entry("b").state(), ModuleState::Waiting);
    bench.ready("a@2");
    assert_eq!(bench.entry("b").state(), ModuleState::Starting, "one of them is enough");
    bench.ready("a@1");
    bench.now += 10_000;
    bench.exit("a@1", Exit::Signal(9));
    assert_eq!((bench.entry("a@1").restarts, bench.entry("a@2").restarts), (1, 0));
    assert_eq!(bench.entry("a@2").state(), ModuleState::Ready);
    bench.ready("a@1");
    bench.command("a@1", Command::Stop);
    assert_eq!(
        (bench.entry("a@1").state(), bench.entry("a@2").state()),
        (ModuleState::Draining, ModuleState::Ready)
    );
    bench.command("a", Command::Stop);
    assert_eq!(bench.entry("a@2").state(), ModuleState::Draining);
    assert!(
        bench.state.has_label("a") && bench.state.has_label("a@1") && !bench.state.has_label("a@3")
    );
}

#[test]
fn a_changed_card_says_anew_who_may_connect() {
    let mut bench = Bench::new(vec![card("a", "")]);
    bench.ready("a");
    bench.log.clear();
    bench.cards(vec![card("a", "access = \"group\"")]);
    bench.exit("a", Exit::Code(0));
    let id = bench.id("a");
    assert!(
        bench.log.contains(&Effect::Bind { id: id.clone() })
            && !bench.log.contains(&Effect::Forget { id }),
        "{:?}",
        bench.log
    );
}

#[test]
fn a_module_that_says_it_ends_and_stays_is_killed() {
    let mut bench = Bench::new(vec![card("a", "")]);
    bench.ready("a");
    let session = bench.entry("a").session.clone().expect("a session");
    bench.event(Event::Updated {
        update: UpdateIn { session, state: Some(ModuleState::Draining), ..UpdateIn::default() },
    });
    let before = bench.now;
    assert!(bench.wait().iter().any(|e| matches!(e, Effect::Kill { .. })));
    assert_eq!(bench.now - before, GRACE_MS);
}

proptest! {
    /// Whatever happens in whatever order: never two processes, and nothing is stuck without a
    /// timer.
    #[test]
    fn no_order_of_events_gives_two_processes_or_a_dead_end(
        moves in prop::collection::vec(0_u8..8, 1..60),
    ) {
        let mut bench = Bench::new(vec![card("a", "")]);
        let mut alive: i32 = 1;
        for step in moves {
            bench.log.clear();
            bench.now += 37;
            match step {
                0 => bench.ready("a"),
                1 | 2 if bench.entry("a").pid().is_some() => {
                    alive -= 1;
                    bench.exit("a", if step == 1 { Exit::Code(1) } else { Exit::Signal(9) });
                }
                3 => {
                    bench.event(Event::Command { label: "a".into(), command: Command::Start });
                }
                4 => {
                    bench.event(Event::Command { label: "a".into(), command: Command::Stop });
                }
                5 => {
                    bench.event(Event::Command { label: "a".into(), command: Command::Restart });
                }
                6 => bench.cards(vec![card("a", "mock = true")]),
                _ if bench.state.next_timer().is_some() => {
                    bench.wait();
                }
                _ => {}
            }
            alive += bench.log.iter().filter(|e| matches!(e, Effect::Spawn { .. })).count() as i32;
            prop_assert!((0..=1).contains(&alive), "{alive} processes");
            let entry = bench.entry("a");
            prop_assert_eq!(entry.pid().is_some(), alive == 1);
            let settled = matches!(entry.state(), ModuleState::Ready | ModuleState::Stopped)
                || entry.phase == Phase::Failed { start_at: None };
            prop_assert!(
                settled || bench.state.next_timer().is_some(),
                "stuck in {:?}",
                entry.phase
            );
        }
    }
}

#[test]
fn what_a_module_said_of_itself_outlives_its_process_and_gives_way_to_what_the_next_says() {
    let mut bench = Bench::new(vec![card("a", "")]);
    let said = |bench: &mut Bench, model: Option<&str>, state| {
        let (id, session) = (bench.id("a"), format!("s-{}", bench.pids));
        bench.event(Event::Attached { id, session: session.clone() });
        let attributes = model.map(|m| BTreeMap::from([("model".to_owned(), m.to_owned())]));
        bench.event(Event::Updated {
            update: UpdateIn { session, state: Some(state), attributes, ..UpdateIn::default() },
        });
    };
    let model = |bench: &Bench| bench.entry("a").attributes.get("model").cloned();
    said(&mut bench, Some("m"), ModuleState::Ready);
    bench.exit("a", Exit::Signal(9));
    assert_eq!(model(&bench).as_deref(), Some("m"), "between two lives");
    bench.now += 10_000;
    bench.event(Event::Tick);
    said(&mut bench, None, ModuleState::Loading);
    assert_eq!(model(&bench).as_deref(), Some("m"), "it has not said otherwise");
    said(&mut bench, Some("n"), ModuleState::Ready);
    assert_eq!(model(&bench).as_deref(), Some("n"));
    bench.exit("a", Exit::Signal(9));
    bench.now += 10_000;
    bench.event(Event::Tick);
    said(&mut bench, None, ModuleState::Ready);
    assert_eq!(model(&bench), None, "ready without one");
}

#[test]
fn a_card_that_comes_back_while_its_module_drains_is_started_again() {
    for between in [Vec::new(), vec![card("a", "priority = \"high\"")]] {
        let mut bench = Bench::new(vec![card("a", "")]);
        bench.ready("a");
        bench.cards(between);
        bench.cards(vec![card("a", "")]);
        bench.exit("a", Exit::Code(0));
        assert_eq!(bench.entry("a").card, card("a", ""));
        assert!(bench.entry("a").pid().is_some(), "it runs again");
    }
}
