//! Embedding texts and files.

use std::io::BufRead as _;
use std::path::Path;

use brahman_card::interface::embed::{EmbedFileIn, EmbedTextIn, method};
use brahman_sidecar::CallOptions;

use super::ask;
use crate::Embed;
use crate::failure::BadInput;
use crate::output::{Output, Tone};

pub(crate) async fn embed(socket: &Path, embed: &Embed, output: &Output) -> anyhow::Result<()> {
    let options = CallOptions { context: embed.context.clone(), ..CallOptions::default() };
    if let Some(file) = &embed.file {
        let path = std::path::absolute(file)?.display().to_string();
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
    let texts = if embed.stdin { stdin_lines()? } else { embed.texts.clone() };
    if texts.is_empty() {
        return Err(BadInput("nothing to embed: expected TEXT…, --file F or --stdin".into()).into());
    }
    let parameters = EmbedTextIn { texts, truncate: embed.truncate.then_some(true) };
    let (out, provider) = ask::<method::EmbedText>(socket, &parameters, &options).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    for (vector, text) in out.vectors.iter().zip(&parameters.texts) {
        let short: String = text.chars().take(60).collect();
        output.line(&format!("{}  {}", head(vector), output.paint(&short, Tone::Faint)));
    }
    let how = format!("{} of {} cached", out.cached, out.vectors.len());
    summary(output, &out.model, out.dim, provider.as_deref(), &out.device, &how, out.elapsed_us);
    for t in &out.truncated {
        output.note(&format!("text {}: the first {} of {} tokens were embedded", t.index, t.kept, t.tokens));
    }
    warn(output, out.warnings.as_deref());
    Ok(())
}

fn stdin_lines() -> anyhow::Result<Vec<String>> {
    let lines: Result<Vec<_>, _> = std::io::stdin().lock().lines().collect();
    lines.map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => BadInput("standard input is not UTF-8: expected one text per line".into()).into(),
        _ => anyhow::Error::from(e),
    })
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
