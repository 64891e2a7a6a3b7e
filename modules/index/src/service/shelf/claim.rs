//! Who may change an index, and until when: a claim, a first refresh, and work that stops when its
//! caller has gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use brahman_card::Fault;
use brahman_card::interface::index::error;
use tokio::sync::OwnedMutexGuard;

use super::{Index, RESTORING, lock};
use crate::partial::PartialIndex;

/// The right to change an index; given back when dropped.
#[derive(Debug)]
pub(in crate::service) struct Claim {
    index: Arc<Index>,
    /// Set when the work should end early.
    pub(in crate::service) stop: Arc<AtomicBool>,
    _slot: OwnedMutexGuard<()>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        *lock(&self.index.busy) = None;
    }
}

/// The time of a first refresh: as long as this lives, what it has so far may answer.
#[derive(Debug)]
pub(in crate::service) struct FirstRefresh {
    index: Arc<Index>,
    /// Set, under the lock of what is shown, when nothing more may be.
    is_over: Arc<AtomicBool>,
}

impl FirstRefresh {
    /// Begins it, if nothing answers yet.
    pub(in crate::service) fn begin(index: &Arc<Index>) -> Option<Self> {
        let answering = lock(&index.answering);
        if answering.generation.is_some() || answering.degraded.is_some() {
            return None;
        }
        *lock(&index.partial) = Some(PartialIndex::default());
        Some(Self { index: Arc::clone(index), is_over: Arc::default() })
    }

    /// Changes what answers.
    pub(in crate::service) fn show<T>(&self, change: impl FnOnce(&mut PartialIndex) -> T) -> T {
        change(lock(&self.index.partial).get_or_insert_default())
    }

    /// What a thread beside it shows by.
    pub(in crate::service) fn view(&self) -> FirstView {
        FirstView { index: Arc::clone(&self.index), is_over: Arc::clone(&self.is_over) }
    }
}

impl Drop for FirstRefresh {
    fn drop(&mut self) {
        let mut partial = lock(&self.index.partial);
        self.is_over.store(true, Ordering::Relaxed);
        *partial = None;
    }
}

/// What a thread beside a first refresh shows by: it may outlive the refresh, and shows nothing any
/// more then.
#[derive(Debug)]
pub(in crate::service) struct FirstView {
    index: Arc<Index>,
    is_over: Arc<AtomicBool>,
}

impl FirstView {
    /// Looks at what answers, or changes it; none if the refresh is over.
    pub(in crate::service) fn with<T>(
        &self,
        change: impl FnOnce(&mut PartialIndex) -> T,
    ) -> Option<T> {
        let mut partial = lock(&self.index.partial);
        // Both are changed under this lock: another refresh's is never taken for this one's.
        let is_over = self.is_over.load(Ordering::Relaxed);
        partial.as_mut().filter(|_| !is_over).map(change)
    }
}

/// Tells work to stop when the call that wanted it is dropped, because its caller hung up.
#[derive(Debug)]
pub(in crate::service) struct StopOnDrop(pub(in crate::service) Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Index {
    /// What is going on.
    pub(in crate::service) fn busy(&self) -> Option<&'static str> {
        lock(&self.busy).as_ref().map(|(what, _)| *what)
    }

    /// Claims the right to change this index. A compaction gives way, and what puts files back is
    /// waited for; anything else is `Busy`.
    ///
    /// # Errors
    /// `Busy`, or `ReadOnly` where nothing can be written.
    pub(in crate::service) async fn claim(
        self: &Arc<Self>,
        what: &'static str,
    ) -> Result<Claim, Fault> {
        self.writable()?;
        self.claim_to_look(what).await
    }

    /// The same for whoever may change nothing after all.
    ///
    /// # Errors
    /// `Busy`.
    pub(in crate::service) async fn claim_to_look(
        self: &Arc<Self>,
        what: &'static str,
    ) -> Result<Claim, Fault> {
        let busy = lock(&self.busy).clone();
        match busy {
            Some(("compaction" | RESTORING, stop)) if what != "compaction" => {
                stop.store(true, Ordering::Relaxed);
                Ok(self.claimed(what, Arc::clone(&self.slot).lock_owned().await))
            }
            _ => self.claim_slot(what),
        }
    }

    /// The right to change it, for whoever cannot wait for a compaction to end.
    ///
    /// # Errors
    /// `Busy`, or `ReadOnly`.
    pub(in crate::service) fn claim_now(
        self: &Arc<Self>,
        what: &'static str,
    ) -> Result<Claim, Fault> {
        self.writable()?;
        self.claim_slot(what)
    }

    fn claim_slot(self: &Arc<Self>, what: &'static str) -> Result<Claim, Fault> {
        let Ok(slot) = Arc::clone(&self.slot).try_lock_owned() else {
            let name = &self.parameters.name;
            let message = format!(
                "index `{name}` is busy: {}; try again when it is done",
                self.busy().unwrap_or("being changed")
            );
            return Err(Fault::of(&error::Busy { name: name.clone() }, true, message));
        };
        Ok(self.claimed(what, slot))
    }

    pub(super) fn claimed(
        self: &Arc<Self>,
        what: &'static str,
        slot: OwnedMutexGuard<()>,
    ) -> Claim {
        let stop = Arc::new(AtomicBool::new(false));
        *lock(&self.busy) = Some((what, Arc::clone(&stop)));
        Claim { index: Arc::clone(self), stop, _slot: slot }
    }
}
