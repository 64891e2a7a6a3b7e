//! What a model's client may read without a tool: datasets and indexes, as the mesh describes them.

use brahman_card::interface::{Empty, catalog, index};
use brahman_card::{Fault, counted};
use serde::Serialize;
use serde_json::{Value, json};

use crate::McpContext;

const DATASETS: &str = "brahman://datasets/";
const INDEXES: &str = "brahman://indexes/";

/// `resources/templates/list`.
pub(super) fn templates() -> Value {
    json!([
        { "uriTemplate": format!("{DATASETS}{{name}}"), "name": "dataset", "description": "Columns, objects and history of a dataset", "mimeType": "application/json" },
        { "uriTemplate": format!("{INDEXES}{{name}}"), "name": "index", "description": "How an index is made, and how it stands", "mimeType": "application/json" },
    ])
}

/// `resources/list`.
pub(super) async fn list(context: &McpContext) -> Result<Value, Fault> {
    let datasets =
        context.ask::<catalog::method::List>(&catalog::RealmIn::default()).await?.datasets;
    let indexes = context.ask::<index::method::List>(&Empty {}).await?.indexes;
    let dataset = |dataset: &catalog::Dataset| {
        let rows = counted(dataset.rows, "row", "rows");
        let description = format!("dataset of {rows}, generation {}", dataset.generation);
        entry(DATASETS, &dataset.name, &description)
    };
    let index = |index: &index::Description| {
        entry(INDEXES, &index.name, &format!("index of the dataset {}", index.dataset))
    };
    let all: Vec<Value> = datasets.iter().map(dataset).chain(indexes.iter().map(index)).collect();
    Ok(json!({ "resources": all }))
}

fn entry(place: &str, name: &str, description: &str) -> Value {
    json!({ "uri": format!("{place}{name}"), "name": name, "description": description, "mimeType": "application/json" })
}

/// `resources/read`.
pub(super) async fn read(uri: &str, context: &McpContext) -> Result<Value, Fault> {
    if let Some(name) = uri.strip_prefix(DATASETS) {
        let ask = catalog::NameIn { name: name.to_owned(), mock: None };
        return contents(uri, &context.ask::<catalog::method::Get>(&ask).await?.dataset);
    }
    if let Some(name) = uri.strip_prefix(INDEXES) {
        let ask = index::NameIn { name: name.to_owned() };
        return contents(uri, &context.ask::<index::method::Stats>(&ask).await?.index);
    }
    Err(Fault::invalid_parameter("uri", format!("expected {DATASETS}NAME or {INDEXES}NAME")))
}

fn contents<T: Serialize>(uri: &str, value: &T) -> Result<Value, Fault> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Fault::internal(format!("the resource is not JSON: {error}")))?;
    Ok(json!({ "contents": [{ "uri": uri, "mimeType": "application/json", "text": text }] }))
}
