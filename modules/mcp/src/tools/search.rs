//! Passages that are found in indexes, and documents put together from their chunks.

use std::fmt::Write as _;

use brahman_card::interface::{Empty, index};
use brahman_card::wire::parameters;
use brahman_card::{Fault, counted};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{HITS, HITS_MAX, INDEXES_MAX, LINES_MAX, ToolOutput};
use crate::McpContext;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchArguments {
    query: String,
    pub(super) indexes: Option<Vec<String>>,
    k: Option<u64>,
    mode: Option<String>,
    pub(super) filter: Option<Value>,
    rerank: Option<bool>,
}

pub(super) async fn search(
    ask: SearchArguments,
    context: &McpContext,
) -> Result<ToolOutput, Fault> {
    parameters::has_words("query", &ask.query)?;
    let mut names: Vec<String> = match ask.indexes {
        Some(names) => each_once(within("indexes", names, INDEXES_MAX)?),
        None => context
            .ask::<index::method::List>(&Empty {})
            .await?
            .indexes
            .into_iter()
            .map(|index| index.name)
            .collect(),
    };
    let k = ask.k.unwrap_or(HITS).clamp(1, HITS_MAX);
    let (mut hits, mut notes): (Vec<(String, index::Hit)>, Vec<String>) = (Vec::new(), Vec::new());
    if names.len() > INDEXES_MAX {
        let more = (names.len() - INDEXES_MAX) as u64;
        let more = counted(more, "more index was", "more indexes were");
        notes.push(format!("{more} not searched: name those that matter"));
        names.truncate(INDEXES_MAX);
    }
    for name in &names {
        let request = index::SearchIn {
            index: name.clone(),
            text: Some(ask.query.clone()),
            k: Some(k),
            filter: ask.filter.clone(),
            mode: Some(ask.mode.clone().unwrap_or_else(|| "hybrid".to_owned())),
            rerank: ask.rerank.unwrap_or(false).then(|| index::RerankStep {
                optional: Some(true),
                ..index::RerankStep::default()
            }),
            ..index::SearchIn::default()
        };
        let out = match context.ask::<index::method::Search>(&request).await {
            Ok(out) => out,
            // One of several that cannot answer does not hide the others.
            Err(fault) if names.len() > 1 => {
                notes.push(format!("{name}: {fault}"));
                continue;
            }
            Err(fault) => return Err(fault),
        };
        notes.extend(remarks(name, &out));
        hits.extend(out.results.into_iter().flatten().map(|hit| (name.clone(), hit)));
    }
    // Each list has its order already; together they are ordered by what their scores say.
    hits.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));
    hits.truncate(usize::try_from(k).unwrap_or(usize::MAX));
    let mut text = String::new();
    if names.is_empty() {
        text.push_str("There are no indexes yet: `ingest` makes one.\n");
    } else if hits.is_empty() {
        text.push_str("Nothing was found.\n");
    }
    for (place, (name, hit)) in hits.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}. [{name}] {}:{} (score {:.3})",
            place + 1,
            hit.doc_id,
            hit.line,
            hit.score
        );
        if let Some(heading) = &hit.heading {
            let _ = writeln!(text, "   {heading}");
        }
        let _ = writeln!(text, "{}\n", hit.text);
    }
    for note in &notes {
        let _ = writeln!(text, "Note: {note}");
    }
    let data: Vec<Value> =
        hits.iter().map(|(name, hit)| json!({ "index": name, "doc_id": hit.doc_id, "line": hit.line, "score": hit.score })).collect();
    Ok(ToolOutput { text, data: json!({ "hits": data, "notes": notes }) })
}

/// A list that is no longer than it may be.
pub(super) fn within<T>(argument: &str, list: Vec<T>, most: usize) -> Result<Vec<T>, Fault> {
    if list.len() > most {
        return Err(Fault::invalid_parameter(
            argument,
            format!("{} of them, expected at most {most}", list.len()),
        ));
    }
    Ok(list)
}

/// Names in their order, without those that came before.
pub(super) fn each_once(names: Vec<String>) -> Vec<String> {
    let mut known = std::collections::BTreeSet::new();
    names.into_iter().filter(|name| known.insert(name.clone())).collect()
}

/// What a model should know of an index's answer.
pub(super) fn remarks(name: &str, out: &index::SearchOut) -> Vec<String> {
    let mut notes = Vec::new();
    if out.stale {
        notes.push(format!("{name} is behind its dataset"));
    }
    if out.dataset_gone == Some(true) {
        let why = "its dataset was deleted or renamed";
        notes.push(format!("{name} is not kept up to date any more: {why}"));
    }
    if out.partial == Some(true) {
        let (done, of, what) = match (out.read, out.to_read) {
            (Some(read), Some(of)) => (read, of, "documents"),
            _ => (out.embedded.unwrap_or(0), out.to_embed.unwrap_or(0), "passages"),
        };
        notes.push(format!("{name} is still being built: {done} of {of} {what} are in it"));
    }
    if out.mock == Some(true) {
        notes.push(format!(
            "the vectors of {name} were made up by a mock: what is near means nothing"
        ));
    }
    if out.truncated == Some(true) {
        notes.push("the query was longer than the model reads, and was cut".to_owned());
    }
    notes.extend(out.degraded.iter().map(|why| format!("{name}: {why}")));
    notes
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetArguments {
    pub(super) index: String,
    doc_id: String,
    from_line: Option<usize>,
    to_line: Option<usize>,
}

pub(super) async fn document(ask: GetArguments, context: &McpContext) -> Result<ToolOutput, Fault> {
    let request = index::GetIn { index: ask.index.clone(), doc_id: ask.doc_id.clone() };
    let out = context.ask::<index::method::Get>(&request).await?;
    let whole = joined(&out.chunks);
    let lines: Vec<&str> = whole.lines().collect();
    let from = ask.from_line.unwrap_or(1).max(1);
    let to =
        ask.to_line.unwrap_or(usize::MAX).min(from.saturating_add(LINES_MAX - 1)).min(lines.len());
    let shown: Vec<&str> =
        lines.iter().skip(from - 1).take((to + 1).saturating_sub(from)).copied().collect();
    let mut text = format!(
        "{} of {}, lines {from} to {to} of {}\n\n{}\n",
        ask.doc_id,
        ask.index,
        lines.len(),
        shown.join("\n")
    );
    if to < lines.len() && ask.to_line.is_none() {
        let _ = writeln!(text, "\nNote: there are more lines; say from_line {}.", to + 1);
    }
    let data = json!({ "doc_id": ask.doc_id, "from_line": from, "to_line": to, "lines": lines.len(), "text": shown.join("\n") });
    Ok(ToolOutput { text, data })
}

/// A document's text from its chunks, which may overlap; where one is missing a line is left empty.
pub(super) fn joined(chunks: &[index::Hit]) -> String {
    let mut ordered: Vec<&index::Hit> = chunks.iter().collect();
    ordered.sort_by_key(|chunk| (chunk.start, chunk.chunk));
    let (mut text, mut end) = (String::new(), 0_u64);
    for chunk in ordered {
        let known = usize::try_from(end.saturating_sub(chunk.start)).unwrap_or(usize::MAX);
        if chunk.start > end && !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        if chunk.end <= end && end > 0 {
            continue;
        }
        // A cut within a character is moved to its end: the rest of it stands there already.
        let from = (known..=chunk.text.len()).find(|at| chunk.text.is_char_boundary(*at));
        text.push_str(from.and_then(|from| chunk.text.get(from..)).unwrap_or_default());
        end = end.max(chunk.end);
    }
    text
}
