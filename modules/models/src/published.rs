//! What is published, by name: fastembed's list of models, as data.
//!
//! A name is the repository's own without what says how it was exported (`bge-small-en-v1.5` of
//! `Qdrant/bge-small-en-v1.5-onnx-Q`); a variant is what the graph's numbers are (`fp32`, `int8`,
//! `q4`). Pure: nothing here reads a file or asks anybody. What the list says of a model is held
//! against the repository's own files once they are here (`install`).

use std::sync::OnceLock;

use brahman_card::card::nearest;
use fastembed::{
    EmbeddingModel, ModelInfo, OutputKey, Pooling, QuantizationMode, RerankerModelInfo,
    TextEmbedding, TextRerank,
};
use thiserror::Error;

use crate::layout::PoolingMode;
use crate::manifest::ModelKind;

/// The variant whose numbers have 32 bits, as a model was trained; its name is the model's alone.
pub const PLAIN: &str = "fp32";
/// Ends of repositories' names that say how the files in them were exported.
const EXPORTS: [&str; 2] = ["-onnx-q", "-onnx"];

/// One model of the list, in one variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedModel {
    /// Name by which it is asked for.
    pub name: String,
    /// `fp32`, `int8`, `q4` or another end of the graph's name.
    pub variant: String,
    /// What it is for.
    pub kind: ModelKind,
    /// The hub's repository, `owner/name`.
    pub repository: String,
    /// The ONNX file, from the repository's root on.
    pub graph: String,
    /// Files beside it that hold its weights.
    pub weights: Vec<String>,
    /// Length of its vectors; `None` for a reranker.
    pub dim: Option<usize>,
    /// The graph's output that is taken, where the list names one.
    pub output: Option<String>,
    /// How its tokens are pooled; `None` for a reranker.
    pub pooling: Option<PoolingMode>,
    /// Whether its numbers are quantised as it runs, so that each text has to go through it alone.
    pub is_dynamic: bool,
    /// What it is good for, in words for people.
    pub description: String,
}

impl PublishedModel {
    /// The name under which it is kept on a machine: of a variant other than [`PLAIN`] with that
    /// behind it.
    #[must_use]
    pub fn installed_name(&self) -> String {
        installed_name(&self.name, Some(&self.variant))
    }

    fn has(&self, word: &str) -> bool {
        let fields = [
            self.name.as_str(),
            &self.variant,
            &self.repository,
            &self.description,
            self.kind.name(),
        ];
        fields.into_iter().any(|field| field.to_lowercase().contains(word))
    }
}

/// The name under which a model's variant is kept on a machine.
#[must_use]
pub fn installed_name(name: &str, variant: Option<&str>) -> String {
    match variant.filter(|variant| *variant != PLAIN) {
        Some(variant) => format!("{name}-{variant}"),
        None => name.to_owned(),
    }
}

/// Why nothing published has a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PublishedError {
    /// None has the name.
    #[error(
        "no model is called `{name}`{}: `brahman models search` lists those that are known; any other is pulled as OWNER/NAME, its \
         repository on the hub",
        meaning(.meant)
    )]
    Name {
        /// As it was asked for.
        name: String,
        /// What was probably meant.
        meant: Option<String>,
    },
    /// It has other variants.
    #[error("{name} has no variant `{variant}`, expected one of {}", .there.join(", "))]
    Variant {
        /// The model.
        name: String,
        /// As it was asked for.
        variant: String,
        /// What there is.
        there: Vec<String>,
    },
}

fn meaning(meant: &Option<String>) -> String {
    meant.as_ref().map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default()
}

/// Every model of the list: by name, [`PLAIN`] first.
pub fn all() -> &'static [PublishedModel] {
    static ALL: OnceLock<Vec<PublishedModel>> = OnceLock::new();
    ALL.get_or_init(|| {
        let texts =
            TextEmbedding::list_supported_models().iter().map(embedding).collect::<Vec<_>>();
        let rerankers =
            TextRerank::list_supported_models().iter().map(reranker).collect::<Vec<_>>();
        let mut models = [texts, rerankers].concat();
        models.sort_by_key(|model| {
            (model.name.to_lowercase(), model.variant != PLAIN, model.variant.clone())
        });
        models
    })
}

/// The model of a name, in the variant that is asked for, else the first of its variants.
///
/// # Errors
/// [`PublishedError`], which says what there is.
pub fn find(name: &str, variant: Option<&str>) -> Result<&'static PublishedModel, PublishedError> {
    let variants: Vec<&'static PublishedModel> =
        all().iter().filter(|model| model.name.eq_ignore_ascii_case(name)).collect();
    let Some(first) = variants.first().copied() else {
        let meant = nearest(name, all().iter().map(|model| model.name.as_str())).map(str::to_owned);
        return Err(PublishedError::Name { name: name.to_owned(), meant });
    };
    let Some(variant) = variant else { return Ok(first) };
    variants.iter().find(|model| model.variant.eq_ignore_ascii_case(variant)).copied().ok_or_else(
        || PublishedError::Variant {
            name: first.name.clone(),
            variant: variant.to_owned(),
            there: variants.iter().map(|model| model.variant.clone()).collect(),
        },
    )
}

/// The models of which each of these words is said, in whatever case; all of them for none.
#[must_use]
pub fn search(words: &[String]) -> Vec<&'static PublishedModel> {
    let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    all().iter().filter(|model| words.iter().all(|word| model.has(word))).collect()
}

fn embedding(info: &ModelInfo<EmbeddingModel>) -> PublishedModel {
    let mode = TextEmbedding::get_quantization_mode(&info.model);
    PublishedModel {
        name: name_of(&info.model_code),
        variant: variant_of(&info.model_file, mode != QuantizationMode::None),
        kind: ModelKind::Embedding,
        repository: info.model_code.clone(),
        graph: info.model_file.clone(),
        weights: info.additional_files.clone(),
        dim: Some(info.dim),
        output: match &info.output_key {
            Some(OutputKey::ByName(name)) => Some((*name).to_owned()),
            Some(OutputKey::OnlyOne | OutputKey::ByOrder(_)) | None => None,
        },
        pooling: TextEmbedding::get_default_pooling_method(&info.model).map(
            |pooling| match pooling {
                Pooling::Cls => PoolingMode::Cls,
                Pooling::Mean => PoolingMode::Mean,
            },
        ),
        is_dynamic: mode == QuantizationMode::Dynamic,
        description: info.description.clone(),
    }
}

fn reranker(info: &RerankerModelInfo) -> PublishedModel {
    PublishedModel {
        name: name_of(&info.model_code),
        variant: variant_of(&info.model_file, false),
        kind: ModelKind::Reranker,
        repository: info.model_code.clone(),
        graph: info.model_file.clone(),
        weights: info.additional_files.clone(),
        dim: None,
        output: None,
        pooling: None,
        is_dynamic: false,
        description: info.description.clone(),
    }
}

/// The model's name, from its repository's.
fn name_of(repository: &str) -> String {
    let name = repository.rsplit('/').next().unwrap_or(repository);
    let lower = name.to_ascii_lowercase();
    let end = EXPORTS
        .iter()
        .find(|end| lower.ends_with(**end))
        .map_or(name.len(), |end| name.len() - end.len());
    name[..end].to_owned()
}

/// The variant, by the end of the graph's name.
fn variant_of(graph: &str, is_quantized: bool) -> String {
    let file = graph.rsplit('/').next().unwrap_or(graph);
    let stem = file.strip_suffix(".onnx").unwrap_or(file);
    match stem.strip_prefix("model").unwrap_or(stem).trim_start_matches('_') {
        "quantized" => "int8".to_owned(),
        "" | "optimized" if is_quantized => "int8".to_owned(),
        "" | "optimized" => PLAIN.to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use brahman_card::names::Kind;

    use super::*;

    #[test]
    fn every_model_has_a_name_of_its_own_that_can_be_kept() {
        let all = all();
        assert!(all.len() >= 50, "{} models", all.len());
        let names: BTreeSet<String> =
            all.iter().map(|model| model.installed_name().to_lowercase()).collect();
        assert_eq!(names.len(), all.len(), "no two are kept in one folder");
        for model in all {
            Kind::Model.check_new(&model.installed_name()).expect("a name for a folder");
            assert!(
                model.repository.split('/').count() == 2 && model.graph.ends_with(".onnx"),
                "{model:?}"
            );
            assert_eq!(model.pooling.is_some(), model.kind == ModelKind::Embedding, "{model:?}");
            assert_eq!(find(&model.name, Some(&model.variant)), Ok(model));
        }
    }

    #[test]
    fn names_are_those_that_people_know() {
        let small = find("BGE-small-en-v1.5", None).expect("known");
        assert_eq!(
            (small.name.as_str(), small.variant.as_str(), small.dim),
            ("bge-small-en-v1.5", PLAIN, Some(384))
        );
        assert_eq!(
            (small.pooling, small.installed_name().as_str()),
            (Some(PoolingMode::Cls), "bge-small-en-v1.5")
        );
        let int8 = find("bge-small-en-v1.5", Some("int8")).expect("known");
        assert_eq!(
            (int8.graph.as_str(), int8.installed_name().as_str()),
            ("model_optimized.onnx", "bge-small-en-v1.5-int8")
        );
        assert!(
            !int8.is_dynamic && find("all-MiniLM-L6-v2", Some("int8")).expect("known").is_dynamic
        );
        let gemma = find("embeddinggemma-300m", Some("q4")).expect("known");
        assert_eq!((gemma.output.as_deref(), gemma.weights.len()), (Some("sentence_embedding"), 1));
        assert_eq!(find("bge-reranker-base", None).expect("known").kind, ModelKind::Reranker);
    }

    #[test]
    fn what_is_not_known_is_told_with_what_is() {
        let refused = find("bge-smal-en-v1.5", None).expect_err("a slip").to_string();
        assert!(refused.contains("did you mean `bge-small-en-v1.5`?"), "{refused}");
        let refused =
            find("bge-small-en-v1.5", Some("int4")).expect_err("no such variant").to_string();
        assert!(refused.ends_with("expected one of fp32, int8"), "{refused}");
        let found = search(&["BGE".to_owned(), "chinese".to_owned()]);
        assert!(
            found.iter().any(|model| model.name == "bge-small-zh-v1.5")
                && found.iter().all(|model| !model.name.contains("-en-"))
        );
        assert_eq!(search(&[]).len(), all().len());
    }
}
