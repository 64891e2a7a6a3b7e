//! Commits, crashes between their steps, and what is kept or cleared away.

use std::time::SystemTime;

use brahman_card::interface::catalog::CommitIn;
use brahman_storage::digest::{hex, sha256};

use super::*;

fn commit(registry: &mut DatasetRegistry, name: &str, run: &str) -> (u64, Vec<String>) {
    let LocationOut { key_prefix, path, .. } =
        registry.location(name, run, "test", None).expect("a place");
    fs::write(Path::new(&path).join("part-0.parquet"), run).expect("written");
    let key = format!("{key_prefix}/part-0.parquet");
    let object = Object {
        bucket: "primary".into(),
        key,
        url: String::new(),
        rows: 3,
        bytes: run.len() as u64,
        sha256: hex(&sha256(run.as_bytes())),
        path: None,
    };
    registry.roots().verify(std::slice::from_ref(&object), &[]).expect("verified");
    let commit = CommitIn {
        name: name.into(),
        run_id: run.into(),
        objects: vec![object],
        columns: vec![],
        inputs: vec![],
        producer: "test".into(),
        pii: None,
        watermark: None,
        ..CommitIn::default()
    };
    let done = registry.commit(commit, 0).expect("committed");
    registry.tidy(Some(name), &BTreeSet::new());
    done
}

/// Deletes what may go of everything; all buckets are there.
fn tidy(registry: &mut DatasetRegistry) {
    registry.tidy(None, &BTreeSet::new());
}

#[test]
fn a_commit_survives_reopening_and_the_same_run_twice_is_one() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    assert_eq!(commit(&mut registry, "d", "run1").0, 1);
    assert_eq!(commit(&mut registry, "d", "run1").0, 1);
    registry.mark_stale("d", "i", None).expect("marked");
    assert_eq!(commit(&mut registry, "d", "run2"), (2, vec!["i".into()]));
    assert!(!registry.clear_stale("d", "i", 1, None).expect("noted"));
    assert!(registry.clear_stale("d", "i", 2, None).expect("noted"));
    let again = DatasetRegistry::open(state.path()).expect("open");
    let dataset = again.get("d").expect("there");
    assert_eq!((dataset.generation, dataset.rows, dataset.stale), (2, 3, vec![]));
}

fn offer(registry: &mut DatasetRegistry, run: &str) -> CommitIn {
    let LocationOut { key_prefix, path, .. } =
        registry.location("d", run, "test", None).expect("a place");
    fs::write(Path::new(&path).join("part-0.parquet"), run).expect("written");
    let (bytes, sha256) = (run.len() as u64, hex(&sha256(run.as_bytes())));
    let object = Object {
        bucket: "primary".into(),
        key: format!("{key_prefix}/part-0.parquet"),
        url: String::new(),
        rows: 3,
        bytes,
        sha256,
        path: None,
    };
    let (name, run_id, producer) = ("d".into(), run.into(), "test".into());
    CommitIn {
        name,
        run_id,
        objects: vec![object],
        columns: vec![],
        inputs: vec![],
        producer,
        pii: None,
        watermark: None,
        ..CommitIn::default()
    }
}

#[test]
fn a_commit_that_is_stopped_at_any_step_leaves_the_old_dataset_or_the_new_and_can_be_said_again() {
    for stop in 0.. {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        for run in ["r1", "r2"] {
            let offered = offer(&mut registry, run);
            registry.commit(offered, 0).expect("committed");
        }
        let offered = offer(&mut registry, "r3");
        registry.steps = Steps::stopping_at(stop);
        let stopped = registry.commit(offered.clone(), 0).is_err();
        drop(registry);
        // As after a crash.
        fs::write(state.path().join("catalog/.tmp-torn"), "half a manif").expect("written");
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        let dataset = registry.get("d").expect("there");
        let expected = ["r2", "r3"][usize::try_from(dataset.generation).expect("small") - 2];
        assert_eq!(
            (dataset.objects.len(), dataset.lineage.run_id.as_str()),
            (1, expected),
            "stopped at {stop}"
        );
        registry.roots().verify(&dataset.objects, &[]).expect("its objects are whole");
        assert_eq!(registry.commit(offered, 0).expect("said again").0, 3);
        let kinds: Vec<_> = registry
            .journal
            .events("d", 100)
            .iter()
            .map(|e| e["eventType"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(
            kinds.iter().flatten().filter(|kind| *kind == "COMPLETE").count(),
            3,
            "stopped at {stop}: {kinds:?}"
        );
        assert!(!state.path().join("catalog/.tmp-torn").exists());
        if !stopped {
            assert!(stop >= 3, "every step was stopped at");
            break;
        }
    }
}

#[test]
fn what_a_dead_run_left_is_cleared_a_while_after_it_was_given_up_and_never_for_its_age() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    let offered = offer(&mut registry, "r1");
    registry.commit(offered, 0).expect("committed");
    let folders = ["dead", "empty"]
        .map(|run| PathBuf::from(registry.location("d", run, "test", None).expect("a place").path));
    fs::write(folders[0].join("part-0.parquet"), "half").expect("written");
    let foreign = state.path().join("buckets/primary/datasets/d/foreign");
    fs::create_dir_all(&foreign)
        .and_then(|()| fs::write(foreign.join("part-0.parquet"), "theirs"))
        .expect("made");
    let long_ago = SystemTime::now() - 100 * sweep::ORPHAN_AGE;
    for folder in folders.iter().chain([&foreign]) {
        fs::File::open(folder).and_then(|f| f.set_modified(long_ago)).expect("aged");
    }
    drop(registry);
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    tidy(&mut registry);
    assert!(
        folders.iter().all(|f| f.exists()),
        "a run that has not ended may go on, however old it is"
    );
    registry.journal.abandon(None, Some("test"), "it died", false).expect("noted");
    tidy(&mut registry);
    assert!(folders.iter().all(|f| f.exists()), "a read in parts may be taken up again");
    registry.journal.age();
    registry.tidy(None, &["primary".to_owned()].into());
    assert!(folders.iter().all(|f| f.exists()), "what is away is not swept");
    tidy(&mut registry);
    assert_eq!(folders.map(|f| f.exists()), [false, false]);
    assert!(foreign.join("part-0.parquet").exists(), "of a run that is not ours nothing is known");
    assert_eq!(registry.strangers(), ["primary/d/foreign"]);
    registry
        .roots()
        .verify(&registry.get("d").expect("there").objects, &[])
        .expect("what is needed stays");
    assert!(registry.untidied().is_empty(), "whoever is a stranger is told apart");
}

#[test]
fn a_run_that_is_taken_up_again_keeps_what_it_has_written() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    let part = Path::new(&registry.location("d", "r", "test", None).expect("a place").path)
        .join("part-0.parquet");
    fs::write(&part, "half").expect("written");
    registry.journal.abandon(Some("r"), None, "it died", false).expect("noted");
    registry.location("d", "r", "test", None).expect("taken up again");
    registry.journal.age();
    tidy(&mut registry);
    assert!(part.exists());
}

#[test]
fn a_commit_builds_on_what_is_needed_only() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    commit(&mut registry, "d", "r1");
    let first = registry.get("d").expect("there").objects;
    let late = CommitIn { objects: first.clone(), ..offer(&mut registry, "late") };
    commit(&mut registry, "d", "r2");
    commit(&mut registry, "d", "r3");
    let refused = registry.commit(late, 0).expect_err("its object may be gone");
    assert!(
        matches!(&refused, RegistryError::Moved { expected, .. } if expected.contains("r1/part-0.parquet")),
        "{refused}"
    );
    let next = CommitIn {
        objects: registry.get("d").expect("there").objects,
        ..offer(&mut registry, "next")
    };
    assert_eq!(registry.commit(next, 0).expect("what is needed is there").0, 3);
}

#[test]
fn while_anything_cannot_be_read_nothing_is_deleted_and_that_is_told() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let primary = state.path().join("buckets/primary/datasets");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    commit(&mut registry, "e", "e1");
    for run in ["r1", "r2"] {
        commit(&mut registry, "d", run);
    }
    registry.location("d", "failed", "test", None).expect("a place");
    registry.journal.abandon(Some("failed"), None, "no", false).expect("noted");
    fs::write(state.path().join("catalog/e.json"), "{").expect("damaged");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    registry.journal.age();
    tidy(&mut registry);
    assert!(
        primary.join("d/failed").exists() && registry.untidied()[0].contains("`e`"),
        "{:?}",
        registry.untidied()
    );
    // Neither what a commit leaves behind, nor what is deleted by name.
    commit(&mut registry, "d", "r3");
    registry.delete("d").expect("deleted");
    registry.tidy(Some("d"), &BTreeSet::new());
    assert!(registry.untidied()[0].contains("could not be read"), "{:?}", registry.untidied());
    assert!(["r1", "r2", "r3", "failed"].iter().all(|run| primary.join("d").join(run).exists()));
    let seen = registry.list();
    let damaged = seen.iter().find(|d| d.name == "e").expect("it stays visible");
    assert!(
        damaged.state.as_deref() == Some("damaged")
            && damaged.reason.as_deref().is_some_and(|r| r.contains("resync e"))
    );
    // Once it is gone, and said to be, the rest is tidied.
    registry.delete("e").expect("deleted");
    tidy(&mut registry);
    assert!(registry.untidied().is_empty(), "{:?}", registry.untidied());
    assert!(!primary.join("d").exists() && !primary.join("e").exists());
}

#[test]
fn while_the_file_of_a_dataset_is_gone_nothing_of_it_goes_until_it_is_back_or_deleted() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let primary = state.path().join("buckets/primary/datasets");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    commit(&mut registry, "e", "e1");
    for run in ["r1", "r2"] {
        commit(&mut registry, "d", run);
    }
    drop(registry);
    fs::remove_file(state.path().join("catalog/d.json")).expect("removed");
    let all = || ["d/r1", "d/r2"].iter().all(|run| primary.join(run).exists());
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    tidy(&mut registry);
    assert!(all(), "nothing goes that a resync needs");
    assert!(registry.untidied()[0].contains("`d`: its file is gone"), "{:?}", registry.untidied());
    assert!(registry.doubts()[0].contains("`d`: its file is gone"));
    assert_eq!(registry.list().iter().filter(|d| d.state.as_deref() == Some("lost")).count(), 1);
    assert_eq!(registry.recorded("d").len(), 1, "what it is to be made of is recorded");
    // Nor does what becomes of another.
    for run in ["e2", "e3"] {
        commit(&mut registry, "e", run);
    }
    tidy(&mut registry);
    assert!(all() && primary.join("e/e1").exists());
    // Deleted, it is known to need nothing.
    registry.delete("d").expect("deleted");
    tidy(&mut registry);
    assert!(registry.doubts().is_empty() && !primary.join("d").exists());
    assert!(matches!(registry.delete("d"), Err(RegistryError::NoSuchDataset(_))));
    assert!(registry.untidied().is_empty() && registry.list().len() == 1);
}

#[test]
fn two_catalogs_that_share_a_folder_never_delete_each_others_runs() {
    let states = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let shared = tempfile::tempdir().expect("a temporary directory");
    let open = |state: &tempfile::TempDir| {
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        let root = brahman_storage::buckets::Root::local(shared.path().to_owned());
        registry.set_roots(Roots::new([("primary".to_owned(), root)].into()));
        registry
    };
    let [mut one, mut two] = [open(&states[0]), open(&states[1])];
    for round in 0..4 {
        for (registry, whose) in [(&mut one, "one"), (&mut two, "two")] {
            commit(registry, "d", &format!("{whose}-{round}"));
            let open_run = format!("{whose}-open-{round}");
            let part =
                Path::new(&registry.location("d", &open_run, "test", None).expect("a place").path)
                    .join("part-0.parquet");
            fs::write(part, "half").expect("written");
        }
    }
    for registry in [&mut one, &mut two] {
        registry.journal.age();
        tidy(registry);
    }
    let there =
        |run: String| shared.path().join("datasets/d").join(run).join("part-0.parquet").is_file();
    for whose in ["one", "two"] {
        assert_eq!(
            [0, 1, 2, 3].map(|round| there(format!("{whose}-{round}"))),
            [false, false, true, true],
            "{whose}"
        );
        assert!((0..4).all(|round| there(format!("{whose}-open-{round}"))), "{whose}");
    }
    // What the other has put there is neither lost nor known here, and a deletion takes away one's
    // own alone.
    two.delete("d").expect("deleted");
    tidy(&mut two);
    assert!(
        there("one-3".into())
            && there("one-2".into())
            && there("two-open-3".into())
            && !there("two-3".into())
    );
    assert_eq!(two.list().len(), 0);
    one.roots().verify(&one.get("d").expect("there").objects, &[]).expect("whole");
}

#[test]
fn damaged_lines_of_the_lineage_keep_everything_too() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    for run in ["r1", "r2"] {
        commit(&mut registry, "d", run);
    }
    drop(registry);
    let log = state.path().join("catalog/lineage.log");
    let text = fs::read_to_string(&log).expect("there").replacen("START", "STORT", 1);
    fs::write(&log, text).expect("damaged");
    for _ in 0..2 {
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        let run = ulid::Ulid::generate().to_string();
        commit(&mut registry, "d", &run);
        assert!(registry.untidied()[0].contains("quarantine"), "{:?}", registry.untidied());
    }
    assert_eq!(
        fs::read_dir(state.path().join("buckets/primary/datasets/d")).expect("there").count(),
        4
    );
}

#[test]
fn a_lineage_that_has_gone_with_its_head_keeps_everything_until_somebody_has_looked() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    for run in ["r1", "r2"] {
        commit(&mut registry, "d", run);
    }
    assert!(registry.doubts().is_empty());
    drop(registry);
    for name in ["lineage.log", "lineage.log.head"] {
        fs::remove_file(state.path().join("catalog").join(name)).expect("removed");
    }
    for run in ["r3", "r4"] {
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        assert!(
            registry.doubts().iter().any(|doubt| doubt.contains("lineage.log.quarantine")),
            "{:?}",
            registry.doubts()
        );
        commit(&mut registry, "d", run);
        assert!(registry.untidied()[0].contains("quarantine"), "{:?}", registry.untidied());
    }
    let there =
        || fs::read_dir(state.path().join("buckets/primary/datasets/d")).expect("there").count();
    assert_eq!(there(), 4);
    fs::remove_file(state.path().join("catalog/lineage.log.quarantine"))
        .expect("looked at, and moved away");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    commit(&mut registry, "d", "r5");
    // What the journal that has gone began is nobody's from now on: it stays.
    assert!(registry.doubts().is_empty() && there() == 4, "{:?}", registry.doubts());
    assert_eq!(registry.strangers(), ["primary/d/r1", "primary/d/r2"]);
}

#[test]
fn what_was_deleted_does_not_come_back_by_a_run_that_had_begun_before() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    commit(&mut registry, "d", "old");
    let begun = offer(&mut registry, "begun");
    registry.delete("d").expect("deleted");
    for mut registry in [registry, DatasetRegistry::open(state.path()).expect("open")] {
        let refused = registry.commit(begun.clone(), 0).expect_err("it had begun before");
        assert!(
            matches!(&refused, RegistryError::DeletedMeanwhile(name) if name == "d"),
            "{refused}"
        );
        assert!(registry.list().is_empty());
    }
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    assert_eq!(commit(&mut registry, "d", "new").0, 1);
    assert!(
        matches!(registry.commit(begun, 0), Err(RegistryError::DeletedMeanwhile(_))),
        "nor over what was made anew"
    );
}

#[test]
fn what_a_dataset_that_was_made_again_has_is_told_by_its_run() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    commit(&mut registry, "d", "old");
    assert!(registry.clear_stale("d", "i", 1, Some("old")).expect("noted"));
    registry.delete("d").expect("deleted");
    commit(&mut registry, "d", "new");
    assert_eq!(registry.get("d").expect("there").run_id.as_deref(), Some("new"));
    assert!(
        !registry.clear_stale("d", "i", 1, Some("old")).expect("noted"),
        "its number is the same, its run is not"
    );
    assert_eq!(registry.get("d").expect("there").stale, ["i"]);
    assert!(registry.clear_stale("d", "i", 1, Some("new")).expect("noted"));
    assert!(registry.get("d").expect("there").stale.is_empty());
    let offered = CommitIn {
        expect: Some(1),
        expect_run: Some("old".into()),
        ..offer(&mut registry, "next")
    };
    let refused =
        registry.commit(offered.clone(), 0).expect_err("it builds on another").to_string();
    assert!(refused.contains("run new") && refused.contains("run old"), "{refused}");
    assert_eq!(
        registry
            .commit(CommitIn { expect_run: Some("new".into()), ..offered }, 0)
            .expect("committed")
            .0,
        2
    );
}

#[test]
fn what_a_mock_made_is_marked_and_refused_among_what_is_real() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut mocks = DatasetRegistry::open(&state.path().join("mock")).expect("open").for_mocks();
    let offered = CommitIn { maker: Some("ingest-mock".into()), ..offer(&mut mocks, "m1") };
    mocks.commit(offered, 0).expect("committed");
    let made = mocks.get("d").expect("the mocks' own");
    assert_eq!((made.mock, made.maker.as_deref()), (Some(true), Some("ingest-mock")));
    // Copied by hand, or by an earlier version, to where real ones are.
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    commit(&mut registry, "real", "r1");
    let (from, to) =
        (state.path().join("mock/catalog/d.json"), state.path().join("catalog/d.json"));
    fs::copy(from, to).expect("copied");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    let refused = registry.get("d").expect_err("it is not real");
    assert!(
        matches!(&refused, RegistryError::MadeByMock { name, maker } if name == "d" && maker == "ingest-mock"),
        "{refused}"
    );
    assert!(registry.get_for_mock("d").is_ok() && !registry.heads().contains_key("d"));
    assert!(matches!(registry.mark_stale("d", "i", None), Err(RegistryError::MadeByMock { .. })));
    assert_eq!(registry.list()[0].state.as_deref(), Some("refused"));
    let extended = CommitIn { objects: made.objects.clone(), ..offer(&mut registry, "r2") };
    assert!(
        matches!(registry.commit(extended, 0), Err(RegistryError::MadeByMock { .. })),
        "nor is it built upon"
    );
    let made_up = CommitIn {
        inputs: vec!["mock://brahman/synthetic?seed=7".into()],
        ..offer(&mut registry, "r3")
    };
    assert!(matches!(registry.commit(made_up, 0), Err(RegistryError::MadeByMock { .. })));
    let anew = offer(&mut registry, "r4");
    registry.commit(anew, 0).expect("real rows take its place");
    assert_eq!(registry.get("d").expect("real").mock, None);
}

#[test]
fn the_objects_of_two_generations_are_kept() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    for run in ["r1", "r2", "r3"] {
        commit(&mut registry, "d", run);
    }
    let kept = ["r1", "r2", "r3"]
        .map(|r| state.path().join("buckets/primary/datasets/d").join(r).exists());
    assert_eq!(kept, [false, true, true]);
}

#[test]
fn damage_is_named_and_left_alone() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    commit(&mut registry, "d", "r1");
    let path = state.path().join("catalog/d.json");
    let text = fs::read_to_string(&path).expect("there").replace("\"rows\":3", "\"rows\":4");
    fs::write(&path, text).expect("damaged");
    let mut again = DatasetRegistry::open(state.path()).expect("open");
    assert!(matches!(again.get("d"), Err(RegistryError::Damaged { .. })));
    let refused = again.commit(
        CommitIn {
            name: "d".into(),
            run_id: "r2".into(),
            objects: vec![],
            columns: vec![],
            inputs: vec![],
            producer: String::new(),
            pii: None,
            watermark: None,
            ..CommitIn::default()
        },
        0,
    );
    assert!(matches!(refused, Err(RegistryError::Damaged { .. })));
}

#[test]
fn an_object_that_is_not_what_it_says_is_refused() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut registry = DatasetRegistry::open(state.path()).expect("open");
    for key in ["datasets/d/r/none", "../../etc/passwd"] {
        let object = Object {
            bucket: "primary".into(),
            key: key.into(),
            url: String::new(),
            rows: 1,
            bytes: 1,
            sha256: "0".repeat(64),
            path: None,
        };
        assert!(matches!(
            registry.roots().verify(&[object], &[]),
            Err(RegistryError::BadObject { .. } | RegistryError::Unreadable { .. })
        ));
    }
    for name in ["", "..", "a/b", ".x", "buckets", "mock"] {
        assert!(registry.location(name, "r", "test", None).is_err(), "{name}");
    }
}
