//! With a profile active only what it binds can be named, whichever door a call comes through.

use std::path::Path;
use std::time::{Duration, Instant};

use brahman_card::ModuleState;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, ClientError, Connection};
use brahman_tests::{Mesh, PATIENCE, Setup, gone, shipped};
use serde_json::{Value, json};

use super::{activate, fault};

/// A mesh with two datasets and an index of each.
async fn indexed() -> Mesh {
    let cards = ["broker", "catalog", "ingest", "embed-mock", "index", "profiles"].map(shipped);
    let mesh = Setup::new(&cards).env("BRAHMAN_NVML", "/no/such/nvml.so").up().await;
    mesh.when(|modules| modules.iter().all(|module| module.state == ModuleState::Ready)).await;
    for name in ["cvs", "docs"] {
        let csv = mesh.folder.path().join(format!("{name}.csv"));
        std::fs::write(&csv, "id,text\n1,ships\n2,trains\n").expect("written");
        let csv = csv.display().to_string();
        for arguments in [
            &["ingest", "files", name, csv.as_str()][..],
            &["index", "create", name, "--dataset", name],
            &["index", "refresh", name],
        ] {
            let out = mesh.brahman(arguments);
            assert!(
                out.status.success(),
                "{arguments:?}: {}",
                String::from_utf8_lossy(&out.stderr)
            );
        }
    }
    mesh
}

async fn at(socket: &Path, method: &str, parameters: Value) -> Result<Value, ClientError> {
    let mut connection = Connection::connect(socket).await?;
    tokio::time::timeout(PATIENCE, connection.call(method, &parameters))
        .await
        .unwrap_or(Err(ClientError::Deadline(PATIENCE)))
}

/// That what another profile binds can be named through no door, and what this one binds through
/// each.
async fn assert_scope(mesh: &Mesh, profile: &str, bound: &str, other: &str) {
    let found = mesh
        .call(
            "org.brahman.Index.Search",
            json!({"index": bound, "text": "ships", "mode": "lexical"}),
        )
        .await;
    assert_eq!(found.expect("found")["results"][0][0]["doc_id"], "1", "{bound}");
    mesh.call("org.brahman.Catalog.Get", json!({"name": bound})).await.expect("there");
    let (index, catalog) = (mesh.beside("index.sock"), mesh.beside("catalog.sock"));
    let key = format!("datasets/{other}/x/part-0.parquet");
    for (socket, method, parameters) in [
        (mesh.socket(), "org.brahman.Index.Search", json!({"index": other, "text": "ships"})),
        (index.clone(), "org.brahman.Index.Search", json!({"index": other, "text": "ships"})),
        (index.clone(), "org.brahman.Index.Get", json!({"index": other, "doc_id": "1"})),
        (index.clone(), "org.brahman.Index.Stats", json!({"name": other})),
        (index.clone(), "org.brahman.Index.Delete", json!({"name": other})),
        (index.clone(), "org.brahman.Index.Trials", json!({"name": other})),
        (
            index,
            "org.brahman.Index.Create",
            json!({"name": bound, "dataset": other, "id_column": "id", "text_column": "text"}),
        ),
        (mesh.socket(), "org.brahman.Catalog.Get", json!({"name": other})),
        (catalog.clone(), "org.brahman.Catalog.Sample", json!({"name": other})),
        (catalog.clone(), "org.brahman.Catalog.Copy", json!({"name": bound, "to": other})),
        (catalog.clone(), "org.brahman.Catalog.Delete", json!({"name": other})),
        (
            catalog.clone(),
            "org.brahman.Storage.GetObject",
            json!({"bucket": "primary", "key": key}),
        ),
        (
            catalog.clone(),
            "org.brahman.Storage.GetObject",
            json!({"bucket": "primary", "key": format!("indexes/{other}/index.json")}),
        ),
        (
            catalog.clone(),
            "org.brahman.Storage.GetObject",
            json!({"bucket": "primary", "key": format!("manifests/{other}/1.json")}),
        ),
        (catalog, "org.brahman.Storage.Scrub", json!({"dataset": other})),
        (mesh.beside("ingest.sock"), "org.brahman.Ingest.Unwatch", json!({"dataset": other})),
    ] {
        let refused = fault(at(&socket, method, parameters).await);
        assert_eq!(refused.name, "org.brahman.Profiles.Forbidden", "{method}: {refused}");
        assert_eq!(
            (&refused.parameters["profile"], &refused.parameters["name"]),
            (&json!(profile), &json!(other)),
            "{method}"
        );
    }
    let names = |list: &Value, what: &str| -> Vec<String> {
        list[what]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(
        names(&mesh.call("org.brahman.Index.List", json!({})).await.expect("listed"), "indexes"),
        [bound]
    );
    assert_eq!(
        names(&mesh.call("org.brahman.Catalog.List", json!({})).await.expect("listed"), "datasets"),
        [bound]
    );
    // Nor is it told by what acts on everything at once.
    for (method, parameters) in [
        ("org.brahman.Ingest.Runs", json!({})),
        ("org.brahman.Ingest.Watches", json!({})),
        ("org.brahman.Index.AgentStatus", json!({})),
        ("org.brahman.Storage.Errors", json!({})),
        ("org.brahman.Storage.Scrub", json!({})),
    ] {
        let told = mesh
            .call(method, parameters)
            .await
            .unwrap_or_else(|error| panic!("{method}: {error}"))
            .to_string();
        assert!(
            !told.contains(&format!("\"{other}\""))
                && !told.contains(&format!("datasets/{other}/")),
            "{method}: {told}"
        );
    }
    let folder = mesh.folder.path().join("copy");
    std::fs::create_dir_all(&folder).expect("made");
    for (method, parameters) in [
        ("org.brahman.Catalog.Snapshot", json!({"folder": folder})),
        ("org.brahman.Index.Snapshot", json!({"folder": folder})),
        ("org.brahman.Catalog.ResyncMissing", json!({})),
    ] {
        let refused = fault(mesh.call(method, parameters).await);
        assert_eq!(
            (refused.name.as_ref(), &refused.parameters["profile"]),
            ("org.brahman.Profiles.Forbidden", &json!(profile)),
            "{method}"
        );
    }
    let mut watching = Connection::connect(&mesh.beside("catalog.sock")).await.expect("connected");
    let watch =
        encode_call("org.brahman.Catalog.Watch", &json!({}), &CallOptions::default(), true, false)
            .expect("a call");
    watching.send(&watch).await.expect("sent");
    let word: Value = watching.receive().await.expect("told").typed().expect("a word").value;
    let seen: Vec<&String> = word["generations"].as_object().expect("by name").keys().collect();
    assert_eq!(seen, [bound], "{word}");
}

#[tokio::test]
async fn with_a_profile_active_only_what_it_binds_can_be_named_through_any_door_whoever_dies() {
    let mesh = indexed().await;
    let folder = mesh.folder.path().join("profiles");
    std::fs::create_dir_all(&folder).expect("made");
    let write = |id: &str, text: &str| {
        std::fs::write(folder.join(format!("{id}.toml")), text).expect("written");
    };
    write("recruiter", "indexes = [\"cvs\"]\ndatasets = [\"cvs\"]\nbucket = \"staffing\"\n");
    write("assistant", "indexes = [\"docs\", \"later\"]\ndatasets = [\"docs\"]\n");
    activate(&mesh, "recruiter").await.expect("activated");
    assert_scope(&mesh, "recruiter", "cvs", "docs").await;
    let buckets = mesh.call("org.brahman.Storage.Buckets", json!({})).await.expect("listed");
    let made = buckets["buckets"]
        .as_array()
        .expect("a list")
        .iter()
        .any(|bucket| bucket["name"] == "staffing");
    assert!(made && mesh.folder.path().join("state/buckets/staffing").is_dir(), "{buckets}");
    let switched = activate(&mesh, "assistant").await.expect("activated");
    assert!(
        switched["notes"][0].as_str().is_some_and(|note| note.contains("no index `later`")),
        "{switched}"
    );
    assert_scope(&mesh, "assistant", "docs", "cvs").await;
    for label in ["profiles", "index", "catalog", "broker"] {
        let pid = mesh.module(label).await.pid;
        mesh.signal(pid, "KILL");
        gone(pid).await;
        mesh.when(|modules| {
            modules.iter().any(|m| {
                m.card.label.as_str() == label && m.state == ModuleState::Ready && m.pid != pid
            })
        })
        .await;
        assert_scope(&mesh, "assistant", "docs", "cvs").await;
    }
    let person = mesh.brahman(&["search", "cvs", "ships"]);
    let said = String::from_utf8_lossy(&person.stderr).into_owned();
    assert!(
        !person.status.success() && said.contains("profile `assistant`") && said.contains("`cvs`"),
        "{said}"
    );
    mesh.call("org.brahman.Profiles.Deactivate", json!({})).await.expect("left");
    for name in ["cvs", "docs"] {
        mesh.call(
            "org.brahman.Index.Search",
            json!({"index": name, "text": "ships", "mode": "lexical"}),
        )
        .await
        .expect("found");
    }
    mesh.down();
}

#[tokio::test]
async fn what_began_before_a_profile_was_activated_ends_as_it_began() {
    let mesh = indexed().await;
    let of = mesh.call("org.brahman.Catalog.Get", json!({"name": "cvs"})).await.expect("there");
    let (generation, ended) = (&of["dataset"]["generation"], &of["dataset"]["lineage"]["run_id"]);
    let begun = "01JZZZZZZZZZZZZZZZZZZZZZZZ";
    let run = json!({"name": "cvs", "run_id": begun, "producer": "test"});
    mesh.call("org.brahman.Catalog.Location", run).await.expect("begun");
    let run = json!({
        "name": "cvs", "run_id": "01JXXXXXXXXXXXXXXXXXXXXXXX", "producer": "hidden",
    });
    mesh.call("org.brahman.Catalog.Location", run).await.expect("begun");
    mesh.call(
        "org.brahman.Profiles.Define",
        json!({"profile": {"id": "assistant", "indexes": ["docs"], "datasets": ["docs"]}}),
    )
    .await
    .expect("defined");
    activate(&mesh, "assistant").await.expect("activated");
    let clear = |run: &Value| {
        let ask = json!({"name": "cvs", "index": "cvs", "generation": generation, "run_id": run});
        mesh.call("org.brahman.Catalog.ClearStale", ask)
    };
    let commit = |run: &str| {
        let ask = json!({
            "name": "cvs", "run_id": run, "objects": [], "columns": [], "inputs": [], "producer": "test",
        });
        mesh.call("org.brahman.Catalog.Commit", ask)
    };
    // A refresh that has read the dataset, and a run that has written for it.
    assert_eq!(clear(ended).await.expect("cleared")["cleared"], true);
    commit(begun).await.expect("committed");
    commit(begun).await.expect("said again");
    // Whoever has not been told of them ends nothing.
    let stranger = "01JYYYYYYYYYYYYYYYYYYYYYYY";
    for refused in [fault(clear(&json!(stranger)).await), fault(commit(stranger).await)] {
        assert_eq!(refused.name, "org.brahman.Profiles.Forbidden", "{refused:?}");
    }
    // Runs that are given up are counted, and those of what is hidden are not named.
    let ask = json!({"producer": "hidden", "reason": "no more"});
    let ended = mesh.call("org.brahman.Catalog.Abandon", ask).await.expect("given up");
    assert_eq!((&ended["abandoned"], &ended["runs"]), (&json!(1), &Value::Null), "{ended}");
}

#[tokio::test]
async fn a_watch_that_a_profile_held_up_looks_again_at_once_when_it_is_left() {
    let mesh = indexed().await;
    let folder = mesh.folder.path().join("followed");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(folder.join("a.md"), "one").expect("written");
    let ask = json!({"dataset": "n", "paths": [folder.display().to_string()], "debounce_ms": 150});
    mesh.call("org.brahman.Ingest.Watch", ask).await.expect("watched");
    let watched = || mesh.brahman_json(&["ingest", "watches"])["watches"][0].clone();
    while watched()["generation"] != 1 {}
    mesh.call(
        "org.brahman.Profiles.Define",
        json!({"profile": {"id": "assistant", "indexes": ["docs"], "datasets": ["docs"]}}),
    )
    .await
    .expect("defined");
    activate(&mesh, "assistant").await.expect("activated");
    std::fs::write(folder.join("b.md"), "two").expect("written");
    while !mesh.log().contains("could not be ingested") {}
    mesh.call("org.brahman.Profiles.Deactivate", json!({})).await.expect("left");
    // Sooner than what has failed is tried again by itself.
    let left = Instant::now();
    while watched()["generation"] != 2 {
        assert!(left.elapsed() < Duration::from_secs(20), "{}", watched());
    }
    assert_eq!(watched()["error"], Value::Null);
}

#[tokio::test]
async fn what_waited_for_a_model_while_a_profile_was_activated_ends_as_it_began() {
    let mesh = indexed().await;
    let profile = json!({"id": "assistant", "indexes": ["docs"], "datasets": ["docs"]});
    mesh.call("org.brahman.Profiles.Define", json!({ "profile": profile })).await.expect("defined");
    let embedder = mesh.module("embed-mock").await.pid;
    mesh.signal(embedder, "STOP");
    let migrating = mesh.call("org.brahman.Index.Migrate", json!({"name": "cvs"}));
    let meanwhile = async {
        let stats = json!({"name": "cvs"});
        while mesh.call("org.brahman.Index.Stats", stats.clone()).await.expect("there")["index"]["busy"]
            != "migration"
        {}
        activate(&mesh, "assistant").await.expect("activated");
        mesh.signal(embedder, "CONT");
    };
    let (migrated, ()) = tokio::join!(migrating, meanwhile);
    assert_eq!(migrated.expect("what was called before goes on")["total"], 2);
    let refused = fault(mesh.call("org.brahman.Index.Migrate", json!({"name": "cvs"})).await);
    assert_eq!(refused.name, "org.brahman.Profiles.Forbidden", "{refused:?}");
}
