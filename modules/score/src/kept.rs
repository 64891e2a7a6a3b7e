//! What outlives a call: scores by what was scored, and the state of each memory. A bounded store, and a tree beside it.
//!
//! Invariants: a value that is damaged is a miss; without a store calls are answered all the same, and say so; a memory's state
//! is on disk before anybody is told of it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::interface::score::ResultStore as StoreInfo;
use brahman_sidecar::chain;
use brahman_storage::bounded::{BoundedStore, Layout, Side, StoreError};
use brahman_storage::digest::sha256;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::engine::{Identity, Sequence};

/// sled's own memory for pages is small, for scores are read once a call; they are flushed here.
const LAYOUT: Layout = Layout {
    values: "score_rows_v1",
    order: "score_order_v1",
    key_bytes: 32,
    value_bytes_unsaid: 0,
    pages_bytes: 8 << 20,
    flush_every_ms: None,
};
/// Scores are flushed this often: what a kill takes is at most this much work.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// Share of a new value in a memory's weight: the last five scorings make up most of it.
const EWMA_SHARE: f64 = 0.3;

#[derive(Debug)]
struct Trees {
    scores: BoundedStore,
    memories: Side,
}

/// Why a memory's state is not on disk.
#[derive(Debug, Error)]
pub enum StandingError {
    /// There is no store.
    #[error(transparent)]
    Absent(#[from] Arc<StoreError>),
    /// The store could not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be written down.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// The store, or why there is none.
#[derive(Debug)]
pub struct ResultStore {
    trees: Result<Trees, Arc<StoreError>>,
    flushed: Mutex<Instant>,
}

/// What is known of a memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Unix time of the last scoring in milliseconds.
    pub last_scored_ms: u64,
    /// Moving average of the largest divergences.
    pub weight: f64,
    /// How often it was scored.
    pub count: u64,
}

impl Standing {
    /// Whether it was never scored, or not within `max_age_ms`. What was scored in the future was scored by a wrong clock, and says nothing.
    #[must_use]
    pub fn is_due(&self, now_ms: u64, max_age_ms: u64) -> bool {
        self.count == 0 || now_ms.checked_sub(self.last_scored_ms).is_none_or(|age| age >= max_age_ms)
    }

    /// The same memory after another scoring.
    #[must_use]
    pub fn after(&self, divergence: f64, now_ms: u64) -> Self {
        let weight = if self.count == 0 { divergence } else { self.weight + EWMA_SHARE * (divergence - self.weight) };
        Self { last_scored_ms: now_ms, weight, count: self.count + 1 }
    }
}

/// What a scoring is known by: model, device, tokens, and places.
#[must_use]
pub fn name(identity: &Identity, sequence: &Sequence) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(sequence.tokens.len() * 4 + 256);
    bytes.extend_from_slice(format!("{}\0{}\0{}\0", identity.fingerprint, identity.device, sequence.tokens.len()).as_bytes());
    bytes.extend(sequence.tokens.iter().flat_map(|t| t.to_le_bytes()));
    bytes.extend(sequence.wanted.iter().flat_map(|w| [w.start as u64, w.end as u64]).flat_map(u64::to_le_bytes));
    sha256(&bytes)
}

impl Trees {
    fn open(folder: &Path, bytes_max: u64) -> Result<Self, StoreError> {
        let scores = BoundedStore::open(folder, LAYOUT, bytes_max)?;
        Ok(Self { memories: scores.side("score_memories_v1")?, scores })
    }
}

impl ResultStore {
    /// Opens the store in `folder`; never fails, but may be absent.
    #[must_use]
    pub fn open(folder: &Path, bytes_max: u64) -> Self {
        let trees = Trees::open(folder, bytes_max).map_err(Arc::new);
        if let Err(why) = &trees {
            tracing::warn!(folder = %folder.display(), "scoring without a store: {}", chain(why));
        }
        Self { trees, flushed: Mutex::new(Instant::now()) }
    }

    /// Why there is no store.
    #[must_use]
    pub fn absent(&self) -> Option<String> {
        self.trees.as_ref().err().map(|why| chain(why))
    }

    /// Scores and the noise found with them.
    #[must_use]
    pub fn scores(&self, name: &[u8; 32], count: usize) -> Option<(Vec<f32>, f64)> {
        let value = self.trees.as_ref().ok()?.scores.get(name).ok()??;
        let (noise, scores) = value.split_at_checked(8)?;
        let noise = f64::from_le_bytes(noise.try_into().ok()?);
        let scores: Vec<f32> = scores.chunks_exact(4).filter_map(|b| Some(f32::from_le_bytes(b.try_into().ok()?))).collect();
        (scores.len() == count && noise.is_finite() && scores.iter().all(|x| x.is_finite())).then_some((scores, noise))
    }

    /// Keeps scores. A store that cannot be written is one that forgets.
    pub fn keep(&self, name: &[u8; 32], scores: &[f32], noise: f64) {
        let Ok(trees) = &self.trees else { return };
        let mut value = noise.to_le_bytes().to_vec();
        value.extend(scores.iter().flat_map(|x| x.to_le_bytes()));
        let written = trees.scores.put(name, value).and_then(|_| {
            let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
            if flushed.elapsed() >= FLUSH_EVERY {
                trees.scores.flush()?;
                *flushed = Instant::now();
            }
            Ok(())
        });
        if let Err(why) = written {
            tracing::warn!("scores were not stored: {}", chain(&why));
        }
    }

    fn memory(model: &str, key: &str) -> Vec<u8> {
        [model.as_bytes(), b"\0", key.as_bytes()].concat()
    }

    /// What is known of a memory under a model.
    #[must_use]
    pub fn standing(&self, model: &str, key: &str) -> Standing {
        let value = self.trees.as_ref().ok().and_then(|trees| trees.memories.get(&Self::memory(model, key)).ok()?);
        value.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default()
    }

    /// Puts a memory's state on disk.
    ///
    /// # Errors
    /// [`StandingError`].
    pub fn stand(&self, model: &str, key: &str, standing: &Standing) -> Result<(), StandingError> {
        let trees = self.trees.as_ref().map_err(Arc::clone)?;
        Ok(trees.memories.put(&Self::memory(model, key), &serde_json::to_vec(standing)?, true)?)
    }

    /// Puts everything on disk.
    pub fn flush(&self) {
        if let Ok(trees) = &self.trees
            && let Err(why) = trees.scores.flush()
        {
            tracing::warn!("scores were not flushed: {}", chain(&why));
        }
    }

    /// How the store stands, for `Info`.
    #[must_use]
    pub fn info(&self) -> StoreInfo {
        match &self.trees {
            Ok(trees) => StoreInfo { entries: trees.scores.entries(), bytes: trees.scores.bytes(), state: "open".to_owned() },
            Err(why) => StoreInfo { entries: 0, bytes: 0, state: chain(why) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_is_damaged_is_a_miss() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = [7; 32];
        {
            let kept = ResultStore::open(folder.path(), 1 << 30);
            kept.keep(&name, &[-1.0, -2.5], 0.25);
            kept.stand("m", "k", &Standing::default().after(2.0, 10)).expect("on disk");
            kept.flush();
        }
        let kept = ResultStore::open(folder.path(), 1 << 30);
        assert_eq!(kept.scores(&name, 2), Some((vec![-1.0, -2.5], 0.25)));
        assert_eq!(kept.scores(&name, 3), None, "of another length");
        assert_eq!(kept.standing("m", "k"), Standing { last_scored_ms: 10, weight: 2.0, count: 1 });
        assert_eq!(kept.standing("n", "k"), Standing::default(), "of another model");
        kept.trees.as_ref().expect("open").scores.put(&name, b"torn".to_vec()).expect("written");
        assert_eq!(kept.scores(&name, 2), None);
        // Held by the one above.
        assert!(ResultStore::open(folder.path(), 1 << 30).absent().is_some());
    }

    #[test]
    fn the_oldest_make_room_and_no_more_than_they_must() {
        let folder = tempfile::tempdir().expect("a folder");
        let value = |n: u8| vec![-f32::from(n); 100];
        // Each takes 8 + 400 bytes and its bookkeeping: ten fit.
        let bound = 10 * (408 + 2 * 32 + 48);
        let kept = ResultStore::open(folder.path(), bound);
        (0..25).for_each(|n| kept.keep(&[n; 32], &value(n), 0.0));
        kept.keep(&[24; 32], &value(24), 0.0);
        let there = |kept: &ResultStore| (0..25).filter(|n| kept.scores(&[*n; 32], 100).is_some()).collect::<Vec<u8>>();
        assert_eq!(there(&kept), (15..25).collect::<Vec<u8>>());
        kept.flush();
        drop(kept);
        let kept = ResultStore::open(folder.path(), bound);
        assert_eq!(kept.absent(), None);
        assert_eq!((kept.info().entries, kept.info().bytes), (10, bound));
        kept.keep(&[99; 32], &value(99), 0.0);
        assert_eq!(there(&kept), (16..25).collect::<Vec<u8>>());
    }

    #[test]
    fn the_weight_moves_towards_what_is_new() {
        let standing = Standing::default().after(1.0, 5).after(2.0, 4);
        assert_eq!((standing.count, standing.last_scored_ms), (2, 4));
        assert!(Standing::default().is_due(0, 10) && !standing.is_due(13, 10) && standing.is_due(14, 10));
        assert!(standing.is_due(3, 10), "a clock that jumped ahead and back hides no memory");
        assert!((standing.weight - 1.3).abs() < 1e-12);
    }
}
