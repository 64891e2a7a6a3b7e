//! What holds of buckets as a whole: [`lost`] is about answers that do not come.

mod away;
mod lost;
mod objects;

use std::os::unix::fs::symlink;

use brahman_card::interface::storage::AddBucketIn;

use super::*;

fn ask(name: &str, url: &str) -> AddBucketIn {
    AddBucketIn { name: name.into(), url: url.into(), options: None, secret: None }
}

/// A state, and a disk beside it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn url(&self, name: &str) -> String {
        format!("file://{}", self.at(name).display())
    }

    fn open(&self) -> Buckets {
        Buckets::open(&self.state()).expect("opens")
    }
}

fn is_away(outcome: Result<impl std::fmt::Debug, BucketError>, words: &str) {
    match outcome {
        Err(BucketError::Away { why, .. }) => assert!(why.contains(words), "{why}"),
        other => panic!("expected a bucket that is away ({words}), got {other:?}"),
    }
}

#[tokio::test]
async fn buckets_come_and_go_and_two_stay() {
    let place = Place::new();
    let buckets = place.open();
    let names = |buckets: &Buckets| buckets.list().into_iter().map(|b| b.name).collect::<Vec<_>>();
    assert_eq!(names(&buckets), ["primary", "rescue"]);
    let Addition { bucket, notes } =
        buckets.add(ask("more", &place.url("more"))).await.expect("added");
    assert!(
        bucket.conditional_put && !bucket.protected && !buckets.rescues() && notes.is_empty(),
        "{notes:?}"
    );
    assert_eq!(names(&place.open()), ["more", "primary", "rescue"]);
    for name in ["primary", "rescue"] {
        assert!(matches!(buckets.remove(name).await, Err(BucketError::Protected(_))));
    }
    buckets.remove("more").await.expect("removed");
    assert!(matches!(buckets.remove("more").await, Err(BucketError::NoSuchBucket(_))));
    for url in ["relative", "file://relative", "ftp://x/y", "s3://"] {
        assert!(matches!(buckets.add(ask("bad", url)).await, Err(BucketError::Bad(_))), "{url}");
    }
}

#[tokio::test]
async fn a_folder_that_nothing_can_be_put_into_is_refused_in_words() {
    let place = Place::new();
    let buckets = place.open();
    for (url, words) in [
        ("file:///proc/x", "the folder cannot be made"),
        ("file:///sys/kernel", "no file can be made in it"),
    ] {
        match buckets.add(ask("x", url)).await {
            Err(BucketError::Bad(why)) => assert!(
                why.contains(words) && why.contains(&url[7..]) && why.contains("`x`"),
                "{why}"
            ),
            other => panic!("{url}: {other:?}"),
        }
    }
    assert_eq!(buckets.list().len(), 2);
}

#[tokio::test]
async fn an_object_is_never_put_below_another_nor_over_others_in_a_folder_and_both_are_said() {
    let place = Place::new();
    let buckets = place.open();
    for key in ["a", "deep/b"] {
        buckets.put(PRIMARY, key, b"x".to_vec(), false).await.expect("put");
    }
    for only_new in [true, false] {
        for (key, other) in [
            ("a/b", "`a` is an object"),
            ("a/b/c", "`a` is an object"),
            ("deep", "objects below `deep/`"),
        ] {
            let refused = buckets.put(PRIMARY, key, b"y".to_vec(), only_new).await.expect_err(key);
            assert!(
                matches!(&refused, BucketError::InTheWay { key: at, .. } if at == key),
                "{refused:?}"
            );
            assert!(refused.to_string().contains(other), "{refused}");
        }
    }
    let refused = buckets.create(PRIMARY, "a/b", b"y".to_vec()).await.expect_err("below an object");
    assert!(matches!(refused, BucketError::InTheWay { .. }), "{refused:?}");
    assert_eq!(buckets.read(PRIMARY, "a", (0, None), None).await.expect("as it was").bytes, b"x");
    assert_eq!(
        buckets.read(PRIMARY, "deep/b", (0, None), None).await.expect("as it was").bytes,
        b"x"
    );
}

#[tokio::test]
async fn a_catalog_whose_name_cannot_be_read_puts_nothing_in_another_and_says_what_to_do() {
    let place = Place::new();
    let node = place.open().node().to_owned();
    std::fs::write(place.state().join(crate::node::NODE), "zz").expect("damaged");
    let buckets = place.open();
    assert!(buckets.node() != node && matches!(buckets.known_node(), Err(BucketError::NoNode(_))));
    let why = buckets.nameless().expect("said").to_owned();
    assert!(
        why.contains("catalog/node")
            && why.contains(&format!("write {node} into it"))
            && why.contains("restart catalog"),
        "{why}"
    );
    assert!(matches!(
        buckets.add(ask("more", &place.url("more"))).await,
        Err(BucketError::NoNode(_))
    ));
    assert!(!place.at("more").exists());
    // Nothing else stops.
    buckets.put(PRIMARY, "a", b"x".to_vec(), true).await.expect("put");
    assert!(
        buckets.health().await.iter().any(|h| h.name == "node" && h.error.as_ref() == Some(&why))
    );
    assert!(buckets.unread().is_empty());
    // What it says to do does it.
    std::fs::write(place.state().join(crate::node::NODE), &node).expect("written");
    let buckets = place.open();
    assert_eq!((buckets.node(), buckets.nameless()), (node.as_str(), None));
    buckets.add(ask("more", &place.url("more"))).await.expect("added");
}

#[tokio::test]
async fn a_registry_of_an_earlier_version_gets_a_checksum_and_one_that_was_changed_since_is_refused()
 {
    let place = Place::new();
    place.open().add(ask("lake", &place.url("lake"))).await.expect("added");
    let registry = place.state().join("catalog/.registry/buckets.json");
    let text = || std::fs::read_to_string(&registry).expect("there");
    assert!(text().contains("\nbrahman-file 1 sha256 "), "{}", text());
    let old: String = text().lines().filter(|line| !line.starts_with("brahman-file")).collect();
    std::fs::write(&registry, old).expect("as an earlier version wrote it");
    assert!(place.open().list().iter().any(|bucket| bucket.name == "lake"));
    assert!(text().contains("\nbrahman-file 1 sha256 "), "{}", text());
    let changed = text().replace("/lake", "/leke");
    std::fs::write(&registry, &changed).expect("damaged");
    let buckets = place.open();
    assert!(
        buckets.unread()[0].contains("checksum") && buckets.unread()[0].contains("buckets.json"),
        "{:?}",
        buckets.unread()
    );
    assert!(
        buckets.list().iter().all(|bucket| bucket.name != "lake") && text() == changed,
        "it was left as it is"
    );
}

#[tokio::test]
async fn a_folder_in_or_around_another_mesh_s_state_is_no_bucket() {
    let place = Place::new();
    let buckets = place.open();
    std::fs::create_dir_all(place.at("other/state/buckets")).expect("made");
    symlink(place.at("other/state"), place.at("link")).expect("linked");
    let other = OtherState {
        folder: place.at("other/state"),
        words: "the state of the mesh on /run/x.sock".into(),
    };
    for (at, words) in [
        ("other/state/lake", "lies inside the state"),
        ("other", "holds the state"),
        ("link", "is the state"),
        ("link/x", "/run/x.sock"),
    ] {
        let others = vec![other.clone()];
        let refused = buckets
            .add_apart_from(ask("lake", &place.url(at)), move || others)
            .await
            .expect_err(at);
        assert!(
            matches!(&refused, BucketError::Bad(why) if why.contains(words) && why.contains("`lake`")),
            "{at}: {refused}"
        );
    }
    assert!(!place.at("other/state/lake").exists() && !place.at("other/state/x").exists());
    buckets
        .add_apart_from(ask("lake", &place.url("other/lake")), move || vec![other])
        .await
        .expect("a neighbour");
}

#[tokio::test]
async fn names_never_lead_out_of_the_folder_of_buckets() {
    let place = Place::new();
    let (buckets, url) = (place.open(), place.url("more"));
    for bad in [
        "",
        ".",
        "..",
        ".x",
        "a/b",
        "primary",
        "Primary",
        "buckets",
        "mock",
        "a\nb",
        &"x".repeat(65),
    ] {
        assert!(matches!(buckets.add(ask(bad, &url)).await, Err(BucketError::Bad(_))), "{bad:?}");
    }
    // One that an earlier version has registered is left alone, and said.
    let registry = place.state().join("catalog/.registry/buckets.json");
    let bucket = |name: &str| serde_json::json!({"name": name, "url": url, "protected": false, "conditional_put": true, "added_ms": 1});
    std::fs::write(&registry, serde_json::json!([bucket("..")]).to_string()).expect("written");
    let buckets = place.open();
    assert!(
        !buckets.roots().contains_key("..") && buckets.unread()[0].contains("`..`"),
        "{:?}",
        buckets.unread()
    );
    is_away(buckets.present("..").await, "no name for a bucket");
    for (folder, ours) in [
        ("buckets/lake", true),
        ("buckets/..", false),
        (".", false),
        ("", false),
        ("buckets/a/b", false),
    ] {
        assert_eq!(buckets.is_ours(&place.state().join(folder)), ours, "{folder}");
    }
    buckets.add(ask("more", &url)).await.expect("added");
    let kept = std::fs::read_to_string(&registry).expect("there");
    assert!(
        kept.contains("\"..\"") && kept.contains("more"),
        "what cannot be opened stays registered: {kept}"
    );
    buckets.remove("..").await.expect("forgotten");
    assert!(
        buckets.unread().is_empty()
            && !std::fs::read_to_string(&registry).expect("there").contains("\"..\"")
    );
}

#[tokio::test]
async fn a_registry_that_cannot_be_read_is_said_and_never_written_over() {
    let place = Place::new();
    let registry = place.state().join("catalog/.registry/buckets.json");
    drop(place.open());
    std::fs::create_dir_all(place.state().join("catalog/.registry")).expect("made");
    std::fs::write(&registry, r#"{"sha256":"0","entry":{}}"#).expect("written");
    let buckets = place.open();
    assert_eq!(buckets.list().len(), 2);
    buckets
        .put(PRIMARY, "a", b"x".to_vec(), true)
        .await
        .expect("what lies in the state is there all the same");
    assert!(buckets.unread()[0].contains("buckets.json"), "{:?}", buckets.unread());
    assert!(
        buckets.shortfall().is_some_and(|why| why.contains("buckets.json")),
        "whoever lists them hears it"
    );
    assert!(matches!(buckets.add(ask("more", &place.url("more"))).await, Err(BucketError::Bad(_))));
    assert!(std::fs::read_to_string(&registry).expect("there").contains("entry"));
    assert!(
        buckets.health().await.iter().any(|h| h.name == "registry" && !h.reachable),
        "whoever asks for health hears it"
    );
    // What the registry may have known is not there: it is not begun anew on the strength of what
    // could not be read.
    let primary = place.state().join("buckets/primary");
    std::fs::remove_dir_all(&primary).expect("lost");
    let buckets = place.open();
    buckets.put(PRIMARY, "a", b"x".to_vec(), true).await.expect_err("nothing is written to it");
    assert!(!primary.exists());
}

#[tokio::test]
async fn a_journal_of_failures_that_cannot_be_opened_stops_nothing_else() {
    let place = Place::new();
    std::fs::create_dir_all(place.state().join("catalog/errors.log"))
        .expect("a folder in its place");
    let buckets = place.open();
    buckets.put(PRIMARY, "a", b"x".to_vec(), true).await.expect("put");
    buckets.read(PRIMARY, "none", (0, None), Some("0")).await.expect_err("there is none");
    buckets.failed(PRIMARY, "get", "a", &"for the test");
    assert_eq!(buckets.journal().newest(9).1, 1, "kept while this process lives");
    assert!(buckets.journal().shortfall().is_some_and(|why| why.contains("errors.log")));
    assert_eq!(buckets.journal().compact(0).expect("nothing to write"), (0, 1));
}

#[tokio::test]
async fn two_names_for_one_place_are_one_bucket_and_a_closed_one() {
    let place = Place::new();
    drop(place.open());
    // As an earlier version let it be: copies in what they are copies of.
    let url = format!("file://{}", place.state().join("buckets/primary").display());
    let rescue = serde_json::json!({"name": "rescue", "url": url, "protected": true, "conditional_put": true, "added_ms": 1});
    std::fs::remove_file(place.state().join("catalog/.registry/buckets.json")).expect("there");
    std::fs::write(
        place.state().join("catalog/buckets.json"),
        serde_json::json!([rescue]).to_string(),
    )
    .expect("written");
    let buckets = place.open();
    assert!(
        buckets.unread().iter().any(|why| why.contains("`rescue`") && why.contains("`primary`")),
        "{:?}",
        buckets.unread()
    );
    buckets.present(PRIMARY).await.expect("it is there");
    is_away(buckets.present("rescue").await, "the same place");
}

async fn told(buckets: &Buckets, name: &str) -> (bool, String, String) {
    let health =
        buckets.health().await.into_iter().find(|health| health.name == name).expect("asked");
    (health.reachable, health.error.unwrap_or_default(), health.hint.unwrap_or_default())
}

#[tokio::test]
async fn buckets_that_an_earlier_version_has_registered_since_are_said_and_nothing_is_taken_for_all_there_is()
 {
    let place = Place::new();
    place.open().add(ask("lake", &place.url("lake"))).await.expect("added");
    let old = place.state().join("catalog/buckets.json");
    let theirs = serde_json::json!([{"name": "sea", "url": place.url("sea"), "protected": false, "conditional_put": true, "added_ms": 9}]);
    std::fs::write(&old, theirs.to_string()).expect("written");
    let buckets = place.open();
    assert!(
        buckets.unread()[0].contains("catalog/buckets.json")
            && buckets.unread()[0].contains("`sea`"),
        "{:?}",
        buckets.unread()
    );
    let (reachable, error, hint) = told(&buckets, "registry").await;
    assert!(
        !reachable && error.contains("`sea`") && hint.contains("move that file away"),
        "{error}: {hint}"
    );
    assert!(
        told(&buckets, "lake").await.0 && !buckets.roots().contains_key("sea"),
        "nothing is taken over by itself"
    );
    buckets.add(ask("sea", &place.url("sea"))).await.expect("added");
    assert!(place.open().unread().is_empty(), "what both know is no news");
}

#[tokio::test]
async fn folders_of_an_earlier_version_get_a_marker_if_they_hold_what_is_ours() {
    let place = Place::new();
    std::fs::create_dir_all(place.state().join("catalog/.registry")).expect("made");
    std::fs::create_dir_all(place.at("used/datasets")).expect("made");
    std::fs::create_dir_all(place.at("empty")).expect("made");
    let bucket = |name: &str| {
        let url = place.url(name);
        serde_json::json!({"name": name, "url": url, "protected": false, "conditional_put": true, "added_ms": 1})
    };
    let all = serde_json::json!([bucket("used"), bucket("empty"), bucket("missing")]);
    std::fs::write(place.state().join("catalog/.registry/buckets.json"), all.to_string())
        .expect("written");
    for buckets in [place.open(), place.open()] {
        buckets.present("used").await.expect("it is there");
        is_away(buckets.present("empty").await, "not mounted, or it was emptied");
        is_away(buckets.present("missing").await, "is not there");
        assert!(
            !place.at("missing").exists()
                && std::fs::read_dir(place.at("empty")).expect("there").count() == 0
        );
    }
    let buckets = place.open();
    buckets.add(ask("empty", &place.url("empty"))).await.expect("said again");
    buckets.present("empty").await.expect("it is there");
}

#[tokio::test]
async fn no_two_buckets_overlap_nor_one_and_the_state() {
    let place = Place::new();
    let buckets = place.open();
    let (primary, state) = ("state/buckets/primary", "state");
    buckets.add(ask("lake", &place.url("disk/lake"))).await.expect("added");
    symlink(place.at("disk/lake"), place.at("link")).expect("linked");
    symlink(place.at(primary), place.at("shortcut")).expect("linked");
    for (name, at, words) in [
        ("rescue", primary, "mesh's state"),
        ("rescue", "shortcut", "mesh's state"),
        ("rescue", "disk/lake", "is bucket `lake`"),
        ("rescue", "link", "is bucket `lake`"),
        ("rescue", "link/inside", "lies inside bucket `lake`"),
        ("rescue", "disk", "holds bucket `lake`"),
        ("more", "", "holds the mesh's state"),
        ("more", state, "is the mesh's state"),
        ("more", "state/catalog", "lies inside the mesh's state"),
        ("more", "state/buckets/other", "lies inside the mesh's state"),
    ] {
        let refused = buckets.add(ask(name, &place.url(at))).await.expect_err(at).to_string();
        assert!(refused.contains(words), "{name} {at}: {refused}");
    }
    assert!(!place.at("disk/lake/inside").exists(), "nothing was made for one that is refused");
    let rescue = buckets.add(ask("rescue", &place.url("copies"))).await.expect("a neighbour");
    assert!(rescue.notes[0].contains("same disk as lake, primary"), "{rescue:?}");
    // The state may hold one where one of that name belongs, and a bucket may be added again where
    // it is.
    buckets.add(ask("more", &place.url("state/buckets/more"))).await.expect("in its place");
    buckets.add(ask("lake", &place.url("link"))).await.expect("by another path");
}

#[tokio::test]
async fn two_catalogs_share_a_bucket_and_are_told_so() {
    let (one, two) = (Place::new(), Place::new());
    let first = one.open().add(ask("lake", &one.url("lake"))).await.expect("added");
    assert!(first.notes.is_empty(), "{first:?}");
    let second = two.open().add(ask("sea", &one.url("lake"))).await.expect("added");
    assert_eq!(first.bucket.id, second.bucket.id);
    assert!(second.notes[0].contains("first called `lake`"), "{second:?}");
    one.open().add(ask("lake", &one.url("lake"))).await.expect("added again").notes[0]
        .find("other catalogs")
        .expect("told");
    two.open().remove("sea").await.expect("removed");
    assert!(
        one.open().add(ask("lake", &one.url("lake"))).await.expect("added again").notes.is_empty()
    );
}

#[test]
fn an_s3_bucket_without_its_secrets_stays_registered_and_is_listed() {
    let place = Place::new();
    std::fs::create_dir_all(place.state().join("catalog/.registry")).expect("made");
    let bucket = serde_json::json!({"name": "lake", "url": "s3://lake/p", "options": {"aws_access_key_id": "me"}, "secret": "no such entry",
        "protected": false, "conditional_put": true, "added_ms": 1, "id": "x"});
    let registry = place.state().join("catalog/.registry/buckets.json");
    std::fs::write(&registry, serde_json::json!({"version": 2, "buckets": [bucket]}).to_string())
        .expect("written");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let buckets = place.open();
        assert!(
            buckets.unread()[0].contains("`lake`") && buckets.roots()["lake"].url == "s3://lake/p"
        );
        is_away(buckets.present("lake").await, "secrets file");
        is_away(buckets.mounted("lake").await, "secrets file");
        buckets.add(ask("more", &place.url("more"))).await.expect("added");
        assert!(
            std::fs::read_to_string(&registry).expect("there").contains("s3://lake/p"),
            "the next add keeps it"
        );
        let mut again = ask("lake", "s3://lake/p/");
        assert!(!buckets.moves(&again) && buckets.moves(&ask("lake", "s3://lake/q")));
        again.options = Some([("aws_endpoint".to_owned(), "http://elsewhere".to_owned())].into());
        assert!(buckets.moves(&again) && !buckets.moves(&ask("new", "s3://x")));
    });
}
