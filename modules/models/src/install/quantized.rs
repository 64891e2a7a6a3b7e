//! A model of 8 bits, made of one of 32 that is in the cache or a person's own: a folder of its own
//! with a graph made anew, and everything else as it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use brahman_storage::digest::{hex, sha256};

use super::place::{Place, read_manifest};
use super::{
    BroughtModel, FolderFiles, InstallError, InstallOptions, brought, files_of, own_name, put_copy,
};
use crate::fetch::{Listener, Progress};
use crate::layout::{ModelFolder, Overrides};
use crate::manifest::{Manifest, ModelKind, ModelOrigin};
use crate::published::installed_name;
use crate::quantize::{self, BITS, BLOCK, QuantizeError, SOURCE_BYTES_MAX};

/// What is put behind a model's name.
const INT8: &str = "int8";
/// The graph's file, whatever the other's is called.
const GRAPH: &str = "model.onnx";
/// Files that say how tokens are pooled.
const POOLING: [&str; 2] = ["modules.json", "1_Pooling/config.json"];

/// Makes a model of 8 bits of the one in a folder, and puts it into the cache: as `NAME-int8`,
/// unless it is given another name. One that was made of the same, and is unchanged, is left as it
/// is.
///
/// # Errors
/// [`InstallError`].
pub fn quantize(
    folder: &Path,
    options: InstallOptions<'_>,
    tell: &mut Listener<'_>,
) -> Result<BroughtModel, InstallError> {
    let unreadable = |source| InstallError::Cache { path: folder.to_owned(), source };
    let folder = fs::canonicalize(folder).map_err(unreadable)?;
    let manifest = read_manifest(&folder)?.unwrap_or_default();
    let named = own_name(&folder, &manifest);
    let own = installed_name(&named, Some(INT8));
    let place = Place::of(options.cache, options.name.unwrap_or(&own))?;
    let _lock = place.lock(tell)?;
    let found = files_of(&folder, &manifest)?;
    let origin = origin(&named, &found);
    if let Some(there) = place.manifest()? {
        let is_itself = fs::canonicalize(&place.target).is_ok_and(|target| target == folder);
        let is_same = there.made_of.as_ref() == Some(&origin);
        if is_same && !options.force && there.holds(&place.target) {
            return brought(&place, &there, 0);
        }
        if is_itself {
            return Err(InstallError::Itself { name: place.name.to_string(), other: own });
        }
        if !(is_same || options.force) {
            return Err(place.taken(&there));
        }
    }
    let onnx = made(&named, &folder, &found, tell)?;
    let FolderFiles { graph, weights, mut files } = found;
    files.retain(|name, _| *name != graph && !weights.contains(name));
    let aside = place.aside()?;
    let path = aside.path().join(GRAPH);
    fs::write(&path, &onnx).map_err(|source| InstallError::Cache { path: path.clone(), source })?;
    files.insert(GRAPH.to_owned(), (path, hex(&sha256(&onnx)), onnx.len() as u64));
    drop(onnx);
    let is_said = files.keys().any(|name| POOLING.contains(&name.as_str()));
    let pooling = match &manifest.pooling {
        // What the catalogue knows of a model it knows by its name and its graph.
        None if !is_said && manifest.kind == ModelKind::Embedding => pooling(&folder),
        said => said.clone(),
    };
    let manifest = Manifest {
        name: place.name.to_string(),
        graph: Some(GRAPH.to_owned()),
        pooling,
        source: format!("{named}, quantised to {BITS} bits"),
        repository: None,
        revision: None,
        made_of: Some(origin),
        ..manifest
    };
    place.install(manifest, &files, put_copy, None, 0, Some(&folder))
}

/// What the model will have been made of.
fn origin(named: &str, found: &FolderFiles) -> ModelOrigin {
    let sha256 = std::iter::once(&found.graph)
        .chain(&found.weights)
        .filter_map(|name| Some((name.clone(), found.files.get(name)?.1.clone())))
        .collect();
    ModelOrigin { name: named.to_owned(), sha256, bits: BITS, block_size: BLOCK }
}

/// The graph of 8 bits.
fn made(
    named: &str,
    folder: &Path,
    found: &FolderFiles,
    tell: &mut Listener<'_>,
) -> Result<Vec<u8>, InstallError> {
    let path = folder.join(&found.graph);
    let refuse = |source| InstallError::Quantize { path: path.clone(), source };
    let length = |name: &String| found.files.get(name).map_or(0, |(_, _, bytes)| *bytes);
    let bytes: u64 = std::iter::once(&found.graph).chain(&found.weights).map(length).sum();
    if bytes > SOURCE_BYTES_MAX {
        return Err(refuse(QuantizeError::LargeSource { bytes }));
    }
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).map_err(|source| InstallError::Cache { path, source })
    };
    let onnx = read(&found.graph)?;
    // The graph names them from its own folder on.
    let beside = found.graph.rsplit_once('/').map_or(0, |(place, _)| place.len() + 1);
    let mut weights = BTreeMap::new();
    for name in &found.weights {
        weights.insert(name.get(beside..).unwrap_or(name).to_owned(), read(name)?);
    }
    let what = format!("quantising {named} to {BITS} bits");
    tell(Progress::Begin { what: &what, bytes: Some(bytes) });
    let quantized = quantize::quantize(&onnx, &weights, &mut |bytes| tell(Progress::At(bytes)));
    tell(Progress::End);
    quantized.map(|quantized| quantized.onnx).map_err(refuse)
}

/// How the model of a folder is pooled; `None` if it does not pool, or cannot be read, which will
/// be said of the folder that is made.
fn pooling(folder: &Path) -> Option<String> {
    let read = ModelFolder::read(folder, &Overrides::default()).ok()?;
    read.plan.pooling.map(|pooling| pooling.name())
}
