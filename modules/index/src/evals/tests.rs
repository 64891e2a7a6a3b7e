//! Sets of queries: whose they are, and what becomes of them when the data changes.

use super::sets::{KEPT, id_after};
use super::*;
use crate::embedder::Model;
use crate::folder::{Content, Folder};
use crate::generation::Manifest;
use crate::rows::{Row, RowStore};
use crate::sealed;
use crate::segment;
use brahman_storage::Steps;
use brahman_storage::digest;
use flat_hnsw::build::Parameters;
use flat_hnsw::sample::unit_vectors;

const DIM: usize = 8;

/// A generation of these documents, in this order.
fn generation(folder: &Folder, seed: u64, documents: &[u32]) -> Generation {
    let most = documents.iter().max().copied().unwrap_or(0) as usize + 1;
    let all = unit_vectors(seed, most, DIM);
    let mut content = Content {
        rows: RowStore::default(),
        vectors: Vec::new(),
        columns: segment::no_columns(documents.len()).expect("none"),
    };
    for number in documents {
        let id = format!("doc-{number}");
        content.rows.push(&Row {
            doc_id: &id,
            content_hash: &[1; 32],
            chunk: 0,
            start: 0,
            line: 1,
            context: "",
            text: "",
        });
        let from = *number as usize * DIM;
        content.vectors.extend_from_slice(&all[from..from + DIM]);
    }
    let model = Model { name: "m".into(), fingerprint: "f".into(), dim: DIM, mock: false };
    let first = Manifest::first(
        model,
        "exact".into(),
        Parameters { m: 8, ef_construction: 32, seed: 0 },
        64,
    );
    let manifest = Manifest { number: folder.next_number(0), ..first };
    folder.commit_base(manifest, "d", content, 2, &|_| true).expect("committed")
}

fn names(generation: &Generation) -> DataNames {
    DataNames::new(generation.data_name().expect("whole"), &generation.folder, std::iter::empty())
}

fn get(path: &Path, generation: &Generation, name: Option<&str>) -> Result<Eval, EvalError> {
    wanted(path, generation, &names(generation), name, 2, &|| ())
}

fn vectors(eval: &Eval) -> Vec<Vec<u32>> {
    eval.tune
        .iter()
        .chain(&eval.holdout)
        .map(|query| query.vector.iter().map(|x| x.to_bits()).collect())
        .collect()
}

#[test]
fn the_same_rows_give_the_same_queries_in_whatever_order_they_lie() {
    let (one, two) = (
        tempfile::tempdir().expect("a temporary directory"),
        tempfile::tempdir().expect("a temporary directory"),
    );
    let documents: Vec<u32> = (0..400).collect();
    let turned: Vec<u32> = documents.iter().rev().copied().collect();
    let first = generation(&Folder::new(one.path(), Steps::default()), 1, &documents);
    let second = generation(&Folder::new(two.path(), Steps::default()), 1, &turned);
    assert_eq!(names(&first), names(&second));
    let (a, b) = (
        get(one.path(), &first, None).expect("made"),
        get(two.path(), &second, None).expect("made"),
    );
    assert_eq!((a.tune.len(), a.holdout.len(), a.info.name.as_deref()), (200, 200, Some(DEFAULT)));
    assert_eq!(vectors(&a), vectors(&b));
    assert_eq!(get(one.path(), &first, None).expect("kept").info.id, a.info.id, "it is made once");
}

#[test]
fn a_set_of_other_data_is_made_anew_by_the_same_numbers_and_found_again_when_the_data_is_back() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let before = generation(&folder, 1, &(0..300).collect::<Vec<_>>());
    let old = names(&before);
    autogen(path.path(), &before, &NewSet { name: "mine", data: &old.now, k: 3 }, 50, 7)
        .expect("made");
    let first = get(path.path(), &before, Some("mine")).expect("there");
    let after = generation(&folder, 2, &(300..700).collect::<Vec<_>>());
    assert_eq!(list(path.path(), Some(&names(&after))).0[0].stale, Some(true));
    assert!(current_id(path.path(), &names(&after), Some("mine")).is_none());
    let second = get(path.path(), &after, Some("mine")).expect("made anew");
    assert_ne!(second.info.id, first.info.id);
    assert_eq!(
        (second.info.k, second.info.tune, second.info.fingerprint),
        (3, 50, names(&after).now)
    );
    // All are found: of the first nothing would be.
    assert!(second.tune.iter().all(|query| query.truth == 3 && query.not.is_some()));
    assert!(
        matches!(get(path.path(), &after, Some(&first.info.id)), Err(EvalError::Stale { .. })),
        "one of an id is what it is"
    );
    assert_eq!(get(path.path(), &before, Some("mine")).expect("there").info.id, first.info.id);
    assert!(
        matches!(get(path.path(), &before, Some("none")), Err(EvalError::NoSuch { there, .. }) if there == ["mine"])
    );
}

#[test]
fn a_set_of_few_rows_has_as_many_queries_as_were_asked_for_once_there_are_more() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let few = generation(&folder, 1, &(0..12).collect::<Vec<_>>());
    autogen(path.path(), &few, &NewSet { name: "mine", data: &names(&few).now, k: 3 }, 50, 7)
        .expect("made");
    assert_eq!(get(path.path(), &few, Some("mine")).expect("there").info.tune, 6);
    let more = generation(&folder, 1, &(0..300).collect::<Vec<_>>());
    assert_eq!(get(path.path(), &more, Some("mine")).expect("made anew").info.tune, 50);
}

#[test]
fn given_answers_are_what_is_found_and_refused_when_the_data_has_changed() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let own = generation(&folder, 1, &(0..200).collect::<Vec<_>>());
    let at = |number: u32| own.vector(own.of_document(&format!("doc-{number}"))[0]).to_vec();
    // The eleventh is answered by what lies elsewhere.
    let mut queries: Vec<OwnQuery> =
        (0..10).map(|n| OwnQuery { vector: at(n), answers: vec![format!("doc-{n}")] }).collect();
    let away: Vec<f32> = at(0).iter().map(|x| -x).collect();
    queries.push(OwnQuery { vector: away, answers: vec!["doc-0".into()] });
    let data = names(&own);
    let new = NewSet { name: "asked", data: &data.now, k: 5 };
    let info = given(path.path(), &own, &new, &queries, false).expect("kept");
    assert!((info.exact.expect("answers were named") - 10.0 / 11.0).abs() < 1e-9, "{info:?}");
    let eval = get(path.path(), &own, Some("asked")).expect("there");
    assert_eq!(
        (eval.info.tune, eval.tune.len(), eval.holdout.len()),
        (6, 5, 5),
        "what cannot be found is not asked"
    );
    assert!(
        eval.tune
            .iter()
            .chain(&eval.holdout)
            .all(|query| query.truth == 1 && query.right.as_ref().is_some_and(|r| r.len() == 1))
    );
    let typo = [OwnQuery { vector: at(0), answers: vec!["doc-x".into()] }];
    assert!(matches!(
        given(path.path(), &own, &new, &typo, false),
        Err(EvalError::NoSuchDocument { query: 0, .. })
    ));
    let other = generation(&folder, 1, &(0..201).collect::<Vec<_>>());
    assert!(
        matches!(get(path.path(), &other, Some("asked")), Err(EvalError::Stale { name }) if name == "asked")
    );
}

#[test]
fn given_queries_without_answers_follow_the_data() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let own = generation(&folder, 1, &(0..200).collect::<Vec<_>>());
    let queries: Vec<OwnQuery> = unit_vectors(9, 21, DIM)
        .chunks(DIM)
        .map(|v| OwnQuery { vector: v.to_vec(), answers: Vec::new() })
        .collect();
    let data = names(&own);
    given(path.path(), &own, &NewSet { name: LIVE, data: &data.now, k: 4 }, &queries, true)
        .expect("kept");
    let first = get(path.path(), &own, Some(LIVE)).expect("there");
    assert_eq!(
        (first.tune.len(), first.holdout.len(), first.info.source.as_deref()),
        (11, 10, Some(LIVE))
    );
    let other = generation(&folder, 1, &(100..400).collect::<Vec<_>>());
    let second = get(path.path(), &other, Some(LIVE)).expect("made anew");
    assert_eq!(vectors(&second), vectors(&first));
    assert_eq!(
        (second.info.source.as_deref(), second.info.fingerprint),
        (Some(LIVE), names(&other).now)
    );
}

#[test]
fn few_sets_of_a_name_are_kept_and_a_name_is_a_word() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let own =
        generation(&Folder::new(path.path(), Steps::default()), 1, &(0..60).collect::<Vec<_>>());
    for seed in 0..5 {
        autogen(path.path(), &own, &NewSet { name: "a", data: "d", k: 1 }, 10, seed).expect("made");
    }
    autogen(path.path(), &own, &NewSet { name: "b", data: "d", k: 1 }, 10, 0).expect("made");
    assert_eq!(
        list(path.path(), None).0.iter().filter(|info| info.name.as_deref() == Some("a")).count(),
        KEPT
    );
    assert_eq!(list(path.path(), None).0.len(), KEPT + 1);
    assert!(["a", "live", "2024-questions.v1"].into_iter().all(|name| check_name(name).is_ok()));
    for name in ["", "A", "../x", ".x", "a b", "-a", &"a".repeat(65)] {
        assert!(check_name(name).is_err(), "{name}");
    }
}

#[test]
fn a_set_made_after_the_clock_was_set_back_is_the_newest() {
    let of_2099 = ulid::Ulid::from_parts(4_070_908_800_000, 7).to_string();
    assert!(id_after(Some(&of_2099)) > of_2099);
    let of_1970 = ulid::Ulid::from_parts(1, 7).to_string();
    assert!(id_after(Some(&of_1970)) < of_2099 && id_after(None) > of_1970);
}

fn record(id: &str, bytes: &[u8]) -> SetRecord {
    let info = EvalInfo { id: id.into(), k: 1, tune: 1, ..EvalInfo::default() };
    let sha256 = digest::hex(&digest::sha256(bytes));
    SetRecord {
        info,
        dim: 1,
        sources: Vec::new(),
        sha256,
        seed: 0,
        queries: None,
        answers: Vec::new(),
    }
}

#[test]
fn a_damaged_set_is_named_and_can_be_put_aside() {
    let index = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(folder(index.path())).expect("made");
    let bytes = 1.0_f32.to_le_bytes();
    for id in ["a", "b", "c"] {
        fs::write(folder(index.path()).join(format!("{id}.f32")), bytes).expect("written");
        let text = sealed::to_vec(&record(id, &bytes)).expect("sealed");
        fs::write(folder(index.path()).join(format!("{id}.json")), text).expect("written");
    }
    assert_eq!((list(index.path(), None).0.len(), list(index.path(), None).1), (3, Vec::new()));
    fs::write(folder(index.path()).join("a.f32"), [0; 4]).expect("damaged");
    let mut text = fs::read(folder(index.path()).join("b.json")).expect("there");
    text[9] ^= 1;
    fs::write(folder(index.path()).join("b.json"), text).expect("damaged");
    let damaged = list(index.path(), None).1;
    assert!(
        damaged.len() == 2
            && damaged[0].starts_with("evals/b.json: ")
            && damaged[1].starts_with("evals/a.f32: "),
        "{damaged:?}"
    );
    assert_eq!(put_aside(index.path()).expect("aside").len(), 4);
    let (left, damaged) = list(index.path(), None);
    assert_eq!((left.len(), left[0].id.as_str(), damaged.len()), (1, "c", 0));
}

#[test]
fn a_set_that_names_another_file_is_damaged_and_leads_nowhere() {
    let index = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(folder(index.path())).expect("made");
    fs::write(index.path().join("index.f32"), "work").expect("written");
    let set = record("../index", b"work");
    fs::write(folder(index.path()).join("a.json"), sealed::to_vec(&set).expect("sealed"))
        .expect("written");
    let (sets, damaged) = list(index.path(), None);
    assert!(
        sets.is_empty()
            && damaged.len() == 1
            && damaged[0].contains("evals/a.json: it belongs to another set"),
        "{damaged:?}"
    );
    assert_eq!(put_aside(index.path()).expect("aside"), ["evals/a.json"]);
    assert_eq!(fs::read_to_string(index.path().join("index.f32")).expect("left"), "work");
}

/// As the version before wrote them, whose sets had no names, seeds or answers.
#[test]
fn a_set_of_before_is_the_default_one() {
    let index = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(folder(index.path())).expect("made");
    let old = serde_json::json!({
        "info": {"id": "a", "created_ms": 1, "fingerprint": "0123456789abcdef", "k": 10, "tune": 1, "holdout": 0},
        "dim": 1, "sources": [["doc", 0]], "sha256": "",
    });
    fs::write(folder(index.path()).join("a.json"), sealed::to_vec(&old).expect("sealed"))
        .expect("written");
    let sets = kept(index.path()).0;
    assert_eq!((sets.len(), name_of(&sets[0].info), sets[0].seed), (1, DEFAULT, 0));
}
