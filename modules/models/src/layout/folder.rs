//! Files of a model's folder: each read once, and held to the checksum that `brahman.json` pins.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use brahman_storage::digest::{hex, sha256};
use serde_json::Value;

use super::LayoutError;
use crate::manifest::{self, Manifest};

/// Largest JSON file that is read, the tokenizer's aside: real ones have some kilobytes.
const JSON_BYTES_MAX: u64 = 16 << 20;

/// A model's folder, and what `brahman.json` pins of it.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) manifest: Option<Manifest>,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, LayoutError> {
        let file = path.join(manifest::FILE);
        let manifest = match fs::read(&file) {
            Ok(text) => {
                Some(Manifest::parse(&text).map_err(|source| LayoutError::Json { file, source })?)
            }
            // A model of the user's own has no pins; its fingerprint still tells it from any other.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // As above: what is no folder has no manifest, and its first file will say so.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
            Err(source) => return Err(LayoutError::Unreadable { file, source }),
        };
        Ok(Self { path: path.to_owned(), manifest })
    }

    /// A file's bytes and their sha256.
    pub(super) fn bytes(&self, name: &str) -> Result<(Vec<u8>, String), LayoutError> {
        let file = self.path.join(name);
        let bytes = fs::read(&file).map_err(|source| LayoutError::Missing {
            folder: self.path.clone(),
            file: name.to_owned(),
            source,
        })?;
        let found = hex(&sha256(&bytes));
        match self.manifest.as_ref().and_then(|manifest| manifest.sha256.get(name)) {
            Some(pinned) if *pinned != found => {
                Err(LayoutError::Damaged { file, found, pinned: pinned.clone() })
            }
            _ => Ok((bytes, found)),
        }
    }

    /// A file's JSON; `None` if there is no such file.
    pub(super) fn json(&self, name: &str) -> Result<Option<Value>, LayoutError> {
        let file = self.path.join(name);
        match fs::metadata(&file) {
            Ok(meta) if meta.len() > JSON_BYTES_MAX => {
                return Err(LayoutError::Large { file, bytes: meta.len(), max: JSON_BYTES_MAX });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LayoutError::Unreadable { file, source }),
        }
        let (bytes, _) = self.bytes(name)?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| LayoutError::Json { file, source })
    }

    /// The first of these files that is there, and its JSON.
    pub(super) fn first_json(
        &self,
        names: &[String],
    ) -> Result<Option<(String, Value)>, LayoutError> {
        for name in names {
            if let Some(value) = self.json(name)? {
                return Ok(Some((name.clone(), value)));
            }
        }
        Ok(None)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.path.join(name).is_file()
    }

    /// ONNX files in the folder and in `onnx/`, by name, from the folder on.
    pub(super) fn graphs(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (place, prefix) in [(self.path.clone(), ""), (self.path.join("onnx"), "onnx/")] {
            let entries = fs::read_dir(place).into_iter().flatten().flatten();
            let found = entries
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(|name| name.ends_with(".onnx"));
            names.extend(found.map(|name| format!("{prefix}{name}")));
        }
        names.sort();
        names
    }
}

/// Whether a name leads to a file in the folder itself or below it, and nowhere else.
pub(super) fn is_inside(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['\\', '\0'])
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// A name below a part of the folder; the part is empty for the folder itself.
pub(super) fn below(part: &str, name: &str) -> String {
    if part.is_empty() { name.to_owned() } else { format!("{part}/{name}") }
}

/// A whole number of a JSON object, if it has one above 0 there: in itself, else in its
/// `text_config`.
pub(super) fn number(value: &Value, key: &str) -> Option<usize> {
    let positive = |value: &Value| {
        value.get(key)?.as_u64().filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok())
    };
    positive(value).or_else(|| positive(value.get("text_config")?))
}

/// A JSON object's texts, by their keys; other values are left out.
pub(super) fn texts(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_is_not_inside() {
        assert!(
            is_inside("model.onnx_data") && is_inside("onnx/model.onnx") && is_inside("1_Pooling")
        );
        for name in ["", "..", "../x", "a/../../x", "/etc/passwd", "./x", "a\\b", "a\0b"] {
            assert!(!is_inside(name), "{name:?}");
        }
    }

    #[test]
    fn numbers_of_nested_configurations_are_found() {
        let value = serde_json::json!({"a": 0, "b": 3, "text_config": {"a": 7, "c": 9}});
        assert_eq!(
            (number(&value, "a"), number(&value, "b"), number(&value, "c"), number(&value, "d")),
            (Some(7), Some(3), Some(9), None)
        );
    }
}
