//! `brahman.json`: what a model's folder holds. It is written last, so that a folder without it is
//! not taken for a fetched model.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use brahman_storage::digest::{hex, sha256};
use serde::{Deserialize, Serialize};

use crate::catalogue;

/// The manifest's name in a model's folder.
pub const FILE: &str = "brahman.json";

/// What a model is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// It turns texts into vectors.
    #[default]
    Embedding,
    /// It scores pairs of a query and a text.
    Reranker,
}

impl ModelKind {
    /// Its name, as manifests and tables have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Reranker => "reranker",
        }
    }

    fn is_embedding(&self) -> bool {
        *self == Self::Embedding
    }
}

/// What `brahman models pull` records beside the files, and what a person may say of a model in
/// their place. What it does not say is taken from the model's other files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name by which callers require it; the folder's if empty.
    #[serde(default)]
    pub name: String,
    /// Length of the vectors; 0 if unsaid.
    #[serde(default)]
    pub dim: usize,
    /// The model's window in tokens, special ones included; 0 if unsaid.
    #[serde(default)]
    pub max_tokens: usize,
    /// Checksums by file name.
    #[serde(default)]
    pub sha256: BTreeMap<String, String>,
    /// Where it came from.
    #[serde(default)]
    pub source: String,
    /// The ONNX file, from the folder on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph: Option<String>,
    /// The graph's output that is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// How tokens become one vector: `cls`, `mean` and so on, or several joined by `+`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<String>,
    /// Whether vectors are scaled to length 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
    /// Prompts by name, in place of those of `config_sentence_transformers.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<BTreeMap<String, String>>,
    /// The prompt that is put before a text if the call names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_prompt: Option<String>,
    /// Lengths to which its vectors may be cut, because it was trained for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<Vec<usize>>,
    /// What a cross-encoder's score goes through: `sigmoid` or `identity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<String>,
    /// What is cut where a query and a text are too long for a cross-encoder: `longest_first` or
    /// `only_second`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation: Option<String>,
    /// What the model is for; said only where it is no embedding model, so that manifests stay as
    /// they were.
    #[serde(default, skip_serializing_if = "ModelKind::is_embedding")]
    pub kind: ModelKind,
    /// The hub's repository that it was pulled from, `owner/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The commit there: it is pulled again from this one, unless another is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What it was made of, if it was quantised on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<ModelOrigin>,
}

/// What a quantised model was made of, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelOrigin {
    /// Name of the model of 32 bits.
    pub name: String,
    /// Checksums of its graph, and of the files beside that which hold its weights, by file name.
    pub sha256: BTreeMap<String, String>,
    /// Bits of a weight.
    pub bits: usize,
    /// How many weights have a scale together.
    pub block_size: usize,
}

impl Manifest {
    /// From the file's bytes.
    ///
    /// # Errors
    /// That they are no JSON, or have a field that is not known.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Whether every file that it pins lies in the folder, unchanged. Reads them all.
    #[must_use]
    pub fn holds(&self, folder: &Path) -> bool {
        self.sha256.iter().all(|(name, pin)| {
            fs::read(folder.join(name)).is_ok_and(|bytes| hex(&sha256(&bytes)) == *pin)
        })
    }
}

/// One model on this machine, as its manifest tells: an empty text or 0 where it says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledModel {
    /// Name by which callers require it.
    pub name: String,
    /// The folder that it lies in.
    pub path: PathBuf,
    /// Of the graph, in hex.
    pub sha256: String,
    /// Length of the vectors.
    pub dim: usize,
    /// The model's window in tokens, special ones included.
    pub max_tokens: usize,
    /// What it is for.
    pub kind: ModelKind,
    /// Where it was pulled from, `owner/name@commit`.
    pub repository: Option<String>,
}

/// Models in the cache, by name. A folder without a manifest is none.
#[must_use]
pub fn installed(cache: &Path) -> Vec<InstalledModel> {
    // What begins with a dot is being made, or is what a pull that was cut off has left.
    let is_hidden = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    let entries = fs::read_dir(catalogue::models(cache))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| !is_hidden(entry));
    let mut models: Vec<InstalledModel> =
        entries.filter_map(|entry| described(entry.path())).collect();
    models.sort_by(|a, b| a.name.cmp(&b.name));
    models
}

/// Lenient, unlike [`Manifest::parse`]: what lies there is shown even if no module would take it.
fn described(path: PathBuf) -> Option<InstalledModel> {
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(path.join(FILE)).ok()?).ok()?;
    let number =
        |key: &str| manifest[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let text = |key: &str| manifest[key].as_str().map(str::to_owned);
    let folder =
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let graph = text("graph").unwrap_or_else(|| "model.onnx".to_owned());
    Some(InstalledModel {
        name: text("name").filter(|name| !name.is_empty()).unwrap_or(folder),
        sha256: manifest["sha256"][graph.as_str()].as_str().unwrap_or_default().to_owned(),
        dim: number("dim"),
        max_tokens: number("max_tokens"),
        kind: if manifest["kind"] == ModelKind::Reranker.name() {
            ModelKind::Reranker
        } else {
            ModelKind::Embedding
        },
        repository: text("repository")
            .map(|name| format!("{name}@{}", text("revision").unwrap_or_default())),
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_whole_only_as_it_was_pinned() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let folder = catalogue::folder(cache.path(), "small");
        fs::create_dir_all(&folder).expect("made");
        assert!(installed(cache.path()).is_empty(), "no manifest, no model");
        fs::write(folder.join("model.onnx"), "graph").expect("written");
        let pins = BTreeMap::from([("model.onnx".to_owned(), hex(&sha256(b"graph")))]);
        let manifest = Manifest {
            name: "small".to_owned(),
            dim: 4,
            max_tokens: 8,
            sha256: pins,
            ..Manifest::default()
        };
        fs::write(folder.join(FILE), serde_json::to_vec(&manifest).expect("JSON"))
            .expect("written");
        let text = fs::read(folder.join(FILE)).expect("there");
        assert_eq!(Manifest::parse(&text).expect("a manifest"), manifest);
        assert!(manifest.holds(&folder));
        let found = installed(cache.path());
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), found[0].dim, found[0].path.as_path()),
            ("small", 4, folder.as_path())
        );
        fs::write(folder.join("model.onnx"), "grapH").expect("written");
        assert!(!manifest.holds(&folder));
    }
}
