//! The mesh over HTTP, by raw requests on its Unix socket and by TCP: what others' clients send and
//! expect, who is let in, and what becomes of requests when a process dies.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use brahman_card::wire::base64;
use brahman_card::{ModuleState, interface};
use brahman_storage::digest::{hex, sha256};
use brahman_tests::{Mesh, PATIENCE, Setup, binary, repository, shipped};
use serde_json::{Value, json};

use crate::foreign::tool;

/// An answer, as it came.
#[derive(Debug)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl HttpAnswer {
    /// Reads an answer to the end of its connection.
    pub(crate) fn read(mut stream: impl Read) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
        let mut lines = head.split("\r\n");
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut body = bytes[end + 4..].to_vec();
        if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            body = whole(&body);
        }
        Self { status, headers, body }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A body that came in chunks.
fn whole(mut rest: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let length = std::str::from_utf8(&rest[..end])
            .ok()
            .and_then(|digits| usize::from_str_radix(digits, 16).ok())
            .expect("a length");
        let from = end + 2;
        all.extend_from_slice(&rest[from..from + length]);
        rest = &rest[from + length + 2..];
        if length == 0 {
            break;
        }
    }
    all
}

/// A request's bytes.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!(
        "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    if !headers.iter().any(|(name, _)| *name == "host") {
        text.push_str("host: localhost\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}\r\n{body}").into_bytes()
}

pub(crate) fn socket(mesh: &Mesh) -> UnixStream {
    let stream = UnixStream::connect(mesh.beside("http.sock")).expect("it is let in");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

pub(crate) fn send(mesh: &Mesh, bytes: &[u8]) -> HttpAnswer {
    let mut stream = socket(mesh);
    stream.write_all(bytes).expect("it takes the request");
    HttpAnswer::read(stream)
}

pub(crate) fn get(mesh: &Mesh, path: &str) -> HttpAnswer {
    send(mesh, &request("GET", path, &[], ""))
}

pub(crate) fn post(mesh: &Mesh, path: &str, body: &Value) -> HttpAnswer {
    send(mesh, &request("POST", path, &[("content-type", "application/json")], &body.to_string()))
}

/// A mesh of mocks with a gateway.
pub(crate) async fn mesh() -> Mesh {
    let cards = [
        "broker",
        "gateway",
        "embed-mock",
        "rerank-mock",
        "score-mock",
        "catalog",
        "ingest",
        "index",
    ]
    .map(shipped);
    let mesh = Setup::new(&cards).context("test").up().await;
    mesh.when(|modules| modules.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh
}

/// Vectors as 32-bit numbers.
fn numbers(value: &Value) -> Vec<Vec<u32>> {
    let number = |number: &Value| (number.as_f64().expect("a number") as f32).to_bits();
    let vector = |vector: &Value| vector.as_array().expect("a vector").iter().map(number).collect();
    value.as_array().expect("vectors").iter().map(vector).collect()
}

#[tokio::test]
async fn vectors_are_those_of_embed_text_bit_for_bit() {
    let mesh = mesh().await;
    let texts: Vec<String> = (0..300).map(|n| format!("text number {n} – ünïcode")).collect();
    let plain =
        mesh.call("org.brahman.Embed.EmbedText", json!({ "texts": texts })).await.expect("vectors");
    let (expected, model) =
        (numbers(&plain["vectors"]), plain["model"].as_str().expect("a name").to_owned());

    let answer = post(&mesh, "/v1/embeddings", &json!({ "model": model, "input": texts }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let out = answer.json();
    let entries: Vec<Value> = out["data"]
        .as_array()
        .expect("entries")
        .iter()
        .map(|entry| entry["embedding"].clone())
        .collect();
    assert_eq!(numbers(&entries.into()), expected);
    assert_eq!(
        (&out["object"], &out["data"][299]["index"], &out["model"]),
        (&json!("list"), &json!(299), &json!(model))
    );
    assert!(
        out["usage"]["prompt_tokens"].as_u64().is_some_and(|tokens| tokens >= 300),
        "{}",
        out["usage"]
    );
    assert_eq!(
        (answer.headers["brahman-provider"].as_str(), answer.headers["brahman-mock"].as_str()),
        ("embed-mock", "true")
    );

    let out = post(
        &mesh,
        "/v1/embeddings",
        &json!({ "model": model, "input": texts[0], "encoding_format": "base64" }),
    )
    .json();
    let bytes =
        base64::decode(out["data"][0]["embedding"].as_str().expect("a text")).expect("base64");
    let bits: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        .collect();
    assert_eq!(bits, expected[0]);

    let out =
        post(&mesh, "/api/embed", &json!({ "model": format!("{model}:latest"), "input": texts }))
            .json();
    assert_eq!(numbers(&out["embeddings"]), expected);
    let out = post(&mesh, "/api/embeddings", &json!({ "model": model, "prompt": texts[1] })).json();
    assert_eq!(numbers(&json!([out["embedding"]])), expected[1..2]);
    let out = post(&mesh, "/embed", &json!({ "inputs": texts })).json();
    assert_eq!(numbers(&out), expected);

    let models = get(&mesh, "/v1/models").json();
    assert!(
        models["data"].as_array().expect("models").iter().any(|entry| entry["id"] == model),
        "{models}"
    );
    assert_eq!(get(&mesh, &format!("/v1/models/{model}")).json()["object"], "model");
    assert_eq!(get(&mesh, "/api/tags").json()["models"][0]["name"], model);
    assert_eq!(get(&mesh, "/api/ps").json()["models"][0]["model"], model);
    assert_eq!(
        post(&mesh, "/api/show", &json!({ "model": model })).json()["capabilities"],
        json!(["embedding"])
    );
    assert!(get(&mesh, "/api/version").json()["version"].is_string());
    assert_eq!(get(&mesh, "/info").json()["model_id"], model);
    assert_eq!(get(&mesh, "/health").status, 200);
}

#[tokio::test]
async fn texts_are_ranked_and_responses_are_scored_as_others_ask_for_it() {
    let mesh = mesh().await;
    let documents = ["the cat sat on the mat", "a gate that is blue", "rain"];
    let plain = mesh
        .call("org.brahman.Rerank.Rerank", json!({ "query": "blue gate", "texts": documents }))
        .await
        .expect("ranked");
    let refused =
        mesh.fault("org.brahman.Rerank.Rerank", json!({ "query": " ", "texts": documents })).await;
    assert_eq!(refused.parameters["parameter"], "query", "{refused}");
    let order = |value: &Value| -> Vec<u64> {
        value.as_array().expect("results").iter().filter_map(|one| one["index"].as_u64()).collect()
    };
    let ask = json!({ "model": plain["model"], "query": "blue gate", "documents": documents, "top_n": 2, "return_documents": true });
    let out = post(&mesh, "/v1/rerank", &ask).json();
    assert_eq!(
        (order(&out["results"]), &out["results"][0]["document"]["text"]),
        (vec![1, order(&plain["results"])[1]], &json!(documents[1]))
    );
    let out = post(&mesh, "/v2/rerank", &ask).json();
    assert!(
        out["results"][0].get("document").is_none()
            && out["results"][0]["relevance_score"].is_number(),
        "{out}"
    );
    let out = post(&mesh, "/rerank", &json!({ "query": "blue gate", "texts": documents })).json();
    assert_eq!(order(&out), order(&plain["results"]));

    // The mock's tokens are read back as text, and in it the responses are found.
    let talk = "user: hi\nassistant: the boat is called Kolva\nuser: again\nassistant: the boat is called Kolva\n";
    let logprobs =
        mesh.call("org.brahman.Score.Logprobs", json!({ "text": talk })).await.expect("scored");
    let tokens = logprobs["tokens"].clone();
    let ask = json!({ "model": logprobs["model"], "prompt": tokens, "logprobs": 1, "priority": 5 });
    let answer = post(&mesh, "/v1/score", &ask);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let scores = answer.json()["scores"].clone();
    assert_eq!(scores.as_array().map(Vec::len), Some(2), "{scores}");
    assert!(
        scores
            .as_array()
            .into_iter()
            .flatten()
            .all(|score| score["total_logprob"].as_f64().is_some_and(|sum| sum < 0.0)),
        "{scores}"
    );
    let ranges: Vec<Value> =
        scores.as_array().expect("scores").iter().map(|score| score["range"].clone()).collect();
    let mut ask = ask;
    ask["ranges"] = ranges.into();
    assert_eq!(post(&mesh, "/v1/score", &ask).json()["scores"], scores);
}

#[tokio::test]
async fn an_error_has_the_shape_that_its_api_has() {
    let mesh = mesh().await;
    let answer =
        post(&mesh, "/v1/embeddings", &json!({ "model": "text-embedding-3-small", "input": "x" }));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("model_not_found")));
    let answer = post(&mesh, "/v1/embeddings", &json!({ "model": "", "input": [[1, 2]] }));
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("input")));
    let answer = post(&mesh, "/api/embed", &json!({ "model": "nothing", "input": "x" }));
    assert_eq!(answer.status, 404);
    assert!(answer.json()["error"].as_str().is_some_and(|words| words.contains("nothing")));
    let answer = post(&mesh, "/embed", &json!({ "inputs": 7 }));
    assert_eq!((answer.status, &answer.json()["error_type"]), (422, &json!("Tokenizer")));
    let answer = post(&mesh, "/v1/rerank", &json!({ "query": "x", "documents": [] }));
    assert_eq!(answer.status, 400);
    assert!(answer.json()["message"].is_string());
    // A passage without a word is one to a model, as other servers have it.
    let answer = post(&mesh, "/v1/rerank", &json!({ "query": "x", "documents": ["a", " "] }));
    assert_eq!(answer.json()["results"].as_array().map(Vec::len), Some(2));
    let answer = post(&mesh, "/v1/indexes/none/search", &json!({ "text": "x" }));
    assert_eq!(
        (answer.status, answer.json()["error"].as_str()),
        (404, Some("org.brahman.Index.NoSuchIndex"))
    );
    assert_eq!(answer.headers["brahman-error"], "org.brahman.Index.NoSuchIndex");
    for (path, status) in [
        ("/v1/embeddings", 405),
        ("/nothing", 404),
        ("/v1/indexes/%2e%2e/x", 404),
        ("/../etc/passwd", 404),
    ] {
        assert_eq!(get(&mesh, path).status, status, "{path}");
    }
    for body in ["{", "[]", "{\"input\": \"\\ud800\"}", "\u{0}"] {
        assert_eq!(
            send(&mesh, &request("POST", "/v1/embeddings", &[], body)).status,
            400,
            "{body:?}"
        );
    }
    assert_eq!(post(&mesh, "/v1/call/org.example.Nothing.Do", &json!({})).status, 404);
    let answer = send(&mesh, &request("GET", "/v1/models", &[("brahman-context", "no-such")], ""));
    assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some("context")));
    let deep = format!("{{\"x\": {}1{}}}", "[".repeat(5000), "]".repeat(5000));
    let answer = send(&mesh, &request("POST", "/v1/call/org.brahman.Embed.Info", &[], &deep));
    assert_eq!(answer.status, 400, "{}", answer.text());
}

#[tokio::test]
async fn any_method_is_called_and_streams_are_events_or_lines() {
    let mesh = mesh().await;
    let out = post(&mesh, "/v1/call/org.brahman.Embed.EmbedText", &json!({ "texts": ["x"] }));
    assert_eq!((out.status, out.json()["dim"].as_u64()), (200, Some(32)));
    let folder = mesh.folder.path().join("notes");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(folder.join("<img onerror=alert(1)>.md"), "# Gates\n\nThe gate is blue.\n")
        .expect("written");
    let ask = json!({ "dataset": "notes", "paths": [folder] }).to_string();
    let lines = send(
        &mesh,
        &request(
            "POST",
            "/v1/call/org.brahman.Ingest.Files",
            &[("accept", "application/x-ndjson")],
            &ask,
        ),
    );
    let replies: Vec<Value> =
        lines.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(replies.last().expect("a reply")["phase"], "done", "{replies:?}");
    let ask = json!({ "dataset": "notes", "paths": ["/no/such/folder"] }).to_string();
    let refused = send(
        &mesh,
        &request(
            "POST",
            "/v1/call/org.brahman.Ingest.Files",
            &[("accept", "text/event-stream")],
            &ask,
        ),
    );
    assert!(
        refused.status >= 400 || refused.text().contains("event: error\n"),
        "{} {}",
        refused.status,
        refused.text()
    );

    mesh.call(
        "org.brahman.Index.Create",
        json!({ "name": "notes", "dataset": "notes", "id_column": "id", "text_column": "text" }),
    )
    .await
    .expect("made");
    let events = send(
        &mesh,
        &request(
            "POST",
            "/v1/call/org.brahman.Index.Refresh",
            &[("accept", "text/event-stream")],
            "{\"name\": \"notes\"}",
        ),
    );
    assert_eq!(events.headers["content-type"], "text/event-stream");
    assert!(events.text().contains("event: done\ndata: {"), "{}", events.text());
    let found =
        post(&mesh, "/v1/indexes/notes/search", &json!({ "text": "gate", "mode": "lexical" }))
            .json();
    assert!(
        found["results"][0][0]["text"].as_str().is_some_and(|text| text.contains("blue")),
        "{found}"
    );
    assert_eq!(get(&mesh, "/v1/datasets/notes").json()["dataset"]["rows"], 1);
    assert_eq!(get(&mesh, "/v1/indexes").json()["indexes"][0]["name"], "notes");
    let uploaded = send(
        &mesh,
        &request(
            "POST",
            "/v1/ingest/files?dataset=sent&name=rows.csv",
            &[],
            "id,text\n1,one\n2,two\n",
        ),
    );
    assert_eq!(
        (uploaded.status, uploaded.json()["rows"].as_u64()),
        (200, Some(2)),
        "{}",
        uploaded.text()
    );
    assert_eq!(
        send(
            &mesh,
            &request("POST", "/v1/ingest/files?dataset=sent&name=..%2fx.csv", &[], "id\n1\n")
        )
        .status,
        400
    );
    let names = get(&mesh, "/v1/interfaces").json();
    assert!(
        names["interfaces"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|one| one["name"] == "org.brahman.Index"),
        "{names}"
    );
    let text = get(&mesh, "/v1/interfaces/org.brahman.Embed").text();
    assert_eq!(text, interface::embed::INTERFACE.idl());
    let document = get(&mesh, "/openapi.json").json();
    assert!(
        document["paths"]["/v1/call/org.brahman.Embed.EmbedText"]["post"].is_object()
            && document["x-brahman-unread"] == json!([])
    );

    let page = send(&mesh, &request("GET", "/", &[("accept", "text/html")], ""));
    assert!(
        page.headers["content-security-policy"].contains("script-src 'sha256-")
            && page.text().starts_with("<!doctype html>")
    );
    let figures = get(&mesh, "/metrics").text();
    for name in [
        "brahman_http_requests_total{",
        "brahman_module_up{",
        "brahman_module_resident_memory_bytes{",
    ] {
        assert!(figures.contains(name), "{name}: {figures}");
    }
}

#[tokio::test]
async fn a_host_that_is_not_ours_and_a_body_that_is_too_long_are_turned_away() {
    let mesh = mesh().await;
    for host in ["evil.example", "127.0.0.1.evil.example"] {
        assert_eq!(
            send(&mesh, &request("GET", "/v1/models", &[("host", host)], "")).status,
            421,
            "{host}"
        );
    }
    let foreign = [("origin", "https://evil.example")];
    let answer = send(&mesh, &request("GET", "/v1/models", &foreign, ""));
    assert!(
        answer.status == 403 && !answer.headers.contains_key("access-control-allow-origin"),
        "{answer:?}"
    );
    // A page of another port of this machine is a stranger, too; whoever has no origin says from
    // where he asks.
    for (headers, status) in [
        (&[("origin", "http://localhost:3000")][..], 403),
        (&[("origin", "null")][..], 403),
        (&[("origin", "http://localhost")][..], 200),
        (&[("sec-fetch-site", "cross-site")][..], 403),
        (&[("sec-fetch-site", "same-site")][..], 403),
        (&[("sec-fetch-site", "same-origin")][..], 200),
        (&[("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "document")][..], 200),
    ] {
        assert_eq!(
            send(&mesh, &request("GET", "/v1/models", headers, "")).status,
            status,
            "{headers:?}"
        );
    }
    let twice = [("host", "localhost"), ("host", "evil.example")];
    assert_eq!(send(&mesh, &request("GET", "/v1/models", &twice, "")).status, 421);
    let other = b"GET http://localhost/v1/models HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(send(&mesh, other).status, 421);
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        1_u64 << 40
    );
    assert_eq!(send(&mesh, head.as_bytes()).status, 413);
    let head = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    let mut stream = socket(&mesh);
    // It may hang up before it has taken all of it.
    let _ = stream.write_all(head.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    // Two at once on one connection are answered one after the other.
    let mut both = b"GET /api/version HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec();
    both.extend(request("GET", "/api/version", &[], ""));
    assert_eq!(
        send(&mesh, &both).text().matches("HTTP/1.1 200").count(),
        1,
        "the second answer lies behind the first"
    );
}

/// Reads from a stream until this has come; gives all that has.
pub(crate) fn read_until(stream: &mut impl Read, word: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(word) {
        let read = stream.read(&mut buffer).expect("readable");
        assert!(read > 0, "it hung up after: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    text
}

#[tokio::test]
async fn streams_are_bounded_and_whoever_hangs_up_gives_his_place_back() {
    let mesh = mesh().await;
    let open = || {
        let mut stream = socket(&mesh);
        stream.write_all(&request("GET", "/v1/events", &[], "")).expect("it takes the request");
        let head = read_until(&mut stream, "\r\n\r\n");
        (head.starts_with("HTTP/1.1 200"), stream)
    };
    let mut streams = Vec::new();
    let refused = loop {
        let (is_open, stream) = open();
        if !is_open {
            break stream;
        }
        streams.push(stream);
        assert!(streams.len() <= 1000, "there is no bound");
    };
    drop(refused);
    // What is no stream is answered all the same.
    assert_eq!(get(&mesh, "/v1/models").status, 200);
    let progress = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
                           "params": { "name": "list", "arguments": {}, "_meta": { "progressToken": 1 } } });
    let both = [("accept", "application/json, text/event-stream")];
    assert_eq!(send(&mesh, &request("POST", "/mcp", &both, &progress.to_string())).status, 503);
    drop(streams);
    let again = async {
        while !open().0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("the places are given back");
}

/// A Card for a gateway that listens at a TCP address that is free just now.
fn listening(address: &str) -> ((String, String), u16) {
    let port = TcpListener::bind((address, 0))
        .and_then(|free| free.local_addr())
        .expect("a free port")
        .port();
    let (name, text) = shipped("gateway");
    let listen = format!("listen = [\"http.sock\", \"tcp:{address}:{port}\"]");
    ((name, text.replace("listen = [\"http.sock\"]", &listen)), port)
}

fn over_tcp(port: u16, bytes: &[u8]) -> HttpAnswer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it is let in");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(bytes).expect("it takes the request");
    HttpAnswer::read(stream)
}

#[tokio::test]
async fn whoever_comes_by_tcp_needs_a_key_for_more_than_computing_and_opens_no_path() {
    let (card, port) = listening("127.0.0.1");
    let cards = ["broker", "embed-mock", "catalog", "ingest", "index", "profiles"].map(shipped);
    let setup = Setup::new(&cards)
        .with_cards(&[card])
        .context("test")
        .env("BRAHMAN_NVML", "/no/such/nvml.so");
    let secrets = setup.state().with_file_name("secrets.toml");
    let entry = |name: &str, key: &str, rest: &str| {
        format!("[{name}]\nkey_sha256 = \"{}\"\n{rest}\n", hex(&sha256(key.as_bytes())))
    };
    let all = [
        entry("whole", "alpha", "flows = [\"*\"]"),
        entry("embedder", "beta", "flows = [\"embed\"]"),
        entry("reader", "delta", "flows = [\"index:read\", \"catalog:read\"]"),
        entry("slow", "gamma", "flows = [\"embed\"]\nper_minute = 2"),
    ];
    std::fs::write(&secrets, all.concat()).expect("written");
    std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o600)).expect("set");
    let mesh = setup.env("BRAHMAN_SECRETS", &secrets).up().await;
    mesh.when(|modules| modules.iter().all(|m| m.state == ModuleState::Ready)).await;

    let embed = json!({ "model": "", "input": "x" }).to_string();
    let with = |key: &str, method: &str, path: &str, body: &str| {
        let bearer = format!("Bearer {key}");
        let headers: Vec<(&str, &str)> =
            if key.is_empty() { Vec::new() } else { vec![("authorization", bearer.as_str())] };
        over_tcp(port, &request(method, path, &headers, body))
    };
    assert_eq!(with("", "POST", "/v1/embeddings", &embed).status, 200);
    assert_eq!(with("", "GET", "/v1/datasets", "").status, 403);
    assert_eq!(with("alpha", "GET", "/v1/datasets", "").status, 200);
    assert_eq!(with("beta", "GET", "/v1/datasets", "").status, 403);
    // A key for reading alone lists and searches, and changes nothing.
    assert_eq!(with("delta", "GET", "/v1/datasets", "").status, 200);
    assert_eq!(with("delta", "GET", "/v1/indexes", "").status, 200);
    let search = json!({ "text": "x" }).to_string();
    assert_eq!(with("delta", "POST", "/v1/indexes/none/search", &search).status, 404);
    for method in ["Index.Delete", "Index.Refresh", "Catalog.Delete"] {
        let path = format!("/v1/call/org.brahman.{method}");
        let refused = with("delta", "POST", &path, &json!({ "name": "none" }).to_string());
        assert_eq!(refused.status, 403, "{method}: {}", refused.text());
        assert!(refused.text().contains("reading alone"), "{}", refused.text());
        assert_ne!(
            with("alpha", "POST", &path, &json!({ "name": "none" }).to_string()).status,
            403
        );
    }
    assert_eq!(with("delta", "GET", "/v1/status", "").status, 403);
    let told = with("delta", "GET", "/v1/interfaces", "").json();
    let mut offered = told["interfaces"].as_array().expect("a list").iter();
    let index = offered.find(|one| one["name"] == "org.brahman.Index").expect("offered");
    let of = |name: &str| {
        let methods = index["methods"].as_array().expect("methods");
        methods.iter().find(|method| method["name"] == name).expect("a method")["allowed"].clone()
    };
    assert_eq!(
        (&index["allowed"], of("Search"), of("Delete")),
        (&json!(true), json!(true), json!(false))
    );
    // A key that opens everything administers nothing, and is told so.
    let told = with("alpha", "GET", "/v1/interfaces", "").json();
    let mut offered = told["interfaces"].as_array().expect("a list").iter();
    if let Some(broker) = offered.find(|one| one["name"] == "org.brahman.Broker") {
        let methods = broker["methods"].as_array().expect("methods");
        let may = |name: &str| {
            methods.iter().find(|method| method["name"] == name).expect("a method")["allowed"]
                .clone()
        };
        assert_eq!((may("SetContext"), may("GetContext")), (json!(false), json!(true)));
    }
    let wrong = with("wrong", "POST", "/v1/embeddings", &embed);
    assert_eq!((wrong.status, &wrong.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    let statuses: Vec<u16> =
        (0..3).map(|_| with("gamma", "POST", "/v1/embeddings", &embed).status).collect();
    assert_eq!(statuses, [200, 200, 429]);
    assert!(with("gamma", "POST", "/v1/embeddings", &embed).headers.contains_key("retry-after"));

    // With every flow open: still nobody, to whoever opens files or administers the mesh.
    let file = mesh.folder.path().join("file.txt");
    std::fs::write(&file, "text").expect("written");
    let by_path = with(
        "alpha",
        "POST",
        "/v1/call/org.brahman.Embed.EmbedFile",
        &json!({ "path": file }).to_string(),
    );
    assert!(
        by_path.status == 403 || by_path.headers["brahman-error"].ends_with("FileUnreadable"),
        "{} {}",
        by_path.status,
        by_path.text()
    );
    assert_eq!(
        with("alpha", "POST", "/v1/call/org.brahman.Broker.SetContext", "{\"context\": null}")
            .status,
        403
    );
    assert_eq!(
        with("alpha", "POST", "/v1/call/org.brahman.Init.Stop", "{\"label\": \"index\"}").status,
        403
    );
    // Nor does whoever is nobody say what the others may see, or where buckets lie.
    for (method, ask) in [
        ("Profiles.Define", json!({ "profile": { "id": "p" } })),
        ("Profiles.Activate", json!({ "id": "p" })),
        ("Profiles.Deactivate", json!({})),
        ("Profiles.Unload", json!({ "model": "embed-mock" })),
        ("Storage.AddBucket", json!({ "name": "b", "url": "file:///tmp" })),
        ("Ingest.Files", json!({ "dataset": "d", "paths": ["/etc/passwd"] })),
        ("Ingest.Watch", json!({ "dataset": "d", "paths": ["/etc"] })),
        (
            "Ingest.Postgres",
            json!({ "dataset": "d", "dsn": "postgres://localhost/x", "table": "t" }),
        ),
        ("Catalog.Snapshot", json!({ "folder": "/tmp" })),
    ] {
        let refused =
            with("alpha", "POST", &format!("/v1/call/org.brahman.{method}"), &ask.to_string());
        assert_eq!(refused.status, 403, "{method}: {}", refused.text());
    }
    assert_eq!(
        with("alpha", "POST", "/v1/call/org.brahman.Profiles.Active", "{}").status,
        200,
        "who is active is no secret"
    );
    assert_eq!(with("beta", "GET", "/v1/interfaces/org.brahman.Index", "").status, 403);
    // Over the Unix socket the same is the owner's.
    let by_path = post(&mesh, "/v1/call/org.brahman.Embed.EmbedFile", &json!({ "path": file }));
    assert_eq!(by_path.status, 200, "{}", by_path.text());
}

#[tokio::test]
async fn an_address_that_anybody_reaches_needs_keys() {
    let (card, _) = listening("0.0.0.0");
    let setup =
        Setup::new(&[shipped("broker"), shipped("embed-mock")]).with_cards(&[card]).context("test");
    let none = setup.state().with_file_name("none.toml");
    let mesh = setup.env("BRAHMAN_SECRETS", &none).up().await;
    let reason = mesh.when_module("gateway", ModuleState::Failed).await.reason.unwrap_or_default();
    assert!(reason.contains("key_sha256"), "{reason}");
}

#[tokio::test]
async fn what_is_no_flow_keeps_a_gateway_from_starting() {
    let secrets = |text: &str| {
        let setup = Setup::new(&["broker", "gateway"].map(shipped));
        let file = setup.state().with_file_name("secrets.toml");
        let entry = format!("[laptop]\nkey_sha256 = \"{}\"\n{text}\n", hex(&sha256(b"alpha")));
        std::fs::write(&file, entry).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("set");
        setup.env("BRAHMAN_SECRETS", &file)
    };
    let of_a_key = secrets("flows = [\"index:write\"]");
    let open =
        secrets("flows = [\"index:read\"]").env("BRAHMAN_GATEWAY_OPEN", "embed,org.example.T:read");
    for (setup, named) in [(of_a_key, "`index:write`"), (open, "`org.example.T:read`")] {
        let mesh = setup.up().await;
        let failed = mesh.when_module("gateway", ModuleState::Failed).await;
        let reason = failed.reason.unwrap_or_default();
        assert!(reason.contains(named), "{reason}");
    }
}

#[tokio::test]
async fn whoever_asks_a_gateway_that_was_stopped_hears_why() {
    let mesh = mesh().await;
    assert!(mesh.brahman(&["stop", "gateway"]).status.success());
    let answer = get(&mesh, "/v1/models");
    assert_eq!(
        (answer.status, answer.json()["error"].as_str()),
        (503, Some("org.brahman.Broker.ProviderFailed"))
    );
    assert!(mesh.brahman(&["start", "gateway"]).status.success());
    assert_eq!(get(&mesh, "/v1/models").status, 200);
}

/// Threads that ask all the while; each gives how many answers it got that were not 200.
fn askers(
    mesh: &Mesh,
    count: usize,
    stop: &Arc<AtomicBool>,
    done: &Arc<AtomicUsize>,
) -> Vec<std::thread::JoinHandle<Vec<String>>> {
    let path = mesh.beside("http.sock");
    let one = |number: usize| {
        let (path, stop, done) = (path.clone(), Arc::clone(stop), Arc::clone(done));
        std::thread::spawn(move || {
            let mut wrong = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let body = json!({ "model": "", "input": format!("asker {number}") }).to_string();
                // A connection that ended before its answer is made again, as every client of HTTP
                // does for what is safe to repeat.
                let mut tries = 0;
                loop {
                    tries += 1;
                    let mut stream = match UnixStream::connect(&path) {
                        Ok(stream) => stream,
                        Err(error) => {
                            wrong.push(format!("refused: {error}"));
                            break;
                        }
                    };
                    stream.set_read_timeout(Some(PATIENCE)).expect("set");
                    let mut bytes = Vec::new();
                    let sent = stream.write_all(&request("POST", "/v1/embeddings", &[], &body));
                    let read = sent.and_then(|()| stream.read_to_end(&mut bytes));
                    if read.is_ok() && bytes.starts_with(b"HTTP/1.1 200") {
                        break;
                    }
                    if !bytes.is_empty() || tries > 20 {
                        wrong.push(String::from_utf8_lossy(&bytes).into_owned());
                        break;
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            wrong
        })
    };
    (0..count).map(one).collect()
}

#[tokio::test]
async fn no_request_is_lost_when_the_gateway_or_a_provider_is_killed() {
    let mesh = mesh().await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let threads = askers(&mesh, 50, &stop, &done);
    for label in ["embed-mock", "gateway", "embed-mock", "gateway", "broker"] {
        let before = mesh.module(label).await;
        mesh.signal(before.pid, "KILL");
        mesh.when(|modules| {
            modules.iter().any(|m| {
                m.card.label.as_str() == label
                    && m.incarnation > before.incarnation
                    && m.state == ModuleState::Ready
            })
        })
        .await;
        let reached = done.load(Ordering::Relaxed) + 100;
        let waiting = async {
            while done.load(Ordering::Relaxed) < reached {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("requests are answered");
    }
    stop.store(true, Ordering::Relaxed);
    let wrong: Vec<String> =
        threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect();
    assert!(wrong.is_empty(), "{} wrong: {:?}", wrong.len(), wrong.first());
}

#[tokio::test]
async fn a_language_models_client_is_served_over_standard_input() {
    let mesh = mesh().await;
    let folder = mesh.folder.path().join("notes");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(folder.join("gates.md"), "# Gates\n\nThe gate is blue.\n").expect("written");
    let say = |messages: &[Value]| -> BTreeMap<String, Value> {
        let lines: String = messages.iter().map(|message| format!("{message}\n")).collect();
        let out = mesh.brahman_with(&["mcp"], lines.as_bytes());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let answers = String::from_utf8(out.stdout).expect("text");
        let answers =
            answers.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        answers
            .filter(|answer| answer.get("id").is_some())
            .map(|answer| (answer["id"].to_string(), answer))
            .collect()
    };
    let call = |id: u64, tool: &str, arguments: Value| json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool, "arguments": arguments } });
    let answers = say(&[
        json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {} } }),
        json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
        json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" }),
        call(3, "ingest", json!({ "dataset": "notes", "paths": [folder] })),
    ]);
    assert_eq!(answers["1"]["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(answers["2"]["result"]["tools"].as_array().map(Vec::len), Some(7));
    assert_eq!(answers["3"]["result"]["isError"], false, "{}", answers["3"]);
    let said = answers["3"]["result"]["content"][0]["text"].as_str().unwrap_or_default();
    assert!(said.contains("notes: 1 row, generation 1."), "{said}");
    assert!(said.contains("It can be searched: 1 passage is new."), "{said}");
    let answers = say(&[
        call(1, "search", json!({ "query": "gate", "mode": "lexical" })),
        call(2, "search", json!({ "query": "gate", "no_such": 1 })),
        call(3, "explain", json!({ "flow": "embed" })),
        call(4, "list", json!({})),
        json!({ "jsonrpc": "2.0", "id": 5, "method": "resources/list" }),
        call(6, "nothing", json!({})),
    ]);
    let text = answers["1"]["result"]["content"][0]["text"].as_str().unwrap_or_default();
    assert!(text.contains("blue"), "{}", answers["1"]);
    assert_eq!(answers["2"]["result"]["isError"], true);
    assert!(
        answers["3"]["result"]["content"][0]["text"]
            .as_str()
            .is_some_and(|text| text.contains("embed-mock")),
        "{}",
        answers["3"]
    );
    assert!(
        answers["4"]["result"]["content"][0]["text"]
            .as_str()
            .is_some_and(|text| text.contains("notes")),
        "{}",
        answers["4"]
    );
    assert!(
        answers["5"]["result"]["resources"].as_array().is_some_and(|all| all.len() == 2),
        "{}",
        answers["5"]
    );
    assert_eq!(answers["6"]["error"]["code"], -32602);
}

#[tokio::test]
async fn a_language_models_client_is_served_over_http() {
    let mesh = mesh().await;
    let say = |headers: &[(&str, &str)], message: Value| {
        send(&mesh, &request("POST", "/mcp", headers, &message.to_string()))
    };
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": "2025-06-18" } });
    assert_eq!(say(&[], hello).json()["result"]["serverInfo"]["name"], "brahman");
    let both =
        [("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-06-18")];
    assert_eq!(
        say(&both, json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).status,
        202
    );
    let explain = json!({ "name": "explain", "arguments": { "flow": "embed" } });
    let answer =
        say(&both, json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": explain }))
            .json();
    assert_eq!(
        (&answer["id"], &answer["result"]["isError"]),
        (&json!(2), &json!(false)),
        "{answer}"
    );
    let folder = mesh.folder.path().join("notes");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(folder.join("gates.md"), "The gate is blue.\n").expect("written");
    let ingest = json!({ "name": "ingest", "arguments": { "dataset": "notes", "paths": [folder] }, "_meta": { "progressToken": "p" } });
    let events =
        say(&both, json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": ingest }));
    assert_eq!(events.headers["content-type"], "text/event-stream");
    let last = events
        .text()
        .split("data: ")
        .last()
        .and_then(|data| serde_json::from_str::<Value>(data.trim()).ok())
        .expect("an answer");
    assert_eq!((&last["id"], &last["result"]["isError"]), (&json!(3), &json!(false)), "{last}");
    assert_eq!(
        say(
            &[("mcp-protocol-version", "1999-01-01")],
            json!({ "jsonrpc": "2.0", "id": 4, "method": "ping" })
        )
        .status,
        400
    );
    assert_eq!(get(&mesh, "/mcp").status, 405);
}

#[tokio::test]
async fn openais_ollamas_and_mcps_own_clients_are_satisfied() {
    let (card, port) = listening("127.0.0.1");
    let cards = ["broker", "embed-mock", "catalog", "ingest", "index"].map(shipped);
    let mesh = Setup::new(&cards).with_cards(&[card]).context("test").up().await;
    mesh.when(|modules| modules.iter().all(|m| m.state == ModuleState::Ready)).await;
    let mut command = Command::new(tool("python3"));
    command
        .arg(repository().join("packaging/clients.py"))
        .arg(format!("http://127.0.0.1:{port}"))
        .arg(binary("brahman"));
    command
        .args(["openai", "ollama", "mcp"])
        .env("BRAHMAN_SOCKET", mesh.socket())
        .env("NO_PROXY", "*");
    let out = command.output().expect("python runs");
    assert!(
        out.status.success(),
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&out.stdout).matches(": fine").count(), 3);
}

#[tokio::test]
async fn a_live_status_ends_by_sigterm_as_it_does_by_a_key() {
    let mesh = mesh().await;
    let mut command = Command::new(binary("brahman"));
    command.args(["top", "--json"]).env("BRAHMAN_SOCKET", mesh.socket()).stdout(Stdio::piped());
    let mut top = command.spawn().expect("it runs");
    let mut lines = BufReader::new(top.stdout.take().expect("a pipe"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    assert!(!line.is_empty());
    mesh.signal(top.id(), "TERM");
    assert!(top.wait().expect("it ends").success());
    drop(lines);
}

#[tokio::test]
async fn the_python_client_does_what_it_says_and_outlives_the_broker() {
    let mesh = mesh().await;
    let client = repository().join("clients/python");
    let mut command = Command::new("python3");
    command
        .args(["-m", "unittest", "discover", "-s"])
        .arg(client.join("tests"))
        .env("PYTHONPATH", client.join("src"));
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("BRAHMAN_SOCKET", mesh.socket())
        .env("BRAHMAN_TEST_KILL", "broker");
    let out = command.output().expect("python runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn the_python_client_knows_what_the_contract_says() {
    let path = repository().join("clients/python/src/brahman/_contract.py");
    let text = std::fs::read_to_string(&path).expect("read");
    let (methods, errors) = text.split_once("#: The errors").expect("two parts");
    let mut expected: Vec<String> = Vec::new();
    for known in interface::ALL {
        expected.extend(
            known
                .methods
                .iter()
                .filter(|method| method.is_idempotent)
                .map(|method| format!("{}.{}", known.name, method.name)),
        );
        for line in known.idl().lines().filter_map(|line| line.strip_prefix("error ")) {
            let name = line.split(' ').next().expect("a name");
            let own = errors
                .lines()
                .find(|own| own.contains(&format!("\"{}\":", known.name)))
                .unwrap_or_default();
            assert!(own.contains(&format!("\"{name}\"")), "{}.{name}", known.name);
        }
    }
    let mut listed: Vec<String> = methods
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|word| word.starts_with("org."))
        .map(str::to_owned)
        .collect();
    expected.sort();
    listed.sort();
    assert_eq!(listed, expected);
}
