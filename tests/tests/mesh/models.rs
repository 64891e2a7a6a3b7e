//! Embedding models of several layouts, side by side in one mesh: each right by a computation in 64
//! bits, or refused by its name.

use brahman_card::{Fault, ModuleState};
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, ClientError, Connection};
use brahman_tests::made_models::{MadeModel, VOID, WINDOW};
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::{Value, json};

const TEXTS: [&str; 4] = [
    "river stone bread",
    "card",
    "music winter garden paper mesh silver river",
    "the mesh of silver",
];

/// A Card for embed-real with this model, made in the mesh's folder; more of its environment
/// behind.
fn card(setup: &Setup, name: &str, model: &MadeModel, environment: &str) -> (String, String) {
    let folder = setup.cache().with_file_name(format!("model-{name}"));
    model.write(&folder);
    let (_, text) = shipped("embed-real");
    let text = text.replace("label = \"embed-real\"", &format!("label = \"embed-{name}\""));
    let text = text.replace("all-MiniLM-L6-v2\" }", &format!("model-{name}\" }}"));
    (
        format!("embed-{name}"),
        format!(
            "{text}\n[environment]\nBRAHMAN_MODEL_DIR = \"{}\"\n{environment}",
            folder.display()
        ),
    )
}

/// A mesh with these models, all of them at once.
async fn mesh_of(models: &[(&str, MadeModel)]) -> Mesh {
    let setup = Setup::new(&[shipped("broker")]).context("prod").real_model();
    let cards: Vec<_> = models.iter().map(|(name, model)| card(&setup, name, model, "")).collect();
    let mesh = setup.with_cards(&cards).up().await;
    for (name, _) in models {
        mesh.when_module(&format!("embed-{name}"), ModuleState::Ready).await;
    }
    mesh
}

/// A call that the broker leads to this model, by the header.
async fn ask(
    mesh: &Mesh,
    model: &str,
    method: &str,
    parameters: Value,
) -> Result<Value, ClientError> {
    let options = CallOptions {
        require: [("model".to_owned(), format!("model-{model}"))].into(),
        ..CallOptions::default()
    };
    let message =
        encode_call(&format!("org.brahman.Embed.{method}"), &parameters, &options, false, false)?;
    let mut connection = Connection::connect(&mesh.socket()).await?;
    Ok(connection.exchange(&message).await?.typed::<Value>()?.value)
}

fn fault(outcome: Result<Value, ClientError>) -> Fault {
    match outcome {
        Err(ClientError::Fault(fault)) => fault,
        other => panic!("expected an error reply, got {other:?}"),
    }
}

fn numbers(vector: &Value) -> Vec<f64> {
    vector.as_array().expect("a vector").iter().map(|x| x.as_f64().expect("a number")).collect()
}

#[track_caller]
fn near(got: &Value, want: &[f64], what: &str) {
    let got = numbers(got);
    assert_eq!(got.len(), want.len(), "{what}");
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() < 1e-5 * w.abs().max(1.0), "{what}: {got:?}, expected {want:?}");
    }
}

#[tokio::test]
async fn every_layout_gives_the_vectors_that_its_files_say() {
    let all = |pooling: &[&'static str]| MadeModel::pooled_by(pooling);
    let models = [
        ("cls", all(&["cls_token"])),
        ("max", all(&["max_tokens"])),
        ("mean", all(&["mean_tokens"])),
        ("sqrt", MadeModel { raw: true, ..all(&["mean_sqrt_len_tokens"]) }),
        ("weighted", MadeModel { external: true, nested: true, ..all(&["weightedmean_tokens"]) }),
        ("last", all(&["lasttoken"])),
        ("side", all(&["mean_tokens", "cls_token"])),
        ("dense", MadeModel { dense: Some(5), ..all(&["mean_tokens"]) }),
    ];
    let mesh = mesh_of(&models).await;
    for (name, model) in &models {
        let out = ask(&mesh, name, "EmbedText", json!({"texts": TEXTS}))
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(
            (&out["model"], &out["normalized"], &out["precision"]),
            (&json!(format!("model-{name}")), &json!(!model.raw), &json!("fp32"))
        );
        for (text, vector) in TEXTS.iter().zip(out["vectors"].as_array().expect("vectors")) {
            near(vector, &model.vector("", text), &format!("{name}: {text}"));
        }
        // Not alone, not in another company, and not from the cache is it another.
        let again =
            ask(&mesh, name, "EmbedText", json!({"texts": [TEXTS[2]]})).await.expect("embedded");
        assert_eq!(
            (&again["vectors"][0], &again["cached"]),
            (&out["vectors"][2], &json!(1)),
            "{name}: each has a cache"
        );
        let info = ask(&mesh, name, "Info", json!({})).await.expect("info");
        assert_eq!(info["cache"]["state"], "open", "{name}");
        assert!(
            info["recipe"]["pooling"].is_string()
                && info["runtime"].as_str().is_some_and(|r| r.contains(" 1.")),
            "{info}"
        );
        assert_eq!(info["max_tokens"], WINDOW);
    }
}

#[tokio::test]
async fn roles_choose_the_models_own_prompts() {
    let prompts = [("query", "query: "), ("passage", "passage: ")]
        .map(|(name, text)| (name.to_owned(), text.to_owned()));
    let dimensions = vec![4, 2];
    let model = MadeModel {
        prompts: prompts.clone().into(),
        dimensions,
        ..MadeModel::pooled_by(&["mean_tokens"])
    };
    let apart = MadeModel { excludes_prompt: true, seed: 1, ..model.clone() };
    let mesh = mesh_of(&[("prompts", model.clone()), ("apart", apart.clone())]).await;
    for (name, model) in [("prompts", &model), ("apart", &apart)] {
        for (parameters, prompt) in [
            (json!({"role": "query"}), "query: "),
            (json!({"role": "document"}), "passage: "),
            (json!({"prompt_name": "query"}), "query: "),
            (json!({"prompt": "mesh "}), "mesh "),
        ] {
            let mut parameters = parameters;
            parameters["texts"] = json!(["river stone"]);
            let out = ask(&mesh, name, "EmbedText", parameters.clone()).await.expect("embedded");
            near(
                &out["vectors"][0],
                &model.vector(prompt, "river stone"),
                &format!("{name}: {parameters}"),
            );
            assert_eq!(
                (&out["prompt"], &out["cached"]),
                (&json!(prompt), &json!(u64::from(parameters["prompt_name"] == "query")))
            );
        }
        // Of a call that names none it is said that there are some, once.
        let bare = ask(&mesh, name, "EmbedText", json!({"texts": ["river stone"]}))
            .await
            .expect("embedded");
        near(&bare["vectors"][0], &model.vector("", "river stone"), name);
        assert!(
            bare["warnings"][0]
                .as_str()
                .is_some_and(|w| w.contains("passage, query") && w.contains("role")),
            "{bare}"
        );
        assert_eq!(bare["prompt"], Value::Null);
    }
    for (parameters, words) in [
        (json!({"texts": ["x"], "role": "question"}), "document"),
        (json!({"texts": ["x"], "prompt_name": "no such"}), "passage, query"),
        (json!({"texts": ["x"], "dimensions": 3}), "2, 4"),
        (json!({"texts": ["x"], "promt": "q"}), "promt"),
    ] {
        let fault = fault(ask(&mesh, "prompts", "EmbedText", parameters).await);
        assert!(
            fault.name == "org.varlink.service.InvalidParameter" && fault.message().contains(words),
            "{fault}"
        );
    }
    let whole = numbers(
        &ask(&mesh, "prompts", "EmbedText", json!({"texts": ["card"]})).await.expect("embedded")["vectors"]
            [0],
    );
    let short = ask(&mesh, "prompts", "EmbedText", json!({"texts": ["card"], "dimensions": 4}))
        .await
        .expect("embedded");
    let norm = whole[..4].iter().map(|x| x * x).sum::<f64>().sqrt();
    near(
        &short["vectors"][0],
        &whole[..4].iter().map(|x| x / norm).collect::<Vec<_>>(),
        "cut and scaled again",
    );
    assert!(
        short["dim"] == 4 && short["fingerprint"].as_str().is_some_and(|f| f.ends_with("/4")),
        "{short}"
    );
    // The person's command.
    let out = mesh.brahman_json(&[
        "embed",
        "river stone",
        "--role",
        "query",
        "--model",
        "model-prompts",
        "--dimensions",
        "2",
    ]);
    assert_eq!((&out["prompt"], &out["dim"]), (&json!("query: "), &json!(2)));
}

#[tokio::test]
async fn a_text_without_a_vector_is_named_and_loses_no_other() {
    let model = MadeModel::pooled_by(&["mean_tokens"]);
    let mesh = mesh_of(&[("mean", model.clone())]).await;
    let texts = json!(["river", format!("stone {VOID}"), "bread", format!("stone {VOID}")]);
    let refused = fault(ask(&mesh, "mean", "EmbedText", json!({"texts": texts})).await);
    assert_eq!(
        (refused.name.as_ref(), &refused.parameters["index"]),
        ("org.brahman.Embed.BadOutput", &json!(1))
    );
    assert!(!refused.retryable() && refused.message().contains("text 1"), "{refused}");
    let out = ask(&mesh, "mean", "EmbedText", json!({"texts": texts, "partial": true}))
        .await
        .expect("answered");
    assert_eq!(out["cached"], 2, "the others were kept");
    near(&out["vectors"][2], &model.vector("", "bread"), "bread");
    assert_eq!((&out["vectors"][1], &out["failed"][1]["index"]), (&json!([]), &json!(3)));
    // One that is too long is as good as one that is bad.
    let long = "river ".repeat(2 * WINDOW);
    let out = ask(&mesh, "mean", "EmbedText", json!({"texts": ["card", long], "partial": true}))
        .await
        .expect("answered");
    assert_eq!(out["failed"][0]["error"], "org.brahman.Embed.TextTooLong");
}

#[tokio::test]
async fn tokens_are_counted_and_placed() {
    let prompts = [("query".to_owned(), "query: ".to_owned())].into();
    let mesh =
        mesh_of(&[("mean", MadeModel { prompts, ..MadeModel::pooled_by(&["mean_tokens"]) })]).await;
    let out = ask(&mesh, "mean", "Tokenize", json!({"texts": ["river zzz", ""], "offsets": true}))
        .await
        .expect("counted");
    assert_eq!(
        out["texts"][0],
        json!({"tokens": 4, "kept": 4, "unknown": 1, "starts": [0, 6], "ends": [5, 9]})
    );
    assert_eq!((&out["texts"][1]["tokens"], &out["max_tokens"]), (&json!(2), &json!(WINDOW)));
    // Many are counted side by side, and come back in their order.
    let many: Vec<String> = (0..300).map(|n| "river ".repeat(n % 5)).collect();
    let out = ask(&mesh, "mean", "Tokenize", json!({ "texts": many })).await.expect("counted");
    let counted = out["texts"].as_array().expect("texts").iter().map(|one| one["tokens"].as_u64());
    assert_eq!(
        counted.collect::<Option<Vec<u64>>>(),
        Some((0..300).map(|n| n % 5 + 2).collect::<Vec<u64>>())
    );
    let asked = ask(
        &mesh,
        "mean",
        "Tokenize",
        json!({"texts": ["river zzz"], "role": "query", "offsets": true}),
    )
    .await
    .expect("counted");
    assert_eq!(
        asked["texts"][0],
        json!({"tokens": 6, "kept": 6, "unknown": 1, "starts": [0, 6], "ends": [5, 9]})
    );
    let out =
        ask(&mesh, "mean", "EmbedText", json!({"texts": ["zzz yyy"]})).await.expect("embedded");
    assert_eq!(out["unknown"], json!([{"index": 0, "unknown": 2}]));
    assert!(out["warnings"].to_string().contains("does not know"), "{out}");
}

#[tokio::test]
async fn a_folder_that_leaves_open_how_to_pool_is_refused_until_it_is_said() {
    let setup = Setup::new(&[shipped("broker")]).context("prod").real_model();
    let model = MadeModel::default();
    let cards = [
        card(&setup, "mute", &model, ""),
        card(&setup, "told", &model, "BRAHMAN_EMBED_POOLING = \"cls\"\n"),
    ];
    let mesh = setup.with_cards(&cards).up().await;
    let reason =
        mesh.when_module("embed-mute", ModuleState::Failed).await.reason.unwrap_or_default();
    assert!(
        ["BRAHMAN_EMBED_POOLING", "weightedmean", "brahman.json"]
            .iter()
            .all(|word| reason.contains(word)),
        "{reason}"
    );
    mesh.when_module("embed-told", ModuleState::Ready).await;
    let out = ask(&mesh, "told", "EmbedText", json!({"texts": ["river"]})).await.expect("embedded");
    near(&out["vectors"][0], &MadeModel::pooled_by(&["cls_token"]).vector("", "river"), "cls");
    let info = ask(&mesh, "told", "Info", json!({})).await.expect("info");
    assert!(
        info["recipe"]["overrides"][0]
            .as_str()
            .is_some_and(|said| said.contains("BRAHMAN_EMBED_POOLING")),
        "{info}"
    );
    // As a person asks before there is a Card.
    let folder = mesh.folder.path().join("model-mute");
    let check = mesh.brahman(&["models", "check", &folder.display().to_string()]);
    assert!(
        !check.status.success() && String::from_utf8_lossy(&check.stderr).contains("lasttoken"),
        "{check:?}"
    );
    std::fs::write(folder.join("brahman.json"), r#"{"pooling": "mean"}"#).expect("written");
    let check = mesh.brahman(&["models", "check", &folder.display().to_string()]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(
        check.status.success()
            && said.contains("pooled by mean")
            && said.contains("window of 12 tokens"),
        "{check:?}"
    );
}
