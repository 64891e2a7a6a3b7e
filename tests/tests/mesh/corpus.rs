//! States of earlier versions are read by this one: `tests/corpus/states`, made by
//! `tests/corpus/make.sh`.

use std::path::PathBuf;
use std::process::Command;

use brahman_card::ModuleState;
use brahman_tests::{Setup, repository, shipped};
use serde_json::json;

fn states() -> Vec<PathBuf> {
    let folder = repository().join("tests/corpus/states");
    let entries =
        std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "gz")).collect();
    all.sort();
    all
}

#[tokio::test]
async fn every_earlier_version_s_state_is_served() {
    let states = states();
    assert!(
        !states.is_empty(),
        "no states are kept: tests/corpus/make.sh makes that of this version"
    );
    for state in states {
        let setup =
            Setup::new(&["broker", "catalog", "ingest", "embed-mock", "index"].map(shipped));
        let (name, folder) = (state.display().to_string(), setup.state());
        let above = folder.parent().expect("a folder").to_owned();
        let unpacked = Command::new("tar")
            .arg("xzf")
            .arg(&state)
            .arg("-C")
            .arg(above)
            .status()
            .expect("tar runs");
        assert!(unpacked.success(), "{name}");
        let mesh = setup.up().await;
        mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
        let list = mesh.call("org.brahman.Catalog.List", json!({})).await.expect("listed");
        let all = list["datasets"].as_array().expect("datasets");
        assert!(
            list.get("notes").is_none() && all.iter().all(|dataset| dataset.get("state").is_none()),
            "{name}: {list}"
        );
        for (dataset, rows) in [("table", 3), ("notes", 3)] {
            let got = mesh
                .call("org.brahman.Catalog.Get", json!({ "name": dataset }))
                .await
                .expect("there");
            assert_eq!(
                (&got["dataset"]["rows"], got.get("missing")),
                (&json!(rows), None),
                "{name}: {got}"
            );
            assert!(
                mesh.brahman(&["index", "doctor", dataset]).status.success(),
                "{name}: index {dataset}"
            );
        }
        let found = mesh
            .call(
                "org.brahman.Index.Search",
                json!({"index": "table", "text": "third", "mode": "lexical"}),
            )
            .await;
        assert_eq!(found.expect("found")["results"][0][0]["doc_id"], "3", "{name}");
        let stale =
            |index: &str| mesh.brahman_json(&["index", "stats", index])["index"]["stale"].clone();
        assert_eq!((stale("table"), stale("notes")), (json!(false), json!(true)), "{name}");
        let watches = mesh.brahman_json(&["ingest", "watches"]);
        assert_eq!(watches["watches"][0]["dataset"], "notes", "{name}");
        // What was cut, and made into words, in another way answers as it did, and is made anew
        // when somebody wants it.
        let hybrid = async || {
            let ask = json!({"index": "notes", "text": "notes on planes", "mode": "hybrid"});
            mesh.call("org.brahman.Index.Search", ask).await.expect("found")
        };
        let is_old =
            mesh.brahman_json(&["index", "stats", "notes"])["index"]["chunk_tokens"].is_null();
        let refreshed = mesh.brahman_json(&["index", "refresh", "notes"]);
        assert_eq!(refreshed.get("old_chunks").is_some(), is_old, "{name}: {refreshed}");
        assert_eq!(
            (&refreshed["new_docs"], &refreshed["total"]),
            (&json!(1), &json!(3)),
            "{name}: {refreshed}"
        );
        let before = hybrid().await;
        assert_eq!(
            before["fusion"]["method"],
            if is_old { "rrf" } else { "weighted" },
            "{name}: {before}"
        );
        let made = mesh.brahman_json(&["index", "migrate", "notes", "--chunks"]);
        assert_eq!((made.get("old_chunks"), &made["total"]), (None, &json!(3)), "{name}: {made}");
        let after = hybrid().await;
        assert_eq!(
            (&after["fusion"]["method"], &after["generation"]),
            (&json!("weighted"), &made["generation"]),
            "{name}: {after}"
        );
        for found in [before, after] {
            assert!(
                found["results"][0][0]["doc_id"]
                    .as_str()
                    .is_some_and(|id| id.ends_with("planes.md")),
                "{name}: {found}"
            );
        }
        mesh.down();
    }
}
