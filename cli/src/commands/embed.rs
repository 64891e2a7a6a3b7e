//! Embedding texts and files.

use std::path::Path;

use brahman_card::interface::embed::{EmbedFileIn, EmbedTextIn, method};
use brahman_sidecar::CallOptions;

use super::{STANDARD, StdinFile, absolute, ask, is_standard, stdin_text};
use crate::Embed;
use crate::failure::BadInput;
use crate::output::{Output, Tone, shortened};

/// Widest beginning of a text that is shown beside its vector.
const TEXT_COLUMNS: usize = 60;

pub(crate) async fn embed(socket: &Path, embed: &Embed, output: &Output) -> anyhow::Result<()> {
    let options = CallOptions { context: embed.context.clone(), ..CallOptions::default() };
    if let Some(file) = &embed.file {
        let stdin = is_standard(file).then(StdinFile::read).transpose()?;
        let path = absolute(&stdin.as_ref().map_or_else(|| file.clone(), StdinFile::path))?;
        let truncate = embed.truncate.then_some(true);
        let (out, provider) = ask::<method::EmbedFile>(socket, &EmbedFileIn { path, truncate }, &options).await?;
        if output.json() {
            output.print_json(&out);
        } else {
            output.line(&format!("{}  {}", head(&out.vector), file.display()));
            let cut = if out.bytes_seen < out.bytes_total {
                format!(", first {} of {} bytes", out.bytes_seen, out.bytes_total)
            } else {
                String::new()
            };
            let truncated = out.truncated.map(|t| format!(", {} of {} tokens", t.kept, t.tokens)).unwrap_or_default();
            summary(
                output,
                &out.model,
                out.dim,
                provider.as_deref(),
                &out.device,
                &format!("{}{cut}{truncated}", if out.cached { "cached" } else { "computed" }),
                out.elapsed_us,
            );
            warn(output, out.warnings.as_deref());
        }
        return Ok(());
    }
    let stdin = embed.stdin || embed.texts.iter().any(|text| text == STANDARD);
    let lines: Vec<String> = if stdin { stdin_text()?.lines().map(str::to_owned).collect() } else { Vec::new() };
    let texts: Vec<String> = if embed.stdin {
        lines
    } else {
        let each = |text: &String| if text == STANDARD { lines.clone() } else { vec![text.clone()] };
        embed.texts.iter().flat_map(each).collect()
    };
    if texts.is_empty() {
        return Err(BadInput("nothing to embed: expected TEXT… (- for standard input) or --file F".into()).into());
    }
    let parameters = EmbedTextIn { texts, truncate: embed.truncate.then_some(true) };
    let (out, provider) = ask::<method::EmbedText>(socket, &parameters, &options).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    for (vector, text) in out.vectors.iter().zip(&parameters.texts) {
        output.line(&format!("{}  {}", head(vector), output.paint(&shortened(text, TEXT_COLUMNS), Tone::Faint)));
    }
    let how = format!("{} of {} cached", out.cached, out.vectors.len());
    summary(output, &out.model, out.dim, provider.as_deref(), &out.device, &how, out.elapsed_us);
    for t in &out.truncated {
        output.note(&format!("text {}: the first {} of {} tokens were embedded", t.index, t.kept, t.tokens));
    }
    warn(output, out.warnings.as_deref());
    Ok(())
}

fn head(vector: &[f32]) -> String {
    let numbers: Vec<String> = vector.iter().take(4).map(|x| format!("{x:+.3}")).collect();
    format!("[{} …]", numbers.join(" "))
}

fn summary(output: &Output, model: &str, dim: u64, provider: Option<&str>, device: &str, how: &str, us: u64) {
    output.line(&format!("{model}, {dim} dimensions, by {} on {device}, {how}, {:.1} ms", provider.unwrap_or("?"), us as f64 / 1e3));
}

fn warn(output: &Output, warnings: Option<&[String]>) {
    for warning in warnings.unwrap_or_default() {
        output.note(&format!("warning: {warning}"));
    }
}
