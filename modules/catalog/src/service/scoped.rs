//! What the active profile hides: refused where a call names it, and left out of what is told of
//! everything at once.
//!
//! Invariants: through whichever door a call came, it comes by here; parameters in which names
//! cannot be found are refused, and never taken for parameters without names; what is said in
//! words, of which nobody can tell whom it is about, is not told while anything is hidden; what
//! ends something that began while its dataset could be named is not refused.

use brahman_card::Fault;
use brahman_card::interface::catalog::{Dataset, ListOut, Version};
use brahman_card::interface::storage::{self as storage_interface, ScrubOut};
use brahman_sidecar::{Call, Scope};
use serde::Deserialize;

use super::realm::Realm;
use super::rescue::COPIES;
use super::{CatalogService, held};

/// First parts of the keys below which something of a dataset or an index may lie.
const SCOPED: [&str; 5] = ["datasets", "manifests", "indexes", "mock", COPIES];
/// Methods that act upon every dataset there is.
const OF_EVERYTHING: [&str; 2] = ["Snapshot", "ResyncMissing"];
/// Methods by which a run or a refresh ends that may have begun before the profile was activated.
const ENDS: [&str; 2] = ["Commit", "ClearStale"];
/// In the place of what was said in words.
const LEFT_OUT: &str = "what is said of datasets in words is left out while a profile hides some: `brahman profile deactivate` shows it";

/// The names of datasets in a call, of whichever method, and the key of an object, which may be one
/// of a dataset's or an index's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CallNames {
    name: Option<String>,
    to: Option<String>,
    key: Option<String>,
    dataset: Option<String>,
    run_id: Option<String>,
}

/// That a profile binds the dataset or the index of which an object is a part, if it is a part of
/// one.
fn check_key(scope: &Scope, key: &str) -> Result<(), Fault> {
    let parts: Vec<&str> = key.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    // Some disks do not tell a letter from its capital.
    let is = |part: &str, word: &str| part.eq_ignore_ascii_case(word);
    if !parts.first().is_some_and(|first| SCOPED.iter().any(|word| is(first, word))) {
        return Ok(());
    }
    for pair in parts.windows(2) {
        if is(pair[0], "datasets") || is(pair[0], "manifests") {
            return scope.dataset(pair[1]);
        }
        if is(pair[0], "indexes") {
            return scope.index(pair[1]);
        }
    }
    Ok(())
}

/// What was found by a scrub, without what the profile hides.
fn visible(scope: &Scope, mut found: ScrubOut) -> ScrubOut {
    if !scope.hides_datasets() {
        return found;
    }
    let is_bound = |key: &str| check_key(scope, key).is_ok();
    found.damaged.retain(|damage| is_bound(&damage.key));
    found.repaired.retain(|repair| is_bound(&repair.key));
    found.unrepaired.retain(|damage| is_bound(&damage.key));
    found
        .unfinished
        .iter_mut()
        .for_each(|runs| runs.retain(|run| scope.binds_dataset(&run.dataset)));
    if found.records.take().is_some() | found.notes.take().is_some() {
        found.notes = Some(vec![LEFT_OUT.to_owned()]);
    }
    found
}

impl CatalogService {
    /// That the active profile binds every dataset that a call names, or hides nothing where it is
    /// of everything.
    pub(super) async fn in_scope(&self, call: &Call) -> Result<(), Fault> {
        self.scope.known(call.deadline).await?;
        if self.scope.is_open() {
            return Ok(());
        }
        let names: CallNames = call.parameters()?;
        if let Some(key) = &names.key {
            check_key(&self.scope, key)?;
        }
        names.dataset.iter().try_for_each(|name| self.scope.dataset(name))?;
        // Of buckets the names are none of datasets.
        if call.interface() == storage_interface::INTERFACE.name {
            return Ok(());
        }
        if OF_EVERYTHING.contains(&call.method())
            || (call.method() == "Adopt" && names.name.is_none())
        {
            self.scope.whole(call.method())?;
        }
        let mut named = names.name.iter().chain(&names.to);
        let Err(refused) = named.try_for_each(|name| self.scope.dataset(name)) else {
            return Ok(());
        };
        if self.is_end(call.method(), &names).await? { Ok(()) } else { Err(refused) }
    }

    /// Whether a call ends what began while its dataset could be named: the run of which it speaks
    /// is under way, or made a generation of the dataset, and its id is told only to whoever may
    /// name that.
    async fn is_end(&self, method: &str, names: &CallNames) -> Result<bool, Fault> {
        let (Some(name), Some(run_id)) = (&names.name, &names.run_id) else { return Ok(false) };
        if !ENDS.contains(&method) {
            return Ok(false);
        }
        for realm in [Realm::Real, Realm::Mock] {
            let (name, run_id) = (name.clone(), run_id.clone());
            let looking = self.with(realm, move |registry| {
                let registry = held(registry);
                let open = registry.journal.open_runs(Some(&run_id), None);
                let is_open = open.iter().any(|run| run.dataset == name);
                let of_this = |all: Vec<Version>| all.iter().any(|one| one.run_id == run_id);
                Ok(is_open || registry.history(&name).is_ok_and(of_this))
            });
            if looking.await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A dataset without the names of indexes that are hidden.
    pub(super) fn seen_in_scope(&self, dataset: &mut Dataset) {
        dataset.stale.retain(|index| self.scope.binds_index(index));
    }

    /// A list without what is hidden.
    pub(super) fn list_in_scope(&self, out: &mut ListOut) {
        for list in [Some(&mut out.datasets), out.apart.as_mut()].into_iter().flatten() {
            list.retain(|dataset| self.scope.binds_dataset(&dataset.name));
            list.iter_mut().for_each(|dataset| self.seen_in_scope(dataset));
        }
        // Each is bucket/dataset/run.
        let is_bound = |run: &String| {
            run.split('/').nth(1).is_some_and(|dataset| self.scope.binds_dataset(dataset))
        };
        out.strangers.iter_mut().for_each(|runs| runs.retain(is_bound));
        if self.scope.hides_datasets() && out.notes.is_some() {
            out.notes = Some(vec![LEFT_OUT.to_owned()]);
        }
    }

    /// What a scrub has found, as far as it may be told.
    pub(super) fn scrub_in_scope(&self, found: &ScrubOut) -> ScrubOut {
        visible(&self.scope, found.clone())
    }

    /// Whether a failure that concerns this key may be told.
    pub(super) fn key_in_scope(&self, key: &str) -> bool {
        check_key(&self.scope, key).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::profiles::ActiveOut;
    use brahman_card::interface::storage::ScrubDamage;

    use super::*;

    #[test]
    fn what_lies_below_a_dataset_or_an_index_is_known_by_its_key_and_told_only_if_that_is_bound() {
        let one = Some(vec!["cvs".to_owned()]);
        let word = ActiveOut {
            id: Some("p".to_owned()),
            indexes: one.clone(),
            datasets: one,
            ..ActiveOut::default()
        };
        let scope = Scope::of(word);
        for below in [
            "datasets/NAME/r/part-0.parquet",
            "manifests/NAME/1.json",
            "indexes/NAME/index.json",
            "mock/b/datasets/NAME/x",
        ] {
            assert!(check_key(&scope, &below.replace("NAME", "cvs")).is_ok(), "{below}");
            let hidden = below.replace("NAME", "docs");
            assert!(
                check_key(&scope, &hidden).is_err()
                    && check_key(&scope, &hidden.replacen('s', "S", 1)).is_err(),
                "{hidden}"
            );
        }
        for own in [
            "notes/datasets/docs.txt",
            "datasets",
            "objects/node/primary/notes/a.txt",
            "datasets/cvs/datasets/docs",
        ] {
            assert!(check_key(&scope, own).is_ok(), "{own}");
        }
        let damage = |key: &str| ScrubDamage { key: key.to_owned(), ..ScrubDamage::default() };
        let found = ScrubOut {
            damaged: vec![damage("datasets/cvs/r/a"), damage("datasets/docs/r/a")],
            notes: Some(vec!["of docs nothing was recorded".to_owned()]),
            ..ScrubOut::default()
        };
        let told = visible(&scope, found.clone());
        assert_eq!((told.damaged.len(), told.notes), (1, Some(vec![LEFT_OUT.to_owned()])));
        assert_eq!(visible(&Scope::open(), found.clone()), found);
    }
}
