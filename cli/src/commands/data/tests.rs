//! What a person sees of datasets, watches and runs, and what a command line is read as.

use brahman_card::interface::ingest::{
    Drift, IngestSummary, Quarantine, Run, RunsOut, WatchStatus, WatchesOut,
};

use super::arguments::column_types;
use super::ingest::{ingested, show_runs, show_watches};
use super::*;

#[test]
fn a_run_of_the_lineage_has_the_id_by_which_runs_and_datasets_name_it() {
    let ulid = ulid_of("01563e3a-b5d3-d676-4c61-efb99302bd5b");
    assert_eq!(ulid.as_deref(), Some("01ARZ3NDEKTSV4RRFFQ69G5FAV"));
    assert_eq!(ulid_of("ffffffff-ffff-ffff-ffff-ffffffffffff").map(|id| id.len()), Some(26));
    assert_eq!((ulid_of(""), ulid_of("01563e3a"), ulid_of("no uuid")), (None, None, None));
}

#[test]
fn datasets_watches_and_runs_are_tables() {
    let dataset = |name: &str| Dataset {
        name: name.into(),
        generation: 3,
        rows: 128,
        bytes: 271_360,
        ..Dataset::default()
    };
    let datasets = vec![
        Dataset { stale: vec!["notes".into()], ..dataset("notes") },
        Dataset {
            state: Some("damaged".into()),
            reason: Some("notes.json: expected value".into()),
            ..dataset("ノート")
        },
    ];
    let apart = Some(vec![Dataset { maker: Some("ingest-mock".into()), ..dataset("orders") }]);
    let strangers = Some(vec!["lake/datasets/x/01H".to_owned()]);
    let output = Output::kept();
    show_datasets(
        &catalog::ListOut { datasets, apart, strangers, ..catalog::ListOut::default() },
        &output,
    );
    insta::assert_snapshot!("datasets", output.printed());

    let watch = WatchStatus {
        dataset: "notes".into(),
        paths: vec!["/home/you/notes".into()],
        state: "watching".into(),
        format: Some("csv".into()),
        files: 128,
        drift: Some(vec![Drift {
            column: "price".into(),
            was: Some("Int64".into()),
            now: Some("Float64".into()),
        }]),
        generation: Some(1),
        rows: Some(128),
        ..WatchStatus::default()
    };
    let output = Output::kept();
    show_watches(&WatchesOut { watches: vec![watch] }, &output);
    insta::assert_snapshot!("watches", output.printed());

    let run = Run {
        run_id: "01HZY0000000000000000000000".into(),
        dataset: "notes".into(),
        state: "failed".into(),
        rows: 7,
        bytes: 4096,
        started_ms: 1,
        seconds: 1.5,
        error: Some("no rows".into()),
    };
    let output = Output::kept();
    show_runs(&RunsOut { runs: vec![run] }, &output);
    insta::assert_snapshot!("runs", output.printed());
}

#[test]
fn types_are_said_by_column_whatever_a_name_holds() {
    let of = |said: &str| {
        column_types(said).map(|types| {
            types.into_iter().map(|(name, kind)| format!("{name}:{kind}")).collect::<Vec<_>>()
        })
    };
    assert_eq!(
        of("id=int64,price=decimal(10,2)").expect("types"),
        ["id:int64", "price:decimal(10,2)"]
    );
    assert_eq!(of("Last, first=text,a=b=date").expect("types"), ["Last, first:text", "a=b:date"]);
    assert!(of("id").is_err() && of("id=int64,price").is_err());
}

#[test]
fn what_an_ingest_made_is_said_with_what_it_left_out() {
    let out = IngestSummary {
        rows: 3,
        bytes: 210,
        dataset: "notes".into(),
        generation: Some(1),
        quarantined: Some(1),
        quarantine: Some(vec![Quarantine {
            source: "/n/a.png".into(),
            row: None,
            reason: "is binary".into(),
        }]),
        seconds: 0.5,
        ..IngestSummary::default()
    };
    let output = Output::kept();
    ingested("notes", &out, &output);
    insta::assert_snapshot!("ingested", output.printed());
}
