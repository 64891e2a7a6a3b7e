//! A model on disk: `model.onnx`, `tokenizer.json`, and the `brahman.json` that pins both by checksum.
//!
//! The bytes that are hashed are the bytes that are loaded, weights in files of their own included; a file that differs from
//! its pin is refused by name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use brahman_models::manifest::{self, Manifest};
use brahman_storage::digest::{hex, sha256};
use thiserror::Error;
use tokenizers::Tokenizer;

/// Precision class: vectors of different classes never share a fingerprint.
const PRECISION: &str = "fp32";

/// Why a model cannot be used.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A file is not there.
    #[error("no model at {folder}: {file} cannot be read; `brahman models pull` fetches one, $BRAHMAN_MODEL_DIR names one")]
    Missing {
        /// Model directory.
        folder: PathBuf,
        /// Which file.
        file: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A file is not the one that was pinned.
    #[error("{file} is damaged: its sha256 is {found}, brahman.json says {pinned}; `brahman models pull --force` fetches it again")]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// What it is.
        found: String,
        /// What it should be.
        pinned: String,
    },
    /// A file has no sense.
    #[error("{file}")]
    Malformed {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        flaw: ModelFlaw,
    },
}

/// What is wrong with a model's file.
#[derive(Debug, Error)]
pub enum ModelFlaw {
    /// `brahman.json` is none.
    #[error(transparent)]
    Manifest(serde_json::Error),
    /// `tokenizer.json` is none.
    #[error(transparent)]
    Tokenizer(tokenizers::Error),
    /// Weights that anybody could have put there.
    #[error("names weights in `{name}`, expected a file beside it")]
    Weights {
        /// Where the graph wants them from.
        name: String,
    },
    /// No text fits.
    #[error("max_tokens is {max_tokens}, expected at least 2: the special tokens")]
    Window {
        /// The model's window.
        max_tokens: usize,
    },
}

/// A loaded model, not yet in a session.
pub struct Model {
    /// Name by which callers require it.
    pub name: String,
    /// The ONNX file's bytes.
    pub onnx: Vec<u8>,
    /// Weights that the graph names as files beside it (`external_data`), by the name it has for them.
    pub weights: Vec<(String, Arc<[u8]>)>,
    /// Bytes of the longest token of the vocabulary.
    pub token_bytes_max: usize,
    /// Text to token ids, without truncation or padding.
    pub tokenizer: Tokenizer,
    /// The model's window in tokens, special ones included.
    pub max_tokens: usize,
    /// Everything the vectors depend on, in hex.
    pub fingerprint: String,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("name", &self.name).field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Model {
    /// Loads and checks a model directory.
    ///
    /// # Errors
    /// [`ModelError`], which names the file.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let read = |name: &str| {
            fs::read(folder.join(name)).map_err(|source| ModelError::Missing { folder: folder.to_owned(), file: name.to_owned(), source })
        };
        let malformed = |name: &str, flaw: ModelFlaw| ModelError::Malformed { file: folder.join(name), flaw };
        let (onnx, tokenizer_bytes) = (read("model.onnx")?, read("tokenizer.json")?);
        let manifest: Option<Manifest> = match fs::read(folder.join(manifest::FILE)) {
            Ok(text) => Some(Manifest::parse(&text).map_err(|e| malformed(manifest::FILE, ModelFlaw::Manifest(e)))?),
            // A model of the user's own has no pins; its fingerprint still tells it from any other.
            Err(_) => None,
        };
        let mut digests = Vec::new();
        for (name, bytes) in [("model.onnx", &onnx), ("tokenizer.json", &tokenizer_bytes)] {
            let found = hex(&sha256(bytes));
            if let Some(pinned) = manifest.as_ref().and_then(|m| m.sha256.get(name)).filter(|pinned| **pinned != found) {
                return Err(ModelError::Damaged { file: folder.join(name), found, pinned: pinned.clone() });
            }
            digests.push(found);
        }
        let mut weights = Vec::new();
        for name in weight_files(&onnx) {
            // In the model's own folder and nowhere else: the runtime would look in the working directory.
            if name.contains(['/', '\\', '\0']) || name.starts_with('.') || name.is_empty() {
                return Err(malformed("model.onnx", ModelFlaw::Weights { name }));
            }
            let bytes: Arc<[u8]> = read(&name)?.into();
            let found = hex(&sha256(&bytes));
            if let Some(pinned) = manifest.as_ref().and_then(|m| m.sha256.get(&name)).filter(|pinned| **pinned != found) {
                return Err(ModelError::Damaged { file: folder.join(&name), found, pinned: pinned.clone() });
            }
            digests.push(format!("{name}\0{found}"));
            weights.push((name, bytes));
        }
        let mut tokenizer = Tokenizer::from_bytes(&tokenizer_bytes).map_err(|e| malformed("tokenizer.json", ModelFlaw::Tokenizer(e)))?;
        // Both are done here, per text and per batch, so that what is cut is known.
        tokenizer.with_truncation(None).map_err(|e| malformed("tokenizer.json", ModelFlaw::Tokenizer(e)))?;
        tokenizer.with_padding(None);
        let name = manifest
            .as_ref()
            .map_or_else(|| folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(), |m| m.name.clone());
        let max_tokens = manifest.as_ref().map_or_else(|| window(folder), |m| m.max_tokens);
        if max_tokens < 2 {
            return Err(malformed(manifest::FILE, ModelFlaw::Window { max_tokens }));
        }
        let token_bytes_max = tokenizer.get_vocab(true).keys().map(String::len).max().unwrap_or(1);
        let recipe = format!("{}\0mean\0l2\0{max_tokens}\0{PRECISION}", digests.join("\0"));
        Ok(Self { name, onnx, weights, token_bytes_max, tokenizer, max_tokens, fingerprint: hex(&sha256(recipe.as_bytes())) })
    }
}

/// The files that a graph names for its weights: the entries `location` of its tensors' `external_data`, as protobuf writes them
/// (onnx.proto3: `StringStringEntryProto {key = 1; value = 2}`).
fn weight_files(onnx: &[u8]) -> Vec<String> {
    const ENTRY: &[u8] = b"\x0a\x08location\x12";
    let mut names = BTreeSet::new();
    for at in memchr::memmem::find_iter(onnx, ENTRY) {
        let rest = &onnx[at + ENTRY.len()..];
        // A length of one or two bytes, as protobuf's varints have it: a file's name has at most 255.
        let (length, head) = match rest {
            [low, ..] if *low < 0x80 => (usize::from(*low), 1),
            [low, high, ..] if *high < 0x80 => (usize::from(*low & 0x7f) | usize::from(*high) << 7, 2),
            _ => continue,
        };
        if let Some(Ok(name)) = rest.get(head..head + length).map(std::str::from_utf8) {
            names.insert(name.strip_prefix("./").unwrap_or(name).to_owned());
        }
    }
    names.into_iter().collect()
}

/// sentence-transformers' window, else the position embeddings', else BERT's.
fn window(folder: &Path) -> usize {
    let number = |file: &str, key: &str| {
        let value: serde_json::Value = serde_json::from_slice(&fs::read(folder.join(file)).ok()?).ok()?;
        usize::try_from(value.get(key)?.as_u64()?).ok()
    };
    number("sentence_bert_config.json", "max_seq_length").or_else(|| number("config.json", "max_position_embeddings")).unwrap_or(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_beside_the_graph_are_found_by_the_name_that_it_has_for_them() {
        let entry = |name: &str| [b"\x0a\x08location\x12", &[name.len() as u8][..], name.as_bytes()].concat();
        let onnx = [b"before".as_slice(), &entry("model.onnx_data"), b"between", &entry("./more.bin"), &entry("model.onnx_data"), b"after"]
            .concat();
        assert_eq!(weight_files(&onnx), ["model.onnx_data", "more.bin"]);
        assert!(weight_files(b"\x0a\x08location\x12\x50cut").is_empty());
        assert!(weight_files(b"location").is_empty());
    }
}
