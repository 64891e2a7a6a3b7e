//! Reading a dataset's objects anew, and telling what generation they make: the recorded one,
//! another, or none that can be told.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use brahman_card::interface::catalog::{Column, Dataset, Object, Origin};

use super::super::entry::{Entry, salvage};
use super::super::{RegistryError, Roots, names};
use super::{Condition, Findings, ResyncReading, missing};
use crate::footers;
use crate::lineage::LastCommit;

/// A bucket, and a key in it.
type Place = (String, String);
/// A run, its objects and their columns.
type WholeRun = (String, Vec<Object>, Vec<Column>);

/// What a lost generation is known to have been, and what was found of it.
struct FoundObjects {
    objects: Vec<Object>,
    columns: Vec<Column>,
    /// What was recorded of it; empty where nothing was.
    recorded: Dataset,
    /// Whether the objects are those that were recorded, byte for byte.
    same: bool,
}

impl ResyncReading {
    /// The same, where bytes may be taken that are not what was committed.
    #[must_use]
    pub fn accepting_damage(self, accept_damage: bool) -> Self {
        Self { accept_damage, ..self }
    }

    /// Refuses objects that are not what was committed, unless somebody has said that they may be
    /// taken.
    fn refuse_damage(
        &self,
        changed: Vec<(&str, String)>,
        rows: u64,
        expected_rows: u64,
    ) -> Result<(), RegistryError> {
        let keys: Vec<String> = changed.iter().map(|(_, key)| key.clone()).collect();
        if keys.is_empty() {
            return Ok(());
        }
        if self.accept_damage {
            // Other bytes are taken, but none that nobody can read.
            for (bucket, key) in changed {
                let path = self.roots.get(bucket)?.folder.join(&key);
                footers::check_pages(&path)
                    .map_err(|source| RegistryError::Unreadable { key, source })?;
            }
            return Ok(());
        }
        let why = format!(
            "these objects are not what was committed, and no good copy was found: {}; put them back, ingest it anew, or say \
             `accept_damage` to publish what is there",
            keys.join(", ")
        );
        Err(RegistryError::Incomplete { name: self.name.clone(), why, keys, rows, expected_rows })
    }

    /// Says that runs are not of this catalog, which somebody else may delete.
    fn note_strangers<'a>(&self, runs: impl Iterator<Item = &'a String>, notes: &mut Vec<String>) {
        let strangers: Vec<&str> =
            runs.filter(|run| !self.own.contains(*run)).map(String::as_str).collect();
        if !strangers.is_empty() {
            notes.push(format!(
                "of these runs the lineage says nothing: {}; this catalog never deletes what they have written, another one that uses \
                 the same bucket may",
                strangers.join(", ")
            ));
        }
    }

    /// Reads the objects. `runs` are those that it is made of, where nothing recorded says so.
    ///
    /// # Errors
    /// If there are no objects, one is missing or is no Parquet file, or they do not make up what
    /// was recorded.
    pub fn read(&self, runs: Option<&[String]>) -> Result<Findings, RegistryError> {
        let mut notes = Vec::new();
        let what = match &self.entry {
            Some(entry) => self.drifted(&entry.dataset, &mut notes)?,
            None => self.lost(runs, &mut notes)?,
        };
        Ok(Findings { name: self.name.clone(), base: self.base.clone(), what, notes })
    }

    /// The manifest is whole: do the objects say the same?
    fn drifted(&self, old: &Dataset, notes: &mut Vec<String>) -> Result<Condition, RegistryError> {
        // All that are gone, by name, and not the first that cannot be read.
        let gone = gone(&old.objects, &self.roots);
        if !gone.is_empty() {
            return Err(missing(&self.name, &old.objects, &gone));
        }
        let places: Vec<Place> =
            old.objects.iter().map(|o| (o.bucket.clone(), o.key.clone())).collect();
        let (objects, columns) = self.objects(&places, &old.columns)?;
        for (was, is) in old
            .objects
            .iter()
            .zip(&objects)
            .filter(|(was, is)| was.sha256 != is.sha256 || was.rows != is.rows)
        {
            self.refuse_copy(is)?;
            notes.push(format!(
                "{}: had {} rows and {} bytes, has {} and {}",
                is.key, was.rows, was.bytes, is.rows, is.bytes
            ));
        }
        self.refuse_damage(
            changed(&old.objects, &objects),
            objects.iter().map(|o| o.rows).sum(),
            old.rows,
        )?;
        let same = |a: &Column, b: &Column| a.name == b.name && a.arrow_type == b.arrow_type;
        if old.columns.len() != columns.len()
            || !old.columns.iter().zip(&columns).all(|(a, b)| same(a, b))
        {
            notes.push("the columns are not those of the manifest".to_owned());
        }
        Ok(if notes.is_empty() { Condition::Known } else { Condition::Drifted(objects, columns) })
    }

    /// Of an object in S3 what lies here is a copy: it is not the copy that is right.
    fn refuse_copy(&self, object: &Object) -> Result<(), RegistryError> {
        if self.roots.get(&object.bucket)?.is_local() {
            return Ok(());
        }
        let path = self.roots.path(object)?;
        let why = format!(
            "the copy here, {}, is not what bucket `{}` holds: remove it, and it is fetched",
            path.display(),
            object.bucket
        );
        Err(RegistryError::BadObject { key: object.key.clone(), why })
    }

    /// There is no whole manifest: what was it made of?
    fn lost(
        &self,
        runs: Option<&[String]>,
        notes: &mut Vec<String>,
    ) -> Result<Condition, RegistryError> {
        // What is left of one that was deleted stays deleted, unless its runs are named.
        if runs.is_none() && !self.base.damaged && self.base.dropped {
            return Err(RegistryError::NoSuchDataset(self.name.clone()));
        }
        // What can still be read of it is worth having: which indexes it feeds, and which
        // generations it had.
        let salvaged = salvage(&self.folder.join(format!("{}.json", self.name)));
        let FoundObjects { objects, columns, recorded, same } = match (runs, &self.committed) {
            (Some(runs), _) => self.of_runs(runs, notes)?,
            (None, Some(committed)) => {
                self.of_committed(committed.clone(), salvaged.as_ref(), notes)?
            }
            (None, None) => self.of_nothing_recorded(salvaged.as_ref(), notes)?,
        };
        let mut lineage = recorded.lineage.clone();
        if lineage.producer.is_empty() {
            "resync".clone_into(&mut lineage.producer);
        }
        let before = recorded.generation.max(salvaged.as_ref().map_or(0, |e| e.dataset.generation));
        if recorded.objects.is_empty() && recorded.watermark.is_none() {
            notes.push(
                "where an incremental read stood is not known: the next one reads the table whole"
                    .to_owned(),
            );
        }
        // What was said of personal data goes with the very same values only.
        let pii = salvaged
            .as_ref()
            .filter(|e| same && e.run_id() == Some(lineage.run_id.as_str()))
            .and_then(|e| e.dataset.pii.clone());
        let mut dataset = Dataset {
            name: self.name.clone(),
            generation: before,
            objects,
            columns,
            pii,
            lineage,
            ..recorded
        };
        dataset.rows = dataset.objects.iter().map(|o| o.rows).sum();
        dataset.bytes = dataset.objects.iter().map(|o| o.bytes).sum();
        if self.of_mocks {
            dataset.mock = Some(true);
            dataset.maker.get_or_insert_with(|| "a mock".to_owned());
        }
        let (feeds, feed_runs, history, pins) =
            salvaged.map(|e| (e.feeds, e.feed_runs, e.history, e.pins)).unwrap_or_default();
        let entry = Entry {
            dataset,
            before: Vec::new(),
            previous: Vec::new(),
            feeds,
            feed_runs,
            pins,
            history,
        };
        Ok(Condition::Lost(Box::new(entry), same))
    }

    /// The objects of the last commit, if the lineage or what is left of the manifest names them,
    /// else those that make up its rows.
    fn of_committed(
        &self,
        committed: LastCommit,
        salvaged: Option<&Entry>,
        notes: &mut Vec<String>,
    ) -> Result<FoundObjects, RegistryError> {
        let LastCommit { run_id, generation, rows, files, made } = committed;
        // Of the same run, what is left of the manifest names the same objects.
        let left =
            || salvaged.filter(|e| e.run_id() == Some(run_id.as_str())).map(|e| e.dataset.clone());
        if let Some(recorded) =
            made.or_else(left).filter(|recorded| !recorded.objects.is_empty() || rows == Some(0))
        {
            return self.of_recorded(recorded, rows, notes);
        }
        // Journals of earlier versions tell rows and objects: those of the last run, or of all runs
        // together.
        let mut seen: Option<(Vec<Object>, Vec<Column>)> = None;
        for runs in [std::slice::from_ref(&run_id), &self.runs[..]] {
            let mut places = Vec::new();
            for run in runs {
                places.extend(self.keys(run)?);
            }
            if places.is_empty() {
                continue;
            }
            let (objects, columns) = self.objects(
                &places,
                &salvaged.map(|e| e.dataset.columns.clone()).unwrap_or_default(),
            )?;
            let sum: u64 = objects.iter().map(|o| o.rows).sum();
            if rows.is_none_or(|rows| rows == sum)
                && files.is_none_or(|files| files == objects.len() as u64)
            {
                notes.push(format!("the lineage names no objects; {} with {sum} rows in all make up its last commit", objects.len()));
                let lineage = Origin { run_id: run_id.clone(), ..Origin::default() };
                let watermark = salvaged.and_then(|e| e.dataset.watermark.clone());
                return Ok(FoundObjects {
                    objects,
                    columns,
                    recorded: Dataset { generation, lineage, watermark, ..Dataset::default() },
                    same: true,
                });
            }
            seen = Some((objects, columns));
        }
        let found = seen.map(|(objects, _)| objects).unwrap_or_default();
        let (sum, keys): (u64, Vec<String>) =
            (found.iter().map(|o| o.rows).sum(), found.iter().map(|o| o.key.clone()).collect());
        let expected_rows = rows.unwrap_or(0);
        let why = format!(
            "its last commit had {expected_rows} rows in {} objects, all that is found is {sum} rows in {}: put the missing objects back, \
             name its runs (`runs`), or delete it and ingest it anew",
            files.unwrap_or(0),
            found.len()
        );
        Err(RegistryError::Incomplete {
            name: self.name.clone(),
            why,
            keys,
            rows: sum,
            expected_rows,
        })
    }

    /// Exactly the objects that were recorded.
    fn of_recorded(
        &self,
        recorded: Dataset,
        rows: Option<u64>,
        notes: &mut Vec<String>,
    ) -> Result<FoundObjects, RegistryError> {
        let expected_rows = rows.unwrap_or(recorded.rows);
        let (mut places, mut gone, mut there) = (Vec::new(), Vec::new(), 0);
        for object in &recorded.objects {
            let exists = self.roots.path(object).is_ok_and(|path| path.is_file());
            match exists {
                true => {
                    there += object.rows;
                    places.push((object.bucket.clone(), object.key.clone()));
                }
                false => gone.push(object.key.clone()),
            }
        }
        let incomplete = |why: String, keys: Vec<String>, rows: u64| {
            let why = format!("{why}: put them back, or delete it and ingest it anew");
            Err(RegistryError::Incomplete {
                name: self.name.clone(),
                why,
                keys,
                rows,
                expected_rows,
            })
        };
        if !gone.is_empty() {
            let why = format!(
                "of its {expected_rows} rows {there} are there; gone are {}",
                gone.join(", ")
            );
            return incomplete(why, gone, there);
        }
        let (objects, columns) = self.objects(&places, &recorded.columns)?;
        let other = |(was, is): &(&Object, &Object)| was.rows != is.rows;
        let others: Vec<String> = recorded
            .objects
            .iter()
            .zip(&objects)
            .filter(other)
            .map(|(_, is)| is.key.clone())
            .collect();
        let sum: u64 = objects.iter().map(|o| o.rows).sum();
        if !others.is_empty() || sum != expected_rows {
            let why = format!(
                "it had {expected_rows} rows, its objects have {sum}; with another number than recorded: {}",
                others.join(", ")
            );
            return incomplete(why, others, sum);
        }
        self.refuse_damage(changed(&recorded.objects, &objects), sum, expected_rows)?;
        let mut same = true;
        for (_, is) in
            recorded.objects.iter().zip(&objects).filter(|(was, is)| was.sha256 != is.sha256)
        {
            self.refuse_copy(is)?;
            notes.push(format!(
                "{}: its bytes are not those that were recorded; it is a new generation",
                is.key
            ));
            same = false;
        }
        Ok(FoundObjects {
            objects,
            columns,
            recorded: Dataset { pii: None, stale: Vec::new(), ..recorded },
            same,
        })
    }

    /// The objects of the runs that somebody has named.
    fn of_runs(
        &self,
        runs: &[String],
        notes: &mut Vec<String>,
    ) -> Result<FoundObjects, RegistryError> {
        let mut places = Vec::new();
        for run in runs {
            names::check(run)?;
            let keys = self.keys(run)?;
            if keys.is_empty() {
                let why = format!("run {run} has left no objects");
                return Err(RegistryError::Incomplete {
                    name: self.name.clone(),
                    why,
                    keys: vec![run.clone()],
                    rows: 0,
                    expected_rows: 0,
                });
            }
            places.extend(keys);
        }
        let (objects, columns) = self.objects(&places, &[])?;
        notes.push(format!(
            "made of the runs that were named, {}; that they are all is not checked",
            runs.join(", ")
        ));
        self.note_strangers(runs.iter(), notes);
        Ok(FoundObjects { objects, columns, recorded: Dataset::default(), same: false })
    }

    /// Nothing says what was committed: what is left of the manifest, or the only whole run that
    /// did not fail.
    fn of_nothing_recorded(
        &self,
        salvaged: Option<&Entry>,
        notes: &mut Vec<String>,
    ) -> Result<FoundObjects, RegistryError> {
        if let Some(left) =
            salvaged.map(|e| e.dataset.clone()).filter(|left| !left.objects.is_empty())
        {
            notes.push("the lineage names no committed run: what is left of the manifest was taken, and its rows agree".to_owned());
            return self.of_recorded(left, None, notes);
        }
        let whole = self.whole_runs()?;
        let [(run_id, objects, columns)] =
            <[WholeRun; 1]>::try_from(whole).map_err(|several| self.not_one(&several))?;
        notes.push(format!("the lineage names no committed run: {run_id}, the only one whose objects are whole, was taken"));
        self.note_strangers(std::iter::once(&run_id), notes);
        let lineage = Origin { run_id, ..Origin::default() };
        Ok(FoundObjects {
            objects,
            columns,
            recorded: Dataset { lineage, ..Dataset::default() },
            same: true,
        })
    }

    fn not_one(&self, runs: &[WholeRun]) -> RegistryError {
        if runs.is_empty() {
            return RegistryError::NoSuchDataset(self.name.clone());
        }
        let rows = |objects: &[Object]| objects.iter().map(|o| o.rows).sum::<u64>();
        let named: Vec<String> = runs
            .iter()
            .map(|(run, objects, _)| format!("{run} ({} rows)", rows(objects)))
            .collect();
        let why = format!(
            "nothing recorded says which of these runs it was made of: {}; name them (`runs`)",
            named.join(", ")
        );
        let keys = runs.iter().flat_map(|(_, objects, _)| objects).map(|o| o.key.clone()).collect();
        let rows = runs.iter().map(|(_, objects, _)| rows(objects)).sum();
        RegistryError::Incomplete { name: self.name.clone(), why, keys, rows, expected_rows: 0 }
    }

    /// Objects as they are; all must have the first one's columns.
    fn objects(
        &self,
        places: &[Place],
        before: &[Column],
    ) -> Result<(Vec<Object>, Vec<Column>), RegistryError> {
        let mut schema: Option<arrow_schema::Schema> = None;
        let mut objects = Vec::new();
        for (bucket, key) in places {
            let bad = |why: String| RegistryError::BadObject { key: key.clone(), why };
            let unreadable = |source| RegistryError::Unreadable { key: key.clone(), source };
            let (object, its) =
                footers::object(bucket, self.roots.get(bucket)?, key).map_err(unreadable)?;
            if schema.as_ref().is_some_and(|first| first.fields() != its.fields()) {
                return Err(bad("its columns are not those of the first object".to_owned()));
            }
            schema.get_or_insert(its);
            objects.push(object);
        }
        Ok((objects, schema.map(|s| footers::columns(&s, before)).unwrap_or_default()))
    }

    /// Buckets and keys of a run's objects, in their order; none if it has left none.
    fn keys(&self, run_id: &str) -> Result<Vec<Place>, RegistryError> {
        let prefix = format!("datasets/{}/{run_id}", self.name);
        let part =
            |file: &str| file.strip_prefix("part-")?.strip_suffix(".parquet")?.parse::<u64>().ok();
        let mut parts: Vec<(u64, Place)> = Vec::new();
        for (bucket, root) in self.roots.all() {
            for file in listed(&root.folder.join(&prefix))? {
                if let Some(number) = part(&file) {
                    parts.push((number, (bucket.to_owned(), format!("{prefix}/{file}"))));
                }
            }
        }
        parts.sort();
        Ok(parts.into_iter().map(|(_, place)| place).collect())
    }

    /// Runs whose objects can all be read, and that are not known to go on or to have failed.
    fn whole_runs(&self) -> Result<Vec<WholeRun>, RegistryError> {
        let mut runs: BTreeSet<String> = BTreeSet::new();
        for folder in self.roots.folders() {
            runs.extend(listed(&folder.join("datasets").join(&self.name))?);
        }
        runs.retain(|run| !self.unfit.contains(run));
        let mut whole = Vec::new();
        for run in runs {
            let keys = self.keys(&run)?;
            if !keys.is_empty()
                && let Ok((objects, columns)) = self.objects(&keys, &[])
            {
                whole.push((run, objects, columns));
            }
        }
        Ok(whole)
    }
}

/// Which of some objects are not on this machine; of one in S3 what lies here is a copy.
fn gone<'a>(objects: &'a [Object], roots: &Roots) -> Vec<&'a Object> {
    objects.iter().filter(|object| !roots.path(object).is_ok_and(|path| path.exists())).collect()
}

/// Keys of objects whose bytes are not those that were recorded.
fn changed<'a>(recorded: &[Object], found: &'a [Object]) -> Vec<(&'a str, String)> {
    let other = |(was, is): &(&Object, &Object)| was.sha256 != is.sha256;
    recorded
        .iter()
        .zip(found)
        .filter(other)
        .map(|(_, is)| (is.bucket.as_str(), is.key.clone()))
        .collect()
}

/// Names in a folder; none if it is not there.
fn listed(path: &Path) -> Result<Vec<String>, RegistryError> {
    let failed = |source| RegistryError::Io { path: path.to_owned(), source };
    match fs::read_dir(path) {
        Ok(found) => {
            let names: io::Result<Vec<_>> = found
                .map(|entry| entry.map(|entry| entry.file_name().into_string().ok()))
                .collect();
            Ok(names.map_err(failed)?.into_iter().flatten().collect())
        }
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(failed(error)),
    }
}
