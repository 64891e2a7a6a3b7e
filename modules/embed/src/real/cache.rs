//! The vector cache: a bounded store, tree `embed_cache_v1`, key = sha256(bytes seen) ‖ model
//! fingerprint, value = f32s, little-endian.
//!
//! Invariants: a value of the wrong length, or that is none of the model's (no unit vector, if it
//! gives those), is a miss; without a cache the engine serves all the same and says so; one whose
//! folder was deleted while in use is said to be lost.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use brahman_card::interface::embed::CacheInfo;
use brahman_sidecar::chain;
use brahman_storage::bounded::{BoundedStore, Layout, Side, StoreError};

/// sha256 of what the tokenizer was given.
pub type ContentHash = [u8; 32];

/// What is kept of a text's tokens where there is something to say of them: more than the window,
/// or some that are unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// How many it has, special ones included.
    pub tokens: u32,
    /// How many of those that were kept the vocabulary does not have.
    pub unknown: u32,
    /// Whether it has at least so many.
    pub is_least: bool,
}

impl TokenCounts {
    fn encode(self) -> [u8; 9] {
        let mut bytes = [0; 9];
        bytes[..4].copy_from_slice(&self.tokens.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.unknown.to_le_bytes());
        bytes[8] = self.is_least.into();
        bytes
    }

    /// Of nine bytes, or of four as earlier versions wrote them: the tokens alone.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        match bytes.len() {
            4 => Some(Self { tokens: number(0)?, ..Self::default() }),
            9 => Some(Self { tokens: number(0)?, unknown: number(4)?, is_least: bytes[8] != 0 }),
            _ => None,
        }
    }
}

/// What was asked of the cache, and what there is to say of its text's tokens.
type CachedVector = (Arc<[f32]>, Option<TokenCounts>);

/// sled's own memory for pages: hot vectors are few.
const PAGES_BYTES: u64 = 16 << 20;
const KEY_BYTES: usize = 64;

#[derive(Debug)]
struct Trees {
    vectors: BoundedStore,
    /// Token counts of texts of which there is something to say, by the same keys.
    tokens: Side,
    /// One puts at a time: what goes for one vector must not take the count that another has just
    /// put.
    putting: Mutex<()>,
}

/// The cache, or why there is none.
#[derive(Debug)]
pub struct Cache {
    trees: Result<Trees, StoreError>,
    folder: PathBuf,
    /// Its file of values as it was opened: another one in its place holds nothing of what is put
    /// here.
    opened: Option<(u64, u64)>,
    fingerprint: [u8; 32],
    dim: usize,
    is_normalized: bool,
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

    fn get(
        &self,
        key: &[u8],
        dim: usize,
        is_normalized: bool,
    ) -> Result<Option<CachedVector>, StoreError> {
        let Some(value) = self.vectors.get(key)? else { return Ok(None) };
        let Some(vector) = decode(&value, dim, is_normalized) else {
            tracing::warn!("a damaged cache value is computed again");
            return Ok(None);
        };
        let counts = self.tokens.get(key)?;
        Ok(Some((vector, counts.and_then(|counts| TokenCounts::decode(&counts)))))
    }

    fn put(
        &self,
        key: &[u8],
        vector: &[f32],
        counts: Option<TokenCounts>,
    ) -> Result<(), StoreError> {
        let _putting = self.putting.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the vector: whoever reads one knows what was cut.
        if let Some(counts) = counts {
            self.tokens.put(key, &counts.encode(), false)?;
        }
        for gone in self.vectors.put(key, vector.iter().flat_map(|x| x.to_le_bytes()).collect())? {
            self.tokens.remove(&gone)?;
        }
        Ok(())
    }
}

impl Cache {
    /// Opens the cache in `folder` for vectors of `dim` numbers, of length 1 if `is_normalized`;
    /// never fails, but may be absent.
    #[must_use]
    pub fn open(
        folder: &Path,
        fingerprint: [u8; 32],
        dim: usize,
        is_normalized: bool,
        bytes_max: u64,
    ) -> Self {
        let trees = Trees::open(folder, dim, bytes_max);
        if let Err(why) = &trees {
            tracing::warn!(folder = %folder.display(), "serving without a cache: {}", chain(why));
        }
        let opened = identity(folder);
        Self {
            trees,
            folder: folder.to_owned(),
            opened,
            fingerprint,
            dim,
            is_normalized,
            hits: 0.into(),
            misses: 0.into(),
        }
    }

    fn key(&self, content: &ContentHash) -> [u8; KEY_BYTES] {
        let mut key = [0; KEY_BYTES];
        key[..32].copy_from_slice(content);
        key[32..].copy_from_slice(&self.fingerprint);
        key
    }

    /// Why there is no cache, or none that outlives the process.
    #[must_use]
    pub fn absent(&self) -> Option<String> {
        match &self.trees {
            Err(why) => Some(chain(why)),
            Ok(_) if identity(&self.folder) == self.opened => None,
            Ok(_) => Some(format!(
                "{} was deleted or replaced while it was in use, and what is put there now is lost when the module ends: `brahman restart` \
                 of the module makes it again",
                self.folder.display()
            )),
        }
    }

    /// A vector, and what there is to say of its text's tokens.
    #[must_use]
    pub fn get(&self, content: &ContentHash) -> Option<CachedVector> {
        let trees = self.trees.as_ref().ok()?;
        let found =
            trees.get(&self.key(content), self.dim, self.is_normalized).unwrap_or_else(|why| {
                tracing::warn!("the cache could not be read: {}", chain(&why));
                None
            });
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps a vector, and what there is to say of its text's tokens. A cache that cannot be
    /// written is a slow one.
    pub fn put(&self, content: &ContentHash, vector: &[f32], counts: Option<TokenCounts>) {
        let Ok(trees) = &self.trees else { return };
        if let Err(why) = trees.put(&self.key(content), vector, counts) {
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
        let (entries, bytes) = self
            .trees
            .as_ref()
            .map_or((0, 0), |trees| (trees.vectors.entries(), trees.vectors.bytes()));
        CacheInfo {
            entries,
            bytes,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            state: self.absent().map_or("open".into(), |why| format!("absent: {why}")),
        }
    }
}

/// By what sled's file in a folder is known: device and number, which no other file has while that
/// one is open.
fn identity(folder: &Path) -> Option<(u64, u64)> {
    fs::metadata(folder.join("db")).ok().map(|found| (found.dev(), found.ino()))
}

/// A vector of the right length, and one that the model could have given; or nothing.
fn decode(value: &[u8], dim: usize, is_normalized: bool) -> Option<Arc<[f32]>> {
    if value.len() != dim * 4 {
        return None;
    }
    let vector: Arc<[f32]> =
        value.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
    is_sound(&vector, is_normalized).then_some(vector)
}

/// Whether a model can have given this vector: finite, not zero, and of length 1 if it gives those.
pub(crate) fn is_sound(vector: &[f32], is_normalized: bool) -> bool {
    let square: f32 = vector.iter().map(|x| x * x).sum();
    if is_normalized {
        (square - 1.0).abs() < 1e-3
    } else {
        vector.iter().all(|x| x.is_finite()) && vector.iter().any(|x| *x != 0.0)
    }
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
    fn a_folder_that_is_deleted_while_in_use_is_said() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let folder = place.path().join("embed");
        let cache = Cache::open(&folder, [1; 32], 4, true, 1 << 20);
        assert_eq!((cache.absent(), cache.info().state.as_str()), (None, "open"));
        fs::rename(&folder, place.path().join("gone")).expect("moved");
        assert!(cache.absent().is_some_and(|why| why.contains("deleted")), "{:?}", cache.absent());
        fs::create_dir(&folder).expect("made");
        assert!(
            cache.info().state.starts_with("absent: "),
            "another folder in its place is not it"
        );
    }

    #[test]
    fn a_vector_outlives_the_process_and_belongs_to_its_model() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::open(folder.path(), [1; 32], 4, true, 1 << 20);
        let counts = TokenCounts { tokens: 300, unknown: 2, is_least: true };
        cache.put(&[7; 32], &unit(2), Some(counts));
        cache.flush();
        drop(cache);
        let again = Cache::open(folder.path(), [1; 32], 4, true, 1 << 20);
        assert_eq!(again.absent(), None);
        assert_eq!(
            again.get(&[7; 32]).map(|(v, t)| (v.to_vec(), t)),
            Some((unit(2), Some(counts)))
        );
        // As earlier versions kept them.
        let trees = again.trees.as_ref().expect("open");
        trees.tokens.put(&again.key(&[7; 32]), &300_u32.to_le_bytes(), false).expect("kept");
        let before = TokenCounts { tokens: 300, ..TokenCounts::default() };
        assert_eq!(again.get(&[7; 32]).and_then(|(_, counts)| counts), Some(before));
        drop(again);
        assert!(Cache::open(folder.path(), [2; 32], 4, true, 1 << 20).get(&[7; 32]).is_none());
    }

    #[test]
    fn the_bound_holds_and_the_oldest_go() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::open(folder.path(), [1; 32], 4, true, 10 * VALUE_BYTES);
        for i in 0..30 {
            cache.put(&[i; 32], &unit(i), None);
        }
        assert_eq!(cache.info().entries, 10);
        assert!(cache.get(&[0; 32]).is_none() && cache.get(&[29; 32]).is_some());
    }

    #[test]
    fn vectors_of_any_length_are_kept_for_a_model_that_gives_them() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::open(folder.path(), [1; 32], 4, false, 1 << 20);
        cache.put(&[1; 32], &[3.0, 0.0, -4.0, 0.0], None);
        cache.put(&[2; 32], &[f32::NAN; 4], None);
        assert_eq!(
            cache.get(&[1; 32]).map(|(vector, _)| vector.to_vec()),
            Some(vec![3.0, 0.0, -4.0, 0.0])
        );
        assert!(cache.get(&[2; 32]).is_none());
    }

    #[test]
    fn damage_is_a_miss_and_an_unusable_folder_is_said() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::open(folder.path(), [1; 32], 4, true, 1 << 20);
        let trees = cache.trees.as_ref().expect("open");
        trees.vectors.put(&cache.key(&[1; 32]), vec![0; 15]).expect("inserted");
        trees.vectors.put(&cache.key(&[2; 32]), vec![0xff; 16]).expect("inserted");
        assert!(cache.get(&[1; 32]).is_none() && cache.get(&[2; 32]).is_none());
        cache.put(&[1; 32], &unit(1), None);
        assert_eq!(
            cache.get(&[1; 32]).map(|(vector, _)| vector.to_vec()),
            Some(unit(1)),
            "a good one takes its place"
        );
        let file = folder.path().join("a-file");
        std::fs::write(&file, b"x").expect("written");
        let absent = Cache::open(&file, [1; 32], 4, true, 1 << 20);
        absent.put(&[1; 32], &unit(1), None);
        assert!(absent.get(&[1; 32]).is_none());
        assert!(absent.info().state.starts_with("absent: "));
    }
}
