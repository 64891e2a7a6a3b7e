//! Which buckets there are, on disk, in `catalog/.registry/buckets.json`:
//! `{"version": 2, "buckets": [...]}` and a line with its checksum ([`checked`]), which earlier
//! versions did not write; before version 2 the list alone, beside the datasets' files.
//!
//! Invariants: written whole or not at all; what cannot be read is an error, and is not taken for
//! an empty registry; what an earlier version stored that is refused now, stays usable and is shown
//! to nobody.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use brahman_card::chain;
use brahman_card::interface::storage::Bucket;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::error::mask;
use super::is_own;
use super::open::{self, Location, Site};
use crate::atomic;
use crate::checked::{self, CheckedContent, CheckedError};
use crate::writable::is_read_only;

/// Its folder in the catalog's: no dataset's file can be called so.
const FOLDER: &str = ".registry";
/// Its name there, and in the catalog's folder before.
const NAME: &str = "buckets.json";
/// The format that is written.
const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registry {
    version: u32,
    buckets: Vec<Bucket>,
}

/// What a registry of any version says of itself.
#[derive(Deserialize)]
struct Format {
    version: u32,
}

/// Why the registry cannot be read.
#[derive(Debug, Error)]
pub(super) enum RegistryError {
    #[error(transparent)]
    File(#[from] CheckedError),
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf, #[source] serde_json::Error),
    #[error("{} is of version {version}, expected at most {max}: a newer brahman has written it", .path.display(), max = VERSION)]
    Newer { path: PathBuf, version: u32 },
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct RegistryContent {
    pub(super) buckets: Vec<Bucket>,
    /// It is there, and as an earlier version has written it: without a checksum.
    pub(super) is_old: bool,
}

/// Where it lies below a state; one that an earlier version has left among the datasets' files is
/// moved there.
///
/// # Errors
/// As the file system gives them.
pub(super) fn settle(state: &Path) -> io::Result<PathBuf> {
    let (catalog, old) = (state.join("catalog"), state.join("catalog").join(NAME));
    let (folder, new) = (catalog.join(FOLDER), catalog.join(FOLDER).join(NAME));
    let moved =
        fs::create_dir_all(&folder).and_then(|()| match (new.try_exists()?, old.try_exists()?) {
            (false, true) => {
                fs::rename(&old, &new)?;
                atomic::sync_dir(&folder)?;
                atomic::sync_dir(&catalog)
            }
            _ => Ok(()),
        });
    match moved {
        Ok(()) => Ok(new),
        // It is read where it is.
        Err(error) if is_read_only(&error) => {
            Ok(if new.exists() || !old.exists() { new } else { old })
        }
        Err(error) => Err(error),
    }
}

/// Reads it; there are none where there is no file.
pub(super) fn read(file: &Path) -> Result<RegistryContent, RegistryError> {
    let Some(CheckedContent { bytes: text, has_sum }) = checked::read(file)? else {
        return Ok(RegistryContent::default());
    };
    let damaged = |error| RegistryError::Damaged(file.to_owned(), error);
    if text.trim_ascii_start().first() == Some(&b'[') {
        let mut buckets: Vec<Bucket> = serde_json::from_slice(&text).map_err(damaged)?;
        buckets.iter_mut().for_each(say_where_keys_lie);
        return Ok(RegistryContent { buckets, is_old: true });
    }
    let Format { version } = serde_json::from_slice(&text).map_err(damaged)?;
    if version > VERSION {
        return Err(RegistryError::Newer { path: file.to_owned(), version });
    }
    let registry: Registry = serde_json::from_slice(&text).map_err(damaged)?;
    Ok(RegistryContent { buckets: registry.buckets, is_old: !has_sum })
}

/// The first version percent-encoded a prefix before it was used: what lies there lies below the
/// encoded one. From now on the URL says so.
fn say_where_keys_lie(bucket: &mut Bucket) {
    if let Ok(Location::S3 { bucket: s3, prefix }) = Location::parse(&bucket.name, &bucket.url) {
        let encoded = open::encoded(&prefix);
        if encoded != prefix {
            bucket.url = Location::S3 { bucket: s3, prefix: encoded }.url();
        }
    }
}

/// What a registry in the old place has that the one in use has not: an earlier version was run
/// after this one, and buckets were added to it. Nothing of it is taken over by itself, for either
/// may be what somebody wants.
pub(super) fn other(state: &Path, file: &Path, registered: &[Bucket]) -> Option<String> {
    let old = state.join("catalog").join(NAME);
    if old == file {
        return None;
    }
    let theirs = match read(&old) {
        Ok(theirs) => theirs.buckets,
        Err(error) => {
            return Some(format!(
                "beside the registry of buckets in use, {}: {}",
                file.display(),
                chain(&error)
            ));
        }
    };
    let site = |bucket: &Bucket| Site::of(&bucket.url, &bucket.options);
    let known = |theirs: &Bucket| {
        registered.iter().any(|ours| ours.name == theirs.name && site(ours) == site(theirs))
    };
    let more: Vec<String> =
        theirs.iter().filter(|bucket| !is_own(bucket) && !known(bucket)).map(described).collect();
    let words = || {
        format!(
            "{}: an earlier version of this program, run after a newer one, has registered buckets there that {} does not have: {}",
            old.display(),
            file.display(),
            more.join(", ")
        )
    };
    (!more.is_empty()).then(words)
}

/// A bucket and where it is, in words.
fn described(bucket: &Bucket) -> String {
    format!("`{}` ({})", bucket.name, mask(&bucket.url, &[]))
}

/// Writes it.
pub(super) fn write(file: &Path, buckets: Vec<Bucket>) -> io::Result<()> {
    checked::write(file, &serde_json::to_vec_pretty(&Registry { version: VERSION, buckets })?)
}

/// A bucket as it may be shown.
pub(super) fn shown(bucket: &Bucket) -> Bucket {
    Bucket {
        url: mask(&bucket.url, &[]),
        options: open::shown(&bucket.options).0,
        ..bucket.clone()
    }
}

/// What of a bucket's entry must be moved into the secrets file, in words.
pub(super) fn exposed(bucket: &Bucket) -> Option<String> {
    let hidden = open::shown(&bucket.options).1 || mask(&bucket.url, &[]) != bucket.url;
    let words = || {
        format!(
            "the registry holds a secret of bucket `{}` that an earlier version has put there: put it into the secrets file \
             (`password`, `token`, `customer_key`) and add the bucket again, with `secret` and without that option",
            bucket.name
        )
    };
    hidden.then(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_version_has_registered_after_this_one_is_said_and_what_both_know_is_not() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let (file, old) = (
            state.path().join("catalog/.registry/buckets.json"),
            state.path().join("catalog/buckets.json"),
        );
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        let bucket = |name: &str, url: &str, added_ms: u64| -> Bucket {
            let text = serde_json::json!({"name": name, "url": url, "protected": false, "conditional_put": true, "added_ms": added_ms});
            serde_json::from_value(text).expect("a bucket")
        };
        let ours = [bucket("lake", "file:///lake", 1)];
        assert_eq!(other(state.path(), &file, &ours), None, "none is there");
        let theirs = |buckets: &[Bucket]| {
            fs::write(&old, serde_json::to_vec(buckets).expect("JSON")).expect("written");
        };
        theirs(&[
            bucket("lake", "file:///lake", 7),
            bucket("rescue", "file:///state/buckets/rescue", 0),
        ]);
        assert_eq!(other(state.path(), &file, &ours), None, "nothing that is not known");
        assert_eq!(other(state.path(), &old, &ours), None, "it is the one in use");
        theirs(&[bucket("lake", "file:///other", 7), bucket("sea", "s3://me:hunter2@sea", 7)]);
        let said = other(state.path(), &file, &ours).expect("said");
        for words in
            ["catalog/buckets.json", ".registry/buckets.json", "`lake` (file:///other)", "`sea`"]
        {
            assert!(said.contains(words) && !said.contains("hunter2"), "{words}: {said}");
        }
        fs::write(&old, "{").expect("damaged");
        assert!(
            other(state.path(), &file, &ours)
                .is_some_and(|said| said.contains("catalog/buckets.json"))
        );
    }

    #[test]
    fn what_an_earlier_version_wrote_is_read_and_nothing_else_is_guessed() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("buckets.json");
        assert!(read(&file).expect("none yet").buckets.is_empty());
        let first = r#" [{"name":"lake","url":"s3://b/ü+1 %/x","options":{"aws_sse_customer_key_base64":"hunter2"},
            "protected":false,"conditional_put":true,"added_ms":1}]"#;
        fs::write(&file, first).expect("written");
        let RegistryContent { buckets, is_old } = read(&file).expect("read");
        assert!(is_old);
        assert_eq!(buckets[0].url, "s3://b/%C3%BC+1 %25/x", "where its keys have been put");
        assert!(!format!("{:?}", shown(&buckets[0])).contains("hunter2"));
        assert!(
            exposed(&buckets[0])
                .is_some_and(|words| words.contains("`lake`") && !words.contains("hunter2"))
        );
        // Written by this version, it is read as it is.
        write(&file, buckets.clone()).expect("written");
        let again = read(&file).expect("read");
        assert!(!again.is_old && again.buckets == buckets);
        assert!(
            fs::read_to_string(&file).expect("there").contains("hunter2"),
            "what was reachable stays so"
        );
        for bad in [
            "",
            "{",
            r#"{"sha256":"0","entry":{}}"#,
            r#"{"version":3,"buckets":[]}"#,
            r#"{"version":2}"#,
            "[{}]",
        ] {
            fs::write(&file, bad).expect("written");
            assert!(read(&file).is_err(), "{bad}");
        }
        fs::write(&file, r#"{"version":3,"buckets":[],"more":1}"#).expect("written");
        let newer = read(&file).expect_err("it is newer").to_string();
        assert!(newer.contains("version 3") && newer.contains("buckets.json"), "{newer}");
        // A name that one flipped bit has changed is JSON all the same.
        write(&file, buckets).expect("written");
        let flipped = fs::read_to_string(&file).expect("there").replacen("lake", "make", 1);
        fs::write(&file, flipped).expect("damaged");
        assert!(read(&file).is_err_and(|error| error.to_string().contains("checksum")));
    }
}
