//! Tuning: what is compared with what, eval sets and their data, and an agent that comes after
//! people.

use std::fmt::Write as _;
use std::path::Path;

use brahman_tests::Mesh;
use serde_json::{Value, json};

use super::{filled, indexed, mesh_with, table};

fn trials(mesh: &Mesh) -> Value {
    mesh.brahman_json(&["index", "trials", "t"])
}

/// The dataset grows, and the index with it.
fn grown(mesh: &Mesh, rows: u32) -> Value {
    let csv = table(mesh.folder.path(), rows);
    mesh.brahman_json(&["ingest", "files", "t", &csv]);
    mesh.brahman_json(&["index", "refresh", "t"])
}

/// Queries in a document's own words, which that document answers.
fn questions(folder: &Path) -> String {
    let mut text = String::new();
    for n in 0..20 {
        let lang = ["rust", "python", "go"][n % 3];
        let words = format!("chapter {n} speaks of topic{n} and of {lang} things");
        let _ = writeln!(text, "{}", json!({"text": words, "answers": [format!("doc-{n}")]}));
    }
    let path = folder.join("questions.jsonl");
    std::fs::write(&path, text).expect("written");
    path.display().to_string()
}

#[tokio::test]
async fn sets_belong_to_their_data_are_made_anew_or_refused_and_have_names() {
    let mesh = indexed(300).await;
    let said =
        String::from_utf8(mesh.brahman(&["index", "eval", "t", "--list"]).stdout).expect("text");
    assert!(said.contains("no eval sets yet"), "{said}");
    mesh.brahman_json(&["index", "eval", "t", "--set", "mine", "--queries", "50", "-k", "5"]);
    let file = questions(mesh.folder.path());
    let asked =
        mesh.brahman_json(&["index", "eval", "t", "--set", "asked", "--from", &file])["eval"]
            .clone();
    assert_eq!((&asked["name"], &asked["source"]), (&json!("asked"), &json!("given")));
    assert_eq!((&asked["tune"], &asked["holdout"]), (&json!(10), &json!(10)));
    assert!(asked["exact"].as_f64() > Some(0.5), "{asked}");
    let trial = mesh.brahman_json(&["index", "trial", "t", "--set", "asked"])["trial"].clone();
    assert_eq!(
        (&trial["set"], &trial["eval"], &trial["fingerprint"]),
        (&asked["name"], &asked["id"], &asked["fingerprint"])
    );
    let fault = mesh
        .fault("org.brahman.Index.Trial", json!({"name": "t", "config": {}, "eval": "none"}))
        .await;
    assert!(fault.name.ends_with("NoEval") && fault.message().contains("asked, mine"), "{fault}");

    grown(&mesh, 310);
    let listed = mesh.brahman_json(&["index", "eval", "t", "--list"])["evals"].clone();
    assert!(
        listed
            .as_array()
            .is_some_and(|all| all.len() == 2 && all.iter().all(|set| set["stale"] == true)),
        "{listed}"
    );
    let fault = mesh
        .fault("org.brahman.Index.Trial", json!({"name": "t", "config": {}, "eval": "asked"}))
        .await;
    assert!(
        fault.name.ends_with("StaleEval") && fault.message().contains("give it again"),
        "{fault}"
    );
    let trial = mesh.brahman_json(&["index", "trial", "t", "--set", "mine"])["trial"].clone();
    assert_eq!(
        (&trial["set"], &trial["k"], &trial["metrics"]["eval_queries"]),
        (&json!("mine"), &json!(5), &json!(50))
    );
    assert_eq!(trial["fingerprint"], trials(&mesh)["fingerprint"], "it was made anew");
    for ask in [
        json!({"name": "t", "set": "../x"}),
        json!({"name": "t", "given": [{"text": "too few"}]}),
        json!({"name": "t", "given": vec![json!({"text": "a", "answers": ["nowhere"]}); 10]}),
        json!({"name": "t", "given": vec![json!({}); 10]}),
    ] {
        assert!(
            mesh.fault("org.brahman.Index.EvalAutogen", ask.clone())
                .await
                .name
                .ends_with("InvalidParameter"),
            "{ask}"
        );
    }
}

#[tokio::test]
async fn trials_on_other_queries_are_not_compared_and_promotions_and_compactions_keep_those_on_the_same_data()
 {
    let mesh = indexed(1300).await;
    let said = String::from_utf8(mesh.brahman(&["index", "trials", "t"]).stdout).expect("text");
    assert!(said.contains("t has no trials yet"), "{said}");
    mesh.brahman_json(&["index", "eval", "t", "--queries", "100", "-k", "1"]);
    mesh.brahman_json(&[
        "index",
        "trial",
        "t",
        "--m",
        "6",
        "--ef-construction",
        "32",
        "--ef-search",
        "20",
    ]);
    mesh.brahman_json(&["index", "eval", "t", "--queries", "100", "-k", "20"]);
    let best = mesh.brahman_json(&["index", "best", "t"]);
    assert_eq!(
        (&best["trial"], &best["other_queries"]),
        (&Value::Null, &json!(1)),
        "k = 1 is not k = 20"
    );
    let widths =
        ["index", "trial", "t", "--m", "12", "--ef-construction", "80", "--widths", "20,40,80,40"];
    let trial = mesh.brahman_json(&widths)["trial"].clone();
    let measured: Vec<u64> = trial["widths"]
        .as_array()
        .expect("widths")
        .iter()
        .filter_map(|w| w["ef_search"].as_u64())
        .collect();
    assert_eq!(measured, [20, 40, 80]);
    assert_eq!(trial["live"]["generation"], 1, "what answers was measured beside it");
    let before = trials(&mesh)["fingerprint"].clone();
    let promoted = mesh.brahman_json(&[
        "index",
        "promote",
        "t",
        "--trial",
        trial["id"].as_str().expect("an id"),
        "--force",
    ]);
    assert_eq!(promoted["promoted"], true);
    let after = trials(&mesh);
    assert_eq!(
        (&after["fingerprint"], &after["live"]["m"]),
        (&before, &json!(12)),
        "the same rows with the same vectors"
    );
    assert_eq!(mesh.brahman_json(&["index", "best", "t"])["trial"]["id"], trial["id"]);
    grown(&mesh, 1320);
    let refreshed = trials(&mesh)["fingerprint"].clone();
    assert_ne!(refreshed, before);
    assert_eq!(mesh.brahman_json(&["index", "best", "t"])["trial"], Value::Null);
    mesh.brahman_json(&["index", "compact", "t"]);
    assert_eq!(trials(&mesh)["fingerprint"], refreshed);
    let svg = mesh.folder.path().join("none.svg").display().to_string();
    assert_eq!(
        mesh.brahman(&["index", "trials", "t", "--plot", &svg]).status.code(),
        Some(4),
        "of this data there is nothing to draw"
    );
}

#[tokio::test]
async fn a_generation_that_would_lose_documents_is_promoted_by_force_alone() {
    let mesh = indexed(300).await;
    grown(&mesh, 310);
    let ask = ["index", "promote", "t", "--generation", "1"];
    let out = mesh.brahman(&[&ask[..], &["--json"]].concat());
    let refused: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(
        (out.status.code(), &refused["promoted"], &refused["lost_docs"]),
        (Some(1), &json!(false), &json!(10)),
        "{refused}"
    );
    assert!(
        refused["verdict"].as_str().is_some_and(|words| words.contains("10 documents")),
        "{refused}"
    );
    assert_eq!(mesh.brahman_json(&["index", "stats", "t"])["index"]["generation"], 2);
    let forced = mesh.brahman_json(&[&ask[..], &["--force"]].concat());
    assert_eq!((&forced["promoted"], &forced["generation"]), (&json!(true), &json!(1)));
    assert_eq!(
        mesh.brahman_json(&["index", "generations", "t"])["generations"][1]["measured"],
        Value::Null,
        "nothing was measured"
    );
}

const AGENT: &str = "[agent]\nenabled = true\ncooldown_s = 0\nmax_trials_per_hour = 100\nm = [4, 8]\nef_construction = [16, 32]\n";

async fn with_agent(rows: u32) -> (Mesh, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), AGENT).expect("written");
    let mesh = mesh_with("test", |setup| setup.env("BRAHMAN_INDEX_CONFIG", file.path())).await;
    (filled(mesh, rows), file)
}

/// Waits for a trial of the agent's on the data as it is now.
fn tried(mesh: &Mesh) -> Value {
    loop {
        let out = trials(mesh);
        let all = out["trials"].as_array().expect("trials");
        if let Some(trial) =
            all.iter().find(|t| t["by"] == "agent" && t["fingerprint"] == out["fingerprint"])
        {
            return trial.clone();
        }
    }
}

#[tokio::test]
async fn every_refresh_that_brings_new_data_has_it_tried_the_first_one_too() {
    let (mesh, _file) = with_agent(1300).await;
    let first = tried(&mesh);
    grown(&mesh, 1310);
    let second = tried(&mesh);
    assert_ne!(first["fingerprint"], second["fingerprint"]);
    let count = |mesh: &Mesh| trials(mesh)["trials"].as_array().map(Vec::len);
    let before = count(&mesh);
    mesh.brahman_json(&["index", "refresh", "t"]);
    assert_eq!(mesh.brahman_json(&["index", "agent"])["queue"], json!([]), "nothing is new");
    assert_eq!(count(&mesh), before);
}

#[tokio::test]
async fn people_go_first_and_the_agent_goes_on_afterwards() {
    let (mesh, _file) = with_agent(2000).await;
    mesh.brahman_json(&["index", "agent", "t"]);
    let tuned = mesh.brahman_json(&[
        "index",
        "autotune",
        "t",
        "--m",
        "4,8,4",
        "--ef-construction",
        "16,32",
    ]);
    assert_eq!(
        (&tuned["done"], &tuned["of"]),
        (&json!(4), &json!(4)),
        "what is named twice is tried once"
    );
    let of_people = trials(&mesh)["trials"]
        .as_array()
        .expect("trials")
        .iter()
        .filter(|t| t["by"] == "autotune")
        .count();
    assert_eq!(of_people, 4);
    tried(&mesh);
}

#[tokio::test]
async fn a_grid_is_looked_at_before_the_first_trial() {
    let mesh = indexed(300).await;
    for ask in [
        json!({"name": "t", "m": [8, 1]}),
        json!({"name": "t", "ef_search": [10, 0]}),
        json!({"name": "t", "trials": 0}),
        json!({"name": "t", "m": (2..40).collect::<Vec<u64>>()}),
    ] {
        assert!(
            mesh.fault("org.brahman.Index.Autotune", ask.clone())
                .await
                .name
                .ends_with("InvalidParameter"),
            "{ask}"
        );
    }
    assert_eq!(trials(&mesh)["trials"], json!([]));
}
