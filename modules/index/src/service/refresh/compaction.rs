//! `Compact`: a new base of everything alive, asked for or when it pays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use brahman_card::Fault;
use brahman_card::interface::Progress;
use brahman_card::interface::index::{CompactOut, CompactSummary, NameIn};
use brahman_sidecar::{Call, Reply};

use super::super::IndexService;
use super::super::shelf::{Index, StopOnDrop};
use super::copies::content;
use super::{PROGRESS_EVERY, cores};
use crate::generation::Generation;
use crate::refresh::folder_fault;
use crate::threads::on_own_thread;

/// Appended rows that a compaction folds in, beside a share of the base: comparing 4,096 more takes
/// 50 µs.
const APPENDED_MAX: usize = 4096;
/// That share: 1 in this many.
const APPENDED_SHARE: usize = 20;
/// Dead rows that a compaction leaves out: 1 in this many of all.
const DEAD_SHARE: usize = 5;
/// Segments that a compaction joins.
const SEGMENTS_MAX: usize = 64;

/// Whether a compaction would pay.
pub(super) fn wants_compaction(generation: &Generation) -> bool {
    let (base, appended) = (generation.base_rows(), generation.delta.rows.len());
    let dead = generation.len() - usize::try_from(generation.manifest.chunks).unwrap_or(0);
    appended > APPENDED_MAX.max(base / APPENDED_SHARE)
        || dead * DEAD_SHARE > generation.len()
        || generation.manifest.segments.len() > SEGMENTS_MAX
}

impl IndexService {
    /// Makes a new base of everything alive. Reports rows done.
    pub(super) async fn compact_index(
        self: &Arc<Self>,
        index: &Arc<Index>,
        progress: &(dyn Fn(u64, u64) + Sync),
        asked: bool,
    ) -> Result<Option<Arc<Generation>>, Fault> {
        let claim = index.claim("compaction").await?;
        let _stop = StopOnDrop(Arc::clone(&claim.stop));
        let Some(old) = index.generation() else { return Ok(None) };
        // What answers in another's place would come to stand there for good.
        if let Some(why) = index.degraded() {
            return if asked { Err(index.damaged(&why)) } else { Ok(None) };
        }
        // Whoever asks may want its words made in the way of today.
        let has_old_words = asked && old.base.is_some() && old.analyser().version() == 0;
        if old.delta.rows.is_empty() && old.dead().is_empty() && !has_old_words {
            return Ok(None);
        }
        let of = old.manifest.chunks;
        let (done, work_index) = (Arc::new(AtomicU64::new(0)), Arc::clone(index));
        let (counted, stop) = (Arc::clone(&done), Arc::clone(&claim.stop));
        let work = move || -> std::io::Result<Arc<Generation>> {
            let _claim = claim;
            let manifest = old.manifest.after(&old.folder, work_index.next_number(), "compaction");
            let progress = |n: usize| {
                counted.store(n as u64, Ordering::Relaxed);
                !stop.load(Ordering::Relaxed)
            };
            let threads = if asked { cores() } else { 1 };
            let source = &work_index.parameters.dataset;
            let generation = work_index.folder.commit_base(
                manifest,
                source,
                content(&old)?,
                threads,
                &progress,
            )?;
            Ok(work_index.answer_with(generation))
        };
        let mut working = on_own_thread("the compaction", !asked, work);
        let outcome = loop {
            match tokio::time::timeout(PROGRESS_EVERY, &mut working).await {
                Ok(outcome) => break outcome,
                Err(_) => progress(done.load(Ordering::Relaxed), of),
            }
        };
        match outcome? {
            Ok(generation) => {
                self.hear_of_rescue().await;
                Ok(Some(generation))
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(folder_fault(&index.parameters.name, "compacting", &error)),
        }
    }

    pub(in crate::service) async fn compact(self: &Arc<Self>, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let index = self.index(&name)?;
        index.current()?;
        let (sender, mut receiver) = tokio::sync::watch::channel((0, 0));
        let progress = move |done, of| {
            let _ = sender.send((done, of));
        };
        let mut working = std::pin::pin!(self.compact_index(&index, &progress, true));
        let made = loop {
            tokio::select! {
                made = &mut working => break made?,
                Ok(()) = receiver.changed() => {
                    let (done, of) = *receiver.borrow_and_update();
                    if call.more {
                        call.send(&CompactOut::Progress(Progress::new("build", done, of))).await?;
                    }
                }
            }
        };
        let number = made.as_ref().or(index.generation().as_ref()).map(|g| g.manifest.number);
        let of = index.generation().map_or(0, |g| g.manifest.chunks);
        Reply::of(&CompactOut::Done(CompactSummary {
            done: of,
            of,
            compacted: made.is_some(),
            generation: number,
        }))
    }
}
