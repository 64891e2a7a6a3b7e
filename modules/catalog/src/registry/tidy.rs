//! Reading what lies in the folders of this machine, and deleting what [`sweep`] says may go.
//!
//! Invariants: only files and empty folders are removed, one by one, each below `datasets/` of a
//! bucket that is there, while the registry is held and says once more that it may go; what is
//! begun or published between the reading and a deletion keeps what it needs. Nobody waits for the
//! registry while folders are listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use brahman_card::clock::now_ms;
use brahman_sidecar::chain;

use super::DatasetRegistry;
use super::entry::folder_of;
use super::sweep::{self, Doubt, Evidence, Folder, ListedObject, Verdict};

/// Why it is not known what a dataset needs that was committed, never deleted, and has no file.
pub(super) const GONE: &str = "its file is gone";
/// Runs of nobody that are told: enough to know what they are.
const STRANGERS_TOLD: usize = 100;
/// Files of one sweep; what is more than this is no work of ours, and is looked at first.
const LISTED_MAX: usize = 1_000_000;
/// Folders below a run's: ingest makes none, and nobody is followed without an end.
const DEPTH_MAX: usize = 8;

impl DatasetRegistry {
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
        // As after a backup that was not taken in one moment.
        let older = self.journal.committed().iter().filter_map(|(name, committed)| {
            let is = self.entries.get(name)?.dataset.generation;
            let why = || format!("its file says generation {is}, its lineage that generation {committed} was committed");
            (is < *committed).then(|| (name.clone(), why()))
        });
        gone.chain(older).chain(self.damaged.clone()).collect()
    }

    /// Datasets that were committed and never deleted, and have no file, wherever their objects may
    /// be.
    pub(super) fn gone(&self) -> Vec<String> {
        let is_there =
            |name: &String| self.entries.contains_key(name) || self.damaged.contains_key(name);
        self.journal.committed().keys().filter(|name| !is_there(name)).cloned().collect()
    }

    /// The same, but for the datasets' own files.
    fn other_doubts(&self) -> Vec<String> {
        self.unread
            .iter()
            .cloned()
            .chain(self.journal.unread())
            .chain(self.roots.unread().iter().cloned())
            .collect()
    }

    /// Datasets whose objects lie in buckets that nobody has registered, in words: the registry may
    /// have been lost.
    #[must_use]
    pub fn unregistered(&self) -> Vec<String> {
        let all = self.entries.iter().flat_map(|(name, entry)| {
            entry.dataset.objects.iter().map(move |object| (&object.bucket, name))
        });
        let unknown: BTreeSet<(&String, &String)> =
            all.filter(|(bucket, _)| self.roots.get(bucket).is_err()).collect();
        let words = |(bucket, name): (&String, &String)| {
            format!(
                "dataset `{name}` lies in bucket `{bucket}`, which is not registered: `brahman buckets add {bucket} URL`, with the same URL as before"
            )
        };
        unknown.into_iter().take(STRANGERS_TOLD).map(words).collect()
    }

    /// What was last kept from being tidied, and why.
    #[must_use]
    pub fn untidied(&self) -> &[String] {
        &self.untidied
    }

    /// What lies in the buckets and is nobody's that is known here, as bucket/dataset/run.
    #[must_use]
    pub fn strangers(&self) -> Vec<String> {
        self.strangers
            .iter()
            .take(STRANGERS_TOLD)
            .map(|(bucket, (dataset, run))| format!("{bucket}/{dataset}/{run}"))
            .collect()
    }

    /// Notes what was found of nobody's below one dataset of a bucket, or below all of them.
    pub fn note_strangers(
        &mut self,
        bucket: &str,
        only: Option<&str>,
        found: BTreeSet<(String, Folder)>,
    ) {
        self.strangers
            .retain(|(of, (dataset, _))| of != bucket || only.is_some_and(|name| name != dataset));
        self.strangers.extend(found);
    }

    /// What is read before anything of one dataset, or of all, is deleted.
    #[must_use]
    pub fn evidence(&self, only: Option<&str>) -> Evidence {
        let owned = |(dataset, run): (&str, &str)| (dataset.to_owned(), run.to_owned());
        let whole = self
            .entries
            .iter()
            .map(|(name, entry)| (name.clone(), Ok(entry.needs().map(owned).collect())));
        let unknown = self.unknown().into_iter().map(|(name, why)| (name, Err(Doubt(why))));
        Evidence {
            needed: whole.chain(unknown).collect(),
            unread: self.other_doubts(),
            runs: self.journal.runs(only, now_ms()),
        }
    }

    /// What is to be done with an object by now.
    #[must_use]
    pub fn verdict(&self, listed: &ListedObject) -> Verdict {
        let folder = folder_of(&listed.key);
        let run = folder.and_then(|(_, run)| self.journal.run(run, now_ms()));
        let is_needed = folder.is_some_and(|folder| self.needs_folder(folder));
        sweep::verdict(listed, run.as_ref(), is_needed)
    }

    /// Whether this or the previous generation of any dataset is made of what a run has written.
    pub(super) fn needs_folder(&self, (dataset, run): (&str, &str)) -> bool {
        self.entries
            .values()
            .any(|entry| entry.needs().any(|(of, needed)| of == dataset && needed == run))
    }

    /// Deletes what may go of what lies in folders here, below all datasets or one, but for buckets
    /// that are away. Whatever stays because something could not be read is told by
    /// [`Self::untidied`].
    pub fn tidy(&mut self, only: Option<&str>, away: &BTreeSet<String>) {
        let (evidence, roots) = self.before_tidying(only, away);
        let mut untidied = Vec::new();
        for (bucket, root) in &roots {
            match sweep::plan(&evidence, &listing(bucket, root, only)) {
                Ok(plan) => {
                    untidied.extend(
                        plan.spent.iter().filter_map(|listed| self.remove_spent(root, listed)),
                    );
                    self.note_listed_strangers(bucket, only, plan.strangers);
                }
                Err(refusal) => untidied.push(refusal.to_string()),
            }
        }
        self.note_untidied(untidied);
    }

    /// What is read before anything is deleted, and the folders that are to be listed.
    fn before_tidying(
        &self,
        only: Option<&str>,
        away: &BTreeSet<String>,
    ) -> (Evidence, Vec<(String, PathBuf)>) {
        let roots = self.roots.all().filter(|(bucket, _)| !away.contains(*bucket));
        (
            self.evidence(only),
            roots.map(|(bucket, root)| (bucket.to_owned(), root.folder.clone())).collect(),
        )
    }

    /// Removes one object, unless it has come to be needed since it was planned to go: what failed,
    /// in words.
    fn remove_spent(&self, root: &Path, listed: &ListedObject) -> Option<String> {
        if self.verdict(listed) != Verdict::Spent {
            return None;
        }
        tracing::info!(
            bucket = listed.bucket,
            key = listed.key,
            "deleting what no generation needs any more"
        );
        let failed =
            |error: io::Error| format!("{}: {}", root.join(&listed.key).display(), chain(&error));
        remove(root, &listed.key).err().map(failed)
    }

    /// Notes strangers that still are: a run may have begun after the journal was read, and before
    /// its folder was listed.
    fn note_listed_strangers(
        &mut self,
        bucket: &str,
        only: Option<&str>,
        mut found: BTreeSet<(String, Folder)>,
    ) {
        found.retain(|(bucket, (dataset, run))| {
            let (bucket, key) = (bucket.clone(), format!("datasets/{dataset}/{run}/"));
            self.verdict(&ListedObject { bucket, key, resumable: true }) == Verdict::Stranger
        });
        self.note_strangers(bucket, only, found);
    }

    fn note_untidied(&mut self, mut untidied: Vec<String>) {
        untidied.dedup();
        // Said each time, logged when it is news.
        untidied
            .iter()
            .filter(|why| !self.untidied.contains(why))
            .for_each(|why| tracing::warn!("{why}"));
        self.untidied = untidied;
    }
}

/// [`DatasetRegistry::tidy`] where others use the registry as well: it is held to be read and for
/// each deletion, which asks once more, and not while folders are listed. Gives what stays because
/// something could not be read. Only one may tidy at a time, or one would note what the other has
/// just removed.
pub fn tidy_shared(
    registry: &Mutex<DatasetRegistry>,
    only: Option<&str>,
    away: &BTreeSet<String>,
) -> Vec<String> {
    let held = || registry.lock().unwrap_or_else(PoisonError::into_inner);
    let (evidence, roots) = held().before_tidying(only, away);
    let mut untidied = Vec::new();
    for (bucket, root) in &roots {
        match sweep::plan(&evidence, &listing(bucket, root, only)) {
            Ok(plan) => {
                for listed in &plan.spent {
                    untidied.extend(held().remove_spent(root, listed));
                }
                held().note_listed_strangers(bucket, only, plan.strangers);
            }
            Err(refusal) => untidied.push(refusal.to_string()),
        }
    }
    let mut registry = held();
    registry.note_untidied(untidied);
    registry.untidied().to_vec()
}

/// What lies below a bucket's folder of datasets, or of one dataset.
fn listing(bucket: &str, root: &Path, only: Option<&str>) -> Vec<Result<ListedObject, Doubt>> {
    let mut all = Vec::new();
    let (key, depth) =
        only.map_or_else(|| ("datasets".to_owned(), 0), |name| (format!("datasets/{name}"), 1));
    list(bucket, root, &key, depth, &mut all);
    all
}

/// Lists the files below a key, and folders below a dataset's that are empty. Whether there was
/// anything.
fn list(
    bucket: &str,
    root: &Path,
    key: &str,
    depth: usize,
    all: &mut Vec<Result<ListedObject, Doubt>>,
) -> bool {
    let path = root.join(key);
    let failed = |error: &io::Error| Err(Doubt(format!("{}: {}", path.display(), chain(error))));
    let found = match fs::read_dir(&path) {
        Ok(found) => found,
        // Gone since it was listed, or never there.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return true;
        }
        Err(error) => {
            all.push(failed(&error));
            return true;
        }
    };
    let mut is_empty = true;
    for entry in found {
        is_empty = false;
        if all.len() >= LISTED_MAX {
            all.push(Err(Doubt(format!("{}: more than {LISTED_MAX} files", path.display()))));
            return true;
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                all.push(failed(&error));
                continue;
            }
        };
        // Ours have plain names.
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let key = format!("{key}/{name}");
        let listed =
            |key: String| Ok(ListedObject { bucket: bucket.to_owned(), key, resumable: true });
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => {
                let has_any = depth >= DEPTH_MAX || list(bucket, root, &key, depth + 1, all);
                if !has_any && depth > 0 {
                    all.push(listed(key));
                }
            }
            Ok(_) => all.push(listed(key)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => all.push(failed(&error)),
        }
    }
    !is_empty
}

/// Removes a file or an empty folder, and the folders above it that are empty then, up to that of
/// all datasets.
fn remove(root: &Path, key: &str) -> io::Result<()> {
    let (path, top) = (root.join(key), root.join("datasets"));
    let removed = match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(&path),
        Ok(_) => fs::remove_file(&path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let above =
        path.ancestors().skip(1).take_while(|folder| *folder != top && folder.starts_with(&top));
    // One that has something in it stays, and so do those above.
    for folder in above {
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_to_be_needed_between_the_plan_and_the_deletion_stays_and_is_no_stranger() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut registry = DatasetRegistry::open(state.path()).expect("open");
        let part = |registry: &mut DatasetRegistry, run: &str| {
            let path = registry.location("d", run, "test", None).expect("a place").path;
            fs::write(Path::new(&path).join("part-0.parquet"), "half").expect("written");
            Path::new(&path).join("part-0.parquet")
        };
        let again = part(&mut registry, "again");
        let spent = part(&mut registry, "spent");
        registry.journal.abandon(None, Some("test"), "it died", false).expect("noted");
        registry.journal.age();
        let (evidence, roots) = registry.before_tidying(None, &BTreeSet::new());
        // Taken up again, and begun, after what is known was read.
        registry.location("d", "again", "test", None).expect("taken up again");
        let new = part(&mut registry, "new");
        let (bucket, root) = &roots[0];
        let plan = sweep::plan(&evidence, &listing(bucket, root, None)).expect("all is read");
        assert_eq!((plan.spent.len(), plan.strangers.len()), (2, 1), "{plan:?}");
        for listed in &plan.spent {
            assert_eq!(registry.remove_spent(root, listed), None);
        }
        registry.note_listed_strangers(bucket, None, plan.strangers);
        assert_eq!(
            ([again, spent, new].map(|path| path.exists()), registry.strangers().len()),
            ([true, false, true], 0)
        );
        // By whoever shares the registry it is the same.
        registry.journal.abandon(Some("again"), None, "it died", false).expect("noted");
        registry.journal.age();
        let shared = Mutex::new(registry);
        assert_eq!(tidy_shared(&shared, None, &BTreeSet::new()), Vec::<String>::new());
        assert!(!root.join("datasets/d/again").exists() && root.join("datasets/d/new").exists());
    }

    #[test]
    fn folders_go_once_they_are_empty_and_never_the_one_of_all_datasets() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let at = |key: &str| root.path().join(key);
        for folder in ["datasets/d/r1/deep", "datasets/d/r2", "datasets/e/r3"] {
            fs::create_dir_all(at(folder)).expect("made");
        }
        fs::write(at("datasets/d/r1/deep/part"), "x").expect("written");
        let keys = |only| -> BTreeSet<String> {
            listing("b", root.path(), only).into_iter().map(|l| l.expect("listed").key).collect()
        };
        assert_eq!(
            keys(Some("d")),
            ["datasets/d/r1/deep/part", "datasets/d/r2"].map(str::to_owned).into()
        );
        assert_eq!(keys(None).len(), 3);
        remove(root.path(), "datasets/d/r1/deep/part").expect("removed");
        assert!(
            !at("datasets/d/r1").exists() && at("datasets/d/r2").exists(),
            "up to where something is"
        );
        for key in ["datasets/d/r2", "datasets/e/r3", "datasets/none/r"] {
            remove(root.path(), key).expect("removed");
        }
        assert!(!at("datasets/d").exists() && at("datasets").exists());
        fs::create_dir_all(at("datasets/d/r1"))
            .and_then(|()| fs::write(at("datasets/d/r1/part"), "x"))
            .expect("written");
        assert!(
            remove(root.path(), "datasets/d/r1").is_err(),
            "what has something in it is not removed whole"
        );
    }
}
