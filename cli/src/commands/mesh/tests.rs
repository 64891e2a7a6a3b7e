//! What a person sees of the mesh's state.

use std::collections::BTreeMap;

use brahman_card::ModuleState;
use brahman_card::interface::broker::{ModuleStatus, StatusOut};

use super::start::next_steps;
use super::status::{origin_lines, scripted, show_status, storage_lines};
use super::*;

#[test]
fn status_is_a_table_with_what_is_wrong_below_it() {
    let module = |label: &str, state, pid| ModuleStatus {
        label: label.into(),
        state,
        pid,
        uptime_s: 75.0,
        ..ModuleStatus::default()
    };
    let status = StatusOut {
        context: Some("prod".into()),
        modules: vec![
            ModuleStatus {
                p50_us: Some(840),
                p99_us: Some(12_500),
                attributes: BTreeMap::from([
                    ("model".into(), "all-MiniLM-L6-v2".into()),
                    ("device".into(), "cpu".into()),
                ]),
                ..module("embed-real", ModuleState::Ready, 4711)
            },
            ModuleStatus { mock: true, ..module("embed-mock", ModuleState::Ready, 4712) },
            ModuleStatus {
                reason: Some("exited with status 78: no model".into()),
                ..module("score-real", ModuleState::Failed, 0)
            },
        ],
    };
    let output = Output::kept();
    show_status(&status, Path::new("/run/brahman/brahman.sock"), &output);
    insta::assert_snapshot!("status", output.printed());
    let pids: Vec<_> = scripted(&status).expect("JSON")["modules"]
        .as_array()
        .expect("modules")
        .iter()
        .map(|m| m["pid"].clone())
        .collect();
    assert_eq!(
        pids,
        [serde_json::json!(4711), serde_json::json!(4712), serde_json::Value::Null],
        "no process has no number"
    );
}

#[test]
fn a_mesh_in_the_background_says_how_to_see_stop_and_start_it_again() {
    for is_unit_there in [true, false] {
        let line = next_steps("brahman", is_unit_there);
        for words in [
            "`brahman status`",
            "`brahman down`",
            "`systemctl --user enable brahman.socket brahman.service`",
        ] {
            assert!(line.contains(words), "{line}");
        }
        assert_eq!(line.contains("make install"), !is_unit_there, "{line}");
    }
}

#[test]
fn where_the_cards_came_from_is_a_line_for_each_folder() {
    let module = |label: &str, origin: Option<&str>| ModuleStatus {
        label: label.into(),
        origin: origin.map(str::to_owned),
        ..ModuleStatus::default()
    };
    let modules = [
        module("broker", Some("/usr/share/brahman/cards/broker.toml")),
        module("mine", Some("/home/me/.config/brahman/cards/mine.toml")),
        module("index", Some("/usr/share/brahman/cards/index.toml")),
        module("guest", None),
    ];
    let lines = [
        "Cards /home/me/.config/brahman/cards: mine",
        "Cards /usr/share/brahman/cards: broker index",
        "Cards brought by the module: guest",
    ];
    assert_eq!(origin_lines(&modules), lines);
    assert!(origin_lines(&modules[3..]).is_empty());
}

#[test]
fn replicas_that_are_behind_and_unavailable_buckets_are_reported() {
    let lines = |all: &[(&str, &str)]| {
        storage_lines(
            &all.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        )
    };
    let behind = [
        ("copies.objects", "3"),
        ("copies.bytes", "2048"),
        ("copies.oldest_s", "90"),
        ("copies.why", "no space"),
    ];
    assert_eq!(
        lines(&behind),
        [
            "3 objects (2.00 KiB) have no replica in bucket rescue yet, the oldest for 1m30s: no space"
        ]
    );
    assert_eq!(
        lines(&[("buckets.away", "disk")]),
        ["bucket disk is unavailable; see `brahman buckets health`"]
    );
    assert_eq!(
        lines(&[("damaged", "errors.log had damaged records"), ("state", "read-only")]).len(),
        2
    );
    assert!(
        lines(&[("copies.objects", "0"), ("copies.why", ""), ("buckets.away", ""), ("model", "m")])
            .is_empty()
    );
}
