//! `brahman search`: a query in words, and hits as a person reads them.

use std::path::Path;

use brahman_card::interface::index::{
    Hit, Passage, RerankReport, RerankStep, SearchIn, SearchOut, method,
};

use super::super::text_or_stdin;
use super::{Search, made_up, show};
use crate::output::{Output, Tone, counted, one_line, shortened};

/// Widest beginning of a hit's text that is shown.
const TEXT_COLUMNS: usize = 160;

pub(super) fn print_hit(output: &Output, hit: &Hit, score: Option<f32>) {
    let place = output.paint(&format!("{}:{}", hit.doc_id, hit.line), Tone::Strong);
    let heading =
        hit.heading.as_ref().map(|heading| format!("  {}", one_line(heading))).unwrap_or_default();
    output.line(&score.map_or_else(
        || format!("{place}{heading}"),
        |score| format!("{score:.3}  {place}{heading}"),
    ));
    let text = match &hit.passage {
        Some(passage) => marked(output, passage),
        None => {
            let text = hit.text.split_whitespace().collect::<Vec<_>>().join(" ");
            output.paint(&shortened(&text, TEXT_COLUMNS), Tone::Faint)
        }
    };
    output.line(&format!("       {text}"));
}

/// A passage on one line, its words marked.
fn marked(output: &Output, passage: &Passage) -> String {
    let plain =
        |text: &str| output.paint(&one_line(&text.replace(['\n', '\r', '\t'], " ")), Tone::Faint);
    let (mut out, mut at) = (String::new(), 0);
    for mark in &passage.marks {
        let place = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        // What is no place in it is not marked.
        let (start, end) = (place(mark.start), place(mark.end));
        let (Some(before), Some(word)) =
            (passage.text.get(at..start), passage.text.get(start..end))
        else {
            continue;
        };
        out.push_str(&plain(before));
        out.push_str(&output.paint(&one_line(word), Tone::Strong));
        at = end;
    }
    out + &plain(passage.text.get(at..).unwrap_or_default())
}

pub(crate) async fn search(socket: &Path, search: Search, output: &Output) -> anyhow::Result<()> {
    let mode = match search {
        Search { hybrid: true, .. } => "hybrid",
        Search { lexical: true, .. } => "lexical",
        _ => "semantic",
    };
    let model = search.rerank_model;
    let rerank = search.rerank.map(|candidates| RerankStep {
        model,
        // Never fewer than are printed.
        candidates: Some(candidates.max(search.k)),
        optional: search.rerank_optional.then_some(true),
    });
    let ask = SearchIn {
        rerank,
        index: search.index,
        text: Some(text_or_stdin(search.query)?),
        k: Some(search.k),
        ef: search.ef,
        filter: search.filter,
        mode: Some(mode.into()),
        exact: search.exact.then_some(true),
        fusion: search.fusion.choice(),
        literal: search.literal.then_some(true),
        per_document: search.per_document,
        passages: (!output.json()).then_some(true),
        model: search.model,
        ..SearchIn::default()
    };
    show::<method::Search>(socket, &ask, output, |out: &SearchOut| found(output, out)).await
}

fn quoted(parts: &[String]) -> String {
    parts.iter().map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join(" and ")
}

pub(super) fn found(output: &Output, out: &SearchOut) {
    out.results.iter().flatten().for_each(|hit| print_hit(output, hit, Some(hit.score)));
    let stale = if out.stale { ", stale: the dataset has changed since" } else { "" };
    let fused = out
        .fusion
        .as_ref()
        .map(|fusion| format!(" ({}, {:.2} meaning)", fusion.method, fusion.weight))
        .unwrap_or_default();
    // Of few chunks nothing was measured, and there is nothing to say.
    let wide = out
        .ef
        .zip(out.recall)
        .map(|(ef, recall)| format!(" (ef {ef}, recall {recall:.3})"))
        .unwrap_or_default();
    let by = out.provider.as_ref().map(|p| format!(", query embedded by {p}")).unwrap_or_default();
    // By words alone, before anything is embedded, there is none.
    let model = if out.model.is_empty() { String::new() } else { format!(", {}", out.model) };
    let ms = |us: u64| us as f64 / 1e3;
    output.line(&output.paint(
        &format!(
            "generation {}, {}{fused} {}{wide}{model}{by}, {:.1} ms ({:.1} to embed, {:.1} to search){stale}",
            out.generation,
            out.mode,
            out.engine,
            ms(out.elapsed_us.total),
            ms(out.elapsed_us.embed),
            ms(out.elapsed_us.search)
        ),
        Tone::Faint,
    ));
    if let Some(phrases) = &out.phrases {
        output.note(&format!("every hit has {}", quoted(phrases)));
    }
    if let Some(without) = &out.without {
        output.note(&format!("no hit has {}; --literal takes the minus as text", quoted(without)));
    }
    if let Some(words) = out.words_left_out {
        let words = counted(words, "word", "words");
        output.note(&format!(
            "{words} at the end of the query left out of the search: it is too long to be searched for by words as a whole"
        ));
    }
    if let Some(report) = &out.reranked {
        reranked(output, report, out.elapsed_us.rerank.unwrap_or(0));
    }
    if let Some(why) = &out.degraded {
        output.note(&format!("damaged: {why}"));
    }
    if out.dataset_gone == Some(true) {
        output.note("the dataset was deleted or renamed: nothing refreshes the index any more");
    }
    if out.rescue {
        output.note("files of the index were damaged or gone, and came back from bucket rescue");
    }
    if out.partial == Some(true) {
        let far = match (out.read, out.to_read) {
            (Some(read), Some(of)) => format!("{read} of {of} documents are read"),
            _ => {
                let (done, of) = (out.embedded.unwrap_or(0), out.to_embed.unwrap_or(0));
                format!("{done} of {of} chunks are embedded")
            }
        };
        output.note(&format!("partial: the index's first refresh is running, {far}"));
    }
    if out.truncated == Some(true) {
        output
            .note("the query was longer than the model's window: only its beginning was embedded");
    }
    made_up(out.mock, output);
}

pub(super) fn reranked(output: &Output, report: &RerankReport, us: u64) {
    if !report.done {
        let why = report.message.as_deref().unwrap_or("no reason was given");
        output.note(&format!("not reranked, the order is the search's own: {why}"));
        return;
    }
    let by = report.provider.as_deref().unwrap_or("?");
    let model = report.model.as_deref().unwrap_or("?");
    let hits = counted(report.candidates, "hit", "hits");
    let line = format!("reranked {hits} by {model} ({by}), {:.1} ms", us as f64 / 1e3);
    output.line(&output.paint(&line, Tone::Faint));
    if report.truncated > 0 {
        output.note(&format!(
            "{} of the hits were longer than the reranker's window: only a part was read",
            report.truncated
        ));
    }
    for hit in report.failed.iter().flatten() {
        output.note(&format!(
            "left out, because the reranker has no score for it: {}, chunk {}: {}",
            hit.doc_id, hit.chunk, hit.message
        ));
    }
    if report.mock == Some(true) {
        output.note("the reranker's scores are synthetic, made by a mock");
    }
}
