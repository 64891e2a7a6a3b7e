//! Which data an index has: a name that is the same for the same rows with the same vectors, in
//! whatever order and files they lie.
//!
//! The name is made of a [sum over the rows](crate::row_sum), so that a refresh adds what is new
//! and takes away what is gone, and a promotion or a compaction changes nothing. Names of versions
//! before were made of files' checksums: they are known again where a manifest still tells which
//! files those were. Pure.

use std::collections::HashSet;

use brahman_storage::digest::{hex, sha256};

use crate::generation::Manifest;

/// Characters of a name as it was made of files.
const FILES_NAME_CHARS: usize = 16;
/// Why generations are made whose rows and vectors are those of the one before.
const SAME_DATA: [&str; 3] = ["compaction", "repair", "promotion"];

/// The name that versions before gave to a generation's data: of its files.
#[must_use]
pub fn name_by_files(manifest: &Manifest) -> String {
    let segments = manifest.base.iter().map(|b| b.segment.sha256.as_str());
    let files: Vec<&str> =
        segments.chain(manifest.segments.iter().map(|s| s.file.sha256.as_str())).collect();
    let dead = manifest.dead.as_ref().map_or("", |dead| dead.sha256.as_str());
    hex(&sha256(format!("{} {} {dead}", manifest.model.fingerprint, files.join(" ")).as_bytes()))
        [..FILES_NAME_CHARS]
        .to_owned()
}

/// Whether a version before gave a name, which only a manifest of that time can explain.
#[must_use]
pub fn is_by_files(name: &str) -> bool {
    name.len() == FILES_NAME_CHARS
}

/// All names of one data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataNames {
    /// Its name now.
    pub now: String,
    before: HashSet<String>,
}

impl DataNames {
    /// The names of a generation's data, which is called `now`: its own, and those of generations
    /// that are there and have the same data.
    #[must_use]
    pub fn new<'a>(
        now: String,
        folder: &str,
        manifests: impl IntoIterator<Item = (&'a str, &'a Manifest)>,
    ) -> Self {
        let all: Vec<(&str, &Manifest)> = manifests.into_iter().collect();
        let mut before = HashSet::new();
        let mut at = Some(folder);
        // Back to where the data last changed. None is its own ancestor, but a file may say so.
        for _ in 0..all.len() {
            let Some((_, manifest)) = at.and_then(|at| all.iter().find(|(name, _)| *name == at))
            else {
                break;
            };
            before.insert(name_by_files(manifest));
            at = manifest
                .parent
                .as_deref()
                .filter(|_| SAME_DATA.contains(&manifest.reason.as_str()));
        }
        for (_, manifest) in &all {
            if manifest.rows_sum.is_some_and(|sum| sum.name(&manifest.model.fingerprint) == now) {
                before.insert(name_by_files(manifest));
            }
        }
        Self { now, before }
    }

    /// Whether a name is one of this data.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.now == name || self.before.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use flat_hnsw::build::Parameters;

    use super::*;
    use crate::embedder::Model;
    use crate::files::FileRef;
    use crate::generation::SegmentRef;

    #[test]
    fn names_of_before_are_known_again_as_far_as_the_data_is_the_same() {
        let model = Model { name: "m".into(), fingerprint: "f".into(), dim: 1, mock: false };
        let first = Manifest::first(
            model,
            "exact".into(),
            Parameters { m: 8, ef_construction: 32, seed: 0 },
            64,
        );
        let with = |manifest: Manifest, file: &str| Manifest {
            segments: vec![SegmentRef {
                rows: 1,
                file: FileRef { path: file.into(), bytes: 1, sha256: file.into() },
            }],
            ..manifest
        };
        let refreshed = with(first.after("gen-0", 2, "refresh"), "b");
        let all = [
            ("gen-0", with(first.clone(), "a")),
            ("gen-1", refreshed.clone()),
            ("gen-2", with(refreshed.after("gen-1", 3, "compaction"), "c")),
            ("gen-3", with(refreshed.after("gen-2", 4, "promotion"), "d")),
        ];
        let names = DataNames::new(
            "now".into(),
            "gen-3",
            all.iter().map(|(name, manifest)| (*name, manifest)),
        );
        let known: Vec<bool> =
            all.iter().map(|(_, manifest)| names.has(&name_by_files(manifest))).collect();
        assert_eq!(known, [false, true, true, true], "a refresh brought other data");
        assert!(names.has("now") && !names.has("other") && is_by_files(&name_by_files(&all[0].1)));
    }
}
