//! Ollama's API, as far as embedding goes. <https://docs.ollama.com/api>
//!
//! Invariant: texts that are too long are cut, as Ollama cuts them unless told otherwise, and a
//! header says how many.

use std::time::{Duration, Instant};

use brahman_card::interface::embed::{self, InfoOut, method};
use brahman_card::wire::parameters;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::answer::{self, Answer};
use crate::caller::Caller;
use crate::embeddings::{Treatment, Vectors, embed};
use crate::mesh::{Mesh, ServedModel};
use crate::refusal::Refusal;

/// The version of Ollama whose API this is; some clients compare it.
const VERSION: &str = "0.12.0";
/// Models here are not files with a date.
const MODIFIED_AT: &str = "1970-01-01T00:00:00Z";
/// Nor do they leave when nobody asks for them.
const EXPIRES_AT: &str = "9999-12-31T23:59:59Z";

#[derive(Debug, Deserialize)]
struct EmbedRequest {
    model: String,
    #[serde(default)]
    input: EmbedInput,
    truncate: Option<bool>,
    dimensions: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum EmbedInput {
    Text(String),
    Texts(Vec<String>),
}

impl Default for EmbedInput {
    fn default() -> Self {
        Self::Texts(Vec::new())
    }
}

#[derive(Debug, Deserialize)]
struct EmbeddingsRequest {
    model: String,
    #[serde(default)]
    prompt: String,
}

#[derive(Debug, Deserialize)]
struct ShowRequest {
    model: Option<String>,
    /// As it was called once.
    name: Option<String>,
}

#[derive(Serialize)]
struct EmbedReply<'a> {
    model: &'a str,
    embeddings: Vec<&'a RawValue>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: u64,
}

#[derive(Serialize)]
struct EmbeddingsReply<'a> {
    embedding: Option<&'a RawValue>,
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// `POST /api/embed`.
pub(crate) async fn embed_texts(
    mesh: &Mesh,
    caller: &Caller,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let started = Instant::now();
    let request: EmbedRequest = parameters::read(body)?;
    let texts = match request.input {
        EmbedInput::Text(text) => vec![text],
        EmbedInput::Texts(texts) => texts,
    };
    let model = mesh.model(caller, embed::INTERFACE.name, Some(&request.model)).await?;
    // Ollama loads a model when it is asked for nothing.
    let vectors = if texts.is_empty() {
        Vectors::default()
    } else {
        let how = Treatment {
            truncate: request.truncate.unwrap_or(true),
            dimensions: request.dimensions,
            counted: true,
            prompt_name: None,
        };
        embed(mesh, caller, &model, texts, &how).await?
    };
    let reply = EmbedReply {
        model: &request.model,
        embeddings: vectors.vectors.iter().map(|vector| &**vector).collect(),
        total_duration: nanoseconds(started.elapsed()),
        load_duration: 0,
        prompt_eval_count: vectors.tokens.unwrap_or(0),
    };
    let mut answer = answer::json(StatusCode::OK, &reply);
    vectors.sign(&mut answer);
    Ok(answer)
}

/// `POST /api/embeddings`, the older one.
pub(crate) async fn embeddings(
    mesh: &Mesh,
    caller: &Caller,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let request: EmbeddingsRequest = parameters::read(body)?;
    let model = mesh.model(caller, embed::INTERFACE.name, Some(&request.model)).await?;
    let how = Treatment { truncate: true, ..Treatment::default() };
    let vectors = embed(mesh, caller, &model, vec![request.prompt], &how).await?;
    let reply = EmbeddingsReply { embedding: vectors.vectors.first().map(|vector| &**vector) };
    let mut answer = answer::json(StatusCode::OK, &reply);
    vectors.sign(&mut answer);
    Ok(answer)
}

/// What Ollama says of a model wherever it names one.
fn details(model: &ServedModel) -> Value {
    let family = model.attributes.get("architecture").map_or("bert", String::as_str);
    let precision =
        model.attributes.get("precision").map_or("F32", String::as_str).to_ascii_uppercase();
    json!({ "parent_model": "", "format": "onnx", "family": family, "families": [family], "parameter_size": "", "quantization_level": precision })
}

fn entry(model: &ServedModel) -> Value {
    let digest = model.attributes.get("fingerprint").map_or("", String::as_str);
    json!({ "name": model.name, "model": model.name, "modified_at": MODIFIED_AT, "size": 0, "digest": digest, "details": details(model) })
}

/// `GET /api/tags`.
pub(crate) async fn tags(mesh: &Mesh, caller: &Caller) -> Result<Answer, Refusal> {
    let models = mesh.models(caller, embed::INTERFACE.name).await?;
    Ok(answer::json(
        StatusCode::OK,
        &json!({ "models": models.iter().map(entry).collect::<Vec<_>>() }),
    ))
}

/// `GET /api/ps`: every model that is served is loaded.
pub(crate) async fn processes(mesh: &Mesh, caller: &Caller) -> Result<Answer, Refusal> {
    let models = mesh.models(caller, embed::INTERFACE.name).await?;
    let loaded = models.iter().map(|model| {
        let mut entry = entry(model);
        entry["expires_at"] = EXPIRES_AT.into();
        entry["size_vram"] = 0.into();
        entry
    });
    Ok(answer::json(StatusCode::OK, &json!({ "models": loaded.collect::<Vec<_>>() })))
}

/// `POST /api/show`.
pub(crate) async fn show(mesh: &Mesh, caller: &Caller, body: &[u8]) -> Result<Answer, Refusal> {
    let request: ShowRequest = parameters::read(body)?;
    let wanted = request
        .model
        .or(request.name)
        .ok_or_else(|| Refusal::parameter("model", "expected the name of a model"))?;
    let model = mesh.model(caller, embed::INTERFACE.name, Some(&wanted)).await?;
    let info: InfoOut =
        mesh.ask::<method::Info>(caller, &Default::default(), model.requirements()).await?.value;
    let family = model.attributes.get("architecture").map_or("bert", String::as_str);
    let mut model_info = json!({ "general.architecture": family, "general.basename": model.name });
    model_info[format!("{family}.embedding_length")] = info.dim.into();
    model_info[format!("{family}.context_length")] = info.max_tokens.into();
    let reply = json!({
        "modelfile": "",
        "parameters": "",
        "template": "",
        "license": "",
        "modified_at": MODIFIED_AT,
        "details": details(&model),
        "model_info": model_info,
        "capabilities": ["embedding"],
    });
    Ok(answer::json(StatusCode::OK, &reply))
}

/// `GET /api/version`.
pub(crate) fn version() -> Answer {
    answer::json(
        StatusCode::OK,
        &json!({ "version": VERSION, "brahman": env!("CARGO_PKG_VERSION") }),
    )
}
