//! One dataset as it is kept, and its file: `{sha256, entry}`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use brahman_card::interface::catalog::{Dataset, Object, PinnedGeneration, Version};
use brahman_storage::digest::{hex, sha256};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::roots::Roots;

/// The format of datasets' files that is written, and the newest that is read.
const FORMAT: u32 = 1;

/// One dataset as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) dataset: Dataset,
    /// Keys of the previous generation's objects: readers may still be at them.
    #[serde(default)]
    pub(super) before: Vec<String>,
    /// Those of them that this generation does not have, as they were committed; earlier versions
    /// kept their keys alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) previous: Vec<Object>,
    /// Indexes fed by it, and the generation each has caught up with.
    pub(super) feeds: BTreeMap<String, u64>,
    /// The runs of those generations, where they are known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) feed_runs: BTreeMap<String, String>,
    /// Generations that are kept besides the present and the previous one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) pins: Vec<PinnedGeneration>,
    /// Newest last.
    #[serde(deserialize_with = "versions")]
    pub(super) history: Vec<Version>,
}

/// Versions, or the pairs of generation and run that the first manifests had.
pub(super) fn versions<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Version>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum VersionForm {
        Version(Version),
        Pair(u64, String),
    }
    let all = Vec::<VersionForm>::deserialize(deserializer)?;
    let version = |any| match any {
        VersionForm::Version(version) => version,
        VersionForm::Pair(generation, run_id) => {
            Version { generation, run_id, rows: 0, bytes: 0, committed_ms: 0 }
        }
    };
    Ok(all.into_iter().map(version).collect())
}

#[derive(Serialize, Deserialize)]
pub(super) struct SealedEntry {
    /// That of the entry; absent for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) format: Option<u32>,
    pub(super) sha256: String,
    pub(super) entry: Box<serde_json::value::RawValue>,
}

/// The dataset and the run whose folder an object's key names: `datasets/<name>/<run_id>/…`.
pub(crate) fn folder_of(key: &str) -> Option<(&str, &str)> {
    let mut parts = key.split('/');
    (parts.next()? == "datasets").then_some(())?;
    Some((parts.next()?, parts.next()?))
}

impl Entry {
    /// Folders, by dataset and run, of what this, the previous or a pinned generation is made of.
    pub(super) fn needs(&self) -> impl Iterator<Item = (&str, &str)> {
        let pinned = self.pins.iter().flat_map(|pin| &pin.objects);
        let keys = self.dataset.objects.iter().chain(pinned).map(|o| &o.key).chain(&self.before);
        // The first manifests did not name the objects of the generation before.
        let last = self
            .history
            .iter()
            .rev()
            .take(2)
            .map(|version| (self.dataset.name.as_str(), version.run_id.as_str()));
        keys.filter_map(|key| folder_of(key)).chain(last)
    }

    /// Says of every object in a folder where that is now.
    pub(super) fn settle_urls(&mut self, roots: &Roots) {
        let pinned = self.pins.iter_mut().flat_map(|pin| &mut pin.objects);
        for object in self.dataset.objects.iter_mut().chain(&mut self.previous).chain(pinned) {
            if let Ok(root) = roots.get(&object.bucket)
                && root.is_local()
            {
                object.url = root.url_of(&object.key);
            }
        }
    }

    /// The run that made this generation.
    pub(super) fn run_id(&self) -> Option<&str> {
        Some(self.dataset.lineage.run_id.as_str()).filter(|run| !run.is_empty())
    }

    /// Whether an index that has caught up with a generation, or with a run, is up to date. Where
    /// both runs are known they decide: numbers repeat after a restore.
    pub(super) fn is_at(&self, generation: u64, run_id: Option<&str>) -> bool {
        match (run_id, self.run_id()) {
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => generation >= self.dataset.generation,
        }
    }

    pub(super) fn view(&self) -> Dataset {
        let at = |index: &String, generation: &u64| {
            self.is_at(*generation, self.feed_runs.get(index).map(String::as_str))
        };
        let behind = self.feeds.iter().filter(|(index, generation)| !at(index, generation));
        let stale = behind.map(|(index, _)| index.clone()).collect();
        Dataset { stale, run_id: self.run_id().map(str::to_owned), ..self.dataset.clone() }
    }
}

pub(super) fn seal(entry: &Entry) -> serde_json::Result<String> {
    let raw = serde_json::value::to_raw_value(entry)?;
    serde_json::to_string(&SealedEntry {
        format: None,
        sha256: hex(&sha256(raw.get().as_bytes())),
        entry: raw,
    })
}

/// Why a dataset's file cannot be used.
#[derive(Debug, Error)]
pub(super) enum EntryError {
    /// The disk does not give it.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// It is no dataset.
    #[error(transparent)]
    Malformed(#[from] serde_json::Error),
    /// It is not what was written.
    #[error("its checksum does not match")]
    Checksum,
    /// A later version of this program has written it.
    #[error("it is of format {0}, expected at most {FORMAT}: a newer brahman has written it")]
    Newer(u32),
}

pub(super) fn unseal(path: &Path) -> Result<Entry, EntryError> {
    let sealed: SealedEntry = serde_json::from_slice(&fs::read(path)?)?;
    if let Some(format) = sealed.format.filter(|format| *format > FORMAT) {
        return Err(EntryError::Newer(format));
    }
    if hex(&sha256(sealed.entry.get().as_bytes())) != sealed.sha256 {
        return Err(EntryError::Checksum);
    }
    Ok(serde_json::from_str(sealed.entry.get())?)
}

/// What can still be read of a file that does not match its checksum. Nothing of it is certain.
pub(super) fn salvage(path: &Path) -> Option<Entry> {
    let sealed: SealedEntry = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    serde_json::from_str(sealed.entry.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_told_by_its_run_and_by_its_number_only_without_one() {
        let mut entry: Entry = serde_json::from_value(serde_json::json!({
            "dataset": {
                "name": "d", "generation": 3, "rows": 0, "bytes": 0, "objects": [], "columns": [], "stale": [],
                "lineage": {"run_id": "new", "inputs": [], "producer": "p"}, "committed_ms": 0
            },
            "feeds": {"by_number": 3, "behind": 2, "same": 1, "another": 3},
            "history": [[2, "old"], [3, "new"]]
        }))
        .expect("an entry of an earlier version");
        entry.feed_runs =
            [("same".to_owned(), "new".to_owned()), ("another".to_owned(), "restored".to_owned())]
                .into();
        let view = entry.view();
        assert_eq!(
            (view.stale, view.run_id.as_deref()),
            (vec!["another".to_owned(), "behind".to_owned()], Some("new"))
        );
        assert_eq!(entry.needs().collect::<Vec<_>>(), [("d", "new"), ("d", "old")]);
    }

    #[test]
    fn a_file_of_a_newer_format_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("d.json");
        fs::write(&path, r#"{"format": 2, "sha256": "", "entry": {"who": "knows"}}"#)
            .expect("written");
        let refused = unseal(&path).expect_err("it is newer");
        assert!(
            matches!(refused, EntryError::Newer(2))
                && refused.to_string().contains("newer brahman"),
            "{refused}"
        );
    }

    #[test]
    fn a_key_names_its_folder_only_where_datasets_lie() {
        assert_eq!(folder_of("datasets/d/r/part-0.parquet"), Some(("d", "r")));
        assert_eq!(folder_of("elsewhere/d/r/part-0.parquet"), None);
        assert_eq!(folder_of("datasets/d"), None);
    }
}
