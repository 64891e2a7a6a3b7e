//! An index is of one model: it moves to another as a whole, or not at all.

use std::time::Duration;

use brahman_card::ModuleState;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Client, Connection};
use brahman_tests::{Mesh, Setup, script, shipped};
use serde_json::{Value, json};

use super::{again, ids, indexed, mesh, table};

/// Starts a call that says how far it is and waits until it embeds.
async fn embedding(mesh: &Mesh, method: &str, parameters: Value) -> Connection {
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connects");
    connection
        .send(
            &encode_call(method, &parameters, &CallOptions::default(), true, false)
                .expect("encodes"),
        )
        .await
        .expect("sent");
    loop {
        let word: Value =
            connection.receive().await.expect("a reply").typed().expect("progress").value;
        if word["phase"] == "embed" && word["done"].as_u64() > Some(0) {
            return connection;
        }
        assert_ne!(word["phase"], "done", "{word}");
    }
}

/// The last reply of a call.
async fn last(mut connection: Connection) -> Value {
    loop {
        let word: Value =
            connection.receive().await.expect("a reply").typed().expect("a value").value;
        if word["phase"] == "done" {
            return word;
        }
    }
}

#[tokio::test]
async fn an_index_moves_to_another_model_as_a_whole_or_not_at_all() {
    let mesh = indexed(1500).await;
    let before = mesh.brahman_json(&["search", "t", "chapter 9"]);
    assert_eq!(
        mesh.fault("org.brahman.Index.Migrate", json!({"name": "t", "model": "no-such"}))
            .await
            .name,
        "org.brahman.Index.ModelMismatch"
    );
    mesh.when_module("embed-real", ModuleState::Ready).await;
    let migrate = json!({"name": "t", "model": "all-MiniLM-L6-v2"});
    drop(embedding(&mesh, "org.brahman.Index.Migrate", migrate.clone()).await);
    again(&mesh, "index").await;
    let still = mesh.brahman_json(&["search", "t", "chapter 9"]);
    assert_eq!(
        (&still["model"], &still["results"]),
        (&before["model"], &before["results"]),
        "killed in the middle: the old one answers"
    );
    // And the context changes while it goes on: not the model.
    let going = embedding(&mesh, "org.brahman.Index.Migrate", migrate.clone()).await;
    mesh.brahman_json(&["context", "prod"]);
    let out = last(going).await;
    assert_eq!(
        ["model", "total", "pre_existing_docs", "generation"].map(|k| out[k].clone()),
        [json!("all-MiniLM-L6-v2"), json!(1500), json!(1500), json!(2)]
    );
    assert!(
        out["resumed"].as_u64() > Some(0),
        "what was embedded before the kill is not embedded again: {out}"
    );
    let stats = mesh.brahman_json(&["index", "stats", "t"])["index"].clone();
    assert_eq!((&stats["dim"], &stats["chunks"]), (&json!(384), &json!(1500)));
    assert_eq!(
        ids(&mesh.brahman_json(&[
            "search",
            "t",
            "chapter 9 speaks of topic9 and of rust things",
            "-k",
            "1"
        ])),
        ["doc-9"]
    );
    assert_eq!(
        mesh.brahman_json(&["index", "generations", "t"])["generations"][0]["reason"],
        "migration"
    );
    assert_eq!(
        mesh.brahman_json(&["index", "migrate", "t"])["new_chunks"],
        0,
        "it is there already"
    );
    mesh.brahman_json(&["context", "test"]);
    mesh.brahman_json(&["index", "rollback", "t"]);
    assert_eq!(mesh.brahman_json(&["search", "t", "chapter 9"])["results"], before["results"]);
}

#[tokio::test]
async fn a_refresh_is_of_one_model_though_the_context_changes_in_its_middle() {
    let mesh = mesh("prod").await;
    let csv = table(mesh.folder.path(), 1300);
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    mesh.brahman_json(&["index", "create", "t", "--dataset", "t"]);
    let going = embedding(&mesh, "org.brahman.Index.Refresh", json!({"name": "t"})).await;
    mesh.brahman_json(&["context", "test"]);
    let out = last(going).await;
    assert_eq!((&out["model"], &out["total"]), (&json!("all-MiniLM-L6-v2"), &json!(1300)));
    let found =
        mesh.brahman_json(&["search", "t", "chapter 9 speaks of topic9 and of rust things"]);
    assert_eq!(
        (ids(&found)[0].as_str(), &found["provider"]),
        ("doc-9", &json!("embed-real")),
        "a search follows the index's model"
    );
}

#[tokio::test]
async fn whoever_names_no_model_waits_for_the_one_that_leads() {
    let more = "mock = true\nattributes = { model = \"first\" }\nreadiness.timeout_s = 600\n\
                [priority_contexts.test]\npriority_offset = 100\n\
                [[flow.output]]\nname = \"embed\"\ntype.interface.name = \"org.brahman.Embed\"\n";
    let first = script("embed-first", "exec sleep 600", more);
    let cards = [shipped("broker"), shipped("embed-mock"), first];
    let mesh = Setup::new(&cards).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    mesh.when_module("embed-first", ModuleState::Starting).await;
    let client = Client::new(&mesh.socket());
    let info = async |model: Option<&str>, patience: Duration| {
        let require = model.map(|model| ("model".to_owned(), model.to_owned())).into_iter();
        let options = CallOptions {
            require: require.collect(),
            deadline: Some(patience),
            ..CallOptions::default()
        };
        client.call::<_, Value>("org.brahman.Embed.Info", &json!({}), &options).await
    };
    let short = Duration::from_millis(300);
    let late = info(None, short).await.map(|answer| answer.value);
    assert!(late.is_err(), "another model answered: {late:?}");
    let named = info(Some("mock-hash-32"), brahman_tests::PATIENCE).await.expect("answered");
    assert_eq!(named.value["model"], "mock-hash-32", "whoever names another is not kept waiting");
    mesh.brahman_json(&["stop", "embed-first"]);
    let answer = info(None, brahman_tests::PATIENCE).await.expect("answered");
    assert_eq!(answer.value["model"], "mock-hash-32", "nobody waits for what does not come");
}

#[tokio::test]
async fn an_index_is_not_bound_to_what_answers_in_the_default_models_place() {
    let more = "mock = true\nattributes = { model = \"first\" }\nreadiness.timeout_s = 600\n\
                [priority_contexts.test]\npriority_offset = 100\n\
                [[flow.output]]\nname = \"embed\"\ntype.interface.name = \"org.brahman.Embed\"\n";
    let first = script("embed-first", "exec sleep 600", more);
    let labels = ["broker", "embed-mock", "catalog", "ingest", "index"];
    let mut cards = labels.map(shipped).to_vec();
    cards.push(first);
    let mesh = Setup::new(&cards).context("test").up().await;
    for label in &labels[1..] {
        mesh.when_module(label, ModuleState::Ready).await;
    }
    mesh.brahman_json(&["stop", "embed-first"]);
    mesh.when_module("embed-first", ModuleState::Stopped).await;
    let answer = mesh.call("org.brahman.Embed.Info", json!({})).await.expect("answered");
    assert_eq!(answer["model"], "mock-hash-32", "what is not kept may be answered by another");
    let csv = table(mesh.folder.path(), 5);
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    mesh.brahman_json(&["index", "create", "t", "--dataset", "t"]);
    for (method, ask) in [("Refresh", json!({"name": "t"})), ("Migrate", json!({"name": "t"}))] {
        let fault = mesh.fault(&format!("org.brahman.Index.{method}"), ask).await;
        assert_eq!(fault.name, "org.brahman.Broker.NoProvider", "{method}");
        for words in ["is first, of embed-first", "--model NAME"] {
            assert!(fault.message().contains(words), "{method}: {fault}");
        }
    }
    let moved = mesh.brahman_json(&["index", "migrate", "t", "--model", "mock-hash-32"]);
    assert_eq!((&moved["model"], &moved["total"]), (&json!("mock-hash-32"), &json!(5)));
}
