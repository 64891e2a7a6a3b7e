//! The folder of one index: how a generation gets into it, which one counts, and what may be
//! removed.
//!
//! ```text
//! index.json  CURRENT  pending.log  trials/  evals/
//! segments/<ulid>.parquet                      rows and vectors, what everything else is made from
//! gen-<ulid>/manifest.json                     what it is; names all its files with checksums
//! gen-<ulid>/{graph.flat, rows.bin, lexical/}  of a generation with a base of its own
//! gen-<ulid>/dead.u32                          rows that are gone
//! gen-<ulid>/UNFINISHED                        it has not counted yet
//! ```
//!
//! Invariants: files are written once, fsynced, then read back and checked, and only then does
//! `CURRENT` name the generation; a crash at any step leaves the old one, and an error removes what
//! was written. `CURRENT` never names a generation of which a file is missing or damaged. Every
//! step has a name, so that tests can stop at each.
//!
//! [`draft`] writes generations.

mod clean;
mod draft;
mod snapshot;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use brahman_card::clock::now_ms;
use brahman_sidecar::chain;
use brahman_storage::{Steps, atomic};
use serde::{Deserialize, Serialize};

use crate::files::{Damage, FileRef, Files, bad, named};
use crate::generation::{Base, Delta, Generation, Manifest};
use crate::row_sum::RowSum;
use crate::rows::{Row, RowStore};
use crate::sweep::Obstacles;
use crate::{sealed, segment};
pub use clean::Sweep;

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
