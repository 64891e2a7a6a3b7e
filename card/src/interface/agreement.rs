//! Holds every interface's IDL text against its Rust types: same fields, same shapes, same optionality.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::Value;
use varlink_parser::{IDL, VStruct, VStructOrEnum, VType, VTypeExt};

use super::*;

/// Schema of one Rust type, with the definitions it refers to.
fn schema<T: JsonSchema>() -> Value {
    SchemaGenerator::new(SchemaSettings::draft2020_12()).into_root_schema_for::<T>().to_value()
}

/// The shape in the IDL's own words.
fn idl_shape(idl: &IDL<'_>, ty: &VTypeExt<'_>) -> String {
    match ty {
        VTypeExt::Array(inner) => format!("[]{}", idl_shape(idl, inner)),
        VTypeExt::Dict(inner) => format!("[string]{}", idl_shape(idl, inner)),
        VTypeExt::Option(inner) => format!("?{}", idl_shape(idl, inner)),
        VTypeExt::Plain(VType::Bool) => "bool".into(),
        VTypeExt::Plain(VType::Int) => "int".into(),
        VTypeExt::Plain(VType::Float) => "float".into(),
        VTypeExt::Plain(VType::String) => "string".into(),
        VTypeExt::Plain(VType::Object) => "object".into(),
        VTypeExt::Plain(VType::Struct(fields)) => idl_struct(idl, fields),
        VTypeExt::Plain(VType::Enum(_)) => "string".into(),
        VTypeExt::Plain(VType::Typename(name)) => match &idl.typedefs[name].elt {
            VStructOrEnum::VStruct(fields) => idl_struct(idl, fields),
            VStructOrEnum::VEnum(_) => "string".into(),
        },
    }
}

fn idl_struct(idl: &IDL<'_>, fields: &VStruct<'_>) -> String {
    let mut fields: Vec<String> = fields.elts.iter().map(|f| format!("{}:{}", f.name, idl_shape(idl, &f.vtype))).collect();
    fields.sort();
    format!("({})", fields.join(","))
}

/// The shape of a Rust type in the IDL's words. Depth-bounded because a Card is an `object` to Varlink.
fn rust_shape(root: &Value, schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return if name == "Card" { "object".into() } else { rust_shape(root, &root["$defs"][name]) };
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let inner = any.iter().find(|s| s["type"] != "null").expect("a shape beside null");
        return format!("?{}", rust_shape(root, inner));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        // `serde_json::Value` has no type of its own.
        _ => return if schema.get("enum").is_some() || schema.get("oneOf").is_some() { "string".into() } else { "object".into() },
    };
    let plain = types.iter().find(|t| **t != "null").expect("a type beside null");
    let shape = match *plain {
        "boolean" => "bool".into(),
        "integer" => "int".into(),
        "number" => "float".into(),
        "string" => "string".into(),
        "array" => format!("[]{}", rust_shape(root, &schema["items"])),
        _ => match schema["properties"].as_object() {
            Some(fields) => {
                let mut fields: Vec<String> = fields.iter().map(|(k, v)| format!("{k}:{}", rust_shape(root, v))).collect();
                fields.sort();
                format!("({})", fields.join(","))
            }
            None if schema["additionalProperties"].is_object() => {
                format!("[string]{}", rust_shape(root, &schema["additionalProperties"]))
            }
            None => "()".into(),
        },
    };
    if types.contains(&"null") { format!("?{shape}") } else { shape }
}

/// A list of lists is `[]object` in the IDL, for sd-varlink parses no `[][]`; its comment says what the objects are.
fn flattened(shape: &str) -> String {
    let Some(at) = shape.find("[][]") else { return shape.to_owned() };
    let rest = &shape[at + 4..];
    let mut depth = 0;
    let end = rest.find(|c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth < 0 || depth == 0 && c == ','
    });
    flattened(&format!("{}[]object{}", &shape[..at], &rest[end.unwrap_or(rest.len())..]))
}

/// `?object` and `object` are one to serde_json; everything else must agree to the letter.
fn alike(idl: &str, rust: &str) -> bool {
    idl.replace("?object", "object") == rust.replace("?object", "object")
        // A list that Rust leaves out when empty is optional to Varlink.
        || idl.replace("shortfalls:?[]string", "shortfalls:[]string") == rust.replace("shortfalls:?[]string", "shortfalls:[]string")
}

fn check(interface: &Interface, methods: &[(&str, Value, Value)]) {
    let idl = IDL::try_from(interface.idl).unwrap_or_else(|e| panic!("{}: {e}", interface.name));
    assert_eq!(idl.name, interface.name);
    let mut named: Vec<&str> = methods.iter().map(|(name, ..)| *name).collect();
    let mut there: Vec<&str> = idl.methods.keys().copied().collect();
    named.sort_unstable();
    there.sort_unstable();
    assert_eq!(named, there, "{}: methods", interface.name);
    for method in interface.idempotent {
        assert!(there.contains(method), "{}.{method} is declared idempotent but not there", interface.name);
    }
    for (name, input, output) in methods {
        let method = &idl.methods[name];
        for (side, idl_side, rust_side) in [("in", &method.input, input), ("out", &method.output, output)] {
            let (want, got) = (idl_struct(&idl, idl_side), rust_shape(rust_side, rust_side));
            assert!(!want.contains("[][]"), "{}.{name}: sd-varlink parses no list of lists", interface.name);
            assert!(alike(&want, &flattened(&got)), "{}.{name} ({side})\n  IDL:  {want}\n  Rust: {got}", interface.name);
        }
    }
    for error in idl.errors.values().filter(|_| interface.name != "org.varlink.service") {
        let fields: Vec<&str> = error.parm.elts.iter().map(|f| f.name).collect();
        assert_eq!(fields.get(..2), Some(&["message", "retryable"][..]), "{}.{}", interface.name, error.name);
    }
}

#[test]
fn every_idl_text_agrees_with_its_rust_types() {
    let none = schema::<Empty>;
    check(
        &service::INTERFACE,
        &[
            ("GetInfo", none(), schema::<service::Info>()),
            ("GetInterfaceDescription", schema::<service::DescriptionIn>(), schema::<service::DescriptionOut>()),
        ],
    );
    check(
        &broker::INTERFACE,
        &[
            ("Resolve", schema::<broker::FlowIn>(), schema::<broker::ResolveOut>()),
            ("Watch", schema::<broker::FlowIn>(), schema::<broker::WatchOut>()),
            ("Explain", schema::<broker::FlowIn>(), schema::<broker::ExplainOut>()),
            ("GetContext", none(), schema::<broker::Context>()),
            ("SetContext", schema::<broker::SetContextIn>(), schema::<broker::SetContextOut>()),
            ("Status", none(), schema::<broker::StatusOut>()),
        ],
    );
    let label = schema::<init::LabelIn>;
    check(
        &init::INTERFACE,
        &[
            ("List", none(), schema::<init::ListOut>()),
            ("Start", label(), none()),
            ("Stop", label(), none()),
            ("Restart", label(), none()),
            ("Reload", none(), schema::<init::ReloadOut>()),
            ("Check", schema::<init::CheckIn>(), schema::<init::CheckOut>()),
            ("Logs", schema::<init::LogsIn>(), schema::<init::LogsOut>()),
            ("Attach", schema::<init::AttachIn>(), schema::<init::AttachOut>()),
            ("Update", schema::<init::UpdateIn>(), none()),
            ("Watch", none(), schema::<init::WatchOut>()),
            ("Shutdown", none(), none()),
        ],
    );
    check(
        &embed::INTERFACE,
        &[
            ("EmbedText", schema::<embed::EmbedTextIn>(), schema::<embed::EmbedTextOut>()),
            ("EmbedFile", schema::<embed::EmbedFileIn>(), schema::<embed::EmbedFileOut>()),
            ("EmbedBulk", schema::<embed::EmbedBulkIn>(), schema::<embed::EmbedBulkOut>()),
            ("Info", none(), schema::<embed::InfoOut>()),
        ],
    );
    check(
        &index::INTERFACE,
        &[
            ("Create", schema::<index::CreateIn>(), schema::<index::CreateOut>()),
            ("Refresh", schema::<index::NameIn>(), schema::<index::RefreshOut>()),
            ("Migrate", schema::<index::MigrateIn>(), schema::<index::RefreshOut>()),
            ("Search", schema::<index::SearchIn>(), schema::<index::SearchOut>()),
            ("SearchBulk", schema::<index::SearchBulkIn>(), schema::<index::SearchBulkOut>()),
            ("Get", schema::<index::GetIn>(), schema::<index::GetOut>()),
            ("List", none(), schema::<index::ListOut>()),
            ("Stats", schema::<index::NameIn>(), schema::<index::StatsOut>()),
            ("Delete", schema::<index::NameIn>(), schema::<index::DeleteOut>()),
            ("Generations", schema::<index::NameIn>(), schema::<index::GenerationsOut>()),
            ("Promote", schema::<index::PromoteIn>(), schema::<index::PromoteOut>()),
            ("Rollback", schema::<index::RollbackIn>(), schema::<index::RollbackOut>()),
            ("Unpin", schema::<index::NameIn>(), schema::<index::UnpinOut>()),
            ("Move", schema::<index::MoveIn>(), schema::<index::MoveOut>()),
            ("Compact", schema::<index::NameIn>(), schema::<index::CompactOut>()),
            ("Doctor", schema::<index::DoctorIn>(), schema::<index::DoctorOut>()),
            ("EvalAutogen", schema::<index::EvalAutogenIn>(), schema::<index::EvalOut>()),
            ("EvalList", schema::<index::NameIn>(), schema::<index::EvalListOut>()),
            ("Trial", schema::<index::TrialIn>(), schema::<index::TrialOut>()),
            ("Trials", schema::<index::NameIn>(), schema::<index::TrialsOut>()),
            ("Best", schema::<index::BestIn>(), schema::<index::BestOut>()),
            ("CompactTrials", schema::<index::CompactTrialsIn>(), schema::<index::CompactTrialsOut>()),
            ("Autotune", schema::<index::AutotuneIn>(), schema::<index::AutotuneOut>()),
            ("AgentStatus", none(), schema::<index::AgentStatusOut>()),
            ("AgentEnqueue", schema::<index::NameIn>(), schema::<index::AgentEnqueueOut>()),
        ],
    );
    check(
        &ingest::INTERFACE,
        &[
            ("Files", schema::<ingest::FilesIn>(), schema::<ingest::IngestOut>()),
            ("Postgres", schema::<ingest::TableIn>(), schema::<ingest::IngestOut>()),
            ("Mysql", schema::<ingest::TableIn>(), schema::<ingest::IngestOut>()),
            ("Runs", none(), schema::<ingest::RunsOut>()),
            ("Watch", schema::<ingest::WatchIn>(), schema::<ingest::WatchOut>()),
            ("Unwatch", schema::<ingest::UnwatchIn>(), schema::<ingest::UnwatchOut>()),
            ("Watches", schema::<Empty>(), schema::<ingest::WatchesOut>()),
            ("Cancel", schema::<ingest::CancelIn>(), schema::<ingest::CancelOut>()),
        ],
    );
    check(
        &storage::INTERFACE,
        &[
            ("Buckets", none(), schema::<storage::BucketsOut>()),
            ("AddBucket", schema::<storage::AddBucketIn>(), schema::<storage::AddBucketOut>()),
            ("RemoveBucket", schema::<storage::RemoveBucketIn>(), none()),
            ("GetObject", schema::<storage::GetObjectIn>(), schema::<storage::GetObjectOut>()),
            ("PutObject", schema::<storage::PutObjectIn>(), schema::<storage::PutObjectOut>()),
            ("Health", none(), schema::<storage::HealthOut>()),
            ("Scrub", schema::<storage::ScrubIn>(), schema::<storage::ScrubOut>()),
            ("Errors", schema::<storage::ErrorsIn>(), schema::<storage::ErrorsOut>()),
            ("FlushErrors", none(), schema::<storage::FlushErrorsOut>()),
            ("CompactErrors", schema::<storage::CompactErrorsIn>(), schema::<storage::CompactErrorsOut>()),
        ],
    );
    check(
        &score::INTERFACE,
        &[
            ("Info", none(), schema::<score::InfoOut>()),
            ("Logprobs", schema::<score::LogprobsIn>(), schema::<score::LogprobsOut>()),
            ("ScoreMatrix", schema::<score::MatrixIn>(), schema::<score::MatrixOut>()),
            ("ScoreMemory", schema::<score::MemoryIn>(), schema::<score::MemoryOut>()),
            ("ScoreIncremental", schema::<score::IncrementalIn>(), schema::<score::IncrementalOut>()),
            ("ScoreFinetune", schema::<score::FinetuneIn>(), schema::<score::FinetuneOut>()),
        ],
    );
    check(
        &catalog::INTERFACE,
        &[
            ("List", schema::<catalog::RealmIn>(), schema::<catalog::ListOut>()),
            ("Get", schema::<catalog::NameIn>(), schema::<catalog::GetOut>()),
            ("Abandon", schema::<catalog::AbandonIn>(), schema::<catalog::AbandonOut>()),
            ("Lineage", schema::<catalog::LineageIn>(), schema::<catalog::LineageOut>()),
            ("Sample", schema::<catalog::SampleIn>(), schema::<catalog::SampleOut>()),
            ("Resync", schema::<catalog::ResyncIn>(), schema::<catalog::ResyncOut>()),
            ("ResyncMissing", schema::<catalog::RealmIn>(), schema::<catalog::ResyncMissingOut>()),
            ("Adopt", schema::<catalog::AdoptIn>(), schema::<catalog::AdoptOut>()),
            ("Commit", schema::<catalog::CommitIn>(), schema::<catalog::CommitOut>()),
            ("Location", schema::<catalog::LocationIn>(), schema::<catalog::LocationOut>()),
            ("MarkStale", schema::<catalog::MarkStaleIn>(), none()),
            ("ClearStale", schema::<catalog::ClearStaleIn>(), schema::<catalog::ClearStaleOut>()),
            ("Delete", schema::<catalog::NameIn>(), schema::<catalog::DeleteOut>()),
            ("Watch", schema::<catalog::RealmIn>(), schema::<catalog::WatchOut>()),
        ],
    );
}

#[test]
fn methods_without_parameters_are_known() {
    assert!(broker::INTERFACE.takes_nothing("Status") && init::INTERFACE.takes_nothing("List"));
    assert!(!index::INTERFACE.takes_nothing("Search") && !broker::INTERFACE.takes_nothing("Nothing"));
}

#[test]
fn short_names_find_their_interface() {
    assert_eq!(full_name("embed"), "org.brahman.Embed");
    assert_eq!(full_name("com.example.Thing"), "com.example.Thing");
    assert_eq!(full_name("nothing"), "nothing");
}
