//! What may be deleted of what lies in the buckets.
//!
//! [`plan`] is pure: from what was read and what is listed to the folders that may go, or to a refusal. Invariants: nothing goes while
//! anything could not be read, for it might be what says that something is needed; only folders of runs that this catalog's journal
//! knows to have ended, or that a readable entry has just left behind; never one that an entry needs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use thiserror::Error;

/// A folder that no generation needs, of a run that has ended, goes once nothing in it was touched for this long: readers of an older
/// generation, and a read in parts that goes on, have had their time.
pub const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// A run's folder, by its dataset and its run.
pub type Folder = (String, String);

/// What was read before anything is deleted.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// By dataset, the folders that its file needs, or why that could not be read; also of one that was committed and has no file.
    pub needed: BTreeMap<String, Result<BTreeSet<Folder>, String>>,
    /// What else could not be read: the journal, the register of buckets, a folder.
    pub unread: Vec<String>,
    /// Folders that readable entries needed until now.
    pub left: BTreeSet<Folder>,
}

/// A folder as it lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub folder: Folder,
    /// Whether the journal says that the run has ended.
    pub ended: bool,
    /// Whether the journal says that it goes on.
    pub open: bool,
    /// Since it was last touched, where that is known.
    pub age: Option<Duration>,
}

/// Why nothing is deleted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("nothing is tidied, for this could not be read: {}", .unread.join("; "))]
pub struct Refusal {
    /// All of it.
    pub unread: Vec<String>,
}

/// Which of the listed folders may go.
///
/// # Errors
/// [`Refusal`], if anything could not be read.
pub fn plan(reading: &Reading, listing: &[Result<Listed, String>]) -> Result<BTreeSet<Folder>, Refusal> {
    let entries = reading.needed.iter().filter_map(|(name, needed)| Some(format!("dataset `{name}`: {}", needed.as_ref().err()?)));
    let listed = listing.iter().filter_map(|listed| listed.as_ref().err().cloned());
    let unread: Vec<String> = entries.chain(reading.unread.iter().cloned()).chain(listed).collect();
    if !unread.is_empty() {
        return Err(Refusal { unread });
    }
    let needed: BTreeSet<&Folder> = reading.needed.values().flatten().flatten().collect();
    let ours = |listed: &&Listed| {
        let orphan = listed.ended && listed.age.is_some_and(|age| age > ORPHAN_AGE);
        !listed.open && !needed.contains(&listed.folder) && (orphan || reading.left.contains(&listed.folder))
    };
    Ok(listing.iter().flatten().filter(ours).map(|listed| listed.folder.clone()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folders() -> impl Strategy<Value = BTreeSet<Folder>> {
        prop::collection::btree_set(("[ab]", "[r-w]"), 0..6)
    }

    fn listed() -> impl Strategy<Value = Result<Listed, String>> {
        let good = (("[ab]", "[r-w]"), any::<bool>(), any::<bool>(), prop::option::of(0_u64..8000));
        let good = good.prop_map(|(folder, ended, open, age)| Listed { folder, ended, open, age: age.map(Duration::from_secs) });
        prop_oneof![30 => good.prop_map(Ok), 1 => Just(Err("a folder: no permission".to_owned()))]
    }

    fn needs() -> impl Strategy<Value = Result<BTreeSet<Folder>, String>> {
        prop_oneof![20 => folders().prop_map(Ok), 1 => Just(Err("its checksum does not match".to_owned()))]
    }

    proptest! {
        #[test]
        fn nothing_goes_that_anything_may_need(
            needed in prop::collection::btree_map("[ab]", needs(), 0..3),
            unread in prop::collection::vec(Just("the journal".to_owned()), 0..2),
            left in folders(),
            listing in prop::collection::vec(listed(), 0..12),
        ) {
            let reading = Reading { needed, unread, left };
            let doubt = !reading.unread.is_empty() || reading.needed.values().any(Result::is_err) || listing.iter().any(Result::is_err);
            match plan(&reading, &listing) {
                Err(refusal) => prop_assert!(doubt && !refusal.unread.is_empty()),
                Ok(gone) => {
                    prop_assert!(!doubt);
                    for folder in &gone {
                        prop_assert!(!reading.needed.values().flatten().any(|needed| needed.contains(folder)));
                        let there: Vec<&Listed> = listing.iter().flatten().filter(|listed| listed.folder == *folder).collect();
                        prop_assert!(there.iter().any(|l| !l.open && (reading.left.contains(folder) || l.ended && l.age > Some(ORPHAN_AGE))));
                    }
                }
            }
        }
    }

    #[test]
    fn what_ended_long_ago_goes_and_one_file_that_cannot_be_read_keeps_everything() {
        let folder = |run: &str| ("d".to_owned(), run.to_owned());
        let old = |run: &str, ended| Ok(Listed { folder: folder(run), ended, open: false, age: Some(2 * ORPHAN_AGE) });
        let listing = [old("needed", true), old("failed", true), old("foreign", false), old("left", false)];
        let mut reading = Reading { left: [folder("left")].into(), ..Reading::default() };
        reading.needed.insert("d".into(), Ok([folder("needed")].into()));
        assert_eq!(plan(&reading, &listing), Ok([folder("failed"), folder("left")].into()));
        reading.needed.insert("e".into(), Err("its checksum does not match".into()));
        let refused = plan(&reading, &listing).expect_err("it may need any of them").to_string();
        assert!(refused.contains("`e`: its checksum does not match"), "{refused}");
    }
}
