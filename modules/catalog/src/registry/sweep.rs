//! What may be deleted of what lies in the buckets, object by object.
//!
//! [`plan`] is pure: from what was read and what is listed to the objects that may go, or to a
//! refusal. Invariants: nothing goes while anything could not be read, for it might be what says
//! that something is needed; only objects of runs that this catalog's journal says it began, in a
//! bucket where they wrote (or a copy of theirs in `rescue`), and that have ended; never one that
//! an entry needs. How old an object is decides nothing by itself: a run goes on until something
//! says that it has ended.
//!
//! What is spent stays spent: a commit builds on what is needed only, so that between a plan and a
//! deletion nothing comes to be needed that was planned to go, unless a run is taken up again or a
//! lost dataset is put together. Those two exclude deletions, which ask [`verdict`] once more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brahman_card::interface::storage::RESCUE;
use thiserror::Error;

use super::entry::folder_of;

/// What a run that was given up has written on this machine stays for so long: a read in parts goes
/// on with it.
pub const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// A run's folder, by its dataset and its run.
pub type Folder = (String, String);

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has begun, and nothing says that it has ended.
    Open,
    /// Its commit stands, or stood.
    Committed,
    /// It was given up.
    Failed {
        /// So long ago.
        for_ms: u64,
    },
}

/// What the journal of this catalog says of a run that it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// Whose run it is.
    pub dataset: String,
    /// The buckets that it wrote into; earlier versions did not record them, and none stands for
    /// all.
    pub buckets: BTreeSet<String>,
    /// Whether it goes on, and how it ended.
    pub standing: Standing,
}

/// Why something that had to be read before anything is deleted was not: what it says is not known,
/// and may be anything.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Doubt(pub String);

/// What was read before anything is deleted.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// By dataset, the folders that its file needs, or why that could not be read; also of one that
    /// was committed and has no file.
    pub needed: BTreeMap<String, Result<BTreeSet<Folder>, Doubt>>,
    /// What else could not be read: the journal, the registry of buckets, a folder.
    pub unread: Vec<String>,
    /// Runs that this catalog began, by their ids.
    pub runs: BTreeMap<String, RunRecord>,
}

/// An object as it lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// Name of the bucket that it lies in.
    pub bucket: String,
    /// Key of the object in its bucket.
    pub key: String,
    /// Whether a run that was given up may go on with it: it lies on this machine, where runs
    /// write.
    pub resumable: bool,
}

/// What is to be done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may go.
    Spent,
    /// It stays.
    Kept,
    /// It stays, for nothing here says whose it is.
    Stranger,
}

/// What may go, and what is nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are listed.
    pub spent: Vec<ListedObject>,
    /// Buckets and folders of which the journal says nothing.
    pub strangers: BTreeSet<(String, Folder)>,
}

/// Why nothing is deleted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("nothing is tidied, for this could not be read: {}", .unread.join("; "))]
pub struct Refusal {
    /// All that could not be read, in words.
    pub unread: Vec<String>,
}

/// What becomes of one object, by what the journal says of the run that its key names and whether
/// its folder is needed.
#[must_use]
pub fn verdict(listed: &ListedObject, run: Option<&RunRecord>, is_needed: bool) -> Verdict {
    if is_needed {
        return Verdict::Kept;
    }
    // Where no run writes nothing is known to be ours.
    let (Some((dataset, _)), Some(run)) = (folder_of(&listed.key), run) else {
        return Verdict::Stranger;
    };
    let wrote_there =
        run.buckets.is_empty() || run.buckets.contains(&listed.bucket) || listed.bucket == RESCUE;
    if run.dataset != dataset || !wrote_there {
        return Verdict::Stranger;
    }
    match run.standing {
        Standing::Open => Verdict::Kept,
        Standing::Failed { for_ms }
            if listed.resumable && u128::from(for_ms) < ORPHAN_AGE.as_millis() =>
        {
            Verdict::Kept
        }
        Standing::Committed | Standing::Failed { .. } => Verdict::Spent,
    }
}

/// Which of the listed objects may go.
///
/// # Errors
/// [`Refusal`], if anything could not be read.
pub fn plan(evidence: &Evidence, listing: &[Result<ListedObject, Doubt>]) -> Result<Plan, Refusal> {
    let entries = evidence
        .needed
        .iter()
        .filter_map(|(name, needed)| Some(format!("dataset `{name}`: {}", needed.as_ref().err()?)));
    let listed = listing.iter().filter_map(|listed| listed.as_ref().err().map(Doubt::to_string));
    let unread: Vec<String> =
        entries.chain(evidence.unread.iter().cloned()).chain(listed).collect();
    if !unread.is_empty() {
        return Err(Refusal { unread });
    }
    let needed: BTreeSet<(&str, &str)> = evidence
        .needed
        .values()
        .flatten()
        .flatten()
        .map(|(dataset, run)| (dataset.as_str(), run.as_str()))
        .collect();
    let mut plan = Plan::default();
    for listed in listing.iter().flatten() {
        let folder = folder_of(&listed.key);
        let run = folder.and_then(|(_, run)| evidence.runs.get(run));
        match verdict(listed, run, folder.is_some_and(|folder| needed.contains(&folder))) {
            Verdict::Spent => plan.spent.push(listed.clone()),
            Verdict::Stranger => {
                let stranger = folder.map(|(dataset, run)| {
                    (listed.bucket.clone(), (dataset.to_owned(), run.to_owned()))
                });
                plan.strangers.extend(stranger);
            }
            Verdict::Kept => {}
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folders() -> impl Strategy<Value = BTreeSet<Folder>> {
        prop::collection::btree_set(("[ab]", "[r-w]"), 0..6)
    }

    fn listed() -> impl Strategy<Value = Result<ListedObject, Doubt>> {
        let good =
            ("primary|lake|rescue", "(datasets/[ab]/[r-w]/[01])|datasets/x|other", any::<bool>());
        let good =
            good.prop_map(|(bucket, key, resumable)| ListedObject { bucket, key, resumable });
        prop_oneof![30 => good.prop_map(Ok), 1 => Just(Err(Doubt("a folder: no permission".to_owned())))]
    }

    fn needs() -> impl Strategy<Value = Result<BTreeSet<Folder>, Doubt>> {
        prop_oneof![20 => folders().prop_map(Ok), 1 => Just(Err(Doubt("its checksum does not match".to_owned())))]
    }

    fn runs() -> impl Strategy<Value = BTreeMap<String, RunRecord>> {
        let standing = prop_oneof![
            Just(Standing::Open),
            Just(Standing::Committed),
            (0_u64..8_000_000).prop_map(|for_ms| Standing::Failed { for_ms }),
        ];
        let buckets = prop::collection::btree_set("primary|lake", 0..3);
        let run = ("[ab]", buckets, standing).prop_map(|(dataset, buckets, standing)| RunRecord {
            dataset,
            buckets,
            standing,
        });
        prop::collection::btree_map("[r-w]", run, 0..6)
    }

    proptest! {
        #[test]
        fn nothing_goes_that_anything_may_need_or_that_is_not_known_to_be_ours(
            needed in prop::collection::btree_map("[ab]", needs(), 0..3),
            unread in prop::collection::vec(Just("the journal".to_owned()), 0..2),
            runs in runs(),
            listing in prop::collection::vec(listed(), 0..12),
        ) {
            let evidence = Evidence { needed, unread, runs };
            let doubt = !evidence.unread.is_empty()
                || evidence.needed.values().any(Result::is_err)
                || listing.iter().any(Result::is_err);
            match plan(&evidence, &listing) {
                Err(refusal) => prop_assert!(doubt && !refusal.unread.is_empty()),
                Ok(plan) => {
                    prop_assert!(!doubt);
                    for listed in &plan.spent {
                        let (dataset, run) =
                            folder_of(&listed.key).expect("only what a run wrote goes");
                        let folder = (dataset.to_owned(), run.to_owned());
                        prop_assert!(
                            !evidence
                                .needed
                                .values()
                                .flatten()
                                .any(|needed| needed.contains(&folder))
                        );
                        let record = evidence.runs.get(run).expect("only what is ours goes");
                        prop_assert!(
                            record.standing != Standing::Open && record.dataset == dataset
                        );
                        let wrote =
                            record.buckets.is_empty() || record.buckets.contains(&listed.bucket);
                        prop_assert!(wrote || listed.bucket == "rescue");
                    }
                    for (bucket, folder) in &plan.strangers {
                        prop_assert!(
                            !evidence
                                .needed
                                .values()
                                .flatten()
                                .any(|needed| needed.contains(folder))
                        );
                        let record = evidence.runs.get(&folder.1);
                        prop_assert!(
                            record.is_none_or(
                                |r| r.dataset != folder.0 || !r.buckets.contains(bucket)
                            )
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_has_ended_goes_and_one_file_that_cannot_be_read_keeps_everything() {
        let listed = |run: &str, resumable| ListedObject {
            bucket: "primary".into(),
            key: format!("datasets/d/{run}/p"),
            resumable,
        };
        let run = |standing| RunRecord {
            dataset: "d".into(),
            buckets: ["primary".to_owned()].into(),
            standing,
        };
        let hour = u64::try_from(ORPHAN_AGE.as_millis()).expect("an hour");
        let mut evidence = Evidence::default();
        let young = Standing::Failed { for_ms: hour - 1 };
        let runs = [
            ("needed", Standing::Committed),
            ("old", Standing::Committed),
            ("failed", Standing::Failed { for_ms: hour }),
            ("young", young),
        ];
        evidence.runs = runs.map(|(id, standing)| (id.to_owned(), run(standing))).into();
        evidence.runs.insert("open".into(), run(Standing::Open));
        evidence.needed.insert("d".into(), Ok([("d".to_owned(), "needed".to_owned())].into()));
        let listing: Vec<_> = ["needed", "old", "failed", "young", "open", "foreign"]
            .map(|run| Ok(listed(run, true)))
            .into();
        let told = plan(&evidence, &listing).expect("all is read");
        assert_eq!(told.spent, [listed("old", true), listed("failed", true)]);
        assert_eq!(
            told.strangers,
            [("primary".to_owned(), ("d".to_owned(), "foreign".to_owned()))].into()
        );
        // In a bucket that is only put into by a commit nothing goes on where it stopped; elsewhere
        // than it wrote nothing is ours.
        assert_eq!(
            plan(&evidence, &[Ok(listed("young", false))]).expect("all is read").spent,
            [listed("young", false)]
        );
        let elsewhere =
            |bucket: &str| ListedObject { bucket: bucket.into(), ..listed("old", false) };
        let told = plan(&evidence, &[Ok(elsewhere("lake")), Ok(elsewhere("rescue"))])
            .expect("all is read");
        assert_eq!(told.spent, [elsewhere("rescue")], "a copy is ours wherever it was copied from");
        evidence.needed.insert("e".into(), Err(Doubt("its checksum does not match".into())));
        let refused = plan(&evidence, &listing).expect_err("it may need any of them").to_string();
        assert!(refused.contains("`e`: its checksum does not match"), "{refused}");
    }
}
