//! Where a scrub goes on, and what runs have left.

use super::position::POSITION;
use super::*;

#[test]
fn a_position_outlives_the_process_and_what_cannot_be_read_begins_anew() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join(POSITION);
    assert_eq!(Position::read(&path), Position::default());
    let after = Some(("primary".to_owned(), "datasets/d/r/p".to_owned()));
    let damaged = [("rescue".to_owned(), "k".to_owned())].into();
    let position = Position { after, finished_ms: Some(7), damaged };
    checked::write(&path, &serde_json::to_vec(&position).expect("JSON")).expect("written");
    assert_eq!(Position::read(&path), position);
    // As an earlier version wrote it.
    fs::write(&path, r#"{"finished_ms": 7, "unrepaired": 0, "unrepaired_before": 0}"#)
        .expect("written");
    assert_eq!(Position::read(&path), Position { finished_ms: Some(7), ..Position::default() });
    fs::write(
        &path,
        r#"{"after": null, "finished_ms": 7, "unrepaired": 0, "unrepaired_before": 1}"#,
    )
    .expect("written");
    assert_eq!(
        Position::read(&path),
        Position::default(),
        "what an earlier version found damaged is looked for at once"
    );
    for bad in [
        "{",
        "{\"finished_ms\": 7}\nbrahman-file 1 sha256 0\n",
        "{\"finished_ms\": 7}\nbrahman-file 2 x\n",
    ] {
        fs::write(&path, bad).expect("damaged");
        assert_eq!(Position::read(&path), Position::default(), "{bad}");
    }
}

#[test]
fn what_a_run_has_left_is_counted_and_an_empty_folder_is_nothing() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let run = UnfinishedRun { dataset: "d".into(), run_id: "r".into(), ..UnfinishedRun::default() };
    assert_eq!(measured(run.clone(), folder.path()), None);
    assert_eq!(measured(run.clone(), &folder.path().join("none")), None);
    fs::create_dir(folder.path().join("deep")).expect("made");
    for (name, text) in [("part-0.parquet", "half"), ("deep/part-1.parquet", "more")] {
        fs::write(folder.path().join(name), text).expect("written");
    }
    let left = measured(run, folder.path()).expect("something");
    assert_eq!((left.objects, left.bytes, left.dataset.as_str()), (2, 8, "d"));
}
