//! What the gateway survives: connections that say nothing or little, and clients that hang up
//! before they are answered.

use std::io::{Read as _, Write as _};

use brahman_card::ModuleState;
use brahman_tests::{Mesh, PATIENCE, Setup, shipped, stranger};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixListener;

use crate::gateway::{HttpAnswer, get, mesh, post, read_until, request, send, socket};

/// Connections of each kind.
const CONNECTIONS: usize = 1000;
/// How often each slow one sends another byte.
const ROUNDS: usize = 20;

/// As many files as this process may open: connections are files on this side, too.
fn raise_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("raised");
}

#[tokio::test]
async fn a_thousand_idle_and_a_thousand_slow_connections_hold_up_nobody() {
    raise_files();
    let mesh = mesh().await;
    let idle: Vec<_> = (0..CONNECTIONS).map(|_| socket(&mesh)).collect();
    let embed = json!({ "model": "", "input": "x".repeat(100) });
    let whole = request("POST", "/v1/embeddings", &[], &embed.to_string());
    // By turns slow in the head and in the body.
    let begin = |n: usize| {
        let mut stream = socket(&mesh);
        let sent = if n.is_multiple_of(2) { 10 } else { whole.len() - 2 * ROUNDS };
        stream.write_all(&whole[..sent]).expect("it takes the beginning");
        (stream, sent)
    };
    let mut slow: Vec<_> = (0..CONNECTIONS).map(begin).collect();
    for _ in 0..ROUNDS {
        for (stream, sent) in &mut slow {
            stream.write_all(&whole[*sent..=*sent]).expect("it takes another byte");
            *sent += 1;
        }
        assert_eq!(
            (post(&mesh, "/v1/embeddings", &embed).status, get(&mesh, "/v1/models").status),
            (200, 200)
        );
    }
    for (mut stream, sent) in slow {
        stream.write_all(&whole[sent..]).expect("it takes the rest");
        assert_eq!(HttpAnswer::read(stream).status, 200, "who is slow is answered all the same");
    }
    drop(idle);
    // Places are given back.
    let open = || {
        let figures = get(&mesh, "/metrics").text();
        let line = figures
            .lines()
            .find_map(|line| line.strip_prefix("brahman_http_connections ")?.parse::<usize>().ok());
        line.unwrap_or_else(|| panic!("{figures}"))
    };
    let emptied = async {
        while open() > 10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, emptied).await.expect("whoever has gone holds no place");
}

/// Says at a socket that it has begun, and that whoever asked has hung up. `Watch` has answered
/// once by then.
const WAITING: &str = r#"
def handle(c, m):
    told = socket.socket(socket.AF_UNIX)
    told.connect(m["parameters"]["path"])
    if m["method"].endswith(".Watch"): reply(c, {"parameters": {"n": 1}, "continues": True})
    told.sendall(b"begun\n")
    try: gone = not c.recv(1)
    except OSError: gone = True
    if gone: told.sendall(b"cancelled\n")
    told.close()
"#;

/// Hangs up on a call that has begun, and waits until its provider has heard of it.
async fn hang_up(mesh: &Mesh, method: &str, accept: &str) {
    let path = mesh.folder.path().join(format!("{method}.sock"));
    let listener = UnixListener::bind(&path).expect("bound");
    let body = json!({ "path": path }).to_string();
    let mut stream = socket(mesh);
    let ask =
        request("POST", &format!("/v1/call/org.example.T.{method}"), &[("accept", accept)], &body);
    stream.write_all(&ask).expect("it takes the request");
    let heard = async {
        let (told, _) = listener.accept().await.expect("the provider tells");
        let mut told = BufReader::new(told);
        let mut begun = String::new();
        told.read_line(&mut begun).await.expect("a line");
        assert_eq!(begun, "begun\n");
        drop(stream);
        let mut rest = String::new();
        told.read_to_string(&mut rest).await.expect("the rest");
        assert_eq!(rest, "cancelled\n", "{method}, {accept}");
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("the work is cancelled");
}

#[tokio::test]
async fn whoever_hangs_up_ends_the_work_that_he_asked_for() {
    let cards =
        [shipped("broker"), shipped("gateway"), stranger("t", "org.example.T", &[], WAITING, "")];
    let mesh = Setup::new(&cards).up().await;
    mesh.when_served_by("org.example.T", "t").await;
    mesh.when_module("gateway", ModuleState::Ready).await;
    hang_up(&mesh, "Watch", "text/event-stream").await;
    std::fs::remove_file(mesh.folder.path().join("Watch.sock")).expect("removed");
    hang_up(&mesh, "Watch", "application/x-ndjson").await;
    hang_up(&mesh, "Get", "application/json").await;
}

/// Ends when it is told to.
const ENDING: &str = r#"
def handle(c, m):
    if m["method"].endswith(".End"): os._exit(1)
    reply(c, {"parameters": {"pid": os.getpid()}})
"#;

#[tokio::test]
async fn a_call_waits_for_a_provider_that_starts_again_whosever_interface_it_is() {
    let ending = stranger("t", "org.example.T", &["Get"], ENDING, "");
    let mesh = Setup::new(&[shipped("broker"), shipped("gateway"), ending]).up().await;
    mesh.when_served_by("org.example.T", "t").await;
    mesh.when_module("gateway", ModuleState::Ready).await;
    let call = |method: &str, n: usize| {
        post(&mesh, &format!("/v1/call/org.example.T.{method}"), &json!({ "n": n }))
    };
    for n in 0..3 {
        assert_eq!(
            call("End", n).status,
            502,
            "it has ended, and nobody says that this is repeatable"
        );
        let answer = call("Get", n);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(post(&mesh, "/v1/call/org.example.U.Get", &json!({})).status, 404);
}

/// Reads files for ever: says how far it is, then at a socket that it has begun, and that whoever
/// asked has hung up.
const READING: &str = r#"
def handle(c, m):
    told = socket.socket(socket.AF_UNIX)
    told.connect(m["parameters"]["paths"][0])
    reply(c, {"parameters": {"phase": "read", "done": 3, "of": 9}, "continues": True})
    told.sendall(b"begun\n")
    try: gone = not c.recv(1)
    except OSError: gone = True
    if gone: told.sendall(b"cancelled\n")
    told.close()
"#;

/// How a client of the Model Context Protocol ends a work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// By a message that names the request.
    Notification,
    /// With its session.
    Session,
}

fn say(mesh: &Mesh, session: Option<&str>, message: &Value) -> HttpAnswer {
    let mut headers = vec![("accept", "application/json, text/event-stream")];
    headers.extend(session.map(|session| ("mcp-session-id", session)));
    send(mesh, &request("POST", "/mcp", &headers, &message.to_string()))
}

/// Begins a session.
fn session(mesh: &Mesh) -> String {
    let hello = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": { "protocolVersion": "2025-11-25" } });
    let answer = say(mesh, None, &hello);
    assert_eq!(answer.status, 200);
    answer.headers["mcp-session-id"].clone()
}

fn cancellation(id: u64) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } })
}

/// Has a tool begin, hears of its progress if that is asked for, ends it, and waits until its
/// provider has heard of that.
async fn end_work(mesh: &Mesh, with_progress: bool, ending: Ending) {
    let path = mesh.folder.path().join("reading.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let mine = session(mesh);
    let mut params = json!({ "name": "ingest", "arguments": { "dataset": "notes", "paths": [path], "index": false } });
    if with_progress {
        params["_meta"] = json!({ "progressToken": "p" });
    }
    let ask = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
    let headers =
        [("accept", "application/json, text/event-stream"), ("mcp-session-id", mine.as_str())];
    let mut stream = socket(mesh);
    stream
        .write_all(&request("POST", "/mcp", &headers, &ask.to_string()))
        .expect("it takes the request");
    let heard = async {
        let (told, _) = listener.accept().await.expect("the provider tells");
        let mut told = BufReader::new(told);
        let mut begun = String::new();
        told.read_line(&mut begun).await.expect("a line");
        assert_eq!(begun, "begun\n");
        if with_progress {
            let text = read_until(&mut stream, "notifications/progress");
            assert!(text.contains("text/event-stream"), "{text}");
        }
        // Somebody else's request of the same id is another one.
        assert_eq!(say(mesh, Some(&session(mesh)), &cancellation(7)).status, 202);
        assert_eq!(say(mesh, None, &cancellation(7)).status, 202);
        let ping = json!({ "jsonrpc": "2.0", "id": 7, "method": "ping" });
        let same = say(mesh, Some(&mine), &ping).json();
        assert_eq!(same["error"]["code"], -32600, "the work goes on under this id: {same}");
        let status = match ending {
            Ending::Notification => say(mesh, Some(&mine), &cancellation(7)).status,
            Ending::Session => send(mesh, &request("DELETE", "/mcp", &headers, "")).status,
        };
        assert_eq!(status, if ending == Ending::Session { 204 } else { 202 });
        let mut rest = String::new();
        told.read_to_string(&mut rest).await.expect("the rest");
        assert_eq!(rest, "cancelled\n", "{with_progress}, {ending:?}");
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("the work is cancelled");
    let said = if with_progress {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).expect("its end");
        rest
    } else {
        let answer = HttpAnswer::read(stream);
        assert_eq!(answer.status, 202);
        answer.text()
    };
    assert!(!said.contains("result"), "nothing is said of what was cancelled: {said}");
    let ping = json!({ "jsonrpc": "2.0", "id": 8, "method": "ping" });
    let expected = if ending == Ending::Session { 404 } else { 200 };
    assert_eq!(say(mesh, Some(&mine), &ping).status, expected, "{ending:?}");
    std::fs::remove_file(path).expect("removed");
}

#[tokio::test]
async fn a_language_models_client_cancels_its_work_over_http_and_nobody_elses() {
    let cards = [
        shipped("broker"),
        shipped("gateway"),
        stranger("reader", "org.brahman.Ingest", &[], READING, ""),
    ];
    let mesh = Setup::new(&cards).up().await;
    mesh.when(|modules| modules.iter().all(|m| m.state == ModuleState::Ready)).await;
    for with_progress in [true, false] {
        for ending in [Ending::Notification, Ending::Session] {
            end_work(&mesh, with_progress, ending).await;
        }
    }
}

#[tokio::test]
async fn a_session_outlives_the_gateway_and_ends_once() {
    let mesh = mesh().await;
    let mine = session(&mesh);
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    assert_eq!(say(&mesh, Some(&mine), &ping).status, 200);
    let before = mesh.module("gateway").await;
    mesh.signal(before.pid, "KILL");
    mesh.when(|modules| {
        modules.iter().any(|m| {
            m.card.label.as_str() == "gateway"
                && m.incarnation > before.incarnation
                && m.state == ModuleState::Ready
        })
    })
    .await;
    assert_eq!(say(&mesh, Some(&mine), &ping).status, 200, "it begins anew");
    let end = |named: &[(&str, &str)]| send(&mesh, &request("DELETE", "/mcp", named, "")).status;
    let named = [("mcp-session-id", mine.as_str())];
    assert_eq!((end(&named), end(&named), end(&[])), (204, 404, 400));
    for message in [&ping, &cancellation(1)] {
        assert_eq!(say(&mesh, Some(&mine), message).status, 404);
    }
    assert_eq!(say(&mesh, Some("no-such-session"), &ping).status, 404);
    assert_eq!(say(&mesh, None, &ping).status, 200, "without one it is answered as well");
}
