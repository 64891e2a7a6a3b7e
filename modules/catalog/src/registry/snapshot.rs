//! The catalog's own files as they are at one moment, for a backup.
//!
//! The registry is held while they are written, so that datasets and lineage agree: what one says
//! was committed, the other has. Invariants: a dataset's file names the present generation alone,
//! for no other is in the backup; that is pinned before the registry is let go, so that nothing of
//! it can go while it is copied; a damaged file is copied as it is.

use std::fs;
use std::io;
use std::path::Path;

use brahman_card::interface::catalog::{Dataset, IndexMark};

use super::entry::{Entry, seal};
use super::{DatasetRegistry, RegistryError};

impl Entry {
    /// As it is in a backup: of the present generation, and feeding those indexes that are in it as
    /// well; without marks, as it feeds now.
    fn alone(&self, marks: Option<&[IndexMark]>) -> Self {
        let alone =
            Self { before: Vec::new(), previous: Vec::new(), pins: Vec::new(), ..self.clone() };
        let Some(marks) = marks else { return alone };
        let fed = || marks.iter().filter(|mark| mark.dataset == self.dataset.name);
        let run = |mark: &IndexMark| Some((mark.index.clone(), mark.run_id.clone()?));
        Self {
            feeds: fed().map(|mark| (mark.index.clone(), mark.generation)).collect(),
            feed_runs: fed().filter_map(run).collect(),
            ..alone
        }
    }
}

impl DatasetRegistry {
    /// Writes all files into a folder, and pins what their datasets are made of until then. Gives
    /// the datasets, and what is not as it should be.
    ///
    /// # Errors
    /// If the disk refuses, or a dataset has as many pins as there may be.
    pub fn snapshot(
        &mut self,
        to: &Path,
        marks: Option<&[IndexMark]>,
        pin: &str,
        until_ms: u64,
    ) -> Result<(Vec<Dataset>, Vec<String>), RegistryError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| RegistryError::Io { path, source }
        };
        let mut notes: Vec<String> = self
            .damaged
            .iter()
            .map(|(name, why)| format!("dataset `{name}` is damaged: {why}"))
            .collect();
        notes.extend(self.gone().into_iter().map(|name| format!("dataset `{name}` is lost")));
        let mut datasets = Vec::new();
        for (name, entry) in &self.entries {
            let path = to.join(format!("{name}.json"));
            let text = seal(&entry.alone(marks)).map_err(io::Error::from);
            text.and_then(|text| fs::write(&path, text)).map_err(failed(&path))?;
            datasets.push(self.roots.told(entry.view()));
        }
        copy_files(&self.folder, to, &|name| {
            name.strip_suffix(".json").is_some_and(|name| self.entries.contains_key(name))
        })
        .map_err(failed(to))?;
        let names = self.names();
        for name in names {
            match self.pin(&name, None, Some(pin.to_owned()), Some(until_ms)) {
                // What a mock has left among real ones is nobody's loss.
                Ok(_) | Err(RegistryError::MadeByMock { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((datasets, notes))
    }
}

/// Copies the files of a folder, and of those below it, but for unfinished ones and those that are
/// written otherwise.
fn copy_files(from: &Path, to: &Path, is_written: &dyn Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.starts_with(".tmp-") || is_written(&text) {
            continue;
        }
        let target = to.join(&name);
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy_files(&entry.path(), &target, &|_| false)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use brahman_card::interface::catalog::{CommitIn, Object};
    use brahman_storage::digest::{hex, sha256};

    use super::*;

    fn commit(registry: &mut DatasetRegistry, run: &str) -> PathBuf {
        let place = registry.location("d", run, "test", None).expect("a place");
        let path = Path::new(&place.path).join("part-0.parquet");
        fs::write(&path, run).expect("written");
        let object = Object {
            bucket: place.bucket,
            key: format!("{}/part-0.parquet", place.key_prefix),
            url: format!("{}/part-0.parquet", place.url_prefix),
            rows: 3,
            bytes: run.len() as u64,
            sha256: hex(&sha256(run.as_bytes())),
            path: None,
        };
        let commit = CommitIn {
            name: "d".into(),
            run_id: run.into(),
            objects: vec![object],
            producer: "test".into(),
            ..CommitIn::default()
        };
        registry.commit(commit, 0).expect("committed");
        registry.tidy(None, &BTreeSet::new());
        path
    }

    #[test]
    fn what_is_written_opens_elsewhere_as_it_was_at_that_moment_with_stale_indexes_told() {
        let (state, other) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        commit(&mut registry, "r1");
        let two = commit(&mut registry, "r2");
        registry.mark_stale("d", "gone", None).expect("marked");
        let mark = |index: &str, run: &str| IndexMark {
            index: index.into(),
            dataset: "d".into(),
            generation: 2,
            run_id: Some(run.into()),
        };
        let catalog = other.path().join("catalog");
        fs::create_dir(&catalog).expect("made");
        let marks = [mark("fresh", "r2"), mark("behind", "r1")];
        let (datasets, notes) =
            registry.snapshot(&catalog, Some(&marks), "backup-1", u64::MAX).expect("written");
        assert_eq!((datasets[0].generation, notes.len()), (2, 0));
        // It goes on meanwhile; what is in the backup stays until it is unpinned.
        commit(&mut registry, "r3");
        commit(&mut registry, "r4");
        assert!(two.exists());
        let key = "buckets/primary/datasets/d/r2/part-0.parquet";
        let there = other.path().join(key);
        fs::create_dir_all(there.parent().expect("a folder"))
            .and_then(|()| fs::copy(&two, &there))
            .expect("copied");
        let mut restored = DatasetRegistry::open(other.path()).expect("open");
        restored.set_roots(restored.roots().clone());
        let dataset = restored.get("d").expect("there");
        assert_eq!((dataset.generation, dataset.stale), (2, vec!["behind".to_owned()]));
        assert_eq!(
            dataset.objects[0].url,
            format!("file://{}", there.display()),
            "it says where it lies now"
        );
        restored.roots().verify(&dataset.objects, &[]).expect("whole");
        assert!(
            restored.doubts().is_empty() && restored.pins("d").is_empty(),
            "{:?}",
            restored.doubts()
        );
        assert!(commit(&mut restored, "r5").exists(), "it goes on");
        assert_eq!(registry.unpin("d", None, Some("backup-1")).expect("unpinned"), 1);
        registry.tidy(None, &BTreeSet::new());
        assert!(!two.exists());
    }

    #[test]
    fn where_nobody_says_which_indexes_there_are_those_that_are_fed_stay_so() {
        let (state, other) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        commit(&mut registry, "r1");
        registry.mark_stale("d", "behind", None).expect("marked");
        let stale = registry.get("d").expect("there").stale;
        assert_eq!(stale, ["behind"]);
        for (folder, marks, wanted) in
            [("kept", None, stale), ("none", Some(&[] as &[IndexMark]), Vec::new())]
        {
            let catalog = other.path().join(folder).join("catalog");
            fs::create_dir_all(&catalog).expect("made");
            registry.snapshot(&catalog, marks, folder, u64::MAX).expect("written");
            let copy = DatasetRegistry::open(&other.path().join(folder)).expect("open");
            assert_eq!(copy.get("d").expect("there").stale, wanted, "{folder}");
        }
    }
}
