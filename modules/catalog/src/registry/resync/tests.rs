//! Datasets that are put together again, and what is refused.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use brahman_card::interface::catalog::{CommitIn, LocationOut, Watermark};
use brahman_storage::buckets::Root;
use parquet::arrow::ArrowWriter;

use super::super::sweep::{ListedObject, Verdict};
use super::*;
use crate::footers;

/// Writes a Parquet object of so many rows into a run.
fn write(registry: &mut DatasetRegistry, run: &str, rows: i64) -> Object {
    write_values(registry, run, 0..rows)
}

fn write_values(registry: &mut DatasetRegistry, run: &str, values: std::ops::Range<i64>) -> Object {
    let LocationOut { key_prefix, path, .. } =
        registry.location("d", run, "test", None).expect("a place");
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![Arc::new(Int64Array::from_iter_values(values))],
    )
    .expect("a batch");
    let file = fs::File::create(Path::new(&path).join("part-0.parquet")).expect("created");
    let mut writer = ArrowWriter::try_new(file, schema, None).expect("a writer");
    writer.write(&batch).and_then(|()| writer.close()).expect("written");
    let folder = Path::new(&path).ancestors().nth(3).expect("the bucket").to_owned();
    footers::object("primary", &Root::local(folder), &format!("{key_prefix}/part-0.parquet"))
        .expect("an object")
        .0
}

/// A dataset that was read by and by: 1,000 rows, then 10 more.
fn by_and_by(state: &Path) -> DatasetRegistry {
    let mut registry = DatasetRegistry::open(state).expect("open");
    let mut objects = Vec::new();
    for (run, rows) in [("r1", 1000), ("r2", 10)] {
        objects.push(write(&mut registry, run, rows));
        let watermark = Some(Watermark {
            column: "u".into(),
            bound: rows.to_string(),
            source: "s".into(),
            ..Watermark::default()
        });
        let commit = CommitIn {
            name: "d".into(),
            run_id: run.into(),
            objects: objects.clone(),
            watermark,
            ..CommitIn::default()
        };
        registry.commit(commit, 0).expect("committed");
    }
    registry
}

/// Takes what is there, whatever was committed.
fn accept(registry: &mut DatasetRegistry) -> Result<Resync, RegistryError> {
    let findings = registry.look("d")?.accepting_damage(true).read(None)?;
    registry.settle(findings)
}

fn lose(state: &Path) -> DatasetRegistry {
    fs::remove_file(state.join("catalog/d.json")).expect("removed");
    DatasetRegistry::open(state).expect("open")
}

#[test]
fn all_runs_of_the_last_generation_come_back_with_where_reading_stood() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let before = by_and_by(state.path()).get("d").expect("there");
    let mut registry = lose(state.path());
    assert_eq!(registry.list()[0].state.as_deref(), Some("lost"), "it stays visible");
    let back = registry.resync("d", None).expect("back").dataset;
    assert_eq!((back.rows, back.objects.len(), &back.watermark), (1010, 2, &before.watermark));
    assert_eq!(
        (back.generation, &back.run_id),
        (before.generation, &before.run_id),
        "the same content is the same generation"
    );
    let listed = ListedObject {
        bucket: "primary".into(),
        key: "datasets/d/r1/part-0.parquet".into(),
        resumable: true,
    };
    assert_eq!(registry.verdict(&listed), Verdict::Kept, "nothing of it may go");
    // Damaged instead of gone.
    let path = state.path().join("catalog/d.json");
    let text = fs::read_to_string(&path).expect("there").replace("1010", "1011");
    fs::write(&path, text).expect("damaged");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    let back = registry.resync("d", None).expect("back").dataset;
    assert_eq!((back.rows, &back.watermark), (1010, &before.watermark));
}

#[test]
fn a_commit_that_is_said_again_is_answered_whatever_is_published_since() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    let object = write(&mut registry, "a", 7);
    let commit = CommitIn {
        name: "d".into(),
        run_id: "a".into(),
        objects: vec![object],
        ..CommitIn::default()
    };
    assert_eq!(registry.commit(commit.clone(), 0).expect("committed").0, 1);
    // Its object is written anew, and what a resync makes of that is the next generation.
    write(&mut registry, "other", 5);
    let primary = state.path().join("buckets/primary/datasets/d");
    fs::copy(primary.join("other/part-0.parquet"), primary.join("a/part-0.parquet"))
        .expect("copied");
    match registry.resync("d", None).expect_err("nobody has said that it may be taken") {
        RegistryError::Incomplete { keys, why, .. } => {
            assert_eq!(keys, ["datasets/d/a/part-0.parquet"]);
            assert!(why.contains("accept_damage"), "{why}");
        }
        other => panic!("{other}"),
    }
    let done = accept(&mut registry).expect("it drifted");
    assert!(
        done.changed && done.dataset.generation == 2 && done.dataset.run_id.as_deref() != Some("a")
    );
    assert_eq!(registry.commit(commit.clone(), 0).expect("it was published").0, 1);
    assert_eq!(registry.get("d").expect("there").rows, 5, "nothing is published twice");
    // One that found nothing new is said again as well.
    registry.location("d", "b", "test", None).expect("a place");
    let nothing = CommitIn {
        run_id: "b".into(),
        objects: registry.get("d").expect("there").objects,
        ..commit
    };
    for _ in 0..2 {
        assert_eq!(registry.commit(nothing.clone(), 0).expect("committed").0, 2);
    }
    assert!(matches!(registry.said_again("d", "never"), Err(RegistryError::GivenUp(_))));
    registry.delete("d").expect("deleted");
    assert!(
        matches!(registry.said_again("d", "a"), Err(RegistryError::GivenUp(_))),
        "what was deleted is not there any more"
    );
}

#[test]
fn what_was_read_is_published_only_over_what_it_was_read_of() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    let commit = |registry: &mut DatasetRegistry, run: &str, rows| {
        let objects = vec![write(registry, run, rows)];
        let commit =
            CommitIn { name: "d".into(), run_id: run.into(), objects, ..CommitIn::default() };
        registry.commit(commit, 0).expect("committed")
    };
    commit(&mut registry, "a", 7);
    let findings = registry.look("d").and_then(|looking| looking.read(None)).expect("read");
    assert_eq!(commit(&mut registry, "b", 9).0, 2, "nobody has to wait until it is read");
    let moved = registry.settle(findings).expect_err("it is of another generation");
    assert!(
        matches!(&moved, RegistryError::Moved { .. }) && moved.to_string().contains("run b"),
        "{moved}"
    );
    assert_eq!(registry.get("d").expect("there").rows, 9);
    // What indexes say meanwhile is kept.
    let other = write(&mut registry, "other", 5);
    fs::copy(
        registry.roots().path(&other).expect("a path"),
        state.path().join("buckets/primary/datasets/d/b/part-0.parquet"),
    )
    .expect("copied");
    let findings = registry
        .look("d")
        .and_then(|looking| looking.accepting_damage(true).read(None))
        .expect("read");
    registry.mark_stale("d", "i", None).expect("marked");
    let done = registry.settle(findings).expect("its objects are the same");
    assert_eq!((done.dataset.rows, &done.dataset.stale), (5, &vec!["i".to_owned()]));
    // Lost: nothing is begun over it, for then its objects would be nobody's; and brought back.
    drop(registry);
    let mut registry = lose(state.path());
    let refused = registry.location("d", "c", "test", None).expect_err("its file is gone");
    assert!(
        matches!(&refused, RegistryError::Damaged { .. })
            && refused.to_string().contains("resync d"),
        "{refused}"
    );
    let findings = registry.look("d").and_then(|looking| looking.read(None)).expect("read");
    registry.settle(findings).expect("nobody else is there");
    assert_eq!(registry.get("d").expect("there").rows, 5);
}

#[test]
fn bytes_that_cannot_be_read_are_published_by_nobody_s_word() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    let object = write(&mut registry, "a", 5000);
    let commit = CommitIn {
        name: "d".into(),
        run_id: "a".into(),
        objects: vec![object.clone()],
        ..CommitIn::default()
    };
    registry.commit(commit, 0).expect("committed");
    let path = registry.roots().path(&object).expect("a path");
    let mut bytes = fs::read(&path).expect("there");
    // The first page's header, behind the magic: the footer says nothing of it.
    bytes[4..30].fill(0xff);
    fs::write(&path, bytes).expect("damaged");
    let looking = registry.look("d").expect("it is there").accepting_damage(true);
    let refused = looking.read(None).expect_err("nobody could read it");
    assert!(refused.to_string().contains("cannot be read to its end"), "{refused}");
}

#[test]
fn what_does_not_add_up_is_refused_and_named() {
    let state = tempfile::tempdir().expect("a temporary directory");
    drop(by_and_by(state.path()));
    let mut registry = lose(state.path());
    let first = state.path().join("buckets/primary/datasets/d/r1/part-0.parquet");
    let whole = fs::read(&first).expect("there");
    fs::remove_file(&first).expect("removed");
    match registry.resync("d", None).expect_err("a thousand rows are gone") {
        RegistryError::Incomplete { keys, rows, expected_rows, .. } => {
            assert_eq!(
                (keys, rows, expected_rows),
                (vec!["datasets/d/r1/part-0.parquet".to_owned()], 10, 1010)
            );
        }
        other => panic!("{other}"),
    }
    assert!(
        matches!(registry.get("d"), Err(RegistryError::NoSuchDataset(_))),
        "nothing was published"
    );
    // With another number of rows than was recorded.
    fs::copy(state.path().join("buckets/primary/datasets/d/r2/part-0.parquet"), &first)
        .expect("copied");
    let refused = registry.resync("d", None).expect_err("it has ten rows now");
    assert!(
        refused.to_string().contains("1010 rows")
            && refused.to_string().contains("r1/part-0.parquet"),
        "{refused}"
    );
    fs::write(&first, whole).expect("put back");
    assert_eq!(registry.resync("d", None).expect("back").dataset.rows, 1010);
}

#[test]
fn a_lost_dataset_whose_bytes_are_others_is_taken_only_if_somebody_says_so() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = by_and_by(state.path());
    // As many rows, and other bytes.
    let other = write_values(&mut registry, "other", 100..110);
    let (from, to) = (
        registry.roots().path(&other).expect("a path"),
        state.path().join("buckets/primary/datasets/d/r2/part-0.parquet"),
    );
    fs::copy(from, to).expect("copied");
    drop(registry);
    let mut registry = lose(state.path());
    assert!(matches!(
        registry.resync("d", None),
        Err(RegistryError::Incomplete { rows: 1010, expected_rows: 1010, .. })
    ));
    let taken = accept(&mut registry).expect("somebody says so").dataset;
    assert!(taken.rows == 1010 && taken.run_id.as_deref() != Some("r2"), "{taken:?}");
}

#[test]
fn a_journal_that_names_no_objects_still_knows_how_many_rows_there_were() {
    let state = tempfile::tempdir().expect("a temporary directory");
    drop(by_and_by(state.path()));
    let log = state.path().join("catalog/lineage.log");
    // As earlier versions wrote it.
    let (_, mut records) =
        brahman_storage::log::Log::open::<serde_json::Value>(&log).expect("opens");
    records
        .iter_mut()
        .filter_map(serde_json::Value::as_object_mut)
        .for_each(|record| drop(record.remove("made")));
    fs::remove_file(&log).expect("removed");
    brahman_storage::log::Log::open::<serde_json::Value>(&log)
        .expect("opens")
        .0
        .append(&records)
        .expect("written");
    let mut registry = lose(state.path());
    let done = registry.resync("d", None).expect("back");
    assert_eq!((done.dataset.rows, done.dataset.objects.len()), (1010, 2));
    assert!(done.notes.iter().any(|note| note.contains("incremental")), "{:?}", done.notes);
    let mut registry = lose(state.path());
    fs::remove_dir_all(state.path().join("buckets/primary/datasets/d/r1")).expect("removed");
    assert!(matches!(
        registry.resync("d", None),
        Err(RegistryError::Incomplete { rows: 10, expected_rows: 1010, .. })
    ));
}

#[test]
fn where_nothing_is_recorded_nobody_guesses() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = by_and_by(state.path());
    write(&mut registry, "failed", 5);
    registry.journal.abandon(Some("failed"), None, "no", false).expect("noted");
    drop(registry);
    // As an earlier version would have left it: of a journal of today it is known that it has gone.
    for name in ["lineage.log", "lineage.log.head"] {
        fs::remove_file(state.path().join("catalog").join(name)).expect("removed");
    }
    fs::remove_dir_all(state.path().join("buckets/primary/datasets/d/failed")).expect("removed");
    let mut registry = lose(state.path());
    let refused = registry.resync("d", None).expect_err("there are two runs").to_string();
    assert!(refused.contains("r1 (1000 rows)") && refused.contains("r2 (10 rows)"), "{refused}");
    let named = ["r1".to_owned(), "r2".to_owned()];
    let done = registry.resync("d", Some(&named)).expect("named");
    assert_eq!(done.dataset.rows, 1010);
    assert!(
        done.notes.iter().any(|note| note.contains("lineage says nothing: r1, r2")),
        "{:?}",
        done.notes
    );
    // They are needed now, and whatever becomes of the dataset they are not ours to delete.
    registry.delete("d").expect("deleted");
    registry.tidy(None, &BTreeSet::new());
    assert!(state.path().join("buckets/primary/datasets/d/r1/part-0.parquet").is_file());
    assert_eq!(registry.strangers(), ["primary/d/r1", "primary/d/r2"]);
}
