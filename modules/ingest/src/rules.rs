//! By which rules folders are read into a dataset that may be there already.

use brahman_sidecar::chain;

use crate::files::known_ids;
use crate::run::Runs;
use crate::source::{Format, WalkRules};

/// The rules for one dataset: documents that it has already keep their ids. What of that could not be read is told, for ids that are
/// missed are made anew.
pub async fn walk_rules(runs: &Runs, dataset: &str, format: Format, no_ignore: bool) -> (WalkRules, Option<String>) {
    let rules = WalkRules { no_ignore, ..WalkRules::default() };
    if format != Format::Documents {
        return (rules, None);
    }
    let missed = |why: &str| Some(format!("which ids its documents had could not be read, so some may have changed: {why}"));
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
