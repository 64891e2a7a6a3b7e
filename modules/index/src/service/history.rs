//! `Generations`, `Rollback` and `Unpin`: the generations that were, the way back to one, and the
//! way on from it.

use brahman_card::Fault;
use brahman_card::interface::index::{
    GenerationInfo, GenerationsOut, NameIn, RollbackIn, RollbackOut, UnpinOut, error,
};
use brahman_sidecar::{Call, Reply, blocking, chain};

use super::IndexService;
use super::shelf::Index;
use crate::generation::{self, Generation};
use crate::refresh::{folder_fault, io_fault};

impl IndexService {
    pub(super) fn generations(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let index = self.index(&name)?;
        let answers = index.generation().map(|g| g.folder.clone());
        let pinned = index.pinned().ok();
        let seen = index.folder.survey();
        let info = |(folder, m): (&str, &generation::Manifest)| {
            let current = answers.as_deref() == Some(folder);
            let appended: u64 = m.segments.iter().map(|s| s.rows).sum();
            GenerationInfo {
                number: m.number,
                current,
                reason: m.reason.clone(),
                created_ms: m.created_ms,
                chunks: m.chunks,
                docs: m.docs,
                appended,
                dead: (m.base.as_ref().map_or(0, |b| b.rows) + appended).saturating_sub(m.chunks),
                bytes: m.bytes(),
                engine: m.engine.clone(),
                m: m.parameters.m as u64,
                ef_construction: m.parameters.ef_construction as u64,
                ef_search: m.ef_search as u64,
                measured: m.measured.clone(),
                forced: m.forced,
                pinned: pinned.filter(|pinned| *pinned && current),
                mock: m.model.mark(),
            }
        };
        let unreadable =
            Some(seen.unreadable().words()).filter(|unreadable| !unreadable.is_empty());
        Reply::of(&GenerationsOut {
            generations: seen.generations().into_iter().map(info).collect(),
            pinned,
            unreadable,
        })
    }

    pub(super) async fn rollback(&self, call: &Call) -> Result<Reply, Fault> {
        let RollbackIn { name, generation } = call.parameters()?;
        let index = self.index(&name)?;
        let claim = index.claim("rollback").await?;
        let work = move || -> Result<RollbackOut, Fault> {
            let _claim = claim;
            let (current, _) = index.current()?;
            let wanted = match generation {
                Some(number) => load_generation(
                    &index,
                    |_, m| m.number == number,
                    &format!("no generation {number}"),
                )?,
                None => {
                    let none = format!("no generation before {}", current.manifest.number);
                    load_generation(
                        &index,
                        |folder, _| current.manifest.parent.as_deref() == Some(folder),
                        &none,
                    )?
                }
            };
            let number = wanted.manifest.number;
            let moved = index.folder.point(&wanted.folder, "rollback", true);
            moved.map_err(|e| folder_fault(&index.parameters.name, "moving CURRENT", &e))?;
            index.answer_with(wanted);
            Ok(RollbackOut {
                generation: number,
                previous: current.manifest.number,
                pinned: Some(true),
            })
        };
        Reply::of(&blocking(work).await.map_err(|e| Fault::internal(chain(&e)))??)
    }

    /// Lets what acts by itself go on from the generation that somebody went back to.
    pub(super) async fn unpin(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let index = self.index(&name)?;
        if index.pinned().is_ok_and(|pinned| !pinned) {
            // There is nothing to wait for.
            let generation = index.generation().map_or(0, |g| g.manifest.number);
            return Reply::of(&UnpinOut { unpinned: false, generation });
        }
        let claim = index.claim("unpinning").await?;
        let work = move || -> Result<UnpinOut, Fault> {
            let _claim = claim;
            let unpinned = index.folder.unpin().map_err(|e| io_fault("writing CURRENT", &e))?;
            Ok(UnpinOut {
                unpinned,
                generation: index.generation().map_or(0, |g| g.manifest.number),
            })
        };
        let out = blocking(work).await.map_err(|e| Fault::internal(chain(&e)))??;
        if out.unpinned {
            self.agent.moved.notify_one();
        }
        Reply::of(&out)
    }
}

/// The generation of an index of which something holds, whole; `none` says what there is not
/// otherwise.
pub(super) fn load_generation(
    index: &Index,
    holds: impl Fn(&str, &generation::Manifest) -> bool,
    none: &str,
) -> Result<Generation, Fault> {
    let all = index.folder.generations();
    let Some((folder, _)) = all.iter().find(|(folder, m)| holds(folder, m)) else {
        let there: Vec<String> = all.iter().map(|(_, m)| m.number.to_string()).collect();
        let message =
            format!("index `{}` has {none}; it has {}", index.parameters.name, there.join(", "));
        return Err(Fault::of(
            &error::NoSuchGeneration { name: index.parameters.name.clone() },
            false,
            message,
        ));
    };
    index
        .folder
        .load(folder, None)
        .map_err(|e| folder_fault(&index.parameters.name, "loading the generation", &e))
}
