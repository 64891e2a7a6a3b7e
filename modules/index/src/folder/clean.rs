//! The folder of one index: what is in it, what of it is removed, and what is put aside.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use brahman_sidecar::chain;
use brahman_storage::atomic;

use super::{Folder, MANIFEST, RETIRED, SEGMENTS, UNFINISHED};
use crate::files::{bad, named};
use crate::generation::Manifest;
use crate::sweep::{self, Entry, Obstacle, Obstacles, Removal, Survey};

/// Before the name of a generation whose removal has begun.
const GOING: &str = "retired-";
/// Before the name of one that a repair has put aside: it is never removed.
const ASIDE: &str = "aside-";
/// What an unreadable manifest is called after that, where others use the base beside it.
const DAMAGED: &str = "manifest.damaged";

/// What came of removing what nobody needs.
#[derive(Debug)]
pub enum Sweep {
    /// Nothing was removed, because of this.
    Refused(Obstacles),
    /// What could be removed was; each error names one thing that could not. As a rule there is
    /// none.
    Done(Vec<io::Error>),
}

impl Sweep {
    /// What is to be said of it, if anything.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        match self {
            Self::Refused(obstacles) => {
                Some(format!("old files stay, because this could not be read: {obstacles}"))
            }
            Self::Done(failed) if failed.is_empty() => None,
            Self::Done(failed) => {
                let failed: Vec<String> = failed.iter().map(|error| chain(error)).collect();
                Some(format!("old files could not be removed: {}", failed.join("; ")))
            }
        }
    }
}

/// Names of what is in a folder; of what cannot be listed, why.
fn names(folder: &Path, said: &str, trouble: &mut Vec<Obstacle>) -> Vec<String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            trouble.push(named(said, error).into());
            return Vec::new();
        }
    };
    let mut names = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => names.push(entry.file_name().to_string_lossy().into_owned()),
            Err(error) => trouble.push(named(said, error).into()),
        }
    }
    names
}

impl Folder {
    /// Everything in the folder that has to do with generations, as far as it can be read.
    #[must_use]
    pub fn survey(&self) -> Survey {
        let pointer = self.pointer().map_err(Obstacle::from).transpose();
        let before = pointer.as_ref().and_then(|pointer| pointer.as_ref().ok()?.before.clone());
        let mut seen = Survey {
            pointer: pointer.map(|pointer| pointer.map(|p| p.generation)),
            before,
            ..Survey::default()
        };
        let trouble = &mut seen.trouble;
        for name in names(self.path(), "its folder", trouble) {
            if name.starts_with(".tmp-") || name.starts_with(GOING) {
                seen.leftovers.push(name);
                continue;
            }
            if name.starts_with(ASIDE) {
                seen.aside.push(name);
                continue;
            }
            if !name.starts_with("gen-") {
                continue;
            }
            let folder = self.path().join(&name);
            let mut says = |what: &str| match folder.join(what).try_exists() {
                Ok(says) => says,
                Err(error) => {
                    trouble.push(named(format!("{name}/{what}"), error).into());
                    false
                }
            };
            let (unfinished, retired) = (says(UNFINISHED), says(RETIRED));
            let manifest = match self.manifest(&name) {
                Ok(manifest) => Ok(Some(manifest)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            };
            let is_empty =
                names(&folder, &name, trouble).iter().all(|inside| inside.starts_with(".tmp-"));
            seen.entries.push(Entry { name, manifest, unfinished, retired, is_empty });
        }
        let segments = self.path().join(SEGMENTS);
        if segments.exists() {
            seen.segments = names(&segments, SEGMENTS, trouble)
                .iter()
                .map(|name| format!("{SEGMENTS}/{name}"))
                .collect();
        }
        seen
    }

    /// Every generation that counts or counted and can be read, the newest first.
    #[must_use]
    pub fn generations(&self) -> Vec<(String, Manifest)> {
        self.survey()
            .generations()
            .into_iter()
            .map(|(name, manifest)| (name.to_owned(), manifest.clone()))
            .collect()
    }

    /// A number that no generation has, not even one that cannot be read; above `least`.
    #[must_use]
    pub fn next_number(&self, least: u64) -> u64 {
        let seen = self.survey();
        let readable = seen
            .entries
            .iter()
            .filter_map(|entry| entry.manifest.as_ref().ok()?.as_ref())
            .map(|m| m.number);
        let damaged = (seen.entries.iter().filter(|entry| entry.manifest.is_err()).count()
            + seen.aside.len()) as u64;
        readable.max().unwrap_or(0).max(least) + damaged + 1
    }

    /// Removes what neither the current generation nor the newest few others need, and what crashes
    /// left. `held` are generations that somebody still reads. Nothing is removed while something
    /// cannot be read.
    pub fn collect(&self, held: &HashSet<String>) -> Sweep {
        let sweep = match sweep::plan(&self.survey(), held) {
            Err(obstacles) => Sweep::Refused(obstacles),
            Ok(removals) => {
                let failed = removals
                    .iter()
                    .filter_map(|removal| Some(named(removal.name(), self.remove(removal).err()?)));
                Sweep::Done(failed.collect())
            }
        };
        if let Some(words) = sweep.words() {
            tracing::error!(folder = %self.path().display(), "{words}");
        }
        sweep
    }

    fn remove(&self, removal: &Removal) -> io::Result<()> {
        let path = |name: &str| self.path().join(name);
        match removal {
            Removal::Leftover(name) if path(name).is_dir() => fs::remove_dir_all(path(name)),
            Removal::Leftover(name) => fs::remove_file(path(name)),
            Removal::Generation(name) => {
                // Under this name a half of it is no generation that has lost something.
                let going = path(&format!("{GOING}{name}"));
                fs::rename(path(name), &going)?;
                fs::remove_dir_all(going)
            }
            Removal::Manifest(name) => {
                fs::File::create(path(name).join(RETIRED))?.sync_all()?;
                atomic::sync_dir(&path(name))?;
                fs::remove_file(path(name).join(MANIFEST))
            }
            Removal::Segment(name) => {
                self.files().forget(name);
                fs::remove_file(path(name))
            }
        }
    }

    /// Removes what was written of a generation that does not count, unless it counts all the same.
    pub(super) fn discard(&self, name: &str, segment: Option<&str>) {
        // The pointer may have been moved though the step after it failed; and what cannot be read
        // may name it.
        let counts =
            self.pointer().map_or(true, |pointer| pointer.is_some_and(|p| p.generation == name));
        if counts {
            return;
        }
        let gone = |outcome: io::Result<()>| match outcome {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{name} was abandoned and cannot be removed: {error}");
            }
            _ => {}
        };
        gone(fs::remove_dir_all(self.path().join(name)));
        if let Some(segment) = segment {
            self.files().forget(segment);
            gone(fs::remove_file(self.path().join(segment)));
        }
    }

    /// Puts generations aside that cannot be read and are not the current one, so that they stand
    /// in nobody's way; which. What only they needed may then be removed.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn put_aside(&self) -> io::Result<Vec<String>> {
        let seen = self.survey();
        let current = self.pointer()?.ok_or_else(|| bad("there is no CURRENT"))?.generation;
        let named: HashSet<String> = seen
            .generations()
            .iter()
            .flat_map(|(_, m)| m.files().map(|file| file.path.clone()))
            .collect();
        let mut aside = Vec::new();
        for entry in seen.entries.iter().filter(|entry| {
            entry.name != current && !entry.retired && !entry.unfinished && !entry.is_empty
        }) {
            let (path, own) = (self.path().join(&entry.name), format!("{}/", entry.name));
            match (&entry.manifest, named.iter().any(|file| file.starts_with(&own))) {
                (Ok(Some(_)), _) | (Ok(None), true) => continue,
                (Err(_), true) => {
                    fs::File::create(path.join(RETIRED))?.sync_all()?;
                    fs::rename(path.join(MANIFEST), path.join(DAMAGED))?;
                }
                (_, false) => {
                    fs::rename(&path, self.path().join(format!("{ASIDE}{}", entry.name)))?;
                }
            }
            aside.push(entry.name.clone());
        }
        atomic::sync_dir(self.path())?;
        Ok(aside)
    }
}
