//! What may be wrong with a model's folder: each reason names the file, what was expected, and what
//! to say where.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::{ModuleFlaw, PairFlaw};
use crate::graph::GraphError;

/// What is wrong with a graph.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GraphFlaw {
    /// An input that no text gives.
    #[error(
        "the graph has an input `{name}`, which nothing here fills; known are input_ids, attention_mask, token_type_ids and position_ids"
    )]
    Input {
        /// Its name.
        name: String,
    },
    /// An input of another type.
    #[error("the graph's input `{name}` is of {element}, expected int64 or int32")]
    InputType {
        /// Its name.
        name: String,
        /// Its type.
        element: String,
    },
    /// An input of another shape.
    #[error(
        "the graph's input `{name}` has the fixed shape {shape}, expected [batch, sequence]: export it with dynamic axes"
    )]
    InputShape {
        /// Its name.
        name: String,
        /// Its axes.
        shape: String,
    },
    /// No tokens.
    #[error("the graph has no input `input_ids`")]
    NoIds,
    /// Padding would count.
    #[error(
        "the graph's sequence axis is fixed and it has no input `attention_mask`: padding would change the vectors"
    )]
    Unmasked,
    /// The output that was named.
    #[error("the graph has no output `{name}`; it has {}", quoted(there))]
    NoOutput {
        /// As it was named.
        name: String,
        /// What there is.
        there: Vec<String>,
    },
    /// Several, and none of a known name.
    #[error(
        "none of the graph's outputs is known to be of an embedding model: {}; name one as `output` in brahman.json",
        quoted(there)
    )]
    Outputs {
        /// What there is.
        there: Vec<String>,
    },
    /// An output of another shape.
    #[error(
        "the graph's output `{name}` has the shape {shape}, expected [batch, sequence, hidden] or [batch, hidden]"
    )]
    OutputShape {
        /// Its name.
        name: String,
        /// Its axes.
        shape: String,
    },
    /// An output of another type.
    #[error("the graph's output `{name}` is of {element}, expected float32, float16 or bfloat16")]
    OutputType {
        /// Its name.
        name: String,
        /// Its type.
        element: String,
    },
    /// It is for something else.
    #[error(
        "the graph's only output is `{name}` {shape}, of {kind}: no embedding model (a classifier with one output is a cross-encoder, \
         which reranks)"
    )]
    OtherPurpose {
        /// The output's name.
        name: String,
        /// Its axes.
        shape: String,
        /// What it is for.
        kind: String,
    },
}

/// Names for people, each in quotation marks.
pub(super) fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Why a folder is no model that can be served.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// A file is not there.
    #[error("no model at {}: {file} cannot be read; `brahman models pull` fetches one, $BRAHMAN_MODEL_DIR names one", folder.display())]
    Missing {
        /// Model directory.
        folder: PathBuf,
        /// Which file.
        file: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read, although it is there.
    #[error("{} cannot be read", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file is not the one that was pinned.
    #[error(
        "{} is damaged: its sha256 is {found}, brahman.json says {pinned}; `brahman models pull --force` fetches it again", file.display()
    )]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// What it is.
        found: String,
        /// What it should be.
        pinned: String,
    },
    /// A file is no JSON, or not the right one.
    #[error("{}", file.display())]
    Json {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A file of settings that is far too large.
    #[error("{} has {bytes} bytes, expected at most {max}", file.display())]
    Large {
        /// Which file.
        file: PathBuf,
        /// How large it is.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// There are several graphs, and none of the usual name.
    #[error(
        "several ONNX files in {} and none called model.onnx: {}; name one as {variable} in the Card, or as `graph` in brahman.json",
        folder.display(), quoted(names)
    )]
    Graphs {
        /// Model directory.
        folder: PathBuf,
        /// The variable that may name one.
        variable: &'static str,
        /// What there is.
        names: Vec<String>,
    },
    /// A file that is named outside the folder.
    #[error("{place} names `{name}`, expected a file inside the model's folder")]
    Outside {
        /// Who names it.
        place: String,
        /// As it is named.
        name: String,
    },
    /// The graph is no ONNX file.
    #[error("{}", file.display())]
    Unparsed {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: GraphError,
    },
    /// The graph names weights that anybody could have put there.
    #[error("{} names weights (external data) in `{name}`, expected a file beside it", file.display())]
    Weights {
        /// The graph.
        file: PathBuf,
        /// Where it wants them from.
        name: String,
    },
    /// The graph cannot be used.
    #[error("{}", file.display())]
    Graph {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        flaw: GraphFlaw,
    },
    /// A module cannot be used.
    #[error("{place}")]
    Module {
        /// The module's folder or file, from the model's on.
        place: String,
        /// Why.
        #[source]
        flaw: ModuleFlaw,
    },
    /// A file of a cross-encoder is not there.
    #[error("no cross-encoder at {}: {file} cannot be read", folder.display())]
    MissingPair {
        /// Model directory.
        folder: PathBuf,
        /// Which file.
        file: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The graph is no cross-encoder's, or its files do not say how it is one.
    #[error("{}", file.display())]
    Pair {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        flaw: PairFlaw,
    },
    /// Nothing says how to pool.
    #[error(
        "nothing in {} says how the tokens' vectors are pooled, neither modules.json nor 1_Pooling/config.json: say it as \
         BRAHMAN_EMBED_POOLING in the Card, or as `pooling` in a brahman.json there: cls, mean, max, mean_sqrt_len, weightedmean, \
         lasttoken, or several joined by `+`",
        folder.display()
    )]
    NoPooling {
        /// Model directory.
        folder: PathBuf,
    },
    /// A way of pooling that is not known.
    #[error(
        "{place} says pooling `{mode}`, expected cls, mean, max, mean_sqrt_len, weightedmean, lasttoken, or several joined by `+`"
    )]
    PoolingMode {
        /// Who says it.
        place: &'static str,
        /// As it is said.
        mode: String,
    },
    /// The graph pools, and the modules want tokens.
    #[error("{}: its only output `{output}` is one vector a text, and modules.json wants a vector a token", file.display())]
    Pooled {
        /// The graph.
        file: PathBuf,
        /// Its output.
        output: String,
    },
    /// Nothing says how many tokens it takes.
    #[error(
        "nothing in {} says how many tokens the model takes: say it as `max_tokens` in a brahman.json there, or as max_seq_length in \
         sentence_bert_config.json",
        folder.display()
    )]
    NoWindow {
        /// Model directory.
        folder: PathBuf,
    },
    /// No text fits.
    #[error("the window is {tokens} tokens by {source_said}, expected at least 2")]
    Window {
        /// As it is said.
        tokens: usize,
        /// Who says it.
        source_said: String,
    },
    /// The graph bears fewer tokens.
    #[error(
        "the window is {tokens} tokens by {source_said}, and the graph's table of positions bears {bears}"
    )]
    Positions {
        /// As it is said.
        tokens: usize,
        /// Who says it.
        source_said: String,
        /// What the graph bears.
        bears: usize,
    },
    /// A default that is not there.
    #[error(
        "the default prompt is called `{name}`, and there is none of that name; there are {}",
        quoted(there)
    )]
    DefaultPrompt {
        /// Its name.
        name: String,
        /// What there is.
        there: Vec<String>,
    },
}
