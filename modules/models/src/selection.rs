//! Which files of a repository, or of a folder, make a model: its graph, the weights beside it, its
//! tokenizer, and what says how they are used.
//!
//! Pure: names in, names out. What is left aside is other graphs, other frameworks' weights, and
//! everything for people.

use thiserror::Error;

/// Graphs that are taken if nobody names one, the first one winning.
const GRAPHS: [&str; 2] = ["model.onnx", "onnx/model.onnx"];
/// Files of a model beside its graph, in its folder or in that of its transformer.
const PARTS: [&str; 8] = [
    "tokenizer.json",
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "reference.json",
];
/// Files of a module's folder, such as `1_Pooling` or `2_Dense`.
const MODULE_PARTS: [&str; 2] = ["config.json", "model.safetensors"];

/// Why there is no model in some files.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SelectionError {
    /// There is no graph.
    #[error(
        "{place} has no ONNX file{}: export it (`optimum-cli export onnx --model {place} FOLDER`), then `brahman models add FOLDER`",
        other(.weights)
    )]
    NoGraph {
        /// The repository or the folder.
        place: String,
        /// Weights of another framework that it has.
        weights: Option<String>,
    },
    /// There are several, or none of that name.
    #[error("{place} has no graph {wanted}; it has {}: say which behind a colon, as in `NAME:int8`", .there.join(", "))]
    Graphs {
        /// The repository or the folder.
        place: String,
        /// What was looked for.
        wanted: String,
        /// What there is.
        there: Vec<String>,
    },
    /// There is no tokenizer.
    #[error(
        "{place} has no tokenizer.json{}: save it with a fast tokenizer (`AutoTokenizer.from_pretrained(…).save_pretrained(FOLDER)`)",
        other(.vocabulary)
    )]
    NoTokenizer {
        /// The repository or the folder.
        place: String,
        /// A vocabulary of another kind that it has.
        vocabulary: Option<String>,
    },
}

fn other(there: &Option<String>) -> String {
    there.as_ref().map(|name| format!(", only {name}")).unwrap_or_default()
}

/// Files that make a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The ONNX file that is the graph.
    pub graph: String,
    /// Weights beside it, by the usual names; the graph itself says which it wants.
    pub weights: Vec<String>,
    /// All other files that the model needs.
    pub parts: Vec<String>,
}

impl Selection {
    /// Chooses among files by name. `graph` is the file that somebody names; `variant` the end of
    /// its name.
    ///
    /// # Errors
    /// [`SelectionError`], which says what there is.
    pub fn of(
        place: &str,
        files: &[String],
        graph: Option<&str>,
        variant: Option<&str>,
    ) -> Result<Self, SelectionError> {
        let graph = graph_of(place, files, graph, variant)?;
        let beside = |file: &&String| {
            file.strip_prefix(graph.as_str())
                .is_some_and(|end| end.starts_with("_data") || end.starts_with(".data"))
        };
        let weights = files.iter().filter(beside).cloned().collect();
        let parts: Vec<String> = files.iter().filter(|file| is_part(file)).cloned().collect();
        if !parts.iter().any(|file| file.ends_with("tokenizer.json")) {
            let is_other = |file: &&String| {
                ["vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model"]
                    .contains(&file.as_str())
            };
            return Err(SelectionError::NoTokenizer {
                place: place.to_owned(),
                vocabulary: files.iter().find(is_other).cloned(),
            });
        }
        Ok(Self { graph, weights, parts })
    }

    /// All of them, the graph first.
    pub fn files(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.graph).chain(&self.weights).chain(&self.parts)
    }
}

fn graph_of(
    place: &str,
    files: &[String],
    graph: Option<&str>,
    variant: Option<&str>,
) -> Result<String, SelectionError> {
    let graphs: Vec<&String> = files.iter().filter(|file| file.ends_with(".onnx")).collect();
    if graphs.is_empty() {
        let is_other = |file: &&String| {
            [".safetensors", "pytorch_model.bin", ".gguf"].iter().any(|end| file.ends_with(end))
        };
        return Err(SelectionError::NoGraph {
            place: place.to_owned(),
            weights: files.iter().find(is_other).cloned(),
        });
    }
    let wanted: Vec<String> = match (graph, variant) {
        (Some(graph), _) => vec![graph.to_owned()],
        (None, None | Some("fp32")) => GRAPHS.map(str::to_owned).to_vec(),
        (None, Some(variant)) => {
            // As exporters call them; what a person calls `int8` is mostly called `quantized`.
            let ends = if variant == "int8" { vec![variant, "quantized"] } else { vec![variant] };
            ends.iter()
                .flat_map(|end| ["onnx/", ""].map(|folder| format!("{folder}model_{end}.onnx")))
                .collect()
        }
    };
    if let Some(found) = wanted.iter().find(|name| files.contains(name)) {
        return Ok(found.clone());
    }
    // One that has no competitor needs no usual name.
    if graph.is_none() && variant.is_none() && graphs.len() == 1 {
        return Ok(graphs[0].clone());
    }
    let there = graphs.into_iter().cloned().collect();
    Err(SelectionError::Graphs { place: place.to_owned(), wanted: wanted.join(" or "), there })
}

fn is_part(file: &str) -> bool {
    let is_sentence = |name: &str| name.starts_with("sentence_") && name.ends_with("_config.json");
    match file.rsplit_once('/') {
        None => PARTS.contains(&file) || is_sentence(file),
        // sentence-transformers numbers its modules' folders: `1_Pooling`. The transformer's own
        // weights are in the graph.
        Some((folder, name)) => {
            let Some((number, kind)) = folder.split_once('_') else { return false };
            let is_module = !number.is_empty()
                && number.bytes().all(|byte| byte.is_ascii_digit())
                && !kind.contains('/');
            let is_transformer = kind == "Transformer";
            is_module
                && (if is_transformer {
                    PARTS.contains(&name) || is_sentence(name)
                } else {
                    MODULE_PARTS.contains(&name)
                })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn select(
        names: &[&str],
        graph: Option<&str>,
        variant: Option<&str>,
    ) -> Result<Selection, SelectionError> {
        Selection::of("owner/name", &files(names), graph, variant)
    }

    const REPOSITORY: [&str; 19] = [
        ".gitattributes",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "2_Dense/pytorch_model.bin",
        "README.md",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "onnx/model_fp16.onnx",
        "onnx/model_quantized.onnx",
        "openvino/openvino_model.xml",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ];

    #[test]
    fn a_model_is_its_graph_and_what_says_how_it_is_used() {
        let found = select(&REPOSITORY, None, None).expect("a model");
        assert_eq!(
            (found.graph.as_str(), found.weights.as_slice()),
            ("onnx/model.onnx", &files(&["onnx/model.onnx_data"])[..])
        );
        let parts = [
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.safetensors",
            "config.json",
            "config_sentence_transformers.json",
            "modules.json",
            "sentence_bert_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(found.parts, files(&parts));
        assert_eq!(found.files().count(), 11);
    }

    #[test]
    fn a_variant_is_the_end_of_the_graphs_name() {
        for (variant, graph) in [
            ("fp16", "onnx/model_fp16.onnx"),
            ("int8", "onnx/model_quantized.onnx"),
            ("fp32", "onnx/model.onnx"),
        ] {
            assert_eq!(select(&REPOSITORY, None, Some(variant)).expect("a model").graph, graph);
        }
        assert_eq!(
            select(&REPOSITORY, Some("onnx/model_fp16.onnx"), None).expect("a model").weights.len(),
            0
        );
        let refused = select(&REPOSITORY, None, Some("q4")).expect_err("none").to_string();
        assert!(
            refused.contains("onnx/model_q4.onnx or model_q4.onnx")
                && refused.contains("onnx/model_fp16.onnx"),
            "{refused}"
        );
        assert_eq!(
            select(&["only.onnx", "tokenizer.json"], None, None).expect("a model").graph,
            "only.onnx"
        );
        assert!(matches!(
            select(&["a.onnx", "b.onnx", "tokenizer.json"], None, None),
            Err(SelectionError::Graphs { .. })
        ));
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let refused = select(&["model.safetensors", "tokenizer.json"], None, None)
            .expect_err("no graph")
            .to_string();
        assert!(
            refused.contains("only model.safetensors") && refused.contains("optimum-cli"),
            "{refused}"
        );
        let refused =
            select(&["model.onnx", "vocab.txt"], None, None).expect_err("no tokenizer").to_string();
        assert!(refused.contains("only vocab.txt"), "{refused}");
    }
}
