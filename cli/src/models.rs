//! `brahman models`: what a person sees of the models library. What is fetched, checked and converted there is only shown here.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use brahman_models::catalogue::{self, NAME};
use brahman_models::fetch::Progress;
use brahman_models::layout::{is_cross_encoder, is_language_model};
use brahman_models::{manifest, pull};
use indicatif::ProgressBar;

use crate::commands::sibling;
use crate::failure::BadInput;
use crate::output::Output;

/// `brahman models check`: the module itself tries the model, with the library and the device that it would use: the scorer a language
/// model, the reranker a cross-encoder, the embedder any other.
pub(crate) fn check(folder: &Path, output: &Output) -> anyhow::Result<()> {
    let program = if is_cross_encoder(folder) {
        "rerank-real"
    } else if is_language_model(folder) {
        "score-real"
    } else {
        "embed-real"
    };
    let program = sibling(program);
    let out = Command::new(&program)
        .arg("check")
        .arg(folder)
        .output()
        .with_context(|| format!("cannot start {}; it belongs beside `brahman` or in PATH", program.display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !out.status.success() {
        return Err(BadInput(text(&out.stderr)).into());
    }
    let found = text(&out.stdout);
    if output.json() {
        output.print_json(&serde_json::json!({ "path": folder, "usable": true, "found": found }));
    } else {
        output.line(&found);
    }
    Ok(())
}

/// `brahman models pull`
pub(crate) fn pull(cache: &Path, force: bool, output: &Output) -> anyhow::Result<()> {
    let mut bar: Option<ProgressBar> = None;
    let mut show = |progress: Progress<'_>| match progress {
        Progress::Begin { what, bytes: Some(length) } => bar = Some(output.bytes_bar(what, length)),
        Progress::Begin { what, bytes: None } => bar = Some(output.spinner(what)),
        Progress::At(bytes) => bar.iter().for_each(|bar| bar.set_position(bytes)),
        Progress::End => bar.take().iter().for_each(ProgressBar::finish_and_clear),
        Progress::Note(text) => output.note(text),
    };
    let library = pull::library(cache, force, &mut show)?;
    let model = pull::model(cache, force, &mut show)?;
    if output.json() {
        output.print_json(&serde_json::json!({ "library": library, "model": model }));
    } else {
        output.line(&format!("library  {}", library.display()));
        output.line(&format!("model    {}", model.display()));
    }
    Ok(())
}

/// `brahman models list`
pub(crate) fn list(cache: &Path, output: &Output) -> anyhow::Result<()> {
    let models = manifest::installed(cache);
    if output.json() {
        let models: Vec<_> = models
            .iter()
            .map(|m| {
                serde_json::json!({
                    "name": m.name, "path": m.path.display().to_string(), "sha256": m.sha256, "dim": m.dim, "max_tokens": m.max_tokens,
                })
            })
            .collect();
        output.print_json(&serde_json::json!({ "models": models }));
        return Ok(());
    }
    if models.is_empty() {
        output.line(&format!("no models in {}: `brahman models pull` fetches {NAME}", catalogue::models(cache).display()));
    }
    let rows = models.iter().map(|m| {
        let start = m.sha256[..12.min(m.sha256.len())].to_owned();
        vec![m.name.clone(), m.dim.to_string(), m.max_tokens.to_string(), start, m.path.display().to_string()]
    });
    output.table(&["MODEL", "DIM", "TOKENS", "SHA256", "PATH"], rows.collect());
    Ok(())
}
