//! Promise 2: an answer is its caller's own, says who gave it, and takes nothing in silence.
//! Against providers that a stranger wrote, through the broker and straight.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use brahman_card::ModuleState;
use brahman_card::interface;
use brahman_sidecar::{CallOptions, Client};
use brahman_tests::{Mesh, PATIENCE, Setup, shipped, stranger};
use serde_json::{Value, json};

/// A connection that speaks raw JSON in NULs.
pub(crate) struct Raw {
    stream: UnixStream,
    rest: Vec<u8>,
}

impl Raw {
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        Self { stream, rest: Vec::new() }
    }

    pub(crate) fn send(&mut self, message: &Value) {
        self.write(&[message.to_string().as_bytes(), b"\0"].concat());
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    /// No more will be sent.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("shut");
    }

    /// The next reply; `None` at the end.
    pub(crate) fn receive(&mut self) -> Option<Value> {
        let mut part = vec![0; 1 << 16];
        loop {
            if let Some(at) = self.rest.iter().position(|b| matches!(b, 0 | b'\n')) {
                let message: Vec<u8> = self.rest.drain(..=at).collect();
                return Some(serde_json::from_slice(&message[..at]).expect("JSON"));
            }
            match self.stream.read(&mut part) {
                Ok(n) if n > 0 => self.rest.extend(&part[..n]),
                _ => return None,
            }
        }
    }

    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.send(&json!({"method": method, "parameters": parameters}));
        self.receive().expect("a reply")
    }
}

async fn mesh_of(card: (String, String)) -> Mesh {
    let label = card.0.clone();
    let mesh = Setup::new(&[shipped("broker"), card]).up().await;
    mesh.when_module(&label, ModuleState::Ready).await;
    mesh
}

#[tokio::test]
async fn an_answer_to_a_call_that_was_not_made_reaches_nobody() {
    // As often and as late as it likes: twice at once, twice a moment later, an answer to a oneway
    // call, a stream for a single call.
    let handle = r#"
def handle(c, m):
    p = m.get("parameters") or {}
    mine = {"parameters": {"for": p.get("who")}}
    how = p.get("how")
    reply(c, mine)
    if how == "twice": reply(c, mine)
    if how == "later": threading.Timer(0.05, reply, (c, mine)).start()
    if how == "half": c.sendall(b'{"parameters": {"for": "')
"#;
    let mesh = mesh_of(stranger("t", "org.example.T", &["Get"], handle, "")).await;
    let client = Client::new(&mesh.socket());
    for how in ["twice", "later", "half", "oneway"] {
        for round in 0..20 {
            let method = if round % 2 == 0 { "org.example.T.Get" } else { "org.example.T.Put" };
            let mut first = Raw::connect(&mesh.socket());
            if how == "oneway" {
                first.send(&json!({"method": method, "oneway": true, "parameters": {"who": "A"}}));
            } else {
                assert_eq!(
                    first.call(method, json!({"who": "A", "how": how}))["parameters"]["for"],
                    "A"
                );
                let _ = client
                    .call::<_, Value>(
                        method,
                        &json!({"who": "A", "how": how}),
                        &CallOptions::default(),
                    )
                    .await;
            }
            let mut others: Vec<Raw> = (0..3).map(|_| Raw::connect(&mesh.socket())).collect();
            for (i, other) in others.iter_mut().enumerate() {
                other.send(&json!({"method": method, "parameters": {"who": i}}));
            }
            for (i, other) in others.iter_mut().enumerate() {
                assert_eq!(
                    other.receive().expect("a reply")["parameters"]["for"],
                    i,
                    "{how}, {method}, round {round}"
                );
            }
            let direct = client
                .call::<_, Value>(method, &json!({"who": "D"}), &CallOptions::default())
                .await
                .expect("answered");
            assert_eq!(direct.value["for"], "D", "{how}, {method}, round {round}");
        }
    }
}

/// Several connections, a provider that misbehaves as it is told, and a model of who must hear
/// what: each its own answer, or a typed error, or nothing for a oneway call; never another's.
#[tokio::test]
async fn whatever_a_provider_does_everybody_hears_his_own() {
    let handle = r#"
def handle(c, m):
    p = m.get("parameters") or {}
    mine, how = {"parameters": {"for": p["who"]}}, p["how"]
    if how == "close": return c.close()
    if how == "garbage": return c.sendall(b"not json\0")
    if how == "error": return reply(c, {"error": "org.example.T.No", "parameters": {"for": p["who"]}})
    if how == "continues": reply(c, dict(mine, continues=True))
    if how == "number": mine["org.brahman.call"] = 1
    if how == "twice key": return c.sendall(b'{"parameters":{"for":"x"},"parameters":{"for":"y"}}\0')
    if how == "slow": time.sleep(0.01)
    reply(c, mine)
    if how == "twice": reply(c, mine)
    if how == "later": threading.Timer(0.005, lambda: reply(c, mine)).start()
    if how == "and hang up": c.close()
"#;
    let restart =
        "supervision.restart = { initial_ms = 5, max_ms = 20, intensity = 1000, period_s = 60 }";
    let mesh = mesh_of(stranger("t", "org.example.T", &["Get"], handle, restart)).await;
    let hows = [
        "well",
        "close",
        "garbage",
        "error",
        "continues",
        "number",
        "twice key",
        "slow",
        "twice",
        "later",
        "and hang up",
    ];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |n: usize| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).expect("fits") % n
    };
    let mut connections: Vec<Raw> = (0..6).map(|_| Raw::connect(&mesh.socket())).collect();
    let (mut heard, mut refused) = (0, 0);
    for step in 0..150 {
        // Some of them ask at once, several calls in a row, some oneway; then each reads what it is
        // owed.
        let mut owed: Vec<Vec<String>> = vec![Vec::new(); connections.len()];
        for _ in 0..=next(5) {
            let (at, how, method) = (next(6), hows[next(hows.len())], ["Get", "Put"][next(2)]);
            let (oneway, who) = (next(6) == 0, format!("{step}-{at}-{}", owed[at].len()));
            connections[at]
                .send(&json!({"method": format!("org.example.T.{method}"), "oneway": oneway, "parameters": {"who": who, "how": how}}));
            if !oneway {
                owed[at].push(who);
            }
        }
        for (connection, owed) in connections.iter_mut().zip(owed) {
            for who in owed {
                let reply = connection.receive().expect("each call is answered");
                match reply["error"].as_str() {
                    None | Some("org.example.T.No") => {
                        assert_eq!(reply["parameters"]["for"], who, "step {step}: {reply}");
                        heard += 1;
                    }
                    Some(name) => {
                        assert!(name.starts_with("org.brahman.Broker."), "step {step}: {reply}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(heard > 50 && refused > 20, "{heard} heard, {refused} refused");
}

#[tokio::test]
async fn nobody_answers_in_anothers_name_and_nothing_is_added_for_whoever_added_nothing() {
    let handle = r#"
def handle(c, m):
    p = m.get("parameters") or {}
    out = {"org.brahman.provider": "embed-real", "com.example.note": 1, "parameters": {"keys": sorted(m)}}
    if p.get("fail"): out = {"error": "org.example.T.Failed", "org.brahman.provider": "embed-real", "parameters": {"n": 1}}
    if m.get("more"):
        reply(c, dict(out, continues=True))
    reply(c, out)
"#;
    let mesh = mesh_of(stranger("t", "org.example.T", &["Get"], handle, "")).await;
    for header in [json!({}), json!({"more": true})] {
        for parameters in [json!({}), json!({"fail": true})] {
            for extra in [json!({}), json!({"org.brahman.trace": "x"})] {
                let mut call = json!({"method": "org.example.T.Get", "parameters": parameters});
                for part in [&header, &extra] {
                    call.as_object_mut()
                        .expect("an object")
                        .extend(part.as_object().expect("an object").clone());
                }
                let mut raw = Raw::connect(&mesh.socket());
                raw.send(&call);
                let reply = raw.receive().expect("a reply");
                let keys: Vec<&str> =
                    reply.as_object().expect("an object").keys().map(String::as_str).collect();
                if extra == json!({}) {
                    assert!(
                        keys.iter().all(|k| ["parameters", "error", "continues"].contains(k)),
                        "{call}: {reply}"
                    );
                } else {
                    assert_eq!(reply["org.brahman.provider"], "t", "{call}: {reply}");
                }
                if parameters == json!({}) {
                    let seen = &reply["parameters"]["keys"];
                    let allowed = ["method", "more", "parameters"];
                    let plain = seen
                        .as_array()
                        .expect("keys")
                        .iter()
                        .all(|k| k.as_str().is_some_and(|k| allowed.contains(&k)));
                    assert!(
                        plain,
                        "a Card that does not want the uid is spared all additions: {seen}"
                    );
                }
            }
        }
    }
    // What we answer ourselves, in every shape.
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    for path in [mesh.socket(), mesh.beside("embed-mock.sock"), mesh.beside("init.sock")] {
        let mut raw = Raw::connect(&path);
        for (method, parameters) in [
            ("org.varlink.service.GetInfo", json!({})),
            ("org.brahman.Embed.Info", json!({})),
            ("org.brahman.Embed.EmbedText", json!({"texts": 7})),
            ("org.brahman.Broker.Status", json!({})),
            ("org.brahman.Init.List", json!({})),
            ("com.example.Nothing.At", json!({})),
        ] {
            let reply = raw.call(method, parameters);
            let strange = reply
                .as_object()
                .expect("an object")
                .keys()
                .find(|k| !["parameters", "error", "continues"].contains(&k.as_str()));
            assert_eq!(strange, None, "{} {method}: {reply}", path.display());
        }
    }
}

#[tokio::test]
async fn a_oneway_call_keeps_nobody_waiting_and_holds_its_place_until_its_work_is_done() {
    let handle = r#"
def handle(c, m):
    p = m.get("parameters") or {}
    if p.get("sleep"): time.sleep(p["sleep"])
    if not m.get("oneway"): reply(c, {"parameters": {"for": p.get("who")}})
"#;
    let mesh = mesh_of(stranger(
        "t",
        "org.example.T",
        &["Get"],
        handle,
        "quotas = { in_flight = 2, queue = 1 }",
    ))
    .await;
    Raw::connect(&mesh.socket())
        .send(&json!({"method": "org.example.T.Get", "oneway": true, "parameters": {"sleep": 5}}));
    let begun = Instant::now();
    let queue = || {
        mesh.brahman_json(&["status"])["modules"]
            .as_array()
            .expect("modules")
            .iter()
            .find(|m| m["label"] == "t")
            .expect("t")["queue"]
            .clone()
    };
    while queue() != 1 {
        assert!(begun.elapsed() < Duration::from_secs(4), "the oneway call is counted");
    }
    let asked = Instant::now();
    assert_eq!(
        Raw::connect(&mesh.socket()).call("org.example.T.Get", json!({"who": "B"}))["parameters"]["for"],
        "B"
    );
    assert!(asked.elapsed() < Duration::from_secs(2), "a stranger waited {:?}", asked.elapsed());
    while queue() != 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "its place comes back");
    }
}

#[tokio::test]
async fn unknown_parameters_are_refused_by_name_in_every_method() {
    let cards = [
        "broker",
        "embed-mock",
        "catalog",
        "ingest",
        "index",
        "profiles",
        "score-mock",
        "rerank-mock",
    ]
    .map(shipped);
    let mesh = Setup::new(&cards).context("test").up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let mut raw = Raw::connect(&mesh.socket());
    let mut methods = 0;
    for interface in interface::ALL {
        for method in interface.methods.iter().map(|method| method.name) {
            for more in [false, true] {
                let name = format!("{}.{method}", interface.name);
                raw.send(
                    &json!({"method": name, "more": more, "parameters": {"no_such_parameter": 1}}),
                );
                let reply = raw.receive().unwrap_or_else(|| panic!("{name}: no reply"));
                let expected_more = reply["error"] == "org.varlink.service.ExpectedMore" && !more;
                let refused = reply["error"] == "org.varlink.service.InvalidParameter"
                    && reply["parameters"]["parameter"] == "no_such_parameter";
                assert!(refused || expected_more, "{name} (more: {more}): {reply}");
                raw.send(&json!({"method": name, "more": more, "parameters": ["x"]}));
                let reply = raw.receive().unwrap_or_else(|| panic!("{name}: no reply"));
                assert_eq!(
                    reply["error"], "org.varlink.service.InvalidParameter",
                    "{name} with a list (more: {more}): {reply}"
                );
            }
            methods += 1;
        }
    }
    assert!(methods > 60, "{methods} methods were tried");
}

#[tokio::test]
async fn a_last_message_needs_no_delimiter_and_a_cut_one_is_answered() {
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let call = json!({"method": "org.brahman.Embed.EmbedText", "parameters": {"texts": ["a b"]}});
    for path in [mesh.socket(), mesh.beside("embed-mock.sock")] {
        for text in [call.to_string(), serde_json::to_string_pretty(&call).expect("JSON")] {
            let mut raw = Raw::connect(&path);
            raw.write(text.as_bytes());
            raw.finish();
            assert_eq!(
                raw.receive().expect("an answer")["parameters"]["dim"],
                32,
                "{}",
                path.display()
            );
            let mut cut = Raw::connect(&path);
            cut.write(&text.as_bytes()[..text.len() - 2]);
            cut.finish();
            assert_eq!(
                cut.receive().expect("a word")["error"],
                "org.varlink.service.InvalidParameter",
                "{}",
                path.display()
            );
            assert!(cut.receive().is_none());
        }
    }
}

#[tokio::test]
async fn a_foreign_error_is_shown_with_what_it_has() {
    let handle = r#"
def handle(c, m):
    reply(c, {"error": "org.example.T.TooDark", "parameters": {"lux": 3}})
"#;
    let mesh = mesh_of(stranger("t", "org.example.T", &[], handle, "")).await;
    let out = mesh.brahman(&["call", "org.example.T.Get", "{}"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("org.example.T.TooDark") && said.contains("\"lux\":3"), "{said}");
}
