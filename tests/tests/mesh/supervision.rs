//! init: every way a module can misbehave, and init's own end.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use brahman_card::ModuleState;
use brahman_card::interface::Empty;
use brahman_card::interface::init::{AttachOut, WatchOut};
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, ClientError, Connection};
use brahman_tests::{PATIENCE, Setup, binary, gone, runs, script, shipped};
use serde_json::{Value, json};

fn with(cards: &[(String, String)]) -> Setup {
    Setup::new(&[&[shipped("broker")], cards].concat())
}

/// A folder with `cards/`, and brahman-init on `run/brahman.sock` in it, to be started with whatever a test wants changed.
struct Bare(tempfile::TempDir);

impl Bare {
    fn new(cards: &[(String, String)]) -> Self {
        let folder = tempfile::Builder::new().prefix("brahman-test-").tempdir().expect("a temporary directory");
        std::fs::create_dir(folder.path().join("cards")).expect("made");
        for (name, text) in cards {
            std::fs::write(folder.path().join("cards").join(format!("{name}.toml")), text).expect("written");
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
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.0.path());
        command.arg("--socket").arg(socket).arg("--state").arg(self.path("state")).arg("--cards").arg(self.path("cards"));
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
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{method} is not answered"))
}

#[tokio::test]
async fn what_lies_at_the_mesh_s_own_paths_is_refused_by_name_and_left() {
    for name in ["brahman.sock", "init.sock", "notify.sock", "init.lock", "context"] {
        for link in [false, true] {
            let bare = Bare::new(&[shipped("broker")]);
            let run = bare.path("run");
            std::fs::create_dir(&run).expect("made");
            std::fs::write(bare.path("thesis"), "work").expect("written");
            let path = run.join(name);
            if link {
                std::os::unix::fs::symlink(bare.path("thesis"), &path).expect("linked");
            } else {
                std::fs::write(&path, "work").expect("written");
            }
            let words = refusal(&bare.init(&run.join("brahman.sock")).output().expect("it runs"));
            assert!(words.contains(&path.display().to_string()) && words.contains("move it away"), "{name}: {words}");
            assert_eq!(std::fs::read_to_string(&path).expect("still there"), "work", "{name}");
            assert_eq!(std::fs::symlink_metadata(&path).expect("there").is_symlink(), link);
        }
    }
}

#[tokio::test]
async fn what_lies_at_a_module_s_socket_fails_that_module_and_is_left() {
    let setup = with(&[shipped("embed-mock"), script("other", "exec sleep 1000", "")]);
    let run = setup.cache().with_file_name("run");
    std::fs::create_dir(&run).expect("made");
    std::fs::write(run.join("other.sock"), "work").expect("written");
    let mesh = setup.context("test").up().await;
    let reason = mesh.when_module("other", ModuleState::Failed).await.reason.unwrap_or_default();
    assert!(reason.contains("other.sock is a regular file"), "{reason}");
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    assert_eq!(std::fs::read_to_string(run.join("other.sock")).expect("still there"), "work");
    // Once a person has moved it away, a start is enough.
    std::fs::rename(run.join("other.sock"), mesh.folder.path().join("work")).expect("moved");
    assert!(mesh.brahman(&["start", "other"]).status.success());
    mesh.when_module("other", ModuleState::Starting).await;
    mesh.down();
}

#[tokio::test]
async fn a_socket_that_systemd_holds_is_answered_again_after_every_end_of_init() {
    let bare = Bare::new(&[shipped("broker"), shipped("embed-mock")]);
    std::fs::create_dir(bare.path("run")).expect("made");
    let socket = bare.path("run/brahman.sock");
    let held = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    let file = || {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::symlink_metadata(&socket).map(|found| found.ino()).expect("the socket's file is there")
    };
    let first = file();
    // As systemd does it: the socket is descriptor 3, whatever came as 0, and the process is told that it is meant.
    let start = || -> Child {
        let passing = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
        Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "sh", "-c", passing, "sh"])
            .arg(binary("brahman-init"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", bare.0.path())
            .arg("--socket")
            .arg(&socket)
            .arg("--state")
            .arg(bare.path("state"))
            .arg("--cards")
            .arg(bare.path("cards"))
            .args(["--context", "test"])
            .stdin(OwnedFd::from(held.try_clone().expect("a copy")))
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts")
    };
    let kill =
        |signal: &str, pid: u32| assert!(Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill runs").success());
    for end in ["-TERM", "-TERM", "-KILL", "-INT"] {
        let mut init = start();
        assert_eq!(answer(&socket, "org.brahman.Broker.GetContext").await["context"], "test");
        // A changed Card replaces the broker, not its socket.
        let (_, text) = shipped("broker");
        std::fs::write(bare.path("cards/broker.toml"), format!("{text}\n# {end}\n[attributes]\nend = \"{end}\"\n")).expect("written");
        kill("-HUP", init.id());
        assert_eq!(answer(&socket, "org.brahman.Broker.GetContext").await["context"], "test");
        kill(end, init.id());
        init.wait().expect("it ends");
        assert_eq!(file(), first, "{end}");
        assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok(), "{end}: whoever connects waits for the next init");
    }
    // Where the file is gone nobody would reach the mesh: that is said, and nothing is started.
    std::fs::remove_file(&socket).expect("removed");
    let status = start().wait().expect("it ends");
    assert_eq!(status.code(), Some(78));
}

#[tokio::test]
async fn a_context_that_no_card_names_starts_nothing() {
    let bare = Bare::new(&[shipped("broker"), shipped("embed-mock")]);
    let words = refusal(&bare.init(&bare.path("run/brahman.sock")).args(["--context", "production"]).output().expect("it runs"));
    assert!(words.contains("`production`") && words.contains("did you mean `prod`?"), "{words}");
    assert!(!bare.path("run").exists() && !bare.path("state").exists(), "nothing was made");
    let words = refusal(&bare.init(&bare.path("run/brahman.sock")).env("BRAHMAN_BROKER_CONTEXT", "tset").output().expect("it runs"));
    assert!(words.contains("did you mean `test`?"), "{words}");
}

#[tokio::test]
async fn a_reload_that_takes_the_present_context_away_changes_nothing() {
    let mesh = with(&[shipped("embed-mock")]).context("test").up().await;
    let pid = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
    std::fs::remove_file(mesh.folder.path().join("cards/embed-mock.toml")).expect("removed");
    let fault = mesh.fault("org.brahman.Init.Reload", json!({})).await;
    assert!(fault.message().contains("`test`") && fault.message().contains("nothing was changed"), "{fault}");
    assert_eq!(mesh.module("embed-mock").await.pid, pid);
    // As it is now, not as it was at the start.
    mesh.call("org.brahman.Broker.SetContext", json!({"context": null})).await.expect("cleared");
    mesh.call("org.brahman.Init.Reload", json!({})).await.expect("reloaded");
    mesh.when(|m| !m.iter().any(|m| m.card.label.as_str() == "embed-mock")).await;
}

#[tokio::test]
async fn without_a_context_init_says_who_will_answer() {
    let mesh = with(&[shipped("embed-mock")]).up().await;
    let log = mesh.log();
    assert!(log.contains("no context is set") && log.contains("org.brahman.Embed → embed-mock (mock)"), "{log}");
}

#[tokio::test]
async fn a_run_folder_that_others_may_write_and_a_cgroup_that_is_none_are_refused() {
    let bare = Bare::new(&[shipped("broker")]);
    std::fs::create_dir(bare.path("run")).expect("made");
    std::fs::set_permissions(bare.path("run"), std::fs::Permissions::from_mode(0o777)).expect("changed");
    let words = refusal(&bare.init(&bare.path("run/brahman.sock")).output().expect("it runs"));
    assert!(words.contains("others may write"), "{words}");
    std::fs::create_dir(bare.path("no-cgroup")).expect("made");
    let out = bare.init(&bare.path("other/brahman.sock")).env("BRAHMAN_CGROUP", bare.path("no-cgroup")).output().expect("it runs");
    let words = refusal(&out);
    assert!(words.contains("BRAHMAN_CGROUP") && words.contains("no-cgroup"), "{words}");
    assert_eq!(std::fs::read_dir(bare.path("no-cgroup")).expect("there").count(), 0, "nothing was made in it");
    let out = bare.init(&bare.path("other/brahman.sock")).env("BRAHMAN_GROUP", "no-such-group-here").output().expect("it runs");
    assert!(refusal(&out).contains("`no-such-group-here`"));
}

#[tokio::test]
async fn a_run_folder_whose_path_is_not_utf_8_works() {
    let bare = Bare::new(&[shipped("broker"), shipped("embed-mock")]);
    let run = bare.0.path().join(std::ffi::OsStr::from_bytes(b"r\xffn"));
    let mut init = bare.init(&run.join("brahman.sock")).args(["--context", "test"]).stderr(Stdio::null()).spawn().expect("it starts");
    assert_eq!(answer(&run.join("brahman.sock"), "org.brahman.Broker.GetContext").await["context"], "test");
    let ready = async {
        let mut connection = Connection::connect(&run.join("init.sock")).await?;
        connection.send(&encode_call("org.brahman.Init.Watch", &Empty {}, &CallOptions::default(), true, false)?).await?;
        loop {
            let word: WatchOut = connection.receive().await?.typed()?.value;
            if let Some(mock) = word.modules.iter().find(|m| m.card.label.as_str() == "embed-mock" && m.state == ModuleState::Ready) {
                return Ok::<_, ClientError>(mock.socket.clone());
            }
        }
    };
    let socket = tokio::time::timeout(PATIENCE, ready).await.expect("in time").expect("watched");
    assert_eq!(socket, "embed-mock.sock", "a name beside the mesh socket, for want of a path that is text");
    assert!(std::fs::symlink_metadata(run.join(&socket)).expect("there").file_type().is_socket());
    answer(&run.join("init.sock"), "org.brahman.Init.Shutdown").await;
    assert!(init.wait().expect("it ends").success());
}

#[tokio::test]
async fn a_module_deaf_to_sigterm_does_not_outlive_the_next_init_nor_down() {
    for down in [false, true] {
        let deaf = script("deaf", "trap '' TERM; echo set; while :; do sleep 1; done", "");
        let mesh = with(&[shipped("embed-mock"), deaf]).context("test").up().await;
        while !String::from_utf8_lossy(&mesh.brahman(&["logs", "deaf"]).stdout).contains("set") {
            tokio::task::yield_now().await;
        }
        let pid = mesh.module("deaf").await.pid;
        mesh.signal(mesh.init_pid(), "KILL");
        gone(mesh.init_pid()).await;
        assert!(runs(pid), "it is deaf");
        if down {
            let out = mesh.brahman(&["down"]);
            assert!(out.status.success() && String::from_utf8_lossy(&out.stderr).contains("left running"), "{out:?}");
            assert!(!runs(pid));
            assert_eq!(mesh.brahman(&["down"]).status.code(), Some(3), "the second time there is nothing");
            continue;
        }
        let log = std::fs::File::create(mesh.folder.path().join("log")).expect("created");
        let mut again = Command::new(binary("brahman-init"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args(["--socket", &mesh.socket().display().to_string(), "--state", &mesh.folder.path().join("state").display().to_string()])
            .args(["--cards", &mesh.folder.path().join("cards").display().to_string(), "--context", "test"])
            .stderr(log)
            .spawn()
            .expect("it starts");
        mesh.when(|m| m.iter().any(|m| m.card.label.as_str() == "embed-mock" && m.state == ModuleState::Ready)).await;
        assert!(!runs(pid));
        assert!(mesh.log().contains("ignoring SIGTERM: killed"), "{}", mesh.log());
        mesh.signal(again.id(), "TERM");
        assert!(again.wait().expect("it ends").success());
    }
}

#[tokio::test]
async fn an_init_that_is_ended_at_once_leaves_nothing() {
    let bare = Bare::new(&[shipped("broker"), shipped("embed-mock")]);
    for round in 0..20_u64 {
        let socket = bare.path("run/brahman.sock");
        // Without a wrapper: the signal is for init, and a wrapper in its own first moments would die of it alone.
        let mut init = bare.init_under(&[], &socket).args(["--context", "test"]).stderr(Stdio::null()).spawn().expect("it starts");
        // Some moment of its start, another each time; which one is no promise, that nothing is left is.
        for _ in 0..round * 400 {
            tokio::task::yield_now().await;
        }
        let done = Command::new("kill").args(["-INT", &init.id().to_string()]).status().expect("kill runs");
        assert!(done.success());
        let ended = init.wait().expect("it ends");
        let mark = format!("BRAHMAN_SOCKET={}", socket.display());
        let left: Vec<String> = std::fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .filter(|entry| {
                let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
                environment.split(|b| *b == 0).any(|variable| variable == mark.as_bytes())
            })
            .map(|entry| entry.path().display().to_string())
            .collect();
        assert!(left.is_empty(), "round {round}, {ended}: {left:?}");
        assert!(!bare.path("run/init.sock").exists(), "round {round}, {ended}");
    }
}

#[tokio::test]
async fn a_wrapper_s_child_may_say_that_the_module_is_ready() {
    let python = "import os,socket,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.sendto(b\"READY=1\",os.environ[\"NOTIFY_SOCKET\"])\ntime.sleep(1000)";
    let mesh = with(&[
        script("wrapped", &format!("python3 -c '{python}'; true"), ""),
        script("twice", &format!("sh -c \"sh -c 'exec python3 -' ; true\" <<'E'\n{python}\nE\ntrue"), ""),
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
    mesh.when(|m| m.iter().any(|m| m.card.label.as_str() == "embed-mock" && m.state == ModuleState::Ready && m.pid != pid)).await;
    assert!(!runs(pid));
}

#[test]
fn every_shipped_card_has_a_watchdog() {
    for entry in std::fs::read_dir(brahman_tests::repository().join("packaging/cards")).expect("the Cards").flatten() {
        let text = std::fs::read(entry.path()).expect("read");
        let card = brahman_card::Card::parse(&entry.path().display().to_string(), &text).expect("a good Card");
        assert!(card.watchdog_s > 0, "{}", card.label);
    }
}

#[tokio::test]
async fn what_attaches_by_itself_is_drained_not_restarted_and_takes_nobody_s_name() {
    let mesh = with(&[shipped("embed-mock")]).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let attach = async |label: &str, socket: &str| {
        let offer = json!([{"name": "embed", "type": {"interface": {"name": "org.brahman.Embed"}}}]);
        let card = json!({"schema_version": 1, "label": label, "service_socket": socket, "payload": "virtual", "flow": {"output": offer}});
        let ask = json!({"card": card});
        let message = encode_call("org.brahman.Init.Attach", &ask, &CallOptions::default(), true, false).expect("a call");
        let mut session = Connection::connect(&mesh.beside("init.sock")).await.expect("connected");
        session.send(&message).await.expect("sent");
        let first: Result<AttachOut, ClientError> = async { Ok(session.receive().await?.typed()?.value) }.await;
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
        let fault = mesh.fault(&format!("org.brahman.Init.{method}"), json!({"label": "mine"})).await;
        assert_eq!(fault.name, "org.brahman.Init.NotSupervised");
        assert!(fault.message().contains("attached by itself"), "{fault}");
    }
    mesh.call("org.brahman.Init.Stop", json!({"label": "mine"})).await.expect("asked");
    let told = tokio::time::timeout(PATIENCE, session.receive()).await.expect("a word").expect("received");
    assert!(told.typed::<AttachOut>().expect("typed").value.drain);
    drop(session);
    mesh.when(|m| !m.iter().any(|m| m.card.label.as_str() == "mine")).await;
}

#[tokio::test]
async fn a_member_of_the_group_uses_what_cards_allow_and_administers_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("this test changes its uid and so needs root; the rule it tests is the same for any user");
        return;
    }
    let setup = with(&[shipped("embed-mock"), shipped("catalog")]).context("test").env("BRAHMAN_GROUP", "61234");
    let mesh = setup.up().await;
    for label in ["embed-mock", "catalog"] {
        mesh.when_module(label, ModuleState::Ready).await;
    }
    std::fs::set_permissions(mesh.folder.path(), std::fs::Permissions::from_mode(0o755)).expect("opened");
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
    assert!(ask(61234, "init.sock", r#"{"method":"org.brahman.Init.List"}"#).contains("embed-mock"));
    for (method, parameters) in
        [("Shutdown", "{}"), ("Reload", "{}"), ("Stop", r#"{"label":"catalog"}"#), ("Logs", r#"{"label":"catalog"}"#)]
    {
        let words = ask(61234, "init.sock", &format!(r#"{{"method":"org.brahman.Init.{method}","parameters":{parameters}}}"#));
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
        ("loop", "next attempt in"),
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
