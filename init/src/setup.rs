//! What is settled before anything is started: the group, the Cards, and what a former init left;
//! and why it is refused.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use brahman_card::{Card, Fault};
use brahman_sidecar::chain;
use brahman_sidecar::place::cards::{CardSource, Reading, collisions, instances, looked_at, read};
use brahman_sidecar::place::state::StateError;
use brahman_sidecar::place::{self, GroupError};
use nix::unistd::{getegid, geteuid, getgroups};
use thiserror::Error;

use crate::cgroup::NotACgroup;
use crate::processes;
use crate::service::bad_card;
use crate::sockets::{Lock, SocketError};
use crate::state::{GRACE_MS, Id};

/// What init was told to do and cannot, until a person changes it.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(crate) String);

/// Whether only a person can mend what stopped [`run`](crate::supervisor::run): no restart will.
#[must_use]
pub fn is_configuration(error: &anyhow::Error) -> bool {
    error.is::<Refusal>()
        || error.is::<GroupError>()
        || error.is::<NotACgroup>()
        || error.downcast_ref::<SocketError>().is_some_and(SocketError::is_configuration)
        || error.downcast_ref::<StateError>().is_some_and(StateError::is_configuration)
}

/// Ends what a killed init left behind. An error if nothing was there to end.
///
/// # Errors
/// If an init runs, or nothing was left.
pub async fn sweep(mesh: &Path) -> anyhow::Result<()> {
    // Nothing is made where there is nothing.
    anyhow::ensure!(
        mesh.with_file_name("init.lock").exists(),
        "there has never been a mesh at {}",
        mesh.display()
    );
    let mut lock = Lock::take(mesh)?;
    let left = processes::left_behind(&std::mem::take(&mut lock.former), mesh, None);
    let ended = processes::end(left, Duration::from_millis(GRACE_MS)).await;
    lock.record(&[]);
    anyhow::ensure!(ended > 0, "no process of a mesh is left at {}", mesh.display());
    Ok(())
}

/// The group that `$BRAHMAN_GROUP` lets in, once the run folder and this process allow it.
pub(crate) fn mesh_group(mesh: &Path, lock: &Lock) -> anyhow::Result<Option<u32>> {
    let Some(gid) = place::mesh_group()? else { return Ok(None) };
    let member = geteuid().is_root()
        || getegid().as_raw() == gid
        || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid));
    if !member {
        let uid = geteuid().as_raw();
        let why = format!(
            "BRAHMAN_GROUP: uid {uid} is not in group {gid} and so cannot give it the sockets; add the user to it, and log in again"
        );
        return Err(Refusal(why).into());
    }
    if let Some(folder) = mesh.parent() {
        if lock.fresh && !lock.made_folder && !place::enters(folder, gid) {
            let folder = folder.display();
            let why = format!(
                "BRAHMAN_GROUP: group {gid} cannot enter {folder}, which init did not create; `chmod` it, or choose another --socket"
            );
            return Err(Refusal(why).into());
        }
        place::open_to_group(folder, gid)
            .with_context(|| format!("cannot open {} to group {gid}", folder.display()))?;
    }
    Ok(Some(gid))
}

/// The Cards that a mesh is made of, one for each module.
#[derive(Debug, Default)]
pub(crate) struct LoadedCards {
    pub(crate) cards: Vec<Card>,
    /// The file that each was read from.
    pub(crate) origins: HashMap<Id, String>,
}

/// The Cards of these sources, if none of them is refused.
pub(crate) fn load(sources: &[CardSource], mesh: &Path) -> Result<LoadedCards, Fault> {
    let mut reading = read(sources).map_err(|(folder, e)| {
        bad_card(&format!("cannot read the Cards in {}: {}", folder.display(), chain(&e)))
    })?;
    let mut errors = std::mem::take(&mut reading.errors);
    errors.extend(collisions(&reading.cards, mesh));
    if let Some(first) = errors.first() {
        for error in &errors {
            tracing::error!("{}", chain(error));
        }
        let more = if errors.len() > 1 {
            format!(" (and {} more)", errors.len() - 1)
        } else {
            String::new()
        };
        return Err(bad_card(&format!("{first}{more}; nothing was changed")));
    }
    if reading.cards.is_empty() {
        let looked = looked_at(sources);
        return Err(bad_card(&format!(
            "no Cards: expected *.toml or *.json files, see --cards; looked at {looked}"
        )));
    }
    tell_layers(&reading);
    let modules = instances(&reading.cards);
    let origins =
        modules.iter().map(|found| (found.card.id.clone(), found.origin.clone())).collect();
    Ok(LoadedCards { cards: modules.into_iter().map(|found| found.card).collect(), origins })
}

/// Says how many Cards each layer gave, and which were left aside.
fn tell_layers(reading: &Reading) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for found in &reading.cards {
        *counts.entry(found.layer()).or_default() += 1;
    }
    let counts: Vec<String> =
        counts.into_iter().map(|(layer, count)| format!("{count} {layer}")).collect();
    tracing::info!("Cards: {}", counts.join(", "));
    for replaced in &reading.replaced {
        tracing::info!("{} is not used: {} takes its place", replaced.found.origin, replaced.by);
    }
    for absent in &reading.absent {
        tracing::info!("{} is not used: its program is not on this machine", absent.origin);
    }
}

/// A socket's path as text for the wire: where the folder's is not UTF-8, the file's name, to be
/// joined to the mesh socket's.
pub(crate) fn wire_path(path: &Path) -> String {
    let name = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    path.to_str().map_or_else(name, str::to_owned)
}
