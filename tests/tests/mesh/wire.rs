//! The wire, against the broker and against a module's own socket: bounds, order, newlines,
//! cancellation.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use brahman_card::ModuleState;
use brahman_sidecar::Connection;
use brahman_tests::{Mesh, PATIENCE, Setup, shipped};
use serde_json::{Value, json};

async fn mesh() -> Mesh {
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    mesh
}

fn connect(path: &std::path::Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.set_write_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Reads up to a delimiter, which is left out; `None` at the end.
fn read(stream: &mut UnixStream, delimiter: u8) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let mut byte = [0];
    loop {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        if byte[0] == delimiter {
            return Some(message);
        }
        message.push(byte[0]);
    }
}

/// Sends raw bytes and gives the reply's error name, or `ok`.
fn verdict(path: &std::path::Path, bytes: &[u8]) -> String {
    let mut stream = connect(path);
    // A server may hang up in the middle of something too long; its answer is then waiting.
    let _ = stream.write_all(bytes);
    let reply = read(&mut stream, 0).expect("an answer before the hang-up");
    let reply: Value = serde_json::from_slice(&reply).expect("JSON");
    reply["error"].as_str().unwrap_or("ok").to_owned()
}

const EMBED: &[u8] =
    b"{\"method\":\"org.brahman.Embed.EmbedText\",\"parameters\":{\"texts\":[\"a b\"]}}";

#[tokio::test]
async fn what_breaks_a_bound_is_answered_and_everybody_else_is_served() {
    let mesh = mesh().await;
    let nul = |text: &[u8]| [text, b"\0"].concat();
    let deep = format!(
        "{{\"method\":\"org.brahman.Embed.EmbedText\",\"parameters\":{}{}}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let long = [
        &b"{\"method\":\"org.brahman.Embed.EmbedText\",\"parameters\":{\"texts\":[\""[..],
        &vec![b'x'; 16 << 20],
        b"\"]}}\0",
    ]
    .concat();
    let invalid = "org.varlink.service.InvalidParameter";
    for path in [mesh.socket(), mesh.beside("embed-mock.sock")] {
        for (bytes, want) in [
            (nul(EMBED), "ok"),
            (nul(deep.as_bytes()), invalid),
            (nul(b"{\"method\":\"org.brahman.Embed.EmbedText\",\"parameters\":{\"texts\":[\"\xff\xfe\"]}}"), invalid),
            (nul(b"{\"method\":\"org.brahman.Embed.EmbedText\",\"parameters\":{\"texts\":[NaN]}}"), invalid),
            (nul(b"{\"method\":\"org.brahman.Embed.EmbedText\",\"parameters\":{\"texts\":7}}"), invalid),
            (nul(b"not json"), invalid),
            (nul(b"{\"method\":\"org.brahman.Embed.Nothing\"}"), "org.varlink.service.MethodNotFound"),
            (nul(b"{\"method\":\"com.example.Nothing.X\"}"), "org.varlink.service.InterfaceNotFound"),
            (long.clone(), "org.brahman.Broker.Overloaded"),
        ] {
            let head = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
            assert_eq!(verdict(&path, &bytes), want, "{} {head}", path.display());
        }
    }
    let ok = mesh
        .call("org.brahman.Embed.EmbedText", json!({"texts": ["still here"]}))
        .await
        .expect("served");
    assert_eq!(ok["dim"], 32);
}

#[tokio::test]
async fn a_client_cannot_name_its_own_uid() {
    let mesh = mesh().await;
    let bytes = b"{\"method\":\"org.brahman.Embed.Info\",\"org.brahman.uid\":0}\0";
    assert_eq!(verdict(&mesh.socket(), bytes), "org.varlink.service.PermissionDenied");
}

#[tokio::test]
async fn a_person_with_nc_speaks_in_newlines() {
    let mesh = mesh().await;
    for path in [mesh.socket(), mesh.beside("embed-mock.sock")] {
        let mut stream = connect(&path);
        for _ in 0..2 {
            stream.write_all(&[EMBED, b"\n"].concat()).expect("sent");
            let reply: Value =
                serde_json::from_slice(&read(&mut stream, b'\n').expect("a line")).expect("JSON");
            assert_eq!(reply["parameters"]["vectors"][0].as_array().map(Vec::len), Some(32));
        }
        // Half-closed, as a shell's pipe does it: what was asked is still answered.
        stream.write_all(&[EMBED, b"\n"].concat()).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("shut");
        assert!(read(&mut stream, b'\n').is_some(), "{}", path.display());
    }
}

#[tokio::test]
async fn pipelined_calls_are_answered_in_order_and_oneway_ones_not_at_all() {
    let mesh = mesh().await;
    let mut stream = connect(&mesh.socket());
    let call = |text: &str, oneway: bool| {
        format!(
            "{{\"method\":\"org.brahman.Embed.EmbedText\",\"oneway\":{oneway},\"parameters\":{{\"texts\":[\"{text}\"]}}}}\0"
        )
    };
    stream
        .write_all(
            [call("one", false), call("never", true), call("two", false)].concat().as_bytes(),
        )
        .expect("sent");
    let [one, two] = [(); 2].map(|()| {
        serde_json::from_slice::<Value>(&read(&mut stream, 0).expect("a reply")).expect("JSON")
    });
    for (reply, text) in [(one, "one"), (two, "two")] {
        let alone = mesh
            .call("org.brahman.Embed.EmbedText", json!({"texts": [text]}))
            .await
            .expect("served");
        assert_eq!(reply["parameters"]["vectors"], alone["vectors"], "{text}");
    }
}

/// Whoever calls quickly is polled for, and polls: a long message after short ones comes in more
/// than one read all the same.
#[tokio::test]
async fn a_long_call_and_a_long_answer_after_quick_ones_are_read_to_their_ends() {
    let mesh = mesh().await;
    for path in [mesh.socket(), mesh.beside("embed-mock.sock")] {
        for round in 1..=40 {
            let mut connection = Connection::connect(&path).await.expect("connected");
            let quick = vec![vec!["quick".to_owned()]; 6];
            for texts in quick
                .into_iter()
                .chain([vec!["word ".repeat(900 * round)], vec!["x".to_owned(); round]])
            {
                let ask = json!({"texts": texts, "truncate": true});
                let answer = tokio::time::timeout(
                    PATIENCE,
                    connection.call::<_, Value>("org.brahman.Embed.EmbedText", &ask),
                );
                let answer = answer.await.expect("not waited for in vain").expect("served");
                assert_eq!(answer["vectors"].as_array().map(Vec::len), Some(texts.len()));
            }
        }
    }
}

#[tokio::test]
async fn a_thousand_silent_connections_and_half_messages_harm_nobody() {
    let mesh = mesh().await;
    let silent: Vec<UnixStream> = (0..1000).map(|_| connect(&mesh.socket())).collect();
    let mut halves: Vec<UnixStream> =
        (0..50).map(|_| connect(&mesh.beside("embed-mock.sock"))).collect();
    for half in &mut halves {
        half.write_all(&EMBED[..20]).expect("sent");
    }
    let ok =
        mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["x"]})).await.expect("served");
    assert_eq!(ok["mock"], true);
    for half in &mut halves {
        half.write_all(&[&EMBED[20..], b"\0"].concat()).expect("sent");
        assert!(read(half, 0).is_some(), "half a message is still welcome once it is whole");
    }
    drop(silent);
}

#[tokio::test]
async fn a_slow_reader_stalls_itself_alone() {
    let mesh = mesh().await;
    let mut slow = connect(&mesh.socket());
    slow.set_write_timeout(Some(Duration::from_millis(300))).expect("set");
    let texts: Vec<String> = (0..2000).map(|i| format!("text {i}")).collect();
    let call = format!(
        "{}\0",
        json!({"method": "org.brahman.Embed.EmbedText", "parameters": {"texts": texts}})
    );
    // Replies are never read: its socket fills, then the broker stops taking its calls.
    while slow.write_all(call.as_bytes()).is_ok() {
        let ok = mesh
            .call("org.brahman.Embed.EmbedText", json!({"texts": ["x"]}))
            .await
            .expect("served meanwhile");
        assert_eq!(ok["dim"], 32);
        if slow.take_error().is_ok_and(|e| e.is_some()) {
            break;
        }
    }
    assert!(mesh.call("org.brahman.Embed.Info", json!({})).await.is_ok());
}

#[tokio::test]
async fn bulk_vectors_go_through_the_broker_as_arrow() {
    use arrow_array::cast::AsArray as _;
    use arrow_array::{ArrayRef, RecordBatch, StringArray};
    use brahman_sidecar::bulk::{BulkStream, Frame};
    use brahman_sidecar::client::encode_call;
    use brahman_sidecar::{CallOptions, Connection};

    let mesh = mesh().await;
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connected");
    let message = encode_call(
        "org.brahman.Embed.EmbedBulk",
        &json!({}),
        &CallOptions::default(),
        false,
        true,
    )
    .expect("a call");
    connection.exchange(&message).await.expect("confirmed");
    let mut bulk = BulkStream::new(connection.into_upgraded());
    for n in [1_usize, 3000] {
        let texts: ArrayRef =
            std::sync::Arc::new(StringArray::from_iter_values((0..n).map(|i| format!("text {i}"))));
        bulk.send(&RecordBatch::try_from_iter([("text", texts)]).expect("a batch"))
            .await
            .expect("sent");
        let Frame::Batches(batches) = bulk.receive().await.expect("received") else {
            panic!("no batches")
        };
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), n);
        assert_eq!(
            batches[0]
                .column_by_name("vector")
                .expect("vectors")
                .as_fixed_size_list()
                .value_length(),
            32
        );
    }
    let numbers: ArrayRef = std::sync::Arc::new(arrow_array::Int32Array::from(vec![1]));
    bulk.send(&RecordBatch::try_from_iter([("text", numbers)]).expect("a batch"))
        .await
        .expect("sent");
    assert!(
        matches!(bulk.receive().await.expect("received"), Frame::Fault(fault) if fault.message().contains("Utf8"))
    );
    bulk.finish().await.expect("finished");
    assert!(matches!(bulk.receive().await.expect("received"), Frame::End));
}
