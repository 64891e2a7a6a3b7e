//! The datasets that there are, and one of them: its columns, what is personal, its history.

use brahman_card::counted;
use brahman_card::interface::catalog::{self, Dataset, GetOut, PiiColumn};
use hyper::StatusCode;
use minijinja::context;
use serde::Serialize;

use super::{LINES_MAX, refused, render};
use crate::answer::Answer;
use crate::caller::Caller;
use crate::mesh::Mesh;

/// A dataset in the list.
#[derive(Debug, Serialize)]
pub(super) struct DatasetLine<'a> {
    name: &'a str,
    mock: bool,
    generation: u64,
    rows: u64,
    bytes: u64,
    columns: usize,
    /// Columns that hold personal data, or may; none if it was not looked for.
    personal: Option<Vec<&'a str>>,
    stale: &'a [String],
    committed_ms: u64,
    state: Option<&'a str>,
    reason: Option<&'a str>,
}

impl<'a> DatasetLine<'a> {
    pub(super) fn of(dataset: &'a Dataset) -> Self {
        let personal = |columns: &'a [PiiColumn]| {
            columns.iter().filter(|one| is_personal(one)).map(|one| one.column.as_str()).collect()
        };
        Self {
            name: &dataset.name,
            mock: dataset.mock == Some(true),
            generation: dataset.generation,
            rows: dataset.rows,
            bytes: dataset.bytes,
            columns: dataset.columns.len(),
            personal: dataset.pii.as_ref().map(|report| personal(&report.columns)),
            stale: &dataset.stale,
            committed_ms: dataset.committed_ms,
            state: dataset.state.as_deref(),
            reason: dataset.reason.as_deref(),
        }
    }
}

fn is_personal(column: &PiiColumn) -> bool {
    column.status == "found" || column.status == "possible"
}

pub(super) async fn datasets(mesh: &Mesh, caller: &Caller) -> Answer {
    let (template, here) = ("datasets.html", "/page/datasets");
    match mesh.ask::<catalog::method::List>(caller, &Default::default(), Default::default()).await {
        Ok(told) => {
            let out = told.value;
            let lines: Vec<DatasetLine<'_>> =
                out.datasets.iter().take(LINES_MAX).map(DatasetLine::of).collect();
            let left_out = out.datasets.len() - lines.len();
            let notes = out.notes.as_deref().unwrap_or_default();
            render(StatusCode::OK, template, here, context! { datasets => lines, left_out, notes })
        }
        Err(refusal) => refused(&refusal, template, here, context! {}),
    }
}

/// A column of a dataset.
#[derive(Debug, Serialize)]
pub(super) struct ColumnLine<'a> {
    name: &'a str,
    arrow_type: &'a str,
    source_type: &'a str,
    nulls_made: u64,
    is_personal: bool,
    /// What is known of personal data in it, in words.
    personal: String,
}

/// A generation that a dataset had, and by which pins it is kept.
#[derive(Debug, Serialize)]
pub(super) struct VersionLine<'a> {
    generation: u64,
    committed_ms: u64,
    rows: u64,
    bytes: u64,
    run_id: &'a str,
    pins: Vec<&'a str>,
}

impl<'a> ColumnLine<'a> {
    pub(super) fn of(column: &'a catalog::Column, looked: &[PiiColumn]) -> Self {
        let own: Vec<&PiiColumn> =
            looked.iter().filter(|one| is_within(&one.column, &column.name)).collect();
        Self {
            name: &column.name,
            arrow_type: &column.arrow_type,
            source_type: &column.source_type,
            nulls_made: column.nulls_made,
            is_personal: own.iter().any(|one| is_personal(one)),
            personal: own
                .iter()
                .map(|one| personal(one, &column.name))
                .collect::<Vec<_>>()
                .join("; "),
        }
    }
}

impl<'a> VersionLine<'a> {
    pub(super) fn of(version: &'a catalog::Version, pins: &'a [catalog::PinnedGeneration]) -> Self {
        Self {
            generation: version.generation,
            committed_ms: version.committed_ms,
            rows: version.rows,
            bytes: version.bytes,
            run_id: &version.run_id,
            pins: pins
                .iter()
                .filter(|pin| pin.run_id == version.run_id)
                .map(|pin| pin.pin.as_str())
                .collect(),
        }
    }
}

pub(super) async fn dataset(mesh: &Mesh, caller: &Caller, name: &str) -> Answer {
    let (template, here) = ("dataset.html", "/page/datasets");
    let ask = catalog::NameIn { name: name.to_owned(), mock: None };
    let out = match mesh.ask::<catalog::method::Get>(caller, &ask, Default::default()).await {
        Ok(told) => told.value,
        Err(refusal) => return refused(&refusal, template, here, context! { name }),
    };
    let dataset = &out.dataset;
    let looked = dataset.pii.as_ref().map(|report| report.columns.as_slice());
    let pins = out.pins.as_deref().unwrap_or_default();
    let columns: Vec<ColumnLine<'_>> = dataset
        .columns
        .iter()
        .take(LINES_MAX)
        .map(|column| ColumnLine::of(column, looked.unwrap_or_default()))
        .collect();
    let history: Vec<VersionLine<'_>> =
        out.history.iter().map(|version| VersionLine::of(version, pins)).collect();
    let view = context! {
        name,
        dataset,
        columns,
        history,
        objects => dataset.objects.len(),
        looked => looked.is_some(),
        left_out => dataset.columns.len().saturating_sub(LINES_MAX),
        notes => dataset_notes(&out),
    };
    render(StatusCode::OK, template, here, view)
}

/// Whether what was looked at is a column, or lies within it.
pub(super) fn is_within(looked: &str, column: &str) -> bool {
    looked.strip_prefix(column).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// What is known of personal data in a column, or in a part of it.
fn personal(looked: &PiiColumn, column: &str) -> String {
    let status = match looked.status.as_str() {
        "insufficient_sample" => "too few values",
        "not_looked_at" => "not looked at",
        status => status,
    };
    let findings: Vec<String> = looked
        .findings
        .iter()
        .map(|finding| format!("{} {:.2}", finding.entity, finding.confidence))
        .collect();
    let prose = looked
        .free_text
        .iter()
        .map(|density| format!("{} in {:.0} of 1,000 texts", density.entity, density.per_1000));
    let all: Vec<String> = findings.into_iter().chain(prose).collect();
    let place = if looked.column == column { String::new() } else { format!("{} ", looked.column) };
    if all.is_empty() {
        format!("{place}{status}")
    } else {
        format!("{place}{status}: {}", all.join(", "))
    }
}

/// What became of objects.
fn dataset_notes(out: &GetOut) -> Vec<String> {
    let note = |keys: &Option<Vec<String>>, one: &str, several: &str| {
        keys.as_ref().map(|keys| counted(keys.len() as u64, one, several))
    };
    let notes = [
        note(
            &out.missing,
            "object is gone, or cut, and has no copy that is right",
            "objects are gone, or cut, and have no copy that is right",
        ),
        note(
            &out.rescued,
            "object was gone or damaged, and has come back from bucket rescue",
            "objects were gone or damaged, and have come back from bucket rescue",
        ),
        note(
            &out.borrowed,
            "object is read from bucket rescue, because its own bucket is away",
            "objects are read from bucket rescue, because their own bucket is away",
        ),
    ];
    notes.into_iter().flatten().collect()
}
