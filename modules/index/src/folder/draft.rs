//! Generations that are written: each is a draft, removed again unless it comes to stay.

use std::fs;
use std::io;

use arrow_array::UInt32Array;
use brahman_card::interface::index::Measurement;
use brahman_storage::atomic;

use super::{Content, Folder, MANIFEST, SAME_ROWS, SEGMENTS, UNFINISHED};
use crate::engine::{self, Work};
use crate::files::bad;
use crate::generation::{BaseRef, EF_DEFAULT, Generation, Manifest, SegmentRef};
use crate::lexical::{Lexical, analyser_for};
use crate::rows::RowStore;
use crate::{calibrate, sealed, segment};

/// Rows of a new base that are asked to find themselves before it counts.
const PROBE_ROWS: usize = 1000;
/// Candidates of such a search.
const PROBE_EF: usize = 64;

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

impl Folder {
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
    pub(super) fn count(&self, generation: &Generation) -> io::Result<()> {
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
}
