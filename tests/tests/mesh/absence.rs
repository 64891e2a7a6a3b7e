//! A module that is stopped, or has failed for good, keeps nobody waiting.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use brahman_card::ModuleState;
use brahman_tests::{Mesh, PATIENCE, Setup, shipped};

async fn mesh() -> Mesh {
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    mesh
}

/// What a client without a library hears: it says this much, and reads until this delimiter or the
/// end.
fn heard(socket: &Path, said: &[u8], delimiter: u8) -> String {
    let mut stream = UnixStream::connect(socket).expect("the socket is held");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    // Whoever is answered before it has said all may find the connection closed.
    let _ = stream.write_all(said);
    let (mut reply, mut byte) = (Vec::new(), [0]);
    while stream.read(&mut byte).expect("it does not hang, and is not cut off") == 1
        && byte[0] != delimiter
    {
        reply.push(byte[0]);
    }
    String::from_utf8(reply).expect("text")
}

const CALL: &str = r#"{"method":"org.brahman.Embed.EmbedText","parameters":{"texts":["x"]}}"#;

#[tokio::test]
async fn whoever_calls_a_module_that_is_stopped_hears_so_at_once_whatever_the_call_and_is_served_after_its_start()
 {
    let mesh = mesh().await;
    // One that says nothing, and one that stops in the middle, are in nobody's way.
    let silent = UnixStream::connect(mesh.socket()).expect("connected");
    assert!(mesh.brahman(&["stop", "broker"]).status.success());
    mesh.when_module("broker", ModuleState::Stopped).await;
    let mut half = UnixStream::connect(mesh.socket()).expect("connected");
    half.write_all(b"{\"method\":").expect("written");
    let long = format!(
        r#"{{"method":"org.brahman.Embed.EmbedText","parameters":{{"texts":["{}"]}}}}"#,
        "x".repeat(3_000_000)
    );
    for (said, delimiter) in
        [(format!("{CALL}\n"), b'\n'), (format!("{CALL}\0"), 0), (format!("{long}\0"), 0)]
    {
        let reply = heard(&mesh.socket(), said.as_bytes(), delimiter);
        assert!(
            reply.contains("org.brahman.Broker.ProviderFailed")
                && reply.contains("brahman start broker"),
            "{reply}"
        );
        assert!(reply.contains(r#""retryable":false"#), "{reply}");
    }
    let began = Instant::now();
    let out = mesh.brahman(&["embed", "x"]);
    let words = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && words.contains("`broker` is stopped"), "{words}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let status = String::from_utf8_lossy(&mesh.brahman(&["status"]).stdout).into_owned();
    assert!(status.contains("(unknown: the broker does not answer)"), "{status}");
    // Its own start ends that: from then on all are served.
    assert!(mesh.brahman(&["start", "broker"]).status.success());
    mesh.when_module("broker", ModuleState::Ready).await;
    for _ in 0..20 {
        let reply = heard(&mesh.socket(), format!("{CALL}\0").as_bytes(), 0);
        assert!(reply.contains("\"dim\":32"), "{reply}");
    }
    drop((silent, half));
}

#[tokio::test]
async fn a_provider_s_own_socket_answers_while_it_is_stopped_and_what_comes_as_it_starts_is_lost_to_nobody()
 {
    let mesh = mesh().await;
    let socket = mesh.folder.path().join("run/embed-mock.sock");
    for _ in 0..5 {
        assert!(mesh.brahman(&["stop", "embed-mock"]).status.success());
        mesh.when_module("embed-mock", ModuleState::Stopped).await;
        let reply = heard(&socket, format!("{CALL}\0").as_bytes(), 0);
        assert!(reply.contains("`embed-mock` is stopped"), "{reply}");
        let calling = {
            let socket = socket.clone();
            std::thread::spawn(move || {
                (0..200)
                    .map(|_| heard(&socket, format!("{CALL}\0").as_bytes(), 0))
                    .collect::<Vec<_>>()
            })
        };
        assert!(mesh.brahman(&["start", "embed-mock"]).status.success());
        mesh.when_module("embed-mock", ModuleState::Ready).await;
        let replies = tokio::task::spawn_blocking(|| calling.join().expect("nobody hangs"))
            .await
            .expect("joined");
        let first =
            replies.iter().position(|reply| reply.contains("\"dim\":32")).unwrap_or(replies.len());
        assert!(
            replies[..first].iter().all(|reply| reply.contains("is stopped")),
            "an answer, or that it is stopped: {:?}",
            &replies[..first]
        );
        assert!(
            replies[first..].iter().all(|reply| reply.contains("\"dim\":32")),
            "once it runs, it answers"
        );
    }
}

#[tokio::test]
async fn what_has_failed_for_good_says_why_to_its_callers() {
    let (name, card) = shipped("embed-mock");
    let broken = card.replace(
        "exec = \"embed-mock\"",
        "exec = \"/bin/sh\"\nargv = [\"-c\", \"echo no licence >&2; exit 78\"]",
    );
    assert_ne!(card, broken);
    let mesh = Setup::new(&[shipped("broker"), (name, broken)]).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Failed).await;
    let reply =
        heard(&mesh.folder.path().join("run/embed-mock.sock"), format!("{CALL}\0").as_bytes(), 0);
    assert!(
        reply.contains("has failed")
            && reply.contains("no licence")
            && reply.contains("brahman start embed-mock"),
        "{reply}"
    );
}
