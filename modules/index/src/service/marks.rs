//! Marks of the catalog's that say that an index is behind its dataset, and are true no more.
//!
//! A refresh takes its own mark away. After a resync, a restore, or a refresh whose last word was
//! lost, an index may be of what its dataset is now and be marked all the same. Invariant: only
//! marks of indexes that live here and answer are looked at.

use brahman_card::interface::catalog::{self, ClearStaleIn, Dataset};
use brahman_sidecar::{CallOptions, chain};

use super::IndexService;
use super::datasets::Version;
use super::shelf::lock;

impl IndexService {
    /// Takes away the marks of indexes that are of what the datasets are now.
    pub(super) async fn clear_marks(&self, listed: &[Dataset]) {
        for dataset in listed {
            let now = Version::of(dataset);
            for name in dataset.stale.iter().filter(|name| self.is_of(name, dataset, &now)) {
                let clear = ClearStaleIn {
                    name: dataset.name.clone(),
                    index: name.clone(),
                    generation: now.generation,
                    run_id: now.run.clone(),
                    mock: Some(self.mock),
                };
                match self
                    .client
                    .call_method::<catalog::method::ClearStale>(&clear, &CallOptions::default())
                    .await
                {
                    Ok(_) => tracing::info!(
                        index = name,
                        dataset = dataset.name,
                        "it is not behind: its mark was taken away"
                    ),
                    Err(error) => tracing::info!(
                        index = name,
                        dataset = dataset.name,
                        "its mark stays for now: {}",
                        chain(&error)
                    ),
                }
            }
        }
    }

    /// Whether an index lives here and answers with what its dataset is now.
    fn is_of(&self, name: &str, dataset: &Dataset, now: &Version) -> bool {
        let index = lock(&self.indexes).get(name).cloned();
        index.is_some_and(|index| {
            let is_current = index.generation().is_some_and(|of| !now.differs(&of.manifest));
            index.parameters.dataset == dataset.name && is_current && index.degraded().is_none()
        })
    }
}
