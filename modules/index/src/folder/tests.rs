//! Commits that are stopped at every step, files that are damaged, and what is removed.

use super::*;
use crate::embedder::Model;
use crate::flat::build::{Parameters, mix};
use crate::flat::store::tests::unit_vectors;
use crate::generation::How;
use crate::rows::Row;

const DIM: usize = 16;

fn content(seed: u64, rows: std::ops::Range<u32>) -> Content {
    let mut store = RowStore::default();
    for number in rows.clone() {
        let (id, text) = (format!("doc-{number}"), format!("words of {number}"));
        store.push(&Row { doc_id: &id, content_hash: &[1; 32], chunk: 0, start: 0, line: 1, text: &text });
    }
    let columns = segment::no_columns(rows.len()).expect("no columns");
    Content { rows: store, vectors: unit_vectors(seed, rows.len(), DIM), columns }
}

fn manifest(number: u64, parent: Option<&str>) -> Manifest {
    let model = Model { name: "m".into(), fingerprint: "f".into(), dim: DIM };
    let first = Manifest::first(model, "flat-hnsw".into(), Parameters { m: 8, ef_construction: 32, seed: 0 }, 64);
    parent.map_or(Manifest { number, ..first.clone() }, |parent| first.after(parent, number, "refresh"))
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
            let found = generation.search(generation.vector(number), &How { k: 1, ..How::default() }, &allowed);
            assert_eq!(found.first().map(|f| f.row), Some(number), "a row finds itself");
            (generation.row(number).expect("whole").doc_id.to_owned(), generation.vector(number)[0].to_bits())
        })
        .collect();
    all.sort_unstable();
    all
}

fn append(folder: &Folder, old: &Generation) -> io::Result<Generation> {
    let dead: Vec<u32> = (0..old.len() as u32).filter(|row| mix(u64::from(*row)).is_multiple_of(50)).collect();
    folder.commit_delta(old, manifest(2, Some(&old.folder)), "d", &content(2, 10_000..10_030), &dead)
}

#[test]
fn an_append_writes_what_it_adds_and_a_restart_sees_the_same() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let old = base(&folder, 1500).expect("committed");
    let new = append(&folder, &old).expect("appended");
    let added: u64 = new.manifest.segments.iter().map(|s| s.file.bytes).sum::<u64>() + new.manifest.dead.as_ref().map_or(0, |d| d.bytes);
    assert!(added < 3 * 30 * (DIM as u64 * 4 + 100) + 8192, "{added} bytes for 30 rows");
    assert_eq!(new.live_rows().count() as u64, new.manifest.chunks);
    let (opened, degraded) = folder.open().expect("opens");
    assert_eq!((seen(&opened.expect("there")), degraded), (seen(&new), None));
    assert!(new.words("10007", 3, &new.allowed(None)).expect("words").iter().all(|f| f.row >= 1500));
}

/// At every step of a commit: afterwards the index opens and is the old one or the new one, and goes on.
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
            Ok(new) => crashing.commit_base(manifest(3, Some(&new.folder)), "d", content(3, 0..1200), 2, &|_| true),
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
            could_be.push(seen(&other.commit_base(manifest(3, None), "d", content(3, 0..1200), 2, &|_| true).expect("committed")));
        }
        assert!(could_be.contains(&now), "after a stop at step {stop_at} the index is neither old nor new");
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
            .prepare_base(champion.manifest.after(&champion.folder, 2, "promotion"), "d", content(1, 0..1100), 2, &|_| true)
            .and_then(|challenger| crashing.publish(challenger, Measured { recall: 0.97, ..Measured::default() }, 0.95, false));
        let (opened, degraded) = Folder::new(path.path(), Steps::default()).open().expect("opens");
        let opened = opened.expect("there");
        // The last step is behind the pointer: what counts may be new though the caller heard of a failure.
        assert!(promoted.is_err() || opened.manifest.number == 2, "an acknowledged promotion counts");
        assert_eq!((opened.manifest.measured.is_some(), degraded), (opened.manifest.number == 2, None), "it counts only as measured");
        assert_eq!(seen(&opened), wanted);
        whole.collect(&HashSet::new());
        assert_eq!(whole.open().expect("opens").0.expect("there").manifest.number, opened.manifest.number);
        promoted.is_ok()
    });
    assert!(passed >= Some(7), "only {passed:?} steps were passed");
}

#[test]
fn a_flipped_byte_in_any_file_is_found_and_mended_or_survived() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let first = base(&folder, 1100).expect("committed");
    let second = append(&folder, &first).expect("appended");
    let wanted = seen(&second);
    let m = &second.manifest;
    let own = m.base.as_ref().expect("a base");
    let files = [&own.graph, &own.rows_file, &m.segments[0].file, m.dead.as_ref().expect("dead rows"), &own.segment];
    let others = [format!("{}/manifest.json", second.folder), "CURRENT".to_owned()];
    for file in files.iter().map(|f| f.path.clone()).chain(others) {
        let at = path.path().join(&file);
        let good = fs::read(&at).expect("there");
        let mut bytes = good.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&at, &bytes).expect("damaged");
        let named = folder.manifest(&second.folder).is_ok_and(|m| folder.verify(&m).iter().any(|p| p.contains(&file)));
        assert!(named || file.ends_with(".json") || file == "CURRENT", "{file} is not named");
        match folder.open() {
            Ok((Some(opened), degraded)) => {
                let is_old = degraded.is_some_and(|why| why.contains("answers in its place"));
                assert!(is_old || opened.manifest.number == 2, "{file}");
            }
            Ok((None, _)) => panic!("{file}: the index is lost"),
            Err(error) => assert!(error.to_string().contains(&file), "{file}: {error}"),
        }
        // Graph and rows are made again from the segments.
        if file.contains("gen-") && (file.ends_with("graph.flat") || file.ends_with("rows.bin")) {
            let mended = folder.repair(&second.folder, "d", 2).expect("mended");
            assert_eq!(seen(&mended), wanted);
            folder.point(&second.folder, "test").expect("back");
            fs::remove_dir_all(path.path().join(&mended.folder)).expect("removed");
        }
        if file.ends_with(".parquet") || file.ends_with("dead.u32") {
            let error = folder.repair(&second.folder, "d", 2).expect_err("nothing is built from what is damaged");
            assert!(error.to_string().contains(&file), "{error}");
        }
        fs::write(&at, &good).expect("restored");
    }
    assert_eq!(seen(&folder.open().expect("opens").0.expect("there")), wanted);
}

#[test]
fn old_generations_go_and_those_that_are_read_or_needed_stay() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let first = base(&folder, 1100).expect("committed");
    let mut last = append(&folder, &first).expect("appended");
    for number in 3..9 {
        let nothing = content(1, 0..0);
        last = folder.commit_delta(&last, manifest(number, Some(&last.folder)), "d", &nothing, &last.dead()).expect("committed");
    }
    fs::create_dir(path.path().join("gen-leftover")).expect("made");
    folder.collect(&HashSet::from([first.folder.clone()]));
    let names: Vec<u64> = folder.generations().iter().map(|(_, m)| m.number).collect();
    assert_eq!(names, [8, 7, 6, 1]);
    folder.collect(&HashSet::new());
    assert!(path.path().join(&first.folder).join("graph.flat").exists(), "later generations use its base");
    assert!(!path.path().join("gen-leftover").exists());
    assert_eq!(seen(&folder.open().expect("opens").0.expect("there")), seen(&last));
}
