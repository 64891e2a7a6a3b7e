//! The doors: what HTTP costs beside the wire itself, what a scrape takes, and how much memory it
//! all holds.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::mesh::Mesh;
use crate::{head, nginx, percentiles, row};

/// Requests measured a way.
const REQUESTS: usize = 10_000;
/// Requests before them.
const WARM: usize = 500;
/// Clients at once, and the requests of each.
const CLIENTS: (usize, usize) = (64, 500);
/// Threads that they run on.
const CLIENT_THREADS: usize = 4;
/// Agents beside one another.
const AGENTS: usize = 20;
/// What is embedded again and again.
const TEXT: &str = "a text of some words";
/// A scrape, as Prometheus asks for it.
const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
/// Prometheus scrapes fifteen times less often unless told otherwise.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);
/// Turns without and with scrapes, and how long each is: of several scrapes each.
const SCRAPED_TURNS: usize = 8;
const SCRAPED_FOR: Duration = Duration::from_secs(3);
/// Texts that the `openai` package has embedded: as many as its API takes in one request, nearly.
const TEXTS: usize = 2000;
/// Words of the longest of them.
const WORDS_MAX: usize = 100;
/// How long the peer may take to load its model.
const PEER_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(bin: &Path) {
    head("doors (mocks, Unix sockets)");
    let cache = tempfile::tempdir().unwrap();
    let mesh = Mesh::up(bin, &["broker", "gateway", "embed-mock"], "test", cache.path());
    mesh.ready("embed-mock").await;
    let pid = mesh.ready("gateway").await.pid;
    let http = mesh.socket().with_file_name("http.sock");
    let mut stream = UnixStream::connect(&http).await.unwrap();
    let request = embed_request(TEXT);
    let size = exchange(&mut stream, request.as_bytes()).await;
    let fresh = pss_kib(pid) as f64 / 1024.0;
    beside_varlink("embed by /v1/embeddings / by Varlink, p50", &mesh, &request).await;

    let mut scrapes = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        exchange(&mut stream, SCRAPE).await;
        scrapes.push(started.elapsed().as_nanos() as f64 / 1e6);
    }
    let (s50, s99) = percentiles(scrapes);
    row("a scrape of /metrics, p50, p99", format!("{s50:.2}, {s99:.2} ms"), "≤ 5 ms", s50 <= 5.0);
    scraped(&http, &mut stream, request.as_bytes()).await;
    drop(stream);

    let rate = throughput(&http, &request);
    match nginx::fixed(&mesh.folder.path().join("fixed"), size) {
        Ok(server) => {
            let peer = throughput(&server.socket, &request);
            let ratio = rate / peer;
            let figure = format!("{rate:.0} / {peer:.0} requests/s = {ratio:.2}×");
            row(
                "64 clients, embeds of one text / nginx with a fixed body of that size",
                figure,
                "≥ 0.1×",
                ratio >= 0.1,
            );
        }
        Err(why) => row(
            "64 clients, embeds of one text",
            format!("{rate:.0} requests/s; {why}"),
            "≥ 0.1× of nginx",
            false,
        ),
    }

    let own = pss_kib(pid) as f64 / 1024.0;
    row(
        "gateway, memory before and after all this (PSS)",
        format!("{fresh:.1}, {own:.1} MiB"),
        "≤ 16 MiB",
        own <= 16.0,
    );
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
    drop(mesh);
    real(bin).await;
}

/// An embedding of a text, as OpenAI's API has it.
fn embed_request(text: &str) -> String {
    let body = json!({ "model": "", "input": text }).to_string();
    format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One text by HTTP and by Varlink in turn, so that drift of the machine hits both alike.
async fn beside_varlink(figure: &str, mesh: &Mesh, request: &str) {
    let call = encode_call(
        "org.brahman.Embed.EmbedText",
        &json!({ "texts": [TEXT] }),
        &CallOptions::default(),
        false,
        false,
    )
    .unwrap();
    let mut stream = UnixStream::connect(mesh.socket().with_file_name("http.sock")).await.unwrap();
    let mut connection = Connection::connect(&mesh.socket()).await.unwrap();
    let (mut by_http, mut by_varlink) = (Vec::new(), Vec::new());
    for i in 0..REQUESTS + WARM {
        let started = Instant::now();
        exchange(&mut stream, request.as_bytes()).await;
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
        figure,
        format!("{h50:.1} / {v50:.1} µs = +{:.1} µs", h50 - v50),
        "≤ +100 µs",
        h50 - v50 <= 100.0,
    );
}

/// Live calls while somebody scrapes every second, from a thread of its own, and while nobody does,
/// by turns.
async fn scraped(http: &Path, stream: &mut UnixStream, request: &[u8]) {
    let (scrapes, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let scraper = std::thread::spawn({
        let (http, scrapes, ends) = (http.to_owned(), Arc::clone(&scrapes), Arc::clone(&ends));
        move || {
            on_this_thread(async {
                let mut stream = UnixStream::connect(&http).await.unwrap();
                while !ends.load(Ordering::Relaxed) {
                    if scrapes.load(Ordering::Relaxed) {
                        exchange(&mut stream, SCRAPE).await;
                    }
                    tokio::time::sleep(SCRAPE_EVERY).await;
                }
            });
        }
    });
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    for turn in 0..SCRAPED_TURNS {
        let is_scraped = turn % 2 == 1;
        scrapes.store(is_scraped, Ordering::Relaxed);
        let times = if is_scraped { &mut busy } else { &mut quiet };
        let until = Instant::now() + SCRAPED_FOR;
        while Instant::now() < until {
            let started = Instant::now();
            exchange(stream, request).await;
            times.push(started.elapsed().as_nanos() as f64 / 1e3);
        }
    }
    ends.store(true, Ordering::Relaxed);
    scraper.join().unwrap();
    let (q99, b99) = (percentiles(quiet).1, percentiles(busy).1);
    let figure = format!("{b99:.1} / {q99:.1} µs = {:.2}×", b99 / q99);
    row(
        "p99 of embeds while /metrics is scraped every second / is not",
        figure,
        "≤ 1.10×",
        b99 <= q99 * 1.1,
    );
}

/// Runs a future on the thread that it is called on.
fn on_this_thread(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

/// Requests a second by clients on threads of their own: one thread would be what is measured.
fn throughput(socket: &Path, request: &str) -> f64 {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENT_THREADS {
            scope.spawn(|| {
                on_this_thread(async {
                    let mut clients = JoinSet::new();
                    for _ in 0..CLIENTS.0 / CLIENT_THREADS {
                        let (socket, request) = (socket.to_owned(), request.to_owned());
                        clients.spawn(async move {
                            let mut stream = UnixStream::connect(&socket).await.unwrap();
                            for _ in 0..CLIENTS.1 {
                                exchange(&mut stream, request.as_bytes()).await;
                            }
                        });
                    }
                    clients.join_all().await;
                });
            });
        }
    });
    (CLIENTS.0 * CLIENTS.1) as f64 / started.elapsed().as_secs_f64()
}

/// A process that goes with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// The real model: a cached text beside Varlink, and many texts by the `openai` package beside
/// FastAPI around fastembed on the same files.
async fn real(bin: &Path) {
    head("doors (all-MiniLM-L6-v2)");
    let shared = brahman_sidecar::place::cache_dir();
    let cache = tempfile::tempdir().unwrap();
    for part in ["models", "onnxruntime"] {
        std::os::unix::fs::symlink(shared.join(part), cache.path().join(part)).unwrap();
    }
    let port = free_port();
    let listen = format!("listen = [\"http.sock\", \"tcp:127.0.0.1:{port}\"]");
    let edit = |card: &str, text: String| {
        if card == "gateway" { text.replace("listen = [\"http.sock\"]", &listen) } else { text }
    };
    let mesh = Mesh::up_edited(
        bin,
        &["broker", "gateway", "embed-real"],
        "prod",
        cache.path(),
        |_| {},
        edit,
    );
    mesh.ready("embed-real").await;
    mesh.ready("gateway").await;
    beside_varlink("cached embed by /v1/embeddings / by Varlink, p50", &mesh, &embed_request(TEXT))
        .await;

    let figure = "2,000 texts by the openai package / against FastAPI around fastembed, texts/s";
    match by_openai(port, &shared.join("models/all-MiniLM-L6-v2"), cache.path()) {
        Ok((ours, theirs, cosine)) => {
            let ratio = ours / theirs;
            row(figure, format!("{ours:.1} / {theirs:.1} = {ratio:.2}×"), "≥ 2.0×", ratio >= 2.0);
            row(
                "least cosine between the two",
                format!("{cosine:.6}"),
                "≥ 0.9999",
                cosine >= 0.9999,
            );
        }
        Err(why) => row(figure, why, "≥ 2.0×", false),
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr()).unwrap().port()
}

/// The same client against both, one after the other: texts a second of ours and of the peer, and
/// the least cosine between their vectors.
fn by_openai(port: u16, model: &Path, scratch: &Path) -> Result<(f64, f64, f64), String> {
    let python = std::env::var("BRAHMAN_BENCH_DOORS_PYTHON")
        .map_err(|_| "BRAHMAN_BENCH_DOORS_PYTHON is not set: run `make bench`".to_owned())?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("http_peer.py");
    let (input, peer_port) = (scratch.join("texts.json"), free_port());
    // Within the model's window: OpenAI's API refuses what is longer.
    let short = |text: String| text.split(' ').take(WORDS_MAX).collect::<Vec<_>>().join(" ");
    let texts: Vec<String> = crate::embed::texts(TEXTS, 27).into_iter().map(short).collect();
    std::fs::write(&input, serde_json::to_vec(&texts).unwrap()).unwrap();
    let client = |port: u16| -> Result<Value, String> {
        let out = Command::new(&python)
            .arg(&script)
            .arg("client")
            .arg(format!("http://127.0.0.1:{port}/v1"))
            .arg(&input)
            .output();
        let out = out.map_err(|error| error.to_string())?;
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr)
                .lines()
                .last()
                .unwrap_or("failed")
                .to_owned());
        }
        serde_json::from_slice(&out.stdout).map_err(|error| error.to_string())
    };
    let ours = client(port)?;
    // Killed with this process: what is left works on beside the next run, and spoils its figures.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM"])
        .arg(&python)
        .arg(&script)
        .arg("serve")
        .arg(peer_port.to_string())
        .arg(model);
    let server = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let _server = Server(server);
    let until = Instant::now() + PEER_PATIENCE;
    while TcpStream::connect(("127.0.0.1", peer_port)).is_err() {
        if Instant::now() > until {
            return Err("the peer does not answer".to_owned());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let theirs = client(peer_port)?;
    let vectors = |out: &Value| {
        serde_json::from_value::<Vec<Vec<f64>>>(out["vectors"].clone())
            .map_err(|error| error.to_string())
    };
    let cosines = vectors(&ours)?
        .into_iter()
        .zip(vectors(&theirs)?)
        .map(|(a, b)| a.iter().zip(&b).map(|(x, y)| x * y).sum::<f64>());
    let rate = |out: &Value| out["rate"].as_f64().unwrap_or(0.0);
    Ok((rate(&ours), rate(&theirs), cosines.fold(1.0, f64::min)))
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

/// Sends a request and reads its whole answer; gives the length of its body.
async fn exchange(stream: &mut UnixStream, request: &[u8]) -> usize {
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
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().ok())?
            });
            if let Some(length) = length.filter(|length| buffer.len() >= end + 4 + length) {
                return length;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), whole).await.unwrap()
}
