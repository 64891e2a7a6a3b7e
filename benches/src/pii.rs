//! Personal data: what columns are called against what they hold, over labelled columns that
//! `pii_columns.py` makes up, and over sentences that others have labelled (`pii_templates.py`).

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use brahman_ingest::pii::judge;
use brahman_ingest::pii::sample::Sample;
use serde_json::Value;

use crate::{head, row};

#[derive(Default)]
struct Count {
    right: f64,
    wrong: f64,
    missed: f64,
}

impl Count {
    /// Recall counts twice as much as precision: what is missed leaks.
    fn f2(&self) -> f64 {
        5.0 * self.right / (5.0 * self.right + 4.0 * self.missed + self.wrong).max(1.0)
    }
}

/// F2 by entity, their mean, and the share of other columns that were called something.
fn score(calls: &[(Option<String>, Option<String>)]) -> (BTreeMap<String, f64>, f64, f64) {
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for (label, called) in calls {
        if label == called {
            label.iter().for_each(|l| counts.entry(l.clone()).or_default().right += 1.0);
            continue;
        }
        label.iter().for_each(|l| counts.entry(l.clone()).or_default().missed += 1.0);
        called.iter().for_each(|c| counts.entry(c.clone()).or_default().wrong += 1.0);
    }
    let labelled = |entity: &str| calls.iter().any(|(label, _)| label.as_deref() == Some(entity));
    let by: BTreeMap<String, f64> =
        counts.iter().filter(|(e, _)| labelled(e)).map(|(e, c)| (e.clone(), c.f2())).collect();
    let clean: Vec<_> = calls.iter().filter(|(label, _)| label.is_none()).collect();
    let wrong = clean.iter().filter(|(_, called)| called.is_some()).count() as f64;
    (
        by.clone(),
        by.values().sum::<f64>() / by.len().max(1) as f64,
        wrong / clean.len().max(1) as f64,
    )
}

/// The columns that a script beside this crate prints.
fn columns(script: &str) -> Vec<Value> {
    let python = std::env::var("BRAHMAN_BENCH_PII_PYTHON").unwrap_or_else(|_| "python3".into());
    let made = Command::new(python)
        .arg(format!("{}/{script}", env!("CARGO_MANIFEST_DIR")))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout)
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect()
}

pub(crate) fn run() {
    made_up();
    labelled_by_others();
}

/// Sentences with labels of others: a kind counts as said of a column where it is found in at least
/// a tenth of the values.
fn labelled_by_others() {
    let columns = columns("pii_templates.py");
    let mut counts: BTreeMap<(&str, String), Count> = BTreeMap::new();
    let mut clean = 0_u32;
    let mut wrong = BTreeMap::from([("ours", 0_u32), ("peer", 0)]);
    let kinds: std::collections::BTreeSet<String> =
        columns.iter().flat_map(|column| texts(&column["labels"])).collect();
    for column in &columns {
        let labels = texts(&column["labels"]);
        let said =
            judge(column["name"].as_str().unwrap(), &Sample::of_texts(texts(&column["values"])));
        let prose =
            said.free_text.iter().filter(|of| of.per_1000 >= 100.0).map(|of| of.entity.clone());
        let whole = said.findings.iter().filter(|of| of.matched > 0).map(|of| of.entity.clone());
        let mut ours: Vec<String> = prose.chain(whole).collect();
        ours.sort();
        ours.dedup();
        if ours != labels && std::env::var_os("BRAHMAN_BENCH_VERBOSE").is_some() {
            println!("{labels:?} was called {ours:?}: {:?}", column["values"][0]);
        }
        clean += u32::from(labels.is_empty());
        for (who, called) in [("ours", ours), ("peer", texts(&column["peer"]))] {
            *wrong.entry(who).or_default() += u32::from(labels.is_empty() && !called.is_empty());
            for kind in &kinds {
                let count = counts.entry((who, kind.clone())).or_default();
                match (labels.contains(kind), called.contains(kind)) {
                    (true, true) => count.right += 1.0,
                    (true, false) => count.missed += 1.0,
                    (false, true) => count.wrong += 1.0,
                    (false, false) => (),
                }
            }
        }
    }
    head(&format!(
        "personal data: {} columns of Presidio's templates and their gaps in eight locales, 60 values each",
        columns.len()
    ));
    let f2 = |who: &'static str, kind: &String| counts[&(who, kind.clone())].f2();
    for kind in &kinds {
        row(
            &format!("F2 {kind}"),
            format!("{:.3} / Presidio's patterns {:.3}", f2("ours", kind), f2("peer", kind)),
            "-",
            true,
        );
    }
    let all = |who: &'static str| {
        kinds.iter().map(|kind| f2(who, kind)).sum::<f64>() / kinds.len().max(1) as f64
    };
    let (ours, peer) = (all("ours"), all("peer"));
    row(
        "F2, mean of the kinds",
        format!("{ours:.3} / Presidio's patterns {peer:.3}"),
        "≥ 0.85, above the peer",
        ours >= 0.85 && ours > peer,
    );
    let share = |who: &str| f64::from(wrong[who]) / f64::from(clean.max(1));
    let value = format!(
        "{:.2} % / Presidio's patterns {:.2} %",
        share("ours") * 100.0,
        share("peer") * 100.0
    );
    row(
        &format!("{clean} columns without any of them, called one"),
        value,
        "≤ 1 %",
        share("ours") <= 0.01,
    );
}

fn made_up() {
    let columns = columns("pii_columns.py");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut ours = Vec::new();
    let mut values = 0;
    let mut spent = std::time::Duration::ZERO;
    for column in &columns {
        let texts = texts(&column["values"]);
        values += texts.len();
        let started = Instant::now();
        let said = judge(column["name"].as_str().unwrap(), &Sample::of_texts(texts));
        spent += started.elapsed();
        let called = (said.status == "found").then(|| said.findings[0].entity.clone());
        if called != text(&column["label"]) && std::env::var_os("BRAHMAN_BENCH_VERBOSE").is_some() {
            println!(
                "{} is {} and was called {called:?} {:?}: {:?}",
                column["name"], column["label"], said.shapes, &column["values"][0]
            );
        }
        ours.push((text(&column["label"]), called));
    }
    let labelled = ours.iter().filter(|(label, _)| label.is_some()).count();
    head(&format!(
        "personal data: {labelled} labelled columns and {} look-alikes of 200 values",
        ours.len() - labelled
    ));
    let (by, macro_f2, wrong) = score(&ours);
    let peer: Vec<_> = columns
        .iter()
        .filter(|c| c.get("peer").is_some())
        .map(|c| (text(&c["label"]), text(&c["peer"])))
        .collect();
    let (peer_by, _, peer_wrong) = score(&peer);
    let beside = |entity: &str| {
        peer_by
            .get(entity)
            .map_or_else(|| "no peer".into(), |f2| format!("Presidio's patterns {f2:.3}"))
    };
    by.iter().for_each(|(entity, f2)| {
        row(
            &format!("F2 {entity}"),
            format!("{f2:.3} / {}", beside(entity)),
            "≥ 0.95",
            *f2 >= 0.95,
        );
    });
    row("F2 macro", format!("{macro_f2:.3}"), "≥ 0.95", macro_f2 >= 0.95);
    row(
        "false positives",
        format!("{:.2} % / Presidio's patterns {:.2} %", wrong * 100.0, peer_wrong * 100.0),
        "≤ 1 %",
        wrong <= 0.01,
    );
    row("time a value", format!("{:.2} µs", spent.as_secs_f64() * 1e6 / values as f64), "-", true);
}
