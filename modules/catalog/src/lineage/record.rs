//! A line of the journal: what the catalog needs to know of a run, and the event of OpenLineage
//! that says the same to others.

use brahman_card::interface::catalog::Dataset;
use brahman_storage::digest::sha256;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Columns in one event: an event is a record, and at most a mebibyte long.
const FIELDS_MAX: usize = 2000;
const PRODUCER: &str =
    concat!("https://crates.io/crates/brahman-catalog/", env!("CARGO_PKG_VERSION"));
const EVENT_SCHEMA: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
/// Of a run that a dataset's file names, and of which nothing else is recorded.
pub(super) const UNRECORDED: &str = "RUNNING";
/// Datasets and jobs of this catalog.
pub(super) const NAMESPACE: &str = "brahman";

/// One line of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) dataset: String,
    pub(super) run_id: String,
    /// Who began the run; of its START only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) producer: Option<String>,
    /// Where the run writes; of its START only, and absent in journals of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bucket: Option<String>,
    /// What was committed; of a COMPLETE only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) made: Option<Dataset>,
    pub(super) event: Value,
}

/// When an event happened, as Unix time; long ago, if it does not say.
pub(super) fn time_ms(event: &Value) -> u64 {
    let at = event["eventTime"].as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    at.and_then(|at| u64::try_from(at.timestamp_millis()).ok()).unwrap_or(0)
}

impl Record {
    /// Whether it is an event of this kind.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.event["eventType"] == kind
    }
}

/// That of a run, which a dataset is made of, nothing else is recorded.
pub(super) fn unrecorded(dataset: &Dataset) -> Record {
    let (name, run_id) = (dataset.name.clone(), dataset.lineage.run_id.clone());
    let says =
        json!({"message": "of this run nothing else is recorded", "programmingLanguage": "Rust"});
    let facets = json!({"errorMessage": facet("1-0-1", "ErrorMessageRunFacet", says)});
    let event = event(
        UNRECORDED,
        &name,
        &run_id,
        facets,
        Vec::new(),
        vec![json!({"namespace": NAMESPACE, "name": name})],
    );
    Record { dataset: name, run_id, producer: None, bucket: None, made: None, event }
}

/// A facet: what it says, who says it, and by which definition.
pub(super) fn facet(file: &str, name: &str, mut says: Value) -> Value {
    says["_producer"] = json!(PRODUCER);
    says["_schemaURL"] =
        json!(format!("https://openlineage.io/spec/facets/{file}/{name}.json#/$defs/{name}"));
    says
}

/// A run's id as OpenLineage wants it: a UUID of the same 128 bits, or of what stands for them.
pub(super) fn uuid(run_id: &str) -> String {
    let bits = ulid::Ulid::from_string(run_id).map(|ulid| ulid.0).ok();
    let bits = bits.unwrap_or_else(|| {
        sha256(run_id.as_bytes()).first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes))
    });
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Namespace and name of what was read, by OpenLineage's conventions.
pub(super) fn input(source: &str) -> Value {
    let (namespace, name) = match source.strip_prefix("file://") {
        Some(path) => ("file", path),
        None => source.rsplit_once('/').unwrap_or((NAMESPACE, source)),
    };
    json!({"namespace": namespace, "name": name})
}

/// An event of OpenLineage, of now.
pub(super) fn event(
    kind: &str,
    dataset: &str,
    run_id: &str,
    run_facets: Value,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
) -> Value {
    json!({
        "eventType": kind,
        "eventTime": Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
        "producer": PRODUCER,
        "schemaURL": EVENT_SCHEMA,
        "run": {"runId": uuid(run_id), "facets": run_facets},
        "job": {"namespace": NAMESPACE, "name": format!("ingest.{dataset}")},
        "inputs": inputs,
        "outputs": outputs,
    })
}

/// A dataset as a run has made it, by OpenLineage's facets.
pub(super) fn output(dataset: &Dataset) -> Value {
    let fields = dataset.columns.iter().take(FIELDS_MAX);
    let fields: Vec<Value> =
        fields.map(|c| json!({"name": c.name, "type": c.arrow_type, "description": format!("{} at the source", c.source_type)})).collect();
    let columns = dataset
        .pii
        .iter()
        .flat_map(|report| &report.columns)
        .filter(|c| c.status == "found" || c.status == "possible");
    let tags = columns.flat_map(|c| {
        c.findings.iter().map(|f| json!({"key": "pii", "value": f.entity, "source": "INTEGRATION", "field": c.column})).collect::<Vec<_>>()
    });
    json!({
        "namespace": NAMESPACE,
        "name": dataset.name,
        "facets": {
            "schema": facet("1-1-1", "SchemaDatasetFacet", json!({"fields": fields})),
            "version": facet("1-0-1", "DatasetVersionDatasetFacet", json!({"datasetVersion": dataset.generation.to_string()})),
            "tags": facet("1-0-0", "TagsDatasetFacet", json!({"tags": tags.take(FIELDS_MAX).collect::<Vec<_>>()})),
        },
        "outputFacets": {
            "outputStatistics": facet("1-0-2", "OutputStatisticsOutputDatasetFacet", json!({
                "rowCount": dataset.rows, "size": dataset.bytes, "fileCount": dataset.objects.len(),
            })),
        },
    })
}

/// The generation that a COMPLETE is of.
pub(super) fn generation_of(record: &Record) -> u64 {
    let version =
        record.event.pointer("/outputs/0/facets/version/datasetVersion").and_then(Value::as_str);
    version.and_then(|version| version.parse().ok()).unwrap_or(1)
}
