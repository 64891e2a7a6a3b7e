//! Manifests of a dataset in a bucket that several catalogs write to: whose they are, which may be withdrawn, and what they keep.
//!
//! ```text
//! manifests/<name>/<generation>.json   created once; whoever comes second builds on it or is refused
//! ```
//!
//! Pure. Two catalogs agree by these alone. Whoever **adopts** a dataset claims the number after the newest one, by creating it, then
//! looks whether the manifest that it adopts is still there. Whoever **deletes** objects first withdraws every manifest of its own that
//! stands for them, then looks for others' claims, and keeps what those name. Whichever of the two comes first is seen by the other;
//! that holds where a bucket's listing shows what was written before it, as S3's does.
//!
//! Invariants: a manifest of somebody else's is never withdrawn, nor one that cannot be read, nor one of a run of which the journal says
//! nothing, unless a hundred came after it: a state that was restored from a backup has yet to take it up; an object that somebody else's manifest
//! names is never deleted; nothing is deleted below a dataset of whose manifests one cannot be read.

use std::collections::BTreeSet;

use brahman_card::interface::catalog::Object;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// Manifests kept in a bucket: as many as the history has.
pub const MANIFESTS_KEPT: u64 = 100;

/// What lies in the bucket for anybody to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Which catalog put it there.
    pub node: String,
    /// The run that made the generation.
    pub run_id: String,
    /// Its number there.
    pub generation: u64,
    /// The whole commit.
    #[serde(default)]
    pub commit: Value,
}

impl Manifest {
    /// Keys of the objects that it names.
    ///
    /// # Errors
    /// If its commit does not say: it may name anything.
    pub fn keys(&self) -> Result<BTreeSet<String>, serde_json::Error> {
        #[derive(Deserialize)]
        struct Named {
            objects: Vec<Object>,
        }
        // A manifest of the first versions, or one that holds a number only, has no commit.
        if self.commit.is_null() {
            return Ok(BTreeSet::new());
        }
        Named::deserialize(&self.commit).map(|named| named.objects.into_iter().map(|object| object.key).collect())
    }
}

/// Key of a dataset's manifest.
#[must_use]
pub fn key(name: &str, generation: u64) -> String {
    format!("manifests/{name}/{generation:020}.json")
}

/// The dataset and the generation of a manifest's key.
#[must_use]
pub fn place(key: &str) -> Option<(&str, u64)> {
    let (name, file) = key.strip_prefix("manifests/")?.split_once('/')?;
    Some((name, file.strip_suffix(".json")?.parse().ok()?))
}

/// How a dataset stands here, against which its manifests in one bucket are held.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// By which this catalog is known.
    pub node: String,
    /// Its present generation; none if it was deleted, or lies in other buckets now.
    pub newest: Option<u64>,
    /// Runs whose generations are in its history.
    pub published: BTreeSet<String>,
    /// Runs of this catalog that have ended, however.
    pub ended: BTreeSet<String>,
}

impl Head {
    /// Whether a number has to be read to know what it keeps. Between what is old and the last two generations lie ours alone: where
    /// somebody else had taken one of those numbers, we could not have taken the next.
    #[must_use]
    pub fn is_telling(&self, number: u64) -> bool {
        self.newest.is_none_or(|newest| number + MANIFESTS_KEPT <= newest || number + 1 >= newest)
    }

    /// Whether a manifest may be withdrawn.
    #[must_use]
    pub fn withdraws(&self, number: u64, manifest: &Manifest) -> bool {
        if manifest.node != self.node {
            return false;
        }
        // A run that goes on may be about to be published by it.
        let ended = self.ended.contains(&manifest.run_id);
        match self.newest {
            None => ended,
            Some(newest) => number + MANIFESTS_KEPT <= newest || ended && !self.published.contains(&manifest.run_id),
        }
    }
}

/// A manifest that could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{key}: {why}")]
pub struct Unread {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

/// The keys that manifests of others keep.
///
/// # Errors
/// [`Unread`], if one of them may name anything.
pub fn claimed<'a>(node: &str, manifests: impl Iterator<Item = (&'a str, &'a Manifest)>) -> Result<BTreeSet<String>, Unread> {
    let mut keys = BTreeSet::new();
    for (key, manifest) in manifests.filter(|(_, manifest)| manifest.node != node) {
        keys.extend(manifest.keys().map_err(|e| Unread { key: key.to_owned(), why: e.to_string() })?);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(node: &str, run: &str, commit: Value) -> Manifest {
        Manifest { node: node.into(), run_id: run.into(), generation: 1, commit }
    }

    #[test]
    fn only_our_own_that_stand_for_nothing_are_withdrawn() {
        let runs = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let ended = runs(&["old", "now", "dead"]);
        let mut head = Head { node: "us".into(), newest: Some(150), published: runs(&["old", "now"]), ended };
        let withdraws = |head: &Head, number, node: &str, run: &str| head.withdraws(number, &manifest(node, run, Value::Null));
        for (number, node, run, expected) in [
            (150, "us", "now", false),
            (151, "us", "coming", false),
            (151, "us", "dead", true),
            (151, "us", "before the backup", false),
            (50, "us", "old", true),
            (51, "us", "old", false),
            (151, "them", "dead", false),
            (1, "them", "old", false),
        ] {
            assert_eq!(withdraws(&head, number, node, run), expected, "{number} {node} {run}");
        }
        assert!(head.is_telling(149) && head.is_telling(151) && head.is_telling(50) && !head.is_telling(148) && !head.is_telling(51));
        // Deleted, or elsewhere now.
        head.newest = None;
        assert!(head.is_telling(77) && withdraws(&head, 150, "us", "now"));
        for (node, run) in [("us", "coming"), ("us", "before the backup"), ("them", "now")] {
            assert!(!withdraws(&head, 150, node, run), "{node} {run}");
        }
    }

    #[test]
    fn what_others_name_is_kept_and_what_cannot_be_told_is_said() {
        let object = json!({"bucket": "b", "key": "datasets/d/r/p", "url": "", "rows": 1, "bytes": 1, "sha256": ""});
        let theirs = manifest("them", "r", json!({"objects": [object], "of_a_later_version": true}));
        let ours = manifest("us", "s", json!({"objects": "none"}));
        let told = claimed("us", [("k1", &theirs), ("k2", &ours)].into_iter()).expect("theirs can be told");
        assert_eq!(told, ["datasets/d/r/p".to_owned()].into());
        let unread = claimed("them", [("k1", &theirs), ("k2", &ours)].into_iter()).expect_err("it may name anything");
        assert_eq!(unread.key, "k2");
        assert!(manifest("x", "r", Value::Null).keys().expect("it names nothing").is_empty());
    }

    #[test]
    fn keys_name_their_dataset_and_number() {
        assert_eq!(place(&key("shop.orders", 7)), Some(("shop.orders", 7)));
        for other in ["manifests/d", "manifests/d/x.json", "datasets/d/1.json", "manifests/d/1.txt"] {
            assert_eq!(place(other), None, "{other}");
        }
    }
}
