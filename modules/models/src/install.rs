//! Models brought into the cache by name, from the hub or from a folder: each folder whole or not
//! at all, with what it is pinned to.
//!
//! What the published list says is held against what the repository's own files say: where both
//! speak and differ, there is no model; where the files are silent (how tokens are pooled), the
//! list's word goes into `brahman.json`. Invariants: a folder is built beside its place and put
//! there in one step; its `brahman.json` pins the sha256 of every file, and the commit; a model
//! that is pinned is pulled again from there; one process at a time changes a model; files of the
//! hub's cache are linked, so that nothing lies on the disk twice.

mod errors;
mod place;
mod quantized;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use brahman_card::chain;
use brahman_storage::digest::sha256_file;

use crate::fetch::Listener;
use crate::graph::Graph;
use crate::hub::request::MAIN;
use crate::hub::{Hub, ModelRequest, Repository};
use crate::layout::{LayoutError, ModelFolder, Overrides};
use crate::manifest::{Manifest, ModelKind};
use crate::published::{self, PublishedError, PublishedModel, installed_name};
use crate::selection::Selection;
pub use errors::InstallError;
use place::{Place, is_classifier, read_manifest};
pub use quantized::quantize;

/// Most files of a person's folder that are looked at.
const FILES_MAX: usize = 10_000;
/// Folders in folders of a person's that are gone into.
const DEPTH_MAX: usize = 4;

/// Where a model goes.
#[derive(Clone, Copy, Debug)]
pub struct InstallOptions<'a> {
    /// The cache folder that it is put into.
    pub cache: &'a Path,
    /// Its name, if not its own.
    pub name: Option<&'a str>,
    /// Whether it is brought again though it is there, and from where its revision is now.
    pub force: bool,
}

/// A model that is in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroughtModel {
    /// Name by which callers require it.
    pub name: String,
    /// The folder that it lies in.
    pub path: PathBuf,
    /// What it is for.
    pub kind: ModelKind,
    /// `owner/name` on the hub, if it is from there.
    pub repository: Option<String>,
    /// The commit that it was pulled at.
    pub revision: Option<String>,
    /// How many files it has.
    pub files: usize,
    /// The lengths of all files together, in bytes.
    pub bytes: u64,
    /// How much of them came over the network just now.
    pub fetched: u64,
    /// Why it cannot be served as it is, if it cannot.
    pub refusal: Option<String>,
    /// Whether it was put into the cache just now; it is in there either way.
    pub is_new: bool,
}

/// What a request comes to.
struct ModelSource {
    repository: Repository,
    graph: Option<String>,
    variant: Option<String>,
    published: Option<&'static PublishedModel>,
    name: String,
}

impl ModelSource {
    fn of(request: &ModelRequest) -> Result<Self, InstallError> {
        match request {
            ModelRequest::Published { name, variant } => {
                let model = published::find(name, variant.as_deref())?;
                let Some((owner, repository)) = model.repository.split_once('/') else {
                    return Err(PublishedError::Name { name: name.clone(), meant: None }.into());
                };
                Ok(Self {
                    repository: Repository {
                        owner: owner.to_owned(),
                        name: repository.to_owned(),
                        revision: MAIN.to_owned(),
                    },
                    graph: Some(model.graph.clone()),
                    variant: None,
                    published: Some(model),
                    name: model.installed_name(),
                })
            }
            ModelRequest::Repository { repository, variant } => Ok(Self {
                repository: repository.clone(),
                graph: None,
                variant: variant.clone(),
                published: None,
                name: installed_name(&repository.name, variant.as_deref()),
            }),
        }
    }
}

/// A model's files, by name: where each lies, its sha256 and its length.
type Files = BTreeMap<String, (PathBuf, String, u64)>;

/// Brings a model of the hub into the cache. One that is there already, unchanged, is left as it
/// is.
///
/// # Errors
/// [`InstallError`].
pub fn pull(
    request: &ModelRequest,
    hub: &Hub,
    options: InstallOptions<'_>,
    tell: &mut Listener<'_>,
) -> Result<BroughtModel, InstallError> {
    let wanted = ModelSource::of(request)?;
    let place = Place::of(options.cache, options.name.unwrap_or(&wanted.name))?;
    let _lock = place.lock(tell)?;
    let id = wanted.repository.id();
    let mut repository = wanted.repository.clone();
    // What a person has said in the manifest stays.
    let (mut pins, mut former) = (BTreeMap::new(), Manifest::default());
    if let Some(there) = place.manifest()? {
        if there.repository.as_deref() != Some(id.as_str()) {
            return Err(place.taken(&there));
        }
        let pinned = there.revision.clone().filter(|_| !options.force);
        let is_same = pinned
            .as_ref()
            .is_some_and(|commit| repository.revision == MAIN || repository.revision == *commit);
        if is_same && there.holds(&place.target) {
            return brought(&place, &there, 0);
        }
        if let Some(commit) = pinned.filter(|_| is_same) {
            // What is damaged or gone is brought back as it was.
            repository = repository.at(&commit);
            pins = there.sha256.clone();
        }
        former = there;
    }
    let listing = hub.listing(&repository, tell)?;
    let selection =
        Selection::of(&id, &listing.files, wanted.graph.as_deref(), wanted.variant.as_deref())?;
    let mut files = Files::new();
    let mut fetched = 0;
    let mut get = |name: &str, tell: &mut Listener<'_>| -> Result<PathBuf, InstallError> {
        let file = hub.file(&repository, &listing.commit, name, tell)?;
        if let Some(pinned) = pins.get(name).filter(|pinned| **pinned != file.sha256) {
            return Err(InstallError::Repinned {
                file: name.to_owned(),
                found: file.sha256,
                pinned: pinned.clone(),
            });
        }
        fetched += file.fetched;
        files.insert(name.to_owned(), (file.path.clone(), file.sha256, file.bytes));
        Ok(file.path)
    };
    let graph = get(&selection.graph, tell)?;
    for name in weights_of(&graph, &selection, &listing.files)?.iter().chain(&selection.parts) {
        get(name, tell)?;
    }
    let manifest = Manifest {
        name: place.name.to_string(),
        dim: wanted.published.and_then(|model| model.dim).unwrap_or(former.dim),
        source: format!("{}/{id}/tree/{}", hub.settings().endpoint, listing.commit),
        graph: Some(selection.graph),
        output: wanted
            .published
            .and_then(|model| model.output.clone())
            .or_else(|| former.output.clone()),
        kind: wanted.published.map_or(ModelKind::Embedding, |model| model.kind),
        repository: Some(id),
        revision: Some(listing.commit),
        ..former
    };
    place.install(manifest, &files, put_link, wanted.published, fetched, None)
}

/// Copies a model of a person's own into the cache, so that it stays as it is and is known by name.
///
/// # Errors
/// [`InstallError`].
pub fn add(
    folder: &Path,
    options: InstallOptions<'_>,
    tell: &mut Listener<'_>,
) -> Result<BroughtModel, InstallError> {
    let unreadable = |source| InstallError::Cache { path: folder.to_owned(), source };
    let folder = fs::canonicalize(folder).map_err(unreadable)?;
    let manifest = read_manifest(&folder)?.unwrap_or_default();
    let named = own_name(&folder, &manifest);
    let place = Place::of(options.cache, options.name.unwrap_or(&named))?;
    let _lock = place.lock(tell)?;
    let is_itself = fs::canonicalize(&place.target).is_ok_and(|target| target == folder);
    let there = place.manifest()?.filter(|_| is_itself || !options.force);
    let FolderFiles { graph, files, .. } = files_of(&folder, &manifest)?;
    if let Some(there) = there {
        let is_pinned = |(name, (_, found, _)): (&String, &(PathBuf, String, u64))| {
            there.sha256.get(name) == Some(found)
        };
        let has_same_files = there.sha256.len() == files.len() && files.iter().all(is_pinned);
        let is_read_alike = manifest.pooling.is_none() || manifest.pooling == there.pooling;
        // Said a second time, it is there already.
        let is_same = has_same_files && is_read_alike && there.holds(&place.target);
        return if is_same { brought(&place, &there, 0) } else { Err(place.taken(&there)) };
    }
    let source = if manifest.source.is_empty() {
        folder.display().to_string()
    } else {
        manifest.source.clone()
    };
    let manifest =
        Manifest { name: place.name.to_string(), graph: Some(graph), source, ..manifest };
    place.install(manifest, &files, put_copy, None, 0, Some(&folder))
}

/// Name of the model in a folder: what its manifest says, else the folder's own.
fn own_name(folder: &Path, manifest: &Manifest) -> String {
    if manifest.name.is_empty() {
        folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    } else {
        manifest.name.clone()
    }
}

/// Files of a folder that make a model.
struct FolderFiles {
    /// The ONNX file, from the folder on.
    graph: String,
    /// Those that hold its weights, from the folder on.
    weights: Vec<String>,
    /// All of them, these among them.
    files: Files,
}

/// Looks for a model's files in a folder, each as the manifest pins it.
fn files_of(folder: &Path, manifest: &Manifest) -> Result<FolderFiles, InstallError> {
    let unreadable = |source| InstallError::Cache { path: folder.to_owned(), source };
    let mut names = Vec::new();
    gather(folder, "", DEPTH_MAX, &mut names).map_err(unreadable)?;
    names.sort();
    let selection =
        Selection::of(&folder.display().to_string(), &names, manifest.graph.as_deref(), None)?;
    let mut files = Files::new();
    let weights = weights_of(&folder.join(&selection.graph), &selection, &names)?;
    for name in std::iter::once(&selection.graph).chain(&weights).chain(&selection.parts) {
        let path = folder.join(name);
        let (found, bytes) = sha256_file(&path)
            .map_err(|source| InstallError::Cache { path: path.clone(), source })?;
        if let Some(pinned) = manifest.sha256.get(name).filter(|pinned| **pinned != found) {
            return Err(LayoutError::Damaged { file: path, found, pinned: pinned.clone() }.into());
        }
        files.insert(name.clone(), (path, found, bytes));
    }
    Ok(FolderFiles { graph: selection.graph, weights, files })
}

/// Takes a model out of the cache. Gives where it was and what was known of it.
///
/// # Errors
/// [`InstallError`].
pub fn remove(
    name: &str,
    cache: &Path,
    tell: &mut Listener<'_>,
) -> Result<(PathBuf, Manifest), InstallError> {
    let place = Place::of(cache, name)?;
    let _lock = place.lock(tell)?;
    let Some(manifest) = place.manifest()? else {
        return Err(if place.target.exists() {
            InstallError::NotOurs { path: place.target }
        } else {
            place.no_model()
        });
    };
    let gone = place.aside()?;
    let moved = fs::rename(&place.target, gone.path().join("model")).and_then(|()| gone.close());
    moved.map_err(|source| InstallError::Cache { path: place.target.clone(), source })?;
    Ok((place.target, manifest))
}

/// A model of the cache, by its name.
///
/// # Errors
/// [`InstallError::NoModel`], or that its manifest cannot be read.
pub fn find(name: &str, cache: &Path) -> Result<(PathBuf, Manifest), InstallError> {
    let place = Place::of(cache, name)?;
    match place.manifest()? {
        Some(manifest) => Ok((place.target, manifest)),
        None => Err(place.no_model()),
    }
}

fn brought(place: &Place, manifest: &Manifest, fetched: u64) -> Result<BroughtModel, InstallError> {
    let length = |name: &String| fs::metadata(place.target.join(name)).map_or(0, |meta| meta.len());
    Ok(BroughtModel {
        name: manifest.name.clone(),
        path: place.target.clone(),
        kind: manifest.kind,
        repository: manifest.repository.clone(),
        revision: manifest.revision.clone(),
        files: manifest.sha256.len(),
        bytes: manifest.sha256.keys().map(length).sum(),
        fetched,
        refusal: match manifest.kind {
            ModelKind::Embedding => ModelFolder::read(&place.target, &Overrides::default())
                .err()
                .map(|error| chain(&error)),
            ModelKind::Reranker => None,
        },
        is_new: false,
    })
}

/// Files that the graph says its weights lie in. Where it cannot be read, those that are called so;
/// the layout will say why.
fn weights_of(
    graph: &Path,
    selection: &Selection,
    there: &[String],
) -> Result<Vec<String>, InstallError> {
    let bytes =
        fs::read(graph).map_err(|source| InstallError::Cache { path: graph.to_owned(), source })?;
    let Ok(parsed) = Graph::parse(&bytes) else { return Ok(selection.weights.clone()) };
    let beside =
        selection.graph.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let names = parsed.weight_files.iter().map(|name| format!("{beside}{name}"));
    Ok(names.filter(|name| there.contains(name)).collect())
}

/// Whether a folder holds a reranker: by its manifest, else by what its configuration calls itself.
#[must_use]
pub fn is_reranker(folder: &Path) -> bool {
    matches!(read_manifest(folder), Ok(Some(Manifest { kind: ModelKind::Reranker, .. })))
        || is_classifier(folder)
}

/// A second name for a file of the hub's cache, or a link where it lies on another disk or is
/// another user's.
fn put_link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| symlink(fs::canonicalize(from)?, to))
}

fn put_copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to).map(drop)
}

/// Files below a folder, from it on.
fn gather(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let path = entry.path();
        if path.is_dir() && depth > 0 {
            gather(&path, &name, depth - 1, names)?;
        } else if path.is_file() && names.len() < FILES_MAX {
            names.push(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
