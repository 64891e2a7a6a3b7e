//! What stands on the screen for what is known, at several sizes, and what keys do.

use std::collections::BTreeMap;

use brahman_card::ModuleState;
use brahman_card::interface::broker::{ModuleStatus, StatusOut};
use brahman_card::interface::catalog::{self, Dataset};
use brahman_card::interface::index::{self, Description, ReplicaLag};
use brahman_card::interface::profiles::{GpuUse, Reservation, SlotUse, VramOut};
use brahman_card::interface::storage::{BucketHealth, HealthOut};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::facts::{LOG_LINES, StatusReport, Trouble};
use super::*;
use crate::output::visible;

/// Unix time of the first answer.
const BEGUN_MS: u64 = 1_800_000_000_000;

fn drawn(model: &mut Model, columns: u16, lines: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).expect("a terminal");
    let picture = terminal.draw(|frame| {
        model.resize(frame.area());
        frame.render_widget(Screen(model), frame.area());
    });
    picture.expect("drawn");
    terminal
}

/// What a person sees, a line each.
fn picture(model: &mut Model, columns: u16, lines: u16) -> String {
    let terminal = drawn(model, columns, lines);
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..lines {
        let (mut line, mut x) = (String::new(), 0);
        while x < columns {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            // The cell behind one of two columns is hidden by it.
            x += if visible(symbol) > 1 { 2 } else { 1 };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn press(model: &mut Model, code: KeyCode) -> Step {
    model.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn type_keys(model: &mut Model, keys: &str) {
    for key in keys.chars() {
        assert_eq!(press(model, KeyCode::Char(key)), Step::Stay, "{key}");
    }
}

fn module(label: &str, state: ModuleState, pid: u32, calls: u64) -> ModuleStatus {
    ModuleStatus {
        label: label.into(),
        state,
        pid,
        calls,
        uptime_s: 75.0,
        flows: vec!["org.brahman.Embed".into()],
        ..ModuleStatus::default()
    }
}

fn status(modules: Vec<ModuleStatus>) -> StatusReport {
    let resident = BTreeMap::from([(4711, 180 << 20), (4712, 12 << 20)]);
    StatusReport { status: StatusOut { context: Some("prod".into()), modules }, resident }
}

fn modules(calls: u64) -> Vec<ModuleStatus> {
    vec![
        ModuleStatus {
            mock: true,
            restarts: 2,
            ..module("embed-mock", ModuleState::Ready, 4712, 3)
        },
        ModuleStatus {
            p50_us: Some(840),
            p99_us: Some(12_500),
            queue: 7,
            failures: 1,
            attributes: BTreeMap::from([
                ("model".into(), "all-MiniLM-L6-v2".into()),
                ("device".into(), "cpu".into()),
            ]),
            ..module("embed-real", ModuleState::Ready, 4711, calls)
        },
        ModuleStatus {
            reason: Some("exited with status 78: no model\nis there".into()),
            ..module("score-real", ModuleState::Failed, 0, 0)
        },
        ModuleStatus { flows: Vec::new(), ..module("索引", ModuleState::Loading, 4713, 0) },
    ]
}

/// A mesh that has answered twice, two seconds apart, and 10 calls further.
fn model() -> Model {
    let mut model = Model::new("/run/brahman/brahman.sock".into(), false);
    model.take(News::Status { at_ms: BEGUN_MS, answer: Ok(status(modules(100))) });
    model.take(News::Status { at_ms: BEGUN_MS + 2000, answer: Ok(status(modules(110))) });
    model
}

/// The same with datasets, indexes, buckets and what memory is taken.
fn full() -> Model {
    let mut model = model();
    let dataset = |name: &str| Dataset {
        name: name.into(),
        generation: 3,
        rows: 12_000,
        bytes: 5 << 20,
        committed_ms: BEGUN_MS - 90_000,
        ..Dataset::default()
    };
    let datasets = vec![
        Dataset { stale: vec!["notes".into()], ..dataset("notes") },
        Dataset {
            state: Some("damaged".into()),
            reason: Some("its file is damaged".into()),
            ..dataset("注文の長い名前のデータセット")
        },
    ];
    model.take(News::Datasets(Ok(catalog::ListOut { datasets, ..catalog::ListOut::default() })));
    let description = Description {
        name: "notes".into(),
        dataset: "notes".into(),
        generation: 9,
        docs: 120,
        chunks: 480,
        bytes: 3 << 20,
        stale: true,
        busy: Some("refresh".into()),
        replicas: Some(ReplicaLag { files: 2, ..ReplicaLag::default() }),
        ..Description::default()
    };
    model.take(News::Indexes(Ok(index::ListOut { indexes: vec![description] })));
    let health = vec![
        BucketHealth {
            name: "primary".into(),
            reachable: true,
            latency_us: 90,
            ..BucketHealth::default()
        },
        BucketHealth {
            name: "rescue".into(),
            latency_us: 2_000_000,
            error: Some("its marker cannot be seen".into()),
            backlog_objects: Some(3),
            backlog_bytes: Some(4096),
            oldest_unsaved_s: Some(90),
            ..BucketHealth::default()
        },
    ];
    model.take(News::Buckets(Ok(HealthOut { health })));
    let reservation = Reservation {
        module: "embed-real".into(),
        mib: 700,
        measured_mib: Some(512),
        state: "loaded".into(),
        pinned: true,
        ..Reservation::default()
    };
    let slot = SlotUse {
        slot: "cpu".into(),
        capacity_mib: 1400,
        available_mib: 700,
        reservations: vec![reservation],
        ..SlotUse::default()
    };
    let gpu = GpuUse {
        uuid: "GPU-1".into(),
        name: "H100".into(),
        total_mib: 81_920,
        used_mib: 40_960,
        utilisation: 7,
        ..GpuUse::default()
    };
    let memory = VramOut { gpus: vec![gpu], slots: vec![slot], ..VramOut::default() };
    model.take(News::Memory(Ok(memory)));
    model
}

#[test]
fn every_view_fits_a_terminal_and_a_wide_one() {
    for (columns, lines) in [(80, 24), (200, 50)] {
        let mut model = full();
        for view in View::ALL {
            let name = format!("top_{}_{columns}x{lines}", view.name().to_lowercase());
            insta::assert_snapshot!(name, picture(&mut model, columns, lines));
            press(&mut model, KeyCode::Tab);
        }
    }
}

#[test]
fn a_view_says_what_there_is_to_say() {
    let mut model = full();
    let words: [(View, &[&str]); 6] = [
        (
            View::Modules,
            &["embed-mock (mock)", "180.00 MiB", "12.5ms", "failed", "no model", "索引"],
        ),
        (View::Providers, &["110", "5.0", "embed-real", "Embed"]),
        (View::Memory, &["GPU 0 H100", "40.00 GiB", "7 % busy", "512.00 MiB", "pinned, at work"]),
        (View::Datasets, &["notes", "12000", "1m32s", "whole", "damaged", "注文の長い"]),
        (View::Indexes, &["480", "stale, refresh", "NOT COPIED"]),
        (View::Buckets, &["reachable", "away", "4.00 KiB", "1m30s", "its marker"]),
    ];
    for (view, expected) in words {
        assert_eq!(model.view(), view);
        let text = picture(&mut model, 200, 50);
        for words in expected {
            assert!(text.contains(words), "{view:?}: {words}\n{text}");
        }
        assert!(text.contains(&format!("[{}]", view.name())), "{text}");
        assert!(!text.contains(telemetry_unsafe), "{text:?}");
        press(&mut model, KeyCode::Tab);
    }
    assert_eq!(model.view(), View::Modules, "after the last the first again");
    let of_nothing = Description {
        name: "left".into(),
        dataset: "gone".into(),
        dataset_gone: Some(true),
        ..Description::default()
    };
    model.take(News::Indexes(Ok(index::ListOut { indexes: vec![of_nothing] })));
    type_keys(&mut model, "5");
    let text = picture(&mut model, 200, 50);
    assert!(text.contains("dataset deleted") && !text.contains("up to date"), "{text}");
}

fn telemetry_unsafe(c: char) -> bool {
    c != '\n' && brahman_sidecar::telemetry::is_unsafe(c)
}

#[test]
fn no_screen_is_too_small_and_no_line_too_wide() {
    for columns in [0, 1, 2, 9, 20, 33, 80] {
        for lines in [0, 1, 2, 3, 5, 6, 24] {
            let mut model = full();
            for view in View::ALL {
                let text = picture(&mut model, columns, lines);
                for line in text.lines() {
                    assert!(visible(line) <= usize::from(columns), "{view:?}: {line}");
                }
                press(&mut model, KeyCode::Enter);
                picture(&mut model, columns, lines);
                press(&mut model, KeyCode::End);
                press(&mut model, KeyCode::Esc);
                press(&mut model, KeyCode::Char('?'));
                picture(&mut model, columns, lines);
                press(&mut model, KeyCode::Char('?'));
                press(&mut model, KeyCode::Tab);
            }
        }
    }
    // What counts most is what is left.
    let text = picture(&mut full(), 20, 6);
    assert!(text.contains("embed-") && text.contains("[Modules] 1 of 6"), "{text}");
    assert_eq!(picture(&mut full(), 12, 1), "embed-mock …\n");
    insta::assert_snapshot!("top_narrow", picture(&mut full(), 33, 12));
}

#[test]
fn a_row_stays_selected_while_others_come_and_go() {
    let mut model = model();
    type_keys(&mut model, "j");
    let selected = |model: &Model| {
        let table = model.table();
        table.rows[model.selected(&table)].id.clone()
    };
    assert_eq!(selected(&model), "embed-real");
    let mut more = modules(110);
    more.insert(0, module("broker", ModuleState::Ready, 1, 0));
    model.take(News::Status { at_ms: BEGUN_MS + 4000, answer: Ok(status(more.clone())) });
    assert_eq!(selected(&model), "embed-real");
    more.retain(|module| module.label != "embed-real");
    model.take(News::Status { at_ms: BEGUN_MS + 6000, answer: Ok(status(more)) });
    assert_eq!(selected(&model), "embed-mock", "the row that is in its place");
    for (code, id) in [
        (KeyCode::End, "索引"),
        (KeyCode::Down, "索引"),
        (KeyCode::Char('g'), "broker"),
        (KeyCode::Up, "broker"),
    ] {
        press(&mut model, code);
        assert_eq!(selected(&model), id, "{code:?}");
    }
}

#[test]
fn rows_are_sorted_by_each_column_and_both_ways() {
    let mut model = model();
    let ids =
        |model: &Model| model.table().rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
    let given = ids(&model);
    // MODULE, STATE, IN STATE, RESTARTS, MEMORY.
    type_keys(&mut model, "ssss");
    assert_eq!(ids(&model)[0], "embed-mock", "the most restarts first");
    type_keys(&mut model, "s");
    assert_eq!(ids(&model), ["embed-real", "embed-mock", "score-real", "索引"]);
    assert!(picture(&mut model, 120, 24).contains("MEMORY↓"));
    type_keys(&mut model, "S");
    assert_eq!(ids(&model), ["embed-mock", "embed-real", "score-real", "索引"], "unknown is last");
    assert!(picture(&mut model, 120, 24).contains("MEMORY↑"));
    type_keys(&mut model, "sssssss");
    assert_eq!((model.order(), ids(&model)), (None, given), "after the last as they are given");
}

#[test]
fn a_modules_log_is_followed_and_scrolled() {
    let mut model = model();
    picture(&mut model, 80, 24);
    assert_eq!(model.followed(), None);
    type_keys(&mut model, "j");
    press(&mut model, KeyCode::Enter);
    assert_eq!(model.followed(), Some("embed-real"));
    let lines =
        |from: usize, to: usize| (from..to).map(|at| format!("line {at}.")).collect::<Vec<_>>();
    let log = |label: &str, lines, is_first| News::Log { label: label.into(), lines, is_first };
    model.take(log("embed-real", lines(0, 30), true));
    model.take(log("embed-mock", vec!["of another".into()], false));
    let text = picture(&mut model, 80, 24);
    assert!(text.contains("line 29.") && !text.contains("line 5."), "{text}");
    assert!(!text.contains("of another"), "{text}");
    press(&mut model, KeyCode::Home);
    let text = picture(&mut model, 80, 24);
    assert!(text.contains("pid 4711") && text.contains("model = all-MiniLM-L6-v2"), "{text}");
    model.take(log("embed-real", lines(30, 31), false));
    assert!(!picture(&mut model, 80, 24).contains("line 30."));
    press(&mut model, KeyCode::End);
    assert!(picture(&mut model, 80, 24).contains("line 30."));
    // A stream that begins again says again what it has.
    model.take(log("embed-real", lines(0, LOG_LINES + 10), true));
    assert_eq!(model.facts().log.lines.len(), LOG_LINES);
    let trouble = Trouble("no answer".into());
    model.take(News::LogEnd { label: "embed-real".into(), trouble });
    assert!(picture(&mut model, 80, 24).contains("(the log, trying again: no answer)"));
    press(&mut model, KeyCode::Esc);
    assert_eq!(model.followed(), None);
    assert!(picture(&mut model, 80, 24).contains("[Modules]"));
}

#[test]
fn a_mesh_that_is_gone_is_said_to_be_and_what_was_known_stays() {
    let mut model = Model::new("/s".into(), false);
    assert!(picture(&mut model, 80, 24).contains("asking …"));
    let gone = || News::Status {
        at_ms: BEGUN_MS,
        answer: Err(Trouble("cannot connect to /s: No such file or directory".into())),
    };
    model.take(gone());
    let text = picture(&mut model, 80, 24);
    assert!(text.contains("disconnected, trying again: cannot connect to /s"), "{text}");
    model.take(News::Status { at_ms: BEGUN_MS + 1000, answer: Ok(status(modules(5))) });
    assert!(!picture(&mut model, 80, 24).contains("disconnected"));
    model.take(gone());
    let text = picture(&mut model, 80, 24);
    assert!(text.contains("disconnected") && text.contains("embed-real"), "{text}");
    assert!(model.facts().rates.is_empty(), "no rate over a time in which nobody answered");
    // A view's own trouble.
    model.take(News::Status { at_ms: BEGUN_MS + 2000, answer: Ok(status(modules(5))) });
    model.take(News::Buckets(Err(Trouble("nothing serves it".into()))));
    assert!(!picture(&mut model, 80, 24).contains("nothing serves it"));
    type_keys(&mut model, "6");
    assert!(picture(&mut model, 80, 24).contains("no answer, trying again: nothing serves it"));
}

#[test]
fn keys_end_it_help_and_lead_through_the_views() {
    let mut model = model();
    assert_eq!(press(&mut model, KeyCode::Char('q')), Step::Quit);
    assert_eq!(model.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Step::Quit);
    assert_eq!(model.key(KeyEvent::new(KeyCode::Char('z'), KeyModifiers::CONTROL)), Step::Suspend);
    assert_eq!(model.key(KeyEvent::new(KeyCode::Char('x'), KeyModifiers::CONTROL)), Step::Stay);
    assert_eq!(press(&mut model, KeyCode::Char('z')), Step::Stay);
    press(&mut model, KeyCode::BackTab);
    assert_eq!(model.view(), View::Buckets);
    type_keys(&mut model, "4");
    assert_eq!(model.view(), View::Datasets);
    type_keys(&mut model, "?");
    assert!(picture(&mut model, 80, 24).contains("sort by the next column"));
    type_keys(&mut model, "x");
    assert!(!picture(&mut model, 80, 24).contains("sort by the next column"));
    assert_eq!(model.view(), View::Datasets, "the key that ends the help does nothing else");
    press(&mut model, KeyCode::Enter);
    assert_eq!(model.detail(), None, "there is no row to be opened");
}

#[test]
fn without_colours_there_are_none() {
    let colours = |has_colours: bool| {
        let mut model = Model::new("/s".into(), has_colours);
        model.take(News::Status { at_ms: BEGUN_MS, answer: Ok(status(modules(5))) });
        let terminal = drawn(&mut model, 80, 24);
        let cells = terminal.backend().buffer().content().to_vec();
        let reversed = cells.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED));
        assert!(reversed, "the row that is selected");
        cells.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(colours(true) && !colours(false));
}

#[test]
fn a_screen_is_a_terminal_that_can_do_more_than_print() {
    for (is_terminal, term, expected) in [
        (true, Some("xterm-256color"), true),
        (true, Some("dumb"), false),
        (true, Some(""), false),
        (true, None, false),
        (false, Some("xterm"), false),
    ] {
        assert_eq!(is_screen(is_terminal, term.map(OsString::from)), expected, "{term:?}");
    }
}
