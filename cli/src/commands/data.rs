//! Looking after datasets; `brahman ingest …` is in [`ingest`].

mod arguments;
mod ingest;

use std::collections::BTreeSet;
use std::path::Path;

use brahman_card::interface::catalog::{
    self, Dataset, GetOut, LineageIn, LineageOut, NameIn, PiiColumn, PublishedDataset, RealmIn,
    ResyncIn, ResyncMissingOut, ResyncOut, SampleIn, SampleOut,
};

use super::get;
use crate::failure::{NotFound, Unsound};
use crate::output::{Output, Tone, bytes, counted, shortened};
pub(crate) use arguments::{Csv, Table};
pub(crate) use ingest::{ingest_files, ingest_table, runs, unwatch, watch, watches};

/// Widest type in a table: the fields of a struct are for `--json`.
const TYPE_COLUMNS: usize = 33;

/// What a column holds, in words.
fn personal(column: &PiiColumn) -> String {
    let findings = column.findings.iter().map(|f| {
        let certain = match (column.status.as_str(), f.matched) {
            ("found", _) => String::new(),
            (_, 0) => " possibly, by its name".to_owned(),
            (_, matched) => format!(" in {matched} of {} values", column.distinct),
        };
        let proof = if f.checksum { ", check digits right" } else { "" };
        format!("{}{certain} ({:.2}{proof})", f.entity, f.confidence)
    });
    let prose =
        column.free_text.iter().map(|d| format!("{} in {} of 1000 texts", d.entity, d.per_1000));
    findings.chain(prose).collect::<Vec<_>>().join(", ")
}

/// What a person should know of a dataset at a glance: whether a mock made it, and what is wrong
/// with it.
fn standing(dataset: &Dataset, apart: bool, output: &Output) -> String {
    let maker = dataset.maker.as_ref().map(|maker| format!("synthetic, made by {maker}"));
    let hidden = (apart && dataset.maker.is_none())
        .then(|| "hidden by a mock's dataset of the same name".to_owned());
    let state = dataset.state.as_ref().map(|state| output.paint(state, Tone::Bad));
    [state, maker, hidden].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

pub(crate) async fn datasets(socket: &Path, output: &Output) -> anyhow::Result<()> {
    let out: catalog::ListOut = get::<catalog::method::List>(socket, &RealmIn::default()).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        show_datasets(&out, output);
    }
    Ok(())
}

fn show_datasets(out: &catalog::ListOut, output: &Output) {
    let all = out
        .datasets
        .iter()
        .map(|d| (d, false))
        .chain(out.apart.iter().flatten().map(|d| (d, true)));
    let rows = all.clone().map(|(d, apart)| {
        let (columns, stale) = (d.columns.len().to_string(), d.stale.join(" "));
        vec![
            d.name.clone(),
            d.generation.to_string(),
            d.rows.to_string(),
            bytes(d.bytes),
            columns,
            stale,
            standing(d, apart, output),
        ]
    });
    output.table(
        &["DATASET", "GENERATION", "ROWS", "SIZE", "COLUMNS", "STALE INDEXES", ""],
        rows.collect(),
    );
    for (dataset, reason) in all.filter_map(|(d, _)| Some((d, d.reason.as_ref()?))) {
        output.line(&output.paint(&format!("{}: {reason}", dataset.name), Tone::Bad));
    }
    out.notes.iter().flatten().for_each(|note| output.line(&output.paint(note, Tone::Busy)));
    let strangers = out.strangers.as_deref().unwrap_or_default();
    if !strangers.is_empty() {
        output.line(&output.paint(
            "foreign runs in the buckets, which this catalog did not write (never deleted):",
            Tone::Busy,
        ));
        strangers.iter().take(STRANGERS_SHOWN).for_each(|run| output.line(&format!("  {run}")));
        if strangers.len() > STRANGERS_SHOWN {
            output
                .line(&format!("  and {} more: --json has all", strangers.len() - STRANGERS_SHOWN));
        }
    }
}

/// Runs of others in our buckets that are shown.
const STRANGERS_SHOWN: usize = 10;
/// Generations of history that are shown.
const VERSIONS_SHOWN: usize = 5;

pub(crate) async fn show(
    socket: &Path,
    name: &str,
    rows: u64,
    output: &Output,
) -> anyhow::Result<()> {
    let out: GetOut =
        get::<catalog::method::Get>(socket, &NameIn { name: name.to_owned(), mock: None }).await?;
    let sample: Option<SampleOut> = match rows {
        0 => None,
        // There is nothing to look at, which is said below.
        _ if out.missing.is_some() => None,
        rows => Some(
            get::<catalog::method::Sample>(
                socket,
                &SampleIn { name: name.to_owned(), rows: Some(rows), mock: None },
            )
            .await?,
        ),
    };
    if output.json() {
        let mut all = serde_json::to_value(&out)?;
        all["sample"] = serde_json::to_value(&sample)?;
        output.print_json(&all);
        return Ok(());
    }
    let d = out.dataset;
    for key in out.rescued.iter().flatten() {
        output.line(&output.paint(
            &format!("{key} was missing or damaged, and was restored from bucket rescue"),
            Tone::Busy,
        ));
    }
    for key in out.borrowed.iter().flatten() {
        let words = format!(
            "{key} is read from its replica in bucket rescue: its own bucket is unavailable (`brahman buckets health`)"
        );
        output.line(&output.paint(&words, Tone::Busy));
    }
    for key in out.missing.iter().flatten() {
        let why = "its bucket is unavailable (`brahman buckets health`), or it is missing and has no replica (`brahman errors`)";
        output.line(&output.paint(&format!("{key} cannot be read: {why}"), Tone::Bad));
    }
    let (name, rows) = (output.paint(&d.name, Tone::Strong), counted(d.rows, "row", "rows"));
    output.line(&format!("{name} generation {}: {rows}, {}", d.generation, bytes(d.bytes)));
    if let Some(maker) = &d.maker {
        output
            .line(&output.paint(&format!("synthetic rows, made by the mock {maker}"), Tone::Busy));
    }
    let holds = |name: &str| {
        let said = |c: &PiiColumn| {
            if c.findings.is_empty() && c.free_text.is_empty() {
                c.status.clone()
            } else {
                personal(c)
            }
        };
        let all = || d.pii.iter().flat_map(|report| &report.columns);
        let is_within = |c: &&PiiColumn| {
            c.column.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        let within =
            all().filter(is_within).filter(|c| c.status == "found" || c.status == "possible");
        let within = within.map(|c| format!("`{}` {}", c.column, said(c)));
        all()
            .find(|c| c.column == name)
            .map(said)
            .into_iter()
            .chain(within)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let columns = d.columns.iter();
    let columns = columns.map(|c| {
        vec![
            c.name.clone(),
            shortened(&c.arrow_type, TYPE_COLUMNS),
            shortened(&c.source_type, TYPE_COLUMNS),
            c.nulls_made.to_string(),
            holds(&c.name),
        ]
    });
    output.table(&["COLUMN", "TYPE", "SOURCE", "NULLS MADE", "PERSONAL DATA"], columns.collect());
    // Several runs may have read the same.
    let inputs: BTreeSet<String> =
        d.lineage.inputs.iter().map(|input| format!("from {input}")).collect();
    inputs.iter().for_each(|input| output.line(input));
    d.objects.iter().for_each(|o| output.line(&o.url));
    out.current.iter().for_each(|current| {
        output.line(&format!("{current}/*.parquet has these objects under a stable path"));
    });
    out.pins.iter().flatten().for_each(|pin| output.line(&super::datasets::pinned(pin)));
    if !d.stale.is_empty() {
        output.line(&output.paint(&format!("stale indexes: {}", d.stale.join(", ")), Tone::Busy));
    }
    let Some(sample) = sample else { return Ok(()) };
    let versions = out.history.iter().take(VERSIONS_SHOWN);
    let versions = versions.map(|v| {
        vec![v.generation.to_string(), v.rows.to_string(), bytes(v.bytes), v.run_id.clone()]
    });
    output.table(&["GENERATION", "ROWS", "SIZE", "RUN"], versions.collect());
    for (row, n) in sample.rows.iter().zip(1..) {
        output.line(&output.paint(&format!("row {n}"), Tone::Strong));
        for (column, value) in row.as_object().into_iter().flatten() {
            output.line(&format!(
                "  {column}: {}",
                value.as_str().map_or_else(|| value.to_string(), str::to_owned)
            ));
        }
    }
    if !sample.masked.is_empty() {
        output.line(&format!("masked: {}", sample.masked.join(", ")));
    }
    sample.notes.iter().for_each(|note| output.line(&output.paint(note, Tone::Busy)));
    Ok(())
}

pub(crate) async fn resync(
    socket: &Path,
    name: Option<&str>,
    runs: Vec<String>,
    accept_damage: bool,
    output: &Output,
) -> anyhow::Result<()> {
    let Some(name) = name else {
        let out: ResyncMissingOut =
            get::<catalog::method::ResyncMissing>(socket, &RealmIn::default()).await?;
        if output.json() {
            output.print_json(&out);
        } else {
            if out.resynced.is_empty() && out.failed.is_empty() {
                output.line("every dataset has its manifest and its objects");
            }
            let rows = |d: &PublishedDataset| counted(d.rows, "row", "rows");
            let back = |d: &PublishedDataset| {
                format!("{} rebuilt: generation {}, {}", d.name, d.generation, rows(d))
            };
            out.resynced.iter().for_each(|d| output.line(&back(d)));
            out.failed.iter().for_each(|d| {
                output.line(&output.paint(&format!("{}: {}", d.name, d.reason), Tone::Bad));
            });
        }
        return match out.failed.len() {
            0 => Ok(()),
            failed => {
                let are = counted(failed as u64, "dataset is", "datasets are");
                Err(Unsound(format!("{are} not whole")).into())
            }
        };
    };
    let runs = Some(runs).filter(|runs| !runs.is_empty());
    let ask = ResyncIn {
        name: name.to_owned(),
        mock: None,
        runs,
        accept_damage: accept_damage.then_some(true),
    };
    let out: ResyncOut = get::<catalog::method::Resync>(socket, &ask).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    let what = if out.changed { "published again" } else { "its manifest was right" };
    output.line(&format!(
        "{name} generation {}: {}, {what}",
        out.generation,
        counted(out.rows, "row", "rows")
    ));
    out.notes.iter().for_each(|note| output.line(&format!("  {note}")));
    Ok(())
}

pub(crate) async fn lineage(
    socket: &Path,
    dataset: String,
    limit: u64,
    output: &Output,
) -> anyhow::Result<()> {
    let ask = LineageIn { name: dataset.clone(), limit: Some(limit), mock: None };
    let out: LineageOut = get::<catalog::method::Lineage>(socket, &ask).await?;
    if out.events.is_empty() && limit > 0 {
        return Err(NotFound(format!(
            "dataset `{dataset}` has no runs in the lineage; `brahman datasets` lists the datasets"
        ))
        .into());
    }
    if output.json() {
        out.events.iter().for_each(|event| output.line(&event.to_string()));
        return Ok(());
    }
    let text = |event: &serde_json::Value, pointer: &str| {
        let value = event.pointer(pointer);
        value.map_or_else(String::new, |v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
    };
    let rows = out.events.iter().map(|event| {
        let inputs = event["inputs"].as_array().into_iter().flatten();
        let inputs: Vec<String> =
            inputs.map(|i| format!("{} {}", text(i, "/namespace"), text(i, "/name"))).collect();
        let why = text(event, "/run/facets/errorMessage/message");
        vec![
            text(event, "/eventTime"),
            text(event, "/eventType"),
            text(event, "/outputs/0/facets/version/datasetVersion"),
            text(event, "/outputs/0/outputFacets/outputStatistics/rowCount"),
            ulid_of(&text(event, "/run/runId")).unwrap_or_default(),
            text(event, "/run/runId"),
            if why.is_empty() { inputs.join(", ") } else { why },
        ]
    });
    let heads = ["TIME", "EVENT", "GENERATION", "ROWS", "RUN", "UUID", "FROM / WHY"];
    output.table(&heads, rows.collect());
    Ok(())
}

/// A run's id as `runs` and `datasets show` have it, of the same 128 bits that OpenLineage has as a
/// UUID; none of what is no UUID.
fn ulid_of(uuid: &str) -> Option<String> {
    /// Crockford's base 32.
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let hex: String = uuid.chars().filter(|c| *c != '-').collect();
    let bits = u128::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == 32)?;
    let digit = |place: u32| {
        let value = usize::try_from((bits >> (5 * place)) & 31).unwrap_or(0);
        char::from(DIGITS[value])
    };
    Some((0..26).rev().map(digit).collect())
}

#[cfg(test)]
mod tests;
