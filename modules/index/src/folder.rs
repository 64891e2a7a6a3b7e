//! The folder of one index: how a generation gets into it, which one counts, and what may be
//! removed.
//!
//! ```text
//! index.json  CURRENT  pending.log  trials/  evals/
//! segments/<ulid>.parquet                      rows and vectors, what everything else is made from
//! gen-<ulid>/manifest.json                     what the generation is; names all its files with checksums
//! gen-<ulid>/{graph.flat, rows.bin, lexical/}  of a generation with a base of its own
//! gen-<ulid>/dead.u32                          rows that are gone
//! gen-<ulid>/UNFINISHED                        it has not counted yet
//! ```
//!
//! Invariants: files are written once, fsynced, then read back and checked, and only then does
//! `CURRENT` name the generation; a crash at any step leaves the old one, and an error removes what
//! was written. `CURRENT` never names a generation of which a file is missing or damaged. Every
//! step has a name, so that tests can stop at each.

mod clean;
mod snapshot;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use brahman_card::clock::now_ms;
use brahman_card::interface::index::Measurement;
use brahman_sidecar::chain;
use brahman_storage::{Steps, atomic};
use serde::{Deserialize, Serialize};

use crate::engine::{self, Work};
use crate::files::{Damage, FileRef, Files, bad, named};
use crate::generation::{Base, BaseRef, Delta, EF_DEFAULT, Generation, Manifest, SegmentRef};
use crate::lexical::{Lexical, analyser_for};
use crate::row_sum::RowSum;
use crate::rows::{Row, RowStore};
use crate::sweep::Obstacles;
use crate::{calibrate, sealed, segment};

pub use clean::Sweep;

/// Rows of a new base that are asked to find themselves before it counts.
const PROBE_ROWS: usize = 1000;
/// Candidates of such a search.
const PROBE_EF: usize = 64;
/// What says what a generation is.
const MANIFEST: &str = "manifest.json";
/// What says which generation counts.
const CURRENT: &str = "CURRENT";
/// Where segments lie.
const SEGMENTS: &str = "segments";
/// In a generation that does not count yet.
const UNFINISHED: &str = "UNFINISHED";
/// In one that counts no more, whose base others use.
const RETIRED: &str = "RETIRED";
/// Why generations are made whose rows are those of the one before: a pin outlasts them.
const SAME_ROWS: [&str; 2] = ["compaction", "repair"];

/// What the file `CURRENT` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// Grows with every change.
    pub sequence: u64,
    /// Folder of the generation.
    pub generation: String,
    /// Why it was chosen: a manifest's reason, `promotion`, `rollback`, or what the shadow check
    /// found.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Somebody went back to it: nothing that acts by itself goes on from there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Of a promotion: folder of the generation that answered before, which is not always the
    /// parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// An index's folder, and what is open of it.
#[derive(Clone, Debug)]
pub struct Folder {
    files: Files,
    steps: Steps,
}

/// Rows with everything that belongs to them.
#[derive(Debug)]
pub struct Content {
    /// Documents and texts, row by row.
    pub rows: RowStore,
    /// Vectors of length 1, one after the other.
    pub vectors: Vec<f32>,
    /// What searches filter by.
    pub columns: RecordBatch,
}

impl Content {
    fn with_vectors(&self, dim: usize) -> impl Iterator<Item = io::Result<(Row<'_>, &[f32])>> {
        let vector =
            move |row: usize| self.vectors.get(row * dim..(row + 1) * dim).unwrap_or_default();
        self.rows.iter().enumerate().map(move |(number, row)| row.map(|row| (row, vector(number))))
    }

    fn rows_sum(&self, dim: usize) -> io::Result<RowSum> {
        RowSum::of(self.with_vectors(dim))
    }
}

/// A generation that is being written; removed again unless it comes to stay.
struct Draft<'a> {
    folder: &'a Folder,
    name: String,
    segment: Option<String>,
    stays: bool,
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // A test that stops the program as if it were killed stops here too.
        if !self.stays && self.folder.step("given up").is_ok() {
            self.folder.discard(&self.name, self.segment.as_deref());
        }
    }
}

/// That a generation cannot be made again: what it would be made from is damaged too.
#[derive(Debug, thiserror::Error)]
#[error(
    "what it would be rebuilt from is damaged, too; only a new index can be built from the dataset"
)]
pub struct RepairError {
    /// The first of its files that is.
    #[source]
    pub damage: Damage,
}

impl Folder {
    /// A folder; `steps` stops where a test says.
    #[must_use]
    pub fn new(path: &Path, steps: Steps) -> Self {
        Self { files: Files::new(path), steps }
    }

    /// The files below it, and which were compared.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Path of the folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.files.path()
    }

    /// Passes a named step.
    ///
    /// # Errors
    /// If a test stops there.
    pub fn step(&self, name: &'static str) -> io::Result<()> {
        self.steps.pass(name)
    }

    fn new_segment(&self, draft: &mut Draft<'_>) -> io::Result<String> {
        fs::create_dir_all(self.path().join(SEGMENTS))?;
        let path = format!("{SEGMENTS}/{}.parquet", ulid::Ulid::generate());
        draft.segment = Some(path.clone());
        Ok(path)
    }

    /// A new generation's folder, which says of itself that it does not count.
    fn draft(&self) -> io::Result<Draft<'_>> {
        let name = format!("gen-{}", ulid::Ulid::generate());
        fs::create_dir(self.path().join(&name))?;
        let draft = Draft { folder: self, name, segment: None, stays: false };
        let folder = self.path().join(&draft.name);
        fs::File::create_new(folder.join(UNFINISHED))?.sync_all()?;
        atomic::sync_dir(&folder)?;
        self.step("begun")?;
        Ok(draft)
    }

    /// [`Folder::prepare_base`], and lets it count.
    ///
    /// # Errors
    /// As there.
    pub fn commit_base(
        &self,
        manifest: Manifest,
        source: &str,
        content: Content,
        threads: usize,
        progress: &flat_hnsw::Progress<'_>,
    ) -> io::Result<Generation> {
        let generation = self.prepare_base(manifest, source, content, threads, progress)?;
        let mut draft = self.draft_of(&generation);
        self.count(&generation)?;
        draft.stays = true;
        Ok(generation)
    }

    fn draft_of(&self, generation: &Generation) -> Draft<'_> {
        let segment = generation.manifest.base.as_ref().map(|base| base.segment.path.clone());
        Draft { folder: self, name: generation.folder.clone(), segment, stays: false }
    }

    /// Lets a generation count that was just made. A pin goes, unless its rows are those of the one
    /// that is pinned.
    fn count(&self, generation: &Generation) -> io::Result<()> {
        let reason = &generation.manifest.reason;
        // A damaged CURRENT is what a repair is for.
        let pinned = SAME_ROWS.contains(&reason.as_str())
            && self.pointer().ok().flatten().is_some_and(|pointer| pointer.pinned);
        self.point(&generation.folder, reason, pinned)
    }

    /// Removes a prepared generation that shall not count. One that did stays.
    pub fn abandon(&self, generation: Generation) {
        if self.path().join(&generation.folder).join(UNFINISHED).exists() {
            drop(self.draft_of(&generation));
        }
    }

    /// Lets a prepared generation count, with what was measured of it, if anything was.
    ///
    /// # Errors
    /// As the file system gives them; the old one then counts.
    pub fn publish(
        &self,
        mut generation: Generation,
        measured: impl Into<Option<Measurement>>,
        target: f64,
        forced: bool,
    ) -> io::Result<Generation> {
        let manifest = &mut generation.manifest;
        (manifest.measured, manifest.target_recall, manifest.forced) =
            (measured.into(), Some(target), forced);
        let unfinished = self.path().join(&generation.folder).join(UNFINISHED).exists();
        let mut draft = self.draft_of(&generation);
        draft.stays = !unfinished;
        let (pinned, answered) =
            self.pointer()?.map(|pointer| (pointer.pinned, pointer.generation)).unzip();
        self.seal(&generation.folder, &generation.manifest)?;
        let before = answered.filter(|answered| *answered != generation.folder);
        self.point_after(&generation.folder, "promotion", pinned.unwrap_or(false), before)?;
        draft.stays = true;
        Ok(generation)
    }

    /// Makes a generation with a base of its own out of all its rows, whole and verified, which
    /// does not count yet. `manifest` says everything but files and counts.
    ///
    /// # Errors
    /// As the file system gives them, or `Interrupted` if `progress` says stop; nothing then
    /// counts.
    pub fn prepare_base(
        &self,
        mut manifest: Manifest,
        source: &str,
        content: Content,
        threads: usize,
        progress: &flat_hnsw::Progress<'_>,
    ) -> io::Result<Generation> {
        let mut draft = self.draft()?;
        let name = draft.name.clone();
        let dim = manifest.model.dim;
        manifest.chunks = content.rows.len() as u64;
        (manifest.base, manifest.segments, manifest.dead) = (None, Vec::new(), None);
        manifest.rows_sum = Some(content.rows_sum(dim)?);
        if !content.rows.is_empty() {
            let engine = engine::named(&manifest.engine).map_err(bad)?;
            let Content { rows: unordered, vectors, columns } = content;
            let work = Work {
                vectors: vectors.into(),
                dim,
                parameters: manifest.parameters,
                threads,
                progress,
            };
            let (flat, order) = engine.build(work)?;
            manifest.recall_measured = None;
            if let Some(wanted) = manifest.recall_wanted.filter(|_| manifest.engine != "exact")
                && let Some(width) = calibrate::width(&flat, wanted, threads)
            {
                (manifest.ef_search, manifest.recall_measured) = (width.ef, Some(width.recall));
            } else if manifest.recall_wanted.is_some() {
                manifest.ef_search = EF_DEFAULT;
            }
            let mut rows = RowStore::default();
            for old in &order {
                rows.push(&unordered.row(*old as usize)?);
            }
            drop(unordered);
            let columns =
                arrow_select::take::take_record_batch(&columns, &UInt32Array::from(order))
                    .map_err(bad)?;
            let columns =
                if columns.num_columns() == 0 { segment::no_columns(rows.len())? } else { columns };
            let segment_path = self.new_segment(&mut draft)?;
            segment::write(
                &self.path().join(&segment_path),
                source,
                &manifest.model,
                &rows,
                flat.store.vectors(),
                &columns,
            )?;
            self.step("segment written")?;
            let graph_path = format!("{name}/graph.flat");
            flat_hnsw::file::write(&flat, &self.path().join(&graph_path))?;
            self.step("graph written")?;
            let rows_path = format!("{name}/rows.bin");
            rows.write(&self.path().join(&rows_path))?;
            self.step("rows written")?;
            let (mut words, mut analyser) = (Vec::new(), None);
            if rows.iter().any(|row| row.is_ok_and(|row| !row.text.is_empty())) {
                let made_by = analyser.insert(analyser_for(manifest.language.as_deref(), &rows));
                let written =
                    Lexical::write(&self.path().join(&name).join("lexical"), &rows, made_by)?;
                words = written
                    .iter()
                    .map(|file| self.files.describe(&format!("{name}/lexical/{file}")))
                    .collect::<io::Result<_>>()?;
                self.step("words written")?;
            }
            manifest.base = Some(BaseRef {
                rows: rows.len() as u64,
                segment: self.files.describe(&segment_path)?,
                graph: self.files.describe(&graph_path)?,
                rows_file: self.files.describe(&rows_path)?,
                lexical: Some(words),
                analyser,
            });
        }
        self.seal(&name, &manifest)?;
        // What will be read after a restart is read once, whole, before it counts.
        let generation = self.load(&name, None)?;
        if let Some(base) = &generation.base {
            flat_hnsw::file::verify(&self.path().join(&name).join("graph.flat"))?;
            RowStore::open(&self.path().join(&name).join("rows.bin"), true)?;
            let lost = base.flat.orphans(PROBE_EF, threads, PROBE_ROWS);
            if lost.len() * 100 > PROBE_ROWS.min(base.rows.len()) {
                return Err(bad(format!(
                    "{} of {PROBE_ROWS} rows are orphans: no search finds them",
                    lost.len()
                )));
            }
        }
        self.step("verified")?;
        draft.stays = true;
        Ok(generation)
    }

    /// Makes a generation out of an older one, rows to add, and numbers of all rows that are dead
    /// now. What is written is what is added.
    ///
    /// # Errors
    /// As [`Folder::commit_base`].
    pub fn commit_delta(
        &self,
        old: &Generation,
        mut manifest: Manifest,
        source: &str,
        added: &Content,
        dead: &[u32],
    ) -> io::Result<Generation> {
        let mut draft = self.draft()?;
        let name = draft.name.clone();
        manifest.base.clone_from(&old.manifest.base);
        manifest.segments.clone_from(&old.manifest.segments);
        manifest.chunks = (old.len() + added.rows.len() - dead.len()) as u64;
        manifest.rows_sum = match old.known_rows_sum() {
            Some(sum) => {
                let gone = dead.iter().copied().filter(|row| old.is_live(*row));
                Some(
                    sum.without(old.with_vectors(gone))?
                        .with(added.with_vectors(manifest.model.dim))?,
                )
            }
            // To read all rows would cost more than what is appended.
            None => None,
        };
        if !added.rows.is_empty() {
            let path = self.new_segment(&mut draft)?;
            segment::write(
                &self.path().join(&path),
                source,
                &manifest.model,
                &added.rows,
                &added.vectors,
                &added.columns,
            )?;
            self.step("segment written")?;
            manifest.segments.push(SegmentRef {
                rows: added.rows.len() as u64,
                file: self.files.describe(&path)?,
            });
        }
        manifest.dead = None;
        if !dead.is_empty() {
            let path = format!("{name}/dead.u32");
            let bytes: Vec<u8> = dead.iter().flat_map(|row| row.to_le_bytes()).collect();
            atomic::write(&self.path().join(&path), &bytes)?;
            self.step("dead written")?;
            manifest.dead = Some(self.files.describe(&path)?);
        }
        self.seal(&name, &manifest)?;
        let generation = self.load(&name, old.base.clone())?.following(old);
        self.step("verified")?;
        self.count(&generation)?;
        draft.stays = true;
        Ok(generation)
    }

    fn seal(&self, name: &str, manifest: &Manifest) -> io::Result<()> {
        atomic::write(&self.path().join(name).join(MANIFEST), &sealed::to_vec(manifest)?)?;
        for folder in [SEGMENTS, ""] {
            let folder = self.path().join(folder);
            if folder.is_dir() {
                atomic::sync_dir(&folder)?;
            }
        }
        self.step("manifest written")
    }

    /// Lets `CURRENT` name a generation, if all its files are there and whole.
    ///
    /// # Errors
    /// `InvalidData` naming the file that is not; or as the file system gives them. The old one
    /// then counts.
    pub fn point(&self, generation: &str, reason: &str, pinned: bool) -> io::Result<()> {
        self.point_after(generation, reason, pinned, None)
    }

    fn point_after(
        &self,
        generation: &str,
        reason: &str,
        pinned: bool,
        before: Option<String>,
    ) -> io::Result<()> {
        self.manifest(generation)?.files().try_for_each(|file| self.files.whole(file))?;
        self.step("files there")?;
        let sequence = self.pointer().ok().flatten().map_or(1, |p| p.sequence + 1);
        let (generation, reason) = (generation.to_owned(), reason.to_owned());
        let pointer = Pointer { sequence, generation, reason, at_ms: now_ms(), pinned, before };
        atomic::write(&self.path().join(CURRENT), &sealed::to_vec(&pointer)?)?;
        self.step("pointer moved")?;
        self.counts(&pointer.generation);
        Ok(())
    }

    /// Takes back that the current generation stays whatever is new; whether it had been pinned.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn unpin(&self) -> io::Result<bool> {
        let Some(pointer) = self.pointer()?.filter(|pointer| pointer.pinned) else {
            return Ok(false);
        };
        let pointer = Pointer { sequence: pointer.sequence + 1, pinned: false, ..pointer };
        atomic::write(&self.path().join(CURRENT), &sealed::to_vec(&pointer)?)?;
        Ok(true)
    }

    /// Takes from the current generation the word that it does not count. Where that fails
    /// `CURRENT` speaks for it.
    fn counts(&self, generation: &str) {
        let path = self.path().join(generation).join(UNFINISHED);
        // Where nothing can be written the removal of what is not there fails as well.
        if path.exists()
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!("{generation}/{UNFINISHED} cannot be removed: {error}");
        }
    }

    /// What `CURRENT` says; `None` before the first generation.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    pub fn pointer(&self) -> io::Result<Option<Pointer>> {
        let bytes = match fs::read(self.path().join(CURRENT)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| named(CURRENT, e))?,
        };
        let pointer: Pointer = sealed::from_slice(&bytes).map_err(|e| named(CURRENT, e))?;
        if !pointer.generation.starts_with("gen-") || pointer.generation.contains('/') {
            return Err(bad(format!(
                "{CURRENT} names `{}`, expected gen-<ulid>",
                pointer.generation
            )));
        }
        Ok(Some(pointer))
    }

    /// A generation's manifest.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    pub fn manifest(&self, name: &str) -> io::Result<Manifest> {
        let of_manifest = |e: io::Error| named(format!("{name}/{MANIFEST}"), e);
        let bytes = fs::read(self.path().join(name).join(MANIFEST)).map_err(of_manifest)?;
        let manifest: Manifest = sealed::from_slice(&bytes).map_err(of_manifest)?;
        let outside = manifest.files().find(|file| !file.is_inside()).map(|file| file.path.clone());
        match outside {
            Some(path) => Err(of_manifest(bad(format!(
                "it names `{}`, expected a path in the index's folder",
                path.escape_debug()
            )))),
            None => Ok(manifest),
        }
    }

    /// Loads a generation; with the base of another where it is the same.
    ///
    /// # Errors
    /// `InvalidData` naming the file that is damaged.
    pub fn load(&self, name: &str, shared: Option<Arc<Base>>) -> io::Result<Generation> {
        let manifest = self.manifest(name)?;
        let at = |file: &FileRef| self.path().join(&file.path);
        let base = match (&manifest.base, shared) {
            (None, _) => None,
            (Some(_), Some(shared)) => Some(shared),
            (Some(base), None) => {
                let flat = flat_hnsw::file::open(&at(&base.graph))
                    .map_err(|e| named(&base.graph.path, e))?;
                let rows = RowStore::open(&at(&base.rows_file), false)
                    .map_err(|e| named(&base.rows_file.path, e))?;
                if rows.len() as u64 != base.rows
                    || flat.store.len() != rows.len()
                    || flat.store.dim() != manifest.model.dim
                {
                    return Err(named(&base.graph.path, bad("it does not fit its manifest")));
                }
                Some(Arc::new(Base::new(flat, rows, self.files.clone(), base.clone())))
            }
        };
        let (mut rows, mut vectors, mut batches) = (RowStore::default(), Vec::new(), Vec::new());
        for part in &manifest.segments {
            self.files.whole(&part.file)?;
            let contents = segment::read(&at(&part.file), manifest.model.dim)
                .map_err(|e| named(&part.file.path, e))?;
            for row in contents.rows.iter() {
                rows.push(&row?);
            }
            vectors.extend(contents.vectors);
            batches.push(contents.columns);
        }
        let columns = segment::joined(&batches, rows.len())?;
        let dead = match &manifest.dead {
            None => Vec::new(),
            Some(file) => {
                self.files.whole(file)?;
                let bytes = fs::read(at(file)).map_err(|e| named(&file.path, e))?;
                bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
            }
        };
        let order: Vec<u32> = (0..rows.len() as u32).collect();
        let store = flat_hnsw::store::Store::new(&vectors, manifest.model.dim, &order)?;
        Generation::new(manifest, name.to_owned(), base, Delta { store, rows, columns }, &dead)
    }

    /// The generation that counts. If it is damaged, the newest other one that is whole, and why.
    ///
    /// # Errors
    /// If there are generations but none is whole: with the damage of the one that counts.
    pub fn open(&self) -> io::Result<(Option<Generation>, Option<String>)> {
        let wanted = match self.pointer() {
            Ok(None) => {
                // Before the first generation nothing is there, and nothing is wrong.
                let why = if self.path().is_dir() {
                    self.survey().unreadable()
                } else {
                    Obstacles(Vec::new())
                };
                if why.is_empty() {
                    return Ok((None, None));
                }
                Err(bad(why))
            }
            Ok(Some(pointer)) => self.load(&pointer.generation, None),
            Err(error) => Err(error),
        };
        let damage = match wanted {
            Ok(generation) => {
                self.counts(&generation.folder);
                return Ok((Some(generation), None));
            }
            Err(damage) => damage,
        };
        for (name, manifest) in self.generations() {
            if let Ok(generation) = self.load(&name, None) {
                let why =
                    format!("{}; generation {} answers instead", chain(&damage), manifest.number);
                return Ok((Some(generation), Some(why)));
            }
        }
        Err(damage)
    }

    /// Reads every file of a generation and compares it with its checksum; what is wrong, by file.
    #[must_use]
    pub fn verify(&self, manifest: &Manifest) -> Vec<Damage> {
        manifest.files().filter_map(|file| self.files.wrong(file)).collect()
    }

    /// Makes the base of a damaged generation again from its segment, which must be whole, as a new
    /// generation.
    ///
    /// # Errors
    /// [`RepairError`] if the segments are damaged too.
    pub fn repair(&self, name: &str, source: &str, threads: usize) -> io::Result<Generation> {
        let manifest = self.manifest(name)?;
        let mut content = Content {
            rows: RowStore::default(),
            vectors: Vec::new(),
            columns: segment::no_columns(0)?,
        };
        let mut batches = Vec::new();
        let parts = || {
            manifest
                .base
                .iter()
                .map(|b| &b.segment)
                .chain(manifest.segments.iter().map(|s| &s.file))
        };
        // What is built from must be whole itself: Parquet would not say.
        if let Some(damage) = parts().chain(&manifest.dead).find_map(|file| self.files.wrong(file))
        {
            return Err(bad(RepairError { damage }));
        }
        let dead: HashSet<u32> = match &manifest.dead {
            Some(file) => fs::read(self.path().join(&file.path))?
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| u32::from_le_bytes(*b))
                .collect(),
            None => HashSet::new(),
        };
        let mut number = 0;
        for file in parts() {
            let part = segment::read(&self.path().join(&file.path), manifest.model.dim)
                .map_err(|e| named(&file.path, e))?;
            let mut kept = Vec::new();
            for (i, row) in part.rows.iter().enumerate() {
                if !dead.contains(&number) {
                    content.rows.push(&row?);
                    content.vectors.extend_from_slice(
                        &part.vectors[i * manifest.model.dim..(i + 1) * manifest.model.dim],
                    );
                    kept.push(i as u32);
                }
                number += 1;
            }
            if part.columns.num_columns() > 0 {
                batches.push(
                    arrow_select::take::take_record_batch(&part.columns, &UInt32Array::from(kept))
                        .map_err(bad)?,
                );
            }
        }
        content.columns = segment::joined(&batches, content.rows.len())?;
        let manifest = manifest.after(name, self.next_number(manifest.number), "repair");
        self.commit_base(manifest, source, content, threads, &|_| true)
    }
}

#[cfg(test)]
mod tests;
