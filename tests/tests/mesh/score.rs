//! Scoring: which memories the answers depend on, by the mock and by a real model.

mod conversations;
mod figures;

use brahman_card::ModuleState;
use brahman_card::interface::score::{MatrixSummary, Row};
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_tests::planted::planted;
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::{Value, json};

async fn mock() -> Mesh {
    let mesh = Setup::new(&[shipped("broker"), shipped("score-mock")]).context("test").up().await;
    mesh.when_module("score-mock", ModuleState::Ready).await;
    mesh
}

/// All replies of a streamed matrix.
async fn matrix(mesh: &Mesh, ask: Value) -> (Vec<Row>, MatrixSummary) {
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connected");
    let call =
        encode_call("org.brahman.Score.ScoreMatrix", &ask, &CallOptions::default(), true, false)
            .expect("encoded");
    connection.send(&call).await.expect("sent");
    let mut rows = Vec::new();
    loop {
        let reply = connection.receive().await.expect("a reply");
        let last = !reply.continues;
        let value: Value = reply.typed().expect("no error").value;
        if last {
            return (rows, serde_json::from_value(value).expect("a summary"));
        }
        assert_eq!(value["phase"], "row");
        let mut row = value;
        row.as_object_mut()
            .expect("an object")
            .retain(|k, _| !["phase", "done", "of"].contains(&k.as_str()));
        rows.push(serde_json::from_value(row).expect("a row"));
    }
}

fn total(row: &Row) -> f64 {
    row.divergences.iter().sum()
}

#[tokio::test]
async fn the_memory_that_foretells_an_answer_ranks_first() {
    let mesh = mock().await;
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connected");
    let (mut first, mut elsewhere) = (0, Vec::new());
    for seed in 0..200 {
        let made = planted(seed, 20, 12, 2, 20, true);
        let key = made.foretold_by.iter().flatten().next().expect("one is told").clone();
        let out: Value = connection
            .call(
                "org.brahman.Score.ScoreMatrix",
                &json!({ "conversation": made.conversation, "fresh": true }),
            )
            .await
            .expect("scored");
        let rows: Vec<Row> = serde_json::from_value(out["rows"].clone()).expect("rows");
        assert_eq!(rows.len(), 20);
        let best = rows.iter().max_by(|a, b| total(a).total_cmp(&total(b))).expect("rows");
        first += usize::from(best.key == key);
        elsewhere.extend(rows.iter().filter(|row| row.key != key).map(total));
    }
    elsewhere.sort_by(f64::total_cmp);
    let median = elsewhere[elsewhere.len() / 2];
    println!("first in {first} of 200; another memory's divergence: median {median:.2} nats");
    assert!(first >= 190, "first in {first} of 200");
}

/// The model of two layers that lies in the tests.
fn induction() -> std::path::PathBuf {
    brahman_tests::repository().join("tests/assets/induction")
}

async fn real(more: impl FnOnce(Setup) -> Setup) -> Mesh {
    let setup = Setup::new(&["broker", "score-real", "score-mock"].map(shipped))
        .context("prod")
        .real_model();
    let mesh = more(setup.env("BRAHMAN_SCORE_MODEL", induction())).up().await;
    mesh.when_module("score-real", ModuleState::Ready).await;
    mesh
}

async fn logprobs(mesh: &Mesh, tokens: &[u32]) -> Vec<f64> {
    let out =
        mesh.call("org.brahman.Score.Logprobs", json!({ "tokens": tokens })).await.expect("scored");
    assert_eq!((out["mock"].as_bool(), out["device"].as_str()), (Some(false), Some("cpu")));
    // Nothing is put before ids: nothing precedes the first.
    assert!(out["logprobs"][0].is_null(), "{out}");
    out["logprobs"].as_array().expect("a list").iter().map(|x| x.as_f64().unwrap_or(0.0)).collect()
}

fn entry(role: &str, text: &str) -> Value {
    json!({ "role": role, "text": text })
}

fn memory(key: &str, text: &str) -> Value {
    json!({ "role": "memory", "key": key, "text": text })
}

/// A made-up template of a family, as `tests/assets/templates` has it.
fn template(family: &str) -> String {
    let path = brahman_tests::repository().join(format!("tests/assets/templates/{family}.jinja"));
    std::fs::read_to_string(path).expect("read")
}

#[tokio::test]
async fn a_real_model_tells_the_memory_that_matters_from_a_shuffled_one() {
    let mesh = real(|setup| setup).await;
    let fact = "Renmu keeps the barometer in Tasvoli, behind the second door.";
    let mut shuffled: Vec<char> = fact.chars().collect();
    shuffled.sort_by_key(|c| (*c as u32).wrapping_mul(2_654_435_761) % 97);
    let conversation = json!({ "conversation": [
        memory("shuffled", &shuffled.iter().collect::<String>()),
        memory("other", "Solpe has lent the anchor to somebody in Dirgana last spring."),
        memory("fact", fact),
        entry("user", "Good morning. What is new?"),
        entry("assistant", "Nothing much, it is quiet here."),
        entry("user", "Where is the barometer?"),
        entry("assistant", "Renmu keeps the barometer in Tasvoli."),
    ]});
    let (rows, done) = matrix(&mesh, json!({ "conversation": conversation, "top": 3 })).await;
    assert_eq!((done.memories, done.responses, done.failed), (3, 2, 0));
    assert_eq!((done.model.as_str(), done.mock), ("induction", false));
    let row = |key: &str| rows.iter().find(|row| row.key == key).expect("a row");
    let (fact, shuffled, other) = (row("fact"), row("shuffled"), row("other"));
    assert!(fact.divergences[1] > 20.0, "{fact:?}");
    assert!(shuffled.deltas[1] < 3.0 && other.deltas[1] < 3.0, "{shuffled:?} {other:?}");
    let cell = fact.cells.iter().find(|cell| cell.response == 1).expect("a cell");
    assert_eq!(cell.top.as_ref().map(Vec::len), Some(3));
    assert!(done.noise_floor < 1e-3, "{done:?}");

    // The figures are those of plain passes over the same bytes.
    let bytes = |keep: &[&str]| -> Vec<u32> {
        let entries = conversation["conversation"].as_array().expect("a list").iter();
        let kept = entries
            .filter(|e| e.get("key").and_then(Value::as_str).is_none_or(|k| keep.contains(&k)));
        let text: String = kept
            .map(|e| {
                format!(
                    "{}: {}\n",
                    e["role"].as_str().expect("a role"),
                    e["text"].as_str().expect("text")
                )
            })
            .collect();
        std::iter::once(0).chain(text.bytes().map(u32::from)).collect()
    };
    let response = "Renmu keeps the barometer in Tasvoli.".len();
    let mut sums = Vec::new();
    for keep in [&["shuffled", "other", "fact"][..], &["shuffled", "other"][..]] {
        let plain = logprobs(&mesh, &bytes(keep)).await;
        sums.push(plain[plain.len() - 1 - response..plain.len() - 1].iter().sum::<f64>());
    }
    assert!((sums[0] - sums[1] - fact.deltas[1]).abs() < 1e-3, "{sums:?} {fact:?}");
}

#[tokio::test]
async fn shared_beginnings_are_read_once_and_a_small_budget_only_costs_time() {
    let made = planted(3, 20, 40, 2, 60, false);
    let mesh = real(|setup| setup).await;
    let (rows, done) = matrix(&mesh, json!({ "conversation": made.conversation })).await;
    let (forwarded, naive) = (done.tokens_forwarded, done.tokens_naive);
    assert!((forwarded as f64) < 0.9 * naive as f64, "{forwarded} of {naive}");
    // Asked again nothing is computed, and the answer is the same.
    let (again, done) = matrix(&mesh, json!({ "conversation": made.conversation })).await;
    assert_eq!(done.tokens_forwarded, 0);
    assert!(again.iter().all(|row| row.cached), "{again:?}");
    mesh.down();
    // A budget that holds one state but not two.
    let mesh = real(|setup| setup.env("BRAHMAN_SCORE_BUDGET_MIB", "145")).await;
    let (small, done) = matrix(&mesh, json!({ "conversation": made.conversation })).await;
    assert!(done.tokens_forwarded > forwarded, "{done:?}");
    for (row, other) in rows.iter().zip(&small) {
        assert_eq!(row.key, other.key);
        for (a, b) in row.deltas.iter().zip(&other.deltas) {
            assert!((a - b).abs() < 1e-2, "{}: {a} {b}", row.key);
        }
    }
    mesh.down();
    let mesh = real(|setup| setup.env("BRAHMAN_SCORE_BUDGET_MIB", "1")).await;
    let fault = mesh
        .fault("org.brahman.Score.ScoreMatrix", json!({ "conversation": made.conversation }))
        .await;
    assert_eq!(fault.name, "org.brahman.Score.OutOfBudget");
    assert!(fault.message().contains("BRAHMAN_SCORE_BUDGET_MIB"), "{fault}");
}

#[tokio::test]
async fn odd_conversations_get_an_answer_that_fits() {
    let mesh = mock().await;
    let (hello, hi) = (entry("user", "Hello."), entry("assistant", "Hi."));
    // No memories; no responses; nothing at all.
    let (rows, done) =
        matrix(&mesh, json!({ "conversation": { "conversation": [hello, hi] } })).await;
    assert_eq!((rows.len(), done.memories, done.responses), (0, 0, 1));
    let (rows, done) =
        matrix(&mesh, json!({ "conversation": { "conversation": [memory("a", "A."), hello] } }))
            .await;
    assert_eq!((rows.len(), done.responses, rows[0].deltas.len()), (1, 0, 0));
    let (rows, done) = matrix(&mesh, json!({ "conversation": { "conversation": [] } })).await;
    assert_eq!((rows.len(), done.tokens), (0, 0));
    // A memory that appears twice is removed in both places; one after the last response changes
    // nothing; empty texts.
    let twice = json!({ "conversation": { "system": [entry("system", "Be brief.")], "conversation": [
        memory("twice", "Kolva is the name of the boat."), hello, entry("assistant", ""),
        memory("twice", "The boat is called Kolva, once more."), memory("empty", ""), hello,
        entry("assistant", "The boat is called Kolva."), memory("late", "The boat is called Kolva."),
    ]}});
    let (rows, _) = matrix(&mesh, twice.clone()).await;
    let row = |key: &str| rows.iter().find(|row| row.key == key).expect("a row");
    assert_eq!(rows.len(), 3);
    assert!(row("twice").deltas[1] > 5.0 && row("twice").deltas[0].abs() < 1e-9, "{rows:?}");
    assert_eq!(row("late").deltas, [0.0, 0.0]);
    // Copies hide one another; removed together they do not.
    let copies = json!({ "conversation": [
        memory("one", "The code of the gate is Zarnip."), memory("two", "The code of the gate is Zarnip."), hello,
        entry("assistant", "The code of the gate is Zarnip."),
    ]});
    let (rows, _) =
        matrix(&mesh, json!({ "conversation": copies, "groups": [["one", "two"]] })).await;
    let row = |key: &str| rows.iter().find(|row| row.key == key).expect("a row");
    assert!(
        row("one+two").deltas[0] > 4.0 * row("one").deltas[0].max(row("two").deltas[0]),
        "{rows:?}"
    );
    // A hundred thousand tokens.
    let long = "All work and no play. ".repeat(4600);
    let out = mesh
        .call(
            "org.brahman.Score.ScoreMatrix",
            json!({ "conversation": { "conversation": [memory("m", "Play."), entry("user", &long), hi] } }),
        )
        .await
        .expect("scored");
    assert!(out["tokens"].as_u64() > Some(100_000));
    // As chat APIs have it: the same figures as in entries of our own.
    let said = "The spare key hangs in the shed.";
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "system", "content": said, "memory": "key" },
        { "role": "user", "content": [{ "type": "text", "text": "Where is" }, { "type": "text", "text": " the key?" }] },
        { "role": "assistant", "content": said },
    ]);
    let entries = [
        entry("system", "Be brief."),
        memory("key", said),
        entry("user", "Where is the key?"),
        entry("assistant", said),
    ];
    let (chat, _) = matrix(&mesh, json!({ "messages": messages })).await;
    let (ours, _) =
        matrix(&mesh, json!({ "conversation": { "conversation": entries }, "fresh": true })).await;
    assert!(
        chat[0].deltas[0] > 20.0 && chat[0].deltas == ours[0].deltas && chat[0].key == "key",
        "{chat:?}"
    );
    // Bad input is named.
    let bad = async |conversation: Value, words: &str| {
        let fault = mesh
            .fault("org.brahman.Score.ScoreMatrix", json!({ "conversation": conversation }))
            .await;
        assert!(fault.to_string().contains(words), "{fault}");
    };
    bad(json!({ "conversation": [{ "role": "memory", "text": "x" }] }), "conversation[0].key")
        .await;
    bad(json!({ "conversation": [entry("assitant", "x")] }), "assitant").await;
    bad(json!({ "conversation": [{ "role": "user" }] }), "neither `text` nor `tokens`").await;
    bad(json!({ "conversation": [{ "role": "user", "text": "a", "tokens": [1] }] }), "both").await;
    bad(json!({ "conversation": [{ "role": "user", "tokens": [1, 256] }] }), "token 256").await;
    let tokens = |role: &str, key: Option<usize>| json!({ "role": role, "tokens": [97], "key": key.map(|k| k.to_string()) });
    let many: Vec<Value> = (0..2000)
        .map(|k| tokens("memory", Some(k)))
        .chain((0..1100).map(|_| tokens("assistant", None)))
        .collect();
    bad(json!({ "conversation": many }), "2000 rows over 2200000 cells").await;
    let fault = mesh
        .fault(
            "org.brahman.Score.ScoreMatrix",
            json!({ "conversation": twice["conversation"], "path": "/x" }),
        )
        .await;
    assert!(fault.message().contains("expected one of them"), "{fault}");
    let fault =
        mesh.fault("org.brahman.Score.ScoreMatrix", json!({ "path": "relative.json" })).await;
    assert_eq!(fault.name, "org.brahman.Score.FileUnreadable");
}

#[tokio::test]
async fn a_killed_scorer_goes_on_where_it_was() {
    let mesh = real(|setup| setup).await;
    let made = planted(11, 20, 40, 1, 60, false);
    let file = mesh.folder.path().join("c.json");
    std::fs::write(&file, made.conversation.to_string()).expect("written");
    let ask = json!({ "path": file, "max_age_s": 3600 });
    let call = |method: &str| {
        encode_call(method, &ask, &CallOptions::default(), true, false).expect("encoded")
    };
    // The broker holds whole replies, not whole streams: rows come as they are done.
    let mut direct = Connection::connect(&mesh.socket()).await.expect("connected");
    direct.send(&call("org.brahman.Score.ScoreIncremental")).await.expect("sent");
    let mut told = std::collections::BTreeMap::new();
    for _ in 0..3 {
        let row: Value = direct.receive().await.expect("a reply").typed().expect("no error").value;
        told.insert(row["key"].as_str().expect("a key").to_owned(), row);
    }
    let pid = mesh.module("score-real").await.pid;
    mesh.signal(pid, "KILL");
    brahman_tests::gone(pid).await;
    mesh.when_module("score-real", ModuleState::Ready).await;
    let done = mesh.call("org.brahman.Score.ScoreIncremental", ask.clone()).await.expect("scored");
    let rows = done["rows"].as_array().expect("rows");
    assert!(
        rows.iter().all(|row| !told.contains_key(row["key"].as_str().expect("a key"))),
        "scored twice: {rows:?}"
    );
    assert!(done["fresh"].as_u64() >= Some(3) && done["failed"] == 0, "{done}");
    assert_eq!(
        done["fresh"].as_u64().unwrap_or(0)
            + done["due"].as_u64().unwrap_or(0)
            + done["late"].as_u64().unwrap_or(0),
        20
    );
    // A matrix that was cut off goes on as well.
    let mut cut = Connection::connect(&mesh.socket()).await.expect("connected");
    let whole = json!({ "conversation": planted(12, 20, 40, 2, 60, false).conversation });
    cut.send(
        &encode_call("org.brahman.Score.ScoreMatrix", &whole, &CallOptions::default(), true, false)
            .expect("encoded"),
    )
    .await
    .expect("sent");
    for _ in 0..8 {
        let row: Value = cut.receive().await.expect("a reply").typed().expect("no error").value;
        assert_eq!(row["cached"], false);
    }
    let pid = mesh.module("score-real").await.pid;
    mesh.signal(pid, "KILL");
    brahman_tests::gone(pid).await;
    mesh.when_module("score-real", ModuleState::Ready).await;
    let (rows, _) = matrix(&mesh, whole).await;
    // All but what was scored in the last tenth of a second.
    assert!(rows.len() == 20 && rows.iter().filter(|row| row.cached).count() >= 5, "{rows:?}");
    // Nothing is due now.
    let done = mesh.call("org.brahman.Score.ScoreIncremental", ask.clone()).await.expect("scored");
    assert_eq!((done["due"].as_u64(), done["tokens_forwarded"].as_u64()), (Some(0), Some(0)));
}

#[tokio::test]
async fn a_caller_that_hangs_up_stops_the_passes_and_two_callers_get_their_answers() {
    let mesh = real(|setup| setup).await;
    let long = planted(5, 20, 40, 4, 60, false);
    let short = planted(6, 5, 6, 1, 60, false);
    let mut gone = Connection::connect(&mesh.socket()).await.expect("connected");
    let ask = json!({ "conversation": long.conversation, "fresh": true });
    let call =
        encode_call("org.brahman.Score.ScoreMatrix", &ask, &CallOptions::default(), true, false)
            .expect("encoded");
    gone.send(&call).await.expect("sent");
    let _ = gone.receive().await.expect("it has begun");
    drop(gone);
    // The thread is free again long before the long matrix would be done.
    let (one, two) = tokio::join!(
        mesh.call(
            "org.brahman.Score.ScoreMatrix",
            json!({ "conversation": short.conversation, "fresh": true })
        ),
        mesh.call(
            "org.brahman.Score.ScoreMatrix",
            json!({ "conversation": short.conversation, "fresh": true })
        ),
    );
    let (one, two) = (one.expect("scored"), two.expect("scored"));
    assert_eq!(one["rows"], two["rows"]);
    // A deadline ends it with a typed error.
    let options = CallOptions {
        deadline: Some(std::time::Duration::from_millis(300)),
        ..CallOptions::default()
    };
    let call = encode_call("org.brahman.Score.ScoreMatrix", &ask, &options, false, false)
        .expect("encoded");
    let ended = Connection::connect(&mesh.socket()).await.expect("connected").exchange(&call).await;
    assert!(ended.is_err_and(|e| e.to_string().contains("deadline")));
}

#[tokio::test]
async fn a_person_sees_what_matters() {
    let mesh = real(|setup| setup).await;
    let file = mesh.folder.path().join("c.json");
    let (html, made) = (mesh.folder.path().join("c.html"), planted(8, 6, 8, 1, 70, false));
    std::fs::write(&file, made.conversation.to_string()).expect("written");
    let (file, page) = (file.display().to_string(), html.display().to_string());
    let out = mesh.brahman(&["score", "matrix", &file, "--html", &page]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success() && text.contains("fact-0") && text.contains("██"),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let written = std::fs::read_to_string(&html).expect("written");
    assert!(
        written.contains("\"key\":\"fact-0\"") && written.contains("\"role\":\"user\""),
        "the conversation stands beside the matrix"
    );
    let json = mesh.brahman_json(&["score", "matrix", &file]);
    assert_eq!(json["rows"].as_array().map(Vec::len), Some(6));
    let one = mesh.brahman_json(&["score", "memory", &file, "fact-0"]);
    assert_eq!(one["present"], true);
    let absent = mesh.brahman(&["score", "memory", &file, "nothing"]);
    let why = String::from_utf8_lossy(&absent.stderr).into_owned();
    assert!(
        absent.status.code() == Some(4) && why.contains("`nothing`"),
        "what does not exist is not found: {why}"
    );
    let tuned = mesh.brahman_json(&["score", "finetune", &file, "--count", "6"]);
    let divergences: Vec<f64> = tuned["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|r| r["divergence"].as_f64().expect("a number"))
        .collect();
    assert!(!divergences.is_empty() && divergences.is_sorted_by(|a, b| a >= b), "{tuned}");
    let check = mesh.brahman_json(&["models", "check", &induction().display().to_string()]);
    assert_eq!(check["usable"], true);
    let refused = mesh.brahman(&["models", "check", "/nowhere"]);
    assert_eq!(refused.status.code(), Some(4), "it does not exist");
    let absent = mesh.brahman(&["score", "matrix", "/nowhere.json"]);
    assert_eq!(absent.status.code(), Some(6), "{}", String::from_utf8_lossy(&absent.stderr));
}

/// A copy of the small model whose logits are NaN after a `Z`.
fn model_that_fails_after_z(to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("made");
    for file in ["tokenizer.json", "config.json"] {
        std::fs::copy(induction().join(file), to.join(file)).expect("copied");
    }
    let mut onnx = std::fs::read(induction().join("model.onnx")).expect("read");
    // The table of byte pairs: its name, the tag of its data, a length of three bytes, and 256 rows
    // of 256 numbers.
    let name = b"pairs\x4a";
    let table = onnx.windows(name.len()).position(|w| w == name).expect("a table") + name.len() + 3;
    let row = table + usize::from(b'Z') * 256 * 4;
    for number in onnx[row..row + 1024].chunks_exact_mut(4) {
        number.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    std::fs::write(to.join("model.onnx"), onnx).expect("written");
}

#[tokio::test]
async fn a_row_that_fails_does_not_lose_the_others_and_a_model_that_cannot_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken");
    model_that_fails_after_z(&broken);
    let mesh = real(|setup| setup.env("BRAHMAN_SCORE_MODEL", &broken)).await;
    let ids = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    let conversation = json!({ "conversation": [
        memory("first", "Anything."),
        { "role": "user", "tokens": ids("Say Z") },
        { "role": "memory", "key": "between", "tokens": ids(" and then: ") },
        { "role": "assistant", "tokens": ids("done") },
    ]});
    // Without what stands between, the response follows a Z.
    let (rows, done) = matrix(&mesh, json!({ "conversation": conversation })).await;
    let row = |key: &str| rows.iter().find(|row| row.key == key).expect("a row");
    assert_eq!((done.failed, rows.len()), (1, 2));
    assert!(
        row("between").error.as_ref().is_some_and(|e| e.contains("not finite"))
            && row("between").deltas.is_empty(),
        "{rows:?}"
    );
    assert!(row("first").error.is_none() && row("first").deltas.len() == 1, "{rows:?}");
    let fault = mesh.fault("org.brahman.Score.Logprobs", json!({ "text": "aZb" })).await;
    assert_eq!(fault.name, "org.brahman.Score.BadOutput");
    assert!(
        mesh.call("org.brahman.Score.Logprobs", json!({ "text": "ab" })).await.is_ok(),
        "it serves on"
    );
    let fault =
        mesh.fault("org.brahman.Score.Logprobs", json!({ "text": "a".repeat(20_000) })).await;
    assert_eq!(
        (fault.name.as_ref(), &fault.parameters["tokens"]),
        ("org.brahman.Score.ContextTooLong", &json!(20_001))
    );
    mesh.down();

    // A tokenizer of another model; no model at all. Both are said, and nothing is offered.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).expect("made");
    for file in ["model.onnx", "config.json"] {
        std::fs::copy(induction().join(file), other.join(file)).expect("copied");
    }
    let mut tokenizer: Value =
        serde_json::from_slice(&std::fs::read(induction().join("tokenizer.json")).expect("read"))
            .expect("JSON");
    tokenizer["model"]["vocab"]["more"] = json!(256);
    std::fs::write(other.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    for (model, words) in [
        (other, "belong to different models"),
        (folder.path().join("nowhere"), "model.onnx cannot be read"),
    ] {
        let setup = Setup::new(&["broker", "score-real", "score-mock"].map(shipped))
            .context("prod")
            .real_model();
        let mesh = setup.env("BRAHMAN_SCORE_MODEL", &model).up().await;
        let failed = mesh.when_module("score-real", ModuleState::Failed).await;
        assert!(
            failed.reason.as_deref().is_some_and(|why| why.contains(words)),
            "{:?}",
            failed.reason
        );
        let fault = mesh.fault("org.brahman.Score.Logprobs", json!({ "text": "a" })).await;
        assert_eq!(
            fault.name, "org.brahman.Broker.NoProvider",
            "a mock never answers in prod: {fault}"
        );
    }
}

#[tokio::test]
async fn a_server_scores_and_its_end_is_told() {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};
    let script = brahman_tests::repository().join("tests/assets/vllm.py");
    let token = "t0k:en/ with spaces";
    let mut server = Command::new(crate::foreign::tool("python3"))
        .arg(script)
        .env("TOKEN", token)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut port = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut port).expect("a port");
    let folder = tempfile::tempdir().expect("a folder");
    let secrets = folder.path().join("secrets.toml");
    std::fs::write(&secrets, format!("[lm]\npassword = \"{token}\"\n")).expect("written");
    std::fs::set_permissions(&secrets, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("private");
    let served = |setup: Setup| {
        let setup =
            setup.env("BRAHMAN_SCORE_SERVER", format!("vllm+http://127.0.0.1:{}", port.trim()));
        setup.env("BRAHMAN_SECRETS", &secrets).env("BRAHMAN_SCORE_TOKEN", "secret:lm")
    };
    let mesh = real(served).await;
    let file = brahman_tests::repository().join("examples/memories/conversation.json");
    let (rows, done) = matrix(&mesh, json!({ "path": file, "top": 2 })).await;
    assert_eq!((done.model.as_str(), done.failed, rows.len()), ("pairs", 0, 6));
    let bicycle = rows.iter().find(|row| row.key == "bicycle").expect("a row");
    let most = bicycle.divergences.iter().copied().fold(0.0, f64::max);
    assert!(most > 5.0 && bicycle.divergences[2] == most, "{bicycle:?}");
    server.kill().and_then(|()| server.wait()).expect("ended");
    // What is known stays known; what is not fails with the server's name.
    let (again, _) = matrix(&mesh, json!({ "path": file, "top": 2 })).await;
    assert!(again.iter().all(|row| row.cached));
    let fault =
        mesh.fault("org.brahman.Score.ScoreMatrix", json!({ "path": file, "fresh": true })).await;
    assert!(
        fault.name == "org.brahman.Score.ServerFailed"
            && fault.retryable()
            && fault.message().contains(port.trim()),
        "{fault}"
    );
    assert!(!mesh.log().contains(token), "the token is in no log");
}

#[tokio::test]
async fn fifty_answers_that_one_memory_states_rank_it_first() {
    let mesh = mock().await;
    let mut first = 0;
    for seed in 0..50 {
        let made = planted(1000 + seed, 20, 12, 2, 20, true);
        let key = made.foretold_by.iter().flatten().next().expect("one is told").clone();
        let ask = json!({ "conversation": made.conversation, "fresh": true, "chat_template": { "text": template("chatml") } });
        let out = mesh.call("org.brahman.Score.ScoreMatrix", ask).await.expect("scored");
        let rows: Vec<Row> = serde_json::from_value(out["rows"].clone()).expect("rows");
        let best = rows.iter().max_by(|a, b| total(a).total_cmp(&total(b))).expect("rows");
        first += usize::from(best.key == key);
    }
    println!("by a chat template, first in {first} of 50");
    assert!(first >= 48, "first in {first} of 50");
}
