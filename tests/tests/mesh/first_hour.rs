//! The first hour: a mesh from a checkout, in the background, with Cards of one's own beside the
//! built-in ones.

use std::path::PathBuf;
use std::process::{Command, Output};

use brahman_card::ModuleState;
use brahman_tests::{Setup, binary, script, shipped, stranger};
use serde_json::{Value, json};

/// A person's home, with the programs of the checkout and nothing installed. The mesh that was
/// started in it ends with it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(
            tempfile::Builder::new()
                .prefix("brahman-test-")
                .tempdir()
                .expect("a temporary directory"),
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn brahman(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary("brahman"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.0.path());
        command
            .env("BRAHMAN_SOCKET", self.path("run/brahman.sock"))
            .args(arguments)
            .output()
            .expect("brahman runs")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let out = self.brahman(&[arguments, &["--json"]].concat());
        assert!(out.status.success(), "{arguments:?}: {out:?}");
        serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out:?}"))
    }

    fn card(&self, name: &str, text: &str) {
        let cards = self.path(".config/brahman/cards");
        std::fs::create_dir_all(&cards).expect("made");
        std::fs::write(cards.join(name), text).expect("written");
    }

    fn words(out: &Output) -> String {
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.path("run/init.sock").exists() {
            self.brahman(&["down"]);
        }
    }
}

#[test]
fn up_in_the_background_needs_no_installed_cards_and_says_what_comes_next() {
    let home = Home::new();
    let out = home.brahman(&["up", "--detach", "--context", "test"]);
    let words = Home::words(&out);
    assert!(out.status.success(), "{words}");
    let last = String::from_utf8_lossy(&out.stdout).lines().last().unwrap_or_default().to_owned();
    for expected in ["brahman status", "brahman down", "systemctl --user enable"] {
        assert!(last.contains(expected), "{words}");
    }
    assert!(home.brahman(&["status", "--wait", "60"]).status.success());
    let status = home.json(&["status"]);
    assert_eq!(status["context"], "test");
    let broker = status["modules"]
        .as_array()
        .and_then(|all| all.iter().find(|m| m["label"] == "broker"))
        .expect("a broker");
    assert_eq!(broker["origin"], "(built in) broker.toml");
    assert!(Home::words(&home.brahman(&["status"])).contains("Cards built in: broker"));
    assert_eq!(home.json(&["embed", "x"])["dim"], 32);
    let again = home.brahman(&["up", "--detach"]);
    assert!(!again.status.success() && Home::words(&again).contains("runs at"), "{again:?}");
    assert!(home.brahman(&["down"]).status.success());
    assert_eq!(home.brahman(&["status"]).status.code(), Some(3));
}

#[test]
fn what_is_asked_right_after_a_start_waits_for_what_is_still_loading() {
    let home = Home::new();
    std::fs::create_dir(home.path("cards"))
        .and_then(|()| std::fs::create_dir(home.path("notes")))
        .expect("made");
    for name in ["broker", "embed-mock", "catalog", "ingest", "index"] {
        let (file, text) = shipped(name);
        std::fs::write(home.path("cards").join(file).with_extension("toml"), text)
            .expect("written");
    }
    std::fs::write(home.path("notes/a.md"), "Onions are boiled for an hour.").expect("written");
    let (cards, notes) =
        (home.path("cards").display().to_string(), home.path("notes").display().to_string());
    let up = || {
        assert!(
            home.brahman(&["up", "--detach", "--cards", &cards, "--context", "test"])
                .status
                .success()
        );
    };
    up();
    assert_eq!(home.json(&["ingest", "files", "n", &notes])["rows"], 1);
    home.json(&["index", "create", "n", "--dataset", "n"]);
    home.json(&["index", "refresh", "n"]);
    let found = |out: &Value| out["results"][0][0]["doc_id"].clone();
    for verb in [
        &["search", "n", "onions"][..],
        &["search", "n", "onions", "--lexical"],
        &["index", "refresh", "n"],
        &["datasets"],
        &["embed", "x"],
        &["index", "stats", "n"],
        &["resolve", "embed"],
        &["ingest", "watches"],
    ] {
        assert!(home.brahman(&["down"]).status.success());
        up();
        let out = home.brahman(&[verb, &["--json"]].concat());
        assert!(out.status.success(), "{verb:?}: {}", Home::words(&out));
        if verb[0] == "search" {
            let reply: Value = serde_json::from_slice(&out.stdout).expect("JSON");
            assert_eq!(found(&reply), "a.md", "{reply}");
        }
    }
}

#[test]
fn of_two_that_start_on_one_socket_at_once_one_runs_and_the_other_says_so() {
    let home = Home::new();
    let start = || home.brahman(&["up", "--detach", "--context", "test", "--json"]);
    let both = std::thread::scope(|scope| {
        let other = scope.spawn(start);
        [start(), other.join().expect("it ends")]
    });
    let (up, refused): (Vec<&Output>, Vec<&Output>) =
        both.iter().partition(|out| out.status.success());
    assert_eq!((up.len(), refused.len()), (1, 1), "{both:?}");
    let told: Value = serde_json::from_slice(&up[0].stdout).expect("JSON");
    let command = std::fs::read(format!("/proc/{}/cmdline", told["pid"])).unwrap_or_default();
    assert!(
        String::from_utf8_lossy(&command).contains("brahman-init"),
        "process {} is its init: {both:?}",
        told["pid"]
    );
}

#[test]
fn what_modules_write_is_kept_in_bounds_and_not_in_the_log_of_the_start() {
    let home = Home::new();
    let state = home.path(".local/state/brahman");
    std::fs::create_dir_all(&state)
        .and_then(|()| std::fs::write(state.join("up.log"), "of an earlier start\n"))
        .expect("written");
    // init's own lines tell the last one.
    let (_, chatter) =
        script("chatter", "printf 'a word of chatter\\nthe last word\\n'; exit 78", "");
    home.card("chatter.toml", &chatter);
    assert!(home.brahman(&["up", "--detach", "--context", "test"]).status.success());
    assert!(home.brahman(&["status", "--wait", "60"]).status.success());
    assert!(home.brahman(&["down"]).status.success());
    let kept = Home::words(&home.brahman(&["logs", "--since", "1h"]));
    assert!(kept.contains("a word of chatter"), "{kept}");
    let own = std::fs::read_to_string(state.join("up.log")).expect("there");
    assert!(
        own.starts_with("of an earlier start\n") && own.contains("the mesh is up"),
        "init's own lines are added: {own}"
    );
    assert!(!own.contains("[chatter]") && !own.contains("a word of chatter"), "{own}");
}

#[test]
fn a_mesh_in_the_background_that_cannot_start_says_why() {
    let home = Home::new();
    let out = home.brahman(&["up", "--detach", "--context", "no-such-context"]);
    let words = Home::words(&out);
    assert_eq!(out.status.code(), Some(78), "{words}");
    assert!(
        words.contains("no Card names the context `no-such-context`") && words.contains("up.log"),
        "{words}"
    );
    assert!(!words.contains("exit status"), "init has said why: {words}");
}

#[test]
fn a_card_of_ones_own_adds_overrides_or_masks_one_and_hides_no_other() {
    let home = Home::new();
    let (_, mine) = script("mine", "exec sleep 1000", "");
    home.card("mine.toml", &mine);
    let (_, embed) = shipped("embed-mock");
    home.card("embed-mock.toml", &embed.replace("mock-hash-32\"", "mock-hash-32\", of = \"mine\""));
    home.card("ingest-mock.toml", "");
    let check = home.brahman(&["check"]);
    let words = Home::words(&check);
    assert!(check.status.success(), "{words}");
    for expected in [
        "mine.toml: mine",
        "(built in) broker.toml: broker",
        "masks `ingest-mock`",
        "(built in) embed-mock.toml: not used",
    ] {
        assert!(words.contains(expected), "{expected}: {words}");
    }
    assert!(home.brahman(&["up", "--detach", "--context", "test"]).status.success());
    let status = home.json(&["status"]);
    let of = |label: &str| {
        status["modules"].as_array().expect("modules").iter().find(|m| m["label"] == label).cloned()
    };
    assert_eq!(
        of("mine").expect("added")["origin"],
        home.path(".config/brahman/cards/mine.toml").display().to_string()
    );
    assert_eq!(of("embed-mock").expect("overridden")["attributes"]["of"], "mine");
    assert!(
        of("broker").is_some() && of("index-mock").is_some() && of("ingest-mock").is_none(),
        "{status}"
    );
}

#[test]
fn a_folder_of_cards_that_is_named_stands_alone() {
    let home = Home::new();
    let (_, broker) = shipped("broker");
    std::fs::create_dir(home.path("alone")).expect("made");
    std::fs::write(home.path("alone/broker.toml"), broker).expect("written");
    let alone = home.path("alone").display().to_string();
    assert!(home.brahman(&["up", "--detach", "--cards", &alone]).status.success());
    let status = home.json(&["status"]);
    let labels: Vec<&Value> =
        status["modules"].as_array().expect("modules").iter().map(|m| &m["label"]).collect();
    assert_eq!(labels, [&json!("broker")]);
}

#[test]
fn an_error_names_every_place_that_was_looked_at() {
    let home = Home::new();
    let out = Command::new(binary("brahman"))
        .env_clear()
        .env("XDG_RUNTIME_DIR", home.path("r"))
        .arg("status")
        .output()
        .expect("it runs");
    let words = Home::words(&out);
    assert_eq!(out.status.code(), Some(3), "{words}");
    for place in
        [home.path("r/brahman").display().to_string(), "brahman up --context prod".to_owned()]
    {
        assert!(words.contains(&place), "{place}: {words}");
    }
    std::fs::create_dir(home.path("empty")).expect("made");
    let empty = home.path("empty").display().to_string();
    let out = home.brahman(&["check", &empty]);
    assert!(out.status.code() == Some(6) && Home::words(&out).contains(&empty), "{out:?}");
}

#[tokio::test]
async fn resolve_takes_what_call_takes_and_other_contexts_are_named() {
    let handle = "def handle(c, m): reply(c, {'parameters': {}})";
    let words = stranger("words", "org.example.Words", &[], handle, "");
    let mesh =
        Setup::new(&[shipped("broker"), shipped("embed-mock"), words]).context("test").up().await;
    mesh.when_served_by("org.brahman.Embed", "embed-mock").await;
    mesh.when_served_by("org.example.Words", "words").await;
    for (given, label) in [
        ("embed", "embed-mock"),
        ("embed.EmbedText", "embed-mock"),
        ("org.brahman.Embed", "embed-mock"),
        ("org.brahman.Embed.EmbedText", "embed-mock"),
        ("org.example.Words", "words"),
        ("org.example.Words.Count", "words"),
    ] {
        assert_eq!(mesh.brahman_json(&["resolve", given])["match"]["label"], label, "{given}");
    }
    assert_eq!(mesh.brahman(&["resolve", "org.example.Nothing.Count"]).status.code(), Some(4));
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let out = mesh.brahman(&["resolve", "embed", "--context", "prod"]);
    let words = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(4), "{words}");
    assert!(words.contains("in context `test` embed-mock"), "{words}");
}
