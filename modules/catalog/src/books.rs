//! The datasets on disk: `catalog/<name>.json`, each `{sha256, dataset}`, replaced whole.
//!
//! Objects lie in their bucket as `datasets/<name>/<run_id>/…`. The objects of the present and the previous
//! generation are kept, so that a reader that has just asked can still read.

mod entry;
pub mod resync;
mod roots;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brahman_card::interface::catalog::{CommitIn, Dataset, Lineage, LocationOut, Object, Version};
use brahman_card::interface::storage::PRIMARY;
use brahman_storage::{Steps, atomic};
use thiserror::Error;

use crate::lineage::Journal;
use entry::{Entry, run_of, seal, unseal};
pub use roots::Roots;

/// A run's folder that no generation names and nobody has touched for this long was left by a run that died.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);
/// Generations of history kept in a dataset's file.
const HISTORY_MAX: usize = 100;

/// Why the books refuse.
#[derive(Debug, Error)]
pub enum BookError {
    /// There is no such dataset.
    #[error("no dataset is called `{0}`")]
    NoSuchDataset(String),
    /// The name will not do.
    #[error("`{0}` is no name for a dataset: expected 1 to 128 of a-z A-Z 0-9 . _ - not starting with a dot")]
    BadName(String),
    /// An object is not what the commit says.
    #[error("object {key}: {why}")]
    BadObject {
        /// Its key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// There is no such bucket, or datasets cannot lie in it.
    #[error("no bucket for datasets is called `{name}`; there are {there}; `brahman buckets add` makes one")]
    NoSuchBucket {
        /// Name.
        name: String,
        /// Those there are.
        there: String,
    },
    /// The run was given up, or never began.
    #[error("run {0} has not begun, or was given up; nothing was published")]
    GivenUp(String),
    /// Another commit came before.
    #[error("dataset `{name}` is at generation {is}, the commit builds on {expected}; nothing was published: run it again")]
    Moved {
        /// Dataset.
        name: String,
        /// Generation now.
        is: u64,
        /// Generation that the commit expects.
        expected: u64,
    },
    /// A dataset's file does not match its checksum, or is no dataset.
    #[error("the file of dataset `{name}` is damaged ({why}); it was left as it is")]
    Damaged {
        /// Dataset.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The disk refused.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// All datasets.
#[derive(Debug)]
pub struct Books {
    folder: PathBuf,
    roots: Roots,
    entries: BTreeMap<String, Entry>,
    damaged: BTreeMap<String, String>,
    /// What became of every run.
    pub(crate) journal: Journal,
    /// Where tests stop a commit.
    steps: Steps,
}

impl Books {
    /// Opens the books under a state directory, and clears away what dead runs left.
    ///
    /// # Errors
    /// If the directories cannot be made or listed.
    pub fn open(state: &Path) -> io::Result<Self> {
        let (folder, roots) = (state.join("catalog"), Roots::primary(state));
        fs::create_dir_all(&folder)?;
        for folder in roots.folders() {
            fs::create_dir_all(folder.join("datasets"))?;
        }
        let (mut entries, mut damaged) = (BTreeMap::new(), BTreeMap::new());
        for file in fs::read_dir(&folder)?.flatten() {
            let path = file.path();
            if file.file_name().to_string_lossy().starts_with(".tmp-") {
                // A manifest that a crash kept from its place.
                let _ = fs::remove_file(&path);
                continue;
            }
            let Some(name) =
                path.file_stem().map(|s| s.to_string_lossy().into_owned()).filter(|_| path.extension().is_some_and(|e| e == "json"))
            else {
                continue;
            };
            match unseal(&path) {
                Ok(entry) => drop(entries.insert(name, entry)),
                Err(why) => {
                    tracing::error!(dataset = name, "damaged: {why}");
                    damaged.insert(name, why);
                }
            }
        }
        let journal = Journal::open(&folder, entries.values().map(|e: &Entry| &e.dataset))?;
        let books = Self { folder, roots, entries, damaged, journal, steps: Steps::default() };
        books.clear_orphans();
        Ok(books)
    }

    fn clear_orphans(&self) {
        let folders = self.roots.folders().map(|folder| folder.join("datasets"));
        for dataset in folders.flat_map(fs::read_dir).flatten().flatten() {
            let name = dataset.file_name().to_string_lossy().into_owned();
            if self.damaged.contains_key(&name) {
                continue;
            }
            for run in fs::read_dir(dataset.path()).into_iter().flatten().flatten() {
                let run_id = run.file_name().to_string_lossy().into_owned();
                let old = run.metadata().and_then(|m| m.modified()).is_ok_and(|t| t.elapsed().is_ok_and(|age| age > ORPHAN_AGE));
                let kept = self.entries.get(&name).is_some_and(|e| e.keeps(&run_id));
                if old && !kept {
                    tracing::info!(dataset = name, run = run_id, "clearing what an unfinished run left");
                    let _ = fs::remove_dir_all(run.path());
                }
            }
        }
    }

    /// All datasets, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Dataset> {
        self.entries.values().map(|entry| self.roots.told(entry.view())).collect()
    }

    /// Generations by dataset.
    #[must_use]
    pub fn generations(&self) -> BTreeMap<String, u64> {
        self.entries.iter().map(|(name, e)| (name.clone(), e.dataset.generation)).collect()
    }

    fn entry(&self, name: &str) -> Result<&Entry, BookError> {
        if let Some(why) = self.damaged.get(name) {
            return Err(BookError::Damaged { name: name.to_owned(), why: why.clone() });
        }
        self.entries.get(name).ok_or_else(|| BookError::NoSuchDataset(name.to_owned()))
    }

    /// One dataset.
    ///
    /// # Errors
    /// If there is none, or its file is damaged.
    pub fn get(&self, name: &str) -> Result<Dataset, BookError> {
        Ok(self.roots.told(self.entry(name)?.view()))
    }

    /// Whether an object may go: a run of ours wrote it and has ended, and neither this nor the previous generation needs it. What
    /// another catalog has put into the same bucket is not ours to remove.
    #[must_use]
    pub fn spent(&self, name: &str, key: &str) -> bool {
        let kept = |run: &str| self.entries.get(name).is_some_and(|entry| entry.keeps(run));
        run_of(key).is_some_and(|run| self.journal.has_ended(run) && !kept(run))
    }

    /// Generations of a dataset, newest first.
    ///
    /// # Errors
    /// If there is none, or its file is damaged.
    pub fn history(&self, name: &str) -> Result<Vec<Version>, BookError> {
        Ok(self.entry(name)?.history.iter().rev().cloned().collect())
    }

    /// A run begins: where it writes, created. Without a bucket it is the one that the dataset lies in.
    ///
    /// # Errors
    /// If the name will not do, there is no such bucket, or the directory cannot be made.
    pub fn location(&mut self, name: &str, run_id: &str, producer: &str, bucket: Option<&str>) -> Result<LocationOut, BookError> {
        check_name(name)?;
        check_name(run_id)?;
        let own = self.entries.get(name).and_then(|e| e.dataset.objects.last()).map_or(PRIMARY, |o| &o.bucket);
        let bucket = bucket.unwrap_or(own).to_owned();
        let root = self.roots.get(&bucket)?;
        let key_prefix = format!("datasets/{name}/{run_id}");
        let (url_prefix, path) = (root.url_of(&key_prefix), root.folder.join(&key_prefix));
        let made = fs::create_dir_all(&path).and_then(|()| self.journal.start(name, run_id, producer));
        made.map_err(|source| BookError::Io { path: path.clone(), source })?;
        Ok(LocationOut { bucket, key_prefix, url_prefix, path: path.display().to_string() })
    }

    /// Where the buckets' objects lie.
    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Says what buckets there are, and clears away what dead runs left in them.
    pub fn set_roots(&mut self, roots: Roots) {
        self.roots = roots;
        self.clear_orphans();
    }

    /// Datasets with objects, of the present or the previous generation, in a bucket.
    #[must_use]
    pub fn lying_in(&self, bucket: &str) -> Vec<String> {
        let there = |e: &Entry| e.dataset.objects.iter().any(|o| o.bucket == bucket);
        self.entries.iter().filter(|(_, entry)| there(entry)).map(|(name, _)| name.clone()).collect()
    }

    /// The generation that a commit of this dataset would be, and the objects of the present one.
    ///
    /// # Errors
    /// If the dataset's file is damaged.
    pub fn next(&self, name: &str) -> Result<(u64, Vec<Object>), BookError> {
        match self.entry(name) {
            Ok(entry) => Ok((entry.dataset.generation + 1, entry.dataset.objects.clone())),
            Err(BookError::NoSuchDataset(_)) => Ok((1, Vec::new())),
            Err(error) => Err(error),
        }
    }

    /// Publishes a verified commit, as the next generation or as `at_least`. Gives it and the indexes that are stale now.
    ///
    /// # Errors
    /// If the disk refuses; the old generation then stands.
    pub fn commit(&mut self, mut commit: CommitIn, at_least: u64) -> Result<(u64, Vec<String>), BookError> {
        check_name(&commit.name)?;
        // Where they lie is for the catalog to say.
        commit.objects.iter_mut().for_each(|object| object.path = None);
        let old = match self.entry(&commit.name) {
            Ok(entry) => Some(entry.clone()),
            Err(BookError::NoSuchDataset(_)) => None,
            Err(error) => return Err(error),
        };
        if let Some(old) = &old
            && old.history.last().is_some_and(|version| version.run_id == commit.run_id)
        {
            return Ok((old.dataset.generation, old.view().stale));
        }
        // Whoever gave it up was told that nothing would be published.
        if !self.journal.is_open(&commit.run_id) {
            return Err(BookError::GivenUp(commit.run_id));
        }
        let is = old.as_ref().map_or(0, |o| o.dataset.generation);
        if let Some(expected) = commit.expect.filter(|expected| *expected != is) {
            return Err(BookError::Moved { name: commit.name, is, expected });
        }
        if let Some(old) = old.as_ref().filter(|old| old.dataset.objects == commit.objects) {
            return self.commit_nothing_new(commit, old.clone());
        }
        let generation = at_least.max(is + 1);
        let mut history = old.as_ref().map(|o| o.history.clone()).unwrap_or_default();
        let dataset = Dataset {
            name: commit.name.clone(),
            generation,
            rows: commit.objects.iter().map(|o| o.rows).sum(),
            bytes: commit.objects.iter().map(|o| o.bytes).sum(),
            objects: commit.objects,
            columns: commit.columns,
            pii: commit.pii,
            stale: Vec::new(),
            lineage: Lineage { run_id: commit.run_id, inputs: commit.inputs, producer: commit.producer },
            watermark: commit.watermark,
            committed_ms: now_ms(),
        };
        history.push(Version {
            generation,
            run_id: dataset.lineage.run_id.clone(),
            rows: dataset.rows,
            bytes: dataset.bytes,
            committed_ms: dataset.committed_ms,
        });
        history.drain(..history.len().saturating_sub(HISTORY_MAX));
        let before = old.as_ref().map(|o| o.dataset.objects.iter().map(|o| o.key.clone()).collect()).unwrap_or_default();
        let entry = Entry { dataset, before, feeds: old.as_ref().map(|o| o.feeds.clone()).unwrap_or_default(), history };
        let step = |name| self.steps.pass(name).map_err(|source| BookError::Io { path: self.folder.clone(), source });
        step("before the manifest")?;
        self.save(&commit.name, &entry)?;
        step("after the manifest")?;
        // It is published, whatever becomes of its line in the journal; the next opening writes what is missing.
        if let Err(error) = self.journal.complete(&entry.dataset) {
            tracing::error!(dataset = commit.name, "the lineage's journal refuses: {error}");
        }
        self.steps.pass("after the journal").map_err(|source| BookError::Io { path: self.folder.clone(), source })?;
        // What neither this nor the previous generation uses goes; a crash before this line leaves it to the next start.
        for gone in old.iter().flat_map(|old| old.runs()).filter(|run| !entry.keeps(run)) {
            self.roots.folders().for_each(|folder| drop(fs::remove_dir_all(folder.join(format!("datasets/{}/{gone}", commit.name)))));
        }
        let stale = entry.view().stale;
        self.entries.insert(commit.name, entry);
        Ok((generation, stale))
    }

    /// A run that found nothing new: how far it looked is kept, the generation stays.
    fn commit_nothing_new(&mut self, commit: CommitIn, mut entry: Entry) -> Result<(u64, Vec<String>), BookError> {
        if entry.dataset.watermark != commit.watermark {
            entry.dataset.watermark = commit.watermark;
            self.save(&commit.name, &entry)?;
        }
        let lineage = Lineage { run_id: commit.run_id, inputs: commit.inputs, producer: commit.producer };
        if let Err(error) = self.journal.complete(&Dataset { lineage, ..entry.dataset.clone() }) {
            tracing::error!(dataset = commit.name, "the lineage's journal refuses: {error}");
        }
        let stale = entry.view().stale;
        let generation = entry.dataset.generation;
        self.entries.insert(commit.name, entry);
        Ok((generation, stale))
    }

    /// Notes that an index is fed by a dataset and has caught up with nothing yet.
    ///
    /// # Errors
    /// If there is no such dataset.
    pub fn mark_stale(&mut self, name: &str, index: &str) -> Result<(), BookError> {
        let mut entry = self.entry(name)?.clone();
        entry.feeds.insert(index.to_owned(), 0);
        self.save(name, &entry)?;
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Notes that an index has caught up with a generation. False if the dataset has moved on.
    ///
    /// # Errors
    /// If there is no such dataset.
    pub fn clear_stale(&mut self, name: &str, index: &str, generation: u64) -> Result<bool, BookError> {
        let mut entry = self.entry(name)?.clone();
        entry.feeds.insert(index.to_owned(), generation);
        self.save(name, &entry)?;
        let cleared = entry.dataset.generation == generation;
        self.entries.insert(name.to_owned(), entry);
        Ok(cleared)
    }

    /// Deletes a dataset and its objects.
    ///
    /// # Errors
    /// If there is none.
    pub fn delete(&mut self, name: &str) -> Result<(), BookError> {
        check_name(name)?;
        if !self.entries.contains_key(name) && !self.damaged.contains_key(name) {
            return Err(BookError::NoSuchDataset(name.to_owned()));
        }
        let path = self.folder.join(format!("{name}.json"));
        fs::remove_file(&path).and_then(|()| atomic::sync_dir(&self.folder)).map_err(|source| BookError::Io { path, source })?;
        self.roots.folders().for_each(|folder| drop(fs::remove_dir_all(folder.join("datasets").join(name))));
        self.entries.remove(name);
        self.damaged.remove(name);
        Ok(())
    }

    fn save(&self, name: &str, entry: &Entry) -> Result<(), BookError> {
        let path = self.folder.join(format!("{name}.json"));
        let sealed = seal(entry).map_err(io::Error::from).and_then(|text| atomic::write(&path, text.as_bytes()));
        sealed.map_err(|source| BookError::Io { path, source })
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn check_name(name: &str) -> Result<(), BookError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=128).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.') {
        Ok(())
    } else {
        Err(BookError::BadName(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use brahman_storage::digest::{hex, sha256};

    use super::*;

    fn commit(books: &mut Books, name: &str, run: &str) -> (u64, Vec<String>) {
        let LocationOut { key_prefix, path, .. } = books.location(name, run, "test", None).expect("a place");
        fs::write(Path::new(&path).join("part-0.parquet"), run).expect("written");
        let key = format!("{key_prefix}/part-0.parquet");
        let object = Object {
            bucket: "primary".into(),
            key,
            url: String::new(),
            rows: 3,
            bytes: run.len() as u64,
            sha256: hex(&sha256(run.as_bytes())),
            path: None,
        };
        books.roots().verify(std::slice::from_ref(&object), &[]).expect("verified");
        let commit = CommitIn {
            name: name.into(),
            run_id: run.into(),
            objects: vec![object],
            columns: vec![],
            inputs: vec![],
            producer: "test".into(),
            pii: None,
            watermark: None,
            expect: None,
        };
        books.commit(commit, 0).expect("committed")
    }

    #[test]
    fn a_commit_survives_reopening_and_the_same_run_twice_is_one() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut books = Books::open(state.path()).expect("open");
        assert_eq!(commit(&mut books, "d", "run1").0, 1);
        assert_eq!(commit(&mut books, "d", "run1").0, 1);
        books.mark_stale("d", "i").expect("marked");
        assert_eq!(commit(&mut books, "d", "run2"), (2, vec!["i".into()]));
        assert!(!books.clear_stale("d", "i", 1).expect("noted"));
        assert!(books.clear_stale("d", "i", 2).expect("noted"));
        let again = Books::open(state.path()).expect("open");
        let dataset = again.get("d").expect("there");
        assert_eq!((dataset.generation, dataset.rows, dataset.stale), (2, 3, vec![]));
    }

    fn offer(books: &mut Books, run: &str) -> CommitIn {
        let LocationOut { key_prefix, path, .. } = books.location("d", run, "test", None).expect("a place");
        fs::write(Path::new(&path).join("part-0.parquet"), run).expect("written");
        let (bytes, sha256) = (run.len() as u64, hex(&sha256(run.as_bytes())));
        let object = Object {
            bucket: "primary".into(),
            key: format!("{key_prefix}/part-0.parquet"),
            url: String::new(),
            rows: 3,
            bytes,
            sha256,
            path: None,
        };
        let (name, run_id, producer) = ("d".into(), run.into(), "test".into());
        CommitIn {
            name,
            run_id,
            objects: vec![object],
            columns: vec![],
            inputs: vec![],
            producer,
            pii: None,
            watermark: None,
            expect: None,
        }
    }

    #[test]
    fn a_commit_that_is_stopped_at_any_step_leaves_the_old_dataset_or_the_new_and_can_be_said_again() {
        for stop in 0.. {
            let state = tempfile::tempdir().expect("a temporary directory");
            let mut books = Books::open(state.path()).expect("open");
            for run in ["r1", "r2"] {
                let offered = offer(&mut books, run);
                books.commit(offered, 0).expect("committed");
            }
            let offered = offer(&mut books, "r3");
            books.steps = Steps::stopping_at(stop);
            let stopped = books.commit(offered.clone(), 0).is_err();
            drop(books);
            // As after a crash.
            fs::write(state.path().join("catalog/.tmp-torn"), "half a manif").expect("written");
            let mut books = Books::open(state.path()).expect("open");
            let dataset = books.get("d").expect("there");
            let expected = ["r2", "r3"][usize::try_from(dataset.generation).expect("small") - 2];
            assert_eq!((dataset.objects.len(), dataset.lineage.run_id.as_str()), (1, expected), "stopped at {stop}");
            books.roots().verify(&dataset.objects, &[]).expect("its objects are whole");
            assert_eq!(books.commit(offered, 0).expect("said again").0, 3);
            let kinds: Vec<_> = books.journal.events("d", 100).iter().map(|e| e["eventType"].as_str().map(str::to_owned)).collect();
            assert_eq!(kinds.iter().flatten().filter(|kind| *kind == "COMPLETE").count(), 3, "stopped at {stop}: {kinds:?}");
            assert!(!state.path().join("catalog/.tmp-torn").exists());
            if !stopped {
                assert!(stop >= 3, "every step was stopped at");
                break;
            }
        }
    }

    #[test]
    fn what_a_dead_run_left_is_cleared_once_it_is_old() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut books = Books::open(state.path()).expect("open");
        let offered = offer(&mut books, "r1");
        books.commit(offered, 0).expect("committed");
        let folders = ["r1", "dead", "young"].map(|run| PathBuf::from(books.location("d", run, "test", None).expect("a place").path));
        let long_ago = SystemTime::now() - 2 * ORPHAN_AGE;
        for folder in &folders[..2] {
            fs::File::open(folder).and_then(|f| f.set_modified(long_ago)).expect("aged");
        }
        drop(books);
        Books::open(state.path()).expect("open");
        assert_eq!(folders.map(|f| f.exists()), [true, false, true]);
    }

    #[test]
    fn the_objects_of_two_generations_are_kept() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut books = Books::open(state.path()).expect("open");
        for run in ["r1", "r2", "r3"] {
            commit(&mut books, "d", run);
        }
        let kept = ["r1", "r2", "r3"].map(|r| state.path().join("buckets/primary/datasets/d").join(r).exists());
        assert_eq!(kept, [false, true, true]);
    }

    #[test]
    fn damage_is_named_and_left_alone() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut books = Books::open(state.path()).expect("open");
        commit(&mut books, "d", "r1");
        let path = state.path().join("catalog/d.json");
        let text = fs::read_to_string(&path).expect("there").replace("\"rows\":3", "\"rows\":4");
        fs::write(&path, text).expect("damaged");
        let mut again = Books::open(state.path()).expect("open");
        assert!(matches!(again.get("d"), Err(BookError::Damaged { .. })));
        let refused = again.commit(
            CommitIn {
                name: "d".into(),
                run_id: "r2".into(),
                objects: vec![],
                columns: vec![],
                inputs: vec![],
                producer: String::new(),
                pii: None,
                watermark: None,
                expect: None,
            },
            0,
        );
        assert!(matches!(refused, Err(BookError::Damaged { .. })));
    }

    #[test]
    fn an_object_that_is_not_what_it_says_is_refused() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut books = Books::open(state.path()).expect("open");
        for key in ["datasets/d/r/none", "../../etc/passwd"] {
            let object = Object {
                bucket: "primary".into(),
                key: key.into(),
                url: String::new(),
                rows: 1,
                bytes: 1,
                sha256: "0".repeat(64),
                path: None,
            };
            assert!(matches!(books.roots().verify(&[object], &[]), Err(BookError::BadObject { .. })));
        }
        for name in ["", "..", "a/b", ".x"] {
            assert!(books.location(name, "r", "test", None).is_err(), "{name}");
        }
    }
}
