//! What init finds where it is to stand: sockets, folders, contexts; it takes what is its own and
//! leaves the rest.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::process::Child;

use brahman_card::interface::Empty;
use brahman_card::interface::init::WatchOut;

use super::*;

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
            assert!(
                words.contains(&path.display().to_string()) && words.contains("move it away"),
                "{name}: {words}"
            );
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
    // It never says that it is ready.
    assert!(mesh.brahman(&["start", "other", "--no-wait"]).status.success());
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
        std::fs::symlink_metadata(&socket)
            .map(|found| found.ino())
            .expect("the socket's file is there")
    };
    let first = file();
    // As systemd does it: the socket is descriptor 3, whatever came as 0, and the process is told
    // that it is meant.
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
    let kill = |signal: &str, pid: u32| {
        assert!(
            Command::new("kill")
                .args([signal, &pid.to_string()])
                .status()
                .expect("kill runs")
                .success()
        );
    };
    for end in ["-TERM", "-TERM", "-KILL", "-INT"] {
        let mut init = start();
        assert_eq!(answer(&socket, "org.brahman.Broker.GetContext").await["context"], "test");
        // A changed Card replaces the broker, not its socket.
        let (_, text) = shipped("broker");
        std::fs::write(
            bare.path("cards/broker.toml"),
            format!("{text}\n# {end}\n[attributes]\nend = \"{end}\"\n"),
        )
        .expect("written");
        kill("-HUP", init.id());
        assert_eq!(answer(&socket, "org.brahman.Broker.GetContext").await["context"], "test");
        kill(end, init.id());
        init.wait().expect("it ends");
        assert_eq!(file(), first, "{end}");
        assert!(
            std::os::unix::net::UnixStream::connect(&socket).is_ok(),
            "{end}: whoever connects waits for the next init"
        );
    }
    // Where the file is gone nobody would reach the mesh: that is said, and nothing is started.
    std::fs::remove_file(&socket).expect("removed");
    let status = start().wait().expect("it ends");
    assert_eq!(status.code(), Some(78));
}

#[tokio::test]
async fn a_context_that_no_card_names_starts_nothing() {
    let bare = Bare::new(&[shipped("broker"), shipped("embed-mock")]);
    let words = refusal(
        &bare
            .init(&bare.path("run/brahman.sock"))
            .args(["--context", "production"])
            .output()
            .expect("it runs"),
    );
    assert!(words.contains("`production`") && words.contains("did you mean `prod`?"), "{words}");
    assert!(!bare.path("run").exists() && !bare.path("state").exists(), "nothing was made");
    let words = refusal(
        &bare
            .init(&bare.path("run/brahman.sock"))
            .env("BRAHMAN_BROKER_CONTEXT", "tset")
            .output()
            .expect("it runs"),
    );
    assert!(words.contains("did you mean `test`?"), "{words}");
}

#[tokio::test]
async fn a_reload_that_takes_the_present_context_away_changes_nothing() {
    let mesh = with(&[shipped("embed-mock")]).context("test").up().await;
    let pid = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
    std::fs::remove_file(mesh.folder.path().join("cards/embed-mock.toml")).expect("removed");
    let fault = mesh.fault("org.brahman.Init.Reload", json!({})).await;
    assert!(
        fault.message().contains("`test`") && fault.message().contains("nothing was changed"),
        "{fault}"
    );
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
    assert!(
        log.contains("no context is set") && log.contains("org.brahman.Embed → embed-mock (mock)"),
        "{log}"
    );
}

#[tokio::test]
async fn a_run_folder_that_others_may_write_and_a_cgroup_that_is_none_are_refused() {
    let bare = Bare::new(&[shipped("broker")]);
    std::fs::create_dir(bare.path("run")).expect("made");
    std::fs::set_permissions(bare.path("run"), std::fs::Permissions::from_mode(0o777))
        .expect("changed");
    let words = refusal(&bare.init(&bare.path("run/brahman.sock")).output().expect("it runs"));
    assert!(words.contains("others may write"), "{words}");
    std::fs::create_dir(bare.path("no-cgroup")).expect("made");
    let out = bare
        .init(&bare.path("other/brahman.sock"))
        .env("BRAHMAN_CGROUP", bare.path("no-cgroup"))
        .output()
        .expect("it runs");
    let words = refusal(&out);
    assert!(words.contains("BRAHMAN_CGROUP") && words.contains("no-cgroup"), "{words}");
    assert_eq!(
        std::fs::read_dir(bare.path("no-cgroup")).expect("there").count(),
        0,
        "nothing was made in it"
    );
    let out = bare
        .init(&bare.path("other/brahman.sock"))
        .env("BRAHMAN_GROUP", "no-such-group-here")
        .output()
        .expect("it runs");
    assert!(refusal(&out).contains("`no-such-group-here`"));
}

#[tokio::test]
async fn a_run_folder_whose_path_is_not_utf_8_works() {
    let bare = Bare::new(&[shipped("broker"), shipped("embed-mock")]);
    let run = bare.0.path().join(std::ffi::OsStr::from_bytes(b"r\xffn"));
    let mut init = bare
        .init(&run.join("brahman.sock"))
        .args(["--context", "test"])
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    assert_eq!(
        answer(&run.join("brahman.sock"), "org.brahman.Broker.GetContext").await["context"],
        "test"
    );
    let ready =
        async {
            let mut connection = Connection::connect(&run.join("init.sock")).await?;
            connection
                .send(&encode_call(
                    "org.brahman.Init.Watch",
                    &Empty {},
                    &CallOptions::default(),
                    true,
                    false,
                )?)
                .await?;
            loop {
                let word: WatchOut = connection.receive().await?.typed()?.value;
                if let Some(mock) = word.modules.iter().find(|m| {
                    m.card.label.as_str() == "embed-mock" && m.state == ModuleState::Ready
                }) {
                    return Ok::<_, ClientError>(mock.socket.clone());
                }
            }
        };
    let socket = tokio::time::timeout(PATIENCE, ready).await.expect("in time").expect("watched");
    assert_eq!(
        socket, "embed-mock.sock",
        "a name beside the mesh socket, for want of a path that is text"
    );
    assert!(std::fs::symlink_metadata(run.join(&socket)).expect("there").file_type().is_socket());
    answer(&run.join("init.sock"), "org.brahman.Init.Shutdown").await;
    assert!(init.wait().expect("it ends").success());
}
