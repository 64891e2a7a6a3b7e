//! Registering buckets, and forgetting them.
//!
//! A bucket is registered only after a probe: an object is put, refused when it is put again, read
//! and deleted; what does not refuse can have one writer only, and is registered as such.
//! Invariants: no two buckets overlap, nor a bucket and the state, nor the state of another mesh
//! that runs here; a bucket is refused before its folder is made; the marker is there before the
//! registry names it. Nobody else waits for a probe: what is being added is claimed
//! ([`super::claims`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use brahman_card::chain;
use brahman_card::interface::storage::{AddBucketIn, Bucket, PRIMARY, RESCUE};
use brahman_card::names::Kind;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

use super::claims::Claim;
use super::error::{BucketError, mask};
use super::marker::{self, MARKER, Marker};
use super::open::{self, Location, Site};
use super::place::{Overlap, Spot};
use super::{Buckets, Change, Entry, Reach, is_own, lock, now_ms, registry};

/// Buckets at most.
const BUCKETS_MAX: usize = 64;
/// How long the disk of a new bucket may take to be looked at, and its folder to be made.
const MAKING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a bucket that is forgotten may take to hear of it.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of another mesh that runs on this machine.
#[derive(Clone, Debug)]
pub struct OtherState {
    /// Its folder.
    pub folder: PathBuf,
    /// Whose it is, as it goes on in a sentence: `the state of …`.
    pub words: String,
}

/// A bucket that was registered.
#[derive(Clone, Debug)]
pub struct Addition {
    /// The bucket as it is registered now.
    pub bucket: Bucket,
    /// What holds of it that one should know.
    pub notes: Vec<String>,
}

impl Buckets {
    /// Whether what is asked for would move a bucket that is registered: what lies in it would be
    /// out of reach.
    #[must_use]
    pub fn moves(&self, ask: &AddBucketIn) -> bool {
        let site =
            Site::of(&ask.url, ask.options.as_ref().unwrap_or(&std::collections::BTreeMap::new()));
        let all = lock(&self.all);
        all.get(&ask.name)
            .is_some_and(|entry| Site::of(&entry.bucket.url, &entry.bucket.options) != site)
    }

    /// Probes a bucket and registers it. `primary` can only be begun anew where it is.
    ///
    /// # Errors
    /// If it cannot be reached, does not do what a bucket must, or lies where another does; it is
    /// then not registered.
    pub async fn add(&self, ask: AddBucketIn) -> Result<Addition, BucketError> {
        self.add_apart_from(ask, Vec::new).await
    }

    /// The same, apart from the states of other meshes as well. Which there are is asked on a
    /// thread that may wait for a disk.
    ///
    /// # Errors
    /// As [`Self::add`] gives them.
    pub async fn add_apart_from(
        &self,
        ask: AddBucketIn,
        others: impl FnOnce() -> Vec<OtherState> + Send + 'static,
    ) -> Result<Addition, BucketError> {
        let anew = ask.name == PRIMARY && !self.moves(&ask);
        let named =
            if anew { Kind::Bucket.check(&ask.name) } else { Kind::Bucket.check_new(&ask.name) };
        named.map_err(|error| BucketError::Bad(error.to_string()))?;
        self.readable()?;
        self.known_node()?;
        let location = open::check(&ask)?;
        let claimed = Site::of(
            &location.url(),
            ask.options.as_ref().unwrap_or(&std::collections::BTreeMap::new()),
        );
        let claim = Claim::take(&self.claims, &ask.name, location.clone(), claimed)?;
        let mut notes = Vec::new();
        if let Location::Folder(folder) = &location {
            notes.extend(self.make_room(&ask.name, folder.clone(), &claim, others).await?);
        }
        let AddBucketIn { name, options, secret, .. } = ask;
        let (protected, added_ms) =
            (name == RESCUE || name == PRIMARY, if anew { 0 } else { now_ms() });
        let options = options.unwrap_or_default();
        let mut bucket = Bucket {
            name,
            url: location.url(),
            options,
            secret,
            protected,
            conditional_put: false,
            added_ms,
            id: None,
        };
        if let Some(other) = self.other(&bucket.name, |other| overlaps(other, &bucket)) {
            return Err(overlapping(&bucket, &other));
        }
        let (store, secrets) = reachable(&bucket)?;
        bucket.conditional_put = self.probe(&bucket.name, &store, &secrets).await?;
        notes.extend(self.mark(&mut bucket, &*store, &secrets).await?);
        self.register(bucket.clone()).await?;
        drop(claim);
        Ok(Addition { bucket: registry::shown(&bucket), notes })
    }

    /// A bucket of another name of which something holds.
    fn other(&self, name: &str, holds: impl Fn(&Bucket) -> bool) -> Option<String> {
        let all = lock(&self.all);
        let mut others =
            all.values().map(|entry| &entry.bucket).filter(|bucket| bucket.name != name);
        others.find(|bucket| holds(bucket)).map(|bucket| bucket.name.clone())
    }

    /// Makes a bucket's folder, if it is no other's, and lies in no other's nor around one. Says
    /// what one should know of it.
    async fn make_room(
        &self,
        name: &str,
        folder: PathBuf,
        claim: &Claim,
        states: impl FnOnce() -> Vec<OtherState> + Send + 'static,
    ) -> Result<Vec<String>, BucketError> {
        // First who is being added: whoever has registered by then is among those that are read
        // next.
        let being_added = claim.earlier_folders().into_iter();
        let mut others: Vec<Neighbour> =
            being_added.map(|(name, folder)| Neighbour { name, folder, answers: true }).collect();
        let entries: Vec<Entry> =
            lock(&self.all).values().filter(|entry| entry.bucket.name != name).cloned().collect();
        for entry in entries {
            let Reach::Folder(folder) = &entry.reach else { continue };
            // What does not answer is told by its path: it must not keep others from being added.
            let answers = entry.seen(folder.clone()).await.is_ok() || !entry.looks.hang();
            others.push(Neighbour {
                name: entry.bucket.name.clone(),
                folder: folder.clone(),
                answers,
            });
        }
        let at = folder.display().to_string();
        let (of, state, own) = (name.to_owned(), self.state.clone(), self.home.join(name));
        // Looking at a disk that hangs must not hold up the thread that answers, nor whoever adds
        // another.
        let making = tokio::task::spawn_blocking(move || {
            apart_from_meshes(&of, &folder, &states())?;
            let notes = apart(&of, &folder, &others, &state, &own)?;
            make_folder(&of, &folder)?;
            Ok::<_, BucketError>(notes)
        });
        match tokio::time::timeout(MAKING_TIMEOUT, making).await {
            Ok(made) => made.map_err(io::Error::other)?,
            Err(_) => {
                let why = format!(
                    "{at}: no answer within {} s; it was not registered",
                    MAKING_TIMEOUT.as_secs()
                );
                Err(BucketError::Unusable { name: name.to_owned(), why })
            }
        }
    }

    /// Gives a bucket the marker that is at its root, or makes one. Says what one should know of
    /// it.
    async fn mark(
        &self,
        bucket: &mut Bucket,
        store: &dyn ObjectStore,
        secrets: &[String],
    ) -> Result<Vec<String>, BucketError> {
        let mut notes = Vec::new();
        let unusable = |why: String| BucketError::Unusable {
            name: bucket.name.clone(),
            why: format!("{why}; it was not registered"),
        };
        let new = Marker::new(&bucket.name, &self.node);
        let found = marker::make(store, bucket.conditional_put, &new).await;
        let found = found
            .map_err(|e| unusable(format!("its marker {MARKER}: {}", mask(&chain(&e), secrets))))?;
        if let Some(other) = self.other(&bucket.name, |other| other.id.as_ref() == Some(&found.id))
        {
            return Err(unusable(format!(
                "its marker is that of bucket `{other}`: it is the same place by another name"
            )));
        }
        // Our own two have a place before anybody has asked for one.
        let before = lock(&self.all)
            .get(&bucket.name)
            .filter(|entry| !is_own(&entry.bucket))
            .and_then(|entry| entry.bucket.id.clone());
        if before.is_some_and(|before| before != found.id) {
            notes.push(format!(
                "this is not where bucket `{}` lay before: what lay there is not here",
                bucket.name
            ));
        }
        match marker::join(store, &self.node, &bucket.name).await {
            Ok(nodes) if nodes.is_empty() && found.node == self.node => {}
            Ok(nodes) => {
                let others = if nodes.is_empty() { found.node.clone() } else { nodes.join(", ") };
                let first = &found.name;
                notes.push(format!(
                    "other catalogs use this bucket, too ({others}; it was first called `{first}`): each removes only what its own journal names"
                ));
            }
            Err(error) => {
                let why = mask(&error.to_string(), secrets);
                notes.push(format!("that this catalog uses it could not be written there: {why}"));
            }
        }
        bucket.id = Some(found.id);
        Ok(notes)
    }

    async fn register(&self, bucket: Bucket) -> Result<(), BucketError> {
        self.change(move |all| {
            let name = bucket.name.clone();
            if all.len() >= BUCKETS_MAX && !all.contains_key(&name) {
                return Err(BucketError::Bad(format!(
                    "there are {BUCKETS_MAX} buckets already, expected fewer: remove one"
                )));
            }
            // Whoever was added meanwhile may be the same place by another name.
            let mut others =
                all.values().map(|entry| &entry.bucket).filter(|other| other.name != name);
            let twin = others.find(|other| {
                overlaps(other, &bucket) || other.id.is_some() && other.id == bucket.id
            });
            if let Some(other) = twin.map(|other| other.name.clone()) {
                return Err(overlapping(&bucket, &other));
            }
            all.insert(name.clone(), Entry::of(bucket));
            Ok(Change { name, answer: () })
        })
        .await
    }

    /// Forgets a bucket; its objects stay where they are.
    ///
    /// # Errors
    /// If it is protected, or there is none.
    pub async fn remove(&self, name: &str) -> Result<(), BucketError> {
        self.readable()?;
        let opened = self.opened(name).await;
        let removed = name.to_owned();
        self.change(move |all| {
            match all.get(&removed) {
                None => return Err(BucketError::NoSuchBucket(removed)),
                Some(entry) if entry.bucket.protected => {
                    return Err(BucketError::Protected(removed));
                }
                // One that is away, or cannot be opened, can be forgotten all the same.
                Some(_) => {}
            }
            all.remove(&removed);
            Ok(Change { name: removed, answer: () })
        })
        .await?;
        // Of interest to other catalogs only: nobody waits long for it.
        if self.nameless().is_none()
            && let Ok(opened) = opened
            && let Ok(Err(error)) =
                tokio::time::timeout(LEAVING_TIMEOUT, marker::leave(&*opened.store, &self.node))
                    .await
        {
            self.failed(name, "delete", marker::CATALOGS, &opened.told(&error));
        }
        Ok(())
    }

    /// Puts, puts again, reads, deletes. Says whether the second put was refused, as it must be.
    async fn probe(
        &self,
        name: &str,
        store: &Arc<dyn ObjectStore>,
        secrets: &[String],
    ) -> Result<bool, BucketError> {
        let key = Key::from(format!("brahman-probe/{}", ulid::Ulid::generate()));
        let bytes = b"put by brahman to see whether it can; safe to delete";
        let unusable = |doing: &str, e: object_store::Error| {
            let why = mask(&e.to_string(), secrets);
            self.failed(name, "probe", key.as_ref(), &why);
            BucketError::Unusable {
                name: name.to_owned(),
                why: format!("{doing}: {why}; it was not registered"),
            }
        };
        let create = || {
            store.put_opts(&key, PutPayload::from_static(bytes), PutOptions::from(PutMode::Create))
        };
        let conditional = match create().await {
            Ok(_) => match create().await {
                Err(
                    object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. },
                ) => true,
                Ok(_) => false,
                Err(error) => return Err(unusable("putting a key twice", error)),
            },
            Err(object_store::Error::NotImplemented { .. }) => {
                store
                    .put(&key, PutPayload::from_static(bytes))
                    .await
                    .map_err(|e| unusable("putting an object", e))?;
                false
            }
            Err(error) => return Err(unusable("putting an object", error)),
        };
        let read = async { store.get(&key).await?.bytes().await };
        let read = read.await.map_err(|e| unusable("reading it", e))?;
        if read.as_ref() != bytes {
            return Err(BucketError::Unusable {
                name: name.to_owned(),
                why: "it gives other bytes than were put; it was not registered".into(),
            });
        }
        store.delete(&key).await.map_err(|e| unusable("deleting it", e))?;
        Ok(conditional)
    }
}

/// The store of a bucket that is about to be registered; a folder's marker is not asked for.
fn reachable(bucket: &Bucket) -> Result<(Arc<dyn ObjectStore>, Vec<String>), BucketError> {
    let bad = |why: String| BucketError::Bad(format!("bucket `{}`: {why}", bucket.name));
    match Entry::reached(bucket)? {
        (Reach::Folder(folder), secrets) => {
            let store = object_store::local::LocalFileSystem::new_with_prefix(folder)
                .map_err(|e| bad(e.to_string()))?;
            let store: Arc<dyn ObjectStore> = Arc::new(store.with_fsync(true));
            Ok((store, secrets))
        }
        (Reach::S3(store), secrets) => Ok((store, secrets)),
        (Reach::Closed(why), _) => Err(bad(why)),
    }
}

/// Whether two buckets of S3 have keys in common.
fn overlaps(one: &Bucket, other: &Bucket) -> bool {
    Site::of(&one.url, &one.options).overlaps(&Site::of(&other.url, &other.options))
}

fn overlapping(bucket: &Bucket, other: &str) -> BucketError {
    let why = format!(
        "{} holds keys of bucket `{other}`, lies within it, or is the same place: expected another prefix",
        bucket.url
    );
    BucketError::Bad(format!("bucket `{}`: {why}", bucket.name))
}

/// Makes a bucket's folder, and sees whether files can be made in it.
fn make_folder(name: &str, folder: &Path) -> Result<(), BucketError> {
    let refused = |what: &str, error: io::Error| {
        let why = format!(
            "{}: {what} ({error}): expected a folder on a disk that can be written to; it was not registered",
            folder.display()
        );
        match error.kind() {
            // It may be better another time.
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted => BucketError::Unusable { name: name.to_owned(), why },
            _ => BucketError::Bad(format!("bucket `{name}`: {why}")),
        }
    };
    fs::create_dir_all(folder).map_err(|error| refused("the folder cannot be made", error))?;
    tempfile::tempfile_in(folder)
        .map(drop)
        .map_err(|error| refused("no file can be made in it", error))
}

/// Refuses a folder that is another mesh's state, lies in one or holds one: that mesh keeps and
/// clears what is in there.
fn apart_from_meshes(name: &str, folder: &Path, states: &[OtherState]) -> Result<(), BucketError> {
    let spot = spot_of(name, folder)?;
    for OtherState { folder: state, words } in states {
        // One that this user cannot look at is told by its path.
        let overlap = match Spot::of(state) {
            Ok(other) => spot.overlap(&other),
            Err(_) if folder.starts_with(state) => Some(Overlap::Inside),
            Err(_) => state.starts_with(folder).then_some(Overlap::Around),
        };
        if let Some(overlap) = overlap {
            let why = format!(
                "{} {} {words}: expected a folder of its own",
                folder.display(),
                overlap.words()
            );
            return Err(BucketError::Bad(format!("bucket `{name}`: {why}")));
        }
    }
    Ok(())
}

/// A bucket's folder as it is, or would be.
fn spot_of(name: &str, folder: &Path) -> Result<Spot, BucketError> {
    let unseen = |error: io::Error| {
        BucketError::Bad(format!(
            "bucket `{name}`: {} cannot be looked at ({error})",
            folder.display()
        ))
    };
    Spot::of(folder).map_err(unseen)
}

/// Another bucket that is a folder.
struct Neighbour {
    name: String,
    folder: PathBuf,
    /// Its disk can be looked at.
    answers: bool,
}

/// Refuses a folder that is another bucket's or the state's, lies in one or holds one. Notes those
/// of other buckets on the same disk, where that defeats the purpose.
fn apart(
    name: &str,
    folder: &Path,
    others: &[Neighbour],
    state: &Path,
    own: &Path,
) -> Result<Vec<String>, BucketError> {
    let bad = |why: String| {
        BucketError::Bad(format!(
            "bucket `{name}`: {} {why}: expected a folder of its own",
            folder.display()
        ))
    };
    let spot = spot_of(name, folder)?;
    // Below the state lies a bucket only where one of its name belongs.
    if spot.overlap(&Spot::of(own)?) != Some(Overlap::Same)
        && let Some(overlap) = spot.overlap(&Spot::of(state)?)
    {
        return Err(bad(format!("{} the mesh's state, {}", overlap.words(), state.display())));
    }
    let mut beside = Vec::new();
    for Neighbour { name: other, folder: its, answers } in others {
        let looked = if *answers { Spot::of(its) } else { Err(io::ErrorKind::TimedOut.into()) };
        let its_spot = match looked {
            Ok(spot) => spot,
            // It is away; where it would be is told by its path.
            Err(_) if folder.starts_with(its) || its.starts_with(folder) => {
                return Err(bad(format!("is where bucket `{other}` would be, {}", its.display())));
            }
            Err(_) => continue,
        };
        if let Some(overlap) = spot.overlap(&its_spot) {
            return Err(bad(format!("{} bucket `{other}`, {}", overlap.words(), its.display())));
        }
        if spot.device().is_some() && spot.device() == its_spot.device() {
            beside.push(other.as_str());
        }
    }
    let copies = name == RESCUE && !beside.is_empty();
    let same_disk = || {
        format!(
            "{} lies on the same disk as {}: copies there are lost with it",
            folder.display(),
            beside.join(", ")
        )
    };
    Ok(copies.then(same_disk).into_iter().collect())
}
