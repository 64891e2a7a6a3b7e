//! A model on disk, loaded: its plan, its bytes, its tokenizer, and the fingerprint of everything that makes its vectors.
//!
//! The bytes that are hashed are the bytes that are loaded, weights in files of their own included.

use std::path::Path;
use std::sync::Arc;

use brahman_models::layout::{LayoutError, ModelFolder, ModelPlan, Overrides};
use brahman_storage::digest::{hex, sha256};
use thiserror::Error;

use super::head::Head;
use super::text::{TextReader, TokenizerError};

/// What the warm-up embeds: words of any European language's vocabulary, and some that are none.
const SAMPLE: &str = "The mesh of services answers 42 questions: über, naïve, xyzzy.";
/// Tokens of it that are taken: enough for a graph to show what it does with several.
const SAMPLE_TOKENS: usize = 16;

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
        file: std::path::PathBuf,
        /// What is wrong with it.
        #[source]
        source: TokenizerError,
    },
}

/// A loaded model, not yet in a session.
pub struct Model {
    /// Everything between a text and its vector.
    pub plan: ModelPlan,
    /// The ONNX file's bytes.
    pub onnx: Vec<u8>,
    /// Weights that the graph names as files beside it (`external_data`), by the name it has for them.
    pub weights: Vec<(String, Arc<[u8]>)>,
    /// What is done outside the graph.
    pub head: Arc<Head>,
    /// Text to token ids.
    pub reader: TextReader,
    /// Ids of some text, as the tokenizer gives them.
    pub sample: Vec<u32>,
    /// Everything the vectors depend on, in hex.
    pub fingerprint: String,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("name", &self.plan.name).field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Model {
    /// Loads and checks a model directory.
    ///
    /// # Errors
    /// [`ModelError`], which names the file.
    pub fn load(folder: &Path, overrides: &Overrides) -> Result<Self, ModelError> {
        let ModelFolder { plan, onnx, weights, tokenizer, digests } = ModelFolder::read(folder, overrides)?;
        let refuse = |source: TokenizerError| ModelError::Tokenizer { file: folder.join("tokenizer.json"), source };
        let reader = TextReader::open(&tokenizer, &plan).map_err(refuse)?;
        let mut sample = reader.ids(SAMPLE).map_err(|e| refuse(e.into()))?.ids;
        sample.truncate(SAMPLE_TOKENS);
        if sample.is_empty() {
            sample.push(0);
        }
        let fingerprint = fingerprint(&plan, &reader, &digests);
        Ok(Self { head: Arc::new(Head::of(&plan)), plan, onnx, weights, reader, sample, fingerprint })
    }
}

/// Of the files' checksums and of everything else that makes a vector. A model that was rightly served when the mean of its tokens,
/// scaled to length 1, was assumed of every model keeps the fingerprint that it has always had.
fn fingerprint(plan: &ModelPlan, reader: &TextReader, digests: &[String]) -> String {
    let digests = digests.join("\0");
    let recipe = if plan.is_as_once_assumed() && reader.cuts_as_once_assumed() {
        format!("{digests}\0mean\0l2\0{}\0fp32", plan.window.tokens)
    } else {
        format!("{digests}\0{}", plan.recipe())
    };
    hex(&sha256(recipe.as_bytes()))
}
