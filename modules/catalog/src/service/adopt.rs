//! `Adopt`: datasets that are taken up from the manifests in a bucket, as after a loss of the
//! state.
//!
//! What a manifest names is copied, within the bucket, into a run of this catalog's own, each
//! object verified on its way, and published with a manifest under the next number. The catalog
//! that put it there may live, and delete what it has put there whenever it needs that no more:
//! what was copied is ours alone. Invariants: nothing is published here that does not add up; what
//! another catalog has written is read, and never deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use brahman_card::Fault;
use brahman_card::card::nearest;
use brahman_card::interface::catalog::{
    AdoptIn, AdoptOut, AdoptionRefusal, CommitIn, Object, PublishedDataset, error,
};
use brahman_sidecar::{Call, Reply, chain};
use brahman_storage::buckets::{BucketError, Creation, Root};
use serde::Deserialize as _;
use thiserror::Error;

use super::realm::Realm;
use super::remote::{MANIFESTS_MAX, bucket_failed};
use super::{CatalogService, fault, held, unanswered};
use crate::registry::manifests::{self, Manifest};
use crate::registry::{DatasetRegistry, RegistryError, folder_of, names};

/// Datasets that are named where none is called as was asked for.
const NAMED_MAX: usize = 10;
/// Who began the runs by which datasets are taken up.
pub(super) const PRODUCER: &str = "adopt";

/// Why a dataset was not taken up.
#[derive(Debug, Error)]
enum AdoptError {
    #[error("it is here already: delete it first, or leave it")]
    Here,
    #[error(transparent)]
    Name(#[from] RegistryError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("{0} is gone: whoever put it there has withdrawn it")]
    Gone(String),
    #[error("{0} was put there meanwhile: call again")]
    Overtaken(String),
    #[error("whether {0} was put there is not known ({1}): call again")]
    Unknown(String, String),
    #[error("{0} does not say what the generation is made of")]
    NoCommit(String, #[source] serde_json::Error),
    #[error("{key}: {why}")]
    Object { key: String, why: String },
    #[error("{0}")]
    Catalog(Fault),
}

impl From<Fault> for AdoptError {
    fn from(fault: Fault) -> Self {
        Self::Catalog(fault)
    }
}

impl CatalogService {
    pub(super) async fn adopt(&self, call: &Call) -> Result<Reply, Fault> {
        // Of what lies there by our own user's secrets.
        call.allow_paths()?;
        let AdoptIn { bucket, name } = call.parameters()?;
        let out = self.adopt_from(&bucket, name.as_deref()).await?;
        for dataset in &out.adopted {
            self.show(Realm::Real, &dataset.name).await;
        }
        match name {
            Some(name) if out.adopted.is_empty() && out.refused.is_empty() => {
                Err(self.not_there(&bucket, name).await)
            }
            _ => Reply::of(&out),
        }
    }

    /// That no dataset of a name has a manifest in a bucket, with those that have.
    async fn not_there(&self, bucket: &str, name: String) -> Fault {
        let keys = self.buckets.keys(bucket, "manifests", MANIFESTS_MAX).await.unwrap_or_default();
        let there: BTreeSet<&str> = keys
            .iter()
            .filter_map(|(key, _)| manifests::place(key))
            .map(|(name, _)| name)
            .collect();
        let meant = nearest(&name, there.iter().copied())
            .map(|near| format!("; did you mean `{near}`?"))
            .unwrap_or_default();
        let mut named = there.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
        match there.len() {
            0 => "there is none".clone_into(&mut named),
            more if more > NAMED_MAX => {
                named = format!("there are {named} and {} more", more - NAMED_MAX);
            }
            _ => named = format!("there are {named}"),
        }
        let message = format!(
            "no manifest of a dataset `{name}` lies in bucket `{bucket}`{meant} ({named}); nothing was taken up"
        );
        Fault::of(&error::NoSuchDataset { name }, false, message)
    }

    /// A dataset that nobody here knows, from whichever bucket in S3 has its manifest; none if no
    /// bucket has.
    pub(super) async fn adopt_unknown(
        &self,
        name: &str,
    ) -> Result<Option<(PublishedDataset, Vec<String>)>, Fault> {
        let mut refused = None;
        for (bucket, _) in self.buckets.roots().into_iter().filter(|(_, root)| !root.is_local()) {
            let mut out = self.adopt_from(&bucket, Some(name)).await?;
            if let Some(adopted) = out.adopted.pop() {
                return Ok(Some((adopted, out.notes.unwrap_or_default())));
            }
            refused = refused.or(out.refused.pop());
        }
        match refused {
            None => Ok(None),
            Some(AdoptionRefusal { name, why }) => {
                let why = format!("its manifest was found in a bucket, and does not add up: {why}");
                Err(fault(RegistryError::Incomplete {
                    name,
                    why,
                    keys: Vec::new(),
                    rows: 0,
                    expected_rows: 0,
                }))
            }
        }
    }

    /// Takes up every dataset that has a manifest in a bucket, or the one that is named.
    pub(super) async fn adopt_from(
        &self,
        bucket: &str,
        only: Option<&str>,
    ) -> Result<AdoptOut, Fault> {
        let asked = bucket.to_owned();
        let root = self
            .consult(Realm::Real, move |registry| registry.roots().get(&asked).cloned())
            .await
            .map_err(unanswered)?
            .map_err(fault)?;
        if root.is_local() {
            let expected = format!(
                "`{bucket}` is a folder, which has no manifests: `brahman datasets resync NAME` reads the objects there"
            );
            return Err(Fault::invalid_parameter("bucket", expected));
        }
        if let Some(name) = only {
            names::check(name).map_err(fault)?;
        }
        self.buckets.known_node().map_err(|e| bucket_failed(bucket, &e))?;
        self.buckets.present(bucket).await.map_err(|e| bucket_failed(bucket, &e))?;
        let prefix =
            only.map_or_else(|| "manifests".to_owned(), |name| format!("manifests/{name}"));
        let keys = self
            .buckets
            .keys(bucket, &prefix, MANIFESTS_MAX)
            .await
            .map_err(|e| bucket_failed(bucket, &e))?;
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for (name, number) in keys.iter().filter_map(|(key, _)| manifests::place(key)) {
            if only.is_none_or(|only| only == name) {
                let known = newest.entry(name.to_owned()).or_default();
                *known = number.max(*known);
            }
        }
        let mut out = AdoptOut::default();
        let mut notes = Vec::new();
        for (name, number) in newest {
            match self.adopt_one(bucket, &root, &name, number).await {
                Ok((generation, rows, from)) => {
                    notes.extend(from.map(|from| locked_out(&from, bucket, &name)));
                    out.adopted.push(PublishedDataset { name, generation, rows });
                }
                Err(error) => out.refused.push(AdoptionRefusal { name, why: chain(&error) }),
            }
        }
        out.notes = Some(notes).filter(|notes| !notes.is_empty());
        Ok(out)
    }

    /// Gives the generation and the rows, and the catalog that they were taken from, if it is
    /// another.
    async fn adopt_one(
        &self,
        bucket: &str,
        root: &Root,
        name: &str,
        number: u64,
    ) -> Result<(u64, u64, Option<String>), AdoptError> {
        names::check_new(name)?;
        let asked = name.to_owned();
        let is_here = self
            .consult(Realm::Real, move |registry| registry.has(&asked))
            .await
            .map_err(unanswered)?;
        if is_here {
            return Err(AdoptError::Here);
        }
        let key = manifests::key(name, number);
        let manifest =
            self.manifest(bucket, &key).await?.ok_or_else(|| AdoptError::Gone(key.clone()))?;
        let run_id = ulid::Ulid::generate().to_string();
        let commit = commit_of(&manifest, &key, bucket, root, name, &run_id)?;
        let next = number.saturating_add(1);
        let (begun, run, within) = (name.to_owned(), run_id.clone(), bucket.to_owned());
        let start = move |registry: &Mutex<DatasetRegistry>| {
            let started = held(registry).journal.start_in(&begun, &run, PRODUCER, Some(&within));
            started.map_err(|source| RegistryError::Io { path: "lineage.log".into(), source })
        };
        self.with(Realm::Real, start).await?;
        let rows = commit.objects.iter().map(|o| o.rows).sum();
        let from = Some(manifest.node).filter(|node| *node != self.node);
        match self.copy_and_publish(bucket, root, commit, next, from.clone()).await {
            Ok(()) => Ok((next, rows, from)),
            Err(error) => {
                let reason = chain(&error);
                let end = move |registry: &Mutex<DatasetRegistry>| {
                    let ended = held(registry).journal.abandon(Some(&run_id), None, &reason, false);
                    ended.map_err(|source| RegistryError::Io { path: "lineage.log".into(), source })
                };
                if let Err(fault) = self.with(Realm::Real, end).await {
                    tracing::error!("the end of an adoption cannot be noted: {fault}");
                }
                // What was copied goes.
                self.tidy_remote(name).await;
                Err(error)
            }
        }
    }

    /// Copies what a commit names into its own run, and publishes that under a number which nobody
    /// may have taken.
    async fn copy_and_publish(
        &self,
        bucket: &str,
        root: &Root,
        mut commit: CommitIn,
        number: u64,
        taken_from: Option<String>,
    ) -> Result<(), AdoptError> {
        let prefix = format!("datasets/{}/{}", commit.name, commit.run_id);
        let mut objects = Vec::new();
        for (n, object) in commit.objects.iter().enumerate() {
            let key = format!("{prefix}/part-{n}.parquet");
            self.buckets.copy(bucket, bucket, &object.key, &key, &object.sha256, false).await?;
            objects.push(Object { url: root.url_of(&key), key, ..object.clone() });
        }
        let there: BTreeMap<String, u64> =
            self.buckets.keys(bucket, &prefix, objects.len()).await?.into_iter().collect();
        if let Some(object) =
            objects.iter().find(|object| there.get(&object.key) != Some(&object.bytes))
        {
            let why = format!("it is not as long as its manifest says, {} bytes", object.bytes);
            return Err(AdoptError::Object { key: object.key.clone(), why });
        }
        commit.objects = objects;
        let key = manifests::key(&commit.name, number);
        let no_commit = |e| AdoptError::NoCommit(key.clone(), e);
        let said = serde_json::to_value(&commit).map_err(no_commit)?;
        let (node, run_id) = (self.node.clone(), commit.run_id.clone());
        let manifest =
            Manifest { node, run_id, generation: number, taken_from, commit: said, sha256: None };
        let bytes = manifest.seal().map_err(no_commit)?;
        match self.buckets.create(bucket, &key, bytes).await? {
            Creation::New => {}
            Creation::Exists(_) => return Err(AdoptError::Overtaken(key)),
            Creation::Unknown(why) => return Err(AdoptError::Unknown(key, why)),
        }
        self.blocking(Realm::Real, move |registry| registry.commit(commit, number)).await?;
        self.copier.wake();
        Ok(())
    }
}

/// What whoever takes a dataset up should know of whoever put it there.
fn locked_out(from: &str, bucket: &str, name: &str) -> String {
    format!(
        "`{name}` was put there by catalog {from}: if that one still lives, it can put no further generation of `{name}` into bucket \
         `{bucket}`, and its next commit is refused and says so; what it has stays its own. Deleting `{name}` here gives it back"
    )
}

/// The commit of a manifest as one of this catalog's, in the bucket's name and place here.
fn commit_of(
    manifest: &Manifest,
    key: &str,
    bucket: &str,
    root: &Root,
    name: &str,
    run_id: &str,
) -> Result<CommitIn, AdoptError> {
    let said = CommitIn::deserialize(&manifest.commit)
        .map_err(|e| AdoptError::NoCommit(key.to_owned(), e))?;
    let wrong =
        |key: &str, why: &str| Err(AdoptError::Object { key: key.to_owned(), why: why.to_owned() });
    if said.name != name || said.mock == Some(true) {
        return wrong(key, "it is of another dataset, or a mock's");
    }
    let Some(theirs) = said.objects.first().map(|object| object.bucket.clone()) else {
        return wrong(key, "it names no objects");
    };
    let mut objects = said.objects;
    for object in &mut objects {
        let plain =
            object.key.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if object.bucket != theirs || !plain || folder_of(&object.key).is_none() {
            return wrong(&object.key, "expected all objects below datasets/ of this bucket");
        }
        (object.bucket, object.url, object.path) =
            (bucket.to_owned(), root.url_of(&object.key), None);
    }
    // None of this name may be here by then.
    Ok(CommitIn {
        objects,
        run_id: run_id.to_owned(),
        expect: Some(0),
        expect_run: None,
        mock: None,
        maker: None,
        ..said
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn manifest(commit: Value) -> Manifest {
        Manifest {
            node: "them".into(),
            run_id: "r".into(),
            generation: 3,
            taken_from: None,
            commit,
            sha256: None,
        }
    }

    fn told(commit: Value) -> Result<CommitIn, AdoptError> {
        let root = Root { folder: "/copies/lake".into(), url: "s3://lake/data".into() };
        commit_of(&manifest(commit), "manifests/d/3.json", "lake", &root, "d", "run")
    }

    fn commit(name: &str, objects: &[(&str, &str)]) -> Value {
        let object = |(bucket, key): &(&str, &str)| json!({"bucket": bucket, "key": key, "url": "s3://x", "rows": 3, "bytes": 9, "sha256": "0"});
        let objects: Vec<Value> = objects.iter().map(object).collect();
        json!({"name": name, "run_id": "r", "objects": objects, "columns": [], "inputs": ["file:///a"], "producer": "p", "expect": 2})
    }

    #[test]
    fn a_commit_is_taken_up_in_the_names_of_here() {
        let taken =
            told(commit("d", &[("theirs", "datasets/d/r/part-0.parquet")])).expect("it adds up");
        assert_eq!((taken.run_id.as_str(), taken.expect, taken.inputs.len()), ("run", Some(0), 1));
        let object = &taken.objects[0];
        assert_eq!(
            (object.bucket.as_str(), object.url.as_str()),
            ("lake", "s3://lake/data/datasets/d/r/part-0.parquet")
        );
    }

    #[test]
    fn what_does_not_add_up_is_refused_by_name() {
        let key = "datasets/d/r/part-0.parquet";
        for (bad, words) in [
            (commit("other", &[("b", key)]), "another dataset"),
            (commit("d", &[]), "no objects"),
            (commit("d", &[("b", key), ("c", key)]), "all objects"),
            (commit("d", &[("b", "datasets/d/../../x")]), "all objects"),
            (commit("d", &[("b", "elsewhere/d/r/p")]), "all objects"),
            (Value::Null, "does not say"),
            (json!({"name": "d"}), "does not say"),
        ] {
            let refused = chain(&told(bad).expect_err("it does not add up"));
            assert!(refused.contains(words), "{refused}");
        }
    }
}
