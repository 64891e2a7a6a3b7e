//! `brahman models`: what a person sees of the models library. What is fetched, checked and
//! converted there is only shown here.

mod cards;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use brahman_models::catalogue::{self, NAME};
use brahman_models::fetch::{Listener, Progress};
use brahman_models::hub::{
    HeldRepository, Hub, HubSettings, ModelRequest, Repository, RequestError,
};
use brahman_models::install::{self, BroughtModel, InstallOptions};
use brahman_models::layout::{is_cross_encoder, is_language_model};
use brahman_models::manifest::{InstalledModel, ModelKind};
use brahman_models::published::{self, PublishedModel};
use brahman_models::{cuda, manifest, pull};
use brahman_sidecar::place;
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::json;

use crate::commands::sibling;
use crate::failure::{BadInput, NotFound, Unsound};
use crate::output::{Output, bytes, counted};

#[derive(Subcommand, Debug)]
pub(crate) enum Models {
    /// List the models that can be pulled by name, or those of which each WORD is said
    Search {
        /// Words, such as bge, multilingual, reranker, int8
        words: Vec<String>,
    },
    /// Fetch a model and verify it; without NAME all-MiniLM-L6-v2 and ONNX Runtime
    Pull {
        /// NAME or NAME:VARIANT of those that `search` lists, or OWNER/NAME[@REVISION][:VARIANT], a
        /// repository of the Hugging Face hub
        #[arg(value_name = "NAME")]
        model: Option<String>,
        /// Name by which it is to be known here [default: its own]
        #[arg(long = "name", value_name = "NAME", requires = "model")]
        known_as: Option<String>,
        /// Fetch it again even if it is present, and at its newest revision
        #[arg(long)]
        force: bool,
        /// Quantise it afterwards, as `quantize` does: NAME-int8 is a model of its own, which
        /// --name calls otherwise
        #[arg(long, value_name = "PRECISION", value_parser = ["int8"])]
        precision: Option<String>,
        /// Fetch ONNX Runtime for NVIDIA GPUs instead, and look for CUDA's libraries
        #[arg(long, conflicts_with_all = ["model", "known_as", "precision"])]
        gpu: bool,
        /// Look for CUDA's libraries among the packages of this Python, too, as PyTorch brings them
        #[arg(long, value_name = "PYTHON", requires = "gpu")]
        python: Option<PathBuf>,
    },
    /// Make a model of 8 bits of one of 32, whose vectors do not depend on the texts beside them
    Quantize {
        /// A model in the cache; or a folder with a model's files
        #[arg(value_name = "NAME|DIR")]
        model: PathBuf,
        /// Name by which it is to be known [default: the other's with -int8 behind it]
        #[arg(long)]
        name: Option<String>,
        /// Make it again even if it is present, and replace a model of that name
        #[arg(long)]
        force: bool,
    },
    /// Copy a model's folder into the cache, so that it is known by name
    Add {
        /// Folder with the model's files
        folder: PathBuf,
        /// Name by which it is to be known [default: the folder's]
        #[arg(long)]
        name: Option<String>,
        /// Replace a model of that name
        #[arg(long)]
        force: bool,
    },
    /// List the models in the cache
    List {
        /// List those that can be pulled by name instead
        #[arg(long)]
        available: bool,
    },
    /// Remove a model from the cache
    Remove {
        /// Model
        name: String,
        /// Remove its repository from the hub's cache, too, which other programs share
        #[arg(long)]
        hub_cache: bool,
    },
    /// Check whether a model can be used, and say how: by embed-real, by rerank-real if it is a
    /// cross-encoder, or by score-real if it is a language model
    Check {
        /// Folder with the model's files, such as model.onnx, tokenizer.json and config.json; or a
        /// model in the cache
        #[arg(value_name = "DIR|NAME")]
        model: PathBuf,
    },
    /// Write a Card that serves a model beside the others; `brahman reload` starts it
    Enable(Enable),
    /// Remove the Cards that `enable` wrote for a model; `brahman reload` stops it
    Disable {
        /// Model, or the Card's label
        name: String,
        /// Folder of Cards
        #[arg(long, env = "BRAHMAN_CARDS")]
        cards: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Enable {
    /// Model in the cache
    #[arg(required_unless_present = "http")]
    name: Option<String>,
    /// Server that has the model instead, such as http://127.0.0.1:11434; it is asked by embed-http
    #[arg(
        long,
        value_name = "URL",
        requires = "kind",
        requires = "model",
        conflicts_with = "name"
    )]
    http: Option<String>,
    /// What the server speaks
    #[arg(long, value_parser = ["openai", "ollama", "tei"], requires = "http")]
    kind: Option<String>,
    /// The model's name on the server
    #[arg(long, value_name = "NAME", requires = "http")]
    model: Option<String>,
    /// Entry of the secrets file whose password the server wants as a key
    #[arg(long, value_name = "NAME", requires = "http")]
    secret: Option<String>,
    /// Label of the module [default: embed-NAME or rerank-NAME]
    #[arg(long)]
    label: Option<String>,
    /// Rank in context prod, above 1 before the default model: which model answers calls that name
    /// none
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i64,
    /// Folder of Cards
    #[arg(long, env = "BRAHMAN_CARDS")]
    cards: Option<PathBuf>,
}

pub(crate) fn run(command: Models, output: &Output) -> anyhow::Result<()> {
    let cache = place::cache_dir();
    match command {
        Models::Search { words } => search(&words, &cache, output),
        Models::Pull { gpu: true, python, force, .. } => {
            pull_gpu(&cache, python.as_deref(), force, output)
        }
        Models::Pull { model, known_as, force, precision: Some(_), .. } => {
            let folder = source_of(model.as_deref(), &cache, force, output)?;
            quantize(
                &folder,
                InstallOptions { cache: &cache, name: known_as.as_deref(), force },
                output,
            )
        }
        Models::Pull { model: None, force, .. } => pull_default(&cache, force, output),
        Models::Pull { model: Some(model), known_as, force, .. } => {
            pull_named(&model, known_as.as_deref(), &cache, force, output)
        }
        Models::Quantize { model, name, force } => {
            let folder = folder_of(&model, &cache)?;
            quantize(
                &folder,
                InstallOptions { cache: &cache, name: name.as_deref(), force },
                output,
            )
        }
        Models::Add { folder, name, force } => {
            let options = InstallOptions { cache: &cache, name: name.as_deref(), force };
            let added = told(output, |tell| install::add(&folder, options, tell))?;
            show(if added.is_new { "added" } else { "present" }, &added, output)
        }
        Models::List { available: true } => search(&[], &cache, output),
        Models::List { available: false } => list(&cache, output),
        Models::Remove { name, hub_cache } => remove(&name, hub_cache, &cache, output),
        Models::Check { model } => check(&model, &cache, output),
        Models::Enable(enable) => cards::enable(&enable, &cache, output),
        Models::Disable { name, cards } => cards::disable(&name, cards.as_deref(), output),
    }
}

/// Work that says how far it is, with its bars.
fn told<T>(output: &Output, work: impl FnOnce(&mut Listener<'_>) -> T) -> T {
    let mut bar: Option<ProgressBar> = None;
    let mut show = |progress: Progress<'_>| match progress {
        Progress::Begin { what, bytes: Some(length) } => bar = Some(output.bytes_bar(what, length)),
        Progress::Begin { what, bytes: None } => bar = Some(output.spinner(what)),
        Progress::At(bytes) => bar.iter().for_each(|bar| bar.set_position(bytes)),
        Progress::End => bar.take().iter().for_each(ProgressBar::finish_and_clear),
        Progress::Note(text) => output.note(text),
    };
    work(&mut show)
}

/// The folder that a person names, or that of the model in the cache that has the name.
fn folder_of(model: &Path, cache: &Path) -> anyhow::Result<PathBuf> {
    if model.exists() {
        return Ok(model.to_owned());
    }
    if model.components().count() > 1 {
        return Err(NotFound(format!(
            "{} does not exist: expected a model's folder, or a model in the cache",
            model.display()
        ))
        .into());
    }
    Ok(install::find(&model.to_string_lossy(), cache)?.0)
}

/// The module itself tries the model, with the library and the device that it would use.
fn check(model: &Path, cache: &Path, output: &Output) -> anyhow::Result<()> {
    let folder = folder_of(model, cache)?;
    let program = sibling(if install::is_reranker(&folder) || is_cross_encoder(&folder) {
        "rerank-real"
    } else if is_language_model(&folder) {
        "score-real"
    } else {
        "embed-real"
    });
    let out = Command::new(&program).arg("check").arg(&folder).output().with_context(|| {
        format!("cannot start {}; it belongs beside `brahman` or in PATH", program.display())
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !out.status.success() {
        return Err(BadInput(text(&out.stderr)).into());
    }
    let found = text(&out.stdout);
    if output.json() {
        output.print_json(&json!({ "path": folder, "usable": true, "found": found }));
    } else {
        output.text(&found);
    }
    Ok(())
}

/// Brings the library and the default model, and gives where they are.
fn bring_default(
    cache: &Path,
    force: bool,
    output: &Output,
) -> Result<(PathBuf, PathBuf), pull::PullError> {
    told(output, |tell| -> Result<_, pull::PullError> {
        let library = pull::library(cache, force, tell)?;
        Ok((library, pull::model(cache, force, tell)?))
    })
}

/// `brahman models pull`, with no name.
fn pull_default(cache: &Path, force: bool, output: &Output) -> anyhow::Result<()> {
    let (library, model) = bring_default(cache, force, output)?;
    if output.json() {
        output.print_json(&json!({ "library": library, "model": model }));
    } else {
        output.line(&format!("library  {}", library.display()));
        output.line(&format!("model    {}", model.display()));
    }
    Ok(())
}

/// `brahman models pull --gpu`. That CUDA's libraries are missing is an error: without them the
/// library for the CPU stays in use.
fn pull_gpu(
    cache: &Path,
    python: Option<&Path>,
    force: bool,
    output: &Output,
) -> anyhow::Result<()> {
    let pulled = told(output, |tell| pull::gpu_library(cache, python, force, tell))?;
    let missing: Vec<&str> = pulled.missing.iter().map(|library| library.name).collect();
    let mend = (!missing.is_empty()).then(|| cuda::pip_line(&pulled.missing));
    if output.json() {
        output.print_json(&json!({
            "library": pulled.library, "cuda": pulled.folders, "missing": missing, "mend": mend,
        }));
    } else {
        output.line(&format!("library  {}", pulled.library.display()));
        for folder in &pulled.folders {
            output.line(&format!("cuda     {}", folder.display()));
        }
    }
    let Some(mend) = mend else { return Ok(()) };
    let names = missing.join(", ");
    Err(Unsound(format!(
        "CUDA's libraries are missing ({names}): `{mend}`, then `brahman models pull --gpu --python` with that Python"
    ))
    .into())
}

fn pull_named(
    model: &str,
    known_as: Option<&str>,
    cache: &Path,
    force: bool,
    output: &Output,
) -> anyhow::Result<()> {
    // The default model is made of its weights and has its name for itself.
    if model.eq_ignore_ascii_case(NAME) && known_as.is_none() {
        return pull_default(cache, force, output);
    }
    let options = InstallOptions { cache, name: known_as, force };
    let brought = bring(model, options, output)?;
    let has_library = std::env::var_os("ORT_DYLIB_PATH").is_some_and(|path| !path.is_empty())
        || catalogue::library(cache).is_file();
    if !has_library {
        output.note(
            "ONNX Runtime, which runs models, is not here yet: `brahman models pull` fetches it",
        );
    }
    if brought.fetched > 0 {
        note_restarts(&brought.name, output);
    }
    show(if brought.fetched > 0 { "pulled" } else { "present" }, &brought, output)
}

/// Brings a model of the hub.
fn bring(
    model: &str,
    options: InstallOptions<'_>,
    output: &Output,
) -> anyhow::Result<BroughtModel> {
    let request: ModelRequest =
        model.parse().map_err(|error: RequestError| BadInput(error.to_string()))?;
    let hub = Hub::new(HubSettings::from_env(options.cache));
    Ok(told(output, |tell| install::pull(&request, &hub, options, tell))?)
}

/// Says which modules serve a model that has changed.
fn note_restarts(model: &str, output: &Output) {
    for card in cards::enabled(&place::cards::own_folder(None)) {
        if card.model == model {
            output.note(&format!("`brahman restart {}` serves what has come", card.label));
        }
    }
}

/// The folder of a model that is pulled to be quantised.
fn source_of(
    model: Option<&str>,
    cache: &Path,
    force: bool,
    output: &Output,
) -> anyhow::Result<PathBuf> {
    let Some(model) = model.filter(|model| !model.eq_ignore_ascii_case(NAME)) else {
        return Ok(bring_default(cache, force, output)?.1);
    };
    let brought = bring(model, InstallOptions { cache, name: None, force }, output)?;
    match brought.refusal {
        Some(why) => Err(Unsound(format!(
            "{} is here and cannot be served as it is, so that it was not quantised: {why}",
            brought.name
        ))
        .into()),
        None => Ok(brought.path),
    }
}

/// `brahman models quantize`
fn quantize(folder: &Path, options: InstallOptions<'_>, output: &Output) -> anyhow::Result<()> {
    let made = told(output, |tell| install::quantize(folder, options, tell))?;
    if made.is_new {
        note_restarts(&made.name, output);
    }
    show(if made.is_new { "quantised" } else { "present" }, &made, output)
}

/// What was brought. That it cannot be served as it is is an error.
fn show(done: &str, model: &BroughtModel, output: &Output) -> anyhow::Result<()> {
    if output.json() {
        output.print_json(&json!({
            "name": model.name, "path": model.path, "kind": model.kind.name(), "repository": model.repository, "revision": model.revision,
            "files": model.files, "bytes": model.bytes, "fetched": model.fetched, "refusal": model.refusal,
        }));
    } else {
        let from = match (&model.repository, &model.revision) {
            (Some(repository), Some(revision)) => {
                format!(", {repository} at {}", &revision[..12.min(revision.len())])
            }
            _ => String::new(),
        };
        let came = if model.fetched > 0 {
            format!(", {} fetched", bytes(model.fetched))
        } else {
            String::new()
        };
        let kind = match model.kind {
            ModelKind::Embedding => "an embedding model",
            ModelKind::Reranker => "a reranker",
        };
        let (name, files) = (&model.name, counted(model.files as u64, "file", "files"));
        output.line(&format!(
            "{done} {name}, {kind} in {files} of {}{came}{from}",
            bytes(model.bytes)
        ));
        output.line(&format!("  {}", model.path.display()));
    }
    match &model.refusal {
        Some(why) => {
            Err(Unsound(format!("{} is here and cannot be served as it is: {why}", model.name))
                .into())
        }
        None => {
            output.note(&format!(
                "`brahman models enable {}` serves it beside the others",
                model.name
            ));
            Ok(())
        }
    }
}

fn remove(name: &str, hub_cache: bool, cache: &Path, output: &Output) -> anyhow::Result<()> {
    let folder = place::cards::own_folder(None);
    if let Some(card) = cards::enabled(&folder).into_iter().find(|card| card.model == name) {
        let words = format!(
            "{name} is served by {}: `brahman models disable {name}` ends that",
            card.path.display()
        );
        return Err(BadInput(words).into());
    }
    let hub = Hub::new(HubSettings::from_env(cache));
    // Before anything is removed, so that all of it is or nothing.
    let held = if hub_cache { hold(name, &hub, cache)? } else { None };
    let (path, manifest) = told(output, |tell| install::remove(name, cache, tell))?;
    let repository: Option<Repository> =
        manifest.repository.as_deref().and_then(|id| id.parse().ok());
    let forgotten =
        held.map(HeldRepository::forget).transpose().map_err(install::InstallError::from)?;
    if output.json() {
        output.print_json(&json!({ "name": name, "path": path, "hub_cache": forgotten }));
        return Ok(());
    }
    output.line(&format!("{name} removed"));
    match (forgotten, repository) {
        (Some(folder), _) => output.line(&format!("  {} removed", folder.display())),
        (None, Some(_)) => {
            let place = hub.settings().cache.display();
            let words = format!(
                "its files stay in the hub's cache ({place}), which other programs share; `--hub-cache` removes them"
            );
            output.note(&words);
        }
        (None, None) => {}
    }
    Ok(())
}

/// The repository of a model in the hub's cache, for removal. That of another model, too, is left
/// to it.
fn hold(name: &str, hub: &Hub, cache: &Path) -> anyhow::Result<Option<HeldRepository>> {
    let models = manifest::installed(cache);
    let own = models.iter().find(|model| model.name == name).and_then(repository_of);
    let Some(own) = own else { return Ok(None) };
    if let Some(other) = models.iter().find(|model| {
        model.name != name && repository_of(model).is_some_and(|it| it.id() == own.id())
    }) {
        let (other, id) = (&other.name, own.id());
        let words = format!(
            "{other} is of {id}, too, and its files would go from the hub's cache: without --hub-cache they stay"
        );
        return Err(BadInput(words).into());
    }
    Ok(Some(hub.hold(&own).map_err(install::InstallError::from)?))
}

/// Where a model was pulled from, without the commit.
fn repository_of(model: &InstalledModel) -> Option<Repository> {
    model.repository.as_deref()?.split('@').next()?.parse().ok()
}

fn search(words: &[String], cache: &Path, output: &Output) -> anyhow::Result<()> {
    let found = published::search(words);
    let here: Vec<String> =
        manifest::installed(cache).into_iter().map(|model| model.name).collect();
    let is_here = |model: &PublishedModel| here.contains(&model.installed_name());
    if output.json() {
        let models: Vec<_> = found
            .iter()
            .map(|model| {
                json!({
                    "name": model.name, "variant": model.variant, "kind": model.kind.name(), "dim": model.dim,
                    "repository": model.repository, "graph": model.graph, "description": model.description, "installed": is_here(model),
                })
            })
            .collect();
        output.print_json(&json!({ "models": models }));
        return Ok(());
    }
    if found.is_empty() {
        output.line("none is known by these words; a repository of the hub is pulled as OWNER/NAME, whatever it is called");
    }
    let rows = found.iter().map(|model| {
        vec![
            model.name.clone(),
            model.variant.clone(),
            model.kind.name().to_owned(),
            model.dim.map_or_else(|| "-".to_owned(), |dim| dim.to_string()),
            if is_here(model) { "yes" } else { "-" }.to_owned(),
            model.description.clone(),
        ]
    });
    output.table(&["MODEL", "VARIANT", "KIND", "DIM", "HERE", "DESCRIPTION"], rows.collect());
    Ok(())
}

fn list(cache: &Path, output: &Output) -> anyhow::Result<()> {
    let models = manifest::installed(cache);
    let enabled = cards::enabled(&place::cards::own_folder(None));
    let labels = |name: &str| cards::serving(&enabled, name);
    if output.json() {
        let models: Vec<_> = models
            .iter()
            .map(|m| {
                json!({
                    "name": m.name, "path": m.path.display().to_string(), "sha256": m.sha256, "dim": m.dim, "max_tokens": m.max_tokens,
                    "kind": m.kind.name(), "repository": m.repository, "enabled": labels(&m.name),
                })
            })
            .collect();
        output.print_json(&json!({ "models": models }));
        return Ok(());
    }
    if models.is_empty() {
        output.line(&format!(
            "no models in {}: `brahman models pull` fetches {NAME}",
            catalogue::models(cache).display()
        ));
    }
    let rows = models.iter().map(|m| {
        let start = m.sha256[..12.min(m.sha256.len())].to_owned();
        let number = |n: usize| if n == 0 { "-".to_owned() } else { n.to_string() };
        let kind = m.kind.name().to_owned();
        let labels = labels(&m.name).join(" ");
        let labels = if labels.is_empty() { "-".to_owned() } else { labels };
        vec![
            m.name.clone(),
            kind,
            number(m.dim),
            number(m.max_tokens),
            start,
            labels,
            m.path.display().to_string(),
        ]
    });
    output.table(&["MODEL", "KIND", "DIM", "TOKENS", "SHA256", "ENABLED", "PATH"], rows.collect());
    Ok(())
}
