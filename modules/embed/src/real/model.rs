//! A model on disk, loaded: its plan, its bytes, its tokenizer, and the fingerprint of everything
//! that makes its vectors.
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
    /// Weights that the graph names as files beside it (`external_data`), by the name it has for
    /// them.
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
        f.debug_struct("Model")
            .field("name", &self.plan.name)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Loads and checks a model directory.
    ///
    /// # Errors
    /// [`ModelError`], which names the file.
    pub fn load(folder: &Path, overrides: &Overrides) -> Result<Self, ModelError> {
        let ModelFolder { plan, onnx, weights, tokenizer, digests } =
            ModelFolder::read(folder, overrides)?;
        let refuse = |source: TokenizerError| ModelError::Tokenizer {
            file: folder.join("tokenizer.json"),
            source,
        };
        let reader = TextReader::open(&tokenizer, &plan).map_err(refuse)?;
        let mut sample = reader.ids(SAMPLE).map_err(|e| refuse(e.into()))?.ids;
        sample.truncate(SAMPLE_TOKENS);
        if sample.is_empty() {
            sample.push(0);
        }
        let fingerprint = fingerprint(&plan, &reader, &digests);
        Ok(Self {
            head: Arc::new(Head::of(&plan)),
            plan,
            onnx,
            weights,
            reader,
            sample,
            fingerprint,
        })
    }
}

/// Of the files' checksums and of everything else that makes a vector. A model that was rightly
/// served when the mean of its tokens, scaled to length 1, was assumed of every model keeps the
/// fingerprint that it has always had.
fn fingerprint(plan: &ModelPlan, reader: &TextReader, digests: &[String]) -> String {
    let digests = digests.join("\0");
    let recipe = if plan.is_as_once_assumed() && reader.cuts_as_once_assumed() {
        format!("{digests}\0mean\0l2\0{}\0fp32", plan.window.tokens)
    } else {
        format!("{digests}\0{}", plan.recipe())
    };
    hex(&sha256(recipe.as_bytes()))
}

#[cfg(test)]
mod tests {
    use brahman_models::catalogue;
    use brahman_models::layout::{Pooling, PoolingMode};

    use super::super::text::tests::{plan, words};
    use super::*;

    #[test]
    fn the_default_model_keeps_the_fingerprint_that_it_has_always_had() {
        let tokenizer = words(&["[CLS]"], &["[SEP]"]);
        let digests = [catalogue::ONNX_SHA256, catalogue::FILES[1].1].map(str::to_owned);
        let of = |plan: &ModelPlan, tokenizer: &[u8]| {
            fingerprint(plan, &TextReader::open(tokenizer, plan).expect("a tokenizer"), &digests)
        };
        let default = plan(catalogue::MAX_TOKENS);
        // Caches and indexes on people's disks are named by these digits.
        let always = of(&ModelPlan { inputs: bert(), ..default.clone() }, &tokenizer);
        assert_eq!(always, "be0231fd88dd6029ef77159a012377868bac1ca758d1de96b7455fe9752a440e");
        let cls = Pooling { modes: vec![PoolingMode::Cls], include_prompt: true };
        let changed = ModelPlan { inputs: bert(), pooling: Some(cls), ..default.clone() };
        assert_ne!(of(&changed, &tokenizer), always);
        let unclosed = words(&[], &[]);
        assert_ne!(of(&ModelPlan { inputs: bert(), ..default }, &unclosed), always, "another cut");
    }

    /// BERT's inputs.
    fn bert() -> Vec<brahman_models::layout::InputPlan> {
        use brahman_models::layout::{InputPlan, InputRole};
        let roles = [
            ("input_ids", InputRole::Ids),
            ("attention_mask", InputRole::Mask),
            ("token_type_ids", InputRole::Types),
        ];
        roles.map(|(name, role)| InputPlan { name: name.to_owned(), role, is_narrow: false }).into()
    }
}
