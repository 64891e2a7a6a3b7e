//! `org.brahman.Profiles`: which modules, datasets and indexes a mesh is for just now, and the
//! memory that its models take.

use brahman_card_derive::wire;

interface! {
    /// Which modules, datasets and indexes a mesh is for just now, and the memory that its models
    /// take.
    ///
    /// Loading a model is starting its module, unloading it is stopping that; a module is started
    /// only once its memory is reserved. At most one profile is active in a mesh. While one is, the
    /// modules that own indexes and datasets refuse every other name as Forbidden.
    "org.brahman.Profiles"
    methods {
        /// Makes a profile the active one: its models are loaded, those of the former one that it
        /// does not name are unloaded. If that fails the former profile goes on as before. Of the
        /// profile that is active already nothing is changed.
        Activate(ActivateIn) -> ActivateOut: idempotent, long;
        /// No profile is active any more: everything can be named again. Models that are not pinned
        /// are unloaded, and loaded again by the next call that needs them.
        Deactivate() -> DeactivateOut: idempotent, long;
        /// The active profile, and what it binds. With `more` it is told again whenever it changes;
        /// with `after` as well it is told once, as soon as it is not of that generation any more,
        /// and whoever waits so has heard of that generation and acts by it.
        Active(ActiveIn) -> ActiveOut: idempotent, endless, reads;
        List() -> ListOut: idempotent, reads;
        /// Keeps a profile under its id, in place of one that was defined so before. That of a file
        /// is changed in its file.
        Define(DefineIn) -> DefineOut: idempotent;
        /// Forgets a profile that was defined by call and is not active.
        Remove(RemoveIn);
        /// Graphics processors, what is reserved on them and in the main memory, and what an Ollama
        /// server holds.
        Vram() -> VramOut: idempotent, reads;
        /// Loads a model: a module's, by its label or by the name of its model, or one of the
        /// Ollama server.
        Preload(PreloadIn) -> PreloadOut: idempotent, long;
        /// Unloads a model, until it is loaded again or called.
        Unload(UnloadIn) -> UnloadOut: idempotent, long;
        /// Modules that hold memory now.
        Loaded() -> LoadedOut: idempotent, reads;
    }
    errors {
        /// The active profile does not bind what the call names: an index, a dataset, or a module.
        /// `name` is `*` of a call that is of everything, such as a backup, while anything is
        /// hidden.
        Forbidden { profile: String, name: String }
        /// There is not enough memory, and what is idle and not pinned would not give enough.
        NoRoom {
            slot: String,
            needed_mib: u64,
            free_mib: u64,
            holders: Vec<super::Holder>,
            unowned_mib: Option<u64>,
        }
        NoSuchProfile { id: String }
        NoSuchModel { model: String }
        /// The profile makes no sense, or cannot be served by this mesh; the message says why.
        BadProfile { id: String }
        /// A module did not become ready; what was changed for it was undone.
        LoadFailed { module: String }
        /// The model is pinned by the active profile.
        Pinned { module: String }
        /// It is not known which profile is active: the profile service has not answered yet.
        Unknown {}
    }
}

/// What a mesh is for: the fields of a file in `profiles/`.
#[wire(request)]
pub struct Profile {
    pub id: String,
    /// Labels of the modules that hold its models.
    pub modules: Option<Vec<String>>,
    /// The only indexes that can be named; all if it is absent.
    pub indexes: Option<Vec<String>>,
    /// The only datasets that can be named; all if it is absent.
    pub datasets: Option<Vec<String>>,
    /// Made as the folder `buckets/<name>` of the state if there is none of that name.
    pub bucket: Option<String>,
    /// What its indexes are kept by: `flat-hnsw`, `lance` or `auto`.
    pub backend: Option<String>,
    /// True, for all its modules, or a list of labels: these are never unloaded while it is active.
    pub pinned: Option<serde_json::Value>,
    /// Seconds without a call after which a module is unloaded until the next; never if it is
    /// absent.
    pub idle_s: Option<u64>,
}

#[wire]
pub struct ActivateIn {
    pub id: String,
}

#[wire]
pub struct ActivateOut {
    pub active: String,
    /// Labels of the modules that were started for it.
    pub loaded: Vec<String>,
    /// Labels of the modules that were stopped for it.
    pub unloaded: Vec<String>,
    pub elapsed_ms: u64,
    /// What one should know, such as an index that is bound and does not exist.
    pub notes: Option<Vec<String>>,
}

#[wire]
pub struct DeactivateOut {
    /// The profile that was active, if one was.
    #[wire(null)]
    pub previous: Option<String>,
    pub unloaded: Vec<String>,
    pub elapsed_ms: u64,
}

#[wire]
pub struct ActiveIn {
    /// The generation that the caller knows: the answer comes once there is another.
    pub after: Option<u64>,
}

#[wire]
pub struct ActiveOut {
    /// None is active if it is null.
    #[wire(null)]
    pub id: Option<String>,
    /// Another with every change of what is active or bound.
    pub generation: u64,
    /// The only indexes that can be named; all if it is absent.
    pub indexes: Option<Vec<String>>,
    /// The only datasets that can be named; all if it is absent.
    pub datasets: Option<Vec<String>>,
    pub bucket: Option<String>,
    pub backend: Option<String>,
}

/// A profile that is known: what it binds, and whether it is active.
#[wire]
pub struct ProfileInfo {
    pub id: String,
    /// Labels of the modules that hold its models.
    pub modules: Option<Vec<String>>,
    /// The only indexes that can be named; all if it is absent.
    pub indexes: Option<Vec<String>>,
    /// The only datasets that can be named; all if it is absent.
    pub datasets: Option<Vec<String>>,
    pub bucket: Option<String>,
    pub backend: Option<String>,
    /// True, for all its modules, or a list of labels.
    pub pinned: Option<serde_json::Value>,
    pub idle_s: Option<u64>,
    pub active: bool,
    /// The file that it was read from; absent if it was defined by call.
    pub origin: Option<String>,
}

impl ProfileInfo {
    /// What is told of a profile.
    #[must_use]
    pub fn of(profile: Profile, active: bool, origin: Option<String>) -> Self {
        let Profile { id, modules, indexes, datasets, bucket, backend, pinned, idle_s } = profile;
        Self { id, modules, indexes, datasets, bucket, backend, pinned, idle_s, active, origin }
    }
}

#[wire]
pub struct ListOut {
    /// In the order of their ids.
    pub profiles: Vec<ProfileInfo>,
    /// Files that hold no profile, and why.
    pub faults: Option<Vec<String>>,
}

#[wire]
pub struct DefineIn {
    pub profile: Profile,
}

#[wire]
pub struct DefineOut {
    /// Whether it took the place of one that was defined before.
    pub replaced: bool,
}

#[wire]
pub struct RemoveIn {
    pub id: String,
}

/// A module that holds memory, as a refusal names it.
#[wire(Eq)]
pub struct Holder {
    pub module: String,
    pub mib: u64,
    /// Never unloaded while the active profile stands.
    pub pinned: bool,
    /// Why it could not give way, if it could not.
    pub reason: Option<String>,
}

/// A graphics processor as NVML tells of it.
#[wire(Eq)]
pub struct GpuUse {
    /// NVML's number, which need not be CUDA's.
    pub index: u64,
    pub uuid: String,
    pub name: String,
    pub total_mib: u64,
    pub used_mib: u64,
    pub free_mib: u64,
    /// Per cent of the last moments in which it was computing.
    pub utilisation: u64,
}

/// Memory that is kept for a module.
#[wire(Eq)]
pub struct Reservation {
    pub module: String,
    pub mib: u64,
    /// What its process holds there now; absent if that cannot be told.
    pub measured_mib: Option<u64>,
    pub pinned: bool,
    /// `loading`, `loaded`, or `unloading`.
    pub state: String,
    /// Seconds since it was last seen at work; absent while it is.
    pub idle_s: Option<u64>,
}

/// Memory that did not come back after a module had ended: it is not given to another.
#[wire(Eq)]
pub struct Quarantine {
    pub module: String,
    pub mib: u64,
    pub reason: String,
}

/// A memory that is shared out: a graphics processor's, or the main memory.
#[wire(Eq)]
pub struct SlotUse {
    /// `cpu`, or the UUID of a graphics processor.
    pub slot: String,
    pub capacity_mib: u64,
    /// What could be reserved now.
    pub available_mib: u64,
    pub reservations: Vec<Reservation>,
    /// In use by nobody that holds a reservation; absent if that cannot be told.
    pub unowned_mib: Option<u64>,
    pub quarantined: Option<Vec<Quarantine>>,
    /// What of the last measurement makes no sense.
    pub notes: Option<Vec<String>>,
}

/// A model that an Ollama server holds.
#[wire(Eq)]
pub struct ExternalModel {
    pub name: String,
    pub mib: u64,
    /// How much of it is in the memory of a graphics processor.
    pub vram_mib: u64,
    /// When it is unloaded, as the server tells it.
    pub expires: Option<String>,
}

/// An Ollama server beside the mesh.
#[wire(Eq)]
pub struct External {
    pub url: String,
    pub models: Vec<ExternalModel>,
    /// Why nothing is known of it.
    pub reason: Option<String>,
}

#[wire]
pub struct VramOut {
    pub gpus: Vec<GpuUse>,
    /// Why there are none, or why nothing is known of them.
    pub reason: Option<String>,
    pub slots: Vec<SlotUse>,
    /// Absent where no server is configured.
    pub external: Option<External>,
}

#[wire]
pub struct PreloadIn {
    /// A module's label, the name of its model, or that of a model of the Ollama server.
    pub model: String,
    /// The broker asks because a call needs it: what the person has stopped stays so.
    pub on_call: Option<bool>,
}

#[wire]
pub struct PreloadOut {
    pub model: String,
    /// Labels of the modules that were started; none if it was loaded already, or by the Ollama
    /// server.
    pub loaded: Vec<String>,
    /// How long loading took.
    pub elapsed_ms: u64,
    /// The Ollama server has loaded it.
    pub external: Option<bool>,
}

#[wire]
pub struct UnloadIn {
    /// By which name, as for `Preload`.
    pub model: String,
}

#[wire]
pub struct UnloadOut {
    pub model: String,
    pub unloaded: Vec<String>,
    pub elapsed_ms: u64,
    /// The Ollama server has unloaded it.
    pub external: Option<bool>,
    /// Memory that did not come back.
    pub notes: Option<Vec<String>>,
}

/// A module that holds a model.
#[wire(Eq)]
pub struct LoadedModel {
    pub module: String,
    /// The name of its model, where it has one.
    pub model: Option<String>,
    pub slot: String,
    pub mib: u64,
    pub measured_mib: Option<u64>,
    pub pinned: bool,
    pub idle_s: Option<u64>,
}

#[wire]
pub struct LoadedOut {
    /// In the order of their labels.
    pub models: Vec<LoadedModel>,
}
