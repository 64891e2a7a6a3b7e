//! The gateway's page, as a browser without a script gets it: what it shows of a mesh, and that
//! nothing runs in it that a mesh says.

use std::io::Write as _;

use brahman_tests::Mesh;
use serde_json::json;

use crate::gateway::{HttpAnswer, mesh, request, send};

/// What somebody has called a file: no name of a dataset or an index may have such letters.
const HOSTILE: &str = "<img src=x onerror=alert(1)>.md";

fn browse(mesh: &Mesh, path: &str) -> HttpAnswer {
    send(mesh, &request("GET", path, &[("accept", "text/html,application/xhtml+xml")], ""))
}

/// A view that is there, and in which no element is anybody else's.
fn shown(mesh: &Mesh, path: &str) -> String {
    whole(path, &browse(mesh, path), 200)
}

fn whole(path: &str, answer: &HttpAnswer, status: u16) -> String {
    let page = answer.text();
    assert_eq!(
        (answer.status, answer.headers["content-type"].as_str()),
        (status, "text/html; charset=utf-8"),
        "{path}: {page}"
    );
    let policy = &answer.headers["content-security-policy"];
    assert!(
        policy.contains("default-src 'none'")
            && policy.contains("script-src 'sha256-")
            && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(page.matches("<script>").count() == 1 && !page.contains("<img"), "{path}: {page}");
    assert!(
        !page.contains("https:")
            && page.contains("<html lang=\"en\">")
            && page.matches("<h1>").count() == 1,
        "{path}: {page}"
    );
    page
}

#[tokio::test]
async fn every_view_is_there_without_a_script_and_runs_nothing_of_anybodys() {
    let mesh = mesh().await;
    let folder = mesh.folder.path().join("notes");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(
        folder.join(HOSTILE),
        "# Gates <b>bold</b>\n\nThe gate is blue. <script>alert(2)</script>\n",
    )
    .expect("written");
    mesh.call("org.brahman.Ingest.Files", json!({ "dataset": "notes", "paths": [folder] }))
        .await
        .expect("taken in");
    let ask =
        json!({ "name": "notes", "dataset": "notes", "id_column": "id", "text_column": "text" });
    mesh.call("org.brahman.Index.Create", ask).await.expect("made");
    mesh.call("org.brahman.Index.Refresh", json!({ "name": "notes" })).await.expect("refreshed");

    let modules = shown(&mesh, "/");
    assert!(
        modules.contains("embed-mock (mock)") && modules.contains("<td class=\"ready\">ready"),
        "{modules}"
    );
    let found = shown(&mesh, "/page/search?index=notes&text=gate&mode=lexical");
    assert!(
        found.contains("<mark>gate</mark>") && found.contains("&lt;script&gt;alert(2)"),
        "{found}"
    );
    assert!(
        found.contains("&lt;img src=x") && found.contains("synthetic, made by a mock"),
        "{found}"
    );
    let datasets = shown(&mesh, "/page/datasets");
    assert!(datasets.contains("href=\"/page/datasets?name=notes\""), "{datasets}");
    let dataset = shown(&mesh, "/page/datasets?name=notes");
    assert!(
        dataset.contains("<th scope=\"row\">text</th>") && dataset.contains("<h2 id=\"history\">"),
        "{dataset}"
    );
    let indexes = shown(&mesh, "/page/indexes");
    assert!(
        indexes.contains("href=\"/page/indexes?name=notes\"") && indexes.contains("up to date"),
        "{indexes}"
    );
    assert!(shown(&mesh, "/page/indexes?name=notes").contains("has no trials yet"));
    assert!(shown(&mesh, "/page/score").contains("<textarea id=\"talk\""));

    let absent = browse(&mesh, "/page/datasets?name=none%3Cimg%20src%3Dx%3E");
    assert!(
        whole("a dataset that there is not", &absent, absent.status).contains("role=\"alert\"")
    );
    assert!(absent.status >= 400, "{}", absent.status);
    // What a browser asks for and does not get is told it as a page, a program in JSON.
    for (path, status, why) in [
        ("/page/nothing", 404, "there is no such view"),
        ("/page/search?odd=1", 400, "a field that no form has"),
        ("/nothing", 404, "nothing is at"),
        ("/page/matrix", 405, "takes POST"),
        (
            "/page/search?index=notes&text=gate&mode=fuzzy",
            400,
            "expected hybrid, semantic, lexical",
        ),
    ] {
        let page = whole(path, &browse(&mesh, path), status);
        let alert = page.split("role=\"alert\">").nth(1).unwrap_or_default();
        assert!(alert.split('<').next().is_some_and(|text| text.contains(why)), "{path}: {page}");
    }
    let plain = send(&mesh, &request("GET", "/page/nothing", &[("accept", "*/*")], ""));
    assert_eq!(
        (plain.status, plain.headers["content-type"].as_str()),
        (404, "application/json"),
        "{}",
        plain.text()
    );
}

#[tokio::test]
async fn trials_are_a_plot_with_the_live_configuration_ringed() {
    let mesh = mesh().await;
    let file = mesh.folder.path().join("rows.csv");
    let rows: String = (0..300).map(|n| format!("{n},a text of number {n}\n")).collect();
    std::fs::write(&file, format!("id,text\n{rows}")).expect("written");
    mesh.call("org.brahman.Ingest.Files", json!({ "dataset": "rows", "paths": [file] }))
        .await
        .expect("taken in");
    let ask =
        json!({ "name": "rows", "dataset": "rows", "id_column": "id", "text_column": "text" });
    mesh.call("org.brahman.Index.Create", ask).await.expect("made");
    mesh.call("org.brahman.Index.Refresh", json!({ "name": "rows" })).await.expect("refreshed");
    mesh.call("org.brahman.Index.EvalAutogen", json!({ "name": "rows", "queries": 20 }))
        .await
        .expect("queries");
    for m in [4, 8] {
        let ask =
            json!({ "name": "rows", "config": { "m": m, "ef_construction": 32, "ef_search": 16 } });
        mesh.call("org.brahman.Index.Trial", ask).await.expect("tried");
    }
    // What fills a gap has its slashes written as entities.
    let page = shown(&mesh, "/page/indexes?name=rows").replace("&#x2f;", "/");
    assert!(
        page.contains("<polyline class=\"front\"")
            && page.contains("8/32/16")
            && page.contains("4/32/16"),
        "{page}"
    );
    // Each trial is measured beside what answers: so that is on the plot as well as in the legend.
    assert!(
        page.matches("<circle class=\"live\"").count() == 2 && page.contains("recall@10"),
        "{page}"
    );
}

#[tokio::test]
async fn a_pasted_conversation_becomes_a_heat_map() {
    let mesh = mesh().await;
    let talk = "memory+boat%3A+The+boat+is+called+Kolva.%0Amemory+%3Cimg%3E%3A+Tea.%0A\
                user%3A+Which+boat%3F%0Aassistant%3A+The+boat+is+called+Kolva.";
    let form =
        [("content-type", "application/x-www-form-urlencoded"), ("origin", "http://localhost")];
    let sent = send(&mesh, &request("POST", "/page/matrix", &form, &format!("talk={talk}")));
    let page = whole("/page/matrix", &sent, 200);
    assert!(
        page.contains("<th scope=\"row\">boat</th>")
            && page.contains("<th scope=\"row\">&lt;img&gt;</th>"),
        "{page}"
    );
    assert!(
        page.contains("<td class=\"cell h")
            && page.contains("a response loses without the memory, in nats"),
        "{page}"
    );
    for body in ["talk=nobody+speaks", "talk=", "talk=%7B%22x%22%3A"] {
        let refused = send(&mesh, &request("POST", "/page/matrix", &form, body));
        assert!(whole(body, &refused, 400).contains("role=\"alert\""));
    }
    // Who comes from elsewhere sends no form.
    let foreign =
        [("content-type", "application/x-www-form-urlencoded"), ("origin", "http://evil.example")];
    assert_eq!(send(&mesh, &request("POST", "/page/matrix", &foreign, "talk=x")).status, 403);
}

#[tokio::test]
async fn the_modules_are_followed_by_events() {
    let mesh = mesh().await;
    let mut stream = crate::gateway::socket(&mesh);
    stream
        .write_all(&request("GET", "/v1/events", &[("accept", "text/event-stream")], ""))
        .expect("sent");
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while seen.matches("event: status\ndata: {").count() < 2 {
        let count = std::io::Read::read(&mut stream, &mut buffer).expect("events");
        assert!(count > 0, "it ended: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert!(seen.contains("\"restarts\":"), "{seen}");
}
