//! `brahman top` as a person at a terminal meets it, and a script.

use std::process::{Command, Stdio};

use brahman_card::ModuleState;
use brahman_tests::{Mesh, Setup, binary, repository, shipped};

async fn mesh() -> Mesh {
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    mesh
}

#[tokio::test]
async fn a_screen_is_given_back_as_it_was_and_outlives_the_mesh() {
    let mesh = mesh().await;
    let broker = mesh.module("broker").await.pid;
    let mut command = Command::new("python3");
    command
        .arg(repository().join("tests/assets/terminal.py"))
        .arg(binary("brahman"))
        .args([broker, mesh.init_pid()].map(|pid| pid.to_string()))
        .env("BRAHMAN_SOCKET", mesh.socket())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let out = command.output().expect("python runs");
    assert!(
        out.status.success() && out.stdout == b"fine\n",
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

#[tokio::test]
async fn without_a_terminal_it_is_one_table() {
    let mesh = mesh().await;
    let out = Command::new(binary("brahman"))
        .arg("top")
        .env("BRAHMAN_SOCKET", mesh.socket())
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let text = String::from_utf8(out.stdout).expect("text");
    assert!(out.status.success(), "{text}");
    assert_eq!(text.matches("MODULE").count(), 1, "{text}");
    assert!(text.contains("embed-mock (mock)") && !text.contains('\x1b'), "{text}");
}

#[test]
fn where_there_is_no_mesh_the_socket_that_was_given_is_named() {
    for arguments in [&["top"] as &[&str], &["status"]] {
        let out = Command::new(binary("brahman"))
            .args(arguments)
            .env("BRAHMAN_SOCKET", "/nope/brahman.sock")
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        let text = String::from_utf8(out.stderr).expect("text");
        assert!(!out.status.success(), "{text}");
        assert!(text.contains("cannot connect to /nope/brahman.sock"), "{text}");
    }
}
