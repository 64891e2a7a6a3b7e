//! Whether buckets are there.
//!
//! A folder is asked for its marker by a look at the file system, S3 by a request. Invariants: a
//! bucket whose marker is not seen is never called reachable; nothing is written to a bucket here
//! but the marker of one in S3 that an earlier version has registered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use brahman_card::chain;
use brahman_card::interface::storage::{BucketHealth, RESCUE};
use futures_util::StreamExt as _;
use object_store::ObjectStore;

use super::entry::Misfit;
use super::error::{BucketError, mask};
use super::marker::{self, MARKER, Marker};
use super::{Buckets, Change, Entry, Reach, is_own, lock};

/// How long a bucket may take to say whether it is there.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long a bucket in S3 that was there is taken to be so: the requests of one commit ask
/// once.
const SEEN: Duration = Duration::from_secs(3);

impl Buckets {
    /// Whether a bucket is there. Of a folder that is a look at its marker; of S3 a request, unless
    /// it was there a moment ago.
    ///
    /// # Errors
    /// [`BucketError::Away`], or that there is none of this name; of S3 also that it did not
    /// answer.
    pub async fn present(&self, name: &str) -> Result<(), BucketError> {
        let entry = self.entry(name)?;
        if let Reach::S3(store) = &entry.reach {
            let there = lock(&entry.sight).there;
            if there.is_some_and(|since| since.elapsed() < SEEN) {
                return Ok(());
            }
            return self.asked(&entry, store).await;
        }
        self.opened(name).await.map(drop)
    }

    /// The same of a folder, which may take 5 s. A bucket in S3 passes, if it can be opened.
    ///
    /// # Errors
    /// [`BucketError::Away`], also where the disk does not answer, or that there is none of this
    /// name.
    pub async fn mounted(&self, name: &str) -> Result<(), BucketError> {
        let entry = self.entry(name)?;
        match &entry.reach {
            Reach::Folder(folder) => entry.seen(folder.clone()).await.map(drop),
            Reach::S3(_) => Ok(()),
            Reach::Closed(why) => Err(entry.away(why.clone())),
        }
    }

    /// The same, where the thread that asks may wait.
    ///
    /// # Errors
    /// As [`Self::mounted`] gives them.
    pub fn mounted_now(&self, name: &str) -> Result<(), BucketError> {
        let entry = self.entry(name)?;
        match &entry.reach {
            Reach::Folder(folder) => entry.sighted_in_time(folder).map(drop),
            Reach::S3(_) => Ok(()),
            Reach::Closed(why) => Err(entry.away(why.clone())),
        }
    }

    /// Whether a bucket's disk was asked and does not answer: nothing on it may be touched by
    /// whoever must go on.
    #[must_use]
    pub fn hangs(&self, name: &str) -> bool {
        lock(&self.all).get(name).is_some_and(|entry| entry.looks.hang())
    }

    /// Whether other catalogs use a bucket as well.
    ///
    /// # Errors
    /// As the bucket gives them.
    pub async fn is_shared(&self, name: &str) -> Result<bool, BucketError> {
        let opened = self.opened(name).await?;
        let shared = marker::is_shared(&*opened.store, &self.node).await;
        shared.map_err(|error| BucketError::Unusable {
            name: name.to_owned(),
            why: opened.told(&error),
        })
    }

    /// Buckets that are not there, and why: folders as they are now, S3 as it was when it was last
    /// asked. Our own `rescue` does not count before somebody has added one.
    #[must_use]
    pub fn absent(&self) -> Vec<(String, String)> {
        let all: Vec<Entry> = lock(&self.all).values().cloned().collect();
        let why = |entry: &Entry| match &entry.reach {
            Reach::S3(_) => lock(&entry.sight).away.clone(),
            Reach::Closed(why) => Some(why.clone()),
            Reach::Folder(folder) => {
                entry.sighted_in_time(folder).err().map(|error| reason(&error))
            }
        };
        let used =
            all.iter().filter(|entry| !(is_own(&entry.bucket) && entry.bucket.name == RESCUE));
        used.filter_map(|entry| Some((entry.bucket.name.clone(), why(entry)?))).collect()
    }

    /// Asks every bucket, all at once, whether it is there.
    pub async fn health(&self) -> Vec<BucketHealth> {
        let all: Vec<Entry> = lock(&self.all).values().cloned().collect();
        let asked = all.into_iter().map(|entry| async move {
            let (name, started) = (entry.bucket.name.clone(), Instant::now());
            let answer = match self.entry(&name) {
                Ok(open) => self.answer(&open).await,
                Err(error) => Err(error),
            };
            let latency_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            let error = answer.err().map(|error| reason(&error));
            if let Some(error) = &error {
                self.failed(&name, "health", "", error);
            }
            let hint = error.as_ref().map(|_| self.hint(&entry));
            BucketHealth {
                name,
                reachable: error.is_none(),
                latency_us,
                error,
                hint,
                ..BucketHealth::default()
            }
        });
        let mut health = futures_util::future::join_all(asked).await;
        let of = |name: &str, why: &str, hint: Option<String>| BucketHealth {
            name: name.to_owned(),
            error: Some(why.to_owned()),
            hint,
            ..BucketHealth::default()
        };
        let registry = |why: &String, hint: &str| {
            of("registry", why, Some(format!("{hint}; then `brahman restart catalog`")))
        };
        // What else there may be is not known.
        let unreadable = self
            .unreadable
            .iter()
            .map(|why| registry(why, "repair the file, or move it away and add the buckets again"));
        let other = self.other_registry.iter().map(|why| {
            registry(
                why,
                "add those buckets again (`brahman buckets add`), and move that file away",
            )
        });
        // It says itself what to do.
        let nameless = self.nameless.iter().map(|why| of("node", why, None));
        health.extend(unreadable.chain(other).chain(nameless));
        health
    }

    /// What to do about a bucket that is not there.
    fn hint(&self, entry: &Entry) -> String {
        let (name, url) = (&entry.bucket.name, mask(&entry.bucket.url, &entry.secrets));
        if self.twin(&entry.bucket).is_some() {
            return format!(
                "two names stand for one place: remove one of them, or `brahman buckets add {name}` it elsewhere; nothing is lost"
            );
        }
        let misfit = if matches!(entry.reach, Reach::Closed(_)) || entry.looks.hang() {
            None
        } else {
            lock(&entry.sight).misfit.clone()
        };
        match misfit {
            Some(Misfit::Damaged) => {
                return format!(
                    "if {url} is the bucket, move its damaged {MARKER} away, and `brahman buckets add {name} {url}` makes another; what lies \
                     there stays as it is. Until then nothing is written to it"
                );
            }
            Some(Misfit::Other(id)) => {
                let all = lock(&self.all);
                let other = all
                    .values()
                    .map(|other| &other.bucket)
                    .find(|other| other.id.as_ref() == Some(&id) && other.name != *name);
                if let Some(other) = other {
                    let (other, its) = (&other.name, mask(&other.url, &[]));
                    return format!(
                        "{url} is bucket `{other}`, which belongs at {its}: were their disks or folders exchanged? Put them back, or mount \
                         them where they belong; nothing is written to either until then"
                    );
                }
            }
            None => {}
        }
        hint(entry)
    }

    async fn answer(&self, entry: &Entry) -> Result<(), BucketError> {
        if let Reach::S3(store) = &entry.reach {
            return self.asked(entry, store).await;
        }
        match tokio::time::timeout(HEALTH_TIMEOUT, self.opened(&entry.bucket.name)).await {
            Ok(opened) => opened.map(drop),
            Err(_) => Err(entry.away(format!("no answer within {} s", HEALTH_TIMEOUT.as_secs()))),
        }
    }

    /// Asks a bucket in S3 for its marker, now.
    pub(super) async fn asked(
        &self,
        entry: &Entry,
        store: &Arc<dyn ObjectStore>,
    ) -> Result<(), BucketError> {
        let found = match tokio::time::timeout(HEALTH_TIMEOUT, self.recognised(entry, store)).await
        {
            Ok(found) => found,
            Err(_) => {
                let why = format!("no answer within {} s", HEALTH_TIMEOUT.as_secs());
                Err(BucketError::Unusable { name: entry.bucket.name.clone(), why })
            }
        };
        let mut sight = lock(&entry.sight);
        sight.there = found.is_ok().then(Instant::now);
        sight.away = found.as_ref().err().map(reason);
        found
    }

    async fn recognised(
        &self,
        entry: &Entry,
        store: &Arc<dyn ObjectStore>,
    ) -> Result<(), BucketError> {
        let failed = |error: &dyn std::error::Error| {
            let why = mask(&chain(error), &entry.secrets);
            BucketError::Unusable { name: entry.bucket.name.clone(), why }
        };
        let gone =
            || entry.away(format!("{MARKER} is not there: the bucket was deleted, or emptied"));
        let read = marker::read(&**store).await;
        lock(&entry.sight).misfit =
            read.as_ref().is_err_and(marker::MarkerError::is_damage).then_some(Misfit::Damaged);
        match read.map_err(|e| failed(&e))? {
            Some(found) if entry.bucket.id.is_some() => entry.recognises(&found),
            // An earlier version has registered it.
            Some(found) => self.adopt(entry, found).await,
            None if entry.bucket.id.is_some() => Err(gone()),
            None => {
                // To be listed it must be there, as it need not be for a put: some stores make it
                // then.
                match store.list(None).next().await {
                    Some(Err(object_store::Error::NotFound { .. })) => return Err(gone()),
                    Some(Err(error)) => return Err(failed(&error)),
                    Some(Ok(_)) | None => {}
                }
                let new = Marker::new(&entry.bucket.name, self.known_node()?);
                let made = marker::make(&**store, entry.bucket.conditional_put, &new)
                    .await
                    .map_err(|e| failed(&e))?;
                self.adopt(entry, made).await
            }
        }
    }

    /// Writes down which marker a bucket that has none on record has.
    async fn adopt(&self, entry: &Entry, found: Marker) -> Result<(), BucketError> {
        if self.unreadable.is_some() {
            return Ok(());
        }
        let (bucket, id) = (entry.bucket.clone(), found.id.clone());
        let adopted = self.change(move |all| {
            if let Some(there) = all.get_mut(&bucket.name).filter(|there| there.bucket == bucket) {
                there.bucket.id = Some(id);
            }
            Ok(Change { name: bucket.name, answer: () })
        });
        if let Err(error) = adopted.await {
            // It is there all the same, and is written down the next time.
            if let Some(there) = lock(&self.all)
                .get_mut(&entry.bucket.name)
                .filter(|there| there.bucket == entry.bucket)
            {
                there.bucket.id = Some(found.id);
            }
            self.failed(&entry.bucket.name, "open", MARKER, &error);
        }
        Ok(())
    }
}

/// Why a bucket is not there, without its name.
fn reason(error: &BucketError) -> String {
    match error {
        BucketError::Away { why, .. } | BucketError::Unusable { why, .. } => why.clone(),
        other => other.to_string(),
    }
}

/// What to do about a bucket that is not there.
fn hint(entry: &Entry) -> String {
    let (name, url) = (&entry.bucket.name, mask(&entry.bucket.url, &entry.secrets));
    match &entry.reach {
        Reach::Folder(_) => format!(
            "mount its disk; if it is lost, or was never in use, `brahman buckets add {name} {url}` begins an empty one there. Until then \
             nothing is written to it"
        ),
        Reach::S3(_) => {
            format!("see to its server and its credentials; `brahman buckets add {name} {url} …` begins it anew if it was deleted")
        }
        Reach::Closed(_) => {
            "restore the secrets file, or add the bucket again as it was registered; what lies in it stays listed".to_owned()
        }
    }
}
