//! The vector cache: sled, tree `embed_cache_v1`, key = sha256(bytes seen) ‖ model fingerprint, value = f32s,
//! little-endian. Bounded in bytes, oldest out first.
//!
//! Invariants: a value of the wrong length, or that is no unit vector, is a miss and is deleted; without a cache the
//! engine serves all the same and says so; sled's panics on damaged files end here.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use brahman_card::interface::embed::CacheInfo;
use brahman_sidecar::chain;
use brahman_storage::lock::once_unlocked;
use thiserror::Error;

/// sha256 of the bytes seen.
pub type ContentHash = [u8; 32];

/// sled's own memory for pages: hot vectors are few.
const PAGES_BYTES: u64 = 16 << 20;
/// Bookkeeping a value costs beside its payload: key, order entry, token count.
const OVERHEAD_BYTES: u64 = 64 + 80;

#[derive(Debug)]
struct Trees {
    values: sled::Tree,
    order: sled::Tree,
    tokens: sled::Tree,
    db: sled::Db,
}

/// Why there is no cache, or why it did not do something.
#[derive(Debug, Error)]
pub enum CacheError {
    /// Its folder cannot be made.
    #[error(transparent)]
    Folder(#[from] io::Error),
    /// sled says why.
    #[error(transparent)]
    Sled(#[from] sled::Error),
    /// sled did not get so far.
    #[error("sled found its files damaged")]
    Damaged,
}

/// The cache, or why there is none.
#[derive(Debug)]
pub struct Cache {
    trees: Result<Trees, CacheError>,
    fingerprint: [u8; 32],
    dim: usize,
    bytes_max: u64,
    entries: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Cache {
    /// Opens the cache in `folder`; never fails, but may be absent.
    #[must_use]
    pub fn open(folder: &Path, fingerprint: [u8; 32], dim: usize, bytes_max: u64) -> Self {
        let opened = guarded(|| {
            std::fs::create_dir_all(folder)?;
            let config = sled::Config::new().path(folder).cache_capacity(PAGES_BYTES).flush_every_ms(Some(1000));
            let db = once_unlocked(|| config.open())?;
            let tree = |name: &str| db.open_tree(name);
            Ok(Trees { values: tree("embed_cache_v1")?, order: tree("embed_order_v1")?, tokens: tree("embed_tokens_v1")?, db: db.clone() })
        });
        if let Err(error) = &opened {
            tracing::warn!(folder = %folder.display(), "serving without a cache: {}", chain(error));
        }
        let entries = opened.as_ref().map_or(0, |t| t.order.len() as u64);
        Self { trees: opened, fingerprint, dim, bytes_max, entries: entries.into(), hits: 0.into(), misses: 0.into() }
    }

    fn key(&self, content: &ContentHash) -> [u8; 64] {
        let mut key = [0; 64];
        key[..32].copy_from_slice(content);
        key[32..].copy_from_slice(&self.fingerprint);
        key
    }

    /// Why there is no cache.
    #[must_use]
    pub fn absent(&self) -> Option<String> {
        self.trees.as_ref().err().map(|error| chain(error))
    }

    /// A vector, and how many tokens its text had if that was more than the window.
    #[must_use]
    pub fn get(&self, content: &ContentHash) -> Option<(Arc<[f32]>, Option<u32>)> {
        let trees = self.trees.as_ref().ok()?;
        let key = self.key(content);
        let found = guarded(|| {
            let Some(value) = trees.values.get(key)? else { return Ok(None) };
            let Some(vector) = decode(&value, self.dim) else {
                tracing::warn!("a damaged cache value was dropped");
                trees.values.remove(key)?;
                return Ok(None);
            };
            let tokens = trees.tokens.get(key)?;
            Ok(Some((vector, tokens.and_then(|t| Some(u32::from_le_bytes(t.as_ref().try_into().ok()?))))))
        });
        let found = found.unwrap_or_else(|error| {
            tracing::warn!("the cache could not be read: {}", chain(&error));
            None
        });
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps a vector; `tokens` if its text was longer than the window. A cache that cannot be written is a slow one.
    pub fn put(&self, content: &ContentHash, vector: &[f32], tokens: Option<u32>) {
        let Ok(trees) = &self.trees else { return };
        let key = self.key(content);
        let value: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        let written = guarded(|| {
            if let Some(tokens) = tokens {
                trees.tokens.insert(key, &tokens.to_le_bytes())?;
            }
            if trees.values.insert(key, value)?.is_none() {
                let turn = trees.db.generate_id()?;
                trees.order.insert(turn.to_be_bytes(), &key[..])?;
                self.entries.fetch_add(1, Ordering::Relaxed);
            }
            while self.bytes() > self.bytes_max {
                let Some((_, oldest)) = trees.order.pop_min()? else { break };
                trees.values.remove(&oldest)?;
                trees.tokens.remove(&oldest)?;
                self.entries.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(())
        });
        if let Err(error) = written {
            tracing::warn!("the cache could not be written: {}", chain(&error));
        }
    }

    fn bytes(&self) -> u64 {
        self.entries.load(Ordering::Relaxed) * (self.dim as u64 * 4 + OVERHEAD_BYTES)
    }

    /// Writes out what is still in memory.
    pub fn flush(&self) {
        if let Ok(trees) = &self.trees {
            let _ = guarded(|| Ok(trees.db.flush()?));
        }
    }

    /// The report.
    #[must_use]
    pub fn info(&self) -> CacheInfo {
        CacheInfo {
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes(),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            state: self.absent().map_or("open".into(), |why| format!("absent: {why}")),
        }
    }
}

/// Runs sled, which panics on some damaged files, and turns that into a reason.
fn guarded<T>(work: impl FnOnce() -> Result<T, CacheError>) -> Result<T, CacheError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(CacheError::Damaged))
}

/// A vector of the right length and of length 1, or nothing.
fn decode(value: &[u8], dim: usize) -> Option<Arc<[f32]>> {
    if value.len() != dim * 4 {
        return None;
    }
    let vector: Arc<[f32]> = value.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
    let square: f32 = vector.iter().map(|x| x * x).sum();
    ((square - 1.0).abs() < 1e-3).then_some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(i: u8) -> Vec<f32> {
        let mut v = vec![0.0; 4];
        v[usize::from(i % 4)] = 1.0;
        v
    }

    #[test]
    fn a_vector_outlives_the_process_and_belongs_to_its_model() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::open(folder.path(), [1; 32], 4, 1 << 20);
        cache.put(&[7; 32], &unit(2), Some(300));
        cache.flush();
        drop(cache);
        let again = Cache::open(folder.path(), [1; 32], 4, 1 << 20);
        assert_eq!(again.absent(), None);
        assert_eq!(again.get(&[7; 32]).map(|(v, t)| (v.to_vec(), t)), Some((unit(2), Some(300))));
        drop(again);
        assert!(Cache::open(folder.path(), [2; 32], 4, 1 << 20).get(&[7; 32]).is_none());
    }

    #[test]
    fn the_bound_holds_and_the_oldest_go() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::open(folder.path(), [1; 32], 4, 10 * (16 + OVERHEAD_BYTES));
        for i in 0..30 {
            cache.put(&[i; 32], &unit(i), None);
        }
        assert_eq!(cache.info().entries, 10);
        assert!(cache.get(&[0; 32]).is_none() && cache.get(&[29; 32]).is_some());
    }

    #[test]
    fn damage_is_a_miss_and_an_unusable_folder_is_said() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::open(folder.path(), [1; 32], 4, 1 << 20);
        let trees = cache.trees.as_ref().expect("open");
        trees.values.insert(cache.key(&[1; 32]), &[0_u8; 15]).expect("inserted");
        trees.values.insert(cache.key(&[2; 32]), &[0xff_u8; 16]).expect("inserted");
        assert!(cache.get(&[1; 32]).is_none() && cache.get(&[2; 32]).is_none());
        let file = folder.path().join("a-file");
        std::fs::write(&file, b"x").expect("written");
        let absent = Cache::open(&file, [1; 32], 4, 1 << 20);
        absent.put(&[1; 32], &unit(1), None);
        assert!(absent.get(&[1; 32]).is_none());
        assert!(absent.info().state.starts_with("absent: "));
    }
}
