//! Where the objects of each bucket lie on this machine: in the bucket's own folder or, of one in
//! S3, in a folder of copies.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use brahman_card::interface::catalog::{Dataset, Object};
use brahman_card::interface::storage::PRIMARY;
use brahman_storage::buckets::Root;
use brahman_storage::digest::sha256_file;

use super::RegistryError;

/// All buckets that datasets can lie in.
#[derive(Clone, Debug)]
pub struct Roots {
    all: BTreeMap<String, Root>,
    /// Why there may be more than these.
    unread: Vec<String>,
}

impl Roots {
    /// Only `primary`, before anybody has said more.
    pub(super) fn primary(state: &Path) -> Self {
        let folder = state.join("buckets").join(PRIMARY);
        Self::new([(PRIMARY.to_owned(), Root::local(folder))].into())
    }

    /// Roots of these buckets, by name.
    #[must_use]
    pub fn new(all: BTreeMap<String, Root>) -> Self {
        Self { all, unread: Vec::new() }
    }

    /// The same, where this could not be read of which buckets there are.
    #[must_use]
    pub fn with_unread(self, unread: Vec<String>) -> Self {
        Self { unread, ..self }
    }

    /// For mocks: folders of the same names below another one, so that what a mock is told to write
    /// to `big` lies in the mock's `big`.
    #[must_use]
    pub fn apart(&self, home: &Path) -> Self {
        let known = fs::read_dir(home)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|folder| folder.file_name().into_string().ok());
        let names = self
            .all
            .keys()
            .cloned()
            .chain([PRIMARY.to_owned()])
            .chain(known.filter(|name| !name.starts_with('.')));
        Self::new(names.map(|name| (name.clone(), Root::local(home.join(name)))).collect())
    }

    /// Why there may be more buckets than these.
    #[must_use]
    pub fn unread(&self) -> &[String] {
        &self.unread
    }

    /// Of one bucket.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn get(&self, bucket: &str) -> Result<&Root, RegistryError> {
        let there = || self.all.keys().cloned().collect::<Vec<_>>().join(", ");
        self.all
            .get(bucket)
            .ok_or_else(|| RegistryError::NoSuchBucket { name: bucket.to_owned(), there: there() })
    }

    /// Folder of every bucket, or of its copies.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.all.values().map(|root| root.folder.as_path())
    }

    /// Every bucket's name and root.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Root)> {
        self.all.iter().map(|(name, root)| (name.as_str(), root))
    }

    /// Where an object lies.
    ///
    /// # Errors
    /// If its bucket is not there.
    pub fn path(&self, object: &Object) -> Result<PathBuf, RegistryError> {
        Ok(self.get(&object.bucket)?.folder.join(&object.key))
    }

    /// A dataset with the paths of its objects.
    #[must_use]
    pub fn told(&self, mut dataset: Dataset) -> Dataset {
        for object in &mut dataset.objects {
            object.path = self.path(object).ok().map(|path| path.display().to_string());
        }
        dataset
    }

    /// Checks that every object of a commit is in its bucket and is what it says. What `known`
    /// holds was read when it was committed, and is only asked for; the rest is read whole.
    ///
    /// # Errors
    /// [`RegistryError::BadObject`].
    pub fn verify(&self, objects: &[Object], known: &[Object]) -> Result<(), RegistryError> {
        for object in objects {
            let bad = |why: String| RegistryError::BadObject {
                key: object.key.clone(),
                why: format!("{why}; nothing was published"),
            };
            if !object.key.split('/').all(|part| !part.is_empty() && part != "." && part != "..") {
                return Err(bad(format!("expected a plain key in bucket `{}`", object.bucket)));
            }
            let root = self.get(&object.bucket)?;
            let path = root.folder.join(&object.key);
            if known.contains(object) {
                let there = fs::metadata(&path).is_ok_and(|meta| meta.len() == object.bytes);
                if there || !root.is_local() {
                    continue;
                }
            }
            let (found, bytes) = sha256_file(&path)
                .map_err(|source| RegistryError::Unreadable { key: object.key.clone(), source })?;
            if found != object.sha256 || bytes != object.bytes {
                return Err(bad(format!(
                    "has {bytes} bytes and sha256 {found}, the commit says {} and {}",
                    object.bytes, object.sha256
                )));
            }
        }
        Ok(())
    }
}
