//! Each file in its own part once, and what may be removed.

use super::*;

fn made(files: &[(&str, usize)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder"))
            .and_then(|()| fs::write(path, vec![b'x'; *bytes]))
            .expect("written");
    }
    folder
}

#[test]
fn every_file_counts_once_and_in_its_own_part() {
    let home = made(&[
        ("state/buckets/primary/datasets/d/r1/part-0.parquet", 10_000),
        ("state/buckets/primary/datasets/d/r2/part-0.parquet", 20_000),
        ("state/indexes/i/index.json", 100),
        ("state/logs/x.log", 100),
        ("cache/embed/db", 50_000),
    ]);
    let state = home.path().join("state");
    let key = "datasets/d/r2/part-0.parquet";
    fs::create_dir_all(state.join("catalog")).expect("made");
    let file = serde_json::json!({"sha256": "", "entry": {"dataset": Dataset {
        objects: vec![brahman_card::interface::catalog::Object {
            bucket: PRIMARY.into(),
            key: key.into(),
            ..Default::default()
        }],
        ..Dataset::default()
    }}});
    fs::write(state.join("catalog/d.json"), file.to_string()).expect("written");
    // A second name of what is counted already.
    fs::create_dir_all(state.join("datasets/d/g")).expect("made");
    fs::hard_link(state.join("buckets/primary").join(key), state.join("datasets/d/g/x"))
        .expect("linked");
    let out = usage(&state, &home.path().join("cache"));
    let of = |part: &str| {
        out.parts.iter().find(|one| one.part.starts_with(part)).cloned().unwrap_or_default()
    };
    assert_eq!(
        (
            of("datasets: present").files,
            of("datasets: previous").files,
            of("datasets: stable").files
        ),
        (1, 1, 0)
    );
    assert!(
        of("datasets: present").bytes >= 20_000 && of("cache: vectors").bytes >= 50_000,
        "{:?}",
        out.parts
    );
    assert_eq!((of("indexes").files, of("logs").files, of("catalog").files), (1, 1, 1));
    assert!(out.unread.is_empty(), "{:?}", out.unread);
}

#[test]
fn nothing_that_may_be_used_or_is_not_known_may_go() {
    let home = made(&[
        ("state/.backup-1-2/x", 10),
        ("state/logs/here.log", 10),
        ("state/logs/gone.log", 10),
        ("state/logs/gone.log.1", 10),
        ("state/logs/init.log", 10),
        ("state/mock/catalog/x", 10),
        ("cache/embed/db", 10),
        ("cache/embed-0123/db", 10),
        ("cache/embed.model", 10),
        ("cache/vectors/label/db", 10),
        ("cache/inputs/x", 10),
    ]);
    let modules = Some(BTreeSet::from(["here".to_owned()]));
    let evidence = |is_running: bool, modules: Option<BTreeSet<String>>, age_s: u64| Evidence {
        state: home.path().join("state"),
        cache: home.path().join("cache"),
        is_running,
        cache_user: None,
        modules,
        now: SystemTime::now() + Duration::from_secs(age_s),
    };
    let ask = |cache: bool| Gc { state: None, dry_run: true, cache, mocks: false };
    let goes = |evidence: &Evidence, ask: &Gc| -> Vec<String> {
        let items = plan(evidence, ask, &mut Counter::default()).expect("planned");
        let goes = items.into_iter().filter(|item| item.kept.is_none());
        let mut names: Vec<String> =
            goes.map(|item| item.path.rsplit('/').next().unwrap_or_default().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(goes(&evidence(true, modules.clone(), 0), &ask(true)), ["gone.log", "gone.log.1"]);
    assert_eq!(
        goes(&evidence(true, modules, 7200), &ask(false)),
        [".backup-1-2", "gone.log", "gone.log.1"]
    );
    let caches = ["embed", "embed-0123", "inputs", "vectors"];
    assert_eq!(
        goes(&evidence(false, None, 0), &ask(true)),
        caches,
        "nobody says which modules there are"
    );
    let other = Evidence { cache_user: Some("/run/other.sock".into()), ..evidence(false, None, 0) };
    assert!(goes(&other, &ask(true)).is_empty(), "a mesh on another state may have the cache");
    // Whoever writes a backup has it locked, however long it takes.
    let written = fs::File::open(home.path().join("state/.backup-1-2")).expect("there");
    written.lock().expect("locked");
    assert!(goes(&evidence(false, None, 7200), &ask(false)).is_empty());
    drop(written);
    assert_eq!(goes(&evidence(false, None, 7200), &ask(false)), [".backup-1-2"]);
}
