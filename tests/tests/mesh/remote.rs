//! Embedding on servers that somebody else runs: in each of their dialects, through whatever goes
//! wrong with them, and with another one to take over.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::time::{Duration, Instant};

use brahman_card::{ModuleRecord, ModuleState};
use brahman_sidecar::{CallOptions, Connection, client};
use brahman_tests::embed_server::{DIM, EmbedServer, EmbedTrouble, WINDOW, vector};
use brahman_tests::{Mesh, PATIENCE, Setup, repository, shipped};
use serde_json::{Value, json};

/// The key that servers want here.
const KEY: &str = "sk-hunter2";

/// The Card of the examples, for this server; more of its environment behind.
fn card(
    label: &str,
    dialect: &str,
    server: &EmbedServer,
    model: &str,
    environment: &str,
) -> (String, String) {
    let path = repository().join("examples/remote-embeddings/embed-http.toml");
    let text = std::fs::read_to_string(path).expect("the example");
    let (head, _) = text.split_once("\n[environment]\n").expect("an environment");
    let head = head
        .replace("label = \"embed-http\"", &format!("label = \"{label}\""))
        .replace("nomic-embed-text", model);
    let url = server.url();
    let own = format!(
        "BRAHMAN_EMBED_SERVER = \"{dialect}+{url}\"\nBRAHMAN_EMBED_SERVER_MODEL = \"{model}\"\n{environment}"
    );
    (label.to_owned(), format!("{head}\n[environment]\n{own}"))
}

async fn up(cards: &[(String, String)]) -> Mesh {
    let mesh = Setup::new(&[shipped("broker")]).with_cards(cards).context("prod").up().await;
    for (label, _) in cards {
        mesh.when_module(label, ModuleState::Ready).await;
    }
    mesh
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn numbers(vector: &Value) -> Vec<f64> {
    vector.as_array().expect("a vector").iter().map(|x| x.as_f64().expect("a number")).collect()
}

#[track_caller]
fn near(got: &Value, want: &[f64]) {
    let got = numbers(got);
    assert_eq!(got.len(), want.len());
    assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5), "{got:?}, expected {want:?}");
}

async fn embed(mesh: &Mesh, texts: &[&str]) -> Value {
    mesh.call("org.brahman.Embed.EmbedText", json!({ "texts": texts }))
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", mesh.log()))
}

#[tokio::test]
async fn each_dialect_is_spoken_and_what_is_cached_costs_no_request() {
    for (dialect, model) in [("openai", "text-small"), ("ollama", "nomic"), ("tei", "acme/tei")] {
        let server = EmbedServer::start(None);
        let prompts = "BRAHMAN_EMBED_PROMPT_QUERY = \"q: \"\nBRAHMAN_EMBED_DIMENSIONS = \"4\"\n";
        let mesh = up(&[card("embed-http", dialect, &server, model, prompts)]).await;
        let texts: Vec<String> = (0..9).map(|i| format!("text {i}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let out = embed(&mesh, &texts).await;
        assert_eq!(
            (&out["model"], &out["dim"], &out["cached"]),
            (&json!(model), &json!(DIM), &json!(0)),
            "{dialect}: {out}"
        );
        for (got, text) in out["vectors"].as_array().expect("vectors").iter().zip(&texts) {
            near(got, &vector(model, text, DIM));
        }
        let asked = server.seen().len();
        assert_eq!(embed(&mesh, &texts).await["cached"], 9);
        assert_eq!(server.seen().len(), asked, "{dialect}: nothing is asked twice");

        // A prompt is put before, vectors are cut, and both are said.
        let ask = json!({ "texts": ["x"], "role": "query", "dimensions": 4 });
        let out = mesh.call("org.brahman.Embed.EmbedText", ask).await.expect("an answer");
        assert_eq!((&out["prompt"], &out["dim"]), (&json!("q: "), &json!(4)));
        let whole = vector(model, "q: x", DIM);
        let length = whole[..4].iter().map(|x| x * x).sum::<f64>().sqrt();
        near(&out["vectors"][0], &whole[..4].iter().map(|x| x / length).collect::<Vec<f64>>());

        // What it is known by, and what it did when it was tried.
        let info = mesh.call("org.brahman.Embed.Info", json!({})).await.expect("an answer");
        assert!(
            info["fingerprint"].as_str().is_some_and(|print| print.starts_with("by-name-")),
            "{info}"
        );
        let probe = json!({ "url": server.url(), "dialect": dialect, "distance": 0.0, "long_texts": "refused", "verified": true });
        assert_eq!(info["server"], probe, "{dialect}");
        let attributes = mesh.module("embed-http").await.attributes;
        assert_eq!(
            (attributes["determinism"].as_str(), attributes["dim"].as_str()),
            ("same bits", "8")
        );

        // A long text is refused, or cut if the call wants that and the server can.
        let long = "y".repeat(WINDOW + 1);
        let fault =
            mesh.fault("org.brahman.Embed.EmbedText", json!({ "texts": ["short", long] })).await;
        assert_eq!(
            (&*fault.name, &fault.parameters["index"]),
            ("org.brahman.Embed.BadOutput", &json!(1)),
            "{fault}"
        );
        let ask = json!({ "texts": ["short", long], "truncate": true, "partial": true });
        let out = mesh.call("org.brahman.Embed.EmbedText", ask).await.expect("an answer");
        near(&out["vectors"][0], &vector(model, "short", DIM));
        if dialect == "openai" {
            assert_eq!(out["failed"][0]["index"], 1, "{out}");
        } else {
            near(&out["vectors"][1], &vector(model, &long[..WINDOW], DIM));
            assert_eq!(
                out["truncated"],
                json!([{ "index": 1, "tokens": WINDOW + 1, "kept": WINDOW, "at_least": true }])
            );
            let fault = mesh.fault("org.brahman.Embed.EmbedText", json!({ "texts": [long] })).await;
            assert_eq!(
                fault.name, "org.brahman.Embed.TextTooLong",
                "the cache knows that it was cut"
            );
        }
        let fault = mesh.fault("org.brahman.Embed.Tokenize", json!({ "texts": ["x"] })).await;
        assert_eq!(fault.name, "org.varlink.service.MethodNotImplemented");
    }
}

#[tokio::test]
async fn what_a_server_does_wrong_harms_no_other_text() {
    let server = EmbedServer::start(None);
    let mesh = up(&[card("embed-http", "openai", &server, "m", "")]).await;
    let good = async |words: [&str; 2]| {
        let out = embed(&mesh, &words).await;
        near(&out["vectors"][0], &vector("m", words[0], DIM));
        near(&out["vectors"][1], &vector("m", words[1], DIM));
    };
    server.always(EmbedTrouble::Reversed);
    good(["a", "b"]).await;
    server.always(EmbedTrouble::Base64);
    good(["c", "d"]).await;
    // Too few for two texts; each by itself is answered.
    server.always(EmbedTrouble::Fewer);
    good(["e", "f"]).await;
    // Busy, and broken for a moment.
    for (status, header) in [(429, Some(("Retry-After", "0".to_owned()))), (500, None)] {
        let mut times = 2;
        server.when(move |_| {
            if times == 0 {
                return EmbedTrouble::None;
            }
            times -= 1;
            EmbedTrouble::Status(status, header.clone())
        });
        good([format!("g{status}").as_str(), format!("h{status}").as_str()]).await;
    }
    // A number that is none.
    server.always(EmbedTrouble::Null("poison"));
    let ask = json!({ "texts": ["one", "poison", "two"], "partial": true });
    let out = mesh.call("org.brahman.Embed.EmbedText", ask).await.expect("an answer");
    near(&out["vectors"][0], &vector("m", "one", DIM));
    near(&out["vectors"][2], &vector("m", "two", DIM));
    assert_eq!(
        (&out["failed"][0]["index"], &out["failed"][0]["error"]),
        (&json!(1), &json!("org.brahman.Embed.BadOutput")),
        "{out}"
    );
    // What is no answer at all.
    server.always(EmbedTrouble::Body(b"<!doctype html><h1>Welcome to nginx!</h1>".to_vec()));
    let fault = mesh.fault("org.brahman.Embed.EmbedText", json!({ "texts": ["other"] })).await;
    assert!(fault.message().contains("Welcome to nginx"), "{fault}");
    // One that has no time says when it has.
    server.always(EmbedTrouble::Status(429, Some(("Retry-After", "3600".to_owned()))));
    let fault = mesh.fault("org.brahman.Embed.EmbedText", json!({ "texts": ["later"] })).await;
    assert_eq!(
        (&*fault.name, &fault.parameters["retry_after_ms"]),
        ("org.brahman.Broker.Overloaded", &json!(3_600_000)),
        "{fault}"
    );
    // None of it is in the cache.
    server.heal();
    let out = embed(&mesh, &["poison", "other", "later"]).await;
    assert_eq!(out["cached"], 0);
    near(&out["vectors"][0], &vector("m", "poison", DIM));
}

#[tokio::test]
async fn a_key_is_sent_and_a_wrong_one_is_named_but_not_shown() {
    let server = EmbedServer::start(Some(KEY));
    let secrets = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(
        secrets.path(),
        format!("[right]\npassword = \"{KEY}\"\n[wrong]\npassword = \"sk-other\"\n"),
    )
    .expect("written");
    std::fs::set_permissions(secrets.path(), std::fs::Permissions::from_mode(0o600)).expect("set");
    let with = |label: &str, token: &str| card(label, "openai", &server, "m", token);
    let cards = [
        with("embed-right", "BRAHMAN_EMBED_TOKEN = \"secret:right\"\n"),
        with("embed-wrong", "BRAHMAN_EMBED_TOKEN = \"secret:wrong\"\n"),
        with("embed-none", ""),
        with("embed-written", &format!("BRAHMAN_EMBED_TOKEN = \"{KEY}\"\n")),
    ];
    let mesh = Setup::new(&[shipped("broker")])
        .with_cards(&cards)
        .context("prod")
        .env("BRAHMAN_SECRETS", secrets.path())
        .up()
        .await;
    mesh.when_module("embed-right", ModuleState::Ready).await;
    assert!(server.seen().iter().any(|request| request.token.as_deref() == Some(KEY)));
    for (label, words) in [
        ("embed-wrong", ["[wrong]", "401"]),
        ("embed-none", ["BRAHMAN_EMBED_TOKEN", "401"]),
        ("embed-written", ["secret:NAME", "secrets file"]),
    ] {
        let reason = mesh.when_module(label, ModuleState::Failed).await.reason.unwrap_or_default();
        assert!(words.iter().all(|word| reason.contains(word)), "{label}: {reason}");
    }
    assert!(!mesh.log().contains("sk-other") && !mesh.log().contains(KEY), "{}", mesh.log());
}

#[tokio::test]
async fn a_server_that_is_away_leaves_what_is_cached_and_another_takes_over() {
    let (first, second) = (EmbedServer::start(None), EmbedServer::start(None));
    let leading = card("embed-first", "ollama", &first, "one", "");
    let leading = (leading.0, leading.1.replace("priority_offset = 10", "priority_offset = 20"));
    let mesh = up(&[leading, card("embed-second", "tei", &second, "two", "")]).await;
    let model = async |text: &str| embed(&mesh, &[text]).await["model"].clone();
    assert_eq!(model("kept").await, "one");

    first.always(EmbedTrouble::Gone);
    assert_eq!(model("kept").await, "one", "what is cached needs no server");
    assert_eq!(model("new").await, "two", "what is not is another's");
    assert_eq!(model("kept").await, "one");
    let out = embed(&mesh, &["kept"]).await;
    assert!(out["warnings"].to_string().contains("only cached vectors"), "{out}");
    // Whoever wants this model and no other is told why there is no answer.
    let out = mesh.brahman(&["embed", "newer", "--model", "one"]);
    assert!(!out.status.success() && said(&out).contains("/api/embed"), "{out:?}");

    // It starts without its server, as it was known to be.
    mesh.brahman_json(&["restart", "embed-first"]);
    let is_back = |m: &ModuleRecord| {
        m.card.label.as_str() == "embed-first" && m.incarnation > 1 && m.state == ModuleState::Ready
    };
    mesh.when(|modules| modules.iter().any(is_back)).await;
    assert_eq!(model("kept").await, "one");
    let asked = mesh.brahman_json(&["call", "embed.Info", "--require", "model=one"]);
    assert_eq!(asked["server"]["verified"], false, "{asked}");

    first.heal();
    // There is no event for a server's return: it is asked by the calls that come.
    let begun = Instant::now();
    let mut number = 0;
    while model(&format!("text {number}")).await != "one" {
        assert!(begun.elapsed() < PATIENCE, "{}", mesh.log());
        number += 1;
    }
    assert_eq!(
        mesh.brahman_json(&["call", "embed.Info", "--require", "model=one"])["server"]["verified"],
        true
    );
}

#[tokio::test]
async fn a_caller_in_a_hurry_takes_the_server_from_nobody() {
    let server = EmbedServer::start(None);
    let mesh =
        up(&[card("embed-http", "ollama", &server, "m", "BRAHMAN_EMBED_CONCURRENCY = \"1\"\n")])
            .await;
    server.when(|request| {
        let is_slow = request.texts.iter().any(|text| text.contains("slow"));
        if is_slow { EmbedTrouble::Silent } else { EmbedTrouble::None }
    });
    for text in ["slow", "as slow"] {
        let options =
            CallOptions { deadline: Some(Duration::from_millis(400)), ..CallOptions::default() };
        let ask = json!({ "texts": [text] });
        let message =
            client::encode_call("org.brahman.Embed.EmbedText", &ask, &options, false, false)
                .expect("a call");
        let mut connection = Connection::connect(&mesh.socket()).await.expect("connected");
        let error = connection.exchange(&message).await.expect_err("too late");
        assert!(error.to_string().contains("DeadlineExceeded"), "{error}");
        // Who waits is answered.
        let new = format!("not {text}").replace("slow", "late");
        let out = embed(&mesh, &[new.as_str()]).await;
        near(&out["vectors"][0], &vector("m", &new, DIM));
        assert!(!out["warnings"].to_string().contains("only cached vectors"), "{out}");
    }
    assert!(!mesh.log().contains("only cached vectors"), "{}", mesh.log());
}

#[tokio::test]
async fn another_model_behind_the_name_is_refused() {
    let server = EmbedServer::start(None);
    let mesh = up(&[card("embed-http", "ollama", &server, "m", "")]).await;
    embed(&mesh, &["kept"]).await;

    // Another length today than yesterday, while it runs.
    server.always(EmbedTrouble::Dim(DIM * 2));
    for text in ["new", "newer"] {
        let fault = mesh.fault("org.brahman.Embed.EmbedText", json!({ "texts": [text] })).await;
        assert!(
            fault.message().contains("16 numbers") && fault.message().contains("expected 8"),
            "{fault}"
        );
        assert!(!fault.retryable());
    }
    server.heal();
    let fault = mesh.fault("org.brahman.Embed.EmbedText", json!({ "texts": ["new"] })).await;
    assert!(
        fault.message().contains("another model"),
        "one that has changed once is not trusted again: {fault}"
    );
    assert_eq!(embed(&mesh, &["kept"]).await["cached"], 1);

    // And when it starts: of another length, or with other vectors of the same.
    for trouble in [EmbedTrouble::Dim(DIM * 2), EmbedTrouble::OtherModel] {
        server.always(trouble);
        let _ = mesh.brahman(&["restart", "embed-http"]);
        let reason =
            mesh.when_module("embed-http", ModuleState::Failed).await.reason.unwrap_or_default();
        assert!(
            reason.contains("BRAHMAN_EMBED_REVISION") && reason.contains("another model"),
            "{reason}"
        );
        server.heal();
        mesh.brahman_json(&["restart", "embed-http"]);
        mesh.when_module("embed-http", ModuleState::Ready).await;
    }
    assert_eq!(
        embed(&mesh, &["kept", "new"]).await["cached"],
        1,
        "nothing of the other is in the cache"
    );

    // One whose answers cannot be right is not used at all.
    let confused = EmbedServer::start(None);
    confused.always(EmbedTrouble::Misordered);
    mesh.write_card(&card("embed-confused", "ollama", &confused, "m", ""));
    mesh.brahman_json(&["reload"]);
    let reason =
        mesh.when_module("embed-confused", ModuleState::Failed).await.reason.unwrap_or_default();
    assert!(reason.contains("another order"), "{reason}");
    // One that cuts in silence is used, and every answer says so.
    let silent = EmbedServer::start(None);
    silent.always(EmbedTrouble::CutInSilence);
    mesh.write_card(&card("embed-silent", "openai", &silent, "silent", ""));
    mesh.brahman_json(&["reload"]);
    mesh.when_module("embed-silent", ModuleState::Ready).await;
    let out = mesh.brahman_json(&["embed", "x", "--model", "silent"]);
    assert!(out["warnings"].to_string().contains("does not say so"), "{out}");
}

#[tokio::test]
async fn a_servers_model_is_enabled_by_a_command() {
    let server = EmbedServer::start(None);
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).up().await;
    let cards = mesh.folder.path().join("cards").display().to_string();
    let url = server.url();
    let enable = [
        "models",
        "enable",
        "--http",
        url.as_str(),
        "--kind",
        "openai",
        "--model",
        "acme/small",
        "--cards",
        cards.as_str(),
    ];
    let enabled = mesh.brahman_json(&enable);
    assert_eq!(
        (&enabled["label"], &enabled["model"]),
        (&json!("embed-small"), &json!("acme/small"))
    );
    mesh.brahman_json(&["reload"]);
    mesh.when_module("embed-small", ModuleState::Ready).await;
    let out = mesh.brahman_json(&["embed", "x", "--model", "acme/small"]);
    near(&out["vectors"][0], &vector("acme/small", "x", DIM));
    mesh.brahman_json(&["models", "disable", "acme/small", "--cards", &cards]);
    mesh.brahman_json(&["reload"]);
    mesh.when(|modules| !modules.iter().any(|module| module.card.label.as_str() == "embed-small"))
        .await;
}
