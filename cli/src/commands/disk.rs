//! `brahman disk` says what each part of the state and the cache takes, `brahman gc` frees what may
//! go.
//!
//! Both look at the disk itself, with a mesh or without. Invariants: a file counts once however
//! many names it has, and by what it takes on the disk; nothing is removed on the strength of what
//! could not be read or asked; what a module removes by itself is left to it; what a module may be
//! using is removed only where none runs, and none starts on that state until it is done. The cache
//! is every mesh's.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use brahman_card::interface::Empty;
use brahman_card::interface::catalog::Dataset;
use brahman_card::interface::init::method;
use brahman_card::interface::storage::PRIMARY;
use brahman_sidecar::logs::{FOLDER as LOGS, INIT_LABEL, labels};
use brahman_sidecar::place::meshes;
use brahman_sidecar::place::state::{Holder, StateError, StateLock};
use brahman_sidecar::{ClientError, place};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::backup::STAGING;
use super::get;
use crate::failure::BadInput;
use crate::output::{Output, Tone, bytes};

/// How long a backup that was cut off stays: by then one that goes on has locked its folder.
const STAGING_AGE: Duration = Duration::from_secs(3600);
/// Bytes of a block as the kernel counts them, whatever the disk's are.
const BLOCK_BYTES: u64 = 512;

#[derive(Args, Debug)]
pub(crate) struct Disk {
    /// State directory [default: that of the running mesh, else the one that `up` would use]
    #[arg(long, env = "BRAHMAN_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Gc {
    /// State directory [default: that of the running mesh, else the one that `up` would use]
    #[arg(long, env = "BRAHMAN_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// Say what would be freed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Free the caches of vectors and inputs as well, while no mesh runs: they are made again as
    /// they are needed
    #[arg(long)]
    cache: bool,
    /// Free what mocks have made as well, while no mesh runs
    #[arg(long)]
    mocks: bool,
}

/// One part, and what it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct PartUsage {
    part: String,
    path: String,
    bytes: u64,
    files: u64,
}

#[derive(Debug, Serialize)]
struct DiskOut {
    state: String,
    cache: String,
    parts: Vec<PartUsage>,
    bytes: u64,
    /// What could not be looked at.
    unread: Vec<String>,
}

/// What may be removed, or why it stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct GcItem {
    what: String,
    path: String,
    bytes: u64,
    /// Why it stays; absent of what goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
}

#[derive(Debug, Serialize)]
struct GcOut {
    dry_run: bool,
    freed_bytes: u64,
    freed: Vec<GcItem>,
    kept: Vec<GcItem>,
}

/// Counts files once each.
#[derive(Debug, Default)]
struct Counter {
    known: HashSet<(u64, u64)>,
    unread: Vec<String>,
}

impl Counter {
    /// What lies at a path and below it, but for what `skips` says; bytes and files. What is not
    /// there takes nothing.
    fn count(&mut self, path: &Path, skips: &dyn Fn(&Path) -> bool) -> (u64, u64) {
        let (mut bytes, mut files, mut left) = (0, 0, vec![path.to_owned()]);
        while let Some(path) = left.pop() {
            if skips(&path) {
                continue;
            }
            let meta = match fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.unread.push(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            if !self.known.insert((meta.dev(), meta.ino())) {
                continue;
            }
            bytes += meta.blocks() * BLOCK_BYTES;
            if !meta.is_dir() {
                files += 1;
                continue;
            }
            match fs::read_dir(&path) {
                Ok(entries) => left.extend(entries.flatten().map(|entry| entry.path())),
                Err(error) => self.unread.push(format!("{}: {error}", path.display())),
            }
        }
        (bytes, files)
    }
}

/// The state that is meant, and the mesh that has it, if one runs.
fn state_of(socket: &Path, asked: Option<&PathBuf>) -> anyhow::Result<(PathBuf, Option<Holder>)> {
    let socket = std::path::absolute(socket)?;
    let live = meshes::live();
    let state = match asked {
        Some(state) => std::path::absolute(state)?,
        None => live
            .iter()
            .find(|mesh| mesh.holder.socket == socket)
            .map_or_else(place::state_dir, |mesh| mesh.state.clone()),
    };
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let holder =
        live.into_iter().find(|mesh| real(&mesh.state) == real(&state)).map(|mesh| mesh.holder);
    let holder = holder.or_else(|| Holder::of(&state));
    Ok((state, holder))
}

/// A dataset's file, as far as it is read here.
#[derive(Deserialize)]
struct DatasetFile {
    entry: DatasetEntry,
}

#[derive(Deserialize)]
struct DatasetEntry {
    dataset: Dataset,
}

/// Paths of the objects of all present generations in the state's own bucket; what cannot be read
/// is told.
fn present_objects(state: &Path, unread: &mut Vec<String>) -> BTreeSet<PathBuf> {
    let mut present = BTreeSet::new();
    for entry in fs::read_dir(state.join("catalog")).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != "json")
            || path.file_name().is_some_and(|name| name == "buckets.json")
        {
            continue;
        }
        let read = fs::read(&path)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(serde_json::from_slice::<DatasetFile>(&text)?));
        match read {
            Ok(file) => {
                let objects =
                    file.entry.dataset.objects.iter().filter(|object| object.bucket == PRIMARY);
                present.extend(
                    objects.map(|object| state.join("buckets").join(PRIMARY).join(&object.key)),
                );
            }
            Err(error) => unread.push(format!("{}: {error:#}", path.display())),
        }
    }
    present
}

/// Names of the caches of vectors: the first model's, one for each other model, and that of modules
/// with a cache of their own.
fn vector_caches(cache: &Path) -> Vec<String> {
    let names = fs::read_dir(cache)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names
        .filter(|name| name == "embed" || name == "vectors" || name.starts_with("embed-"))
        .collect();
    names.sort();
    names
}

fn usage(state: &Path, cache: &Path) -> DiskOut {
    let mut counter = Counter::default();
    let present = present_objects(state, &mut counter.unread);
    let primary = state.join("buckets").join(PRIMARY);
    let mut parts: Vec<PartUsage> = Vec::new();
    let mut add = |part: &str, path: &Path, (bytes, files): (u64, u64)| {
        if files > 0 {
            parts.push(PartUsage {
                part: part.to_owned(),
                path: path.display().to_string(),
                bytes,
                files,
            });
        }
    };
    let nothing = |_: &Path| false;
    let now = present
        .iter()
        .map(|path| counter.count(path, &nothing))
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    add("datasets: present generations", &primary.join("datasets"), now);
    let before = counter.count(&primary.join("datasets"), &nothing);
    add(
        "datasets: previous and pinned generations, unfinished runs",
        &primary.join("datasets"),
        before,
    );
    add(
        "datasets: stable paths",
        &state.join("datasets"),
        counter.count(&state.join("datasets"), &nothing),
    );
    add("indexes", &state.join("indexes"), counter.count(&state.join("indexes"), &nothing));
    add("bucket primary: other objects", &primary, counter.count(&primary, &nothing));
    add(
        "buckets: local copies",
        &state.join("buckets"),
        counter.count(&state.join("buckets"), &nothing),
    );
    for (part, name) in
        [("catalog", "catalog"), ("logs", LOGS), ("ingest", "ingest"), ("made by mocks", "mock")]
    {
        add(part, &state.join(name), counter.count(&state.join(name), &nothing));
    }
    let inside = cache.starts_with(state);
    let is_cache = |path: &Path| inside && path == cache;
    add("other state", state, counter.count(state, &is_cache));
    let mut caches: Vec<(&str, String)> =
        vector_caches(cache).into_iter().map(|name| ("cache: vectors", name)).collect();
    let others =
        [("cache: inputs", "inputs"), ("models", "models"), ("ONNX Runtime", "onnxruntime")];
    caches.extend(others.map(|(part, name)| (part, name.to_owned())));
    for (part, name) in caches {
        // A test's cache, or a system's, may share these with others by a link.
        let path = cache.join(name);
        let path = path.canonicalize().unwrap_or(path);
        add(part, &path, counter.count(&path, &nothing));
    }
    add("other cache", cache, counter.count(cache, &nothing));
    let bytes = parts.iter().map(|part| part.bytes).sum();
    let unread = counter.unread;
    DiskOut {
        state: state.display().to_string(),
        cache: cache.display().to_string(),
        parts,
        bytes,
        unread,
    }
}

/// Shows what each part takes.
pub(crate) fn disk(socket: &Path, ask: &Disk, output: &Output) -> anyhow::Result<()> {
    let (state, _) = state_of(socket, ask.state.as_ref())?;
    let out = usage(&state, &place::cache_dir());
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    let rows = out.parts.iter().map(|part| {
        vec![part.part.clone(), bytes(part.bytes), part.files.to_string(), part.path.clone()]
    });
    output.table(&["PART", "SIZE", "FILES", "WHERE"], rows.collect());
    output.line(&format!("{} in all; `brahman gc --dry-run` says what may go", bytes(out.bytes)));
    out.unread.iter().for_each(|unread| {
        output.line(&output.paint(&format!("not counted: {unread}"), Tone::Busy));
    });
    Ok(())
}

/// What is known when it is decided what may go.
struct Evidence {
    state: PathBuf,
    cache: PathBuf,
    /// Whether a mesh has the state.
    is_running: bool,
    /// Socket of a mesh that runs and may have the cache, whatever its state.
    cache_user: Option<PathBuf>,
    /// Labels of its modules, where it could be asked.
    modules: Option<BTreeSet<String>>,
    now: SystemTime,
}

/// Socket of a mesh of this user that runs, on whatever state: they all may have the same cache.
fn cache_user() -> Option<PathBuf> {
    // Not this process, which has the state's lock itself.
    let mut holders = meshes::live().into_iter().map(|mesh| mesh.holder);
    holders.find(|holder| holder.pid != std::process::id()).map(|holder| holder.socket)
}

/// Why a cache stays.
fn is_in_use(socket: &Path) -> String {
    format!("the mesh on {} runs: `brahman --socket {0} down` first", socket.display())
}

/// Why the folder of an old backup stays: whoever writes it has it locked, for however long.
fn is_written(folder: &Path) -> Option<String> {
    match fs::File::open(folder).map_err(TryLockError::Error).and_then(|folder| folder.try_lock()) {
        Ok(()) => None,
        Err(TryLockError::WouldBlock) => Some("it is being written".to_owned()),
        Err(TryLockError::Error(error)) => {
            Some(format!("whether it is being written cannot be told: {error}"))
        }
    }
}

/// What may go and what stays, with why. It removes nothing.
fn plan(evidence: &Evidence, ask: &Gc, counter: &mut Counter) -> anyhow::Result<Vec<GcItem>> {
    let mut items = Vec::new();
    let mut note = |what: &str, path: &Path, kept: Option<String>| {
        let (bytes, files) = counter.count(path, &|_| false);
        if files > 0 || path.is_dir() {
            items.push(GcItem {
                what: what.to_owned(),
                path: path.display().to_string(),
                bytes,
                kept,
            });
        }
    };
    let running = || evidence.is_running.then(|| "a mesh runs: `brahman down` first".to_owned());
    let entries = match fs::read_dir(&evidence.state) {
        Ok(entries) => entries,
        Err(error) => {
            return Err(error)
                .with_context(|| BadInput(format!("cannot list {}", evidence.state.display())));
        }
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(STAGING) {
            let age = entry
                .metadata()
                .and_then(|meta| meta.modified())
                .ok()
                .and_then(|at| evidence.now.duration_since(at).ok());
            let is_old = age.is_some_and(|age| age > STAGING_AGE);
            let kept = match entry.file_type() {
                _ if !is_old => Some("it may still be written".to_owned()),
                Ok(kind) if kind.is_dir() => is_written(&entry.path()),
                _ => None,
            };
            note("a backup that was cut off", &entry.path(), kept);
        }
    }
    let logs = evidence.state.join(LOGS);
    for label in labels(&logs)?.into_iter().filter(|label| label != INIT_LABEL) {
        let kept = match &evidence.modules {
            // Without the mesh nobody says which modules there are.
            None => continue,
            Some(modules) if modules.contains(&label) => continue,
            Some(_) => None,
        };
        for entry in fs::read_dir(&logs)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let rest = name.strip_prefix(&format!("{label}.log"));
            let is_its = rest.is_some_and(|rest| {
                rest.is_empty() || rest.strip_prefix('.').is_some_and(|n| n.parse::<u32>().is_ok())
            });
            if is_its {
                note("the log of a module that has no Card", &entry.path(), kept.clone());
            }
        }
    }
    note("objects of buckets that were away", &evidence.state.join("buckets/.borrowed"), running());
    let unless = |asked: bool, option: &str| {
        if asked { running() } else { Some(format!("{option} frees it")) }
    };
    note("what mocks have made", &evidence.state.join("mock"), unless(ask.mocks, "--mocks"));
    let in_use = || evidence.cache_user.as_deref().map(is_in_use).or_else(running);
    let kept = if ask.cache { in_use() } else { Some("--cache frees it".to_owned()) };
    for name in vector_caches(&evidence.cache) {
        note("a cache of vectors", &evidence.cache.join(name), kept.clone());
    }
    note("stored inputs", &evidence.cache.join("inputs"), kept);
    Ok(items)
}

/// Frees what may go.
pub(crate) async fn gc(socket: &Path, ask: &Gc, output: &Output) -> anyhow::Result<()> {
    let (state, holder) = state_of(socket, ask.state.as_ref())?;
    let modules = match &holder {
        Some(holder) => {
            match get::<method::List>(&place::init_socket(&holder.socket), &Empty {}).await {
                Ok(list) => Some(
                    list.modules.into_iter().map(|module| module.card.label.to_string()).collect(),
                ),
                Err(ClientError::Connect { .. } | ClientError::Deadline(_)) => None,
                Err(error) => return Err(error.into()),
            }
        }
        None => None,
    };
    // Until all is removed: a mesh that starts meanwhile would lose what it has just made. A mere
    // look keeps nobody out.
    let lock = if holder.is_none() && !ask.dry_run && state.is_dir() {
        taken(&state, socket)?
    } else {
        None
    };
    let is_running = holder.is_some() || (lock.is_none() && !ask.dry_run);
    let cache = place::cache_dir();
    let evidence = Evidence {
        is_running,
        cache_user: cache_user(),
        state,
        cache,
        modules,
        now: SystemTime::now(),
    };
    let items = plan(&evidence, ask, &mut Counter::default())?;
    let (mut freed, mut kept): (Vec<GcItem>, Vec<GcItem>) =
        items.into_iter().partition(|item| item.kept.is_none());
    if !ask.dry_run {
        for item in std::mem::take(&mut freed) {
            // Counting has taken a while, and a mesh on another state waits for no lock of this
            // one's.
            if let Some(socket) =
                Path::new(&item.path).starts_with(&evidence.cache).then(cache_user).flatten()
            {
                kept.push(GcItem { kept: Some(is_in_use(&socket)), ..item });
                continue;
            }
            match remove(Path::new(&item.path)) {
                Ok(()) => freed.push(item),
                Err(error) => kept.push(GcItem { kept: Some(error.to_string()), ..item }),
            }
        }
    }
    drop(lock);
    let out = GcOut {
        dry_run: ask.dry_run,
        freed_bytes: freed.iter().map(|item| item.bytes).sum(),
        freed,
        kept,
    };
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    for item in &out.freed {
        output.line(&format!("{:>10}  {}  {}", bytes(item.bytes), item.what, item.path));
    }
    output.line(&format!(
        "{} {}",
        bytes(out.freed_bytes),
        if out.dry_run { "would be freed" } else { "freed" }
    ));
    for item in &out.kept {
        let why = item.kept.as_deref().unwrap_or_default();
        output.line(&output.paint(
            &format!("{:>10}  stays: {} ({why})  {}", bytes(item.bytes), item.what, item.path),
            Tone::Faint,
        ));
    }
    Ok(())
}

/// The lock on a state that nobody seemed to have; none if somebody has it by now.
fn taken(state: &Path, socket: &Path) -> anyhow::Result<Option<StateLock>> {
    match StateLock::take_at_rest(state, &std::path::absolute(socket)?) {
        Ok(lock) => Ok(Some(lock)),
        Err(StateError::Taken { .. } | StateError::TakenBySomebody { .. }) => Ok(None),
        Err(error) if error.is_configuration() => Err(BadInput(error.to_string()).into()),
        Err(error) => Err(error.into()),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests;
