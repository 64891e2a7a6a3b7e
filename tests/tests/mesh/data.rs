//! The main job: files to datasets to indexes to answers, with the real model.

use std::path::Path;

use brahman_card::ModuleState;
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::{Value, json};

async fn mesh(context: &str) -> Mesh {
    let cards = ["broker", "embed-mock", "embed-real", "catalog", "ingest", "index"].map(shipped);
    let mesh = Setup::new(&cards).context(context).real_model().up().await;
    mesh.when(|m| {
        ["ingest", "index", "embed-real"]
            .iter()
            .all(|l| m.iter().any(|m| m.card.label.as_str() == *l && m.state == ModuleState::Ready))
    })
    .await;
    mesh
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }
}

#[tokio::test]
async fn a_folder_is_ingested_indexed_searched_and_refreshed_by_difference() {
    let mesh = mesh("prod").await;
    let notes = mesh.folder.path().join("notes");
    write(
        &notes,
        &[
            (
                "backup.md",
                "# Backups\n\nIntro.\n\n# Schedule\n\nWe take a full backup every night at two and keep thirty days.\n",
            ),
            ("food/soup.txt", "Boil the onions, add the stock, simmer for an hour.\n"),
            ("code/main.rs", "fn main() {\n    println!(\"hello\");\n}\n"),
            ("binary.bin", "a\0b"),
        ],
    );
    let notes_path = notes.display().to_string();
    let ingested = mesh.brahman_json(&["ingest", "files", "notes", &notes_path]);
    assert_eq!(
        (&ingested["rows"], &ingested["quarantined"], &ingested["generation"]),
        (&json!(3), &json!(1), &json!(1))
    );
    assert!(ingested["quarantine"][0]["reason"].as_str().is_some_and(|r| r.contains("binary")));
    assert_eq!(
        mesh.brahman_json(&["index", "create", "notes", "--dataset", "notes"])["created"],
        true
    );
    assert_eq!(
        mesh.fault("org.brahman.Index.Search", json!({"index": "notes", "text": "x"})).await.name,
        "org.brahman.Index.NotReady"
    );
    let refreshed = mesh.brahman_json(&["index", "refresh", "notes"]);
    assert_eq!(
        (&refreshed["new_docs"], &refreshed["dataset_docs"], &refreshed["stale_cleared"]),
        (&json!(3), &json!(3), &json!(true))
    );

    let found = mesh.brahman_json(&[
        "search",
        "notes",
        "how long do we keep copies of the data?",
        "-k",
        "2",
    ]);
    let hit = &found["results"][0][0];
    assert_eq!(
        (&hit["doc_id"], &found["provider"], &found["stale"]),
        (&json!("backup.md"), &json!("embed-real"), &json!(false))
    );
    assert!(hit["score"].as_f64() > Some(0.3), "{hit}");

    // One changed, one gone, one new: only the changed and the new are embedded.
    std::fs::remove_file(notes.join("food/soup.txt")).expect("removed");
    write(
        &notes,
        &[
            ("code/main.rs", "fn main() {\n    panic!(\"goodbye\");\n}\n"),
            ("new.txt", "The invoice is due on Friday.\n"),
        ],
    );
    mesh.brahman_json(&["ingest", "files", "notes", &notes_path]);
    let stale = mesh.brahman_json(&["search", "notes", "soup"]);
    assert_eq!(stale["stale"], true, "the reply says that the dataset has moved on");
    let again = mesh.brahman_json(&["index", "refresh", "notes"]);
    assert_eq!(
        ["pre_existing_docs", "new_docs", "changed_docs", "removed_docs", "new_chunks"]
            .map(|k| again[k].as_u64()),
        [Some(3), Some(1), Some(1), Some(1), Some(2)]
    );
    let ids: Vec<Value> = mesh.brahman_json(&["search", "notes", "soup", "-k", "9"])["results"][0]
        .as_array()
        .expect("hits")
        .iter()
        .map(|h| h["doc_id"].clone())
        .collect();
    assert!(!ids.contains(&json!("food/soup.txt")), "{ids:?}");

    // An index made with one model is searched with that model, whatever the context; by no other.
    mesh.brahman_json(&["context", "test"]);
    assert_eq!(mesh.brahman_json(&["search", "notes", "backup"])["provider"], "embed-real");
    let fault = mesh
        .fault("org.brahman.Index.Search", json!({"index": "notes", "vector": vec![0.1; 32]}))
        .await;
    assert_eq!(fault.name, "org.brahman.Index.ModelMismatch");
    assert!(mesh.brahman(&["stop", "embed-real"]).status.success());
    mesh.when_module("embed-real", ModuleState::Stopped).await;
    assert_eq!(
        mesh.fault("org.brahman.Index.Search", json!({"index": "notes", "text": "backup"}))
            .await
            .name,
        "org.brahman.Broker.NoProvider"
    );
}

#[tokio::test]
async fn what_was_acknowledged_survives_kills_of_every_module() {
    let mesh = mesh("test").await;
    let folder = mesh.folder.path().join("docs");
    write(&folder, &[("a.txt", "alpha beta gamma"), ("b.txt", "delta epsilon")]);
    mesh.brahman_json(&["ingest", "files", "docs", &folder.display().to_string()]);
    mesh.brahman_json(&["index", "create", "docs", "--dataset", "docs"]);
    mesh.brahman_json(&["index", "refresh", "docs"]);
    let before = mesh.brahman_json(&["search", "docs", "alpha beta"]);
    for label in ["catalog", "index", "ingest"] {
        let pid = mesh.module(label).await.pid;
        mesh.signal(pid, "KILL");
        mesh.when(|m| {
            m.iter().any(|m| {
                m.card.label.as_str() == label && m.state == ModuleState::Ready && m.pid != pid
            })
        })
        .await;
    }
    let after = mesh.brahman_json(&["search", "docs", "alpha beta"]);
    assert_eq!(after["results"], before["results"]);
    assert_eq!(after["results"][0][0]["doc_id"], "a.txt");
    assert_eq!(mesh.brahman_json(&["datasets", "docs"])["dataset"]["rows"], 2);
}

#[tokio::test]
async fn a_dash_is_standard_input_wherever_a_text_or_a_file_is_asked_for() {
    let mesh = mesh("test").await;
    let json = |arguments: &[&str], stdin: &str| -> serde_json::Value {
        let out = mesh.brahman_with(&[arguments, &["--json"]].concat(), stdin.as_bytes());
        assert!(out.status.success(), "{arguments:?}: {out:?}");
        serde_json::from_slice(&out.stdout).expect("JSON")
    };
    let out = json(
        &["ingest", "files", "piped", "-", "--format", "jsonl"],
        "{\"id\":\"1\",\"text\":\"alpha beta\"}\n{\"id\":\"2\",\"text\":\"gamma\"}\n",
    );
    assert_eq!(out["rows"], 2);
    mesh.brahman_json(&["index", "create", "piped", "--dataset", "piped"]);
    mesh.brahman_json(&["index", "refresh", "piped"]);
    assert_eq!(
        json(&["search", "piped", "-", "--lexical"], "gamma\n")["results"][0][0]["doc_id"],
        "2"
    );
    assert_eq!(
        json(&["embed", "one", "-"], "two\nthree\n")["vectors"].as_array().map(Vec::len),
        Some(3)
    );
    assert_eq!(json(&["embed", "--file", "-"], "a file")["bytes_total"], 6);
    assert_eq!(json(&["call", "embed.EmbedText", "-"], "{\"texts\":[\"x\"]}")["dim"], 32);
    json(&["buckets", "put", "primary", "mine/a", "-"], "some bytes");
    assert_eq!(
        mesh.brahman(&["buckets", "get", "primary", "mine/a", "--file", "-"]).stdout,
        b"some bytes"
    );
    let card = "schema_version = 1\nlabel = \"x\"\npayload = \"virtual\"\n";
    assert_eq!(json(&["check", "-"], card)["ok"], true);
    assert_eq!(mesh.brahman_with(&["check", "-"], b"label = 1").status.code(), Some(6));
    // A pipe whose writer failed replaces nothing and finds nothing.
    for arguments in [
        &["ingest", "files", "empty", "-"][..],
        &["search", "notes", "-"],
        &["search", "notes", " "],
    ] {
        let out = mesh.brahman_with(arguments, b"");
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(6) && words.contains("empty"), "{arguments:?}: {words}");
    }
    // What could not be read says why; and a run that read nothing leaves nothing that looks like a
    // lost dataset.
    let binary = mesh.folder.path().join("binary.bin");
    std::fs::write(&binary, b"a\0b").expect("written");
    let out = mesh.brahman(&["ingest", "files", "nothing", &binary.display().to_string()]);
    let words = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(6) && words.contains("binary"), "{words}");
    assert_eq!(mesh.brahman_json(&["datasets", "resync"])["failed"], json!([]));
    // A link that is named is what it leads to, and is not counted as left out.
    let (folder, link) = (mesh.folder.path().join("linked"), mesh.folder.path().join("link"));
    write(&folder, &[("a.md", "a text")]);
    std::os::unix::fs::symlink(&folder, &link).expect("linked");
    let out = mesh.brahman_json(&["ingest", "files", "linked", &link.display().to_string()]);
    assert_eq!((&out["rows"], &out["quarantined"]), (&json!(1), &json!(0)), "{out}");
}

#[tokio::test]
async fn exit_codes_tell_what_is_missing_from_what_is_bad() {
    let mesh = mesh("test").await;
    let folder = mesh.folder.path().join("notes");
    write(&folder, &[("a.txt", "alpha beta gamma")]);
    let folder = folder.display().to_string();
    mesh.brahman_json(&["ingest", "files", "notes", &folder]);
    mesh.brahman_json(&["index", "create", "notes", "--dataset", "notes"]);
    mesh.brahman_json(&["index", "refresh", "notes"]);
    let large = mesh.folder.path().join("large");
    std::fs::File::create(&large).and_then(|file| file.set_len(9 << 20)).expect("made");
    let large = large.display().to_string();
    for (arguments, code) in [
        (vec!["index", "get", "notes", "nope"], 4),
        (vec!["index", "get", "nope", "a.txt"], 4),
        (vec!["index", "migrate", "notes", "--model", "nope"], 4),
        (vec!["index", "rollback", "notes", "--generation", "99"], 4),
        (vec!["search", "nope", "x"], 4),
        (vec!["datasets", "nope"], 4),
        (vec!["lineage", "nope"], 4),
        (vec!["buckets", "get", "nope", "key"], 4),
        (vec!["buckets", "get", "primary", "nope"], 4),
        (vec!["ingest", "files", "x", "/nope"], 6),
        (vec!["ingest", "files", "x", folder.as_str(), "--format", "nope"], 6),
        (vec!["buckets", "put", "primary", "mine/large", large.as_str()], 6),
        (vec!["buckets", "put", "primary", "mine/none", "/nope"], 6),
        (vec!["search", "notes", "x", "-k", "0"], 6),
        (vec!["index", "delete", "nope"], 0),
    ] {
        let out = mesh.brahman(&arguments);
        assert_eq!(
            out.status.code(),
            Some(code),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
}

#[tokio::test]
async fn bad_input_is_named() {
    let mesh = mesh("test").await;
    let folder = mesh.folder.path().join("t");
    write(&folder, &[("t.csv", "id,text\n1,one\n2\n3,three\n"), ("empty/.keep", "")]);
    let csv = folder.join("t.csv").display().to_string();
    let out = mesh.brahman_json(&["ingest", "files", "t", &csv]);
    assert_eq!((&out["rows"], &out["quarantine"][0]["row"]), (&json!(2), &json!(2)));
    for (arguments, words) in [
        (vec!["ingest", "files", "t", "/nonexistent"], "/nonexistent"),
        (vec!["ingest", "files", "../t", csv.as_str()], "no name for a dataset"),
        (vec!["index", "create", "x", "--dataset", "none"], "no dataset is called `none`"),
        (
            vec!["index", "create", "x", "--dataset", "t", "--text-column", "body"],
            "it has id, text",
        ),
        (vec!["index", "create", "x", "--dataset", "t", "--chunk-size", "3"], "16 to 100000"),
        (vec!["search", "none", "x"], "no index is called `none`"),
    ] {
        let out = mesh.brahman(&arguments);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains(words), "{arguments:?}: {text}");
    }
    let empty = folder.join("empty").display().to_string();
    let fault =
        mesh.fault("org.brahman.Ingest.Files", json!({"dataset": "e", "paths": [empty]})).await;
    assert_eq!(fault.name, "org.brahman.Ingest.NothingToRead");
}

#[tokio::test]
async fn what_ingest_had_to_choose_is_in_its_reply_and_can_be_said_otherwise() {
    let mesh = mesh("test").await;
    let folder = mesh.folder.path().join("exact");
    let lines = "{\"id\":1,\"amount\":99999999999999.99,\"v\":1}\n{\"id\":18446744073709551615,\"amount\":0.1,\"v\":\"two\"}\n";
    write(&folder, &[("t.jsonl", lines), ("t.CSV", "zip;age\n007;34\n8;NA\n")]);
    let path = |name: &str| folder.join(name).display().to_string();
    let types = |out: &serde_json::Value| -> Vec<String> {
        let each = out["columns"].as_array().into_iter().flatten();
        each.map(|column| column["arrow_type"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let out = mesh.brahman_json(&["ingest", "files", "exact", &path("t.jsonl")]);
    assert_eq!(types(&out), ["UInt64", "Decimal128(18, 2)", "Utf8"]);
    let notes = out["notes"].to_string();
    assert!(
        notes.contains("`99999999999999.99`") && notes.contains("column `v`: it is text"),
        "{notes}"
    );
    let shown = mesh.brahman_json(&["datasets", "show", "exact"]);
    assert_eq!(
        shown["sample"]["rows"][1],
        json!({"id": 18_446_744_073_709_551_615_u64, "amount": "0.10", "v": "two"})
    );
    let out = mesh.brahman_json(&["ingest", "files", "exact", &path("t.CSV")]);
    let notes = out["notes"].to_string();
    assert_eq!(types(&out), ["Utf8", "Int64"]);
    assert!(
        notes.contains("`007`") && notes.contains("`NA`") && notes.contains("--delimiter"),
        "{notes}"
    );
    let out = mesh.brahman_json(&[
        "ingest",
        "files",
        "exact",
        &path("t.CSV"),
        "--types",
        "text",
        "--delimiter",
        ";",
        "--null",
        "8",
    ]);
    assert_eq!(types(&out), ["Utf8", "Utf8"]);
    assert!(!out["notes"].to_string().contains("zip"), "{out}");
    let out =
        mesh.brahman(&["ingest", "files", "exact", &path("t.CSV"), "--delimiter", "too long"]);
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("expected one ASCII character"),
        "{out:?}"
    );
}

#[tokio::test]
async fn documents_and_instants_are_shown_before_anything_is_written() {
    let mesh = mesh("test").await;
    let folder = mesh.folder.path();
    write(&folder.join("pages"), &[("a.md", "# A page\n")]);
    write(&folder.join("tables"), &[("a.csv", "n,at\n1,2024-01-01T00:30:00+02:00\n")]);
    for (name, part) in [("pages", "A page"), ("tables", "2023-12-31T22:30:00Z")] {
        let path = folder.join(name).display().to_string();
        let told = mesh.brahman_json(&["ingest", "files", "t", &path, "--explain"]);
        assert!(told["sample"][0].to_string().contains(part), "{name}: {told}");
    }
}

#[tokio::test]
async fn what_would_come_of_files_is_told_before_anything_is_written() {
    let mesh = mesh("test").await;
    let folder = mesh.folder.path().join("tables");
    write(
        &folder,
        &[
            ("a.csv", "id;price;when\n1;1,5;31/12/2024\n2;x\n"),
            ("b.csv", "when;id;price\n01/02/2025;3;2\n"),
        ],
    );
    let path = folder.display().to_string();
    let said = ["--decimal", "comma", "--dates", "day-first", "--types", "id=text"];
    let told =
        mesh.brahman_json(&[&["ingest", "files", "t", &path, "--explain"][..], &said].concat());
    let kinds: Vec<&str> = told["columns"]
        .as_array()
        .expect("columns")
        .iter()
        .filter_map(|c| c["arrow_type"].as_str())
        .collect();
    assert_eq!(
        (kinds, &told["rows"], &told["files"]),
        (vec!["Utf8", "Float64", "Date32"], &json!(2), &json!(2)),
        "{told}"
    );
    assert_eq!(told["sample"], json!([["1", "1.5", "2024-12-31"], ["3", "2.0", "2025-02-01"]]));
    assert_eq!(
        (&told["dialects"][0]["delimiter"], &told["quarantine"][0]["row"]),
        (&json!(";"), &json!(2))
    );
    let words = [told["notes"].to_string(), told["quarantine"].to_string()].concat();
    for part in [
        "column `id` is Utf8, as was said",
        "column `when` is Date32: 2 dates",
        "--null-padding",
        "columns meet by name",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    mesh.fault("org.brahman.Catalog.Get", json!({"name": "t"})).await;
    let shown = mesh.brahman(&["ingest", "files", "t", &path, "--explain"]);
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains("as csv; nothing was written"),
        "{shown:?}"
    );

    // A folder of tables is one dataset; of one that has another table it is said which, and a
    // missing value is NULL if that is asked for.
    let out = mesh
        .brahman_json(&[&["ingest", "files", "t", &path, "--null-padding"][..], &said].concat());
    assert_eq!((&out["rows"], &out["quarantined"]), (&json!(3), &json!(0)), "{out}");
    write(&folder, &[("c.csv", "city,zip\nRome,7\n")]);
    let fault =
        mesh.fault("org.brahman.Ingest.Files", json!({"dataset": "t", "paths": [path]})).await;
    assert!(
        fault.message().contains("c.csv") && fault.message().contains("no column in common"),
        "{fault}"
    );
    let fault = mesh
        .fault(
            "org.brahman.Ingest.Files",
            json!({"dataset": "t", "paths": [path], "csv": {"column_types": {"no": "text"}}}),
        )
        .await;
    assert!(
        fault.message().contains("c.csv") || fault.message().contains("no column `no`"),
        "{fault}"
    );
    write(&folder, &[("README.md", "# Tables\n")]);
    let out = mesh.brahman_json(&["ingest", "files", "docs", &path, &path]);
    assert_eq!(out["rows"], 4, "documents, each once");
    assert!(out["notes"].to_string().contains("4 files were given twice"), "{out}");
}

#[tokio::test]
async fn odd_files_are_read_and_what_cannot_be_is_counted_by_name() {
    let mesh = mesh("test").await;
    let folder = mesh.folder.path().join("odd");
    std::fs::create_dir_all(&folder).expect("made");
    let ingest = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("written");
        mesh.brahman_json(&["ingest", "files", "odd", &path.display().to_string()])
    };
    // Ten thousand columns.
    let line =
        |cell: &dyn Fn(usize) -> String| (0..10_000).map(cell).collect::<Vec<_>>().join(",") + "\n";
    let wide = line(&|i| format!("c{i}"))
        + &(0..60).map(|row| line(&|i| (row * i).to_string())).collect::<String>();
    let out = ingest("wide.csv", wide.as_bytes());
    assert_eq!((&out["rows"], out["columns"].as_array().map(Vec::len)), (&json!(60), Some(10_000)));
    assert_eq!(out["pii"]["columns"].as_array().map(Vec::len), Some(10_000));
    // A field of a hundred mebibytes, a line of another encoding, a byte-order mark, line ends of
    // Windows, a quote that stays open.
    let mut bytes = b"\xef\xbb\xbfid,text\r\n1,one\r\n2,caf\xe9\r\n3,".to_vec();
    bytes.resize(bytes.len() + (100 << 20), b'x');
    bytes.extend_from_slice(b"\r\n4,\"four\r\n5,five\r\n");
    let out = ingest("mixed.csv", &bytes);
    let why = out["quarantine"].to_string();
    assert_eq!(
        (&out["rows"], &out["quarantined"], &out["columns"][0]["name"]),
        (&json!(2), &json!(3), &json!("id")),
        "{why}"
    );
    assert!(why.contains("is not UTF-8") && why.contains("not closed"), "{why}");
    // A page is its text; wildcards name files.
    std::fs::write(
        folder.join("page.html"),
        "<h1>Soup</h1><script>no()</script><p>Boil the <b>onions</b>.",
    )
    .expect("written");
    let pages = folder.join("*.html").display().to_string();
    mesh.brahman_json(&["ingest", "files", "odd", &pages]);
    let shown = mesh.brahman_json(&["datasets", "show", "odd"]);
    assert_eq!(shown["sample"]["rows"][0]["text"], "# Soup\n\nBoil the **onions**.");
}
