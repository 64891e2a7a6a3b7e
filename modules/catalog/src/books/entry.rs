//! One dataset as it is kept, and its file: `{sha256, entry}`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use brahman_card::interface::catalog::{Dataset, Version};
use brahman_storage::digest::{hex, sha256};
use serde::{Deserialize, Serialize};

/// One dataset as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) dataset: Dataset,
    /// Keys of the previous generation's objects: readers may still be at them.
    #[serde(default)]
    pub(super) before: Vec<String>,
    /// Indexes fed by it, and the generation each has caught up with.
    pub(super) feeds: BTreeMap<String, u64>,
    /// Newest last.
    #[serde(deserialize_with = "versions")]
    pub(super) history: Vec<Version>,
}

/// Versions, or the pairs of generation and run that the first manifests had.
pub(super) fn versions<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Version>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Any {
        Version(Version),
        Pair(u64, String),
    }
    let all = Vec::<Any>::deserialize(deserializer)?;
    let version = |any| match any {
        Any::Version(version) => version,
        Any::Pair(generation, run_id) => Version { generation, run_id, rows: 0, bytes: 0, committed_ms: 0 },
    };
    Ok(all.into_iter().map(version).collect())
}

#[derive(Serialize, Deserialize)]
pub(super) struct Sealed {
    pub(super) sha256: String,
    pub(super) entry: Box<serde_json::value::RawValue>,
}

/// The run that an object's key names: `datasets/<name>/<run_id>/…`.
pub(super) fn run_of(key: &str) -> Option<&str> {
    key.split('/').nth(2)
}

impl Entry {
    /// Runs that wrote what this or the previous generation is made of.
    pub(super) fn runs(&self) -> impl Iterator<Item = &str> {
        let keys = self.dataset.objects.iter().map(|o| &o.key).chain(&self.before);
        // The first manifests did not name the objects of the generation before.
        let last = self.history.iter().rev().take(2).map(|version| version.run_id.as_str());
        keys.filter_map(|key| run_of(key)).chain(last)
    }

    /// Whether a run's objects are still wanted.
    pub(super) fn keeps(&self, run_id: &str) -> bool {
        self.runs().any(|run| run == run_id)
    }

    pub(super) fn view(&self) -> Dataset {
        let behind = self.feeds.iter().filter(|(_, caught_up)| **caught_up < self.dataset.generation);
        Dataset { stale: behind.map(|(index, _)| index.clone()).collect(), ..self.dataset.clone() }
    }
}

pub(super) fn seal(entry: &Entry) -> serde_json::Result<String> {
    let raw = serde_json::value::to_raw_value(entry)?;
    serde_json::to_string(&Sealed { sha256: hex(&sha256(raw.get().as_bytes())), entry: raw })
}

pub(super) fn unseal(path: &Path) -> Result<Entry, String> {
    let text = fs::read(path).map_err(|e| e.to_string())?;
    let sealed: Sealed = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    if hex(&sha256(sealed.entry.get().as_bytes())) != sealed.sha256 {
        return Err("its checksum does not match".into());
    }
    serde_json::from_str(sealed.entry.get()).map_err(|e| e.to_string())
}
