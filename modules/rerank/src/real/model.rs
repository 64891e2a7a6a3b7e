//! A model on disk, loaded: its plan, its bytes, its tokenizer, and the fingerprint of everything
//! that makes its scores.
//!
//! The bytes that are hashed are the bytes that are loaded, weights in files of their own included.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use brahman_models::layout::{LayoutError, PairFolder, PairPlan};
use brahman_storage::digest::{hex, sha256};
use thiserror::Error;

use super::reader::{PairError, PairReader, PairTokens, TokenizerError};

/// What a model is tried with: a query, and two texts of different length.
const SAMPLE_QUERY: &str = "Which service answers?";
const SAMPLE_SHORT: &str = "The mesh does.";
const SAMPLE_LONG: &str =
    "The mesh of services answers 42 questions: über, naïve, xyzzy, and so on.";

/// Why a model cannot be used.
#[derive(Debug, Error)]
pub enum ModelError {
    /// Its folder.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Its tokenizer.
    #[error("{}", file.display())]
    Tokenizer {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: TokenizerError,
    },
    /// Its tokenizer, of an ordinary pair.
    #[error("{}", file.display())]
    Sample {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PairError,
    },
}

/// A loaded model, not yet in a session.
pub struct Model {
    /// Everything between a query with a text and its score.
    pub plan: PairPlan,
    /// The ONNX file's bytes.
    pub onnx: Vec<u8>,
    /// Weights that the graph names as files beside it (`external_data`), by the name it has for
    /// them.
    pub weights: Vec<(String, Arc<[u8]>)>,
    /// Query and text to token ids.
    pub reader: PairReader,
    /// Two pairs of different length, as the tokenizer gives them.
    pub samples: [PairTokens; 2],
    /// Everything the scores depend on, in hex.
    pub fingerprint: String,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("name", &self.plan.name)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Loads and checks a model directory; `graph` names the ONNX file in place of what the folder
    /// says.
    ///
    /// # Errors
    /// [`ModelError`], which names the file.
    pub fn load(folder: &Path, graph: Option<&String>) -> Result<Self, ModelError> {
        let PairFolder { plan, onnx, weights, tokenizer, digests } =
            PairFolder::read(folder, graph)?;
        let file = || folder.join("tokenizer.json");
        let reader = PairReader::open(&tokenizer, &plan)
            .map_err(|source| ModelError::Tokenizer { file: file(), source })?;
        let sample = |text: &str| -> Result<PairTokens, PairError> {
            reader.pair(&reader.query(SAMPLE_QUERY)?, text)
        };
        let refuse = |source: PairError| ModelError::Sample { file: file(), source };
        let samples = [sample(SAMPLE_SHORT).map_err(refuse)?, sample(SAMPLE_LONG).map_err(refuse)?];
        let fingerprint =
            hex(&sha256(format!("{}\0{}", digests.join("\0"), plan.recipe()).as_bytes()));
        Ok(Self { plan, onnx, weights, reader, samples, fingerprint })
    }
}
