//! Manifests from objects: when a manifest says something else than the objects, is damaged, or is gone.
//!
//! Which run was committed last is in the lineage's journal. Without it, the newest run whose objects are all whole is taken:
//! that may be a run which was never committed, so the reply says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::SystemTime;

use brahman_card::interface::catalog::{Column, Dataset, Lineage, Object, Version};

use super::entry::{Entry, Sealed};
use super::{BookError, Books, now_ms};
use crate::footers;

/// What was done, and what was found.
#[derive(Debug)]
pub struct Resync {
    /// As it is now.
    pub dataset: Dataset,
    /// Whether the manifest said otherwise.
    pub changed: bool,
    /// What was found.
    pub notes: Vec<String>,
}

/// A bucket, and a key in it.
type Place = (String, String);

impl Books {
    /// Reads a dataset's objects anew and publishes what is there, if the manifest does not say so.
    ///
    /// # Errors
    /// If there are no objects, or one is missing or is no Parquet file.
    pub fn resync(&mut self, name: &str) -> Result<Resync, BookError> {
        super::check_name(name)?;
        match self.entry(name) {
            Ok(entry) => {
                let entry = entry.clone();
                self.resync_drifted(name, entry)
            }
            Err(BookError::Damaged { .. } | BookError::NoSuchDataset(_)) => self.resync_lost(name),
            Err(error) => Err(error),
        }
    }

    /// The manifest is whole: do the objects say the same?
    fn resync_drifted(&mut self, name: &str, mut entry: Entry) -> Result<Resync, BookError> {
        let old = entry.dataset.clone();
        let places: Vec<Place> = old.objects.iter().map(|o| (o.bucket.clone(), o.key.clone())).collect();
        let (objects, columns) = self.read(&places, &old.columns)?;
        let mut notes = Vec::new();
        for (was, is) in old.objects.iter().zip(&objects).filter(|(was, is)| was.sha256 != is.sha256 || was.rows != is.rows) {
            // Of an object in S3 what lies here is a copy: it is not the copy that is right.
            if !self.roots.get(&is.bucket)?.is_local() {
                let why = format!(
                    "the copy here, {}, is not what bucket `{}` holds: remove it, and it is fetched",
                    self.roots.path(is)?.display(),
                    is.bucket
                );
                return Err(BookError::BadObject { key: is.key.clone(), why });
            }
            notes.push(format!("{}: had {} rows and {} bytes, has {} and {}", is.key, was.rows, was.bytes, is.rows, is.bytes));
        }
        let same = |a: &Column, b: &Column| a.name == b.name && a.arrow_type == b.arrow_type;
        if old.columns.len() != columns.len() || !old.columns.iter().zip(&columns).all(|(a, b)| same(a, b)) {
            notes.push("the columns are not those of the manifest".to_owned());
        }
        if notes.is_empty() {
            return Ok(Resync { dataset: self.roots.told(entry.view()), changed: false, notes });
        }
        // What was said of personal data was said of other values.
        entry.dataset = Dataset { objects, columns, pii: None, ..old };
        let dataset = self.publish(name, entry)?;
        Ok(Resync { dataset, changed: true, notes })
    }

    /// There is no whole manifest: which run was it?
    fn resync_lost(&mut self, name: &str) -> Result<Resync, BookError> {
        let damaged = self.folder.join(format!("{name}.json"));
        // What can still be read of it is worth having: which indexes it feeds.
        let salvaged = fs::read(&damaged).ok().and_then(|text| serde_json::from_slice::<Sealed>(&text).ok());
        let salvaged = salvaged.and_then(|sealed| serde_json::from_str::<Entry>(sealed.entry.get()).ok());
        let committed = self.journal.last_committed(name);
        let mut notes = Vec::new();
        let (run_id, before) = match committed {
            Some((run_id, generation)) => (run_id, generation),
            None => {
                notes.push("the lineage names no committed run: the newest one whose objects are whole was taken".to_owned());
                (self.newest_whole_run(name)?, salvaged.as_ref().map_or(0, |e| e.dataset.generation))
            }
        };
        let columns_before = salvaged.as_ref().map(|e| e.dataset.columns.clone()).unwrap_or_default();
        let (objects, columns) = self.read(&self.keys(name, &run_id)?, &columns_before)?;
        let dataset = Dataset {
            name: name.to_owned(),
            generation: before,
            rows: 0,
            bytes: 0,
            objects,
            columns,
            pii: None,
            stale: Vec::new(),
            lineage: Lineage { run_id, inputs: Vec::new(), producer: "resync".to_owned() },
            watermark: None,
            committed_ms: 0,
        };
        if damaged.exists() {
            let aside = self.folder.join(format!("{name}.json.damaged-{}", now_ms()));
            fs::rename(&damaged, &aside).map_err(|source| BookError::Io { path: damaged.clone(), source })?;
            notes.push(format!("the damaged manifest was put aside as {}", aside.display()));
        }
        let (feeds, history) = salvaged.map_or_else(|| (BTreeMap::new(), Vec::new()), |e| (e.feeds, e.history));
        self.damaged.remove(name);
        let dataset = self.publish(name, Entry { dataset, before: Vec::new(), feeds, history })?;
        Ok(Resync { dataset, changed: true, notes })
    }

    /// Publishes an entry as its dataset's next generation.
    fn publish(&mut self, name: &str, mut entry: Entry) -> Result<Dataset, BookError> {
        let dataset = &mut entry.dataset;
        dataset.generation += 1;
        dataset.rows = dataset.objects.iter().map(|o| o.rows).sum();
        dataset.bytes = dataset.objects.iter().map(|o| o.bytes).sum();
        dataset.committed_ms = now_ms();
        entry.history.push(Version {
            generation: dataset.generation,
            run_id: dataset.lineage.run_id.clone(),
            rows: dataset.rows,
            bytes: dataset.bytes,
            committed_ms: dataset.committed_ms,
        });
        self.save(name, &entry)?;
        let view = entry.view();
        self.entries.insert(name.to_owned(), entry);
        Ok(view)
    }

    /// Objects as they are; all must have the first one's columns.
    fn read(&self, places: &[Place], before: &[Column]) -> Result<(Vec<Object>, Vec<Column>), BookError> {
        let mut schema: Option<arrow_schema::Schema> = None;
        let mut objects = Vec::new();
        for (bucket, key) in places {
            let bad = |why: String| BookError::BadObject { key: key.clone(), why };
            let (object, its) = footers::object(bucket, self.roots.get(bucket)?, key).map_err(|e| bad(e.to_string()))?;
            if schema.as_ref().is_some_and(|first| first.fields() != its.fields()) {
                return Err(bad("its columns are not those of the first object".to_owned()));
            }
            schema.get_or_insert(its);
            objects.push(object);
        }
        Ok((objects, schema.map(|s| footers::columns(&s, before)).unwrap_or_default()))
    }

    /// Buckets and keys of a run's objects, in their order.
    fn keys(&self, name: &str, run_id: &str) -> Result<Vec<Place>, BookError> {
        let prefix = format!("datasets/{name}/{run_id}");
        let found = self.roots.all().find(|(_, root)| root.folder.join(&prefix).is_dir());
        let Some((bucket, root)) = found else { return Err(BookError::NoSuchDataset(name.to_owned())) };
        let path = root.folder.join(&prefix);
        let part = |file: &str| file.strip_prefix("part-")?.strip_suffix(".parquet")?.parse::<u64>().ok();
        let files = fs::read_dir(&path).map_err(|source| BookError::Io { path, source })?.flatten();
        let mut parts: Vec<(u64, String)> = files
            .filter_map(|f| f.file_name().into_string().ok())
            .filter_map(|file| Some((part(&file)?, format!("{prefix}/{file}"))))
            .collect();
        parts.sort();
        Ok(parts.into_iter().map(|(_, key)| (bucket.to_owned(), key)).collect())
    }

    fn newest_whole_run(&self, name: &str) -> Result<String, BookError> {
        let mut runs: Vec<(SystemTime, String)> = Vec::new();
        for folder in self.roots.folders() {
            let path = folder.join("datasets").join(name);
            match fs::read_dir(&path) {
                Ok(found) => {
                    let found = found.flatten();
                    let dated = found.filter_map(|run| Some((run.metadata().ok()?.modified().ok()?, run.file_name().into_string().ok()?)));
                    runs.extend(dated.filter(|(_, run)| !self.journal.is_open(run)));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(BookError::Io { path, source }),
            }
        }
        runs.sort();
        let whole = |run: &String| {
            let keys = self.keys(name, run).unwrap_or_default();
            !keys.is_empty() && self.read(&keys, &[]).is_ok()
        };
        runs.into_iter().rev().map(|(_, run)| run).find(whole).ok_or_else(|| BookError::NoSuchDataset(name.to_owned()))
    }

    /// Datasets that have objects and no whole manifest.
    #[must_use]
    pub fn lost(&self) -> Vec<String> {
        let folders = self.roots.folders().map(|folder| folder.join("datasets")).flat_map(fs::read_dir).flatten().flatten();
        let names = folders.filter_map(|f| f.file_name().into_string().ok());
        let lost: BTreeSet<String> = names.filter(|name| super::check_name(name).is_ok() && !self.entries.contains_key(name)).collect();
        lost.into_iter().collect()
    }
}
