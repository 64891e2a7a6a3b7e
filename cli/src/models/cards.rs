//! Cards that serve a model beside the others, one in the cache or one that a server has: written
//! from a template, known by a mark in them, and removed by it.
//!
//! Invariants: a Card without our mark is never written over nor removed; what is written is parsed
//! before it is there; a module's vector cache is a folder of its own, named by its label.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brahman_card::interface::embed;
use brahman_card::wire::KEY_REQUIRE;
use brahman_card::{Card, Label};
use brahman_models::catalogue::NAME;
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
const SHIPPED: [&str; 14] = [
    "broker",
    "catalog",
    "embed-http",
    "embed-mock",
    "embed-real",
    "index",
    "index-mock",
    "ingest",
    "ingest-mock",
    "profiles",
    "rerank-mock",
    "rerank-real",
    "score-mock",
    "score-real",
];
/// That one of them which serves the model that `models pull` fetches without a name.
const DEFAULT: &str = "embed-real";
/// The variable that says which server embed-http asks.
const SERVER: &str = "BRAHMAN_EMBED_SERVER";
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
    /// Whether the model is a server's, whatever is in the cache under its name.
    pub(super) is_remote: bool,
}

/// Cards in a folder that `enable` wrote. A folder that is not there has none.
fn written(folder: &Path) -> Vec<EnabledCard> {
    let of = |path: PathBuf| {
        let card = read_one(&path).ok()?.card;
        let model = card.extensions.get(MARK)?.as_str()?.to_owned();
        let is_remote = card.environment.contains_key(SERVER);
        Some(EnabledCard { model, label: card.label.to_string(), path, is_remote })
    };
    files(folder).unwrap_or_default().into_iter().filter_map(of).collect()
}

/// Those of models in the cache.
pub(super) fn enabled(folder: &Path) -> Vec<EnabledCard> {
    written(folder).into_iter().filter(|card| !card.is_remote).collect()
}

/// Labels of the Cards that serve a model of the cache: the shipped one, of the model that every
/// mesh begins with, and those that `enable` wrote.
pub(super) fn serving(enabled: &[EnabledCard], model: &str) -> Vec<String> {
    let shipped = (model == NAME).then(|| DEFAULT.to_owned());
    let written = enabled.iter().filter(|card| card.model == model);
    shipped.into_iter().chain(written.map(|card| card.label.clone())).collect()
}

/// How a model is served.
struct ModelService {
    /// Name of the model, by which calls choose it.
    model: String,
    kind: &'static str,
    program: &'static str,
    interface: &'static str,
    /// Variables of its module.
    environment: Vec<(&'static str, String)>,
}

/// `brahman models enable`
pub(super) fn enable(enable: &Enable, cache: &Path, output: &Output) -> anyhow::Result<()> {
    if enable.priority.abs() > PRIORITY_MAX {
        return Err(BadInput(format!(
            "--priority {}: expected -{PRIORITY_MAX} to {PRIORITY_MAX}",
            enable.priority
        ))
        .into());
    }
    let cache = std::path::absolute(cache)?;
    let (service, label) = match (&enable.http, &enable.name) {
        (Some(url), _) => remote(enable, url)?,
        (None, Some(name)) => local(enable, name, &cache)?,
        (None, None) => {
            return Err(BadInput("expected a model in the cache, or --http URL".to_owned()).into());
        }
    };
    let folder = own_folder(enable.cards.as_deref());
    let path = folder.join(format!("{label}.toml"));
    check_place(&folder, &path, &label, &service.model)?;
    let text = template(&service, &label, enable.priority);
    // The template is ours; what is put into it is not.
    Card::parse(&path.display().to_string(), text.as_bytes())
        .map_err(|error| BadInput(error.to_string()))?;
    write(&folder, &path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    let name = &service.model;
    if output.json() {
        output.print_json(&json!({ "model": name, "label": label.as_str(), "card": path }));
    } else {
        output.line(&format!("{name} is served by {label} from the next `brahman reload` on"));
        output.line(&format!("  {}", path.display()));
        output.note(&if service.kind == "embed" {
            format!("`brahman embed --model {name}` chooses it, as does `brahman index create --model {name}`")
        } else {
            format!("calls choose it by the header {KEY_REQUIRE}, {}", json!({ "model": name }))
        });
    }
    Ok(())
}

/// Refuses a place where there is another module's Card, or a file that is not ours to write over:
/// half a Card, an empty one that masks another, a Card of another label.
fn check_place(folder: &Path, path: &Path, label: &Label, model: &str) -> Result<(), BadInput> {
    let is_of_this = |card: &Card| {
        card.label == *label
            && card.extensions.get(MARK).and_then(|model| model.as_str()) == Some(model)
    };
    let mut others =
        files(folder).unwrap_or_default().into_iter().filter_map(|path| read_one(&path).ok());
    if let Some(other) = others.find(|found| found.card.label == *label && !is_of_this(&found.card))
    {
        return Err(BadInput(format!(
            "{} is of another module called {label}: --label gives this one another",
            other.origin
        )));
    }
    // A link that leads nowhere is somebody's, too.
    if path.symlink_metadata().is_ok() && !read_one(path).is_ok_and(|found| is_of_this(&found.card))
    {
        return Err(BadInput(format!(
            "{} is there and `enable` did not write it: --label gives this one another",
            path.display()
        )));
    }
    Ok(())
}

/// A model in the cache, and its module's label.
fn local(enable: &Enable, name: &str, cache: &Path) -> anyhow::Result<(ModelService, Label)> {
    let (folder, manifest) = install::find(name, cache)?;
    let folder = std::path::absolute(folder)?.to_string_lossy().into_owned();
    let (kind, program, interface, variable) = match manifest.kind {
        ModelKind::Embedding => ("embed", "embed-real", "Embed", "BRAHMAN_MODEL_DIR"),
        ModelKind::Reranker => ("rerank", "rerank-real", "Rerank", "BRAHMAN_RERANK_MODEL"),
    };
    let label = label(enable.label.as_deref(), name, kind)?;
    let mut environment = vec![(variable, folder)];
    if manifest.kind == ModelKind::Embedding {
        let vectors = cache.join("vectors").join(label.as_str());
        environment.push(("BRAHMAN_EMBED_CACHE_DIR", vectors.to_string_lossy().into_owned()));
    }
    Ok((ModelService { model: manifest.name, kind, program, interface, environment }, label))
}

/// A model that a server has, and its module's label. Its vectors are cached where embed-http keeps
/// them by itself.
fn remote(enable: &Enable, url: &str) -> anyhow::Result<(ModelService, Label)> {
    let (Some(kind), Some(model)) = (&enable.kind, &enable.model) else {
        return Err(BadInput("--http URL: expected --kind and --model, too".to_owned()).into());
    };
    if !(url.starts_with("http://") || url.starts_with("https://")) || url.contains(['@', '?', '#'])
    {
        let words = "--http: expected http://HOST:PORT or https://HOST without a user, a password or a query; --secret names a key";
        return Err(BadInput(words.to_owned()).into());
    }
    // What hubs put before a name is no part of a label.
    let short: String = model
        .rsplit('/')
        .next()
        .unwrap_or(model)
        .chars()
        .map(|c| if c == ':' { '-' } else { c })
        .collect();
    let label = label(enable.label.as_deref(), &short, "embed")?;
    let mut environment =
        vec![(SERVER, format!("{kind}+{url}")), ("BRAHMAN_EMBED_SERVER_MODEL", model.clone())];
    environment.extend(
        enable.secret.as_ref().map(|secret| ("BRAHMAN_EMBED_TOKEN", format!("secret:{secret}"))),
    );
    Ok((
        ModelService {
            model: model.clone(),
            kind: "embed",
            program: "embed-http",
            interface: "Embed",
            environment,
        },
        label,
    ))
}

/// `brahman models disable`
pub(super) fn disable(name: &str, cards: Option<&Path>, output: &Output) -> anyhow::Result<()> {
    let folder = own_folder(cards);
    let ours: Vec<EnabledCard> = written(&folder)
        .into_iter()
        .filter(|card| card.model == name || card.label == name)
        .collect();
    if ours.is_empty() {
        let words = format!(
            "no Card that `brahman models enable` wrote for {name} is in {}",
            folder.display()
        );
        return Err(NotFound(words).into());
    }
    for card in &ours {
        fs::remove_file(&card.path)
            .with_context(|| format!("cannot remove {}", card.path.display()))?;
    }
    if output.json() {
        let removed: Vec<_> =
            ours.iter().map(|card| json!({ "label": card.label, "card": card.path })).collect();
        output.print_json(&json!({ "removed": removed }));
    } else {
        ours.iter().for_each(|card| {
            output.line(&format!(
                "{} removed: `brahman reload` stops {}",
                card.path.display(),
                card.label
            ));
        });
    }
    Ok(())
}

/// The module's label: what is asked for, else the kind and the model's name in small letters.
fn label(asked: Option<&str>, name: &str, kind: &str) -> anyhow::Result<Label> {
    let text = asked.map_or_else(|| format!("{kind}-{}", name.to_lowercase()), str::to_owned);
    if SHIPPED.contains(&text.as_str()) {
        let words = format!(
            "{text} is the label of a shipped module, which this one would take the place of: expected another"
        );
        return Err(BadInput(words).into());
    }
    Label::new(&text).map_err(|error| BadInput(format!("{error}; --label names another")).into())
}

fn template(service: &ModelService, label: &Label, priority: i64) -> String {
    // JSON's strings are TOML's.
    let quoted = |text: &str| json!(text).to_string();
    let ModelService { model, kind, program, interface, environment } = service;
    let name = quoted(model);
    let environment: String = environment
        .iter()
        .map(|(variable, value)| format!("{variable} = {}\n", quoted(value)))
        .collect();
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
         watchdog_s = 15\n\
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
         {environment}"
    )
}

/// Whole or not at all, in a folder that is made if need be: a mesh that reloads meanwhile reads no
/// half of it.
fn write(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // For whoever runs the mesh to read.
    let mode = fs::Permissions::from_mode(0o644);
    let mut file =
        tempfile::Builder::new().prefix(".tmp-").permissions(mode).tempfile_in(folder)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use brahman_card::card::Payload;

    use super::*;

    fn service(
        model: &str,
        program: &'static str,
        environment: &[(&'static str, &str)],
    ) -> ModelService {
        let (kind, interface) =
            if program == "rerank-real" { ("rerank", "Rerank") } else { ("embed", "Embed") };
        let environment =
            environment.iter().map(|(variable, value)| (*variable, (*value).to_owned())).collect();
        ModelService { model: model.to_owned(), kind, program, interface, environment }
    }

    fn card(service: &ModelService, priority: i64) -> Card {
        let label = label(None, &service.model, service.kind).expect("a label");
        let text = template(service, &label, priority);
        Card::parse("t.toml", text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn asked(kind: &str, model: &str) -> Enable {
        Enable {
            name: None,
            http: Some(String::new()),
            kind: Some(kind.to_owned()),
            model: Some(model.to_owned()),
            secret: Some("key".to_owned()),
            label: None,
            priority: 0,
            cards: None,
        }
    }

    #[test]
    fn the_template_is_a_card_for_the_model() {
        let embed = card(
            &service("My-Model_1.5", "embed-real", &[("BRAHMAN_MODEL_DIR", "/srv/a \"b\"")]),
            2,
        );
        assert_eq!(
            (embed.label.as_str(), embed.attributes["model"].as_str()),
            ("embed-my-model_1.5", "My-Model_1.5")
        );
        assert_eq!(
            (embed.extensions[MARK].as_str(), embed.priority_contexts["prod"].priority_offset),
            (Some("My-Model_1.5"), 12)
        );
        assert_eq!(embed.environment["BRAHMAN_MODEL_DIR"], "/srv/a \"b\"");
        assert_eq!(embed.offered_interfaces().collect::<Vec<_>>(), ["org.brahman.Embed"]);
        assert!(matches!(&embed.payload, Payload::Native(native) if native.exec == "embed-real"));
        let rerank =
            card(&service("My-Model_1.5", "rerank-real", &[("BRAHMAN_RERANK_MODEL", "/m")]), 0);
        assert_eq!((rerank.label.as_str(), rerank.environment.len()), ("rerank-my-model_1.5", 1));
    }

    #[test]
    fn a_servers_model_has_a_card_without_its_key() {
        let (service, label) =
            remote(&asked("ollama", "acme/Nomic:latest"), "http://gpu:11434").expect("a service");
        let text = template(&service, &label, 0);
        let card = Card::parse("t.toml", text.as_bytes())
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(
            (card.label.as_str(), card.attributes["model"].as_str()),
            ("embed-nomic-latest", "acme/Nomic:latest")
        );
        assert_eq!(card.environment[SERVER], "ollama+http://gpu:11434");
        assert_eq!(card.environment["BRAHMAN_EMBED_TOKEN"], "secret:key");
        assert!(matches!(&card.payload, Payload::Native(native) if native.exec == "embed-http"));
        for bad in ["gpu:11434", "http://me:hunter2@gpu", "https://x/v1?key=hunter2"] {
            let refused = remote(&asked("openai", "m"), bad).err().expect("refused").to_string();
            assert!(refused.contains("--secret") && !refused.contains("hunter2"), "{refused}");
        }
    }

    #[test]
    fn a_shipped_modules_label_is_refused() {
        for bad in ["embed-real", "embed-http", "broker", "Embed", "a b"] {
            assert!(label(Some(bad), "x", "embed").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_persons_own_file_is_not_written_over() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (label, path) =
            (label(None, "x", "embed").expect("a label"), folder.path().join("embed-x.toml"));
        let check = |model: &str| {
            check_place(folder.path(), &path, &label, model).map_err(|refused| refused.to_string())
        };
        assert_eq!(check("x"), Ok(()), "nothing is there");
        for own in [
            "",
            "schema_version = 1\nlabel = \"em",
            "schema_version = 1\nlabel = \"own\"\npayload = \"virtual\"\n",
        ] {
            fs::write(&path, own).expect("written");
            let refused = check("x").expect_err("refused");
            assert!(
                refused.contains("embed-x.toml") && refused.contains("--label"),
                "{own}: {refused}"
            );
        }
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/dev/null", &path).expect("linked");
        assert!(check("x").is_err(), "a mask");
        fs::remove_file(&path).expect("removed");
        let text = template(&service("x", "embed-real", &[("BRAHMAN_MODEL_DIR", "/m")]), &label, 0);
        write(folder.path(), &path, &text).expect("written");
        assert_eq!(check("x"), Ok(()), "our own is written anew");
        assert!(check("y").is_err(), "that of another model is not");
    }

    #[test]
    fn only_what_was_written_here_is_known_again() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        assert!(written(&folder.path().join("none")).is_empty());
        for (name, program, variable) in
            [("x", "embed-real", "BRAHMAN_MODEL_DIR"), ("y", "embed-http", SERVER)]
        {
            let text = template(
                &service(name, program, &[(variable, "/m")]),
                &label(None, name, "embed").expect("a label"),
                0,
            );
            write(folder.path(), &folder.path().join(format!("embed-{name}.toml")), &text)
                .expect("written");
        }
        let own = "schema_version = 1\nlabel = \"own\"\npayload = \"virtual\"\nattributes = { model = \"x\" }\n";
        fs::write(folder.path().join("own.toml"), own).expect("written");
        let path = folder.path().join("embed-x.toml");
        assert_eq!(
            enabled(folder.path()),
            [EnabledCard { model: "x".into(), label: "embed-x".into(), path, is_remote: false }]
        );
        assert_eq!(written(folder.path()).len(), 2);
        let all = enabled(folder.path());
        assert_eq!(serving(&all, "x"), ["embed-x"]);
        assert_eq!(serving(&all, NAME), ["embed-real"], "a shipped Card serves it");
        assert!(serving(&all, "y").is_empty() && SHIPPED.contains(&DEFAULT));
    }
}
