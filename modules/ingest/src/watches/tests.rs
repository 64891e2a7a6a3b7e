//! Folders that are watched: within one another, not there yet, and read by ourselves.

use brahman_sidecar::Client;
use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, EventKind};

use super::events::matters;
use super::*;

#[test]
fn folders_of_which_one_has_the_other_are_told() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| home.path().join(name).display().to_string();
    std::fs::create_dir_all(home.path().join("a/b"))
        .and_then(|()| std::fs::create_dir(home.path().join("ab")))
        .expect("made");
    std::os::unix::fs::symlink(home.path().join("a"), home.path().join("link")).expect("linked");
    assert_eq!(overlap(&[at("a"), at("ab")]), None);
    for (one, other) in [("a", "a"), ("a/b", "a"), ("a", "link")] {
        assert!(overlap(&[at(one), at(other)]).is_some(), "{one} {other}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_waited_for() {
    let absent = notify::Error::path_not_found().add_path(PathBuf::from("/n"));
    assert_eq!(
        untold(&absent, POLL),
        ("waiting".to_owned(), "/n is not there: it is looked for every 2 s".to_owned())
    );
    assert_eq!(untold(&notify::Error::new(ErrorKind::MaxFilesWatch), POLL).0, "polling");
}

#[test]
fn our_own_reading_is_no_change_and_a_lost_event_is() {
    let event = |kind, path: &str| notify::Event::new(kind).add_path(PathBuf::from(path));
    assert!(!matters(&event(EventKind::Access(AccessKind::Open(AccessMode::Read)), "/n/a.md")));
    assert!(matters(&event(EventKind::Access(AccessKind::Close(AccessMode::Write)), "/n/a.md")));
    assert!(!matters(&event(EventKind::Modify(notify::event::ModifyKind::Any), "/n/.a.md.swp")));
    assert!(matters(&notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan)));
}

#[test]
fn a_folder_in_a_bucket_is_told() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| home.path().join(name).display().to_string();
    std::fs::create_dir_all(home.path().join("bucket/datasets/d")).expect("made");
    std::fs::create_dir(home.path().join("own")).expect("made");
    std::fs::write(home.path().join("bucket/.brahman-bucket.json"), "{}").expect("written");
    std::os::unix::fs::symlink(home.path().join("bucket"), home.path().join("link"))
        .expect("linked");
    for within in ["bucket", "bucket/datasets/d", "link/datasets"] {
        assert_eq!(in_mesh(&[at("own"), at(within)]), Some(at(within).as_str()));
    }
    // One that holds a bucket is watched without it.
    assert_eq!(in_mesh(&[at("own"), home.path().display().to_string()]), None);
}

#[tokio::test]
async fn a_try_during_which_another_profile_became_active_is_made_again_at_once() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let client = Client::new(&home.path().join("brahman.sock"));
    let watches =
        Watches::open(Arc::new(Runs::new(client, "ingest", None)), home.path()).expect("opened");
    let kept = WatchRecord {
        ask: WatchIn { dataset: "n".into(), ..WatchIn::default() },
        ingested: None,
        format: None,
        rests: false,
        committed: None,
    };
    let watch = Watch::new(kept);
    let changed = Arc::clone(&watch.changed);
    watches.lock().insert("n".into(), watch);
    let is_told = async || {
        let told = tokio::time::timeout(Duration::from_millis(1), changed.notified());
        told.await.is_ok()
    };
    // Refused, and no other profile since: that waits for one.
    watches.hidden("n", true, 0);
    assert!(!is_told().await);
    watches.look_again(|_| true);
    assert!(is_told().await);
    // The change came before the refusal was noted.
    watches.hidden("n", true, 0);
    assert!(is_told().await);
    watches.hidden("n", false, 0);
    assert!(!is_told().await, "it was not refused");
}
