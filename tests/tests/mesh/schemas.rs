//! Every shape that `--json` prints has a schema in `docs/schemas`, and is as that says.
//!
//! Those of the interfaces' own replies are made of their types: `BRAHMAN_UPDATE_SCHEMAS=1` writes
//! them anew. What the command makes itself (`error`, `disk`, `gc`, `backup`, …) is written by hand
//! there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use brahman_card::ModuleState;
use brahman_card::interface::{
    Method, broker, catalog, embed, index, ingest, init, profiles, rerank, score, service, storage,
};
use brahman_tests::{Setup, repository, shipped};
use schemars::JsonSchema;
use schemars::generate::SchemaGenerator;
use serde_json::{Value, json};

fn file(name: &str) -> PathBuf {
    repository().join("docs/schemas").join(format!("{name}.json"))
}

fn of_type<T: JsonSchema>() -> Value {
    SchemaGenerator::default().into_root_schema_for::<T>().to_value()
}

fn reply<M: Method>() -> Value {
    of_type::<M::Out>()
}

/// A schema of what is of one shape or of another, as the arguments say.
fn either(shapes: [Value; 2]) -> Value {
    let (mut definitions, mut choices) = (serde_json::Map::new(), Vec::new());
    for mut shape in shapes {
        if let Some(own) = shape.as_object_mut() {
            own.remove("$schema");
            if let Some(Value::Object(more)) = own.remove("$defs") {
                definitions.extend(more);
            }
        }
        choices.push(shape);
    }
    json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "anyOf": choices, "$defs": definitions })
}

/// The commands whose `--json` is a reply of an interface, and its schema.
fn replies() -> BTreeMap<&'static str, Value> {
    let mut all = BTreeMap::from([
        ("status", reply::<broker::method::Status>()),
        ("resolve", reply::<broker::method::Resolve>()),
        ("explain", reply::<broker::method::Explain>()),
        ("context", reply::<broker::method::GetContext>()),
        ("reload", reply::<init::method::Reload>()),
        ("logs", of_type::<init::Line>()),
        (
            "introspect",
            either([
                reply::<service::method::GetInfo>(),
                reply::<service::method::GetInterfaceDescription>(),
            ]),
        ),
        (
            "embed",
            either([reply::<embed::method::EmbedText>(), reply::<embed::method::EmbedFile>()]),
        ),
        ("rerank", reply::<rerank::method::Rerank>()),
        ("ingest-files", reply::<ingest::method::Files>()),
        ("ingest-postgres", reply::<ingest::method::Postgres>()),
        ("ingest-mysql", reply::<ingest::method::Mysql>()),
        ("ingest-explain", reply::<ingest::method::Explain>()),
        ("ingest-watch", reply::<ingest::method::Watch>()),
        ("ingest-unwatch", reply::<ingest::method::Unwatch>()),
        ("ingest-watches", reply::<ingest::method::Watches>()),
        ("runs", reply::<ingest::method::Runs>()),
        ("datasets", reply::<catalog::method::List>()),
        ("datasets-show", reply::<catalog::method::Get>()),
        ("datasets-delete", reply::<catalog::method::Delete>()),
        ("datasets-rename", reply::<catalog::method::Rename>()),
        ("datasets-copy", reply::<catalog::method::Copy>()),
        ("datasets-pin", reply::<catalog::method::Pin>()),
        ("datasets-unpin", reply::<catalog::method::Unpin>()),
        (
            "datasets-resync",
            either([reply::<catalog::method::Resync>(), reply::<catalog::method::ResyncMissing>()]),
        ),
        ("datasets-adopt", reply::<catalog::method::Adopt>()),
        ("buckets", reply::<storage::method::Buckets>()),
        ("buckets-add", reply::<storage::method::AddBucket>()),
        ("buckets-health", reply::<storage::method::Health>()),
        ("buckets-put", reply::<storage::method::PutObject>()),
        ("buckets-scrub", reply::<storage::method::Scrub>()),
        (
            "errors",
            either([reply::<storage::method::Errors>(), reply::<storage::method::CompactErrors>()]),
        ),
        ("index-create", reply::<index::method::Create>()),
        ("index-refresh", reply::<index::method::Refresh>()),
        ("index-migrate", reply::<index::method::Migrate>()),
        ("index-promote", reply::<index::method::Promote>()),
        ("index-rollback", reply::<index::method::Rollback>()),
        ("index-unpin", reply::<index::method::Unpin>()),
        ("index-move", reply::<index::method::Move>()),
        ("index-compact", reply::<index::method::Compact>()),
        (
            "index-eval",
            either([reply::<index::method::EvalAutogen>(), reply::<index::method::EvalList>()]),
        ),
        ("index-trial", reply::<index::method::Trial>()),
        ("index-best", reply::<index::method::Best>()),
        ("index-autotune", reply::<index::method::Autotune>()),
        (
            "index-agent",
            either([reply::<index::method::AgentStatus>(), reply::<index::method::AgentEnqueue>()]),
        ),
        ("index-list", reply::<index::method::List>()),
        ("index-stats", reply::<index::method::Stats>()),
        ("index-get", reply::<index::method::Get>()),
        ("index-generations", reply::<index::method::Generations>()),
        ("index-doctor", reply::<index::method::Doctor>()),
        ("index-delete", reply::<index::method::Delete>()),
        ("search", reply::<index::method::Search>()),
        ("score-matrix", reply::<score::method::ScoreMatrix>()),
        (
            "score-weights",
            either([reply::<score::method::Weights>(), reply::<score::method::ResetWeights>()]),
        ),
        ("profile-list", reply::<profiles::method::List>()),
        ("profile-show", of_type::<profiles::ProfileInfo>()),
        ("profile-activate", reply::<profiles::method::Activate>()),
        ("profile-deactivate", reply::<profiles::method::Deactivate>()),
        ("profile-active", reply::<profiles::method::Active>()),
        ("gpu", reply::<profiles::method::Vram>()),
    ]);
    // A module without a process has no number, which the interface writes as 0.
    let status = all.get_mut("status").expect("just put there");
    status["$defs"]["ModuleStatus"]["properties"]["pid"]["type"] = json!(["integer", "null"]);
    // The command names what it read the texts from.
    let rerank = all.get_mut("rerank").expect("just put there");
    let what = "Files or lines of the results, in their order.";
    rerank["properties"]["sources"] =
        json!({ "type": "array", "items": { "type": "string" }, "description": what });
    all
}

#[test]
fn the_schemas_that_are_documented_are_those_of_the_types() {
    let update = std::env::var_os("BRAHMAN_UPDATE_SCHEMAS").is_some();
    let mut differing = Vec::new();
    for (name, schema) in replies() {
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).expect("JSON"));
        if update {
            std::fs::write(file(name), text).expect("written");
        } else if std::fs::read_to_string(file(name)).ok().as_ref() != Some(&text) {
            differing.push(name);
        }
    }
    assert!(
        differing.is_empty(),
        "docs/schemas is not up to date for {differing:?}: run this test with BRAHMAN_UPDATE_SCHEMAS=1"
    );
}

/// What of a value is not as a schema says: the keywords that are used there, and no others.
fn flaws(value: &Value, schema: &Value, root: &Value, place: &str) -> Vec<String> {
    if schema == &json!(true) || schema.as_object().is_some_and(serde_json::Map::is_empty) {
        return Vec::new();
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        return flaws(value, &root["$defs"][name], root, place);
    }
    for keyword in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[keyword].as_array() {
            let fits = choices.iter().any(|choice| flaws(value, choice, root, place).is_empty());
            return if fits {
                Vec::new()
            } else {
                vec![format!("{place}: none of {keyword} fits {value}")]
            };
        }
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    if !kinds.is_empty() && !kinds.iter().any(is) {
        return vec![format!("{place}: expected {kinds:?}, got {value}")];
    }
    let mut all = Vec::new();
    if let Some(object) = value.as_object() {
        let required =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        all.extend(
            required
                .filter(|key| !object.contains_key(*key))
                .map(|key| format!("{place}: `{key}` is missing")),
        );
        for (key, below) in object {
            let known = &schema["properties"][key];
            let rest = &schema["additionalProperties"];
            let below_schema = if known.is_null() { rest } else { known };
            if !below_schema.is_null() && !below_schema.is_boolean() {
                all.extend(flaws(below, below_schema, root, &format!("{place}.{key}")));
            }
        }
    }
    for (at, below) in value.as_array().into_iter().flatten().enumerate() {
        if !schema["items"].is_null() {
            all.extend(flaws(below, &schema["items"], root, &format!("{place}[{at}]")));
        }
    }
    all
}

fn assert_shape(name: &str, value: &Value) {
    let text = std::fs::read_to_string(file(name))
        .unwrap_or_else(|error| panic!("{}: {error}", file(name).display()));
    let schema: Value = serde_json::from_str(&text).expect("a schema is JSON");
    let flaws = flaws(value, &schema, &schema, name);
    assert!(flaws.is_empty(), "{flaws:#?}\n{value}");
}

#[tokio::test]
async fn what_commands_print_is_as_its_schema_says() {
    let mesh =
        Setup::new(&["broker", "catalog", "ingest", "embed-mock", "index"].map(shipped)).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let at = |name: &str| mesh.folder.path().join(name).display().to_string();
    std::fs::write(at("d.csv"), "id,text\n1,ships\n2,trains\n").expect("written");
    let (csv, tar) = (at("d.csv"), at("b.tar"));
    for (name, arguments) in [
        ("status", &["status"][..]),
        ("resolve", &["resolve", "embed"]),
        ("explain", &["explain", "embed"]),
        ("context", &["context"]),
        ("reload", &["reload"]),
        ("introspect", &["introspect"]),
        ("introspect", &["introspect", "embed"]),
        ("embed", &["embed", "a text"]),
        ("embed", &["embed", "--file", csv.as_str()]),
        ("ingest-files", &["ingest", "files", "d", csv.as_str()]),
        ("ingest-explain", &["ingest", "files", "d", csv.as_str(), "--explain"]),
        ("ingest-watches", &["ingest", "watches"]),
        ("ingest-unwatch", &["ingest", "unwatch", "d"]),
        ("runs", &["runs"]),
        ("datasets", &["datasets"]),
        ("datasets-show", &["datasets", "show", "d"]),
        ("datasets-copy", &["datasets", "copy", "d", "e"]),
        ("datasets-rename", &["datasets", "rename", "e", "f"]),
        ("datasets-pin", &["datasets", "pin", "f", "--life", "1h"]),
        ("datasets-unpin", &["datasets", "unpin", "f"]),
        ("datasets-resync", &["datasets", "resync", "f"]),
        ("datasets-resync", &["datasets", "resync"]),
        ("datasets-delete", &["datasets", "delete", "f"]),
        ("buckets", &["buckets"]),
        ("buckets-health", &["buckets", "health"]),
        ("buckets-scrub", &["buckets", "scrub"]),
        ("errors", &["errors"]),
        ("errors", &["errors", "--compact", "5"]),
        ("index-create", &["index", "create", "i", "--dataset", "d"]),
        ("index-refresh", &["index", "refresh", "i"]),
        ("index-list", &["index", "list"]),
        ("index-stats", &["index", "stats", "i"]),
        ("index-get", &["index", "get", "i", "1"]),
        ("index-generations", &["index", "generations", "i"]),
        ("index-doctor", &["index", "doctor", "i"]),
        ("index-eval", &["index", "eval", "i", "--list"]),
        ("index-agent", &["index", "agent"]),
        ("search", &["search", "i", "ships"]),
        ("index-delete", &["index", "delete", "i"]),
        ("disk", &["disk"]),
        ("gc", &["gc", "--dry-run"]),
        ("backup", &["backup", tar.as_str()]),
        ("restore", &["restore", tar.as_str(), "--state", at("elsewhere").as_str()]),
    ] {
        assert_shape(name, &mesh.brahman_json(arguments));
    }
    let logs = mesh.brahman(&["logs", "--since", "1h", "--json"]);
    for line in String::from_utf8_lossy(&logs.stdout).lines() {
        assert_shape("logs", &serde_json::from_str(line).expect("one object a line"));
    }
    for arguments in [
        &["datasets", "show", "nothing", "--json"][..],
        &["no-such-command", "--json"],
        &["search", "i", "x", "--json"],
    ] {
        let out = mesh.brahman(arguments);
        assert!(out.stdout.is_empty(), "{arguments:?}");
        assert_shape("error", &serde_json::from_slice(&out.stderr).expect("one object"));
    }
    assert_shape("down", &mesh.brahman_json(&["down"]));
}

#[test]
fn a_value_that_is_not_as_its_schema_says_is_noticed() {
    let schema = of_type::<catalog::CopyOut>();
    let whole =
        json!({"name": "d", "generation": 1, "rows": 2, "run_id": "r", "more": "is welcome"});
    assert_eq!(flaws(&whole, &schema, &schema, "copy"), Vec::<String>::new());
    for bad in [
        json!({"name": "d"}),
        json!([]),
        json!({"name": 1, "generation": 1, "rows": 2, "run_id": "r"}),
    ] {
        assert!(!flaws(&bad, &schema, &schema, "copy").is_empty(), "{bad}");
    }
}
