//! Disks that are away, silent or exchanged: told apart, and nothing is made anew in their place.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn a_disk_that_is_not_mounted_is_away_and_is_never_made_again() {
    let place = Place::new();
    let buckets = place.open();
    let added = buckets.add(ask("disk", &place.url("disk"))).await.expect("added").bucket;
    buckets.put("disk", "a", b"x".to_vec(), true).await.expect("put");
    // Its folder goes, and comes back empty, as a mount point does.
    for empty in [false, true] {
        std::fs::rename(place.at("disk"), place.at("elsewhere")).expect("unmounted");
        if empty {
            std::fs::create_dir(place.at("disk")).expect("made");
        }
        for buckets in [&buckets, &place.open()] {
            let words = if empty { "not mounted" } else { "is not there" };
            is_away(buckets.present("disk").await, words);
            is_away(buckets.mounted("disk").await, words);
            is_away(buckets.mounted_now("disk"), words);
            is_away(buckets.put("disk", "b", b"y".to_vec(), false).await, words);
            is_away(buckets.read("disk", "a", (0, None), None).await, words);
            is_away(buckets.keys("disk", "", 9).await, words);
            is_away(buckets.remove_object("disk", "a").await, words);
            let health = buckets.health().await;
            let health = health.iter().find(|h| h.name == "disk").expect("asked");
            assert!(
                !health.reachable
                    && health.hint.as_ref().is_some_and(|hint| hint.contains("mount its disk")),
                "{health:?}"
            );
            assert_eq!(
                buckets.absent().into_iter().map(|(name, _)| name).collect::<Vec<_>>(),
                ["disk"]
            );
            assert!(buckets.roots().contains_key("disk"), "what lies there is known");
        }
        assert_eq!(place.at("disk").exists(), empty);
        if empty {
            assert_eq!(
                std::fs::read_dir(place.at("disk")).expect("there").count(),
                0,
                "nothing was written to the wrong disk"
            );
            std::fs::remove_dir(place.at("disk")).expect("removed");
        }
        std::fs::rename(place.at("elsewhere"), place.at("disk")).expect("mounted");
        assert_eq!(
            buckets.read("disk", "a", (0, None), None).await.expect("there again").bytes,
            b"x"
        );
    }
    // Another bucket's disk in its place.
    buckets.add(ask("other", &place.url("other"))).await.expect("added");
    std::fs::rename(place.at("disk"), place.at("elsewhere")).expect("unmounted");
    std::fs::rename(place.at("other"), place.at("disk")).expect("mounted");
    is_away(buckets.present("disk").await, "a bucket first called `other`");
    std::fs::remove_dir_all(place.at("disk")).expect("removed");
    // Begun anew, by whoever says so, it is another one.
    let anew = buckets.add(ask("disk", &place.url("disk"))).await.expect("begun anew");
    assert!(
        anew.bucket.id != added.id && anew.notes[0].contains("what lay there is not here"),
        "{anew:?}"
    );
    assert!(buckets.keys("disk", "", 9).await.expect("there").is_empty());
}

#[tokio::test]
async fn our_own_buckets_go_with_the_state_and_are_begun_anew_only_by_word() {
    let place = Place::new();
    place.open().put(PRIMARY, "a", b"x".to_vec(), true).await.expect("put");
    std::fs::rename(place.state(), place.at("moved")).expect("moved");
    let buckets = Buckets::open(&place.at("moved")).expect("opens");
    assert_eq!(buckets.read(PRIMARY, "a", (0, None), None).await.expect("there").bytes, b"x");
    std::fs::remove_dir_all(place.at("moved/buckets/primary")).expect("removed");
    let buckets = Buckets::open(&place.at("moved")).expect("opens");
    is_away(buckets.present(PRIMARY).await, "is not there");
    assert!(
        matches!(buckets.add(ask(PRIMARY, &place.url("disk"))).await, Err(BucketError::Bad(_))),
        "nowhere else"
    );
    let anew =
        buckets.add(ask(PRIMARY, &place.url("moved/buckets/primary"))).await.expect("begun anew");
    assert!(anew.bucket.protected && anew.bucket.added_ms == 0);
    Buckets::open(&place.at("moved")).expect("opens").present(PRIMARY).await.expect("there");
}

#[tokio::test]
async fn exchanged_folders_and_damaged_markers_are_told_apart_from_a_disk_that_is_away() {
    let place = Place::new();
    let buckets = place.open();
    for name in ["lake", "sea"] {
        buckets.add(ask(name, &place.url(name))).await.expect("added");
    }
    let exchange = || {
        for (from, to) in [("lake", "aside"), ("sea", "lake"), ("aside", "sea")] {
            std::fs::rename(place.at(from), place.at(to)).expect("moved");
        }
    };
    exchange();
    for (name, other) in [("lake", "sea"), ("sea", "lake")] {
        let (reachable, _, hint) = told(&buckets, name).await;
        assert!(
            !reachable
                && hint.contains(&format!("is bucket `{other}`"))
                && hint.contains("exchanged"),
            "{hint}"
        );
    }
    exchange();
    assert!(told(&buckets, "lake").await.0 && told(&buckets, "sea").await.0);
    let marker = place.at("lake").join(MARKER);
    std::fs::write(&marker, "{").expect("damaged");
    let (_, error, hint) = told(&buckets, "lake").await;
    assert!(
        error.contains("damaged")
            && hint.contains("move its damaged")
            && hint.contains("buckets add lake"),
        "{error}: {hint}"
    );
    // What it says to do does it.
    std::fs::rename(&marker, place.at("lake").join("damaged")).expect("moved away");
    assert!(told(&buckets, "lake").await.2.contains("mount its disk"), "gone, it is gone");
    buckets.add(ask("lake", &place.url("lake"))).await.expect("begun anew");
    assert!(told(&buckets, "lake").await.0);
}

#[tokio::test]
async fn a_disk_that_does_not_answer_is_away_holds_nobody_up_and_comes_back_by_itself() {
    let place = Place::new();
    let buckets = place.open();
    buckets.add(ask("disk", &place.url("disk"))).await.expect("added");
    let (marker, aside) = (place.at("disk").join(MARKER), place.at("disk").join("aside"));
    std::fs::rename(&marker, &aside).expect("moved");
    // What is opened to be read waits until somebody writes.
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&marker)
            .status()
            .is_ok_and(|status| status.success())
    );
    let silent = "no answer within 5 s";
    is_away(buckets.mounted("disk").await, silent);
    assert!(buckets.hangs("disk"));
    let asked = Instant::now();
    is_away(buckets.mounted("disk").await, silent);
    is_away(buckets.mounted_now("disk"), silent);
    is_away(buckets.put("disk", "a", b"x".to_vec(), true).await, silent);
    assert_eq!(buckets.absent().into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["disk"]);
    buckets.add(ask("more", &place.url("more"))).await.expect("another");
    assert!(
        asked.elapsed() < look::LONGEST,
        "once it is known nobody waits for it: {:?}",
        asked.elapsed()
    );
    // It answers: first that there is nothing to be read, then as ever.
    drop(std::fs::File::options().write(true).open(&marker).expect("opened"));
    std::fs::rename(&aside, &marker).expect("moved back");
    while buckets.hangs("disk") {
        tokio::task::yield_now().await;
    }
    buckets.mounted("disk").await.expect("there");
    assert!(told(&buckets, "disk").await.0);
}
