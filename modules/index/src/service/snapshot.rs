//! `Snapshot`: every index as it answers, in a folder for a backup.
//!
//! Invariants: nobody is kept waiting, neither a search nor a refresh; a generation is held while
//! it is copied, so that nothing of it is swept; an index that cannot be copied whole is left out,
//! and named.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::catalog::IndexMark;
use brahman_card::interface::index::{SnapshotIn, SnapshotOut};
use brahman_sidecar::{Call, Reply, blocking, chain};

use super::shelf::{Index, lock};
use super::{IndexService, PARAMETERS};

/// The journal of trials, in a folder of its own.
const TRIALS: &str = "trials";

impl IndexService {
    pub(super) async fn snapshot(&self, call: &Call) -> Result<Reply, Fault> {
        call.allow_paths()?;
        // A backup of a part would be taken for one of all.
        self.scope.whole(call.method())?;
        let SnapshotIn { folder } = call.parameters()?;
        let to = PathBuf::from(folder);
        if !to.is_absolute() || !to.is_dir() {
            return Err(Fault::invalid_parameter(
                "folder",
                "expected the absolute path of a folder that is there",
            ));
        }
        let (all, stubs): (Vec<Arc<Index>>, PathBuf) =
            (lock(&self.indexes).values().cloned().collect(), self.folder.clone());
        let mock = self.mock.then_some(true);
        let work = move || {
            let (mut indexes, mut left_out) = (Vec::new(), Vec::new());
            for index in &all {
                let name = &index.parameters.name;
                match copy(index, &stubs.join(name), &to.join(name)) {
                    Ok(mark) => indexes.push(mark),
                    Err(error) => {
                        left_out.push(format!("{name}: {}", chain(&error)));
                        // What is there in part is no index.
                        let _ = fs::remove_dir_all(to.join(name));
                    }
                }
            }
            SnapshotOut {
                indexes,
                left_out: Some(left_out).filter(|left_out| !left_out.is_empty()),
                mock,
            }
        };
        Reply::of(&blocking(work).await.map_err(|e| Fault::internal(chain(&e)))?)
    }
}

/// Copies one index: what answers, how it was made, and what was tried.
fn copy(index: &Index, stub: &Path, to: &Path) -> io::Result<IndexMark> {
    fs::create_dir_all(to)?;
    let generation = index.generation();
    // One that has generations, and none that can be read, is not one that has none.
    if let Some(why) = index.degraded().filter(|_| generation.is_none()) {
        return Err(io::Error::other(why));
    }
    if let Some(generation) = &generation {
        index.folder.snapshot(generation, to)?;
    }
    copy_trials(index, &to.join(TRIALS))?;
    // Last: without it there is no index.
    fs::copy(stub.join(PARAMETERS), to.join(PARAMETERS))?;
    let manifest = generation.as_ref().map(|generation| &generation.manifest);
    Ok(IndexMark {
        index: index.parameters.name.clone(),
        dataset: index.parameters.dataset.clone(),
        generation: manifest.map_or(0, |manifest| manifest.dataset_generation),
        run_id: manifest.and_then(|manifest| manifest.dataset_run.clone()),
    })
}

fn copy_trials(index: &Index, to: &Path) -> io::Result<()> {
    // Nothing is added meanwhile.
    let _journal = lock(&index.journal);
    let entries = match fs::read_dir(index.folder.path().join(TRIALS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    fs::create_dir_all(to)?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
