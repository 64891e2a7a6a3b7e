//! A cross-encoder's folder: every file in it that says how a query and a text become a score, read
//! and made one plan.
//!
//! Folders are as the hubs and sentence-transformers' `CrossEncoder` have them: an ONNX file,
//! `tokenizer.json`, `config.json` (of an architecture `…ForSequenceClassification`),
//! `tokenizer_config.json`. What they leave open, `brahman.json` may say.
//!
//! Where a model says nothing of its activation, that of the libraries it was made with holds:
//! sentence-transformers' logistic function of one number, transformers' softmax of two, which is
//! the logistic function of their difference.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use thiserror::Error;

use super::error::quoted;
use super::folder::{Folder, number};
use super::plan::{GraphFeed, InputRole, Precision, Window};
use super::{
    ALONE_DYNAMIC, ALONE_SINGLE, ALONE_UNMASKED, GRAPHS, GraphFlaw, HEADS_GUESSED, LayoutError,
    ports, window,
};
use crate::graph::{Element, Graph, Port};
use crate::manifest::Manifest;

/// Version of what is computed outside the graph. A change of any score changes it.
const SCORE_VERSION: u32 = 1;
/// The window of a model whose files do not say one: that of BERT and its kin, and what other
/// programs take.
const WINDOW_DEFAULT: usize = 512;
/// Tokens without which no pair fits: three or four special ones, one of the query and one of the
/// text.
const WINDOW_MIN: usize = 8;
/// Most numbers that a graph may give a pair: not relevant, and relevant.
const LABELS_MAX: usize = 2;
/// The output that classifiers have.
const LOGITS: &str = "logits";

/// Which of two texts loses tokens where they are too long together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PairCut {
    /// The longer one, then both.
    LongestFirst,
    /// The text, and never the query.
    OnlySecond,
}

impl PairCut {
    /// Its name, as Hugging Face has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LongestFirst => "longest_first",
            Self::OnlySecond => "only_second",
        }
    }

    /// How many tokens are kept of a query of `first` tokens and a text of `second`, where `room`
    /// fit; `None` if the query leaves no room for a text that may be cut alone. As Hugging Face's
    /// tokenizers do it.
    #[must_use]
    pub fn kept(self, first: usize, second: usize, room: usize) -> Option<(usize, usize)> {
        if first.saturating_add(second) <= room {
            return Some((first, second));
        }
        match self {
            Self::OnlySecond => {
                room.checked_sub(first).filter(|left| *left > 0).map(|left| (first, left))
            }
            Self::LongestFirst => {
                let (shorter, longer) = (first.min(second), first.max(second));
                let longer_kept =
                    if shorter > room { shorter } else { longer.min(shorter.max(room - shorter)) };
                let (shorter, longer) = if shorter + longer_kept > room {
                    (room / 2, room - room / 2)
                } else {
                    (shorter, longer_kept)
                };
                Some(if first > second { (longer, shorter) } else { (shorter, longer) })
            }
        }
    }
}

/// Everything between a query with a text and its score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairPlan {
    /// Name by which callers require it.
    pub name: String,
    /// The ONNX file, from the folder on.
    pub graph: String,
    /// What the graph is fed with, and what is taken from it.
    pub feed: GraphFeed,
    /// Whether each pair goes through the graph by itself, and why.
    pub alone: Option<&'static str>,
    /// Numbers that the graph gives a pair, if it or `config.json` says so.
    pub labels: Option<usize>,
    /// Whether scores go through the logistic function.
    pub is_sigmoid: bool,
    /// Who says whether they do, for people.
    pub activation_source: String,
    /// How many tokens query and text may have together.
    pub window: Window,
    /// Heads of the model's attention, for its memory; a guess where no file says it.
    pub heads: usize,
    /// Which of the two is cut.
    pub cut: PairCut,
    /// Whether what is cut loses its beginning, and not its end.
    pub cuts_left: bool,
    /// Of what kind the graph's numbers are.
    pub precision: Precision,
    /// What was said of the model outside its own files, for people.
    pub overrides: Vec<String>,
}

impl PairPlan {
    /// The name of what scores go through.
    #[must_use]
    pub fn activation(&self) -> &'static str {
        if self.is_sigmoid { "sigmoid" } else { "identity" }
    }

    /// Everything but the files' bytes that a score depends on, as one text.
    #[must_use]
    pub fn recipe(&self) -> String {
        let mut text = format!("rerank {SCORE_VERSION}");
        let mut line = |name: &str, value: &dyn std::fmt::Debug| {
            // Into a `String`, which takes everything.
            let _ = write!(text, "\0{name}={value:?}");
        };
        line("output", &self.feed.output);
        line(
            "inputs",
            &self.feed.inputs.iter().map(|input| (&input.name, input.role)).collect::<Vec<_>>(),
        );
        line("first_position", &self.feed.first_position);
        line("fixed_width", &self.feed.fixed_width);
        line("alone", &self.alone.is_some());
        line("activation", &self.activation());
        line("window", &self.window.tokens);
        line("truncation", &self.cut.name());
        line("cuts_left", &self.cuts_left);
        line("precision", &self.precision.name());
        text
    }

    /// What a person would want to know of it, a line each.
    #[must_use]
    pub fn description(&self) -> Vec<String> {
        let inputs =
            self.feed.inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>().join(", ");
        let what = match self.cut {
            PairCut::LongestFirst => "the longer of query and text loses tokens first",
            PairCut::OnlySecond => "the text loses tokens",
        };
        let side = if self.cuts_left { "beginning" } else { "end" };
        let mut lines = vec![
            format!("graph {}, {}, fed with {inputs}", self.graph, self.precision.name()),
            format!(
                "output `{}`, then {} by {}",
                self.feed.output,
                self.activation(),
                self.activation_source
            ),
            format!(
                "window of {} tokens by {}; {what}, at its {side}",
                self.window.tokens, self.window.source
            ),
        ];
        if let Some(why) = self.alone {
            lines.push(format!("each pair goes through the graph by itself: {why}"));
        }
        lines.extend(self.overrides.iter().cloned());
        lines
    }
}

/// What is wrong with a cross-encoder.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PairFlaw {
    /// It is for something else.
    #[error(
        "the model's architecture is {architecture}: no cross-encoder, which is one …ForSequenceClassification"
    )]
    OtherPurpose {
        /// As `config.json` has it.
        architecture: String,
    },
    /// It is an embedding model.
    #[error(
        "the graph has no output `{LOGITS}`, and its outputs are an embedding model's: {}",
        quoted(there)
    )]
    Embedding {
        /// What there is.
        there: Vec<String>,
    },
    /// It has too many outputs, and none of the known name.
    #[error(
        "none of the graph's outputs is called `{LOGITS}`: {}; name one as `output` in brahman.json",
        quoted(there)
    )]
    Outputs {
        /// What there is.
        there: Vec<String>,
    },
    /// The output that was named.
    #[error("the graph has no output `{name}`; it has {}", quoted(there))]
    NoOutput {
        /// As it was named.
        name: String,
        /// What there is.
        there: Vec<String>,
    },
    /// An output of another shape.
    #[error(
        "the graph's output `{name}` has the shape {shape}, expected [batch, 1], [batch, 2] or [batch]: a number or two a pair"
    )]
    OutputShape {
        /// Its name.
        name: String,
        /// Its axes.
        shape: String,
    },
    /// Too many classes.
    #[error(
        "the model tells {labels} classes apart, expected one (how relevant a text is) or two (not relevant, relevant)"
    )]
    Labels {
        /// How many.
        labels: usize,
    },
    /// An output of another type.
    #[error("the graph's output `{name}` is of {element}, expected float32, float16 or bfloat16")]
    OutputType {
        /// Its name.
        name: String,
        /// Its type.
        element: String,
    },
    /// A function that is not known.
    #[error(
        "{place} says that scores go through `{function}`, expected Identity or Sigmoid; `activation` in brahman.json may say another"
    )]
    Activation {
        /// Who says it.
        place: String,
        /// As it is said.
        function: String,
    },
    /// A way of cutting that is not known.
    #[error("brahman.json says truncation `{said}`, expected longest_first or only_second")]
    Truncation {
        /// As it is said.
        said: String,
    },
    /// No pair fits.
    #[error(
        "the window is {tokens} tokens by {source_said}, expected at least {WINDOW_MIN}: a query and a text"
    )]
    Window {
        /// As it is said.
        tokens: usize,
        /// Who says it.
        source_said: String,
    },
}

/// A cross-encoder's folder, read: the plan, and the bytes that it is about.
pub struct PairFolder {
    /// Everything between a query with a text and its score.
    pub plan: PairPlan,
    /// The ONNX file's bytes.
    pub onnx: Vec<u8>,
    /// Weights that the graph names as files beside it (`external_data`), by the name it has for
    /// them.
    pub weights: Vec<(String, Arc<[u8]>)>,
    /// What tokenizer.json holds, as it lies there.
    pub tokenizer: Vec<u8>,
    /// Of graph, tokenizer and weights, each as a fingerprint has it.
    pub digests: Vec<String>,
}

impl std::fmt::Debug for PairFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PairFolder")
            .field("plan", &self.plan.name)
            .field("digests", &self.digests)
            .finish_non_exhaustive()
    }
}

impl PairFolder {
    /// Reads a folder; `graph` is what `BRAHMAN_RERANK_GRAPH` says: the ONNX file, in place of what
    /// the folder says.
    ///
    /// # Errors
    /// [`LayoutError`], which names the file and, where something was left open, what may be said.
    pub fn read(path: &Path, graph: Option<&String>) -> Result<Self, LayoutError> {
        read(path, graph).map_err(|error| match error {
            LayoutError::Missing { folder, file, source } => {
                LayoutError::MissingPair { folder, file, source }
            }
            other => other,
        })
    }
}

fn read(path: &Path, graph: Option<&String>) -> Result<PairFolder, LayoutError> {
    let folder = Folder::open(path)?;
    let manifest = folder.manifest.clone().unwrap_or_default();
    let mut said = Vec::new();
    let graph_name = super::graph_name(&folder, "BRAHMAN_RERANK_GRAPH", graph, &mut said)?;
    let graph_file = path.join(&graph_name);
    let (onnx, onnx_sha) = folder.bytes(&graph_name)?;
    let (tokenizer, tokenizer_sha) = folder.bytes("tokenizer.json")?;
    let graph = Graph::parse(&onnx)
        .map_err(|source| LayoutError::Unparsed { file: graph_file.clone(), source })?;
    let mut digests = vec![onnx_sha, tokenizer_sha];
    let weights = super::weights(&folder, &graph_name, &graph, &mut digests)?;
    let config = folder.json("config.json")?.unwrap_or(Value::Null);
    let tokenizer_config = folder.json("tokenizer_config.json")?.unwrap_or(Value::Null);
    let sentence = folder.json("config_sentence_transformers.json")?.unwrap_or(Value::Null);

    let refuse = |flaw: PairFlaw| LayoutError::Pair { file: graph_file.clone(), flaw };
    if let Some((architecture, head)) = ports::purpose(&config)
        && head != "SequenceClassification"
    {
        return Err(refuse(PairFlaw::OtherPurpose { architecture: architecture.to_owned() }));
    }
    let ports = ports::inputs(&graph)
        .map_err(|flaw: GraphFlaw| LayoutError::Graph { file: graph_file.clone(), flaw })?;
    let output = output(&graph, manifest.output.as_deref()).map_err(refuse)?;
    if let Some(name) = &manifest.output {
        said.push(format!("output `{name}` by brahman.json"));
    }
    let labels = labels(output, &config).map_err(refuse)?;
    let (is_sigmoid, activation_source) =
        activation(&manifest, &config, &sentence).map_err(refuse)?;
    if manifest.activation.is_some() {
        said.push(format!(
            "activation {} by brahman.json",
            if is_sigmoid { "sigmoid" } else { "identity" }
        ));
    }
    let cut = match manifest.truncation.as_deref() {
        None | Some("longest_first") => PairCut::LongestFirst,
        Some("only_second") => PairCut::OnlySecond,
        Some(other) => return Err(refuse(PairFlaw::Truncation { said: other.to_owned() })),
    };
    if manifest.truncation.is_some() {
        said.push(format!("truncation {} by brahman.json", cut.name()));
    }
    let offset = window::offset(&config);
    let positions = graph
        .positions
        .values()
        .filter_map(|shape| shape.first())
        .min()
        .map(|rows| rows.saturating_sub(offset));
    let window = match super::window_of(
        &folder,
        None,
        &config,
        &tokenizer_config,
        ports.fixed_width,
        positions,
    ) {
        Err(LayoutError::NoWindow { .. }) => {
            let tokens = positions.map_or(WINDOW_DEFAULT, |bears| bears.min(WINDOW_DEFAULT));
            Window { tokens, source: "Brahman's own default, since no file says it".to_owned() }
        }
        other => other?,
    };
    if window.tokens < WINDOW_MIN {
        return Err(refuse(PairFlaw::Window { tokens: window.tokens, source_said: window.source }));
    }
    let precision = ports::precision(&graph);
    let alone = match (ports.is_single, precision) {
        (true, _) => Some(ALONE_SINGLE),
        (false, Precision::Int8Dynamic) => Some(ALONE_DYNAMIC),
        _ if !ports.inputs.iter().any(|input| input.role == InputRole::Mask) => {
            Some(ALONE_UNMASKED)
        }
        _ => None,
    };
    let plan = PairPlan {
        name: if manifest.name.is_empty() {
            super::folder_name(path)
        } else {
            manifest.name.clone()
        },
        graph: graph_name,
        feed: GraphFeed {
            inputs: ports.inputs,
            first_position: offset,
            pad_id: config
                .get("pad_token_id")
                .and_then(Value::as_u64)
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(0),
            fixed_width: ports.fixed_width,
            output: output.name.clone(),
        },
        alone,
        labels,
        is_sigmoid,
        activation_source,
        window,
        heads: ["num_attention_heads", "n_heads", "n_head"]
            .iter()
            .find_map(|key| number(&config, key))
            .unwrap_or(HEADS_GUESSED),
        cut,
        cuts_left: tokenizer_config.get("truncation_side").and_then(Value::as_str) == Some("left"),
        precision,
        overrides: said,
    };
    Ok(PairFolder { plan, onnx, weights, tokenizer, digests })
}

/// The output that is taken: the one that was named, else `logits`, else the only one.
fn output<'a>(graph: &'a Graph, named: Option<&str>) -> Result<&'a Port, PairFlaw> {
    let there = || graph.outputs.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
    let port = match (named, graph.output(LOGITS), &graph.outputs[..]) {
        (Some(name), _, _) => graph
            .output(name)
            .ok_or_else(|| PairFlaw::NoOutput { name: name.to_owned(), there: there() })?,
        (None, Some(port), _) => port,
        (None, None, outputs) if outputs.iter().any(|port| ports::is_known_output(&port.name)) => {
            return Err(PairFlaw::Embedding { there: there() });
        }
        (None, None, [port]) => port,
        (None, None, _) => return Err(PairFlaw::Outputs { there: there() }),
    };
    if port.rank().is_some_and(|rank| rank != 1 && rank != 2) {
        return Err(PairFlaw::OutputShape { name: port.name.clone(), shape: port.shape() });
    }
    match port.element {
        Element::Float32 | Element::Float16 | Element::Bfloat16 => Ok(port),
        other => Err(PairFlaw::OutputType { name: port.name.clone(), element: other.name() }),
    }
}

/// How many numbers come out for a pair: by the graph, else by `config.json`.
fn labels(output: &Port, config: &Value) -> Result<Option<usize>, PairFlaw> {
    let by_graph = if output.rank() == Some(1) { Some(1) } else { output.fixed(1) };
    let by_config = || {
        let named = config
            .get("id2label")
            .and_then(Value::as_object)
            .map(serde_json::Map::len)
            .filter(|count| *count > 0);
        named.or_else(|| number(config, "num_labels"))
    };
    match by_graph.or_else(by_config) {
        Some(labels) if labels > LABELS_MAX => Err(PairFlaw::Labels { labels }),
        labels => Ok(labels),
    }
}

/// Whether scores go through the logistic function, and who says so: `brahman.json`, else
/// sentence-transformers' settings of today and of before its version 4, else the libraries' own
/// rule.
fn activation(
    manifest: &Manifest,
    config: &Value,
    sentence: &Value,
) -> Result<(bool, String), PairFlaw> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let named = [
        ("activation in brahman.json", manifest.activation.clone()),
        (
            "sentence_transformers.activation_fn in config.json",
            text(config.get("sentence_transformers").and_then(|v| v.get("activation_fn"))),
        ),
        (
            "sbert_ce_default_activation_function in config.json",
            text(config.get("sbert_ce_default_activation_function")),
        ),
        ("activation_fn in config_sentence_transformers.json", text(sentence.get("activation_fn"))),
    ];
    let Some((place, function)) =
        named.into_iter().find_map(|(place, function)| Some((place, function?)))
    else {
        return Ok((
            true,
            "the rule of transformers and sentence-transformers, since no file says it".to_owned(),
        ));
    };
    match function.rsplit('.').next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "identity" => Ok((false, place.to_owned())),
        "sigmoid" => Ok((true, place.to_owned())),
        _ => Err(PairFlaw::Activation { place: place.to_owned(), function }),
    }
}

/// Whether a folder holds a cross-encoder, by its architecture, else by its graph: a number or two
/// a text. A folder that cannot be read holds none.
#[must_use]
pub fn is_cross_encoder(path: &Path) -> bool {
    let config = Folder::open(path)
        .ok()
        .and_then(|folder| folder.json("config.json").ok().flatten())
        .unwrap_or(Value::Null);
    if let Some((_, head)) = ports::purpose(&config) {
        return head == "SequenceClassification";
    }
    let read = |name: &&str| Graph::parse(&std::fs::read(path.join(name)).ok()?).ok();
    let Some(graph) = GRAPHS.iter().find_map(read) else { return false };
    output(&graph, None).is_ok_and(|port| {
        port.name == LOGITS || port.fixed(1).is_some_and(|labels| labels <= LABELS_MAX)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::graph::tests::{model, port, weight};

    /// A folder with a graph of this output, and these settings.
    fn folder(output: &[u8], config: Value) -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let any = [None, None];
        let inputs = [
            port("input_ids", 7, &any),
            port("attention_mask", 7, &any),
            port("token_type_ids", 7, &any),
        ];
        let onnx =
            model(&inputs, &[output.to_vec()], &[weight("w", 1, &[16, 16], None)], &["MatMul"]);
        fs::write(folder.path().join("model.onnx"), onnx).expect("written");
        fs::write(folder.path().join("tokenizer.json"), b"{}").expect("written");
        fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
        folder
    }

    fn bert() -> Value {
        json!({"architectures": ["BertForSequenceClassification"], "model_type": "bert", "max_position_embeddings": 64})
    }

    fn logits(labels: u8) -> Vec<u8> {
        port("logits", 1, &[None, Some(labels)])
    }

    fn plan(folder: &TempDir) -> PairPlan {
        PairFolder::read(folder.path(), None).expect("a plan").plan
    }

    fn refusal(folder: &TempDir) -> String {
        brahman_card::chain(&PairFolder::read(folder.path(), None).expect_err("a refusal"))
    }

    #[test]
    fn what_is_cut_is_what_hugging_face_cuts() {
        let longest = |first, second, room| {
            PairCut::LongestFirst.kept(first, second, room).expect("always fits")
        };
        // As `truncate_encodings` of the tokenizers gives them.
        assert_eq!(longest(3, 4, 7), (3, 4), "it fits");
        assert_eq!(longest(3, 20, 10), (3, 7), "the longer alone");
        assert_eq!(longest(20, 3, 10), (7, 3));
        assert_eq!(longest(8, 20, 10), (5, 5), "both");
        assert_eq!(longest(20, 8, 11), (6, 5), "the longer has the odd one");
        assert_eq!(longest(8, 20, 11), (5, 6));
        assert_eq!(longest(50, 60, 11), (5, 6));
        assert_eq!(longest(0, 20, 11), (0, 11));
        let second = |first, second, room| PairCut::OnlySecond.kept(first, second, room);
        assert_eq!(
            (second(3, 20, 10), second(9, 20, 10), second(10, 20, 10)),
            (Some((3, 7)), Some((9, 1)), None)
        );
        for (first, second) in (0..30).flat_map(|a| (0..30).map(move |b| (a, b))) {
            for room in 1..40 {
                let (a, b) = longest(first, second, room);
                assert!(a <= first && b <= second && a + b <= room, "{first} {second} {room}");
                assert!(
                    a + b == room || (a, b) == (first, second),
                    "{first} {second} {room}: nothing more is cut than has to be"
                );
            }
        }
    }

    #[test]
    fn the_activation_is_the_one_that_the_model_says() {
        let of = |more: Value| {
            let mut config = bert();
            config
                .as_object_mut()
                .expect("an object")
                .extend(more.as_object().expect("an object").clone());
            plan(&folder(&logits(1), config))
        };
        let open = of(json!({}));
        assert!(
            open.is_sigmoid
                && open.labels == Some(1)
                && open.activation_source.contains("sentence-transformers")
        );
        let identity = of(
            json!({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}),
        );
        assert!(
            !identity.is_sigmoid
                && identity.activation_source.contains("sentence_transformers.activation_fn")
        );
        assert!(
            !of(
                json!({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"})
            )
            .is_sigmoid
        );
        assert!(of(json!({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}})).is_sigmoid);
        assert_ne!(open.recipe(), identity.recipe());
        let mut tanh = bert();
        tanh["sentence_transformers"] =
            json!({"activation_fn": "torch.nn.modules.activation.Tanh"});
        let tanh = folder(&logits(1), tanh);
        assert!(refusal(&tanh).contains("activation.Tanh"));
        fs::write(
            tanh.path().join("brahman.json"),
            r#"{"activation": "identity", "truncation": "only_second"}"#,
        )
        .expect("written");
        let said = plan(&tanh);
        assert_eq!(
            (said.is_sigmoid, said.cut, said.overrides.len()),
            (false, PairCut::OnlySecond, 2)
        );
    }

    #[test]
    fn windows_are_the_models_own_or_that_of_bert() {
        let roberta = json!({"architectures": ["XLMRobertaForSequenceClassification"], "model_type": "xlm-roberta",
            "max_position_embeddings": 514, "pad_token_id": 1});
        let plan_of = |config: Value| plan(&folder(&logits(1), config));
        let xlm = plan_of(roberta);
        assert_eq!((xlm.window.tokens, xlm.feed.pad_id, xlm.feed.first_position), (512, 1, 2));
        let mute = plan_of(json!({}));
        assert!(
            mute.window.tokens == 512 && mute.window.source.contains("default"),
            "{:?}",
            mute.window
        );
        let short = folder(&logits(1), bert());
        fs::write(short.path().join("tokenizer_config.json"), r#"{"model_max_length": 4}"#)
            .expect("written");
        assert!(refusal(&short).contains("4 tokens by model_max_length"), "{}", refusal(&short));
    }

    #[test]
    fn what_is_no_cross_encoder_is_refused_by_what_it_is() {
        let any = |name: &str, axes: &[Option<u8>]| folder(&port(name, 1, axes), bert());
        for (folder, words) in [
            (any("logits", &[None, Some(3)]), "3 classes"),
            (any("logits", &[None, None, Some(100)]), "[?, ?, 100]"),
            (any("last_hidden_state", &[None, None, Some(16)]), "embedding model"),
            (folder(&port("logits", 7, &[None, Some(1)]), bert()), "int64"),
            (
                folder(&logits(1), json!({"architectures": ["Qwen2ForCausalLM"]})),
                "Qwen2ForCausalLM",
            ),
            (
                folder(
                    &port("logits", 1, &[None, None]),
                    json!({"id2label": {"0": "a", "1": "b", "2": "c"}}),
                ),
                "3 classes",
            ),
        ] {
            assert!(refusal(&folder).contains(words), "{words}: {}", refusal(&folder));
        }
        let taken = any("score", &[None]);
        assert_eq!((plan(&taken).labels, is_cross_encoder(taken.path())), (Some(1), true));
        let empty = tempfile::tempdir().expect("a temporary directory");
        assert!(refusal(&empty).contains("no cross-encoder at") && !is_cross_encoder(empty.path()));
        let embedding = folder(
            &port("last_hidden_state", 1, &[None, None, Some(16)]),
            json!({"architectures": ["BertModel"]}),
        );
        assert!(!is_cross_encoder(embedding.path()));
    }
}
