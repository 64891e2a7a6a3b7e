//! Buckets by name over `object_store`: folders of this machine and S3. Every operation that fails
//! is written into a journal.
//!
//! `primary` and `rescue` are always there. What else there is stands in [`registry`]; [`add`]
//! probes and registers, [`marker`] tells a bucket from an empty folder, [`look`] waits for no disk
//! that hangs, [`place`] and [`claims`] keep them apart, [`open`] makes stores, [`own`] are the two
//! in the state itself, [`transfer`] and [`create`] move objects, [`health`] asks whether they are
//! there, [`failures`] is the journal. Invariants: no secret key is in a reply, an error or the
//! journal; a bucket that cannot be opened stays registered; a registry that cannot be read is
//! never written over; no folder is made but by `add`, and nothing is written where a bucket's
//! marker is not to be seen.
//!
//! [`entry`] is one of them.

mod add;
mod claims;
mod create;
mod entry;
mod error;
mod failures;
mod health;
mod leftovers;
mod look;
mod marker;
mod open;
mod own;
mod place;
mod registry;
mod transfer;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brahman_card::chain;
use brahman_card::clock::now_ms;
use brahman_card::interface::storage::{Bucket, Failure, PRIMARY, RESCUE};
use brahman_card::names::Kind;
use object_store::ObjectStore;
use object_store::path::Path as Key;

use crate::writable;
pub use add::{Addition, OtherState};
use claims::Claims;
pub use create::Creation;
use entry::{Entry, MESSAGE_CHARS, Reach};
pub use error::BucketError;
use error::mask;
pub use failures::FailureJournal;
pub use marker::MARKER;
use own::nameless;

/// Where a bucket's objects lie on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The bucket's own folder or, of one in S3, that of the copies.
    pub folder: PathBuf,
    /// URL of the bucket itself.
    pub url: String,
}

impl Root {
    /// Of a bucket that is a folder.
    #[must_use]
    pub fn local(folder: PathBuf) -> Self {
        let url = format!("file://{}", folder.display());
        Self { folder, url }
    }

    /// Whether the folder is the bucket.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.url.starts_with("file://")
    }

    /// URL of a key, as it is: nothing is percent-encoded.
    #[must_use]
    pub fn url_of(&self, key: &str) -> String {
        format!("{}/{key}", self.url.trim_end_matches('/'))
    }
}

/// A part of an object, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Bytes of the part that was asked for.
    pub bytes: Vec<u8>,
    /// Bytes of the whole object.
    pub size: u64,
    /// Of the whole object, in hex, if all of it was read.
    pub sha256: Option<String>,
}

/// A bucket that is there, for one operation.
#[derive(Clone)]
struct OpenBucket {
    name: String,
    store: Arc<dyn ObjectStore>,
    /// Where it lies, if it is a folder.
    folder: Option<PathBuf>,
    /// A key can be created only once.
    conditional: bool,
    secrets: Vec<String>,
}

impl OpenBucket {
    /// What a store says, without a secret.
    fn told(&self, error: &dyn fmt::Display) -> String {
        mask(&error.to_string(), &self.secrets)
    }

    /// Whether it is a folder.
    fn is_local(&self) -> bool {
        self.folder.is_some()
    }

    fn key(&self, key: &str) -> Result<Key, BucketError> {
        open::key(&self.name, key)
    }

    /// Why a folder cannot hold an object of this key, if that is because of others that are there:
    /// what is a file has nothing below it.
    async fn in_the_way(&self, key: &str) -> Option<BucketError> {
        let folder = self.folder.as_ref()?;
        let refused = |why: String| {
            Some(BucketError::InTheWay { name: self.name.clone(), key: key.to_owned(), why })
        };
        for (at, _) in key.match_indices('/') {
            if tokio::fs::metadata(folder.join(&key[..at])).await.is_ok_and(|meta| meta.is_file()) {
                return refused(format!(
                    "`{}` is an object there, and a folder has nothing below an object",
                    &key[..at]
                ));
            }
        }
        let is_folder = tokio::fs::metadata(folder.join(key)).await.is_ok_and(|meta| meta.is_dir());
        if is_folder {
            refused(format!(
                "there are objects below `{key}/`, and a folder has nothing below an object"
            ))
        } else {
            None
        }
    }
}

/// All buckets that are registered, open or away.
#[derive(Debug)]
pub struct Buckets {
    file: PathBuf,
    state: PathBuf,
    home: PathBuf,
    /// By which this catalog is known in buckets.
    node: String,
    /// Why that is not known, if it is not: `node` is then nobody's.
    nameless: Option<String>,
    all: Arc<Mutex<BTreeMap<String, Entry>>>,
    /// Held while the registry is written, and no longer: nobody waits here for a bucket.
    changing: Arc<tokio::sync::Mutex<()>>,
    /// Buckets that are being added just now.
    claims: Arc<Mutex<Claims>>,
    /// Why the registry cannot be read, if it cannot.
    unreadable: Option<String>,
    /// That an earlier version, run after this one, has left a registry of its own with buckets
    /// that this one does not have.
    other_registry: Option<String>,
    journal: Arc<FailureJournal>,
}

/// Whether a bucket may have this name: it is a folder's, and never leads out of the one that it is
/// put into.
fn is_name(name: &str) -> bool {
    Kind::Bucket.check(name).is_ok()
}

/// Whether it lies in the state itself, and nobody has added it.
fn is_own(bucket: &Bucket) -> bool {
    bucket.added_ms == 0 && matches!(bucket.name.as_str(), PRIMARY | RESCUE)
}

/// What was changed of which buckets there are: one of them.
struct Change<T> {
    name: String,
    answer: T,
}

/// Writes the registry.
fn save(file: &Path, all: &BTreeMap<String, Entry>) -> io::Result<()> {
    let kept = all
        .values()
        .map(|entry| &entry.bucket)
        .filter(|bucket| !is_own(bucket) || bucket.id.is_some());
    registry::write(file, kept.cloned().collect())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Buckets {
    /// Opens the registry in a state directory. A bucket that cannot be opened stays registered,
    /// and that is a failure.
    ///
    /// # Errors
    /// If the registry's place or this catalog's name cannot be made or read.
    pub fn open(state: &Path) -> io::Result<Self> {
        writable::make_folder(&state.join("catalog"))?;
        let (file, home) = (registry::settle(state)?, state.join("buckets"));
        let journal = FailureJournal::open(&state.join("catalog/errors.log"));
        let (node, nameless) = match marker::node(state)? {
            Ok(node) => (node, None),
            // Nothing is ever put anywhere by this one.
            Err(error) => (ulid::Ulid::generate().to_string(), Some(nameless(&error, &home))),
        };
        let registered = registry::read(&file);
        let unreadable = registered
            .as_ref()
            .err()
            .map(|error| format!("the registry of buckets: {}", chain(error)));
        let other_registry = registered
            .as_ref()
            .ok()
            .and_then(|registered| registry::other(state, &file, &registered.buckets));
        let (state, all, changing, claims) =
            (state.to_owned(), Arc::default(), Arc::default(), Arc::default());
        let buckets = Self {
            file,
            state,
            home,
            node,
            nameless,
            all,
            changing,
            claims,
            unreadable,
            other_registry,
            journal,
        };
        for why in buckets.unreadable.iter().chain(&buckets.other_registry).chain(&buckets.nameless)
        {
            // What lies in the folders of the state can be read all the same.
            buckets.failed(PRIMARY, "open", "", why);
        }
        let registered = registered.unwrap_or_default();
        let mut changed = registered.is_old;
        for mut bucket in buckets.with_own(registered.buckets) {
            if let Some(words) = registry::exposed(&bucket) {
                buckets.failed(&bucket.name, "open", "", &words);
            }
            changed |= buckets.recognise(&mut bucket);
            let twin = buckets.twin(&bucket);
            let mut entry = Entry::of(bucket);
            if let Some(why) = twin {
                entry.reach = Reach::Closed(why);
            }
            if let Reach::Closed(why) = &entry.reach {
                buckets.failed(&entry.bucket.name, "open", "", why);
            }
            lock(&buckets.all).insert(entry.bucket.name.clone(), entry);
        }
        if changed && buckets.unreadable.is_none() {
            // They are recognised again at the next start.
            match buckets.save(&lock(&buckets.all)) {
                Err(error) if !writable::is_read_only(&error) => {
                    buckets.failed(
                        PRIMARY,
                        "open",
                        "",
                        &format!("{}: {}", buckets.file.display(), chain(&error)),
                    );
                }
                _ => {}
            }
        }
        buckets.journal.flush();
        Ok(buckets)
    }

    /// What could not be read of which buckets there are.
    #[must_use]
    pub fn unread(&self) -> Vec<String> {
        let all = lock(&self.all);
        let closed = all.values().filter_map(|entry| match &entry.reach {
            Reach::Closed(why) => Some(format!("bucket `{}`: {why}", entry.bucket.name)),
            Reach::Folder(_) | Reach::S3(_) => None,
        });
        self.unreadable.iter().chain(&self.other_registry).cloned().chain(closed).collect()
    }

    /// Why there may be buckets that [`Self::list`] does not have.
    #[must_use]
    pub fn shortfall(&self) -> Option<String> {
        let why: Vec<&str> =
            self.unreadable.iter().chain(&self.other_registry).map(String::as_str).collect();
        (!why.is_empty()).then(|| why.join("; "))
    }

    /// By which this catalog is known in buckets that others write to as well.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Why [`Self::node`] is not known, and what to do, if it is not: nothing may be put anywhere
    /// in that name, nor withdrawn.
    #[must_use]
    pub fn nameless(&self) -> Option<&str> {
        self.nameless.as_deref()
    }

    /// Refuses what is done in this catalog's name while that is not known.
    ///
    /// # Errors
    /// [`BucketError::NoNode`].
    pub fn known_node(&self) -> Result<&str, BucketError> {
        match &self.nameless {
            Some(why) => Err(BucketError::NoNode(why.clone())),
            None => Ok(&self.node),
        }
    }

    /// Whether a folder is one below that of our buckets: only such a one is ours to remove.
    #[must_use]
    pub fn is_ours(&self, folder: &Path) -> bool {
        folder.parent() == Some(self.home.as_path())
            && folder.file_name().and_then(|name| name.to_str()).is_some_and(is_name)
    }

    /// Refuses to write the registry anew while it cannot be read.
    fn readable(&self) -> Result<(), BucketError> {
        match &self.unreadable {
            Some(why) => Err(BucketError::Bad(format!(
                "{why}: repair it, or move it away, and restart the catalog; nothing was changed"
            ))),
            None => Ok(()),
        }
    }

    fn save(&self, all: &BTreeMap<String, Entry>) -> io::Result<()> {
        save(&self.file, all)
    }

    /// Changes which buckets there are, on disk and then here, on a thread that may wait for the
    /// disk. It goes on to its end, whether whoever asked waits for it or not.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Entry>) -> Result<Change<T>, BucketError>
        + Send
        + 'static,
    ) -> Result<T, BucketError> {
        let changing = Arc::clone(&self.changing).lock_owned().await;
        let (all, file) = (Arc::clone(&self.all), self.file.clone());
        let changed = tokio::task::spawn_blocking(move || {
            let _changing = changing;
            // Whoever looks up a bucket meanwhile finds what is on disk.
            let mut next = lock(&all).clone();
            let Change { name, answer } = change(&mut next)?;
            save(&file, &next)?;
            let mut all = lock(&all);
            match next.remove(&name) {
                Some(entry) => drop(all.insert(name, entry)),
                None => drop(all.remove(&name)),
            }
            Ok::<_, BucketError>(answer)
        });
        changed.await.map_err(io::Error::other)?
    }

    /// Notes a failure in the journal, which another thread writes to the disk: whoever fails waits
    /// for none.
    pub fn failed(&self, bucket: &str, operation: &str, key: &str, error: &dyn fmt::Display) {
        let message: String = error.to_string().chars().take(MESSAGE_CHARS).collect();
        tracing::warn!(bucket, operation, key, "{message}");
        self.journal.note(Failure {
            at_ms: now_ms(),
            bucket: bucket.into(),
            operation: operation.into(),
            key: key.into(),
            message,
        });
    }

    /// The journal of failures.
    #[must_use]
    pub fn journal(&self) -> &Arc<FailureJournal> {
        &self.journal
    }

    /// All whose names will do, by name, whether they are there or not.
    #[must_use]
    pub fn list(&self) -> Vec<Bucket> {
        let all = lock(&self.all);
        all.values()
            .filter(|entry| is_name(&entry.bucket.name))
            .map(|entry| registry::shown(&entry.bucket))
            .collect()
    }

    /// Where the objects of each lie, but for `rescue`, which has copies only. One that is away has
    /// its place all the same.
    #[must_use]
    pub fn roots(&self) -> BTreeMap<String, Root> {
        let of = |bucket: Bucket| {
            let folder = bucket
                .url
                .strip_prefix("file://")
                .map_or_else(|| self.home.join(&bucket.name), PathBuf::from);
            (bucket.name, Root { folder, url: bucket.url })
        };
        self.list().into_iter().filter(|bucket| bucket.name != RESCUE).map(of).collect()
    }

    /// Whether somebody has said where copies are to go.
    #[must_use]
    pub fn rescues(&self) -> bool {
        lock(&self.all).get(RESCUE).is_some_and(|rescue| rescue.bucket.added_ms > 0)
    }

    /// Why a bucket is none of its own: another is open at the same place. Possible before markers,
    /// as copies in what they are copies of.
    fn twin(&self, bucket: &Bucket) -> Option<String> {
        let all = lock(&self.all);
        let is_open = |entry: &&Entry| !matches!(entry.reach, Reach::Closed(_));
        let is_same = |entry: &&Entry| {
            entry.bucket.id.is_some()
                && entry.bucket.id == bucket.id
                && entry.bucket.name != bucket.name
        };
        let other = all.values().filter(is_open).find(is_same)?;
        let (other, name) = (&other.bucket.name, &bucket.name);
        Some(format!(
            "it is the same place as bucket `{other}`, which an earlier version let it be: `brahman buckets add {name} file:///…`, best on \
             another disk, gives it one of its own; nothing is lost, and what lies there stays"
        ))
    }

    fn entry(&self, name: &str) -> Result<Entry, BucketError> {
        let entry = lock(&self.all)
            .get(name)
            .cloned()
            .ok_or_else(|| BucketError::NoSuchBucket(name.to_owned()))?;
        let Reach::Closed(why) = &entry.reach else { return Ok(entry) };
        if !is_name(name) {
            return Err(entry.away(why.clone()));
        }
        if let Some(why) = self.twin(&entry.bucket) {
            return Err(entry.away(why));
        }
        // The secrets file may be there by now.
        let (reach, secrets) =
            Entry::reached(&entry.bucket).map_err(|error| entry.away(error.to_string()))?;
        let open = Entry { reach, secrets, ..entry };
        let mut all = lock(&self.all);
        if let Some(there) = all.get_mut(name).filter(|there| there.bucket == open.bucket) {
            *there = open.clone();
        }
        Ok(open)
    }

    /// A bucket for one operation, if it is there.
    async fn opened(&self, name: &str) -> Result<OpenBucket, BucketError> {
        let entry = self.entry(name)?;
        let of = |entry: Entry, store, folder| OpenBucket {
            name: entry.bucket.name,
            store,
            folder,
            conditional: entry.bucket.conditional_put,
            secrets: entry.secrets,
        };
        match entry.reach.clone() {
            // A disk that hangs must not hold up the thread that answers.
            Reach::Folder(folder) => {
                let store = entry.seen(folder.clone()).await?;
                Ok(of(entry, store, Some(folder)))
            }
            Reach::S3(store) => Ok(of(entry, store, None)),
            Reach::Closed(why) => Err(entry.away(why)),
        }
    }
}

impl Drop for Buckets {
    /// Whoever opens the same state next finds every failure on the disk.
    fn drop(&mut self) {
        self.journal.flush();
    }
}

#[cfg(test)]
mod tests;
