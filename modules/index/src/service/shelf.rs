//! One index in memory: what answers now, and who may change it.
//!
//! Invariants: readers clone the `Arc` of a generation and keep a whole one; one writer at a time
//! (refresh, compaction, promotion, repair) holds the slot until its work on disk has ended, even
//! if its caller is gone.
//!
//! [`claim`] says who may change it.

mod claim;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use brahman_card::Fault;
use brahman_card::interface::index::{Caches, CreateIn, ReplicaLag, error};
use brahman_sidecar::chain;
use brahman_storage::{Steps, writable};

use super::PARAMETERS;
use crate::data::DataNames;
use crate::evals;
use crate::folder::Folder;
use crate::generation::Generation;
use crate::home::{AwayError, Home};
use crate::partial::PartialIndex;
use crate::refresh::folder_fault;
use crate::rescue;
use crate::shadow::Shadow;
use crate::trials::Journal;
pub(super) use claim::{Claim, FirstRefresh, FirstView, StopOnDrop};

/// Locks without minding a panic elsewhere: everything behind these locks is whole between
/// statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That nothing can be written in a folder.
pub(super) fn read_only(error: &writable::ReadOnly) -> Fault {
    Fault::of(&error::ReadOnly { path: error.folder.display().to_string() }, false, chain(error))
}

/// What answers.
#[derive(Debug, Default)]
pub(super) struct AnswerState {
    pub(super) generation: Option<Arc<Generation>>,
    /// Why it is not the one that `CURRENT` names, or why there is none.
    pub(super) degraded: Option<String>,
    /// Files of it were put back from the bucket `rescue`.
    pub(super) rescued: bool,
}

/// Why an index's parameters cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ParametersError {
    /// They cannot be read.
    #[error("{PARAMETERS}")]
    Unreadable(#[from] io::Error),
    /// They are those of another index than the folder is called by.
    #[error("{PARAMETERS}: it belongs to another index, `{}`", .name.escape_debug())]
    OfAnother { name: String },
}

/// Why an index does not open.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Parameters(#[from] ParametersError),
    #[error(transparent)]
    Away(#[from] AwayError),
    /// Its home, or what counts in it, cannot be read.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
}

/// What holds the slot while files are put back from `rescue`.
const RESTORING: &str = "restoring from rescue";

/// The bucket of an index whose home cannot be read.
const UNKNOWN: &str = "unknown";

/// One index.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) parameters: CreateIn,
    pub(super) home: Home,
    pub(super) folder: Folder,
    answering: Mutex<AnswerState>,
    /// Shared by an index and what it becomes when it is moved.
    pub(super) journal: Arc<Mutex<Journal>>,
    /// Its replicas in `rescue`; shared as the journal is.
    pub(super) replicas: Arc<Replicas>,
    slot: Arc<tokio::sync::Mutex<()>>,
    /// What holds the slot, and how it is told to stop.
    busy: Mutex<Option<(&'static str, Arc<AtomicBool>)>>,
    /// Generations that were replaced while somebody read them.
    read: Mutex<Vec<Weak<Generation>>>,
    /// What answers while the first refresh is under way.
    partial: Mutex<Option<PartialIndex>>,
    /// The check of the promotion that answers.
    pub(super) shadow: Mutex<Option<Shadow>>,
    /// Held by the one query that is being checked.
    pub(super) checking: Arc<tokio::sync::Mutex<()>>,
    /// Why old files stay, if they do.
    swept: Mutex<Option<String>>,
    /// Why nothing can be done with it but to delete it: its parameters cannot be read.
    unusable: Option<String>,
}

/// An index's replicas: who writes there, and whether anything may be written any more.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    /// Held while they are written, or removed.
    pub(super) writing: Mutex<()>,
    /// The index is being deleted: nothing more is written.
    pub(super) is_unwanted: AtomicBool,
    /// How far they were behind when they were last written; none where none are made.
    pub(super) lag: Mutex<Option<ReplicaLag>>,
}

impl AnswerState {
    fn of(opened: Result<(Option<Generation>, Option<String>), OpenError>) -> Self {
        let (generation, degraded) = opened.unwrap_or_else(|error| (None, Some(chain(&error))));
        Self { generation: generation.map(Arc::new), degraded, rescued: false }
    }
}

impl Index {
    /// Opens the index of a stub: its generation, its journal. Damage is said when asked for.
    pub(super) fn open(stub: &Path, parameters: CreateIn) -> Self {
        match Home::open(stub) {
            Ok(home) => {
                let copies = stub
                    .parent()
                    .and_then(rescue::known)
                    .map(|folder| folder.join(&parameters.name));
                let there = home.is_there().map_err(OpenError::from);
                Self::made(home, parameters, there, copies.as_deref())
            }
            Err(error) => {
                let home = Home { bucket: UNKNOWN.into(), path: stub.join(UNKNOWN), left: None };
                Self::made(home, parameters, Err(error.into()), None)
            }
        }
    }

    /// One whose parameters cannot be read: it keeps its name, so that nothing else is made in its
    /// place.
    pub(super) fn unusable(stub: &Path, name: &str, error: ParametersError) -> Self {
        let parameters = CreateIn { name: name.to_owned(), ..CreateIn::default() };
        let home = Home { bucket: UNKNOWN.into(), path: stub.join(UNKNOWN), left: None };
        let why = chain(&error);
        let index = Self::made(home, parameters, Err(error.into()), None);
        Self { unusable: Some(why), ..index }
    }

    /// That its parameters are known.
    ///
    /// # Errors
    /// `Damaged`, naming the file.
    pub(super) fn usable(&self) -> Result<(), Fault> {
        let Some(why) = &self.unusable else { return Ok(()) };
        let name = &self.parameters.name;
        let message = format!(
            "index `{name}` cannot be used: {why}; restore that file, or delete the index and create it again"
        );
        Err(Fault::of(&error::Damaged { name: name.clone() }, false, message))
    }

    fn made(
        home: Home,
        parameters: CreateIn,
        there: Result<(), OpenError>,
        copies: Option<&Path>,
    ) -> Self {
        let folder = Folder::new(&home.path, Steps::default());
        let is_there = there.is_ok();
        let mut answering = AnswerState::of(there.and_then(|()| Ok(folder.open()?)));
        if answering.degraded.is_some() && is_there {
            let named = folder
                .pointer()
                .ok()
                .flatten()
                .and_then(|pointer| folder.manifest(&pointer.generation).ok());
            let back = copies.and_then(|copies| rescue::restore_manifest(&folder, copies));
            let manifest_back = back.is_some();
            if let (Some(manifest), Some(copies)) = (back.or(named), copies) {
                let mut files = rescue::restore(&folder, &manifest, copies);
                if manifest_back {
                    files.insert(0, "its manifest".to_owned());
                }
                if !files.is_empty() {
                    let why = answering.degraded.unwrap_or_default();
                    tracing::warn!(
                        index = parameters.name,
                        "restored from rescue: {}; it was found that {why}",
                        files.join(", ")
                    );
                    answering = AnswerState {
                        rescued: true,
                        ..AnswerState::of(folder.open().map_err(OpenError::from))
                    };
                }
            }
        }
        if let Some(generation) = &answering.generation {
            generation.link_appended();
        }
        if let Some(why) = &answering.degraded {
            tracing::error!(index = parameters.name, "{why}");
        }
        let held = answering.generation.iter().map(|g| g.folder.clone()).collect();
        // A disk that is not there has nothing to remove.
        let swept = is_there.then(|| folder.collect(&held).words()).flatten();
        let index = Self {
            journal: Arc::new(Mutex::new(Journal::open(&home.path))),
            parameters,
            home,
            folder,
            answering: Mutex::new(answering),
            replicas: Arc::default(),
            slot: Arc::default(),
            busy: Mutex::default(),
            read: Mutex::default(),
            partial: Mutex::default(),
            shadow: Mutex::default(),
            checking: Arc::default(),
            swept: Mutex::new(swept),
            unusable: None,
        };
        index.watch_promotion();
        index
    }

    /// The index after a move: with the journal of the one that was moved, which whoever waits for
    /// it finds in its new place.
    pub(super) fn open_moved(home: Home, of: &Self, journal: &mut Journal) -> Self {
        let there = home.is_there().map_err(OpenError::from);
        let mut moved = Self::made(home, of.parameters.clone(), there, None);
        *journal = Journal::open(&moved.home.path);
        moved.journal = Arc::clone(&of.journal);
        moved.replicas = Arc::clone(&of.replicas);
        moved
    }

    /// That its files are within reach.
    ///
    /// # Errors
    /// `Damaged`, with what to do.
    pub(super) fn within_reach(&self) -> Result<(), Fault> {
        self.home.is_there().map_err(|away| {
            let unread = self.degraded().filter(|_| self.home.bucket == UNKNOWN);
            self.damaged(&unread.unwrap_or_else(|| away.to_string()))
        })
    }

    /// The same where it is known in which bucket they are: that this cannot be read is damage, of
    /// which more can be said.
    ///
    /// # Errors
    /// `Damaged`, with what to do.
    pub(super) fn bucket_within_reach(&self) -> Result<(), Fault> {
        if self.home.bucket == UNKNOWN { Ok(()) } else { self.within_reach() }
    }

    /// What is wrong with it, with what repairs it. What is on a disk that is not mounted cannot be
    /// repaired, and need not be.
    pub(super) fn with_remedy(&self, why: &str) -> String {
        match self.home.is_there() {
            Ok(()) => format!(
                "{why}; `brahman index doctor {} --repair` repairs it",
                self.parameters.name
            ),
            Err(_) => why.to_owned(),
        }
    }

    /// That files can be made where it lives.
    ///
    /// # Errors
    /// `ReadOnly`.
    pub(super) fn writable(&self) -> Result<(), Fault> {
        // Of a disk that is not there something else is said.
        if !self.folder.path().is_dir() {
            return Ok(());
        }
        writable::check(self.folder.path()).map_err(|error| read_only(&error))
    }

    /// That it is known which trials there were.
    ///
    /// # Errors
    /// `Damaged`, naming the journal.
    pub(super) fn trials_known(&self) -> Result<(), Fault> {
        let Some(why) = lock(&self.journal).trouble().map(|error| chain(error)) else {
            return Ok(());
        };
        let name = &self.parameters.name;
        let message = format!(
            "index `{name}`: its trials cannot be read: {why}; searches still work. Restore that file, or move it away to start \
             a new one, then `brahman restart index`"
        );
        Err(Fault::of(&error::Damaged { name: name.clone() }, false, message))
    }

    /// All names of the data of a generation of its own. Reads manifests, and all rows where none
    /// of them says it.
    ///
    /// # Errors
    /// If a row is damaged.
    pub(super) fn data_names(&self, generation: &Generation) -> Result<DataNames, Fault> {
        let now = generation
            .data_name()
            .map_err(|e| folder_fault(&self.parameters.name, "reading the index", &e))?;
        let all = self.folder.generations();
        Ok(DataNames::new(
            now,
            &generation.folder,
            all.iter().map(|(name, manifest)| (name.as_str(), manifest)),
        ))
    }

    /// That nothing of it is whole, and why.
    pub(super) fn damaged(&self, why: &str) -> Fault {
        let name = &self.parameters.name;
        // What is on a disk that is not there cannot be mended, and need not be.
        let message = match self.home.is_there() {
            Ok(()) => format!(
                "index `{name}` is damaged: {why}; `brahman index doctor {name} --repair`, or a refresh, rebuilds it"
            ),
            Err(_) => format!("index `{name}`: {why}"),
        };
        Fault::of(&error::Damaged { name: name.clone() }, false, message)
    }

    /// What answers now, and why it is not what should.
    ///
    /// # Errors
    /// `NotReady` before the first refresh, `Damaged` if nothing is whole.
    pub(super) fn current(&self) -> Result<(Arc<Generation>, Option<String>), Fault> {
        let answering = lock(&self.answering);
        let name = &self.parameters.name;
        match (&answering.generation, &answering.degraded) {
            (Some(generation), degraded) => Ok((Arc::clone(generation), degraded.clone())),
            (None, Some(why)) => Err(self.damaged(why)),
            (None, None) => {
                let message = match &*lock(&self.partial) {
                    Some(partial) => {
                        format!("index `{name}`: {}; {}", partial.progress(), partial.remedy())
                    }
                    None => format!(
                        "index `{name}` has not been refreshed yet: `brahman index refresh {name}`"
                    ),
                };
                Err(Fault::of(&error::NotReady { name: name.clone() }, true, message))
            }
        }
    }

    /// What a first refresh has so far, if it is under way: for a search by words what is read,
    /// else what is embedded.
    pub(super) fn partial(&self, by_words: bool) -> Option<(Arc<Generation>, PartialIndex)> {
        let mut partial = lock(&self.partial);
        let partial = partial.as_mut()?;
        partial.is_asked |= by_words;
        let generation = if by_words { &partial.words } else { &partial.near };
        generation.as_ref().map(|generation| (Arc::clone(generation), partial.clone()))
    }

    /// The generation that answers, if there is one.
    pub(super) fn generation(&self) -> Option<Arc<Generation>> {
        lock(&self.answering).generation.clone()
    }

    /// Reads every file of the generation that answers and compares it with its checksum; what is
    /// wrong goes into every reply, unless it can be put back from copies. Opening reads only what
    /// it must, so vectors and texts are not known to be whole until then.
    ///
    /// Blocks: files are put back only under the index's slot, and none if it was deleted
    /// meanwhile.
    pub(super) fn verify(self: &Arc<Self>, copies: Option<&Path>) {
        for said in evals::list(self.folder.path(), None).1 {
            tracing::error!(index = self.parameters.name, "{said}");
        }
        let Some(generation) = self.generation() else { return };
        if let Some(wrong) = self.folder.verify(&generation.manifest).into_iter().next() {
            let wrong = chain(&wrong);
            tracing::error!(index = self.parameters.name, "{wrong}");
            let _claim = copies
                .is_some()
                .then(|| self.claimed(RESTORING, Arc::clone(&self.slot).blocking_lock_owned()));
            if self.replicas.is_unwanted.load(Ordering::Acquire) {
                return;
            }
            let back = copies
                .map(|copies| rescue::restore(&self.folder, &generation.manifest, copies))
                .unwrap_or_default();
            let whole = (!back.is_empty() && self.folder.verify(&generation.manifest).is_empty())
                .then(|| self.folder.load(&generation.folder, None).ok())
                .flatten();
            let mut answering = lock(&self.answering);
            if let Some(whole) = whole
                && answering.generation.as_ref().is_some_and(|g| Arc::ptr_eq(g, &generation))
            {
                tracing::warn!(
                    index = self.parameters.name,
                    "restored from rescue: {}",
                    back.join(", ")
                );
                let whole = Arc::new(whole);
                whole.link_appended();
                *answering = AnswerState { generation: Some(whole), degraded: None, rescued: true };
                return;
            }
            // Unless another answers by now.
            if answering.generation.as_ref().is_some_and(|g| Arc::ptr_eq(g, &generation)) {
                answering.degraded.get_or_insert(wrong);
            }
        }
    }

    /// Why another generation than the current one answers, or none.
    pub(super) fn degraded(&self) -> Option<String> {
        lock(&self.answering).degraded.clone()
    }

    /// Whether files of what answers were put back from the bucket `rescue`.
    pub(super) fn rescued(&self) -> bool {
        lock(&self.answering).rescued
    }

    /// Lets a generation answer whose files were put back from the bucket `rescue`.
    pub(super) fn answer_with_rescued(&self, generation: Generation) -> Arc<Generation> {
        let generation = self.answer_with(generation);
        lock(&self.answering).rescued = true;
        generation
    }

    /// Lets another generation answer from now on, and removes files that nobody needs any more.
    pub(super) fn answer_with(&self, generation: Generation) -> Arc<Generation> {
        let generation = Arc::new(generation);
        generation.link_appended();
        let old = {
            let mut answering = lock(&self.answering);
            (answering.degraded, answering.rescued) = (None, false);
            answering.generation.replace(Arc::clone(&generation))
        };
        lock(&self.read).extend(old.iter().map(Arc::downgrade));
        drop(old);
        // Going back behind what was refreshed since would lose rows: a new generation ends the
        // check.
        self.watch_promotion();
        self.tidy();
        generation
    }

    /// Removes files that nobody needs any more. Only for whoever holds the slot.
    pub(super) fn tidy(&self) {
        let mut read = lock(&self.read);
        read.retain(|weak| weak.strong_count() > 0);
        let held = read
            .iter()
            .filter_map(Weak::upgrade)
            .chain(self.generation())
            .map(|g| g.folder.clone());
        let held: HashSet<String> = held.collect();
        drop(read);
        let words = self.folder.collect(&held).words();
        *lock(&self.swept) = words;
    }

    /// Why old files stay, if they do.
    pub(super) fn swept(&self) -> Option<String> {
        lock(&self.swept).clone()
    }

    /// Whether somebody went back to what answers, so that nothing that acts by itself may go on
    /// from there.
    ///
    /// # Errors
    /// If `CURRENT` cannot be read: then nobody knows.
    pub(super) fn pinned(&self) -> io::Result<bool> {
        Ok(self.folder.pointer()?.is_some_and(|pointer| pointer.pinned))
    }

    /// What of it is in memory.
    pub(super) fn caches(&self) -> Caches {
        let answering = self.generation();
        let old: Vec<Arc<Generation>> = lock(&self.read).iter().filter_map(Weak::upgrade).collect();
        let (verified_files, verified_hits, verified_misses) = self.folder.files().marks().counts();
        let mut out =
            Caches { verified_files, verified_hits, verified_misses, ..Caches::default() };
        let mut bases: Vec<&crate::generation::Base> = Vec::new();
        for generation in old.iter().chain(&answering) {
            out.generations += 1;
            out.appended_bytes += generation.delta.store.memory_bytes();
            let Some(base) = generation.base.as_deref() else { continue };
            if bases.iter().any(|known| std::ptr::eq(*known, base)) {
                continue;
            }
            bases.push(base);
            let (opened, vectors) = (base.opened(), base.flat.store.vector_bytes());
            out.graph_bytes += base.flat.memory_bytes().saturating_sub(vectors);
            out.mapped_bytes += vectors + base.rows.bytes();
            out.columns_bytes += opened.columns_bytes;
            out.words = match (opened.words, out.words.as_str()) {
                (Some(true), _) | (_, "memory") => "memory",
                (Some(false), _) | (_, "disk") => "disk",
                _ => "closed",
            }
            .into();
            out.hits += opened.hits;
            out.misses += opened.misses;
        }
        if out.words.is_empty() {
            out.words = "closed".into();
        }
        out
    }

    /// The next generation's number.
    pub(super) fn next_number(&self) -> u64 {
        self.folder.next_number(self.generation().map_or(0, |g| g.manifest.number))
    }
}
