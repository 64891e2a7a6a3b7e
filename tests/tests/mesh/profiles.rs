//! Profiles on the mesh: switching between sets of models that share one, what can be named
//! meanwhile, and what a death, a lack of memory or a missing driver leaves.
//!
//! Models are mocks whose Cards declare what they take, where only the gate matters, and small ones
//! that were made where time does.

mod ollama;
mod scope;

use std::time::{Duration, Instant};

use brahman_card::{Fault, ModuleRecord, ModuleState};
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, ClientError, Connection};
use brahman_tests::made_models::MadeModel;
use brahman_tests::{Mesh, PATIENCE, Setup, gone, script, shipped, stranger};
use serde_json::{Value, json};

/// A mock that declares what it takes.
fn mock(label: &str, mib: u64) -> (String, String) {
    let (_, text) = shipped("embed-mock");
    let text = text.replace(
        "label = \"embed-mock\"",
        &format!("label = \"{label}\"\nlimits = {{ vram_mib = {mib} }}"),
    );
    (label.to_owned(), text)
}

/// One that takes a moment until it serves, in which somebody can be killed.
fn slow(label: &str, mib: u64) -> (String, String) {
    let handle = "
time.sleep(0.7)
def handle(c, m):
    reply(c, {\"parameters\": {}})
";
    stranger(label, "org.example.Slow", &[], handle, &format!("limits = {{ vram_mib = {mib} }}"))
}

/// A mesh whose main memory is so small that what models take matters, and whose modules give way
/// at once.
fn setup(cards: &[(String, String)], mib: u64) -> Setup {
    let mut all = vec![shipped("broker"), shipped("profiles")];
    all.extend(cards.iter().cloned());
    // A context that no Card names is refused.
    let has_context = all.iter().any(|(_, card)| card.contains("priority_contexts.test"));
    let setup = Setup::new(&all).env("BRAHMAN_PROFILES_CPU_MIB", mib.to_string());
    let setup = if has_context { setup.context("test") } else { setup };
    setup.env("BRAHMAN_PROFILES_RESIDENCY_S", "0").env("BRAHMAN_NVML", "/no/such/nvml.so")
}

async fn up(cards: &[(String, String)], mib: u64) -> Mesh {
    let mesh = setup(cards, mib).up().await;
    mesh.when(|modules| modules.iter().all(|module| module.state == ModuleState::Ready)).await;
    mesh
}

async fn define(mesh: &Mesh, profile: Value) {
    mesh.call("org.brahman.Profiles.Define", json!({ "profile": profile })).await.expect("defined");
}

async fn activate(mesh: &Mesh, id: &str) -> Result<Value, ClientError> {
    mesh.call("org.brahman.Profiles.Activate", json!({ "id": id })).await
}

async fn active(mesh: &Mesh) -> Value {
    // A service that was killed is back in a moment, and whoever asks waits for it.
    mesh.call("org.brahman.Profiles.Active", json!({})).await.expect("told")["id"].clone()
}

fn fault(outcome: Result<Value, ClientError>) -> Fault {
    match outcome {
        Err(ClientError::Fault(fault)) => fault,
        other => panic!("expected an error reply, got {other:?}"),
    }
}

/// Whether exactly these of the modules serve, and the others have ended.
fn serve(modules: &[ModuleRecord], among: &[&str], ready: &[&str]) -> bool {
    among.iter().all(|label| {
        let module = modules.iter().find(|module| module.card.label.as_str() == *label);
        let wanted = if ready.contains(label) { ModuleState::Ready } else { ModuleState::Stopped };
        module.is_some_and(|module| module.state == wanted)
    })
}

#[tokio::test]
async fn a_switch_frees_one_model_and_loads_the_other_and_the_shared_one_stays() {
    let mesh = up(&[mock("shared", 200), mock("phi", 600), mock("qwen", 600)], 1000).await;
    define(&mesh, json!({"id": "staffing-recruiter", "modules": ["shared", "phi"]})).await;
    define(&mesh, json!({"id": "docs-assistant", "modules": ["shared", "qwen"]})).await;
    let first = activate(&mesh, "staffing-recruiter").await.expect("activated");
    assert_eq!(
        (&first["active"], &first["unloaded"]),
        (&json!("staffing-recruiter"), &json!(["qwen"])),
        "{first}"
    );
    let all = ["shared", "phi", "qwen"];
    let before = mesh.when(|modules| serve(modules, &all, &["shared", "phi"])).await;
    let again = activate(&mesh, "staffing-recruiter").await.expect("activated");
    assert_eq!(
        (&again["loaded"], &again["unloaded"]),
        (&json!([]), &json!([])),
        "the same again is nothing to do"
    );
    // 220 + 660 + 660 MiB do not fit: what is not needed ends first.
    let switched = activate(&mesh, "docs-assistant").await.expect("activated");
    assert_eq!(
        (&switched["loaded"], &switched["unloaded"]),
        (&json!(["qwen"]), &json!(["phi"])),
        "{switched}"
    );
    let after = mesh.when(|modules| serve(modules, &all, &["shared", "qwen"])).await;
    let pid = |modules: &[ModuleRecord], label: &str| {
        modules.iter().find(|m| m.card.label.as_str() == label).expect("there").pid
    };
    assert_eq!(pid(&before, "shared"), pid(&after, "shared"), "it has not ended");
    let vram = mesh.call("org.brahman.Profiles.Vram", json!({})).await.expect("told");
    let slot = &vram["slots"][0];
    let reserved: u64 = slot["reservations"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|held| held["mib"].as_u64().expect("a number"))
        .sum();
    assert!(slot["slot"] == "cpu" && slot["capacity_mib"] == 1000 && reserved <= 1000, "{vram}");
    let listed = mesh.brahman_json(&["profile", "list"]);
    let is_active = |id: &str| {
        listed["profiles"]
            .as_array()
            .is_some_and(|all| all.iter().any(|p| p["id"] == id && p["active"] == true))
    };
    assert!(is_active("docs-assistant") && !is_active("staffing-recruiter"), "{listed}");
    let left = mesh.call("org.brahman.Profiles.Deactivate", json!({})).await.expect("left");
    assert_eq!((&left["previous"], active(&mesh).await), (&json!("docs-assistant"), Value::Null));
    mesh.when(|modules| serve(modules, &all, &[])).await;
    // What was unloaded so is loaded by the next call that needs it.
    mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["a text"]})).await.expect("answered");
    mesh.down();
}

#[tokio::test]
async fn a_lack_of_room_is_told_whole_and_leaves_the_former_profile_as_it_was() {
    let mesh = up(&[mock("large", 600), mock("other", 600)], 1000).await;
    define(&mesh, json!({"id": "pinned", "modules": ["large"], "pinned": true})).await;
    define(&mesh, json!({"id": "both", "modules": ["large", "other"]})).await;
    define(&mesh, json!({"id": "missing", "modules": ["large", "no-such-module"]})).await;
    activate(&mesh, "pinned").await.expect("activated");
    let before = mesh.when_module("large", ModuleState::Ready).await.pid;
    let refused = fault(activate(&mesh, "both").await);
    assert_eq!(
        (refused.name.as_ref(), &refused.parameters["needed_mib"]),
        ("org.brahman.Profiles.NoRoom", &json!(660)),
        "{refused}"
    );
    assert_eq!(
        (&refused.parameters["slot"], &refused.parameters["free_mib"]),
        (&json!("cpu"), &json!(340)),
        "{refused}"
    );
    assert_eq!(refused.parameters["holders"][0]["module"], "large", "{refused}");
    let missing = fault(activate(&mesh, "missing").await);
    assert_eq!(
        (missing.name.as_ref(), &missing.parameters["model"]),
        ("org.brahman.Profiles.NoSuchModel", &json!("no-such-module"))
    );
    assert_eq!(
        fault(activate(&mesh, "no-such-profile").await).name,
        "org.brahman.Profiles.NoSuchProfile"
    );
    let pinned = mesh.fault("org.brahman.Profiles.Unload", json!({"model": "large"})).await;
    assert_eq!(
        (pinned.name.as_ref(), &pinned.parameters["module"]),
        ("org.brahman.Profiles.Pinned", &json!("large"))
    );
    assert_eq!(
        (active(&mesh).await, mesh.module("large").await.pid),
        (json!("pinned"), before),
        "nothing has changed"
    );
    assert_eq!(mesh.brahman(&["profile", "activate", "no-such-profile"]).status.code(), Some(4));
    mesh.down();
}

#[tokio::test]
async fn a_model_that_does_not_load_leaves_the_former_profile_serving() {
    let broken = script("broken", "exit 78", "limits = { vram_mib = 600 }");
    let mesh = setup(&[mock("good", 600), broken], 1000).up().await;
    mesh.when_module("good", ModuleState::Ready).await;
    define(&mesh, json!({"id": "good", "modules": ["good"]})).await;
    define(&mesh, json!({"id": "bad", "modules": ["broken"]})).await;
    activate(&mesh, "good").await.expect("activated");
    let failed = fault(activate(&mesh, "bad").await);
    assert_eq!(
        (failed.name.as_ref(), &failed.parameters["module"]),
        ("org.brahman.Profiles.LoadFailed", &json!("broken")),
        "{failed}"
    );
    assert_eq!(active(&mesh).await, "good");
    mesh.when_module("good", ModuleState::Ready).await;
    mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["a text"]})).await.expect("answered");
    let loaded = mesh.call("org.brahman.Profiles.Loaded", json!({})).await.expect("told");
    let held: Vec<&Value> =
        loaded["models"].as_array().expect("a list").iter().map(|model| &model["module"]).collect();
    assert_eq!(held, [&json!("good")], "nothing is kept for what does not run: {loaded}");
    mesh.down();
}

#[tokio::test]
async fn a_death_at_any_step_of_an_activation_leaves_the_one_profile_or_the_other() {
    let mesh = setup(&[slow("old", 600), slow("new", 600)], 1000).up().await;
    mesh.when(|modules| modules.iter().all(|module| module.state == ModuleState::Ready)).await;
    define(&mesh, json!({"id": "old", "modules": ["old"]})).await;
    define(&mesh, json!({"id": "new", "modules": ["new"]})).await;
    let state = |modules: &[ModuleRecord], label: &str| {
        modules.iter().find(|m| m.card.label.as_str() == label).map(|m| m.state)
    };
    type Step = fn(Option<ModuleState>, Option<ModuleState>) -> bool;
    let steps: [(&str, Step); 4] = [
        ("asked", |_, _| true),
        ("the old one ends", |old, _| old != Some(ModuleState::Ready)),
        ("the new one loads", |_, new| {
            matches!(new, Some(ModuleState::Starting | ModuleState::Loading))
        }),
        ("the new one serves", |_, new| new == Some(ModuleState::Ready)),
    ];
    for (words, step) in steps {
        activate(&mesh, "old").await.expect("activated");
        mesh.when(|modules| serve(modules, &["old", "new"], &["old"])).await;
        let service = mesh.module("profiles").await.pid;
        let mut asking =
            Connection::connect(&mesh.beside("profiles.sock")).await.expect("connected");
        let ask = encode_call(
            "org.brahman.Profiles.Activate",
            &json!({"id": "new"}),
            &CallOptions::default(),
            false,
            false,
        );
        asking.send(&ask.expect("a call")).await.expect("sent");
        mesh.when(|modules| step(state(modules, "old"), state(modules, "new"))).await;
        mesh.signal(service, "KILL");
        gone(service).await;
        mesh.when(|modules| {
            modules.iter().any(|m| {
                m.card.label.as_str() == "profiles"
                    && m.state == ModuleState::Ready
                    && m.pid != service
            })
        })
        .await;
        // What was cut off may go on: then the new one is active in the end.
        let now = loop {
            let now = active(&mesh)
                .await
                .as_str()
                .unwrap_or_else(|| panic!("{words}: none is active"))
                .to_owned();
            let settled = mesh.when(|modules| serve(modules, &["old", "new"], &[now.as_str()]));
            if tokio::time::timeout(Duration::from_secs(5), settled).await.is_ok()
                && active(&mesh).await == json!(now)
            {
                break now;
            }
        };
        let vram = mesh.call("org.brahman.Profiles.Vram", json!({})).await.expect("told");
        let held = vram["slots"][0]["reservations"].as_array().map_or(0, Vec::len);
        assert_eq!(held, 1, "killed when {words}: {vram}");
        println!("killed when {words}: {now} is active");
    }
    mesh.down();
}

#[tokio::test]
async fn of_two_activations_at_once_one_comes_after_the_other() {
    let mesh = up(&[mock("a", 600), mock("b", 600)], 1000).await;
    define(&mesh, json!({"id": "a", "modules": ["a"]})).await;
    define(&mesh, json!({"id": "b", "modules": ["b"]})).await;
    for _ in 0..3 {
        let (one, other) = tokio::join!(activate(&mesh, "a"), activate(&mesh, "b"));
        assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
        let now = active(&mesh).await;
        mesh.when(|modules| serve(modules, &["a", "b"], &[now.as_str().expect("one of them")]))
            .await;
    }
    mesh.down();
}

#[tokio::test]
async fn calls_for_a_profile_that_is_being_left_are_answered_or_refused_and_none_is_lost() {
    let mesh = up(&[mock("a", 600), mock("b", 600)], 1000).await;
    define(&mesh, json!({"id": "a", "modules": ["a"]})).await;
    define(&mesh, json!({"id": "b", "modules": ["b"]})).await;
    activate(&mesh, "a").await.expect("activated");
    let socket = mesh.socket();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let calling: Vec<_> = (0..4)
        .map(|_| {
            let (socket, stopped) = (socket.clone(), stopped.clone());
            tokio::spawn(async move {
                let (mut answered, mut refused, mut lost) = (0, 0, 0);
                while !*stopped.borrow() {
                    let call = async {
                        let mut connection = Connection::connect(&socket).await?;
                        connection
                            .call::<_, Value>(
                                "org.brahman.Embed.EmbedText",
                                &json!({"texts": ["a text"]}),
                            )
                            .await
                    };
                    match tokio::time::timeout(PATIENCE, call).await {
                        Ok(Ok(_)) => answered += 1,
                        Ok(Err(ClientError::Fault(_))) => refused += 1,
                        Ok(Err(_)) | Err(_) => lost += 1,
                    }
                }
                (answered, refused, lost)
            })
        })
        .collect();
    for id in ["b", "a", "b", "a"] {
        activate(&mesh, id).await.expect("activated");
    }
    stop.send_replace(true);
    let mut sums = (0, 0, 0);
    for task in calling {
        let (answered, refused, lost) = task.await.expect("no panic");
        sums = (sums.0 + answered, sums.1 + refused, sums.2 + lost);
    }
    println!(
        "calls during four switches: {} answered, {} refused by type, {} lost or hung",
        sums.0, sums.1, sums.2
    );
    assert!(sums.0 > 0 && sums.2 == 0, "{sums:?}");
    mesh.down();
}

#[tokio::test]
async fn a_model_that_rests_is_unloaded_and_loaded_by_the_next_call_and_what_a_person_stops_stays_so()
 {
    let mesh = up(&[mock("rests", 100)], 1000).await;
    define(&mesh, json!({"id": "p", "modules": ["rests"], "idle_s": 1})).await;
    activate(&mesh, "p").await.expect("activated");
    mesh.when_module("rests", ModuleState::Stopped).await;
    let begun = Instant::now();
    let out = mesh
        .call("org.brahman.Embed.EmbedText", json!({"texts": ["a text"]}))
        .await
        .expect("it is loaded, and answers");
    assert_eq!(out["dim"], 32);
    println!("the first call of a model that rested: {:?}", begun.elapsed());
    mesh.when_module("rests", ModuleState::Stopped).await;
    let told =
        mesh.call("org.brahman.Profiles.Preload", json!({"model": "rests"})).await.expect("loaded");
    assert_eq!(told["loaded"], json!(["rests"]));
    // In one that lets it stay, so that nobody but a person stops it.
    define(&mesh, json!({"id": "q", "modules": ["rests"]})).await;
    activate(&mesh, "q").await.expect("activated");
    mesh.when_module("rests", ModuleState::Ready).await;
    assert!(mesh.brahman(&["stop", "rests"]).status.success());
    let refused = mesh.fault("org.brahman.Embed.EmbedText", json!({"texts": ["a text"]})).await;
    assert_eq!(refused.name, "org.brahman.Broker.NoProvider", "{refused}");
    mesh.down();
}

#[tokio::test]
async fn a_machine_without_nvml_is_told_so_in_time_and_has_a_main_memory() {
    let mesh = up(&[mock("m", 100)], 1000).await;
    let begun = Instant::now();
    let vram = mesh.call("org.brahman.Profiles.Vram", json!({})).await.expect("an answer");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!((&vram["gpus"], &vram["slots"][0]["slot"]), (&json!([]), &json!("cpu")), "{vram}");
    assert!(
        vram["reason"].as_str().is_some_and(|reason| reason.contains("no GPU"))
            && vram.get("external").is_none(),
        "{vram}"
    );
    let shown = mesh.brahman(&["gpu"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success() && text.contains("no GPU") && text.contains("cpu"), "{shown:?}");
    assert_eq!(
        fault(mesh.call("org.brahman.Profiles.Preload", json!({"model": "nothing"})).await).name,
        "org.brahman.Profiles.NoSuchModel"
    );
    mesh.down();
}

/// A Card for embed-real with this model, made in the mesh's folder.
fn real(setup: &Setup, name: &str) -> (String, String) {
    let folder = setup.cache().with_file_name(format!("model-{name}"));
    MadeModel::pooled_by(&["mean_tokens"]).write(&folder);
    let (_, text) = shipped("embed-real");
    let text = text.replace(
        "label = \"embed-real\"",
        &format!("label = \"embed-{name}\"\nlimits = {{ vram_mib = 200 }}"),
    );
    let text = text.replace("all-MiniLM-L6-v2\" }", &format!("model-{name}\" }}"));
    (
        format!("embed-{name}"),
        format!("{text}\n[environment]\nBRAHMAN_MODEL_DIR = \"{}\"\n", folder.display()),
    )
}

async fn embed(mesh: &Mesh, model: &str) -> Result<Value, ClientError> {
    let options = CallOptions {
        require: [("model".to_owned(), format!("model-{model}"))].into(),
        ..CallOptions::default()
    };
    let message = encode_call(
        "org.brahman.Embed.EmbedText",
        &json!({"texts": ["river stone"]}),
        &options,
        false,
        false,
    )?;
    let mut connection = Connection::connect(&mesh.socket()).await?;
    Ok(connection.exchange(&message).await?.typed::<Value>()?.value)
}

#[tokio::test]
async fn the_default_model_is_loaded_by_a_call_though_another_model_is_ready() {
    let base = Setup::new(&[shipped("broker"), shipped("profiles")]).context("prod").real_model();
    let base = base.env("BRAHMAN_DEVICE", "cpu").env("BRAHMAN_NVML", "/no/such/nvml.so");
    let cards = ["one", "two"].map(|name| real(&base, name));
    let mesh = base.with_cards(&cards).up().await;
    mesh.when(|modules| modules.iter().all(|module| module.state == ModuleState::Ready)).await;
    let unload = json!({"model": "model-one"});
    mesh.call("org.brahman.Profiles.Unload", unload).await.expect("unloaded");
    mesh.when_module("embed-one", ModuleState::Stopped).await;
    mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["a"]})).await.expect("answered");
    assert_eq!(mesh.module("embed-one").await.state, ModuleState::Ready, "it was woken");
    // What a person has stopped stays so, and another model answers.
    mesh.brahman_json(&["stop", "embed-one"]);
    mesh.when_module("embed-one", ModuleState::Stopped).await;
    mesh.call("org.brahman.Embed.EmbedText", json!({"texts": ["a"]})).await.expect("answered");
    assert_eq!(mesh.module("embed-one").await.state, ModuleState::Stopped);
    mesh.down();
}

#[tokio::test]
async fn a_switch_takes_little_longer_than_loading_the_new_model_does() {
    let base = Setup::new(&[shipped("broker"), shipped("profiles")]).context("prod").real_model();
    let base = base
        .env("BRAHMAN_DEVICE", "cpu")
        .env("BRAHMAN_NVML", "/no/such/nvml.so")
        .env("BRAHMAN_PROFILES_RESIDENCY_S", "0");
    let cards = ["shared", "one", "two"].map(|name| real(&base, name));
    let mesh = base.with_cards(&cards).up().await;
    mesh.when(|modules| modules.iter().all(|module| module.state == ModuleState::Ready)).await;
    define(
        &mesh,
        json!({"id": "one", "modules": ["embed-shared", "embed-one"], "pinned": ["embed-shared"]}),
    )
    .await;
    define(
        &mesh,
        json!({"id": "two", "modules": ["embed-shared", "embed-two"], "pinned": ["embed-shared"]}),
    )
    .await;
    activate(&mesh, "two").await.expect("activated");
    embed(&mesh, "two").await.expect("answered");
    // Its own load time, with its files in the page cache, from asking to the first answer.
    mesh.call("org.brahman.Profiles.Unload", json!({"model": "model-two"}))
        .await
        .expect("unloaded");
    let reason = mesh.module("embed-two").await.reason.unwrap_or_default();
    assert_eq!(reason, "stopped by module `profiles`");
    let begun = Instant::now();
    let told = mesh
        .call("org.brahman.Profiles.Preload", json!({"model": "model-two"}))
        .await
        .expect("loaded");
    embed(&mesh, "two").await.expect("answered");
    let load = begun.elapsed();
    assert_eq!(told["loaded"], json!(["embed-two"]));
    activate(&mesh, "one").await.expect("activated");
    embed(&mesh, "one").await.expect("answered");
    let shared = mesh.module("embed-shared").await.pid;
    let begun = Instant::now();
    mesh.call("org.brahman.Profiles.Deactivate", json!({})).await.expect("left");
    activate(&mesh, "two").await.expect("activated");
    embed(&mesh, "two").await.expect("answered");
    let switch = begun.elapsed();
    let bar = load.mul_f64(1.5) + Duration::from_millis(100);
    println!(
        "a switch from deactivation to the first answer: {switch:?}; loading alone: {load:?}; the bar: {bar:?}"
    );
    assert_eq!(mesh.module("embed-shared").await.pid, shared, "the shared one stays");
    // Two cores that others use as well: the figure above is what counts, and this is what would be
    // a fault.
    assert!(switch < bar * 3 + Duration::from_secs(1), "{switch:?}");
    let refused =
        fault(mesh.call("org.brahman.Profiles.Preload", json!({"model": "model-one"})).await);
    assert_eq!(refused.name, "org.brahman.Profiles.Forbidden", "{refused}");
    mesh.down();
}
