//! The default model made one of 8 bits, served beside the one of 32: near to it, and the same for
//! a text whatever is beside it.

use std::fmt::Write as _;

use brahman_card::ModuleState;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_tests::{Mesh, Setup, shared_cache, shipped};
use serde_json::{Value, json};

const DEFAULT: &str = "all-MiniLM-L6-v2";
/// Texts that are compared with those of 32 bits.
const TEXTS: usize = 100;
/// Texts that are asked for together, and one by one.
const TOGETHER: usize = 64;

/// Texts of one word to a hundred, from words of a language.
fn texts() -> Vec<String> {
    let words: Vec<&str> = include_str!("../../../README.md")
        .split(|c: char| !c.is_alphabetic())
        .filter(|word| word.len() > 2)
        .collect();
    let mut state = 5_usize;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        words[(state >> 33) % words.len()]
    };
    (0..TEXTS)
        .map(|i| {
            let mut text = next().to_owned();
            for _ in 0..i {
                // Into a `String`, which takes everything.
                let _ = write!(text, " {}", next());
            }
            text
        })
        .collect()
}

/// A call that the broker leads to this model.
async fn ask(mesh: &Mesh, model: &str, method: &str, parameters: Value) -> Value {
    let options = CallOptions {
        require: [("model".to_owned(), model.to_owned())].into(),
        ..CallOptions::default()
    };
    let method = format!("org.brahman.Embed.{method}");
    let message = encode_call(&method, &parameters, &options, false, false).expect("a message");
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connected");
    let reply = connection.exchange(&message).await.expect("answered");
    reply.typed::<Value>().expect("a reply").value
}

async fn vectors(mesh: &Mesh, model: &str, texts: &[String]) -> Vec<Vec<f64>> {
    let out = ask(mesh, model, "EmbedText", json!({"texts": texts})).await;
    assert_eq!(out["model"], model);
    assert_eq!(out["cached"], 0, "computed, and not remembered");
    serde_json::from_value(out["vectors"].clone()).expect("vectors")
}

/// The default model alone, in a cache that is the mesh's own.
fn setup() -> Setup {
    let setup = Setup::new(&["broker", "embed-real"].map(shipped)).context("prod").library();
    let models = setup.cache().join("models");
    std::fs::create_dir(&models).expect("made");
    let default = shared_cache().join("models").join(DEFAULT);
    std::os::unix::fs::symlink(default, models.join(DEFAULT)).expect("linked");
    setup
}

/// `brahman`, with the mesh's folder of Cards.
fn enable(mesh: &Mesh, model: &str) {
    let cards = mesh.folder.path().join("cards").display().to_string();
    mesh.brahman_json(&["models", "enable", model, "--cards", &cards]);
}

#[tokio::test]
async fn the_default_model_in_8_bits_is_near_and_does_not_depend_on_its_company() {
    let mesh = setup().up().await;
    let made = mesh.brahman_json(&["models", "quantize", DEFAULT]);
    assert_eq!((&made["name"], &made["refusal"]), (&json!("all-MiniLM-L6-v2-int8"), &Value::Null));
    // 90 MB in 32 bits: 47 are the words' own vectors, which stay.
    assert!(made["bytes"].as_u64().is_some_and(|bytes| bytes < 72_000_000), "{made}");
    let again = mesh.brahman(&["models", "quantize", DEFAULT]);
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.success() && said.starts_with("present"), "{again:?}");
    // Another of the same, so that what one remembers the other has to compute.
    mesh.brahman_json(&["models", "quantize", DEFAULT, "--name", "alone"]);
    let twice = mesh.brahman(&["models", "quantize", "alone"]);
    let said = String::from_utf8_lossy(&twice.stderr).into_owned();
    assert!(twice.status.code() == Some(6) && said.contains("quantised already"), "{twice:?}");
    let names = ["all-MiniLM-L6-v2-int8", "alone"];
    names.iter().for_each(|name| enable(&mesh, name));
    mesh.brahman_json(&["reload"]);
    for label in ["embed-real", "embed-all-minilm-l6-v2-int8", "embed-alone"] {
        mesh.when_module(label, ModuleState::Ready).await;
    }

    let info = ask(&mesh, names[0], "Info", json!({})).await;
    assert_eq!(
        (&info["recipe"]["precision"], &info["recipe"]["pooling"], &info["dim"]),
        (&json!("int8-blocks"), &json!("mean"), &json!(384)),
        "{info}"
    );
    let texts = texts();
    let whole = vectors(&mesh, DEFAULT, &texts).await;
    let small = vectors(&mesh, names[0], &texts).await;
    for ((text, whole), small) in texts.iter().zip(&whole).zip(&small) {
        let cosine: f64 = whole.iter().zip(small).map(|(a, b)| a * b).sum();
        assert!(cosine >= 0.999, "{cosine:.5}: {text}");
    }
    // Alone, and beside 63 others of other lengths.
    for i in 0..TOGETHER {
        let at = i * TEXTS / TOGETHER;
        let alone = vectors(&mesh, names[1], &texts[at..=at]).await;
        assert!(alone[0] == small[at], "another vector alone: {}", texts[at]);
    }
}
