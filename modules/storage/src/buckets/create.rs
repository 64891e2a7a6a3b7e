//! Objects that must be new, where answers may be lost.
//!
//! A put whose answer is lost may have been done, may be done later, or never. What is there
//! afterwards tells: ours, byte for byte, was put by us, and another's keeps ours out. Where
//! nothing is there the put is made again, which is the same put. Only what is still not known
//! after all of that is [`Creation::Unknown`]. Invariant: [`Creation::New`] is said of bytes that
//! are there, an error of a put that did not happen.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use object_store::path::Path as Key;
use object_store::{ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

use super::error::BucketError;
use super::{Buckets, OpenBucket};

/// Tries of one put: each has retries of its own, for a server that says that it is busy.
const TRIES: u32 = 4;
/// First pause between two tries, the next ones twice as long each; two that race for a key must
/// not stay in step.
const PAUSE: Duration = Duration::from_millis(50);
/// After which no further try is made: whoever waits for a commit has other means.
const TRYING: Duration = Duration::from_secs(60);

/// What became of an object that was to be new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    /// It is there, with these bytes.
    New,
    /// Another was there before.
    Exists(Vec<u8>),
    /// Every answer was lost: it may be there, or come to be there, or not. What was last said.
    Unknown(String),
}

/// Whether a refusal means that somebody else was first, or is just about to be.
pub(super) fn is_conflict(error: &object_store::Error) -> bool {
    matches!(
        error,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }
    )
}

/// Whether an error says that nothing was put. Whatever else goes wrong may have gone wrong on the
/// way back.
fn is_refusal(opened: &OpenBucket, error: &object_store::Error) -> bool {
    use object_store::Error::{
        InvalidPath, NotFound, NotImplemented, NotSupported, PermissionDenied, Unauthenticated,
        UnknownConfigurationKey,
    };
    opened.is_local()
        || matches!(
            error,
            NotFound { .. }
                | PermissionDenied { .. }
                | Unauthenticated { .. }
                | NotImplemented { .. }
                | NotSupported { .. }
                | InvalidPath { .. }
                | UnknownConfigurationKey { .. }
        )
}

/// Until the next try.
pub(super) async fn pause(attempt: u32) {
    let longest = PAUSE * 2_u32.saturating_pow(attempt);
    let share = RandomState::new().hash_one(attempt) % 1000;
    // Between half of it and all of it.
    tokio::time::sleep(longest / 2 + longest.mul_f64(share as f64 / 2000.0)).await;
}

impl Buckets {
    /// Puts a small object that must be new. In a bucket that cannot tell, it is put in any case:
    /// such a bucket has one writer.
    ///
    /// # Errors
    /// If it was not put, and why: as the bucket gives it, or because others raced for the key.
    /// They are in the journal.
    pub async fn create(
        &self,
        name: &str,
        key: &str,
        bytes: Vec<u8>,
    ) -> Result<Creation, BucketError> {
        let opened = self.writable(name).await?;
        self.create_in(&opened, key, bytes).await
    }

    pub(super) async fn create_in(
        &self,
        opened: &OpenBucket,
        key: &str,
        bytes: Vec<u8>,
    ) -> Result<Creation, BucketError> {
        let (place, began) = (opened.key(key)?, Instant::now());
        let failed = |why: &str| {
            self.failed(&opened.name, "create", key, &why);
            BucketError::Unusable { name: opened.name.clone(), why: format!("{key}: {why}") }
        };
        let payload = PutPayload::from(bytes);
        // The first answer that was lost, and what was last said.
        let (mut lost, mut last): (Option<String>, String) = (None, String::new());
        for attempt in 0..TRIES {
            if attempt > 0 {
                if began.elapsed() > TRYING {
                    break;
                }
                pause(attempt).await;
            }
            match try_create(opened, &place, payload.clone()).await {
                Try::Done(created) => return Ok(created),
                Try::Refused(why) if lost.is_none() => {
                    return Err(opened.in_the_way(key).await.unwrap_or_else(|| failed(&why)));
                }
                Try::Refused(why) | Try::Raced(why) => last = why,
                Try::Lost(why) => {
                    last.clone_from(&why);
                    lost = lost.or(Some(why));
                }
            }
        }
        match lost {
            Some(why) => {
                self.failed(
                    &opened.name,
                    "create",
                    key,
                    &format!("whether it was put is not known: {why}"),
                );
                Ok(Creation::Unknown(if last == why { why } else { format!("{why}; {last}") }))
            }
            None => {
                let raced = || {
                    failed(&format!(
                        "others put it at the same time, {TRIES} times over; it was not put, try again: {last}"
                    ))
                };
                Err(opened.in_the_way(key).await.unwrap_or_else(raced))
            }
        }
    }
}

async fn try_create(opened: &OpenBucket, place: &Key, payload: PutPayload) -> Try {
    let mode = if opened.conditional { PutMode::Create } else { PutMode::Overwrite };
    let put = opened.store.put_opts(place, payload.clone(), PutOptions::from(mode)).await;
    let (why, was_lost) = match put {
        Ok(_) => return Try::Done(Creation::New),
        Err(error) if is_conflict(&error) => (opened.told(&error), false),
        Err(error) if is_refusal(opened, &error) => return Try::Refused(opened.told(&error)),
        Err(error) => (opened.told(&error), true),
    };
    let outcome = |why: String| if was_lost { Try::Lost(why) } else { Try::Raced(why) };
    match async { opened.store.get(place).await?.bytes().await }.await {
        Ok(there) if there.iter().eq(payload.iter().flat_map(|part| part.iter())) => {
            Try::Done(Creation::New)
        }
        Ok(there) if opened.conditional => Try::Done(Creation::Exists(there.to_vec())),
        // Not ours, and to be put over; or nothing, for a race that nobody has won yet and for a
        // put that is still on its way.
        Ok(_) | Err(object_store::Error::NotFound { .. }) => outcome(why),
        Err(error) => outcome(format!("{why}; then {}", opened.told(&error))),
    }
}

/// What came of one try.
enum Try {
    Done(Creation),
    /// Nothing was put, nor will be by another try.
    Refused(String),
    /// Nothing was put, for somebody else was putting.
    Raced(String),
    /// The answer was lost.
    Lost(String),
}
