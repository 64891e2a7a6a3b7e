//! What a refresh leads to: the next generation, on the disk and then in the place of the one
//! before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;
use brahman_card::Fault;
use brahman_card::interface::index::CreateIn;
use brahman_sidecar::Call;

use super::super::IndexService;
use super::super::datasets::Version;
use super::super::parameters::{ef_search, engine, graph_parameters};
use super::super::shelf::{Claim, Index};
use super::copies::content_without;
use super::{PROGRESS_EVERY, cores, say};
use crate::embedder::Model;
use crate::folder::Content;
use crate::generation::{Generation, Manifest, RECALL_DEFAULT};
use crate::refresh::{CHUNKING, Plan, folder_fault};
use crate::segment;
use crate::threads::on_own_thread;

impl IndexService {
    #[expect(clippy::too_many_arguments, reason = "one caller, which holds them all")]
    pub(super) async fn publish(
        &self,
        call: Option<&Call>,
        index: &Arc<Index>,
        claim: Claim,
        plan: Plan,
        vectors: Vec<f32>,
        model: Model,
        own: Version,
        anew: bool,
    ) -> Result<Arc<Generation>, Fault> {
        let (done, of) = (Arc::new(AtomicU64::new(0)), plan.fresh.len() as u64);
        let (work_index, counted, stop) =
            (Arc::clone(index), Arc::clone(&done), Arc::clone(&claim.stop));
        let agent = Arc::clone(&self.agent);
        let work = move || -> std::io::Result<Arc<Generation>> {
            // Held until the disk is at rest, even if the caller is gone.
            let _claim = claim;
            let (folder, parameters) = (&work_index.folder, &work_index.parameters);
            let old = work_index.generation();
            let first = || first_manifest(parameters, model.clone());
            let migrates = old
                .as_ref()
                .is_some_and(|old| !old.is_empty() && (anew || old.manifest.model != model));
            let number = work_index.next_number();
            let manifest = Manifest {
                dataset_generation: own.generation,
                dataset_run: own.run,
                docs: plan.dataset_docs - plan.empty_docs - plan.skipped_docs,
                model: model.clone(),
                chunking: plan.by_tokens.then_some(CHUNKING),
                empty_docs: plan.empty_docs,
                skipped_docs: plan.skipped_docs,
                ..match &old {
                    Some(old) => old.manifest.after(
                        &old.folder,
                        number,
                        if migrates { "migration" } else { "refresh" },
                    ),
                    None => Manifest { number, ..first() },
                }
            };
            let columns = match plan.columns {
                Some(columns) => columns,
                None => segment::no_columns(plan.fresh.len())?,
            };
            let added = Content { rows: plan.fresh, vectors, columns };
            let progress = |n: usize| {
                counted.store(n as u64, Ordering::Relaxed);
                !stop.load(Ordering::Relaxed)
            };
            let generation = match &old {
                Some(_) if migrates => {
                    folder.commit_base(manifest, &parameters.dataset, added, cores(), &progress)?
                }
                // Appending pays while what is new is small beside what is there, and all of that
                // is whole.
                Some(old)
                    if old.base.as_ref().is_some_and(|base| !base.words_are_damaged())
                        && added.rows.len() <= old.base_rows() =>
                {
                    let mut dead = old.dead();
                    dead.extend(&plan.dead);
                    folder.commit_delta(old, manifest, &parameters.dataset, &added, &dead)?
                }
                Some(old) => {
                    // What is there is the smaller part: it goes behind what is new.
                    let mut all = added;
                    let stays = content_without(old, &plan.dead.iter().copied().collect())?;
                    for row in stays.rows.iter() {
                        all.rows.push(&row?);
                    }
                    all.vectors.extend(stays.vectors);
                    let schema = all.columns.schema();
                    // One of no rows may have no columns either: an index that was empty.
                    let both: Vec<RecordBatch> = [all.columns, stays.columns]
                        .into_iter()
                        .filter(|c| c.num_rows() > 0)
                        .collect();
                    all.columns = segment::join(&schema, &both, all.rows.len())?;
                    folder.commit_base(manifest, &parameters.dataset, all, cores(), &progress)?
                }
                None => {
                    folder.commit_base(manifest, &parameters.dataset, added, cores(), &progress)?
                }
            };
            let _ = std::fs::remove_file(folder.path().join("pending.log"));
            let answers = work_index.answer_with(generation);
            // Not before: a trial is of what answers.
            agent.has_new_data(&parameters.name);
            Ok(answers)
        };
        let mut working = on_own_thread("writing the generation", false, work);
        let outcome = loop {
            match tokio::time::timeout(PROGRESS_EVERY, &mut working).await {
                Ok(outcome) => break outcome,
                Err(_) => say(call, "write", done.load(Ordering::Relaxed), of).await?,
            }
        };
        outcome?.map_err(|e| folder_fault(&index.parameters.name, "writing the generation", &e))
    }
}

/// The manifest of what was never committed.
pub(super) fn unnumbered(parameters: &CreateIn, model: Model, own: &Version) -> Manifest {
    let first = first_manifest(parameters, model);
    Manifest {
        number: 0,
        dataset_generation: own.generation,
        dataset_run: own.run.clone(),
        ..first
    }
}

/// The manifest of an index's first generation.
fn first_manifest(parameters: &CreateIn, model: Model) -> Manifest {
    let first = Manifest::first(
        model,
        engine(parameters),
        graph_parameters(parameters),
        ef_search(parameters),
    );
    let recall_wanted =
        parameters.ef_search.is_none().then(|| parameters.target_recall.unwrap_or(RECALL_DEFAULT));
    Manifest { language: parameters.language.clone(), recall_wanted, ..first }
}
