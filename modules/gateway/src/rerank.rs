//! Reranking as Cohere and Jina have it: `/v1/rerank`, `/v2/rerank`.
//! <https://docs.cohere.com/reference/rerank>, <https://jina.ai/reranker>
//!
//! Invariant: documents that are too long are cut, as both do, and a header says how many.

use brahman_card::interface::rerank::{self, RankedText, RerankIn, method};
use brahman_card::wire::parameters;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::answer::{self, Answer};
use crate::caller::Caller;
use crate::mesh::Mesh;
use crate::refusal::Refusal;

/// Documents that a request may have: ten times as many as Cohere allows.
const DOCUMENTS_MAX: usize = 10_000;

#[derive(Debug, Deserialize)]
struct RerankRequest {
    #[serde(default)]
    model: String,
    query: String,
    documents: Vec<RerankDocument>,
    top_n: Option<u64>,
    return_documents: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RerankDocument {
    Text(String),
    Object { text: String },
}

#[derive(Serialize)]
struct RerankEntry<'a> {
    index: u64,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<DocumentText<'a>>,
}

#[derive(Serialize)]
struct DocumentText<'a> {
    text: &'a str,
}

/// `POST /v1/rerank`; of `/v2/rerank` documents are never given back.
pub(crate) async fn rerank(
    mesh: &Mesh,
    caller: &Caller,
    body: &[u8],
    is_second: bool,
) -> Result<Answer, Refusal> {
    let request: RerankRequest = parameters::read(body)?;
    if request.documents.is_empty() || request.documents.len() > DOCUMENTS_MAX {
        let expected =
            format!("{} documents, expected 1 to {DOCUMENTS_MAX}", request.documents.len());
        return Err(Refusal::parameter("documents", expected));
    }
    let model = mesh.model(caller, rerank::INTERFACE.name, Some(&request.model)).await?;
    let text = |document| match document {
        RerankDocument::Text(text) | RerankDocument::Object { text } => text,
    };
    let texts: Vec<String> = request.documents.into_iter().map(text).collect();
    let ask = RerankIn {
        query: request.query,
        texts,
        top_n: request.top_n,
        truncate: Some(true),
        ..RerankIn::default()
    };
    let given = mesh.ask::<method::Rerank>(caller, &ask, model.requirements()).await?;
    let out = given.value;
    let returns = request.return_documents.unwrap_or(false) && !is_second;
    let document = |index: u64| {
        usize::try_from(index).ok().and_then(|index| ask.texts.get(index)).filter(|_| returns)
    };
    // Between 0 and 1, as these APIs have it.
    let score = |raw: f32| if out.sigmoid { raw } else { 1.0 / (1.0 + (-raw).exp()) };
    let entry = |ranked: &RankedText| RerankEntry {
        index: ranked.index,
        relevance_score: score(ranked.score),
        document: document(ranked.index).map(|text| DocumentText { text }),
    };
    let results: Vec<RerankEntry<'_>> = out.results.iter().map(entry).collect();
    let reply = json!({
        "id": format!("{}-{}", out.model, out.elapsed_us),
        "object": "list",
        "model": out.model,
        "results": serde_json::to_value(&results).unwrap_or(Value::Null),
        "usage": { "total_tokens": out.tokens, "prompt_tokens": out.tokens },
        "meta": {
            "api_version": { "version": if is_second { "2" } else { "1" } },
            "billed_units": { "search_units": 0 },
            "tokens": { "input_tokens": out.tokens },
        },
    });
    let mut answer = answer::json(StatusCode::OK, &reply);
    answer::sign(&mut answer, given.provider.as_deref(), out.mock);
    answer::set(&mut answer, answer::DEVICE, &out.device);
    if !out.truncated.is_empty() {
        answer::set(&mut answer, answer::TRUNCATED, &out.truncated.len().to_string());
    }
    Ok(answer)
}
