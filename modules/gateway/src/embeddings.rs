//! Vectors of many texts, whoever's API they are asked for in.
//!
//! Invariants: vectors are passed on as the provider wrote them, digit by digit, and read only
//! where they are to be written in another way; all of a request's vectors are of one model and
//! length, or there are none.

use brahman_card::Fault;
use brahman_card::interface::WireError as _;
use brahman_card::interface::embed::{EmbedTextIn, FailedText, TokenizeIn, Truncation, method};
use brahman_card::interface::service::error::MethodNotFound;
use futures_util::future::try_join_all;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::answer::{self, Answer};
use crate::caller::Caller;
use crate::mesh::{Mesh, ServedModel};
use crate::refusal::Refusal;

/// Texts that a request may have: OpenAI allows 2,048.
const TEXTS_MAX: usize = 16 * 1024;
/// Texts of one call: of the longest vectors that are common (4,096 numbers) as many as a message
/// holds.
const PART_TEXTS: usize = 256;
/// Bytes of a request's vectors as JSON: 16,384 of 384 numbers come to a third.
const VECTORS_BYTES_MAX: usize = 256 << 20;
/// Calls at once for one request: the provider batches what comes together.
const PARTS_AT_ONCE: usize = 4;

/// How texts are to be embedded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Treatment {
    /// Cut what is too long, instead of refusing it.
    pub(crate) truncate: bool,
    pub(crate) dimensions: Option<u64>,
    pub(crate) prompt_name: Option<String>,
    /// Whether tokens are to be counted.
    pub(crate) counted: bool,
}

/// A reply of `EmbedText`, its vectors unread.
#[derive(Debug, Deserialize)]
struct VectorsReply {
    vectors: Vec<Box<RawValue>>,
    cached: u64,
    truncated: Vec<Truncation>,
    device: String,
    mock: bool,
    fingerprint: String,
    normalized: Option<bool>,
    warnings: Option<Vec<String>>,
    #[serde(default)]
    failed: Option<Vec<FailedText>>,
}

/// The vectors of a request.
#[derive(Debug, Default)]
pub(crate) struct Vectors {
    /// One a text, in order, as JSON.
    pub(crate) vectors: Vec<Box<RawValue>>,
    /// Tokens of all texts, if they were to be counted and the provider counts.
    pub(crate) tokens: Option<u64>,
    /// Whether they have length 1.
    pub(crate) normalized: Option<bool>,
    cached: u64,
    truncated: u64,
    device: String,
    mock: bool,
    provider: Option<String>,
    fingerprint: String,
    warnings: Vec<String>,
    bytes: usize,
}

impl Vectors {
    /// The vectors as numbers.
    ///
    /// # Errors
    /// An internal fault if the provider wrote something else.
    pub(crate) fn numbers(&self) -> Result<Vec<Vec<f32>>, Refusal> {
        let all: Result<_, serde_json::Error> =
            self.vectors.iter().map(|vector| serde_json::from_str(vector.get())).collect();
        all.map_err(|error| {
            Fault::internal(format!("the provider's vectors are no lists of numbers: {error}"))
                .into()
        })
    }

    /// Says in an answer's headers who made them, and how.
    pub(crate) fn sign(&self, answer: &mut Answer) {
        answer::sign(answer, self.provider.as_deref(), self.mock);
        answer::set(answer, answer::DEVICE, &self.device);
        answer::set(answer, answer::CACHED, &self.cached.to_string());
        if self.truncated > 0 {
            answer::set(answer, answer::TRUNCATED, &self.truncated.to_string());
        }
        if !self.warnings.is_empty() {
            answer::set(answer, answer::WARNING, &self.warnings.join("; "));
        }
    }

    /// Takes in what one more call gave.
    fn add(&mut self, reply: VectorsReply, provider: Option<String>) -> Result<(), Refusal> {
        if !self.fingerprint.is_empty() && self.fingerprint != reply.fingerprint {
            let fault = Fault::overloaded(
                "another model answered in the middle of this request: make it again",
                100,
            );
            return Err(fault.into());
        }
        if let Some(failed) = reply.failed.iter().flatten().next() {
            return Err(Fault::new(failed.error.clone(), false, failed.message.clone()).into());
        }
        self.bytes += reply.vectors.iter().map(|vector| vector.get().len()).sum::<usize>();
        if self.bytes > VECTORS_BYTES_MAX {
            let fault = Fault::overloaded(
                format!(
                    "the vectors have more than {VECTORS_BYTES_MAX} bytes: ask for fewer texts at once"
                ),
                0,
            );
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, fault));
        }
        self.vectors.extend(reply.vectors);
        self.cached += reply.cached;
        self.truncated += reply.truncated.len() as u64;
        self.normalized = reply.normalized;
        self.mock |= reply.mock;
        self.provider = provider.or_else(|| self.provider.take());
        (self.device, self.fingerprint) = (reply.device, reply.fingerprint);
        let new: Vec<String> = reply
            .warnings
            .into_iter()
            .flatten()
            .filter(|warning| !self.warnings.contains(warning))
            .collect();
        self.warnings.extend(new);
        Ok(())
    }
}

/// Has texts embedded.
///
/// # Errors
/// The first of its calls' errors; what it says of a text's place is of the place in the request.
pub(crate) async fn embed(
    mesh: &Mesh,
    caller: &Caller,
    model: &ServedModel,
    texts: Vec<String>,
    how: &Treatment,
) -> Result<Vectors, Refusal> {
    if texts.is_empty() || texts.len() > TEXTS_MAX {
        return Err(Refusal::parameter(
            "input",
            format!("{} texts, expected 1 to {TEXTS_MAX}", texts.len()),
        ));
    }
    let expected = texts.len();
    let parts = Parts::of(texts);
    let mut vectors = Vectors::default();
    let mut tokens = how.counted.then_some(0_u64);
    for group in parts.0.chunks(PARTS_AT_ONCE) {
        let asked: Vec<_> =
            group.iter().map(|part| embed_part(mesh, caller, model, part, how)).collect();
        for (reply, provider, counted) in try_join_all(asked).await? {
            vectors.add(reply, provider)?;
            tokens = tokens.zip(counted).map(|(sum, counted)| sum + counted);
        }
    }
    if vectors.vectors.len() != expected {
        return Err(Fault::internal(format!(
            "the provider gave {} vectors for {expected} texts",
            vectors.vectors.len()
        ))
        .into());
    }
    Ok(Vectors { tokens, ..vectors })
}

/// A request's texts in calls, each with the place of its first.
struct Parts(Vec<(usize, Vec<String>)>);

impl Parts {
    fn of(texts: Vec<String>) -> Self {
        let mut parts: Vec<(usize, Vec<String>)> = Vec::new();
        for (place, text) in texts.into_iter().enumerate() {
            if place % PART_TEXTS == 0 {
                parts.push((place, Vec::new()));
            }
            if let Some((_, part)) = parts.last_mut() {
                part.push(text);
            }
        }
        Self(parts)
    }
}

/// One call's worth of texts, embedded and counted.
async fn embed_part(
    mesh: &Mesh,
    caller: &Caller,
    model: &ServedModel,
    (first, texts): &(usize, Vec<String>),
    how: &Treatment,
) -> Result<(VectorsReply, Option<String>, Option<u64>), Refusal> {
    let ask = EmbedTextIn {
        texts: texts.clone(),
        truncate: Some(how.truncate),
        dimensions: how.dimensions,
        prompt_name: how.prompt_name.clone(),
        ..EmbedTextIn::default()
    };
    let embedding =
        mesh.ask_as::<method::EmbedText, VectorsReply>(caller, &ask, model.requirements());
    let counting = async {
        if !how.counted {
            return Ok(None);
        }
        let ask = TokenizeIn {
            texts: texts.clone(),
            prompt_name: how.prompt_name.clone(),
            ..TokenizeIn::default()
        };
        match mesh.ask::<method::Tokenize>(caller, &ask, model.requirements()).await {
            Ok(answer) => {
                // Of a text that is cut those count that were embedded.
                let counted = |text: &brahman_card::interface::embed::TextTokens| {
                    if how.truncate { text.kept } else { text.tokens }
                };
                Ok(Some(answer.value.texts.iter().map(counted).sum()))
            }
            // A provider of somebody else's may not count.
            Err(refusal) if refusal.fault.name == MethodNotFound::NAME => Ok(None),
            Err(refusal) => Err(refusal),
        }
    };
    let (embedded, counted) = tokio::join!(embedding, counting);
    let answer = embedded.map_err(|refusal| placed(refusal, *first))?;
    Ok((answer.value, answer.provider, counted?))
}

/// An error of one call, with its text's place in the whole request.
fn placed(mut refusal: Refusal, first: usize) -> Refusal {
    if let Some(index) = refusal.fault.parameters.get("index").and_then(Value::as_u64) {
        refusal.fault = refusal.fault.with("index", index + first as u64);
    }
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_into_calls_in_their_order() {
        let texts: Vec<String> = (0..600).map(|n| n.to_string()).collect();
        let Parts(parts) = Parts::of(texts.clone());
        assert_eq!(
            parts.iter().map(|(first, part)| (*first, part.len())).collect::<Vec<_>>(),
            [(0, 256), (256, 256), (512, 88)]
        );
        assert_eq!(parts.into_iter().flat_map(|(_, part)| part).collect::<Vec<_>>(), texts);
    }

    #[test]
    fn an_error_names_the_texts_place_in_the_request() {
        let fault = Fault::invalid_parameter("texts", "too long").with("index", 3);
        assert_eq!(placed(fault.into(), 256).fault.parameters["index"], 259);
    }
}
