//! The vector cache: a bounded store, tree `embed_cache_v1`, key = sha256(bytes seen) ‖ model fingerprint, value = f32s,
//! little-endian.
//!
//! Invariants: a value of the wrong length, or that is no unit vector, is a miss; without a cache the engine serves all the same and
//! says so.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use brahman_card::interface::embed::CacheInfo;
use brahman_sidecar::chain;
use brahman_storage::bounded::{BoundedStore, Layout, Side, StoreError};

/// sha256 of the bytes seen.
pub type ContentHash = [u8; 32];

/// What was asked of the cache, and how many tokens its text had if that was more than the window.
type CachedVector = (Arc<[f32]>, Option<u32>);

/// sled's own memory for pages: hot vectors are few.
const PAGES_BYTES: u64 = 16 << 20;
const KEY_BYTES: usize = 64;

#[derive(Debug)]
struct Trees {
    vectors: BoundedStore,
    /// Token counts of texts that were longer than the window, by the same keys.
    tokens: Side,
    /// One puts at a time: what goes for one vector must not take the count that another has just put.
    putting: Mutex<()>,
}

/// The cache, or why there is none.
#[derive(Debug)]
pub struct Cache {
    trees: Result<Trees, StoreError>,
    fingerprint: [u8; 32],
    dim: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Trees {
    fn open(folder: &Path, dim: usize, bytes_max: u64) -> Result<Self, StoreError> {
        let layout = Layout {
            values: "embed_cache_v1",
            order: "embed_order_v1",
            key_bytes: KEY_BYTES,
            value_bytes_unsaid: dim as u64 * 4,
            pages_bytes: PAGES_BYTES,
            flush_every_ms: Some(1000),
        };
        let vectors = BoundedStore::open(folder, layout, bytes_max)?;
        Ok(Self { tokens: vectors.side("embed_tokens_v1")?, vectors, putting: Mutex::default() })
    }

    fn get(&self, key: &[u8], dim: usize) -> Result<Option<CachedVector>, StoreError> {
        let Some(value) = self.vectors.get(key)? else { return Ok(None) };
        let Some(vector) = decode(&value, dim) else {
            tracing::warn!("a damaged cache value is computed again");
            return Ok(None);
        };
        let tokens = self.tokens.get(key)?;
        Ok(Some((vector, tokens.and_then(|t| Some(u32::from_le_bytes(t.as_ref().try_into().ok()?))))))
    }

    fn put(&self, key: &[u8], vector: &[f32], tokens: Option<u32>) -> Result<(), StoreError> {
        let _putting = self.putting.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the vector: whoever reads one knows what was cut.
        if let Some(tokens) = tokens {
            self.tokens.put(key, &tokens.to_le_bytes(), false)?;
        }
        for gone in self.vectors.put(key, vector.iter().flat_map(|x| x.to_le_bytes()).collect())? {
            self.tokens.remove(&gone)?;
        }
        Ok(())
    }
}

impl Cache {
    /// Opens the cache in `folder`; never fails, but may be absent.
    #[must_use]
    pub fn open(folder: &Path, fingerprint: [u8; 32], dim: usize, bytes_max: u64) -> Self {
        let trees = Trees::open(folder, dim, bytes_max);
        if let Err(why) = &trees {
            tracing::warn!(folder = %folder.display(), "serving without a cache: {}", chain(why));
        }
        Self { trees, fingerprint, dim, hits: 0.into(), misses: 0.into() }
    }

    fn key(&self, content: &ContentHash) -> [u8; KEY_BYTES] {
        let mut key = [0; KEY_BYTES];
        key[..32].copy_from_slice(content);
        key[32..].copy_from_slice(&self.fingerprint);
        key
    }

    /// Why there is no cache.
    #[must_use]
    pub fn absent(&self) -> Option<String> {
        self.trees.as_ref().err().map(|why| chain(why))
    }

    /// A vector, and how many tokens its text had if that was more than the window.
    #[must_use]
    pub fn get(&self, content: &ContentHash) -> Option<CachedVector> {
        let trees = self.trees.as_ref().ok()?;
        let found = trees.get(&self.key(content), self.dim).unwrap_or_else(|why| {
            tracing::warn!("the cache could not be read: {}", chain(&why));
            None
        });
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps a vector; `tokens` if its text was longer than the window. A cache that cannot be written is a slow one.
    pub fn put(&self, content: &ContentHash, vector: &[f32], tokens: Option<u32>) {
        let Ok(trees) = &self.trees else { return };
        if let Err(why) = trees.put(&self.key(content), vector, tokens) {
            tracing::warn!("the cache could not be written: {}", chain(&why));
        }
    }

    /// Writes out what is still in memory.
    pub fn flush(&self) {
        if let Ok(trees) = &self.trees
            && let Err(why) = trees.vectors.flush()
        {
            tracing::warn!("the cache could not be flushed: {}", chain(&why));
        }
    }

    /// How the cache stands, for `Info`.
    #[must_use]
    pub fn info(&self) -> CacheInfo {
        let (entries, bytes) = self.trees.as_ref().map_or((0, 0), |trees| (trees.vectors.entries(), trees.vectors.bytes()));
        CacheInfo {
            entries,
            bytes,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            state: self.absent().map_or("open".into(), |why| format!("absent: {why}")),
        }
    }
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

    /// Of a vector of four dimensions, with its key twice and its place in the order.
    const VALUE_BYTES: u64 = 16 + 2 * KEY_BYTES as u64 + 48;

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
        let cache = Cache::open(folder.path(), [1; 32], 4, 10 * VALUE_BYTES);
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
        trees.vectors.put(&cache.key(&[1; 32]), vec![0; 15]).expect("inserted");
        trees.vectors.put(&cache.key(&[2; 32]), vec![0xff; 16]).expect("inserted");
        assert!(cache.get(&[1; 32]).is_none() && cache.get(&[2; 32]).is_none());
        cache.put(&[1; 32], &unit(1), None);
        assert_eq!(cache.get(&[1; 32]).map(|(vector, _)| vector.to_vec()), Some(unit(1)), "a good one takes its place");
        let file = folder.path().join("a-file");
        std::fs::write(&file, b"x").expect("written");
        let absent = Cache::open(&file, [1; 32], 4, 1 << 20);
        absent.put(&[1; 32], &unit(1), None);
        assert!(absent.get(&[1; 32]).is_none());
        assert!(absent.info().state.starts_with("absent: "));
    }
}
