//! Buckets by name over `object_store`: folders of this machine and S3. Every operation that fails is written into a journal.
//!
//! `primary` and `rescue` are always there. A bucket is registered only after a probe: an object is put, refused when it
//! is put again, read and deleted; what does not refuse can have one writer only, and is registered as such. Invariants: no
//! secret key is in the registry, an error or the journal; a bucket that cannot be opened stays registered; a registry that cannot
//! be read is never written over.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use brahman_card::interface::storage::{AddBucketIn, Bucket, Failure, Health, OBJECT_BYTES_MAX, PRIMARY, RESCUE};
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig, WriteMultipart};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::digest::hex;
use crate::log::Log;
use crate::{atomic, secrets};

/// Buckets at most.
const BUCKETS_MAX: usize = 64;
/// Failures after which the older half is dropped.
const FAILURES_MAX: usize = 20_000;
/// Longest message of one.
const MESSAGE_CHARS: usize = 1000;
/// How long a bucket may take to say whether it is there.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request may take, and all its retries.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);
/// Parts in which large objects travel.
const PART_BYTES: usize = 8 << 20;

/// Why a bucket cannot be used.
#[derive(Debug, Error)]
pub enum BucketError {
    /// There is none of this name.
    #[error("no bucket is called `{0}`")]
    NoSuchBucket(String),
    /// It must stay.
    #[error("bucket `{0}` cannot be removed")]
    Protected(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Bad(String),
    /// It does not do what a bucket must.
    #[error("bucket `{name}`: {why}")]
    Unusable {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// There is no such object.
    #[error("bucket `{name}` has no object {key}")]
    NoSuchObject {
        /// The bucket.
        name: String,
        /// The key.
        key: String,
    },
    /// It is not what it should be.
    #[error("bucket `{name}`: {key}: {why}")]
    Damaged {
        /// The bucket.
        name: String,
        /// The key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// More than is read at once.
    #[error(
        "{key} in bucket `{name}` has {size} bytes, expected at most {} at once: ask for a part, by offset and length",
        OBJECT_BYTES_MAX
    )]
    TooLarge {
        /// The bucket.
        name: String,
        /// The key.
        key: String,
        /// Bytes of the object.
        size: u64,
    },
    /// Our own disk.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Where a bucket's objects lie on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The bucket's own folder or, of one in S3, that of the copies.
    pub folder: PathBuf,
    /// The bucket.
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

    /// URL of a key.
    #[must_use]
    pub fn url_of(&self, key: &str) -> String {
        format!("{}/{key}", self.url.trim_end_matches('/'))
    }
}

/// A part of an object, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The part.
    pub bytes: Vec<u8>,
    /// Bytes of the whole object.
    pub size: u64,
    /// Of the whole object, in hex, if all of it was read.
    pub sha256: Option<String>,
}

/// A bucket, open.
#[derive(Clone, Debug)]
struct Opened {
    bucket: Bucket,
    store: Arc<dyn ObjectStore>,
}

/// All buckets.
#[derive(Debug)]
pub struct Buckets {
    file: PathBuf,
    home: PathBuf,
    all: Mutex<BTreeMap<String, Opened>>,
    /// Registered, but not to be opened just now, and why.
    unopened: Mutex<BTreeMap<String, (Bucket, String)>>,
    /// Why the registry cannot be read, if it cannot.
    unreadable: Option<String>,
    failures: Mutex<(Log, Vec<Failure>)>,
}

/// Names that a bucket cannot have: folders and files of our own, whose names would be taken for it.
const RESERVED: [&str; 4] = [PRIMARY, "buckets", "mock", "catalog"];

/// Whether a bucket may have this name: it is a folder's, and never leads out of the one that it is put into.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a store; no request is made yet.
fn open(name: &str, url: &str, options: &BTreeMap<String, String>, secret: Option<&str>) -> Result<Arc<dyn ObjectStore>, BucketError> {
    let bad = |why: String| BucketError::Bad(format!("bucket `{name}`: {why}"));
    if let Some(folder) = url.strip_prefix("file://") {
        if !Path::new(folder).is_absolute() {
            return Err(bad(format!("{url}: expected file:///an/absolute/folder")));
        }
        std::fs::create_dir_all(folder)?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(|e| bad(e.to_string()))?;
        return Ok(Arc::new(store.with_fsync(true)));
    }
    let Some(place) = url.strip_prefix("s3://").filter(|place| !place.is_empty()) else {
        return Err(bad(format!("{url}: expected file:///folder or s3://bucket/prefix")));
    };
    let (s3, prefix) = place.split_once('/').unwrap_or((place, ""));
    // The client takes whatever library of cryptography the process has settled on; a second settling is refused, and harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig { max_retries: 3, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let client =
        ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_allow_http(options.get("aws_allow_http").is_some_and(|v| v == "true"));
    let mut builder = AmazonS3Builder::new().with_bucket_name(s3).with_retry(retry).with_client_options(client);
    for (option, value) in options.iter().filter(|(option, _)| *option != "aws_allow_http") {
        let known: AmazonS3ConfigKey = option.parse().map_err(|_| bad(format!("`{option}` is no option of S3")))?;
        if matches!(known, AmazonS3ConfigKey::SecretAccessKey | AmazonS3ConfigKey::Token) {
            return Err(bad(format!("`{option}` is a secret: put it into the secrets file and name its entry")));
        }
        builder = builder.with_config(known, value);
    }
    if let Some(secret) = secret {
        let found = secrets::read(&secrets::file(), secret).map_err(|e| bad(e.to_string()))?;
        builder = builder.with_secret_access_key(found.password.unwrap_or_default());
    }
    let store = builder.build().map_err(|e| bad(e.to_string()))?;
    Ok(if prefix.is_empty() { Arc::new(store) } else { Arc::new(PrefixStore::new(store, prefix.trim_matches('/'))) })
}

impl Buckets {
    /// Opens the registry in a state directory. A bucket that cannot be opened is left out, and that is a failure.
    ///
    /// # Errors
    /// If the registry or the journal cannot be read.
    pub fn open(state: &Path) -> io::Result<Self> {
        let (file, home) = (state.join("catalog/buckets.json"), state.join("buckets"));
        std::fs::create_dir_all(state.join("catalog"))?;
        let (log, kept) = Log::open(&state.join("catalog/errors.log"))?;
        let registered: Result<Vec<Bucket>, String> = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| e.to_string()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e.to_string()),
        };
        let unreadable = registered.as_ref().err().map(|why| format!("the register of buckets, {}: {why}", file.display()));
        let (all, unopened, failures) = (Mutex::default(), Mutex::default(), Mutex::new((log, kept)));
        let buckets = Self { file, home, all, unopened, unreadable, failures };
        if let Some(why) = &buckets.unreadable {
            // What lies in the folders of the state can be read all the same.
            buckets.failed(PRIMARY, "open", "", why);
        }
        let own = |name: &str| Bucket {
            name: name.to_owned(),
            url: format!("file://{}", buckets.home.join(name).display()),
            options: BTreeMap::new(),
            secret: None,
            protected: true,
            conditional_put: true,
            added_ms: 0,
        };
        for bucket in [own(PRIMARY), own(RESCUE)].into_iter().chain(registered.unwrap_or_default()) {
            // Registered before names were checked: `..` would be the folder above.
            let opened = match is_name(&bucket.name) {
                true => open(&bucket.name, &bucket.url, &bucket.options, bucket.secret.as_deref()),
                false => Err(BucketError::Bad(format!("`{}` is no name for a bucket", bucket.name))),
            };
            match opened {
                Ok(store) => drop(lock(&buckets.all).insert(bucket.name.clone(), Opened { bucket, store })),
                Err(error) => {
                    buckets.failed(&bucket.name, "open", "", &error);
                    lock(&buckets.unopened).insert(bucket.name.clone(), (bucket, error.to_string()));
                }
            }
        }
        Ok(buckets)
    }

    /// What could not be read of which buckets there are.
    #[must_use]
    pub fn unread(&self) -> Vec<String> {
        let unopened = lock(&self.unopened);
        let words = unopened.values().map(|(bucket, why)| format!("bucket `{}`: {why}", bucket.name));
        self.unreadable.iter().cloned().chain(words).collect()
    }

    /// Whether a folder is one below that of our buckets: only such a one is ours to remove.
    #[must_use]
    pub fn is_ours(&self, folder: &Path) -> bool {
        folder.parent() == Some(self.home.as_path()) && folder.file_name().and_then(|name| name.to_str()).is_some_and(is_name)
    }

    /// Refuses to write the registry anew while it cannot be read.
    fn readable(&self) -> Result<(), BucketError> {
        match &self.unreadable {
            Some(why) => Err(BucketError::Bad(format!("{why}: mend it, or move it away, and restart the catalog; nothing was changed"))),
            None => Ok(()),
        }
    }

    /// Writes a failure into the journal.
    pub fn failed(&self, bucket: &str, operation: &str, key: &str, error: &dyn std::fmt::Display) {
        let message: String = error.to_string().chars().take(MESSAGE_CHARS).collect();
        tracing::warn!(bucket, operation, key, "{message}");
        let failure = Failure { at_ms: now_ms(), bucket: bucket.into(), operation: operation.into(), key: key.into(), message };
        let mut failures = lock(&self.failures);
        if let Err(error) = failures.0.append(std::slice::from_ref(&failure)) {
            tracing::error!("the journal of failures: {error}");
        }
        failures.1.push(failure);
        if failures.1.len() > FAILURES_MAX {
            let newer = failures.1.split_off(FAILURES_MAX / 2);
            let _ = failures.0.compact(&newer);
            failures.1 = newer;
        }
    }

    /// Failures, newest first, and how many are kept.
    #[must_use]
    pub fn failures(&self, limit: usize) -> (Vec<Failure>, usize) {
        let failures = lock(&self.failures);
        (failures.1.iter().rev().take(limit).cloned().collect(), failures.1.len())
    }

    /// Keeps the newest failures; says how many are kept and how many were dropped.
    ///
    /// # Errors
    /// As the file system gives them; all are then kept.
    pub fn compact(&self, keep: usize) -> io::Result<(usize, usize)> {
        let mut failures = lock(&self.failures);
        let dropped = failures.1.len().saturating_sub(keep);
        let newer = failures.1[dropped..].to_vec();
        failures.0.compact(&newer)?;
        failures.1 = newer;
        Ok((failures.1.len(), dropped))
    }

    /// All, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Bucket> {
        lock(&self.all).values().map(|opened| opened.bucket.clone()).collect()
    }

    /// Where the objects of each lie, but for `rescue`, which has copies only.
    #[must_use]
    pub fn roots(&self) -> BTreeMap<String, Root> {
        let of = |bucket: Bucket| {
            let folder = bucket.url.strip_prefix("file://").map_or_else(|| self.home.join(&bucket.name), PathBuf::from);
            (bucket.name, Root { folder, url: bucket.url })
        };
        self.list().into_iter().filter(|bucket| bucket.name != RESCUE).map(of).collect()
    }

    fn opened(&self, name: &str) -> Result<Opened, BucketError> {
        lock(&self.all).get(name).cloned().ok_or_else(|| BucketError::NoSuchBucket(name.to_owned()))
    }

    /// Whether somebody has said where copies are to go.
    #[must_use]
    pub fn rescues(&self) -> bool {
        lock(&self.all).get(RESCUE).is_some_and(|rescue| rescue.bucket.added_ms > 0)
    }

    /// Probes a bucket and registers it.
    ///
    /// # Errors
    /// If it cannot be reached or does not do what a bucket must; it is then not registered.
    pub async fn add(&self, ask: AddBucketIn) -> Result<Bucket, BucketError> {
        let AddBucketIn { name, url, options, secret } = ask;
        if !is_name(&name) || RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            let expected = format!("expected 1 to 64 of a-z A-Z 0-9 . _ -, not starting with a dot, and none of {}", RESERVED.join(", "));
            return Err(BucketError::Bad(format!("`{}` is no name for a bucket: {expected}", name.escape_debug())));
        }
        self.readable()?;
        let options = options.unwrap_or_default();
        let store = open(&name, &url, &options, secret.as_deref())?;
        let conditional_put = self.probe(&name, &store).await?;
        let protected = name == RESCUE;
        let bucket = Bucket { name: name.clone(), url, options, secret, protected, conditional_put, added_ms: now_ms() };
        let mut all = lock(&self.all);
        if all.len() >= BUCKETS_MAX && !all.contains_key(&name) {
            return Err(BucketError::Bad(format!("there are {BUCKETS_MAX} buckets already, expected fewer: remove one")));
        }
        let before = all.insert(name.clone(), Opened { bucket: bucket.clone(), store });
        if let Err(error) = self.save(&all) {
            match before {
                Some(before) => drop(all.insert(name, before)),
                None => drop(all.remove(&name)),
            }
            return Err(error.into());
        }
        lock(&self.unopened).remove(&bucket.name);
        Ok(bucket)
    }

    /// Forgets a bucket; its objects stay where they are.
    ///
    /// # Errors
    /// If it is protected, or there is none.
    pub fn remove(&self, name: &str) -> Result<(), BucketError> {
        self.readable()?;
        let mut all = lock(&self.all);
        match all.get(name) {
            None => {
                // One that cannot be opened can be forgotten all the same.
                let gone = lock(&self.unopened).remove(name);
                let Some(gone) = gone else { return Err(BucketError::NoSuchBucket(name.to_owned())) };
                return self.save(&all).map_err(|error| {
                    lock(&self.unopened).insert(name.to_owned(), gone);
                    error.into()
                });
            }
            Some(opened) if opened.bucket.protected => return Err(BucketError::Protected(name.to_owned())),
            Some(_) => {}
        }
        let gone = all.remove(name);
        if let Err(error) = self.save(&all) {
            gone.into_iter().for_each(|gone| drop(all.insert(name.to_owned(), gone)));
            return Err(error.into());
        }
        Ok(())
    }

    fn save(&self, all: &BTreeMap<String, Opened>) -> io::Result<()> {
        let unopened = lock(&self.unopened);
        let others = unopened.values().map(|(bucket, _)| bucket).filter(|bucket| !all.contains_key(&bucket.name));
        let added: Vec<&Bucket> = all.values().map(|o| &o.bucket).filter(|b| b.added_ms > 0).chain(others).collect();
        atomic::write(&self.file, &serde_json::to_vec_pretty(&added)?)
    }

    /// Puts, puts again, reads, deletes. Says whether the second put was refused, as it must be.
    async fn probe(&self, name: &str, store: &Arc<dyn ObjectStore>) -> Result<bool, BucketError> {
        let key = Key::from(format!("brahman-probe/{}", now_ms()));
        let bytes = b"put by brahman to see whether it can; safe to delete";
        let unusable = |doing: &str, e: object_store::Error| {
            self.failed(name, "probe", key.as_ref(), &e);
            BucketError::Unusable { name: name.to_owned(), why: format!("{doing}: {e}; it was not registered") }
        };
        let create = || store.put_opts(&key, PutPayload::from_static(bytes), PutOptions::from(PutMode::Create));
        let conditional = match create().await {
            Ok(_) => match create().await {
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => true,
                Ok(_) => false,
                Err(error) => return Err(unusable("putting a key twice", error)),
            },
            Err(object_store::Error::NotImplemented { .. }) => {
                store.put(&key, PutPayload::from_static(bytes)).await.map_err(|e| unusable("putting an object", e))?;
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

    /// Asks every bucket, all at once, whether it is there.
    pub async fn health(&self) -> Vec<Health> {
        let all: Vec<Opened> = lock(&self.all).values().cloned().collect();
        let asked = all.into_iter().map(|opened| async move {
            let started = Instant::now();
            // An object that is not there is an answer.
            let key = Key::from("brahman-probe/health");
            let ask = opened.store.head(&key);
            let error = match tokio::time::timeout(HEALTH_TIMEOUT, ask).await {
                Ok(Ok(_) | Err(object_store::Error::NotFound { .. })) => self.absent(&opened),
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {} s", HEALTH_TIMEOUT.as_secs())),
            };
            let name = opened.bucket.name;
            if let Some(error) = &error {
                self.failed(&name, "health", "", error);
            }
            let latency_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            Health { name, reachable: error.is_none(), latency_us, error }
        });
        futures_util::future::join_all(asked).await
    }

    /// Of a local bucket, whether its folder has gone: then no object is "not there".
    fn absent(&self, opened: &Opened) -> Option<String> {
        let folder = opened.bucket.url.strip_prefix("file://")?;
        (!Path::new(folder).is_dir()).then(|| format!("{folder} is no folder any more"))
    }

    /// Copies a file into a bucket.
    ///
    /// # Errors
    /// As the bucket gives them; they are in the journal.
    pub async fn upload(&self, name: &str, key: &str, from: &Path) -> Result<(), BucketError> {
        let opened = self.opened(name)?;
        let copy = async {
            let mut file = tokio::fs::File::open(from).await.map_err(|e| e.to_string())?;
            let upload = opened.store.put_multipart(&Key::from(key)).await.map_err(|e| e.to_string())?;
            let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
            let mut buffer = vec![0; 1 << 20];
            loop {
                let n = file.read(&mut buffer).await.map_err(|e| e.to_string())?;
                if n == 0 {
                    return writer.finish().await.map(drop).map_err(|e| e.to_string());
                }
                writer.wait_for_capacity(2).await.map_err(|e| e.to_string())?;
                writer.write(&buffer[..n]);
            }
        };
        copy.await.map_err(|why: String| {
            self.failed(name, "put", key, &why);
            BucketError::Unusable { name: name.to_owned(), why }
        })
    }

    /// Puts a small object that must be new; gives what is there already instead, if it is not. In a bucket that cannot tell, it is
    /// put in any case: such a bucket has one writer.
    ///
    /// # Errors
    /// As the bucket gives them; they are in the journal.
    pub async fn create(&self, name: &str, key: &str, bytes: Vec<u8>) -> Result<Option<Vec<u8>>, BucketError> {
        let opened = self.opened(name)?;
        let mode = if opened.bucket.conditional_put { PutMode::Create } else { PutMode::Overwrite };
        let place = Key::from(key);
        let done = match opened.store.put_opts(&place, PutPayload::from(bytes), PutOptions::from(mode)).await {
            Ok(_) => Ok(None),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                async { opened.store.get(&place).await?.bytes().await }.await.map(|bytes| Some(bytes.to_vec()))
            }
            Err(error) => Err(error),
        };
        done.map_err(|error| {
            self.failed(name, "create", key, &error);
            BucketError::Unusable { name: name.to_owned(), why: error.to_string() }
        })
    }

    /// Puts a small object, over what is there unless it must be new. False if it was to be new, and is not.
    ///
    /// # Errors
    /// As the bucket gives them; they are in the journal.
    pub async fn put(&self, name: &str, key: &str, bytes: Vec<u8>, only_new: bool) -> Result<bool, BucketError> {
        let opened = self.opened(name)?;
        let mode = if only_new { PutMode::Create } else { PutMode::Overwrite };
        match opened.store.put_opts(&Key::from(key), PutPayload::from(bytes), PutOptions::from(mode)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) if only_new => Ok(false),
            Err(error) => {
                self.failed(name, "put", key, &error);
                Err(BucketError::Unusable { name: name.to_owned(), why: error.to_string() })
            }
        }
    }

    /// Bytes of an object from an offset on, at most [`OBJECT_BYTES_MAX`]. With a hash all of the object is read, and compared.
    ///
    /// # Errors
    /// If there is no such object, it is too large, or it is another; as the bucket gives them. They are in the journal.
    pub async fn read(
        &self,
        name: &str,
        key: &str,
        (offset, length): (u64, Option<u64>),
        sha256: Option<&str>,
    ) -> Result<Part, BucketError> {
        let opened = self.opened(name)?;
        let place = Key::from(key);
        let failed = |error: object_store::Error| match error {
            object_store::Error::NotFound { .. } => BucketError::NoSuchObject { name: name.to_owned(), key: key.to_owned() },
            error => {
                self.failed(name, "get", key, &error);
                BucketError::Unusable { name: name.to_owned(), why: format!("{key}: {error}") }
            }
        };
        let size = opened.store.head(&place).await.map_err(failed)?.size;
        let end = length.map_or(size, |length| offset.saturating_add(length).min(size));
        if end.saturating_sub(offset) > OBJECT_BYTES_MAX {
            return Err(BucketError::TooLarge { name: name.to_owned(), key: key.to_owned(), size });
        }
        let whole = sha256.is_some() || offset == 0 && end == size;
        if !whole && offset >= end {
            return Ok(Part { bytes: Vec::new(), size, sha256: None });
        }
        let options = GetOptions::default().with_range((!whole).then_some(offset..end));
        let result = opened.store.get_opts(&place, options).await.map_err(failed)?;
        let mut at = result.range.start;
        let mut stream = result.into_stream();
        let (mut bytes, mut hasher) = (Vec::new(), Sha256::new());
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(failed)?;
            let next = at + piece.len() as u64;
            let within = |n: u64| usize::try_from(n.clamp(at, next) - at).unwrap_or(0);
            let (from, to) = (within(offset), within(end));
            if from < to {
                bytes.extend_from_slice(&piece[from..to]);
            }
            hasher.update(&piece);
            at = next;
        }
        let found = hex(&hasher.finalize());
        if let Some(expected) = sha256.filter(|expected| *expected != found) {
            let why = format!("its sha256 is {found}, expected {expected}");
            self.failed(name, "verify", key, &why);
            return Err(BucketError::Damaged { name: name.to_owned(), key: key.to_owned(), why });
        }
        Ok(Part { bytes, size, sha256: whole.then_some(found) })
    }

    /// Copies an object out of a bucket to a file, if it is what it should be; a file is there whole or not at all.
    ///
    /// # Errors
    /// As the bucket gives them, or if its bytes have another hash; they are in the journal.
    pub async fn download(&self, name: &str, key: &str, sha256: &str, to: &Path) -> Result<(), BucketError> {
        let opened = self.opened(name)?;
        let folder = to.parent().ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from)?;
        tokio::fs::create_dir_all(folder).await?;
        let temporary = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder)?;
        let mut file = tokio::fs::File::from_std(temporary.as_file().try_clone()?);
        let copy = async {
            let mut stream = opened.store.get(&Key::from(key)).await.map_err(|e| ("get", e.to_string()))?.into_stream();
            let mut hasher = Sha256::new();
            while let Some(bytes) = stream.next().await {
                let bytes = bytes.map_err(|e| ("get", e.to_string()))?;
                hasher.update(&bytes);
                file.write_all(&bytes).await.map_err(|e| ("write", e.to_string()))?;
            }
            file.sync_all().await.map_err(|e| ("write", e.to_string()))?;
            let found = hex(&hasher.finalize());
            if found == sha256 { Ok(()) } else { Err(("verify", format!("its sha256 is {found}, expected {sha256}"))) }
        };
        copy.await.map_err(|(operation, why): (&str, String)| {
            self.failed(name, operation, key, &why);
            BucketError::Unusable { name: name.to_owned(), why: format!("{key}: {why}") }
        })?;
        temporary.persist(to).map_err(|e| e.error)?;
        atomic::sync_dir(folder)?;
        Ok(())
    }

    /// Deletes small objects below a prefix that are old by their key and ours by what they say. What fails is in the journal, and is
    /// tried the next time.
    pub async fn remove_own(&self, name: &str, prefix: &str, old: impl Fn(&str) -> bool, ours: impl Fn(&[u8]) -> bool) {
        let Ok(opened) = self.opened(name) else { return };
        let listed: Result<Vec<_>, _> = opened.store.list(Some(&Key::from(prefix))).try_collect().await;
        let objects = listed.unwrap_or_else(|error| {
            self.failed(name, "list", prefix, &error);
            Vec::new()
        });
        for place in objects.into_iter().map(|object| object.location).filter(|place| old(place.as_ref())) {
            let remove = async {
                if ours(&opened.store.get(&place).await?.bytes().await?) {
                    opened.store.delete(&place).await?;
                }
                Ok::<_, object_store::Error>(())
            };
            if let Err(error) = remove.await {
                self.failed(name, "delete", place.as_ref(), &error);
            }
        }
    }

    /// Deletes what lies below a prefix and is not wanted. What fails is in the journal, and is tried the next time.
    pub async fn keep_only(&self, name: &str, prefix: &str, wanted: impl Fn(&str) -> bool) {
        let Ok(opened) = self.opened(name) else { return };
        let listed: Result<Vec<_>, _> = opened.store.list(Some(&Key::from(prefix))).try_collect().await;
        match listed {
            Err(error) => self.failed(name, "list", prefix, &error),
            Ok(objects) => {
                for object in objects.into_iter().filter(|object| !wanted(object.location.as_ref())) {
                    if let Err(error) = opened.store.delete(&object.location).await {
                        self.failed(name, "delete", object.location.as_ref(), &error);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, url: &str) -> AddBucketIn {
        AddBucketIn { name: name.into(), url: url.into(), options: None, secret: None }
    }

    #[tokio::test]
    async fn buckets_come_and_go_and_two_stay() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let buckets = Buckets::open(state.path()).expect("opens");
        let names = |buckets: &Buckets| buckets.list().into_iter().map(|b| b.name).collect::<Vec<_>>();
        assert_eq!(names(&buckets), ["primary", "rescue"]);
        let url = format!("file://{}/more", state.path().display());
        let added = buckets.add(ask("more", &url)).await.expect("added");
        assert!(added.conditional_put && !added.protected && !buckets.rescues());
        assert_eq!(names(&Buckets::open(state.path()).expect("opens")), ["more", "primary", "rescue"]);
        for name in ["primary", "rescue"] {
            assert!(matches!(buckets.remove(name), Err(BucketError::Protected(_))));
        }
        buckets.remove("more").expect("removed");
        assert!(matches!(buckets.remove("more"), Err(BucketError::NoSuchBucket(_))));
        for url in ["relative", "file://relative", "ftp://x/y", "s3://"] {
            assert!(matches!(buckets.add(ask("bad", url)).await, Err(BucketError::Bad(_))), "{url}");
        }
    }

    #[tokio::test]
    async fn names_never_lead_out_of_the_folder_of_buckets() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let url = format!("file://{}/more", state.path().display());
        let buckets = Buckets::open(state.path()).expect("opens");
        for bad in ["", ".", "..", ".x", "a/b", "primary", "buckets", "mock", "a\nb", &"x".repeat(65)] {
            assert!(matches!(buckets.add(ask(bad, &url)).await, Err(BucketError::Bad(_))), "{bad:?}");
        }
        // One that an earlier version has registered is left alone, and said.
        let registry = state.path().join("catalog/buckets.json");
        let bucket = |name: &str| serde_json::json!({"name": name, "url": url, "protected": false, "conditional_put": true, "added_ms": 1});
        std::fs::write(&registry, serde_json::json!([bucket(".."), bucket("lake")]).to_string()).expect("written");
        let buckets = Buckets::open(state.path()).expect("opens");
        assert!(!buckets.roots().contains_key("..") && buckets.unread()[0].contains("`..`"), "{:?}", buckets.unread());
        for (folder, ours) in [("buckets/lake", true), ("buckets/..", false), (".", false), ("", false), ("buckets/a/b", false)] {
            assert_eq!(buckets.is_ours(&state.path().join(folder)), ours, "{folder}");
        }
        buckets.add(ask("more", &url)).await.expect("added");
        let kept = std::fs::read_to_string(&registry).expect("there");
        assert!(kept.contains("\"..\"") && kept.contains("more"), "what cannot be opened stays registered: {kept}");
        buckets.remove("..").expect("forgotten");
        assert!(buckets.unread().is_empty() && !std::fs::read_to_string(&registry).expect("there").contains("\"..\""));
    }

    #[tokio::test]
    async fn a_registry_that_cannot_be_read_is_said_and_never_written_over() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let registry = state.path().join("catalog/buckets.json");
        std::fs::create_dir_all(state.path().join("catalog")).expect("made");
        std::fs::write(&registry, r#"{"sha256":"0","entry":{}}"#).expect("written");
        let buckets = Buckets::open(state.path()).expect("what lies in the state can be read all the same");
        assert_eq!(buckets.list().len(), 2);
        assert!(buckets.unread()[0].contains("buckets.json"), "{:?}", buckets.unread());
        let url = format!("file://{}/more", state.path().display());
        assert!(matches!(buckets.add(ask("more", &url)).await, Err(BucketError::Bad(_))));
        assert!(std::fs::read_to_string(&registry).expect("there").contains("entry"));
    }

    #[tokio::test]
    async fn parts_of_an_object_are_read_and_another_content_is_refused() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let buckets = Buckets::open(state.path()).expect("opens");
        assert!(buckets.put(PRIMARY, "notes/a.txt", b"hello world".to_vec(), true).await.expect("put"));
        assert!(!buckets.put(PRIMARY, "notes/a.txt", b"other".to_vec(), true).await.expect("it is there"));
        let sha256 = hex(&crate::digest::sha256(b"hello world"));
        let all = buckets.read(PRIMARY, "notes/a.txt", (0, None), None).await.expect("read");
        assert_eq!(all, Part { bytes: b"hello world".to_vec(), size: 11, sha256: Some(sha256.clone()) });
        for (offset, length, text) in [(6, None, "world"), (6, Some(3), "wor"), (9, Some(100), "ld"), (11, None, ""), (50, Some(1), "")] {
            for expected in [None, Some(sha256.as_str())] {
                let part = buckets.read(PRIMARY, "notes/a.txt", (offset, length), expected).await.expect("read");
                assert_eq!((part.bytes.as_slice(), part.size), (text.as_bytes(), 11), "{offset} {length:?}");
            }
        }
        let other = buckets.read(PRIMARY, "notes/a.txt", (0, Some(1)), Some("0")).await;
        assert!(matches!(other, Err(BucketError::Damaged { .. })), "{other:?}");
        assert!(matches!(buckets.read(PRIMARY, "none", (0, None), None).await, Err(BucketError::NoSuchObject { .. })));
        let large = vec![0; usize::try_from(OBJECT_BYTES_MAX).expect("small") + 1];
        buckets.put(PRIMARY, "large", large, false).await.expect("put");
        assert!(
            matches!(buckets.read(PRIMARY, "large", (0, None), None).await, Err(BucketError::TooLarge { size, .. }) if size > OBJECT_BYTES_MAX)
        );
        assert_eq!(buckets.read(PRIMARY, "large", (OBJECT_BYTES_MAX, None), None).await.expect("the rest").bytes.len(), 1);
    }

    #[tokio::test]
    async fn an_object_comes_back_whole_or_not_at_all_and_every_failure_is_kept() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let buckets = Buckets::open(state.path()).expect("opens");
        let (from, to) = (state.path().join("from"), state.path().join("deep/to"));
        let bytes = vec![7_u8; 20 << 20];
        std::fs::write(&from, &bytes).expect("written");
        let sha256 = hex(&crate::digest::sha256(&bytes));
        buckets.upload(RESCUE, "datasets/d/r/part-0.parquet", &from).await.expect("copied");
        buckets.download(RESCUE, "datasets/d/r/part-0.parquet", &sha256, &to).await.expect("copied back");
        assert_eq!(std::fs::read(&to).expect("there"), bytes);
        std::fs::remove_file(&to).expect("removed");
        let copy = state.path().join("buckets/rescue/datasets/d/r/part-0.parquet");
        std::fs::write(&copy, "damaged").expect("damaged");
        let error = buckets.download(RESCUE, "datasets/d/r/part-0.parquet", &sha256, &to).await.expect_err("it is another");
        assert!(error.to_string().contains("sha256") && !to.exists(), "{error}");
        buckets.keep_only(RESCUE, "datasets/d", |key| key.contains("/r2/")).await;
        assert!(!copy.exists());
        buckets.download(RESCUE, "datasets/d/r/part-0.parquet", &sha256, &to).await.expect_err("it is gone");
        let operations: Vec<String> = buckets.failures(10).0.into_iter().map(|f| f.operation).collect();
        assert_eq!(operations, ["get", "verify"]);
        assert_eq!(Buckets::open(state.path()).expect("opens").failures(10).1, 2, "they outlive the process");
        assert_eq!(buckets.compact(1).expect("compacted"), (1, 1));
        std::fs::remove_dir_all(state.path().join("buckets/rescue")).expect("removed");
        let health = buckets.health().await;
        assert!(health.iter().any(|h| h.name == "rescue" && !h.reachable), "{health:?}");
    }
}
