//! Objects on their way: whole, with their promised bytes, or not at all; and what failed on it.

use brahman_card::interface::storage::OBJECT_BYTES_MAX;
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;
use proptest::prelude::*;

use super::super::marker::Marker;
use super::*;
use crate::digest::{hex, sha256};

#[tokio::test]
async fn parts_of_an_object_are_read_and_another_content_is_refused() {
    let place = Place::new();
    let buckets = place.open();
    assert!(buckets.put(PRIMARY, "notes/a.txt", b"hello world".to_vec(), true).await.expect("put"));
    assert!(
        !buckets.put(PRIMARY, "notes/a.txt", b"other".to_vec(), true).await.expect("it is there")
    );
    let digest = hex(&sha256(b"hello world"));
    let all = buckets.read(PRIMARY, "notes/a.txt", (0, None), None).await.expect("read");
    assert_eq!(
        all,
        Part { bytes: b"hello world".to_vec(), size: 11, sha256: Some(digest.clone()) }
    );
    for (offset, length, text) in [
        (6, None, "world"),
        (6, Some(3), "wor"),
        (9, Some(100), "ld"),
        (11, None, ""),
        (50, Some(1), ""),
    ] {
        for expected in [None, Some(digest.as_str())] {
            let part = buckets
                .read(PRIMARY, "notes/a.txt", (offset, length), expected)
                .await
                .expect("read");
            assert_eq!(
                (part.bytes.as_slice(), part.size),
                (text.as_bytes(), 11),
                "{offset} {length:?}"
            );
        }
    }
    let other = buckets.read(PRIMARY, "notes/a.txt", (0, Some(1)), Some("0")).await;
    assert!(matches!(other, Err(BucketError::Damaged { .. })), "{other:?}");
    assert!(matches!(
        buckets.read(PRIMARY, "none", (0, None), None).await,
        Err(BucketError::NoSuchObject { .. })
    ));
    let large = vec![0; usize::try_from(OBJECT_BYTES_MAX).expect("small") + 1];
    buckets.put(PRIMARY, "large", large, false).await.expect("put");
    assert!(
        matches!(buckets.read(PRIMARY, "large", (0, None), None).await, Err(BucketError::TooLarge { size, .. }) if size > OBJECT_BYTES_MAX)
    );
    assert_eq!(
        buckets
            .read(PRIMARY, "large", (OBJECT_BYTES_MAX, None), None)
            .await
            .expect("the rest")
            .bytes
            .len(),
        1
    );
}

#[tokio::test]
async fn an_object_travels_with_its_promised_bytes_or_not_at_all() {
    let place = Place::new();
    let buckets = place.open();
    for (n, bytes) in [vec![7_u8; 20 << 20], b"small".to_vec(), Vec::new()].into_iter().enumerate()
    {
        let (key, digest) = (format!("datasets/d/r{n}/part-0.parquet"), hex(&sha256(&bytes)));
        let (from, to) = (place.at("from"), place.at("deep/to"));
        std::fs::write(&from, &bytes).expect("written");
        let staged = || {
            std::fs::read_dir(place.state().join(format!("buckets/primary/datasets/d/r{n}")))
                .map_or(0, Iterator::count)
        };
        let refused = buckets.upload(PRIMARY, &key, &from, "0", false).await;
        assert!(
            matches!(refused, Err(BucketError::Damaged { .. })) && staged() == 0,
            "{refused:?}"
        );
        buckets.upload(PRIMARY, &key, &from, &digest, false).await.expect("copied");
        buckets.upload(PRIMARY, &key, &from, &digest, false).await.expect("it is there");
        assert_eq!(
            (buckets.verify(PRIMARY, &key, &digest).await.expect("right"), staged()),
            (bytes.len() as u64, 1)
        );
        assert!(matches!(
            buckets.verify(PRIMARY, &key, "0").await,
            Err(BucketError::Damaged { .. })
        ));
        // Between buckets: once, and again only where it is another.
        assert!(buckets.copy(PRIMARY, RESCUE, &key, &key, &digest, false).await.expect("copied"));
        assert!(
            !buckets.copy(PRIMARY, RESCUE, &key, &key, &digest, false).await.expect("it is there")
        );
        buckets.download(RESCUE, &key, &digest, &to).await.expect("copied back");
        assert_eq!(std::fs::read(&to).expect("there"), bytes);
        // A damaged original never goes over a good copy, and a damaged copy is replaced only where
        // that is asked for.
        let own = place.state().join("buckets/primary").join(&key);
        let copy = place.state().join("buckets/rescue").join(&key);
        std::fs::write(&copy, "damaged").expect("damaged");
        let left = buckets.copy(PRIMARY, RESCUE, &key, &key, &digest, false).await;
        assert!(
            matches!(left, Err(BucketError::Damaged { .. }))
                && std::fs::read(&copy).expect("there") == b"damaged",
            "{left:?}"
        );
        assert!(buckets.copy(PRIMARY, RESCUE, &key, &key, &digest, true).await.expect("replaced"));
        std::fs::write(&own, "damaged").expect("damaged");
        let refused = buckets.copy(PRIMARY, RESCUE, &key, "elsewhere", &digest, true).await;
        assert!(
            matches!(&refused, Err(BucketError::Damaged { name, .. }) if name == PRIMARY),
            "{refused:?}"
        );
        assert!(!place.state().join("buckets/rescue/elsewhere").exists());
        assert!(
            !buckets
                .copy(PRIMARY, RESCUE, &key, &key, &digest, true)
                .await
                .expect("the copy is right, and is left")
        );
        let other = buckets.upload(PRIMARY, &key, &from, &digest, false).await;
        assert!(
            matches!(other, Err(BucketError::Damaged { .. })),
            "nothing is put over another content: {other:?}"
        );
        buckets.remove_object(RESCUE, &key).await.expect("removed");
        buckets.remove_object(RESCUE, &key).await.expect("twice does no harm");
        assert!(matches!(
            buckets.verify(RESCUE, &key, &digest).await,
            Err(BucketError::NoSuchObject { .. })
        ));
    }
}

#[tokio::test]
async fn every_failure_is_kept() {
    let place = Place::new();
    let buckets = place.open();
    buckets.put(RESCUE, "a", b"x".to_vec(), true).await.expect("put");
    buckets.download(RESCUE, "a", "0", &place.at("to")).await.expect_err("it is another");
    assert!(!place.at("to").exists());
    buckets.download(RESCUE, "b", "0", &place.at("to")).await.expect_err("it is not there");
    let operations: Vec<String> =
        buckets.journal().newest(10).0.into_iter().map(|f| f.operation).collect();
    assert_eq!(operations, ["get", "verify"]);
    buckets.journal().flush();
    assert_eq!(place.open().journal().newest(10).1, 2, "they outlive the process");
    assert_eq!(buckets.journal().compact(1).expect("compacted"), (1, 1));
    std::fs::remove_dir_all(place.state().join("buckets/rescue")).expect("removed");
    let health = buckets.health().await;
    assert!(health.iter().any(|h| h.name == "rescue" && !h.reachable), "{health:?}");
}

/// A bucket over a store of a test's own, below a prefix, as one in S3 is.
async fn over(buckets: &Buckets, store: &Arc<InMemory>, prefix: &str) {
    let prefix = open::key("lake", prefix).expect("a prefix");
    let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(Arc::clone(store), prefix));
    let made = marker::make(&*store, true, &Marker::new("lake", "n")).await.expect("made");
    let (name, url, options) = ("lake".to_owned(), "s3://lake".to_owned(), BTreeMap::new());
    let bucket = Bucket {
        name,
        url,
        options,
        secret: None,
        protected: false,
        conditional_put: true,
        added_ms: 1,
        id: Some(made.id),
    };
    let entry = Entry {
        bucket,
        reach: Reach::S3(store),
        secrets: Vec::new(),
        sight: Arc::default(),
        looks: Arc::default(),
    };
    lock(&buckets.all).insert("lake".to_owned(), entry);
}

/// Parts of keys of all kinds, but for what no store takes: relative ones, and names by which a
/// folder stages what is put.
fn part() -> impl Strategy<Value = String> {
    let plain = "[a-zA-Z0-9._ %+~#&=?*<>|\\[\\]{}^`\"'\\\\:;,@$!()äöü€漢\u{301}-]{1,12}";
    plain.prop_filter("a name of its own", |part| {
        part != "."
            && part != ".."
            && !part.contains('#')
            && !part.starts_with(".brahman")
            && open::key("b", part).is_ok()
    })
}

#[tokio::test]
async fn a_key_that_a_folder_takes_for_a_drive_or_a_folder_is_refused() {
    let place = Place::new();
    let buckets = place.open();
    for key in ["c:", "c|/x", "x/c:", "xyz:", "x/yz|"] {
        let refused = buckets.create(PRIMARY, key, b"x".to_vec()).await.expect_err("refused");
        assert!(refused.to_string().contains(key), "{refused}");
    }
    for key in ["x:y", "xy:/z", "xy|/z", "1:", "€|"] {
        assert_eq!(buckets.create(PRIMARY, key, b"x".to_vec()).await.expect("put"), Creation::New);
        assert_eq!(
            std::fs::read(place.state().join("buckets/primary").join(key))
                .expect("at exactly that path"),
            b"x"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_key_is_recorded_as_every_reader_can_open_it(
        prefix in prop::collection::vec(part(), 1..3),
        key in prop::collection::vec(part(), 1..4),
    ) {
        let (prefix, key) = (prefix.join("/"), key.join("/"));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let place = Place::new();
            let (buckets, memory) = (place.open(), Arc::new(InMemory::new()));
            over(&buckets, &memory, &prefix).await;
            for name in ["lake", PRIMARY] {
                assert_eq!(
                    buckets.create(name, &key, b"x".to_vec()).await.expect("put"),
                    Creation::New
                );
                assert_eq!(buckets.keys(name, "", 9).await.expect("listed"), [(key.clone(), 1)]);
                assert_eq!(
                    buckets.read(name, &key, (0, None), None).await.expect("read").bytes,
                    b"x"
                );
            }
            // Exactly there, for whoever knows nothing of us.
            let whole = Key::parse(format!("{prefix}/{key}")).expect("a path");
            assert_eq!(whole.as_ref(), format!("{prefix}/{key}"));
            object_store::ObjectStoreExt::head(&*memory, &whole)
                .await
                .expect("at exactly that key");
            assert_eq!(
                std::fs::read(place.state().join("buckets/primary").join(&key))
                    .expect("at exactly that path"),
                b"x"
            );
            let root = Root { folder: PathBuf::new(), url: format!("s3://lake/{prefix}") };
            assert_eq!(root.url_of(&key), format!("s3://lake/{prefix}/{key}"));
        });
    }
}
