//! One client, one message or one dead process stops nobody else: memory, time and places are
//! bounded, and what kills is set aside.

use std::time::{Duration, Instant};

use brahman_card::ModuleState;
use brahman_tests::{Mesh, Setup, shipped, stranger};
use serde_json::{Value, json};

use crate::answers::Raw;

const QUICK: &str = r#"
def handle(c, m):
    p = m.get("parameters") or {}
    if p.get("sleep"): time.sleep(p["sleep"])
    if p.get("poison"): os._exit(9)
    reply(c, {"parameters": {"for": p.get("who"), "text": "x" * p.get("bytes", 0)}})
"#;

async fn mesh(more: &str) -> Mesh {
    let mesh = Setup::new(&[
        shipped("broker"),
        shipped("embed-mock"),
        stranger("t", "org.example.T", &["Get"], QUICK, more),
    ])
    .up()
    .await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh
}

/// The longest that somebody else's small calls take while `work` is under way.
fn longest_beside(socket: &std::path::Path, work: impl FnOnce() + Send) -> Duration {
    let (stop, longest) =
        (std::sync::atomic::AtomicBool::new(false), std::sync::Mutex::new(Duration::ZERO));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut raw = Raw::connect(socket);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let asked = Instant::now();
                raw.call("org.brahman.Embed.Info", json!({}));
                let mut longest = longest.lock().expect("whole");
                *longest = asked.elapsed().max(*longest);
            }
        });
        work();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    longest.into_inner().expect("whole")
}

#[tokio::test]
async fn the_worst_message_of_each_size_keeps_nobody_waiting() {
    let mesh = mesh("").await;
    for path in [mesh.socket(), mesh.beside("embed-mock.sock")] {
        for size in [100_000, 1_000_000, 8_000_000] {
            let lines = format!(
                "{{\n \"method\": \"org.brahman.Embed.EmbedText\",\n \"parameters\": {{\"texts\": [\n{}\"\"]}}}}",
                " \"a\",\n".repeat(size / 6)
            );
            let brackets = format!(
                "{{\"method\":\"org.brahman.Embed.EmbedText\",\"parameters\":{{\"texts\":[{}[]]}}}}",
                "[],".repeat(size / 3)
            );
            let blank = format!("{}{{}}", "\n".repeat(size));
            let quotes = format!(
                "{{\"method\":\"org.brahman.Embed.EmbedText\",\"parameters\":{{\"texts\":[{}\"\"]}}}}",
                "\"\",".repeat(size / 3)
            );
            for (what, message) in [
                ("lines", lines),
                ("brackets", brackets),
                ("blank lines", blank),
                ("quotes", quotes),
            ] {
                let begun = Instant::now();
                let waited = longest_beside(&mesh.socket(), || {
                    let mut raw = Raw::connect(&path);
                    raw.write(message.as_bytes());
                    raw.write(b"\n");
                    let _ = raw.receive();
                });
                // In a debug build, on a machine that runs other tests beside this one; without
                // bounds it is seconds to minutes.
                assert!(
                    waited < Duration::from_millis(1500),
                    "{what} of {size}: somebody else waited {waited:?}"
                );
                assert!(
                    begun.elapsed() < Duration::from_secs(30),
                    "{what} of {size} took {:?}",
                    begun.elapsed()
                );
            }
        }
    }
}

#[tokio::test]
async fn the_worst_reply_of_each_size_keeps_nobody_waiting() {
    let handle = r#"
def handle(c, m):
    p = m["parameters"]
    c.sendall(('{"parameters":{"x":[' + p["of"] * (p["size"] // len(p["of"])) + 'null]}}').encode() + b"\0")
"#;
    let mesh = Setup::new(&[
        shipped("broker"),
        shipped("embed-mock"),
        stranger("t", "org.example.T", &[], handle, ""),
    ])
    .up()
    .await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    for size in [100_000, 1_000_000, 15_000_000] {
        for of in ["[],", "\"\",", "\"\\\\\",", "\n", "7,"] {
            for end in ["\0", "\n"] {
                let waited = longest_beside(&mesh.socket(), || {
                    use std::io::{Read as _, Write as _};
                    let mut stream =
                        std::os::unix::net::UnixStream::connect(mesh.socket()).expect("connected");
                    let call = json!({"method": "org.example.T.Get", "parameters": {"of": of, "size": size}});
                    stream.write_all(format!("{call}{end}").as_bytes()).expect("written");
                    let (mut reply, mut part) = (Vec::new(), vec![0; 1 << 20]);
                    // Between newlines none is left inside.
                    while !reply.ends_with(end.as_bytes())
                        || end == "\n" && !reply.ends_with(b"}\n")
                    {
                        let n = stream.read(&mut part).expect("the broker answers");
                        assert!(n > 0, "{size} of {of:?}: the broker hung up");
                        reply.extend_from_slice(&part[..n]);
                    }
                    assert!(
                        reply.starts_with(b"{\"parameters\":{\"x\":[") && reply.len() > size,
                        "{size} of {of:?}"
                    );
                });
                assert!(
                    waited < Duration::from_millis(1500),
                    "{size} of {of:?}: somebody else waited {waited:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn half_messages_hold_no_more_memory_than_their_budget() {
    let mesh = mesh("").await;
    for (label, path) in [("broker", mesh.socket()), ("embed-mock", mesh.beside("embed-mock.sock"))]
    {
        let pid = mesh.module(label).await.pid;
        let part = vec![b'x'; 12 << 20];
        let mut held: Vec<std::os::unix::net::UnixStream> = Vec::new();
        let mut refused = 0;
        for _ in 0..60 {
            use std::io::{Read as _, Write as _};
            let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("connected");
            stream.set_write_timeout(Some(Duration::from_secs(30))).expect("set");
            let sent = stream
                .write_all(b"{\"method\":\"a.B\",\"parameters\":{\"x\":\"")
                .and_then(|()| stream.write_all(&part));
            stream.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
            let mut word = [0; 256];
            let said = stream.read(&mut word).unwrap_or(0);
            refused += usize::from(
                sent.is_err() || String::from_utf8_lossy(&word[..said]).contains("Overloaded"),
            );
            held.push(stream);
        }
        let resident = Mesh::resident_mib(pid);
        assert!(refused > 30, "{label}: {refused} of 60 were refused");
        assert!(resident < 450, "{label} holds {resident} MiB");
        drop(held);
        assert_eq!(
            mesh.call("org.example.T.Get", json!({"who": "B"})).await.expect("served")["for"],
            "B",
            "{label}"
        );
    }
}

#[tokio::test]
async fn bulk_frames_that_are_announced_and_never_come_hold_nothing() {
    let mesh = mesh("").await;
    let pid = mesh.module("embed-mock").await.pid;
    let before = Mesh::resident_mib(pid);
    let mut held = Vec::new();
    for _ in 0..60 {
        let mut raw = Raw::connect(&mesh.beside("embed-mock.sock"));
        raw.send(&json!({"method": "org.brahman.Embed.EmbedBulk", "upgrade": true}));
        assert!(raw.receive().expect("confirmed").get("error").is_none());
        raw.write(&(60_u32 << 20).to_le_bytes());
        raw.write(&[7; 1000]);
        held.push(raw);
    }
    mesh.call("org.brahman.Embed.Info", json!({})).await.expect("served");
    let grown = Mesh::resident_mib(pid).saturating_sub(before);
    assert!(grown < 60, "it grew by {grown} MiB");
}

#[tokio::test]
async fn a_deadline_is_kept_while_a_stopped_provider_takes_nothing() {
    let mesh = mesh("").await;
    let pid = mesh.module("t").await.pid;
    mesh.signal(pid, "STOP");
    for bytes in [10, 4_000_000] {
        let asked = Instant::now();
        let mut raw = Raw::connect(&mesh.socket());
        raw.send(&json!({"method": "org.example.T.Get", "org.brahman.deadline_ms": 500, "parameters": {"x": "a".repeat(bytes)}}));
        assert_eq!(raw.receive().expect("a reply")["error"], "org.brahman.Broker.DeadlineExceeded");
        assert!(asked.elapsed() < Duration::from_secs(3), "{bytes} bytes: {:?}", asked.elapsed());
    }
    mesh.signal(pid, "CONT");
}

#[tokio::test]
async fn a_reader_that_reads_nothing_holds_no_place() {
    let mesh = mesh("quotas = { in_flight = 1, queue = 8 }").await;
    let mut lazy = Raw::connect(&mesh.socket());
    lazy.send(
        &json!({"method": "org.example.T.Get", "parameters": {"who": "A", "bytes": 8_000_000}}),
    );
    let asked = Instant::now();
    assert_eq!(
        mesh.call("org.example.T.Get", json!({"who": "B"})).await.expect("served")["for"],
        "B"
    );
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(lazy.receive().expect("it may still read")["parameters"]["for"], "A");
}

#[tokio::test]
async fn watchers_hold_no_places() {
    let cards = [shipped("broker"), shipped("catalog")];
    let cards = cards.map(|(name, text)| {
        (
            name,
            text.replace(
                "[payload.native]",
                "quotas = { in_flight = 4, queue = 1 }\n[payload.native]",
            ),
        )
    });
    let mesh = Setup::new(&cards).up().await;
    mesh.when_module("catalog", ModuleState::Ready).await;
    let watchers: Vec<Raw> = (0..20)
        .map(|_| {
            let mut raw = Raw::connect(&mesh.socket());
            raw.send(&json!({"method": "org.brahman.Catalog.Watch", "more": true}));
            assert!(raw.receive().expect("a first word").get("error").is_none());
            raw
        })
        .collect();
    mesh.call("org.brahman.Catalog.List", json!({})).await.expect("served");
    drop(watchers);
}

#[tokio::test]
async fn calls_that_kill_their_provider_are_set_aside_and_nobody_else_pays() {
    let mesh = mesh(
        "supervision.restart = { initial_ms = 5, max_ms = 20, intensity = 100, period_s = 60 }",
    )
    .await;
    let restarts = mesh.module("t").await.restarts;
    let innocent = tokio::spawn({
        let socket = mesh.socket();
        async move {
            let client = brahman_sidecar::Client::new(&socket);
            for i in 0..300 {
                let (ask, options) =
                    (json!({"who": i, "sleep": 0.005}), brahman_sidecar::CallOptions::default());
                let answer = client.call::<_, Value>("org.example.T.Get", &ask, &options);
                assert_eq!(
                    answer.await.unwrap_or_else(|e| panic!("innocent call {i}: {e}")).value["for"],
                    i
                );
            }
        }
    });
    for n in 0..3 {
        let poison = json!({"poison": true, "n": n});
        for again in 0..4 {
            let fault = mesh.fault("org.example.T.Get", poison.clone()).await;
            assert_eq!(fault.name, "org.brahman.Broker.ProviderFailed", "{n}.{again}: {fault}");
        }
    }
    innocent.await.expect("every other call was answered");
    let deaths = mesh.module("t").await.restarts - restarts;
    assert!(deaths <= 6, "{deaths} deaths of three poison calls that were made four times each");
}

#[tokio::test]
async fn a_command_outlives_the_broker() {
    let handle = r#"
def handle(c, m):
    time.sleep(2)
    reply(c, {"parameters": {"model": "m", "dim": 1, "vectors": [[1.0]], "cached": 0, "truncated": [], "device": "cpu", "elapsed_us": 1, "fingerprint": "x", "mock": True}})
"#;
    let mesh =
        Setup::new(&[shipped("broker"), stranger("t", "org.brahman.Embed", &[], handle, "")])
            .up()
            .await;
    mesh.when_module("t", ModuleState::Ready).await;
    let broker = mesh.module("broker").await.pid;
    std::thread::scope(|scope| {
        let command = scope.spawn(|| mesh.brahman(&["embed", "x"]));
        let is_called = || {
            let status = mesh.brahman_json(&["status"]);
            status["modules"]
                .as_array()
                .expect("modules")
                .iter()
                .any(|m| m["label"] == "t" && m["queue"] == 1)
        };
        let begun = Instant::now();
        while !is_called() {
            assert!(
                begun.elapsed() < Duration::from_secs(30) && !command.is_finished(),
                "the call is under way"
            );
        }
        mesh.signal(broker, "KILL");
        let out = command.join().expect("it ran");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    });
}
