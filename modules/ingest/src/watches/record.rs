//! Watches as they are kept: one file with a checksum, which earlier versions wrote without.

use std::io;
use std::path::{Path, PathBuf};

use brahman_card::interface::ingest::{IngestSummary, WatchIn, WatchStatus};
use brahman_storage::checked::{self, CheckedContent, CheckedError};
use serde::{Deserialize, Serialize};

use crate::source::Format;

/// What is watched, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WatchRecord {
    pub(super) ask: WatchIn,
    /// Of the listing that was ingested last, in hex.
    pub(super) ingested: Option<String>,
    /// As what it is read, once that is decided: it stays so until it is watched anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) format: Option<String>,
    /// Whether its dataset was deleted or renamed since: then nothing is ingested, whoever makes a
    /// dataset of that name, until it is watched anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) rests: bool,
    /// What it committed last, if it has and the dataset has not been deleted since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) committed: Option<Commit>,
}

/// A generation that a watch has committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Commit {
    pub(super) generation: u64,
    pub(super) rows: u64,
    pub(super) run_id: String,
}

impl Commit {
    /// What a run has committed.
    pub(super) fn of(run: &IngestSummary) -> Option<Self> {
        let (generation, run_id) = (run.generation?, run.run_id.clone()?);
        Some(Self { generation, rows: run.rows, run_id })
    }
}

impl WatchRecord {
    /// As it was kept: versions that decided nothing made documents of folders.
    pub(super) fn decided(mut self) -> Self {
        if self.format.is_none() && self.ingested.is_some() {
            let by_name = Format::of(self.ask.format.as_deref(), &self.ask.paths);
            self.format = Some(by_name.unwrap_or(Format::Documents).name().to_owned());
        }
        self
    }

    /// How it stands before anything was looked at.
    pub(super) fn status(&self) -> WatchStatus {
        let WatchIn { dataset, paths, .. } = self.ask.clone();
        let committed = self.committed.clone();
        WatchStatus {
            generation: committed.as_ref().map(|last| last.generation),
            rows: committed.as_ref().map(|last| last.rows),
            run_id: committed.map(|last| last.run_id),
            error: self.rests.then(|| resting(&dataset)),
            dataset,
            paths,
            state: "starting".into(),
            format: self.format.clone(),
            ..WatchStatus::default()
        }
    }
}

/// Why a watch rests.
pub(super) fn resting(dataset: &str) -> String {
    format!(
        "dataset `{dataset}` was deleted or renamed, and is not made again by itself: `brahman ingest watch {dataset}` with its \
         folders does, `brahman ingest unwatch {dataset}` ends this"
    )
}

/// The file of watches, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchesError {
    #[error(transparent)]
    File(#[from] CheckedError),
    #[error("{}", .file.display())]
    Malformed {
        file: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// Which watches there were, and whether an earlier version has written them, without a checksum.
pub(super) fn read(file: &Path) -> Result<(Vec<WatchRecord>, bool), WatchesError> {
    let Some(CheckedContent { bytes, has_sum }) = checked::read(file)? else {
        return Ok((Vec::new(), false));
    };
    let kept = serde_json::from_slice(&bytes)
        .map_err(|source| WatchesError::Malformed { file: file.to_owned(), source })?;
    Ok((kept, !has_sum))
}

/// Writes them.
pub(super) fn write(file: &Path, kept: &[&WatchRecord]) -> io::Result<()> {
    checked::write(file, &serde_json::to_vec_pretty(kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_of_an_earlier_version_are_read_and_what_was_changed_since_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("watches.json");
        assert!(matches!(read(&file), Ok((kept, false)) if kept.is_empty()));
        let ask =
            WatchIn { dataset: "notes".into(), paths: vec!["/notes".into()], ..WatchIn::default() };
        let record = WatchRecord {
            ask,
            ingested: Some("0a".into()),
            format: None,
            rests: false,
            committed: None,
        };
        std::fs::write(&file, serde_json::to_vec_pretty(&[&record]).expect("JSON"))
            .expect("as an earlier version wrote it");
        let (kept, is_old) = read(&file).expect("read");
        assert!(is_old && kept[0].ask == record.ask && kept[0].ingested == record.ingested);
        assert_eq!(
            kept[0].clone().decided().format.as_deref(),
            Some("documents"),
            "what it made of a folder of tables stays that"
        );
        let new = WatchRecord { ingested: None, ..record.clone() };
        assert_eq!(
            new.decided().format,
            None,
            "what was never ingested is decided by what lies there"
        );
        write(&file, &[&record]).expect("written");
        assert!(matches!(read(&file), Ok((kept, false)) if kept[0].ask == record.ask));
        let changed = std::fs::read_to_string(&file).expect("there").replace("/notes", "/motes");
        std::fs::write(&file, changed).expect("damaged");
        let refused = read(&file).expect_err("its checksum does not match").to_string();
        assert!(refused.contains("watches.json") && refused.contains("checksum"), "{refused}");
    }

    #[test]
    fn what_was_committed_last_is_told_after_a_restart() {
        let last = Commit { generation: 3, rows: 7, run_id: "r".to_owned() };
        let record = WatchRecord {
            ask: WatchIn { dataset: "notes".into(), ..WatchIn::default() },
            ingested: Some("0a".into()),
            format: None,
            rests: false,
            committed: Some(last),
        };
        let text = serde_json::to_vec(&record).expect("JSON");
        let told = serde_json::from_slice::<WatchRecord>(&text).expect("read").status();
        assert_eq!(
            (told.generation, told.rows, told.run_id.as_deref()),
            (Some(3), Some(7), Some("r"))
        );
    }
}
