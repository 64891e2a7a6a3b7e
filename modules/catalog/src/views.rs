//! Datasets under stable paths, for tools that read files: `datasets/<name>/current/*.parquet`.
//!
//! ```text
//! datasets/<name>/current                           a link to the folder of the present generation
//! datasets/<name>/generation-<number>-<run>/        one for each generation that is kept
//!     <number>-<run of the object>-part-0.parquet   links to its objects, in their rows' order
//! ```
//!
//! Invariants: `current` leads to a folder with every object of one generation and nothing else,
//! before, while and after it is replaced; a name in such a folder is that of one object for ever,
//! so that whoever has listed one generation never opens a file of another; nothing but links and
//! empty folders of our own naming is removed. All of it can be made again from the registry, and
//! is.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use brahman_card::interface::catalog::Object;
use thiserror::Error;

use crate::registry::entry::folder_of;
use crate::registry::pins::KeptGeneration;
use crate::registry::{RegistryError, Roots};

/// The folder of all views, below the state.
pub const FOLDER: &str = "datasets";
/// The link to the present generation's folder.
pub const CURRENT: &str = "current";
/// How the folders of generations begin.
const GENERATION: &str = "generation-";
/// How what is not in its place yet begins.
const UNFINISHED: &str = ".tmp-";
/// From a generation's folder to the state.
const UP: &str = "../../..";

/// Why a view is not as the registry says. What was there before still is.
#[derive(Debug, Error)]
pub enum ViewError {
    /// An object is not where it should be.
    #[error("object {key} is missing, or not as long as it was")]
    Missing {
        /// Key of the object in its bucket.
        key: String,
    },
    /// An object's bucket is not known.
    #[error(transparent)]
    Bucket(#[from] RegistryError),
    /// The disk refused.
    #[error("{}", .path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ViewError {
    move |source| ViewError::Io { path: path.to_owned(), source }
}

/// The name of a generation's folder.
#[must_use]
pub fn folder_name(generation: u64, run_id: &str) -> String {
    if run_id.is_empty() {
        format!("{GENERATION}{generation}")
    } else {
        format!("{GENERATION}{generation}-{run_id}")
    }
}

/// The stable path of a dataset, if it shows this generation just now.
#[must_use]
pub fn current(home: &Path, name: &str, generation: u64, run_id: &str) -> Option<PathBuf> {
    let path = home.join(name).join(CURRENT);
    let shows = fs::read_link(&path).ok()?;
    (shows.as_os_str() == OsStr::new(&folder_name(generation, run_id))).then_some(path)
}

/// The folder of a generation that is kept, if it is there.
#[must_use]
pub fn folder(home: &Path, name: &str, generation: u64, run_id: &str) -> Option<PathBuf> {
    Some(home.join(name).join(folder_name(generation, run_id))).filter(|folder| folder.is_dir())
}

/// Shows the generations of a dataset, the present one first, and no others.
///
/// # Errors
/// [`ViewError`] if the present one cannot be shown. The others are shown as far as they can be.
pub fn show(
    home: &Path,
    name: &str,
    generations: &[KeptGeneration],
    roots: &Roots,
) -> Result<(), ViewError> {
    let all = home.join(name);
    fs::create_dir_all(&all).map_err(failed(&all))?;
    let mut names = BTreeSet::new();
    for (at, one) in generations.iter().enumerate() {
        let folder = folder_name(one.generation, &one.run_id);
        let filled = fill(home, &all.join(&folder), &one.objects, roots);
        if at == 0 {
            filled?;
            point(&all.join(CURRENT), Path::new(&folder))?;
        } else if let Err(error) = filled {
            tracing::warn!(
                dataset = name,
                generation = one.generation,
                "not shown: {}",
                brahman_sidecar::chain(&error)
            );
        }
        names.insert(folder);
    }
    clear(&all, |name| names.contains(name))
}

/// Removes the view of a dataset that there is no more.
///
/// # Errors
/// As the file system gives them.
pub fn remove(home: &Path, name: &str) -> Result<(), ViewError> {
    let all = home.join(name);
    let link = all.join(CURRENT);
    if fs::symlink_metadata(&link).is_ok_and(|meta| meta.is_symlink()) {
        fs::remove_file(&link).map_err(failed(&link))?;
    }
    clear(&all, |_| false)?;
    // What somebody else has put there stays.
    let _ = fs::remove_dir(&all);
    Ok(())
}

/// Names of the datasets that have views.
#[must_use]
pub fn names(home: &Path) -> BTreeSet<String> {
    fs::read_dir(home)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Makes the folder of a generation, or what is missing in it: first beside its place, then there
/// as a whole.
fn fill(home: &Path, folder: &Path, objects: &[Object], roots: &Roots) -> Result<(), ViewError> {
    let state = home.parent().unwrap_or(home);
    let mut links = Vec::new();
    for (at, object) in objects.iter().enumerate() {
        let path = roots.path(object)?;
        if !fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == object.bytes) {
            return Err(ViewError::Missing { key: object.key.clone() });
        }
        let run = folder_of(&object.key).map_or("", |(_, run)| run);
        let file = object.key.rsplit('/').next().unwrap_or_default();
        // A state that is moved takes its links along.
        let target = path
            .strip_prefix(state)
            .map_or_else(|_| path.clone(), |below| Path::new(UP).join(below));
        links.push((format!("{at:06}-{run}-{file}"), target));
    }
    if folder.is_dir() {
        return links.iter().try_for_each(|(name, target)| point(&folder.join(name), target));
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = folder.with_file_name(format!("{UNFINISHED}{name}"));
    empty(&unfinished)?;
    fs::create_dir(&unfinished).map_err(failed(&unfinished))?;
    links.iter().try_for_each(|(name, target)| point(&unfinished.join(name), target))?;
    fs::rename(&unfinished, folder).map_err(failed(folder))
}

/// Makes a link lead to `target`, in one step if it led elsewhere.
fn point(link: &Path, target: &Path) -> Result<(), ViewError> {
    if fs::read_link(link).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = link.with_file_name(format!("{UNFINISHED}{name}"));
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed(&unfinished)(error));
        }
        _ => symlink(target, &unfinished)
            .and_then(|()| fs::rename(&unfinished, link))
            .map_err(failed(link)),
    }
}

/// Removes the folders of generations below a dataset's that are not to stay, and what was never
/// finished.
fn clear(all: &Path, stays: impl Fn(&str) -> bool) -> Result<(), ViewError> {
    let entries = match fs::read_dir(all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed(all))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed(all))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_ours =
            name.starts_with(GENERATION) || name.starts_with(&format!("{UNFINISHED}{GENERATION}"));
        if is_ours && !stays(name) {
            empty(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a folder of links. One that has anything else in it stays, with that.
fn empty(folder: &Path) -> Result<(), ViewError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed(folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed(folder))?;
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            fs::remove_file(entry.path()).map_err(failed(&entry.path()))?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(failed(folder)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use brahman_storage::buckets::Root;

    use super::*;

    struct Fixture {
        state: tempfile::TempDir,
        roots: Roots,
    }

    impl Fixture {
        fn new() -> Self {
            let state = tempfile::tempdir().expect("a temporary directory");
            let roots = Roots::new(
                [("primary".to_owned(), Root::local(state.path().join("buckets/primary")))].into(),
            );
            Self { state, roots }
        }

        fn home(&self) -> PathBuf {
            self.state.path().join(FOLDER)
        }

        /// A generation whose objects are of these runs, and hold their names.
        fn generation(&self, generation: u64, runs: &[&str]) -> KeptGeneration {
            let object = |run: &&str| {
                let key = format!("datasets/d/{run}/part-0.parquet");
                let path = self.state.path().join("buckets/primary").join(&key);
                fs::create_dir_all(path.parent().expect("a folder"))
                    .and_then(|()| fs::write(&path, run))
                    .expect("written");
                Object {
                    bucket: "primary".into(),
                    key,
                    bytes: run.len() as u64,
                    ..Object::default()
                }
            };
            KeptGeneration {
                generation,
                run_id: (*runs.last().expect("a run")).into(),
                objects: runs.iter().map(object).collect(),
            }
        }

        /// What somebody reads who opens whatever is in a folder, by name.
        fn read(&self, folder: &Path) -> Vec<String> {
            let mut files: Vec<PathBuf> = fs::read_dir(folder)
                .expect("there")
                .map(|entry| entry.expect("an entry").path())
                .collect();
            files.sort();
            files.iter().map(|file| fs::read_to_string(file).expect("a whole file")).collect()
        }
    }

    #[test]
    fn current_always_has_one_whole_generation_and_a_listed_one_stays_while_it_is_kept() {
        let fixture = Fixture::new();
        let (home, roots) = (fixture.home(), &fixture.roots);
        let (one, two, three) = (
            fixture.generation(1, &["a"]),
            fixture.generation(2, &["a", "b"]),
            fixture.generation(3, &["c"]),
        );
        show(&home, "d", std::slice::from_ref(&one), roots).expect("shown");
        let path = current(&home, "d", 1, "a").expect("it is shown");
        assert_eq!(fixture.read(&path), ["a"]);
        let listed = fs::canonicalize(&path).expect("a folder");
        show(&home, "d", &[two.clone(), one], roots).expect("shown");
        assert_eq!(
            (fixture.read(&path), fixture.read(&listed)),
            (vec!["a".into(), "b".into()], vec!["a".into()])
        );
        assert!(current(&home, "d", 1, "a").is_none() && folder(&home, "d", 1, "a").is_some());
        show(&home, "d", &[three, two], roots).expect("shown");
        assert_eq!(fixture.read(&path), ["c"]);
        assert!(!listed.exists(), "what is not kept any more is not shown");
        remove(&home, "d").expect("removed");
        assert!(
            names(&home).is_empty()
                && fixture
                    .state
                    .path()
                    .join("buckets/primary/datasets/d/c/part-0.parquet")
                    .exists()
        );
    }

    #[test]
    fn what_cannot_be_shown_whole_is_not_shown_and_what_was_stays() {
        let fixture = Fixture::new();
        let (home, roots) = (fixture.home(), &fixture.roots);
        let (one, two) = (fixture.generation(1, &["a"]), fixture.generation(2, &["a", "b"]));
        show(&home, "d", std::slice::from_ref(&one), roots).expect("shown");
        fs::remove_file(fixture.state.path().join("buckets/primary/datasets/d/b/part-0.parquet"))
            .expect("lost");
        assert!(matches!(
            show(&home, "d", &[two.clone(), one], roots),
            Err(ViewError::Missing { .. })
        ));
        assert_eq!(fixture.read(&home.join("d/current")), ["a"]);
        // As a crash leaves it: half a folder, and a link that is not in its place.
        let half = home.join("d").join(format!("{UNFINISHED}{}", folder_name(2, "b")));
        fs::create_dir(&half).and_then(|()| symlink("nowhere", half.join("x"))).expect("made");
        symlink("nowhere", home.join("d").join(format!("{UNFINISHED}{CURRENT}"))).expect("made");
        let two = fixture.generation(two.generation, &["a", "b"]);
        show(&home, "d", &[two], roots).expect("shown");
        assert_eq!(fixture.read(&home.join("d/current")), ["a", "b"]);
        assert!(!half.exists() && !home.join("d").join(folder_name(1, "a")).exists());
    }

    #[test]
    fn a_state_that_was_moved_shows_its_own_objects_and_what_others_put_there_stays() {
        let fixture = Fixture::new();
        let one = fixture.generation(1, &["a"]);
        show(&fixture.home(), "d", &[one], &fixture.roots).expect("shown");
        fs::write(fixture.home().join("d/notes.txt"), "mine").expect("written");
        let moved = fixture.state.path().with_extension("moved");
        fs::rename(fixture.state.path(), &moved).expect("moved");
        assert_eq!(fixture.read(&moved.join("datasets/d/current")), ["a"]);
        remove(&moved.join(FOLDER), "d").expect("removed");
        assert!(moved.join("datasets/d/notes.txt").exists());
        fs::remove_dir_all(&moved).expect("removed");
    }
}
