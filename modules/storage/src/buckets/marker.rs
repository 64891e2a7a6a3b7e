//! The marker at a bucket's root: it tells the bucket from an empty folder, and from another
//! bucket.
//!
//! ```text
//! .brahman-bucket.json      {"id": a ULID, "name": as it was first called,
//!                           "node": by which catalog, "created_ms": when}
//! .brahman-catalogs/<node>  one of each catalog that uses it
//! ```
//!
//! A disk that is not mounted leaves an empty folder in its place, and a deleted bucket of S3
//! answers like an empty one: without the marker neither is the bucket. Invariants: a marker is
//! created once and never changed; only `add` makes one where there is nothing of ours; of two
//! catalogs that make one at once, one does, and both go by that.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::node::{self, NODE, Node, NodeError};
use crate::writable::is_read_only;
use crate::{atomic, checked};

/// Key of the marker at a bucket's root.
pub const MARKER: &str = crate::BUCKET_MARKER;
/// Below which the catalogs stand.
pub(super) const CATALOGS: &str = ".brahman-catalogs";
/// What we write below: one of these folders in a folder that has no marker says that it is a
/// bucket of an earlier version.
const OURS: [&str; 4] = ["datasets", "manifests", "indexes", "objects"];
/// Far more than a marker has.
const MARKER_BYTES_MAX: u64 = 64 << 10;
/// Other catalogs that are told.
const CATALOGS_MAX: usize = 16;

/// What stands in a marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// ULID.
    pub(super) id: String,
    /// What it was called when it was made.
    pub(super) name: String,
    /// Whose catalog made it.
    pub(super) node: String,
    /// Unix time.
    pub(super) created_ms: u64,
}

/// Why a marker cannot be read.
#[derive(Debug, Error)]
pub(super) enum MarkerError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error("{marker} is damaged", marker = MARKER)]
    Damaged(#[source] serde_json::Error),
    #[error("{marker} has {0} bytes, expected at most {max}", marker = MARKER, max = MARKER_BYTES_MAX)]
    TooLarge(u64),
}

impl MarkerError {
    /// Whether there is something, and it is no marker.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::TooLarge(_))
    }
}

impl Marker {
    pub(super) fn new(name: &str, node: &str) -> Self {
        let id = ulid::Ulid::generate().to_string();
        Self { id, name: name.to_owned(), node: node.to_owned(), created_ms: super::now_ms() }
    }

    fn parse(text: &[u8]) -> Result<Self, MarkerError> {
        serde_json::from_slice(text).map_err(MarkerError::Damaged)
    }

    fn text(&self) -> Vec<u8> {
        // Strings and a number are always JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The name by which this catalog is known in buckets that others use, too. It is made where there
/// is none, and gets a checksum where an earlier version has written it without.
///
/// # Errors
/// That it cannot be made, as the file system gives it; within, why what is there is no name.
pub(super) fn node(state: &Path) -> io::Result<Result<String, NodeError>> {
    let (name, is_new) = match node::read(state) {
        Ok(Some(Node { name, has_sum: true })) => return Ok(Ok(name)),
        Ok(Some(Node { name, .. })) => (name, false),
        Ok(None) => (ulid::Ulid::generate().to_string(), true),
        Err(error) => return Ok(Err(error)),
    };
    match checked::write(&state.join(NODE), name.as_bytes()) {
        // Nothing is written to any bucket from here either.
        Err(error) if is_read_only(&error) => {}
        Err(error) if !is_new => {
            tracing::warn!("{}: {error}: it has no checksum yet", state.join(NODE).display());
        }
        written => written?,
    }
    Ok(Ok(name))
}

/// By which it is seen that a marker is the one that was read already: device, inode, change and
/// length.
pub(super) type Stamp = (u64, u64, (i64, i64), u64);

/// Of the marker in a folder.
pub(super) fn stamp(folder: &Path) -> io::Result<Stamp> {
    let meta = fs::metadata(folder.join(MARKER))?;
    Ok((meta.dev(), meta.ino(), (meta.mtime(), meta.mtime_nsec()), meta.len()))
}

/// The marker in a folder, if there is one.
pub(super) fn read_folder(folder: &Path) -> Result<Option<Marker>, MarkerError> {
    let mut file = match File::open(folder.join(MARKER)) {
        Ok(file) => file,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    let length = file.metadata()?.len();
    if length > MARKER_BYTES_MAX {
        return Err(MarkerError::TooLarge(length));
    }
    file.by_ref().take(MARKER_BYTES_MAX).read_to_end(&mut text)?;
    Marker::parse(&text).map(Some)
}

/// Whether a folder holds what we write into a bucket.
pub(super) fn is_used(folder: &Path) -> bool {
    OURS.iter().any(|ours| folder.join(ours).is_dir())
}

/// Makes the marker of a folder that is there; gives the one that is there already instead.
pub(super) fn make_in(folder: &Path, marker: &Marker) -> Result<Marker, MarkerError> {
    if let Some(there) = read_folder(folder)? {
        return Ok(there);
    }
    // As readable as the objects beside it: a catalog of another user may go by it.
    let mode = fs::Permissions::from_mode(0o644);
    let staged = tempfile::Builder::new().prefix(".tmp-").permissions(mode).tempfile_in(folder)?;
    fs::write(staged.path(), marker.text())?;
    staged.as_file().sync_all()?;
    match staged.persist_noclobber(folder.join(MARKER)) {
        Ok(_) => atomic::sync_dir(folder)?,
        // Somebody else was first.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.error.into()),
    }
    Ok(read_folder(folder)?.unwrap_or_else(|| marker.clone()))
}

/// The marker in a store, if there is one.
pub(super) async fn read(store: &dyn ObjectStore) -> Result<Option<Marker>, MarkerError> {
    let found = match store.get(&Key::from(MARKER)).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if found.meta.size > MARKER_BYTES_MAX {
        return Err(MarkerError::TooLarge(found.meta.size));
    }
    Marker::parse(&found.bytes().await?).map(Some)
}

/// Makes the marker of a store; gives the one that is there already instead. Where a key can be put
/// twice, there is one writer.
pub(super) async fn make(
    store: &dyn ObjectStore,
    conditional: bool,
    marker: &Marker,
) -> Result<Marker, MarkerError> {
    if let Some(there) = read(store).await? {
        return Ok(there);
    }
    let mode = if conditional { PutMode::Create } else { PutMode::Overwrite };
    match store
        .put_opts(&Key::from(MARKER), PutPayload::from(marker.text()), PutOptions::from(mode))
        .await
    {
        Ok(_)
        | Err(
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. },
        ) => {}
        Err(error) => return Err(error.into()),
    }
    // What is there counts, whoever put it. A store that does not show what was just put would be
    // away at once.
    Ok(read(store).await?.unwrap_or_else(|| marker.clone()))
}

/// Writes down that a catalog uses the bucket, and gives the others that do.
pub(super) async fn join(
    store: &dyn ObjectStore,
    node: &str,
    name: &str,
) -> Result<Vec<String>, object_store::Error> {
    let text =
        serde_json::json!({"node": node, "name": name, "added_ms": super::now_ms()}).to_string();
    store.put(&catalog(node), PutPayload::from(text)).await?;
    let listed: Vec<_> =
        store.list(Some(&Key::from(CATALOGS))).take(CATALOGS_MAX).try_collect().await?;
    let nodes =
        listed.into_iter().filter_map(|object| object.location.filename().map(str::to_owned));
    Ok(nodes.filter(|other| other != node).collect())
}

/// Takes that back.
pub(super) async fn leave(store: &dyn ObjectStore, node: &str) -> Result<(), object_store::Error> {
    match store.delete(&catalog(node)).await {
        Err(object_store::Error::NotFound { .. }) => Ok(()),
        done => done,
    }
}

/// Whether another catalog than this one uses the bucket.
pub(super) async fn is_shared(
    store: &dyn ObjectStore,
    node: &str,
) -> Result<bool, object_store::Error> {
    let mut listed = store.list(Some(&Key::from(CATALOGS)));
    while let Some(object) = listed.try_next().await? {
        if object.location.filename().is_some_and(|other| other != node) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn catalog(node: &str) -> Key {
    Key::from(CATALOGS).join(node)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn a_marker_is_made_once_and_whoever_comes_second_goes_by_it() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(read_folder(folder.path()).expect("readable"), None);
        assert_eq!(read_folder(&folder.path().join("none")).expect("readable"), None);
        let (one, two) = (Marker::new("lake", "n1"), Marker::new("sea", "n2"));
        assert_eq!(make_in(folder.path(), &one).expect("made"), one);
        assert_eq!(make_in(folder.path(), &two).expect("there"), one);
        assert_eq!(
            fs::read_dir(folder.path()).expect("there").count(),
            1,
            "nothing is left beside it"
        );
        assert!(!is_used(folder.path()));
        fs::create_dir(folder.path().join("datasets")).expect("made");
        assert!(is_used(folder.path()));
        for bad in ["", "{}", "not JSON"] {
            fs::write(folder.path().join(MARKER), bad).expect("written");
            assert!(matches!(read_folder(folder.path()), Err(MarkerError::Damaged(_))), "{bad}");
        }
    }

    #[tokio::test]
    async fn catalogs_of_one_bucket_are_told_of_one_another() {
        let store = InMemory::new();
        let marker = Marker::new("lake", "n1");
        assert_eq!(make(&store, true, &marker).await.expect("made"), marker);
        assert_eq!(make(&store, true, &Marker::new("sea", "n2")).await.expect("there"), marker);
        assert_eq!(join(&store, "n1", "lake").await.expect("joined"), Vec::<String>::new());
        assert_eq!(join(&store, "n2", "sea").await.expect("joined"), ["n1"]);
        assert!(
            is_shared(&store, "n1").await.expect("listed")
                && is_shared(&store, "n3").await.expect("listed")
        );
        leave(&store, "n1").await.expect("left");
        assert!(!is_shared(&store, "n2").await.expect("listed"));
        leave(&store, "n1").await.expect("twice does no harm");
        assert_eq!(join(&store, "n2", "sea").await.expect("joined"), Vec::<String>::new());
    }

    #[test]
    fn a_catalog_keeps_its_name() {
        let state = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(state.path().join("catalog")).expect("made");
        let first = node(state.path()).expect("made").expect("a name");
        assert_eq!(node(state.path()).expect("read").expect("a name"), first);
        // As an earlier version has written it.
        fs::write(state.path().join(NODE), &first).expect("written");
        assert_eq!(node(state.path()).expect("read").expect("a name"), first);
        assert!(
            node::read(state.path()).is_ok_and(|node| node.is_some_and(|node| node.has_sum)),
            "and from now on with a checksum"
        );
        fs::write(state.path().join(NODE), "zz").expect("damaged");
        node(state.path()).expect("read").expect_err("it is no name, and no other takes its place");
        assert_eq!(fs::read_to_string(state.path().join(NODE)).expect("there"), "zz");
    }
}
