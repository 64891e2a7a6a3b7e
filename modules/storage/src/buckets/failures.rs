//! The journal of operations on buckets that failed.
//!
//! Invariants: whoever notes a failure waits for no disk, since that is where requests are
//! answered; failures reach the disk in the order in which they were noted, and those that came
//! together with one fsync; what is told is bounded. Where the journal cannot be opened failures
//! are kept for as long as this process lives, which is said.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brahman_card::chain;
use brahman_card::interface::storage::Failure;
use tokio::runtime::Handle;

use crate::log::Log;

/// Failures after which the older half is dropped.
const FAILURES_MAX: usize = 20_000;

/// What is kept, the oldest first.
#[derive(Debug)]
struct KeptFailures {
    all: Vec<Failure>,
    /// The last so many are not on the disk yet.
    unwritten: usize,
    /// Whether older ones were dropped that are still on the disk.
    is_cut: bool,
    /// Whether somebody is on the way to write them.
    is_awaited: bool,
}

/// The journal. Locked in this order: `log`, which is held while the disk works, then `kept`, which
/// never is.
#[derive(Debug)]
pub struct FailureJournal {
    /// Or why there is none.
    log: Mutex<io::Result<Log>>,
    kept: Mutex<KeptFailures>,
}

impl FailureJournal {
    /// Opens it; without it nothing else is missing.
    pub(super) fn open(file: &Path) -> Arc<Self> {
        let (log, all) = match Log::open(file) {
            Ok((log, all)) => (Ok(log), all),
            Err(error) => {
                tracing::error!("{}: {}", file.display(), chain(&error));
                (Err(error), Vec::new())
            }
        };
        Arc::new(Self {
            log: Mutex::new(log),
            kept: Mutex::new(KeptFailures { all, unwritten: 0, is_cut: false, is_awaited: false }),
        })
    }

    fn log(&self) -> MutexGuard<'_, io::Result<Log>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, KeptFailures> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a failure, and has it written by a thread that may wait for the disk.
    pub(super) fn note(self: &Arc<Self>, failure: Failure) {
        let mut kept = self.kept();
        kept.all.push(failure);
        kept.unwritten += 1;
        if kept.all.len() > FAILURES_MAX {
            kept.all = kept.all.split_off(FAILURES_MAX / 2);
            kept.is_cut = true;
        }
        // Whoever writes the one before will find this one, too.
        if std::mem::replace(&mut kept.is_awaited, true) {
            return;
        }
        drop(kept);
        match Handle::try_current() {
            Ok(runtime) => {
                let journal = Arc::clone(self);
                drop(runtime.spawn_blocking(move || journal.flush()));
            }
            // No request is answered on this thread.
            Err(_) => self.flush(),
        }
    }

    /// Writes what is not on the disk yet: on return all that was noted before is, or the log says
    /// why not. Blocks.
    pub fn flush(&self) {
        let mut log = self.log();
        let (new, is_cut) = {
            let mut kept = self.kept();
            let from = if kept.is_cut { 0 } else { kept.all.len().saturating_sub(kept.unwritten) };
            (kept.unwritten, kept.is_awaited) = (0, false);
            (kept.all[from..].to_vec(), std::mem::take(&mut kept.is_cut))
        };
        let Ok(log) = &mut *log else { return };
        let written = match (is_cut, new.is_empty()) {
            (true, _) => log.compact(&new),
            (false, true) => Ok(()),
            (false, false) => log.append(&new),
        };
        if let Err(error) = written {
            tracing::error!("the journal of failures: {}", chain(&error));
        }
    }

    /// Why it may hold fewer than were written. Blocks.
    #[must_use]
    pub fn shortfall(&self) -> Option<String> {
        match &*self.log() {
            Ok(log) => log.shortfall(),
            Err(error) => Some(format!(
                "errors.log cannot be opened ({}): failures are kept until the catalog ends",
                chain(error)
            )),
        }
    }

    /// Failures, newest first, and how many are kept.
    #[must_use]
    pub fn newest(&self, limit: usize) -> (Vec<Failure>, usize) {
        let kept = self.kept();
        (kept.all.iter().rev().take(limit).cloned().collect(), kept.all.len())
    }

    /// Keeps the newest failures; says how many are kept and how many were dropped. Blocks.
    ///
    /// # Errors
    /// As the file system gives them; all are then kept.
    pub fn compact(&self, keep: usize) -> io::Result<(usize, usize)> {
        let mut log = self.log();
        let (dropped, newer) = {
            let mut kept = self.kept();
            let dropped = kept.all.len().saturating_sub(keep);
            let dropped: Vec<Failure> = kept.all.drain(..dropped).collect();
            (kept.unwritten, kept.is_cut) = (0, false);
            (dropped, kept.all.clone())
        };
        let count = dropped.len();
        if let Ok(log) = &mut *log
            && let Err(error) = log.compact(&newer)
        {
            let mut kept = self.kept();
            drop(kept.all.splice(0..0, dropped));
            // Some of them may not have reached the disk before: the next one to be noted brings
            // all.
            kept.is_cut = true;
            return Err(error);
        }
        Ok((newer.len(), count))
    }
}
