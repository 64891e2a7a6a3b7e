//! Which inputs and outputs of a graph are the tokens, the mask, the positions, the logits and the
//! past.

use ort::session::Session;
use ort::value::{TensorElementType, ValueType};
use thiserror::Error;

/// Why a graph is none of a language model that can be read piece by piece.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WiringError {
    /// It wants something that nobody has.
    #[error(
        "input `{name}` is not known: expected input_ids, attention_mask, position_ids, past_key_values.*, use_cache_branch, num_logits_to_keep"
    )]
    UnknownInput {
        /// What it wants.
        name: String,
    },
    /// It takes no tokens.
    #[error("no input `input_ids`: is this a language model?")]
    NoTokens,
    /// It says nothing of what comes next.
    #[error("no output `logits`, only {}", .there.join(", "))]
    NoLogits {
        /// What it says.
        there: Vec<String>,
    },
    /// A tensor is of another type.
    #[error("{tensor} is {kind}: expected {expected}")]
    OtherType {
        /// Input or output, and its name.
        tensor: String,
        /// Its type.
        kind: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Nobody knows how many tokens there are.
    #[error("output `logits` does not say how many tokens there are in its last dimension")]
    NoVocabulary,
    /// A part of the cache goes in and does not come out.
    #[error("input `{name}` has no output `present.{rest}` beside it")]
    NoPresent {
        /// What goes in.
        name: String,
        /// Which part it is.
        rest: String,
    },
    /// A part of the cache has another shape.
    #[error(
        "input `{name}` has the shape {shape}: expected [batch, heads, tokens, width] with heads and width said"
    )]
    OtherShape {
        /// What goes in.
        name: String,
        /// Its shape.
        shape: String,
    },
}

/// What a cache's and the logits' numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32 bits.
    F32,
    /// 16 bits, of which 5 are the exponent.
    F16,
    /// 16 bits, of which 8 are the exponent.
    Bf16,
}

impl Element {
    fn of(tensor: String, kind: &ValueType) -> Result<Self, WiringError> {
        match kind {
            ValueType::Tensor { ty: TensorElementType::Float32, .. } => Ok(Self::F32),
            ValueType::Tensor { ty: TensorElementType::Float16, .. } => Ok(Self::F16),
            ValueType::Tensor { ty: TensorElementType::Bfloat16, .. } => Ok(Self::Bf16),
            other => Err(WiringError::OtherType {
                tensor,
                kind: format!("{other:?}"),
                expected: "float32, float16 or bfloat16",
            }),
        }
    }

    /// Bytes of one number.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// One tensor of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Name of the input.
    pub input: String,
    /// Name of the output that is the next step's input.
    pub output: String,
    /// How many heads it has.
    pub heads: usize,
    /// How many numbers a head has.
    pub width: usize,
    /// What they are.
    pub element: Element,
}

/// What a graph's inputs and outputs are.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// Whether it takes `attention_mask`.
    pub mask: bool,
    /// Whether it takes `position_ids`.
    pub positions: bool,
    /// Whether tokens and places are of 32 bits, not 64.
    pub narrow: bool,
    /// Whether it takes `use_cache_branch`, as graphs do that hold a first step and the others.
    pub branch: bool,
    /// The input by which only the last logits could be asked for, and whether it is a list of one.
    pub keep: Option<(String, bool)>,
    /// Inputs that take the cache of former tokens; without any, everything is read again at each
    /// step.
    pub past: Vec<Past>,
    /// What the logits are.
    pub logits: Element,
    /// How many tokens there are.
    pub vocabulary: u32,
}

impl Wiring {
    /// Looks at a session.
    ///
    /// # Errors
    /// [`WiringError`].
    pub fn find(session: &Session) -> Result<Self, WiringError> {
        let mut wiring = Self {
            mask: false,
            positions: false,
            narrow: false,
            branch: false,
            keep: None,
            past: Vec::new(),
            logits: Element::F32,
            vocabulary: 0,
        };
        let outputs: Vec<&str> = session.outputs().iter().map(ort::value::Outlet::name).collect();
        let mut ids = false;
        for input in session.inputs() {
            match input.name() {
                "input_ids" => {
                    ids = true;
                    wiring.narrow = match input.dtype() {
                        ValueType::Tensor { ty: TensorElementType::Int64, .. } => false,
                        ValueType::Tensor { ty: TensorElementType::Int32, .. } => true,
                        other => {
                            let (tensor, kind) =
                                ("input `input_ids`".to_owned(), format!("{other:?}"));
                            return Err(WiringError::OtherType {
                                tensor,
                                kind,
                                expected: "int64 or int32",
                            });
                        }
                    };
                }
                "attention_mask" => wiring.mask = true,
                "position_ids" => wiring.positions = true,
                "use_cache_branch" => wiring.branch = true,
                name @ ("num_logits_to_keep" | "logits_to_keep") => {
                    let is_list = matches!(
                        input.dtype(),
                        ValueType::Tensor { shape, .. } if !shape.is_empty()
                    );
                    wiring.keep = Some((name.to_owned(), is_list));
                }
                name => match name
                    .strip_prefix("past_key_values.")
                    .or_else(|| name.strip_prefix("past_key_values_"))
                {
                    Some(rest) => wiring.past.push(past(name, rest, &outputs, input.dtype())?),
                    None => return Err(WiringError::UnknownInput { name: name.to_owned() }),
                },
            }
        }
        if !ids {
            return Err(WiringError::NoTokens);
        }
        let logits = session.outputs().iter().find(|o| o.name() == "logits");
        let logits = logits.ok_or_else(|| WiringError::NoLogits {
            there: outputs.iter().map(|name| (*name).to_owned()).collect(),
        })?;
        wiring.logits = Element::of("output `logits`".to_owned(), logits.dtype())?;
        let ValueType::Tensor { shape, .. } = logits.dtype() else {
            return Err(WiringError::NoVocabulary);
        };
        let last = shape.last().copied().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        wiring.vocabulary = last.ok_or(WiringError::NoVocabulary)?;
        Ok(wiring)
    }

    /// Of the cache, over all its tensors.
    #[must_use]
    pub fn bytes_per_token(&self) -> u64 {
        self.past.iter().map(|p| (p.heads * p.width * p.element.bytes()) as u64).sum()
    }
}

fn past(name: &str, rest: &str, outputs: &[&str], kind: &ValueType) -> Result<Past, WiringError> {
    let output = [
        format!("present.{rest}"),
        format!("present_key_values.{rest}"),
        format!("present_{rest}"),
    ];
    let output = output.into_iter().find(|o| outputs.contains(&o.as_str()));
    let output = output
        .ok_or_else(|| WiringError::NoPresent { name: name.to_owned(), rest: rest.to_owned() })?;
    let element = Element::of(format!("input `{name}`"), kind)?;
    let ValueType::Tensor { shape, .. } = kind else {
        return Err(WiringError::OtherShape { name: name.to_owned(), shape: format!("{kind:?}") });
    };
    match shape[..] {
        [_, heads, _, width] if heads > 0 && width > 0 => Ok(Past {
            input: name.to_owned(),
            output,
            heads: usize::try_from(heads).unwrap_or(0),
            width: usize::try_from(width).unwrap_or(0),
            element,
        }),
        _ => Err(WiringError::OtherShape { name: name.to_owned(), shape: format!("{shape:?}") }),
    }
}
