//! The journal of runs: what it knows after restarts, damage and compaction.

use brahman_card::interface::catalog::Object;
use brahman_card::interface::catalog::{Origin, Version};
use chrono::Utc;

use super::record::input;
use super::record::uuid;
use super::*;

#[test]
fn inputs_are_named_as_openlineage_names_them() {
    let of =
        |source: &str| (input(source)["namespace"].to_string(), input(source)["name"].to_string());
    assert_eq!(
        of("postgres://db:5432/shop.public.orders"),
        ("\"postgres://db:5432\"".into(), "\"shop.public.orders\"".into())
    );
    assert_eq!(
        of("postgres:///run/pg:5432/shop.public.orders"),
        ("\"postgres:///run/pg:5432\"".into(), "\"shop.public.orders\"".into())
    );
    assert_eq!(of("file:///data/a.csv"), ("\"file\"".into(), "\"/data/a.csv\"".into()));
    assert_eq!(uuid("01ARZ3NDEKTSV4RRFFQ69G5FAV").len(), 36);
}

#[test]
fn what_was_committed_is_known_until_it_is_deleted_and_outlives_compaction() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut journal = Journal::open(folder.path(), std::iter::empty()).expect("opens");
    journal.start("d", "r1", "ingest").expect("noted");
    let lineage = Origin { run_id: "r1".into(), ..Origin::default() };
    let dataset =
        Dataset { name: "d".into(), generation: 4, rows: 7, lineage, ..Dataset::default() };
    journal.complete(&dataset).expect("noted");
    journal.start("slow", "r2", "ingest").expect("noted");
    journal.compact_at = 3;
    let filler: Vec<Record> = (0..EVENTS_MAX)
        .map(|i| Record {
            dataset: "e".into(),
            run_id: format!("x{i}"),
            producer: None,
            bucket: None,
            made: None,
            event: json!({"eventType": "FAIL"}),
        })
        .collect();
    journal.append(filler).expect("noted");
    drop(journal);
    let mut journal = Journal::open(folder.path(), std::iter::empty()).expect("opens");
    assert!(
        journal.records.len() < EVENTS_MAX && journal.is_open("r2"),
        "what has not ended is still open"
    );
    let last = journal.last_committed("d").expect("known");
    assert_eq!(
        (last.run_id.as_str(), last.generation, last.rows, last.made.map(|m| m.rows)),
        ("r1", 4, Some(7), Some(7))
    );
    journal.dropped("d").expect("noted");
    assert!(journal.last_committed("d").is_none() && journal.committed_runs("d").is_empty());
    assert_eq!(journal.unread(), None);
    std::fs::write(folder.path().join("lineage.log.quarantine"), "a line").expect("written");
    assert!(journal.unread().is_some_and(|why| why.contains("quarantine")));
}

#[test]
fn an_event_that_is_gone_is_missed_and_a_journal_that_cannot_be_read_stops_runs_alone() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let open = || Journal::open(folder.path(), std::iter::empty()).expect("opens");
    let mut journal = open();
    for run in ["r1", "r2", "r3"] {
        journal.start("d", run, "ingest").expect("noted");
    }
    assert!(journal.unread().is_none() && journal.known().is_ok());
    drop(journal);
    let path = folder.path().join("lineage.log");
    let text = std::fs::read_to_string(&path).expect("there");
    let without: String = text
        .split_inclusive('\n')
        .enumerate()
        .filter(|(line, _)| *line != 1)
        .map(|(_, text)| text)
        .collect();
    std::fs::write(&path, without).expect("harmed");
    for _ in 0..2 {
        let journal = open();
        assert!(journal.is_open("r1") && !journal.is_open("r2") && journal.is_open("r3"));
        assert!(
            journal.unread().is_some_and(|why| why.contains("lineage.log.quarantine")),
            "it stays said"
        );
    }
    std::fs::remove_file(&path).and_then(|()| std::fs::create_dir(&path)).expect("unreadable");
    let mut journal = open();
    assert!(
        journal
            .unread()
            .is_some_and(|why| why.contains("lineage.log") && why.contains("restart catalog"))
    );
    let refused =
        journal.start("d", "r4", "ingest").expect_err("nobody knows what it would stand beside");
    assert!(refused.to_string().contains("no run begins") && journal.known().is_err(), "{refused}");
    assert!(
        !journal.is_open("r4") && journal.run("r1", 0).is_none(),
        "nothing is taken for what has ended"
    );
}

/// A dataset as a run has made it.
fn made(name: &str, generation: u64, run: &str) -> Dataset {
    let lineage = Origin { run_id: run.into(), ..Origin::default() };
    Dataset { name: name.into(), generation, lineage, ..Dataset::default() }
}

#[test]
fn a_journal_that_has_gone_with_its_head_is_missed_by_the_datasets_and_a_new_one_is_not() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| folder.path().join(name);
    let datasets = [made("d", 2, "r2"), made("e", 1, "r3"), made("old", 1, "")];
    let earlier = tempfile::tempdir().expect("a temporary directory");
    let upgraded = || Journal::open(earlier.path(), datasets.iter()).expect("opens").unread();
    assert_eq!(
        (upgraded(), upgraded()),
        (None, None),
        "what an earlier version did not record is no loss"
    );
    std::fs::remove_file(earlier.path().join("lineage.log")).expect("removed");
    assert!(upgraded().is_some());
    let open = || Journal::open(folder.path(), datasets.iter()).expect("opens");
    assert_eq!(
        Journal::open(folder.path(), std::iter::empty()).expect("opens").unread(),
        None,
        "there was nothing yet"
    );
    let mut journal = Journal::open(folder.path(), std::iter::empty()).expect("opens");
    for (name, generation, run) in [("d", 1, "r1"), ("d", 2, "r2"), ("e", 1, "r3")] {
        journal.start(name, run, "ingest").expect("noted");
        journal.complete(&made(name, generation, run)).expect("noted");
    }
    drop(journal);
    assert_eq!(open().unread(), None);
    // All of it, or its end; the head alone would be no loss.
    let whole = std::fs::read_to_string(at("lineage.log")).expect("there");
    std::fs::remove_file(at("lineage.log.head")).expect("removed");
    assert_eq!(open().unread(), None);
    for kept in [0, 4] {
        let cut: String = whole.split_inclusive('\n').take(kept).collect();
        std::fs::write(at("lineage.log"), cut).expect("cut");
        std::fs::remove_file(at("lineage.log.head")).expect("removed");
        let journal = open();
        let said = journal.unread().expect("said");
        let run = if kept == 0 {
            "run r2 of dataset `d`, run r3 of dataset `e`"
        } else {
            "of run r3 of dataset `e`,"
        };
        assert!(said.contains(run) && said.contains("lineage.log.quarantine"), "{said}");
        assert!(journal.run("r3", 0).is_none(), "it is nobody's that is known");
        drop(journal);
        let journal = open();
        assert!(
            journal.unread().is_some_and(|why| why.contains("lineage.log.quarantine")),
            "it stays said"
        );
        std::fs::remove_file(at("lineage.log.quarantine")).expect("looked at, and moved away");
        assert_eq!(journal.unread(), None);
        drop(journal);
        assert_eq!(open().unread(), None, "and is said once");
    }
}

#[test]
fn the_run_that_made_a_generation_stays_known_whatever_found_nothing_new_since() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut journal = Journal::open(folder.path(), std::iter::empty()).expect("opens");
    let dataset = made("d", 1, "r1");
    journal.start("d", "r1", "ingest").expect("noted");
    journal.complete(&dataset).expect("noted");
    for n in 0..4 {
        let run = format!("nothing-{n}");
        journal.start("d", &run, "ingest").expect("noted");
        journal.complete_as(&dataset, &Origin { run_id: run, ..Origin::default() }).expect("noted");
    }
    let foreign = made("f", 1, "theirs");
    journal.take_up(&foreign).expect("noted");
    journal.compact_at = 3;
    let event = json!({"eventType": "FAIL"});
    let filler = |i| Record {
        dataset: "e".into(),
        run_id: format!("x{i}"),
        producer: None,
        bucket: None,
        made: None,
        event: event.clone(),
    };
    journal.append((0..EVENTS_MAX).map(filler).collect()).expect("noted");
    drop(journal);
    let journal = Journal::open(folder.path(), [&dataset, &foreign].into_iter()).expect("opens");
    assert!(
        journal.unread().is_none()
            && journal.run("r1", 0).is_some()
            && journal.run("theirs", 0).is_none()
    );
}

#[test]
fn what_the_previous_generation_was_made_of_outlives_compaction_whatever_found_nothing_new_since() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut journal = Journal::open(folder.path(), std::iter::empty()).expect("opens");
    let datasets = [made("d", 1, "r1"), made("d", 2, "r2"), made("d", 3, "r3")];
    for dataset in &datasets {
        let run = dataset.lineage.run_id.clone();
        journal.start("d", &run, "ingest").expect("noted");
        journal.complete(dataset).expect("noted");
        for n in 0..3 {
            let run = format!("{run}-nothing-{n}");
            journal.start("d", &run, "ingest").expect("noted");
            journal
                .complete_as(dataset, &Origin { run_id: run, ..Origin::default() })
                .expect("noted");
        }
    }
    journal.compact_at = 3;
    let event = json!({"eventType": "FAIL"});
    let filler = |i| Record {
        dataset: "e".into(),
        run_id: format!("x{i}"),
        producer: None,
        bucket: None,
        made: None,
        event: event.clone(),
    };
    journal.append((0..EVENTS_MAX).map(filler).collect()).expect("noted");
    drop(journal);
    let journal = Journal::open(folder.path(), std::iter::once(&datasets[2])).expect("opens");
    assert_eq!(journal.unread(), None);
    let known = ["r1", "r2", "r3"]
        .map(|run| (journal.made_by("d", run).is_some(), journal.run(run, 0).is_some()));
    assert_eq!(known, [(false, false), (true, true), (true, true)]);
    assert_eq!(journal.last_committed("d").map(|last| last.generation), Some(3));
}

#[test]
fn a_commit_whose_record_is_damaged_is_told_by_name_and_counts_as_its_dataset_s_file_says() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut journal = Journal::open(folder.path(), std::iter::empty()).expect("opens");
    for (generation, run) in [(1, "r1"), (2, "r2")] {
        journal.start("d", run, "ingest").expect("noted");
        journal.complete(&made("d", generation, run)).expect("noted");
    }
    drop(journal);
    // A flipped byte in the record of the first commit.
    let path = folder.path().join("lineage.log");
    let text = std::fs::read_to_string(&path).expect("there");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = lines
        .iter()
        .position(|line| line.contains("COMPLETE") && line.contains("r1"))
        .expect("its record");
    let flip = |(n, line): (usize, &String)| {
        let line = if n == at { line.replacen("brahman", "brahmbn", 1) } else { line.clone() };
        line + "\n"
    };
    let flipped: String = lines.iter().enumerate().map(flip).collect();
    std::fs::write(&path, flipped).expect("damaged");
    let present = made("d", 2, "r2");
    let mut journal = Journal::open(folder.path(), std::iter::once(&present)).expect("opens");
    assert!(journal.is_open("r1"), "nothing that can be read says that it has ended");
    let version = |generation, run: &str| Version {
        generation,
        run_id: run.into(),
        rows: 0,
        bytes: 0,
        committed_ms: 0,
    };
    journal.note_published("d", &version(1, "r1"));
    journal.note_published("d", &version(2, "r2"));
    journal.note_published("other", &version(1, "r1"));
    assert_eq!(journal.run("r1", 0).map(|run| run.standing), Some(Standing::Committed));
    assert_eq!(
        journal.abandon(None, Some("ingest"), "it died", false).expect("noted"),
        0,
        "it is not given up"
    );
    assert_eq!(journal.last_committed("d").map(|last| last.generation), Some(2));
    let named = journal.damaged_records();
    assert!(
        named[0].contains("dataset d, run r1, COMPLETE") && named[1].contains("commit of run r1"),
        "{named:?}"
    );
    assert!(journal.unread().is_some_and(|why| why.contains("quarantine")));
}

#[test]
fn runs_whose_objects_are_needed_stay_known_when_older_events_are_dropped() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut journal = Journal::open(folder.path(), std::iter::empty()).expect("opens");
    let object = |run: &str| {
        let (bucket, key) = ("lake".to_owned(), format!("datasets/d/{run}/part-0.parquet"));
        Object {
            bucket,
            key,
            url: String::new(),
            rows: 1,
            bytes: 1,
            sha256: String::new(),
            path: None,
        }
    };
    for (run, objects) in [
        ("r1", vec![object("r1")]),
        ("r2", vec![object("r1"), object("r2")]),
        ("r3", vec![object("r1")]),
    ] {
        journal.start_in("d", run, "ingest", Some("lake")).expect("noted");
        let lineage = Origin { run_id: run.into(), ..Origin::default() };
        journal
            .complete(&Dataset { name: "d".into(), lineage, objects, ..Dataset::default() })
            .expect("noted");
    }
    journal.start_in("d", "spent", "ingest", Some("lake")).expect("noted");
    assert_eq!(journal.abandon(Some("spent"), None, "no", false).expect("noted"), 1);
    journal.compact_at = 3;
    let event = json!({"eventType": "FAIL"});
    let filler = |i| Record {
        dataset: "e".into(),
        run_id: format!("x{i}"),
        producer: None,
        bucket: None,
        made: None,
        event: event.clone(),
    };
    journal.append((0..EVENTS_MAX).map(filler).collect()).expect("noted");
    drop(journal);
    let journal = Journal::open(folder.path(), std::iter::empty()).expect("opens");
    for run in ["r1", "r2", "r3"] {
        let known = journal.run(run, 0).expect("it is ours");
        assert_eq!((known.standing, known.dataset.as_str()), (Standing::Committed, "d"), "{run}");
    }
    assert!(
        journal.run("r1", 0).is_some_and(|run| run.buckets.contains("lake")),
        "and where it wrote"
    );
    assert_eq!(journal.run("spent", 0), None);
}

#[test]
fn how_long_ago_a_run_was_given_up_is_told_by_its_event() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut journal = Journal::open(folder.path(), std::iter::empty()).expect("opens");
    journal.start_in("d", "r", "ingest", Some("primary")).expect("noted");
    let open = journal.open_runs(None, Some("ingest"));
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!((open[0].run_id.as_str(), open[0].dataset.as_str()), ("r", "d"));
    journal.abandon(Some("r"), None, "no", false).expect("noted");
    let now = u64::try_from(Utc::now().timestamp_millis()).expect("after 1970");
    let later = journal.run("r", now + 7_200_000).expect("known");
    assert!(
        matches!(later.standing, Standing::Failed { for_ms } if for_ms >= 7_000_000),
        "{later:?}"
    );
    assert_eq!(
        journal.run("r", 0).map(|run| run.standing),
        Some(Standing::Failed { for_ms: 0 }),
        "a clock that jumped back"
    );
    assert!(journal.open_runs(None, Some("ingest")).is_empty());
}

#[test]
fn a_producer_that_died_ends_its_runs_and_no_other() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let open = || Journal::open(folder.path(), std::iter::empty()).expect("opens");
    let mut journal = open();
    for (run, producer) in [("r1", "ingest"), ("r2", "ingest"), ("r3", "ingest-mock")] {
        journal.start("d", run, producer).expect("noted");
    }
    drop(journal);
    let mut journal = open();
    assert_eq!(journal.abandon(None, Some("ingest"), "it died", false).expect("noted"), 2);
    assert_eq!((journal.is_open("r1"), journal.is_open("r3")), (false, true));
    assert_eq!(journal.abandon(Some("r3"), None, "enough", true).expect("noted"), 1);
    let kinds: Vec<String> = open()
        .events("d", 10)
        .iter()
        .map(|e| e["eventType"].as_str().expect("a kind").to_owned())
        .collect();
    assert_eq!(kinds, ["START", "START", "START", "FAIL", "FAIL", "ABORT"]);
}
