//! `org.brahman.Profiles`.
//!
//! [`activation`] goes from one profile to another and back; [`residency`] loads, unloads and
//! watches what is loaded; [`view`] shows memory and takes single models in and out. This file
//! holds what they share, says what is active, and keeps what is defined by call.
//!
//! Invariants: whatever loads or unloads has the one turn; what is active is written down before
//! anybody is told; a caller that hangs up leaves no work half done, for the work is not the
//! caller's.

mod activation;
mod residency;
mod view;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::clock::now_ms;
use brahman_card::interface::profiles::{
    self, ActivateIn, ActiveIn, ActiveOut, DefineIn, DefineOut, ListOut, PreloadIn, Profile,
    ProfileInfo, RemoveIn, UnloadIn, error,
};
use brahman_card::interface::{catalog, index, ingest};
use brahman_card::{Fault, Interface, ModuleRecord, ModuleState};
use brahman_sidecar::place::cards::own_folder;
use brahman_sidecar::{Call, Client, ClientError, Reply, Service, chain};
use thiserror::Error;
use tokio::sync::watch;

use crate::book::{Book, CheckedProfile, ProfileError};
use crate::gate::{Gate, Millis, Refusal};
use crate::gpu::{GpuReading, GpuWatch, NvmlSource};
use crate::mesh::{Mesh, MeshError};
use crate::ollama::{Ollama, OllamaError};
use crate::settings::Settings;
use crate::state::{ActiveRecord, DEFINED_MAX, Peak, StateError, Store};
use residency::Activity;

/// How long a switch waits for those that own indexes and datasets to have heard of it: they are
/// told in microseconds, and those that lost this service with its last life are back in half a
/// second.
const HEARD_MAX: Duration = Duration::from_secs(1);
/// Who owns what a profile hides, and so follows what is active.
const FOLLOWERS: [&str; 3] =
    [index::INTERFACE.name, catalog::INTERFACE.name, ingest::INTERFACE.name];
/// What changes what everybody can name, or what is loaded: it is the owner's and root's, whoever
/// else may ask what is active.
const ADMINISTRATION: [&str; 6] =
    ["Activate", "Deactivate", "Define", "Remove", "Preload", "Unload"];

/// Why the service does not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The folder of its state cannot be made, or there is no thread.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What is active cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The profile that is active makes no sense to this version.
    #[error("the active profile cannot be used")]
    Profile(#[from] ProfileError),
    /// There is no client for the Ollama server.
    #[error(transparent)]
    Ollama(#[from] OllamaError),
}

/// What is active now.
#[derive(Clone, Debug, Default)]
struct ActiveWord {
    generation: u64,
    record: ActiveRecord,
    profile: Option<CheckedProfile>,
}

impl ActiveWord {
    fn new(generation: u64, record: ActiveRecord) -> Result<Self, ProfileError> {
        let profile =
            record.profile.clone().map(|profile| CheckedProfile::new(profile, None)).transpose()?;
        Ok(Self { generation, record, profile })
    }

    fn id(&self) -> Option<&str> {
        self.profile.as_ref().map(|profile| profile.profile.id.as_str())
    }

    fn shown(&self) -> ActiveOut {
        let profile = self.record.profile.clone().unwrap_or_default();
        let Profile { indexes, datasets, bucket, backend, .. } = profile;
        ActiveOut {
            id: self.id().map(str::to_owned),
            generation: self.generation,
            indexes,
            datasets,
            bucket,
            backend,
        }
    }
}

/// What was last seen of graphics processors.
#[derive(Clone, Debug, Default)]
struct GpuView {
    gpus: Vec<GpuReading>,
    /// Why there are none.
    reason: Option<String>,
    /// Before that nobody asks again unless a person does.
    again_at: Option<Instant>,
}

/// A caller that waits for the next change, counted while it does.
struct Listener<'a> {
    waiting: &'a watch::Sender<BTreeMap<u64, usize>>,
    generation: u64,
}

impl<'a> Listener<'a> {
    fn new(waiting: &'a watch::Sender<BTreeMap<u64, usize>>, generation: u64) -> Self {
        waiting.send_modify(|counts| *counts.entry(generation).or_default() += 1);
        Self { waiting, generation }
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.waiting.send_modify(|counts| {
            let left = counts.get(&self.generation).copied().unwrap_or(0).saturating_sub(1);
            if left == 0 {
                counts.remove(&self.generation);
            } else {
                counts.insert(self.generation, left);
            }
        });
    }
}

/// Answers the interface, over init, the gate and what is kept.
#[derive(Debug)]
pub struct ProfilesService {
    settings: Settings,
    /// The mesh's state, below which buckets are made.
    state: PathBuf,
    store: Store,
    mesh: Mesh,
    client: Client,
    gpus: GpuWatch,
    gpu_view: Mutex<GpuView>,
    ollama: Option<Ollama>,
    began: Instant,
    gate: Mutex<Gate>,
    active: watch::Sender<ActiveWord>,
    /// How many callers have heard of which generation and wait for the next.
    waiting: watch::Sender<BTreeMap<u64, usize>>,
    /// Held by whoever loads or unloads.
    turn: tokio::sync::Mutex<()>,
    defined: Mutex<BTreeMap<String, Profile>>,
    peaks: Mutex<BTreeMap<String, Peak>>,
    activity: Mutex<BTreeMap<String, Activity>>,
    /// The processes of modules whose memory did not come back.
    lost: Mutex<BTreeMap<String, Vec<u32>>>,
}

/// Locks without minding a panic elsewhere: everything behind these locks is whole between
/// statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProfilesService {
    /// The service of a state folder and of the mesh at a socket. Nobody is asked anything yet.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(settings: Settings, state: &Path, mesh: &Path) -> Result<Self, OpenError> {
        let store = Store::open(state)?;
        // Generations of an earlier life are never met again.
        let word = ActiveWord::new(now_ms(), store.active()?)?;
        let defined = store.defined()?;
        let ollama = settings.ollama.as_deref().map(Ollama::new).transpose()?;
        let residency = Millis::try_from(settings.residency.as_millis()).unwrap_or(Millis::MAX);
        Ok(Self {
            gpus: GpuWatch::start(NvmlSource::new(settings.nvml.clone()))?,
            gpu_view: Mutex::default(),
            peaks: Mutex::new(store.peaks()),
            state: state.to_owned(),
            store,
            mesh: Mesh::new(mesh),
            client: Client::new(mesh),
            ollama,
            began: Instant::now(),
            gate: Mutex::new(Gate::new(residency)),
            active: watch::channel(word).0,
            waiting: watch::channel(BTreeMap::new()).0,
            turn: tokio::sync::Mutex::default(),
            defined: Mutex::new(defined),
            activity: Mutex::default(),
            lost: Mutex::default(),
            settings,
        })
    }

    /// Milliseconds since this process began: a clock that does not go back.
    fn now(&self) -> Millis {
        Millis::try_from(self.began.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    fn word(&self) -> ActiveWord {
        self.active.borrow().clone()
    }

    /// The profiles that there are: files in `profiles/` of the state and beside any folder of
    /// Cards that is in use, and what was defined.
    fn book(&self, records: &[ModuleRecord]) -> Book {
        let mut folders = vec![self.store.folder().to_owned()];
        let beside = |cards: &Path| cards.parent().map(|above| above.join("profiles"));
        let origins =
            records.iter().filter_map(|record| Some(PathBuf::from(record.origin.as_ref()?)));
        let in_use =
            origins.filter(|file| file.is_absolute()).filter_map(|file| beside(file.parent()?));
        for folder in
            in_use.chain(beside(&own_folder(None))).chain([PathBuf::from("/etc/brahman/profiles")])
        {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        Book::read(&folders, &lock(&self.defined))
    }

    async fn list(&self) -> Result<ListOut, Fault> {
        let records = self.mesh.list().await.map_err(|error| mesh_fault(&error))?;
        let book = self.book(&records);
        let word = self.word();
        let info = |profile: &CheckedProfile| {
            let is_active = word.id() == Some(profile.profile.id.as_str());
            ProfileInfo::of(
                profile.profile.clone(),
                is_active,
                profile.origin.as_ref().map(|path| path.display().to_string()),
            )
        };
        let mut profiles: Vec<ProfileInfo> = book.profiles.values().map(info).collect();
        // Its file is gone, and it is active all the same.
        if let Some(active) =
            word.profile.as_ref().filter(|active| !book.profiles.contains_key(&active.profile.id))
        {
            profiles.push(info(active));
            profiles.sort_by(|a, b| a.id.cmp(&b.id));
        }
        Ok(ListOut { profiles, faults: Some(book.faults).filter(|faults| !faults.is_empty()) })
    }

    async fn active(&self, call: &Call) -> Result<Reply, Fault> {
        let ActiveIn { after } = call.parameters()?;
        let mut words = self.active.subscribe();
        let Some(known) = after else {
            if !call.more {
                return Reply::of(&self.word().shown());
            }
            loop {
                let word = words.borrow_and_update().clone();
                call.send(&word.shown()).await?;
                if words.changed().await.is_err() {
                    return Reply::of(&word.shown());
                }
            }
        };
        let _listener = Listener::new(&self.waiting, known);
        let heard = async {
            // The sender lives as long as this service.
            let _ = words.wait_for(|word| word.generation != known).await.map(drop);
        };
        tokio::select! {
            () = heard => {}
            () = call.deadline.passed() => {}
        }
        Reply::of(&self.word().shown())
    }

    /// Writes down what is active, then tells everybody, and waits until those that follow have
    /// heard, at least as many as there are in `records`. Another generation only where what can be
    /// named is another. What one should know of those that have not heard, in words.
    async fn publish(
        &self,
        record: ActiveRecord,
        records: &[ModuleRecord],
    ) -> Result<Option<String>, Fault> {
        let former = self.word();
        let generation = if former.record.profile == record.profile {
            former.generation
        } else {
            former.generation + 1
        };
        let word =
            ActiveWord::new(generation, record).map_err(|error| profile_fault("", &error))?;
        self.store.set_active(&word.record).map_err(|error| {
            let path = self.store.folder().display();
            Fault::internal(format!(
                "cannot write down which profile is active, in {path}: {error}"
            ))
        })?;
        let mut counts = self.waiting.subscribe();
        let waiting = counts.borrow_and_update().get(&former.generation).copied().unwrap_or(0);
        // One that has just lost this service, with its last life, waits for nothing yet and goes
        // on as it was told before.
        let expected = waiting.max(followers(records));
        self.active.send_replace(word);
        if generation != former.generation {
            let have_heard =
                counts.wait_for(|counts| counts.get(&generation).copied().unwrap_or(0) >= expected);
            if tokio::time::timeout(HEARD_MAX, have_heard).await.is_err() {
                let words = format!(
                    "not all of the {expected} modules that own indexes and datasets have confirmed within {HEARD_MAX:?} that they act by it"
                );
                tracing::warn!("{words}");
                return Ok(Some(words));
            }
        }
        Ok(None)
    }

    async fn define(&self, ask: DefineIn) -> Result<DefineOut, Fault> {
        let id = ask.profile.id.clone();
        let checked =
            CheckedProfile::new(ask.profile, None).map_err(|error| profile_fault(&id, &error))?;
        let records = self.mesh.list().await.map_err(|error| mesh_fault(&error))?;
        let found =
            self.book(&records).profiles.get(&id).and_then(|profile| profile.origin.clone());
        if let Some(path) = found {
            let message = format!(
                "profile `{id}` is that of {}: change it there, or choose another id",
                path.display()
            );
            return Err(Fault::of(&error::BadProfile { id }, false, message));
        }
        let mut defined = lock(&self.defined);
        if defined.len() >= DEFINED_MAX && !defined.contains_key(&id) {
            let message = format!(
                "{DEFINED_MAX} profiles are defined, which is the most: remove one, or write this one to a file"
            );
            return Err(Fault::of(&error::BadProfile { id }, false, message));
        }
        let mut next = defined.clone();
        let replaced = next.insert(id, checked.profile).is_some();
        self.store
            .set_defined(&next)
            .map_err(|error| Fault::internal(format!("cannot write down the profile: {error}")))?;
        *defined = next;
        Ok(DefineOut { replaced })
    }

    fn remove(&self, ask: RemoveIn) -> Result<Reply, Fault> {
        if self.word().id() == Some(ask.id.as_str()) {
            let message = format!("profile `{}` is active: deactivate it first", ask.id);
            return Err(Fault::of(&error::BadProfile { id: ask.id }, false, message));
        }
        let mut defined = lock(&self.defined);
        let mut next = defined.clone();
        if next.remove(&ask.id).is_none() {
            let message = format!(
                "no profile `{}` was defined by call; that of a file is removed with its file",
                ask.id
            );
            return Err(Fault::of(&error::NoSuchProfile { id: ask.id }, false, message));
        }
        self.store
            .set_defined(&next)
            .map_err(|error| Fault::internal(format!("cannot forget the profile: {error}")))?;
        *defined = next;
        Ok(Reply::empty())
    }
}

/// How many modules serve that own what a profile hides.
fn followers(records: &[ModuleRecord]) -> usize {
    let owns = |record: &&ModuleRecord| {
        record.card.offered_interfaces().any(|name| FOLLOWERS.contains(&name))
    };
    records.iter().filter(|record| record.state == ModuleState::Ready).filter(owns).count()
}

/// Does work that a hang-up of its caller must not cut off in the middle.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<T, Fault> {
    tokio::spawn(work)
        .await
        .map_err(|error| Fault::internal(format!("the work ended early: {}", chain(&error))))?
}

impl Service for ProfilesService {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&profiles::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        if ADMINISTRATION.contains(&call.method()) {
            call.allow_administration()?;
        }
        match call.method() {
            "Activate" => {
                let ActivateIn { id } = call.parameters()?;
                Reply::of(&whole(async move { self.activate(&id).await }).await?)
            }
            "Deactivate" => Reply::of(&whole(async move { self.deactivate().await }).await?),
            "Active" => self.active(&call).await,
            "List" => Reply::of(&self.list().await?),
            "Define" => Reply::of(&self.define(call.parameters()?).await?),
            "Remove" => self.remove(call.parameters()?),
            "Vram" => Reply::of(&self.vram().await?),
            "Preload" => {
                let ask: PreloadIn = call.parameters()?;
                Reply::of(&whole(async move { self.preload(ask).await }).await?)
            }
            "Unload" => {
                let ask: UnloadIn = call.parameters()?;
                Reply::of(&whole(async move { self.unload_model(ask).await }).await?)
            }
            "Loaded" => Reply::of(&self.loaded().await?),
            _ => Err(call.unknown()),
        }
    }
}

/// A profile that will not do, as a reply.
fn profile_fault(id: &str, error: &ProfileError) -> Fault {
    Fault::of(&error::BadProfile { id: id.to_owned() }, false, chain(error))
}

/// What init says, as a reply.
fn mesh_fault(error: &MeshError) -> Fault {
    if let MeshError::Init(ClientError::Fault(fault)) = error {
        return fault.clone();
    }
    match error.label() {
        Some(label) => {
            Fault::of(&error::LoadFailed { module: label.to_owned() }, true, chain(error))
        }
        None => Fault::overloaded(format!("init cannot be asked just now: {}", chain(error)), 1000),
    }
}

/// Not enough memory, as a reply.
fn refusal_fault(refusal: &Refusal) -> Fault {
    let holder = |holder: &crate::gate::RefusedHolder| profiles::Holder {
        module: holder.module.clone(),
        mib: holder.mib,
        pinned: holder.pinned,
        reason: holder.reason.map(str::to_owned),
    };
    let error = error::NoRoom {
        slot: refusal.slot.to_string(),
        needed_mib: refusal.needed_mib,
        free_mib: refusal.free_mib,
        holders: refusal.holders.iter().map(holder).collect(),
        unowned_mib: refusal.unowned_mib,
    };
    Fault::of(&error, false, format!("there is no room: {refusal}"))
}
