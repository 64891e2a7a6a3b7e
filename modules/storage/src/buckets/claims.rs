//! Places that are being registered just now, before the registry names them.
//!
//! A probe may take as long as its server; others are added and removed meanwhile. Invariants: of
//! two that ask for overlapping places at once the later one is refused; a claim ends with whoever
//! made it, however that ends. Whoever claims first and then looks which buckets there are misses
//! nobody: who was before has registered by then, or still has its claim.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::error::BucketError;
use super::lock;
use super::open::{Location, Site};

/// All that are being registered, by their turns.
#[derive(Debug, Default)]
pub(super) struct Claims {
    next: u64,
    held: BTreeMap<u64, ClaimRecord>,
}

/// A place that somebody has asked for.
#[derive(Clone, Debug)]
struct ClaimRecord {
    name: String,
    location: Location,
    site: Site,
}

/// One's own claim; dropped, it ends.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Mutex<Claims>>,
    number: u64,
}

impl Claim {
    /// Claims a place for a bucket of a name.
    ///
    /// # Errors
    /// If one of that name, or one in S3 that overlaps, is being added; folders are compared by
    /// whoever makes one ([`Self::earlier_folders`]).
    pub(super) fn take(
        claims: &Arc<Mutex<Claims>>,
        name: &str,
        location: Location,
        site: Site,
    ) -> Result<Self, BucketError> {
        let mut all = lock(claims);
        let other =
            all.held.values().find(|other| other.name == name || other.site.overlaps(&site));
        if let Some(other) = other {
            let why = format!("bucket `{}` is being added just now: try again", other.name);
            return Err(BucketError::Unusable { name: name.to_owned(), why });
        }
        let number = all.next;
        all.next += 1;
        all.held.insert(number, ClaimRecord { name: name.to_owned(), location, site });
        drop(all);
        Ok(Self { claims: Arc::clone(claims), number })
    }

    /// Folders that others have claimed before, with their buckets' names.
    pub(super) fn earlier_folders(&self) -> Vec<(String, PathBuf)> {
        let all = lock(&self.claims);
        let earlier = all.held.range(..self.number).map(|(_, claimed)| claimed);
        earlier
            .filter_map(|claimed| match &claimed.location {
                Location::Folder(folder) => Some((claimed.name.clone(), folder.clone())),
                Location::S3 { .. } => None,
            })
            .collect()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.claims).held.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn of_two_that_ask_for_one_place_at_once_the_later_is_refused_until_the_first_has_ended() {
        let claims = Arc::default();
        let take = |name: &str, url: &str| {
            let location = Location::parse(name, url).expect("a location");
            Claim::take(&claims, name, location, Site::of(url, &BTreeMap::new()))
        };
        let first = take("lake", "s3://lake/a").expect("claimed");
        for (name, url) in
            [("lake", "s3://elsewhere"), ("sea", "s3://lake"), ("sea", "s3://lake/a/b")]
        {
            let refused = take(name, url).expect_err("it is being added").to_string();
            assert!(refused.contains("`lake`") && refused.contains("try again"), "{refused}");
        }
        let beside = take("sea", "s3://lake/b").expect("a neighbour");
        let (one, two) = (
            take("one", "file:///disk").expect("claimed"),
            take("two", "file:///disk/x").expect("compared by its maker"),
        );
        assert_eq!(
            (one.earlier_folders(), two.earlier_folders()),
            (Vec::new(), vec![("one".to_owned(), PathBuf::from("/disk"))])
        );
        drop((first, beside));
        take("sea", "s3://lake").expect("it has ended");
    }
}
