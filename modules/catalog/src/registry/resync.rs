//! Manifests from objects: when a manifest says something else than the objects, is damaged, or is gone.
//!
//! What the last generation was made of, of all its runs, is in the lineage's journal; of earlier versions' journals the number of rows
//! and of objects is. Objects that do not make that up are refused and named. Where nothing is recorded, and there is one run only
//! whose objects are whole and that did not fail, that one is taken, and the reply says so.
//!
//! Invariant: bytes that are not those that were committed become a generation only where somebody has said that they may.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use brahman_card::interface::catalog::{Column, Dataset, Object, Origin, Version};
use brahman_sidecar::chain;

use super::entry::{Entry, salvage};
use super::{DatasetRegistry, Head, RegistryError, Roots, names, now_ms};
use crate::footers;
use crate::lineage::LastCommit;

/// Objects that are named in an error's text; its parameters have all of them.
const NAMED_MAX: usize = 20;

/// What was done, and what was found.
#[derive(Debug)]
pub struct Resync {
    /// As it is now.
    pub dataset: Dataset,
    /// Whether the manifest said otherwise.
    pub changed: bool,
    /// What was found on the way, in words.
    pub notes: Vec<String>,
}

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

/// What there was of a dataset when somebody began to read it.
#[derive(Clone, Debug, PartialEq)]
struct Base {
    /// Its generation, and what that is made of, if its file is whole.
    head: Option<(Head, Vec<Object>)>,
    /// Else whether its file is damaged, which run was committed last, and whether it was deleted since.
    damaged: bool,
    committed: Option<String>,
    dropped: bool,
}

impl Base {
    fn word(&self) -> String {
        match &self.head {
            Some(((generation, Some(run)), _)) => format!("{generation} (run {run})"),
            Some(((generation, None), _)) => generation.to_string(),
            None => "none that can be read".to_owned(),
        }
    }
}

/// What the registry knows of a dataset whose objects are to be read. They are read without holding it: that may be hours of work.
#[derive(Debug)]
pub struct ResyncReading {
    name: String,
    base: Base,
    /// Where datasets' files lie.
    folder: PathBuf,
    roots: Roots,
    of_mocks: bool,
    /// What its file says, if it is whole.
    entry: Option<Entry>,
    /// What was committed last.
    committed: Option<LastCommit>,
    /// Runs that were committed, oldest first.
    runs: Vec<String>,
    /// Runs that go on, or have failed.
    unfit: BTreeSet<String>,
    /// Runs that this catalog began; what others have written it never deletes, but they may.
    own: BTreeSet<String>,
    /// Whether bytes may be taken that are not what was committed.
    accept_damage: bool,
}

/// What was found, and is to be published if there is still what it was found of.
#[derive(Debug)]
pub struct Findings {
    name: String,
    base: Base,
    what: Condition,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Condition {
    /// Its file says so already.
    Known,
    /// Other objects or columns than its file says.
    Drifted(Vec<Object>, Vec<Column>),
    /// What takes the place of a file that is damaged or gone, and whether it is what was recorded, byte for byte.
    Lost(Box<Entry>, bool),
}

impl DatasetRegistry {
    /// Reads a dataset's objects anew and publishes what is there, if the manifest does not say so. `runs` are those that it is made
    /// of, where nothing recorded says so. Where others wait for the registry: [`Self::look`], [`ResyncReading::read`], [`Self::settle`].
    ///
    /// # Errors
    /// If there are no objects, one is missing or is no Parquet file, or they do not make up what was recorded.
    pub fn resync(&mut self, name: &str, runs: Option<&[String]>) -> Result<Resync, RegistryError> {
        let findings = self.look(name)?.read(runs)?;
        self.settle(findings)
    }

    /// What is known of a dataset before its objects are read.
    ///
    /// # Errors
    /// If the name will not do, or a mock made it and this is not the mocks' registry.
    pub fn look(&self, name: &str) -> Result<ResyncReading, RegistryError> {
        names::check(name)?;
        let entry = match self.entry(name) {
            Ok(entry) => Some(entry.clone()),
            Err(RegistryError::Damaged { .. } | RegistryError::NoSuchDataset(_)) => None,
            Err(error) => return Err(error),
        };
        if let Some(entry) = &entry {
            self.refuse_mock(name, entry)?;
        }
        Ok(ResyncReading {
            name: name.to_owned(),
            base: self.base(name),
            folder: self.folder.clone(),
            roots: self.roots.clone(),
            of_mocks: self.of_mocks,
            entry,
            committed: self.journal.last_committed(name),
            runs: self.journal.committed_runs(name),
            unfit: self.journal.unfit_runs(name),
            own: self.journal.runs(Some(name), 0).into_keys().collect(),
            accept_damage: false,
        })
    }

    fn base(&self, name: &str) -> Base {
        let head = |entry: &Entry| ((entry.dataset.generation, entry.run_id().map(str::to_owned)), entry.dataset.objects.clone());
        match self.entries.get(name).map(head) {
            // A run that finds nothing new is committed, and changes nothing of this.
            Some(head) => Base { head: Some(head), damaged: false, committed: None, dropped: false },
            None => Base {
                head: None,
                damaged: self.damaged.contains_key(name),
                committed: self.journal.last_committed(name).map(|committed| committed.run_id),
                dropped: self.journal.was_dropped(name),
            },
        }
    }

    /// Publishes what was found.
    ///
    /// # Errors
    /// [`RegistryError::Moved`] if something else is there by now than was read; if the disk refuses.
    pub fn settle(&mut self, findings: Findings) -> Result<Resync, RegistryError> {
        let Findings { name, base, what, mut notes } = findings;
        let is = self.base(&name);
        if is != base {
            return Err(RegistryError::Moved { name, is: is.word(), expected: base.word() });
        }
        match what {
            Condition::Known => {
                let dataset = self.roots.told(self.entry(&name)?.view());
                Ok(Resync { dataset, changed: false, notes })
            }
            Condition::Drifted(objects, columns) => {
                let mut entry = self.entry(&name)?.clone();
                entry.dataset.objects = objects;
                entry.dataset.columns = columns;
                // What was said of personal data was said of other values.
                entry.dataset.pii = None;
                let dataset = self.publish_anew(&name, entry)?;
                Ok(Resync { dataset, changed: true, notes })
            }
            Condition::Lost(entry, same) => {
                for object in &entry.dataset.objects {
                    if !self.roots.path(object)?.is_file() {
                        let why = "it has gone since it was read; nothing was published".to_owned();
                        return Err(RegistryError::BadObject { key: object.key.clone(), why });
                    }
                }
                let damaged = self.folder.join(format!("{name}.json"));
                if damaged.exists() {
                    let aside = self.folder.join(format!("{name}.json.damaged-{}", now_ms()));
                    fs::rename(&damaged, &aside).map_err(|source| RegistryError::Io { path: damaged.clone(), source })?;
                    notes.push(format!("the damaged manifest was put aside as {}", aside.display()));
                }
                let dataset = if same { self.publish_again(&name, *entry)? } else { self.publish_anew(&name, *entry)? };
                self.damaged.remove(&name);
                Ok(Resync { dataset, changed: true, notes })
            }
        }
    }

    /// Publishes an entry whose content is another, as its dataset's next generation, of a run of its own.
    fn publish_anew(&mut self, name: &str, mut entry: Entry) -> Result<Dataset, RegistryError> {
        let dataset = &mut entry.dataset;
        dataset.generation += 1;
        dataset.rows = dataset.objects.iter().map(|o| o.rows).sum();
        dataset.bytes = dataset.objects.iter().map(|o| o.bytes).sum();
        dataset.lineage.run_id = ulid::Ulid::generate().to_string();
        dataset.committed_ms = now_ms();
        let run_id = dataset.lineage.run_id.clone();
        let view = self.publish(name, entry)?;
        let noted = self.journal.start(name, &run_id, "resync").and_then(|()| self.journal.complete(&view));
        if let Err(error) = noted {
            tracing::error!(dataset = name, "the lineage's journal refuses: {}", chain(&error));
        }
        Ok(view)
    }

    /// Publishes what was there before, as the generation that it was.
    fn publish_again(&mut self, name: &str, mut entry: Entry) -> Result<Dataset, RegistryError> {
        let dataset = &mut entry.dataset;
        dataset.generation = dataset.generation.max(1);
        if dataset.committed_ms == 0 {
            dataset.committed_ms = now_ms();
        }
        let view = self.publish(name, entry)?;
        // A run of nobody's that is known: that nothing is recorded of it is no loss.
        if let Err(error) = self.journal.take_up(&view) {
            tracing::error!(dataset = name, "the lineage's journal refuses: {}", chain(&error));
        }
        Ok(view)
    }

    fn publish(&mut self, name: &str, mut entry: Entry) -> Result<Dataset, RegistryError> {
        let dataset = &entry.dataset;
        let version = Version {
            generation: dataset.generation,
            run_id: dataset.lineage.run_id.clone(),
            rows: dataset.rows,
            bytes: dataset.bytes,
            committed_ms: dataset.committed_ms,
        };
        match entry.history.last_mut() {
            Some(last) if last.run_id == version.run_id => *last = version,
            _ => entry.history.push(version),
        }
        entry.dataset.objects.iter_mut().for_each(|object| object.path = None);
        entry.settle_urls(&self.roots);
        self.save(name, &entry)?;
        let view = entry.view();
        self.entries.insert(name.to_owned(), entry);
        Ok(view)
    }

    /// Whether nothing was ever committed here, as after a loss of the whole state.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.entries.is_empty() && self.damaged.is_empty() && self.journal.runs(None, 0).is_empty()
    }

    /// Datasets whose files are whole, with the paths of their objects.
    #[must_use]
    pub fn whole(&self) -> Vec<Dataset> {
        let whole = self.entries.iter().filter(|(name, entry)| self.refuse_mock(name, entry).is_ok());
        whole.map(|(_, entry)| self.roots.told(entry.view())).collect()
    }

    /// Datasets that have objects and no whole manifest; `folders` are the names in the buckets' folders.
    #[must_use]
    pub fn lost(&self, folders: impl Iterator<Item = String>) -> Vec<String> {
        // What lies in S3 or has copies alone has no folder here.
        let names = folders.chain(self.damaged.keys().cloned()).chain(self.journal.committed().keys().cloned());
        let lost = |name: &String| names::check(name).is_ok() && !self.entries.contains_key(name);
        let dropped = |name: &String| !self.damaged.contains_key(name) && self.journal.was_dropped(name);
        let lost: BTreeSet<String> = names.filter(|name| lost(name) && !dropped(name)).collect();
        lost.into_iter().collect()
    }
}

impl ResyncReading {
    /// The same, where bytes may be taken that are not what was committed.
    #[must_use]
    pub fn accepting_damage(self, accept_damage: bool) -> Self {
        Self { accept_damage, ..self }
    }

    /// Refuses objects that are not what was committed, unless somebody has said that they may be taken.
    fn refuse_damage(&self, changed: Vec<(&str, String)>, rows: u64, expected_rows: u64) -> Result<(), RegistryError> {
        let keys: Vec<String> = changed.iter().map(|(_, key)| key.clone()).collect();
        if keys.is_empty() {
            return Ok(());
        }
        if self.accept_damage {
            // Other bytes are taken, but none that nobody can read.
            for (bucket, key) in changed {
                let path = self.roots.get(bucket)?.folder.join(&key);
                footers::check_pages(&path).map_err(|source| RegistryError::Unreadable { key, source })?;
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
        let strangers: Vec<&str> = runs.filter(|run| !self.own.contains(*run)).map(String::as_str).collect();
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
    /// If there are no objects, one is missing or is no Parquet file, or they do not make up what was recorded.
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
        let places: Vec<Place> = old.objects.iter().map(|o| (o.bucket.clone(), o.key.clone())).collect();
        let (objects, columns) = self.objects(&places, &old.columns)?;
        for (was, is) in old.objects.iter().zip(&objects).filter(|(was, is)| was.sha256 != is.sha256 || was.rows != is.rows) {
            self.refuse_copy(is)?;
            notes.push(format!("{}: had {} rows and {} bytes, has {} and {}", is.key, was.rows, was.bytes, is.rows, is.bytes));
        }
        self.refuse_damage(changed(&old.objects, &objects), objects.iter().map(|o| o.rows).sum(), old.rows)?;
        let same = |a: &Column, b: &Column| a.name == b.name && a.arrow_type == b.arrow_type;
        if old.columns.len() != columns.len() || !old.columns.iter().zip(&columns).all(|(a, b)| same(a, b)) {
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
        let why = format!("the copy here, {}, is not what bucket `{}` holds: remove it, and it is fetched", path.display(), object.bucket);
        Err(RegistryError::BadObject { key: object.key.clone(), why })
    }

    /// There is no whole manifest: what was it made of?
    fn lost(&self, runs: Option<&[String]>, notes: &mut Vec<String>) -> Result<Condition, RegistryError> {
        // What is left of one that was deleted stays deleted, unless its runs are named.
        if runs.is_none() && !self.base.damaged && self.base.dropped {
            return Err(RegistryError::NoSuchDataset(self.name.clone()));
        }
        // What can still be read of it is worth having: which indexes it feeds, and which generations it had.
        let salvaged = salvage(&self.folder.join(format!("{}.json", self.name)));
        let FoundObjects { objects, columns, recorded, same } = match (runs, &self.committed) {
            (Some(runs), _) => self.of_runs(runs, notes)?,
            (None, Some(committed)) => self.of_committed(committed.clone(), salvaged.as_ref(), notes)?,
            (None, None) => self.of_nothing_recorded(salvaged.as_ref(), notes)?,
        };
        let mut lineage = recorded.lineage.clone();
        if lineage.producer.is_empty() {
            "resync".clone_into(&mut lineage.producer);
        }
        let before = recorded.generation.max(salvaged.as_ref().map_or(0, |e| e.dataset.generation));
        if recorded.objects.is_empty() && recorded.watermark.is_none() {
            notes.push("where an incremental read stood is not known: the next one reads the table whole".to_owned());
        }
        // What was said of personal data goes with the very same values only.
        let pii = salvaged.as_ref().filter(|e| same && e.run_id() == Some(lineage.run_id.as_str())).and_then(|e| e.dataset.pii.clone());
        let mut dataset = Dataset { name: self.name.clone(), generation: before, objects, columns, pii, lineage, ..recorded };
        dataset.rows = dataset.objects.iter().map(|o| o.rows).sum();
        dataset.bytes = dataset.objects.iter().map(|o| o.bytes).sum();
        if self.of_mocks {
            dataset.mock = Some(true);
            dataset.maker.get_or_insert_with(|| "a mock".to_owned());
        }
        let (feeds, feed_runs, history, pins) = salvaged.map(|e| (e.feeds, e.feed_runs, e.history, e.pins)).unwrap_or_default();
        let entry = Entry { dataset, before: Vec::new(), previous: Vec::new(), feeds, feed_runs, pins, history };
        Ok(Condition::Lost(Box::new(entry), same))
    }

    /// The objects of the last commit, if the lineage or what is left of the manifest names them, else those that make up its rows.
    fn of_committed(
        &self,
        committed: LastCommit,
        salvaged: Option<&Entry>,
        notes: &mut Vec<String>,
    ) -> Result<FoundObjects, RegistryError> {
        let LastCommit { run_id, generation, rows, files, made } = committed;
        // Of the same run, what is left of the manifest names the same objects.
        let left = || salvaged.filter(|e| e.run_id() == Some(run_id.as_str())).map(|e| e.dataset.clone());
        if let Some(recorded) = made.or_else(left).filter(|recorded| !recorded.objects.is_empty() || rows == Some(0)) {
            return self.of_recorded(recorded, rows, notes);
        }
        // Journals of earlier versions tell rows and objects: those of the last run, or of all runs together.
        let mut seen: Option<(Vec<Object>, Vec<Column>)> = None;
        for runs in [std::slice::from_ref(&run_id), &self.runs[..]] {
            let mut places = Vec::new();
            for run in runs {
                places.extend(self.keys(run)?);
            }
            if places.is_empty() {
                continue;
            }
            let (objects, columns) = self.objects(&places, &salvaged.map(|e| e.dataset.columns.clone()).unwrap_or_default())?;
            let sum: u64 = objects.iter().map(|o| o.rows).sum();
            if rows.is_none_or(|rows| rows == sum) && files.is_none_or(|files| files == objects.len() as u64) {
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
        let (sum, keys): (u64, Vec<String>) = (found.iter().map(|o| o.rows).sum(), found.iter().map(|o| o.key.clone()).collect());
        let expected_rows = rows.unwrap_or(0);
        let why = format!(
            "its last commit had {expected_rows} rows in {} objects, all that is found is {sum} rows in {}: put the missing objects back, \
             name its runs (`runs`), or delete it and ingest it anew",
            files.unwrap_or(0),
            found.len()
        );
        Err(RegistryError::Incomplete { name: self.name.clone(), why, keys, rows: sum, expected_rows })
    }

    /// Exactly the objects that were recorded.
    fn of_recorded(&self, recorded: Dataset, rows: Option<u64>, notes: &mut Vec<String>) -> Result<FoundObjects, RegistryError> {
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
            Err(RegistryError::Incomplete { name: self.name.clone(), why, keys, rows, expected_rows })
        };
        if !gone.is_empty() {
            let why = format!("of its {expected_rows} rows {there} are there; gone are {}", gone.join(", "));
            return incomplete(why, gone, there);
        }
        let (objects, columns) = self.objects(&places, &recorded.columns)?;
        let other = |(was, is): &(&Object, &Object)| was.rows != is.rows;
        let others: Vec<String> = recorded.objects.iter().zip(&objects).filter(other).map(|(_, is)| is.key.clone()).collect();
        let sum: u64 = objects.iter().map(|o| o.rows).sum();
        if !others.is_empty() || sum != expected_rows {
            let why =
                format!("it had {expected_rows} rows, its objects have {sum}; with another number than recorded: {}", others.join(", "));
            return incomplete(why, others, sum);
        }
        self.refuse_damage(changed(&recorded.objects, &objects), sum, expected_rows)?;
        let mut same = true;
        for (_, is) in recorded.objects.iter().zip(&objects).filter(|(was, is)| was.sha256 != is.sha256) {
            self.refuse_copy(is)?;
            notes.push(format!("{}: its bytes are not those that were recorded; it is a new generation", is.key));
            same = false;
        }
        Ok(FoundObjects { objects, columns, recorded: Dataset { pii: None, stale: Vec::new(), ..recorded }, same })
    }

    /// The objects of the runs that somebody has named.
    fn of_runs(&self, runs: &[String], notes: &mut Vec<String>) -> Result<FoundObjects, RegistryError> {
        let mut places = Vec::new();
        for run in runs {
            names::check(run)?;
            let keys = self.keys(run)?;
            if keys.is_empty() {
                let why = format!("run {run} has left no objects");
                return Err(RegistryError::Incomplete { name: self.name.clone(), why, keys: vec![run.clone()], rows: 0, expected_rows: 0 });
            }
            places.extend(keys);
        }
        let (objects, columns) = self.objects(&places, &[])?;
        notes.push(format!("made of the runs that were named, {}; that they are all is not checked", runs.join(", ")));
        self.note_strangers(runs.iter(), notes);
        Ok(FoundObjects { objects, columns, recorded: Dataset::default(), same: false })
    }

    /// Nothing says what was committed: what is left of the manifest, or the only whole run that did not fail.
    fn of_nothing_recorded(&self, salvaged: Option<&Entry>, notes: &mut Vec<String>) -> Result<FoundObjects, RegistryError> {
        if let Some(left) = salvaged.map(|e| e.dataset.clone()).filter(|left| !left.objects.is_empty()) {
            notes.push("the lineage names no committed run: what is left of the manifest was taken, and its rows agree".to_owned());
            return self.of_recorded(left, None, notes);
        }
        let whole = self.whole_runs()?;
        let [(run_id, objects, columns)] = <[WholeRun; 1]>::try_from(whole).map_err(|several| self.not_one(&several))?;
        notes.push(format!("the lineage names no committed run: {run_id}, the only one whose objects are whole, was taken"));
        self.note_strangers(std::iter::once(&run_id), notes);
        let lineage = Origin { run_id, ..Origin::default() };
        Ok(FoundObjects { objects, columns, recorded: Dataset { lineage, ..Dataset::default() }, same: true })
    }

    fn not_one(&self, runs: &[WholeRun]) -> RegistryError {
        if runs.is_empty() {
            return RegistryError::NoSuchDataset(self.name.clone());
        }
        let rows = |objects: &[Object]| objects.iter().map(|o| o.rows).sum::<u64>();
        let named: Vec<String> = runs.iter().map(|(run, objects, _)| format!("{run} ({} rows)", rows(objects))).collect();
        let why = format!("nothing recorded says which of these runs it was made of: {}; name them (`runs`)", named.join(", "));
        let keys = runs.iter().flat_map(|(_, objects, _)| objects).map(|o| o.key.clone()).collect();
        let rows = runs.iter().map(|(_, objects, _)| rows(objects)).sum();
        RegistryError::Incomplete { name: self.name.clone(), why, keys, rows, expected_rows: 0 }
    }

    /// Objects as they are; all must have the first one's columns.
    fn objects(&self, places: &[Place], before: &[Column]) -> Result<(Vec<Object>, Vec<Column>), RegistryError> {
        let mut schema: Option<arrow_schema::Schema> = None;
        let mut objects = Vec::new();
        for (bucket, key) in places {
            let bad = |why: String| RegistryError::BadObject { key: key.clone(), why };
            let unreadable = |source| RegistryError::Unreadable { key: key.clone(), source };
            let (object, its) = footers::object(bucket, self.roots.get(bucket)?, key).map_err(unreadable)?;
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
        let part = |file: &str| file.strip_prefix("part-")?.strip_suffix(".parquet")?.parse::<u64>().ok();
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

/// That objects of a dataset are gone whose file is whole.
pub(crate) fn missing(name: &str, all: &[Object], gone: &[&Object]) -> RegistryError {
    let (expected_rows, lost): (u64, u64) = (all.iter().map(|o| o.rows).sum(), gone.iter().map(|o| o.rows).sum());
    let keys: Vec<String> = gone.iter().map(|object| object.key.clone()).collect();
    let named = keys.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    let more = match keys.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let why = format!(
        "{} of its {} objects are gone, with {lost} of its {expected_rows} rows, and no good copy was found: {named}{more}; put them back, or \
         ingest it anew",
        gone.len(),
        all.len()
    );
    RegistryError::Incomplete { name: name.to_owned(), why, keys, rows: expected_rows.saturating_sub(lost), expected_rows }
}

/// Keys of objects whose bytes are not those that were recorded.
fn changed<'a>(recorded: &[Object], found: &'a [Object]) -> Vec<(&'a str, String)> {
    let other = |(was, is): &(&Object, &Object)| was.sha256 != is.sha256;
    recorded.iter().zip(found).filter(other).map(|(_, is)| (is.bucket.as_str(), is.key.clone())).collect()
}

/// Names in a folder; none if it is not there.
fn listed(path: &Path) -> Result<Vec<String>, RegistryError> {
    let failed = |source| RegistryError::Io { path: path.to_owned(), source };
    match fs::read_dir(path) {
        Ok(found) => {
            let names: io::Result<Vec<_>> = found.map(|entry| entry.map(|entry| entry.file_name().into_string().ok())).collect();
            Ok(names.map_err(failed)?.into_iter().flatten().collect())
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests;
