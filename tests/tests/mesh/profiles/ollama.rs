//! Profiles that bind models of an Ollama server, also of one that is down, silent or loads for
//! ever.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use brahman_card::ModuleState;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_tests::PATIENCE;
use serde_json::json;

use super::{activate, define, fault, mock, setup};

/// A server that answers as Ollama does, for as long as the test runs; gives its address.
fn ollama() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
            // The whole of it: to close with something unread would reset the connection.
            while !is_whole(&bytes) {
                match stream.read(&mut buffer) {
                    Ok(read) if read > 0 => bytes.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
            let request = String::from_utf8_lossy(&bytes).into_owned();
            let body = match request.split_whitespace().nth(1) {
                Some("/api/ps") => {
                    r#"{"models":[{"name":"phi:latest","size":2147483648,"size_vram":1073741824}]}"#
                }
                Some("/api/tags") => r#"{"models":[{"name":"phi:latest"},{"name":"qwen:latest"}]}"#,
                _ => r#"{"done":true}"#,
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            // Whoever asked may have gone.
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    address
}

/// One that has a model, and never answers whoever has it load that; gives its address, and word of
/// each such request.
fn stuck_ollama() -> (String, std::sync::mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let (say, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut stuck = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
            while !is_whole(&bytes) {
                match stream.read(&mut buffer) {
                    Ok(read) if read > 0 => bytes.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
            if !bytes.starts_with(b"GET ") {
                stuck.push(stream);
                if say.send(()).is_err() {
                    return;
                }
                continue;
            }
            let body = r#"{"models":[{"name":"large:latest"}]}"#;
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            // Whoever asked may have gone.
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    (address, heard)
}

#[tokio::test]
async fn an_ollama_server_that_loads_for_ever_holds_up_no_switch() {
    let (address, heard) = stuck_ollama();
    let mesh = setup(&[mock("a", 100)], 1000).env("BRAHMAN_OLLAMA_URL", &address).up().await;
    mesh.when(|modules| modules.iter().all(|module| module.state == ModuleState::Ready)).await;
    define(&mesh, json!({"id": "a", "modules": ["a"]})).await;
    let mut asking = Connection::connect(&mesh.beside("profiles.sock")).await.expect("connected");
    let ask = encode_call(
        "org.brahman.Profiles.Preload",
        &json!({"model": "large"}),
        &CallOptions::default(),
        false,
        false,
    );
    asking.send(&ask.expect("a call")).await.expect("sent");
    tokio::task::spawn_blocking(move || heard.recv_timeout(PATIENCE).expect("it is asked to load"))
        .await
        .expect("no panic");
    let begun = Instant::now();
    activate(&mesh, "a").await.expect("activated");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    mesh.down();
}

/// Whether a request has come to its end.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    body.len() >= length.unwrap_or(0)
}

#[tokio::test]
async fn an_ollama_server_is_shown_and_reached_and_one_that_is_down_or_silent_holds_nobody_up() {
    // It listens, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_at = format!("http://{}", silent.local_addr().expect("bound"));
    let down = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port that is free again");
    for (address, answers) in
        [(ollama(), true), (silent_at, false), (format!("http://{down}"), false)]
    {
        let mesh = setup(&[], 1000).env("BRAHMAN_OLLAMA_URL", &address).up().await;
        mesh.when_module("profiles", ModuleState::Ready).await;
        let begun = Instant::now();
        let vram = mesh.call("org.brahman.Profiles.Vram", json!({})).await.expect("an answer");
        assert!(begun.elapsed() < Duration::from_secs(4), "{address}: {:?}", begun.elapsed());
        let external = &vram["external"];
        assert_eq!(
            (external["url"] == json!(address), external["reason"].is_null()),
            (true, answers),
            "{external}"
        );
        let preloaded = mesh.call("org.brahman.Profiles.Preload", json!({"model": "qwen"})).await;
        if !answers {
            assert_eq!(fault(preloaded).name, "org.brahman.Profiles.LoadFailed");
            continue;
        }
        assert_eq!(
            (&external["models"][0]["name"], &external["models"][0]["vram_mib"]),
            (&json!("phi:latest"), &json!(1024))
        );
        assert_eq!(preloaded.expect("loaded")["external"], true);
        let unloaded =
            mesh.call("org.brahman.Profiles.Unload", json!({"model": "phi"})).await.expect("taken");
        assert!(
            unloaded["notes"][0].as_str().is_some_and(|note| note.contains("still lists")),
            "it lies: {unloaded}"
        );
        assert_eq!(
            fault(mesh.call("org.brahman.Profiles.Preload", json!({"model": "none"})).await).name,
            "org.brahman.Profiles.NoSuchModel"
        );
    }
}
