//! Which columns hold personal data: a sample of each column's values, tests of the values, and the
//! column's own name.
//!
//! [`sample`] keeps up to 2,000 distinct values a column while rows go by; [`entities`] knows what
//! a value may be and [`checks`] its check digits; [`names`] what a column's name says. This file
//! weighs them.
//!
//! Invariants: a report holds no value, only shapes; a column of which too little was seen is never
//! called clean; a name alone is only ever "possible"; a column of a type that is not looked at
//! says so.

pub mod checks;
pub mod entities;
pub mod names;
pub mod sample;

use brahman_card::interface::catalog::{PiiColumn, PiiDensity, PiiFinding, PiiReport, masked};

use entities::{Class, ENTITIES, Entity};
use sample::Sample;

/// What a column's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Whole numbers.
    Number,
    /// Days, or instants, as ISO 8601.
    Date,
}

/// Name and version of the rules, in every report: figures of different versions do not compare.
pub const DETECTOR: &str = "brahman-pii/2";

/// Fewer distinct values say nothing.
const SAMPLE_MIN: usize = 50;
/// A tenth of random digits pass a check digit; four fifths do not.
const CHECKSUM_SHARE: f64 = 0.8;
/// Values that have to be there before a share of them says something.
const POSSIBLE_MIN: usize = 2;
/// A column of e-mail addresses with some junk among them is still one.
const FORMAT_SHARE: f64 = 0.5;
/// Of telephone numbers, people write a good part bare.
const PHONE_SHARE: f64 = 0.25;
/// Weights of a name and of values.
const NAME_WEIGHT: f64 = 0.4;
const VALUE_WEIGHT: f64 = 0.6;
/// Shapes named of a column, and the length of one.
const SHAPES_MAX: usize = 3;
/// Entities named of one column.
const FINDINGS_MAX: usize = 3;
/// Words in a value from which it is prose, in which things are looked for instead of being it.
const PROSE_WORDS: usize = 4;

/// What was said of the old rows and of the new ones: of each column, what says more. Of rows that
/// nobody has looked at, or another detector has, nothing is clean.
#[must_use]
pub fn both(old: Option<&PiiReport>, new: Option<PiiReport>) -> Option<PiiReport> {
    let Some(mut new) = new else { return old.cloned() };
    if old.is_none_or(|old| old.detector != new.detector) {
        let unproven = new.columns.iter_mut().filter(|column| column.status == "clean");
        unproven.for_each(|column| column.status = "insufficient_sample".to_owned());
    }
    let Some(old) = old else { return Some(new) };
    let weight = |column: &PiiColumn| match column.status.as_str() {
        "found" => 3,
        "possible" => 2,
        "clean" => 1,
        _ => 0,
    };
    for column in &mut new.columns {
        if let Some(before) =
            old.columns.iter().find(|c| c.column == column.column && weight(c) >= weight(column))
        {
            *column = before.clone();
        }
    }
    let gone = old
        .columns
        .iter()
        .filter(|c| new.columns.iter().all(|n| n.column != c.column))
        .cloned()
        .collect::<Vec<_>>();
    new.columns.extend(gone);
    Some(new)
}

/// What is said of every column, in their order; of one without a sample, that it was not looked
/// at.
#[must_use]
pub fn report(samples: &[(String, Option<Sample>)]) -> PiiReport {
    let unseen = |name: &String| PiiColumn {
        column: name.clone(),
        status: "not_looked_at".to_owned(),
        ..PiiColumn::default()
    };
    let judged = |(name, sample): &(String, Option<Sample>)| {
        sample.as_ref().map_or_else(|| unseen(name), |sample| judge(name, sample))
    };
    PiiReport { detector: DETECTOR.to_owned(), columns: samples.iter().map(judged).collect() }
}

/// What is said of one column.
#[must_use]
pub fn judge(name: &str, sample: &Sample) -> PiiColumn {
    let values: Vec<&str> = sample.values().collect();
    let evidence = entities::evidence(&values, sample.kind());
    let mut findings: Vec<(bool, PiiFinding)> = ENTITIES
        .iter()
        .zip(&evidence)
        .filter_map(|(entity, seen)| {
            weigh(entity, seen, values.len(), names::says(name, entity), sample.kind())
        })
        .collect();
    // Proof before hints, then the surer, then what a check digit proves.
    findings.sort_by(|(a_sure, a), (b_sure, b)| {
        b_sure
            .cmp(a_sure)
            .then(b.confidence.total_cmp(&a.confidence))
            .then(b.checksum.cmp(&a.checksum))
            .then(a.entity.cmp(&b.entity))
    });
    let found = findings.iter().any(|(sure, _)| *sure);
    // Beside a proof, what a name hints at is noise.
    findings.retain(|(sure, _)| *sure || !found);
    findings.truncate(FINDINGS_MAX);
    let free_text = if found { Vec::new() } else { densities(&values) };
    let is_seen = findings.iter().any(|(_, finding)| finding.matched > 0)
        || free_text.iter().any(|of| entities::is_secret(&of.entity));
    // What was only looked at in part is not clean either.
    let is_thin = values.len() < SAMPLE_MIN
        || (sample.is_partial() && findings.is_empty() && free_text.is_empty());
    let status = match (found, is_seen, is_thin, findings.is_empty() && free_text.is_empty()) {
        (true, ..) => "found",
        (false, true, ..) => "possible",
        (false, false, true, _) => "insufficient_sample",
        (false, false, false, false) => "possible",
        (false, false, false, true) => "clean",
    };
    PiiColumn {
        column: name.to_owned(),
        status: status.to_owned(),
        shapes: if findings.is_empty() { Vec::new() } else { shapes(&values) },
        findings: findings.into_iter().map(|(_, finding)| finding).collect(),
        free_text,
        sampled: sample.seen(),
        distinct: values.len() as u64,
    }
}

/// Whether it is proved, and the finding, if values or the name speak for it.
fn weigh(
    entity: &Entity,
    seen: &entities::Evidence,
    of: usize,
    name_hit: bool,
    kind: Kind,
) -> Option<(bool, PiiFinding)> {
    let share = |n: usize| n as f64 / of.max(1) as f64;
    let enough = of >= SAMPLE_MIN;
    let (proved, matched) = match entity.class {
        Class::Checksum => (share(seen.strong) >= entity.proved_share(), seen.strong),
        Class::Shared => (share(seen.strong) >= CHECKSUM_SHARE && name_hit, seen.strong),
        Class::Secret => (seen.strong > 0 && share(seen.strong) >= FORMAT_SHARE, seen.strong),
        Class::Format => (share(seen.strong) >= FORMAT_SHARE, seen.strong),
        // Some must be written as nothing else is; the rest may be digits.
        Class::Phone => {
            let all = seen.strong + seen.weak;
            let likely = share(all) >= CHECKSUM_SHARE;
            (likely && (share(seen.strong) >= PHONE_SHARE || name_hit), all)
        }
        // Values that could be many things: the name must say which.
        Class::Weak => {
            (share(seen.strong + seen.weak) >= CHECKSUM_SHARE && name_hit, seen.strong + seen.weak)
        }
        Class::Name => (false, 0),
    };
    // Weak forms of the others (a number without its dashes) need the name too.
    let by_name = name_hit
        && matches!(entity.class, Class::Checksum | Class::Shared | Class::Format)
        && share(seen.strong + seen.weak) >= CHECKSUM_SHARE;
    let (proved, matched) =
        if by_name && !proved { (true, seen.strong + seen.weak) } else { (proved, matched) };
    let few = (name_hit && of > 0)
        || (entity.class == Class::Checksum && matched >= 5)
        || entity.class == Class::Secret;
    let sure = proved && (enough || few);
    let hinted = name_hit && entity.hints(kind);
    // Among other things: a column half of e-mail addresses is no clean one.
    let least = if entity.class == Class::Secret { 1 } else { POSSIBLE_MIN };
    let partly = !sure
        && seen.strong >= least
        && entity.possible_share().is_some_and(|least| share(seen.strong) >= least);
    let matched = if partly { seen.strong } else { matched };
    if !sure && !hinted && !partly {
        return None;
    }
    let value = if sure || partly { VALUE_WEIGHT * share(matched) } else { 0.0 };
    let confidence = value + if name_hit { NAME_WEIGHT } else { 0.0 };
    let finding = PiiFinding {
        entity: entity.name.to_owned(),
        confidence: (confidence * 100.0).round() / 100.0,
        matched: if sure || partly { matched as u64 } else { 0 },
        checksum: sure && matches!(entity.class, Class::Checksum | Class::Shared),
        name_hit,
    };
    Some((sure, finding))
}

/// The most frequent shapes of the values.
fn shapes(values: &[&str]) -> Vec<String> {
    let mut counts = std::collections::HashMap::new();
    values.iter().for_each(|value| *counts.entry(masked(value)).or_insert(0_usize) += 1);
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts.into_iter().take(SHAPES_MAX).map(|(shape, _)| shape).collect()
}

/// What stands in prose, per 1,000 values.
fn densities(values: &[&str]) -> Vec<PiiDensity> {
    let is_prose = |value: &&&str| value.split_whitespace().nth(PROSE_WORDS - 1).is_some();
    let (prose, other): (Vec<&str>, Vec<&str>) = (
        values.iter().filter(is_prose).copied().collect(),
        values.iter().filter(|value| !is_prose(value)).copied().collect(),
    );
    let mut counts = entities::within(prose.into_iter());
    // A secret is one wherever it stands.
    for ((name, count), (_, more)) in counts.iter_mut().zip(entities::within(other.into_iter())) {
        *count += if entities::is_secret(name) { more } else { 0 };
    }
    let densities = counts.into_iter().filter(|(_, n)| *n > 0).map(|(entity, n)| PiiDensity {
        entity: entity.to_owned(),
        per_1000: (n as f64 * 10_000.0 / values.len().max(1) as f64).round() / 10.0,
    });
    densities.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str, values: impl IntoIterator<Item = String>) -> (String, Option<String>) {
        let sample = Sample::of_texts(values);
        let column = judge(name, &sample);
        (column.status, column.findings.first().map(|f| f.entity.clone()))
    }

    fn found(entity: &str) -> (String, Option<String>) {
        ("found".to_owned(), Some(entity.to_owned()))
    }

    #[test]
    fn what_was_found_among_old_rows_or_new_ones_stays_found() {
        let said = |values: &[(&str, &str)]| {
            let column = |(name, status): &(&str, &str)| {
                let judged =
                    judge(name, &Sample::of_texts((0..100).map(|i| format!("ORD-{i:06}"))));
                PiiColumn { status: (*status).to_owned(), ..judged }
            };
            PiiReport {
                detector: DETECTOR.to_owned(),
                columns: values.iter().map(column).collect(),
            }
        };
        let statuses = |report: Option<PiiReport>| {
            report.map(|r| r.columns.into_iter().map(|c| (c.column, c.status)).collect::<Vec<_>>())
        };
        let is = |report, expected: &[(&str, &str)]| {
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, status)| ((*name).to_owned(), (*status).to_owned()))
                .collect();
            assert_eq!(statuses(report), Some(expected));
        };
        let (old, new) = (
            said(&[("a", "found"), ("b", "clean"), ("gone", "found")]),
            said(&[("a", "clean"), ("b", "found"), ("c", "clean")]),
        );
        is(
            both(Some(&old), Some(new.clone())),
            &[("a", "found"), ("b", "found"), ("c", "clean"), ("gone", "found")],
        );
        is(both(Some(&old), None), &[("a", "found"), ("b", "clean"), ("gone", "found")]);
        is(
            both(None, Some(new.clone())),
            &[("a", "insufficient_sample"), ("b", "found"), ("c", "insufficient_sample")],
        );
        let other = PiiReport { detector: "another".to_owned(), ..old };
        is(
            both(Some(&other), Some(new)),
            &[("a", "found"), ("b", "found"), ("c", "insufficient_sample"), ("gone", "found")],
        );
        assert_eq!(both(None, None).map(|r| r.detector), None);
    }

    #[test]
    fn values_prove_and_a_name_alone_is_only_possible() {
        let mails = (0..100).map(|i| format!("user{i}@example.org"));
        assert_eq!(status("c7", mails), found("email"));
        let people = (0..100).map(|i| format!("Person{i}"));
        assert_eq!(status("last_name", people), ("possible".into(), Some("person_name".into())));
        assert_eq!(status("c7", (0..100).map(|i| format!("ORD-{i:06}"))), ("clean".into(), None));
        assert_eq!(
            status("c7", (0..10).map(|i| format!("ORD-{i:06}"))),
            ("insufficient_sample".into(), None)
        );
    }

    #[test]
    fn a_part_of_a_column_is_possible_and_look_alikes_are_clean() {
        let share = |n: usize| {
            (0..1000).map(move |i| {
                if i % 100 < n { format!("user{i}@example.org") } else { format!("ticket {i}") }
            })
        };
        assert_eq!(status("contact", share(49)), ("possible".into(), Some("email".into())));
        assert_eq!(status("contact", share(0)).0, "clean");
        let column = judge("contact", &Sample::of_texts(share(49)));
        assert_eq!((column.findings[0].matched, column.distinct), (490, 1000), "with the share");
        let luhn = |body: u32| {
            (0..10)
                .map(|digit| format!("{body:08}{digit}"))
                .find(|number| checks::luhn(number))
                .expect("one of ten")
        };
        let companies = || (0..300).map(|i| luhn(30_000_000 + i * 149_993));
        assert_eq!(status("siren", companies()).0, "clean");
        assert_eq!(status("sin", companies()), found("ca_sin"));
        assert_eq!(
            status("sku", (0..300).map(|i| format!("AB{:06}C", i * 3001 % 1_000_000))).0,
            "clean"
        );
        let journals = (0..300_u32).map(|i| {
            let body = format!("0{:06}", i * 3301 % 1_000_000);
            let end = ('0'..='9')
                .chain(['X'])
                .find(|end| checks::issn(&format!("{body}{end}")))
                .expect("one");
            format!("{}-{}{end}", &body[..4], &body[4..])
        });
        assert_eq!(status("issn", journals).0, "clean");
        let keys = |n: usize| {
            (0..n).map(|i| {
                format!(
                    "AKIA{}",
                    "ABCDEFGHIJKLMNOP".replace('A', &char::from(b'A' + (i % 26) as u8).to_string())
                )
            })
        };
        assert_eq!(status("c1", keys(3)), found("aws_access_key"), "three are enough");
        let notes = (0..100).map(|i| {
            if i == 7 { format!("key=AKIA{}", "QRSTUVWXYZ234567") } else { format!("nothing {i}") }
        });
        assert_eq!(status("c2", notes).0, "possible");
    }

    #[test]
    fn what_is_not_looked_at_says_so() {
        let report = report(&[("amount".to_owned(), None)]);
        assert_eq!(
            (report.columns[0].column.as_str(), report.columns[0].status.as_str()),
            ("amount", "not_looked_at")
        );
    }

    #[test]
    fn random_digits_pass_a_check_digit_now_and_then_and_are_not_cards() {
        let digits = (0..1000_u64).map(|i| {
            format!("4{:015}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1_000_000_000_000_000)
        });
        assert_eq!(status("order_no", digits).0, "clean");
    }

    #[test]
    fn a_report_holds_shapes_and_no_value() {
        let sample = Sample::of_texts((0..60).map(|i| format!("anna.{i}@secret-host.example")));
        let column = judge("mail", &sample);
        let text = serde_json::to_string(&column).expect("JSON");
        assert!(!text.contains("secret") && !text.contains("anna"), "{text}");
        assert_eq!(column.shapes[0], "aaaa.99@aaaaaa-aaaa.aaaaaaa");
        assert!(
            (column.findings[0].confidence - 1.0).abs() < 1e-9 && column.distinct == 60,
            "{text}"
        );
    }

    #[test]
    fn what_stands_in_prose_is_counted_apart() {
        let texts = (0..100).map(|i| match i % 10 {
            0 => format!("please write to anna{i}@example.org about case {i}"),
            _ => format!("nothing of note happened on day {i}"),
        });
        let column = judge("remarks", &Sample::of_texts(texts));
        assert_eq!(
            (column.status.as_str(), column.free_text[0].entity.as_str()),
            ("possible", "email")
        );
        assert!((column.free_text[0].per_1000 - 100.0).abs() < 1e-9);
    }
}
