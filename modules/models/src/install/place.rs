//! A model's folder in the cache: locked while it changes, built beside its place, judged, and put
//! there in one step.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use brahman_card::chain;
use brahman_card::names::ModelName;
use brahman_storage::atomic;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde_json::Value;
use tempfile::TempDir;

use super::errors::InstallError;
use super::{BroughtModel, Files};
use crate::catalogue;
use crate::fetch::{Listener, Progress};
use crate::layout::{LayoutError, ModelFolder, Overrides};
use crate::manifest::{self, Manifest, ModelKind};
use crate::published::PublishedModel;

/// What a cross-encoder's configuration calls itself.
const CLASSIFIER: &str = "ForSequenceClassification";

/// Where a model's folder is, or will be.
pub(super) struct Place {
    pub(super) name: ModelName,
    pub(super) models: PathBuf,
    pub(super) target: PathBuf,
}

/// A model that nobody else changes. Its file goes with it, while it is held still.
#[derive(Debug)]
pub(super) struct PlaceLock {
    _file: File,
    path: PathBuf,
}

impl Drop for PlaceLock {
    fn drop(&mut self) {
        // One that stays is in nobody's way.
        let _ = fs::remove_file(&self.path);
    }
}

impl Place {
    pub(super) fn of(cache: &Path, name: &str) -> Result<Self, InstallError> {
        let name = ModelName::new(name).map_err(|flaw| InstallError::Name { flaw })?;
        Ok(Self {
            models: catalogue::models(cache),
            target: catalogue::folder(cache, name.as_str()),
            name,
        })
    }

    pub(super) fn no_model(&self) -> InstallError {
        InstallError::NoModel { name: self.name.to_string(), models: self.models.clone() }
    }

    pub(super) fn taken(&self, by: &Manifest) -> InstallError {
        // A variant that is published and one that was made here may be called the same.
        let published = by.repository.as_ref().filter(|_| by.made_of.is_none());
        let of = published
            .map_or_else(|| by.source.clone(), |of| format!("{of}, as it is published there"));
        InstallError::Taken { name: self.name.to_string(), path: self.target.clone(), of }
    }

    pub(super) fn manifest(&self) -> Result<Option<Manifest>, InstallError> {
        read_manifest(&self.target)
    }

    /// Keeps other processes from changing the model, and clears away what one that was killed has
    /// left. No name has a `~`.
    pub(super) fn lock(&self, tell: &mut Listener<'_>) -> Result<PlaceLock, InstallError> {
        let path = self.models.join(format!(".{}~lock", self.name));
        let failed = |source| InstallError::Cache { path: path.clone(), source };
        fs::create_dir_all(&self.models).map_err(failed)?;
        let lock = loop {
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    tell(Progress::Note(&format!(
                        "{} is being changed by another process: waiting for it",
                        self.name
                    )));
                    file.lock().map_err(failed)?;
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // Whoever had it before has removed it: what is locked has to be what the next one
            // finds.
            let own = file.metadata().map_err(failed)?;
            let is_there = fs::symlink_metadata(&path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino()));
            if is_there {
                break PlaceLock { _file: file, path: path.clone() };
            }
        };
        let prefix = self.prefix();
        for entry in fs::read_dir(&self.models).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(&prefix) && entry.path() != path {
                // Whatever stays is only in the way of nobody.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(lock)
    }

    fn prefix(&self) -> String {
        format!(".{}~", self.name)
    }

    /// A folder beside the target.
    pub(super) fn aside(&self) -> Result<TempDir, InstallError> {
        let made = tempfile::Builder::new().prefix(&self.prefix()).tempdir_in(&self.models);
        made.map_err(|source| InstallError::Cache { path: self.models.clone(), source })
    }

    /// Builds the folder and puts it in its place.
    pub(super) fn install(
        self,
        mut manifest: Manifest,
        files: &Files,
        put: fn(&Path, &Path) -> io::Result<()>,
        published: Option<&PublishedModel>,
        fetched: u64,
        own: Option<&Path>,
    ) -> Result<BroughtModel, InstallError> {
        let aside = self.aside()?;
        let building = aside.path().join("model");
        for (name, (from, _, _)) in files {
            let to = building.join(name);
            let placed =
                to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| put(from, &to));
            placed.map_err(|source| InstallError::Cache { path: to, source })?;
        }
        manifest.sha256 =
            files.iter().map(|(name, (_, sha256, _))| (name.clone(), sha256.clone())).collect();
        if is_classifier(&building) {
            manifest.kind = ModelKind::Reranker;
        }
        // It names the folder, which will be another, or is a person's own.
        let place = own.unwrap_or(&self.target);
        let renamed = |why: String| {
            why.replace(&building.display().to_string(), &place.display().to_string())
        };
        let refusal = judge(&building, &mut manifest, published)?.map(renamed);
        if let Some(why) = refusal.clone().filter(|_| own.is_some()) {
            return Err(InstallError::Unservable { why });
        }
        let failed = |source| InstallError::Cache { path: self.target.clone(), source };
        // The folder was made for nobody else's eyes, and is as others are.
        fs::set_permissions(&building, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        exchange(&building, &self.target)
            .and_then(|()| atomic::sync_dir(&self.models))
            .map_err(failed)?;
        Ok(BroughtModel {
            name: manifest.name,
            path: self.target,
            kind: manifest.kind,
            repository: manifest.repository,
            revision: manifest.revision,
            files: files.len(),
            bytes: files.values().map(|(_, _, bytes)| bytes).sum(),
            fetched,
            refusal,
            is_new: true,
        })
    }
}

/// Puts a folder in the place of another, which is then where the first was, or in a place where
/// there is none: in one step, where the file system can.
fn exchange(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
        Err(Errno::NOENT) => fs::rename(from, to),
        // Some cannot: those over a network.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let former = from.with_file_name("former");
            match fs::rename(to, &former) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // What cannot be put there leaves what was there.
            fs::rename(from, to).inspect_err(|_| drop(fs::rename(&former, to)))
        }
        exchanged => exchanged.map_err(io::Error::from),
    }
}

/// Writes the manifest of a folder that is being built, once it is known whether it needs the
/// list's word. Gives why it cannot be served.
pub(super) fn judge(
    folder: &Path,
    manifest: &mut Manifest,
    published: Option<&PublishedModel>,
) -> Result<Option<String>, InstallError> {
    write_manifest(folder, manifest)?;
    if manifest.kind == ModelKind::Reranker {
        return Ok(None);
    }
    // What the manifest says is a person's word, or the list's of an earlier time.
    let listed = published
        .filter(|_| manifest.pooling.is_none())
        .and_then(|model| Some((model, model.pooling?.name())));
    match (ModelFolder::read(folder, &Overrides::default()), listed) {
        (Ok(read), Some((model, listed))) => {
            match read.plan.pooling.map(|pooling| pooling.name()) {
                Some(found) if found != listed => Err(InstallError::Contradiction {
                    name: model.name.clone(),
                    repository: model.repository.clone(),
                    listed: listed.to_owned(),
                    found,
                }),
                _ => Ok(None),
            }
        }
        (Ok(_), None) => Ok(None),
        (Err(LayoutError::NoPooling { .. }), Some((_, listed))) => {
            manifest.pooling = Some(listed.to_owned());
            write_manifest(folder, manifest)?;
            Ok(ModelFolder::read(folder, &Overrides::default()).err().map(|error| chain(&error)))
        }
        (Err(error @ LayoutError::Damaged { .. }), _) => Err(error.into()),
        (Err(error), _) => Ok(Some(chain(&error))),
    }
}

pub(super) fn is_classifier(folder: &Path) -> bool {
    let config: Option<Value> = fs::read(folder.join("config.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let architectures = config.as_ref().and_then(|config| config.get("architectures")?.as_array());
    architectures
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(|name| name.ends_with(CLASSIFIER))
}

pub(super) fn read_manifest(folder: &Path) -> Result<Option<Manifest>, InstallError> {
    let path = folder.join(manifest::FILE);
    match fs::read(&path) {
        Ok(bytes) => Manifest::parse(&bytes)
            .map(Some)
            .map_err(|source| InstallError::Manifest { path, source }),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(source) => Err(InstallError::Cache { path, source }),
    }
}

fn write_manifest(folder: &Path, manifest: &Manifest) -> Result<(), InstallError> {
    let path = folder.join(manifest::FILE);
    match serde_json::to_vec_pretty(manifest) {
        Ok(text) => {
            atomic::write(&path, &text).map_err(|source| InstallError::Cache { path, source })
        }
        Err(source) => Err(InstallError::Manifest { path, source }),
    }
}
