//! Manifests of a dataset in a bucket that several catalogs write to: whose they are, and which may
//! be withdrawn.
//!
//! ```text
//! manifests/<name>/<generation>.json   created once; a second one builds on it or is refused
//! ```
//!
//! Pure. A manifest says what a generation was made of when it was put there, with a checksum,
//! which those of earlier versions have not. It keeps nothing: whoever takes a dataset up from one
//! copies what it names, for its catalog may delete that at any time. Invariants: a manifest of
//! somebody else's is never withdrawn, nor one of a run of which the journal says nothing, unless a
//! hundred came after it: a state that was restored from a backup has yet to take it up.

use std::collections::BTreeSet;

use brahman_storage::digest::{hex, sha256};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

/// Manifests kept in a bucket: as many as the history has.
pub const MANIFESTS_KEPT: u64 = 100;
/// Manifests before the present generation's that are looked at again: those of runs that were
/// given up since the last look.
const READ_BACK: u64 = 3;

/// What lies in the bucket for anybody to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Which catalog put it there.
    pub node: String,
    /// The run that made the generation.
    pub run_id: String,
    /// Its number in that bucket.
    pub generation: u64,
    /// From which catalog the dataset was taken up by this one, which locks that one out; none of a
    /// commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_from: Option<String>,
    /// The whole commit, as it was asked for.
    #[serde(default)]
    pub commit: Value,
    /// Of the commit's text, in hex; earlier versions did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// What is wrong with a manifest's text.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// It is something else.
    #[error("it is no manifest")]
    Malformed(#[from] serde_json::Error),
    /// Its commit is not what was written.
    #[error("its checksum does not match")]
    Checksum,
    /// It lies where another belongs.
    #[error("it is generation {says}'s, and lies where that of generation {expected} belongs")]
    Place {
        /// Generation that it says it is of.
        says: u64,
        /// Generation by its key.
        expected: u64,
    },
}

/// A manifest with its commit as it was written, byte for byte.
#[derive(Deserialize)]
struct SealedManifest<'a> {
    generation: u64,
    #[serde(borrow, default)]
    commit: Option<&'a RawValue>,
    #[serde(default)]
    sha256: Option<String>,
}

impl Manifest {
    /// As it is put into a bucket: with the checksum of its commit. The same manifest has the same
    /// bytes each time.
    ///
    /// # Errors
    /// None of what this program makes.
    pub fn seal(self) -> serde_json::Result<Vec<u8>> {
        let commit = serde_json::to_string(&self.commit)?;
        serde_json::to_vec(&Self { sha256: Some(hex(&sha256(commit.as_bytes()))), ..self })
    }

    /// Reads one that lies where a generation's belongs.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn open(text: &[u8], number: u64) -> Result<Self, ManifestError> {
        let SealedManifest { generation, commit, sha256: said } = serde_json::from_slice(text)?;
        if let Some(said) = said
            && commit.is_none_or(|commit| hex(&sha256(commit.get().as_bytes())) != said)
        {
            return Err(ManifestError::Checksum);
        }
        if generation != number {
            return Err(ManifestError::Place { says: generation, expected: number });
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// Whether a damaged text was that of a commit of this catalog, and all of its damage is within
    /// the commit: what stands before that is whole, and says so.
    #[must_use]
    pub fn was_commit_of(text: &[u8], node: &str, run_id: &str, number: u64) -> bool {
        // Of one by which a dataset was taken up another field follows.
        text.starts_with(
            format!(
                "{{\"node\":\"{node}\",\"run_id\":\"{run_id}\",\"generation\":{number},\"commit\":"
            )
            .as_bytes(),
        )
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
    /// Whether a number may have to be withdrawn, and so has to be read: not one of the hundred
    /// before the present generation, of which few are of runs that were given up.
    #[must_use]
    pub fn is_telling(&self, number: u64) -> bool {
        self.newest
            .is_none_or(|newest| number + MANIFESTS_KEPT <= newest || number + READ_BACK >= newest)
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
            // One by which a dataset was taken over keeps out whoever had it before, for as long as
            // that one may come back.
            Some(newest) => {
                number + MANIFESTS_KEPT <= newest && manifest.taken_from.is_none()
                    || ended && !self.published.contains(&manifest.run_id)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(node: &str, run: &str) -> Manifest {
        Manifest {
            node: node.into(),
            run_id: run.into(),
            generation: 1,
            taken_from: None,
            commit: Value::Null,
            sha256: None,
        }
    }

    #[test]
    fn only_our_own_that_stand_for_nothing_are_withdrawn() {
        let runs = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let ended = runs(&["old", "now", "dead"]);
        let took_over = Manifest { taken_from: Some("them".into()), ..manifest("us", "old") };
        let mut head =
            Head { node: "us".into(), newest: Some(150), published: runs(&["old", "now"]), ended };
        let withdraws = |head: &Head, number, node: &str, run: &str| {
            head.withdraws(number, &manifest(node, run))
        };
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
        assert!(
            !head.withdraws(50, &took_over),
            "whoever had the dataset before is still kept out"
        );
        assert!(
            head.is_telling(147)
                && head.is_telling(151)
                && head.is_telling(50)
                && !head.is_telling(146)
                && !head.is_telling(51)
        );
        // Deleted, or elsewhere now.
        head.newest = None;
        assert!(head.is_telling(77) && withdraws(&head, 150, "us", "now"));
        for (node, run) in [("us", "coming"), ("us", "before the backup"), ("them", "now")] {
            assert!(!withdraws(&head, 150, node, run), "{node} {run}");
        }
    }

    #[test]
    fn any_flipped_bit_within_a_commit_is_noticed_and_ours_are_told_by_what_stands_before_it() {
        let commit = serde_json::json!({"name": "d", "run_id": "r", "rows": 7, "confidence": 0.1});
        let whole = Manifest { commit, ..manifest("us", "r") };
        let text = whole.clone().seal().expect("written");
        assert_eq!(text, whole.clone().seal().expect("written"), "the same each time");
        let read = Manifest::open(&text, 1).expect("whole");
        assert_eq!((&read.commit, read.sha256.is_some()), (&whole.commit, true));
        let from = String::from_utf8_lossy(&text).find("\"commit\":").expect("its commit")
            + "\"commit\":".len();
        let to = String::from_utf8_lossy(&text).find(",\"sha256\"").expect("its checksum");
        for at in from..to {
            let mut flipped = text.clone();
            flipped[at] ^= 1;
            Manifest::open(&flipped, 1).expect_err("damaged");
            assert!(Manifest::was_commit_of(&flipped, "us", "r", 1));
        }
        for (node, run, number) in [("them", "r", 1), ("us", "q", 1), ("us", "r", 2)] {
            assert!(!Manifest::was_commit_of(&text, node, run, number));
        }
        let took =
            Manifest { taken_from: Some("them".into()), ..whole.clone() }.seal().expect("written");
        assert!(
            !Manifest::was_commit_of(&took, "us", "r", 1),
            "what it locks out is not known from here"
        );
        assert!(matches!(
            Manifest::open(&text, 2),
            Err(ManifestError::Place { says: 1, expected: 2 })
        ));
        // Of an earlier version.
        let old = serde_json::to_vec(&whole).expect("written");
        assert_eq!(Manifest::open(&old, 1).expect("read").sha256, None);
        assert!(matches!(Manifest::open(b"{", 1), Err(ManifestError::Malformed(_))));
    }

    #[test]
    fn keys_name_their_dataset_and_number() {
        assert_eq!(place(&key("shop.orders", 7)), Some(("shop.orders", 7)));
        for other in ["manifests/d", "manifests/d/x.json", "datasets/d/1.json", "manifests/d/1.txt"]
        {
            assert_eq!(place(other), None, "{other}");
        }
    }
}
