//! `brahman backup` and `brahman restore`: the state of a mesh in one file, and a state out of that
//! file.
//!
//! ```text
//! brahman-backup.json       the format, when and of what; first
//! catalog/…                 as the catalog wrote them at one moment
//! indexes/…                 as each index answered
//! buckets/primary/…         markers, single objects, and the objects of the datasets' present generations
//! ingest/…, …               what else is in the state, as it lies
//! brahman-backup-sums.json  {path: SHA-256} of all of them; last
//! ```
//!
//! Invariants: what a dataset's file in a backup names is in it, or named as left out; a backup
//! that is cut off or damaged is refused as a whole; nothing is put where anything is; a state
//! comes to its place in one step, once all of it is there and compared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brahman_card::ModuleState;
use brahman_card::clock::now_ms;
use brahman_card::interface::broker::{self, FlowIn};
use brahman_card::interface::catalog::{self, Dataset, IndexMark, UnpinIn};
use brahman_card::interface::storage::PRIMARY;
use brahman_card::interface::{Empty, WireError as _, index, init};
use brahman_sidecar::place::meshes;
use brahman_sidecar::place::state::check_place;
use brahman_sidecar::{ClientError, Connection, chain, place};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{get, is_standard};
use crate::failure::BadInput;
use crate::output::{Output, Tone, bytes, counted, shell_word};
use crate::tar::{TarReader, TarWriter};

/// The first file of a backup.
const HEAD: &str = "brahman-backup.json";
/// The last one.
const SUMS: &str = "brahman-backup-sums.json";
/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// How folders begin in which a backup is put together, in the state.
pub(crate) const STAGING: &str = ".backup-";
/// What of a state is in no backup: it is made again, is about this mesh alone, or is in it by
/// another way.
const LEFT_ASIDE: [&str; 9] =
    ["catalog", "indexes", "buckets", "datasets", "logs", "mock", ".lock", "up.log", "up.log.1"];
/// How often a file is copied that is written meanwhile.
const TRIES: u32 = 5;
/// Largest head and sums: a million files' names.
const OWN_BYTES_MAX: u64 = 512 << 20;
/// A SHA-256 in hex.
const HEX_BYTES: u64 = 64;

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// File to write, which must not exist; - writes to standard output
    file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// Backup to read; - reads standard input
    file: PathBuf,
    /// State directory to make, which must not exist or be empty
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
}

/// What a backup says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct BackupHead {
    brahman_backup: u32,
    /// Of the program that wrote it.
    version: String,
    created_ms: u64,
    datasets: Vec<BackupDataset>,
    indexes: Vec<String>,
    /// What is not in it, and why.
    left_out: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct BackupDataset {
    name: String,
    generation: u64,
    rows: u64,
}

/// What says of any format which one it is.
#[derive(Deserialize)]
struct BackupFormat {
    brahman_backup: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Sums {
    files: BTreeMap<String, String>,
}

/// A folder that is removed with this. It is locked as long, so that `brahman gc` lets it be
/// however old it becomes.
struct StagingFolder {
    path: PathBuf,
    _lock: File,
}

impl StagingFolder {
    fn make(path: PathBuf) -> anyhow::Result<Self> {
        place::private_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let lock = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        // On a disk that locks nothing `brahman gc` cannot lock it either, and lets it be.
        let _ = lock.try_lock();
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for StagingFolder {
    fn drop(&mut self) {
        // `brahman gc` removes what is left.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Writes a backup of the mesh that runs.
pub(crate) async fn backup(socket: &Path, ask: Backup, output: &Output) -> anyhow::Result<()> {
    let to_standard = is_standard(&ask.file);
    if !to_standard && ask.file.symlink_metadata().is_ok() {
        return Err(BadInput(format!(
            "{} exists already: give the backup another name",
            ask.file.display()
        ))
        .into());
    }
    let folder = folder_of(&ask.file);
    if !to_standard && !folder.is_dir() {
        return Err(BadInput(format!(
            "cannot write {}: there is no folder {}",
            ask.file.display(),
            folder.display()
        ))
        .into());
    }
    let state = state_of(socket).await?;
    let staging =
        StagingFolder::make(state.join(format!("{STAGING}{}-{}", std::process::id(), now_ms())))?;
    for folder in ["catalog", "indexes"] {
        let path = staging.path.join(folder);
        place::private_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    // First the indexes: the datasets are as old as they are or newer, and the catalog says which
    // of them are behind.
    let (marks, mut left_out) = snapshot_indexes(socket, &state, &staging.path).await?;
    if marks.is_none() && !folders_in(&staging.path.join("indexes"))?.is_empty() {
        output.note("no module that serves real indexes is ready: indexes are copied as they lie");
    }
    let ask_catalog = catalog::SnapshotIn {
        folder: text(&staging.path.join("catalog"))?,
        indexes: marks,
        life_s: None,
    };
    let taken = get::<catalog::method::Snapshot>(socket, &ask_catalog).await?;
    left_out.extend(taken.notes.into_iter().flatten());
    let written = write_backup(&ask.file, &state, &staging.path, &taken.datasets, left_out, output);
    // Whatever became of it: the pins have done their work.
    for dataset in &taken.datasets {
        let unpin = UnpinIn {
            name: dataset.name.clone(),
            generation: None,
            pin: Some(taken.pin.clone()),
            mock: Some(false),
        };
        if let Err(error) = get::<catalog::method::Unpin>(socket, &unpin).await {
            output.note(&format!(
                "the pin of dataset {} stays for a day: {}",
                dataset.name,
                chain(&error)
            ));
        }
    }
    let (head, size) = match written.map_err(|error| error.downcast::<LostOutput>()) {
        Ok(written) => written,
        Err(Ok(LostOutput(lost))) => {
            output.lose(lost);
            return Ok(());
        }
        Err(Err(error)) => return Err(error),
    };
    // Where the backup is on standard output, what is said of it would be in it.
    if to_standard {
        head.left_out.iter().for_each(|left_out| output.note(&format!("not in it: {left_out}")));
        return Ok(());
    }
    if output.json() {
        let mut all = serde_json::to_value(&head)?;
        all["file"] = ask.file.display().to_string().into();
        all["bytes"] = size.into();
        output.print_json(&all);
        return Ok(());
    }
    let (datasets, indexes) = (head.datasets.len(), head.indexes.len());
    let (datasets, indexes) = (
        counted(datasets as u64, "dataset", "datasets"),
        counted(indexes as u64, "index", "indexes"),
    );
    output.line(&format!("{}: {}, {datasets} and {indexes}", ask.file.display(), bytes(size)));
    head.left_out.iter().for_each(|left_out| {
        output.line(&output.paint(&format!("  not in it: {left_out}"), Tone::Busy))
    });
    Ok(())
}

/// The folder that a file is in.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// That standard output took no more.
#[derive(Debug)]
struct LostOutput(io::Error);

impl std::fmt::Display for LostOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot write to standard output")
    }
}

impl std::error::Error for LostOutput {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Standard output, which keeps why it took no more: that is no failure of what was to be written.
#[derive(Debug, Default)]
struct StandardOutput {
    lost: Option<io::Error>,
}

impl StandardOutput {
    fn noted<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.map_err(|error| {
            let kind = error.kind();
            self.lost.get_or_insert(error);
            kind.into()
        })
    }
}

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let outcome = io::stdout().lock().write_all(bytes);
        self.noted(outcome).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let outcome = io::stdout().lock().flush();
        self.noted(outcome)
    }
}

/// The state of the mesh at a socket.
async fn state_of(socket: &Path) -> anyhow::Result<PathBuf> {
    // Whether there is one at all is a clearer answer than that nobody holds its state.
    get::<init::method::List>(&place::init_socket(socket), &Empty {}).await?;
    let socket = std::path::absolute(socket)?;
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let found = meshes::live()
        .into_iter()
        .find(|mesh| mesh.holder.socket == socket || real(&mesh.holder.socket) == real(&socket));
    let none = || {
        BadInput(format!(
            "the state of the mesh at {} cannot be told: run this as its own user",
            socket.display()
        ))
    };
    Ok(found.ok_or_else(none)?.state)
}

fn text(path: &Path) -> anyhow::Result<String> {
    let text = path
        .to_str()
        .ok_or_else(|| BadInput(format!("{}: expected a path of UTF-8", path.display())))?;
    Ok(text.to_owned())
}

/// Has the module that serves real indexes put them into the staging folder. Where none is ready,
/// they are copied as they lie, and nobody says of what generation they are.
async fn snapshot_indexes(
    socket: &Path,
    state: &Path,
    staging: &Path,
) -> anyhow::Result<(Option<Vec<IndexMark>>, Vec<String>)> {
    let flow = FlowIn { flow: index::INTERFACE.name.to_owned(), context: None, require: None };
    let candidates = match get::<broker::method::Explain>(socket, &flow).await {
        Ok(told) => told.candidates,
        Err(ClientError::Fault(fault)) if fault.name == broker::error::NoProvider::NAME => {
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    };
    let target = staging.join("indexes");
    let is_asked = |matched: &broker::Match| !matched.mock && matched.state == ModuleState::Ready;
    let Some(provider) = candidates.into_iter().map(|candidate| candidate.matched).find(is_asked)
    else {
        let (lying, mut links) = (state.join("indexes"), Vec::new());
        if lying.is_dir() {
            copy_folder(&lying, &target, &mut links)?;
        }
        return Ok((None, links.iter().map(|link| not_followed(link)).collect()));
    };
    let ask = index::SnapshotIn { folder: text(&target)? };
    let asking = async {
        Connection::connect(Path::new(&provider.socket))
            .await?
            .call_method::<index::method::Snapshot>(&ask)
            .await
    };
    let out = asking
        .await
        .with_context(|| format!("the indexes of module {} cannot be copied", provider.label))?;
    Ok((
        Some(out.indexes),
        out.left_out.unwrap_or_default().into_iter().map(|left| format!("index {left}")).collect(),
    ))
}

/// What is left out for being a link.
fn not_followed(link: &Path) -> String {
    format!("{}: a symbolic link, which is not followed", link.display())
}

fn copy_folder(from: &Path, to: &Path, links: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for (path, file) in files_below(from, links)? {
        let target = to.join(&path);
        let copied = target
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::copy(&file, &target));
        copied.with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

/// Regular files below a folder, by their paths in it, in order. What is hidden below the folder
/// itself is among them. Links are not followed, and added to those that are to be told; sockets
/// and devices hold nothing.
fn files_below(
    folder: &Path,
    links: &mut Vec<PathBuf>,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let (mut all, mut folders) = (BTreeMap::new(), vec![(String::new(), folder.to_owned())]);
    while let Some((prefix, folder)) = folders.pop() {
        for entry in
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?
        {
            let entry = entry?;
            let name = entry
                .file_name()
                .into_string()
                .map_err(|name| BadInput(format!("{}: not UTF-8", name.display())))?;
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push((path, entry.path()));
            } else if kind.is_file() {
                all.insert(path, entry.path());
            } else if kind.is_symlink() {
                links.push(entry.path());
            }
        }
    }
    Ok(all)
}

/// All that goes into a backup, by its path there.
fn contents(
    state: &Path,
    staging: &Path,
    datasets: &[Dataset],
    left_out: &mut Vec<String>,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut links = Vec::new();
    let mut all = files_below(staging, &mut links)?;
    let primary = state.join("buckets").join(PRIMARY);
    for dataset in datasets {
        let elsewhere = dataset
            .objects
            .iter()
            .filter(|object| object.bucket != PRIMARY)
            .map(|object| object.bucket.as_str());
        let buckets: std::collections::BTreeSet<&str> = elsewhere.collect();
        if !buckets.is_empty() {
            let buckets = buckets.into_iter().collect::<Vec<_>>().join(", ");
            left_out.push(format!(
                "objects of dataset {} in bucket {buckets}, which is not in the state",
                dataset.name
            ));
        }
        for object in dataset.objects.iter().filter(|object| object.bucket == PRIMARY) {
            let path = object.local();
            if path.is_file() {
                all.insert(format!("buckets/{PRIMARY}/{}", object.key), path);
            } else {
                left_out.push(format!(
                    "object {} of dataset {}, which is missing",
                    object.key, dataset.name
                ));
            }
        }
    }
    if primary.is_dir() {
        // Whatever else lies there: markers, and objects that somebody has put. Of datasets only
        // what is named above.
        let is_named = |file: &Path| {
            ["datasets", "indexes"].iter().any(|own| file.starts_with(primary.join(own)))
        };
        for (path, file) in files_below(&primary, &mut links)? {
            if !is_named(&file) {
                all.entry(format!("buckets/{PRIMARY}/{path}")).or_insert(file);
            }
        }
        links.retain(|link| !is_named(link));
    }
    for entry in fs::read_dir(state)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if LEFT_ASIDE.contains(&name.as_str()) || name.starts_with(STAGING) {
            continue;
        }
        // A link here is a part of the state that lies elsewhere.
        let files = match fs::metadata(entry.path()) {
            Ok(meta) if meta.is_dir() => files_below(&entry.path(), &mut links)?,
            Ok(meta) if meta.is_file() => BTreeMap::from([(String::new(), entry.path())]),
            Ok(_) => continue,
            Err(error) => {
                left_out.push(format!("{name}: {error}"));
                continue;
            }
        };
        for (path, file) in files {
            let path = if path.is_empty() { name.clone() } else { format!("{name}/{path}") };
            match settled_copy(&file, &staging.join("as-they-lie").join(&path)) {
                Ok(copy) => drop(all.insert(path, copy)),
                Err(error) => left_out.push(format!("{path}: {error}")),
            }
        }
    }
    left_out.extend(links.iter().map(|link| not_followed(link)));
    Ok(all)
}

/// Copies a file that others may write to, again and again until it did not change meanwhile.
fn settled_copy(file: &Path, to: &Path) -> io::Result<PathBuf> {
    let looks = || fs::metadata(file).and_then(|meta| Ok((meta.len(), meta.modified()?)));
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    for _ in 0..TRIES {
        let before = looks()?;
        let copied = fs::copy(file, to)?;
        if looks()? == before && copied == before.0 {
            return Ok(to.to_owned());
        }
    }
    Err(io::Error::other("it was written to all the time"))
}

/// Names of the folders in a folder, in order.
fn folders_in(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn write_backup(
    file: &Path,
    state: &Path,
    staging: &Path,
    datasets: &[Dataset],
    mut left_out: Vec<String>,
    output: &Output,
) -> anyhow::Result<(BackupHead, u64)> {
    let contents = contents(state, staging, datasets, &mut left_out)?;
    let created_ms = now_ms();
    let head = BackupHead {
        brahman_backup: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created_ms,
        datasets: datasets
            .iter()
            .map(|d| BackupDataset { name: d.name.clone(), generation: d.generation, rows: d.rows })
            .collect(),
        indexes: folders_in(&staging.join("indexes"))?,
        left_out,
    };
    if is_standard(file) {
        let mut standard = StandardOutput::default();
        let written = write_archive(&mut standard, &head, &contents, output);
        return match standard.lost {
            Some(lost) => Err(LostOutput(lost).into()),
            None => written.map(|()| (head, 0)),
        };
    }
    let folder = folder_of(file);
    let unfinished = tempfile::Builder::new()
        .prefix(".brahman-backup-")
        .tempfile_in(folder)
        // Without the name of a file that nobody knows of.
        .map_err(|error| io::Error::from(error.kind()))
        .with_context(|| BadInput(format!("cannot write beside {}", file.display())))?;
    write_archive(
        io::BufWriter::with_capacity(1 << 20, unfinished.as_file()),
        &head,
        &contents,
        output,
    )?;
    unfinished.as_file().sync_all()?;
    let size = unfinished.as_file().metadata()?.len();
    unfinished
        .persist_noclobber(file)
        .with_context(|| BadInput(format!("cannot write {}", file.display())))?;
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| {
        format!("{} is written, but its folder could not be synced to the disk", file.display())
    })?;
    Ok((head, size))
}

/// Refuses a file of the backup's own that no restore would read.
fn check_own(file: &str, bytes: u64) -> Result<(), BadInput> {
    if bytes <= OWN_BYTES_MAX {
        return Ok(());
    }
    let words = format!(
        "{file} would take {bytes} bytes, expected at most {OWN_BYTES_MAX}: the state has too many files for one backup"
    );
    Err(BadInput(format!(
        "{words}; move objects that somebody has put into `{PRIMARY}` to a bucket outside of the state"
    )))
}

/// How long the sums of files are at most, as JSON.
fn sums_bytes<'a>(paths: impl Iterator<Item = &'a str>) -> u64 {
    let sum = |path: &str| {
        serde_json::to_string(path).map_or(0, |text| text.len() as u64)
            + HEX_BYTES
            + r#":"","#.len() as u64
    };
    paths.map(sum).sum::<u64>() + r#"{"files":{}}"#.len() as u64
}

fn write_archive(
    out: impl Write,
    head: &BackupHead,
    contents: &BTreeMap<String, PathBuf>,
    output: &Output,
) -> anyhow::Result<()> {
    let mut archive = TarWriter::new(out, head.created_ms / 1000);
    let mut sums = Sums::default();
    let own = serde_json::to_vec_pretty(head)?;
    check_own(HEAD, own.len() as u64)?;
    // Before hours of copying, not behind them.
    check_own(SUMS, sums_bytes(contents.keys().map(String::as_str).chain([HEAD])))?;
    sums.files
        .insert(HEAD.to_owned(), archive.append(HEAD, own.len() as u64, &mut own.as_slice())?);
    let bar = output.count_bar("files", contents.len() as u64);
    for (path, source) in contents {
        let mut file =
            File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
        let size = file.metadata()?.len();
        let sum = archive
            .append(path, size, &mut file)
            .with_context(|| format!("cannot copy {}", source.display()))?;
        sums.files.insert(path.clone(), sum);
        bar.inc(1);
    }
    let text = serde_json::to_vec(&sums)?;
    archive.append(SUMS, text.len() as u64, &mut text.as_slice())?;
    archive.finish()?;
    bar.finish_and_clear();
    Ok(())
}

/// Makes a state out of a backup.
pub(crate) fn restore(ask: &Restore, output: &Output) -> anyhow::Result<()> {
    let state = std::path::absolute(&ask.state)?;
    let refused = |why: &str| BadInput(format!("{} {why}; nothing was changed", state.display()));
    match fs::read_dir(&state).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            return Err(refused(
                "is not empty: choose another --state, or move what is there away",
            )
            .into());
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context(refused("cannot be used"));
        }
        _ => {}
    }
    check_place(&state).map_err(|error| BadInput(error.to_string()))?;
    let above = state.parent().ok_or_else(|| refused("cannot be made"))?;
    let missing = above.ancestors().take_while(|folder| !folder.exists()).count();
    fs::create_dir_all(above).with_context(|| refused("cannot be made"))?;
    // Each that was made is in the one above it; `above` itself comes last, with the state in it.
    for folder in above.ancestors().skip(1).take(missing) {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("cannot sync {} to the disk", folder.display()))?;
    }
    let unfinished = tempfile::Builder::new()
        .prefix(".brahman-restore-")
        .tempdir_in(above)
        .with_context(|| refused("cannot be made"))?;
    let head = if is_standard(&ask.file) {
        unpack(io::stdin().lock(), unfinished.path(), output)?
    } else {
        let file = File::open(&ask.file).with_context(|| {
            BadInput(format!("cannot read {}; nothing was changed", ask.file.display()))
        })?;
        unpack(io::BufReader::with_capacity(1 << 20, file), unfinished.path(), output)?
    };
    // Over an empty folder, or over nothing.
    fs::rename(unfinished.path(), &state).with_context(|| refused("cannot be made"))?;
    File::open(above)?.sync_all()?;
    if output.json() {
        let mut all = serde_json::to_value(&head)?;
        all["state"] = state.display().to_string().into();
        output.print_json(&all);
        return Ok(());
    }
    let (datasets, indexes) = (head.datasets.len(), head.indexes.len());
    let (datasets, indexes) = (
        counted(datasets as u64, "dataset", "datasets"),
        counted(indexes as u64, "index", "indexes"),
    );
    let (place, word) = (state.display(), shell_word(&state));
    output.line(&format!(
        "{place}: {datasets} and {indexes}; `brahman up --context prod --state {word}` serves them"
    ));
    head.left_out.iter().for_each(|left_out| {
        output.line(&output.paint(&format!("  not in it: {left_out}"), Tone::Busy))
    });
    Ok(())
}

/// Takes everything out of a backup, and compares it.
fn unpack(input: impl Read, to: &Path, output: &Output) -> anyhow::Result<BackupHead> {
    let damaged = |error: io::Error| {
        anyhow::Error::from(error)
            .context(BadInput("the backup is damaged; nothing was changed".into()))
    };
    let no_backup = || {
        BadInput(format!(
            "this is no backup of brahman's, since it does not begin with {HEAD}; nothing was changed"
        ))
    };
    let mut archive = TarReader::new(input);
    let bar = output.spinner("restoring");
    let first = archive
        .next_entry()
        .map_err(|error| anyhow::Error::from(error).context(no_backup()))?
        .ok_or_else(no_backup)?;
    if first.path != HEAD || first.size > OWN_BYTES_MAX {
        return Err(no_backup().into());
    }
    let (mut text, mut found) = (Vec::new(), Sums::default());
    found.files.insert(first.path, archive.take(first.size, &mut text).map_err(damaged)?);
    let BackupFormat { brahman_backup } = serde_json::from_slice(&text).with_context(no_backup)?;
    if brahman_backup > FORMAT {
        let words = format!(
            "the backup is of format {brahman_backup}, expected at most {FORMAT}: a newer brahman has written it"
        );
        return Err(BadInput(format!("{words}; nothing was changed")).into());
    }
    let head: BackupHead = serde_json::from_slice(&text).with_context(no_backup)?;
    let mut sums: Option<Sums> = None;
    while let Some(entry) = archive.next_entry().map_err(damaged)? {
        if entry.path == SUMS {
            if entry.size > OWN_BYTES_MAX {
                return Err(damaged(io::ErrorKind::InvalidData.into()));
            }
            let mut text = Vec::new();
            archive.take(entry.size, &mut text).map_err(damaged)?;
            sums = Some(serde_json::from_slice(&text).map_err(|error| damaged(error.into()))?);
            continue;
        }
        let path = to.join(&entry.path);
        let write = |archive: &mut TarReader<_>| -> io::Result<String> {
            if let Some(folder) = path.parent() {
                place::private_dir(folder)?;
            }
            let mut options = fs::OpenOptions::new();
            std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
            let mut file = options.open(&path)?;
            let sum = archive.take(entry.size, &mut file)?;
            file.sync_all()?;
            Ok(sum)
        };
        let sum = write(&mut archive).map_err(|error| match error.kind() {
            // Of the archive; what the disk refuses is of another kind.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => damaged(error),
            _ => anyhow::Error::from(error).context(format!(
                "cannot take {} out of the backup; nothing was changed",
                entry.path
            )),
        })?;
        found.files.insert(entry.path, sum);
    }
    let wanted = sums.ok_or_else(|| {
        damaged(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ends before {SUMS}")))
    })?;
    let differing = wanted
        .files
        .iter()
        .find(|(path, sum)| found.files.get(*path) != Some(*sum))
        .map(|(path, _)| path);
    let unknown = found.files.keys().find(|path| !wanted.files.contains_key(*path));
    if let Some(path) = differing.or(unknown) {
        return Err(damaged(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{path} is not what was written"),
        )));
    }
    sync_folders(to).with_context(|| format!("cannot sync {} to the disk", to.display()))?;
    bar.finish_and_clear();
    Ok(head)
}

/// Syncs a folder and those below it, the deepest first. What is in them is synced already.
fn sync_folders(folder: &Path) -> io::Result<()> {
    let (mut folders, mut listed) = (vec![folder.to_owned()], 0);
    while listed < folders.len() {
        for entry in fs::read_dir(&folders[listed])? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
        listed += 1;
    }
    folders.iter().rev().try_for_each(|folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests;
