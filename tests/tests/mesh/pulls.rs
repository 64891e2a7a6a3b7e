//! Models pulled from a hub that behaves as the Hugging Face hub does, and from one that does not;
//! several of them served side by side.

mod names;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use brahman_tests::hub::{Hub, HubRequest, TOKEN, Trouble};
use brahman_tests::made_models::MadeModel;
use brahman_tests::{PATIENCE, binary};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A person at home, with a cache of their own.
struct Person<'a> {
    home: TempDir,
    hub: &'a Hub,
}

impl<'a> Person<'a> {
    fn of(hub: &'a Hub) -> Self {
        Self { home: tempfile::tempdir().expect("a temporary directory"), hub }
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("cache")
    }

    /// The hub's cache, which is the home's.
    fn shared(&self) -> PathBuf {
        self.home.path().join(".cache/huggingface/hub")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("brahman"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path());
        command
            .env("BRAHMAN_CACHE", self.cache())
            .env("HF_ENDPOINT", self.hub.endpoint())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn brahman(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("brahman runs")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let out = self.brahman(&[arguments, &["--json"]].concat());
        assert!(out.status.success(), "{arguments:?}: {out:?}");
        serde_json::from_slice(&out.stdout).expect("JSON")
    }
}

/// A hub with a model.
fn hub_of(id: &str, model: &MadeModel) -> (Hub, String) {
    let hub = Hub::start();
    let commit = publish(&hub, id, model, false);
    (hub, commit)
}

fn publish(hub: &Hub, id: &str, model: &MadeModel, is_gated: bool) -> String {
    let folder = tempfile::tempdir().expect("a temporary directory");
    model.write(folder.path());
    hub.publish(id, folder.path(), is_gated)
}

/// A model whose graph has some hundred bytes.
fn made() -> MadeModel {
    MadeModel { nested: true, ..MadeModel::pooled_by(&["cls_token"]) }
}

/// The same with its weights beside the graph.
fn split() -> MadeModel {
    MadeModel { external: true, ..made() }
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[track_caller]
fn refused(out: &Output, code: i32, words: &[&str]) {
    let said = said(out);
    assert!(
        out.status.code() == Some(code) && words.iter().all(|word| said.contains(word)),
        "expected {code}, {words:?}: {out:?}"
    );
}

/// Requests for contents of large files.
fn blobs(hub: &Hub) -> Vec<HubRequest> {
    hub.seen().into_iter().filter(|request| request.is_cdn).collect()
}

#[test]
fn a_repository_is_pulled_once_checked_and_pinned() {
    let (hub, commit) = hub_of("acme/made", &split());
    let person = Person::of(&hub);
    let pulled = person.json(&["models", "pull", "acme/made"]);
    assert_eq!(
        (&pulled["name"], &pulled["revision"], &pulled["refusal"]),
        (&json!("made"), &json!(commit), &Value::Null),
        "{pulled}"
    );
    let (came, all) = (
        pulled["fetched"].as_u64().expect("a number"),
        pulled["bytes"].as_u64().expect("a number"),
    );
    assert!(came > 0 && came <= all, "{pulled}");
    let folder = person.cache().join("models/made");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(folder.join("brahman.json")).expect("there"))
            .expect("JSON");
    assert_eq!(
        (&manifest["repository"], &manifest["revision"]),
        (&json!("acme/made"), &json!(commit))
    );
    assert_eq!(manifest["graph"], "onnx/model.onnx");
    let pins = manifest["sha256"].as_object().expect("pins");
    for name in [
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "tokenizer.json",
        "config.json",
        "modules.json",
        "1_Pooling/config.json",
    ] {
        assert!(pins.contains_key(name) && folder.join(name).is_file(), "{name}: {manifest}");
    }
    assert!(!folder.join("README.md").exists(), "what is for people stays there");
    // As the hub's own client has it.
    let repository = person.shared().join("models--acme--made");
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).expect("noted"), commit);
    let link =
        std::fs::read_link(repository.join("snapshots").join(&commit).join("onnx/model.onnx"))
            .expect("a link");
    assert_eq!(
        link,
        Path::new("../../../blobs").join(pins["onnx/model.onnx"].as_str().expect("a sha256"))
    );

    // Once more, from another of our caches, and by its new state: nothing of what is there comes
    // again.
    let asked = hub.seen().len();
    assert_eq!(person.json(&["models", "pull", "acme/made"])["fetched"], 0);
    assert_eq!(hub.seen().len(), asked, "one that is pinned and whole is not asked for");
    let other = person.home.path().join("other").display().to_string();
    let out = person
        .command(&["models", "pull", "acme/made", "--json"])
        .env("BRAHMAN_CACHE", &other)
        .output()
        .expect("brahman runs");
    let shared: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(shared["fetched"], 0, "the hub's cache is shared: {out:?}");
    let newer = publish(&hub, "acme/made", &MadeModel { seed: 1, ..split() }, false);
    assert_eq!(
        person.json(&["models", "pull", "acme/made"])["revision"],
        json!(commit),
        "it is pinned"
    );
    // What was damaged here comes again, as it was.
    std::fs::remove_file(folder.join("tokenizer.json")).expect("removed");
    publish(&hub, "acme/made", &split(), false);
    assert_eq!(person.json(&["models", "pull", "acme/made"])["revision"], json!(commit));
    assert!(folder.join("tokenizer.json").is_file());
    publish(&hub, "acme/made", &MadeModel { seed: 1, ..split() }, false);
    let moved = person.json(&["models", "pull", "acme/made", "--force"]);
    assert_eq!(moved["revision"], json!(newer));
    // The graph is the same, the table is another.
    assert!(moved["fetched"].as_u64() < moved["bytes"].as_u64(), "{moved}");

    let listed = person.json(&["models", "list"]);
    assert_eq!(
        (&listed["models"][0]["name"], &listed["models"][0]["repository"]),
        (&json!("made"), &json!(format!("acme/made@{newer}")))
    );
    // Its files are another model's, too.
    person.json(&["models", "pull", "acme/made", "--name", "twin"]);
    refused(
        &person.brahman(&["models", "remove", "made", "--hub-cache"]),
        6,
        &["twin", "acme/made"],
    );
    assert!(folder.exists() && repository.exists(), "nothing was removed");
    person.json(&["models", "remove", "twin"]);
    let removed = person.json(&["models", "remove", "made", "--hub-cache"]);
    assert!(
        removed["hub_cache"].is_string() && !folder.exists() && !repository.exists(),
        "{removed}"
    );
    refused(&person.brahman(&["models", "remove", "made"]), 4, &["made"]);
}

#[test]
fn the_token_opens_what_is_gated_and_goes_nowhere_else() {
    let hub = Hub::start();
    publish(&hub, "acme/gated", &made(), true);
    let person = Person::of(&hub);
    refused(
        &person.brahman(&["models", "pull", "acme/gated"]),
        1,
        &["401", "HF_TOKEN", "/acme/gated", "accepted"],
    );
    let with = |token: &str, model: &str| {
        person
            .command(&["models", "pull", model])
            .env("HF_TOKEN", token)
            .output()
            .expect("brahman runs")
    };
    let wrong = with("hf_wrong", "acme/gated");
    refused(&wrong, 1, &["403", "token of HF_TOKEN"]);
    assert!(!said(&wrong).contains("hf_wrong"), "a token is not shown");
    assert!(with(TOKEN, "acme/gated").status.success());
    assert!(blobs(&hub).iter().all(|request| request.token.is_none()), "{:?}", blobs(&hub));
    assert!(hub.seen().iter().any(|request| request.token.as_deref() == Some(TOKEN)));
    // What is not there is told only to who has a token.
    refused(
        &person.brahman(&["models", "pull", "acme/none"]),
        1,
        &["private, gated or not there", "HF_TOKEN"],
    );
    refused(&with(TOKEN, "acme/none"), 4, &["404"]);
}

#[test]
fn what_was_cut_off_goes_on_where_it_stopped() {
    let (hub, _) = hub_of("acme/made", &made());
    let mut cuts = 3;
    hub.when(move |request| {
        if request.is_cdn && request.target.starts_with("/blobs/") && cuts > 0 {
            cuts -= 1;
            return Trouble::Cut(100);
        }
        Trouble::None
    });
    let person = Person::of(&hub);
    let out = person.brahman(&["models", "pull", "acme/made"]);
    assert!(out.status.success(), "{out:?}");
    assert!(
        said(&out).contains("cut off after 100 of") && said(&out).contains("trying again"),
        "{out:?}"
    );
    let from: Vec<Option<usize>> = blobs(&hub).iter().take(4).map(|request| request.from).collect();
    assert_eq!(from, [None, Some(100), Some(200), Some(300)]);
}

#[test]
fn a_pull_that_was_killed_goes_on_where_it_stood() {
    let (hub, _) = hub_of("acme/made", &made());
    hub.when(|request| if request.is_cdn { Trouble::Stall(150) } else { Trouble::None });
    let person = Person::of(&hub);
    let mut killed = person
        .command(&["models", "pull", "acme/made"])
        .stderr(Stdio::null())
        .spawn()
        .expect("brahman runs");
    hub.stalled();
    let blobs_folder = person.shared().join("models--acme--made/blobs");
    let half = || {
        let is_partial = |entry: &std::fs::DirEntry| {
            entry.file_name().to_string_lossy().ends_with(".incomplete")
        };
        let mut partials =
            std::fs::read_dir(&blobs_folder).into_iter().flatten().flatten().filter(is_partial);
        partials.any(|entry| entry.metadata().is_ok_and(|meta| meta.len() == 150))
    };
    // There is no event for what another process has written.
    let begun = Instant::now();
    while !half() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(half(), "half of it has come");
    killed.kill().and_then(|()| killed.wait()).expect("killed");
    hub.heal();
    hub.release();
    assert!(!person.cache().join("models/made").exists(), "a half is no model");
    let out = person.brahman(&["models", "pull", "acme/made"]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(
        blobs(&hub).iter().map(|request| request.from).take(2).collect::<Vec<_>>(),
        [None, Some(150)]
    );
    let left = std::fs::read_dir(person.cache().join("models")).expect("there").flatten();
    let left: Vec<_> = left
        .map(|entry| entry.file_name())
        .filter(|name| !name.to_string_lossy().ends_with("~lock"))
        .collect();
    assert_eq!(left, ["made"], "nothing is left of it");
}

#[test]
fn two_pulls_at_once_fetch_one_file_once() {
    let (hub, _) = hub_of("acme/made", &made());
    hub.when(|request| if request.is_cdn { Trouble::Stall(10) } else { Trouble::None });
    let person = Person::of(&hub);
    let mut first = person.command(&["models", "pull", "acme/made"]);
    let mut first =
        first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("brahman runs");
    hub.stalled();
    // Of another of our caches, and the same of the hub.
    let mut second = person.command(&["models", "pull", "acme/made"]);
    second
        .env("BRAHMAN_CACHE", person.home.path().join("other"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut second = second.spawn().expect("brahman runs");
    let mut lines = BufReader::new(second.stderr.take().expect("a pipe")).lines();
    let word = lines.next().expect("it says that it waits").expect("text");
    assert!(word.contains("being fetched by another process"), "{word}");
    hub.heal();
    hub.release();
    // What it says from now on is read, so that it is not held up.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(
        first.wait().expect("it ends").success() && second.wait().expect("it ends").success(),
        "{rest:?}"
    );
    let mut targets: Vec<String> = blobs(&hub).into_iter().map(|request| request.target).collect();
    let all = targets.len();
    targets.sort();
    targets.dedup();
    assert_eq!(targets.len(), all, "each once");
}

#[test]
fn a_hub_that_lies_is_not_believed() {
    let (hub, _) = hub_of("acme/made", &made());
    let person = Person::of(&hub);
    let pull = || person.brahman(&["models", "pull", "acme/made"]);
    let blobs_folder = person.shared().join("models--acme--made/blobs");
    let is_graph = |request: &HubRequest| {
        request.target.contains("/resolve/") && request.target.ends_with("onnx/model.onnx")
    };

    // The same length and another content; another length; more than there is room for; nothing to
    // check it by.
    let folder = tempfile::tempdir().expect("a temporary directory");
    made().write(folder.path());
    let other =
        vec![7; std::fs::read(folder.path().join("onnx/model.onnx")).expect("written").len()];
    hub.when(
        move |request| if request.is_cdn { Trouble::Body(other.clone()) } else { Trouble::None },
    );
    refused(&pull(), 1, &["sha256", "was removed"]);
    assert_eq!(
        std::fs::read_dir(&blobs_folder).expect("there").count(),
        0,
        "nothing of it is kept"
    );
    hub.when(|request| if request.is_cdn { Trouble::Body(vec![7; 10]) } else { Trouble::None });
    refused(&pull(), 1, &["10 bytes where the hub says"]);
    hub.when(move |request| {
        if is_graph(request) {
            Trouble::Header("X-Linked-Size", (1_u64 << 60).to_string())
        } else {
            Trouble::None
        }
    });
    refused(&pull(), 1, &["no room", "HF_HUB_CACHE"]);
    hub.when(move |request| {
        if is_graph(request) {
            Trouble::Header("X-Linked-ETag", "\"abc\"".to_owned())
        } else {
            Trouble::None
        }
    });
    refused(&pull(), 1, &["cannot be checked"]);
    assert!(!person.cache().join("models/made").exists());
    // A server that knows no ranges, and half a file that is not of this one.
    let mut is_cut = false;
    hub.when(move |request| {
        if !request.is_cdn {
            return Trouble::None;
        }
        let was_cut = std::mem::replace(&mut is_cut, true);
        if was_cut { Trouble::NoRanges } else { Trouble::Cut(50) }
    });
    let out = pull();
    assert!(out.status.success(), "{out:?}");
    hub.heal();
    let id = blobs(&hub)[0]
        .target
        .trim_start_matches("/blobs/")
        .split('?')
        .next()
        .unwrap_or_default()
        .to_owned();
    std::fs::write(blobs_folder.join(&id), "damaged").expect("written");
    std::fs::write(blobs_folder.join(format!("{id}.incomplete")), "not a part of it")
        .expect("written");
    let again = person
        .command(&["models", "pull", "acme/made"])
        .env("BRAHMAN_CACHE", person.home.path().join("other"))
        .output();
    let again = again.expect("brahman runs");
    assert!(again.status.success() && said(&again).contains("from its beginning"), "{again:?}");
}

#[test]
fn a_hub_that_is_busy_is_asked_again_and_one_that_is_gone_is_told() {
    let (hub, _) = hub_of("acme/made", &made());
    let person = Person::of(&hub);
    let busy = |after: &str| Trouble::Status(429, Some(("Retry-After", after.to_owned())));
    let (mut times, at_once) = (2, busy("0"));
    hub.when(move |_| {
        if times > 0 {
            times -= 1;
            return at_once.clone();
        }
        Trouble::None
    });
    assert!(person.brahman(&["models", "pull", "acme/made"]).status.success());
    let later = busy("3600");
    hub.when(move |_| later.clone());
    refused(&person.brahman(&["models", "pull", "acme/other"]), 5, &["429", "3600 s", "HF_TOKEN"]);
    let gone = person
        .command(&["models", "pull", "acme/other"])
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .output()
        .expect("brahman runs");
    refused(&gone, 1, &["cannot be reached", "HF_ENDPOINT", "HF_HUB_OFFLINE"]);
    // Offline what is in the hub's cache is as good, and nobody is asked.
    let asked = hub.seen().len();
    let offline = |model: &str| {
        let mut command = person.command(&["models", "pull", model]);
        command
            .env("HF_HUB_OFFLINE", "1")
            .env("BRAHMAN_CACHE", person.home.path().join("other"))
            .output()
            .expect("brahman runs")
    };
    let out = offline("acme/made");
    assert!(out.status.success(), "{out:?}");
    refused(&offline("acme/other"), 4, &["HF_HUB_OFFLINE", "acme/other@main"]);
    assert_eq!(hub.seen().len(), asked);
}

#[test]
fn a_model_without_products_is_pulled_and_not_quantised() {
    let (hub, _) = hub_of("acme/made", &made());
    let person = Person::of(&hub);
    refused(
        &person.brahman(&["models", "pull", "acme/made", "--precision", "int8"]),
        6,
        &["onnx/model.onnx", "no product with a constant matrix"],
    );
    let models = person.cache().join("models");
    assert!(models.join("made/brahman.json").exists() && !models.join("made-int8").exists());
    refused(&person.brahman(&["models", "quantize", "other"]), 4, &["no model called `other`"]);
    refused(&person.brahman(&["models", "quantize", "./other"]), 4, &["does not exist"]);
    refused(&person.brahman(&["models", "pull", "acme/made", "--precision", "int4"]), 2, &["int8"]);
}

#[test]
fn cuda_s_libraries_are_looked_for_and_remembered_and_what_is_missing_is_named() {
    let hub = Hub::start();
    let person = Person::of(&hub);
    // A library of the person's own: nothing is fetched.
    let (library, folder) =
        (person.home.path().join("libonnxruntime.so"), person.home.path().join("cuda"));
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(&library, b"").expect("written");
    let pull = |arguments: &[&str]| {
        person
            .command(&[&["models", "pull", "--gpu", "--json"][..], arguments].concat())
            .env("ORT_DYLIB_PATH", &library)
            .env("LD_LIBRARY_PATH", &folder)
            .output()
            .expect("brahman runs")
    };
    let names = [
        "libcudart.so.13",
        "libnvrtc.so.13",
        "libcublasLt.so.13",
        "libcublas.so.13",
        "libcurand.so.10",
        "libcufft.so.12",
        "libcudnn.so.9",
    ];
    for name in names {
        std::fs::write(folder.join(name), b"").expect("written");
    }
    let out = pull(&[]);
    assert!(out.status.success(), "{out:?}");
    let pulled: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(
        (&pulled["library"], &pulled["missing"], &pulled["mend"]),
        (&json!(library), &json!([]), &Value::Null)
    );
    assert_eq!(pulled["cuda"][0], json!(folder));
    let record =
        std::fs::read(person.cache().join("onnxruntime-gpu/cuda.json")).expect("remembered");
    assert_eq!(serde_json::from_slice::<Value>(&record).expect("JSON")[0], json!(folder));
    refused(&pull(&["--python", "/nonexistent/python"]), 1, &["/nonexistent/python", "--python"]);
    refused(&person.brahman(&["models", "pull", "acme/made", "--gpu"]), 2, &["--gpu"]);
}
