//! Whatever ends, and however: nothing is left running, and what comes next takes over.

use std::process::{Command, Stdio};

use brahman_card::ModuleState;
use brahman_tests::{binary, gone, runs, script, shipped};

use super::{Bare, with};

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
            assert!(
                out.status.success()
                    && String::from_utf8_lossy(&out.stderr).contains("left running"),
                "{out:?}"
            );
            assert!(!runs(pid));
            assert_eq!(
                mesh.brahman(&["down"]).status.code(),
                Some(3),
                "the second time there is nothing"
            );
            continue;
        }
        let log = std::fs::File::create(mesh.folder.path().join("log")).expect("created");
        let mut again = Command::new(binary("brahman-init"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args([
                "--socket",
                &mesh.socket().display().to_string(),
                "--state",
                &mesh.folder.path().join("state").display().to_string(),
            ])
            .args([
                "--cards",
                &mesh.folder.path().join("cards").display().to_string(),
                "--context",
                "test",
            ])
            .stderr(log)
            .spawn()
            .expect("it starts");
        mesh.when(|m| {
            m.iter().any(|m| m.card.label.as_str() == "embed-mock" && m.state == ModuleState::Ready)
        })
        .await;
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
        // Without a wrapper: the signal is for init, and a wrapper in its own first moments would
        // die of it alone.
        let mut init = bare
            .init_under(&[], &socket)
            .args(["--context", "test"])
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        // Some moment of its start, another each time; which one is no promise, that nothing is
        // left is.
        for _ in 0..round * 400 {
            tokio::task::yield_now().await;
        }
        let done = Command::new("kill")
            .args(["-INT", &init.id().to_string()])
            .status()
            .expect("kill runs");
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
async fn a_module_that_ignores_sigterm_is_killed_with_its_grandchildren() {
    let mesh = with(&[script(
        "stubborn",
        // One grandchild in the group, and one that left it by setsid; neither may stay.
        "trap '' TERM; sleep 1000 & setsid sleep 1000 & echo leaked $! >&2; systemd-notify --ready 2>/dev/null; while :; do sleep 1; done",
        "",
    )])
    .up()
    .await;
    let modules =
        mesh.when(|m| m.iter().any(|m| m.card.label.as_str() == "stubborn" && m.pid != 0)).await;
    let pid = modules.iter().find(|m| m.card.label.as_str() == "stubborn").expect("there").pid;
    let leaked: u32 = loop {
        let logs = mesh.brahman(&["logs", "stubborn"]);
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        if let Some(n) =
            text.split("leaked ").nth(1).and_then(|t| t.split_whitespace().next()?.parse().ok())
        {
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
async fn when_init_is_killed_its_modules_end_and_a_new_init_takes_over() {
    let mesh = with(&[shipped("embed-mock")]).context("test").up().await;
    let mock = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
    let broker = mesh.module("broker").await.pid;
    mesh.signal(mesh.init_pid(), "KILL");
    gone(mock).await;
    gone(broker).await;
    let again = std::process::Command::new(binary("brahman-init"))
        .env_clear()
        .args([
            "--socket",
            &mesh.socket().display().to_string(),
            "--state",
            &mesh.folder.path().join("state").display().to_string(),
        ])
        .args([
            "--cards",
            &mesh.folder.path().join("cards").display().to_string(),
            "--context",
            "test",
        ])
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut again = again.expect("it starts");
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == "embed-mock" && m.state == ModuleState::Ready && m.pid != mock
        })
    })
    .await;
    mesh.signal(again.id(), "TERM");
    assert!(again.wait().expect("it ends").success());
}
