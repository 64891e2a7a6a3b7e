//! The peer for a brokered call: HTTP through nginx on Unix sockets, to a backend in a process of
//! its own, as our provider is: a second nginx, which answers from memory. Kept-alive connections
//! on both sides, one worker each.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brahman_sidecar::Connection;
use brahman_sidecar::client::encode_call;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::mesh::Mesh;
use crate::{percentiles, row};

const CALLS: usize = 10_000;

pub(crate) async fn compare(mesh: &Mesh) {
    let folder = mesh.folder.path().join("nginx");
    std::fs::create_dir(&folder).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let answer = format!("{{\"vector\":[{}]}}", vec!["0.1234567"; 32].join(","));
    let back = format!(
        "server {{ listen unix:{}; location / {{ default_type application/json; return 200 '{answer}'; }} }}",
        path("back.sock")
    );
    let front = format!(
        "upstream provider {{ server unix:{}; keepalive 16; keepalive_requests 1000000; }}
  server {{ listen unix:{}; location / {{ proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}",
        path("back.sock"),
        path("front.sock")
    );
    let mut servers = Vec::new();
    for (name, server) in [("back", back), ("front", front)] {
        let configuration = format!(
            "daemon off; worker_processes 1; pid {pid}; error_log {log};
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {tmp}; proxy_temp_path {tmp}; fastcgi_temp_path {tmp}; uwsgi_temp_path {tmp}; scgi_temp_path {tmp};
  keepalive_requests 1000000;
  {server}
}}",
            pid = path(&format!("{name}.pid")),
            log = path(&format!("{name}.log")),
            tmp = path("tmp"),
        );
        let file = path(&format!("{name}.conf"));
        std::fs::write(&file, configuration).unwrap();
        let started = Command::new("nginx")
            .args(["-c", &file, "-p", &path("")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(server) = started else {
            row(
                "the same against HTTP through nginx",
                "nginx is not installed: apt-get install -y nginx-light".into(),
                "faster",
                false,
            );
            return;
        };
        servers.push(server);
    }
    let front = folder.join("front.sock");
    let mut stream = loop {
        match UnixStream::connect(&front).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    };
    let (mut http, mut ours) = (Vec::new(), Vec::new());
    let mut connection = Connection::connect(&mesh.socket()).await.unwrap();
    let parameters = json!({"texts": ["a text of some words"]});
    let message = encode_call(
        "org.brahman.Embed.EmbedText",
        &parameters,
        &brahman_sidecar::CallOptions::default(),
        false,
        false,
    )
    .unwrap();
    let body = serde_json::to_string(&parameters).unwrap();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for i in 0..CALLS + 500 {
        let started = Instant::now();
        exchange(&mut stream, request.as_bytes()).await;
        let one = started.elapsed();
        let started = Instant::now();
        connection.exchange(&message).await.unwrap();
        let two = started.elapsed();
        if i >= 500 {
            http.push(one.as_nanos() as f64 / 1e3);
            ours.push(two.as_nanos() as f64 / 1e3);
        }
    }
    for server in &mut servers {
        // nginx's master takes its worker along on SIGTERM only.
        let _ = Command::new("kill").arg(server.id().to_string()).status();
        let _ = server.wait();
    }
    let (h50, o50) = (percentiles(http).0, percentiles(ours).0);
    row(
        "brokered p50 / HTTP through nginx on Unix sockets p50",
        format!("{o50:.1} / {h50:.1} µs = {:.2}×", o50 / h50),
        "faster",
        o50 < h50,
    );
}

/// An nginx that answers everything with the same bytes.
pub(crate) struct FixedServer {
    pub(crate) socket: PathBuf,
    server: Child,
}

impl Drop for FixedServer {
    fn drop(&mut self) {
        // nginx's master takes its workers along on SIGTERM only.
        let _ = Command::new("kill").arg(self.server.id().to_string()).status();
        let _ = self.server.wait();
    }
}

/// A server of bodies of this many bytes, on a Unix socket, with as many workers as there are
/// cores.
pub(crate) fn fixed(folder: &Path, size: usize) -> Result<FixedServer, String> {
    std::fs::create_dir(folder).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let configuration = format!(
        "daemon off; worker_processes auto; pid {pid}; error_log {log};
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {tmp}; proxy_temp_path {tmp}; fastcgi_temp_path {tmp}; uwsgi_temp_path {tmp}; scgi_temp_path {tmp};
  keepalive_requests 1000000;
  server {{ listen unix:{socket}; location / {{ default_type application/json; return 200 '{body}'; }} }}
}}",
        pid = path("pid"),
        log = path("log"),
        tmp = path("tmp"),
        socket = path("fixed.sock"),
        body = "x".repeat(size),
    );
    let file = path("conf");
    std::fs::write(&file, configuration).unwrap();
    let started = Command::new("nginx")
        .args(["-c", &file, "-p", &path("")])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let server =
        started.map_err(|_| "nginx is not installed: apt-get install -y nginx-light".to_owned())?;
    let server = FixedServer { socket: folder.join("fixed.sock"), server };
    let until = Instant::now() + Duration::from_secs(10);
    while std::os::unix::net::UnixStream::connect(&server.socket).is_err() {
        if Instant::now() > until {
            return Err(format!(
                "nginx does not answer: {}",
                std::fs::read_to_string(path("log")).unwrap_or_default()
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(server)
}

/// Sends a request and reads a whole response.
async fn exchange(stream: &mut UnixStream, request: &[u8]) {
    stream.write_all(request).await.unwrap();
    let mut buffer = Vec::with_capacity(2048);
    loop {
        stream.read_buf(&mut buffer).await.unwrap();
        let text = String::from_utf8_lossy(&buffer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("Content-Length: "))
                .and_then(|n| n.trim().parse::<usize>().ok());
            if length.is_some_and(|n| body.len() >= n) {
                return;
            }
        }
    }
}
