//! `Doctor`: verifies every file of an index, searches for every row, and repairs what can be
//! repaired.

use std::path::Path;

use brahman_card::Fault;
use brahman_card::interface::index::{DoctorIn, DoctorOut};
use brahman_sidecar::{Call, Reply, blocking, chain};

use super::refresh::cores;
use super::shelf::{Index, lock};
use super::{IndexService, PARAMETERS};
use crate::home::Home;
use crate::refresh::{folder_fault, io_fault};
use crate::{evals, rescue, sealed};

/// Candidates of a row's search for itself.
const PROBE_EF: usize = 64;

/// What an examination found.
#[derive(Debug, Default)]
struct Finding {
    /// Of files.
    problems: Vec<String>,
    /// What is no damage of what answers.
    notes: Vec<String>,
    /// Files compared.
    files: usize,
    /// Folder of the generation that should answer, and whether it can be built from.
    named: Option<(String, bool)>,
    /// A file of it, or of what answers, is wrong.
    generation: bool,
    /// Generations that nobody can read, beside that one.
    unreadable: bool,
    /// Sets of queries.
    evals: bool,
}

fn examine(index: &Index) -> Finding {
    let mut found = Finding {
        problems: index.degraded().into_iter().collect(),
        files: 2,
        ..Finding::default()
    };
    found.generation = !found.problems.is_empty();
    let folder = &index.folder;
    let pointer = folder.pointer().ok().flatten().map(|pointer| pointer.generation);
    let seen = folder.survey();
    let unreadable = seen.unreadable();
    found.generation |= pointer.as_ref().is_some_and(|name| folder.manifest(name).is_err())
        || folder.pointer().is_err();
    found.unreadable = !unreadable.is_empty();
    found.problems.extend(unreadable.words());
    let named = pointer.or_else(|| seen.generations().first().map(|(name, _)| (*name).to_owned()));
    if let Some(name) = named {
        let manifest = folder.manifest(&name).ok();
        if let Some(manifest) = &manifest {
            found.files += manifest.files().count();
            let wrong = folder.verify(manifest);
            found.generation |= !wrong.is_empty();
            found.problems.extend(wrong.iter().map(|damage| chain(damage)));
        }
        found.named = Some((name, manifest.is_some()));
    }
    if let Some(why) = index.generation().and_then(|g| g.words_trouble()) {
        found.generation = true;
        found.problems.push(why);
    }
    let (sets, damaged) = evals::list(folder.path(), None);
    found.files += 2 * sets.len();
    found.evals = !damaged.is_empty();
    found.problems.extend(damaged);
    found.notes.extend(index.swept());
    if index.rescued() {
        let came = "files of it were damaged or gone, and came back from bucket rescue since the module began: see to its disk; \
                    `brahman logs index` names them";
        found.notes.push(came.to_owned());
    }
    let journal = lock(&index.journal);
    found.problems.extend(journal.trouble().map(|error| chain(error)));
    found.notes.extend(journal.shortfall());
    let torn = journal.damage().torn;
    if torn > 0 && journal.shortfall().is_none() {
        found.notes.push(format!(
            "trials/journal.log: {torn} records at its end, never acknowledged, were dropped"
        ));
    }
    drop(journal);
    // One thing may be said by whoever opened the index and by whoever reads it now.
    let mut once = std::collections::HashSet::new();
    found.problems.retain(|problem| once.insert(problem.clone()));
    found
}

/// Puts back, from an index's replicas, what is damaged or gone of the generation that should
/// answer, and lets it answer if it is whole with that; which files came back.
fn fetch(index: &Index, copies: &Path) -> (Vec<String>, bool) {
    let folder = &index.folder;
    let manifest_back = rescue::restore_manifest(folder, copies).is_some();
    let Some(name) = folder.pointer().ok().flatten().map(|pointer| pointer.generation) else {
        return (Vec::new(), false);
    };
    let Ok(manifest) = folder.manifest(&name) else { return (Vec::new(), false) };
    let mut back = rescue::restore(folder, &manifest, copies);
    if manifest_back {
        back.insert(0, "its manifest".to_owned());
    }
    if back.is_empty() {
        return (back, false);
    }
    tracing::warn!(
        index = index.parameters.name,
        "restored from rescue by a repair: {}",
        back.join(", ")
    );
    let whole = folder.verify(&manifest).is_empty().then(|| folder.load(&name, None).ok());
    let answers = whole.flatten().map(|whole| index.answer_with_rescued(whole)).is_some();
    (back, answers)
}

/// Mends what can be mended, from `copies` first, the index's replicas, if there is a folder for
/// them; what was put aside.
fn mend(index: &Index, found: &mut Finding, copies: Option<&Path>) -> Result<Vec<String>, Fault> {
    let name = &index.parameters.name;
    let failed = |doing: &'static str| move |e: std::io::Error| folder_fault(name, doing, &e);
    let mut aside = Vec::new();
    let (back, answers) = match copies {
        Some(copies) if found.generation => fetch(index, copies),
        _ => (Vec::new(), false),
    };
    if !back.is_empty() {
        found.notes.push(format!("put back from bucket rescue: {}", back.join(", ")));
        // Its manifest may have been among them.
        if let Some((folder, known)) = &mut found.named {
            *known = index.folder.manifest(folder).is_ok();
        }
    }
    if found.generation && !answers {
        match &found.named {
            Some((folder, true)) => {
                let made = index.folder.repair(folder, &index.parameters.dataset, cores());
                index.answer_with(made.map_err(|e| io_fault("repairing from the segments", &e))?);
            }
            // Nobody knows what it was made of; the one that answers in its place stands for it
            // from now on.
            _ => {
                let (answers, _) = index.current()?;
                let pinned = index.pinned().unwrap_or(false);
                index
                    .folder
                    .point(&answers.folder, "repair", pinned)
                    .map_err(failed("moving CURRENT"))?;
                let again = index
                    .folder
                    .load(&answers.folder, answers.base.clone())
                    .map_err(failed("loading the generation"))?;
                drop(answers);
                index.answer_with(again);
            }
        }
    }
    if found.unreadable {
        aside.extend(index.folder.put_aside().map_err(failed("setting generations aside"))?);
        index.tidy();
    }
    if found.evals {
        aside.extend(
            evals::put_aside(index.folder.path()).map_err(failed("setting eval sets aside"))?,
        );
    }
    Ok(aside)
}

impl IndexService {
    pub(super) async fn doctor(&self, call: &Call) -> Result<Reply, Fault> {
        let DoctorIn { name, repair } = call.parameters()?;
        let index = self.index(&name)?;
        index.bucket_within_reach()?;
        let claim = match repair {
            Some(true) => index.claim("doctor").await?,
            _ => index.claim_to_look("doctor").await?,
        };
        let stub = self.stub(&name)?;
        let work = move || -> Result<DoctorOut, Fault> {
            let _claim = claim;
            let mut found = examine(&index);
            // Read when the module began, and needed again when it begins anew.
            let parameters = std::fs::read(stub.join(PARAMETERS))
                .and_then(|bytes| sealed::from_slice::<serde_json::Value>(&bytes));
            let outside: Vec<String> = [
                parameters.err().map(|e| format!("{PARAMETERS}: {}", chain(&e))),
                Home::open(&stub).err().map(|e| chain(&e)),
            ]
            .into_iter()
            .flatten()
            .collect();
            found.problems.extend(outside.iter().cloned());
            let mends =
                repair.unwrap_or(false) && (found.generation || found.unreadable || found.evals);
            let copies = stub.parent().and_then(rescue::known).map(|folder| folder.join(&name));
            let aside =
                if mends { mend(&index, &mut found, copies.as_deref())? } else { Vec::new() };
            let left = if mends {
                examine(&index).problems.len() + outside.len()
            } else {
                found.problems.len()
            };
            let generation = index.generation();
            let base = generation.as_ref().and_then(|g| g.base.as_ref());
            let orphans =
                base.map_or(0, |b| b.flat.orphans(PROBE_EF, cores(), usize::MAX).len() as u64);
            Ok(DoctorOut {
                healthy: left == 0 && orphans == 0,
                problems: found.problems,
                repaired: mends,
                orphans,
                files: found.files as u64,
                generation: generation.map_or(0, |g| g.manifest.number),
                notes: Some(found.notes).filter(|notes| !notes.is_empty()),
                put_aside: Some(aside).filter(|aside| !aside.is_empty()),
            })
        };
        Reply::of(&blocking(work).await.map_err(|e| Fault::internal(chain(&e)))??)
    }
}
