//! Models that are called by a name: published ones, and several side by side.

use std::process::{Command, Output, Stdio};

use brahman_card::ModuleState;
use brahman_tests::hub::Hub;
use brahman_tests::made_models::MadeModel;
use brahman_tests::{Mesh, Setup, binary, shipped};
use serde_json::{Value, json};

use super::{Person, publish, refused};

#[test]
fn a_published_model_is_called_by_its_name_and_held_against_its_files() {
    let hub = Hub::start();
    // Its repository says nothing of pooling, as exporters leave it; fastembed's list does.
    publish(
        &hub,
        "Xenova/bge-small-en-v1.5",
        &MadeModel { nested: true, ..MadeModel::default() },
        false,
    );
    let person = Person::of(&hub);
    let pulled = person.json(&["models", "pull", "BGE-small-en-v1.5"]);
    assert_eq!(
        (&pulled["name"], &pulled["kind"], &pulled["refusal"]),
        (&json!("bge-small-en-v1.5"), &json!("embedding"), &Value::Null)
    );
    let manifest =
        std::fs::read(person.cache().join("models/bge-small-en-v1.5/brahman.json")).expect("there");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    assert_eq!((&manifest["pooling"], &manifest["dim"]), (&json!("cls"), &json!(384)));
    let found = person.json(&["models", "search", "bge", "small", "english"]);
    let is_it = |model: &&Value| model["name"] == "bge-small-en-v1.5" && model["variant"] == "fp32";
    assert_eq!(
        found["models"].as_array().expect("models").iter().find(is_it).expect("it is known")["installed"],
        true
    );
    // A repository that says otherwise than the list.
    publish(
        &hub,
        "Xenova/bge-base-en-v1.5",
        &MadeModel { nested: true, ..MadeModel::pooled_by(&["mean_tokens"]) },
        false,
    );
    refused(
        &person.brahman(&["models", "pull", "bge-base-en-v1.5"]),
        1,
        &["pooled by cls", "say mean"],
    );
    refused(
        &person.brahman(&["models", "pull", "bge-smal-en-v1.5"]),
        4,
        &["did you mean `bge-small-en-v1.5`?"],
    );
    refused(&person.brahman(&["models", "pull", "bge-small-en-v1.5:int3"]), 4, &["fp32, int8"]);
    refused(&person.brahman(&["models", "pull", "a/b/c"]), 6, &["OWNER/NAME"]);
    // One that leaves open what no list knows is brought, and told.
    publish(&hub, "acme/mute", &MadeModel::default(), false);
    refused(
        &person.brahman(&["models", "pull", "acme/mute"]),
        1,
        &["cannot be served as it is", "pooled"],
    );
    assert!(person.cache().join("models/mute/brahman.json").exists());
    refused(&person.brahman(&["models", "pull", "other/mute"]), 6, &["--name"]);
}

/// `brahman` against a mesh, with its Cards and this hub.
fn with_cards(mesh: &Mesh, hub: &Hub, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("brahman"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("BRAHMAN_SOCKET", mesh.socket());
    command.env("HOME", mesh.folder.path()).env("BRAHMAN_CACHE", mesh.folder.path().join("cache"));
    command
        .env("BRAHMAN_CARDS", mesh.folder.path().join("cards"))
        .env("HF_ENDPOINT", hub.endpoint());
    let out = command.args(arguments).stdin(Stdio::null()).output().expect("brahman runs");
    assert!(out.status.success(), "{arguments:?}: {out:?}");
    out
}

fn vector(mesh: &Mesh, model: &str, text: &str) -> Vec<f64> {
    let out = mesh.brahman_json(&["embed", text, "--model", model]);
    assert_eq!(out["model"], model);
    out["vectors"][0]
        .as_array()
        .expect("a vector")
        .iter()
        .map(|x| x.as_f64().expect("a number"))
        .collect()
}

#[tokio::test]
async fn models_are_enabled_side_by_side_and_chosen_by_name() {
    let hub = Hub::start();
    let one = MadeModel::pooled_by(&["cls_token"]);
    let two = MadeModel { seed: 3, ..MadeModel::pooled_by(&["mean_tokens"]) };
    publish(&hub, "acme/one", &one, false);
    publish(&hub, "acme/two", &two, false);
    // embed-real has no model here; its Card names the context `prod`.
    let labels = ["broker", "catalog", "ingest", "index", "embed-real"];
    let mesh = Setup::new(&labels.map(shipped)).context("prod").library().up().await;
    for name in ["one", "two"] {
        with_cards(&mesh, &hub, &["models", "pull", &format!("acme/{name}")]);
    }
    with_cards(&mesh, &hub, &["models", "enable", "one", "--priority", "5"]);
    with_cards(&mesh, &hub, &["models", "enable", "two"]);
    mesh.brahman_json(&["reload"]);
    for label in ["embed-one", "embed-two", "index", "ingest"] {
        mesh.when_module(label, ModuleState::Ready).await;
    }
    for (name, model) in [("one", &one), ("two", &two)] {
        for (got, want) in vector(&mesh, name, "river stone bread")
            .iter()
            .zip(model.vector("", "river stone bread"))
        {
            assert!((got - want).abs() < 1e-5, "{name}: {got}, expected {want}");
        }
        assert!(
            mesh.folder.path().join("cache/vectors").join(format!("embed-{name}")).is_dir(),
            "each has a cache of its own"
        );
    }
    // Whoever names none gets the one that ranks first; whoever names what is not there is told
    // what is.
    assert_eq!(mesh.brahman_json(&["embed", "card"])["model"], "one");
    refused(
        &mesh.brahman(&["embed", "card", "--model", "three"]),
        4,
        &["embed-one", "has `one`", "has `two`"],
    );
    assert_eq!(
        mesh.brahman_json(&["call", "embed.Info", "--require", "model=two"])["model"],
        "two"
    );

    // An index asks for its own, whatever the context offers first.
    let notes = mesh.folder.path().join("notes");
    std::fs::create_dir(&notes).expect("made");
    std::fs::write(notes.join("a.md"), "river stone bread\n").expect("written");
    mesh.brahman_json(&["ingest", "files", "notes", &notes.display().to_string()]);
    mesh.brahman_json(&["index", "create", "notes", "--dataset", "notes", "--model", "two"]);
    mesh.brahman_json(&["index", "refresh", "notes"]);
    let found = mesh.brahman_json(&["search", "notes", "river"]);
    assert_eq!(
        (&found["model"], &found["provider"]),
        (&json!("two"), &json!("embed-two")),
        "{found}"
    );
    assert_eq!(mesh.brahman_json(&["search", "notes", "river", "--model", "two"])["model"], "two");
    refused(
        &mesh.brahman(&["search", "notes", "river", "--model", "one"]),
        1,
        &["holds vectors of two", "not of one"],
    );

    // And says so, once nobody serves it.
    let busy = Command::new(binary("brahman"))
        .args(["models", "remove", "two"])
        .env_clear()
        .env("BRAHMAN_CACHE", mesh.folder.path().join("cache"))
        .env("BRAHMAN_CARDS", mesh.folder.path().join("cards"))
        .output()
        .expect("brahman runs");
    refused(&busy, 6, &["models disable two"]);
    with_cards(&mesh, &hub, &["models", "disable", "two"]);
    mesh.brahman_json(&["reload"]);
    mesh.when(|modules| !modules.iter().any(|module| module.card.label.as_str() == "embed-two"))
        .await;
    refused(
        &mesh.brahman(&["search", "notes", "stone"]),
        4,
        &["vectors of index `notes` are of two", "models enable two"],
    );
    assert_eq!(mesh.brahman_json(&["embed", "card"])["model"], "one");
}
