//! Trials: their journal, their figures, and which is best.

use brahman_card::interface::index::Metrics;

use super::*;

fn trial(id: &str, fingerprint: &str, recall: f64, p95: f64) -> TrialRecord {
    let metrics = Metrics { recall_at_k: recall, p95_us: p95, ..Metrics::default() };
    TrialRecord {
        id: id.into(),
        fingerprint: fingerprint.into(),
        metrics,
        ..TrialRecord::default()
    }
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
    let without: String = text
        .split_inclusive('\n')
        .enumerate()
        .filter(|(line, _)| *line != 1)
        .map(|(_, text)| text)
        .collect();
    fs::write(&path, without).expect("harmed");
    for missing in [1, 0] {
        let journal = Journal::open(index.path());
        assert_eq!((journal.damage().missing, journal.trials.len()), (missing, 2));
        assert!(
            journal.trouble().is_none()
                && journal.shortfall().is_some_and(|why| why.contains("journal.log.quarantine"))
        );
    }
    fs::remove_file(&path).and_then(|()| fs::create_dir(&path)).expect("unreadable");
    let mut journal = Journal::open(index.path());
    assert!(journal.trouble().is_some_and(|error| error.to_string().contains("journal.log")));
    journal.add(trial("d", "x", 0.9, 100.0)).expect_err("nobody knows what it would stand beside");
}

fn data(now: &str) -> DataNames {
    DataNames::new(now.into(), "", std::iter::empty())
}

#[test]
fn the_best_is_chosen_among_trials_on_the_same_data_and_queries() {
    let of = |id: &str, data: &str, eval: &str, recall, p95| {
        let mut one = trial(id, data, recall, p95);
        (one.metrics.recall_low, one.metrics.recall_high) = (recall - 0.01, recall + 0.01);
        one.eval = eval.into();
        one
    };
    let mut all = vec![
        of("a", "x", "s", 0.9, 100.0),
        of("b", "x", "s", 0.99, 900.0),
        of("c", "x", "s", 0.982, 200.0),
        of("d", "y", "s", 1.0, 1.0),
        of("e", "x", "t", 1.0, 1.0),
    ];
    let best = |all: &[TrialRecord], choice| {
        best(all, &data("x"), "s", choice).map(|t| t.id).unwrap_or_default()
    };
    assert_eq!([Choice::Recall, Choice::Latency].map(|choice| best(&all, choice)), ["b", "a"]);
    assert_eq!(
        best(&all, Choice::Better(Goal::Pareto)),
        "c",
        "the fastest that is not clearly less exact"
    );
    assert_eq!(
        [0.85, 0.97, 0.98].map(|target| best(&all, Choice::Better(Goal::Target(target)))),
        ["a", "c", "b"]
    );
    assert!(super::best(&all, &data("z"), "s", Choice::Recall).is_none());
    all[2].metrics.orphans = 1;
    assert_eq!(best(&all, Choice::Better(Goal::Pareto)), "b", "not one that loses rows");
}

#[test]
fn every_width_of_a_trial_is_a_candidate() {
    let mut one = trial("a", "x", 0.9, 10.0);
    let width = |ef_search, recall: f64, p95_us| WidthMetrics {
        ef_search,
        p95_us,
        recall_at_k: recall,
        recall_low: recall,
        recall_high: recall,
        ..WidthMetrics::default()
    };
    one.widths = Some(vec![width(10, 0.9, 10.0), width(20, 0.96, 20.0), width(40, 0.99, 40.0)]);
    let chosen = with_best_width(&one, Choice::Better(Goal::Target(0.95)));
    assert_eq!(
        (chosen.config.ef_search, chosen.metrics.p95_us, chosen.id.as_str()),
        (Some(20), 20.0, "a")
    );
    assert_eq!(with_best_width(&trial("b", "x", 0.9, 10.0), Choice::Recall).id, "b");
}

/// A search that finds what is right with 77 candidates or more.
fn search(_: &[f32], _: usize, ef: usize) -> Vec<Neighbour> {
    vec![Neighbour { row: 0, score: if ef >= 77 { 1.0 } else { 0.0 } }]
}

#[test]
fn the_narrowest_search_that_suffices_is_found() {
    let queries =
        vec![Query { vector: vec![1.0], not: None, floor: 0.5, truth: 1, right: None }; 3];
    assert_eq!(find_ef(&queries, 10, 0.9, &search, &|| ()), 77);
    assert_eq!(narrowest(&[10, 64, 80, 100], &queries, 10, 0.9, &search, &|| ()), Some(80));
    assert_eq!(
        narrowest(&[10, 64], &queries, 10, 0.9, &search, &|| ()),
        Some(64),
        "the last where none is enough"
    );
    assert_eq!(narrowest(&[], &queries, 10, 0.9, &search, &|| ()), None);
}

#[test]
fn answers_that_were_named_are_right_and_nothing_else_is() {
    let query = |right| Query {
        vector: vec![1.0],
        not: None,
        floor: 0.5,
        truth: 1,
        right: Some(vec![right]),
    };
    let found = |_: &[f32], _: usize| vec![Neighbour { row: 3, score: 1.0 }];
    let measured = measure(&[query(3), query(4)], 10, &[&found], &|| ());
    assert_eq!(measured[0].recalls, [1.0, 0.0]);
    assert_eq!(
        Measure::default().recall().to_bits(),
        0.0_f64.to_bits(),
        "nothing was found of nothing, and not less"
    );
}
