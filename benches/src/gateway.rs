//! The doors: what HTTP costs beside the wire itself, what a scrape takes, and how much memory it
//! all holds.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::mesh::Mesh;
use crate::{head, percentiles, row};

/// Requests measured a way.
const REQUESTS: usize = 10_000;
/// Requests before them.
const WARM: usize = 500;
/// Clients at once, and the requests of each.
const CLIENTS: (usize, usize) = (64, 500);
/// Agents beside one another.
const AGENTS: usize = 20;

pub(crate) async fn run(bin: &Path) {
    head("doors (mocks, Unix sockets)");
    let cache = tempfile::tempdir().unwrap();
    let mesh = Mesh::up(bin, &["broker", "gateway", "embed-mock"], "test", cache.path());
    mesh.ready("embed-mock").await;
    let pid = mesh.ready("gateway").await.pid;
    let http = mesh.socket().with_file_name("http.sock");
    let text = "a text of some words";
    let body = json!({ "model": "", "input": text }).to_string();
    let embed = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let call = encode_call(
        "org.brahman.Embed.EmbedText",
        &json!({ "texts": [text] }),
        &CallOptions::default(),
        false,
        false,
    )
    .unwrap();
    let mut stream = UnixStream::connect(&http).await.unwrap();
    let mut connection = Connection::connect(&mesh.socket()).await.unwrap();
    let (mut by_http, mut by_varlink) = (Vec::new(), Vec::new());
    for i in 0..REQUESTS + WARM {
        let started = Instant::now();
        exchange(&mut stream, embed.as_bytes()).await;
        let one = started.elapsed();
        let started = Instant::now();
        connection.exchange(&call).await.unwrap();
        let two = started.elapsed();
        if i >= WARM {
            by_http.push(one.as_nanos() as f64 / 1e3);
            by_varlink.push(two.as_nanos() as f64 / 1e3);
        }
    }
    let (h50, v50) = (percentiles(by_http).0, percentiles(by_varlink).0);
    row(
        "embed by /v1/embeddings / by Varlink, p50",
        format!("{h50:.1} / {v50:.1} µs = +{:.1} µs", h50 - v50),
        "≤ +100 µs",
        h50 - v50 <= 100.0,
    );

    let scrape = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut scrapes = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        exchange(&mut stream, scrape).await;
        scrapes.push(started.elapsed().as_nanos() as f64 / 1e6);
    }
    let (s50, s99) = percentiles(scrapes);
    row("a scrape of /metrics, p50, p99", format!("{s50:.2}, {s99:.2} ms"), "≤ 5 ms", s50 <= 5.0);

    let started = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS.0 {
        let (http, embed) = (http.clone(), embed.clone());
        clients.spawn(async move {
            let mut stream = UnixStream::connect(&http).await.unwrap();
            for _ in 0..CLIENTS.1 {
                exchange(&mut stream, embed.as_bytes()).await;
            }
        });
    }
    clients.join_all().await;
    let rate = (CLIENTS.0 * CLIENTS.1) as f64 / started.elapsed().as_secs_f64();
    row("64 clients, embeds of one text", format!("{rate:.0} requests/s"), "reported", true);

    drop(stream);
    let own = pss_kib(pid) as f64 / 1024.0;
    row("gateway, memory (PSS)", format!("{own:.1} MiB"), "≤ 16 MiB", own <= 16.0);
    let agents: Vec<Child> = (0..AGENTS).map(|_| agent(bin, &mesh)).collect();
    // Each has answered, so that each is as large as it is at rest.
    let all = agents.iter().map(|agent| pss_kib(agent.id())).sum::<u64>() as f64 / 1024.0;
    row(
        "20 × brahman mcp, memory together (PSS)",
        format!("{all:.1} MiB"),
        "≤ 100 MiB",
        all <= 100.0,
    );
    for mut agent in agents {
        drop(agent.stdin.take());
        let _ = agent.wait();
    }
}

/// A `brahman mcp` that has answered its first message.
fn agent(bin: &Path, mesh: &Mesh) -> Child {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut command = Command::new(bin.join("brahman"));
    command
        .arg("mcp")
        .env("BRAHMAN_SOCKET", mesh.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut agent = command.spawn().unwrap();
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": "2025-06-18" } });
    writeln!(agent.stdin.as_mut().unwrap(), "{hello}").unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(agent.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert!(line.contains("serverInfo"), "{line}");
    agent.stdout = Some(output.into_inner());
    agent
}

/// A process's share of the memory that it uses, in KiB.
fn pss_kib(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}

/// Sends a request and reads its whole answer.
async fn exchange(stream: &mut UnixStream, request: &[u8]) {
    stream.write_all(request).await.unwrap();
    let mut buffer = Vec::with_capacity(4096);
    let whole = async {
        loop {
            assert!(
                stream.read_buf(&mut buffer).await.unwrap() > 0,
                "it hung up: {}",
                String::from_utf8_lossy(&buffer)
            );
            let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&buffer[..end]);
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if length.is_some_and(|length| buffer.len() >= end + 4 + length) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), whole).await.unwrap();
}
