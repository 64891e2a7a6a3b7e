//! Cards that serve a model beside the others: written from a template, known by a mark in them, and removed by it.
//!
//! Invariants: a Card without our mark is never written over nor removed; what is written is parsed before it is there; a module's vector
//! cache is a folder of its own, named by its label.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brahman_card::interface::embed;
use brahman_card::wire::KEY_REQUIRE;
use brahman_card::{Card, Label};
use brahman_models::install;
use brahman_models::manifest::ModelKind;
use brahman_sidecar::place::cards::{files, own_folder, read_one};
use serde_json::json;

use super::Enable;
use crate::failure::{BadInput, NotFound};
use crate::output::Output;

/// The key in a Card that says for which model `enable` wrote it.
const MARK: &str = "brahman.enabled_model";
/// Labels of the Cards that are shipped: one of ours would take the place of theirs.
const SHIPPED: [&str; 12] = [
    "broker",
    "catalog",
    "embed-mock",
    "embed-real",
    "index",
    "index-mock",
    "ingest",
    "ingest-mock",
    "rerank-mock",
    "rerank-real",
    "score-mock",
    "score-real",
];
/// Farthest that a rank may be from the usual.
const PRIORITY_MAX: i64 = 1000;

/// A Card that `enable` wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EnabledCard {
    /// The model.
    pub(super) model: String,
    /// The module's label.
    pub(super) label: String,
    /// The file.
    pub(super) path: PathBuf,
}

/// Cards in a folder that `enable` wrote. A folder that is not there has none.
pub(super) fn enabled(folder: &Path) -> Vec<EnabledCard> {
    let of = |path: PathBuf| {
        let card = read_one(&path).ok()?.card;
        let model = card.extensions.get(MARK)?.as_str()?.to_owned();
        Some(EnabledCard { model, label: card.label.to_string(), path })
    };
    files(folder).unwrap_or_default().into_iter().filter_map(of).collect()
}

/// `brahman models enable`
pub(super) fn enable(enable: &Enable, cache: &Path, output: &Output) -> anyhow::Result<()> {
    let (model, manifest) = install::find(&enable.name, cache)?;
    let model = std::path::absolute(model)?;
    if enable.priority.abs() > PRIORITY_MAX {
        return Err(BadInput(format!("--priority {}: expected -{PRIORITY_MAX} to {PRIORITY_MAX}", enable.priority)).into());
    }
    let label = label(enable.label.as_deref(), &enable.name, manifest.kind)?;
    let folder = own_folder(enable.cards.as_deref());
    let path = folder.join(format!("{label}.toml"));
    let mut others = files(&folder).unwrap_or_default().into_iter().filter_map(|path| read_one(&path).ok());
    let is_of_this = |card: &Card| card.extensions.get(MARK).and_then(|model| model.as_str()) == Some(manifest.name.as_str());
    if let Some(other) = others.find(|found| found.card.label == label && !is_of_this(&found.card)) {
        return Err(BadInput(format!("{} is of another module called {label}: --label gives this one another", other.origin)).into());
    }
    let vectors = std::path::absolute(cache)?.join("vectors").join(label.as_str());
    let text = template(&manifest.name, manifest.kind, &label, enable.priority, &model, &vectors);
    // The template is ours; what is put into it is not.
    Card::parse(&path.display().to_string(), text.as_bytes()).map_err(|error| BadInput(error.to_string()))?;
    write(&folder, &path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    if output.json() {
        output.print_json(&json!({ "model": manifest.name, "label": label.as_str(), "card": path }));
    } else {
        output.line(&format!("{} is served by {label} from the next `brahman reload` on", manifest.name));
        output.line(&format!("  {}", path.display()));
        let name = &manifest.name;
        output.note(&match manifest.kind {
            ModelKind::Embedding => format!("`brahman embed --model {name}` chooses it, as does `brahman index create --model {name}`"),
            ModelKind::Reranker => format!("calls choose it by the header {KEY_REQUIRE}, {}", json!({ "model": name })),
        });
    }
    Ok(())
}

/// `brahman models disable`
pub(super) fn disable(name: &str, cards: Option<&Path>, output: &Output) -> anyhow::Result<()> {
    let folder = own_folder(cards);
    let ours: Vec<EnabledCard> = enabled(&folder).into_iter().filter(|card| card.model == name || card.label == name).collect();
    if ours.is_empty() {
        let words = format!("no Card that `brahman models enable` wrote for {name} is in {}", folder.display());
        return Err(NotFound(words).into());
    }
    for card in &ours {
        fs::remove_file(&card.path).with_context(|| format!("cannot remove {}", card.path.display()))?;
    }
    if output.json() {
        let removed: Vec<_> = ours.iter().map(|card| json!({ "label": card.label, "card": card.path })).collect();
        output.print_json(&json!({ "removed": removed }));
    } else {
        ours.iter().for_each(|card| output.line(&format!("{} removed: `brahman reload` stops {}", card.path.display(), card.label)));
    }
    Ok(())
}

/// The module's label: what is asked for, else the kind and the model's name in small letters.
fn label(asked: Option<&str>, name: &str, kind: ModelKind) -> anyhow::Result<Label> {
    let text = asked.map_or_else(
        || {
            let kind = match kind {
                ModelKind::Embedding => "embed",
                ModelKind::Reranker => "rerank",
            };
            format!("{kind}-{}", name.to_lowercase())
        },
        str::to_owned,
    );
    if SHIPPED.contains(&text.as_str()) {
        let words = format!("{text} is the label of a shipped module, which this one would take the place of: expected another");
        return Err(BadInput(words).into());
    }
    Label::new(&text).map_err(|error| BadInput(format!("{error}; --label names another")).into())
}

fn template(name: &str, kind: ModelKind, label: &Label, priority: i64, model: &Path, vectors: &Path) -> String {
    // JSON's strings are TOML's.
    let quoted = |text: &str| json!(text).to_string();
    let (name, model, vectors) = (quoted(name), quoted(&model.to_string_lossy()), quoted(&vectors.to_string_lossy()));
    let (kind, program, interface, environment) = match kind {
        ModelKind::Embedding => {
            let environment = format!("BRAHMAN_MODEL_DIR = {model}\nBRAHMAN_EMBED_CACHE_DIR = {vectors}");
            ("embed", "embed-real", "Embed", environment)
        }
        ModelKind::Reranker => ("rerank", "rerank-real", "Rerank", format!("BRAHMAN_RERANK_MODEL = {model}")),
    };
    // All of the mesh's interfaces are of one domain.
    let domain = embed::INTERFACE.name.rsplit_once('.').map_or("", |(domain, _)| domain);
    let offset = 10 + priority;
    format!(
        "# Written by `brahman models enable`; `brahman models disable` removes it.\n\
         schema_version = 1\n\
         label = \"{label}\"\n\
         \"{MARK}\" = {name}\n\
         wants_uid = true\n\
         kind = \"{kind}\"\n\
         watchdog_s = 30\n\
         access = \"group\"\n\
         # Behind the default model for calls that name none: its priority is normal.\n\
         priority = \"low\"\n\
         attributes = {{ model = {name} }}\n\
         readiness.timeout_s = 120\n\
         \n\
         [payload.native]\n\
         exec = \"{program}\"\n\
         \n\
         [[flow.output]]\n\
         name = \"{kind}\"\n\
         type.interface.name = \"{domain}.{interface}\"\n\
         \n\
         [priority_contexts.prod]\n\
         priority_offset = {offset}\n\
         \n\
         [environment]\n\
         {environment}\n"
    )
}

/// Whole or not at all, in a folder that is made if need be: a mesh that reloads meanwhile reads no half of it.
fn write(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // For whoever runs the mesh to read.
    let mode = fs::Permissions::from_mode(0o644);
    let mut file = tempfile::Builder::new().prefix(".tmp-").permissions(mode).tempfile_in(folder)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use brahman_card::card::Payload;

    use super::*;

    fn card(kind: ModelKind, priority: i64) -> Card {
        let label = label(None, "My-Model_1.5", kind).expect("a label");
        let text = template("My-Model_1.5", kind, &label, priority, Path::new("/srv/a \"b\""), Path::new("/var/v"));
        Card::parse("t.toml", text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn the_template_is_a_card_for_the_model() {
        let embed = card(ModelKind::Embedding, 2);
        assert_eq!((embed.label.as_str(), embed.attributes["model"].as_str()), ("embed-my-model_1.5", "My-Model_1.5"));
        assert_eq!((embed.extensions[MARK].as_str(), embed.priority_contexts["prod"].priority_offset), (Some("My-Model_1.5"), 12));
        assert_eq!(embed.environment["BRAHMAN_MODEL_DIR"], "/srv/a \"b\"");
        assert_eq!(embed.offered_interfaces().collect::<Vec<_>>(), ["org.brahman.Embed"]);
        assert!(matches!(&embed.payload, Payload::Native(native) if native.exec == "embed-real"));
        let rerank = card(ModelKind::Reranker, 0);
        assert_eq!((rerank.label.as_str(), rerank.environment.len()), ("rerank-my-model_1.5", 1));
    }

    #[test]
    fn a_shipped_modules_label_is_refused() {
        for bad in ["embed-real", "broker", "Embed", "a b"] {
            assert!(label(Some(bad), "x", ModelKind::Embedding).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_was_written_here_is_known_again() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        assert!(enabled(&folder.path().join("none")).is_empty());
        let name = label(None, "x", ModelKind::Embedding).expect("a label");
        let text = template("x", ModelKind::Embedding, &name, 0, Path::new("/m"), Path::new("/v"));
        let path = folder.path().join("embed-x.toml");
        write(folder.path(), &path, &text).expect("written");
        let own = "schema_version = 1\nlabel = \"own\"\npayload = \"virtual\"\nattributes = { model = \"x\" }\n";
        fs::write(folder.path().join("own.toml"), own).expect("written");
        assert_eq!(enabled(folder.path()), [EnabledCard { model: "x".into(), label: "embed-x".into(), path }]);
    }
}
