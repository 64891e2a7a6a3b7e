//! Objects in and out of buckets.
//!
//! Invariants: an object is published with the bytes that were promised, or not at all: hashes are
//! compared before the last step of a put, and what was sent until then is taken back; what lies at
//! a key with another content is put over only where that was asked for; an object is called
//! missing only where its bucket is there.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use brahman_card::interface::storage::OBJECT_BYTES_MAX;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use object_store::{
    GetOptions, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, WriteMultipart,
};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::create::{Creation, is_conflict, pause};
use super::error::BucketError;
use super::marker::{CATALOGS, MARKER};
use super::{Buckets, OpenBucket, Part};
use crate::atomic;
use crate::digest::hex;

/// Parts in which large objects travel; what is no larger travels whole, by one request.
const PART_BYTES: usize = 8 << 20;
/// What is read of a file at once.
const READ_BYTES: usize = 1 << 20;
/// How long one step of a transfer may take: longer than a request to S3 with all its retries. A
/// disk may begin to hang in the middle.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);
/// Puts of one object that somebody else is putting, too.
const TRIES: u32 = 4;

impl Buckets {
    /// A bucket that is to be written to. One in S3 is asked whether it is there, for a put might
    /// make it.
    pub(super) async fn writable(&self, name: &str) -> Result<OpenBucket, BucketError> {
        let opened = self.opened(name).await?;
        if !opened.is_local() {
            self.present(name).await?;
        }
        Ok(opened)
    }

    fn broken(
        &self,
        opened: &OpenBucket,
        operation: &str,
        key: &str,
        error: &dyn std::fmt::Display,
    ) -> BucketError {
        let why = opened.told(error);
        self.failed(&opened.name, operation, key, &why);
        BucketError::Unusable { name: opened.name.clone(), why: format!("{key}: {why}") }
    }

    fn damaged(&self, name: &str, key: &str, why: String) -> BucketError {
        self.failed(name, "verify", key, &why);
        BucketError::Damaged { name: name.to_owned(), key: key.to_owned(), why }
    }

    /// What a failed read means: an object that is not there, a bucket that is not, or something
    /// else.
    async fn unread_object(
        &self,
        opened: &OpenBucket,
        key: &str,
        error: object_store::Error,
    ) -> BucketError {
        if !matches!(error, object_store::Error::NotFound { .. }) {
            return self.broken(opened, "get", key, &error);
        }
        // A deleted bucket of S3 has none of its objects. A folder's marker was seen a moment ago.
        let gone = if opened.is_local() { None } else { self.absence(&opened.name).await };
        gone.unwrap_or_else(|| BucketError::NoSuchObject {
            name: opened.name.clone(),
            key: key.to_owned(),
        })
    }

    /// Why a bucket in S3 is not there, if it is not.
    async fn absence(&self, name: &str) -> Option<BucketError> {
        let entry = self.entry(name).ok()?;
        let super::Reach::S3(store) = &entry.reach else { return None };
        self.asked(&entry, store).await.err()
    }

    /// What one step of a transfer gives, if its bucket does not fall silent.
    async fn step<T>(opened: &OpenBucket, work: impl Future<Output = T>) -> Result<T, BucketError> {
        let silent = |_| BucketError::Away {
            name: opened.name.clone(),
            why: format!("no answer within {} s", STEP_TIMEOUT.as_secs()),
        };
        tokio::time::timeout(STEP_TIMEOUT, work).await.map_err(silent)
    }

    /// Hash and length of an object.
    async fn hashed(&self, opened: &OpenBucket, key: &str) -> Result<(String, u64), BucketError> {
        let place = opened.key(key)?;
        let mut stream = match Self::step(opened, opened.store.get(&place)).await? {
            Ok(found) => found.into_stream(),
            Err(error) => return Err(self.unread_object(opened, key, error).await),
        };
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        while let Some(piece) = Self::step(opened, stream.next()).await? {
            let piece = piece.map_err(|error| self.broken(opened, "get", key, &error))?;
            hasher.update(&piece);
            bytes += piece.len() as u64;
        }
        Ok((hex(&hasher.finalize()), bytes))
    }

    /// Reads an object whole and compares. Gives its bytes.
    ///
    /// # Errors
    /// If there is no such object, it is another, its bucket is away, or as the bucket gives them.
    /// What is wrong is in the journal.
    pub async fn verify(&self, name: &str, key: &str, sha256: &str) -> Result<u64, BucketError> {
        let opened = self.opened(name).await?;
        let (found, bytes) = self.hashed(&opened, key).await?;
        if found == sha256 {
            return Ok(bytes);
        }
        Err(self.damaged(name, key, format!("its sha256 is {found}, expected {sha256}")))
    }

    /// Whether an object with this hash is there. Another content is an error, unless it may be put
    /// over.
    async fn holds(
        &self,
        opened: &OpenBucket,
        key: &str,
        sha256: &str,
        replace: bool,
    ) -> Result<bool, BucketError> {
        match Self::step(opened, opened.store.head(&opened.key(key)?)).await? {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(self.broken(opened, "get", key, &error)),
        }
        match self.hashed(opened, key).await {
            Ok((found, _)) if found == sha256 => Ok(true),
            Ok(_) | Err(_) if replace => Ok(false),
            Ok((found, _)) => Err(self.damaged(&opened.name, key, other_content(&found, sha256))),
            Err(BucketError::NoSuchObject { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies an object from one bucket to another. What is there already with this hash is left
    /// (false); another content is put over only if `replace`.
    ///
    /// # Errors
    /// If what was read has another hash, or another content is there: nothing was published then;
    /// as the buckets give them. They are in the journal.
    pub async fn copy(
        &self,
        from: &str,
        to: &str,
        key: &str,
        to_key: &str,
        sha256: &str,
        replace: bool,
    ) -> Result<bool, BucketError> {
        let target = self.writable(to).await?;
        if self.holds(&target, to_key, sha256, replace).await? {
            return Ok(false);
        }
        let source = self.opened(from).await?;
        let found = match Self::step(&source, source.store.get(&source.key(key)?)).await? {
            Ok(found) => found,
            Err(error) => return Err(self.unread_object(&source, key, error).await),
        };
        let size = found.meta.size;
        let source = &source;
        let pieces =
            pin!(futures_util::stream::try_unfold(found.into_stream(), |mut stream| async move {
                let piece = Self::step(source, stream.try_next())
                    .await?
                    .map_err(|error| self.broken(source, "get", key, &error))?;
                Ok::<_, BucketError>(piece.map(|piece| (piece, stream)))
            }));
        let sending = Upload { target: &target, key: to_key, size, sha256, replace };
        self.send(sending, pieces, |why| self.damaged(from, key, why)).await?;
        Ok(true)
    }

    /// Copies a local file into a bucket. What is there already with this hash is left; another
    /// content is put over only if `replace`.
    ///
    /// # Errors
    /// If what was read has another hash, or another content is there: nothing was published then;
    /// as the bucket gives them. They are in the journal.
    pub async fn upload(
        &self,
        name: &str,
        key: &str,
        from: &Path,
        sha256: &str,
        replace: bool,
    ) -> Result<(), BucketError> {
        let target = self.writable(name).await?;
        let unreadable = |error: io::Error| {
            self.broken(&target, "put", key, &format!("{}: {error}", from.display()))
        };
        let file = tokio::fs::File::open(from).await.map_err(unreadable)?;
        let size = file.metadata().await.map_err(unreadable)?.len();
        // What travels whole is put only if nothing is there; what does not is looked for first, as
        // where nobody can say what is new.
        if (!travels_whole(size) || !target.conditional)
            && self.holds(&target, key, sha256, replace).await?
        {
            return Ok(());
        }
        let pieces =
            futures_util::stream::try_unfold(file, |mut file: tokio::fs::File| async move {
                let mut piece = vec![0; READ_BYTES];
                let n = file.read(&mut piece).await?;
                piece.truncate(n);
                Ok::<_, io::Error>((n > 0).then_some((piece, file)))
            });
        let pieces = pin!(pieces.map_err(unreadable));
        let sending = Upload { target: &target, key, size, sha256, replace };
        self.send(sending, pieces, |why| {
            self.damaged(name, key, format!("{}: {why}", from.display()))
        })
        .await
    }

    /// Sends an object that is published only if its bytes have the promised hash.
    async fn send<C: AsRef<[u8]>>(
        &self,
        sending: Upload<'_>,
        mut pieces: impl Stream<Item = Result<C, BucketError>> + Unpin,
        another: impl Fn(String) -> BucketError,
    ) -> Result<(), BucketError> {
        let Upload { target, key, size, sha256, replace } = sending;
        let wrong = |found: &str| {
            another(format!("its sha256 is {found}, expected {sha256}; it was not put"))
        };
        let mut hasher = Sha256::new();
        if travels_whole(size) {
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.next().await {
                bytes.extend_from_slice(piece?.as_ref());
                if bytes.len() > PART_BYTES {
                    return Err(another(format!(
                        "it grew beyond the {size} bytes that it had; it was not put"
                    )));
                }
            }
            hasher.update(&bytes);
            let found = hex(&hasher.finalize());
            return if found == sha256 {
                self.send_whole(target, key, bytes, sha256, replace).await
            } else {
                Err(wrong(&found))
            };
        }
        if let Some(error) = target.in_the_way(key).await {
            return Err(error);
        }
        let failed = |error: object_store::Error| self.broken(target, "put", key, &error);
        let upload = Self::step(target, target.store.put_multipart(&target.key(key)?))
            .await?
            .map_err(failed)?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let sent = async {
            while let Some(piece) = pieces.next().await {
                let piece = piece?;
                hasher.update(piece.as_ref());
                Self::step(target, writer.wait_for_capacity(2)).await?.map_err(failed)?;
                writer.write(piece.as_ref());
            }
            let found = hex(&hasher.finalize());
            if found == sha256 { Ok(()) } else { Err(wrong(&found)) }
        };
        let sent = sent.await;
        if let Err(error) = sent {
            // No part stays, unless the bucket does not answer any more.
            match Self::step(target, writer.abort()).await {
                Ok(Ok(())) => {}
                Ok(Err(left)) => self.failed(&target.name, "abort", key, &target.told(&left)),
                Err(left) => self.failed(&target.name, "abort", key, &left),
            }
            return Err(error);
        }
        Self::step(target, writer.finish()).await?.map(drop).map_err(failed)
    }

    async fn send_whole(
        &self,
        target: &OpenBucket,
        key: &str,
        bytes: Vec<u8>,
        sha256: &str,
        replace: bool,
    ) -> Result<(), BucketError> {
        if replace {
            return self.put_in(target, key, bytes, false).await.map(drop);
        }
        match self.create_in(target, key, bytes).await? {
            Creation::New => Ok(()),
            Creation::Exists(found) => {
                let found = hex(&crate::digest::sha256(&found));
                Err(self.damaged(&target.name, key, other_content(&found, sha256)))
            }
            // Sent again it is settled: the bytes are the same.
            Creation::Unknown(why) => Err(BucketError::Unusable {
                name: target.name.clone(),
                why: format!("{key}: whether it was put is not known: {why}"),
            }),
        }
    }

    /// Puts a small object, over what is there unless it must be new. False if it was to be new,
    /// and is not.
    ///
    /// # Errors
    /// As the bucket gives them; they are in the journal.
    pub async fn put(
        &self,
        name: &str,
        key: &str,
        bytes: Vec<u8>,
        only_new: bool,
    ) -> Result<bool, BucketError> {
        let opened = self.writable(name).await?;
        self.put_in(&opened, key, bytes, only_new).await
    }

    async fn put_in(
        &self,
        opened: &OpenBucket,
        key: &str,
        bytes: Vec<u8>,
        only_new: bool,
    ) -> Result<bool, BucketError> {
        let (place, payload) = (opened.key(key)?, PutPayload::from(bytes));
        let mut raced = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                pause(attempt).await;
            }
            let mode = if only_new { PutMode::Create } else { PutMode::Overwrite };
            match Self::step(
                opened,
                opened.store.put_opts(&place, payload.clone(), PutOptions::from(mode)),
            )
            .await?
            {
                Ok(_) => return Ok(true),
                Err(error) if is_conflict(&error) => raced = opened.told(&error),
                Err(error) => {
                    let in_the_way = opened.in_the_way(key).await;
                    return Err(
                        in_the_way.unwrap_or_else(|| self.broken(opened, "put", key, &error))
                    );
                }
            }
            // Where nothing is there, somebody else was only about to put it.
            if only_new && opened.store.head(&place).await.is_ok() {
                return Ok(false);
            }
        }
        let others = || {
            self.broken(
                opened,
                "put",
                key,
                &format!("others put it at the same time; it was not put, try again: {raced}"),
            )
        };
        Err(opened.in_the_way(key).await.unwrap_or_else(others))
    }

    /// Bytes of an object from an offset on, at most [`OBJECT_BYTES_MAX`]. With a hash all of the
    /// object is read, and compared.
    ///
    /// # Errors
    /// If there is no such object, it is too large, it is another, or its bucket is away; as the
    /// bucket gives them. They are in the journal.
    pub async fn read(
        &self,
        name: &str,
        key: &str,
        (offset, length): (u64, Option<u64>),
        sha256: Option<&str>,
    ) -> Result<Part, BucketError> {
        let opened = self.opened(name).await?;
        let place = opened.key(key)?;
        let size = match Self::step(&opened, opened.store.head(&place)).await? {
            Ok(meta) => meta.size,
            Err(error) => return Err(self.unread_object(&opened, key, error).await),
        };
        let end = length.map_or(size, |length| offset.saturating_add(length).min(size));
        if end.saturating_sub(offset) > OBJECT_BYTES_MAX {
            return Err(BucketError::TooLarge { name: name.to_owned(), key: key.to_owned(), size });
        }
        let whole = sha256.is_some() || offset == 0 && end == size;
        if !whole && offset >= end {
            return Ok(Part { bytes: Vec::new(), size, sha256: None });
        }
        let options = GetOptions::default().with_range((!whole).then_some(offset..end));
        let result = match Self::step(&opened, opened.store.get_opts(&place, options)).await? {
            Ok(result) => result,
            Err(error) => return Err(self.unread_object(&opened, key, error).await),
        };
        let mut at = result.range.start;
        let mut stream = result.into_stream();
        let (mut bytes, mut hasher) = (Vec::new(), Sha256::new());
        while let Some(piece) = Self::step(&opened, stream.next()).await? {
            let piece = piece.map_err(|error| self.broken(&opened, "get", key, &error))?;
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
            return Err(self.damaged(
                name,
                key,
                format!("its sha256 is {found}, expected {expected}"),
            ));
        }
        Ok(Part { bytes, size, sha256: whole.then_some(found) })
    }

    /// Copies an object out of a bucket to a file, if it is what it should be; a file is there
    /// whole or not at all.
    ///
    /// # Errors
    /// If there is no such object, its bytes have another hash, or its bucket is away; as the
    /// bucket gives them. They are in the journal.
    pub async fn download(
        &self,
        name: &str,
        key: &str,
        sha256: &str,
        to: &Path,
    ) -> Result<(), BucketError> {
        let opened = self.opened(name).await?;
        let place = opened.key(key)?;
        let mut stream = match Self::step(&opened, opened.store.get(&place)).await? {
            Ok(found) => found.into_stream(),
            Err(error) => {
                let error = self.unread_object(&opened, key, error).await;
                if matches!(error, BucketError::NoSuchObject { .. }) {
                    // Whoever downloads knows that it was there.
                    self.failed(name, "get", key, &error);
                }
                return Err(error);
            }
        };
        let folder = to.parent().ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from)?;
        tokio::fs::create_dir_all(folder).await?;
        let temporary = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder)?;
        let mut file = tokio::fs::File::from_std(temporary.as_file().try_clone()?);
        let written = |error: io::Error| {
            self.broken(&opened, "write", key, &format!("{}: {error}", to.display()))
        };
        let mut hasher = Sha256::new();
        while let Some(bytes) = Self::step(&opened, stream.next()).await? {
            let bytes = bytes.map_err(|error| self.broken(&opened, "get", key, &error))?;
            hasher.update(&bytes);
            file.write_all(&bytes).await.map_err(written)?;
        }
        file.sync_all().await.map_err(written)?;
        let found = hex(&hasher.finalize());
        if found != sha256 {
            return Err(self.damaged(
                name,
                key,
                format!("its sha256 is {found}, expected {sha256}"),
            ));
        }
        temporary.persist(to).map_err(|e| e.error)?;
        atomic::sync_dir(folder)?;
        Ok(())
    }

    /// Keys and sizes below a prefix, without the bucket's own marker; of all where it is empty.
    ///
    /// # Errors
    /// If there are more than `max`, or as the bucket gives them, which are in the journal.
    pub async fn keys(
        &self,
        name: &str,
        prefix: &str,
        max: usize,
    ) -> Result<Vec<(String, u64)>, BucketError> {
        let opened = self.opened(name).await?;
        let below = super::open::prefix(name, prefix.trim_matches('/'))?;
        let mut listed = opened.store.list((!below.as_ref().is_empty()).then_some(&below));
        let mut keys = Vec::new();
        while let Some(object) = Self::step(&opened, listed.next()).await? {
            let object = object.map_err(|error| self.broken(&opened, "list", prefix, &error))?;
            let key = String::from(object.location);
            if key == MARKER || key.split('/').next() == Some(CATALOGS) {
                continue;
            }
            if keys.len() == max {
                return Err(BucketError::Bad(format!(
                    "bucket `{name}` has more than {max} objects below `{prefix}`: expected at most that"
                )));
            }
            keys.push((key, object.size));
        }
        Ok(keys)
    }

    /// Removes one object; one that is not there is fine.
    ///
    /// # Errors
    /// As the bucket gives them; they are in the journal.
    pub async fn remove_object(&self, name: &str, key: &str) -> Result<(), BucketError> {
        let opened = self.opened(name).await?;
        match Self::step(&opened, opened.store.delete(&opened.key(key)?)).await? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.broken(&opened, "delete", key, &error)),
        }
    }
}

/// An object on its way.
struct Upload<'a> {
    target: &'a OpenBucket,
    key: &'a str,
    /// Bytes that it is said to have.
    size: u64,
    sha256: &'a str,
    replace: bool,
}

fn travels_whole(size: u64) -> bool {
    size <= PART_BYTES as u64
}

fn other_content(found: &str, expected: &str) -> String {
    format!(
        "another content is there, of sha256 {found}, expected {expected}; it was left as it is"
    )
}
