//! Embedding texts and files.

use std::path::{Path, PathBuf};

use brahman_card::interface::embed::{
    EmbedFileIn, EmbedTextIn, EmbedTextOut, FailedText, Truncation, UnknownTokens, method,
};
use brahman_sidecar::CallOptions;
use clap::Args;

use super::{STANDARD, StdinFile, absolute, ask, is_standard, stdin_text};
use crate::failure::BadInput;
use crate::output::{Output, Tone, counted, shortened};

/// Widest beginning of a text that is shown beside its vector.
const TEXT_COLUMNS: usize = 60;

/// Texts that are sent at once: their vectors fit a reply, and somebody who waits sees them soon.
const TEXTS_AT_ONCE: usize = 512;
/// Bytes of texts that are sent at once: well below what a message holds, escapes counted.
const BYTES_AT_ONCE: usize = 2 << 20;

#[derive(Args, Debug)]
pub(crate) struct Embed {
    /// Texts; - stands for those on standard input, one per line
    texts: Vec<String>,
    /// Embed the first 8 KiB of this file; - reads standard input
    #[arg(long, short, conflicts_with_all = ["texts", "stdin"])]
    file: Option<PathBuf>,
    /// The same as -: read texts from standard input, one per line
    #[arg(long, conflicts_with = "texts")]
    stdin: bool,
    /// Truncate texts longer than the model's window instead of refusing them
    #[arg(long)]
    truncate: bool,
    /// What the texts are for: query or document; chooses the model's own prompt
    #[arg(long)]
    role: Option<String>,
    /// Put these words before each text
    #[arg(long, conflicts_with = "prompt_name")]
    prompt: Option<String>,
    /// Put one of the model's prompts before each text, by its name
    #[arg(long, value_name = "NAME")]
    prompt_name: Option<String>,
    /// Cut vectors to their first N numbers, of a model that was trained for it
    #[arg(long, value_name = "N")]
    dimensions: Option<u64>,
    /// Model that must embed
    #[arg(long)]
    model: Option<String>,
    /// Context for this call only
    #[arg(long)]
    context: Option<String>,
}

pub(crate) async fn embed(socket: &Path, embed: &Embed, output: &Output) -> anyhow::Result<()> {
    let require = embed.model.iter().map(|model| ("model".to_owned(), model.clone())).collect();
    let options = CallOptions { context: embed.context.clone(), require, ..CallOptions::default() };
    if let Some(file) = &embed.file {
        let stdin = is_standard(file).then(StdinFile::read).transpose()?;
        let path = absolute(&stdin.as_ref().map_or_else(|| file.clone(), StdinFile::path))?;
        let parameters = EmbedFileIn {
            path,
            truncate: embed.truncate.then_some(true),
            role: embed.role.clone(),
            prompt_name: embed.prompt_name.clone(),
            prompt: embed.prompt.clone(),
            dimensions: embed.dimensions,
        };
        let (out, provider) = ask::<method::EmbedFile>(socket, &parameters, &options).await?;
        if output.json() {
            output.print_json(&out);
        } else {
            output.line(&format!("{}  {}", head(&out.vector), file.display()));
            let cut = if out.bytes_seen < out.bytes_total {
                format!(", first {} of {} bytes", out.bytes_seen, out.bytes_total)
            } else {
                String::new()
            };
            let truncated = out
                .truncated
                .map(|t| format!(", {} of {}{} tokens", t.kept, least(&t), t.tokens))
                .unwrap_or_default();
            summary(
                output,
                &out.model,
                out.dim,
                provider.as_deref(),
                &out.device,
                &format!("{}{cut}{truncated}", if out.cached { "cached" } else { "computed" }),
                out.elapsed_us,
            );
            prompted(output, out.prompt.as_deref());
            warn(output, out.warnings.as_deref());
        }
        return Ok(());
    }
    let stdin = embed.stdin || embed.texts.iter().any(|text| text == STANDARD);
    let lines: Vec<String> =
        if stdin { stdin_text()?.lines().map(str::to_owned).collect() } else { Vec::new() };
    let texts: Vec<String> = if embed.stdin {
        lines
    } else {
        let each =
            |text: &String| if text == STANDARD { lines.clone() } else { vec![text.clone()] };
        embed.texts.iter().flat_map(each).collect()
    };
    if texts.is_empty() {
        return Err(BadInput(
            "nothing to embed: expected TEXT… (- for standard input) or --file F".into(),
        )
        .into());
    }
    let mut whole: Option<(EmbedTextOut, Option<String>)> = None;
    for (from, part) in parts(&texts) {
        let parameters = EmbedTextIn {
            texts: part.to_vec(),
            truncate: embed.truncate.then_some(true),
            role: embed.role.clone(),
            prompt_name: embed.prompt_name.clone(),
            prompt: embed.prompt.clone(),
            dimensions: embed.dimensions,
            partial: None,
        };
        let (out, provider) = ask::<method::EmbedText>(socket, &parameters, &options).await?;
        match &mut whole {
            None => whole = Some((out, provider)),
            Some((so_far, _)) if so_far.fingerprint != out.fingerprint => {
                anyhow::bail!(
                    "the model changed from {} to {} while {} embedded: try again",
                    so_far.model,
                    out.model,
                    counted(texts.len() as u64, "text was", "texts were")
                );
            }
            Some((so_far, _)) => append(so_far, out, from as u64),
        }
    }
    let Some((out, provider)) = whole else { return Ok(()) };
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    for (vector, text) in out.vectors.iter().zip(&texts) {
        output.line(&format!(
            "{}  {}",
            head(vector),
            output.paint(&shortened(text, TEXT_COLUMNS), Tone::Faint)
        ));
    }
    let how = format!("{} of {} cached", out.cached, out.vectors.len());
    summary(output, &out.model, out.dim, provider.as_deref(), &out.device, &how, out.elapsed_us);
    prompted(output, out.prompt.as_deref());
    for t in &out.truncated {
        output.note(&format!(
            "text {}: {} of {}{} tokens were embedded",
            t.index,
            t.kept,
            least(t),
            t.tokens
        ));
    }
    for one in out.unknown.iter().flatten() {
        let unknown = counted(one.unknown, "token is", "tokens are");
        output.note(&format!("text {}: {unknown} unknown to the model", one.index));
    }
    warn(output, out.warnings.as_deref());
    Ok(())
}

/// Texts in parts that fit a call, each with the place of its first.
fn parts(texts: &[String]) -> Vec<(usize, &[String])> {
    let (mut parts, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (at, text) in texts.iter().enumerate() {
        if at > from && (at - from >= TEXTS_AT_ONCE || bytes + text.len() > BYTES_AT_ONCE) {
            parts.push((from, &texts[from..at]));
            (from, bytes) = (at, 0);
        }
        bytes += text.len();
    }
    parts.push((from, &texts[from..]));
    parts
}

/// Puts the answer for texts from `from` on behind the answers so far.
fn append(so_far: &mut EmbedTextOut, out: EmbedTextOut, from: u64) {
    // Each field by its name: a new one is to be thought of here, too.
    let EmbedTextOut {
        vectors,
        cached,
        truncated,
        elapsed_us,
        warnings,
        unknown,
        failed,
        // Of the model, and the same in every part.
        model: _,
        dim: _,
        device: _,
        fingerprint: _,
        mock: _,
        prompt: _,
        precision: _,
        normalized: _,
    } = out;
    so_far.vectors.extend(vectors);
    so_far.cached += cached;
    so_far.elapsed_us += elapsed_us;
    so_far
        .truncated
        .extend(truncated.into_iter().map(|t| Truncation { index: t.index + from, ..t }));
    for one in unknown.into_iter().flatten() {
        so_far
            .unknown
            .get_or_insert_default()
            .push(UnknownTokens { index: one.index + from, ..one });
    }
    for one in failed.into_iter().flatten() {
        so_far.failed.get_or_insert_default().push(FailedText { index: one.index + from, ..one });
    }
    for warning in warnings.into_iter().flatten() {
        let warnings = so_far.warnings.get_or_insert_default();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
}

fn least(truncation: &Truncation) -> &'static str {
    if truncation.at_least == Some(true) { "at least " } else { "" }
}

fn prompted(output: &Output, prompt: Option<&str>) {
    if let Some(prompt) = prompt {
        output.line(&format!("prompt {prompt:?}"));
    }
}

fn head(vector: &[f32]) -> String {
    let numbers: Vec<String> = vector.iter().take(4).map(|x| format!("{x:+.3}")).collect();
    format!("[{} …]", numbers.join(" "))
}

fn summary(
    output: &Output,
    model: &str,
    dim: u64,
    provider: Option<&str>,
    device: &str,
    how: &str,
    us: u64,
) {
    output.line(&format!(
        "{model}, {dim} dimensions, by {} on {device}, {how}, {:.1} ms",
        provider.unwrap_or("?"),
        us as f64 / 1e3
    ));
}

fn warn(output: &Output, warnings: Option<&[String]>) {
    for warning in warnings.unwrap_or_default() {
        output.note(&format!("warning: {warning}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_texts_are_sent_in_parts_that_fit_and_answers_keep_their_places() {
        let texts: Vec<String> = (0..TEXTS_AT_ONCE + 1).map(|i| i.to_string()).collect();
        let sizes: Vec<(usize, usize)> =
            parts(&texts).iter().map(|(from, part)| (*from, part.len())).collect();
        assert_eq!(sizes, [(0, TEXTS_AT_ONCE), (TEXTS_AT_ONCE, 1)]);
        let long = vec!["x".repeat(BYTES_AT_ONCE); 3];
        assert_eq!(parts(&long).len(), 3, "one that is too long by itself is sent all the same");
        let truncated = |index| vec![Truncation { index, tokens: 9, kept: 5, at_least: None }];
        let mut whole = EmbedTextOut {
            vectors: vec![vec![1.0]; 2],
            truncated: truncated(1),
            ..EmbedTextOut::default()
        };
        let more = EmbedTextOut {
            vectors: vec![vec![2.0]],
            truncated: truncated(0),
            warnings: Some(vec!["w".into()]),
            ..EmbedTextOut::default()
        };
        append(&mut whole, more, 2);
        assert_eq!(
            (whole.vectors.len(), whole.truncated[1].index, whole.warnings),
            (3, 2, Some(vec!["w".to_owned()]))
        );
    }
}
