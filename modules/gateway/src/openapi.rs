//! `/openapi.json`: every method on offer as a path, made from the interfaces' own texts, and the
//! paths that are not methods.
//!
//! Invariant: what it says of a method is what the method's IDL says; nothing of a method is
//! written here.

use std::time::Duration;

use brahman_card::interface;
use hyper::StatusCode;
use serde_json::{Map, Value, json};

use crate::answer::{self, Answer};
use crate::caller::Caller;
use crate::calls::{description, offered};
use crate::idl::{IdlInterface, IdlType};
use crate::mesh::Mesh;
use crate::refusal::Refusal;

/// How long a module of somebody else's may take to say what it offers.
const DESCRIPTION_PATIENCE: Duration = Duration::from_secs(2);

/// Paths that are not methods of the mesh: path, whether it is a POST, and what it does.
const PLAIN: [(&str, bool, &str); 26] = [
    ("/v1/embeddings", true, "Embeds texts, as OpenAI's API does."),
    ("/v1/models", false, "Lists models, as OpenAI's API does."),
    ("/api/embed", true, "Embeds texts, as Ollama's API does."),
    ("/api/embeddings", true, "Embeds a text, as Ollama's older API does."),
    ("/api/tags", false, "Lists models, as Ollama's API does."),
    ("/api/show", true, "Shows a model, as Ollama's API does."),
    ("/api/ps", false, "Lists loaded models, as Ollama's API does."),
    ("/api/version", false, "Tells the version of Ollama's API."),
    ("/embed", true, "Embeds texts, as text-embeddings-inference does."),
    ("/rerank", true, "Ranks texts, as text-embeddings-inference does."),
    ("/info", false, "Shows the model, as text-embeddings-inference does."),
    ("/health", false, "Whether a model answers."),
    ("/v1/rerank", true, "Ranks documents, as Cohere's and Jina's APIs do."),
    ("/v2/rerank", true, "Ranks documents, as Cohere's second API does."),
    ("/v1/score", true, "Scores an assistant's responses in a prompt of tokens."),
    ("/v1/interfaces", false, "Lists the interfaces on offer."),
    ("/v1/interfaces/{interface}", false, "The text of an interface."),
    ("/v1/status", false, "Every module, its state, queue and latency."),
    ("/v1/events", false, "The status again and again, as Server-Sent Events."),
    ("/v1/indexes", false, "Lists indexes."),
    (
        "/v1/indexes/{name}/search",
        true,
        "Searches an index: the parameters of its Search method, without `index`.",
    ),
    (
        "/v1/ingest/files",
        true,
        "Makes a dataset of the body, a file: `?dataset=NAME&name=FILE`, and `format` unless the name tells.",
    ),
    ("/v1/datasets", false, "Lists datasets."),
    ("/v1/datasets/{name}", false, "A dataset: its objects, columns and history."),
    (
        "/mcp",
        true,
        "A message of the Model Context Protocol; `DELETE` ends the session of `mcp-session-id`.",
    ),
    ("/metrics", false, "Figures for Prometheus."),
];

/// `GET /openapi.json`.
pub(crate) async fn document(mesh: &Mesh, caller: &Caller) -> Result<Answer, Refusal> {
    let (mut paths, mut schemas, mut unread) = (Map::new(), Map::new(), Vec::new());
    for (path, is_post, summary) in PLAIN {
        paths.insert(path.to_owned(), plain(path, is_post, summary));
    }
    for name in offered(mesh, caller).await? {
        if !caller.opens(&name) {
            continue;
        }
        let text = match interface::known(&name) {
            Some(known) => known.idl().to_owned(),
            // One that does not say it hides nobody else's.
            None => {
                match tokio::time::timeout(DESCRIPTION_PATIENCE, description(mesh, caller, &name))
                    .await
                {
                    Ok(Ok(text)) => text,
                    Ok(Err(refusal)) => {
                        unread.push(format!("{name}: {}", refusal.fault.message()));
                        continue;
                    }
                    Err(_) => {
                        unread.push(format!(
                            "{name}: it was not told within {DESCRIPTION_PATIENCE:?}"
                        ));
                        continue;
                    }
                }
            }
        };
        match IdlInterface::read(&text) {
            Ok(mut read) => {
                let is_open = |method: &str| caller.allow(&format!("{name}.{method}")).is_ok();
                read.methods.retain(|method| is_open(&method.name));
                add(&read, &mut paths, &mut schemas);
            }
            Err(error) => unread.push(format!("{name}: {error}")),
        }
    }
    let error = json!({
        "type": "object",
        "properties": { "error": { "type": "string" }, "parameters": { "type": "object" } },
        "required": ["error", "parameters"],
    });
    schemas.insert("Fault".to_owned(), error);
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Brahman",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The mesh over HTTP. Methods that stream do so where `Accept` says text/event-stream or application/x-ndjson.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
        },
        "x-brahman-unread": unread,
    });
    Ok(answer::json(StatusCode::OK, &document))
}

/// A path that is not a method's.
fn plain(path: &str, is_post: bool, summary: &str) -> Value {
    let names =
        path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name);
    let parameter = |name: &str| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
    let mut operation = json!({
        "summary": summary,
        "responses": { "200": { "description": "The answer." }, "default": { "description": "Why there is none." } },
    });
    let parameters: Vec<Value> = names.map(parameter).collect();
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if is_post {
        operation["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": { "type": "object" } } } });
    }
    if is_post { json!({ "post": operation }) } else { json!({ "get": operation }) }
}

/// Adds an interface's methods and types.
fn add(read: &IdlInterface, paths: &mut Map<String, Value>, schemas: &mut Map<String, Value>) {
    for (name, kind) in &read.types {
        schemas.insert(format!("{}.{name}", read.name), schema(kind, &read.name));
    }
    let errors: Vec<String> =
        read.errors.iter().map(|(name, _)| format!("{}.{name}", read.name)).collect();
    for method in &read.methods {
        let full = format!("{}.{}", read.name, method.name);
        let (takes, gives) = (schema(&method.takes, &read.name), schema(&method.gives, &read.name));
        let summary = method.doc.split('\n').next().unwrap_or_default();
        let operation = json!({
            "operationId": full,
            "tags": [read.name],
            "summary": summary,
            "description": method.doc,
            "x-brahman-errors": errors,
            "requestBody": { "content": { "application/json": { "schema": takes } } },
            "responses": {
                "200": {
                    "description": "The reply, or one after the other.",
                    "content": {
                        "application/json": { "schema": gives },
                        "text/event-stream": { "schema": { "type": "string" } },
                        "application/x-ndjson": { "schema": { "type": "string" } },
                    },
                },
                "default": {
                    "description": "An error of the method, or of the way to it.",
                    "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Fault" } } },
                },
            },
        });
        paths.insert(format!("/v1/call/{full}"), json!({ "post": operation }));
    }
}

/// A type as a JSON Schema.
fn schema(kind: &IdlType, interface: &str) -> Value {
    match kind {
        IdlType::Bool => json!({ "type": "boolean" }),
        IdlType::Int => json!({ "type": "integer" }),
        IdlType::Float => json!({ "type": "number" }),
        IdlType::Text => json!({ "type": "string" }),
        IdlType::Object => json!({}),
        IdlType::Optional(kind) => {
            json!({ "anyOf": [schema(kind, interface), { "type": "null" }] })
        }
        IdlType::List(kind) => json!({ "type": "array", "items": schema(kind, interface) }),
        IdlType::Map(kind) => {
            json!({ "type": "object", "additionalProperties": schema(kind, interface) })
        }
        IdlType::Named(name) => {
            json!({ "$ref": format!("#/components/schemas/{interface}.{name}") })
        }
        IdlType::Words(words) => json!({ "type": "string", "enum": words }),
        IdlType::Struct(fields) => {
            let properties: Map<String, Value> = fields
                .iter()
                .map(|field| (field.name.clone(), schema(&field.kind, interface)))
                .collect();
            let needed = fields.iter().filter(|field| !matches!(field.kind, IdlType::Optional(_)));
            let required: Vec<&str> = needed.map(|field| field.name.as_str()).collect();
            json!({ "type": "object", "properties": properties, "required": required })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let (mut paths, mut schemas) = (Map::new(), Map::new());
        for known in interface::ALL {
            add(&IdlInterface::read(known.idl()).expect("our own"), &mut paths, &mut schemas);
        }
        let text = json!({ "paths": paths, "schemas": schemas }).to_string();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap_or_default();
            assert!(name == "Fault" || schemas.contains_key(name), "{name}");
        }
        assert!(paths.len() > 60, "{} methods", paths.len());
    }
}
