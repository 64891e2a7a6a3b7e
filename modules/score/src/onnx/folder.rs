//! A model's directory: `model.onnx`, `tokenizer.json`, `config.json`, and what the graph's inputs
//! and outputs are.
//!
//! The names are those that Hugging Face's exporters give (`text-generation-with-past`); they are
//! looked for in the graph, and what is missing or unknown is refused by name.

mod wiring;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use brahman_models::tokens::read_tokenizer;
use brahman_storage::digest::{hex, sha256, sha256_file};
use thiserror::Error;
use tokenizers::Tokenizer;

use crate::chat::Templates;
use crate::engine::EngineError;
pub use wiring::{Element, Past, Wiring, WiringError};

/// Window of a model that does not tell its own: GPT-2's.
const WINDOW: usize = 1024;
/// The configuration of ONNX Runtime GenAI's folders.
const GENAI: &str = "genai_config.json";
/// Where exporters put a graph: optimum's, then transformers.js's.
const GRAPHS: [&str; 4] = [
    "model.onnx",
    "onnx/model.onnx",
    "decoder_model_merged.onnx",
    "onnx/decoder_model_merged.onnx",
];

/// The tokenizer of a directory, and what its configuration tells.
pub struct Tokens {
    /// What its figures depend on, in hex.
    pub fingerprint: String,
    /// Tokens a sequence may have.
    pub window: usize,
    /// Tokens that the tokenizer puts before a text.
    pub first: Vec<u32>,
    /// Of the model, and what they may name.
    pub templates: Templates,
    /// Heads of attention that are computed at once.
    pub heads: u64,
    /// Width of the model.
    pub hidden: u64,
    tokenizer: Tokenizer,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("fingerprint", &self.fingerprint)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// Why a directory holds no model that can be used.
#[derive(Debug, Error)]
pub enum FolderError {
    /// A file cannot be read.
    #[error("no language model at {}: {file} cannot be read; expected model.onnx, tokenizer.json and config.json", .folder.display())]
    Missing {
        /// The directory.
        folder: PathBuf,
        /// Which file.
        file: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// `tokenizer.json` is none.
    #[error("{}", .path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the library says.
        #[source]
        source: tokenizers::Error,
    },
    /// `config.json` is no JSON.
    #[error("{}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// A folder or file in it cannot be looked at.
    #[error("{}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It is somebody's home, or a disk.
    #[error("{}: has more than {FILES_MAX} files: expected a model's own folder", .folder.display())]
    TooMany {
        /// The directory.
        folder: PathBuf,
    },
    /// Nobody knows which graph is meant.
    #[error("{}: expected one of {}; BRAHMAN_SCORE_GRAPH names the one to use", .folder.display(), .there.join(", "))]
    SeveralGraphs {
        /// The directory.
        folder: PathBuf,
        /// What is there.
        there: Vec<String>,
    },
    /// Tokenizer and graph are of different models.
    #[error(
        "{}: tokenizer.json has {tokens} tokens, the model's logits have places for {places}: they belong to different models",
        .tokenizer.display()
    )]
    OtherModel {
        /// The tokenizer's file.
        tokenizer: PathBuf,
        /// Tokens that it has.
        tokens: u32,
        /// Tokens that the graph has.
        places: u32,
    },
}

fn missing(folder: &Path, name: &str, source: io::Error) -> FolderError {
    FolderError::Missing { folder: folder.to_owned(), file: name.to_owned(), source }
}

/// Text that the tokenizer does not make into tokens.
#[derive(Debug, Error)]
#[error("the tokenizer")]
struct TokenizerError(#[source] tokenizers::Error);

impl Tokens {
    /// Reads `tokenizer.json` and `config.json`.
    ///
    /// # Errors
    /// [`FolderError`], which names the file.
    pub fn read(folder: &Path) -> Result<Self, FolderError> {
        let unfit = |source| FolderError::Tokenizer { path: folder.join("tokenizer.json"), source };
        let text = std::fs::read(folder.join("tokenizer.json"))
            .map_err(|e| missing(folder, "tokenizer.json", e))?;
        let mut tokenizer = read_tokenizer(&text).map_err(unfit)?;
        tokenizer.with_truncation(None).map_err(unfit)?;
        tokenizer.with_padding(None);
        let config = Config::read(folder)?;
        let first = first(&tokenizer, folder).map_err(unfit)?;
        Ok(Self {
            // As it was when what stands first was read from here: figures and weights that are
            // kept stay known.
            fingerprint: format!("{} {:?}", hex(&sha256(&text)), config.bos()),
            window: config.window(folder).unwrap_or(WINDOW),
            first,
            templates: Templates::read(folder),
            heads: config
                .number(&["num_attention_heads", "n_head", "n_heads", "num_heads"])
                .unwrap_or(32),
            hidden: config
                .number(&["hidden_size", "n_embd", "d_model", "word_embed_proj_dim"])
                .unwrap_or(1024),
            tokenizer,
        })
    }

    /// How many tokens there are.
    #[must_use]
    pub fn vocabulary(&self) -> u32 {
        self.tokenizer.get_vocab(true).into_values().max().map_or(0, |most| most + 1)
    }

    /// Text to tokens, without special ones.
    ///
    /// # Errors
    /// As the tokenizer gives them.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|e| EngineError::failed(TokenizerError(e)))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text to tokens, without special ones, and where in the text each stands, in bytes.
    ///
    /// # Errors
    /// As the tokenizer gives them.
    pub fn encode_placed(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError> {
        let encoding = self
            .tokenizer
            .encode(text, false)
            .map_err(|e| EngineError::failed(TokenizerError(e)))?;
        let places = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        Ok((encoding.get_ids().to_vec(), places))
    }

    /// Text that tokens stand for.
    #[must_use]
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(tokens, false).unwrap_or_default()
    }
}

/// What `config.json` says, or `genai_config.json` in its place.
struct Config {
    json: serde_json::Value,
    is_genai: bool,
}

/// Where a model of several parts keeps what is said of its language model.
const NESTED: [&str; 5] = ["text_config", "llm_config", "language_config", "llm", "decoder"];

impl Config {
    fn read(folder: &Path) -> Result<Self, FolderError> {
        let of = |name: &str| match std::fs::read(folder.join(name)) {
            Ok(text) => {
                let json = serde_json::from_slice(&text);
                json.map(Some)
                    .map_err(|source| FolderError::Config { path: folder.join(name), source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(missing(folder, name, error)),
        };
        if let Some(json) = of("config.json")? {
            return Ok(Self { json, is_genai: false });
        }
        match of(GENAI)? {
            Some(json) => Ok(Self { json: json["model"].clone(), is_genai: true }),
            None => Err(missing(folder, "config.json", io::ErrorKind::NotFound.into())),
        }
    }

    /// The first of these numbers that there is: the model's own, else that of the language model
    /// in it.
    fn number(&self, names: &[&str]) -> Option<u64> {
        let within =
            |json: &serde_json::Value| names.iter().find_map(|name| json.get(name)?.as_u64());
        within(&self.json).or_else(|| NESTED.iter().find_map(|part| within(self.json.get(part)?)))
    }

    /// As it stands at the top of `config.json`.
    fn bos(&self) -> Option<u32> {
        let id = if self.is_genai { None } else { self.json.get("bos_token_id") };
        id.and_then(serde_json::Value::as_u64).and_then(|id| u32::try_from(id).ok())
    }

    /// Tokens that the model reads; of the tokenizer, if nobody else says so.
    fn window(&self, folder: &Path) -> Option<usize> {
        let names = [
            "max_position_embeddings",
            "n_positions",
            "n_ctx",
            "seq_length",
            "max_seq_len",
            "max_sequence_length",
            "context_length",
        ];
        let own = self.number(&names).or_else(|| {
            let text = std::fs::read(folder.join("tokenizer_config.json")).ok()?;
            let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
            // Where nobody knew it, it is a number of thirty digits.
            json["model_max_length"].as_u64().filter(|n| *n < 1 << 32)
        });
        own.filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok())
    }

    /// The graph that ONNX Runtime GenAI's configuration names.
    fn graph(&self) -> Option<String> {
        self.json["decoder"]["filename"].as_str().filter(|_| self.is_genai).map(str::to_owned)
    }
}

/// What the tokenizer puts before a text: as `tokenizer_config.json` says by `add_bos_token`, else
/// as it does when it is asked for special tokens. That a model has a `bos_token_id` says nothing:
/// many were trained without one before their texts.
fn first(tokenizer: &Tokenizer, folder: &Path) -> Result<Vec<u32>, tokenizers::Error> {
    let config = std::fs::read(folder.join("tokenizer_config.json")).ok();
    let config: serde_json::Value =
        config.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let token = config["bos_token"].as_str().or_else(|| config["bos_token"]["content"].as_str());
    match (config["add_bos_token"].as_bool(), token.and_then(|token| tokenizer.token_to_id(token)))
    {
        (Some(false), _) => return Ok(Vec::new()),
        (Some(true), Some(id)) => return Ok(vec![id]),
        _ => {}
    }
    let with = |special: bool| {
        tokenizer.encode_fast("a", special).map(|encoding| encoding.get_ids().to_vec())
    };
    let (bare, dressed) = (with(false)?, with(true)?);
    let at = dressed.windows(bare.len().max(1)).position(|window| window == bare);
    Ok(dressed[..at.unwrap_or(0)].to_vec())
}

/// Files of a model's directory, and how deep it is: far more than any model has.
const FILES_MAX: usize = 1000;
const DEPTH_MAX: usize = 4;
/// What has a part of its own in the fingerprint, or none in the figures.
const ASIDE: [&str; 3] = ["model.onnx", "tokenizer.json", "config.json"];

/// Names and hashes of all files that may hold weights. A graph keeps them outside of itself under
/// any name that it likes, in subgraphs and functions as well; so every file counts that is not
/// hidden and no text for people. One too many costs a cold store, one too few would give the
/// figures of one model for another's.
fn beside(folder: &Path) -> Result<Vec<String>, FolderError> {
    let mut files = Vec::new();
    gather(folder, "", DEPTH_MAX, &mut files)?;
    files.sort();
    let hash = |name: String| -> Result<String, FolderError> {
        let (hash, _) = sha256_file(&folder.join(&name)).map_err(|e| missing(folder, &name, e))?;
        Ok(format!("{name} {hash}"))
    };
    files.into_iter().map(hash).collect()
}

fn gather(
    folder: &Path,
    below: &str,
    depth: usize,
    files: &mut Vec<String>,
) -> Result<(), FolderError> {
    let path = folder.join(below);
    let failed = |source: io::Error| FolderError::Unreadable { path: path.clone(), source };
    for entry in std::fs::read_dir(&path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A name that is no text can be in no graph.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let lower = name.to_lowercase();
        if name.starts_with('.')
            || lower.ends_with(".md")
            || lower == "license"
            || lower == "license.txt"
        {
            continue;
        }
        let name = if below.is_empty() { name } else { format!("{below}/{name}") };
        // Links are followed: hubs keep files as links to where they lie.
        let meta = std::fs::metadata(entry.path())
            .map_err(|source| FolderError::Unreadable { path: entry.path(), source })?;
        if meta.is_dir() {
            if depth > 0 {
                gather(folder, &name, depth - 1, files)?;
            }
        } else if meta.is_file() && !ASIDE.contains(&name.as_str()) {
            files.push(name);
        }
        if files.len() > FILES_MAX {
            return Err(FolderError::TooMany { folder: folder.to_owned() });
        }
    }
    Ok(())
}

/// The graph in a folder: the one that is named, else where exporters put it, else the only one.
fn graph(folder: &Path, named: Option<String>) -> Result<String, FolderError> {
    if let Some(named) = named {
        return Ok(named);
    }
    // What cannot be read is told where it is read for good.
    if let Some(graph) = Config::read(folder).ok().and_then(|config| config.graph()) {
        return Ok(graph);
    }
    if let Some(graph) = GRAPHS.into_iter().find(|graph| folder.join(graph).is_file()) {
        return Ok(graph.to_owned());
    }
    let mut there: Vec<String> = Vec::new();
    for (place, before) in [(folder.to_owned(), ""), (folder.join("onnx"), "onnx/")] {
        let names = std::fs::read_dir(place)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        there.extend(
            names
                .filter(|name| name.ends_with(".onnx"))
                .take(FILES_MAX)
                .map(|name| format!("{before}{name}")),
        );
    }
    there.sort();
    match there.len() {
        0 => Ok(GRAPHS[0].to_owned()),
        1 => Ok(there.remove(0)),
        _ => Err(FolderError::SeveralGraphs { folder: folder.to_owned(), there }),
    }
}

/// A directory that was read.
#[derive(Debug)]
pub struct Folder {
    /// Name of the model, its folder's.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// File of the model's graph.
    pub onnx: PathBuf,
    /// Everything the figures depend on, in hex.
    pub fingerprint: String,
    /// Its tokenizer, and what is configured of it.
    pub tokens: Tokens,
}

impl Folder {
    /// Reads a directory; the graph is only hashed.
    ///
    /// # Errors
    /// [`FolderError`], which names the file.
    pub fn read(folder: &Path) -> Result<Self, FolderError> {
        let graph = graph(folder, crate::engine::var("BRAHMAN_SCORE_GRAPH"))?;
        let onnx = folder.join(&graph);
        let mut parts = vec![sha256_file(&onnx).map_err(|e| missing(folder, &graph, e))?.0];
        parts.extend(beside(folder)?);
        let tokens = Tokens::read(folder)?;
        parts.push(tokens.fingerprint.clone());
        Ok(Self {
            name: folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            path: folder.to_owned(),
            onnx,
            fingerprint: hex(&sha256(parts.join("\0").as_bytes())),
            tokens,
        })
    }

    /// Whether tokenizer and graph belong together.
    ///
    /// # Errors
    /// [`FolderError::OtherModel`].
    pub fn fits(&self, wiring: &Wiring) -> Result<(), FolderError> {
        let (tokens, places) = (self.tokens.vocabulary(), wiring.vocabulary);
        if tokens > places {
            return Err(FolderError::OtherModel {
                tokenizer: self.path.join("tokenizer.json"),
                tokens,
                places,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
