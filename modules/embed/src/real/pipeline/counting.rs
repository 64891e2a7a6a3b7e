//! Counting the tokens of many texts at once: whoever cuts documents by them waits for each answer.

use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::embed::TextTokens;

use super::super::text::TextReader;
use super::untokenisable;

/// Texts that one thread counts at least: fewer take less time than handing them over.
const EACH_MIN: usize = 32;

/// The tokens of each text, in order, counted side by side on so many threads; with `offsets` also
/// where they lie.
pub(super) async fn counted(
    reader: &Arc<TextReader>,
    texts: Vec<String>,
    prompt: &Arc<str>,
    offsets: bool,
    threads: usize,
) -> Result<Vec<TextTokens>, Fault> {
    let all = texts.len();
    let each = all.div_ceil(threads.max(1)).max(EACH_MIN);
    let (mut texts, mut parts) = (texts.into_iter(), Vec::new());
    loop {
        let part: Vec<String> = texts.by_ref().take(each).collect();
        if part.is_empty() {
            break;
        }
        let (reader, prompt) = (Arc::clone(reader), Arc::clone(prompt));
        // It begins now, and not when it is waited for.
        parts.push(brahman_sidecar::blocking(move || {
            part.iter()
                .map(|text| count(&reader, text, &prompt, offsets))
                .collect::<Result<Vec<TextTokens>, Fault>>()
        }));
    }
    let mut out = Vec::with_capacity(all);
    for part in parts {
        let counted = part.await.map_err(|e| Fault::internal(format!("a worker stopped: {e}")))?;
        out.extend(counted?);
    }
    Ok(out)
}

fn count(
    reader: &TextReader,
    text: &str,
    prompt: &str,
    offsets: bool,
) -> Result<TextTokens, Fault> {
    let ids = reader.ids(&reader.prepared(prompt, text)).map_err(|e| untokenisable("texts", &e))?;
    let spans = if offsets {
        reader.spans(prompt, text).map_err(|e| untokenisable("texts", &e))?
    } else {
        None
    };
    let (starts, ends) = spans
        .map(|spans| spans.into_iter().map(|(from, to)| (from as u64, to as u64)).unzip())
        .unzip();
    Ok(TextTokens {
        tokens: ids.tokens.into(),
        kept: ids.ids.len() as u64,
        at_least: ids.is_least.then_some(true),
        unknown: ids.unknown.into(),
        starts,
        ends,
    })
}
