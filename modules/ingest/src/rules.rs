//! By which rules folders are read into a dataset that may be there already, and as what.

use brahman_card::Fault;
use brahman_sidecar::chain;
use tokio_util::sync::CancellationToken;

use crate::files::{bad_source, known_ids};
use crate::run::Runs;
use crate::source::{Format, WalkRules};

/// As what paths are read, once or again and again: as it is said, else by what lies there; none if
/// nothing does.
///
/// # Errors
/// If no one format is meant, or a path cannot be used.
pub async fn format_of(
    name: Option<String>,
    paths: Vec<String>,
    no_ignore: bool,
) -> Result<Option<Format>, Fault> {
    let rules = WalkRules { no_ignore, ..WalkRules::default() };
    let cancel = CancellationToken::new();
    let _cancel_on_drop = cancel.clone().drop_guard();
    let looked = tokio::task::spawn_blocking(move || {
        Format::decide(name.as_deref(), &paths, &rules, &cancel)
    })
    .await;
    looked.map_err(|error| Fault::internal(chain(&error)))?.map_err(bad_source)
}

/// The rules for one dataset: documents that it has already keep their ids. What of that could not
/// be read is told, for ids that are missed are made anew.
pub async fn walk_rules(
    runs: &Runs,
    dataset: &str,
    format: Format,
    no_ignore: bool,
) -> (WalkRules, Option<String>) {
    let rules = WalkRules { no_ignore, ..WalkRules::default() };
    if format != Format::Documents {
        return (rules, None);
    }
    let missed = |why: &str| {
        Some(format!(
            "which ids its documents had could not be read, so some may have changed: {why}"
        ))
    };
    match runs.dataset(dataset).await {
        Ok(None) => (rules, None),
        Ok(Some(before)) => match tokio::task::spawn_blocking(move || known_ids(&before)).await {
            Ok(Ok(known)) => (WalkRules { known, ..rules }, None),
            Ok(Err(error)) => (rules, missed(&chain(&error))),
            Err(error) => (rules, missed(&chain(&error))),
        },
        Err(fault) => (rules, missed(fault.message())),
    }
}
