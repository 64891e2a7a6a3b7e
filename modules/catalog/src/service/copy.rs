//! `Copy` and `Rename`: a dataset of another name, with the objects of the present generation of
//! one.
//!
//! A copy is a run like any other: it is begun in the lineage, its objects are put into its own
//! folder, verified, and published by one commit. A kill between any two steps leaves no dataset or
//! the whole one. A name is given up only after the copy was published, and only while what was
//! copied is still what there is: else the copy is taken back. Said again, either is answered by
//! what its first time has made: what a dataset was made of says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use brahman_card::Fault;
use brahman_card::interface::WireError as _;
use brahman_card::interface::catalog::error::{InUse, Moved, Pinned};
use brahman_card::interface::catalog::{
    CommitIn, CopyIn, CopyOut, Dataset, GetOut, LocationIn, Object,
};
use brahman_card::interface::storage::PRIMARY;
use brahman_sidecar::{blocking, chain};
use brahman_storage::atomic;

use super::realm::Realm;
use super::{CatalogService, fault, held, unanswered};
use crate::registry::{DatasetRegistry, RegistryError};

/// As whom copies begin their runs.
pub(super) const PRODUCER: &str = "copy";
/// How the input of a copy begins.
const SOURCE: &str = "dataset:";

/// Errors of a name that is not given up, by which nothing was changed.
const KEEPS_NAME: [&str; 3] = [Moved::NAME, InUse::NAME, Pinned::NAME];

/// What a dataset says that is a copy of a generation of another.
fn origin(name: &str, run_id: &str) -> String {
    format!("{SOURCE}{name}@{run_id}")
}

/// Whether a dataset's present generation is a copy of that one of another.
fn is_copy(dataset: &Dataset, origin: &str) -> bool {
    dataset.lineage.producer == PRODUCER
        && dataset.lineage.inputs.iter().any(|input| input == origin)
}

fn told(dataset: Dataset) -> CopyOut {
    CopyOut {
        name: dataset.name,
        generation: dataset.generation,
        rows: dataset.rows,
        run_id: dataset.lineage.run_id,
    }
}

/// Files that are to become a copy's objects.
struct Part {
    from: PathBuf,
    to: PathBuf,
    /// It lies in the same bucket, whose files nobody changes: a second name will do.
    may_link: bool,
}

impl CatalogService {
    /// Makes a copy of a dataset under a name that nothing has.
    pub(super) async fn copy(
        self: &Arc<Self>,
        realm: Realm,
        ask: CopyIn,
    ) -> Result<CopyOut, Fault> {
        let CopyIn { name, to, .. } = ask;
        Ok(told(self.copied(realm, &name, &to, false).await?))
    }

    /// Gives a dataset another name.
    pub(super) async fn rename(
        self: &Arc<Self>,
        realm: Realm,
        ask: CopyIn,
    ) -> Result<CopyOut, Fault> {
        let CopyIn { name, to, .. } = ask;
        let (from, new) = (name.clone(), to.clone());
        let begun = self
            .consult(realm, move |registry| (registry.has(&from), registry.get(&new).ok()))
            .await
            .map_err(unanswered)?;
        let was_vacant = begun.1.is_none();
        if let (false, Some(done)) = begun
            && done.lineage.inputs.iter().any(|input| input.starts_with(&origin(&name, "")))
            && done.lineage.producer == PRODUCER
        {
            return Ok(told(done));
        }
        let asked = name.clone();
        self.consult(realm, move |registry| registry.check_movable(&asked))
            .await
            .map_err(unanswered)?
            .map_err(fault)?;
        let copy = self.copied(realm, &name, &to, true).await?;
        // The run that was copied, as the copy says it: the dataset may have gone on since.
        let prefix = origin(&name, "");
        let run = copy
            .lineage
            .inputs
            .iter()
            .find_map(|input| input.strip_prefix(&prefix))
            .unwrap_or_default()
            .to_owned();
        let old = name.clone();
        let given_up = self.blocking(realm, move |registry| registry.delete_at(&old, &run)).await;
        if let Err(refused) = given_up {
            return Err(if was_vacant && KEEPS_NAME.contains(&&*refused.name) {
                self.take_back(realm, &name, copy, refused).await
            } else {
                refused
            });
        }
        self.tidy(realm, Some(&name)).await;
        self.show(realm, &name).await;
        self.follow_up(realm, name);
        Ok(told(copy))
    }

    /// Deletes the copy that a rename has just made of a dataset which keeps its name after all.
    /// Gives why it does, and what is left.
    async fn take_back(
        self: &Arc<Self>,
        realm: Realm,
        name: &str,
        copy: Dataset,
        refused: Fault,
    ) -> Fault {
        let (to, run) = (copy.name, copy.lineage.run_id);
        let (asked, why) = (to.clone(), refused.message().to_owned());
        let gone = self.blocking(realm, move |registry| registry.delete_at(&asked, &run)).await;
        let left = match &gone {
            Ok(()) => format!("nothing is called `{to}`"),
            Err(kept) => format!("its copy `{to}` stays: {}", kept.message()),
        };
        self.tidy(realm, Some(&to)).await;
        self.show(realm, &to).await;
        self.follow_up(realm, to);
        let words = if refused.name == Moved::NAME {
            "it went on while it was renamed; run it again"
        } else {
            &why
        };
        refused.with("message", format!("dataset `{name}` keeps its name, and {left}: {words}"))
    }

    /// The copy of a dataset's present generation, which is made if it is not there.
    async fn copied(
        self: &Arc<Self>,
        realm: Realm,
        name: &str,
        to: &str,
        keeps_number: bool,
    ) -> Result<Dataset, Fault> {
        let (_, seen) = self.seen(realm, name).await?;
        let origin = origin(name, &seen.lineage.run_id);
        let (asked, vacant) = (to.to_owned(), to.to_owned());
        match self.consult(realm, move |registry| registry.get(&asked)).await.map_err(unanswered)? {
            Ok(there) if is_copy(&there, &origin) => return Ok(there),
            Ok(_) => return Err(fault(RegistryError::Exists(to.to_owned()))),
            Err(_) => self
                .consult(realm, move |registry| registry.check_vacant(&vacant))
                .await
                .map_err(unanswered)?
                .map_err(fault)?,
        }
        let GetOut { dataset, borrowed, missing, .. } = self.get(realm, name).await?;
        if dataset.lineage.run_id != seen.lineage.run_id {
            let (is, expected) = (dataset.generation.to_string(), seen.generation.to_string());
            return Err(fault(RegistryError::Moved { name: name.to_owned(), is, expected }));
        }
        if let Some(key) = missing.and_then(|mut keys| keys.pop()) {
            return Err(fault(RegistryError::BadObject {
                key,
                why: "it cannot be read, so nothing was copied".to_owned(),
            }));
        }
        let bucket = dataset.objects.last().map_or(PRIMARY, |object| &object.bucket).to_owned();
        let run_id = ulid::Ulid::generate().to_string();
        let place = self.location(LocationIn {
            name: to.to_owned(),
            run_id: run_id.clone(),
            producer: Some(PRODUCER.to_owned()),
            bucket: Some(bucket.clone()),
            mock: Some(realm == Realm::Mock),
        });
        let place = place.await?;
        let (mut parts, mut objects) = (Vec::new(), Vec::new());
        for (n, object) in dataset.objects.iter().enumerate() {
            let file = format!("part-{n}.parquet");
            let is_borrowed = borrowed.iter().flatten().any(|key| *key == object.key);
            let may_link = object.bucket == bucket && !is_borrowed;
            parts.push(Part {
                from: object.local(),
                to: Path::new(&place.path).join(&file),
                may_link,
            });
            let (key, url) =
                (format!("{}/{file}", place.key_prefix), format!("{}/{file}", place.url_prefix));
            objects.push(Object { bucket: bucket.clone(), key, url, path: None, ..object.clone() });
        }
        let maker =
            (realm == Realm::Mock).then(|| dataset.maker.unwrap_or_else(|| PRODUCER.to_owned()));
        let commit = CommitIn {
            name: to.to_owned(),
            run_id: run_id.clone(),
            objects,
            columns: dataset.columns,
            inputs: vec![origin],
            producer: PRODUCER.to_owned(),
            pii: dataset.pii,
            watermark: dataset.watermark,
            expect: Some(0),
            expect_run: None,
            mock: Some(realm == Realm::Mock),
            maker,
        };
        match self
            .put_and_commit(
                parts,
                place.path.into(),
                commit,
                if keeps_number { dataset.generation } else { 0 },
            )
            .await
        {
            Ok(()) => {}
            Err(error) => {
                self.give_up(realm, to, run_id, error.message().to_owned()).await;
                return Err(error);
            }
        }
        let asked = to.to_owned();
        self.consult(realm, move |registry| registry.get(&asked))
            .await
            .map_err(unanswered)?
            .map_err(fault)
    }

    async fn put_and_commit(
        self: &Arc<Self>,
        parts: Vec<Part>,
        folder: PathBuf,
        commit: CommitIn,
        at_least: u64,
    ) -> Result<(), Fault> {
        let put = blocking(move || put(&parts, &folder));
        put.await.map_err(|e| Fault::internal(chain(&e)))?.map_err(fault)?;
        self.commit_at(commit, at_least).await.map(|_| ())
    }

    /// Ends the run of a copy that was not made: what it has put there goes.
    async fn give_up(self: &Arc<Self>, realm: Realm, name: &str, run_id: String, reason: String) {
        let end = move |registry: &Mutex<DatasetRegistry>| {
            let ended = held(registry).journal.abandon(Some(&run_id), None, &reason, false);
            ended.map_err(|source| RegistryError::Io { path: "lineage.log".into(), source })
        };
        if let Err(fault) = self.with(realm, end).await {
            tracing::error!("the end of a copy cannot be noted: {fault}");
        }
        self.follow_up(realm, name.to_owned());
    }
}

/// Puts the files of a copy into its run's folder, for good.
fn put(parts: &[Part], folder: &Path) -> Result<(), RegistryError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RegistryError::Io { path, source }
    };
    for Part { from, to, may_link } in parts {
        match fs::remove_file(to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(to)(error)),
            _ => {}
        }
        if *may_link && fs::hard_link(from, to).is_ok() {
            continue;
        }
        // On another disk, or on one that has no second names.
        fs::copy(from, to).and_then(|_| fs::File::open(to)?.sync_all()).map_err(failed(to))?;
    }
    atomic::sync_dir(folder).map_err(failed(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_put_whole_and_once_more_after_a_crash() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "rows").expect("written");
        fs::write(&to, "half").expect("left by a crash");
        for may_link in [true, false] {
            put(&[Part { from: from.clone(), to: to.clone(), may_link }], folder.path())
                .expect("put");
            assert_eq!(fs::read_to_string(&to).expect("there"), "rows");
        }
        assert!(
            put(&[Part { from: folder.path().join("none"), to, may_link: true }], folder.path())
                .is_err()
        );
    }

    #[test]
    fn a_copy_says_of_which_generation_it_is() {
        let mut dataset = Dataset::default();
        dataset.lineage.producer = PRODUCER.to_owned();
        dataset.lineage.inputs = vec![origin("a", "r1")];
        assert!(
            is_copy(&dataset, &origin("a", "r1"))
                && !is_copy(&dataset, &origin("a", "r2"))
                && !is_copy(&dataset, &origin("b", "r1"))
        );
        dataset.lineage.producer = "ingest".to_owned();
        assert!(!is_copy(&dataset, &origin("a", "r1")));
    }
}
