//! `brahman check`: what is wrong with Cards, alone and beside one another.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brahman_card::{Card, CardError};
use brahman_sidecar::place::cards::{self, CardSource, FoundCard, Mask, ReplacedCard};

use super::super::{is_standard, stdin_bytes};
use crate::failure::BadInput;
use crate::output::{Output, Tone, one_line};

/// Says what is wrong with Cards, alone and beside one another. Without paths: with those that `up`
/// would start here.
pub(crate) fn check(paths: &[PathBuf], socket: &Path, output: &Output) -> anyhow::Result<()> {
    let mesh = std::path::absolute(socket)?;
    let unreadable = |(folder, error): (PathBuf, std::io::Error)| {
        anyhow::Error::from(error).context(BadInput(format!("cannot read {}", folder.display())))
    };
    // Folders that are named are not layers of one another: each Card in them counts.
    let groups: Vec<Vec<CardSource>> = if paths.is_empty() {
        vec![cards::sources(None)]
    } else {
        paths
            .iter()
            .filter(|path| path.is_dir())
            .map(|folder| vec![CardSource::Asked(folder.clone())])
            .collect()
    };
    let mut checked = CheckedCards::default();
    let mut errors: Vec<CardError> = Vec::new();
    for group in &groups {
        let reading = cards::read(group).map_err(unreadable)?;
        checked.found.extend(reading.cards);
        checked.replaced.extend(reading.replaced);
        checked.masks.extend(reading.masks);
        errors.extend(reading.errors);
    }
    if paths.iter().any(|path| is_standard(path)) {
        let origin = "standard input".to_owned();
        match Card::parse(&origin, &stdin_bytes()?) {
            Ok(card) => checked.found.push(FoundCard { origin, card }),
            Err(error) => errors.push(error),
        }
    }
    for file in paths.iter().filter(|path| !path.is_dir() && !is_standard(path)) {
        // A file that is not there is a slip of the person's, not a bad Card.
        std::fs::metadata(file).with_context(|| BadInput(file.display().to_string()))?;
        match cards::read_one(file) {
            // Named itself and by its folder.
            Ok(card) if checked.found.iter().any(|known| known.origin == card.origin) => {}
            Ok(card) => checked.found.push(card),
            Err(error) => errors.push(error),
        }
    }
    let looked: Vec<String> = groups.iter().map(|group| cards::looked_at(group)).collect();
    if checked.found.is_empty() && errors.is_empty() {
        return Err(BadInput(format!(
            "no Cards found: expected *.toml or *.json files; looked at {}",
            looked.join(", ")
        ))
        .into());
    }
    errors.extend(cards::collisions(&checked.found, &mesh));
    let mut known = checked.found.clone();
    if !paths.is_empty() {
        // A Card that is looked at alone may require what lies beside it, or what is installed.
        let files = paths.iter().filter(|path| !path.is_dir());
        let beside = files
            .filter_map(|path| path.parent())
            .map(|folder| CardSource::Folder(Path::new(".").join(folder)));
        let around: Vec<CardSource> = beside.chain(cards::sources(None)).collect();
        // Of no interest here if it cannot be read.
        known.extend(cards::read(&around).map(|reading| reading.cards).unwrap_or_default());
    }
    let asked: BTreeSet<&str> = checked.found.iter().map(|card| card.origin.as_str()).collect();
    errors.extend(
        cards::unrunnable(&known).into_iter().filter(|error| asked.contains(error.origin.as_str())),
    );
    errors.sort_by(|a, b| (&a.origin, &a.field).cmp(&(&b.origin, &b.field)));
    errors.dedup();
    if paths.is_empty() {
        output.note(&format!("looked at {}", looked.join(", ")));
    }
    report_cards(&checked, &errors, output)
}

/// What `check` looked at.
#[derive(Default)]
struct CheckedCards {
    found: Vec<FoundCard>,
    replaced: Vec<ReplacedCard>,
    masks: Vec<Mask>,
}

fn report_cards(
    checked: &CheckedCards,
    errors: &[CardError],
    output: &Output,
) -> anyhow::Result<()> {
    let refused = |origin: &str| errors.iter().any(|error| error.origin == origin);
    for card in checked.found.iter().filter(|card| !refused(&card.origin)) {
        let (label, id) = (card.card.label.to_string(), &card.card.id);
        if output.json() {
            output.print_json(&serde_json::json!({ "file": card.origin, "ok": true, "used": true, "label": label, "id": id }));
        } else {
            output.line(&format!(
                "{} {}: {label}",
                output.paint("ok", Tone::Good),
                one_line(&card.origin)
            ));
        }
    }
    let replaced = checked.replaced.iter().map(|replaced| {
        (&replaced.found.origin, replaced.found.card.label.as_str(), Some(&replaced.by))
    });
    let masks = checked.masks.iter().map(|mask| (&mask.origin, mask.label.as_str(), None));
    for (file, label, by) in replaced.chain(masks) {
        if output.json() {
            output.print_json(&serde_json::json!({ "file": file, "ok": true, "used": false, "label": label, "by": by }));
        } else {
            let why = by.map_or_else(
                || format!("masks `{label}`"),
                |by| format!("not used, {by} takes its place"),
            );
            output.line(&output.paint(&one_line(&format!("-- {file}: {why}")), Tone::Faint));
        }
    }
    for e in errors {
        if output.json() {
            output.print_json(&serde_json::json!({ "file": e.origin, "ok": false, "field": e.field, "expected": e.expected }));
        } else {
            output.line(&format!(
                "{} {}",
                output.paint("bad", Tone::Bad),
                one_line(&e.to_string())
            ));
        }
    }
    let mut bad: Vec<&str> = errors.iter().map(|error| error.origin.as_str()).collect();
    bad.sort_unstable();
    bad.dedup();
    let all = bad.len() + checked.found.iter().filter(|card| !refused(&card.origin)).count();
    if bad.is_empty() {
        Ok(())
    } else {
        Err(BadInput(format!("{} of {all} Cards cannot run", bad.len())).into())
    }
}
