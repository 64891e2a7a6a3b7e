//! `brahman backup` and `brahman restore`: the state of a mesh in one file, and a state out of that
//! file.
//!
//! ```text
//! brahman-backup.json       the format, when and of what; first
//! catalog/…                 as the catalog wrote them at one moment
//! indexes/…                 as each index answered
//! buckets/primary/…         markers, single objects, and those of the present generations
//! ingest/…, …               what else is in the state, as it lies
//! brahman-backup-sums.json  {path: SHA-256} of all of them; last
//! ```
//!
//! Invariants: what a dataset's file in a backup names is in it, or named as left out; a backup
//! that is cut off or damaged is refused as a whole; nothing is put where anything is; a state
//! comes to its place in one step, once all of it is there and compared.
//!
//! [`mod@contents`] chooses what goes into it, [`mod@restore`] makes a state of it.

mod contents;
mod restore;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brahman_card::clock::now_ms;
use brahman_card::interface::catalog::{self, Dataset, UnpinIn};
use brahman_card::interface::storage::PRIMARY;
use brahman_sidecar::{chain, place};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{get, is_standard};
use crate::failure::BadInput;
use crate::output::{Output, Tone, bytes, counted};
use crate::tar::TarWriter;
use contents::{contents, folders_in, snapshot_indexes, state_of, text};
pub(crate) use restore::{Restore, restore};

/// The first file of a backup.
const HEAD: &str = "brahman-backup.json";
/// The last one.
const SUMS: &str = "brahman-backup-sums.json";
/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// How folders begin in which a backup is put together, in the state.
pub(crate) const STAGING: &str = ".backup-";
/// Largest head and sums: a million files' names.
const OWN_BYTES_MAX: u64 = 512 << 20;
/// A SHA-256 in hex.
const HEX_BYTES: u64 = 64;

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// File to write, which must not exist; - writes to standard output
    file: PathBuf,
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
        output.line(&output.paint(&format!("  not in it: {left_out}"), Tone::Busy));
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

#[cfg(test)]
mod tests;
