//! Copies that count, and those that are tried again.

use super::*;

#[test]
fn copies_of_two_buckets_are_two_and_what_lies_bare_counts_only_where_its_hash_is_known() {
    let keys = |node: &str, bucket: &str, key: &str, lookup| -> Vec<String> {
        copy_keys(node, bucket, key, lookup).all().map(Cow::into_owned).collect()
    };
    let own = |node: &str, bucket: &str| keys(node, bucket, "n/x", Lookup::Own);
    assert!(
        own("us", "primary") != own("us", "lake") && own("us", "primary") != own("them", "primary")
    );
    let (ours, old) = ("objects/us/primary/n/x", "objects/primary/n/x");
    // What an earlier version has copied there may be another's where another copies there,
    // too.
    for (lookup, expected) in [
        (Lookup::Own, &[ours][..]),
        (Lookup::Unrecorded { shared: true }, &[ours][..]),
        (Lookup::Unrecorded { shared: false }, &[ours, old][..]),
        (Lookup::Recorded, &[ours, old, "n/x"][..]),
    ] {
        assert_eq!(keys("us", "primary", "n/x", lookup), expected, "{lookup:?}");
    }
    let part = "datasets/d/r/part-0.parquet";
    assert_eq!(keys("us", "lake", part, Lookup::Recorded), [part]);
}

#[test]
fn a_copy_that_fails_is_tried_ever_more_rarely_and_one_that_waits_for_its_bucket_with_the_next_pass()
 {
    let (copier, error) = (Copier::default(), BucketError::NoSuchBucket("b".into()));
    assert_eq!((copier.tries("k"), copier.next_try()), (Some(0), None));
    copier.note_waiting("k", &error);
    assert_eq!((copier.tries("k"), copier.next_try()), (Some(0), None));
    copier.note_failing("k", &error);
    assert!(copier.tries("k").is_none() && copier.next_try().is_some_and(|wait| wait <= PAUSE.0));
    copier.note_failing("k", &error);
    assert!(copier.next_try().is_some_and(|wait| wait > PAUSE.0 && wait <= 2 * PAUSE.0));
    assert_eq!((back_off(1), back_off(3), back_off(60)), (PAUSE.0, 4 * PAUSE.0, PAUSE.1));
    copier.note_waiting("k", &error);
    assert_eq!(copier.tries("k"), Some(2), "how often it has failed is not forgotten");
    copier.note_saved("k", "a");
    assert_eq!(copier.tries("k"), Some(0));
}

#[test]
fn a_copy_counts_for_the_bytes_that_it_was_made_of() {
    let copier = Copier::default();
    let (bucket, key) = ("primary".to_owned(), "datasets/d/r/part-0.parquet".to_owned());
    let object = Object {
        bucket,
        key,
        url: String::new(),
        rows: 1,
        bytes: 1,
        sha256: "a".into(),
        path: None,
    };
    let key = copy_keys("us", &object.bucket, &object.key, Lookup::Own).own.into_owned();
    assert!(!copier.has(&key, "a"));
    copier.note_failing(&key, &BucketError::NoSuchBucket("x".repeat(1000)));
    assert!(copier.known().failing[&key].why.chars().count() <= WHY_CHARS);
    copier.note_saved(&key, "a");
    assert!(copier.has(&key, "a") && copier.known().failing.is_empty());
    assert!(!copier.has(&key, "b"), "other bytes have none");
    copier.forget(&key);
    assert!(!copier.has(&key, "a"));
}
