//! Rerankers on the mesh: cross-encoders of several kinds, each right by a computation in 64 bits;
//! the mock; and searches in their order.

use brahman_card::{Fault, ModuleState};
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, ClientError, Connection};
use brahman_tests::made_models::VOID;
use brahman_tests::made_pairs::{MadePairModel, PAIR_WINDOW};
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::{Value, json};

const QUERY: &str = "river music";
const TEXTS: [&str; 6] = [
    "stone bread",
    "river",
    "music winter garden paper mesh silver river",
    "the mesh of silver",
    "garden stone river music winter paper card mesh silver bread garden river stone music",
    "bread",
];

/// A Card for rerank-real with this model, made in the mesh's folder.
fn card(setup: &Setup, name: &str, model: &MadePairModel) -> (String, String) {
    let folder = setup.cache().with_file_name(format!("model-{name}"));
    model.write(&folder);
    let (_, text) = shipped("rerank-real");
    let label = format!("label = \"rerank-{name}\"\nattributes = {{ model = \"model-{name}\" }}");
    let text = text.replace("label = \"rerank-real\"", &label);
    (
        format!("rerank-{name}"),
        format!("{text}\n[environment]\nBRAHMAN_RERANK_MODEL = \"{}\"\n", folder.display()),
    )
}

/// A mesh with these models, all of them at once.
async fn mesh_of(models: &[(&str, MadePairModel)]) -> Mesh {
    let setup = Setup::new(&[shipped("broker")])
        .context("prod")
        .real_model()
        .env("BRAHMAN_RERANK_THREADS", "2");
    let cards: Vec<_> = models.iter().map(|(name, model)| card(&setup, name, model)).collect();
    let mesh = setup.with_cards(&cards).up().await;
    for (name, _) in models {
        mesh.when_module(&format!("rerank-{name}"), ModuleState::Ready).await;
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
        encode_call(&format!("org.brahman.Rerank.{method}"), &parameters, &options, false, false)?;
    let mut connection = Connection::connect(&mesh.socket()).await?;
    Ok(connection.exchange(&message).await?.typed::<Value>()?.value)
}

fn fault(outcome: Result<Value, ClientError>) -> Fault {
    match outcome {
        Err(ClientError::Fault(fault)) => fault,
        other => panic!("expected an error reply, got {other:?}"),
    }
}

/// Places of the texts in a reply, and that their scores are the model's.
#[track_caller]
fn order(
    out: &Value,
    model: &MadePairModel,
    query: &str,
    texts: &[String],
    what: &str,
) -> Vec<usize> {
    let results = out["results"].as_array().unwrap_or_else(|| panic!("{what}: {out}"));
    let mut order = Vec::new();
    for one in results {
        let index = usize::try_from(one["index"].as_u64().expect("a place")).expect("small");
        let (got, want) =
            (one["score"].as_f64().expect("a score"), model.score(query, &texts[index]));
        assert!(
            (got - want).abs() < 1e-4 * want.abs().max(1.0),
            "{what}: {:?} has {got}, expected {want}",
            texts[index]
        );
        order.push(index);
    }
    let scores: Vec<f64> = order.iter().map(|at| model.score(query, &texts[*at])).collect();
    assert!(
        scores.windows(2).all(|pair| pair[0] >= pair[1] - 1e-4 * pair[1].abs().max(1.0)),
        "{what}: {scores:?}"
    );
    order
}

fn texts() -> Vec<String> {
    TEXTS.map(str::to_owned).into()
}

#[tokio::test]
async fn every_kind_of_cross_encoder_gives_the_scores_that_its_files_say() {
    let identity = Some("linear.Identity");
    let models = [
        ("open", MadePairModel::default()),
        ("identity", MadePairModel { activation: identity, seed: 1, ..MadePairModel::default() }),
        ("two", MadePairModel { two: true, seed: 2, ..MadePairModel::default() }),
        (
            "two-identity",
            MadePairModel { two: true, activation: identity, seed: 3, ..MadePairModel::default() },
        ),
        (
            "roberta",
            MadePairModel {
                roberta: true,
                activation: Some("activation.Sigmoid"),
                seed: 4,
                ..MadePairModel::default()
            },
        ),
        (
            "second",
            MadePairModel {
                only_second: true,
                activation: identity,
                seed: 5,
                ..MadePairModel::default()
            },
        ),
    ];
    let mesh = mesh_of(&models).await;
    let texts = texts();
    for (name, model) in &models {
        let out = ask(&mesh, name, "Rerank", json!({"query": QUERY, "texts": texts}))
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut all = order(&out, model, QUERY, &texts, name);
        let is_sigmoid = model.activation != identity;
        assert_eq!(
            (&out["model"], &out["sigmoid"], &out["precision"]),
            (&json!(format!("model-{name}")), &json!(is_sigmoid), &json!("fp32"))
        );
        // What was cut is said, and how much of it.
        let truncated = out["truncated"].as_array().expect("a list");
        let long = TEXTS
            .iter()
            .position(|text| model.tokens(QUERY, text) > PAIR_WINDOW)
            .expect("one is long");
        assert_eq!(truncated.len(), 1, "{name}: {out}");
        assert_eq!(
            (&truncated[0]["index"], &truncated[0]["tokens"], &truncated[0]["kept"]),
            (&json!(long), &json!(model.tokens(QUERY, TEXTS[long])), &json!(PAIR_WINDOW))
        );
        let read: usize = TEXTS.iter().map(|text| model.tokens(QUERY, text).min(PAIR_WINDOW)).sum();
        assert_eq!(out["tokens"], read, "{name}");
        let best = ask(&mesh, name, "Rerank", json!({"query": QUERY, "texts": texts, "top_n": 2}))
            .await
            .expect("ordered");
        assert_eq!(order(&best, model, QUERY, &texts, name), all[..2]);
        all.sort_unstable();
        assert_eq!(all, (0..TEXTS.len()).collect::<Vec<_>>());
        // A query that is longer than the texts, and in a company of one.
        let query = TEXTS[4];
        let asked = ask(&mesh, name, "Rerank", json!({"query": query, "texts": [TEXTS[0]]})).await;
        if model.only_second {
            let refused = fault(asked);
            assert_eq!(
                (refused.name.as_ref(), &refused.parameters["index"]),
                ("org.brahman.Rerank.PairTooLong", &json!(0)),
                "{refused}"
            );
        } else {
            let out = asked.expect("ordered");
            order(&out, model, query, &texts[..1], name);
            assert_eq!(out["truncated"][0]["query"], true, "{out}");
        }
        let refused = fault(
            ask(&mesh, name, "Rerank", json!({"query": QUERY, "texts": texts, "truncate": false}))
                .await,
        );
        assert!(
            refused.name == "org.brahman.Rerank.PairTooLong" && refused.message().contains("16"),
            "{refused}"
        );
        let info = ask(&mesh, name, "Info", json!({})).await.expect("info");
        assert_eq!(
            (&info["max_tokens"], &info["sigmoid"], &info["mock"]),
            (&json!(PAIR_WINDOW), &json!(is_sigmoid), &json!(false))
        );
        assert_eq!(info["fingerprint"], out["fingerprint"]);
        let (labels, truncation) = (
            if model.two { 2 } else { 1 },
            if model.only_second { "only_second" } else { "longest_first" },
        );
        assert_eq!(
            (&info["recipe"]["labels"], &info["recipe"]["truncation"]),
            (&json!(labels), &json!(truncation)),
            "{info}"
        );
    }
    // Hundreds of texts of all lengths, in as many passes as they need, while others ask.
    let vocabulary: Vec<&str> = TEXTS[2].split(' ').collect();
    let of_length = |n: usize| {
        (0..n % 14).map(|k| vocabulary[(n + k) % vocabulary.len()]).collect::<Vec<_>>().join(" ")
    };
    let many: Vec<String> = (0..400).map(of_length).collect();
    let (name, model) = &models[1];
    let large = ask(&mesh, name, "Rerank", json!({"query": QUERY, "texts": many}));
    let small = ask(&mesh, name, "Rerank", json!({"query": QUERY, "texts": texts}));
    let (large, small) = tokio::join!(large, small);
    assert_eq!(order(&large.expect("ordered"), model, QUERY, &many, "large").len(), many.len());
    order(&small.expect("ordered"), model, QUERY, &texts, "small");
    let none = ask(&mesh, name, "Rerank", json!({"query": QUERY, "texts": []}))
        .await
        .expect("nothing to order");
    assert_eq!(none["results"], json!([]));
    for (parameters, words) in [
        (json!({"query": " ", "texts": ["x"]}), "query"),
        (json!({"query": "x", "texts": ["x"], "top_n": 0}), "top_n"),
        (json!({"query": "x", "texts": ["x"], "topn": 1}), "topn"),
    ] {
        let refused = fault(ask(&mesh, name, "Rerank", parameters).await);
        assert!(
            refused.name == "org.varlink.service.InvalidParameter"
                && refused.message().contains(words),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_text_without_a_score_is_named_and_loses_no_other() {
    let model = MadePairModel::default();
    let mesh = mesh_of(&[("one", model.clone())]).await;
    let texts: Vec<String> =
        ["river".to_owned(), format!("stone {VOID}"), "bread music".to_owned()].into();
    let refused = fault(ask(&mesh, "one", "Rerank", json!({"query": QUERY, "texts": texts})).await);
    assert_eq!(
        (refused.name.as_ref(), &refused.parameters["index"]),
        ("org.brahman.Rerank.BadOutput", &json!(1))
    );
    assert!(!refused.retryable() && refused.message().contains("text 1"), "{refused}");
    let out = ask(&mesh, "one", "Rerank", json!({"query": QUERY, "texts": texts, "partial": true}))
        .await
        .expect("answered");
    assert_eq!(order(&out, &model, QUERY, &texts, "partial").len(), 2);
    assert_eq!(
        (&out["failed"][0]["index"], &out["failed"][0]["error"]),
        (&json!(1), &json!("org.brahman.Rerank.BadOutput"))
    );
}

#[tokio::test]
async fn without_a_model_the_module_says_so_and_what_is_none_is_refused_by_its_name() {
    let setup = Setup::new(&[shipped("broker"), shipped("rerank-real"), shipped("rerank-mock")])
        .context("prod")
        .real_model();
    let mesh = setup.up().await;
    let reason =
        mesh.when_module("rerank-real", ModuleState::Failed).await.reason.unwrap_or_default();
    assert!(reason.contains("no model") && reason.contains("BRAHMAN_RERANK_MODEL"), "{reason}");
    // In `prod` no mock stands in.
    let refused =
        mesh.fault("org.brahman.Rerank.Rerank", json!({"query": "x", "texts": ["y"]})).await;
    assert_eq!(refused.name, "org.brahman.Broker.NoProvider");
    assert_eq!(mesh.brahman_with(&["rerank", "x"], b"y\n").status.code(), Some(4));
    // As a person asks before there is a Card.
    let folder = mesh.folder.path().join("model-check");
    MadePairModel { activation: Some("linear.Identity"), ..MadePairModel::default() }
        .write(&folder);
    let check = mesh.brahman(&["models", "check", &folder.display().to_string()]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(
        check.status.success()
            && said.contains("a cross-encoder, a number a pair")
            && said.contains("identity"),
        "{check:?}"
    );
    std::fs::write(folder.join("brahman.json"), r#"{"activation": "tanh"}"#).expect("written");
    let check = mesh.brahman(&["models", "check", &folder.display().to_string()]);
    assert!(
        !check.status.success() && String::from_utf8_lossy(&check.stderr).contains("tanh"),
        "{check:?}"
    );
}

#[tokio::test]
async fn the_mock_orders_by_shared_words_for_people_and_programs() {
    let mesh = Setup::new(&[shipped("broker"), shipped("rerank-mock")]).context("test").up().await;
    mesh.when_module("rerank-mock", ModuleState::Ready).await;
    let ask = json!({"query": "where do backups go", "texts": ["bread", "backups go here", "backups"], "top_n": 2});
    let out = mesh.call("org.brahman.Rerank.Rerank", ask.clone()).await.expect("ordered");
    assert_eq!((&out["results"][0]["index"], &out["results"][1]["index"]), (&json!(1), &json!(2)));
    assert_eq!(
        (&out["mock"], &out["model"], out["results"].as_array().map(Vec::len)),
        (&json!(true), &json!("mock-overlap"), Some(2))
    );
    let again = mesh.call("org.brahman.Rerank.Rerank", ask).await.expect("ordered");
    assert_eq!(again["results"], out["results"], "the same for ever");
    // Lines of standard input, and files.
    let lines = mesh.brahman_with(
        &["rerank", "where do backups go", "-", "--top-n", "1", "--json"],
        b"bread\n\nbackups go here\n",
    );
    let lines: Value = serde_json::from_slice(&lines.stdout).expect("JSON");
    assert_eq!(
        (&lines["sources"], &lines["results"][0]["index"]),
        (&json!(["line 3"]), &json!(1)),
        "{lines}"
    );
    let file = mesh.folder.path().join("backups.md");
    std::fs::write(&file, "Backups go to the bucket called rescue.").expect("written");
    let shown = mesh.brahman(&["rerank", "where do backups go", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.status.success() && said.contains("0.364") && said.contains("backups.md"),
        "{shown:?}"
    );
    let none = mesh.brahman(&["rerank", "where", "/no/such/file"]);
    assert_eq!(none.status.code(), Some(6), "{none:?}");
}

#[tokio::test]
async fn a_rerankers_death_is_a_slower_answer() {
    let model = MadePairModel::default();
    let mesh = mesh_of(&[("one", model.clone())]).await;
    let texts = texts();
    for _ in 0..3 {
        let pid = mesh.module("rerank-one").await.pid;
        mesh.signal(pid, "KILL");
        let out = ask(&mesh, "one", "Rerank", json!({"query": QUERY, "texts": texts}))
            .await
            .expect("ordered");
        order(&out, &model, QUERY, &texts, "after a death");
        mesh.when(|m| {
            m.iter().any(|m| {
                m.card.label.as_str() == "rerank-one"
                    && m.state == ModuleState::Ready
                    && m.pid != pid
            })
        })
        .await;
    }
}

/// A mesh with an index `t` of some texts about topics, embedded by the mock.
async fn indexed(cards: &[&str]) -> Mesh {
    let cards: Vec<_> = ["broker", "embed-mock", "catalog", "ingest", "index"]
        .iter()
        .chain(cards)
        .map(|name| shipped(name))
        .collect();
    let mesh = Setup::new(&cards).context("test").up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let csv = mesh.folder.path().join("table.csv");
    let rows = (0..40).map(|n| {
        format!(
            "doc-{n},chapter {n} speaks of topic{} and of things{}\n",
            n % 7,
            " more".repeat(n % 5)
        )
    });
    std::fs::write(&csv, format!("id,text\n{}", rows.collect::<String>())).expect("written");
    mesh.brahman_json(&["ingest", "files", "t", &csv.display().to_string()]);
    mesh.brahman_json(&["index", "create", "t", "--dataset", "t"]);
    mesh.brahman_json(&["index", "refresh", "t"]);
    mesh
}

/// The share of words that two texts have in common, as the mock counts it.
fn overlap(query: &str, text: &str) -> f64 {
    let words = |text: &str| {
        text.split_whitespace().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    let (query, text) = (words(query), words(text));
    2.0 * query.intersection(&text).count() as f64 / (query.len() + text.len()) as f64
}

#[tokio::test]
async fn a_search_comes_in_the_rerankers_order_and_says_whose_it_is() {
    let mesh = indexed(&["rerank-mock"]).await;
    let query = "chapter 12 speaks of topic5";
    let plain = mesh.brahman_json(&["search", "t", query, "-k", "20"]);
    assert!(
        plain["reranked"].is_null() && plain["results"][0][0]["search_score"].is_null(),
        "{plain}"
    );
    let scores: Vec<f64> = plain["results"][0]
        .as_array()
        .expect("hits")
        .iter()
        .map(|hit| hit["score"].as_f64().expect("a score"))
        .collect();
    for mode in ["--semantic", "--hybrid", "--lexical"] {
        let out = mesh.brahman_json(&["search", "t", query, "-k", "5", mode, "--rerank=20"]);
        let hits = out["results"][0].as_array().expect("hits");
        assert_eq!(hits.len(), 5, "{mode}: {out}");
        let mut last = f64::INFINITY;
        for hit in hits {
            let (score, text) =
                (hit["score"].as_f64().expect("a score"), hit["text"].as_str().expect("a text"));
            assert!((score - overlap(query, text)).abs() < 1e-6 && score <= last, "{mode}: {hit}");
            assert!(hit["search_score"].is_number(), "{hit}");
            last = score;
        }
        assert_eq!(hits[0]["doc_id"], "doc-12", "{mode}: {out}");
        let report = &out["reranked"];
        assert_eq!(
            (&report["done"], &report["model"], &report["provider"]),
            (&json!(true), &json!("mock-overlap"), &json!("rerank-mock"))
        );
        assert_eq!(
            (&report["mock"], out["elapsed_us"]["rerank"].is_number()),
            (&json!(true), true)
        );
        if mode == "--semantic" {
            assert_eq!(report["candidates"], 20);
            let found: Vec<f64> =
                hits.iter().map(|hit| hit["search_score"].as_f64().expect("a score")).collect();
            assert!(
                found.iter().all(|score| scores.iter().any(|one| (one - score).abs() < 1e-6)),
                "{found:?} {scores:?}"
            );
        }
    }
    let person = mesh.brahman(&["search", "t", query, "-k", "2", "--rerank"]);
    let said = String::from_utf8_lossy(&person.stdout).into_owned();
    assert!(
        person.status.success() && said.contains("reranked 40 hits by mock-overlap (rerank-mock)"),
        "{person:?}"
    );
    for (parameters, words) in [
        (json!({"index": "t", "vector": vec![1.0; 32], "rerank": {}}), "rerank"),
        (
            json!({"index": "t", "text": "x", "k": 10, "rerank": {"candidates": 5}}),
            "rerank.candidates",
        ),
        (json!({"index": "t", "text": "x", "rerank": {"candidate": 5}}), "candidate"),
    ] {
        let fault = mesh.fault("org.brahman.Index.Search", parameters).await;
        assert!(
            fault.name == "org.varlink.service.InvalidParameter" && fault.message().contains(words),
            "{fault}"
        );
    }
    let absent = mesh
        .fault(
            "org.brahman.Index.Search",
            json!({"index": "t", "text": "x", "rerank": {"model": "none-such"}}),
        )
        .await;
    assert_eq!(absent.name, "org.brahman.Broker.NoProvider", "another model is no answer");
}

#[tokio::test]
async fn where_nobody_reranks_a_search_is_an_error_unless_its_own_order_will_do() {
    let mesh = indexed(&[]).await;
    let query = "chapter 12 speaks of topic5";
    let fault = mesh
        .fault("org.brahman.Index.Search", json!({"index": "t", "text": query, "rerank": {}}))
        .await;
    assert_eq!(fault.name, "org.brahman.Broker.NoProvider");
    let plain = mesh.brahman_json(&["search", "t", query, "-k", "5"]);
    let out =
        mesh.brahman_json(&["search", "t", query, "-k", "5", "--rerank", "--rerank-optional"]);
    assert_eq!(out["results"], plain["results"], "the search's own");
    assert_eq!(
        (&out["reranked"]["done"], &out["reranked"]["error"]),
        (&json!(false), &json!("org.brahman.Broker.NoProvider"))
    );
    let person = mesh.brahman(&["search", "t", query, "--rerank", "--rerank-optional"]);
    assert!(
        person.status.success() && String::from_utf8_lossy(&person.stderr).contains("not reranked"),
        "{person:?}"
    );
}
