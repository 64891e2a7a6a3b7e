//! An embedding model's folder: every file in it that says how a text becomes a vector, read and
//! made one plan. `pair` does the same for a cross-encoder's, whose query and text become a score.
//!
//! Folders are as sentence-transformers and the hubs have them: an ONNX file (in the folder or in
//! `onnx/`), `tokenizer.json`, `modules.json` with `1_Pooling` and the like, `config.json`,
//! `config_sentence_transformers.json`, `sentence_bert_config.json`, `tokenizer_config.json`. What
//! they leave open, `brahman.json` or the environment may say.
//!
//! Invariants: nothing is assumed where a wrong assumption would give wrong vectors: what no file
//! says is refused, with what may be said; the bytes that are hashed are the bytes that are handed
//! out; no file outside the folder is read. Nothing here runs a model or knows a tokenizer.

mod error;
mod folder;
mod modules;
mod pair;
mod plan;
mod ports;
mod prompts;
mod window;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

pub use self::error::{GraphFlaw, LayoutError};
pub use self::modules::ModuleFlaw;
pub use self::pair::{PairCut, PairFlaw, PairFolder, PairPlan, is_cross_encoder};
pub use self::plan::{
    Activation, Dense, DimError, GraphFeed, InputPlan, InputRole, LayerNorm, ModelPlan, OutputPlan,
    OutputStage, Pooling, PoolingMode, Precision, Stage, Window,
};
pub use self::prompts::{Prompts, TextRole};

use self::folder::{Folder, below, is_inside, number, texts};
use crate::catalogue;
use crate::graph::Graph;

/// ONNX files that are taken if they are there, the first one winning.
const GRAPHS: [&str; 2] = ["model.onnx", "onnx/model.onnx"];
/// Where exporters put a language model that is none under those names.
const DECODERS: [&str; 2] = ["decoder_model_merged.onnx", "onnx/decoder_model_merged.onnx"];
/// Files that say sentence-transformers' window: the first that is there counts, in its own order.
const SBERT: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];
/// Heads of a model whose files do not say how many: as many as BERT has.
const HEADS_GUESSED: usize = 12;
/// Why texts go through a graph one by one.
const ALONE_DYNAMIC: &str = "it is quantised to int8 by what is computed at the time, so that texts beside it would change a text's vector";
const ALONE_UNMASKED: &str =
    "it has no attention_mask input, so that padding would change a text's vector";
const ALONE_SINGLE: &str = "its batch axis is fixed at 1";

/// What the environment says of a model, in place of its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `BRAHMAN_EMBED_POOLING`: as `pooling` in `brahman.json`.
    pub pooling: Option<String>,
    /// `BRAHMAN_EMBED_GRAPH`: as `graph` in `brahman.json`.
    pub graph: Option<String>,
}

/// A file of external data that a graph names: the name that the graph has for it, and its bytes.
pub type ExternalData = (String, Arc<[u8]>);

/// A model's folder, read: the plan, and the bytes that it is about.
pub struct ModelFolder {
    /// Everything between a text and its vector.
    pub plan: ModelPlan,
    /// The ONNX file's bytes.
    pub onnx: Vec<u8>,
    /// Weights that the graph names as files beside it (`external_data`), by the name it has for
    /// them.
    pub weights: Vec<ExternalData>,
    /// What tokenizer.json holds, as it lies there.
    pub tokenizer: Vec<u8>,
    /// Of graph, tokenizer and weights, each as a fingerprint has it.
    pub digests: Vec<String>,
}

impl std::fmt::Debug for ModelFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelFolder")
            .field("plan", &self.plan.name)
            .field("digests", &self.digests)
            .finish_non_exhaustive()
    }
}

impl ModelFolder {
    /// Reads a folder.
    ///
    /// # Errors
    /// [`LayoutError`], which names the file and, where something was left open, what may be said.
    pub fn read(path: &Path, overrides: &Overrides) -> Result<Self, LayoutError> {
        let folder = Folder::open(path)?;
        let manifest = folder.manifest.clone().unwrap_or_default();
        let mut said = Vec::new();
        let graph_name =
            graph_name(&folder, "BRAHMAN_EMBED_GRAPH", overrides.graph.as_ref(), &mut said)?;
        let graph_file = path.join(&graph_name);
        let (onnx, onnx_sha) = folder.bytes(&graph_name)?;
        let transformer = transformer(&folder)?;
        let tokenizer_name = [below(&transformer, "tokenizer.json"), "tokenizer.json".to_owned()]
            .into_iter()
            .find(|name| folder.has(name));
        let (tokenizer, tokenizer_sha) =
            folder.bytes(tokenizer_name.as_deref().unwrap_or("tokenizer.json"))?;
        let graph = Graph::parse(&onnx)
            .map_err(|source| LayoutError::Unparsed { file: graph_file.clone(), source })?;
        let mut digests = vec![onnx_sha.clone(), tokenizer_sha];
        let weights = weights(&folder, &graph_name, &graph, &mut digests)?;

        let in_transformer =
            |name: &str| folder.first_json(&[below(&transformer, name), name.to_owned()]);
        let object = |found: Option<(String, Value)>| found.map_or(Value::Null, |(_, value)| value);
        let config = object(in_transformer("config.json")?);
        let tokenizer_config = object(in_transformer("tokenizer_config.json")?);
        let sbert_names: Vec<String> =
            SBERT.iter().flat_map(|name| [below(&transformer, name), (*name).to_owned()]).collect();
        let sbert = folder.first_json(&sbert_names)?;
        let sentence = folder.json("config_sentence_transformers.json")?.unwrap_or(Value::Null);

        let refuse = |flaw: GraphFlaw| LayoutError::Graph { file: graph_file.clone(), flaw };
        let ports = ports::inputs(&graph).map_err(refuse)?;
        let output = ports::output(&graph, &config, manifest.output.as_deref()).map_err(refuse)?;
        if let Some(name) = &manifest.output {
            said.push(format!("output `{name}` by brahman.json"));
        }
        let is_pooled = output.stage == OutputStage::Sentence;
        let modules = modules::read(&folder, is_pooled)?;
        if is_pooled
            && modules.is_said
            && output.name != "sentence_embedding"
            && manifest.output.is_none()
        {
            return Err(LayoutError::Pooled {
                file: graph_file.clone(),
                output: output.name.clone(),
            });
        }
        let is_default = manifest.name == catalogue::NAME && onnx_sha == catalogue::ONNX_SHA256;
        let pooling = if is_pooled {
            None
        } else {
            Some(pooling(&folder, overrides, &modules, is_default, &mut said)?)
        };
        let mut stages = modules.stages;
        // What no modules.json says is as it has always been.
        let normalizes =
            manifest.normalize.unwrap_or(!modules.is_said || stages.contains(&Stage::Normalize));
        if let Some(scaled) = manifest.normalize {
            said.push(format!("normalize = {scaled} by brahman.json"));
        }
        if normalizes != stages.contains(&Stage::Normalize) {
            stages.retain(|stage| *stage != Stage::Normalize);
            if normalizes {
                stages.push(Stage::Normalize);
            }
        }
        let offset = window::offset(&config);
        let positions = graph
            .positions
            .values()
            .filter_map(|shape| shape.first())
            .min()
            .map(|rows| rows.saturating_sub(offset));
        let window = window_of(
            &folder,
            sbert.as_ref(),
            &config,
            &tokenizer_config,
            ports.fixed_width,
            positions,
        )?;
        let precision = ports::precision(&graph);
        let alone = match (ports.is_single, precision) {
            (true, _) => Some(ALONE_SINGLE),
            (false, Precision::Int8Dynamic) => Some(ALONE_DYNAMIC),
            _ if !ports.inputs.iter().any(|input| input.role == InputRole::Mask) => {
                Some(ALONE_UNMASKED)
            }
            _ => None,
        };
        let text =
            |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let is_true =
            |value: &Value, key: &str| value.get(key).and_then(Value::as_bool).unwrap_or(false);
        let plan = ModelPlan {
            name: if manifest.name.is_empty() { folder_name(path) } else { manifest.name.clone() },
            graph: graph_name,
            inputs: ports.inputs,
            first_position: offset,
            pad_id: config
                .get("pad_token_id")
                .and_then(Value::as_u64)
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(0),
            fixed_width: ports.fixed_width,
            alone,
            is_first_output: graph.outputs.first().is_some_and(|port| port.name == output.name),
            output,
            pooling,
            stages,
            window,
            heads: ["num_attention_heads", "n_heads", "n_head"]
                .iter()
                .find_map(|key| number(&config, key))
                .unwrap_or(HEADS_GUESSED),
            cuts_left: text(&tokenizer_config, "truncation_side").as_deref() == Some("left"),
            lowercase: sbert.as_ref().is_some_and(|(_, value)| is_true(value, "do_lower_case")),
            strip: modules.is_said,
            prompts: prompts(&folder, &sentence, &mut said)?,
            similarity: text(&sentence, "similarity_fn_name"),
            truncate_dim: number(&sentence, "truncate_dim"),
            dimensions: dimensions(&manifest, &sentence, &config),
            precision,
            positions,
            dim_said: manifest.dim,
            overrides: said,
        };
        Ok(Self { plan, onnx, weights, tokenizer, digests })
    }
}

/// Whether a folder holds a language model, which scores, and no embedding model: its graph gives a
/// number for each token of the vocabulary, and nothing that is an embedding model's. A folder that
/// cannot be read holds none.
#[must_use]
pub fn is_language_model(path: &Path) -> bool {
    let read = |name: &&str| Graph::parse(&std::fs::read(path.join(name)).ok()?).ok();
    let Some(graph) = GRAPHS.iter().chain(&DECODERS).find_map(read) else { return false };
    let is_known = |port: &crate::graph::Port| ports::is_known_output(&port.name);
    let gives_logits =
        graph.output("logits").is_some_and(|port| port.rank().is_none_or(|rank| rank == 3));
    gives_logits && !graph.outputs.iter().any(is_known) && !path.join("modules.json").exists()
}

fn folder_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Which ONNX file is taken; `variable` of the environment may name one.
fn graph_name(
    folder: &Folder,
    variable: &'static str,
    by_environment: Option<&String>,
    said: &mut Vec<String>,
) -> Result<String, LayoutError> {
    let by_manifest = folder.manifest.as_ref().and_then(|manifest| manifest.graph.as_ref());
    let named = [(variable, by_environment), ("brahman.json", by_manifest)];
    if let Some((place, name)) = named.into_iter().find_map(|(place, name)| Some((place, name?))) {
        if !is_inside(name) {
            return Err(LayoutError::Outside { place: place.to_owned(), name: name.clone() });
        }
        said.push(format!("graph {name} by {place}"));
        return Ok(name.clone());
    }
    if let Some(name) = GRAPHS.iter().find(|name| folder.has(name)) {
        return Ok((*name).to_owned());
    }
    let mut names = folder.graphs();
    match names.len() {
        // Reading it says that it is not there.
        0 => Ok(GRAPHS[0].to_owned()),
        1 => Ok(names.remove(0)),
        _ => Err(LayoutError::Graphs { folder: folder.path.clone(), variable, names }),
    }
}

/// Folder of the transformer's own files, from the model's on: older sentence-transformers put them
/// into one.
fn transformer(folder: &Folder) -> Result<String, LayoutError> {
    let list = folder.json("modules.json")?.unwrap_or(Value::Null);
    let path = list
        .get(0)
        .and_then(|module| module.get("path"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    Ok(if is_inside(path) { path.to_owned() } else { String::new() })
}

/// Weights in files of their own, which lie beside the graph and nowhere else: the runtime would
/// look in the working directory.
fn weights(
    folder: &Folder,
    graph_name: &str,
    graph: &Graph,
    digests: &mut Vec<String>,
) -> Result<Vec<ExternalData>, LayoutError> {
    let beside = graph_name.rsplit_once('/').map_or("", |(place, _)| place);
    let mut weights = Vec::new();
    for name in &graph.weight_files {
        if !is_inside(name) || name.contains('/') || name.starts_with('.') {
            return Err(LayoutError::Weights {
                file: folder.path.join(graph_name),
                name: name.clone(),
            });
        }
        let (bytes, found) = folder.bytes(&below(beside, name))?;
        digests.push(format!("{name}\0{found}"));
        weights.push((name.clone(), bytes.into()));
    }
    Ok(weights)
}

/// How tokens are pooled: by the environment, else by `brahman.json`, else by the modules, else as
/// the catalogue knows it.
fn pooling(
    folder: &Folder,
    overrides: &Overrides,
    modules: &modules::Modules,
    is_default: bool,
    said: &mut Vec<String>,
) -> Result<Pooling, LayoutError> {
    let by_manifest = folder.manifest.as_ref().and_then(|manifest| manifest.pooling.as_ref());
    let named =
        [("BRAHMAN_EMBED_POOLING", overrides.pooling.as_ref()), ("brahman.json", by_manifest)];
    let by_folder = modules.pooling.as_ref();
    if let Some((place, mode)) = named.into_iter().find_map(|(place, mode)| Some((place, mode?))) {
        let modes = modules::modes_of(mode)
            .ok_or_else(|| LayoutError::PoolingMode { place, mode: mode.clone() })?;
        let pooling = Pooling {
            modes,
            include_prompt: by_folder.is_none_or(|(pooling, _)| pooling.include_prompt),
        };
        let instead = by_folder
            .map_or("where the folder says nothing".to_owned(), |(other, file)| {
                format!("in place of {} in {file}", other.name())
            });
        said.push(format!("pooling {} by {place}, {instead}", pooling.name()));
        return Ok(pooling);
    }
    match by_folder {
        Some((pooling, _)) => Ok(pooling.clone()),
        None if is_default => Ok(Pooling { modes: vec![PoolingMode::Mean], include_prompt: true }),
        None => Err(LayoutError::NoPooling { folder: folder.path.clone() }),
    }
}

/// How many tokens a text may have.
fn window_of(
    folder: &Folder,
    sbert: Option<&(String, Value)>,
    config: &Value,
    tokenizer_config: &Value,
    fixed_width: Option<usize>,
    positions: Option<usize>,
) -> Result<Window, LayoutError> {
    let said =
        folder.manifest.as_ref().map(|manifest| manifest.max_tokens).filter(|tokens| *tokens > 0);
    let said =
        said.map(|tokens| Window { tokens, source: "max_tokens in brahman.json".to_owned() });
    let fixed = fixed_width
        .map(|tokens| Window { tokens, source: "the graph's fixed sequence axis".to_owned() });
    let found = said.or_else(|| window::of_files(sbert, config, tokenizer_config));
    let window = match (found, fixed) {
        (Some(found), Some(fixed)) => Some(if fixed.tokens < found.tokens { fixed } else { found }),
        (found, fixed) => found.or(fixed),
    };
    let window = window.ok_or_else(|| LayoutError::NoWindow { folder: folder.path.clone() })?;
    if window.tokens < 2 {
        return Err(LayoutError::Window { tokens: window.tokens, source_said: window.source });
    }
    if let Some(bears) = positions.filter(|bears| *bears < window.tokens) {
        return Err(LayoutError::Positions {
            tokens: window.tokens,
            source_said: window.source,
            bears,
        });
    }
    Ok(window)
}

/// What is put before texts: by `brahman.json`, else by `config_sentence_transformers.json`.
fn prompts(
    folder: &Folder,
    sentence: &Value,
    said: &mut Vec<String>,
) -> Result<Prompts, LayoutError> {
    let manifest = folder.manifest.as_ref();
    let by_manifest = manifest.and_then(|manifest| manifest.prompts.clone());
    if by_manifest.is_some() {
        said.push("prompts by brahman.json".to_owned());
    }
    let by_name: BTreeMap<String, String> =
        by_manifest.unwrap_or_else(|| sentence.get("prompts").map(texts).unwrap_or_default());
    let by_folder = sentence.get("default_prompt_name").and_then(Value::as_str).map(str::to_owned);
    let default_name = manifest.and_then(|manifest| manifest.default_prompt.clone()).or(by_folder);
    if let Some(name) = default_name.as_ref().filter(|name| !by_name.contains_key(*name)) {
        return Err(LayoutError::DefaultPrompt {
            name: name.clone(),
            there: by_name.into_keys().collect(),
        });
    }
    Ok(Prompts { by_name, default_name })
}

/// Lengths to which vectors may be cut, least first: what the model was trained for, by whoever
/// says it.
fn dimensions(
    manifest: &crate::manifest::Manifest,
    sentence: &Value,
    config: &Value,
) -> Vec<usize> {
    let list = |value: &Value, key: &str| -> Option<Vec<usize>> {
        value
            .get(key)?
            .as_array()?
            .iter()
            .map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0))
            .collect()
    };
    let keys = ["matryoshka_dimensions", "matryoshka_dims"];
    let by_files = [sentence, config]
        .into_iter()
        .find_map(|value| keys.iter().find_map(|key| list(value, key)));
    let mut all = manifest.dimensions.clone().or(by_files).unwrap_or_default();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests;
