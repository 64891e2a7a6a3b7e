//! Sources to datasets to indexes to answers.

use std::path::{Path, PathBuf};

use brahman_card::interface::Empty;
use brahman_card::interface::catalog::{self, GetOut};
use brahman_card::interface::index::{self as ix, CreateIn, CreateOut, DeleteOut, Description, RefreshOut, SearchIn, SearchOut, StatsOut};
use brahman_card::interface::ingest::{FilesIn, FilesOut};

use super::{get, stream};
use crate::Index;
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

pub(crate) async fn index(socket: &Path, index: Index, output: &Output) -> anyhow::Result<()> {
    match index {
        Index::Create { name, dataset, id_column, text_column, chunk_size, overlap } => {
            let ask = CreateIn { name: name.clone(), dataset, id_column, text_column, chunk_size, overlap };
            let out: CreateOut = get(socket, "org.brahman.Index.Create", &ask).await?;
            if output.json() {
                output.print_json(&out);
            } else {
                output.line(&if out.created {
                    format!("{name} created; `brahman index refresh {name}` fills it")
                } else {
                    format!("{name} is there already, with the same parameters")
                });
            }
        }
        Index::Refresh { name } => refresh(socket, &name, output).await?,
        Index::List => {
            let out: ix::ListOut = get(socket, "org.brahman.Index.List", &Empty {}).await?;
            if output.json() {
                output.print_json(&out);
            } else {
                describe(output, &out.indexes);
            }
        }
        Index::Stats { name } => {
            let out: StatsOut = get(socket, "org.brahman.Index.Stats", &ix::NameIn { name }).await?;
            if output.json() {
                output.print_json(&out);
            } else {
                describe(output, &[out.index]);
            }
        }
        Index::Delete { name } => {
            let out: DeleteOut = get(socket, "org.brahman.Index.Delete", &ix::NameIn { name: name.clone() }).await?;
            if output.json() {
                output.print_json(&out);
            } else {
                output.line(&format!("{name} {}", if out.deleted { "deleted" } else { "was not there" }));
            }
        }
    }
    Ok(())
}

fn describe(output: &Output, indexes: &[Description]) {
    let rows = indexes.iter().map(|i| {
        let stale = if i.stale { output.paint("stale", Tone::Busy) } else { output.paint("fresh", Tone::Good) };
        let model = i.model.clone().unwrap_or_else(|| "-".into());
        vec![
            i.name.clone(),
            i.dataset.clone(),
            i.generation.to_string(),
            i.docs.to_string(),
            i.chunks.to_string(),
            bytes(i.bytes),
            model,
            stale,
        ]
    });
    output.table(&["INDEX", "DATASET", "GENERATION", "DOCS", "CHUNKS", "SIZE", "MODEL", "STATE"], rows.collect());
}

async fn refresh(socket: &Path, name: &str, output: &Output) -> anyhow::Result<()> {
    let bar = output.count_bar("reading", 0);
    let out: RefreshOut = stream(socket, "org.brahman.Index.Refresh", &ix::NameIn { name: name.to_owned() }, |p: &RefreshOut| {
        bar.set_length(p.of);
        bar.set_position(p.done);
        bar.set_message(p.phase.clone());
    })
    .await?;
    bar.finish_and_clear();
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    let n = |v: Option<u64>| v.unwrap_or(0);
    output.line(&format!(
        "{name} generation {}: {} documents, {} new, {} changed, {} removed; {} chunks, {} embedded ({} from the cache) by {} in {}",
        n(out.generation),
        n(out.dataset_docs),
        n(out.new_docs),
        n(out.changed_docs),
        n(out.removed_docs),
        n(out.total),
        n(out.new_chunks),
        n(out.cached),
        out.model.as_deref().unwrap_or("?"),
        duration(out.duration_s.unwrap_or(0.0)),
    ));
    if n(out.truncated) > 0 {
        output.line(&format!(
            "{} chunks were longer than the model's window and were cut; a smaller --chunk-size avoids that",
            n(out.truncated)
        ));
    }
    if out.stale_cleared == Some(false) {
        output.line("the dataset has moved on meanwhile: the index is still marked stale");
    }
    Ok(())
}

pub(crate) async fn search(socket: &Path, index: &str, query: &str, k: u64, output: &Output) -> anyhow::Result<()> {
    let ask = SearchIn { index: index.to_owned(), text: Some(query.to_owned()), k: Some(k), ..SearchIn::default() };
    let out: SearchOut = get(socket, "org.brahman.Index.Search", &ask).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    for hit in out.results.iter().flatten() {
        let place = output.paint(&format!("{}:{}", hit.doc_id, hit.line), Tone::Strong);
        output.line(&format!("{:.3}  {place}", hit.score));
        let text: String = hit.text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect();
        output.line(&format!("       {}", output.paint(&text, Tone::Faint)));
    }
    let stale = if out.stale { ", stale: the dataset has moved on" } else { "" };
    let by = out.provider.map(|p| format!(", query embedded by {p}")).unwrap_or_default();
    let ms = |us: u64| us as f64 / 1e3;
    output.line(&output.paint(
        &format!(
            "generation {}, {} search, {}{by}, {:.1} ms ({:.1} to embed, {:.1} to search){stale}",
            out.generation,
            out.engine,
            out.model,
            ms(out.elapsed_us.total),
            ms(out.elapsed_us.embed),
            ms(out.elapsed_us.search)
        ),
        Tone::Faint,
    ));
    if out.truncated == Some(true) {
        output.note("the query was longer than the model's window: only its beginning was embedded");
    }
    Ok(())
}
