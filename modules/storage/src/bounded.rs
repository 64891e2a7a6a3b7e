//! A store of values that outlives its process and is bounded in bytes, the oldest out first: sled
//! below it.
//!
//! Invariants: the sum of what is kept, with what a value costs beside its payload, is at most the
//! bound after each [`put`]; sled's panics on damaged files end here, as errors; nothing is
//! promised to be on disk before [`flush`] has returned.
//!
//! It knows nothing of what its keys and values mean: whoever reads a value judges whether it is
//! whole.
//!
//! [`put`]: BoundedStore::put
//! [`flush`]: BoundedStore::flush

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sled::IVec;
use thiserror::Error;

use crate::lock::{is_held, once_unlocked};

/// What a value costs beside its payload and its key, which is there twice: its place in the order
/// and sled's own bookkeeping.
const OVERHEAD_BYTES: u64 = 48;

/// Why the store could not be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder cannot be made.
    #[error("{} cannot be made", folder.display())]
    Folder {
        /// Where the store was to lie.
        folder: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("{} is in use by another process, which may be of another mesh; end that one, or choose another folder", folder.display())]
    Held {
        /// Where the store lies.
        folder: PathBuf,
        /// Cause.
        #[source]
        source: sled::Error,
    },
    /// sled gave up as it was opened.
    #[error("the store in {} cannot be opened; remove that folder to begin anew", folder.display())]
    Unopened {
        /// Where the store lies.
        folder: PathBuf,
        /// Cause.
        #[source]
        source: sled::Error,
    },
    /// sled gave up.
    #[error("the store cannot be read or written")]
    Sled(#[from] sled::Error),
    /// sled panicked, as it does on some damaged files.
    #[error("its files are damaged: remove its folder to begin anew")]
    Damaged,
}

/// What a store is opened with.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Tree of the values.
    pub values: &'static str,
    /// Tree of their order: turn to key ‖ length of the value, 32 bits, little-endian.
    pub order: &'static str,
    /// Bytes of every key.
    pub key_bytes: usize,
    /// Bytes of a value whose entry in the order is without a length, as earlier versions wrote it.
    pub value_bytes_unsaid: u64,
    /// sled's own memory for pages.
    pub pages_bytes: u64,
    /// How often sled puts on disk what is new; `None`: only [`BoundedStore::flush`] does.
    pub flush_every_ms: Option<u64>,
}

/// Values by keys, bounded in bytes, the oldest out first.
#[derive(Debug)]
pub struct BoundedStore {
    db: sled::Db,
    values: sled::Tree,
    order: sled::Tree,
    layout: Layout,
    bytes_max: u64,
    /// sled counts its entries by reading them.
    entries: AtomicU64,
    /// sled's files shrink long after a value was removed, so they say nothing.
    bytes: AtomicU64,
}

/// Values beside the bounded ones, which stay until they are removed.
#[derive(Clone, Debug)]
pub struct Side {
    db: sled::Db,
    tree: sled::Tree,
}

/// Runs sled, which panics on some damaged files.
fn guarded<T>(work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| StoreError::Damaged)?.map_err(StoreError::Sled)
}

impl Layout {
    fn cost(&self, value_bytes: u64) -> u64 {
        value_bytes + 2 * self.key_bytes as u64 + OVERHEAD_BYTES
    }

    /// The length of its value by an entry of the order, if it says one.
    fn says(&self, entry: &[u8]) -> Option<u64> {
        entry
            .get(self.key_bytes..)
            .and_then(|length| length.try_into().ok())
            .map(u32::from_le_bytes)
            .map(u64::from)
    }

    /// What an entry of the order stands for.
    fn cost_of(&self, entry: &[u8]) -> u64 {
        self.cost(self.says(entry).unwrap_or(self.value_bytes_unsaid))
    }
}

impl BoundedStore {
    /// Opens or makes the store in `folder`. A predecessor's lock is waited for, for a moment.
    ///
    /// # Errors
    /// If another process holds it, its folder cannot be made, or its files are damaged.
    pub fn open(folder: &Path, layout: Layout, bytes_max: u64) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| StoreError::Folder { folder: folder.to_owned(), source })?;
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(layout.pages_bytes)
            .flush_every_ms(layout.flush_every_ms);
        let opened = once_unlocked(
            folder,
            |error| matches!(error, StoreError::Sled(sled::Error::Io(_))),
            || guarded(|| config.open()),
        );
        let db = opened.map_err(|error| match error {
            StoreError::Sled(source) if is_held(folder) => {
                StoreError::Held { folder: folder.to_owned(), source }
            }
            StoreError::Sled(source) => StoreError::Unopened { folder: folder.to_owned(), source },
            other => other,
        })?;
        guarded(|| {
            let (values, order) = (db.open_tree(layout.values)?, db.open_tree(layout.order)?);
            let (mut entries, mut bytes) = (0, 0);
            for entry in order.iter().values() {
                entries += 1;
                bytes += layout.cost_of(&entry?);
            }
            Ok(Self {
                db,
                values,
                order,
                layout,
                bytes_max,
                entries: AtomicU64::new(entries),
                bytes: AtomicU64::new(bytes),
            })
        })
    }

    /// A value, as it was put.
    ///
    /// # Errors
    /// As sled gives them.
    pub fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        guarded(|| self.values.get(key))
    }

    /// Keeps a value, in the place of an earlier one of that key. Returns the keys of those that
    /// had to go for it. A value that is larger than the bound is not kept, and nothing goes for
    /// it.
    ///
    /// # Errors
    /// As sled gives them.
    pub fn put(&self, key: &[u8], value: Vec<u8>) -> Result<Vec<Vec<u8>>, StoreError> {
        debug_assert_eq!(key.len(), self.layout.key_bytes, "keys are of one length");
        let length = value.len() as u64;
        let cost = self.layout.cost(length);
        if cost > self.bytes_max {
            return Ok(Vec::new());
        }
        guarded(|| {
            // First its place in the order: a value without one would stay for ever. One of another
            // length than before gets a place of its own, and the former counts until it is met.
            if self.values.get(key)?.is_none_or(|earlier| earlier.len() as u64 != length) {
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                self.order.insert(
                    self.db.generate_id()?.to_be_bytes(),
                    [key, &length.to_le_bytes()].concat(),
                )?;
                self.bytes.fetch_add(cost, Ordering::Relaxed);
                self.entries.fetch_add(1, Ordering::Relaxed);
            }
            self.values.insert(key, value)?;
            let mut gone = Vec::new();
            while self.bytes() > self.bytes_max
                && let Some((_, oldest)) = self.order.pop_min()?
            {
                self.take(self.layout.cost_of(&oldest));
                self.entries.fetch_sub(1, Ordering::Relaxed);
                let key = oldest.get(..self.layout.key_bytes).unwrap_or(&oldest);
                // Of a value that has another length since, another place tells.
                let is_its = |value: IVec| {
                    self.layout.says(&oldest).is_none_or(|length| value.len() as u64 == length)
                };
                if self.values.get(key)?.is_some_and(is_its) {
                    self.values.remove(key)?;
                    gone.push(key.to_vec());
                }
            }
            Ok(gone)
        })
    }

    /// Lengths that earlier versions did not write are guessed: the sum may be less than what goes.
    fn take(&self, bytes: u64) {
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            Some(held.saturating_sub(bytes))
        });
    }

    /// A tree beside the values.
    ///
    /// # Errors
    /// As sled gives them.
    pub fn side(&self, name: &str) -> Result<Side, StoreError> {
        guarded(|| Ok(Side { db: self.db.clone(), tree: self.db.open_tree(name)? }))
    }

    /// Puts everything on disk.
    ///
    /// # Errors
    /// As sled gives them.
    pub fn flush(&self) -> Result<(), StoreError> {
        guarded(|| self.db.flush().map(drop))
    }

    /// How many values there are.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// What is kept, with what a value costs beside its payload.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Side {
    /// A value.
    ///
    /// # Errors
    /// As sled gives them.
    pub fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        guarded(|| self.tree.get(key))
    }

    /// Keeps a value; it is on disk when this returns if `durable`.
    ///
    /// # Errors
    /// As sled gives them.
    pub fn put(&self, key: &[u8], value: &[u8], durable: bool) -> Result<(), StoreError> {
        guarded(|| {
            self.tree.insert(key, value)?;
            if durable { self.db.flush().map(drop) } else { Ok(()) }
        })
    }

    /// Keys that begin with this and their values, in the order of the keys, at most so many.
    ///
    /// # Errors
    /// As sled gives them.
    pub fn scan(&self, begin: &[u8], most: usize) -> Result<Vec<(IVec, IVec)>, StoreError> {
        guarded(|| self.tree.scan_prefix(begin).take(most).collect())
    }

    /// Removes a value; one that is not there is fine.
    ///
    /// # Errors
    /// As sled gives them.
    pub fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        guarded(|| self.tree.remove(key).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        values: "v",
        order: "o",
        key_bytes: 4,
        value_bytes_unsaid: 10,
        pages_bytes: 1 << 20,
        flush_every_ms: None,
    };
    /// What a value of ten bytes costs.
    const COST: u64 = 10 + 8 + OVERHEAD_BYTES;

    fn there(store: &BoundedStore) -> Vec<u32> {
        (0..40_u32).filter(|key| store.get(&key.to_be_bytes()).expect("read").is_some()).collect()
    }

    #[test]
    fn the_oldest_make_room_and_no_more_than_they_must() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = BoundedStore::open(folder.path(), LAYOUT, 10 * COST).expect("opened");
        let gone: Vec<u8> = (0..25_u32)
            .flat_map(|key| store.put(&key.to_be_bytes(), vec![7; 10]).expect("put"))
            .map(|key| key[3])
            .collect();
        assert_eq!(gone, (0..15).collect::<Vec<u8>>());
        store.put(&24_u32.to_be_bytes(), vec![8; 10]).expect("put again");
        assert_eq!(
            (there(&store), store.entries(), store.bytes()),
            ((15..25).collect(), 10, 10 * COST)
        );
        store.flush().expect("flushed");
        drop(store);
        let store = BoundedStore::open(folder.path(), LAYOUT, 10 * COST).expect("opened again");
        assert_eq!((store.entries(), store.bytes()), (10, 10 * COST));
        // One of three times the payload takes the place of two.
        store.put(&30_u32.to_be_bytes(), vec![7; 30]).expect("put");
        assert_eq!(there(&store), (17..25).chain([30]).collect::<Vec<u32>>());
        store.put(&24_u32.to_be_bytes(), vec![7; 10 + 56]).expect("grown");
        assert!(store.bytes() <= 10 * COST && there(&store).contains(&30), "{}", store.bytes());
        assert!(
            store.put(&31_u32.to_be_bytes(), vec![7; 5000]).expect("not kept").is_empty()
                && there(&store).contains(&30)
        );
        let (bytes, all) = (store.bytes(), there(&store));
        store.flush().expect("flushed");
        drop(store);
        let store = BoundedStore::open(folder.path(), LAYOUT, 10 * COST).expect("opened again");
        assert_eq!(
            (store.bytes(), there(&store)),
            (bytes, all),
            "what has grown counts after another opening as before"
        );
        for key in 100..140_u32 {
            store.put(&key.to_be_bytes(), vec![7; 10]).expect("put");
        }
        assert_eq!((store.entries(), store.bytes(), there(&store).len()), (10, 10 * COST, 0));
    }

    #[test]
    fn what_an_earlier_version_wrote_without_lengths_is_counted_and_goes_first() {
        let folder = tempfile::tempdir().expect("a folder");
        {
            let db = sled::open(folder.path()).expect("opened");
            let (values, order) =
                (db.open_tree("v").expect("a tree"), db.open_tree("o").expect("a tree"));
            for key in 0..5_u32 {
                values.insert(key.to_be_bytes(), vec![7; 10]).expect("put");
                order
                    .insert(
                        db.generate_id().expect("a turn").to_be_bytes(),
                        key.to_be_bytes().to_vec(),
                    )
                    .expect("put");
            }
            db.flush().expect("flushed");
        }
        let store = BoundedStore::open(folder.path(), LAYOUT, 5 * COST).expect("opened");
        assert_eq!((store.entries(), store.bytes()), (5, 5 * COST));
        assert_eq!(
            store.put(&9_u32.to_be_bytes(), vec![7; 10]).expect("put"),
            [0_u32.to_be_bytes().to_vec()]
        );
        assert_eq!(there(&store), [1, 2, 3, 4, 9]);
    }

    #[test]
    fn what_cannot_be_opened_says_why_and_a_side_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "x").expect("written");
        assert!(matches!(BoundedStore::open(&file, LAYOUT, 1), Err(StoreError::Folder { .. })));
        let at = folder.path().join("store");
        let store = BoundedStore::open(&at, LAYOUT, COST - 1).expect("opened");
        let side = store.side("s").expect("a side");
        side.put(b"k", b"v", true).expect("put");
        store.put(&[0; 4], vec![7; 10]).expect("put");
        assert_eq!(
            (store.entries(), side.get(b"k").expect("read").as_deref()),
            (0, Some(&b"v"[..]))
        );
        side.put(b"kk", b"w", false).expect("put");
        side.put(b"l", b"x", false).expect("put");
        let keys = |begin: &[u8], most| {
            side.scan(begin, most)
                .expect("read")
                .into_iter()
                .map(|(key, _)| key.to_vec())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (keys(b"k", 9), keys(b"", 1)),
            (vec![b"k".to_vec(), b"kk".to_vec()], vec![b"k".to_vec()])
        );
        side.remove(b"k").expect("removed");
        assert_eq!(side.get(b"k").expect("read"), None);
        let held = BoundedStore::open(&at, LAYOUT, 1).expect_err("held by the one above");
        assert!(matches!(held, StoreError::Held { .. }), "{held:?}");
        assert!(
            held.to_string().contains(&at.display().to_string())
                && held.to_string().contains("another process"),
            "{held}"
        );
    }
}
