//! One state folder: one mesh at a time, and a disk that cannot be written to.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use brahman_card::ModuleState;
use brahman_sidecar::Connection;
use brahman_tests::{Mesh, PATIENCE, Setup, binary, gone, runs, script, shipped};
use serde_json::{Value, json};

/// Another init on the state and the Cards of a mesh, with a socket of its own, or the mesh's. Ends
/// with the test.
fn init(mesh: &Mesh, run: &str) -> Command {
    init_under(&[], mesh, run)
}

/// The same under a wrapper. Without one, a signal is for init.
fn init_under(wrapper: &[&str], mesh: &Mesh, run: &str) -> Command {
    let folder = mesh.folder.path();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).args(wrapper).arg(binary("brahman-init"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder);
    command.env("BRAHMAN_CACHE", folder.join("cache"));
    command
        .arg("--socket")
        .arg(folder.join(run).join("brahman.sock"))
        .arg("--state")
        .arg(folder.join("state"));
    command.arg("--cards").arg(folder.join("cards")).args(["--context", "test"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The same, on a state of its own.
fn init_on(mesh: &Mesh, run: &str, state: &Path) -> Command {
    let folder = mesh.folder.path();
    let mut command = Command::new("timeout");
    command.args(["--foreground", "120"]).arg(binary("brahman-init"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder);
    command.env("BRAHMAN_CACHE", folder.join("cache"));
    command.arg("--socket").arg(folder.join(run).join("brahman.sock")).arg("--state").arg(state);
    command.arg("--cards").arg(folder.join("cards")).args(["--context", "test"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Waits until a mesh answers on a socket.
async fn answers(socket: &Path) {
    let asking = async {
        loop {
            if let Ok(mut connection) = Connection::connect(socket).await
                && connection
                    .call::<_, Value>("org.brahman.Broker.GetContext", &json!({}))
                    .await
                    .is_ok()
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| panic!("nothing answers on {}", socket.display()));
}

#[tokio::test]
async fn a_second_mesh_on_one_state_is_refused_by_socket_and_process_until_the_first_has_ended() {
    let deaf = script("deaf", "trap '' TERM; echo set; while :; do sleep 1; done", "");
    let mesh =
        Setup::new(&[shipped("broker"), shipped("embed-mock"), deaf]).context("test").up().await;
    while !String::from_utf8_lossy(&mesh.brahman(&["logs", "deaf"]).stdout).contains("set") {
        tokio::task::yield_now().await;
    }
    // By itself, if it should have refused to start.
    let second =
        init_under(&["timeout", "--foreground", "120"], &mesh, "other").output().expect("it runs");
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(78), "{words}");
    for word in [
        mesh.folder.path().join("state").display().to_string(),
        mesh.socket().display().to_string(),
        mesh.init_pid().to_string(),
    ] {
        assert!(words.contains(&word), "{word}: {words}");
    }
    assert!(
        !mesh.folder.path().join("other").exists(),
        "a start that came to nothing leaves nothing"
    );
    assert_eq!(
        mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["x"]}))
            .await
            .expect("the first goes on")["dim"],
        32
    );
    // By hand, on a socket of nobody's.
    let by_hand = Command::new(binary("embed-mock"))
        .env_clear()
        .env("BRAHMAN_SOCKET", mesh.folder.path().join("other/brahman.sock"))
        .env("BRAHMAN_STATE", mesh.folder.path().join("state"))
        .output()
        .expect("it runs");
    let words = String::from_utf8_lossy(&by_hand.stderr).into_owned();
    assert_eq!(by_hand.status.code(), Some(78), "{words}");
    assert!(
        words.contains(&mesh.init_pid().to_string()) && words.contains("BRAHMAN_STATE"),
        "{words}"
    );
    // A killed init holds nothing, and what it left on the state is ended by the next one, wherever
    // that listens.
    let pid = mesh.module("deaf").await.pid;
    mesh.signal(mesh.init_pid(), "KILL");
    gone(mesh.init_pid()).await;
    assert!(runs(pid), "it is deaf");
    let mut second = init(&mesh, "other").stderr(Stdio::null()).spawn().expect("it starts");
    answers(&mesh.folder.path().join("other/brahman.sock")).await;
    assert!(!runs(pid));
    mesh.signal(second.id(), "TERM");
    assert!(second.wait().expect("it ends").success());
    // And one that ended as it should leaves the state to whoever comes.
    let mut third = init(&mesh, "third").stderr(Stdio::null()).spawn().expect("it starts");
    answers(&mesh.folder.path().join("third/brahman.sock")).await;
    mesh.signal(third.id(), "TERM");
    assert!(third.wait().expect("it ends").success());
}

#[tokio::test]
async fn a_state_in_or_around_another_mesh_s_or_its_bucket_is_refused_by_name_and_no_bucket_lies_in_another_s_state()
 {
    let mesh =
        Setup::new(&["broker", "embed-mock", "catalog"].map(shipped)).context("test").up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let at = |name: &str| mesh.folder.path().join(name);
    mesh.brahman_json(&[
        "buckets",
        "add",
        "lake",
        &format!("file://{}", at("disk/lake").display()),
    ]);
    for (state, words) in [
        ("state/inner", "lies inside"),
        ("", "holds"),
        ("disk/lake/inner", "bucket `lake`"),
        ("disk", "bucket `lake`"),
    ] {
        let state = at(state);
        let refused = init_on(&mesh, "other", &state).output().expect("it runs");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(78), "{}: {said}", state.display());
        for word in [
            words,
            &state.display().to_string(),
            &mesh.socket().display().to_string(),
            &mesh.init_pid().to_string(),
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
    assert!(!at("state/inner").exists() && !at("disk/lake/inner").exists());
    // Another mesh beside it: it takes no bucket in or around the first one's state.
    let mut second =
        init_on(&mesh, "other", &at("second")).stderr(Stdio::null()).spawn().expect("it starts");
    let socket = at("other/brahman.sock");
    answers(&socket).await;
    for (folder, words) in
        [("state/lake", "lies inside"), ("state/catalog", "lies inside"), ("state", "is")]
    {
        let url = format!("file://{}", at(folder).display());
        let ask = json!({"name": "x", "url": url});
        let mut connection = Connection::connect(&socket).await.expect("it answers");
        let refused = connection
            .call::<_, Value>("org.brahman.Storage.AddBucket", &ask)
            .await
            .expect_err("it is another's")
            .to_string();
        assert!(
            refused.contains(words) && refused.contains(&mesh.socket().display().to_string()),
            "{refused}"
        );
    }
    assert!(!at("state/lake").exists());
    mesh.signal(second.id(), "TERM");
    second.wait().expect("it ends");
    // What a mesh that was killed has left keeps nobody out.
    mesh.signal(mesh.init_pid(), "KILL");
    gone(mesh.init_pid()).await;
    let mut inner = init_on(&mesh, "other", &at("state/inner"))
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    answers(&socket).await;
    mesh.signal(inner.id(), "TERM");
    inner.wait().expect("it ends");
}

/// A folder that cannot be written to, for root by a mount, for others by its modes. Writable again
/// when dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn make(folder: &Path) -> Option<Self> {
        let run = |program: &str, arguments: &[&str]| {
            Command::new(program)
                .args(arguments)
                .arg(folder)
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        let made = if rustix::process::geteuid().is_root() {
            run("mount", &["--bind", &folder.display().to_string()])
                && run("mount", &["-o", "remount,bind,ro"])
        } else {
            run("chmod", &["-R", "a-w"])
        };
        let this = Self(folder.to_owned());
        made.then_some(this)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        for (program, argument) in [("umount", "-l"), ("chmod", "u+w")] {
            let mut command = Command::new(program);
            if program == "chmod" {
                command.arg("-R");
            }
            let _ = command.arg(argument).arg(&self.0).stderr(Stdio::null()).status();
        }
    }
}

/// A user who is nobody else's.
const NOBODY: u32 = 65_534;

#[tokio::test]
async fn a_state_whose_modes_forbid_writing_is_served_by_a_user_who_is_not_root() {
    let mesh = Setup::new(&["broker", "embed-mock", "catalog", "ingest"].map(shipped))
        .context("test")
        .up()
        .await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let csv = mesh.folder.path().join("t.csv");
    std::fs::write(&csv, "id,v\n1,a\n2,b\n").expect("written");
    mesh.brahman_json(&["ingest", "files", "t", &csv.display().to_string()]);
    mesh.signal(mesh.init_pid(), "TERM");
    gone(mesh.init_pid()).await;
    let folder = mesh.folder.path().display().to_string();
    let uid = NOBODY.to_string();
    let as_nobody =
        ["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups", "--pdeathsig", "TERM"];
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let init_path = binary("brahman-init").display().to_string();
    let is_root = rustix::process::geteuid().is_root();
    if is_root
        && !(run("chown", &["-R", &format!("{uid}:{uid}"), &folder])
            && run(as_nobody[0], &[&as_nobody[1..], &["test", "-x", &init_path]].concat()))
    {
        eprintln!("this test runs the mesh as another user, who cannot be given the programs here");
        return;
    }
    let state = mesh.folder.path().join("state");
    assert!(run("chmod", &["-R", "a-w", &state.display().to_string()]));
    let wrapper: &[&str] = if is_root { &as_nobody } else { &[] };
    let mut second =
        init_under(wrapper, &mesh, "run").stderr(Stdio::null()).spawn().expect("it starts");
    mesh.when_module("catalog", ModuleState::Ready).await;
    mesh.when_served_by("org.brahman.Catalog", "catalog").await;
    let seen = mesh.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("read");
    assert_eq!((&seen["dataset"]["rows"], &seen["missing"]), (&json!(2), &Value::Null));
    for (method, ask) in [
        ("Delete", json!({"name": "t"})),
        ("MarkStale", json!({"name": "t", "index": "i"})),
        ("Location", json!({"name": "t", "run_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV"})),
    ] {
        let fault = mesh.fault(&format!("org.brahman.Catalog.{method}"), ask).await;
        assert!(
            fault.name == "org.brahman.Catalog.ReadOnly"
                && fault.message().contains(&state.display().to_string()),
            "{method}: {fault}"
        );
    }
    assert_eq!(
        mesh.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("as it was")["dataset"]
            ["rows"],
        2
    );
    mesh.signal(second.id(), "TERM");
    assert!(second.wait().expect("it ends").success());
    assert!(run("chmod", &["-R", "u+w", &state.display().to_string()]));
}

#[tokio::test]
async fn a_state_that_cannot_be_written_to_is_searched_and_every_change_is_refused() {
    let mesh = Setup::new(&["broker", "embed-mock", "catalog", "ingest", "index"].map(shipped))
        .context("test")
        .up()
        .await;
    for module in ["catalog", "ingest", "index"] {
        mesh.when_module(module, ModuleState::Ready).await;
    }
    let csv = mesh.folder.path().join("t.csv");
    let rows: String =
        (0..200).map(|n| format!("doc-{n},chapter {n} speaks of topic{}\n", n % 7)).collect();
    std::fs::write(&csv, format!("id,text\n{rows}")).expect("written");
    mesh.brahman_json(&["ingest", "files", "t", &csv.display().to_string()]);
    mesh.brahman_json(&["index", "create", "t", "--dataset", "t"]);
    mesh.brahman_json(&["index", "refresh", "t"]);
    let search = async |mode: &str| {
        let ask = json!({"index": "t", "text": "chapter 9 topic2", "mode": mode, "k": 5});
        mesh.call("org.brahman.Index.Search", ask).await.expect("found")["results"].clone()
    };
    let before = [search("semantic").await, search("lexical").await];
    mesh.signal(mesh.init_pid(), "TERM");
    gone(mesh.init_pid()).await;
    let state = mesh.folder.path().join("state");
    let Some(read_only) = ReadOnly::make(&state) else {
        eprintln!("this test mounts a folder read-only, which is not allowed here");
        return;
    };
    let mut second = init(&mesh, "run").stderr(Stdio::null()).spawn().expect("it starts");
    let index = mesh.when_module("index", ModuleState::Ready).await;
    assert!(index.attributes["state"].starts_with("read-only: "), "{:?}", index.attributes);
    mesh.when_module("catalog", ModuleState::Ready).await;
    mesh.when_served_by("org.brahman.Index", "index").await;
    assert_eq!([search("semantic").await, search("lexical").await], before);
    assert_eq!(
        mesh.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("read")["dataset"]
            ["rows"],
        200
    );
    let looked_at =
        mesh.call("org.brahman.Index.Doctor", json!({"name": "t"})).await.expect("looked at");
    assert_eq!(looked_at["healthy"], true, "{looked_at}");
    for (method, ask) in [
        ("Create", json!({"name": "u", "dataset": "t", "id_column": "id", "text_column": "text"})),
        ("Refresh", json!({"name": "t"})),
        ("Delete", json!({"name": "t"})),
        ("Compact", json!({"name": "t"})),
        ("Trial", json!({"name": "t", "config": {}})),
        ("EvalAutogen", json!({"name": "t"})),
        ("Doctor", json!({"name": "t", "repair": true})),
    ] {
        let fault = mesh.fault(&format!("org.brahman.Index.{method}"), ask).await;
        assert_eq!(fault.name, "org.brahman.Index.ReadOnly", "{method}: {fault}");
        assert!(
            fault.message().contains(&state.display().to_string()) && !fault.retryable(),
            "{method}: {fault}"
        );
    }
    assert_eq!(search("semantic").await, before[0]);
    mesh.signal(second.id(), "TERM");
    assert!(second.wait().expect("it ends").success());
    drop(read_only);
    // Once it can be written to everything goes on.
    let mut third = init(&mesh, "run").stderr(Stdio::null()).spawn().expect("it starts");
    let index = mesh.when_module("index", ModuleState::Ready).await;
    assert!(!index.attributes.contains_key("state"), "{:?}", index.attributes);
    mesh.when_served_by("org.brahman.Index", "index").await;
    mesh.brahman_json(&["index", "refresh", "t"]);
    mesh.signal(third.id(), "TERM");
    assert!(third.wait().expect("it ends").success());
}
