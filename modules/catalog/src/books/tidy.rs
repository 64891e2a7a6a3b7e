//! Reading what lies there, and deleting what [`sweep`] says may go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Books;
use super::entry::folder_of;
use super::sweep::{self, Folder, Listed, Reading};

/// Why it is not known what a dataset needs whose objects are there and that has no file.
pub(super) const GONE: &str = "its file is gone, its objects are there";

impl Books {
    /// What could not be read, without which nothing may be deleted.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        self.unread_datasets().into_iter().chain(self.other_doubts()).collect()
    }

    /// Datasets whose own file could not be read or is gone, and why.
    #[must_use]
    pub fn unread_datasets(&self) -> Vec<String> {
        self.unknown().into_iter().map(|(name, why)| format!("dataset `{name}`: {why}")).collect()
    }

    /// The same, by name: what they need is not known, and may be anything.
    fn unknown(&self) -> BTreeMap<String, String> {
        let gone = self.gone().into_iter().map(|name| (name, GONE.to_owned()));
        gone.chain(self.damaged.clone()).collect()
    }

    /// Datasets that were committed, and whose file is gone while objects of theirs are there.
    pub(super) fn gone(&self) -> Vec<String> {
        let committed = |name: &String| !self.damaged.contains_key(name) && self.journal.last_committed(name).is_some();
        self.lost().into_iter().filter(committed).collect()
    }

    /// The same, but for the datasets' own files.
    fn other_doubts(&self) -> Vec<String> {
        self.unread.iter().cloned().chain(self.journal.unread()).chain(self.roots.unread().iter().cloned()).collect()
    }

    /// What was last kept from being tidied, and why.
    #[must_use]
    pub fn untidied(&self) -> &[String] {
        &self.untidied
    }

    /// What is read before anything is deleted.
    fn reading(&self, left: BTreeSet<Folder>) -> Reading {
        let owned = |(dataset, run): (&str, &str)| (dataset.to_owned(), run.to_owned());
        let whole = self.entries.iter().map(|(name, entry)| (name.clone(), Ok(entry.needs().map(owned).collect())));
        let unknown = self.unknown().into_iter().map(|(name, why)| (name, Err(why)));
        Reading { needed: whole.chain(unknown).collect(), unread: self.other_doubts(), left }
    }

    /// What lies below a bucket's folder of datasets, or of one dataset.
    fn listing(&self, root: &Path, only: Option<&str>) -> Vec<Result<Listed, String>> {
        let failed = |path: &Path, error: &io::Error| Err(format!("{}: {error}", path.display()));
        let folders = |path: &Path| -> Vec<io::Result<PathBuf>> {
            match fs::read_dir(path) {
                Ok(found) => found.map(|entry| entry.map(|entry| entry.path())).collect(),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Vec::new(),
                Err(error) => vec![Err(error)],
            }
        };
        let datasets = match only {
            Some(name) => vec![Ok(root.join("datasets").join(name))],
            None => folders(&root.join("datasets")),
        };
        let mut all = Vec::new();
        for dataset in datasets {
            let dataset = match dataset {
                Ok(path) => path,
                Err(error) => {
                    all.push(failed(root, &error));
                    continue;
                }
            };
            for run in folders(&dataset) {
                let path = match run {
                    Ok(path) => path,
                    Err(error) => {
                        all.push(failed(&dataset, &error));
                        continue;
                    }
                };
                // Ours have plain names.
                let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
                let (Some(dataset), Some(run)) = (name(&dataset), name(&path)) else { continue };
                match path.metadata() {
                    Ok(meta) => all.push(Ok(Listed {
                        ended: self.journal.has_ended(&run),
                        open: self.journal.is_open(&run),
                        age: meta.modified().ok().and_then(|touched| touched.elapsed().ok()),
                        folder: (dataset, run),
                    })),
                    // Gone since it was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => all.push(failed(&path, &error)),
                }
            }
        }
        all
    }

    /// Deletes what may go, below all datasets or one. Whatever stays because something could not be read is told by
    /// [`Self::untidied`].
    pub(super) fn tidy(&mut self, only: Option<&str>, left: BTreeSet<Folder>) {
        let reading = self.reading(left);
        let roots: Vec<PathBuf> = self.roots.folders().map(Path::to_path_buf).collect();
        let mut untidied = Vec::new();
        for root in roots {
            match sweep::plan(&reading, &self.listing(&root, only)) {
                Ok(folders) => {
                    for (dataset, run) in folders {
                        tracing::info!(dataset, run, "clearing what no generation needs any more");
                        let path = root.join("datasets").join(&dataset).join(&run);
                        if let Err(error) = fs::remove_dir_all(&path) {
                            untidied.push(format!("{}: {error}", path.display()));
                        }
                    }
                }
                Err(refusal) => untidied.push(refusal.to_string()),
            }
        }
        untidied.dedup();
        untidied.iter().for_each(|why| tracing::warn!("{why}"));
        self.untidied = untidied;
    }

    pub(super) fn clear_orphans(&mut self) {
        self.tidy(None, BTreeSet::new());
    }

    /// A run has ended without a commit: what such runs left goes once it is old.
    pub fn tidy_orphans(&mut self) {
        self.clear_orphans();
    }

    /// Whether an object may go: a run of ours wrote it and has ended, neither this nor the previous generation of any dataset needs
    /// it, and nothing that might say so could not be read. What another catalog has put into the same bucket is not ours to remove.
    #[must_use]
    pub fn spent(&self, key: &str) -> bool {
        let needed = |folder: (&str, &str)| self.entries.values().any(|e| e.needs().any(|n| n.0 == folder.0 && n.1 == folder.1));
        folder_of(key).is_some_and(|folder| self.journal.has_ended(folder.1) && !needed(folder)) && self.doubts().is_empty()
    }
}
