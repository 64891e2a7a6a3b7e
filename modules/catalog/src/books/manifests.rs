//! Manifests of a dataset in a bucket that several catalogs write to: whose they are, and which may be withdrawn.
//!
//! ```text
//! manifests/<name>/<generation>.json   created once; whoever comes second builds on it or is refused
//! ```
//!
//! Pure. A manifest says what a generation was made of when it was put there. It keeps nothing: whoever takes a dataset up from one
//! copies what it names, for its catalog may delete that at any time. Invariants: a manifest of somebody else's is never withdrawn, nor
//! one of a run of which the journal says nothing, unless a hundred came after it: a state that was restored from a backup has yet to
//! take it up.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Manifests kept in a bucket: as many as the history has.
pub const MANIFESTS_KEPT: u64 = 100;
/// Manifests before the present generation's that are looked at again: those of runs that were given up since the last look.
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
    /// From which catalog the dataset was taken up by this one, which locks that one out; none of a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_from: Option<String>,
    /// The whole commit, as it was asked for.
    #[serde(default)]
    pub commit: Value,
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
    /// Whether a number may have to be withdrawn, and so has to be read: not one of the hundred before the present generation, of which
    /// few are of runs that were given up.
    #[must_use]
    pub fn is_telling(&self, number: u64) -> bool {
        self.newest.is_none_or(|newest| number + MANIFESTS_KEPT <= newest || number + READ_BACK >= newest)
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
            // One by which a dataset was taken over keeps out whoever had it before, for as long as that one may come back.
            Some(newest) => {
                number + MANIFESTS_KEPT <= newest && manifest.taken_from.is_none() || ended && !self.published.contains(&manifest.run_id)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(node: &str, run: &str) -> Manifest {
        Manifest { node: node.into(), run_id: run.into(), generation: 1, taken_from: None, commit: Value::Null }
    }

    #[test]
    fn only_our_own_that_stand_for_nothing_are_withdrawn() {
        let runs = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let ended = runs(&["old", "now", "dead"]);
        let took_over = Manifest { taken_from: Some("them".into()), ..manifest("us", "old") };
        let mut head = Head { node: "us".into(), newest: Some(150), published: runs(&["old", "now"]), ended };
        let withdraws = |head: &Head, number, node: &str, run: &str| head.withdraws(number, &manifest(node, run));
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
        assert!(!head.withdraws(50, &took_over), "whoever had the dataset before is still kept out");
        assert!(head.is_telling(147) && head.is_telling(151) && head.is_telling(50) && !head.is_telling(146) && !head.is_telling(51));
        // Deleted, or elsewhere now.
        head.newest = None;
        assert!(head.is_telling(77) && withdraws(&head, 150, "us", "now"));
        for (node, run) in [("us", "coming"), ("us", "before the backup"), ("them", "now")] {
            assert!(!withdraws(&head, 150, node, run), "{node} {run}");
        }
    }

    #[test]
    fn keys_name_their_dataset_and_number() {
        assert_eq!(place(&key("shop.orders", 7)), Some(("shop.orders", 7)));
        for other in ["manifests/d", "manifests/d/x.json", "datasets/d/1.json", "manifests/d/1.txt"] {
            assert_eq!(place(other), None, "{other}");
        }
    }
}
