//! What a model's folder comes to: every decision between a text and its vector, as values.

use std::fmt::Write as _;

use super::prompts::Prompts;
use crate::graph::Element;

/// Version of what is computed outside the graph: pooling, and what follows it. A change of any
/// vector changes it.
const HEAD_VERSION: u32 = 1;

/// What an input of a graph is fed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputRole {
    /// The tokens.
    Ids,
    /// 1 for a token, 0 for padding.
    Mask,
    /// Which of two texts a token is of; 0 where there is one text a row.
    Types,
    /// A token's place, from the plan's `first_position` on.
    Positions,
}

/// One input of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputPlan {
    /// Its name in the graph.
    pub name: String,
    /// What it is fed with.
    pub role: InputRole,
    /// Whether it takes 32 bits a number in place of 64.
    pub is_narrow: bool,
}

/// What a session of a graph has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphFeed {
    /// What the graph is fed with, in its order.
    pub inputs: Vec<InputPlan>,
    /// The place of the first token, where the graph wants to be told.
    pub first_position: usize,
    /// What padding is filled with.
    pub pad_id: u32,
    /// Width to which every row is padded, if the graph takes no other.
    pub fixed_width: Option<usize>,
    /// The output that is taken, by its name in the graph.
    pub output: String,
}

/// What an output of a graph is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputStage {
    /// A vector a token.
    Tokens,
    /// A vector a text: the graph pools by itself.
    Sentence,
}

/// The output of a graph that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputPlan {
    /// Its name in the graph.
    pub name: String,
    /// Whether it is pooled.
    pub stage: OutputStage,
    /// Its numbers' type: 32 or 16 bits.
    pub element: Element,
    /// Length of its vectors, if the graph says so.
    pub hidden: Option<usize>,
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PoolingMode {
    /// The first token's.
    Cls,
    /// The largest number in each place.
    Max,
    /// Their mean.
    Mean,
    /// Their sum over the square root of how many they are.
    MeanSqrtLen,
    /// Their mean, a token's weight being its place, from 1.
    WeightedMean,
    /// The last token's.
    LastToken,
}

impl PoolingMode {
    /// All of them, in the order in which sentence-transformers puts their vectors side by side.
    pub const ALL: [Self; 6] =
        [Self::Cls, Self::Max, Self::Mean, Self::MeanSqrtLen, Self::WeightedMean, Self::LastToken];

    /// Its name, as sentence-transformers has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::MeanSqrtLen => "mean_sqrt_len",
            Self::WeightedMean => "weightedmean",
            Self::LastToken => "lasttoken",
        }
    }

    /// By its name, with or without sentence-transformers' endings.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let letters: String = name
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect();
        match letters.as_str() {
            "cls" | "clstoken" => Some(Self::Cls),
            "max" | "maxtokens" => Some(Self::Max),
            "mean" | "meantokens" => Some(Self::Mean),
            "meansqrtlen" | "meansqrtlentokens" => Some(Self::MeanSqrtLen),
            "weightedmean" | "weightedmeantokens" => Some(Self::WeightedMean),
            "last" | "lasttoken" | "lasttokens" => Some(Self::LastToken),
            _ => None,
        }
    }
}

/// How a text's tokens are pooled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pooling {
    /// In sentence-transformers' order, each once; their vectors side by side.
    pub modes: Vec<PoolingMode>,
    /// Whether the prompt's tokens are pooled with the text's.
    pub include_prompt: bool,
}

impl Pooling {
    /// Names joined by `+`.
    #[must_use]
    pub fn name(&self) -> String {
        self.modes.iter().map(|mode| mode.name()).collect::<Vec<_>>().join("+")
    }
}

/// What is applied to each number behind a dense layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The number itself.
    Identity,
    /// The hyperbolic tangent.
    Tanh,
    /// What is below 0 becomes 0.
    Relu,
    /// By the error function.
    Gelu,
    /// The number times its logistic function.
    Silu,
}

/// What is done with a text's pooled vector.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// A product with a matrix.
    Dense(Dense),
    /// Shifted to a mean of 0, scaled to a variance of 1, then by what was trained.
    LayerNorm(LayerNorm),
    /// Scaled to length 1.
    Normalize,
}

/// A dense layer: weights, bias and what follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// Where it lies in the folder.
    pub path: String,
    /// Length of what goes in.
    pub inputs: usize,
    /// Length of what comes out.
    pub outputs: usize,
    /// A row for each number that comes out.
    pub weight: Vec<f32>,
    /// What is added; none if empty.
    pub bias: Vec<f32>,
    /// The function that its results go through.
    pub activation: Activation,
    /// Of the weights' file, in hex.
    pub sha256: String,
}

/// A layer norm: scale, shift and epsilon.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Where it lies in the folder.
    pub path: String,
    /// What each number is multiplied by.
    pub weight: Vec<f32>,
    /// What is added to it.
    pub bias: Vec<f32>,
    /// Of the weights' file, in hex.
    pub sha256: String,
}

/// How many tokens the model takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Tokens of a text, special ones included.
    pub tokens: usize,
    /// Which file says so, for people.
    pub source: String,
}

/// Of what kind a graph's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32 bits.
    Fp32,
    /// 16 bits, IEEE.
    Fp16,
    /// 16 bits, the upper half of 32.
    Bf16,
    /// 8 bits, scaled once and for all.
    Int8,
    /// 8 bits, scaled by what is computed at the time: a text's vector depends on the texts beside
    /// it.
    Int8Dynamic,
    /// 8 bits, in blocks with a scale each; what is computed at the time has a scale for each block
    /// of each token, so that a text's vector does not depend on the texts beside it.
    Int8Blocks,
    /// Fewer bits a weight, in blocks, each token by itself.
    Blocks,
}

impl Precision {
    /// Its name in replies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int8Dynamic => "int8-dynamic",
            Self::Int8Blocks => "int8-blocks",
            Self::Blocks => "matmul-nbits",
        }
    }
}

/// Everything between a text and its vector.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelPlan {
    /// Name by which callers require it.
    pub name: String,
    /// The ONNX file, from the folder on.
    pub graph: String,
    /// What the graph is fed with, in its order.
    pub inputs: Vec<InputPlan>,
    /// The place of the first token, where the graph wants to be told.
    pub first_position: usize,
    /// What padding is filled with.
    pub pad_id: u32,
    /// Width to which every row is padded, if the graph takes no other.
    pub fixed_width: Option<usize>,
    /// Whether each text goes through the graph by itself, and why.
    pub alone: Option<&'static str>,
    /// What is taken from it.
    pub output: OutputPlan,
    /// Whether that output is the graph's first.
    pub is_first_output: bool,
    /// How tokens become one vector; `None` if the graph pools.
    pub pooling: Option<Pooling>,
    /// What follows, in order.
    pub stages: Vec<Stage>,
    /// How many tokens a text may have.
    pub window: Window,
    /// Heads of the model's attention, for its memory; a guess where no file says it.
    pub heads: usize,
    /// Whether what is too long loses its beginning, and not its end.
    pub cuts_left: bool,
    /// Whether texts are made lower case.
    pub lowercase: bool,
    /// Whether blanks around a text are taken off.
    pub strip: bool,
    /// What is put before texts.
    pub prompts: Prompts,
    /// How vectors are to be compared, as the folder says it.
    pub similarity: Option<String>,
    /// Length to which vectors are always cut.
    pub truncate_dim: Option<usize>,
    /// Lengths to which a call may have them cut.
    pub dimensions: Vec<usize>,
    /// Of what kind the graph's numbers are.
    pub precision: Precision,
    /// Rows of the tables of positions, least first: more tokens than that do not go through.
    pub positions: Option<usize>,
    /// Length of the vectors, as `brahman.json` says it; 0 if unsaid.
    pub dim_said: usize,
    /// What was said of the model outside its own files, for people.
    pub overrides: Vec<String>,
}

impl ModelPlan {
    /// Whether vectors have length 1.
    #[must_use]
    pub fn is_normalized(&self) -> bool {
        self.stages.contains(&Stage::Normalize)
    }

    /// What a session has to know.
    #[must_use]
    pub fn feed(&self) -> GraphFeed {
        GraphFeed {
            inputs: self.inputs.clone(),
            first_position: self.first_position,
            pad_id: self.pad_id,
            fixed_width: self.fixed_width,
            output: self.output.name.clone(),
        }
    }

    /// Whether an input of the graph has this role.
    #[must_use]
    pub fn feeds(&self, role: InputRole) -> bool {
        self.inputs.iter().any(|input| input.role == role)
    }

    /// Whether the plan is what was once assumed of every model: the mean of the first output's
    /// tokens, scaled to length 1. Its fingerprint is then the one that such models have always
    /// had, so that caches and indexes stay.
    #[must_use]
    pub fn is_as_once_assumed(&self) -> bool {
        let pools_so = match &self.pooling {
            Some(pooling) => pooling.modes == [PoolingMode::Mean],
            None => true,
        };
        let is_wide = |role| self.inputs.iter().all(|input| input.role != role || !input.is_narrow);
        self.graph == "model.onnx"
            && self.is_first_output
            && self.output.element == Element::Float32
            && pools_so
            && self.stages == [Stage::Normalize]
            && !self.cuts_left
            && !self.lowercase
            && self.truncate_dim.is_none()
            && self.fixed_width.is_none()
            && self.alone.is_none()
            && self.prompts.document().is_none_or(|(_, text)| text.is_empty())
            && self.prompts.usual().is_none_or(|(_, text)| text.is_empty())
            && self.feeds(InputRole::Mask)
            && !self.feeds(InputRole::Positions)
            && [InputRole::Ids, InputRole::Mask, InputRole::Types].into_iter().all(is_wide)
    }

    /// Everything but the files' bytes that a vector depends on, as one text.
    #[must_use]
    pub fn recipe(&self) -> String {
        let mut text = format!("embed {HEAD_VERSION}");
        let mut line = |name: &str, value: &dyn std::fmt::Debug| {
            // Into a `String`, which takes everything.
            let _ = write!(text, "\0{name}={value:?}");
        };
        line("output", &(&self.output.name, self.output.stage));
        line(
            "inputs",
            &self.inputs.iter().map(|input| (&input.name, input.role)).collect::<Vec<_>>(),
        );
        line("first_position", &self.first_position);
        line("fixed_width", &self.fixed_width);
        line("alone", &self.alone.is_some());
        line(
            "pooling",
            &self.pooling.as_ref().map(|pooling| (pooling.name(), pooling.include_prompt)),
        );
        for stage in &self.stages {
            match stage {
                Stage::Dense(dense) => line(
                    "dense",
                    &(
                        &dense.sha256,
                        dense.inputs,
                        dense.outputs,
                        dense.activation,
                        dense.bias.len(),
                    ),
                ),
                Stage::LayerNorm(norm) => line("layer_norm", &(&norm.sha256, norm.weight.len())),
                Stage::Normalize => line("normalize", &true),
            }
        }
        line("window", &self.window.tokens);
        line("cuts_left", &self.cuts_left);
        line("lowercase", &self.lowercase);
        line("strip", &self.strip);
        line("prompts", &self.prompts.by_name);
        line("default_prompt", &self.prompts.default_name);
        line("truncate_dim", &self.truncate_dim);
        line("precision", &self.precision.name());
        text
    }

    /// What a person would want to know of it, a line each.
    #[must_use]
    pub fn description(&self) -> Vec<String> {
        let inputs =
            self.inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>().join(", ");
        let mut lines = vec![
            format!("graph {}, {}, fed with {inputs}", self.graph, self.precision.name()),
            match &self.pooling {
                Some(pooling) => {
                    format!("output `{}`, pooled by {}", self.output.name, pooling.name())
                }
                None => format!("output `{}`, which the graph pools by itself", self.output.name),
            },
        ];
        lines.extend(self.stages.iter().map(|stage| match stage {
            Stage::Dense(dense) => format!(
                "{}: dense, {} to {} numbers, {:?}",
                dense.path, dense.inputs, dense.outputs, dense.activation
            ),
            Stage::LayerNorm(norm) => {
                format!("{}: layer norm of {} numbers", norm.path, norm.weight.len())
            }
            Stage::Normalize => "scaled to length 1".to_owned(),
        }));
        if !self.is_normalized() {
            lines.push("not scaled to length 1: the folder has no Normalize".to_owned());
        }
        let side = if self.cuts_left { "beginning" } else { "end" };
        lines.push(format!(
            "window of {} tokens by {}; what is longer loses its {side}",
            self.window.tokens, self.window.source
        ));
        let prompts: Vec<String> =
            self.prompts.by_name.iter().map(|(name, text)| format!("{name} {text:?}")).collect();
        if !prompts.is_empty() {
            let default = self
                .prompts
                .default_name
                .as_ref()
                .map_or(String::new(), |name| format!("; `{name}` unless said otherwise"));
            lines.push(format!("prompts: {}{default}", prompts.join(", ")));
        }
        if let Some(dim) = self.truncate_dim {
            lines.push(format!("vectors are cut to {dim} numbers"));
        }
        if !self.dimensions.is_empty() {
            lines.push(format!("vectors may be cut to {:?} numbers", self.dimensions));
        }
        if let Some(why) = self.alone {
            lines.push(format!("each text goes through the graph by itself: {why}"));
        }
        lines.extend(self.overrides.iter().cloned());
        lines
    }

    /// The length of the vectors where the graph gives some of `hidden` numbers, before any cut
    /// that a call wants.
    ///
    /// # Errors
    /// [`DimError`]: two parts that do not fit together, or that `brahman.json` says another
    /// length.
    pub fn dim(&self, hidden: usize) -> Result<usize, DimError> {
        let mut dim = self.pooling.as_ref().map_or(hidden, |pooling| hidden * pooling.modes.len());
        for stage in &self.stages {
            let (path, takes, gives) = match stage {
                Stage::Dense(dense) => (&dense.path, dense.inputs, dense.outputs),
                Stage::LayerNorm(norm) => (&norm.path, norm.weight.len(), norm.weight.len()),
                Stage::Normalize => continue,
            };
            if takes != dim {
                return Err(DimError::Part { path: path.clone(), takes, gets: dim });
            }
            dim = gives;
        }
        let full = dim;
        if let Some(cut) = self.truncate_dim {
            if cut > full {
                return Err(DimError::Cut { cut, full });
            }
            dim = cut;
        }
        if self.dim_said != 0 && self.dim_said != dim {
            return Err(DimError::Said { said: self.dim_said, gives: dim });
        }
        Ok(dim)
    }
}

/// Why a model's parts do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DimError {
    /// A module gets vectors of another length.
    #[error("{path} takes vectors of {takes} numbers and gets {gets}")]
    Part {
        /// Which module.
        path: String,
        /// What its files say.
        takes: usize,
        /// What comes out before it.
        gets: usize,
    },
    /// There is less than is to be left.
    #[error("truncate_dim is {cut}, and the model's vectors have a dimension of {full}")]
    Cut {
        /// What is to be left.
        cut: usize,
        /// What there is.
        full: usize,
    },
    /// The manifest says another length.
    #[error(
        "brahman.json says a dimension (`dim`) of {said}, and the model gives vectors of {gives} numbers"
    )]
    Said {
        /// In the manifest.
        said: usize,
        /// By the graph.
        gives: usize,
    },
}
