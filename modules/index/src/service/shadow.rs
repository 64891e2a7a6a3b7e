//! The shadow check on the mesh: which live queries are searched again, exactly, and going back when a promise is broken.

use std::io;
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::index::ShadowInfo;
use brahman_sidecar::chain;

use super::shelf::{Index, lock};
use crate::folder::Pointer;
use crate::generation::{Generation, SearchOptions, Selection};
use crate::shadow::{Shadow, Verdict};
use crate::threads::on_own_thread;
use crate::trials::TIE;
use flat_hnsw::store::Neighbour;

/// Why the generation before does not answer again.
#[derive(Debug, thiserror::Error)]
enum RollbackError {
    /// The index is being changed, or cannot be.
    #[error(transparent)]
    Refused(#[from] Fault),
    /// There is none.
    #[error("there is no previous generation")]
    NoneBefore,
    /// It cannot be read, or `CURRENT` not be written.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

impl Index {
    /// Begins the check if what answers was promoted and not by force; it begins anew with every start of the module.
    pub(super) fn watch_promotion(&self) {
        let pointer = self.folder.pointer().ok().flatten();
        let promoted = |p: &Pointer| p.reason == "promotion";
        let watched = self.generation().filter(|g| pointer.is_some_and(|p| promoted(&p) && p.generation == g.folder));
        let target = watched.as_ref().and_then(|g| g.manifest.target_recall.filter(|_| !g.manifest.forced));
        *lock(&self.shadow) = watched.zip(target).map(|(g, target)| Shadow::new(&g.folder, target));
    }

    /// What the check has come to.
    pub(super) fn shadow_info(&self) -> Option<ShadowInfo> {
        lock(&self.shadow).as_ref().map(|shadow| ShadowInfo {
            verdict: match shadow.verdict {
                Verdict::Open => "open",
                Verdict::Kept => "kept",
                Verdict::Broken => "broken",
            }
            .into(),
            checked: shadow.measure.recalls.len() as u64,
            recall: shadow.measure.recall(),
            target: shadow.target,
        })
    }

    /// Hears of a live query and its answer; checks some, one at a time, at the lowest priority.
    pub(super) fn shadow(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        query: &[f32],
        k: usize,
        allowed: &Selection,
        found: &[Neighbour],
    ) {
        {
            let mut shadow = lock(&self.shadow);
            let Some(shadow) = shadow.as_mut().filter(|s| s.generation == generation.folder) else { return };
            if !shadow.samples() {
                return;
            }
        }
        let Ok(turn) = Arc::clone(&self.checking).try_lock_owned() else { return };
        let (index, generation, query, allowed) = (Arc::clone(self), Arc::clone(generation), query.to_vec(), allowed.clone());
        let scores: Vec<f32> = found.iter().map(|f| f.score).collect();
        let work = move || {
            let how = SearchOptions { k, exact: true, threads: 1, ..SearchOptions::default() };
            let truth = generation.search(&query, &how, &allowed);
            let Some(floor) = truth.last().map(|f| f.score - TIE) else { return };
            let recall = scores.iter().filter(|score| **score >= floor).count().min(truth.len()) as f64 / truth.len() as f64;
            let verdict = lock(&index.shadow).as_mut().filter(|s| s.generation == generation.folder).and_then(|s| s.add(recall));
            drop(turn);
            if verdict == Some(Verdict::Broken) {
                index.go_back(&generation);
            }
        };
        drop(on_own_thread("the shadow check", true, work));
    }

    /// Lets the generation before answer again.
    fn go_back(self: &Arc<Self>, broken: &Generation) {
        let Some(info) = self.shadow_info() else { return };
        let name = &self.parameters.name;
        let reason = format!("shadow check: recall {:.4} of {} live queries, promised {}", info.recall, info.checked, info.target);
        let back = || -> Result<(), RollbackError> {
            let claim = self.claim_now("rollback")?;
            if self.generation().is_none_or(|g| g.folder != broken.folder) {
                return Ok(());
            }
            if self.pinned()? {
                tracing::warn!(index = name, "{reason}; it keeps answering, because it is pinned");
                return Ok(());
            }
            let parent = broken.manifest.parent.as_ref().ok_or(RollbackError::NoneBefore)?;
            let before = self.folder.load(parent, None)?;
            self.folder.point(parent, &reason, false)?;
            let number = before.manifest.number;
            self.answer_with(before);
            drop(claim);
            tracing::warn!(index = name, "{reason}; generation {number} answers again, in place of {}", broken.manifest.number);
            Ok(())
        };
        if let Err(error) = back() {
            tracing::error!(index = name, "{reason}; going back failed: {}", chain(&error));
            // Checked anew: the next verdict tries again.
            *lock(&self.shadow) = Some(Shadow::new(&broken.folder, info.target));
        }
    }
}
