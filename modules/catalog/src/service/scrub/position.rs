//! Where the scrub in the background stands, in a file that outlives the process.

use std::path::{Path, PathBuf};

use brahman_card::clock::now_ms;
use brahman_sidecar::chain;
use brahman_storage::checked;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Places;

/// The file of [`Position`] in the catalog's folder; no dataset's, for it does not end in `.json`.
pub(super) const POSITION: &str = "scrub.position";

/// Where the one in the background stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Bucket and key of what was looked at last, in their order; none at the beginning.
    #[serde(default)]
    pub(super) after: Option<(String, String)>,
    /// Unix time at which everything had been looked at.
    #[serde(default)]
    pub(super) finished_ms: Option<u64>,
    /// Objects and copies that were damaged when they were last looked at, and could not be
    /// repaired.
    #[serde(default)]
    pub(super) damaged: Places,
}

impl Position {
    /// What cannot be read is no position: everything is looked at again.
    pub(super) fn read(path: &Path) -> Self {
        let text = checked::read(path).unwrap_or_else(|error| {
            tracing::warn!("everything is looked at from the beginning: {}", chain(&error));
            None
        });
        let value = text.and_then(|text| serde_json::from_slice::<Value>(&text.bytes).ok());
        let Some(value) = value else { return Self::default() };
        // An earlier version has counted what it found damaged, and not said which: that is found
        // again.
        let counted = ["unrepaired", "unrepaired_before"]
            .iter()
            .any(|field| value[field].as_u64().is_some_and(|count| count > 0));
        if counted { Self::default() } else { serde_json::from_value(value).unwrap_or_default() }
    }

    /// Everything was looked at.
    pub(super) fn end() -> Self {
        Self { after: None, finished_ms: Some(now_ms()), damaged: Places::new() }
    }
}

/// What was damaged in the last life of this process, by the state that it is of.
pub(in crate::service) fn damaged_before(state: &Path) -> Places {
    Position::read(&position(state)).damaged
}

pub(super) fn position(state: &Path) -> PathBuf {
    state.join("catalog").join(POSITION)
}
