//! Batches, outages, and a server that changes, against one that is made up.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;

use super::batches::end_of_batch;
use super::dialect::Dialect;
use super::*;

/// A server that knows two kinds of text, those that begin with a T and all others; of another
/// model once it is swapped.
fn start(is_swapped: Arc<AtomicBool>, asked: Arc<AtomicU64>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&client);
            let mut length = 0;
            for line in
                reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty())
            {
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().expect("a length");
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            let Ok(body) = serde_json::from_slice::<serde_json::Value>(&body) else { continue };
            asked.fetch_add(1, Ordering::SeqCst);
            let sign = if is_swapped.load(Ordering::SeqCst) { -1.0 } else { 1.0 };
            let vector = |text: &serde_json::Value| {
                [if text.as_str().expect("a text").starts_with('T') { 1.0 } else { 0.0 }, sign]
            };
            let vectors: Vec<[f64; 2]> =
                body["input"].as_array().expect("texts").iter().map(vector).collect();
            let answer = serde_json::json!({ "model": "m", "embeddings": vectors }).to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                answer.len()
            );
            (&client).write_all(format!("{head}{answer}").as_bytes()).expect("answered");
        }
    });
    url
}

#[tokio::test]
async fn a_model_that_is_swapped_while_the_server_stays_is_noticed() {
    for (check_pause, is_noticed) in [(Duration::ZERO, true), (Duration::from_secs(3600), false)] {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (is_swapped, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let settings = Settings {
            dialect: Dialect::Ollama,
            base: start(Arc::clone(&is_swapped), Arc::clone(&asked)),
            model: Some("m".to_owned()),
            timeout: Duration::from_secs(30),
            check_pause,
            vectors: folder.path().join("vectors"),
            ..record::tests::settings()
        };
        let engine = Arc::new(
            HttpEngine::open(settings, folder.path(), "embed-http").await.expect("opened"),
        );
        let embed = async |text: &str| {
            let wish = Treatment { truncate: false, deadline: Deadline::NEVER, prompt: "".into() };
            Arc::clone(&engine)
                .texts(vec![text.to_owned()], wish)
                .await
                .expect("outcomes")
                .pop()
                .expect("one")
        };
        let before = asked.load(Ordering::SeqCst);
        embed("former").await.expect("a vector");
        assert_eq!(
            asked.load(Ordering::SeqCst) - before,
            if is_noticed { 2 } else { 1 },
            "a known text first, and only then"
        );
        is_swapped.store(true, Ordering::SeqCst);
        let outcome = embed("latter").await;
        if is_noticed {
            let fault = outcome.expect_err("of another model");
            assert!(fault.message().contains("another model") && !fault.retryable(), "{fault}");
        } else {
            outcome.expect("nobody has looked yet");
        }
        assert!(embed("former").await.expect("kept").cached);
    }
}

#[test]
fn a_request_has_as_many_texts_as_it_may_and_a_long_one_goes_alone() {
    let of = |bytes: usize| MissingText {
        content: [0; 32],
        text: "x".repeat(bytes),
        indexes: Vec::new(),
    };
    let texts = [of(1), of(2), of(3), of(BATCH_BYTES_MAX + 1), of(1)];
    let (mut from, mut batches) = (0, Vec::new());
    while from < texts.len() {
        let to = end_of_batch(&texts, from, 2);
        batches.push(to - from);
        from = to;
    }
    assert_eq!(batches, [2, 1, 1, 1]);
}

#[test]
fn only_a_texts_own_fault_has_its_place() {
    let own = placed(no_vector().expect_err("none"), 3);
    assert!(own.parameters["index"] == 3 && own.message().starts_with("text 3: "), "{own}");
    let other = placed(Fault::overloaded("busy", 1), 3);
    assert!(!other.parameters.contains_key("index"));
}
