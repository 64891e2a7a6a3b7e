//! The API of text-embeddings-inference: `/embed`, `/rerank`, `/info`, `/health`.
//! <https://huggingface.github.io/text-embeddings-inference>
//!
//! Invariant: vectors are as the model makes them; a request that wants them otherwise scaled is
//! refused, and not answered with others.

use brahman_card::interface::embed::{self, method};
use brahman_card::interface::rerank::{self, RerankIn};
use brahman_card::wire::parameters;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::answer::{self, Answer};
use crate::caller::Caller;
use crate::embeddings::{Treatment, embed};
use crate::mesh::Mesh;
use crate::refusal::Refusal;

/// Texts that `/info` says a request may have.
const BATCH_TEXTS: u64 = 2048;

#[derive(Debug, Deserialize)]
struct EmbedRequest {
    inputs: EmbedInputs,
    normalize: Option<bool>,
    truncate: Option<bool>,
    truncation_direction: Option<String>,
    prompt_name: Option<String>,
    dimensions: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum EmbedInputs {
    Text(String),
    Texts(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct RerankRequest {
    query: String,
    texts: Vec<String>,
    truncate: Option<bool>,
    #[serde(default)]
    raw_scores: bool,
    #[serde(default)]
    return_text: bool,
}

#[derive(Serialize)]
struct RankEntry<'a> {
    index: u64,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

/// `POST /embed`.
pub(crate) async fn embed_texts(
    mesh: &Mesh,
    caller: &Caller,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let request: EmbedRequest = parameters::read(body)?;
    let texts = match request.inputs {
        EmbedInputs::Text(text) => vec![text],
        EmbedInputs::Texts(texts) => texts,
    };
    if request
        .truncation_direction
        .as_deref()
        .is_some_and(|side| !side.eq_ignore_ascii_case("right"))
    {
        return Err(Refusal::parameter(
            "truncation_direction",
            "expected `Right`: each model cuts where its folder says",
        ));
    }
    let model = mesh.model(caller, embed::INTERFACE.name, None).await?;
    let how = Treatment {
        truncate: request.truncate.unwrap_or(false),
        dimensions: request.dimensions,
        prompt_name: request.prompt_name,
        counted: false,
    };
    let vectors = embed(mesh, caller, &model, texts, &how).await?;
    if let (Some(wanted), Some(is)) = (request.normalize, vectors.normalized)
        && wanted != is
    {
        let way = if is { "of length 1" } else { "as the model gives them" };
        return Err(Refusal::parameter(
            "normalize",
            format!("`{}` gives vectors {way}: expected {is}", model.name),
        ));
    }
    let mut answer = answer::json(StatusCode::OK, &vectors.vectors);
    vectors.sign(&mut answer);
    Ok(answer)
}

/// `POST /rerank`.
pub(crate) async fn rerank_texts(
    mesh: &Mesh,
    caller: &Caller,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let RerankRequest { query, texts, truncate, raw_scores, return_text } = parameters::read(body)?;
    let ask =
        RerankIn { query, texts, truncate: Some(truncate.unwrap_or(false)), ..RerankIn::default() };
    let given = mesh.ask::<rerank::method::Rerank>(caller, &ask, Default::default()).await?;
    let out = given.value;
    if raw_scores && out.sigmoid {
        let why = format!("`{}` gives scores between 0 and 1: expected false", out.model);
        return Err(Refusal::parameter("raw_scores", why));
    }
    // Between 0 and 1 unless raw ones were asked for, in the order that they have.
    let score = |raw: f32| if raw_scores || out.sigmoid { raw } else { 1.0 / (1.0 + (-raw).exp()) };
    let text = |index: u64| {
        usize::try_from(index).ok().and_then(|index| ask.texts.get(index)).filter(|_| return_text)
    };
    let entry = |ranked: &rerank::RankedText| RankEntry {
        index: ranked.index,
        score: score(ranked.score),
        text: text(ranked.index).map(String::as_str),
    };
    let entries: Vec<RankEntry<'_>> = out.results.iter().map(entry).collect();
    let mut answer = answer::json(StatusCode::OK, &entries);
    answer::sign(&mut answer, given.provider.as_deref(), out.mock);
    if !out.truncated.is_empty() {
        answer::set(&mut answer, answer::TRUNCATED, &out.truncated.len().to_string());
    }
    Ok(answer)
}

/// `GET /info`.
pub(crate) async fn info(mesh: &Mesh, caller: &Caller) -> Result<Answer, Refusal> {
    let model = mesh.model(caller, embed::INTERFACE.name, None).await?;
    let info =
        mesh.ask::<method::Info>(caller, &Default::default(), model.requirements()).await?.value;
    let recipe = info.recipe.as_ref();
    let pooling =
        recipe.and_then(|recipe| recipe.pooling.clone()).unwrap_or_else(|| "mean".to_owned());
    let reply = json!({
        "model_id": info.model,
        "model_sha": info.fingerprint,
        "model_dtype": recipe.map_or("float32", |recipe| recipe.precision.as_str()),
        "model_type": { "embedding": { "pooling": pooling } },
        "max_concurrent_requests": 512,
        "max_input_length": info.max_tokens,
        "max_batch_tokens": info.max_tokens.saturating_mul(BATCH_TEXTS),
        "max_batch_requests": null,
        "max_client_batch_size": BATCH_TEXTS,
        "auto_truncate": false,
        "tokenization_workers": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "docker_label": null,
        "sha": null,
    });
    Ok(answer::json(StatusCode::OK, &reply))
}

/// `GET /health`: whether a model answers.
pub(crate) async fn health(mesh: &Mesh, caller: &Caller) -> Result<Answer, Refusal> {
    mesh.model(caller, embed::INTERFACE.name, None).await?;
    Ok(answer::bytes(StatusCode::OK, "text/plain; charset=utf-8", &b""[..]))
}
