//! What may be removed from an index's folder. Pure: what was read of the folder goes in, names of
//! what nobody needs come out.
//!
//! Invariant: nothing is removed on the strength of something that could not be read. Where one
//! manifest, `CURRENT`, or one entry of a folder is unreadable, or a generation has lost its
//! manifest, nothing at all is removed, and the reasons are given instead.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use brahman_sidecar::chain;

use crate::generation::Manifest;

/// Generations kept beside the current one, so that a rollback has somewhere to go.
pub const KEPT: usize = 3;

/// Something of an index's folder that could not be read, or is not there though something says
/// that it is.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Obstacle {
    /// It could not be read; the error names it.
    #[error(transparent)]
    Unreadable(Arc<io::Error>),
    /// The generation that `CURRENT` names has no manifest.
    #[error("{generation}/manifest.json: CURRENT names this generation, but the file is missing")]
    NamedIsGone {
        /// Its folder.
        generation: String,
    },
    /// A generation that somebody reads has no manifest.
    #[error("{generation}/manifest.json: this generation answers, but the file is missing")]
    AnswersAndIsGone {
        /// Its folder.
        generation: String,
    },
    /// A generation has lost its manifest.
    #[error("{generation}/manifest.json: the file is missing, but its folder is not empty")]
    NoManifest {
        /// Its folder.
        generation: String,
    },
    /// Nothing says which generation counts.
    #[error("CURRENT: the file is missing, although there are generations")]
    NoPointer,
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(Arc::new(error))
    }
}

/// Everything that stands in a sweep's way.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", words(.0).join("; "))]
pub struct Obstacles(pub Vec<Obstacle>);

impl Obstacles {
    /// Each of them in words.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        words(&self.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn words(obstacles: &[Obstacle]) -> Vec<String> {
    obstacles.iter().map(|obstacle| chain(obstacle)).collect()
}

/// A generation's folder as it was read.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of its folder, `gen-<ulid>`.
    pub name: String,
    /// Its manifest; none if there is none, or what is wrong with it.
    pub manifest: Result<Option<Manifest>, Obstacle>,
    /// It says of itself that it never counted.
    pub unfinished: bool,
    /// It says of itself that it counts no more: others use its base.
    pub retired: bool,
    /// Nothing is in it but what a crash may leave.
    pub is_empty: bool,
}

/// An index's folder as it was read.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The generation that `CURRENT` names; none if there is no such file, or what is wrong with
    /// it.
    pub pointer: Option<Result<String, Obstacle>>,
    /// The generation that answered before a promotion, of which it may turn out to find more.
    pub before: Option<String>,
    /// Folders of generations, as they lie there.
    pub entries: Vec<Entry>,
    /// Paths of segments, as they lie there.
    pub segments: Vec<String>,
    /// Names of what is known to be of no use: temporary files, and folders whose removal had
    /// begun.
    pub leftovers: Vec<String>,
    /// Generations that a repair has put aside.
    pub aside: Vec<String>,
    /// What could not be read beside that.
    pub trouble: Vec<Obstacle>,
}

/// One thing to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// A file or folder that is known to be of no use.
    Leftover(String),
    /// A generation's folder with all that is in it.
    Generation(String),
    /// A generation whose base others use: it counts no more.
    Manifest(String),
    /// A segment.
    Segment(String),
}

impl Removal {
    /// Its name in the index's folder.
    #[must_use]
    pub fn name(&self) -> &str {
        let (Self::Leftover(name)
        | Self::Generation(name)
        | Self::Manifest(name)
        | Self::Segment(name)) = self;
        name
    }
}

impl Survey {
    fn points_to(&self, name: &str) -> bool {
        matches!(&self.pointer, Some(Ok(current)) if current == name)
    }

    /// Whether a generation never counted. One that others build on did, whatever it says of
    /// itself.
    fn never_counted(&self, entry: &Entry) -> bool {
        let own = format!("{}/", entry.name);
        entry.unfinished
            && !self.points_to(&entry.name)
            && !self.readable().any(|(other, m)| {
                other.name != entry.name && m.files().any(|file| file.path.starts_with(&own))
            })
    }

    /// Whether a generation counts no more. The one that `CURRENT` names does, whatever it says of
    /// itself.
    fn is_retired(&self, entry: &Entry) -> bool {
        entry.retired && !self.points_to(&entry.name)
    }

    fn readable(&self) -> impl Iterator<Item = (&Entry, &Manifest)> {
        self.entries
            .iter()
            .filter_map(|entry| Some((entry, entry.manifest.as_ref().ok()?.as_ref()?)))
    }

    /// The generations that count or counted and can be read, the newest first.
    #[must_use]
    pub fn generations(&self) -> Vec<(&str, &Manifest)> {
        let mut all: Vec<(&str, &Manifest)> = self
            .readable()
            .filter(|(entry, _)| !self.is_retired(entry) && !self.never_counted(entry))
            .map(|(e, m)| (e.name.as_str(), m))
            .collect();
        all.sort_by(|a, b| (b.1.number, b.0).cmp(&(a.1.number, a.0)));
        all
    }

    /// Everything that could not be read, and generations that have lost their manifest.
    #[must_use]
    pub fn unreadable(&self) -> Obstacles {
        let mut why = self.trouble.clone();
        let named: HashSet<&str> =
            self.readable().flat_map(|(_, m)| m.files().map(|file| file.path.as_str())).collect();
        match &self.pointer {
            Some(Err(error)) => why.push(error.clone()),
            // One that is damaged is named below.
            Some(Ok(name))
                if !self
                    .entries
                    .iter()
                    .any(|entry| entry.name == *name && !matches!(entry.manifest, Ok(None))) =>
            {
                why.push(Obstacle::NamedIsGone { generation: name.clone() });
            }
            Some(Ok(_)) => {}
            None if !self.generations().is_empty() => why.push(Obstacle::NoPointer),
            None => {}
        }
        for entry in self
            .entries
            .iter()
            .filter(|entry| !self.never_counted(entry) && !self.is_retired(entry))
        {
            let own = format!("{}/", entry.name);
            // Of a base that others use nothing else was ever needed.
            let of_no_use = || {
                entry.is_empty
                    || named.iter().any(|path| path.starts_with(&own))
                    || self.points_to(&entry.name)
            };
            match &entry.manifest {
                Err(error) => why.push(error.clone()),
                Ok(None) if !of_no_use() => {
                    why.push(Obstacle::NoManifest { generation: entry.name.clone() });
                }
                Ok(_) => {}
            }
        }
        Obstacles(why)
    }
}

/// What can be removed; `held` are generations that somebody reads.
///
/// # Errors
/// Why nothing can be: what could not be read, each once, in order.
pub fn plan(seen: &Survey, held: &HashSet<String>) -> Result<Vec<Removal>, Obstacles> {
    let Obstacles(mut why) = seen.unreadable();
    let lost = held.iter().filter(|name| !seen.readable().any(|(entry, _)| entry.name == **name));
    why.extend(lost.map(|name| Obstacle::AnswersAndIsGone { generation: name.clone() }));
    if !why.is_empty() {
        why.sort_by_cached_key(|obstacle| chain(obstacle));
        why.dedup_by_key(|obstacle| chain(obstacle));
        return Err(Obstacles(why));
    }
    let generations = seen.generations();
    let mut keep: HashSet<&str> = held.iter().map(String::as_str).collect();
    keep.extend(generations.iter().take(KEPT).map(|(name, _)| *name));
    for (entry, manifest) in seen.readable().filter(|(entry, _)| seen.points_to(&entry.name)) {
        keep.insert(&entry.name);
        keep.extend(manifest.parent.as_deref());
    }
    keep.extend(seen.before.as_deref());
    let kept = seen.readable().filter(|(entry, _)| keep.contains(entry.name.as_str()));
    let files: HashSet<&str> =
        kept.flat_map(|(_, m)| m.files().map(|file| file.path.as_str())).collect();
    let mut out: Vec<Removal> = seen.leftovers.iter().cloned().map(Removal::Leftover).collect();
    for entry in seen.entries.iter().filter(|entry| !keep.contains(entry.name.as_str())) {
        let own = format!("{}/", entry.name);
        if !files.iter().any(|file| file.starts_with(&own)) {
            out.push(Removal::Generation(entry.name.clone()));
        } else if matches!(entry.manifest, Ok(Some(_))) {
            out.push(Removal::Manifest(entry.name.clone()));
        }
    }
    out.extend(
        seen.segments
            .iter()
            .filter(|path| !files.contains(path.as_str()))
            .cloned()
            .map(Removal::Segment),
    );
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::embedder::Model;
    use crate::files::{FileRef, bad, named};
    use crate::generation::{BaseRef, SegmentRef};
    use flat_hnsw::build::Parameters;

    fn damaged(file: &str) -> Obstacle {
        named(file, bad("damaged")).into()
    }

    fn file(path: String) -> FileRef {
        FileRef { path, bytes: 1, sha256: String::new() }
    }

    /// The `n`-th generation: it begins a base of its own, or appends to the one before.
    fn manifest(n: usize, begins: bool, before: Option<&Manifest>) -> Manifest {
        let model = Model { name: "m".into(), fingerprint: "f".into(), dim: 1, mock: false };
        let first = Manifest::first(
            model,
            "exact".into(),
            Parameters { m: 8, ef_construction: 32, seed: 0 },
            64,
        );
        let mut out = Manifest {
            number: n as u64 + 1,
            parent: n.checked_sub(1).map(|p| format!("gen-{p}")),
            ..first
        };
        match before {
            Some(before) if !begins => {
                out.base.clone_from(&before.base);
                out.segments.clone_from(&before.segments);
                out.segments
                    .push(SegmentRef { rows: 1, file: file(format!("segments/{n}.parquet")) });
                out.dead = Some(file(format!("gen-{n}/dead.u32")));
            }
            _ => {
                out.base = Some(BaseRef {
                    rows: 1,
                    segment: file(format!("segments/{n}.parquet")),
                    graph: file(format!("gen-{n}/graph.flat")),
                    rows_file: file(format!("gen-{n}/rows.bin")),
                    lexical: Some(vec![file(format!("gen-{n}/lexical/meta.json"))]),
                    analyser: None,
                });
            }
        }
        out
    }

    /// What became of a generation's folder.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fate {
        Whole,
        Unreadable,
        Lost,
        Unfinished,
        HalfWritten,
    }

    fn history(kinds: &[(bool, Fate)]) -> (Vec<Manifest>, Survey) {
        let mut manifests: Vec<Manifest> = Vec::new();
        for (n, (begins, _)) in kinds.iter().enumerate() {
            let next = manifest(n, *begins, manifests.last());
            manifests.push(next);
        }
        let entries =
            manifests.iter().zip(kinds).enumerate().map(|(n, (manifest, (_, fate)))| Entry {
                name: format!("gen-{n}"),
                manifest: match fate {
                    Fate::Unreadable | Fate::HalfWritten => {
                        Err(damaged(&format!("gen-{n}/manifest.json")))
                    }
                    Fate::Lost => Ok(None),
                    _ => Ok(Some(manifest.clone())),
                },
                unfinished: matches!(fate, Fate::Unfinished | Fate::HalfWritten),
                retired: false,
                is_empty: false,
            });
        let segments = (0..kinds.len() + 1).map(|n| format!("segments/{n}.parquet")).collect();
        let seen = Survey { entries: entries.collect(), segments, ..Survey::default() };
        (manifests, seen)
    }

    fn fates() -> impl Strategy<Value = Fate> {
        prop_oneof![
            6 => Just(Fate::Whole),
            1 => Just(Fate::Unreadable),
            1 => Just(Fate::Lost),
            1 => Just(Fate::Unfinished),
            1 => Just(Fate::HalfWritten),
        ]
    }

    proptest! {
        /// Whatever is damaged: no file goes that a generation which counts, or one that nobody can
        /// read, may need.
        #[test]
        fn nothing_goes_that_any_generation_may_need(
            kinds in prop::collection::vec((any::<bool>(), fates()), 1..9),
            current in any::<prop::sample::Index>(),
            held in any::<prop::sample::Index>(),
            trouble in any::<bool>(),
            points in 0_u8..4,
        ) {
            let (manifests, mut seen) = history(&kinds);
            let current = current.index(kinds.len());
            seen.pointer = match points {
                0 => None,
                1 => Some(Err(damaged("CURRENT"))),
                _ => Some(Ok(format!("gen-{current}"))),
            };
            if trouble {
                seen.trouble.push(damaged("segments"));
            }
            let held: HashSet<String> =
                std::iter::once(format!("gen-{}", held.index(kinds.len()))).collect();
            match plan(&seen, &held) {
                Err(why) => prop_assert!(!why.is_empty()),
                Ok(removed) => {
                    prop_assert!(
                        !trouble && points != 1,
                        "nothing goes on the strength of what was not read"
                    );
                    let mut needed: HashSet<String> = HashSet::new();
                    for (n, manifest) in manifests.iter().enumerate() {
                        let name = format!("gen-{n}");
                        let counted = !seen.never_counted(&seen.entries[n]);
                        let unreadable = seen.entries[n].manifest.is_err() && counted;
                        prop_assert!(!unreadable, "an unreadable manifest stops everything");
                        if held.contains(&name) || seen.points_to(&name) {
                            needed.insert(format!("{name}/manifest.json"));
                            needed.extend(manifest.files().map(|f| f.path.clone()));
                        }
                    }
                    for removal in &removed {
                        match removal {
                            Removal::Generation(name) => prop_assert!(
                                !needed.iter().any(|f| f.starts_with(&format!("{name}/"))),
                                "{}",
                                name
                            ),
                            Removal::Manifest(name) => prop_assert!(
                                !needed.contains(&format!("{name}/manifest.json")),
                                "{}",
                                name
                            ),
                            Removal::Segment(path) => {
                                prop_assert!(!needed.contains(path), "{}", path);
                            }
                            Removal::Leftover(_) => prop_assert!(false, "there was none"),
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_damaged_newer_generation_on_the_same_base_loses_neither_its_segments_nor_the_base() {
        let kinds = [(true, Fate::Whole), (false, Fate::Unreadable)];
        let (_, mut seen) = history(&kinds);
        for pointer in ["gen-0", "gen-1"] {
            seen.pointer = Some(Ok(pointer.into()));
            let why = plan(&seen, &HashSet::new()).expect_err("nothing goes");
            assert!(why.to_string().contains("gen-1/manifest.json"), "{why}");
        }
    }

    /// Found by fuzzing.
    #[test]
    fn what_current_names_counts_whatever_it_says_of_itself() {
        let (_, mut seen) =
            history(&[(true, Fate::Unreadable), (true, Fate::Whole), (true, Fate::Whole)]);
        seen.entries[0].retired = true;
        seen.pointer = Some(Ok("gen-0".into()));
        assert!(
            plan(&seen, &HashSet::new()).expect_err("nothing goes").words()[0]
                .contains("gen-0/manifest.json")
        );
        // Once it is not named it goes: it counts no more, nobody builds on it, and it is nobody's
        // parent that is kept.
        seen.pointer = Some(Ok("gen-2".into()));
        assert!(
            plan(&seen, &HashSet::new())
                .expect("all that counts was read")
                .contains(&Removal::Generation("gen-0".into()))
        );
    }

    #[test]
    fn what_answered_before_a_promotion_stays_however_old_it_is() {
        let (_, mut seen) = history(&[(true, Fate::Whole); 6]);
        seen.pointer = Some(Ok("gen-1".into()));
        assert!(
            plan(&seen, &HashSet::new())
                .expect("all was read")
                .contains(&Removal::Generation("gen-2".into()))
        );
        seen.before = Some("gen-2".into());
        assert!(
            !plan(&seen, &HashSet::new())
                .expect("all was read")
                .contains(&Removal::Generation("gen-2".into()))
        );
    }

    #[test]
    fn what_never_counted_goes_and_what_counted_is_kept_by_number() {
        let kinds = [
            (true, Fate::Whole),
            (false, Fate::Whole),
            (true, Fate::Unfinished),
            (true, Fate::Whole),
            (false, Fate::Whole),
            (false, Fate::Whole),
        ];
        let (_, mut seen) = history(&kinds);
        seen.pointer = Some(Ok("gen-5".into()));
        seen.leftovers.push(".tmp-1".into());
        let removed = plan(&seen, &HashSet::new()).expect("all was read");
        let gone = |removal: Removal| removed.contains(&removal);
        assert!(
            gone(Removal::Leftover(".tmp-1".into())) && gone(Removal::Generation("gen-2".into()))
        );
        assert!(
            gone(Removal::Generation("gen-0".into())) && gone(Removal::Generation("gen-1".into()))
        );
        assert!(
            gone(Removal::Segment("segments/2.parquet".into()))
                && gone(Removal::Segment("segments/6.parquet".into()))
        );
        assert!(!gone(Removal::Segment("segments/3.parquet".into())));
        // Only a base is left of a generation that others build on.
        assert!(
            plan(&seen, &HashSet::from(["gen-1".into()]))
                .expect("read")
                .contains(&Removal::Manifest("gen-0".into()))
        );
    }
}
