//! What goes into a backup: the files of a state, each as it lies or as its owner gave it at one
//! moment.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brahman_card::ModuleState;
use brahman_card::interface::broker::{self, FlowIn};
use brahman_card::interface::catalog::{Dataset, IndexMark};
use brahman_card::interface::storage::PRIMARY;
use brahman_card::interface::{Empty, WireError as _, index, init};
use brahman_sidecar::place::meshes;
use brahman_sidecar::{ClientError, Connection, place};

use super::super::get;
use super::STAGING;
use crate::failure::BadInput;

/// What of a state is in no backup: it is made again, is about this mesh alone, or is in it by
/// another way.
const LEFT_ASIDE: [&str; 9] =
    ["catalog", "indexes", "buckets", "datasets", "logs", "mock", ".lock", "up.log", "up.log.1"];
/// How often a file is copied that is written meanwhile.
const TRIES: u32 = 5;

/// The state of the mesh at a socket.
pub(super) async fn state_of(socket: &Path) -> anyhow::Result<PathBuf> {
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

/// Has the module that serves real indexes put them into the staging folder. Where none is ready,
/// they are copied as they lie, and nobody says of what generation they are.
pub(super) async fn snapshot_indexes(
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
pub(super) fn files_below(
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
pub(super) fn contents(
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
pub(super) fn folders_in(folder: &Path) -> anyhow::Result<Vec<String>> {
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

pub(super) fn text(path: &Path) -> anyhow::Result<String> {
    let text = path
        .to_str()
        .ok_or_else(|| BadInput(format!("{}: expected a path of UTF-8", path.display())))?;
    Ok(text.to_owned())
}
