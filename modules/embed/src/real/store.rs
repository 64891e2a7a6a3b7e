//! Write-through of new inputs to the content-addressed store, behind the caller's back: a slow or
//! full disk costs objects, which are counted, and never a reply.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use brahman_card::interface::embed::StoreInfo;
use brahman_sidecar::chain;
use brahman_storage::cas::{CasError, Store};

/// Inputs that may wait for the disk.
const WAITING_MAX: usize = 1024;
/// Objects written between two collections.
const COLLECT_EVERY: u64 = 4096;

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// Why inputs are not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] CasError),
    /// There is no thread to write on.
    #[error(transparent)]
    Thread(#[from] io::Error),
}

/// The writer's near end.
#[derive(Debug)]
pub(super) struct WriteThrough {
    queue: Result<SyncSender<Vec<u8>>, StoreError>,
    counts: Arc<Counts>,
}

impl WriteThrough {
    pub(super) fn open(folder: &Path, bytes_max: u64) -> Self {
        let counts = Arc::new(Counts::default());
        let queue = Store::open(folder).map_err(StoreError::from).and_then(|store| {
            let (sender, inputs) = sync_channel::<Vec<u8>>(WAITING_MAX);
            let shared = Arc::clone(&counts);
            let writer = move || {
                for input in inputs {
                    match store.put(&input) {
                        Ok(_) => {
                            if shared.written.fetch_add(1, Ordering::Relaxed) % COLLECT_EVERY == 0 {
                                let _ = store.collect(bytes_max);
                            }
                        }
                        Err(error) => {
                            if shared.failed.fetch_add(1, Ordering::Relaxed) == 0 {
                                tracing::warn!("inputs are not being stored: {}", chain(&error));
                            }
                        }
                    }
                }
            };
            std::thread::Builder::new().name("write-through".into()).spawn(writer)?;
            Ok(sender)
        });
        Self { queue, counts }
    }

    pub(super) fn keep(&self, input: &[u8]) {
        if let Ok(queue) = &self.queue
            && queue.try_send(input.to_vec()).is_err()
        {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn info(&self) -> StoreInfo {
        StoreInfo {
            written: self.counts.written.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
            failed: self.counts.failed.load(Ordering::Relaxed),
            state: self
                .queue
                .as_ref()
                .map_or_else(|error| format!("absent: {}", chain(error)), |_| "open".into()),
        }
    }
}
