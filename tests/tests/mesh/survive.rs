//! Promise 1: nothing fails because a process died.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use brahman_card::ModuleState;
use brahman_sidecar::{CallOptions, Client, Connection};
use brahman_tests::{Mesh, Setup, repository, shipped, stranger};
use serde_json::{Value, json};

async fn mesh() -> Mesh {
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    mesh
}

/// Clients that call without pause until told to stop, and what they saw.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Load {
    /// `clients` tasks; each holds one connection to the broker, or a resolving client of its own.
    fn start(mesh: &Mesh, clients: usize, resolving: bool) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..clients).map(|i| {
            let (stop, answered, socket) =
                (Arc::clone(&stop), Arc::clone(&answered), mesh.socket());
            tokio::spawn(async move {
                let client = Client::new(&socket);
                let mut connection =
                    Connection::connect(&socket).await.map_err(|e| e.to_string())?;
                let parameters = json!({"texts": [format!("client {i}")]});
                while !stop.load(Ordering::Relaxed) {
                    let outcome: Result<Value, _> = if resolving {
                        client
                            .call(
                                "org.brahman.Embed.EmbedText",
                                &parameters,
                                &CallOptions::default(),
                            )
                            .await
                            .map(|a| a.value)
                    } else {
                        connection.call("org.brahman.Embed.EmbedText", &parameters).await
                    };
                    let value = outcome.map_err(|e| format!("client {i}: {e}"))?;
                    if value["dim"] != 32 {
                        return Err(format!("client {i}: {value}"));
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let clients = tasks.collect();
        Self { stop, answered, clients }
    }

    /// Waits until that many more calls were answered.
    async fn progress(&self, more: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        let waiting = async {
            while self.answered.load(Ordering::Relaxed) < goal {
                if let Some(ended) = self.clients.iter().find(|c| c.is_finished()) {
                    panic!("a client ended early: {ended:?}");
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(brahman_tests::PATIENCE, waiting).await.expect("calls are answered");
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("a client").expect("no call failed");
        }
    }
}

#[tokio::test]
async fn killing_the_provider_under_load_fails_no_call() {
    let mesh = mesh().await;
    for resolving in [false, true] {
        let load = Load::start(&mesh, 50, resolving);
        for _ in 0..5 {
            load.progress(500).await;
            let pid = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
            mesh.signal(pid, "KILL");
            mesh.when(|m| {
                m.iter().any(|m| {
                    m.card.label.as_str() == "embed-mock"
                        && m.state == ModuleState::Ready
                        && m.pid != pid
                })
            })
            .await;
        }
        load.progress(500).await;
        load.finish().await;
    }
}

#[tokio::test]
async fn killing_the_broker_under_load_loses_nothing_and_restarts_no_module() {
    let (name, text) = shipped("embed-mock");
    let named = format!("{text}\n[priority_contexts.by-hand]\npriority_offset = 1\n");
    let mesh = Setup::new(&[shipped("broker"), (name, named)]).context("test").up().await;
    let mock = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
    mesh.call("org.brahman.Broker.SetContext", json!({"context": "by-hand"})).await.expect("set");
    let load = Load::start(&mesh, 50, true);
    for _ in 0..3 {
        load.progress(500).await;
        let pid = mesh.when_module("broker", ModuleState::Ready).await.pid;
        mesh.signal(pid, "KILL");
        mesh.when(|m| {
            m.iter().any(|m| {
                m.card.label.as_str() == "broker" && m.state == ModuleState::Ready && m.pid != pid
            })
        })
        .await;
    }
    load.progress(500).await;
    load.finish().await;
    assert_eq!(mesh.module("embed-mock").await.pid, mock);
    let context = mesh.call("org.brahman.Broker.GetContext", json!({})).await.expect("asked");
    assert_eq!(context["context"], "by-hand", "a context set by hand outlives the broker");
}

#[tokio::test]
async fn while_a_real_provider_restarts_its_mock_answers_nothing() {
    let cards = ["broker", "catalog", "embed-mock", "index", "index-mock", "ingest"].map(shipped);
    let mesh = Setup::new(&cards).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let file = mesh.folder.path().join("a.md");
    std::fs::write(&file, "one").expect("written");
    mesh.brahman_json(&["ingest", "files", "d", &file.display().to_string()]);
    mesh.brahman_json(&["index", "create", "d", "--dataset", "d"]);
    mesh.brahman_json(&["index", "refresh", "d"]);
    let stop = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let (stop, socket) = (Arc::clone(&stop), mesh.socket());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let mut connection = Connection::connect(&socket).await.expect("connected");
                    let answer = connection
                        .call::<_, Value>(
                            "org.brahman.Index.Search",
                            &json!({"index": "d", "text": "one"}),
                        )
                        .await;
                    assert_eq!(answer.expect("answered")["results"][0][0]["doc_id"], "a.md");
                }
            })
        })
        .collect();
    for turn in 0..10 {
        let pid = mesh.module("index").await.pid;
        if turn % 2 == 0 {
            mesh.signal(pid, "KILL");
        } else {
            assert!(mesh.brahman(&["restart", "index"]).status.success());
        }
        mesh.when(|m| {
            m.iter().any(|m| {
                m.card.label.as_str() == "index" && m.state == ModuleState::Ready && m.pid != pid
            })
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in asking {
        client.await.expect("no answer was the mock's");
    }
}

#[tokio::test]
async fn a_call_waits_for_a_provider_that_is_loading() {
    let mesh = mesh().await;
    let pid = mesh.module("embed-mock").await.pid;
    mesh.signal(pid, "STOP");
    // Stopped, so that nothing can answer; the call is under way when its provider dies.
    let socket = mesh.socket();
    let call = tokio::spawn(async move {
        let mut connection = Connection::connect(&socket).await.expect("connected");
        connection.call::<_, Value>("org.brahman.Embed.EmbedText", &json!({"texts": ["x"]})).await
    });
    let queued = async {
        while mesh
            .call("org.brahman.Broker.Status", json!({}))
            .await
            .is_ok_and(|s| s["modules"][1]["queue"] == 0)
        {}
    };
    tokio::time::timeout(brahman_tests::PATIENCE, queued).await.expect("the call is under way");
    mesh.signal(pid, "KILL");
    assert_eq!(call.await.expect("a task").expect("answered by the next life")["dim"], 32);
}

#[tokio::test]
async fn a_deadline_is_kept_by_the_broker_when_the_provider_stalls() {
    let mesh = mesh().await;
    let pid = mesh.module("embed-mock").await.pid;
    mesh.signal(pid, "STOP");
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connected");
    let options = CallOptions {
        deadline: Some(std::time::Duration::from_millis(200)),
        ..CallOptions::default()
    };
    let message = brahman_sidecar::client::encode_call(
        "org.brahman.Embed.Info",
        &json!({}),
        &options,
        false,
        false,
    )
    .expect("a call");
    let started = std::time::Instant::now();
    let error = connection.exchange(&message).await.expect_err("too late");
    assert!(error.to_string().contains("DeadlineExceeded"), "{error}");
    assert!(started.elapsed().as_millis() < 2000);
    mesh.signal(pid, "CONT");
}

#[tokio::test]
async fn replicas_share_the_work_and_stand_in_for_one_another() {
    let (_, text) = shipped("embed-mock");
    let twin = text.replace(
        "label = \"embed-mock\"",
        "label = \"embed-mock\"\nservice_socket = \"embed-mock-2.sock\"",
    );
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock"), ("twin".into(), twin)])
        .context("test")
        .up()
        .await;
    let ready = |m: &[brahman_card::ModuleRecord]| {
        m.iter().filter(|m| m.card.mock && m.state == ModuleState::Ready).count() == 2
    };
    mesh.when(ready).await;
    let load = Load::start(&mesh, 20, false);
    load.progress(2000).await;
    // One that hesitates once is left aside for a moment.
    let shared = async {
        loop {
            let status = mesh.call("org.brahman.Broker.Status", json!({})).await.expect("status");
            let mocks =
                status["modules"].as_array().expect("modules").iter().filter(|m| m["mock"] == true);
            let calls: Vec<u64> = mocks.filter_map(|m| m["calls"].as_u64()).collect();
            if calls.len() == 2 && calls.iter().all(|n| *n > 1000) {
                return;
            }
        }
    };
    tokio::time::timeout(brahman_tests::PATIENCE, shared).await.expect("both work");
    // Stopped for good, not killed: the other has to carry on alone.
    let victim = mesh.module("embed-mock").await.pid;
    mesh.signal(victim, "KILL");
    load.progress(2000).await;
    load.finish().await;
}

/// The first connection that reaches it is never answered, as one that lies in a socket's backlog
/// may be for as long as it likes.
#[tokio::test]
async fn a_provider_that_takes_a_call_and_is_silent_does_not_eat_the_whole_deadline() {
    let handle = r#"
asked = []
def handle(c, m):
    asked.append(1)
    if len(asked) > 1: reply(c, {"parameters": {"n": len(asked)}})
"#;
    let mesh =
        Setup::new(&[shipped("broker"), stranger("t", "org.example.T", &["Get"], handle, "")])
            .up()
            .await;
    mesh.when_module("t", ModuleState::Ready).await;
    let client = Client::new(&mesh.socket());
    let begun = std::time::Instant::now();
    let answer = client
        .call::<_, Value>("org.example.T.Get", &json!({}), &CallOptions::default())
        .await
        .expect("answered");
    assert_eq!(answer.value["n"], 2, "by the second connection, through the broker");
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_watcher_always_gets_the_latest_word() {
    use brahman_card::interface::broker::WatchOut;

    let real = "schema_version = 1\nlabel = \"other\"\npayload = \"virtual\"\n";
    let mesh =
        Setup::new(&[shipped("broker"), shipped("embed-mock"), ("other".into(), real.into())])
            .context("test")
            .up()
            .await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let mut watcher = Connection::connect(&mesh.socket()).await.expect("connected");
    let watch = json!({"flow": "org.brahman.Embed"});
    let message = brahman_sidecar::client::encode_call(
        "org.brahman.Broker.Watch",
        &watch,
        &CallOptions::default(),
        true,
        false,
    )
    .expect("a call");
    watcher.send(&message).await.expect("sent");
    let first: WatchOut = watcher.receive().await.expect("a word").typed().expect("typed").value;
    assert_eq!(first.matched.expect("a match").label, "embed-mock");
    // Nobody reads meanwhile; in `prod` the mock is excluded.
    for i in 0..200 {
        let context = if i % 2 == 0 { "prod" } else { "test" };
        mesh.call("org.brahman.Broker.SetContext", json!({"context": context})).await.expect("set");
    }
    mesh.call("org.brahman.Broker.SetContext", json!({"context": "prod"})).await.expect("set");
    let mut generation = first.generation;
    let last = async {
        loop {
            let word: WatchOut =
                watcher.receive().await.expect("a word").typed().expect("typed").value;
            assert!(word.generation > generation, "generations grow");
            generation = word.generation;
            let now =
                mesh.call("org.brahman.Broker.Explain", watch.clone()).await.expect("explained");
            if word.matched.is_none() && now["context"] == "prod" {
                return;
            }
        }
    };
    tokio::time::timeout(brahman_tests::PATIENCE, last).await.expect("the last word came");
}

#[tokio::test]
async fn a_call_that_kills_its_providers_is_given_up_and_named() {
    let script = std::fs::read_to_string(repository().join("examples/python-module/wordcount.py"))
        .expect("the example");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("poisoned.py");
    std::fs::write(
        &path,
        script.replace(
            "        return {\"parameters\": {\"words\"",
            "        if \"poison\" in p[\"text\"]: os._exit(9)\n        return {\"parameters\": {\"words\"",
        ),
    )
    .expect("written");
    let card = std::fs::read_to_string(repository().join("examples/python-module/wordcount.toml"))
        .expect("the example");
    let card = card.replace(
        "/usr/local/share/brahman/examples/python-module/wordcount.py",
        &path.display().to_string(),
    );
    let mesh = Setup::new(&[shipped("broker"), ("wordcount".into(), card)]).up().await;
    mesh.when_module("wordcount", ModuleState::Ready).await;
    let fault = mesh.fault("org.example.WordCount.Count", json!({"text": "poison"})).await;
    assert_eq!(fault.name, "org.brahman.Broker.ProviderFailed");
    assert!(fault.message().contains("not tried again"), "{fault}");
    assert_eq!(
        mesh.call("org.example.WordCount.Count", json!({"text": "one two"}))
            .await
            .expect("it comes back")["words"],
        2
    );
}

#[tokio::test]
async fn init_goes_on_when_its_logs_reader_has_gone_or_its_disk_is_full() {
    for full in [false, true] {
        let setup = Setup::new(&[shipped("broker"), shipped("embed-mock")]);
        let run = setup.cache().with_file_name("run");
        let socket = run.join("brahman.sock");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let stderr: std::process::Stdio = if full {
            std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full").into()
        } else {
            writer.into()
        };
        let mut init = std::process::Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .arg(brahman_tests::binary("brahman-init"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("BRAHMAN_CACHE", setup.cache())
            .arg("--socket")
            .arg(&socket)
            .arg("--state")
            .arg(setup.cache().with_file_name("state"))
            .arg("--cards")
            .arg(setup.cache().with_file_name("cards"))
            .args(["--context", "test"])
            .stderr(stderr)
            .spawn()
            .expect("it starts");
        let answered = async || loop {
            if let Ok(mut connection) = Connection::connect(&socket).await
                && let Ok(answer) = connection
                    .call::<_, Value>("org.brahman.Embed.EmbedText", &json!({"texts": ["x"]}))
                    .await
            {
                return answer;
            }
            tokio::task::yield_now().await;
        };
        let first = tokio::time::timeout(brahman_tests::PATIENCE, answered())
            .await
            .expect("the mesh answers");
        assert_eq!(first["dim"], 32);
        drop(reader);
        let ask = async |method: &str, parameters: Value| {
            let mut connection =
                Connection::connect(&run.join("init.sock")).await.expect("init answers");
            connection.call::<_, Value>(method, &parameters).await.expect("done")
        };
        // A death is a line of the log; init is to outlive it, and to count it.
        ask("org.brahman.Init.Restart", json!({"label": "embed-mock"})).await;
        let counted = async {
            while ask("org.brahman.Init.List", json!({})).await["log_lines_lost"]
                .as_u64()
                .is_none_or(|n| n == 0)
            {}
        };
        tokio::time::timeout(brahman_tests::PATIENCE, counted)
            .await
            .expect("lost lines are counted");
        let again = tokio::time::timeout(brahman_tests::PATIENCE, answered())
            .await
            .expect("the mesh goes on");
        assert_eq!(again["dim"], 32);
        ask("org.brahman.Init.Shutdown", json!({})).await;
        assert!(init.wait().expect("it ends").success());
    }
}
