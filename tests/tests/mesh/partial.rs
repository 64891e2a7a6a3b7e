//! An index answers from its first refresh on, and says that it is not whole.

use brahman_card::ModuleState;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, ClientError, Connection};
use brahman_tests::{Mesh, PATIENCE, Setup, shipped};
use serde_json::{Value, json};

/// A refresh of `d` that tells how far it is, until its caller hangs up.
async fn begun(mesh: &Mesh) -> Connection {
    let mut refreshing = Connection::connect(&mesh.socket()).await.expect("connected");
    let call = encode_call(
        "org.brahman.Index.Refresh",
        &json!({"name": "d"}),
        &CallOptions::default(),
        true,
        false,
    );
    refreshing.send(&call.expect("encodes")).await.expect("sent");
    refreshing
}

/// The first answer that has a hit; until then the index is not ready, or what is read has none.
async fn first_hit(mesh: &Mesh, ask: &Value) -> Value {
    let asking = async {
        loop {
            match mesh.call("org.brahman.Index.Search", ask.clone()).await {
                Ok(found) => {
                    assert_eq!(found["partial"], json!(true), "{found}");
                    if found["results"][0].as_array().is_some_and(|hits| !hits.is_empty()) {
                        return found;
                    }
                }
                Err(ClientError::Fault(fault)) => {
                    assert_eq!(fault.name, "org.brahman.Index.NotReady", "{fault}");
                }
                Err(error) => panic!("a search: {error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("a hit")
}

#[tokio::test]
async fn words_are_found_before_anything_is_cut_and_a_refresh_that_is_given_up_leaves_none() {
    let mesh =
        Setup::new(&["broker", "catalog", "ingest", "embed-mock", "index"].map(shipped)).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let file = mesh.folder.path().join("d.csv");
    let lines: String = (0..3000)
        .map(|row| format!("{row},word{row} of a text that is read,{}\n", row % 2))
        .collect();
    std::fs::write(&file, format!("id,text,half\n{lines}")).expect("written");
    let ask = json!({"dataset": "d", "paths": [file.display().to_string()], "pii": false});
    mesh.call("org.brahman.Ingest.Files", ask).await.expect("ingested");
    let wanted = json!({
        "name": "d", "dataset": "d", "id_column": "id", "text_column": "text",
        "filter_columns": ["half"],
    });
    mesh.call("org.brahman.Index.Create", wanted).await.expect("created");

    // Nobody counts tokens: not one document can be cut as it will be.
    let embedder = mesh.module("embed-mock").await.pid;
    mesh.signal(embedder, "STOP");
    let mut refreshing = begun(&mesh).await;
    let last = |half: u64| {
        let filter = json!({ "half": half });
        json!({"index": "d", "text": "word2999", "mode": "lexical", "filter": filter})
    };
    // It is in the last part that is read.
    let words = first_hit(&mesh, &last(1)).await;
    let hit = &words["results"][0][0];
    assert_eq!(
        (&hit["doc_id"], &hit["line"], &hit["text"]),
        (&json!("2999"), &json!(1), &json!("word2999 of a text that is read")),
        "{words}"
    );
    assert_eq!(
        (&words["read"], &words["to_read"], &words["generation"], words.get("embedded")),
        (&json!(3000), &json!(3000), &json!(0), None),
        "{words}"
    );
    let others = mesh.call("org.brahman.Index.Search", last(0)).await.expect("filtered");
    assert_eq!(others["results"], json!([[]]), "{others}");
    let shown = mesh.brahman(&["search", "d", "word7", "--lexical"]);
    assert!(
        String::from_utf8_lossy(&shown.stderr).contains("3000 of 3000 documents are read"),
        "{shown:?}"
    );
    // By meaning, and by both, there is nothing yet.
    let mut vector = vec![0.0; 32];
    vector[0] = 1.0;
    for ask in [
        json!({"index": "d", "vector": vector}),
        json!({"index": "d", "text": "word7", "vector": vector, "mode": "hybrid"}),
    ] {
        let early = mesh.fault("org.brahman.Index.Search", ask).await;
        assert!(
            early.name == "org.brahman.Index.NotReady"
                && early.message().contains("nothing is embedded yet"),
            "{early}"
        );
    }
    let far = async {
        loop {
            let reply = refreshing.receive().await.expect("progress");
            let word: Value = reply.typed().expect("a reply").value;
            if word["of"] == json!(3000) {
                return word;
            }
        }
    };
    let far = tokio::time::timeout(PATIENCE, far).await.expect("it tells how far it is");
    assert_eq!((&far["phase"], &far["done"]), (&json!("read"), &json!(0)), "{far}");

    // Whoever wanted it hangs up.
    drop(refreshing);
    let gone = async {
        loop {
            match mesh.call("org.brahman.Index.Search", last(1)).await {
                Ok(found) => assert_eq!(found["partial"], json!(true), "{found}"),
                Err(ClientError::Fault(fault)) => return fault,
                Err(error) => panic!("a search: {error}"),
            }
        }
    };
    let gone = tokio::time::timeout(PATIENCE, gone).await.expect("it is given up");
    assert!(gone.message().contains("has not been refreshed yet"), "{gone}");
    mesh.signal(embedder, "CONT");
    let again = async {
        loop {
            match mesh.call("org.brahman.Index.Refresh", json!({"name": "d"})).await {
                Ok(done) => return done,
                // Until the one before has let go.
                Err(ClientError::Fault(fault)) => {
                    assert_eq!(fault.name, "org.brahman.Index.Busy", "{fault}");
                }
                Err(error) => panic!("a refresh: {error}"),
            }
        }
    };
    let done = tokio::time::timeout(PATIENCE, again).await.expect("it ends");
    assert_eq!((&done["total"], &done["generation"]), (&json!(3000), &json!(1)), "{done}");
    let whole = mesh.call("org.brahman.Index.Search", last(1)).await.expect("found");
    assert_eq!(
        (whole.get("partial"), whole.get("read"), &whole["results"][0][0]["doc_id"]),
        (None, None, &json!("2999")),
        "{whole}"
    );
}

#[tokio::test]
async fn a_first_refresh_is_searched_by_words_and_by_meaning_while_it_runs() {
    let mesh =
        Setup::new(&["broker", "catalog", "ingest", "embed-mock", "index"].map(shipped)).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let file = mesh.folder.path().join("d.csv");
    let lines: String =
        (0..30_000).map(|row| format!("{row},word{row} of a text that is embedded\n")).collect();
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

    let mut refreshing = begun(&mesh).await;
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
            json!({"index": "d", "text": "word29999", "mode": "lexical"}),
        )
        .await;
    let words = words.expect("what was read answers by words");
    assert_eq!(
        (&words["partial"], &words["results"][0][0]["doc_id"]),
        (&json!(true), &json!("29999")),
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
            .is_some_and(|(done, of)| done < of && of == 30_000),
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
    assert_eq!((&done["phase"], &done["total"]), (&json!("done"), &json!(30_000)));
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
    use std::io::Read as _;

    let mesh =
        Setup::new(&["broker", "catalog", "ingest", "embed-mock", "index"].map(shipped)).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let file = mesh.folder.path().join("d.csv");
    let lines: String =
        (0..30_000).map(|row| format!("{row},word{row} of a text that is embedded\n")).collect();
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
    let mut said = refresh.stderr.take().expect("piped");
    // In the middle: some is embedded.
    let mut vector = vec![0.0; 32];
    vector[0] = 1.0;
    first_hit(&mesh, &json!({"index": "d", "vector": vector})).await;
    mesh.signal(refresh.id(), "INT");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("to its end");
    let mut words: Vec<Value> =
        rest.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let error = words.pop().expect("an error");
    // What it said before is how far it was, as far as it took long enough to be told.
    for word in &words {
        let done = word["done"].as_u64();
        assert!(done <= word["of"].as_u64() && word.get("left_s").is_some(), "{word}");
    }
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
