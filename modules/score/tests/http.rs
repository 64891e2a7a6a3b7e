//! Servers of each dialect, as they answer when all is well and as they answer when it is not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brahman_card::interface::score::{Conversation, Entry};
use brahman_score::ablation::{Ablation, ResponseScores, left, whole};
use brahman_score::conversation::{Layout, script};
use brahman_score::engine::{Engine, EngineError, Sequence, Stop};
use brahman_score::http::dialect::Dialect;
use brahman_score::http::{Server, Settings};
use brahman_score::mock::Mock;
use brahman_sidecar::chain;
use serde_json::{Value, json};

/// How a server answers prompts once it has passed the probe, or from the beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Well,
    Html,
    Broken,
    HalfABody,
    TooFew,
    Never,
    Busy,
    Constant,
    Shifted,
    Positive,
    OtherTokens,
    NotJson,
    /// Each token gets the next one's figure.
    OffByOne,
    /// Figures are those of sampling.
    Temperature,
    /// No more than 64 tokens are read at once.
    Cut,
    /// The model knows other tokens.
    OtherWeights,
    /// Other figures each time.
    Unsteady,
    /// Nothing is said of the prompt.
    NoEcho,
}

/// A server on this machine's loopback.
struct Local {
    base: String,
    mood: Arc<Mutex<Mood>>,
    scored: Arc<AtomicUsize>,
    hung_up: Arc<AtomicBool>,
}

/// The bearer token that it wants.
const TOKEN: &str = "a+b/c=";

impl Local {
    fn start(dialect: Dialect, mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let local = Self {
            base,
            mood: Arc::new(Mutex::new(mood)),
            scored: Arc::default(),
            hung_up: Arc::default(),
        };
        let (mood, scored, hung_up) =
            (Arc::clone(&local.mood), Arc::clone(&local.scored), Arc::clone(&local.hung_up));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (mood, scored, hung_up) =
                    (Arc::clone(&mood), Arc::clone(&scored), Arc::clone(&hung_up));
                std::thread::spawn(move || serve(stream, dialect, &mood, &scored, &hung_up));
            }
        });
        local
    }

    fn settings(&self, dialect: Dialect) -> Settings {
        Settings {
            dialect,
            base: self.base.clone(),
            tokenizer: PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../tests/assets/induction"
            )),
            model: (dialect == Dialect::Brahman).then(|| "tiny".to_owned()),
            token: Some(TOKEN.to_owned()),
            timeout: Duration::from_secs(2),
            concurrency: 3,
            window: None,
        }
    }

    fn feels(&self, mood: Mood) {
        *self.mood.lock().expect("unpoisoned") = mood;
    }
}

/// One connection; keeps it open for more requests.
fn serve(
    mut stream: TcpStream,
    dialect: Dialect,
    mood: &Mutex<Mood>,
    scored: &AtomicUsize,
    hung_up: &AtomicBool,
) {
    let mut bytes = Vec::new();
    let mut part = [0; 65_536];
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut part) {
                Ok(0) | Err(_) => return,
                Ok(n) => bytes.extend_from_slice(&part[..n]),
            }
        };
        let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
        let header = |name: &str| {
            let line =
                text.lines().find(|l| l.to_ascii_lowercase().starts_with(&format!("{name}:")));
            line.map(|l| l[name.len() + 1..].trim().to_owned())
        };
        let length = header("content-length").map_or(0, |l| l.parse().expect("a number"));
        while bytes.len() < head + length {
            match stream.read(&mut part) {
                Ok(0) | Err(_) => return,
                Ok(n) => bytes.extend_from_slice(&part[..n]),
            }
        }
        let body: Value = if length == 0 {
            Value::Null
        } else {
            serde_json::from_slice(&bytes[head..head + length]).expect("JSON")
        };
        bytes.drain(..head + length);
        let mood = *mood.lock().expect("unpoisoned");
        let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut status, mut kind, answer) = ("200 OK", "application/json", &mut String::new());
        if header("authorization").as_deref() != Some(&format!("Bearer {TOKEN}")) {
            (status, *answer) = ("401 Unauthorized", json!({ "error": "no" }).to_string());
        } else if path == "/v1/models" {
            *answer = json!({ "data": [{ "id": "tiny", "max_model_len": 4096 }] }).to_string();
        } else if path == "/get_model_info" {
            *answer = json!({ "model_path": "tiny" }).to_string();
        } else {
            scored.fetch_add(1, Ordering::Relaxed);
            match mood {
                Mood::Html => {
                    (kind, *answer) =
                        ("text/html", "<!doctype html><h1>Welcome to nginx!</h1>".into());
                }
                Mood::Broken => {
                    (status, *answer) = ("500 Internal Server Error", "CUDA out of memory".into());
                }
                Mood::Busy => (status, *answer) = ("503 Service Unavailable", "loading".into()),
                Mood::NotJson => *answer = "{\"choices\": [".into(),
                Mood::Never => {
                    // Until the other side gives up.
                    let gone = stream.read(&mut part).map_or(0, |n| n) == 0;
                    hung_up.store(gone, Ordering::Relaxed);
                    return;
                }
                _ => {
                    *answer =
                        scores(dialect, &body, mood, scored.load(Ordering::Relaxed)).to_string();
                }
            }
        }
        let length = answer.len() + if mood == Mood::HalfABody { 1000 } else { 0 };
        let reply = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{answer}"
        );
        if stream.write_all(reply.as_bytes()).is_err() || mood == Mood::HalfABody {
            return;
        }
    }
}

/// Log-probabilities of a prompt, by a model of bytes.
fn plain(tokens: &[u32]) -> Vec<f32> {
    let mut scores = vec![0.0; tokens.len()];
    if tokens.len() > 1 {
        let all = Sequence {
            tokens: tokens.to_vec(),
            wanted: std::iter::once(1..tokens.len()).collect(),
            ..Sequence::default()
        };
        let mut found = Vec::new();
        Mock::default()
            .score(&[all], &Stop::default(), &mut |_, s| found = s.expect("scored"))
            .expect("scored");
        scores[1..].copy_from_slice(&found);
    }
    scores
}

/// Where the assistant's words are in a conversation that is laid out as `role: text` lines.
fn responses(tokens: &[u32]) -> Vec<std::ops::Range<usize>> {
    let (mark, mut found, mut at) =
        ("assistant: ".bytes().map(u32::from).collect::<Vec<_>>(), Vec::new(), 0);
    while at < tokens.len() {
        let end = tokens[at..]
            .iter()
            .position(|t| *t == u32::from(b'\n'))
            .map_or(tokens.len(), |end| at + end);
        let line = &tokens[at..end];
        let from = if line.first() == Some(&0) { 1 } else { 0 };
        if line[from..].starts_with(&mark) {
            found.push(at + from + mark.len()..end);
        }
        at = end + 1;
    }
    found
}

fn scores(dialect: Dialect, body: &Value, mood: Mood, count: usize) -> Value {
    let prompt = body["prompt"].as_array().or_else(|| body["input_ids"].as_array()).expect("ids");
    let tokens: Vec<u32> =
        prompt.iter().map(|t| u32::try_from(t.as_u64().expect("an id")).expect("small")).collect();
    let mut logprobs = plain(&tokens);
    match mood {
        Mood::Constant => logprobs.fill(-1.5),
        Mood::Positive => logprobs.iter_mut().for_each(|x| *x = -*x),
        // Each token's figure is that of the whole's length away: what is told depends on what
        // follows.
        Mood::OffByOne => logprobs.rotate_left(1),
        Mood::Temperature => {
            let temperature = body["temperature"]
                .as_f64()
                .or_else(|| body["sampling_params"]["temperature"].as_f64())
                .expect("it is said");
            logprobs.iter_mut().for_each(|x| *x /= temperature as f32);
        }
        Mood::Cut => logprobs = tokens.chunks(64).flat_map(plain).collect(),
        Mood::OtherWeights => logprobs
            .iter_mut()
            .zip(&tokens)
            .for_each(|(x, token)| *x = -6.0 - (token % 7) as f32 / 10.0),
        Mood::Unsteady => logprobs.iter_mut().for_each(|x| *x -= count as f32 * 0.2),
        Mood::Shifted => logprobs.iter_mut().for_each(|x| *x -= tokens.len() as f32 / 20.0),
        _ => {}
    }
    let shown = |at: usize| if mood == Mood::OtherTokens { tokens[at] + 1 } else { tokens[at] };
    let kept = if mood == Mood::TooFew { tokens.len() / 2 } else { tokens.len() };
    match dialect {
        Dialect::Vllm => {
            assert_eq!(
                (&body["model"], &body["max_tokens"], &body["prompt_logprobs"]),
                (&json!("tiny"), &json!(1), &json!(0))
            );
            assert!(body.get("priority").is_none(), "an error unless the scheduler allows it");
            let entry = |at: usize| match at {
                0 => Value::Null,
                _ => {
                    json!({ shown(at).to_string(): { "logprob": logprobs[at], "rank": 3, "decoded_token": "?" }, "999": { "logprob": -0.1, "rank": 1 } })
                }
            };
            let list: Vec<Value> = (0..kept).map(entry).collect();
            json!({ "id": "cmpl-1", "object": "text_completion", "choices": [{ "index": 0, "text": "x", "prompt_logprobs": list }] })
        }
        Dialect::Sglang => {
            let from = usize::try_from(body["logprob_start_len"].as_u64().expect("a place"))
                .expect("small");
            assert_eq!(body["return_logprob"], true);
            let entry = |at: usize| {
                json!([if at == from { Value::Null } else { json!(logprobs[at]) }, shown(at), null])
            };
            let list: Vec<Value> = (from..kept.max(from)).map(entry).collect();
            json!({ "text": "x", "meta_info": { "input_token_logprobs": list, "prompt_tokens": tokens.len(), "cached_tokens": from / 2 } })
        }
        Dialect::Brahman if mood == Mood::TooFew => json!({ "error": "model not loaded" }),
        Dialect::Completions => {
            assert_eq!(
                (&body["echo"], &body["logprobs"], &body["max_tokens"]),
                (&json!(true), &json!(1), &json!(1))
            );
            let figure = |at: usize| if at == 0 { Value::Null } else { json!(logprobs[at]) };
            let entry = |at: usize| json!({ "id": shown(at), "logprob": figure(at) });
            let echoed = if mood == Mood::NoEcho { 0 } else { kept };
            // What is generated stands behind the prompt.
            let told = if mood == Mood::OtherTokens {
                json!({ "content": (0..echoed).map(entry).chain([json!({ "id": 7, "logprob": -0.5 })]).collect::<Vec<_>>() })
            } else {
                json!({ "token_logprobs": (0..echoed).map(figure).chain([json!(-0.5)]).collect::<Vec<_>>() })
            };
            json!({ "object": "text_completion", "choices": [{ "index": 0, "text": "x", "logprobs": told }] })
        }
        Dialect::Brahman => {
            assert_eq!(body["priority"], 5, "as its own callers send it");
            let total = |range: std::ops::Range<usize>| {
                logprobs[range].iter().map(|x| f64::from(*x)).sum::<f64>()
            };
            json!({ "scores": responses(&tokens).into_iter().map(|r| json!({ "total_logprob": total(r) })).collect::<Vec<_>>() })
        }
    }
}

const ALL: [Dialect; 4] = [Dialect::Vllm, Dialect::Sglang, Dialect::Completions, Dialect::Brahman];

fn sequence(text: &str) -> Sequence {
    let tokens: Vec<u32> = std::iter::once(0).chain(text.bytes().map(u32::from)).collect();
    let end = tokens.len();
    Sequence { tokens, wanted: vec![5..9, end - 12..end - 2], responses: Vec::new() }
}

#[test]
fn each_dialect_tells_what_the_model_behind_it_says() {
    for dialect in ALL {
        let local = Local::start(dialect, Mood::Well);
        let server = Server::open(local.settings(dialect))
            .unwrap_or_else(|error| panic!("{dialect:?}: {}", chain(&error)));
        assert_eq!(server.identity().model, "tiny");
        assert_eq!(
            server.identity().window,
            if matches!(dialect, Dialect::Vllm | Dialect::Completions) { 4096 } else { 16384 }
        );
        let mut sequences = [
            "memory: the gate is blue\nassistant: the gate is blue",
            "assistant: the gate is blue, it is",
        ]
        .map(sequence);
        if dialect == Dialect::Brahman {
            // One figure a response: all of a conversation's in one call.
            for sequence in &mut sequences {
                sequence.responses = responses(&sequence.tokens);
                sequence.wanted.clone_from(&sequence.responses);
            }
        }
        local.scored.store(0, Ordering::Relaxed);
        let mut found = vec![Vec::new(); 2];
        let mut done = |i: usize, scores: Result<Vec<f32>, EngineError>| {
            assert!(tokio::runtime::Handle::try_current().is_err(), "who is told may block");
            found[i] = scores.expect("scored");
        };
        let work = server.score(&sequences, &Stop::default(), &mut done).expect("scored");
        for (sequence, found) in sequences.iter().zip(found) {
            let plain = plain(&sequence.tokens);
            let mut at = 0;
            for wanted in &sequence.wanted {
                let (ours, theirs) = (&found[at..at + wanted.len()], &plain[wanted.clone()]);
                at += wanted.len();
                let sum = |scores: &[f32]| scores.iter().sum::<f32>();
                assert!((sum(ours) - sum(theirs)).abs() < 1e-3, "{dialect:?}: {ours:?} {theirs:?}");
                if dialect != Dialect::Brahman {
                    assert!(
                        ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-5),
                        "{dialect:?}: {ours:?} {theirs:?}"
                    );
                }
            }
        }
        assert_eq!(local.scored.load(Ordering::Relaxed), 2, "{dialect:?}: one call a sequence");
        assert!(
            work.forwarded > 0 && (work.reused > 0) == (dialect == Dialect::Sglang),
            "{dialect:?}: {work:?}"
        );
    }
}

/// What each response loses without each memory, by a server and by the model behind it.
#[test]
fn a_matrix_by_a_server_of_each_dialect_is_the_local_one() {
    let entry = |role: &str, key: Option<&str>, text: &str| Entry {
        role: Some(role.to_owned()),
        key: key.map(str::to_owned),
        text: Some(text.to_owned()),
        ..Entry::default()
    };
    let (gate, boat) =
        ("The gate is blue, and so is the door.", "The boat lies in Zarnip since spring.");
    let conversation = Conversation {
        conversation: vec![
            entry("memory", Some("gate"), gate),
            entry("memory", Some("boat"), boat),
            entry("user", None, "Which colour is it?"),
            entry("assistant", None, gate),
            entry("user", None, "And where is the other one?"),
            entry("assistant", None, boat),
        ],
        ..Conversation::default()
    };
    for dialect in ALL {
        let local = Local::start(dialect, Mood::Well);
        let server = Server::open(local.settings(dialect))
            .unwrap_or_else(|error| panic!("{dialect:?}: {}", chain(&error)));
        let script = script(&conversation, &Layout::plain(), &server).expect("read");
        let mut all: Vec<Ablation> = vec![whole(&script, &[0, 1])];
        all.extend([0, 1].map(|memory| left(&script, &[memory], &[0, 1], &server).expect("left")));
        let sequences: Vec<Sequence> =
            all.iter().map(|ablation| ablation.sequence.clone()).collect();
        let matrix = |engine: &dyn Engine| -> Vec<f64> {
            let mut found = vec![Vec::new(); sequences.len()];
            let mut done = |i: usize, scores: Result<Vec<f32>, EngineError>| {
                found[i] = scores.expect("scored");
            };
            engine.score(&sequences, &Stop::default(), &mut done).expect("scored");
            let of: Vec<ResponseScores> = all
                .iter()
                .zip(&found)
                .map(|(one, scores)| ResponseScores::of(&script, one, scores))
                .collect();
            of[1..]
                .iter()
                .flat_map(|without| {
                    [0, 1].map(|response| of[0].sum(response) - without.sum(response))
                })
                .collect()
        };
        let (theirs, ours) = (matrix(&server), matrix(&Mock::default()));
        assert!(
            ours[0] > 20.0 && ours[3] > 20.0 && ours[1] < ours[0] / 2.0 && ours[2] < ours[3] / 2.0,
            "{ours:?}"
        );
        assert!(
            theirs.iter().zip(&ours).all(|(a, b)| (a - b).abs() < 1e-3),
            "{dialect:?}: {theirs:?} {ours:?}"
        );
    }
}

#[test]
fn the_probe_refuses_a_server_that_answers_wrongly() {
    let refusals = [
        (Mood::Html, "not JSON"),
        (Mood::Broken, "500 Internal Server Error: CUDA out of memory"),
        (Mood::HalfABody, "closed the connection"),
        (Mood::NotJson, "not JSON"),
        (Mood::Never, "did not answer within"),
        (Mood::Busy, "503 Service Unavailable, 4 times"),
        (Mood::TooFew, ""),
        (Mood::Positive, ""),
        (Mood::Constant, "same log-probability"),
        (Mood::Shifted, "in a longer prompt"),
        (Mood::OtherTokens, "token"),
        (Mood::OffByOne, "off by one"),
        (Mood::Temperature, "temperature"),
        (Mood::Cut, "cuts prompts"),
        (Mood::OtherWeights, "other weights"),
        (Mood::Unsteady, "asked again"),
        (Mood::NoEcho, "echo"),
    ];
    for dialect in ALL {
        for (mood, words) in refusals {
            // A server that tells sums only cannot be caught at what it tells of single tokens, nor
            // of what lies between its responses.
            let of_tokens = [Mood::OtherTokens, Mood::OffByOne, Mood::Temperature, Mood::Cut];
            if dialect == Dialect::Brahman && of_tokens.contains(&mood) {
                continue;
            }
            if mood == Mood::NoEcho && dialect != Dialect::Completions {
                continue;
            }
            let local = Local::start(dialect, mood);
            let error = Server::open(local.settings(dialect))
                .err()
                .unwrap_or_else(|| panic!("{dialect:?} {mood:?} was taken"));
            let why = chain(&error);
            assert!(why.contains(words), "{dialect:?} {mood:?}: {why}");
            assert!(!why.contains(TOKEN), "{why}");
        }
    }
    // Nobody there; the wrong token.
    let local = Local::start(Dialect::Vllm, Mood::Well);
    let nobody = Settings { base: "http://127.0.0.1:9".into(), ..local.settings(Dialect::Vllm) };
    let why = chain(&Server::open(nobody).expect_err("nobody is there"));
    assert!(why.contains("no connection") && why.contains("4 times"), "{why}");
    let why = chain(
        &Server::open(Settings { token: None, ..local.settings(Dialect::Vllm) })
            .expect_err("no token"),
    );
    assert!(why.contains("401") && why.contains("BRAHMAN_SCORE_TOKEN"), "{why}");
}

#[test]
fn a_reference_tells_other_weights_from_the_right_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = Local::start(Dialect::Vllm, Mood::Well);
    for file in ["tokenizer.json", "config.json"] {
        std::fs::copy(local.settings(Dialect::Vllm).tokenizer.join(file), folder.path().join(file))
            .expect("copied");
    }
    let open = || {
        Server::open(Settings {
            tokenizer: folder.path().to_owned(),
            ..local.settings(Dialect::Vllm)
        })
    };
    let text = "The gate is blue, and so is the door.";
    let tokens: Vec<u32> = std::iter::once(0).chain(text.bytes().map(u32::from)).collect();
    let mut logprobs = plain(&tokens)[1..].to_vec();
    let write = |logprobs: &[f32]| {
        std::fs::write(
            folder.path().join("score_reference.json"),
            json!({ "text": text, "logprobs": logprobs }).to_string(),
        )
        .expect("written");
    };
    write(&logprobs);
    open().unwrap_or_else(|error| panic!("{}", chain(&error)));
    logprobs[9] -= 2.0;
    write(&logprobs);
    let why = chain(&open().expect_err("other weights"));
    assert!(why.contains("other weights") && why.contains("token 9"), "{why}");
    write(&logprobs[1..].iter().chain(&[0.0; 9]).copied().collect::<Vec<_>>());
    assert!(chain(&open().expect_err("no reference")).contains("score_reference.json"));
}

#[test]
fn a_request_that_may_have_been_scored_is_not_sent_again() {
    let local = Local::start(Dialect::Vllm, Mood::Well);
    let server = Server::open(local.settings(Dialect::Vllm)).expect("well");
    let score = |mood: Mood| {
        local.feels(mood);
        local.scored.store(0, Ordering::Relaxed);
        let mut outcome = None;
        let one = sequence("user: hello there\nassistant: hello to you");
        server
            .score(&[one], &Stop::default(), &mut |_, scores| outcome = Some(scores))
            .expect("not the call's end");
        (outcome.expect("told"), local.scored.load(Ordering::Relaxed))
    };
    for mood in [Mood::Broken, Mood::HalfABody, Mood::Never, Mood::Html] {
        let (outcome, sent) = score(mood);
        assert!(matches!(outcome, Err(EngineError::Server { .. })), "{mood:?}: {outcome:?}");
        assert_eq!(sent, 1, "{mood:?}");
    }
    assert_eq!(score(Mood::Busy).1, 4, "it scored nothing: it is asked again");
    assert!(score(Mood::Well).0.is_ok(), "and serves again");
}

#[test]
fn a_caller_that_hangs_up_takes_its_requests_along() {
    let local = Local::start(Dialect::Sglang, Mood::Well);
    let server = Server::open(Settings {
        timeout: Duration::from_secs(60),
        ..local.settings(Dialect::Sglang)
    })
    .expect("well");
    local.feels(Mood::Never);
    local.scored.store(0, Ordering::Relaxed);
    let stop = Arc::new(Stop::default());
    let (canceller, scored) = (Arc::clone(&stop), Arc::clone(&local.scored));
    let waiting = std::thread::spawn(move || {
        while scored.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        canceller.cancel();
    });
    let ended = server.score(
        &[sequence("user: hello there\nassistant: hello to you")],
        &stop,
        &mut |_, _| panic!("nothing is done"),
    );
    assert!(matches!(ended, Err(EngineError::Cancelled)));
    waiting.join().expect("joined");
    while !local.hung_up.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
}
