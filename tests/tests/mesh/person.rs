//! The command as a person and a script meet it.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use brahman_card::ModuleState;
use brahman_tests::{Setup, binary, script, shipped};
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
    assert_eq!(code(mesh.brahman(&["call", "embed.Nothing", "--context", "test"])), Some(4));
    assert_eq!(code(brahman(&["no-such-command"])), Some(2));
    assert_eq!(code(brahman(&["status"])), Some(3));
    assert_eq!(code(mesh.brahman(&["embed", "x"])), Some(4));
    let pid = mesh.module("embed-mock").await.pid;
    mesh.signal(pid, "STOP");
    assert_eq!(
        code(mesh.brahman(&["call", "embed.Info", "--context", "test", "--deadline", "100"])),
        Some(5)
    );
    mesh.signal(pid, "CONT");
    assert_eq!(code(mesh.brahman(&["embed"])), Some(6));
}

#[tokio::test]
async fn json_is_json_and_an_error_too() {
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let status = mesh.brahman_json(&["status"]);
    assert_eq!(status["context"], "test");
    let mock = status["modules"]
        .as_array()
        .and_then(|m| m.iter().find(|m| m["label"] == "embed-mock"))
        .expect("the mock");
    for key in
        ["label", "state", "pid", "restarts", "uptime_s", "flows", "mock", "queue", "attributes"]
    {
        assert!(mock.get(key).is_some(), "{key}");
    }
    assert_eq!(mesh.brahman_json(&["embed", "x"])["dim"], 32);
    assert_eq!(mesh.brahman_json(&["resolve", "embed"])["match"]["label"], "embed-mock");
    assert_eq!(
        mesh.brahman_json(&["explain", "embed", "--context", "prod"])["candidates"][0]["eligible"],
        false
    );
    assert_eq!(mesh.brahman_json(&["context", "prod"])["previous"], "test");
    assert_eq!(mesh.brahman_json(&["context"])["context"], "prod");
    assert_eq!(mesh.brahman_json(&["context", "--clear"])["previous"], "prod");
    let out = mesh.brahman(&["start", "nobody", "--json"]);
    assert!(out.stdout.is_empty(), "standard output has results alone: {out:?}");
    let error: serde_json::Value = serde_json::from_slice(&out.stderr).expect("JSON");
    assert_eq!(
        (&error["error"], &error["exit"]),
        (&json!("org.brahman.Init.NoSuchModule"), &json!(4))
    );
    for (arguments, exit) in [
        (&["explain", "nope", "--json"][..], 4),
        (&["introspect", "nope", "--json"], 4),
        (&["call", "nope.Nothing", "--json"], 4),
        (&["embed", "--json"], 6),
        (&["call", "embed.Info", "{", "--json"], 6),
        (&["no-such-command", "--json"], 2),
    ] {
        let out = mesh.brahman(arguments);
        let error: serde_json::Value =
            serde_json::from_slice(&out.stderr).expect("one JSON object");
        assert_eq!(
            (out.status.code(), &error["exit"], out.stdout.len()),
            (Some(exit), &json!(exit), 0),
            "{arguments:?}: {error}"
        );
    }
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
    let manual = tempfile::tempdir().expect("a temporary directory");
    assert!(brahman(&["man", &manual.path().display().to_string()]).status.success());
    for page in ["brahman.1", "brahman-index-refresh.1"] {
        assert!(
            std::fs::read_to_string(manual.path().join(page)).expect(page).contains(".TH"),
            "{page}"
        );
    }
    let cards = brahman_tests::repository().join("packaging/cards").display().to_string();
    assert_eq!(brahman(&["check", &cards]).status.code(), Some(0));
    let bad = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    std::fs::write(
        bad.path(),
        "schema_version = 1\nlabel = \"x\"\nfoo = 1\npayload = \"virtual\"\n",
    )
    .expect("written");
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

#[tokio::test]
async fn a_supervisor_that_has_stopped_keeps_no_command_for_ever() {
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    mesh.signal(mesh.init_pid(), "STOP");
    let socket = mesh.socket();
    let asked = [
        &["logs", "broker", "--follow"][..],
        &["logs", "broker"],
        &["down"],
        &["status"],
        &["status", "--json"],
    ]
    .map(|arguments| {
        let mut command = Command::new(binary("brahman"));
        command
            .env_clear()
            .env("BRAHMAN_SOCKET", &socket)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().expect("it runs")
    });
    for command in asked {
        let out = command.wait_with_output().expect("it ends");
        assert_eq!(out.status.code(), Some(5), "{out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("no answer within"), "{out:?}");
    }
    mesh.signal(mesh.init_pid(), "CONT");
}

#[tokio::test]
async fn output_that_is_lost_is_an_error_and_a_closed_pipe_is_quiet() {
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let cards = brahman_tests::repository().join("packaging/cards").display().to_string();
    let socket = mesh.socket().display().to_string();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["embed", "x"],
        &["call", "embed.Info"],
        &["introspect", "embed"],
        &["logs", "broker"],
        &["logs", "broker", "--follow"],
        &["explain", "embed"],
        &["check", cards.as_str()],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
    ] {
        let run = |stdout: Stdio| {
            let mut command = Command::new(binary("brahman"));
            command
                .env_clear()
                .env("BRAHMAN_SOCKET", &socket)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(stdout);
            command.stderr(Stdio::piped()).output().expect("it runs")
        };
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let out = run(full.into());
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(74), "{arguments:?}: {words}");
        assert!(
            words.contains("No space left") && !words.contains("panicked"),
            "{arguments:?}: {words}"
        );
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let out = run(writer.into());
        // That a mock answers is said all the same.
        let said: Vec<&str> = std::str::from_utf8(&out.stderr)
            .expect("text")
            .lines()
            .filter(|l| !l.starts_with("note: "))
            .collect();
        assert_eq!((out.status.code(), said.len()), (Some(141), 0), "{arguments:?}: {said:?}");
    }
}

#[tokio::test]
async fn what_a_module_writes_moves_no_terminal() {
    let evil = "printf '\\033]0;title\\007\\033[2J\\342\\200\\256txt\\r\\n' >&2; exit 78";
    let mesh = Setup::new(&[shipped("broker"), script("evil", evil, "")]).up().await;
    mesh.when_module("evil", ModuleState::Failed).await;
    for arguments in [&["logs", "evil"][..], &["status"]] {
        let out = mesh.brahman(arguments);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            text.contains("\\u{1b}]0;title\\u{7}") && text.contains("\\u{202e}txt"),
            "{text:?}"
        );
        assert!(!text.contains(['\x1b', '\x07', '\u{202e}', '\r']), "{text:?}");
    }
    let line = mesh.brahman(&["logs", "evil", "--json"]).stdout;
    let line: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
    assert!(
        line["text"].as_str().is_some_and(|t| t.contains("\x1b]0;title\x07\x1b[2J\u{202e}txt")),
        "JSON holds what was written: {line}"
    );
    assert!(!mesh.log().contains("\x1b]0;"), "init passes it on without harm");
}

#[test]
fn check_looks_where_up_does_and_refuses_what_cannot_run() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let cards = home.path().join(".config/brahman/cards");
    std::fs::create_dir_all(&cards).expect("made");
    let check = |arguments: &[&str]| {
        let mut command = Command::new(binary("brahman"));
        command
            .env_clear()
            .env("HOME", home.path())
            .env("PATH", "/usr/bin:/bin")
            .env("BRAHMAN_SOCKET", "/run/none/brahman.sock");
        let out = command.arg("check").args(arguments).output().expect("it runs");
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let write = |(name, text): (String, String)| {
        std::fs::write(cards.join(format!("{name}.toml")), text).expect("written");
    };
    let card = |label: &str, exec: &str, more: &str| {
        (
            label.to_owned(),
            format!(
                "schema_version = 1\nlabel = \"{label}\"\n{more}\n[payload.native]\nexec = \"{exec}\"\n"
            ),
        )
    };
    write(card("fine", "sh", ""));
    let (code, words) = check(&[]);
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("fine.toml"), "{words}");
    for (bad, reason) in [
        (card("absent", "no-such-program", ""), "`no-such-program` was not found"),
        (card("relative", "./no/such", ""), "`./no/such` is a relative path"),
        (card("needy", "sh", "requires = [\"nobody\"]"), "`nobody`"),
        (("twin".to_owned(), card("fine", "sh", "").1), "same label as `fine`"),
        (card("ring", "sh", "requires = [\"ring\"]"), "ring → ring"),
        (card("same", "sh", "service_socket = \"fine.sock\""), "`fine`"),
        (card("notify", "sh", ""), "label: `notify`"),
        (card("away", "sh", "service_socket = \"/tmp/away.sock\""), "outside the run folder"),
        (card("lock", "sh", "service_socket = \"init.lock\""), "the mesh's own"),
    ] {
        let name = bad.0.clone();
        write(bad);
        let (code, words) = check(&[]);
        assert_eq!(code, Some(6), "{name}: {words}");
        assert!(
            words.contains(&format!("{name}.toml")) && words.contains(reason),
            "{name}: {words}"
        );
        std::fs::remove_file(cards.join(format!("{name}.toml"))).expect("removed");
    }
}

#[test]
fn check_finds_the_cards_installed_beside_the_programs_and_one_s_own() {
    let prefix = tempfile::tempdir().expect("a temporary directory");
    let (bin, share) = (prefix.path().join("bin"), prefix.path().join("share/brahman"));
    std::fs::create_dir_all(&bin).expect("made");
    std::fs::create_dir_all(&share).expect("made");
    std::fs::copy(binary("brahman"), bin.join("brahman")).expect("copied");
    for entry in std::fs::read_dir(brahman_tests::repository().join("packaging/cards"))
        .expect("the Cards")
        .flatten()
    {
        let text = std::fs::read(entry.path()).expect("read");
        let card = brahman_card::Card::parse(&entry.path().display().to_string(), &text)
            .expect("a good Card");
        if let brahman_card::card::Payload::Native(native) = card.payload {
            let program = bin.join(native.exec);
            std::fs::write(&program, "#!/bin/sh\n").expect("written");
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
                .expect("changed");
        }
    }
    std::os::unix::fs::symlink(
        brahman_tests::repository().join("packaging/cards"),
        share.join("cards"),
    )
    .expect("linked");
    let own = prefix.path().join(".config/brahman/cards");
    std::fs::create_dir_all(&own).expect("made");
    std::fs::write(
        own.join("mine.toml"),
        "schema_version = 1\nlabel = \"mine\"\npayload = \"virtual\"\n",
    )
    .expect("written");
    let out = Command::new(bin.join("brahman"))
        .env_clear()
        .env("HOME", prefix.path())
        .arg("check")
        .output()
        .expect("it runs");
    let words = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{words}");
    assert!(words.contains("mine.toml") && words.contains("broker.toml"), "{words}");
}
