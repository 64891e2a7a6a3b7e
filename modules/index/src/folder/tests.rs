//! Commits that are stopped at every step, files that are damaged, and what is removed.

mod damage;

use std::path::PathBuf;

use brahman_card::interface::index::Measurement;
use flat_hnsw::build::{Parameters, mix};
use flat_hnsw::sample::unit_vectors;

use super::*;
use crate::embedder::Model;
use crate::generation::SearchOptions;
use crate::rows::Row;

const DIM: usize = 16;

fn content(seed: u64, rows: std::ops::Range<u32>) -> Content {
    let mut store = RowStore::default();
    for number in rows.clone() {
        let (id, text) = (format!("doc-{number}"), format!("words of {number}"));
        store.push(&Row {
            doc_id: &id,
            content_hash: &[1; 32],
            chunk: 0,
            start: 0,
            line: 1,
            context: "",
            text: &text,
        });
    }
    let columns = segment::no_columns(rows.len()).expect("no columns");
    Content { rows: store, vectors: unit_vectors(seed, rows.len(), DIM), columns }
}

fn manifest(number: u64, parent: Option<&str>) -> Manifest {
    let model = Model { name: "m".into(), fingerprint: "f".into(), dim: DIM, mock: false };
    let first = Manifest::first(
        model,
        "flat-hnsw".into(),
        Parameters { m: 8, ef_construction: 32, seed: 0 },
        64,
    );
    parent.map_or(Manifest { number, ..first.clone() }, |parent| {
        first.after(parent, number, "refresh")
    })
}

fn base(folder: &Folder, rows: u32) -> io::Result<Generation> {
    folder.commit_base(manifest(1, None), "d", content(1, 0..rows), 2, &|_| true)
}

/// What a reader sees: every live document and the vector it is found by.
fn seen(generation: &Generation) -> Vec<(String, u32)> {
    let allowed = generation.allowed(None);
    let mut all: Vec<(String, u32)> = generation
        .live_rows()
        .map(|number| {
            let found = generation.search(
                generation.vector(number),
                &SearchOptions { k: 1, ..SearchOptions::default() },
                &allowed,
            );
            assert_eq!(found.first().map(|f| f.row), Some(number), "a row finds itself");
            (
                generation.row(number).expect("whole").doc_id.to_owned(),
                generation.vector(number)[0].to_bits(),
            )
        })
        .collect();
    all.sort_unstable();
    all
}

fn append(folder: &Folder, old: &Generation) -> io::Result<Generation> {
    let dead: Vec<u32> =
        (0..old.len() as u32).filter(|row| mix(u64::from(*row)).is_multiple_of(50)).collect();
    folder.commit_delta(
        old,
        manifest(2, Some(&old.folder)),
        "d",
        &content(2, 10_000..10_030),
        &dead,
    )
}

#[test]
fn an_append_writes_what_it_adds_and_a_restart_sees_the_same() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let old = base(&folder, 1500).expect("committed");
    let new = append(&folder, &old).expect("appended");
    let added: u64 = new.manifest.segments.iter().map(|s| s.file.bytes).sum::<u64>()
        + new.manifest.dead.as_ref().map_or(0, |d| d.bytes);
    assert!(added < 3 * 30 * (DIM as u64 * 4 + 100) + 8192, "{added} bytes for 30 rows");
    assert_eq!(new.live_rows().count() as u64, new.manifest.chunks);
    let (opened, degraded) = folder.open().expect("opens");
    assert_eq!((seen(&opened.expect("there")), degraded), (seen(&new), None));
    assert!(
        new.words("10007", 3, &new.allowed(None))
            .expect("words")
            .rows
            .iter()
            .all(|f| f.row >= 1500)
    );
}

#[test]
fn data_keeps_its_name_through_compactions_and_restarts_and_has_another_after_a_refresh() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let old = base(&folder, 1500).expect("committed");
    let new = append(&folder, &old).expect("appended");
    let name = |generation: &Generation| generation.data_name().expect("whole");
    assert_ne!(name(&new), name(&old));
    // What the sum was brought up to is what all rows make.
    let counted = RowSum::of(new.with_vectors(new.live_rows())).expect("whole");
    assert_eq!(new.manifest.rows_sum, Some(counted));
    let mut all = Content {
        rows: RowStore::default(),
        vectors: Vec::new(),
        columns: segment::no_columns(0).expect("none"),
    };
    for row in new.live_rows() {
        all.rows.push(&new.row(row).expect("whole"));
        all.vectors.extend_from_slice(new.vector(row));
    }
    all.columns = segment::no_columns(all.rows.len()).expect("none");
    let compacted = new.manifest.after(&new.folder, 3, "compaction");
    let compacted = folder.commit_base(compacted, "d", all, 2, &|_| true).expect("compacted");
    assert_eq!(name(&compacted), name(&new));
    assert_eq!(name(&folder.open().expect("opens").0.expect("there")), name(&new));
    // One from before there were sums.
    let mut before = folder.load(&new.folder, None).expect("whole");
    before.manifest.rows_sum = None;
    assert_eq!((before.known_rows_sum(), name(&before)), (None, name(&new)));
    assert_eq!(before.known_rows_sum(), Some(counted), "and what was read once is known");
}

/// At every step of a commit: afterwards the index opens and is the old one or the new one, and
/// goes on.
#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new() {
    let mut steps_seen = 0;
    for stop_at in 0.. {
        let path = tempfile::tempdir().expect("a temporary directory");
        let whole = Folder::new(path.path(), Steps::default());
        let old = base(&whole, 1100).expect("committed");
        let before = seen(&old);
        let crashing = Folder::new(path.path(), Steps::stopping_at(stop_at));
        let appended = append(&crashing, &old);
        let rebuilt = match &appended {
            Ok(new) => crashing.commit_base(
                manifest(3, Some(&new.folder)),
                "d",
                content(3, 0..1200),
                2,
                &|_| true,
            ),
            Err(_) => Err(io::ErrorKind::Other.into()),
        };
        let (opened, degraded) = Folder::new(path.path(), Steps::default()).open().expect("opens");
        let now = seen(&opened.expect("there"));
        assert_eq!(degraded, None);
        let mut could_be = vec![before];
        if stop_at >= 1 {
            let other = tempfile::tempdir().expect("a temporary directory");
            let other = Folder::new(other.path(), Steps::default());
            let old = base(&other, 1100).expect("committed");
            could_be.push(seen(&append(&other, &old).expect("appended")));
            could_be.push(seen(
                &other
                    .commit_base(manifest(3, None), "d", content(3, 0..1200), 2, &|_| true)
                    .expect("committed"),
            ));
        }
        assert!(
            could_be.contains(&now),
            "after a stop at step {stop_at} the index is neither old nor new"
        );
        whole.collect(&HashSet::new());
        let (again, _) = whole.open().expect("opens after the leftovers are gone");
        assert_eq!(seen(&again.expect("there")), now);
        if rebuilt.is_ok() {
            steps_seen = stop_at;
            break;
        }
    }
    assert!(steps_seen >= 10, "only {steps_seen} steps were passed");
}

/// A promotion builds, is measured, and only then counts.
#[test]
fn a_crash_at_any_step_of_a_promotion_leaves_the_champion_or_the_challenger() {
    let passed = (0..).find(|stop_at| {
        let path = tempfile::tempdir().expect("a temporary directory");
        let whole = Folder::new(path.path(), Steps::default());
        let champion = base(&whole, 1100).expect("committed");
        let wanted = seen(&champion);
        let crashing = Folder::new(path.path(), Steps::stopping_at(*stop_at));
        let promoted = crashing
            .prepare_base(
                champion.manifest.after(&champion.folder, 2, "promotion"),
                "d",
                content(1, 0..1100),
                2,
                &|_| true,
            )
            .and_then(|challenger| {
                crashing.publish(
                    challenger,
                    Measurement { recall: 0.97, ..Measurement::default() },
                    0.95,
                    false,
                )
            });
        let (opened, degraded) = Folder::new(path.path(), Steps::default()).open().expect("opens");
        let opened = opened.expect("there");
        // The last step is behind the pointer: what counts may be new though the caller heard of a
        // failure.
        assert!(
            promoted.is_err() || opened.manifest.number == 2,
            "an acknowledged promotion counts"
        );
        assert_eq!(
            (opened.manifest.measured.is_some(), degraded),
            (opened.manifest.number == 2, None),
            "it counts only as measured"
        );
        assert_eq!(seen(&opened), wanted);
        whole.collect(&HashSet::new());
        assert_eq!(
            whole.open().expect("opens").0.expect("there").manifest.number,
            opened.manifest.number
        );
        promoted.is_ok()
    });
    assert!(passed >= Some(7), "only {passed:?} steps were passed");
}

#[test]
fn old_generations_go_and_those_that_are_read_or_needed_stay() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let first = base(&folder, 1100).expect("committed");
    let mut last = append(&folder, &first).expect("appended");
    for number in 3..9 {
        let nothing = content(1, 0..0);
        last = folder
            .commit_delta(&last, manifest(number, Some(&last.folder)), "d", &nothing, &last.dead())
            .expect("committed");
    }
    fs::create_dir(path.path().join("gen-leftover")).expect("made");
    folder.collect(&HashSet::from([first.folder.clone()]));
    let names: Vec<u64> = folder.generations().iter().map(|(_, m)| m.number).collect();
    assert_eq!(names, [8, 7, 6, 1]);
    folder.collect(&HashSet::new());
    assert!(
        path.path().join(&first.folder).join("graph.flat").exists(),
        "later generations use its base"
    );
    assert!(!path.path().join("gen-leftover").exists());
    assert_eq!(seen(&folder.open().expect("opens").0.expect("there")), seen(&last));
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

/// Threads of this process that work on words or graphs; those of other tests come and go.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let name =
        |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let ours = ["thrd-tantivy", "thread-tantivy", "segment_updater", "merge_thread", "index-work"];
    tasks.map(name).filter(|name| ours.iter().any(|own| name.starts_with(own))).count()
}

/// A disk that is full for one step: not a kill, the program goes on and has to clear up behind
/// itself.
#[test]
fn a_commit_that_fails_at_any_step_leaves_no_file_and_the_next_one_succeeds() {
    let mut named = HashSet::new();
    let threads_before = threads();
    for at in 0.. {
        let path = tempfile::tempdir().expect("a temporary directory");
        let whole = Folder::new(path.path(), Steps::default());
        let old = base(&whole, 1100).expect("committed");
        let before = files(path.path());
        let passed = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen_steps = std::sync::Arc::clone(&passed);
        let failing = Steps::asking(move |step| {
            let mut passed = seen_steps.lock().expect("no panic");
            passed.push(step.to_owned());
            if passed.len() == at + 1 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        });
        let failing = Folder::new(path.path(), failing);
        let moved = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        let outcome = append(&failing, &old).and_then(|new| {
            let again = manifest(3, Some(&new.folder));
            failing.prepare_base(again, "d", content(3, 0..1100), 2, &|_| true).and_then(
                |challenger| failing.publish(challenger, Measurement::default(), 0.9, false),
            )
        });
        let steps = passed.lock().expect("no panic").clone();
        named.extend(steps.iter().cloned());
        let Err(error) = outcome else { break };
        assert!(moved(&error), "{error}");
        let failed = &steps[at];
        // What counts stays, even if the step behind that failed; nothing else does.
        let counts = whole.pointer().expect("whole").expect("there").generation;
        let needed: HashSet<String> = whole
            .survey()
            .generations()
            .iter()
            .flat_map(|(_, m)| m.files().map(|f| f.path.clone()))
            .collect();
        for file in files(path.path()).into_iter().filter(|file| !before.contains(file)) {
            let name = file.strip_prefix(path.path()).expect("below").display().to_string();
            let own = name.starts_with(&counts)
                || name.ends_with("manifest.json")
                || name.ends_with(".lock");
            assert!(needed.contains(&name) || own, "{name} is left after `{failed}`");
        }
        let (opened, degraded) = whole.open().expect("opens");
        assert_eq!(degraded, None);
        let opened = opened.expect("there");
        let next = whole.commit_delta(
            &opened,
            manifest(9, Some(&opened.folder)),
            "d",
            &content(2, 20_000..20_010),
            &opened.dead(),
        );
        assert_eq!(next.expect("there is room again").manifest.number, 9, "after `{failed}`");
        assert_eq!(whole.collect(&HashSet::new()).words(), None);
    }
    for step in [
        "begun",
        "segment written",
        "graph written",
        "words written",
        "manifest written",
        "verified",
        "files there",
        "pointer moved",
    ] {
        assert!(named.contains(step), "`{step}` was not passed: {named:?}");
    }
    // Threads that were told to end need a moment, and so do other tests.
    let began = std::time::Instant::now();
    while threads() > threads_before && began.elapsed().as_secs() < 60 {
        std::thread::yield_now();
    }
    assert!(threads() <= threads_before, "threads of commits that failed are left");
}

#[test]
fn a_build_that_is_told_to_stop_leaves_nothing() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let error = folder
        .commit_base(manifest(1, None), "d", content(1, 0..3000), 2, &|done| done < 1000)
        .expect_err("stopped");
    assert_eq!((error.kind(), files(path.path())), (io::ErrorKind::Interrupted, Vec::new()));
}

#[test]
fn a_pin_outlasts_what_keeps_the_rows_and_ends_with_what_changes_them() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let first = base(&folder, 1100).expect("committed");
    let second = append(&folder, &first).expect("appended");
    let pinned = || folder.pointer().expect("whole").expect("there").pinned;
    assert!(!pinned());
    folder.point(&first.folder, "rollback", true).expect("back");
    assert!(pinned());
    let compacted = first.manifest.after(&first.folder, 3, "compaction");
    folder.commit_base(compacted, "d", content(1, 0..1100), 2, &|_| true).expect("compacted");
    assert!(pinned(), "a compaction changes no row");
    let challenger = folder
        .prepare_base(manifest(4, None), "d", content(1, 0..1100), 2, &|_| true)
        .expect("made");
    folder.publish(challenger, Measurement::default(), 0.9, false).expect("promoted");
    assert!(pinned(), "nor does a promotion");
    assert!(folder.unpin().expect("unpinned") && !pinned() && !folder.unpin().expect("again"));
    folder.point(&second.folder, "rollback", true).expect("back");
    append(&folder, &second).expect("refreshed");
    assert!(!pinned(), "a refresh is what somebody asked for");
}

#[test]
fn a_challenger_that_is_refused_leaves_nothing_and_is_no_history() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let champion = base(&folder, 1100).expect("committed");
    let before = files(path.path());
    let again = champion.manifest.after(&champion.folder, 2, "promotion");
    let challenger =
        folder.prepare_base(again, "d", content(1, 0..1100), 2, &|_| true).expect("made");
    assert_eq!(folder.generations().len(), 1, "it does not count yet");
    folder.abandon(challenger);
    assert_eq!(files(path.path()), before);
    folder.abandon(champion);
    assert_eq!(files(path.path()), before, "what counts stays");
}

/// A column that was whole numbers, then text, then numbers with a fraction.
#[test]
fn a_column_that_changes_its_type_is_searched_by_the_newest() {
    use arrow_array::{ArrayRef, Float64Array, Int64Array, StringArray};

    use crate::filter::{Filter, allowed};

    let tagged = |seed: u64, rows: std::ops::Range<u32>, tag: ArrayRef| {
        let columns = RecordBatch::try_from_iter([("tag", tag)]).expect("a batch");
        Content { columns, ..content(seed, rows) }
    };
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let whole: ArrayRef =
        Arc::new((0..1100).map(|n| (n != 3).then_some(n)).collect::<Int64Array>());
    let first = folder
        .commit_base(manifest(1, None), "d", tagged(1, 0..1100, whole), 2, &|_| true)
        .expect("committed");
    let text: ArrayRef = Arc::new(StringArray::from(vec!["one", "7"]));
    let second = folder
        .commit_delta(
            &first,
            manifest(2, Some(&first.folder)),
            "d",
            &tagged(2, 2000..2002, text),
            &[],
        )
        .expect("appended");
    let fraction: ArrayRef = Arc::new(Float64Array::from(vec![1.5, 2000.5]));
    let third = folder
        .commit_delta(
            &second,
            manifest(3, Some(&second.folder)),
            "d",
            &tagged(3, 3000..3002, fraction),
            &second.dead(),
        )
        .expect("appended");
    let find = |generation: &Generation, filter: serde_json::Value| {
        let rows = allowed(&Filter::parse(&filter).expect("parses"), generation, "d")
            .map(|rows| generation.allowed(Some(&rows)));
        rows.map(|rows| {
            rows.base.map_or(0, |live| live.count()) + rows.delta.map_or(0, |live| live.count())
        })
    };
    let count = |generation: &Generation, filter: serde_json::Value| {
        find(generation, filter).expect("it fits")
    };
    assert_eq!(count(&second, serde_json::json!({"tag": "one"})), 1);
    assert_eq!(
        count(&second, serde_json::json!({"tag": "42"})),
        1,
        "older rows are found as the new type has them"
    );
    assert_eq!(count(&third, serde_json::json!({"tag": {"$gte": 1099}})), 2);
    assert!(find(&third, serde_json::json!({"tag": "one"})).is_err(), "it is a number now");
    let converted = third.converted().expect("read");
    assert_eq!(converted, [("tag".to_owned(), "Int64".to_owned(), "Float64".to_owned(), 0)]);
    // And everything into one base: what failed for ever.
    let opened = folder.open().expect("opens").0.expect("there");
    let own = opened.base.as_ref().expect("a base").columns().expect("columns").clone();
    let all = segment::joined(&[own, opened.delta.columns.clone()], opened.len()).expect("joined");
    assert_eq!(
        (all.num_rows(), all.schema().field(0).data_type().to_string()),
        (1104, "Float64".to_owned())
    );
}
