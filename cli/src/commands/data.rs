//! Sources to datasets.

use std::path::{Path, PathBuf};

use brahman_card::interface::Empty;
use brahman_card::interface::catalog::{self, GetOut};
use brahman_card::interface::ingest::{FilesIn, FilesOut};

use super::{get, stream};
use crate::output::{Output, Tone, bytes, duration};

pub(crate) async fn ingest_files(
    socket: &Path,
    dataset: &str,
    paths: &[PathBuf],
    format: Option<String>,
    output: &Output,
) -> anyhow::Result<()> {
    let paths = paths.iter().map(|p| Ok(std::path::absolute(p)?.display().to_string())).collect::<std::io::Result<_>>()?;
    let bar = output.spinner("reading");
    let ask = FilesIn { dataset: dataset.to_owned(), paths, format };
    let out: FilesOut = stream(socket, "org.brahman.Ingest.Files", &ask, |p: &FilesOut| {
        bar.set_message(format!("{}: {} rows, {}, {:.0} rows/s", p.phase, p.rows, bytes(p.bytes), p.rows_per_s));
    })
    .await?;
    bar.finish_and_clear();
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    let generation = out.generation.unwrap_or(0);
    output.line(&format!(
        "{dataset} generation {generation}: {} rows from {} in {}",
        out.rows,
        bytes(out.bytes),
        duration(out.seconds.unwrap_or(0.0))
    ));
    for object in out.objects.iter().flatten() {
        output.line(&format!("  {} rows, {}  {}", object.rows, bytes(object.bytes), object.url));
    }
    let quarantined = out.quarantined.unwrap_or(0);
    if quarantined > 0 {
        output.line(&format!("{quarantined} left out:"));
        for q in out.quarantine.iter().flatten().take(10) {
            let row = q.row.map(|r| format!(" row {r}")).unwrap_or_default();
            output.line(&format!("  {}{row}: {}", q.source, q.reason));
        }
    }
    Ok(())
}

pub(crate) async fn datasets(socket: &Path, name: Option<&str>, output: &Output) -> anyhow::Result<()> {
    let Some(name) = name else {
        let out: catalog::ListOut = get(socket, "org.brahman.Catalog.List", &Empty {}).await?;
        if output.json() {
            output.print_json(&out);
            return Ok(());
        }
        let rows = out.datasets.iter().map(|d| {
            vec![
                d.name.clone(),
                d.generation.to_string(),
                d.rows.to_string(),
                bytes(d.bytes),
                d.columns.len().to_string(),
                d.stale.join(" "),
            ]
        });
        output.table(&["DATASET", "GENERATION", "ROWS", "SIZE", "COLUMNS", "STALE INDEXES"], rows.collect());
        return Ok(());
    };
    let out: GetOut = get(socket, "org.brahman.Catalog.Get", &catalog::NameIn { name: name.to_owned() }).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    let d = out.dataset;
    output.line(&format!("{} generation {}: {} rows, {}", output.paint(&d.name, Tone::Strong), d.generation, d.rows, bytes(d.bytes)));
    let rows = d.columns.iter().map(|c| vec![c.name.clone(), c.arrow_type.clone(), c.source_type.clone(), c.nulls_made.to_string()]);
    output.table(&["COLUMN", "TYPE", "SOURCE", "NULLS MADE"], rows.collect());
    d.objects.iter().for_each(|o| output.line(&o.url));
    Ok(())
}
