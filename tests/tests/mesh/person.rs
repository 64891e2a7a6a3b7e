//! The command as a person and a script meet it.

use std::process::Command;

use brahman_card::ModuleState;
use brahman_tests::{Setup, binary, shipped};
use serde_json::json;

fn brahman(arguments: &[&str]) -> std::process::Output {
    Command::new(binary("brahman"))
        .env_clear()
        .env("BRAHMAN_SOCKET", "/nonexistent/brahman.sock")
        .args(arguments)
        .output()
        .expect("it runs")
}

#[tokio::test]
async fn exit_codes_are_as_documented() {
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).context("prod").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let code = |out: std::process::Output| out.status.code();
    assert_eq!(code(mesh.brahman(&["status"])), Some(0));
    assert_eq!(code(mesh.brahman(&["call", "embed.Nothing", "--context", "test"])), Some(1));
    assert_eq!(code(brahman(&["no-such-command"])), Some(2));
    assert_eq!(code(brahman(&["status"])), Some(3));
    assert_eq!(code(mesh.brahman(&["embed", "x"])), Some(4));
    let pid = mesh.module("embed-mock").await.pid;
    mesh.signal(pid, "STOP");
    assert_eq!(code(mesh.brahman(&["call", "embed.Info", "--context", "test", "--deadline", "100"])), Some(5));
    mesh.signal(pid, "CONT");
    assert_eq!(code(mesh.brahman(&["embed"])), Some(6));
}

#[tokio::test]
async fn json_is_json_and_an_error_too() {
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let status = mesh.brahman_json(&["status"]);
    assert_eq!(status["context"], "test");
    let mock = status["modules"].as_array().and_then(|m| m.iter().find(|m| m["label"] == "embed-mock")).expect("the mock");
    for key in ["label", "state", "pid", "restarts", "uptime_s", "flows", "mock", "queue", "attributes"] {
        assert!(mock.get(key).is_some(), "{key}");
    }
    assert_eq!(mesh.brahman_json(&["embed", "x"])["dim"], 32);
    assert_eq!(mesh.brahman_json(&["resolve", "embed"])["match"]["label"], "embed-mock");
    assert_eq!(mesh.brahman_json(&["explain", "embed", "--context", "prod"])["candidates"][0]["eligible"], false);
    assert_eq!(mesh.brahman_json(&["context", "prod"])["previous"], "test");
    assert_eq!(mesh.brahman_json(&["context"])["context"], "prod");
    assert_eq!(mesh.brahman_json(&["context", "--clear"])["previous"], "prod");
    let out = mesh.brahman(&["start", "nobody", "--json"]);
    let error: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!((&error["error"], &error["exit"]), (&json!("org.brahman.Init.NoSuchModule"), &json!(1)));
}

#[tokio::test]
async fn help_teaches_check_explains_and_completions_complete() {
    let help = String::from_utf8(brahman(&["--help"]).stdout).expect("text");
    for words in ["brahman up", "brahman search", "Exit status", "NO_COLOR"] {
        assert!(help.contains(words), "{words}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(brahman(&["completions", shell]).stdout.len() > 500, "{shell}");
    }
    let cards = brahman_tests::repository().join("packaging/cards").display().to_string();
    assert_eq!(brahman(&["check", &cards]).status.code(), Some(0));
    let bad = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    std::fs::write(bad.path(), "schema_version = 1\nlabel = \"x\"\nfoo = 1\npayload = \"virtual\"\n").expect("written");
    let out = brahman(&["check", &bad.path().display().to_string()]);
    assert_eq!(out.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&out.stdout).contains("foo"), "{out:?}");
}

#[tokio::test]
async fn down_ends_everything() {
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).context("test").up().await;
    let mock = mesh.when_module("embed-mock", ModuleState::Ready).await.pid;
    assert!(mesh.brahman(&["down"]).status.success());
    brahman_tests::gone(mock).await;
    assert!(!mesh.socket().exists() && !mesh.beside("init.sock").exists());
    assert_eq!(mesh.brahman(&["status"]).status.code(), Some(3));
}
