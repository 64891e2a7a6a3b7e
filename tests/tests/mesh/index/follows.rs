//! An index and its dataset: columns that change, generations told by their runs, rollbacks that
//! stay, and an agent that keeps its limits.

use std::path::Path;

use brahman_card::ModuleState;
use brahman_tests::Mesh;
use serde_json::{Value, json};

use super::{again, filled, ids, indexed, mesh, mesh_with, table};

fn ingested(mesh: &Mesh, dataset: &str, text: &str) {
    let csv = mesh.folder.path().join(format!("{dataset}.csv"));
    std::fs::write(&csv, text).expect("written");
    mesh.brahman_json(&["ingest", "files", dataset, &csv.display().to_string()]);
}

fn stats(mesh: &Mesh) -> Value {
    mesh.brahman_json(&["index", "stats", "t"])["index"].clone()
}

#[tokio::test]
async fn a_column_that_changes_its_type_is_followed_compacted_and_filtered_by() {
    let mesh = mesh("test").await;
    let dataset = |tags: [&str; 3]| {
        let rows: Vec<String> = ["a", "b", "c"]
            .iter()
            .zip(tags)
            .map(|(id, tag)| format!("{id},text of {id},{tag}\n"))
            .collect();
        format!("id,text,tag\n{}", rows.concat())
    };
    ingested(&mesh, "d", &dataset(["1", "", "3"]));
    mesh.brahman_json(&["index", "create", "d", "--dataset", "d", "--filter-column", "tag"]);
    mesh.brahman_json(&["index", "refresh", "d"]);
    for (tags, filter, found) in [
        (["one", "", "x"], json!({"tag": "one"}), vec!["a"]),
        (["1.5", "", "2.5"], json!({"tag": {"$gt": 2}}), vec!["c"]),
        (["7", "", "8"], json!({"tag": {"$in": [7, 9]}}), vec!["a"]),
    ] {
        ingested(&mesh, "d", &dataset(tags));
        let out = mesh.brahman_json(&["index", "refresh", "d"]);
        assert_eq!(out["total"], 3, "{tags:?}: {out}");
        let ask = ["search", "d", "text", "--filter", &filter.to_string()].map(str::to_owned);
        let search =
            || ids(&mesh.brahman_json(&ask.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(search(), found, "{tags:?}");
        // One that nobody asked for may be at it.
        loop {
            match mesh.call("org.brahman.Index.Compact", json!({"name": "d"})).await {
                Ok(out) => {
                    assert_eq!(out["phase"], "done");
                    break;
                }
                Err(error) => assert!(error.to_string().contains("busy"), "{error}"),
            }
        }
        assert_eq!(search(), found, "{tags:?}, compacted");
        assert!(mesh.brahman(&["index", "doctor", "d"]).status.success());
    }
}

#[tokio::test]
async fn a_filter_that_does_not_fit_its_column_is_refused_with_its_type() {
    let mesh = indexed(300).await;
    for (filter, words) in [
        (json!({"year": "2021"}), "`year` is Int64"),
        (json!({"year": {"$in": [2020, "2021"]}}), "the text \"2021\""),
        (json!({"lang": 3}), "expected a text"),
        (json!({"$or": []}), "says nothing"),
        (json!({"year": {}}), "says nothing"),
    ] {
        let fault = mesh
            .fault("org.brahman.Index.Search", json!({"index": "t", "text": "x", "filter": filter}))
            .await;
        assert!(
            fault.name.ends_with("InvalidParameter") && fault.message().contains(words),
            "{filter}: {fault}"
        );
    }
    let create = |columns: Value| json!({"name": "n", "dataset": "t", "id_column": "id", "text_column": "text", "filter_columns": columns});
    for (columns, words) in [
        (json!(["source"]), "`source` is also a column of the index itself"),
        (json!(["lang", "lang"]), "named twice"),
    ] {
        let fault = mesh.fault("org.brahman.Index.Create", create(columns)).await;
        assert!(
            fault.name.ends_with("InvalidParameter") && fault.message().contains(words),
            "{fault}"
        );
    }
}

fn configured(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("written");
    file
}

async fn with(file: &Path) -> Mesh {
    filled(mesh_with("test", |setup| setup.env("BRAHMAN_INDEX_CONFIG", file)).await, 300)
}

#[tokio::test]
async fn a_rollback_stays_until_somebody_unpins_or_refreshes() {
    let file = configured("[agent]\nrefresh = true\n");
    let mesh = with(file.path()).await;
    let grown = |rows: u32| {
        let csv = table(mesh.folder.path(), rows);
        mesh.brahman_json(&["ingest", "files", "t", &csv]);
    };
    grown(310);
    // The agent follows.
    while stats(&mesh)["chunks"] != 310 {}
    let back = mesh.brahman_json(&["index", "rollback", "t"]);
    assert_eq!((&back["generation"], &back["pinned"]), (&json!(1), &json!(true)));
    assert_eq!(stats(&mesh)["pinned"], true);
    grown(320);
    // It hears of the new data and leaves the index alone.
    loop {
        let status = mesh.brahman_json(&["index", "agent"]);
        if status["last"].as_str().is_some_and(|last| last.contains("pinned")) {
            assert_eq!(status["pinned"], json!(["t"]));
            break;
        }
    }
    again(&mesh, "index").await;
    let now = stats(&mesh);
    assert_eq!(
        (&now["generation"], &now["pinned"]),
        (&json!(1), &json!(true)),
        "it survives the module"
    );
    let listed = mesh.brahman_json(&["index", "generations", "t"]);
    let pinned: Vec<&Value> = listed["generations"]
        .as_array()
        .expect("generations")
        .iter()
        .filter(|g| g["pinned"] == true)
        .collect();
    assert_eq!(
        (&listed["pinned"], pinned.len(), &pinned[0]["number"]),
        (&json!(true), 1, &json!(1))
    );
    assert_eq!(mesh.brahman_json(&["index", "unpin", "t"])["unpinned"], true);
    assert_eq!(mesh.brahman_json(&["index", "unpin", "t"])["unpinned"], false);
    while stats(&mesh)["chunks"] != 320 {}
    // Whoever refreshes wants it new.
    mesh.brahman_json(&["index", "rollback", "t"]);
    let out = mesh.brahman_json(&["index", "refresh", "t"]);
    assert_eq!((&out["unpinned"], &out["total"]), (&json!(true), &json!(320)));
    assert_eq!(stats(&mesh)["pinned"], false);
}

#[tokio::test]
async fn a_dataset_that_was_made_again_under_the_same_number_makes_its_index_stale() {
    let mesh = indexed(300).await;
    assert_eq!(stats(&mesh)["stale"], false);
    assert!(stats(&mesh)["dataset_run"].is_string());
    mesh.call("org.brahman.Catalog.Delete", json!({"name": "t"})).await.expect("deleted");
    while stats(&mesh)["dataset_gone"] != true {}
    let listed = mesh.brahman(&["index", "list"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("dataset deleted") && !listed.contains("fresh"), "{listed}");
    let found = mesh.brahman_json(&["search", "t", "chapter 9"]);
    assert_eq!((&found["dataset_gone"], &found["stale"]), (&json!(true), &json!(false)));
    let found = mesh.brahman(&["search", "t", "chapter 9"]);
    let noted = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(noted.contains("deleted or renamed"), "{noted}");
    let csv = table(mesh.folder.path(), 200);
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    while stats(&mesh)["stale"] != true {}
    assert_eq!(stats(&mesh)["dataset_gone"], Value::Null);
    let found = mesh.brahman_json(&["search", "t", "chapter 9"]);
    assert_eq!((&found["dataset_gone"], &found["stale"]), (&Value::Null, &json!(true)));
    assert_eq!(mesh.brahman_json(&["index", "refresh", "t"])["total"], 200);
    assert_eq!(stats(&mesh)["stale"], false);
}

#[tokio::test]
async fn a_mark_of_an_index_that_is_not_behind_goes_and_one_of_an_index_that_is_stays() {
    let mesh = indexed(300).await;
    for index in ["t", "elsewhere"] {
        mesh.call("org.brahman.Catalog.MarkStale", json!({"name": "t", "index": index}))
            .await
            .expect("noted");
    }
    let marks = async || {
        mesh.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("there")["dataset"]
            ["stale"]
            .clone()
    };
    assert!(marks().await.as_array().is_some_and(|marks| marks.contains(&json!("elsewhere"))));
    // The catalog's next word, whatever it is of.
    ingested(&mesh, "other", "id,text\na,b\n");
    while marks().await != json!(["elsewhere"]) {}
    let csv = table(mesh.folder.path(), 200);
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    while stats(&mesh)["stale"] != true {}
    assert_eq!(marks().await, json!(["elsewhere", "t"]));
}

#[tokio::test]
async fn a_wrong_line_turns_the_agent_off_and_nothing_else() {
    for (text, words) in [
        ("[agent]\nenabled = true\nepsilon = nan\n", "epsilon"),
        ("[agent]\nenabled = true\nspeed = 1\n", "speed"),
        ("[agent\n", "agent"),
        ("[agent]\nenabled = true\nmax_trials_per_hour = 0\n", "max_trials_per_hour is 0"),
    ] {
        let file = configured(text);
        let mesh = with(file.path()).await;
        assert_eq!(mesh.module("index").await.state, ModuleState::Ready);
        assert_eq!(
            ids(&mesh.brahman_json(&["search", "t", "topic7", "--lexical", "-k", "1"])).len(),
            1
        );
        let status = mesh.brahman_json(&["index", "agent"]);
        assert!(
            status["reason"].as_str().is_some_and(|why| why.contains(words)),
            "{text}: {status}"
        );
        let fault = mesh.fault("org.brahman.Index.AgentEnqueue", json!({"name": "t"})).await;
        assert!(
            fault.name == "org.brahman.Index.AgentOff" && fault.message().contains(words),
            "{fault}"
        );
        assert_eq!(mesh.brahman_json(&["index", "trials", "t"])["trials"], json!([]));
    }
}

#[tokio::test]
async fn the_agents_limit_holds_over_a_restart() {
    let file = configured(
        "[agent]\nenabled = true\ncooldown_s = 0\nmax_trials_per_hour = 1\nm = [4, 8]\nef_construction = [16, 32]\n",
    );
    let mesh = with(file.path()).await;
    mesh.brahman_json(&["index", "agent", "t"]);
    while mesh.brahman_json(&["index", "trials", "t"])["trials"].as_array().map(Vec::len) != Some(1)
    {
    }
    again(&mesh, "index").await;
    let status = mesh.brahman_json(&["index", "agent"]);
    assert_eq!(
        (&status["trials_last_hour"], status["next_in_s"].as_u64() > Some(3000)),
        (&json!(1), true),
        "{status}"
    );
}

#[tokio::test]
async fn stats_tell_what_is_in_memory() {
    let mesh = indexed(1300).await;
    let caches = stats(&mesh)["caches"].clone();
    assert_eq!(
        (&caches["generations"], &caches["words"], &caches["columns_bytes"]),
        (&json!(1), &json!("closed"), &json!(0)),
        "{caches}"
    );
    assert!(
        ["graph_bytes", "mapped_bytes", "verified_files"]
            .iter()
            .all(|key| caches[*key].as_u64() > Some(0)),
        "{caches}"
    );
    mesh.brahman_json(&["search", "t", "topic7", "--lexical", "--filter", r#"{"lang": "rust"}"#]);
    mesh.brahman_json(&["search", "t", "topic7", "--lexical"]);
    let caches = stats(&mesh)["caches"].clone();
    assert_eq!(
        (&caches["words"], caches["columns_bytes"].as_u64() > Some(0)),
        (&json!("disk"), true),
        "{caches}"
    );
    assert!(caches["hits"].as_u64() > Some(0) && caches["misses"].as_u64() > Some(0), "{caches}");
}
