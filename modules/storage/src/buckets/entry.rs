//! A bucket that is registered: how it is reached, what was last seen of it, and whether it is
//! there.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use brahman_card::chain;
use brahman_card::interface::storage::Bucket;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use super::error::mask;
use super::look::Looks;
use super::marker::{Marker, Stamp};
use super::open::Location;
use super::{BucketError, MARKER, is_name, lock, look, marker, open};

/// Longest message of one.
pub(super) const MESSAGE_CHARS: usize = 1000;

/// How a bucket is reached.
#[derive(Clone, Debug)]
pub(super) enum Reach {
    Folder(PathBuf),
    S3(Arc<dyn ObjectStore>),
    /// Not to be opened just now, and why.
    Closed(String),
}

/// What was last seen of a bucket.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// Of a folder: its store, for as long as its marker is the same.
    pub(super) folder: Option<(Stamp, Arc<dyn ObjectStore>)>,
    /// Of S3: when its marker was last seen.
    pub(super) there: Option<Instant>,
    /// Of S3: why it was not there when it was last asked.
    pub(super) away: Option<String>,
    /// What was in the marker's place when it was last looked at, if that was not this bucket's.
    pub(super) misfit: Option<Misfit>,
}

/// What is in the place of a bucket's marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// That of the bucket with this id.
    Other(String),
    /// Nothing that can be read.
    Damaged,
}

/// A bucket that is registered.
#[derive(Clone)]
pub(super) struct Entry {
    /// As it stands in the registry, with what must not be shown.
    pub(super) bucket: Bucket,
    pub(super) reach: Reach,
    /// What is cut out of messages.
    pub(super) secrets: Vec<String>,
    pub(super) sight: Arc<Mutex<Sight>>,
    /// At its folder.
    pub(super) looks: Arc<Looks<Observation>>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").field(&self.bucket.name).finish()
    }
}

/// Why a bucket is away, as all hear it who have asked at once.
#[derive(Clone, Debug)]
pub(super) struct Absence(pub(super) String);

impl Absence {
    pub(super) fn silent() -> Self {
        Self(format!("no answer within {} s", look::LONGEST.as_secs()))
    }

    fn of(error: &BucketError) -> Self {
        match error {
            BucketError::Away { why, .. } => Self(why.clone()),
            other => Self(chain(other)),
        }
    }
}

/// A folder's store, or why it is not to be seen.
pub(super) type Observation = Result<Arc<dyn ObjectStore>, Absence>;

impl Entry {
    /// Of what is registered; no request is made.
    pub(super) fn of(bucket: Bucket) -> Self {
        // Registered before names were checked: `..` would be the folder above.
        let reached = match is_name(&bucket.name) {
            true => Self::reached(&bucket),
            false => Err(BucketError::Bad(format!(
                "`{}` is no name for a bucket",
                bucket.name.escape_debug()
            ))),
        };
        let (reach, secrets) =
            reached.unwrap_or_else(|error| (Reach::Closed(error.to_string()), Vec::new()));
        Self { bucket, reach, secrets, sight: Arc::default(), looks: Arc::default() }
    }

    pub(super) fn reached(bucket: &Bucket) -> Result<(Reach, Vec<String>), BucketError> {
        match Location::parse(&bucket.name, &bucket.url)? {
            Location::Folder(folder) => Ok((Reach::Folder(folder), Vec::new())),
            Location::S3 { bucket: s3, prefix } => {
                open::s3(bucket, &s3, &prefix).map(|(store, secrets)| (Reach::S3(store), secrets))
            }
        }
    }

    pub(super) fn away(&self, why: String) -> BucketError {
        BucketError::Away { name: self.bucket.name.clone(), why: mask(&why, &self.secrets) }
    }

    /// [`Self::sighted`], for which nobody waits longer than a disk may take; the thread that asks
    /// does.
    pub(super) fn sighted_in_time(
        &self,
        folder: &Path,
    ) -> Result<Arc<dyn ObjectStore>, BucketError> {
        let (sender, answer) = std::sync::mpsc::sync_channel(1);
        // Whoever asked may have given it up.
        let is_asked = self.look(folder, move |found| drop(sender.send(found)))?;
        let found = if is_asked { answer.recv_timeout(look::LONGEST).ok() } else { None };
        found.unwrap_or_else(|| Err(Absence::silent())).map_err(|absence| self.away(absence.0))
    }

    /// The same, for a task.
    pub(super) async fn seen(&self, folder: PathBuf) -> Result<Arc<dyn ObjectStore>, BucketError> {
        let (sender, answer) = tokio::sync::oneshot::channel();
        let is_asked = self.look(&folder, move |found| drop(sender.send(found)))?;
        let found = if is_asked {
            tokio::time::timeout(look::LONGEST, answer).await.ok().and_then(Result::ok)
        } else {
            None
        };
        found.unwrap_or_else(|| Err(Absence::silent())).map_err(|absence| self.away(absence.0))
    }

    fn look(
        &self,
        folder: &Path,
        tell: impl FnOnce(Observation) + Send + 'static,
    ) -> io::Result<bool> {
        let (entry, folder) = (self.clone(), folder.to_owned());
        self.looks.ask(move || entry.sighted(&folder).map_err(|error| Absence::of(&error)), tell)
    }

    /// The store of a folder, if its marker is to be seen: one look at the file system, if it is
    /// the marker that was last seen.
    fn sighted(&self, folder: &Path) -> Result<Arc<dyn ObjectStore>, BucketError> {
        let at = folder.display();
        let stamp = marker::stamp(folder).map_err(|error| {
            lock(&self.sight).misfit = None;
            self.away(match (error.kind(), folder.is_dir()) {
                (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, true) => {
                    format!("{at} is there, but {MARKER} is not in it: its disk is not mounted, or it was emptied")
                }
                (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, false) => format!("{at} is not there"),
                _ => format!("{at}/{MARKER}: {}", chain(&error)),
            })
        })?;
        if let Some((_, store)) =
            lock(&self.sight).folder.as_ref().filter(|(seen, _)| *seen == stamp)
        {
            return Ok(Arc::clone(store));
        }
        let found = marker::read_folder(folder).map_err(|error| {
            lock(&self.sight).misfit = error.is_damage().then_some(Misfit::Damaged);
            self.away(format!("{at}: {}", chain(&error)))
        })?;
        let Some(found) = found else {
            return Err(self.away(format!("{at}: {MARKER} is no longer in it")));
        };
        self.recognises(&found)?;
        let store = LocalFileSystem::new_with_prefix(folder)
            .map_err(|error| self.away(format!("{at}: {error}")))?;
        let store: Arc<dyn ObjectStore> =
            Arc::new(store.with_fsync(true).with_automatic_cleanup(true));
        lock(&self.sight).folder = Some((stamp, Arc::clone(&store)));
        Ok(store)
    }

    /// Whether a marker is this bucket's.
    pub(super) fn recognises(&self, found: &Marker) -> Result<(), BucketError> {
        let is_ours = self.bucket.id.as_ref() == Some(&found.id);
        lock(&self.sight).misfit = (!is_ours).then(|| Misfit::Other(found.id.clone()));
        let what = match &self.bucket.id {
            Some(_) if is_ours => return Ok(()),
            Some(_) => "another's, of",
            None => "not yet taken for this bucket's, of",
        };
        Err(self.away(format!(
            "the marker there is {what} a bucket first called `{}` ({})",
            found.name, found.id
        )))
    }
}
