//! What outlives a call: scores by what was scored, and the state of each memory. A bounded store,
//! and trees beside it.
//!
//! A memory's state belongs to a model and a namespace: an agent's, for two agents may have
//! different memories of one key. A namespace is its first caller's; nobody else of another uid
//! reads it or writes to it.
//!
//! Invariants: a value that is damaged is a miss; without a store calls are answered all the same,
//! and say so; a memory's state is on disk before anybody is told of it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::Fault;
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

/// The namespace of who does not say one, and what was kept before there were any.
pub const DEFAULT: &str = "default";
/// Longest name of a namespace.
const NAMESPACE_CHARS_MAX: usize = 128;
/// Namespaces, and states of memories that are listed or moved at once.
const NAMESPACES_MAX: usize = 65_536;
const STANDINGS_MAX: usize = 1 << 20;

#[derive(Debug)]
struct Trees {
    scores: BoundedStore,
    /// Model, namespace and key to a state.
    memories: Side,
    /// Namespaces to their owners' uids.
    owners: Side,
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

/// Why a namespace is none of the caller's.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// It is no name.
    #[error(
        "namespace: expected 1 to {NAMESPACE_CHARS_MAX} characters, none of them a control character"
    )]
    Name,
    /// It is somebody else's.
    #[error(
        "namespace `{name}` belongs to uid {owner}, this call is of uid {uid}: choose another name"
    )]
    Foreign {
        /// Its name.
        name: String,
        /// Whose it is.
        owner: u32,
        /// Who calls.
        uid: u32,
    },
    /// There are too many.
    #[error("{NAMESPACES_MAX} namespaces, expected no more: reset those that nobody needs")]
    TooMany,
    /// Nobody knows whose it is.
    #[error(transparent)]
    Standing(#[from] StandingError),
}

impl NamespaceError {
    /// The error as it travels.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Name | Self::TooMany => Fault::invalid_parameter("namespace", chain(self)),
            Self::Foreign { .. } => Fault::permission_denied(chain(self)),
            Self::Standing(_) => {
                Fault::internal(format!("the state of memories cannot be stored: {}", chain(self)))
            }
        }
    }
}

/// A caller's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace(String);

impl Namespace {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// A memory's state, and what it is of.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptStanding {
    /// Fingerprint of the model.
    pub model: String,
    /// Its key.
    pub key: String,
    /// Its state.
    pub standing: Standing,
}

/// The store, or why there is none.
#[derive(Debug)]
pub struct ResultStore {
    trees: Result<Trees, Arc<StoreError>>,
    flushed: Mutex<Instant>,
    /// Held while it is looked whose a namespace is: of two who want one that nobody has, one gets
    /// it.
    naming: Mutex<()>,
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
    /// SHA-256 of its text as it was then; absent if that was not kept yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Standing {
    /// Whether it was never scored, or with another text, or not within `max_age_ms`. What was
    /// scored in the future was scored by a wrong clock, and says nothing.
    #[must_use]
    pub fn is_due(&self, text: &str, now_ms: u64, max_age_ms: u64) -> bool {
        self.count == 0
            || self.is_of_another(text)
            || now_ms.checked_sub(self.last_scored_ms).is_none_or(|age| age >= max_age_ms)
    }

    /// Whether the text has changed since.
    #[must_use]
    pub fn is_of_another(&self, text: &str) -> bool {
        self.text.as_deref().is_some_and(|known| known != text)
    }

    /// The same memory after another scoring. Of another text the average begins anew: what the
    /// former one did says nothing of it.
    #[must_use]
    pub fn after(&self, divergence: f64, text: &str, now_ms: u64) -> Self {
        let is_first = self.count == 0 || self.is_of_another(text);
        let weight = if is_first {
            divergence
        } else {
            self.weight + EWMA_SHARE * (divergence - self.weight)
        };
        Self { last_scored_ms: now_ms, weight, count: self.count + 1, text: Some(text.to_owned()) }
    }
}

/// What a scoring is known by: model, device, tokens, and places.
#[must_use]
pub fn name(identity: &Identity, sequence: &Sequence) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(sequence.tokens.len() * 4 + 256);
    bytes.extend_from_slice(
        format!("{}\0{}\0{}\0", identity.fingerprint, identity.device, sequence.tokens.len())
            .as_bytes(),
    );
    bytes.extend(sequence.tokens.iter().flat_map(|t| t.to_le_bytes()));
    bytes.extend(
        sequence
            .wanted
            .iter()
            .flat_map(|w| [w.start as u64, w.end as u64])
            .flat_map(u64::to_le_bytes),
    );
    sha256(&bytes)
}

impl Trees {
    fn open(folder: &Path, bytes_max: u64) -> Result<Self, StoreError> {
        let scores = BoundedStore::open(folder, LAYOUT, bytes_max)?;
        let trees = Self {
            memories: scores.side("score_memories_v2")?,
            owners: scores.side("score_namespaces_v1")?,
            scores,
        };
        trees.move_former()?;
        Ok(trees)
    }

    /// Moves what was kept before there were namespaces to the default one. What is there already
    /// is newer. Cut off, it goes on next time.
    fn move_former(&self) -> Result<(), StoreError> {
        let former = self.scores.side("score_memories_v1")?;
        for (key, value) in former.scan(&[], STANDINGS_MAX)? {
            if let Some(end) = key.iter().position(|byte| *byte == 0) {
                let place = [&key[..end], b"\0", DEFAULT.as_bytes(), &key[end..]].concat();
                if self.memories.get(&place)?.is_none() {
                    self.memories.put(&place, &value, false)?;
                }
            }
            former.remove(&key)?;
        }
        self.scores.flush()
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
        Self { trees, flushed: Mutex::new(Instant::now()), naming: Mutex::default() }
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
        let scores: Vec<f32> = scores
            .chunks_exact(4)
            .filter_map(|b| Some(f32::from_le_bytes(b.try_into().ok()?)))
            .collect();
        (scores.len() == count && noise.is_finite() && scores.iter().all(|x| x.is_finite()))
            .then_some((scores, noise))
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

    fn memory(model: &str, namespace: &Namespace, key: &str) -> Vec<u8> {
        [model.as_bytes(), b"\0", namespace.0.as_bytes(), b"\0", key.as_bytes()].concat()
    }

    /// The namespace that a caller names, or his own: `default` for whoever runs this and for root,
    /// `uid-N` for others. A name that nobody has is his from now on.
    ///
    /// # Errors
    /// [`NamespaceError`].
    pub fn namespace(
        &self,
        name: Option<&str>,
        uid: u32,
        own_uid: u32,
    ) -> Result<Namespace, NamespaceError> {
        let own = |uid: u32| {
            if uid == own_uid || uid == 0 { DEFAULT.to_owned() } else { format!("uid-{uid}") }
        };
        let name = name.map_or_else(|| own(uid), str::to_owned);
        if name.is_empty()
            || name.chars().count() > NAMESPACE_CHARS_MAX
            || name.chars().any(char::is_control)
        {
            return Err(NamespaceError::Name);
        }
        let trees = self.trees.as_ref().map_err(|why| StandingError::Absent(Arc::clone(why)))?;
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = trees.owners.get(name.as_bytes()).map_err(StandingError::Store)?;
        let reserved = (name == DEFAULT)
            .then_some(own_uid)
            .or_else(|| name.strip_prefix("uid-").and_then(|uid| uid.parse().ok()));
        let owner = reserved
            .or_else(|| kept.and_then(|uid| uid[..].try_into().ok()).map(u32::from_le_bytes));
        match owner {
            // Root is refused nothing that is the operator's own.
            Some(owner) if owner == uid || (uid == 0 && owner == own_uid) => {}
            Some(owner) => return Err(NamespaceError::Foreign { name, owner, uid }),
            None => {
                if trees.owners.scan(&[], NAMESPACES_MAX).map_err(StandingError::Store)?.len()
                    >= NAMESPACES_MAX
                {
                    return Err(NamespaceError::TooMany);
                }
                trees
                    .owners
                    .put(name.as_bytes(), &uid.to_le_bytes(), true)
                    .map_err(StandingError::Store)?;
            }
        }
        Ok(Namespace(name))
    }

    /// What is known of a memory under a model.
    #[must_use]
    pub fn standing(&self, model: &str, namespace: &Namespace, key: &str) -> Standing {
        let value = self
            .trees
            .as_ref()
            .ok()
            .and_then(|trees| trees.memories.get(&Self::memory(model, namespace, key)).ok()?);
        value.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default()
    }

    /// Puts a memory's state on disk.
    ///
    /// # Errors
    /// [`StandingError`].
    pub fn stand(
        &self,
        model: &str,
        namespace: &Namespace,
        key: &str,
        standing: &Standing,
    ) -> Result<(), StandingError> {
        let trees = self.trees.as_ref().map_err(Arc::clone)?;
        Ok(trees.memories.put(
            &Self::memory(model, namespace, key),
            &serde_json::to_vec(standing)?,
            true,
        )?)
    }

    /// What is known of all memories of a namespace, under one model or all; by model and key.
    ///
    /// # Errors
    /// [`StandingError`].
    pub fn standings(
        &self,
        model: Option<&str>,
        namespace: &Namespace,
    ) -> Result<Vec<KeptStanding>, StandingError> {
        let trees = self.trees.as_ref().map_err(Arc::clone)?;
        let begin = model.map_or_else(Vec::new, |model| Self::memory(model, namespace, ""));
        let found = trees.memories.scan(&begin, STANDINGS_MAX)?;
        let read = |key: &[u8], value: &[u8]| {
            let mut parts = key
                .splitn(3, |byte| *byte == 0)
                .map(|part| String::from_utf8_lossy(part).into_owned());
            let (model, name, key) = (parts.next()?, parts.next()?, parts.next()?);
            let standing = serde_json::from_slice(value).ok()?;
            (name == namespace.0).then_some(KeptStanding { model, key, standing })
        };
        Ok(found.iter().filter_map(|(key, value)| read(key, value)).collect())
    }

    /// Forgets memories of a namespace: those of these keys, or all; under one model or all. Gives
    /// how many.
    ///
    /// # Errors
    /// [`StandingError`].
    pub fn reset(
        &self,
        model: Option<&str>,
        namespace: &Namespace,
        keys: Option<&[String]>,
    ) -> Result<u64, StandingError> {
        let trees = self.trees.as_ref().map_err(Arc::clone)?;
        let mut removed = 0;
        for known in self.standings(model, namespace)? {
            if keys.is_none_or(|keys| keys.contains(&known.key)) {
                trees.memories.remove(&Self::memory(&known.model, namespace, &known.key))?;
                removed += 1;
            }
        }
        trees.scores.flush()?;
        Ok(removed)
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
            Ok(trees) => StoreInfo {
                entries: trees.scores.entries(),
                bytes: trees.scores.bytes(),
                state: "open".to_owned(),
            },
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
            let own = kept.namespace(None, 7, 7).expect("own");
            kept.stand("m", &own, "k", &Standing::default().after(2.0, "t", 10)).expect("on disk");
            kept.flush();
        }
        let kept = ResultStore::open(folder.path(), 1 << 30);
        assert_eq!(kept.scores(&name, 2), Some((vec![-1.0, -2.5], 0.25)));
        assert_eq!(kept.scores(&name, 3), None, "of another length");
        let own = kept.namespace(None, 7, 7).expect("own");
        assert_eq!(
            kept.standing("m", &own, "k"),
            Standing { last_scored_ms: 10, weight: 2.0, count: 1, text: Some("t".to_owned()) }
        );
        assert_eq!(kept.standing("n", &own, "k"), Standing::default(), "of another model");
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
        let there = |kept: &ResultStore| {
            (0..25).filter(|n| kept.scores(&[*n; 32], 100).is_some()).collect::<Vec<u8>>()
        };
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
        let standing = Standing::default().after(1.0, "t", 5).after(2.0, "t", 4);
        assert_eq!((standing.count, standing.last_scored_ms), (2, 4));
        assert!(
            Standing::default().is_due("t", 0, 10)
                && !standing.is_due("t", 13, 10)
                && standing.is_due("t", 14, 10)
        );
        assert!(standing.is_due("t", 3, 10), "a clock that jumped ahead and back hides no memory");
        assert!((standing.weight - 1.3).abs() < 1e-12);
        assert!(standing.is_due("another", 5, 10), "another text under its key");
        let anew = standing.after(9.0, "another", 6);
        assert_eq!((anew.weight, anew.count), (9.0, 3));
    }

    #[test]
    fn a_namespace_is_its_first_caller_s() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = ResultStore::open(folder.path(), 1 << 20);
        let ask = |name: Option<&str>, uid: u32| kept.namespace(name, uid, 1000);
        assert_eq!(ask(None, 1000).expect("own").name(), DEFAULT);
        assert_eq!(ask(None, 0).expect("root").name(), DEFAULT);
        assert_eq!(ask(None, 1001).expect("another").name(), "uid-1001");
        assert!(matches!(
            ask(Some(DEFAULT), 1001),
            Err(NamespaceError::Foreign { owner: 1000, uid: 1001, .. })
        ));
        assert!(matches!(
            ask(Some("uid-1001"), 1002),
            Err(NamespaceError::Foreign { owner: 1001, .. })
        ));
        let planner = ask(Some("planner"), 1001).expect("nobody's");
        assert!(ask(Some("planner"), 1001).is_ok());
        assert!(matches!(
            ask(Some("planner"), 1000),
            Err(NamespaceError::Foreign { owner: 1001, .. })
        ));
        for name in ["", "a\u{1b}[2J", &"x".repeat(200)] {
            assert!(matches!(ask(Some(name), 1000), Err(NamespaceError::Name)), "{name:?}");
        }
        // Each has its own, listed and forgotten by itself.
        let own = ask(None, 1000).expect("own");
        let standing = Standing::default().after(1.0, "t", 5);
        for (model, namespace, key) in
            [("m", &own, "a"), ("m", &own, "b"), ("n", &own, "a"), ("m", &planner, "a")]
        {
            kept.stand(model, namespace, key, &standing).expect("on disk");
        }
        let list = |model: Option<&str>, namespace: &Namespace| {
            let found = kept.standings(model, namespace).expect("listed");
            found.into_iter().map(|one| (one.model, one.key)).collect::<Vec<_>>()
        };
        let pair = |model: &str, key: &str| (model.to_owned(), key.to_owned());
        assert_eq!(list(None, &own), [pair("m", "a"), pair("m", "b"), pair("n", "a")]);
        assert_eq!(kept.reset(Some("m"), &own, Some(&["a".to_owned()])).expect("reset"), 1);
        assert_eq!(list(None, &own), [pair("m", "b"), pair("n", "a")]);
        assert_eq!(kept.reset(None, &own, None).expect("reset"), 2);
        assert_eq!(
            (list(None, &own), list(Some("m"), &planner)),
            (Vec::new(), vec![pair("m", "a")])
        );
    }

    #[test]
    fn what_was_kept_before_there_were_namespaces_is_in_the_default_one() {
        let folder = tempfile::tempdir().expect("a folder");
        {
            let store = BoundedStore::open(folder.path(), LAYOUT, 1 << 20).expect("opened");
            let former = store.side("score_memories_v1").expect("a side");
            former
                .put(b"m\0k", br#"{"last_scored_ms":10,"weight":2.0,"count":1}"#, true)
                .expect("put");
        }
        for _ in 0..2 {
            let kept = ResultStore::open(folder.path(), 1 << 20);
            let own = kept.namespace(None, 7, 7).expect("own");
            let standing = kept.standing("m", &own, "k");
            assert_eq!((standing.last_scored_ms, standing.count, &standing.text), (10, 1, &None));
            assert!(!standing.is_due("t", 11, 10), "a text that was not kept has not changed");
        }
    }
}
