//! `brahman restore`: a state out of a backup, all of it or nothing.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brahman_sidecar::place;
use brahman_sidecar::place::state::check_place;
use clap::Args;

use super::super::is_standard;
use super::{BackupFormat, BackupHead, FORMAT, HEAD, OWN_BYTES_MAX, SUMS, Sums};
use crate::failure::BadInput;
use crate::output::{Output, Tone, counted, shell_word};
use crate::tar::TarReader;

#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// Backup to read; - reads standard input
    pub(super) file: PathBuf,
    /// State directory to make, which must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub(super) state: PathBuf,
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
        output.line(&output.paint(&format!("  not in it: {left_out}"), Tone::Busy));
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
