//! Random CSV, JSONL and Parquet files: what ingest makes of them is what DuckDB, polars, pyarrow
//! and Python's json find there.
//!
//! `BRAHMAN_DIFFERENTIAL_FILES` says how many (60 unless it does), `BRAHMAN_DIFFERENTIAL_SEED`
//! which.

use std::process::Command;

use brahman_tests::repository;
use serde_json::{Value, json};

use crate::foreign::tool;
use crate::tables::{files, mesh};

fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |said| said.parse().expect("a number"))
}

fn run(arguments: &[&str]) -> String {
    let script = repository().join("tests/tests/mesh/differential/files.py");
    let out = Command::new(tool("python3")).arg(script).args(arguments).output().expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[tokio::test]
async fn random_files_are_what_other_readers_find_in_them() {
    let (mesh, folder) = (mesh().await, tempfile::tempdir().expect("a folder"));
    let path = folder.path().display().to_string();
    let (count, seed) =
        (setting("BRAHMAN_DIFFERENTIAL_FILES", 60), setting("BRAHMAN_DIFFERENTIAL_SEED", 23));
    run(&["make", &path, &count.to_string(), &seed.to_string()]);
    let asked: Vec<Value> = serde_json::from_str(
        &std::fs::read_to_string(folder.path().join("asked.json")).expect("written"),
    )
    .expect("JSON");
    assert_eq!(asked.len(), count);
    let mut made = Vec::new();
    for one in &asked {
        let mut csv = json!({});
        if one["kind"] == "csv" {
            // What is guessed is tried elsewhere: few rows say little of how they are written.
            csv = json!({"header": true, "delimiter": one["delimiter"].as_str().map(|mark| if mark == "\t" { "tab" } else { mark })});
        }
        let ask = json!({"dataset": "d", "paths": [one["path"]], "csv": csv, "pii": false});
        let number = made.len();
        let reply = mesh.call("org.brahman.Ingest.Files", ask.clone()).await;
        made.push(match reply {
            Ok(out) => {
                // The next file is another generation, and this one's objects may go.
                let kept: Vec<String> = files(&out)
                    .iter()
                    .enumerate()
                    .map(|(at, object)| {
                        let copy = folder.path().join(format!("{number}.{at}.made"));
                        std::fs::copy(object, &copy).expect("copied");
                        copy.display().to_string()
                    })
                    .collect();
                json!({"objects": kept, "notes": out["notes"], "quarantined": out["quarantined"]})
            }
            Err(error) => json!({"error": error.to_string()}),
        });
    }
    std::fs::write(folder.path().join("made.json"), serde_json::to_vec(&made).expect("JSON"))
        .expect("written");
    let said = run(&["compare", &path]);
    let wrong: Vec<&str> = said.lines().filter(|line| !line.ends_with("files compared")).collect();
    assert!(
        wrong.is_empty() && said.contains(&format!("{count} files compared")),
        "seed {seed}: {}",
        wrong.join("\n")
    );
}
