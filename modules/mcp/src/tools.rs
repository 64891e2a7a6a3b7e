//! The tools: search, get, list, ingest, embed, score, explain. What each takes is described here
//! for a model that has no manual.
//!
//! Invariants: an argument that is not known is refused by name; what goes wrong in the mesh is the
//! tool's result, with the error's name, so that the model can do something about it; every answer
//! says what was cut, stale or made up.

mod search;

use std::fmt::Write as _;
use std::path::Path;

use brahman_card::interface::{Empty, broker, catalog, embed, full_name, index, ingest, score};
use brahman_card::{Fault, counted};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::McpContext;
use search::{document, search, within};

/// Hits that a search gives unless told otherwise, and at most: more is not read.
const HITS: u64 = 8;
const HITS_MAX: u64 = 50;
/// Indexes that one search looks into: they are asked one after the other.
const INDEXES_MAX: usize = 64;
/// Files and folders of one `ingest`.
const PATHS_MAX: usize = 256;
/// Messages of one `score`: each memory among them is a pass of a model.
const MESSAGES_MAX: usize = 2048;
/// Lines of a document that are given at once.
const LINES_MAX: usize = 2000;
/// Texts that are embedded at once: vectors are long, and a model has no use for many.
const TEXTS_MAX: usize = 64;

/// `tools/list`.
pub(super) fn list() -> Value {
    let tool = |name: &str,
                description: &str,
                reads: bool,
                properties: Value,
                required: &[&str]| {
        json!({
            "name": name,
            "description": description,
            "inputSchema": { "type": "object", "properties": properties, "required": required, "additionalProperties": false },
            "annotations": { "readOnlyHint": reads, "destructiveHint": false, "idempotentHint": reads, "openWorldHint": false },
        })
    };
    json!([
        tool(
            "search",
            "Searches the user's indexes for passages, by meaning and by words. Ask in a full sentence or in keywords. Each hit names its index, \
             document and line; `get` reads on from there.",
            true,
            json!({
                "query": { "type": "string", "description": "What is looked for. \"A phrase\" in quotation marks must be there, -word must not." },
                "indexes": { "type": "array", "items": { "type": "string" }, "maxItems": INDEXES_MAX, "description": "Which indexes; all of them unless said. `list` names them." },
                "k": { "type": "integer", "minimum": 1, "maximum": HITS_MAX, "description": "How many hits; 8 unless said." },
                "mode": { "type": "string", "enum": ["hybrid", "semantic", "lexical"], "description": "hybrid (the default) finds by meaning and by words." },
                "filter": { "type": "object", "description": "Which rows, by the index's filter columns, such as {\"lang\": \"rust\", \"year\": {\"$gte\": 2020}}." },
                "rerank": { "type": "boolean", "description": "Have a model read the best hits again, and order them; slower and better." },
            }),
            &["query"],
        ),
        tool(
            "get",
            "Reads a document of an index, or some of its lines.",
            true,
            json!({
                "index": { "type": "string" },
                "doc_id": { "type": "string", "description": "As a hit of `search` names it." },
                "from_line": { "type": "integer", "minimum": 1, "description": "First line; the document's first unless said." },
                "to_line": { "type": "integer", "minimum": 1, "description": "Last line; at most 2000 lines are given." },
            }),
            &["index", "doc_id"],
        ),
        tool(
            "list",
            "Lists what there is: indexes to search, datasets they are made of, modules of the mesh and whether they are ready.",
            true,
            json!({}),
            &[]
        ),
        tool(
            "ingest",
            "Reads files or folders of this machine (text, Markdown, HTML, source code, CSV, JSONL, Parquet) into a dataset, and by `index` makes \
             it searchable. The same dataset again takes the place of what was there.",
            false,
            json!({
                "dataset": { "type": "string", "description": "Its name: lower-case letters, digits, `.`, `_` and `-`." },
                "paths": { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": PATHS_MAX, "description": "Absolute paths of files and folders." },
                "index": { "type": "boolean", "description": "Make and refresh an index of the same name; true unless said. For documents only." },
                "watch": { "type": "boolean", "description": "Follow the folders from now on, instead of reading them once." },
            }),
            &["dataset", "paths"],
        ),
        tool(
            "embed",
            "Gives the vectors of texts by the mesh's embedding model. To find something use `search` instead.",
            true,
            json!({
                "texts": { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": TEXTS_MAX },
                "model": { "type": "string", "description": "Which model; the mesh's first unless said." },
            }),
            &["texts"],
        ),
        tool(
            "score",
            "Measures which memories a language model's answers in a conversation depend on: what each answer loses when a memory is taken away.",
            true,
            json!({
                "messages": {
                    "type": "array",
                    "items": { "type": "object" },
                    "maxItems": MESSAGES_MAX,
                    "description": "Messages with `role` and `content`; one that is a memory has its key in `memory`.",
                },
            }),
            &["messages"],
        ),
        tool(
            "explain",
            "Tells who answers a kind of call now, and why the others do not: for when another tool says that nothing serves something.",
            true,
            json!({ "flow": { "type": "string", "description": "An interface, such as embed, index, ingest, rerank or score." } }),
            &["flow"],
        ),
    ])
}

/// What a tool gives: words for the model, and the same as data.
struct ToolOutput {
    text: String,
    data: Value,
}

/// `tools/call`; nothing for a tool that does not exist.
pub(super) async fn call(name: &str, arguments: Value, context: &McpContext) -> Option<Value> {
    Some(match run(name, arguments, context).await {
        Ok(None) => return None,
        Ok(Some(ToolOutput { text, data })) => {
            json!({ "content": [{ "type": "text", "text": text }], "structuredContent": data, "isError": false })
        }
        Err(fault) => {
            json!({ "content": [{ "type": "text", "text": fault.to_string() }], "isError": true })
        }
    })
}

async fn run(
    name: &str,
    arguments: Value,
    context: &McpContext,
) -> Result<Option<ToolOutput>, Fault> {
    Ok(Some(match name {
        "search" => search(read(arguments)?, context).await?,
        "get" => document(read(arguments)?, context).await?,
        "list" => overview(read(arguments)?, context).await?,
        "ingest" => files(read(arguments)?, context).await?,
        "embed" => vectors(read(arguments)?, context).await?,
        "score" => matrix(read(arguments)?, context).await?,
        "explain" => explanation(read(arguments)?, context).await?,
        _ => return Ok(None),
    }))
}

/// Reads a tool's arguments.
fn read<A: DeserializeOwned>(arguments: Value) -> Result<A, Fault> {
    serde_json::from_value(arguments).map_err(|error| Fault::invalid_parameter("arguments", error))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListArguments {}

async fn overview(
    ListArguments {}: ListArguments,
    context: &McpContext,
) -> Result<ToolOutput, Fault> {
    let status = context.ask::<broker::method::Status>(&Empty {}).await?;
    let mut text =
        format!("Context: {}\n\nIndexes:\n", status.context.as_deref().unwrap_or("none"));
    let indexes = context.ask::<index::method::List>(&Empty {}).await.map(|out| out.indexes);
    let datasets = context
        .ask::<catalog::method::List>(&catalog::RealmIn::default())
        .await
        .map(|out| out.datasets);
    let mut data = json!({ "context": status.context });
    match &indexes {
        Ok(indexes) => {
            for index in indexes {
                let filters = if index.filter_columns.is_empty() {
                    String::new()
                } else {
                    format!(", filters: {}", index.filter_columns.join(", "))
                };
                let _ = writeln!(text, "- {} (dataset {}{filters})", index.name, index.dataset);
            }
            data["indexes"] = indexes
                .iter()
                .map(|index| json!({ "name": index.name, "dataset": index.dataset, "filter_columns": index.filter_columns }))
                .collect();
        }
        Err(fault) => {
            let _ = writeln!(text, "  {fault}");
        }
    }
    text.push_str("\nDatasets:\n");
    match &datasets {
        Ok(datasets) => {
            for dataset in datasets {
                let columns: Vec<&str> =
                    dataset.columns.iter().map(|column| column.name.as_str()).collect();
                let _ = writeln!(
                    text,
                    "- {} ({}, generation {}; columns {})",
                    dataset.name,
                    counted(dataset.rows, "row", "rows"),
                    dataset.generation,
                    columns.join(", ")
                );
            }
            data["datasets"] = datasets
                .iter()
                .map(|dataset| json!({ "name": dataset.name, "rows": dataset.rows, "generation": dataset.generation }))
                .collect();
        }
        Err(fault) => {
            let _ = writeln!(text, "  {fault}");
        }
    }
    text.push_str("\nModules:\n");
    for module in &status.modules {
        let why = module.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "- {} {}{}{why}",
            module.label,
            module.state.as_str(),
            if module.mock { " (mock)" } else { "" }
        );
    }
    data["modules"] =
        status.modules.iter().map(|module| json!({ "label": module.label, "state": module.state.as_str(), "mock": module.mock })).collect();
    Ok(ToolOutput { text, data })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IngestArguments {
    dataset: String,
    paths: Vec<String>,
    index: Option<bool>,
    watch: Option<bool>,
}

async fn files(ask: IngestArguments, context: &McpContext) -> Result<ToolOutput, Fault> {
    let path = |path: &String| {
        if !Path::new(path).is_absolute() {
            return Err(Fault::invalid_parameter(
                "paths",
                format!("`{path}`: expected an absolute path"),
            ));
        }
        Ok(path.clone())
    };
    let paths: Vec<String> =
        within("paths", ask.paths, PATHS_MAX)?.iter().map(path).collect::<Result<_, _>>()?;
    let dataset = ask.dataset;
    if ask.watch.unwrap_or(false) {
        let request =
            ingest::WatchIn { dataset: dataset.clone(), paths, ..ingest::WatchIn::default() };
        let out = context.ask::<ingest::method::Watch>(&request).await?;
        let (state, format) = (out.watching.state, out.watching.format);
        let made = match format.as_deref() {
            Some("documents") => ", one row per file",
            Some(_) => ", as a table",
            None => "",
        };
        return Ok(ToolOutput {
            text: format!("{dataset} is followed from now on ({state}){made}."),
            data: json!({ "dataset": dataset, "state": state, "format": format }),
        });
    }
    let request = ingest::FilesIn { dataset: dataset.clone(), paths, ..ingest::FilesIn::default() };
    let summary = context.stream::<ingest::method::Files>(&request, "reading").await?;
    let number = |of: &Value, field: &str| of[field].as_u64().unwrap_or(0);
    let rows = counted(number(&summary, "rows"), "row", "rows");
    let mut text = format!("{dataset}: {rows}, generation {}", summary["generation"]);
    let quarantined = number(&summary, "quarantined");
    if quarantined > 0 {
        let unread = counted(quarantined, "file or row", "files or rows");
        let _ = write!(text, ", {unread} could not be read");
    }
    text.push_str(".\n");
    let mut data = json!({ "dataset": dataset, "ingested": summary });
    if ask.index.unwrap_or(true) {
        let indexed = index_of(&dataset, &data["ingested"], context).await;
        match indexed {
            Ok(refreshed) => {
                let new = number(&refreshed, "new_chunks");
                let new = counted(new, "passage is new", "passages are new");
                let _ = writeln!(text, "It can be searched: {new}.");
                data["index"] = refreshed;
            }
            Err(fault) => {
                let _ = writeln!(text, "It cannot be searched: {fault}");
                data["index_error"] = fault.name.to_string().into();
            }
        }
    }
    Ok(ToolOutput { text, data })
}

/// Makes an index of a dataset of documents, if there is none, and brings it up to date.
async fn index_of(dataset: &str, summary: &Value, context: &McpContext) -> Result<Value, Fault> {
    let has = |name: &str| {
        summary["columns"]
            .as_array()
            .is_some_and(|columns| columns.iter().any(|column| column["name"] == name))
    };
    if !(has("id") && has("text")) {
        return Err(Fault::invalid_parameter(
            "index",
            "the dataset has no columns `id` and `text`: `brahman index create` names others",
        ));
    }
    let create = index::CreateIn {
        name: dataset.to_owned(),
        dataset: dataset.to_owned(),
        id_column: "id".to_owned(),
        text_column: Some("text".to_owned()),
        ..index::CreateIn::default()
    };
    context.ask::<index::method::Create>(&create).await?;
    context
        .stream::<index::method::Refresh>(&index::NameIn { name: dataset.to_owned() }, "indexing")
        .await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EmbedArguments {
    texts: Vec<String>,
    model: Option<String>,
}

async fn vectors(ask: EmbedArguments, context: &McpContext) -> Result<ToolOutput, Fault> {
    if ask.texts.is_empty() || ask.texts.len() > TEXTS_MAX {
        return Err(Fault::invalid_parameter(
            "texts",
            format!("{} texts, expected 1 to {TEXTS_MAX}", ask.texts.len()),
        ));
    }
    let request = embed::EmbedTextIn {
        texts: ask.texts,
        truncate: Some(true),
        ..embed::EmbedTextIn::default()
    };
    let require: Vec<(&str, &str)> =
        ask.model.iter().map(|model| ("model", model.as_str())).collect();
    let out = context.ask_of::<embed::method::EmbedText>(&request, &require).await?;
    let mut text = format!(
        "{} of {} by {}{}.",
        counted(out.vectors.len() as u64, "vector", "vectors"),
        counted(out.dim, "number", "numbers"),
        out.model,
        if out.mock { " (a mock)" } else { "" }
    );
    if !out.truncated.is_empty() {
        let cut = counted(out.truncated.len() as u64, "text was", "texts were");
        let _ = write!(text, " {cut} longer than the model reads, and cut.");
    }
    Ok(ToolOutput {
        text,
        data: json!({ "model": out.model, "dim": out.dim, "vectors": out.vectors, "truncated": out.truncated.len() }),
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoreArguments {
    messages: Vec<score::Message>,
}

async fn matrix(ask: ScoreArguments, context: &McpContext) -> Result<ToolOutput, Fault> {
    let messages = within("messages", ask.messages, MESSAGES_MAX)?;
    let request = score::MatrixIn { messages: Some(messages), ..score::MatrixIn::default() };
    // Each row is a reply of its own; the call without `more` has them all in one.
    let out = context.ask::<score::method::ScoreMatrix>(&request).await?;
    let data = serde_json::to_value(&out)
        .map_err(|error| Fault::internal(format!("the matrix is not JSON: {error}")))?;
    let mut text =
        String::from("What the answers lose without each memory, in nats (more is more):\n");
    for row in data["rows"].as_array().into_iter().flatten() {
        let lost: f64 =
            row["divergences"].as_array().into_iter().flatten().filter_map(Value::as_f64).sum();
        let _ = writeln!(text, "- {}: {lost:.3}", row["key"].as_str().unwrap_or_default());
    }
    let _ = writeln!(text, "Figures below {} are noise.", data["noise_floor"]);
    Ok(ToolOutput { text, data })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainArguments {
    flow: String,
}

async fn explanation(ask: ExplainArguments, context: &McpContext) -> Result<ToolOutput, Fault> {
    let request = broker::FlowIn { flow: full_name(&ask.flow), context: None, require: None };
    let out = context.ask::<broker::method::Explain>(&request).await?;
    let mut text =
        format!("{} in context {}:\n", request.flow, out.context.as_deref().unwrap_or("none"));
    for candidate in &out.candidates {
        let matched = &candidate.matched;
        let fate = match (&candidate.reason, candidate.rank) {
            (Some(reason), _) => format!("does not answer: {reason}"),
            (None, Some(0)) => "answers".to_owned(),
            (None, _) => "would answer if those before it did not".to_owned(),
        };
        let _ = writeln!(
            text,
            "- {} ({}{}): {fate}",
            matched.label,
            matched.state.as_str(),
            if matched.mock { ", a mock" } else { "" }
        );
    }
    if out.candidates.is_empty() {
        let _ = writeln!(text, "Nobody offers it. The mesh's socket is {}.", context.mesh());
    }
    let data = serde_json::to_value(&out)
        .map_err(|error| Fault::internal(format!("the reply is not JSON: {error}")))?;
    Ok(ToolOutput { text, data })
}

#[cfg(test)]
mod tests;
