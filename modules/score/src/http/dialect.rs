//! What each kind of server is asked, and how it answers. Pure.
//!
//! * vLLM: `POST /v1/completions` with `prompt_logprobs`; an object a token, by id, null for the
//!   first. <https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html>
//! * SGLang: `POST /generate` with `return_logprob` and `logprob_start_len`; a triple a token.
//!   <https://docs.sglang.ai/basic_usage/native_api.html>
//! * Completions: `POST /v1/completions` with `echo` and `logprobs`, as llama.cpp and others have
//!   it; a list for the prompt and what follows.
//!   <https://platform.openai.com/docs/api-reference/completions/create>
//! * Brahman's own first server: `POST /v1/score`; one sum for each response of the assistant in a
//!   prompt, errors as text.

use serde_json::{Value, json};

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// Whatever echoes a prompt with its log-probabilities.
    Completions,
    /// `/v1/score`.
    Brahman,
}

/// The priority that this server's own callers have always sent.
const PRIORITY: i64 = 5;

/// What a server is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The model's name there.
    pub model: &'a str,
    /// Tokens of the whole prompt.
    pub tokens: &'a [u32],
    /// First place whose log-probability is wanted; at least 1.
    pub from: usize,
    /// Responses of the assistant in the prompt.
    pub responses: usize,
    /// What the sampling is told; log-probabilities of a prompt must not depend on it.
    pub temperature: f64,
    /// The caller's, if he has said one.
    pub priority: Option<i64>,
}

/// What a server has answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// From the first wanted place on; empty if only sums are told.
    pub logprobs: Vec<f32>,
    /// Sums, one for each response; empty if every token's figure is told.
    pub totals: Vec<f64>,
    /// Tokens that the server had in its cache.
    pub reused: u64,
}

/// Why an answer is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is an error, in the server's words.
    #[error("{0}")]
    Refused(String),
    /// A part of it is not there.
    #[error("no {0}")]
    Absent(&'static str),
    /// It has more or fewer figures than there are tokens.
    #[error("{figures} log-probabilities, expected {expected} from token {from} of the prompt on")]
    Count {
        /// Figures that it has.
        figures: usize,
        /// Figures that it should have.
        expected: usize,
        /// The first token's place.
        from: usize,
    },
    /// It has more or fewer figures than there are responses.
    #[error(
        "{figures} figures for a prompt with {expected} responses of the assistant: does the server know them by another template?"
    )]
    Responses {
        /// Figures that it has.
        figures: usize,
        /// Figures that it should have.
        expected: usize,
    },
    /// It has what was generated and not what was asked.
    #[error(
        "log-probabilities of what it generates only, and none of the prompt: it does not know `echo` (llama.cpp's server as it is does not)"
    )]
    NoEcho,
    /// A figure is none.
    #[error("no log-probability for token {place} of the prompt")]
    NoFigure {
        /// The token's place.
        place: usize,
    },
    /// It does not have a token that was sent.
    #[error("token {place} of the prompt is {token}, which the answer does not have")]
    NoToken {
        /// The token's place.
        place: usize,
        /// Its id.
        token: u32,
    },
    /// It is of other tokens than were sent.
    #[error("token {place} of the prompt is {token}, the answer has {found}")]
    OtherToken {
        /// The token's place.
        place: usize,
        /// Its id.
        token: u32,
        /// What the answer has there.
        found: String,
    },
    /// A figure is NaN or infinite.
    #[error("log-probabilities that are not finite")]
    NotFinite,
}

impl Dialect {
    /// As it is written before the address.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Completions => "completions",
            Self::Brahman => "brahman",
        }
    }

    /// What `Info` calls it.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Vllm => "vllm: one pass per removal, without the server's prefix cache",
            Self::Sglang => "sglang: one pass per removal, with the server's prefix cache",
            Self::Completions => {
                "completions: one pass per removal, with the server's prefix cache if it has one"
            }
            Self::Brahman => {
                "brahman: one pass per removal; a token's figure is the mean of its response"
            }
        }
    }

    /// Where a server tells which model it has.
    #[must_use]
    pub fn about(self) -> Option<&'static str> {
        match self {
            Self::Vllm | Self::Completions => Some("/v1/models"),
            Self::Sglang => Some("/get_model_info"),
            Self::Brahman => None,
        }
    }

    /// The model's name and its window, as told there.
    #[must_use]
    pub fn introduced(self, answer: &Value) -> (Option<String>, Option<usize>) {
        let (name, window) = match self {
            Self::Vllm | Self::Completions => {
                (&answer["data"][0]["id"], &answer["data"][0]["max_model_len"])
            }
            Self::Sglang => (&answer["model_path"], &answer["max_context_length"]),
            Self::Brahman => (&Value::Null, &Value::Null),
        };
        (name.as_str().map(str::to_owned), window.as_u64().and_then(|w| usize::try_from(w).ok()))
    }

    /// Where prompts are scored.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Vllm | Self::Completions => "/v1/completions",
            Self::Sglang => "/generate",
            Self::Brahman => "/v1/score",
        }
    }

    /// The request's body, as this server takes it.
    #[must_use]
    pub fn body(self, ask: &Ask<'_>) -> Value {
        match self {
            // A priority other than 0 is an error unless the scheduler was set up for it, so none
            // is sent.
            Self::Vllm => {
                json!({ "model": ask.model, "prompt": ask.tokens, "max_tokens": 1, "temperature": ask.temperature, "prompt_logprobs": 0 })
            }
            Self::Sglang => json!({
                "input_ids": ask.tokens,
                "sampling_params": { "max_new_tokens": 1, "temperature": ask.temperature },
                "return_logprob": true,
                // The token at which it starts has none itself.
                "logprob_start_len": ask.from - 1,
            }),
            Self::Completions => json!({
                "model": ask.model,
                "prompt": ask.tokens,
                "max_tokens": 1,
                "temperature": ask.temperature,
                "echo": true,
                "logprobs": 1,
            }),
            Self::Brahman => {
                json!({ "model": ask.model, "prompt": ask.tokens, "logprobs": 1, "priority": ask.priority.unwrap_or(PRIORITY) })
            }
        }
    }

    /// An answer.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn scores(self, ask: &Ask<'_>, answer: &Value) -> Result<Answer, AnswerError> {
        let answer = match self {
            Self::Vllm => vllm(ask, answer),
            Self::Sglang => sglang(ask, answer),
            Self::Completions => completions(ask, answer),
            Self::Brahman => brahman(ask, answer),
        }?;
        let finite = answer.totals.iter().all(|x| x.is_finite())
            && answer.logprobs.iter().all(|x| x.is_finite());
        if finite { Ok(answer) } else { Err(AnswerError::NotFinite) }
    }
}

fn number(value: &Value, place: usize) -> Result<f32, AnswerError> {
    value.as_f64().map(|x| x as f32).ok_or(AnswerError::NoFigure { place })
}

fn each(logprobs: Vec<f32>, reused: u64) -> Answer {
    Answer { logprobs, totals: Vec::new(), reused }
}

fn vllm(ask: &Ask<'_>, answer: &Value) -> Result<Answer, AnswerError> {
    let list = answer["choices"][0]["prompt_logprobs"].as_array();
    let absent = "choices[0].prompt_logprobs: the server gives no log-probabilities of a prompt";
    let list = list.ok_or(AnswerError::Absent(absent))?;
    if list.len() != ask.tokens.len() {
        return Err(AnswerError::Count {
            figures: list.len(),
            expected: ask.tokens.len(),
            from: 0,
        });
    }
    // With the token itself come the likeliest ones: it is looked up by its id.
    let of = |place: usize| {
        let entry = list[place].get(ask.tokens[place].to_string());
        let entry = entry.ok_or(AnswerError::NoToken { place, token: ask.tokens[place] })?;
        number(&entry["logprob"], place)
    };
    Ok(each((ask.from..ask.tokens.len()).map(of).collect::<Result<_, _>>()?, 0))
}

fn sglang(ask: &Ask<'_>, answer: &Value) -> Result<Answer, AnswerError> {
    let meta = &answer["meta_info"];
    let list = meta["input_token_logprobs"]
        .as_array()
        .ok_or(AnswerError::Absent("meta_info.input_token_logprobs"))?;
    let expected = ask.tokens.len() - (ask.from - 1);
    if list.len() != expected {
        return Err(AnswerError::Count { figures: list.len(), expected, from: ask.from - 1 });
    }
    let of = |(i, entry): (usize, &Value)| {
        let place = ask.from + i;
        if entry[1].as_u64() != Some(ask.tokens[place].into()) {
            return Err(AnswerError::OtherToken {
                place,
                token: ask.tokens[place],
                found: entry[1].to_string(),
            });
        }
        number(&entry[0], place)
    };
    let logprobs = list.iter().skip(1).enumerate().map(of).collect::<Result<_, _>>()?;
    Ok(each(logprobs, meta["cached_tokens"].as_u64().unwrap_or(0)))
}

fn completions(ask: &Ask<'_>, answer: &Value) -> Result<Answer, AnswerError> {
    let told = &answer["choices"][0]["logprobs"];
    // The first form has numbers, the later one an object a token.
    let (list, of_object) = match (told["token_logprobs"].as_array(), told["content"].as_array()) {
        (Some(list), _) => (list, false),
        (None, Some(list)) => (list, true),
        (None, None) => return Err(AnswerError::Absent("choices[0].logprobs")),
    };
    let expected = ask.tokens.len();
    if list.len() <= 1 && expected > 2 {
        return Err(AnswerError::NoEcho);
    }
    // What was generated stands behind the prompt.
    if list.len() != expected && list.len() != expected + 1 {
        return Err(AnswerError::Count { figures: list.len(), expected, from: 0 });
    }
    let of = |place: usize| {
        let entry = &list[place];
        if !of_object {
            return number(entry, place);
        }
        match entry["id"].as_u64() {
            Some(id) if id != u64::from(ask.tokens[place]) => Err(AnswerError::OtherToken {
                place,
                token: ask.tokens[place],
                found: id.to_string(),
            }),
            _ => number(&entry["logprob"], place),
        }
    };
    Ok(each((ask.from..expected).map(of).collect::<Result<_, _>>()?, 0))
}

fn brahman(ask: &Ask<'_>, answer: &Value) -> Result<Answer, AnswerError> {
    if let Some(error) = answer["error"].as_str() {
        return Err(AnswerError::Refused(error.chars().take(200).collect()));
    }
    let list = answer["scores"].as_array().ok_or(AnswerError::Absent("scores"))?;
    if list.len() != ask.responses {
        return Err(AnswerError::Responses { figures: list.len(), expected: ask.responses });
    }
    let total = |entry: &Value| {
        entry["total_logprob"].as_f64().ok_or(AnswerError::Absent("scores[…].total_logprob"))
    };
    Ok(Answer {
        logprobs: Vec::new(),
        totals: list.iter().map(total).collect::<Result<_, _>>()?,
        reused: 0,
    })
}
