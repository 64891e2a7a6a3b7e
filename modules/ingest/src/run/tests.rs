//! What a run leaves when it ends early, and which changes of columns it tells.

use super::*;

#[test]
fn what_a_run_has_written_goes_unless_it_is_kept_also_when_it_panics() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let of = |name: &str| {
        let folder = folder.path().join(name);
        std::fs::create_dir_all(folder.join("deep")).expect("made");
        RunFolder { folder: Some(folder) }
    };
    drop(of("failed"));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _written = of("panicked");
        panic!("as this test wants");
    }));
    assert!(panicked.is_err() && std::fs::read_dir(folder.path()).expect("there").next().is_none());
    assert!(of("kept").keep().is_some_and(|kept| kept.is_dir()));
}

#[test]
fn what_may_have_been_published_is_no_refusal() {
    for maybe in [
        "Catalog.GivenUp",
        "Catalog.Damaged",
        "Catalog.Unknown",
        "Broker.ProviderFailed",
        "Fault.Internal",
    ] {
        assert!(!was_refused(&format!("org.brahman.{maybe}")), "{maybe}");
    }
    for never in ["Moved", "BadObject", "BucketFailed", "MadeByMock"] {
        assert!(was_refused(&format!("org.brahman.Catalog.{never}")), "{never}");
    }
}

#[test]
fn columns_that_came_went_or_changed_are_told() {
    let column = |name: &str, kind: &str| Column {
        name: name.into(),
        arrow_type: kind.into(),
        source_type: kind.into(),
        nulls_made: 0,
    };
    let before = [column("a", "Int32"), column("b", "Utf8"), column("c", "Utf8")];
    let now = [column("a", "Int64"), column("b", "Utf8"), column("d", "Date32")];
    let told: Vec<_> = drift(&before, &now)
        .into_iter()
        .map(|d| (d.column, d.was.unwrap_or_default(), d.now.unwrap_or_default()))
        .collect();
    let words = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(
        told,
        [words("a", "Int32", "Int64"), words("c", "Utf8", ""), words("d", "", "Date32")]
    );
}
