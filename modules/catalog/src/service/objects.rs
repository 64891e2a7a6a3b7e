//! `GetObject` and `PutObject`: single objects of a bucket, by key.
//!
//! Invariants: an object that a dataset names is given only with the bytes that were committed,
//! from its bucket or from the copy in `rescue`; none is ever written over.

use brahman_card::Fault;
use brahman_card::interface::storage::{
    GetObjectIn, GetObjectOut, OBJECT_BYTES_MAX, PutObjectIn, PutObjectOut, RESCUE, decode, encode,
    error,
};
use brahman_sidecar::{Call, Reply, chain};
use brahman_storage::buckets::{BucketError, Part};
use brahman_storage::digest::{hex, sha256};

use super::realm::Realm;
use super::rescue::{COPIES, Lookup, copy_keys, earlier_place};
use super::storage::{refused, refused_with};
use super::{CatalogService, unanswered};

/// Longest key: what S3 takes.
const KEY_BYTES_MAX: usize = 1024;
/// First parts of keys that the mesh itself writes below.
const OURS: [&str; 8] = [
    "datasets",
    "manifests",
    "indexes",
    "mock",
    "brahman-probe",
    ".brahman-bucket.json",
    ".brahman-catalogs",
    COPIES,
];

/// Whether a key names one object below a bucket, alike in every kind of bucket.
fn check(key: &str) -> Result<(), Fault> {
    // Others are written by stores in codes of their own.
    let plain = |c: char| (c.is_ascii_graphic() || c == ' ') && !"\\{^}%`]\">[~<#|*?".contains(c);
    let parts = key.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if key.len() <= KEY_BYTES_MAX && key.chars().all(plain) && parts {
        return Ok(());
    }
    let expected = "parts of printable ASCII without \\ { } [ ] ^ % ` \" < > ~ # | * ?, separated by single slashes, none of them . or ..";
    Err(Fault::invalid_parameter("key", format!("`{}`: expected {expected}", key.escape_debug())))
}

impl CatalogService {
    pub(super) async fn get_object(&self, call: &Call) -> Result<Reply, Fault> {
        // Of our own user's files, and by our own user's secrets.
        call.allow_paths()?;
        let GetObjectIn { bucket, key, offset, length } = call.parameters()?;
        check(&key)?;
        if length.is_some_and(|length| length > OBJECT_BYTES_MAX) {
            return Err(Fault::invalid_parameter(
                "length",
                format!("expected at most {OBJECT_BYTES_MAX}"),
            ));
        }
        let offset = offset.unwrap_or(0);
        let (within, at) = (bucket.clone(), key.clone());
        let recorded = self
            .consult(Realm::Real, move |registry| {
                registry.object(&within, &at).map(|object| object.sha256)
            })
            .await;
        let recorded = recorded.map_err(unanswered)?;
        let failed =
            match self.buckets.read(&bucket, &key, (offset, length), recorded.as_deref()).await {
                Ok(part) => return told(part, offset, recorded.is_some(), false),
                Err(error) => error,
            };
        // Not there, not what it was, or not within reach.
        let lost = matches!(
            failed,
            BucketError::NoSuchObject { .. }
                | BucketError::Damaged { .. }
                | BucketError::Unusable { .. }
                | BucketError::Away { .. }
        );
        if lost && bucket != RESCUE && self.buckets.rescues() {
            // Where that cannot be known, what an earlier version has copied may be another
            // catalog's.
            let lookup = match recorded {
                Some(_) => Lookup::Recorded,
                None => Lookup::Unrecorded {
                    shared: self.buckets.is_shared(RESCUE).await.unwrap_or(true),
                },
            };
            for copy in copy_keys(&self.node, &bucket, &key, lookup).all() {
                match self.buckets.read(RESCUE, &copy, (offset, length), recorded.as_deref()).await
                {
                    Ok(part) => return told(part, offset, recorded.is_some(), true),
                    Err(error) => {
                        tracing::warn!(bucket, key, "no help from {RESCUE}: {}", chain(&error));
                    }
                }
            }
            let old = earlier_place(&bucket, &key);
            // It is there, and may be another catalog's: a person can tell.
            if lookup == (Lookup::Unrecorded { shared: true })
                && self.buckets.read(RESCUE, &old, (0, Some(0)), None).await.is_ok()
            {
                let hint = format!(
                    "an earlier version has copied one to {old} in bucket {RESCUE}, into which other catalogs copy as well, so that whose it is \
                     cannot be told: look at it with `brahman buckets get {RESCUE} {old}`, and if it is yours put it back with `brahman \
                     buckets put {bucket} {key} FILE`"
                );
                return Err(refused_with(&bucket, &failed, &hint));
            }
        }
        Err(refused(&bucket, &failed))
    }

    pub(super) async fn put_object(&self, call: &Call) -> Result<Reply, Fault> {
        call.allow_paths()?;
        let PutObjectIn { bucket, key, data_base64 } = call.parameters()?;
        check(&key)?;
        let own = key
            .split('/')
            .next()
            .is_some_and(|first| OURS.iter().any(|ours| first.eq_ignore_ascii_case(ours)));
        if own {
            return Err(Fault::invalid_parameter(
                "key",
                format!("`{key}`: expected one not below {}", OURS.join("/, ")),
            ));
        }
        let bad = || {
            Fault::invalid_parameter(
                "data_base64",
                "expected base64 (RFC 4648, section 4) with its padding",
            )
        };
        let bytes = decode(&data_base64).ok_or_else(bad)?;
        let size = bytes.len() as u64;
        if size > OBJECT_BYTES_MAX {
            let message = format!("{size} bytes, expected at most {OBJECT_BYTES_MAX}");
            return Err(Fault::of(
                &error::TooLarge { name: Some(bucket), size, max: OBJECT_BYTES_MAX },
                false,
                message,
            ));
        }
        let (within, at) = (bucket.clone(), key.clone());
        let owner = self
            .consult(Realm::Real, move |registry| registry.owner(&within, &at))
            .await
            .map_err(unanswered)?;
        let taken = |why: String| {
            let message = format!("{key} in bucket `{bucket}` {why}; nothing was put");
            Err(Fault::of(&error::Taken { name: bucket.clone(), key: key.clone() }, false, message))
        };
        // While a dataset's file cannot be read, what is there may be its own: only what is new is
        // put then.
        let only_new = match &owner {
            Ok(Some(dataset)) => return taken(format!("is what dataset `{dataset}` is made of")),
            Ok(None) => false,
            Err(_) => true,
        };
        let sha256 = hex(&sha256(&bytes));
        let put = self
            .buckets
            .put(&bucket, &key, bytes.clone(), only_new)
            .await
            .map_err(|e| refused(&bucket, &e))?;
        if let (false, Err(doubts)) = (put, &owner) {
            return taken(format!(
                "is there, and may be a dataset's, for this could not be read: {}",
                doubts.join("; ")
            ));
        }
        // Its copy would lie under a name that nobody has.
        let copies =
            bucket != RESCUE && self.buckets.rescues() && self.buckets.nameless().is_none();
        let copied = copies
            && self.buckets.put(RESCUE, &self.copy_key(&bucket, &key), bytes, false).await.is_ok();
        Reply::of(&PutObjectOut { size, sha256, copied })
    }
}

fn told(part: Part, offset: u64, is_recorded: bool, rescue_used: bool) -> Result<Reply, Fault> {
    let (data_base64, verified) = (encode(&part.bytes), is_recorded.then_some(true));
    Reply::of(&GetObjectOut {
        data_base64,
        size: part.size,
        offset,
        sha256: part.sha256,
        rescue_used,
        verified,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_never_leads_out_of_its_bucket() {
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            "./a",
            "a\0",
            "ü",
            "a%2e",
            "a#1",
            &"x".repeat(1025),
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for good in
            ["a", "notes/a b.txt", "x/.hidden", "a=1/b+c,d@e", "...", "datasets/d/r/part-0.parquet"]
        {
            assert!(check(good).is_ok(), "{good}");
        }
    }

    proptest! {
        #[test]
        fn what_is_checked_stays_below(key in ".{0,20}") {
            if check(&key).is_ok() {
                let path = std::path::Path::new("/bucket").join(&key);
                prop_assert!(
                    path.starts_with("/bucket")
                        && path.components().count() == 2 + key.split('/').count()
                );
            }
        }
    }
}
