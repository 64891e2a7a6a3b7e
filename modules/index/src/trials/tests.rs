//! Trials: their journal, their figures, and which is best.

use brahman_card::interface::index::Metrics;

use super::*;

fn trial(id: &str, fingerprint: &str, recall: f64, p95: f64) -> TrialRecord {
    let metrics = Metrics { recall_at_k: recall, p95_us: p95, ..Metrics::default() };
    TrialRecord { id: id.into(), fingerprint: fingerprint.into(), metrics, ..TrialRecord::default() }
}

#[test]
fn twenty_perfect_queries_prove_little() {
    let perfect = |n| Measure { recalls: vec![1.0; n], us: vec![] };
    assert!((1.0 - perfect(20).interval().0 - 0.139).abs() < 0.001);
    assert!(perfect(500).interval().0 > 0.99);
}

#[test]
fn a_set_made_after_the_clock_was_set_back_is_the_newest() {
    let of_2099 = ulid::Ulid::from_parts(4_070_908_800_000, 7).to_string();
    assert!(id_after(Some(&of_2099)) > of_2099);
    let of_1970 = ulid::Ulid::from_parts(1, 7).to_string();
    assert!(id_after(Some(&of_1970)) < of_2099 && id_after(None) > of_1970);
}

#[test]
fn a_damaged_set_is_named_and_can_be_put_aside() {
    let index = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(folder(index.path())).expect("made");
    let bytes = 1.0_f32.to_le_bytes();
    for id in ["a", "b", "c"] {
        let info = EvalInfo { id: id.into(), k: 1, tune: 1, ..EvalInfo::default() };
        let set = SetRecord { info, dim: 1, sources: Vec::new(), sha256: digest::hex(&digest::sha256(&bytes)) };
        fs::write(folder(index.path()).join(format!("{id}.f32")), bytes).expect("written");
        fs::write(folder(index.path()).join(format!("{id}.json")), sealed::to_vec(&set).expect("sealed")).expect("written");
    }
    assert_eq!((list(index.path()).0.len(), list(index.path()).1), (3, Vec::new()));
    fs::write(folder(index.path()).join("a.f32"), [0; 4]).expect("damaged");
    let mut text = fs::read(folder(index.path()).join("b.json")).expect("there");
    text[9] ^= 1;
    fs::write(folder(index.path()).join("b.json"), text).expect("damaged");
    let damaged = list(index.path()).1;
    assert!(damaged.len() == 2 && damaged[0].starts_with("evals/b.json: ") && damaged[1].starts_with("evals/a.f32: "), "{damaged:?}");
    assert_eq!(put_aside(index.path()).expect("aside").len(), 4);
    let (left, damaged) = list(index.path());
    assert_eq!((left.len(), left[0].id.as_str(), damaged.len()), (1, "c", 0));
}

#[test]
fn a_set_that_names_another_file_is_damaged_and_leads_nowhere() {
    let index = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(folder(index.path())).expect("made");
    fs::write(index.path().join("index.f32"), "work").expect("written");
    let info = EvalInfo { id: "../index".into(), k: 1, tune: 1, ..EvalInfo::default() };
    let set = SetRecord { info, dim: 1, sources: Vec::new(), sha256: digest::hex(&digest::sha256(b"work")) };
    fs::write(folder(index.path()).join("a.json"), sealed::to_vec(&set).expect("sealed")).expect("written");
    let (sets, damaged) = list(index.path());
    assert!(sets.is_empty() && damaged.len() == 1 && damaged[0].contains("evals/a.json: it belongs to another set"), "{damaged:?}");
    assert_eq!(put_aside(index.path()).expect("aside"), ["evals/a.json"]);
    assert_eq!(fs::read_to_string(index.path().join("index.f32")).expect("left"), "work");
}

#[test]
fn a_damaged_journal_is_said_until_somebody_has_looked() {
    let index = tempfile::tempdir().expect("a temporary directory");
    let mut journal = Journal::open(index.path());
    for id in ["a", "b", "c"] {
        journal.add(trial(id, "x", 0.9, 100.0)).expect("kept");
    }
    assert!(journal.trouble().is_none() && journal.shortfall().is_none());
    drop(journal);
    let path = index.path().join("trials/journal.log");
    let text = fs::read_to_string(&path).expect("there");
    let without: String = text.split_inclusive('\n').enumerate().filter(|(line, _)| *line != 1).map(|(_, text)| text).collect();
    fs::write(&path, without).expect("harmed");
    for missing in [1, 0] {
        let journal = Journal::open(index.path());
        assert_eq!((journal.damage().missing, journal.trials.len()), (missing, 2));
        assert!(journal.trouble().is_none() && journal.shortfall().is_some_and(|why| why.contains("journal.log.quarantine")));
    }
    fs::remove_file(&path).and_then(|()| fs::create_dir(&path)).expect("unreadable");
    let mut journal = Journal::open(index.path());
    assert!(journal.trouble().is_some_and(|error| error.to_string().contains("journal.log")));
    journal.add(trial("d", "x", 0.9, 100.0)).expect_err("nobody knows what it would stand beside");
}

#[test]
fn the_best_is_chosen_among_trials_on_the_same_data() {
    let trials = [trial("a", "x", 0.9, 100.0), trial("b", "x", 0.99, 900.0), trial("c", "x", 0.97, 200.0), trial("d", "y", 1.0, 1.0)];
    let of = |by| best(&trials, "x", by).map(|t| t.id.clone()).unwrap_or_default();
    assert_eq!([of("recall"), of("latency"), of("pareto")], ["b", "a", "c"]);
    assert!(best(&trials, "z", "recall").is_none());
}

#[test]
fn the_narrowest_search_that_suffices_is_found() {
    let queries = vec![Query { vector: vec![1.0], not: None, floor: 0.5, truth: 1 }; 3];
    let search = |_: &[f32], _: usize, ef: usize| vec![Neighbour { row: 0, score: if ef >= 77 { 1.0 } else { 0.0 } }];
    assert_eq!(find_ef(&queries, 10, 0.9, &search), 77);
}
