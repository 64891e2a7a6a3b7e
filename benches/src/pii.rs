//! Personal data: what columns are called against what they hold, over labelled columns that `pii_columns.py` makes up.

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
    let by: BTreeMap<String, f64> = counts.iter().filter(|(e, _)| labelled(e)).map(|(e, c)| (e.clone(), c.f2())).collect();
    let clean: Vec<_> = calls.iter().filter(|(label, _)| label.is_none()).collect();
    let wrong = clean.iter().filter(|(_, called)| called.is_some()).count() as f64;
    (by.clone(), by.values().sum::<f64>() / by.len().max(1) as f64, wrong / clean.len().max(1) as f64)
}

pub(crate) fn run() {
    let python = std::env::var("BRAHMAN_BENCH_PII_PYTHON").unwrap_or_else(|_| "python3".into());
    let made = Command::new(python).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/pii_columns.py")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let columns: Vec<Value> = String::from_utf8(made.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut ours = Vec::new();
    let mut values = 0;
    let mut spent = std::time::Duration::ZERO;
    for column in &columns {
        let texts: Vec<String> = column["values"].as_array().unwrap().iter().filter_map(text).collect();
        values += texts.len();
        let started = Instant::now();
        let said = judge(column["name"].as_str().unwrap(), &Sample::of_texts(texts));
        spent += started.elapsed();
        let called = (said.status == "found").then(|| said.findings[0].entity.clone());
        if called != text(&column["label"]) && std::env::var_os("BRAHMAN_BENCH_VERBOSE").is_some() {
            println!("{} is {} and was called {called:?} {:?}: {:?}", column["name"], column["label"], said.shapes, &column["values"][0]);
        }
        ours.push((text(&column["label"]), called));
    }
    let labelled = ours.iter().filter(|(label, _)| label.is_some()).count();
    head(&format!("personal data: {labelled} labelled columns and {} look-alikes of 200 values", ours.len() - labelled));
    let (by, macro_f2, wrong) = score(&ours);
    let peer: Vec<_> = columns.iter().filter(|c| c.get("peer").is_some()).map(|c| (text(&c["label"]), text(&c["peer"]))).collect();
    let (peer_by, _, peer_wrong) = score(&peer);
    let beside = |entity: &str| peer_by.get(entity).map_or_else(|| "no peer".into(), |f2| format!("Presidio's patterns {f2:.3}"));
    by.iter().for_each(|(entity, f2)| row(&format!("F2 {entity}"), format!("{f2:.3} / {}", beside(entity)), "≥ 0.95", *f2 >= 0.95));
    row("F2 macro", format!("{macro_f2:.3}"), "≥ 0.95", macro_f2 >= 0.95);
    row("false positives", format!("{:.2} % / Presidio's patterns {:.2} %", wrong * 100.0, peer_wrong * 100.0), "≤ 1 %", wrong <= 0.01);
    row("time a value", format!("{:.2} µs", spent.as_secs_f64() * 1e6 / values as f64), "-", true);
}
