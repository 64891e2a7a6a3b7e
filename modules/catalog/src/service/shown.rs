//! Keeps the stable paths of datasets as the registry has them, for [`crate::views`] to show.
//!
//! Invariants: one dataset is shown at a time, as it is when its turn comes, so that what is shown
//! last is what was committed last; a view that cannot be made costs nobody his commit; nothing is
//! looked for in a bucket that is away; the view of a dataset is removed only where it is certain
//! that there is none.

use std::path::PathBuf;
use std::sync::Arc;

use brahman_card::interface::catalog::{Dataset, PinnedGeneration};
use brahman_sidecar::{blocking, chain};

use super::CatalogService;
use super::realm::Realm;
use crate::registry::DatasetRegistry;
use crate::views;

impl CatalogService {
    fn home(&self, realm: Realm) -> PathBuf {
        let state = if realm == Realm::Mock { &self.apart } else { &self.state };
        state.join(views::FOLDER)
    }

    /// Brings a dataset's view up to what the registry says.
    pub(super) async fn show(&self, realm: Realm, name: &str) {
        let turn = Arc::clone(&self.showing).lock_owned().await;
        let asked = name.to_owned();
        let of = move |registry: &DatasetRegistry| {
            (
                registry.generations(&asked),
                registry.is_known_absent(&asked),
                registry.roots().clone(),
            )
        };
        let Ok((generations, is_absent, roots)) = self.consult(realm, of).await else { return };
        for kept in &generations {
            if !self.away_of(realm, &kept.objects).await.is_empty() {
                return;
            }
        }
        let (home, dataset) = (self.home(realm), name.to_owned());
        let work = move || {
            let _turn = turn;
            match generations.is_empty() {
                false => views::show(&home, &dataset, &generations, &roots),
                true if is_absent => views::remove(&home, &dataset),
                true => Ok(()),
            }
        };
        if let Ok(Err(error)) = blocking(work).await {
            tracing::warn!(dataset = name, "its stable path is not up to date: {}", chain(&error));
        }
    }

    /// The same of all datasets, and of what views of others are left.
    pub(super) async fn show_all(&self) {
        for realm in [Realm::Real, Realm::Mock] {
            let mut names = self.consult(realm, DatasetRegistry::names).await.unwrap_or_default();
            let home = self.home(realm);
            names.extend(blocking(move || views::names(&home)).await.unwrap_or_default());
            names.sort_unstable();
            names.dedup();
            for name in names {
                self.show(realm, &name).await;
            }
        }
    }

    /// The stable path of a dataset, if it shows the present generation.
    pub(super) fn current(&self, realm: Realm, dataset: &Dataset) -> Option<String> {
        let path = views::current(
            &self.home(realm),
            &dataset.name,
            dataset.generation,
            &dataset.lineage.run_id,
        )?;
        Some(path.display().to_string())
    }

    /// A pin with the folder in which its generation lies.
    pub(super) fn with_folder(
        &self,
        realm: Realm,
        name: &str,
        mut pin: PinnedGeneration,
    ) -> PinnedGeneration {
        let folder = views::folder(&self.home(realm), name, pin.generation, &pin.run_id);
        pin.folder = folder.map(|folder| folder.display().to_string());
        pin
    }
}
