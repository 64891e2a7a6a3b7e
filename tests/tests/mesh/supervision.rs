//! init: every way a module can misbehave, and init's own end.

mod ends;
mod places;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use brahman_card::ModuleState;
use brahman_card::interface::init::AttachOut;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, ClientError, Connection};
use brahman_tests::{PATIENCE, Setup, binary, runs, script, shipped, stranger};
use serde_json::{Value, json};

fn with(cards: &[(String, String)]) -> Setup {
    Setup::new(&[&[shipped("broker")], cards].concat())
}

/// A folder with `cards/`, and brahman-init on `run/brahman.sock` in it, to be started with
/// whatever a test wants changed.
struct Bare(tempfile::TempDir);

impl Bare {
    fn new(cards: &[(String, String)]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("brahman-test-")
            .tempdir()
            .expect("a temporary directory");
        std::fs::create_dir(folder.path().join("cards")).expect("made");
        for (name, text) in cards {
            std::fs::write(folder.path().join("cards").join(format!("{name}.toml")), text)
                .expect("written");
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Ends with the test, and by itself if it should have refused to start.
    fn init(&self, socket: &Path) -> Command {
        self.init_under(&["timeout", "--foreground", "120"], socket)
    }

    /// Ends with the test.
    fn init_under(&self, wrapper: &[&str], socket: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).args(wrapper).arg(binary("brahman-init"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.0.path());
        command
            .arg("--socket")
            .arg(socket)
            .arg("--state")
            .arg(self.path("state"))
            .arg("--cards")
            .arg(self.path("cards"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// init's own words where it refuses to start for something that a person has to mend.
fn refusal(out: &Output) -> String {
    let words = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(78), "{words}");
    words
}

/// A call on a socket that may not be answered yet.
async fn answer(socket: &Path, method: &str) -> Value {
    let asking = async {
        loop {
            if let Ok(mut connection) = Connection::connect(socket).await
                && let Ok(answer) = connection.call::<_, Value>(method, &json!({})).await
            {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| panic!("{method} is not answered"))
}

#[tokio::test]
async fn a_wrapper_s_child_may_say_that_the_module_is_ready() {
    let python = "import os,socket,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.sendto(b\"READY=1\",os.environ[\"NOTIFY_SOCKET\"])\ntime.sleep(1000)";
    let mesh = with(&[
        script("wrapped", &format!("python3 -c '{python}'; true"), ""),
        script(
            "twice",
            &format!("sh -c \"sh -c 'exec python3 -' ; true\" <<'E'\n{python}\nE\ntrue"),
            "",
        ),
    ])
    .up()
    .await;
    mesh.when_module("wrapped", ModuleState::Ready).await;
    mesh.when_module("twice", ModuleState::Ready).await;
}

#[tokio::test]
async fn a_stopped_module_is_killed_and_replaced() {
    let (name, text) = shipped("embed-mock");
    let quick = text.replace("watchdog_s = 20", "watchdog_s = 1");
    assert_ne!(quick, text);
    let mesh = with(&[(name, quick)]).context("test").up().await;
    let pid = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
    mesh.signal(pid, "STOP");
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == "embed-mock" && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
    assert!(!runs(pid));
}

#[test]
fn every_shipped_card_has_a_watchdog() {
    for entry in std::fs::read_dir(brahman_tests::repository().join("packaging/cards"))
        .expect("the Cards")
        .flatten()
    {
        let text = std::fs::read(entry.path()).expect("read");
        let card = brahman_card::Card::parse(&entry.path().display().to_string(), &text)
            .expect("a good Card");
        assert!(card.watchdog_s > 0, "{}", card.label);
    }
}

#[tokio::test]
async fn what_attaches_by_itself_is_drained_not_restarted_and_takes_nobody_s_name() {
    let mesh = with(&[shipped("embed-mock")]).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let attach = async |label: &str, socket: &str| {
        let offer =
            json!([{"name": "embed", "type": {"interface": {"name": "org.brahman.Embed"}}}]);
        let card = json!({"schema_version": 1, "label": label, "service_socket": socket, "payload": "virtual", "flow": {"output": offer}});
        let ask = json!({"card": card});
        let message =
            encode_call("org.brahman.Init.Attach", &ask, &CallOptions::default(), true, false)
                .expect("a call");
        let mut session = Connection::connect(&mesh.beside("init.sock")).await.expect("connected");
        session.send(&message).await.expect("sent");
        let first: Result<AttachOut, ClientError> =
            async { Ok(session.receive().await?.typed()?.value) }.await;
        first.map(|word| (session, word))
    };
    for (label, socket, words) in [
        ("embed-mock", "false.sock", "belongs to a Card"),
        ("mine", "embed-mock.sock", "the socket of `embed-mock`"),
        ("init", "mine.sock", "the mesh's own"),
    ] {
        let why = attach(label, socket).await.map(|(_, word)| word).expect_err(label).to_string();
        assert!(why.contains(words), "{label}: {why}");
    }
    let (mut session, _) = attach("mine", "mine.sock").await.expect("attached");
    for method in ["Restart", "Start"] {
        let fault =
            mesh.fault(&format!("org.brahman.Init.{method}"), json!({"label": "mine"})).await;
        assert_eq!(fault.name, "org.brahman.Init.NotSupervised");
        assert!(fault.message().contains("attached by itself"), "{fault}");
    }
    mesh.call("org.brahman.Init.Stop", json!({"label": "mine"})).await.expect("asked");
    let told =
        tokio::time::timeout(PATIENCE, session.receive()).await.expect("a word").expect("received");
    assert!(told.typed::<AttachOut>().expect("typed").value.drain);
    drop(session);
    mesh.when(|m| !m.iter().any(|m| m.card.label.as_str() == "mine")).await;
}

#[tokio::test]
async fn a_member_of_the_group_uses_what_cards_allow_and_administers_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "this test changes its uid and so needs root; the rule it tests is the same for any user"
        );
        return;
    }
    let setup = with(&[shipped("embed-mock"), shipped("catalog")])
        .context("test")
        .env("BRAHMAN_GROUP", "61234");
    let mesh = setup.up().await;
    for label in ["embed-mock", "catalog"] {
        mesh.when_module(label, ModuleState::Ready).await;
    }
    std::fs::set_permissions(mesh.folder.path(), std::fs::Permissions::from_mode(0o755))
        .expect("opened");
    let ask = |gid: u32, socket: &str, call: &str| {
        let python = format!(
            "import os,socket,sys\nos.setgroups([])\nos.setgid({gid})\nos.setuid(61235)\ns=socket.socket(socket.AF_UNIX)\ntry: s.connect({:?})\nexcept PermissionError: print('denied'); sys.exit()\ns.sendall({call:?}.encode()+b'\\0')\nprint(s.recv(65536).decode())",
            mesh.beside(socket).display().to_string()
        );
        let out = Command::new("python3").args(["-c", &python]).output().expect("python3 runs");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    let embed = r#"{"method":"org.brahman.Embed.EmbedText","parameters":{"texts":["x"]}}"#;
    assert!(ask(61234, "embed-mock.sock", embed).contains("vectors"), "its Card says `group`");
    for socket in ["brahman.sock", "embed-mock.sock", "init.sock"] {
        assert_eq!(ask(61233, socket, embed), "denied", "{socket}: not a member");
    }
    for socket in ["catalog.sock", "notify.sock"] {
        assert_eq!(ask(61234, socket, embed), "denied", "{socket}: for the owner alone");
    }
    assert!(
        ask(61234, "init.sock", r#"{"method":"org.brahman.Init.List"}"#).contains("embed-mock")
    );
    for (method, parameters) in [
        ("Shutdown", "{}"),
        ("Reload", "{}"),
        ("Stop", r#"{"label":"catalog"}"#),
        ("Logs", r#"{"label":"catalog"}"#),
    ] {
        let words = ask(
            61234,
            "init.sock",
            &format!(r#"{{"method":"org.brahman.Init.{method}","parameters":{parameters}}}"#),
        );
        assert!(words.contains("PermissionDenied") && words.contains("61235"), "{method}: {words}");
    }
    let attach = r#"{"method":"org.brahman.Init.Attach","more":true,"parameters":{"card":{"schema_version":1,"label":"false","payload":"virtual"}}}"#;
    assert!(ask(61234, "init.sock", attach).contains("PermissionDenied"));
    assert_eq!(mesh.module("catalog").await.state, ModuleState::Ready);
}

#[tokio::test]
async fn a_second_init_on_the_same_socket_is_refused_and_the_first_unharmed() {
    let mesh = with(&[shipped("embed-mock")]).context("test").up().await;
    let second = std::process::Command::new(binary("brahman-init"))
        .env_clear()
        .args([
            "--socket",
            &mesh.socket().display().to_string(),
            "--state",
            &mesh.folder.path().join("other").display().to_string(),
        ])
        .args(["--cards", &mesh.folder.path().join("cards").display().to_string()])
        .output()
        .expect("it runs");
    assert_eq!(second.status.code(), Some(1));
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(words.contains("another brahman-init runs on"), "{words}");
    assert_eq!(
        mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["x"]})).await.expect("served")["dim"],
        32
    );
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
        ("loop", "next attempt in"),
        ("absent", "`no-such-program` was not found"),
        ("mute", "not ready within 1 s"),
    ] {
        let module = mesh
            .when(|modules| {
                modules
                    .iter()
                    .any(|m| m.card.label.as_str() == label && m.state == ModuleState::Failed)
            })
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
async fn a_flood_of_logs_is_bounded_and_the_mesh_stays_quick() {
    let mesh = with(&[
        script("flood", "while :; do echo 0123456789012345678901234567890123456789; done", ""),
        shipped("embed-mock"),
    ])
    .context("test")
    .up()
    .await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let started = std::time::Instant::now();
    for _ in 0..200 {
        mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["x"]})).await.expect("served");
    }
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    let logs = mesh
        .call("org.brahman.Init.Logs", json!({"label": "flood", "lines": 100_000}))
        .await
        .expect("logs");
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
    let mesh = with(&[shipped("embed-mock"), script("extra", "exec sleep 1000", "")])
        .context("test")
        .up()
        .await;
    let before = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
    mesh.write_card(&("bad".into(), "schema_version = 1\nlabel = \"BAD\"\n".into()));
    let fault = mesh.fault("org.brahman.Init.Reload", json!({})).await;
    assert!(fault.message().contains("bad.toml: label"), "{fault}");
    std::fs::remove_file(mesh.folder.path().join("cards/bad.toml")).expect("removed");
    std::fs::remove_file(mesh.folder.path().join("cards/extra.toml")).expect("removed");
    mesh.write_card(&script("fresh", "exec sleep 1000", ""));
    // SIGHUP does what Reload does.
    mesh.signal(mesh.init_pid(), "HUP");
    mesh.when(|m| {
        m.iter().any(|m| m.card.label.as_str() == "fresh")
            && !m.iter().any(|m| m.card.label.as_str() == "extra")
    })
    .await;
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
async fn stop_start_and_restart_do_as_they_say() {
    let mesh = with(&[shipped("embed-mock")]).context("test").up().await;
    let first = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
    let stopped = mesh.brahman(&["stop", "embed-mock"]);
    assert!(
        stopped.status.success()
            && String::from_utf8_lossy(&stopped.stdout).contains("embed-mock is stopped"),
        "{stopped:?}"
    );
    // When the command is over, so is what it does.
    assert_eq!(mesh.module("embed-mock").await.state, ModuleState::Stopped);
    mesh.when_module("embed-mock", ModuleState::Stopped).await;
    assert_eq!(
        mesh.fault("org.brahman.Embed.Info", json!({})).await.name,
        "org.brahman.Broker.NoProvider"
    );
    let started = mesh.brahman_json(&["start", "embed-mock"]);
    let second = mesh.module("embed-mock").await;
    assert_eq!(second.state, ModuleState::Ready);
    assert_eq!(
        (&started["state"], &started["modules"][0]["pid"]),
        (&json!("ready"), &json!(second.pid)),
        "{started}"
    );
    assert!(mesh.brahman(&["restart", "embed-mock"]).status.success());
    let third = mesh.module("embed-mock").await;
    assert!(third.state == ModuleState::Ready && third.pid != second.pid && second.pid != first);
}

#[tokio::test]
async fn a_start_that_fails_says_so_and_one_that_waits_for_nobody_is_not_waited_for() {
    let mesh = with(&[
        script("bad", "echo no model here >&2; exit 78", ""),
        script("needy", "exec sleep 1000", "requires = [\"bad\"]"),
    ]);
    let mesh = mesh.up().await;
    mesh.when_module("bad", ModuleState::Failed).await;
    for (label, words) in [("bad", "bad is failed"), ("needy", "waits for `bad`")] {
        let out = mesh.brahman(&["start", label]);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        assert!(String::from_utf8_lossy(&out.stdout).contains(words), "{out:?}");
    }
}

#[tokio::test]
async fn a_call_waits_for_a_module_that_drains_and_is_to_start_again() {
    // It takes its time to end.
    let handle = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), os._exit(0)))\n\
                  def handle(c, m): reply(c, {'parameters': {'pid': os.getpid()}})";
    let mesh = with(&[stranger("slow", "org.example.Slow", &[], handle, "")]).up().await;
    mesh.when_served_by("org.example.Slow", "slow").await;
    let first = mesh.call("org.example.Slow.Ask", json!({})).await.expect("answered");
    for commands in [&["stop", "start"][..], &["restart"]] {
        for command in commands {
            assert!(mesh.brahman(&[*command, "slow", "--no-wait"]).status.success());
        }
        let then =
            mesh.call("org.example.Slow.Ask", json!({})).await.expect("it waits for the next life");
        assert_ne!(then["pid"], first["pid"]);
    }
}

#[tokio::test]
async fn systemd_is_told_ready_only_once_the_broker_is() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("systemd.sock");
    let ear = tokio::net::UnixDatagram::bind(&path).expect("bound");
    // A broker that cannot start: init itself must not claim that the mesh is up.
    let (name, card) = shipped("broker");
    let slow = card.replace(
        "exec = \"brahman-broker\"",
        "exec = \"/bin/sh\"\nargv = [\"-c\", \"exec sleep 1000\"]",
    );
    let mesh = Setup::new(&[(name.clone(), slow)]).env("NOTIFY_SOCKET", &path).spawn();
    mesh.when_module("broker", ModuleState::Starting).await;
    mesh.write_card(&(name, card));
    mesh.signal(mesh.init_pid(), "HUP");
    let mut words = String::new();
    let mut bytes = [0; 512];
    while !words.contains("READY=1") {
        let n = tokio::time::timeout(brahman_tests::PATIENCE, ear.recv(&mut bytes))
            .await
            .expect("a word")
            .expect("received");
        words.push_str(&String::from_utf8_lossy(&bytes[..n]));
        words.push('\n');
    }
    assert_eq!(mesh.module("broker").await.state, ModuleState::Ready, "{words}");
    assert!(mesh.call("org.brahman.Broker.GetContext", json!({})).await.is_ok());
}
