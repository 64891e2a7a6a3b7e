//! Datasets that lie in S3: objects are put there, then a manifest under the generation's number,
//! and only then is the generation published here.
//!
//! ```text
//! datasets/<name>/<run_id>/part-0.parquet   immutable
//! manifests/<name>/<generation>.json        created once; a second one builds on it or is refused
//! ```
//!
//! A manifest that a crash kept from being published here is ours: its number is passed over. One
//! whose answers were all lost may be there or not: the commit is neither published nor refused,
//! its objects stay, and the same commit said again settles it.

use std::collections::BTreeMap;
use std::time::Duration;

use brahman_card::Fault;
use brahman_card::interface::catalog::{CommitIn, Object, error};
use brahman_sidecar::chain;
use brahman_storage::buckets::{BucketError, Creation};

use super::realm::Realm;
use super::{CatalogService, fault, unanswered};
use crate::registry::Roots;
use crate::registry::manifests::{self, Manifest};

/// Numbers passed over at most: each is a commit that a crash cut off.
const PASSED_MAX: u64 = 1000;
/// How often a manifest is put whose answers are lost, and how long after the first time it is put
/// again; doubled each time.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(250);
/// Manifests of one dataset that are listed.
pub(super) const MANIFESTS_MAX: usize = 100_000;
/// Longest manifest: as long as a commit may be that comes in one message, and what is around it.
const MANIFEST_BYTES_MAX: u64 = 32 << 20;

/// What became of a manifest that was to be new.
enum Put {
    Done,
    /// A commit of ours that a crash cut off has the number.
    Passed,
    Taken,
    /// The catalog of this name has taken the dataset up from us, and gone on.
    Adopted(String),
    /// All answers were lost.
    Unknown(String),
}

impl CatalogService {
    /// The buckets in S3 among those of some objects.
    fn remote(roots: &Roots, objects: &[Object]) -> Result<BTreeMap<String, Vec<Object>>, Fault> {
        let mut remote = BTreeMap::<String, Vec<Object>>::new();
        for object in objects {
            if !roots.get(&object.bucket).map_err(fault)?.is_local() {
                remote.entry(object.bucket.clone()).or_default().push(object.clone());
            }
        }
        Ok(remote)
    }

    /// Puts a verified commit into the buckets in S3 that it names. Gives the generation that it
    /// has there, 0 if it names none.
    pub(super) async fn put_remote(&self, commit: &CommitIn) -> Result<u64, Fault> {
        let asked = commit.name.clone();
        let known = self
            .consult(Realm::Real, move |registry| (registry.roots().clone(), registry.next(&asked)))
            .await;
        let (roots, next) = known.map_err(unanswered)?;
        let remote = Self::remote(&roots, &commit.objects)?;
        let (mut generation, known) = next.map_err(fault)?;
        // The same run said again: it is there.
        if remote.is_empty() || known == commit.objects {
            return Ok(0);
        }
        let base = commit.clone();
        self.consult(Realm::Real, move |registry| registry.check_base(&base))
            .await
            .map_err(unanswered)?
            .map_err(fault)?;
        // What is put there says whose it is.
        self.buckets
            .known_node()
            .map_err(|e| bucket_failed(remote.keys().next().map_or("", String::as_str), &e))?;
        for (bucket, objects) in &remote {
            if !known.iter().any(|object| object.bucket == *bucket) {
                self.check_vacant(bucket, &commit.name).await?;
            }
            for object in objects.iter().filter(|object| !known.contains(object)) {
                let path = roots.path(object).map_err(fault)?;
                let put =
                    self.buckets.upload(bucket, &object.key, &path, &object.sha256, false).await;
                put.map_err(|e| bucket_failed(bucket, &e))?;
            }
            let last = generation + PASSED_MAX;
            loop {
                match self.put_manifest(bucket, commit, generation).await? {
                    Put::Done => break,
                    Put::Passed if generation < last => generation += 1,
                    Put::Passed | Put::Taken => {
                        return Err(taken(bucket, &commit.name, generation));
                    }
                    Put::Adopted(by) => return Err(adopted(bucket, &commit.name, generation, &by)),
                    Put::Unknown(why) => return Err(unknown(bucket, commit, &why)),
                }
            }
        }
        Ok(generation)
    }

    /// Refuses a dataset's first commit into a bucket where somebody else's of the same name lies,
    /// whatever numbers that has left.
    async fn check_vacant(&self, bucket: &str, name: &str) -> Result<(), Fault> {
        let keys = self
            .buckets
            .keys(bucket, &format!("manifests/{name}"), MANIFESTS_MAX)
            .await
            .map_err(|e| bucket_failed(bucket, &e))?;
        let places = keys.iter().filter_map(|(key, _)| Some((key, manifests::place(key)?)));
        let Some((key, (_, number))) =
            places.filter(|(_, (of, _))| *of == name).max_by_key(|(_, (_, number))| *number)
        else {
            return Ok(());
        };
        match self.manifest(bucket, key).await {
            Ok(Some(manifest)) if manifest.node != self.node => Err(taken(bucket, name, number)),
            // Ours, or gone by now; what cannot be read is met when the number is taken.
            _ => Ok(()),
        }
    }

    /// Puts the manifest of a commit under a number, again and again for a while if its answers are
    /// lost: it is the same each time.
    async fn put_manifest(
        &self,
        bucket: &str,
        commit: &CommitIn,
        generation: u64,
    ) -> Result<Put, Fault> {
        let internal = |e: serde_json::Error| Fault::internal(chain(&e));
        let manifest = Manifest {
            node: self.node.clone(),
            run_id: commit.run_id.clone(),
            generation,
            taken_from: None,
            commit: serde_json::to_value(commit).map_err(internal)?,
            sha256: None,
        };
        let (key, bytes) =
            (manifests::key(&commit.name, generation), manifest.seal().map_err(internal)?);
        let (mut pause, mut tries) = (PAUSE, 1);
        loop {
            match self
                .buckets
                .create(bucket, &key, bytes.clone())
                .await
                .map_err(|e| bucket_failed(bucket, &e))?
            {
                Creation::New => return Ok(Put::Done),
                Creation::Exists(there) => {
                    return Ok(match serde_json::from_slice::<Manifest>(&there) {
                        Ok(there) if there.node == self.node && there.run_id == commit.run_id => {
                            Put::Done
                        }
                        Ok(there) if there.node == self.node => Put::Passed,
                        Ok(there) if there.taken_from.as_ref() == Some(&self.node) => {
                            Put::Adopted(there.node)
                        }
                        _ => Put::Taken,
                    });
                }
                Creation::Unknown(why) if tries >= TRIES => return Ok(Put::Unknown(why)),
                Creation::Unknown(_) => {
                    tokio::time::sleep(pause).await;
                    (pause, tries) = (pause * 2, tries + 1);
                }
            }
        }
    }

    /// A manifest as it lies in a bucket; none if it is not there. One whose checksum does not
    /// match says nothing.
    pub(super) async fn manifest(
        &self,
        bucket: &str,
        key: &str,
    ) -> Result<Option<Manifest>, BucketError> {
        let damaged = |why: String| BucketError::Damaged {
            name: bucket.to_owned(),
            key: key.to_owned(),
            why,
        };
        let Some(text) = self.manifest_text(bucket, key).await? else { return Ok(None) };
        let number = manifests::place(key).map_or(0, |(_, number)| number);
        Manifest::open(&text, number).map(Some).map_err(|error| damaged(chain(&error)))
    }

    /// The text of a manifest; none if it is not there.
    pub(super) async fn manifest_text(
        &self,
        bucket: &str,
        key: &str,
    ) -> Result<Option<Vec<u8>>, BucketError> {
        let damaged = |why: String| BucketError::Damaged {
            name: bucket.to_owned(),
            key: key.to_owned(),
            why,
        };
        let mut text = Vec::new();
        loop {
            let part = match self
                .buckets
                .read(bucket, key, (text.len() as u64, Some(PART_BYTES)), None)
                .await
            {
                Ok(part) => part,
                Err(BucketError::NoSuchObject { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            if part.size > MANIFEST_BYTES_MAX {
                return Err(damaged(format!(
                    "{} bytes, expected at most {MANIFEST_BYTES_MAX} of a manifest",
                    part.size
                )));
            }
            let is_last = part.bytes.is_empty();
            text.extend(part.bytes);
            if is_last || text.len() as u64 >= part.size {
                return Ok(Some(text));
            }
        }
    }
}

/// Bytes that are read at once.
const PART_BYTES: u64 = brahman_card::interface::storage::OBJECT_BYTES_MAX;

pub(super) fn bucket_failed(bucket: &str, error: &BucketError) -> Fault {
    let message = format!("bucket `{bucket}`: {}; nothing was published", chain(error));
    Fault::of(&error::BucketFailed { name: bucket.to_owned() }, true, message)
}

fn taken(bucket: &str, name: &str, generation: u64) -> Fault {
    let message = format!(
        "bucket `{bucket}` holds generation {generation} of dataset `{name}` by somebody else; nothing was published: give it another \
         name, or another bucket"
    );
    Fault::of(&error::Moved { name: name.to_owned() }, false, message)
}

/// Whoever goes on with a dataset that somebody has taken up elsewhere, knowingly or not.
fn adopted(bucket: &str, name: &str, generation: u64, by: &str) -> Fault {
    let message = format!(
        "dataset `{name}` was taken up from bucket `{bucket}` by another catalog, {by} (`brahman datasets adopt`), whose generation \
         {generation} lies there: this catalog can put no further one of it there, and nothing was published. What it has it can read. Go on \
         there; or here, under another name or in another bucket; or have the dataset deleted there, and commit again"
    );
    Fault::of(&error::Moved { name: name.to_owned() }, false, message)
}

fn unknown(bucket: &str, commit: &CommitIn, why: &str) -> Fault {
    let message = format!(
        "whether run {} of dataset `{}` is published is not known, for bucket `{bucket}` took its manifest and did not answer ({why}): say \
         the same commit again; its objects stay",
        commit.run_id, commit.name
    );
    Fault::of(
        &error::Unknown { name: commit.name.clone(), run_id: commit.run_id.clone() },
        true,
        message,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_never_said_to_be_unpublished() {
        let commit = CommitIn { name: "d".into(), run_id: "r".into(), ..CommitIn::default() };
        let fault = unknown("lake", &commit, "no answer within 60 s");
        assert!(
            fault.retryable() && fault.message().contains("say the same commit again"),
            "{fault}"
        );
        assert!(!fault.message().contains("nothing was published"), "{fault}");
        assert_eq!(
            (&fault.parameters["name"], &fault.parameters["run_id"]),
            (&"d".into(), &"r".into())
        );
        assert!(!taken("lake", "d", 3).retryable());
        let adopted = adopted("lake", "d", 3, "them");
        assert!(
            !adopted.retryable()
                && adopted.message().contains("them")
                && adopted.message().contains("nothing was published")
        );
    }
}
