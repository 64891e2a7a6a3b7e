//! OpenAI's API: `/v1/embeddings`, `/v1/models`.
//! <https://platform.openai.com/docs/api-reference/embeddings>
//!
//! Invariant: a text that is too long is refused, for this API has no word for cutting.

use brahman_card::interface::{embed, rerank, score};
use brahman_card::wire::base64;
use brahman_card::wire::parameters;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::answer::{self, Answer};
use crate::caller::Caller;
use crate::embeddings::{Treatment, embed};
use crate::mesh::Mesh;
use crate::refusal::Refusal;

/// The interfaces whose models are listed, in the order in which they are.
const LISTED: [&str; 3] = [embed::INTERFACE.name, rerank::INTERFACE.name, score::INTERFACE.name];

#[derive(Debug, Deserialize)]
struct EmbeddingsRequest {
    /// A text, texts, or token ids, which are refused.
    input: Value,
    #[serde(default)]
    model: String,
    encoding_format: Option<String>,
    dimensions: Option<u64>,
}

#[derive(Serialize)]
struct EmbeddingsReply<'a> {
    object: &'static str,
    data: Vec<EmbeddingEntry<'a>>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct EmbeddingEntry<'a> {
    object: &'static str,
    index: usize,
    embedding: EmbeddingNumbers<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum EmbeddingNumbers<'a> {
    List(&'a RawValue),
    Text(String),
}

#[derive(Clone, Copy, Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// `POST /v1/embeddings`.
pub(crate) async fn embeddings(
    mesh: &Mesh,
    caller: &Caller,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let request: EmbeddingsRequest = parameters::read(body)?;
    let as_text = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            return Err(Refusal::parameter("encoding_format", "expected `float` or `base64`"));
        }
    };
    let texts = texts_of(request.input)?;
    let model = mesh.model(caller, embed::INTERFACE.name, Some(&request.model)).await?;
    let how = Treatment { dimensions: request.dimensions, counted: true, ..Treatment::default() };
    let vectors = embed(mesh, caller, &model, texts, &how).await?;
    let numbers: Vec<EmbeddingNumbers<'_>> = if as_text {
        let in_bytes = |vector: Vec<f32>| {
            vector.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()
        };
        vectors
            .numbers()?
            .into_iter()
            .map(|vector| EmbeddingNumbers::Text(base64::encode(&in_bytes(vector))))
            .collect()
    } else {
        vectors.vectors.iter().map(|vector| EmbeddingNumbers::List(vector)).collect()
    };
    let entry = |(index, embedding)| EmbeddingEntry { object: "embedding", index, embedding };
    let tokens = vectors.tokens.unwrap_or(0);
    let reply = EmbeddingsReply {
        object: "list",
        data: numbers.into_iter().enumerate().map(entry).collect(),
        model: &model.name,
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    };
    let mut answer = answer::json(StatusCode::OK, &reply);
    vectors.sign(&mut answer);
    if vectors.tokens.is_none() {
        answer::set(&mut answer, answer::WARNING, "the provider counts no tokens: usage is 0");
    }
    Ok(answer)
}

/// The texts of a request.
fn texts_of(input: Value) -> Result<Vec<String>, Refusal> {
    let items = match input {
        Value::String(text) => return Ok(vec![text]),
        Value::Array(items) => items,
        _ => return Err(Refusal::parameter("input", "expected a text or a list of texts")),
    };
    let text = |item| match item {
        Value::String(text) => Ok(text),
        Value::Number(_) | Value::Array(_) => {
            let expected = "expected a text or a list of texts: token ids are of one tokenizer, and models here have their own \
                            (in LangChain say check_embedding_ctx_length=False)";
            Err(Refusal::parameter("input", expected))
        }
        _ => Err(Refusal::parameter("input", "expected texts alone in the list")),
    };
    items.into_iter().map(text).collect()
}

#[derive(Serialize)]
struct ModelList {
    object: &'static str,
    data: Vec<ModelEntry>,
}

#[derive(Serialize)]
struct ModelEntry {
    id: String,
    object: &'static str,
    created: u64,
    /// Label of the module.
    owned_by: String,
    interface: &'static str,
    mock: bool,
}

/// Everything that is served and that this caller may use.
async fn entries(mesh: &Mesh, caller: &Caller) -> Result<Vec<ModelEntry>, Refusal> {
    let mut entries = Vec::new();
    let open: Vec<&'static str> =
        LISTED.into_iter().filter(|interface| caller.opens(interface)).collect();
    for interface in open {
        let models = mesh.models(caller, interface).await?;
        entries.extend(models.iter().map(|model| ModelEntry {
            id: model.name.clone(),
            object: "model",
            created: 0,
            owned_by: model.label.clone(),
            interface,
            mock: model.mock,
        }));
    }
    Ok(entries)
}

/// `GET /v1/models`.
pub(crate) async fn models(mesh: &Mesh, caller: &Caller) -> Result<Answer, Refusal> {
    Ok(answer::json(
        StatusCode::OK,
        &ModelList { object: "list", data: entries(mesh, caller).await? },
    ))
}

/// `GET /v1/models/{model}`.
pub(crate) async fn model(mesh: &Mesh, caller: &Caller, name: &str) -> Result<Answer, Refusal> {
    let entries = entries(mesh, caller).await?;
    let served: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
    let found = entries
        .into_iter()
        .find(|entry| entry.id == name)
        .ok_or_else(|| Refusal::no_model(name, &served))?;
    Ok(answer::json(StatusCode::OK, &found))
}
