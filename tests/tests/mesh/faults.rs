//! Promise 2: nothing degrades in silence. Models, caches and descriptors that are not as they
//! should be.

use std::os::unix::fs::PermissionsExt as _;

use brahman_card::ModuleState;
use brahman_sidecar::Connection;
use brahman_tests::{Setup, repository, shipped};
use serde_json::{Value, json};

fn real(cards: &[&str]) -> Setup {
    Setup::new(&cards.iter().map(|c| shipped(c)).collect::<Vec<_>>()).context("prod")
}

#[tokio::test]
async fn without_a_model_prod_answers_no_provider_and_never_a_mock() {
    let mesh = real(&["broker", "embed-mock", "embed-real"])
        .env("BRAHMAN_MODEL_DIR", "/nonexistent")
        .real_model()
        .up()
        .await;
    let module = mesh.when_module("embed-real", ModuleState::Failed).await;
    let reason = module.reason.unwrap_or_default();
    assert!(
        reason.contains("no model at /nonexistent") && reason.contains("brahman models pull"),
        "{reason}"
    );
    let fault = mesh.fault("org.brahman.Embed.EmbedText", json!({"texts": ["x"]})).await;
    assert_eq!(fault.name, "org.brahman.Broker.NoProvider");
    assert!(fault.message().contains("embed-mock: is excluded in context `prod`"), "{fault}");
    assert_eq!(mesh.module("embed-real").await.restarts, 0);
    // Elsewhere the mock serves as before.
    mesh.call("org.brahman.Broker.SetContext", json!({"context": "test"})).await.expect("set");
    assert_eq!(
        mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["x"]})).await.expect("served")["mock"],
        true
    );
}

#[tokio::test]
async fn without_the_library_the_reason_is_in_status() {
    let mesh = real(&["broker", "embed-real"])
        .env("ORT_DYLIB_PATH", "/nonexistent/libonnxruntime.so")
        .up()
        .await;
    let reason =
        mesh.when_module("embed-real", ModuleState::Failed).await.reason.unwrap_or_default();
    assert!(reason.contains("/nonexistent/libonnxruntime.so"), "{reason}");
}

#[tokio::test]
async fn a_flipped_byte_in_the_model_is_named() {
    let setup = real(&["broker", "embed-real"]).real_model();
    let from = setup.cache().join("models/all-MiniLM-L6-v2");
    let to = setup.cache().with_file_name("model");
    std::fs::create_dir(&to).expect("made");
    for file in ["model.onnx", "tokenizer.json", "brahman.json"] {
        let mut bytes = std::fs::read(from.join(file)).expect("the model is there");
        if file == "model.onnx" {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        std::fs::write(to.join(file), bytes).expect("written");
    }
    let mesh = setup.env("BRAHMAN_MODEL_DIR", &to).up().await;
    let reason =
        mesh.when_module("embed-real", ModuleState::Failed).await.reason.unwrap_or_default();
    assert!(reason.contains("model.onnx is damaged"), "{reason}");
}

#[tokio::test]
async fn the_real_embedder_is_right_caches_and_says_what_it_cut() {
    let mesh = real(&["broker", "embed-real"]).real_model().up().await;
    mesh.when_module("embed-real", ModuleState::Ready).await;
    let embed = async |texts: Value, truncate: bool| {
        mesh.call("org.brahman.Embed.EmbedText", json!({"texts": texts, "truncate": truncate}))
            .await
    };
    // As sentence-transformers publishes it for this model.
    let first =
        embed(json!(["hello world", "hello world", "another"]), false).await.expect("embedded");
    let head: Vec<f64> = first["vectors"][0].as_array().expect("numbers")[..3]
        .iter()
        .map(|x| x.as_f64().expect("a number"))
        .collect();
    for (got, want) in head.iter().zip([-0.03447, 0.03102, 0.00673]) {
        assert!((got - want).abs() < 1e-4, "{head:?}");
    }
    assert_eq!((&first["cached"], &first["vectors"][0]), (&json!(0), &first["vectors"][1]));
    assert_eq!(embed(json!(["another", "new"]), false).await.expect("embedded")["cached"], 1);
    let long = "word ".repeat(400);
    for _ in 0..2 {
        // The second time it would be in the cache: it is refused all the same.
        let fault = mesh.fault("org.brahman.Embed.EmbedText", json!({"texts": ["x", long]})).await;
        assert_eq!(
            (fault.name.as_ref(), &fault.parameters["index"], &fault.parameters["max_tokens"]),
            ("org.brahman.Embed.TextTooLong", &json!(1), &json!(256))
        );
        let cut = embed(json!([long]), true).await.expect("embedded");
        assert_eq!(cut["truncated"], json!([{"index": 0, "tokens": 402, "kept": 256}]));
    }
    let path = repository().join("Cargo.toml").display().to_string();
    let file =
        mesh.call("org.brahman.Embed.EmbedFile", json!({"path": path})).await.expect("embedded");
    assert_eq!(file["dim"], 384);
    assert_eq!(
        mesh.fault("org.brahman.Embed.EmbedFile", json!({"path": "/nonexistent"})).await.name,
        "org.brahman.Embed.FileUnreadable"
    );
    assert_eq!(
        mesh.fault("org.brahman.Embed.EmbedFile", json!({"path": "/dev/zero"})).await.name,
        "org.brahman.Embed.FileUnreadable"
    );
}

#[tokio::test]
async fn the_cache_outlives_a_kill_and_a_bad_one_is_said_in_every_reply() {
    let mesh = real(&["broker", "embed-real"]).real_model().up().await;
    let pid = mesh.when_module("embed-real", ModuleState::Ready).await.pid;
    let ask = json!({"texts": ["remember me"]});
    mesh.call("org.brahman.Embed.EmbedText", ask.clone()).await.expect("embedded");
    // Ended in order, it writes its cache out; then the files are damaged under it.
    assert!(mesh.brahman(&["restart", "embed-real"]).status.success());
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == "embed-real" && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
    assert_eq!(
        mesh.call("org.brahman.Embed.EmbedText", ask.clone()).await.expect("embedded")["cached"],
        1
    );
    assert!(mesh.brahman(&["stop", "embed-real"]).status.success());
    mesh.when_module("embed-real", ModuleState::Stopped).await;
    let cache = mesh.folder.path().join("cache/embed");
    std::fs::remove_dir_all(&cache).expect("removed");
    std::fs::write(&cache, b"a file where a folder should be").expect("written");
    assert!(mesh.brahman(&["start", "embed-real"]).status.success());
    mesh.when_module("embed-real", ModuleState::Ready).await;
    let out = mesh.call("org.brahman.Embed.EmbedText", ask).await.expect("served without a cache");
    assert!(
        out["warnings"][0].as_str().is_some_and(|w| w.starts_with("no cache: ")),
        "{}",
        out["warnings"]
    );
}

#[tokio::test]
async fn hanging_up_stops_the_work() {
    let mesh = real(&["broker", "embed-real"]).real_model().up().await;
    mesh.when_module("embed-real", ModuleState::Ready).await;
    let texts: Vec<String> = (0..600)
        .map(|i| format!("{i} {}", "some words to be embedded at length ".repeat(20)))
        .collect();
    let message = brahman_sidecar::client::encode_call(
        "org.brahman.Embed.EmbedText",
        &json!({"texts": texts}),
        &brahman_sidecar::CallOptions::default(),
        false,
        false,
    )
    .expect("a call");
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connected");
    connection.send(&message).await.expect("sent");
    let info = async || mesh.call("org.brahman.Embed.Info", json!({})).await.expect("info");
    while info().await["queue"].as_u64() < Some(100) {}
    drop(connection);
    let idle = async { while info().await["queue"].as_u64() > Some(0) {} };
    tokio::time::timeout(brahman_tests::PATIENCE, idle).await.expect("the queue empties");
    let after = info().await;
    assert!(after["cancelled"].as_u64() > Some(100), "{after}");
    assert!(after["computed"].as_u64() < Some(500), "{after}");
}

#[tokio::test]
async fn out_of_descriptors_a_module_says_so_and_recovers() {
    let (name, text) = shipped("embed-mock");
    let mesh = Setup::new(&[
        shipped("broker"),
        (name, text.replace("[payload.native]", "limits = { files = 40 }\n[payload.native]")),
    ])
    .context("test")
    .up()
    .await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let path = mesh.beside("embed-mock.sock");
    let mut held = Vec::new();
    let mut refused = None;
    for _ in 0..80 {
        let mut connection = Connection::connect(&path).await.expect("the backlog takes it");
        match tokio::time::timeout(
            std::time::Duration::from_secs(5),
            connection.call::<_, Value>("org.brahman.Embed.Info", &json!({})),
        )
        .await
        {
            Ok(Ok(_)) => held.push(connection),
            Ok(Err(error)) => {
                refused = Some(error.to_string());
                break;
            }
            Err(_) => break,
        }
    }
    assert!(refused.as_ref().is_some_and(|r| r.contains("out of file descriptors")), "{refused:?}");
    drop(held);
    let answered = async {
        while Connection::connect(&path)
            .await
            .expect("connected")
            .call::<_, Value>("org.brahman.Embed.Info", &json!({}))
            .await
            .is_err()
        {}
    };
    tokio::time::timeout(brahman_tests::PATIENCE, answered).await.expect("it recovers");
    assert_eq!(mesh.module("embed-mock").await.restarts, 0);
}

#[tokio::test]
async fn another_user_is_turned_away() {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "this test changes its uid and so needs root; the rule it tests is the same for any user"
        );
        return;
    }
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock")]).context("test").up().await;
    mesh.when_module("embed-mock", ModuleState::Ready).await;
    let ask = |path: &std::path::Path| {
        let python = format!(
            "import os,socket,sys\nos.setgid(65534)\nos.setuid(65534)\ns=socket.socket(socket.AF_UNIX)\ntry: s.connect({:?})\nexcept PermissionError: print('denied'); sys.exit()\ntry: s.sendall(b'{{\"method\":\"org.varlink.service.GetInfo\"}}\\0')\nexcept BrokenPipeError: pass\nprint(s.recv(4096).decode())",
            path.display().to_string()
        );
        let out = std::process::Command::new("python3")
            .args(["-c", &python])
            .output()
            .expect("python3 runs");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    assert_eq!(ask(&mesh.socket()), "denied", "the directory keeps others out");
    for path in [mesh.folder.path().to_owned(), mesh.folder.path().join("run")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("opened");
    }
    for socket in [mesh.socket(), mesh.beside("embed-mock.sock"), mesh.beside("init.sock")] {
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).expect("opened");
        let words = ask(&socket);
        assert!(
            words.contains("PermissionDenied") && words.contains("uid 65534"),
            "{}: {words}",
            socket.display()
        );
    }
}

/// A small file system; unmounted on drop.
pub(crate) struct Tiny(std::path::PathBuf);

impl Tiny {
    pub(crate) fn mount(at: &std::path::Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("made");
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at)
            .output();
        done.is_ok_and(|out| out.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn on_a_full_disk_nothing_half_done_is_published_and_the_mesh_serves_on() {
    let setup =
        Setup::new(&["broker", "embed-mock", "catalog", "ingest"].map(shipped)).context("test");
    let state = setup.cache().with_file_name("state");
    let Some(_tiny) = Tiny::mount(&state, "size=1m") else {
        eprintln!("this test mounts a small file system and so needs root");
        return;
    };
    let mesh = setup.up().await;
    mesh.when_module("ingest", ModuleState::Ready).await;
    let folder = mesh.folder.path().join("docs");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(folder.join("small.txt"), "fits").expect("written");
    let paths = json!({"dataset": "docs", "paths": [folder.display().to_string()]});
    assert_eq!(
        mesh.call("org.brahman.Ingest.Files", paths.clone()).await.expect("fits")["generation"],
        1
    );
    // Random hexadecimal digits halve at best.
    let mut random = 1_u64;
    let noise: String = (0..400_000)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!("{:08x}", random >> 32)
        })
        .collect();
    std::fs::write(folder.join("large.txt"), noise).expect("written");
    let fault = mesh.fault("org.brahman.Ingest.Files", paths).await;
    assert!(fault.message().contains("No space left"), "{fault}");
    let dataset = mesh
        .call("org.brahman.Catalog.Get", json!({"name": "docs"}))
        .await
        .expect("the old generation stands");
    assert_eq!(
        (&dataset["dataset"]["generation"], &dataset["dataset"]["rows"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["x"]})).await.expect("served")["dim"],
        32
    );
}

#[tokio::test]
async fn a_read_only_cache_is_said_and_served_without() {
    let setup = real(&["broker", "embed-real"]).real_model();
    let Some(_tiny) = Tiny::mount(&setup.cache().join("embed"), "size=1m,ro") else {
        eprintln!("this test mounts a file system and so needs root");
        return;
    };
    let mesh = setup.up().await;
    mesh.when_module("embed-real", ModuleState::Ready).await;
    let out =
        mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["x"]})).await.expect("served");
    assert!(
        out["warnings"][0].as_str().is_some_and(|w| w.starts_with("no cache: ")),
        "{}",
        out["warnings"]
    );
    let attributes = mesh.module("embed-real").await.attributes;
    assert!(attributes["cache"].starts_with("absent: "), "{attributes:?}");
}
