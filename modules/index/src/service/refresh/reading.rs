//! Reading a dataset: what a refresh is to do, how far it is meanwhile, and of a first one the
//! words of what is read.
//!
//! Chunks are cut by a model's tokens, which another module counts: of many documents that takes
//! far longer than reading them, and words need none. So a first refresh reads its dataset twice,
//! side by side: ahead, cut by guessed tokens, for words alone; and for good. Where no tokens are
//! counted, it shows what it reads for good. Invariants: nothing that is read ahead gets into a
//! generation, or fails a refresh; it is bounded, and ends when the refresh does or all is cut.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow_array::RecordBatch;
use brahman_card::Fault;
use brahman_card::interface::catalog::Dataset;
use brahman_card::interface::index::CreateIn;
use brahman_sidecar::{Call, blocking, chain};

use super::super::datasets::Version;
use super::super::shelf::{FirstRefresh, FirstView, Index};
use super::publishing::unnumbered;
use super::{PROGRESS_EVERY, say};
use crate::embedder::Model;
use crate::generation::{Generation, Manifest};
use crate::partial::{self, WordsGrowth};
use crate::refresh::{BATCH_ROWS, Cutting, Plan, PlanSoFar, io_fault, plan};
use crate::rows::RowStore;
use crate::threads::on_own_thread;

/// Rows read at once where somebody waits for the first words: few, for documents may be long.
const ROWS_AHEAD: usize = 128;
/// Bytes of what is shown before all is cut: they are in memory beside what is read for good.
const AHEAD_BYTES_MAX: u64 = 256 << 20;
/// But no more than one part in so many of what a refresh may take.
const AHEAD_SHARE: u64 = 16;

/// What is read, and for whom.
pub(super) struct Reading<'a> {
    pub(super) index: &'a Index,
    pub(super) dataset: &'a Dataset,
    /// The dataset's generation.
    pub(super) own: &'a Version,
    pub(super) cutting: Cutting,
    pub(super) old: Option<Arc<Generation>>,
    /// The refresh, if it is the index's first.
    pub(super) first: Option<&'a FirstRefresh>,
    /// Bytes that a refresh may take, if that is known.
    pub(super) memory: Option<u64>,
    /// Set when nobody waits any more.
    pub(super) stop: Arc<AtomicBool>,
}

impl Reading<'_> {
    /// What is to be done. Tells the caller how far it is, and of a first refresh shows the words
    /// meanwhile.
    pub(super) async fn plan(self, call: Option<&Call>) -> Result<Plan, Fault> {
        let mut words = self.first.map(|first| self.words(first));
        if let Some(guessing) = self.cutting.guessing()
            && let Some(words) = words.take()
        {
            let (dataset, parameters) = (self.dataset.clone(), self.index.parameters.clone());
            let ahead = move || words.read_ahead(&dataset, &parameters, &guessing);
            drop(on_own_thread("reading ahead", false, ahead));
        }
        let Self { index, dataset, cutting, old, stop, .. } = self;
        let (done, of) = (Arc::new(AtomicU64::new(0)), dataset.rows);
        let (counted, dataset, parameters) =
            (Arc::clone(&done), dataset.clone(), index.parameters.clone());
        let work = move || {
            plan(&dataset, &parameters, &cutting, old.as_deref(), BATCH_ROWS, &mut |so_far| {
                counted.store(so_far.documents, Ordering::Relaxed);
                if let Some(shown) = &mut words
                    && !shown.hear(so_far)?
                {
                    words = None;
                }
                Ok(!stop.load(Ordering::Relaxed))
            })
        };
        let mut working = blocking(work);
        let planned = loop {
            match tokio::time::timeout(PROGRESS_EVERY, &mut working).await {
                Ok(planned) => break planned.map_err(|e| Fault::internal(chain(&e)))??,
                Err(_) => say(call, "read", done.load(Ordering::Relaxed), of).await?,
            }
        };
        planned.ok_or_else(|| Fault::internal("the refresh was stopped while it read its dataset"))
    }

    fn words(&self, first: &FirstRefresh) -> FirstWords {
        first.show(|partial| partial.documents = self.dataset.rows);
        let bytes_max =
            self.memory.map_or(AHEAD_BYTES_MAX, |memory| AHEAD_BYTES_MAX.min(memory / AHEAD_SHARE));
        FirstWords {
            view: first.view(),
            manifest: words_manifest(&self.index.parameters, self.own),
            growth: WordsGrowth::default(),
            bytes_max,
        }
    }
}

/// The words of what a first refresh has read so far.
struct FirstWords {
    view: FirstView,
    manifest: Manifest,
    growth: WordsGrowth,
    bytes_max: u64,
}

impl FirstWords {
    /// Hears how far it is read, and shows it if that is due; whether more is of use.
    fn hear(&mut self, so_far: &PlanSoFar<'_>) -> Result<bool, Fault> {
        let (rows, documents) = (&so_far.plan.fresh, so_far.documents);
        let is_full = rows.bytes() >= self.bytes_max;
        if is_full || self.growth.is_due(documents) {
            self.show(rows, Some(&so_far.columns()?), documents)?;
        }
        Ok(!is_full && self.view.with(|partial| !partial.is_cut) == Some(true))
    }

    fn show(
        &mut self,
        rows: &RowStore,
        columns: Option<&RecordBatch>,
        documents: u64,
    ) -> Result<(), Fault> {
        let failed = |e: io::Error| io_fault("showing what is read", &e);
        let made = partial::by_words(self.manifest.clone(), rows, columns).map_err(failed)?;
        let Some(words) = made else { return Ok(()) };
        // Whoever searches while it grows waits for no step; where nobody does, nothing is made.
        if self.view.with(|partial| partial.is_asked) == Some(true) {
            words.make_words().map_err(failed)?;
        }
        self.growth.showed(documents);
        let words = Arc::new(words);
        self.view.with(|partial| partial.show_read(words, documents));
        Ok(())
    }

    /// Reads a whole dataset for its words alone. What goes wrong is left to whoever reads it for
    /// good, who meets it, too.
    fn read_ahead(mut self, dataset: &Dataset, parameters: &CreateIn, guessing: &Cutting) {
        let read =
            plan(dataset, parameters, guessing, None, ROWS_AHEAD, &mut |so_far| self.hear(so_far));
        let shown = read.and_then(|whole| match whole {
            Some(plan) if self.growth.is_behind(plan.dataset_docs) => {
                self.show(&plan.fresh, plan.columns.as_ref(), plan.dataset_docs)
            }
            _ => Ok(()),
        });
        if let Err(fault) = shown {
            tracing::debug!(index = parameters.name, "reading ahead: {fault}");
        }
    }
}

/// Shows all that was cut to whoever searches by words.
pub(super) fn show_words(
    first: &FirstRefresh,
    parameters: &CreateIn,
    plan: &Plan,
    own: &Version,
) -> io::Result<()> {
    let manifest = words_manifest(parameters, own);
    let words = partial::by_words(manifest, &plan.fresh, plan.columns.as_ref())?.map(Arc::new);
    let of = plan.fresh.len() as u64;
    let Some(words) = first.show(|partial| partial.show_cut(words, of)) else { return Ok(()) };
    let (view, index) = (first.view(), parameters.name.clone());
    drop(on_own_thread("making words", false, move || {
        if let Err(error) = words.make_words() {
            // Whoever searches meets it again, and is told.
            tracing::warn!(index, "making words: {}", chain(&error));
        }
        view.with(|partial| partial.words = Some(words));
    }));
    Ok(())
}

/// The manifest of what is found by words alone.
fn words_manifest(parameters: &CreateIn, own: &Version) -> Manifest {
    // Which model will embed is not known yet, and does not matter.
    let model = Model {
        name: parameters.model.clone().unwrap_or_default(),
        fingerprint: String::new(),
        dim: 1,
        mock: false,
    };
    unnumbered(parameters, model, own)
}
