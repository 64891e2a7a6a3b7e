//! What each kind of server is asked for vectors, and how it answers. Pure.
//!
//! * OpenAI's `/v1/embeddings`: <https://platform.openai.com/docs/api-reference/embeddings>; it
//!   cannot be told whether to cut.
//! * Ollama's `/api/embed`: <https://docs.ollama.com/api/embed>.
//! * `/embed` of text-embeddings-inference (TEI):
//!   <https://huggingface.github.io/text-embeddings-inference>.
//!
//! Invariants: as many vectors as texts, or an error; each at the place of its text, by the
//! server's own index where it gives one. What is in a vector is not judged here: a number that is
//! none comes out as NaN.

use brahman_card::wire::base64;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI and the many that speak like it.
    OpenAi,
    /// Ollama's own.
    Ollama,
    /// text-embeddings-inference.
    Tei,
}

/// What a server says of its model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introduction {
    /// The model's name, as the server knows it.
    pub model: Option<String>,
    /// Tokens that a text may have.
    pub window: Option<u32>,
    /// Texts that a request may have.
    pub batch: Option<usize>,
}

/// A server's answer to a request for vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorsAnswer {
    /// One a text, in the texts' order.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all the texts together, as far as they were looked at; none if the server does not
    /// count them.
    pub tokens: Option<u32>,
}

/// Why an answer gives no vectors.
#[derive(Debug, Error)]
pub enum AnswerError {
    /// It is no JSON, or another one.
    #[error("not what {dialect} answers")]
    Shape {
        /// As what it was read.
        dialect: &'static str,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// Which vector is whose cannot be known.
    #[error("{vectors} vectors for {texts} texts")]
    Count {
        /// That came.
        vectors: usize,
        /// That were sent.
        texts: usize,
    },
    /// Nor can it here.
    #[error("the vectors' `index` fields are not 0 to {last}, each once")]
    Order {
        /// The last that was expected.
        last: usize,
    },
    /// Numbers as text, which were not asked for, and are none.
    #[error("a vector came as text that is not base64 of 32-bit numbers")]
    Encoding,
}

#[derive(Deserialize)]
struct OpenAiAnswer {
    data: Vec<OpenAiVector>,
    #[serde(default)]
    usage: Option<OpenAiUsage>,
}

#[derive(Deserialize)]
struct OpenAiVector {
    #[serde(default)]
    index: Option<usize>,
    embedding: OpenAiNumbers,
}

/// Base64 is not asked for; there are servers that send it all the same.
#[derive(Deserialize)]
#[serde(untagged)]
enum OpenAiNumbers {
    List(Vec<Option<f32>>),
    Text(String),
}

#[derive(Deserialize)]
struct OpenAiUsage {
    #[serde(default)]
    prompt_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct OllamaAnswer {
    embeddings: Vec<Vec<Option<f32>>>,
    #[serde(default)]
    prompt_eval_count: Option<u32>,
}

impl Dialect {
    /// Every dialect, in the order in which help names them.
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::Ollama, Self::Tei];

    /// As settings and replies have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Ollama => "ollama",
            Self::Tei => "tei",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// Where vectors are asked for.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "/v1/embeddings",
            Self::Ollama => "/api/embed",
            Self::Tei => "/embed",
        }
    }

    /// Whether a request says if what is too long is to be cut.
    #[must_use]
    pub fn can_cut(self) -> bool {
        self != Self::OpenAi
    }

    /// The request for the vectors of these texts.
    #[must_use]
    pub fn body(self, model: &str, texts: &[String], truncate: bool) -> Value {
        match self {
            Self::OpenAi => json!({ "model": model, "input": texts, "encoding_format": "float" }),
            Self::Ollama => json!({ "model": model, "input": texts, "truncate": truncate }),
            Self::Tei => json!({ "inputs": texts, "truncate": truncate, "normalize": true }),
        }
    }

    /// Where a server says what its model is, if it does.
    #[must_use]
    pub fn about(self) -> Option<&'static str> {
        match self {
            Self::Tei => Some("/info"),
            // Ollama's `/api/show` tells the model's window and not the one in use, which may be
            // less.
            Self::OpenAi | Self::Ollama => None,
        }
    }

    /// What it says there.
    #[must_use]
    pub fn introduction(self, answer: &[u8]) -> Introduction {
        if self != Self::Tei {
            return Introduction::default();
        }
        let about: Value = serde_json::from_slice(answer).unwrap_or_default();
        let number = |key: &str| about[key].as_u64().filter(|n| *n > 0);
        Introduction {
            model: about["model_id"].as_str().filter(|name| !name.is_empty()).map(str::to_owned),
            window: number("max_input_length").and_then(|n| u32::try_from(n).ok()),
            batch: number("max_client_batch_size").and_then(|n| usize::try_from(n).ok()),
        }
    }

    /// The vectors in an answer for so many texts.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn vectors(self, answer: &[u8], texts: usize) -> Result<VectorsAnswer, AnswerError> {
        let shape = |source| AnswerError::Shape { dialect: self.name(), source };
        let numbers = |list: Vec<Option<f32>>| {
            list.into_iter().map(|x| x.unwrap_or(f32::NAN)).collect::<Vec<f32>>()
        };
        let (vectors, tokens) = match self {
            Self::OpenAi => {
                let OpenAiAnswer { data, usage } = serde_json::from_slice(answer).map_err(shape)?;
                (ordered(data, texts)?, usage.and_then(|usage| usage.prompt_tokens))
            }
            Self::Ollama => {
                let OllamaAnswer { embeddings, prompt_eval_count } =
                    serde_json::from_slice(answer).map_err(shape)?;
                (embeddings.into_iter().map(numbers).collect(), prompt_eval_count)
            }
            Self::Tei => {
                let lists: Vec<Vec<Option<f32>>> = serde_json::from_slice(answer).map_err(shape)?;
                (lists.into_iter().map(numbers).collect::<Vec<_>>(), None)
            }
        };
        if vectors.len() != texts {
            return Err(AnswerError::Count { vectors: vectors.len(), texts });
        }
        Ok(VectorsAnswer { vectors, tokens })
    }
}

/// Vectors at the places that the server names; where it names none at all, in the order in which
/// they came.
fn ordered(data: Vec<OpenAiVector>, texts: usize) -> Result<Vec<Vec<f32>>, AnswerError> {
    if data.len() != texts {
        return Err(AnswerError::Count { vectors: data.len(), texts });
    }
    let is_mute = data.iter().all(|one| one.index.is_none());
    let wrong = || AnswerError::Order { last: texts.saturating_sub(1) };
    let mut places: Vec<Option<Vec<f32>>> = (0..texts).map(|_| None).collect();
    for (came, one) in data.into_iter().enumerate() {
        let at = if is_mute { came } else { one.index.ok_or_else(wrong)? };
        let place = places.get_mut(at).filter(|place| place.is_none()).ok_or_else(wrong)?;
        *place = Some(match one.embedding {
            OpenAiNumbers::List(list) => list.into_iter().map(|x| x.unwrap_or(f32::NAN)).collect(),
            OpenAiNumbers::Text(text) => decoded(&text).ok_or(AnswerError::Encoding)?,
        });
    }
    places.into_iter().collect::<Option<Vec<_>>>().ok_or_else(wrong)
}

/// 32-bit numbers, little-endian, in base64.
fn decoded(text: &str) -> Option<Vec<f32>> {
    let bytes = base64::decode(text)?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    (rest.is_empty() && !numbers.is_empty())
        .then(|| numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("text {i}")).collect()
    }

    #[test]
    fn each_dialect_is_asked_as_it_wants() {
        assert_eq!(
            Dialect::OpenAi.body("m", &texts(2), true),
            json!({ "model": "m", "input": ["text 0", "text 1"], "encoding_format": "float" })
        );
        assert_eq!(
            Dialect::Ollama.body("m", &texts(1), false),
            json!({ "model": "m", "input": ["text 0"], "truncate": false })
        );
        assert_eq!(
            Dialect::Tei.body("m", &texts(1), true),
            json!({ "inputs": ["text 0"], "truncate": true, "normalize": true })
        );
        for dialect in Dialect::ALL {
            assert_eq!(Dialect::named(dialect.name()), Some(dialect));
        }
        assert_eq!(Dialect::named("cohere"), None);
    }

    #[test]
    fn vectors_are_read_at_their_places() {
        let openai = json!({ "data": [{ "index": 1, "embedding": [3.0, 4.0] }, { "index": 0, "embedding": [1.0, 2.0] }],
            "usage": { "prompt_tokens": 7, "total_tokens": 7 } });
        let answer = Dialect::OpenAi.vectors(openai.to_string().as_bytes(), 2).expect("vectors");
        assert_eq!(
            (answer.vectors, answer.tokens),
            (vec![vec![1.0, 2.0], vec![3.0, 4.0]], Some(7))
        );
        let mute = json!({ "data": [{ "embedding": [1.0] }, { "embedding": [2.0] }] });
        assert_eq!(
            Dialect::OpenAi.vectors(mute.to_string().as_bytes(), 2).expect("vectors").vectors,
            [[1.0], [2.0]]
        );
        let text = base64::encode(&[1.5_f32, -2.0].map(f32::to_le_bytes).concat());
        let encoded = json!({ "data": [{ "index": 0, "embedding": text }] });
        assert_eq!(
            Dialect::OpenAi.vectors(encoded.to_string().as_bytes(), 1).expect("vectors").vectors,
            [[1.5, -2.0]]
        );
        let ollama = json!({ "model": "m", "embeddings": [[1.0, null]], "prompt_eval_count": 3 });
        let answer = Dialect::Ollama.vectors(ollama.to_string().as_bytes(), 1).expect("vectors");
        assert!(
            answer.vectors[0][0] == 1.0
                && answer.vectors[0][1].is_nan()
                && answer.tokens == Some(3)
        );
        assert_eq!(Dialect::Tei.vectors(b"[[1.0,2.0]]", 1).expect("vectors").vectors, [[1.0, 2.0]]);
    }

    #[test]
    fn what_cannot_be_placed_is_refused() {
        let refused = |dialect: Dialect, answer: &Value, texts: usize| {
            dialect.vectors(answer.to_string().as_bytes(), texts).expect_err("refused")
        };
        let twice = json!({ "data": [{ "index": 0, "embedding": [1.0] }, { "index": 0, "embedding": [1.0] }] });
        assert!(matches!(refused(Dialect::OpenAi, &twice, 2), AnswerError::Order { last: 1 }));
        let beyond = json!({ "data": [{ "index": 2, "embedding": [1.0] }, { "index": 0, "embedding": [1.0] }] });
        assert!(matches!(refused(Dialect::OpenAi, &beyond, 2), AnswerError::Order { .. }));
        let half = json!({ "data": [{ "index": 0, "embedding": [1.0] }, { "embedding": [1.0] }] });
        assert!(matches!(refused(Dialect::OpenAi, &half, 2), AnswerError::Order { .. }));
        assert!(matches!(
            refused(Dialect::OpenAi, &json!({ "data": [] }), 1),
            AnswerError::Count { vectors: 0, texts: 1 }
        ));
        let garbled = json!({ "data": [{ "index": 0, "embedding": "AAA" }] });
        assert!(matches!(refused(Dialect::OpenAi, &garbled, 1), AnswerError::Encoding));
        assert!(matches!(
            refused(Dialect::Ollama, &json!({ "embeddings": [[1.0]] }), 2),
            AnswerError::Count { vectors: 1, texts: 2 }
        ));
        assert!(matches!(
            refused(Dialect::Tei, &json!({ "error": "no" }), 1),
            AnswerError::Shape { .. }
        ));
        assert!(Dialect::Tei.vectors(b"[[NaN]]", 1).is_err(), "no JSON");
    }

    #[test]
    fn tei_introduces_itself() {
        let info = json!({ "model_id": "BAAI/bge-small-en-v1.5", "max_input_length": 512, "max_client_batch_size": 32 });
        let told = Introduction {
            model: Some("BAAI/bge-small-en-v1.5".into()),
            window: Some(512),
            batch: Some(32),
        };
        assert_eq!(Dialect::Tei.introduction(info.to_string().as_bytes()), told);
        assert_eq!(Dialect::Tei.introduction(b"<html>"), Introduction::default());
    }
}
