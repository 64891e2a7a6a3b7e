//! That a search finds: words in their forms, phrases, what was just appended, the one document
//! that has a word; and what of it is shown.

use std::fmt::Write as _;

use brahman_tests::Mesh;
use serde_json::{Value, json};

use super::{ids, mesh};

/// An index `d` of these documents, as Markdown files.
async fn of_files(files: &[(&str, &str)]) -> Mesh {
    let mesh = mesh("test").await;
    let folder = mesh.folder.path().join("notes");
    std::fs::create_dir(&folder).expect("made");
    for (name, text) in files {
        std::fs::write(folder.join(name), text).expect("written");
    }
    let folder = folder.display().to_string();
    mesh.brahman_json(&["ingest", "files", "d", &folder]);
    mesh.brahman_json(&["index", "create", "d", "--dataset", "d"]);
    mesh.brahman_json(&["index", "refresh", "d"]);
    mesh
}

/// An index `d` of a table's rows, brought up to it.
fn of_rows(mesh: &Mesh, rows: &[(String, String)]) -> Value {
    let path = mesh.folder.path().join("rows.csv");
    let text = rows.iter().fold(String::from("id,text\n"), |mut all, (id, text)| {
        let _ = writeln!(all, "{id},{text}");
        all
    });
    std::fs::write(&path, text).expect("written");
    mesh.brahman_json(&["ingest", "files", "d", &path.display().to_string()]);
    if !mesh.brahman(&["index", "stats", "d"]).status.success() {
        mesh.brahman_json(&["index", "create", "d", "--dataset", "d"]);
    }
    mesh.brahman_json(&["index", "refresh", "d"])
}

async fn search(mesh: &Mesh, ask: Value) -> Value {
    let mut ask = ask;
    ask["index"] = json!("d");
    mesh.call("org.brahman.Index.Search", ask).await.expect("found")
}

#[tokio::test]
async fn words_are_found_in_their_forms_and_scripts_and_phrases_are_phrases() {
    let mesh = of_files(&[
        ("backups.md", "We decided to keep nightly backups for thirty days.\n"),
        ("menu.md", "The menu for Friday is soup, and this is all of it.\n"),
        ("pool.md", "The connection pool is full.\n"),
        ("house.md", "A pool beside the house, no connection there.\n"),
        ("zh.md", "订单审批流程自动通知，请财务确认。\n"),
        ("code.md", "It calls parseHttpHeader and then max_chunk_size.\n"),
        ("fr.md", "La réunion du comité.\n"),
    ])
    .await;
    let stats = mesh.brahman_json(&["index", "stats", "d"])["index"].clone();
    assert_eq!(stats["words"], json!({"version": 1, "languages": ["english"]}), "{stats}");
    for (words, file) in [
        ("backup", "backups.md"),
        ("审批流程", "zh.md"),
        ("HEADER", "code.md"),
        ("chunk", "code.md"),
        ("max_chunk_size", "code.md"),
        ("reunion", "fr.md"),
        ("\"connection pool\"", "pool.md"),
        ("pool -house", "pool.md"),
    ] {
        let found = search(&mesh, json!({"text": words, "mode": "lexical"})).await;
        let of = ids(&found);
        assert!(of.len() == 1 && of[0].ends_with(file), "{words}: {of:?}");
        let score = found["results"][0][0]["score"].as_f64().expect("a score");
        assert!(score > 0.0 && score <= 1.0, "{found}");
    }
    let found = search(&mesh, json!({"text": "\"connection pool\" -soup", "mode": "hybrid"})).await;
    assert_eq!(
        (&found["phrases"], &found["without"]),
        (&json!(["connection pool"]), &json!(["soup"])),
        "what was chosen is said"
    );
    assert!(
        ids(&found).len() == 1 && ids(&found)[0].ends_with("pool.md"),
        "a phrase holds for both lists: {found}"
    );
    let plain =
        search(&mesh, json!({"text": "pool -house", "mode": "lexical", "literal": true})).await;
    assert_eq!((ids(&plain).len(), plain.get("without")), (2, None));
    let fault = mesh
        .fault(
            "org.brahman.Index.Search",
            json!({"index": "d", "text": "-house", "mode": "lexical"}),
        )
        .await;
    assert!(fault.message().contains("not wanted"), "{fault}");
}

/// A row just appended stood behind old ones until a compaction.
#[tokio::test]
async fn what_was_just_appended_ranks_as_after_a_compaction() {
    let mesh = mesh("test").await;
    let words = ["mesh", "card", "flow", "broker", "socket", "vector", "table"];
    let text = |n: usize| {
        (0..12).map(|i| words[(n * 5 + i * i) % words.len()]).collect::<Vec<_>>().join(" ")
    };
    let mut rows: Vec<(String, String)> = (0..1200).map(|n| (format!("r{n}"), text(n))).collect();
    of_rows(&mesh, &rows);
    rows.push(("new".into(), "zebra broker socket of mesh".into()));
    rows[7].1 = "quagga flow".into();
    of_rows(&mesh, &rows);
    let order = |found: &Value| ids(found).into_iter().take(5).collect::<Vec<_>>();
    let queries = ["broker socket zebra mesh", "quagga", "zebra", "flow of quagga table"];
    let mut before = Vec::new();
    for text in queries {
        let found = search(&mesh, json!({"text": text, "mode": "lexical", "k": 20})).await;
        before.push((order(&found), found["results"][0][0]["bm25"].as_f64().expect("a score")));
    }
    assert_eq!((before[0].0[0].as_str(), before[1].0[0].as_str()), ("new", "r7"));
    assert_eq!(mesh.brahman_json(&["index", "compact", "d"])["compacted"], true);
    for (text, (order_before, score)) in queries.iter().zip(before) {
        let found = search(&mesh, json!({"text": text, "mode": "lexical", "k": 20})).await;
        assert_eq!(order(&found)[0], order_before[0], "{text}");
        let after = found["results"][0][0]["bm25"].as_f64().expect("a score");
        assert!((after - score).abs() < 1e-4 * score, "{text}: {score} before, {after} after");
    }
}

#[tokio::test]
async fn the_one_document_that_has_a_word_is_first_in_a_hybrid_search() {
    let mesh = mesh("test").await;
    let words = ["mesh", "card", "flow", "broker", "socket", "vector", "table"];
    let text = |n: usize| {
        (0..12).map(|i| words[(n * 3 + i * i) % words.len()]).collect::<Vec<_>>().join(" ")
    };
    let rare = |n: usize| if n >= 180 { format!(" zq{n}xanthic") } else { String::new() };
    let rows: Vec<(String, String)> =
        (0..200).map(|n| (format!("r{n}"), text(n) + &rare(n))).collect();
    of_rows(&mesh, &rows);
    for weight in [0.0, 0.5, 0.9] {
        for n in 180..200 {
            let found = search(&mesh, json!({"text": format!("zq{n}xanthic"), "mode": "hybrid", "fusion": {"weight": weight}})).await;
            assert_eq!(ids(&found)[0], format!("r{n}"), "{found}");
            assert_eq!(found["fusion"]["method"], "weighted");
            let scores = found["results"][0]
                .as_array()
                .expect("hits")
                .iter()
                .map(|hit| hit["score"].as_f64().expect("a score"));
            assert!(
                scores.clone().all(|score| (0.0..=1.0).contains(&score))
                    && scores.is_sorted_by(|a, b| a >= b),
                "{found}"
            );
        }
    }
    for bad in [json!({"weight": 2.0}), json!({"method": "sum"}), json!({"k": 1})] {
        let ask = json!({"index": "d", "text": "x", "mode": "hybrid", "fusion": bad});
        mesh.fault("org.brahman.Index.Search", ask).await;
    }
}

#[tokio::test]
async fn chunks_stand_under_their_headings_and_one_document_does_not_take_all() {
    let filler = "Some words on it that go on for a while, so that the section is long enough to stand by itself. ".repeat(12);
    let answer = format!("{filler}We mend disks by copying them back.");
    let guide = format!(
        "# Guide\n\n## Nightly backups\n\n{filler}\n\n## Restoring a disk\n\n{answer}\n\n## End\n\nBye.\n"
    );
    let mesh =
        of_files(&[("guide.md", &guide), ("other.md", "# Other\n\nA disk is round.\n")]).await;
    let ask = json!({"text": "mend a disk", "mode": "lexical", "passages": true});
    let found = search(&mesh, ask).await;
    let best = &found["results"][0][0];
    assert_eq!(best["heading"], "Guide > Restoring a disk", "{found}");
    let passage = best["passage"]["text"].as_str().expect("a passage");
    assert!(
        passage.starts_with("We mend disks")
            && !best["passage"]["marks"].as_array().expect("marks").is_empty(),
        "{found}"
    );
    let chunks = mesh.brahman_json(&["index", "get", "d", best["doc_id"].as_str().expect("an id")])
        ["chunks"]
        .clone();
    let texts: Vec<&str> = chunks
        .as_array()
        .expect("chunks")
        .iter()
        .map(|chunk| chunk["text"].as_str().expect("a text"))
        .collect();
    assert!(texts.len() > 1 && texts.iter().all(|text| text.len() > 100), "no crumbs: {texts:?}");
    assert!(
        texts.last().is_some_and(|text| text.ends_with("Bye.")),
        "what is shown is the text alone, all of it"
    );
    let spread = search(&mesh, json!({"text": "disk words", "k": 2, "per_document": 1})).await;
    let mut of = ids(&spread);
    of.dedup();
    assert_eq!(of.len(), 2, "{spread}");
    mesh.fault("org.brahman.Index.Search", json!({"index": "d", "text": "x", "per_document": 0}))
        .await;
}

#[tokio::test]
async fn a_refresh_with_nothing_to_do_says_the_same_and_chunks_are_cut_anew_on_demand() {
    let mesh = mesh("test").await;
    let text = |n: usize| if n == 3 { String::new() } else { format!("row {n} of a table") };
    let rows: Vec<(String, String)> = (0..50).map(|n| (format!("r{n}"), text(n))).collect();
    of_rows(&mesh, &rows);
    let again = mesh.brahman_json(&["index", "refresh", "d"]);
    let keys = [
        "pre_existing_docs",
        "dataset_docs",
        "empty_docs",
        "new_docs",
        "removed_docs",
        "new_chunks",
        "generation",
    ];
    assert_eq!(
        keys.map(|key| again[key].as_u64()),
        [Some(49), Some(50), Some(1), Some(0), Some(0), Some(0), Some(1)],
        "{again}"
    );
    let out = mesh.brahman_json(&["index", "migrate", "d", "--chunks"]);
    assert_eq!(
        (&out["generation"], &out["new_chunks"], out.get("old_chunks")),
        (&json!(2), &json!(49), None),
        "{out}"
    );
    let stats = mesh.brahman_json(&["index", "stats", "d"])["index"].clone();
    assert_eq!((&stats["chunk_tokens"], &stats["chunks"]), (&json!(256), &json!(49)));
    assert_eq!(
        mesh.brahman_json(&["index", "generations", "d"])["generations"][0]["reason"],
        "migration"
    );
    let ask = json!({"name": "e", "dataset": "d", "id_column": "id", "text_column": "text", "chunk_tokens": 3});
    let refused = mesh.fault("org.brahman.Index.Create", ask).await;
    assert!(refused.message().contains("16 to 8192"), "{refused}");
}

#[tokio::test]
async fn a_corpus_of_one_document_in_four_languages_is_found_in_every_mode() {
    let mesh = of_files(&[(
        "one.md",
        "# Handbuch\n\nDie Sicherungen der Rechner werden jede Nacht gemacht und dreißig Tage lang aufbewahrt.\n\n\
         The backups of every machine are kept for thirty days, and this is how a disk is restored.\n\n\
         备份每天晚上进行，保存三十天。 Резервные копии хранятся тридцать дней.\n",
    )])
    .await;
    for words in [
        "backup",
        "restored",
        "Sicherungen",
        "dreissig",
        "Handbuch",
        "备份",
        "晚上",
        "копии",
        "\"thirty days\" -sixty",
    ] {
        for mode in ["lexical", "hybrid", "semantic"] {
            let found = search(&mesh, json!({"text": words, "mode": mode, "passages": true})).await;
            let of = ids(&found);
            assert!(
                !of.is_empty() && of.iter().all(|id| id.ends_with("one.md")),
                "{words} {mode}: {found}"
            );
            let scores = found["results"][0]
                .as_array()
                .expect("hits")
                .iter()
                .map(|hit| hit["score"].as_f64().expect("a score"));
            assert!(
                mode == "semantic" || scores.into_iter().all(|score| (0.0..=1.0).contains(&score)),
                "{words} {mode}: {found}"
            );
        }
    }
    for words in ["zebra", "\"days thirty\"", "backup -disk"] {
        assert!(
            ids(&search(&mesh, json!({"text": words, "mode": "lexical"})).await).is_empty(),
            "{words}"
        );
    }
}

#[tokio::test]
async fn vectors_of_the_datasets_own_and_its_words_are_fused_too() {
    let mesh = mesh("test").await;
    let axis = |at: usize| (0..32).map(|i| if i == at { 1.5 } else { 0.25 }).collect::<Vec<f32>>();
    let rows = [
        ("boat", "the boat is blue", 0),
        ("gate", "the gate is blue", 1),
        ("sea", "nothing of the kind", 2),
    ];
    let lines: String = rows.iter().fold(String::new(), |mut all, (id, text, at)| {
        let _ = writeln!(all, "{}", json!({"id": id, "text": text, "vector": axis(*at)}));
        all
    });
    let path = mesh.folder.path().join("own.jsonl");
    std::fs::write(&path, lines).expect("written");
    mesh.brahman_json(&["ingest", "files", "d", &path.display().to_string()]);
    mesh.brahman_json(&[
        "index",
        "create",
        "d",
        "--dataset",
        "d",
        "--text-column",
        "text",
        "--vector-column",
        "vector",
    ]);
    mesh.brahman_json(&["index", "refresh", "d"]);
    // A word of one document, beside another's vector; a word of two, beside the vector of one of
    // them.
    for (words, at, first) in
        [("gate", 0, "gate"), ("blue", 1, "gate"), ("blue", 0, "boat"), ("zebra", 2, "sea")]
    {
        let found =
            search(&mesh, json!({"text": words, "vector": axis(at), "mode": "hybrid"})).await;
        assert_eq!(ids(&found)[0], first, "{words} {at}: {found}");
        let best = &found["results"][0][0];
        assert!(
            best["cosine"].is_number() && best.get("bm25").is_some() == (words != "zebra"),
            "{found}"
        );
        assert!(found.get("provider").is_none(), "nothing is embedded: {found}");
    }
    assert_eq!(ids(&search(&mesh, json!({"text": "kind", "mode": "lexical"})).await), ["sea"]);
    let fault = mesh
        .fault("org.brahman.Index.Search", json!({"index": "d", "text": "gate", "mode": "hybrid"}))
        .await;
    assert!(fault.message().contains("give the query's vector beside its text"), "{fault}");
}
