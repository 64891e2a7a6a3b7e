//! init: every way a module can misbehave, and init's own end.

use brahman_card::ModuleState;
use brahman_tests::{Setup, binary, gone, runs, script, shipped};
use serde_json::json;

fn with(cards: &[(String, String)]) -> Setup {
    Setup::new(&[&[shipped("broker")], cards].concat())
}

#[tokio::test]
async fn a_second_init_on_the_same_socket_is_refused_and_the_first_unharmed() {
    let mesh = with(&[shipped("embed-mock")]).context("test").up().await;
    let second = std::process::Command::new(binary("brahman-init"))
        .env_clear()
        .args(["--socket", &mesh.socket().display().to_string(), "--state", &mesh.folder.path().join("other").display().to_string()])
        .args(["--cards", &mesh.folder.path().join("cards").display().to_string()])
        .output()
        .expect("it runs");
    assert_eq!(second.status.code(), Some(1));
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(words.contains("another brahman-init runs on"), "{words}");
    assert_eq!(mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["x"]})).await.expect("served")["dim"], 32);
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let setup = with(&[]);
    let run = setup.cache().with_file_name("run");
    std::fs::create_dir_all(&run).expect("made");
    for name in ["brahman.sock", "init.sock"] {
        drop(std::os::unix::net::UnixListener::bind(run.join(name)).expect("bound"));
    }
    let mesh = setup.up().await;
    assert!(mesh.call("org.brahman.Broker.GetContext", json!({})).await.is_ok());
}

#[tokio::test]
async fn modules_that_fail_say_why_and_harm_nobody() {
    let mesh = with(&[
        script("mute", "exec sleep 1000", "readiness.timeout_s = 1\n[supervision.restart]\nintensity = 1\nperiod_s = 60"),
        script("config", "echo no such thing >&2; exit 78", ""),
        script("loop", "echo boom >&2; exit 3", "[supervision.restart]\ninitial_ms = 1\nmax_ms = 5\nintensity = 4"),
        ("absent".into(), "schema_version = 1\nlabel = \"absent\"\n[payload.native]\nexec = \"no-such-program\"\n".into()),
    ])
    .up()
    .await;
    for (label, words) in [
        ("config", "exited with status 78: no such thing"),
        ("loop", "next try in"),
        ("absent", "`no-such-program` was not found"),
        ("mute", "not ready within 1 s"),
    ] {
        let module = mesh
            .when(|modules| modules.iter().any(|m| m.card.label.as_str() == label && m.state == ModuleState::Failed))
            .await
            .into_iter()
            .find(|m| m.card.label.as_str() == label)
            .expect("there");
        let reason = module.reason.unwrap_or_default();
        assert!(reason.contains(words), "{label}: {reason}");
    }
    assert_eq!(mesh.module("config").await.restarts, 0, "78 is never retried");
    assert_eq!(mesh.module("loop").await.restarts, 4);
    assert!(mesh.call("org.brahman.Broker.Status", json!({})).await.is_ok());
}

#[tokio::test]
async fn a_module_that_ignores_sigterm_is_killed_with_its_grandchildren() {
    let mesh = with(&[script(
        "stubborn",
        // One grandchild in the group, and one that left it by setsid; neither may stay.
        "trap '' TERM; sleep 1000 & setsid sleep 1000 & echo leaked $! >&2; systemd-notify --ready 2>/dev/null; while :; do sleep 1; done",
        "",
    )])
    .up()
    .await;
    let modules = mesh.when(|m| m.iter().any(|m| m.card.label.as_str() == "stubborn" && m.pid != 0)).await;
    let pid = modules.iter().find(|m| m.card.label.as_str() == "stubborn").expect("there").pid;
    let leaked: u32 = loop {
        let logs = mesh.brahman(&["logs", "stubborn"]);
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        if let Some(n) = text.split("leaked ").nth(1).and_then(|t| t.split_whitespace().next()?.parse().ok()) {
            break n;
        }
        tokio::task::yield_now().await;
    };
    assert!(runs(leaked));
    let took = mesh.down();
    assert!(took.as_secs() >= 4, "it was given its grace, but only {took:?}");
    assert!(!runs(pid));
    gone(leaked).await;
}

#[tokio::test]
async fn a_flood_of_logs_is_bounded_and_the_mesh_stays_quick() {
    let mesh = with(&[script("flood", "while :; do echo 0123456789012345678901234567890123456789; done", ""), shipped("embed-mock")])
        .context("test")
        .up()
        .await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let started = std::time::Instant::now();
    for _ in 0..200 {
        mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["x"]})).await.expect("served");
    }
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    let logs = mesh.call("org.brahman.Init.Logs", json!({"label": "flood", "lines": 100_000})).await.expect("logs");
    let lines = logs["lines"].as_array().expect("lines").len();
    assert!((1..=1000).contains(&lines), "{lines}");
}

#[tokio::test]
async fn a_foreign_program_is_ready_by_sd_notify() {
    let python = "import os,socket,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.sendto(b'READY=1\\nSTATUS=fine',os.environ['NOTIFY_SOCKET'])\ntime.sleep(1000)";
    let text = format!(
        "schema_version = 1\nlabel = \"foreign\"\n[payload.native]\nexec = \"python3\"\nargv = [\"-c\", {}]\n",
        serde_json::to_string(python).expect("JSON")
    );
    let mesh = with(&[("foreign".into(), text)]).up().await;
    mesh.when_module("foreign", ModuleState::Ready).await;
}

#[tokio::test]
async fn a_reload_touches_only_what_changed_and_a_bad_card_changes_nothing() {
    let mesh = with(&[shipped("embed-mock"), script("extra", "exec sleep 1000", "")]).context("test").up().await;
    let before = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
    mesh.write_card(&("bad".into(), "schema_version = 1\nlabel = \"BAD\"\n".into()));
    let fault = mesh.fault("org.brahman.Init.Reload", json!({})).await;
    assert!(fault.message().contains("bad.toml: label"), "{fault}");
    std::fs::remove_file(mesh.folder.path().join("cards/bad.toml")).expect("removed");
    std::fs::remove_file(mesh.folder.path().join("cards/extra.toml")).expect("removed");
    mesh.write_card(&script("fresh", "exec sleep 1000", ""));
    // SIGHUP does what Reload does.
    mesh.signal(mesh.init_pid(), "HUP");
    mesh.when(|m| m.iter().any(|m| m.card.label.as_str() == "fresh") && !m.iter().any(|m| m.card.label.as_str() == "extra")).await;
    assert_eq!(mesh.module("embed-mock").await.pid, before);
}

#[tokio::test]
async fn requirements_order_the_start_and_a_cycle_is_refused_with_its_path() {
    let mesh = with(&[
        shipped("embed-mock"),
        script("later", "exec sleep 1000", "requires = [\"org.brahman.Embed\"]"),
        script("never", "exec sleep 1000", "requires = [\"nothing\"]"),
        script("a", "exec sleep 1000", "requires = [\"b\"]"),
        script("b", "exec sleep 1000", "requires = [\"a\"]"),
    ])
    .context("test")
    .up()
    .await;
    mesh.when_module("later", ModuleState::Starting).await;
    assert_eq!(mesh.module("embed-mock").await.state, ModuleState::Ready);
    assert_eq!(mesh.module("never").await.reason.as_deref(), Some("waits for `nothing`"));
    assert_eq!(mesh.module("a").await.reason.as_deref(), Some("requires itself: a → b → a"));
}

#[tokio::test]
async fn when_init_is_killed_its_modules_end_and_a_new_init_takes_over() {
    let mesh = with(&[shipped("embed-mock")]).context("test").up().await;
    let mock = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
    let broker = mesh.module("broker").await.pid;
    mesh.signal(mesh.init_pid(), "KILL");
    gone(mock).await;
    gone(broker).await;
    let again = std::process::Command::new(binary("brahman-init"))
        .env_clear()
        .args(["--socket", &mesh.socket().display().to_string(), "--state", &mesh.folder.path().join("state").display().to_string()])
        .args(["--cards", &mesh.folder.path().join("cards").display().to_string(), "--context", "test"])
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut again = again.expect("it starts");
    mesh.when(|m| m.iter().any(|m| m.card.label.as_str() == "embed-mock" && m.state == ModuleState::Ready && m.pid != mock)).await;
    mesh.signal(again.id(), "TERM");
    assert!(again.wait().expect("it ends").success());
}

#[tokio::test]
async fn stop_start_and_restart_do_as_they_say() {
    let mesh = with(&[shipped("embed-mock")]).context("test").up().await;
    let first = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
    assert!(mesh.brahman(&["stop", "embed-mock"]).status.success());
    mesh.when_module("embed-mock", ModuleState::Stopped).await;
    assert_eq!(mesh.fault("org.brahman.Embed.Info", json!({})).await.name, "org.brahman.Broker.NoProvider");
    assert!(mesh.brahman(&["start", "embed-mock"]).status.success());
    let second = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
    assert!(mesh.brahman(&["restart", "embed-mock"]).status.success());
    mesh.when(|m| m.iter().any(|m| m.card.label.as_str() == "embed-mock" && m.state == ModuleState::Ready && m.pid != second)).await;
    assert_ne!(first, second);
}

#[tokio::test]
async fn systemd_is_told_ready_only_once_the_broker_is() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("systemd.sock");
    let ear = tokio::net::UnixDatagram::bind(&path).expect("bound");
    // A broker that cannot start: init itself must not claim that the mesh is up.
    let (name, card) = shipped("broker");
    let slow = card.replace("exec = \"brahman-broker\"", "exec = \"/bin/sh\"\nargv = [\"-c\", \"exec sleep 1000\"]");
    let mesh = Setup::new(&[(name.clone(), slow)]).env("NOTIFY_SOCKET", &path).spawn();
    mesh.when_module("broker", ModuleState::Starting).await;
    mesh.write_card(&(name, card));
    mesh.signal(mesh.init_pid(), "HUP");
    let mut words = String::new();
    let mut bytes = [0; 512];
    while !words.contains("READY=1") {
        let n = tokio::time::timeout(brahman_tests::PATIENCE, ear.recv(&mut bytes)).await.expect("a word").expect("received");
        words.push_str(&String::from_utf8_lossy(&bytes[..n]));
        words.push('\n');
    }
    assert_eq!(mesh.module("broker").await.state, ModuleState::Ready, "{words}");
    assert!(mesh.call("org.brahman.Broker.GetContext", json!({})).await.is_ok());
}
