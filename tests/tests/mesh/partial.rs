//! An index answers from its first refresh on, and says that it is not whole.

use brahman_card::ModuleState;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_tests::{PATIENCE, Setup, shipped};
use serde_json::{Value, json};

#[tokio::test]
async fn a_first_refresh_is_searched_by_words_and_by_meaning_while_it_runs() {
    let mesh =
        Setup::new(&["broker", "catalog", "ingest", "embed-mock", "index"].map(shipped)).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let file = mesh.folder.path().join("d.csv");
    let lines: String =
        (0..100_000).map(|row| format!("{row},word{row} of a text that is embedded\n")).collect();
    std::fs::write(&file, format!("id,text\n{lines}")).expect("written");
    let ask = json!({"dataset": "d", "paths": [file.display().to_string()], "pii": false});
    mesh.call("org.brahman.Ingest.Files", ask).await.expect("ingested");
    mesh.call(
        "org.brahman.Index.Create",
        json!({"name": "d", "dataset": "d", "id_column": "id", "text_column": "text"}),
    )
    .await
    .expect("created");
    let before = mesh
        .fault(
            "org.brahman.Index.Search",
            json!({"index": "d", "text": "word7", "mode": "lexical"}),
        )
        .await;
    assert_eq!(before.name, "org.brahman.Index.NotReady");

    let mut refreshing = Connection::connect(&mesh.socket()).await.expect("connected");
    let call = encode_call(
        "org.brahman.Index.Refresh",
        &json!({"name": "d"}),
        &CallOptions::default(),
        true,
        false,
    );
    refreshing.send(&call.expect("encodes")).await.expect("sent");
    loop {
        let word: Value =
            refreshing.receive().await.expect("progress").typed().expect("a reply").value;
        if word["phase"] == "embed" && word["done"].as_u64() > Some(0) {
            break;
        }
        assert_ne!(word["phase"], "done", "it was too quick to be met in the middle");
    }
    // Held where it is: nothing more is embedded.
    let embedder = mesh.module("embed-mock").await.pid;
    mesh.signal(embedder, "STOP");
    let words = mesh
        .call(
            "org.brahman.Index.Search",
            json!({"index": "d", "text": "word99999", "mode": "lexical"}),
        )
        .await;
    let words = words.expect("what was read answers by words");
    assert_eq!(
        (&words["partial"], &words["results"][0][0]["doc_id"]),
        (&json!(true), &json!("99999")),
        "{words}"
    );
    let mut vector = vec![0.0; 32];
    vector[0] = 1.0;
    let near = mesh
        .call("org.brahman.Index.Search", json!({"index": "d", "vector": vector, "k": 3}))
        .await;
    let near = near.expect("what is embedded answers by meaning");
    assert_eq!(
        (&near["partial"], near["results"][0].as_array().map(Vec::len)),
        (&json!(true), Some(3)),
        "{near}"
    );
    assert!(
        near["embedded"]
            .as_u64()
            .zip(near["to_embed"].as_u64())
            .is_some_and(|(done, of)| done < of && of == 100_000),
        "{near}"
    );
    let shown = mesh.brahman(&["search", "d", "word7", "--lexical"]);
    assert!(
        String::from_utf8_lossy(&shown.stderr).contains("first refresh is running"),
        "{shown:?}"
    );
    // What was read stays what the index is made of, whatever becomes of the dataset.
    mesh.call("org.brahman.Catalog.Delete", json!({"name": "d"})).await.expect("deleted");
    mesh.signal(embedder, "CONT");

    let done = async {
        loop {
            let reply = refreshing.receive().await.expect("a reply");
            let last = !reply.continues;
            let word: Value = reply.typed().expect("a reply").value;
            if last {
                return word;
            }
        }
    };
    let done = tokio::time::timeout(PATIENCE, done).await.expect("it ends");
    assert_eq!((&done["phase"], &done["total"]), (&json!("done"), &json!(100_000)));
    assert_eq!(
        (&done["dataset_gone"], &done["stale_cleared"]),
        (&json!(true), &json!(false)),
        "{done}"
    );
    let gone = mesh.fault("org.brahman.Index.Refresh", json!({"name": "d"})).await;
    assert_eq!(gone.name, "org.brahman.Catalog.NoSuchDataset", "{gone}");
    let whole = mesh
        .call("org.brahman.Index.Search", json!({"index": "d", "text": "word7", "mode": "lexical"}))
        .await
        .expect("found");
    assert_eq!((whole.get("partial"), &whole["generation"]), (None, &json!(1)));
}

#[tokio::test]
async fn a_refresh_that_a_person_ends_says_what_is_kept_and_goes_on_from_there() {
    use std::io::{BufRead as _, BufReader, Read as _};

    let mesh =
        Setup::new(&["broker", "catalog", "ingest", "embed-mock", "index"].map(shipped)).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let file = mesh.folder.path().join("d.csv");
    let lines: String =
        (0..150_000).map(|row| format!("{row},word{row} of a text that is embedded\n")).collect();
    std::fs::write(&file, format!("id,text\n{lines}")).expect("written");
    let ask = json!({"dataset": "d", "paths": [file.display().to_string()], "pii": false});
    mesh.call("org.brahman.Ingest.Files", ask).await.expect("ingested");
    mesh.call(
        "org.brahman.Index.Create",
        json!({"name": "d", "dataset": "d", "id_column": "id", "text_column": "text"}),
    )
    .await
    .expect("created");
    let mut command = std::process::Command::new(brahman_tests::binary("brahman"));
    command
        .env_clear()
        .env("BRAHMAN_SOCKET", mesh.socket())
        .args(["index", "refresh", "d", "--json"]);
    let mut refresh = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut said = BufReader::new(refresh.stderr.take().expect("piped"));
    // The first words on how far it is.
    let embedding = loop {
        let mut line = String::new();
        assert!(
            said.read_line(&mut line).expect("a line") > 0,
            "it ended before it had said anything"
        );
        let word: Value = serde_json::from_str(&line).expect("JSON");
        if word["phase"] == "embed" {
            break word;
        }
    };
    assert!(
        embedding["done"].as_u64() < embedding["of"].as_u64() && embedding.get("left_s").is_some(),
        "{embedding}"
    );
    mesh.signal(refresh.id(), "INT");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("to its end");
    let error: Value = serde_json::from_str(rest.lines().last().expect("an error")).expect("JSON");
    assert_eq!(
        (refresh.wait().expect("it ends").code(), &error["exit"]),
        (Some(130), &json!(130)),
        "{error}"
    );
    assert!(
        error["hint"].as_str().is_some_and(|hint| hint.contains("what was embedded is kept")),
        "{error}"
    );
    // The module hears of the hang-up; until it has let go the index is busy.
    let again = async {
        loop {
            let out = mesh.brahman(&["index", "refresh", "d", "--json"]);
            if out.status.success() {
                return serde_json::from_slice::<Value>(&out.stdout).expect("one object");
            }
        }
    };
    let done = tokio::time::timeout(PATIENCE, again).await.expect("it goes on");
    assert!(done["resumed"].as_u64() > Some(0), "{done}");
}
