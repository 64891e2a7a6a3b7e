//! What the catalog says of itself, and how often.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brahman_sidecar::blocking;
use brahman_storage::writable;
use tokio::sync::watch;

use super::{CatalogService, held, lock};
use crate::registry::{DatasetRegistry, Head};

/// How often `status` hears how far copies are behind at most, and how often of how long they are.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(1);
const TELL_AGE_EVERY: Duration = Duration::from_secs(30);

/// Present generations: the real ones', the mocks'.
#[derive(Clone, Debug, Default)]
pub(super) struct Heads {
    pub(super) real: BTreeMap<String, Head>,
    pub(super) mock: BTreeMap<String, Head>,
}

/// Tells whoever watches what the generations are.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    pub(super) real: Arc<Mutex<DatasetRegistry>>,
    pub(super) mocks: Arc<Mutex<DatasetRegistry>>,
    pub(super) heads: Arc<watch::Sender<Heads>>,
    /// Held from the reading to the telling: what is told last was read last.
    turn: Arc<Mutex<()>>,
}

impl Teller {
    pub(super) fn new(
        real: &Arc<Mutex<DatasetRegistry>>,
        mocks: &Arc<Mutex<DatasetRegistry>>,
    ) -> Self {
        let heads = Arc::new(watch::channel(Heads::default()).0);
        Self { real: Arc::clone(real), mocks: Arc::clone(mocks), heads, turn: Arc::default() }
    }

    /// It waits for whoever holds the registry.
    pub(super) fn tell(&self) {
        let _turn = lock(&self.turn);
        let real = held(&self.real).heads();
        let mock = held(&self.mocks).heads();
        self.heads.send_replace(Heads { real, mock });
    }
}

impl CatalogService {
    /// What `status` shows of this module: that nothing can be written, which buckets are away,
    /// and, where there are to be copies, how far they are behind, and why. It looks at disks, and
    /// may wait for them.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        if writable::check(&self.state).is_err() {
            all.insert("state".to_owned(), "read-only".to_owned());
        }
        let away: Vec<String> = self.buckets.absent().into_iter().map(|(name, _)| name).collect();
        if !away.is_empty() {
            all.insert("buckets.away".to_owned(), away.join(", "));
        }
        let lineage = self.registry().journal.unread().into_iter();
        let buckets = [
            self.buckets.shortfall(),
            self.buckets.journal().shortfall(),
            self.buckets.nameless().map(str::to_owned),
        ];
        let damaged: Vec<String> = lineage.chain(buckets.into_iter().flatten()).collect();
        if !damaged.is_empty() {
            all.insert("damaged".to_owned(), damaged.join("; "));
        }
        all.extend(lock(&self.unfinished).clone().map(|words| ("unfinished".to_owned(), words)));
        if !self.buckets.rescues() {
            return all;
        }
        let (lag, why) = self.lag_now();
        let figures = [
            ("copies.objects", lag.objects),
            ("copies.bytes", lag.bytes),
            ("copies.oldest_s", lag.oldest_s),
        ];
        let why = why.unwrap_or_default();
        all.extend(figures.map(|(name, figure)| (name.to_owned(), figure.to_string())));
        all.insert("copies.why".to_owned(), why);
        all
    }

    /// Says [`Self::attributes`] now and whenever they have changed; ends with its task.
    pub async fn keep_telling(self: &Arc<Self>, say: impl AsyncFn(BTreeMap<String, String>)) {
        let (mut lag, mut told) = (self.copier.watch(), None);
        loop {
            // Before it is looked at: what changes meanwhile is told next.
            lag.borrow_and_update();
            let service = Arc::clone(self);
            let attributes = blocking(move || service.attributes()).await.unwrap_or_default();
            if told.as_ref() != Some(&attributes) {
                say(attributes.clone()).await;
                told = Some(attributes);
            }
            tokio::time::sleep(TELL_EVERY).await;
            // How old the oldest is grows by itself, and disks come and go.
            tokio::select! {
                _ = lag.changed() => {}
                () = tokio::time::sleep(TELL_AGE_EVERY) => {}
            }
        }
    }
}
